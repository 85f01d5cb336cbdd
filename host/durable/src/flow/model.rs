//! The parsed form of a flow: what the driver executes.
//!
//! Everything that a name refers to (`then`, reusable errors, retries, timeouts and
//! authentications) is resolved by the parser, so nothing here can dangle. All types
//! are immutable and cheap to walk; expressions are indexes
//! ([`Expr`]) into [`Flow::expressions`](super::Flow::expressions).

mod event_index;
mod events;

use std::sync::Arc;
use std::time::Duration;

pub use event_index::EventIndex;
pub use events::{
    AttributeFilter, Consumption, Correlation, EachEvent, Emit, EventFilter, EventRead, Listen,
    Strategy, Until,
};
use serde_json::{Map, Value};

use super::error::Fault;
use super::schema::CompiledSchema;
use super::template::{Expr, Template, Uri};
use crate::activity::{ActivityTimeouts, RetryPolicy};
use crate::definition::ParentClosePolicy;
use crate::schedule::ScheduleSpec;
use crate::search::SearchType;

/// When a flow is started by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowSchedule {
    /// At these times: `every`, `cron`.
    Times(ScheduleSpec),
    /// So long after the end of its last run: `after`.
    After(Duration),
    /// By events: `on`.
    On(Box<EventTrigger>),
}

/// The events that start a flow, each set of them another run.
#[derive(Debug, Clone)]
pub struct EventTrigger {
    /// Which events.
    pub events: Consumption,
    /// The same as it stands in the document.
    pub document: Value,
}

/// Two that are written alike are the same.
impl PartialEq for EventTrigger {
    fn eq(&self, other: &Self) -> bool {
        self.document == other.document
    }
}

impl Eq for EventTrigger {}

/// What a flow says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The version of the DSL it is written in.
    pub dsl: semver::Version,
    /// The first half of its name; not Heyday's namespace.
    pub namespace: String,
    /// The second half of its name.
    pub name: String,
    /// Its version.
    pub version: semver::Version,
    /// A title.
    pub title: Option<String>,
    /// A summary in Markdown.
    pub summary: Option<String>,
    /// Tags.
    pub tags: Map<String, Value>,
    /// Whatever its author noted.
    pub metadata: Map<String, Value>,
}

/// One of `input`, `output` and `export`: a schema and a transformation.
///
/// For `input`, the *raw* value is validated and then transformed; for `output` and
/// `export`, the value is transformed and the *result* validated.
#[derive(Debug, Clone, Default)]
pub struct Transform {
    /// `schema.document`, compiled.
    pub schema: Option<Arc<CompiledSchema>>,
    /// `from` or `as`. A string is an expression here even without `${}`; an object is
    /// a value with expressions in it. Absent: the value unchanged (for `export`: the
    /// context unchanged).
    pub template: Option<Template>,
}

/// A duration, given or computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DurationValue {
    /// Given.
    Literal(Duration),
    /// An expression; read its result with
    /// [`duration::from_value`](super::duration::from_value).
    Expression(Expr),
}

/// Where to go on after a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// With the next task of the list; after the last one, the list is done.
    Continue,
    /// The list that holds this task is done.
    Exit,
    /// The whole flow is done.
    End,
    /// With the task of this index in the same list.
    Task(usize),
}

/// One task.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its name, unique in its list.
    pub name: String,
    /// Where it stands in the document, as JSON pointer: `/do/0/tryGetPet/try/0/getPet`.
    /// [`Flow::task_definition`](super::Flow::task_definition) answers what stands there.
    pub reference: String,
    /// The line of its name, from 1.
    pub line: u32,
    /// `if`: evaluated on the raw input; where it is not true, the task is skipped and
    /// its raw input is its output.
    pub condition: Option<Expr>,
    /// `input`.
    pub input: Transform,
    /// `output`.
    pub output: Transform,
    /// `export`.
    pub export: Transform,
    /// `timeout.after`, inline or of a reusable timeout.
    pub timeout: Option<DurationValue>,
    /// `then`; [`Then::Continue`] where absent.
    pub then: Then,
    /// `metadata.heyday`; what a task may have there depends on its kind.
    pub options: TaskOptions,
    /// What it does.
    pub kind: TaskKind,
}

