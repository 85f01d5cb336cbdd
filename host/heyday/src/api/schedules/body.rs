//! Schedules as the API takes and shows them. What a spec, a policy and a state have in
//! JSON is what the engine's own types have; the structures here say it to OpenAPI, and
//! refuse what is unknown.

use heyday_durable::payload::Payload;
use heyday_durable::schedule::{
    ActionResult, OverlapPolicy, Schedule, ScheduleAction, ScheduleDescription, ScheduleEntry,
    SchedulePage, SchedulePolicies, ScheduleSpec, ScheduleState,
};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::extract::check_json;
use crate::api::problem::Problem;

/// Values from `start` to `end`, each `step`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RangeBody {
    /// The first value.
    pub start: i16,
    /// The last one; only the first where absent.
    #[serde(default)]
    pub end: i16,
    /// How far from one to the next; 1 where absent.
    #[serde(default)]
    pub step: i16,
}

/// Matches a time when each field does.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(default)]
pub struct CalendarBody {
    /// 0 to 59; 0 where absent.
    pub second: Vec<RangeBody>,
    /// 0 to 59; 0 where absent.
    pub minute: Vec<RangeBody>,
    /// 0 to 23; 0 where absent.
    pub hour: Vec<RangeBody>,
    /// 1 to 31; every day where absent.
    pub day_of_month: Vec<RangeBody>,
    /// 1 to 12; every month where absent.
    pub month: Vec<RangeBody>,
    /// 2000 to 2100; every year where absent.
    pub year: Vec<RangeBody>,
    /// 0, which is Sunday, to 6; every day where absent.
    pub day_of_week: Vec<RangeBody>,
    /// What it is meant to be, for a person: at most 200 bytes.
    pub comment: String,
}

/// Each `every`, counted from the epoch plus `offset`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IntervalBody {
    /// How far from one to the next: whole seconds, at least one (`1h30m`, `PT90M`).
    #[schema(example = "1h")]
    pub every: String,
    /// How far after the epoch's multiples: whole seconds, less than `every`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<String>,
}

/// When: the times that any of its entries has, but those that `exclude_calendars` have.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(default)]
pub struct SpecBody {
    /// Cron strings, as Temporal reads them: 5 to 7 fields, `@daily` and its like,
    /// `@every 1h/10m`, with `CRON_TZ=Europe/Berlin` before them or not.
    #[schema(example = json!(["0 3 * * mon-fri"]))]
    pub cron: Vec<String>,
    /// Calendars.
    pub calendars: Vec<CalendarBody>,
    /// Intervals.
    pub intervals: Vec<IntervalBody>,
    /// Times that do not count.
    pub exclude_calendars: Vec<CalendarBody>,
    /// No time is before this one, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// No time is after this one, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<String>,
    /// Each time comes up to so much later, at most as far as the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<String>,
    /// Of calendars and cron strings, an IANA name; UTC where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// What a schedule starts.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionBody {
    /// The flow, `<document.namespace>.<document.name>`.
    #[schema(example = "docs.process")]
    pub workflow_type: String,
    /// A version of it; the one that is active when a run starts where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What the runs' ids begin with; a time follows. The schedule's id where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<String>,
    /// The queue of the runs' own tasks, `general-queue` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_queue: Option<String>,
    /// The input of each run: any JSON, at most 256 KiB.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub input: Option<Box<RawValue>>,
}

/// What happens where runs would overlap, times were missed, or runs fail.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(default)]
pub struct PoliciesBody {
    /// Where a run is open at the next time: `skip` (the default), `buffer_one`,
    /// `buffer_all`, `cancel_other`, `terminate_other` or `allow_all`.
    #[schema(value_type = String)]
    pub overlap: OverlapPolicy,
    /// A time that the server missed is made up for, if it is no longer ago: at least 10 s,
    /// a year where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catchup_window: Option<String>,
    /// Whether a run that failed or timed out pauses the schedule.
    pub pause_on_failure: bool,
}

/// Whether a schedule goes on.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(default)]
pub struct StateBody {
    /// Its times pass by.
    pub paused: bool,
    /// Why it was paused or not, for a person.
    pub note: String,
    /// Whether it ends after `remaining_actions`.
    pub limited_actions: bool,
    /// How many more times start a run, where they are limited.
    pub remaining_actions: u64,
}

/// A schedule.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleBody {
    /// When.
    pub spec: SpecBody,
    /// What is started.
    pub action: ActionBody,
    /// What happens when not all goes as it should.
    #[serde(default)]
    pub policies: PoliciesBody,
    /// Whether it goes on.
    #[serde(default)]
    pub state: StateBody,
}

