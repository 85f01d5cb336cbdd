//! Tests of the embedded engine, and the host that they give it: what shows only here, or
//! needs a clock that stands still. What is the contract of every engine is in the
//! integration tests' `conformance`, which run on this one too.
//!
//! The executor, the clock, the evaluator and the payload store are stand-ins; the
//! flows, the driver and SQLite are the real ones. Tests wait for conditions: an
//! attempt that began, an event in a history, a result.

mod cancelling;
mod children;
mod continuing;
mod emitting;
mod held;
mod lists;
mod payloads;
mod recovering;
mod retrying;
mod running;
mod schedules;
mod signals;
mod starting;
mod storage;
mod time;
mod updating;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::activity::{
    ActivityTask, ActivityTimeouts, AttemptContext, AttemptOutcome, Progress, Receipt, RetryPolicy,
};
use crate::definition::{PinnedActivity, PinnedDefinition, WorkflowReference};
use crate::engine::{
    ExecutionStatus, HistoryEvent, IdConflictPolicy, IdReusePolicy, PendingActivity, PendingState,
};
use crate::expressions::{ExpressionError, Program};
use crate::failure::{Failure, kind};
use crate::flow::Flow;
use crate::payload::{Payload, PayloadStoreError};

/// No test waits longer for something that should come at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// A clock that goes when it is told to.
pub struct ManualClock(watch::Sender<Timestamp>);

impl ManualClock {
    fn advance(&self, by: Duration) {
        self.0
            .send_modify(|now| *now = super::events::later(*now, by));
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    async fn sleep_until(&self, deadline: Timestamp) {
        let mut now = self.0.subscribe();
        // The sender lives as long as the clock.
        now.wait_for(|now| *now >= deadline).await.unwrap();
    }

    async fn sleep(&self, duration: Duration) {
        self.sleep_until(super::events::later(self.now(), duration))
            .await;
    }
}

/// An evaluator that knows paths only: `.`, `.a.b`, `.[0]`. Can be told to be away.
#[derive(Default)]
pub struct PathsForTests {
    away: Arc<AtomicBool>,
}

struct PathsProgram(Vec<String>, Arc<AtomicBool>);

impl Expressions for PathsForTests {
    fn compile(
        &self,
        expressions: &[String],
        _: &[String],
    ) -> Result<Arc<dyn Program>, ExpressionError> {
        Ok(Arc::new(PathsProgram(
            expressions.to_vec(),
            Arc::clone(&self.away),
        )))
    }

    fn digest(&self) -> Digest {
        Digest::of(b"paths")
    }
}

impl Program for PathsProgram {
    fn evaluate(&self, index: usize, input: &Value, _: &[Value]) -> Result<Value, ExpressionError> {
        if self.1.load(Ordering::SeqCst) {
            return Err(ExpressionError::Unavailable("away".to_owned()));
        }
        let mut pointer = self.0[index]
            .trim()
            .replace('.', "/")
            .replace(['[', ']'], "");
        if pointer == "/" {
            pointer.clear();
        }
        Ok(input.pointer(&pointer).cloned().unwrap_or(Value::Null))
    }
}

/// A payload store in memory. Can be told to be away.
#[derive(Default)]
pub struct MemoryPayloads {
    values: Mutex<HashMap<Digest, Bytes>>,
    away: AtomicBool,
}

#[async_trait]
impl PayloadStore for MemoryPayloads {
    async fn put(&self, bytes: Bytes) -> Result<Digest, PayloadStoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(PayloadStoreError::Unavailable("away".into()));
        }
        let digest = Digest::of(&bytes);
        lock(&self.values).insert(digest, bytes);
        Ok(digest)
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, PayloadStoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(PayloadStoreError::Unavailable("away".into()));
        }
        lock(&self.values)
            .get(digest)
            .cloned()
            .ok_or(PayloadStoreError::NotFound(*digest))
    }

    async fn sweep(&self, live: &HashSet<Digest>, _: Duration) -> Result<u64, PayloadStoreError> {
        let mut values = lock(&self.values);
        let before = values.len();
        values.retain(|digest, _| live.contains(digest));
        Ok((before - values.len()) as u64)
    }
}

