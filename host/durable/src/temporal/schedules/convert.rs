//! Between our schedules and Temporal's. All of it is pure.
//!
//! Cron strings go as the calendars that they mean, with the string as the comment: so they
//! mean there what they mean here, and can be shown as they were written.

use std::collections::BTreeSet;

use crate::definition::GENERAL_QUEUE;
use crate::engine::EngineError;
use crate::schedule::{
    ActionResult, CATCHUP_WINDOW, CalendarSpec, IntervalSpec, OverlapPolicy, Range, Schedule,
    ScheduleAction, ScheduleEntry, ScheduleInfo, SchedulePolicies, ScheduleSpec, ScheduleState,
};
use crate::temporal::convert::{
    argument, duration, from_duration, from_json_payload, json_payload, maybe_timestamp, payloads,
    timestamp, to_timestamp,
};
use crate::temporal::describe::status_of;
use crate::temporal::pins::{RUN_HEADER, RunHeader};
use crate::temporal::sdk;

/// Ours as Temporal's.
pub fn schedule(schedule: &Schedule) -> Result<sdk::Schedule, EngineError> {
    let Schedule {
        spec,
        action,
        policies,
        state,
    } = schedule;
    Ok(sdk::Schedule {
        spec: Some(to_spec(spec)?),
        action: Some(sdk::ScheduleAction {
            action: Some(sdk::schedule_action::Action::StartWorkflow(to_action(
                action,
            ))),
        }),
        policies: Some(sdk::SchedulePolicies {
            overlap_policy: overlap(Some(policies.overlap)).into(),
            catchup_window: duration(policies.catchup_window),
            pause_on_failure: policies.pause_on_failure,
            ..Default::default()
        }),
        state: Some(sdk::ScheduleState {
            notes: state.note.clone(),
            paused: state.paused,
            limited_actions: state.limited_actions,
            remaining_actions: i64::try_from(state.remaining_actions).unwrap_or(i64::MAX),
        }),
    })
}

fn to_action(action: &ScheduleAction) -> sdk::NewWorkflowExecutionInfo {
    let header = RunHeader {
        version: action.version.clone(),
        ..RunHeader::default()
    };
    sdk::NewWorkflowExecutionInfo {
        workflow_id: action.workflow_id.clone(),
        workflow_type: Some(sdk::WorkflowType {
            name: action.workflow_type.clone(),
        }),
        task_queue: Some(sdk::TaskQueue {
            name: action
                .task_queue
                .clone()
                .unwrap_or_else(|| GENERAL_QUEUE.to_owned()),
            kind: sdk::TaskQueueKind::Normal.into(),
            ..Default::default()
        }),
        input: Some(payloads(action.input.clone())),
        header: Some(sdk::Header {
            fields: [(RUN_HEADER.to_owned(), json_payload(&header))].into(),
        }),
        ..Default::default()
    }
}

fn to_spec(spec: &ScheduleSpec) -> Result<sdk::ScheduleSpec, EngineError> {
    let spec = spec.canonical().map_err(EngineError::Invalid)?;
    Ok(sdk::ScheduleSpec {
        structured_calendar: spec.calendars.iter().map(to_calendar).collect(),
        exclude_structured_calendar: spec.exclude_calendars.iter().map(to_calendar).collect(),
        interval: spec
            .intervals
            .iter()
            .map(|interval| sdk::IntervalSpec {
                interval: duration(interval.every),
                phase: Some(interval.offset)
                    .filter(|offset| !offset.is_zero())
                    .and_then(duration),
            })
            .collect(),
        start_time: spec.start_time.map(to_timestamp),
        end_time: spec.end_time.map(to_timestamp),
        jitter: spec
            .jitter
            .filter(|jitter| !jitter.is_zero())
            .and_then(duration),
        timezone_name: spec.time_zone.unwrap_or_default(),
        ..Default::default()
    })
}

