//! What is asked of schedules.

use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use uuid::Uuid;

use super::row::{Row, Waiting};
use super::{State, keep, look, write};
use crate::embedded::core::Core;
use crate::embedded::timers::Target;
use crate::embedded::{EmbeddedEngine, lock};
use crate::engine::EngineError;
use crate::schedule::{
    CreateSchedule, ListSchedules, Schedule, ScheduleDescription, ScheduleEntry, SchedulePage,
    SchedulePatch, ScheduleRef, Schedules, TIMES_LIMIT, Times, whole_second,
};

fn not_found(schedule: &ScheduleRef) -> EngineError {
    EngineError::ScheduleNotFound {
        namespace: schedule.namespace.clone(),
        schedule_id: schedule.schedule_id.clone(),
    }
}

/// What there is to see of a schedule.
async fn see<T>(
    core: &Core,
    schedule: &ScheduleRef,
    seen: impl FnOnce(&State) -> T,
) -> Result<T, EngineError> {
    let kept = core.schedules.find(schedule);
    let kept = kept.ok_or_else(|| not_found(schedule))?;
    let state = kept.0.lock().await;
    state.as_ref().map(seen).ok_or_else(|| not_found(schedule))
}

/// Changes a schedule, and lets what follows happen.
async fn change(
    core: &Arc<Core>,
    schedule: &ScheduleRef,
    change: impl FnOnce(&mut Row, Option<Times>, Timestamp) -> Result<Option<Times>, EngineError>,
) -> Result<(), EngineError> {
    core.admit()?;
    let kept = core.schedules.find(schedule);
    let kept = kept.ok_or_else(|| not_found(schedule))?;
    let mut state = kept.0.lock().await;
    let state = state.as_mut().ok_or_else(|| not_found(schedule))?;
    let now = core.clock.now();
    let mut row = state.row.clone();
    if let Some(times) = &state.times {
        // What has come until now came as the schedule was.
        row.look(times, now);
    }
    let times = change(&mut row, state.times.clone(), now)?;
    write(core, schedule, Some(&row)).await?;
    *state = State { row, times };
    look(core, schedule.clone());
    Ok(())
}

#[async_trait]
impl Schedules for EmbeddedEngine {
    async fn create_schedule(&self, request: CreateSchedule) -> Result<(), EngineError> {
        let core = &self.core;
        let name = request.reference;
        request.schedule.check(&name)?;
        core.admit()?;
        let _one = core.schedules.making.lock().await;
        if core.schedules.find(&name).is_some() {
            return Err(EngineError::ScheduleExists {
                namespace: name.namespace,
                schedule_id: name.schedule_id,
            });
        }
        let now = core.clock.now();
        let mut row = Row::new(request.schedule, now);
        if request.trigger_immediately {
            row.wait(triggered(now, None));
        }
        write(core, &name, Some(&row)).await?;
        keep(core, name.clone(), row);
        look(core, name);
        Ok(())
    }

    async fn describe_schedule(
        &self,
        schedule: &ScheduleRef,
    ) -> Result<ScheduleDescription, EngineError> {
        let now = self.core.clock.now();
        see(&self.core, schedule, |state| ScheduleDescription {
            schedule: state.row.schedule.clone(),
            info: state.row.info(state.times.as_ref(), now),
        })
        .await
    }

