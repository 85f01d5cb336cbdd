//! Relational databases: statements with bound parameters, in the dialect that
//! [`Connection::dialect`] names.
//!
//! ```
//! use heyday_sdk::prelude::*;
//!
//! fn adults() -> Result<Vec<String>> {
//!     let db = sql::Connection::open("default")?;
//!     let rows = db.query("SELECT name FROM people WHERE age >= ?1", params![18])?;
//!     rows.iter().map(|row| Ok(row.get("name")?)).collect()
//! }
//!
//! // In a native test a closure answers, or a SQLite in memory (`test::Context::sqlite`).
//! let _test = heyday_sdk::test::Context::new()
//!     .sql("default", |statement, params| {
//!         assert!(statement.starts_with("SELECT") && params == params![18]);
//!         Ok(sql::Rows::new(["name"], [vec!["Ada".into()]]).into())
//!     })
//!     .enter();
//! assert_eq!(adults().unwrap(), ["Ada"]);
//! ```
//!
//! A large result is read as it arrives with [`Connection::query_stream`]; what belongs
//! together goes into a [`Transaction`], which is rolled back unless it is committed. What
//! must happen once, however many attempts it takes, goes through [`Connection::once`].

mod once;
mod value;

use std::rc::Rc;

use crate::error::CapabilityError;
use crate::host::sql as host;

pub use value::{FromValue, Value};

/// Why a statement failed; `wit/sql` explains the codes.
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// Rows that a stream asks for at once; the host answers fewer where they are large.
const BATCH: u32 = 1_000;

/// Makes the list of parameters that a statement takes, from values of any type that
/// converts into a [`Value`].
///
/// ```
/// use heyday_sdk::prelude::*;
/// let name = String::from("Ada");
/// assert_eq!(params![&name, 36, None::<i64>].len(), 3);
/// ```
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::sql::Value::from($value)),*] as &[$crate::sql::Value]
    };
}

/// One column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name, as the statement gives it.
    pub name: String,
    /// The type that the database declares, lower case; empty where it has none.
    pub declared_type: String,
}

/// All rows of a result.
#[derive(Debug, Clone)]
pub struct Rows {
    columns: Rc<[Column]>,
    rows: Vec<Row>,
}

impl Rows {
    /// A result of given columns and rows; for tests.
    pub fn new<N: Into<String>>(
        columns: impl IntoIterator<Item = N>,
        rows: impl IntoIterator<Item = Vec<Value>>,
    ) -> Self {
        let columns = columns
            .into_iter()
            .map(|name| Column {
                name: name.into(),
                declared_type: String::new(),
            })
            .collect();
        Self::from_parts(columns, rows.into_iter().collect())
    }

    pub(crate) fn from_parts(columns: Vec<Column>, rows: Vec<Vec<Value>>) -> Self {
        let columns: Rc<[Column]> = columns.into();
        let rows = rows
            .into_iter()
            .map(|values| Row {
                columns: Rc::clone(&columns),
                values,
            })
            .collect();
        Self { columns, rows }
    }

    /// The columns, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The first row.
    #[must_use]
    pub fn first(&self) -> Option<&Row> {
        self.rows.first()
    }

    /// The rows, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Row> {
        self.rows.iter()
    }
}

impl IntoIterator for Rows {
    type Item = Row;
    type IntoIter = std::vec::IntoIter<Row>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

impl<'a> IntoIterator for &'a Rows {
    type Item = &'a Row;
    type IntoIter = std::slice::Iter<'a, Row>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    columns: Rc<[Column]>,
    values: Vec<Value>,
}

impl Row {
    /// The value of a column, named by its position from 0 or by its name.
    ///
    /// # Errors
    /// `invalid-column` where there is no such column, or its value is no `T`; use
    /// `Option<T>` where it may be NULL.
    pub fn get<T: FromValue>(&self, column: impl ColumnIndex) -> Result<T> {
        let index = column.position(&self.columns)?;
        let value = self.values.get(index).ok_or_else(|| {
            Error::new(
                "invalid-column",
                format!(
                    "there is no column {index}; the row has {}",
                    self.values.len()
                ),
            )
        })?;
        T::from_value(value).ok_or_else(|| {
            Error::new(
                "invalid-column",
                format!(
                    "column {:?} holds {}, which is no {}",
                    self.columns.get(index).map_or("", |column| &column.name),
                    value.type_name(),
                    std::any::type_name::<T>()
                ),
            )
        })
    }