fn to_calendar(calendar: &CalendarSpec) -> sdk::StructuredCalendarSpec {
    let calendar = calendar.complete();
    let ranges = |ranges: &[Range]| -> Vec<sdk::Range> {
        let ranges = ranges.iter().map(|range| sdk::Range {
            start: range.start.into(),
            end: range.end.into(),
            step: range.step.into(),
        });
        ranges.collect()
    };
    sdk::StructuredCalendarSpec {
        second: ranges(&calendar.second),
        minute: ranges(&calendar.minute),
        hour: ranges(&calendar.hour),
        day_of_month: ranges(&calendar.day_of_month),
        month: ranges(&calendar.month),
        year: ranges(&calendar.year),
        day_of_week: ranges(&calendar.day_of_week),
        comment: calendar.comment,
    }
}

/// Our overlap policy as Temporal's.
pub const fn overlap(policy: Option<OverlapPolicy>) -> sdk::ScheduleOverlapPolicy {
    match policy {
        None => sdk::ScheduleOverlapPolicy::Unspecified,
        Some(OverlapPolicy::Skip) => sdk::ScheduleOverlapPolicy::Skip,
        Some(OverlapPolicy::BufferOne) => sdk::ScheduleOverlapPolicy::BufferOne,
        Some(OverlapPolicy::BufferAll) => sdk::ScheduleOverlapPolicy::BufferAll,
        Some(OverlapPolicy::CancelOther) => sdk::ScheduleOverlapPolicy::CancelOther,
        Some(OverlapPolicy::TerminateOther) => sdk::ScheduleOverlapPolicy::TerminateOther,
        Some(OverlapPolicy::AllowAll) => sdk::ScheduleOverlapPolicy::AllowAll,
    }
}

const fn from_overlap(policy: sdk::ScheduleOverlapPolicy) -> OverlapPolicy {
    match policy {
        // What is not specified is skipped.
        sdk::ScheduleOverlapPolicy::Unspecified | sdk::ScheduleOverlapPolicy::Skip => {
            OverlapPolicy::Skip
        }
        sdk::ScheduleOverlapPolicy::BufferOne => OverlapPolicy::BufferOne,
        sdk::ScheduleOverlapPolicy::BufferAll => OverlapPolicy::BufferAll,
        sdk::ScheduleOverlapPolicy::CancelOther => OverlapPolicy::CancelOther,
        sdk::ScheduleOverlapPolicy::TerminateOther => OverlapPolicy::TerminateOther,
        sdk::ScheduleOverlapPolicy::AllowAll => OverlapPolicy::AllowAll,
    }
}

/// Temporal's as ours.
pub fn from_schedule(known: sdk::Schedule) -> Result<Schedule, EngineError> {
    let policies = known.policies.unwrap_or_default();
    let state = known.state.unwrap_or_default();
    let Some(sdk::schedule_action::Action::StartWorkflow(start)) =
        known.action.and_then(|action| action.action)
    else {
        return Err(EngineError::Invalid(
            "the schedule starts no workflow; another client made it".to_owned(),
        ));
    };
    let header = start.header.as_ref();
    let header = header.and_then(|header| header.fields.get(RUN_HEADER));
    let header: RunHeader = header
        .and_then(|header| from_json_payload(header).ok())
        .unwrap_or_default();
    let arguments = start.input.unwrap_or_default().payloads;
    let input = argument(arguments).map_err(|failure| EngineError::Invalid(failure.message))?;
    let task_queue = start.task_queue.map(|queue| queue.name);
    Ok(Schedule {
        spec: from_spec(known.spec.unwrap_or_default()),
        action: ScheduleAction {
            workflow_type: start.workflow_type.unwrap_or_default().name,
            version: header.version,
            workflow_id: start.workflow_id,
            task_queue: task_queue.filter(|name| !name.is_empty() && name != GENERAL_QUEUE),
            input,
        },
        policies: SchedulePolicies {
            overlap: from_overlap(policies.overlap_policy()),
            catchup_window: from_duration(policies.catchup_window).unwrap_or(CATCHUP_WINDOW),
            pause_on_failure: policies.pause_on_failure,
        },
        state: ScheduleState {
            paused: state.paused,
            note: state.notes,
            limited_actions: state.limited_actions,
            remaining_actions: u64::try_from(state.remaining_actions).unwrap_or_default(),
        },
    })
}

