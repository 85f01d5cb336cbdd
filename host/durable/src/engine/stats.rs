//! What an engine counts of its own work.

use std::time::Duration;

use serde::Serialize;

/// What a queue is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueStats {
    /// The namespace whose slots these are; absent where all share them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// How many activities it runs at once.
    pub limit: usize,
    /// Attempts that run.
    pub in_flight: usize,
    /// Attempts that wait for a slot.
    pub backlog: usize,
    /// How long the oldest of them has waited, in milliseconds.
    pub backlog_age_ms: u64,
    /// Workflow tasks that wait for a worker; absent where runs need none.
    #[serde(flatten)]
    pub workflow_tasks: Option<WorkflowTasks>,
}

/// What waits on a queue of a cluster until a worker takes it that takes workflow tasks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkflowTasks {
    /// How many.
    #[serde(rename = "workflow_backlog")]
    pub backlog: usize,
    /// How long the oldest of them has waited, in milliseconds.
    #[serde(rename = "workflow_backlog_age_ms")]
    pub backlog_age_ms: u64,
}

/// How often and how long an engine was in one phase of its work, since it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseStats {
    /// Which: `wait` (for a thread that makes a transition), `activation` (making it),
    /// `write` (from there to the end of its commit), `commit` (one for each commit, of
    /// however many transitions), `effects` (what follows it), `dispatch` (from there
    /// until an attempt runs).
    pub name: &'static str,
    /// How often.
    pub count: u64,
    /// How long in all.
    pub total: Duration,
}

/// Bounds of [`WriterStats::batches`]: a batch has at most so many writes.
pub const BATCH_BOUNDS: [u64; 7] = [1, 2, 5, 10, 50, 200, 1_000];

/// What an engine's writer did since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Transactions that were committed; each is synced once.
    pub commits: u64,
    /// Writes in them: starts, transitions and what is written behind.
    pub writes: u64,
    /// Commits by how many writes they had, one for each of [`BATCH_BOUNDS`].
    pub batches: [u64; BATCH_BOUNDS.len()],
    /// Transactions that failed.
    pub failures: u64,
    /// Writes that wait.
    pub queued: usize,
}
