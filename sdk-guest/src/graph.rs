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
//! // In a native test a closure answers, or a graph in memory (`test::Context::kglite`).
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

// Spoken with the host of a component, and with the graph in memory of a native test.
#[cfg(any(target_arch = "wasm32", feature = "kglite", test))]
mod json;
mod rows;
mod value;

use std::rc::Rc;

use crate::error::CapabilityError;
use crate::host::graph as host;

#[cfg(any(target_arch = "wasm32", feature = "kglite"))]
pub(crate) use json::{decode, encode};
pub use rows::{ColumnIndex, Row, Rows};
pub use value::{Node, Path, Point, Relationship, Value};

/// Why a statement failed; `wit/graph` explains the codes.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .graph("default", |_, _| Err(heyday_sdk::CapabilityError::new("conflict", "locked")))
/// #     .enter();
/// use heyday_sdk::graph::{Connection, Error};
///
/// fn is_worth_another_try(error: &Error) -> bool {
///     match error.code.as_str() {
///         "conflict" | "unavailable" => true,
///         _ => false, // `constraint`, `invalid-statement`, ...
///     }
/// }
/// let error = Connection::open("default")?.execute("MATCH (n) DELETE n", &[]).unwrap_err();
/// assert!(is_worth_another_try(&error));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// Rows that a stream asks for at once; the host answers fewer where they are large.
const BATCH: u32 = 1_000;

/// Parameters: names, which the statement writes `$name`, and values.
///
/// ```
/// use heyday_sdk::graph::Params;
///
/// /// The pattern of a node's properties, as a statement writes it.
/// fn pattern(params: Params<'_>) -> String {
///     let members = params.iter().map(|(name, _)| format!("{name}: ${name}"));
///     format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
/// }
/// let ada: Params<'_> = &[("name", "Ada".into()), ("born", 1815.into())];
/// assert_eq!(pattern(ada), "{name: $name, born: $born}");
/// ```
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
    /// ```
    /// use heyday_sdk::{graph::{Changes, Connection}, test::Context};
    ///
    /// let _test = Context::new().graph("family", |_, _| Ok(Changes::default().into())).enter();
    /// assert!(Connection::open("family").is_ok());
    /// assert!(Connection::open("friends").is_err());
    /// ```
    ///
    /// # Errors
    /// `capability-denied` without a grant, `unknown-binding`.
    pub fn open(binding: &str) -> Result<Self> {
        Ok(Self {
            host: Rc::new(host::Connection::open(binding)?),
        })
    }

    /// `kglite` or `neo4j`; others may come.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .graph("default", |_, _| Ok(heyday_sdk::graph::Changes::default().into()))
    /// #     .enter();
    /// use heyday_sdk::graph::Connection;
    ///
    /// let graph = Connection::open("default")?;
    /// let zone = if graph.dialect() == "neo4j" { "[Europe/Oslo]" } else { "" };
    /// assert_eq!(zone, ""); // A native test has the dialect of an embedded graph.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn dialect(&self) -> String {
        self.host.dialect()
    }

    /// Runs one statement and answers all its rows.
    ///
    /// ```
    /// # let name = heyday_sdk::graph::Rows::new(["name"], [vec!["Bob".into()]]);
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .graph("default", move |_, _| Ok(name.clone().into()))
    /// #     .enter();
    /// use heyday_sdk::graph::Connection;
    ///
    /// let graph = Connection::open("default")?;
    /// let friends = graph.query(
    ///     "MATCH (:Person {name: $name})-[:KNOWS]->(p) RETURN p.name AS name",
    ///     &[("name", "Ada".into())],
    /// )?;
    /// assert_eq!(friends.first().unwrap().get::<String>("name")?, "Bob");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # let sizes = heyday_sdk::graph::Rows::new(["size"], [vec![3.into()], vec![4.into()]]);
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .graph("default", move |_, _| Ok(sizes.clone().into()))
    /// #     .enter();
    /// use heyday_sdk::graph::Connection;
    ///
    /// let graph = Connection::open("default")?;
    /// let mut total = 0;
    /// for row in graph.query_stream("MATCH (f:File) RETURN f.size AS size", &[])? {
    ///     total += row?.get::<i64>("size")?;
    /// }
    /// assert_eq!(total, 7);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # use heyday_sdk::graph::Changes;
    /// # let made = Changes { relationships_created: 1, ..Default::default() };
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .graph("default", move |_, _| Ok(made.into()))
    /// #     .enter();
    /// use heyday_sdk::graph::Connection;
    ///
    /// let changes = Connection::open("default")?.execute(
    ///     "MATCH (a:Person {name: $a}), (b:Person {name: $b}) MERGE (a)-[:KNOWS]->(b)",
    ///     &[("a", "Ada".into()), ("b", "Bob".into())],
    /// )?;
    /// assert_eq!(changes.relationships_created, 1);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/graph` says.
    pub fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes> {
        self.host.execute(statement, params)
    }

    /// Begins a transaction; at most one is open per connection.
    ///
    /// ```
    /// use heyday_sdk::{graph::{Changes, Connection}, test::Context};
    ///
    /// let test = Context::new().graph("default", |_, _| Ok(Changes::default().into())).enter();
    /// let transaction = Connection::open("default")?.begin()?;
    /// transaction.execute("MATCH (a:Account {id: 1}) SET a.sum = a.sum - 42", &[])?;
    /// transaction.execute("MATCH (a:Account {id: 2}) SET a.sum = a.sum + 42", &[])?;
    /// transaction.commit()?; // Both, or neither.
    /// assert_eq!(test.graph_statements("default").len(), 4);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
