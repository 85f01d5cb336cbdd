//! What a context grants of databases and graphs.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Context, GraphAnswer, SqlAnswer};
use crate::error::CapabilityError;

impl Context {
    /// Grants a database of that name. The closure stands in for it: it is given each
    /// statement with its parameters and answers rows or a number of changed rows. It is
    /// no database: use it for what one does not do when it is asked to, such as to be away,
    /// and `Context::sqlite` for everything else.
    ///
    /// ```
    /// use heyday_sdk::{sql::{Connection, Rows}, test::Context};
    ///
    /// let _test = Context::new()
    ///     .sql("main", |_, params| Ok(Rows::new(["given"], [params.to_vec()]).into()))
    ///     .enter();
    /// let rows = Connection::open("main")?.query("SELECT ?1 AS given", &[7.into()])?;
    /// assert_eq!(rows.first().unwrap().get::<i64>("given")?, 7);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn sql(
        mut self,
        binding: &str,
        answer: impl FnMut(&str, &[crate::sql::Value]) -> Result<SqlAnswer, CapabilityError> + 'static,
    ) -> Self {
        let answering = Rc::new(crate::host::sql::Answering::new(answer));
        self.state.sql.insert(binding.to_owned(), answering);
        self
    }

    /// Grants a SQLite database of that name, in memory, in which these statements ran: the
    /// same dialect, values, limits and errors as a binding of Heyday's own SQLite. It needs the
    /// SDK's feature `sqlite` and a C compiler:
    ///
    /// ```toml
    /// [dev-dependencies]
    /// heyday-sdk = { path = "heyday-sdk", features = ["sqlite"] }
    /// ```
    ///
    /// ```
    /// use heyday_sdk::prelude::*;
    ///
    /// fn birthday(name: &str) -> Result<i64> {
    ///     let db = sql::Connection::open("default")?;
    ///     db.execute("UPDATE people SET age = age + 1 WHERE name = ?1", params![name])?;
    ///     let rows = db.query("SELECT age FROM people WHERE name = ?1", params![name])?;
    ///     let row = rows.first().ok_or_else(|| Error::permanent("unknown", name))?;
    ///     Ok(row.get("age")?)
    /// }
    ///
    /// let people = [
    ///     "CREATE TABLE people (name TEXT PRIMARY KEY, age INTEGER NOT NULL)",
    ///     "INSERT INTO people VALUES ('Ada', 35)",
    /// ];
    /// let _test = heyday_sdk::test::Context::new().sqlite("default", people).enter();
    /// assert_eq!(birthday("Ada").unwrap(), 36);
    /// assert_eq!(birthday("Eve").unwrap_err().kind(), "unknown");
    /// ```
    ///
    /// # Panics
    /// Where one of the statements fails.
    #[cfg(feature = "sqlite")]
    pub fn sqlite<'a>(
        mut self,
        binding: &str,
        statements: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let database = crate::host::sql::sqlite::Sqlite::new(statements);
        let database = database.unwrap_or_else(|error| panic!("{binding}: {error}"));
        self.state.sql.insert(binding.to_owned(), Rc::new(database));
        self
    }

    /// Grants a graph of that name. The closure stands in for it: it is given each
    /// statement with its parameters and answers rows or changes. It is no graph: use it for
    /// what one does not do when it is asked to, such as to be away, and `Context::kglite` for
    /// everything else.
    ///
    /// ```
    /// use heyday_sdk::{graph::{Connection, Rows}, test::Context};
    ///
    /// let _test = Context::new()
    ///     .graph("main", |_, params| Ok(Rows::new(["given"], [vec![params["n"].clone()]]).into()))
    ///     .enter();
    /// let rows = Connection::open("main")?.query("RETURN $n AS given", &[("n", 7.into())])?;
    /// assert_eq!(rows.first().unwrap().get::<i64>("given")?, 7);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn graph(
        mut self,
        binding: &str,
        answer: impl FnMut(
            &str,
            &BTreeMap<String, crate::graph::Value>,
        ) -> Result<GraphAnswer, CapabilityError>
        + 'static,
    ) -> Self {
        let answering = Rc::new(crate::host::graph::Answering::new(answer));
        self.state.graphs.insert(binding.to_owned(), answering);
        self
    }

    /// Grants a graph of that name, in memory, in which these statements ran: the same engine,
    /// dialect, values, limits and errors as a binding of Heyday's own embedded graph, but for
    /// its limit on memory. It needs the SDK's feature `kglite` and a C compiler:
    ///
    /// ```toml
    /// [dev-dependencies]
    /// heyday-sdk = { path = "heyday-sdk", features = ["kglite"] }
    /// ```
    ///
    /// ```
    /// use heyday_sdk::prelude::*;
    ///
    /// fn introduce(a: &str, b: &str) -> Result<u64> {
    ///     let made = graph::Connection::open("default")?.execute(
    ///         "MATCH (a:Person {name: $a}), (b:Person {name: $b}) MERGE (a)-[:KNOWS]->(b)",
    ///         &[("a", a.into()), ("b", b.into())],
    ///     )?;
    ///     Ok(made.relationships_created)
    /// }
    ///
    /// let people = [
    ///     "CREATE CONSTRAINT person FOR (p:Person) REQUIRE p.name IS UNIQUE",
    ///     "CREATE (:Person {name: 'Ada'}), (:Person {name: 'Bob'})",
    /// ];
    /// let _test = heyday_sdk::test::Context::new().kglite("default", people).enter();
    /// assert_eq!(introduce("Ada", "Bob").unwrap(), 1);
    /// assert_eq!(introduce("Ada", "Bob").unwrap(), 0); // They know each other.
    /// ```
    ///
    /// # Panics
    /// Where one of the statements fails.
    #[cfg(feature = "kglite")]
    pub fn kglite<'a>(
        mut self,
        binding: &str,
        statements: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let graph = crate::host::graph::kglite::Kglite::new(statements);
        let graph = graph.unwrap_or_else(|error| panic!("{binding}: {error}"));
        self.state.graphs.insert(binding.to_owned(), Rc::new(graph));
        self
    }
}
