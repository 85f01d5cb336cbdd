//! Statements on either database: one text for both.
//!
//! SQLite and PostgreSQL both understand `$1`, `ON CONFLICT` and `RETURNING`, and all that
//! is stored are integers of 64 bits, texts and bytes; so each statement stands once, with
//! its values beside it. What only one of them has (listening, locks by number, times)
//! stands in [`super::shared`].

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{
    Connection as _, Executor as _, Postgres, Row as _, SqlSafeStr, SqlStr, Sqlite, Transaction,
};

use super::lease::{GIVING_BACK, Lease, PgTx, within};
use super::location::StateUrl;
use super::{StateError, migrations};

/// How long is waited for a connection, or for a server that is away.
pub(crate) const ACQUIRE_TIME: Duration = Duration::from_secs(10);
/// How long a first connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// What a statement is given for `$1` and so on.
#[derive(Debug)]
pub(crate) enum Value<'v> {
    /// An integer.
    Int(i64),
    /// A text.
    Text(&'v str),
    /// A text that was made for the statement.
    Made(String),
    /// Bytes.
    Bytes(&'v [u8]),
    /// No text.
    NoText,
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl<'v> From<&'v str> for Value<'v> {
    fn from(value: &'v str) -> Self {
        Self::Text(value)
    }
}

impl<'v> From<&'v String> for Value<'v> {
    fn from(value: &'v String) -> Self {
        Self::Text(value)
    }
}

impl From<String> for Value<'_> {
    fn from(value: String) -> Self {
        Self::Made(value)
    }
}

impl<'v> From<&'v Option<String>> for Value<'v> {
    fn from(value: &'v Option<String>) -> Self {
        value.as_deref().map_or(Self::NoText, Self::Text)
    }
}

impl<'v> From<&'v [u8]> for Value<'v> {
    fn from(value: &'v [u8]) -> Self {
        Self::Bytes(value)
    }
}

impl<'v> From<&'v Vec<u8>> for Value<'v> {
    fn from(value: &'v Vec<u8>) -> Self {
        Self::Bytes(value)
    }
}

impl<'v> From<&'v [u8; 32]> for Value<'v> {
    fn from(value: &'v [u8; 32]) -> Self {
        Self::Bytes(value)
    }
}

impl<'v> From<&'v uuid::Uuid> for Value<'v> {
    fn from(value: &'v uuid::Uuid) -> Self {
        Self::Bytes(value.as_bytes())
    }
}

impl<'v> From<&'v heyday_durable::payload::Digest> for Value<'v> {
    fn from(value: &'v heyday_durable::payload::Digest) -> Self {
        Self::Bytes(value.as_bytes())
    }
}

/// The values of a statement.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        &[$($crate::state::backend::Value::from($value)),*]
    };
}
pub(crate) use values;

/// A statement with its values, for a driver.
macro_rules! bound {
    ($sql:expr, $values:expr, $text:expr) => {{
        let mut query = sqlx::query($sql);
        for value in $values {
            query = match value {
                Value::Int(value) => query.bind(*value),
                Value::Text(value) => query.bind($text(value)),
                Value::Made(value) => query.bind($text(value)),
                Value::Bytes(value) => query.bind(*value),
                Value::NoText => query.bind(None::<&str>),
            };
        }
        query
    }};
}

