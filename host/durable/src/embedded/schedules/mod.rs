//! Schedules of the embedded engine.
//!
//! All of them are in memory, each a [`row`] that is also in `history.db`. At a schedule's
//! next time, when one of its runs ends, and when somebody changes it, it is
//! [looked at](look): times that have come become starts that wait, [`overlap`] says what
//! becomes of those, runs are started the way that every start goes, and what the row has
//! become is written.
//!
//! A crash in between loses nothing and starts nothing twice: the row on disk is the one
//! before, so the same starts are made again, and each finds its run. That of a time that
//! came is found by its workflow id, which has the time in it; that of a time that somebody
//! asked for, who may ask for it again, by an idempotency key.

mod overlap;
mod requests;
mod row;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use uuid::Uuid;

use self::row::{Action, Row, Waiting};
use super::core::Core;
use super::options::OpenError;
use super::run::Message;
use super::start::{self, NewRun};
use super::timers::Target;
use super::writer::{Write, WriteKind};
use super::{lock, read};
use crate::definition::{GENERAL_QUEUE, WorkflowReference};
use crate::engine::{
    EngineError, ExecutionStatus, IdConflictPolicy, IdReusePolicy, RunRef, Started,
};
use crate::failure::{Failure, kind};
use crate::schedule::{ScheduleRef, Times};

/// Until a schedule that could not be written, or whose run could not be started, is looked
/// at again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the end of a run is waited for, before it is waited for again.
const LONG: Duration = Duration::from_secs(60 * 60);

/// The schedules.
#[derive(Default)]
pub struct Schedules {
    by_name: Mutex<BTreeMap<ScheduleRef, Arc<Kept>>>,
    /// Held while one is made.
    making: tokio::sync::Mutex<()>,
}

impl Schedules {
    fn find(&self, schedule: &ScheduleRef) -> Option<Arc<Kept>> {
        lock(&self.by_name).get(schedule).map(Arc::clone)
    }
}

/// One schedule. Whoever changes it holds it, also over the writing.
struct Kept(tokio::sync::Mutex<Option<State>>);

/// A schedule that has not been deleted.
struct State {
    row: Row,
    /// None where this process cannot compute them: the time zone is not there any more.
    times: Option<Times>,
}

/// Reads all schedules, and lets them go on.
pub async fn recover(core: &Arc<Core>) -> Result<(), OpenError> {
    for (name, body) in core.store.schedules().await? {
        let row: Row = serde_json::from_slice(&body).map_err(|error| {
            OpenError::History(format!(
                "schedule {:?} is damaged: {error}",
                name.schedule_id
            ))
        })?;
        for (workflow_id, run_id) in &row.running {
            follow(core, &name, workflow_id, *run_id);
        }
        keep(core, name.clone(), row);
        look(core, name);
    }
    Ok(())
}

/// Takes a schedule into memory.
fn keep(core: &Core, name: ScheduleRef, row: Row) {
    let times = Times::new(&name, &row.schedule.spec);
    let times = times.inspect_err(|error| {
        tracing::error!(schedule = name.schedule_id, %error, "a schedule has no times any more");
    });
    let state = State {
        row,
        times: times.ok(),
    };
    let kept = Arc::new(Kept(tokio::sync::Mutex::new(Some(state))));
    lock(&core.schedules.by_name).insert(name, kept);
}

/// Looks at a schedule: see the module.
pub fn look(core: &Arc<Core>, name: ScheduleRef) {
    let core = Arc::clone(core);
    let runtime = core.runtime.clone();
    runtime.spawn(async move {
        tokio::select! {
            () = core.dead.cancelled() => {}
            () = look_now(&core, &name) => {}
        }
    });
}

async fn look_now(core: &Arc<Core>, name: &ScheduleRef) {
    let Some(kept) = core.schedules.find(name) else {
        return;
    };
    let mut state = kept.0.lock().await;
    let Some(state) = state.as_mut() else {
        return;
    };
    if core.is_draining() {
        // The row says it to the next start.
        return;
    }
    let mut row = state.row.clone();
    let mut next = state
        .times
        .as_ref()
        .and_then(|times| row.look(times, core.clock.now()));
    let done = advance(core, name, &mut row).await;
    let written = if row == state.row {
        Ok(())
    } else {
        write(core, name, Some(&row)).await
    };
    match written {
        Ok(()) => state.row = row,
        Err(EngineError::ShuttingDown) => return,
        Err(_) => next = Some(core.after(AGAIN)),
    }
    if done.is_err() {
        next = Some(core.after(AGAIN));
    }
    match next {
        Some(at) => core.timers.set(Target::Schedule(name.clone()), at),
        None => core.timers.cancel(&Target::Schedule(name.clone())),
    }
}

/// A start cannot be made now, or it cannot be said whether a run is open.
struct NotNow;

/// Does with the starts that wait what the policies say.
async fn advance(core: &Arc<Core>, name: &ScheduleRef, row: &mut Row) -> Result<(), NotNow> {
    for (_, run_id) in row.running.clone() {
        match read::result(core, run_id).await {
            Ok(Some(result)) => row.ended(run_id, result.status),
            // Removed with other old runs, long after its end.
            Ok(None) if matches!(core.store.run(run_id).await, Ok(None)) => {
                row.ended(run_id, ExecutionStatus::Completed);
            }
            Ok(None) => {}
            Err(_) => return Err(NotNow),
        }
    }
    loop {
        let waiting = std::mem::take(&mut row.waiting);
        let policy = row.schedule.policies.overlap;
        let plan = overlap::plan(waiting, !row.running.is_empty(), policy);
        row.overlap_skipped += plan.skipped;
        if plan.cancel || plan.terminate {
            for (_, run_id) in &row.running {
                core.post_to_chain(*run_id, end_of(plan.terminate));
            }
        }
        row.waiting = plan.rest;
        let mut starts = plan.beside.into_iter().chain(plan.next);
        while let Some(start) = starts.next() {
            if !row.may_start(start.is_manual()) {
                continue;
            }
            if begin(core, name, row, &start).await.is_err() {
                // In their order, before those that wait for an end.
                let left: Vec<_> = [start].into_iter().chain(starts).collect();
                row.waiting.splice(..0, left);
                return Err(NotNow);
            }
        }
        // Where the one that was to start did not, nobody else's end brings the next.
        if row.waiting.is_empty() || !row.running.is_empty() {
            return Ok(());
        }
    }
}

