//! `/workers`: who works for this server, and with which models ([`crate::workers`]).

use std::sync::Arc;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::App;
use super::extract::{Caller, Json, Query};
use super::pages::{PageQuery, page};
use super::problem::Problem;
use super::worker::opens;
use crate::tokens::WorkerToken;
use crate::worker::wire::AnnouncementBody;
use crate::workers::Heard;

/// Entries of each list in an announcement.
const ENTRIES: usize = 1_000;

/// A worker.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerInfo {
    /// The process.
    pub id: Uuid,
    /// The namespaces whose tasks it takes.
    pub namespaces: Vec<String>,
    /// Its queues, with how many activities each runs at once in each namespace.
    #[schema(value_type = Object)]
    pub queues: Value,
    /// Where its models run.
    pub device: String,
    /// The models that it can serve: `name`, `task`, `digest` of those that are imported
    /// there, and whether it is `loaded`.
    #[schema(value_type = Vec<Object>)]
    pub models: Value,
    /// When it was first heard.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// When it was last heard.
    #[schema(value_type = String, format = DateTime)]
    pub heard_at: Timestamp,
}

/// A page of workers.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkersBody {
    /// Those that were heard in the last 30 seconds, oldest first.
    pub workers: Vec<WorkerInfo>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// List the workers of the namespace
///
/// With the models that each can serve. Empty where this process runs everything itself.
#[utoipa::path(get, path = "/workers", tag = "workers", params(PageQuery),
    responses((status = 200, body = WorkersBody)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<WorkersBody>, Problem> {
    let workers = app.workers.of(&caller.namespace).await?;
    let (size, token) = (query.page_size, query.page_token.as_deref());
    // As many digits for each, so that they are in the order of the times.
    let name = |it: &Heard| format!("{:020} {}", it.since.as_microsecond(), it.body.worker);
    let (workers, next_page_token) = page(workers, size, token, name)?;
    let told = workers.into_iter().map(|heard| WorkerInfo {
        id: heard.body.worker,
        // Names, numbers and digests cannot fail to be written.
        queues: serde_json::to_value(&heard.body.queues).unwrap_or_default(),
        models: serde_json::to_value(&heard.body.models).unwrap_or_default(),
        namespaces: heard.body.namespaces,
        device: heard.body.device,
        since: heard.since,
        heard_at: heard.heard_at,
    });
    Ok(JsonAnswer(WorkersBody {
        workers: told.collect(),
        next_page_token,
    }))
}

/// Say that a worker is there, and which models it can serve
#[utoipa::path(post, path = "/worker/announcements", tag = "workers", request_body = Object,
    responses((status = 204, description = "Heard"),
        (status = 403, description = "The token does not open a namespace", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn announce(
    State(app): State<App>,
    axum::Extension(token): axum::Extension<Arc<WorkerToken>>,
    Json(body): Json<AnnouncementBody>,
) -> Result<StatusCode, Problem> {
    for namespace in &body.namespaces {
        opens(&token, namespace)?;
    }
    let most = body
        .namespaces
        .len()
        .max(body.queues.len())
        .max(body.models.len());
    if most > ENTRIES {
        return Err(Problem::invalid(format!(
            "an announcement has at most {ENTRIES} namespaces, queues and models each"
        )));
    }
    app.workers.hear(body).await?;
    Ok(StatusCode::NO_CONTENT)
}
