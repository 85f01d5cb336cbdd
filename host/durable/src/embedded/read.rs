//! What is read of runs: results, descriptions, histories and receipts. All of it is
//! what was committed, except progress, which is nowhere else than in memory.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::continuing::{last_of_chain, next};
use super::convert::Beginning;
use super::core::Core;
use super::events::{Event, EventType, Transition, digest};
use super::lock;
use super::state::Stage;
use super::store::{StoreError, unreadable};
use super::view;
use crate::activity::{AttemptReceipt, Receipt};
use crate::engine::{
    EngineError, ExecutionStatus, HistoryPage, PendingActivity, PendingSignal, PendingState,
    RunDescription, RunInfo, RunRef, RunResult,
};
use crate::failure::{Failure, kind};
use crate::replay::{MAX_EVENTS, RecordedHistory};

/// Transitions that are read at once of a history that is wanted whole.
const RECORDED_PAGE: i64 = 500;

/// How a run ended, by its last event.
pub fn result_of(run_id: Uuid, status: ExecutionStatus, last: &Event) -> RunResult {
    let said = |default: &str| {
        if last.reason.is_empty() {
            default.to_owned()
        } else {
            last.reason.clone()
        }
    };
    let outcome = match status {
        ExecutionStatus::Completed => Ok(last.payload()),
        ExecutionStatus::Canceled => Err(Failure::permanent(
            kind::CANCELLED,
            said("the run was cancelled"),
        )),
        ExecutionStatus::Terminated => Err(Failure::permanent(
            kind::TERMINATED,
            said("the run was terminated"),
        )),
        // Whoever waits goes on to the next run.
        ExecutionStatus::ContinuedAsNew => Err(Failure::permanent(
            kind::INTERNAL,
            "the run continued as a new one",
        )),
        ExecutionStatus::Failed | ExecutionStatus::TimedOut | ExecutionStatus::Running => {
            Err(last.failure())
        }
    };
    RunResult {
        run_id,
        status,
        outcome,
    }
}

/// How a run ended, or the last of those that went on where it ended; `None` while that is
/// open, or where there is none.
pub async fn result(core: &Core, run_id: Uuid) -> Result<Option<RunResult>, StoreError> {
    let mut run_id = run_id;
    loop {
        match own_result(core, run_id).await? {
            Some(result) if result.status == ExecutionStatus::ContinuedAsNew => {
                run_id = last_of_chain(core, run_id).await?;
            }
            result => return Ok(result),
        }
    }
}

/// How a run itself ended; `None` while it is open, or where there is none.
async fn own_result(core: &Core, run_id: Uuid) -> Result<Option<RunResult>, StoreError> {
    let Some((_, last)) = core.store.last_transition(run_id).await? else {
        return Ok(None);
    };
    Ok(last.events.last().and_then(|event| {
        let status = match event.event_type() {
            EventType::WorkflowExecutionCompleted => ExecutionStatus::Completed,
            EventType::WorkflowExecutionFailed => ExecutionStatus::Failed,
            EventType::WorkflowExecutionCanceled => ExecutionStatus::Canceled,
            EventType::WorkflowExecutionTerminated => ExecutionStatus::Terminated,
            EventType::WorkflowExecutionContinuedAsNew => ExecutionStatus::ContinuedAsNew,
            _ => return None,
        };
        Some(result_of(run_id, status, event))
    }))
}

/// The run that a reference names.
pub async fn find(core: &Core, run: &RunRef) -> Result<RunInfo, EngineError> {
    let not_found = || EngineError::NotFound {
        namespace: run.namespace.clone(),
        workflow_id: run.workflow_id.clone(),
        run_id: run.run_id,
    };
    let run_id = match run.run_id {
        Some(run_id) => run_id,
        None => core
            .store
            .latest(&run.namespace, &run.workflow_id)
            .await
            .map_err(unreadable)?
            .ok_or_else(not_found)?,
    };
    let info = core.store.run(run_id).await.map_err(unreadable)?;
    info.filter(|info| info.namespace == run.namespace && info.workflow_id == run.workflow_id)
        .ok_or_else(not_found)
}

/// The id of the run that a reference names; without reading, where it is in memory.
pub async fn run_id(core: &Core, run: &RunRef) -> Result<Uuid, EngineError> {
    if let Some(run_id) = run.run_id
        && let Some(cell) = lock(&core.runs).get(&run_id)
        && cell.beginning.namespace == run.namespace
        && cell.beginning.event.workflow_id == run.workflow_id
    {
        return Ok(run_id);
    }
    Ok(find(core, run).await?.run_id)
}

/// Waits for a run's end, or that of the last one that goes on where it ended.
pub async fn wait_for_result(
    core: &Core,
    run: &RunRef,
    wait: Duration,
) -> Result<Option<RunResult>, EngineError> {
    let mut over = core.clock.sleep(wait);
    let mut run_id = run_id(core, run).await?;
    loop {
        match wait_for_own_result(core, run_id, &mut over).await? {
            Some(result) if result.status == ExecutionStatus::ContinuedAsNew => {
                run_id = last_of_chain(core, run_id).await?;
            }
            result => return Ok(result),
        }
    }
}

