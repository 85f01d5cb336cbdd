//! Errors of the DSL, and how they relate to [`Failure`].
//!
//! A [`Fault`] is what a flow's `catch` sees: a problem document (`type`, `status`,
//! `title`, `detail`, `instance`). The canonical types are those of the DSL's
//! reference (`https://serverlessworkflow.io/spec/1.0.0/errors/...`); the
//! specification's own conformance kit writes them
//! `https://serverlessworkflow.io/dsl/errors/types/...`, so a filter may use either.
//!
//! From an activity or a child to a flow ([`Fault::from_failure`]):
//!
//! | failure's kind | type | status |
//! |---|---|---|
//! | a URI (a child's or `call: http`'s error) | the kind | `details.status`, else the type's |
//! | `invalid-input`, `invalid-output` | validation | 400 |
//! | `unknown-activity`, `unknown-workflow`, `unknown-queue` | configuration | 400 |
//! | `capability-denied` | authorization | 403 |
//! | `timeout` | timeout | 408 |
//! | `cancelled` | `urn:heyday:errors:cancelled` | 499 |
//! | `terminated`, `trap`, `limit-exceeded`, `worker-lost`, `internal` | runtime | 500 |
//! | any other: the plugin's own | communication | 500 |
//!
//! The failure itself stays in the fault's member `failure` (`kind`, `message`,
//! `retryable`, `details`), so that an expression can ask `$error.failure.kind`.
//! From a flow to its caller ([`Fault::into_failure`]): the kind is the type, the
//! details are the whole fault.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::failure::{Failure, kind};

/// Invalid configuration; status 400.
pub const CONFIGURATION: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/configuration";
/// Data that does not fit its schema; status 400.
pub const VALIDATION: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/validation";
/// An expression that failed; status 400.
pub const EXPRESSION: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/expression";
/// Failed authentication; status 401.
pub const AUTHENTICATION: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/authentication";
/// Denied; status 403.
pub const AUTHORIZATION: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/authorization";
/// A timeout; status 408.
pub const TIMEOUT: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/timeout";
/// A call that failed; status 500 where nothing better is known.
pub const COMMUNICATION: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/communication";
/// Anything that went wrong while a flow ran; status 500.
pub const RUNTIME: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/runtime";
/// The run was asked to cancel; status 499. Not of the DSL.
pub const CANCELLED: &str = "urn:heyday:errors:cancelled";

/// The standard types with their default status.
const STANDARD: [(&str, u16); 9] = [
    (CONFIGURATION, 400),
    (VALIDATION, 400),
    (EXPRESSION, 400),
    (AUTHENTICATION, 401),
    (AUTHORIZATION, 403),
    (TIMEOUT, 408),
    (COMMUNICATION, 500),
    (RUNTIME, 500),
    (CANCELLED, 499),
];

const CANONICAL: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/";
const ALIAS: &str = "https://serverlessworkflow.io/dsl/errors/types/";

/// Whether two types are the same, either way of writing a standard one.
#[must_use]
pub fn same_type(a: &str, b: &str) -> bool {
    a == b || canonical(a) == canonical(b)
}

/// The canonical form of a standard type's alias; any other as it is.
fn canonical(error_type: &str) -> (&str, &str) {
    for prefix in [CANONICAL, ALIAS] {
        if let Some(name) = error_type.strip_prefix(prefix)
            && STANDARD
                .iter()
                .any(|(standard, _)| standard.strip_prefix(CANONICAL) == Some(name))
        {
            return (CANONICAL, name);
        }
    }
    ("", error_type)
}

/// The status of a type where none is given: the standard type's, else 500.
#[must_use]
pub fn default_status(error_type: &str) -> u16 {
    STANDARD
        .iter()
        .find(|(standard, _)| same_type(standard, error_type))
        .map_or(500, |(_, status)| *status)
}

