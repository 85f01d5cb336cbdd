//! The one writer: it commits many transitions together.
//!
//! A thread takes whatever is queued, writes it in one transaction, syncs once, and then
//! calls what each write left to be done after its commit (answers, launches). It never
//! waits for a batch to fill: while one commit is synced, the next one gathers.
//!
//! Where nothing is queued and nobody commits, a thread that may block commits its write
//! itself ([`Writer::submit_here`]): to wake another one takes as long as half a sync.
//! There is still one commit at a time, and one connection, which its thread has for as long.
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
use super::raw::{Connection, Prepared, SqlError};
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
    /// Called after the commit, on the thread that made it, or with why there is none.
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
            Self::Sql(error) if error.is_storage() => {
                EngineError::unavailable(error.advice(), Some(Box::new(error)))
            }
            Self::Sql(error) => EngineError::Internal(error.to_string()),
            Self::Stopped => EngineError::ShuttingDown,
        }
    }
}

#[derive(Default)]
struct Queue {
    writes: VecDeque<Write>,
    stop: bool,
    committing: Committing,
}

/// Whose turn it is: one commit after the other, each with what follows it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Committing {
    #[default]
    Nobody,
    /// The writer's own thread.
    Writer,
    /// The thread of a write.
    Here,
}

/// The writer's queue.
pub struct Writer {
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// There while the writer's thread runs, for whoever's turn it is.
    prepared: Mutex<Option<Prepared>>,
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
            prepared: Mutex::default(),
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
                // Whoever commits here lets the writer go on at its end.
                let asleep = queue.committing != Committing::Here;
                drop(queue);
                if asleep {
                    self.arrived.notify_one();
                }
                return;
            }
        }
        (write.done)(Err(WriteError::Stopped));
    }

    /// The same from a thread that may block, which commits the write itself where no
    /// other is before it.
    pub fn submit_here(&self, write: Write) {
        {
            let mut queue = lock(&self.queue);
            let free = queue.committing == Committing::Nobody && queue.writes.is_empty();
            if !free || queue.stop {
                drop(queue);
                return self.submit(write);
            }
            queue.committing = Committing::Here;
        }
        let turn = Turn(self);
        if let Some(write) = self.commit_here(write) {
            // What failed is the writer's to try again, and to report.
            lock(&self.queue).writes.push_front(write);
        }
        drop(turn);
    }

    /// One try; the write comes back where it failed, or before the writer has begun.
    fn commit_here(&self, write: Write) -> Option<Write> {
        let batch = [write];
        let attempted = {
            let mut prepared = lock(&self.prepared);
            prepared
                .as_mut()
                .map(|prepared| self.attempt(prepared, &batch))
        };
        match attempted {
            Some(Ok(results)) => {
                self.committed(batch, results);
                return None;
            }
            Some(Err(error)) if error.is_storage() => self.failed_with(&error),
            _ => {}
        }
        batch.into_iter().next()
    }

    /// From now on it is known that the storage fails.
    fn failed_with(&self, error: &SqlError) {
        if self.failing.send_replace(Some(error.advice())).is_none() {
            tracing::error!(%error, "the history cannot be written; starts are refused until it can");
        }
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
        advice.map(|advice| EngineError::unavailable(advice, None))
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
    pub fn run(&self, connection: SqliteConnection) -> Result<(), WriteError> {
        let prepared = Prepared::new(connection)?;
        if let Err(error) = grow_log(&prepared.connection) {
            // It only makes commits faster.
            tracing::debug!(%error, "the write-ahead log was not made long beforehand");
        }
        *lock(&self.prepared) = Some(prepared);
        let _ending = Ending(self);
        while let Some(batch) = self.take() {
            let turn = Turn(self);
            self.commit(batch);
            drop(turn);
        }
        Ok(())
    }

    /// Waits for its turn, and for something to do in it.
    fn take(&self) -> Option<Vec<Write>> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.committing == Committing::Nobody {
                if self.dead.load(Ordering::Acquire) {
                    let left: Vec<Write> = queue.writes.drain(..).collect();
                    drop(queue);
                    for write in left {
                        (write.done)(Err(WriteError::Stopped));
                    }
                    return None;
                }
                if !queue.writes.is_empty() {
                    queue.committing = Committing::Writer;
                    let count = queue.writes.len().min(BATCH);
                    return Some(queue.writes.drain(..count).collect());
                }
                if queue.stop {
                    return None;
                }
            }
            queue = wait(&self.arrived, queue);
        }
    }

    /// Commits a batch, however long the storage makes it wait.
    fn commit(&self, mut batch: Vec<Write>) {
        let mut tries_at_end = 0;
        while !batch.is_empty() {
            if self.dead.load(Ordering::Acquire) {
                for write in batch {
                    (write.done)(Err(WriteError::Stopped));
                }
                return;
            }
            let attempted = {
                let mut prepared = lock(&self.prepared);
                match prepared.as_mut() {
                    Some(prepared) => self.attempt(prepared, &batch),
                    // Its own thread puts it there before it commits.
                    None => Ok(batch.iter().map(|_| Err(WriteError::Stopped)).collect()),
                }
            };
            match attempted {
                Ok(results) => return self.committed(batch, results),
                Err(error) if error.is_storage() => {
                    self.failed_with(&error);
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
                        self.commit(vec![write]);
                    }
                    return;
                }
            }
        }
    }

    /// Lets what was committed have its consequences.
    fn committed(
        &self,
        batch: impl IntoIterator<Item = Write>,
        results: Vec<Result<Written, WriteError>>,
    ) {
        self.failing
            .send_if_modified(|failing| failing.take().is_some());
        failpoint::reached("before-answer");
        for (write, result) in batch.into_iter().zip(results) {
            (write.done)(result);
        }
    }

    /// One transaction.
    fn attempt(
        &self,
        prepared: &mut Prepared,
        batch: &[Write],
    ) -> Result<Vec<Result<Written, WriteError>>, SqlError> {
        failpoint::reached("before-append");
        let begun = Instant::now();
        let Prepared {
            statements,
            connection: raw,
        } = prepared;
        if raw.in_transaction() {
            // Of a thread that panicked.
            raw.execute(c"ROLLBACK")?;
        }
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

/// The end of the writer's thread, also by a panic: nobody commits any more.
struct Ending<'w>(&'w Writer);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.abandon();
        lock(&self.0.prepared).take();
        let left = std::mem::take(&mut lock(&self.0.queue).writes);
        for write in left {
            (write.done)(Err(WriteError::Stopped));
        }
    }
}

/// A turn to commit. At its end, also by a panic, the writer goes on with what came.
struct Turn<'w>(&'w Writer);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        let here = queue.committing == Committing::Here;
        queue.committing = Committing::Nobody;
        if here && (queue.stop || !queue.writes.is_empty()) {
            drop(queue);
            self.0.arrived.notify_one();
        }
    }
}

/// Makes the log as long as it becomes between two checkpoints.
fn grow_log(raw: &Connection) -> Result<(), SqlError> {
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

#[cfg(test)]
mod tests;
