//! Expressions: the jq evaluator, a component of our own, on an engine that counts
//! instead of measuring time.
//!
//! What an expression answers must be the same today and on a replay in a year, on
//! another machine and under load. So this engine has no epochs: each evaluation gets
//! so many units of fuel and so much memory, NaNs are canonical, the clock stands still
//! and the random seed is fixed.
//!
//! A [`EvaluatorProgram`] is all expressions of one flow version, compiled together
//! once per instance. Its instances are used again, and a used instance is not quite
//! like a fresh one: its heap has another shape, so the same evaluation takes a little
//! more or less. Therefore a limit reached on a used instance is not an answer: the
//! instance is dropped and the evaluation repeated on a fresh one with twice the
//! limits, and that answer counts. A fresh instance has twice the limits from the
//! start, so whether the evaluation met a used one changes nothing: what fits once on
//! a used instance fits twice that on a fresh one.
//!
//! The interface blocks and needs no runtime: it is for activation threads.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, Store, Trap, WasmBacktraceDetails};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::cache::{self, Claim, DiskCache};
use crate::engine;
use crate::options::CACHE_BYTES;
use crate::state::Memory;
use crate::wasi;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/expressions",
        world: "expressions",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

use bindings::{Expressions, ExpressionsPre};

/// Native stack of an evaluation. Far more than the guest's own stack in its linear
/// memory needs, so that it is always the latter, which is the same everywhere, that
/// ends a recursion.
const STACK: usize = 12 << 20;
/// The whole fiber.
const FIBER: usize = 16 << 20;
/// How long another process that compiles the evaluator is waited for.
const CLAIM_PATIENCE: Duration = Duration::from_secs(120);
/// Elements of all tables together.
const TABLE_ELEMENTS: usize = 50_000;

/// How the evaluator is set up. All of it except the cache decides what expressions
/// may answer: changing it needs another answer revision.
#[derive(Debug, Clone)]
pub struct EvaluatorOptions {
    /// Where compiled code is kept; only the host may write there. Several evaluators of
    /// one user may share it.
    pub cache_dir: PathBuf,
    /// Bytes of compiled code that are kept there, all that share the folder together.
    pub max_cache_bytes: u64,
    /// Units of fuel (about one per WebAssembly instruction) of one evaluation on a
    /// used instance; a fresh one has twice as many. 200 million take 20 to 50 ms.
    pub fuel: u64,
    /// Units of fuel for compiling a program's expressions.
    pub compile_fuel: u64,
    /// Bytes of memory of a used instance; a fresh one may have twice as many.
    pub memory_bytes: usize,
    /// Used instances that are kept, of one program and of all together.
    pub idle_instances: (usize, usize),
    /// Programs that are kept; each holds its text and its idle instances.
    pub programs: usize,
}

impl EvaluatorOptions {
    /// 200 million units of fuel, a billion to compile, 64 MiB; 4 idle instances per
    /// program, 64 in all; 256 programs.
    #[must_use]
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            max_cache_bytes: CACHE_BYTES,
            fuel: 200_000_000,
            compile_fuel: 1_000_000_000,
            memory_bytes: 64 << 20,
            idle_instances: (4, 64),
            programs: 256,
        }
    }
}

/// Which limit an expression passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaluationLimit {
    /// It computed for too long.
    Computation,
    /// It used too much memory.
    Memory,
    /// It called itself too deeply.
    Recursion,
}

impl std::fmt::Display for EvaluationLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Computation => "it computes for too long",
            Self::Memory => "it needs too much memory",
            Self::Recursion => "it calls itself too deeply",
        })
    }
}

/// Why there is no answer. All but `Unavailable` are the same on every evaluation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluatorError {
    /// An expression does not compile.
    #[error("expression {index} is invalid: {message}")]
    Invalid {
        /// Which one; 0 for the first, and where the evaluator did not say.
        index: usize,
        /// What is wrong with it.
        message: String,
    },
    /// It failed while it ran, or yielded nothing.
    #[error("{0}")]
    Failed(String),
    /// It passed a limit.
    #[error("the expression was stopped: {0}")]
    LimitExceeded(EvaluationLimit),
    /// The evaluator could not run: a fault of the host, which may pass.
    #[error("the expression evaluator is unavailable: {0}")]
    Unavailable(String),
}

struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    memory: Memory,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

