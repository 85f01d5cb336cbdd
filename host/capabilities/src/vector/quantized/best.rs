//! Which vectors may still be among the nearest, while all are looked through.

use std::collections::BinaryHeap;

use super::Candidates;

/// The best so far.
pub(super) struct Best {
    limit: usize,
    /// The smallest upper bounds, the largest first.
    uppers: BinaryHeap<Ordered>,
    /// What is over it is not among the nearest.
    beyond: f64,
    candidates: Vec<(f64, i64)>,
    /// So many candidates are looked through again.
    tidy: usize,
}

/// A bound, in order.
#[derive(PartialEq)]
struct Ordered(f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Best {
    pub(super) fn new(limit: usize, within: f64) -> Self {
        Self {
            limit,
            uppers: BinaryHeap::new(),
            beyond: within,
            candidates: Vec::new(),
            tidy: 4 * limit + 1_000,
        }
    }

    #[inline(always)]
    pub(super) fn offer(&mut self, row: i64, lower: f64, upper: f64) {
        if lower <= self.beyond {
            self.add(row, lower, upper);
        }
    }

    fn add(&mut self, row: i64, lower: f64, upper: f64) {
        self.candidates.push((lower, row));
        self.uppers.push(Ordered(upper));
        if self.uppers.len() > self.limit {
            self.uppers.pop();
        }
        if self.uppers.len() == self.limit
            && let Some(worst) = self.uppers.peek()
        {
            self.beyond = self.beyond.min(worst.0);
        }
        if self.candidates.len() >= self.tidy {
            self.candidates.retain(|(lower, _)| *lower <= self.beyond);
            self.tidy = self.tidy.max(2 * self.candidates.len());
        }
    }

    pub(super) fn end(mut self) -> Candidates {
        self.candidates.retain(|(lower, _)| *lower <= self.beyond);
        Candidates {
            rows: self.candidates.into_iter().map(|(_, row)| row).collect(),
            beyond: self.beyond,
        }
    }
}
