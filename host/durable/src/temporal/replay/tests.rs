//! What a file has beside the events of a cluster's history.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use temporalio_common::protos::temporal::api::enums::v1::EventType as Kind;
use temporalio_common::protos::temporal::api::history::v1::{
    WorkflowExecutionStartedEventAttributes, WorkflowTaskFailedEventAttributes,
};

use super::super::convert::{json_payload, payload};
use super::super::pins::{RUN_HEADER, RunHeader};
use super::outside::Outside;
use super::*;
use crate::driver::{Resolution, RunLimits};
use crate::payload::{Digest, Payload, PayloadStoreError};
use crate::replay::{Recorded, RecordedHistory};
use crate::signal::Signal;

#[derive(Default)]
struct Stored(BTreeMap<Digest, Bytes>);

#[async_trait]
impl PayloadStore for Stored {
    async fn put(&self, bytes: Bytes) -> Result<Digest, PayloadStoreError> {
        Ok(Digest::of(&bytes))
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, PayloadStoreError> {
        let found = self.0.get(digest).cloned();
        found.ok_or(PayloadStoreError::NotFound(*digest))
    }

    async fn sweep(&self, _: &HashSet<Digest>, _: Duration) -> Result<u64, PayloadStoreError> {
        Ok(0)
    }
}

fn pins() -> Pins {
    Pins {
        version: "1.0.0".parse().unwrap(),
        digest: Digest::of(b"flow"),
        activities: BTreeMap::new(),
        seed: 1,
        limits: RunLimits::default(),
        revision: REVISION,
        answer_revision: 1,
        evaluator: Digest::of(b"jq"),
    }
}

fn started(fields: HashMap<String, sdk::Payload>) -> sdk::HistoryEvent {
    let start = WorkflowExecutionStartedEventAttributes {
        workflow_type: Some(sdk::WorkflowType {
            name: "test.flow".to_owned(),
        }),
        original_execution_run_id: Uuid::now_v7().to_string(),
        header: Some(sdk::Header { fields }),
        ..Default::default()
    };
    sdk::HistoryEvent {
        event_id: 1,
        event_type: Kind::WorkflowExecutionStarted.into(),
        attributes: Some(sdk::Attributes::WorkflowExecutionStartedEventAttributes(
            start,
        )),
        ..Default::default()
    }
}

fn pinned_to(pins: Pins) -> (String, sdk::Payload) {
    let header = RunHeader {
        pins: Some(pins),
        ..RunHeader::default()
    };
    (RUN_HEADER.to_owned(), json_payload(&header))
}

#[test]
fn a_run_that_was_reset_is_known_by_its_own_id() {
    let failed = |event_id: i64, cause: sdk::WorkflowTaskFailedCause, new: Uuid| {
        let failed = WorkflowTaskFailedEventAttributes {
            cause: cause.into(),
            new_run_id: new.to_string(),
            ..Default::default()
        };
        sdk::HistoryEvent {
            event_id,
            event_type: Kind::WorkflowTaskFailed.into(),
            attributes: Some(sdk::Attributes::WorkflowTaskFailedEventAttributes(failed)),
            ..Default::default()
        }
    };
    use sdk::WorkflowTaskFailedCause as Cause;
    let (between, new) = (Uuid::now_v7(), Uuid::now_v7());
    let events = vec![
        started([pinned_to(pins())].into()),
        failed(2, Cause::ResetWorkflow, between),
        failed(3, Cause::NonDeterministicError, Uuid::now_v7()),
        failed(4, Cause::ResetWorkflow, new),
    ];
    let recording = Recording::of(events).unwrap();
    assert_eq!(recording.about().run_id, new);
    // Its children between the two are named after the other one.
    assert_eq!(recording.resets(), [between, new]);
}

#[tokio::test]
async fn a_file_has_what_the_signals_refer_to_that_wait() {
    let pins = pins();
    // Many small ones too, so that the value that has them all is stored as well.
    let large = Payload::json(&json!("x".repeat(5_000)));
    let small = Payload::json(&json!("x".repeat(1_000)));
    let mut signals = vec![Signal::new("go", "large", large.clone())];
    signals.extend((0..400).map(|id| Signal::new("go", id.to_string(), small.clone())));
    let coming = signals
        .into_iter()
        .map(|signal| Resolution::Signal(Box::new(signal)));
    let mut outside = Outside::new(&pins, None).unwrap();
    let full = pins.limits.data_bytes;
    let now = jiff::Timestamp::UNIX_EPOCH;
    assert!(outside.hold_back(full, now, coming.collect()).is_empty());
    let mut referred = Vec::new();
    let waiting = outside.carry(&mut referred).unwrap();
    let whole = waiting.as_blob_ref().unwrap().unwrap();
    let store = Stored(referred.into_iter().collect());

    let waiting = (WAITING_HEADER.to_owned(), payload(waiting));
    let recording = Recording::of(vec![started([pinned_to(pins), waiting].into())]);
    let recorded = Recorded::Temporal(Arc::new(recording.unwrap()));
    let history = RecordedHistory::from(recorded);
    let file = history.with_values(&store).await.unwrap().to_json();
    let values = file["values"].as_object().unwrap();
    let expected = [whole.digest, Digest::of(&large.data)];
    let expected: HashSet<String> = expected.iter().map(ToString::to_string).collect();
    assert_eq!(values.keys().cloned().collect::<HashSet<_>>(), expected);
}
