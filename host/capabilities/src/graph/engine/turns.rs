//! Turns of those that write: one at a time, in the order they came, each waiting for so
//! long and no longer, and not at all once it was told to stop.

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
    taken: bool,
}

/// A turn; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Arc<Turns>);

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
        self: &Arc<Self>,
        patience: Duration,
        stopped: impl Fn() -> bool,
    ) -> Result<Turn, NoTurn> {
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(number);
        let outcome = loop {
            if stopped() {
                break Err(NoTurn::Stopped);
            }
            if !state.taken && state.waiting.front() == Some(&number) {
                state.taken = true;
                break Ok(());
            }
            let now = Instant::now();
            if now >= deadline {
                break Err(NoTurn::Busy);
            }
            let waited = self.changed.wait_timeout(state, LOOK.min(deadline - now));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting.retain(|other| *other != number);
        drop(state);
        self.changed.notify_all();
        outcome.map(|()| Turn(Arc::clone(self)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.state().taken = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn there_is_one_turn_at_a_time() {
        let turns = Arc::new(Turns::default());
        let short = || turns.take(Duration::from_millis(1), || false);
        let first = short().expect("free");
        assert_eq!(short().err(), Some(NoTurn::Busy));
        assert_eq!(turns.take(LONG, || true).err(), Some(NoTurn::Stopped));
        drop(first);
        drop(short().expect("free again"));
        short().expect("and again");
    }

    #[test]
    fn who_waits_longer_is_first() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(LONG, || false).expect("free");
        let (told, order) = std::sync::mpsc::channel();
        let waiting: Vec<_> = (0..3)
            .map(|number| {
                let (turns, told) = (Arc::clone(&turns), told.clone());
                let before = turns.state().waiting.len();
                let waiting = std::thread::spawn({
                    let turns = Arc::clone(&turns);
                    move || {
                        let turn = turns.take(LONG, || false).expect("in time");
                        told.send(number).expect("heard");
                        drop(turn);
                    }
                });
                while turns.state().waiting.len() == before {
                    std::thread::yield_now();
                }
                waiting
            })
            .collect();
        drop(first);
        for waiting in waiting {
            waiting.join().expect("no panic");
        }
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