    /// The values, in the order of the columns.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The columns, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }
}

/// What names a column: its position from 0, or its name.
pub trait ColumnIndex {
    /// The position of the column.
    ///
    /// # Errors
    /// `invalid-column` where there is none.
    fn position(&self, columns: &[Column]) -> Result<usize>;
}

impl ColumnIndex for usize {
    fn position(&self, _: &[Column]) -> Result<usize> {
        Ok(*self)
    }
}

impl ColumnIndex for &str {
    fn position(&self, columns: &[Column]) -> Result<usize> {
        columns
            .iter()
            .position(|column| column.name == *self)
            .ok_or_else(|| {
                let names: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
                Error::new(
                    "invalid-column",
                    format!(
                        "there is no column {self:?}; there are: {}",
                        names.join(", ")
                    ),
                )
            })
    }
}

/// A granted database.
#[derive(Debug)]
pub struct Connection {
    host: Rc<host::Connection>,
}

impl Connection {
    /// Opens the binding of this name; `default` is the usual one.
    ///
    /// # Errors
    /// `capability-denied` without a grant, `unknown-binding`, `unavailable`.
    pub fn open(binding: &str) -> Result<Self> {
        Ok(Self {
            host: Rc::new(host::Connection::open(binding)?),
        })
    }

    /// `sqlite` or `postgresql`; others may come.
    #[must_use]
    pub fn dialect(&self) -> String {
        self.host.dialect()
    }

    /// Runs one statement and answers all its rows. Parameters are `?1`, `?2`, ... on
    /// SQLite and `$1`, `$2`, ... on PostgreSQL; [`params!`](crate::params) makes them.
    ///
    /// # Errors
    /// As `wit/sql` says; `limit-exceeded` where the rows are more than the binding
    /// allows in one answer.
    pub fn query(&self, statement: &str, params: &[Value]) -> Result<Rows> {
        let (columns, rows) = self.host.query(statement, params)?;
        Ok(Rows::from_parts(columns, rows))
    }

    /// Runs one query and answers its rows as they arrive, so that a result larger than
    /// the guest's memory can be read.
    ///
    /// # Errors
    /// As `wit/sql` says; each row may answer one too.
    pub fn query_stream(&self, statement: &str, params: &[Value]) -> Result<RowStream> {
        let cursor = self.host.query_stream(statement, params)?;
        let columns = cursor.columns().into();
        Ok(RowStream {
            cursor,
            columns,
            batch: Vec::new().into_iter(),
            ended: false,
            _connection: Rc::clone(&self.host),
        })
    }

    /// Runs one statement and answers how many rows it changed.
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn execute(&self, statement: &str, params: &[Value]) -> Result<u64> {
        self.host.execute(statement, params)
    }

    /// Runs one statement once per list of parameters, all or nothing, and answers how
    /// many rows were changed in total.
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn execute_many(&self, statement: &str, params: &[Vec<Value>]) -> Result<u64> {
        self.host.execute_many(statement, params)
    }

    /// Begins a transaction; at most one is open per connection.
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn begin(&self) -> Result<Transaction> {
        Ok(Transaction {
            host: self.host.begin()?,
            _connection: Rc::clone(&self.host),
        })
    }
}

/// An open transaction. Dropping it, and a failure or end of the activity, rolls it back.
#[derive(Debug)]
pub struct Transaction {
    // Dropped before the connection it belongs to.
    host: host::Transaction,
    _connection: Rc<host::Connection>,
}

impl Transaction {
    /// As [`Connection::query`], inside the transaction.
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn query(&self, statement: &str, params: &[Value]) -> Result<Rows> {
        let (columns, rows) = self.host.query(statement, params)?;
        Ok(Rows::from_parts(columns, rows))
    }

