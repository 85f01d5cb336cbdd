//! Entries in a SQLite database file, in WAL mode, with connections for reading and one
//! for writing.
//!
//! Each write is one transaction, which is synced before it is answered. The version is
//! counted for the whole store, in the same transaction, so that no version comes twice.
//! An entry that has ended is skipped by every read, and removed by later writes, some at
//! a time.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Row as _, Sqlite, SqliteConnection};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::{
    Condition, Entry, KvCode, KvError, KvLimits, ONCE_KEPT, Page, Store, add, after_prefix,
    check_condition, milliseconds, page,
};
use crate::diagnosis::{Asked, Finding, of_store};
use crate::error::chain;
use crate::sqlite_file::{self, OpenError, check_database, end_transaction, migrate};
use crate::task::run_on;

/// Connections that read.
const READERS: u32 = 4;
/// Ended entries that one write removes; it makes at most one itself.
const SWEPT: i64 = 20;
const PAGE_BYTES: u64 = 4_096;

/// Steps of the schema, in order; `user_version` counts those that a store has. A step
/// that was released never changes.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE entries (
        key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL,
        expires_ms INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX entries_by_end ON entries (expires_ms) WHERE expires_ms IS NOT NULL;
    CREATE TABLE additions (
        key TEXT NOT NULL, once TEXT NOT NULL, sum INTEGER NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (key, once)
    ) WITHOUT ROWID;
    CREATE INDEX additions_by_time ON additions (at_ms);
    CREATE TABLE counter (version INTEGER NOT NULL);
    INSERT INTO counter VALUES (0);
"];

/// A store in a database file.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reading: SqlitePool,
    writing: Option<SqlitePool>,
    /// Set once the tables are there. Not done by a pool, which would try again and again
    /// where that cannot be.
    migrated: OnceCell<()>,
    limits: KvLimits,
    runtime: Handle,
}

impl SqliteStore {
    /// Names a store; its file is opened, and made, at its first use. It works on
    /// `runtime`, never on the one that guests run on.
    ///
    /// # Errors
    /// When the path cannot be a database's.
    pub fn new(
        path: &Path,
        read_only: bool,
        limits: KvLimits,
        runtime: Handle,
    ) -> Result<Self, OpenError> {
        check_database(path, read_only)?;
        let mut options = SqliteConnectOptions::new()
            .filename(path)
            .disable_statement_logging()
            .busy_timeout(Duration::from_millis(limits.busy_timeout_ms));
        if read_only {
            options = options.read_only(true);
        } else {
            options = options
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full);
        }
        if let Some(bytes) = limits.store_bytes {
            let pages = (bytes / PAGE_BYTES).max(1);
            options = options.pragma("max_page_count", pages.to_string());
        }
        let wait = Duration::from_millis(limits.busy_timeout_ms);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(wait.max(Duration::from_millis(1)))
        };
        // A pool begins housekeeping when it is made.
        let _entered = runtime.enter();
        let writing = (!read_only).then(|| {
            pool(1)
                .after_release(|connection, _| Box::pin(end_transaction(connection)))
                .connect_lazy_with(options.clone())
        });
        let reading = pool(READERS).connect_lazy_with(options.pragma("query_only", "on"));
        Ok(Self {
            shared: Arc::new(Shared {
                reading,
                writing,
                migrated: OnceCell::new(),
                limits,
                runtime,
            }),
        })
    }

    /// Makes the tables, at the first use.
    async fn migrated(&self) -> Result<(), KvError> {
        let shared = Arc::clone(&self.shared);
        let migrated = run_on(&self.shared.runtime, async move {
            let Some(pool) = &shared.writing else {
                return Ok(());
            };
            let migrate = async || migrate(&mut *pool.acquire().await?, MIGRATIONS).await;
            shared.migrated.get_or_try_init(migrate).await.copied()
        });
        let migrated = migrated.await.map_err(KvError::internal)?;
        migrated.map_err(|error| translate(&error))
    }

    /// Reads on the host's runtime.
    async fn read<T, F>(&self, operation: impl FnOnce(SqlitePool) -> F) -> Result<T, KvError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, sqlx::Error>> + Send + 'static,
    {
        self.migrated().await?;
        let outcome = run_on(&self.shared.runtime, operation(self.shared.reading.clone()));
        let outcome = outcome.await.map_err(KvError::internal)?;
        outcome.map_err(|error| translate(&error))
    }

    /// Writes in one transaction, on the host's runtime; nothing remains where it fails or
    /// nobody waits for it any more.
    async fn write<T, F>(&self, operation: F) -> Result<T, KvError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Write) -> futures::future::BoxFuture<'a, Result<T, Failed>>
            + Send
            + 'static,
    {
        let Some(pool) = self.shared.writing.clone() else {
            return Err(KvError::new(
                KvCode::CapabilityDenied,
                "the binding is read-only",
            ));
        };
        self.migrated().await?;
        let outcome = run_on(&self.shared.runtime, async move {
            let mut write = Write {
                connection: pool.acquire().await?,
                now: now_ms(),
            };
            write.execute("BEGIN IMMEDIATE").await?;
            let answer = operation(&mut write).await?;
            write.sweep().await?;
            write.execute("COMMIT").await?;
            Ok(answer)
        });
        match outcome.await.map_err(KvError::internal)? {
            Ok(answer) => Ok(answer),
            Err(Failed::Refused(error)) => Err(error),
            Err(Failed::Database(error)) => Err(translate(&error)),
        }
    }
}

