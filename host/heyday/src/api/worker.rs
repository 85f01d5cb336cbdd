//! `/worker`: what workers ask the server, which they do with tokens of their own
//! ([`crate::tokens`]). The other side is [`crate::worker`], the bodies are in
//! [`crate::worker::wire`].
//!
//! Bytes are asked for by their digest, which nobody knows who has not seen them or a
//! history that names them; so a token's namespaces limit what is told and taken by
//! namespace, and not what is read by digest.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use heyday_durable::definition::{Definitions as _, WorkflowReference};
use heyday_durable::engine::LiveEvent;
use heyday_durable::payload::{Digest, PayloadStoreError};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::App;
use super::extract::{Body, Json, Path, Query, namespace};
use super::layers::refusal;
use super::problem::Problem;
use crate::auth::AuthError;
use crate::recorder::{AttemptName, ReceiptRow, Records as _};
use crate::registry::RegistryError;
use crate::registry::feed::Revision;
use crate::state::shared::Shared;
use crate::tokens::WorkerToken;
use crate::worker::wire::{
    NewsBody, PinsBody, PluginBody, QueuesBody, RecordsBody, RevisionBody, Said,
};

/// News that wait for a slow worker.
const AHEAD: usize = 16;
/// Bounds of the time after which a silent stream says that it is there.
const KEEP_ALIVE: std::ops::RangeInclusive<u64> = 100..=15_000;

/// A worker, and the namespace that it asks about. The outer layer has checked the token.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    token: Arc<WorkerToken>,
    namespace: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Worker {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Absent only if a route was mounted outside of the layer that checks tokens.
        let token = parts
            .extensions
            .get::<Arc<WorkerToken>>()
            .cloned()
            .ok_or_else(|| Problem::unauthorized("the request has no worker's token"))?;
        let namespace = namespace(&parts.headers)?;
        opens(&token, &namespace)?;
        Ok(Self { token, namespace })
    }
}

pub(super) fn opens(token: &WorkerToken, namespace: &str) -> Result<(), Problem> {
    if token.opens(namespace) {
        Ok(())
    } else {
        Err(refusal(AuthError::Namespace(namespace.to_owned())))
    }
}

/// What to follow.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamQuery {
    /// Namespaces, separated by commas.
    namespaces: String,
    /// A silent stream says that it is there after so many milliseconds, 100 to 15,000.
    keep_alive_ms: Option<u64>,
}

/// Active versions and grants, live
///
/// Server-sent events: `snapshot` (everything; what is not named is gone) and `changes`,
/// each with the revision as its id. `Last-Event-ID` goes on after that revision, where
/// it is still known.
#[utoipa::path(get, path = "/worker/stream", tag = "workers",
    params(StreamQuery, ("Last-Event-ID" = Option<String>, Header, description = "Go on after this revision")),
    responses((status = 200, description = "The stream", content_type = "text/event-stream", body = String),
        (status = 403, description = "The token does not open a namespace", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn stream(
    State(app): State<App>,
    axum::Extension(token): axum::Extension<Arc<WorkerToken>>,
    headers: HeaderMap,
    Query(query): Query<StreamQuery>,
) -> Result<Response, Problem> {
    let namespaces: Vec<String> = query.namespaces.split(',').map(str::to_owned).collect();
    for namespace in &namespaces {
        if !crate::names::is_name(namespace) {
            return Err(Problem::invalid(format!(
                "namespaces are names separated by commas, each as: {}",
                crate::names::NAME_RULE
            )));
        }
        opens(&token, namespace)?;
    }
    let keep_alive = query.keep_alive_ms.unwrap_or(*KEEP_ALIVE.end());
    if !KEEP_ALIVE.contains(&keep_alive) {
        return Err(Problem::invalid(format!(
            "keep_alive_ms is {} to {}",
            KEEP_ALIVE.start(),
            KEEP_ALIVE.end()
        )));
    }
    // One that is not known any more is answered with everything, and so is one that
    // another process gave out.
    let after = headers.get("last-event-id").map(|value| {
        let text = value.to_str().unwrap_or_default();
        text.parse::<Revision>()
            .map_err(|error| Problem::invalid(format!("Last-Event-ID: {error}")))
    });
    let after = after.transpose()?;
    let shared = app.state.shared().cloned();
    if shared.as_ref().is_some_and(|shared| !shared.is_sure()) {
        return Err(Problem::unavailable(
            "storage-unavailable",
            "the server's state is away, so that nobody knows what is granted now",
        ));
    }
    let place = app.waiting_place()?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let _place = place;
        tokio::select! {
            () = tell(&app, &namespaces, after, &sender) => {}
            () = token.revoked.cancelled() => {}
            // What it was told may be wrong by now: its lease must end.
            () = unsure(shared.as_deref()) => {}
            () = app.stopping.cancelled() => {}
            () = sender.closed() => {}
        }
    });
    let keep_alive = KeepAlive::new().interval(Duration::from_millis(keep_alive));
    Ok(Sse::new(ReceiverStream::new(receiver))
        .keep_alive(keep_alive)
        .into_response())
}

