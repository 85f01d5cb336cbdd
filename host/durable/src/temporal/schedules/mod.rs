//! Schedules: the cluster's own, which start flows as any other client does. A run of one
//! is pinned in its first step.

mod convert;

use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use self::convert::{entry, from_schedule, info, overlap, schedule};
use super::TemporalEngine;
use super::client::{answer, names_no_namespace, refusal, request};
use super::convert::{maybe_timestamp, to_timestamp};
use super::core::Core;
use super::pages;
use super::sdk::{self, WorkflowService as _};
use crate::engine::EngineError;
use crate::schedule::{
    CreateSchedule, ListSchedules, Schedule, ScheduleDescription, SchedulePage, SchedulePatch,
    ScheduleRef, Schedules, TIMES_LIMIT, Times,
};

/// What a refusal means that is about a schedule.
fn refusal_of(core: &Core, schedule: &ScheduleRef, status: &sdk::Status) -> EngineError {
    let namespace = schedule.namespace.clone();
    let schedule_id = schedule.schedule_id.clone();
    match status.code() {
        sdk::Code::NotFound if !names_no_namespace(status) => EngineError::ScheduleNotFound {
            namespace,
            schedule_id,
        },
        sdk::Code::AlreadyExists => EngineError::ScheduleExists {
            namespace,
            schedule_id,
        },
        _ => refusal(core, status),
    }
}

/// What the cluster knows of a schedule.
async fn describe(
    core: &Core,
    schedule: &ScheduleRef,
) -> Result<(Schedule, sdk::ScheduleInfo), EngineError> {
    let mut connection = core.connection()?;
    let message = sdk::DescribeScheduleRequest {
        namespace: core.namespace(&schedule.namespace),
        schedule_id: schedule.schedule_id.clone(),
    };
    let call = connection.describe_schedule(request(core, message, Duration::ZERO));
    let described: sdk::DescribeScheduleResponse = answer(core, Duration::ZERO, call)
        .await
        .map_err(|status| refusal_of(core, schedule, &status))?;
    let info = described.info.unwrap_or_default();
    let known = described.schedule.unwrap_or_default();
    Ok((from_schedule(known)?, info))
}

#[async_trait]
impl Schedules for TemporalEngine {
    async fn create_schedule(&self, create: CreateSchedule) -> Result<(), EngineError> {
        let core = &self.core;
        let name = create.reference;
        create.schedule.check(&name)?;
        let mut connection = core.connection()?;
        let now = create
            .trigger_immediately
            .then(|| trigger(sdk::ScheduleOverlapPolicy::Unspecified, None));
        let message = sdk::CreateScheduleRequest {
            namespace: core.namespace(&name.namespace),
            schedule_id: name.schedule_id.clone(),
            schedule: Some(schedule(&create.schedule)?),
            initial_patch: now,
            identity: connection.identity().to_owned(),
            request_id: Uuid::now_v7().to_string(),
            ..Default::default()
        };
        let call = connection.create_schedule(request(core, message, Duration::ZERO));
        match answer(core, Duration::ZERO, call).await {
            Ok(_) => Ok(()),
            Err(status) => Err(refusal_of(core, &name, &status)),
        }
    }

    async fn describe_schedule(
        &self,
        schedule: &ScheduleRef,
    ) -> Result<ScheduleDescription, EngineError> {
        let (schedule, known) = describe(&self.core, schedule).await?;
        Ok(ScheduleDescription {
            schedule,
            info: info(known),
        })
    }

    async fn list_schedules(&self, wanted: &ListSchedules) -> Result<SchedulePage, EngineError> {
        let core = &self.core;
        let next_page_token = pages::wanted(wanted.page_token.as_deref())?;
        let mut connection = core.connection()?;
        let message = sdk::ListSchedulesRequest {
            namespace: core.namespace(&wanted.namespace),
            maximum_page_size: i32::try_from(wanted.page_size.clamp(1, 1_000)).unwrap_or(1_000),
            next_page_token,
            ..Default::default()
        };
        let call = connection.list_schedules(request(core, message.clone(), Duration::ZERO));
        let page = answer(core, Duration::ZERO, call)
            .await
            .map_err(|status| refusal(core, &status))?;
        let peek = move |next_page_token| async move {
            let message = sdk::ListSchedulesRequest {
                maximum_page_size: 1,
                next_page_token,
                ..message
            };
            let call = connection.list_schedules(request(core, message, Duration::ZERO));
            let next = answer(core, Duration::ZERO, call).await;
            next.map(|next| (next.schedules.len(), next.next_page_token))
        };
        let next_page_token = pages::following(page.next_page_token, peek).await;
        let mut schedules: Vec<_> = page.schedules.into_iter().map(entry).collect();
        schedules.sort_by(|a, b| a.schedule_id.cmp(&b.schedule_id));
        Ok(SchedulePage {
            schedules,
            next_page_token,
        })
    }

