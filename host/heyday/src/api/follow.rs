//! A run's events, log lines and receipts; the first two also live, as server-sent
//! events.
//!
//! A stream is a task that sends into a short channel, so that a slow client slows only
//! its own stream; it ends with the run, with the client, or when the server stops. Each
//! event that can be asked for again has an id, and `Last-Event-ID` goes on after it.
//! When all was said before, the answer is 204, which tells a browser not to come back.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use heyday_durable::activity::AttemptReceipt;
use heyday_durable::engine::{EngineError, LiveEvent, RunRef};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::App;
use super::extract::Query;
use super::pages::{PageQuery, first_of, page_size};
use super::problem::Problem;
use super::runs::RunPath;
use crate::registry::types::{LogRecord, ReceiptPlace, ReceiptRecord};
use crate::sweeping::kept_since;

/// Events that wait for a slow client.
const AHEAD: usize = 64;
/// Events or lines that are read at once.
const BATCH: usize = 200;
/// One wait for the next event.
const SLICE: Duration = Duration::from_secs(20);
/// Between two looks whether a run that is not over has continued as a new one.
const LOOK: Duration = Duration::from_secs(5);
/// A comment is sent after so long without an event, so that nobody between closes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Sender = mpsc::Sender<Result<Event, Infallible>>;

/// Where a stream goes on: after this event or line.
fn last_event_id(headers: &HeaderMap) -> Result<u64, Problem> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(0);
    };
    value
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::invalid("Last-Event-ID is the id of an event of this stream"))
}

