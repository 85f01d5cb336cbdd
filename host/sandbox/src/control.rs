//! How a running call is stopped: its deadline, its cancellation, and the clock that
//! watches them.
//!
//! One thread per sandbox ticks every [`TICK`]: it looks at each running call's
//! deadline and tokens, notes what came to pass in the call's [`Control`], wakes the
//! call's task, and then raises the engine's epoch, at which every running guest
//! yields. So a guest that computes is stopped at its next epoch check, one that waits
//! is dropped where it waits, and no call needs a timer of its own.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;
use wasmtime::Engine;

use crate::call::{CallContext, CallError, LogLevel};
use crate::denial::Denials;
use crate::limits::Limits;
use crate::mask::Masks;
use crate::plugin::cut;
use crate::shares::Seats;
use crate::state::Stopped;

/// The time slice of a guest that computes, and the precision of deadlines.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// The clock stops after so many ticks without a call, so that an idle server sleeps.
const IDLE_TICKS: u32 = 100;

/// How much of a guest's standard error is kept for a trap's message, in bytes.
const ERROR_TAIL: usize = 4 << 10;

const CANCELLED: u8 = 1;
const REVOKED: u8 = 2;
const TIMED_OUT: u8 = 4;
const INTERRUPTED: u8 = 8;

/// What a guest logged and printed.
#[derive(Debug, Default)]
struct Logged {
    /// Bytes that may still be logged.
    left: usize,
    /// Bytes that were logged, as the limit counts them.
    bytes: u64,
    /// Whether a line was dropped.
    full: bool,
    /// The end of standard error.
    tail: String,
}

/// One call, as its task, its host calls and the clock share it.
pub(crate) struct Control {
    pub(crate) context: CallContext,
    /// What the guest must not tell.
    pub(crate) masks: Masks,
    /// What it was refused.
    pub(crate) denials: Denials,
    /// The bindings that it waits for.
    pub(crate) seats: Seats,
    revoked: CancellationToken,
    /// The limit of time that comes before the deadline that the call was given.
    time_limit: Option<u64>,
    grace: Duration,
    flags: AtomicU8,
    task: AtomicWaker,
    changed: Notify,
    logged: Mutex<Logged>,
    /// The right to compute for longer than one tick; see [`crate::turns`].
    turn: Mutex<Option<OwnedSemaphorePermit>>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

impl Control {
    /// The call begins here: its limit of time counts from now.
    pub(crate) fn new(
        mut context: CallContext,
        revoked: CancellationToken,
        limits: &Limits,
        seats: Seats,
    ) -> Self {
        let given = context.deadline;
        let time = Duration::from_millis(limits.time_ms);
        if let Some(end) = Instant::now().checked_add(time) {
            context.deadline = given.min(end);
        }
        Self {
            time_limit: (context.deadline < given).then_some(limits.time_ms),
            context,
            masks: Masks::default(),
            denials: Denials::default(),
            seats,
            revoked,
            grace: limits.cancel_grace(),
            logged: Mutex::new(Logged {
                left: limits.log_bytes,
                ..Logged::default()
            }),
            flags: AtomicU8::new(0),
            task: AtomicWaker::new(),
            changed: Notify::new(),
            turn: Mutex::new(None),
        }
    }

    fn raise(&self, flag: u8) {
        if self.flags.fetch_or(flag, Ordering::AcqRel) & flag == 0 {
            self.changed.notify_waiters();
            self.task.wake();
        }
    }

    /// Looks at the deadline and the tokens; the clock calls it at each tick.
    fn observe(&self, now: Instant, grace_end: &mut Option<Instant>) {
        if now >= self.context.deadline {
            self.raise(TIMED_OUT);
        }
        if self.context.interrupt.is_cancelled() {
            self.raise(INTERRUPTED);
        }
        if self.revoked.is_cancelled() {
            self.raise(REVOKED);
        }
        if self.context.cancellation.is_cancelled() {
            self.raise(CANCELLED);
            if now >= *grace_end.get_or_insert(now + self.grace) {
                self.raise(INTERRUPTED);
            }
        }
    }

    /// Whether the call is over, and why.
    pub(crate) fn over(&self) -> Option<CallError> {
        match self.flags.load(Ordering::Acquire) {
            flags if flags & TIMED_OUT != 0 => Some(match self.time_limit {
                Some(milliseconds) => CallError::LimitExceeded {
                    limit: "time_ms",
                    message: format!("the call took more than the {milliseconds} ms allowed"),
                },
                None => CallError::TimedOut,
            }),
            flags if flags & INTERRUPTED != 0 => Some(CallError::Cancelled),
            _ => None,
        }
    }

    /// Whether the call was asked to stop.
    pub(crate) fn cancelled(&self) -> bool {
        self.context.cancellation.is_cancelled()
    }

    /// Why the call was asked to stop; none where it was not.
    pub(crate) fn cancellation_reason(&self) -> Option<&'static str> {
        let told = || self.context.reason.get().copied();
        self.cancelled()
            .then(|| told().unwrap_or("cancel-requested"))
    }

