//! An engine under test, and what a test gives it.

mod parts;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heyday_durable::clock::SystemClock;
use heyday_durable::embedded::{EmbeddedEngine, EmbeddedOptions, Host};
use heyday_durable::engine::{
    Engine, EngineError, ExecutionStatus, HistoryEvent, IdConflictPolicy, IdReusePolicy,
    RunDescription, RunRef, RunResult, StartWorkflow,
};
use heyday_durable::failure::Failure;
use heyday_durable::flow::Flow;
use heyday_durable::payload::{Digest, Payload};
use heyday_durable::replay::{HistoryError, RecordedHistory, ReplayError, ReplayReport, Replayer};
use heyday_durable::temporal::{Access, Source, Tasks, TemporalEngine, TemporalOptions};
use serde_json::Value;
use tokio::sync::mpsc;

pub use self::parts::{Attempt, MemoryPayloads, plugin};
use self::parts::{FlowsByName, Paths, Scripted, lock};
use crate::support::certificates::Authority;
use crate::support::front::Front;
/// No test waits longer for something that should come soon.
pub use crate::support::server::PATIENCE;
use crate::support::{cluster, pause, temporal};

/// The namespace of all runs.
pub const NAMESPACE: &str = "default";

/// How long a request waits for a cluster: one that shares a busy machine is slow, and not away.
pub const REQUEST_PATIENCE: Duration = Duration::from_secs(15);

/// Which engine, and where its histories are.
#[expect(clippy::large_enum_variant, reason = "one for each bench")]
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
    definitions: Arc<FlowsByName>,
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

    /// The same on one that has schedules.
    pub async fn temporal_with_schedules() -> Option<Self> {
        let (address, namespace) = temporal::namespace_with_schedules()?;
        Some(Self::on(Place::Temporal(temporal_options(address, namespace))).await)
    }

    /// On the real Temporal server; `None` where there is none.
    pub async fn real() -> Option<Self> {
        let (address, namespace, access) = cluster::namespace()?;
        Some(Self::temporal_by(address, namespace, access).await)
    }

    /// The same in a namespace that has schedules.
    pub async fn real_with_schedules() -> Option<Self> {
        let (address, namespace, access) = cluster::namespace_with_schedules()?;
        Some(Self::temporal_by(address, namespace, access).await)
    }

    /// On a Temporal cluster behind a front, by which a test says what becomes of requests.
    pub async fn behind_front() -> Option<(Self, Front)> {
        let (address, namespace) = temporal::namespace()?;
        let authority = Authority::new("authority");
        let front = Front::start(&address, &authority.issue("front"), None).await;
        let access = Access {
            server_ca_cert: Some(Source::Value(authority.pem.into_bytes())),
            ..Access::default()
        };
        let bench = Self::temporal_by(front.address(), namespace, access).await;
        Some((bench, front))
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
        let definitions: Arc<FlowsByName> = Arc::default();
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

    /// Stops gently, but at once, and opens again: no more drivers of waiting runs stay in
    /// memory than that.
    pub async fn with_cached_drivers(&mut self, limit: usize) {
        self.drain().await;
        match &mut self.place {
            Place::Embedded { options, .. } => options.cached_drivers = limit,
            Place::Temporal(options) => options.cached_drivers = limit,
        }
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
            options.patience = Duration::from_secs(3);
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
            task_queue: None,
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
        let definition = FlowsByName::pin_all(digest, flow);
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
            let begun = Instant::now();
            while !so().await {
                pause(begun).await;
            }
        };
        tokio::time::timeout(PATIENCE, looks)
            .await
            .unwrap_or_else(|_| panic!("this never came true: {what}"));
    }

    /// A run's description, once it tells that. A cluster's is told by the run's worker what
    /// listens and what waits, and tells less where that takes a second.
    pub async fn described(
        &self,
        run: &RunRef,
        tells: impl Fn(&RunDescription) -> bool,
    ) -> RunDescription {
        let told = Mutex::new(None);
        self.until("the description tells it", async || {
            let described = self.engine().describe(run).await.unwrap();
            let so = tells(&described);
            *lock(&told) = so.then_some(described);
            so
        })
        .await;
        let told = lock(&told).take();
        told.expect("it was told")
    }

    /// Waits until a task of the run listens.
    pub async fn until_listening(&self, run: &RunRef) {
        let listens = |described: &RunDescription| !described.pending_listens.is_empty();
        self.described(run, listens).await;
    }

    /// Where runs come without pins, the next `times` looks for them panic.
    pub fn panic_in_pin(&self, times: u64) {
        self.definitions.panics.arm(times);
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
    options.patience = REQUEST_PATIENCE;
    // Many tests wait for a cancel.
    options.keep_in_touch = Duration::from_millis(500);
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
