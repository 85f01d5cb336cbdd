//! `host.db`: what the server itself knows. Plugins, flows, grants, workers' tokens, the
//! audit, receipts, log lines and answers by idempotency key.
//!
//! Every change of the registry is one transaction that is synced before it is
//! answered. Receipts and log lines are written behind, in batches, by a connection of
//! their own that does not wait for the disk ([`crate::recorder`]): they may be lost
//! when the machine stops, and no answer ever waits for them.

pub mod audit;
pub mod replies;
pub mod tokens;
pub mod versions;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

/// Steps of the schema, in order; `user_version` counts those that a database has. A
/// step that was released never changes.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE versions (
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
        digest BLOB NOT NULL, size INTEGER NOT NULL, description TEXT NOT NULL,
        capabilities TEXT NOT NULL, imports TEXT NOT NULL, created_us INTEGER NOT NULL,
        PRIMARY KEY (kind, namespace, name, version)
    ) WITHOUT ROWID;
    CREATE TABLE activations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
        at_us INTEGER NOT NULL
    );
    CREATE INDEX activations_by_name ON activations (kind, namespace, name, id);
    CREATE TABLE uploads (
        namespace TEXT NOT NULL, digest BLOB NOT NULL, size INTEGER NOT NULL,
        state TEXT NOT NULL, reason TEXT, capabilities TEXT NOT NULL, imports TEXT NOT NULL,
        options TEXT NOT NULL, principal TEXT NOT NULL, created_us INTEGER NOT NULL,
        PRIMARY KEY (namespace, digest)
    ) WITHOUT ROWID;
    CREATE TABLE grants (
        namespace TEXT NOT NULL, subject TEXT NOT NULL, capability TEXT NOT NULL,
        binding TEXT NOT NULL, mode TEXT, granted_us INTEGER NOT NULL,
        PRIMARY KEY (namespace, subject, capability, binding)
    ) WITHOUT ROWID;
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at_us INTEGER NOT NULL, namespace TEXT NOT NULL,
        principal TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL,
        details TEXT NOT NULL
    );
    CREATE INDEX audit_by_namespace ON audit (namespace, id);
    CREATE TABLE receipts (
        run_id BLOB NOT NULL, activity_id TEXT NOT NULL, attempt INTEGER NOT NULL,
        namespace TEXT NOT NULL, activity_type TEXT NOT NULL, queue TEXT NOT NULL,
        started_us INTEGER NOT NULL, ended_us INTEGER NOT NULL, outcome TEXT NOT NULL,
        counters TEXT NOT NULL,
        PRIMARY KEY (run_id, activity_id, attempt)
    ) WITHOUT ROWID;
    CREATE TABLE log_lines (
        id INTEGER PRIMARY KEY AUTOINCREMENT, run_id BLOB NOT NULL, activity_id TEXT NOT NULL,
        activity_type TEXT NOT NULL, attempt INTEGER NOT NULL, at_us INTEGER NOT NULL,
        namespace TEXT NOT NULL, level TEXT NOT NULL, message TEXT NOT NULL, fields TEXT NOT NULL
    );
    CREATE INDEX log_lines_by_run ON log_lines (run_id, id);
    CREATE INDEX log_lines_by_time ON log_lines (at_us);
    CREATE INDEX receipts_by_time ON receipts (ended_us);
    CREATE TABLE replies (
        namespace TEXT NOT NULL, route TEXT NOT NULL, key TEXT NOT NULL,
        request BLOB NOT NULL, status INTEGER NOT NULL, body BLOB NOT NULL,
        at_us INTEGER NOT NULL,
        PRIMARY KEY (namespace, route, key)
    ) WITHOUT ROWID;
    CREATE INDEX replies_by_time ON replies (at_us);
",
    "
    CREATE TABLE markers (name TEXT NOT NULL PRIMARY KEY, at_us INTEGER NOT NULL) WITHOUT ROWID;
",
    "
    ALTER TABLE replies ADD COLUMN location TEXT;
