//! `/workflows`: look at runs, wait for them, end them; [`starts`](super::starts) has
//! their start.

use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::StatusCode;
use heyday_durable::engine::{HistoryEvent, ListRuns, RunRef};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::App;
use super::extract::{self, Caller, Json, Query};
use super::pages::page_size;
use super::problem::Problem;
use super::runs::{ResultBody, RunBody, RunPath, RunRow};

/// Bytes of a reason.
const LONGEST_REASON: usize = 2_000;

/// Which runs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// A filter, `WorkflowType = 'x' AND ExecutionStatus = 'Running'`.
    query: Option<String>,
    /// Rows, 1 to 1,000; 50 where absent.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A page of runs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunsBody {
    /// The runs.
    pub workflows: Vec<RunRow>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// List runs, newest first
#[utoipa::path(get, path = "/workflows", tag = "workflows", params(ListQuery),
    responses((status = 200, body = RunsBody),
        (status = 400, description = "A malformed filter or page token", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<JsonAnswer<RunsBody>, Problem> {
    let page = app
        .engine
        .list(&ListRuns {
            namespace: caller.namespace,
            query: query.query,
            page_size: page_size(query.page_size)?,
            page_token: query.page_token,
        })
        .await?;
    Ok(JsonAnswer(RunsBody {
        workflows: page.runs.into_iter().map(Into::into).collect(),
        next_page_token: page.next_page_token,
    }))
}

/// Which runs to count.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CountQuery {
    /// A filter, `WorkflowType = 'x' AND ExecutionStatus = 'Running'`; all runs where
    /// absent.
    query: Option<String>,
}

/// How many runs match.
#[derive(Debug, Serialize, ToSchema)]
pub struct CountBody {
    /// How many.
    pub count: u64,
}

/// Count runs
#[utoipa::path(get, path = "/workflow-count", tag = "workflows", params(CountQuery),
    responses((status = 200, body = CountBody),
        (status = 400, description = "A malformed filter", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn count(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<CountQuery>,
) -> Result<JsonAnswer<CountBody>, Problem> {
    let count = app
        .engine
        .count(&caller.namespace, query.query.as_deref())
        .await?;
    Ok(JsonAnswer(CountBody { count }))
}

/// Show a run
#[utoipa::path(get, path = "/workflows/{workflow_id}", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded")),
    responses((status = 200, body = RunBody),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json")))]
pub(super) async fn show(
    State(app): State<App>,
    RunPath(run): RunPath,
) -> Result<JsonAnswer<RunBody>, Problem> {
    let description = app.engine.describe(&run).await?;
    // What became of the run that goes on where this one ended is said by that one.
    let ended = description.info.closed_at.is_some() && description.continued_as.is_none();
    let run = RunRef {
        run_id: Some(description.info.run_id),
        ..run
    };
    let mut body = RunBody::from(description);
    if ended && let Some(end) = app.engine.result(&run, std::time::Duration::ZERO).await? {
        body.failure = end.outcome.err().map(Into::into);
    }
    Ok(JsonAnswer(body))
}

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Wait so long for the end: `30s`, `500ms`, `1m`; at most a minute.
    pub(super) wait: Option<String>,
}

/// How a run ended
///
/// Answers with `status: "Running"` where it has not ended within `wait`. Where it continued
/// as a new run, or a foreign starter's retry policy or cron made the cluster start the next
/// one, that is the end of the last of them.
#[utoipa::path(get, path = "/workflows/{workflow_id}/result", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"), WaitQuery),
    responses((status = 200, body = ResultBody),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon, or without `wait`", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn result(
    State(app): State<App>,
    RunPath(run): RunPath,
    Query(query): Query<WaitQuery>,
) -> Result<JsonAnswer<ResultBody>, Problem> {
    let wait = extract::wait(query.wait.as_deref())?;
    app.result_within(&run, wait).await.map(JsonAnswer)
}

impl App {
    /// A run's result, or that it is running after so long (or when the server stops).
    pub(super) async fn result_within(
        &self,
        run: &RunRef,
        wait: Option<Duration>,
    ) -> Result<ResultBody, Problem> {
        let wait = self.wait(wait)?;
        let end = self.engine.result(run, wait.time);
        let end = self.unless_stopping(&wait, end).await.transpose()?;
        match end.flatten() {
            Some(end) => self.ended(run.workflow_id.clone(), end).await,
            None => Ok(ResultBody::running(run.workflow_id.clone(), run.run_id)),
        }
    }
}

/// Which events to answer.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// Events after this id; 0 where absent.
    #[serde(default)]
    after: u64,
    /// At most so many, 1 to 1,000; 50 where absent.
    limit: Option<usize>,
    /// Wait so long for the first one: `30s`.
    wait: Option<String>,
}

/// A page of a history.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryBody {
    /// The run.
    pub run_id: Uuid,
    /// The events, ascending: `event_id`, `event_time`, `event_type`, `attributes`.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<HistoryEvent>,
    /// Whether the run has ended and this page has its last event.
    pub complete: bool,
}

/// A run's history
#[utoipa::path(get, path = "/workflows/{workflow_id}/history", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"), HistoryQuery),
    responses((status = 200, body = HistoryBody),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon, or without `wait`", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn history(
    State(app): State<App>,
    RunPath(run): RunPath,
    Query(query): Query<HistoryQuery>,
) -> Result<JsonAnswer<HistoryBody>, Problem> {
    let limit = page_size(query.limit)?;
    let wait = app.wait(extract::wait(query.wait.as_deref())?)?;
    let history = |wait| app.engine.history(&run, query.after, limit, wait);
    let page = match app.unless_stopping(&wait, history(wait.time)).await {
        Some(page) => page?,
        None => history(Duration::ZERO).await?,
    };
    Ok(JsonAnswer(HistoryBody {
        run_id: page.run_id,
        events: page.events,
        complete: page.complete,
    }))
}

/// Why a run should end.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    /// For those who look at it later.
    #[serde(default)]
    pub reason: Option<String>,
}

