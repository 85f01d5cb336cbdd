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
    /// Since when it is computed elsewhere, where it is now.
    runs: Option<Instant>,
    usage: Usage,
}

impl Meter {
    /// Of a request that is made now.
    #[must_use]
    pub fn start() -> Self {
        Self(Arc::new(Mutex::new(Metered {
            since: Instant::now(),
            begun: false,
            runs: None,
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
        if let Some(since) = metered.runs {
            usage.computed += since.elapsed();
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

    /// It is computed elsewhere, where nobody tells its share: all of its time counts, until what
    /// this answers is dropped.
    #[must_use]
    pub fn run(&self) -> Running {
        self.begin();
        self.metered().runs = Some(Instant::now());
        Running(self.clone())
    }

    /// Tells what was used.
    pub fn used(&self, change: impl FnOnce(&mut Usage)) {
        change(&mut self.metered().usage);
    }
}

/// The time in which a request is computed elsewhere, which ends with this.
#[derive(Debug)]
pub struct Running(Meter);

impl Drop for Running {
    fn drop(&mut self) {
        let mut metered = self.0.metered();
        if let Some(since) = metered.runs.take() {
            metered.usage.computed += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_computed_elsewhere_counts_while_it_runs_and_no_longer() {
        let moment = Duration::from_millis(2);
        let meter = Meter::start();
        let running = meter.run();
        std::thread::sleep(moment);
        // As who gives it up sees it.
        assert!(meter.usage().computed >= moment);
        drop(running);
        let ended = meter.usage();
        assert!(ended.computed >= moment);
        std::thread::sleep(moment);
        assert_eq!(meter.usage(), ended);
    }
}
