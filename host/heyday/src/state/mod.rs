//! What the server itself knows: plugins, flows, grants, workers' tokens, the audit,
//! receipts, log lines and answers by idempotency key; and, where there are several servers,
//! which workers said that they are there.
//!
//! It is a file of SQLite (`host.db`) for one server, or a database of PostgreSQL for
//! many. Behind [`HostDb`] both are the same: each statement stands once and runs on either
//! ([`backend`]), only the steps of the schema are written in both dialects
//! ([`migrations`]). PostgreSQL is reached by sqlx, as SQLite is; the client that
//! [`heyday_capabilities::postgres`] has is made for guests' statements, whose rows and
//! notifications it does not keep for others.
//!
//! Every change of the registry is one transaction that is synced before it is
//! answered. Receipts and log lines are written behind, in batches ([`crate::recorder`]),
//! and no answer waits for them; on SQLite by a connection of their own that does not wait
//! for the disk either. Those that workers send are written and synced before the answer.
//!
//! **Several servers.** Each keeps the registry in memory. Every change of it has the next
//! revision, which is taken under the lock of one row ([`changes`]): so changes have one
//! order for all servers, and who changes something first reads what others changed
//! before. The row also has a random mark of each change and the database's lineage, by
//! which a server notices that a database was restored or that a standby took over
//! without the last changes; then everything is read again. A notification tells the
//! others at once, and a look each second finds what was not told ([`shared`]). The
//! revision is what workers follow, so it means the same at every server. Before a request
//! is answered, the server looks whether it is behind: what one server acknowledged, the
//! next request finds at any other.
//!
//! What a server does alone is owned: an upload that it compiles and an Idempotency-Key
//! whose request it answers name it, and when it has not been seen for
//! [`shared::ALIVE`], another takes the upload over, and the key is free. Both do no harm
//! when they are wrong about that: the same bytes become one version.
//!
//! Components, flows and values by digest are in the database too ([`content`]), up to the
//! 64 MiB of an upload, so that no further store is needed; the data folder only keeps
//! copies. While the database is away, what memory knows is answered, all else is 503;
//! after [`shared::UNSURE`] workers are not told any more that what they know of grants is
//! true, and their own lease ends.

pub mod audit;
pub(crate) mod backend;
pub mod changes;
pub mod content;
mod lease;
pub mod location;
mod look;
mod migrations;
pub mod records;
pub mod replies;
pub mod shared;
pub mod tokens;
pub mod versions;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use self::location::{StateLocation, StateUrl};
pub use self::look::Look;
pub use self::migrations::newest;

use self::backend::{Backend, Row, Value};
use self::replies::InFlight;
use self::shared::Shared;

/// Connections of one server to PostgreSQL, beside the one that listens.
const CONNECTIONS: u32 = 11;

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The database failed: a full disk, or a server that is away, most often. Nothing was
    /// changed.
    #[error("the server's state cannot be read or written")]
    Database(#[from] sqlx::Error),
    /// It was written by a newer Heyday.
    #[error(
        "{database} has schema {found}, newer than the {known} that this Heyday knows; use the \
         version that wrote it, or a newer one"
    )]
    TooNew {
        /// Which database.
        database: &'static str,
        /// The schema that it has.
        found: i64,
        /// The newest that is known.
        known: usize,
    },
    /// It has not the schema that is needed.
    #[error(
        "the state in PostgreSQL has schema {found}, and this Heyday needs {known}: run `heyday \
         migrate` with the same --state once, before its servers start"
    )]
    TooOld {
        /// The schema that it has; 0 where it has none.
        found: usize,
        /// The one that is needed.
        known: usize,
    },
    /// A row that this Heyday cannot have written.
    #[error("the server's state is damaged: {0}")]
    Damaged(String),
    /// The token in the data folder is another one than the state's.
    #[error(
        "the token file of this data folder is not the token of the state that its servers share; \
         delete the file to use the state's, or run `heyday migrate --token-file FILE` to make it \
         the token of all servers"
    )]
    OtherToken,
}

impl StateError {
    /// Of a database that says nothing.
    pub(crate) fn silent() -> Self {
        Self::Database(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "the database does not answer",
        )))
    }

    /// With its cause, for the log.
    pub(crate) fn chain(&self) -> String {
        match self {
            Self::Database(cause) => format!("{self}: {cause}"),
            _ => self.to_string(),
        }
    }

    /// Whether the same may succeed later: the database is busy, full or away.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        // Primary result codes of SQLite that pass: BUSY, LOCKED, READONLY, IOERR, FULL,
        // CANTOPEN.
        const SQLITE: [i64; 6] = [5, 6, 8, 10, 13, 14];
        // Classes of SQLSTATE that pass: connection, rights to connect, transaction rolled
        // back, resources, operator's intervention, system; and objects in use.
        const POSTGRES: [&str; 7] = ["08", "25", "28", "40", "53", "57", "58"];
        match self {
            Self::Database(
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed,
            ) => true,
            Self::Database(sqlx::Error::Database(error)) => {
                let Some(code) = error.code() else {
                    return false;
                };
                if code.len() == 5
                    && error
                        .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                        .is_some()
                {
                    return POSTGRES.contains(&&code[..2]) || code == "55P03" || code == "3D000";
                }
                code.parse::<i64>()
                    .is_ok_and(|code| SQLITE.contains(&(code & 0xff)))
            }
            _ => false,
        }
    }
}

/// The opened database. Clones are handles of the same one.
#[derive(Debug, Clone)]
pub struct HostDb {
    backend: Backend,
    shared: Option<Arc<Shared>>,
    /// The Idempotency-Keys of the requests that this process answers.
    in_flight: InFlight,
}

