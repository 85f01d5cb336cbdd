//! What all parts of the engine share, and how a message reaches its run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::watch;
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
use super::writer::Writer;
use crate::activity::ActivityExecutor;
use crate::clock::Clock;
use crate::definition::Definitions;
use crate::engine::{EngineError, RunResult};
use crate::expressions::Expressions;
use crate::live::LiveEvents;
use crate::payload::{Digest, Payload, PayloadStore, ResolveError};

/// What somebody who waits for a run is told.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Events that are committed.
    pub length: u64,
    /// How it ended.
    pub result: Option<Arc<RunResult>>,
}

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
    pub timers: Timers,
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
    /// Who waits for a run.
    pub watchers: Mutex<HashMap<Uuid, watch::Sender<Seen>>>,
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

    /// Tells those who wait for a run.
    pub fn publish(&self, run_id: Uuid, seen: Seen) {
        let mut watchers = lock(&self.watchers);
        if let Some(watcher) = watchers.get(&run_id) {
            if watcher.receiver_count() == 0 || seen.result.is_some() {
                if let Some(watcher) = watchers.remove(&run_id) {
                    watcher.send_replace(seen);
                }
            } else {
                watcher.send_replace(seen);
            }
        }
    }

    /// Watches a run.
    pub fn watch(&self, run_id: Uuid) -> Watch<'_> {
        let receiver = lock(&self.watchers)
            .entry(run_id)
            .or_insert_with(|| watch::channel(Seen::default()).0)
            .subscribe();
        Watch {
            core: self,
            run_id,
            receiver: Some(receiver),
        }
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

/// Somebody who waits for a run.
pub struct Watch<'c> {
    core: &'c Core,
    run_id: Uuid,
    receiver: Option<watch::Receiver<Seen>>,
}

impl Watch<'_> {
    /// Waits until it is so. Answers whether it may be; `false` when the time is over.
    pub async fn until(&mut self, wait: Duration, so: impl FnMut(&Seen) -> bool) -> bool {
        let Some(receiver) = &mut self.receiver else {
            return false;
        };
        // The sender is gone when the run has ended, or the engine.
        tokio::time::timeout(wait, receiver.wait_for(so))
            .await
            .is_ok()
    }

    /// How the run ended, if it was told.
    pub fn result(&self) -> Option<RunResult> {
        let seen = self.receiver.as_ref()?.borrow();
        seen.result.as_deref().cloned()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut watchers = lock(&self.core.watchers);
        drop(self.receiver.take());
        let alone = watchers
            .get(&self.run_id)
            .is_some_and(|watcher| watcher.receiver_count() == 0);
        if alone {
            watchers.remove(&self.run_id);
        }
    }
}
