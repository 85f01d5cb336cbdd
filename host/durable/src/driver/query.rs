//! Queries: what can be asked of a run without changing it.
//!
//! [`STATE`] is answered by every run: where its flow stands. A flow may declare queries
//! of its own under `document.metadata.heyday.queries`: each is a value whose expressions
//! are evaluated on that state, which has the query's `arguments` as well. An ended run
//! answers with what it held at its end. [`METADATA`] is what Temporal's tools ask of every
//! workflow; the answer is made of the same state.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Driver;
use super::scene::{Scene, Variables};
use super::stop::Stop;

/// The query that every run answers: an object of `tasks` (those that run, as JSON
/// pointers, the outer ones first), `context`, `listening` (as
/// [`Listening`](super::Listening)) and `signals` (those that nobody has taken: `name`,
/// `id`, `time`).
pub const STATE: &str = "__heyday_state";

/// The query by which Temporal's UI and command line show a run. Its answer is Temporal's
/// `WorkflowMetadata` as JSON: the queries, and the signals and updates that are taken now
/// (without a name where any is), and as `currentDetails` where the flow stands, as
/// Markdown.
pub const METADATA: &str = "__temporal_workflow_metadata";

/// Bytes of `currentDetails`; what is longer nobody reads.
const DETAILS: usize = 9_000;

/// Why a query has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The flow declares no such query.
    #[error("there is no query {name:?}; there are {known}")]
    Unknown {
        /// As it was asked.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// An expression failed.
    #[error("{0}")]
    Failed(String),
    /// The evaluator could not run; ask again later.
    #[error("the expression evaluator is unavailable: {0}")]
    Unavailable(String),
}

impl Driver {
    /// Answers a query. Blocking (it may evaluate expressions).
    ///
    /// # Errors
    /// As [`QueryError`] says; the driver is as before.
    pub fn query(&self, name: &str, arguments: &Value) -> Result<Value, QueryError> {
        self.query_beside(name, arguments, &[])
    }

    /// The same of a run some of whose signals wait outside of its driver: `outside` are
    /// their `name`, `id` and `time`, and are shown behind those that wait in it.
    ///
    /// # Errors
    /// As [`Driver::query`].
    pub fn query_beside(
        &self,
        name: &str,
        arguments: &Value,
        outside: &[Value],
    ) -> Result<Value, QueryError> {
        if name == METADATA {
            return Ok(self.metadata(|_| None));
        }
        let mut state = self.state(outside);
        if name == STATE {
            return Ok(state);
        }
        let queries = self.run.iter().flat_map(|run| run.flow.queries());
        let Some((_, template)) = queries.clone().find(|(query, _)| *query == name) else {
            let known: Vec<&str> = std::iter::once(STATE)
                .chain(queries.map(|(query, _)| query.as_str()))
                .collect();
            return Err(QueryError::Unknown {
                name: name.chars().take(200).collect(),
                known: known.join(", "),
            });
        };
        let Some(run) = &self.run else {
            // Without a run there is no declared query either.
            return Err(QueryError::Failed("the run could not begin".to_owned()));
        };
        state["arguments"] = arguments.clone();
        let context = run.context();
        let variables = Variables::default();
        let scene = Scene {
            reference: "/document/metadata/heyday/queries",
            running: None,
            variables: &variables,
            context: context.as_ref(),
        };
        run.evaluator
            .render(template, &state, &scene)
            .map_err(|stop| match stop {
                Stop::Unavailable(message) => QueryError::Unavailable(message),
                Stop::Fault(fault) => QueryError::Failed(
                    fault
                        .detail
                        .unwrap_or_else(|| "an expression failed".to_owned()),
                ),
                Stop::Fatal(failure) => QueryError::Failed(failure.message),
                // No task is asked.
                Stop::Continue(_) => QueryError::Failed("the run ends".to_owned()),
            })
    }

    /// The answer to [`METADATA`], with how far each task is, of which `progress` knows.
    #[must_use]
    pub fn metadata(&self, progress: impl Fn(&str) -> Option<String>) -> Value {
        let listening = self.listening();
        let names = |updates: bool| {
            let taking = listening.iter().filter(|one| one.updates || !updates);
            let names: BTreeSet<&String> = taking.flat_map(|one| &one.signals).collect();
            let named = names.into_iter().map(|name| match name.as_str() {
                "*" => json!({}),
                name => json!({ "name": name }),
            });
            named.collect::<Vec<Value>>()
        };
        let run = self.run.as_ref();
        let declared = run.into_iter().flat_map(|run| run.flow.queries());
        let queries: Vec<Value> =
            std::iter::once(json!({ "name": STATE, "description": "where the flow stands" }))
                .chain(declared.map(|(name, _)| json!({ "name": name })))
                .collect();
        let mut details = String::new();
        for task in self.port.running() {
            let waits = listening.iter().find(|one| one.task == task).map(|one| {
                let what = if one.updates {
                    "signals and updates"
                } else {
                    "signals"
                };
                format!("waits for {what}: {}", one.signals.join(", "))
            });
            let line = match waits.or_else(|| progress(&task)) {
                Some(more) => format!("- `{task}`: {more}\n"),
                None => format!("- `{task}`\n"),
            };
            if details.len() + line.len() < DETAILS {
                details.push_str(&line);
            }
        }
        json!({
            "definition": {
                "type": run.map(|run| &run.start.definition.workflow_type),
                "queryDefinitions": queries,
                "signalDefinitions": names(false),
                "updateDefinitions": names(true),
            },
            "currentDetails": details,
        })
    }

    fn state(&self, outside: &[Value]) -> Value {
        let context = self.run.as_ref().and_then(|run| run.context());
        let listening: Vec<Value> = self
            .listening()
            .into_iter()
            .map(|one| json!({ "task": one.task, "signals": one.signals, "updates": one.updates }))
            .collect();
        let mut signals = self.port.waiting();
        signals.extend_from_slice(outside);
        json!({
            "tasks": self.port.running(),
            "context": context.map_or(Value::Null, |context| Value::clone(&context)),
            "listening": listening,
            "signals": signals,
        })
    }
}
