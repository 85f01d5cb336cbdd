//! What can go wrong with PostgreSQL, before a capability gives it a code.

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::ErrorResponseBody;

/// Why an operation did not do what was asked.
#[derive(Debug)]
pub(crate) enum PgError {
    /// The server said no.
    Server(ServerError),
    /// It cannot be reached, or the connection was lost; the words are for the log.
    Away(String),
    /// It does not let us in, or the role has rights that it must not have; the words
    /// are for the log.
    Refused(String),
    /// No connection became free in time.
    Full,
    /// An answer is larger than it may be.
    TooLarge,
    /// The statement wants to copy, which goes by a protocol of its own.
    Copy,
    /// The server did not answer within the limit.
    Timeout,
    /// It speaks otherwise than PostgreSQL does.
    Protocol(String),
}

impl PgError {
    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::Protocol(message.into())
    }

    /// Writes to the log what a guest is not told.
    pub(crate) fn log(&self, identity: &str) {
        match self {
            Self::Away(cause) => {
                tracing::warn!(server = identity, cause, "PostgreSQL cannot be reached");
            }
            Self::Refused(cause) => {
                tracing::error!(server = identity, cause, "PostgreSQL cannot be used");
            }
            _ => {}
        }
    }
}

/// An error as the server tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServerError {
    /// SQLSTATE, five characters.
    pub(crate) code: String,
    pub(crate) message: String,
    /// What it is about, where the server says.
    pub(crate) constraint: Option<String>,
    pub(crate) table: Option<String>,
    pub(crate) column: Option<String>,
}

impl ServerError {
    pub(super) fn new(body: &ErrorResponseBody) -> Self {
        let mut error = Self::default();
        let mut fields = body.fields();
        // What is malformed is left out.
        while let Ok(Some(field)) = fields.next() {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'n' => error.constraint = Some(text),
                b't' => error.table = Some(text),
                b'c' => error.column = Some(text),
                _ => {}
            }
        }
        error
    }

    /// SQLSTATE's first two characters.
    pub(crate) fn class(&self) -> &str {
        self.code.get(..2).unwrap_or_default()
    }

    /// Whether the server itself is away, or ends the connection.
    pub(crate) fn is_away(&self) -> bool {
        // 08P01 is what a wrong number of parameters is told by.
        (self.class() == "08" && self.code != "08P01")
            || matches!(
                self.code.as_str(),
                "57P01" | "57P02" | "57P03" | "57P05" | "53300"
            )
    }
}
