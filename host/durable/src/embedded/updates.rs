//! Updates that come to a run.
//!
//! An update begins a transition of its own: the driver says of what is committed whether
//! a task takes it. One that is rejected leaves no trace; one that is accepted is
//! recorded, and the task takes it in the same transition. Whoever waits for its end is
//! told when that is committed; who asks later is answered from the history.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::activation;
use super::convert::updated;
use super::core::Core;
use super::events::{Event, EventType};
use super::run::{Answer, Message};
use super::step::Step;
use super::{lock, read};
use crate::engine::{EngineError, RunRef, UpdateStatus};
use crate::failure::{Failure, kind};
use crate::payload::Payload;
use crate::signal::Signal;

/// Updates that one run takes in all; Temporal's limit.
const UPDATES: usize = 2_000;

/// Updates of a run that may be under way; Temporal's limit.
const UNDER_WAY: usize = 10;

/// How an update ended.
pub type Outcome = Result<Payload, Failure>;

type Told = watch::Sender<Option<Outcome>>;

/// Who waits for the end of an update.
#[derive(Default)]
pub struct Watchers(Mutex<HashMap<(Uuid, String), Told>>);

impl Watchers {
    fn watch(&self, run_id: Uuid, update_id: &str) -> watch::Receiver<Option<Outcome>> {
        let mut watchers = lock(&self.0);
        watchers.retain(|_, told| told.receiver_count() > 0);
        watchers
            .entry((run_id, update_id.to_owned()))
            .or_insert_with(|| watch::channel(None).0)
            .subscribe()
    }

    /// Tells those who wait.
    pub fn tell(&self, run_id: Uuid, update_id: String, outcome: Outcome) {
        if let Some(told) = lock(&self.0).remove(&(run_id, update_id)) {
            told.send_replace(Some(outcome));
        }
    }
}

/// Offers a run an update, and waits up to `wait` for its end.
pub async fn request(
    core: &Arc<Core>,
    run: &RunRef,
    update: Signal,
    wait: Duration,
) -> Result<UpdateStatus, EngineError> {
    update.check()?;
    core.admit()?;
    let run_id = read::run_id(core, run).await?;
    let update_id = update.id.clone();
    let watching = core.updates.watch(run_id, &update_id);
    let (answer, answered) = oneshot::channel();
    let message = Message::Update {
        update: Box::new(update),
        answer: Some(answer),
    };
    let closed = || EngineError::Closed {
        workflow_id: run.workflow_id.clone(),
        run_id,
    };
    let reply = match core.send(run_id, message).await? {
        Ok(()) => answered.await.unwrap_or_else(|_| Err(closed())),
        Err(_) => Err(closed()),
    };
    match reply {
        Ok(()) => {}
        Err(EngineError::Closed { .. }) if core.is_draining() => {
            return Err(EngineError::ShuttingDown);
        }
        // It may have been done before the end.
        Err(EngineError::Closed { .. }) => {
            let known = recorded(core, run_id, &update_id).await?;
            return known.map_or_else(
                || Err(closed()),
                |outcome| {
                    Ok(UpdateStatus {
                        run_id,
                        update_id,
                        outcome,
                    })
                },
            );
        }
        Err(error) => return Err(error),
    }
    end(core, run_id, update_id, watching, wait).await
}

/// How an update that a run accepted stands; waits up to `wait` for its end.
pub async fn result(
    core: &Arc<Core>,
    run: &RunRef,
    update_id: &str,
    wait: Duration,
) -> Result<UpdateStatus, EngineError> {
    let run_id = read::run_id(core, run).await?;
    let watching = core.updates.watch(run_id, update_id);
    if recorded(core, run_id, update_id).await?.is_none() {
        return Err(EngineError::NoSuchUpdate {
            workflow_id: run.workflow_id.clone(),
            run_id,
            update_id: update_id.chars().take(200).collect(),
        });
    }
    end(core, run_id, update_id.to_owned(), watching, wait).await
}