    /// Why a host call must not go on. `during_grace`: it began after the cancel, to
    /// clean up, and so has the guest's grace.
    pub(crate) fn stopped(&self, during_grace: bool) -> Option<Stopped> {
        let flags = self.flags.load(Ordering::Acquire);
        if flags & TIMED_OUT != 0 {
            Some(Stopped::TimedOut)
        } else if flags & INTERRUPTED != 0 || (flags & CANCELLED != 0 && !during_grace) {
            Some(Stopped::Cancelled)
        } else if flags & REVOKED != 0 {
            Some(Stopped::Revoked)
        } else {
            None
        }
    }

    /// Notified whenever something came to pass.
    pub(crate) const fn changed(&self) -> &Notify {
        &self.changed
    }

    /// The task to wake when the call is over.
    pub(crate) const fn task(&self) -> &AtomicWaker {
        &self.task
    }

    fn logged(&self) -> MutexGuard<'_, Logged> {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a line on, or drops it when the volume is reached; one line says so.
    pub(crate) fn log(&self, level: LogLevel, message: &str, fields: Option<&str>) {
        let size = Limits::LOG_LINE_BYTES + message.len() + fields.map_or(0, str::len);
        let (fits, first_dropped) = {
            let mut logged = self.logged();
            if !logged.full && size <= logged.left {
                logged.left -= size;
                logged.bytes += size as u64;
                (true, false)
            } else {
                (false, !std::mem::replace(&mut logged.full, true))
            }
        };
        if fits {
            let message = self.masks.text(message);
            let fields = fields.map(|fields| self.masks.json(fields));
            self.context.sink.log(level, &message, fields.as_deref());
        } else if first_dropped {
            self.context.sink.log(
                LogLevel::Warn,
                "the attempt reached its limit of log volume; further lines are dropped",
                None,
            );
        }
    }

    /// Passes a heartbeat on; the details are checked JSON.
    pub(crate) fn heartbeat(&self, details: Option<String>) {
        let details = details.map(|details| self.masks.json(&details).into_owned());
        self.context.sink.heartbeat(details);
    }

    /// Passes on how far the guest is, with so many bytes of its message.
    pub(crate) fn progress(&self, completed: u64, total: u64, message: &str, bytes: usize) {
        // Masked before it is cut: half a secret is not found.
        let message = self.masks.text(message);
        let message = cut(&message, bytes);
        self.context.sink.progress(completed, total, message);
    }

    /// Bytes that were logged, as the limit counts them.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.logged().bytes
    }

    /// Keeps a line of standard error for a trap's message.
    pub(crate) fn keep_error(&self, line: &str) {
        let mut logged = self.logged();
        if logged.tail.len() + line.len() > ERROR_TAIL {
            logged.tail.clear();
        }
        if line.len() <= ERROR_TAIL {
            if !logged.tail.is_empty() {
                logged.tail.push('\n');
            }
            logged.tail.push_str(line);
        }
    }

    /// The end of what the guest wrote to standard error.
    pub(crate) fn error_tail(&self) -> String {
        std::mem::take(&mut self.logged().tail)
    }

    /// The right to compute, locked.
    pub(crate) fn turn(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Entry {
    control: Arc<Control>,
    grace_end: Option<Instant>,
}

#[derive(Default)]
struct Running {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    asleep: bool,
    shutdown: bool,
}

impl Running {
    fn is_empty(&self) -> bool {
        self.entries.len() == self.free.len()
    }
}

struct Shared {
    running: Mutex<Running>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Running> {
        // A panic while it was held leaves nothing half-done.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clock: one thread, and the calls that it watches.
pub(crate) struct Clock {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    /// Starts the thread.
    pub(crate) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            running: Mutex::default(),
            wake: Condvar::new(),
        });
        let thread = std::thread::Builder::new()
            .name("heyday-epoch".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || tick(&shared, &engine)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Watches a call until the answer is dropped.
    pub(crate) fn watch(&self, control: &Arc<Control>) -> Watched<'_> {
        let entry = Entry {
            control: Arc::clone(control),
            grace_end: None,
        };
        let mut running = self.shared.lock();
        let index = match running.free.pop() {
            Some(index) => {
                running.entries[index] = Some(entry);
                index
            }
            None => {
                running.entries.push(Some(entry));
                running.entries.len() - 1
            }
        };
        if running.asleep {
            self.shared.wake.notify_one();
        }
        Watched { clock: self, index }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.lock().shutdown = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked in a way that matters here.
            let _ = thread.join();
        }
    }
}

/// A call that the clock watches.
pub(crate) struct Watched<'a> {
    clock: &'a Clock,
    index: usize,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let mut running = self.clock.shared.lock();
        running.entries[self.index] = None;
        running.free.push(self.index);
    }
}

fn tick(shared: &Shared, engine: &Engine) {
    let mut idle = 0;
    loop {
        {
            let mut running = shared.lock();
            idle = if running.is_empty() { idle + 1 } else { 0 };
            while idle > IDLE_TICKS && running.is_empty() && !running.shutdown {
                running.asleep = true;
                running = shared
                    .wake
                    .wait(running)
                    .unwrap_or_else(PoisonError::into_inner);
                running.asleep = false;
            }
            if running.shutdown {
                return;
            }
            let now = Instant::now();
            for entry in running.entries.iter_mut().flatten() {
                entry.control.observe(now, &mut entry.grace_end);
            }
        }
        // After the flags: a guest that yields at this epoch sees them.
        engine.increment_epoch();
        std::thread::sleep(TICK);
    }
}
