//! What a call of a guest is given and what comes back.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::capability::Grants;
use crate::denial::Denial;
use crate::limits::Limits;

/// Identity of an attempt, as `heyday:plugin/context` shows it to the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempt {
    /// The namespace.
    pub namespace: String,
    /// The caller's id of the workflow.
    pub workflow_id: String,
    /// The run.
    pub run_id: String,
    /// The activity within the run.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// The queue.
    pub queue: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The same on every attempt of the activity.
    pub idempotency_key: String,
    /// Details (JSON) of the previous attempt's last heartbeat.
    pub last_heartbeat: Option<String>,
}

/// Severity of a guest's log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Trace.
    Trace,
    /// Debug.
    Debug,
    /// Info.
    Info,
    /// Warn.
    Warn,
    /// Error.
    Error,
}

/// Where a guest's messages go while it runs. Calls never block.
pub trait CallSink: Send + Sync + 'static {
    /// `context.heartbeat`; the details are checked JSON.
    fn heartbeat(&self, details: Option<String>);
    /// `context.progress`.
    fn progress(&self, completed: u64, total: u64, message: &str);
    /// `log.write`; `fields` is a checked JSON object.
    fn log(&self, level: LogLevel, message: &str, fields: Option<&str>);
}

/// What reaches into a running call from outside, and out of it.
#[derive(Clone)]
pub struct CallContext {
    /// Cancelled when the guest should stop: sets `context.is-cancelled`, ends host
    /// calls that wait, and interrupts the guest after the cancel grace.
    pub cancellation: CancellationToken,
    /// What `context.cancellation-reason` answers once `cancellation` is cancelled; set
    /// before it is. Where nobody sets it, that is `cancel-requested`.
    pub reason: Arc<OnceLock<&'static str>>,
    /// Cancelled when the guest must stop now, without grace.
    pub interrupt: CancellationToken,
    /// When the guest is interrupted.
    pub deadline: Instant,
    /// Where its messages go.
    pub sink: Arc<dyn CallSink>,
}

impl std::fmt::Debug for CallContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallContext")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// One call of `activities.run`.
#[derive(Debug, Clone)]
pub struct CallRequest {
    /// The plugin's name: whom bindings see.
    pub plugin: String,
    /// The activity's name within the plugin.
    pub activity: String,
    /// Its input, JSON text.
    pub input: String,
    /// Whose attempt it is.
    pub attempt: Attempt,
    /// What the plugin may reach.
    pub grants: Arc<Grants>,
    /// What it may use.
    pub limits: Arc<Limits>,
}

/// What a call used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Thread CPU time of the guest and its host calls, in microseconds.
    pub cpu_us: u64,
    /// From taking the slot to the end, in microseconds.
    pub wall_us: u64,
    /// Waiting for a slot of the pool, in microseconds.
    pub queue_us: u64,
    /// The most memory that the instance had, in bytes.
    pub peak_memory_bytes: u64,
    /// Calls of host functions, those that [`Limits::host_calls`] counts.
    pub host_calls: u64,
    /// Bytes of the answer.
    pub output_bytes: u64,
    /// Bytes of log lines as [`Limits::log_bytes`] counts them, without those that were
    /// dropped.
    pub log_bytes: u64,
    /// What capabilities counted, `<capability>.<counter>`.
    pub counters: BTreeMap<&'static str, u64>,
    /// What the guest was refused.
    pub denials: Vec<Denial>,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The guest answered a failure.
    #[error("{kind}: {message}")]
    Failed {
        /// As the guest said.
        kind: String,
        /// As the guest said.
        message: String,
        /// As the guest said.
        retryable: bool,
        /// JSON text; checked.
        details: Option<String>,
    },
    /// The guest trapped (a panic, out-of-bounds access, ...).
    #[error("the guest trapped: {message}")]
    Trap {
        /// What kind of trap.
        message: String,
        /// Names of the guest's functions, innermost first, one a line.
        backtrace: String,
    },
    /// A limit was passed.
    #[error("the guest passed its limit of {limit}: {message}")]
    LimitExceeded {
        /// The field's name in [`Limits`]; `stack`, or `resources`, which are fixed.
        limit: &'static str,
        /// How far.
        message: String,
    },
    /// The answer is no JSON.
    #[error("the guest's answer is not JSON: {0}")]
    InvalidOutput(String),
    /// The answer contains a secret that the attempt has read.
    #[error(
        "the guest's answer contains the value of a secret that the attempt has read; the \
         run's history would keep it"
    )]
    SecretInOutput,
    /// The deadline came.
    #[error("the guest was interrupted at its deadline")]
    TimedOut,
    /// The call was asked to stop, and the guest stopped or its grace was over.
    #[error("the call was cancelled")]
    Cancelled,
    /// The host failed.
    #[error("the sandbox failed: {0}")]
    Internal(String),
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOutcome {
    /// JSON text, or why there is none.
    pub result: Result<String, CallError>,
    /// What it used, in either case.
    pub usage: Usage,
}
