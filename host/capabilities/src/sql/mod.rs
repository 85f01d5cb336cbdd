//! `heyday:sql`: databases. Statements pass through with bound parameters.
//!
//! The way of a call: `host.rs` takes the guest's call, looks the connection up and
//! runs the operation of [`Database`] under the attempt's deadline, cancellation and
//! grants. A backend stops its work when the future of an operation is dropped, which
//! is how deadline, cancel and revocation reach it. [`sqlite`] is the backend of one
//! machine; what its connections may not do is decided in `sqlite_guard.rs`. [`postgres`]
//! is the one of production; what its roles may not do is decided by PostgreSQL itself
//! (`crate::postgres`).
//!
//! A backend answers the same codes for the same faults: the contract is the doc
//! comment of `error` in `wit/sql`.

pub(crate) mod check;
mod cursor;
pub(crate) mod host;
pub mod postgres;
mod postgres_array;
mod postgres_bulk;
mod postgres_error;
mod postgres_lease;
mod postgres_value;
pub mod sqlite;
mod sqlite_connection;
mod sqlite_error;
mod sqlite_guard;
mod sqlite_value;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use check::check_parameters;
pub use host::SqlCapability;
pub use host::bindings::heyday::sql::sql::{Column, RowSet, Value};

use crate::diagnosis::Finding;
use crate::error::{CapabilityError, codes};

codes! {
    /// The codes of `heyday:sql`; see `wit/sql`.
    SqlCode {
        /// Not granted, or what no plugin may do.
        CapabilityDenied = "capability-denied",
        /// Granted but not configured.
        UnknownBinding = "unknown-binding",
        /// Not parsed or not prepared.
        InvalidStatement = "invalid-statement",
        /// Parameters do not fit.
        InvalidParameter = "invalid-parameter",
        /// A constraint was violated.
        Constraint = "constraint",
        /// Lost against another transaction.
        Conflict = "conflict",
        /// Past the statement's limit or the deadline.
        Timeout = "timeout",
        /// The attempt was asked to stop.
        Cancelled = "cancelled",
        /// Over a limit of the binding.
        LimitExceeded = "limit-exceeded",
        /// The database cannot be reached, or has no room.
        Unavailable = "unavailable",
        /// Committed or rolled back before.
        TransactionClosed = "transaction-closed",
        /// A fault of the host.
        Internal = "internal",
    }
    retryable: Conflict, Unavailable, Timeout
}

/// An error of `heyday:sql`.
pub type SqlError = CapabilityError<SqlCode>;

/// What a grant allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only: mode `ro`.
    Read,
    /// Reading and writing.
    Write,
}

/// Limits of a binding; each has a safe default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqlLimits {
    /// Rows of one `query`.
    pub result_rows: u64,
    /// Bytes of one `query`'s values; also the largest single value.
    pub result_bytes: u64,
    /// Bytes that one attempt may read in all, streams included.
    pub attempt_bytes: u64,
    /// Cursors and transactions that one attempt may hold open together.
    pub open_handles: u32,
    /// How long one statement (of a cursor: one batch) may run, in milliseconds.
    pub statement_timeout_ms: u64,
    /// How long a statement waits for others' locks, in milliseconds. Those that write
    /// get their turn in the order they came.
    pub busy_timeout_ms: u64,
    /// Connections to the database for all plugins together.
    pub connections: u32,
    /// Bytes of working memory by which a statement may grow before it is ended (sorting,
    /// grouping, temporary results).
    pub memory_bytes: u64,
    /// Bytes that the database file may have; none means as the disk allows.
    pub database_bytes: Option<u64>,
}

impl Default for SqlLimits {
    fn default() -> Self {
        Self {
            result_rows: 100_000,
            result_bytes: 16 << 20,
            attempt_bytes: 4 << 30,
            open_handles: 8,
            statement_timeout_ms: 60_000,
            busy_timeout_ms: 30_000,
            connections: 16,
            memory_bytes: 256 << 20,
            database_bytes: None,
        }
    }
}

/// Rows of a cursor, each one value per column.
pub type Rows = Vec<Vec<Value>>;