impl HostDb {
    /// Opens it. A file is made or migrated where needed; a server's database must have
    /// been [migrated](Self::migrate).
    ///
    /// # Errors
    /// When it cannot be used, has another schema, or was written by a newer Heyday.
    pub async fn open(location: &StateLocation) -> Result<Self, StateError> {
        match location {
            StateLocation::File(path) => {
                let backend = Backend::open_file(path).await?;
                if let Backend::Sqlite { pool, .. } = &backend {
                    migrations::migrate_file(pool, newest()).await?;
                }
                Ok(Self {
                    backend,
                    shared: None,
                    in_flight: InFlight::default(),
                })
            }
            StateLocation::Postgres(url) => {
                let backend = Backend::open_server(url, CONNECTIONS).await?;
                let found = backend.steps().await?;
                if found < newest() {
                    return Err(StateError::TooOld {
                        found,
                        known: newest(),
                    });
                }
                Ok(Self {
                    backend,
                    shared: Some(Arc::default()),
                    in_flight: InFlight::default(),
                })
            }
        }
    }

    /// Brings a database to the newest schema; answers the one that it had. It may be done
    /// again, and by several processes at once.
    ///
    /// # Errors
    /// When it cannot be changed, or was written by a newer Heyday.
    pub async fn migrate(location: &StateLocation) -> Result<usize, StateError> {
        Self::migrate_to(location, newest()).await
    }

    /// [`migrate`](Self::migrate), but only to that schema, as a Heyday that knew no newer
    /// one: what tests of the later steps begin with.
    ///
    /// # Errors
    /// As [`migrate`](Self::migrate).
    #[doc(hidden)]
    pub async fn migrate_to(location: &StateLocation, schema: usize) -> Result<usize, StateError> {
        let schema = schema.min(newest());
        match location {
            StateLocation::File(path) => {
                let backend = Backend::open_file(path).await?;
                let Backend::Sqlite { pool, .. } = &backend else {
                    return Ok(newest());
                };
                let done = migrations::migrate_file(pool, schema).await;
                backend.close().await;
                done
            }
            StateLocation::Postgres(url) => {
                migrations::migrate_server(&url.options()?, schema).await
            }
        }
    }

    /// The schema that a database has; 0 where it has none.
    ///
    /// # Errors
    /// When it cannot be read, or was written by a newer Heyday.
    pub async fn schema(location: &StateLocation) -> Result<usize, StateError> {
        let backend = match location {
            StateLocation::File(path) if !path.exists() => return Ok(0),
            StateLocation::File(path) => Backend::open_file(path).await?,
            StateLocation::Postgres(url) => Backend::open_server(url, 1).await?,
        };
        let found = backend.steps().await;
        backend.close().await;
        found
    }

    /// What several servers have in common, where there may be several.
    #[must_use]
    pub(crate) fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.as_ref()
    }

    /// Whether several servers may use it.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Whether the database can be read now.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn check(&self) -> Result<(), StateError> {
        self.execute("SELECT 1", &[]).await?;
        Ok(())
    }

    /// Writes back what is in the log and closes the connections.
    pub async fn close(&self) {
        self.backend.close().await;
    }

    async fn execute(&self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, StateError> {
        self.backend.execute(sql, values).await
    }

    async fn rows(&self, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>, StateError> {
        self.backend.rows(sql, values).await
    }

    async fn row(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Option<Row>, StateError> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }
}

/// The time now, as exact as it is stored: what this server knows by itself must be what
/// others read.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    timestamp(micros(now)).unwrap_or(now)
}

/// A time as it is stored: microseconds since 1970.
pub(crate) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// A length of time, as it is taken from a stored time.
fn micros_of(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
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

/// A count as a stored integer; nothing stored comes near the limit.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

/// How many rows at most.
fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// Makes every further entry of the audit fail, in the file of a test's state.
#[cfg(test)]
pub(crate) async fn refuse_audit(file: &std::path::Path) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let pool = sqlx::SqlitePool::connect_with(options).await;
    let pool = pool.expect("opened");
    let trigger = "CREATE TRIGGER refuse_audit BEFORE INSERT ON audit \
                   BEGIN SELECT RAISE(ABORT, 'no entry'); END";
    sqlx::query(trigger).execute(&pool).await.expect("made");
    pool.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_opens_twice_and_refuses_a_newer_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = StateLocation::File(folder.path().join("host.db"));
        assert_eq!(HostDb::schema(&location).await.expect("none"), 0);
        assert_eq!(HostDb::migrate(&location).await.expect("made"), 0);
        assert_eq!(HostDb::migrate(&location).await.expect("again"), newest());
        let first = HostDb::open(&location).await.expect("opened");
        first.close().await;
        let second = HostDb::open(&location).await.expect("opened again");
        let version = second.row("SELECT sqlite_version() AS version", &[]).await;
        let version = version.expect("read").expect("a row");
        let version = semver::Version::parse(version.text("version").expect("text"));
        let version = version.expect("a version");
        // Older ones have a bug that can corrupt a write-ahead log.
        assert!(version >= semver::Version::new(3, 51, 3), "{version}");
        second
            .execute("PRAGMA user_version = 999", &[])
            .await
            .expect("set");
        second.close().await;
        for outcome in [
            HostDb::open(&location).await.map(|_| 0),
            HostDb::schema(&location).await,
            HostDb::migrate(&location).await,
        ] {
            assert!(matches!(
                outcome,
                Err(StateError::TooNew { found: 999, .. })
            ));
        }
    }
}
