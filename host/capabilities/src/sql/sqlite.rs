//! SQLite: one database file per binding, in WAL mode, with a pool of connections for
//! reading grants and one for writing ones.
//!
//! A statement is looked at first (`sqlite_guard::inspect`, on a
//! blocking thread) and then run by sqlx on the connection's own thread, or for many
//! parameter lists at once by `sqlite_bulk`. SQLite has one writer at a time and no queue
//! for the others, so writing operations first wait here for their turn, in the order
//! they came and without a connection. The future of
//! an operation owns a lease of its connection; dropping it stops the statement, and
//! the pool rolls back whatever transaction was left open before anyone gets the
//! connection again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    LockedSqliteHandle, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Sqlite, SqlitePool};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::cursor::BatchCursor;
use super::sqlite_bulk;
use super::sqlite_cursor::forward;
use super::sqlite_error::{closed, conflict, too_large, translate, translate_raw};
use super::sqlite_guard::{self, Control, Inspection, Refusal, Watch};
use super::sqlite_value::{self, Declared};
use super::{
    Access, Column, Cursor, Database, RowSet, SqlCode, SqlError, SqlLimits, Transaction, Value,
    check_parameters, row_bytes,
};

use crate::diagnosis::{Asked, Finding, of_store};
use crate::sqlite_file::{self, OpenError, check_database};
use crate::task::run_on;

/// Rows that sqlx reads ahead of us.
const ROW_BUFFER: usize = 16;
/// How long a statement waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const PAGE_BYTES: u64 = 4_096;

/// A SQLite database file.
#[derive(Debug, Clone)]
pub struct SqliteDatabase {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reading: SqlitePool,
    writing: Option<SqlitePool>,
    limits: SqlLimits,
    runtime: Handle,
    /// The right to write; one at a time.
    turn: Arc<Semaphore>,
}

impl SqliteDatabase {
    /// Names a database; it is opened, and made, at its first use. Its connections and
    /// tasks run on `runtime`, never on the one that guests run on.
    ///
    /// # Errors
    /// When the path cannot be one.
    pub fn new(
        path: &Path,
        read_only: bool,
        limits: SqlLimits,
        runtime: Handle,
    ) -> Result<Self, OpenError> {
        check_database(path, read_only)?;
        let mut options = SqliteConnectOptions::new()
            .filename(path)
            .disable_statement_logging()
            .row_buffer_size(ROW_BUFFER)
            .pragma("temp_store", "memory")
            .pragma("cell_size_check", "on");
        if read_only {
            options = options.read_only(true);
        } else {
            options = options
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full);
        }
        if let Some(bytes) = limits.database_bytes {
            let pages = (bytes / PAGE_BYTES).max(1);
            options = options.pragma("max_page_count", pages.to_string());
        }
        // A pool begins housekeeping when it is made.
        let _entered = runtime.enter();
        let writing = (!read_only).then(|| pool(options.clone(), Access::Write, &limits));
        let reading = pool(options.pragma("query_only", "on"), Access::Read, &limits);
        Ok(Self {
            shared: Arc::new(Shared {
                reading,
                writing,
                limits,
                runtime,
                turn: Arc::new(Semaphore::new(1)),
            }),
        })
    }

    /// Waits for the right to write, as long as for any other lock; readers need none.
    async fn turn(&self, access: Access) -> Result<Option<OwnedSemaphorePermit>, SqlError> {
        if access == Access::Read {
            return Ok(None);
        }
        let turn = Arc::clone(&self.shared.turn);
        let limit = Duration::from_millis(self.shared.limits.busy_timeout_ms);
        let waited = run_on(&self.shared.runtime, async move {
            tokio::time::timeout(limit, turn.acquire_owned()).await
        });
        match waited.await.map_err(SqlError::internal)? {
            Ok(permit) => permit.map(Some).map_err(SqlError::internal),
            Err(_) => Err(conflict()),
        }
    }

    async fn lease(&self, access: Access) -> Result<Lease, SqlError> {
        let pool = match access {
            Access::Read => &self.shared.reading,
            Access::Write => self.shared.writing.as_ref().ok_or_else(|| {
                SqlError::new(
                    SqlCode::CapabilityDenied,
                    "the binding is read-only: a grant of mode `ro` is needed",
                )
            })?,
        };
        let acquire = pool.clone();
        // On the host's runtime: a connection's thread is made, and waited for, there.
        let acquired = run_on(&self.shared.runtime, async move {
            let mut connection = acquire.acquire().await?;
            let watch = sqlite_guard::watch(&mut connection.lock_handle().await?);
            Ok::<_, sqlx::Error>((connection, watch))
        });
        let (connection, watch) = match acquired.await {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) => return Err(translate(&error, None)),
            Err(error) => return Err(SqlError::internal(error)),
        };
        let watch =
            watch.ok_or_else(|| SqlError::internal("a connection of the pool has no guard"))?;
        let lease = Lease {
            connection: Some(Owned {
                connection: Some(connection),
                runtime: self.shared.runtime.clone(),
            }),
            watch,
            shared: Arc::clone(&self.shared),
        };
        lease.begin();
        Ok(lease)
    }
}

