//! One call of a guest: a slot, a fresh store, the guest, its outcome.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use wasmtime::component::ResourceTableError;
use wasmtime::{Engine, Store, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::call::{Attempt, CallContext, CallError, CallOutcome, Usage};
use crate::capability::Grants;
use crate::control::{Clock, Control};
use crate::limits::Limits;
use crate::plugin::{self, Failure};
use crate::sandbox::Plugin;
use crate::shares::{Seats, Shares};
use crate::state::{self, CallState, HostFault, LimitPassed, RESOURCES};
use crate::turns::Turns;

/// Bytes that a guest may hand to the host at once, besides its answer: one whole
/// object of 64 MiB, and some.
const HANDED_AT_ONCE: usize = 65 << 20;
/// The longest kind of failure, in bytes.
const KIND: usize = 256;

/// What every call of a sandbox shares.
pub(crate) struct Runner {
    pub(crate) engine: Engine,
    pub(crate) clock: Clock,
    pub(crate) slots: Semaphore,
    pub(crate) turns: Turns,
    pub(crate) shares: Arc<Shares>,
}

/// Which of the two exported functions.
pub(crate) enum Function {
    Describe,
    Run { activity: String, input: String },
}

/// One call, ready to run.
pub(crate) struct Call {
    pub(crate) function: Function,
    pub(crate) plugin: String,
    pub(crate) attempt: Attempt,
    pub(crate) grants: Arc<Grants>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) context: CallContext,
    /// The caller's span: host calls are below it.
    pub(crate) span: tracing::Span,
}

impl Runner {
    /// Runs a call where it is polled: on the guest runtime.
    pub(crate) async fn run(&self, code: &Plugin, call: Call) -> CallOutcome {
        let queued = Instant::now();
        let slot = match self.slots.try_acquire() {
            Ok(slot) => Ok(slot),
            Err(_) => self.wait_for_slot(&call.context).await,
        };
        let started = Instant::now();
        let (result, mut usage) = match slot {
            Ok(_slot) => {
                let (result, mut usage) = metered(self.in_store(code, call)).await;
                usage.wall_us = micros(started.elapsed());
                (result, usage)
            }
            Err(error) => (Err(error), Usage::default()),
        };
        usage.queue_us = micros(started - queued);
        CallOutcome { result, usage }
    }

    async fn wait_for_slot(
        &self,
        context: &CallContext,
    ) -> Result<tokio::sync::SemaphorePermit<'_>, CallError> {
        tokio::select! {
            slot = self.slots.acquire() => slot.map_err(|_| {
                CallError::Internal("the sandbox is shutting down".to_owned())
            }),
            () = context.cancellation.cancelled() => Err(CallError::Cancelled),
            () = context.interrupt.cancelled() => Err(CallError::Cancelled),
            () = tokio::time::sleep_until(context.deadline.into()) => Err(CallError::TimedOut),
        }
    }

    async fn in_store(&self, code: &Plugin, call: Call) -> (Result<String, CallError>, Usage) {
        if Instant::now() >= call.context.deadline {
            return (Err(CallError::TimedOut), Usage::default());
        }
        let control = Arc::new(Control::new(
            call.context,
            call.grants.revoked.clone(),
            &call.limits,
            Seats::new(&self.shares, &call.attempt.queue, &call.attempt.namespace),
        ));
        let mut state = CallState::new(
            call.plugin,
            call.attempt,
            call.grants,
            Arc::clone(&call.limits),
            Arc::clone(&control),
            matches!(call.function, Function::Describe),
            call.span,
        );
        for capability in &code.capabilities {
            let prepared = capability.prepare(&state.plugin, &state.attempt.namespace);
            state.capabilities.push((capability.name(), prepared));
        }
        let mut store = Store::new(&self.engine, state);
        state::limit(&mut store);
        store.set_hostcall_fuel(HANDED_AT_ONCE.max(call.limits.output_bytes.saturating_add(4096)));
        store.set_max_component_handles(RESOURCES);
        store.set_epoch_deadline(1);
        let turns = self.turns.clone();
        let mut alone = 0;
        store.epoch_deadline_callback(move |store| {
            let control = &store.data().control;
            match control.over() {
                Some(error) => Err(error.into()),
                None => Ok(turns.next(control, &mut alone)),
            }
        });

        let watched = self.clock.watch(&control);
        let ended = {
            let mut guest = pin!(guest(&mut store, code, call.function));
            std::future::poll_fn(|cx| {
                if let Some(error) = control.over() {
                    return Poll::Ready(Err(error));
                }
                if let Poll::Ready(result) = guest.as_mut().poll(cx) {
                    return Poll::Ready(Ok(result));
                }
                // A guest that waits for a host call does not compute.
                drop(control.turn().take());
                control.task().register(cx.waker());
                match control.over() {
                    Some(error) => Poll::Ready(Err(error)),
                    None => Poll::Pending,
                }
            })
            .await
            // Here the guest is dropped, wherever it is.
        };
        drop(watched);
        drop(control.turn().take());

        let mut state = store.into_data();
        // What the guest still had to print is printed as its streams are dropped.
        state.table = wasmtime::component::ResourceTable::new();
        let result = ended
            .and_then(|returned| returned.map_err(|error| explain(&error, &state)))
            .and_then(|answer| check(answer, &state));
        let mut usage = state.take_usage();
        usage.peak_memory_bytes = state.memory.peak as u64;
        usage.log_bytes = control.log_bytes();
        usage.denials = control.denials.take();
        if let Ok(output) = &result {
            usage.output_bytes = output.len() as u64;
        }
        (result, usage)
    }
}

