//! Against a stand-in: Secret Manager itself cannot be had on a machine of one's own. It
//! says what Google documents of `versions.access`, of the metadata server, and of the
//! exchange of a signed token.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Made for these tests; it opens nothing.
const KEY: &str = include_str!("gcp_tests_key.txt");

#[derive(Debug, Clone, Default)]
struct Asked {
    line: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Asked {
    fn is_token(&self) -> bool {
        !self.line.contains(":access ")
    }
}

/// Answers requests, and remembers them.
#[derive(Clone, Default)]
struct SecretManagerStandIn {
    asked: Arc<Mutex<Vec<Asked>>>,
    /// What `:access` answers: status and body; with the status 0 nothing, ever.
    answer: Arc<Mutex<(u16, Value)>>,
    /// Tokens given out.
    tokens: Arc<Mutex<u32>>,
}

impl SecretManagerStandIn {
    async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stand_in = Self::default();
        let inside = stand_in.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let inside = inside.clone();
                tokio::spawn(async move { inside.connection(stream).await });
            }
        });
        (stand_in, address)
    }

    async fn connection(&self, mut stream: TcpStream) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        let mut lines = head.lines();
        let mut asked = Asked {
            line: lines.next()?.to_owned(),
            ..Asked::default()
        };
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ")?;
            asked.headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length = asked.headers.get("content-length");
        let mut body = vec![0; length.map_or(0, |it| it.parse().expect("a length"))];
        stream.read_exact(&mut body).await.ok()?;
        asked.body = String::from_utf8(body).ok()?;
        let (status, answer) = if asked.is_token() {
            let mut tokens = self.tokens.lock().expect("no panic");
            *tokens += 1;
            let token = format!("token-{tokens}");
            (
                200,
                json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" }),
            )
        } else {
            self.answer.lock().expect("no panic").clone()
        };
        self.asked.lock().expect("no panic").push(asked);
        if status == 0 {
            std::future::pending::<()>().await;
        }
        let answer = answer.to_string();
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
            answer.len()
        );
        stream.write_all(answer.as_bytes()).await.ok()
    }

    fn answers(&self, status: u16, body: Value) {
        *self.answer.lock().expect("no panic") = (status, body);
    }

    fn holds(&self, value: &str) {
        self.answers(200, payload(value));
    }

    fn refuses(&self, status: u16, word: &str) {
        let error = json!({ "code": status, "status": word, "message": "hunter2hunter2" });
        self.answers(status, json!({ "error": error }));
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }
}

fn payload(value: &str) -> Value {
    let checksum = CRC32C.checksum(value.as_bytes()).to_string();
    json!({ "name": "projects/1/secrets/s/versions/1",
        "payload": { "data": STANDARD.encode(value), "dataCrc32c": checksum } })
}

fn config(address: SocketAddr, further: Value) -> GcpConfig {
    let mut config = json!({
        "project": "my-project",
        "endpoint": format!("http://{address}"),
        "metadata_endpoint": format!("http://{address}"),
    });
    let further = further.as_object().expect("an object").clone();
    config.as_object_mut().expect("an object").extend(further);
    serde_json::from_value(config).expect("a configuration")
}

fn manager(address: SocketAddr, further: Value) -> SecretManager {
    SecretManager::new(&config(address, further), Handle::current()).expect("fine")
}

