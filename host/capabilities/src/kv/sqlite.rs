//! Entries in a SQLite database file, in WAL mode, with connections for reading and one
//! for writing, each on a thread of its own (`sqlite_threads`).
//!
//! Each write is one transaction, which is synced before it is answered. The version is
//! counted for the whole store, in the same transaction, so that no version comes twice.
//! An entry that has ended is skipped by every read, and removed by later writes, some at
//! a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::runtime::Handle;

use super::{
    Condition, Entry, KvCode, KvError, KvLimits, ONCE_KEPT, Page, Store, add, after_prefix,
    check_condition, milliseconds, page,
};
use crate::diagnosis::{Asked, Finding, of_store};
use crate::error::chain;
use crate::sqlite_file::{self, OpenError, Opening, check_database, migrate_here};
use crate::sqlite_threads::{Connected, Connections, ThreadError};

/// Connections that read.
const READERS: u32 = 4;
/// Ended entries that one write removes; it makes at most one itself.
const SWEPT: i64 = 20;

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
    reading: Connections<Kept>,
    writing: Option<Connections<Kept>>,
    /// Whether the tables are there.
    migrated: AtomicBool,
    limits: KvLimits,
}

/// A connection; its statements stay prepared.
struct Kept(Connection);

impl Connected for Kept {
    fn clean(&mut self) -> bool {
        // What failed, or was not waited for, is rolled back.
        self.0.is_autocommit() || self.0.execute_batch("ROLLBACK").is_ok()
    }
}

impl SqliteStore {
    /// Names a store; its file is opened, and made, at its first use. What must be waited
    /// for is waited for on `runtime`, never on the one that guests run on.
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
        let wait = Duration::from_millis(limits.busy_timeout_ms);
        let connections = |most, query_only| {
            let opening = Opening {
                path: path.to_owned(),
                read_only,
                query_only,
                busy: wait,
                most_bytes: limits.store_bytes,
            };
            let open = move || opening.open().map(Kept);
            let wait = wait.max(Duration::from_millis(1));
            Connections::new("heyday-kv", most, wait, runtime.clone(), open)
        };
        Ok(Self {
            shared: Arc::new(Shared {
                reading: connections(READERS, true),
                writing: (!read_only).then(|| connections(1, false)),
                migrated: AtomicBool::new(false),
                limits,
            }),
        })
    }

    /// Makes the tables, at the first use.
    async fn migrated(&self) -> Result<(), KvError> {
        let shared = &self.shared;
        let Some(writing) = &shared.writing else {
            return Ok(());
        };
        if shared.migrated.load(Ordering::Acquire) {
            return Ok(());
        }
        let newer = || Failed::Newer;
        let migrating = writing.run(move |Kept(it)| migrate_here(it, MIGRATIONS, newer));
        answered(migrating.await)?;
        shared.migrated.store(true, Ordering::Release);
        Ok(())
    }

    /// Reads, as of one moment where `operation` is one statement.
    async fn read<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, KvError> {
        self.migrated().await?;
        let reading = self.shared.reading.run(|Kept(it)| Ok(operation(it)?));
        answered(reading.await)
    }

    /// Writes in one transaction; nothing remains where it fails, or nobody waited for it
    /// any more before it began.
    async fn write<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Write<'_>) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, KvError> {
        let Some(writing) = &self.shared.writing else {
            return Err(KvError::new(
                KvCode::CapabilityDenied,
                "the binding is read-only",
            ));
        };
        self.migrated().await?;
        let written = writing.run(|Kept(connection)| {
            let write = Write {
                connection,
                now: now_ms(),
            };
            write.execute("BEGIN IMMEDIATE")?;
            let answer = operation(&write)?;
            write.sweep()?;
            write.execute("COMMIT")?;
            Ok(answer)
        });
        answered(written.await)
    }
}

/// The outcome of a job.
fn answered<T>(outcome: Result<Result<T, Failed>, ThreadError>) -> Result<T, KvError> {
    match outcome {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Failed::Refused(error))) => Err(error),
        Ok(Err(Failed::Database(error))) | Err(ThreadError::Open(error)) => Err(translate(&error)),
        Ok(Err(Failed::Newer)) => Err(unavailable("the store was written by a newer Heyday")),
        Err(ThreadError::Busy) => Err(KvError::new(
            KvCode::Conflict,
            "others wrote all the time that the binding allows to wait",
        )),
        Err(error @ (ThreadError::Closed | ThreadError::Thread(_))) => {
            Err(unavailable(&chain(&error)))
        }
        Err(error @ ThreadError::Lost) => Err(KvError::internal(error)),
    }
}

/// Why an operation was not done.
enum Failed {
    Refused(KvError),
    Database(rusqlite::Error),
    Newer,
}

impl From<KvError> for Failed {
    fn from(error: KvError) -> Self {
        Self::Refused(error)
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// A write under way. What is not committed is rolled back before anyone gets the
/// connection again.
struct Write<'a> {
    connection: &'a Connection,
    /// Milliseconds since the Unix epoch.
    now: i64,
}

impl Write<'_> {
    fn execute(&self, statement: &'static str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(statement)?.execute([])?;
        Ok(())
    }

    /// The entry under a key, unless it has ended.
    fn entry(&self, key: &str) -> rusqlite::Result<Option<Entry>> {
        find(self.connection, key, self.now)
    }

