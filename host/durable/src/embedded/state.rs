//! What a run waits for: a fold over its history.
//!
//! The same [`apply`](RunState::apply) makes the state as events are recorded, at
//! recovery and for a description, so that there is one meaning of each event.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use prost::Message as _;
use uuid::Uuid;

use super::attributes::changes;
use super::convert::{resolution_of, signal_of};
use super::events::{Event, EventType, StoredListening, Transition};
use crate::activity::{ActivityTimeouts, RetryPolicy};
use crate::definition::ParentClosePolicy;
use crate::driver::Resolution;
use crate::engine::ExecutionStatus;
use crate::failure::Failure;
use crate::payload::Payload;
use crate::search::SearchChanges;

/// Where an activity's next or running attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waits for a slot of its queue, since then.
    Queued(Timestamp),
    /// Runs since then.
    Started(Timestamp),
    /// Waits for its next attempt until then.
    BackingOff(Timestamp),
}

/// An activity that has not ended.
#[derive(Debug, Clone)]
pub struct Activity {
    /// As it was scheduled.
    pub scheduled: Event,
    /// The attempt that runs or comes next.
    pub attempt: u32,
    /// Where it stands.
    pub stage: Stage,
    /// When the attempt was scheduled.
    pub attempt_scheduled: Timestamp,
    /// Whether it was asked to stop.
    pub cancel_requested: bool,
    /// Why the last attempt failed.
    pub last_failure: Option<Failure>,
    /// Details of the last attempt's last heartbeat.
    pub heartbeat: Option<Payload>,
}

impl Activity {
    /// Its timeouts.
    pub fn timeouts(&self) -> ActivityTimeouts {
        self.scheduled.timeouts.unwrap_or_default().into()
    }

    /// Its retry policy.
    pub fn retry(&self) -> RetryPolicy {
        self.scheduled
            .retry
            .clone()
            .map(RetryPolicy::from)
            .unwrap_or_default()
    }
}

/// A child that has not ended.
#[derive(Debug, Clone)]
pub struct Child {
    /// As it was initiated.
    pub initiated: Event,
    /// Its run, once it was started.
    pub run_id: Option<Uuid>,
    /// Whether it was asked to cancel.
    pub cancel_requested: bool,
}

/// A signal that no task has taken yet.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// What tells it from others.
    pub key: String,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it came.
    pub at: Timestamp,
    /// Its bytes.
    pub size: u64,
}

/// Where a run stands.
#[derive(Debug, Clone)]
pub struct RunState {
    /// Events so far.
    pub length: u64,
    /// Open, or how it ended.
    pub status: ExecutionStatus,
    /// Activities that have not ended, by id.
    pub activities: BTreeMap<String, Activity>,
    /// Timers that have not fired, by id: each as it was started.
    pub timers: BTreeMap<String, Event>,
    /// Children that have not ended, by id.
    pub children: BTreeMap<String, Child>,
    /// Whether it was asked to cancel.
    pub cancel_requested: bool,
    /// Signals to other runs that are on their way, by id: each as it was initiated.
    pub externals: BTreeMap<String, Event>,
    /// Bytes of its transitions.
    pub bytes: u64,
    /// Changes of search attributes that are on their way, by id: each as it was initiated.
    pub setting: BTreeMap<String, Event>,
    /// What was changed of the search attributes of its start.
    pub search_changes: SearchChanges,
    /// Ids of all updates that were ever accepted, and whether each has ended.
    pub updates: BTreeMap<String, bool>,
    /// Ids of those that have, the newest last.
    pub ended_updates: Vec<String>,
    /// How many of them ended before the run continued as this one.
    pub carried_updates: usize,
    /// Keys of all signals that ever came.
    pub signals: BTreeSet<String>,
    /// Signals that no task has taken yet, the oldest first.
    pub waiting_signals: Vec<Waiting>,
    /// Tasks that listened after the last activation.
    pub listening: Vec<StoredListening>,
    /// What resolved since the last activation.
    pub unconsumed: Vec<Resolution>,
    /// Whether its driver was ever activated.
    pub activated: bool,
}

