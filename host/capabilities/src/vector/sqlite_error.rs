//! Why an operation on a store in SQLite did not happen.

use super::{VectorCode, VectorError, VectorLimits, too_slow};
use crate::error::chain;

/// Why an operation did not happen.
pub(super) enum Failed {
    Refused(VectorError),
    Database(sqlx::Error),
}

impl From<VectorError> for Failed {
    fn from(error: VectorError) -> Self {
        Self::Refused(error)
    }
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// What a failure of SQLite is in the words of `heyday:vector`.
pub(super) fn translate(error: &sqlx::Error, limits: &VectorLimits) -> VectorError {
    use libsqlite3_sys as ffi;
    let unavailable = || {
        tracing::warn!(cause = %chain(error), "a vector store cannot be reached");
        VectorError::new(
            VectorCode::Unavailable,
            "the store cannot be read or written",
        )
    };
    match error {
        sqlx::Error::PoolTimedOut => VectorError::new(
            VectorCode::Conflict,
            "others used the store all the time that the binding allows to wait",
        ),
        sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Io(_)
        | sqlx::Error::Configuration(_) => unavailable(),
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse::<i32>().ok());
            match code.unwrap_or_default() & 0xff {
                ffi::SQLITE_INTERRUPT => too_slow(limits.call_timeout_ms),
                ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => VectorError::new(
                    VectorCode::Conflict,
                    "another process holds the store; try again",
                ),
                ffi::SQLITE_FULL => VectorError::new(
                    VectorCode::Unavailable,
                    "the disk is full, or the store has the size that its binding allows",
                )
                .with_details(serde_json::json!({ "kind": "disk-full" })),
                ffi::SQLITE_IOERR
                | ffi::SQLITE_CANTOPEN
                | ffi::SQLITE_NOTADB
                | ffi::SQLITE_CORRUPT => unavailable(),
                _ => VectorError::internal(chain(error)),
            }
        }
        other => VectorError::internal(chain(other)),
    }
}
