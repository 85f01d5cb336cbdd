//! Core's commands as the events that record them, for comparison with recorded ones.

use std::time::Duration;

use crate::activity::ActivityTimeouts;
use crate::definition::ParentClosePolicy;
use crate::embedded::convert::{EMITTED, signaled};
use crate::embedded::events::{Event, EventType, StoredParentClose, microseconds};
use crate::payload::{Digest, JSON_PLAIN, Payload};
use crate::signal::Signal;

use super::super::client::reason_of;
use super::super::convert::{
    first, from_duration, from_failure, from_json_payload, from_payload, from_retry,
};
use super::super::events::child_id;
use super::super::pins::{
    ACTIVITY_HEADER, ActivityHeader, EMITTED_MEMO, RESUME_HEADER, RUN_HEADER, RunHeader,
    signal_header,
};
use super::super::sdk;

/// What a command's event says, as far as it is compared; `None` for what is not: pins,
/// search attributes, the acceptance of an update.
pub fn event_of(command: sdk::WorkflowCommand) -> Option<Event> {
    use sdk::CommandVariant as C;
    let new = |kind: EventType, id: String| Event::new(kind, jiff::Timestamp::UNIX_EPOCH, id);
    let summary = command.user_metadata.and_then(|metadata| metadata.summary);
    let summary = summary.and_then(|summary| from_json_payload::<String>(&summary).ok());
    let mut event = match command.variant? {
        C::ScheduleActivity(activity) => {
            let header = activity.headers.get(ACTIVITY_HEADER);
            let header: ActivityHeader = header
                .and_then(|header| from_json_payload(header).ok())
                .unwrap_or_default();
            Event {
                name: activity.activity_type,
                version: header.version.map(|v| v.to_string()).unwrap_or_default(),
                digest: header
                    .digest
                    .map(|digest| digest.as_bytes().to_vec())
                    .unwrap_or_default(),
                queue: activity.task_queue,
                payload: Some(only(activity.arguments)),
                timeouts: Some(
                    ActivityTimeouts {
                        schedule_to_close: from_duration(activity.schedule_to_close_timeout),
                        schedule_to_start: from_duration(activity.schedule_to_start_timeout),
                        start_to_close: from_duration(activity.start_to_close_timeout),
                        heartbeat: from_duration(activity.heartbeat_timeout),
                    }
                    .into(),
                ),
                retry: activity
                    .retry_policy
                    .map(|policy| from_retry(policy).into()),
                task: header.task,
                ..new(EventType::ActivityTaskScheduled, activity.activity_id)
            }
        }
        C::RequestCancelActivity(cancel) => new(
            EventType::ActivityTaskCancelRequested,
            cancel.seq.to_string(),
        ),
        C::StartTimer(timer) => Event {
            duration_us: microseconds(
                from_duration(timer.start_to_fire_timeout).unwrap_or_default(),
            ),
            ..new(EventType::TimerStarted, timer.seq.to_string())
        },
        C::CancelTimer(timer) => new(EventType::TimerCanceled, timer.seq.to_string()),
        C::StartChildWorkflowExecution(child) => {
            let header = child.headers.get(RUN_HEADER);
            let header: RunHeader = header
                .and_then(|header| from_json_payload(header).ok())
                .unwrap_or_default();
            let policy = match child.parent_close_policy() {
                sdk::ParentClosePolicy::Terminate => ParentClosePolicy::Terminate,
                sdk::ParentClosePolicy::Abandon => ParentClosePolicy::Abandon,
                sdk::ParentClosePolicy::RequestCancel => ParentClosePolicy::RequestCancel,
                sdk::ParentClosePolicy::Unspecified => {
                    ParentClosePolicy::default_for(header.detached)
                }
            };
            Event {
                name: child.workflow_type,
                version: header.version.map(|v| v.to_string()).unwrap_or_default(),
                detached: header.detached,
                parent_close: StoredParentClose::of(policy, header.detached),
                payload: Some(only(child.input)),
                ..new(
                    EventType::StartChildWorkflowExecutionInitiated,
                    child_id(&child.workflow_id),
                )
            }
        }
        C::CancelChildWorkflowExecution(cancel) => new(
            EventType::RequestCancelExternalWorkflowExecutionInitiated,
            cancel.child_workflow_seq.to_string(),
        ),
        // Only children are asked.
        C::RequestCancelExternalWorkflowExecution(cancel) => new(
            EventType::RequestCancelExternalWorkflowExecutionInitiated,
            cancel.seq.to_string(),
        ),
        C::ModifyWorkflowProperties(changed) => {
            let mut fields = changed.upserted_memo.unwrap_or_default().fields;
            Event {
                name: EMITTED.to_owned(),
                payload: Some(from_payload(fields.remove(EMITTED_MEMO)?)),
                ..new(EventType::MarkerRecorded, String::new())
            }
        }
        C::SignalExternalWorkflowExecution(sent) => {
            let header = signal_header(&sent.headers).unwrap_or_default();
            let workflow_id = match sent.target {
                Some(sdk::SignalTarget::WorkflowExecution(run)) => run.workflow_id,
                Some(sdk::SignalTarget::ChildWorkflowId(id)) => id,
                None => String::new(),
            };
            let signal = Signal {
                name: sent.signal_name,
                id: header.id.clone(),
                attributes: header.attributes,
                data: only(sent.args),
            };
            Event {
                kind: EventType::SignalExternalWorkflowExecutionInitiated as i32,
                id: sent.seq.to_string(),
                reason: header.id,
                workflow_id,
                ..signaled(signal, jiff::Timestamp::UNIX_EPOCH)
            }
        }
        C::UpdateResponse(update) => {
            use sdk::update_response::Response;
            let event = new(
                EventType::WorkflowExecutionUpdateCompleted,
                update.protocol_instance_id,
            );
            match update.response? {
                Response::Accepted(()) => return None,
                Response::Completed(result) => Event {
                    payload: Some(from_payload(result)),
                    ..event
                },
                Response::Rejected(why) => Event {
                    failure: Some(from_failure(why).into()),
                    ..event
                },
            }
        }
        C::CompleteWorkflowExecution(done) => Event {
            payload: Some(done.result.map_or_else(Payload::null, from_payload)),
            ..new(EventType::WorkflowExecutionCompleted, String::new())
        },
        C::FailWorkflowExecution(failed) => Event {
            failure: failed.failure.map(|failure| from_failure(failure).into()),
            ..new(EventType::WorkflowExecutionFailed, String::new())
        },
        C::CancelWorkflowExecution(cancelled) => Event {
            reason: reason_of(cancelled.details).unwrap_or_default(),
            ..new(EventType::WorkflowExecutionCanceled, String::new())
        },
        C::ContinueAsNewWorkflowExecution(next) => Event {
            payload: next.headers.get(RESUME_HEADER).cloned().map(from_payload),
            ..new(EventType::WorkflowExecutionContinuedAsNew, String::new())
        },
        _ => return None,
    };
    if let Some(summary) = summary
        && event.task.is_empty()
    {
        event.task = summary;
    }
    Some(event)
}

