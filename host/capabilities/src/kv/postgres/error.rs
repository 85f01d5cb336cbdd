//! Why an operation was not done, and what PostgreSQL's errors are in the words of
//! `heyday:kv`.

use crate::kv::{KvCode, KvError};
use crate::postgres::{PgError, ServerError};

/// Why an operation was not done.
pub(super) enum Failed {
    Refused(KvError),
    Postgres(PgError),
}

impl From<KvError> for Failed {
    fn from(error: KvError) -> Self {
        Self::Refused(error)
    }
}

impl From<PgError> for Failed {
    fn from(error: PgError) -> Self {
        Self::Postgres(error)
    }
}

fn unavailable(message: &str) -> KvError {
    KvError::new(KvCode::Unavailable, message)
}

/// What a failure of PostgreSQL is in the words of `heyday:kv`.
pub(super) fn translate(error: PgError) -> KvError {
    match error {
        PgError::Server(error) => server(&error),
        PgError::Away(_) => unavailable("the store cannot be reached; try again"),
        PgError::Refused(_) => unavailable(
            "the database does not let the host in, or its tables cannot be used: an operator \
             must act; the host's log has the cause",
        ),
        PgError::Full => unavailable("no connection to the store became free in time"),
        PgError::Timeout => unavailable("the store did not answer in time"),
        PgError::TooLarge => KvError::new(
            KvCode::LimitExceeded,
            "a value is larger than the binding allows",
        ),
        PgError::Copy => KvError::internal("an unexpected copy"),
        PgError::Protocol(cause) => KvError::internal(cause),
    }
}

fn server(error: &ServerError) -> KvError {
    match (error.class(), error.code.as_str()) {
        (_, "40001" | "40P01" | "55P03") => KvError::new(
            KvCode::Conflict,
            "others wrote all the time that the binding allows to wait",
        ),
        (_, "57014") => unavailable("the store did not answer in time"),
        (_, "53100") => unavailable("the store's disk is full")
            .with_details(serde_json::json!({ "kind": "disk-full" })),
        // Of everybody on the server together. A setting of the operator's that one statement
        // passed (`temp_file_limit`) would be passed again.
        ("53", code) if code != "53400" => {
            tracing::warn!(code, message = error.message, "PostgreSQL lacks resources");
            unavailable("the store's server lacks resources just now; try again")
        }
        // A role without its rights or its schema, or a read-only binding that nobody wrote to.
        (_, "42501" | "42P01" | "25006" | "3F000") => {
            tracing::error!(
                code = error.code,
                cause = error.message,
                "a store has no tables"
            );
            unavailable("the store's tables cannot be used: an operator must act")
        }
        _ => KvError::internal(format!("PostgreSQL {}: {}", error.code, error.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode as _;

    fn told(code: &str) -> KvError {
        translate(PgError::Server(ServerError {
            code: code.into(),
            message: "words".into(),
            ..ServerError::default()
        }))
    }

    #[test]
    fn states_have_codes() {
        for (state, code, again) in [
            ("40001", KvCode::Conflict, true),
            ("55P03", KvCode::Conflict, true),
            ("57014", KvCode::Unavailable, true),
            ("53000", KvCode::Unavailable, true),
            ("53100", KvCode::Unavailable, true),
            ("53200", KvCode::Unavailable, true),
            ("53300", KvCode::Unavailable, true),
            ("53400", KvCode::Internal, false),
            ("42P01", KvCode::Unavailable, true),
            ("XX001", KvCode::Internal, false),
        ] {
            let error = told(state);
            assert_eq!(error.code, code, "{state}");
            assert_eq!(error.code.retryable(), again, "{state}");
            assert!(!error.message.contains("words"), "{state}: {error}");
        }
        let details = told("53100").details.expect("details");
        assert_eq!(details, serde_json::json!({ "kind": "disk-full" }));
    }
}
