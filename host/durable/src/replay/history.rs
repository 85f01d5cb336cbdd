//! Recorded histories, and their files.
//!
//! A history of the embedded engine is written as its bytes, one base64 text for each
//! transition, with some members around them that are for people and are not read again.
//! One of Temporal is written as Temporal's own JSON, which its command line, its UI and
//! its SDKs write and read. Either has the large values that it names beside the events
//! ([`super::values`]), where there are such.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::ReplayError;
use super::values::{self, Values};
use crate::embedded::convert::Beginning;
use crate::embedded::events::{EventType, Transition};
use crate::embedded::replay::Recording as EmbeddedRecording;
use crate::payload::{Digest, PayloadStore};
use crate::temporal::replay::Recording as TemporalRecording;

/// What the member `format` of a file of ours says.
pub const FORMAT: &str = "heyday.history.v1";

/// Events of a history at most; Temporal ends a run with more.
pub const MAX_EVENTS: usize = 51_200;

/// Bytes of a file at most.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;

/// How the member `format` begins, of this and of later releases.
const FORMAT_PREFIX: &str = "heyday.history.";

/// Why something is no history that can be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// It is no JSON.
    #[error("the history is no JSON: {0}")]
    NotJson(String),
    /// It is JSON, but no history.
    #[error("this is no history: {0}")]
    NotAHistory(String),
    /// An event of it cannot be read.
    #[error("the history is damaged: {0}")]
    Damaged(String),
    /// A newer release wrote it.
    #[error("a newer Heyday wrote this history: {0}")]
    Newer(String),
    /// It is of a run that is none of a flow.
    #[error(
        "the history of {workflow_type:?} is of no flow: it says nowhere to which definition the run is pinned"
    )]
    NotOfAFlow {
        /// Its workflow type.
        workflow_type: String,
    },
    /// It has more than a history may have.
    #[error("the history has {what}, more than the {limit} allowed")]
    TooLarge {
        /// How much it has, and of what.
        what: String,
        /// The limit.
        limit: usize,
    },
}

/// What a history says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct About {
    /// `embedded` or `temporal`.
    pub engine: &'static str,
    /// The namespace, where that is recorded.
    pub namespace: Option<String>,
    /// The workflow id.
    pub workflow_id: String,
    /// The execution.
    pub run_id: Uuid,
    /// The workflow type.
    pub workflow_type: String,
    /// The version of the definition that the run is pinned to.
    pub version: semver::Version,
    /// Its digest.
    pub digest: Option<Digest>,
    /// The driver's revision under which the run was started.
    pub revision: u32,
    /// The expressions' answer revision under which the run was started.
    pub answer_revision: u32,
    /// Events.
    pub events: u64,
    /// Whether the run has ended.
    pub ended: bool,
}

/// The whole recorded history of one run, as far as it has come. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RecordedHistory {
    pub(crate) recorded: Recorded,
    /// Values that its events name, where they came with it.
    pub(crate) values: Arc<Values>,
}

/// What is recorded.
#[derive(Debug, Clone)]
pub(crate) enum Recorded {
    /// Of the embedded engine.
    Embedded(Arc<EmbeddedRecording>),
    /// Of a Temporal cluster.
    Temporal(Arc<TemporalRecording>),
}

impl From<Recorded> for RecordedHistory {
    fn from(recorded: Recorded) -> Self {
        Self {
            recorded,
            values: Arc::default(),
        }
    }
}

/// What is read of a file of ours.
#[derive(Deserialize)]
struct Envelope {
    transitions: Vec<String>,
}

