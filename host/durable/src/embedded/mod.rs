//! The embedded engine: event histories in SQLite, in this process.
//!
//! The way of a run:
//!
//! 1. [`start`](start::request) makes its first event, activates its driver, and hands
//!    both with the attempts that found a slot to the [`writer`] as one transition.
//! 2. The writer commits whatever is queued together, syncs once, and lets each
//!    transition's [`effects`] follow: the caller is answered, attempts are launched.
//! 3. An attempt ([`attempt`]) ends, a timer ([`timers`]) fires, a child ([`children`])
//!    ends, somebody asks for a cancel: a [`run::Message`] in the run's inbox.
//! 4. A [`step`] takes the inbox, makes events of it, lets the driver answer
//!    ([`activation`]), and is the next transition.
//!
//! [`schedules`] start runs by themselves, by the same way; a run whose history has grown
//! long goes on as another one ([`continuing`]).
//!
//! So a run with one activity takes two commits. What is in memory is a fold over the
//! events ([`state`]), made by the same function when they are recorded and when they
//! are read again ([`recovery`]). A run that only waits may leave memory; its driver is
//! then rebuilt by replay, which compares each command with the recorded one.
//!
//! Time is the host's [`Clock`], what is to happen at a time is kept by [`Timers`], and what
//! is written is kept by a [`Storage`]: they are traits, so that a simulation can drive the
//! engine. Every statement and query stays the real one on each storage, which is below
//! SQLite.
//!
//! Threads: one writes, one checkpoints, a bounded few run activations (and make the
//! commit where nobody else is at it); attempts run on the executor's runtime, everything else on the tokio runtime on which the engine was
//! opened (which must be multi-threaded).

mod activation;
mod attempt;
pub(crate) mod attributes;
mod cache;
mod checkpoint;
mod children;
mod continuing;
pub(crate) mod convert;
mod core;
mod dispatch;
mod effects;
pub(crate) mod events;
mod failpoint;
pub(crate) mod filter;
mod housekeeping;
mod ids;
mod options;
pub(crate) mod phases;
pub(crate) mod pool;
pub(crate) mod queries;
mod raw;
mod read;
mod recovery;
pub(crate) mod replay;
pub(crate) mod retry;
mod run;
mod schedules;
mod schema;
mod signals;
mod start;
pub(crate) mod state;
mod statements;
mod step;
mod storage;
mod store;
mod timers;
pub(crate) mod updates;
pub(crate) mod view;
mod watching;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use options::{Durability, EmbeddedOptions, OpenError};
pub use storage::{Claim, FileStorage, Storage};
pub use timers::{ClockTimers, Target, Timers};

use self::core::Core;
use crate::activity::{ActivityExecutor, AttemptReceipt, CancelReason};
use crate::clock::{Clock, within};
use crate::definition::Definitions;
use crate::engine::{
    Engine, EngineError, HistoryPage, ListRuns, LiveEvent, PhaseStats, QueueStats, RunDescription,
    RunPage, RunRef, RunResult, StartWorkflow, Started, UpdateStatus, WriterStats,
};
use crate::expressions::Expressions;
use crate::live::LiveEvents;
use crate::payload::{Digest, Payload, PayloadStore};
use crate::replay::RecordedHistory;
use crate::signal::Signal;
use run::{Answer, Message};
use store::unreadable;

/// What the host provides to an engine.
#[derive(Clone)]
pub struct Host {
    /// Runs attempts.
    pub executor: Arc<dyn ActivityExecutor>,
    /// Knows definitions.
    pub definitions: Arc<dyn Definitions>,
    /// Evaluates expressions.
    pub expressions: Arc<dyn Expressions>,
    /// Keeps large values.
    pub payloads: Arc<dyn PayloadStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// An engine whose histories are in a SQLite file. Dropping it stops it as a crash
/// would, which loses nothing; [`drain`](Engine::drain) stops it gently.
pub struct EmbeddedEngine {
    core: Arc<Core>,
    checkpoints: Arc<checkpoint::Pages>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl std::fmt::Debug for EmbeddedEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedEngine")
            .field("storage", &self.core.options.storage)
            .finish_non_exhaustive()
    }
}