/// What a task does.
#[derive(Debug, Clone)]
pub enum TaskKind {
    /// `do`: tasks one after another.
    Do(Vec<Task>),
    /// `call: plugin.activity`.
    CallActivity(CallActivity),
    /// `call: http`.
    CallHttp(Box<CallHttp>),
    /// `set`: a value. An object, or one expression.
    Set(Template),
    /// `switch`: the first case that matches.
    Switch(Vec<Case>),
    /// `for`.
    For(Box<For>),
    /// `fork`.
    Fork(Fork),
    /// `try`.
    Try(Box<Try>),
    /// `raise`.
    Raise(Box<ErrorTemplate>),
    /// `wait`.
    Wait(DurationValue),
    /// `run: workflow`.
    RunWorkflow(Box<RunWorkflow>),
    /// `listen`.
    Listen(Box<Listen>),
    /// `emit`.
    Emit(Box<Emit>),
}

impl TaskKind {
    /// The DSL's keyword.
    #[must_use]
    pub const fn keyword(&self) -> &'static str {
        match self {
            Self::Do(_) => "do",
            Self::CallActivity(_) | Self::CallHttp(_) => "call",
            Self::Set(_) => "set",
            Self::Switch(_) => "switch",
            Self::For(_) => "for",
            Self::Fork(_) => "fork",
            Self::Try(_) => "try",
            Self::Raise(_) => "raise",
            Self::Wait(_) => "wait",
            Self::RunWorkflow(_) => "run",
            Self::Listen(_) => "listen",
            Self::Emit(_) => "emit",
        }
    }
}

/// `metadata.heyday` of a task. Of a call: what goes over the activity's own defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskOptions {
    /// The queue.
    pub queue: Option<String>,
    /// Timeouts; absent members leave the activity's.
    pub timeouts: ActivityTimeouts,
    /// Retries; absent members leave the activity's.
    pub retry: RetryOverride,
    /// Of `emit`: the ids of the workflows that get the event, one or a list.
    pub to: Option<Template>,
    /// Of `listen`: that it takes updates as well as signals, and how it answers them.
    pub update: Option<UpdateOptions>,
    /// Of `listen`: that signals which none of its filters fits are gone, and do not wait
    /// for another task.
    pub drop_unmatched: bool,
    /// Of `run: workflow`: what happens to the child when the run ends before it.
    pub parent_close: Option<ParentClosePolicy>,
    /// Of a call and of `run: workflow`: that a foreign worker does it.
    pub foreign: Option<Foreign>,
    /// The line of `queue` or of `foreign`, from 1.
    pub worker_line: Option<u32>,
    /// Of `set`: search attributes that the run has from then on.
    pub search_attributes: Vec<SetAttribute>,
}

/// A search attribute that a task sets.
#[derive(Debug, Clone, PartialEq)]
pub struct SetAttribute {
    /// Its name, which a run may have.
    pub name: String,
    /// Its type, where the flow says one.
    pub search_type: Option<SearchType>,
    /// Its value; null takes it away.
    pub value: Template,
}

/// `metadata.heyday.foreign`: who does the task is a worker that is not Heyday's, on the
/// same Temporal cluster. Its activity or workflow is pinned to no version, its values stay
/// inline, and the embedded engine, which has no such workers, refuses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// The task queue that the worker polls: 1 to 1,000 bytes.
    pub queue: String,
    /// Of `run: workflow`: the workflow type, 1 to 1,000 bytes. Absent:
    /// `<namespace>.<name>`. An activity's type stands in the `call`.
    pub workflow_type: Option<String>,
}

/// `metadata.heyday.update` of a `listen`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateOptions {
    /// Evaluated on what the task's output has for the event: the update's result. Absent:
    /// that itself.
    pub answer: Option<Template>,
}

impl TaskOptions {
    /// The activity's timeouts with these over them.
    #[must_use]
    pub fn timeouts_over(&self, base: &ActivityTimeouts) -> ActivityTimeouts {
        ActivityTimeouts {
            schedule_to_close: self.timeouts.schedule_to_close.or(base.schedule_to_close),
            schedule_to_start: self.timeouts.schedule_to_start.or(base.schedule_to_start),
            start_to_close: self.timeouts.start_to_close.or(base.start_to_close),
            heartbeat: self.timeouts.heartbeat.or(base.heartbeat),
        }
    }
}

