//! What SQLite's errors are in the words of `heyday:sql`.
//!
//! SQLite's own message goes to the guest where it speaks of the guest's statement, and
//! to the host's log where it speaks of files.

use super::sqlite_guard::{Ended, RawError, Watch};
use super::{SqlCode, SqlError};
use crate::error::chain;
use crate::sqlite_threads::ThreadError;

pub(super) fn closed() -> SqlError {
    SqlError::new(
        SqlCode::TransactionClosed,
        "the transaction was already committed or rolled back",
    )
}

pub(super) fn conflict() -> SqlError {
    SqlError::new(
        SqlCode::Conflict,
        "another transaction holds the database; try again",
    )
}

pub(super) fn too_large(message: String) -> SqlError {
    SqlError::new(SqlCode::LimitExceeded, message)
}

/// Why a connection was not had, or not kept.
pub(super) fn unavailable(error: ThreadError) -> SqlError {
    match error {
        ThreadError::Busy => SqlError::new(
            SqlCode::Unavailable,
            "no connection to the database became free in time",
        ),
        ThreadError::Open(error) => translate(&error.into(), None),
        ThreadError::Closed | ThreadError::Thread(_) => {
            tracing::warn!(cause = %chain(&error), "a database cannot be reached");
            SqlError::new(SqlCode::Unavailable, "the database cannot be reached")
        }
        ThreadError::Lost => SqlError::internal(error),
    }
}

/// What an error of SQLite is. `watch`: of the connection, where a statement failed.
pub(super) fn translate(error: &RawError, watch: Option<&Watch>) -> SqlError {
    use libsqlite3_sys as ffi;
    let message = error.message.as_str();
    let class = error.code & 0xff;
    // A refused function is reported as an error of the statement.
    if matches!(
        class,
        ffi::SQLITE_AUTH | ffi::SQLITE_READONLY | ffi::SQLITE_ERROR
    ) {
        let what = watch.and_then(Watch::take_denied);
        if class != ffi::SQLITE_ERROR || what.is_some() {
            let what = what.unwrap_or_else(|| "what this statement does".into());
            return SqlError::new(
                SqlCode::CapabilityDenied,
                format!("not allowed for plugins: {what}"),
            );
        }
    }
    match class {
        ffi::SQLITE_CONSTRAINT => constraint(error),
        ffi::SQLITE_INTERRUPT => match watch.and_then(Watch::ended) {
            Some(Ended::Memory) => too_large(
                "the statement took more working memory than the binding allows".to_owned(),
            ),
            Some(Ended::Stopped) => {
                SqlError::new(SqlCode::Cancelled, "the attempt was asked to stop")
            }
            Some(Ended::TimedOut) | None => SqlError::new(
                SqlCode::Timeout,
                "the statement ran past the binding's limit on time",
            ),
        },
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_SCHEMA => conflict(),
        ffi::SQLITE_FULL => SqlError::new(
            SqlCode::Unavailable,
            "the disk is full, or the database has the size that its binding allows",
        )
        .with_details(serde_json::json!({ "kind": "disk-full" })),
        ffi::SQLITE_TOOBIG => {
            too_large(format!("a value or the statement is too large: {message}"))
        }
        // Not the statement's limit, which it does not reach unnoticed.
        ffi::SQLITE_NOMEM => SqlError::new(
            SqlCode::Unavailable,
            "the host has no memory left for the statement",
        ),
        ffi::SQLITE_MISMATCH | ffi::SQLITE_RANGE => {
            SqlError::new(SqlCode::InvalidParameter, message)
        }
        ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN | ffi::SQLITE_NOTADB => {
            tracing::warn!(
                code = error.code,
                cause = message,
                "a database cannot be reached"
            );
            SqlError::new(
                SqlCode::Unavailable,
                "the database cannot be read or written",
            )
        }
        ffi::SQLITE_ERROR => SqlError::new(SqlCode::InvalidStatement, message),
        _ => SqlError::internal(format!("SQLite {}: {message}", error.code)),
    }
}

fn constraint(error: &RawError) -> SqlError {
    use libsqlite3_sys as ffi;
    let kind = match error.code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_ROWID => "unique",
        ffi::SQLITE_CONSTRAINT_PRIMARYKEY => "primary-key",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "foreign-key",
        ffi::SQLITE_CONSTRAINT_NOTNULL => "not-null",
        ffi::SQLITE_CONSTRAINT_CHECK => "check",
        _ => "other",
    };
    let mut details = serde_json::json!({ "kind": kind });
    // "UNIQUE constraint failed: users.email"
    if let Some((_, name)) = error.message.split_once(": ") {
        details["constraint"] = name.into();
    }
    SqlError::new(SqlCode::Constraint, error.message.clone()).with_details(details)
}