fn pool(options: SqliteConnectOptions, access: Access, limits: &SqlLimits) -> SqlitePool {
    let guarded = limits.clone();
    SqlitePoolOptions::new()
        .max_connections(limits.connections.max(1))
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // Taking the handle tests the connection already.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let limits = guarded.clone();
            Box::pin(async move {
                let mut locked = connection.lock_handle().await?;
                sqlite_guard::install(&mut locked, access, &limits)
                    .map_err(|error| sqlx::Error::Protocol(error.message))
            })
        })
        .after_release(|connection, _| {
            Box::pin(async move {
                let mut locked = connection.lock_handle().await?;
                let Some(watch) = sqlite_guard::watch(&mut locked) else {
                    return Ok(false);
                };
                if !sqlite_guard::in_transaction(&mut locked) {
                    return Ok(true);
                }
                Ok(sqlite_guard::control(&mut locked, &watch, Control::Rollback).is_ok())
            })
        })
        .connect_lazy_with(options)
}

/// A pooled connection that may be dropped anywhere: giving it back needs a runtime.
struct Owned {
    connection: Option<PoolConnection<Sqlite>>,
    runtime: Handle,
}

impl Owned {
    fn get(&mut self) -> &mut PoolConnection<Sqlite> {
        // Only `drop` takes it.
        self.connection.as_mut().expect("present until dropped")
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        drop(self.connection.take());
    }
}

/// A connection in use by one operation, cursor or transaction.
pub(super) struct Lease {
    /// None while a blocking thread has it.
    connection: Option<Owned>,
    pub(super) watch: Arc<Watch>,
    shared: Arc<Shared>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Ends what still runs, wherever the connection is.
        self.watch.stop();
    }
}

impl Lease {
    fn begin(&self) {
        self.watch.begin(Duration::from_millis(
            self.shared.limits.statement_timeout_ms,
        ));
    }

