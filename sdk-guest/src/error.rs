//! The two errors of this crate: [`Error`], what an activity answers when it fails, and
//! [`CapabilityError`], what a call of the host answers when it fails.
//!
//! `?` makes an [`Error`] of any error, as the kind below; give kinds of your own to what a
//! workflow may want to catch.

use serde::Serialize;
use serde_json::Value;

/// Why an activity failed. Workflows see it and can catch it by its kind.
///
/// `?` converts errors: a [`CapabilityError`] keeps its code as the kind, whether it is
/// retryable, and its details (also inside a [`std::io::Error`] from a blob's reader or
/// writer); an error of `serde_json` becomes `invalid-json` and is not retryable; any other
/// [`std::error::Error`] becomes `error` and is retryable, as activities are by default. The
/// message is the error's, followed by those of its sources.
///
/// ```
/// use heyday_sdk::prelude::*;
///
/// fn read(text: &str) -> Result<u32> {
///     let number: u32 = text
///         .parse()
///         .map_err(|error| Error::permanent("not-a-number", format!("{text:?}: {error}")))?;
///     Ok(number)
/// }
/// assert_eq!(read("x").unwrap_err().kind(), "not-a-number");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    kind: String,
    message: String,
    retryable: bool,
    details: Option<Value>,
}

/// A result whose error is [`Error`] unless another is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure that another attempt would meet again; the same as
    /// [`permanent`](Self::permanent). `kind` is kebab-case, such as `file-encrypted`; the
    /// message is for a person and never a secret: it is stored with the run.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            message: message.into(),
            retryable: false,
            details: None,
        }
    }

    /// A failure that another attempt would meet again: the activity ends at once.
    pub fn permanent(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(kind, message)
    }

    /// A failure that another attempt may not meet: the retry policy decides.
    pub fn retryable(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            retryable: true,
            ..Self::new(kind, message)
        }
    }

    /// The same failure with details for a program. What cannot be written as JSON is
    /// left out.
    #[must_use]
    pub fn with_details(mut self, details: impl Serialize) -> Self {
        self.details = serde_json::to_value(details).ok();
        self
    }

    /// The same failure, retryable or not.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// The same failure, its message led by `context: `.
    #[must_use]
    pub fn context(mut self, context: impl std::fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The kind that workflows match on.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What a person reads.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// What a program reads.
    #[must_use]
    pub fn details(&self) -> Option<&Value> {
        self.details.as_ref()
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

// Not a `std::error::Error` itself: that would forbid this conversion.
impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        convert(&error)
    }
}

fn convert(error: &(dyn std::error::Error + 'static)) -> Error {
    if let Some(error) = error.downcast_ref::<CapabilityError>() {
        return Error {
            kind: error.code.clone(),
            message: error.message.clone(),
            retryable: error.retryable,
            details: error.details.clone(),
        };
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>()
        && let Some(inner) = error.get_ref()
        && inner.is::<CapabilityError>()
    {
        return convert(inner);
    }
    if let Some(error) = error.downcast_ref::<serde_json::Error>() {
        return match error.classify() {
            // What reads or writes through a capability fails as the capability did.
            serde_json::error::Category::Io => Error::retryable("error", error.to_string()),
            _ => Error::permanent("invalid-json", error.to_string()),
        };
    }
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Many errors already end with their source's text.
        if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    Error::retryable("error", message)
}

/// Why the host did not do what it was asked. The codes stand in the documentation of each
/// capability's WIT package; `capability-denied` means that the plugin lacks a grant.
#[derive(Debug, Clone, PartialEq)]
pub struct CapabilityError {
    /// The code, such as `not-found` or `constraint`.
    pub code: String,
    /// For a person.
    pub message: String,
    /// Whether the same call may succeed later.
    pub retryable: bool,
    /// For a program.
    pub details: Option<Value>,
}

impl CapabilityError {
    /// An error of that code which is not retryable. For code that stands in for the host
    /// in tests.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retryable: false,
            details: None,
        }
    }

    /// Whether this is the code.
    #[must_use]
    pub fn is(&self, code: &str) -> bool {
        self.code == code
    }
}

impl std::fmt::Display for CapabilityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for CapabilityError {}

impl From<CapabilityError> for std::io::Error {
    fn from(error: CapabilityError) -> Self {
        let kind = match error.code.as_str() {
            "not-found" => std::io::ErrorKind::NotFound,
            "capability-denied" => std::io::ErrorKind::PermissionDenied,
            "timeout" => std::io::ErrorKind::TimedOut,
            _ => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the port is wrong")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn any_error_converts_with_its_sources() {
        let error = Error::from(Outer("x".parse::<u8>().unwrap_err()));
        assert_eq!(error.kind(), "error");
        assert!(error.is_retryable());
        assert_eq!(
            error.message(),
            "the port is wrong: invalid digit found in string"
        );
    }

    #[test]
    fn a_capability_error_keeps_what_the_host_said_even_through_io() {
        let denied = CapabilityError {
            code: "unavailable".into(),
            message: "the store is away".into(),
            retryable: true,
            details: Some(serde_json::json!({"after": 3})),
        };
        let expected = Error::retryable("unavailable", "the store is away")
            .with_details(serde_json::json!({"after": 3}));
        assert_eq!(Error::from(denied.clone()), expected);
        assert_eq!(Error::from(std::io::Error::from(denied)), expected);
    }

    #[test]
    fn json_that_does_not_fit_is_permanent() {
        let error = Error::from(serde_json::from_str::<u8>("[]").unwrap_err());
        assert_eq!(
            (error.kind(), error.is_retryable()),
            ("invalid-json", false)
        );
    }

    #[test]
    fn builders_change_one_thing() {
        let error = Error::new("quota", "used up")
            .with_retryable(true)
            .context("row 3");
        assert!(error.is_retryable());
        assert_eq!(error.to_string(), "quota: row 3: used up");
        assert_eq!(error.details(), None);
    }
}
