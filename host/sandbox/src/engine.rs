//! The engine that plugins run on: its compiler settings, and the size of its pool.
//!
//! The compiling child process uses the same compiler settings without the pool (a
//! pool reserves terabytes of address space, and the child has a limit on it);
//! [`fingerprint`] tells whether code from one may be loaded by the other.

use std::hash::{Hash as _, Hasher};

use sha2::{Digest as _, Sha256};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
};

/// Native stack that a guest may use before it traps, in bytes.
const GUEST_STACK: usize = 1 << 20;
/// The whole fiber: the guest's part and what host functions need on top, which are
/// polled on it (unoptimized builds of database drivers need a lot).
const FIBER_STACK: usize = 6 << 20;
/// The most frames in a trap's backtrace.
const BACKTRACE_FRAMES: usize = 32;

/// Linear memories that one component may have. Components of every toolchain so far
/// have one; each costs 4 GiB of address space per slot.
pub(crate) const MEMORIES_PER_COMPONENT: u32 = 4;
/// Tables that one component may have.
pub(crate) const TABLES_PER_COMPONENT: u32 = 32;
/// Core instances that one component may have: Python's have one per native library.
pub(crate) const CORE_INSTANCES_PER_COMPONENT: u32 = 512;
/// Elements that one table may have; limits above are cut to it. Python's and
/// JavaScript's engines have over 20,000.
pub(crate) const TABLE_ELEMENTS: usize = 200_000;

/// The settings that decide what compiled code looks like.
pub(crate) fn plugin_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        // Nobody needs more than 4 GiB, and 64-bit memories check every access.
        .wasm_memory64(false)
        // Names are enough; reading DWARF that a stranger wrote is not worth it.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_FRAMES))
        .native_unwind_info(false)
        .memory_init_cow(true)
        .max_wasm_stack(GUEST_STACK)
        .async_stack_size(FIBER_STACK);
    config
}

/// The engine that runs plugins, with room for this many calls at once.
pub(crate) fn plugin_engine(slots: u32) -> wasmtime::Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .total_memories(slots.saturating_mul(MEMORIES_PER_COMPONENT))
        .total_tables(slots.saturating_mul(TABLES_PER_COMPONENT))
        .total_stacks(slots)
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_memories_per_module(MEMORIES_PER_COMPONENT)
        .max_tables_per_module(TABLES_PER_COMPONENT)
        .max_core_instance_size(16 << 20)
        .max_component_instance_size(64 << 20)
        .table_elements(TABLE_ELEMENTS)
        .max_unused_warm_slots(slots);
    let mut config = plugin_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Identifies what code an engine can load: the compiler's version, its settings and
/// the machine's features; 16 hexadecimal digits.
pub(crate) fn fingerprint(engine: &Engine) -> String {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            let digest = self.0.clone().finalize();
            digest[..8]
                .iter()
                .fold(0, |n, byte| n << 8 | u64::from(*byte))
        }
    }
    let mut hasher = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