impl EmbeddedEngine {
    /// Opens the database, makes it where it does not exist, and lets every open run go
    /// on. Must be called on a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// As [`OpenError`] says.
    pub async fn open(options: EmbeddedOptions, host: Host) -> Result<Self, OpenError> {
        let timers = Arc::new(ClockTimers::new(Arc::clone(&host.clock)));
        Self::open_with(options, host, timers).await
    }

    /// The same with other timers, which have no target yet: those of a simulation.
    ///
    /// # Errors
    /// As [`OpenError`] says.
    pub async fn open_with(
        options: EmbeddedOptions,
        host: Host,
        timers: Arc<dyn Timers>,
    ) -> Result<Self, OpenError> {
        if let Some((name, _)) = options.queues.iter().find(|(_, limit)| **limit == 0) {
            return Err(OpenError::Invalid(format!(
                "queue {name:?} has the limit 0; it must run at least 1 activity at once"
            )));
        }
        if options.activation_threads == 0 {
            return Err(OpenError::Invalid(
                "there must be at least 1 activation thread".to_owned(),
            ));
        }
        let store = store::Store::open(&options).await?;
        let last = store.last_run().await?;
        let checkpoints = Arc::new(checkpoint::Pages::default());
        let phases = Arc::<phases::Phases>::default();
        let writer = Arc::new(writer::Writer::new(
            Arc::clone(&checkpoints),
            Arc::clone(&phases),
        ));
        let threads = vec![
            write_thread(&store, &writer).await?,
            checkpoint_thread(&store, &checkpoints).await?,
        ];
        let queues = dispatch::Queues::new(&options.queues);
        let runtime = tokio::runtime::Handle::current();
        let core = Arc::new(Core {
            attempts: host.executor.runtime().unwrap_or_else(|| runtime.clone()),
            executor: host.executor,
            definitions: host.definitions,
            expressions: host.expressions,
            payloads: host.payloads,
            clock: host.clock,
            runtime,
            store,
            writer,
            pool: pool::Pool::start(options.activation_threads, Arc::clone(&phases))?,
            phases,
            queues,
            timers,
            ids: ids::RunIds::after(last),
            cache: cache::DriverCache::new(options.cached_drivers),
            runs: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            pins: Mutex::default(),
            watchers: watching::RunWatchers::default(),
            ends: watching::RunWatchers::default(),
            updates: updates::Watchers::default(),
            live: LiveEvents::default(),
            heartbeats: Mutex::default(),
            schedules: schedules::Schedules::default(),
            draining: AtomicBool::new(false),
            dead: CancellationToken::new(),
            options,
        });
        let engine = Self {
            core,
            checkpoints,
            threads: Mutex::new(threads),
        };
        let core = &engine.core;
        let granting = Arc::downgrade(core);
        core.queues.on_grant(move |waiting, slot| {
            if let Some(core) = granting.upgrade() {
                let granted = Message::Granted {
                    activity_id: waiting.activity_id,
                    attempt: waiting.attempt,
                    slot,
                };
                // A run that waits is in memory; one that has ended needs no slot, and
                // dropping it gives it to the next.
                drop(core.deliver(waiting.run_id, granted));
            }
        });
        recovery::recover(core).await?;
        schedules::recover(core).await?;
        tokio::spawn(housekeeping::keep_time(Arc::clone(core)));
        tokio::spawn(housekeeping::keep_heartbeats(Arc::clone(core)));
        Ok(engine)
    }

    /// What each ended attempt of a run used. The host rebuilds with it the receipts
    /// that it had not yet written when it stopped.
    ///
    /// # Errors
    /// When there is no such run, or the history cannot be read.
    pub async fn receipts(&self, run: &RunRef) -> Result<Vec<AttemptReceipt>, EngineError> {
        let run_id = read::run_id(&self.core, run).await?;
        Ok(read::receipts(&self.core, run_id).await?)
    }