fn sqlite(sql: SqlStr, values: &[Value<'_>]) -> Query<'static, Sqlite, SqliteArguments> {
    bound!(sql, values, as_it_is)
}

fn postgres(sql: SqlStr, values: &[Value<'_>]) -> Query<'static, Postgres, PgArguments> {
    bound!(sql, values, without_zero)
}

const fn as_it_is(text: &str) -> &str {
    text
}

/// PostgreSQL's texts have no zero, and what guests say may have one.
fn without_zero(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}").into()
    } else {
        text.into()
    }
}

/// A row of an answer.
pub(crate) enum Row {
    /// Of SQLite.
    Sqlite(SqliteRow),
    /// Of PostgreSQL.
    Postgres(PgRow),
}

/// Reads a column of either.
macro_rules! get {
    ($row:expr, $column:expr) => {
        match $row {
            Row::Sqlite(row) => row.try_get($column)?,
            Row::Postgres(row) => row.try_get($column)?,
        }
    };
}

impl Row {
    /// An integer.
    pub(crate) fn int(&self, column: &str) -> Result<i64, StateError> {
        Ok(get!(self, column))
    }

    /// An integer, or none.
    pub(crate) fn int_or_none(&self, column: &str) -> Result<Option<i64>, StateError> {
        Ok(get!(self, column))
    }

    /// A text.
    pub(crate) fn text(&self, column: &str) -> Result<&str, StateError> {
        Ok(get!(self, column))
    }

    /// A text of one's own.
    pub(crate) fn string(&self, column: &str) -> Result<String, StateError> {
        Ok(get!(self, column))
    }

    /// A text, or none.
    pub(crate) fn string_or_none(&self, column: &str) -> Result<Option<String>, StateError> {
        Ok(get!(self, column))
    }

    /// Bytes.
    pub(crate) fn bytes(&self, column: &str) -> Result<&[u8], StateError> {
        Ok(get!(self, column))
    }

    /// An id.
    pub(crate) fn uuid(&self, column: &str) -> Result<uuid::Uuid, StateError> {
        uuid::Uuid::from_slice(self.bytes(column)?)
            .map_err(|error| StateError::Damaged(error.to_string()))
    }
}

/// The database, open.
#[derive(Debug, Clone)]
pub(crate) enum Backend {
    /// A file.
    Sqlite {
        /// The connections whose writes are synced.
        pool: SqlitePool,
        /// The connection for what is written behind: it does not wait for the disk.
        behind: SqlitePool,
    },
    /// A server.
    Postgres(PgPool),
}

impl Backend {
    /// Opens a file, and makes it where it is missing; not its tables.
    pub(super) async fn open_file(path: &Path) -> Result<Self, StateError> {
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
        let behind = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(options.synchronous(SqliteSynchronous::Normal));
        Ok(Self::Sqlite { pool, behind })
    }

    /// Connects to a server's database, with so many connections at most.
    pub(super) async fn open_server(url: &StateUrl, connections: u32) -> Result<Self, StateError> {
        let options = url.options()?;
        // A pool tries again and again, and does not say why in the end.
        connect(&options).await?.close().await?;
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIME)
            .max_lifetime(Duration::from_secs(30 * 60))
            .connect_with(options)
            .await?;
        Ok(Self::Postgres(pool))
    }

    /// The steps of the schema that it has.
    pub(super) async fn steps(&self) -> Result<usize, StateError> {
        match self {
            Self::Sqlite { pool, .. } => migrations::steps_of_file(pool).await,
            Self::Postgres(pool) => within(migrations::steps_of_server(pool)).await,
        }
    }

    /// Runs a statement; answers how many rows it concerned.
    pub(super) async fn execute(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, StateError> {
        let sql = sql.into_sql_str();
        Ok(match self {
            Self::Sqlite { pool, .. } => {
                let query = sqlite(sql, values);
                query.execute(pool).await?.rows_affected()
            }
            Self::Postgres(pool) => {
                let query = postgres(sql, values);
                let mut lease = Lease::of(pool).await?;
                let done = lease.run(|connection| connection.execute(query));
                done.await?.rows_affected()
            }
        })
    }

    /// The rows that a statement answers.
    pub(super) async fn rows(
        &self,
        sql: impl SqlSafeStr,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, StateError> {
        let sql = sql.into_sql_str();
        Ok(match self {
            Self::Sqlite { pool, .. } => {
                let query = sqlite(sql, values);
                let rows = query.fetch_all(pool).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(pool) => {
                let query = postgres(sql, values);
                let mut lease = Lease::of(pool).await?;
                let rows = lease.run(|connection| connection.fetch_all(query));
                rows.await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<Tx, StateError> {
        Ok(match self {
            Self::Sqlite { pool, .. } => Tx::Sqlite(pool.begin().await?),
            Self::Postgres(pool) => Tx::Postgres(PgTx::begin(pool, "BEGIN").await?),
        })
    }

    /// Begins a transaction that reads what was so at one moment.
    pub(super) async fn begin_reading(&self) -> Result<Tx, StateError> {
        Ok(match self {
            // A reader of a write-ahead log always does.
            Self::Sqlite { pool, .. } => Tx::Sqlite(pool.begin().await?),
            Self::Postgres(pool) => {
                let statement = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                Tx::Postgres(PgTx::begin(pool, statement).await?)
            }
        })
    }

    /// Begins a transaction of what is written behind.
    pub(super) async fn begin_behind(&self) -> Result<Tx, StateError> {
        Ok(match self {
            Self::Sqlite { behind, .. } => Tx::Sqlite(behind.begin().await?),
            Self::Postgres(pool) => Tx::Postgres(PgTx::begin(pool, "BEGIN").await?),
        })
    }

    /// Closes all connections.
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { pool, behind } => {
                behind.close().await;
                // The last one writes back what is in the log.
                pool.close().await;
            }
            Self::Postgres(pool) => {
                // What does not come back by then is lost with its connection.
                let _ = tokio::time::timeout(GIVING_BACK, pool.close()).await;
            }
        }
    }
}

/// A transaction. Dropped before its commit, nothing of it was done.
#[derive(Debug)]
pub(crate) enum Tx {
    /// Of SQLite.
    Sqlite(Transaction<'static, Sqlite>),
    /// Of PostgreSQL.
    Postgres(PgTx),
}

impl Tx {
    /// As [`Backend::execute`].
    pub(super) async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, StateError> {
        let sql = sql.into_sql_str();
        Ok(match self {
            Self::Sqlite(transaction) => {
                let query = sqlite(sql, values);
                query.execute(&mut **transaction).await?.rows_affected()
            }
            Self::Postgres(transaction) => {
                let query = postgres(sql, values);
                let lease = transaction.lease();
                let done = lease.run(|connection| connection.execute(query));
                done.await?.rows_affected()
            }
        })
    }

    /// As [`execute`](Self::execute), for a text that is used once.
    pub(super) async fn execute_once(
        &mut self,
        sql: String,
        values: &[Value<'_>],
    ) -> Result<u64, StateError> {
        // It is made of this module's own texts and numbers.
        let sql = sqlx::AssertSqlSafe(sql).into_sql_str();
        Ok(match self {
            Self::Sqlite(transaction) => {
                let query = sqlite(sql, values);
                let done = query.persistent(false).execute(&mut **transaction);
                done.await?.rows_affected()
            }
            Self::Postgres(transaction) => {
                let query = postgres(sql, values).persistent(false);
                let lease = transaction.lease();
                let done = lease.run(|connection| connection.execute(query));
                done.await?.rows_affected()
            }
        })
    }

    /// As [`Backend::rows`].
    pub(super) async fn rows(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, StateError> {
        let sql = sql.into_sql_str();
        Ok(match self {
            Self::Sqlite(transaction) => {
                let query = sqlite(sql, values);
                let rows = query.fetch_all(&mut **transaction).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(transaction) => {
                let query = postgres(sql, values);
                let lease = transaction.lease();
                let rows = lease.run(|connection| connection.fetch_all(query));
                rows.await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Keeps what was done.
    pub(super) async fn commit(self) -> Result<(), StateError> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await?,
            Self::Postgres(transaction) => transaction.commit().await?,
        }
        Ok(())
    }
}

/// One connection to a server's database.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StateError> {
    let connecting = PgConnection::connect_with(options);
    match tokio::time::timeout(CONNECT_TIME, connecting).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(StateError::silent()),
    }
}

/// `($1,$2),($3,$4)`: as many values as rows times columns.
pub(super) fn placeholders(rows: usize, columns: usize) -> String {
    let mut text = String::new();
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ",(" });
        for column in 0..columns {
            let comma = if column == 0 { "" } else { "," };
            text.push_str(&format!("{comma}${}", row * columns + column + 1));
        }
        text.push(')');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_numbered_places() {
        assert_eq!(placeholders(2, 3), "($1,$2,$3),($4,$5,$6)");
        assert_eq!(placeholders(0, 3), "");
    }
}
