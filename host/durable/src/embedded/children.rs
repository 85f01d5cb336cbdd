//! Children: starting them, and telling parents of their ends.
//!
//! Parent and child are in one database, but each has transitions of its own. What a
//! crash may leave between two of them is found at recovery: a child that was initiated
//! is started again (its workflow id names the parent, so that the same one answers),
//! and one that has ended is told again.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::activation;
use super::convert::{Beginning, child_reference};
use super::core::Core;
use super::events::{Event, EventType};
use super::run::{Message, RunCell};
use super::start::NewRun;
use super::step::Step;
use super::timers::Target;
use crate::definition::ParentClosePolicy;
use crate::engine::{EngineError, ExecutionStatus, IdConflictPolicy, IdReusePolicy, RunResult};
use crate::failure::{Failure, kind};
use crate::payload::{Payload, referred};

/// What a child is told when its parent has ended.
pub fn parent_ended(policy: ParentClosePolicy) -> Option<Message> {
    let reason = || "the parent has ended".to_owned();
    match policy {
        ParentClosePolicy::Abandon => None,
        ParentClosePolicy::RequestCancel => Some(Message::Cancel {
            reason: reason(),
            answer: None,
        }),
        ParentClosePolicy::Terminate => Some(Message::Terminate {
            reason: reason(),
            answer: None,
        }),
    }
}

/// Starts a child that was initiated, and tells its parent.
pub fn start(core: &Arc<Core>, parent: &Arc<RunCell>, initiated: Event) {
    let core = Arc::clone(core);
    let parent = Arc::clone(parent);
    let runtime = core.runtime.clone();
    runtime.spawn(async move {
        match try_start(&core, &parent.beginning, &initiated).await {
            Ok(outcome) => {
                let run_id = outcome.as_ref().ok().copied();
                let policy = initiated.close_policy();
                let told = core
                    .send(
                        parent.run_id,
                        Message::ChildStarted {
                            child_id: initiated.id,
                            outcome,
                        },
                    )
                    .await;
                if let (Ok(Err(_)), Some(run_id), Some(message)) =
                    (told, run_id, parent_ended(policy))
                {
                    core.post_to_chain(run_id, message);
                }
                if let Some(run_id) = run_id {
                    told_already(&core, run_id).await;
                }
            }
            // The next start of the server finds that it was not started.
            Err(_) if core.is_draining() => {}
            Err(message) => {
                tracing::warn!(run_id = %parent.run_id, message, "a child cannot be started; trying again");
                core.timers.set(
                    Target::StartChild(parent.run_id, initiated.id),
                    core.after(Duration::from_secs(1)),
                );
            }
        }
    });
}

/// A child that ended before its parent knew its run is told now.
async fn told_already(core: &Arc<Core>, run_id: uuid::Uuid) {
    if let Ok(Some(result)) = super::read::result(core, run_id).await
        && let Ok(Some((beginning, _))) = core.fold(run_id).await
    {
        tell_parent(core, &beginning, &result);
    }
}

/// Tries again to start a child.
pub async fn start_again(core: &Arc<Core>, run_id: uuid::Uuid, child_id: &str) {
    let Ok(Some(cell)) = core.load(run_id).await else {
        return;
    };
    let initiated = {
        let Ok(Some((_, state))) = core.fold(run_id).await else {
            core.timers.set(
                Target::StartChild(run_id, child_id.to_owned()),
                core.after(Duration::from_secs(1)),
            );
            return;
        };
        state
            .children
            .get(child_id)
            .filter(|child| child.run_id.is_none())
            .map(|child| child.initiated.clone())
    };
    if let Some(initiated) = initiated {
        start(core, &cell, initiated);
    }
}

/// The child's run, why there is none, or why it is to be tried again.
async fn try_start(
    core: &Arc<Core>,
    parent: &Beginning,
    initiated: &Event,
) -> Result<Result<uuid::Uuid, Failure>, String> {
    let limit = parent.stored().depth_limit;
    if initiated.depth > limit {
        return Ok(Err(Failure::permanent(
            kind::LIMIT_EXCEEDED,
            format!("workflows nest at most {limit} deep"),
        )
        .with_details(serde_json::json!({ "limit": "depth" }))));
    }
    if initiated.foreign {
        return Ok(Err(super::step::foreign_refused("workflow", initiated)));
    }
    let reference = child_reference(initiated);
    let definition = match core.definitions.pin(&parent.namespace, &reference).await {
        Ok(definition) => definition,
        Err(failure) if failure.retryable => return Err(failure.to_string()),
        Err(failure) => return Ok(Err(failure)),
    };
    let new = NewRun {
        namespace: parent.namespace.clone(),
        workflow_id: initiated.workflow_id.clone(),
        definition,
        task_queue: parent.task_queue().to_owned(),
        input: initiated.payload(),
        reuse: IdReusePolicy::RejectDuplicate,
        conflict: IdConflictPolicy::Fail,
        idempotency_key: None,
        memo: std::collections::BTreeMap::new(),
        search_attributes: std::collections::BTreeMap::new(),
        traceparent: parent.stored().traceparent.clone(),
        parent: Some((
            parent.event.workflow_id.clone(),
            parent.run_id(),
            initiated.id.clone(),
        )),
        detached: initiated.detached,
        parent_close: initiated.parent_close,
        depth: initiated.depth,
        signal: None,
    };
    match super::start::start(core, new).await {
        Ok(started) => Ok(Ok(started.run_id)),
        Err(error @ (EngineError::Unavailable { .. } | EngineError::ShuttingDown)) => {
            Err(error.to_string())
        }
        Err(EngineError::Internal(cause)) => {
            tracing::error!(cause, "a child cannot be started");
            Ok(Err(Failure::permanent(
                kind::INTERNAL,
                "the host failed while it started the child; its log has the cause",
            )))
        }
        Err(error) => Ok(Err(Failure::permanent(
            kind::UNKNOWN_WORKFLOW,
            error.to_string(),
        ))),
    }
}

