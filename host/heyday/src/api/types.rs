//! What the REST API takes and answers, as both the server and its clients see it.
//!
//! Members are only ever added: a client must ignore those that it does not know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Where a plugin version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VersionState {
    /// Its bytes are being read.
    Verifying,
    /// It is being compiled, or waits for the compiler.
    Compiling,
    /// It can be called.
    Ready,
    /// It cannot be used; `reason` says why.
    Failed,
}

/// An activity of a plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Activity {
    /// Its name within the plugin.
    pub name: String,
    /// What it does, in Markdown.
    pub documentation: String,
    /// JSON Schema of its input; absent where anything is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// JSON Schema of its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Value>,
    /// The queue that it runs on where a flow names none.
    pub queue: String,
    /// Its timeouts (`start_to_close`, `schedule_to_close`, ...), each a duration.
    #[schema(value_type = Object)]
    pub timeouts: Value,
    /// Its retry policy.
    #[schema(value_type = Object)]
    pub retry: Value,
}

/// One version of a plugin or flow. Immutable but for its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Its name; absent while an upload was not described yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its semantic version; absent while an upload was not described yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `sha256:` and 64 hexadecimal digits, of its bytes.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where it stands; always `ready` for a flow.
    pub state: VersionState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it is the active version.
    pub active: bool,
    /// When it was uploaded.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// What it is, in Markdown; a flow's title or summary.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub documentation: String,
    /// A plugin's activities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub activities: Vec<Activity>,
    /// The activities that a flow calls, as it names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
    /// The capabilities that it needs.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Everything that a plugin imports, with versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<String>,
    /// Capabilities that it needs and has no grant of.
    #[serde(default)]
    pub missing_grants: Vec<String>,
    /// Further remarks of the server: an activity that is not there yet, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A plugin or flow with its versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// The version that new runs use, if any.
    pub active_version: Option<String>,
    /// What the active (else the newest) version is.
    #[serde(default)]
    pub documentation: String,
    /// When its newest version was uploaded.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// Its versions, newest first.
    pub versions: Vec<Version>,
}

/// A page of plugins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PluginPage {
    /// By name.
    pub plugins: Vec<Named>,
    /// Give this as `page_token` to read on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// A page of flows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowPage {
    /// By name.
    pub flows: Vec<Named>,
    /// Give this as `page_token` to read on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Which page.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// At most so many (1 to 1,000; 100 where absent).
    pub page_size: Option<usize>,
    /// From the last page.
    pub page_token: Option<String>,
}

/// How an upload is handled.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// Whether it becomes the active version (`true` where absent), if no grant is
    /// missing.
    pub activate: Option<bool>,
    /// Store it as `VERSION-dev.DIGEST8`.
    #[serde(default)]
    pub dev: bool,
    /// Activate it even though grants are missing.
    #[serde(default)]
    pub allow_missing: bool,
    /// How long to wait until it is ready (`30s`, at most `60s`; `30s` where absent).
    pub wait: Option<String>,
}

/// Which version becomes the active one.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Activate {
    /// The version.
    pub version: String,
    /// Even though grants are missing.
    #[serde(default)]
    pub allow_missing: bool,
}

/// A wait for an answer.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// How long to wait (`30s`, `1m`; at most `60s`; not at all where absent).
    pub wait: Option<String>,
}

/// A start of a workflow.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartRequest {
    /// The flow's name, `<document.namespace>.<document.name>`.
    pub workflow_type: String,
    /// Its version; the active one where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// 1 to 1,000 bytes; a new UUID where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// Its input; null where absent.
    #[serde(default)]
    pub input: Value,
    /// `allow_duplicate` (the default), `allow_duplicate_failed_only` or
    /// `reject_duplicate`: what to do when the id was used before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub id_reuse_policy: Option<heyday_durable::engine::IdReusePolicy>,
    /// `fail` (the default), `use_existing` or `terminate_existing`: what to do when a
    /// run of the id is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub id_conflict_policy: Option<heyday_durable::engine::IdConflictPolicy>,
    /// Values shown with the run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub memo: BTreeMap<String, Value>,
}

/// A run that was started, or answered instead of starting another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Started {
    /// The workflow id.
    pub workflow_id: String,
    /// The run.
    pub run_id: Uuid,
    /// Whether this request started it.
    pub created: bool,
}