/// What an open run is told that is in the way of the next one.
fn end_of(terminate: bool) -> Message {
    let reason = "the schedule starts its next run".to_owned();
    if terminate {
        Message::Terminate {
            reason,
            answer: None,
        }
    } else {
        Message::Cancel {
            reason,
            answer: None,
        }
    }
}

/// Starts a run. One that can never be started is logged and left out.
async fn begin(
    core: &Arc<Core>,
    name: &ScheduleRef,
    row: &mut Row,
    waiting: &Waiting,
) -> Result<(), NotNow> {
    let workflow_id = row.schedule.action.workflow_id_at(waiting.nominal);
    let run_id = match try_begin(core, name, row, waiting, workflow_id.clone()).await {
        Ok(started) => started.run_id,
        // Before a crash, or by somebody else; either way the time has its run.
        Err(EngineError::AlreadyExists { run_id, .. }) => {
            let known = row.recent.iter().any(|action| action.run_id == run_id);
            if known || waiting.is_manual() {
                return Ok(());
            }
            run_id
        }
        Err(EngineError::Invalid(message)) => {
            tracing::warn!(
                schedule = name.schedule_id,
                workflow_id,
                message,
                "a scheduled run cannot be started"
            );
            row.pause_on_failure(&format!("no run can be started: {message}"));
            return Ok(());
        }
        Err(error) => {
            tracing::warn!(
                schedule = name.schedule_id, workflow_id, %error,
                "a scheduled run cannot be started now; trying again"
            );
            return Err(NotNow);
        }
    };
    let open = row.running.len();
    row.started(
        waiting,
        Action {
            schedule_time: waiting.nominal,
            actual_time: core.clock.now(),
            workflow_id: workflow_id.clone(),
            run_id,
            status: ExecutionStatus::Running,
        },
    );
    if row.running.len() > open {
        follow(core, name, &workflow_id, run_id);
    }
    Ok(())
}

async fn try_begin(
    core: &Arc<Core>,
    name: &ScheduleRef,
    row: &Row,
    waiting: &Waiting,
    workflow_id: String,
) -> Result<Started, EngineError> {
    let action = &row.schedule.action;
    let reference = WorkflowReference {
        workflow_type: action.workflow_type.clone(),
        version: action.version.clone(),
    };
    let definition = core.definitions.pin(&name.namespace, &reference).await;
    let new = NewRun {
        namespace: name.namespace.clone(),
        workflow_id,
        definition: definition.map_err(unpinnable)?,
        task_queue: action
            .task_queue
            .clone()
            .unwrap_or_else(|| GENERAL_QUEUE.to_owned()),
        input: action.input.clone(),
        reuse: if waiting.is_manual() {
            IdReusePolicy::AllowDuplicate
        } else {
            IdReusePolicy::RejectDuplicate
        },
        conflict: IdConflictPolicy::Fail,
        idempotency_key: waiting
            .request
            .map(|request| format!("schedule {request} {}", waiting.nominal)),
        memo: BTreeMap::new(),
        search_attributes: BTreeMap::new(),
        traceparent: None,
        parent: None,
        detached: false,
        parent_close: 0,
        depth: 0,
        signal: None,
    };
    start::start(core, new).await
}

fn unpinnable(failure: Failure) -> EngineError {
    if failure.retryable {
        EngineError::unavailable(failure.message, None)
    } else if failure.kind == kind::INTERNAL {
        EngineError::Internal(failure.message)
    } else {
        EngineError::Invalid(failure.message)
    }
}

/// Looks at the schedule when that run has ended.
fn follow(core: &Arc<Core>, name: &ScheduleRef, workflow_id: &str, run_id: Uuid) {
    let run = RunRef {
        namespace: name.namespace.clone(),
        workflow_id: workflow_id.to_owned(),
        run_id: Some(run_id),
    };
    let (core, name) = (Arc::clone(core), name.clone());
    let (runtime, dead) = (core.runtime.clone(), core.dead.clone());
    let following = async move {
        while let Ok(None) = read::wait_for_result(&core, &run, LONG).await {}
        look_now(&core, &name).await;
    };
    runtime.spawn(async move {
        tokio::select! {
            () = dead.cancelled() => {}
            () = following => {}
        }
    });
}

/// Writes a schedule as it is now, or that there is none any more.
async fn write(core: &Core, name: &ScheduleRef, row: Option<&Row>) -> Result<(), EngineError> {
    let body = row.map(serde_json::to_vec).transpose();
    let body = body.map_err(|error| EngineError::Internal(error.to_string()))?;
    let (answer, answered) = oneshot::channel();
    core.writer.submit(Write {
        kind: WriteKind::Schedule {
            schedule: name.clone(),
            body,
        },
        done: Box::new(move |result| {
            // Somebody who no longer waits needs no answer.
            let _ = answer.send(result.map_err(super::writer::WriteError::into_engine));
        }),
    });
    let written = answered.await.map_err(|_| EngineError::ShuttingDown)?;
    written.map(|_| ())
}
