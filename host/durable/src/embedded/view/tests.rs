//! Each kind of event as the API shows it.

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
