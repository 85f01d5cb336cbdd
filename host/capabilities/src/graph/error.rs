//! The codes of what servers and connections answer. A server's message goes to the guest
//! where it speaks of the guest's statement, and to the host's log where it speaks of the
//! server.

use super::bolt::{BoltError, Failure};
use super::{GraphCode, GraphError};

/// The most that is told of a server's message.
const MESSAGE_BYTES: usize = 1_000;

pub(super) fn closed() -> GraphError {
    GraphError::new(
        GraphCode::TransactionClosed,
        "it was already ended, also by a statement that failed or was stopped",
    )
}

fn unavailable(message: &str) -> GraphError {
    GraphError::new(GraphCode::Unavailable, message)
}

pub(super) fn translate(error: BoltError) -> GraphError {
    match error {
        BoltError::Server(failure) => server(failure),
        BoltError::Away(_) => unavailable("the graph cannot be reached; try again"),
        BoltError::Refused(_) => unavailable(
            "the graph's server does not let the host in, or may not be used: an operator must \
             act; the host's log has the cause",
        ),
        BoltError::Full => unavailable("no connection to the graph became free in time"),
        BoltError::Memory => GraphError::new(
            GraphCode::LimitExceeded,
            "the graph ended for want of memory or stack, perhaps by this statement: it takes \
             more than the binding allows",
        ),
        BoltError::TooLarge => GraphError::new(
            GraphCode::LimitExceeded,
            "a row is larger than the binding allows, or nests too deep",
        ),
        BoltError::Timeout => timeout(),
        BoltError::Protocol(cause) => GraphError::internal(cause),
    }
}

fn timeout() -> GraphError {
    GraphError::new(
        GraphCode::Timeout,
        "the statement ran past the binding's limit on time",
    )
}

fn server(failure: Failure) -> GraphError {
    let of_sign_in = failure.is_of_sign_in();
    let Failure { code, mut message } = failure;
    // Some show the whole statement.
    let end = message.floor_char_boundary(MESSAGE_BYTES);
    if end < message.len() {
        message.truncate(end);
        message.push_str(" ...");
    }
    if of_sign_in {
        tracing::warn!(code, message, "a graph's server wants another sign-in");
        return unavailable("the graph's server wants another sign-in; try again");
    }
    let mut parts = code.split('.').skip(1);
    let mut part = || parts.next().unwrap_or_default();
    let (class, category, title) = (part(), part(), part());
    let found = match (class, category, title) {
        (_, "Schema", "ConstraintValidationFailed" | "ConstraintViolation") => {
            GraphCode::Constraint
        }
        (_, "Statement", "AccessMode")
        | (_, "Security", _)
        | (_, _, "ForbiddenOnReadOnlyDatabase") => {
            return GraphError::new(
                GraphCode::CapabilityDenied,
                format!("not allowed for plugins: {message}"),
            );
        }
        (_, "Statement", "ParameterMissing" | "ParameterUnsupported") => {
            GraphCode::InvalidParameter
        }
        // What the host itself sent was wrong.
        (_, "Request", _) => return GraphError::internal(format!("{code}: {message}")),
        (_, "Transaction", title) if title.starts_with("TransactionTimedOut") => {
            return timeout();
        }
        // By the server when it stops, or by its operator: what we end ourselves past the limit is
        // a timeout already.
        (_, "Transaction", "Terminated") => {
            tracing::warn!(code, message, "a graph's server ended a transaction");
            return unavailable("the graph's server ended the transaction; try again");
        }
        (
            _,
            "General",
            "MemoryPoolOutOfMemoryError"
            | "TransactionOutOfMemoryError"
            | "OutOfMemoryError"
            | "StackOverFlowError",
        ) => GraphCode::LimitExceeded,
        // Of everybody on the server together.
        (_, "Transaction", "MaximumTransactionLimitReached") => {
            tracing::warn!(code, message, "a graph's server takes no more transactions");
            return unavailable("the graph's server takes no more transactions now; try again");
        }
        ("TransientError", "Transaction", _) => GraphCode::Conflict,
        ("TransientError", ..) => {
            tracing::warn!(code, message, "a graph's server asks to be tried again");
            return unavailable("the graph's server asks to be tried again");
        }
        ("ClientError", ..) => GraphCode::InvalidStatement,
        _ => return GraphError::internal(format!("{code}: {message}")),
    };
    GraphError::new(found, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_codes() {
        for (code, expected) in [
            (
                "Neo.ClientError.Statement.SyntaxError",
                GraphCode::InvalidStatement,
            ),
            (
                "Neo.ClientError.Statement.TypeError",
                GraphCode::InvalidStatement,
            ),
            (
                "Neo.ClientError.Statement.ParameterMissing",
                GraphCode::InvalidParameter,
            ),
            (
                "Neo.ClientError.Statement.ParameterUnsupported",
                GraphCode::InvalidParameter,
            ),
            ("Neo.ClientError.Request.Invalid", GraphCode::Internal),
            (
                "Neo.ClientError.Statement.AccessMode",
                GraphCode::CapabilityDenied,
            ),
            (
                "Neo.ClientError.Security.Forbidden",
                GraphCode::CapabilityDenied,
            ),
            (
                "Neo.ClientError.Security.Unauthorized",
                GraphCode::Unavailable,
            ),
            (
                "Neo.ClientError.Security.AuthorizationExpired",
                GraphCode::Unavailable,
            ),
            (
                "Neo.TransientError.Security.AuthProviderTimeout",
                GraphCode::Unavailable,
            ),
            (
                "Neo.ClientError.Schema.ConstraintValidationFailed",
                GraphCode::Constraint,
            ),
            (
                "Neo.ClientError.Transaction.TransactionTimedOut",
                GraphCode::Timeout,
            ),
            (
                "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration",
                GraphCode::Timeout,
            ),
            (
                "Neo.TransientError.Transaction.DeadlockDetected",
                GraphCode::Conflict,
            ),
            (
                "Neo.TransientError.Transaction.MaximumTransactionLimitReached",
                GraphCode::Unavailable,
            ),
            (
                "Neo.TransientError.Transaction.Terminated",
                GraphCode::Unavailable,
            ),
            (
                "Neo.TransientError.General.DatabaseUnavailable",
                GraphCode::Unavailable,
            ),
            (
                "Neo.TransientError.General.MemoryPoolOutOfMemoryError",
                GraphCode::LimitExceeded,
            ),
            (
                "Neo.ClientError.General.TransactionOutOfMemoryError",
                GraphCode::LimitExceeded,
            ),
            (
                "Neo.DatabaseError.General.UnknownError",
                GraphCode::Internal,
            ),
            ("", GraphCode::Internal),
        ] {
            let error = server(Failure {
                code: code.to_owned(),
                message: "words".to_owned(),
            });
            assert_eq!(error.code, expected, "{code}");
        }
        for error in [
            BoltError::Away("10.0.0.1".into()),
            BoltError::Refused("secret".into()),
        ] {
            let error = translate(error);
            assert_eq!(error.code, GraphCode::Unavailable);
            assert!(!error.message.contains("10.0.0.1") && !error.message.contains("secret"));
        }
    }
}