/// An error as the DSL describes it (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// A URI that says which kind of error it is.
    #[serde(rename = "type")]
    pub error_type: String,
    /// As an HTTP status.
    pub status: u16,
    /// What it is, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What happened this time, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The task that it comes from, as JSON pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The failure that led to it, where it did not begin in a flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Box<Failure>>,
}

impl Fault {
    /// A fault with its type's default status.
    #[must_use]
    pub fn new(error_type: &str, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            error_type: error_type.to_owned(),
            status: default_status(error_type),
            title: Some(title.into()),
            detail: Some(detail.into()),
            instance: None,
            failure: None,
        }
    }

    /// The run was asked to cancel.
    #[must_use]
    pub fn cancelled(reason: impl Into<String>) -> Self {
        Self::new(CANCELLED, "Cancelled", reason)
    }

    /// The same fault, from that task.
    #[must_use]
    pub fn at(mut self, reference: &str) -> Self {
        self.instance = Some(reference.to_owned());
        self
    }

    /// Whether it is a cancel.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.error_type == CANCELLED
    }

    /// What an activity's or a child's failure is to the flow; `reference` is the task
    /// that called it.
    #[must_use]
    pub fn from_failure(failure: &Failure, reference: &str) -> Self {
        let (error_type, title) = match failure.kind.as_str() {
            kind::INVALID_INPUT => (VALIDATION, "Invalid input"),
            kind::INVALID_OUTPUT => (VALIDATION, "Invalid output"),
            kind::UNKNOWN_ACTIVITY => (CONFIGURATION, "Unknown activity"),
            kind::UNKNOWN_WORKFLOW => (CONFIGURATION, "Unknown workflow"),
            kind::UNKNOWN_QUEUE => (CONFIGURATION, "Unknown queue"),
            kind::CAPABILITY_DENIED => (AUTHORIZATION, "Capability denied"),
            kind::TIMEOUT => (TIMEOUT, "Timeout"),
            kind::CANCELLED => (CANCELLED, "Cancelled"),
            kind::TERMINATED => (RUNTIME, "Terminated"),
            kind::TRAP => (RUNTIME, "Trap"),
            kind::LIMIT_EXCEEDED => (RUNTIME, "Limit exceeded"),
            kind::WORKER_LOST => (RUNTIME, "Worker lost"),
            kind::ACTIVITY_PAUSED => (RUNTIME, "Activity paused"),
            kind::ACTIVITY_RESET => (RUNTIME, "Activity reset"),
            kind::INTERNAL => (RUNTIME, "Internal error"),
            own if is_uri(own) => return Self::from_uri_failure(failure, reference),
            own => (COMMUNICATION, own),
        };
        Self {
            failure: Some(Box::new(failure.clone())),
            ..Self::new(error_type, title, failure.message.as_str()).at(reference)
        }
    }

    fn from_uri_failure(failure: &Failure, reference: &str) -> Self {
        let details = failure.details.as_ref();
        let text = |name: &str| {
            details
                .and_then(|details| details.get(name)?.as_str())
                .map(ToOwned::to_owned)
        };
        Self {
            error_type: failure.kind.clone(),
            status: details
                .and_then(|details| u16::try_from(details.get("status")?.as_u64()?).ok())
                .unwrap_or_else(|| default_status(&failure.kind)),
            title: text("title"),
            detail: text("detail").or_else(|| Some(failure.message.clone())),
            instance: Some(reference.to_owned()),
            // Only where it began: keeping each level's failure would grow with the
            // depth of children.
            failure: details.and_then(|details| origin(details.get("failure")?)),
        }
    }

    /// What the fault is to whoever started the run.
    #[must_use]
    pub fn into_failure(self) -> Failure {
        let details = self.to_value();
        let message = match (&self.title, &self.detail) {
            (Some(title), Some(detail)) => format!("{title}: {detail}"),
            (Some(text), None) | (None, Some(text)) => text.clone(),
            (None, None) => format!("error {}", self.status),
        };
        Failure {
            cause: self.failure,
            ..Failure::permanent(self.error_type, message).with_details(details)
        }
    }

    /// As the value of a `catch`'s variable.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = json!({ "type": self.error_type, "status": self.status });
        for (name, text) in [
            ("title", &self.title),
            ("detail", &self.detail),
            ("instance", &self.instance),
        ] {
            if let Some(text) = text {
                value[name] = text.as_str().into();
            }
        }
        if let Some(failure) = &self.failure {
            let mut origin = json!({
                "kind": failure.kind,
                "message": failure.message,
                "retryable": failure.retryable,
            });
            if let Some(details) = &failure.details {
                origin["details"] = details.clone();
            }
            value["failure"] = origin;
        }
        value
    }
}

