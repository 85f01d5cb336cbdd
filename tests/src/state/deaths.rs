//! What servers and their workers do when one of two servers dies, and how quickly a grant
//! that is taken back at one reaches the workers of the other.

use std::time::{Duration, Instant};

use heyday_durable::payload::Digest;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Pair;
use super::servers::{SPIN, TOO_LATE, plugin};
use crate::support::component;
use crate::support::held::SOON;
use crate::support::server::Client;
use crate::support::worker::eventually;

/// An upload under an idempotency key.
struct Keyed {
    bytes: Vec<u8>,
    key: String,
}

impl Keyed {
    fn ask(&self, client: &Client) -> reqwest::RequestBuilder {
        let request = client.request(Method::POST, "/plugins?wait=60s");
        let request = request.header("content-type", "application/wasm");
        let request = request.header("idempotency-key", &self.key);
        request.body(self.bytes.clone())
    }

    /// Asks the first server, and kills it; answers whether it had not answered before.
    async fn dies_with(&self, pair: &mut Pair) -> bool {
        let dying = tokio::spawn(self.ask(pair.of(0)).send());
        let digest = Digest::of(&self.bytes);
        let uploads = pair
            .of(1)
            .request(Method::GET, &format!("/uploads/{digest}"));
        // One server at a time answers a key.
        let refused = eventually(async || {
            let asked = uploads.try_clone().expect("it has no body").send().await;
            match asked.unwrap().status() {
                StatusCode::ACCEPTED => Some(Some(self.ask(pair.of(1)).send().await.unwrap())),
                StatusCode::NOT_FOUND => None,
                _ => Some(None),
            }
        });
        let refused = refused.await;
        pair.kill(0);
        let died = dying.await.unwrap().is_err();
        if let Some(refused) = refused
            && died
        {
            let problem = Client::refused(refused, StatusCode::CONFLICT).await;
            assert_eq!(problem["type"], "urn:heyday:problems:request-in-progress");
            return true;
        }
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_server_dies_is_free_again() {
    let Some(mut pair) = Pair::start().await else {
        return;
    };
    let second = pair.of(1).clone();
    let mut times = 0;
    let keyed = loop {
        // It describes itself for a while, so that its server has the key when it dies.
        let bytes = plugin(&format!("keyed-{times}"), "1.0.0", SPIN);
        let keyed = Keyed {
            bytes,
            key: Uuid::new_v4().to_string(),
        };
        if keyed.dies_with(&mut pair).await {
            break keyed;
        }
        times += 1;
        assert!(times < TOO_LATE, "it is always answered before");
        pair.start_again(0).await;
    };
    let ask = |client: &Client| keyed.ask(client);
    // The upload goes on at the second, and so does the key.
    let answered = eventually(async || {
        let answer = ask(&second).send().await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        if body["type"] == "urn:heyday:problems:request-in-progress" {
            return None;
        }
        (status != StatusCode::ACCEPTED).then_some((status, body))
    });
    let (status, version) = answered.await;
    assert!(status.is_success(), "{status}: {version}");
    assert_eq!(version["active"], true, "{version}");
    // From now on it is the key's answer, at the first as well when it is back.
    pair.start_again(0).await;
    for number in [0, 1] {
        let again = ask(pair.of(number)).send().await.unwrap();
        assert_eq!(again.status(), status);
        assert_eq!(again.json::<Value>().await.unwrap(), version);
    }
    let audit = pair.client.get("/audit").await.unwrap();
    let entries = audit["audit"].as_array().unwrap().iter();
    let uploads = entries.filter(|entry| entry["action"] == "plugin.upload");
    assert_eq!(uploads.count(), times + 1, "{audit}");
}

/// Uploads the probe, which may write objects.
async fn with_probe(pair: &Pair) {
    let client = &pair.client;
    client
        .grant("probe", "blob", "default", None)
        .await
        .unwrap();
    let pushed = client.push(component("probe"), "&allow_missing=true");
    assert_eq!(pushed.await.unwrap()["active"], true);
}

/// A worker's configuration with a folder to write to.
fn with_folder(pair: &Pair) -> String {
    let path = pair.folder.path().join("worker.toml");
    let text = "[bindings.namespaces.default.blob.default]\npath = 'objects'\n";
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Writes an object; answers whether that was granted, if the attempt came so far.
async fn writes(client: &Client) -> Option<bool> {
    let input = json!({ "binding": "default" });
    let outcome = client.activity("probe.blob_put", &input).await.unwrap();
    if outcome.status == "Completed" {
        return Some(true);
    }
    let failure = &outcome.body["failure"]["cause"];
    let denied = failure["kind"] == "capability-denied";
    // What a server took with it when it died may be tried again.
    assert!(denied || failure["retryable"] == true, "{}", outcome.body);
    denied.then_some(false)
}

/// Waits until writing is granted, or not any more.
async fn until_granted(client: &Client, granted: bool) {
    eventually(async || (writes(client).await == Some(granted)).then_some(())).await;
}

async fn revoke(client: &Client) {
    let revoked = client.revoke("probe", "blob", "default");
    revoked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_server_dies_goes_on_at_the_other_and_misses_nothing() {
    let Some(mut pair) = Pair::start().await else {
        return;
    };
    with_probe(&pair).await;
    let config = with_folder(&pair);
    let worker = pair.worker_behind(&["--config", &config]).await;
    until_granted(pair.of(0), true).await;
    // Each server dies once, so its stream ended at least once; what was changed while it
    // was cut off is told by the one that is left.
    for number in [0, 1] {
        pair.kill(number);
        let left = pair.of(1 - number).clone();
        revoke(&left).await;
        until_granted(&left, false).await;
        left.grant("probe", "blob", "default", None).await.unwrap();
        until_granted(&left, true).await;
        pair.start_again(number).await;
    }
    let log = worker.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_taken_back_reaches_the_other_servers_worker_within_a_second() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    with_probe(&pair).await;
    let config = with_folder(&pair);
    let url = pair.servers[1].url.clone();
    let _worker = pair.worker_at(&url, &["--config", &config]).await;
    for _ in 0..3 {
        let granted = pair.of(0).grant("probe", "blob", "default", None);
        granted.await.unwrap();
        until_granted(pair.of(1), true).await;
        revoke(pair.of(0)).await;
        let since = Instant::now();
        // No call that begins later than this after the answer succeeds.
        let mut last = Duration::ZERO;
        let mut slowest = Duration::ZERO;
        loop {
            let begun = since.elapsed();
            let granted = writes(pair.of(1)).await;
            slowest = slowest.max(since.elapsed().saturating_sub(begun));
            match granted {
                Some(true) => last = begun,
                Some(false) => break,
                None => {}
            }
        }
        eprintln!("a grant was known to be gone after {last:?}; a write took {slowest:?}");
        // A busy machine is slow in both.
        assert!(last < SOON + slowest * 2, "{last:?}, {slowest:?}");
        // Once it is known it stays known.
        assert_eq!(writes(pair.of(1)).await, Some(false));
    }
}
