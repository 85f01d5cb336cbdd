//! `/activities`: one activity as a durable run of its own.

use axum::extract::State;
use axum::response::Response;
use heyday_durable::engine::{IdConflictPolicy, IdReusePolicy};

use super::App;
use super::extract::{self, Body, Caller, IdempotencyKey, Path, Query, TraceParent};
use super::problem::Problem;
use super::refusals::unpinnable;
use super::runs::ResultBody;
use super::starts::Start;
use super::workflows::WaitQuery;

/// Run one activity durably
///
/// The body is its input: any JSON, nothing is null. It is a run like any other, of a
/// workflow with one step, and goes on whether or not anybody waits for it.
#[utoipa::path(post, path = "/activities/{activity}", tag = "workflows",
    params(("activity" = String, Path, description = "`PLUGIN.ACTIVITY`, or `PLUGIN.ACTIVITY:VERSION`", example = "greet.hello"),
        WaitQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again answers the same run, for 24 hours")),
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses((status = 200, description = "It has ended", body = ResultBody),
        (status = 202, description = "It has not ended within `wait`", body = ResultBody),
        (status = 404, description = "No such plugin or activity", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn run(
    State(app): State<App>,
    caller: Caller,
    Path(activity): Path<String>,
    Query(query): Query<WaitQuery>,
    IdempotencyKey(key): IdempotencyKey,
    TraceParent(traceparent): TraceParent,
    Body(body): Body,
) -> Result<Response, Problem> {
    let wait = extract::wait(query.wait.as_deref())?;
    let definition = app
        .definitions
        .pin_activity(&caller.namespace, &activity)
        .await
        .map_err(unpinnable)?;
    let input = app.payload(body.slice_ref(body.trim_ascii())).await?;
    let start = Start {
        workflow_id: None,
        definition,
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