/// Instantiates the component and calls it.
async fn guest(
    store: &mut Store<CallState>,
    code: &Plugin,
    function: Function,
) -> wasmtime::Result<Result<String, Failure>> {
    let instance = code.pre.instantiate_async(&mut *store).await?;
    let activities = instance.heyday_plugin_activities();
    match function {
        Function::Describe => activities.call_describe(store).await.map(Ok),
        Function::Run { activity, input } => activities.call_run(store, &activity, &input).await,
    }
}

/// Checks what the guest answered.
fn check(answer: Result<String, Failure>, state: &CallState) -> Result<String, CallError> {
    let limit = state.limits.output_bytes;
    let too_large = |size: usize| CallError::LimitExceeded {
        limit: "output_bytes",
        message: format!(
            "the answer has {size} bytes, more than the {limit} allowed; write it to a blob \
             and answer its key"
        ),
    };
    match answer {
        Ok(output) => {
            if output.len() > limit {
                return Err(too_large(output.len()));
            }
            crate::json::check(&output).map_err(CallError::InvalidOutput)?;
            if state.control.masks.within(&output) {
                return Err(CallError::SecretInOutput);
            }
            Ok(output)
        }
        Err(failure) => {
            let details = failure.details.as_ref().map_or(0, String::len);
            let size = failure.kind.len() + failure.message.len() + details;
            if size > limit {
                return Err(too_large(size));
            }
            if state.control.cancelled() && failure.kind == "cancelled" {
                return Err(CallError::Cancelled);
            }
            let masks = &state.control.masks;
            Err(CallError::Failed {
                kind: plugin::cut(&masks.text(&failure.kind), KIND).to_owned(),
                message: masks.text(&failure.message).into_owned(),
                retryable: failure.retryable,
                // A failure is worth more than its details.
                details: failure.details.map(|text| match crate::json::check(&text) {
                    Ok(()) => masks.json(&text).into_owned(),
                    Err(_) => serde_json::Value::String(masks.text(&text).into_owned()).to_string(),
                }),
            })
        }
    }
}

/// Says why the guest did not return.
fn explain(error: &wasmtime::Error, state: &CallState) -> CallError {
    if let Some(over) = error.downcast_ref::<CallError>() {
        return over.clone();
    }
    if let Some(passed) = error.downcast_ref::<LimitPassed>() {
        return CallError::LimitExceeded {
            limit: passed.limit,
            message: passed.message.clone(),
        };
    }
    if let Some(fault) = error.downcast_ref::<HostFault>() {
        return CallError::Internal(fault.to_string());
    }
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::StackOverflow) {
        return CallError::LimitExceeded {
            limit: "stack",
            message: "the guest called itself too deeply".to_owned(),
        };
    }
    if let Some(bytes) = state.memory.refused {
        return CallError::LimitExceeded {
            limit: "memory_bytes",
            message: format!(
                "the guest asked for {bytes} bytes of memory in all, more than the {} allowed",
                state.limits.memory_bytes
            ),
        };
    }
    if let Some(elements) = state.memory.table_refused {
        return CallError::LimitExceeded {
            limit: "table_elements",
            message: format!(
                "the guest asked for {elements} table elements in all, more than the {} allowed",
                state.limits.table_elements
            ),
        };
    }
    if state.memory.system_failed {
        return CallError::Internal("the machine is out of memory".to_owned());
    }
    let root = error.root_cause().to_string();
    let table = error.downcast_ref::<ResourceTableError>();
    if matches!(table, Some(ResourceTableError::Full)) || root.contains("handle limit exceeded") {
        return CallError::LimitExceeded {
            limit: "resources",
            message: format!(
                "the guest asked for more than the {RESOURCES} resources that it may hold at once; \
                 drop those that it is done with"
            ),
        };
    }
    if root.contains("fuel allocated for hostcalls") {
        return CallError::LimitExceeded {
            limit: "output_bytes",
            message: "the guest handed the host more bytes at once than are allowed".to_owned(),
        };
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return CallError::Internal(root);
    }
    let mut message = match (error.downcast_ref::<I32Exit>(), trap) {
        (Some(I32Exit(status)), _) => format!("it exited with status {status}"),
        (None, Some(trap)) => trap.to_string(),
        (None, None) => root,
    };
    let printed = state.control.error_tail();
    if !printed.is_empty() {
        message = format!("{message}: {}", state.control.masks.text(&printed));
    }
    CallError::Trap {
        message,
        backtrace: error
            .downcast_ref::<WasmBacktrace>()
            .map(backtrace)
            .unwrap_or_default(),
    }
}

/// The names of a backtrace's functions, demangled, one a line.
fn backtrace(trace: &WasmBacktrace) -> String {
    // Its text is the only way to the demangled names: a heading, then lines like
    // `   0:   0x1f - module!function`.
    let text = trace.to_string();
    let names = text
        .lines()
        .skip(1)
        .map(|line| line.split_once('!').map_or(line, |(_, name)| name).trim());
    names.collect::<Vec<_>>().join("\n")
}

/// Polls a future and adds up the thread's CPU time of each poll.
async fn metered<T>(future: impl Future<Output = (T, Usage)>) -> (T, Usage) {
    let mut future = pin!(future);
    let mut cpu = Duration::ZERO;
    let (output, mut usage) = std::future::poll_fn(|cx| {
        let before = thread_cpu();
        let poll = future.as_mut().poll(cx);
        cpu += thread_cpu().saturating_sub(before);
        poll
    })
    .await;
    usage.cpu_us = micros(cpu);
    (output, usage)
}

fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a valid value that lives through the call. The clock
    // exists on every system that this runs on; were it refused, the time stays 0.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
