//! How an embedded engine is opened, and why it may not be.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::storage::{FileStorage, Storage};
use crate::definition::GENERAL_QUEUE;
use crate::driver::RunLimits;
use crate::trace::Traces;

/// How to open an [`EmbeddedEngine`](super::EmbeddedEngine).
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Where the history is kept.
    pub storage: Arc<dyn Storage>,
    /// How long a commit waits for another process that has the file locked (a backup,
    /// an inspection) before it counts as failed.
    pub busy_timeout: Duration,
    /// The file's largest size in pages of 4 KiB; SQLite's own limit where absent. Past
    /// it the disk counts as full.
    pub max_pages: Option<u32>,
    /// How commits reach the disk.
    pub durability: Durability,
    /// Queues by name, and how many activities each runs at once (at least 1).
    pub queues: BTreeMap<String, usize>,
    /// Threads that run activations and expressions (at least 1).
    pub activation_threads: usize,
    /// Drivers of waiting runs that are kept in memory; the others are rebuilt from the
    /// history when something happens.
    pub cached_drivers: usize,
    /// Limits that new runs are started with.
    pub limits: RunLimits,
    /// How long closed runs are kept; for ever where absent.
    pub retention: Option<Duration>,
    /// How long a stopped attempt may take to return before it is abandoned (its future
    /// is dropped), beyond its deadline.
    pub stop_grace: Duration,
    /// What the host does with the spans of transitions.
    pub traces: Traces,
}

/// How commits reach the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Each commit is synced before it is acknowledged.
    #[default]
    Full,
    /// Nothing is synced: a power loss may take what was acknowledged. Only for the
    /// test that shows that the other one is needed.
    Off,
}

impl EmbeddedOptions {
    /// The defaults, for the history in that file, with these queues; `general-queue` is
    /// added (50) where it is missing.
    #[must_use]
    pub fn new(database: impl Into<PathBuf>, mut queues: BTreeMap<String, usize>) -> Self {
        queues.entry(GENERAL_QUEUE.to_owned()).or_insert(50);
        Self {
            storage: Arc::new(FileStorage::new(database)),
            busy_timeout: Duration::from_secs(30),
            max_pages: None,
            durability: Durability::Full,
            queues,
            activation_threads: std::thread::available_parallelism()
                .map_or(2, |threads| threads.get().clamp(2, 8)),
            cached_drivers: 10_000,
            limits: RunLimits::default(),
            retention: None,
            stop_grace: Duration::from_secs(2),
            traces: Traces::default(),
        }
    }
}

/// Why an engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the history {0:?} is in use by another process; one process at a time may have it")]
    InUse(PathBuf),
    /// A newer release wrote it.
    #[error(
        "the history was written by a newer Heyday (schema {found}, this one knows up to {known}); update Heyday, or start with another data folder"
    )]
    Newer {
        /// The file's schema.
        found: i64,
        /// This release's.
        known: i64,
    },
    /// It is some other database.
    #[error("the file is a SQLite database, but not a history of Heyday; name another file")]
    NotAHistory,
    /// A queue's limit is 0, or there is no activation thread.
    #[error("{0}")]
    Invalid(String),
    /// The folder or lock file cannot be had.
    #[error("the folder of the history cannot be used: {0}")]
    Io(#[from] std::io::Error),
    /// SQLite refused.
    #[error("the history cannot be opened: {0}")]
    Database(#[from] sqlx::Error),
    /// The history cannot be read.
    #[error("the history cannot be read: {0}")]
    History(String),
}
