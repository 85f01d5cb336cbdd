//! Runs in lists and in detail.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::Value;

use super::client::{self, answer, describe_status, id_of, memo_of, refusal, request};
use super::convert::{from_failure, from_payload, maybe_timestamp, timestamp};
use super::core::Core;
use super::events::{Shown, child_id};
use super::filter;
use super::history;
use super::pages;
use super::pins::{DIGESTS, EMITTED_MEMO, MEMO};
use super::queries;
use super::sdk::{self, WorkflowService as _};
use crate::driver::Listening;
use crate::embedded::events::{EventType, timestamp as stored_time};
use crate::embedded::state::RunState;
use crate::engine::{
    EngineError, ExecutionStatus, ListRuns, PendingActivity, PendingSignal, PendingState,
    RunDescription, RunInfo, RunPage, RunRef,
};
use crate::payload::Digest;
use crate::search::{SearchValue, check_name};

/// Where a run stands, in our words.
pub fn status_of(status: sdk::WorkflowExecutionStatus) -> ExecutionStatus {
    match status {
        sdk::WorkflowExecutionStatus::Failed => ExecutionStatus::Failed,
        sdk::WorkflowExecutionStatus::Canceled => ExecutionStatus::Canceled,
        sdk::WorkflowExecutionStatus::Terminated => ExecutionStatus::Terminated,
        sdk::WorkflowExecutionStatus::TimedOut => ExecutionStatus::TimedOut,
        sdk::WorkflowExecutionStatus::Completed => ExecutionStatus::Completed,
        sdk::WorkflowExecutionStatus::ContinuedAsNew => ExecutionStatus::ContinuedAsNew,
        _ => ExecutionStatus::Running,
    }
}

/// A run as lists show it; `None` for one of a foreign worker, which has no definition. One
/// that foreign code started is known by its queue until it is pinned, which one that could
/// not begin never is.
fn info_of(
    queues: &BTreeMap<String, usize>,
    namespace: &str,
    info: &sdk::WorkflowExecutionInfo,
) -> Option<RunInfo> {
    let memo = memo_of(info.memo.as_ref());
    if memo.is_none() && !queues.contains_key(&info.task_queue) {
        return None;
    }
    let (version, digest) = memo.map(|memo| (memo.version, memo.digest)).unzip();
    let execution = info.execution.clone().unwrap_or_default();
    let parent = info.parent_execution.as_ref().and_then(|parent| {
        let run_id = parent.run_id.parse().ok()?;
        Some((parent.workflow_id.clone(), run_id))
    });
    Some(RunInfo {
        namespace: namespace.to_owned(),
        run_id: execution.run_id.parse().ok()?,
        workflow_id: execution.workflow_id,
        workflow_type: info.r#type.clone().unwrap_or_default().name,
        version,
        digest,
        status: status_of(info.status()),
        started_at: timestamp(info.start_time),
        closed_at: maybe_timestamp(info.close_time),
        history_length: u64::try_from(info.history_length).unwrap_or_default(),
        parent,
        held: None,
    })
}

