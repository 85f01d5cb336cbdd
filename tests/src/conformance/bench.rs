//! An engine under test, and what a test gives it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use heyday_durable::activity::{
    ActivityExecutor, ActivityTask, ActivityTimeouts, AttemptContext, AttemptOutcome, Receipt,
    RetryPolicy,
};
use heyday_durable::clock::SystemClock;
use heyday_durable::definition::{
    Definitions, PinnedActivity, PinnedDefinition, WorkflowReference,
};
use heyday_durable::embedded::{EmbeddedEngine, EmbeddedOptions, Host};
use heyday_durable::engine::{
    Engine, EngineError, ExecutionStatus, HistoryEvent, IdConflictPolicy, IdReusePolicy, RunRef,
    RunResult, StartWorkflow,
};
use heyday_durable::expressions::{ExpressionError, Expressions, Program};
use heyday_durable::failure::{Failure, kind};
use heyday_durable::flow::Flow;
use heyday_durable::payload::{Digest, Payload, PayloadStore, PayloadStoreError};
use heyday_durable::replay::{HistoryError, RecordedHistory, ReplayError, ReplayReport, Replayer};
use heyday_durable::temporal::{Access, Tasks, TemporalEngine, TemporalOptions};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::support::{cluster, temporal};

/// No test waits longer for something that should come soon.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The namespace of all runs.
pub const NAMESPACE: &str = "default";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An evaluator that knows paths only: `.`, `.a.b`.
struct Paths;

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

/// A payload store in memory.
#[derive(Default)]
pub struct MemoryPayloads(Mutex<HashMap<Digest, Bytes>>);