/// A recorded command, as far as it is compared: what the cluster adds or changes is left
/// out.
pub fn comparable(recorded: Event) -> Event {
    let of_child = [
        EventType::StartChildWorkflowExecutionInitiated,
        EventType::RequestCancelExternalWorkflowExecutionInitiated,
    ];
    let of_task = [
        EventType::ActivityTaskScheduled,
        EventType::TimerStarted,
        EventType::StartChildWorkflowExecutionInitiated,
        EventType::MarkerRecorded,
        EventType::SignalExternalWorkflowExecutionInitiated,
    ];
    let mut event = Event {
        time_us: 0,
        attempt: 0,
        due_us: 0,
        depth: 0,
        ..recorded
    };
    if !of_task.contains(&event.event_type()) {
        // Core shows the task of what is taken back.
        event.task.clear();
    }
    let goes_on = [
        EventType::WorkflowExecutionContinuedAsNew,
        EventType::WorkflowExecutionCompleted,
        EventType::WorkflowExecutionFailed,
    ];
    if goes_on.contains(&event.event_type()) {
        // The next run's id is the cluster's. A cron or a retry policy has one as well.
        event.run_id.clear();
    }
    if of_child.contains(&event.event_type()) {
        // It is made of the run's id and the child's.
        event.workflow_id.clear();
        if event.event_type() != EventType::StartChildWorkflowExecutionInitiated {
            event.reason.clear();
        }
    }
    event
}

