//! Running a driver: the activation that is due, and the replay that rebuilds a driver
//! which is not in memory.
//!
//! Replay feeds a fresh driver what the history says resolved, activation by
//! activation, and compares each command with the recorded one. The first difference
//! holds the run with a report. Nothing of a failed activation is recorded; what
//! resolved stays recorded and is given again.

use std::time::Duration;

use uuid::Uuid;

use super::convert::{Beginning, event_of, is_command, resolution_of};
use super::core::Core;
use super::events::{Event, EventType, StoredListening, Transition, later};
use super::step::Step;
use super::timers::Target;
use crate::driver::{Activation, Driver, DriverError, Resolution, RunStart};
use crate::engine::EngineError;
use crate::payload::{Referred, ResolveError};
use crate::trouble::Trouble;

impl Trouble {
    /// What somebody is told who asked for something that needs the driver.
    fn told(&self) -> EngineError {
        match self {
            Self::Later(message) => EngineError::Unavailable {
                message: format!("the run cannot answer just now: {message}; ask again"),
                source: None,
            },
            Self::Hold(reason) => EngineError::Held(reason.clone()),
        }
    }

    /// The same of a run that cannot be held any more.
    pub fn of_ended(self) -> EngineError {
        match self {
            Self::Hold(reason) => {
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
        Trouble::Hold(reason) => {
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
    resolve(step.core, &mut resolutions)?;
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

fn resolve(core: &Core, resolutions: &mut [Resolution]) -> Result<(), ResolveError> {
    for payload in resolutions.iter_mut().filter_map(Resolution::payload_mut) {
        if payload.encoding() == crate::payload::BLOB_REF {
            let reference = std::mem::take(payload);
            *payload = core.runtime.block_on(core.resolve(reference))?;
        }
    }
    Ok(())
}

/// A driver that is where the committed history is.
pub fn replayed(core: &Core, run_id: Uuid, beginning: &Beginning) -> Result<Driver, Trouble> {
    let flow = core
        .runtime
        .block_on(
            core.definitions
                .load(&beginning.namespace, &beginning.digest),
        )
        .map_err(Trouble::unloadable)?;
    let input = beginning.event.payload();
    let input = core.runtime.block_on(core.resolve(input))?;
    let resume = beginning.stored().resume.clone();
    let resume = resume
        .map(|resume| core.runtime.block_on(core.resolve(resume)))
        .transpose()?;
    let start = beginning.run_start(flow, input, resume);
    let mut driver = Driver::new(start, &core.expressions)?;
    let mut after = 0;
    let mut resolutions = Vec::new();
    loop {
        let page = core
            .runtime
            .block_on(core.store.transitions(run_id, after, 500))
            .map_err(|error| Trouble::Later(error.to_string()))?;
        let Some((last, _)) = page.last() else {
            return Ok(driver);
        };
        after = *last;
        for (last, transition) in page {
            replay(core, &mut driver, &mut resolutions, transition, last)?;
        }
    }
}

fn replay(
    core: &Core,
    driver: &mut Driver,
    resolutions: &mut Vec<Resolution>,
    transition: Transition,
    last: u64,
) -> Result<(), Trouble> {
    resolutions.extend(transition.events.iter().filter_map(resolution_of));
    if transition.activation_us == 0 {
        return Ok(());
    }
    let mut given = std::mem::take(resolutions);
    resolve(core, &mut given)?;
    let now = super::events::timestamp(transition.activation_us);
    let commands = driver.activate(Activation {
        now,
        resolutions: given,
        continue_as_new_suggested: transition.continue_as_new_suggested,
    })?;
    // They were recorded the first time.
    driver.take_entered();
    driver.take_consumed();
    let first = last + 1 - transition.events.len() as u64;
    let mut recorded = (first..)
        .zip(&transition.events)
        .filter(|(_, event)| is_command(event.event_type()));
    // Compared by digest; the values themselves were stored the first time.
    let mut ignored = Vec::new();
    for command in commands {
        let replayed = event_of(command, now, &mut ignored);
        match recorded.next() {
            Some((_, event)) if *event == replayed => {}
            // The next run's id is not the driver's.
            Some((_, event))
                if event.event_type() == EventType::WorkflowExecutionContinuedAsNew
                    && *event
                        == (Event {
                            run_id: event.run_id.clone(),
                            ..replayed.clone()
                        }) => {}
            Some((id, event)) => return Err(Trouble::Hold(difference(id, event, &replayed))),
            None => {
                return Err(Trouble::Hold(format!(
                    "replay differs after event {last}: the workflow now commands {}, and the history has nothing there",
                    named(&replayed)
                )));
            }
        }
    }
    if let Some((id, event)) = recorded.next() {
        return Err(Trouble::Hold(format!(
            "replay differs at event {id}: the history has {}, and the workflow now commands nothing there",
            named(event)
        )));
    }
    Ok(())
}

fn named(event: &Event) -> String {
    let mut text = format!("{:?} {:?}", event.event_type(), event.id);
    if !event.name.is_empty() {
        text.push_str(&format!(" of {:?}", event.name));
    }
    if !event.task.is_empty() {
        text.push_str(&format!(" at {}", event.task));
    }
    text
}

/// What a person needs to find a difference.
fn difference(id: u64, recorded: &Event, replayed: &Event) -> String {
    let mut members = Vec::new();
    if named(recorded) == named(replayed) {
        if recorded.payload != replayed.payload {
            members.push("its value");
        }
        if recorded.queue != replayed.queue {
            members.push("its queue");
        }
        if recorded.version != replayed.version || recorded.digest != replayed.digest {
            members.push("its version");
        }
        if recorded.timeouts != replayed.timeouts || recorded.retry != replayed.retry {
            members.push("its timeouts or retry policy");
        }
        if recorded.duration_us != replayed.duration_us {
            members.push("its duration");
        }
        if recorded.failure != replayed.failure {
            members.push("its failure");
        }
    }
    let what = if members.is_empty() {
        String::new()
    } else {
        format!(" ({} differs)", members.join(" and "))
    };
    format!(
        "replay differs at event {id}: the history has {}, and the workflow now commands {}{what}",
        named(recorded),
        named(replayed)
    )
}