impl RecordedHistory {
    /// Reads a file: [ours](Self::to_json), or Temporal's JSON, as `temporal workflow show
    /// --output json` and Temporal's UI write it.
    ///
    /// # Errors
    /// As [`HistoryError`] says.
    pub fn parse(bytes: &[u8]) -> Result<Self, HistoryError> {
        if bytes.len() > MAX_BYTES {
            return Err(HistoryError::TooLarge {
                what: format!("{} bytes", bytes.len()),
                limit: MAX_BYTES,
            });
        }
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| HistoryError::NotJson(error.to_string()))?;
        Self::from_json(value)
    }

    /// As [`parse`](Self::parse), of JSON that was read.
    ///
    /// # Errors
    /// As [`HistoryError`] says.
    pub fn from_json(mut value: Value) -> Result<Self, HistoryError> {
        let values = value
            .as_object_mut()
            .and_then(|it| it.remove(values::MEMBER));
        let values = values.map(values::read).transpose()?.unwrap_or_default();
        Ok(Self {
            values: Arc::new(values),
            ..Self::of_events(value)?
        })
    }

    /// As [`from_json`](Self::from_json), but for the values.
    fn of_events(value: Value) -> Result<Self, HistoryError> {
        let format = value.get("format").and_then(Value::as_str);
        match format {
            Some(FORMAT) => return embedded(value),
            Some(other) if other.starts_with(FORMAT_PREFIX) => {
                return Err(HistoryError::Newer(format!(
                    "its format is {other:?}, and this one reads {FORMAT:?}"
                )));
            }
            _ => {}
        }
        let events = match value {
            Value::Array(events) => events,
            Value::Object(mut members) => match members.remove("events") {
                Some(Value::Array(events)) => events,
                _ => {
                    return Err(HistoryError::NotAHistory(format!(
                        "it has neither a list `events`, as Temporal's have, nor \"format\": {FORMAT:?}"
                    )));
                }
            },
            _ => {
                return Err(HistoryError::NotAHistory(
                    "it is neither an object nor a list of events".to_owned(),
                ));
            }
        };
        check_count(events.len())?;
        let recording = TemporalRecording::read(events)?;
        Ok(Recorded::Temporal(Arc::new(recording)).into())
    }

    /// Of the embedded engine's transitions, in their order.
    pub(crate) fn of_transitions(
        transitions: impl IntoIterator<Item = Transition>,
    ) -> Result<Self, HistoryError> {
        let damaged = |message: &str| HistoryError::Damaged(message.to_owned());
        let mut beginning = None;
        let mut last = 0_usize;
        let mut numbered = Vec::new();
        for transition in transitions {
            for event in &transition.events {
                last += 1;
                let kind = event.event_type();
                if kind == EventType::Unspecified {
                    return Err(HistoryError::Newer(format!(
                        "event {last} has the type {}, which this one does not know",
                        event.kind
                    )));
                }
                if (kind == EventType::WorkflowExecutionStarted) != (last == 1) {
                    return Err(damaged(
                        "it does not begin with WorkflowExecutionStarted, or has it twice",
                    ));
                }
            }
            check_count(last)?;
            if beginning.is_none() {
                let first = transition.events.first().cloned();
                let read = first.and_then(Beginning::read);
                beginning =
                    Some(read.ok_or_else(|| damaged("its first event says not what was started"))?);
            }
            numbered.push((last as u64, transition));
        }
        let beginning = beginning.ok_or_else(|| damaged("it has no event"))?;
        let recording = EmbeddedRecording {
            beginning,
            transitions: numbered,
        };
        Ok(Recorded::Embedded(Arc::new(recording)).into())
    }

    /// With the values that its events name, as that store has them: the file can then be
    /// replayed anywhere.
    ///
    /// # Errors
    /// When one is no longer stored, they do not fit a file, or the store cannot answer.
    pub async fn with_values(self, store: &dyn PayloadStore) -> Result<Self, ReplayError> {
        let named = match &self.recorded {
            Recorded::Embedded(recording) => {
                let transitions = recording.transitions.iter();
                transitions
                    .flat_map(|(_, transition)| values::named_by(transition))
                    .collect()
            }
            Recorded::Temporal(recording) => {
                let mut named = Vec::new();
                values::named_in(&recording.to_json(), &mut named);
                named.extend(recording.waiting(store).await?);
                named
            }
        };
        Ok(Self {
            values: Arc::new(values::get(named, store).await?),
            recorded: self.recorded,
        })
    }

    /// The file, which [`parse`](Self::parse) reads.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut file = self.events_json();
        if !self.values.is_empty()
            && let Some(members) = file.as_object_mut()
        {
            members.insert(values::MEMBER.to_owned(), values::to_json(&self.values));
        }
        file
    }

    /// The file, but for the values.
    fn events_json(&self) -> Value {
        match &self.recorded {
            Recorded::Embedded(recording) => {
                let about = self.about();
                let transitions = recording.transitions.iter();
                let bodies: Vec<String> = transitions
                    .map(|(_, transition)| BASE64.encode(transition.encode_to_vec()))
                    .collect();
                json!({ "format": FORMAT, "about": about, "transitions": bodies })
            }
            Recorded::Temporal(recording) => recording.to_json(),
        }
    }

    /// What it says of itself.
    #[must_use]
    pub fn about(&self) -> About {
        match &self.recorded {
            Recorded::Embedded(recording) => {
                let beginning = &recording.beginning;
                let last = recording.transitions.last();
                let ending = last.and_then(|(_, transition)| transition.events.last());
                About {
                    engine: "embedded",
                    namespace: Some(beginning.namespace.clone()),
                    workflow_id: beginning.event.workflow_id.clone(),
                    run_id: beginning.run_id(),
                    workflow_type: beginning.event.name.clone(),
                    version: beginning.version.clone(),
                    digest: Some(beginning.digest),
                    revision: beginning.stored().revision,
                    answer_revision: beginning.stored().answer_revision,
                    events: last.map_or(0, |(last, _)| *last),
                    ended: ending.is_some_and(|event| event.event_type().ends_run()),
                }
            }
            Recorded::Temporal(recording) => recording.about(),
        }
    }
}

fn check_count(events: usize) -> Result<(), HistoryError> {
    if events > MAX_EVENTS {
        return Err(HistoryError::TooLarge {
            what: format!("{events} events or more"),
            limit: MAX_EVENTS,
        });
    }
    Ok(())
}

fn embedded(value: Value) -> Result<RecordedHistory, HistoryError> {
    let envelope = Envelope::deserialize(value)
        .map_err(|error| HistoryError::NotAHistory(format!("its transitions: {error}")))?;
    check_count(envelope.transitions.len())?;
    let mut transitions = Vec::with_capacity(envelope.transitions.len());
    for (index, text) in envelope.transitions.into_iter().enumerate() {
        let damaged = |why: String| {
            HistoryError::Damaged(format!("transition {} cannot be read: {why}", index + 1))
        };
        let bytes = BASE64
            .decode(text)
            .map_err(|error| damaged(error.to_string()))?;
        let transition = Transition::decode(bytes.as_slice());
        transitions.push(transition.map_err(|error| damaged(error.to_string()))?);
    }
    RecordedHistory::of_transitions(transitions)
}