/// Waits until the server does not know any more what was granted.
async fn unsure(shared: Option<&Shared>) {
    match shared {
        Some(shared) => shared.unsure().await,
        None => std::future::pending().await,
    }
}

/// Tells news until the worker has gone.
async fn tell(
    app: &App,
    namespaces: &[String],
    mut after: Option<Revision>,
    sender: &mpsc::Sender<Result<Event, Infallible>>,
) {
    let mut told = app.registry.told();
    loop {
        told.borrow_and_update();
        let news = app.registry.news(after);
        let mut changes = news.changes;
        changes.retain(|change| namespaces.iter().any(|name| name == change.namespace()));
        // The first event says where the worker is, whatever there is to tell.
        if after != Some(news.revision) || news.whole {
            let name = if news.whole { "snapshot" } else { "changes" };
            let body = NewsBody {
                revision: news.revision.to_string(),
                changes,
            };
            let event = Event::default()
                .event(name)
                .id(&body.revision)
                // Names, digests and grants cannot fail to be written.
                .data(serde_json::to_string(&body).unwrap_or_default());
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
        after = Some(news.revision);
        if told.changed().await.is_err() {
            return;
        }
    }
}

/// Where the sequence of changes is now
///
/// A worker that misses something waits until its stream is there.
#[utoipa::path(get, path = "/worker/revision", tag = "workers",
    responses((status = 200, description = "The revision", body = Object)))]
pub(super) async fn revision(State(app): State<App>, _: Worker) -> JsonAnswer<RevisionBody> {
    JsonAnswer(RevisionBody {
        revision: app.registry.revision().to_string(),
    })
}

fn digest(text: &str) -> Result<Digest, Problem> {
    text.parse()
        .map_err(|_| Problem::invalid("a digest is sha256: and 64 hexadecimal digits"))
}

/// What a plugin version says of itself, by digest
#[utoipa::path(get, path = "/worker/plugins/{digest}", tag = "workers",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    responses((status = 200, description = "The version", body = Object),
        (status = 404, description = "No such version", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn plugin(
    State(app): State<App>,
    worker: Worker,
    Path(text): Path<String>,
) -> Result<JsonAnswer<PluginBody>, Problem> {
    let digest = digest(&text)?;
    if app.registry.stored(&digest).is_none() {
        // What was removed is made again of its bytes, where they are still there.
        read(&app, &digest).await?;
    }
    let found = app.registry.stored_or_revived(&worker.namespace, &digest);
    Ok(JsonAnswer(found.await?.row.clone().into()))
}

/// The bytes of a component or a flow, by digest
#[utoipa::path(get, path = "/worker/content/{digest}", tag = "workers",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    responses((status = 200, description = "The bytes", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, description = "No such bytes", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn content(
    State(app): State<App>,
    _: Worker,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    Ok(octets(read(&app, &digest(&text)?).await?))
}

async fn read(app: &App, digest: &Digest) -> Result<bytes::Bytes, Problem> {
    let read = app.registry.content(digest).await;
    read.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Problem::not_found(format!(
            "no component and no flow of the digest {digest} is stored"
        )),
        _ => RegistryError::from(error).into(),
    })
}

fn octets(bytes: bytes::Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}

/// The bytes of a value that goes by reference
#[utoipa::path(get, path = "/worker/payloads/{digest}", tag = "workers",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    responses((status = 200, description = "The bytes", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, description = "No such value", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn payload(
    State(app): State<App>,
    _: Worker,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    match app.payloads.get(&digest(&text)?).await {
        Ok(bytes) => Ok(octets(bytes)),
        Err(error) => Err(unstored(&error)),
    }
}

