//! What the registry answers: the API shows these as they are.

use std::collections::BTreeMap;

use heyday_durable::activity::{ActivityTimeouts, AttemptReceipt, RetryPolicy};
use heyday_durable::flow::Problem;
use heyday_durable::payload::Digest;
use jiff::Timestamp;
use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::description::Requires;

/// Where an uploaded version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VersionState {
    /// Its bytes are being checked.
    Verifying,
    /// Its code is being compiled, or waits for the compiler.
    Compiling,
    /// It can be called.
    Ready,
    /// It cannot be used; the reason says why.
    Failed,
}

impl VersionState {
    /// As the API and the database write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verifying => "verifying",
            Self::Compiling => "compiling",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// An activity, as its plugin describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ActivityDescription {
    /// Its name within the plugin.
    pub name: String,
    /// What it does, for a person; Markdown.
    #[serde(default)]
    pub documentation: String,
    /// JSON Schema of its input; anything fits where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Value>,
    /// JSON Schema of its output; anything fits where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub output: Option<Value>,
    /// Its default queue.
    pub queue: String,
    /// Its timeouts.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub timeouts: ActivityTimeouts,
    /// Its retry policy.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub retry: RetryPolicy,
}

/// One version of a plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PluginVersion {
    /// The plugin's name.
    pub name: String,
    /// The version.
    #[schema(value_type = String)]
    pub version: Version,
    /// Digest of the component's bytes.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Always `ready`: what cannot be used becomes no version.
    pub state: VersionState,
    /// Whether new runs use it.
    pub active: bool,
    /// What the plugin is, for a person; Markdown.
    pub documentation: String,
    /// Its activities.
    pub activities: Vec<ActivityDescription>,
    /// What it imports, with versions.
    pub imports: Vec<String>,
    /// Capabilities that it imports.
    pub capabilities: Vec<String>,
    /// Those of which it was granted nothing.
    pub missing_grants: Vec<String>,
    /// The dialects that it needs, by capability: one of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub requires: Requires,
    /// Its grants of other dialects: it is not made active with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfit_grants: Vec<UnfitGrant>,
    /// When it was uploaded.
    #[schema(value_type = String, format = DateTime)]
    pub uploaded_at: Timestamp,
}

/// A version in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionSummary {
    /// The version.
    #[schema(value_type = String)]
    pub version: Version,
    /// Digest of its bytes.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Where it stands.
    pub state: VersionState,
    /// Whether new runs use it.
    pub active: bool,
    /// When it was uploaded.
    #[schema(value_type = String, format = DateTime)]
    pub uploaded_at: Timestamp,
}

/// A plugin with a page of its versions, or a flow with one of its.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Versions {
    /// The name.
    pub name: String,
    /// The version that new runs use.
    #[schema(value_type = Option<String>)]
    pub active: Option<Version>,
    /// What the active version (else the newest) says of itself.
    pub documentation: String,
    /// When its newest version was uploaded.
    #[schema(value_type = String, format = DateTime)]
    pub uploaded_at: Timestamp,
    /// Versions, newest upload first.
    pub versions: Vec<VersionSummary>,
    /// For the next page of versions; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// A plugin or a flow in a list: without its versions, which may be many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NameSummary {
    /// The name.
    pub name: String,
    /// The version that new runs use.
    #[schema(value_type = Option<String>)]
    pub active: Option<Version>,
    /// What the active version (else the newest) says of itself.
    pub documentation: String,
    /// When its newest version was uploaded.
    #[schema(value_type = String, format = DateTime)]
    pub uploaded_at: Timestamp,
    /// How many versions it has.
    pub version_count: usize,
}

/// A page of plugins or flows, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NamesPage {
    /// The rows.
    pub rows: Vec<NameSummary>,
    /// The name to give as `after` for the next page; none at the end.
    pub next: Option<String>,
}

/// How to take an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadOptions {
    /// Make it the active version, if no grant is missing.
    pub activate: bool,
    /// Store it as `VERSION-dev.DIGEST8`.
    pub dev: bool,
    /// Make it active although grants are missing.
    pub allow_missing: bool,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self {
            activate: true,
            dev: false,
            allow_missing: false,
        }
    }
}

