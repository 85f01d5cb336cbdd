//! How the API shows a stored event.
//!
//! Names of types and attributes are Temporal's, attributes in `snake_case`. Where
//! Temporal points at another event by its number, `activity_id`, `timer_id` and
//! `child_id` say which activity, timer or child is meant: each event reads by itself.
//! An attribute that an event does not have is left out. A value stands there as JSON;
//! one that is large, not JSON, or stored apart is shown as its encoding, size in bytes
//! and digest.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::events::{Event, EventType, StoredFailure, StoredPin, StoredStart, digest, timestamp};
use crate::activity::{ActivityTimeouts, RetryPolicy};
use crate::engine::HistoryEvent;
use crate::failure::Failure;
use crate::payload::{BINARY_NULL, Digest, JSON_PLAIN, Payload};

/// A value of at most so many bytes is shown whole.
const SHOWN: usize = 64 * 1024;

/// The event with that number, as the API shows it.
pub fn history_event(event_id: u64, event: &Event) -> HistoryEvent {
    HistoryEvent {
        event_id,
        event_time: event.time(),
        event_type: type_name(event.event_type()).to_owned(),
        attributes: Value::Object(attributes(event)),
    }
}

/// The name of a type, as the API shows it.
pub const fn type_name(kind: EventType) -> &'static str {
    match kind {
        EventType::Unspecified => "Unspecified",
        EventType::WorkflowExecutionStarted => "WorkflowExecutionStarted",
        EventType::WorkflowExecutionCompleted => "WorkflowExecutionCompleted",
        EventType::WorkflowExecutionFailed => "WorkflowExecutionFailed",
        EventType::WorkflowExecutionCanceled => "WorkflowExecutionCanceled",
        EventType::WorkflowExecutionTerminated => "WorkflowExecutionTerminated",
        EventType::WorkflowExecutionContinuedAsNew => "WorkflowExecutionContinuedAsNew",
        EventType::WorkflowExecutionCancelRequested => "WorkflowExecutionCancelRequested",
        EventType::WorkflowTaskCompleted => "WorkflowTaskCompleted",
        EventType::ActivityTaskScheduled => "ActivityTaskScheduled",
        EventType::ActivityTaskStarted => "ActivityTaskStarted",
        EventType::ActivityTaskCompleted => "ActivityTaskCompleted",
        EventType::ActivityTaskFailed | EventType::ActivityTaskAttemptFailed => {
            "ActivityTaskFailed"
        }
        EventType::ActivityTaskTimedOut | EventType::ActivityTaskAttemptTimedOut => {
            "ActivityTaskTimedOut"
        }
        EventType::ActivityTaskCancelRequested => "ActivityTaskCancelRequested",
        EventType::ActivityTaskCanceled => "ActivityTaskCanceled",
        EventType::TimerStarted => "TimerStarted",
        EventType::TimerFired => "TimerFired",
        EventType::TimerCanceled => "TimerCanceled",
        EventType::StartChildWorkflowExecutionInitiated => "StartChildWorkflowExecutionInitiated",
        EventType::StartChildWorkflowExecutionFailed => "StartChildWorkflowExecutionFailed",
        EventType::ChildWorkflowExecutionStarted => "ChildWorkflowExecutionStarted",
        EventType::ChildWorkflowExecutionCompleted => "ChildWorkflowExecutionCompleted",
        EventType::ChildWorkflowExecutionFailed => "ChildWorkflowExecutionFailed",
        EventType::ChildWorkflowExecutionCanceled => "ChildWorkflowExecutionCanceled",
        EventType::RequestCancelExternalWorkflowExecutionInitiated => {
            "RequestCancelExternalWorkflowExecutionInitiated"
        }
        EventType::WorkflowExecutionSignaled => "WorkflowExecutionSignaled",
        EventType::MarkerRecorded => "MarkerRecorded",
        EventType::WorkflowExecutionUpdateAccepted => "WorkflowExecutionUpdateAccepted",
        EventType::WorkflowExecutionUpdateCompleted => "WorkflowExecutionUpdateCompleted",
        EventType::SignalExternalWorkflowExecutionInitiated => {
            "SignalExternalWorkflowExecutionInitiated"
        }
        EventType::ExternalWorkflowExecutionSignaled => "ExternalWorkflowExecutionSignaled",
        EventType::SignalExternalWorkflowExecutionFailed => "SignalExternalWorkflowExecutionFailed",
        EventType::UpsertWorkflowSearchAttributesInitiated => {
            "UpsertWorkflowSearchAttributesInitiated"
        }
        EventType::UpsertWorkflowSearchAttributes => "UpsertWorkflowSearchAttributes",
        EventType::UpsertWorkflowSearchAttributesFailed => "UpsertWorkflowSearchAttributesFailed",
    }
}

