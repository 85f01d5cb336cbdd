//! What is to happen at a time, in memory; the history says it after a restart.
//!
//! [`Timers`] is a trait, so that a simulation decides which of them happens next, and
//! when; [`ClockTimers`] is what a server has.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Notify;
use uuid::Uuid;

use super::lock;
use crate::clock::Clock;
use crate::schedule::ScheduleRef;

/// What a time was set for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A run's timer fires.
    Timer(Uuid, String),
    /// An activity's backoff is over.
    Backoff(Uuid, String),
    /// An attempt waited too long for a slot.
    ScheduleToStart(Uuid, String),
    /// An activity took too long, retries included.
    ScheduleToClose(Uuid, String),
    /// An activation that could not be run is tried again.
    Retry(Uuid),
    /// A child's start that could not be made is tried again.
    StartChild(Uuid, String),
    /// A schedule has a time.
    Schedule(ScheduleRef),
    /// Old rows are removed, idle drivers too.
    Housekeeping,
}

#[derive(Default)]
struct State {
    by_time: BTreeMap<(Timestamp, Target), ()>,
    by_target: HashMap<Target, Timestamp>,
}

/// Times and what they are for.
#[async_trait]
pub trait Timers: Send + Sync + 'static {
    /// Sets the time of a target, in place of an earlier one.
    fn set(&self, target: Target, at: Timestamp);
    /// Forgets a target.
    fn cancel(&self, target: &Target);
    /// Waits for the next target that is to happen, and forgets it. One task asks, again
    /// and again; where it stops waiting nothing is lost.
    async fn next(&self) -> Target;
}

/// Lets targets happen when a clock says that their time has come, the earliest first.
pub struct ClockTimers {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    earlier: Notify,
}

impl std::fmt::Debug for ClockTimers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClockTimers").finish_non_exhaustive()
    }
}

#[async_trait]
impl Timers for ClockTimers {
    fn set(&self, target: Target, at: Timestamp) {
        let mut state = lock(&self.state);
        if let Some(old) = state.by_target.insert(target.clone(), at) {
            state.by_time.remove(&(old, target.clone()));
        }
        let first = state
            .by_time
            .first_key_value()
            .is_none_or(|((first, _), ())| at < *first);
        state.by_time.insert((at, target), ());
        drop(state);
        if first {
            self.earlier.notify_one();
        }
    }

    fn cancel(&self, target: &Target) {
        let mut state = lock(&self.state);
        if let Some(at) = state.by_target.remove(target) {
            state.by_time.remove(&(at, target.clone()));
        }
    }

    async fn next(&self) -> Target {
        loop {
            match self.due(self.clock.now()) {
                Ok(target) => return target,
                Err(Some(at)) => {
                    tokio::select! {
                        () = self.clock.sleep_until(at) => {}
                        () = self.earlier.notified() => {}
                    }
                }
                Err(None) => self.earlier.notified().await,
            }
        }
    }
}

impl ClockTimers {
    /// Without any target.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::default(),
            earlier: Notify::new(),
        }
    }

    /// When the next target's time comes.
    #[cfg(test)]
    pub fn next_at(&self) -> Option<Timestamp> {
        let state = lock(&self.state);
        state.by_time.first_key_value().map(|((at, _), ())| *at)
    }

    fn due(&self, now: Timestamp) -> Result<Target, Option<Timestamp>> {
        let mut state = lock(&self.state);
        match state.by_time.first_key_value() {
            None => Err(None),
            Some(((at, _), ())) if *at > now => Err(Some(*at)),
            Some(_) => match state.by_time.pop_first() {
                Some(((_, target), ())) => {
                    state.by_target.remove(&target);
                    Ok(target)
                }
                None => Err(None),
            },
        }
    }
}
