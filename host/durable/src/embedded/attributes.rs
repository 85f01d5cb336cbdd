//! Search attributes that a run sets while it runs.
//!
//! A name has one type in a namespace, so what is set is first fitted to the types that
//! there are, and new names are written with their types, before the run is told. The
//! values are written with the transition that records them. After a crash all of it is
//! done again: it changes nothing then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::core::Core;
use super::events::{Event, EventType};
use super::run::{Message, RunCell};
use super::step::Step;
use super::store::unreadable;
use super::writer::{Write, WriteKind};
use crate::engine::EngineError;
use crate::failure::{Failure, kind};
use crate::payload::Payload;
use crate::search::{
    GivenChanges, SearchChanges, SearchValue, change_payloads, fit, new_types, taken_away,
};

/// What a command sets, as its event has it.
pub fn given(changes: &GivenChanges) -> Payload {
    // Names and JSON values can be written.
    Payload::json(&serde_json::to_value(changes).unwrap_or_default())
}

/// What an event that records changes has.
pub fn changes(event: &Event) -> SearchChanges {
    let changes = event.search_attributes.iter();
    changes
        .map(|(name, value)| (name.clone(), SearchValue::from_payload(value)))
        .collect()
}

/// Fits what a run sets, and tells it.
pub fn set(core: &Arc<Core>, cell: &Arc<RunCell>, initiated: Event) {
    let core = Arc::clone(core);
    let cell = Arc::clone(cell);
    let runtime = core.runtime.clone();
    runtime.spawn(async move {
        let namespace = &cell.beginning.namespace;
        let outcome = loop {
            match fitted(&core, namespace, &initiated).await {
                Ok(changes) => break Ok(changes),
                Err(EngineError::Invalid(message)) => {
                    break Err(Failure::permanent(kind::INVALID_INPUT, message));
                }
                Err(EngineError::ShuttingDown) => return,
                Err(error) => {
                    tracing::warn!(run_id = %cell.run_id, %error, "search attributes cannot be set; trying again");
                }
            }
            tokio::select! {
                () = core.clock.sleep_until(core.after(Duration::from_secs(1))) => {}
                () = core.dead.cancelled() => return,
            }
        };
        let message = Message::SearchAttributesSet {
            change_id: initiated.id,
            outcome,
        };
        core.post(cell.run_id, message);
    });
}

async fn fitted(
    core: &Core,
    namespace: &str,
    initiated: &Event,
) -> Result<SearchChanges, EngineError> {
    let given: GivenChanges = initiated
        .payload()
        .to_json()
        .ok()
        .and_then(|given| serde_json::from_value(given).ok())
        .ok_or_else(|| EngineError::Invalid("the search attributes cannot be read".to_owned()))?;
    let types = core.store.search_types(namespace).await;
    let types = types.map_err(unreadable)?;
    let (mut changes, set) = taken_away(&given, |name| types.contains_key(name));
    let fitted = fit(&set, |name| types.get(name).copied())?;
    let new = new_types(&fitted, &types);
    if !new.is_empty() {
        let (answer, answered) = oneshot::channel();
        core.writer.submit(Write {
            kind: WriteKind::SearchTypes {
                namespace: namespace.to_owned(),
                types: new,
            },
            done: Box::new(move |result| {
                // An engine that has gone asks no more.
                let _ = answer.send(result);
            }),
        });
        let written = answered.await.map_err(|_| EngineError::ShuttingDown)?;
        written.map_err(super::writer::WriteError::into_engine)?;
    }
    changes.extend(fitted.into_iter().map(|(name, value)| (name, Some(value))));
    Ok(changes)
}

impl Step<'_> {
    /// Search attributes can be set, or cannot.
    pub fn search_attributes_set(
        &mut self,
        change_id: &str,
        outcome: Result<SearchChanges, Failure>,
    ) {
        if !self.working.state.setting.contains_key(change_id) {
            return;
        }
        let event = match outcome {
            Ok(changes) => Event {
                search_attributes: change_payloads(&changes),
                ..self.event(EventType::UpsertWorkflowSearchAttributes, change_id)
            },
            Err(failure) => Event {
                failure: Some(failure.into()),
                ..self.event(EventType::UpsertWorkflowSearchAttributesFailed, change_id)
            },
        };
        self.record(event);
    }

    /// All that this transition sets.
    pub fn search_changes(&self) -> SearchChanges {
        let events = self.transition.events.iter();
        events.flat_map(changes).collect()
    }
}

/// The attributes that a run has: those of its start, and what it changed.
pub fn current(
    started: &BTreeMap<String, Payload>,
    changed: &SearchChanges,
) -> BTreeMap<String, SearchValue> {
    let started = started.iter();
    let mut current: BTreeMap<_, _> = started
        .filter_map(|(name, value)| Some((name.clone(), SearchValue::from_payload(value)?)))
        .collect();
    for (name, value) in changed {
        match value {
            Some(value) => current.insert(name.clone(), value.clone()),
            None => current.remove(name),
        };
    }
    current
}
