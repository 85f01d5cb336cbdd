//! `/health`, `/metrics`, `/queues`, and the documentation of the API.

use axum::Json as JsonAnswer;
use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse as _, Response};
use heyday_durable::engine::QueueStats;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::{OpenApi, RefOr};

use super::App;
use super::extract::Caller;
use super::problem::Problem;
use crate::metrics::Metrics;

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthBody {
    /// `ok`.
    pub status: &'static str,
    /// The version of Heyday.
    pub version: &'static str,
    /// What makes runs durable.
    pub engine: &'static str,
}

/// Whether the server is up
///
/// Needs no token. A server that stops takes no connections any more; what came on one before
/// is answered 503.
#[utoipa::path(get, path = "/health", tag = "system", security(()),
    responses((status = 200, body = HealthBody),
        (status = 503, body = Problem, description = "It is stopping", content_type = "application/problem+json")))]
pub(super) async fn health(State(app): State<App>) -> Result<JsonAnswer<HealthBody>, Problem> {
    if app.stopping.is_cancelled() {
        return Err(heyday_durable::engine::EngineError::ShuttingDown.into());
    }
    Ok(JsonAnswer(HealthBody {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        engine: app.engine_name,
    }))
}

/// Metrics for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "system",
    responses((status = 200, description = "OpenMetrics text", content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    open_metrics(&app.metrics)
}

/// What is counted, as Prometheus reads it.
///
/// # Errors
/// When a label cannot be written.
pub fn open_metrics(metrics: &Metrics) -> Result<Response, Problem> {
    let text = metrics
        .render()
        .map_err(|error| Problem::internal(&error))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// What the queues are doing.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueuesBody {
    /// `name`, `limit`, `in_flight`, `backlog`, `backlog_age_ms` of each; on a Temporal
    /// cluster also the `namespace` whose slots these are, and `workflow_backlog` and
    /// `workflow_backlog_age_ms`: the workflow tasks that wait for a worker.
    #[schema(value_type = Vec<Object>)]
    pub queues: Vec<QueueStats>,
}

/// List the queues
#[utoipa::path(get, path = "/queues", tag = "system", responses((status = 200, body = QueuesBody)))]
pub(super) async fn queues(State(app): State<App>, _: Caller) -> JsonAnswer<QueuesBody> {
    JsonAnswer(QueuesBody {
        queues: app.engine.queues(),
    })
}

/// A page that lists the operations of the API; it loads nothing from elsewhere.
pub(super) fn docs(api: &OpenApi) -> Html<String> {
    let mut rows = String::new();
    let mut operations: Vec<(String, String, &utoipa::openapi::path::Operation)> = Vec::new();
    for (path, item) in &api.paths.paths {
        for (method, operation) in [
            ("GET", &item.get),
            ("PUT", &item.put),
            ("POST", &item.post),
            ("DELETE", &item.delete),
        ] {
            if let Some(operation) = operation {
                operations.push((path.clone(), method.to_owned(), operation));
            }
        }
    }
    operations.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    for (path, method, operation) in operations {
        let summary = operation.summary.as_deref().unwrap_or_default();
        let description = operation.description.as_deref().unwrap_or_default();
        let parameters = operation
            .parameters
            .iter()
            .flatten()
            .filter_map(|parameter| match parameter {
                RefOr::T(parameter) => Some(escape(&parameter.name)),
                RefOr::Ref(_) => None,
            })
            .collect::<Vec<_>>()
            .join(", ");
        rows.push_str(&format!(
            "<tr><td><code>{method}</code></td><td><code>{}</code></td><td>{}<br><small>{}</small></td><td><small>{parameters}</small></td></tr>\n",
            escape(&path),
            escape(summary),
            escape(description),
        ));
    }
    Html(format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Heyday API</title>\n\
         <style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}}\
         table{{border-collapse:collapse;width:100%}}td,th{{border-bottom:1px solid #ccc;padding:.4rem;text-align:left;vertical-align:top}}</style>\n\
         <h1>Heyday API</h1>\n<p>Version {}. Every path but <code>/health</code>, presigned addresses and this documentation wants \
         <code>Authorization: Bearer TOKEN</code>; <code>Heyday-Namespace</code> names a namespace. \
         The whole description is <a href=\"/openapi.json\">OpenAPI 3.1</a>.</p>\n\
         <table><tr><th>Method<th>Path<th>What it does<th>Parameters</tr>\n{rows}</table></html>\n",
        env!("CARGO_PKG_VERSION")
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
