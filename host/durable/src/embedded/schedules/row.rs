//! A schedule as it is stored, and how its times become starts that wait. Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::ExecutionStatus;
use crate::schedule::{
    ActionResult, FUTURE_TIMES, OverlapPolicy, RECENT_ACTIONS, Schedule, ScheduleInfo, Times,
};

/// Starts that wait at most; Temporal's.
const MOST_WAITING: usize = 1_000;

/// Times that are looked at in one go: years of seconds may have been missed.
const MOST_TIMES: usize = 10_000;

/// A start that waits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// The time before jitter.
    pub nominal: Timestamp,
    /// In place of the schedule's own policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<OverlapPolicy>,
    /// Who asked for it, where somebody did: it is started also where the schedule is
    /// paused, and counts for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Uuid>,
}

impl Waiting {
    /// Whether somebody asked for it.
    pub const fn is_manual(&self) -> bool {
        self.request.is_some()
    }
}

/// A run that was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// The time before jitter.
    pub schedule_time: Timestamp,
    /// When it was started.
    pub actual_time: Timestamp,
    /// The workflow id.
    pub workflow_id: String,
    /// The run.
    pub run_id: Uuid,
    /// Where it stood when it was last looked at.
    pub status: ExecutionStatus,
}

/// A schedule. Members are only ever added, with a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// As it is now.
    pub schedule: Schedule,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last updated.
    #[serde(default)]
    pub updated: Option<Timestamp>,
    /// All times up to this one were looked at.
    pub looked: Timestamp,
    /// Starts that wait, the oldest first.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    /// Open runs that a next one would overlap with: workflow id and run id.
    #[serde(default)]
    pub running: Vec<(String, Uuid)>,
    /// The last actions, the oldest first.
    #[serde(default)]
    pub recent: Vec<Action>,
    /// As [`ScheduleInfo`] has it.
    #[serde(default)]
    pub action_count: u64,
    /// As [`ScheduleInfo`] has it.
    #[serde(default)]
    pub missed_catchup_window: u64,
    /// As [`ScheduleInfo`] has it.
    #[serde(default)]
    pub overlap_skipped: u64,
    /// As [`ScheduleInfo`] has it.
    #[serde(default)]
    pub buffer_dropped: u64,
}

impl Row {
    /// A new schedule: its times begin now.
    pub fn new(schedule: Schedule, now: Timestamp) -> Self {
        Self {
            schedule,
            created: now,
            updated: None,
            looked: now,
            waiting: Vec::new(),
            running: Vec::new(),
            recent: Vec::new(),
            action_count: 0,
            missed_catchup_window: 0,
            overlap_skipped: 0,
            buffer_dropped: 0,
        }
    }

    /// Lets the times up to now become starts that wait. Answers when the next one comes;
    /// now, where there are more.
    pub fn look(&mut self, times: &Times, now: Timestamp) -> Option<Timestamp> {
        let window = jiff::SignedDuration::try_from(self.schedule.policies.catchup_window);
        let earliest = window
            .ok()
            .and_then(|window| now.checked_sub(window).ok())
            .unwrap_or(Timestamp::MIN);
        let mut due = times.after(self.looked);
        let mut looked = self.looked;
        let mut next = None;
        for count in 0..=MOST_TIMES {
            let Some(time) = due.next() else { break };
            if time.actual > now || count == MOST_TIMES {
                next = Some(time.actual.max(now));
                break;
            }
            looked = time.nominal;
            if !self.may_start(false) {
                continue;
            }
            if time.actual < earliest {
                self.missed_catchup_window += 1;
                continue;
            }
            self.wait(Waiting {
                nominal: time.nominal,
                overlap: None,
                request: None,
            });
        }
        self.looked = looked;
        next
    }

    /// Adds a start that waits.
    pub fn wait(&mut self, start: Waiting) {
        if self.waiting.len() >= MOST_WAITING {
            self.buffer_dropped += 1;
        } else {
            self.waiting.push(start);
        }
    }

    /// Whether a start may be made.
    pub fn may_start(&self, manual: bool) -> bool {
        let state = &self.schedule.state;
        let spent = state.limited_actions && state.remaining_actions == 0;
        manual || !(state.paused || spent)
    }

    /// A run was started.
    pub fn started(&mut self, start: &Waiting, action: Action) {
        let alone =
            start.overlap.unwrap_or(self.schedule.policies.overlap) != OverlapPolicy::AllowAll;
        let state = &mut self.schedule.state;
        if !start.is_manual() && state.limited_actions {
            state.remaining_actions = state.remaining_actions.saturating_sub(1);
        }
        if alone {
            self.running
                .push((action.workflow_id.clone(), action.run_id));
        }
        self.action_count += 1;
        self.recent.push(action);
        let old = self.recent.len().saturating_sub(RECENT_ACTIONS);
        self.recent.drain(..old);
    }

    /// A run that was open has ended.
    pub fn ended(&mut self, run_id: Uuid, status: ExecutionStatus) {
        self.running.retain(|(_, running)| *running != run_id);
        for action in &mut self.recent {
            if action.run_id == run_id {
                action.status = status;
            }
        }
        let failed = matches!(status, ExecutionStatus::Failed | ExecutionStatus::TimedOut);
        if failed {
            self.pause_on_failure(&format!("run {run_id} ended as {status:?}"));
        }
    }

    /// Pauses it where its policy says so.
    pub fn pause_on_failure(&mut self, why: &str) {
        if self.schedule.policies.pause_on_failure {
            self.schedule.state.paused = true;
            self.schedule.state.note = format!("paused, because {why}");
        }
    }

    /// What it did and will do.
    pub fn info(&self, times: Option<&Times>, now: Timestamp) -> ScheduleInfo {
        ScheduleInfo {
            action_count: self.action_count,
            missed_catchup_window: self.missed_catchup_window,
            overlap_skipped: self.overlap_skipped,
            buffer_dropped: self.buffer_dropped,
            buffer_size: self.waiting.len() as u64,
            running_workflows: self.running.clone(),
            recent_actions: self.recent_actions(),
            future_action_times: self.future(times, now),
            create_time: Some(self.created),
            update_time: self.updated,
        }
    }

    /// The last actions.
    pub fn recent_actions(&self) -> Vec<ActionResult> {
        let recent = self.recent.iter().map(|action| ActionResult {
            schedule_time: action.schedule_time,
            actual_time: action.actual_time,
            workflow_id: action.workflow_id.clone(),
            run_id: action.run_id,
            status: action.status,
        });
        recent.collect()
    }

    /// The next times, with jitter.
    pub fn future(&self, times: Option<&Times>, now: Timestamp) -> Vec<Timestamp> {
        let state = &self.schedule.state;
        let mut most = FUTURE_TIMES;
        if state.limited_actions {
            most = most.min(usize::try_from(state.remaining_actions).unwrap_or(most));
        }
        let Some(times) = times else {
            return Vec::new();
        };
        times
            .after(self.looked.max(now))
            .map(|time| time.actual)
            .take(most)
            .collect()
    }
}