impl ReasonBody {
    fn text(self) -> Result<String, Problem> {
        let reason = self.reason.unwrap_or_default();
        if reason.len() > LONGEST_REASON {
            return Err(Problem::invalid(format!(
                "a reason has at most {LONGEST_REASON} bytes"
            )));
        }
        Ok(reason)
    }
}

/// Ask a run to cancel
///
/// It may clean up first. Asking again changes nothing.
#[utoipa::path(post, path = "/workflows/{workflow_id}/cancel", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded")),
    request_body = ReasonBody,
    responses((status = 204, description = "It was asked"),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 409, body = Problem, description = "It has ended", content_type = "application/problem+json")))]
pub(super) async fn cancel(
    State(app): State<App>,
    caller: Caller,
    RunPath(run): RunPath,
    Json(body): Json<ReasonBody>,
) -> Result<StatusCode, Problem> {
    let reason = body.text()?;
    app.engine.cancel(&run, &reason).await?;
    app.note_end(&caller, "workflow.cancel", &run, &reason)
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// End a run at once
#[utoipa::path(post, path = "/workflows/{workflow_id}/terminate", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded")),
    request_body = ReasonBody,
    responses((status = 204, description = "It has ended"),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 409, body = Problem, description = "It had ended before", content_type = "application/problem+json")))]
pub(super) async fn terminate(
    State(app): State<App>,
    caller: Caller,
    RunPath(run): RunPath,
    Json(body): Json<ReasonBody>,
) -> Result<StatusCode, Problem> {
    let reason = body.text()?;
    app.engine.terminate(&run, &reason).await?;
    app.note_end(&caller, "workflow.terminate", &run, &reason)
        .await;
    Ok(StatusCode::NO_CONTENT)
}

impl App {
    /// Writes to the audit that somebody ends a run.
    async fn note_end(&self, caller: &Caller, action: &str, run: &RunRef, reason: &str) {
        let details = json!({ "run_id": run.run_id, "reason": reason });
        self.registry
            .note(caller.actor(), action, &run.workflow_id, details)
            .await;
    }
}
