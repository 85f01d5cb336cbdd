//! `set`: new data, and with `metadata.heyday.search_attributes` search attributes that the
//! run has from then on.
//!
//! Whether the namespace takes them the engine says: a name has one type there, and a
//! cluster has room for so many. So the task waits until they are set, and fails where they
//! cannot be.

use serde_json::Value;

use super::data::Held;
use super::interpreter::{Run, Surroundings, input_of, task_scene};
use super::scene::{Running, Scene};
use super::stop::Stop;
use crate::flow::error::{Fault, VALIDATION};
use crate::flow::model::SetAttribute;
use crate::flow::template::Template;
use crate::search::{GivenAttribute, GivenChanges, MAX_VALUE};

impl Run {
    /// `set`: its output.
    pub(super) async fn set(
        &self,
        around: &Surroundings,
        running: &Running<'_>,
        template: &Template,
    ) -> Result<Held, Stop> {
        let attributes = &running.task.options.search_attributes;
        let (output, changes) = {
            let context = self.context();
            let scene = task_scene(running, around, context.as_ref());
            let input = input_of(running);
            let output = self.evaluator.render_held(template, input, &scene)?;
            (output, self.changes(attributes, input, &scene)?)
        };
        if changes.is_empty() {
            return Ok(output);
        }
        let reference = &running.task.reference;
        match self.port.set_search_attributes(changes, reference).await {
            Ok(()) => Ok(output),
            Err(failure) => Err(Fault::from_failure(&failure, reference).into()),
        }
    }

    fn changes(
        &self,
        attributes: &[SetAttribute],
        input: &Value,
        scene: &Scene<'_>,
    ) -> Result<GivenChanges, Stop> {
        attributes
            .iter()
            .map(|one| {
                let value = self.evaluator.render(&one.value, input, scene)?;
                let size = value.to_string().len();
                if size > MAX_VALUE {
                    // The engine would say so too, but would have to record it first.
                    let message = format!(
                        "the search attribute {:?} has {size} bytes, more than the {MAX_VALUE} allowed",
                        one.name
                    );
                    return Err(Fault::new(VALIDATION, "Invalid input", message)
                        .at(scene.reference)
                        .into());
                }
                let given = (!value.is_null()).then_some(GivenAttribute {
                    search_type: one.search_type,
                    value,
                });
                Ok((one.name.clone(), given))
            })
            .collect()
    }
}