struct Inner {
    engine: Engine,
    pre: ExpressionsPre<State>,
    digest: String,
    /// Tells others that its folder is in use.
    _disk: DiskCache,
    options: EvaluatorOptions,
    idle: AtomicUsize,
    programs: Mutex<Programs>,
}

#[derive(Default)]
struct Programs {
    by_content: HashMap<[u8; 32], (Arc<EvaluatorProgram>, u64)>,
    uses: u64,
}

/// Compiles and evaluates expressions. Clones are handles of the same evaluator.
#[derive(Clone)]
pub struct Evaluator {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evaluator")
            .field("digest", &self.inner.digest)
            .finish_non_exhaustive()
    }
}

fn unavailable(error: impl std::fmt::Display) -> EvaluatorError {
    EvaluatorError::Unavailable(error.to_string())
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(false)
        .consume_fuel(true)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .native_unwind_info(false)
        .max_wasm_stack(STACK)
        .async_stack_size(FIBER);
    config
}

impl Evaluator {
    /// Loads the evaluator: `component` is one that exports
    /// `heyday:expressions/evaluator`, built by ourselves and trusted. Compiles it in
    /// this process unless its code is in the cache. Blocking, for seconds at worst.
    ///
    /// # Errors
    /// When it is not such a component, or the folder cannot be used.
    pub fn new(component: &[u8], options: EvaluatorOptions) -> Result<Self, EvaluatorError> {
        let report = |error: wasmtime::Error| unavailable(format!("{error:#}"));
        let engine = Engine::new(&config()).map_err(report)?;
        let digest = cache::digest(component);
        let fingerprint = engine::fingerprint(&engine);
        let disk = DiskCache::open(
            &options.cache_dir,
            "expressions",
            &fingerprint,
            options.max_cache_bytes,
        )
        .map_err(unavailable)?;
        let compiled = match cached(&engine, &disk, &digest) {
            Some(compiled) => Some(compiled),
            None => {
                // Another server that shares the folder may be compiling it.
                let claim = claim(&disk, &digest);
                match cached(&engine, &disk, &digest) {
                    Some(compiled) => Some(compiled),
                    None => {
                        let code = engine.precompile_component(component).map_err(report)?;
                        let file = disk.temporary().map_err(unavailable)?;
                        cache::write(&file, &fingerprint, &digest, &code).map_err(unavailable)?;
                        disk.keep(file, &digest).map_err(unavailable)?;
                        drop(claim);
                        cached(&engine, &disk, &digest)
                    }
                }
            }
        };
        let component =
            compiled.ok_or_else(|| unavailable("its compiled code cannot be loaded"))?;
        let mut linker = Linker::<State>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(report)?;
        let pre = linker
            .instantiate_pre(&component)
            .and_then(ExpressionsPre::new)
            .map_err(report)?;
        Ok(Self {
            inner: Arc::new(Inner {
                engine,
                pre,
                digest,
                _disk: disk,
                options,
                idle: AtomicUsize::new(0),
                programs: Mutex::default(),
            }),
        })
    }

    /// The sha-256 digest of the evaluator's component: 64 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// Compiles expressions that may use these variables (without `$`). The same
    /// expressions and variables again answer the same program.
    ///
    /// # Errors
    /// [`EvaluatorError::Invalid`] with the first expression that does not compile, or
    /// `LimitExceeded` when compiling them all takes too much.
    pub fn program(
        &self,
        expressions: &[String],
        variables: &[String],
    ) -> Result<Arc<EvaluatorProgram>, EvaluatorError> {
        let key = key(expressions, variables);
        if let Some(program) = self.inner.kept(&key) {
            return Ok(program);
        }
        let program = EvaluatorProgram {
            inner: Arc::clone(&self.inner),
            expressions: expressions.to_vec(),
            variables: variables.to_vec(),
            idle: Mutex::default(),
        };
        let instance = program.fresh()?;
        program.put_back(instance);
        let program = Arc::new(program);
        self.inner.keep(key, &program);
        Ok(program)
    }
}

/// The evaluator's code, if it is on disk.
fn cached(engine: &Engine, disk: &DiskCache, digest: &str) -> Option<Component> {
    let path = disk.find(digest)?;
    // SAFETY: the file is in the folder that only the host writes, and its checksum says
    // that it is what this host's compiler wrote there.
    match unsafe { Component::deserialize_file(engine, path) } {
        Ok(component) => Some(component),
        Err(error) => {
            tracing::warn!(error = %format!("{error:#}"), "the evaluator is compiled again");
            None
        }
    }
}

