//! Failures: why an attempt, an activity or a run did not succeed.

use serde::{Deserialize, Serialize};

/// Kinds of failure that the host itself produces. Plugins choose their own.
pub mod kind {
    /// The input is no JSON, or does not fit the activity's schema.
    pub const INVALID_INPUT: &str = "invalid-input";
    /// No such plugin, version or activity.
    pub const UNKNOWN_ACTIVITY: &str = "unknown-activity";
    /// No such workflow definition.
    pub const UNKNOWN_WORKFLOW: &str = "unknown-workflow";
    /// No queue of that name.
    pub const UNKNOWN_QUEUE: &str = "unknown-queue";
    /// A capability was used without a grant.
    pub const CAPABILITY_DENIED: &str = "capability-denied";
    /// A timeout; the failure's `details` say which one (`{"timeout": "start_to_close"}`).
    pub const TIMEOUT: &str = "timeout";
    /// The activity or run was asked to stop, and did.
    pub const CANCELLED: &str = "cancelled";
    /// The run was terminated.
    pub const TERMINATED: &str = "terminated";
    /// The guest trapped.
    pub const TRAP: &str = "trap";
    /// A limit of the sandbox was passed; `details` say which one.
    pub const LIMIT_EXCEEDED: &str = "limit-exceeded";
    /// No task of the run takes the update.
    pub const UPDATE_REJECTED: &str = "update-rejected";
    /// The run ended before it completed an update that it had accepted.
    pub const UPDATE_UNFINISHED: &str = "update-unfinished";
    /// The guest's answer is no JSON, or does not fit the activity's schema.
    pub const INVALID_OUTPUT: &str = "invalid-output";
    /// The process that ran the attempt went away.
    pub const WORKER_LOST: &str = "worker-lost";
    /// The activity was paused on the cluster while the attempt ran.
    pub const ACTIVITY_PAUSED: &str = "activity-paused";
    /// The activity was reset on the cluster while the attempt ran.
    pub const ACTIVITY_RESET: &str = "activity-reset";
    /// The host failed; its log has the cause. Retryable.
    pub const INTERNAL: &str = "internal";
}

/// Why something did not succeed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind it is; for a flow's error, its `type` URI.
    pub kind: String,
    /// For a person.
    pub message: String,
    /// Whether another attempt may succeed.
    pub retryable: bool,
    /// For a program. For a flow's error, the whole error object of the DSL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
    /// Where in a guest it happened (a backtrace), where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// What led to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Box<Failure>>,
}

impl Failure {
    /// A failure that another attempt would meet again.
    #[must_use]
    pub fn permanent(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            message: message.into(),
            retryable: false,
            details: None,
            stack: None,
            cause: None,
        }
    }

    /// A failure that another attempt may not meet.
    #[must_use]
    pub fn transient(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            retryable: true,
            ..Self::permanent(kind, message)
        }
    }

    /// The same failure with details.
    #[must_use]
    pub fn with_details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(details);
        self
    }

    /// The same failure with a cause.
    #[must_use]
    pub fn with_cause(mut self, cause: Failure) -> Self {
        self.cause = Some(Box::new(cause));
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Failure {}
