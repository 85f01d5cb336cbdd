//! Attempts of real components in a real sandbox.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use heyday_durable::activity::{
    ActivityExecutor as _, ActivityTask, ActivityTimeouts, AttemptContext, AttemptOutcome,
    AttemptSink, CancelReason, LogLine, Progress,
};
use heyday_durable::driver::HTTP_ACTIVITY_TYPE;
use heyday_durable::failure::{Failure, kind};
use heyday_durable::payload::{Digest, Payload};
use heyday_sandbox::Grants;
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::catalogue::{Catalogue, FetchError};
use super::{Executor, ExecutorOptions};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::recorder::Recorder;
use crate::registry::Stored;
use crate::registry::tests::{World, plugin_running, push, world};
use crate::registry::types::AuditFilter;
use crate::state::{HostDb, StateLocation};

struct Nowhere;

impl AttemptSink for Nowhere {
    fn heartbeat(&self, _: Option<Payload>) {}
    fn progress(&self, _: Progress) {}
    fn log(&self, _: LogLine) {}
}

fn context(left: Duration) -> AttemptContext {
    AttemptContext {
        cancellation: CancellationToken::new(),
        reason: Arc::new(OnceLock::new()),
        deadline: Timestamp::now() + left,
        sink: Arc::new(Nowhere),
    }
}

fn task(activity_type: &str, digest: Option<Digest>, input: serde_json::Value) -> ActivityTask {
    ActivityTask {
        namespace: "default".to_owned(),
        workflow_id: "w".to_owned(),
        workflow_type: "docs.process".to_owned(),
        run_id: Uuid::now_v7(),
        activity_id: "1".to_owned(),
        activity_type: activity_type.to_owned(),
        plugin_digest: digest,
        queue: "general-queue".to_owned(),
        attempt: 1,
        input: Payload::json(&input),
        scheduled_at: Timestamp::now(),
        started_at: Timestamp::now(),
        timeouts: ActivityTimeouts::default(),
        last_heartbeat: None,
        idempotency_key: "key".to_owned(),
        traceparent: None,
    }
}

/// `echo` answers its input, which its schemas want to be an object; `spin` never ends.
const ECHO: &str = r"
    (if (i32.eq (i32.load8_u (local.get 0)) (i32.const 115)) (then (loop $on (br $on))))
    (i32.store (i32.const 2048) (i32.const 0))
    (i32.store (i32.const 2052) (local.get 2))
    (i32.store (i32.const 2056) (local.get 3))
    (i32.const 2048)";

struct Rig {
    executor: Executor,
    recorder: Recorder,
    database: HostDb,
    digest: Digest,
    world: World,
}

async fn rig() -> Rig {
    let world = world().await;
    let description = json!({ "name": "guest", "version": "1.0.0", "activities": [
        { "name": "echo", "input": { "type": "object" },
          "output": { "type": "object", "properties": { "n": { "type": "number" } } } },
        { "name": "spin" },
    ]});
    let bytes = plugin_running(&description.to_string(), "", "", ECHO);
    let digest = Digest::of(&bytes);
    push(&world.registry, bytes).await.expect("uploaded");
    let records = StateLocation::File(world.folder.path().join("records.db"));
    let database = HostDb::open(&records).await.expect("a database");
    let recorder = Recorder::new(database.clone());
    let executor = Executor::new(ExecutorOptions {
        catalogue: Arc::new(world.registry.clone()),
        sandbox: world.sandbox.clone(),
        records: Arc::new(recorder.clone()),
        metrics: Arc::new(Metrics::default()),
        config: Arc::new(Config::default()),
    });
    Rig {
        executor,
        recorder,
        database,
        digest,
        world,
    }
}