/// Waits for the end of a run itself, until the time is over; then it is `None`.
async fn wait_for_own_result(
    core: &Core,
    run_id: Uuid,
    over: impl Future<Output = ()>,
) -> Result<Option<RunResult>, EngineError> {
    // Before the look: an end between the two is not missed.
    let mut seen = core.ends.watch(run_id);
    // A run in memory is open, and whoever watches it is told its end: nothing is read.
    let in_memory = lock(&core.runs).contains_key(&run_id);
    if !in_memory && let Some(result) = own_result(core, run_id).await? {
        return Ok(Some(result));
    }
    if !seen.until(over, |seen| seen.result.is_some()).await {
        return Ok(None);
    }
    match seen.result() {
        Some(result) => Ok(Some(result)),
        None => Ok(own_result(core, run_id).await?),
    }
}

/// A page of a history.
pub async fn history(
    core: &Core,
    run: &RunRef,
    after: u64,
    limit: usize,
    wait: Duration,
) -> Result<HistoryPage, EngineError> {
    let run_id = run_id(core, run).await?;
    let mut seen = core.watchers.watch(run_id);
    let mut page = read_page(core, run_id, after, limit).await?;
    if page.events.is_empty() && !page.complete && !wait.is_zero() {
        let over = core.clock.sleep(wait);
        seen.until(over, |seen| seen.length > after || seen.result.is_some())
            .await;
        page = read_page(core, run_id, after, limit).await?;
    }
    Ok(page)
}

