//! A worker's side of the API, before a server that does as a test says.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use heyday_capabilities::inference::elsewhere::Elsewhere as _;
use heyday_durable::activity::{ActivityTask, ActivityTimeouts};
use heyday_durable::definition::Definitions as _;
use heyday_durable::failure::kind;
use heyday_durable::payload::{Digest, Payload, PayloadStore as _, PayloadStoreError};
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::recorder::{AttemptName, ReceiptRow, Records as _};
use crate::registry::feed::{Change, Revision};
use crate::registry::types::GrantInfo;

async fn serve(router: Router) -> ServerClient {
    // Nobody else in this process may have chosen one yet; the first choice stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("free");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().nest("/api/v1/worker", router);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let server = format!("http://{address}").parse().expect("a URL");
    ServerClient::new(server, "token")
        .expect("a client")
        .impatient()
}

fn registry(client: ServerClient) -> RemoteRegistry {
    RemoteRegistry::new(client, "default".to_owned()).0
}

fn task(digest: Option<Digest>) -> ActivityTask {
    ActivityTask {
        namespace: "default".to_owned(),
        workflow_id: "w".to_owned(),
        workflow_type: "docs.process".to_owned(),
        run_id: Uuid::now_v7(),
        activity_id: "1".to_owned(),
        activity_type: "greet.hello".to_owned(),
        plugin_digest: digest,
        queue: "general-queue".to_owned(),
        attempt: 1,
        input: Payload::json(&json!({})),
        scheduled_at: Timestamp::now(),
        started_at: Timestamp::now(),
        timeouts: ActivityTimeouts::default(),
        last_heartbeat: None,
        idempotency_key: "key".to_owned(),
        traceparent: None,
    }
}

fn revision(number: u64) -> Revision {
    Revision {
        process: Uuid::nil(),
        number,
    }
}

fn granted(binding: &str) -> Change {
    Change::Granted {
        namespace: "default".to_owned(),
        subject: "index".to_owned(),
        grants: vec![GrantInfo {
            subject: "index".to_owned(),
            capability: "sql".to_owned(),
            binding: binding.to_owned(),
            mode: None,
            granted_at: Timestamp::UNIX_EPOCH,
        }],
    }
}

#[tokio::test]
async fn bytes_of_another_digest_are_refused() {
    let wrong = Router::new()
        .route("/content/{digest}", get(async || "other bytes"))
        .route("/payloads/{digest}", get(async || "other bytes"));
    let registry = registry(serve(wrong).await);
    let digest = Digest::of(b"the bytes");
    let error = registry.component("default", &digest).await;
    let error = error.expect_err("other bytes").to_string();
    assert!(
        error.contains(&Digest::of(b"other bytes").to_string()),
        "{error}"
    );
    let failure = registry
        .load("default", &digest)
        .await
        .expect_err("no flow");
    assert!(
        failure.retryable,
        "another try may get the right ones: {failure:?}"
    );
    let payload = registry.get(&digest).await;
    assert!(matches!(payload, Err(PayloadStoreError::Unavailable(_))));
    let right = Digest::of(b"other bytes");
    let bytes = registry.component("default", &right).await.expect("those");
    assert_eq!(&bytes[..], b"other bytes");
}

#[tokio::test]
async fn a_version_of_another_digest_is_refused() {
    let body = json!({
        "name": "greet", "version": "1.0.0", "digest": Digest::of(b"b"), "size": 1,
        "description": {}, "capabilities": [], "imports": [], "created_at": Timestamp::UNIX_EPOCH,
    });
    let route = get(async move || axum::Json(body.clone()));
    let registry = registry(serve(Router::new().route("/plugins/{digest}", route)).await);
    let failure = registry.plugin(&task(Some(Digest::of(b"a")))).await;
    let failure = failure.expect_err("another version");
    assert_eq!(failure.kind, kind::INTERNAL);
    assert!(failure.retryable);
}

#[tokio::test]
async fn what_was_removed_is_said_for_good() {
    let problem = async |Path(_): Path<String>| {
        let body = json!({ "title": "There is no such thing", "detail": "removed" });
        (StatusCode::NOT_FOUND, axum::Json(body))
    };
    let router = Router::new()
        .route("/plugins/{digest}", get(problem))
        .route("/payloads/{digest}", get(problem));
    let registry = registry(serve(router).await);
    let failure = registry.plugin(&task(Some(Digest::of(b"a")))).await;
    let failure = failure.expect_err("removed");
    assert_eq!(
        (failure.kind.as_str(), failure.retryable),
        (kind::UNKNOWN_ACTIVITY, false)
    );
    let payload = registry.get(&Digest::of(b"a")).await;
    assert!(matches!(payload, Err(PayloadStoreError::NotFound(_))));
}

#[tokio::test]
async fn a_grant_that_the_stream_has_not_told_yet_is_waited_for() {
    let at = revision(2).to_string();
    let route = get(async move || axum::Json(json!({ "revision": at })));
    let registry = registry(serve(Router::new().route("/revision", route)).await);
    registry.take(true, Vec::new(), revision(1));
    let needs = BTreeSet::from(["sql".to_owned()]);
    let (asked, ()) = tokio::join!(registry.grants("default", "index", &needs), async {
        tokio::task::yield_now().await;
        registry.take(false, vec![granted("main")], revision(2));
    });
    assert!(asked.by_capability.contains_key("sql"));
    // What nobody granted is known for good once the stream is there.
    let none = registry.grants("default", "other", &needs).await;
    assert!(none.by_capability.is_empty());
}

