//! Schedules: what starts runs by itself, at times.
//!
//! Temporal defines what a schedule means, and its names are used here: a
//! [`ScheduleSpec`] says when, a [`ScheduleAction`] what is started, [`SchedulePolicies`]
//! what happens where runs would overlap or times were missed, a [`ScheduleState`]
//! whether it goes on. An engine takes them through [`Schedules`].
//!
//! Temporal's cluster computes its times itself; the embedded engine, and whoever wants
//! to know them beforehand, does it with [`Times`], which follows the same rules:
//!
//! - A time is a whole second. It matches a calendar when each of its fields does, day of
//!   the month *and* day of the week, which is not what cron does.
//! - Where clocks are set forward, a time that does not exist is left out; where they are
//!   set back, a time that comes twice is taken twice.
//! - Jitter moves a time by an amount that its schedule and the time itself determine, and
//!   never past the next one.
//!
//! The run of a time has the workflow id `<workflow id>-<time>`, the time before jitter.

mod calendar;
mod cron;
mod spec;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails should panic")]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use calendar::{CalendarSpec, Range};
pub use spec::{IntervalSpec, ScheduleSpec, ScheduledTime, Times};

use crate::engine::{EngineError, ExecutionStatus};
use crate::payload::{BINARY_NULL, INLINE_LIMIT, JSON_PLAIN, Payload};

/// Bytes of a schedule's id, and of the workflow id of its action. With a time behind it
/// that is still a workflow id.
pub const ID_LIMIT: usize = 200;

/// Bytes of a note.
pub const NOTE_LIMIT: usize = 1_000;

/// Actions that a description shows, the last ones.
pub const RECENT_ACTIONS: usize = 10;

/// Times to come that a description shows.
pub const FUTURE_TIMES: usize = 10;

/// Times that [`Schedules::schedule_times`] answers at most, and that one backfill may have.
pub const TIMES_LIMIT: usize = 1_000;

/// How late a time may be that a server missed, where the schedule says nothing: Temporal's
/// year.
pub const CATCHUP_WINDOW: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The shortest catchup window; Temporal's.
pub const SHORTEST_CATCHUP_WINDOW: Duration = Duration::from_secs(10);

/// Names a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScheduleRef {
    /// The namespace.
    pub namespace: String,
    /// The caller's id: 1 to [`ID_LIMIT`] bytes of UTF-8.
    pub schedule_id: String,
}

/// A schedule, as it was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// When.
    pub spec: ScheduleSpec,
    /// What is started.
    pub action: ScheduleAction,
    /// What happens where runs would overlap, times were missed, or runs fail.
    #[serde(default)]
    pub policies: SchedulePolicies,
    /// Whether it goes on.
    #[serde(default)]
    pub state: ScheduleState,
}

impl Schedule {
    /// Refuses what no engine takes, and answers its times.
    pub(crate) fn check(&self, reference: &ScheduleRef) -> Result<Times, EngineError> {
        check_id("a schedule's id", &reference.schedule_id)?;
        self.action.check()?;
        if self.policies.catchup_window < SHORTEST_CATCHUP_WINDOW {
            return Err(EngineError::Invalid(
                "a catchup window has at least 10 seconds".to_owned(),
            ));
        }
        check_note(&self.state.note)?;
        Times::new(reference, &self.spec).map_err(EngineError::Invalid)
    }
}

fn check_id(what: &str, id: &str) -> Result<(), EngineError> {
    if (1..=ID_LIMIT).contains(&id.len()) {
        return Ok(());
    }
    Err(EngineError::Invalid(format!(
        "{what} has 1 to {ID_LIMIT} bytes, this one has {}",
        id.len()
    )))
}

pub(crate) fn check_note(note: &str) -> Result<(), EngineError> {
    if note.len() <= NOTE_LIMIT {
        return Ok(());
    }
    Err(EngineError::Invalid(format!(
        "a note has at most {NOTE_LIMIT} bytes, this one has {}",
        note.len()
    )))
}

/// What a schedule starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleAction {
    /// The workflow type.
    pub workflow_type: String,
    /// A version; the one that is active when the run starts where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<semver::Version>,
    /// What the runs' workflow ids begin with: 1 to [`ID_LIMIT`] bytes of UTF-8.
    pub workflow_id: String,
    /// The queue of the runs' own tasks;
    /// [`GENERAL_QUEUE`](crate::definition::GENERAL_QUEUE) where absent. It must be one that
    /// there is, which the caller has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_queue: Option<String>,
    /// The input of each run: `json/plain` or `binary/null`, at most [`INLINE_LIMIT`]
    /// bytes. It is kept with the schedule, never by reference.
    #[serde(with = "json_payload")]
    pub input: Payload,
}

