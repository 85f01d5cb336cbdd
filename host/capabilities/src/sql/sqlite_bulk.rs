//! Runs one statement for many lists of parameters, in one visit to the connection.
//!
//! A visit costs two hand-overs between threads; a plugin that loads an index makes
//! hundreds of thousands of rows, and for those the hand-overs were most of the time.

use std::time::Duration;

use libsqlite3_sys as ffi;
use sqlx::sqlite::LockedSqliteHandle;

use super::Value;
use super::sqlite_guard::{RawError, Statement, Watch, last_error, prepare};

/// Runs an inspected statement once per list, each within `limit`, and answers how many
/// rows were changed; ends between two lists too where nobody waits any more.
pub(super) fn each(
    locked: &mut LockedSqliteHandle<'_>,
    watch: &Watch,
    sql: &str,
    lists: &[Vec<Value>],
    limit: Duration,
) -> Result<u64, RawError> {
    let db = locked.as_raw_handle().as_ptr();
    // It was inspected on this connection a moment ago, so there is one statement.
    let Some(statement) = prepare(db, sql)?.0 else {
        return Ok(0);
    };
    // SAFETY: the statement is live.
    let reads = unsafe { ffi::sqlite3_stmt_readonly(statement.raw()) != 0 };
    let mut changed = 0_u64;
    for params in lists {
        watch.extend(limit);
        watch.check()?;
        bind(db, &statement, params)?;
        let outcome = step_to_end(db, &statement);
        // SAFETY: the statement is live; what was bound lives until here, and is not
        // looked at again.
        unsafe {
            ffi::sqlite3_reset(statement.raw());
            ffi::sqlite3_clear_bindings(statement.raw());
        }
        outcome?;
        if !reads {
            // SAFETY: the connection is open and used by this thread alone.
            let rows = unsafe { ffi::sqlite3_changes64(db) };
            changed += u64::try_from(rows).unwrap_or_default();
        }
    }
    Ok(changed)
}

fn step_to_end(db: *mut ffi::sqlite3, statement: &Statement) -> Result<(), RawError> {
    loop {
        // SAFETY: the statement is live, and what is bound to it outlives this call.
        match unsafe { ffi::sqlite3_step(statement.raw()) } {
            ffi::SQLITE_ROW => {}
            ffi::SQLITE_DONE => return Ok(()),
            _ => return Err(last_error(db)),
        }
    }
}

/// Binds values without copying them: they must stay until the statement was reset.
fn bind(db: *mut ffi::sqlite3, statement: &Statement, params: &[Value]) -> Result<(), RawError> {
    let raw = statement.raw();
    for (index, value) in (1..).zip(params) {
        let text = |text: &str| {
            // SAFETY: the text is as long as is said; UTF-8; the caller keeps it.
            unsafe {
                ffi::sqlite3_bind_text64(
                    raw,
                    index,
                    text.as_ptr().cast(),
                    text.len() as u64,
                    ffi::SQLITE_STATIC(),
                    ffi::SQLITE_UTF8 as u8,
                )
            }
        };
        // SAFETY: the statement is live; the bytes are as long as is said, and kept.
        let code = unsafe {
            match value {
                Value::Null => ffi::sqlite3_bind_null(raw, index),
                Value::Boolean(value) => ffi::sqlite3_bind_int64(raw, index, i64::from(*value)),
                Value::Integer(value) => ffi::sqlite3_bind_int64(raw, index, *value),
                Value::Real(value) => ffi::sqlite3_bind_double(raw, index, *value),
                Value::Bytes(bytes) => ffi::sqlite3_bind_blob64(
                    raw,
                    index,
                    bytes.as_ptr().cast(),
                    bytes.len() as u64,
                    ffi::SQLITE_STATIC(),
                ),
                Value::Decimal(value)
                | Value::Text(value)
                | Value::Uuid(value)
                | Value::Date(value)
                | Value::Time(value)
                | Value::Timestamp(value)
                | Value::Datetime(value)
                | Value::Json(value)
                | Value::Array(value)
                | Value::Other((_, value)) => text(value),
            }
        };
        if code != ffi::SQLITE_OK {
            return Err(last_error(db));
        }
    }
    Ok(())
}
