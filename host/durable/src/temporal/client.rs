//! Asking the cluster: starts, results, cancels; and what its refusals mean.
//!
//! Every request has the engine's patience: a cluster that does not answer within it is
//! [`EngineError::Unavailable`]. Where there was no connection, nothing was changed; else
//! nobody knows, since an answer may be lost after all was done. Either way a start may be
//! made again under its idempotency key, which is Temporal's request id.

mod start;

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

pub use self::start::start;
use super::convert::{first, from_failure, json_payload, payloads};
use super::core::Core;
use super::pins::{MEMO, RunMemo, SIGNAL_HEADER, SignalHeader};
use super::sdk::{self, WorkflowService as _};
use crate::engine::{EngineError, ExecutionStatus, RunRef, RunResult};
use crate::failure::{Failure, kind};
use crate::payload::{Digest, Payload};
use crate::signal::Signal;

/// What an answer may take beyond the engine's patience before it counts as none.
const SLACK: Duration = Duration::from_secs(1);

/// Bytes of a request id.
const REQUEST_ID: usize = 1_000;

/// What the cluster says, under no code of its own, where a run has had as many signals as it
/// may have.
const NO_MORE_SIGNALS: &str = "exceeded workflow execution limit for signal";

/// A request that is given up after the engine's patience, and `wait` more.
pub fn request<T>(core: &Core, message: T, wait: Duration) -> sdk::Request<T> {
    let patience = core.options.patience;
    let mut request = sdk::Request::new(message);
    request.set_timeout(patience.saturating_add(wait));
    let retries = sdk::RetryOptions::builder()
        .max_interval(Duration::from_secs(1))
        .max_elapsed_time(Some(patience))
        .build();
    request
        .extensions_mut()
        .insert(sdk::RetryConfigForCall(retries));
    request
}

/// Waits for an answer, `wait` longer than the engine's patience.
pub async fn answer<T>(
    core: &Core,
    wait: Duration,
    call: impl Future<Output = Result<sdk::Response<T>, sdk::Status>>,
) -> Result<T, sdk::Status> {
    let limit = core.options.patience.saturating_add(wait + SLACK);
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(sdk::Response::into_inner),
        Err(_) => Err(sdk::Status::deadline_exceeded("no answer came in time")),
    }
}

/// What a refusal says, for a person: the cause where the cluster was not reached.
pub fn describe_status(status: &sdk::Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(next) = cause {
        text = next.to_string();
        cause = next.source();
    }
    text
}

/// What a refusal means that does not depend on what was asked.
pub fn refusal(core: &Core, status: &sdk::Status) -> EngineError {
    meaning(&core.options.address, status)
}

fn meaning(address: &str, status: &sdk::Status) -> EngineError {
    if status.message().starts_with(NO_MORE_SIGNALS) {
        return EngineError::LimitReached(
            "the run has had as many signals as the cluster lets it have, and takes no more; start another one"
                .to_owned(),
        );
    }
    let said = describe_status(status);
    let unavailable = |what: &str| EngineError::Unavailable {
        message: format!("Temporal at {address} {what}: {said}"),
        // Also where it was refused: this may be the answer to another try of what the first
        // one did.
        sent: true,
        source: Some(Box::new(status.clone())),
    };
    match status.code() {
        sdk::Code::InvalidArgument | sdk::Code::OutOfRange => EngineError::Invalid(said),
        sdk::Code::NotFound if names_no_namespace(status) => {
            unavailable("does not know the namespace, or not yet")
        }
        sdk::Code::NotFound => EngineError::Invalid(said),
        sdk::Code::PermissionDenied | sdk::Code::Unauthenticated => {
            unavailable("refuses this server's credentials")
        }
        sdk::Code::ResourceExhausted => unavailable("is overloaded"),
        sdk::Code::Internal | sdk::Code::DataLoss | sdk::Code::Unimplemented => {
            EngineError::Internal(format!("Temporal answered: {said}"))
        }
        _ => unavailable("does not answer"),
    }
}