impl UploadOptions {
    /// The one of the two that asks for more: to be active, and to be so whatever is missing.
    #[must_use]
    pub(super) fn stronger(self, other: Self) -> Self {
        // Who does not ask for it to be active allows nothing.
        let asks = |options: Self| (options.activate, options.activate && options.allow_missing);
        if asks(other) > asks(self) {
            other
        } else {
            self
        }
    }
}

/// Where an upload of a component stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UploadStatus {
    /// Digest of the bytes: the upload's name, `GET /uploads/{digest}`.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Where it stands.
    pub state: VersionState,
    /// Why it failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was uploaded.
    #[schema(value_type = String, format = DateTime)]
    pub uploaded_at: Timestamp,
}

/// What an upload of a component answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Upload {
    /// It is a version now (201).
    Created(PluginVersion),
    /// The same bytes were a version before (200).
    Existing(PluginVersion),
    /// It is not ready yet (202).
    Pending(UploadStatus),
}

/// One version of a flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlowVersion {
    /// `<document.namespace>.<document.name>`.
    pub name: String,
    /// The version.
    #[schema(value_type = String)]
    pub version: Version,
    /// Digest of the document's bytes.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Always `ready`: a flow is checked before it is stored.
    pub state: VersionState,
    /// Whether new runs use it.
    pub active: bool,
    /// `document.title` and `document.summary`.
    pub documentation: String,
    /// Activities that it calls, as it names them.
    pub activities: Vec<String>,
    /// Workflows that it runs.
    pub children: Vec<String>,
    /// What would fail if it ran now: activities that no plugin has, missing grants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// When it was uploaded.
    #[schema(value_type = String, format = DateTime)]
    pub uploaded_at: Timestamp,
}

/// What an upload of a flow answered.
#[derive(Debug, Clone, PartialEq)]
pub enum FlowUpload {
    /// It is a version now (201).
    Created(FlowVersion),
    /// The same bytes were a version before, or this was a dry run (200).
    Existing(FlowVersion),
}

/// A grant: a subject may use one binding of a capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrantInfo {
    /// A plugin's or a flow's name.
    pub subject: String,
    /// `sql`, `blob`; for a flow `http`.
    pub capability: String,
    /// The binding; for `http` a rule, `METHOD:HOST[:PORT][/PATH]`.
    pub binding: String,
    /// `ro` or `rw`; absent is `rw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// When it was granted.
    #[schema(value_type = String, format = DateTime)]
    pub granted_at: Timestamp,
}

/// A grant of a dialect that a plugin cannot use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnfitGrant {
    /// `sql` or `graph`.
    pub capability: String,
    /// The binding.
    pub binding: String,
    /// Its dialect.
    pub dialect: String,
    /// Those of which the plugin needs one.
    pub needed: Vec<String>,
}

impl std::fmt::Display for UnfitGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            capability,
            binding,
            dialect,
            needed,
        } = self;
        let needed = needed.join(" or ");
        write!(
            f,
            "{capability}={binding} is {dialect} and it needs {needed}"
        )
    }
}

/// A grant as a request names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// A plugin's or a flow's name.
    pub subject: String,
    /// `sql`, `blob`; for a flow `http`.
    pub capability: String,
    /// The binding; for `http` a rule, `METHOD:HOST[:PORT][/PATH]`.
    pub binding: String,
    /// `ro` or `rw`; absent is `rw`.
    #[serde(default)]
    pub mode: Option<String>,
}

/// A binding that can be granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BindingInfo {
    /// The capability.
    pub capability: String,
    /// Its name.
    pub name: String,
    /// What stands behind it: `sqlite`, `postgresql`, `files`, `kglite`, `neo4j`.
    pub backend: String,
    /// Modes in which it can be granted; none where grants have no mode.
    pub modes: Vec<String>,
}

