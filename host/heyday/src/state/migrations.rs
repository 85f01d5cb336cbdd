//! The schema, step by step, in both dialects; a step that was released never changes.
//!
//! SQLite counts the steps that a file has in `user_version`, and each is a transaction.
//! PostgreSQL counts them in the table `heyday_schema`; all that are missing are one
//! transaction, under a lock that lets one process migrate at a time: who comes second
//! finds nothing left to do.

use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, Connection as _};

use super::StateError;
use super::backend::connect;
use super::location::POSTGRES;

/// A step in both dialects.
struct Step {
    sqlite: &'static str,
    postgres: &'static str,
}

/// The lock of PostgreSQL that is held while its schema changes.
const LOCK: i64 = 0x6865_7964_6179;

const STEPS: &[Step] = &[
    Step {
        sqlite: "
    CREATE TABLE versions (
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
        digest BLOB NOT NULL, size INTEGER NOT NULL, description TEXT NOT NULL,
        capabilities TEXT NOT NULL, imports TEXT NOT NULL, created_us INTEGER NOT NULL,
        PRIMARY KEY (kind, namespace, name, version)
    ) WITHOUT ROWID;
    CREATE TABLE activations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
        at_us INTEGER NOT NULL
    );
    CREATE INDEX activations_by_name ON activations (kind, namespace, name, id);
    CREATE TABLE uploads (
        namespace TEXT NOT NULL, digest BLOB NOT NULL, size INTEGER NOT NULL,
        state TEXT NOT NULL, reason TEXT, capabilities TEXT NOT NULL, imports TEXT NOT NULL,
        options TEXT NOT NULL, principal TEXT NOT NULL, created_us INTEGER NOT NULL,
        PRIMARY KEY (namespace, digest)
    ) WITHOUT ROWID;
    CREATE TABLE grants (
        namespace TEXT NOT NULL, subject TEXT NOT NULL, capability TEXT NOT NULL,
        binding TEXT NOT NULL, mode TEXT, granted_us INTEGER NOT NULL,
        PRIMARY KEY (namespace, subject, capability, binding)
    ) WITHOUT ROWID;
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at_us INTEGER NOT NULL, namespace TEXT NOT NULL,
        principal TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL,
        details TEXT NOT NULL
    );
    CREATE INDEX audit_by_namespace ON audit (namespace, id);
    CREATE TABLE receipts (
        run_id BLOB NOT NULL, activity_id TEXT NOT NULL, attempt INTEGER NOT NULL,
        namespace TEXT NOT NULL, activity_type TEXT NOT NULL, queue TEXT NOT NULL,
        started_us INTEGER NOT NULL, ended_us INTEGER NOT NULL, outcome TEXT NOT NULL,
        counters TEXT NOT NULL,
        PRIMARY KEY (run_id, activity_id, attempt)
    ) WITHOUT ROWID;
    CREATE TABLE log_lines (
        id INTEGER PRIMARY KEY AUTOINCREMENT, run_id BLOB NOT NULL, activity_id TEXT NOT NULL,
        activity_type TEXT NOT NULL, attempt INTEGER NOT NULL, at_us INTEGER NOT NULL,
        namespace TEXT NOT NULL, level TEXT NOT NULL, message TEXT NOT NULL, fields TEXT NOT NULL
    );
    CREATE INDEX log_lines_by_run ON log_lines (run_id, id);
    CREATE INDEX log_lines_by_time ON log_lines (at_us);
    CREATE INDEX receipts_by_time ON receipts (ended_us);
    CREATE TABLE replies (
        namespace TEXT NOT NULL, route TEXT NOT NULL, key TEXT NOT NULL,
        request BLOB NOT NULL, status INTEGER NOT NULL, body BLOB NOT NULL,
        at_us INTEGER NOT NULL,
        PRIMARY KEY (namespace, route, key)
    ) WITHOUT ROWID;
    CREATE INDEX replies_by_time ON replies (at_us);
