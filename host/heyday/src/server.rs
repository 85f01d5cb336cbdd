//! The whole server in one process: everything is opened, wired and closed here.
//!
//! [`Server::start`] opens from the bottom up: the data folder and its lock, the
//! listening socket, the state, bindings and capabilities, the sandbox, the registry, the
//! executor, the engine (which lets open runs go on), and last the API. [`Server::drain`]
//! closes in the other direction: no new requests, waits and streams end, attempts get
//! their grace, what was to be written behind is written, databases close. A process
//! that dies without it loses nothing that was acknowledged.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use heyday_capabilities::blob::address::Addresses;
use heyday_capabilities::http::HttpCapability;
use heyday_capabilities::inference::remote::RemoteConfigError;
use heyday_capabilities::{BindingError, Bindings};
use heyday_durable::clock::SystemClock;
use heyday_durable::embedded::{EmbeddedEngine, EmbeddedOptions, Host, OpenError};
use heyday_durable::engine::Engine;
use heyday_durable::expressions::Expressions;
use heyday_durable::temporal::{self, Tasks, TemporalEngine};
use heyday_durable::trace::Traces;
use heyday_inference::{DeviceError, StoreError};
use heyday_sandbox::{
    Capability, CompileLimits, Compiler, CompilerCommand, EvaluatorOptions, Sandbox, SandboxError,
    SandboxOptions,
};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, App, Parts};
use crate::auth::{self, Auth};
use crate::config::{Config, ConfigError, EngineKind};
use crate::connections::{self, ConnectionLimits};
use crate::content::Content;
use crate::data_folder::DataLock;
use crate::definitions::HostDefinitions;
use crate::executor::{Executor, ExecutorOptions};
use crate::expressions::{ExpressionsError, JqExpressions};
use crate::files::ContentFiles;
use crate::follower::{self, Follower};
use crate::metrics::{Metrics, Sources};
use crate::models;
use crate::pulls::Pulls;
use crate::recorder::Recorder;
use crate::registry::{Registry, RegistryError, RegistryOptions};
use crate::replays::Replays;
use crate::schedules::FlowSchedules;
use crate::secret_file::SecretError;
use crate::state::content::Store;
use crate::state::{HostDb, StateError};
use crate::sweeping::{Old, kept_since};
use crate::telemetry;
use crate::tokens::WorkerTokens;
use crate::workers::Workers;