/// A retry policy of which only some members are given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RetryOverride {
    /// [`RetryPolicy::initial_interval`].
    pub initial_interval: Option<Duration>,
    /// [`RetryPolicy::backoff_coefficient`]; 1 to 1,000.
    pub backoff_coefficient: Option<f64>,
    /// [`RetryPolicy::maximum_interval`].
    pub maximum_interval: Option<Duration>,
    /// [`RetryPolicy::maximum_attempts`].
    pub maximum_attempts: Option<u32>,
    /// [`RetryPolicy::non_retryable_kinds`].
    pub non_retryable_kinds: Option<Vec<String>>,
}

impl RetryOverride {
    /// The activity's policy with these over it.
    #[must_use]
    pub fn over(&self, base: &RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            initial_interval: self.initial_interval.unwrap_or(base.initial_interval),
            backoff_coefficient: self.backoff_coefficient.unwrap_or(base.backoff_coefficient),
            maximum_interval: self.maximum_interval.unwrap_or(base.maximum_interval),
            maximum_attempts: self.maximum_attempts.unwrap_or(base.maximum_attempts),
            non_retryable_kinds: self
                .non_retryable_kinds
                .clone()
                .unwrap_or_else(|| base.non_retryable_kinds.clone()),
        }
    }
}

/// `call: plugin.activity[:version[@default]]`, or any type of a [`Foreign`] activity.
#[derive(Debug, Clone, PartialEq)]
pub struct CallActivity {
    /// As written; the key in
    /// [`PinnedDefinition::activities`](crate::definition::PinnedDefinition::activities).
    /// A foreign one is not there.
    pub name: String,
    /// The activity type, `<plugin>.<activity>`; a foreign one's may be any text.
    pub activity_type: String,
    /// The pinned version, if any.
    pub version: Option<semver::Version>,
    /// `with`: the activity's input, an object. Absent: the task's transformed input.
    pub with: Option<Template>,
}

/// The key of `call: http` in
/// [`PinnedDefinition::activities`](crate::definition::PinnedDefinition::activities).
pub const HTTP_ACTIVITY: &str = "http";

/// `call: http`. All members are evaluated on the task's transformed input.
#[derive(Debug, Clone, PartialEq)]
pub struct CallHttp {
    /// The method, in any case.
    pub method: Template,
    /// The endpoint's URI; `{name}` in it is a member of the task's transformed input.
    pub endpoint: Uri,
    /// The endpoint's authentication, inline or of a reusable one.
    pub authentication: Option<Authentication>,
    /// Headers: an object of strings, or an expression that answers one.
    pub headers: Option<Template>,
    /// Query parameters: an object, or an expression that answers one.
    pub query: Option<Template>,
    /// The body.
    pub body: Option<Template>,
    /// What the task's raw output is.
    pub output: HttpOutput,
    /// Whether statuses 300 to 399 are no errors.
    pub redirect: bool,
}

/// What a `call: http` answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HttpOutput {
    /// The response's content as base64.
    Raw,
    /// The response's content, read where its type is JSON.
    #[default]
    Content,
    /// The whole response: request, status code, headers, content.
    Response,
}

impl HttpOutput {
    /// The DSL's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Content => "content",
            Self::Response => "response",
        }
    }
}

/// How a request is authenticated.
#[derive(Debug, Clone, PartialEq)]
pub enum Authentication {
    /// HTTP basic.
    Basic {
        /// The user.
        username: Template,
        /// The password.
        password: Template,
    },
    /// A bearer token.
    Bearer {
        /// The token.
        token: Template,
    },
}

/// One case of a `switch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Its condition; absent in the one case that matches where no other does,
    /// wherever it stands.
    pub when: Option<Expr>,
    /// Where to go on. Where no case matches, the task's own `then` counts.
    pub then: Then,
}

/// `for`.
#[derive(Debug, Clone)]
pub struct For {
    /// The variable of the item, without `$`.
    pub each: String,
    /// The collection.
    pub collection: Expr,
    /// The variable of the index (from 0), without `$`.
    pub at: String,
    /// Evaluated before each iteration, which it must allow.
    pub condition: Option<Expr>,
    /// What to do with each item.
    pub tasks: Vec<Task>,
}

/// `fork`.
#[derive(Debug, Clone)]
pub struct Fork {
    /// The branches, each one task whose `then` names no task.
    pub branches: Vec<Task>,
    /// Whether the first branch that completes gives the output; else the output is the
    /// array of all outputs, in order.
    pub compete: bool,
}

