//! Children: starting them, and telling parents of their ends.
//!
//! Parent and child are in one database, but each has transitions of its own. What a
//! crash may leave between two of them is found at recovery: a child that was initiated
//! is started again (its workflow id names the parent, so that the same one answers),
//! and one that has ended is told again.

use std::sync::Arc;
use std::time::Duration;

use super::convert::{Beginning, child_reference};
use super::core::Core;
use super::events::Event;
use super::run::{Message, RunCell};
use super::start::NewRun;
use super::timers::Target;
use crate::engine::{EngineError, ExecutionStatus, IdConflictPolicy, IdReusePolicy, RunResult};
use crate::failure::{Failure, kind};

/// Starts a child that was initiated, and tells its parent.
pub fn start(core: &Arc<Core>, parent: &Arc<RunCell>, initiated: Event) {
    let core = Arc::clone(core);
    let parent = Arc::clone(parent);
    let runtime = core.runtime.clone();
    runtime.spawn(async move {
        match try_start(&core, &parent.beginning, &initiated).await {
            Ok(outcome) => {
                let run_id = outcome.as_ref().ok().copied();
                let detached = initiated.detached;
                let told = core
                    .send(
                        parent.run_id,
                        Message::ChildStarted {
                            child_id: initiated.id,
                            outcome,
                        },
                    )
                    .await;
                if let (Ok(Err(_)), Some(run_id), false) = (told, run_id, detached) {
                    // The parent ended meanwhile.
                    core.post(
                        run_id,
                        Message::Cancel {
                            reason: "the parent has ended".to_owned(),
                            answer: None,
                        },
                    );
                }
                if let Some(run_id) = run_id {
                    told_already(&core, run_id).await;
                }
            }
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
        input: initiated.payload(),
        reuse: IdReusePolicy::RejectDuplicate,
        conflict: IdConflictPolicy::Fail,
        idempotency_key: None,
        memo: std::collections::BTreeMap::new(),
        traceparent: parent.stored().traceparent.clone(),
        parent: Some((
            parent.event.workflow_id.clone(),
            parent.run_id(),
            initiated.id.clone(),
            initiated.detached,
        )),
        depth: initiated.depth,
        signal: None,
    };
    match super::start::start(core, new).await {
        Ok(started) => Ok(Ok(started.run_id)),
        Err(error @ (EngineError::Unavailable { .. } | EngineError::ShuttingDown)) => {
            Err(error.to_string())
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
