//! Updates: requests to a run that are accepted or rejected, and answered.
//!
//! A `listen` task accepts updates where its `metadata.heyday.update` says so. An update
//! is offered to it as a signal is, by name and data. [`Driver::validate`] asks whether a
//! task takes it just now, without changing anything: the port shows the update to the
//! tasks that listen while they are polled once more. Where one does, the engine records
//! the update and lets it resolve ([`Resolution::Update`](super::Resolution::Update)); the
//! task takes it at once and completes it
//! ([`Command::CompleteUpdate`](super::Command::CompleteUpdate)) when it has done with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use serde_json::{Value, json};

use super::data::Held;
use super::interpreter::{Run, Surroundings, poll_once, task_scene};
use super::port::Verdict;
use super::scene::Running;
use super::stop::{Stop, bounded};
use super::{Driver, DriverError, message_of};
use crate::failure::{Failure, kind};
use crate::flow::model::UpdateOptions;
use crate::payload::{FOREIGN_LIMIT, Payload};
use crate::signal::Signal;

/// The member of a rejection's details that says that an update of the same id ended
/// before the run continued as new: it has a result already.
pub const ENDED_BEFORE: &str = "ended_before";

impl Driver {
    /// Whether the run takes an update just now; `Err` inside says why it does not.
    /// Nothing changes. Blocking (it evaluates expressions).
    ///
    /// # Errors
    /// As [`DriverError`] says. After another error than
    /// [`Unavailable`](DriverError::Unavailable) the driver must be dropped.
    pub fn validate(&mut self, update: &Signal) -> Result<Result<(), Failure>, DriverError> {
        let Some(doing) = self.doing.as_mut().filter(|_| self.started) else {
            return Err(DriverError::Unexpected(
                "an update came before the run began or after its end".to_owned(),
            ));
        };
        let refused = |message: String| Ok(Err(Failure::permanent(kind::UPDATE_REJECTED, message)));
        if self.port.ended_before(&update.id) {
            let why = Failure::permanent(
                kind::UPDATE_REJECTED,
                "an update of this id ended before the run continued as new; ask for its result",
            );
            return Ok(Err(why.with_details(json!({ ENDED_BEFORE: true }))));
        }
        let event = match update.event(self.port.now()) {
            Ok(event) => event,
            Err(error) => return refused(format!("the update cannot be read: {error}")),
        };
        // In the middle of an activation there may be some.
        let commands = self.port.command_count();
        self.port.show(event);
        let polled = catch_unwind(AssertUnwindSafe(|| poll_once(doing)));
        let verdict = self.port.verdict();
        match polled {
            Ok(Poll::Pending) if self.port.command_count() == commands => {}
            Ok(_) => {
                return Err(DriverError::Unexpected(
                    "the run went on although nothing resolved".to_owned(),
                ));
            }
            Err(panic) => return Err(DriverError::Panicked(message_of(&*panic))),
        }
        match verdict {
            Some(Verdict::Taken) => Ok(Ok(())),
            Some(Verdict::Unavailable(message)) => Err(DriverError::Unavailable(message)),
            None => Ok(Err(self.rejected(&update.name))),
        }
    }

    /// Why nobody takes an update.
    pub(super) fn rejected(&self, name: &str) -> Failure {
        let mut names: Vec<String> = self
            .port
            .listening()
            .into_iter()
            .filter(|listening| listening.updates)
            .flat_map(|listening| listening.signals)
            .collect();
        names.sort_unstable();
        names.dedup();
        let name: String = name.chars().take(200).collect();
        Failure::permanent(
            kind::UPDATE_REJECTED,
            if names.is_empty() {
                format!("the run takes no update {name:?} now: no task of it waits for updates")
            } else {
                format!(
                    "the run takes no such update {name:?} now; its tasks wait for {}",
                    names.join(", ")
                )
            },
        )
    }
}

impl Run {
    /// The end of an update: its answer, made of what the task has of it.
    pub(super) fn answered(
        &self,
        update_id: String,
        options: &UpdateOptions,
        around: &Surroundings,
        running: &Running<'_>,
        value: &Held,
    ) -> Result<(), Stop> {
        let answer = match &options.answer {
            None => Value::clone(value),
            Some(template) => {
                let context = self.context();
                let scene = task_scene(running, around, context.as_ref());
                match self.evaluator.render(template, value, &scene) {
                    Ok(answer) => answer,
                    Err(stop) => {
                        self.unanswered(update_id, &stop);
                        // Whoever sent the update may have sent anything.
                        return match stop {
                            Stop::Fault(_) => Ok(()),
                            stop => Err(stop),
                        };
                    }
                }
            }
        };
        let result = Payload::json(&answer);
        let size = result.data.len();
        let outcome = if size <= FOREIGN_LIMIT {
            Ok(result)
        } else {
            Err(Failure::permanent(
                kind::LIMIT_EXCEEDED,
                format!(
                    "the answer has {size} bytes, more than the {FOREIGN_LIMIT} allowed; write it to a blob and answer its key"
                ),
            ))
        };
        self.port.complete_update(update_id, outcome);
        Ok(())
    }

    /// The end of an update whose task stops.
    pub(super) fn unanswered(&self, update_id: String, stop: &Stop) {
        let failure = match stop {
            // Nothing of this activation is recorded; and none ends in an update.
            Stop::Unavailable(_) | Stop::Continue(_) => return,
            Stop::Fault(fault) => (**fault).clone().into_failure(),
            Stop::Fatal(failure) => (**failure).clone(),
        };
        self.port.complete_update(update_id, Err(bounded(failure)));
    }
}
