//! Who waits for something of a run, and how it is told after a commit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use uuid::Uuid;

use super::lock;
use crate::engine::RunResult;

/// What somebody who waits for a run is told.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Events that are committed.
    pub length: u64,
    /// How it ended.
    pub result: Option<Arc<RunResult>>,
}

/// Who waits, by the run's id.
#[derive(Debug, Default)]
pub struct RunWatchers(Mutex<HashMap<Uuid, watch::Sender<Seen>>>);

impl RunWatchers {
    /// Tells those who wait for a run; after its end nobody waits any more.
    pub fn tell(&self, run_id: Uuid, seen: Seen) {
        let mut watchers = lock(&self.0);
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
        let receiver = lock(&self.0)
            .entry(run_id)
            .or_insert_with(|| watch::channel(Seen::default()).0)
            .subscribe();
        Watch {
            watchers: self,
            run_id,
            receiver: Some(receiver),
        }
    }
}

/// Somebody who waits for a run.
pub struct Watch<'w> {
    watchers: &'w RunWatchers,
    run_id: Uuid,
    receiver: Option<watch::Receiver<Seen>>,
}

impl Watch<'_> {
    /// Waits until it is so. Answers whether it may be; `false` when the time is over.
    pub async fn until(
        &mut self,
        over: impl Future<Output = ()>,
        so: impl FnMut(&Seen) -> bool,
    ) -> bool {
        let Some(receiver) = &mut self.receiver else {
            return false;
        };
        tokio::select! {
            biased;
            // The sender is gone when the run has ended, or the engine.
            _ = receiver.wait_for(so) => true,
            () = over => false,
        }
    }

    /// How the run ended, if it was told.
    pub fn result(&self) -> Option<RunResult> {
        let seen = self.receiver.as_ref()?.borrow();
        seen.result.as_deref().cloned()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut watchers = lock(&self.watchers.0);
        drop(self.receiver.take());
        let alone = watchers
            .get(&self.run_id)
            .is_some_and(|watcher| watcher.receiver_count() == 0);
        if alone {
            watchers.remove(&self.run_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn who_waits_is_told_and_leaves_nothing() {
        let watchers = RunWatchers::default();
        let run_id = Uuid::from_u128(1);
        let mut first = watchers.watch(run_id);
        let other = watchers.watch(run_id);
        let told = |length| Seen {
            length,
            result: None,
        };
        watchers.tell(Uuid::from_u128(2), told(9));
        assert!(!first.until(ready(()), |seen| seen.length > 0).await);
        watchers.tell(run_id, told(3));
        assert!(first.until(pending(), |seen| seen.length == 3).await);
        assert!(first.result().is_none());
        drop((first, other));
        assert!(lock(&watchers.0).is_empty());
        watchers.tell(run_id, told(4));
        assert!(lock(&watchers.0).is_empty());
    }
}