",
    "
    CREATE TABLE tokens (
        id BLOB NOT NULL PRIMARY KEY, digest BLOB NOT NULL UNIQUE, name TEXT NOT NULL,
        namespaces TEXT NOT NULL, created_us INTEGER NOT NULL
    ) WITHOUT ROWID;
",
];

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The database failed: a full disk, most often. Nothing was changed.
    #[error("the server's state cannot be read or written")]
    Database(#[from] sqlx::Error),
    /// It was written by a newer Heyday.
    #[error(
        "host.db has schema {found}, newer than the {known} that this Heyday knows; use the \
         version that wrote it, or a newer one"
    )]
    TooNew {
        /// The schema that it has.
        found: i64,
        /// The newest that is known.
        known: usize,
    },
    /// A row that this Heyday cannot have written.
    #[error("host.db is damaged: {0}")]
    Damaged(String),
}

impl StateError {
    /// With its cause, for the log.
    pub(crate) fn chain(&self) -> String {
        match self {
            Self::Database(cause) => format!("{self}: {cause}"),
            _ => self.to_string(),
        }
    }
}

/// The opened database. Clones are handles of the same one.
#[derive(Debug, Clone)]
pub struct HostDb {
    pool: SqlitePool,
    behind: SqlitePool,
}

impl HostDb {
    /// Opens it, and makes or migrates it where needed.
    ///
    /// # Errors
    /// When the file cannot be used, or was written by a newer Heyday.
    pub async fn open(path: &Path) -> Result<Self, StateError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            .foreign_keys(true);
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options.clone())
            .await?;
        migrate(&pool).await?;
        let behind = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.synchronous(SqliteSynchronous::Normal))
            .await?;
        Ok(Self { pool, behind })
    }

    /// The connections whose writes are synced.
    pub(crate) const fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// The connection for what is written behind.
    pub(crate) const fn behind(&self) -> &SqlitePool {
        &self.behind
    }

    /// Whether the database can be read now.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn check(&self) -> Result<(), StateError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Writes back what is in the log and closes the connections.
    pub async fn close(&self) {
        self.behind.close().await;
        self.pool.close().await;
    }
}

async fn migrate(pool: &SqlitePool) -> Result<(), StateError> {
    let mut connection = pool.acquire().await?;
    let found: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    let done = usize::try_from(found).unwrap_or(usize::MAX);
    if done > MIGRATIONS.len() {
        return Err(StateError::TooNew {
            found,
            known: MIGRATIONS.len(),
        });
    }
    for (number, step) in MIGRATIONS.iter().enumerate().skip(done) {
        // Both are texts of this file.
        let text = format!(
            "BEGIN IMMEDIATE; {step}; PRAGMA user_version = {}; COMMIT;",
            number + 1
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(text))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// A time as it is stored: microseconds since 1970.
pub(crate) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// A stored time.
pub(crate) fn timestamp(micros: i64) -> Result<Timestamp, StateError> {
    Timestamp::from_microsecond(micros).map_err(|error| StateError::Damaged(error.to_string()))
}

/// A stored digest.
pub(crate) fn digest(bytes: &[u8]) -> Result<heyday_durable::payload::Digest, StateError> {
    <[u8; 32]>::try_from(bytes)
        .map(heyday_durable::payload::Digest::from_bytes)
        .map_err(|_| StateError::Damaged("a digest has not 32 bytes".to_owned()))
}

/// Stored JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StateError> {
    serde_json::from_str(text).map_err(|error| StateError::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_opens_twice_and_refuses_a_newer_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("host.db");
        let first = HostDb::open(&path).await.expect("made");
        first.close().await;
        let second = HostDb::open(&path).await.expect("opened again");
        let version: String = sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(second.pool())
            .await
            .expect("a version");
        let version = semver::Version::parse(&version).expect("a version");
        // Older ones have a bug that can corrupt a write-ahead log.
        assert!(version >= semver::Version::new(3, 51, 3), "{version}");
        sqlx::raw_sql("PRAGMA user_version = 999")
            .execute(second.pool())
            .await
            .expect("set");
        second.close().await;
        assert!(matches!(
            HostDb::open(&path).await,
            Err(StateError::TooNew { found: 999, .. })
        ));
    }
}
