//! `/schedules`: make them, look at them, change, pause, trigger and backfill them.
//!
//! A schedule whose id begins with [`FLOW_PREFIX`] belongs to a flow that has a
//! `schedule` of its own: it is made and changed with the flow, and only paused,
//! triggered and backfilled here.

mod body;

use axum::Json as JsonAnswer;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use heyday_durable::definition::{Definitions as _, WorkflowReference};
use heyday_durable::schedule::{
    CreateSchedule, ListSchedules, Schedule, SchedulePatch, ScheduleRef,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::IntoParams;

pub use self::body::{
    BackfillBody, CreateScheduleBody, CreatedScheduleBody, NoteBody, ScheduleBody,
    ScheduleDetailBody, SchedulesBody, TimesBody, TriggerBody,
};
use super::App;
use super::extract::{Caller, Json, Path, Query};
use super::pages::{PageQuery, page_size};
use super::problem::Problem;
use super::refusals::unpinnable;
use super::starts::segment;
use crate::schedules::FLOW_PREFIX;

/// The schedule that a path names, in the caller's namespace.
pub(super) struct SchedulePath(ScheduleRef);

#[derive(Deserialize)]
struct ScheduleSegment {
    schedule_id: String,
}

impl<S: Send + Sync> FromRequestParts<S> for SchedulePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let Path(segment) = Path::<ScheduleSegment>::from_request_parts(parts, state).await?;
        Ok(Self(ScheduleRef {
            namespace: caller.namespace,
            schedule_id: segment.schedule_id,
        }))
    }
}

/// What belongs to a flow is changed with the flow.
fn check_owner(schedule: &ScheduleRef) -> Result<(), Problem> {
    match schedule.schedule_id.strip_prefix(FLOW_PREFIX) {
        None => Ok(()),
        Some(flow) => Err(Problem::conflict(
            "schedule-of-a-flow",
            "The schedule belongs to a flow",
            format!(
                "ids that begin with {FLOW_PREFIX:?} are of schedules that stand in a flow; \
                 upload another version of {flow:?}, or use another schedule_id"
            ),
        )),
    }
}

impl App {
    /// Refuses a schedule of a flow or on a queue that is not there: each of its starts
    /// would be.
    async fn check_action(&self, caller: &Caller, schedule: &Schedule) -> Result<(), Problem> {
        if let Some(queue) = &schedule.action.task_queue {
            self.registry.check_queue(queue)?;
        }
        let reference = WorkflowReference {
            workflow_type: schedule.action.workflow_type.clone(),
            version: schedule.action.version.clone(),
        };
        let pinned = self.definitions.pin(&caller.namespace, &reference).await;
        pinned.map(|_| ()).map_err(unpinnable)
    }

    /// Writes a change to the audit.
    async fn note_schedule(&self, caller: &Caller, what: &str, schedule_id: &str, details: Value) {
        let action = format!("schedule.{what}");
        self.registry
            .note(caller.actor(), &action, schedule_id, details)
            .await;
    }
}

/// Make a schedule
#[utoipa::path(post, path = "/schedules", tag = "schedules",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key again answers the same for 24 hours")),
    request_body = CreateScheduleBody,
    responses((status = 201, description = "It goes on from now", body = CreatedScheduleBody),
        (status = 400, description = "A spec, a duration or a time is none", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such flow", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The id is taken", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The input is larger than 256 KiB", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "No such queue; the text says which there are", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<CreateScheduleBody>,
) -> Result<Response, Problem> {
    let schedule_id = body.schedule_id.clone();
    let trigger_immediately = body.trigger_immediately;
    let reference = ScheduleRef {
        namespace: caller.namespace.clone(),
        schedule_id: schedule_id.clone(),
    };
    check_owner(&reference)?;
    let schedule = body.schedule()?;
    app.check_action(&caller, &schedule).await?;
    app.engine
        .create_schedule(CreateSchedule {
            reference,
            schedule,
            trigger_immediately,
        })
        .await?;
    let details = json!({ "trigger_immediately": trigger_immediately });
    app.note_schedule(&caller, "create", &schedule_id, details)
        .await;
    let location = format!("/api/v1/schedules/{}", segment(&schedule_id));
    let body = CreatedScheduleBody { schedule_id };
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        JsonAnswer(body),
    )
        .into_response())
}