impl Rig {
    async fn run(&self, task: ActivityTask) -> AttemptOutcome {
        self.executor
            .execute(task, context(Duration::from_secs(60)))
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_answers_and_leaves_a_receipt() {
    let rig = rig().await;
    // Pinned by digest, and by name as a foreign workflow has it.
    for digest in [Some(rig.digest), None] {
        let task = task("guest.echo", digest, json!({ "n": 1 }));
        let run = task.run_id;
        let outcome = rig.run(task).await;
        let answer = outcome.result.expect("an answer").to_json().expect("JSON");
        assert_eq!(answer, json!({ "n": 1 }));
        assert!(outcome.receipt.counters["peak_memory_bytes"] > 0);
        rig.recorder.flush().await;
        let receipts = rig.recorder.receipts("default", run, None, 9).await;
        let receipts = receipts.expect("read");
        assert_eq!(receipts[0].outcome, "completed");
        assert_eq!(receipts[0].counters, outcome.receipt.counters);
    }
}

/// Never answers, or panics.
struct Faulty {
    panics: bool,
}

#[async_trait::async_trait]
impl Catalogue for Faulty {
    async fn plugin(&self, _: &ActivityTask) -> Result<Arc<Stored>, Failure> {
        assert!(!self.panics, "a fault of the host");
        std::future::pending().await
    }

    async fn component(&self, _: &str, _: &Digest) -> Result<Bytes, FetchError> {
        std::future::pending().await
    }

    async fn grants(&self, _: &str, _: &str, _: &BTreeSet<String>) -> Arc<Grants> {
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_abandoned_leaves_a_receipt() {
    let rig = rig().await;
    for (panics, reason, outcome) in [
        (false, Some(CancelReason::RunClosed), kind::WORKER_LOST),
        (false, Some(CancelReason::TimedOut), kind::TIMEOUT),
        (true, None, kind::INTERNAL),
        (true, Some(CancelReason::TimedOut), kind::TIMEOUT),
    ] {
        let executor = Executor::new(ExecutorOptions {
            catalogue: Arc::new(Faulty { panics }),
            sandbox: rig.world.sandbox.clone(),
            records: Arc::new(rig.recorder.clone()),
            metrics: Arc::new(Metrics::default()),
            config: Arc::new(Config::default()),
        });
        let task = task("guest.echo", None, json!({}));
        let run = task.run_id;
        let context = context(Duration::from_secs(60));
        if let Some(reason) = reason {
            context.reason.set(reason).expect("unset");
        }
        let execution = AssertUnwindSafe(executor.execute(task, context)).catch_unwind();
        // What waits is dropped, as the engine does with what does not stop.
        assert_eq!(execution.now_or_never().is_some(), panics);
        rig.recorder.flush().await;
        let receipts = rig.recorder.receipts("default", run, None, 9).await;
        let receipts = receipts.expect("read");
        assert_eq!(receipts.len(), 1);
        assert_eq!(receipts[0].outcome, outcome);
        let counters = &receipts[0].counters;
        assert!(counters.contains_key("queue_us"), "{counters:?}");
        assert_eq!(counters.get("lost").copied(), (!panics).then_some(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_hold_before_and_after_the_guest() {
    let rig = rig().await;
    let outcome = rig
        .run(task("guest.echo", Some(rig.digest), json!([])))
        .await;
    let failure = outcome.result.expect_err("no object");
    assert_eq!(
        (failure.kind.as_str(), failure.retryable),
        (kind::INVALID_INPUT, false)
    );
    assert!(
        !outcome.receipt.counters.contains_key("cpu_us"),
        "the guest never ran"
    );
    let outcome = rig
        .run(task("guest.echo", Some(rig.digest), json!({ "n": "x" })))
        .await;
    let failure = outcome.result.expect_err("no number");
    assert_eq!(
        (failure.kind.as_str(), failure.retryable),
        (kind::INVALID_OUTPUT, false)
    );
    // Large values are checked on another thread, with the same answer.
    let large = json!({ "n": "x".repeat(200_000) });
    let failure = rig
        .run(task("guest.echo", Some(rig.digest), large))
        .await
        .result;
    assert_eq!(failure.expect_err("no number").kind, kind::INVALID_OUTPUT);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() {
    let rig = rig().await;
    for (name, digest) in [
        ("guest.nothing", Some(rig.digest)),
        ("nobody.x", None),
        ("guest.echo", Some(Digest::of(b"gone"))),
    ] {
        let failure = rig
            .run(task(name, digest, json!({})))
            .await
            .result
            .expect_err(name);
        assert_eq!(
            (failure.kind.as_str(), failure.retryable),
            (kind::UNKNOWN_ACTIVITY, false)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spinning_guest_ends_at_its_deadline_or_when_it_is_told() {
    let rig = rig().await;
    let spin = || task("guest.spin", Some(rig.digest), json!({}));
    let late = rig
        .executor
        .execute(spin(), context(Duration::from_secs(1)))
        .await;
    let failure = late.result.expect_err("too late");
    assert_eq!(
        (failure.kind.as_str(), failure.retryable),
        (kind::TIMEOUT, true)
    );
    assert!(late.receipt.counters["cpu_us"] > 0);
    for (reason, expected) in [
        (CancelReason::RunClosed, kind::CANCELLED),
        (CancelReason::TimedOut, kind::TIMEOUT),
    ] {
        let context = context(Duration::from_secs(60));
        context.reason.set(reason).expect("unset");
        context.cancellation.cancel();
        let begun = std::time::Instant::now();
        let failure = rig
            .executor
            .execute(spin(), context)
            .await
            .result
            .expect_err("stopped");
        assert_eq!(failure.kind, expected);
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "no grace is given"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_reaches_nothing_without_a_grant() {
    let rig = rig().await;
    let endpoint = "http://127.0.0.1:9/?key=tres-secret";
    let input = json!({ "method": "GET", "endpoint": endpoint, "output": "content" });
    let outcome = rig.run(task(HTTP_ACTIVITY_TYPE, None, input)).await;
    let failure = outcome.result.expect_err("denied");
    assert_eq!(
        (failure.kind.as_str(), failure.retryable),
        (kind::CAPABILITY_DENIED, false)
    );
    assert!(
        failure
            .message
            .contains("heyday grant docs.process http=GET:"),
        "{failure}"
    );
    assert!(rig.world.registry.grants("default", None).is_empty());
    let counters = &outcome.receipt.counters;
    assert!(counters.contains_key("wall_us"), "{counters:?}");
    assert!(!counters.contains_key("http.calls"), "nothing was sent");
    // It is in the audit with the receipt.
    rig.recorder.flush().await;
    let all = AuditFilter::default();
    let audit = rig.database.audit_page("default", i64::MAX, 10, &all).await;
    let audit = audit.expect("read");
    assert_eq!(audit.len(), 1, "{audit:?}");
    let entry = &audit[0];
    assert_eq!(
        (&*entry.action, &*entry.resource, &*entry.principal),
        ("capability.deny", "docs.process", "flow docs.process")
    );
    assert_eq!(entry.details["capability"], "http");
    assert_eq!(entry.details["binding"], "GET:127.0.0.1:9");
    assert_eq!(entry.details["count"], 1);
    assert_eq!(entry.details["attempt"], 1);
    assert!(!entry.details.to_string().contains("secret"), "{entry:?}");
    let reason = entry.details["reason"].as_str().expect("a reason");
    assert!(reason.contains("no grant allows GET"), "{reason}");
}
