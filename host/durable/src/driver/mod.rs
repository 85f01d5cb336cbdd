//! The workflow driver: sans-IO and deterministic.
//!
//! A [`Driver`] is one run's logic. It is fed by an engine: what resolved goes in by
//! [`Driver::activate`], [`Command`]s come out, and it never looks at a clock, does
//! I/O, or spawns. Inside, an async interpreter walks the flow; its futures are
//! resolved by the port alone and polled by `activate` itself, with a waker that does
//! nothing. The same [`RunStart`] and the same activations give the same commands,
//! bit for bit; that is what replay rests on.
//!
//! The way of an activation:
//!
//! 1. `activate` sets the activation's time and hands one resolution after another to
//!    the `port`, polling the interpreter after each, so that it does not matter
//!    whether an engine feeds them together or one by one.
//! 2. The `interpreter` goes on from where it waited, task by task; `whole` is what is
//!    around them all, `tasks` and `calls` are what the tasks do, `scene` what their expressions see, `data` counts what the
//!    run holds, `stop` is why a task ends without an output.
//! 3. Each wait pushes its command to the port, and `activate` answers them all. The
//!    last one may be terminal: the run completes, fails, ends as cancelled, or continues
//!    as a new one (`resume`), where the activation suggests it.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails should panic")
)]

mod attributes;
mod calls;
pub mod command;
mod data;
mod emit;
mod interpreter;
mod listen;
mod port;
mod query;
mod random;
mod resume;
mod scene;
mod stop;
mod tasks;
#[cfg(test)]
mod tests;
mod update;
mod whole;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use jiff::Timestamp;
use uuid::Uuid;

pub use command::{
    Activation, Command, Listening, Resolution, ScheduleActivity, SignalExternal, StartChild,
};

pub use query::{Beside, METADATA as METADATA_QUERY, QueryError, STATE as STATE_QUERY};
pub use update::ENDED_BEFORE;

use crate::definition::PinnedDefinition;
use crate::expressions::{ExpressionError, Expressions};
use crate::failure::{Failure, kind};
use crate::flow::error::{EXPRESSION, Fault};
use crate::payload::{FOREIGN_LIMIT, Payload};
use data::{Held, Meter};
use interpreter::{Doing, Run, poll_once};
use port::{Asked, Port, Refused, Room};
use resume::{Carried, Left};
use scene::Evaluator;
use stop::{Stop, bounded, data_limit, limit_failure};

/// Raised by every change of which commands come in which order; recorded with each
/// run. Old behaviour stays behind its number while histories may need it.
///
/// | revision | since then |
/// |---|---|
/// | 2 | a run continues as new where an activation suggests it |
/// | 3 | on a cluster, a signal that came without an id has one that is unique also over the runs that one continued as; one for which there is no room waits outside the driver; and one to a run that has had all that it may have fails as a limit |
/// | 4 | where an activation suggests it, a run that waits at a `listen` for a signal continues as new, too |
pub const REVISION: u32 = 4;

/// The first revision whose runs continue as new.
const CONTINUES: u32 = 2;

/// The first revision in whose runs each signal without an id has one of its own, whichever
/// of the runs it came to that one continued as; the table says what else of signals.
pub const SIGNALS_APART: u32 = 3;

/// The first revision whose runs continue as new also while they wait for a signal.
pub const CONTINUES_WAITING: u32 = 4;

/// Limits on what one run may do, recorded with it and counted, never timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunLimits {
    /// Tasks that one activation executes.
    pub tasks_per_activation: u64,
    /// Bytes of data (as JSON text) that a run holds.
    pub data_bytes: u64,
    /// How deep children nest.
    pub depth: u32,
    /// Events of a history after which the run continues as new, where it can.
    #[serde(default = "RunLimits::default_history_events")]
    pub history_events: u64,
    /// Activities that are under way at once, and as many children and signals to other
    /// runs; what comes above it waits. None is recorded with runs of earlier releases.
    #[serde(default = "RunLimits::none")]
    pub pending: u64,
    /// Bytes that the commands of one workflow task have on a Temporal cluster. None is
    /// recorded with runs of earlier releases.
    #[serde(default = "RunLimits::none")]
    pub command_bytes: u64,
}