    /// Runs that are open or ended at or after that time, ascending, after that one: those
    /// whose receipts may be missing from what a host has written behind.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub async fn runs_since(
        &self,
        since: jiff::Timestamp,
        after: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<RunRef>, EngineError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows: Vec<(Vec<u8>, String, String)> = sqlx::query_as(
            "SELECT run_id, namespace, workflow_id FROM runs
             WHERE run_id > ? AND (status = 1 OR closed_us >= ?) ORDER BY run_id LIMIT ?",
        )
        .bind(after.map_or_else(Vec::new, |after| after.as_bytes().to_vec()))
        .bind(since.as_microsecond())
        .bind(limit)
        .fetch_all(self.core.store.readers())
        .await
        .map_err(unreadable)?;
        let runs = rows.into_iter().map(|(id, namespace, workflow_id)| RunRef {
            namespace,
            workflow_id,
            run_id: Uuid::from_slice(&id).ok(),
        });
        Ok(runs.collect())
    }

    /// What the writer did since the start.
    #[must_use]
    pub fn writer_stats(&self) -> WriterStats {
        self.core.writer.stats()
    }

    /// Open runs that are in memory.
    #[must_use]
    pub fn runs_in_memory(&self) -> usize {
        lock(&self.core.runs).len()
    }

    /// Removes from the payload store what no history names and is older than `grace`,
    /// which must be longer than an activity may take (its result is stored before the
    /// history names it). Answers how many values it removed.
    ///
    /// # Errors
    /// When the history or the payload store cannot be read.
    pub async fn sweep_payloads(&self, grace: Duration) -> Result<u64, EngineError> {
        let live = self
            .core
            .store
            .payload_references()
            .await
            .map_err(unreadable)?;
        self.core
            .payloads
            .sweep(&live, grace)
            .await
            .map_err(|error| {
                let message = "the payload store cannot be swept";
                EngineError::unavailable(message, Some(Box::new(error)))
            })
    }

    /// Stops at once, as a crash would: nothing more is written or answered. For tests
    /// of recovery. Returns when no thread of the engine touches the file any more.
    pub async fn abort(&self) {
        self.stop_at_once();
        self.join().await;
        self.core.store.close().await;
    }

    fn stop_at_once(&self) {
        // The writer first: nothing that follows from stopping is to be written.
        self.core.writer.abandon();
        self.core.draining.store(true, Ordering::Release);
        self.core.queues.close();
        self.core.dead.cancel();
        self.core.pool.stop();
        self.checkpoints.stop();
    }

    async fn join(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A thread that panicked has said so.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }

    async fn ask(
        &self,
        run: &RunRef,
        message: impl FnOnce(Option<Answer>) -> Message,
    ) -> Result<(), EngineError> {
        self.core.admit()?;
        let (answer, answered) = oneshot::channel();
        let (run_id, sent) = continuing::send(&self.core, run, message(Some(answer))).await?;
        let closed = || EngineError::Closed {
            workflow_id: run.workflow_id.clone(),
            run_id,
        };
        if sent.is_err() {
            return Err(closed());
        }
        tokio::select! {
            biased;
            answered = answered => match answered {
                Ok(result) => result,
                Err(_) if self.core.is_draining() => Err(EngineError::ShuttingDown),
                Err(_) => Err(closed()),
            },
            failure = self.core.writer.failed() => Err(failure),
        }
    }
}

impl Drop for EmbeddedEngine {
    fn drop(&mut self) {
        self.stop_at_once();
    }
}

async fn write_thread(
    store: &store::Store,
    writer: &Arc<writer::Writer>,
) -> Result<std::thread::JoinHandle<()>, OpenError> {
    let connection = store.connect().await?;
    let writer = Arc::clone(writer);
    let held = store.hold();
    let thread = std::thread::Builder::new()
        .name("history-writer".to_owned())
        .spawn(move || {
            if let Err(error) = writer.run(connection) {
                tracing::error!(%error, "the history's writer cannot work");
                writer.abandon();
            }
            drop(held);
        })?;
    Ok(thread)
}

async fn checkpoint_thread(
    store: &store::Store,
    pages: &Arc<checkpoint::Pages>,
) -> Result<std::thread::JoinHandle<()>, OpenError> {
    let connection = store.connect().await?;
    let database = store.database().to_owned();
    let pages = Arc::clone(pages);
    let thread = std::thread::Builder::new()
        .name("history-checkpoint".to_owned())
        .spawn(move || pages.run(&database, connection))?;
    Ok(thread)
}

