//! A worker's own address: whether it has started, lives and is ready, as Kubernetes'
//! probes ask, and its metrics. It tells no secrets and changes nothing, so it needs no
//! token.
//!
//! It answers from the first moment: a worker whose server is away is no reason for a restart.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
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

use super::UNREACHED;
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

/// Who answers: a worker, once there is one. Clones are handles of the same.
#[derive(Clone, Default)]
pub(super) struct Probed(Arc<Stage>);

#[derive(Default)]
struct Stage {
    worker: OnceLock<Health>,
    /// Why there is none yet.
    waits: Mutex<String>,
}

impl Probed {
    /// Says why there is no worker yet; with no words, that it is starting.
    pub(super) fn say_why(&self, why: String) {
        *self.0.waits.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// There is a worker now.
    pub(super) fn begin(&self, worker: Health) {
        // It begins once.
        let _ = self.0.worker.set(worker);
    }

    fn worker(&self) -> Result<&Health, Problem> {
        self.0.worker.get().ok_or_else(|| {
            let why = self.0.waits.lock().unwrap_or_else(PoisonError::into_inner);
            let why = match why.as_str() {
                "" => "the worker is starting",
                why => why,
            };
            Problem::unavailable("not-ready", why)
        })
    }

    /// The routes.
    pub(super) fn router(&self) -> Router {
        Router::new()
            .route("/health/startup", get(startup))
            .route("/health/live", get(live))
            .route("/health/ready", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self.clone())
    }
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

/// Whether it has reached its server and its cluster once.
async fn startup(State(probed): State<Probed>) -> Answer {
    let health = probed.worker()?;
    if health.heard.borrow().is_none() {
        return not_yet(UNREACHED);
    }
    if !health.engine.connected(Duration::ZERO).await {
        return not_yet("the Temporal cluster was not reached yet");
    }
    ok()
}

/// Whether a restart would not help: a server or a cluster that is away would still be so, and a
/// device that its driver gave up comes back only by one.
async fn live(State(probed): State<Probed>) -> Answer {
    let Ok(health) = probed.worker() else {
        // It waits, and would again.
        return ok();
    };
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
async fn ready(State(probed): State<Probed>) -> Answer {
    let health = probed.worker()?;
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

async fn metrics(State(probed): State<Probed>) -> Response {
    let answer = probed
        .worker()
        .and_then(|health| system::open_metrics(&health.metrics));
    match answer {
        Ok(answer) => answer,
        Err(problem) => problem.into_response(),
    }
}
