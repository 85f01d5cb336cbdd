//! What an expression sees: its input and the values of its variables.
//!
//! | where | `.` | `$input` | `$output` | `$context`, `$task` |
//! |---|---|---|---|---|
//! | workflow `input.from`, `timeout` | raw, transformed workflow input | | | |
//! | task `if`, `input.from` | raw task input | | | yes |
//! | the task itself | transformed task input | the same | | yes |
//! | task `output.as` | raw task output | yes | | yes |
//! | task `export.as` | transformed task output | yes | the same | yes |
//! | workflow `output.as` | last task's output | | | `$context` |
//!
//! `$workflow` and `$runtime` are there everywhere, and so are the variables of the
//! `for` and `catch` around. A variable without a value is null. `$runtime.version` is
//! the driver's revision, because it must be the same on replay under a newer binary;
//! `$runtime.metadata` has `namespace`, `workflowId` and `runId`. Of a run that another one
//! continued as, `$workflow` has the `id` and `startedAt` of the first.
//!
//! Only the variables that an expression names are given to the evaluator: a big
//! context costs nothing where it is not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::data::{DataLimit, Held, Meter, size_of};
use super::stop::{Stop, data_limit};
use super::{Driver, RunStart};
use crate::expressions::{ExpressionError, Program};
use crate::flow::Flow;
use crate::flow::error::{EXPRESSION, Fault};
use crate::flow::model::Task;
use crate::flow::template::{Expr, Template};

/// The variables of `for` and `catch`, the innermost first.
#[derive(Debug, Clone, Default)]
pub(super) struct Variables(Option<Arc<Variable>>);

#[derive(Debug)]
struct Variable {
    name: String,
    value: Held,
    outer: Variables,
}

impl Variables {
    /// These, and one more before them.
    pub(super) fn with(&self, name: &str, value: Held) -> Self {
        Self(Some(Arc::new(Variable {
            name: name.to_owned(),
            value,
            outer: self.clone(),
        })))
    }

    fn get(&self, name: &str) -> Option<&Held> {
        let mut scope = self;
        while let Some(variable) = &scope.0 {
            if variable.name == name {
                return Some(&variable.value);
            }
            scope = &variable.outer;
        }
        None
    }
}

/// A task while it runs.
#[derive(Debug)]
pub(super) struct Running<'a> {
    pub(super) task: &'a Task,
    pub(super) raw_input: Held,
    pub(super) started_at: Timestamp,
    /// Set when `input.from` was done.
    pub(super) input: Option<Held>,
    /// Set when the task itself was done.
    pub(super) raw_output: Option<Held>,
    /// Set when `output.as` was done.
    pub(super) output: Option<Held>,
}

/// Where an expression stands.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    /// What its errors name.
    pub(super) reference: &'a str,
    pub(super) running: Option<&'a Running<'a>>,
    pub(super) variables: &'a Variables,
    pub(super) context: Option<&'a Held>,
}

/// Evaluates the expressions of a run.
pub(super) struct Evaluator {
    flow: Arc<Flow>,
    program: Option<Arc<dyn Program>>,
    names: BTreeMap<String, usize>,
    workflow_id: Value,
    started_at: Value,
    runtime: Value,
    pub(super) meter: Arc<Meter>,
    /// `$workflow.input`.
    pub(super) raw_input: Held,
}

impl Evaluator {
    pub(super) fn new(
        start: &RunStart,
        (first_run, started_at): (Uuid, Timestamp),
        program: Option<Arc<dyn Program>>,
        raw_input: Held,
        meter: Arc<Meter>,
    ) -> Self {
        let flow = Arc::clone(&start.definition.flow);
        let names = flow.variables().iter().cloned().zip(0..).collect();
        Self {
            program,
            names,
            workflow_id: first_run.to_string().into(),
            started_at: date_time(started_at),
            runtime: json!({
                "name": Driver::RUNTIME_NAME,
                "version": start.revision.to_string(),
                "metadata": {
                    "namespace": start.namespace,
                    "workflowId": start.workflow_id,
                    "runId": start.run_id,
                },
            }),
            flow,
            meter,
            raw_input,
        }
    }

