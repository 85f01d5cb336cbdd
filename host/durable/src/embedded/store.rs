//! `history.db`: its schema, how it is opened, and what is read from it.
//!
//! Only the [`writer`](super::writer) writes; everything here reads, over a small pool.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use prost::Message as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Row as _};
use uuid::Uuid;

use super::events::{Transition, timestamp};
use crate::engine::{EngineError, ExecutionStatus, RunInfo};
use crate::payload::Digest;

/// Steps of the schema, in order; the database's `user_version` counts those it has.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE runs (
        run_id BLOB PRIMARY KEY, namespace TEXT NOT NULL, workflow_id TEXT NOT NULL,
        workflow_type TEXT NOT NULL, version TEXT NOT NULL, digest BLOB NOT NULL,
        status INTEGER NOT NULL, started_us INTEGER NOT NULL, closed_us INTEGER,
        history_length INTEGER NOT NULL, parent_workflow_id TEXT, parent_run_id BLOB, held TEXT
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX runs_open ON runs (namespace, workflow_id) WHERE status = 1;
    CREATE INDEX runs_by_workflow ON runs (namespace, workflow_id, started_us);
    CREATE INDEX runs_by_start ON runs (namespace, started_us, run_id);
    CREATE TABLE transitions (
        run_id BLOB NOT NULL, first_event INTEGER NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (run_id, first_event)
    ) WITHOUT ROWID;
    CREATE TABLE idempotency (
        namespace TEXT NOT NULL, key TEXT NOT NULL, run_id BLOB NOT NULL, at_us INTEGER NOT NULL,
        PRIMARY KEY (namespace, key)
    ) WITHOUT ROWID;
    CREATE INDEX idempotency_by_time ON idempotency (at_us);
    CREATE TABLE heartbeats (
        run_id BLOB NOT NULL, activity_id TEXT NOT NULL, details BLOB NOT NULL,
        PRIMARY KEY (run_id, activity_id)
    ) WITHOUT ROWID;
"];

/// How hard a commit is made durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// Every commit is synced.
    #[default]
    Full,
    /// Nothing is: a test shows what is lost then.
    Off,
}

/// Opens connections to one database.
#[derive(Debug, Clone)]
pub struct Database {
    path: PathBuf,
    vfs: Option<String>,
    synchronous: Synchronous,
}

impl Database {
    /// The database at that path, opened through that SQLite VFS.
    pub fn new(path: &Path, vfs: Option<String>, synchronous: Synchronous) -> Self {
        Self { path: path.to_path_buf(), vfs, synchronous }
    }

    fn options(&self) -> SqliteConnectOptions {
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match self.synchronous {
                Synchronous::Full => SqliteSynchronous::Full,
                Synchronous::Off => SqliteSynchronous::Off,
            })
            .busy_timeout(Duration::from_secs(10))
            // A connection of its own checkpoints, so that no commit waits for one.
            .pragma("wal_autocheckpoint", "0")
            .disable_statement_logging();
        match &self.vfs {
            Some(vfs) => options.vfs(vfs.clone()),
            None => options,
        }
    }

    /// One connection.
    pub async fn connect(&self) -> Result<SqliteConnection, sqlx::Error> {
        self.options().connect().await
    }

    /// A pool for readers.
    pub async fn readers(&self) -> Result<SqlitePool, sqlx::Error> {
        SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(self.options())
            .await
    }

    /// Brings the schema up to date; refuses one that is newer than this release.
    pub async fn migrate(&self) -> Result<(), EngineError> {
        let mut connection = self.connect().await.map_err(unavailable)?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut connection)
            .await
            .map_err(unavailable)?;
        let version = usize::try_from(version).unwrap_or(usize::MAX);
        if version > MIGRATIONS.len() {
            return Err(EngineError::Invalid(format!(
                "{} was written by a newer Heyday (schema {version}, this one knows {}); update this binary",
                self.path.display(),
                MIGRATIONS.len()
            )));
        }
        for (index, migration) in MIGRATIONS.iter().enumerate().skip(version) {
            let script = format!("BEGIN IMMEDIATE; {migration}; PRAGMA user_version = {}; COMMIT;", index + 1);
            sqlx::raw_sql(sqlx::AssertSqlSafe(script))
                .execute(&mut connection)
                .await
                .map_err(unavailable)?;
        }
        Ok(())
    }
}

/// The database cannot be used now.
pub fn unavailable(error: sqlx::Error) -> EngineError {
    let text = error.to_string();
    let full = text.contains("database or disk is full");
    let message = if full {
        "the disk is full; make room and repeat the request".to_owned()
    } else {
        "the database cannot be read or written; the log has the cause".to_owned()
    };
    EngineError::Unavailable { message, source: Some(Box::new(error)) }
}

/// Temporal's number of a status.
pub const fn status_number(status: ExecutionStatus) -> i64 {
    match status {
        ExecutionStatus::Running => 1,
        ExecutionStatus::Completed => 2,
        ExecutionStatus::Failed => 3,
        ExecutionStatus::Canceled => 4,
        ExecutionStatus::Terminated => 5,
        ExecutionStatus::TimedOut => 7,
    }
}

/// The status of that number; `Failed` for one that this release does not know.
pub const fn status_of(number: i64) -> ExecutionStatus {
    match number {
        1 => ExecutionStatus::Running,
        2 => ExecutionStatus::Completed,
        4 => ExecutionStatus::Canceled,
        5 => ExecutionStatus::Terminated,
        7 => ExecutionStatus::TimedOut,
        _ => ExecutionStatus::Failed,
    }
}

