//! History events, as they are stored.
//!
//! One flat protobuf message serves every type of event: members are added, never
//! reused or retyped, and one that is absent has its default. A newer Heyday therefore
//! reads every older history, and an older one fails on a type it does not know.

mod stored;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

pub(crate) use crate::attempt::later;
use crate::definition::ParentClosePolicy;
use crate::failure::Failure;
use crate::payload::{Digest, Payload};

/// Types of event; Temporal's names. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum EventType {
    /// None; never written.
    Unspecified = 0,
    /// The first event of every run.
    WorkflowExecutionStarted = 1,
    /// Ended with a result.
    WorkflowExecutionCompleted = 2,
    /// Ended with a failure.
    WorkflowExecutionFailed = 3,
    /// Ended after a cancel.
    WorkflowExecutionCanceled = 4,
    /// Ended by force.
    WorkflowExecutionTerminated = 5,
    /// Somebody asked for a cancel.
    WorkflowExecutionCancelRequested = 6,
    /// The driver was given what resolved earlier, and commanded nothing.
    WorkflowTaskCompleted = 7,
    /// Ended, and another run goes on where it was.
    WorkflowExecutionContinuedAsNew = 8,
    /// An activity waits for a slot of its queue.
    ActivityTaskScheduled = 10,
    /// An attempt starts.
    ActivityTaskStarted = 11,
    /// An activity has a result.
    ActivityTaskCompleted = 12,
    /// An activity failed for good.
    ActivityTaskFailed = 13,
    /// An activity failed for good by a timeout.
    ActivityTaskTimedOut = 14,
    /// An activity was asked to stop.
    ActivityTaskCancelRequested = 15,
    /// An activity stopped because it was asked to.
    ActivityTaskCanceled = 16,
    /// An attempt failed and another one follows; the API shows it as
    /// `ActivityTaskFailed` whose `retryState` says so.
    ActivityTaskAttemptFailed = 17,
    /// An attempt ran into a timeout and another one follows.
    ActivityTaskAttemptTimedOut = 18,
    /// A timer runs.
    TimerStarted = 20,
    /// It fired.
    TimerFired = 21,
    /// It was forgotten.
    TimerCanceled = 22,
    /// A child is to be started.
    StartChildWorkflowExecutionInitiated = 30,
    /// It could not be.
    StartChildWorkflowExecutionFailed = 31,
    /// It was.
    ChildWorkflowExecutionStarted = 32,
    /// It ended with a result.
    ChildWorkflowExecutionCompleted = 33,
    /// It failed, or was terminated.
    ChildWorkflowExecutionFailed = 34,
    /// It ended after a cancel.
    ChildWorkflowExecutionCanceled = 35,
    /// A child is to be asked to cancel.
    RequestCancelExternalWorkflowExecutionInitiated = 36,
    /// Somebody sent a signal.
    WorkflowExecutionSignaled = 40,
    /// The flow emitted an event to nobody in particular.
    MarkerRecorded = 41,
    /// A signal is to be sent to another run.
    SignalExternalWorkflowExecutionInitiated = 42,
    /// It was.
    ExternalWorkflowExecutionSignaled = 43,
    /// It could not be.
    SignalExternalWorkflowExecutionFailed = 44,
    /// A task took an update.
    WorkflowExecutionUpdateAccepted = 45,
    /// It has ended, well or not.
    WorkflowExecutionUpdateCompleted = 46,
    /// Search attributes of the run are to be set.
    UpsertWorkflowSearchAttributesInitiated = 50,
    /// They are.
    UpsertWorkflowSearchAttributes = 51,
    /// They cannot be.
    UpsertWorkflowSearchAttributesFailed = 52,
}

impl EventType {
    /// Whether nothing follows an event of this type.
    pub const fn ends_run(self) -> bool {
        matches!(
            self,
            Self::WorkflowExecutionCompleted
                | Self::WorkflowExecutionFailed
                | Self::WorkflowExecutionCanceled
                | Self::WorkflowExecutionTerminated
                | Self::WorkflowExecutionContinuedAsNew
        )
    }

    /// Whether an attempt ends with an event of this type.
    pub const fn ends_attempt(self) -> bool {
        matches!(
            self,
            Self::ActivityTaskCompleted
                | Self::ActivityTaskFailed
                | Self::ActivityTaskTimedOut
                | Self::ActivityTaskCanceled
                | Self::ActivityTaskAttemptFailed
                | Self::ActivityTaskAttemptTimedOut
        )
    }
}