#[async_trait]
impl Engine for EmbeddedEngine {
    async fn start(&self, request: StartWorkflow) -> Result<Started, EngineError> {
        start::request(&self.core, request).await
    }

    async fn result(&self, run: &RunRef, wait: Duration) -> Result<Option<RunResult>, EngineError> {
        read::wait_for_result(&self.core, run, wait).await
    }

    async fn describe(&self, run: &RunRef) -> Result<RunDescription, EngineError> {
        read::describe(&self.core, run).await
    }

    async fn list(&self, request: &ListRuns) -> Result<RunPage, EngineError> {
        filter::list(&self.core.store, request).await
    }

    async fn count(&self, namespace: &str, query: Option<&str>) -> Result<u64, EngineError> {
        filter::count(&self.core.store, namespace, query).await
    }

    async fn history(
        &self,
        run: &RunRef,
        after: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<HistoryPage, EngineError> {
        read::history(&self.core, run, after, limit, wait).await
    }

    async fn recorded(&self, run: &RunRef) -> Result<RecordedHistory, EngineError> {
        read::recorded(&self.core, run).await
    }

    async fn signal(&self, run: &RunRef, signal: Signal) -> Result<(), EngineError> {
        signal.check()?;
        let signal = Box::new(signal);
        self.ask(run, |answer| Message::Signal { signal, answer })
            .await
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
        let reason = reason.to_owned();
        self.ask(run, |answer| Message::Cancel { reason, answer })
            .await
    }

    async fn terminate(&self, run: &RunRef, reason: &str) -> Result<(), EngineError> {
        let reason = reason.to_owned();
        self.ask(run, |answer| Message::Terminate { reason, answer })
            .await
    }

    fn live(&self, run_id: Uuid) -> broadcast::Receiver<LiveEvent> {
        self.core.live.follow(run_id)
    }

    async fn open_runs_using(&self, digest: &Digest) -> Result<u64, EngineError> {
        Ok(lock(&self.core.pins).get(digest).copied().unwrap_or(0))
    }

    fn queues(&self) -> Vec<QueueStats> {
        self.core.queues.stats(self.core.clock.now())
    }

    fn phases(&self) -> Vec<PhaseStats> {
        self.core.phases.stats()
    }

    async fn drain(&self, grace: Duration) {
        let core = &self.core;
        if core.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        core.queues.close();
        let idle = || core.queues.in_flight() == 0;
        let clock = core.clock.as_ref();
        wait_until(clock, grace, idle).await;
        // Also those whose start was still being written when the grace was over.
        let stopped = || {
            let running: Vec<_> = lock(&core.runs).values().map(Arc::clone).collect();
            for cell in &running {
                for attempt in lock(&cell.running).values() {
                    attempt.stop(CancelReason::Shutdown);
                }
            }
            idle()
        };
        // The executor's own grace for a guest, and a little.
        wait_until(clock, Duration::from_secs(10), stopped).await;
        // Outcomes that have just come in become transitions.
        let settled = || {
            lock(&core.runs)
                .values()
                .all(|cell| !lock(&cell.inbox).busy)
        };
        wait_until(clock, Duration::from_secs(5), settled).await;
        housekeeping::write_heartbeats(core);
        core.writer.stop();
        core.pool.stop();
        core.dead.cancel();
        self.checkpoints.stop();
        self.join().await;
        core.store.close().await;
    }
}

/// Looks until it is so, or the time is over.
pub(crate) async fn wait_until(clock: &dyn Clock, limit: Duration, done: impl Fn() -> bool) {
    let looks = async {
        while !done() {
            clock.sleep(Duration::from_millis(10)).await;
        }
    };
    // Over or not is what the caller looks at next.
    let _ = within(clock, limit, looks).await;
}

/// Locks. A panic elsewhere leaves nothing half done that matters more than going on:
/// the history is the truth.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

fn wait_timeout<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    limit: Duration,
) -> MutexGuard<'a, T> {
    match condvar.wait_timeout(guard, limit) {
        Ok((guard, _)) => guard,
        Err(poisoned) => poisoned.into_inner().0,
    }
}
