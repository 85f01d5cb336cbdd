//! Continuing as new: the end of a run and the start of the next one, in one commit.
//!
//! Whether a history has grown long is looked at before each activation and recorded with
//! it, so that replay asks the driver the same. Where the driver then continues as new,
//! the transition that ends the run is written together with the first event of the next,
//! which has the same workflow id, input, pins, limits, memo, search attributes and
//! parent, and goes on by its own first activation. What waits in the inbox of the one is
//! given to the other; what is found on disk after a crash is either the one or the other.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::attributes::current;
use super::convert::Beginning;
use super::core::Core;
use super::events::{Event, EventType, StoredSignal, StoredStart};
use super::run::{Message, RunCell};
use super::signals::SIGNALS;
use super::state::RunState;
use super::step::Step;
use super::store::StoreError;
use super::updates::UPDATES;
use super::writer::{Append, StartRow};
use super::{lock, read};
use crate::driver::{HISTORY_BYTES, REVISION};
use crate::engine::{EngineError, RunRef};
use crate::expressions::ANSWER_REVISION;
use crate::payload::Digest;
use crate::search::{SearchChanges, SearchValue};

/// Bytes of the ids of ended updates that the next run knows.
const UPDATE_BYTES: usize = 1 << 20;

impl Step<'_> {
    /// Whether the history has grown so long that the run should continue as new. Nearly
    /// all signals or updates that a run may have count as well: the next one takes more.
    pub fn suggests_continuing(&self) -> bool {
        let state = &self.working.state;
        state.length >= self.cell.beginning.limits().history_events
            || state.bytes >= HISTORY_BYTES
            || state.signals.len() >= SIGNALS / 10 * 9
            || state.own_updates() >= UPDATES / 10 * 9
    }

    /// The run has just continued as new: its next run, which nobody knows yet. `None`
    /// where that was not so.
    pub fn next_run(&self) -> Option<(Arc<RunCell>, StartRow)> {
        let last = self.transition.events.last()?;
        if last.event_type() != EventType::WorkflowExecutionContinuedAsNew {
            return None;
        }
        let evaluator = self.core.expressions.digest();
        let first = continued(&self.cell.beginning, last, &self.working.state, evaluator);
        let beginning = Beginning::read(first.clone())?;
        let mut state = RunState::default();
        let transition = super::events::Transition {
            events: vec![first],
            ..Default::default()
        };
        state.apply_transition(&transition);
        let row = start_row(&beginning, &transition, &state);
        let cell = RunCell::new(beginning, state, None, true);
        Some((Arc::new(cell), row))
    }
}

/// The first event of the run that goes on where the other one ended by `last`. What the
/// process is, is new: the next run may be under a later revision.
fn continued(before: &Beginning, last: &Event, state: &RunState, evaluator: Digest) -> Event {
    let stored = before.stored();
    let waiting = state.waiting_signals.iter().map(|signal| StoredSignal {
        key: signal.key.clone(),
        id: signal.id.clone(),
        name: signal.name.clone(),
        time_us: signal.at.as_microsecond(),
        size: signal.size,
    });
    Event {
        time_us: last.time_us,
        run_id: last.run_id.clone(),
        start: Some(StoredStart {
            revision: REVISION,
            answer_revision: ANSWER_REVISION,
            evaluator: evaluator.as_bytes().to_vec(),
            pending: before.limits().of_next().pending,
            resume: last.payload.clone(),
            continued_from: before.run_id().as_bytes().to_vec(),
            first_run_id: before.first_run_id().as_bytes().to_vec(),
            waiting: waiting.collect(),
            updates: newest(&state.ended_updates),
            // As they are now, with what the run changed.
            search_attributes: current(&stored.search_attributes, &state.search_changes)
                .iter()
                .map(|(name, value)| (name.clone(), value.to_payload()))
                .collect(),
            ..stored.clone()
        }),
        ..before.event.clone()
    }
}

/// The newest ids that fit.
fn newest(ids: &[String]) -> Vec<String> {
    let mut bytes = 0;
    let fits = ids.iter().rev().take(UPDATES).take_while(|id| {
        bytes += id.len();
        bytes <= UPDATE_BYTES
    });
    ids[ids.len() - fits.count()..].to_vec()
}

fn start_row(
    beginning: &Beginning,
    transition: &super::events::Transition,
    state: &RunState,
) -> StartRow {
    use prost::Message as _;

    let mut references = Vec::new();
    for event in &transition.events {
        super::convert::references(event, &mut references);
    }
    let attributes = beginning.stored().search_attributes.iter();
    StartRow {
        run_id: beginning.run_id(),
        namespace: beginning.namespace.clone(),
        workflow_id: beginning.event.workflow_id.clone(),
        workflow_type: beginning.event.name.clone(),
        version: beginning.event.version.clone(),
        digest: beginning.digest,
        started_us: beginning.event.time_us,
        parent: beginning.parent().map(|(id, run_id, _)| (id, run_id)),
        idempotency: None,
        // Nothing is in its way: the run before it has ended with it.
        reuse: crate::engine::IdReusePolicy::AllowDuplicate,
        conflict: crate::engine::IdConflictPolicy::Fail,
        search_attributes: attributes
            .filter_map(|(name, value)| Some((name.clone(), SearchValue::from_payload(value)?)))
            .collect(),
        append: Append {
            run_id: beginning.run_id(),
            last_event: state.length,
            body: transition.encode_to_vec(),
            closed: None,
            references,
            next: None,
            search_changes: SearchChanges::new(),
        },
    }
}