/// An attempt that a test ends.
pub struct Attempt {
    task: ActivityTask,
    context: AttemptContext,
    answer: oneshot::Sender<AttemptOutcome>,
}

impl Attempt {
    fn end(self, result: Result<Value, Failure>) {
        let mut receipt = Receipt::default();
        receipt.add("cpu_us", 7);
        // An attempt that was abandoned needs no outcome.
        let _ = self.answer.send(AttemptOutcome {
            result: result.map(|value| Payload::json(&value)),
            receipt,
        });
    }
}

/// An executor that answers by itself to `t.echo` (its input), `t.fail` (a permanent
/// failure) and `t.big` (a text of that many bytes), and lets the test end `t.hand`,
/// and others whose names begin with `t.hand`.
pub struct ScriptedExecutor {
    by_hand: mpsc::UnboundedSender<Attempt>,
    /// Attempts begun, by activity type.
    begun: Mutex<HashMap<String, u64>>,
}

#[async_trait]
impl ActivityExecutor for ScriptedExecutor {
    async fn execute(&self, task: ActivityTask, context: AttemptContext) -> AttemptOutcome {
        *lock(&self.begun)
            .entry(task.activity_type.clone())
            .or_default() += 1;
        let input = task.input.to_json().unwrap();
        let result = match task.activity_type.as_str() {
            "t.echo" => Ok(input),
            "t.fail" => Err(Failure::permanent("broken", "as it was told")),
            "t.big" => Ok(json!("x".repeat(input["n"].as_u64().unwrap() as usize))),
            "t.panic" => panic!("as it was told"),
            _ => {
                let (answer, answered) = oneshot::channel();
                let attempt = Attempt {
                    task,
                    context: context.clone(),
                    answer,
                };
                self.by_hand.send(attempt).unwrap();
                // A test that drops an attempt wants it to go on for ever.
                return match answered.await {
                    Ok(outcome) => outcome,
                    Err(_) => std::future::pending().await,
                };
            }
        };
        let mut receipt = Receipt::default();
        receipt.add("cpu_us", 5);
        AttemptOutcome {
            result: result.map(|value| Payload::json(&value)),
            receipt,
        }
    }
}

/// Definitions by type; the last one is the active one.
#[derive(Default)]
pub struct TestDefinitions(Mutex<HashMap<String, (Digest, Arc<Flow>)>>);

impl TestDefinitions {
    fn pinned(&self, name: &str) -> PinnedDefinition {
        let (digest, flow) = lock(&self.0)[name].clone();
        let pin = |name: &str| {
            let pin = PinnedActivity {
                activity_type: name.to_owned(),
                version: Some(semver::Version::new(1, 0, 0)),
                digest: Some(Digest::of(b"plugin t")),
                queue: "general-queue".to_owned(),
                timeouts: ActivityTimeouts {
                    start_to_close: Some(Duration::from_secs(300)),
                    ..ActivityTimeouts::default()
                },
                retry: RetryPolicy::default(),
            };
            (name.to_owned(), pin)
        };
        let names = ["t.echo", "t.fail", "t.big", "t.panic", "t.hand", "t.hand2"];
        PinnedDefinition {
            workflow_type: flow.workflow_type(),
            version: flow.document.version.clone(),
            digest,
            flow,
            activities: Arc::new(names.into_iter().map(pin).collect::<BTreeMap<_, _>>()),
        }
    }
}

#[async_trait]
impl Definitions for TestDefinitions {
    async fn pin(
        &self,
        _: &str,
        reference: &WorkflowReference,
    ) -> Result<PinnedDefinition, Failure> {
        if !lock(&self.0).contains_key(&reference.workflow_type) {
            return Err(Failure::permanent(
                kind::UNKNOWN_WORKFLOW,
                format!("there is no workflow {:?}", reference.workflow_type),
            ));
        }
        Ok(self.pinned(&reference.workflow_type))
    }

    async fn load(&self, _: &str, digest: &Digest) -> Result<Arc<Flow>, Failure> {
        let found = lock(&self.0)
            .values()
            .find(|(found, _)| found == digest)
            .map(|(_, flow)| Arc::clone(flow));
        found.ok_or_else(|| Failure::permanent(kind::UNKNOWN_WORKFLOW, "no such digest"))
    }
}

