//! The Temporal engine: runs on a Temporal cluster, on `temporalio-sdk-core`.
//!
//! The way of a run:
//!
//! 1. [`client`] starts it on the cluster, with what it is [pinned](pins) to in a header.
//!    One that came without is pinned in its first step, by a local activity.
//! 2. One core worker for each namespace and queue ([`worker`]) takes workflow tasks of
//!    any type. [`activation`] turns the jobs of an activation into what resolved, lets
//!    the driver answer, and turns its commands into core's ([`run`]), one to one.
//! 3. The same worker takes activity tasks of any type ([`attempt`]) and runs them by the
//!    same executor under the same timeouts as the embedded engine; retries are the
//!    cluster's.
//! 4. What the API asks is asked of the cluster: [`client`], [`describe`], [`history`];
//!    what only a run's driver knows, of the run by way of its worker: [`queries`],
//!    [`updates`]. Its [`schedules`] are the cluster's own.
//!
//! So the history is Temporal's own, and any process with a worker may go on with a run.
//! A driver that is not in memory is rebuilt by core's replay, which compares each
//! command's kind, id and type with the recorded one; a difference fails the workflow
//! task and the run stays open. All names of the SDK are in [`sdk`].

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails should panic")
)]

mod access;
mod activation;
mod attempt;
mod attributes;
mod client;
mod connection;
mod convert;
mod core;
mod describe;
mod events;
mod filter;
mod history;
mod json;
mod lost;
mod namespaces;
mod options;
mod outcome;
mod pages;
mod pins;
mod profile;
mod queries;
pub(crate) mod replay;
mod report;
mod run;
mod schedules;
mod sdk;
mod search;
mod updates;
mod worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use access::{Access, Source};
pub use connection::{Cluster, look};
pub use options::{OpenError, Resources, Tasks, TemporalOptions};
pub use profile::{Profile, ProfileFile};

use self::core::Core;
use crate::activity::{AttemptReceipt, CancelReason};
use crate::embedded::{Host, lock, pool::Pool};
use crate::engine::{
    Engine, EngineError, HistoryPage, ListRuns, LiveEvent, QueueStats, RunDescription, RunPage,
    RunRef, RunResult, StartWorkflow, Started, UpdateStatus,
};
use crate::live::LiveEvents;
use crate::payload::{Digest, Payload};
use crate::replay::RecordedHistory;
use crate::signal::Signal;

/// How long the workers may take to end once nothing runs, or all that runs is asked to stop:
/// the cluster may be away, and keeps what was not told to it.
const END: Duration = Duration::from_secs(15);

/// How soon an attempt that begins during the end is asked to stop.
const LOOK: Duration = Duration::from_millis(50);

/// An engine whose runs are on a Temporal cluster. Dropping it stops taking tasks;
/// [`drain`](Engine::drain) stops it gently.
pub struct TemporalEngine {
    core: Arc<Core>,
    stop: CancellationToken,
    serving: Mutex<Option<JoinHandle<()>>>,
    /// What core's workers are made of; it outlives them.
    _runtime: Arc<sdk::CoreRuntime>,
}

impl std::fmt::Debug for TemporalEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TemporalEngine")
            .field("address", &self.core.options.address)
            .finish_non_exhaustive()
    }
}

impl TemporalEngine {
    /// Opens an engine. A cluster that is away is waited for in the background; until it
    /// is there, requests are [`Unavailable`](EngineError::Unavailable). Must be called
    /// on a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// As [`OpenError`] says.
    pub fn open(options: TemporalOptions, host: Host) -> Result<Self, OpenError> {
        options.check()?;
        let runtime = sdk::CoreRuntime::new_assume_tokio(sdk::RuntimeOptions::default())
            .map_err(|error| OpenError::Sdk(format!("{error:#}")))?;
        let runtime = Arc::new(runtime);
        let queues = || {
            let names = options.queues.keys();
            names
                .map(|name| (name.clone(), core::Queue::default()))
                .collect()
        };
        let namespaces = options.namespaces.keys();
        let core = Arc::new(Core {
            queues: namespaces.map(|name| (name.clone(), queues())).collect(),
            host,
            pool: Pool::start(options.activation_threads, Arc::default())?,
            connection: watch::channel(None).0,
            away: Mutex::new("it was not tried yet".to_owned()),
            answered: Mutex::default(),
            running: Mutex::new(HashMap::new()),
            live: LiveEvents::default(),
            elsewhere: Mutex::default(),
            cursors: history::Cursors::default(),
            search_types: Mutex::default(),
            draining: AtomicBool::new(false),
            options,
        });
        let stop = CancellationToken::new();
        let serving = tokio::spawn(worker::serve(
            Arc::clone(&core),
            Arc::clone(&runtime),
            stop.clone(),
        ));
        Ok(Self {
            core,
            stop,
            serving: Mutex::new(Some(serving)),
            _runtime: runtime,
        })
    }

