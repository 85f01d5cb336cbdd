//! What the measurements compare with: wasmtime as it comes, with a pool, and without
//! fuel, epochs or limits.

use std::time::{Duration, Instant};

use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Store};

use crate::plugin::PluginPre;

struct Nothing(wasmtime_wasi::WasiCtx, wasmtime::component::ResourceTable);

impl wasmtime_wasi::WasiView for Nothing {
    fn ctx(&mut self) -> wasmtime_wasi::WasiCtxView<'_> {
        wasmtime_wasi::WasiCtxView {
            ctx: &mut self.0,
            table: &mut self.1,
        }
    }
}

/// The times of so many calls, each in a fresh store.
pub(super) async fn calls(component: Vec<u8>, count: usize) -> Vec<Duration> {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .allocation_strategy(InstanceAllocationStrategy::pooling());
    let engine = Engine::new(&config).unwrap();
    let component = Component::new(&engine, component).unwrap();
    let mut linker = Linker::<Nothing>::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    let pre = PluginPre::new(linker.instantiate_pre(&component).unwrap()).unwrap();
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        let state = Nothing(
            wasmtime_wasi::WasiCtx::builder().build(),
            wasmtime::component::ResourceTable::new(),
        );
        let mut store = Store::new(&engine, state);
        let instance = pre.instantiate_async(&mut store).await.unwrap();
        let answer = instance
            .heyday_plugin_activities()
            .call_run(&mut store, "act", "null")
            .await
            .unwrap();
        assert!(answer.is_ok());
        drop(store);
        times.push(began.elapsed());
    }
    times
}
