//! What PostgreSQL's errors are in the words of `heyday:sql`.
//!
//! The server's message goes to the guest where it speaks of the guest's statement, and
//! to the host's log where it speaks of the server.

use super::{SqlCode, SqlError};
use crate::postgres::{PgError, ServerError};

pub(super) fn closed() -> SqlError {
    SqlError::new(
        SqlCode::TransactionClosed,
        "the transaction was already committed or rolled back",
    )
}

pub(super) fn too_large(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlCode::LimitExceeded, message)
}

fn unavailable(message: &str) -> SqlError {
    SqlError::new(SqlCode::Unavailable, message)
}

pub(super) fn translate(error: PgError) -> SqlError {
    match error {
        PgError::Server(error) => server(error),
        PgError::Away(_) => unavailable("the database cannot be reached; try again"),
        PgError::Refused(_) => unavailable(
            "the database does not let the host in, or its role is not kept to its schema: an \
             operator must act; the host's log has the cause",
        ),
        PgError::Full => unavailable("no connection to the database became free in time"),
        PgError::TooLarge => too_large("a row is larger than the binding allows"),
        PgError::Copy => SqlError::new(
            SqlCode::InvalidStatement,
            "COPY from or to the client is not possible here: use `execute-many` or \
             `query-stream`",
        ),
        PgError::Timeout => timeout(),
        PgError::Protocol(cause) => SqlError::internal(cause),
    }
}

pub(super) fn timeout() -> SqlError {
    SqlError::new(
        SqlCode::Timeout,
        "the statement ran past the binding's limit on time",
    )
}

fn server(error: ServerError) -> SqlError {
    let code = match (error.class(), error.code.as_str()) {
        ("23", _) | (_, "44000") => return constraint(error),
        (_, "57014") => return timeout(),
        (_, "42501" | "25006") => {
            return SqlError::new(
                SqlCode::CapabilityDenied,
                format!("not allowed for plugins: {}", error.message),
            );
        }
        (_, "40001" | "40P01" | "55P03" | "55006") => SqlCode::Conflict,
        // A parameter's number, or its text where the server reads it.
        (_, "08P01" | "22P02" | "22P03" | "22003" | "22007" | "22008" | "22021") => {
            SqlCode::InvalidParameter
        }
        (_, "25P02") => {
            return SqlError::new(
                SqlCode::TransactionClosed,
                "a statement of the transaction failed before, which ended it: roll back",
            );
        }
        (_, "53100") => {
            return unavailable("the database's disk is full")
                .with_details(serde_json::json!({ "kind": "disk-full" }));
        }
        // Of everybody on the server together. A setting that one statement passed
        // (`temp_file_limit`) is that statement's own.
        ("53", code) if code != "53400" => {
            tracing::warn!(code, message = error.message, "PostgreSQL lacks resources");
            return unavailable("the database's server lacks resources just now; try again");
        }
        ("53" | "54", _) => SqlCode::LimitExceeded,
        ("58" | "F0" | "XX", _) => {
            return SqlError::internal(format!("PostgreSQL {}: {}", error.code, error.message));
        }
        _ => SqlCode::InvalidStatement,
    };
    SqlError::new(code, error.message)
}

fn constraint(error: ServerError) -> SqlError {
    let kind = match error.code.as_str() {
        "23505" => "unique",
        "23503" => "foreign-key",
        "23502" => "not-null",
        "23514" | "44000" => "check",
        _ => "other",
    };
    let mut details = serde_json::json!({ "kind": kind });
    // A column that is not null has no name of its own as a constraint.
    let name = error.constraint.or_else(|| {
        let (table, column) = (error.table?, error.column?);
        Some(format!("{table}.{column}"))
    });
    if let Some(name) = name {
        details["constraint"] = name.into();
    }
    SqlError::new(SqlCode::Constraint, error.message).with_details(details)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: &str) -> SqlError {
        translate(PgError::Server(ServerError {
            code: code.into(),
            message: "words".into(),
            table: Some("people".into()),
            column: Some("name".into()),
            ..ServerError::default()
        }))
    }

    #[test]
    fn states_have_codes() {
        for (state, code) in [
            ("42601", SqlCode::InvalidStatement),
            ("42P01", SqlCode::InvalidStatement),
            ("42501", SqlCode::CapabilityDenied),
            ("25006", SqlCode::CapabilityDenied),
            ("08P01", SqlCode::InvalidParameter),
            ("23505", SqlCode::Constraint),
            ("40P01", SqlCode::Conflict),
            ("55P03", SqlCode::Conflict),
            ("57014", SqlCode::Timeout),
            ("53100", SqlCode::Unavailable),
            ("53000", SqlCode::Unavailable),
            ("53200", SqlCode::Unavailable),
            ("53400", SqlCode::LimitExceeded),
            ("54001", SqlCode::LimitExceeded),
            ("25P02", SqlCode::TransactionClosed),
            ("P0001", SqlCode::InvalidStatement),
        ] {
            assert_eq!(told(state).code, code, "{state}");
        }
        let error = told("XX001");
        assert_eq!(error.code, SqlCode::Internal);
        assert!(!error.message.contains("words"), "{error}");
        let details = told("23502").details.expect("details");
        let expected = serde_json::json!({ "kind": "not-null", "constraint": "people.name" });
        assert_eq!(details, expected);
        for error in [
            PgError::Away("10.0.0.1".into()),
            PgError::Refused("secret".into()),
        ] {
            let error = translate(error);
            assert_eq!(error.code, SqlCode::Unavailable);
            assert!(!error.message.contains("10.0.0.1") && !error.message.contains("secret"));
        }
    }
}