fn attributes(event: &Event) -> Map<String, Value> {
    let mut shown = Attributes::default();
    match event.event_type() {
        // A newer release wrote it; its number is all that is known.
        EventType::Unspecified => shown.put("type_number", event.kind),
        EventType::WorkflowExecutionStarted => started(event, &mut shown),
        EventType::WorkflowExecutionCompleted => {
            shown.result(event);
            // On a cluster alone: a foreign starter's cron or retry policy.
            shown.run_id("new_execution_run_id", &event.run_id);
        }
        EventType::WorkflowExecutionFailed => {
            shown.failure(event);
            shown.run_id("new_execution_run_id", &event.run_id);
        }
        EventType::WorkflowExecutionCanceled | EventType::WorkflowExecutionTerminated => {
            shown.failure(event);
            shown.text("reason", &event.reason);
        }
        EventType::WorkflowExecutionContinuedAsNew => {
            // What it carries would tell what a flow's random numbers will be.
            shown.run_id("new_execution_run_id", &event.run_id);
        }
        EventType::WorkflowExecutionCancelRequested => shown.text("cause", &event.reason),
        EventType::WorkflowExecutionUpdateAccepted => {
            shown.text("update_name", &event.name);
            shown.text("update_id", &event.id);
            shown.json("attributes", &event.attributes);
            shown.payload("input", event.payload.as_ref());
        }
        EventType::WorkflowExecutionUpdateCompleted => {
            shown.text("update_id", &event.id);
            if event.failure.is_none() {
                shown.result(event);
            }
            shown.failure(event);
        }
        EventType::UpsertWorkflowSearchAttributesInitiated => {
            shown.text("change_id", &event.id);
            shown.payload("search_attributes", event.payload.as_ref());
            shown.text("task", &event.task);
        }
        EventType::UpsertWorkflowSearchAttributes => {
            shown.text("change_id", &event.id);
            shown.payloads("search_attributes", &event.search_attributes);
        }
        EventType::UpsertWorkflowSearchAttributesFailed => {
            shown.text("change_id", &event.id);
            shown.failure(event);
        }
        EventType::MarkerRecorded => {
            shown.text("marker_name", &event.name);
            shown.payload("event", event.payload.as_ref());
            shown.text("task", &event.task);
        }
        EventType::ExternalWorkflowExecutionSignaled
        | EventType::SignalExternalWorkflowExecutionFailed => {
            shown.text("id", &event.id);
            shown.failure(event);
        }
        kind @ (EventType::WorkflowExecutionSignaled
        | EventType::SignalExternalWorkflowExecutionInitiated) => {
            shown.text("signal_name", &event.name);
            if kind == EventType::WorkflowExecutionSignaled {
                shown.text("signal_id", &event.id);
            } else {
                shown.text("id", &event.id);
                shown.text("signal_id", &event.reason);
                shown.text("workflow_id", &event.workflow_id);
                shown.text("task", &event.task);
            }
            shown.json("attributes", &event.attributes);
            shown.payload("input", event.payload.as_ref());
        }
        EventType::WorkflowTaskCompleted => {
            shown.texts("tasks", &event.tasks);
            shown.texts("consumed_signals", &event.consumed);
            if !event.listening.is_empty() {
                let listening = event.listening.iter().map(
                    |listening| json!({ "task": listening.task, "signals": listening.signals, "updates": listening.updates }),
                );
                shown.put("listening", listening.collect::<Vec<_>>());
            }
        }
        EventType::ActivityTaskScheduled => {
            shown.text("activity_id", &event.id);
            shown.definition("activity_type", event);
            shown.text("task_queue", &event.queue);
            shown.payload("input", event.payload.as_ref());
            shown.timeouts(event.timeouts.unwrap_or_default().into());
            shown.retry(event.retry.clone().map(RetryPolicy::from));
            shown.text("task", &event.task);
        }
        EventType::ActivityTaskStarted
        | EventType::ActivityTaskCompleted
        | EventType::ActivityTaskFailed
        | EventType::ActivityTaskTimedOut
        | EventType::ActivityTaskCancelRequested
        | EventType::ActivityTaskCanceled
        | EventType::ActivityTaskAttemptFailed
        | EventType::ActivityTaskAttemptTimedOut => activity(event, &mut shown),
        EventType::TimerStarted => {
            shown.text("timer_id", &event.id);
            shown.duration(
                "start_to_fire_timeout",
                Duration::from_micros(event.duration_us),
            );
            shown.time("fire_time", event.due_us);
            shown.text("task", &event.task);
        }
        EventType::TimerFired | EventType::TimerCanceled => shown.text("timer_id", &event.id),
        EventType::StartChildWorkflowExecutionInitiated => {
            shown.text("child_id", &event.id);
            shown.text("workflow_id", &event.workflow_id);
            shown.definition("workflow_type", event);
            shown.payload("input", event.payload.as_ref());
            shown.put("parent_close_policy", event.close_policy().as_str());
            shown.put("depth", event.depth);
            shown.text("task", &event.task);
        }
        EventType::StartChildWorkflowExecutionFailed
        | EventType::ChildWorkflowExecutionStarted
        | EventType::ChildWorkflowExecutionCompleted
        | EventType::ChildWorkflowExecutionFailed
        | EventType::ChildWorkflowExecutionCanceled
        | EventType::RequestCancelExternalWorkflowExecutionInitiated => child(event, &mut shown),
    }
    shown.0
}

