//! Objects in a bucket of Google Cloud Storage, without a guest in between: whose they are,
//! who wins, what is asked of the store, and what happens when it fails. The store is an
//! emulator; the rest of Google, and what the emulator has not, is a stand-in's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heyday_capabilities::blob::gcs::GcsContainer;
use heyday_capabilities::blob::gcs_config::GcsConfig;
use heyday_capabilities::blob::{
    BlobCode, BlobLimits, Condition, Container as _, Metadata, Presigned,
};
use reqwest::{Method, StatusCode};
use tokio::runtime::Handle;
use url::Url;

use crate::support::buckets::{self, LARGE, code, get, keys, race, write};
use crate::support::certificates::{Authority, Files};
use crate::support::front::Front;
use crate::support::google_stand_in::{ACCOUNT, Trouble};
use crate::support::google_storage::GoogleStorage;
use crate::support::postgres::until;
use crate::support::server::Client;

fn open(config: &GcsConfig) -> GcsContainer {
    let limits = BlobLimits::default();
    GcsContainer::new(config, false, limits, Handle::current()).expect("a configuration")
}

async fn put(container: &GcsContainer, key: &str, bytes: &'static [u8]) -> Metadata {
    let put = container.put(key.to_owned(), Bytes::from_static(bytes), Condition::Always);
    put.await.unwrap()
}