/// Bytes of a history after which the run continues as new, where it can.
pub const HISTORY_BYTES: u64 = 8 * 1024 * 1024;

impl RunLimits {
    const fn default_history_events() -> u64 {
        10_000
    }

    const fn none() -> u64 {
        u64::MAX
    }

    /// Those of the run that goes on where one with these ended: the same, but where an
    /// earlier release had no limit yet, today's. A chain of runs has no end by which it
    /// would come to have them.
    #[must_use]
    pub fn of_next(self) -> Self {
        let today = Self::default();
        let or_today = |limit: u64, today: u64| {
            if limit == Self::none() { today } else { limit }
        };
        Self {
            pending: or_today(self.pending, today.pending),
            command_bytes: or_today(self.command_bytes, today.command_bytes),
            ..self
        }
    }
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            tasks_per_activation: 10_000,
            data_bytes: 16 * 1024 * 1024,
            depth: 32,
            history_events: Self::default_history_events(),
            // Half of what Temporal allows, so that one workflow task may start them all.
            pending: 1_000,
            // Temporal takes no message of 4 MiB, and there is more in it than commands.
            command_bytes: (4 * 1024 - 512) * 1024,
        }
    }
}

/// What a driver is made of; all of it is in the run's first event.
#[derive(Debug, Clone)]
pub struct RunStart {
    /// The namespace.
    pub namespace: String,
    /// The caller's id.
    pub workflow_id: String,
    /// This execution.
    pub run_id: Uuid,
    /// When it was started.
    pub started_at: Timestamp,
    /// The definition and all it is pinned to.
    pub definition: PinnedDefinition,
    /// The input, with references resolved.
    pub input: Payload,
    /// How deep it is nested; 0 for a run without a parent.
    pub depth: u32,
    /// Seed of the run's random numbers.
    pub seed: u64,
    /// The limits.
    pub limits: RunLimits,
    /// The driver's revision under which the run was started.
    pub revision: u32,
    /// The expressions' answer revision under which the run was started.
    pub answer_revision: u32,
    /// Where it goes on, where another run continued as this one: what that one's
    /// [`Command::ContinueAsNew`] said, with references resolved.
    pub resume: Option<Payload>,
    /// Whether the end of a detached child is told, too
    /// ([`Resolution::Child`]): then it counts among the children that are open.
    pub detached_ends: bool,
}

/// The activity type of `call: http`, which the host itself executes.
///
/// Its input is one JSON object without expressions: `method` (in capitals),
/// `endpoint` (the whole URI), `headers` (texts), `query` (any values; an array is one
/// parameter per element), `body` (absent where there is none), `output` (`raw`,
/// `content` or `response`), `redirect` (whether statuses 300 to 399 are no errors) and
/// `authentication` (absent, `{"basic": {"username", "password"}}` or
/// `{"bearer": {"token"}}`).
///
/// Its result is, by `output`: the content as base64 text; the content, read where its
/// type is JSON; or `{"request": {"method", "uri", "headers"}, "statusCode", "headers",
/// "content"}`. A status that is an error, and a request without a response, are
/// failures whose kind is [`COMMUNICATION`](crate::flow::error::COMMUNICATION) and whose
/// details have `status`, `title` and `detail`.
pub const HTTP_ACTIVITY_TYPE: &str = "heyday.http";

