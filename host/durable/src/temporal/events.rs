//! Temporal's history events as ours.
//!
//! Names are the same, and so are the attributes where an event says the same: the
//! embedded engine's [`Event`] is made of it, which its view then shows. What only
//! Temporal has (its workflow tasks, markers, signals) is shown by name.

mod beginning;

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};
use uuid::Uuid;

pub use self::beginning::pins_of;
use self::beginning::{bytes_of, started};
use super::client::{goes_on_as, reason_of};
use super::convert::{
    first, from_duration, from_failure, from_json_payload, from_payload, from_retry, own_words,
    take_receipt, timed_out, timestamp,
};
use super::outcome::unsent;
use super::pins::{
    ACTIVITY_HEADER, ActivityHeader, EMITTED_MEMO, RESUME_HEADER, RUN_HEADER, RunHeader,
    SignalHeader, Unnamed, signal_header,
};
use super::sdk;
use super::updates::outcome;
use crate::activity::ActivityTimeouts;
use crate::attempt::later;
use crate::embedded::convert::{EMITTED, signaled, updated};
use crate::embedded::events::{Event, EventType, StoredParentClose, microseconds};
use crate::embedded::view;
use crate::engine::HistoryEvent;
use crate::failure::{Failure, kind};
use crate::payload::Payload;
use crate::signal::Signal;

/// The attribute of an end that names the run that goes on after it.
const NEXT_RUN: &str = "new_execution_run_id";

/// What earlier events of a run say that later ones only point at.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Activity id and attempt, by the event that scheduled it.
    activities: HashMap<i64, (String, u32)>,
    /// Child id and workflow id, by the event that initiated it.
    children: HashMap<i64, (String, String)>,
    /// Ids of signals to other runs, by the event that sent them.
    signals: HashMap<i64, String>,
    /// Those of signals that came without one.
    unnamed: Unnamed,
}

/// An event of Temporal's.
#[derive(Debug)]
pub struct Shown {
    /// Its number.
    pub event_id: u64,
    /// What it means to the engine, if it means something.
    pub event: Option<Event>,
    /// Its type, as Temporal names it.
    name: String,
    /// Its attributes, where it means nothing to the engine.
    attributes: Map<String, Value>,
    /// The tasks that began before the command that led to it.
    tasks: Vec<String>,
    at: jiff::Timestamp,
}

impl Shown {
    /// As the API shows it.
    pub fn history_event(&self) -> HistoryEvent {
        let mut shown = match &self.event {
            Some(event) => view::history_event(self.event_id, event),
            None => HistoryEvent {
                event_id: self.event_id,
                event_time: self.at,
                event_type: String::new(),
                attributes: Value::Object(self.attributes.clone()),
            },
        };
        // An emitted event is a change of the memo there.
        if shown.event_type != "MarkerRecorded" {
            shown.event_type.clone_from(&self.name);
        }
        if let Value::Object(attributes) = &mut shown.attributes
            && !self.tasks.is_empty()
        {
            attributes.insert("tasks".to_owned(), json!(self.tasks));
        }
        shown
    }

    /// The run that goes on after this end.
    pub fn next_run(&self) -> Option<Uuid> {
        if !self.ends_run() {
            return None;
        }
        match &self.event {
            Some(event) => event.run_uuid(),
            None => self.attributes.get(NEXT_RUN)?.as_str()?.parse().ok(),
        }
    }

    /// Whether nothing follows it.
    pub fn ends_run(&self) -> bool {
        matches!(
            self.name.as_str(),
            "WorkflowExecutionCompleted"
                | "WorkflowExecutionFailed"
                | "WorkflowExecutionCanceled"
                | "WorkflowExecutionTerminated"
                | "WorkflowExecutionTimedOut"
                | "WorkflowExecutionContinuedAsNew"
        )
    }
}

/// Reads an event.
pub fn read(names: &mut Names, event: sdk::HistoryEvent) -> Shown {
    let at = timestamp(event.event_time);
    let name = type_name(event.event_type().as_str_name());
    let event_id = u64::try_from(event.event_id).unwrap_or_default();
    let metadata = event.user_metadata.unwrap_or_default();
    let text = |payload: Option<sdk::Payload>| from_json_payload::<String>(&payload?).ok();
    let summary = text(metadata.summary);
    let tasks = text(metadata.details).unwrap_or_default();
    let mut attributes = Map::new();
    let known = event.attributes.and_then(|given| {
        if let Some(more) = others(&given) {
            attributes = more;
            return None;
        }
        let mut known = meaning(names, event.event_id, at, given)?;
        if let Some(summary) = summary
            && known.task.is_empty()
        {
            known.task = summary;
        }
        known.time_us = at.as_microsecond();
        Some(known)
    });
    Shown {
        event_id,
        event: known,
        name,
        attributes,
        tasks: tasks.lines().map(ToOwned::to_owned).collect(),
        at,
    }
}