/// A schedule to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateScheduleBody {
    /// The caller's id: 1 to 200 bytes, not beginning with `flow:`.
    #[schema(example = "nightly")]
    pub schedule_id: String,
    /// When.
    pub spec: SpecBody,
    /// What is started.
    pub action: ActionBody,
    /// What happens when not all goes as it should.
    #[serde(default)]
    pub policies: PoliciesBody,
    /// Whether it goes on.
    #[serde(default)]
    pub state: StateBody,
    /// Whether it starts a run at once as well.
    #[serde(default)]
    pub trigger_immediately: bool,
}

impl CreateScheduleBody {
    /// The schedule.
    pub(super) fn schedule(self) -> Result<Schedule, Problem> {
        let schedule = ScheduleBody {
            spec: self.spec,
            action: self.action,
            policies: self.policies,
            state: self.state,
        };
        schedule.schedule(&self.schedule_id)
    }
}

impl ScheduleBody {
    /// The schedule of that id.
    ///
    /// # Errors
    /// When a duration, a time or a version is none.
    pub(super) fn schedule(self, id: &str) -> Result<Schedule, Problem> {
        let version = self.action.version.map(|version| {
            semver::Version::parse(&version).map_err(|error| {
                Problem::invalid(format!(
                    "action: {version:?} is no semantic version: {error}"
                ))
            })
        });
        let input = match self.action.input {
            None => Payload::null(),
            Some(raw) => {
                let text = bytes::Bytes::from(String::from(Box::<str>::from(raw)));
                check_json(&text)?;
                Payload::json_bytes(text)
            }
        };
        Ok(Schedule {
            spec: same::<ScheduleSpec>("spec", &self.spec)?,
            action: ScheduleAction {
                workflow_type: self.action.workflow_type,
                version: version.transpose()?,
                workflow_id: self.action.workflow_id.unwrap_or_else(|| id.to_owned()),
                task_queue: self.action.task_queue,
                input,
            },
            policies: same::<SchedulePolicies>("policies", &self.policies)?,
            state: same::<ScheduleState>("state", &self.state)?,
        })
    }
}

/// The engine's type with the same JSON.
fn same<T: DeserializeOwned>(member: &str, body: &impl Serialize) -> Result<T, Problem> {
    let value = serde_json::to_value(body).map_err(|error| Problem::internal(&error))?;
    serde_json::from_value(value).map_err(|error| Problem::invalid(format!("{member}: {error}")))
}

/// A time, RFC 3339.
pub(super) fn time(member: &str, text: &str) -> Result<Timestamp, Problem> {
    text.parse().map_err(|error| {
        Problem::invalid(format!(
            "{member}: {text:?} is no time such as 2026-11-27T07:00:00Z: {error}"
        ))
    })
}

/// A schedule that was made.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedScheduleBody {
    /// Its id.
    pub schedule_id: String,
}

/// A run that a schedule started.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActionResultBody {
    /// The time before jitter; of a trigger, when it was asked for.
    pub schedule_time: String,
    /// When it was started.
    pub actual_time: String,
    /// The workflow id.
    pub workflow_id: String,
    /// The run.
    pub run_id: Uuid,
    /// Where it stood when the schedule last looked.
    #[schema(value_type = String)]
    pub status: heyday_durable::engine::ExecutionStatus,
}

impl From<ActionResult> for ActionResultBody {
    fn from(action: ActionResult) -> Self {
        Self {
            schedule_time: action.schedule_time.to_string(),
            actual_time: action.actual_time.to_string(),
            workflow_id: action.workflow_id,
            run_id: action.run_id,
            status: action.status,
        }
    }
}

/// An open run that a next one would overlap with.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunningBody {
    /// The workflow id.
    pub workflow_id: String,
    /// The run.
    pub run_id: Uuid,
}

/// What a schedule did and will do.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScheduleInfoBody {
    /// Runs that it started.
    pub action_count: u64,
    /// Times that were missed for longer than the catchup window.
    pub missed_catchup_window: u64,
    /// Times that were skipped because a run was open.
    pub overlap_skipped: u64,
    /// Starts that were dropped because too many waited.
    pub buffer_dropped: u64,
    /// Starts that wait for the end of an open run.
    pub buffer_size: u64,
    /// Open runs that a next one would overlap with.
    pub running_workflows: Vec<RunningBody>,
    /// The last 10 runs, the oldest first.
    pub recent_actions: Vec<ActionResultBody>,
    /// The next 10 times, with jitter.
    pub future_action_times: Vec<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_time: Option<String>,
    /// When it was last updated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_time: Option<String>,
}

