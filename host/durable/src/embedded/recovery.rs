//! Going on after a restart: every open run from its history.
//!
//! Runs are read one after the other. What only waits for timers and ended children
//! leaves no more than its timers in memory; the others stay: attempts that had started
//! are `worker-lost`, attempts that waited are queued again in their order, backoffs are
//! set again, children that may not have been started are started again, signals that may
//! not have reached other runs are sent again, and children that ended meanwhile are told.

use std::sync::Arc;

use uuid::Uuid;

use super::convert::Beginning;
use super::core::Core;
use super::dispatch::Waiting;
use super::events::{Event, later, timestamp};
use super::lock;
use super::options::OpenError;
use super::run::{Ended, Message, RunCell};
use super::state::{RunState, Stage};
use super::timers::Target;
use super::writer::{Write, WriteKind};
use crate::activity::{AttemptOutcome, Receipt};
use crate::definition::ParentClosePolicy;
use crate::engine::ExecutionStatus;
use crate::failure::{Failure, kind};

/// Runs are read by so many ids at a time.
const PAGE: i64 = 500;

/// What is to be done once all runs are read.
#[derive(Default)]
struct Plan {
    messages: Vec<(Uuid, Message)>,
    queued: Vec<(jiff::Timestamp, String, Waiting)>,
    children: Vec<(Arc<RunCell>, Event)>,
    ended_children: Vec<(Uuid, String)>,
    signals: Vec<(Arc<RunCell>, Event)>,
    attributes: Vec<(Arc<RunCell>, Event)>,
}

/// Reads every open run and lets it go on.
pub async fn recover(core: &Arc<Core>) -> Result<(), OpenError> {
    let mut plan = Plan::default();
    let mut after = Uuid::nil();
    let mut count = 0_u64;
    loop {
        let page = core.store.open_runs(after, PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        for (run_id, held) in page {
            let run = core
                .fold(run_id)
                .await
                .map_err(|error| OpenError::History(error.to_string()))?;
            match run {
                Some((beginning, state)) => {
                    recover_run(core, &mut plan, beginning, state, held.is_some()).await?;
                }
                None => {
                    tracing::error!(%run_id, "an open run has no first event; it is left alone")
                }
            }
            count += 1;
        }
    }
    tracing::info!(
        open_runs = count,
        queued_attempts = plan.queued.len(),
        "the history was recovered"
    );
    plan.queued.sort_by_key(|(since, _, _)| *since);
    for (since, queue, waiting) in plan.queued {
        core.queues.enqueue(&queue, waiting, since);
    }
    for (run_id, message) in plan.messages {
        // A child may have continued as a new run since its parent learnt of it.
        core.post_to_chain(run_id, message);
    }
    for (cell, initiated) in plan.children {
        super::children::start(core, &cell, initiated);
    }
    for (cell, initiated) in plan.signals {
        super::signals::send(core, &cell, initiated);
    }
    for (cell, initiated) in plan.attributes {
        super::attributes::set(core, &cell, initiated);
    }
    for (parent, child_id) in plan.ended_children {
        super::children::recover(core, parent, &child_id).await;
    }
    Ok(())
}

async fn recover_run(
    core: &Arc<Core>,
    plan: &mut Plan,
    beginning: Beginning,
    state: RunState,
    held: bool,
) -> Result<(), OpenError> {
    let run_id = beginning.run_id();
    core.pin(&beginning.pins());
    for (id, timer) in &state.timers {
        core.timers
            .set(Target::Timer(run_id, id.clone()), timestamp(timer.due_us));
    }
    if held {
        // This process may be able to replay it.
        core.writer.submit(Write {
            kind: WriteKind::Hold {
                run_id,
                reason: None,
            },
            done: Box::new(|_| ()),
        });
    }
    for (id, child) in &state.children {
        if let Some(child_run) = child.run_id {
            plan.ended_children.push((run_id, id.clone()));
            if child.cancel_requested {
                plan.messages.push((
                    child_run,
                    Message::Cancel {
                        reason: "the parent asked for it".to_owned(),
                        answer: None,
                    },
                ));
            }
        }
    }
    let policy = beginning.parent_close();
    let asked = policy == ParentClosePolicy::RequestCancel && state.cancel_requested;
    if let Some((_, parent, _)) = beginning.parent()
        && let Some(message) = super::children::parent_ended(policy)
        && !asked
    {
        let parent = core.store.run(parent).await?;
        if parent.is_none_or(|parent| parent.status != ExecutionStatus::Running) {
            plan.messages.push((run_id, message));
        }
    }
    if state.is_evictable() && !held {
        return Ok(());
    }
    let cell = Arc::new(RunCell::new(beginning, state.clone(), None, false));
    lock(&core.runs).insert(run_id, Arc::clone(&cell));
    for child in state.children.values() {
        if child.run_id.is_none() {
            plan.children
                .push((Arc::clone(&cell), child.initiated.clone()));
        }
    }
    for initiated in state.externals.values() {
        plan.signals.push((Arc::clone(&cell), initiated.clone()));
    }
    for initiated in state.setting.values() {
        plan.attributes.push((Arc::clone(&cell), initiated.clone()));
    }
    for (id, activity) in &state.activities {
        let attempt = activity.attempt;
        if let Some(timeout) = activity.timeouts().schedule_to_close {
            core.timers.set(
                Target::ScheduleToClose(run_id, id.clone()),
                later(activity.scheduled.time(), timeout),
            );
        }
        match activity.stage {
            Stage::Started(_) => {
                let heartbeat = core.store.heartbeat(run_id, id, attempt).await?;
                let mut receipt = Receipt::default();
                receipt.add("lost", 1);
                let failure = Failure::transient(
                    kind::WORKER_LOST,
                    "the process that ran the attempt went away",
                );
                let ended = Ended {
                    activity_id: id.clone(),
                    attempt,
                    outcome: AttemptOutcome {
                        result: Err(failure),
                        receipt,
                    },
                    heartbeat,
                    timed_out: false,
                };
                plan.messages
                    .push((run_id, Message::Ended(Box::new(ended))));
            }
            Stage::BackingOff(_) | Stage::Queued(_) if activity.cancel_requested => {
                plan.messages.push((
                    run_id,
                    Message::GiveUp {
                        activity_id: id.clone(),
                        failure: None,
                    },
                ));
            }
            Stage::BackingOff(due) => core.timers.set(Target::Backoff(run_id, id.clone()), due),
            Stage::Queued(since) => {
                let queue = activity.scheduled.queue.clone();
                if !core.queues.has(&queue) {
                    let failure = Failure::permanent(
                        kind::UNKNOWN_QUEUE,
                        format!(
                            "there is no queue {queue:?} any more; there are {}",
                            core.queues.names()
                        ),
                    );
                    plan.messages.push((
                        run_id,
                        Message::GiveUp {
                            activity_id: id.clone(),
                            failure: Some(failure),
                        },
                    ));
                    continue;
                }
                if let Some(timeout) = activity.timeouts().schedule_to_start {
                    core.timers.set(
                        Target::ScheduleToStart(run_id, id.clone()),
                        later(since, timeout),
                    );
                }
                let waiting = Waiting {
                    run_id,
                    activity_id: id.clone(),
                    attempt,
                };
                plan.queued.push((since, queue, waiting));
            }
        }
    }
    if state.wants_activation() || held {
        plan.messages.push((run_id, Message::Activate));
    }
    Ok(())
}