/// Bytes that are others at the begin of each part.
fn bytes(length: usize) -> Bytes {
    let some: Vec<u8> = (0..1_021).map(|at| (at * 7 / 5) as u8).collect();
    let mut all = some.repeat(length / some.len() + 1);
    all.truncate(length);
    all.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_all_there_is() {
    let Some(storage) = GoogleStorage::start() else {
        return;
    };
    let (one, two) = (open(&storage.config("one")), open(&storage.config("two/")));
    put(&one, "a", b"1").await;
    put(&two, "a", b"2").await;
    put(&two, "only", b"2").await;
    assert_eq!(get(&one, "a").await.unwrap(), "1");
    assert_eq!(get(&two, "a").await.unwrap(), "2");
    assert_eq!(keys(&one, "").await, ["a"]);
    assert_eq!(keys(&two, "").await, ["a", "only"]);
    for key in [
        "only",
        "two/only",
        "../two/only",
        "%2e%2e/two/only",
        "%252e%252e/two/only",
        "..%2ftwo/only",
        "..;/two/only",
        ".%2e;x/two/only",
        "a?alt=json",
        "a#x",
    ] {
        assert_eq!(code(get(&one, key).await), BlobCode::NotFound, "{key}");
    }
    // A listing's text is a text, wherever it stands.
    for prefix in [
        "../",
        "../two",
        "/",
        "%",
        "&prefix=two/",
        "?",
        "\u{0}",
        "x\r\nHost: y",
    ] {
        assert!(keys(&one, prefix).await.is_empty(), "{prefix:?}");
    }
    for after in ["../", "\u{0}", "A\u{7}b"] {
        let page = one.list(String::new(), 10, Some(after.to_owned())).await;
        assert_eq!(page.unwrap().objects.len(), 1, "{after:?}");
    }
    // What others put there that no plugin could name is not listed, and stops nothing.
    let whole = open(&storage.config(""));
    let key = "one/a?&=+ ü%2F~b".to_owned();
    let odd = Bytes::from_static(b"odd");
    let written = whole.put(key.clone(), odd, Condition::Always).await;
    assert_eq!(whole.head(key).await, written);
    assert_eq!(keys(&one, "").await, ["a", "a?&=+ ü%2F~b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_whatever_is_listed() {
    let Some(storage) = GoogleStorage::start() else {
        return;
    };
    let container = open(&storage.config("pages"));
    let all = ["a", "a-b", "a.b", "a0", "b/c", "b/d", "ü", "\u{10000}"];
    for key in all {
        put(&container, key, b"x").await;
    }
    for limit in [1, 2, 3, 1_000] {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = container.list(String::new(), limit, after).await.unwrap();
            assert!(page.objects.len() <= limit as usize);
            found.extend(page.objects.into_iter().map(|object| object.key));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, all, "{limit}");
    }
    assert_eq!(keys(&container, "a").await, ["a", "a-b", "a.b", "a0"]);
    assert_eq!(keys(&container, "b/").await, ["b/c", "b/d"]);
    let after = container.list("b/".into(), 10, Some("b/bzz".into())).await;
    assert_eq!(after.unwrap().objects.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_writers_wins() {
    let Some(storage) = GoogleStorage::start() else {
        return;
    };
    let container = Arc::new(open(&storage.config("race")));
    for (key, length) in [("small", 10), ("large", LARGE), ("parts", 8 << 20)] {
        for over in [false, true] {
            let condition = if over {
                let found = container.head(key.to_owned()).await.unwrap();
                Condition::IfMatch(found.etag)
            } else {
                Condition::IfAbsent
            };
            race(&container, key, length, condition).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_is_decided_when_all_is_there() {
    let Some(storage) = GoogleStorage::start() else {
        return;
    };
    let container = open(&storage.config("conditions"));
    let first = put(&container, "a", b"first").await;
    // Whoever looked before the other wrote is told at the end.
    for length in [10, LARGE] {
        let condition = Condition::IfMatch(container.head("a".into()).await.unwrap().etag);
        let mut writer = container.write("a".into(), condition).await.unwrap();
        writer.write(bytes(length)).await.unwrap();
        put(&container, "a", b"second").await;
        assert_eq!(code(writer.finish().await), BlobCode::PreconditionFailed);
        let mut writer = container
            .write(format!("new-{length}"), Condition::IfAbsent)
            .await
            .unwrap();
        writer.write(bytes(length)).await.unwrap();
        put(&container, &format!("new-{length}"), b"second").await;
        assert_eq!(code(writer.finish().await), BlobCode::PreconditionFailed);
    }
    assert_eq!(get(&container, "a").await.unwrap(), "second");
    // What no object has, or what would be more than one, is nobody's.
    for etag in [first.etag.as_str(), "0", "", "*", "\"1\"", "1 ", "-1"] {
        for key in ["a", "missing"] {
            let condition = Condition::IfMatch(etag.to_owned());
            let put = container.put(key.to_owned(), Bytes::new(), condition);
            assert_eq!(code(put.await), BlobCode::PreconditionFailed, "{etag}");
        }
    }
    until("no upload is left", || storage.google.uploads() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_one_request_and_a_write_few() {
    let Some(storage) = GoogleStorage::start() else {
        return;
    };
    let container = open(&storage.config("few"));
    put(&container, "a", b"0123456789").await;
    storage.google.requests();
    let count = |what: &str, most: usize| {
        let requests = storage.google.requests();
        assert_eq!(requests.len(), most, "{what}: {requests:?}");
        let secret = |line: &String| line.contains("stand-in-token");
        assert!(!requests.iter().any(secret), "{requests:?}");
    };
    assert_eq!(get(&container, "a").await.unwrap(), "0123456789");
    count("get", 1);
    let part = container.get("a".into(), 2, 3).await.unwrap();
    assert_eq!(part, "234");
    count("get-range", 1);
    let mut reader = container.read("a".into()).await.unwrap();
    assert_eq!(reader.read(100).await.unwrap(), "0123456789");
    count("read", 1);
    let found = container.head("a".into()).await.unwrap();
    assert_eq!(*reader.metadata(), found);
    count("head", 1);
    // A look below it, and the write.
    put(&container, "a", b"1").await;
    count("put", 2);
    write(&container, "large", bytes(LARGE), Condition::Always)
        .await
        .unwrap();
    // A look at its begin and one at its end; a session, and two parts.
    count("write", 5);
    container.delete("a".into()).await.unwrap();
    count("delete", 1);
    // Ranges that cannot be, by the store's word.
    put(&container, "empty", b"").await;
    for (key, offset, expected) in [
        ("large", LARGE as u64, BlobCode::InvalidRange),
        ("large", u64::MAX, BlobCode::InvalidRange),
        ("empty", 0, BlobCode::InvalidRange),
        ("a", 0, BlobCode::NotFound),
    ] {
        let got = container.get(key.to_owned(), offset, 5).await;
        assert_eq!(code(got), expected, "{key} {offset}");
    }
    assert_eq!(get(&container, "empty").await.unwrap(), "");
    let last = container.get("large".into(), LARGE as u64 - 2, 100).await;
    assert_eq!(last.unwrap(), bytes(LARGE)[LARGE - 2..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_leaves_nothing() {
    let Some(storage) = GoogleStorage::start() else {
        return;
    };
    let container = open(&storage.config(""));
    let mut writer = container
        .write("given-up".to_owned(), Condition::Always)
        .await
        .unwrap();
    writer.write(bytes(LARGE)).await.unwrap();
    assert_eq!(storage.google.uploads(), 1);
    drop(writer);
    until("the upload is gone", || storage.google.uploads() == 0);
    assert!(keys(&container, "").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_on_the_way_changes_nothing() {
    use Trouble::{Busy, Cut, Deleted, Half, Lost, Written};
    let Some(storage) = GoogleStorage::start() else {
        return;
    };
    let container = open(&storage.config("trouble"));
    let google = &storage.google;
    // Three parts: what is not kept is sent again, what was done is not done again.
    for (number, (troubles, length)) in [
        (&[Half, Half, Lost][..], 17 << 20),
        (&[Lost, Lost], 17 << 20),
        (&[Busy, Lost, Half], 17 << 20),
        // Its end has no bytes.
        (&[Half, Lost, Lost, Lost], 16 << 20),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("large-{number}");
        google.trouble(troubles);
        let all = bytes(length);
        let written = write(&container, &key, all.clone(), Condition::IfAbsent).await;
        let written = written.unwrap();
        assert!(google.is_calm(), "{troubles:?}");
        assert_eq!(container.head(key.clone()).await.unwrap(), written);
        assert!(get(&container, &key).await.unwrap() == all, "{troubles:?}");
    }
    // A read goes on where it was.
    let (key, all) = ("large-0", bytes(17 << 20));
    google.trouble(&[Cut, Cut]);
    let mut reader = container.read(key.to_owned()).await.unwrap();
    let mut read = Vec::new();
    loop {
        let bytes = reader.read(1 << 20).await.unwrap();
        if bytes.is_empty() {
            break;
        }
        read.extend_from_slice(&bytes);
    }
    assert!(read == all, "{} bytes", read.len());
    assert!(google.is_calm());
    google.trouble(&[Cut]);
    let part = container.get(key.to_owned(), 5, 4 << 20).await.unwrap();
    assert!(part == all[5..5 + (4 << 20)]);
    // Never with another object.
    google.trouble(&[Cut]);
    let mut reader = container.read(key.to_owned()).await.unwrap();
    put(&container, key, b"another").await;
    let failed = loop {
        match reader.read(1 << 20).await {
            Ok(bytes) => assert!(!bytes.is_empty(), "it ends early"),
            Err(error) => break error,
        }
    };
    assert_eq!(failed.code, BlobCode::Unavailable, "{failed}");
    // What may be done again is; what may not is told.
    google.trouble(&[Written]);
    assert_eq!(put(&container, "again", b"1").await.size, 1);
    google.trouble(&[Written]);
    let once = container.put("once".into(), Bytes::new(), Condition::IfAbsent);
    assert_eq!(code(once.await), BlobCode::Unavailable);
    google.trouble(&[Deleted]);
    container.delete("again".into()).await.unwrap();
    assert_eq!(
        code(container.delete("again".into()).await),
        BlobCode::NotFound
    );
    assert!(google.is_calm());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_back_is_used_again() {
    let Some(mut storage) = GoogleStorage::start() else {
        return;
    };
    let container = open(&storage.config("away"));
    put(&container, "a", b"1").await;
    storage.emulator.kill();
    for outcome in [
        code(get(&container, "a").await),
        code(container.head("a".into()).await),
        code(container.list(String::new(), 1, None).await),
        code(write(&container, "b", bytes(LARGE), Condition::Always).await),
    ] {
        assert_eq!(outcome, BlobCode::Unavailable);
    }
    storage.emulator.launch();
    put(&container, "a", b"2").await;
    assert_eq!(get(&container, "a").await.unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_store_is_left_and_fills_only_its_own_limit() {
    let (Some(frozen), Some(other)) = (GoogleStorage::start(), GoogleStorage::start()) else {
        return;
    };
    let mut config = frozen.config("");
    config.connections = 2;
    let container = open(&config);
    put(&container, "a", b"1").await;
    buckets::frozen(container, &open(&other.config("")), |stop| {
        let signal = if stop { libc::SIGSTOP } else { libc::SIGCONT };
        frozen.emulator.signal(signal);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_signs_in_is_let_in() {
    let Some(storage) = GoogleStorage::start() else {
        return;
    };
    // The machine's account has no key here, so IAM signs for it.
    let (key, machine) = (
        open(&storage.config("who")),
        open(&storage.machines_config("who")),
    );
    put(&key, "a", b"1").await;
    assert_eq!(get(&machine, "a").await.unwrap(), "1");
    let client = Client::new("http://localhost", "").http;
    for container in [&key, &machine] {
        let presign = async |what| {
            let lasts = Duration::from_secs(60);
            let address = container.presign("b/ü ?&#".into(), what, lasts).await;
            let address = address.unwrap();
            assert!(address.contains(&ACCOUNT.replace('@', "%40")), "{address}");
            Url::parse(&address).unwrap()
        };
        let write = presign(Presigned::Put).await;
        let answer = client.put(write).body("new").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let read = presign(Presigned::Get).await;
        let answer = client.get(read.clone()).send().await.unwrap();
        assert_eq!(answer.bytes().await.unwrap(), "new");
        let status = async |method: Method, url: Url| {
            client.request(method, url).send().await.unwrap().status()
        };
        let longer = read.as_str().replace("Expires=60", "Expires=600");
        let mut elsewhere = read.clone();
        elsewhere.set_path(&read.path().replace("/b/", "/c/"));
        for (method, url) in [
            (Method::GET, elsewhere),
            (Method::PUT, read.clone()),
            (Method::DELETE, read.clone()),
            (Method::GET, Url::parse(&longer).unwrap()),
        ] {
            let told = format!("{method} {url}");
            assert_eq!(status(method, url).await, StatusCode::FORBIDDEN, "{told}");
        }
        let below = Duration::from_secs(60);
        let below = container.presign("a/x".into(), Presigned::Put, below);
        assert_eq!(code(below.await), BlobCode::InvalidKey);
    }
    // A token that was taken back is asked for again.
    storage.google.take_tokens_back();
    assert_eq!(get(&key, "a").await.unwrap(), "1");
    assert_eq!(get(&machine, "a").await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_read_again_and_never_told() {
    let Some(storage) = GoogleStorage::start() else {
        return;
    };
    let path = storage.credentials_file();
    let good = storage.google.credentials();
    let container = open(&storage.config(""));
    let mut another = good.clone();
    another["client_email"] = "somebody@else.example".into();
    let mut unusable = good.clone();
    unusable["private_key"] = "hunter2hunter2".into();
    for wrong in [
        another.to_string(),
        unusable.to_string(),
        r#"{"type":"external_account","secret":"hunter2hunter2"}"#.to_owned(),
        "hunter2hunter2".to_owned(),
        String::new(),
    ] {
        std::fs::write(&path, &wrong).unwrap();
        let presign = container.presign("a".into(), Presigned::Get, Duration::from_secs(60));
        let mut errors = vec![container.list(String::new(), 1, None).await.map(drop)];
        if !wrong.contains("somebody") {
            errors.push(presign.await.map(drop));
        }
        for error in errors {
            let error = error.expect_err(&wrong);
            assert_eq!(error.code, BlobCode::Unavailable);
            assert!(error.message.contains("credentials"), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
    // What gcloud keeps of a person signs no addresses.
    let person = r#"{"type":"authorized_user","client_id":"i","client_secret":"s",
        "refresh_token":"r"}"#;
    std::fs::write(&path, person).unwrap();
    let presign = container.presign("a".into(), Presigned::Get, Duration::from_secs(60));
    assert_eq!(code(presign.await), BlobCode::Unsupported);
    std::fs::write(&path, good.to_string()).unwrap();
    put(&container, "a", b"1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stores_certificate_is_verified() {
    let Some(storage) = GoogleStorage::start() else {
        return;
    };
    let authority = Authority::new("gcs");
    let files = Files::new(&authority);
    let upstream = storage.google.address.to_string();
    let front = Front::of_bytes(&upstream, &authority.issue("server")).await;
    let mut config = storage.config("");
    let port = front.address().rsplit_once(':').unwrap().1.to_owned();
    config.endpoint = Some(format!("https://localhost:{port}"));
    let stranger = open(&config);
    assert_eq!(code(get(&stranger, "a").await), BlobCode::Unavailable);
    config.tls_server_ca_cert_path = Some(files.ca());
    let container = open(&config);
    put(&container, "a", b"1").await;
    assert_eq!(keys(&container, "").await, ["a"]);
}