/// Why a write did not happen.
enum Failed {
    Refused(KvError),
    Database(sqlx::Error),
}

impl From<KvError> for Failed {
    fn from(error: KvError) -> Self {
        Self::Refused(error)
    }
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// A write under way. What is not committed when it is dropped is rolled back before
/// anyone gets the connection again.
struct Write {
    connection: PoolConnection<Sqlite>,
    /// Milliseconds since the Unix epoch.
    now: i64,
}

impl Write {
    async fn execute(&mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        let executed = sqlx::query(statement).execute(&mut *self.connection).await;
        executed.map(|_| ())
    }

    /// The entry under a key, unless it has ended.
    async fn entry(&mut self, key: &str) -> Result<Option<Entry>, sqlx::Error> {
        find(&mut self.connection, key, self.now).await
    }

    /// Puts an entry in the place of the one that is there; answers its version.
    async fn put(
        &mut self,
        key: &str,
        value: &[u8],
        expires_ms: Option<i64>,
    ) -> Result<u64, sqlx::Error> {
        let version: i64 =
            sqlx::query_scalar("UPDATE counter SET version = version + 1 RETURNING version")
                .fetch_one(&mut *self.connection)
                .await?;
        sqlx::query(
            "INSERT OR REPLACE INTO entries (key, value, version, expires_ms) \
             VALUES (?1, ?2, ?3, ?4)",
        )
        .bind(key)
        .bind(value)
        .bind(version)
        .bind(expires_ms)
        .execute(&mut *self.connection)
        .await?;
        Ok(version.unsigned_abs())
    }

    /// When what lives so long ends.
    fn end(&self, ttl: Option<Duration>) -> Option<i64> {
        ttl.map(|ttl| self.now.saturating_add(milliseconds(ttl)))
    }

    /// Removes some of what has ended.
    async fn sweep(&mut self) -> Result<(), sqlx::Error> {
        sqlx::query(
            "DELETE FROM entries WHERE key IN \
             (SELECT key FROM entries WHERE expires_ms <= ?1 LIMIT ?2)",
        )
        .bind(self.now)
        .bind(SWEPT)
        .execute(&mut *self.connection)
        .await?;
        sqlx::query(
            "DELETE FROM additions WHERE (key, once) IN \
             (SELECT key, once FROM additions WHERE at_ms <= ?1 LIMIT ?2)",
        )
        .bind(self.now - milliseconds(ONCE_KEPT))
        .bind(SWEPT)
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn backend(&self) -> &'static str {
        "sqlite"
    }

    fn read_only(&self) -> bool {
        self.shared.writing.is_none()
    }

    fn limits(&self) -> &KvLimits {
        &self.shared.limits
    }

    async fn diagnose(&self) -> Vec<Finding> {
        // No guest's key has a control character.
        let key = || "\0".to_owned();
        let read = || async { self.get(vec![key()]).await.map(drop) };
        let write = async { self.delete(key(), Condition::Always).await.map(drop) };
        let asked = Asked {
            version: Some(sqlite_file::version()),
            read_only: self.read_only(),
            advice: sqlite_file::ADVICE,
        };
        of_store(asked, read, write).await
    }

    /// Waits for what runs.
    async fn close(&self) {
        if let Some(writing) = &self.shared.writing {
            writing.close().await;
        }
        self.shared.reading.close().await;
    }

    async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Entry>>, KvError> {
        self.read(async move |pool| {
            // In one transaction they are as of one moment.
            let mut transaction = pool.begin().await?;
            let now = now_ms();
            let mut entries = Vec::with_capacity(keys.len());
            for key in keys {
                entries.push(find(&mut transaction, &key, now).await?);
            }
            Ok(entries)
        })
        .await
    }

    async fn set(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Option<Duration>,
        condition: Condition,
    ) -> Result<u64, KvError> {
        self.write(move |write| {
            Box::pin(async move {
                if condition != Condition::Always {
                    let found = write.entry(&key).await?;
                    check_condition(&condition, found.map(|entry| entry.version))?;
                }
                let end = write.end(ttl);
                Ok(write.put(&key, &value, end).await?)
            })
        })
        .await
    }

