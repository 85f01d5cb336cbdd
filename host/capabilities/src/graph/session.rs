//! One graph: what its operations do on a connection, the same for every server.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::bolt::{BoltError, Connector, Lease, Mode, Pool, PoolOptions, Pulled, Run, Value};
use super::check::check;
use super::diagnosis::{EMBEDDED, diagnose};
use super::error::{closed, translate};
use super::value::{self, Unknown};
use super::{Changes, GraphCode, GraphError, GraphLimits, RowSet};
use crate::Mode as Access;
use crate::diagnosis::Finding;
use crate::task::{begin_here, run_on};

/// What the server may take longer than the limit on a statement, which is kept here.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of one answer of a cursor, unless a single row has more.
const ANSWER_BYTES: u64 = 1 << 20;

/// What a server says of itself.
pub(super) struct Looked {
    /// Such as `Neo4j/5.26.0`.
    pub(super) agent: String,
    /// Its clock: milliseconds since the Unix epoch.
    pub(super) clock_ms: Option<i64>,
    /// What its configuration should have and lacks, as its lines.
    pub(super) lacking: Vec<String>,
}

/// A graph behind a binding. Dropping the future of an operation ends the operation.
/// Cheap to clone.
#[derive(Clone)]
pub struct Graph {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool,
    dialect: &'static str,
    read_only: bool,
    limits: GraphLimits,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph")
            .field("dialect", &self.shared.dialect)
            .finish_non_exhaustive()
    }
}

impl Graph {
    /// The server is connected to at its first use. Its work is done on `runtime`, never
    /// on the one that guests run on.
    pub(super) fn new(
        connector: Box<dyn Connector>,
        dialect: &'static str,
        read_only: bool,
        limits: GraphLimits,
        runtime: Handle,
    ) -> Self {
        let options = PoolOptions {
            connections: limits.connections,
            answer_timeout: Duration::from_millis(limits.statement_timeout_ms),
        };
        Self {
            shared: Arc::new(Shared {
                pool: Pool::new(connector, options, runtime),
                dialect,
                read_only,
                limits,
            }),
        }
    }

