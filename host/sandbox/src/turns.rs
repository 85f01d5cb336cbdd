//! Who computes: turns among guests that run for longer than one tick.
//!
//! A guest that ends, or waits, within its first tick never comes here. One that
//! computes on takes a turn: there are as many turns as guest threads, and they go
//! round in order, a tick each. The runtime has one thread more than there are turns,
//! so a call that just began, a host call whose answer arrived and a guest that must be
//! stopped never stand behind a row of spinning guests.

use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::UpdateDeadline;

use crate::control::Control;

/// The turns of one sandbox.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(crate) fn new(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new(threads)))
    }

    /// What a guest does at an epoch: gives its turn to the next one and waits for
    /// another.
    pub(crate) fn next(&self, control: &Arc<Control>) -> UpdateDeadline {
        let semaphore = Arc::clone(&self.0);
        let control = Arc::clone(control);
        UpdateDeadline::YieldCustom(
            1,
            Box::pin(async move {
                drop(control.turn().take());
                tokio::task::yield_now().await;
                // Never closed; without a permit the guest would only run unordered.
                let permit = semaphore.acquire_owned().await.ok();
                *control.turn() = permit;
            }),
        )
    }
}