fn from_spec(spec: sdk::ScheduleSpec) -> ScheduleSpec {
    let calendars = |calendars: Vec<sdk::StructuredCalendarSpec>| {
        let calendars = calendars.into_iter().map(from_calendar);
        calendars.collect::<Vec<_>>()
    };
    ScheduleSpec {
        // Another client's cron strings have become calendars on the cluster.
        cron: spec.cron_string,
        calendars: calendars(spec.structured_calendar),
        intervals: spec
            .interval
            .into_iter()
            .map(|interval| IntervalSpec {
                every: from_duration(interval.interval).unwrap_or_default(),
                offset: from_duration(interval.phase).unwrap_or_default(),
            })
            .collect(),
        exclude_calendars: calendars(spec.exclude_structured_calendar),
        start_time: maybe_timestamp(spec.start_time),
        end_time: maybe_timestamp(spec.end_time),
        jitter: from_duration(spec.jitter),
        time_zone: Some(spec.timezone_name).filter(|zone| !zone.is_empty()),
    }
    .readable()
}

fn from_calendar(calendar: sdk::StructuredCalendarSpec) -> CalendarSpec {
    let ranges = |ranges: Vec<sdk::Range>| -> Vec<Range> {
        let number = |value: i32| i16::try_from(value).unwrap_or_default();
        let ranges = ranges.into_iter().map(|range| Range {
            start: number(range.start),
            // As few words as there can be.
            end: Some(number(range.end))
                .filter(|end| *end > number(range.start))
                .unwrap_or_default(),
            step: Some(number(range.step))
                .filter(|step| *step > 1)
                .unwrap_or_default(),
        });
        ranges.collect()
    };
    CalendarSpec {
        second: ranges(calendar.second),
        minute: ranges(calendar.minute),
        hour: ranges(calendar.hour),
        day_of_month: ranges(calendar.day_of_month),
        month: ranges(calendar.month),
        year: ranges(calendar.year),
        day_of_week: ranges(calendar.day_of_week),
        comment: calendar.comment,
    }
}

fn action(result: sdk::ScheduleActionResult) -> Option<ActionResult> {
    let status = status_of(result.start_workflow_status());
    let started = result.start_workflow_result?;
    let named = before_jitter(&started.workflow_id);
    Some(ActionResult {
        schedule_time: named.unwrap_or_else(|| timestamp(result.schedule_time)),
        actual_time: timestamp(result.actual_time),
        run_id: started.run_id.parse().ok()?,
        workflow_id: started.workflow_id,
        status,
    })
}

/// The time that a schedule's run is named after: what Temporal tells is the one with jitter.
fn before_jitter(workflow_id: &str) -> Option<jiff::Timestamp> {
    let at = workflow_id
        .len()
        .checked_sub("2026-11-28T00:20:54Z".len())?;
    workflow_id.get(at..)?.parse().ok()
}

fn times(times: Vec<sdk::Timestamp>) -> Vec<jiff::Timestamp> {
    let times = times.into_iter();
    times
        .filter_map(|time| maybe_timestamp(Some(time)))
        .collect()
}

/// What a schedule did and will do.
pub fn info(info: sdk::ScheduleInfo) -> ScheduleInfo {
    let count = |value: i64| u64::try_from(value).unwrap_or_default();
    let recent_actions: Vec<_> = info.recent_actions.into_iter().filter_map(action).collect();
    // A run that others may overlap with at any time is not one that is in the way.
    let running = info.running_workflows.into_iter();
    let running: BTreeSet<_> = running
        .filter_map(|run| Some((run.workflow_id, run.run_id.parse().ok()?)))
        .collect();
    ScheduleInfo {
        action_count: count(info.action_count),
        missed_catchup_window: count(info.missed_catchup_window),
        overlap_skipped: count(info.overlap_skipped),
        buffer_dropped: count(info.buffer_dropped),
        buffer_size: count(info.buffer_size),
        running_workflows: running.into_iter().collect(),
        recent_actions,
        future_action_times: times(info.future_action_times),
        create_time: maybe_timestamp(info.create_time),
        update_time: maybe_timestamp(info.update_time),
    }
}