/// Why a driver cannot go on. None of these is the flow's fault: flows fail by
/// [`Command::Fail`]. The driver must be dropped; nothing of the activation is recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The expression evaluator could not run. Rebuild the driver from the history and
    /// repeat the activation later.
    #[error("the expression evaluator is unavailable: {0}")]
    Unavailable(String),
    /// The driver panicked, which is a bug in it. Hold the run: a newer version may be
    /// able to replay it.
    #[error("the workflow driver panicked: {0}")]
    Panicked(String),
    /// History and driver disagree: something resolved for which nothing waits, or the
    /// run was already over. Hold the run.
    #[error("the history does not fit the workflow: {0}")]
    Unexpected(String),
    /// The run was started under a newer driver. Hold the run until this process is
    /// updated.
    #[error(
        "the run was started under driver revision {recorded}, this one knows up to {REVISION}"
    )]
    UnknownRevision {
        /// The run's revision.
        recorded: u32,
    },
}

/// One run's workflow logic.
pub struct Driver {
    port: Arc<Port>,
    /// What is left to do; `None` when the run is over.
    doing: Option<Doing<'static, Held>>,
    /// What it is done in; `None` where it could not begin.
    run: Option<Arc<Run>>,
    /// Whether the flow's beginning was reached by an activation.
    started: bool,
    /// Whether it may continue as new.
    continues: bool,
    /// What was said of updates that were offered.
    verdicts: Vec<(String, Result<(), Failure>)>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("started", &self.started)
            .field("over", &self.doing.is_none())
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// `$runtime.name`.
    pub(crate) const RUNTIME_NAME: &str = "heyday";

    /// A driver for a run, at its beginning. Compiles the flow's expressions; where one
    /// is invalid, or the input is no JSON, the first activation fails the run. Blocking.
    ///
    /// # Errors
    /// [`DriverError::Unavailable`] and [`DriverError::UnknownRevision`], before
    /// anything happened.
    pub fn new(start: RunStart, expressions: &Arc<dyn Expressions>) -> Result<Self, DriverError> {
        if start.revision > REVISION {
            return Err(DriverError::UnknownRevision {
                recorded: start.revision,
            });
        }
        let continues = start.revision >= CONTINUES;
        let carried = start.resume.as_ref().map(Carried::read).transpose();
        let carried = carried.map_err(|why| {
            DriverError::Unexpected(format!(
                "what the run before this one carried cannot be read: {why}"
            ))
        })?;
        let meter = Meter::new(start.limits.data_bytes);
        let room = Room {
            pending: start.limits.pending,
            detached: start.detached_ends,
        };
        let port = Port::new(start.started_at, start.seed, Arc::clone(&meter), room);
        let port = Arc::new(port);
        let prepared = catch_unwind(AssertUnwindSafe(|| {
            prepare(start, carried, expressions, &port, meter)
        }))
        .map_err(|panic| DriverError::Panicked(message_of(&*panic)))?;
        let (doing, run): (Doing<'static, Held>, _) = match prepared {
            Ok((doing, run)) => (doing, Some(run)),
            Err(Stop::Unavailable(message)) => return Err(DriverError::Unavailable(message)),
            Err(stop) => (Box::pin(std::future::ready(Err(stop))), None),
        };
        Ok(Self {
            port,
            doing: Some(doing),
            run,
            started: false,
            continues,
            verdicts: Vec::new(),
        })
    }

    /// Goes on with what resolved and answers what to do next. After a terminal
    /// command it must not be called again; resolutions that follow it in the same
    /// activation are dropped. Blocking (it evaluates expressions).
    ///
    /// # Errors
    /// As [`DriverError`] says; the driver must then be dropped.
    pub fn activate(&mut self, activation: Activation) -> Result<Vec<Command>, DriverError> {
        self.guarded(|driver| driver.advance(activation))
    }

    /// Continues as new if the run waits for a signal and can. For an engine that keeps from
    /// it signals for which it has no room: they make its history long, and nothing resolves
    /// by them. At the time of the activation before. Blocking.
    ///
    /// # Errors
    /// As [`Driver::activate`].
    pub fn move_on(&mut self) -> Result<Vec<Command>, DriverError> {
        self.guarded(|driver| {
            if driver.started && driver.continues {
                driver.port.ask_to_continue(Asked::Waiting);
            }
            let polled = driver.poll();
            driver.port.ask_to_continue(Asked::No);
            polled
        })
    }

