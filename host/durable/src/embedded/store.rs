//! The database file: opening it, and reading it.
//!
//! Three kinds of connection: the writer's (see [`writer`](super::writer)), the
//! checkpointer's, and a small pool of readers, whose functions are here. Each reader
//! sees what was committed when its statement began.

use std::path::Path;

use prost::Message as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, Row as _, SqliteConnection};
use uuid::Uuid;

use super::events::{self, Transition};
use super::options::{Durability, EmbeddedOptions, OpenError};
use super::schema;
use super::storage::Claim;
use crate::engine::{EngineError, ExecutionStatus, RunInfo};
use crate::schedule::ScheduleRef;
use crate::search::SearchTypes;

/// A row of `runs`.
pub type RunRow = RunInfo;

/// The columns that [`info_of`] reads, in its order.
pub const RUN_COLUMNS: &str = "run_id, namespace, workflow_id, workflow_type, version, digest, \
     status, started_us, closed_us, parent_workflow_id, parent_run_id, held, \
     coalesce((SELECT max(last_event) FROM transitions t WHERE t.run_id = runs.run_id), 0)";

/// The file and its readers.
#[derive(Debug)]
pub struct Store {
    readers: SqlitePool,
    options: SqliteConnectOptions,
    /// Held as long as the engine lives; another process cannot have it meanwhile.
    claim: std::sync::Mutex<Option<Claim>>,
}

