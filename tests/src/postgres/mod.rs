//! The database capability on the real PostgreSQL, without a guest in between: what its
//! roles cannot reach, what is left behind, and what happens when the server is away.

mod away;
mod isolation;
mod kv;
mod limits;
mod state;

use std::time::Duration;

use heyday_capabilities::postgres::PostgresConfig;
use heyday_capabilities::sql::postgres::PostgresDatabase;
use heyday_capabilities::sql::{
    Access, Database as _, SqlCode, SqlError, SqlLimits, Transaction, Value,
};
use tokio::runtime::Handle;

use crate::support::postgres::{self, Role};

/// A binding's database, and who it signs in as.
struct Binding {
    database: PostgresDatabase,
    role: Role,
}

impl Binding {
    fn on(role: Role, limits: SqlLimits) -> Self {
        let database = open(&role.config(), limits);
        Self { database, role }
    }

    /// The only value of a query's only row, as text.
    async fn ask(&self, statement: &str) -> String {
        let set = self
            .database
            .query(Access::Write, statement.to_owned(), Vec::new())
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
        match &set.rows[0][0] {
            Value::Text(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            other => format!("{other:?}"),
        }
    }

    async fn run(&self, statement: &str) -> Result<u64, SqlError> {
        let statement = statement.to_owned();
        self.database
            .execute(Access::Write, statement, Vec::new())
            .await
    }

    async fn begin(&self, access: Access) -> Box<dyn Transaction> {
        self.database.begin(access).await.expect("it begins")
    }

    /// The process of the server that serves the binding's only connection.
    async fn process(&self) -> String {
        self.ask("SELECT pg_backend_pid()").await
    }
}

fn open(config: &PostgresConfig, limits: SqlLimits) -> PostgresDatabase {
    PostgresDatabase::new(config, false, limits, Handle::current()).expect("a configuration")
}

/// With one connection, so that whoever comes next has the same.
fn one_connection() -> SqlLimits {
    SqlLimits {
        connections: 1,
        ..SqlLimits::default()
    }
}

/// A binding of its own database on the shared server.
fn binding(limits: SqlLimits) -> Option<Binding> {
    let server = postgres::shared()?;
    let database = server.database();
    Some(Binding::on(server.role(&database), limits))
}

/// Statements of that role that the server runs now and that contain a text.
fn running(role: &str, text: &str) -> usize {
    let server = postgres::shared().expect("it runs");
    let count = server.psql(
        "postgres",
        &format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' \
             AND state = 'active' AND query LIKE '%{text}%'"
        ),
    );
    count.parse().expect("a number")
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + crate::support::server::PATIENCE;
    while !so() {
        assert!(
            std::time::Instant::now() < deadline,
            "this never came true: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[track_caller]
fn code<T>(outcome: Result<T, SqlError>, what: &str) -> SqlCode {
    match outcome {
        Ok(_) => panic!("{what}: it was done"),
        Err(error) => error.code,
    }
}
