//! The state of one call: what host functions see.
//!
//! A host function begins with [`CallState::host_call`], which counts it and answers a
//! [`HostCall`]; whatever it waits for goes through [`HostCall::run`], so that a
//! deadline, a cancel or a revoked grant ends the wait. Which binding it waits for is said
//! before, by [`CallState::waits_for`], so that it leaves others a slot of its queue. As long as it lives there is a
//! `tracing` span of it, below the attempt's, at the level DEBUG; the functions of
//! `context` and `log`, which only touch memory, have none. Its own state of the call is
//! what its capability prepared, [`CallState::capability`].

use std::any::Any;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::call::{Attempt, Usage};
use crate::capability::Grants;
use crate::control::Control;
use crate::limits::Limits;
use crate::shares::{HeldShare, Seat};
use crate::wasi;

/// Resources that a guest may hold at once, of all kinds together; and as many handles of its
/// components' own.
pub(crate) const RESOURCES: usize = 10_000;

/// What a host function sees of the call that it belongs to.
pub struct CallState {
    pub(crate) table: ResourceTable,
    pub(crate) plugin: String,
    pub(crate) attempt: Attempt,
    pub(crate) grants: Arc<Grants>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) usage: Usage,
    /// Counters of what goes on between host calls.
    shared: Vec<(&'static str, Arc<AtomicU64>)>,
    pub(crate) capabilities: Vec<(&'static str, Box<dyn Any + Send>)>,
    /// Of the host call that is being answered.
    bound: Option<Arc<str>>,
    /// The capability of that call.
    calling: &'static str,
    /// What that call waits for.
    seat: Arc<OnceLock<Arc<Seat>>>,
    pub(crate) control: Arc<Control>,
    /// The attempt's span.
    span: tracing::Span,
    /// Made when the guest first asks for anything of WASI: many never do.
    wasi: Option<WasiCtx>,
    deterministic: bool,
    pub(crate) memory: Memory,
}

/// Why a host call ended before its future did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The attempt's deadline came.
    TimedOut,
    /// The attempt was asked to stop.
    Cancelled,
    /// The plugin's grants were taken back.
    Revoked,
    /// As many slots of the attempt's queue as may be wait for the binding, which does not
    /// answer. Nothing was begun.
    Crowded,
}

/// One host call under the call's deadline, cancellation and grants; owned, so that
/// its future does not borrow the state.
#[derive(Debug, Clone)]
pub struct HostCall {
    control: Arc<Control>,
    /// Open as long as this lives.
    span: tracing::Span,
    /// Begun after the cancel, to clean up: it may take the guest's grace.
    during_grace: bool,
    /// What it waits for, once that is said.
    seat: Arc<OnceLock<Arc<Seat>>>,
    /// The attempt's place there, since the call first waited.
    held: Arc<OnceLock<Arc<HeldShare>>>,
}

impl HostCall {
    /// Notes in the call's span which binding it concerns.
    pub fn binding(&self, binding: &str) {
        self.span.record("heyday.binding", binding);
    }

    /// Notes in the call's span that it is a call of a database: which kind, and what is
    /// done there.
    pub fn database(&self, system: &str, operation: &'static str) {
        self.span.record("db.system.name", system);
        self.span.record("db.operation.name", operation);
    }

    /// Notes in the call's span that it is an HTTP request: its method, and where it goes.
    pub fn http_request(&self, method: &str, host: &str, port: Option<u16>) {
        self.span.record("http.request.method", method);
        self.span.record("server.address", host);
        self.span.record("server.port", port);
    }

    /// Notes in the call's span the status of an HTTP response.
    pub fn http_status(&self, status: u16) {
        self.span.record("http.response.status_code", status);
        if status >= 400 {
            self.span
                .record("error.type", tracing::field::display(status));
            self.span.record("otel.status_code", "ERROR");
        }
    }

    /// Notes in the call's span that it failed, with a code.
    pub fn failed(&self, code: &'static str) {
        self.span.record("error.type", code);
        self.span.record("otel.status_code", "ERROR");
    }

    /// Tells that the call was refused, as [`CallState::denied`] does; for what answers
    /// when the state is not at hand.
    pub fn denied(&self, capability: &'static str, binding: Option<&str>, reason: &str) {
        let Control { denials, masks, .. } = &*self.control;
        denials.add(masks, capability, binding, reason);
    }

    /// As [`CallState::waits_for`], for what has the state no more.
    pub fn waits_for(&self, capability: &'static str, binding: &str) {
        if let Some(seat) = self.control.seats.find(capability, binding) {
            // A call waits for one binding; the first that is said.
            let _ = self.seat.set(seat);
        }
    }

    /// The attempt's place among those that wait for the binding, since the call waited:
    /// for what stays open there when the call has ended.
    #[must_use]
    pub fn share(&self) -> Option<Arc<HeldShare>> {
        self.held.get().cloned()
    }

    /// Runs a future until it ends, or until the call must stop. A host call that
    /// begins after the cancel may go on until the end of the guest's grace.
    ///
    /// # Errors
    /// Why it was stopped; the future is dropped then.
    pub async fn run<F: Future>(&self, future: F) -> Result<F::Output, Stopped> {
        self.take_place().await?;
        self.watched(future).await
    }