/// One database. Dropping the future of an operation ends the operation.
#[async_trait]
pub trait Database: Send + Sync + 'static {
    /// `sqlite` or `postgresql`.
    fn dialect(&self) -> &'static str;

    /// Its limits.
    fn limits(&self) -> &SqlLimits;

    /// Looks whether it can be used; changes nothing that a plugin stored.
    async fn diagnose(&self) -> Vec<Finding>;

    /// Where it is on a server of PostgreSQL; none where no server has it, or does not tell.
    async fn location(&self) -> Option<crate::postgres::Place> {
        None
    }

    /// Closes it, when no more operations come.
    async fn close(&self);

    /// Runs one statement and answers all its rows.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn query(
        &self,
        access: Access,
        statement: String,
        params: Vec<Value>,
    ) -> Result<RowSet, SqlError>;

    /// Runs one query and answers its rows in batches.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn stream(
        &self,
        access: Access,
        statement: String,
        params: Vec<Value>,
    ) -> Result<Box<dyn Cursor>, SqlError>;

    /// Runs one statement and answers how many rows it changed.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn execute(
        &self,
        access: Access,
        statement: String,
        params: Vec<Value>,
    ) -> Result<u64, SqlError>;

    /// Runs one statement once per list of parameters, all or nothing.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn execute_many(
        &self,
        access: Access,
        statement: String,
        params: Vec<Vec<Value>>,
    ) -> Result<u64, SqlError>;

    /// Begins a transaction.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn begin(&self, access: Access) -> Result<Box<dyn Transaction>, SqlError>;
}

/// A result that is read in batches; dropping it ends the statement.
#[async_trait]
pub trait Cursor: Send + 'static {
    /// The columns, in order.
    fn columns(&self) -> &[Column];

    /// At most `max` further rows, under 1 MiB unless one row is larger; none at the
    /// end.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn next(&mut self, max: u32) -> Result<Rows, SqlError>;
}

/// An open transaction; dropping it rolls it back.
#[async_trait]
pub trait Transaction: Send + 'static {
    /// As [`Database::query`].
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn query(&mut self, statement: String, params: Vec<Value>) -> Result<RowSet, SqlError>;

    /// As [`Database::execute`].
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn execute(&mut self, statement: String, params: Vec<Value>) -> Result<u64, SqlError>;

    /// As [`Database::execute_many`].
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn execute_many(
        &mut self,
        statement: String,
        params: Vec<Vec<Value>>,
    ) -> Result<u64, SqlError>;

    /// Makes its effects durable.
    ///
    /// # Errors
    /// As the WIT's `error` says; the transaction is rolled back then.
    async fn commit(self: Box<Self>) -> Result<(), SqlError>;

    /// Undoes its effects.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn rollback(self: Box<Self>) -> Result<(), SqlError>;
}

/// Bytes of a value, as limits and receipts count them: its payload, at least one.
#[must_use]
pub fn value_bytes(value: &Value) -> u64 {
    let bytes = match value {
        Value::Null | Value::Boolean(_) => 1,
        Value::Integer(_) | Value::Real(_) => 8,
        Value::Bytes(bytes) => bytes.len(),
        Value::Decimal(text)
        | Value::Text(text)
        | Value::Uuid(text)
        | Value::Date(text)
        | Value::Time(text)
        | Value::Timestamp(text)
        | Value::Datetime(text)
        | Value::Json(text)
        | Value::Array(text) => text.len(),
        Value::Other((name, text)) => name.len() + text.len(),
    };
    (bytes as u64).max(1)
}

/// Bytes of a row, as limits count them.
fn row_bytes(row: &[Value]) -> u64 {
    row.iter().map(value_bytes).sum()
}

/// What a result that is answered whole has too much of where another row comes to so many,
/// and makes it so many bytes; `most` are the binding's limits of both.
fn beyond(rows: usize, bytes: u64, most: (u64, u64)) -> Option<String> {
    let over = if rows as u64 >= most.0 {
        format!("{} rows", most.0)
    } else if bytes > most.1 {
        format!("{} bytes", most.1)
    } else {
        return None;
    };
    Some(format!(
        "the result has more than {over}: read it with `query-stream`"
    ))
}