impl Store {
    /// Opens the file and brings it to this release's tables.
    pub async fn open(options: &EmbeddedOptions) -> Result<Self, OpenError> {
        let storage = &options.storage;
        let claim = storage.claim().await?;
        let mut connect = SqliteConnectOptions::new()
            .filename(storage.database())
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match options.durability {
                Durability::Full => SqliteSynchronous::Full,
                Durability::Off => SqliteSynchronous::Off,
            })
            .foreign_keys(false)
            .pragma("wal_autocheckpoint", "0")
            .busy_timeout(options.busy_timeout);
        if let Some(pages) = options.max_pages {
            connect = connect.pragma("max_page_count", pages.to_string());
        }
        if let Some(vfs) = storage.vfs() {
            connect = connect.vfs(vfs.to_owned());
        }
        let mut connection = SqliteConnection::connect_with(&connect).await?;
        schema::migrate(&mut connection).await?;
        connection.close().await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(connect.clone().pragma("query_only", "ON"))
            .await?;
        Ok(Self {
            readers,
            options: connect,
            claim: std::sync::Mutex::new(Some(claim)),
        })
    }

    /// A connection of its own, that may write.
    pub async fn connect(&self) -> Result<SqliteConnection, sqlx::Error> {
        SqliteConnection::connect_with(&self.options).await
    }

    /// The file.
    pub fn database(&self) -> &Path {
        self.options.get_filename()
    }

    /// The claim, for a thread that writes: while it has it, nobody else gets the history.
    pub fn hold(&self) -> Option<Claim> {
        super::lock(&self.claim).clone()
    }

    /// The readers.
    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Closes the readers and lets others have the file. Nobody else of this engine may
    /// use it any more.
    pub async fn close(&self) {
        self.readers.close().await;
        super::lock(&self.claim).take();
    }

    /// The largest run id.
    pub async fn last_run(&self) -> Result<Option<Uuid>, sqlx::Error> {
        let last: Option<Vec<u8>> = sqlx::query_scalar("SELECT max(run_id) FROM runs")
            .fetch_one(&self.readers)
            .await?;
        Ok(last.and_then(|id| Uuid::from_slice(&id).ok()))
    }

    /// The last run of a workflow id.
    pub async fn latest(
        &self,
        namespace: &str,
        workflow_id: &str,
    ) -> Result<Option<Uuid>, sqlx::Error> {
        let latest: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT max(run_id) FROM runs WHERE namespace = ? AND workflow_id = ?",
        )
        .bind(namespace)
        .bind(workflow_id)
        .fetch_one(&self.readers)
        .await?;
        Ok(latest.and_then(|id| Uuid::from_slice(&id).ok()))
    }

    /// The types of the search attributes of a namespace.
    pub async fn search_types(&self, namespace: &str) -> Result<SearchTypes, sqlx::Error> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT name, type FROM search_types WHERE namespace = ?")
                .bind(namespace)
                .fetch_all(&self.readers)
                .await?;
        let types = rows.into_iter();
        Ok(types
            .filter_map(|(name, named)| Some((name, named.parse().ok()?)))
            .collect())
    }

    /// The run that an idempotency key answers, if it has not expired.
    pub async fn keyed_run(
        &self,
        namespace: &str,
        key: &str,
        now_us: i64,
    ) -> Result<Option<Uuid>, sqlx::Error> {
        let run: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT run_id FROM idempotency WHERE namespace = ? AND key = ? AND expires_us > ?",
        )
        .bind(namespace)
        .bind(key)
        .bind(now_us)
        .fetch_optional(&self.readers)
        .await?;
        Ok(run.and_then(|id| Uuid::from_slice(&id).ok()))
    }

    /// A run's row.
    pub async fn run(&self, run_id: Uuid) -> Result<Option<RunRow>, sqlx::Error> {
        let mut query = sqlx::QueryBuilder::new("SELECT ");
        query.push(RUN_COLUMNS).push(" FROM runs WHERE run_id = ");
        query.push_bind(run_id.as_bytes().to_vec());
        let row = query.build().fetch_optional(&self.readers).await?;
        row.as_ref().map(info_of).transpose()
    }

    /// Open runs after that one, ascending, and why each is held.
    pub async fn open_runs(
        &self,
        after: Uuid,
        limit: i64,
    ) -> Result<Vec<(Uuid, Option<String>)>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT run_id, held FROM runs WHERE status = 1 AND run_id > ? ORDER BY run_id LIMIT ?",
        )
        .bind(after.as_bytes().as_slice())
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| Ok((uuid(row, 0)?, row.try_get(1)?)))
            .collect()
    }

    /// A run's transitions that have events after that one, ascending: each with the id
    /// of its last event.
    pub async fn transitions(
        &self,
        run_id: Uuid,
        after: u64,
        limit: i64,
    ) -> Result<Vec<(u64, Transition)>, StoreError> {
        let rows = sqlx::query(
            "SELECT last_event, body FROM transitions WHERE run_id = ? AND last_event > ?
             ORDER BY last_event LIMIT ?",
        )
        .bind(run_id.as_bytes().as_slice())
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(transition).collect()
    }

    /// A run's last transition, and the id of its last event.
    pub async fn last_transition(
        &self,
        run_id: Uuid,
    ) -> Result<Option<(u64, Transition)>, StoreError> {
        let row = sqlx::query(
            "SELECT last_event, body FROM transitions WHERE run_id = ?
             ORDER BY last_event DESC LIMIT 1",
        )
        .bind(run_id.as_bytes().as_slice())
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(transition).transpose()
    }

    /// Details of the last heartbeat that was written of an attempt.
    pub async fn heartbeat(
        &self,
        run_id: Uuid,
        activity_id: &str,
        attempt: u32,
    ) -> Result<Option<crate::payload::Payload>, sqlx::Error> {
        let details: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT details FROM heartbeats WHERE run_id = ? AND activity_id = ? AND attempt = ?",
        )
        .bind(run_id.as_bytes().as_slice())
        .bind(activity_id)
        .bind(i64::from(attempt))
        .fetch_optional(&self.readers)
        .await?;
        Ok(details.and_then(|bytes| crate::payload::Payload::decode(&*bytes).ok()))
    }

    /// All schedules, encoded.
    pub async fn schedules(&self) -> Result<Vec<(ScheduleRef, Vec<u8>)>, sqlx::Error> {
        let rows: Vec<(String, String, Vec<u8>)> =
            sqlx::query_as("SELECT namespace, schedule_id, body FROM schedules")
                .fetch_all(&self.readers)
                .await?;
        let named = rows.into_iter().map(|(namespace, schedule_id, body)| {
            let schedule = ScheduleRef {
                namespace,
                schedule_id,
            };
            (schedule, body)
        });
        Ok(named.collect())
    }

    /// Digests of all payloads that a history names.
    pub async fn payload_references(
        &self,
    ) -> Result<std::collections::HashSet<crate::payload::Digest>, sqlx::Error> {
        let digests: Vec<Vec<u8>> = sqlx::query_scalar("SELECT DISTINCT digest FROM payload_refs")
            .fetch_all(&self.readers)
            .await?;
        Ok(digests
            .iter()
            .filter_map(|digest| events::digest(digest))
            .collect())
    }
}

