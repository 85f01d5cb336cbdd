//! Updates that come to a run.
//!
//! The cluster hands an update to a worker, whose driver says whether a task takes it; one
//! that is rejected leaves no event. An update's id is Temporal's, so a second request
//! under it is answered as the first one was. Acceptance is told before the other commands
//! of its activation, whichever of them came first: so it is in the same place on replay,
//! where rejected updates do not come again and accepted ones are taken without asking.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::client::{
    answer, closed_or, describe_status, execution, id_of, refusal_of, request as with_patience,
    run_id,
};
use super::convert::{argument, failure, first, from_failure, payload, payloads};
use super::core::Core;
use super::pins::{SIGNAL_HEADER, SignalHeader, signal_header};
use super::run::{Run, Unexpected, command};
use super::sdk::{self, WorkflowService as _};
use crate::driver::{ENDED_BEFORE, Resolution};
use crate::engine::{EngineError, RunRef, UpdateStatus};
use crate::failure::{Failure, kind};
use crate::payload::Payload;
use crate::signal::Signal;

/// How often an update is sent again because its run has just continued as new.
const CONTINUATIONS: usize = 10;

/// How many of the runs before a workflow's latest one are asked for an update: each takes
/// two requests.
const RUNS_BEFORE: usize = 10;

/// How an update ended.
type Outcome = Result<Payload, Failure>;

/// The member of a rejection's details that says that the run ended by continuing as new.
const CONTINUED: &str = "continued";

/// What Temporal calls the failure of an update whose run ended before it.
const UNFINISHED: &str = "AcceptedUpdateCompletedWorkflow";

/// Offers a run an update, and waits up to `wait` for its end.
pub async fn request(
    core: &Core,
    run: &RunRef,
    update: Signal,
    wait: Duration,
) -> Result<UpdateStatus, EngineError> {
    update.check()?;
    let deadline = Instant::now() + wait;
    for _ in 0..CONTINUATIONS {
        let result = offer(core, run, &update, deadline).await;
        let Err(EngineError::UpdateRejected(failure)) = &result else {
            return result;
        };
        let says = |member: &str| {
            failure
                .details
                .as_ref()
                .is_some_and(|it| it[member] == true)
        };
        if run.run_id.is_none() && says(ENDED_BEFORE) {
            return Ok(ended_before(core, run, &update.id)
                .await?
                .unwrap_or(UpdateStatus {
                    run_id: run_id(core, run).await?,
                    update_id: update.id,
                    outcome: None,
                }));
        }
        if run.run_id.is_some() || !says(CONTINUED) {
            return result;
        }
    }
    Err(nobody(
        run,
        "the run continued as a new one again and again",
        None,
    ))
}