impl ScheduleAction {
    fn check(&self) -> Result<(), EngineError> {
        check_id("the workflow id of a schedule", &self.workflow_id)?;
        if self.workflow_type.is_empty() {
            return Err(EngineError::Invalid(
                "a schedule names the workflow type that it starts".to_owned(),
            ));
        }
        let encoding = self.input.encoding();
        if encoding != JSON_PLAIN && encoding != BINARY_NULL {
            return Err(EngineError::Invalid(format!(
                "the input's encoding {encoding:?} is not supported; use {JSON_PLAIN:?}"
            )));
        }
        if self.input.data.len() > INLINE_LIMIT {
            return Err(EngineError::TooLarge {
                what: "a schedule's input",
                size: self.input.data.len() as u64,
                limit: INLINE_LIMIT as u64,
            });
        }
        Ok(())
    }

    /// The workflow id of the run of that time.
    #[must_use]
    pub fn workflow_id_at(&self, nominal: Timestamp) -> String {
        format!("{}-{}", self.workflow_id, whole_second(nominal))
    }
}

/// That time without its fraction.
pub(crate) fn whole_second(time: Timestamp) -> Timestamp {
    // A second of a time that there is, is one.
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// What happens where a run of the schedule is open at the next time; Temporal's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverlapPolicy {
    /// Nothing is started.
    #[default]
    Skip,
    /// One start waits for the end of the open run; further ones are skipped.
    BufferOne,
    /// All starts wait, each for the end of the one before.
    BufferAll,
    /// The open run is asked to cancel, and the start waits for its end.
    CancelOther,
    /// The open run ends by force, and the start follows.
    TerminateOther,
    /// It is started beside the open ones, which then count as open for no other time.
    AllowAll,
}

/// How a schedule behaves when not all goes as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulePolicies {
    /// Where runs would overlap.
    pub overlap: OverlapPolicy,
    /// A time that was missed while the server was away is made up for, if it is no longer
    /// ago than this. At least [`SHORTEST_CATCHUP_WINDOW`].
    #[serde(with = "crate::flow::duration::required")]
    pub catchup_window: Duration,
    /// Whether a run that failed or timed out pauses the schedule. Runs of
    /// [`OverlapPolicy::AllowAll`] do not.
    pub pause_on_failure: bool,
}

impl Default for SchedulePolicies {
    fn default() -> Self {
        Self {
            overlap: OverlapPolicy::default(),
            catchup_window: CATCHUP_WINDOW,
            pause_on_failure: false,
        }
    }
}

/// Whether a schedule goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleState {
    /// Its times pass by; triggers and backfills do not.
    pub paused: bool,
    /// Why it was paused or not, for a person: at most [`NOTE_LIMIT`] bytes.
    pub note: String,
    /// Whether it ends after [`remaining_actions`](Self::remaining_actions).
    pub limited_actions: bool,
    /// How many more times start a run, where they are limited.
    pub remaining_actions: u64,
}

/// A schedule to make.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateSchedule {
    /// Its name.
    pub reference: ScheduleRef,
    /// What it is.
    pub schedule: Schedule,
    /// Whether it starts a run at once as well.
    pub trigger_immediately: bool,
}

/// What is asked of a schedule beside changing it.
#[derive(Debug, Clone, PartialEq)]
pub enum SchedulePatch {
    /// Let its times pass by.
    Pause {
        /// Why: 1 to [`NOTE_LIMIT`] bytes.
        note: String,
    },
    /// Go on.
    Unpause {
        /// Why: 1 to [`NOTE_LIMIT`] bytes.
        note: String,
    },
    /// Start a run now, also where it is paused.
    TriggerImmediately {
        /// In place of the schedule's own policy.
        overlap: Option<OverlapPolicy>,
        /// The time that its run is named after; now where absent. While a run of that
        /// name is open there is no other.
        scheduled_time: Option<Timestamp>,
    },
    /// Take the times between two as if they came now, also where it is paused, and where
    /// they had their runs. There are at most [`TIMES_LIMIT`].
    Backfill {
        /// The first time.
        start_time: Timestamp,
        /// The last time.
        end_time: Timestamp,
        /// In place of the schedule's own policy.
        overlap: Option<OverlapPolicy>,
    },
}

