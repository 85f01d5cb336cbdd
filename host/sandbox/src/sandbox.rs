//! The service: verify an upload, prepare its code, describe it, call it.

mod loaded;
mod misfit;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::{Handle, Runtime};
use tokio_util::sync::CancellationToken;
use wasmtime::component::Linker;

pub use self::loaded::Plugin;
use self::loaded::{Flight, Landing, Plugins};
use crate::cache::{self, Claim, DiskCache};
use crate::call::{Attempt, CallContext, CallError, CallOutcome, CallRequest, CallSink, LogLevel};
use crate::capability::{Capability, Grants};
use crate::compile;
use crate::control::Clock;
use crate::engine;
use crate::limits::Limits;
use crate::options::{PrepareError, PrepareState, SandboxError, SandboxOptions};
use crate::plugin;
use crate::run::{Call, Function, Runner};
use crate::shares::{HeldShare, Seats, Shares};
use crate::state::{CallState, Stopped};
use crate::turns::Turns;
use crate::verify::{self, Verified, VerifyError};

/// How long `describe` may take.
const DESCRIBE: Duration = Duration::from_secs(10);
/// The longest answer of `describe`, in bytes.
const DESCRIPTION: usize = 4 << 20;
/// How often busy guest threads look at sockets and timers of host calls, in polls.
const EVENT_INTERVAL: u32 = 4;
/// How often they look at what came from other threads (new calls, and guests that must
/// be stopped) before what they have themselves, in polls: by turns, for a poll may take
/// a whole tick.
const GLOBAL_QUEUE_INTERVAL: u32 = 2;

struct Inner {
    runner: Runner,
    linker: Linker<CallState>,
    capabilities: Vec<Arc<dyn Capability>>,
    interfaces: BTreeMap<&'static str, &'static str>,
    options: SandboxOptions,
    fingerprint: String,
    disk: DiskCache,
    compiling: tokio::sync::Mutex<()>,
    plugins: Mutex<Plugins>,
    guests: Handle,
    runtime: Option<Runtime>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The last handle may go away inside a task, where blocking is forbidden.
            runtime.shutdown_background();
        }
    }
}

/// What a sandbox's pool is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxStats {
    /// Calls that may run at once.
    pub slots: usize,
    /// Calls that run.
    pub slots_in_use: usize,
    /// Compiled plugins in memory.
    pub plugins_loaded: usize,
}

