//! What all parts of the engine share, and how a message reaches its run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::cache::DriverCache;
use super::convert::Beginning;
use super::dispatch::Queues;
use super::ids::RunIds;
use super::lock;
use super::options::EmbeddedOptions;
use super::phases::Phases;
use super::pool::Pool;
use super::run::{Inbox, Message, RunCell};
use super::schedules::Schedules;
use super::state::RunState;
use super::store::{Store, StoreError};
use super::timers::Timers;
use super::updates::Watchers;
use super::watching::{RunWatchers, Seen};
use super::writer::Writer;
use crate::activity::ActivityExecutor;
use crate::clock::Clock;
use crate::definition::Definitions;
use crate::engine::EngineError;
use crate::expressions::Expressions;
use crate::live::LiveEvents;
use crate::payload::{Digest, Payload, PayloadStore, ResolveError};

/// The engine's parts.
pub struct Core {
    /// As it was opened.
    pub options: EmbeddedOptions,
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
    /// Where the engine's own tasks run.
    pub runtime: Handle,
    /// Where attempts run.
    pub attempts: Handle,
    /// The file.
    pub store: Store,
    /// The one writer.
    pub writer: Arc<Writer>,
    /// Where activations run.
    pub pool: Arc<Pool>,
    /// Where the time goes.
    pub phases: Arc<Phases>,
    /// Slots.
    pub queues: Arc<Queues>,
    /// What is to happen at a time.
    pub timers: Arc<dyn Timers>,
    /// Run ids.
    pub ids: RunIds,
    /// Drivers in memory.
    pub cache: DriverCache,
    /// Open runs in memory.
    pub runs: Mutex<HashMap<Uuid, Arc<RunCell>>>,
    /// One run is read into memory at a time, so that none is there twice.
    pub loading: tokio::sync::Mutex<()>,
    /// How many open runs are pinned to a digest.
    pub pins: Mutex<HashMap<Digest, u64>>,
    /// Who waits for a run's next transition.
    pub watchers: RunWatchers,
    /// Who waits for a run's end, and is not woken by each transition before it.
    pub ends: RunWatchers,
    /// Who waits for the end of an update.
    pub updates: Watchers,
    /// Who follows a run's live events.
    pub live: LiveEvents,
    /// Heartbeat details that are not yet written.
    pub heartbeats: Mutex<HashMap<(Uuid, String), (u32, Payload)>>,
    /// Schedules.
    pub schedules: Schedules,
    /// Takes no new work.
    pub draining: AtomicBool,
    /// Cancelled when the engine is gone, however.
    pub dead: CancellationToken,
}

impl Core {
    /// Hands a message to a run that is in memory. `Err` gives it back.
    #[expect(clippy::result_large_err, reason = "the message itself comes back")]
    pub fn deliver(self: &Arc<Self>, run_id: Uuid, message: Message) -> Result<(), Message> {
        let Some(cell) = lock(&self.runs).get(&run_id).map(Arc::clone) else {
            return Err(message);
        };
        let mut inbox = lock(&cell.inbox);
        if inbox.gone {
            drop(inbox);
            return Err(message);
        }
        inbox.messages.push_back(message);
        self.wake(&cell, inbox);
        Ok(())
    }

    /// Hands a message to an open run, wherever it is. `Err` gives it back where there
    /// is no such open run.
    pub async fn send(
        self: &Arc<Self>,
        run_id: Uuid,
        mut message: Message,
    ) -> Result<Result<(), Message>, StoreError> {
        loop {
            match self.deliver(run_id, message) {
                Ok(()) => return Ok(Ok(())),
                Err(back) => message = back,
            }
            if self.load(run_id).await?.is_none() {
                return Ok(Err(message));
            }
        }
    }

    /// Hands a message to an open run, from wherever; a run that has ended drops it.
    pub fn post(self: &Arc<Self>, run_id: Uuid, message: Message) {
        if let Err(mut message) = self.deliver(run_id, message) {
            let core = Arc::clone(self);
            self.runtime.spawn(async move {
                loop {
                    match core.deliver(run_id, message) {
                        Ok(()) => return,
                        Err(back) => message = back,
                    }
                    match core.load(run_id).await {
                        Ok(Some(_)) => {}
                        Ok(None) => return,
                        Err(error) => {
                            tracing::error!(%run_id, %error, "a run cannot be read; trying again");
                            let again =
                                super::events::later(core.clock.now(), Duration::from_secs(1));
                            tokio::select! {
                                () = core.clock.sleep_until(again) => {}
                                () = core.dead.cancelled() => return,
                            }
                        }
                    }
                }
            });
        }
    }

