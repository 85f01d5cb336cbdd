//! Values between plugins and SQLite. What SQLite lacks is a text, and read back as the same
//! variant where the column's declared type names it.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Row, Statement, ToSql};

use super::text;
use crate::host::times;
use crate::sql::{Column, Value};

/// A parameter, whose text was checked.
struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Boolean(value) => ValueRef::Integer((*value).into()),
            Value::Integer(value) => ValueRef::Integer(*value),
            Value::Real(value) => ValueRef::Real(*value),
            Value::Bytes(value) => ValueRef::Blob(value),
            // All others are texts.
            text => ValueRef::Text(text.as_str().unwrap_or_default().as_bytes()),
        }))
    }
}

pub(super) fn bind(statement: &mut Statement<'_>, params: &[Value]) -> rusqlite::Result<()> {
    for (index, value) in (1_usize..).zip(params) {
        statement.raw_bind_parameter(index, Bound(value))?;
    }
    Ok(())
}

pub(super) fn columns(statement: &Statement<'_>) -> Vec<Column> {
    let columns = statement.columns();
    let column = |column: &rusqlite::Column<'_>| Column {
        name: column.name().to_owned(),
        declared_type: column.decl_type().unwrap_or_default().to_lowercase(),
    };
    columns.iter().map(column).collect()
}

/// The variant that a declared type names.
fn base(declared: &str) -> &str {
    let base = declared.split('(').next().unwrap_or(declared).trim();
    let base = base
        .strip_suffix("text")
        .map_or(base, |base| base.trim_end_matches([' ', '_']));
    if base.ends_with("[]") { "array" } else { base }
}

pub(super) fn row(row: &Row<'_>, columns: &[Column]) -> rusqlite::Result<Vec<Value>> {
    let values = columns.iter().enumerate();
    values
        .map(|(index, column)| Ok(value(row.get_ref(index)?, base(&column.declared_type))))
        .collect()
}

fn value(raw: ValueRef<'_>, base: &str) -> Value {
    match (raw, base) {
        (ValueRef::Null, _) => Value::Null,
        (ValueRef::Integer(number @ (0 | 1)), "boolean" | "bool") => Value::Boolean(number == 1),
        (ValueRef::Integer(number), "decimal" | "numeric") => Value::Decimal(number.to_string()),
        (ValueRef::Integer(number), "json" | "jsonb") => Value::Json(number.to_string()),
        (ValueRef::Integer(number), _) => Value::Integer(number),
        (ValueRef::Real(number), "decimal" | "numeric") if number.is_finite() => {
            Value::Decimal(number.to_string())
        }
        (ValueRef::Real(number), "json" | "jsonb") if number.is_finite() => {
            Value::Json(number.to_string())
        }
        (ValueRef::Real(number), _) => Value::Real(number),
        (ValueRef::Text(bytes), _) => match std::str::from_utf8(bytes) {
            Ok(text) => of_text(text.to_owned(), base),
            // SQLite does not check what is written as TEXT.
            Err(_) => Value::Bytes(bytes.to_vec()),
        },
        (ValueRef::Blob(bytes), _) => Value::Bytes(bytes.to_vec()),
    }
}

fn of_text(text: String, base: &str) -> Value {
    match base {
        "decimal" | "numeric" if text::is_decimal(&text) => Value::Decimal(text),
        "uuid" if text::is_uuid(&text) => Value::Uuid(text),
        "date" if times::is_date(&text) => Value::Date(text),
        "time" if times::is_time(&text) => Value::Time(text),
        "timestamp" | "timestamptz" | "datetime" if times::is_timestamp(&text) => {
            Value::Timestamp(text)
        }
        "timestamp" | "timestamptz" | "datetime" if times::is_datetime(&text) => {
            Value::Datetime(text)
        }
        "json" | "jsonb" if text::is_json(&text) => Value::Json(text),
        "array" if text::is_array(&text) => Value::Array(text),
        _ => Value::Text(text),
    }
}

/// Bytes of a row, as limits count them: of each value at least one.
pub(super) fn row_bytes(row: &[Value]) -> usize {
    let bytes = |value: &Value| match value {
        Value::Integer(_) | Value::Real(_) => 8,
        Value::Bytes(bytes) => bytes.len().max(1),
        other => other.as_str().map_or(1, |text| text.len().max(1)),
    };
    row.iter().map(bytes).sum()
}
