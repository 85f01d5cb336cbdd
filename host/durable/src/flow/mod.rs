//! Workflow definitions in the CNCF Serverless Workflow DSL 1.0.
//!
//! [`Flow::parse`] reads a document in three steps: YAML or JSON into a tree that
//! knows its lines (`source`), the tree into the [`model`] with every name resolved
//! and every schema compiled (`parse`), and all expressions into one list. A document
//! that does not hold, or asks for something that Heyday does not have, is refused
//! with all its errors at once, each with its line.
//!
//! The driver walks the [`model`], evaluates expressions by index ([`template`]),
//! validates with [`schema`], and raises and catches [`error`]s.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::print_stderr,
        reason = "tests; the library is linted without `test`"
    )
)]

pub mod duration;
pub mod error;
mod json;
pub mod model;
mod parse;
pub mod schema;
mod source;
pub mod template;
mod yaml;

#[cfg(test)]
mod tests;

pub use parse::MAX_TASKS;
pub use source::{FlowError, MAX_BYTES, MAX_DEPTH, MAX_PROBLEMS, Problem};

use std::collections::BTreeMap;

use serde_json::Value;

use model::{CallActivity, Document, DurationValue, RunWorkflow, Task, Transform};
use template::{Expr, Template};

/// A validated definition, immutable.
#[derive(Debug)]
pub struct Flow {
    /// What it says of itself.
    pub document: Document,
    /// The workflow's input.
    pub input: Transform,
    /// The workflow's output.
    pub output: Transform,
    /// The whole run's timeout.
    pub timeout: Option<DurationValue>,
    /// The tasks of `do`.
    pub tasks: Vec<Task>,
    expressions: Vec<String>,
    expression_lines: Vec<u32>,
    variables: Vec<String>,
    activities: Vec<CallActivity>,
    uses_http: bool,
    children: Vec<RunWorkflow>,
    queries: BTreeMap<String, Template>,
    schedule: Option<model::FlowSchedule>,
    definition: Value,
}

/// Reads a YAML or JSON text as a value, under the limits of a document.
///
/// # Errors
/// When it is neither, or past a limit.
pub fn read(bytes: &[u8]) -> Result<serde_json::Value, FlowError> {
    source::read(bytes).map(|node| node.to_value())
}

impl Flow {
    /// Reads a YAML or JSON document.
    ///
    /// # Errors
    /// When it is no flow that Heyday can run: all that is wrong with it, each with
    /// its line. Expressions are not compiled here; the line of one that does not
    /// compile is its [`expression_line`](Self::expression_line).
    pub fn parse(bytes: &[u8]) -> Result<Self, FlowError> {
        parse::flow(bytes)
    }

    /// `<document.namespace>.<document.name>`.
    #[must_use]
    pub fn workflow_type(&self) -> String {
        format!("{}.{}", self.document.namespace, self.document.name)
    }

    /// All expressions, without `${` and `}`; an [`Expr`] is an index into them.
    #[must_use]
    pub fn expressions(&self) -> &[String] {
        &self.expressions
    }

    /// The text of an expression.
    #[must_use]
    pub fn expression(&self, expression: Expr) -> &str {
        &self.expressions[expression.index()]
    }

    /// The line where an expression first stands, by its text.
    #[must_use]
    pub fn expression_line(&self, expression: &str) -> Option<u32> {
        let index = self
            .expressions
            .iter()
            .position(|text| text == expression)?;
        self.expression_lines.get(index).copied()
    }

    /// The names of all variables that an expression of this flow may use, without
    /// `$`: [`VARIABLES`], then those that its tasks declare, sorted. A variable that
    /// has no value where an expression stands is null there.
    #[must_use]
    pub fn variables(&self) -> &[String] {
        &self.variables
    }

    /// The activities that it calls, each name once; `call: http` and those of foreign
    /// workers are not among them.
    #[must_use]
    pub fn activities(&self) -> &[CallActivity] {
        &self.activities
    }

    /// Whether it calls `http`.
    #[must_use]
    pub const fn uses_http(&self) -> bool {
        self.uses_http
    }

    /// The flows that it runs; workflows of foreign workers are not among them.
    #[must_use]
    pub fn children(&self) -> &[RunWorkflow] {
        &self.children
    }

    /// The queries that it declares under `document.metadata.heyday.queries`, by name.
    #[must_use]
    pub const fn queries(&self) -> &BTreeMap<String, Template> {
        &self.queries
    }

    /// When it is started by itself.
    #[must_use]
    pub const fn schedule(&self) -> Option<&model::FlowSchedule> {
        self.schedule.as_ref()
    }

    /// The document as a value: `$workflow.definition`.
    #[must_use]
    pub const fn definition(&self) -> &Value {
        &self.definition
    }

    /// A task's definition as a value: `$task.definition`.
    #[must_use]
    pub fn task_definition(&self, task: &Task) -> &Value {
        self.definition
            .pointer(&task.reference)
            .unwrap_or(&Value::Null)
    }
}

/// The variables that the DSL itself defines, in the order in which they begin
/// [`Flow::variables`].
pub const VARIABLES: [&str; 8] = [
    "context",
    "input",
    "output",
    "task",
    "workflow",
    "runtime",
    "secrets",
    "authorization",
];