/// Offers the run that is open now an update.
async fn offer(
    core: &Core,
    run: &RunRef,
    update: &Signal,
    deadline: Instant,
) -> Result<UpdateStatus, EngineError> {
    let mut connection = core.connection()?;
    let update_id = update.id.clone();
    let header = super::convert::json_payload(&SignalHeader::of(update));
    let message = sdk::UpdateWorkflowExecutionRequest {
        namespace: core.namespace(&run.namespace),
        workflow_execution: Some(execution(run)),
        wait_policy: policy(sdk::UpdateStage::Accepted),
        request: Some(sdk::UpdateRequest {
            meta: Some(sdk::UpdateMeta {
                update_id: update_id.clone(),
                identity: connection.identity().to_owned(),
            }),
            input: Some(sdk::UpdateInput {
                header: Some(sdk::Header {
                    fields: [(SIGNAL_HEADER.to_owned(), header)].into(),
                }),
                name: update.name.clone(),
                args: Some(payloads(update.data.clone())),
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut call = with_patience(core, message, Duration::ZERO);
    call.extensions_mut().insert(sdk::NoRetryOnMatching {
        predicate: too_many_at_once,
    });
    let call = connection.update_workflow_execution(call);
    let sent = match answer(core, Duration::ZERO, call).await {
        Ok(sent) => sent,
        Err(status) => return refused(core, run, &update_id, &status).await,
    };
    let accepted = i32::from(sdk::UpdateStage::Accepted);
    if sent.outcome.is_none() && sent.stage < accepted {
        return Err(nobody(run, "it was not taken in time", None));
    }
    let named = RunRef {
        run_id: Some(id_of(
            sent.update_ref
                .and_then(|update| update.workflow_execution)
                .as_ref(),
        )?),
        ..run.clone()
    };
    match sent.outcome.map(outcome) {
        Some(Err(failure)) if failure.kind == kind::UPDATE_REJECTED => {
            Err(EngineError::UpdateRejected(failure))
        }
        known => end(core, &named, update_id, known, deadline).await,
    }
}

/// How an update that a run accepted stands; waits up to `wait` for its end.
pub async fn result(
    core: &Core,
    run: &RunRef,
    update_id: &str,
    wait: Duration,
) -> Result<UpdateStatus, EngineError> {
    let deadline = Instant::now() + wait;
    let named = RunRef {
        run_id: Some(run_id(core, run).await?),
        ..run.clone()
    };
    match end(core, &named, update_id.to_owned(), None, deadline).await {
        Err(error @ EngineError::NoSuchUpdate { .. }) if run.run_id.is_none() => {
            let before = ended_before(core, run, update_id).await?;
            before.ok_or(error)
        }
        known => known,
    }
}

/// How an update stands that one of the runs before the workflow's latest one ended. Only the
/// last [`RUNS_BEFORE`] of them are asked: the chain of a long flow has no end, and an id that
/// no run knows would be looked for in all of it.
async fn ended_before(
    core: &Core,
    run: &RunRef,
    update_id: &str,
) -> Result<Option<UpdateStatus>, EngineError> {
    let mut at = RunRef {
        run_id: Some(run_id(core, run).await?),
        ..run.clone()
    };
    for _ in 0..RUNS_BEFORE {
        let Some(before) = super::history::continued_from(core, &at).await? else {
            break;
        };
        at.run_id = Some(before);
        let outcome = match poll(core, &at, update_id, Duration::ZERO).await {
            Ok(outcome) => outcome,
            Err(status) if status.code() == sdk::Code::NotFound => continue,
            Err(status) => return Err(refusal_of(core, &at, &status)),
        };
        return Ok(Some(UpdateStatus {
            run_id: before,
            update_id: update_id.to_owned(),
            outcome,
        }));
    }
    Ok(None)
}

/// Waits for the end of an update that was accepted.
async fn end(
    core: &Core,
    run: &RunRef,
    update_id: String,
    mut known: Option<Outcome>,
    deadline: Instant,
) -> Result<UpdateStatus, EngineError> {
    // The first look does not wait: it says whether there is such an update at all.
    let mut left = Duration::ZERO;
    while known.is_none() {
        known = match poll(core, run, &update_id, left).await {
            Ok(known) => known,
            Err(status) if status.code() == sdk::Code::NotFound => {
                return Err(not_there(core, run, &update_id).await);
            }
            Err(status) => return Err(refusal_of(core, run, &status)),
        };
        left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
    }
    Ok(UpdateStatus {
        // Whoever calls names the run.
        run_id: run.run_id.unwrap_or_default(),
        update_id,
        outcome: known,
    })
}

/// Asks how an update stands; waits up to `wait` for its end.
async fn poll(
    core: &Core,
    run: &RunRef,
    update_id: &str,
    wait: Duration,
) -> Result<Option<Outcome>, sdk::Status> {
    let mut connection = core
        .connection()
        .map_err(|error| sdk::Status::unavailable(error.to_string()))?;
    let stage = if wait.is_zero() {
        sdk::UpdateStage::Unspecified
    } else {
        sdk::UpdateStage::Completed
    };
    let message = sdk::PollWorkflowExecutionUpdateRequest {
        namespace: core.namespace(&run.namespace),
        update_ref: Some(sdk::UpdateRef {
            workflow_execution: Some(execution(run)),
            update_id: update_id.to_owned(),
        }),
        identity: connection.identity().to_owned(),
        wait_policy: policy(stage),
    };
    let call = connection.poll_workflow_execution_update(with_patience(core, message, wait));
    let polled = if wait.is_zero() {
        answer(core, wait, call).await?
    } else {
        match tokio::time::timeout(wait, answer(core, wait, call)).await {
            Ok(polled) => polled?,
            Err(_) => return Ok(None),
        }
    };
    Ok(polled.outcome.map(outcome))
}

fn policy(stage: sdk::UpdateStage) -> Option<sdk::UpdateWaitPolicy> {
    Some(sdk::UpdateWaitPolicy {
        lifecycle_stage: stage.into(),
    })
}

/// Temporal's outcome as ours.
pub fn outcome(outcome: sdk::UpdateOutcome) -> Outcome {
    match outcome.value {
        Some(sdk::UpdateOutcomeValue::Success(result)) => Ok(first(Some(result))),
        Some(sdk::UpdateOutcomeValue::Failure(failure)) => {
            let failure = from_failure(failure);
            Err(if failure.kind == UNFINISHED {
                crate::embedded::updates::unfinished()
            } else {
                failure
            })
        }
        None => Ok(Payload::null()),
    }
}

/// What a refused update means.
async fn refused(
    core: &Core,
    run: &RunRef,
    update_id: &str,
    status: &sdk::Status,
) -> Result<UpdateStatus, EngineError> {
    let said = describe_status(status);
    match status.code() {
        // It may have been done before the end.
        sdk::Code::NotFound => {
            let named = RunRef {
                run_id: Some(run_id(core, run).await?),
                ..run.clone()
            };
            match end(core, &named, update_id.to_owned(), None, Instant::now()).await {
                Err(EngineError::NoSuchUpdate { .. }) => {
                    let before = match run.run_id {
                        None => ended_before(core, run, update_id).await?,
                        Some(_) => None,
                    };
                    match before {
                        Some(known) => Ok(known),
                        None => Err(closed_or(core, run, status).await),
                    }
                }
                known => known,
            }
        }
        _ if too_many(status) => Err(EngineError::LimitReached(said)),
        sdk::Code::DeadlineExceeded | sdk::Code::Cancelled | sdk::Code::FailedPrecondition => {
            Err(nobody(run, &said, Some(status.clone())))
        }
        _ => Err(refusal_of(core, run, status)),
    }
}

/// Whether so many updates of the run are under way that it takes no more just now. It may be
/// asked again when one has ended: trying at once for as long as an overloaded cluster is
/// waited for would only keep the sender.
fn too_many_at_once(status: &sdk::Status) -> bool {
    status.code() == sdk::Code::ResourceExhausted && status.message().contains("in-flight updates")
}

/// Whether the run takes no more updates, just now or at all.
fn too_many(status: &sdk::Status) -> bool {
    let at_all =
        status.code() == sdk::Code::FailedPrecondition && status.message().contains("limit");
    at_all || too_many_at_once(status)
}

fn nobody(run: &RunRef, said: &str, status: Option<sdk::Status>) -> EngineError {
    EngineError::Unavailable {
        message: format!(
            "no worker has taken the update of workflow {:?} ({said}); send it again under the same id",
            run.workflow_id
        ),
        sent: true,
        source: status.map(|status| Box::new(status) as _),
    }
}

/// Temporal says that an update was not found also where there is no such run.
async fn not_there(core: &Core, run: &RunRef, update_id: &str) -> EngineError {
    match super::client::describe(core, run).await {
        Ok(_) => EngineError::NoSuchUpdate {
            workflow_id: run.workflow_id.clone(),
            run_id: run.run_id.unwrap_or_default(),
            update_id: update_id.chars().take(200).collect(),
        },
        Err(error) => error,
    }
}

/// An update whose acceptance is not told yet.
#[derive(Debug)]
pub struct Offered {
    update_id: String,
    /// Core's name of it.
    instance: String,
    /// Whether the driver is asked; else it was accepted before.
    asked: bool,
    /// Bytes of its input, which an acceptance sends back.
    bytes: usize,
}

impl Run {
    /// An update came.
    pub fn offer(&mut self, update: sdk::DoUpdate) {
        let header = signal_header(&update.headers);
        let signal = argument(update.input).map(|data| Signal {
            name: update.name,
            id: update.id.clone(),
            attributes: header.map(|header| header.attributes).unwrap_or_default(),
            data,
        });
        let signal = signal
            .map_err(|failure| failure.message)
            .and_then(|signal| match signal.check() {
                Ok(()) => Ok(Box::new(signal)),
                Err(error) => Err(error.to_string()),
            });
        let bytes = signal.as_ref().map_or(0, |signal| signal.data.data.len());
        let signal = signal.and_then(|signal| {
            // One that was accepted is in the history, and had room.
            if self.task_size.takes_update(bytes) || !update.run_validator {
                return Ok(signal);
            }
            Err("too many large updates came at once; send this one again".to_owned())
        });
        let instance = update.protocol_instance_id;
        match signal {
            Ok(signal) => {
                self.resolutions.push(if update.run_validator {
                    Resolution::Offer(signal)
                } else {
                    Resolution::Update(signal)
                });
                self.offered.push(Offered {
                    update_id: update.id,
                    instance,
                    asked: update.run_validator,
                    bytes,
                });
            }
            Err(message) => {
                let why = Failure::permanent(kind::UPDATE_REJECTED, message);
                self.answers.push(rejected(instance, why));
            }
        }
    }

    /// Tells which of the updates that came are accepted, as the driver says. It says
    /// nothing of those that came after its end.
    pub fn settle(&mut self, verdicts: Vec<(String, Result<(), Failure>)>) {
        let mut verdicts = verdicts.into_iter().peekable();
        for offered in std::mem::take(&mut self.offered) {
            let verdict = if offered.asked {
                let said = verdicts.next_if(|(id, _)| *id == offered.update_id);
                said.map_or_else(|| Err(self.over()), |(_, verdict)| verdict)
            } else {
                Ok(())
            };
            match verdict {
                Ok(()) => {
                    self.task_size.say(offered.bytes);
                    let accepted = sdk::update_response::Response::Accepted(());
                    self.answers
                        .push(response(offered.instance.clone(), accepted));
                    self.updates.insert(offered.update_id, offered.instance);
                }
                Err(why) => {
                    self.task_size.rejects_update(offered.bytes);
                    self.answers.push(rejected(offered.instance, why));
                }
            }
        }
    }

    /// Why an update is rejected that came after the driver's end.
    fn over(&self) -> Failure {
        if self.continued {
            let why = "the run continues as a new one; send the update again";
            return Failure::permanent(kind::UPDATE_REJECTED, why)
                .with_details(json!({ CONTINUED: true }));
        }
        Failure::permanent(kind::UPDATE_REJECTED, "the run has ended")
    }

    /// The command that ends an update.
    pub fn complete_update(
        &mut self,
        update_id: &str,
        outcome: Outcome,
    ) -> Result<sdk::CommandVariant, Unexpected> {
        let instance = self.updates.remove(update_id).ok_or_else(|| {
            Unexpected(format!(
                "update {update_id:?} ended, which the run was never given"
            ))
        })?;
        let response = match outcome {
            Ok(result) => sdk::update_response::Response::Completed(payload(result)),
            Err(why) => sdk::update_response::Response::Rejected(failure(why, None)),
        };
        Ok(sdk::CommandVariant::UpdateResponse(sdk::UpdateResponse {
            protocol_instance_id: instance,
            response: Some(response),
        }))
    }
}

fn rejected(instance: String, why: Failure) -> sdk::WorkflowCommand {
    let rejected = sdk::update_response::Response::Rejected(failure(why, None));
    response(instance, rejected)
}

fn response(
    protocol_instance_id: String,
    response: sdk::update_response::Response,
) -> sdk::WorkflowCommand {
    let response = sdk::UpdateResponse {
        protocol_instance_id,
        response: Some(response),
    };
    command(sdk::CommandVariant::UpdateResponse(response), "")
}

#[cfg(test)]
mod tests;
