//! What `wit/sql` promises, on SQLite.

use heyday_sdk::prelude::*;
use heyday_sdk::sql::Value;

use crate::{ensure, ensure_code};

#[derive(Deserialize, JsonSchema)]
pub struct Statement {
    binding: String,
    statement: String,
}

/// Runs one statement; answers its rows' number.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn sql_run(input: Statement) -> Result<u64> {
    let db = sql::Connection::open(&input.binding)?;
    Ok(db.query(&input.statement, &[])?.len() as u64)
}

/// Asserts what the interface promises, on the binding `default`.
#[activity(
    queue = "general-queue",
    start_to_close = "2m",
    retry(maximum_attempts = 1)
)]
pub fn sql_contract() -> Result<u32> {
    let db = sql::Connection::open("default")?;
    ensure(db.dialect() == "sqlite", "the dialect is sqlite")?;
    values(&db)?;
    transactions(&db)?;
    constraints(&db)?;
    many(&db)?;
    streaming(&db)?;
    statements(&db)?;
    conflict(&db)?;
    Ok(7)
}

/// Leaves a transaction open and ends as it is told.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn sql_abandon(input: String) -> Result<()> {
    let db = sql::Connection::open("default")?;
    db.execute("CREATE TABLE IF NOT EXISTS abandoned (n INTEGER)", &[])?;
    let transaction = db.begin()?;
    transaction.execute("INSERT INTO abandoned VALUES (1)", &[])?;
    match input.as_str() {
        "fail" => Err(Error::permanent("on-purpose", "with a transaction open")),
        "panic" => panic!("with a transaction open"),
        // Its destructor does not run, so the host must end the transaction.
        _ => {
            std::mem::forget(transaction);
            Ok(())
        }
    }
}