    async fn list_schedules(&self, request: &ListSchedules) -> Result<SchedulePage, EngineError> {
        let after = request.page_token.as_deref().map(token).transpose()?;
        let bound = |id: String| ScheduleRef {
            namespace: request.namespace.clone(),
            schedule_id: id,
        };
        let from = match after {
            None => Bound::Included(bound(String::new())),
            Some(after) => Bound::Excluded(bound(after)),
        };
        let size = request.page_size.clamp(1, 1_000);
        let mut found: Vec<_> = lock(&self.core.schedules.by_name)
            .range((from, Bound::Unbounded))
            .take_while(|(name, _)| name.namespace == request.namespace)
            .take(size + 1)
            .map(|(name, kept)| (name.schedule_id.clone(), Arc::clone(kept)))
            .collect();
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().map(|(id, _)| URL_SAFE_NO_PAD.encode(id));
        let now = self.core.clock.now();
        let mut page = SchedulePage {
            schedules: Vec::with_capacity(found.len()),
            next_page_token: last.filter(|_| more),
        };
        for (schedule_id, kept) in found {
            if let Some(state) = kept.0.lock().await.as_ref() {
                let Schedule {
                    spec,
                    action,
                    state: going,
                    ..
                } = state.row.schedule.clone();
                page.schedules.push(ScheduleEntry {
                    schedule_id,
                    workflow_type: action.workflow_type,
                    spec,
                    paused: going.paused,
                    note: going.note,
                    recent_actions: state.row.recent_actions(),
                    future_action_times: state.row.future(state.times.as_ref(), now),
                });
            }
        }
        Ok(page)
    }

    async fn update_schedule(
        &self,
        schedule: &ScheduleRef,
        to: Schedule,
    ) -> Result<(), EngineError> {
        let times = to.check(schedule)?;
        change(&self.core, schedule, |row, _, now| {
            row.schedule = to;
            row.looked = now;
            row.updated = Some(now);
            Ok(Some(times))
        })
        .await
    }

    async fn patch_schedule(
        &self,
        schedule: &ScheduleRef,
        patch: SchedulePatch,
    ) -> Result<(), EngineError> {
        change(&self.core, schedule, |row, times, now| {
            patch.check(times.as_ref())?;
            match patch {
                SchedulePatch::Pause { note } => {
                    row.schedule.state.paused = true;
                    row.schedule.state.note = note;
                }
                SchedulePatch::Unpause { note } => {
                    row.schedule.state.paused = false;
                    row.schedule.state.note = note;
                }
                SchedulePatch::TriggerImmediately {
                    overlap,
                    scheduled_time,
                } => row.wait(triggered(scheduled_time.unwrap_or(now), overlap)),
                SchedulePatch::Backfill {
                    start_time,
                    end_time,
                    overlap,
                } => {
                    let request = Uuid::now_v7();
                    let times = times.iter();
                    for time in
                        times.flat_map(|times| times.between(start_time, end_time, TIMES_LIMIT))
                    {
                        row.wait(Waiting {
                            nominal: time.nominal,
                            overlap,
                            request: Some(request),
                        });
                    }
                }
            }
            Ok(times)
        })
        .await
    }

    async fn delete_schedule(&self, schedule: &ScheduleRef) -> Result<(), EngineError> {
        let core = &self.core;
        core.admit()?;
        let kept = core.schedules.find(schedule);
        let kept = kept.ok_or_else(|| not_found(schedule))?;
        let mut state = kept.0.lock().await;
        if state.is_none() {
            return Err(not_found(schedule));
        }
        write(core, schedule, None).await?;
        *state = None;
        lock(&core.schedules.by_name).remove(schedule);
        core.timers.cancel(&Target::Schedule(schedule.clone()));
        Ok(())
    }

    async fn schedule_times(
        &self,
        schedule: &ScheduleRef,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Timestamp>, EngineError> {
        see(&self.core, schedule, |state| {
            let times = state.times.iter();
            let times = times.flat_map(|times| times.between(from, to, TIMES_LIMIT));
            times.map(|time| time.actual).collect()
        })
        .await
    }
}

/// A start that somebody asked for, of that time.
fn triggered(time: Timestamp, overlap: Option<crate::schedule::OverlapPolicy>) -> Waiting {
    Waiting {
        nominal: whole_second(time),
        overlap,
        request: Some(Uuid::now_v7()),
    }
}

/// The id that a page token stands for.
fn token(token: &str) -> Result<String, EngineError> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| {
        EngineError::Invalid(format!(
            "the page token {token:?} is none; give one that a page named"
        ))
    })
}