    fn guarded(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<(), DriverError>,
    ) -> Result<Vec<Command>, DriverError> {
        if self.doing.is_none() {
            return Err(DriverError::Unexpected("the run is over".to_owned()));
        }
        let result = catch_unwind(AssertUnwindSafe(|| act(self)))
            .unwrap_or_else(|panic| Err(DriverError::Panicked(message_of(&*panic))));
        let commands = self.port.take_commands();
        if let Err(error) = result {
            self.doing = None;
            return Err(error);
        }
        Ok(commands)
    }

    /// The tasks that began since the last call, in order, as JSON pointers; the first
    /// 256 of them. For display.
    pub fn take_entered(&mut self) -> Vec<String> {
        self.port.take_entered()
    }

    /// The ids of the signals that tasks took since the last call, in their order. For
    /// display, and for an engine that limits how many wait.
    pub fn take_consumed(&mut self) -> Vec<String> {
        self.port.take_consumed()
    }

    /// Of each update that was [offered](Resolution::Offer) since the last call, in their
    /// order: its id, and why the run does not take it. One that came after the run's end
    /// is not among them.
    pub fn take_verdicts(&mut self) -> Vec<(String, Result<(), Failure>)> {
        std::mem::take(&mut self.verdicts)
    }

    /// Bytes of the signals that no task has taken, as they count for what the run holds.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.port.waiting_bytes()
    }

    /// The tasks that listen for signals now, in the order in which they began. For
    /// display, and for an engine that lets signals wait outside.
    #[must_use]
    pub fn listening(&self) -> Vec<Listening> {
        self.port.listening()
    }

    fn advance(&mut self, activation: Activation) -> Result<(), DriverError> {
        self.port.begin(activation.now);
        // What follows must not be lost with the run, so that it ends with the last of
        // it. An update that nobody takes leaves no trace, and what the run does must not
        // depend on whether one came: all updates may follow, and none makes a run continue
        // that it did not move.
        let asked = self.started && self.continues && activation.continue_as_new_suggested;
        let resolutions = activation.resolutions;
        let is_update =
            |it: &Resolution| matches!(it, Resolution::Offer(_) | Resolution::Update(_));
        let last = resolutions.iter().rposition(|it| !is_update(it));
        if !self.started {
            self.started = true;
            self.poll()?;
        }
        for (index, resolution) in resolutions.into_iter().enumerate() {
            if self.doing.is_none() {
                break;
            }
            let asked = asked && last.is_none_or(|last| index >= last);
            self.port.ask_to_continue(match asked {
                false => Asked::No,
                true if is_update(&resolution) => Asked::Moved,
                true => Asked::Waiting,
            });
            let resolution = match resolution {
                Resolution::Offer(update) => {
                    let verdict = self.validate(&update)?;
                    let taken = verdict.is_ok();
                    self.verdicts.push((update.id.clone(), verdict));
                    if !taken {
                        continue;
                    }
                    Resolution::Update(update)
                }
                resolution => resolution,
            };
            let update = match &resolution {
                Resolution::Update(update) => Some((update.id.clone(), update.name.clone())),
                _ => None,
            };
            match self.port.resolve(resolution) {
                Ok(()) => {
                    self.poll()?;
                    if let Some((update_id, name)) = update
                        && self.doing.is_some()
                        && self.port.drop_update(&update_id)
                    {
                        // It was not asked before whether a task takes it.
                        let outcome = Err(self.rejected(&name));
                        self.port.complete_update(update_id, outcome);
                    }
                }
                Err(Refused::Unexpected(message)) => return Err(DriverError::Unexpected(message)),
                Err(Refused::Full(limit)) => self.end(Err(data_limit(limit, "/signals")))?,
            }
        }
        self.port.ask_to_continue(Asked::No);
        Ok(())
    }

    fn poll(&mut self) -> Result<(), DriverError> {
        let Some(doing) = &mut self.doing else {
            return Ok(());
        };
        match poll_once(doing) {
            Poll::Pending => Ok(()),
            Poll::Ready(result) => self.end(result),
        }
    }

    /// The run is over.
    fn end(&mut self, result: Result<Held, Stop>) -> Result<(), DriverError> {
        self.doing = None;
        let command = match result {
            Ok(output) => completed(&output),
            Err(Stop::Unavailable(message)) => return Err(DriverError::Unavailable(message)),
            Err(Stop::Continue(left)) => {
                let (Left::List(position), Some(run)) = (*left, &self.run) else {
                    return Err(DriverError::Panicked(
                        "a run continues as new from the middle of a task".to_owned(),
                    ));
                };
                Command::ContinueAsNew {
                    resume: run.carry(position),
                }
            }
            Err(Stop::Fatal(failure)) => Command::Fail {
                failure: bounded(*failure),
            },
            Err(Stop::Fault(fault)) => match self.port.cancel_reason() {
                Some(reason) if fault.is_cancelled() => Command::Cancel { reason },
                _ => Command::Fail {
                    failure: bounded(fault.into_failure()),
                },
            },
        };
        self.port.command(command);
        Ok(())
    }
}

