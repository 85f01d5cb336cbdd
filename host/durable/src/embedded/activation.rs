//! Running a driver: the activation that is due. A driver which is not in memory is
//! rebuilt by [`replay`](super::replay) first; a difference there holds the run with a
//! report. Nothing of a failed activation is recorded; what resolved stays recorded and is
//! given again.

use std::time::Duration;

use super::convert::event_of;
use super::core::Core;
use super::events::{Event, EventType, StoredListening, later};
use super::replay::{replayed, resolve};
use super::step::Step;
use super::timers::Target;
use crate::driver::{Activation, Driver, DriverError, RunStart};
use crate::engine::EngineError;
use crate::payload::Referred;
use crate::trouble::Trouble;

impl Trouble {
    /// What somebody is told who asked for something that needs the driver.
    fn told(&self) -> EngineError {
        match self {
            Self::Later(message) => EngineError::unavailable(
                format!("the run cannot answer just now: {message}; ask again"),
                None,
            ),
            Self::Hold(reason) | Self::Gone(reason) => EngineError::Held(reason.clone()),
        }
    }

    /// The same of a run that cannot be held any more.
    pub fn of_ended(self) -> EngineError {
        match self {
            Self::Hold(reason) | Self::Gone(reason) => {
                EngineError::QueryFailed(format!("the run cannot be rebuilt: {reason}"))
            }
            later => later.told(),
        }
    }
}

/// Activates the driver with all that resolved, and records its commands.
pub fn run(step: &mut Step<'_>) {
    match activate(step) {
        Ok(()) => step.working.unavailable = 0,
        Err(trouble) => put_off(step, trouble),
    }
}

/// The first activation, of a run that is just being started.
pub fn first(step: &mut Step<'_>, mut start: RunStart) {
    let input = std::mem::take(&mut start.input);
    let driver = step
        .core
        .runtime
        .block_on(step.core.resolve(input))
        .map_err(Trouble::from)
        .and_then(|input| {
            start.input = input;
            Ok(Driver::new(start, &step.core.expressions)?)
        });
    match driver {
        Ok(driver) => {
            step.working.driver = Some(driver);
            run(step);
        }
        Err(trouble) => put_off(step, trouble),
    }
}

fn put_off(step: &mut Step<'_>, trouble: Trouble) {
    step.working.driver = None;
    step.core.cache.forget(step.cell);
    let run_id = step.cell.run_id;
    match trouble {
        Trouble::Later(message) => {
            let tries = step.working.unavailable.min(6);
            step.working.unavailable += 1;
            let wait = Duration::from_millis(250) * 2_u32.pow(tries);
            tracing::warn!(%run_id, message, "an activation cannot be run; trying again");
            step.effects
                .set(Target::Retry(run_id), later(step.now, wait));
        }
        Trouble::Hold(reason) | Trouble::Gone(reason) => {
            tracing::error!(%run_id, reason, "the run is held");
            step.working.held = Some(reason.clone());
            step.effects.hold = Some(reason);
        }
    }
}

/// Asks the run's driver something between two activations.
pub fn with_driver<T>(
    step: &mut Step<'_>,
    ask: impl FnOnce(&mut Driver) -> Result<T, DriverError>,
) -> Result<T, EngineError> {
    if let Some(reason) = &step.working.held {
        return Err(EngineError::Held(reason.clone()));
    }
    if step.working.state.wants_activation() {
        let trouble =
            Trouble::Later("it has not gone on since something happened to it".to_owned());
        return Err(trouble.told());
    }
    let answer = in_memory(step).and_then(|driver| ask(driver).map_err(Trouble::from));
    answer.map_err(|trouble| {
        let told = trouble.told();
        put_off(step, trouble);
        told
    })
}

/// The run's driver, rebuilt where it is not in memory.
fn in_memory<'s>(step: &'s mut Step<'_>) -> Result<&'s mut Driver, Trouble> {
    if step.working.driver.is_none() {
        let driver = replayed(step.core, step.cell.run_id, &step.cell.beginning)?;
        step.working.driver = Some(driver);
        for cell in step.core.cache.used(step.cell) {
            step.core.evict(&cell);
        }
    }
    let driver = step.working.driver.as_mut();
    driver.ok_or_else(|| Trouble::Later("its driver is gone".to_owned()))
}

fn activate(step: &mut Step<'_>) -> Result<(), Trouble> {
    in_memory(step)?;
    let mut resolutions = step.working.state.unconsumed.clone();
    let core = step.core;
    resolve(core.payloads.as_ref(), &core.runtime, &mut resolutions)?;
    let continue_as_new_suggested = step.suggests_continuing();
    let Some(driver) = &mut step.working.driver else {
        return Ok(());
    };
    let commands = driver.activate(Activation {
        now: super::events::timestamp(step.now.as_microsecond()),
        resolutions,
        continue_as_new_suggested,
    })?;
    let tasks = driver.take_entered();
    let consumed = driver.take_consumed();
    let listening: Vec<StoredListening> = driver.listening().into_iter().map(Into::into).collect();
    let mut stored = Vec::new();
    let events: Vec<Event> = commands
        .into_iter()
        .map(|command| event_of(command, step.now, &mut stored))
        .map(|event| super::continuing::named(step.core, event, step.now))
        .collect();
    if !store(step.core, stored) {
        return Err(Trouble::Later(
            "the payload store is unavailable".to_owned(),
        ));
    }
    step.transition.activation_us = step.now.as_microsecond();
    step.transition.continue_as_new_suggested = continue_as_new_suggested;
    step.working.state.consumed();
    let from = step.transition.events.len();
    let shows =
        !tasks.is_empty() || !consumed.is_empty() || listening != step.working.state.listening;
    if shows || (events.is_empty() && step.transition.events.is_empty()) {
        // Shows which tasks ran, what they took and what listens; and where nothing was
        // commanded and what resolved was recorded before, replay must see this
        // activation too.
        step.record(Event {
            tasks,
            consumed,
            listening,
            ..Event::new(EventType::WorkflowTaskCompleted, step.now, "")
        });
    }
    for event in events {
        step.record(event);
    }
    // Who waits for an update is told also where the run ends with it.
    step.tell_updates(from);
    if step.working.state.is_open() {
        step.follow_commands(from);
        for cell in step.core.cache.used(step.cell) {
            step.core.evict(&cell);
        }
    }
    Ok(())
}

/// Stores values that go by reference, before what names them is committed. Answers
/// whether it could.
pub fn store(core: &Core, stored: Vec<Referred>) -> bool {
    stored.into_iter().all(|(digest, bytes)| {
        match core.runtime.block_on(core.payloads.put(bytes)) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%digest, %error, "a payload cannot be stored");
                false
            }
        }
    })
}