    /// Puts an entry in the place of the one that is there; answers its version.
    fn put(&self, key: &str, value: &[u8], expires_ms: Option<i64>) -> rusqlite::Result<u64> {
        let version: i64 = self
            .connection
            .prepare_cached("UPDATE counter SET version = version + 1 RETURNING version")?
            .query_one([], |row| row.get(0))?;
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO entries (key, value, version, expires_ms) \
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![key, value, version, expires_ms])?;
        Ok(version.unsigned_abs())
    }

    /// When what lives so long ends.
    fn end(&self, ttl: Option<Duration>) -> Option<i64> {
        ttl.map(|ttl| self.now.saturating_add(milliseconds(ttl)))
    }

    /// Removes some of what has ended.
    fn sweep(&self) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "DELETE FROM entries WHERE key IN \
                 (SELECT key FROM entries WHERE expires_ms <= ?1 LIMIT ?2)",
            )?
            .execute(params![self.now, SWEPT])?;
        self.connection
            .prepare_cached(
                "DELETE FROM additions WHERE (key, once) IN \
                 (SELECT key, once FROM additions WHERE at_ms <= ?1 LIMIT ?2)",
            )?
            .execute(params![self.now - milliseconds(ONCE_KEPT), SWEPT])?;
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
        self.read(move |connection| {
            let now = now_ms();
            let many = keys.len() > 1;
            if many {
                // In one transaction they are as of one moment; one alone is by itself.
                connection.execute_batch("BEGIN")?;
            }
            let entries = keys.iter().map(|key| find(connection, key, now));
            let entries = entries.collect::<rusqlite::Result<_>>()?;
            if many {
                connection.execute_batch("COMMIT")?;
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
            if condition != Condition::Always {
                let found = write.entry(&key)?;
                check_condition(&condition, found.map(|entry| entry.version))?;
            }
            let end = write.end(ttl);
            Ok(write.put(&key, &value, end)?)
        })
        .await
    }

    async fn delete(&self, key: String, condition: Condition) -> Result<bool, KvError> {
        self.write(move |write| {
            let found = write.entry(&key)?;
            check_condition(&condition, found.as_ref().map(|entry| entry.version))?;
            write
                .connection
                .prepare_cached("DELETE FROM entries WHERE key = ?1")?
                .execute([&key])?;
            Ok(found.is_some())
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
            if let Some(once) = &once {
                let since = write.now - milliseconds(ONCE_KEPT);
                let before: Option<i64> = write
                    .connection
                    .prepare_cached(
                        "SELECT sum FROM additions WHERE key = ?1 AND once = ?2 AND at_ms > ?3",
                    )?
                    .query_one(params![key, once, since], |row| row.get(0))
                    .optional()?;
                if let Some(sum) = before {
                    return Ok(sum);
                }
            }
            let found = write.entry(&key)?;
            let sum = add(found.as_ref().map(|entry| entry.value.as_slice()), delta)?;
            let end = match &found {
                Some(entry) => entry.expires_ms.and_then(|end| i64::try_from(end).ok()),
                None => write.end(ttl),
            };
            write.put(&key, sum.to_string().as_bytes(), end)?;
            if let Some(once) = &once {
                write
                    .connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO additions (key, once, sum, at_ms) \
                         VALUES (?1, ?2, ?3, ?4)",
                    )?
                    .execute(params![key, once, sum, write.now])?;
            }
            Ok(sum)
        })
        .await
    }

    async fn list(
        &self,
        prefix: String,
        limit: u32,
        after: Option<String>,
    ) -> Result<Page, KvError> {
        self.read(move |connection| {
            let from = after.as_deref().unwrap_or_default();
            // SQLite compares texts by their bytes. What begins with the prefix stands
            // together, from the prefix itself on.
            let mut statement = connection.prepare_cached(
                "SELECT key FROM entries \
                 WHERE key >= ?1 AND key > ?2 AND substr(key, 1, length(?1)) = ?1 \
                   AND (expires_ms IS NULL OR expires_ms > ?3) \
                   AND (?4 IS NULL OR key < ?4) \
                 ORDER BY key LIMIT ?5",
            )?;
            let until = after_prefix(&prefix);
            let asked = params![prefix, from, now_ms(), until, i64::from(limit) + 1];
            let keys = statement.query_map(asked, |row| row.get(0))?;
            Ok(page(keys.collect::<rusqlite::Result<_>>()?, limit))
        })
        .await
    }
}

/// The entry under a key, unless it has ended by then.
fn find(connection: &Connection, key: &str, now: i64) -> rusqlite::Result<Option<Entry>> {
    let mut statement = connection.prepare_cached(
        "SELECT value, version, expires_ms FROM entries \
         WHERE key = ?1 AND (expires_ms IS NULL OR expires_ms > ?2)",
    )?;
    let found = statement.query_one(params![key, now], |row| {
        let (version, expires_ms): (i64, Option<i64>) = (row.get(1)?, row.get(2)?);
        Ok(Entry {
            value: row.get(0)?,
            version: version.unsigned_abs(),
            expires_ms: expires_ms.map(i64::unsigned_abs),
        })
    });
    found.optional()
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    milliseconds(now.unwrap_or_default())
}

/// The error of a store that cannot be used; the cause goes to the log.
fn unavailable(cause: &str) -> KvError {
    tracing::warn!(cause, "a key-value store cannot be reached");
    KvError::new(KvCode::Unavailable, "the store cannot be read or written")
}

/// What a failure of SQLite is in the words of `heyday:kv`.
fn translate(error: &rusqlite::Error) -> KvError {
    use libsqlite3_sys as ffi;
    let code = error.sqlite_error().map(|error| error.extended_code);
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
        ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN | ffi::SQLITE_NOTADB | ffi::SQLITE_CORRUPT => {
            unavailable(&chain(error))
        }
        _ => KvError::internal(chain(error)),
    }
}