    /// Takes a place among those that wait for the binding, until the call ends.
    async fn take_place(&self) -> Result<(), Stopped> {
        let Some(seat) = self.seat.get() else {
            return Ok(());
        };
        if self.held.get().is_some() {
            return Ok(());
        }
        let place = match seat.try_take() {
            Some(place) => Some(place),
            None => self.watched(seat.take()).await?,
        };
        let Some(place) = place else {
            self.failed("unavailable");
            return Err(Stopped::Crowded);
        };
        // Another wait of the same call may have been quicker.
        let _ = self.held.set(place);
        Ok(())
    }

    async fn watched<F: Future>(&self, future: F) -> Result<F::Output, Stopped> {
        let stopped = || {
            let stopped = self.control.stopped(self.during_grace);
            if let Some(stopped) = stopped {
                self.failed(match stopped {
                    Stopped::TimedOut => "timeout",
                    Stopped::Cancelled => "cancelled",
                    Stopped::Revoked => "capability-denied",
                    Stopped::Crowded => "unavailable",
                });
            }
            stopped
        };
        // From here on it is told of each change, also before it first looks.
        let mut changed = pin!(self.control.changed().notified());
        if let Some(stopped) = stopped() {
            return Err(stopped);
        }
        let mut future = pin!(future);
        // Once for each time that it is woken: backends count their steps. Most host calls
        // answer at once, and then nothing needs to be watched.
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            while changed.as_mut().poll(cx).is_ready() {
                changed.set(self.control.changed().notified());
                if let Some(stopped) = stopped() {
                    return Poll::Ready(Err(stopped));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// A limit that a host function found passed; ends the guest.
#[derive(Debug, thiserror::Error)]
#[error("the guest passed its limit of {limit}: {message}")]
pub(crate) struct LimitPassed {
    pub(crate) limit: &'static str,
    pub(crate) message: String,
}

/// A fault of the host found by a host function; ends the guest.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HostFault(String);

fn not_prepared(name: &str) -> wasmtime::Error {
    HostFault(format!("capability {name} was not prepared for this call")).into()
}

impl CallState {
    pub(crate) fn new(
        plugin: String,
        attempt: Attempt,
        grants: Arc<Grants>,
        limits: Arc<Limits>,
        control: Arc<Control>,
        deterministic: bool,
        span: tracing::Span,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        Self {
            table,
            plugin,
            attempt,
            grants,
            memory: Memory::new(&limits),
            limits,
            usage: Usage::default(),
            shared: Vec::new(),
            capabilities: Vec::new(),
            bound: None,
            calling: "",
            seat: Arc::default(),
            control,
            span,
            wasi: None,
            deterministic,
        }
    }

    /// The resources that the guest holds.
    pub fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// The name of the plugin.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.plugin
    }

    /// Whose attempt it is.
    #[must_use]
    pub const fn attempt(&self) -> &Attempt {
        &self.attempt
    }

    /// What the plugin was granted.
    #[must_use]
    pub const fn grants(&self) -> &Arc<Grants> {
        &self.grants
    }

    /// The state that [`Capability::prepare`](crate::Capability::prepare) of that
    /// capability made.
    ///
    /// # Errors
    /// When there is none of that name and type: a fault of the host.
    pub fn capability<T: 'static>(&mut self, name: &'static str) -> wasmtime::Result<&mut T> {
        Ok(self.table_and_capability(name)?.1)
    }

    /// The table and a capability's state, for functions that need both.
    ///
    /// # Errors
    /// As [`capability`](Self::capability).
    pub fn table_and_capability<T: 'static>(
        &mut self,
        name: &'static str,
    ) -> wasmtime::Result<(&mut ResourceTable, &mut T)> {
        let state = self
            .capabilities
            .iter_mut()
            .find(|(of, _)| *of == name)
            .and_then(|(_, state)| state.downcast_mut())
            .ok_or_else(|| not_prepared(name))?;
        Ok((&mut self.table, state))
    }

    /// Counts one host call; every host function begins with it.
    ///
    /// # Errors
    /// A trap, when the call's limit on host calls is passed.
    pub fn host_call(
        &mut self,
        capability: &'static str,
        function: &'static str,
    ) -> wasmtime::Result<HostCall> {
        self.count_host_call(capability, function)?;
        self.bound = None;
        self.calling = capability;
        self.seat = Arc::default();
        // Neither arguments nor answers: they are the plugin's own.
        let span = tracing::debug_span!(
            parent: &self.span,
            "host_call",
            otel.name = %format_args!("{capability} {function}"),
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            heyday.capability = capability,
            heyday.function = function,
            heyday.binding = tracing::field::Empty,
            db.system.name = tracing::field::Empty,
            db.operation.name = tracing::field::Empty,
            http.request.method = tracing::field::Empty,
            http.response.status_code = tracing::field::Empty,
            server.address = tracing::field::Empty,
            server.port = tracing::field::Empty,
            error.type = tracing::field::Empty,
        );
        Ok(HostCall {
            span,
            during_grace: self.control.cancelled(),
            control: Arc::clone(&self.control),
            seat: Arc::clone(&self.seat),
            held: Arc::default(),
        })
    }

    /// As [`host_call`](Self::host_call), for functions that never wait.
    pub(crate) fn count_host_call(
        &mut self,
        capability: &'static str,
        function: &'static str,
    ) -> wasmtime::Result<()> {
        if self.usage.host_calls >= self.limits.host_calls {
            return Err(LimitPassed {
                limit: "host_calls",
                message: format!(
                    "more than {} calls of host functions, the last one {capability}.{function}",
                    self.limits.host_calls
                ),
            }
            .into());
        }
        self.usage.host_calls += 1;
        Ok(())
    }

    /// One of the receipt's counters, for what goes on between host calls: what it has
    /// when the call ends is added.
    pub fn counter(&mut self, counter: &'static str) -> Arc<AtomicU64> {
        if let Some((_, shared)) = self.shared.iter().find(|(name, _)| *name == counter) {
            return Arc::clone(shared);
        }
        let shared = Arc::new(AtomicU64::new(0));
        self.shared.push((counter, Arc::clone(&shared)));
        shared
    }

    /// What the call used, at its end.
    pub(crate) fn take_usage(&mut self) -> Usage {
        for (counter, shared) in std::mem::take(&mut self.shared) {
            self.count(counter, shared.load(Ordering::Acquire));
        }
        std::mem::take(&mut self.usage)
    }

    /// Says which binding the host call that is being answered concerns.
    pub fn bind(&mut self, binding: Arc<str>) {
        self.bound = Some(binding);
    }

    /// Says that the host call that is being answered waits for that binding, which was
    /// granted: of the slots of the attempt's queue only a share may.
    pub fn waits_for(&mut self, binding: &str) {
        if let Some(seat) = self.control.seats.find(self.calling, binding) {
            let _ = self.seat.set(seat);
        }
    }

    /// Tells that the host call that is being answered was refused, and what the guest is
    /// told; see [`Denial`](crate::Denial). Never with values that the guest gave.
    pub fn denied(&self, capability: &'static str, reason: &str) {
        let Control { denials, masks, .. } = &*self.control;
        denials.add(masks, capability, self.bound.as_deref(), reason);
    }

    /// Keeps a secret out of what the guest tells from now on; see [`crate::mask`].
    pub fn mask(&self, secret: &[u8]) {
        self.control.masks.add(secret);
    }

    /// Adds to one of the receipt's counters, `sql.rows`.
    pub fn count(&mut self, counter: &'static str, amount: u64) {
        let value = self.usage.counters.entry(counter).or_default();
        *value = value.saturating_add(amount);
    }
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| {
            if self.deterministic {
                wasi::deterministic()
            } else {
                wasi::context(&self.control)
            }
        });
        WasiCtxView {
            ctx,
            table: &mut self.table,
        }
    }
}