/// `EVENT_TYPE_TIMER_FIRED` as `TimerFired`.
fn type_name(name: &str) -> String {
    let words = name.trim_start_matches("EVENT_TYPE_").split('_');
    words
        .flat_map(|word| {
            let (head, tail) = word.split_at_checked(1).unwrap_or((word, ""));
            [head.to_owned(), tail.to_ascii_lowercase()]
        })
        .collect()
}

/// What is shown of events that mean nothing to the engine.
fn others(given: &sdk::Attributes) -> Option<Map<String, Value>> {
    let shown = match given {
        sdk::Attributes::WorkflowTaskScheduledEventAttributes(task) => {
            json!({ "attempt": task.attempt })
        }
        sdk::Attributes::WorkflowTaskFailedEventAttributes(failed) => json!({
            "cause": type_name(failed.cause().as_str_name().trim_start_matches("WORKFLOW_TASK_FAILED_CAUSE_")),
            "failure": failed.failure.clone().map(from_failure),
        }),
        sdk::Attributes::WorkflowTaskStartedEventAttributes(_)
        | sdk::Attributes::WorkflowTaskTimedOutEventAttributes(_) => json!({}),
        sdk::Attributes::WorkflowExecutionTimedOutEventAttributes(_) => match goes_on_as(given) {
            Some(next) => json!({ NEXT_RUN: next.to_string() }),
            None => json!({}),
        },
        sdk::Attributes::UpsertWorkflowSearchAttributesEventAttributes(changed) => {
            let fields = changed.search_attributes.clone().unwrap_or_default();
            let fields = fields.indexed_fields.into_iter().map(|(name, value)| {
                // What was taken away is null there.
                let value = from_payload(value).to_json().unwrap_or_default();
                (name, value)
            });
            json!({ "search_attributes": Map::from_iter(fields) })
        }
        sdk::Attributes::MarkerRecordedEventAttributes(marker) => {
            json!({ "marker_name": marker.marker_name })
        }
        _ => return None,
    };
    match shown {
        Value::Object(shown) => Some(shown),
        _ => None,
    }
}