",
        postgres: "
    CREATE TABLE versions (
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
        digest BYTEA NOT NULL, size BIGINT NOT NULL, description TEXT NOT NULL,
        capabilities TEXT NOT NULL, imports TEXT NOT NULL, created_us BIGINT NOT NULL,
        PRIMARY KEY (kind, namespace, name, version)
    );
    CREATE TABLE activations (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
        at_us BIGINT NOT NULL
    );
    CREATE INDEX activations_by_name ON activations (kind, namespace, name, id);
    CREATE TABLE uploads (
        namespace TEXT NOT NULL, digest BYTEA NOT NULL, size BIGINT NOT NULL,
        state TEXT NOT NULL, reason TEXT, capabilities TEXT NOT NULL, imports TEXT NOT NULL,
        options TEXT NOT NULL, principal TEXT NOT NULL, created_us BIGINT NOT NULL,
        PRIMARY KEY (namespace, digest)
    );
    CREATE TABLE grants (
        namespace TEXT NOT NULL, subject TEXT NOT NULL, capability TEXT NOT NULL,
        binding TEXT NOT NULL, mode TEXT, granted_us BIGINT NOT NULL,
        PRIMARY KEY (namespace, subject, capability, binding)
    );
    CREATE TABLE audit (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at_us BIGINT NOT NULL,
        namespace TEXT NOT NULL, principal TEXT NOT NULL, action TEXT NOT NULL,
        subject TEXT NOT NULL, details TEXT NOT NULL
    );
    CREATE INDEX audit_by_namespace ON audit (namespace, id);
    CREATE TABLE receipts (
        run_id BYTEA NOT NULL, activity_id TEXT NOT NULL, attempt BIGINT NOT NULL,
        namespace TEXT NOT NULL, activity_type TEXT NOT NULL, queue TEXT NOT NULL,
        started_us BIGINT NOT NULL, ended_us BIGINT NOT NULL, outcome TEXT NOT NULL,
        counters TEXT NOT NULL,
        PRIMARY KEY (run_id, activity_id, attempt)
    );
    CREATE TABLE log_lines (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_id BYTEA NOT NULL,
        activity_id TEXT NOT NULL, activity_type TEXT NOT NULL, attempt BIGINT NOT NULL,
        at_us BIGINT NOT NULL, namespace TEXT NOT NULL, level TEXT NOT NULL,
        message TEXT NOT NULL, fields TEXT NOT NULL
    );
    CREATE INDEX log_lines_by_run ON log_lines (run_id, id);
    CREATE INDEX log_lines_by_time ON log_lines (at_us);
    CREATE INDEX receipts_by_time ON receipts (ended_us);
    CREATE TABLE replies (
        namespace TEXT NOT NULL, route TEXT NOT NULL, key TEXT NOT NULL,
        request BYTEA NOT NULL, status BIGINT NOT NULL, body BYTEA NOT NULL,
        at_us BIGINT NOT NULL,
        PRIMARY KEY (namespace, route, key)
    );
    CREATE INDEX replies_by_time ON replies (at_us);
",
    },
    Step {
        sqlite: "
    CREATE TABLE markers (name TEXT NOT NULL PRIMARY KEY, at_us INTEGER NOT NULL) WITHOUT ROWID;
",
        postgres: "
    CREATE TABLE markers (name TEXT NOT NULL PRIMARY KEY, at_us BIGINT NOT NULL);
",
    },
    Step {
        sqlite: "
    ALTER TABLE replies ADD COLUMN location TEXT;
",
        postgres: "
    ALTER TABLE replies ADD COLUMN location TEXT;
",
    },
    Step {
        sqlite: "
    CREATE TABLE tokens (
        id BLOB NOT NULL PRIMARY KEY, digest BLOB NOT NULL UNIQUE, name TEXT NOT NULL,
        namespaces TEXT NOT NULL, created_us INTEGER NOT NULL
    ) WITHOUT ROWID;
",
        postgres: "
    CREATE TABLE tokens (
        id BYTEA NOT NULL PRIMARY KEY, digest BYTEA NOT NULL UNIQUE, name TEXT NOT NULL,
        namespaces TEXT NOT NULL, created_us BIGINT NOT NULL
    );
",
    },
    // The sequence of changes; and on PostgreSQL what several servers share.
    Step {
        sqlite: "
    CREATE TABLE head (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), lineage BLOB NOT NULL,
        revision INTEGER NOT NULL, mark BLOB NOT NULL, before BLOB NOT NULL
    );
    INSERT INTO head (one, lineage, revision, mark, before)
        SELECT 1, lineage, 0, lineage, lineage FROM (SELECT randomblob(16) AS lineage);
    CREATE TABLE changes (
        revision INTEGER NOT NULL, part INTEGER NOT NULL, mark BLOB NOT NULL, what TEXT NOT NULL,
        namespace TEXT NOT NULL, name TEXT NOT NULL,
        PRIMARY KEY (revision, part)
    ) WITHOUT ROWID;
    ALTER TABLE uploads ADD COLUMN owner BLOB;
",
        postgres: "
    CREATE TABLE head (
        one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1), lineage BYTEA NOT NULL,
        revision BIGINT NOT NULL, mark BYTEA NOT NULL, before BYTEA NOT NULL
    );
    INSERT INTO head (one, lineage, revision, mark, before)
        SELECT 1, lineage, 0, lineage, lineage
        FROM (SELECT uuid_send(gen_random_uuid()) AS lineage) AS made;
    CREATE TABLE changes (
        revision BIGINT NOT NULL, part BIGINT NOT NULL, mark BYTEA NOT NULL, what TEXT NOT NULL,
        namespace TEXT NOT NULL, name TEXT NOT NULL,
        PRIMARY KEY (revision, part)
    );
    ALTER TABLE uploads ADD COLUMN owner BYTEA;
    CREATE TABLE servers (id BYTEA NOT NULL PRIMARY KEY, seen_us BIGINT NOT NULL);
    CREATE TABLE claims (
        namespace TEXT NOT NULL, route TEXT NOT NULL, key TEXT NOT NULL, owner BYTEA NOT NULL,
        PRIMARY KEY (namespace, route, key)
    );
    CREATE TABLE content (
        store TEXT NOT NULL, digest BYTEA NOT NULL, at_us BIGINT NOT NULL, bytes BYTEA NOT NULL,
        PRIMARY KEY (store, digest)
    );
    ALTER TABLE content ALTER COLUMN bytes SET STORAGE EXTERNAL;
    CREATE TABLE batches (
        worker BYTEA NOT NULL PRIMARY KEY, sequence BIGINT NOT NULL, at_us BIGINT NOT NULL
    );
    CREATE TABLE operator (
        one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1), digest BYTEA NOT NULL
    );