impl Default for RunState {
    fn default() -> Self {
        Self {
            length: 0,
            status: ExecutionStatus::Running,
            activities: BTreeMap::new(),
            timers: BTreeMap::new(),
            children: BTreeMap::new(),
            cancel_requested: false,
            externals: BTreeMap::new(),
            bytes: 0,
            setting: BTreeMap::new(),
            search_changes: SearchChanges::new(),
            updates: BTreeMap::new(),
            ended_updates: Vec::new(),
            carried_updates: 0,
            signals: BTreeSet::new(),
            waiting_signals: Vec::new(),
            listening: Vec::new(),
            unconsumed: Vec::new(),
            activated: false,
        }
    }
}

impl RunState {
    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        self.status == ExecutionStatus::Running
    }

    /// How many updates it has accepted itself.
    pub fn own_updates(&self) -> usize {
        self.updates.len().saturating_sub(self.carried_updates)
    }

    /// Whether an activation is due.
    pub fn wants_activation(&self) -> bool {
        self.is_open() && (!self.activated || !self.unconsumed.is_empty())
    }

    /// Whether it waits only for what is kept elsewhere: timers and children.
    pub fn is_evictable(&self) -> bool {
        self.activities.is_empty()
            && self.externals.is_empty()
            && self.setting.is_empty()
            && !self.wants_activation()
            && self.children.values().all(|child| child.run_id.is_some())
    }

    /// A recorded transition.
    pub fn apply_transition(&mut self, transition: &Transition) {
        self.bytes += transition.encoded_len() as u64;
        for event in &transition.events {
            self.apply(event);
        }
        if transition.activation_us != 0 {
            self.consumed();
        }
    }

    /// The driver has been given all that resolved.
    pub fn consumed(&mut self) {
        self.unconsumed.clear();
        self.activated = true;
    }

    /// What the run before it handed on.
    fn carried(&mut self, event: &Event) {
        let Some(start) = &event.start else {
            return;
        };
        for signal in &start.waiting {
            self.signals.insert(signal.key.clone());
            self.waiting_signals.push(Waiting {
                key: signal.key.clone(),
                id: signal.id.clone(),
                name: signal.name.clone(),
                at: super::events::timestamp(signal.time_us),
                size: signal.size,
            });
        }
        let ended = start.updates.iter().map(|id| (id.clone(), true));
        self.updates.extend(ended);
        self.ended_updates.clone_from(&start.updates);
        self.carried_updates = self.updates.len();
    }

    /// The next event.
    pub fn apply(&mut self, event: &Event) {
        self.length += 1;
        self.unconsumed.extend(resolution_of(event));
        match event.event_type() {
            EventType::ActivityTaskScheduled => {
                self.activities.insert(
                    event.id.clone(),
                    Activity {
                        scheduled: event.clone(),
                        attempt: 1,
                        stage: Stage::Queued(event.time()),
                        attempt_scheduled: event.time(),
                        cancel_requested: false,
                        last_failure: None,
                        heartbeat: None,
                    },
                );
            }
            EventType::ActivityTaskStarted => {
                if let Some(activity) = self.activities.get_mut(&event.id) {
                    if let Stage::BackingOff(due) = activity.stage {
                        activity.attempt_scheduled = due;
                    }
                    activity.stage = Stage::Started(event.time());
                    activity.attempt = event.attempt;
                }
            }
            EventType::ActivityTaskAttemptFailed | EventType::ActivityTaskAttemptTimedOut => {
                if let Some(activity) = self.activities.get_mut(&event.id) {
                    let due = super::events::timestamp(event.due_us);
                    activity.stage = Stage::BackingOff(due);
                    activity.attempt_scheduled = due;
                    activity.attempt = event.attempt + 1;
                    activity.last_failure = Some(event.failure());
                    if event.heartbeat.is_some() {
                        activity.heartbeat.clone_from(&event.heartbeat);
                    }
                }
            }
            EventType::ActivityTaskCancelRequested => {
                if let Some(activity) = self.activities.get_mut(&event.id) {
                    activity.cancel_requested = true;
                }
            }
            EventType::ActivityTaskCompleted
            | EventType::ActivityTaskFailed
            | EventType::ActivityTaskTimedOut
            | EventType::ActivityTaskCanceled => {
                self.activities.remove(&event.id);
            }
            EventType::TimerStarted => {
                self.timers.insert(event.id.clone(), event.clone());
            }
            EventType::TimerFired | EventType::TimerCanceled => {
                self.timers.remove(&event.id);
            }
            EventType::StartChildWorkflowExecutionInitiated => {
                self.children.insert(
                    event.id.clone(),
                    Child {
                        initiated: event.clone(),
                        run_id: None,
                        cancel_requested: false,
                    },
                );
            }
            EventType::ChildWorkflowExecutionStarted => {
                if let Some(child) = self.children.get_mut(&event.id) {
                    child.run_id = event.run_uuid();
                    if child.initiated.detached
                        && child.initiated.close_policy() == ParentClosePolicy::Abandon
                    {
                        // Nobody waits for its end, and it needs nobody.
                        self.children.remove(&event.id);
                    }
                }
            }
            EventType::RequestCancelExternalWorkflowExecutionInitiated => {
                if let Some(child) = self.children.get_mut(&event.id) {
                    child.cancel_requested = true;
                }
            }
            EventType::StartChildWorkflowExecutionFailed
            | EventType::ChildWorkflowExecutionCompleted
            | EventType::ChildWorkflowExecutionFailed
            | EventType::ChildWorkflowExecutionCanceled => {
                self.children.remove(&event.id);
            }
            EventType::WorkflowExecutionCancelRequested => self.cancel_requested = true,
            EventType::WorkflowExecutionCompleted => self.status = ExecutionStatus::Completed,
            EventType::WorkflowExecutionFailed => self.status = ExecutionStatus::Failed,
            EventType::WorkflowExecutionCanceled => self.status = ExecutionStatus::Canceled,
            EventType::WorkflowExecutionTerminated => self.status = ExecutionStatus::Terminated,
            EventType::WorkflowExecutionSignaled => {
                let signal = signal_of(event);
                self.signals.insert(signal.key());
                self.waiting_signals.push(Waiting {
                    key: signal.key(),
                    size: signal.size(),
                    id: signal.id,
                    name: signal.name,
                    at: event.time(),
                });
            }
            EventType::WorkflowTaskCompleted => {
                self.waiting_signals
                    .retain(|signal| !event.consumed.contains(&signal.key));
                self.listening.clone_from(&event.listening);
            }
            EventType::WorkflowExecutionUpdateAccepted => {
                self.updates.insert(event.id.clone(), false);
            }
            EventType::WorkflowExecutionUpdateCompleted => {
                self.updates.insert(event.id.clone(), true);
                self.ended_updates.push(event.id.clone());
            }
            EventType::SignalExternalWorkflowExecutionInitiated => {
                self.externals.insert(event.id.clone(), event.clone());
            }
            EventType::ExternalWorkflowExecutionSignaled
            | EventType::SignalExternalWorkflowExecutionFailed => {
                self.externals.remove(&event.id);
            }
            EventType::WorkflowExecutionContinuedAsNew => {
                self.status = ExecutionStatus::ContinuedAsNew;
            }
            EventType::UpsertWorkflowSearchAttributesInitiated => {
                self.setting.insert(event.id.clone(), event.clone());
            }
            EventType::UpsertWorkflowSearchAttributes => {
                self.setting.remove(&event.id);
                self.search_changes.extend(changes(event));
            }
            EventType::UpsertWorkflowSearchAttributesFailed => {
                self.setting.remove(&event.id);
            }
            EventType::WorkflowExecutionStarted => self.carried(event),
            EventType::MarkerRecorded | EventType::Unspecified => {}
        }
    }
}