/// The interpreter at the beginning of its flow, or where an earlier run left it.
fn prepare(
    start: RunStart,
    carried: Option<Carried>,
    expressions: &Arc<dyn Expressions>,
    port: &Arc<Port>,
    meter: Arc<Meter>,
) -> Result<(Doing<'static, Held>, Arc<Run>), Stop> {
    let flow = &start.definition.flow;
    let program = if flow.expressions().is_empty() {
        None
    } else {
        let compiled = expressions.compile(flow.expressions(), flow.variables());
        Some(compiled.map_err(|error| {
            match error {
                ExpressionError::Unavailable(message) => Stop::Unavailable(message),
                error => Fault::new(EXPRESSION, "Invalid expression", error.to_string())
                    .at("/")
                    .into(),
            }
        })?)
    };
    let input = start.input.to_json().map_err(|error| {
        Stop::Fatal(Box::new(Failure::permanent(
            kind::INVALID_INPUT,
            format!("the workflow's input cannot be read: {error}"),
        )))
    })?;
    let input = Held::new(input, &meter).map_err(|limit| data_limit(limit, "/input"))?;
    let resumed = match carried {
        None => None,
        Some(carried) => {
            let mut resumed = carried.restore(&input, &meter)?;
            port.restore(&mut resumed);
            Some(resumed)
        }
    };
    let origin = resumed.as_ref().map(|resumed| resumed.origin);
    let origin = origin.unwrap_or((start.run_id, start.started_at));
    let evaluator = Evaluator::new(&start, origin, program, input.clone(), meter);
    let run = Arc::new(Run::new(start, origin, Arc::clone(port), evaluator));
    let flow = Arc::clone(&run);
    let doing: Doing<'static, Held> = match resumed {
        None => Box::pin(async move { flow.begin(input).await }),
        Some(resumed) => {
            drop(input);
            Box::pin(async move { flow.resume(resumed).await })
        }
    };
    Ok((doing, run))
}

/// The end of a run that went well. Its result must stay inline.
fn completed(output: &Held) -> Command {
    if output.size() <= FOREIGN_LIMIT as u64 {
        return Command::Complete {
            result: Payload::json(output),
        };
    }
    let message = format!(
        "the result has {} bytes, more than the {FOREIGN_LIMIT} allowed; write it to a blob and answer its key",
        output.size()
    );
    Command::Fail {
        failure: limit_failure("result_bytes", "/output", message),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
        .to_owned()
}
