//! `emit`: making events, and sending them to other runs.
//!
//! The event is the task's output. Where `metadata.heyday.to` names workflows, it goes to
//! the open run of each as a signal, which the history records, and the task waits until
//! all of them have it; where it names none, the history records the event itself.

use serde_json::{Map, Value};

use super::command::{Command, SignalExternal};
use super::data::Held;
use super::interpreter::{Run, Surroundings, input_of, task_scene};
use super::scene::{Running, Scene};
use super::stop::{Stop, limit};
use super::tasks::kind_of;
use crate::flow::error::{EXPRESSION, Fault};
use crate::flow::model::Emit;
use crate::flow::template::Template;
use crate::payload::{FOREIGN_LIMIT, Payload};
use crate::signal::{Signal, SignalError};

/// Workflows that one event goes to.
const MAX_TARGETS: usize = 100;

/// Bytes of a workflow id.
const ID_LIMIT: usize = 1_000;

impl Run {
    /// `emit`: the event.
    pub(super) async fn emit(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        emit: &Emit,
    ) -> Result<Held, Stop> {
        let reference = &running.task.reference;
        let (event, targets) = {
            let context = self.context();
            let scene = task_scene(running, around, context.as_ref());
            let event = self.event(emit, input_of(running), &scene)?;
            let targets = match &running.task.options.to {
                None => None,
                Some(to) => Some(self.targets(to, input_of(running), &scene)?),
            };
            (self.evaluator.hold(event, reference)?, targets)
        };
        let signal = self.emitted(&event, reference)?;
        let Some(targets) = targets.filter(|targets| !targets.is_empty()) else {
            self.port.command(Command::Emit {
                event: Payload::json(&event),
                task: reference.clone(),
            });
            return Ok(event);
        };
        self.port
            .room_for_signals(targets.len(), &around.scope)
            .await
            .map_err(|cancelled| cancelled.at(reference))?;
        let sent: Vec<u64> = targets
            .into_iter()
            .map(|workflow_id| {
                self.port.signal_external(SignalExternal {
                    signal_id: String::new(),
                    workflow_id,
                    signal: signal.clone(),
                    task: reference.clone(),
                })
            })
            .collect();
        // All of them are awaited, so that none comes back to a task that is over.
        let mut failed = None;
        for id in sent {
            if let Err(failure) = self.port.external_signaled(id).await {
                failed.get_or_insert(failure);
            }
        }
        match failed {
            None => Ok(event),
            Some(failure) => Err(Fault::from_failure(&failure, reference).into()),
        }
    }

    /// The event that a task describes.
    fn event(&self, emit: &Emit, input: &Value, scene: &Scene<'_>) -> Result<Value, Stop> {
        let mut event = Map::new();
        event.insert("specversion".to_owned(), "1.0".into());
        event.insert(
            "id".to_owned(),
            self.port.event_id(self.start.run_id).into(),
        );
        event.insert(
            "source".to_owned(),
            self.uri(&emit.source, input, scene)?.into(),
        );
        event.insert("time".to_owned(), self.port.now().to_string().into());
        for (name, template) in &emit.attributes {
            match self.evaluator.render(template, input, scene)? {
                // It has none then; what every event has stays as it is.
                Value::Null => {}
                value => {
                    event.insert(name.clone(), value);
                }
            }
        }
        if let Some(data) = &emit.data {
            event.insert(
                "data".to_owned(),
                self.evaluator.render(data, input, scene)?,
            );
        }
        Ok(Value::Object(event))
    }

    /// The event as a signal, which says whether it is one that can be sent.
    fn emitted(&self, event: &Value, reference: &str) -> Result<Signal, Stop> {
        let invalid = |message: String| -> Stop {
            Fault::new(EXPRESSION, "Invalid event", message)
                .at(reference)
                .into()
        };
        let signal = Signal::of_event(event)
            .ok_or_else(|| invalid("an event's id and type must be texts".to_owned()))?;
        signal.check().map_err(|error| match error {
            SignalError::Invalid(message) => invalid(message),
            SignalError::TooLarge { size, .. } => limit(
                "event_bytes",
                reference,
                format!(
                    "at {reference}, the event has {size} bytes, more than the {FOREIGN_LIMIT} allowed; write large values to a blob and emit their keys"
                ),
            ),
        })?;
        Ok(signal)
    }

    /// The workflow ids that an event goes to.
    fn targets(
        &self,
        to: &Template,
        input: &Value,
        scene: &Scene<'_>,
    ) -> Result<Vec<String>, Stop> {
        let wrong = |message: String| -> Stop {
            Fault::new(EXPRESSION, "Invalid target", message)
                .at(scene.reference)
                .into()
        };
        let ids = match self.evaluator.render(to, input, scene)? {
            Value::Array(ids) => ids,
            id => vec![id],
        };
        if ids.len() > MAX_TARGETS {
            return Err(wrong(format!(
                "an event goes to at most {MAX_TARGETS} workflows, not {}",
                ids.len()
            )));
        }
        ids.into_iter()
            .map(|id| match id {
                Value::String(id) if (1..=ID_LIMIT).contains(&id.len()) => Ok(id),
                Value::String(id) => Err(wrong(format!(
                    "a workflow id has 1 to {ID_LIMIT} bytes, not {}",
                    id.len()
                ))),
                other => Err(wrong(format!(
                    "to must be a workflow id or a list of them; {} is none",
                    kind_of(&other)
                ))),
            })
            .collect()
    }
}