#[tokio::test]
async fn a_stream_that_was_cut_goes_on_after_what_was_told() {
    let (asked, mut asks) = mpsc::unbounded_channel();
    let route = get(async move |headers: HeaderMap| {
        let after = headers.get("last-event-id").cloned();
        let (name, number, binding) = match &after {
            None => ("snapshot", 1, "main"),
            Some(_) => ("changes", 2, "other"),
        };
        asked.send(after).expect("the test listens");
        let news = json!({
            "revision": revision(number).to_string(), "changes": [granted(binding)],
        });
        // And it ends there.
        format!("event: {name}\ndata: {news}\n\n")
    });
    let client = serve(Router::new().route("/stream", route)).await;
    let registry = registry(client.clone());
    let (heard, hears) = watch::channel(None);
    let follower = Arc::new(Follower {
        client,
        namespaces: vec!["default".to_owned()],
        registry: registry.clone(),
        lease: Duration::from_secs(30),
        heard,
    });
    let stop = CancellationToken::new();
    let following = tokio::spawn(follower.run(stop.clone()));
    assert_eq!(asks.recv().await, Some(None), "it knows nothing yet");
    let after = asks.recv().await.flatten().expect("it knows something");
    assert_eq!(after.to_str().ok(), Some(&*revision(1).to_string()));
    assert!(hears.borrow().is_some(), "that gave it a lease");
    let mut seen = registry.seen();
    let told = seen.wait_for(|seen| *seen == Some(revision(2))).await;
    drop(told.expect("the registry is there"));
    stop.cancel();
    following.await.expect("ended");
}

#[tokio::test]
async fn the_server_is_asked_who_has_a_model() {
    let answer = async |Path(name): Path<String>| {
        let (status, body) = match name.as_str() {
            "small" => (StatusCode::OK, json!({ "queues": ["gpu"] })),
            "away" => (
                StatusCode::SERVICE_UNAVAILABLE,
                json!({ "detail": "it stops" }),
            ),
            // As a server that has no such path.
            _ => (StatusCode::NOT_FOUND, json!({ "detail": "no such path" })),
        };
        (status, axum::Json(body))
    };
    let client = serve(Router::new().route("/models/{name}", get(answer))).await;
    let others = OtherWorkers::new(&client);
    let asked = async |name: &str| others.queues_with("default", name).await;
    assert_eq!(asked("small").await, Ok(vec!["gpu".to_owned()]));
    assert_eq!(asked("unknown").await, Ok(Vec::new()));
    let error = asked("away").await.expect_err("it stops");
    assert!(error.contains("it stops"), "{error}");
}

#[tokio::test]
async fn attempts_at_once_ask_the_server_together() {
    let at = revision(1).to_string();
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let route = get(async move || {
        count.fetch_add(1, Ordering::Relaxed);
        axum::Json(json!({ "revision": at }))
    });
    let registry = registry(serve(Router::new().route("/revision", route)).await);
    registry.take(true, Vec::new(), revision(1));
    let needs = BTreeSet::from(["sql".to_owned()]);
    let attempts = (0..50).map(|_| registry.grants("default", "index", &needs));
    for grants in futures::future::join_all(attempts).await {
        assert!(grants.by_capability.is_empty());
    }
    // The first one's, and one that began after all others had come.
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_snapshot_takes_back_what_it_does_not_name() {
    let registry = registry(serve(Router::new()).await);
    let active = Change::Active {
        namespace: "default".to_owned(),
        plugin: "greet".to_owned(),
        digest: Some(Digest::of(b"a")),
    };
    registry.take(true, vec![granted("main"), active], revision(1));
    let needs = BTreeSet::from(["sql".to_owned()]);
    let begun = registry.grants("default", "index", &needs).await;
    registry.take(true, vec![granted("main")], revision(1));
    assert!(!begun.revoked.is_cancelled(), "it is named again");
    registry.take(true, vec![granted("other")], revision(1));
    assert!(begun.revoked.is_cancelled());
    let begun = registry.grants("default", "index", &needs).await;
    registry.take(true, Vec::new(), revision(1));
    assert!(begun.revoked.is_cancelled());
    // The server does not answer, so that it is not waited for.
    let failure = registry.plugin(&task(None)).await.expect_err("not active");
    assert_eq!(failure.kind, kind::UNKNOWN_ACTIVITY);
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_sent_again_under_its_number() {
    let (sent, mut batches) = tokio::sync::mpsc::unbounded_channel();
    let count = Arc::new(AtomicU64::new(0));
    let taken = post(
        async move |axum::Json(body): axum::Json<wire::RecordsBody>| {
            sent.send(body).expect("the test listens");
            match count.fetch_add(1, Ordering::Relaxed) {
                0 => StatusCode::BAD_GATEWAY,
                _ => StatusCode::NO_CONTENT,
            }
        },
    );
    let client = serve(Router::new().route("/records", taken)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Spool::open(client, "default".to_owned(), folder.path());
    let stop = CancellationToken::new();
    let running = tokio::spawn(spool.clone().run(stop.clone()));
    let row = || ReceiptRow {
        attempt: AttemptName::for_tests(),
        started_at: Timestamp::now(),
        ended_at: Timestamp::now(),
        outcome: "completed".to_owned(),
        receipt: Default::default(),
        denied: Vec::new(),
    };
    spool.receipt(row());
    let first = batches.recv().await.expect("sent");
    let again = batches.recv().await.expect("sent again");
    assert_eq!(first, again);
    assert_eq!((first.sequence, first.records.len()), (1, 1));
    spool.receipt(row());
    stop.cancel();
    running.await.expect("ended");
    // Whose answer the stop cut off comes once more.
    let mut last = batches.recv().await.expect("sent at the end");
    if last.sequence == 1 {
        last = batches.recv().await.expect("sent at the end");
    }
    assert_eq!((last.worker, last.sequence), (first.worker, 2));
    assert_eq!(spool.dropped_ever(), 0);
}
