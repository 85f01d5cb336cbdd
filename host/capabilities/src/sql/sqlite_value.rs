//! Values between guests and SQLite, which has five storage classes: what it lacks is
//! stored as text, and read back as the same variant where the column's declared type
//! names it.
//!
//! SQLite converts a text that looks like a number in a column of numeric affinity
//! (`DECIMAL`, `NUMERIC`, `JSON`): `12.50` becomes 12.5. Where that matters, a declared
//! type that contains `TEXT` keeps it (`DECIMAL TEXT`).

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Row, Statement, ToSql};

use super::check;
use super::{Column, Value};

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
fn declared(column: &Column) -> Declared {
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

/// A parameter, whose text was checked, as SQLite takes it.
struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Boolean(value) => ValueRef::Integer(i64::from(*value)),
            Value::Integer(value) => ValueRef::Integer(*value),
            Value::Real(value) => ValueRef::Real(*value),
            Value::Bytes(value) => ValueRef::Blob(value),
            Value::Decimal(text)
            | Value::Text(text)
            | Value::Uuid(text)
            | Value::Date(text)
            | Value::Time(text)
            | Value::Timestamp(text)
            | Value::Datetime(text)
            | Value::Json(text)
            | Value::Array(text)
            | Value::Other((_, text)) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// Binds parameters, whose texts were checked.
pub(super) fn bind(statement: &mut Statement<'_>, params: &[Value]) -> rusqlite::Result<()> {
    for (index, value) in (1_usize..).zip(params) {
        statement.raw_bind_parameter(index, Bound(value))?;
    }
    Ok(())
}

/// The columns of a statement's result. The schema may have changed since it was prepared,
/// which SQLite sees at its first step: ask after that.
pub(super) fn columns(statement: &Statement<'_>) -> Vec<Column> {
    let columns = statement.columns();
    let column = |column: &rusqlite::Column<'_>| Column {
        name: column.name().to_owned(),
        declared_type: column.decl_type().unwrap_or_default().to_lowercase(),
    };
    columns.iter().map(column).collect()
}

/// What the columns' declared types say.
pub(super) fn all_declared(columns: &[Column]) -> Vec<Declared> {
    columns.iter().map(declared).collect()
}

/// Reads one row.
pub(super) fn row(row: &Row<'_>, declared: &[Declared]) -> rusqlite::Result<Vec<Value>> {
    // Of the right size at once, which collecting results is not.
    let mut values = Vec::with_capacity(declared.len());
    for (index, declared) in declared.iter().enumerate() {
        values.push(value(row.get_ref(index)?, *declared));
    }
    Ok(values)
}

fn value(raw: ValueRef<'_>, declared: Declared) -> Value {
    match raw {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => integer(number, declared),
        ValueRef::Real(number) => real(number, declared),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => read_text(text.to_owned(), declared),
            // SQLite does not check what is written as TEXT (`CAST(x'ff' AS TEXT)`);
            // the bytes are all that is true of it.
            Err(_) => Value::Bytes(bytes.to_vec()),
        },
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
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
