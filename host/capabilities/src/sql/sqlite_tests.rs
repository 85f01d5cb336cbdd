//! What plugins may do with a SQLite binding, and what they get back.

use std::path::PathBuf;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::sql::Rows;
use crate::sql::cursor::ANSWER_BYTES;
use crate::sql::value_bytes;

#[path = "sqlite_limits_tests.rs"]
mod limits;

struct Fixture {
    _folder: TempDir,
    path: PathBuf,
    database: SqliteDatabase,
}

fn fixture_with(limits: SqlLimits) -> Fixture {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data").join("test.db");
    let database =
        SqliteDatabase::new(&path, false, limits, Handle::current()).expect("a database");
    Fixture {
        _folder: folder,
        path,
        database,
    }
}

fn fixture() -> Fixture {
    fixture_with(SqlLimits::default())
}

impl Fixture {
    async fn run(&self, statement: &str) -> u64 {
        self.database
            .execute(Access::Write, statement.into(), vec![])
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    async fn fails(&self, access: Access, statement: &str) -> SqlError {
        match self
            .database
            .execute(access, statement.into(), vec![])
            .await
        {
            Ok(_) => panic!("{statement} was allowed"),
            Err(error) => error,
        }
    }

    async fn rows(&self, statement: &str) -> Rows {
        self.database
            .query(Access::Read, statement.into(), vec![])
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
            .rows
    }

    async fn count(&self, table: &str) -> i64 {
        match self.rows(&format!("SELECT count(*) FROM {table}")).await[0][0] {
            Value::Integer(count) => count,
            ref other => panic!("a count is {other:?}"),
        }
    }
}

const SPIN: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                    SELECT count(*) FROM n";

#[tokio::test]
async fn sqlite_is_new_enough_and_has_full_text_search() {
    let version = libsqlite3_sys::SQLITE_VERSION_NUMBER;
    assert!(version >= 3_051_003, "{version}");
    let it = fixture();
    let running = &it.rows("SELECT sqlite_version()").await[0][0];
    assert_eq!(
        *running,
        Value::Text("3.51.3".into()),
        "not the bundled one"
    );
    it.run("CREATE VIRTUAL TABLE passages USING fts5(body, source UNINDEXED)")
        .await;
    it.run("INSERT INTO passages VALUES ('durable tasks in wasm', 'a.md')")
        .await;
    let found = it
        .rows(
            "SELECT source, snippet(passages, 0, '[', ']', '...', 8), bm25(passages) \
               FROM passages WHERE passages MATCH 'durable' ORDER BY rank",
        )
        .await;
    assert_eq!(found[0][0], Value::Text("a.md".into()));
    assert_eq!(found[0][1], Value::Text("[durable] tasks in wasm".into()));
    assert_eq!(
        it.run("DELETE FROM passages WHERE source = 'a.md'").await,
        1
    );
    it.run("INSERT INTO passages(passages) VALUES ('optimize')")
        .await;
    it.run("ALTER TABLE passages RENAME TO pages").await;
    it.run("DROP TABLE pages").await;
}

#[tokio::test]
async fn each_type_reads_back_as_it_was_written() {
    let it = fixture();
    it.run(
        "CREATE TABLE v (a BOOLEAN, b INTEGER, c REAL, d DECIMAL TEXT, e TEXT, f BLOB, \
         g UUID, h DATE, i TIME, j TIMESTAMP, k DATETIME, l JSON TEXT, m ARRAY TEXT, n ANY, \
         o INET TEXT)",
    )
    .await;
    let row = vec![
        Value::Boolean(true),
        Value::Integer(i64::MIN),
        Value::Real(-0.1),
        Value::Decimal("-12.50".into()),
        Value::Text("ä\0b".into()),
        Value::Bytes(vec![0, 255]),
        Value::Uuid("0189a2c4-0000-7000-8000-00000000abcd".into()),
        Value::Date("2026-11-24".into()),
        Value::Time("13:37:00.5".into()),
        Value::Timestamp("2026-11-24T13:37:00+01:00".into()),
        Value::Datetime("2026-11-24T13:37:00".into()),
        Value::Json("{\"a\": 1.0}".into()),
        Value::Array("[1, 2]".into()),
        Value::Null,
        Value::Other(("inet".into(), "10.0.0.1".into())),
    ];
    let statement = "INSERT INTO v VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)";
    let changed = it
        .database
        .execute(Access::Write, statement.into(), row.clone())
        .await
        .expect("stored");
    assert_eq!(changed, 1);
    let set = it
        .database
        .query(Access::Read, "SELECT * FROM v".into(), vec![])
        .await
        .expect("read");
    let mut expected = row;
    // Its type is not one that SQLite's declared types name.
    expected[14] = Value::Text("10.0.0.1".into());
    assert_eq!(set.rows, vec![expected]);
    assert_eq!(set.columns[3].declared_type, "decimal text");
    assert_eq!(set.columns[0].name, "a");
    let set = it.rows("SELECT 1 + 1, CAST(x'ff' AS TEXT)").await;
    assert_eq!(set[0], vec![Value::Integer(2), Value::Bytes(vec![255])]);
}

#[tokio::test]
async fn what_no_plugin_may_is_denied() {
    let it = fixture();
    it.run("CREATE TABLE t (a)").await;
    let target = it.path.with_file_name("stolen.db");
    let target = target.display();
    for statement in [
        format!("ATTACH '{target}' AS other"),
        "ATTACH ':memory:' AS other".into(),
        "DETACH main".into(),
        "SELECT load_extension('x')".into(),
        "SELECT fts3_tokenizer('simple')".into(),
        "SELECT fts3_tokenizer('simple', x'00')".into(),
        format!("VACUUM INTO '{target}'"),
        "VACUUM".into(),
        "BEGIN".into(),
        "COMMIT".into(),
        "ROLLBACK".into(),
        "SAVEPOINT a".into(),
        "CREATE TEMP TABLE x (a)".into(),
        "CREATE TEMP VIEW x AS SELECT 1".into(),
        "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END".into(),
        "CREATE VIRTUAL TABLE x USING dbstat".into(),
        "CREATE VIRTUAL TABLE x USING fts3(a)".into(),
        // A PRAGMA as a table is one as well.
        "SELECT file FROM pragma_database_list".into(),
        "SELECT * FROM pragma_journal_mode".into(),
    ] {
        let error = it.fails(Access::Write, &statement).await;
        assert_eq!(
            error.code,
            SqlCode::CapabilityDenied,
            "{statement}: {error}"
        );
    }
    assert!(!it.path.with_file_name("stolen.db").exists());
    for pragma in [
        "journal_mode = DELETE",
        "synchronous = OFF",
        "temp_store_directory = '/tmp'",
        "temp_store = 1",
        "writable_schema = ON",
        "query_only = OFF",
        "foreign_keys = OFF",
        "trusted_schema = ON",
        "max_page_count = 9",
        "hard_heap_limit = 1",
        "soft_heap_limit = 1",
        "mmap_size = 1",
        "busy_timeout = 1",
        "wal_checkpoint(TRUNCATE)",
        "locking_mode = EXCLUSIVE",
        "schema_version = 1",
        "encoding = 'UTF-16'",
        "page_size = 512",
        "data_version = 1",
        "database_list",
        "module_list",
        "unheard_of",
    ] {
        let error = it.fails(Access::Write, &format!("PRAGMA {pragma}")).await;
        assert_eq!(error.code, SqlCode::CapabilityDenied, "{pragma}: {error}");
    }
    for pragma in [
        "table_info(t)",
        "user_version",
        "user_version = 7",
        "application_id = 7",
        "foreign_keys",
    ] {
        it.run(&format!("PRAGMA {pragma}")).await;
    }
    let rows = it.rows("SELECT name FROM pragma_table_info('t')").await;
    assert_eq!(rows, vec![vec![Value::Text("a".into())]]);
    it.run("CREATE TABLE u (a)").await;
    let error = it.fails(Access::Write, "DELETE FROM sqlite_master").await;
    assert_eq!(error.code, SqlCode::InvalidStatement, "{error}");
}

#[tokio::test]
async fn a_reading_grant_does_not_write() {
    let it = fixture();
    it.run("CREATE TABLE t (a UNIQUE)").await;
    for statement in [
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "CREATE TABLE u (a)",
        "DROP TABLE t",
        "CREATE INDEX i ON t (a)",
        "ALTER TABLE t ADD b",
        "REINDEX",
        "ANALYZE",
        "PRAGMA user_version = 3",
        "PRAGMA application_id = 3",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
    ] {
        let error = it.fails(Access::Read, statement).await;
        assert_eq!(
            error.code,
            SqlCode::CapabilityDenied,
            "{statement}: {error}"
        );
    }
    assert_eq!(it.count("t").await, 0);
    let mut transaction = it.database.begin(Access::Read).await.expect("reading");
    let error = transaction
        .execute("INSERT INTO t VALUES (1)".into(), vec![])
        .await
        .expect_err("read-only");
    assert_eq!(error.code, SqlCode::CapabilityDenied);
    transaction.rollback().await.expect("rolled back");
}

#[tokio::test]
async fn a_read_only_binding_leaves_the_file_alone() {
    let it = fixture();
    it.run("CREATE TABLE t (a)").await;
    it.run("INSERT INTO t VALUES (1)").await;
    it.database.close().await;
    let open =
        |path: &Path| SqliteDatabase::new(path, true, SqlLimits::default(), Handle::current());
    let reading = open(&it.path).expect("the file is there");
    let set = reading
        .query(Access::Read, "SELECT a FROM t".into(), vec![])
        .await
        .expect("read");
    assert_eq!(set.rows.len(), 1);
    let error = reading
        .execute(Access::Write, "DELETE FROM t".into(), vec![])
        .await
        .expect_err("read-only");
    assert_eq!(error.code, SqlCode::CapabilityDenied);
    let missing = open(&it.path.with_file_name("none.db"));
    assert!(matches!(missing, Err(OpenError::Missing(_))));
}

#[tokio::test]
async fn bad_statements_and_parameters_are_told_apart() {
    let it = fixture();
    it.run("CREATE TABLE t (a INTEGER PRIMARY KEY)").await;
    for statement in [
        "",
        "-- nothing",
        ";",
        "SELEC 1",
        "SELECT * FROM nothing",
        "SELECT 1; SELECT 2",
        "SELECT 1; garbage",
        "SELECT 1 /* open */ ; DROP TABLE t",
        "SELECT :name",
        "SELECT $1",
        "SELECT ?1, ?3",
        "SELECT ?1, ?",
        "SELECT 'a\0b'",
    ] {
        let error = it.fails(Access::Write, statement).await;
        assert_eq!(
            error.code,
            SqlCode::InvalidStatement,
            "{statement:?}: {error}"
        );
    }
    it.run("SELECT 1; -- and nothing else").await;
    let given = |params: Vec<Value>| {
        it.database
            .execute(Access::Write, "INSERT INTO t VALUES (?1)".into(), params)
    };
    for params in [
        vec![],
        vec![Value::Integer(1), Value::Integer(2)],
        vec![Value::Json("{".into())],
        vec![Value::Text("no integer".into())],
    ] {
        let error = given(params).await.expect_err("does not fit");
        assert_eq!(error.code, SqlCode::InvalidParameter, "{error}");
    }
    assert_eq!(it.count("t").await, 0);
    let long = format!("SELECT '{}'", "x".repeat(2 << 20));
    let error = it.fails(Access::Write, &long).await;
    assert_eq!(error.code, SqlCode::LimitExceeded, "{error}");
}

#[tokio::test]
async fn constraints_are_named() {
    let it = fixture();
    it.run(
        "CREATE TABLE p (id INTEGER PRIMARY KEY, mail TEXT UNIQUE NOT NULL, age INT \
            CONSTRAINT grown CHECK (age > 17))",
    )
    .await;
    it.run("CREATE TABLE c (p INTEGER REFERENCES p (id))").await;
    it.run("INSERT INTO p VALUES (1, 'a', 18)").await;
    for (statement, kind, constraint) in [
        (
            "INSERT INTO p VALUES (1, 'b', 18)",
            "primary-key",
            Some("p.id"),
        ),
        (
            "INSERT INTO p VALUES (2, 'a', 18)",
            "unique",
            Some("p.mail"),
        ),
        (
            "INSERT INTO p VALUES (2, NULL, 18)",
            "not-null",
            Some("p.mail"),
        ),
        ("INSERT INTO p VALUES (2, 'b', 1)", "check", Some("grown")),
        ("INSERT INTO c VALUES (9)", "foreign-key", None),
    ] {
        let error = it.fails(Access::Write, statement).await;
        assert_eq!(error.code, SqlCode::Constraint, "{statement}: {error}");
        let details = error.details.expect("details");
        assert_eq!(details["kind"], kind, "{statement}");
        assert_eq!(details["constraint"].as_str(), constraint, "{statement}");
    }
}

#[tokio::test]
async fn only_changes_of_rows_are_counted() {
    let it = fixture();
    assert_eq!(it.run("CREATE TABLE t (a)").await, 0);
    assert_eq!(it.run("INSERT INTO t VALUES (1), (2), (3)").await, 3);
    assert_eq!(it.run("CREATE TABLE u (a)").await, 0);
    assert_eq!(it.run("SELECT * FROM t").await, 0);
    assert_eq!(it.run("UPDATE t SET a = 0 WHERE a > 1").await, 2);
    let returned = it
        .database
        .query(
            Access::Write,
            "INSERT INTO t VALUES (?1) RETURNING a".into(),
            vec![Value::Integer(9)],
        )
        .await
        .expect("inserted");
    assert_eq!(returned.rows, vec![vec![Value::Integer(9)]]);
}

#[tokio::test]
async fn what_is_kept_prepared_follows_the_schema_and_keeps_no_rights() {
    let it = fixture_with(SqlLimits {
        // The same one each time.
        connections: 1,
        ..SqlLimits::default()
    });
    it.run("CREATE TABLE t (a INTEGER)").await;
    it.run("INSERT INTO t VALUES (1)").await;
    let read = || {
        it.database
            .query(Access::Read, "SELECT * FROM t".into(), vec![])
    };
    for _ in 0..2 {
        let set = read().await.expect("read");
        assert_eq!(set.columns.len(), 1);
        assert_eq!(set.rows, [[Value::Integer(1)]]);
    }
    // Another connection changes what it reads.
    it.run("ALTER TABLE t ADD b UUID DEFAULT '0189a2c4-0000-7000-8000-00000000abcd'")
        .await;
    let set = read().await.expect("read");
    assert_eq!(set.columns[1].declared_type, "uuid");
    let uuid = Value::Uuid("0189a2c4-0000-7000-8000-00000000abcd".into());
    assert_eq!(set.rows, [[Value::Integer(1), uuid]]);
    it.run("DROP TABLE t").await;
    let error = read().await.expect_err("it is gone");
    assert_eq!(error.code, SqlCode::InvalidStatement, "{error}");
    it.run("CREATE VIEW t AS SELECT load_extension('x')").await;
    let error = read().await.expect_err("refused");
    assert_eq!(error.code, SqlCode::InvalidStatement, "{error}");

    // What was kept for a writing grant is nothing to a reading one.
    it.run("CREATE TABLE w (a)").await;
    let insert = "INSERT INTO w VALUES (1)";
    for _ in 0..2 {
        assert_eq!(it.run(insert).await, 1);
        let error = it.fails(Access::Read, insert).await;
        assert_eq!(error.code, SqlCode::CapabilityDenied, "{error}");
    }

    // What acts while it is prepared acts each time.
    it.run("CREATE TABLE p (a PRIMARY KEY)").await;
    it.run("CREATE TABLE c (a REFERENCES p)").await;
    for _ in 0..2 {
        let mut transaction = it.database.begin(Access::Write).await.expect("begun");
        let mut run = async |statement: &str| transaction.execute(statement.into(), vec![]).await;
        run("PRAGMA defer_foreign_keys = on")
            .await
            .expect("allowed");
        run("INSERT INTO c VALUES (7)")
            .await
            .expect("not yet checked");
        transaction.rollback().await.expect("rolled back");
    }
    // More statements than are kept.
    for number in 0..200 {
        let statement = format!("SELECT {number}, ?1");
        let query = it
            .database
            .query(Access::Read, statement, vec![Value::Null]);
        assert_eq!(query.await.expect("read").rows.len(), 1);
    }
}

#[tokio::test]
async fn a_dropped_transaction_leaves_nothing() {
    let it = fixture();
    it.run("CREATE TABLE t (a)").await;
    let mut transaction = it.database.begin(Access::Write).await.expect("begun");
    transaction
        .execute("INSERT INTO t VALUES (1)".into(), vec![])
        .await
        .expect("inserted");
    drop(transaction);
    // Waits for the lock that the dropped one had.
    let mut transaction = it.database.begin(Access::Write).await.expect("begun");
    let set = transaction
        .query("SELECT count(*) FROM t".into(), vec![])
        .await
        .expect("read");
    assert_eq!(set.rows, vec![vec![Value::Integer(0)]]);
    transaction
        .execute("INSERT INTO t VALUES (2)".into(), vec![])
        .await
        .expect("inserted");
    transaction.commit().await.expect("committed");
    assert_eq!(it.count("t").await, 1);
    let transaction = it.database.begin(Access::Write).await.expect("begun");
    transaction.rollback().await.expect("rolled back");
    assert_eq!(it.count("t").await, 1);
}

#[tokio::test]
async fn many_executions_are_all_or_nothing() {
    let it = fixture();
    it.run("CREATE TABLE t (a UNIQUE)").await;
    let many = |numbers: &[i64]| -> Vec<Vec<Value>> {
        numbers.iter().map(|n| vec![Value::Integer(*n)]).collect()
    };
    let insert = || "INSERT INTO t VALUES (?1)".to_owned();
    let error = it
        .database
        .execute_many(Access::Write, insert(), many(&[1, 2, 1]))
        .await
        .expect_err("twice the same");
    assert_eq!(error.code, SqlCode::Constraint);
    assert_eq!(it.count("t").await, 0);
    let changed = it
        .database
        .execute_many(Access::Write, insert(), many(&[1, 2, 3]))
        .await
        .expect("inserted");
    assert_eq!(changed, 3);
    // Within a transaction, what came before stays.
    let mut transaction = it.database.begin(Access::Write).await.expect("begun");
    transaction
        .execute("INSERT INTO t VALUES (10)".into(), vec![])
        .await
        .expect("inserted");
    transaction
        .execute_many(insert(), many(&[11, 3]))
        .await
        .expect_err("twice the same");
    transaction.commit().await.expect("committed");
    assert_eq!(it.count("t").await, 4);
}

#[tokio::test]
async fn many_executions_take_all_kinds_of_values() {
    let it = fixture();
    it.run("CREATE TABLE t (a)").await;
    let values = [
        Value::Null,
        Value::Boolean(true),
        Value::Integer(i64::MIN),
        Value::Real(0.5),
        Value::Bytes(vec![]),
        Value::Bytes(vec![0, 255]),
        Value::Text(String::new()),
        Value::Text("a\0b".into()),
        Value::Decimal("1.50".into()),
    ];
    let lists = values.iter().map(|value| vec![value.clone()]).collect();
    let insert = "INSERT INTO t VALUES (?1)".to_owned();
    let changed = it
        .database
        .execute_many(Access::Write, insert, lists)
        .await
        .expect("inserted");
    assert_eq!(changed, 9);
    let rows = it.rows("SELECT a FROM t ORDER BY rowid").await;
    let read: Vec<Value> = rows.into_iter().map(|mut row| row.remove(0)).collect();
    let mut expected = values.to_vec();
    expected[1] = Value::Integer(1);
    expected[8] = Value::Text("1.50".into());
    assert_eq!(read, expected);
    // Rows that a statement answers are passed over.
    let returning = "INSERT INTO t VALUES (?1) RETURNING a".to_owned();
    let changed = it
        .database
        .execute_many(Access::Write, returning, vec![vec![Value::Integer(1)]; 3])
        .await
        .expect("inserted");
    assert_eq!(changed, 3);
}

#[tokio::test]
async fn writers_get_their_turn_in_order() {
    let it = fixture_with(SqlLimits {
        // Fewer than there are writers: who waits holds none.
        connections: 2,
        ..SqlLimits::default()
    });
    it.run("CREATE TABLE t (a)").await;
    let holder = it.database.begin(Access::Write).await.expect("begun");
    let mut writers = Vec::new();
    for number in 0..20 {
        let database = it.database.clone();
        let mut writer = Box::pin(async move {
            let mut transaction = database.begin(Access::Write).await?;
            let insert = "INSERT INTO t VALUES (?1)".to_owned();
            transaction
                .execute(insert, vec![Value::Integer(number)])
                .await?;
            transaction.commit().await
        });
        // Polled once each, so that they come in this order; the wait itself is begun by
        // a task of the runtime.
        assert!(futures::poll!(writer.as_mut()).is_pending());
        tokio::task::yield_now().await;
        writers.push(writer);
    }
    assert_eq!(it.count("t").await, 0);
    holder.rollback().await.expect("rolled back");
    for outcome in futures::future::join_all(writers).await {
        outcome.expect("written");
    }
    let rows = it.rows("SELECT a FROM t ORDER BY rowid").await;
    let order: Vec<Value> = rows.into_iter().map(|mut row| row.remove(0)).collect();
    assert_eq!(order, (0..20).map(Value::Integer).collect::<Vec<_>>());
}