/// Runs plugins. Clones are handles of the same sandbox.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Sets up a sandbox whose plugins may import these capabilities.
    ///
    /// # Errors
    /// When the folder, the engine or the threads cannot be had, or when two
    /// capabilities provide the same interface.
    pub fn new(
        options: SandboxOptions,
        capabilities: Vec<Arc<dyn Capability>>,
    ) -> Result<Self, SandboxError> {
        let engine_error = |error: wasmtime::Error| SandboxError::Engine(format!("{error:#}"));
        let slots = slots(&options);
        // Cannot fail: it was just cut to 5,000.
        let engine =
            engine::plugin_engine(u32::try_from(slots).unwrap_or(5_000)).map_err(engine_error)?;
        let fingerprint = engine::fingerprint(&engine);
        let disk = DiskCache::open(
            &options.cache_dir,
            "plugins",
            &fingerprint,
            options.max_cache_bytes,
        )?;

        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(engine_error)?;
        plugin::link(&mut linker).map_err(engine_error)?;
        let mut interfaces = BTreeMap::new();
        for capability in &capabilities {
            capability.link(&mut linker).map_err(engine_error)?;
            for interface in capability.interfaces() {
                interfaces.insert(*interface, capability.name());
            }
        }

        let threads = options.guest_threads.max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads + 1)
            .thread_name("heyday-guest")
            .event_interval(EVENT_INTERVAL)
            .global_queue_interval(GLOBAL_QUEUE_INTERVAL)
            .enable_all()
            .build()
            .map_err(SandboxError::Threads)?;
        let clock = Clock::start(engine.clone()).map_err(SandboxError::Threads)?;
        Ok(Self {
            inner: Arc::new(Inner {
                runner: Runner {
                    engine,
                    clock,
                    slots: tokio::sync::Semaphore::new(slots),
                    turns: Turns::new(threads),
                    shares: Arc::new(Shares::new(options.queues.clone())),
                },
                linker,
                capabilities,
                interfaces,
                fingerprint,
                disk,
                compiling: tokio::sync::Mutex::default(),
                plugins: Mutex::default(),
                guests: runtime.handle().clone(),
                runtime: Some(runtime),
                options,
            }),
        })
    }

    /// The sha-256 digest by which a component is known: 64 hexadecimal digits.
    #[must_use]
    pub fn digest(bytes: &[u8]) -> String {
        cache::digest(bytes)
    }

    /// The runtime that guests run on. A call from one of its tasks stays on its
    /// thread; from elsewhere it changes threads twice. Whoever runs many attempts
    /// spawns them here, whole.
    #[must_use]
    pub fn guests(&self) -> &Handle {
        &self.inner.guests
    }

    /// What the pool is doing now.
    #[must_use]
    pub fn stats(&self) -> SandboxStats {
        let slots = self.inner.slots();
        SandboxStats {
            slots,
            slots_in_use: slots.saturating_sub(self.inner.runner.slots.available_permits()),
            plugins_loaded: self.inner.plugins().loaded.len(),
        }
    }

    /// Reads an upload without running or compiling it.
    ///
    /// # Errors
    /// When it is too large, no component, no plugin, or imports what plugins may not;
    /// every refused import is named.
    pub fn verify(&self, bytes: &[u8]) -> Result<Verified, VerifyError> {
        verify::verify(
            bytes,
            self.inner.options.max_upload_bytes,
            &self.inner.interfaces,
        )
    }

    /// The plugin of that digest, if its code is in memory.
    #[must_use]
    pub fn loaded(&self, digest: &str) -> Option<Arc<Plugin>> {
        self.inner.loaded(digest)
    }

    /// Where the preparation of a component stands; `None` when there is none.
    #[must_use]
    pub fn preparing(&self, digest: &str) -> Option<PrepareState> {
        let plugins = self.inner.plugins();
        let state = plugins.flights.get(digest)?.state.load(Ordering::Relaxed);
        Some(match state {
            0 => PrepareState::Loading,
            1 => PrepareState::WaitingForCompiler,
            _ => PrepareState::Compiling,
        })
    }

    /// Makes a plugin's code ready: from memory, from disk, or compiled. `fetch` is
    /// called only where the component must be compiled. Several callers at once wait
    /// for one compilation; one that gives up ends it, and the next begins again.
    ///
    /// # Errors
    /// As [`PrepareError`] says; see [`PrepareError::is_permanent`].
    pub async fn prepare<F, E>(
        &self,
        digest: &str,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<Plugin>, PrepareError>
    where
        F: Future<Output = Result<Bytes, E>>,
        E: fmt::Display,
    {
        if let Some(plugin) = self.loaded(digest) {
            return Ok(plugin);
        }
        if !cache::is_digest(digest) {
            return Err(PrepareError::InvalidDigest(digest.to_owned()));
        }
        let flight = Landing::join(&self.inner, digest);
        let _one = flight.flight.one.lock().await;
        if let Some(plugin) = self.loaded(digest) {
            return Ok(plugin);
        }
        flight.flight.set(PrepareState::Loading);
        if let Some(plugin) = self.cached(digest).await? {
            return Ok(plugin);
        }
        let _claim = self.claim(digest).await?;
        if let Some(plugin) = self.cached(digest).await? {
            return Ok(plugin);
        }
        let component = fetch()
            .await
            .map_err(|error| PrepareError::Fetch(error.to_string()))?;
        self.check(digest, &component)?;
        let path = self.compile(digest, &component, &flight.flight).await?;
        self.inner.load(digest, path).await
    }

    /// The plugin, if its code is on disk.
    async fn cached(&self, digest: &str) -> Result<Option<Arc<Plugin>>, PrepareError> {
        let disk = self.inner.disk.clone();
        let name = digest.to_owned();
        let Some(path) = blocking(move || Ok(disk.find(&name))).await? else {
            return Ok(None);
        };
        match self.inner.load(digest, path).await {
            Ok(plugin) => Ok(Some(plugin)),
            Err(error @ PrepareError::Incompatible(_)) => Err(error),
            // Another process that shares the folder may just have removed it.
            Err(error) => {
                tracing::warn!(%digest, %error, "compiling again");
                Ok(None)
            }
        }
    }

    /// Waits until no other process that shares the folder compiles the component, but
    /// no longer than a compilation may take.
    async fn claim(&self, digest: &str) -> Result<Option<Claim>, PrepareError> {
        let patience = self.inner.options.compile_limits.patience();
        let turn = async {
            loop {
                let disk = self.inner.disk.clone();
                let name = digest.to_owned();
                if let Some(claim) = blocking(move || disk.claim(&name)).await? {
                    return Ok(claim);
                }
                tokio::time::sleep(cache::CLAIM_POLL).await;
            }
        };
        tokio::time::timeout(patience, turn).await.ok().transpose()
    }

    /// Removes compiled code from disk that is over the limit on its size, and what other
    /// versions left there. Blocking; call it now and then.
    pub fn sweep_cache(&self) {
        let loaded: Vec<String> = self.inner.plugins().loaded.keys().cloned().collect();
        self.inner.disk.sweep(loaded.iter().map(String::as_str));
    }

    fn check(&self, digest: &str, component: &[u8]) -> Result<(), PrepareError> {
        let verified = self.verify(component)?;
        if verified.digest != digest {
            return Err(PrepareError::WrongDigest {
                expected: digest.to_owned(),
                actual: verified.digest,
            });
        }
        Ok(())
    }

    async fn compile(
        &self,
        digest: &str,
        component: &[u8],
        flight: &Flight,
    ) -> Result<PathBuf, PrepareError> {
        let inner = &self.inner;
        flight.set(PrepareState::WaitingForCompiler);
        let _one = inner.compiling.lock().await;
        flight.set(PrepareState::Compiling);
        let started = Instant::now();
        let disk = inner.disk.clone();
        let file = blocking(move || disk.temporary()).await?;
        compile::compile(
            &inner.options.compiler,
            &inner.options.compile_limits,
            &inner.runner.engine,
            &inner.fingerprint,
            component,
            &file,
        )
        .await?;
        let disk = inner.disk.clone();
        let name = digest.to_owned();
        let path = blocking(move || disk.keep(file, &name)).await?;
        tracing::info!(%digest, seconds = started.elapsed().as_secs_f64(), "compiled a plugin");
        Ok(path)
    }

    /// Forgets a plugin's code, in memory and on disk. Calls that run go on.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(&self, digest: &str) -> std::io::Result<()> {
        self.inner.plugins().loaded.remove(digest);
        if cache::is_digest(digest) {
            self.inner.disk.remove(digest)?;
        }
        Ok(())
    }

    /// What a plugin says it is: JSON text. It runs with no grant, a fixed clock and a
    /// fixed seed, for at most 10 s.
    ///
    /// # Errors
    /// When the guest traps, passes a limit or answers no JSON.
    pub async fn describe(&self, plugin: &Arc<Plugin>) -> Result<String, CallError> {
        struct Nowhere;
        impl CallSink for Nowhere {
            fn heartbeat(&self, _: Option<String>) {}
            fn progress(&self, _: u64, _: u64, _: &str) {}
            fn log(&self, _: LogLevel, _: &str, _: Option<&str>) {}
        }
        let call = Call {
            function: Function::Describe,
            plugin: String::new(),
            attempt: Attempt::default(),
            grants: Arc::new(Grants::default()),
            limits: Arc::new(Limits {
                output_bytes: DESCRIPTION,
                ..Limits::default()
            }),
            context: CallContext {
                cancellation: CancellationToken::new(),
                reason: Arc::default(),
                interrupt: CancellationToken::new(),
                deadline: Instant::now() + DESCRIBE,
                sink: Arc::new(Nowhere),
            },
            span: tracing::Span::none(),
        };
        self.run(plugin, call).await.result
    }

    /// A place for what waits for a binding outside of guests, under the rule that holds for
    /// their host calls: of a queue's slots only a share waits for one binding. None where
    /// the queue is not known.
    ///
    /// # Errors
    /// [`Stopped::Crowded`] where there is none to be had.
    pub async fn share(
        &self,
        queue: &str,
        namespace: &str,
        capability: &'static str,
        binding: &str,
    ) -> Result<Option<Arc<HeldShare>>, Stopped> {
        let seats = Seats::new(&self.inner.runner.shares, queue, namespace);
        let Some(seat) = seats.find(capability, binding) else {
            return Ok(None);
        };
        let place = match seat.try_take() {
            Some(place) => Some(place),
            None => seat.take().await,
        };
        place.map(Some).ok_or(Stopped::Crowded)
    }

    /// Runs one activity to its end: the guest's answer, its failure, or why it was
    /// stopped. Waits while every slot is taken. Dropping the future ends the guest.
    pub async fn call(
        &self,
        plugin: &Arc<Plugin>,
        request: CallRequest,
        context: CallContext,
    ) -> CallOutcome {
        let call = Call {
            function: Function::Run {
                activity: request.activity,
                input: request.input,
            },
            plugin: request.plugin,
            attempt: request.attempt,
            grants: request.grants,
            limits: request.limits,
            context,
            span: tracing::Span::current(),
        };
        self.run(plugin, call).await
    }

    async fn run(&self, plugin: &Arc<Plugin>, call: Call) -> CallOutcome {
        let here = Handle::try_current().is_ok_and(|it| it.id() == self.inner.guests.id());
        if here {
            return self.inner.runner.run(plugin, call).await;
        }
        let inner = Arc::clone(&self.inner);
        let plugin = Arc::clone(plugin);
        let task = self
            .inner
            .guests
            .spawn(async move { inner.runner.run(&plugin, call).await });
        let guard = AbortOnDrop(task.abort_handle());
        let outcome = task.await;
        drop(guard);
        outcome.unwrap_or_else(|error| CallOutcome {
            result: Err(CallError::Internal(error.to_string())),
            usage: crate::call::Usage::default(),
        })
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn slots(options: &SandboxOptions) -> usize {
    options.max_calls.clamp(1, 5_000)
}

impl Inner {
    fn slots(&self) -> usize {
        slots(&self.options)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, PrepareError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| PrepareError::Storage(error.to_string()))?
        .map_err(|error| PrepareError::Storage(error.to_string()))
}