    /// As [`Connection::execute`], inside the transaction.
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn execute(&self, statement: &str, params: &[Value]) -> Result<u64> {
        self.host.execute(statement, params)
    }

    /// As [`Connection::execute_many`], inside the transaction.
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn execute_many(&self, statement: &str, params: &[Vec<Value>]) -> Result<u64> {
        self.host.execute_many(statement, params)
    }

    /// Makes its effects durable.
    ///
    /// # Errors
    /// As `wit/sql` says; `conflict` where it lost against another transaction.
    pub fn commit(self) -> Result<()> {
        self.host.commit()
    }

    /// Undoes its effects.
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn rollback(self) -> Result<()> {
        self.host.rollback()
    }
}

/// Rows as they arrive. Ends after the first error.
#[derive(Debug)]
pub struct RowStream {
    cursor: host::Cursor,
    columns: Rc<[Column]>,
    batch: std::vec::IntoIter<Vec<Value>>,
    ended: bool,
    _connection: Rc<host::Connection>,
}

impl RowStream {
    /// The columns, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }
}

impl Iterator for RowStream {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.batch.len() == 0 && !self.ended {
            match self.cursor.next(BATCH) {
                Ok(rows) => {
                    self.ended = rows.is_empty();
                    self.batch = rows.into_iter();
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        let values = self.batch.next()?;
        Some(Ok(Row {
            columns: Rc::clone(&self.columns),
            values,
        }))
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::test::{Context, SqlAnswer};

    #[test]
    fn without_a_stand_in_the_error_says_what_to_do() {
        let _test = Context::new().enter();
        let error = Connection::open("default").expect_err("there is no database");
        assert_eq!(error.code, "unavailable");
        assert!(error.message.contains("test::Context::sql"), "{error}");
    }

    #[test]
    fn rows_are_typed_and_say_what_does_not_fit() {
        let rows = Rows::new(["id", "name"], [vec![7.into(), Value::Null]]);
        let row = rows.first().expect("one row");
        assert_eq!(row.get::<i64>("id").expect("an integer"), 7);
        assert_eq!(row.get::<Option<String>>(1).expect("NULL"), None);
        for (error, part) in [
            (row.get::<String>(1).unwrap_err(), "\"name\" holds NULL"),
            (row.get::<i64>("age").unwrap_err(), "there are: id, name"),
            (row.get::<i64>(2).unwrap_err(), "the row has 2"),
        ] {
            assert_eq!(error.code, "invalid-column");
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn every_call_reaches_the_stand_in() {
        let test = Context::new()
            .sql("main", |statement, _| match statement {
                "fail" => Err(Error::new("constraint", "no")),
                "rows" => Ok(Rows::new(["n"], (0..2_500).map(|n| vec![n.into()])).into()),
                _ => Ok(SqlAnswer::changed(1)),
            })
            .enter();
        let db = Connection::open("main").expect("the stand-in");
        assert_eq!(db.dialect(), "sqlite");
        let transaction = db.begin().expect("begins");
        assert_eq!(transaction.execute("insert", params![1]).expect("runs"), 1);
        let lists = [vec![1.into()], vec![2.into()]];
        assert_eq!(transaction.execute_many("insert", &lists).expect("runs"), 2);
        transaction.commit().expect("commits");
        assert!(db.execute("fail", &[]).unwrap_err().is("constraint"));
        let stream = db.query_stream("rows", &[]).expect("runs");
        let sum: i64 = stream.map(|row| row.unwrap().get::<i64>(0).unwrap()).sum();
        assert_eq!(sum, (0..2_500).sum::<i64>());
        assert_eq!(
            test.statements("main"),
            [
                "BEGIN", "insert", "insert", "insert", "COMMIT", "fail", "rows"
            ]
        );
    }

    #[test]
    fn a_dropped_transaction_is_rolled_back() {
        let test = Context::new()
            .sql("main", |_, _| Ok(SqlAnswer::changed(0)))
            .enter();
        drop(Connection::open("main").unwrap().begin().unwrap());
        assert_eq!(test.statements("main"), ["BEGIN", "ROLLBACK"]);
    }
}
