//! What `wit/sql` promises, in both dialects.

mod types;

use heyday_sdk::prelude::*;
use heyday_sdk::sql::Value;

use crate::{Once, ensure, ensure_code, lose};

#[derive(Deserialize, JsonSchema)]
pub struct Statement {
    binding: String,
    statement: String,
}

/// Runs one statement; answers its rows' number.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn sql_run(input: Statement) -> Result<u64> {
    sql_run_on(input)
}

fn sql_run_on(input: Statement) -> Result<u64> {
    let db = sql::Connection::open(&input.binding)?;
    Ok(db.query(&input.statement, &[])?.len() as u64)
}

/// Asserts what the interface promises, on a binding of that dialect.
#[activity(
    queue = "general-queue",
    start_to_close = "2m",
    retry(maximum_attempts = 1)
)]
pub fn sql_contract(input: Dialect) -> Result<u32> {
    let db = sql::Connection::open(&input.binding)?;
    ensure(
        db.dialect() == input.dialect,
        "the dialect is as it was said",
    )?;
    values(&db)?;
    types::all(&db)?;
    transactions(&db)?;
    constraints(&db)?;
    many(&db)?;
    streaming(&db)?;
    statements(&db)?;
    conflict(&db, &input.binding)?;
    Ok(8)
}

#[derive(Deserialize, JsonSchema)]
#[serde(default)]
pub struct Dialect {
    binding: String,
    dialect: String,
}

impl Default for Dialect {
    fn default() -> Self {
        Self {
            binding: "default".into(),
            dialect: "sqlite".into(),
        }
    }
}

/// Whether the database is PostgreSQL.
fn postgres(db: &sql::Connection) -> bool {
    db.dialect() == "postgresql"
}

/// A statement whose parameters are written `?1`, as the dialect writes them.
fn text(db: &sql::Connection, statement: &str) -> String {
    if postgres(db) {
        statement.replace('?', "$")
    } else {
        statement.to_owned()
    }
}

/// Adds one to a number in a table, once however many attempts it takes; answers the sum.
#[activity(
    start_to_close = "2m",
    retry(initial_interval = "10ms", maximum_attempts = 5)
)]
pub fn sql_once(input: Once) -> Result<i64> {
    let db = sql::Connection::open(&input.binding)?;
    db.execute(
        "CREATE TABLE IF NOT EXISTS counted (n BIGINT NOT NULL)",
        &[],
    )?;
    let sum = db.once(&context::idempotency_key(), |transaction| {
        transaction.execute("INSERT INTO counted VALUES (1)", &[])?;
        let rows = transaction.query("SELECT count(*) FROM counted", &[])?;
        Ok(rows.first().map_or(Ok(-1), |row| row.get::<i64>(0))?)
    })?;
    lose(input.lost, input.hang)?;
    Ok(sum)
}

#[derive(Deserialize, JsonSchema)]
pub struct Abandon {
    binding: String,
    end: String,
}

/// As `sql_run`, tried again until the database is there.
#[activity(retry(
    initial_interval = "50ms",
    maximum_interval = "200ms",
    maximum_attempts = 300
))]
pub fn sql_patient(input: Statement) -> Result<u64> {
    sql_run_on(input)
}

/// As `sql_run`, for as long as it takes; logs a line when it begins.
#[activity(start_to_close = "5m", retry(maximum_attempts = 1))]
pub fn sql_long(input: Statement) -> Result<u64> {
    log::info!("asking");
    sql_run_on(input)
}

/// Leaves a transaction open and ends as it is told.
#[activity(queue = "general-queue", retry(maximum_attempts = 1))]
pub fn sql_abandon(input: Abandon) -> Result<()> {
    let db = sql::Connection::open(&input.binding)?;
    db.execute("CREATE TABLE IF NOT EXISTS abandoned (n INTEGER)", &[])?;
    let transaction = db.begin()?;
    transaction.execute("INSERT INTO abandoned VALUES (1)", &[])?;
    match input.end.as_str() {
        "fail" => Err(Error::permanent("on-purpose", "with a transaction open")),
        "panic" => panic!("with a transaction open"),
        // Its destructor does not run, so the host must end the transaction.
        _ => {
            std::mem::forget(transaction);
            Ok(())
        }
    }
}

