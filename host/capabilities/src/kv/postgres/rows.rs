//! Parameters of statements, and what rows have in them.

use std::time::Duration;

use bytes::Bytes;
use postgres_types::Type;

use crate::kv::{Entry, milliseconds};
use crate::postgres::{Param, PgError, from_hex};

pub(super) type Row = Vec<Option<Bytes>>;

pub(super) fn bytes(value: Vec<u8>) -> Param {
    Param {
        oid: Type::BYTEA.oid(),
        binary: true,
        bytes: Some(value.into()),
    }
}

pub(super) fn null() -> Param {
    Param {
        oid: 0,
        binary: false,
        bytes: None,
    }
}

/// A time in milliseconds, or NULL.
pub(super) fn optional(duration: Option<Duration>) -> Param {
    duration.map_or_else(null, |duration| {
        Param::text(&milliseconds(duration).to_string())
    })
}

pub(super) fn text(row: &Row, index: usize) -> Result<&str, PgError> {
    row.get(index)
        .and_then(Option::as_ref)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .ok_or_else(|| PgError::protocol("a value is missing"))
}

pub(super) fn number(row: &Row, index: usize) -> Result<i64, PgError> {
    let number = text(row, index)?.parse();
    number.map_err(|_| PgError::protocol("a number is none"))
}

/// An entry from its value, version and end.
pub(super) fn entry(row: &Row) -> Result<Entry, PgError> {
    let value = row.first().and_then(Option::as_ref);
    let value = value.and_then(|digits| from_hex(digits));
    let expires = match row.get(2) {
        Some(Some(_)) => Some(number(row, 2)?.unsigned_abs()),
        _ => None,
    };
    Ok(Entry {
        value: value.ok_or_else(|| PgError::protocol("bytes are none"))?,
        version: number(row, 1)?.unsigned_abs(),
        expires_ms: expires,
    })
}