fn flow(name: &str, tasks: &str) -> Flow {
    let text = format!(
        "document: {{dsl: '1.0.3', namespace: test, name: {name}, version: '0.1.0'}}\ndo:\n{tasks}"
    );
    Flow::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// An engine and all that it is given.
pub struct Bench {
    engine: Option<EmbeddedEngine>,
    options: EmbeddedOptions,
    clock: Arc<ManualClock>,
    /// Those of the engine that was opened last.
    timers: Mutex<Arc<ClockTimers>>,
    definitions: Arc<TestDefinitions>,
    payloads: Arc<MemoryPayloads>,
    away: Arc<AtomicBool>,
    executor: Arc<ScriptedExecutor>,
    attempts: mpsc::UnboundedReceiver<Attempt>,
    started: AtomicU64,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut EmbeddedOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let queues = BTreeMap::from([("narrow".to_owned(), 1)]);
        let mut options = EmbeddedOptions::new(folder.path().join("history.db"), queues);
        options.activation_threads = 2;
        change(&mut options);
        let (by_hand, attempts) = mpsc::unbounded_channel();
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let clock = Arc::new(ManualClock(watch::channel(start).0));
        let mut bench = Self {
            engine: None,
            options,
            timers: Mutex::new(Arc::new(ClockTimers::new(Arc::clone(&clock) as _))),
            clock,
            definitions: Arc::new(TestDefinitions::default()),
            payloads: Arc::new(MemoryPayloads::default()),
            away: Arc::new(AtomicBool::new(false)),
            executor: Arc::new(ScriptedExecutor {
                by_hand,
                begun: Mutex::default(),
            }),
            attempts,
            started: AtomicU64::new(0),
            folder,
        };
        bench.open().await;
        bench
    }

    async fn open(&mut self) {
        self.engine = Some(self.try_open().await.unwrap());
    }

    async fn try_open(&self) -> Result<EmbeddedEngine, OpenError> {
        let timers = Arc::new(ClockTimers::new(Arc::clone(&self.clock) as _));
        let opened =
            EmbeddedEngine::open_with(self.options.clone(), self.host(), Arc::clone(&timers) as _)
                .await?;
        *lock(&self.timers) = timers;
        Ok(opened)
    }

    fn host(&self) -> Host {
        let expressions = PathsForTests {
            away: Arc::clone(&self.away),
        };
        Host {
            executor: Arc::clone(&self.executor) as _,
            definitions: Arc::clone(&self.definitions) as _,
            expressions: Arc::new(expressions),
            payloads: Arc::clone(&self.payloads) as _,
            clock: Arc::clone(&self.clock) as _,
        }
    }

    /// When the next thing is to happen.
    fn next_at(&self) -> Option<Timestamp> {
        lock(&self.timers).next_at()
    }

    /// Stops as a crash would, and opens again. Attempts of before are gone.
    async fn crash(&mut self) {
        self.stop().await;
        self.open().await;
    }

    async fn stop(&mut self) {
        let engine = self.engine.take().unwrap();
        engine.abort().await;
        drop(engine);
        while self.attempts.try_recv().is_ok() {}
    }

    fn engine(&self) -> &EmbeddedEngine {
        self.engine.as_ref().unwrap()
    }

    /// Uploads a flow as `test.NAME`.
    fn define(&self, name: &str, tasks: &str) {
        let digest = Digest::of(format!("{name}\n{tasks}").as_bytes());
        let flow = Arc::new(flow(name, tasks));
        lock(&self.definitions.0).insert(format!("test.{name}"), (digest, flow));
    }

    fn request(&self, name: &str, id: &str, input: Value) -> StartWorkflow {
        StartWorkflow {
            namespace: "default".to_owned(),
            workflow_id: id.to_owned(),
            definition: self.definitions.pinned(&format!("test.{name}")),
            task_queue: None,
            input: Payload::json(&input),
            search_attributes: BTreeMap::new(),
            id_reuse_policy: IdReusePolicy::default(),
            id_conflict_policy: IdConflictPolicy::default(),
            idempotency_key: None,
            memo: BTreeMap::new(),
            traceparent: None,
            signal: None,
        }
    }

    async fn start(&self, name: &str, input: Value) -> RunRef {
        let number = self.started.fetch_add(1, Ordering::SeqCst);
        self.start_as(name, &format!("{name}-{number}"), input)
            .await
    }

    async fn start_as(&self, name: &str, id: &str, input: Value) -> RunRef {
        let request = self.request(name, id, input);
        let started = self.engine().start(request).await.unwrap();
        assert!(started.created);
        RunRef {
            namespace: "default".to_owned(),
            workflow_id: id.to_owned(),
            run_id: Some(started.run_id),
        }
    }

    async fn end(&self, run: &RunRef) -> RunResult {
        // The clock stands still, so the time that is over is the real one.
        let ended = self.engine().result(run, Duration::MAX);
        match tokio::time::timeout(PATIENCE, ended).await {
            Ok(result) => result.unwrap().unwrap(),
            Err(_) => panic!("still open: {:#?}", self.engine().describe(run).await),
        }
    }

    async fn result(&self, run: &RunRef) -> Value {
        match self.end(run).await.outcome {
            Ok(payload) => payload.to_json().unwrap(),
            Err(failure) => panic!("{failure:#?}"),
        }
    }

    async fn failure(&self, run: &RunRef) -> Failure {
        self.end(run).await.outcome.unwrap_err()
    }

    /// The next attempt that a test ends by hand.
    async fn attempt(&mut self) -> Attempt {
        tokio::time::timeout(PATIENCE, self.attempts.recv())
            .await
            .expect("an attempt should have begun")
            .unwrap()
    }

    async fn events(&self, run: &RunRef) -> Vec<HistoryEvent> {
        let page = self
            .engine()
            .history(run, 0, 10_000, Duration::ZERO)
            .await
            .unwrap();
        for (index, event) in (1..).zip(&page.events) {
            assert_eq!(event.event_id, index);
        }
        page.events
    }

    async fn kinds(&self, run: &RunRef) -> Vec<String> {
        let events = self.events(run).await;
        events.into_iter().map(|event| event.event_type).collect()
    }

    /// Waits until a run has an event of that type.
    async fn until_event(&self, run: &RunRef, kind: &str) -> HistoryEvent {
        let mut after = 0;
        loop {
            let page = self.engine().history(run, after, 100, Duration::MAX);
            let page = match tokio::time::timeout(PATIENCE, page).await {
                Ok(page) => page.unwrap().events,
                Err(_) => Vec::new(),
            };
            assert!(
                !page.is_empty(),
                "no {kind} came: {:?}",
                self.kinds(run).await
            );
            for event in page {
                after = event.event_id;
                if event.event_type == kind {
                    return event;
                }
            }
        }
    }

    /// Waits until it is so.
    async fn until(&self, what: &str, so: impl AsyncFn() -> bool) {
        let looks = async {
            while !so().await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, looks)
            .await
            .unwrap_or_else(|_| panic!("this never came true: {what}"));
    }

    /// The run's first activity, once it waits for its next attempt.
    async fn backing_off(&self, run: &RunRef) -> PendingActivity {
        let pending = async || {
            let mut description = self.engine().describe(run).await.unwrap();
            description.pending_activities.swap_remove(0)
        };
        self.until("it backs off", async || {
            pending().await.state == PendingState::BackingOff
        })
        .await;
        pending().await
    }

    fn begun(&self, activity: &str) -> u64 {
        lock(&self.executor.begun)
            .get(activity)
            .copied()
            .unwrap_or(0)
    }

    /// The transitions of a run: how often it was committed.
    async fn commits(&self, run: &RunRef) -> usize {
        let core = &self.engine().core;
        let transitions = core.store.transitions(run.run_id.unwrap(), 0, 10_000);
        transitions.await.unwrap().len()
    }

    fn database(&self) -> PathBuf {
        self.options.storage.database().to_owned()
    }
}

fn run(id: &str) -> RunRef {
    RunRef {
        namespace: "default".to_owned(),
        workflow_id: id.to_owned(),
        run_id: None,
    }
}

fn progress(completed: u64) -> Progress {
    Progress {
        completed,
        total: 10,
        message: "pages".to_owned(),
    }
}
