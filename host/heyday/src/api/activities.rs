//! `/activities`: one activity as a durable run of its own.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use heyday_durable::activity::ActivityTimeouts;
use heyday_durable::engine::{IdConflictPolicy, IdReusePolicy};
use heyday_durable::flow::duration;
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::extract::{self, Body, Caller, IdempotencyKey, Path, Query, TraceParent};
use super::problem::Problem;
use super::refusals::unpinnable;
use super::runs::ResultBody;
use super::starts::Start;
use crate::names;
use crate::registry::ActivityOptions;

/// How an activity runs, where not as its plugin says; what `metadata.heyday` of a flow's
/// call may say.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ActivityQuery {
    /// Wait so long for the end: `30s`, `500ms`, `1m`; at most a minute.
    wait: Option<String>,
    /// The queue that it runs on.
    queue: Option<String>,
    /// How long one attempt may take: `90s`, `1h30m`, `PT5M`.
    start_to_close: Option<String>,
    /// How long all attempts may take together.
    schedule_to_close: Option<String>,
    /// How long an attempt may wait in the queue.
    schedule_to_start: Option<String>,
    /// How much time may pass between two heartbeats of the plugin.
    heartbeat: Option<String>,
    /// How many attempts there are; 0: no limit.
    maximum_attempts: Option<u32>,
}

impl ActivityQuery {
    fn options(self) -> Result<ActivityOptions, Problem> {
        if let Some(queue) = &self.queue {
            names::check_name("the queue", queue)
                .map_err(|error| Problem::invalid(error.to_string()))?;
        }
        let timeouts = ActivityTimeouts {
            schedule_to_close: timeout("schedule_to_close", self.schedule_to_close.as_deref())?,
            schedule_to_start: timeout("schedule_to_start", self.schedule_to_start.as_deref())?,
            start_to_close: timeout("start_to_close", self.start_to_close.as_deref())?,
            heartbeat: timeout("heartbeat", self.heartbeat.as_deref())?,
        };
        Ok(ActivityOptions {
            version: None,
            queue: self.queue,
            timeouts,
            maximum_attempts: self.maximum_attempts,
        })
    }
}

/// Reads a timeout, within what a flow may ask for.
fn timeout(name: &str, text: Option<&str>) -> Result<Option<Duration>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let read = duration::parse(text).ok();
    let read = read.filter(|read| !read.is_zero() && *read <= duration::MAX);
    read.map(Some).ok_or_else(|| {
        Problem::invalid(format!(
            "{name} is a time such as 90s, 1h30m or PT5M, longer than 0 and at most 100 years, not {:?}",
            text.chars().take(50).collect::<String>()
        ))
    })
}

/// Run one activity durably
///
/// The body is its input: any JSON, nothing is null. It is a run like any other, of a
/// workflow with one step, and goes on whether or not anybody waits for it. Its queue,
/// timeouts and retries are the activity's own where the query says nothing else.
#[utoipa::path(post, path = "/activities/{activity}", tag = "workflows",
    params(("activity" = String, Path, description = "`PLUGIN.ACTIVITY`, or `PLUGIN.ACTIVITY:VERSION`", example = "greet.hello"),
        ActivityQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again answers the same run, for 24 hours")),
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses((status = 200, description = "It has ended", body = ResultBody),
        (status = 202, description = "It has not ended within `wait`", body = ResultBody),
        (status = 404, description = "No such plugin or activity", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "No such queue; the text says which there are", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon, or without `wait`", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn run(
    State(app): State<App>,
    caller: Caller,
    Path(activity): Path<String>,
    Query(query): Query<ActivityQuery>,
    IdempotencyKey(key): IdempotencyKey,
    TraceParent(traceparent): TraceParent,
    Body(body): Body,
) -> Result<Response, Problem> {
    let wait = extract::wait(query.wait.as_deref())?;
    let options = query.options()?;
    let definition = app
        .definitions
        .pin_activity(&caller.namespace, &activity, &options)
        .await
        .map_err(unpinnable)?;
    let input = app.payload(body.slice_ref(body.trim_ascii())).await?;
    let start = Start {
        workflow_id: None,
        definition,
        task_queue: None,
        input,
        id_reuse_policy: IdReusePolicy::default(),
        id_conflict_policy: IdConflictPolicy::default(),
        memo: Default::default(),
        search_attributes: Default::default(),
        key,
        traceparent,
        signal: None,
    };
    let started = app.start(&caller, start).await?;
    app.ended_within(caller, started, wait).await
}