/// Memory and tables of a whole instance, however many there are.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    used: usize,
    last_growth: usize,
    /// The most bytes that there were at once.
    pub(crate) peak: usize,
    /// The bytes that were asked for when the limit was passed.
    pub(crate) refused: Option<usize>,
    table_limit: usize,
    table_used: usize,
    last_table_growth: usize,
    /// The elements that were asked for when the limit was passed.
    pub(crate) table_refused: Option<usize>,
    /// The system had no memory, which is not the guest's doing.
    pub(crate) system_failed: bool,
}

impl Memory {
    pub(crate) const fn new(limits: &Limits) -> Self {
        Self::with(limits.memory_bytes, limits.table_elements)
    }

    pub(crate) const fn with(limit: usize, table_limit: usize) -> Self {
        Self {
            limit,
            used: 0,
            last_growth: 0,
            peak: 0,
            refused: None,
            table_limit,
            table_used: 0,
            last_table_growth: 0,
            table_refused: None,
            system_failed: false,
        }
    }

    /// Sets another limit; what is used already stays.
    pub(crate) const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.refused = None;
        self.table_refused = None;
    }

    /// Bytes in use.
    pub(crate) const fn used(&self) -> usize {
        self.used
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        let total = self.used.saturating_add(growth);
        if total > self.limit {
            self.refused = Some(total);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            // The guest's own limit: refused without being counted.
            return Ok(false);
        }
        self.used = total;
        self.last_growth = growth;
        self.peak = self.peak.max(total);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.used = self
            .used
            .saturating_sub(std::mem::take(&mut self.last_growth));
        self.system_failed |= error.is::<std::io::Error>();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current);
        let total = self.table_used.saturating_add(growth);
        if total > self.table_limit {
            self.table_refused = Some(total);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.table_used = total;
        self.last_table_growth = growth;
        Ok(true)
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        let growth = std::mem::take(&mut self.last_table_growth);
        self.table_used = self.table_used.saturating_sub(growth);
        Ok(())
    }
}

/// Puts a store's memory and tables under its state's limits.
pub(crate) fn limit(store: &mut Store<CallState>) {
    store.limiter(|state| &mut state.memory);
}
