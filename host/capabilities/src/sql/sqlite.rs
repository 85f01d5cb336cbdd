//! SQLite: one database file per binding, in WAL mode, with connections for reading grants
//! and others for writing ones, each on a thread of its own (`sqlite_threads`).
//!
//! An operation is one job on a connection's thread (`sqlite_connection.rs`): looking at
//! the statement, running it, reading its rows and cleaning up. SQLite has one writer at a
//! time and no queue for the others, so writing operations first wait here for their turn,
//! in the order they came and without a connection. Dropping the future of an operation
//! ends its statement, and whatever transaction was left open is rolled back before anyone
//! gets the connection, or the turn, again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::cursor::BatchCursor;
use super::sqlite_connection::{Guarded, Stop};
use super::sqlite_error::{closed, conflict, translate, unavailable};
use super::sqlite_guard::Control;
use super::{
    Access, Cursor, Database, RowSet, SqlCode, SqlError, SqlLimits, Transaction, Value,
    check_parameters,
};

use crate::diagnosis::{Asked, Finding, of_store};
use crate::sqlite_file::{self, OpenError, Opening, check_database};
use crate::sqlite_threads::{Connections, Lease};
use crate::task::run_on;

/// How long a statement waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// A SQLite database file.
#[derive(Debug, Clone)]
pub struct SqliteDatabase {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reading: Connections<Guarded>,
    writing: Option<Connections<Guarded>>,
    limits: SqlLimits,
    runtime: Handle,
    /// The right to write; one at a time.
    turn: Arc<Semaphore>,
}

impl SqliteDatabase {
    /// Names a database; it is opened, and made, at its first use. What must be waited for
    /// is waited for on `runtime`, never on the one that guests run on.
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
        let connections = |access: Access| {
            let opening = Opening {
                path: path.to_owned(),
                read_only,
                query_only: access == Access::Read,
                busy: Duration::from_millis(limits.busy_timeout_ms),
                most_bytes: limits.database_bytes,
            };
            let of_each = limits.clone();
            let open = move || Guarded::open(&opening, access, &of_each);
            let most = limits.connections;
            Connections::new(
                "heyday-sqlite",
                most,
                ACQUIRE_TIMEOUT,
                runtime.clone(),
                open,
            )
        };
        Ok(Self {
            shared: Arc::new(Shared {
                reading: connections(Access::Read),
                writing: (!read_only).then(|| connections(Access::Write)),
                limits,
                runtime,
                turn: Arc::new(Semaphore::new(1)),
            }),
        })
    }

    fn connections(&self, access: Access) -> Result<&Connections<Guarded>, SqlError> {
        match access {
            Access::Read => Ok(&self.shared.reading),
            Access::Write => self.shared.writing.as_ref().ok_or_else(|| {
                SqlError::new(
                    SqlCode::CapabilityDenied,
                    "the binding is read-only: a grant of mode `ro` is needed",
                )
            }),
        }
    }

    /// Takes a connection, and before it the right to write where that is needed, and
    /// begins what `begin` does with them: from here where both are free, else from the
    /// host's runtime, so that neither waits for a guest's thread.
    async fn with<T, F>(
        &self,
        access: Access,
        in_turn: bool,
        begin: impl FnOnce(Lease<Guarded>) -> F + Send + 'static,
    ) -> Result<T, SqlError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SqlError>> + Send + 'static,
    {
        let connections = self.connections(access)?;
        let turns = (in_turn && access == Access::Write).then(|| Arc::clone(&self.shared.turn));
        let at_once = match &turns {
            None => Some(None),
            Some(turns) => Arc::clone(turns).try_acquire_owned().ok().map(Some),
        };
        if let Some(turn) = at_once
            && let Some(lease) = connections.take_now()
        {
            return begin(held(lease.map_err(unavailable)?, turn)).await;
        }
        let connections = connections.clone();
        // As long as for any other lock.
        let limit = Duration::from_millis(self.shared.limits.busy_timeout_ms);
        let waiting = run_on(&self.shared.runtime, async move {
            let turn = match turns {
                None => None,
                Some(turns) => {
                    let turn = timeout(limit, turns.acquire_owned()).await;
                    let turn = turn.map_err(|_| conflict())?;
                    Some(turn.map_err(SqlError::internal)?)
                }
            };
            let lease = connections.take().await.map_err(unavailable)?;
            begin(held(lease, turn)).await
        });
        waiting.await.map_err(SqlError::internal)?
    }

    /// Does one operation, and gives the connection back.
    async fn once<T: Send + 'static>(
        &self,
        access: Access,
        in_turn: bool,
        work: impl FnOnce(&mut Guarded) -> Result<T, SqlError> + Send + 'static,
    ) -> Result<T, SqlError> {
        let stop = Stop::default();
        let flag = stop.flag();
        let begin = move |lease: Lease<Guarded>| async move {
            let done = lease.finish(move |connection| {
                connection.begin(&flag);
                work(connection)
            });
            done.await.map_err(unavailable)?
        };
        let outcome = self.with(access, in_turn, begin).await;
        drop(stop);
        outcome
    }
}