    /// `kglite` or `neo4j`.
    #[must_use]
    pub fn dialect(&self) -> &'static str {
        self.shared.dialect
    }

    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> &GraphLimits {
        &self.shared.limits
    }

    /// Closes it, when no more operations come.
    pub async fn close(&self) {
        self.shared.pool.close().await;
    }

    /// Whether nobody may write to it.
    pub(crate) fn read_only(&self) -> bool {
        self.shared.read_only
    }

    /// Looks whether it can be used; changes nothing that a plugin stored.
    pub async fn diagnose(&self) -> Vec<Finding> {
        diagnose(self).await
    }

    /// What the server says of itself, with a word for an operator where it cannot be used.
    pub(super) async fn look(&self) -> Result<Looked, BoltError> {
        let this = self.clone();
        let looking = run_on(self.shared.pool.runtime(), async move {
            let mut lease = this.shared.pool.acquire().await?;
            let wire = lease.wire();
            let asked = wire
                .column("RETURN datetime().epochMillis", PATIENCE)
                .await?;
            Ok(Looked {
                agent: wire.agent.clone(),
                clock_ms: asked.first().and_then(Value::as_i64),
                lacking: this.shared.pool.lacking(),
            })
        });
        let ended = looking.await;
        ended.map_err(|_| BoltError::Protocol("the host failed to ask"))?
    }

    /// Which server it is on, in the server's own words, by whatever address; none where it
    /// is on none, or the server does not tell.
    pub(crate) async fn location(&self) -> Option<String> {
        if self.shared.dialect == EMBEDDED {
            return None;
        }
        let this = self.clone();
        let asking = run_on(self.shared.pool.runtime(), async move {
            let mut lease = this.shared.pool.acquire().await?;
            let asked = lease.wire().column("CALL dbms.info() YIELD id", PATIENCE);
            asked.await
        });
        let ids = asking.await.ok()?.ok()?;
        Some(format!("Neo4j {}", ids.first()?.as_str()?))
    }

    /// Runs one statement and answers all its rows. `params` is one JSON object.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    pub async fn query(
        &self,
        access: Access,
        statement: String,
        params: String,
    ) -> Result<RowSet, GraphError> {
        let mode = self.alone(access)?;
        let this = self.clone();
        self.on_host(async move {
            if mode.read_only {
                let run = this.prepare(statement, &params, Some(mode))?;
                return this.session().await?.query(run).await;
            }
            // What it wrote stays only if its rows were not too many.
            let run = this.prepare(statement, &params, None)?;
            let mut session = this.session().await?;
            let begun = session.lease.wire().begin(mode).await;
            session.told(begun).await?;
            let set = session.query(run).await?;
            let ended = session.lease.wire().end(true).await;
            session.told(ended).await?;
            Ok(set)
        })
        .await
    }

    /// Runs one statement that only reads and answers its rows in batches.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    pub async fn stream(&self, statement: String, params: String) -> Result<Cursor, GraphError> {
        let this = self.clone();
        self.on_host(async move {
            let mode = Mode {
                read_only: true,
                // Each batch has its limit, and whoever reads them may take their time.
                timeout: None,
            };
            let run = this.prepare(statement, &params, Some(mode))?;
            let mut session = this.session().await?;
            let columns = session.run(run).await?;
            Ok(Cursor {
                graph: this.clone(),
                columns,
                rows: Some(Rows {
                    session: Some(session),
                    ahead: None,
                    failed: None,
                }),
            })
        })
        .await
    }

    /// Runs one statement and answers what it changed.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    pub async fn execute(
        &self,
        access: Access,
        statement: String,
        params: String,
    ) -> Result<Changes, GraphError> {
        let mode = self.alone(access)?;
        let this = self.clone();
        self.on_host(async move {
            let run = this.prepare(statement, &params, Some(mode))?;
            this.session().await?.execute(run).await
        })
        .await
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    pub async fn begin(&self, access: Access) -> Result<Transaction, GraphError> {
        let mode = Mode {
            timeout: None,
            ..self.alone(access)?
        };
        let this = self.clone();
        self.on_host(async move {
            let mut session = this.session().await?;
            let begun = session.lease.wire().begin(mode).await;
            session.told(begun).await?;
            Ok(Transaction {
                graph: this.clone(),
                session: Some(session),
            })
        })
        .await
    }

    /// How a statement is run that is a transaction of its own.
    fn alone(&self, access: Access) -> Result<Mode, GraphError> {
        if access == Access::ReadWrite && self.shared.read_only {
            return Err(GraphError::new(
                GraphCode::CapabilityDenied,
                "the binding is read-only: a grant of mode `ro` is needed",
            ));
        }
        let limit = Duration::from_millis(self.shared.limits.statement_timeout_ms);
        Ok(Mode {
            read_only: access == Access::ReadOnly,
            timeout: Some(limit + PATIENCE),
        })
    }

    fn prepare(
        &self,
        statement: String,
        params: &str,
        alone: Option<Mode>,
    ) -> Result<Run, GraphError> {
        let limit = self.shared.limits.result_bytes;
        if params.len() as u64 > limit {
            return Err(GraphError::new(
                GraphCode::LimitExceeded,
                format!("the parameters have more than {limit} bytes"),
            ));
        }
        check(&statement)?;
        Ok(Run {
            params: value::params(params)?,
            statement,
            alone,
        })
    }

    async fn session(&self) -> Result<Session, GraphError> {
        Ok(Session {
            lease: self.shared.pool.acquire().await.map_err(translate)?,
            limits: self.shared.limits.clone(),
        })
    }

    /// Begins here, and goes on on the host's runtime.
    async fn on_host<T, F>(&self, operation: F) -> Result<T, GraphError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, GraphError>> + Send + 'static,
    {
        let outcome = begin_here(self.shared.pool.runtime(), operation).await;
        outcome.map_err(GraphError::internal)?
    }
}

/// A connection in use.
struct Session {
    lease: Lease,
    limits: GraphLimits,
}

impl Session {
    /// The outcome of what the server was asked, in the guest's terms.
    async fn told<T>(&self, outcome: Result<T, BoltError>) -> Result<T, GraphError> {
        match outcome {
            Ok(told) => Ok(told),
            Err(error) => Err(translate(self.lease.explain(error).await)),
        }
    }

    async fn run(&mut self, run: Run) -> Result<Vec<String>, GraphError> {
        let ran = self.lease.wire().run(run).await;
        self.told(ran).await
    }

    async fn query(&mut self, run: Run) -> Result<RowSet, GraphError> {
        let columns = self.run(run).await?;
        let mut rows = Vec::new();
        let mut bytes = 0;
        loop {
            let Some(row) = self.row().await? else {
                return Ok(RowSet { columns, rows });
            };
            bytes += row.len() as u64;
            if rows.len() as u64 >= self.limits.result_rows {
                let limit = self.limits.result_rows;
                return Err(too_large(format!("the result has more than {limit} rows")));
            }
            if bytes > self.limits.result_bytes {
                let limit = self.limits.result_bytes;
                return Err(too_large(format!("the result has more than {limit} bytes")));
            }
            rows.push(row);
        }
    }

    /// The next row's text; none at the end.
    async fn row(&mut self) -> Result<Option<String>, GraphError> {
        let pulled = self.lease.wire().pull().await;
        match self.told(pulled).await? {
            Pulled::Row(values) => {
                let row = value::row(&values)
                    .map_err(|Unknown(what)| GraphError::new(GraphCode::InvalidStatement, what))?;
                Ok(Some(row))
            }
            Pulled::End(_) => Ok(None),
        }
    }

    async fn execute(&mut self, run: Run) -> Result<Changes, GraphError> {
        self.run(run).await?;
        loop {
            let pulled = self.lease.wire().pull().await;
            if let Pulled::End(told) = self.told(pulled).await? {
                return Ok(changes(&told));
            }
        }
    }
}