/// A run in detail. Temporal knows what is pending; the tasks behind it, the timers and
/// the pins stand in the history.
pub async fn describe(core: &Core, run: &RunRef) -> Result<RunDescription, EngineError> {
    let described = client::describe(core, run).await?;
    let known = described.workflow_execution_info.unwrap_or_default();
    let run_id = id_of(known.execution.as_ref())?;
    let length = u64::try_from(known.history_length).unwrap_or_default();
    let named = RunRef {
        run_id: Some(run_id),
        ..run.clone()
    };
    let (events, pins) = history::all(core, &named, length).await?;
    let mut info = info_of(&core.options.queues, &run.namespace, &known).ok_or_else(|| {
        EngineError::Invalid(format!(
            "workflow {:?} is no run of Heyday's: it is on the queue {:?}, which is not one of this server's",
            run.workflow_id, known.task_queue
        ))
    })?;
    if let Some(task) = described.pending_workflow_task {
        info.held = held(&events, task.attempt);
    }
    let mut state = RunState::default();
    for event in events.iter().filter_map(|event| event.event.as_ref()) {
        state.apply(event);
    }
    let open = info.status == ExecutionStatus::Running;
    // The history does not say what a flow listens for, nor which signals it took.
    let stands = match open && info.held.is_none() {
        true => queries::glance(core, &named).await.unwrap_or_default(),
        false => Value::Null,
    };
    let pending_listens = listens(&stands);
    let pending_signals = signals(&stands, &events);
    // A worker of an earlier release shows all and does not count them.
    let pending_signal_count = stands["signal_count"].as_u64();
    let pending_activities = described
        .pending_activities
        .into_iter()
        .map(|pending| pending_activity(core, run_id, &state, pending))
        .collect();
    let run_of = |bytes: &[u8]| uuid::Uuid::from_slice(bytes).ok();
    let first = events.first().and_then(|event| event.event.as_ref());
    let start = first.and_then(|first| first.start.as_ref());
    // The history was read later, and may say more than the state did.
    let last = events.last().filter(|_| !open);
    let continued_from = start.and_then(|start| run_of(&start.continued_from));
    let first_run_id = start.and_then(|start| run_of(&start.first_run_id));
    let continued_as = last.and_then(Shown::next_run);
    let timers = state.timers.iter().filter(|_| open);
    let memo = known.memo.unwrap_or_default().fields.into_iter();
    let children = described.pending_children.into_iter();
    let attributes = known.search_attributes.unwrap_or_default().indexed_fields;
    Ok(RunDescription {
        task_queue: known.task_queue,
        continued_from,
        continued_as,
        first_run_id: first_run_id.unwrap_or(run_id),
        search_attributes: attributes
            .into_iter()
            .filter(|(name, _)| check_name(name).is_ok())
            .filter_map(|(name, value)| {
                Some((name, SearchValue::from_payload(&from_payload(value))?))
            })
            .collect(),
        memo: memo
            .filter(|(name, _)| name != MEMO && name != EMITTED_MEMO)
            .map(|(name, value)| (name, from_payload(value)))
            .collect(),
        pinned: pins.map_or_else(BTreeMap::new, |pins| {
            let activities = pins.activities.into_iter();
            activities.map(|(name, pin)| (name, pin.digest)).collect()
        }),
        pending_activities,
        pending_timers: timers
            .map(|(id, timer)| (id.clone(), timer.task.clone(), stored_time(timer.due_us)))
            .collect(),
        // Those that the run does not wait for are pending there too.
        pending_children: children
            .filter(|child| {
                let known = state.children.get(&child_id(&child.workflow_id));
                known.is_some_and(|child| !child.initiated.detached)
            })
            .filter_map(|child| Some((child.workflow_id, child.run_id.parse().ok()?)))
            .collect(),
        pending_listens,
        pending_signal_count: pending_signal_count.unwrap_or(pending_signals.len() as u64),
        pending_signals,
        info,
    })
}

/// The tasks that listen, as a run says of itself.
fn listens(stands: &Value) -> Vec<Listening> {
    let listening = stands["listening"].as_array().into_iter().flatten();
    listening
        .map(|one| {
            let signals = one["signals"].as_array().into_iter().flatten();
            Listening {
                task: one["task"].as_str().unwrap_or_default().to_owned(),
                signals: signals
                    .filter_map(|name| name.as_str().map(ToOwned::to_owned))
                    .collect(),
                updates: one["updates"] == true,
            }
        })
        .collect()
}

/// The signals that no task has taken, as a run says of itself; its history knows when
/// they came.
fn signals(stands: &Value, events: &[Shown]) -> Vec<PendingSignal> {
    let came: HashMap<&str, i64> = events
        .iter()
        .filter_map(|event| event.event.as_ref())
        .filter(|event| event.event_type() == EventType::WorkflowExecutionSignaled)
        .map(|event| (event.id.as_str(), event.time_us))
        .collect();
    let waiting = stands["signals"].as_array().into_iter().flatten();
    waiting
        .map(|one| {
            let id = one["id"].as_str().unwrap_or_default();
            let text = |member: &str| one[member].as_str().unwrap_or_default();
            // One that an earlier run was sent is known by its event alone.
            let received_at = match came.get(id) {
                Some(came) => stored_time(*came),
                None => text("time").parse().unwrap_or_default(),
            };
            PendingSignal {
                name: text("name").to_owned(),
                id: id.to_owned(),
                received_at,
            }
        })
        .collect()
}

/// How often a run's workflow task is given out before what it fails by is no longer taken
/// for something that passes. By then the cluster waits longer and longer in between.
const PATIENCE: i32 = 10;

