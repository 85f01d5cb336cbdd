//! The tables of `history.db`, and how an older file becomes a newer one.
//!
//! `PRAGMA user_version` counts the migrations a file has had. Each runs in one
//! transaction with the count, so that a crash leaves a file before or after it, never
//! between. A file that has had more than this release knows is refused.

use sqlx::{Connection as _, Executor as _, SqliteConnection};

use super::options::OpenError;

/// `PRAGMA application_id` of a history: "HeyD".
const APPLICATION_ID: i64 = 0x4865_7944;

/// Each is run once, in order. Only ever append.
const MIGRATIONS: &[&str] = &[
    // The history is `transitions`; `runs` is what lists and starts ask. A run's row is
    // written at its start, when it ends, and when it is held; in between a transition
    // is one insert. Run ids grow, so the last run of a workflow id is its largest.
    "CREATE TABLE runs (
        run_id BLOB PRIMARY KEY NOT NULL,
        namespace TEXT NOT NULL,
        workflow_id TEXT NOT NULL,
        workflow_type TEXT NOT NULL,
        version TEXT NOT NULL,
        digest BLOB NOT NULL,
        status INTEGER NOT NULL,
        started_us INTEGER NOT NULL,
        closed_us INTEGER,
        parent_workflow_id TEXT,
        parent_run_id BLOB,
        held TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX runs_by_workflow ON runs (namespace, workflow_id, run_id);
    CREATE INDEX runs_by_type ON runs (namespace, workflow_type, run_id);
    CREATE INDEX runs_open ON runs (run_id) WHERE status = 1;
    CREATE TABLE transitions (
        run_id BLOB NOT NULL,
        last_event INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (run_id, last_event)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE idempotency (
        namespace TEXT NOT NULL,
        key TEXT NOT NULL,
        run_id BLOB NOT NULL,
        expires_us INTEGER NOT NULL,
        PRIMARY KEY (namespace, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE payload_refs (
        digest BLOB NOT NULL,
        run_id BLOB NOT NULL,
        PRIMARY KEY (digest, run_id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE heartbeats (
        run_id BLOB NOT NULL,
        activity_id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        details BLOB NOT NULL,
        PRIMARY KEY (run_id, activity_id)
    ) STRICT, WITHOUT ROWID;",
    // Schedules: JSON whose members are only ever added to. All of them are in memory, so
    // nothing is looked for in it.
    "CREATE TABLE schedules (
        namespace TEXT NOT NULL,
        schedule_id TEXT NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (namespace, schedule_id)
    ) STRICT, WITHOUT ROWID;",
    // A name has one type in a namespace. A list has a row for each item, a text one for
    // each of its words.
    "CREATE TABLE search_types (
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        type TEXT NOT NULL,
        PRIMARY KEY (namespace, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE search_values (
        run_id BLOB NOT NULL,
        name TEXT NOT NULL,
        value ANY NOT NULL,
        PRIMARY KEY (run_id, name, value)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX search_values_by_value ON search_values (name, value, run_id);",
];

/// Brings a file to this release's tables.
pub async fn migrate(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let application: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    let found: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await?;
    let known = MIGRATIONS.len() as i64;
    if application != APPLICATION_ID {
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
            .fetch_one(&mut *connection)
            .await?;
        if application != 0 || found != 0 || tables != 0 {
            return Err(OpenError::NotAHistory);
        }
    }
    if found > known {
        return Err(OpenError::Newer { found, known });
    }
    for (index, migration) in (0..)
        .zip(MIGRATIONS)
        .skip(usize::try_from(found).unwrap_or(0))
    {
        let version: i64 = index + 1;
        let mut transaction = connection.begin().await?;
        transaction.execute(*migration).await?;
        // A pragma takes no parameters; both values are numbers of ours.
        let stamp =
            format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version};");
        transaction.execute(sqlx::AssertSqlSafe(stamp)).await?;
        transaction.commit().await?;
    }
    Ok(())
}