fn too_large(message: String) -> GraphError {
    GraphError::new(
        GraphCode::LimitExceeded,
        format!("{message}; ask for less, or use `query-stream`"),
    )
}

fn changes(told: &Value) -> Changes {
    let count = |name| {
        let count = told.get("stats").and_then(|stats| stats.get(name));
        let count = count.and_then(Value::as_i64).unwrap_or(0);
        u64::try_from(count).unwrap_or(0)
    };
    Changes {
        nodes_created: count("nodes-created"),
        nodes_deleted: count("nodes-deleted"),
        relationships_created: count("relationships-created"),
        relationships_deleted: count("relationships-deleted"),
        properties_set: count("properties-set"),
    }
}

/// A result that is read in batches; dropping it ends the statement.
pub struct Cursor {
    graph: Graph,
    columns: Vec<String>,
    /// None while a call has them, and after one that was stopped.
    rows: Option<Rows>,
}

struct Rows {
    /// None after the end.
    session: Option<Session>,
    /// A row that did not fit into the last answer.
    ahead: Option<String>,
    failed: Option<GraphError>,
}

impl Rows {
    async fn next(&mut self, max: usize) -> Result<Vec<String>, GraphError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut rows = Vec::new();
        let mut bytes = 0;
        if let Some(session) = &mut self.session {
            session.lease.begin();
        }
        while rows.len() < max {
            let row = match (self.ahead.take(), &mut self.session) {
                (Some(row), _) => Ok(Some(row)),
                (None, Some(session)) => session.row().await,
                (None, None) => Ok(None),
            };
            match row {
                Ok(Some(row)) => {
                    bytes += row.len() as u64;
                    if !rows.is_empty() && bytes > ANSWER_BYTES {
                        self.ahead = Some(row);
                        break;
                    }
                    rows.push(row);
                }
                Ok(None) => {
                    self.session = None;
                    break;
                }
                Err(error) => {
                    self.session = None;
                    self.failed = Some(error.clone());
                    if rows.is_empty() {
                        return Err(error);
                    }
                    break;
                }
            }
        }
        Ok(rows)
    }
}

impl Cursor {
    /// The columns' names, in order.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// At most `max` further rows, under 1 MiB unless one row is larger; none at the end.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    pub async fn next(&mut self, max: u32) -> Result<Vec<String>, GraphError> {
        let max = usize::try_from(max.max(1)).unwrap_or(usize::MAX);
        let mut rows = self.rows.take().ok_or_else(closed)?;
        let read = self.graph.on_host(async move {
            let read = rows.next(max).await;
            Ok((rows, read))
        });
        let (rows, read) = read.await?;
        self.rows = Some(rows);
        read
    }
}

/// An open transaction; dropping it rolls it back.
pub struct Transaction {
    graph: Graph,
    /// None while an operation has it, and after one that failed or was stopped.
    session: Option<Session>,
}

impl Transaction {
    async fn step<T, F, O>(&mut self, operation: O) -> Result<T, GraphError>
    where
        T: Send + 'static,
        O: FnOnce(Session) -> F,
        F: Future<Output = (Session, Result<T, GraphError>)> + Send + 'static,
    {
        let mut session = self.session.take().ok_or_else(closed)?;
        session.lease.begin();
        let operation = operation(session);
        let ran = self.graph.on_host(async move { Ok(operation.await) });
        let (session, outcome) = ran.await?;
        // A failure ends the transaction on every server.
        if outcome.is_ok() {
            self.session = Some(session);
        }
        outcome
    }

    /// As [`Graph::query`].
    ///
    /// # Errors
    /// As the WIT's `error` says.
    pub async fn query(&mut self, statement: String, params: String) -> Result<RowSet, GraphError> {
        let run = self.graph.prepare(statement, &params, None);
        self.step(|mut session| async move {
            let outcome = match run {
                Ok(run) => session.query(run).await,
                Err(error) => Err(error),
            };
            (session, outcome)
        })
        .await
    }

    /// As [`Graph::execute`].
    ///
    /// # Errors
    /// As the WIT's `error` says.
    pub async fn execute(
        &mut self,
        statement: String,
        params: String,
    ) -> Result<Changes, GraphError> {
        let run = self.graph.prepare(statement, &params, None);
        self.step(|mut session| async move {
            let outcome = match run {
                Ok(run) => session.execute(run).await,
                Err(error) => Err(error),
            };
            (session, outcome)
        })
        .await
    }

    /// Makes its effects durable.
    ///
    /// # Errors
    /// As the WIT's `error` says; the transaction is rolled back then.
    pub async fn commit(mut self) -> Result<(), GraphError> {
        self.end(true).await
    }

    /// Undoes its effects.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    pub async fn rollback(mut self) -> Result<(), GraphError> {
        self.end(false).await
    }

    async fn end(&mut self, commit: bool) -> Result<(), GraphError> {
        self.step(|mut session| async move {
            let ended = session.lease.wire().end(commit).await;
            let ended = session.told(ended).await;
            (session, ended)
        })
        .await
    }
}
