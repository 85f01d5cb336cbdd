//! Stored events in the form that the API shows: Temporal's names, JSON attributes.

use serde_json::{Map, Value, json};

use super::events::{Event, EventType, StoredRetry, StoredTimeouts, digest, timestamp};
use crate::engine::HistoryEvent;
use crate::failure::Failure;
use crate::payload::Payload;

/// Whether nothing follows an event of this type.
pub const fn is_last(kind: EventType) -> bool {
    matches!(
        kind,
        EventType::WorkflowExecutionCompleted
            | EventType::WorkflowExecutionFailed
            | EventType::WorkflowExecutionCanceled
            | EventType::WorkflowExecutionTerminated
    )
}

/// Whether an attempt ends with an event of this type.
pub const fn ends_attempt(kind: EventType) -> bool {
    matches!(
        kind,
        EventType::ActivityTaskCompleted
            | EventType::ActivityTaskFailed
            | EventType::ActivityTaskTimedOut
            | EventType::ActivityTaskCanceled
            | EventType::ActivityTaskAttemptFailed
            | EventType::ActivityTaskAttemptTimedOut
    )
}

/// An event as the API shows it.
pub fn event(id: u64, event: &Event) -> HistoryEvent {
    let kind = event.event_type();
    HistoryEvent {
        event_id: id,
        event_time: event.time(),
        event_type: name(kind),
        attributes: Value::Object(attributes(kind, event)),
    }
}

fn name(kind: EventType) -> String {
    match kind {
        // As in Temporal, where the attribute `retryState` tells them apart.
        EventType::ActivityTaskAttemptFailed => "ActivityTaskFailed".to_owned(),
        EventType::ActivityTaskAttemptTimedOut => "ActivityTaskTimedOut".to_owned(),
        other => format!("{other:?}"),
    }
}

fn attributes(kind: EventType, event: &Event) -> Map<String, Value> {
    let mut map = Map::new();
    let mut set = |name: &str, value: Value| {
        let empty = value.is_null() || value.as_str().is_some_and(str::is_empty);
        if !empty {
            map.insert(name.to_owned(), value);
        }
    };
    let id = match kind {
        EventType::WorkflowExecutionStarted => "namespace",
        EventType::TimerStarted | EventType::TimerFired | EventType::TimerCanceled => "timerId",
        EventType::StartChildWorkflowExecutionInitiated
        | EventType::StartChildWorkflowExecutionFailed
        | EventType::ChildWorkflowExecutionStarted
        | EventType::ChildWorkflowExecutionCompleted
        | EventType::ChildWorkflowExecutionFailed
        | EventType::ChildWorkflowExecutionCanceled
        | EventType::RequestCancelExternalWorkflowExecutionInitiated => "childId",
        _ => "activityId",
    };
    set(id, json!(event.id));
    let named = match kind {
        EventType::ActivityTaskScheduled => "activityType",
        _ => "workflowType",
    };
    set(named, json!(event.name));
    set("version", json!(event.version));
    if let Some(digest) = digest(&event.digest) {
        set("digest", json!(digest));
    }
    set("taskQueue", json!(event.queue));
    set("task", json!(event.task));
    set("workflowId", json!(event.workflow_id));
    if let Some(run_id) = event.run_uuid() {
        set("runId", json!(run_id));
    }
    set("reason", json!(event.reason));
    if event.attempt > 0 {
        set("attempt", json!(event.attempt));
    }
    if let Some(payload) = &event.payload {
        let name = match kind {
            EventType::WorkflowExecutionStarted
            | EventType::ActivityTaskScheduled
            | EventType::StartChildWorkflowExecutionInitiated => "input",
            _ => "result",
        };
        map.insert(name.to_owned(), value(payload));
    }
    let mut set = |name: &str, value: Value| {
        map.insert(name.to_owned(), value);
    };
    if event.failure.is_some() {
        set("failure", json!(event.failure()));
    }
    if let Some(details) = &event.heartbeat {
        set("heartbeatDetails", value(details));
    }
    if let Some(of) = &event.timeouts {
        timeouts(of, &mut set);
    }
    if let Some(policy) = &event.retry {
        set("retryPolicy", retry(policy));
    }
    match kind {
        EventType::TimerStarted => {
            set("startToFireTimeout", json!(seconds(event.duration_us)));
            set("fireTime", json!(timestamp(event.due_us)));
        }
        EventType::ActivityTaskAttemptFailed | EventType::ActivityTaskAttemptTimedOut => {
            set("retryState", json!("InProgress"));
            set("nextAttemptTime", json!(timestamp(event.due_us)));
        }
        EventType::StartChildWorkflowExecutionInitiated => {
            let policy = if event.detached {
                "Abandon"
            } else {
                "RequestCancel"
            };
            set("parentClosePolicy", json!(policy));
        }
        _ => {}
    }
    if !event.receipt.is_empty() {
        set("receipt", json!(event.receipt));
    }
    if let Some(start) = &event.start {
        let pinned: Map<String, Value> = start
            .pinned
            .iter()
            .map(|(name, pin)| {
                let pin = json!({
                    "activityType": pin.activity_type,
                    "version": pin.version,
                    "digest": digest(&pin.digest),
                });
                (name.clone(), pin)
            })
            .collect();
        set("pinned", Value::Object(pinned));
        set("driverRevision", json!(start.revision));
        set("answerRevision", json!(start.answer_revision));
        if let Some(evaluator) = digest(&start.evaluator) {
            set("evaluatorDigest", json!(evaluator));
        }
        set("depth", json!(start.depth));
        set(
            "limits",
            json!({
                "tasksPerActivation": start.tasks_per_activation,
                "dataBytes": start.data_bytes,
                "depth": start.depth_limit,
            }),
        );
        if let Some(traceparent) = &start.traceparent {
            set("traceparent", json!(traceparent));
        }
        if let Ok(parent) = uuid::Uuid::from_slice(&start.parent_run_id) {
            set(
                "parent",
                json!({ "workflowId": start.parent_workflow_id, "runId": parent }),
            );
        }
    }
    map
}

/// A payload as JSON: its value, or what it refers to.
fn value(payload: &Payload) -> Value {
    match payload.as_blob_ref() {
        Ok(Some(reference)) => json!({ "$ref": reference }),
        _ => payload.to_json().unwrap_or_else(|error| {
            json!(Failure::permanent(
                crate::failure::kind::INTERNAL,
                error.to_string()
            ))
        }),
    }
}

fn seconds(microseconds: u64) -> String {
    format!(
        "{}s",
        std::time::Duration::from_micros(microseconds).as_secs_f64()
    )
}

fn timeouts(of: &StoredTimeouts, set: &mut impl FnMut(&str, Value)) {
    for (name, timeout) in [
        ("scheduleToCloseTimeout", of.schedule_to_close),
        ("scheduleToStartTimeout", of.schedule_to_start),
        ("startToCloseTimeout", of.start_to_close),
        ("heartbeatTimeout", of.heartbeat),
    ] {
        if timeout > 0 {
            set(name, json!(seconds(timeout)));
        }
    }
}

fn retry(policy: &StoredRetry) -> Value {
    json!({
        "initialInterval": seconds(policy.initial_interval),
        "backoffCoefficient": policy.backoff_coefficient,
        "maximumInterval": seconds(policy.maximum_interval),
        "maximumAttempts": policy.maximum_attempts,
        "nonRetryableErrorTypes": policy.non_retryable_kinds,
    })
}