/// Why a run is held, if its workflow tasks fail because its history does not fit, or again
/// and again. `attempt` is the number of the pending one, from 1.
fn held(events: &[Shown], attempt: i32) -> Option<String> {
    if attempt <= 1 {
        return None;
    }
    let failed = events.iter().rev().map(Shown::history_event);
    let failed = failed
        .take_while(|event| event.event_type.starts_with("WorkflowTask"))
        .find(|event| event.event_type == "WorkflowTaskFailed")?;
    let message = failed.attributes["failure"]["message"].as_str()?;
    if failed.attributes["cause"] == "NonDeterministicError" {
        return Some(message.to_owned());
    }
    (attempt > PATIENCE).then(|| {
        let times = attempt - 1;
        format!("its workflow task has failed {times} times, and is tried again: {message}")
    })
}

fn pending_activity(
    core: &Core,
    run_id: uuid::Uuid,
    state: &RunState,
    pending: sdk::PendingActivityInfo,
) -> PendingActivity {
    let stage = pending.state();
    let scheduled = state.activities.get(&pending.activity_id);
    let scheduled = scheduled.map(|activity| activity.scheduled.clone());
    let scheduled = scheduled.unwrap_or_default();
    let attempt = u32::try_from(pending.attempt).unwrap_or(1);
    let next_attempt_at = maybe_timestamp(pending.next_attempt_schedule_time);
    let started = matches!(
        stage,
        sdk::PendingActivityState::Started
            | sdk::PendingActivityState::CancelRequested
            | sdk::PendingActivityState::PauseRequested
    );
    PendingActivity {
        activity_type: pending.activity_type.unwrap_or_default().name,
        queue: scheduled.queue,
        task: scheduled.task,
        state: match stage {
            sdk::PendingActivityState::CancelRequested => PendingState::CancelRequested,
            sdk::PendingActivityState::Started => PendingState::Started,
            sdk::PendingActivityState::Paused => PendingState::Paused,
            sdk::PendingActivityState::PauseRequested => PendingState::PauseRequested,
            _ if next_attempt_at.is_some() => PendingState::BackingOff,
            _ => PendingState::Scheduled,
        },
        attempt,
        // The history has the first schedule, Temporal's answer this attempt's.
        scheduled_at: if scheduled.time_us == 0 {
            timestamp(pending.scheduled_time)
        } else {
            stored_time(scheduled.time_us)
        },
        started_at: maybe_timestamp(pending.last_started_time).filter(|_| started),
        next_attempt_at: next_attempt_at.filter(|_| !started),
        last_failure: pending.last_failure.map(from_failure),
        progress: core.progress(run_id, &pending.activity_id, attempt),
        activity_id: pending.activity_id,
    }
}

/// Runs of ours that match a filter, in Temporal's order.
pub async fn list(core: &Core, wanted: &ListRuns) -> Result<RunPage, EngineError> {
    let page_token = pages::wanted(wanted.page_token.as_deref())?;
    let query = of_ours(core, &wanted.namespace, wanted.query.as_deref()).await?;
    let mut connection = core.connection()?;
    let message = sdk::ListWorkflowExecutionsRequest {
        namespace: core.namespace(&wanted.namespace),
        page_size: i32::try_from(wanted.page_size.clamp(1, 1_000)).unwrap_or(1_000),
        next_page_token: page_token,
        query,
    };
    let first = request(core, message.clone(), Duration::ZERO);
    let page = answer(
        core,
        Duration::ZERO,
        connection.list_workflow_executions(first),
    )
    .await
    .map_err(|status| refusal_of_filter(core, &status))?;
    let peek = move |next_page_token| async move {
        let message = sdk::ListWorkflowExecutionsRequest {
            page_size: 1,
            next_page_token,
            ..message
        };
        let call = connection.list_workflow_executions(request(core, message, Duration::ZERO));
        let next = answer(core, Duration::ZERO, call).await;
        next.map(|next| (next.executions.len(), next.next_page_token))
    };
    let next_page_token = pages::following(page.next_page_token, peek).await;
    let runs = page.executions.iter();
    Ok(RunPage {
        runs: runs
            .filter_map(|info| info_of(&core.options.queues, &wanted.namespace, info))
            .collect(),
        next_page_token,
    })
}

/// What a refusal of a filter means. Its values go to PostgreSQL as they are, and what
/// PostgreSQL refuses comes back as if it were away.
fn refusal_of_filter(core: &Core, status: &sdk::Status) -> EngineError {
    let wrong = ["invalid input syntax", "operator does not exist"];
    let says = |text: &&str| status.message().contains(*text);
    if status.code() == sdk::Code::Unavailable && wrong.iter().any(says) {
        return EngineError::Invalid(describe_status(status));
    }
    refusal(core, status)
}