/// All that is recorded of a run.
pub async fn recorded(core: &Core, run: &RunRef) -> Result<RecordedHistory, EngineError> {
    let run_id = run_id(core, run).await?;
    let mut transitions = Vec::new();
    let mut after = 0;
    loop {
        let page = core.store.transitions(run_id, after, RECORDED_PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        transitions.extend(page.into_iter().map(|(_, transition)| transition));
        if after > MAX_EVENTS as u64 {
            break;
        }
    }
    Ok(RecordedHistory::of_transitions(transitions)?)
}

async fn read_page(
    core: &Core,
    run_id: Uuid,
    after: u64,
    limit: usize,
) -> Result<HistoryPage, EngineError> {
    let limit = limit.clamp(1, 10_000);
    let rows = i64::try_from(limit).unwrap_or(i64::MAX);
    let transitions = core.store.transitions(run_id, after, rows).await?;
    let mut events: Vec<_> = transitions.iter().flat_map(numbered).collect();
    events.retain(|(id, _)| *id > after);
    let more = events.len() > limit;
    events.truncate(limit);
    let ended = match events.last() {
        Some((_, event)) => !more && event.event_type().ends_run(),
        // Of one row, so that an end that comes just now is not taken for one that was
        // already shown.
        None => core
            .store
            .last_transition(run_id)
            .await?
            .is_some_and(|(id, last)| id <= after && ends_run(&last)),
    };
    Ok(HistoryPage {
        run_id,
        events: events
            .into_iter()
            .map(|(id, event)| view::history_event(id, event))
            .collect(),
        complete: ended,
    })
}

fn ends_run(transition: &Transition) -> bool {
    let last = transition.events.last();
    last.is_some_and(|event| event.event_type().ends_run())
}

fn numbered((last, transition): &(u64, Transition)) -> impl Iterator<Item = (u64, &Event)> {
    let first = (last + 1).saturating_sub(transition.events.len() as u64);
    (first..).zip(&transition.events)
}

/// A run in detail.
pub async fn describe(core: &Core, run: &RunRef) -> Result<RunDescription, EngineError> {
    let info = find(core, run).await?;
    let Some((beginning, state)) = core.fold(info.run_id).await? else {
        return Err(EngineError::Internal(format!(
            "run {} has no first event",
            info.run_id
        )));
    };
    let cell = lock(&core.runs).get(&info.run_id).map(Arc::clone);
    let now = core.clock.now();
    let open = state.is_open();
    let pending = state.activities.iter().filter(|_| open);
    let pending_activities = pending.map(|(id, activity)| {
        let (stage, started_at, next_attempt_at) = match activity.stage {
            Stage::Started(at) if activity.cancel_requested => {
                (PendingState::CancelRequested, Some(at), None)
            }
            Stage::Started(at) => (PendingState::Started, Some(at), None),
            Stage::BackingOff(due) if due > now => (PendingState::BackingOff, None, Some(due)),
            Stage::BackingOff(_) | Stage::Queued(_) => (PendingState::Scheduled, None, None),
        };
        let progress = cell.as_ref().and_then(|cell| {
            let running = lock(&cell.running);
            let said = running
                .get(id)
                .filter(|one| one.attempt == activity.attempt)?;
            lock(&said.said.progress).clone()
        });
        PendingActivity {
            activity_id: id.clone(),
            activity_type: activity.scheduled.name.clone(),
            queue: activity.scheduled.queue.clone(),
            task: activity.scheduled.task.clone(),
            state: stage,
            attempt: activity.attempt,
            scheduled_at: activity.scheduled.time(),
            started_at,
            next_attempt_at,
            last_failure: activity.last_failure.clone(),
            progress,
        }
    });
    let pending_activities = pending_activities.collect();
    let timers = state.timers.iter().filter(|_| open).map(|(id, timer)| {
        let due = super::events::timestamp(timer.due_us);
        (id.clone(), timer.task.clone(), due)
    });
    let children = state
        .children
        .values()
        .filter(|child| open && !child.initiated.detached);
    let continued_as = match info.status {
        ExecutionStatus::ContinuedAsNew => next(core, info.run_id).await?,
        _ => None,
    };
    // Few wait: more are refused.
    let signals = state.waiting_signals.iter().filter(|_| open);
    let pending_signals: Vec<PendingSignal> = signals
        .map(|signal| PendingSignal {
            name: signal.name.clone(),
            id: signal.id.clone(),
            received_at: signal.at,
        })
        .collect();
    Ok(RunDescription {
        task_queue: beginning.task_queue().to_owned(),
        continued_from: beginning.continued_from(),
        continued_as,
        first_run_id: beginning.first_run_id(),
        memo: beginning.stored().memo.clone(),
        search_attributes: super::attributes::current(
            &beginning.stored().search_attributes,
            &state.search_changes,
        ),
        pinned: pinned(&beginning),
        pending_activities,
        pending_timers: timers.collect(),
        pending_children: children
            .filter_map(|child| Some((child.initiated.workflow_id.clone(), child.run_id?)))
            .collect(),
        pending_listens: state
            .listening
            .iter()
            .filter(|_| open)
            .map(|listening| listening.clone().into())
            .collect(),
        pending_signal_count: pending_signals.len() as u64,
        pending_signals,
        info,
    })
}

fn pinned(
    beginning: &Beginning,
) -> std::collections::BTreeMap<String, Option<crate::payload::Digest>> {
    let pins = beginning.stored().pinned.iter();
    pins.map(|(name, pin)| (name.clone(), digest(&pin.digest)))
        .collect()
}

/// Receipts of all attempts of a run that have ended, in the order of their ends. An
/// attempt that a run's own end cut off has no end in the history: its receipt says
/// `lost`, as of that end.
pub async fn receipts(core: &Core, run_id: Uuid) -> Result<Vec<AttemptReceipt>, StoreError> {
    let transitions = core.store.transitions(run_id, 0, i64::MAX).await?;
    let mut beginning = None;
    let mut scheduled = std::collections::HashMap::new();
    let mut started = std::collections::HashMap::new();
    let mut receipts = Vec::new();
    for event in transitions.into_iter().flat_map(|(_, one)| one.events) {
        match event.event_type() {
            EventType::WorkflowExecutionStarted => beginning = Beginning::read(event),
            EventType::ActivityTaskScheduled => {
                scheduled.insert(event.id.clone(), event);
            }
            EventType::ActivityTaskStarted => {
                started.insert((event.id.clone(), event.attempt), event.time());
            }
            ends if ends.ends_attempt() => {
                let (Some(beginning), Some(scheduled), Some(started_at)) = (
                    &beginning,
                    scheduled.get(&event.id),
                    // An attempt that waited in vain for its slot has used nothing.
                    started.remove(&(event.id.clone(), event.attempt)),
                ) else {
                    continue;
                };
                receipts.push(receipt_of(beginning, scheduled, started_at, &event));
            }
            ends if ends.ends_run() => {
                let Some(beginning) = &beginning else {
                    continue;
                };
                for ((id, attempt), started_at) in started.drain() {
                    let Some(scheduled) = scheduled.get(&id) else {
                        continue;
                    };
                    let failure = Failure::transient(kind::WORKER_LOST, "the run has ended");
                    let ended = Event {
                        attempt,
                        failure: Some(failure.into()),
                        receipt: [("lost".to_owned(), 1)].into(),
                        ..Event::new(EventType::ActivityTaskFailed, event.time(), id)
                    };
                    receipts.push(receipt_of(beginning, scheduled, started_at, &ended));
                }
            }
            _ => {}
        }
    }
    Ok(receipts)
}

/// The receipt of an attempt that ended with this event.
pub fn receipt_of(
    beginning: &Beginning,
    scheduled: &Event,
    started_at: Timestamp,
    ended: &Event,
) -> AttemptReceipt {
    AttemptReceipt {
        namespace: beginning.namespace.clone(),
        workflow_id: beginning.event.workflow_id.clone(),
        run_id: beginning.run_id(),
        activity_id: ended.id.clone(),
        activity_type: scheduled.name.clone(),
        plugin_digest: digest(&scheduled.digest),
        queue: scheduled.queue.clone(),
        attempt: ended.attempt,
        started_at,
        ended_at: ended.time(),
        outcome: match &ended.failure {
            None => "completed".to_owned(),
            Some(_) => ended.failure().kind,
        },
        receipt: Receipt {
            counters: ended.receipt.clone(),
        },
    }
}