/// Whether it is the namespace that was not found, as a server says for a moment that has
/// just started. Ids are free text and stand further back in what is said of them.
pub fn names_no_namespace(status: &sdk::Status) -> bool {
    let said = status.message().to_ascii_lowercase();
    status.code() == sdk::Code::NotFound && said.starts_with("namespace")
}

/// What a refusal means that is about a run.
pub fn refusal_of(core: &Core, run: &RunRef, status: &sdk::Status) -> EngineError {
    if status.code() == sdk::Code::NotFound && !names_no_namespace(status) {
        return EngineError::NotFound {
            namespace: run.namespace.clone(),
            workflow_id: run.workflow_id.clone(),
            run_id: run.run_id,
        };
    }
    refusal(core, status)
}

/// Temporal's name of a run.
pub fn execution(run: &RunRef) -> sdk::WorkflowExecution {
    sdk::WorkflowExecution {
        workflow_id: run.workflow_id.clone(),
        run_id: run.run_id.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// What the cluster knows of a run.
pub async fn describe(
    core: &Core,
    run: &RunRef,
) -> Result<sdk::DescribeWorkflowExecutionResponse, EngineError> {
    let mut connection = core.connection()?;
    let message = sdk::DescribeWorkflowExecutionRequest {
        namespace: core.namespace(&run.namespace),
        execution: Some(execution(run)),
    };
    let call = connection.describe_workflow_execution(request(core, message, Duration::ZERO));
    answer(core, Duration::ZERO, call)
        .await
        .map_err(|status| refusal_of(core, run, &status))
}

/// The run's id: the latest run's where none is named.
pub async fn run_id(core: &Core, run: &RunRef) -> Result<Uuid, EngineError> {
    match run.run_id {
        Some(run_id) => Ok(run_id),
        None => {
            let described = describe(core, run).await?;
            let info = described.workflow_execution_info.unwrap_or_default();
            id_of(info.execution.as_ref())
        }
    }
}

/// The run id of an execution.
pub fn id_of(execution: Option<&sdk::WorkflowExecution>) -> Result<Uuid, EngineError> {
    let text = execution.map(|run| run.run_id.as_str()).unwrap_or_default();
    text.parse()
        .map_err(|_| EngineError::Internal(format!("Temporal's run id {text:?} is no UUID")))
}

/// Sends a signal to an open run.
pub async fn signal(core: &Core, run: &RunRef, signal: Signal) -> Result<(), EngineError> {
    signal.check()?;
    let mut connection = core.connection()?;
    let header = json_payload(&SignalHeader::of(&signal));
    let message = sdk::SignalWorkflowExecutionRequest {
        namespace: core.namespace(&run.namespace),
        workflow_execution: Some(execution(run)),
        identity: connection.identity().to_owned(),
        request_id: request_id(signal.key()),
        signal_name: signal.name,
        input: Some(payloads(signal.data)),
        header: Some(sdk::Header {
            fields: [(SIGNAL_HEADER.to_owned(), header)].into(),
        }),
        ..Default::default()
    };
    let call = connection.signal_workflow_execution(request(core, message, Duration::ZERO));
    match answer(core, Duration::ZERO, call).await {
        Ok(_) => Ok(()),
        Err(status) => Err(closed_or(core, run, &status).await),
    }
}

/// A key as a request id: a longer one is named by its digest, the same each time.
fn request_id(key: String) -> String {
    if key.len() <= REQUEST_ID {
        return key;
    }
    Digest::of(key.as_bytes()).to_string()
}

/// What lists show of a run of ours.
pub fn memo_of(memo: Option<&sdk::Memo>) -> Option<RunMemo> {
    super::convert::from_json_payload(memo?.fields.get(MEMO)?).ok()
}

/// Waits up to `wait` for a run's end.
pub async fn result(
    core: &Core,
    run: &RunRef,
    wait: Duration,
) -> Result<Option<RunResult>, EngineError> {
    let deadline = Instant::now() + wait;
    let mut run_id = run_id(core, run).await?;
    let mut token = Vec::new();
    // Whether the cluster has said anything of the run.
    let mut heard = false;
    loop {
        let named = RunRef {
            run_id: Some(run_id),
            ..run.clone()
        };
        let connection = core.connection()?;
        let left = deadline.saturating_duration_since(Instant::now());
        let last = if left.is_zero() {
            newest_event(core, connection, &named).await
        } else {
            let page = last_event(core, connection, &named, std::mem::take(&mut token), left);
            match tokio::time::timeout(left, page).await {
                Ok(page) => page.map(|(last, next)| {
                    token = next;
                    last
                }),
                Err(_) if heard => return Ok(None),
                // The cluster may be away: another look, which does not wait, says so.
                Err(_) => continue,
            }
        };
        heard = true;
        let last = last.map_err(|status| refusal_of(core, &named, &status))?;
        match last.and_then(|event| event.attributes).and_then(ended) {
            Some(End::Ended(status, outcome)) => {
                return Ok(Some(RunResult {
                    run_id,
                    status,
                    outcome,
                }));
            }
            Some(End::GoesOnAs(next)) => {
                run_id = next;
                token = Vec::new();
            }
            None if left.is_zero() => return Ok(None),
            None => {}
        }
    }
}

/// The last event of a run that has ended, waited for so long, and where to wait on.
async fn last_event(
    core: &Core,
    mut connection: sdk::Connection,
    run: &RunRef,
    token: Vec<u8>,
    wait: Duration,
) -> Result<(Option<sdk::HistoryEvent>, Vec<u8>), sdk::Status> {
    let message = sdk::GetWorkflowExecutionHistoryRequest {
        namespace: core.namespace(&run.namespace),
        execution: Some(execution(run)),
        next_page_token: token,
        // What is no run, or has ended, is answered at once.
        wait_new_event: true,
        history_event_filter_type: sdk::HistoryEventFilterType::CloseEvent.into(),
        ..Default::default()
    };
    let call = connection.get_workflow_execution_history(request(core, message, wait));
    let page = answer(core, wait, call).await?;
    let last = page
        .history
        .and_then(|history| history.events.into_iter().last());
    Ok((last, page.next_page_token))
}

/// A run's newest event, whatever it is. Asked only for the one that ends it, the cluster waits
/// for it, also where it is told not to.
async fn newest_event(
    core: &Core,
    mut connection: sdk::Connection,
    run: &RunRef,
) -> Result<Option<sdk::HistoryEvent>, sdk::Status> {
    let message = sdk::GetWorkflowExecutionHistoryReverseRequest {
        namespace: core.namespace(&run.namespace),
        execution: Some(execution(run)),
        maximum_page_size: 1,
        ..Default::default()
    };
    let message = request(core, message, Duration::ZERO);
    let call = connection.get_workflow_execution_history_reverse(message);
    let page = answer(core, Duration::ZERO, call).await?;
    Ok(page
        .history
        .and_then(|history| history.events.into_iter().next()))
}

/// What a last event says.
enum End {
    Ended(ExecutionStatus, Result<Payload, Failure>),
    GoesOnAs(Uuid),
}

/// The run that goes on after this end: one that the run continued as, or the next one that
/// a foreign starter's retry policy or cron has made the cluster start.
pub fn goes_on_as(attributes: &sdk::Attributes) -> Option<Uuid> {
    let next = match attributes {
        sdk::Attributes::WorkflowExecutionCompletedEventAttributes(end) => {
            &end.new_execution_run_id
        }
        sdk::Attributes::WorkflowExecutionFailedEventAttributes(end) => &end.new_execution_run_id,
        sdk::Attributes::WorkflowExecutionTimedOutEventAttributes(end) => &end.new_execution_run_id,
        sdk::Attributes::WorkflowExecutionContinuedAsNewEventAttributes(end) => {
            &end.new_execution_run_id
        }
        _ => return None,
    };
    next.parse().ok()
}

fn ended(attributes: sdk::Attributes) -> Option<End> {
    if let Some(next) = goes_on_as(&attributes) {
        return Some(End::GoesOnAs(next));
    }
    let (status, outcome) = match attributes {
        sdk::Attributes::WorkflowExecutionCompletedEventAttributes(done) => {
            (ExecutionStatus::Completed, Ok(first(done.result)))
        }
        sdk::Attributes::WorkflowExecutionFailedEventAttributes(failed) => (
            ExecutionStatus::Failed,
            Err(from_failure(failed.failure.unwrap_or_default())),
        ),
        sdk::Attributes::WorkflowExecutionCanceledEventAttributes(cancelled) => {
            let why = reason_of(cancelled.details);
            let why = why.unwrap_or_else(|| "the run was cancelled".to_owned());
            (
                ExecutionStatus::Canceled,
                Err(Failure::permanent(kind::CANCELLED, why)),
            )
        }
        sdk::Attributes::WorkflowExecutionTerminatedEventAttributes(terminated) => {
            let why = Some(terminated.reason).filter(|reason| !reason.is_empty());
            let why = why.unwrap_or_else(|| "the run was terminated".to_owned());
            (
                ExecutionStatus::Terminated,
                Err(Failure::permanent(kind::TERMINATED, why)),
            )
        }
        sdk::Attributes::WorkflowExecutionTimedOutEventAttributes(_) => (
            ExecutionStatus::TimedOut,
            Err(
                Failure::permanent(kind::TIMEOUT, "the run's timeout is over")
                    .with_details(serde_json::json!({ "timeout": "run" })),
            ),
        ),
        _ => return None,
    };
    Some(End::Ended(status, outcome))
}

/// Why a run was cancelled, as its last command says.
pub fn reason_of(details: Option<sdk::Payloads>) -> Option<String> {
    match first(details).to_json() {
        Ok(serde_json::Value::String(reason)) if !reason.is_empty() => Some(reason),
        _ => None,
    }
}

/// Asks a run to cancel.
pub async fn cancel(core: &Core, run: &RunRef, reason: &str) -> Result<(), EngineError> {
    // Temporal takes a cancel of a run that has ended after one.
    let info = describe(core, run).await?.workflow_execution_info;
    let info = info.unwrap_or_default();
    if info.close_time.is_some() {
        return Err(EngineError::Closed {
            workflow_id: run.workflow_id.clone(),
            run_id: id_of(info.execution.as_ref())?,
        });
    }
    let mut connection = core.connection()?;
    let message = sdk::RequestCancelWorkflowExecutionRequest {
        namespace: core.namespace(&run.namespace),
        workflow_execution: Some(execution(run)),
        identity: connection.identity().to_owned(),
        request_id: Uuid::now_v7().to_string(),
        reason: reason.to_owned(),
        ..Default::default()
    };
    let call = connection.request_cancel_workflow_execution(request(core, message, Duration::ZERO));
    match answer(core, Duration::ZERO, call).await {
        Ok(_) => Ok(()),
        // It was asked before.
        Err(status) if status.code() == sdk::Code::AlreadyExists => Ok(()),
        Err(status) => Err(closed_or(core, run, &status).await),
    }
}

/// Ends a run at once.
pub async fn terminate(core: &Core, run: &RunRef, reason: &str) -> Result<(), EngineError> {
    let mut connection = core.connection()?;
    let message = sdk::TerminateWorkflowExecutionRequest {
        namespace: core.namespace(&run.namespace),
        workflow_execution: Some(execution(run)),
        identity: connection.identity().to_owned(),
        reason: reason.to_owned(),
        ..Default::default()
    };
    let call = connection.terminate_workflow_execution(request(core, message, Duration::ZERO));
    match answer(core, Duration::ZERO, call).await {
        Ok(_) => {
            stop_attempts(core, run).await;
            Ok(())
        }
        Err(status) => Err(closed_or(core, run, &status).await),
    }
}

/// Stops what runs of a run in this process; elsewhere the next heartbeat says it.
async fn stop_attempts(core: &Core, run: &RunRef) {
    let Ok(run_id) = run_id(core, run).await else {
        return;
    };
    let running = crate::embedded::lock(&core.running);
    for attempt in running.values().filter(|one| one.run_id == run_id) {
        (attempt.stop)(crate::activity::CancelReason::RunClosed);
    }
}

/// Temporal says that a run was not found also where it has ended.
pub async fn closed_or(core: &Core, run: &RunRef, status: &sdk::Status) -> EngineError {
    if status.code() == sdk::Code::NotFound {
        return match run_id(core, run).await {
            Ok(run_id) => match describe(core, run).await {
                Ok(_) => EngineError::Closed {
                    workflow_id: run.workflow_id.clone(),
                    run_id,
                },
                Err(error) => error,
            },
            Err(error) => error,
        };
    }
    refusal_of(core, run, status)
}

#[cfg(test)]
mod tests {
    use temporalio_common::protos::temporal::api::history::v1::{
        WorkflowExecutionCompletedEventAttributes, WorkflowExecutionFailedEventAttributes,
        WorkflowExecutionTimedOutEventAttributes,
    };

    use super::*;

    #[test]
    fn a_namespace_that_is_not_known_yet_is_waited_for() {
        let status = sdk::Status::not_found("Namespace default is not found.");
        let EngineError::Unavailable { message, sent, .. } = meaning("host:7233", &status) else {
            panic!("{status} should pass");
        };
        assert!(message.contains("host:7233"), "{message}");
        assert!(message.contains("is not found"), "{message}");
        assert!(sent);
        // Of a workflow that is called so.
        let status = sdk::Status::not_found("workflow not found for ID: namespace");
        assert!(!names_no_namespace(&status));
        assert!(matches!(
            meaning("host:7233", &status),
            EngineError::Invalid(_)
        ));
    }

    #[test]
    fn an_end_that_another_run_follows_is_none_to_wait_for() {
        let next = Uuid::now_v7();
        for (new_execution_run_id, goes_on) in [(next.to_string(), true), (String::new(), false)] {
            let completed = WorkflowExecutionCompletedEventAttributes {
                new_execution_run_id: new_execution_run_id.clone(),
                ..Default::default()
            };
            let failed = WorkflowExecutionFailedEventAttributes {
                new_execution_run_id: new_execution_run_id.clone(),
                ..Default::default()
            };
            let timed_out = WorkflowExecutionTimedOutEventAttributes {
                new_execution_run_id,
                ..Default::default()
            };
            for end in [
                sdk::Attributes::WorkflowExecutionCompletedEventAttributes(completed),
                sdk::Attributes::WorkflowExecutionFailedEventAttributes(failed),
                sdk::Attributes::WorkflowExecutionTimedOutEventAttributes(timed_out),
            ] {
                match ended(end).unwrap() {
                    End::GoesOnAs(run_id) => assert!(goes_on && run_id == next),
                    End::Ended(status, _) => assert!(!goes_on, "{status:?}"),
                }
            }
        }
    }

    #[test]
    fn a_run_that_has_had_all_its_signals_is_told_as_a_limit() {
        let said = "exceeded workflow execution limit for signal events";
        for status in [
            sdk::Status::invalid_argument(said),
            sdk::Status::resource_exhausted(said),
        ] {
            let meant = meaning("host:7233", &status);
            assert!(matches!(meant, EngineError::LimitReached(_)), "{meant:?}");
        }
    }

    #[test]
    fn a_long_key_is_named_by_its_digest() {
        let longest = "x".repeat(REQUEST_ID);
        assert_eq!(request_id(longest.clone()), longest);
        let (one, other) = (format!("{longest} a"), format!("{longest} b"));
        assert!(request_id(one.clone()).len() <= REQUEST_ID);
        assert_eq!(request_id(one.clone()), request_id(one.clone()));
        assert_ne!(request_id(one), request_id(other));
    }

    #[test]
    fn what_was_sent_may_have_been_done() {
        for status in [
            sdk::Status::unavailable("the connection broke"),
            sdk::Status::deadline_exceeded("no answer came in time"),
            sdk::Status::unauthenticated("Request unauthorized."),
            sdk::Status::resource_exhausted("too much"),
        ] {
            let meant = meaning("host:7233", &status);
            assert!(
                matches!(meant, EngineError::Unavailable { sent: true, .. }),
                "{meant:?}"
            );
        }
    }
}