/// A schedule in detail.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScheduleDetailBody {
    /// Its id.
    pub schedule_id: String,
    /// When.
    #[schema(value_type = SpecBody)]
    pub spec: ScheduleSpec,
    /// What is started.
    pub action: ActionBody,
    /// What happens when not all goes as it should.
    #[schema(value_type = PoliciesBody)]
    pub policies: SchedulePolicies,
    /// Whether it goes on.
    #[schema(value_type = StateBody)]
    pub state: ScheduleState,
    /// What it did and will do.
    pub info: ScheduleInfoBody,
}

impl ScheduleDetailBody {
    /// Of a description.
    pub(super) fn new(schedule_id: String, seen: ScheduleDescription) -> Result<Self, Problem> {
        let ScheduleDescription { schedule, info } = seen;
        let text = schedule.action.input.json_text()?.to_vec();
        let text = String::from_utf8(text).map_err(|error| Problem::internal(&error))?;
        let input = RawValue::from_string(text).map_err(|error| Problem::internal(&error))?;
        Ok(Self {
            schedule_id,
            spec: schedule.spec,
            action: ActionBody {
                workflow_type: schedule.action.workflow_type,
                version: schedule.action.version.map(|version| version.to_string()),
                workflow_id: Some(schedule.action.workflow_id),
                task_queue: schedule.action.task_queue,
                input: Some(input),
            },
            policies: schedule.policies,
            state: schedule.state,
            info: ScheduleInfoBody {
                action_count: info.action_count,
                missed_catchup_window: info.missed_catchup_window,
                overlap_skipped: info.overlap_skipped,
                buffer_dropped: info.buffer_dropped,
                buffer_size: info.buffer_size,
                running_workflows: info
                    .running_workflows
                    .into_iter()
                    .map(|(workflow_id, run_id)| RunningBody {
                        workflow_id,
                        run_id,
                    })
                    .collect(),
                recent_actions: info.recent_actions.into_iter().map(Into::into).collect(),
                future_action_times: texts(info.future_action_times),
                create_time: info.create_time.map(|time| time.to_string()),
                update_time: info.update_time.map(|time| time.to_string()),
            },
        })
    }
}

fn texts(times: Vec<Timestamp>) -> Vec<String> {
    times.into_iter().map(|time| time.to_string()).collect()
}

/// A schedule, as lists show it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScheduleRow {
    /// Its id.
    pub schedule_id: String,
    /// What it starts.
    pub workflow_type: String,
    /// When.
    #[schema(value_type = SpecBody)]
    pub spec: ScheduleSpec,
    /// Whether its times pass by.
    pub paused: bool,
    /// Why it was paused or not.
    pub note: String,
    /// Some of the last runs, the oldest first.
    pub recent_actions: Vec<ActionResultBody>,
    /// Some of the next times, with jitter.
    pub future_action_times: Vec<String>,
}

impl From<ScheduleEntry> for ScheduleRow {
    fn from(entry: ScheduleEntry) -> Self {
        Self {
            schedule_id: entry.schedule_id,
            workflow_type: entry.workflow_type,
            spec: entry.spec,
            paused: entry.paused,
            note: entry.note,
            recent_actions: entry.recent_actions.into_iter().map(Into::into).collect(),
            future_action_times: texts(entry.future_action_times),
        }
    }
}

/// A page of schedules.
#[derive(Debug, Serialize, ToSchema)]
pub struct SchedulesBody {
    /// The schedules.
    pub schedules: Vec<ScheduleRow>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

impl From<SchedulePage> for SchedulesBody {
    fn from(page: SchedulePage) -> Self {
        Self {
            schedules: page.schedules.into_iter().map(Into::into).collect(),
            next_page_token: page.next_page_token,
        }
    }
}

/// Why a schedule is paused or not.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoteBody {
    /// For those who look at it later: at most 1,000 bytes.
    #[serde(default)]
    pub note: Option<String>,
}

impl NoteBody {
    /// The note, or what is said where there is none.
    pub(super) fn or(self, otherwise: &str) -> String {
        self.note
            .filter(|note| !note.is_empty())
            .unwrap_or_else(|| otherwise.to_owned())
    }
}

/// A run now.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerBody {
    /// In place of the schedule's own policy.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub overlap: Option<OverlapPolicy>,
}

/// Times that have passed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillBody {
    /// The first time, RFC 3339.
    #[schema(example = "2026-11-01T00:00:00Z")]
    pub start_time: String,
    /// The last time, RFC 3339.
    #[schema(example = "2026-11-07T00:00:00Z")]
    pub end_time: String,
    /// In place of the schedule's own policy.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub overlap: Option<OverlapPolicy>,
}

/// Times of a schedule.
#[derive(Debug, Serialize, ToSchema)]
pub struct TimesBody {
    /// With jitter, RFC 3339.
    pub times: Vec<String>,
}
