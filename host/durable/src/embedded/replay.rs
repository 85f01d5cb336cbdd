//! Replay: a driver is fed what a history says resolved, activation by activation, and
//! each command is compared with the recorded one. By it the engine rebuilds drivers, and
//! by it histories are checked against other definitions ([`crate::replay`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use uuid::Uuid;

use super::convert::{Beginning, event_of, is_command, resolution_of};
use super::core::Core;
use super::events::{Event, EventType, Transition, timestamp};
use crate::definition::PinnedDefinition;
use crate::driver::{Activation, Driver, DriverError, Resolution};
use crate::expressions::Expressions;
use crate::payload::{Payload, PayloadStore, ResolveError};
use crate::replay::{Difference, Strictness, pinned_again};
use crate::trouble::Trouble;

/// A history of this engine: its first event, and all transitions, each with the id of its
/// last event.
#[derive(Debug, Clone)]
pub struct Recording {
    /// What the run was started with.
    pub beginning: Beginning,
    /// What was committed together.
    pub transitions: Vec<(u64, Transition)>,
}

/// Resolves the references of what resolved. Blocking.
pub fn resolve(
    payloads: &dyn PayloadStore,
    runtime: &Handle,
    resolutions: &mut [Resolution],
) -> Result<(), ResolveError> {
    for payload in resolutions.iter_mut().filter_map(Resolution::payload_mut) {
        if payload.encoding() == crate::payload::BLOB_REF {
            let reference = std::mem::take(payload);
            *payload = runtime.block_on(crate::payload::resolve(payloads, reference))?;
        }
    }
    Ok(())
}

/// What the run before this one carried, if there is one. Blocking.
fn resumed(
    beginning: &Beginning,
    payloads: &dyn PayloadStore,
    runtime: &Handle,
) -> Result<Option<Payload>, ResolveError> {
    let resume = beginning.stored().resume.clone();
    resume
        .map(|resume| runtime.block_on(crate::payload::resolve(payloads, resume)))
        .transpose()
}

/// A driver that is where the committed history is. Blocking.
pub fn replayed(core: &Core, run_id: Uuid, beginning: &Beginning) -> Result<Driver, Trouble> {
    let flow = core
        .runtime
        .block_on(
            core.definitions
                .load(&beginning.namespace, &beginning.digest),
        )
        .map_err(Trouble::unloadable)?;
    let input = core
        .runtime
        .block_on(core.resolve(beginning.event.payload()))?;
    let resume = resumed(beginning, core.payloads.as_ref(), &core.runtime)?;
    let start = beginning.run_start(flow, input, resume);
    let mut replay = Replay {
        driver: Driver::new(start, &core.expressions)?,
        resolutions: Vec::new(),
        strictness: Strictness::Bits,
        payloads: core.payloads.as_ref(),
        runtime: &core.runtime,
    };
    let mut after = 0;
    loop {
        let page = core
            .runtime
            .block_on(core.store.transitions(run_id, after, 500))
            .map_err(|error| Trouble::Later(error.to_string()))?;
        let Some((last, _)) = page.last() else {
            return Ok(replay.driver);
        };
        after = *last;
        for (last, transition) in page {
            match replay.step(last, &transition) {
                Ok(None) => {}
                Ok(Some(difference)) => return Err(Trouble::Hold(difference.message)),
                Err(Stopped::Driver(error)) => return Err(error.into()),
                Err(Stopped::Value(error)) => return Err(error.into()),
            }
        }
    }
}

/// The first difference between a history and what a definition commands. Blocking; ends
/// at the next activation once it is `stopped`.
pub fn replay(
    recording: &Recording,
    definition: &PinnedDefinition,
    strictness: Strictness,
    expressions: &Arc<dyn Expressions>,
    payloads: &dyn PayloadStore,
    runtime: &Handle,
    stopped: &AtomicBool,
) -> Result<Option<Difference>, Trouble> {
    let beginning = &recording.beginning;
    let input = beginning.event.payload();
    let input = runtime.block_on(crate::payload::resolve(payloads, input))?;
    let resume = resumed(beginning, payloads, runtime)?;
    let mut start = beginning.run_start(Arc::clone(&definition.flow), input, resume);
    start.definition = pinned_again(beginning.digest, beginning.activities(), definition);
    let mut replay = Replay {
        driver: Driver::new(start, expressions)?,
        resolutions: Vec::new(),
        strictness,
        payloads,
        runtime,
    };
    for (last, transition) in &recording.transitions {
        if stopped.load(Ordering::Relaxed) {
            return Err(Trouble::Later("nobody waits for the replay".to_owned()));
        }
        match replay.step(*last, transition) {
            Ok(None) => {}
            Ok(difference) => return Ok(difference),
            Err(Stopped::Value(error)) => return Err(error.into()),
            Err(Stopped::Driver(error @ DriverError::Unavailable(_))) => return Err(error.into()),
            // The definition does not know what resolved here.
            Err(Stopped::Driver(error)) => {
                let first = last + 1 - transition.events.len() as u64;
                return Ok(Some(Difference::unexpected(first, &error.to_string())));
            }
        }
    }
    Ok(None)
}

/// Why a step was not made.
enum Stopped {
    Driver(DriverError),
    Value(ResolveError),
}

/// A replay under way.
struct Replay<'r> {
    driver: Driver,
    /// What resolved since the last activation.
    resolutions: Vec<Resolution>,
    strictness: Strictness,
    payloads: &'r dyn PayloadStore,
    runtime: &'r Handle,
}

impl Replay<'_> {
    /// Goes over one transition, whose last event has that id.
    fn step(&mut self, last: u64, transition: &Transition) -> Result<Option<Difference>, Stopped> {
        self.resolutions
            .extend(transition.events.iter().filter_map(resolution_of));
        if transition.activation_us == 0 {
            return Ok(None);
        }
        let mut resolutions = std::mem::take(&mut self.resolutions);
        resolve(self.payloads, self.runtime, &mut resolutions).map_err(Stopped::Value)?;
        let now = timestamp(transition.activation_us);
        let commands = self
            .driver
            .activate(Activation {
                now,
                resolutions,
                continue_as_new_suggested: transition.continue_as_new_suggested,
            })
            .map_err(Stopped::Driver)?;
        // They were recorded the first time.
        self.driver.take_entered();
        self.driver.take_consumed();
        let first = last + 1 - transition.events.len() as u64;
        let mut recorded = (first..)
            .zip(&transition.events)
            .filter(|(_, event)| is_command(event.event_type()));
        // Compared by digest; the values themselves were stored the first time.
        let mut ignored = Vec::new();
        for command in commands {
            let mut expected: Event = event_of(command, now, &mut ignored);
            let difference = match recorded.next() {
                Some((id, event)) => {
                    if event.event_type() == EventType::WorkflowExecutionContinuedAsNew
                        && expected.kind == event.kind
                    {
                        // The next run's id is not the driver's.
                        expected.run_id.clone_from(&event.run_id);
                    }
                    Difference::between(id, event, &expected, self.strictness)
                }
                None => Some(Difference::unrecorded(last, &expected)),
            };
            if difference.is_some() {
                return Ok(difference);
            }
        }
        Ok(recorded
            .next()
            .map(|(id, event)| Difference::uncommanded(id, event)))
    }
}
