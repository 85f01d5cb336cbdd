//! Values between guests and SQLite, which has five storage classes: what it lacks is
//! stored as text, and read back as the same variant where the column's declared type
//! names it.
//!
//! SQLite converts a text that looks like a number in a column of numeric affinity
//! (`DECIMAL`, `NUMERIC`, `JSON`): `12.50` becomes 12.5. Where that matters, a declared
//! type that contains `TEXT` keeps it (`DECIMAL TEXT`).

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, Decode, Row, Sqlite, TypeInfo, ValueRef};

use super::check;
use super::{Column, SqlCode, SqlError, Value};

/// What a declared type says about a value's variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declared {
    Plain,
    Boolean,
    Decimal,
    Uuid,
    Date,
    Time,
    Instant,
    Json,
    Array,
}

/// Reads a declared type.
pub(super) fn declared(column: &Column) -> Declared {
    let name = column.declared_type.as_str();
    let base = name.split('(').next().unwrap_or(name).trim();
    let base = base
        .strip_suffix("text")
        .map_or(base, |base| base.trim_end_matches([' ', '_']));
    if base.ends_with("[]") {
        return Declared::Array;
    }
    match base {
        "boolean" | "bool" => Declared::Boolean,
        "decimal" | "numeric" => Declared::Decimal,
        "uuid" => Declared::Uuid,
        "date" => Declared::Date,
        "time" => Declared::Time,
        "timestamp" | "timestamptz" | "datetime" => Declared::Instant,
        "json" | "jsonb" => Declared::Json,
        "array" => Declared::Array,
        _ => Declared::Plain,
    }
}

/// Binds parameters, whose texts were checked.
pub(super) fn arguments(params: Vec<Value>) -> Result<SqliteArguments, SqlError> {
    let mut arguments = SqliteArguments::default();
    for value in params {
        let added = match value {
            Value::Null => arguments.add(None::<i64>),
            Value::Boolean(value) => arguments.add(i64::from(value)),
            Value::Integer(value) => arguments.add(value),
            Value::Real(value) => arguments.add(value),
            Value::Bytes(value) => arguments.add(value),
            Value::Decimal(text)
            | Value::Text(text)
            | Value::Uuid(text)
            | Value::Date(text)
            | Value::Time(text)
            | Value::Timestamp(text)
            | Value::Datetime(text)
            | Value::Json(text)
            | Value::Array(text)
            | Value::Other((_, text)) => arguments.add(text),
        };
        added.map_err(|error| SqlError::new(SqlCode::InvalidParameter, error.to_string()))?;
    }
    Ok(arguments)
}

/// Reads one row.
pub(super) fn row(row: &SqliteRow, declared: &[Declared]) -> Result<Vec<Value>, SqlError> {
    (0..row.len())
        .map(|index| {
            let kind = declared.get(index).copied().unwrap_or(Declared::Plain);
            value(row, index, kind).map_err(SqlError::internal)
        })
        .collect()
}

fn value(
    row: &SqliteRow,
    index: usize,
    declared: Declared,
) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let class = raw.type_info().name().to_owned();
    Ok(match class.as_str() {
        "INTEGER" => integer(<i64 as Decode<'_, Sqlite>>::decode(raw)?, declared),
        "REAL" => real(<f64 as Decode<'_, Sqlite>>::decode(raw)?, declared),
        "TEXT" => {
            let bytes = <Vec<u8> as Decode<'_, Sqlite>>::decode(raw)?;
            match String::from_utf8(bytes) {
                Ok(text) => read_text(text, declared),
                // SQLite does not check what is written as TEXT (`CAST(x'ff' AS TEXT)`);
                // the bytes are all that is true of it.
                Err(error) => Value::Bytes(error.into_bytes()),
            }
        }
        _ => Value::Bytes(<Vec<u8> as Decode<'_, Sqlite>>::decode(raw)?),
    })
}

fn integer(number: i64, declared: Declared) -> Value {
    match declared {
        Declared::Boolean if number == 0 || number == 1 => Value::Boolean(number == 1),
        Declared::Decimal => Value::Decimal(number.to_string()),
        Declared::Json => Value::Json(number.to_string()),
        _ => Value::Integer(number),
    }
}

fn real(number: f64, declared: Declared) -> Value {
    match declared {
        // Rust writes a double in full, never with an exponent.
        Declared::Decimal if number.is_finite() => Value::Decimal(number.to_string()),
        Declared::Json if number.is_finite() => Value::Json(number.to_string()),
        _ => Value::Real(number),
    }
}

fn read_text(text: String, declared: Declared) -> Value {
    match declared {
        Declared::Decimal if check::is_decimal(&text) => Value::Decimal(text),
        Declared::Uuid if check::is_uuid(&text) => Value::Uuid(text),
        Declared::Date if check::is_date(&text) => Value::Date(text),
        Declared::Time if check::is_time(&text) => Value::Time(text),
        Declared::Instant if check::is_timestamp(&text) => Value::Timestamp(text),
        Declared::Instant if check::is_datetime(&text) => Value::Datetime(text),
        Declared::Json if check::is_json(&text) => Value::Json(text),
        Declared::Array if check::is_array(&text) => Value::Array(text),
        _ => Value::Text(text),
    }
}