/// use heyday_sdk::{graph::{Changes, Connection, Transaction}, test::Context};
/// let test = Context::new().graph("default", |_, _| Ok(Changes::default().into())).enter();
/// let transaction: Transaction = Connection::open("default").unwrap().begin().unwrap();
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
    /// ```
    /// # let sum = heyday_sdk::graph::Rows::new(["sum"], [vec![58.into()]]);
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .graph("default", move |_, _| Ok(sum.clone().into()))
    /// #     .enter();
    /// use heyday_sdk::graph::Connection;
    ///
    /// let transaction = Connection::open("default")?.begin()?;
    /// let rows = transaction.query("MATCH (a:Account {id: 1}) RETURN a.sum AS sum", &[])?;
    /// assert_eq!(rows.first().unwrap().get::<i64>("sum")?, 58);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/graph` says.
    pub fn query(&self, statement: &str, params: Params<'_>) -> Result<Rows> {
        let (columns, rows) = self.host.query(statement, params)?;
        Ok(Rows::from_parts(columns, rows))
    }

    /// As [`Connection::execute`], inside the transaction.
    ///
    /// ```
    /// # let changes = heyday_sdk::graph::Changes { nodes_deleted: 2, ..Default::default() };
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .graph("default", move |_, _| Ok(changes.into()))
    /// #     .enter();
    /// use heyday_sdk::graph::Connection;
    ///
    /// let transaction = Connection::open("default")?.begin()?;
    /// let changes = transaction.execute("MATCH (d:Draft) DETACH DELETE d", &[])?;
    /// assert_eq!(changes.nodes_deleted, 2);
    /// transaction.commit()?;
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/graph` says.
    pub fn execute(&self, statement: &str, params: Params<'_>) -> Result<Changes> {
        self.host.execute(statement, params)
    }

    /// Makes its effects durable.
    ///
    /// ```
    /// use heyday_sdk::{graph::{Changes, Connection}, test::Context};
    ///
    /// let test = Context::new().graph("default", |_, _| Ok(Changes::default().into())).enter();
    /// let transaction = Connection::open("default")?.begin()?;
    /// transaction.execute("MERGE (:Person {name: 'Ada'})", &[])?;
    /// transaction.commit()?;
    /// assert_eq!(test.graph_statements("default").last().unwrap(), "COMMIT");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/graph` says; `conflict` where it lost against another transaction.
    pub fn commit(self) -> Result<()> {
        self.host.commit()
    }

    /// Undoes its effects.
    ///
    /// ```
    /// # let changes = heyday_sdk::graph::Changes { nodes_deleted: 900, ..Default::default() };
    /// use heyday_sdk::{graph::Connection, test::Context};
    ///
    /// let test = Context::new().graph("default", move |_, _| Ok(changes.into())).enter();
    /// let transaction = Connection::open("default")?.begin()?;
    /// if transaction.execute("MATCH (d:Draft) DETACH DELETE d", &[])?.nodes_deleted > 500 {
    ///     transaction.rollback()?; // More than was meant.
    /// }
    /// assert_eq!(test.graph_statements("default").last().unwrap(), "ROLLBACK");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
/// use heyday_sdk::{graph::{Connection, RowStream, Rows}, test::Context};
/// let rows = Rows::new(["n"], [vec![1.into()], vec![2.into()]]);
/// let _test = Context::new().graph("default", move |_, _| Ok(rows.clone().into())).enter();
/// let graph = Connection::open("default").unwrap();
/// let stream: RowStream = graph.query_stream("UNWIND [1, 2] AS n RETURN n", &[]).unwrap();
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
    ///
    /// ```
    /// # let none = heyday_sdk::graph::Rows::new(["name", "born"], []);
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .graph("default", move |_, _| Ok(none.clone().into()))
    /// #     .enter();
    /// use heyday_sdk::graph::Connection;
    ///
    /// let graph = Connection::open("default")?;
    /// let stream = graph.query_stream("MATCH (p) RETURN p.name AS name, p.born AS born", &[])?;
    /// assert_eq!(stream.columns(), ["name", "born"]); // Known before the first row.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
        assert_eq!(error.code, "capability-denied");
        assert!(error.message.contains("test::Context::kglite"), "{error}");
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