/// Waits until no other process compiles the evaluator, but not for ever: one that was
/// stopped half-way must not keep this one from starting.
fn claim(disk: &DiskCache, digest: &str) -> Option<Claim> {
    let deadline = Instant::now() + CLAIM_PATIENCE;
    while Instant::now() < deadline {
        match disk.claim(digest) {
            Ok(None) => std::thread::sleep(cache::CLAIM_POLL),
            Ok(claim) => return claim,
            // It is compiled here then, and the fault shows where it is written.
            Err(_) => return None,
        }
    }
    None
}

/// Identifies a program: a digest of its texts with their lengths.
fn key(expressions: &[String], variables: &[String]) -> [u8; 32] {
    let mut sha = Sha256::new();
    sha.update((expressions.len() as u64).to_le_bytes());
    for text in expressions.iter().chain(variables) {
        sha.update((text.len() as u64).to_le_bytes());
        sha.update(text);
    }
    sha.finalize().into()
}

impl Inner {
    fn programs(&self) -> MutexGuard<'_, Programs> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, key: &[u8; 32]) -> Option<Arc<EvaluatorProgram>> {
        let mut programs = self.programs();
        programs.uses += 1;
        let now = programs.uses;
        let (program, used) = programs.by_content.get_mut(key)?;
        *used = now;
        Some(Arc::clone(program))
    }

    fn keep(&self, key: [u8; 32], program: &Arc<EvaluatorProgram>) {
        let mut dropped = Vec::new();
        let mut programs = self.programs();
        programs.uses += 1;
        let entry = (Arc::clone(program), programs.uses);
        dropped.extend(programs.by_content.insert(key, entry));
        while programs.by_content.len() > self.options.programs.max(1) {
            let oldest = programs
                .by_content
                .iter()
                .min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            dropped.extend(programs.by_content.remove(&oldest));
        }
        // Instances take a while to go away: not under the lock.
        drop(programs);
    }
}

struct Instance {
    store: Store<State>,
    exports: Expressions,
    used: bool,
}

/// All expressions of one flow version.
pub struct EvaluatorProgram {
    inner: Arc<Inner>,
    expressions: Vec<String>,
    variables: Vec<String>,
    idle: Mutex<Vec<Instance>>,
}

impl std::fmt::Debug for EvaluatorProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EvaluatorProgram")
            .field("expressions", &self.expressions)
            .finish_non_exhaustive()
    }
}

/// How one try ended.
enum Tried {
    /// With an answer, on an instance that may be used again.
    Answered(Result<String, EvaluatorError>),
    /// With a trap or at a limit.
    Ended(EvaluatorError),
}

impl EvaluatorProgram {
    /// Evaluates the expression of that index on an input, which is JSON; `values` are
    /// the variables', each JSON, in their order. Answers its first result as JSON.
    ///
    /// # Errors
    /// As [`EvaluatorError`] says.
    pub fn evaluate(
        &self,
        index: usize,
        input: &str,
        values: &[&str],
    ) -> Result<String, EvaluatorError> {
        let number = u32::try_from(index)
            .ok()
            .filter(|_| index < self.expressions.len())
            .ok_or_else(|| unavailable(format!("the program has no expression {index}")))?;
        if values.len() != self.variables.len() {
            return Err(unavailable(format!(
                "the program has {} variables, not {}",
                self.variables.len(),
                values.len()
            )));
        }
        if let Some(instance) = self.take() {
            let used = instance.used;
            match self.attempt(instance, number, input, values) {
                Tried::Answered(answer) => return answer,
                Tried::Ended(error) if !used => return Err(error),
                // Not an answer: see the module's text.
                Tried::Ended(_) => {}
            }
        }
        match self.attempt(self.fresh()?, number, input, values) {
            Tried::Answered(answer) => answer,
            Tried::Ended(error) => Err(error),
        }
    }

    fn attempt(&self, mut instance: Instance, index: u32, input: &str, values: &[&str]) -> Tried {
        let options = &self.inner.options;
        let (fuel, memory) = if instance.used {
            (options.fuel, options.memory_bytes)
        } else {
            (options.fuel.saturating_mul(2), options.memory_bytes * 2)
        };
        instance.used = true;
        instance.store.data_mut().memory.set_limit(memory);
        let Ok(()) = instance.store.set_fuel(fuel) else {
            return Tried::Ended(unavailable("the engine has no fuel"));
        };
        let evaluator = instance.exports.heyday_expressions_evaluator();
        let called = evaluator
            .call_evaluate(&mut instance.store, index, input, values)
            .now_or_never();
        match finish(called, &instance.store) {
            Ok(Ok(answer)) => {
                self.put_back(instance);
                Tried::Answered(Ok(answer))
            }
            Ok(Err(error)) => {
                self.put_back(instance);
                Tried::Answered(Err(EvaluatorError::Failed(error.message)))
            }
            Err(error) => Tried::Ended(error),
        }
    }