fn started(event: &Event, shown: &mut Attributes) {
    shown.definition("workflow_type", event);
    shown.text("workflow_id", &event.workflow_id);
    shown.run_id("run_id", &event.run_id);
    shown.text("task_queue", &event.queue);
    shown.payload("input", event.payload.as_ref());
    let Some(StoredStart {
        pinned,
        depth,
        revision,
        answer_revision,
        evaluator,
        memo,
        search_attributes,
        traceparent,
        parent_run_id,
        parent_workflow_id,
        child_id,
        detached,
        tasks_per_activation,
        data_bytes,
        depth_limit,
        // The parent's event says it.
        parent_close: _,
        // They would tell what a flow's random numbers will be.
        seed: _,
        resume: _,
        history_events,
        pending,
        continued_from,
        first_run_id,
        waiting,
        // They are of histories of their own.
        updates: _,
    }) = &event.start
    else {
        return;
    };
    if let Ok(run_id) = uuid::Uuid::from_slice(parent_run_id) {
        shown.put(
            "parent_workflow_execution",
            json!({ "workflow_id": parent_workflow_id, "run_id": run_id }),
        );
        shown.text("child_id", child_id);
        shown.put("detached", *detached);
    }
    shown.run_id("continued_execution_run_id", continued_from);
    shown.run_id("first_execution_run_id", first_run_id);
    if !waiting.is_empty() {
        let signals = waiting
            .iter()
            .map(|signal| json!({ "signal_name": signal.name, "signal_id": signal.id }));
        shown.put("carried_signals", signals.collect::<Vec<_>>());
    }
    shown.put("depth", *depth);
    shown.payloads("memo", memo);
    shown.payloads("search_attributes", search_attributes);
    let pinned: Map<String, Value> = pinned
        .iter()
        .map(|(name, pin)| (name.clone(), pin_view(pin)))
        .collect();
    shown.put("pinned", pinned);
    let mut limits = json!({
        "tasks_per_activation": tasks_per_activation,
        "data_bytes": data_bytes,
        "depth": depth_limit,
    });
    // Runs of an earlier driver have none.
    if *history_events > 0 {
        limits["history_events"] = json!(history_events);
    }
    if *pending > 0 {
        limits["pending"] = json!(pending);
    }
    shown.put("limits", limits);
    shown.put("revision", *revision);
    shown.put("answer_revision", *answer_revision);
    shown.digest("evaluator", evaluator);
    shown.text("traceparent", traceparent.as_deref().unwrap_or_default());
}

fn pin_view(pin: &StoredPin) -> Value {
    let mut shown = Attributes::default();
    shown.text("activity_type", &pin.activity_type);
    shown.text("version", &pin.version);
    shown.digest("digest", &pin.digest);
    shown.text("task_queue", &pin.queue);
    Value::Object(shown.0)
}

/// What happens to an activity after it was scheduled.
fn activity(event: &Event, shown: &mut Attributes) {
    let kind = event.event_type();
    shown.text("activity_id", &event.id);
    // What concerns no attempt in particular has none.
    if event.attempt > 0 {
        shown.put("attempt", event.attempt);
    }
    if kind == EventType::ActivityTaskCompleted {
        shown.result(event);
    }
    shown.failure(event);
    shown.text("reason", &event.reason);
    if matches!(
        kind,
        EventType::ActivityTaskAttemptFailed | EventType::ActivityTaskAttemptTimedOut
    ) {
        shown.put("retry_state", "InProgress");
        shown.time("next_attempt_schedule_time", event.due_us);
    } else if kind == EventType::ActivityTaskFailed
        && event
            .failure
            .as_ref()
            .is_some_and(|failure| !failure.retryable)
    {
        shown.put("retry_state", "NonRetryableFailure");
    }
    shown.payload("last_heartbeat_details", event.heartbeat.as_ref());
    if !event.receipt.is_empty() {
        shown.put("receipt", json!(event.receipt));
    }
}

