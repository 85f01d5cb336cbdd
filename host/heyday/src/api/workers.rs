//! `/workers`: who works for this server, and with which models. Workers tell it themselves,
//! every few seconds; it is kept in memory, or in the state that several servers share, and
//! forgotten when they fall silent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
use crate::state::StateError;
use crate::tokens::WorkerToken;
use crate::worker::announce::INTERVAL;
use crate::worker::wire::AnnouncementBody;

/// A worker that was not heard for so long is gone.
const SILENCE: Duration = INTERVAL.saturating_mul(3);
/// Workers that are known at once.
const MOST: usize = 10_000;
/// Entries of each list in an announcement.
const ENTRIES: usize = 1_000;

/// The workers that were heard lately.
#[derive(Debug, Default)]
pub struct Workers(Mutex<HashMap<Uuid, (Heard, Instant)>>);

#[derive(Debug, Clone)]
struct Heard {
    body: AnnouncementBody,
    since: Timestamp,
    heard_at: Timestamp,
}

fn is_here(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < SILENCE
}

impl Workers {
    fn hear(&self, body: AnnouncementBody, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (_, at)| is_here(*at, now));
        let since = match all.get(&body.worker) {
            Some((heard, _)) => heard.since,
            // More than there can be are somebody's play.
            None if all.len() >= MOST => return,
            None => Timestamp::now(),
        };
        let heard = Heard {
            since,
            heard_at: Timestamp::now(),
            body,
        };
        all.insert(heard.body.worker, (heard, now));
    }

    fn list(&self, now: Instant) -> Vec<Heard> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = all.values().filter(|(_, at)| is_here(*at, now));
        here.map(|(heard, _)| heard.clone()).collect()
    }
}

/// The workers that any of the servers heard lately.
async fn heard(app: &App) -> Result<Vec<Heard>, StateError> {
    if !app.state.is_shared() {
        return Ok(app.workers.list(Instant::now()));
    }
    let rows = app.state.workers(SILENCE).await?;
    let known = rows.into_iter().filter_map(|row| {
        Some(Heard {
            // Of a server of another version it may be anything.
            body: serde_json::from_str(&row.announcement).ok()?,
            since: row.since,
            heard_at: row.heard_at,
        })
    });
    Ok(known.collect())
}

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
    let mut workers = heard(&app).await?;
    workers.retain(|it| it.body.namespaces.contains(&caller.namespace));
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
    if app.state.is_shared() {
        // Names, numbers and digests cannot fail to be written.
        let text = serde_json::to_string(&body).unwrap_or_default();
        let hearing = app.state.hear_worker(&body.worker, &text, SILENCE, MOST);
        hearing.await?;
    } else {
        app.workers.hear(body, Instant::now());
    }
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(worker: Uuid) -> AnnouncementBody {
        AnnouncementBody {
            worker,
            namespaces: vec!["default".to_owned()],
            queues: Default::default(),
            device: "cpu".to_owned(),
            models: Vec::new(),
        }
    }

    #[test]
    fn who_falls_silent_is_gone() {
        let workers = Workers::default();
        let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
        let begun = Instant::now();
        workers.hear(body(first), begun);
        let later = begun + INTERVAL * 2;
        workers.hear(body(second), later);
        workers.hear(body(second), later);
        assert_eq!(workers.list(later).len(), 2);
        let left = workers.list(later + INTERVAL * 2);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].body.worker, second);
    }
}
