//! What is to happen at a time, in memory; the history says it after a restart.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

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
#[derive(Default)]
pub struct Timers {
    state: Mutex<State>,
    earlier: Notify,
}

impl Timers {
    /// Sets the time of a target, in place of an earlier one.
    pub fn set(&self, target: Target, at: Timestamp) {
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

    /// Forgets a target.
    pub fn cancel(&self, target: &Target) {
        let mut state = lock(&self.state);
        if let Some(at) = state.by_target.remove(target) {
            state.by_time.remove(&(at, target.clone()));
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

    /// Waits for the next target whose time has come.
    pub async fn next(&self, clock: &Arc<dyn Clock>) -> Target {
        loop {
            match self.due(clock.now()) {
                Ok(target) => return target,
                Err(Some(at)) => {
                    tokio::select! {
                        () = clock.sleep_until(at) => {}
                        () = self.earlier.notified() => {}
                    }
                }
                Err(None) => self.earlier.notified().await,
            }
        }
    }
}
