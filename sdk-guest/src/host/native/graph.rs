//! `graph` in a native test: a closure of the test's, or a graph in memory
//! (`graph/kglite.rs`, with the feature `kglite`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::rc::Rc;

use crate::error::CapabilityError;
use crate::graph::{Changes, Params, Value};
use crate::test::{GraphAnswer, state};

#[cfg(feature = "kglite")]
pub(crate) mod kglite;

type Result<T> = std::result::Result<T, CapabilityError>;
/// Columns and rows.
type RowSet = (Vec<String>, Vec<Vec<Value>>);
/// Rows as they arrive; ends after an error.
type Stream = Box<dyn Iterator<Item = Result<Vec<Value>>>>;

/// What stands in for a graph.
pub(crate) trait Graph {
    fn query(&self, statement: &str, params: Params<'_>) -> Result<RowSet>;
    fn stream(&self, statement: &str, params: Params<'_>) -> Result<(Vec<String>, Stream)>;
    fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes>;
    fn begin(&self) -> Result<Box<dyn Open>>;
}

/// An open transaction of a graph's; dropping it rolls it back.
pub(crate) trait Open {
    fn query(&self, statement: &str, params: Params<'_>) -> Result<RowSet>;
    fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes>;
    fn commit(&self) -> Result<()>;
    fn rollback(&self) -> Result<()>;
}

/// A closure that answers statements.
pub(crate) struct Answering<F>(Rc<RefCell<F>>);

impl<F> Answering<F>
where
    F: FnMut(&str, &BTreeMap<String, Value>) -> Result<GraphAnswer>,
{
    pub(crate) fn new(answer: F) -> Self {
        Self(Rc::new(RefCell::new(answer)))
    }

    fn answer(&self, statement: &str, params: Params<'_>) -> Result<GraphAnswer> {
        let params = params.iter();
        let params: BTreeMap<String, Value> = params
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        // The state is not borrowed here: the closure may use the SDK itself.
        (self.0.borrow_mut())(statement, &params)
    }

    fn rows(&self, statement: &str, params: Params<'_>) -> Result<RowSet> {
        let rows = self.answer(statement, params)?.rows;
        let columns = rows.columns().to_vec();
        let rows = rows.iter().map(|row| row.values().to_vec()).collect();
        Ok((columns, rows))
    }
}

impl<F> Graph for Answering<F>
where
    F: FnMut(&str, &BTreeMap<String, Value>) -> Result<GraphAnswer> + 'static,
{
    fn query(&self, statement: &str, params: Params<'_>) -> Result<RowSet> {
        self.rows(statement, params)
    }

    fn stream(&self, statement: &str, params: Params<'_>) -> Result<(Vec<String>, Stream)> {
        let (columns, rows) = self.rows(statement, params)?;
        Ok((columns, Box::new(rows.into_iter().map(Ok))))
    }

    fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes> {
        Ok(self.answer(statement, params)?.changes)
    }

    fn begin(&self) -> Result<Box<dyn Open>> {
        Ok(Box::new(Self(Rc::clone(&self.0))))
    }
}

impl<F> Open for Answering<F>
where
    F: FnMut(&str, &BTreeMap<String, Value>) -> Result<GraphAnswer>,
{
    fn query(&self, statement: &str, params: Params<'_>) -> Result<RowSet> {
        self.rows(statement, params)
    }

    fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes> {
        Ok(self.answer(statement, params)?.changes)
    }

    fn commit(&self) -> Result<()> {
        Ok(())
    }

    fn rollback(&self) -> Result<()> {
        Ok(())
    }
}

/// Remembers what reached a graph, for the test.
fn note(binding: &str, statement: &str) {
    state::with(|state| {
        let statements = &mut state.graph_statements;
        let statements = statements.entry(binding.to_owned()).or_default();
        statements.push(statement.to_owned());
    });
}

pub(crate) struct Connection {
    binding: String,
    graph: Rc<dyn Graph>,
    /// Held by the connection and its open transaction, if there is one.
    transaction: Rc<()>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connection").field(&self.binding).finish()
    }
}

impl Connection {
    pub(crate) fn open(binding: &str) -> Result<Self> {
        let Some(graph) = state::with(|state| state.graphs.get(binding).cloned()) else {
            return Err(CapabilityError::new(
                "capability-denied",
                format!(
                    "no graph {binding:?} is granted: in a native test, \
                     heyday_sdk::test::Context::kglite grants one (with the SDK's feature \
                     `kglite`), and Context::graph a closure that answers its statements"
                ),
            ));
        };
        Ok(Self {
            binding: binding.to_owned(),
            graph,
            transaction: Rc::new(()),
        })
    }

    pub(crate) fn dialect(&self) -> String {
        "kglite".to_owned()
    }

    pub(crate) fn query(&self, statement: &str, params: Params<'_>) -> Result<RowSet> {
        note(&self.binding, statement);
        self.graph.query(statement, params)
    }

    pub(crate) fn query_stream(&self, statement: &str, params: Params<'_>) -> Result<Cursor> {
        note(&self.binding, statement);
        let (columns, rows) = self.graph.stream(statement, params)?;
        Ok(Cursor {
            columns,
            rows: RefCell::new(rows.peekable()),
        })
    }

    pub(crate) fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes> {
        note(&self.binding, statement);
        self.graph.execute(statement, params)
    }

    pub(crate) fn begin(&self) -> Result<Transaction> {
        if Rc::strong_count(&self.transaction) > 1 {
            return Err(CapabilityError::new(
                "limit-exceeded",
                "a connection has at most one open transaction: commit, roll back or drop it first",
            ));
        }
        note(&self.binding, "BEGIN");
        Ok(Transaction {
            binding: self.binding.clone(),
            transaction: self.graph.begin()?,
            open: true,
            _one: Rc::clone(&self.transaction),
        })
    }
}

pub(crate) struct Transaction {
    binding: String,
    transaction: Box<dyn Open>,
    open: bool,
    _one: Rc<()>,
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Transaction").field(&self.binding).finish()
    }
}

impl Transaction {
    pub(crate) fn query(&self, statement: &str, params: Params<'_>) -> Result<RowSet> {
        note(&self.binding, statement);
        self.transaction.query(statement, params)
    }

    pub(crate) fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes> {
        note(&self.binding, statement);
        self.transaction.execute(statement, params)
    }

    pub(crate) fn commit(mut self) -> Result<()> {
        self.open = false;
        note(&self.binding, "COMMIT");
        self.transaction.commit()
    }

    pub(crate) fn rollback(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.open = false;
        note(&self.binding, "ROLLBACK");
        self.transaction.rollback()
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open {
            // Nobody is told of it on the host either.
            let _ = self.end();
        }
    }
}

pub(crate) struct Cursor {
    columns: Vec<String>,
    rows: RefCell<Peekable<Stream>>,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Cursor");
        shown
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

impl Cursor {
    pub(crate) fn columns(&self) -> Vec<String> {
        self.columns.clone()
    }

    /// Rows before an error are answered before it.
    pub(crate) fn next(&self, max: u32) -> Result<Vec<Vec<Value>>> {
        let mut stream = self.rows.borrow_mut();
        let mut rows = Vec::new();
        while rows.len() < max.max(1) as usize {
            match stream.next_if(|next| rows.is_empty() || next.is_ok()) {
                Some(row) => rows.push(row?),
                None => break,
            }
        }
        Ok(rows)
    }
}