fn held(mut lease: Lease<Guarded>, turn: Option<OwnedSemaphorePermit>) -> Lease<Guarded> {
    lease.hold(turn);
    lease
}

fn checked(lists: &[Vec<Value>]) -> Result<(), SqlError> {
    lists.iter().try_for_each(|params| check_parameters(params))
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
        check_parameters(&params)?;
        let work = move |connection: &mut Guarded| connection.query(&statement, &params);
        self.once(access, false, work).await
    }

    async fn stream(
        &self,
        access: Access,
        statement: String,
        params: Vec<Value>,
    ) -> Result<Box<dyn Cursor>, SqlError> {
        check_parameters(&params)?;
        let stop = Stop::default();
        let flag = stop.flag();
        let (sender, batches) = mpsc::channel(1);
        let begin = move |lease: Lease<Guarded>| async move {
            let (told, columns) = oneshot::channel();
            lease.send(move |connection| match connection {
                Ok(connection) => {
                    connection.begin(&flag);
                    connection.stream(&statement, &params, told, &sender);
                }
                Err(error) => drop(told.send(Err(translate(&error.into(), None)))),
            });
            columns.await.map_err(SqlError::internal)?
        };
        let columns = self.with(access, false, begin).await?;
        Ok(Box::new(BatchCursor::new(columns, batches).stopping(stop)))
    }

    async fn execute(
        &self,
        access: Access,
        statement: String,
        params: Vec<Value>,
    ) -> Result<u64, SqlError> {
        check_parameters(&params)?;
        let work = move |connection: &mut Guarded| connection.execute(&statement, &params);
        self.once(access, true, work).await
    }

    async fn execute_many(
        &self,
        access: Access,
        statement: String,
        params: Vec<Vec<Value>>,
    ) -> Result<u64, SqlError> {
        checked(&params)?;
        let work = move |connection: &mut Guarded| {
            // Where it fails, what was begun is rolled back as the connection is given back.
            connection.control(beginning(access))?;
            let changed = connection.each(&statement, &params)?;
            connection.control(Control::Commit)?;
            Ok(changed)
        };
        self.once(access, true, work).await
    }

    async fn begin(&self, access: Access) -> Result<Box<dyn Transaction>, SqlError> {
        let stop = Stop::default();
        let flag = stop.flag();
        let begin = move |lease: Lease<Guarded>| async move {
            let begun = lease.run(move |connection| {
                connection.begin(&flag);
                connection.control(beginning(access))
            });
            begun.await.map_err(unavailable)??;
            Ok(lease)
        };
        let lease = self.with(access, true, begin).await?;
        Ok(Box::new(SqliteTransaction {
            lease: Some(lease),
            stop,
        }))
    }
}

fn beginning(access: Access) -> Control {
    match access {
        Access::Read => Control::BeginRead,
        Access::Write => Control::BeginWrite,
    }
}

struct SqliteTransaction {
    /// None while an operation has it, and after one that was stopped.
    lease: Option<Lease<Guarded>>,
    stop: Stop,
}

impl SqliteTransaction {
    async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Guarded) -> Result<T, SqlError> + Send + 'static,
    ) -> Result<T, SqlError> {
        let lease = self.lease.take().ok_or_else(closed)?;
        // Where this future is dropped, the statement ends, and the transaction with it.
        let stop = std::mem::take(&mut self.stop);
        let flag = stop.flag();
        let done = lease.run(move |connection| {
            connection.begin(&flag);
            connection.within()?;
            work(connection)
        });
        let outcome = done.await;
        (self.lease, self.stop) = (Some(lease), stop);
        outcome.map_err(unavailable)?
    }

    async fn end(mut self: Box<Self>, control: Control) -> Result<(), SqlError> {
        let lease = self.lease.take().ok_or_else(closed)?;
        let flag = self.stop.flag();
        let done = lease.finish(move |connection| {
            connection.begin(&flag);
            connection.within()?;
            connection.control(control)
        });
        done.await.map_err(unavailable)?
    }
}

#[async_trait]
impl Transaction for SqliteTransaction {
    async fn query(&mut self, statement: String, params: Vec<Value>) -> Result<RowSet, SqlError> {
        check_parameters(&params)?;
        self.run(move |connection| connection.query(&statement, &params))
            .await
    }

    async fn execute(&mut self, statement: String, params: Vec<Value>) -> Result<u64, SqlError> {
        check_parameters(&params)?;
        self.run(move |connection| connection.execute(&statement, &params))
            .await
    }

    async fn execute_many(
        &mut self,
        statement: String,
        params: Vec<Vec<Value>>,
    ) -> Result<u64, SqlError> {
        checked(&params)?;
        self.run(move |connection| connection.each(&statement, &params))
            .await
    }

    async fn commit(self: Box<Self>) -> Result<(), SqlError> {
        self.end(Control::Commit).await
    }

    async fn rollback(self: Box<Self>) -> Result<(), SqlError> {
        self.end(Control::Rollback).await
    }
}

#[cfg(test)]
#[path = "sqlite_tests.rs"]
mod tests;