/// Waits for the end of an update that was accepted.
async fn end(
    core: &Core,
    run_id: Uuid,
    update_id: String,
    mut watching: watch::Receiver<Option<Outcome>>,
    wait: Duration,
) -> Result<UpdateStatus, EngineError> {
    let told = |watching: &watch::Receiver<Option<Outcome>>| watching.borrow().clone();
    let mut outcome = told(&watching);
    if outcome.is_none() {
        outcome = recorded(core, run_id, &update_id).await?.flatten();
    }
    if outcome.is_none() && !wait.is_zero() {
        tokio::select! {
            // Over or not is what is looked at next.
            _ = tokio::time::timeout(wait, watching.wait_for(Option::is_some)) => {}
            () = core.dead.cancelled() => return Err(EngineError::ShuttingDown),
        }
        outcome = told(&watching);
    }
    Ok(UpdateStatus {
        run_id,
        update_id,
        outcome,
    })
}

/// What the history says of an update: nothing, that it was accepted, or how it ended.
async fn recorded(
    core: &Core,
    run_id: Uuid,
    update_id: &str,
) -> Result<Option<Option<Outcome>>, EngineError> {
    let mut found = None;
    let transitions = core.store.transitions(run_id, 0, i64::MAX).await?;
    for event in transitions.iter().flat_map(|(_, one)| &one.events) {
        match event.event_type() {
            EventType::WorkflowExecutionUpdateAccepted if event.id == update_id => {
                found = Some(None);
            }
            EventType::WorkflowExecutionUpdateCompleted if event.id == update_id => {
                return Ok(Some(Some(outcome_of(event))));
            }
            kind if kind.ends_run() && found.is_some() => found = Some(Some(Err(unfinished()))),
            _ => {}
        }
    }
    Ok(found)
}

/// How an update ended, as the event says that records it.
fn outcome_of(event: &Event) -> Outcome {
    match &event.failure {
        None => Ok(event.payload()),
        Some(_) => Err(event.failure()),
    }
}

/// The failure of an update whose run has ended without completing it.
pub fn unfinished() -> Failure {
    Failure::permanent(
        kind::UPDATE_UNFINISHED,
        "the run ended before it completed the update",
    )
}

impl Step<'_> {
    /// An update came.
    pub fn update(&mut self, update: Signal, answer: Option<Answer>) {
        let refused = match self.offer(&update) {
            Ok(true) => {
                let event = updated(update, self.now);
                self.record(event);
                None
            }
            // It was there before.
            Ok(false) => None,
            Err(error) => Some(error),
        };
        match (refused, answer) {
            (None, answer) => self.effects.answers.extend(answer),
            // Somebody who no longer waits needs no answer.
            (Some(error), Some(answer)) => drop(answer.send(Err(error))),
            (Some(_), None) => {}
        }
    }

    /// Whether it is to be recorded: a task takes it, and it was not there before.
    fn offer(&mut self, update: &Signal) -> Result<bool, EngineError> {
        let state = &self.working.state;
        if state.updates.contains_key(&update.id) {
            return Ok(false);
        }
        if state.updates.len() >= UPDATES {
            return Err(EngineError::LimitReached(format!(
                "the run has had {UPDATES} updates, and takes no more; start another one"
            )));
        }
        let under_way = state.updates.values().filter(|completed| !**completed);
        if under_way.count() >= UNDER_WAY {
            return Err(EngineError::LimitReached(format!(
                "{UNDER_WAY} updates of the run are under way; ask again when one has ended"
            )));
        }
        let valid = activation::with_driver(self, |driver| driver.validate(update))?;
        valid.map(|()| true).map_err(EngineError::UpdateRejected)
    }

    /// What of the transition's events after these ends updates.
    pub fn tell_updates(&mut self, from: usize) {
        let events = self.transition.events.iter().skip(from);
        let ended = events
            .filter(|event| event.event_type() == EventType::WorkflowExecutionUpdateCompleted)
            .map(|event| (event.id.clone(), outcome_of(event)));
        self.effects.updates.extend(ended);
    }

    /// What the end of the run leaves unfinished.
    pub fn end_updates(&mut self) {
        let open = self.working.state.updates.iter();
        let open = open.filter(|(_, completed)| !**completed);
        let told = open.map(|(id, _)| (id.clone(), Err(unfinished())));
        self.effects.updates.extend(told);
    }
}