    /// How long one statement may run.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_millis(self.shared.limits.statement_timeout_ms)
    }

    pub(super) fn connection(&mut self) -> Result<&mut PoolConnection<Sqlite>, SqlError> {
        self.connection.as_mut().map(Owned::get).ok_or_else(closed)
    }

    /// Runs a closure on the raw handle, on a thread that may block.
    async fn blocking<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut LockedSqliteHandle<'_>, &Watch) -> R + Send + 'static,
    ) -> Result<R, SqlError> {
        let mut owned = self.connection.take().ok_or_else(closed)?;
        let watch = Arc::clone(&self.watch);
        let runtime = self.shared.runtime.clone();
        let task = self.shared.runtime.spawn_blocking(move || {
            let outcome = runtime.block_on(async {
                let mut locked = owned.get().lock_handle().await?;
                Ok::<_, sqlx::Error>(work(&mut locked, &watch))
            });
            (owned, outcome)
        });
        let (owned, outcome) = task.await.map_err(SqlError::internal)?;
        self.connection = Some(owned);
        outcome.map_err(|error| translate(&error, Some(&self.watch)))
    }

    async fn inspect(&mut self, statement: &str, within: bool) -> Result<Inspection, SqlError> {
        let sql = statement.to_owned();
        let inspected = self
            .blocking(move |locked, watch| {
                // SQLite rolls back by itself on some faults; what follows must not run
                // outside the transaction that its author believes in.
                if within && !sqlite_guard::in_transaction(locked) {
                    return None;
                }
                Some(sqlite_guard::inspect(locked, watch, &sql))
            })
            .await?;
        match inspected {
            None => Err(closed()),
            Some(Ok(inspection)) => Ok(inspection),
            Some(Err(Refusal::Statement(message))) => {
                Err(SqlError::new(SqlCode::InvalidStatement, message))
            }
            Some(Err(Refusal::Sqlite(error))) => Err(translate_raw(&error, &self.watch)),
        }
    }

    /// # Errors
    /// `transaction-closed` where SQLite has none open.
    async fn within(&mut self) -> Result<(), SqlError> {
        let open = self
            .blocking(|locked, _| sqlite_guard::in_transaction(locked))
            .await?;
        if open { Ok(()) } else { Err(closed()) }
    }

    async fn control(&mut self, control: Control) -> Result<(), SqlError> {
        let outcome = self
            .blocking(move |locked, watch| sqlite_guard::control(locked, watch, control))
            .await?;
        outcome.map_err(|error| translate_raw(&error, &self.watch))
    }

    async fn query(
        &mut self,
        statement: String,
        params: Vec<Value>,
        within: bool,
    ) -> Result<RowSet, SqlError> {
        check_parameters(&params)?;
        let inspection = self.inspect(&statement, within).await?;
        check_count(&inspection, params.len())?;
        let declared = declared_types(&inspection.columns);
        let arguments = sqlite_value::arguments(params)?;
        let (max_rows, max_bytes) = {
            let limits = &self.shared.limits;
            (limits.result_rows, limits.result_bytes)
        };
        let watch = Arc::clone(&self.watch);
        let connection = self.connection()?;
        let mut rows = Vec::new();
        let mut bytes = 0_u64;
        {
            let query = sqlx::query_with(AssertSqlSafe(statement), arguments);
            let mut stream = connection.fetch(query);
            while let Some(row) = stream
                .try_next()
                .await
                .map_err(|error| translate(&error, Some(&watch)))?
            {
                let row = sqlite_value::row(&row, &declared)?;
                bytes = bytes.saturating_add(row_bytes(&row));
                if rows.len() as u64 >= max_rows {
                    return Err(too_large(format!(
                        "the result has more than {max_rows} rows: read it with `query-stream`"
                    )));
                }
                if bytes > max_bytes {
                    return Err(too_large(format!(
                        "the result has more than {max_bytes} bytes: read it with \
                         `query-stream`"
                    )));
                }
                rows.push(row);
            }
        }
        Ok(RowSet {
            columns: inspection.columns,
            rows,
        })
    }

    async fn execute(
        &mut self,
        statement: String,
        params: Vec<Value>,
        within: bool,
    ) -> Result<u64, SqlError> {
        check_parameters(&params)?;
        let inspection = self.inspect(&statement, within).await?;
        check_count(&inspection, params.len())?;
        let arguments = sqlite_value::arguments(params)?;
        let watch = Arc::clone(&self.watch);
        let connection = self.connection()?;
        let query = sqlx::query_with(AssertSqlSafe(statement), arguments);
        let done = connection
            .execute(query)
            .await
            .map_err(|error| translate(&error, Some(&watch)))?;
        // SQLite counts the rows of the last statement that changed any, which is an
        // earlier one where this one changes none by its nature.
        Ok(if inspection.schema_change || inspection.read_only {
            0
        } else {
            done.rows_affected()
        })
    }

    /// Runs one statement once per list; the caller holds a transaction around it.
    async fn each(&mut self, statement: String, params: Vec<Vec<Value>>) -> Result<u64, SqlError> {
        for params in &params {
            check_parameters(params)?;
        }
        let inspection = self.inspect(&statement, true).await?;
        for params in &params {
            check_count(&inspection, params.len())?;
        }
        let limit = self.limit();
        let schema_change = inspection.schema_change;
        let outcome = self
            .blocking(move |locked, watch| {
                sqlite_bulk::each(locked, watch, &statement, &params, limit)
            })
            .await?;
        let changed = outcome.map_err(|error| translate_raw(&error, &self.watch))?;
        Ok(if schema_change { 0 } else { changed })
    }
}