/// The filter of our runs: those that are pinned, and those on our queues, which may not be
/// pinned yet.
fn ours(queues: &BTreeMap<String, usize>) -> String {
    // Their names are ours to check, and have no quotes.
    let names: Vec<String> = queues.keys().map(|name| format!("'{name}'")).collect();
    format!(
        "({DIGESTS} IS NOT NULL OR TaskQueue IN ({}))",
        names.join(", ")
    )
}

/// A filter that only our runs match.
async fn of_ours(core: &Core, namespace: &str, query: Option<&str>) -> Result<String, EngineError> {
    let ours = ours(&core.options.queues);
    Ok(match query.map(str::trim) {
        None | Some("") => ours,
        Some(query) => format!(
            "({}) AND {ours}",
            filter::meant(core, namespace, query).await?
        ),
    })
}

/// How many runs of ours match a filter.
pub async fn count(core: &Core, namespace: &str, query: Option<&str>) -> Result<u64, EngineError> {
    let query = of_ours(core, namespace, query).await?;
    ask_count(core, core.namespace(namespace), query).await
}

async fn ask_count(core: &Core, namespace: String, query: String) -> Result<u64, EngineError> {
    let mut connection = core.connection()?;
    let message = sdk::CountWorkflowExecutionsRequest { namespace, query };
    let call = connection.count_workflow_executions(request(core, message, Duration::ZERO));
    let counted = answer(core, Duration::ZERO, call)
        .await
        .map_err(|status| refusal_of_filter(core, &status))?;
    Ok(u64::try_from(counted.count).unwrap_or_default())
}

/// How many open runs are pinned to that digest, in all namespaces that are served. As
/// of late: Temporal's lists follow its histories within a moment.
pub async fn open_runs_using(core: &Core, digest: &Digest) -> Result<u64, EngineError> {
    let mut count = 0;
    for namespace in core.options.namespaces.values() {
        let query = format!("{DIGESTS} = '{digest}' AND ExecutionStatus = 'Running'");
        count += ask_count(core, namespace.clone(), query).await?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use temporalio_common::protos::temporal::api::enums::v1::EventType as Kind;
    use temporalio_common::protos::temporal::api::history::v1::WorkflowTaskFailedEventAttributes;
    use uuid::Uuid;

    use super::super::convert::failure;
    use super::super::events::{Names, read};
    use super::*;
    use crate::failure::{Failure, kind};

    fn failed(cause: sdk::WorkflowTaskFailedCause) -> Vec<Shown> {
        let failed = WorkflowTaskFailedEventAttributes {
            cause: cause.into(),
            failure: Some(failure(Failure::permanent(kind::INTERNAL, "why"), None)),
            ..Default::default()
        };
        let event = sdk::HistoryEvent {
            event_id: 4,
            event_type: Kind::WorkflowTaskFailed.into(),
            attributes: Some(sdk::Attributes::WorkflowTaskFailedEventAttributes(failed)),
            ..Default::default()
        };
        vec![read(&mut Names::default(), event)]
    }

    #[test]
    fn a_run_whose_task_fails_again_and_again_is_held_and_says_why() {
        let differs = failed(sdk::WorkflowTaskFailedCause::NonDeterministicError);
        assert_eq!(held(&differs, 1), None);
        assert_eq!(held(&differs, 2).as_deref(), Some("why"));
        let fails = failed(sdk::WorkflowTaskFailedCause::GrpcMessageTooLarge);
        // It may pass.
        assert_eq!(held(&fails, PATIENCE), None);
        let said = held(&fails, PATIENCE + 1).unwrap();
        assert!(said.contains("failed 10 times"), "{said}");
        assert!(said.ends_with(": why"), "{said}");
        // None has failed yet: no worker is there.
        assert_eq!(held(&[], PATIENCE + 1), None);
    }

    #[test]
    fn a_run_without_pins_is_known_by_its_queue() {
        let queues = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]);
        assert_eq!(
            ours(&queues),
            "(HeydayDigests IS NOT NULL OR TaskQueue IN ('a', 'b'))"
        );
        let run_id = Uuid::now_v7();
        let info = |queue: &str| sdk::WorkflowExecutionInfo {
            execution: Some(sdk::WorkflowExecution {
                workflow_id: "w".to_owned(),
                run_id: run_id.to_string(),
            }),
            task_queue: queue.to_owned(),
            ..Default::default()
        };
        let listed = info_of(&queues, "default", &info("b")).unwrap();
        assert_eq!((listed.run_id, listed.version), (run_id, None));
        assert_eq!(info_of(&queues, "default", &info("theirs")), None);
    }
}
