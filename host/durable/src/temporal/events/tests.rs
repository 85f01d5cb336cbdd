//! Events as a cluster sends them, and what is shown of them.

use temporalio_common::protos::temporal::api::enums::v1::EventType as Kind;
use temporalio_common::protos::temporal::api::history::v1::{
    ActivityTaskCompletedEventAttributes, ActivityTaskScheduledEventAttributes,
    ActivityTaskStartedEventAttributes, StartChildWorkflowExecutionInitiatedEventAttributes,
    WorkflowExecutionSignaledEventAttributes, WorkflowExecutionStartedEventAttributes,
    WorkflowTaskFailedEventAttributes,
};

use super::super::convert::{failure, json_payload, with_receipt};
use super::super::pins::Pins;
use super::*;
use crate::activity::Receipt;
use crate::driver::{REVISION, RunLimits};
use crate::payload::Digest;

fn event(event_id: i64, kind: Kind, attributes: sdk::Attributes) -> sdk::HistoryEvent {
    sdk::HistoryEvent {
        event_id,
        event_type: kind.into(),
        attributes: Some(attributes),
        ..Default::default()
    }
}

#[test]
fn an_attempts_end_names_its_activity() {
    let mut names = Names::default();
    let scheduled = ActivityTaskScheduledEventAttributes {
        activity_id: "7".to_owned(),
        activity_type: Some("t.echo".into()),
        ..Default::default()
    };
    let scheduled = sdk::Attributes::ActivityTaskScheduledEventAttributes(scheduled);
    read(&mut names, event(5, Kind::ActivityTaskScheduled, scheduled));
    let started = ActivityTaskStartedEventAttributes {
        scheduled_event_id: 5,
        attempt: 3,
        ..Default::default()
    };
    let started = sdk::Attributes::ActivityTaskStartedEventAttributes(started);
    read(&mut names, event(6, Kind::ActivityTaskStarted, started));
    let mut receipt = Receipt::default();
    receipt.add("cpu_us", 9);
    let completed = ActivityTaskCompletedEventAttributes {
        scheduled_event_id: 5,
        started_event_id: 6,
        result: Some(sdk::Payloads {
            payloads: vec![with_receipt(json_payload(&json!({"x": 1})), &receipt)],
        }),
        ..Default::default()
    };
    let completed = sdk::Attributes::ActivityTaskCompletedEventAttributes(completed);
    let shown = read(&mut names, event(7, Kind::ActivityTaskCompleted, completed));
    let shown = shown.history_event();
    assert_eq!(
        (shown.event_id, shown.event_type.as_str()),
        (7, "ActivityTaskCompleted")
    );
    assert_eq!(
        shown.attributes,
        json!({"activity_id": "7", "attempt": 3, "result": {"x": 1}, "receipt": {"cpu_us": 9}})
    );
}

#[test]
fn signals_and_failed_tasks_are_shown() {
    let mut names = Names::default();
    let signal = WorkflowExecutionSignaledEventAttributes {
        signal_name: "approve".to_owned(),
        ..Default::default()
    };
    let signal = sdk::Attributes::WorkflowExecutionSignaledEventAttributes(signal);
    let shown = read(
        &mut names,
        event(3, Kind::WorkflowExecutionSignaled, signal),
    );
    assert!(!shown.ends_run());
    let shown = shown.history_event();
    assert_eq!(shown.event_type, "WorkflowExecutionSignaled");
    assert_eq!(shown.attributes["signal_name"], "approve");
    assert_eq!(shown.attributes["signal_id"], "event-3");
    let failed = WorkflowTaskFailedEventAttributes {
        cause: sdk::WorkflowTaskFailedCause::NonDeterministicError.into(),
        failure: Some(failure(Failure::permanent("internal", "it differs"), None)),
        ..Default::default()
    };
    let failed = sdk::Attributes::WorkflowTaskFailedEventAttributes(failed);
    let shown = read(&mut names, event(4, Kind::WorkflowTaskFailed, failed)).history_event();
    assert_eq!(shown.attributes["cause"], "NonDeterministicError");
    assert_eq!(shown.attributes["failure"]["message"], "it differs");
}

