//! The host functions of `heyday:graph`: from the guest's handles to [`Graph`].

use std::any::Any;
use std::sync::Arc;

use heyday_sandbox::{CallState, Capability, HeldShare, HostCall};
use wasmtime::component::{HasSelf, Linker, Resource};

use super::{Changes, Cursor, Graph, GraphCode, GraphError, RowSet, Transaction};
use crate::Mode;
use crate::bindings::Bindings;
use crate::call::{Budget, Opened, Place, Scope, bound, bound_by, open};
use crate::error::{Fault, answer, noted, run};

/// Generated from `wit/graph`.
pub mod bindings {
    #![allow(missing_docs, clippy::all)]

    wasmtime::component::bindgen!({
        path: "../../wit/graph",
        world: "imports",
        imports: { default: async | trappable },
        trappable_error_type: { "heyday:graph/graph.error" => super::GraphFault },
        with: {
            "heyday:graph/graph.connection": super::ConnectionHandle,
            "heyday:graph/graph.cursor": super::CursorHandle,
            "heyday:graph/graph.transaction": super::TransactionHandle,
        },
        additional_derives: [PartialEq],
    });
}

use bindings::heyday::graph::graph;

type GraphFault = Fault<GraphCode>;

const NAME: &str = "graph";

/// The capability `graph`.
pub struct GraphCapability {
    bindings: Arc<Bindings>,
}

impl GraphCapability {
    /// Serves these bindings.
    #[must_use]
    pub fn new(bindings: Arc<Bindings>) -> Self {
        Self { bindings }
    }
}

impl Capability for GraphCapability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interfaces(&self) -> &'static [&'static str] {
        &["heyday:graph/graph"]
    }

    fn link(&self, linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
        graph::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state)
    }

    fn prepare(&self, _plugin: &str, namespace: &str) -> Box<dyn Any + Send> {
        Box::new(Scope::new(&self.bindings, namespace))
    }
}

/// Of what an attempt may hold so many open.
const OPEN: &str = "cursors and transactions";

/// What stands behind a guest's `connection`.
pub struct ConnectionHandle {
    /// The binding's.
    name: Arc<str>,
    graph: Arc<Graph>,
    mode: Mode,
    budget: Arc<Budget>,
    /// Held by the connection and its open transaction, if there is one.
    transaction: Arc<()>,
}

/// What stands behind a guest's `cursor`.
pub struct CursorHandle {
    /// The binding's.
    name: Arc<str>,
    /// None while a call has it, and after one that was stopped.
    cursor: Option<Cursor>,
    columns: Vec<String>,
    limit: u64,
    budget: Arc<Budget>,
    _place: Place,
    /// The attempt waits for the binding as long as it has this open.
    _share: Option<Arc<HeldShare>>,
}

/// What stands behind a guest's `transaction`.
pub struct TransactionHandle {
    /// The binding's.
    name: Arc<str>,
    /// None while a call has it, after its end, and after a call that was stopped.
    transaction: Option<Transaction>,
    limit: u64,
    budget: Arc<Budget>,
    _one: Arc<()>,
    _place: Place,
    /// The attempt waits for the binding as long as it has this open.
    _share: Option<Arc<HeldShare>>,
}

bound_by!(ConnectionHandle: name, CursorHandle: name, TransactionHandle: name);

/// Adds what was read to the attempt's sum and the receipt.
fn account(
    state: &mut CallState,
    budget: &Budget,
    limit: u64,
    rows: &[String],
) -> Result<(), GraphFault> {
    let bytes = rows.iter().map(|row| row.len() as u64).sum();
    state.count("graph.rows", rows.len() as u64);
    state.count("graph.bytes_read", bytes);
    Ok(budget.take(bytes, limit)?)
}

fn begin(state: &mut CallState, function: &'static str) -> Result<HostCall, GraphFault> {
    let call = state.host_call(NAME, function)?;
    state.count("graph.calls", 1);
    Ok(call)
}

impl graph::Host for CallState {
    fn convert_error(&mut self, fault: GraphFault) -> wasmtime::Result<graph::Error> {
        answer!(self, NAME, fault, graph::Error)
    }
}

impl graph::HostConnection for CallState {
    async fn open(&mut self, binding: String) -> Result<Resource<ConnectionHandle>, GraphFault> {
        let call = begin(self, "connection.open")?;
        let Opened {
            binding: graph,
            mode,
            budget,
            name,
        } = open(self, &call, NAME, "graph", &binding, Bindings::graph)?;
        let handle = ConnectionHandle {
            name,
            graph,
            mode,
            budget,
            transaction: Arc::new(()),
        };
        Ok(self.table().push(handle)?)
    }

    async fn dialect(&mut self, this: Resource<ConnectionHandle>) -> wasmtime::Result<String> {
        self.host_call(NAME, "connection.dialect")?;
        Ok(self.table().get(&this)?.graph.dialect().to_owned())
    }

    async fn query(
        &mut self,
        this: Resource<ConnectionHandle>,
        statement: String,
        params: String,
    ) -> Result<RowSet, GraphFault> {
        let call = begin(self, "connection.query")?;
        let handle = bound(self, &this)?;
        call.database(handle.graph.dialect(), "query");
        let (graph, mode) = (Arc::clone(&handle.graph), handle.mode);
        let budget = Arc::clone(&handle.budget);
        let set = run(&call, graph.query(mode, statement, params)).await?;
        account(self, &budget, graph.limits().attempt_bytes, &set.rows)?;
        Ok(set)
    }

