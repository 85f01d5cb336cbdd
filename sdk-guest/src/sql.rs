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
mod rows;
mod value;

use std::rc::Rc;

use crate::error::CapabilityError;
use crate::host::sql as host;

pub use rows::{Column, ColumnIndex, Row, Rows};
pub use value::{FromValue, Value};

/// Why a statement failed; `wit/sql` explains the codes.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .sql("default", |_, _| Err(heyday_sdk::CapabilityError::new("constraint", "UNIQUE")))
/// #     .enter();
/// use heyday_sdk::{params, sql::{Connection, Error}};
///
/// fn is_duplicate(error: &Error) -> bool {
///     match error.code.as_str() {
///         "constraint" => true,
///         _ => false, // `conflict`, `invalid-statement`, `unavailable`, ...
///     }
/// }
/// let db = Connection::open("default")?;
/// let error = db.execute("INSERT INTO people (name) VALUES (?1)", params!["Ada"]).unwrap_err();
/// assert!(is_duplicate(&error));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
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

/// A granted database.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .sql("default", |_, _| Ok(heyday_sdk::test::SqlAnswer::changed(2)))
/// #     .enter();
/// use heyday_sdk::{params, sql::{Connection, Error}};
///
/// fn grow_older(db: &Connection, than: u8) -> Result<u64, Error> {
///     db.execute("UPDATE people SET age = age + 1 WHERE age > ?1", params![than])
/// }
/// assert_eq!(grow_older(&Connection::open("default")?, 17)?, 2);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    host: Rc<host::Connection>,
}

impl Connection {
    /// Opens the binding of this name; `default` is the usual one.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("orders", |_, _| Ok(heyday_sdk::test::SqlAnswer::changed(0)))
    /// #     .enter();
    /// use heyday_sdk::sql::Connection;
    ///
    /// assert!(Connection::open("orders").is_ok());
    /// assert!(Connection::open("invoices").is_err());
    /// ```
    ///
    /// # Errors
    /// `capability-denied` without a grant, `unknown-binding`, `unavailable`.
    pub fn open(binding: &str) -> Result<Self> {
        Ok(Self {
            host: Rc::new(host::Connection::open(binding)?),
        })
    }

    /// `sqlite` or `postgresql`; others may come.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("default", |_, _| Ok(heyday_sdk::test::SqlAnswer::changed(0)))
    /// #     .enter();
    /// use heyday_sdk::sql::Connection;
    ///
    /// let statement = match Connection::open("default")?.dialect().as_str() {
    ///     "postgresql" => "SELECT name FROM people WHERE age >= $1",
    ///     _ => "SELECT name FROM people WHERE age >= ?1",
    /// };
    /// assert!(statement.ends_with("?1")); // A native test has SQLite's.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn dialect(&self) -> String {
        self.host.dialect()
    }

    /// Runs one statement and answers all its rows. Parameters are `?1`, `?2`, ... on
    /// SQLite and `$1`, `$2`, ... on PostgreSQL; [`params!`](crate::params) makes them.
    ///
    /// ```
    /// # use heyday_sdk::sql::Rows;
    /// # let ada = Rows::new(["name"], [vec!["Ada".into()]]);
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("default", move |_, _| Ok(ada.clone().into()))
    /// #     .enter();
    /// use heyday_sdk::{params, sql::Connection};
    ///
    /// let db = Connection::open("default")?;
    /// let adults = db.query("SELECT name FROM people WHERE age >= ?1", params![18])?;
    /// assert_eq!(adults.first().unwrap().get::<String>("name")?, "Ada");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # use heyday_sdk::sql::Rows;
    /// # let sizes = Rows::new(["size"], [vec![3.into()], vec![4.into()]]);
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("default", move |_, _| Ok(sizes.clone().into()))
    /// #     .enter();
    /// use heyday_sdk::sql::Connection;
    ///
    /// let db = Connection::open("default")?;
    /// let mut total = 0;
    /// for row in db.query_stream("SELECT size FROM files", &[])? {
    ///     total += row?.get::<i64>("size")?;
    /// }
    /// assert_eq!(total, 7);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("default", |_, _| Ok(heyday_sdk::test::SqlAnswer::changed(3)))
    /// #     .enter();
    /// use heyday_sdk::{params, sql::Connection};
    ///
    /// let db = Connection::open("default")?;
    /// let ended = db.execute("DELETE FROM sessions WHERE until < ?1", params!["2026-01-01"])?;
    /// assert_eq!(ended, 3);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn execute(&self, statement: &str, params: &[Value]) -> Result<u64> {
        self.host.execute(statement, params)
    }

    /// Runs one statement once per list of parameters, all or nothing, and answers how
    /// many rows were changed in total.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("default", |_, _| Ok(heyday_sdk::test::SqlAnswer::changed(1)))
    /// #     .enter();
    /// use heyday_sdk::{params, sql::Connection};
    ///
    /// let db = Connection::open("default")?;
    /// let people = [("Ada", 36), ("Bob", 7)].map(|(name, age)| params![name, age].to_vec());
    /// let made = db.execute_many("INSERT INTO people (name, age) VALUES (?1, ?2)", &people)?;
    /// assert_eq!(made, 2);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn execute_many(&self, statement: &str, params: &[Vec<Value>]) -> Result<u64> {
        self.host.execute_many(statement, params)
    }

    /// Begins a transaction; at most one is open per connection.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("default", |_, _| Ok(heyday_sdk::test::SqlAnswer::changed(1)))
    /// #     .enter();
    /// use heyday_sdk::sql::Connection;
    ///
    /// let db = Connection::open("default")?;
    /// let transaction = db.begin()?;
    /// let taken = transaction.execute("UPDATE account SET sum = sum - 42 WHERE id = 1", &[])?;
    /// let given = transaction.execute("UPDATE account SET sum = sum + 42 WHERE id = 2", &[])?;
    /// transaction.commit()?; // Both, or neither.
    /// assert_eq!((taken, given), (1, 1));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