/// What an event means to the engine.
#[allow(
    clippy::too_many_lines,
    reason = "one arm for each type; none is long by itself"
)]
fn meaning(
    names: &mut Names,
    event_id: i64,
    at: jiff::Timestamp,
    given: sdk::Attributes,
) -> Option<Event> {
    use sdk::Attributes as A;
    let new = |kind: EventType, id: &str| Event::new(kind, at, id);
    Some(match given {
        A::WorkflowExecutionStartedEventAttributes(start) => {
            if let Some(header) = &start.header {
                names.unnamed = Unnamed::of(&header.fields, &start.original_execution_run_id);
            }
            started(at, start)
        }
        A::WorkflowExecutionCompletedEventAttributes(done) => Event {
            run_id: bytes_of(&done.new_execution_run_id),
            payload: Some(first(done.result)),
            ..new(EventType::WorkflowExecutionCompleted, "")
        },
        A::WorkflowExecutionFailedEventAttributes(failed) => Event {
            run_id: bytes_of(&failed.new_execution_run_id),
            failure: failed.failure.map(|failure| from_failure(failure).into()),
            ..new(EventType::WorkflowExecutionFailed, "")
        },
        A::WorkflowExecutionCanceledEventAttributes(cancelled) => Event {
            reason: reason_of(cancelled.details).unwrap_or_default(),
            ..new(EventType::WorkflowExecutionCanceled, "")
        },
        A::WorkflowExecutionTerminatedEventAttributes(terminated) => Event {
            reason: terminated.reason,
            ..new(EventType::WorkflowExecutionTerminated, "")
        },
        A::WorkflowExecutionContinuedAsNewEventAttributes(next) => Event {
            run_id: bytes_of(&next.new_execution_run_id),
            payload: next
                .header
                .and_then(|mut header| header.fields.remove(RESUME_HEADER))
                .map(from_payload),
            ..new(EventType::WorkflowExecutionContinuedAsNew, "")
        },
        A::WorkflowExecutionCancelRequestedEventAttributes(asked) => Event {
            reason: own_words(&asked.cause).to_owned(),
            ..new(EventType::WorkflowExecutionCancelRequested, "")
        },
        A::WorkflowExecutionSignaledEventAttributes(sent) => {
            let unnamed = names.unnamed.header(event_id);
            signaled(
                signal_of(unnamed, sent.signal_name, sent.input, sent.header),
                at,
            )
        }
        A::WorkflowExecutionUpdateAcceptedEventAttributes(accepted) => {
            let request = accepted.accepted_request.unwrap_or_default();
            let input = request.input.unwrap_or_default();
            let update = Signal {
                id: accepted.protocol_instance_id,
                ..signal_of(
                    names.unnamed.header(event_id),
                    input.name,
                    input.args,
                    input.header,
                )
            };
            updated(update, at)
        }
        A::WorkflowExecutionUpdateCompletedEventAttributes(done) => {
            let outcome = done.outcome.map_or_else(|| Ok(Payload::null()), outcome);
            let (payload, failure) = match outcome {
                Ok(result) => (Some(result), None),
                Err(why) => (None, Some(why.into())),
            };
            Event {
                payload,
                failure,
                ..new(
                    EventType::WorkflowExecutionUpdateCompleted,
                    &done.meta.unwrap_or_default().update_id,
                )
            }
        }
        A::SignalExternalWorkflowExecutionInitiatedEventAttributes(sent) => {
            let id = (names.signals.len() + 1).to_string();
            names.signals.insert(event_id, id.clone());
            let unnamed = names.unnamed.header(event_id);
            let signal = signal_of(unnamed, sent.signal_name, sent.input, sent.header);
            Event {
                kind: EventType::SignalExternalWorkflowExecutionInitiated as i32,
                id,
                reason: signal.id.clone(),
                workflow_id: sent.workflow_execution.unwrap_or_default().workflow_id,
                ..signaled(signal, at)
            }
        }
        A::ExternalWorkflowExecutionSignaledEventAttributes(sent) => {
            let id = names.signals.get(&sent.initiated_event_id)?;
            new(EventType::ExternalWorkflowExecutionSignaled, id)
        }
        A::SignalExternalWorkflowExecutionFailedEventAttributes(failed) => {
            let id = names.signals.get(&failed.initiated_event_id)?;
            let limit = failed.cause() == sdk::SignalExternalFailedCause::SignalCountLimitExceeded;
            let workflow = failed.workflow_execution.unwrap_or_default().workflow_id;
            Event {
                failure: Some(unsent(&workflow, limit).into()),
                ..new(EventType::SignalExternalWorkflowExecutionFailed, id)
            }
        }
        A::WorkflowPropertiesModifiedEventAttributes(changed) => {
            let mut fields = changed.upserted_memo.unwrap_or_default().fields;
            Event {
                name: EMITTED.to_owned(),
                payload: Some(from_payload(fields.remove(EMITTED_MEMO)?)),
                ..new(EventType::MarkerRecorded, "")
            }
        }
        A::WorkflowTaskCompletedEventAttributes(_) => new(EventType::WorkflowTaskCompleted, ""),
        A::ActivityTaskScheduledEventAttributes(activity) => {
            names
                .activities
                .insert(event_id, (activity.activity_id.clone(), 0));
            let header = activity.header.unwrap_or_default();
            let header = header.fields.get(ACTIVITY_HEADER);
            let header: ActivityHeader = header
                .and_then(|header| from_json_payload(header).ok())
                .unwrap_or_default();
            let timeouts = ActivityTimeouts {
                schedule_to_close: from_duration(activity.schedule_to_close_timeout),
                schedule_to_start: from_duration(activity.schedule_to_start_timeout),
                start_to_close: from_duration(activity.start_to_close_timeout),
                heartbeat: from_duration(activity.heartbeat_timeout),
            };
            Event {
                name: activity.activity_type.unwrap_or_default().name,
                version: header.version.map(|v| v.to_string()).unwrap_or_default(),
                digest: header
                    .digest
                    .map(|digest| digest.as_bytes().to_vec())
                    .unwrap_or_default(),
                queue: activity.task_queue.unwrap_or_default().name,
                payload: Some(first(activity.input)),
                timeouts: Some(timeouts.into()),
                retry: activity
                    .retry_policy
                    .map(|policy| from_retry(policy).into()),
                task: header.task,
                ..new(EventType::ActivityTaskScheduled, &activity.activity_id)
            }
        }
        A::ActivityTaskStartedEventAttributes(attempt) => {
            let number = u32::try_from(attempt.attempt).unwrap_or(1);
            let known = names.activities.get_mut(&attempt.scheduled_event_id)?;
            known.1 = number;
            Event {
                attempt: number,
                failure: attempt.last_failure.map(|last| from_failure(last).into()),
                ..new(EventType::ActivityTaskStarted, &known.0)
            }
        }
        A::ActivityTaskCompletedEventAttributes(done) => {
            let mut event =
                names.attempt(EventType::ActivityTaskCompleted, done.scheduled_event_id)?;
            let mut result = first(done.result);
            event.receipt = take_receipt(&mut result);
            event.payload = Some(result);
            event
        }
        A::ActivityTaskFailedEventAttributes(failed) => {
            let event = names.attempt(EventType::ActivityTaskFailed, failed.scheduled_event_id)?;
            let failure = failed.failure.unwrap_or_default();
            Event {
                receipt: receipt_of(&failure),
                failure: Some(from_failure(failure).into()),
                ..event
            }
        }
        A::ActivityTaskTimedOutEventAttributes(late) => Event {
            failure: late.failure.map(|failure| from_failure(failure).into()),
            ..names.attempt(EventType::ActivityTaskTimedOut, late.scheduled_event_id)?
        },
        A::ActivityTaskCancelRequestedEventAttributes(asked) => Event {
            attempt: 0,
            ..names.attempt(
                EventType::ActivityTaskCancelRequested,
                asked.scheduled_event_id,
            )?
        },
        A::ActivityTaskCanceledEventAttributes(cancelled) => {
            let event = names.attempt(
                EventType::ActivityTaskCanceled,
                cancelled.scheduled_event_id,
            )?;
            let mut said = first(cancelled.details);
            let receipt = take_receipt(&mut said);
            let failure = said
                .to_json()
                .ok()
                .and_then(|said| serde_json::from_value::<Failure>(said).ok())
                .unwrap_or_else(|| {
                    Failure::permanent(kind::CANCELLED, "the activity was cancelled")
                });
            Event {
                receipt,
                failure: Some(failure.into()),
                ..event
            }
        }
        A::TimerStartedEventAttributes(timer) => {
            let length = from_duration(timer.start_to_fire_timeout).unwrap_or_default();
            Event {
                duration_us: microseconds(length),
                due_us: later(at, length).as_microsecond(),
                ..new(EventType::TimerStarted, &timer.timer_id)
            }
        }
        A::TimerFiredEventAttributes(timer) => new(EventType::TimerFired, &timer.timer_id),
        A::TimerCanceledEventAttributes(timer) => new(EventType::TimerCanceled, &timer.timer_id),
        A::StartChildWorkflowExecutionInitiatedEventAttributes(child) => {
            let child_id = child_id(&child.workflow_id);
            names
                .children
                .insert(event_id, (child_id.clone(), child.workflow_id.clone()));
            let header = child.header.clone().unwrap_or_default();
            let header = header.fields.get(RUN_HEADER);
            let header: RunHeader = header
                .and_then(|header| from_json_payload(header).ok())
                .unwrap_or_default();
            // Temporal's numbers are those that are stored.
            let policy = StoredParentClose::read(child.parent_close_policy, header.detached);
            Event {
                name: child.workflow_type.unwrap_or_default().name,
                version: header.version.map(|v| v.to_string()).unwrap_or_default(),
                detached: header.detached,
                parent_close: StoredParentClose::of(policy, header.detached),
                depth: header.depth,
                payload: Some(first(child.input)),
                workflow_id: child.workflow_id,
                ..new(EventType::StartChildWorkflowExecutionInitiated, &child_id)
            }
        }
        A::StartChildWorkflowExecutionFailedEventAttributes(failed) => {
            let event = names.child(
                EventType::StartChildWorkflowExecutionFailed,
                failed.initiated_event_id,
                None,
            )?;
            let why = format!("workflow {:?} could not be started", failed.workflow_id);
            Event {
                failure: Some(Failure::permanent(kind::UNKNOWN_WORKFLOW, why).into()),
                ..event
            }
        }
        A::ChildWorkflowExecutionStartedEventAttributes(child) => names.child(
            EventType::ChildWorkflowExecutionStarted,
            child.initiated_event_id,
            child.workflow_execution,
        )?,
        A::ChildWorkflowExecutionCompletedEventAttributes(child) => Event {
            payload: Some(first(child.result)),
            ..names.child(
                EventType::ChildWorkflowExecutionCompleted,
                child.initiated_event_id,
                child.workflow_execution,
            )?
        },
        A::ChildWorkflowExecutionFailedEventAttributes(child) => Event {
            failure: child.failure.map(|failure| from_failure(failure).into()),
            ..names.child(
                EventType::ChildWorkflowExecutionFailed,
                child.initiated_event_id,
                child.workflow_execution,
            )?
        },
        A::ChildWorkflowExecutionCanceledEventAttributes(child) => {
            let why =
                reason_of(child.details).unwrap_or_else(|| "the child was cancelled".to_owned());
            Event {
                failure: Some(Failure::permanent(kind::CANCELLED, why).into()),
                ..names.child(
                    EventType::ChildWorkflowExecutionCanceled,
                    child.initiated_event_id,
                    child.workflow_execution,
                )?
            }
        }
        A::ChildWorkflowExecutionTimedOutEventAttributes(child) => Event {
            failure: Some(timed_out(sdk::TimeoutType::StartToClose, None).into()),
            ..names.child(
                EventType::ChildWorkflowExecutionFailed,
                child.initiated_event_id,
                child.workflow_execution,
            )?
        },
        A::ChildWorkflowExecutionTerminatedEventAttributes(child) => Event {
            failure: Some(Failure::permanent(kind::TERMINATED, "the child was terminated").into()),
            ..names.child(
                EventType::ChildWorkflowExecutionFailed,
                child.initiated_event_id,
                child.workflow_execution,
            )?
        },
        A::RequestCancelExternalWorkflowExecutionInitiatedEventAttributes(asked) => {
            let execution = asked.workflow_execution.unwrap_or_default();
            Event {
                reason: own_words(&asked.reason).to_owned(),
                workflow_id: execution.workflow_id.clone(),
                ..new(
                    EventType::RequestCancelExternalWorkflowExecutionInitiated,
                    &child_id(&execution.workflow_id),
                )
            }
        }
        _ => return None,
    })
}

