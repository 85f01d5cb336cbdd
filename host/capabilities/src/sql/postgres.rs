//! PostgreSQL: one role and schema per binding, with a pool of connections.
//!
//! Operations belong to the host's runtime (`crate::task`). The future of one owns a lease of its
//! connection; dropping it cancels the statement on the server, and whatever a
//! connection was left with is gone before anyone gets it again (`crate::postgres`).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::cursor::{BATCH_BYTES, Batch, BatchCursor};
use super::postgres_error::{closed, translate};
use super::postgres_lease::too_many_parameters;
use super::postgres_lease::{BEGIN_READ, Prepared, Session, Shape, Types, no_statement};
use super::{
    Access, Cursor, Database, RowSet, Rows, SqlCode, SqlError, SqlLimits, Transaction, Value,
    row_bytes,
};
use crate::diagnosis::Finding;
use crate::postgres::{Event, Pool, PoolOptions, PostgresConfig, PostgresConfigError, Status};
use crate::task::begin_here;

/// What a message has beside a value: names, an error's words.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Rows that a cursor asks for first, and the most that it asks for at once.
const FIRST_ROWS: i32 = 64;
const MOST_ROWS: u64 = 4_096;

/// A PostgreSQL database, as one role sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PostgresDatabase {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pool: Pool,
    read_only: bool,
    limits: SqlLimits,
    types: Arc<Types>,
}

impl PostgresDatabase {
    /// Names a database; it is connected to at its first use. Its work is done on
    /// `runtime`, never on the one that guests run on.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(
        config: &PostgresConfig,
        read_only: bool,
        limits: SqlLimits,
        runtime: Handle,
    ) -> Result<Self, PostgresConfigError> {
        let options = PoolOptions {
            connections: limits.connections,
            read_only,
            statement_timeout: Duration::from_millis(limits.statement_timeout_ms),
            lock_timeout: Duration::from_millis(limits.busy_timeout_ms),
            // Bytes are written as two digits each.
            message_bytes: limits.result_bytes.saturating_mul(2) + MESSAGE_BYTES,
            guests: true,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                pool: Pool::new(config, options, runtime)?,
                read_only,
                limits,
                types: Arc::default(),
            }),
        })
    }

    /// What no two bindings may share.
    #[must_use]
    pub fn identity(&self) -> String {
        self.shared.pool.identity()
    }

    async fn session(&self, access: Access) -> Result<Session, SqlError> {
        let shared = &self.shared;
        if access == Access::Write && shared.read_only {
            return Err(SqlError::new(
                SqlCode::CapabilityDenied,
                "the binding is read-only: a grant of mode `ro` is needed",
            ));
        }
        Ok(Session {
            lease: shared.pool.acquire().await.map_err(translate)?,
            access,
            limits: shared.limits.clone(),
            types: Arc::clone(&shared.types),
        })
    }

    /// Begins here, and goes on on the host's runtime.
    async fn on_host<T, F>(&self, operation: F) -> Result<T, SqlError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SqlError>> + Send + 'static,
    {
        let outcome = begin_here(self.shared.pool.runtime(), operation).await;
        outcome.map_err(SqlError::internal)?
    }
}

