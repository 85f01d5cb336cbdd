//! Rows of results.

use std::rc::Rc;

use serde::de::DeserializeOwned;

use super::{Error, Result, Value};

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
    ///
    /// ```
    /// use heyday_sdk::{graph::{Connection, Rows}, test::Context};
    ///
    /// let people = Rows::new(["name"], [vec!["Ada".into()], vec!["Bob".into()]]);
    /// let _test = Context::new().graph("default", move |_, _| Ok(people.clone().into())).enter();
    /// let graph = Connection::open("default")?;
    /// assert_eq!(graph.query("MATCH (p:Person) RETURN p.name AS name", &[])?.len(), 2);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    ///
    /// ```
    /// use heyday_sdk::graph::Rows;
    ///
    /// let rows = Rows::new(["name", "degree"], []);
    /// assert_eq!(rows.columns(), ["name", "degree"]);
    /// ```
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// How many rows there are.
    ///
    /// ```
    /// use heyday_sdk::graph::Rows;
    ///
    /// assert_eq!(Rows::new(["n"], (1..=3).map(|n| vec![n.into()])).len(), 3);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .graph("default", |_, _| Ok(heyday_sdk::graph::Rows::new(["p"], []).into()))
    /// #     .enter();
    /// use heyday_sdk::graph::Connection;
    ///
    /// let graph = Connection::open("default")?;
    /// let name = [("name", "Nobody".into())];
    /// assert!(graph.query("MATCH (p:Person {name: $name}) RETURN p", &name)?.is_empty());
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The first row.
    ///
    /// ```
    /// use heyday_sdk::graph::Rows;
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
    /// use heyday_sdk::graph::Rows;
    ///
    /// let rows = Rows::new(["name"], [vec!["Ada".into()], vec!["Bob".into()]]);
    /// let names: Vec<String> = rows.iter().map(|row| row.get("name")).collect::<Result<_, _>>()?;
    /// assert_eq!(names.join(" knows "), "Ada knows Bob");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
/// use heyday_sdk::graph::{Row, Rows};
/// let rows = Rows::new(["name", "age"], [vec!["Ada".into(), 36.into()]]);
/// let row: &Row = rows.first().unwrap();
/// assert_eq!(row.get::<String>("name").unwrap(), "Ada");
/// assert_eq!(row.value(1).unwrap(), &36.into());
/// assert_eq!(row.get::<String>("age").unwrap_err().code, "invalid-column");
/// ```
#[derive(Debug, Clone)]
pub struct Row {
    pub(super) columns: Rc<[String]>,
    pub(super) values: Vec<Value>,
}

impl Row {
    /// The value of a column, named by its position from 0 or by its name, as any type
    /// that serde reads: a node or a relationship as its properties, a time as its text.
    ///
    /// ```
    /// use heyday_sdk::graph::{Node, Rows};
    /// use std::collections::BTreeMap;
    ///
    /// let ada = Node::new("4:1", ["Person"], [("born", 1815.into())]);
    /// let rows = Rows::new(["p"], [vec![ada.into()]]);
    /// let person: BTreeMap<String, i64> = rows.first().unwrap().get("p")?;
    /// assert_eq!(person["born"], 1815);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// use heyday_sdk::graph::{Node, Rows, Value};
    ///
    /// let rows = Rows::new(["p"], [vec![Node::new("4:1", ["Person"], []).into()]]);
    /// // The node itself, with its labels.
    /// let Value::Node(node) = rows.first().unwrap().value("p")? else {
    ///     panic!("it is a node");
    /// };
    /// assert_eq!(node.labels, ["Person"]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// use heyday_sdk::{graph::Rows, prelude::*};
    ///
    /// #[derive(Deserialize)]
    /// struct Count {
    ///     label: String,
    ///     nodes: u64,
    /// }
    /// let rows = Rows::new(["label", "nodes"], [vec!["Person".into(), 2.into()]]);
    /// let count: Count = rows.first().unwrap().parse()?;
    /// assert_eq!((count.label.as_str(), count.nodes), ("Person", 2));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-column` where it does not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        let members = self.columns.iter().cloned().zip(self.values.clone());
        Value::Map(members.collect()).parse()
    }

    /// The values, in the order of the columns.
    ///
    /// ```
    /// use heyday_sdk::graph::{Rows, Value};
    ///
    /// let rows = Rows::new(["n", "word"], [vec![1.into(), "one".into()]]);
    /// let row = rows.first().unwrap();
    /// assert_eq!(row.values(), [Value::Integer(1), Value::String("one".into())]);
    /// ```
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The columns' names, in order.
    ///
    /// ```
    /// use heyday_sdk::graph::{Row, Rows};
    ///
    /// /// Any row, for a log line.
    /// fn line(row: &Row) -> String {
    ///     let cells = row.columns().iter().zip(row.values());
    ///     cells.map(|(column, value)| format!("{column}={value:?} ")).collect()
    /// }
    /// let rows = Rows::new(["degree"], [vec![7.into()]]);
    /// assert_eq!(line(rows.first().unwrap()), "degree=Integer(7) ");
    /// ```
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

/// What names a column: its position from 0, or its name.
///
/// ```
/// use heyday_sdk::graph::{ColumnIndex, Error, Row, Rows};
///
/// /// Takes a column as [`Row::get`] does.
/// fn length(row: &Row, column: impl ColumnIndex) -> Result<usize, Error> {
///     Ok(row.get::<Vec<i64>>(column)?.len())
/// }
/// let rows = Rows::new(["ids"], [vec![vec![1, 2, 3].into()]]);
/// let row = rows.first().unwrap();
/// assert_eq!((length(row, 0)?, length(row, "ids")?), (3, 3));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
pub trait ColumnIndex {
    /// The position of the column.
    ///
    /// ```
    /// use heyday_sdk::graph::{ColumnIndex as _, Rows};
    ///
    /// let rows = Rows::new(["p", "q"], []);
    /// assert_eq!("q".position(rows.columns())?, 1);
    /// assert!("r".position(rows.columns()).unwrap_err().is("invalid-column"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
