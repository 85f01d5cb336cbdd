//! The one writer: a thread that commits many transitions together.
//!
//! It takes whatever is queued, writes it in one transaction, syncs once, and then
//! calls what each write left to be done after its commit (answers, launches). It never
//! waits for a batch to fill: while one commit is synced, the next one gathers.
//!
//! When the storage fails, nothing is acknowledged: writes that somebody waits for and
//! can repeat (starts, changes of schedules) are refused at once, until a commit succeeds again; what must be
//! written (outcomes, and all that follows from them) is kept in its order and tried
//! again. A single write that SQLite refuses for itself is isolated, so that it cannot
//! hold up the others.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use sqlx::SqliteConnection;
use tokio::sync::watch;
use uuid::Uuid;

use super::checkpoint::Pages;
use super::failpoint;
use super::phases::{Phase, Phases};
use super::raw::{Connection, SqlError};
use super::statements::Statements;
use super::{lock, wait, wait_timeout};
use crate::engine::{
    BATCH_BOUNDS, EngineError, ExecutionStatus, IdConflictPolicy, IdReusePolicy, WriterStats,
};
use crate::payload::Digest;
use crate::schedule::ScheduleRef;
use crate::search::{SearchAttributes, SearchChanges, SearchTypes};

/// Between two tries while the storage fails.
const RETRY: Duration = Duration::from_millis(200);

/// How often a writer that is to stop still tries. What is lost then are outcomes of
/// attempts, which the next start finds as `worker-lost`.
const TRIES_AT_END: usize = 10;

/// At most so many writes in one transaction, so that an answer never waits for an
/// unbounded one.
const BATCH: usize = BATCH_BOUNDS[BATCH_BOUNDS.len() - 1] as usize;

/// How long the log usually becomes before a checkpoint lets it begin anew, in bytes.
const LOG: i64 = 8 << 20;

/// A write, and what follows its commit.
pub struct Write {
    /// What to write.
    pub kind: WriteKind,
    /// Called on the writer's thread after the commit, or with why there is none.
    pub done: Box<dyn FnOnce(Result<Written, WriteError>) + Send>,
}

/// What to write.
pub enum WriteKind {
    /// A run's row and its first transition.
    Start(Box<StartRow>),
    /// A transition of a run.
    Append(Append),
    /// A run is held, or goes on.
    Hold {
        /// The run.
        run_id: Uuid,
        /// Why; `None` when it goes on.
        reason: Option<String>,
    },
    /// The types of names of search attributes, as far as they are new.
    SearchTypes {
        /// The namespace.
        namespace: String,
        /// The types.
        types: SearchTypes,
    },
    /// A schedule as it is now; `None` where there is none any more.
    Schedule {
        /// Which.
        schedule: ScheduleRef,
        /// Encoded.
        body: Option<Vec<u8>>,
    },
    /// Details of heartbeats, written behind.
    Heartbeats(Vec<HeartbeatRow>),
    /// Removes idempotency keys that expired by `now_us`, and some of the runs that
    /// closed before `closed_before_us`.
    Purge {
        /// Microseconds since the epoch.
        now_us: i64,
        /// Microseconds since the epoch.
        closed_before_us: Option<i64>,
    },
}

/// A new run.
pub struct StartRow {
    /// The run.
    pub run_id: Uuid,
    /// Its namespace.
    pub namespace: String,
    /// The caller's id.
    pub workflow_id: String,
    /// Its type.
    pub workflow_type: String,
    /// The definition's version.
    pub version: String,
    /// The definition's digest.
    pub digest: Digest,
    /// When it was started.
    pub started_us: i64,
    /// Its parent's workflow id and run id.
    pub parent: Option<(String, Uuid)>,
    /// The caller's key, and when it expires.
    pub idempotency: Option<(String, i64)>,
    /// As the caller said.
    pub reuse: IdReusePolicy,
    /// As the caller said.
    pub conflict: IdConflictPolicy,
    /// Values by which lists find it.
    pub search_attributes: SearchAttributes,
    /// Its first transition.
    pub append: Append,
}

/// A transition to append.
pub struct Append {
    /// The run.
    pub run_id: Uuid,
    /// Id of the transition's last event.
    pub last_event: u64,
    /// The encoded transition.
    pub body: Vec<u8>,
    /// How and when the run ended with it.
    pub closed: Option<(ExecutionStatus, i64)>,
    /// Payloads that it names.
    pub references: Vec<Digest>,
    /// The run that goes on where this one ended with it.
    pub next: Option<Box<StartRow>>,
    /// Search attributes that it sets, of names whose types are written.
    pub search_changes: SearchChanges,
}

