//! Objects in a real bucket, without a guest in between: whose they are, who wins, what
//! is left behind, and what happens when the store is away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use heyday_capabilities::blob::s3::S3Container;
use heyday_capabilities::blob::s3_config::S3Config;
use heyday_capabilities::blob::{
    BlobCode, BlobError, BlobLimits, Condition, Container as _, Presigned,
};
use heyday_capabilities::diagnosis::Health;
use reqwest::{Method, StatusCode};
use tokio::runtime::Handle;
use url::Url;

use crate::support::buckets::{self, LARGE, code, get, keys, race, write};
use crate::support::certificates::{Authority, Files};
use crate::support::postgres::until;
use crate::support::s3::Gateway;
use crate::support::s3_below_a_path::BelowAPath;
use crate::support::server::{Client, PATIENCE};

fn open(config: &S3Config) -> S3Container {
    let limits = BlobLimits::default();
    S3Container::new(config, false, limits, Handle::current()).expect("a configuration")
}

async fn put(container: &S3Container, key: &str, bytes: &'static [u8]) -> Result<(), BlobError> {
    let put = container.put(key.to_owned(), Bytes::from_static(bytes), Condition::Always);
    put.await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_all_there_is() {
    let Some(gateway) = Gateway::start() else {
        return;
    };
    let (one, two) = (open(&gateway.config("one")), open(&gateway.config("two/")));
    put(&one, "a", b"1").await.unwrap();
    put(&two, "a", b"2").await.unwrap();
    put(&two, "only", b"2").await.unwrap();
    assert_eq!(get(&one, "a").await.unwrap(), "1");
    assert_eq!(get(&two, "a").await.unwrap(), "2");
    assert_eq!(keys(&one, "").await, ["a"]);
    assert_eq!(keys(&two, "").await, ["a", "only"]);
    for key in [
        "only",
        "two/only",
        "/two/only",
        "../two/only",
        "%2e%2e/two/only",
        "%252e%252e/two/only",
        "..%2ftwo/only",
        "..;/two/only",
        ".%2e;x/two/only",
    ] {
        let found = code(get(&one, key).await);
        let expected = [BlobCode::NotFound, BlobCode::InvalidKey];
        assert!(expected.contains(&found), "{key}: {found:?}");
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
    let after = one.list(String::new(), 10, Some("../".to_owned())).await;
    assert_eq!(after.unwrap().objects.len(), 1);
    // What others put there that no plugin could name is not listed, and stops nothing.
    std::fs::create_dir(gateway.bucket().join("one/folder")).unwrap();
    assert_eq!(keys(&one, "").await, ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_writers_wins() {
    let Some(gateway) = Gateway::start() else {
        return;
    };
    let container = Arc::new(open(&gateway.config("race")));
    for (key, length) in [("small", 10), ("large", LARGE)] {
        race(&container, key, length, Condition::IfAbsent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_leaves_nothing() {
    let Some(gateway) = Gateway::start() else {
        return;
    };
    let container = open(&gateway.config(""));
    let large = || Bytes::from(vec![1; LARGE]);
    let begin = || container.write("given-up".to_owned(), Condition::Always);
    let mut writer = begin().await.unwrap();
    writer.write(large()).await.unwrap();
    // Parts of uploads lie in a folder of the gateway's own until these end.
    let parts = gateway.bucket().join(".sgwtmp");
    let files = || walk(&parts);
    until("a part is there", || files() > 0);
    drop(writer);
    until("the parts are gone", || files() == 0);
    // Nor does one that is refused at its end.
    let mut writer = container
        .write("refused".to_owned(), Condition::IfAbsent)
        .await
        .unwrap();
    writer.write(large()).await.unwrap();
    put(&container, "refused", b"first").await.unwrap();
    assert_eq!(code(writer.finish().await), BlobCode::PreconditionFailed);
    until("the parts are gone", || files() == 0);
    assert_eq!(keys(&container, "").await, ["refused"]);
}

/// How many files lie below a folder.
fn walk(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path()),
            _ => 1,
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_back_is_used_again() {
    let Some(mut gateway) = Gateway::start() else {
        return;
    };
    let container = open(&gateway.config("away"));
    put(&container, "a", b"1").await.unwrap();
    let big = Bytes::from(vec![3; 64 << 20]);
    container
        .put("big".to_owned(), big, Condition::Always)
        .await
        .unwrap();
    let mut reader = container.read("big".to_owned()).await.unwrap();
    let mut read = reader.read(1 << 20).await.unwrap().len();
    let mut writer = container
        .write("half".to_owned(), Condition::Always)
        .await
        .unwrap();
    writer.write(Bytes::from(vec![4; LARGE])).await.unwrap();
    gateway.emulator.kill();
    // In the middle of its parts.
    assert_eq!(code(writer.finish().await), BlobCode::Unavailable);
    for outcome in [
        code(get(&container, "a").await),
        code(put(&container, "b", b"2").await),
        code(container.list(String::new(), 1, None).await),
    ] {
        assert_eq!(outcome, BlobCode::Unavailable);
    }
    gateway.emulator.launch();
    assert_eq!(get(&container, "a").await.unwrap(), "1");
    assert_eq!(keys(&container, "").await, ["a", "big"]);
    // A reader goes on where it was, or fails so that the attempt is made again.
    loop {
        match reader.read(1 << 20).await {
            Ok(bytes) if bytes.is_empty() => {
                assert_eq!(read, 64 << 20);
                break;
            }
            Ok(bytes) => {
                assert!(bytes.iter().all(|byte| *byte == 3));
                read += bytes.len();
            }
            Err(error) => {
                assert_eq!(error.code, BlobCode::Unavailable, "{error}");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_store_is_left_and_fills_only_its_own_limit() {
    let (Some(frozen), Some(other)) = (Gateway::start(), Gateway::start()) else {
        return;
    };
    let mut config = frozen.config("");
    config.connections = 2;
    let container = open(&config);
    put(&container, "a", b"1").await.unwrap();
    buckets::frozen(container, &open(&other.config("")), |stop| {
        let signal = if stop { libc::SIGSTOP } else { libc::SIGCONT };
        frozen.emulator.signal(signal);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presigned_address_is_good_for_one_thing_and_for_its_time() {
    let Some(gateway) = Gateway::start() else {
        return;
    };
    let (ours, others) = (
        open(&gateway.config("ours")),
        open(&gateway.config("others")),
    );
    put(&ours, "a/ü b", b"1").await.unwrap();
    put(&others, "a/ü b", b"2").await.unwrap();
    let presign = async |key: &str, what, seconds| {
        let lasts = Duration::from_secs(seconds);
        let address = ours.presign(key.to_owned(), what, lasts).await.unwrap();
        assert!(!address.contains(&gateway.secret), "{address}");
        Url::parse(&address).unwrap()
    };
    // Whoever has it needs nothing else.
    let client = Client::new("http://localhost", "").http;
    let status = async |method: Method, url: Url| {
        let mut request = client.request(method.clone(), url);
        if method == Method::PUT {
            request = request.body("new");
        }
        request.send().await.unwrap().status()
    };
    let read = presign("a/ü b", Presigned::Get, 60).await;
    let answer = client.get(read.clone()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.bytes().await.unwrap(), "1");
    // Another object, another method, a longer time, another signature: nothing else.
    let mut elsewhere = read.clone();
    elsewhere.set_path(&read.path().replace("ours", "others"));
    let text = read.as_str();
    assert!(text.contains("Expires=60&"), "{text}");
    let longer = Url::parse(&text.replace("Expires=60&", "Expires=600&")).unwrap();
    let (start, signature) = text.rsplit_once("Signature=").unwrap();
    let turned: String = signature.chars().rev().collect();
    let forged = Url::parse(&format!("{start}Signature={turned}")).unwrap();
    for (method, url) in [
        (Method::GET, elsewhere),
        (Method::PUT, read.clone()),
        (Method::DELETE, read.clone()),
        (Method::GET, longer),
        (Method::GET, forged),
    ] {
        let told = format!("{method} {url}");
        assert_eq!(status(method, url).await, StatusCode::FORBIDDEN, "{told}");
    }
    let write = presign("a/new", Presigned::Put, 60).await;
    assert_eq!(status(Method::PUT, write.clone()).await, StatusCode::OK);
    assert_eq!(get(&ours, "a/new").await.unwrap(), "new");
    assert_eq!(status(Method::GET, write).await, StatusCode::FORBIDDEN);
    // Where no object could be, nor one through a binding that only reads.
    let lasts = Duration::from_secs(60);
    let below = ours.presign("a/new/x".to_owned(), Presigned::Put, lasts);
    assert_eq!(code(below.await), BlobCode::InvalidKey);
    let config = gateway.config("ours");
    let limits = BlobLimits::default();
    let reader = S3Container::new(&config, true, limits, Handle::current()).unwrap();
    let denied = reader.presign("a/new".to_owned(), Presigned::Put, lasts);
    assert_eq!(code(denied.await), BlobCode::CapabilityDenied);
    // It ends.
    let short = presign("a/new", Presigned::Get, 1).await;
    let deadline = Instant::now() + PATIENCE;
    while status(Method::GET, short.clone()).await != StatusCode::FORBIDDEN {
        assert!(Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(&ours, "a/ü b").await.unwrap(), "1");
    assert_eq!(get(&others, "a/ü b").await.unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_read_again_and_never_told() {
    let Some(gateway) = Gateway::start() else {
        return;
    };
    std::fs::write(gateway.secret_file(), "not-the-secret").unwrap();
    let container = open(&gateway.config(""));
    for outcome in [
        put(&container, "a", b"1").await.map(|()| String::new()),
        container
            .list(String::new(), 1, None)
            .await
            .map(|_| String::new()),
    ] {
        let error = outcome.expect_err("a wrong secret");
        assert_eq!(error.code, BlobCode::Unavailable);
        assert!(error.message.contains("credentials"), "{error}");
        assert!(!format!("{error:?}").contains("not-the-secret"));
    }
    std::fs::write(gateway.secret_file(), &gateway.secret).unwrap();
    put(&container, "a", b"1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stores_certificate_is_verified() {
    let authority = Authority::new("s3");
    let files = Files::new(&authority);
    let certificate = authority.issue("server");
    let Some(gateway) = Gateway::start_with(Some((&certificate.pem, &certificate.key))) else {
        return;
    };
    let mut config = gateway.config("");
    let stranger = open(&config);
    assert_eq!(code(get(&stranger, "a").await), BlobCode::Unavailable);
    config.tls_server_ca_cert_path = Some(files.ca());
    let container = open(&config);
    put(&container, "a", b"1").await.unwrap();
    assert_eq!(keys(&container, "").await, ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_below_a_path_is_one_as_well() {
    let Some(gateway) = Gateway::start() else {
        return;
    };
    let front = BelowAPath::start(&gateway.address(), &gateway.secret).await;
    let mut config = gateway.config("below");
    config.endpoint = Some(front.endpoint.clone());
    let container = open(&config);
    let key = || "a/ü b+c".to_owned();
    put(&container, &key(), b"0123456789").await.unwrap();
    let part = container.get(key(), 2, 3).await.unwrap();
    assert_eq!(part, "234");
    let found = container.head(key()).await.unwrap();
    assert_eq!(keys(&container, "a/").await, [key()]);
    let after = container.list(String::new(), 10, Some("a".to_owned()));
    let after = after.await.unwrap().objects;
    assert_eq!(after[0].etag, found.etag);
    // Conditions, of what is small and of what goes in parts.
    let large = || Bytes::from(vec![1; LARGE]);
    let write = async |key: &str, bytes, condition| {
        let mut writer = container.write(key.to_owned(), condition).await?;
        writer.write(bytes).await?;
        writer.finish().await
    };
    let written = write("large", large(), Condition::IfAbsent).await.unwrap();
    assert_eq!(container.head("large".to_owned()).await.unwrap(), written);
    let mut reader = container.read("large".to_owned()).await.unwrap();
    let mut read = 0;
    loop {
        let bytes = reader.read(1 << 20).await.unwrap();
        if bytes.is_empty() {
            break;
        }
        assert!(bytes.iter().all(|byte| *byte == 1));
        read += bytes.len();
    }
    assert_eq!(read, LARGE);
    let again = Condition::IfMatch(written.etag);
    write("large", large(), again.clone()).await.unwrap();
    let mut writer = container
        .write("large".to_owned(), again.clone())
        .await
        .unwrap();
    writer.write(large()).await.unwrap();
    write("large", Bytes::new(), Condition::Always)
        .await
        .unwrap();
    assert_eq!(code(writer.finish().await), BlobCode::PreconditionFailed);
    let put_again = container.put(key(), Bytes::new(), Condition::IfAbsent);
    assert_eq!(code(put_again.await), BlobCode::PreconditionFailed);
    let mut writer = container.write(key(), Condition::Always).await.unwrap();
    writer.write(large()).await.unwrap();
    drop(writer);
    let parts = gateway.bucket().join(".sgwtmp");
    until("the parts are gone", || walk(&parts) == 0);
    // Whoever has an address needs nothing else, and it is good for one thing.
    let lasts = Duration::from_secs(60);
    let presign = async |what| {
        let address = container.presign("a/new".to_owned(), what, lasts).await;
        let address = address.unwrap();
        assert!(address.starts_with(&front.endpoint), "{address}");
        address
    };
    let client = Client::new("http://localhost", "").http;
    let write = presign(Presigned::Put).await;
    let answer = client.put(&write).body("new").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let read = presign(Presigned::Get).await;
    let answer = client.get(&read).send().await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), "new");
    let elsewhere = read.replace("a/new", "large");
    let answer = client.get(&elsewhere).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    for key in [key(), "large".to_owned(), "a/new".to_owned()] {
        container.delete(key).await.unwrap();
    }
    assert!(keys(&container, "").await.is_empty());
    // Another secret is refused by the front, whatever is asked.
    std::fs::write(gateway.secret_file(), "another-secret").unwrap();
    let error = put(&container, "x", b"1").await.expect_err("another");
    assert!(error.message.contains("credentials"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_looks_at_no_conditions_gets_no_write_under_one() {
    let Some(gateway) = Gateway::start() else {
        return;
    };
    let front = BelowAPath::start_without_conditions(&gateway.address(), &gateway.secret).await;
    let mut config = gateway.config("careless");
    config.endpoint = Some(front.endpoint.clone());
    let container = open(&config);
    put(&container, "there", b"1").await.unwrap();
    let etag = container.head("there".to_owned()).await.unwrap().etag;
    for key in ["there", "new"] {
        for condition in [Condition::IfAbsent, Condition::IfMatch(etag.clone())] {
            let bytes = Bytes::from_static(b"2");
            let put = container.put(key.to_owned(), bytes, condition.clone());
            let told = format!("{key} {condition:?}");
            assert_eq!(code(put.await), BlobCode::Unsupported, "{told}");
            let write = container.write(key.to_owned(), condition);
            assert_eq!(code(write.await), BlobCode::Unsupported, "{told}");
        }
    }
    // What is there is as it was, and nothing is left of what was tried.
    assert_eq!(get(&container, "there").await.unwrap(), "1");
    assert_eq!(keys(&container, "").await, ["there"]);
    assert_eq!(walk(&gateway.bucket().join(".sgwtmp")), 0);
    put(&container, "there", b"3").await.unwrap();
    let mut writer = container
        .write("large".to_owned(), Condition::Always)
        .await
        .unwrap();
    writer.write(Bytes::from(vec![1; LARGE])).await.unwrap();
    writer.finish().await.unwrap();
    // An operator is told.
    let findings = container.diagnose().await;
    let rights = findings.iter().find(|it| it.check == "rights").unwrap();
    assert_eq!(rights.status, Health::Warning, "{rights:?}");
    assert!(rights.found.contains("unsupported"), "{rights:?}");
    let advice = rights.advice.as_deref().unwrap_or_default();
    assert!(advice.contains("If-None-Match"), "{rights:?}");
    assert_eq!(keys(&container, "").await, ["large", "there"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_conditions_are_kept_is_tried_again_where_it_could_not_be_told() {
    let Some(mut gateway) = Gateway::start() else {
        return;
    };
    let container = open(&gateway.config("tried"));
    let make = || {
        let bytes = Bytes::from_static(b"1");
        container.put("a".to_owned(), bytes, Condition::IfAbsent)
    };
    gateway.emulator.kill();
    assert_eq!(code(make().await), BlobCode::Unavailable);
    gateway.emulator.launch();
    make().await.unwrap();
    assert_eq!(code(make().await), BlobCode::PreconditionFailed);
    assert_eq!(keys(&container, "").await, ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_upload_whose_answer_is_lost_is_never_taken_for_anothers_write() {
    let Some(gateway) = Gateway::start() else {
        return;
    };
    let front = BelowAPath::start(&gateway.address(), &gateway.secret).await;
    let mut config = gateway.config("lost");
    config.endpoint = Some(front.endpoint.clone());
    let container = open(&config);
    // Whether conditions are kept is tried at the first one, by ends of uploads.
    let first = write(&container, "first", Bytes::new(), Condition::IfAbsent).await;
    first.unwrap();
    let large = |byte| Bytes::from(vec![byte; LARGE]);
    // Nobody can tell whose an object is that is there then: it is not said to be another's.
    front.lose(1);
    let lost = write(&container, "once", large(1), Condition::IfAbsent).await;
    assert_eq!(code(lost), BlobCode::Unavailable);
    assert_eq!(front.losing(), 0);
    assert!(get(&container, "once").await.unwrap() == large(1));
    let condition = Condition::IfMatch(container.head("once".to_owned()).await.unwrap().etag);
    front.lose(1);
    let lost = write(&container, "once", large(2), condition).await;
    assert_eq!(code(lost), BlobCode::Unavailable);
    assert_eq!(front.losing(), 0);
    assert!(get(&container, "once").await.unwrap() == large(2));
    // Without a condition it is asked again, and learns that it was done.
    for (times, key) in [(1, "always"), (2, "twice")] {
        front.lose(times);
        let written = write(&container, key, large(3), Condition::Always).await;
        let written = written.unwrap();
        assert_eq!(front.losing(), 0);
        assert_eq!(container.head(key.to_owned()).await.unwrap(), written);
        assert!(get(&container, key).await.unwrap() == large(3));
    }
    let all = ["always", "first", "once", "twice"];
    assert_eq!(keys(&container, "").await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_uploads_take_the_places_and_the_room_of_their_binding() {
    let Some(gateway) = Gateway::start() else {
        return;
    };
    let front = BelowAPath::start(&gateway.address(), &gateway.secret).await;
    let mut config = gateway.config("parts");
    config.endpoint = Some(front.endpoint.clone());
    // One place, and room for one part.
    config.connections = 1;
    let container = open(&config);
    let begin = async |key: &str| {
        let begun = container.write(key.to_owned(), Condition::Always).await;
        begun.unwrap()
    };
    let (mut one, mut two) = (begin("one").await, begin("two").await);
    let all = |byte: u8| Bytes::from(vec![byte; 20 << 20]);
    let written = futures::future::try_join(
        async {
            one.write(all(1)).await?;
            one.finish().await
        },
        async {
            two.write(all(2)).await?;
            two.finish().await
        },
    );
    written.await.unwrap();
    for (key, byte) in [("one", 1), ("two", 2)] {
        assert!(get(&container, key).await.unwrap() == all(byte), "{key}");
    }
    assert_eq!(front.most(), 1);
    // Whoever collects a part holds up the next, but nobody who writes little.
    let (mut one, mut two, mut small) = (begin("a").await, begin("b").await, begin("small").await);
    one.write(Bytes::from(vec![1; 2 << 20])).await.unwrap();
    let mut waits = two.write(Bytes::from(vec![2; 2 << 20]));
    assert!((&mut waits).now_or_never().is_none());
    small.write(Bytes::from(vec![3; 1 << 20])).await.unwrap();
    small.finish().await.unwrap();
    drop(one);
    waits.await.unwrap();
    two.finish().await.unwrap();
    assert_eq!(keys(&container, "").await, ["b", "one", "small", "two"]);
}
