//! What closures that stand in for databases and graphs answer.

use crate::sql::Rows;

/// What a stand-in for a database answers a statement.
///
/// ```
/// use heyday_sdk::{params, sql::{Connection, Rows}, test::{Context, SqlAnswer}};
///
/// fn database(statement: &str) -> SqlAnswer {
///     match statement.split(' ').next() {
///         Some("SELECT") => Rows::new(["name"], [vec!["Ada".into()]]).into(),
///         _ => SqlAnswer::changed(1),
///     }
/// }
/// let _test = Context::new().sql("main", |statement, _| Ok(database(statement))).enter();
/// let db = Connection::open("main")?;
/// assert_eq!(db.execute("DELETE FROM people WHERE name = ?1", params!["Bob"])?, 1);
/// assert_eq!(db.query("SELECT name FROM people", &[])?.len(), 1);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SqlAnswer {
    pub(crate) rows: Rows,
    pub(crate) changed: u64,
}

impl SqlAnswer {
    /// No rows; that many were changed.
    ///
    /// ```
    /// use heyday_sdk::{sql::Connection, test::{Context, SqlAnswer}};
    ///
    /// let _test = Context::new().sql("main", |_, _| Ok(SqlAnswer::changed(3))).enter();
    /// assert_eq!(Connection::open("main")?.execute("DELETE FROM drafts", &[])?, 3);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn changed(changed: u64) -> Self {
        Self {
            rows: Rows::from_parts(Vec::new(), Vec::new()),
            changed,
        }
    }
}

impl From<Rows> for SqlAnswer {
    fn from(rows: Rows) -> Self {
        Self { rows, changed: 0 }
    }
}

/// What a stand-in for a graph answers a statement.
///
/// ```
/// use heyday_sdk::{graph::{Changes, Connection, Rows}, test::{Context, GraphAnswer}};
///
/// fn graph(statement: &str) -> GraphAnswer {
///     if statement.starts_with("MATCH") {
///         return Rows::new(["name"], [vec!["Ada".into()]]).into();
///     }
///     Changes { nodes_created: 1, ..Default::default() }.into()
/// }
/// let _test = Context::new().graph("main", |statement, _| Ok(graph(statement))).enter();
/// let people = Connection::open("main")?;
/// assert_eq!(people.execute("CREATE (:Person)", &[])?.nodes_created, 1);
/// assert_eq!(people.query("MATCH (p:Person) RETURN p.name AS name", &[])?.len(), 1);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct GraphAnswer {
    pub(crate) rows: crate::graph::Rows,
    pub(crate) changes: crate::graph::Changes,
}

impl From<crate::graph::Rows> for GraphAnswer {
    fn from(rows: crate::graph::Rows) -> Self {
        Self {
            rows,
            changes: crate::graph::Changes::default(),
        }
    }
}

impl From<crate::graph::Changes> for GraphAnswer {
    fn from(changes: crate::graph::Changes) -> Self {
        Self {
            rows: crate::graph::Rows::from_parts(Vec::new(), Vec::new()),
            changes,
        }
    }
}