/// Details of one attempt's last heartbeat.
pub struct HeartbeatRow {
    /// The run.
    pub run_id: Uuid,
    /// The activity.
    pub activity_id: String,
    /// The attempt.
    pub attempt: u32,
    /// The encoded payload.
    pub details: Vec<u8>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// All of it.
    Done,
    /// Some of the old runs were removed, and there may be more.
    More,
    /// Nothing, because this run answers the start.
    Existing(Uuid),
    /// Nothing, because this run is open and the start wants it terminated.
    TerminateFirst(Uuid),
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The start is refused.
    #[error("{0}")]
    Refused(EngineError),
    /// SQLite's answer.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The writer has stopped.
    #[error("the writer has stopped")]
    Stopped,
}

impl WriteError {
    /// What the API answers.
    pub fn into_engine(self) -> EngineError {
        match self {
            Self::Refused(error) => error,
            Self::Sql(error) if error.is_storage() => EngineError::Unavailable {
                message: error.advice().to_owned(),
                source: Some(Box::new(error)),
            },
            Self::Sql(error) => EngineError::Internal(error.to_string()),
            Self::Stopped => EngineError::ShuttingDown,
        }
    }
}

#[derive(Default)]
struct Queue {
    writes: VecDeque<Write>,
    stop: bool,
}

/// The writer's queue.
pub struct Writer {
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// What to do about the failure of the last commit.
    failing: watch::Sender<Option<&'static str>>,
    dead: AtomicBool,
    pages: Arc<Pages>,
    phases: Arc<Phases>,
    stats: Mutex<WriterStats>,
}

impl Writer {
    /// A queue for a writer that reports to the checkpointer, and how long it took.
    pub fn new(pages: Arc<Pages>, phases: Arc<Phases>) -> Self {
        Self {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            failing: watch::Sender::default(),
            dead: AtomicBool::new(false),
            pages,
            phases,
            stats: Mutex::default(),
        }
    }

    /// Queues a write.
    pub fn submit(&self, write: Write) {
        {
            let mut queue = lock(&self.queue);
            if !queue.stop {
                queue.writes.push_back(write);
                drop(queue);
                self.arrived.notify_one();
                return;
            }
        }
        (write.done)(Err(WriteError::Stopped));
    }

    /// What it did since the start.
    pub fn stats(&self) -> WriterStats {
        WriterStats {
            queued: lock(&self.queue).writes.len(),
            ..*lock(&self.stats)
        }
    }

    fn count(&self, writes: usize) {
        let writes = writes as u64;
        let mut stats = lock(&self.stats);
        stats.commits += 1;
        stats.writes += writes;
        // No batch is larger than the last bound.
        let bucket = BATCH_BOUNDS.partition_point(|bound| *bound < writes);
        if let Some(batches) = stats.batches.get_mut(bucket) {
            *batches += 1;
        }
    }

    /// Why what can be refused should be: the last commit failed.
    pub fn failure(&self) -> Option<EngineError> {
        let advice = *self.failing.borrow();
        advice.map(|advice| EngineError::Unavailable {
            message: advice.to_owned(),
            source: None,
        })
    }

    /// Waits until a commit fails; answers as [`failure`](Self::failure) does.
    pub async fn failed(&self) -> EngineError {
        let mut failing = self.failing.subscribe();
        loop {
            if let Some(failure) = self.failure() {
                return failure;
            }
            // The sender is there as long as the writer.
            let _ = failing.changed().await;
        }
    }

    /// Writes what is queued and stops.
    pub fn stop(&self) {
        lock(&self.queue).stop = true;
        self.arrived.notify_one();
    }

    /// Stops without writing anything more, as a crash would.
    pub fn abandon(&self) {
        self.dead.store(true, Ordering::Release);
        self.stop();
    }

    /// Runs the writer until it is stopped. Blocking: on a thread of its own.
    pub fn run(&self, mut connection: SqliteConnection) -> Result<(), WriteError> {
        let locked = futures::executor::block_on(connection.lock_handle());
        let mut locked = locked.map_err(|error| SqlError {
            code: libsqlite3_sys::SQLITE_CANTOPEN,
            message: error.to_string(),
        })?;
        let raw = Connection::new(&mut locked);
        let mut statements = Statements::prepare(&raw)?;
        if let Err(error) = grow_log(&raw) {
            // It only makes commits faster.
            tracing::debug!(%error, "the write-ahead log was not made long beforehand");
        }
        loop {
            let Some(batch) = self.take() else {
                return Ok(());
            };
            self.commit(&raw, &mut statements, batch);
        }
    }