/// What happens to a child after it was initiated.
fn child(event: &Event, shown: &mut Attributes) {
    let kind = event.event_type();
    shown.text("child_id", &event.id);
    if event.run_uuid().is_some() {
        let mut execution = Attributes::default();
        execution.text("workflow_id", &event.workflow_id);
        execution.run_id("run_id", &event.run_id);
        shown.put("workflow_execution", execution.0);
    } else {
        shown.text("workflow_id", &event.workflow_id);
    }
    shown.definition("workflow_type", event);
    if kind == EventType::ChildWorkflowExecutionCompleted {
        shown.result(event);
    }
    shown.failure(event);
    shown.text("reason", &event.reason);
}

/// Attributes by name; whatever is empty is left out.
#[derive(Default)]
struct Attributes(Map<String, Value>);

impl Attributes {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.put(name, text);
        }
    }

    /// Stored JSON text, where there is some.
    fn json(&mut self, name: &str, text: &str) {
        if let Ok(value) = serde_json::from_str::<Value>(text) {
            self.put(name, value);
        }
    }

    /// Values by name, where there are some.
    fn payloads(&mut self, name: &str, values: &BTreeMap<String, Payload>) {
        if !values.is_empty() {
            let fields: Map<String, Value> = values
                .iter()
                .map(|(name, value)| (name.clone(), payload_view(value)))
                .collect();
            self.put(name, fields);
        }
    }

    fn texts(&mut self, name: &str, texts: &[String]) {
        if !texts.is_empty() {
            self.put(name, texts);
        }
    }

    /// Something of a name, a version and a digest.
    fn definition(&mut self, name: &str, event: &Event) {
        self.text(name, &event.name);
        self.text("version", &event.version);
        self.digest("digest", &event.digest);
    }

    fn digest(&mut self, name: &str, bytes: &[u8]) {
        if let Some(digest) = digest(bytes) {
            self.put(name, digest.to_string());
        }
    }

    fn run_id(&mut self, name: &str, bytes: &[u8]) {
        if let Ok(id) = uuid::Uuid::from_slice(bytes) {
            self.put(name, id.to_string());
        }
    }

    fn time(&mut self, name: &str, microseconds: i64) {
        if microseconds != 0 {
            self.put(name, timestamp(microseconds).to_string());
        }
    }

    /// As the API writes durations everywhere: ISO 8601, `PT1M30S`.
    fn duration(&mut self, name: &str, duration: Duration) {
        let text =
            crate::flow::duration::required::serialize(&duration, serde_json::value::Serializer);
        self.put(name, text.unwrap_or(Value::Null));
    }

    fn timeouts(&mut self, timeouts: ActivityTimeouts) {
        for (name, timeout) in [
            ("schedule_to_close_timeout", timeouts.schedule_to_close),
            ("schedule_to_start_timeout", timeouts.schedule_to_start),
            ("start_to_close_timeout", timeouts.start_to_close),
            ("heartbeat_timeout", timeouts.heartbeat),
        ] {
            if let Some(timeout) = timeout {
                self.duration(name, timeout);
            }
        }
    }

    fn retry(&mut self, retry: Option<RetryPolicy>) {
        if let Some(retry) = retry {
            self.put("retry_policy", json!(retry));
        }
    }

    fn payload(&mut self, name: &str, payload: Option<&Payload>) {
        if let Some(payload) = payload {
            self.put(name, payload_view(payload));
        }
    }

    /// A result that is absent is null: nothing else would tell it from a failure.
    fn result(&mut self, event: &Event) {
        self.put(
            "result",
            event.payload.as_ref().map_or(Value::Null, payload_view),
        );
    }

    fn failure(&mut self, event: &Event) {
        if let Some(failure) = &event.failure {
            self.put("failure", failure_view(failure));
        }
    }
}

/// A failure, with those that led to it; its members are [`Failure`]'s.
fn failure_view(failure: &StoredFailure) -> Value {
    serde_json::to_value(Failure::from(failure.clone())).unwrap_or(Value::Null)
}

/// A value as JSON, or what is known of it.
fn payload_view(payload: &Payload) -> Value {
    match payload.encoding() {
        BINARY_NULL => return Value::Null,
        JSON_PLAIN if payload.data.len() <= SHOWN => {
            if let Ok(value) = payload.to_json() {
                return value;
            }
        }
        _ => {}
    }
    let (size, digest) = match payload.as_blob_ref() {
        Ok(Some(reference)) => (reference.size, reference.digest),
        _ => (payload.data.len() as u64, Digest::of(&payload.data)),
    };
    json!({ "encoding": payload.encoding(), "size": size, "digest": digest })
}