/// List schedules, by id
#[utoipa::path(get, path = "/schedules", tag = "schedules", params(PageQuery),
    responses((status = 200, body = SchedulesBody),
        (status = 400, description = "A malformed page token", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<SchedulesBody>, Problem> {
    let request = ListSchedules {
        namespace: caller.namespace,
        page_size: page_size(query.page_size)?,
        page_token: query.page_token,
    };
    Ok(JsonAnswer(
        app.engine.list_schedules(&request).await?.into(),
    ))
}

/// Show a schedule: what it is, did and will do
#[utoipa::path(get, path = "/schedules/{schedule_id}", tag = "schedules",
    params(("schedule_id" = String, Path, description = "Its id, percent-encoded")),
    responses((status = 200, body = ScheduleDetailBody),
        (status = 404, body = Problem, description = "No such schedule", content_type = "application/problem+json")))]
pub(super) async fn show(
    State(app): State<App>,
    SchedulePath(schedule): SchedulePath,
) -> Result<JsonAnswer<ScheduleDetailBody>, Problem> {
    let described = app.engine.describe_schedule(&schedule).await?;
    ScheduleDetailBody::new(schedule.schedule_id, described).map(JsonAnswer)
}

/// Put another schedule in its place
///
/// All of it, also its state. What was started goes on.
#[utoipa::path(put, path = "/schedules/{schedule_id}", tag = "schedules",
    params(("schedule_id" = String, Path, description = "Its id, percent-encoded")),
    request_body = ScheduleBody,
    responses((status = 204, description = "It goes on so from now"),
        (status = 400, description = "A spec, a duration or a time is none", body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, description = "No such schedule, or no such flow", content_type = "application/problem+json"),
        (status = 409, body = Problem, description = "It belongs to a flow", content_type = "application/problem+json"),
        (status = 422, body = Problem, description = "No such queue; the text says which there are", content_type = "application/problem+json")))]
pub(super) async fn update(
    State(app): State<App>,
    caller: Caller,
    SchedulePath(schedule): SchedulePath,
    Json(body): Json<ScheduleBody>,
) -> Result<StatusCode, Problem> {
    check_owner(&schedule)?;
    let to = body.schedule(&schedule.schedule_id)?;
    app.check_action(&caller, &to).await?;
    app.engine.update_schedule(&schedule, to).await?;
    app.note_schedule(&caller, "update", &schedule.schedule_id, json!({}))
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// Delete a schedule
///
/// What was started goes on, what waits is not started.
#[utoipa::path(delete, path = "/schedules/{schedule_id}", tag = "schedules",
    params(("schedule_id" = String, Path, description = "Its id, percent-encoded")),
    responses((status = 204, description = "Deleted"),
        (status = 404, body = Problem, description = "No such schedule", content_type = "application/problem+json"),
        (status = 409, body = Problem, description = "It belongs to a flow", content_type = "application/problem+json")))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller,
    SchedulePath(schedule): SchedulePath,
) -> Result<StatusCode, Problem> {
    check_owner(&schedule)?;
    app.engine.delete_schedule(&schedule).await?;
    app.note_schedule(&caller, "delete", &schedule.schedule_id, json!({}))
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a schedule
///
/// Its times pass by until it goes on; triggers and backfills do not.
#[utoipa::path(post, path = "/schedules/{schedule_id}/pause", tag = "schedules",
    params(("schedule_id" = String, Path, description = "Its id, percent-encoded")),
    request_body = NoteBody,
    responses((status = 204, description = "It is paused"),
        (status = 404, body = Problem, description = "No such schedule", content_type = "application/problem+json")))]
pub(super) async fn pause(
    State(app): State<App>,
    caller: Caller,
    SchedulePath(schedule): SchedulePath,
    Json(body): Json<NoteBody>,
) -> Result<StatusCode, Problem> {
    let note = body.or("paused through the API");
    patch(&app, &caller, &schedule, SchedulePatch::Pause { note }).await
}

/// Let a schedule go on
#[utoipa::path(post, path = "/schedules/{schedule_id}/unpause", tag = "schedules",
    params(("schedule_id" = String, Path, description = "Its id, percent-encoded")),
    request_body = NoteBody,
    responses((status = 204, description = "It goes on"),
        (status = 404, body = Problem, description = "No such schedule", content_type = "application/problem+json")))]
