//! The one writer: commits many transitions together.
//!
//! It takes whatever is queued, in order, commits it in one transaction, and only then
//! lets each job's sender know. It never waits to fill a batch. When a commit fails (a
//! full disk), jobs that may be refused are answered with the error; those that must be
//! written (outcomes of attempts that ran) are kept and tried again until there is room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::fail_point;
use super::store::{Database, status_number, unavailable};
use crate::engine::{EngineError, ExecutionStatus};

/// Jobs of one transaction at most; more only make each answer wait longer.
const BATCH: usize = 512;

/// How long to wait before a failed commit is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// A row of `runs` to insert.
#[derive(Debug)]
pub struct NewRun {
    /// The namespace.
    pub namespace: String,
    /// The caller's id.
    pub workflow_id: String,
    /// The workflow type.
    pub workflow_type: String,
    /// The definition's version.
    pub version: String,
    /// The definition's digest.
    pub digest: Vec<u8>,
    /// When it starts.
    pub started_us: i64,
    /// The parent's workflow id and run id.
    pub parent: Option<(String, Uuid)>,
    /// The request's key.
    pub idempotency_key: Option<String>,
}

/// What to write.
#[derive(Debug)]
pub enum Write {
    /// A transition, with the start or the end of its run.
    Transition {
        /// The run.
        run_id: Uuid,
        /// Id of its first event.
        first_event: u64,
        /// Its encoding.
        data: Vec<u8>,
        /// The run begins with it.
        start: Option<Box<NewRun>>,
        /// The run ends with it: status, time, events in all.
        close: Option<(ExecutionStatus, i64, u64)>,
    },
    /// Details of a heartbeat; the last ones count.
    Heartbeat {
        /// The run.
        run_id: Uuid,
        /// The activity.
        activity_id: String,
        /// The encoded payload.
        details: Vec<u8>,
    },
    /// A run is held, or goes on (`None`).
    Held {
        /// The run.
        run_id: Uuid,
        /// Why.
        reason: Option<String>,
    },
}

/// Called after the commit, or with why there was none.
pub type Done = Box<dyn FnOnce(Result<(), EngineError>) + Send>;

/// A write and who wants to know.
pub struct Job {
    /// What to write.
    pub write: Write,
    /// Whether it may be refused: nothing but the answer to a request depends on it.
    pub refusable: bool,
    /// Told after the commit.
    pub done: Done,
}

/// Counters of the writer.
#[derive(Debug, Default)]
pub struct WriterStats {
    /// Transactions that were committed.
    pub commits: AtomicU64,
    /// Jobs in them.
    pub jobs: AtomicU64,
    /// Whether the last commit failed.
    pub failing: AtomicBool,
}

/// Queues jobs.
#[derive(Debug, Clone)]
pub struct Writer {
    jobs: mpsc::UnboundedSender<Job>,
    /// What it did.
    pub stats: Arc<WriterStats>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.write.fmt(f)
    }
}

impl Writer {
    /// Opens the writing connection and starts. The task ends when every `Writer` is
    /// dropped and all jobs are written.
    pub async fn start(database: &Database) -> Result<(Self, tokio::task::JoinHandle<()>), EngineError> {
        let connection = database.connect().await.map_err(unavailable)?;
        let (jobs, receiver) = mpsc::unbounded_channel();
        let stats = Arc::new(WriterStats::default());
        let task = tokio::spawn(run(connection, receiver, Arc::clone(&stats)));
        Ok((Self { jobs, stats }, task))
    }

    /// Queues a job; its place in the queue is its place in the history.
    pub fn send(&self, job: Job) {
        if let Err(mpsc::error::SendError(job)) = self.jobs.send(job) {
            (job.done)(Err(EngineError::ShuttingDown));
        }
    }
}