/// Reads what [`Fault::to_value`] writes as `failure`.
fn origin(value: &Value) -> Option<Box<Failure>> {
    Some(Box::new(Failure {
        retryable: value.get("retryable")?.as_bool()?,
        details: value.get("details").cloned(),
        ..Failure::permanent(
            value.get("kind")?.as_str()?,
            value.get("message")?.as_str()?,
        )
    }))
}

/// Whether a kind is a URI, by its scheme's shape: a plugin's own kinds have no colon.
fn is_uri(kind: &str) -> bool {
    kind.split_once(':').is_some_and(|(scheme, rest)| {
        !rest.is_empty()
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::model::ErrorFilter;

    #[test]
    fn a_filter_matches_either_way_of_writing_a_standard_type() {
        let fault = Fault::new(COMMUNICATION, "Not found", "nobody there").at("/do/0/x");
        let filter = |error_type: &str| ErrorFilter {
            error_type: Some(error_type.to_owned()),
            ..ErrorFilter::default()
        };
        for error_type in [
            COMMUNICATION,
            "https://serverlessworkflow.io/dsl/errors/types/communication",
        ] {
            assert!(filter(error_type).matches(&fault), "{error_type}");
        }
        for error_type in [
            TIMEOUT,
            "https://serverlessworkflow.io/dsl/errors/types/timeout",
            "https://serverlessworkflow.io/dsl/errors/types/",
            "communication",
        ] {
            assert!(!filter(error_type).matches(&fault), "{error_type}");
        }
        // A raised error keeps the way in which it was written.
        let raised = Fault::new(
            "https://serverlessworkflow.io/dsl/errors/types/timeout",
            "",
            "",
        );
        assert!(filter(TIMEOUT).matches(&raised));
        assert_eq!(raised.status, 408);
        assert!(!same_type(
            "https://serverlessworkflow.io/dsl/errors/types/own",
            "https://serverlessworkflow.io/spec/1.0.0/errors/own"
        ));
    }

    #[test]
    fn a_filter_compares_every_member_it_has() {
        let fault = Fault {
            status: 404,
            ..Fault::new(COMMUNICATION, "Gone", "for ever").at("/do/0/x")
        };
        assert!(ErrorFilter::default().matches(&fault));
        let whole = ErrorFilter {
            error_type: Some(COMMUNICATION.to_owned()),
            status: Some(404),
            instance: Some("/do/0/x".to_owned()),
            title: Some("Gone".to_owned()),
            detail: Some("for ever".to_owned()),
        };
        assert!(whole.matches(&fault));
        for change in [
            |filter: &mut ErrorFilter| filter.status = Some(503),
            |filter: &mut ErrorFilter| filter.instance = Some("/do/1/x".to_owned()),
            |filter: &mut ErrorFilter| filter.title = Some("gone".to_owned()),
            |filter: &mut ErrorFilter| filter.detail = Some(String::new()),
        ] {
            let mut filter = whole.clone();
            change(&mut filter);
            assert!(!filter.matches(&fault), "{filter:?}");
        }
    }

    #[test]
    fn a_cancel_is_caught_only_by_its_name() {
        let cancel = Fault::cancelled("enough").at("/do/0/x");
        assert_eq!(cancel.status, 499);
        assert!(!ErrorFilter::default().matches(&cancel));
        let by_status = ErrorFilter {
            status: Some(499),
            ..ErrorFilter::default()
        };
        assert!(!by_status.matches(&cancel));
        let by_name = ErrorFilter {
            error_type: Some(CANCELLED.to_owned()),
            ..ErrorFilter::default()
        };
        assert!(by_name.matches(&cancel));
    }

    #[test]
    fn failures_become_faults() {
        for (kind, error_type, status) in [
            (kind::INVALID_INPUT, VALIDATION, 400),
            (kind::INVALID_OUTPUT, VALIDATION, 400),
            (kind::UNKNOWN_ACTIVITY, CONFIGURATION, 400),
            (kind::UNKNOWN_WORKFLOW, CONFIGURATION, 400),
            (kind::UNKNOWN_QUEUE, CONFIGURATION, 400),
            (kind::CAPABILITY_DENIED, AUTHORIZATION, 403),
            (kind::TIMEOUT, TIMEOUT, 408),
            (kind::CANCELLED, CANCELLED, 499),
            (kind::TERMINATED, RUNTIME, 500),
            (kind::TRAP, RUNTIME, 500),
            (kind::LIMIT_EXCEEDED, RUNTIME, 500),
            (kind::WORKER_LOST, RUNTIME, 500),
            (kind::ACTIVITY_PAUSED, RUNTIME, 500),
            (kind::ACTIVITY_RESET, RUNTIME, 500),
            (kind::INTERNAL, RUNTIME, 500),
            ("not-found", COMMUNICATION, 500),
        ] {
            let failure = Failure::permanent(kind, "why").with_details(json!({"a": 1}));
            let fault = Fault::from_failure(&failure, "/do/0/x");
            assert_eq!(
                (fault.error_type.as_str(), fault.status),
                (error_type, status),
                "{kind}"
            );
            assert_eq!(fault.instance.as_deref(), Some("/do/0/x"));
            let value = fault.to_value();
            assert_eq!(value["detail"], "why");
            assert_eq!(
                value["failure"],
                json!({"kind": kind, "message": "why", "retryable": false, "details": {"a": 1}})
            );
        }
    }

    #[test]
    fn a_fault_goes_through_callers_without_growing() {
        let failure =
            Failure::permanent("not-found", "no such file").with_details(json!({"path": "a"}));
        let mut fault = Fault::from_failure(&failure, "/do/0/read");
        let first = fault.to_value().to_string().len();
        for _ in 0..32 {
            let failure = fault.into_failure();
            assert_eq!(failure.kind, COMMUNICATION);
            assert_eq!(failure.message, "not-found: no such file");
            fault = Fault::from_failure(&failure, "/do/3/child");
        }
        assert_eq!(fault.to_value()["failure"]["kind"], "not-found");
        assert_eq!(fault.to_value()["failure"]["details"], json!({"path": "a"}));
        assert_eq!(fault.title.as_deref(), Some("not-found"));
        assert!(fault.to_value().to_string().len() <= first + 1);
    }

    #[test]
    fn a_failure_whose_kind_is_a_type_is_that_error() {
        let failure = Failure::transient(COMMUNICATION, "HTTP 404")
            .with_details(json!({"status": 404, "title": "Not Found"}));
        let fault = Fault::from_failure(&failure, "/do/0/x");
        assert_eq!(
            (fault.error_type.as_str(), fault.status),
            (COMMUNICATION, 404)
        );
        assert_eq!(fault.title.as_deref(), Some("Not Found"));
        assert_eq!(fault.detail.as_deref(), Some("HTTP 404"));
        // Details that are no error object do no harm.
        let odd = Failure::permanent("urn:x:y", "m").with_details(json!([{"status": "x"}]));
        assert_eq!(Fault::from_failure(&odd, "").status, 500);
        let read: Fault = serde_json::from_value(json!({"type": "a:b", "status": 400})).unwrap();
        assert_eq!(read.to_value(), json!({"type": "a:b", "status": 400}));
    }
}
