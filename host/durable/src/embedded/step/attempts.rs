//! The attempts of a run's activities: when the next one starts, and when there is none.

use super::super::dispatch::Slot;
use super::super::effects::Launch;
use super::super::events::{Event, EventType, later};
use super::super::run::Message;
use super::super::state::Stage;
use super::super::timers::Target;
use super::{Step, cancelled, foreign_refused};
use crate::failure::{Failure, kind};

impl Step<'_> {
    /// An activity that has ended waits for nothing any more.
    pub(super) fn forget_waits(&mut self, activity_id: &str) {
        let run_id = self.cell.run_id;
        let Some(activity) = self.working.state.activities.get(activity_id) else {
            return;
        };
        let timeouts = activity.timeouts();
        if matches!(activity.stage, Stage::BackingOff(_)) {
            self.effects
                .cancelled
                .push(Target::Backoff(run_id, activity_id.to_owned()));
        }
        if timeouts.schedule_to_start.is_some() {
            self.effects
                .cancelled
                .push(Target::ScheduleToStart(run_id, activity_id.to_owned()));
        }
        if timeouts.schedule_to_close.is_some() {
            self.effects
                .cancelled
                .push(Target::ScheduleToClose(run_id, activity_id.to_owned()));
        }
        if !matches!(activity.stage, Stage::Started(_)) {
            self.effects.withdrawn.push((
                activity.scheduled.queue.clone(),
                activity_id.to_owned(),
                activity.attempt,
            ));
        }
    }

    pub(super) fn backoff_over(&mut self, activity_id: &str) {
        let Some(activity) = self.working.state.activities.get_mut(activity_id) else {
            return;
        };
        let Stage::BackingOff(due) = activity.stage else {
            return;
        };
        activity.stage = Stage::Queued(due);
        self.queue_attempt(activity_id);
    }

    /// Gives an attempt its slot now, or lets it wait for one.
    pub fn queue_attempt(&mut self, activity_id: &str) {
        let Some(activity) = self.working.state.activities.get(activity_id) else {
            return;
        };
        let attempt = activity.attempt;
        let queue = activity.scheduled.queue.clone();
        let timeouts = activity.timeouts();
        let run_id = self.cell.run_id;
        if activity.cancel_requested {
            self.effects.follow.push(Message::GiveUp {
                activity_id: activity_id.to_owned(),
                failure: None,
            });
            return;
        }
        if activity.scheduled.foreign {
            let failure = foreign_refused("activity", &activity.scheduled);
            self.effects.follow.push(Message::GiveUp {
                activity_id: activity_id.to_owned(),
                failure: Some(failure),
            });
            return;
        }
        if !self.core.queues.has(&queue) {
            let failure = Failure::permanent(
                kind::UNKNOWN_QUEUE,
                format!(
                    "there is no queue {queue:?}; there are {}",
                    self.core.queues.names()
                ),
            );
            self.effects.follow.push(Message::GiveUp {
                activity_id: activity_id.to_owned(),
                failure: Some(failure),
            });
            return;
        }
        let since = activity.attempt_scheduled;
        let scheduled = activity.scheduled.time();
        if let Some(timeout) = timeouts.schedule_to_close {
            self.effects.set(
                Target::ScheduleToClose(run_id, activity_id.to_owned()),
                later(scheduled, timeout),
            );
        }
        if let Some(slot) = self.core.queues.try_acquire(&queue) {
            self.start_attempt(activity_id.to_owned(), attempt, slot);
            return;
        }
        if let Some(timeout) = timeouts.schedule_to_start {
            self.effects.set(
                Target::ScheduleToStart(run_id, activity_id.to_owned()),
                later(since, timeout),
            );
        }
        self.effects
            .queued
            .push((queue, activity_id.to_owned(), attempt, since));
    }

    pub(super) fn start_attempt(&mut self, activity_id: String, attempt: u32, slot: Slot) {
        let event = Event {
            attempt,
            ..self.event(EventType::ActivityTaskStarted, &activity_id)
        };
        self.record(event);
        let Some(activity) = self.working.state.activities.get(&activity_id) else {
            self.effects.slots.push(slot);
            return;
        };
        if activity.timeouts().schedule_to_start.is_some() {
            self.effects.cancelled.push(Target::ScheduleToStart(
                self.cell.run_id,
                activity_id.clone(),
            ));
        }
        self.effects.launches.push(Launch {
            activity: activity.clone(),
            activity_id,
            attempt,
            slot,
            started_at: self.now,
            traceparent: None,
        });
    }

    pub(super) fn queue_timeout(&mut self, activity_id: &str, timeout: &'static str) {
        let Some(activity) = self.working.state.activities.get(activity_id) else {
            return;
        };
        let waiting = match activity.stage {
            // A running attempt sees its deadline by itself.
            Stage::Started(_) => false,
            Stage::Queued(_) => true,
            Stage::BackingOff(_) => timeout == "schedule_to_close",
        };
        if !waiting {
            return;
        }
        let message = format!("the activity's {timeout} timeout is over");
        let mut failure = Failure::permanent(kind::TIMEOUT, message)
            .with_details(serde_json::json!({ "timeout": timeout }));
        if let Some(last) = activity.last_failure.clone() {
            failure = failure.with_cause(last);
        }
        let event = Event {
            attempt: activity.attempt,
            failure: Some(failure.into()),
            ..self.event(EventType::ActivityTaskTimedOut, activity_id)
        };
        self.forget_waits(activity_id);
        self.record(event);
    }

    pub(super) fn give_up(&mut self, activity_id: &str, failure: Option<Failure>) {
        let Some(activity) = self.working.state.activities.get(activity_id) else {
            return;
        };
        if matches!(activity.stage, Stage::Started(_)) {
            return;
        }
        let kind = match failure {
            Some(_) => EventType::ActivityTaskFailed,
            None => EventType::ActivityTaskCanceled,
        };
        let failure = failure.unwrap_or_else(|| cancelled(None));
        let event = Event {
            attempt: activity.attempt,
            failure: Some(failure.into()),
            ..self.event(kind, activity_id)
        };
        self.forget_waits(activity_id);
        self.record(event);
    }
}
