//! A worker: a process that runs tasks of a Temporal cluster and holds no state.
//!
//! It polls its queues in its namespaces, with slots of their own for each, and runs what
//! it takes by the same engine and executor as the server. What the server has in its own
//! process comes by REST instead ([`wire`]), with a worker's token:
//!
//! - `catalogue`: plugin versions, components, flows and values by digest, compared when
//!   they arrive; compiled code is cached on disk as the server caches it. A run that came
//!   without pins is pinned by the server.
//! - `follow`: active versions and grants, as one stream that goes on where it was cut,
//!   and the lease that it gives.
//! - [`announce`]: that it is there, and the models that it can serve; `elsewhere`: which
//!   others have a model that it lacks.
//! - `spool`: receipts, log lines and progress, in batches, and on disk until they are sent.
//!
//! Databases and stores are the worker's own business: it has the bindings that its
//! configuration names, and no others. `health` is its own address.

pub mod announce;
mod catalogue;
mod client;
mod elsewhere;
mod follow;
mod health;
mod spool;
pub mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use heyday_capabilities::{BindingError, Bindings};
use heyday_durable::clock::SystemClock;
use heyday_durable::embedded::Host;
use heyday_durable::engine::Engine;
use heyday_durable::payload::Digest;
use heyday_durable::temporal::{self, Tasks, TemporalEngine};
use heyday_sandbox::{Sandbox, SandboxError};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use self::announce::Announcer;
use self::catalogue::RemoteRegistry;
use self::client::ServerClient;
pub use self::client::ServerError;
use self::elsewhere::OtherWorkers;
use self::follow::Follower;
use self::health::{Health, Probed};
use self::spool::Spool;
use self::wire::{AnnouncementBody, RevisionBody};
use crate::config::{Config, ConfigError, DEFAULT_NAMESPACE};
use crate::connections::{self, ConnectionLimits};
use crate::executor::catalogue::Catalogue as _;
use crate::executor::{Executor, ExecutorOptions};
use crate::expressions::ExpressionsError;
use crate::metrics::{Metrics, Sources};
use crate::models;
use crate::server::{self, HEAD_TIME, chain};
use crate::sweeping::SWEEP_INTERVAL;