",
    },
    // The key that signs addresses of objects, of several servers; one alone has a file.
    Step {
        sqlite: "SELECT 1",
        postgres: "
    CREATE TABLE address_key (
        one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1), secret TEXT NOT NULL
    );
",
    },
    // What the audit is filtered by.
    Step {
        sqlite: "
    CREATE INDEX audit_by_action ON audit (namespace, action, id);
    CREATE INDEX audit_by_subject ON audit (namespace, subject, id);
    CREATE INDEX audit_by_action_and_subject ON audit (namespace, action, subject, id);
",
        postgres: "
    CREATE INDEX audit_by_action ON audit (namespace, action, id);
    CREATE INDEX audit_by_subject ON audit (namespace, subject, id);
    CREATE INDEX audit_by_action_and_subject ON audit (namespace, action, subject, id);
",
    },
    // What of workers was taken, of one server too: of several it is there since they are. And
    // what workers announced to any of several; one alone keeps it in memory.
    Step {
        sqlite: "
    CREATE TABLE batches (
        worker BLOB NOT NULL PRIMARY KEY, sequence INTEGER NOT NULL, at_us INTEGER NOT NULL
    ) WITHOUT ROWID;
",
        postgres: "
    CREATE TABLE workers (
        id BYTEA NOT NULL PRIMARY KEY, since_us BIGINT NOT NULL, heard_us BIGINT NOT NULL,
        announcement TEXT NOT NULL
    );
",
    },
];

/// The newest schema that is known.
#[must_use]
pub const fn newest() -> usize {
    STEPS.len()
}

fn known(found: i64, database: &'static str) -> Result<usize, StateError> {
    match usize::try_from(found) {
        Ok(found) if found <= STEPS.len() => Ok(found),
        _ => Err(StateError::TooNew {
            database,
            found,
            known: STEPS.len(),
        }),
    }
}

/// The steps that a file has.
pub(super) async fn steps_of_file(pool: &SqlitePool) -> Result<usize, StateError> {
    let found: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(pool)
        .await?;
    known(found, "host.db")
}

/// Takes the steps up to a schema that a file lacks; answers how many it had.
pub(super) async fn migrate_file(pool: &SqlitePool, schema: usize) -> Result<usize, StateError> {
    let done = steps_of_file(pool).await?;
    let mut connection = pool.acquire().await?;
    for (number, step) in STEPS.iter().enumerate().take(schema).skip(done) {
        // Both are texts of this file.
        let text = format!(
            "BEGIN IMMEDIATE; {}; PRAGMA user_version = {}; COMMIT;",
            step.sqlite,
            number + 1
        );
        sqlx::raw_sql(AssertSqlSafe(text))
            .execute(&mut *connection)
            .await?;
    }
    Ok(done)
}

/// The steps that a server's database has.
pub(super) async fn steps_of_server(pool: &PgPool) -> Result<usize, StateError> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass('heyday_schema') IS NOT NULL")
        .fetch_one(pool)
        .await?;
    if !there {
        return Ok(0);
    }
    let found: i64 = sqlx::query_scalar("SELECT version FROM heyday_schema")
        .fetch_one(pool)
        .await?;
    known(found, POSTGRES)
}

/// Takes the steps up to a schema that a server's database lacks, all or none; answers how
/// many it had. Waits while another process does the same.
pub(super) async fn migrate_server(
    options: &PgConnectOptions,
    schema: usize,
) -> Result<usize, StateError> {
    let mut connection = connect(options).await?;
    let mut transaction = connection.begin().await?;
    // Statements that change tables may take long, and so may the other process.
    sqlx::raw_sql("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
        .execute(&mut *transaction)
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await?;
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS heyday_schema (
             one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1), version BIGINT NOT NULL
         );
         INSERT INTO heyday_schema (one, version) VALUES (1, 0) ON CONFLICT DO NOTHING",
    )
    .execute(&mut *transaction)
    .await?;
    let found: i64 = sqlx::query_scalar("SELECT version FROM heyday_schema")
        .fetch_one(&mut *transaction)
        .await?;
    let done = known(found, POSTGRES)?;
    for step in STEPS.iter().take(schema).skip(done) {
        sqlx::raw_sql(step.postgres)
            .execute(&mut *transaction)
            .await?;
    }
    sqlx::query("UPDATE heyday_schema SET version = $1")
        .bind(i64::try_from(schema.max(done)).unwrap_or(i64::MAX))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    connection.close().await?;
    Ok(done)
}
