//! The host functions of `heyday:sql`: from the guest's handles to [`Database`].

use std::any::Any;
use std::sync::Arc;

use heyday_sandbox::{CallState, Capability, HeldShare, HostCall};
use wasmtime::component::{HasSelf, Linker, Resource};

use super::{
    Access, Column, Cursor, Database, RowSet, Rows, SqlCode, SqlError, Transaction, Value,
    value_bytes,
};
use crate::bindings::Bindings;
use crate::call::{Budget, Opened, Place, Scope, bound, bound_by, open};
use crate::error::{Fault, answer, noted, run};

/// Generated from `wit/sql`.
pub mod bindings {
    #![allow(missing_docs, clippy::all)]

    wasmtime::component::bindgen!({
        path: "../../wit/sql",
        world: "imports",
        imports: { default: async | trappable },
        trappable_error_type: { "heyday:sql/sql.error" => super::SqlFault },
        with: {
            "heyday:sql/sql.connection": super::ConnectionHandle,
            "heyday:sql/sql.cursor": super::CursorHandle,
            "heyday:sql/sql.transaction": super::TransactionHandle,
        },
        additional_derives: [PartialEq],
    });
}

use bindings::heyday::sql::sql;

type SqlFault = Fault<SqlCode>;

const NAME: &str = "sql";

/// The capability `sql`.
pub struct SqlCapability {
    bindings: Arc<Bindings>,
}

impl SqlCapability {
    /// Serves these bindings.
    #[must_use]
    pub fn new(bindings: Arc<Bindings>) -> Self {
        Self { bindings }
    }
}

impl Capability for SqlCapability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interfaces(&self) -> &'static [&'static str] {
        &["heyday:sql/sql"]
    }

    fn link(&self, linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
        sql::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state)
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
    database: Arc<dyn Database>,
    access: Access,
    budget: Arc<Budget>,
    /// Held by the connection and its open transaction, if there is one.
    transaction: Arc<()>,
}

/// What stands behind a guest's `cursor`.
pub struct CursorHandle {
    /// The binding's.
    name: Arc<str>,
    /// None while a call has it, and after one that was stopped.
    cursor: Option<Box<dyn Cursor>>,
    columns: Vec<Column>,
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
    transaction: Option<Box<dyn Transaction>>,
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
    rows: &Rows,
) -> Result<(), SqlFault> {
    let bytes = rows.iter().flatten().map(value_bytes).sum();
    state.count("sql.rows", rows.len() as u64);
    state.count("sql.bytes_read", bytes);
    Ok(budget.take(bytes, limit)?)
}

fn begin(state: &mut CallState, function: &'static str) -> Result<HostCall, SqlFault> {
    let call = state.host_call(NAME, function)?;
    state.count("sql.calls", 1);
    Ok(call)
}

fn written(params: &[Value]) -> u64 {
    params.iter().map(value_bytes).sum()
}

impl sql::Host for CallState {
    fn convert_error(&mut self, fault: SqlFault) -> wasmtime::Result<sql::Error> {
        answer!(self, NAME, fault, sql::Error)
    }
}

impl sql::HostConnection for CallState {
    async fn open(&mut self, binding: String) -> Result<Resource<ConnectionHandle>, SqlFault> {
        let call = begin(self, "connection.open")?;
        let Opened {
            binding: database,
            mode,
            budget,
            name,
        } = open(self, &call, NAME, "database", &binding, Bindings::database)?;
        let handle = ConnectionHandle {
            name,
            database,
            access: if mode == crate::Mode::ReadOnly {
                Access::Read
            } else {
                Access::Write
            },
            budget,
            transaction: Arc::new(()),
        };
        Ok(self.table().push(handle)?)
    }

    async fn dialect(&mut self, this: Resource<ConnectionHandle>) -> wasmtime::Result<String> {
        self.host_call(NAME, "connection.dialect")?;
        Ok(self.table().get(&this)?.database.dialect().to_owned())
    }

    async fn query(
        &mut self,
        this: Resource<ConnectionHandle>,
        statement: String,
        params: Vec<Value>,
    ) -> Result<RowSet, SqlFault> {
        let call = begin(self, "connection.query")?;
        let handle = bound(self, &this)?;
        call.database(handle.database.dialect(), "query");
        let (database, access) = (Arc::clone(&handle.database), handle.access);
        let budget = Arc::clone(&handle.budget);
        let set = run(&call, database.query(access, statement, params)).await?;
        account(self, &budget, database.limits().attempt_bytes, &set.rows)?;
        Ok(set)
    }