    /// A new instance with the expressions compiled.
    fn fresh(&self) -> Result<Instance, EvaluatorError> {
        let inner = &self.inner;
        let options = &inner.options;
        let state = State {
            table: ResourceTable::new(),
            wasi: wasi::deterministic(),
            memory: Memory::with(options.memory_bytes * 2, TABLE_ELEMENTS),
        };
        let mut store = Store::new(&inner.engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_fuel(options.compile_fuel).map_err(unavailable)?;
        let exports = finish(
            inner
                .pre
                .instantiate_async(&mut store)
                .now_or_never()
                .map(|made| made.map(Ok::<_, Never>)),
            &store,
        )?;
        let Ok(exports) = exports;
        let expressions: Vec<&str> = self.expressions.iter().map(String::as_str).collect();
        let variables: Vec<&str> = self.variables.iter().map(String::as_str).collect();
        let called = exports
            .heyday_expressions_evaluator()
            .call_prepare(&mut store, &expressions, &variables)
            .now_or_never();
        match finish(called, &store)? {
            Ok(()) => Ok(Instance {
                store,
                exports,
                used: false,
            }),
            Err(error) => Err(invalid(&error.message)),
        }
    }

    fn take(&self) -> Option<Instance> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let instance = idle.pop()?;
        self.inner.idle.fetch_sub(1, Ordering::Relaxed);
        Some(instance)
    }

    /// How many instances wait to be used again.
    #[cfg(test)]
    pub(crate) fn idle_instances(&self) -> usize {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.len()
    }

    fn put_back(&self, instance: Instance) {
        let options = &self.inner.options;
        let (of_program, of_all) = options.idle_instances;
        // A large heap never shrinks, and leaves little of the limit.
        if instance.store.data().memory.used() > options.memory_bytes / 2 {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= of_program {
            return;
        }
        if self.inner.idle.fetch_add(1, Ordering::Relaxed) >= of_all {
            self.inner.idle.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        idle.push(instance);
    }
}

impl Drop for EvaluatorProgram {
    fn drop(&mut self) {
        let idle = self.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.inner.idle.fetch_sub(idle.len(), Ordering::Relaxed);
    }
}

/// No value: instantiating has no answer of the guest's own.
enum Never {}

/// What a call's end means. `None`: the guest waits, which it has nothing to do for.
fn finish<T, E>(
    called: Option<wasmtime::Result<Result<T, E>>>,
    store: &Store<State>,
) -> Result<Result<T, E>, EvaluatorError> {
    let called = called.ok_or_else(|| unavailable("the evaluator waits for something"))?;
    let memory = &store.data().memory;
    if memory.system_failed {
        return Err(unavailable("the machine is out of memory"));
    }
    // Whatever the guest made of it.
    if memory.refused.is_some() || memory.table_refused.is_some() {
        return Err(EvaluatorError::LimitExceeded(EvaluationLimit::Memory));
    }
    called.map_err(|error| match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => EvaluatorError::LimitExceeded(EvaluationLimit::Computation),
        // The guest's own stack lies at the beginning of its memory and grows
        // downwards; it is safe Rust and leaves its memory in no other way.
        Some(Trap::StackOverflow | Trap::MemoryOutOfBounds) => {
            EvaluatorError::LimitExceeded(EvaluationLimit::Recursion)
        }
        Some(trap) => EvaluatorError::Failed(format!("the evaluator stopped: {trap}")),
        None => unavailable(format!("{error:#}")),
    })
}

/// The message begins with the expression's index.
fn invalid(message: &str) -> EvaluatorError {
    let digits = message.bytes().take_while(u8::is_ascii_digit).count();
    let (index, rest) = message.split_at(digits);
    match index.parse() {
        Ok(index) => EvaluatorError::Invalid {
            index,
            message: rest.trim_start_matches([':', ' ']).to_owned(),
        },
        Err(_) => EvaluatorError::Invalid {
            index: 0,
            message: message.to_owned(),
        },
    }
}