    async fn query_stream(
        &mut self,
        this: Resource<ConnectionHandle>,
        statement: String,
        params: String,
    ) -> Result<Resource<CursorHandle>, GraphFault> {
        let call = begin(self, "connection.query-stream")?;
        let handle = bound(self, &this)?;
        call.database(handle.graph.dialect(), "query-stream");
        let graph = Arc::clone(&handle.graph);
        let budget = Arc::clone(&handle.budget);
        let name = Arc::clone(&handle.name);
        let place = Place::take(&budget, graph.limits().open_handles, OPEN)?;
        let cursor = run(&call, graph.stream(statement, params)).await?;
        let handle = CursorHandle {
            name,
            columns: cursor.columns().to_vec(),
            cursor: Some(cursor),
            limit: graph.limits().attempt_bytes,
            budget,
            _place: place,
            _share: call.share(),
        };
        Ok(self.table().push(handle)?)
    }

    async fn execute(
        &mut self,
        this: Resource<ConnectionHandle>,
        statement: String,
        params: String,
    ) -> Result<Changes, GraphFault> {
        let call = begin(self, "connection.execute")?;
        let handle = bound(self, &this)?;
        call.database(handle.graph.dialect(), "execute");
        let (graph, mode) = (Arc::clone(&handle.graph), handle.mode);
        self.count("graph.bytes_written", params.len() as u64);
        run(&call, graph.execute(mode, statement, params)).await
    }

    async fn begin(
        &mut self,
        this: Resource<ConnectionHandle>,
    ) -> Result<Resource<TransactionHandle>, GraphFault> {
        let call = begin(self, "connection.begin")?;
        let handle = bound(self, &this)?;
        call.database(handle.graph.dialect(), "begin");
        if Arc::strong_count(&handle.transaction) > 1 {
            return Err(GraphError::new(
                GraphCode::LimitExceeded,
                "a connection has at most one open transaction: commit, roll back or drop it \
                 first",
            )
            .into());
        }
        let (graph, mode) = (Arc::clone(&handle.graph), handle.mode);
        let budget = Arc::clone(&handle.budget);
        let one = Arc::clone(&handle.transaction);
        let name = Arc::clone(&handle.name);
        let place = Place::take(&budget, graph.limits().open_handles, OPEN)?;
        let transaction = run(&call, graph.begin(mode)).await?;
        let handle = TransactionHandle {
            name,
            transaction: Some(transaction),
            limit: graph.limits().attempt_bytes,
            budget,
            _one: one,
            _place: place,
            _share: call.share(),
        };
        Ok(self.table().push(handle)?)
    }

    async fn drop(&mut self, this: Resource<ConnectionHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

impl graph::HostCursor for CallState {
    async fn columns(&mut self, this: Resource<CursorHandle>) -> wasmtime::Result<Vec<String>> {
        self.host_call(NAME, "cursor.columns")?;
        Ok(self.table().get(&this)?.columns.clone())
    }

    async fn next(
        &mut self,
        this: Resource<CursorHandle>,
        max: u32,
    ) -> Result<Vec<String>, GraphFault> {
        let call = begin(self, "cursor.next")?;
        let handle = bound(self, &this)?;
        let (limit, budget) = (handle.limit, Arc::clone(&handle.budget));
        let mut cursor = handle.cursor.take().ok_or_else(|| {
            GraphError::new(
                GraphCode::Cancelled,
                "the cursor was closed when an earlier call of it was stopped",
            )
        })?;
        let rows = call.run(cursor.next(max)).await?;
        self.table().get_mut(&this)?.cursor = Some(cursor);
        let rows = noted(&call, rows)?;
        account(self, &budget, limit, &rows)?;
        Ok(rows)
    }

    async fn drop(&mut self, this: Resource<CursorHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

/// Takes the transaction out of its handle: a call that is stopped drops it, which
/// rolls it back.
fn take(
    state: &mut CallState,
    this: &Resource<TransactionHandle>,
) -> Result<Transaction, GraphFault> {
    let handle = bound(state, this)?;
    let transaction = handle.transaction.take();
    Ok(transaction.ok_or_else(super::error::closed)?)
}

impl graph::HostTransaction for CallState {
    async fn query(
        &mut self,
        this: Resource<TransactionHandle>,
        statement: String,
        params: String,
    ) -> Result<RowSet, GraphFault> {
        let call = begin(self, "transaction.query")?;
        let mut transaction = take(self, &this)?;
        let outcome = call.run(transaction.query(statement, params)).await?;
        let handle = bound(self, &this)?;
        handle.transaction = Some(transaction);
        let (limit, budget) = (handle.limit, Arc::clone(&handle.budget));
        let set = noted(&call, outcome)?;
        account(self, &budget, limit, &set.rows)?;
        Ok(set)
    }

    async fn execute(
        &mut self,
        this: Resource<TransactionHandle>,
        statement: String,
        params: String,
    ) -> Result<Changes, GraphFault> {
        let call = begin(self, "transaction.execute")?;
        let mut transaction = take(self, &this)?;
        self.count("graph.bytes_written", params.len() as u64);
        let outcome = call.run(transaction.execute(statement, params)).await?;
        self.table().get_mut(&this)?.transaction = Some(transaction);
        Ok(noted(&call, outcome)?)
    }

    async fn commit(&mut self, this: Resource<TransactionHandle>) -> Result<(), GraphFault> {
        let call = begin(self, "transaction.commit")?;
        let transaction = take(self, &this)?;
        run(&call, transaction.commit()).await
    }

    async fn rollback(&mut self, this: Resource<TransactionHandle>) -> Result<(), GraphFault> {
        let call = begin(self, "transaction.rollback")?;
        let transaction = take(self, &this)?;
        run(&call, transaction.rollback()).await
    }

    async fn drop(&mut self, this: Resource<TransactionHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}
