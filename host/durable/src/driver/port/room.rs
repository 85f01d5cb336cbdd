//! What is under way: what was issued and waits, and how much of it there may be at once.
//!
//! A cluster fails a workflow task for ever that leaves too much pending, so what comes
//! above the run's limit waits until something else of its kind has ended. It is seen when
//! the tree is polled, in the order of the tasks, and so the same on replay.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;

use super::{Cancelled, Inner, Port, Scope};

/// How much may be under way at once.
#[derive(Debug, Clone, Copy)]
pub(in crate::driver) struct Room {
    /// Of each kind: activities, children, signals to other runs.
    pub(in crate::driver) pending: u64,
    /// Whether children for whose end nobody waits count until they have ended. An engine
    /// that does not tell it does not count them either.
    pub(in crate::driver) detached: bool,
}

/// What was issued under one kind of id, and what still waits.
#[derive(Debug)]
pub(super) struct Table<T> {
    issued: u64,
    waiting: BTreeMap<u64, Option<T>>,
    /// How many of these have not resolved.
    pending: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            issued: 0,
            waiting: BTreeMap::new(),
            pending: 0,
        }
    }
}

impl<T> Table<T> {
    pub(super) fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.wait_for(self.issued);
        self.issued
    }

    /// Waits for what was issued in another table.
    pub(super) fn wait_for(&mut self, id: u64) {
        self.waiting.insert(id, None);
        self.pending += 1;
    }

    pub(super) fn take(&mut self, id: u64) -> Option<T> {
        self.waiting.get(&id)?.as_ref()?;
        self.waiting.remove(&id).flatten()
    }

    /// Waits no more; answers whether it did.
    pub(super) fn forget(&mut self, id: u64) -> bool {
        let waited = self.waiting.remove(&id);
        if matches!(waited, Some(None)) {
            self.pending -= 1;
        }
        waited.is_some()
    }

    /// Resolves; answers whether anything waited for it.
    pub(super) fn resolve(&mut self, id: &str, value: T) -> bool {
        match id.parse().ok().and_then(|id| self.waiting.get_mut(&id)) {
            Some(slot @ None) => {
                *slot = Some(value);
                self.pending -= 1;
                true
            }
            _ => false,
        }
    }

    /// How many wait, or have resolved and were not taken.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl Port {
    /// Waits until one more activity may be under way.
    pub(super) async fn room_for_activity(&self, scope: &Scope) -> Result<(), Cancelled> {
        self.room_for(1, scope, |inner, _| inner.activities.pending)
            .await
    }

    /// Waits until one more child may be open.
    pub(super) async fn room_for_child(&self, scope: &Scope) -> Result<(), Cancelled> {
        self.room_for(1, scope, |inner, room| {
            let detached = if room.detached {
                inner.detached.len()
            } else {
                0
            };
            inner.children.pending + detached
        })
        .await
    }

    /// Waits until so many signals more may be on their way to other runs.
    pub(in crate::driver) async fn room_for_signals(
        &self,
        count: usize,
        scope: &Scope,
    ) -> Result<(), Cancelled> {
        self.room_for(count, scope, |inner, _| inner.externals.pending)
            .await
    }

    /// Waits until `more` may be under way beside what is. Where nothing is there is always
    /// room: nothing would end.
    async fn room_for(
        &self,
        more: usize,
        scope: &Scope,
        under_way: fn(&Inner, Room) -> usize,
    ) -> Result<(), Cancelled> {
        let mut waited = false;
        poll_fn(|_| {
            let pending = under_way(&self.lock(), self.room);
            let wanted = u64::try_from(pending.saturating_add(more)).unwrap_or(u64::MAX);
            let has_room = pending == 0 || wanted <= self.room.pending;
            // Who need not wait goes on as if there were no limit.
            if (waited || !has_room)
                && let Err(cancelled) = scope.check()
            {
                return Poll::Ready(Err(cancelled));
            }
            waited = true;
            if has_room {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            }
        })
        .await
    }
}
