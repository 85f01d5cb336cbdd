//! Calls of the bindings of `heyday:graph`.

use crate::bindings::graph::heyday::graph::graph as wit;
use crate::error::CapabilityError;
use crate::graph::{Changes, Value, decode, encode};

type Result<T> = std::result::Result<T, CapabilityError>;
/// Columns and rows.
type RowSet = (Vec<String>, Vec<Vec<Value>>);

fn error(error: wit::Error) -> CapabilityError {
    convert_error!(error)
}

fn rows(rows: Vec<String>) -> Result<Vec<Vec<Value>>> {
    rows.iter().map(|row| decode(row)).collect()
}

fn row_set(set: wit::RowSet) -> Result<RowSet> {
    Ok((set.columns, rows(set.rows)?))
}

fn changes(changes: wit::Changes) -> Changes {
    Changes {
        nodes_created: changes.nodes_created,
        nodes_deleted: changes.nodes_deleted,
        relationships_created: changes.relationships_created,
        relationships_deleted: changes.relationships_deleted,
        properties_set: changes.properties_set,
    }
}

#[derive(Debug)]
pub(crate) struct Connection(wit::Connection);

impl Connection {
    pub(crate) fn open(binding: &str) -> Result<Self> {
        wit::Connection::open(binding).map(Self).map_err(error)
    }

    pub(crate) fn dialect(&self) -> String {
        self.0.dialect()
    }

    pub(crate) fn query(&self, statement: &str, params: &[(&str, Value)]) -> Result<RowSet> {
        let set = self.0.query(statement, &encode(params)).map_err(error)?;
        row_set(set)
    }

    pub(crate) fn query_stream(&self, statement: &str, params: &[(&str, Value)]) -> Result<Cursor> {
        let cursor = self.0.query_stream(statement, &encode(params));
        cursor.map(Cursor).map_err(error)
    }

    pub(crate) fn execute(&self, statement: &str, params: &[(&str, Value)]) -> Result<Changes> {
        let changed = self.0.execute(statement, &encode(params));
        changed.map(changes).map_err(error)
    }

    pub(crate) fn begin(&self) -> Result<Transaction> {
        self.0.begin().map(Transaction).map_err(error)
    }
}

#[derive(Debug)]
pub(crate) struct Transaction(wit::Transaction);

impl Transaction {
    pub(crate) fn query(&self, statement: &str, params: &[(&str, Value)]) -> Result<RowSet> {
        let set = self.0.query(statement, &encode(params)).map_err(error)?;
        row_set(set)
    }

    pub(crate) fn execute(&self, statement: &str, params: &[(&str, Value)]) -> Result<Changes> {
        let changed = self.0.execute(statement, &encode(params));
        changed.map(changes).map_err(error)
    }

    pub(crate) fn commit(self) -> Result<()> {
        self.0.commit().map_err(error)
    }

    pub(crate) fn rollback(self) -> Result<()> {
        self.0.rollback().map_err(error)
    }
}

#[derive(Debug)]
pub(crate) struct Cursor(wit::Cursor);

impl Cursor {
    pub(crate) fn columns(&self) -> Vec<String> {
        self.0.columns()
    }

    pub(crate) fn next(&self, max: u32) -> Result<Vec<Vec<Value>>> {
        rows(self.0.next(max).map_err(error)?)
    }
}