impl Names {
    /// An event about an activity's attempt.
    fn attempt(&self, kind: EventType, scheduled_event_id: i64) -> Option<Event> {
        let (id, attempt) = self.activities.get(&scheduled_event_id)?;
        Some(Event {
            attempt: *attempt,
            ..Event::new(kind, jiff::Timestamp::UNIX_EPOCH, id.as_str())
        })
    }

    /// An event about a child.
    fn child(
        &self,
        kind: EventType,
        initiated_event_id: i64,
        execution: Option<sdk::WorkflowExecution>,
    ) -> Option<Event> {
        let (id, workflow_id) = self.children.get(&initiated_event_id)?;
        let run_id = execution.and_then(|run| run.run_id.parse::<Uuid>().ok());
        Some(Event {
            workflow_id: workflow_id.clone(),
            run_id: run_id.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            ..Event::new(kind, jiff::Timestamp::UNIX_EPOCH, id.as_str())
        })
    }
}

/// A signal, as it was sent: with a header of ours, or as one that came without.
fn signal_of(
    unnamed: SignalHeader,
    name: String,
    input: Option<sdk::Payloads>,
    header: Option<sdk::Header>,
) -> Signal {
    let header = header.and_then(|header| signal_header(&header.fields));
    let header = header.unwrap_or(unnamed);
    Signal {
        name,
        id: header.id,
        attributes: header.attributes,
        data: first(input),
    }
}

/// A child's id within its parent, which its workflow id ends with.
pub fn child_id(workflow_id: &str) -> String {
    let id = workflow_id.rsplit_once('_').map(|(_, id)| id);
    id.unwrap_or(workflow_id).to_owned()
}

fn receipt_of(failure: &sdk::Failure) -> BTreeMap<String, u64> {
    let details = match &failure.failure_info {
        Some(sdk::FailureInfo::ApplicationFailureInfo(info)) => info.details.clone(),
        Some(sdk::FailureInfo::CanceledFailureInfo(info)) => info.details.clone(),
        _ => None,
    };
    take_receipt(&mut first(details))
}

#[cfg(test)]
mod tests;