/// Tells the parent that waits for a run how it ended.
pub fn tell_parent(core: &Arc<Core>, beginning: &Beginning, result: &RunResult) {
    let Some((_, parent, child_id)) = beginning.parent() else {
        return;
    };
    if beginning.stored().detached {
        return;
    }
    let outcome = match (result.status, result.outcome.clone()) {
        (_, Ok(payload)) => Ok(payload),
        (ExecutionStatus::Canceled, Err(failure)) => Err(Failure {
            kind: kind::CANCELLED.to_owned(),
            ..failure
        }),
        (_, Err(failure)) => Err(failure),
    };
    core.post(
        parent,
        Message::ChildEnded {
            child_id,
            status: result.status,
            outcome,
        },
    );
}

/// Tells a parent once more of a child whose result it could not take over.
pub fn ask_again(core: &Arc<Core>, parent: &Arc<RunCell>, child_id: String) {
    let core = Arc::clone(core);
    let run_id = parent.run_id;
    let runtime = core.runtime.clone();
    runtime.spawn(async move {
        tokio::select! {
            () = core.clock.sleep_until(core.after(Duration::from_secs(1))) => {}
            () = core.dead.cancelled() => return,
        }
        recover(&core, run_id, &child_id).await;
    });
}

/// Tells a parent of a child that has ended, if it has.
pub async fn recover(core: &Arc<Core>, parent: uuid::Uuid, child_id: &str) {
    let Ok(Some((_, state))) = core.fold(parent).await else {
        return;
    };
    let child = state.children.get(child_id).and_then(|child| child.run_id);
    if let Some(child) = child {
        told_already(core, child).await;
    }
}

impl Step<'_> {
    /// A child was started, or could not be.
    pub fn child_started(&mut self, child_id: &str, outcome: Result<Uuid, Failure>) {
        let Some(child) = self.working.state.children.get(child_id) else {
            return;
        };
        if child.run_id.is_some() {
            return;
        }
        let event = match outcome {
            Ok(run_id) => {
                if child.cancel_requested {
                    self.effects.cancel_runs.push(run_id);
                }
                Event {
                    workflow_id: child.initiated.workflow_id.clone(),
                    run_id: run_id.as_bytes().to_vec(),
                    ..self.event(EventType::ChildWorkflowExecutionStarted, child_id)
                }
            }
            Err(failure) => Event {
                failure: Some(failure.into()),
                ..self.event(EventType::StartChildWorkflowExecutionFailed, child_id)
            },
        };
        self.record(event);
    }

    /// A child ended.
    pub fn child_ended(
        &mut self,
        child_id: &str,
        status: ExecutionStatus,
        outcome: Result<Payload, Failure>,
    ) {
        let Some(child) = self.working.state.children.get(child_id) else {
            return;
        };
        let workflow_id = child.initiated.workflow_id.clone();
        let Some(run_id) = child.run_id.map(|id| id.as_bytes().to_vec()) else {
            // It ended before its start was told; that tells its end again.
            return;
        };
        let mut event = Event {
            workflow_id,
            run_id,
            ..self.event(EventType::ChildWorkflowExecutionCompleted, child_id)
        };
        match outcome {
            Ok(result) => {
                let mut stored = Vec::new();
                event.payload = Some(referred(result, &mut stored));
                if !activation::store(self.core, stored) {
                    // Told again later; the child's own history has the result.
                    self.effects.children_again.push(child_id.to_owned());
                    return;
                }
            }
            Err(failure) => {
                event.kind = match status {
                    ExecutionStatus::Canceled => EventType::ChildWorkflowExecutionCanceled,
                    _ => EventType::ChildWorkflowExecutionFailed,
                } as i32;
                event.failure = Some(failure.into());
            }
        }
        self.record(event);
    }
}