/// Connections of the worker's own address at once.
const CONNECTIONS: usize = 64;
/// What a worker says of itself that has not reached its server.
const UNREACHED: &str = "Heyday's server was not reached yet";
/// Longest wait between two tries to reach the server at the start.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How a worker is set up.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Limits, bindings, the cache and the cluster; the rest is the server's.
    pub config: Config,
    /// Where the server is.
    pub server: Url,
    /// The worker's token.
    pub token: String,
    /// Heyday's namespaces whose tasks are taken; at least one.
    pub namespaces: Vec<String>,
    /// The queues, each with how many activities it runs at once in each namespace.
    pub queues: BTreeMap<String, usize>,
    /// Takes activity tasks, and leaves those of workflows to others.
    pub activities_only: bool,
    /// No new tasks are taken when the server was not heard for so long.
    pub grant_lease: Duration,
    /// Where its health and metrics are asked; nowhere where absent.
    pub listen: Option<SocketAddr>,
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server does not take the token, or is none.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Its own address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] Box<server::ServerError>),
    /// A binding cannot be opened.
    #[error("{}", chain(.0))]
    Binding(#[from] BindingError),
    /// The sandbox does not start.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// There is no expression evaluator.
    #[error("{}", chain(.0))]
    Expressions(#[from] ExpressionsError),
    /// The engine does not start.
    #[error(transparent)]
    Temporal(#[from] temporal::OpenError),
}

/// A running worker.
pub struct Worker {
    address: Option<SocketAddr>,
    grace: Duration,
    /// Ends its own address, and the sweeping.
    stopping: CancellationToken,
    /// Ends what the attempts need, when there are none any more.
    behind: CancellationToken,
    engine: Arc<TemporalEngine>,
    tasks: Vec<JoinHandle<()>>,
    spooling: JoinHandle<()>,
    bindings: Arc<Bindings>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl WorkerOptions {
    /// Finds what cannot work.
    ///
    /// # Errors
    /// The first value that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.config.check()?;
        let wrong = |setting: &str, message: String| {
            Err(ConfigError::Value {
                setting: setting.to_owned(),
                message,
            })
        };
        if self.namespaces.is_empty() || self.queues.is_empty() {
            return wrong(
                "worker",
                "a worker has at least one namespace and one queue".to_owned(),
            );
        }
        if self.grant_lease < Duration::from_secs(1) {
            return wrong("--grant-lease", "a lease is 1s or longer".to_owned());
        }
        if self.slots() > crate::config::MAX_CALLS {
            return wrong(
                "--queue",
                format!(
                    "all queues of all namespaces together run at most {} activities at once, \
                     not {}",
                    crate::config::MAX_CALLS,
                    self.slots()
                ),
            );
        }
        Ok(())
    }

    /// Activities at once, in all namespaces together.
    fn slots(&self) -> usize {
        let of_one = self
            .queues
            .values()
            .fold(0_usize, |sum, limit| sum.saturating_add(*limit));
        of_one.saturating_mul(self.namespaces.len())
    }

    fn temporal(&self, admission: watch::Receiver<bool>) -> temporal::TemporalOptions {
        let mut options = self.config.temporal_options();
        let named = |name: &String| {
            let temporal = if name == DEFAULT_NAMESPACE {
                self.config.temporal.namespace().to_owned()
            } else {
                name.clone()
            };
            (name.clone(), temporal)
        };
        options.namespaces = self.namespaces.iter().map(named).collect();
        options.queues = self.queues.clone();
        options.tasks = if self.activities_only {
            Tasks::Activities
        } else {
            Tasks::All
        };
        options.admission = Some(admission);
        options
    }
}

impl Worker {
    /// Starts a worker. A server and a cluster that are away are waited for. Must be
    /// called on a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// The first thing that does not start, with what to do about it.
    pub async fn start(options: WorkerOptions) -> Result<Self, WorkerError> {
        options.check()?;
        if !crate::expressions::is_embedded() {
            return Err(ExpressionsError::NotEmbedded.into());
        }
        let config = Arc::new(options.config.clone());
        let client = ServerClient::new(options.server.clone(), &options.token)?;
        let (stopping, behind) = (CancellationToken::new(), CancellationToken::new());
        // Where it does not start, its own address ends with that.
        let unstarted = behind.clone().drop_guard();
        let mut tasks = Vec::new();
        let mut address = None;
        let probed = Probed::default();
        if let Some(listen) = options.listen {
            let listener = server::listen(listen).await.map_err(Box::new)?;
            address = listener.local_addr().ok();
            let limits = ConnectionLimits {
                connections: CONNECTIONS,
                head_time: HEAD_TIME,
            };
            tasks.push(tokio::spawn(connections::serve(
                listener,
                probed.router(),
                limits,
                behind.clone(),
            )));
        }
        let mut named = config.bindings.clone();
        named
            .namespaces
            .retain(|name, _| options.namespaces.contains(name));
        let runtime = Handle::current();
        let bindings = Bindings::open_with(&named, &runtime, None, &config.reserved())?;
        let inference = models::open(&config, &bindings).await;
        let inference = inference.map_err(Box::new)?;
        let bindings = bindings
            .with_inference(inference.clone())
            .with_elsewhere(Arc::new(OtherWorkers::new(&client)));
        let bindings = Arc::new(bindings);
        let sandbox = Sandbox::new(
            server::sandbox_options(
                &config,
                options.queues.clone(),
                options.slots(),
                server::compiler()?,
            ),
            server::capabilities(&config, &bindings),
        )?;
        let (expressions, reached) = tokio::join!(
            server::evaluator(&config),
            reach(&client, &options.namespaces, &probed)
        );
        let (expressions, ()) = (expressions?, reached?);

        let any = options.namespaces[0].clone();
        let (registry, fresh) = RemoteRegistry::new(client.clone(), any.clone());
        let folder = config.data_dir.join("spool");
        let spool = {
            let client = client.clone();
            server::blocking(move || Spool::open(client, any, &folder)).await
        };
        let metrics = Arc::new(Metrics::default());
        let executor = Executor::new(ExecutorOptions {
            catalogue: Arc::new(registry.clone()),
            sandbox: sandbox.clone(),
            records: Arc::new(spool.clone()),
            metrics: Arc::clone(&metrics),
            config: Arc::clone(&config),
        });
        let host = Host {
            executor: Arc::new(executor),
            definitions: Arc::new(registry.clone()),
            expressions,
            payloads: Arc::new(registry.clone()),
            clock: Arc::new(SystemClock),
        };
        let (heard, hears) = watch::channel(None::<Instant>);
        let (admission, admitted) = watch::channel(false);
        let engine = TemporalEngine::open(options.temporal(admitted.clone()), host)?;
        let engine = Arc::new(engine);
        let source: Arc<dyn Engine> = Arc::clone(&engine) as _;
        metrics.ask(Sources {
            engine: Arc::downgrade(&source),
            embedded: None,
            sandbox: sandbox.clone(),
            records: Arc::new(spool.clone()),
        });

        let announcer = Announcer {
            client: client.clone(),
            body: AnnouncementBody {
                worker: Uuid::now_v7(),
                namespaces: options.namespaces.clone(),
                queues: options.queues.clone(),
                device: inference.device().name().to_owned(),
                models: Vec::new(),
            },
            inference: inference.clone(),
        };
        let follower = Arc::new(Follower {
            client,
            namespaces: options.namespaces.clone(),
            registry: registry.clone(),
            lease: options.grant_lease,
            heard,
        });
        let lease = follow::watch_lease(
            hears.clone(),
            options.grant_lease,
            admission,
            behind.clone(),
        );
        tasks.extend([
            tokio::spawn(follower.run(behind.clone())),
            tokio::spawn(lease),
            tokio::spawn(announcer.run(stopping.clone())),
            tokio::spawn(sweep(sandbox.clone(), stopping.clone())),
            tokio::spawn(prepare(sandbox.clone(), registry, fresh, stopping.clone())),
        ]);
        probed.begin(Health {
            heard: hears,
            admission: admitted,
            engine: Arc::clone(&engine),
            inference,
            guests: sandbox.guests().clone(),
            metrics,
            stopping: stopping.clone(),
        });
        let spooling = tokio::spawn(spool.run(behind.clone()));
        tracing::info!(
            server = %options.server,
            namespaces = options.namespaces.join(","),
            queues = options.queues.keys().cloned().collect::<Vec<_>>().join(","),
            "working"
        );
        unstarted.disarm();
        Ok(Self {
            address,
            grace: config.drain_grace,
            stopping,
            behind,
            engine,
            tasks,
            spooling,
            bindings,
        })
    }

    /// Where its health is asked.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Stops gently: no new tasks, and running attempts get the configured grace. What is
    /// cut off is tried again by others.
    pub async fn drain(self) {
        tracing::info!("stopping");
        self.stopping.cancel();
        self.engine.drain(self.grace).await;
        self.behind.cancel();
        if let Err(error) = self.spooling.await {
            tracing::error!(%error, "receipts and log lines were lost");
        }
        for task in self.tasks {
            // Each ends when it is told; one that panicked was logged by its panic.
            let _ = task.await;
        }
        self.bindings.close().await;
        tracing::info!("stopped");
    }
}

/// Waits until the server answers, for each namespace.
async fn reach(
    client: &ServerClient,
    namespaces: &[String],
    probed: &Probed,
) -> Result<(), ServerError> {
    probed.say_why(UNREACHED.to_owned());
    let client = client.impatient();
    let mut wait = Duration::from_millis(50);
    let mut namespaces = namespaces.iter();
    let mut next = namespaces.next();
    let mut told = String::new();
    while let Some(namespace) = next {
        match client
            .get_json::<RevisionBody>(namespace, &["revision"])
            .await
        {
            Ok(_) => next = namespaces.next(),
            Err(error) if error.is_passing() => {
                // Once for each reason: it may take long.
                let error = error.to_string();
                if told != error {
                    probed.say_why(format!("{UNREACHED}: {error}"));
                    tracing::warn!(error, "trying again until it answers");
                    told = error;
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            Err(error) => return Err(error),
        }
    }
    probed.say_why(String::new());
    Ok(())
}

/// Compiles what becomes active before a task needs it.
async fn prepare(
    sandbox: Sandbox,
    registry: RemoteRegistry,
    mut fresh: mpsc::Receiver<(String, Digest)>,
    stopping: CancellationToken,
) {
    loop {
        let (namespace, digest) = tokio::select! {
            Some(next) = fresh.recv() => next,
            () = stopping.cancelled() => return,
        };
        let hex = digest.hex();
        let prepared = sandbox.prepare(&hex, || registry.component(&namespace, &digest));
        tokio::select! {
            prepared = prepared => if let Err(error) = prepared {
                tracing::warn!(%error, %digest, "a version cannot be prepared yet");
            },
            () = stopping.cancelled() => return,
        }
    }
}

/// Keeps the cache within its limit.
async fn sweep(sandbox: Sandbox, stopping: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopping.cancelled() => return,
        }
        let cache = sandbox.clone();
        server::blocking(move || cache.sweep_cache()).await;
    }
}

#[cfg(test)]
mod tests;