/// A history that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite's answer.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A row that is no transition.
    #[error("a transition of the history is damaged: {0}")]
    Damaged(#[from] prost::DecodeError),
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        unreadable(error)
    }
}

/// What the API answers when the history cannot be read.
pub fn unreadable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> EngineError {
    let message = "the history cannot be read; check the disk and try again";
    EngineError::unavailable(message, Some(error.into()))
}

fn transition(row: &sqlx::sqlite::SqliteRow) -> Result<(u64, Transition), StoreError> {
    let last: i64 = row.try_get(0)?;
    let body: &[u8] = row.try_get(1)?;
    Ok((last.unsigned_abs(), Transition::decode(body)?))
}

fn uuid(row: &sqlx::sqlite::SqliteRow, column: usize) -> Result<Uuid, sqlx::Error> {
    let bytes: &[u8] = row.try_get(column)?;
    Uuid::from_slice(bytes).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Reads [`RUN_COLUMNS`].
pub fn info_of(row: &sqlx::sqlite::SqliteRow) -> Result<RunInfo, sqlx::Error> {
    let damaged = |what: &str| sqlx::Error::Decode(format!("a run's {what} is damaged").into());
    let version: &str = row.try_get(4)?;
    let closed: Option<i64> = row.try_get(8)?;
    let parent_workflow: Option<String> = row.try_get(9)?;
    let parent_run: Option<Vec<u8>> = row.try_get(10)?;
    Ok(RunInfo {
        run_id: uuid(row, 0)?,
        namespace: row.try_get(1)?,
        workflow_id: row.try_get(2)?,
        workflow_type: row.try_get(3)?,
        version: Some(semver::Version::parse(version).map_err(|_| damaged("version"))?),
        digest: Some(events::digest(row.try_get(5)?).ok_or_else(|| damaged("digest"))?),
        status: status_of(row.try_get(6)?).ok_or_else(|| damaged("status"))?,
        started_at: events::timestamp(row.try_get(7)?),
        closed_at: closed.map(events::timestamp),
        parent: parent_workflow.zip(parent_run.and_then(|id| Uuid::from_slice(&id).ok())),
        held: row.try_get(11)?,
        history_length: row.try_get::<i64, _>(12)?.unsigned_abs(),
    })
}

/// The stored number of a status; Temporal's.
pub const fn status_number(status: ExecutionStatus) -> i64 {
    match status {
        ExecutionStatus::Running => 1,
        ExecutionStatus::Completed => 2,
        ExecutionStatus::Failed => 3,
        ExecutionStatus::Canceled => 4,
        ExecutionStatus::Terminated => 5,
        ExecutionStatus::ContinuedAsNew => 6,
        ExecutionStatus::TimedOut => 7,
    }
}

/// The status of a stored number.
pub const fn status_of(number: i64) -> Option<ExecutionStatus> {
    Some(match number {
        1 => ExecutionStatus::Running,
        2 => ExecutionStatus::Completed,
        3 => ExecutionStatus::Failed,
        4 => ExecutionStatus::Canceled,
        5 => ExecutionStatus::Terminated,
        6 => ExecutionStatus::ContinuedAsNew,
        7 => ExecutionStatus::TimedOut,
        _ => return None,
    })
}