pub(super) async fn unpause(
    State(app): State<App>,
    caller: Caller,
    SchedulePath(schedule): SchedulePath,
    Json(body): Json<NoteBody>,
) -> Result<StatusCode, Problem> {
    let note = body.or("unpaused through the API");
    patch(&app, &caller, &schedule, SchedulePatch::Unpause { note }).await
}

/// Start a schedule's run now
///
/// Also where it is paused.
#[utoipa::path(post, path = "/schedules/{schedule_id}/trigger", tag = "schedules",
    params(("schedule_id" = String, Path, description = "Its id, percent-encoded")),
    request_body = TriggerBody,
    responses((status = 204, description = "It starts, or what the overlap policy says happens"),
        (status = 404, body = Problem, description = "No such schedule", content_type = "application/problem+json")))]
pub(super) async fn trigger(
    State(app): State<App>,
    caller: Caller,
    SchedulePath(schedule): SchedulePath,
    Json(body): Json<TriggerBody>,
) -> Result<StatusCode, Problem> {
    let overlap = body.overlap;
    let now = SchedulePatch::TriggerImmediately {
        overlap,
        scheduled_time: None,
    };
    patch(&app, &caller, &schedule, now).await
}

/// Take times that have passed as if they came now
///
/// Also where it is paused: at most 1,000 times.
#[utoipa::path(post, path = "/schedules/{schedule_id}/backfill", tag = "schedules",
    params(("schedule_id" = String, Path, description = "Its id, percent-encoded")),
    request_body = BackfillBody,
    responses((status = 204, description = "They start, or what the overlap policy says happens"),
        (status = 400, description = "The times are none, or too many", body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, description = "No such schedule", content_type = "application/problem+json")))]
pub(super) async fn backfill(
    State(app): State<App>,
    caller: Caller,
    SchedulePath(schedule): SchedulePath,
    Json(body): Json<BackfillBody>,
) -> Result<StatusCode, Problem> {
    let start_time = body::time("start_time", &body.start_time)?;
    let end_time = body::time("end_time", &body.end_time)?;
    let overlap = body.overlap;
    let backfill = SchedulePatch::Backfill {
        start_time,
        end_time,
        overlap,
    };
    patch(&app, &caller, &schedule, backfill).await
}

async fn patch(
    app: &App,
    caller: &Caller,
    schedule: &ScheduleRef,
    patch: SchedulePatch,
) -> Result<StatusCode, Problem> {
    let (what, details) = match &patch {
        SchedulePatch::Pause { note } => ("pause", json!({ "note": note })),
        SchedulePatch::Unpause { note } => ("unpause", json!({ "note": note })),
        SchedulePatch::TriggerImmediately { overlap, .. } => {
            ("trigger", json!({ "overlap": overlap }))
        }
        SchedulePatch::Backfill {
            start_time,
            end_time,
            overlap,
        } => (
            "backfill",
            json!({ "start_time": start_time, "end_time": end_time, "overlap": overlap }),
        ),
    };
    app.engine.patch_schedule(schedule, patch).await?;
    app.note_schedule(caller, what, &schedule.schedule_id, details)
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// Which times.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TimesQuery {
    /// From this one on, RFC 3339; now where absent.
    from: Option<String>,
    /// Up to this one, RFC 3339; a day later where absent.
    to: Option<String>,
}

/// The times of a schedule, with jitter
///
/// At most 1,000, whatever its state.
#[utoipa::path(get, path = "/schedules/{schedule_id}/times", tag = "schedules",
    params(("schedule_id" = String, Path, description = "Its id, percent-encoded"), TimesQuery),
    responses((status = 200, body = TimesBody),
        (status = 400, description = "A time is none", body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, description = "No such schedule", content_type = "application/problem+json")))]
pub(super) async fn times(
    State(app): State<App>,
    SchedulePath(schedule): SchedulePath,
    Query(query): Query<TimesQuery>,
) -> Result<JsonAnswer<TimesBody>, Problem> {
    let given = |name, text: Option<&str>| text.map(|text| body::time(name, text)).transpose();
    let from = given("from", query.from.as_deref())?.unwrap_or_else(Timestamp::now);
    let day = jiff::SignedDuration::from_hours(24);
    let later = from.checked_add(day).unwrap_or(Timestamp::MAX);
    let to = given("to", query.to.as_deref())?.unwrap_or(later);
    let times = app.engine.schedule_times(&schedule, from, to).await?;
    let times = times.into_iter().map(|time| time.to_string()).collect();
    Ok(JsonAnswer(TimesBody { times }))
}
