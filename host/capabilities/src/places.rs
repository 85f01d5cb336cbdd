//! How many calls of one binding its backend works on at once. No more wait for a place than
//! there are, and not for ever, so that a slow backend holds up nothing but what uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The places of a binding.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    waiting: AtomicU32,
    most: u32,
}

impl Places {
    /// So many, but at least one.
    pub(crate) fn new(most: u32) -> Self {
        let most = most.max(1);
        Self {
            free: Arc::new(Semaphore::new(most as usize)),
            waiting: AtomicU32::new(0),
            most,
        }
    }

    /// A place, taken until it is dropped; none where as many wait already as there are, or
    /// none became free in time.
    pub(crate) async fn take(&self, wait: Duration) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            return Some(place);
        }
        let waiting = Waiting::new(&self.waiting);
        if waiting.before >= self.most {
            return None;
        }
        timeout(wait, self.take_another()).await.ok()?
    }

    /// A place for what goes on with an operation that has begun: it is not turned away where
    /// others wait, and its caller says how long it waits.
    pub(crate) async fn take_another(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Whether all are free.
    pub(crate) fn is_idle(&self) -> bool {
        self.free.available_permits() >= self.most as usize
    }

    /// Whether all are free but one, the caller's.
    pub(crate) fn is_alone(&self) -> bool {
        self.free.available_permits() + 1 >= self.most as usize
    }
}

/// Counts who waits.
struct Waiting<'a> {
    count: &'a AtomicU32,
    before: u32,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        let before = count.fetch_add(1, Ordering::AcqRel);
        Self { count, before }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}