///
/// ```
/// use heyday_sdk::{prelude::*, sql::{Connection, Transaction}, test::{Context, SqlAnswer}};
///
/// fn sell(db: &Connection) -> Result<()> {
///     let transaction: Transaction = db.begin()?;
///     if transaction.execute("UPDATE stock SET left = left - 1 WHERE left > 0", &[])? == 0 {
///         return Err(Error::permanent("sold-out", "nothing is left"));
///     }
///     Ok(transaction.commit()?)
/// }
/// let test = Context::new().sql("default", |_, _| Ok(SqlAnswer::changed(0))).enter();
/// assert_eq!(sell(&Connection::open("default")?).unwrap_err().kind(), "sold-out");
/// assert_eq!(test.statements("default").last().unwrap(), "ROLLBACK");
/// # Ok::<(), heyday_sdk::Error>(())
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
    /// # use heyday_sdk::sql::Rows;
    /// # let sum = Rows::new(["sum"], [vec![58.into()]]);
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("default", move |_, _| Ok(sum.clone().into()))
    /// #     .enter();
    /// use heyday_sdk::{params, sql::Connection};
    ///
    /// let transaction = Connection::open("default")?.begin()?;
    /// let rows = transaction.query("SELECT sum FROM account WHERE id = ?1", params![1])?;
    /// assert_eq!(rows.first().unwrap().get::<i64>("sum")?, 58);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn query(&self, statement: &str, params: &[Value]) -> Result<Rows> {
        let (columns, rows) = self.host.query(statement, params)?;
        Ok(Rows::from_parts(columns, rows))
    }

    /// As [`Connection::execute`], inside the transaction.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("default", |_, _| Ok(heyday_sdk::test::SqlAnswer::changed(1)))
    /// #     .enter();
    /// use heyday_sdk::{params, sql::Connection};
    ///
    /// let transaction = Connection::open("default")?.begin()?;
    /// let made = transaction.execute("INSERT INTO jobs (state) VALUES (?1)", params!["new"])?;
    /// assert_eq!(made, 1);
    /// transaction.commit()?;
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn execute(&self, statement: &str, params: &[Value]) -> Result<u64> {
        self.host.execute(statement, params)
    }

    /// As [`Connection::execute_many`], inside the transaction.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("default", |_, _| Ok(heyday_sdk::test::SqlAnswer::changed(1)))
    /// #     .enter();
    /// use heyday_sdk::sql::Connection;
    ///
    /// let transaction = Connection::open("default")?.begin()?;
    /// let words = ["oven", "rotor", "bread"].map(|word| vec![word.into()]);
    /// assert_eq!(transaction.execute_many("INSERT INTO words VALUES (?1)", &words)?, 3);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn execute_many(&self, statement: &str, params: &[Vec<Value>]) -> Result<u64> {
        self.host.execute_many(statement, params)
    }

    /// Makes its effects durable.
    ///
    /// ```
    /// use heyday_sdk::{sql::Connection, test::{Context, SqlAnswer}};
    ///
    /// let test = Context::new().sql("default", |_, _| Ok(SqlAnswer::changed(1))).enter();
    /// let transaction = Connection::open("default")?.begin()?;
    /// transaction.execute("DELETE FROM drafts", &[])?;
    /// transaction.commit()?;
    /// assert_eq!(test.statements("default"), ["BEGIN", "DELETE FROM drafts", "COMMIT"]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/sql` says; `conflict` where it lost against another transaction.
    pub fn commit(self) -> Result<()> {
        self.host.commit()
    }

    /// Undoes its effects.
    ///
    /// ```
    /// use heyday_sdk::{sql::Connection, test::{Context, SqlAnswer}};
    ///
    /// let test = Context::new().sql("default", |_, _| Ok(SqlAnswer::changed(900))).enter();
    /// let transaction = Connection::open("default")?.begin()?;
    /// if transaction.execute("DELETE FROM drafts", &[])? > 500 {
    ///     transaction.rollback()?; // More than was meant.
    /// }
    /// assert_eq!(test.statements("default").last().unwrap(), "ROLLBACK");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/sql` says.
    pub fn rollback(self) -> Result<()> {
        self.host.rollback()
    }
}

/// Rows as they arrive. Ends after the first error.
///
/// ```
/// # use heyday_sdk::sql::Rows;
/// # let names = Rows::new(["name"], [vec!["Ada".into()], vec!["Grace".into()]]);
/// # let _test = heyday_sdk::test::Context::new()
/// #     .sql("default", move |_, _| Ok(names.clone().into()))
/// #     .enter();
/// use heyday_sdk::sql::{Connection, Error, RowStream};
///
/// fn longest(names: RowStream) -> Result<usize, Error> {
///     let mut longest = 0;
///     for row in names {
///         longest = longest.max(row?.get::<String>(0)?.len());
///     }
///     Ok(longest)
/// }
/// let names = Connection::open("default")?.query_stream("SELECT name FROM people", &[])?;
/// assert_eq!(longest(names)?, 5);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
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
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("default", |_, _| Ok(heyday_sdk::sql::Rows::new(["id", "name"], []).into()))
    /// #     .enter();
    /// use heyday_sdk::sql::Connection;
    ///
    /// let stream = Connection::open("default")?.query_stream("SELECT id, name FROM people", &[])?;
    /// assert_eq!(stream.columns()[1].name, "name"); // Known before the first row.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
        assert_eq!(error.code, "capability-denied");
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