/// The subcommand of the running binary that compiles one component.
pub const COMPILE_COMMAND: &str = "compile-component";
/// How long a request's head may take to come, and a connection may be idle.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long open connections may take to end, beyond the grace of attempts.
const CONNECTION_GRACE: Duration = Duration::from_secs(5);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder cannot be used.
    #[error("the data folder {} cannot be used: {source}; name another with --data", path.display())]
    DataFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has the data folder.
    #[error(
        "another Heyday uses the data folder {}; stop it, or name another folder with --data",
        .0.display()
    )]
    InUse(PathBuf),
    /// The address is taken.
    #[error("the address {0} is taken; give another one with --listen, such as 127.0.0.1:8001")]
    AddressTaken(SocketAddr),
    /// The address cannot be listened on.
    #[error("nothing can listen on {address}: {source}; give another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is no token.
    #[error("the token file: {0}")]
    Token(#[from] SecretError),
    /// There is no key for addresses of objects.
    #[error("the file `address-key` of the data folder: {0}")]
    AddressKey(#[source] SecretError),
    /// The state cannot be opened.
    #[error("the server's own database cannot be opened: {}", chain(.0))]
    State(#[from] StateError),
    /// A binding cannot be opened.
    #[error("{}", chain(.0))]
    Binding(#[from] BindingError),
    /// Models have nowhere to run.
    #[error("{}; choose another with --device", chain(.0))]
    Device(#[from] DeviceError),
    /// A model that runs elsewhere cannot be used.
    #[error("inference.remote.{model} cannot be used: {source}")]
    Remote {
        /// Its name.
        model: String,
        /// Why.
        source: RemoteConfigError,
    },
    /// The models that were imported cannot be read.
    #[error("{}", chain(.0))]
    Models(#[from] StoreError),
    /// The sandbox does not start.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// There is no expression evaluator.
    #[error("{}", chain(.0))]
    Expressions(#[from] ExpressionsError),
    /// The registry cannot be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The history cannot be opened.
    #[error(transparent)]
    Engine(#[from] OpenError),
    /// The Temporal engine cannot be opened.
    #[error(transparent)]
    Temporal(#[from] temporal::OpenError),
}

/// An error with what its `Display` leaves to its sources, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    token_file: Option<PathBuf>,
    data: PathBuf,
    grace: Duration,
    stopping: CancellationToken,
    serving: JoinHandle<()>,
    engine: Arc<dyn Engine>,
    behind: CancellationToken,
    recording: JoinHandle<()>,
    sweeping: JoinHandle<()>,
    rebuilding: JoinHandle<()>,
    scheduling: JoinHandle<()>,
    following: Option<JoinHandle<()>>,
    bindings: Arc<Bindings>,
    state: HostDb,
    /// Given back when the server is dropped.
    _lock: DataLock,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Starts everything; when this answers, requests are answered. `tasks` are those that
    /// this process takes from a Temporal cluster. Must be called on a
    /// multi-threaded tokio runtime. Components are compiled by the running binary's own
    /// hidden subcommand [`COMPILE_COMMAND`].
    ///
    /// # Errors
    /// The first thing that does not start, with what to do about it.
    pub async fn start(config: Config, tasks: Tasks) -> Result<Self, ServerError> {
        Self::start_with(config, tasks, compiler()?).await
    }

    /// Starts everything, with another compiler.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(
        config: Config,
        tasks: Tasks,
        compiler: Compiler,
    ) -> Result<Self, ServerError> {
        config.check()?;
        // Before anything is opened: without it no flow can run.
        if !crate::expressions::is_embedded() {
            return Err(ExpressionsError::NotEmbedded.into());
        }
        let data = config.data_dir.clone();
        let lock = DataLock::take(&data)?;
        let listener = listen(config.listen).await?;
        let address = listener
            .local_addr()
            .map_err(|source| ServerError::Listen {
                address: config.listen,
                source,
            })?;
        let state = HostDb::open(&config.state_location()?).await?;
        let (token, has_token) = if state.is_shared() {
            // Before it owns anything.
            state.show().await?;
            auth::shared_token(&data, &state).await?
        } else {
            (auth::digest(&auth::load_or_create_token(&data)?), true)
        };
        let auth = Auth::new(token, address, &config.all_hosts());
        let tokens = WorkerTokens::open(state.clone()).await?;
        let key = auth::address_key(&data, &state).await?;
        let addresses = Addresses::new(&config.public_url(address), key.as_bytes());
        let bindings = Bindings::open_with(
            &config.bindings(),
            &Handle::current(),
            Some(addresses),
            &config.reserved(),
        )?;
        let inference = models::open(&config, &bindings).await?;
        let workers = Workers::new(state.clone());
        let mut bindings = bindings.with_inference(inference);
        if config.engine == EngineKind::Temporal {
            bindings = bindings.with_elsewhere(Arc::new(workers.clone()));
        }
        let bindings = Arc::new(bindings);
        let capabilities = capabilities(&config, &bindings);
        let sandbox = Sandbox::new(
            sandbox_options(&config, config.queues(), config.max_calls(), compiler),
            capabilities,
        )?;
        let cache = sandbox.clone();
        let expressions = evaluator(&config).await?;
        let folder = |name: &str| {
            ContentFiles::open(data.join(name)).map_err(|source| ServerError::DataFolder {
                path: data.join(name),
                source,
            })
        };
        let components = Content::new(folder("components")?, &state, Store::Components);
        let payloads = Content::new(folder("payloads")?, &state, Store::Payloads);
        let copies = [components.clone(), payloads.clone()];
        let payloads = Arc::new(payloads);
        let registry = Registry::open(RegistryOptions {
            database: state.clone(),
            files: components,
            sandbox: sandbox.clone(),
            expressions: Arc::clone(&expressions),
            bindings: Arc::clone(&bindings),
            queues: config.queues().into_keys().collect(),
            default_queues: config.default_queues.clone(),
            foreign_workers: config.engine == EngineKind::Temporal,
        })
        .await?;
        let recorder = Recorder::new(state.clone());
        let missing_since = match config.engine {
            EngineKind::Embedded => recorder.missing_since().await?,
            // Where runs are on a cluster, this process does not know which ended here.
            EngineKind::Temporal => Timestamp::now(),
        };
        let metrics = Arc::new(Metrics::default());
        let definitions = Arc::new(HostDefinitions::new(registry.clone()));
        let shared = Arc::new(config);
        let executor = Executor::new(ExecutorOptions {
            catalogue: Arc::new(registry.clone()),
            sandbox: sandbox.clone(),
            records: Arc::new(recorder.clone()),
            metrics: Arc::clone(&metrics),
            config: Arc::clone(&shared),
        });
        let behind = CancellationToken::new();
        let recording = tokio::spawn(recorder.clone().run(behind.clone()));
        let replays = Replays::new(
            registry.clone(),
            Arc::clone(&expressions),
            Arc::clone(&payloads) as _,
        )
        .map_err(OpenError::from)?;
        let host = Host {
            executor: Arc::new(executor),
            definitions: Arc::clone(&definitions) as _,
            expressions,
            payloads: Arc::clone(&payloads) as _,
            clock: Arc::new(SystemClock),
        };
        let (engine, embedded) = open_engine(&shared, tasks, host).await?;
        metrics.ask(Sources {
            engine: Arc::downgrade(&engine),
            embedded: embedded.as_ref().map(Arc::downgrade),
            sandbox,
            records: Arc::new(recorder.clone()),
        });
        let stopping = CancellationToken::new();
        if let Some(inference) = bindings.inference() {
            tokio::spawn(models::follow(inference.clone(), stopping.clone()));
        }
        let old = Old {
            engine: Arc::clone(&engine),
            embedded: embedded.clone(),
            registry: registry.clone(),
            sandbox: cache,
            recorder: recorder.clone(),
            state: state.clone(),
            copies,
            record_days: shared.limits.record_days,
        };
        let sweeping = tokio::spawn(old.sweep(stopping.clone()));
        let rebuilding = {
            let recorder = recorder.clone();
            let (stopping, kept) = (stopping.clone(), kept_since(shared.limits.record_days));
            tokio::spawn(async move {
                let since = missing_since.max(kept);
                if let Some(engine) = embedded {
                    crate::rebuild::receipts(&engine, &recorder, since, &stopping).await;
                }
            })
        };
        let flow_schedules = FlowSchedules::new(Arc::clone(&engine), registry.clone());
        let scheduling = tokio::spawn(flow_schedules.clone().keep(stopping.clone()));
        let follower = state.is_shared().then(|| {
            Follower::new(follower::Parts {
                state: state.clone(),
                registry: registry.clone(),
                tokens: tokens.clone(),
                auth: auth.clone(),
                schedules: flow_schedules.clone(),
                recorder: recorder.clone(),
                engine: Arc::clone(&engine),
            })
        });
        let following = follower.clone().map(|follower| {
            let stop = stopping.clone();
            tokio::spawn(follower.run(stop))
        });
        let app = App::new(Parts {
            engine: Arc::clone(&engine),
            flow_schedules,
            engine_name: shared.engine.as_str(),
            attempts_here: shared.engine == EngineKind::Embedded
                || matches!(tasks, Tasks::All | Tasks::Activities),
            attempts_elsewhere: shared.engine == EngineKind::Temporal,
            record_days: shared.limits.record_days,
            registry,
            replays,
            definitions,
            recorder,
            state: state.clone(),
            follower,
            payloads,
            auth,
            tokens,
            workers,
            metrics,
            pulls: Pulls::new(&shared.models_dir(), stopping.clone()),
            hubs: shared.inference.hubs.clone(),
            upload_bytes: shared.limits.upload_bytes,
            stopping: stopping.clone(),
            waiting: Arc::new(Semaphore::new(shared.limits.waiting)),
        });
        let serving = tokio::spawn(connections::serve(
            listener,
            api::router(app),
            ConnectionLimits {
                connections: shared.limits.connections,
                head_time: HEAD_TIME,
            },
            stopping.clone(),
        ));
        tracing::info!(%address, data = %data.display(), "listening");
        Ok(Self {
            address,
            token_file: has_token.then(|| data.join(auth::TOKEN_FILE)),
            data,
            grace: shared.drain_grace,
            stopping,
            serving,
            engine,
            behind,
            recording,
            sweeping,
            rebuilding,
            scheduling,
            following,
            bindings,
            state,
            _lock: lock,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file that holds the token; none where another server of the same state has it.
    #[must_use]
    pub fn token_file(&self) -> Option<&Path> {
        self.token_file.as_deref()
    }

    /// Where everything is kept.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Stops gently: running attempts get the configured grace. What is cut off goes on
    /// at the next start.
    pub async fn drain(self) {
        tracing::info!("stopping");
        self.stopping.cancel();
        self.engine.drain(self.grace).await;
        let abort = self.serving.abort_handle();
        match tokio::time::timeout(CONNECTION_GRACE, self.serving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the API ended by itself"),
            Err(_) => {
                tracing::warn!("connections that did not end are closed");
                abort.abort();
            }
        }
        self.sweeping.abort();
        self.rebuilding.abort();
        self.scheduling.abort();
        if let Some(following) = self.following {
            // It ends by itself when the server stops; what it left is no use to wait for.
            let _ = tokio::time::timeout(CONNECTION_GRACE, following).await;
        }
        self.behind.cancel();
        if let Err(error) = self.recording.await {
            tracing::error!(%error, "receipts and log lines were lost");
        }
        self.bindings.close().await;
        self.state.close().await;
        tracing::info!("stopped");
    }
}

pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ServerError::AddressTaken(address),
            _ => ServerError::Listen { address, source },
        })
}

/// The engine that the configuration names; also as what it is, where it is the embedded
/// one, which this process alone has.
async fn open_engine(
    config: &Config,
    tasks: Tasks,
    host: Host,
) -> Result<(Arc<dyn Engine>, Option<Arc<EmbeddedEngine>>), ServerError> {
    match config.engine {
        EngineKind::Embedded => {
            let database = config.data_dir.join("history.db");
            let mut options = EmbeddedOptions::new(database, config.queues());
            options.limits.history_events = config.limits.history_events;
            options.traces = Traces {
                join: |span, traceparent| telemetry::set_parent(span, Some(traceparent)),
                traceparent: telemetry::traceparent,
            };
            let engine = Arc::new(EmbeddedEngine::open(options, host).await?);
            Ok((Arc::clone(&engine) as _, Some(engine)))
        }
        EngineKind::Temporal => {
            let mut options = config.temporal_options();
            options.tasks = tasks;
            let engine = TemporalEngine::open(options, host)?;
            Ok((Arc::new(engine), None))
        }
    }
}

/// The running binary's own hidden subcommand, which compiles components.
pub(crate) fn compiler() -> Result<Compiler, SandboxError> {
    Ok(Compiler::Child(CompilerCommand {
        program: std::env::current_exe().map_err(SandboxError::Threads)?,
        args: vec![COMPILE_COMMAND.into()],
    }))
}

/// What plugins may import, over these bindings.
pub(crate) fn capabilities(config: &Config, bindings: &Arc<Bindings>) -> Vec<Arc<dyn Capability>> {
    let http = HttpCapability::new(config.limits.http.clone(), Handle::current());
    heyday_capabilities::capabilities(bindings, http)
}

/// The evaluator of expressions.
pub(crate) async fn evaluator(config: &Config) -> Result<Arc<dyn Expressions>, ExpressionsError> {
    let mut options = EvaluatorOptions::new(config.cache_dir());
    options.max_cache_bytes = config.limits.cache_bytes;
    let loaded = blocking(move || JqExpressions::embedded(options)).await?;
    Ok(Arc::new(loaded))
}

/// How guests run, so many at once, of queues with these slots.
pub(crate) fn sandbox_options(
    config: &Config,
    queues: BTreeMap<String, usize>,
    max_calls: usize,
    compiler: Compiler,
) -> SandboxOptions {
    let limits = &config.limits;
    let mut options = SandboxOptions::new(config.cache_dir(), compiler);
    options.compile_limits = CompileLimits {
        cpu: limits.compile_cpu,
        memory_bytes: limits.compile_memory_bytes,
        ..CompileLimits::default()
    };
    options.max_calls = max_calls;
    options.queues = queues;
    options.max_upload_bytes = limits.upload_bytes;
    options.max_cache_bytes = limits.cache_bytes;
    if let Some(threads) = limits.guest_threads {
        options.guest_threads = threads;
    }
    options
}

/// Runs what blocks on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The work panicked; so does who needs it. It is never cancelled.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_address_names_the_flag() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = listen(address).await.expect("free");
        let taken = first.local_addr().expect("an address");
        let error = listen(taken).await.expect_err("taken");
        assert!(matches!(error, ServerError::AddressTaken(_)));
        assert!(error.to_string().contains("--listen"), "{error}");
    }

    #[test]
    fn compiled_code_may_take_so_much_of_the_disk_as_is_configured() {
        let mut config = Config::default();
        config.limits.cache_bytes = 7;
        let compiler = compiler().expect("this program");
        let options = sandbox_options(&config, config.queues(), config.max_calls(), compiler);
        assert_eq!(options.max_cache_bytes, 7);
    }
}