    fn wake(self: &Arc<Self>, cell: &Arc<RunCell>, mut inbox: std::sync::MutexGuard<'_, Inbox>) {
        if inbox.busy || inbox.messages.is_empty() {
            return;
        }
        inbox.busy = true;
        drop(inbox);
        self.schedule(cell);
    }

    /// Gives a busy run to an activation thread.
    pub fn schedule(self: &Arc<Self>, cell: &Arc<RunCell>) {
        let core = Arc::clone(self);
        let cell = Arc::clone(cell);
        self.pool
            .push(Box::new(move || super::step::advance(&core, &cell)));
    }

    /// A run is done with its transition: it goes on with what came meanwhile.
    pub fn release(self: &Arc<Self>, cell: &Arc<RunCell>, evictable: bool) {
        let mut inbox = lock(&cell.inbox);
        inbox.busy = false;
        if !inbox.messages.is_empty() {
            self.wake(cell, inbox);
            return;
        }
        if !self.cache.is_cold(cell) {
            return;
        }
        if let Ok(mut working) = cell.working.try_lock() {
            working.driver = None;
        }
        if evictable {
            inbox.gone = true;
            drop(inbox);
            self.remove(cell);
        }
    }

    /// Removes a run from memory; not one that was read in its place.
    pub fn remove(&self, cell: &Arc<RunCell>) {
        let mut runs = lock(&self.runs);
        if runs
            .get(&cell.run_id)
            .is_some_and(|found| Arc::ptr_eq(found, cell))
        {
            runs.remove(&cell.run_id);
        }
    }

    /// Removes a run from memory, if nothing happens to it just now.
    pub fn evict(&self, cell: &Arc<RunCell>) {
        let mut inbox = lock(&cell.inbox);
        if inbox.busy || inbox.gone || !inbox.messages.is_empty() {
            return;
        }
        // Not busy, so nobody has it.
        let Ok(mut working) = cell.working.try_lock() else {
            return;
        };
        working.driver = None;
        if working.state.is_evictable() && working.held.is_none() {
            inbox.gone = true;
            drop(working);
            drop(inbox);
            self.remove(cell);
        }
    }

    /// Reads an open run into memory; `None` where there is no such open run.
    pub async fn load(self: &Arc<Self>, run_id: Uuid) -> Result<Option<Arc<RunCell>>, StoreError> {
        let _one = self.loading.lock().await;
        if let Some(cell) = lock(&self.runs).get(&run_id)
            && !lock(&cell.inbox).gone
        {
            return Ok(Some(Arc::clone(cell)));
        }
        let Some((beginning, state)) = self.fold(run_id).await? else {
            return Ok(None);
        };
        if !state.is_open() {
            return Ok(None);
        }
        let held = self.store.run(run_id).await?.and_then(|info| info.held);
        let cell = Arc::new(RunCell::new(beginning, state, held, false));
        lock(&self.runs).insert(run_id, Arc::clone(&cell));
        Ok(Some(cell))
    }

    /// A run's first event and its state, as they are on disk.
    pub async fn fold(&self, run_id: Uuid) -> Result<Option<(Beginning, RunState)>, StoreError> {
        let transitions = self.store.transitions(run_id, 0, i64::MAX).await?;
        let mut state = RunState::default();
        let mut beginning = None;
        for (_, transition) in transitions {
            if beginning.is_none() {
                beginning = transition.events.first().cloned().and_then(Beginning::read);
            }
            state.apply_transition(&transition);
        }
        Ok(beginning.map(|beginning| (beginning, state)))
    }

    /// A payload with its reference resolved.
    pub async fn resolve(&self, payload: Payload) -> Result<Payload, ResolveError> {
        crate::payload::resolve(self.payloads.as_ref(), payload).await
    }

    /// Tells those who wait for a run what was committed.
    pub fn publish(&self, run_id: Uuid, seen: Seen) {
        if seen.result.is_some() {
            self.ends.tell(run_id, seen.clone());
        }
        self.watchers.tell(run_id, seen);
    }

    /// Counts a run's pins.
    pub fn pin(&self, digests: &[Digest]) {
        let mut pins = lock(&self.pins);
        for digest in digests {
            *pins.entry(*digest).or_default() += 1;
        }
    }

    /// Counts a run's pins no more.
    pub fn unpin(&self, digests: &[Digest]) {
        let mut pins = lock(&self.pins);
        for digest in digests {
            if let Some(count) = pins.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(digest);
                }
            }
        }
    }

    /// Refuses what somebody asks for while it could not be recorded.
    pub fn admit(&self) -> Result<(), EngineError> {
        if self.is_draining() {
            return Err(EngineError::ShuttingDown);
        }
        self.writer.failure().map_or(Ok(()), Err)
    }

    /// Whether new work is refused.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// So much later than now.
    pub fn after(&self, wait: Duration) -> Timestamp {
        super::events::later(self.clock.now(), wait)
    }
}