/// How a run ended, or that it did not yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunResult {
    /// The workflow id.
    pub workflow_id: String,
    /// The run.
    pub run_id: Uuid,
    /// `Running`, `Completed`, `Failed`, `Canceled`, `Terminated` or `TimedOut`.
    pub status: String,
    /// The result of a completed run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The failure of any other: kind, message, retryable, details, stack, cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub failure: Option<Value>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// The workflow id.
    pub workflow_id: String,
    /// The run.
    pub run_id: Uuid,
    /// The workflow type.
    pub workflow_type: String,
    /// The definition's version.
    pub version: String,
    /// The definition's digest.
    pub digest: String,
    /// `Running`, `Completed`, `Failed`, `Canceled`, `Terminated` or `TimedOut`.
    pub status: String,
    /// When it was started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub closed_at: Option<Timestamp>,
    /// Events in its history.
    pub history_length: u64,
    /// The run that started it as a child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunName>,
    /// Why it is held, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// Names a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunName {
    /// The workflow id.
    pub workflow_id: String,
    /// The run.
    pub run_id: Uuid,
}

/// A page of runs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunPage {
    /// The runs.
    pub workflows: Vec<Run>,
    /// Give this as `page_token` to read on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Which runs.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Temporal's list filter: `WorkflowType = 'x' AND ExecutionStatus = 'Running'`.
    pub query: Option<String>,
    /// At most so many (1 to 1,000; 100 where absent).
    pub page_size: Option<usize>,
    /// From the last page.
    pub page_token: Option<String>,
}

/// An activity that a run waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PendingActivity {
    /// Its id within the run.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// Its queue.
    pub queue: String,
    /// The task that called it, as JSON pointer.
    pub task: String,
    /// `Scheduled`, `Started`, `BackingOff` or `CancelRequested`.
    pub state: String,
    /// The attempt that runs or comes next.
    pub attempt: u32,
    /// When it was scheduled.
    #[schema(value_type = String, format = DateTime)]
    pub scheduled_at: Timestamp,
    /// When the running attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When the next attempt comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Timestamp>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub last_failure: Option<Value>,
    /// How far it is: completed, total, message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub progress: Option<Value>,
}

/// A timer that a run waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PendingTimer {
    /// Its id within the run.
    pub timer_id: String,
    /// The task that waits, as JSON pointer.
    pub task: String,
    /// When it fires.
    #[schema(value_type = String, format = DateTime)]
    pub fires_at: Timestamp,
}

/// A run in detail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunDescription {
    /// As in lists.
    #[serde(flatten)]
    pub run: Run,
    /// Values given at its start.
    pub memo: BTreeMap<String, Value>,
    /// The plugin versions that it keeps: name as called, and digest (none for a
    /// built-in).
    pub pinned: BTreeMap<String, Option<String>>,
    /// Activities that it waits for.
    pub pending_activities: Vec<PendingActivity>,
    /// Timers that it waits for.
    pub pending_timers: Vec<PendingTimer>,
    /// Children that it waits for.
    pub pending_children: Vec<RunName>,
}

/// Which part of a history.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// Events after this id; 0 where absent.
    pub after: Option<u64>,
    /// At most so many (1 to 1,000; 100 where absent).
    pub limit: Option<usize>,
    /// How long to wait for the first one.
    pub wait: Option<String>,
}

/// An event of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryEvent {
    /// Counted from 1, without gaps.
    pub event_id: u64,
    /// When it was recorded.
    #[schema(value_type = String, format = DateTime)]
    pub event_time: Timestamp,
    /// `WorkflowExecutionStarted`, `ActivityTaskScheduled`, ...; Temporal's names.
    pub event_type: String,
    /// Its attributes; Temporal's names.
    #[schema(value_type = Object)]
    pub attributes: Value,
}

/// A page of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryPage {
    /// The run.
    pub run_id: Uuid,
    /// Ascending.
    pub events: Vec<HistoryEvent>,
    /// Whether the run has ended and this page has its last event.
    pub complete: bool,
}

