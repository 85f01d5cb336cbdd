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
use super::continuing;
use super::convert::updated;
use super::core::Core;
use super::events::{Event, EventType};
use super::run::{Answer, Message};
use super::state::RunState;
use super::step::Step;
use super::{lock, read};
use crate::clock::within;
use crate::engine::{EngineError, RunRef, UpdateStatus};
use crate::failure::{Failure, kind};
use crate::payload::Payload;
use crate::signal::Signal;

/// Updates that one run takes in all; Temporal's limit.
pub const UPDATES: usize = 2_000;

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
    let update_id = update.id.clone();
    let first = read::run_id(core, run).await?;
    let watching = core.updates.watch(first, &update_id);
    let (answer, answered) = oneshot::channel();
    let message = Message::Update {
        update: Box::new(update),
        answer: Some(answer),
    };
    let (run_id, sent) = continuing::send(core, run, message).await?;
    let watching = if run_id == first {
        watching
    } else {
        core.updates.watch(run_id, &update_id)
    };
    let closed = || EngineError::Closed {
        workflow_id: run.workflow_id.clone(),
        run_id,
    };
    let reply = match sent {
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
            let known = find(core, run_id, &update_id, run.run_id.is_none()).await?;
            return known.map_or_else(
                || Err(closed()),
                |(run_id, outcome)| {
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
    let named = read::run_id(core, run).await?;
    let Some((run_id, _)) = find(core, named, update_id, run.run_id.is_none()).await? else {
        return Err(EngineError::NoSuchUpdate {
            workflow_id: run.workflow_id.clone(),
            run_id: named,
            update_id: update_id.chars().take(200).collect(),
        });
    };
    let watching = core.updates.watch(run_id, update_id);
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
    let mut run_id = run_id;
    let mut outcome = told(&watching);
    // The run may have gone on as a new one while the update was on its way, or have been
    // started by one that ended it.
    if outcome.is_none()
        && let Some((found, known)) = find(core, run_id, &update_id, true).await?
    {
        if found != run_id {
            run_id = found;
            watching = core.updates.watch(run_id, &update_id);
        }
        outcome = known;
        if outcome.is_none() {
            outcome = told(&watching);
        }
    }
    if outcome.is_none() && !wait.is_zero() {
        tokio::select! {
            // Over or not is what is looked at next.
            _ = within(core.clock.as_ref(), wait, watching.wait_for(Option::is_some)) => {}
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

/// What the histories of a run, and of those before and after it that it continues or that
/// continue it, say of an update: which of them accepted it, and how it ended there.
async fn find(
    core: &Core,
    run_id: Uuid,
    update_id: &str,
    in_chain: bool,
) -> Result<Option<(Uuid, Option<Outcome>)>, EngineError> {
    if let Some(outcome) = recorded(core, run_id, update_id).await? {
        return Ok(Some((run_id, outcome)));
    }
    let mut after = run_id;
    while in_chain && let Some(next) = continuing::next(core, after).await? {
        if let Some(outcome) = recorded(core, next, update_id).await? {
            return Ok(Some((next, outcome)));
        }
        after = next;
    }
    let mut before = run_id;
    while in_chain
        && let Some(beginning) = continuing::beginning(core, before).await?
        && beginning.stored().updates.iter().any(|id| id == update_id)
        && let Some(earlier) = beginning.continued_from()
    {
        if let Some(outcome) = recorded(core, earlier, update_id).await? {
            return Ok(Some((earlier, outcome)));
        }
        before = earlier;
    }
    Ok(None)
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

/// Refuses one more update, where the run has had as many as it takes.
fn has_room(state: &RunState) -> Result<(), EngineError> {
    if state.own_updates() >= UPDATES {
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
    Ok(())
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
        has_room(state)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that knows so many updates of the runs that it continues, and has had so many of its
    /// own that ended, and so many that have not.
    fn after(carried: usize, ended: usize, under_way: usize) -> RunState {
        let done = carried + ended;
        let updates = (0..done + under_way).map(|n| (n.to_string(), n < done));
        RunState {
            updates: updates.collect(),
            carried_updates: carried,
            ..RunState::default()
        }
    }

    #[test]
    fn a_run_takes_so_many_updates_in_all_and_so_many_at_once() {
        for (carried, ended, under_way) in
            [(0, 0, 0), (0, 1_999, 0), (2_000, 1_999, 0), (0, 1_990, 9)]
        {
            has_room(&after(carried, ended, under_way)).unwrap();
        }
        let refused = |carried, ended, under_way| {
            let state = after(carried, ended, under_way);
            has_room(&state).unwrap_err().to_string()
        };
        for all in [
            refused(0, 2_000, 0),
            refused(0, 1_990, 10),
            refused(7, 2_000, 0),
        ] {
            assert!(all.contains("has had 2000 updates"), "{all}");
        }
        let at_once = refused(0, 0, 10);
        assert!(at_once.contains("10 updates of the run"), "{at_once}");
    }
}
