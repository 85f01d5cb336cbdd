//! What the engine is given: stand-ins that the test directs.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use heyday_durable::activity::{
    ActivityExecutor, ActivityTask, ActivityTimeouts, AttemptContext, AttemptOutcome, Receipt,
    RetryPolicy,
};
use heyday_durable::definition::{
    Definitions, PinnedActivity, PinnedDefinition, WorkflowReference,
};
use heyday_durable::expressions::{ExpressionError, Expressions, Program};
use heyday_durable::failure::{Failure, kind};
use heyday_durable::flow::Flow;
use heyday_durable::payload::{Digest, Payload, PayloadStore, PayloadStoreError};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::PATIENCE;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An evaluator that knows paths only: `.`, `.a.b`.
pub(super) struct Paths;

struct PathsProgram(Vec<String>);

impl Expressions for Paths {
    fn compile(
        &self,
        expressions: &[String],
        _: &[String],
    ) -> Result<Arc<dyn Program>, ExpressionError> {
        Ok(Arc::new(PathsProgram(expressions.to_vec())))
    }

    fn digest(&self) -> Digest {
        Digest::of(b"paths")
    }
}

impl Program for PathsProgram {
    fn evaluate(&self, index: usize, input: &Value, _: &[Value]) -> Result<Value, ExpressionError> {
        let pointer = self.0[index].trim().replace('.', "/");
        let pointer = if pointer == "/" { "" } else { &pointer };
        Ok(input.pointer(pointer).cloned().unwrap_or(Value::Null))
    }
}

/// Panics as often as it is told to, and then no more.
#[derive(Default)]
pub struct Panics(AtomicU64);

impl Panics {
    /// The next `times` passes panic.
    pub fn arm(&self, times: u64) {
        self.0.store(times, Ordering::SeqCst);
    }

    fn pass(&self) {
        let less = |times: u64| times.checked_sub(1);
        let left = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        assert!(left.is_err(), "as it was told");
    }
}

/// A payload store in memory.
#[derive(Default)]
pub struct MemoryPayloads {
    stored: Mutex<HashMap<Digest, Bytes>>,
    /// Where a value is stored.
    pub put_panics: Panics,
    /// Where one is read.
    pub get_panics: Panics,
}

impl MemoryPayloads {
    /// How many values it has.
    pub fn len(&self) -> usize {
        lock(&self.stored).len()
    }
}

#[async_trait]
impl PayloadStore for MemoryPayloads {
    async fn put(&self, bytes: Bytes) -> Result<Digest, PayloadStoreError> {
        self.put_panics.pass();
        let digest = Digest::of(&bytes);
        lock(&self.stored).insert(digest, bytes);
        Ok(digest)
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, PayloadStoreError> {
        self.get_panics.pass();
        let found = lock(&self.stored).get(digest).cloned();
        found.ok_or(PayloadStoreError::NotFound(*digest))
    }

    async fn sweep(&self, _: &HashSet<Digest>, _: Duration) -> Result<u64, PayloadStoreError> {
        Ok(0)
    }
}

/// An attempt that a test ends.
pub struct Attempt {
    /// What it is to do.
    pub task: ActivityTask,
    /// How it is told to stop.
    pub context: AttemptContext,
    answer: oneshot::Sender<AttemptOutcome>,
}

impl Attempt {
    /// Ends it.
    pub fn end(self, result: Result<Value, Failure>) {
        // One that was abandoned needs no outcome.
        let _ = self.answer.send(AttemptOutcome {
            result: result.map(|value| Payload::json(&value)),
            receipt: receipt(7),
        });
    }

    /// Waits until it is asked to stop, and ends as asked.
    pub async fn obey(self) {
        self.stopped().await;
        self.end(Err(Failure::permanent(kind::CANCELLED, "stopped")));
    }

    /// What its guest would read as the reason of a cancel; none where it is interrupted.
    pub fn told(&self) -> Option<&'static str> {
        self.context.reason.get().and_then(|reason| reason.told())
    }

    /// Waits until it is asked to stop.
    pub async fn stopped(&self) {
        tokio::time::timeout(PATIENCE, self.context.cancellation.cancelled())
            .await
            .expect("it should have been asked to stop");
    }
}

fn receipt(cpu: u64) -> Receipt {
    let mut receipt = Receipt::default();
    receipt.add("cpu_us", cpu);
    receipt
}