/// A command with an activity's timeouts as the cluster records them: what was not said is
/// as long as what contains it, and nothing is longer than the run's timeout, where it has
/// one. What is recorded already stays.
pub fn with_timeouts_filled_in(command: Event, run: Option<Duration>) -> Event {
    let Some(timeouts) = command.timeouts else {
        return command;
    };
    let within = |one: Option<Duration>, whole: Option<Duration>| match (one, whole) {
        (Some(one), Some(whole)) => Some(one.min(whole)),
        (one, whole) => one.or(whole),
    };
    let given = ActivityTimeouts::from(timeouts);
    let close = within(given.schedule_to_close, run);
    let start_to_close = within(given.start_to_close, close);
    let filled = ActivityTimeouts {
        schedule_to_close: close,
        schedule_to_start: within(given.schedule_to_start, close),
        start_to_close,
        // One that was not said is none.
        heartbeat: given
            .heartbeat
            .and_then(|heartbeat| within(Some(heartbeat), start_to_close)),
    };
    Event {
        timeouts: Some(filled.into()),
        ..command
    }
}

/// A command whose value is as the history has it, where it is the same one: how much a
/// workflow task said decides which values go by reference, and earlier releases did not ask.
pub fn with_value_as_recorded(expected: Event, recorded: &Event) -> Event {
    let (Some(ours), Some(theirs)) = (&expected.payload, &recorded.payload) else {
        return expected;
    };
    let digest = digest_of(ours);
    if ours == theirs || digest.is_none() || digest != digest_of(theirs) {
        return expected;
    }
    Event {
        payload: recorded.payload.clone(),
        ..expected
    }
}

/// The digest of a value, inline or by reference.
fn digest_of(value: &Payload) -> Option<Digest> {
    match value.as_blob_ref() {
        Ok(Some(reference)) => Some(reference.digest),
        Ok(None) if value.encoding() == JSON_PLAIN => Some(Digest::of(&value.data)),
        _ => None,
    }
}

/// Drops what core never tells the cluster: what is asked for and taken back within one
/// workflow task.
pub fn without_taken_back(commands: Vec<Event>) -> Vec<Event> {
    let mut kept: Vec<Event> = Vec::with_capacity(commands.len());
    for command in commands {
        let asked_for = match command.event_type() {
            EventType::ActivityTaskCancelRequested => EventType::ActivityTaskScheduled,
            EventType::TimerCanceled => EventType::TimerStarted,
            EventType::RequestCancelExternalWorkflowExecutionInitiated => {
                EventType::StartChildWorkflowExecutionInitiated
            }
            _ => {
                kept.push(command);
                continue;
            }
        };
        let at = kept
            .iter()
            .position(|earlier| earlier.event_type() == asked_for && earlier.id == command.id);
        match at {
            Some(at) => drop(kept.remove(at)),
            None => kept.push(command),
        }
    }
    kept
}

/// The only one of some payloads; null where there is none.
fn only(list: Vec<sdk::Payload>) -> Payload {
    first(Some(sdk::Payloads { payloads: list }))
}

#[cfg(test)]
mod tests {
    use super::super::super::convert::payload;
    use super::*;

    #[test]
    fn what_was_taken_back_at_once_was_never_told() {
        let event = |kind, id: &str| Event::new(kind, jiff::Timestamp::UNIX_EPOCH, id);
        let kept = without_taken_back(vec![
            event(EventType::ActivityTaskScheduled, "1"),
            event(EventType::TimerStarted, "1"),
            event(EventType::ActivityTaskCancelRequested, "1"),
            event(EventType::TimerCanceled, "7"),
        ]);
        let kept: Vec<_> = kept.iter().map(Event::event_type).collect();
        assert_eq!(kept, [EventType::TimerStarted, EventType::TimerCanceled]);
    }

