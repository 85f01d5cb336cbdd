//! What answers in a graph's place in a native test: the closure of the test's context.

use std::cell::RefCell;

use crate::error::CapabilityError;
use crate::graph::{Changes, Value};
use crate::test::{GraphAnswer, state};

type Result<T> = std::result::Result<T, CapabilityError>;
/// Columns and rows.
type RowSet = (Vec<String>, Vec<Vec<Value>>);

#[derive(Debug)]
pub(crate) struct Connection {
    binding: String,
}

impl Connection {
    pub(crate) fn open(binding: &str) -> Result<Self> {
        if state::graph(binding).is_none() {
            return Err(CapabilityError::new(
                "unavailable",
                format!(
                    "a native test has no graph {binding:?}: give heyday_sdk::test::\
                     Context::graph a closure that answers its statements, or test the plugin \
                     on a running Heyday"
                ),
            ));
        }
        Ok(Self {
            binding: binding.to_owned(),
        })
    }

    pub(crate) fn dialect(&self) -> String {
        "kglite".to_owned()
    }

    fn note(&self, statement: &str) {
        state::with(|state| {
            let statements = &mut state.graph_statements;
            let statements = statements.entry(self.binding.clone()).or_default();
            statements.push(statement.to_owned());
        });
    }

    fn answer(&self, statement: &str, params: &[(&str, Value)]) -> Result<GraphAnswer> {
        let Some(handler) = state::graph(&self.binding) else {
            return Err(CapabilityError::new(
                "unavailable",
                "the test context that this connection belongs to has ended",
            ));
        };
        self.note(statement);
        let params = params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        // The state is not borrowed here: the closure may use the SDK itself.
        (handler.borrow_mut())(statement, &params.collect())
    }

    pub(crate) fn query(&self, statement: &str, params: &[(&str, Value)]) -> Result<RowSet> {
        let rows = self.answer(statement, params)?.rows;
        let columns = rows.columns().to_vec();
        Ok((
            columns,
            rows.iter().map(|row| row.values().to_vec()).collect(),
        ))
    }

    pub(crate) fn query_stream(&self, statement: &str, params: &[(&str, Value)]) -> Result<Cursor> {
        let (columns, rows) = self.query(statement, params)?;
        Ok(Cursor {
            columns,
            rows: RefCell::new(rows.into_iter()),
        })
    }

    pub(crate) fn execute(&self, statement: &str, params: &[(&str, Value)]) -> Result<Changes> {
        Ok(self.answer(statement, params)?.changes)
    }

    pub(crate) fn begin(&self) -> Result<Transaction> {
        self.note("BEGIN");
        Ok(Transaction {
            connection: Self {
                binding: self.binding.clone(),
            },
            open: true,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Transaction {
    connection: Connection,
    open: bool,
}

impl Transaction {
    pub(crate) fn query(&self, statement: &str, params: &[(&str, Value)]) -> Result<RowSet> {
        self.connection.query(statement, params)
    }

    pub(crate) fn execute(&self, statement: &str, params: &[(&str, Value)]) -> Result<Changes> {
        self.connection.execute(statement, params)
    }

    #[allow(clippy::unnecessary_wraps)] // the host's can fail
    pub(crate) fn commit(mut self) -> Result<()> {
        self.open = false;
        self.connection.note("COMMIT");
        Ok(())
    }

    #[allow(clippy::unnecessary_wraps)] // the host's can fail
    pub(crate) fn rollback(self) -> Result<()> {
        drop(self);
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open {
            self.connection.note("ROLLBACK");
        }
    }
}

#[derive(Debug)]
pub(crate) struct Cursor {
    columns: Vec<String>,
    rows: RefCell<std::vec::IntoIter<Vec<Value>>>,
}

impl Cursor {
    pub(crate) fn columns(&self) -> Vec<String> {
        self.columns.clone()
    }

    #[allow(clippy::unnecessary_wraps)] // the host's can fail
    pub(crate) fn next(&self, max: u32) -> Result<Vec<Vec<Value>>> {
        Ok(self.rows.borrow_mut().by_ref().take(max as usize).collect())
    }
}
