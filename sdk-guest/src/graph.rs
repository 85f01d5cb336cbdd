//! Property graphs: openCypher statements with bound parameters, in the dialect that
//! [`Connection::dialect`] names.
//!
//! ```
//! use heyday_sdk::prelude::*;
//!
//! #[derive(Deserialize, PartialEq, Debug)]
//! struct Person {
//!     name: String,
//!     born: i64,
//! }
//!
//! fn friends(of: &str) -> Result<Vec<Person>> {
//!     let graph = graph::Connection::open("default")?;
//!     let rows = graph.query(
//!         "MATCH (:Person {name: $of})-[:KNOWS]->(p:Person) RETURN p ORDER BY p.name",
//!         &[("of", of.into())],
//!     )?;
//!     // A node reads as its properties.
//!     rows.iter().map(|row| Ok(row.get("p")?)).collect()
//! }
//!
//! // There is no graph in a native test; a closure answers in its place.
//! let _test = heyday_sdk::test::Context::new()
//!     .graph("default", |statement, params| {
//!         assert!(statement.starts_with("MATCH") && params["of"] == "Ada".into());
//!         let bob = graph::Node::new("1", ["Person"], [("name", "Bob".into()), ("born", 1815.into())]);
//!         Ok(graph::Rows::new(["p"], [vec![bob.into()]]).into())
//!     })
//!     .enter();
//! assert_eq!(friends("Ada").unwrap(), [Person { name: "Bob".into(), born: 1815 }]);
//! ```
//!
//! A large result is read as it arrives with [`Connection::query_stream`]; what belongs
//! together goes into a [`Transaction`], which is rolled back unless it is committed. What
//! is written by `MERGE` under the activity's
//! [`idempotency_key`](crate::context::idempotency_key) is there once, however many
//! attempts it takes.

// Only the host's side of a component is spoken to in it.
#[cfg(any(target_arch = "wasm32", test))]
mod json;
mod value;

use std::rc::Rc;

use serde::de::DeserializeOwned;

use crate::error::CapabilityError;
use crate::host::graph as host;

#[cfg(target_arch = "wasm32")]
pub(crate) use json::{decode, encode};
pub use value::{Node, Path, Point, Relationship, Value};

/// Why a statement failed; `wit/graph` explains the codes.
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// Rows that a stream asks for at once; the host answers fewer where they are large.
const BATCH: u32 = 1_000;

