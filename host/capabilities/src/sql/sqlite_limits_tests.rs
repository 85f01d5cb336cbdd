//! Where statements and streams end: at a deadline, a limit, a lock, a full disk.

use super::*;

#[tokio::test]
async fn a_hostile_statement_ends_when_its_caller_does() {
    let it = fixture_with(SqlLimits {
        connections: 1,
        ..SqlLimits::default()
    });
    let begun = Instant::now();
    let spinning = it.database.query(Access::Read, SPIN.into(), vec![]);
    tokio::time::timeout(Duration::from_millis(200), spinning)
        .await
        .expect_err("it never ends");
    // The only connection is free again: so the statement has ended.
    it.rows("SELECT 1").await;
    assert!(begun.elapsed() < ACQUIRE_TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_statement_ends_at_the_bindings_limit() {
    let it = fixture_with(SqlLimits {
        statement_timeout_ms: 1_000,
        ..SqlLimits::default()
    });
    let error = it.fails(Access::Read, SPIN).await;
    assert_eq!(error.code, SqlCode::Timeout, "{error}");
    // A cursor tells it where it comes: before the first row, or after it.
    let stream = |statement: String| it.database.stream(Access::Read, statement, vec![]);
    let error = stream(SPIN.into()).await.err().expect("it never begins");
    assert_eq!(error.code, SqlCode::Timeout, "{error}");
    let later = SPIN.replace("SELECT count(*)", "SELECT 0 UNION ALL SELECT count(*)");
    let mut cursor = stream(later).await.expect("begun");
    let error = cursor.next(1).await.expect_err("it never ends");
    assert_eq!(error.code, SqlCode::Timeout, "{error}");
    it.rows("SELECT 1").await;
}

#[tokio::test]
async fn a_statement_that_eats_memory_ends() {
    let it = fixture_with(SqlLimits {
        memory_bytes: 32 << 20,
        ..SqlLimits::default()
    });
    let error = it
        .fails(
            Access::Read,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
             SELECT hex(randomblob(500)) AS x FROM n ORDER BY x",
        )
        .await;
    assert_eq!(error.code, SqlCode::LimitExceeded, "{error}");
    let error = it.fails(Access::Read, "SELECT zeroblob(100000000)").await;
    assert_eq!(error.code, SqlCode::LimitExceeded, "{error}");
}

#[tokio::test]
async fn large_results_are_refused_or_streamed() {
    let it = fixture_with(SqlLimits {
        result_rows: 1_000,
        result_bytes: 1 << 20,
        ..SqlLimits::default()
    });
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
                SELECT i, 'some text of a row' FROM n";
    let refused = |statement: &str| {
        it.database
            .query(Access::Read, statement.to_owned(), vec![])
    };
    let error = refused(rows).await.expect_err("too many rows");
    assert_eq!(error.code, SqlCode::LimitExceeded);
    let error = refused("SELECT zeroblob(700000), zeroblob(700000)")
        .await
        .expect_err("too many bytes");
    assert_eq!(error.code, SqlCode::LimitExceeded);

    let mut cursor = it
        .database
        .stream(Access::Read, rows.into(), vec![])
        .await
        .expect("begun");
    assert_eq!(cursor.columns()[0].name, "i");
    let mut expected = 1;
    loop {
        let batch = cursor.next(5_000).await.expect("a batch");
        if batch.is_empty() {
            break;
        }
        assert!(batch.len() <= 5_000);
        for row in batch {
            assert_eq!(row[0], Value::Integer(expected));
            expected += 1;
        }
    }
    assert_eq!(expected, 100_001);
    assert!(cursor.next(1).await.expect("still the end").is_empty());
}

#[tokio::test]
async fn a_stream_is_read_only_as_fast_as_it_is_asked_for() {
    let it = fixture_with(SqlLimits {
        connections: 1,
        ..SqlLimits::default()
    });
    it.run("CREATE TABLE t (a)").await;
    // Endless, so it would fill the memory if it were read ahead without bound.
    let mut cursor = it
        .database
        .stream(
            Access::Read,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
             SELECT i, zeroblob(100000) FROM n"
                .into(),
            vec![],
        )
        .await
        .expect("begun");
    let first = cursor.next(1_000_000).await.expect("rows");
    let bytes: u64 = first.iter().flatten().map(value_bytes).sum();
    assert!(!first.is_empty() && bytes <= ANSWER_BYTES, "{bytes}");
    drop(cursor);
    // The one connection comes back, so dropping ended the statement.
    it.rows("SELECT 1").await;
}

#[tokio::test]
async fn a_lock_that_stays_held_is_a_conflict() {
    let it = fixture_with(SqlLimits {
        busy_timeout_ms: 30,
        ..SqlLimits::default()
    });
    it.run("CREATE TABLE t (a)").await;
    let holder = it.database.begin(Access::Write).await.expect("begun");
    let error = it.fails(Access::Write, "INSERT INTO t VALUES (1)").await;
    assert_eq!(error.code, SqlCode::Conflict, "{error}");
    assert!(crate::ErrorCode::retryable(error.code));
    let begun = it.database.begin(Access::Write).await;
    assert_eq!(begun.err().map(|error| error.code), Some(SqlCode::Conflict));
    // Readers are not held up.
    assert_eq!(it.count("t").await, 0);
    holder.rollback().await.expect("rolled back");
    it.run("INSERT INTO t VALUES (1)").await;
}

#[tokio::test]
async fn a_full_disk_is_told_and_closes_the_transaction() {
    let it = fixture_with(SqlLimits {
        database_bytes: Some(128 << 10),
        ..SqlLimits::default()
    });
    it.run("CREATE TABLE t (a)").await;
    let fill = "INSERT INTO t VALUES (zeroblob(1000000))";
    let error = it.fails(Access::Write, fill).await;
    assert_eq!(error.code, SqlCode::Unavailable, "{error}");
    assert_eq!(
        error.details,
        Some(serde_json::json!({ "kind": "disk-full" }))
    );
    it.run("INSERT INTO t VALUES (1)").await;
    let mut transaction = it.database.begin(Access::Write).await.expect("begun");
    transaction
        .execute("INSERT INTO t VALUES (2)".into(), vec![])
        .await
        .expect("there is room");
    let error = transaction
        .execute(fill.into(), vec![])
        .await
        .expect_err("no room");
    assert_eq!(error.code, SqlCode::Unavailable, "{error}");
    drop(transaction);
    assert_eq!(it.count("t").await, 1);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_unavailable() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("text.db");
    std::fs::write(
        &path,
        "not a database at all, but long enough to be looked at. ".repeat(40),
    )
    .expect("written");
    let database =
        SqliteDatabase::new(&path, false, SqlLimits::default(), Handle::current()).expect("lazy");
    let error = database
        .query(Access::Read, "SELECT 1 FROM sqlite_master".into(), vec![])
        .await
        .expect_err("no database");
    assert_eq!(error.code, SqlCode::Unavailable, "{error}");
    assert!(
        !error
            .message
            .contains(folder.path().to_str().expect("UTF-8"))
    );
    let error = SqliteDatabase::new(
        folder.path(),
        false,
        SqlLimits::default(),
        Handle::current(),
    )
    .expect_err("a folder");
    assert!(matches!(error, OpenError::NotAFile(_)));
}

#[tokio::test]
async fn connections_outlive_nothing_of_their_last_user() {
    let it = fixture_with(SqlLimits {
        connections: 1,
        ..SqlLimits::default()
    });
    it.run("CREATE TABLE t (a)").await;
    // Stopped within a transaction: the next user finds none open.
    let mut transaction = it.database.begin(Access::Write).await.expect("begun");
    transaction
        .execute("INSERT INTO t VALUES (1)".into(), vec![])
        .await
        .expect("inserted");
    let spinning = transaction.query(SPIN.into(), vec![]);
    tokio::time::timeout(Duration::from_millis(100), spinning)
        .await
        .expect_err("it never ends");
    drop(transaction);
    it.run("INSERT INTO t VALUES (2)").await;
    assert_eq!(it.count("t").await, 1);
}
