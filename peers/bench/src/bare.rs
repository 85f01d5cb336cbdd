//! The peer of the sandbox: wasmtime of the same version as it comes, with a pool and
//! pre-instantiated, and without fuel, epochs or limits. Its layers ([`Layers`]) can be
//! added one by one, to see what each costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable, ResourceType};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, ResourceLimiter, Store, UpdateDeadline,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/plugin",
        world: "plugin",
        imports: { default: trappable },
        exports: { default: async },
    });
}

use bindings::PluginPre;
use bindings::heyday::plugin::{context, log};

/// What is added to bare wasmtime.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layers {
    /// Code that looks at the epoch, and a deadline.
    pub epochs: bool,
    /// A limiter of memories and tables, and limits on what a guest hands over.
    pub limits: bool,
}

/// The state of one call.
struct State {
    table: ResourceTable,
    /// Made at its first use: a host that wants to be fast does that.
    wasi: Option<WasiCtx>,
    cancelled: Arc<AtomicBool>,
    memory: usize,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: self.wasi.get_or_insert_with(|| WasiCtx::builder().build()),
            table: &mut self.table,
        }
    }
}

impl ResourceLimiter for State {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.memory += desired - current;
        Ok(self.memory <= 256 << 20)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= 100_000)
    }
}

impl context::Host for State {
    fn current(&mut self) -> wasmtime::Result<context::Attempt> {
        Err(wasmtime::Error::msg("not here"))
    }
    fn idempotency_key(&mut self) -> wasmtime::Result<String> {
        Ok(String::new())
    }
    fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(u64::MAX)
    }
    fn is_cancelled(&mut self) -> wasmtime::Result<bool> {
        Ok(self.cancelled.load(Ordering::Acquire))
    }
    fn cancellation_reason(&mut self) -> wasmtime::Result<Option<String>> {
        let cancelled = self.cancelled.load(Ordering::Acquire);
        Ok(cancelled.then(|| "cancel-requested".to_owned()))
    }
    fn heartbeat(&mut self, _: Option<String>) -> wasmtime::Result<Result<(), context::Error>> {
        Ok(Ok(()))
    }
    fn last_heartbeat(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
    fn progress(&mut self, _: u64, _: u64, _: String) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl log::Host for State {
    fn write(&mut self, _: log::Level, _: String, _: Option<String>) -> wasmtime::Result<()> {
        Ok(())
    }
}

/// How long the parts of one call took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stages {
    /// Making the store.
    pub store: Duration,
    /// Instantiating.
    pub instantiate: Duration,
    /// The guest's function, with what goes in and out.
    pub run: Duration,
    /// Taking it all down.
    pub drop: Duration,
}

/// Bare wasmtime with one component.
pub struct Bare {
    engine: Engine,
    pre: PluginPre<State>,
    layers: Layers,
    /// Answered by `is-cancelled`.
    pub cancelled: Arc<AtomicBool>,
}

/// Links the capabilities, which none of the measured activities calls. Only them: what
/// the linker calls unknown has WASI's functions of another patch version in it, too.
fn trap_capabilities(
    linker: &mut Linker<State>,
    engine: &Engine,
    component: &Component,
) -> wasmtime::Result<()> {
    for (name, import) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(interface) = import.ty else {
            continue;
        };
        if !name.starts_with("heyday:") || name.starts_with("heyday:plugin/") {
            continue;
        }
        let mut instance = linker.instance(name)?;
        for (name, item) in interface.exports(engine) {
            match item.ty {
                ComponentItem::ComponentFunc(_) => {
                    instance.func_new(name, |_, _, _, _| {
                        Err(wasmtime::Error::msg("no capability is here"))
                    })?;
                }
                ComponentItem::Resource(_) => {
                    instance.resource(name, ResourceType::host::<()>(), |_, _| Ok(()))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

impl Bare {
    /// With these layers.
    pub fn new(component: &[u8], layers: Layers) -> anyhow::Result<Arc<Self>> {
        Self::build(component, layers).map_err(|error| anyhow!("bare wasmtime: {error:#}"))
    }

    fn build(component: &[u8], layers: Layers) -> wasmtime::Result<Arc<Self>> {
        let mut config = Config::new();
        config
            .concurrency_support(false)
            .epoch_interruption(layers.epochs)
            .allocation_strategy(InstanceAllocationStrategy::pooling());
        let engine = Engine::new(&config)?;
        let component = Component::new(&engine, component)?;
        let mut linker = Linker::<State>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        context::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
        log::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state)?;
        trap_capabilities(&mut linker, &engine, &component)?;
        let pre = PluginPre::new(linker.instantiate_pre(&component)?)?;
        Ok(Arc::new(Self {
            engine,
            pre,
            layers,
            cancelled: Arc::default(),
        }))
    }

    /// Calls an activity that must succeed, in a fresh store.
    ///
    /// # Errors
    /// Why it did not.
    pub async fn call(&self, activity: &str, input: &str) -> anyhow::Result<Stages> {
        let begun = Instant::now();
        let state = State {
            table: ResourceTable::new(),
            wasi: None,
            cancelled: Arc::clone(&self.cancelled),
            memory: 0,
        };
        let mut store = Store::new(&self.engine, state);
        if self.layers.limits {
            store.limiter(|state| state);
            store.set_hostcall_fuel(65 << 20);
        }
        if self.layers.epochs {
            store.set_epoch_deadline(1);
            store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        }
        let made = Instant::now();
        let instance = self
            .pre
            .instantiate_async(&mut store)
            .await
            .map_err(|error| anyhow!("{error:#}"))?;
        let instantiated = Instant::now();
        let answer = instance
            .heyday_plugin_activities()
            .call_run(&mut store, activity, input)
            .await
            .map_err(|error| anyhow!("{error:#}"))?;
        let ran = Instant::now();
        drop(store);
        answer.map_err(|failure| anyhow!("{}: {}", failure.kind, failure.message))?;
        Ok(Stages {
            store: made - begun,
            instantiate: instantiated - made,
            run: ran - instantiated,
            drop: ran.elapsed(),
        })
    }
}