/// Parameters: names, which the statement writes `$name`, and values.
pub type Params<'a> = &'a [(&'a str, Value)];

/// What a statement changed.
///
/// ```
/// let changes = heyday_sdk::graph::Changes { nodes_created: 1, ..Default::default() };
/// assert_eq!(changes.nodes_deleted, 0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Nodes made.
    pub nodes_created: u64,
    /// Nodes removed.
    pub nodes_deleted: u64,
    /// Relationships made.
    pub relationships_created: u64,
    /// Relationships removed.
    pub relationships_deleted: u64,
    /// Properties set or removed; some databases count those of new nodes too.
    pub properties_set: u64,
}

/// All rows of a result.
///
/// ```
/// use heyday_sdk::graph::Rows;
/// let rows = Rows::new(["n"], [vec![1.into()], vec![2.into()]]);
/// assert_eq!((rows.len(), rows.columns()), (2, &["n".to_owned()][..]));
/// ```
#[derive(Debug, Clone)]
pub struct Rows {
    columns: Rc<[String]>,
    rows: Vec<Row>,
}

impl Rows {
    /// A result of given columns and rows; for tests.
    pub fn new<N: Into<String>>(
        columns: impl IntoIterator<Item = N>,
        rows: impl IntoIterator<Item = Vec<Value>>,
    ) -> Self {
        let columns = columns.into_iter().map(Into::into).collect();
        Self::from_parts(columns, rows.into_iter().collect())
    }

    pub(crate) fn from_parts(columns: Vec<String>, rows: Vec<Vec<Value>>) -> Self {
        let columns: Rc<[String]> = columns.into();
        let rows = rows
            .into_iter()
            .map(|values| Row {
                columns: Rc::clone(&columns),
                values,
            })
            .collect();
        Self { columns, rows }
    }

    /// The columns' names, in the statement's order.
    #[must_use]
    pub fn columns(&self) -> &[String] {
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

    /// Each row as a structure, whose members are the columns.
    ///
    /// ```
    /// use heyday_sdk::{graph::Rows, prelude::*};
    /// #[derive(Deserialize)]
    /// struct Degree { name: String, degree: u32 }
    /// let rows = Rows::new(["name", "degree"], [vec!["Ada".into(), 3.into()]]);
    /// let degrees: Vec<Degree> = rows.parse().unwrap();
    /// assert_eq!((degrees[0].name.as_str(), degrees[0].degree), ("Ada", 3));
    /// ```
    ///
    /// # Errors
    /// `invalid-column` where a row does not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        self.rows.iter().map(Row::parse).collect()
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
///
/// ```
/// use heyday_sdk::graph::Rows;
/// let rows = Rows::new(["name", "age"], [vec!["Ada".into(), 36.into()]]);
/// let row = rows.first().unwrap();
/// assert_eq!(row.get::<String>("name").unwrap(), "Ada");
/// assert_eq!(row.value(1).unwrap(), &36.into());
/// assert_eq!(row.get::<String>("age").unwrap_err().code, "invalid-column");
/// ```
#[derive(Debug, Clone)]
pub struct Row {
    columns: Rc<[String]>,
    values: Vec<Value>,
}

impl Row {
    /// The value of a column, named by its position from 0 or by its name, as any type
    /// that serde reads: a node or a relationship as its properties, a time as its text.
    ///
    /// # Errors
    /// `invalid-column` where there is no such column, or its value is no `T`; use
    /// `Option<T>` where it may be null.
    pub fn get<T: DeserializeOwned>(&self, column: impl ColumnIndex) -> Result<T> {
        let index = column.position(&self.columns)?;
        let value = self.at(index)?;
        value.parse().map_err(|error| {
            let name = self.columns.get(index).map_or("", String::as_str);
            Error::new(
                "invalid-column",
                format!("column {name:?}: {}", error.message),
            )
        })
    }

    /// The value of a column as it is.
    ///
    /// # Errors
    /// `invalid-column` where there is no such column.
    pub fn value(&self, column: impl ColumnIndex) -> Result<&Value> {
        self.at(column.position(&self.columns)?)
    }

    fn at(&self, index: usize) -> Result<&Value> {
        self.values.get(index).ok_or_else(|| {
            let count = self.values.len();
            Error::new(
                "invalid-column",
                format!("there is no column {index}; the row has {count}"),
            )
        })
    }

    /// The row as a structure, whose members are the columns.
    ///
    /// # Errors
    /// `invalid-column` where it does not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        let members = self.columns.iter().cloned().zip(self.values.clone());
        Value::Map(members.collect()).parse()
    }

    /// The values, in the order of the columns.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The columns' names, in order.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

/// What names a column: its position from 0, or its name.
pub trait ColumnIndex {
    /// The position of the column.
    ///
    /// # Errors
    /// `invalid-column` where there is none.
    fn position(&self, columns: &[String]) -> Result<usize>;
}

impl ColumnIndex for usize {
    fn position(&self, _: &[String]) -> Result<usize> {
        Ok(*self)
    }
}

impl ColumnIndex for &str {
    fn position(&self, columns: &[String]) -> Result<usize> {
        let found = columns.iter().position(|name| name == self);
        found.ok_or_else(|| {
            Error::new(
                "invalid-column",
                format!(
                    "there is no column {self:?}; there are: {}",
                    columns.join(", ")
                ),
            )
        })
    }
}

/// A granted graph.
///
/// ```
/// use heyday_sdk::{graph::{Changes, Connection}, test::Context};
/// let _test = Context::new().graph("default", |_, _| Ok(Changes::default().into())).enter();
/// let graph = Connection::open("default").unwrap();
/// graph.execute("MERGE (:Person {name: $name})", &[("name", "Ada".into())]).unwrap();
/// assert!(Connection::open("other").is_err());
/// ```
#[derive(Debug)]
pub struct Connection {
    host: Rc<host::Connection>,
}

impl Connection {
    /// Opens the binding of this name; `default` is the usual one.
    ///
    /// # Errors
    /// `capability-denied` without a grant, `unknown-binding`.
    pub fn open(binding: &str) -> Result<Self> {
        Ok(Self {
            host: Rc::new(host::Connection::open(binding)?),
        })
    }

    /// `kglite` or `neo4j`; others may come.
    #[must_use]
    pub fn dialect(&self) -> String {
        self.host.dialect()
    }

    /// Runs one statement and answers all its rows.
    ///
    /// # Errors
    /// As `wit/graph` says; `limit-exceeded` where the rows are more than the binding
    /// allows in one answer.
    pub fn query(&self, statement: &str, params: Params<'_>) -> Result<Rows> {
        let (columns, rows) = self.host.query(statement, params)?;
        Ok(Rows::from_parts(columns, rows))
    }

    /// Runs one statement that only reads and answers its rows as they arrive, so that a
    /// result larger than the guest's memory can be read.
    ///
    /// # Errors
    /// As `wit/graph` says; each row may answer one too.
    pub fn query_stream(&self, statement: &str, params: Params<'_>) -> Result<RowStream> {
        let cursor = self.host.query_stream(statement, params)?;
        Ok(RowStream {
            columns: cursor.columns().into(),
            cursor,
            batch: Vec::new().into_iter(),
            ended: false,
            _connection: Rc::clone(&self.host),
        })
    }

    /// Runs one statement and answers what it changed.
    ///
    /// # Errors
    /// As `wit/graph` says.
    pub fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes> {
        self.host.execute(statement, params)
    }

    /// Begins a transaction; at most one is open per connection.
    ///
    /// # Errors
    /// As `wit/graph` says.
    pub fn begin(&self) -> Result<Transaction> {
        Ok(Transaction {
            host: self.host.begin()?,
            _connection: Rc::clone(&self.host),
        })
    }
}

/// An open transaction. Dropping it, a statement of it that fails, and a failure or end of
/// the activity roll it back.
///
/// ```
/// use heyday_sdk::{graph::{Changes, Connection}, test::Context};
/// let test = Context::new().graph("default", |_, _| Ok(Changes::default().into())).enter();
/// let transaction = Connection::open("default").unwrap().begin().unwrap();
/// transaction.execute("CREATE (:A)", &[]).unwrap();
/// transaction.commit().unwrap();
/// assert_eq!(test.graph_statements("default"), ["BEGIN", "CREATE (:A)", "COMMIT"]);
/// ```
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
    /// As `wit/graph` says.
    pub fn query(&self, statement: &str, params: Params<'_>) -> Result<Rows> {
        let (columns, rows) = self.host.query(statement, params)?;
        Ok(Rows::from_parts(columns, rows))
    }

    /// As [`Connection::execute`], inside the transaction.
    ///
    /// # Errors
    /// As `wit/graph` says.
    pub fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes> {
        self.host.execute(statement, params)
    }

    /// Makes its effects durable.
    ///
    /// # Errors
    /// As `wit/graph` says; `conflict` where it lost against another transaction.
    pub fn commit(self) -> Result<()> {
        self.host.commit()
    }

    /// Undoes its effects.
    ///
    /// # Errors
    /// As `wit/graph` says.
    pub fn rollback(self) -> Result<()> {
        self.host.rollback()
    }
}

/// Rows as they arrive. Ends after the first error.
///
/// ```
/// use heyday_sdk::{graph::{Connection, Rows}, test::Context};
/// let rows = Rows::new(["n"], [vec![1.into()], vec![2.into()]]);
/// let _test = Context::new().graph("default", move |_, _| Ok(rows.clone().into())).enter();
/// let graph = Connection::open("default").unwrap();
/// let stream = graph.query_stream("UNWIND [1, 2] AS n RETURN n", &[]).unwrap();
/// let sum: i64 = stream.map(|row| row.unwrap().get::<i64>("n").unwrap()).sum();
/// assert_eq!(sum, 3);
/// ```
#[derive(Debug)]
pub struct RowStream {
    cursor: host::Cursor,
    columns: Rc<[String]>,
    batch: std::vec::IntoIter<Vec<Value>>,
    ended: bool,
    _connection: Rc<host::Connection>,
}

impl RowStream {
    /// The columns' names, in order.
    #[must_use]
    pub fn columns(&self) -> &[String] {
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
    use crate::test::Context;

    #[test]
    fn without_a_stand_in_the_error_says_what_to_do() {
        let _test = Context::new().enter();
        let error = Connection::open("default").expect_err("there is no graph");
        assert_eq!(error.code, "unavailable");
        assert!(error.message.contains("test::Context::graph"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let rows = Rows::new(["id", "name"], [vec![7.into(), Value::Null]]);
        let row = rows.first().expect("one row");
        assert_eq!(row.get::<Option<String>>(1).expect("null"), None);
        for (error, part) in [
            (row.get::<String>(1).unwrap_err(), "\"name\""),
            (row.get::<i64>("age").unwrap_err(), "there are: id, name"),
            (row.get::<i64>(2).unwrap_err(), "the row has 2"),
        ] {
            assert_eq!(error.code, "invalid-column");
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn a_dropped_transaction_is_rolled_back_and_errors_are_passed_on() {
        let test = Context::new()
            .graph("main", |statement, _| match statement {
                "fail" => Err(Error::new("constraint", "no")),
                _ => Ok(Changes::default().into()),
            })
            .enter();
        let graph = Connection::open("main").expect("the stand-in");
        drop(graph.begin().expect("begins"));
        assert!(graph.execute("fail", &[]).unwrap_err().is("constraint"));
        assert!(graph.query("fail", &[]).unwrap_err().is("constraint"));
        assert_eq!(
            test.graph_statements("main"),
            ["BEGIN", "ROLLBACK", "fail", "fail"]
        );
    }
}
