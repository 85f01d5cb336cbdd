//! Where the engine's time goes: how often and how long in each phase of a transition's
//! way. Two clock readings and two additions each, so they are always counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::PhaseStats;

/// A phase; see [`PhaseStats::name`] for what each is.
#[derive(Debug, Clone, Copy)]
pub enum Phase {
    /// Waiting for an activation thread.
    Wait,
    /// Making a transition.
    Activation,
    /// From the writer's queue to the end of its commit.
    Write,
    /// A commit, of however many transitions.
    Commit,
    /// What follows a commit.
    Effects,
    /// From the effects to the attempt's first step.
    Dispatch,
}

const NAMES: [&str; 6] = [
    "wait",
    "activation",
    "write",
    "commit",
    "effects",
    "dispatch",
];

/// All phases.
#[derive(Debug, Default)]
pub struct Phases([Counter; NAMES.len()]);

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Phases {
    /// Counts once so long.
    pub fn spent(&self, phase: Phase, time: Duration) {
        let counter = &self.0[phase as usize];
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        counter.count.fetch_add(1, Ordering::Relaxed);
        counter.nanoseconds.fetch_add(time, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn stats(&self) -> Vec<PhaseStats> {
        let counters = NAMES.iter().zip(&self.0);
        counters
            .map(|(name, counter)| PhaseStats {
                name,
                count: counter.count.load(Ordering::Relaxed),
                total: Duration::from_nanos(counter.nanoseconds.load(Ordering::Relaxed)),
            })
            .collect()
    }
}
