//! What one user of a connection leaves for the next: nothing.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_session_stays() {
    let Some(binding) = binding(one_connection()) else {
        return;
    };
    binding.run("CREATE TABLE t (n INTEGER)").await.unwrap();
    let process = binding.process().await;
    for (leaves, asks, clean) in [
        ("SET search_path = pg_temp", "SHOW search_path", ""),
        (
            "SET statement_timeout = 0",
            "SHOW statement_timeout",
            "1min",
        ),
        ("SET TimeZone = 'Asia/Tokyo'", "SHOW TimeZone", "UTC"),
        (
            "SET default_transaction_read_only = on",
            "SHOW default_transaction_read_only",
            "off",
        ),
        (
            "CREATE TEMPORARY TABLE t AS SELECT 1 AS n",
            "SELECT count(*) FROM t",
            "0",
        ),
        (
            "SELECT pg_advisory_lock(7)",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            "0",
        ),
        (
            "PREPARE p AS SELECT 1",
            "SELECT count(*) FROM pg_prepared_statements WHERE name <> ''",
            "0",
        ),
        (
            "LISTEN x",
            "SELECT count(*) FROM pg_listening_channels()",
            "0",
        ),
        (
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "SELECT count(*) FROM pg_cursors WHERE name = 'c'",
            "0",
        ),
        ("BEGIN", "SELECT count(*) FROM t", "0"),
        (
            "SELECT set_config('heyday.secret', 'x', false)",
            "SELECT coalesce(current_setting('heyday.secret', true), '')",
            "",
        ),
    ] {
        binding
            .run(leaves)
            .await
            .unwrap_or_else(|error| panic!("{leaves}: {error}"));
        let found = binding.ask(asks).await;
        if clean.is_empty() && asks == "SHOW search_path" {
            assert_eq!(found, format!("\"{}\"", binding.role.name), "{leaves}");
        } else {
            assert_eq!(found, clean, "{leaves}");
        }
        // It was the same connection.
        assert_eq!(binding.process().await, process, "{leaves}");
    }
    // A transaction that its author forgot, with what it wrote.
    let mut transaction = binding.begin(Access::Write).await;
    let write = "INSERT INTO t VALUES (1)";
    transaction.execute(write.into(), Vec::new()).await.unwrap();
    drop(transaction);
    assert_eq!(binding.ask("SELECT count(*) FROM t").await, "0");
    assert_eq!(binding.process().await, process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_open_when_the_server_says_so() {
    let Some(binding) = binding(SqlLimits::default()) else {
        return;
    };
    binding
        .run("CREATE TABLE t (n INTEGER UNIQUE)")
        .await
        .unwrap();
    let write = || ("INSERT INTO t VALUES (1)".to_owned(), Vec::new());
    for end in ["COMMIT", "ROLLBACK"] {
        let mut transaction = binding.begin(Access::Write).await;
        transaction
            .execute(end.to_owned(), Vec::new())
            .await
            .unwrap();
        let (statement, params) = write();
        let after = transaction.execute(statement, params).await;
        assert_eq!(code(after, end), SqlCode::TransactionClosed);
    }
    // A statement that fails ends it, and what came before is not there.
    let mut transaction = binding.begin(Access::Write).await;
    let (statement, params) = write();
    transaction.execute(statement, params).await.unwrap();
    let (statement, params) = write();
    let twice = transaction.execute(statement, params).await;
    assert_eq!(code(twice, "twice"), SqlCode::Constraint);
    let after = transaction.query("SELECT 1".into(), Vec::new()).await;
    assert_eq!(code(after, "after"), SqlCode::TransactionClosed);
    assert_eq!(
        code(transaction.commit().await, "commit"),
        SqlCode::TransactionClosed
    );
    assert_eq!(binding.ask("SELECT count(*) FROM t").await, "0");
    // So does a constraint that is looked at only at the end.
    binding
        .run("CREATE TABLE u (n INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        .await
        .unwrap();
    let mut transaction = binding.begin(Access::Write).await;
    for _ in 0..2 {
        let write = "INSERT INTO u VALUES (1)";
        transaction.execute(write.into(), Vec::new()).await.unwrap();
    }
    assert_eq!(
        code(transaction.commit().await, "deferred"),
        SqlCode::Constraint
    );
    assert_eq!(binding.ask("SELECT count(*) FROM u").await, "0");
    // What copies ends alone.
    let mut transaction = binding.begin(Access::Write).await;
    let copied = transaction
        .execute("COPY t FROM STDIN".into(), Vec::new())
        .await;
    assert_eq!(code(copied, "COPY"), SqlCode::InvalidStatement);
    transaction.rollback().await.expect("it is rolled back");
}

#[tokio::test(flavor = "multi_thread")]
async fn types_of_the_database_have_names() {
    let Some(binding) = binding(SqlLimits::default()) else {
        return;
    };
    binding
        .run("CREATE TYPE mood AS ENUM ('happy', 'sad')")
        .await
        .unwrap();
    binding
        .run("CREATE DOMAIN age AS INTEGER CHECK (value >= 0)")
        .await
        .unwrap();
    let statement = "SELECT 'sad'::mood AS m, ARRAY['happy', NULL]::mood[] AS ms, 5::age AS a, \
                     '10.0.0.1'::inet AS i, 1.50::numeric(5, 2) AS d, ROW(1, 'x') AS r, \
                     'infinity'::timestamptz AS t";
    let other = |name: &str, text: &str| Value::Other((name.into(), text.into()));
    let expected = vec![
        other("mood", "sad"),
        Value::Array(r#"["happy",null]"#.into()),
        Value::Integer(5),
        other("inet", "10.0.0.1"),
        Value::Decimal("1.50".into()),
        other("record", "(1,x)"),
        other("timestamptz", "infinity"),
    ];
    let set = binding
        .database
        .query(Access::Write, statement.into(), Vec::new())
        .await
        .unwrap();
    let types: Vec<_> = set
        .columns
        .iter()
        .map(|it| it.declared_type.as_str())
        .collect();
    assert_eq!(
        types,
        [
            "mood",
            "mood[]",
            "int4",
            "inet",
            "numeric",
            "record",
            "timestamptz"
        ]
    );
    assert_eq!(set.rows, std::slice::from_ref(&expected));
    let mut cursor = binding
        .database
        .stream(Access::Read, statement.into(), Vec::new())
        .await
        .unwrap();
    assert_eq!(cursor.columns(), set.columns);
    assert_eq!(cursor.next(10).await.unwrap(), [expected]);
    assert!(cursor.next(10).await.unwrap().is_empty());
    // A text goes where another type stands.
    let inserted = binding
        .database
        .query(
            Access::Write,
            "SELECT $1::mood, $2::inet, $3::int[]".into(),
            vec![
                Value::Text("happy".into()),
                other("inet", "::1"),
                Value::Array("[1,2]".into()),
            ],
        )
        .await
        .unwrap();
    let expected = [
        other("mood", "happy"),
        other("inet", "::1"),
        Value::Array("[1,2]".into()),
    ];
    assert_eq!(inserted.rows, [expected]);
}
