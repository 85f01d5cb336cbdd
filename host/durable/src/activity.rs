//! Activities: what an engine hands to the host to be executed, and what comes back.
//!
//! An engine decides when an attempt starts and what its outcome leads to; the host
//! implements [`ActivityExecutor`] and knows how to run it. What must come back up
//! while it runs goes through the [`AttemptContext`] and nowhere else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::failure::{Failure, kind};
use crate::payload::{Digest, Payload};

/// How long an activity may take. Absent members do not limit, except
/// `start_to_close`, which is 5 minutes where neither task nor plugin says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActivityTimeouts {
    /// From scheduling to the last attempt's end, retries included.
    #[serde(
        with = "crate::flow::duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub schedule_to_close: Option<Duration>,
    /// From scheduling an attempt to its start: time in the queue. Not retried.
    #[serde(
        with = "crate::flow::duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub schedule_to_start: Option<Duration>,
    /// One attempt.
    #[serde(
        with = "crate::flow::duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub start_to_close: Option<Duration>,
    /// Between two heartbeats of the guest.
    #[serde(
        with = "crate::flow::duration::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub heartbeat: Option<Duration>,
}

/// The default of [`ActivityTimeouts::start_to_close`].
pub const DEFAULT_START_TO_CLOSE: Duration = Duration::from_secs(5 * 60);

/// When a failed attempt is followed by another; Temporal's retry policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Wait before the second attempt.
    #[serde(with = "crate::flow::duration::required")]
    pub initial_interval: Duration,
    /// Each further wait is the last one times this; at least 1.
    pub backoff_coefficient: f64,
    /// No wait is longer.
    #[serde(with = "crate::flow::duration::required")]
    pub maximum_interval: Duration,
    /// No more attempts than this; 0: no limit.
    pub maximum_attempts: u32,
    /// Kinds of failure that are not retried.
    pub non_retryable_kinds: Vec<String>,
}

impl Default for RetryPolicy {
    /// From 1 s doubling to 100 s, 5 attempts.
    fn default() -> Self {
        Self {
            initial_interval: Duration::from_secs(1),
            backoff_coefficient: 2.0,
            maximum_interval: Duration::from_secs(100),
            maximum_attempts: 5,
            non_retryable_kinds: Vec::new(),
        }
    }
}

/// One attempt, ready to run. Its start is durable.
#[derive(Debug, Clone)]
pub struct ActivityTask {
    /// Whom the run belongs to.
    pub namespace: String,
    /// The caller's id of the workflow.
    pub workflow_id: String,
    /// The workflow type, `<document.namespace>.<document.name>`.
    pub workflow_type: String,
    /// The run.
    pub run_id: Uuid,
    /// The activity within the run, the same on every attempt.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// The plugin version; `None` for a built-in, and for a task from a foreign
    /// workflow (the active version then).
    pub plugin_digest: Option<Digest>,
    /// The queue it was taken from.
    pub queue: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The input, with references resolved.
    pub input: Payload,
    /// When this attempt was scheduled (for a retry: when its backoff ended).
    pub scheduled_at: Timestamp,
    /// When this attempt started; the difference is its time in the queue.
    pub started_at: Timestamp,
    /// The activity's timeouts.
    pub timeouts: ActivityTimeouts,
    /// Details of the previous attempt's last heartbeat.
    pub last_heartbeat: Option<Payload>,
    /// The same on every attempt: namespace, run id and activity id.
    pub idempotency_key: String,
    /// W3C trace context of the transition that started the attempt, or of the run where
    /// no transitions are recorded.
    pub traceparent: Option<String>,
}

/// How important a guest's log line is, as in OpenTelemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

/// One log line of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it was written.
    pub at: Timestamp,
    /// Its level.
    pub level: LogLevel,
    /// Its text.
    pub message: String,
    /// Further values.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// How far an attempt is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub completed: u64,
    /// Units in all; 0 where not known.
    pub total: u64,
    /// For a person.
    pub message: String,
}

/// Where an attempt's messages go while it runs. Calls never block.
pub trait AttemptSink: Send + Sync + 'static {
    /// The guest is alive; only these calls count for the heartbeat timeout.
    fn heartbeat(&self, details: Option<Payload>);
    /// How far it is.
    fn progress(&self, progress: Progress);
    /// A log line of the guest.
    fn log(&self, line: LogLine);
}

/// Why an attempt should stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// The workflow asked for it, or the run was cancelled. The guest has its grace.
    Requested,
    /// The attempt's time is over; there is no grace.
    TimedOut,
    /// The run is gone (terminated); there is no grace.
    RunClosed,
    /// This process is shutting down.
    Shutdown,
    /// The activity was paused on the cluster: another attempt follows when that ends.
    Paused,
    /// The activity was reset on the cluster: another attempt follows.
    Reset,
}