/// `try`.
#[derive(Debug, Clone)]
pub struct Try {
    /// What is tried.
    pub tasks: Vec<Task>,
    /// What is caught.
    pub catch: Catch,
}

/// `catch`.
#[derive(Debug, Clone)]
pub struct Catch {
    /// `errors.with`.
    pub filter: ErrorFilter,
    /// The variable of the error, without `$`.
    pub variable: String,
    /// Catches only where it is true.
    pub when: Option<Expr>,
    /// Does not catch where it is true.
    pub except_when: Option<Expr>,
    /// How often to try again before [`tasks`](Self::tasks).
    pub retry: Option<Retry>,
    /// What to do with a caught error; absent: nothing.
    pub tasks: Option<Vec<Task>>,
}

/// Which errors a `catch` catches. Absent members match anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorFilter {
    /// The type. Either way of writing a standard type matches.
    pub error_type: Option<String>,
    /// The status.
    pub status: Option<u16>,
    /// The instance.
    pub instance: Option<String>,
    /// The title.
    pub title: Option<String>,
    /// The detail.
    pub detail: Option<String>,
}

impl ErrorFilter {
    /// Whether it lets this error pass. A cancel passes only a filter that names its
    /// type.
    #[must_use]
    pub fn matches(&self, fault: &Fault) -> bool {
        let matches = |filter: &Option<String>, value: Option<&str>| {
            filter.as_deref().is_none_or(|wanted| value == Some(wanted))
        };
        match &self.error_type {
            None if fault.is_cancelled() => return false,
            Some(wanted) if !super::error::same_type(wanted, &fault.error_type) => return false,
            _ => {}
        }
        self.status.is_none_or(|status| status == fault.status)
            && matches(&self.instance, fault.instance.as_deref())
            && matches(&self.title, fault.title.as_deref())
            && matches(&self.detail, fault.detail.as_deref())
    }
}

/// A retry policy of `catch`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Retry {
    /// Retries only where it is true. The error is in the catch's variable.
    pub when: Option<Expr>,
    /// Does not retry where it is true.
    pub except_when: Option<Expr>,
    /// The wait before a retry; absent: none.
    pub delay: Option<DurationValue>,
    /// How the wait grows.
    pub backoff: Backoff,
    /// `limit.attempt.count`: how many retries at most.
    pub max_retries: Option<u32>,
    /// `limit.attempt.duration`: how long one attempt may take; past it, it ends with
    /// a timeout error.
    pub attempt_duration: Option<DurationValue>,
    /// `limit.duration`: no retry starts later than this after the first attempt began.
    pub duration: Option<DurationValue>,
    /// A random wait added to each delay, between these two.
    pub jitter: Option<(DurationValue, DurationValue)>,
}

/// How the wait between retries grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backoff {
    /// Always `delay`.
    #[default]
    Constant,
    /// The n-th retry waits n times `delay`.
    Linear,
    /// The n-th retry waits 2^(n-1) times `delay`.
    Exponential,
}

impl Backoff {
    /// The wait before the `retry`-th retry (from 1), without jitter; saturates at
    /// [`duration::MAX`](super::duration::MAX).
    #[must_use]
    pub fn delay(self, delay: Duration, retry: u32) -> Duration {
        let factor = match self {
            Self::Constant => 1,
            Self::Linear => retry.max(1),
            Self::Exponential => 2_u32.saturating_pow(retry.saturating_sub(1)),
        };
        delay
            .checked_mul(factor)
            .map_or(super::duration::MAX, |wait| wait.min(super::duration::MAX))
    }
}

/// An error to raise, inline or of a reusable one; its members may be expressions.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorTemplate {
    /// The type.
    pub error_type: Uri,
    /// The status: an integer from 100 to 599, checked where it is literal.
    pub status: Template,
    /// A title.
    pub title: Option<Template>,
    /// An explanation.
    pub detail: Option<Template>,
    /// Where it comes from; the task's reference where absent.
    pub instance: Option<Template>,
}

/// `run: workflow`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunWorkflow {
    /// The workflow type, `<namespace>.<name>`; a [`Foreign`] one's may be any text.
    pub workflow_type: String,
    /// The version; absent (`latest`): the active one.
    pub version: Option<semver::Version>,
    /// The child's input. Absent: the task's transformed input.
    pub input: Option<Template>,
    /// Whether to wait for its end (`run.await`). Where not, the task's output is its
    /// transformed input.
    pub wait: bool,
}
