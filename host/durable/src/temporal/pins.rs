//! What a run records first: the definition, plugin versions, limits and seed that it
//! keeps to its end.
//!
//! Our own API pins a run when it starts it and sends the pins in a header. A run that
//! came without (a schedule's, a foreign client's or parent's, a child) asks for them in
//! its first step, a local activity whose answer stays in the history. Either way the
//! definition and the plugin versions stand in a search attribute and a memo, so that
//! lists can show and count them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::convert::{from_json_payload, json_payload};
use super::sdk;
use crate::definition::{PinnedActivity, PinnedDefinition};
use crate::driver::{REVISION, RunLimits, SIGNALS_APART};
use crate::expressions::ANSWER_REVISION;
use crate::flow::Flow;
use crate::payload::{Digest, Payload};
use crate::signal::Signal;

/// The header of a run: a [`RunHeader`].
pub const RUN_HEADER: &str = "heyday-run";
/// The header of a run that goes on where another one ended: what that one carried, as a
/// driver reads it.
pub const RESUME_HEADER: &str = "heyday-resume";
/// The header of such a run with the signals for which the one before it had no room.
pub const WAITING_HEADER: &str = "heyday-waiting";
/// The header of a signal: a [`SignalHeader`].
pub const SIGNAL_HEADER: &str = "heyday-signal";
/// The header of an activity: an [`ActivityHeader`].
pub const ACTIVITY_HEADER: &str = "heyday-activity";
/// The type of the local activity that answers [`Pins`] to a [`PinRequest`].
pub const PIN_ACTIVITY: &str = "heyday.pin";
/// The memo that holds the last event that a flow emitted to nobody in particular; the
/// history has each.
pub const EMITTED_MEMO: &str = "heyday-emitted";
/// The memo that holds a [`RunMemo`].
pub const MEMO: &str = "heyday";
/// The search attribute (a list of keywords) with the digests of the definition and the
/// plugin versions that a run is pinned to.
pub const DIGESTS: &str = "HeydayDigests";

/// What whoever starts a run may say of it beside its type and input.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunHeader {
    /// How deep the run is nested; 0 for one without a parent.
    pub depth: u32,
    /// Whether it is a child whose end its parent does not wait for. What happens to it
    /// when the parent ends, Temporal's own policy says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
    /// The version that is wanted; the active one where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<semver::Version>,
    /// W3C trace context of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What it is pinned to, where its starter has asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pins: Option<Pins>,
    /// A signal that came with the start, where Temporal's own way to send both does not
    /// take the start's policies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<StartSignal>,
}

/// What a signal of ours says beside its name and data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SignalHeader {
    /// The event's id.
    pub id: String,
    /// Further context attributes.
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

impl SignalHeader {
    /// The header of that signal.
    pub fn of(signal: &Signal) -> Self {
        Self {
            id: signal.id.clone(),
            attributes: signal.attributes.clone(),
        }
    }
}

/// What the header of a signal or an update says, where it has one that can be read.
pub fn signal_header(headers: &HashMap<String, sdk::Payload>) -> Option<SignalHeader> {
    from_json_payload(headers.get(SIGNAL_HEADER)?).ok()
}

/// Names the signals of a run that came without our header: each is one of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unnamed {
    /// The run, where it goes on where another one ended: numbers of events come again
    /// there, and the driver knows the ids of the earlier runs' signals.
    run_id: Option<String>,
}

impl Unnamed {
    /// Those of a run with these headers, which its first event names so; it keeps that name
    /// where it is reset.
    pub fn of(headers: &HashMap<String, sdk::Payload>, original_run_id: &str) -> Self {
        let header = || from_json_payload::<RunHeader>(headers.get(RUN_HEADER)?).ok();
        let apart = headers.contains_key(RESUME_HEADER)
            && header()
                .and_then(|header| header.pins)
                .is_some_and(|pins| pins.revision >= SIGNALS_APART);
        Self {
            run_id: apart.then(|| original_run_id.to_owned()),
        }
    }

