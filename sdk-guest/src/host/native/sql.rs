//! `sql` in a native test: a closure of the test's, or a SQLite in memory
//! (`sql/sqlite.rs`, with the feature `sqlite`).

use std::cell::RefCell;
use std::iter::Peekable;
use std::rc::Rc;

use crate::error::CapabilityError;
use crate::sql::{Column, Rows, Value};
use crate::test::{SqlAnswer, state};

#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

type Result<T> = std::result::Result<T, CapabilityError>;
/// Columns and rows.
type RowSet = (Vec<Column>, Vec<Vec<Value>>);
/// Rows as they arrive; ends after an error.
type Stream = Box<dyn Iterator<Item = Result<Vec<Value>>>>;

/// What stands in for a database. `within`: in the transaction that is open.
pub(crate) trait Database {
    fn query(&self, within: bool, statement: &str, params: &[Value]) -> Result<RowSet>;
    fn stream(&self, statement: &str, params: &[Value]) -> Result<(Vec<Column>, Stream)>;
    fn execute(&self, within: bool, statement: &str, params: &[Value]) -> Result<u64>;
    fn execute_many(&self, within: bool, statement: &str, lists: &[Vec<Value>]) -> Result<u64>;
    fn begin(&self) -> Result<()>;
    fn commit(&self) -> Result<()>;
    fn rollback(&self) -> Result<()>;
}

/// A closure that answers statements.
pub(crate) struct Answering<F>(RefCell<F>);

impl<F> Answering<F>
where
    F: FnMut(&str, &[Value]) -> Result<SqlAnswer>,
{
    pub(crate) fn new(answer: F) -> Self {
        Self(RefCell::new(answer))
    }

    fn answer(&self, statement: &str, params: &[Value]) -> Result<SqlAnswer> {
        // The state is not borrowed here: the closure may use the SDK itself.
        (self.0.borrow_mut())(statement, params)
    }
}

impl<F> Database for Answering<F>
where
    F: FnMut(&str, &[Value]) -> Result<SqlAnswer>,
{
    fn query(&self, _: bool, statement: &str, params: &[Value]) -> Result<RowSet> {
        Ok(parts(&self.answer(statement, params)?.rows))
    }

    fn stream(&self, statement: &str, params: &[Value]) -> Result<(Vec<Column>, Stream)> {
        let (columns, rows) = self.query(false, statement, params)?;
        Ok((columns, Box::new(rows.into_iter().map(Ok))))
    }

    fn execute(&self, _: bool, statement: &str, params: &[Value]) -> Result<u64> {
        Ok(self.answer(statement, params)?.changed)
    }

    fn execute_many(&self, within: bool, statement: &str, lists: &[Vec<Value>]) -> Result<u64> {
        let changed = lists
            .iter()
            .map(|params| self.execute(within, statement, params));
        changed.sum()
    }

    fn begin(&self) -> Result<()> {
        Ok(())
    }

    fn commit(&self) -> Result<()> {
        Ok(())
    }

    fn rollback(&self) -> Result<()> {
        Ok(())
    }
}

fn parts(rows: &Rows) -> RowSet {
    let columns = rows.columns().to_vec();
    let rows = rows.iter().map(|row| row.values().to_vec()).collect();
    (columns, rows)
}

/// A database under the name of its binding.
#[derive(Clone)]
struct Named {
    binding: String,
    database: Rc<dyn Database>,
}

impl Named {
    /// Remembers what reached it, for the test.
    fn note(&self, statement: &str, times: usize) {
        state::with(|state| {
            let statements = state.statements.entry(self.binding.clone()).or_default();
            statements.extend(std::iter::repeat_n(statement.to_owned(), times));
        });
    }

    fn query(&self, within: bool, statement: &str, params: &[Value]) -> Result<RowSet> {
        self.note(statement, 1);
        self.database.query(within, statement, params)
    }

    fn execute(&self, within: bool, statement: &str, params: &[Value]) -> Result<u64> {
        self.note(statement, 1);
        self.database.execute(within, statement, params)
    }

    fn execute_many(&self, within: bool, statement: &str, lists: &[Vec<Value>]) -> Result<u64> {
        self.note(statement, lists.len());
        self.database.execute_many(within, statement, lists)
    }
}

pub(crate) struct Connection {
    named: Named,
    /// Held by the connection and its open transaction, if there is one.
    transaction: Rc<()>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connection")
            .field(&self.named.binding)
            .finish()
    }
}

impl Connection {
    pub(crate) fn open(binding: &str) -> Result<Self> {
        let Some(database) = state::with(|state| state.sql.get(binding).cloned()) else {
            return Err(CapabilityError::new(
                "capability-denied",
                format!(
                    "no database {binding:?} is granted: in a native test, \
                     heyday_sdk::test::Context::sqlite grants one (with the SDK's feature \
                     `sqlite`), and Context::sql a closure that answers its statements"
                ),
            ));
        };
        Ok(Self {
            named: Named {
                binding: binding.to_owned(),
                database,
            },
            transaction: Rc::new(()),
        })
    }

    pub(crate) fn dialect(&self) -> String {
        "sqlite".to_owned()
    }

    pub(crate) fn query(&self, statement: &str, params: &[Value]) -> Result<RowSet> {
        self.named.query(false, statement, params)
    }

    pub(crate) fn query_stream(&self, statement: &str, params: &[Value]) -> Result<Cursor> {
        self.named.note(statement, 1);
        let (columns, rows) = self.named.database.stream(statement, params)?;
        Ok(Cursor {
            columns,
            rows: RefCell::new(rows.peekable()),
        })
    }

    pub(crate) fn execute(&self, statement: &str, params: &[Value]) -> Result<u64> {
        self.named.execute(false, statement, params)
    }

    pub(crate) fn execute_many(&self, statement: &str, lists: &[Vec<Value>]) -> Result<u64> {
        self.named.execute_many(false, statement, lists)
    }

    pub(crate) fn begin(&self) -> Result<Transaction> {
        if Rc::strong_count(&self.transaction) > 1 {
            return Err(CapabilityError::new(
                "limit-exceeded",
                "a connection has at most one open transaction: commit, roll back or drop it first",
            ));
        }
        self.named.note("BEGIN", 1);
        self.named.database.begin()?;
        Ok(Transaction {
            named: self.named.clone(),
            open: true,
            _one: Rc::clone(&self.transaction),
        })
    }
}

pub(crate) struct Transaction {
    named: Named,
    open: bool,
    _one: Rc<()>,
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Transaction")
            .field(&self.named.binding)
            .finish()
    }
}

impl Transaction {
    pub(crate) fn query(&self, statement: &str, params: &[Value]) -> Result<RowSet> {
        self.named.query(true, statement, params)
    }

    pub(crate) fn execute(&self, statement: &str, params: &[Value]) -> Result<u64> {
        self.named.execute(true, statement, params)
    }

    pub(crate) fn execute_many(&self, statement: &str, lists: &[Vec<Value>]) -> Result<u64> {
        self.named.execute_many(true, statement, lists)
    }

    pub(crate) fn commit(mut self) -> Result<()> {
        self.open = false;
        self.named.note("COMMIT", 1);
        self.named.database.commit()
    }

    pub(crate) fn rollback(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.open = false;
        self.named.note("ROLLBACK", 1);
        self.named.database.rollback()
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
    columns: Vec<Column>,
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
    pub(crate) fn columns(&self) -> Vec<Column> {
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
