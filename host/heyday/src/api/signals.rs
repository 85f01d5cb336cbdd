//! What is sent to a run and asked of it: `/workflows/{workflow_id}/signals`, `/queries`
//! and `/updates`.

use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use heyday_durable::engine::UpdateStatus;
use heyday_durable::payload::Payload;
use heyday_durable::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::extract::{self, IdempotencyKey, Json, Path, Query, check_json};
use super::problem::Problem;
use super::runs::{FailureBody, RunPath};
use super::workflows::WaitQuery;

/// A signal: a CloudEvent for the run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalBody {
    /// Its name, the event's `type`: 1 to 1,000 bytes.
    #[schema(example = "approve")]
    pub name: String,
    /// The event's `id`: a run takes the same one once. The Idempotency-Key where absent,
    /// else a new one.
    #[serde(default)]
    pub id: Option<String>,
    /// The event's `data`: any JSON.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub data: Option<Box<RawValue>>,
    /// Further attributes of the event: `source`, `subject`, `time`, extensions. Names are
    /// lower-case letters and digits, values texts, booleans and integers.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub attributes: Map<String, Value>,
}

impl SignalBody {
    /// The signal. `key` is its id where it names none.
    ///
    /// # Errors
    /// When its data nests too deep.
    pub(super) fn signal(self, key: Option<&str>) -> Result<Signal, Problem> {
        let data = payload(self.data)?;
        Ok(Signal {
            name: self.name,
            id: self
                .id
                .or_else(|| key.map(str::to_owned))
                .unwrap_or_else(|| Uuid::now_v7().to_string()),
            attributes: self.attributes,
            data,
        })
    }
}

/// JSON that stays inline.
fn payload(raw: Option<Box<RawValue>>) -> Result<Payload, Problem> {
    let Some(raw) = raw else {
        return Ok(Payload::null());
    };
    let text = Bytes::from(String::from(Box::<str>::from(raw)));
    check_json(&text)?;
    Ok(Payload::json_bytes(text))
}

/// The same, to be answered.
fn raw(payload: &Payload) -> Result<Box<RawValue>, Problem> {
    let text = String::from_utf8(payload.json_text()?.to_vec())
        .map_err(|error| Problem::internal(&error))?;
    RawValue::from_string(text).map_err(|error| Problem::internal(&error))
}

/// A signal that a run has.
#[derive(Debug, Serialize, ToSchema)]
pub struct SignaledBody {
    /// The workflow id.
    pub workflow_id: String,
    /// The signal's id.
    pub id: String,
}

/// Send a signal to an open run
///
/// When it is answered, the run has the signal until a task listens for it, whatever
/// happens to the server. The same id again changes nothing.
#[utoipa::path(post, path = "/workflows/{workflow_id}/signals", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"),
        ("Idempotency-Key" = Option<String>, Header, description = "The signal's id, where the body names none")),
    request_body = SignalBody,
    responses((status = 200, description = "The run has it", body = SignaledBody),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 409, body = Problem, description = "It has ended, or takes no more signals", content_type = "application/problem+json"),
        (status = 413, body = Problem, description = "It is larger than 2 MiB", content_type = "application/problem+json")))]
pub(super) async fn send(
    State(app): State<App>,
    RunPath(run): RunPath,
    IdempotencyKey(key): IdempotencyKey,
    Json(body): Json<SignalBody>,
) -> Result<JsonAnswer<SignaledBody>, Problem> {
    let signal = body.signal(key.as_deref())?;
    let id = signal.id.clone();
    app.engine.signal(&run, signal).await?;
    Ok(JsonAnswer(SignaledBody {
        workflow_id: run.workflow_id,
        id,
    }))
}

/// A query.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryBody {
    /// Its name: `__heyday_state`, or one that the flow declares.
    #[schema(example = "__heyday_state")]
    pub name: String,
    /// What the flow's expressions see as `.arguments`: any JSON.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub arguments: Option<Box<RawValue>>,
}

/// An answer to a query.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueryAnswer {
    /// The workflow id.
    pub workflow_id: String,
    /// The answer: any JSON.
    #[schema(value_type = Value)]
    pub result: Box<RawValue>,
}