async fn value(manager: &SecretManager, entry: &str) -> String {
    let secret = manager.access(entry).await.expect("an answer");
    let secret = secret.expect("a secret");
    String::from_utf8(secret.expose().to_vec()).expect("a text")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_signs_in_and_a_secret_is_kept_for_its_time() {
    let (server, address) = SecretManagerStandIn::start().await;
    server.holds("first");
    let kept = Arc::new(manager(address, json!({})));
    let both = tokio::join!(value(&kept, "api-key"), value(&kept, "api-key"));
    assert_eq!(both, ("first".to_owned(), "first".to_owned()));
    let asked = server.asked();
    assert_eq!(asked.len(), 2, "a token and one request: {asked:?}");
    assert_eq!(
        asked[0].line,
        "GET /computeMetadata/v1/instance/service-accounts/default/token HTTP/1.1"
    );
    assert_eq!(asked[0].headers["metadata-flavor"], "Google");
    assert_eq!(
        asked[1].line,
        "GET /v1/projects/my-project/secrets/api-key/versions/latest:access HTTP/1.1"
    );
    assert_eq!(asked[1].headers["authorization"], "Bearer token-1");
    server.holds("rotated");
    assert_eq!(value(&kept, "api-key").await, "first");
    // Each is kept by itself, and a version is what was asked for.
    assert_eq!(value(&kept, "api-key/versions/7").await, "rotated");
    assert!(server.asked()[2].line.contains("/versions/7:access"));
    let always = manager(
        address,
        json!({ "cache_ttl_ms": 0, "location": "europe-west3" }),
    );
    assert_eq!(value(&always, "api-key").await, "rotated");
    let line = server.asked().pop().expect("asked").line;
    assert!(
        line.contains("/projects/my-project/locations/europe-west3/secrets/"),
        "{line}"
    );
    server.holds("again");
    assert_eq!(value(&always, "api-key").await, "again");
    // Over its time, what is not there any more is not answered.
    let short = manager(address, json!({ "cache_ttl_ms": 1 }));
    assert_eq!(value(&short, "api-key").await, "again");
    server.refuses(503, "UNAVAILABLE");
    while short.access("api-key").await.is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_signs_in_with_its_key() {
    let (server, address) = SecretManagerStandIn::start().await;
    server.holds("value");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key.json");
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{KEY}-----END PRIVATE KEY-----\n");
    let token_uri = format!("http://{address}/token");
    let write = |key: Value| std::fs::write(&path, key.to_string()).expect("written");
    let key = json!({
        "type": "service_account", "client_email": "heyday@my-project.example",
        "private_key_id": "k1", "private_key": pem, "token_uri": token_uri,
    });
    write(key.clone());
    let further = json!({ "credentials_file": path, "cache_ttl_ms": 0 });
    assert_eq!(
        value(&manager(address, further.clone()), "s").await,
        "value"
    );
    let asked = server.asked();
    assert_eq!(asked[0].line, "POST /token HTTP/1.1");
    let assertion = asked[0].body.split_once("&assertion=").expect("one").1;
    let (signed, signature) = assertion.rsplit_once('.').expect("three parts");
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64");
    let parts: Vec<Value> = signed
        .split('.')
        .map(|part| serde_json::from_slice(&decode(part)).expect("JSON"))
        .collect();
    assert_eq!(parts[0]["alg"], "RS256");
    assert_eq!(parts[0]["kid"], "k1");
    assert_eq!(parts[1]["iss"], "heyday@my-project.example");
    assert_eq!(parts[1]["aud"], token_uri);
    let life = parts[1]["exp"].as_u64().zip(parts[1]["iat"].as_u64());
    assert_eq!(life.map(|(end, begin)| end - begin), Some(3600));
    let der = STANDARD.decode(KEY.replace('\n', "")).expect("base64");
    let pair = RsaKeyPair::from_pkcs8(&der).expect("a key");
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public())
        .verify(signed.as_bytes(), &decode(signature))
        .expect("signed by the key");

    // What is no key is the operator's to see, and nothing of it is told.
    for (member, wrong) in [
        ("type", json!("external_account")),
        ("private_key", json!("hunter2hunter2")),
        ("token_uri", json!("http://example.com/token")),
        ("client_email", json!(["hunter2hunter2"])),
    ] {
        let mut key = key.clone();
        key[member] = wrong;
        write(key);
        let manager = manager(address, further.clone());
        let told = manager.inner.tokens.token().await.expect_err(member);
        assert!(told.contains("credentials file"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
        let error = manager.access("s").await.expect_err(member);
        assert_eq!(error.code, SecretsCode::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_apart() {
    let (server, address) = SecretManagerStandIn::start().await;
    let manager = manager(address, json!({ "cache_ttl_ms": 0, "timeout_ms": 20_000 }));
    for (status, word) in [(404, "NOT_FOUND"), (400, "FAILED_PRECONDITION")] {
        server.refuses(status, word);
        let answer = manager.access("s").await;
        assert_eq!(answer, Ok(None), "{word}");
    }
    let unavailable = async |manager: &SecretManager, what: &str| {
        let error = manager.access("s").await.expect_err(what);
        assert_eq!(error.code, SecretsCode::Unavailable, "{what}");
        assert!(!error.message.contains("hunter2"), "{error}");
    };
    for (status, word) in [
        (403, "PERMISSION_DENIED"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, ""),
    ] {
        server.refuses(status, word);
        unavailable(&manager, word).await;
    }
    // A token that was taken back is asked for again, once.
    let before = server
        .asked()
        .iter()
        .filter(|asked| asked.is_token())
        .count();
    server.refuses(401, "UNAUTHENTICATED");
    unavailable(&manager, "401").await;
    let after = server
        .asked()
        .iter()
        .filter(|asked| asked.is_token())
        .count();
    assert_eq!((before, after), (1, 2));
    let mut torn = payload("whole");
    torn["payload"]["data"] = json!(STANDARD.encode("torn"));
    for (what, answer) in [
        ("another checksum", torn),
        ("no payload", json!({})),
        ("no base64", json!({ "payload": { "data": "%" } })),
        (
            "too much",
            json!({ "payload": { "data": "A".repeat(ANSWER_BYTES) } }),
        ),
    ] {
        server.answers(200, answer);
        unavailable(&manager, what).await;
    }
    server.holds(&"x".repeat(VALUE_BYTES as usize + 1));
    let error = manager.access("s").await.expect_err("too large");
    assert_eq!(error.code, SecretsCode::LimitExceeded);
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = nobody.local_addr().expect("an address");
    drop(nobody);
    unavailable(&super::tests::manager(address, json!({})), "nobody").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_wait_share_one_request_and_so_many_wait() {
    let (server, address) = SecretManagerStandIn::start().await;
    server.holds("value");
    let further = json!({ "cache_ttl_ms": 0, "timeout_ms": 2_000 });
    let manager = manager(address, further);
    assert_eq!(value(&manager, "s").await, "value");
    let before = server.asked().len();
    server.answers(0, Value::Null);
    let callers = 4 * WAITING as usize;
    let begun = Instant::now();
    let all = futures::future::join_all((0..callers).map(|_| manager.access("s"))).await;
    // One after the other they would take minutes.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    let told = |word: &str| {
        let failed = all.iter().filter_map(|answer| answer.as_ref().err());
        let of = failed.filter(|error| error.message.contains(word));
        of.count()
    };
    for answer in &all {
        let error = answer.as_ref().expect_err("nobody answers");
        assert_eq!(error.code, SecretsCode::Unavailable);
    }
    // Those who found no place; a few more may not have had one when the others gave up.
    assert!(told("too many others") >= callers / 2, "{all:?}");
    assert!(told("cannot be read now") >= WAITING as usize, "{all:?}");
    assert_eq!(server.asked().len(), before + 1, "one request for all");
    server.holds("again");
    while manager.access("s").await.is_err() {}
    // Shared, but not kept.
    assert_eq!(value(&manager, "s").await, "again");
    server.holds("changed");
    assert_eq!(value(&manager, "s").await, "changed");
}

#[test]
fn addresses_take_no_token_over_a_plain_connection() {
    let here: SocketAddr = ([127, 0, 0, 1], 1).into();
    for (member, text) in [
        ("endpoint", "http://secretmanager.example.com"),
        ("endpoint", "https://user:pass@example.com"),
        ("endpoint", "ftp://example.com"),
        ("endpoint", "nowhere"),
        ("metadata_endpoint", "nowhere"),
    ] {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let config = config(here, json!({ member: text }));
        let error = SecretManager::new(&config, runtime.handle().clone());
        let error = error.err().expect(text).to_string();
        assert!(error.contains(member), "{error}");
        assert!(!error.contains("pass@"), "{error}");
    }
    for good in ["a", "api-key", "a_b/versions/3", "a/versions/latest"] {
        assert_eq!(check_name(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "a/b",
        "projects/p/secrets/s",
        "a/versions/",
        "a/versions/1:destroy",
        "a?x",
    ] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
}