    /// The header of the signal that this event records.
    pub fn header(&self, event_id: i64) -> SignalHeader {
        let id = match &self.run_id {
            Some(run_id) => format!("{run_id}-event-{event_id}"),
            None => format!("event-{event_id}"),
        };
        SignalHeader {
            id,
            ..SignalHeader::default()
        }
    }
}

/// A signal, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartSignal {
    /// Its name.
    pub name: String,
    /// What it says beside.
    pub header: SignalHeader,
    /// Its data.
    pub data: serde_json::Value,
}

impl From<StartSignal> for Signal {
    fn from(sent: StartSignal) -> Self {
        Self {
            name: sent.name,
            id: sent.header.id,
            attributes: sent.header.attributes,
            data: Payload::json(&sent.data),
        }
    }
}

/// What an activity of ours says beside its type and input.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActivityHeader {
    /// The plugin version; absent for a built-in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Its version, for display.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<semver::Version>,
    /// The task that calls it, as JSON pointer; for display.
    pub task: String,
    /// W3C trace context of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// What [`PIN_ACTIVITY`] is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PinRequest {
    /// The workflow type.
    pub workflow_type: String,
    /// A version; the active one where absent.
    pub version: Option<semver::Version>,
}

/// What lists show of a run beside what Temporal knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunMemo {
    /// The definition's version.
    pub version: semver::Version,
    /// The definition's digest.
    pub digest: Digest,
    /// Which of several requests with one idempotency key started the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<uuid::Uuid>,
    /// The digest of that key: a run that goes on as another one is found by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Digest>,
}

/// What a run is pinned to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pins {
    /// The definition's version.
    pub version: semver::Version,
    /// The definition's digest.
    pub digest: Digest,
    /// The activities, by the name under which the flow calls them.
    pub activities: BTreeMap<String, PinnedActivity>,
    /// Seed of the run's random numbers.
    pub seed: u64,
    /// Its limits.
    pub limits: RunLimits,
    /// The driver's revision.
    pub revision: u32,
    /// The expressions' answer revision.
    pub answer_revision: u32,
    /// The evaluator's digest, for information.
    pub evaluator: Digest,
}

impl Pins {
    /// Pins of a new run.
    pub fn new(
        definition: &PinnedDefinition,
        limits: RunLimits,
        evaluator: Digest,
        seed: u64,
    ) -> Self {
        Self {
            version: definition.version.clone(),
            digest: definition.digest,
            activities: (*definition.activities).clone(),
            seed,
            limits,
            revision: REVISION,
            answer_revision: ANSWER_REVISION,
            evaluator,
        }
    }

    /// Those of the run that goes on where this one ends: what the process is, is new.
    pub fn next(&self, evaluator: Digest) -> Self {
        Self {
            limits: self.limits.of_next(),
            revision: REVISION,
            answer_revision: ANSWER_REVISION,
            evaluator,
            ..self.clone()
        }
    }

    /// The definition that a driver is made of.
    pub fn definition(&self, workflow_type: &str, flow: Arc<Flow>) -> PinnedDefinition {
        PinnedDefinition {
            workflow_type: workflow_type.to_owned(),
            version: self.version.clone(),
            digest: self.digest,
            flow,
            activities: Arc::new(self.activities.clone()),
        }
    }

    /// The search attribute.
    pub fn search_attributes(&self) -> sdk::SearchAttributes {
        let plugins = self.activities.values().filter_map(|pin| pin.digest);
        let mut digests: Vec<Digest> = plugins.chain([self.digest]).collect();
        digests.sort_unstable();
        digests.dedup();
        let mut list = json_payload(&digests);
        list.metadata
            .insert("type".to_owned(), b"KeywordList".to_vec());
        sdk::SearchAttributes {
            indexed_fields: [(DIGESTS.to_owned(), list)].into(),
        }
    }

    /// The memo.
    pub fn memo(&self, request: Option<(uuid::Uuid, Digest)>) -> sdk::Payload {
        json_payload(&RunMemo {
            version: self.version.clone(),
            digest: self.digest,
            request: request.map(|(request, _)| request),
            key: request.map(|(_, key)| key),
        })
    }
}