    async fn update_schedule(&self, name: &ScheduleRef, to: Schedule) -> Result<(), EngineError> {
        let core = &self.core;
        to.check(name)?;
        let mut connection = core.connection()?;
        let message = sdk::UpdateScheduleRequest {
            namespace: core.namespace(&name.namespace),
            schedule_id: name.schedule_id.clone(),
            schedule: Some(schedule(&to)?),
            identity: connection.identity().to_owned(),
            request_id: Uuid::now_v7().to_string(),
            ..Default::default()
        };
        let call = connection.update_schedule(request(core, message, Duration::ZERO));
        match answer(core, Duration::ZERO, call).await {
            Ok(_) => Ok(()),
            Err(status) => Err(refusal_of(core, name, &status)),
        }
    }

    async fn patch_schedule(
        &self,
        name: &ScheduleRef,
        patch: SchedulePatch,
    ) -> Result<(), EngineError> {
        let core = &self.core;
        let times = match &patch {
            SchedulePatch::Backfill { .. } => {
                let (known, _) = describe(core, name).await?;
                Some(Times::new(name, &known.spec).map_err(EngineError::Invalid)?)
            }
            _ => None,
        };
        patch.check(times.as_ref())?;
        let mut connection = core.connection()?;
        let patch = match patch {
            SchedulePatch::Pause { note } => sdk::SchedulePatch {
                pause: note,
                ..Default::default()
            },
            SchedulePatch::Unpause { note } => sdk::SchedulePatch {
                unpause: note,
                ..Default::default()
            },
            SchedulePatch::TriggerImmediately {
                overlap: policy,
                scheduled_time,
            } => trigger(overlap(policy), scheduled_time),
            SchedulePatch::Backfill {
                start_time,
                end_time,
                overlap: policy,
            } => sdk::SchedulePatch {
                backfill_request: vec![sdk::BackfillRequest {
                    // Releases differ in whether the first moment belongs to it; times are
                    // whole seconds, so a moment before it does no harm.
                    start_time: Some(to_timestamp(before(start_time))),
                    end_time: Some(to_timestamp(end_time)),
                    overlap_policy: overlap(policy).into(),
                }],
                ..Default::default()
            },
        };
        let message = sdk::PatchScheduleRequest {
            namespace: core.namespace(&name.namespace),
            schedule_id: name.schedule_id.clone(),
            patch: Some(patch),
            identity: connection.identity().to_owned(),
            request_id: Uuid::now_v7().to_string(),
        };
        let call = connection.patch_schedule(request(core, message, Duration::ZERO));
        match answer(core, Duration::ZERO, call).await {
            Ok(_) => Ok(()),
            Err(status) => Err(refusal_of(core, name, &status)),
        }
    }

    async fn delete_schedule(&self, name: &ScheduleRef) -> Result<(), EngineError> {
        let core = &self.core;
        let mut connection = core.connection()?;
        let message = sdk::DeleteScheduleRequest {
            namespace: core.namespace(&name.namespace),
            schedule_id: name.schedule_id.clone(),
            identity: connection.identity().to_owned(),
        };
        let call = connection.delete_schedule(request(core, message, Duration::ZERO));
        match answer(core, Duration::ZERO, call).await {
            Ok(_) => Ok(()),
            Err(status) => Err(refusal_of(core, name, &status)),
        }
    }

    async fn schedule_times(
        &self,
        name: &ScheduleRef,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Timestamp>, EngineError> {
        let core = &self.core;
        let mut connection = core.connection()?;
        let message = sdk::ListScheduleMatchingTimesRequest {
            namespace: core.namespace(&name.namespace),
            schedule_id: name.schedule_id.clone(),
            start_time: Some(to_timestamp(before(from))),
            end_time: Some(to_timestamp(to)),
        };
        let call = connection.list_schedule_matching_times(request(core, message, Duration::ZERO));
        let times = answer(core, Duration::ZERO, call)
            .await
            .map_err(|status| refusal_of(core, name, &status))?;
        let times = times.start_time.into_iter();
        Ok(times
            .filter_map(|time| maybe_timestamp(Some(time)))
            .take(TIMES_LIMIT)
            .collect())
    }
}

/// A run now, named after that time.
fn trigger(policy: sdk::ScheduleOverlapPolicy, time: Option<Timestamp>) -> sdk::SchedulePatch {
    sdk::SchedulePatch {
        trigger_immediately: Some(sdk::TriggerImmediatelyRequest {
            overlap_policy: policy.into(),
            scheduled_time: time.map(to_timestamp),
        }),
        ..Default::default()
    }
}

/// A moment before it.
fn before(time: Timestamp) -> Timestamp {
    let moment = SignedDuration::from_millis(1);
    time.checked_sub(moment).unwrap_or(time)
}