/// Ask a run, open or ended
///
/// Nothing changes. `__heyday_state` tells where the flow stands; a flow may declare
/// queries of its own.
#[utoipa::path(post, path = "/workflows/{workflow_id}/queries", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded")),
    request_body = QueryBody,
    responses((status = 200, body = QueryAnswer),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 409, body = Problem, description = "It is held", content_type = "application/problem+json"),
        (status = 422, body = Problem, description = "No such query, or its expression failed", content_type = "application/problem+json")))]
pub(super) async fn query(
    State(app): State<App>,
    RunPath(run): RunPath,
    Json(body): Json<QueryBody>,
) -> Result<JsonAnswer<QueryAnswer>, Problem> {
    let arguments = payload(body.arguments)?;
    let answer = app.engine.query(&run, &body.name, arguments).await?;
    Ok(JsonAnswer(QueryAnswer {
        workflow_id: run.workflow_id,
        result: raw(&answer)?,
    }))
}

/// An update that a task of a run took.
#[derive(Debug, Serialize, ToSchema)]
pub struct UpdateBody {
    /// The workflow id.
    pub workflow_id: String,
    /// The execution.
    pub run_id: Uuid,
    /// The update's id.
    pub id: String,
    /// `accepted` while it is under way, then `completed` or `failed`.
    #[schema(example = "completed")]
    pub stage: &'static str,
    /// The result of a completed one: any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub result: Option<Box<RawValue>>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureBody>,
}

/// An update's answer; 202 while it is under way.
fn update_answer(workflow_id: String, status: UpdateStatus) -> Result<Response, Problem> {
    let (code, stage, result, failure) = match status.outcome {
        None => (StatusCode::ACCEPTED, "accepted", None, None),
        Some(Ok(result)) => (StatusCode::OK, "completed", Some(raw(&result)?), None),
        Some(Err(failure)) => (StatusCode::OK, "failed", None, Some(failure.into())),
    };
    let body = UpdateBody {
        workflow_id,
        run_id: status.run_id,
        id: status.update_id,
        stage,
        result,
        failure,
    };
    Ok((code, JsonAnswer(body)).into_response())
}

/// Offer an open run an update
///
/// A task that listens takes it, or it is rejected and leaves no trace. When it is
/// answered, the run has it, whatever happens to the server. The same id again answers
/// the same update. Without `wait` it does not wait for its end.
#[utoipa::path(post, path = "/workflows/{workflow_id}/updates", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"), WaitQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The update's id, where the body names none")),
    request_body = SignalBody,
    responses((status = 200, description = "It has ended", body = UpdateBody),
        (status = 202, description = "It is under way", body = UpdateBody),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 409, body = Problem, description = "No task takes it, the run has ended, or takes no more", content_type = "application/problem+json"),
        (status = 413, body = Problem, description = "It is larger than 2 MiB", content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon, or without `wait`", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn update(
    State(app): State<App>,
    RunPath(run): RunPath,
    Query(query): Query<WaitQuery>,
    IdempotencyKey(key): IdempotencyKey,
    Json(body): Json<SignalBody>,
) -> Result<Response, Problem> {
    let wait = app.wait(extract::wait(query.wait.as_deref())?)?;
    let update = body.signal(key.as_deref())?;
    let status = app.engine.update(&run, update, wait.time).await?;
    update_answer(run.workflow_id, status)
}

#[derive(Debug, Deserialize)]
pub(super) struct UpdateSegment {
    update_id: String,
}

/// How an update ended
#[utoipa::path(get, path = "/workflows/{workflow_id}/updates/{update_id}", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"),
        ("update_id" = String, Path, description = "The update's id, percent-encoded"), WaitQuery),
    responses((status = 200, description = "It has ended", body = UpdateBody),
        (status = 202, description = "It is under way", body = UpdateBody),
        (status = 404, body = Problem, description = "No such run, or it took no such update", content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon, or without `wait`", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn update_result(
    State(app): State<App>,
    RunPath(run): RunPath,
    Path(UpdateSegment { update_id }): Path<UpdateSegment>,
    Query(query): Query<WaitQuery>,
) -> Result<Response, Problem> {
    let wait = app.wait(extract::wait(query.wait.as_deref())?)?;
    let result = |wait| app.engine.update_result(&run, &update_id, wait);
    let status = match app.unless_stopping(&wait, result(wait.time)).await {
        Some(status) => status?,
        None => result(Duration::ZERO).await?,
    };
    update_answer(run.workflow_id, status)
}
