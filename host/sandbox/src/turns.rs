//! Who computes: turns among guests that run for longer than one tick.
//!
//! A guest that ends, or waits, within its first tick never comes here. One that
//! computes on takes a turn: there are as many turns as guest threads, and they go
//! round in order, a tick each. While nobody waits for a turn, who has one keeps it and
//! computes on where it is: to yield for nobody costs a change of threads. But not for
//! long: what the guest woke may stand in its thread's own queue, where no other looks; and
//! not at all outside of a task, on a thread that only begins it and has other things to do.
//! The runtime has one thread more than there are turns,
//! so a call that just began, a host call whose answer arrived and a guest that must be
//! stopped never stand behind a row of spinning guests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use tokio::sync::Semaphore;
use tokio::task::coop;
use wasmtime::UpdateDeadline;

use crate::control::Control;

/// Ticks that a guest goes on without yielding while nobody waits for its turn.
const ALONE: u32 = 4;
/// More than a task's budget has units.
const MOST_BUDGET: u32 = 256;

/// The turns of one sandbox.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Shared>);

struct Shared {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Counts one guest that waits for a turn.
struct Waiting(Arc<Shared>);

impl Waiting {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    pub(crate) fn new(threads: usize) -> Self {
        Self(Arc::new(Shared {
            turns: Arc::new(Semaphore::new(threads)),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// What a guest does at an epoch: keeps its turn where nobody else wants one, or
    /// gives it to the next one and waits for another. `alone`: how many ticks it has
    /// gone on so.
    pub(crate) fn next(&self, control: &Arc<Control>, alone: &mut u32) -> UpdateDeadline {
        let in_task = tokio::task::try_id().is_some();
        if in_task && *alone < ALONE && self.0.waiting.load(Ordering::Relaxed) == 0 {
            let mut turn = control.turn();
            if turn.is_none() {
                *turn = Arc::clone(&self.0.turns).try_acquire_owned().ok();
            }
            if turn.is_some() {
                *alone += 1;
                return UpdateDeadline::Continue(1);
            }
        }
        *alone = 0;
        let shared = Arc::clone(&self.0);
        let control = Arc::clone(control);
        UpdateDeadline::YieldCustom(
            1,
            Box::pin(async move {
                drop(control.turn().take());
                leave_thread().await;
                // Never closed; without a permit the guest would only run unordered.
                let waiting = Waiting::new(&shared);
                let permit = Arc::clone(&shared.turns).acquire_owned().await.ok();
                drop(waiting);
                *control.turn() = permit;
            }),
        )
    }
}

/// Yields, so that the thread next takes what has waited longest. A thread runs what its
/// last task woke (here: who gets the turn) before it looks at its queues, up to three
/// times over, and a guest that must be stopped would wait there; it does not so when the
/// task has spent its budget.
async fn leave_thread() {
    std::future::poll_fn(|cx| {
        // Bounded: a task without a budget has always some left.
        for _ in 0..MOST_BUDGET {
            if !coop::has_budget_remaining() {
                break;
            }
            if let Poll::Ready(spent) = coop::poll_proceed(cx) {
                spent.made_progress();
            }
        }
        Poll::Ready(())
    })
    .await;
    tokio::task::yield_now().await;
}