/// The event by which a run continues as new, once its next run has an id.
pub fn named(core: &Core, event: Event, now: Timestamp) -> Event {
    if event.event_type() != EventType::WorkflowExecutionContinuedAsNew {
        return event;
    }
    let next = core.ids.next(now);
    Event {
        run_id: next.as_bytes().to_vec(),
        ..event
    }
}

/// The run goes on: `next` takes what came for the one before it, and what is left of its
/// inbox.
pub fn hand_over(core: &Arc<Core>, next: &Arc<RunCell>, left: impl IntoIterator<Item = Message>) {
    // First of all: nothing can be asked of a run that has not begun.
    core.post(next.run_id, Message::Activate);
    for message in left {
        match message {
            Message::Signal { .. }
            | Message::Update { .. }
            | Message::Query(_)
            | Message::Cancel { .. }
            | Message::Terminate { .. } => core.post(next.run_id, message),
            // It concerns what has ended with the run.
            _ => {}
        }
    }
    core.release(next, false);
}

/// A run that was not started after all leaves no trace.
pub fn forget(core: &Core, next: &Arc<RunCell>) {
    lock(&next.inbox).gone = true;
    core.remove(next);
    core.unpin(&next.beginning.pins());
}

/// What a run's last event says of the next: its id, where it continued as new.
pub async fn next(core: &Core, run_id: Uuid) -> Result<Option<Uuid>, StoreError> {
    let last = core.store.last_transition(run_id).await?;
    let last = last.and_then(|(_, mut last)| last.events.pop());
    Ok(last
        .filter(|event| event.event_type() == EventType::WorkflowExecutionContinuedAsNew)
        .and_then(|event| event.run_uuid()))
}

/// What a run was started with.
pub async fn beginning(core: &Core, run_id: Uuid) -> Result<Option<Beginning>, StoreError> {
    let first = core.store.transitions(run_id, 0, 1).await?;
    let event = first.into_iter().flat_map(|(_, one)| one.events).next();
    Ok(event.and_then(Beginning::read))
}

/// The last run of the chain that goes on where this run ended; itself where none does.
pub async fn last_of_chain(core: &Core, run_id: Uuid) -> Result<Uuid, StoreError> {
    let Some(mut last) = next(core, run_id).await? else {
        return Ok(run_id);
    };
    // Most often it is the workflow's latest run, and the chain may be long.
    if let Some(first) = beginning(core, last).await? {
        let latest = core
            .store
            .latest(&first.namespace, &first.event.workflow_id)
            .await?;
        if let Some(latest) = latest
            && let Some(found) = beginning(core, latest).await?
            && found.first_run_id() == first.first_run_id()
        {
            last = latest;
        }
    }
    while let Some(next) = next(core, last).await? {
        last = next;
    }
    Ok(last)
}

/// Hands a message to the run that a reference names; where that is a workflow's latest
/// run, to the one that is it when it takes the message. Answers with the run, and gives
/// the message back where it is not open.
pub async fn send(
    core: &Arc<Core>,
    run: &RunRef,
    mut message: Message,
) -> Result<(Uuid, Result<(), Message>), EngineError> {
    let mut run_id = read::run_id(core, run).await?;
    loop {
        match core.send(run_id, message).await? {
            Ok(()) => return Ok((run_id, Ok(()))),
            Err(back) => message = back,
        }
        let now = read::run_id(core, run).await?;
        if now == run_id {
            return Ok((run_id, Err(message)));
        }
        run_id = now;
    }
}

impl Core {
    /// Hands a message to an open run, or to the one that goes on where it ended.
    pub fn post_to_chain(self: &Arc<Self>, run_id: Uuid, message: Message) {
        let Err(mut message) = self.deliver(run_id, message) else {
            return;
        };
        let core = Arc::clone(self);
        self.runtime.spawn(async move {
            let mut run_id = run_id;
            loop {
                match core.deliver(run_id, message) {
                    Ok(()) => return,
                    Err(back) => message = back,
                }
                let found = match core.load(run_id).await {
                    Ok(Some(_)) => continue,
                    Ok(None) => last_of_chain(&core, run_id).await,
                    Err(error) => Err(error),
                };
                match found {
                    Ok(last) if last != run_id => run_id = last,
                    Ok(_) => return,
                    Err(error) => {
                        tracing::error!(%run_id, %error, "a run cannot be read; trying again");
                        tokio::select! {
                            () = core.clock.sleep_until(core.after(Duration::from_secs(1))) => {}
                            () = core.dead.cancelled() => return,
                        }
                    }
                }
            }
        });
    }
}