#[async_trait]
impl Database for PostgresDatabase {
    fn dialect(&self) -> &'static str {
        "postgresql"
    }

    fn limits(&self) -> &SqlLimits {
        &self.shared.limits
    }

    async fn diagnose(&self) -> Vec<Finding> {
        crate::postgres::diagnose(&self.shared.pool).await
    }

    async fn location(&self) -> Option<crate::postgres::Place> {
        crate::postgres::location(&self.shared.pool).await
    }

    /// Closes its connections; those in use when they come back.
    async fn close(&self) {
        self.shared.pool.close().await;
    }

    async fn query(
        &self,
        access: Access,
        statement: String,
        params: Vec<Value>,
    ) -> Result<RowSet, SqlError> {
        let this = self.clone();
        self.on_host(async move {
            let mut session = this.session(access).await?;
            session.query(statement, params, false).await
        })
        .await
    }

    async fn stream(
        &self,
        access: Access,
        statement: String,
        params: Vec<Value>,
    ) -> Result<Box<dyn Cursor>, SqlError> {
        let this = self.clone();
        let runtime = self.shared.pool.runtime().clone();
        self.on_host(async move {
            let prepared = Prepared::new(statement, vec![params])?;
            let mut session = this.session(access).await?;
            let mut shape = session.open(&prepared).await?;
            let mut answered = session.portal_rows(&shape).await?;
            if shape.is_incomplete() {
                session.learn(&mut shape).await?;
                for row in &mut answered.rows {
                    shape.correct(row);
                }
            }
            let columns = shape.columns();
            let (sender, batches) = mpsc::channel(1);
            runtime.spawn(async move {
                if let Err(error) = session.forward(&shape, answered, &sender).await {
                    // The reader may be gone, which is an answer too.
                    let _ = sender.send(Err(error)).await;
                }
            });
            Ok(Box::new(BatchCursor::new(columns, batches)) as Box<dyn Cursor>)
        })
        .await
    }

    async fn execute(
        &self,
        access: Access,
        statement: String,
        params: Vec<Value>,
    ) -> Result<u64, SqlError> {
        let this = self.clone();
        self.on_host(async move {
            let mut session = this.session(access).await?;
            session.execute(statement, params, false).await
        })
        .await
    }

    async fn execute_many(
        &self,
        access: Access,
        statement: String,
        params: Vec<Vec<Value>>,
    ) -> Result<u64, SqlError> {
        let this = self.clone();
        self.on_host(async move {
            let mut session = this.session(access).await?;
            session.begin().await?;
            let changed = session.each(statement, params).await?;
            session.commit().await?;
            Ok(changed)
        })
        .await
    }

    async fn begin(&self, access: Access) -> Result<Box<dyn Transaction>, SqlError> {
        let this = self.clone();
        self.on_host(async move {
            let mut session = this.session(access).await?;
            session.begin().await?;
            Ok(Box::new(PostgresTransaction {
                session: Some(session),
                database: this,
            }) as Box<dyn Transaction>)
        })
        .await
    }
}

/// Rows of a portal that were answered at once.
struct Answered {
    rows: Rows,
    /// Whether there are no more.
    last: bool,
    /// How many to ask for next.
    next: i32,
}

impl Session {
    async fn begin(&mut self) -> Result<(), SqlError> {
        let statement = match self.access {
            Access::Read => BEGIN_READ,
            Access::Write => "BEGIN",
        };
        self.control(statement).await
    }

    async fn commit(&mut self) -> Result<(), SqlError> {
        self.within()?;
        if self.wire().status() == Status::Failed {
            // The server would answer a COMMIT by rolling back.
            self.control("ROLLBACK").await?;
            return Err(SqlError::new(
                SqlCode::TransactionClosed,
                "a statement of the transaction failed before: it was rolled back",
            ));
        }
        self.control("COMMIT").await
    }

    /// Begins a transaction with a portal of a query, and answers its columns.
    async fn open(&mut self, prepared: &Prepared) -> Result<Shape, SqlError> {
        if self.access == Access::Write {
            self.begin().await?;
        }
        let passed = self.guard(self.access == Access::Write)?;
        prepared.write(self.wire())?;
        let params = prepared.lists.first().map_or(&[][..], Vec::as_slice);
        let wire = self.wire();
        wire.bind(PORTAL, params)
            .map_err(|_| too_many_parameters())?;
        wire.describe(PORTAL);
        wire.execute(PORTAL, FIRST_ROWS);
        wire.sync();
        self.lease.begin();
        let sent = self.wire().flush().await;
        self.checked(sent).await?;
        self.pass(passed).await?;
        loop {
            match self.event().await? {
                Event::Fields(fields) => return Ok(Shape::new(fields, &self.types)),
                Event::Ready => return Err(no_statement()),
                _ => {}
            }
        }
    }