impl SchedulePatch {
    /// Refuses what no engine takes. A backfill needs the times.
    pub(crate) fn check(&self, times: Option<&Times>) -> Result<(), EngineError> {
        match self {
            Self::Pause { note } | Self::Unpause { note } if note.is_empty() => Err(
                EngineError::Invalid("a note says why it is paused or not".to_owned()),
            ),
            Self::Pause { note } | Self::Unpause { note } => check_note(note),
            Self::TriggerImmediately { .. } => Ok(()),
            Self::Backfill {
                start_time,
                end_time,
                ..
            } => {
                if start_time > end_time {
                    return Err(EngineError::Invalid(format!(
                        "a backfill ends at {end_time}, before it begins at {start_time}"
                    )));
                }
                let count = times.map_or(0, |times| {
                    times.between(*start_time, *end_time, TIMES_LIMIT + 1).len()
                });
                if count > TIMES_LIMIT {
                    return Err(EngineError::Invalid(format!(
                        "between {start_time} and {end_time} the schedule has more than \
                         {TIMES_LIMIT} times; backfill it in parts"
                    )));
                }
                Ok(())
            }
        }
    }
}

/// A run that a schedule started.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionResult {
    /// The time before jitter; of a trigger, when it was asked for.
    pub schedule_time: Timestamp,
    /// When it was started.
    pub actual_time: Timestamp,
    /// The workflow id.
    pub workflow_id: String,
    /// The run.
    pub run_id: Uuid,
    /// Where it stood when the schedule last looked.
    pub status: ExecutionStatus,
}

/// What a schedule did and will do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScheduleInfo {
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
    /// Open runs that a next one would overlap with: workflow id and run id.
    pub running_workflows: Vec<(String, Uuid)>,
    /// The last [`RECENT_ACTIONS`], the oldest first.
    pub recent_actions: Vec<ActionResult>,
    /// The next [`FUTURE_TIMES`], with jitter.
    pub future_action_times: Vec<Timestamp>,
    /// When it was made.
    pub create_time: Option<Timestamp>,
    /// When it was last updated.
    pub update_time: Option<Timestamp>,
}

/// A schedule in detail.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleDescription {
    /// As it is now.
    pub schedule: Schedule,
    /// What it did and will do.
    pub info: ScheduleInfo,
}

/// A schedule, as lists show it.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleEntry {
    /// Its id.
    pub schedule_id: String,
    /// What it starts.
    pub workflow_type: String,
    /// When.
    pub spec: ScheduleSpec,
    /// Whether its times pass by.
    pub paused: bool,
    /// Why it was paused or not.
    pub note: String,
    /// Some of the last actions, the oldest first.
    pub recent_actions: Vec<ActionResult>,
    /// Some of the next times, with jitter.
    pub future_action_times: Vec<Timestamp>,
}

/// What a list of schedules asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListSchedules {
    /// The namespace.
    pub namespace: String,
    /// At most so many (1 to 1,000).
    pub page_size: usize,
    /// From the last page.
    pub page_token: Option<String>,
}

/// A page of schedules.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SchedulePage {
    /// The schedules.
    pub schedules: Vec<ScheduleEntry>,
    /// Give this to the next [`ListSchedules`]; none at the end.
    pub next_page_token: Option<String>,
}

/// Keeps schedules, and starts what they say. Each method answers
/// [`EngineError::ScheduleNotFound`] where there is none of that name.
#[async_trait]
pub trait Schedules {
    /// Makes a schedule; when this answers, it survives any crash.
    async fn create_schedule(&self, request: CreateSchedule) -> Result<(), EngineError>;

    /// A schedule in detail.
    async fn describe_schedule(
        &self,
        schedule: &ScheduleRef,
    ) -> Result<ScheduleDescription, EngineError>;

    /// The schedules of a namespace.
    async fn list_schedules(&self, request: &ListSchedules) -> Result<SchedulePage, EngineError>;

    /// Puts another in its place. What was started goes on; times that have passed stay as
    /// they were.
    async fn update_schedule(
        &self,
        schedule: &ScheduleRef,
        to: Schedule,
    ) -> Result<(), EngineError>;

    /// Does what the patch says.
    async fn patch_schedule(
        &self,
        schedule: &ScheduleRef,
        patch: SchedulePatch,
    ) -> Result<(), EngineError>;

    /// Deletes it. What was started goes on, what waits is not started.
    async fn delete_schedule(&self, schedule: &ScheduleRef) -> Result<(), EngineError>;

    /// The times from one to another, with jitter, whatever its state: at most
    /// [`TIMES_LIMIT`].
    async fn schedule_times(
        &self,
        schedule: &ScheduleRef,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Timestamp>, EngineError>;
}

/// Serde for a payload that is JSON: as the JSON that it is.
mod json_payload {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::value::RawValue;

    use crate::payload::Payload;

    pub fn serialize<S: Serializer>(payload: &Payload, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        let text = payload.json_text().map_err(S::Error::custom)?;
        let text = std::str::from_utf8(&text).map_err(S::Error::custom)?;
        let raw: &RawValue = serde_json::from_str(text).map_err(S::Error::custom)?;
        raw.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(match raw.get() {
            "null" => Payload::null(),
            text => Payload::json_bytes(Bytes::copy_from_slice(text.as_bytes())),
        })
    }
}