/// A failure, in stored form.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredFailure {
    /// Its kind.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// For a person.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether another attempt may succeed.
    #[prost(bool, tag = "3")]
    pub retryable: bool,
    /// JSON text.
    #[prost(string, optional, tag = "4")]
    pub details: Option<String>,
    /// A guest's backtrace.
    #[prost(string, optional, tag = "5")]
    pub stack: Option<String>,
    /// What led to it.
    #[prost(message, optional, boxed, tag = "6")]
    pub cause: Option<Box<StoredFailure>>,
}

/// Timeouts in microseconds; 0 where there is none.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StoredTimeouts {
    /// Retries included.
    #[prost(uint64, tag = "1")]
    pub schedule_to_close: u64,
    /// Time in the queue.
    #[prost(uint64, tag = "2")]
    pub schedule_to_start: u64,
    /// One attempt.
    #[prost(uint64, tag = "3")]
    pub start_to_close: u64,
    /// Between heartbeats.
    #[prost(uint64, tag = "4")]
    pub heartbeat: u64,
}

/// A retry policy; intervals in microseconds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredRetry {
    /// Before the second attempt.
    #[prost(uint64, tag = "1")]
    pub initial_interval: u64,
    /// Factor of each further one.
    #[prost(double, tag = "2")]
    pub backoff_coefficient: f64,
    /// No wait is longer.
    #[prost(uint64, tag = "3")]
    pub maximum_interval: u64,
    /// 0: no limit.
    #[prost(uint32, tag = "4")]
    pub maximum_attempts: u32,
    /// Not retried.
    #[prost(string, repeated, tag = "5")]
    pub non_retryable_kinds: Vec<String>,
}

/// What only a run's first event has.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredStart {
    /// The activities that the run is pinned to, by the name the flow uses.
    #[prost(btree_map = "string, message", tag = "1")]
    pub pinned: BTreeMap<String, StoredPin>,
    /// How deep the run is nested.
    #[prost(uint32, tag = "2")]
    pub depth: u32,
    /// Seed of its random numbers.
    #[prost(fixed64, tag = "3")]
    pub seed: u64,
    /// The driver's revision.
    #[prost(uint32, tag = "4")]
    pub revision: u32,
    /// The expressions' answer revision.
    #[prost(uint32, tag = "5")]
    pub answer_revision: u32,
    /// The evaluator's digest, for information.
    #[prost(bytes = "vec", tag = "6")]
    pub evaluator: Vec<u8>,
    /// Tasks that one activation may execute.
    #[prost(uint64, tag = "7")]
    pub tasks_per_activation: u64,
    /// Values shown with the run.
    #[prost(btree_map = "string, message", tag = "8")]
    pub memo: BTreeMap<String, Payload>,
    /// W3C trace context of the request.
    #[prost(string, optional, tag = "9")]
    pub traceparent: Option<String>,
    /// The parent's run id; empty where there is none.
    #[prost(bytes = "vec", tag = "10")]
    pub parent_run_id: Vec<u8>,
    /// The parent's workflow id.
    #[prost(string, tag = "11")]
    pub parent_workflow_id: String,
    /// The run's id within its parent.
    #[prost(string, tag = "12")]
    pub child_id: String,
    /// Whether the parent does not wait for it.
    #[prost(bool, tag = "13")]
    pub detached: bool,
    /// Bytes of data that the run may hold.
    #[prost(uint64, tag = "14")]
    pub data_bytes: u64,
    /// How deep children may nest.
    #[prost(uint32, tag = "15")]
    pub depth_limit: u32,
    /// What happens to it when its parent ends before it; unset where that follows from
    /// `detached`.
    #[prost(enumeration = "StoredParentClose", tag = "16")]
    pub parent_close: i32,
    /// Values by which lists find the run, each with its type.
    #[prost(btree_map = "string, message", tag = "17")]
    pub search_attributes: BTreeMap<String, Payload>,
    /// Events after which the run continues as new; 0 where it never did.
    #[prost(uint64, tag = "18")]
    pub history_events: u64,
    /// Where it goes on, where another run continued as this one.
    #[prost(message, optional, tag = "19")]
    pub resume: Option<Payload>,
    /// That run's id; empty where there is none.
    #[prost(bytes = "vec", tag = "20")]
    pub continued_from: Vec<u8>,
    /// The id of the first run that continued so; empty where there is none.
    #[prost(bytes = "vec", tag = "21")]
    pub first_run_id: Vec<u8>,
    /// Signals that no task of it had taken.
    #[prost(message, repeated, tag = "22")]
    pub waiting: Vec<StoredSignal>,
    /// Ids of updates that ended before, the newest last.
    #[prost(string, repeated, tag = "23")]
    pub updates: Vec<String>,
    /// Activities that are under way at once, and as many children and signals to other
    /// runs; 0 where nothing limits them.
    #[prost(uint64, tag = "24")]
    pub pending: u64,
}