impl MemoryPayloads {
    /// How many values it has.
    pub fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

#[async_trait]
impl PayloadStore for MemoryPayloads {
    async fn put(&self, bytes: Bytes) -> Result<Digest, PayloadStoreError> {
        let digest = Digest::of(&bytes);
        lock(&self.0).insert(digest, bytes);
        Ok(digest)
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, PayloadStoreError> {
        let found = lock(&self.0).get(digest).cloned();
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
struct Scripted {
    by_hand: mpsc::UnboundedSender<Attempt>,
    begun: Arc<Mutex<HashMap<String, u64>>>,
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
struct Definitions_ {
    active: Mutex<HashMap<String, (Digest, Arc<Flow>)>>,
    all: Mutex<HashMap<Digest, Arc<Flow>>>,
    loaded: AtomicU64,
}

/// The digest of the plugin `t`.
pub fn plugin() -> Digest {
    Digest::of(b"plugin t")
}

impl Definitions_ {
    fn pinned(&self, name: &str) -> Option<PinnedDefinition> {
        let (digest, flow) = lock(&self.active).get(name)?.clone();
        Some(Self::pin_all(digest, flow))
    }

    fn pin_all(digest: Digest, flow: Arc<Flow>) -> PinnedDefinition {
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
impl Definitions for Definitions_ {
    async fn pin(
        &self,
        _: &str,
        reference: &WorkflowReference,
    ) -> Result<PinnedDefinition, Failure> {
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

/// Which engine, and where its histories are.
enum Place {
    Embedded {
        options: EmbeddedOptions,
        /// Removed with the bench.
        _folder: tempfile::TempDir,
    },
    Temporal(TemporalOptions),
}

/// An engine and all that it is given.
pub struct Bench {
    engine: Option<Arc<dyn Engine>>,
    place: Place,
    host: Host,
    definitions: Arc<Definitions_>,
    /// Values that were stored apart.
    pub payloads: Arc<MemoryPayloads>,
    replayer: Replayer,
    begun: Arc<Mutex<HashMap<String, u64>>>,
    attempts: mpsc::UnboundedReceiver<Attempt>,
    started: AtomicU64,
}

impl Bench {
    /// On the embedded engine.
    pub async fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = EmbeddedOptions::new(folder.path().join("history.db"), queues());
        options.activation_threads = 2;
        options.limits.depth = 3;
        let place = Place::Embedded {
            options,
            _folder: folder,
        };
        Self::on(place).await
    }

    /// On a Temporal cluster; `None` where there is none.
    pub async fn temporal() -> Option<Self> {
        let (address, namespace) = temporal::namespace()?;
        Some(Self::on(Place::Temporal(temporal_options(address, namespace))).await)
    }

    /// On the real Temporal server; `None` where there is none.
    pub async fn real() -> Option<Self> {
        let (address, namespace, access) = cluster::namespace()?;
        Some(Self::temporal_by(address, namespace, access).await)
    }

    /// On the Temporal cluster at that address, which may be away.
    pub async fn temporal_at(address: String) -> Self {
        Self::on(Place::Temporal(temporal_options(
            address,
            "default".to_owned(),
        )))
        .await
    }

    /// On the Temporal cluster at that address, which is reached so and is there.
    pub async fn temporal_by(address: String, namespace: String, access: Access) -> Self {
        let mut options = temporal_options(address, namespace);
        options.access = access;
        Self::on(Place::Temporal(options)).await
    }

    async fn on(place: Place) -> Self {
        let (by_hand, attempts) = mpsc::unbounded_channel();
        let begun: Arc<Mutex<HashMap<String, u64>>> = Arc::default();
        let definitions: Arc<Definitions_> = Arc::default();
        let payloads: Arc<MemoryPayloads> = Arc::default();
        let executor = Scripted {
            by_hand,
            begun: Arc::clone(&begun),
        };
        let replayer = Replayer::new(Arc::new(Paths), Arc::clone(&payloads) as _, 1).unwrap();
        let host = Host {
            executor: Arc::new(executor),
            definitions: Arc::clone(&definitions) as _,
            expressions: Arc::new(Paths),
            payloads: Arc::clone(&payloads) as _,
            clock: Arc::new(SystemClock),
        };
        let mut bench = Self {
            engine: None,
            place,
            host,
            definitions,
            payloads,
            replayer,
            begun,
            attempts,
            started: AtomicU64::new(0),
        };
        bench.open().await;
        bench
    }

    async fn open(&mut self) {
        let host = self.host.clone();
        let engine: Arc<dyn Engine> = match &self.place {
            Place::Embedded { options, .. } => {
                Arc::new(EmbeddedEngine::open(options.clone(), host).await.unwrap())
            }
            Place::Temporal(options) => {
                let engine = TemporalEngine::open(options.clone(), host).unwrap();
                Arc::new(engine)
            }
        };
        self.engine = Some(engine);
        if matches!(self.place, Place::Temporal(_)) {
            self.until_reached().await;
        }
    }

    /// Waits until the cluster answers, where it is there at all.
    async fn until_reached(&self) {
        let Place::Temporal(options) = &self.place else {
            return;
        };
        if tokio::net::TcpStream::connect(&options.address)
            .await
            .is_ok()
        {
            self.until("the cluster answers", async || self.is_reachable().await)
                .await;
        }
    }

    /// Whether requests are answered.
    pub async fn is_reachable(&self) -> bool {
        !matches!(
            self.engine().open_runs_using(&plugin()).await,
            Err(EngineError::Unavailable { .. })
        )
    }

    /// Stops gently, but at once, and opens again.
    pub async fn restart(&mut self) {
        self.drain().await;
        self.open().await;
    }

    /// Stops gently, but at once, and opens again: runs that are started then continue as
    /// new after so many events.
    pub async fn with_short_histories(&mut self, events: u64) {
        self.drain().await;
        let limits = match &mut self.place {
            Place::Embedded { options, .. } => &mut options.limits,
            Place::Temporal(options) => &mut options.limits,
        };
        limits.history_events = events;
        self.open().await;
    }

    /// The runs that went on as each other from this one, in their order.
    pub async fn chain(&self, first: &RunRef) -> Vec<RunRef> {
        let mut chain = vec![first.clone()];
        loop {
            let last = chain.last().unwrap();
            let described = self.engine().describe(last).await.unwrap();
            assert_eq!(Some(described.first_run_id), first.run_id);
            let before = chain.len().checked_sub(2).map(|at| &chain[at]);
            assert_eq!(
                described.continued_from,
                before.and_then(|before| before.run_id)
            );
            assert_eq!(
                described.continued_as.is_some(),
                described.info.status == ExecutionStatus::ContinuedAsNew
            );
            let Some(next) = described.continued_as else {
                return chain;
            };
            chain.push(RunRef {
                run_id: Some(next),
                ..first.clone()
            });
        }
    }

    /// Stops gently, but at once, and opens again to ask only: nobody takes a task. On a
    /// cluster.
    pub async fn leave_to_others(&mut self) {
        self.drain().await;
        if let Place::Temporal(options) = &mut self.place {
            options.tasks = Tasks::None;
            options.patience = Duration::from_secs(1);
        }
        self.open().await;
    }

    /// Stops gently, but at once.
    pub async fn drain(&mut self) {
        let engine = self.engine.take().unwrap();
        engine.drain(Duration::ZERO).await;
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        self.engine.as_ref().unwrap()
    }

    /// The cluster's address, and its name of the namespace; `None` where there is none.
    pub fn cluster(&self) -> Option<(String, String)> {
        match &self.place {
            Place::Embedded { .. } => None,
            Place::Temporal(options) => Some((
                options.address.clone(),
                options.namespaces[NAMESPACE].clone(),
            )),
        }
    }

    /// Whether the cluster keeps what lists look through in PostgreSQL.
    pub fn is_on_postgres(&self) -> bool {
        // Of the servers of the tests, that one alone wants a certificate.
        matches!(&self.place, Place::Temporal(options) if options.access.client_cert.is_some())
    }

    /// How often a definition was loaded again: for each driver that was made anew.
    pub fn loaded(&self) -> u64 {
        self.definitions.loaded.load(Ordering::Relaxed)
    }

    /// Uploads a flow as `test.NAME` and makes it the active one.
    pub fn define(&self, name: &str, tasks: &str) {
        self.define_about(name, "", tasks);
    }

    /// The same, with further members of its `document`.
    pub fn define_about(&self, name: &str, about: &str, tasks: &str) {
        let text = format!(
            "document: {{dsl: '1.0.3', namespace: test, name: {name}, version: '0.1.0'{about}}}\ndo:\n{tasks}"
        );
        let flow = Flow::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let (digest, flow) = (Digest::of(text.as_bytes()), Arc::new(flow));
        lock(&self.definitions.all).insert(digest, Arc::clone(&flow));
        lock(&self.definitions.active).insert(format!("test.{name}"), (digest, flow));
    }

    /// A start of `test.NAME`.
    pub fn request(&self, name: &str, id: &str, input: Value) -> StartWorkflow {
        StartWorkflow {
            namespace: NAMESPACE.to_owned(),
            workflow_id: id.to_owned(),
            definition: self.definitions.pinned(&format!("test.{name}")).unwrap(),
            input: Payload::json(&input),
            id_reuse_policy: IdReusePolicy::default(),
            id_conflict_policy: IdConflictPolicy::default(),
            idempotency_key: None,
            memo: BTreeMap::new(),
            search_attributes: BTreeMap::new(),
            traceparent: None,
            signal: None,
        }
    }

    /// Starts `test.NAME`.
    pub async fn start(&self, name: &str, input: Value) -> RunRef {
        let number = self.started.fetch_add(1, Ordering::SeqCst);
        self.start_as(name, &format!("{name}-{number}"), input)
            .await
    }

    /// Starts `test.NAME` under that id.
    pub async fn start_as(&self, name: &str, id: &str, input: Value) -> RunRef {
        let started = self
            .engine()
            .start(self.request(name, id, input))
            .await
            .unwrap();
        assert!(started.created);
        RunRef {
            run_id: Some(started.run_id),
            ..run(id)
        }
    }

    /// How a run ended. Whatever it did, its history replays.
    pub async fn end(&self, run: &RunRef) -> RunResult {
        match self.engine().result(run, PATIENCE).await.unwrap() {
            Some(result) => {
                self.replays(run).await;
                result
            }
            None => panic!(
                "still open: {:#?}\n{:#?}",
                self.engine().describe(run).await,
                self.events(run).await
            ),
        }
    }

    /// All that is recorded of a run.
    pub async fn recorded(&self, run: &RunRef) -> RecordedHistory {
        self.engine().recorded(run).await.unwrap()
    }

    /// Checks that a run's history, as far as it is, replays bit for bit.
    pub async fn replays(&self, run: &RunRef) {
        let history = match self.engine().recorded(run).await {
            Ok(history) => history,
            // A foreign workflow's.
            Err(EngineError::History(HistoryError::NotOfAFlow { .. })) => return,
            Err(error) => panic!("{error}"),
        };
        let digest = history.about().digest.unwrap();
        let flow = lock(&self.definitions.all).get(&digest).cloned().unwrap();
        let definition = Definitions_::pin_all(digest, flow);
        let report = self.replayer.replay(&history, &definition, true).await;
        let report = report.unwrap_or_else(|error| panic!("{error}\n{}", history.to_json()));
        assert_eq!(report.difference, None, "{}", history.to_json());
    }

    /// Replays a history against the active definition of `test.NAME`.
    pub async fn replay(
        &self,
        history: &RecordedHistory,
        name: &str,
        exact: bool,
    ) -> Result<ReplayReport, ReplayError> {
        let definition = self.definitions.pinned(&format!("test.{name}")).unwrap();
        self.replayer.replay(history, &definition, exact).await
    }

    /// The same where none of the values is stored that it refers to.
    pub async fn replay_elsewhere(
        &self,
        history: &RecordedHistory,
        name: &str,
    ) -> Result<ReplayReport, ReplayError> {
        let definition = self.definitions.pinned(&format!("test.{name}")).unwrap();
        let empty = Arc::<MemoryPayloads>::default();
        let elsewhere = Replayer::new(Arc::new(Paths), empty as _, 1).unwrap();
        elsewhere.replay(history, &definition, true).await
    }

    /// The result of a run that completes.
    pub async fn result(&self, run: &RunRef) -> Value {
        match self.end(run).await.outcome {
            Ok(payload) => payload.to_json().unwrap(),
            Err(failure) => panic!("{failure:#?}"),
        }
    }

    /// The result of a run that completes, on a cluster that may not be back yet.
    pub async fn result_when_back(&self, run: &RunRef) -> Value {
        let back = async || self.engine().describe(run).await.is_ok();
        self.until("the cluster is back", back).await;
        self.result(run).await
    }

    /// The failure of a run that does not.
    pub async fn failure(&self, run: &RunRef) -> Failure {
        self.end(run).await.outcome.unwrap_err()
    }

    /// The next attempt that a test ends by hand.
    pub async fn attempt(&mut self) -> Attempt {
        tokio::time::timeout(PATIENCE, self.attempts.recv())
            .await
            .expect("an attempt should have begun")
            .unwrap()
    }

    /// All events of a run now.
    pub async fn events(&self, run: &RunRef) -> Vec<HistoryEvent> {
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

    /// The types of all events of a run that both engines have.
    pub async fn kinds(&self, run: &RunRef) -> Vec<String> {
        let events = self.events(run).await;
        events
            .into_iter()
            .map(|event| event.event_type)
            .filter(|kind| !kind.starts_with("WorkflowTask"))
            .collect()
    }

    /// Waits until a run has an event of that type.
    pub async fn until_event(&self, run: &RunRef, kind: &str) -> HistoryEvent {
        let mut after = 0;
        loop {
            let page = self
                .engine()
                .history(run, after, 100, PATIENCE)
                .await
                .unwrap();
            assert!(
                !page.events.is_empty(),
                "no {kind} came: {:?}",
                self.kinds(run).await
            );
            for event in page.events {
                after = event.event_id;
                if event.event_type == kind {
                    return event;
                }
            }
        }
    }

    /// Waits until it is so.
    pub async fn until(&self, what: &str, so: impl AsyncFn() -> bool) {
        let looks = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            while !so().await {
                ticks.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, looks)
            .await
            .unwrap_or_else(|_| panic!("this never came true: {what}"));
    }

    /// How many attempts of an activity type began.
    pub fn begun(&self, activity: &str) -> u64 {
        lock(&self.begun).get(activity).copied().unwrap_or(0)
    }
}

fn queues() -> BTreeMap<String, usize> {
    BTreeMap::from([("narrow".to_owned(), 1)])
}

fn temporal_options(address: String, namespace: String) -> TemporalOptions {
    let mut options = TemporalOptions::new(address, queues());
    options.namespaces = BTreeMap::from([(NAMESPACE.to_owned(), namespace)]);
    options.activation_threads = 2;
    options.limits.depth = 3;
    options.sticky_timeout = Duration::from_secs(1);
    options
}

/// A workflow's latest run.
pub fn run(id: &str) -> RunRef {
    RunRef {
        namespace: NAMESPACE.to_owned(),
        workflow_id: id.to_owned(),
        run_id: None,
    }
}
