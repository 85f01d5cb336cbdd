//! How the API shows a stored event.
//!
//! Names of types and attributes are Temporal's, attributes in `snake_case`. Where
//! Temporal points at another event by its number, `activity_id`, `timer_id` and
//! `child_id` say which activity, timer or child is meant: each event reads by itself.
//! An attribute that an event does not have is left out. A value stands there as JSON;
//! one that is large, not JSON, or stored apart is shown as its encoding, size in bytes
//! and digest.

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
    }
}

fn attributes(event: &Event) -> Map<String, Value> {
    let mut shown = Attributes::default();
    match event.event_type() {
        // A newer release wrote it; its number is all that is known.
        EventType::Unspecified => shown.put("type_number", event.kind),
        EventType::WorkflowExecutionStarted => started(event, &mut shown),
        EventType::WorkflowExecutionCompleted => shown.result(event),
        EventType::WorkflowExecutionFailed => shown.failure(event),
        EventType::WorkflowExecutionCanceled | EventType::WorkflowExecutionTerminated => {
            shown.failure(event);
            shown.text("reason", &event.reason);
        }
        EventType::WorkflowExecutionCancelRequested => shown.text("cause", &event.reason),
        // That the driver had nothing to command is all there is to say.
        EventType::WorkflowTaskCompleted => {}
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
            let policy = if event.detached {
                "Abandon"
            } else {
                "RequestCancel"
            };
            shown.put("parent_close_policy", policy);
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
    shown.payload("input", event.payload.as_ref());
    let Some(StoredStart {
        pinned,
        depth,
        revision,
        answer_revision,
        evaluator,
        memo,
        traceparent,
        parent_run_id,
        parent_workflow_id,
        child_id,
        detached,
        tasks_per_activation,
        data_bytes,
        depth_limit,
        // It would tell what a flow's random numbers will be.
        seed: _,
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
    shown.put("depth", *depth);
    if !memo.is_empty() {
        let fields: Map<String, Value> = memo
            .iter()
            .map(|(name, value)| (name.clone(), payload_view(value)))
            .collect();
        shown.put("memo", fields);
    }
    let pinned: Map<String, Value> = pinned
        .iter()
        .map(|(name, pin)| (name.clone(), pin_view(pin)))
        .collect();
    shown.put("pinned", pinned);
    shown.put(
        "limits",
        json!({
            "tasks_per_activation": tasks_per_activation,
            "data_bytes": data_bytes,
            "depth": depth_limit,
        }),
    );
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::failure::kind;
    use crate::payload::BlobRef;

    fn at() -> Timestamp {
        "2026-01-02T03:04:05.000006Z".parse().expect("a time")
    }

    fn shown(event: &Event) -> Value {
        history_event(7, event).attributes
    }

    #[test]
    fn every_type_has_its_name() {
        for number in 0..100 {
            let Ok(kind) = EventType::try_from(number) else {
                continue;
            };
            let name = format!("{kind:?}").replace("TaskAttempt", "Task");
            assert_eq!(type_name(kind), name);
            let event = history_event(1, &Event::new(kind, at(), "1"));
            assert_eq!((event.event_type, event.event_time), (name, at()));
        }
        let newer = Event {
            kind: 9_999,
            ..Event::new(EventType::Unspecified, at(), "1")
        };
        assert_eq!(history_event(1, &newer).event_type, "Unspecified");
        assert_eq!(shown(&newer), json!({ "type_number": 9_999 }));
    }

    #[test]
    fn a_scheduled_activity() {
        let event = Event {
            name: "docs.split".to_owned(),
            version: "1.2.0".to_owned(),
            digest: vec![0xab; 32],
            queue: "general-queue".to_owned(),
            payload: Some(Payload::json(&json!({ "text": "x" }))),
            timeouts: Some(
                ActivityTimeouts {
                    start_to_close: Some(Duration::from_secs(90)),
                    heartbeat: Some(Duration::from_millis(500)),
                    ..ActivityTimeouts::default()
                }
                .into(),
            ),
            retry: Some(RetryPolicy::default().into()),
            task: "/do/0/split".to_owned(),
            ..Event::new(EventType::ActivityTaskScheduled, at(), "3")
        };
        assert_eq!(
            serde_json::to_value(history_event(5, &event)).expect("serializes"),
            json!({
                "event_id": 5,
                "event_time": "2026-01-02T03:04:05.000006Z",
                "event_type": "ActivityTaskScheduled",
                "attributes": {
                    "activity_id": "3",
                    "activity_type": "docs.split",
                    "version": "1.2.0",
                    "digest": format!("sha256:{}", "ab".repeat(32)),
                    "task_queue": "general-queue",
                    "input": { "text": "x" },
                    "start_to_close_timeout": "PT1M30S",
                    "heartbeat_timeout": "PT0.5S",
                    "retry_policy": RetryPolicy::default(),
                    "task": "/do/0/split",
                },
            })
        );
    }

    #[test]
    fn an_attempt_that_is_followed_by_another_says_so() {
        let failure = Failure::transient("busy", "come back")
            .with_details(json!({ "after": 3 }))
            .with_cause(Failure::permanent("io", "no"));
        let event = Event {
            attempt: 2,
            failure: Some(failure.clone().into()),
            due_us: at().as_microsecond(),
            heartbeat: Some(Payload::json(&json!(41))),
            receipt: [("cpu_us".to_owned(), 12)].into(),
            ..Event::new(EventType::ActivityTaskAttemptFailed, at(), "3")
        };
        assert_eq!(history_event(1, &event).event_type, "ActivityTaskFailed");
        assert_eq!(
            shown(&event),
            json!({
                "activity_id": "3",
                "attempt": 2,
                "failure": {
                    "kind": "busy", "message": "come back", "retryable": true,
                    "details": { "after": 3 },
                    "cause": { "kind": "io", "message": "no", "retryable": false },
                },
                "retry_state": "InProgress",
                "next_attempt_schedule_time": "2026-01-02T03:04:05.000006Z",
                "last_heartbeat_details": 41,
                "receipt": { "cpu_us": 12 },
            })
        );
        let last = Event {
            kind: EventType::ActivityTaskFailed as i32,
            ..event.clone()
        };
        let last = shown(&last);
        assert_eq!(last.get("retry_state"), None);
        assert_eq!(last.get("next_attempt_schedule_time"), None);
        let trap = Event {
            failure: Some(Failure::permanent(kind::TRAP, "unreachable").into()),
            ..Event::new(EventType::ActivityTaskFailed, at(), "3")
        };
        assert_eq!(shown(&trap)["retry_state"], "NonRetryableFailure");
        assert_eq!(shown(&trap).get("attempt"), None);
    }

    #[test]
    fn a_started_run() {
        let (run_id, parent) = (uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2));
        let pin = StoredPin {
            activity_type: "docs.split".to_owned(),
            version: "1.2.0".to_owned(),
            digest: vec![1; 32],
            queue: "general-queue".to_owned(),
            ..StoredPin::default()
        };
        let event = Event {
            name: "docs.process".to_owned(),
            version: "0.1.0".to_owned(),
            digest: vec![2; 32],
            workflow_id: "doc-7".to_owned(),
            run_id: run_id.as_bytes().to_vec(),
            payload: Some(Payload::null()),
            start: Some(StoredStart {
                pinned: [("docs.split".to_owned(), pin)].into(),
                depth: 1,
                seed: 0x5eed,
                memo: [("who".to_owned(), Payload::json(&json!("me")))].into(),
                parent_run_id: parent.as_bytes().to_vec(),
                parent_workflow_id: "all".to_owned(),
                child_id: "4".to_owned(),
                ..StoredStart::default()
            }),
            ..Event::new(EventType::WorkflowExecutionStarted, at(), "default")
        };
        let shown = shown(&event);
        assert_eq!(shown["workflow_type"], "docs.process");
        assert_eq!(shown["workflow_id"], "doc-7");
        assert_eq!(shown["run_id"], run_id.to_string());
        assert_eq!(shown["input"], Value::Null);
        assert_eq!(shown["memo"], json!({ "who": "me" }));
        assert_eq!(
            shown["parent_workflow_execution"],
            json!({ "workflow_id": "all", "run_id": parent })
        );
        assert_eq!(shown["pinned"]["docs.split"]["version"], "1.2.0");
        assert_eq!(
            shown["pinned"]["docs.split"]["digest"],
            format!("sha256:{}", "01".repeat(32))
        );
        assert_eq!(shown.get("seed"), None);
        assert_eq!(shown.get("traceparent"), None);
    }

    #[test]
    fn ends_timers_and_children() {
        let event = |kind, id: &str| Event::new(kind, at(), id);
        assert_eq!(
            shown(&event(EventType::WorkflowExecutionCompleted, "")),
            json!({ "result": null })
        );
        let canceled = Event {
            reason: "enough".to_owned(),
            ..event(EventType::WorkflowExecutionCanceled, "")
        };
        assert_eq!(shown(&canceled), json!({ "reason": "enough" }));
        let requested = Event {
            reason: "enough".to_owned(),
            ..event(EventType::WorkflowExecutionCancelRequested, "")
        };
        assert_eq!(shown(&requested), json!({ "cause": "enough" }));
        let timer = Event {
            duration_us: 2_000_000,
            due_us: at().as_microsecond(),
            task: "/do/1/wait".to_owned(),
            ..event(EventType::TimerStarted, "2")
        };
        assert_eq!(
            shown(&timer),
            json!({
                "timer_id": "2", "start_to_fire_timeout": "PT2S",
                "fire_time": "2026-01-02T03:04:05.000006Z", "task": "/do/1/wait",
            })
        );
        let initiated = Event {
            name: "docs.part".to_owned(),
            workflow_id: "w_1".to_owned(),
            payload: Some(Payload::json(&json!([1]))),
            detached: true,
            depth: 1,
            ..event(EventType::StartChildWorkflowExecutionInitiated, "1")
        };
        assert_eq!(
            shown(&initiated),
            json!({
                "child_id": "1", "workflow_id": "w_1", "workflow_type": "docs.part",
                "input": [1], "parent_close_policy": "Abandon", "depth": 1,
            })
        );
        let run_id = uuid::Uuid::from_u128(9);
        let completed = Event {
            workflow_id: "w_1".to_owned(),
            run_id: run_id.as_bytes().to_vec(),
            payload: Some(Payload::json(&json!("done"))),
            ..event(EventType::ChildWorkflowExecutionCompleted, "1")
        };
        assert_eq!(
            shown(&completed),
            json!({
                "child_id": "1", "result": "done",
                "workflow_execution": { "workflow_id": "w_1", "run_id": run_id },
            })
        );
    }

    #[test]
    fn a_value_that_cannot_be_shown_is_described() {
        let result = |payload: Payload| {
            shown(&Event {
                payload: Some(payload),
                ..Event::new(EventType::WorkflowExecutionCompleted, at(), "")
            })["result"]
                .clone()
        };
        // With its quotes it has just as many bytes as are shown.
        let whole = Value::String("x".repeat(SHOWN - 2));
        assert_eq!(result(Payload::json(&whole)), whole);

        let large = Payload::json(&Value::String("x".repeat(SHOWN - 1)));
        let digest = Digest::of(&large.data);
        assert_eq!(
            result(large),
            json!({ "encoding": "json/plain", "size": SHOWN + 1, "digest": digest })
        );
        let reference = BlobRef {
            digest,
            size: 1 << 30,
        };
        assert_eq!(
            result(Payload::blob_ref(&reference)),
            json!({ "encoding": "heyday/blob-ref", "size": 1 << 30, "digest": digest })
        );
        for broken in ["{", &"[".repeat(200)] {
            let shown = result(Payload::json_bytes(broken.to_owned().into()));
            assert_eq!(shown["size"], broken.len(), "{shown}");
        }
        let mut foreign = Payload::json(&json!(1));
        foreign
            .metadata
            .insert("encoding".to_owned(), "json/protobuf".into());
        assert_eq!(result(foreign)["encoding"], "json/protobuf");
    }
}