#[test]
fn a_foreign_signal_of_a_run_that_goes_on_is_named_after_the_run() {
    let run_id = "019b0000-0000-7000-8000-000000000001";
    let shown_id = |revision: u32, goes_on: bool| {
        let pins = Pins {
            version: "1.0.0".parse().unwrap(),
            digest: Digest::of(b"flow"),
            activities: BTreeMap::new(),
            seed: 1,
            limits: RunLimits::default(),
            revision,
            answer_revision: 1,
            evaluator: Digest::of(b"jq"),
        };
        let header = RunHeader {
            pins: Some(pins),
            ..RunHeader::default()
        };
        let mut fields = HashMap::from([(RUN_HEADER.to_owned(), json_payload(&header))]);
        if goes_on {
            fields.insert(RESUME_HEADER.to_owned(), json_payload(&json!({})));
        }
        let start = WorkflowExecutionStartedEventAttributes {
            original_execution_run_id: run_id.to_owned(),
            header: Some(sdk::Header { fields }),
            ..Default::default()
        };
        let start = sdk::Attributes::WorkflowExecutionStartedEventAttributes(start);
        let mut names = Names::default();
        read(&mut names, event(1, Kind::WorkflowExecutionStarted, start));
        let signal = WorkflowExecutionSignaledEventAttributes::default();
        let signal = sdk::Attributes::WorkflowExecutionSignaledEventAttributes(signal);
        let shown = read(
            &mut names,
            event(5, Kind::WorkflowExecutionSignaled, signal),
        );
        shown.history_event().attributes["signal_id"].clone()
    };
    assert_eq!(shown_id(REVISION, true), format!("{run_id}-event-5"));
    assert_eq!(shown_id(REVISION, false), "event-5");
    // As its driver was told then.
    assert_eq!(shown_id(2, true), "event-5");
}

#[test]
fn an_event_about_something_unknown_is_shown_all_the_same() {
    let mut names = Names::default();
    let completed = ActivityTaskCompletedEventAttributes {
        scheduled_event_id: 5,
        ..Default::default()
    };
    let completed = sdk::Attributes::ActivityTaskCompletedEventAttributes(completed);
    let shown = read(&mut names, event(7, Kind::ActivityTaskCompleted, completed));
    assert!(shown.event.is_none());
    assert_eq!(shown.history_event().event_type, "ActivityTaskCompleted");
    let empty = sdk::HistoryEvent::default();
    assert_eq!(
        read(&mut names, empty).history_event().event_type,
        "Unspecified"
    );
}

#[test]
fn a_detached_child_is_one_whose_header_says_so() {
    let initiated = |detached: bool, policy: sdk::ParentClosePolicy| {
        let header = RunHeader {
            detached,
            ..RunHeader::default()
        };
        let initiated = StartChildWorkflowExecutionInitiatedEventAttributes {
            workflow_id: "parent_1".to_owned(),
            parent_close_policy: policy.into(),
            header: Some(sdk::Header {
                fields: [(RUN_HEADER.to_owned(), json_payload(&header))].into(),
            }),
            ..Default::default()
        };
        let attributes =
            sdk::Attributes::StartChildWorkflowExecutionInitiatedEventAttributes(initiated);
        let event = event(5, Kind::StartChildWorkflowExecutionInitiated, attributes);
        let event = read(&mut Names::default(), event).event.unwrap();
        (event.detached, event.close_policy().as_str())
    };
    use sdk::ParentClosePolicy as Policy;
    assert_eq!(initiated(true, Policy::Abandon), (true, "Abandon"));
    assert_eq!(
        initiated(true, Policy::RequestCancel),
        (true, "RequestCancel")
    );
    assert_eq!(initiated(false, Policy::Abandon), (false, "Abandon"));
}
