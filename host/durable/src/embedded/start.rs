//! Starting a run: its first event, its first activation, and one commit for both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng as _;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::convert::{Beginning, started};
use super::core::Core;
use super::effects::Effects;
use super::events::{Event, StoredStart, later};
use super::lock;
use super::phases::Phase;
use super::run::{Message, RunCell};
use super::state::RunState;
use super::step::{Step, refused};
use super::store::unreadable;
use super::writer::{StartRow, Write, WriteKind, Written};
use crate::definition::{GENERAL_QUEUE, PinnedDefinition};
use crate::driver::{REVISION, RunStart};
use crate::engine::{
    EngineError, IdConflictPolicy, IdReusePolicy, StartWorkflow, Started, admit_input,
};
use crate::expressions::ANSWER_REVISION;
use crate::payload::Payload;
use crate::search::{SearchAttributes, fit};
use crate::signal::Signal;

/// How long an idempotency key answers.
const KEY_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A run to start, by a client or by a parent.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// The namespace.
    pub namespace: String,
    /// The workflow id.
    pub workflow_id: String,
    /// What to execute.
    pub definition: PinnedDefinition,
    /// The queue of its own tasks.
    pub task_queue: String,
    /// The input, by reference where it is large.
    pub input: Payload,
    /// As the caller said.
    pub reuse: IdReusePolicy,
    /// As the caller said.
    pub conflict: IdConflictPolicy,
    /// The caller's key.
    pub idempotency_key: Option<String>,
    /// Values shown with the run.
    pub memo: BTreeMap<String, Payload>,
    /// Values by which lists find it.
    pub search_attributes: SearchAttributes,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// Workflow id, run id and child id.
    pub parent: Option<(String, Uuid, String)>,
    /// Whether the parent does not wait for it, and what happens to it when that ends.
    pub detached: bool,
    /// In stored form.
    pub parent_close: i32,
    /// How deep it is nested.
    pub depth: u32,
    /// A signal for it.
    pub signal: Option<Signal>,
}

/// A client's start: checked, and its large input stored.
pub async fn request(core: &Arc<Core>, request: StartWorkflow) -> Result<Started, EngineError> {
    if core.is_draining() {
        return Err(EngineError::ShuttingDown);
    }
    request.check()?;
    if let Some(key) = &request.idempotency_key {
        // A request that is made again costs neither an activation nor a slot; the writer
        // looks once more, for one that is made twice at the same time.
        let now = core.clock.now().as_microsecond();
        let earlier = core.store.keyed_run(&request.namespace, key, now).await;
        if let Some(run_id) = earlier.map_err(unreadable)? {
            return Ok(Started {
                run_id,
                created: false,
            });
        }
    }
    if let Some(failure) = core.writer.failure() {
        return Err(failure);
    }
    let search_attributes = if request.search_attributes.is_empty() {
        SearchAttributes::new()
    } else {
        // The writer looks once more, for a name that another start makes meanwhile.
        let types = core.store.search_types(&request.namespace).await;
        let types = types.map_err(unreadable)?;
        fit(&request.search_attributes, |name| types.get(name).copied())?
    };
    let limit = core.options.limits.data_bytes;
    let input = admit_input(core.payloads.as_ref(), request.input, limit).await?;
    let new = NewRun {
        namespace: request.namespace,
        workflow_id: request.workflow_id,
        definition: request.definition,
        task_queue: request
            .task_queue
            .unwrap_or_else(|| GENERAL_QUEUE.to_owned()),
        input,
        reuse: request.id_reuse_policy,
        conflict: request.id_conflict_policy,
        idempotency_key: request.idempotency_key,
        memo: request.memo,
        search_attributes,
        traceparent: request.traceparent,
        parent: None,
        detached: false,
        parent_close: 0,
        depth: 0,
        signal: request.signal,
    };
    start(core, new).await
}

/// Starts a run, terminating an open one where the start says so.
pub async fn start(core: &Arc<Core>, new: NewRun) -> Result<Started, EngineError> {
    // Somebody else may start the same id each time; then they win.
    for _ in 0..5 {
        let (answer, answered) = oneshot::channel();
        let job_core = Arc::clone(core);
        let job_new = new.clone();
        core.pool
            .push(Box::new(move || begin(&job_core, job_new, answer)));
        let written = answered.await.map_err(|_| EngineError::ShuttingDown)??;
        match written {
            Outcome::Created(run_id) => {
                return Ok(Started {
                    run_id,
                    created: true,
                });
            }
            Outcome::Existing(run_id) => {
                if let Some(signal) = &new.signal
                    && !super::signals::deliver(core, run_id, signal).await?
                {
                    // It ended meanwhile.
                    continue;
                }
                return Ok(Started {
                    run_id,
                    created: false,
                });
            }
            Outcome::TerminateFirst(run_id) => {
                let (answer, answered) = oneshot::channel();
                let message = Message::Terminate {
                    reason: "a new run of the same workflow id was started".to_owned(),
                    answer: Some(answer),
                };
                if core.send(run_id, message).await?.is_ok() {
                    match answered.await {
                        Ok(Ok(()) | Err(EngineError::Closed { .. })) => {}
                        Ok(Err(error)) => return Err(error),
                        Err(_) => return Err(EngineError::ShuttingDown),
                    }
                }
            }
        }
    }
    Err(EngineError::Internal(format!(
        "other starts of workflow {:?} came first, five times",
        new.workflow_id
    )))
}