/// Columns with values that read back the same.
fn columns(db: &sql::Connection) -> Vec<(&'static str, Value)> {
    let mut columns = vec![
        ("a BOOLEAN", Value::Boolean(true)),
        ("b BIGINT", Value::Integer(i64::MIN)),
        ("c DOUBLE PRECISION", Value::Real(1.5e300)),
        (
            "g UUID",
            Value::Uuid("01890a5d-ac96-774b-bcce-b302099a8057".into()),
        ),
        ("h DATE", Value::Date("2026-11-24".into())),
        ("i TIME", Value::Time("13:37:00.5".into())),
        ("n TEXT", Value::Null),
    ];
    if postgres(db) {
        columns.extend([
            ("d DECIMAL", Value::Decimal("-12.50".into())),
            // PostgreSQL's texts hold no zero character.
            ("e TEXT", Value::Text("Grüße \u{1}\u{1f600}".into())),
            ("f BYTEA", Value::Bytes(vec![0, 255, 1])),
            (
                "j TIMESTAMPTZ",
                Value::Timestamp("2026-11-24T13:37:00Z".into()),
            ),
            (
                "k TIMESTAMP",
                Value::Datetime("2026-11-24T13:37:00.25".into()),
            ),
            ("l JSON", Value::Json(r#"{"a":[1,null]}"#.into())),
            ("m INTEGER[]", Value::Array("[1,null,3]".into())),
            ("o TEXT[]", Value::Array(r#"["a\"b","","NULL"]"#.into())),
            ("p INTERVAL", Value::Other("interval".into(), "P1D".into())),
        ]);
    } else {
        columns.extend([
            ("d DECIMAL TEXT", Value::Decimal("-12.50".into())),
            ("e TEXT", Value::Text("Grüße \u{0}\u{1f600}".into())),
            ("f BLOB", Value::Bytes(vec![0, 255, 1])),
            (
                "j TIMESTAMP",
                Value::Timestamp("2026-11-24T13:37:00Z".into()),
            ),
            ("k DATETIME", Value::Datetime("2026-11-24T13:37:00".into())),
            ("l JSON TEXT", Value::Json(r#"{"a":[1,null]}"#.into())),
            ("m ARRAY", Value::Array("[1,2]".into())),
        ]);
    }
    columns
}

fn values(db: &sql::Connection) -> Result<()> {
    let columns = columns(db);
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
    let insert = text(db, &format!("INSERT INTO everything VALUES ({holes})"));
    let changed = db.execute(&insert, &row)?;
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
    let named: String = columns.iter().map(|(column, _)| &column[..1]).collect();
    ensure(typed == named, "columns have their names in order")?;
    let sum = db.query(&text(db, "SELECT ?1 + ?2"), &[2.into(), 3.into()])?;
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
    ensure(count(db, "ledger")? == 0, "others do not see them")?;
    ensure_code(db.begin(), "limit-exceeded", "a second transaction")?;
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
    let insert = text(db, "INSERT INTO numbers VALUES (?1, ?2)");
    let changed = db.execute_many(&insert, &rows)?;
    ensure(changed == 10_000, "every row was changed")?;
    let rows = vec![
        vec![10_001.into(), "new".into()],
        vec![5.into(), "there".into()],
    ];
    let again = db.execute_many(&insert, &rows);
    ensure_code(again, "constraint", "a row that is there")?;
    ensure(count(db, "numbers")? == 10_000, "all or nothing")?;
    // Within a transaction what was done before stays.
    let transaction = db.begin()?;
    transaction.execute("INSERT INTO numbers VALUES (20000, 'kept')", &[])?;
    let again = transaction.execute_many(&insert, &rows);
    ensure_code(again, "constraint", "a row that is there")?;
    let rows = vec![vec![20_001.into(), Value::Null]];
    let changed = transaction.execute_many(&insert, &rows)?;
    ensure(changed == 1, "a transaction goes on after it")?;
    transaction.commit()?;
    ensure(
        count(db, "numbers")? == 10_002,
        "and keeps its other effects",
    )?;
    let deleted = db.execute("DELETE FROM numbers WHERE n >= 20000", &[])?;
    ensure(deleted == 2, "a DELETE says how many")
}

fn streaming(db: &sql::Connection) -> Result<()> {
    let mut next = 0_i64;
    for row in db.query_stream("SELECT n FROM numbers ORDER BY n", &[])? {
        ensure(row?.get::<i64>("n")? == next, "rows arrive in order")?;
        next += 1;
    }
    ensure(next == 10_000, "and all of them")?;
    let mut stream = db.query_stream("SELECT n FROM numbers", &[])?;
    ensure(stream.next().is_some(), "a first row")?;
    db.execute("DELETE FROM numbers WHERE n > 5000", &[])?;
    ensure(stream.count() == 9_999, "what is read stays as it was")?;
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
    for nothing in ["", " -- none"] {
        ensure_code(db.query(nothing, &[]), "invalid-statement", "no statement")?;
    }
    ensure_code(
        db.query(&text(db, "SELECT ?1"), &[]),
        "invalid-parameter",
        "a parameter that is missing",
    )?;
    if !postgres(db) {
        // PostgreSQL takes a parameter that the statement does not name.
        ensure_code(
            db.query("SELECT 1", &[1.into()]),
            "invalid-parameter",
            "one too many",
        )?;
    }
    for value in [
        Value::Real(f64::NAN),
        Value::Decimal("1e5".into()),
        Value::Uuid("not one".into()),
        Value::Uuid("01890A5D-AC96-774B-BCCE-B302099A8057".into()),
        Value::Date("2023-02-29".into()),
        Value::Date("2026-11-00".into()),
        Value::Time("24:00:00".into()),
        Value::Timestamp("2026-11-24T13:37:00".into()),
        Value::Timestamp("2026-11-24T13:37:00+24:00".into()),
        Value::Datetime("2026-11-24T13:37:00Z".into()),
        Value::Json("{".into()),
        Value::Array("{}".into()),
    ] {
        let told = format!("the text of {value:?}");
        let asked = db.query(&text(db, "SELECT ?1"), &[value]);
        ensure_code(asked, "invalid-parameter", &told)?;
    }
    if !postgres(db) {
        // What PostgreSQL's roles may not do is tested beside it.
        for statement in [
            "ATTACH ':memory:' AS other",
            "VACUUM",
            "BEGIN",
            "SAVEPOINT a",
            "CREATE TEMP TABLE x (a)",
            "CREATE VIRTUAL TABLE x USING dbstat",
            "PRAGMA database_list",
        ] {
            ensure_code(db.execute(statement, &[]), "capability-denied", statement)?;
        }
    }
    Ok(())
}

fn conflict(db: &sql::Connection, binding: &str) -> Result<()> {
    let other = sql::Connection::open(binding)?;
    let transaction = db.begin()?;
    transaction.execute("UPDATE ledger SET n = n + 1", &[])?;
    let error = ensure_code(
        other.execute("UPDATE ledger SET n = n + 1", &[]),
        "conflict",
        "a second writer of the same row",
    )?;
    ensure(error.retryable, "a conflict is retryable")?;
    transaction.rollback()?;
    let changed = other.execute("UPDATE ledger SET n = n + 1", &[])?;
    ensure(changed == 1, "the second writer may write afterwards")
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use heyday_sdk::prelude::*;
    use heyday_sdk::test::Context;

    #[test]
    fn sqlite_in_memory_keeps_the_contract() {
        let _test = Context::new().sqlite("default", []).enter();
        assert_eq!(super::sql_contract(super::Dialect::default()).unwrap(), 8);
    }

    #[test]
    fn what_happens_once_happens_once_in_memory_too() {
        let _test = Context::new().sqlite("default", []).enter();
        let once = |lost| {
            super::sql_once(crate::Once {
                binding: "default".to_owned(),
                lost,
                hang: false,
            })
        };
        assert_eq!(once(1).unwrap_err().kind(), "lost");
        assert_eq!((once(0).unwrap(), once(0).unwrap()), (1, 1));
    }

    #[test]
    fn a_reader_that_goes_leaves_nothing_that_runs() {
        let _test = Context::new().sqlite("default", []).enter();
        let db = sql::Connection::open("default").unwrap();
        let endless =
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r";
        let mut open: Vec<_> = (0..8)
            .map(|_| db.query_stream(endless, &[]).unwrap())
            .collect();
        assert!(
            db.query_stream(endless, &[])
                .unwrap_err()
                .is("limit-exceeded")
        );
        assert!(db.begin().unwrap_err().is("limit-exceeded"));
        drop(open.pop());
        db.begin().unwrap().rollback().unwrap();
        // Rows that never come do not hold the end up.
        let silent = format!("{endless} WHERE n = 1 OR n < 0");
        drop(db.query_stream(&silent, &[]).unwrap());
    }
}