    fn take(&self) -> Option<Vec<Write>> {
        let mut queue = lock(&self.queue);
        loop {
            if self.dead.load(Ordering::Acquire) {
                let left: Vec<Write> = queue.writes.drain(..).collect();
                drop(queue);
                for write in left {
                    (write.done)(Err(WriteError::Stopped));
                }
                return None;
            }
            if !queue.writes.is_empty() {
                let count = queue.writes.len().min(BATCH);
                return Some(queue.writes.drain(..count).collect());
            }
            if queue.stop {
                return None;
            }
            queue = wait(&self.arrived, queue);
        }
    }

    /// Commits a batch, however long the storage makes it wait.
    fn commit(&self, raw: &Connection<'_>, statements: &mut Statements<'_>, batch: Vec<Write>) {
        let mut batch = batch;
        let mut tries_at_end = 0;
        while !batch.is_empty() {
            if self.dead.load(Ordering::Acquire) {
                for write in batch {
                    (write.done)(Err(WriteError::Stopped));
                }
                return;
            }
            match self.attempt(raw, statements, &batch) {
                Ok(results) => {
                    self.failing
                        .send_if_modified(|failing| failing.take().is_some());
                    failpoint::reached("before-answer");
                    for (write, result) in batch.into_iter().zip(results) {
                        (write.done)(result);
                    }
                    return;
                }
                Err(error) if error.is_storage() => {
                    if self.failing.send_replace(Some(error.advice())).is_none() {
                        tracing::error!(%error, "the history cannot be written; starts are refused until it can");
                    }
                    batch = refuse_starts(batch, &error);
                    // Starts that came meanwhile must not wait for the disk either.
                    let queued = std::mem::take(&mut lock(&self.queue).writes);
                    let kept = refuse_starts(queued.into(), &error);
                    let mut queue = lock(&self.queue);
                    for write in kept.into_iter().rev() {
                        queue.writes.push_front(write);
                    }
                    if batch.is_empty() {
                        // Nothing is left to try, so the next write tries anew.
                        self.failing.send_replace(None);
                    } else if queue.stop && tries_at_end >= TRIES_AT_END {
                        drop(queue);
                        for write in batch {
                            (write.done)(Err(WriteError::Sql(error.clone())));
                        }
                        return;
                    } else {
                        tries_at_end += usize::from(queue.stop);
                        drop(wait_timeout(&self.arrived, queue, RETRY));
                    }
                }
                Err(error) if batch.len() == 1 => {
                    tracing::error!(%error, "a write was refused by SQLite");
                    for write in batch {
                        (write.done)(Err(WriteError::Sql(error.clone())));
                    }
                    return;
                }
                Err(_) => {
                    for write in batch {
                        self.commit(raw, statements, vec![write]);
                    }
                    return;
                }
            }
        }
    }

    /// One transaction.
    fn attempt(
        &self,
        raw: &Connection<'_>,
        statements: &mut Statements<'_>,
        batch: &[Write],
    ) -> Result<Vec<Result<Written, WriteError>>, SqlError> {
        failpoint::reached("before-append");
        let begun = Instant::now();
        raw.execute(c"BEGIN IMMEDIATE")?;
        let mut bytes = 0;
        let result: Result<Vec<_>, SqlError> = batch
            .iter()
            .map(|write| match statements.write(&write.kind, &mut bytes) {
                Ok(written) => Ok(Ok(written)),
                Err(WriteError::Sql(error)) => Err(error),
                Err(error) => Ok(Err(error)),
            })
            .collect();
        let result = result.and_then(|results| {
            failpoint::reached("before-sync");
            raw.execute(c"COMMIT").map(|()| results)
        });
        if result.is_err() && raw.in_transaction() {
            // It fails only where SQLite has rolled back by itself.
            let _ = raw.execute(c"ROLLBACK");
        }
        if result.is_ok() {
            self.phases.spent(Phase::Commit, begun.elapsed());
            self.pages.wrote(bytes, batch.len());
            self.count(batch.len());
        } else {
            lock(&self.stats).failures += 1;
        }
        result
    }
}

/// Makes the log as long as it becomes between two checkpoints.
fn grow_log(raw: &Connection<'_>) -> Result<(), SqlError> {
    raw.execute(c"BEGIN IMMEDIATE")?;
    let grown = raw.grow_log(LOG);
    // Nothing was written in the transaction.
    raw.execute(c"ROLLBACK")?;
    grown
}

/// Answers the starts of a batch, and what else can be repeated, and keeps the others.
fn refuse_starts(batch: Vec<Write>, error: &SqlError) -> Vec<Write> {
    let (starts, kept): (Vec<_>, Vec<_>) = batch.into_iter().partition(|write| match &write.kind {
        WriteKind::Start(start) => start.parent.is_none(),
        WriteKind::Schedule { .. } => true,
        _ => false,
    });
    for write in starts {
        (write.done)(Err(WriteError::Sql(error.clone())));
    }
    kept
}