enum Outcome {
    Created(Uuid),
    Existing(Uuid),
    TerminateFirst(Uuid),
}

/// Makes a run's first transition. On an activation thread.
fn begin(core: &Arc<Core>, new: NewRun, answer: oneshot::Sender<Result<Outcome, EngineError>>) {
    let begun = Instant::now();
    let now = core.clock.now();
    let now = super::events::timestamp(now.as_microsecond());
    let run_id = core.ids.next(now);
    let parent = new.parent.clone();
    let stored = StoredStart {
        evaluator: core.expressions.digest().as_bytes().to_vec(),
        memo: new.memo,
        search_attributes: new
            .search_attributes
            .iter()
            .map(|(name, value)| (name.clone(), value.to_payload()))
            .collect(),
        traceparent: new.traceparent,
        parent_run_id: parent
            .as_ref()
            .map(|parent| parent.1.as_bytes().to_vec())
            .unwrap_or_default(),
        parent_workflow_id: parent
            .as_ref()
            .map(|parent| parent.0.clone())
            .unwrap_or_default(),
        child_id: parent
            .as_ref()
            .map(|parent| parent.2.clone())
            .unwrap_or_default(),
        detached: new.detached,
        parent_close: new.parent_close,
        ..StoredStart::default()
    };
    let start = RunStart {
        namespace: new.namespace.clone(),
        workflow_id: new.workflow_id.clone(),
        run_id,
        started_at: now,
        definition: new.definition.clone(),
        input: new.input,
        depth: new.depth,
        seed: rand::rng().random(),
        limits: core.options.limits,
        revision: REVISION,
        answer_revision: ANSWER_REVISION,
        resume: None,
        detached_ends: false,
    };
    let first = Event {
        queue: new.task_queue,
        ..started(&start, stored)
    };
    let Some(beginning) = Beginning::read(first.clone()) else {
        let _ = answer.send(Err(EngineError::Internal(
            "the first event cannot be read back".to_owned(),
        )));
        return;
    };
    let cell = Arc::new(RunCell::new(beginning, RunState::default(), None, true));
    let (append, effects) = {
        let mut guard = lock(&cell.working);
        let mut step = Step::new(core, &cell, &mut guard);
        step.now = now;
        step.record(first);
        if let Some(signal) = new.signal {
            step.signaled(signal, None);
        }
        let span = step.span.clone();
        span.in_scope(|| super::activation::first(&mut step, start));
        step.finish()
    };
    // Whoever learns the id from the database must find the run here.
    lock(&core.runs).insert(run_id, Arc::clone(&cell));
    core.pin(&cell.beginning.pins());
    let row = StartRow {
        run_id,
        namespace: new.namespace,
        workflow_id: new.workflow_id,
        workflow_type: new.definition.workflow_type,
        version: new.definition.version.to_string(),
        digest: new.definition.digest,
        started_us: now.as_microsecond(),
        parent: parent.map(|parent| (parent.0, parent.1)),
        idempotency: new
            .idempotency_key
            .map(|key| (key, later(now, KEY_KEPT).as_microsecond())),
        reuse: new.reuse,
        conflict: new.conflict,
        search_attributes: new.search_attributes,
        append,
    };
    core.phases.spent(Phase::Activation, begun.elapsed());
    submit(core, cell, row, effects, answer);
}

fn submit(
    core: &Arc<Core>,
    cell: Arc<RunCell>,
    row: StartRow,
    effects: Effects,
    answer: oneshot::Sender<Result<Outcome, EngineError>>,
) {
    let then = Arc::clone(core);
    let queued = Instant::now();
    core.writer.submit_here(Write {
        kind: WriteKind::Start(Box::new(row)),
        done: Box::new(move |result| {
            let core = then;
            let outcome = refused(result).map(|written| match written {
                Written::Done | Written::More => Outcome::Created(cell.run_id),
                Written::Existing(run_id) => Outcome::Existing(run_id),
                Written::TerminateFirst(run_id) => Outcome::TerminateFirst(run_id),
            });
            if matches!(outcome, Ok(Outcome::Created(_))) {
                effects.follow_commit(&core, &cell, queued);
            } else {
                forget(&core, &cell, effects);
            }
            // Somebody who no longer waits needs no answer.
            let _ = answer.send(outcome);
        }),
    });
}

/// A run that was not started leaves no trace.
fn forget(core: &Arc<Core>, cell: &Arc<RunCell>, effects: Effects) {
    lock(&cell.inbox).gone = true;
    core.remove(cell);
    core.unpin(&cell.beginning.pins());
    core.cache.forget(cell);
    // Its slots go to others.
    drop(effects);
}