/// A signal that no task has taken, without its data.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StoredSignal {
    /// What tells it from others.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its id.
    #[prost(string, tag = "2")]
    pub id: String,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// When it came, in microseconds since the epoch.
    #[prost(int64, tag = "4")]
    pub time_us: i64,
    /// Its bytes.
    #[prost(uint64, tag = "5")]
    pub size: u64,
}

/// An activity that a run is pinned to.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StoredPin {
    /// `<plugin>.<activity>`.
    #[prost(string, tag = "1")]
    pub activity_type: String,
    /// The plugin's version; empty for a built-in.
    #[prost(string, tag = "2")]
    pub version: String,
    /// The plugin version's digest; empty for a built-in.
    #[prost(bytes = "vec", tag = "3")]
    pub digest: Vec<u8>,
    /// Its default queue.
    #[prost(string, tag = "4")]
    pub queue: String,
    /// Its timeouts.
    #[prost(message, optional, tag = "5")]
    pub timeouts: Option<StoredTimeouts>,
    /// Its retry policy.
    #[prost(message, optional, tag = "6")]
    pub retry: Option<StoredRetry>,
}

/// One event.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// Microseconds since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub time_us: i64,
    /// Its type.
    #[prost(enumeration = "EventType", tag = "2")]
    pub kind: i32,
    /// Id of the activity, timer or child that it is about.
    #[prost(string, tag = "3")]
    pub id: String,
    /// Number of the attempt.
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
    /// Input, result or heartbeat details.
    #[prost(message, optional, tag = "5")]
    pub payload: Option<Payload>,
    /// Why.
    #[prost(message, optional, tag = "6")]
    pub failure: Option<StoredFailure>,
    /// The task in the flow, as JSON pointer.
    #[prost(string, tag = "7")]
    pub task: String,
    /// Activity type or workflow type.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Version of the definition or plugin.
    #[prost(string, tag = "9")]
    pub version: String,
    /// Digest of the definition or plugin version.
    #[prost(bytes = "vec", tag = "10")]
    pub digest: Vec<u8>,
    /// The queue.
    #[prost(string, tag = "11")]
    pub queue: String,
    /// An activity's timeouts.
    #[prost(message, optional, tag = "12")]
    pub timeouts: Option<StoredTimeouts>,
    /// An activity's retry policy.
    #[prost(message, optional, tag = "13")]
    pub retry: Option<StoredRetry>,
    /// When a timer fires or the next attempt comes, in microseconds since the epoch.
    #[prost(int64, tag = "14")]
    pub due_us: i64,
    /// A timer's length in microseconds.
    #[prost(uint64, tag = "15")]
    pub duration_us: u64,
    /// A workflow id: of a child, or of the run itself.
    #[prost(string, tag = "16")]
    pub workflow_id: String,
    /// A run id: of a child, or of the run itself.
    #[prost(bytes = "vec", tag = "17")]
    pub run_id: Vec<u8>,
    /// Why, as somebody said.
    #[prost(string, tag = "18")]
    pub reason: String,
    /// What the attempt used.
    #[prost(btree_map = "string, uint64", tag = "19")]
    pub receipt: BTreeMap<String, u64>,
    /// What only the first event has.
    #[prost(message, optional, tag = "20")]
    pub start: Option<StoredStart>,
    /// Whether nobody waits for the child.
    #[prost(bool, tag = "21")]
    pub detached: bool,
    /// How deep a child is nested.
    #[prost(uint32, tag = "22")]
    pub depth: u32,
    /// Details of the attempt's last heartbeat.
    #[prost(message, optional, tag = "23")]
    pub heartbeat: Option<Payload>,
    /// The tasks that began, as JSON pointers.
    #[prost(string, repeated, tag = "24")]
    pub tasks: Vec<String>,
    /// Attributes of a signal's event, as a JSON object; empty where there are none.
    #[prost(string, tag = "25")]
    pub attributes: String,
    /// Ids of the signals that tasks took.
    #[prost(string, repeated, tag = "26")]
    pub consumed: Vec<String>,
    /// All tasks that listen after this activation.
    #[prost(message, repeated, tag = "27")]
    pub listening: Vec<StoredListening>,
    /// What happens to a child when its parent ends before it; unset where that follows
    /// from `detached`.
    #[prost(enumeration = "StoredParentClose", tag = "28")]
    pub parent_close: i32,
    /// Whether an activity or a child is a foreign worker's.
    #[prost(bool, tag = "29")]
    pub foreign: bool,
    /// Search attributes that the run has from now on, each with its type; null where it
    /// was taken away.
    #[prost(btree_map = "string, message", tag = "40")]
    pub search_attributes: BTreeMap<String, Payload>,
}