/// Which log lines.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Lines after this one; from the first where absent.
    pub page_token: Option<String>,
    /// At most so many (1 to 1,000; 100 where absent).
    pub page_size: Option<usize>,
    /// Keep the stream open until the run ends (with `Accept: text/event-stream`).
    #[serde(default)]
    pub follow: bool,
}

/// A log line of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When it was written.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// Its text.
    pub message: String,
    /// Further values.
    #[schema(value_type = Object)]
    pub fields: Value,
    /// The activity.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// The attempt.
    pub attempt: u32,
}

/// A page of log lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogPage {
    /// Ascending.
    pub lines: Vec<LogLine>,
    /// Give this as `page_token` to read on; absent where there are no more yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// What one attempt used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The activity.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// The queue.
    pub queue: String,
    /// The attempt.
    pub attempt: u32,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub ended_at: Timestamp,
    /// `completed`, or the kind of its failure.
    pub outcome: String,
    /// Named counters: `cpu_us`, `peak_memory_bytes`, `sql.rows`, ...
    pub counters: BTreeMap<String, u64>,
}

/// The receipts of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptList {
    /// By start.
    pub receipts: Vec<Receipt>,
}

/// Why a run is cancelled or terminated.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// For a person; may be empty.
    #[serde(default)]
    pub reason: String,
}

/// How one activity is run.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ActivityQuery {
    /// How long to wait for its end (`30s`, at most `60s`; not at all where absent).
    pub wait: Option<String>,
    /// The plugin's version; the active one where absent.
    pub version: Option<String>,
    /// The queue; the activity's own where absent.
    pub queue: Option<String>,
    /// 1 to 1,000 bytes; a new UUID where absent.
    pub workflow_id: Option<String>,
    /// How long one attempt may take.
    pub start_to_close: Option<String>,
    /// How long it may take, retries included.
    pub schedule_to_close: Option<String>,
    /// How many attempts it has; 0: no limit.
    pub maximum_attempts: Option<u32>,
}

/// A grant: a plugin or flow may use a binding of a capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// A plugin's or a flow's name.
    pub subject: String,
    /// `sql`, `blob`; `http` for a flow.
    pub capability: String,
    /// The binding's name; for `http`, `METHOD:HOST[/PATH]`.
    pub binding: String,
    /// `rw` (also where absent) or `ro`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// All grants of a namespace, or of one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrantList {
    /// By subject, capability and binding.
    pub grants: Vec<Grant>,
}

/// Which grants.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GrantQuery {
    /// Only of this plugin or flow.
    pub subject: Option<String>,
}

/// Which grants are taken back.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RevokeQuery {
    /// The plugin or flow.
    pub subject: String,
    /// The capability.
    pub capability: String,
    /// The binding; all of the capability where absent.
    pub binding: Option<String>,
}

/// A binding that may be granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Binding {
    /// The capability.
    pub capability: String,
    /// Its name.
    pub name: String,
}

/// All bindings of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BindingList {
    /// By capability and name.
    pub bindings: Vec<Binding>,
}

/// What a queue is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// How many activities it runs at once.
    pub limit: usize,
    /// Attempts that run.
    pub in_flight: usize,
    /// Attempts that wait.
    pub backlog: usize,
    /// How long the oldest of them has waited, in milliseconds.
    pub backlog_age_ms: u64,
}

/// All queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueList {
    /// By name.
    pub queues: Vec<Queue>,
}

/// Something that an operator did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who.
    pub principal: String,
    /// `plugin.upload`, `grant.put`, ...
    pub action: String,
    /// To what.
    pub subject: String,
    /// Further values.
    #[schema(value_type = Object)]
    pub details: Value,
}

/// A page of the audit, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Give this as `page_token` to read on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Whether the server can work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or `draining`.
    pub status: String,
    /// Whether it takes work.
    pub ready: bool,
    /// The server's version.
    pub version: String,
}

/// One of several things that are wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemItem {
    /// Where: a JSON pointer, where known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pointer: String,
    /// The line, for a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// What is wrong and what to do.
    pub message: String,
}

/// An error (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// A stable name: `urn:heyday:problems:...`.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// What kind of problem it is, for a person.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened and what to do.
    pub detail: String,
    /// Names the request in the server's log.
    #[serde(default)]
    pub request_id: String,
    /// Where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemItem>,
}
