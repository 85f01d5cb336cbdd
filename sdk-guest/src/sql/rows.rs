//! Rows of results, and the columns of them.

use std::rc::Rc;

use super::{Error, FromValue, Result, Value};

/// One column of a result.
///
/// ```
/// use heyday_sdk::sql::{Column, Rows};
///
/// /// The first line of a table.
/// fn header(columns: &[Column]) -> String {
///     columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(" | ")
/// }
/// assert_eq!(header(Rows::new(["id", "name"], []).columns()), "id | name");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name, as the statement gives it.
    pub name: String,
    /// The type that the database declares, lower case; empty where it has none.
    pub declared_type: String,
}

/// All rows of a result.
///
/// ```
/// use heyday_sdk::sql::Rows;
///
/// fn total(people: &Rows) -> heyday_sdk::Result<i64> {
///     let mut total = 0;
///     for person in people {
///         total += person.get::<i64>("age")?;
///     }
///     Ok(total)
/// }
/// assert_eq!(total(&Rows::new(["age"], [vec![36.into()], vec![7.into()]]))?, 43);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rows {
    columns: Rc<[Column]>,
    rows: Vec<Row>,
}

impl Rows {
    /// A result of given columns and rows; for tests.
    ///
    /// ```
    /// use heyday_sdk::{sql::{Connection, Rows}, test::Context};
    ///
    /// let people = Rows::new(["name"], [vec!["Ada".into()], vec!["Bob".into()]]);
    /// let _test = Context::new().sql("default", move |_, _| Ok(people.clone().into())).enter();
    /// let found = Connection::open("default")?.query("SELECT name FROM people", &[])?;
    /// assert_eq!(found.len(), 2);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    ///
    /// ```
    /// use heyday_sdk::sql::Rows;
    ///
    /// let rows = Rows::new(["name", "age"], [vec!["Ada".into(), 36.into()]]);
    /// assert_eq!(rows.columns()[1].name, "age");
    /// ```
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// How many rows there are.
    ///
    /// ```
    /// use heyday_sdk::sql::Rows;
    ///
    /// let rows = Rows::new(["n"], (1..=3).map(|n| vec![n.into()]));
    /// assert_eq!(rows.len(), 3);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .sql("default", |_, _| Ok(heyday_sdk::sql::Rows::new(["id"], []).into()))
    /// #     .enter();
    /// use heyday_sdk::{params, sql::Connection};
    ///
    /// let db = Connection::open("default")?;
    /// let found = db.query("SELECT id FROM people WHERE name = ?1", params!["Nobody"])?;
    /// assert!(found.is_empty());
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The first row.
    ///
    /// ```
    /// use heyday_sdk::sql::Rows;
    ///
    /// let rows = Rows::new(["count"], [vec![3.into()]]);
    /// let count: u64 = rows.first().map_or(Ok(0), |row| row.get("count"))?;
    /// assert_eq!(count, 3);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn first(&self) -> Option<&Row> {
        self.rows.first()
    }

    /// The rows, in order.
    ///
    /// ```
    /// use heyday_sdk::sql::Rows;
    ///
    /// let rows = Rows::new(["name"], [vec!["Ada".into()], vec!["Bob".into()]]);
    /// let names: Vec<String> = rows.iter().map(|row| row.get("name")).collect::<Result<_, _>>()?;
    /// assert_eq!(names, ["Ada", "Bob"]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
///
/// ```
/// use heyday_sdk::sql::{Error, Row, Rows, Value};
///
/// struct Person {
///     name: String,
///     age: Option<u8>,
/// }
///
/// fn person(row: &Row) -> Result<Person, Error> {
///     Ok(Person { name: row.get("name")?, age: row.get("age")? })
/// }
/// let rows = Rows::new(["name", "age"], [vec!["Ada".into(), Value::Null]]);
/// let ada = person(rows.first().unwrap())?;
/// assert_eq!((ada.name.as_str(), ada.age), ("Ada", None));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Row {
    pub(super) columns: Rc<[Column]>,
    pub(super) values: Vec<Value>,
}

impl Row {
    /// The value of a column, named by its position from 0 or by its name.
    ///
    /// ```
    /// use heyday_sdk::sql::Rows;
    ///
    /// let rows = Rows::new(["name", "age"], [vec!["Ada".into(), 36.into()]]);
    /// let row = rows.first().unwrap();
    /// assert_eq!((row.get::<String>(0)?, row.get::<u8>("age")?), ("Ada".to_owned(), 36));
    /// assert!(row.get::<bool>("age").unwrap_err().is("invalid-column"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    ///
    /// ```
    /// use heyday_sdk::sql::{Rows, Value};
    ///
    /// let rows = Rows::new(["n", "word"], [vec![1.into(), "one".into()]]);
    /// let row = rows.first().unwrap();
    /// assert_eq!(row.values(), [Value::Integer(1), Value::Text("one".into())]);
    /// ```
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The columns, in order.
    ///
    /// ```
    /// use heyday_sdk::sql::{Row, Rows};
    ///
    /// /// Any row, for a log line.
    /// fn line(row: &Row) -> String {
    ///     let cells = row.columns().iter().zip(row.values());
    ///     cells.map(|(column, value)| format!("{}={value:?} ", column.name)).collect()
    /// }
    /// let rows = Rows::new(["id", "done"], [vec![7.into(), true.into()]]);
    /// assert_eq!(line(rows.first().unwrap()), "id=Integer(7) done=Boolean(true) ");
    /// ```
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }
}

/// What names a column: its position from 0, or its name.
///
/// ```
/// use heyday_sdk::sql::{ColumnIndex, Error, Row, Rows};
///
/// /// Takes a column as [`Row::get`] does.
/// fn upper(row: &Row, column: impl ColumnIndex) -> Result<String, Error> {
///     Ok(row.get::<String>(column)?.to_uppercase())
/// }
/// let rows = Rows::new(["name"], [vec!["Ada".into()]]);
/// let row = rows.first().unwrap();
/// assert_eq!((upper(row, 0)?, upper(row, "name")?), ("ADA".to_owned(), "ADA".to_owned()));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
pub trait ColumnIndex {
    /// The position of the column.
    ///
    /// ```
    /// use heyday_sdk::sql::{ColumnIndex as _, Rows};
    ///
    /// let rows = Rows::new(["id", "name"], []);
    /// assert_eq!("name".position(rows.columns())?, 1);
    /// assert!("age".position(rows.columns()).unwrap_err().is("invalid-column"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
