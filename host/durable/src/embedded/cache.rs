//! Which waiting runs keep their driver in memory: those used last, up to a limit. The
//! others are rebuilt from their history when something happens to them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use super::lock;
use super::run::RunCell;

/// Drivers in memory, by their last use.
pub struct DriverCache {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tick: u64,
    by_tick: BTreeMap<u64, Weak<RunCell>>,
}

impl DriverCache {
    /// A cache for so many.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::default(),
        }
    }

    /// A run's driver was used; answers the runs whose drivers are to be dropped.
    pub fn used(&self, cell: &Arc<RunCell>) -> Vec<Arc<RunCell>> {
        let mut state = lock(&self.state);
        state.tick += 1;
        let tick = state.tick;
        let old = cell.used.swap(tick, Ordering::Relaxed);
        state.by_tick.remove(&old);
        state.by_tick.insert(tick, Arc::downgrade(cell));
        let mut dropped = Vec::new();
        while state.by_tick.len() > self.limit {
            let Some((_, cell)) = state.by_tick.pop_first() else {
                break;
            };
            if let Some(cell) = cell.upgrade() {
                cell.used.store(0, Ordering::Relaxed);
                dropped.push(cell);
            }
        }
        dropped
    }

    /// A run has no driver any more.
    pub fn forget(&self, cell: &RunCell) {
        let mut state = lock(&self.state);
        let old = cell.used.swap(0, Ordering::Relaxed);
        state.by_tick.remove(&old);
    }

    /// Whether a run's driver is not in the cache.
    pub fn is_cold(&self, cell: &RunCell) -> bool {
        cell.tick() == 0
    }
}