/// What happens to a child when its parent ends before it. The numbers are stored, and
/// Temporal's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum StoredParentClose {
    /// As [`ParentClosePolicy::default_for`] says.
    Unspecified = 0,
    /// It ends by force.
    Terminate = 1,
    /// It goes on.
    Abandon = 2,
    /// It is asked to cancel.
    RequestCancel = 3,
}

impl StoredParentClose {
    /// A policy in stored form, which the default is not.
    pub fn of(policy: ParentClosePolicy, detached: bool) -> i32 {
        let stored = match policy {
            policy if policy == ParentClosePolicy::default_for(detached) => Self::Unspecified,
            ParentClosePolicy::Terminate => Self::Terminate,
            ParentClosePolicy::Abandon => Self::Abandon,
            ParentClosePolicy::RequestCancel => Self::RequestCancel,
        };
        stored as i32
    }

    /// The policy of a stored number.
    pub fn read(number: i32, detached: bool) -> ParentClosePolicy {
        match Self::try_from(number) {
            Ok(Self::Terminate) => ParentClosePolicy::Terminate,
            Ok(Self::Abandon) => ParentClosePolicy::Abandon,
            Ok(Self::RequestCancel) => ParentClosePolicy::RequestCancel,
            Ok(Self::Unspecified) | Err(_) => ParentClosePolicy::default_for(detached),
        }
    }
}

/// A task that listens for signals.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StoredListening {
    /// The task, as JSON pointer.
    #[prost(string, tag = "1")]
    pub task: String,
    /// The names of the signals.
    #[prost(string, repeated, tag = "2")]
    pub signals: Vec<String>,
    /// Whether it takes updates.
    #[prost(bool, tag = "3")]
    pub updates: bool,
}

/// What is committed together: what resolved, and all that it led to.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Transition {
    /// The activation's time in microseconds since the epoch; 0 where the driver was not
    /// activated (an attempt started or failed, the run was terminated).
    #[prost(int64, tag = "1")]
    pub activation_us: i64,
    /// The events, in order: those that resolve, then those that were commanded.
    #[prost(message, repeated, tag = "2")]
    pub events: Vec<Event>,
    /// Whether the activation suggested to continue as new.
    #[prost(bool, tag = "3")]
    pub continue_as_new_suggested: bool,
}

impl Event {
    /// An event of that type and time about that activity, timer or child.
    pub fn new(kind: EventType, at: Timestamp, id: impl Into<String>) -> Self {
        Self {
            time_us: at.as_microsecond(),
            kind: kind as i32,
            id: id.into(),
            ..Self::default()
        }
    }

    /// Its type; `Unspecified` where this release does not know it.
    pub fn event_type(&self) -> EventType {
        EventType::try_from(self.kind).unwrap_or(EventType::Unspecified)
    }

    /// When it was recorded.
    pub fn time(&self) -> Timestamp {
        timestamp(self.time_us)
    }

    /// Its failure; an internal one where there is none.
    pub fn failure(&self) -> Failure {
        self.failure.clone().map_or_else(
            || Failure::permanent(crate::failure::kind::INTERNAL, "the event has no failure"),
            Failure::from,
        )
    }

    /// Its payload; null where there is none.
    pub fn payload(&self) -> Payload {
        self.payload.clone().unwrap_or_else(Payload::null)
    }

    /// What happens to the child that it is about when the parent ends.
    pub fn close_policy(&self) -> ParentClosePolicy {
        StoredParentClose::read(self.parent_close, self.detached)
    }

    /// Its run id, if it has one.
    pub fn run_uuid(&self) -> Option<uuid::Uuid> {
        uuid::Uuid::from_slice(&self.run_id).ok()
    }
}

/// A stored time. Times were valid when they were written; one that is not is the epoch.
pub fn timestamp(microseconds: i64) -> Timestamp {
    Timestamp::from_microsecond(microseconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Microseconds of a duration, saturating.
pub fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A stored digest; `None` where there is none.
pub fn digest(bytes: &[u8]) -> Option<Digest> {
    <[u8; 32]>::try_from(bytes).ok().map(Digest::from_bytes)
}
