//! What the engine's errors are in the words of `heyday:graph`.

use ::kglite::api::{KgError, KgErrorCode};

use super::CapabilityError;

/// The most that is told of the engine's message.
const MESSAGE_BYTES: usize = 1_000;

pub(super) fn new(code: &str, message: impl Into<String>) -> CapabilityError {
    CapabilityError {
        // Another try may not meet it.
        retryable: matches!(code, "conflict" | "timeout" | "unavailable"),
        ..CapabilityError::new(code, message)
    }
}

pub(super) fn closed() -> CapabilityError {
    new(
        "transaction-closed",
        "it was already ended, also by a statement that failed or was stopped",
    )
}

pub(super) fn denied(what: &str) -> CapabilityError {
    new(
        "capability-denied",
        format!("not allowed for plugins: {what}"),
    )
}

pub(super) fn timeout() -> CapabilityError {
    new(
        "timeout",
        "the statement ran past the binding's limit on time",
    )
}

/// Of a row.
pub(super) fn too_large() -> CapabilityError {
    new(
        "limit-exceeded",
        "a row is larger than the binding allows, or nests too deep",
    )
}

pub(super) fn failed(error: KgError) -> CapabilityError {
    let mut message = error.to_string();
    // Some show the whole statement.
    if message.len() > MESSAGE_BYTES {
        let mut ends = (0..=MESSAGE_BYTES).rev();
        let end = ends.find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or(0));
        message.push_str(" ...");
    }
    let says = |start: &str| matches!(&error, KgError::CypherExecution { message, .. } if message.starts_with(start));
    let code = match error.code() {
        KgErrorCode::CypherExecution if says("duplicate id") || says("duplicate primary") => {
            "constraint"
        }
        KgErrorCode::CypherExecution if says("Missing parameter") => "invalid-parameter",
        KgErrorCode::MissingArgument => "invalid-parameter",
        KgErrorCode::ConstraintViolation | KgErrorCode::OntologyViolation => "constraint",
        KgErrorCode::ReadOnly => return denied(&message),
        KgErrorCode::CypherTimeout | KgErrorCode::Cancelled => return timeout(),
        KgErrorCode::TransactionConflict => "conflict",
        KgErrorCode::WriterLeaseHeld | KgErrorCode::DurabilityFailed | KgErrorCode::FileIo => {
            "unavailable"
        }
        KgErrorCode::WriteBudgetExceeded | KgErrorCode::LoadMemoryLimit => "limit-exceeded",
        KgErrorCode::FileNotFound | KgErrorCode::FileFormat | KgErrorCode::Internal => "internal",
        _ => "invalid-statement",
    };
    new(code, message)
}