    async fn delete(&self, key: String, condition: Condition) -> Result<bool, KvError> {
        self.write(move |write| {
            Box::pin(async move {
                let found = write.entry(&key).await?;
                check_condition(&condition, found.as_ref().map(|entry| entry.version))?;
                sqlx::query("DELETE FROM entries WHERE key = ?1")
                    .bind(&key)
                    .execute(&mut *write.connection)
                    .await?;
                Ok(found.is_some())
            })
        })
        .await
    }

    async fn increment(
        &self,
        key: String,
        delta: i64,
        ttl: Option<Duration>,
        once: Option<String>,
    ) -> Result<i64, KvError> {
        self.write(move |write| {
            Box::pin(async move {
                if let Some(once) = &once {
                    let before: Option<i64> = sqlx::query_scalar(
                        "SELECT sum FROM additions WHERE key = ?1 AND once = ?2 AND at_ms > ?3",
                    )
                    .bind(&key)
                    .bind(once)
                    .bind(write.now - milliseconds(ONCE_KEPT))
                    .fetch_optional(&mut *write.connection)
                    .await?;
                    if let Some(sum) = before {
                        return Ok(sum);
                    }
                }
                let found = write.entry(&key).await?;
                let sum = add(found.as_ref().map(|entry| entry.value.as_slice()), delta)?;
                let end = match &found {
                    Some(entry) => entry.expires_ms.and_then(|end| i64::try_from(end).ok()),
                    None => write.end(ttl),
                };
                write.put(&key, sum.to_string().as_bytes(), end).await?;
                if let Some(once) = &once {
                    sqlx::query(
                        "INSERT OR REPLACE INTO additions (key, once, sum, at_ms) \
                         VALUES (?1, ?2, ?3, ?4)",
                    )
                    .bind(&key)
                    .bind(once)
                    .bind(sum)
                    .bind(write.now)
                    .execute(&mut *write.connection)
                    .await?;
                }
                Ok(sum)
            })
        })
        .await
    }

    async fn list(
        &self,
        prefix: String,
        limit: u32,
        after: Option<String>,
    ) -> Result<Page, KvError> {
        self.read(async move |pool| {
            let from = after.as_deref().unwrap_or_default();
            // SQLite compares texts by their bytes. What begins with the prefix stands
            // together, from the prefix itself on.
            let keys: Vec<String> = sqlx::query_scalar(
                "SELECT key FROM entries \
                 WHERE key >= ?1 AND key > ?2 AND substr(key, 1, length(?1)) = ?1 \
                   AND (expires_ms IS NULL OR expires_ms > ?3) \
                   AND (?4 IS NULL OR key < ?4) \
                 ORDER BY key LIMIT ?5",
            )
            .bind(&prefix)
            .bind(from)
            .bind(now_ms())
            .bind(after_prefix(&prefix))
            .bind(i64::from(limit) + 1)
            .fetch_all(&pool)
            .await?;
            Ok(page(keys, limit))
        })
        .await
    }
}

/// The entry under a key, unless it has ended by then.
async fn find(
    connection: &mut SqliteConnection,
    key: &str,
    now: i64,
) -> Result<Option<Entry>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT value, version, expires_ms FROM entries \
         WHERE key = ?1 AND (expires_ms IS NULL OR expires_ms > ?2)",
    )
    .bind(key)
    .bind(now)
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let (version, expires_ms): (i64, Option<i64>) =
            (row.try_get("version")?, row.try_get("expires_ms")?);
        Ok(Entry {
            value: row.try_get("value")?,
            version: version.unsigned_abs(),
            expires_ms: expires_ms.map(i64::unsigned_abs),
        })
    })
    .transpose()
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    milliseconds(now.unwrap_or_default())
}

/// What a failure of SQLite is in the words of `heyday:kv`.
fn translate(error: &sqlx::Error) -> KvError {
    use libsqlite3_sys as ffi;
    let unavailable = || {
        tracing::warn!(cause = %chain(error), "a key-value store cannot be reached");
        KvError::new(KvCode::Unavailable, "the store cannot be read or written")
    };
    match error {
        sqlx::Error::PoolTimedOut => KvError::new(
            KvCode::Conflict,
            "others wrote all the time that the binding allows to wait",
        ),
        sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Io(_)
        | sqlx::Error::Configuration(_) => unavailable(),
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse::<i32>().ok());
            match code.unwrap_or_default() & 0xff {
                ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => KvError::new(
                    KvCode::Conflict,
                    "another process holds the store; try again",
                ),
                ffi::SQLITE_FULL => KvError::new(
                    KvCode::Unavailable,
                    "the disk is full, or the store has the size that its binding allows",
                )
                .with_details(serde_json::json!({ "kind": "disk-full" })),
                ffi::SQLITE_IOERR
                | ffi::SQLITE_CANTOPEN
                | ffi::SQLITE_NOTADB
                | ffi::SQLITE_CORRUPT => unavailable(),
                _ => KvError::internal(chain(error)),
            }
        }
        other => KvError::internal(chain(other)),
    }
}