impl CancelReason {
    /// The word for it, which an attempt is told that has its grace: it is documented where
    /// plugins read it. `None` where there is no grace, and so nobody to tell.
    #[must_use]
    pub const fn told(self) -> Option<&'static str> {
        match self {
            Self::Requested => Some("cancel-requested"),
            Self::Shutdown => Some("worker-shutdown"),
            Self::Paused => Some("paused"),
            Self::Reset => Some("reset"),
            Self::TimedOut | Self::RunClosed => None,
        }
    }

    /// How an attempt fails that stopped so that another follows; `None` where it stopped
    /// for good.
    #[must_use]
    pub fn interruption(self) -> Option<Failure> {
        let (kind, message) = match self {
            Self::Requested | Self::TimedOut | Self::RunClosed => return None,
            Self::Shutdown => (
                kind::WORKER_LOST,
                "the server was shut down while the attempt ran",
            ),
            Self::Paused => (
                kind::ACTIVITY_PAUSED,
                "the activity was paused while the attempt ran",
            ),
            Self::Reset => (
                kind::ACTIVITY_RESET,
                "the activity was reset while the attempt ran",
            ),
        };
        Some(Failure::transient(kind, message))
    }
}

/// What a running attempt is given, and the only way back up.
#[derive(Clone)]
pub struct AttemptContext {
    /// Cancelled when the attempt should stop; [`reason`](Self::reason) says why.
    pub cancellation: CancellationToken,
    /// Why `cancellation` was cancelled; set before it is.
    pub reason: Arc<std::sync::OnceLock<CancelReason>>,
    /// When the attempt is interrupted.
    pub deadline: Timestamp,
    /// Heartbeats, progress and log lines.
    pub sink: Arc<dyn AttemptSink>,
}

impl std::fmt::Debug for AttemptContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AttemptContext")
            .field("deadline", &self.deadline)
            .field("reason", &self.reason.get())
            .finish_non_exhaustive()
    }
}

/// What one attempt used: named counters, so that a capability can add its own.
///
/// Names of the host: `cpu_us`, `wall_us`, `queue_us` (microseconds),
/// `peak_memory_bytes`, `host_calls`, `output_bytes`, `log_bytes`; of a capability:
/// `<capability>.calls`, `<capability>.rows`, `<capability>.bytes_read`,
/// `<capability>.bytes_written`. A flow's own call runs in the host, and so has none of
/// `cpu_us`, `peak_memory_bytes`, `host_calls` and `log_bytes`. `lost` is 1 where the worker
/// died, or did not stop when nobody waited for it any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Receipt {
    /// The counters by name.
    pub counters: BTreeMap<String, u64>,
}

impl Receipt {
    /// Adds to a counter.
    pub fn add(&mut self, name: &str, amount: u64) {
        if let Some(counter) = self.counters.get_mut(name) {
            *counter = counter.saturating_add(amount);
        } else {
            self.counters.insert(name.to_owned(), amount);
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptOutcome {
    /// Its result, as JSON text, or its failure. A failure of kind
    /// [`CANCELLED`](crate::failure::kind::CANCELLED) after the context was cancelled
    /// ends the activity as cancelled.
    pub result: Result<Payload, Failure>,
    /// What it used.
    pub receipt: Receipt,
}

/// What one attempt used, and how it ended, as the history has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptReceipt {
    /// The namespace.
    pub namespace: String,
    /// The workflow's id.
    pub workflow_id: String,
    /// The run.
    pub run_id: Uuid,
    /// The activity.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// The plugin version's digest; `None` for a built-in.
    pub plugin_digest: Option<Digest>,
    /// The queue.
    pub queue: String,
    /// The attempt.
    pub attempt: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// `completed`, or the kind of its failure.
    pub outcome: String,
    /// What it used.
    pub receipt: Receipt,
}

/// Runs attempts. The host implements it.
#[async_trait]
pub trait ActivityExecutor: Send + Sync + 'static {
    /// Runs one attempt to its end. Must return soon after the context's deadline
    /// or cancellation (a guest's grace included); the engine does not wait longer.
    async fn execute(&self, task: ActivityTask, context: AttemptContext) -> AttemptOutcome;

    /// Where attempts should run; where the engine was opened, unless it says otherwise.
    /// An attempt that begins where its work is done changes threads less often.
    fn runtime(&self) -> Option<Handle> {
        None
    }

    /// Takes the receipt of an attempt of which [`execute`](Self::execute) did not tell
    /// the end: it says `lost`, or nothing where the attempt did not get so far. Its end
    /// is committed, or about to be told to the cluster. Whoever wrote one when the future
    /// of `execute` was dropped takes this one for it. Must not block.
    fn ended_elsewhere(&self, receipt: AttemptReceipt) {
        let _ = receipt;
    }
}