    fn variable(&self, name: &str, scene: &Scene<'_>) -> Option<Value> {
        let held = |held: &Held| Value::clone(held);
        // A `for` or a `catch` may shadow the DSL's own names.
        if let Some(value) = scene.variables.get(name) {
            return Some(held(value));
        }
        match name {
            "context" => scene.context.map(held),
            "input" => scene.running?.input.as_ref().map(held),
            "output" => scene.running?.output.as_ref().map(held),
            "task" => scene.running.map(|running| self.task_descriptor(running)),
            "workflow" => Some(json!({
                "id": self.workflow_id,
                "definition": self.flow.definition(),
                "input": *self.raw_input,
                "startedAt": self.started_at,
            })),
            "runtime" => Some(self.runtime.clone()),
            _ => None,
        }
    }

    fn task_descriptor(&self, running: &Running<'_>) -> Value {
        let mut descriptor = json!({
            "name": running.task.name,
            "reference": running.task.reference,
            "definition": self.flow.task_definition(running.task),
            "input": *running.raw_input,
            "startedAt": date_time(running.started_at),
        });
        if let Some(output) = &running.raw_output {
            descriptor["output"] = Value::clone(output);
        }
        descriptor
    }

    /// The answer of an expression.
    pub(super) fn evaluate(
        &self,
        expression: Expr,
        dot: &Value,
        scene: &Scene<'_>,
    ) -> Result<Value, Stop> {
        let Some(program) = &self.program else {
            // There is a program wherever the flow has an expression.
            return Err(Fault::new(
                EXPRESSION,
                "Expression failed",
                "the flow has no expressions",
            )
            .at(scene.reference)
            .into());
        };
        let mut values = vec![Value::Null; self.names.len()];
        for word in words(self.flow.expression(expression)) {
            if let Some(&index) = self.names.get(word)
                && values[index].is_null()
                && let Some(value) = self.variable(word, scene)
            {
                values[index] = value;
            }
        }
        program
            .evaluate(expression.index(), dot, &values)
            .map_err(|error| match error {
                ExpressionError::Unavailable(message) => Stop::Unavailable(message),
                error => Fault::new(EXPRESSION, "Expression failed", error.to_string())
                    .at(scene.reference)
                    .into(),
            })
    }

    /// Whether a condition holds, in jq's sense: it does not where the answer is
    /// `false` or `null`.
    pub(super) fn holds(
        &self,
        condition: Expr,
        dot: &Value,
        scene: &Scene<'_>,
    ) -> Result<bool, Stop> {
        let answer = self.evaluate(condition, dot, scene)?;
        Ok(!matches!(answer, Value::Null | Value::Bool(false)))
    }

    /// A template's value. Its parts are counted while they arise, so that a template
    /// of many expressions cannot build more than a run may hold.
    pub(super) fn render(
        &self,
        template: &Template,
        dot: &Value,
        scene: &Scene<'_>,
    ) -> Result<Value, Stop> {
        let mut rendered = 0_u64;
        template.render(&mut |index| {
            let value = self.evaluate(Expr(index), dot, scene)?;
            rendered = size_of(&value)
                .map_err(|limit| data_limit(limit, scene.reference))?
                .saturating_add(rendered);
            self.meter
                .fits(rendered)
                .map_err(|limit| data_limit(limit, scene.reference))?;
            Ok(value)
        })
    }

    /// A template's value, held by the run.
    pub(super) fn render_held(
        &self,
        template: &Template,
        dot: &Value,
        scene: &Scene<'_>,
    ) -> Result<Held, Stop> {
        let value = self.render(template, dot, scene)?;
        self.hold(value, scene.reference)
    }

    /// Takes a value into the run.
    pub(super) fn hold(&self, value: Value, reference: &str) -> Result<Held, Stop> {
        Held::new(value, &self.meter).map_err(|limit: DataLimit| data_limit(limit, reference))
    }
}

/// The DSL's date time descriptor.
fn date_time(at: Timestamp) -> Value {
    json!({
        "iso8601": at.to_string(),
        "epoch": { "seconds": at.as_second(), "milliseconds": at.as_millisecond() },
    })
}

/// All words of an expression. Every variable that it uses is among them; a word in a
/// text or the name of a member is no harm.
fn words(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
}