/// Something an operator did or was refused, or that a plugin or flow was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Ascending.
    pub id: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who; of `capability.deny` `plugin NAME` or `flow NAME`.
    pub principal: String,
    /// `plugin.upload`, `plugin.activate`, `plugin.rollback`, `plugin.remove`, the
    /// same of `flow`, `grant.put`, `grant.delete`, those of tokens, models, schedules and
    /// workflows; `grant.refuse` and `plugin.refuse`: a grant and an upload that were
    /// refused; `capability.deny`: host calls of an attempt that were refused alike.
    pub action: String,
    /// On what: a name, a name and version, a subject; of `plugin.refuse` the digest.
    pub resource: String,
    /// Further values; of refusals the `reason`.
    #[schema(value_type = Object)]
    pub details: Value,
}

/// What a text is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextFilter {
    /// This.
    Exact(String),
    /// Anything that begins with this.
    Prefix(String),
}

impl TextFilter {
    /// Reads a text, or the beginning of one with a `*` after it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text.to_owned()),
        }
    }

    /// What is said of the text.
    #[must_use]
    pub const fn said(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) => text.as_str(),
        }
    }
}

/// Which entries of the audit are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// What was done.
    pub action: Option<TextFilter>,
    /// On what.
    pub resource: Option<TextFilter>,
}

/// What one attempt used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptRecord {
    /// The activity within the run.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// 1 for the first.
    pub attempt: u32,
    /// The queue.
    pub queue: String,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub ended_at: Timestamp,
    /// `completed`, or the failure's kind.
    pub outcome: String,
    /// Counters by name: `cpu_us`, `wall_us`, `sql.rows`, ...
    #[schema(value_type = Object)]
    pub counters: std::collections::BTreeMap<String, u64>,
}

impl From<AttemptReceipt> for ReceiptRecord {
    fn from(receipt: AttemptReceipt) -> Self {
        Self {
            activity_id: receipt.activity_id,
            activity_type: receipt.activity_type,
            attempt: receipt.attempt,
            queue: receipt.queue,
            started_at: receipt.started_at,
            ended_at: receipt.ended_at,
            outcome: receipt.outcome,
            counters: receipt.receipt.counters,
        }
    }
}

impl ReceiptRecord {
    /// Where it stands among its run's receipts.
    #[must_use]
    pub fn place(&self) -> ReceiptPlace {
        ReceiptPlace {
            started_us: self.started_at.as_microsecond(),
            activity_id: self.activity_id.clone(),
            attempt: self.attempt,
        }
    }
}

/// Where a receipt stands among those of its run: a cursor, as text and back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReceiptPlace {
    /// When its attempt started, in microseconds of the Unix time.
    pub started_us: i64,
    /// The activity within the run.
    pub activity_id: String,
    /// 1 for the first.
    pub attempt: u32,
}

impl std::fmt::Display for ReceiptPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            started_us,
            activity_id,
            attempt,
        } = self;
        // The id is last: another engine's may hold anything.
        write!(f, "{started_us}.{attempt}.{activity_id}")
    }
}

impl std::str::FromStr for ReceiptPlace {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (started_us, rest) = text.split_once('.').unwrap_or((text, ""));
        let (attempt, activity_id) = rest.split_once('.').unwrap_or((rest, ""));
        Ok(Self {
            started_us: started_us.parse()?,
            activity_id: activity_id.to_owned(),
            attempt: attempt.parse()?,
        })
    }
}

/// One log line of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogRecord {
    /// Ascending over all runs: a cursor.
    pub id: u64,
    /// When it was written.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// Its text.
    pub message: String,
    /// Further values.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schema(value_type = Object)]
    pub fields: serde_json::Map<String, Value>,
    /// The activity within the run.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// 1 for the first.
    pub attempt: u32,
}

/// Whom a request belongs to, for the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// Who asks.
    pub principal: &'a str,
}

/// One thing that is wrong with a request; the `errors` of a problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestProblem {
    /// The line, where a document has lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Where, as JSON pointer.
    pub pointer: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl std::fmt::Display for RequestProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.message)
    }
}

impl From<Problem> for RequestProblem {
    fn from(problem: Problem) -> Self {
        Self {
            line: Some(problem.line),
            pointer: problem.pointer,
            message: problem.message,
        }
    }
}