    /// Waits up to `wait` until the cluster was reached; answers whether it was.
    pub async fn connected(&self, wait: Duration) -> bool {
        let mut connection = self.core.connection.subscribe();
        let connected = connection.wait_for(Option::is_some);
        matches!(tokio::time::timeout(wait, connected).await, Ok(Ok(_)))
    }

    /// Whether the cluster is there: it answered within the last 15 seconds. It is asked all
    /// the time, by an engine that takes no tasks too.
    #[must_use]
    pub fn is_cluster_there(&self) -> bool {
        self.core.is_cluster_there()
    }
}

impl Drop for TemporalEngine {
    fn drop(&mut self) {
        self.core.draining.store(true, Ordering::Release);
        self.stop.cancel();
    }
}

#[async_trait]
impl Engine for TemporalEngine {
    async fn start(&self, request: StartWorkflow) -> Result<Started, EngineError> {
        client::start(&self.core, request).await
    }

    async fn result(&self, run: &RunRef, wait: Duration) -> Result<Option<RunResult>, EngineError> {
        client::result(&self.core, run, wait).await
    }

    async fn describe(&self, run: &RunRef) -> Result<RunDescription, EngineError> {
        describe::describe(&self.core, run).await
    }

    async fn list(&self, request: &ListRuns) -> Result<RunPage, EngineError> {
        describe::list(&self.core, request).await
    }

    /// The cluster's visibility store is written after the histories.
    fn lists_lag(&self) -> bool {
        true
    }

    async fn count(&self, namespace: &str, query: Option<&str>) -> Result<u64, EngineError> {
        describe::count(&self.core, namespace, query).await
    }

    async fn history(
        &self,
        run: &RunRef,
        after: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<HistoryPage, EngineError> {
        history::page(&self.core, run, after, limit, wait).await
    }

    async fn recorded(&self, run: &RunRef) -> Result<RecordedHistory, EngineError> {
        history::recorded(&self.core, run).await
    }

    async fn signal(&self, run: &RunRef, signal: Signal) -> Result<(), EngineError> {
        client::signal(&self.core, run, signal).await
    }

    async fn query(
        &self,
        run: &RunRef,
        name: &str,
        arguments: Payload,
    ) -> Result<Payload, EngineError> {
        queries::request(&self.core, run, name, arguments).await
    }

    async fn update(
        &self,
        run: &RunRef,
        update: Signal,
        wait: Duration,
    ) -> Result<UpdateStatus, EngineError> {
        updates::request(&self.core, run, update, wait).await
    }

    async fn update_result(
        &self,
        run: &RunRef,
        update_id: &str,
        wait: Duration,
    ) -> Result<UpdateStatus, EngineError> {
        updates::result(&self.core, run, update_id, wait).await
    }

    async fn cancel(&self, run: &RunRef, reason: &str) -> Result<(), EngineError> {
        client::cancel(&self.core, run, reason).await
    }

    async fn terminate(&self, run: &RunRef, reason: &str) -> Result<(), EngineError> {
        client::terminate(&self.core, run, reason).await
    }

    async fn lost_attempts(&self, run: &RunRef) -> Result<Vec<AttemptReceipt>, EngineError> {
        lost::attempts(&self.core, run).await
    }

    fn live(&self, run_id: Uuid) -> broadcast::Receiver<LiveEvent> {
        self.core.live.follow(run_id)
    }

    fn tell(&self, run_id: Uuid, event: LiveEvent) {
        self.core.tell(run_id, event);
    }

    async fn open_runs_using(&self, digest: &Digest) -> Result<u64, EngineError> {
        describe::open_runs_using(&self.core, digest).await
    }

    fn queues(&self) -> Vec<QueueStats> {
        self.core.stats()
    }

    async fn drain(&self, grace: Duration) {
        let core = &self.core;
        if core.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        self.stop.cancel();
        let serving = lock(&self.serving).take();
        if let Some(mut serving) = serving {
            tokio::select! {
                // It ends with its last attempt; at once where none runs.
                _ = &mut serving => {}
                () = stop_all(core, grace) => {
                    tracing::warn!(
                        "Temporal's workers did not end in time; the cluster will notice"
                    );
                    serving.abort();
                }
            }
        }
        core.pool.stop();
    }
}

/// Asks all attempts to stop when the grace is over. Those that begin meanwhile have the rest
/// of it: a poll of before may be answered while the workers end. Returns when these have
/// had their time to end.
async fn stop_all(core: &Core, grace: Duration) {
    let begun = Instant::now();
    let mut last_ran = begun;
    loop {
        {
            let running = lock(&core.running);
            if begun.elapsed() >= grace {
                for attempt in running.values() {
                    (attempt.stop)(CancelReason::Shutdown);
                }
            }
            if !running.is_empty() {
                last_ran = Instant::now();
            }
        }
        // Where nothing has run for so long, nothing will come any more.
        if last_ran.elapsed() >= END || begun.elapsed() >= grace.saturating_add(END) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}
