//! What requests use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a request used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens that were computed, with those that the model adds.
    pub tokens: u64,
    /// From its admission until the first of it was computed.
    pub queued: Duration,
    /// Its share of the time of its batches, by tokens.
    pub computed: Duration,
    /// Whether that was a GPU's time.
    pub gpu: bool,
}

/// What one request used so far. Who asks has a clone of it: what was computed counts, too, where
/// the request fails or is dropped.
#[derive(Debug, Clone)]
pub struct Meter(Arc<Mutex<Metered>>);

#[derive(Debug)]
struct Metered {
    since: Instant,
    /// It does not wait any more.
    begun: bool,
    usage: Usage,
}

impl Meter {
    /// Of a request that is made now.
    #[must_use]
    pub fn start() -> Self {
        Self(Arc::new(Mutex::new(Metered {
            since: Instant::now(),
            begun: false,
            usage: Usage::default(),
        })))
    }

    fn metered(&self) -> MutexGuard<'_, Metered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was used so far. Until the first of it is computed, all of its time was spent waiting.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let metered = self.metered();
        let mut usage = metered.usage;
        if !metered.begun {
            usage.queued = metered.since.elapsed();
        }
        usage
    }

    /// It does not wait any more; the first time counts.
    pub fn begin(&self) {
        let mut metered = self.metered();
        if !metered.begun {
            metered.begun = true;
            metered.usage.queued = metered.since.elapsed();
        }
    }

    /// Tells what was used.
    pub fn used(&self, change: impl FnOnce(&mut Usage)) {
        change(&mut self.metered().usage);
    }
}
