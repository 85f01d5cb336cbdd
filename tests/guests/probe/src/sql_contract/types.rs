//! Every type with the ends of what it holds, in both dialects: what is written reads back the
//! same, and what one of them does not hold is refused or told as the documentation says.

use heyday_sdk::prelude::*;
use heyday_sdk::sql::Value;

use super::{postgres, text};
use crate::{ensure, ensure_code};

/// A column of PostgreSQL, the same of SQLite, and values that both read back as written.
type Kept = (&'static str, &'static str, Vec<Value>);

/// A column of each, a value, and how PostgreSQL reads it back; SQLite reads what was written.
type Read = (&'static str, &'static str, Value, Value);

pub(super) fn all(db: &sql::Connection) -> Result<()> {
    for (of_postgres, of_sqlite, mut values) in kept() {
        let column = if postgres(db) { of_postgres } else { of_sqlite };
        values.push(Value::Null);
        reads(db, column, &values, &values)?;
    }
    for (of_postgres, of_sqlite, written, read) in read_otherwise() {
        let (column, read) = if postgres(db) {
            (of_postgres, read)
        } else {
            (of_sqlite, written.clone())
        };
        reads(db, column, &[written], &[read])?;
    }
    no_number(db)?;
    if postgres(db) {
        too_much(db)?;
    }
    Ok(())
}

fn each(value: impl Fn(String) -> Value, texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|text| value((*text).to_owned())).collect()
}