    async fn query_stream(
        &mut self,
        this: Resource<ConnectionHandle>,
        statement: String,
        params: Vec<Value>,
    ) -> Result<Resource<CursorHandle>, SqlFault> {
        let call = begin(self, "connection.query-stream")?;
        let handle = bound(self, &this)?;
        call.database(handle.database.dialect(), "query-stream");
        let (database, access) = (Arc::clone(&handle.database), handle.access);
        let budget = Arc::clone(&handle.budget);
        let name = Arc::clone(&handle.name);
        let place = Place::take(&budget, database.limits().open_handles, OPEN)?;
        let cursor = run(&call, database.stream(access, statement, params)).await?;
        let handle = CursorHandle {
            name,
            columns: cursor.columns().to_vec(),
            cursor: Some(cursor),
            limit: database.limits().attempt_bytes,
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
        params: Vec<Value>,
    ) -> Result<u64, SqlFault> {
        let call = begin(self, "connection.execute")?;
        let handle = bound(self, &this)?;
        call.database(handle.database.dialect(), "execute");
        let (database, access) = (Arc::clone(&handle.database), handle.access);
        self.count("sql.bytes_written", written(&params));
        run(&call, database.execute(access, statement, params)).await
    }

    async fn execute_many(
        &mut self,
        this: Resource<ConnectionHandle>,
        statement: String,
        params: Vec<Vec<Value>>,
    ) -> Result<u64, SqlFault> {
        let call = begin(self, "connection.execute-many")?;
        let handle = bound(self, &this)?;
        call.database(handle.database.dialect(), "execute-many");
        let (database, access) = (Arc::clone(&handle.database), handle.access);
        let bytes = params.iter().map(|params| written(params)).sum();
        self.count("sql.bytes_written", bytes);
        run(&call, database.execute_many(access, statement, params)).await
    }

    async fn begin(
        &mut self,
        this: Resource<ConnectionHandle>,
    ) -> Result<Resource<TransactionHandle>, SqlFault> {
        let call = begin(self, "connection.begin")?;
        let handle = bound(self, &this)?;
        call.database(handle.database.dialect(), "begin");
        if Arc::strong_count(&handle.transaction) > 1 {
            return Err(SqlError::new(
                SqlCode::LimitExceeded,
                "a connection has at most one open transaction: commit, roll back or drop it \
                 first",
            )
            .into());
        }
        let (database, access) = (Arc::clone(&handle.database), handle.access);
        let budget = Arc::clone(&handle.budget);
        let one = Arc::clone(&handle.transaction);
        let name = Arc::clone(&handle.name);
        let place = Place::take(&budget, database.limits().open_handles, OPEN)?;
        let transaction = run(&call, database.begin(access)).await?;
        let handle = TransactionHandle {
            name,
            transaction: Some(transaction),
            limit: database.limits().attempt_bytes,
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

impl sql::HostCursor for CallState {
    async fn columns(&mut self, this: Resource<CursorHandle>) -> wasmtime::Result<Vec<Column>> {
        self.host_call(NAME, "cursor.columns")?;
        Ok(self.table().get(&this)?.columns.clone())
    }

    async fn next(&mut self, this: Resource<CursorHandle>, max: u32) -> Result<Rows, SqlFault> {
        let call = begin(self, "cursor.next")?;
        let handle = bound(self, &this)?;
        let (limit, budget) = (handle.limit, Arc::clone(&handle.budget));
        let mut cursor = handle.cursor.take().ok_or_else(|| {
            SqlError::new(
                SqlCode::Cancelled,
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
) -> Result<Box<dyn Transaction>, SqlFault> {
    let handle = bound(state, this)?;
    let transaction = handle.transaction.take().ok_or_else(|| {
        SqlError::new(
            SqlCode::TransactionClosed,
            "the transaction was already committed or rolled back",
        )
    })?;
    Ok(transaction)
}

impl sql::HostTransaction for CallState {
    async fn query(
        &mut self,
        this: Resource<TransactionHandle>,
        statement: String,
        params: Vec<Value>,
    ) -> Result<RowSet, SqlFault> {
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
        params: Vec<Value>,
    ) -> Result<u64, SqlFault> {
        let call = begin(self, "transaction.execute")?;
        let mut transaction = take(self, &this)?;
        self.count("sql.bytes_written", written(&params));
        let outcome = call.run(transaction.execute(statement, params)).await?;
        self.table().get_mut(&this)?.transaction = Some(transaction);
        Ok(noted(&call, outcome)?)
    }

    async fn execute_many(
        &mut self,
        this: Resource<TransactionHandle>,
        statement: String,
        params: Vec<Vec<Value>>,
    ) -> Result<u64, SqlFault> {
        let call = begin(self, "transaction.execute-many")?;
        let mut transaction = take(self, &this)?;
        let bytes = params.iter().map(|params| written(params)).sum();
        self.count("sql.bytes_written", bytes);
        let outcome = call
            .run(transaction.execute_many(statement, params))
            .await?;
        self.table().get_mut(&this)?.transaction = Some(transaction);
        Ok(noted(&call, outcome)?)
    }

    async fn commit(&mut self, this: Resource<TransactionHandle>) -> Result<(), SqlFault> {
        let call = begin(self, "transaction.commit")?;
        let transaction = take(self, &this)?;
        run(&call, transaction.commit()).await
    }

    async fn rollback(&mut self, this: Resource<TransactionHandle>) -> Result<(), SqlFault> {
        let call = begin(self, "transaction.rollback")?;
        let transaction = take(self, &this)?;
        run(&call, transaction.rollback()).await
    }

    async fn drop(&mut self, this: Resource<TransactionHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}