fn stream(receiver: mpsc::Receiver<Result<Event, Infallible>>) -> Response {
    Sse::new(ReceiverStream::new(receiver))
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

/// An event with JSON data, which has no line breaks.
fn event(name: &str, data: &impl Serialize) -> Event {
    Event::default()
        .event(name)
        .data(serde_json::to_string(data).unwrap_or_default())
}

/// The run, with the run id that the latest one has now.
async fn pinned(app: &App, run: RunRef) -> Result<(RunRef, bool), Problem> {
    let info = app.engine.describe(&run).await?.info;
    let run = RunRef {
        run_id: Some(info.run_id),
        ..run
    };
    Ok((run, info.closed_at.is_some()))
}

/// Whether a run that has no result yet has ended by itself: another one goes on.
async fn continued(app: &App, run: &RunRef) -> Result<bool, EngineError> {
    let described = app.engine.describe(run).await?;
    Ok(described.info.closed_at.is_some())
}

/// A run's events, live
///
/// Server-sent events: `history` (a history event; its id is the event's), `progress`
/// (how far an attempt is; no id) and, when the run has ended, `end` with its status, and
/// with `continued_as` where another run goes on.
#[utoipa::path(get, path = "/workflows/{workflow_id}/events", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"),
        ("Last-Event-ID" = Option<u64>, Header, description = "Go on after this event")),
    responses((status = 200, description = "The stream", content_type = "text/event-stream", body = String),
        (status = 204, description = "The run has ended and all was said before"),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn events(
    State(app): State<App>,
    RunPath(run): RunPath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = last_event_id(&headers)?;
    let (run, closed) = pinned(&app, run).await?;
    if closed {
        let page = app.engine.history(&run, after, 1, Duration::ZERO).await?;
        if page.events.is_empty() {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    let place = app.waiting_place()?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let _place = place;
        if let Err(error) = send_events(&app, &run, after, &sender).await {
            tracing::warn!(%error, "a stream of events ended early");
        }
    });
    Ok(stream(receiver))
}

async fn send_events(
    app: &App,
    run: &RunRef,
    mut after: u64,
    sender: &Sender,
) -> Result<(), EngineError> {
    // Before the first look at the history: nothing falls between the two.
    let mut live = app.engine.live(run.run_id.unwrap_or_default());
    let mut live_open = true;
    loop {
        let mut page = std::pin::pin!(app.engine.history(run, after, BATCH, app.patience(SLICE)));
        let page = loop {
            tokio::select! {
                page = &mut page => break page?,
                next = live.recv(), if live_open => match next {
                    Ok(progress) => {
                        if send_progress(sender, &progress).await.is_err() {
                            return Ok(());
                        }
                    }
                    // Progress that a slow client missed is out of date anyway.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => live_open = false,
                },
                () = sender.closed() => return Ok(()),
                () = app.stopping.cancelled() => return Ok(()),
            }
        };
        // An attempt tells how far it is before its end is recorded, and so it is passed on: the
        // page may be the last. No more than there is now: more may come as fast as it is sent.
        for _ in 0..live.len() {
            match live.try_recv() {
                Ok(progress) => {
                    if send_progress(sender, &progress).await.is_err() {
                        return Ok(());
                    }
                }
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        for item in &page.events {
            after = item.event_id;
            let item = event("history", item).id(after.to_string());
            if sender.send(Ok(item)).await.is_err() {
                return Ok(());
            }
        }
        if page.complete {
            let ended = app.engine.describe(run).await?;
            let mut end = serde_json::json!({ "type": "end", "status": ended.info.status });
            if let Some(next) = ended.continued_as {
                end["continued_as"] = next.to_string().into();
            }
            let end = event("end", &end);
            // Nobody may be there any more to hear it.
            let _ = sender.send(Ok(end.id(after.to_string()))).await;
            return Ok(());
        }
    }
}

async fn send_progress(sender: &Sender, progress: &LiveEvent) -> Result<(), ()> {
    let item = event("progress", progress);
    sender.send(Ok(item)).await.map_err(|_| ())
}

/// Which lines to answer.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogsQuery {
    /// Stream them, until the run has ended.
    #[serde(default)]
    follow: bool,
    /// Lines of a page, 1 to 1,000; 50 where absent.
    page_size: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// A page of log lines.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogsBody {
    /// The lines, oldest first.
    pub logs: Vec<LogRecord>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// What a run's plugins logged
///
/// With `follow`, server-sent events: `log`, with the line's id.
#[utoipa::path(get, path = "/workflows/{workflow_id}/logs", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"), LogsQuery,
        ("Last-Event-ID" = Option<u64>, Header, description = "Go on after this line, with `follow`")),
    responses((status = 200, body = LogsBody),
        (status = 204, description = "With `follow`: the run has ended and all was said before"),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json"),
        (status = 503, description = "As many wait or stream as the server lets; ask again soon, or without `follow`", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn logs(
    State(app): State<App>,
    RunPath(run): RunPath,
    headers: HeaderMap,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Problem> {
    let (run, closed) = pinned(&app, run).await?;
    let run_id = run.run_id.unwrap_or_default();
    // What was said is written behind; a reader sees all that was said before it asked.
    app.recorder.flush().await;
    if !query.follow {
        let limit = page_size(query.page_size)?;
        let after = match query.page_token {
            None => 0,
            Some(token) => token
                .parse()
                .map_err(|_| Problem::invalid("the page_token is none that a page answered"))?,
        };
        let logs = app
            .recorder
            .logs(&run.namespace, run_id, after, limit + 1)
            .await?;
        let (logs, next_page_token) = first_of(logs, limit, |line| line.id.to_string());
        return Ok(JsonAnswer(LogsBody {
            logs,
            next_page_token,
        })
        .into_response());
    }
    let after = last_event_id(&headers)?;
    if closed
        && app
            .recorder
            .logs(&run.namespace, run_id, after, 1)
            .await?
            .is_empty()
    {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let place = app.waiting_place()?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let _place = place;
        if let Err(problem) = send_logs(&app, &run, run_id, after, &sender).await {
            tracing::warn!(detail = problem.detail, "a stream of log lines ended early");
        }
    });
    Ok(stream(receiver))
}

async fn send_logs(
    app: &App,
    run: &RunRef,
    run_id: Uuid,
    mut after: u64,
    sender: &Sender,
) -> Result<(), Problem> {
    let mut written = app.recorder.written();
    let mut ended = false;
    loop {
        written.borrow_and_update();
        loop {
            let lines = app
                .recorder
                .logs(&run.namespace, run_id, after, BATCH)
                .await?;
            for line in &lines {
                after = line.id;
                let item = event("log", line).id(after.to_string());
                if sender.send(Ok(item)).await.is_err() {
                    return Ok(());
                }
            }
            if lines.len() < BATCH {
                break;
            }
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            changed = written.changed() => ended = changed.is_err(),
            end = app.engine.result(run, app.patience(LOOK)) => {
                // What its last attempts said may still be on the way to the database, and
                // from workers on the way here.
                if end?.is_some() || continued(app, run).await? {
                    app.elsewhere_waits().await;
                    app.recorder.flush().await;
                    ended = true;
                }
            }
            () = sender.closed() => return Ok(()),
            () = app.stopping.cancelled() => return Ok(()),
        }
    }
}

/// A page of what a run's attempts used.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReceiptsBody {
    /// One for each attempt that has ended, by start. One whose worker died has the outcome
    /// `worker-lost` and the counter `lost`; its times are then those between which it was.
    pub receipts: Vec<ReceiptRecord>,
    /// For the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// What a run's attempts used
#[utoipa::path(get, path = "/workflows/{workflow_id}/receipts", tag = "workflows",
    params(("workflow_id" = String, Path, description = "The caller's id, percent-encoded"), PageQuery),
    responses((status = 200, body = ReceiptsBody),
        (status = 404, body = Problem, description = "No such run", content_type = "application/problem+json")))]
pub(super) async fn receipts(
    State(app): State<App>,
    RunPath(run): RunPath,
    Query(query): Query<PageQuery>,
) -> Result<JsonAnswer<ReceiptsBody>, Problem> {
    let limit = page_size(query.page_size)?;
    let after: Option<ReceiptPlace> = query
        .page_token
        .map(|token| token.parse())
        .transpose()
        .map_err(|_| Problem::invalid("the page_token is none that a page answered"))?;
    let (run, _) = pinned(&app, run).await?;
    let mut lost = app.engine.lost_attempts(&run).await?;
    // One that was removed with its age is not lost. What is known of an attempt without a
    // receipt is when it began at the earliest: it may have ended soon after.
    let kept = kept_since(app.record_days);
    lost.retain(|lost| lost.started_at >= kept);
    app.recorder.flush().await;
    let receipts = if lost.is_empty() {
        written(&app, &run, after.as_ref(), limit + 1).await?
    } else {
        let all = with_lost(&app, &run, lost).await?.into_iter();
        let behind =
            |receipt: &ReceiptRecord| after.as_ref().is_none_or(|it| receipt.place() > *it);
        all.filter(behind).collect()
    };
    let name = |receipt: &ReceiptRecord| receipt.place().to_string();
    let (receipts, next_page_token) = first_of(receipts, limit, name);
    Ok(JsonAnswer(ReceiptsBody {
        receipts,
        next_page_token,
    }))
}

/// All receipts of a run, and those of the attempts that were lost and have none.
async fn with_lost(
    app: &App,
    run: &RunRef,
    mut lost: Vec<AttemptReceipt>,
) -> Result<Vec<ReceiptRecord>, Problem> {
    let mut receipts = all_written(app, run).await?;
    retain_unwritten(&mut lost, &receipts);
    if !lost.is_empty() {
        // They may be on their way.
        app.elsewhere_waits().await;
        app.recorder.flush().await;
        receipts = all_written(app, run).await?;
        retain_unwritten(&mut lost, &receipts);
        receipts.extend(lost.into_iter().map(ReceiptRecord::from));
        receipts.sort_by_key(ReceiptRecord::place);
    }
    Ok(receipts)
}

/// Leaves those that have no receipt.
fn retain_unwritten(lost: &mut Vec<AttemptReceipt>, receipts: &[ReceiptRecord]) {
    let written: HashSet<(&str, u32)> = receipts
        .iter()
        .map(|one| (one.activity_id.as_str(), one.attempt))
        .collect();
    lost.retain(|lost| !written.contains(&(lost.activity_id.as_str(), lost.attempt)));
}

async fn all_written(app: &App, run: &RunRef) -> Result<Vec<ReceiptRecord>, Problem> {
    const PAGE: usize = 1_000;
    let mut all: Vec<ReceiptRecord> = Vec::new();
    loop {
        let after = all.last().map(ReceiptRecord::place);
        let page = written(app, run, after.as_ref(), PAGE).await?;
        let last = page.len() < PAGE;
        all.extend(page);
        if last {
            return Ok(all);
        }
    }
}

/// A page of the receipts of a run that came here until now.
async fn written(
    app: &App,
    run: &RunRef,
    after: Option<&ReceiptPlace>,
    limit: usize,
) -> Result<Vec<ReceiptRecord>, Problem> {
    let run_id = run.run_id.unwrap_or_default();
    let receipts = app
        .recorder
        .receipts(&run.namespace, run_id, after, limit)
        .await?;
    Ok(receipts)
}
