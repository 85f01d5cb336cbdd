//! The files of SQLite databases.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use sqlx::SqliteConnection;

/// Why a database cannot be a binding.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder does not exist and cannot be made.
    #[error("the folder {} of the database cannot be made: {source}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is to be read only, and there is no file.
    #[error("there is no database at {}, and the binding is read-only", .0.display())]
    Missing(PathBuf),
    /// There is something else.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
}

/// Looks whether a database can be at this path, and makes its folder.
pub(crate) fn check_database(path: &Path, read_only: bool) -> Result<(), OpenError> {
    if path.exists() && !path.is_file() {
        return Err(OpenError::NotAFile(path.to_owned()));
    }
    if read_only && !path.exists() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    if let Some(folder) = path.parent()
        && !folder.as_os_str().is_empty()
    {
        std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder {
            folder: folder.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// SQLite's version, for operators.
pub(crate) fn version() -> String {
    let version = libsqlite3_sys::SQLITE_VERSION.to_str();
    format!("SQLite {}", version.unwrap_or("of an unknown version"))
}

/// What to do where a database cannot be read.
pub(crate) const ADVICE: &str = "look whether the file is a database, and whether this user may \
                                 read it and write its folder; the log has the cause";

/// How a connection of `sqlite_threads` is opened.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) path: PathBuf,
    /// Whether the file is never written.
    pub(crate) read_only: bool,
    /// Whether this connection writes nothing.
    pub(crate) query_only: bool,
    /// How long a statement waits for others' locks.
    pub(crate) busy: Duration,
    /// Bytes that the file may have.
    pub(crate) most_bytes: Option<u64>,
}

const PAGE_BYTES: u64 = 4_096;

impl Opening {
    /// Opens a connection where it is called, which may block. What is committed is
    /// synced; foreign keys are checked.
    pub(crate) fn open(&self) -> rusqlite::Result<Connection> {
        crate::sqlite_memory::count();
        let access = if self.read_only {
            OpenFlags::SQLITE_OPEN_READ_ONLY
        } else {
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
        };
        // Without SQLite's own locks: its thread alone uses it.
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.busy)?;
        if !self.read_only {
            connection.pragma_update(None, "journal_mode", "wal")?;
        }
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "synchronous", "full")?;
        if let Some(bytes) = self.most_bytes {
            let pages = (bytes / PAGE_BYTES).max(1);
            let pages = i64::try_from(pages).unwrap_or(i64::MAX);
            connection.pragma_update(None, "max_page_count", pages)?;
        }
        if self.query_only {
            connection.pragma_update(None, "query_only", true)?;
        }
        Ok(connection)
    }
}

/// As [`migrate`], on a connection of `sqlite_threads`. `newer`: the error where a newer
/// Heyday wrote it.
pub(crate) fn migrate_here<E: From<rusqlite::Error>>(
    connection: &Connection,
    steps: &[&str],
    newer: impl FnOnce() -> E,
) -> Result<(), E> {
    let done: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(done).unwrap_or_default();
    if done > steps.len() {
        return Err(newer());
    }
    for (index, step) in steps.iter().enumerate().skip(done) {
        let number = index + 1;
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;"
        ))?;
    }
    Ok(())
}

/// Rolls back what an operation left open: it failed, or nobody waited for it any more.
/// SQLite itself has done so after some errors, so that there may be nothing to end; sqlx's
/// own transactions would be out of step then. For a pool's `after_release`: answers whether
/// the connection is still good.
pub(crate) async fn end_transaction(
    connection: &mut SqliteConnection,
) -> Result<bool, sqlx::Error> {
    let ended = sqlx::query("ROLLBACK").execute(&mut *connection).await;
    // A connection that is no more must not go back.
    Ok(matches!(ended, Ok(_) | Err(sqlx::Error::Database(_))))
}

/// Takes the steps of a schema that a database of ours does not have; `user_version` counts
/// those that it has.
///
/// # Errors
/// Also where it has more: a newer Heyday wrote it.
pub(crate) async fn migrate(
    connection: &mut SqliteConnection,
    steps: &[&str],
) -> Result<(), sqlx::Error> {
    let done: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    let done = usize::try_from(done).unwrap_or_default();
    if done > steps.len() {
        return Err(sqlx::Error::Configuration(
            "the store was written by a newer Heyday".into(),
        ));
    }
    for (index, step) in steps.iter().enumerate().skip(done) {
        let number = index + 1;
        let text = format!("BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;");
        sqlx::raw_sql(sqlx::AssertSqlSafe(text))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
