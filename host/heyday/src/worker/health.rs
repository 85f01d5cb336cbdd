//! A worker's own address: whether it has started, lives and is ready, as Kubernetes'
//! probes ask, and its metrics. It tells no secrets and changes nothing, so it needs no
//! token.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use heyday_durable::temporal::TemporalEngine;
use heyday_inference::Inference;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::problem::Problem;
use crate::api::system;
use crate::metrics::Metrics;

/// A runtime that does not run a task for so long is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// Why a worker whose device is gone is of no use any more.
const DEVICE_LOST: &str = "the device of models was lost and cannot be opened again";

/// What is asked.
pub(super) struct Health {
    /// When the server was last heard.
    pub(super) heard: watch::Receiver<Option<Instant>>,
    /// Whether the lease holds.
    pub(super) admission: watch::Receiver<bool>,
    /// The cluster.
    pub(super) engine: Arc<TemporalEngine>,
    /// What runs models.
    pub(super) inference: Inference,
    /// Where guests run.
    pub(super) guests: Handle,
    /// What is counted.
    pub(super) metrics: Arc<Metrics>,
    /// Cancelled when the worker begins to stop.
    pub(super) stopping: CancellationToken,
}

type Answer = Result<Json<Value>, Problem>;

fn ok() -> Answer {
    Ok(Json(
        json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }),
    ))
}

fn not_yet(why: &str) -> Answer {
    Err(Problem::unavailable("not-ready", why))
}

/// The routes.
pub(super) fn router(health: Health) -> Router {
    Router::new()
        .route("/health/startup", get(startup))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(health))
}

/// Whether it has reached its server and its cluster once.
async fn startup(State(health): State<Arc<Health>>) -> Answer {
    if health.heard.borrow().is_none() {
        return not_yet("Heyday's server was not reached yet");
    }
    if !health.engine.connected(Duration::ZERO).await {
        return not_yet("the Temporal cluster was not reached yet");
    }
    ok()
}

/// Whether a restart would not help: a server or a cluster that is away would still be so, and a
/// device that its driver gave up comes back only by one.
async fn live(State(health): State<Arc<Health>>) -> Answer {
    if health.inference.is_device_lost() {
        return not_yet(DEVICE_LOST);
    }
    let beat = health.guests.spawn(async {});
    match tokio::time::timeout(STUCK, beat).await {
        Ok(Ok(())) => ok(),
        _ => not_yet("the threads of guests do nothing any more"),
    }
}

/// Whether it takes tasks.
async fn ready(State(health): State<Arc<Health>>) -> Answer {
    if health.stopping.is_cancelled() {
        return not_yet("the worker is stopping");
    }
    if health.inference.is_device_lost() {
        return not_yet(DEVICE_LOST);
    }
    if !health.engine.connected(Duration::ZERO).await {
        return not_yet("the Temporal cluster was not reached yet");
    }
    if !health.engine.is_cluster_there() {
        return not_yet("the Temporal cluster does not answer any more");
    }
    if !*health.admission.borrow() {
        return not_yet("Heyday's server was not heard for longer than the lease");
    }
    ok()
}

async fn metrics(State(health): State<Arc<Health>>) -> Response {
    match system::open_metrics(&health.metrics) {
        Ok(answer) => answer,
        Err(problem) => problem.into_response(),
    }
}
