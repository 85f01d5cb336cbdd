//! Turns of writers: statements that commit by themselves may run beside each other,
//! a transaction alone; in the order they came, each waiting for so long and no longer.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often one that waits looks whether it was told to stop.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: VecDeque<u64>,
    shared: u32,
    alone: bool,
}

/// A turn; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    alone: bool,
}

/// Why there was no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// Others took too long.
    Busy,
    /// It was told to stop.
    Stopped,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    pub(super) fn take(
        turns: &Arc<Self>,
        alone: bool,
        patience: Duration,
        stopped: impl Fn() -> bool,
    ) -> Result<Turn, NoTurn> {
        let this = turns.as_ref();
        let deadline = Instant::now() + patience;
        let mut state = this.state();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(number);
        let outcome = loop {
            let first = state.waiting.front() == Some(&number);
            let free = !state.alone && (!alone || state.shared == 0);
            if first && free {
                break Ok(());
            }
            if stopped() {
                break Err(NoTurn::Stopped);
            }
            let now = Instant::now();
            if now >= deadline {
                break Err(NoTurn::Busy);
            }
            let waited = this.changed.wait_timeout(state, LOOK.min(deadline - now));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting.retain(|other| *other != number);
        if outcome.is_ok() {
            if alone {
                state.alone = true;
            } else {
                state.shared += 1;
            }
        }
        drop(state);
        this.changed.notify_all();
        outcome.map(|()| Turn {
            turns: Arc::clone(turns),
            alone,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let turns = &self.turns;
        let mut state = turns.state();
        if self.alone {
            state.alone = false;
        } else {
            state.shared -= 1;
        }
        drop(state);
        turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(turns: &Arc<Turns>, alone: bool) -> Result<Turn, NoTurn> {
        let patience = Duration::from_millis(1);
        Turns::take(turns, alone, patience, || false)
    }

    #[test]
    fn one_alone_or_many_together() {
        let turns = Arc::new(Turns::default());
        let first = take(&turns, false).expect("free");
        let second = take(&turns, false).expect("beside it");
        assert_eq!(take(&turns, true).err(), Some(NoTurn::Busy));
        drop(first);
        assert_eq!(take(&turns, true).err(), Some(NoTurn::Busy));
        drop(second);
        let alone = take(&turns, true).expect("free");
        assert_eq!(take(&turns, false).err(), Some(NoTurn::Busy));
        assert_eq!(take(&turns, true).err(), Some(NoTurn::Busy));
        let long = Duration::from_secs(60);
        let stopped = Turns::take(&turns, true, long, || true);
        assert_eq!(stopped.err(), Some(NoTurn::Stopped));
        drop(alone);
        take(&turns, true).expect("free again");
    }

    #[test]
    fn one_that_waits_alone_is_not_passed() {
        let turns = Arc::new(Turns::default());
        let first = take(&turns, false).expect("free");
        let waiting = std::thread::spawn({
            let turns = Arc::clone(&turns);
            move || Turns::take(&turns, true, Duration::from_secs(60), || false).map(drop)
        });
        while turns.state().waiting.is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(take(&turns, false).err(), Some(NoTurn::Busy));
        drop(first);
        assert_eq!(waiting.join().expect("no panic"), Ok(()));
        take(&turns, false).expect("free again");
    }
}