    /// Reads what the server answers to a portal's execution.
    async fn portal_rows(&mut self, shape: &Shape) -> Result<Answered, SqlError> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut last = false;
        loop {
            match self.event().await? {
                Event::Row(row) => {
                    let row = shape.row(row);
                    bytes += row_bytes(&row);
                    rows.push(row);
                }
                Event::Done(_) => last = true,
                Event::Empty => {
                    let outcome = self.wire().until_ready().await;
                    self.checked(outcome).await?;
                    return Err(no_statement());
                }
                Event::Ready => break,
                Event::Suspended | Event::Fields(_) => {}
            }
        }
        // As many as one batch has, if they are as those before.
        let count = (rows.len() as u64).max(1);
        let next = (BATCH_BYTES * count / u64::max(bytes, 1)).clamp(1, MOST_ROWS);
        Ok(Answered {
            rows,
            last,
            next: i32::try_from(next).unwrap_or(FIRST_ROWS),
        })
    }

    /// Passes a portal's rows on, one answer ahead of their reader.
    async fn forward(
        &mut self,
        shape: &Shape,
        mut answered: Answered,
        sender: &mpsc::Sender<Batch>,
    ) -> Result<(), SqlError> {
        loop {
            let (last, next) = (answered.last, answered.next);
            if !answered.rows.is_empty() && sender.send(Ok(answered.rows)).await.is_err() {
                return Ok(());
            }
            if last {
                // Where the statement wrote: it ended whole.
                if self.access == Access::Write && self.wire().status() == Status::Open {
                    self.control("COMMIT").await?;
                }
                return Ok(());
            }
            self.within()?;
            let wire = self.wire();
            wire.execute(PORTAL, next);
            wire.sync();
            self.lease.begin();
            answered = tokio::select! {
                answered = async {
                    let sent = self.wire().flush().await;
                    self.checked(sent).await?;
                    self.portal_rows(shape).await
                } => answered?,
                () = sender.closed() => return Ok(()),
            };
        }
    }
}

/// A name, so that it stays when a group of messages ends.
const PORTAL: &str = "heyday";

struct PostgresTransaction {
    /// None while an operation has it, and after one that was stopped.
    session: Option<Session>,
    database: PostgresDatabase,
}

impl PostgresTransaction {
    /// Runs an operation on the host's runtime; one that is stopped takes the
    /// transaction with it.
    async fn run<T, F, O>(&mut self, operation: O) -> Result<T, SqlError>
    where
        T: Send + 'static,
        O: FnOnce(Session) -> F,
        F: Future<Output = (Session, Result<T, SqlError>)> + Send + 'static,
    {
        let mut session = self.session.take().ok_or_else(closed)?;
        session.within()?;
        let operation = operation(session);
        let ran = self.database.on_host(async move { Ok(operation.await) });
        let (session, outcome) = ran.await?;
        self.session = Some(session);
        outcome
    }
}

#[async_trait]
impl Transaction for PostgresTransaction {
    async fn query(&mut self, statement: String, params: Vec<Value>) -> Result<RowSet, SqlError> {
        self.run(|mut session| async move {
            let outcome = session.query(statement, params, true).await;
            (session, outcome)
        })
        .await
    }

    async fn execute(&mut self, statement: String, params: Vec<Value>) -> Result<u64, SqlError> {
        self.run(|mut session| async move {
            let outcome = session.execute(statement, params, true).await;
            (session, outcome)
        })
        .await
    }

    async fn execute_many(
        &mut self,
        statement: String,
        params: Vec<Vec<Value>>,
    ) -> Result<u64, SqlError> {
        self.run(|mut session| async move {
            let outcome = session.each(statement, params).await;
            (session, outcome)
        })
        .await
    }

    async fn commit(mut self: Box<Self>) -> Result<(), SqlError> {
        self.run(|mut session| async move {
            let outcome = session.commit().await;
            (session, outcome)
        })
        .await
    }

    async fn rollback(mut self: Box<Self>) -> Result<(), SqlError> {
        self.run(|mut session| async move {
            let outcome = session.control("ROLLBACK").await;
            (session, outcome)
        })
        .await
    }
}