fn kept() -> Vec<Kept> {
    let mut all = scalars();
    let mut array = |of_postgres, texts: &[&str]| {
        all.push((of_postgres, "ARRAY", each(Value::Array, texts)));
    };
    array(
        "INTEGER[]",
        &[
            "[]",
            "[1,null,-2147483648,2147483647]",
            "[[1,2],[3,4]]",
            "[[[[[[1]]]]]]",
        ],
    );
    array(
        "TEXT[]",
        &[r#"["a\"b","","NULL","{}",",","\\"," ß"]"#, "[null]"],
    );
    array("BOOLEAN[]", &["[true,false,null]"]);
    array("DOUBLE PRECISION[]", &["[1.5,null,-0.25]"]);
    array("DECIMAL[]", &["[12345678901234567890.10,null]"]);
    array("UUID[]", &[r#"["00000000-0000-0000-0000-000000000000"]"#]);
    array("DATE[]", &[r#"["0001-01-01","9999-12-31"]"#]);
    array("TIMESTAMPTZ[]", &[r#"["2026-11-24T13:37:00Z"]"#]);
    array("TIMESTAMP[]", &[r#"["2026-11-24T13:37:00.25",null]"#]);
    array("TIME[]", &[r#"["13:37:00.5"]"#]);
    array("BIGINT[]", &["[-9223372036854775808,9223372036854775807]"]);
    array("BYTEA[]", &[r#"["\\x00ff",null]"#]);
    array("JSON[]", &[r#"[{"b":[1,null],"a":"x"},2,true,null]"#]);
    all
}

fn scalars() -> Vec<Kept> {
    let digits = format!("-{0}.{0}", "9".repeat(1_000));
    let small = format!("0.{}1", "0".repeat(1_000));
    let long = "ß".repeat(100_000);
    vec![
        (
            "BOOLEAN",
            "BOOLEAN",
            vec![Value::Boolean(true), Value::Boolean(false)],
        ),
        (
            "BIGINT",
            "BIGINT",
            [i64::MIN, -1, 0, 1, i64::MAX].map(Value::Integer).into(),
        ),
        (
            "DOUBLE PRECISION",
            "DOUBLE PRECISION",
            [
                0.0,
                0.1,
                -1.5,
                f64::MAX,
                f64::MIN,
                f64::MIN_POSITIVE,
                5e-324,
                f64::INFINITY,
                f64::NEG_INFINITY,
            ]
            .map(Value::Real)
            .into(),
        ),
        (
            "DECIMAL",
            "DECIMAL TEXT",
            each(Value::Decimal, &["0", "-0.10", "1000000", &digits, &small]),
        ),
        (
            "TEXT",
            "TEXT",
            each(
                Value::Text,
                &["", " ", "'\"\\;-- $1 ?1", "\u{feff}\r\n\t\u{10ffff}", &long],
            ),
        ),
        (
            "BYTEA",
            "BLOB",
            [Vec::new(), (0..=255).collect(), vec![0xff; 300_000]]
                .map(Value::Bytes)
                .into(),
        ),
        (
            "UUID",
            "UUID",
            each(
                Value::Uuid,
                &[
                    "00000000-0000-0000-0000-000000000000",
                    "ffffffff-ffff-ffff-ffff-ffffffffffff",
                ],
            ),
        ),
        (
            "DATE",
            "DATE",
            each(Value::Date, &["0001-01-01", "2024-02-29", "9999-12-31"]),
        ),
        (
            "TIME",
            "TIME",
            each(Value::Time, &["00:00:00", "23:59:59.999999"]),
        ),
        (
            "TIMESTAMPTZ",
            "TIMESTAMP",
            each(
                Value::Timestamp,
                &[
                    "0001-01-01T00:00:00Z",
                    "1969-12-31T23:59:59.999999Z",
                    "9999-12-31T23:59:59.999999Z",
                ],
            ),
        ),
        (
            "TIMESTAMP",
            "DATETIME",
            each(
                Value::Datetime,
                &["0001-01-01T00:00:00", "9999-12-31T23:59:59.999999"],
            ),
        ),
        // It has its own spaces and order of members, which these have already.
        (
            "JSONB",
            "JSONB TEXT",
            each(
                Value::Json,
                &["null", "false", "1.50", r#"{"a": [1, {"b": null}]}"#],
            ),
        ),
        (
            "JSON",
            "JSON TEXT",
            each(
                Value::Json,
                &[
                    "null",
                    "true",
                    r#""""#,
                    "12345678901234567890.10",
                    r#"{"b":1, "a":{"a":[]}, "a":2}"#,
                ],
            ),
        ),
    ]
}

fn read_otherwise() -> Vec<Read> {
    let time = |text: &str| Value::Time(text.to_owned());
    let instant = |text: &str| Value::Timestamp(text.to_owned());
    vec![
        (
            "TIME",
            "TIME",
            time("13:37:00.123456789"),
            time("13:37:00.123457"),
        ),
        (
            "TIMESTAMPTZ",
            "TIMESTAMP",
            instant("2026-11-24T13:37:00+02:00"),
            instant("2026-11-24T11:37:00Z"),
        ),
        (
            "TIMESTAMPTZ",
            "TIMESTAMP",
            instant("2026-11-24t13:37:00z"),
            instant("2026-11-24T13:37:00Z"),
        ),
    ]
}

/// Writes values into a column of that type and reads them again.
fn reads(db: &sql::Connection, column: &str, written: &[Value], read: &[Value]) -> Result<()> {
    db.execute(&format!("CREATE TABLE ends (n BIGINT, v {column})"), &[])?;
    let rows: Vec<Vec<Value>> = (0_i64..)
        .zip(written)
        .map(|(n, value)| vec![n.into(), value.clone()])
        .collect();
    db.execute_many(&text(db, "INSERT INTO ends VALUES (?1, ?2)"), &rows)?;
    let found = db.query("SELECT v FROM ends ORDER BY n", &[])?;
    ensure(
        found.len() == written.len(),
        format!("{column}: all rows are there"),
    )?;
    for (row, expected) in found.iter().zip(read) {
        let value = row.values().first();
        ensure(
            value == Some(expected),
            format!("{column}: read {value:?}, not {expected:?}"),
        )?;
    }
    db.execute("DROP TABLE ends", &[])?;
    Ok(())
}

/// What is no number is no parameter; PostgreSQL has it as a value, and SQLite as NULL.
fn no_number(db: &sql::Connection) -> Result<()> {
    let statement = if postgres(db) {
        "SELECT 'NaN'::double precision"
    } else {
        "SELECT 9e999 - 9e999"
    };
    let found = db.query(statement, &[])?;
    let value = found.first().and_then(|row| row.values().first());
    let holds = match value {
        Some(Value::Real(number)) => postgres(db) && number.is_nan(),
        Some(Value::Null) => !postgres(db),
        _ => false,
    };
    ensure(holds, format!("NaN is read as {value:?}"))
}

/// What PostgreSQL's types do not hold; SQLite has no such ends.
fn too_much(db: &sql::Connection) -> Result<()> {
    for (column, value) in [
        ("TEXT", Value::Text("a\0b".to_owned())),
        ("INTEGER", Value::Integer(1 << 31)),
        ("SMALLINT", Value::Integer(-32_769)),
        ("DECIMAL(3, 1)", Value::Decimal("100.0".to_owned())),
        ("REAL", Value::Real(1e39)),
        ("INTEGER[]", Value::Array("[[[[[[[1]]]]]]]".to_owned())),
        ("INTEGER[]", Value::Array("[2147483648]".to_owned())),
    ] {
        db.execute(&format!("CREATE TABLE ends (v {column})"), &[])?;
        let told = format!("{column} of {value:?}");
        let written = db.execute("INSERT INTO ends VALUES ($1)", &[value]);
        ensure_code(written, "invalid-parameter", &told)?;
        db.execute("DROP TABLE ends", &[])?;
    }
    Ok(())
}