#[async_trait]
impl Database for SqliteDatabase {
    fn dialect(&self) -> &'static str {
        "sqlite"
    }

    fn limits(&self) -> &SqlLimits {
        &self.shared.limits
    }

    async fn diagnose(&self) -> Vec<Finding> {
        let read = || async {
            let asked = self.query(Access::Read, "SELECT 1".to_owned(), Vec::new());
            asked.await.map(drop)
        };
        let write = async { self.begin(Access::Write).await.map(drop) };
        let asked = Asked {
            version: Some(sqlite_file::version()),
            read_only: self.shared.writing.is_none(),
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

    async fn query(
        &self,
        access: Access,
        statement: String,
        params: Vec<Value>,
    ) -> Result<RowSet, SqlError> {
        self.lease(access)
            .await?
            .query(statement, params, false)
            .await
    }

    async fn stream(
        &self,
        access: Access,
        statement: String,
        params: Vec<Value>,
    ) -> Result<Box<dyn Cursor>, SqlError> {
        check_parameters(&params)?;
        let mut lease = self.lease(access).await?;
        let inspection = lease.inspect(&statement, false).await?;
        check_count(&inspection, params.len())?;
        let declared = declared_types(&inspection.columns);
        let arguments = sqlite_value::arguments(params)?;
        let (sender, batches) = mpsc::channel(1);
        self.shared.runtime.spawn(async move {
            let outcome = forward(&mut lease, statement, arguments, &declared, &sender).await;
            if let Err(error) = outcome {
                // The reader may be gone, which is an answer too.
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(Box::new(BatchCursor::new(inspection.columns, batches)))
    }

    async fn execute(
        &self,
        access: Access,
        statement: String,
        params: Vec<Value>,
    ) -> Result<u64, SqlError> {
        let _turn = self.turn(access).await?;
        self.lease(access)
            .await?
            .execute(statement, params, false)
            .await
    }

    async fn execute_many(
        &self,
        access: Access,
        statement: String,
        params: Vec<Vec<Value>>,
    ) -> Result<u64, SqlError> {
        let mut transaction = self.begin(access).await?;
        // Where it fails, dropping the transaction rolls it back.
        let changed = transaction.execute_many(statement, params).await?;
        transaction.commit().await?;
        Ok(changed)
    }

    async fn begin(&self, access: Access) -> Result<Box<dyn Transaction>, SqlError> {
        let turn = self.turn(access).await?;
        let mut lease = self.lease(access).await?;
        let control = match access {
            Access::Read => Control::BeginRead,
            Access::Write => Control::BeginWrite,
        };
        lease.control(control).await?;
        Ok(Box::new(SqliteTransaction { lease, _turn: turn }))
    }
}

struct SqliteTransaction {
    lease: Lease,
    _turn: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl Transaction for SqliteTransaction {
    async fn query(&mut self, statement: String, params: Vec<Value>) -> Result<RowSet, SqlError> {
        self.lease.begin();
        self.lease.query(statement, params, true).await
    }

    async fn execute(&mut self, statement: String, params: Vec<Value>) -> Result<u64, SqlError> {
        self.lease.begin();
        self.lease.execute(statement, params, true).await
    }

    async fn execute_many(
        &mut self,
        statement: String,
        params: Vec<Vec<Value>>,
    ) -> Result<u64, SqlError> {
        self.lease.begin();
        // All or nothing of this call alone: what the transaction did before stays.
        self.lease.within().await?;
        self.lease.control(Control::Savepoint).await?;
        let outcome = self.lease.each(statement, params).await;
        match outcome {
            Ok(changed) => {
                self.lease.control(Control::Release).await?;
                Ok(changed)
            }
            Err(error) => {
                self.lease.begin();
                if self.lease.within().await.is_ok() {
                    self.lease.control(Control::RollbackTo).await?;
                    self.lease.control(Control::Release).await?;
                }
                Err(error)
            }
        }
    }

    async fn commit(mut self: Box<Self>) -> Result<(), SqlError> {
        self.lease.begin();
        self.lease.within().await?;
        self.lease.control(Control::Commit).await
    }

    async fn rollback(mut self: Box<Self>) -> Result<(), SqlError> {
        self.lease.within().await?;
        self.lease.control(Control::Rollback).await
    }
}

fn declared_types(columns: &[Column]) -> Vec<Declared> {
    columns.iter().map(sqlite_value::declared).collect()
}

fn check_count(inspection: &Inspection, given: usize) -> Result<(), SqlError> {
    if inspection.parameters == given {
        return Ok(());
    }
    Err(SqlError::new(
        SqlCode::InvalidParameter,
        format!(
            "the statement takes {} parameters and was given {given}",
            inspection.parameters
        ),
    ))
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