fn values(db: &sql::Connection) -> Result<()> {
    let columns = [
        ("a BOOLEAN", Value::Boolean(true)),
        ("b INTEGER", Value::Integer(i64::MIN)),
        ("c REAL", Value::Real(1.5e300)),
        ("d DECIMAL TEXT", Value::Decimal("-12.50".into())),
        ("e TEXT", Value::Text("Grüße \u{0}\u{1f600}".into())),
        ("f BLOB", Value::Bytes(vec![0, 255, 1])),
        (
            "g UUID",
            Value::Uuid("01890a5d-ac96-774b-bcce-b302099a8057".into()),
        ),
        ("h DATE", Value::Date("2026-11-24".into())),
        ("i TIME", Value::Time("13:37:00.5".into())),
        (
            "j TIMESTAMP",
            Value::Timestamp("2026-11-24T13:37:00Z".into()),
        ),
        ("k DATETIME", Value::Datetime("2026-11-24T13:37:00".into())),
        ("l JSON TEXT", Value::Json(r#"{"a":[1,null]}"#.into())),
        ("m ARRAY", Value::Array("[1,2]".into())),
        ("n TEXT", Value::Null),
    ];
    let definition = columns
        .iter()
        .map(|(column, _)| *column)
        .collect::<Vec<_>>()
        .join(", ");
    db.execute(&format!("CREATE TABLE everything ({definition})"), &[])?;
    let row: Vec<Value> = columns.iter().map(|(_, value)| value.clone()).collect();
    let holes = (1..=row.len())
        .map(|n| format!("?{n}"))
        .collect::<Vec<_>>()
        .join(", ");
    let changed = db.execute(&format!("INSERT INTO everything VALUES ({holes})"), &row)?;
    ensure(changed == 1, "one row was changed")?;
    let rows = db.query("SELECT * FROM everything", &[])?;
    let read = rows
        .first()
        .map(|row| row.values().to_vec())
        .unwrap_or_default();
    for ((column, written), read) in columns.iter().zip(&read) {
        ensure(
            written == read,
            format!("{column}: wrote {written:?}, read {read:?}"),
        )?;
    }
    ensure(read.len() == columns.len(), "every column is there")?;
    let typed = rows
        .columns()
        .iter()
        .map(|column| column.name.as_str())
        .collect::<String>();
    ensure(
        typed == "abcdefghijklmn",
        "columns have their names in order",
    )?;
    let sum = db.query("SELECT ?1 + ?2", &[2.into(), 3.into()])?;
    ensure(
        sum.first().is_some_and(|row| row.get::<i64>(0) == Ok(5)),
        "an expression has a value",
    )
}

fn count(db: &sql::Connection, table: &str) -> Result<i64> {
    let rows = db.query(&format!("SELECT count(*) FROM {table}"), &[])?;
    Ok(rows.first().map_or(Ok(-1), |row| row.get(0))?)
}

fn transactions(db: &sql::Connection) -> Result<()> {
    db.execute("CREATE TABLE ledger (n INTEGER)", &[])?;
    let transaction = db.begin()?;
    transaction.execute("INSERT INTO ledger VALUES (1)", &[])?;
    let inside = transaction.query("SELECT n FROM ledger", &[])?;
    ensure(inside.len() == 1, "a transaction sees its own effects")?;
    transaction.commit()?;
    ensure(count(db, "ledger")? == 1, "what was committed stays")?;
    let transaction = db.begin()?;
    transaction.execute("INSERT INTO ledger VALUES (2)", &[])?;
    transaction.rollback()?;
    ensure(count(db, "ledger")? == 1, "what was rolled back is gone")?;
    let transaction = db.begin()?;
    transaction.execute("INSERT INTO ledger VALUES (3)", &[])?;
    drop(transaction);
    ensure(count(db, "ledger")? == 1, "what was dropped is gone")
}

fn constraints(db: &sql::Connection) -> Result<()> {
    db.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)", &[])?;
    db.execute(
        "CREATE TABLE child (name TEXT NOT NULL UNIQUE, age INTEGER CHECK (age >= 0), \
         parent INTEGER REFERENCES parent (id))",
        &[],
    )?;
    db.execute("INSERT INTO child VALUES ('Ada', 1, NULL)", &[])?;
    for (statement, kind) in [
        ("INSERT INTO child VALUES ('Ada', 2, NULL)", "unique"),
        ("INSERT INTO child VALUES (NULL, 2, NULL)", "not-null"),
        ("INSERT INTO child VALUES ('Bob', -1, NULL)", "check"),
        ("INSERT INTO child VALUES ('Bob', 2, 99)", "foreign-key"),
    ] {
        let error = ensure_code(db.execute(statement, &[]), "constraint", statement)?;
        let told = error
            .details
            .as_ref()
            .and_then(|details| details["kind"].as_str());
        ensure(told == Some(kind), format!("{statement} told {told:?}"))?;
        ensure(!error.retryable, "a constraint is not retryable")?;
    }
    ensure(count(db, "child")? == 1, "refused rows are not there")
}

fn many(db: &sql::Connection) -> Result<()> {
    db.execute("CREATE TABLE numbers (n INTEGER UNIQUE, text TEXT)", &[])?;
    let rows: Vec<Vec<Value>> = (0..10_000_i64)
        .map(|n| vec![n.into(), format!("number {n}").into()])
        .collect();
    let changed = db.execute_many("INSERT INTO numbers VALUES (?1, ?2)", &rows)?;
    ensure(changed == 10_000, "every row was changed")?;
    let rows = vec![
        vec![10_001.into(), "new".into()],
        vec![5.into(), "there".into()],
    ];
    let again = db.execute_many("INSERT INTO numbers VALUES (?1, ?2)", &rows);
    ensure_code(again, "constraint", "a row that is there")?;
    ensure(count(db, "numbers")? == 10_000, "all or nothing")
}

fn streaming(db: &sql::Connection) -> Result<()> {
    let mut next = 0_i64;
    for row in db.query_stream("SELECT n FROM numbers ORDER BY n", &[])? {
        ensure(row?.get::<i64>("n")? == next, "rows arrive in order")?;
        next += 1;
    }
    ensure(next == 10_000, "and all of them")?;
    // More than the binding answers at once, and far more than this guest's memory.
    let endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r";
    let few = db.query_stream(endless, &[])?.take(3_000).count();
    ensure(few == 3_000, "an endless result can be read in part")?;
    ensure_code(
        db.query(endless, &[]),
        "limit-exceeded",
        "an endless result at once",
    )?;
    Ok(())
}

fn statements(db: &sql::Connection) -> Result<()> {
    ensure_code(db.query("SELEC 1", &[]), "invalid-statement", "nonsense")?;
    ensure_code(
        db.query("SELECT * FROM nowhere", &[]),
        "invalid-statement",
        "no such table",
    )?;
    ensure_code(
        db.query("SELECT 1; SELECT 2", &[]),
        "invalid-statement",
        "two statements",
    )?;
    ensure_code(
        db.query("SELECT ?1", &[]),
        "invalid-parameter",
        "a parameter that is missing",
    )?;
    ensure_code(
        db.query("SELECT 1", &[1.into()]),
        "invalid-parameter",
        "one too many",
    )?;
    let uuid = [Value::Uuid("not one".into())];
    ensure_code(db.query("SELECT ?1", &uuid), "invalid-parameter", "no UUID")?;
    Ok(())
}

fn conflict(db: &sql::Connection) -> Result<()> {
    let other = sql::Connection::open("default")?;
    let transaction = db.begin()?;
    transaction.execute("INSERT INTO ledger VALUES (4)", &[])?;
    let error = ensure_code(
        other.execute("INSERT INTO ledger VALUES (5)", &[]),
        "conflict",
        "a second writer",
    )?;
    ensure(error.retryable, "a conflict is retryable")?;
    transaction.rollback()?;
    let changed = other.execute("INSERT INTO ledger VALUES (6)", &[])?;
    ensure(changed == 1, "the second writer may write afterwards")
}