    #[test]
    fn the_run_that_the_cluster_starts_next_is_not_compared() {
        let at = jiff::Timestamp::UNIX_EPOCH;
        for (variant, kind) in [
            (
                sdk::CommandVariant::CompleteWorkflowExecution(Default::default()),
                EventType::WorkflowExecutionCompleted,
            ),
            (
                sdk::CommandVariant::FailWorkflowExecution(Default::default()),
                EventType::WorkflowExecutionFailed,
            ),
        ] {
            let command = sdk::WorkflowCommand {
                variant: Some(variant),
                ..Default::default()
            };
            let commanded = event_of(command).unwrap();
            let recorded = Event {
                time_us: 7,
                run_id: vec![1; 16],
                payload: commanded.payload.clone(),
                ..Event::new(kind, at, "")
            };
            assert_eq!(comparable(recorded), commanded);
        }
    }

    #[test]
    fn a_value_is_the_same_inline_and_by_reference() {
        let inline = Payload::json(&serde_json::json!({"n": 1}));
        let reference = Payload::blob_ref(&crate::payload::BlobRef {
            digest: Digest::of(&inline.data),
            size: inline.data.len() as u64,
        });
        let of = |payload: &Payload| Event {
            payload: Some(payload.clone()),
            ..Event::new(
                EventType::ActivityTaskScheduled,
                jiff::Timestamp::UNIX_EPOCH,
                "1",
            )
        };
        for (ours, theirs) in [(&inline, &reference), (&reference, &inline)] {
            let recorded = of(theirs);
            assert_eq!(with_value_as_recorded(of(ours), &recorded), recorded);
        }
        let other = of(&Payload::json(&serde_json::json!({"n": 2})));
        assert_eq!(
            with_value_as_recorded(other.clone(), &of(&reference)),
            other
        );
    }

    #[test]
    fn timeouts_are_as_the_cluster_fills_them_in() {
        let seconds = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        // schedule_to_close, schedule_to_start, start_to_close, heartbeat
        let of = |it: [u64; 4]| ActivityTimeouts {
            schedule_to_close: seconds(it[0]),
            schedule_to_start: seconds(it[1]),
            start_to_close: seconds(it[2]),
            heartbeat: seconds(it[3]),
        };
        for (said, run, recorded) in [
            ([0, 0, 300, 0], 0, [0, 0, 300, 0]),
            ([60, 0, 300, 0], 0, [60, 60, 60, 0]),
            ([60, 10, 0, 90], 0, [60, 10, 60, 60]),
            ([0, 5, 300, 30], 0, [0, 5, 300, 30]),
            ([0, 0, 300, 0], 100, [100, 100, 100, 0]),
        ] {
            let command = Event {
                timeouts: Some(of(said).into()),
                ..Event::new(
                    EventType::ActivityTaskScheduled,
                    jiff::Timestamp::UNIX_EPOCH,
                    "1",
                )
            };
            let filled = with_timeouts_filled_in(command, seconds(run));
            assert_eq!(filled.timeouts, Some(of(recorded).into()), "{said:?}");
            let again = with_timeouts_filled_in(filled.clone(), seconds(run));
            assert_eq!(again, filled);
        }
    }

    #[test]
    fn what_is_not_compared_is_no_event() {
        let memo = sdk::ModifyWorkflowProperties {
            upserted_memo: Some(sdk::Memo {
                fields: [("heyday".to_owned(), payload(Payload::null()))].into(),
            }),
        };
        let command = |variant| sdk::WorkflowCommand {
            variant: Some(variant),
            ..Default::default()
        };
        assert_eq!(
            event_of(command(sdk::CommandVariant::ModifyWorkflowProperties(memo))),
            None
        );
        let accepted = sdk::UpdateResponse {
            protocol_instance_id: "u".to_owned(),
            response: Some(sdk::update_response::Response::Accepted(())),
        };
        assert_eq!(
            event_of(command(sdk::CommandVariant::UpdateResponse(accepted))),
            None
        );
    }
}