fn unstored(error: &PayloadStoreError) -> Problem {
    match error {
        PayloadStoreError::NotFound(_) => Problem::not_found("no value of that digest is stored"),
        error @ PayloadStoreError::Unavailable(_) => {
            tracing::error!(%error, "a value cannot be stored or read");
            Problem::unavailable("storage-unavailable", "values cannot be stored or read now")
        }
    }
}

/// Store a value that goes by reference
#[utoipa::path(put, path = "/worker/payloads/{digest}", tag = "workers",
    params(("digest" = String, Path, description = "`sha256:` and 64 hexadecimal digits")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "Stored"),
        (status = 422, description = "The bytes have another digest", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn put_payload(
    State(app): State<App>,
    _: Worker,
    Path(text): Path<String>,
    Body(bytes): Body,
) -> Result<StatusCode, Problem> {
    let said = digest(&text)?;
    let digest = Digest::of(&bytes);
    if digest != said {
        return Err(Problem::unprocessable(
            "wrong-digest",
            "The bytes are not those that were named",
            format!("the body has the digest {digest}"),
        ));
    }
    let stored = app.payloads.put(bytes).await;
    stored.map_err(|error| unstored(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// The queues whose workers have a model
///
/// For a worker that lacks one that was granted: whether another attempt may find it.
#[utoipa::path(get, path = "/worker/models/{name}", tag = "workers",
    params(("name" = String, Path, description = "The model's name")),
    responses((status = 200, description = "The queues; none where nobody has it", body = Object)))]
pub(super) async fn model(
    State(app): State<App>,
    worker: Worker,
    Path(name): Path<String>,
) -> Result<JsonAnswer<QueuesBody>, Problem> {
    let queues = app.workers.queues_with(&worker.namespace, &name).await?;
    Ok(JsonAnswer(QueuesBody { queues }))
}

/// What a run is pinned to that came without
#[utoipa::path(post, path = "/worker/pins", tag = "workers", request_body = Object,
    responses((status = 200, description = "The pins, or why there are none", body = Object)))]
pub(super) async fn pins(
    State(app): State<App>,
    worker: Worker,
    Json(reference): Json<WorkflowReference>,
) -> JsonAnswer<PinsBody> {
    let pinned = app.definitions.pin(&worker.namespace, &reference).await;
    JsonAnswer(match pinned {
        Ok(pinned) => PinsBody::Pinned {
            workflow_type: pinned.workflow_type,
            version: pinned.version,
            digest: pinned.digest,
            activities: (*pinned.activities).clone(),
        },
        Err(failure) => PinsBody::Failed(failure),
    })
}

/// Send what attempts said and used
///
/// In batches that are numbered within the process that sends them: one that was taken
/// before is taken for sent. What is answered with 204 is written.
#[utoipa::path(post, path = "/worker/records", tag = "workers", request_body = Object,
    responses((status = 204, description = "Taken"),
        (status = 403, description = "The token does not open a namespace", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The batch cannot be written now; it may be sent again", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn records(
    State(app): State<App>,
    worker: Worker,
    Json(body): Json<RecordsBody>,
) -> Result<StatusCode, Problem> {
    for record in &body.records {
        opens(&worker.token, &record.attempt.namespace)?;
    }
    let mut lines = Vec::new();
    let mut receipts = Vec::new();
    let mut progress = Vec::new();
    for record in body.records {
        let attempt = Arc::new(AttemptName::from(record.attempt));
        match record.said {
            Said::Log(line) => lines.push((attempt, line)),
            Said::Progress(how_far) => progress.push((attempt, how_far)),
            Said::Ended {
                started_at,
                ended_at,
                outcome,
                receipt,
                denied,
            } => receipts.push(ReceiptRow {
                attempt,
                started_at,
                ended_at,
                outcome,
                receipt,
                denied,
            }),
        }
    }
    let taken = app
        .recorder
        .take_batch(body.worker, body.sequence, &lines, &receipts);
    taken.await?;
    for (attempt, how_far) in progress {
        app.recorder.progress(&attempt, &how_far);
        let event = LiveEvent::Progress {
            activity_id: attempt.activity_id.clone(),
            attempt: attempt.attempt,
            progress: how_far,
        };
        app.engine.tell(attempt.run_id, event);
    }
    Ok(StatusCode::NO_CONTENT)
}
