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
///
/// ```
/// use heyday_sdk::Result;
///
/// fn port(text: &str) -> Result<u16> {
///     Ok(text.parse()?)
/// }
/// assert_eq!(port("8080").unwrap(), 8080);
/// assert_eq!(port("http").unwrap_err().kind(), "error");
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure that another attempt would meet again; the same as
    /// [`permanent`](Self::permanent). `kind` is kebab-case, such as `file-encrypted`; the
    /// message is for a person and never a secret: it is stored with the run.
    ///
    /// ```
    /// use heyday_sdk::Error;
    ///
    /// let error = Error::new("file-encrypted", "the file needs a password");
    /// assert_eq!(error.to_string(), "file-encrypted: the file needs a password");
    /// ```
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            message: message.into(),
            retryable: false,
            details: None,
        }
    }

    /// A failure that another attempt would meet again: the activity ends at once.
    ///
    /// ```
    /// use heyday_sdk::{Error, Result};
    ///
    /// fn check(amount: i64) -> Result<i64> {
    ///     if amount < 0 {
    ///         return Err(Error::permanent("negative-amount", format!("{amount} is below 0")));
    ///     }
    ///     Ok(amount)
    /// }
    /// assert!(!check(-1).unwrap_err().is_retryable());
    /// ```
    pub fn permanent(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(kind, message)
    }

    /// A failure that another attempt may not meet: the retry policy decides.
    ///
    /// ```
    /// use heyday_sdk::Error;
    ///
    /// fn failure(status: u16) -> Error {
    ///     match status {
    ///         500..=599 => Error::retryable("server-failed", format!("status {status}")),
    ///         _ => Error::permanent("refused", format!("status {status}")),
    ///     }
    /// }
    /// assert!(failure(503).is_retryable() && !failure(404).is_retryable());
    /// ```
    pub fn retryable(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            retryable: true,
            ..Self::new(kind, message)
        }
    }

    /// The same failure with details for a program. What cannot be written as JSON is
    /// left out.
    ///
    /// ```
    /// use heyday_sdk::Error;
    /// use std::collections::BTreeMap;
    ///
    /// let read = BTreeMap::from([("pages", 900)]);
    /// let error = Error::permanent("too-many-pages", "the limit is 500").with_details(read);
    /// assert_eq!(error.details().unwrap()["pages"], 900);
    /// ```
    #[must_use]
    pub fn with_details(mut self, details: impl Serialize) -> Self {
        self.details = serde_json::to_value(details).ok();
        self
    }

    /// The same failure, retryable or not.
    ///
    /// ```
    /// use heyday_sdk::{Error, Result};
    ///
    /// /// What is no number now is none on another attempt either.
    /// fn number(text: &str) -> Result<u32> {
    ///     text.parse::<u32>().map_err(|error| Error::from(error).with_retryable(false))
    /// }
    /// assert!(!number("x").unwrap_err().is_retryable());
    /// ```
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// The same failure, its message led by `context: `.
    ///
    /// ```
    /// use heyday_sdk::{Error, Result};
    ///
    /// fn sum(lines: &[&str]) -> Result<u32> {
    ///     let parse = |(line, number): (&&str, u32)| {
    ///         let number = format!("line {number}");
    ///         line.parse::<u32>().map_err(|error| Error::from(error).context(number))
    ///     };
    ///     lines.iter().zip(1..).map(parse).sum()
    /// }
    /// assert!(sum(&["1", "x"]).unwrap_err().message().starts_with("line 2: "));
    /// ```
    #[must_use]
    pub fn context(mut self, context: impl std::fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The kind that workflows match on.
    ///
    /// ```
    /// use heyday_sdk::Error;
    ///
    /// fn is_the_files_fault(error: &Error) -> bool {
    ///     matches!(error.kind(), "not-a-pdf" | "file-encrypted")
    /// }
    /// assert!(is_the_files_fault(&Error::new("not-a-pdf", "it has no header")));
    /// ```
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What a person reads.
    ///
    /// ```
    /// use heyday_sdk::Error;
    ///
    /// let error = Error::new("quota", "all 500 pages are used up");
    /// assert_eq!(error.message(), "all 500 pages are used up"); // Without the kind.
    /// ```
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether another attempt may succeed.
    ///
    /// ```
    /// use heyday_sdk::Error;
    ///
    /// // As `?` converts them: any error is retryable, but not what is no JSON.
    /// assert!(Error::from("x".parse::<u8>().unwrap_err()).is_retryable());
    /// assert!(!Error::from(serde_json::from_str::<u8>("[").unwrap_err()).is_retryable());
    /// ```
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// What a program reads.
    ///
    /// ```
    /// use heyday_sdk::Error;
    ///
    /// let error = Error::retryable("rate-limited", "wait a little").with_details(30);
    /// assert_eq!(error.details().and_then(|seconds| seconds.as_u64()), Some(30));
    /// assert_eq!(Error::retryable("rate-limited", "wait").details(), None);
    /// ```
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
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().blob::<&str, &str>("default", []).enter();
/// use heyday_sdk::{CapabilityError, blob::Container};
///
/// let error: CapabilityError = Container::open("default")?.get("absent").unwrap_err();
/// match error.code.as_str() {
///     "not-found" => assert!(!error.retryable),
///     _ => return Err(error.into()), // A workflow sees the code as the kind.
/// }
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
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
    ///
    /// ```
    /// use heyday_sdk::{CapabilityError, sql::Connection, test::Context};
    ///
    /// let mut away = CapabilityError::new("unavailable", "the database is away");
    /// away.retryable = true;
    /// let _test = Context::new().sql("default", move |_, _| Err(away.clone())).enter();
    /// let db = Connection::open("default")?;
    /// assert!(db.query("SELECT 1", &[]).unwrap_err().retryable);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            retryable: false,
            details: None,
        }
    }

    /// Whether this is the code.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv("default", [("lock", "mine")]).enter();
    /// use heyday_sdk::kv::{Set, Store};
    ///
    /// let taken = Store::open("default")?.set("lock", "yours", Set::new().if_absent());
    /// assert!(taken.is_err_and(|error| error.is("precondition-failed")));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
