//! The REST API: `/api/v1`, `/v1` ([`openai`]), `/presigned`, `/health`, `/metrics`,
//! `/openapi.json`, `/docs`.
//!
//! The way of a request: [`layers`] give it an id, a span and a limit on its body, check
//! `Host`, `Origin` and the token; the handler takes a [`extract::Caller`] (who, and in
//! which namespace) and what else it needs from [`extract`], asks the engine or the
//! registry, and answers JSON or a [`problem::Problem`]. Handlers hold no state of their
//! own: everything is in [`App`].
//!
//! The OpenAPI document is made from the handlers' own annotations, so that it cannot
//! say what they do not do.
//!
//! Start reading at [`workflows`].

pub mod activities;
pub mod events;
pub mod extract;
pub mod flows;
pub mod follow;
pub mod grants;
mod idempotency;
pub mod layers;
pub mod models;
pub mod openai;
mod pages;
pub mod plugins;
mod presigned;
pub mod problem;
pub mod pulls;
mod refusals;
pub mod replays;
pub mod routes;
pub mod runs;
pub mod schedules;
pub mod signals;
pub mod starts;
pub mod system;
#[cfg(test)]
mod tests;
pub mod tokens;
pub mod versions;
pub mod worker;
pub mod workers;
pub mod workflows;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use heyday_durable::engine::Engine;
use heyday_durable::payload::PayloadStore;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::definitions::HostDefinitions;
use crate::follower::Follower;
use crate::metrics::Metrics;
use crate::pulls::Pulls;
use crate::pulls::source::HubConfig;
use crate::recorder::Recorder;
use crate::registry::{Kind, Registry};
use crate::replays::Replays;
use crate::schedules::FlowSchedules;
use crate::state::HostDb;
use crate::tokens::WorkerTokens;
use crate::workers::Workers;

use problem::Problem;
pub use routes::router;

/// Workers send what attempts said about so long after it was said.
const LATE_RECORDS: Duration = Duration::from_secs(1);

/// Everything that handlers use; a handle, cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// What an [`App`] is made of.
pub struct Parts {
    /// Makes runs durable.
    pub engine: Arc<dyn Engine>,
    /// Which engine that is.
    pub engine_name: &'static str,
    /// Whether this process runs attempts.
    pub attempts_here: bool,
    /// Whether other processes may run attempts too.
    pub attempts_elsewhere: bool,
    /// Days that receipts and log lines are kept.
    pub record_days: u32,
    /// Plugins, flows, grants.
    pub registry: Registry,
    /// Replays histories.
    pub replays: Replays,
    /// Finds and pins what a run executes.
    pub definitions: Arc<HostDefinitions>,
    /// Schedules that stand in flows.
    pub flow_schedules: FlowSchedules,
    /// Receipts and log lines.
    pub recorder: Recorder,
    /// Answers by idempotency key.
    pub state: HostDb,
    /// Follows other servers, where there may be some.
    pub follower: Option<Follower>,
    /// Values that go by reference.
    pub payloads: Arc<dyn PayloadStore>,
    /// Who may ask.
    pub auth: Auth,
    /// Tokens of workers.
    pub tokens: WorkerTokens,
    /// Workers that say that they are there.
    pub workers: Workers,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Models that are being fetched.
    pub pulls: Pulls,
    /// Where they may be fetched from.
    pub hubs: BTreeMap<String, HubConfig>,
    /// Bytes of an uploaded component.
    pub upload_bytes: usize,
    /// Cancelled when the server begins to stop: waits and streams end then.
    pub stopping: CancellationToken,
    /// Places for requests that wait: long-polls and streams.
    pub waiting: Arc<Semaphore>,
}

impl App {
    /// Of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Another version may be active now, or none: what belongs to it follows.
    async fn follow(&self, kind: Kind, namespace: &str, name: &str) {
        if kind == Kind::Flow {
            self.flow_schedules.follow(namespace, name).await;
        }
    }

    /// Learns what other servers changed: what one acknowledged, the next request finds at
    /// any other.
    async fn catch_up(&self) {
        if let Some(follower) = &self.follower {
            follower.catch_up().await;
        }
    }

    /// How long something may be waited for now: so long, but not while the server stops.
    fn patience(&self, asked: Duration) -> Duration {
        if self.stopping.is_cancelled() {
            Duration::ZERO
        } else {
            asked
        }
    }

    /// Waits for what attempts in other processes may still have to tell, where there may
    /// be any.
    async fn elsewhere_waits(&self) {
        if self.attempts_elsewhere {
            tokio::select! {
                () = tokio::time::sleep(LATE_RECORDS) => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }

    /// A place for a request that waits as long as it asked. One that does not wait needs
    /// none.
    fn wait(&self, asked: Option<Duration>) -> Result<Wait, Problem> {
        let time = self.patience(asked.unwrap_or_default());
        let place = if time.is_zero() {
            None
        } else {
            Some(self.waiting_place()?)
        };
        Ok(Wait {
            time,
            _place: place,
        })
    }

    /// What a request waits for; none where the server begins to stop before.
    async fn unless_stopping<T>(&self, wait: &Wait, answer: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            answer = answer => Some(answer),
            () = self.stopping.cancelled(), if !wait.time.is_zero() => None,
        }
    }

    /// A place for a stream, or for a request that waits: those that wait must leave
    /// connections to those that do not.
    fn waiting_place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| {
            Problem::unavailable(
                "too-many-waiting",
                "as many requests wait or stream as the server lets (`limits.waiting`); ask \
                 again soon, or without `wait`",
            )
        })
    }
}

/// A wait, and its place among those that wait.
#[derive(Debug)]
struct Wait {
    time: Duration,
    _place: Option<OwnedSemaphorePermit>,
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}