/// The columns of [`run_info`], in order.
pub const RUN_COLUMNS: &str = "run_id, namespace, workflow_id, workflow_type, version, digest, status, \
     started_us, closed_us, history_length, parent_workflow_id, parent_run_id, held";

/// A run from a row of [`RUN_COLUMNS`].
pub fn run_info(row: &SqliteRow) -> Result<RunInfo, EngineError> {
    let parent_run: Option<Vec<u8>> = row.get(11);
    let parent_workflow: Option<String> = row.get(10);
    let parent = parent_workflow.zip(parent_run.and_then(|id| Uuid::from_slice(&id).ok()));
    let digest: Vec<u8> = row.get(5);
    let version: String = row.get(4);
    let corrupt = |what: &str| EngineError::Internal(format!("the stored {what} of a run is malformed"));
    Ok(RunInfo {
        run_id: Uuid::from_slice(row.get(0)).map_err(|_| corrupt("run id"))?,
        namespace: row.get(1),
        workflow_id: row.get(2),
        workflow_type: row.get(3),
        version: version.parse().map_err(|_| corrupt("version"))?,
        digest: Digest::from_bytes(digest.try_into().map_err(|_| corrupt("digest"))?),
        status: status_of(row.get(6)),
        started_at: timestamp(row.get(7)),
        closed_at: row.get::<Option<i64>, _>(8).map(timestamp),
        history_length: u64::try_from(row.get::<i64, _>(9)).unwrap_or_default(),
        parent,
        held: row.get(12),
    })
}

/// What is read of runs.
#[derive(Debug, Clone)]
pub struct Reader {
    pool: SqlitePool,
}

impl Reader {
    /// Reads over that pool.
    pub const fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// The pool, for lists.
    pub const fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A run by its id, or the latest one of a workflow id.
    pub async fn run(
        &self,
        namespace: &str,
        workflow_id: &str,
        run_id: Option<Uuid>,
    ) -> Result<Option<RunInfo>, EngineError> {
        let sql = format!(
            "SELECT {RUN_COLUMNS} FROM runs WHERE namespace = ?1 AND workflow_id = ?2 AND (?3 IS NULL OR run_id = ?3)
             ORDER BY started_us DESC, run_id DESC LIMIT 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(namespace)
            .bind(workflow_id)
            .bind(run_id.map(|id| id.as_bytes().to_vec()))
            .fetch_optional(&self.pool)
            .await
            .map_err(unavailable)?;
        row.as_ref().map(run_info).transpose()
    }

    /// A run by its run id alone.
    pub async fn run_by_id(&self, run_id: Uuid) -> Result<Option<RunInfo>, EngineError> {
        let sql = format!("SELECT {RUN_COLUMNS} FROM runs WHERE run_id = ?1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(run_id.as_bytes().to_vec())
            .fetch_optional(&self.pool)
            .await
            .map_err(unavailable)?;
        row.as_ref().map(run_info).transpose()
    }

    /// All open runs, oldest first.
    pub async fn open_runs(&self) -> Result<Vec<RunInfo>, EngineError> {
        let sql = format!("SELECT {RUN_COLUMNS} FROM runs WHERE status = 1 ORDER BY started_us, run_id");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .fetch_all(&self.pool)
            .await
            .map_err(unavailable)?;
        rows.iter().map(run_info).collect()
    }

    /// The run that an earlier request with this key started.
    pub async fn idempotent(&self, namespace: &str, key: &str, after: Timestamp) -> Result<Option<Uuid>, EngineError> {
        let run_id: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT run_id FROM idempotency WHERE namespace = ?1 AND key = ?2 AND at_us >= ?3")
                .bind(namespace)
                .bind(key)
                .bind(after.as_microsecond())
                .fetch_optional(&self.pool)
                .await
                .map_err(unavailable)?;
        Ok(run_id.and_then(|id| Uuid::from_slice(&id).ok()))
    }

    /// A run's transitions with the id of the first event of each, from the one that
    /// holds the event after `after`.
    pub async fn transitions(&self, run_id: Uuid, after: u64) -> Result<Vec<(u64, Transition)>, EngineError> {
        let rows = sqlx::query(
            "SELECT first_event, data FROM transitions WHERE run_id = ?1 AND first_event >= coalesce(
                 (SELECT max(first_event) FROM transitions WHERE run_id = ?1 AND first_event <= ?2), 0)
             ORDER BY first_event",
        )
        .bind(run_id.as_bytes().to_vec())
        .bind(i64::try_from(after.saturating_add(1)).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await
        .map_err(unavailable)?;
        rows.iter()
            .map(|row| {
                let first = u64::try_from(row.get::<i64, _>(0)).unwrap_or_default();
                let transition = Transition::decode(row.get::<&[u8], _>(1))
                    .map_err(|error| EngineError::Internal(format!("run {run_id}: a stored transition is malformed: {error}")))?;
                Ok((first, transition))
            })
            .collect()
    }

    /// Details of the last heartbeats of a run's activities.
    pub async fn heartbeats(&self, run_id: Uuid) -> Result<Vec<(String, Vec<u8>)>, EngineError> {
        let rows = sqlx::query("SELECT activity_id, details FROM heartbeats WHERE run_id = ?1")
            .bind(run_id.as_bytes().to_vec())
            .fetch_all(&self.pool)
            .await
            .map_err(unavailable)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