async fn run(mut connection: SqliteConnection, mut receiver: mpsc::UnboundedReceiver<Job>, stats: Arc<WriterStats>) {
    let mut batch: Vec<Job> = Vec::with_capacity(BATCH);
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        loop {
            fail_point::hit("before-append");
            match commit(&mut connection, &batch).await {
                Ok(()) => break,
                Err(error) => {
                    stats.failing.store(true, Ordering::Relaxed);
                    tracing::error!(%error, jobs = batch.len(), "the history cannot be written");
                    refuse(&mut batch, &error);
                    if batch.is_empty() {
                        break;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        if !batch.is_empty() {
            stats.failing.store(false, Ordering::Relaxed);
            stats.commits.fetch_add(1, Ordering::Relaxed);
            stats.jobs.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
        fail_point::hit("before-answer");
        for job in batch.drain(..) {
            (job.done)(Ok(()));
        }
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the history's connection did not close cleanly");
    }
}

/// Answers the jobs that may be refused and keeps the others.
fn refuse(batch: &mut Vec<Job>, error: &sqlx::Error) {
    let (refused, kept): (Vec<Job>, Vec<Job>) = batch.drain(..).partition(|job| job.refusable);
    *batch = kept;
    for job in refused {
        let copy = sqlx::Error::Protocol(error.to_string());
        (job.done)(Err(unavailable(copy)));
    }
}

async fn commit(connection: &mut SqliteConnection, batch: &[Job]) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for job in batch {
        apply(&mut transaction, &job.write).await?;
    }
    fail_point::hit("before-sync");
    transaction.commit().await
}

async fn apply(connection: &mut SqliteConnection, write: &Write) -> Result<(), sqlx::Error> {
    match write {
        Write::Transition { run_id, first_event, data, start, close } => {
            if let Some(new) = start {
                insert_run(connection, *run_id, new).await?;
            }
            sqlx::query("INSERT INTO transitions (run_id, first_event, data) VALUES (?1, ?2, ?3)")
                .bind(&run_id.as_bytes()[..])
                .bind(signed(*first_event))
                .bind(&data[..])
                .execute(&mut *connection)
                .await?;
            if let Some((status, at, length)) = close {
                sqlx::query("UPDATE runs SET status = ?2, closed_us = ?3, history_length = ?4 WHERE run_id = ?1")
                    .bind(&run_id.as_bytes()[..])
                    .bind(status_number(*status))
                    .bind(*at)
                    .bind(signed(*length))
                    .execute(&mut *connection)
                    .await?;
            }
        }
        Write::Heartbeat { run_id, activity_id, details } => {
            sqlx::query("INSERT OR REPLACE INTO heartbeats (run_id, activity_id, details) VALUES (?1, ?2, ?3)")
                .bind(&run_id.as_bytes()[..])
                .bind(activity_id)
                .bind(&details[..])
                .execute(connection)
                .await?;
        }
        Write::Held { run_id, reason } => {
            sqlx::query("UPDATE runs SET held = ?2 WHERE run_id = ?1")
                .bind(&run_id.as_bytes()[..])
                .bind(reason.as_deref())
                .execute(connection)
                .await?;
        }
    }
    Ok(())
}

async fn insert_run(connection: &mut SqliteConnection, run_id: Uuid, new: &NewRun) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO runs (run_id, namespace, workflow_id, workflow_type, version, digest, status,
             started_us, history_length, parent_workflow_id, parent_run_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, 0, ?8, ?9)",
    )
    .bind(&run_id.as_bytes()[..])
    .bind(&new.namespace)
    .bind(&new.workflow_id)
    .bind(&new.workflow_type)
    .bind(&new.version)
    .bind(&new.digest[..])
    .bind(new.started_us)
    .bind(new.parent.as_ref().map(|(workflow_id, _)| workflow_id.as_str()))
    .bind(new.parent.as_ref().map(|(_, id)| id.as_bytes().to_vec()))
    .execute(&mut *connection)
    .await?;
    if let Some(key) = &new.idempotency_key {
        // An expired key may stand there still.
        sqlx::query("INSERT OR REPLACE INTO idempotency (namespace, key, run_id, at_us) VALUES (?1, ?2, ?3, ?4)")
            .bind(&new.namespace)
            .bind(key)
            .bind(&run_id.as_bytes()[..])
            .bind(new.started_us)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Event numbers stay far below the sign bit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Moves committed transitions from the log into the database, on a connection of its
/// own, whenever the log has grown; ends with the token.
pub async fn checkpoint(database: Database, stats: Arc<WriterStats>, stop: tokio_util::sync::CancellationToken) {
    /// Commits between two checkpoints.
    const COMMITS: u64 = 1_000;
    let Ok(mut connection) = database.connect().await else { return };
    let mut last = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let commits = stats.commits.load(Ordering::Relaxed);
        if commits.saturating_sub(last) < COMMITS {
            continue;
        }
        last = commits;
        fail_point::hit("in-checkpoint");
        if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut connection).await {
            tracing::warn!(%error, "a checkpoint failed; it is tried again");
        }
    }
    // Failing here costs the next start some time and nothing else.
    let _ = connection.close().await;
}