/// A schedule, as lists show it.
pub fn entry(entry: sdk::ScheduleListEntry) -> ScheduleEntry {
    let info = entry.info.unwrap_or_default();
    ScheduleEntry {
        schedule_id: entry.schedule_id,
        workflow_type: info.workflow_type.unwrap_or_default().name,
        spec: from_spec(info.spec.unwrap_or_default()),
        paused: info.paused,
        note: info.notes,
        recent_actions: info.recent_actions.into_iter().filter_map(action).collect(),
        future_action_times: times(info.future_action_times),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::payload::Payload;

    #[test]
    fn a_schedule_comes_back_as_it_went() {
        let given: Schedule = serde_json::from_value(json!({
            "spec": {
                "cron": ["CRON_TZ=Europe/Berlin 0 3 * * mon-fri # nightly"],
                "calendars": [{"hour": [{"start": 9, "end": 17, "step": 2}], "comment": "office"}],
                "intervals": [{"every": "PT1H", "offset": "PT5M"}],
                "exclude_calendars": [{"day_of_month": [{"start": 24}], "month": [{"start": 12}]}],
                "start_time": "2026-01-01T00:00:00Z",
                "end_time": "2027-01-01T00:00:00Z",
                "jitter": "PT30S",
                "time_zone": "Europe/Berlin",
            },
            "action": {"workflow_type": "a.b", "version": "1.2.0", "workflow_id": "w", "task_queue": "narrow", "input": {"n": 1}},
            "policies": {"overlap": "buffer_one", "catchup_window": "PT1M", "pause_on_failure": true},
            "state": {"paused": true, "note": "x", "limited_actions": true, "remaining_actions": 3},
        }))
        .unwrap();
        let sent = schedule(&given).unwrap();
        assert!(sent.spec.as_ref().unwrap().cron_string.is_empty());
        let Some(sdk::schedule_action::Action::StartWorkflow(start)) =
            sent.action.clone().and_then(|action| action.action)
        else {
            panic!("{sent:?}");
        };
        assert_eq!(start.task_queue.unwrap().name, "narrow");
        let mut back = from_schedule(sent).unwrap();
        assert_eq!(back.spec.calendars, [given.spec.calendars[0].complete()]);
        back.spec.calendars.clone_from(&given.spec.calendars);
        assert_eq!(
            back.spec.exclude_calendars,
            [given.spec.exclude_calendars[0].complete()]
        );
        back.spec
            .exclude_calendars
            .clone_from(&given.spec.exclude_calendars);
        assert_eq!(back, given);
    }

    #[test]
    fn an_action_tells_the_time_before_jitter() {
        let told = |workflow_id: &str| {
            let run = sdk::WorkflowExecution {
                workflow_id: workflow_id.to_owned(),
                run_id: uuid::Uuid::now_v7().to_string(),
            };
            let result = sdk::ScheduleActionResult {
                schedule_time: Some(to_timestamp("2026-11-28T00:20:55.581Z".parse().unwrap())),
                start_workflow_result: Some(run),
                ..Default::default()
            };
            action(result).unwrap().schedule_time.to_string()
        };
        assert_eq!(told("s-2026-11-28T00:20:54Z"), "2026-11-28T00:20:54Z");
        // One that another release named otherwise.
        assert_eq!(told("s"), "2026-11-28T00:20:55.581Z");
        assert_eq!(told("Uhr-überall-und-immer-é"), "2026-11-28T00:20:55.581Z");
    }

    #[test]
    fn what_is_not_said_is_temporal_s_default() {
        let start = sdk::NewWorkflowExecutionInfo {
            workflow_id: "w".to_owned(),
            ..Default::default()
        };
        let bare = sdk::Schedule {
            action: Some(sdk::ScheduleAction {
                action: Some(sdk::schedule_action::Action::StartWorkflow(start)),
            }),
            ..Default::default()
        };
        let read = from_schedule(bare).unwrap();
        assert_eq!(read.policies, SchedulePolicies::default());
        assert_eq!(read.state, ScheduleState::default());
        assert_eq!(read.action.input, Payload::null());
        assert_eq!(
            read.policies.catchup_window,
            Duration::from_secs(31_536_000)
        );
        assert!(from_schedule(sdk::Schedule::default()).is_err());
    }
}
