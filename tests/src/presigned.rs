//! Presigned addresses, as whoever has one uses it: with nothing else. The same on every
//! backend of `blob`; and who answers for a folder of files.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::json;
use url::Url;

use crate::support::backends::{backends, with_backends};
use crate::support::component;
use crate::support::ports::free_port;
use crate::support::probe;
use crate::support::server::{Client, Options, PATIENCE};
use crate::support::worker::Site;

const KEY: &str = "in/größe 1";

async fn presign(client: &Client, binding: &str, key: &str, put: bool, lasts_ms: u64) -> Url {
    let input = json!({ "binding": binding, "key": key, "put": put, "lasts_ms": lasts_ms });
    let address = client.succeed("probe.blob_presign", &input).await.unwrap();
    Url::parse(address.as_str().unwrap()).unwrap()
}

/// Without any token.
async fn by(method: Method, url: &Url, body: impl Into<reqwest::Body>) -> (StatusCode, Vec<u8>) {
    let stranger = Client::new("http://localhost", "").http;
    let mut request = stranger.request(method.clone(), url.clone());
    if method == Method::PUT {
        request = request.body(body);
    }
    let answer = request.send().await.unwrap();
    (answer.status(), answer.bytes().await.unwrap().into())
}

/// With another text in it.
fn altered(url: &Url, from: &str, to: &str) -> Url {
    assert!(url.as_str().contains(from), "no {from} in {url}");
    Url::parse(&url.as_str().replacen(from, to, 1)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_does_the_same_on_every_backend() {
    let (server, _held) = with_backends(&["blob"]).await;
    let client = &server.client;
    for (binding, backend) in backends(client, "blob").await {
        let told = format!("{backend}: ");
        let write = presign(client, &binding, KEY, true, 60_000).await;
        let bytes: Vec<u8> = (0..=255_u8).cycle().take(9 << 20).collect();
        let (status, text) = by(Method::PUT, &write, bytes.clone()).await;
        let text = String::from_utf8_lossy(&text);
        assert_eq!(status, StatusCode::OK, "{told}{text}");
        let read = presign(client, &binding, KEY, false, 60_000).await;
        let (status, found) = by(Method::GET, &read, "").await;
        assert_eq!(status, StatusCode::OK, "{told}");
        assert!(found == bytes, "{told}{} bytes", found.len());
        let stranger = Client::new("http://localhost", "").http;
        let part = stranger.get(read.clone()).header("range", "bytes=300-303");
        let part = part.send().await.unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{told}");
        let range = part.headers()["content-range"].to_str().unwrap();
        assert_eq!(range, format!("bytes 300-303/{}", 9 << 20), "{told}");
        assert_eq!(part.bytes().await.unwrap(), &[44_u8, 45, 46, 47][..]);
        // Neither another method nor another object, nor what was not signed.
        for (method, url) in [
            (Method::PUT, read.clone()),
            (Method::GET, write.clone()),
            (Method::HEAD, read.clone()),
            (Method::GET, altered(&read, "/in/", "/other/")),
            (Method::GET, altered(&read, "ignature=", "ignature=0")),
        ] {
            let what = format!("{told}{method} {url}");
            let (status, _) = by(method, &url, "forged").await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{what}");
        }
        // Over what is there, and again.
        for text in ["one", "two"] {
            assert_eq!(by(Method::PUT, &write, text).await.0, StatusCode::OK);
            let (_, found) = by(Method::GET, &read, "").await;
            assert_eq!(found, text.as_bytes(), "{told}");
        }
        let missing = presign(client, &binding, "nothing", false, 60_000).await;
        let (status, _) = by(Method::GET, &missing, "").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{told}");
        let short = presign(client, &binding, KEY, false, 1_000).await;
        let deadline = Instant::now() + PATIENCE;
        // Google says that the request is bad.
        let ended = match backend.as_str() {
            "gcs" => StatusCode::BAD_REQUEST,
            _ => StatusCode::FORBIDDEN,
        };
        while by(Method::GET, &short, "").await.0 != ended {
            assert!(Instant::now() < deadline, "{told}it does not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let log = server.log();
    assert!(!log.contains("ignature="), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_a_folder_outlives_its_grant_and_its_server() {
    let port = free_port();
    let options = || Options {
        port: Some(port),
        config: Some(format!("public_url = 'http://localhost:{port}/'\n")),
        ..Options::default()
    };
    let server = probe::server(options()).await.unwrap();
    let client = &server.client;
    let write = presign(client, "default", KEY, true, 60_000).await;
    let begin = format!("http://localhost:{port}/presigned/default/default/in/");
    assert!(write.as_str().starts_with(&begin), "{write}");
    let key = server.data().join("address-key");
    let secret = std::fs::read_to_string(&key).unwrap();
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let revoke = "/grants?subject=probe&capability=blob&binding=default";
    let revoked = client.request(Method::DELETE, revoke).send().await.unwrap();
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
    let input = json!({ "binding": "default", "key": KEY, "lasts_ms": 60_000 });
    let denied = client.fail("probe.blob_presign", &input).await.unwrap();
    assert_eq!(denied["kind"], "capability-denied", "{denied}");
    let server = server.kill_and_restart(options()).await.unwrap();
    assert_eq!(by(Method::PUT, &write, "kept").await.0, StatusCode::OK);
    let folder = server.data().join("bindings/blob/default");
    assert_eq!(std::fs::read(folder.join(KEY)).unwrap(), b"kept");
    assert!(!server.log().contains(secret.trim()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_for_a_folder_of_a_workers() {
    let Some(site) = Site::start().await else {
        return;
    };
    let client = &site.server.client;
    let granted = client.grant("probe", "blob", "default", None);
    granted.await.unwrap();
    let pushed = client.push(component("probe"), "&allow_missing=true");
    assert_eq!(pushed.await.unwrap()["active"], true);
    let config = site.config("[bindings.namespaces.default.blob.default]\npath = 'objects'\n");
    let _worker = site.worker(&["--config", &config]).await;
    let input = json!({ "binding": "default", "key": KEY, "lasts_ms": 60_000 });
    let refused = client.fail("probe.blob_presign", &input).await.unwrap();
    assert_eq!(refused["kind"], "unsupported", "{refused}");
    assert_eq!(refused["retryable"], false, "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("bind a bucket"), "{message}");
}
