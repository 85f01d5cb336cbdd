//! Starts of runs, perhaps with a signal.

use std::collections::HashMap;
use std::time::Duration;

use uuid::Uuid;

use super::super::convert::{DETAILS, SUMMARY, fitting, json_payload, payload, payloads};
use super::super::core::Core;
use super::super::options::Tasks;
use super::super::pins::{
    EMITTED_MEMO, MEMO, Pins, RUN_HEADER, RunHeader, SIGNAL_HEADER, SignalHeader, StartSignal,
};
use super::super::sdk::{self, WorkflowService as _};
use super::super::search;
use super::{answer, describe, memo_of, refusal, request};
use crate::definition::GENERAL_QUEUE;
use crate::engine::{
    EngineError, IdConflictPolicy, IdReusePolicy, RunRef, StartWorkflow, Started, admit_input,
};
use crate::flow::model::Document;
use crate::payload::Digest;
use crate::signal::Signal;

/// Starts a run.
pub async fn start(core: &Core, start: StartWorkflow) -> Result<Started, EngineError> {
    let mut connection = core.connection()?;
    start.check()?;
    if let Some(name) = [MEMO, EMITTED_MEMO]
        .into_iter()
        .find(|name| start.memo.contains_key(*name))
    {
        return Err(EngineError::Invalid(format!(
            "the memo {name:?} is the server's own; use another name"
        )));
    }
    let attributes = search::admit(core, &start.namespace, &start.search_attributes).await?;
    let limits = core.options.limits;
    let input = admit_input(core.host.payloads.as_ref(), start.input, limits.data_bytes).await?;
    let evaluator = core.host.expressions.digest();
    let pins = Pins::new(&start.definition, limits, evaluator, rand::random());
    // Two requests with one key differ in it, so that the second can tell.
    let key = start.idempotency_key.as_ref();
    let key = key.map(|key| Digest::of(key.as_bytes()));
    let nonce = key.map(|_| Uuid::now_v7());
    let memo = start.memo.into_iter();
    let mut memo: HashMap<_, _> = memo.map(|(name, value)| (name, payload(value))).collect();
    memo.insert(MEMO.to_owned(), pins.memo(nonce.zip(key)));
    let mut search_attributes = pins.search_attributes();
    search_attributes.indexed_fields.extend(
        attributes
            .into_iter()
            .map(|(name, value)| (name, payload(value.to_payload()))),
    );
    // Temporal's own way to start with a signal answers an open run, but no run by the key
    // of its start, once it has ended. So with a key, and under any other policy, the signal
    // travels with the start.
    let uses_existing = start.id_conflict_policy == IdConflictPolicy::UseExisting;
    let in_header = match &start.signal {
        Some(signal) if !uses_existing || key.is_some() => Some(whole(signal.clone())?),
        _ => None,
    };
    let for_existing = start.signal.filter(|_| uses_existing);
    let mut header = RunHeader {
        traceparent: start.traceparent,
        pins: Some(pins),
        signal: in_header,
        ..RunHeader::default()
    };
    let shown = shown(&start.definition.flow.document);
    let served = matches!(core.options.tasks, Tasks::All | Tasks::Workflows)
        && core.options.namespaces.contains_key(&start.namespace);
    let message = sdk::StartWorkflowExecutionRequest {
        namespace: core.namespace(&start.namespace),
        workflow_id: start.workflow_id.clone(),
        workflow_type: Some(sdk::WorkflowType {
            name: start.definition.workflow_type,
        }),
        task_queue: Some(sdk::TaskQueue {
            name: start.task_queue.unwrap_or_else(|| GENERAL_QUEUE.to_owned()),
            kind: sdk::TaskQueueKind::Normal.into(),
            ..Default::default()
        }),
        input: Some(payloads(input)),
        identity: connection.identity().to_owned(),
        request_id: start
            .idempotency_key
            .unwrap_or_else(|| Uuid::now_v7().to_string()),
        workflow_id_reuse_policy: reuse(start.id_reuse_policy).into(),
        workflow_id_conflict_policy: conflict(start.id_conflict_policy).into(),
        memo: Some(sdk::Memo { fields: memo }),
        search_attributes: Some(search_attributes),
        header: Some(headers(&header)),
        user_metadata: Some(shown),
        // Its first task then comes with the answer.
        request_eager_execution: served,
        // The key answers the open run from now on, also when that has ended.
        on_conflict_options: (uses_existing && key.is_some()).then(|| sdk::OnConflictOptions {
            attach_request_id: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let run = RunRef {
        namespace: start.namespace,
        workflow_id: start.workflow_id,
        run_id: None,
    };
    let Some(keyed) = key.zip(nonce) else {
        let sent = send(core, &mut connection, message, for_existing).await;
        let (run_id, created) = sent.map_err(|status| not_started(core, run, &status))?;
        return Ok(Started {
            run_id: parsed(&run_id)?,
            created,
        });
    };
    let again = for_existing.map(|signal| {
        header.signal = None;
        let message = sdk::StartWorkflowExecutionRequest {
            header: Some(headers(&header)),
            on_conflict_options: None,
            ..message.clone()
        };
        (message, signal)
    });
    under_key(core, connection, run, keyed, message, again).await
}

/// Starts a run, or finds the one that a key answers, as `message` says. `again` is the
/// signal that came along, for an open run that is found, and the start that goes with it
/// where that run ends before it has the signal.
async fn under_key(
    core: &Core,
    mut connection: sdk::Connection,
    run: RunRef,
    (key, nonce): (Digest, Uuid),
    message: sdk::StartWorkflowExecutionRequest,
    again: Option<(sdk::StartWorkflowExecutionRequest, Signal)>,
) -> Result<Started, EngineError> {
    let (run_id, started) = match send(core, &mut connection, message, None).await {
        Ok(sent) => sent,
        Err(status) => {
            return match not_started(core, run.clone(), &status) {
                error @ EngineError::AlreadyExists { .. } => {
                    goes_on(core, &run, &key).await?.ok_or(error)
                }
                error => Err(error),
            };
        }
    };
    let run_id = parsed(&run_id)?;
    if started {
        return created_by(core, run, run_id, nonce).await;
    }
    if let Some(first) = goes_on(core, &run, &key).await? {
        // It had the signal from its start on.
        return Ok(first);
    }
    let existing = Started {
        run_id,
        created: false,
    };
    let Some((message, signal)) = again else {
        return Ok(existing);
    };
    let named = RunRef {
        run_id: Some(run_id),
        ..run.clone()
    };
    // A run that has ended takes a signal again that it had.
    match super::signal(core, &named, signal.clone()).await {
        Ok(()) => return Ok(existing),
        Err(EngineError::Closed { .. } | EngineError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let sent = send(core, &mut connection, message, Some(signal)).await;
    let (run_id, started) = sent.map_err(|status| not_started(core, run.clone(), &status))?;
    let run_id = parsed(&run_id)?;
    if started {
        return created_by(core, run, run_id, nonce).await;
    }
    Ok(Started {
        run_id,
        created: false,
    })
}

/// Sends a start, in one step with a signal where there is one. Answers the run's id, and
/// whether the cluster says that it was started, which it does of a repeated request too.
async fn send(
    core: &Core,
    connection: &mut sdk::Connection,
    message: sdk::StartWorkflowExecutionRequest,
    signal: Option<Signal>,
) -> Result<(String, bool), sdk::Status> {
    match signal {
        None => {
            let message = request(core, message, Duration::ZERO);
            let call = connection.start_workflow_execution(message);
            let started = answer(core, Duration::ZERO, call).await?;
            Ok((started.run_id, started.started))
        }
        Some(signal) => {
            let message = request(core, signal_with(message, signal), Duration::ZERO);
            let call = connection.signal_with_start_workflow_execution(message);
            let started = answer(core, Duration::ZERO, call).await?;
            Ok((started.run_id, started.started))
        }
    }
}

/// The run that was started under a key: created by this request, or by an earlier one.
async fn created_by(
    core: &Core,
    run: RunRef,
    run_id: Uuid,
    nonce: Uuid,
) -> Result<Started, EngineError> {
    let run = RunRef {
        run_id: Some(run_id),
        ..run
    };
    let info = describe(core, &run).await?.workflow_execution_info;
    let memo = info.and_then(|info| memo_of(info.memo.as_ref()));
    Ok(Started {
        run_id,
        created: memo.is_some_and(|memo| memo.request == Some(nonce)),
    })
}

fn parsed(run_id: &str) -> Result<Uuid, EngineError> {
    run_id
        .parse()
        .map_err(|_| EngineError::Internal(format!("Temporal's run id {run_id:?} is no UUID")))
}

/// What a start says of its run.
fn headers(header: &RunHeader) -> sdk::Header {
    sdk::Header {
        fields: [(RUN_HEADER.to_owned(), json_payload(header))].into(),
    }
}

/// The first of the runs that went on as the workflow's latest one, where that was started
/// under this key. The cluster itself knows the key of a run, not that of those before it.
async fn goes_on(core: &Core, run: &RunRef, key: &Digest) -> Result<Option<Started>, EngineError> {
    let info = describe(core, run).await?.workflow_execution_info;
    let info = info.unwrap_or_default();
    let memo = memo_of(info.memo.as_ref());
    if memo.and_then(|memo| memo.key) != Some(*key) {
        return Ok(None);
    }
    let first = info.first_run_id.parse().ok();
    Ok(first.map(|run_id| Started {
        run_id,
        created: false,
    }))
}

/// A signal as a start's header has it.
fn whole(signal: Signal) -> Result<StartSignal, EngineError> {
    let data = signal
        .data
        .to_json()
        .map_err(|error| EngineError::Invalid(format!("the signal's data: {error}")))?;
    Ok(StartSignal {
        header: SignalHeader::of(&signal),
        name: signal.name,
        data,
    })
}

/// A start, with a signal.
fn signal_with(
    start: sdk::StartWorkflowExecutionRequest,
    signal: Signal,
) -> sdk::SignalWithStartWorkflowExecutionRequest {
    let mut header = start.header.unwrap_or_default();
    header.fields.insert(
        SIGNAL_HEADER.to_owned(),
        json_payload(&SignalHeader::of(&signal)),
    );
    sdk::SignalWithStartWorkflowExecutionRequest {
        namespace: start.namespace,
        workflow_id: start.workflow_id,
        workflow_type: start.workflow_type,
        task_queue: start.task_queue,
        input: start.input,
        identity: start.identity,
        request_id: start.request_id,
        workflow_id_reuse_policy: start.workflow_id_reuse_policy,
        workflow_id_conflict_policy: start.workflow_id_conflict_policy,
        signal_name: signal.name,
        signal_input: Some(payloads(signal.data)),
        memo: start.memo,
        search_attributes: start.search_attributes,
        header: Some(header),
        user_metadata: start.user_metadata,
        ..Default::default()
    }
}

/// What Temporal's UI shows of a run beside its type: the flow's title and summary.
fn shown(document: &Document) -> sdk::UserMetadata {
    let text = |text: &Option<String>, limit| text.as_deref().map(|text| fitting(text, limit));
    sdk::UserMetadata {
        summary: text(&document.title, SUMMARY),
        details: text(&document.summary, DETAILS),
    }
}

fn not_started(core: &Core, run: RunRef, status: &sdk::Status) -> EngineError {
    if status.code() != sdk::Code::AlreadyExists {
        return refusal(core, status);
    }
    let details: Option<sdk::WorkflowExecutionAlreadyStartedFailure> =
        sdk::decode_status_detail(status.details());
    let run_id = details.and_then(|details| details.run_id.parse().ok());
    let reason = if status.message().contains("running") {
        "is already running"
    } else {
        "has already ended"
    };
    EngineError::AlreadyExists {
        workflow_id: run.workflow_id,
        run_id: run_id.unwrap_or_default(),
        reason,
    }
}

const fn reuse(policy: IdReusePolicy) -> sdk::WorkflowIdReusePolicy {
    match policy {
        IdReusePolicy::AllowDuplicate => sdk::WorkflowIdReusePolicy::AllowDuplicate,
        IdReusePolicy::AllowDuplicateFailedOnly => {
            sdk::WorkflowIdReusePolicy::AllowDuplicateFailedOnly
        }
        IdReusePolicy::RejectDuplicate => sdk::WorkflowIdReusePolicy::RejectDuplicate,
    }
}

const fn conflict(policy: IdConflictPolicy) -> sdk::WorkflowIdConflictPolicy {
    match policy {
        IdConflictPolicy::Fail => sdk::WorkflowIdConflictPolicy::Fail,
        IdConflictPolicy::UseExisting => sdk::WorkflowIdConflictPolicy::UseExisting,
        IdConflictPolicy::TerminateExisting => sdk::WorkflowIdConflictPolicy::TerminateExisting,
    }
}