/// An executor that answers by itself to `t.echo` (its input), `t.fail` (a permanent
/// failure), `t.big` (a text of that many bytes) and `t.panic`, and lets the test end
/// every other.
pub(super) struct Scripted {
    pub(super) by_hand: mpsc::UnboundedSender<Attempt>,
    pub(super) begun: Arc<Mutex<HashMap<String, u64>>>,
}

#[async_trait]
impl ActivityExecutor for Scripted {
    async fn execute(&self, task: ActivityTask, context: AttemptContext) -> AttemptOutcome {
        *lock(&self.begun)
            .entry(task.activity_type.clone())
            .or_default() += 1;
        let input = task.input.to_json().unwrap();
        let result = match task.activity_type.as_str() {
            "t.echo" => Ok(input),
            "t.fail" => Err(Failure {
                stack: Some("at t::fail".to_owned()),
                ..Failure::permanent("broken", "as it was told")
                    .with_details(json!({"page": 4}))
                    .with_cause(Failure::transient("disk", "it is full"))
            }),
            "t.big" => Ok(json!("x".repeat(input["n"].as_u64().unwrap() as usize))),
            "t.length" => Ok(json!(input["text"].as_str().unwrap().len())),
            "t.panic" => panic!("as it was told"),
            _ => {
                let (answer, answered) = oneshot::channel();
                let attempt = Attempt {
                    task,
                    context,
                    answer,
                };
                // The test may be over.
                let _ = self.by_hand.send(attempt);
                // A test that drops an attempt wants it to go on for ever.
                return match answered.await {
                    Ok(outcome) => outcome,
                    Err(_) => std::future::pending().await,
                };
            }
        };
        AttemptOutcome {
            result: result.map(|value| Payload::json(&value)),
            receipt: receipt(5),
        }
    }
}

/// Definitions by type and digest; the last one of a type is the active one.
#[derive(Default)]
pub(super) struct FlowsByName {
    pub(super) active: Mutex<HashMap<String, (Digest, Arc<Flow>)>>,
    pub(super) all: Mutex<HashMap<Digest, Arc<Flow>>>,
    pub(super) loaded: AtomicU64,
    /// Where a run is pinned.
    pub(super) panics: Panics,
}

/// The digest of the plugin `t`.
pub fn plugin() -> Digest {
    Digest::of(b"plugin t")
}

impl FlowsByName {
    pub(super) fn pinned(&self, name: &str) -> Option<PinnedDefinition> {
        let (digest, flow) = lock(&self.active).get(name)?.clone();
        Some(Self::pin_all(digest, flow))
    }

    pub(super) fn pin_all(digest: Digest, flow: Arc<Flow>) -> PinnedDefinition {
        let pin = |name: &str| {
            let pin = PinnedActivity {
                activity_type: name.to_owned(),
                version: Some("1.0.0".parse().unwrap()),
                digest: Some(plugin()),
                queue: "general-queue".to_owned(),
                timeouts: ActivityTimeouts {
                    start_to_close: Some(Duration::from_secs(300)),
                    ..ActivityTimeouts::default()
                },
                retry: RetryPolicy::default(),
            };
            (name.to_owned(), pin)
        };
        let names = [
            "t.echo", "t.fail", "t.big", "t.length", "t.panic", "t.hand", "t.hand2",
        ];
        PinnedDefinition {
            workflow_type: flow.workflow_type(),
            version: flow.document.version.clone(),
            digest,
            flow,
            activities: Arc::new(names.into_iter().map(pin).collect()),
        }
    }
}

#[async_trait]
impl Definitions for FlowsByName {
    async fn pin(
        &self,
        _: &str,
        reference: &WorkflowReference,
    ) -> Result<PinnedDefinition, Failure> {
        self.panics.pass();
        self.pinned(&reference.workflow_type).ok_or_else(|| {
            Failure::permanent(
                kind::UNKNOWN_WORKFLOW,
                format!("there is no workflow {:?}", reference.workflow_type),
            )
        })
    }

    async fn load(&self, _: &str, digest: &Digest) -> Result<Arc<Flow>, Failure> {
        self.loaded.fetch_add(1, Ordering::Relaxed);
        let found = lock(&self.all).get(digest).cloned();
        found.ok_or_else(|| Failure::permanent(kind::UNKNOWN_WORKFLOW, "no such digest"))
    }
}
