//! How a run began: what its first event says, and where its pins stand.

use uuid::Uuid;

use super::super::convert::{first, from_json_payload, from_payload};
use super::super::pins::{MEMO, Pins, RUN_HEADER, RunHeader};
use super::super::sdk;
use super::child_id;
use crate::embedded::events::{Event, EventType, StoredPin, StoredStart};

/// The pins that an event records, if it does.
pub fn pins_of(attributes: &sdk::Attributes) -> Option<Pins> {
    match attributes {
        sdk::Attributes::WorkflowExecutionStartedEventAttributes(start) => header_of(start).pins,
        sdk::Attributes::MarkerRecordedEventAttributes(marker) => {
            let result = marker.details.get("result")?.payloads.first()?;
            from_json_payload(result).ok()
        }
        _ => None,
    }
}

fn header_of(start: &sdk::WorkflowExecutionStartedEventAttributes) -> RunHeader {
    let header = start.header.as_ref();
    header
        .and_then(|header| from_json_payload(header.fields.get(RUN_HEADER)?).ok())
        .unwrap_or_default()
}

/// The first event.
pub fn started(at: jiff::Timestamp, start: sdk::WorkflowExecutionStartedEventAttributes) -> Event {
    let header = header_of(&start);
    let mut event = Event {
        name: start.workflow_type.unwrap_or_default().name,
        run_id: bytes_of(&start.original_execution_run_id),
        queue: start.task_queue.unwrap_or_default().name,
        payload: Some(first(start.input)),
        ..Event::new(EventType::WorkflowExecutionStarted, at, "")
    };
    let parent = start.parent_workflow_execution.unwrap_or_default();
    let memo = start.memo.unwrap_or_default().fields.into_iter();
    let mut stored = StoredStart {
        depth: header.depth,
        memo: memo
            .filter(|(name, _)| name != MEMO)
            .map(|(name, value)| (name, from_payload(value)))
            .collect(),
        traceparent: header.traceparent,
        parent_run_id: bytes_of(&parent.run_id),
        child_id: if parent.workflow_id.is_empty() {
            String::new()
        } else {
            child_id(&start.workflow_id)
        },
        parent_workflow_id: parent.workflow_id,
        continued_from: bytes_of(&start.continued_execution_run_id),
        // Each run has it; only one that continues another is not its own first.
        first_run_id: if start.continued_execution_run_id.is_empty() {
            Vec::new()
        } else {
            bytes_of(&start.first_execution_run_id)
        },
        ..StoredStart::default()
    };
    event.workflow_id = start.workflow_id;
    if let Some(pins) = header.pins {
        event.version = pins.version.to_string();
        event.digest = pins.digest.as_bytes().to_vec();
        let activities = pins.activities.into_iter();
        stored = StoredStart {
            pinned: activities
                .map(|(name, pin)| (name, StoredPin::from(pin)))
                .collect(),
            seed: pins.seed,
            revision: pins.revision,
            answer_revision: pins.answer_revision,
            evaluator: pins.evaluator.as_bytes().to_vec(),
            tasks_per_activation: pins.limits.tasks_per_activation,
            data_bytes: pins.limits.data_bytes,
            depth_limit: pins.limits.depth,
            history_events: pins.limits.history_events,
            pending: match pins.limits.pending {
                u64::MAX => 0,
                pending => pending,
            },
            ..stored
        };
    }
    event.start = Some(stored);
    event
}

/// The bytes of a run id.
pub fn bytes_of(run_id: &str) -> Vec<u8> {
    let id = run_id.parse::<Uuid>();
    id.map(|id| id.as_bytes().to_vec()).unwrap_or_default()
}
