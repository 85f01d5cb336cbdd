//! What statements may use, and how they end.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_ends_on_the_server() {
    let Some(binding) = binding(one_connection()) else {
        return;
    };
    let name = &binding.role.name;
    let sleep = "SELECT pg_sleep(600)";
    let database = binding.database.clone();
    let waiting = tokio::spawn(async move {
        let _ = database
            .query(Access::Write, sleep.into(), Vec::new())
            .await;
    });
    until("the statement runs", || running(name, "pg_sleep") == 1).await;
    waiting.abort();
    until("it was cancelled", || running(name, "pg_sleep") == 0).await;
    assert_eq!(binding.ask("SELECT 5").await, "5");

    // Within a transaction.
    let mut transaction = binding.begin(Access::Write).await;
    let waiting = tokio::spawn(async move {
        let _ = transaction.query(sleep.into(), Vec::new()).await;
    });
    until("the statement runs", || running(name, "pg_sleep") == 1).await;
    waiting.abort();
    until("it was cancelled", || running(name, "pg_sleep") == 0).await;
    assert_eq!(binding.ask("SELECT 5").await, "5");

    // A cursor of a result without an end.
    let endless =
        "WITH RECURSIVE r(n) AS (SELECT 1::bigint UNION ALL SELECT n + 1 FROM r) SELECT n FROM r";
    let mut cursor = binding
        .database
        .stream(Access::Write, endless.into(), Vec::new())
        .await
        .unwrap();
    let mut next = 1;
    while next < 20_000 {
        for row in cursor.next(1_000).await.unwrap() {
            assert_eq!(row, [Value::Integer(next)]);
            next += 1;
        }
    }
    drop(cursor);
    assert_eq!(binding.ask("SELECT 5").await, "5");
    assert_eq!(running(name, "RECURSIVE"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_at_its_limit_whatever_it_says() {
    let Some(binding) = binding(SqlLimits {
        // Enough for what is done at once elsewhere, on a busy machine.
        statement_timeout_ms: 4_000,
        busy_timeout_ms: 500,
        connections: 2,
        ..SqlLimits::default()
    }) else {
        return;
    };
    let name = &binding.role.name;
    let slept = binding.run("SELECT pg_sleep(600)").await;
    assert_eq!(code(slept, "sleeping"), SqlCode::Timeout);
    let mut transaction = binding.begin(Access::Write).await;
    let off = "SET statement_timeout = 0";
    transaction.execute(off.into(), Vec::new()).await.unwrap();
    let slept = transaction
        .query("SELECT pg_sleep(600)".into(), Vec::new())
        .await;
    assert_eq!(code(slept, "sleeping"), SqlCode::Timeout);
    assert_eq!(running(name, "pg_sleep"), 0);
    transaction.rollback().await.expect("it is rolled back");
    // A cursor tells it where it comes, after the rows that were in time.
    let late = "SELECT n FROM generate_series(1, 1000) AS n \
                WHERE n < 500 OR pg_sleep(600)::text = 'never'";
    let stream = binding
        .database
        .stream(Access::Write, late.into(), Vec::new());
    let mut cursor = stream.await.expect("its first rows are there");
    let late = loop {
        match cursor.next(100).await {
            Ok(rows) => assert!(!rows.is_empty(), "it ended"),
            Err(error) => break error,
        }
    };
    assert_eq!(late.code, SqlCode::Timeout, "{late}");
    drop(cursor);
    assert_eq!(running(name, "pg_sleep"), 0);
    // Another's lock is not waited for longer than is said.
    binding.run("CREATE TABLE t (n INTEGER)").await.unwrap();
    binding.run("INSERT INTO t VALUES (1)").await.unwrap();
    let mut transaction = binding.begin(Access::Write).await;
    let write = "UPDATE t SET n = n + 1";
    transaction.execute(write.into(), Vec::new()).await.unwrap();
    assert_eq!(code(binding.run(write).await, "locked"), SqlCode::Conflict);
    transaction.commit().await.unwrap();
    binding.run(write).await.expect("nobody holds it");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_held_to_their_limits() {
    let Some(binding) = binding(SqlLimits {
        result_rows: 100,
        result_bytes: 100_000,
        ..one_connection()
    }) else {
        return;
    };
    for (statement, told) in [
        (
            "SELECT generate_series(1, 1000000000)",
            "more than 100 rows",
        ),
        (
            "SELECT repeat('x', 20000) FROM generate_series(1, 50)",
            "more than 100000 bytes",
        ),
        ("SELECT repeat('x', 5000000)", "larger"),
    ] {
        let outcome = binding
            .database
            .query(Access::Write, statement.into(), Vec::new())
            .await;
        let error = outcome.expect_err(statement);
        assert_eq!(error.code, SqlCode::LimitExceeded, "{error}");
        assert!(error.message.contains(told), "{error}");
        assert_eq!(binding.ask("SELECT 5").await, "5");
    }
    // In a transaction it goes on where the answer can be left.
    let mut transaction = binding.begin(Access::Write).await;
    let statement = "SELECT generate_series(1, 1000000000)";
    let outcome = transaction.query(statement.into(), Vec::new()).await;
    assert_eq!(code(outcome, statement), SqlCode::LimitExceeded);
    transaction.rollback().await.expect("it is rolled back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_binding_fills_its_own_places() {
    let Some(server) = postgres::shared() else {
        return;
    };
    let database = server.database();
    let slow = Binding::on(server.role(&database), one_connection());
    let other = Binding::on(server.role(&database), one_connection());
    drop(server);
    let transaction = slow.begin(Access::Write).await;
    let ask = || {
        let database = slow.database.clone();
        tokio::spawn(async move {
            let one = "SELECT 1".to_owned();
            database.query(Access::Write, one, Vec::new()).await
        })
    };
    // One waits; the other is told at once that there is no room.
    let (mut first, mut second) = (ask(), ask());
    let (refused, waiting) = tokio::select! {
        refused = &mut first => (refused, second),
        refused = &mut second => (refused, first),
    };
    let error = refused.unwrap().expect_err("no place");
    assert_eq!(error.code, SqlCode::Unavailable);
    assert!(error.message.contains("free"), "{error}");
    assert_eq!(other.ask("SELECT 5").await, "5");
    drop(transaction);
    waiting.await.unwrap().expect("its turn came");
}
