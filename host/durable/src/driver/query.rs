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
use super::data::size_of;
use super::scene::{Scene, Variables};
use super::stop::Stop;

/// The query that every run answers: an object of `tasks` (those that run, as JSON
/// pointers, the outer ones first), `context`, `listening` (as
/// [`Listening`](super::Listening)), `signals` (those that nobody has taken, the oldest
/// first: `name`, `id`, `time`) and `signal_count`, how many of those there are in all. Of
/// each list it shows the first 512 KiB; the context is whole, and null where the arguments
/// are `{"context": false}`.
pub const STATE: &str = "__heyday_state";

/// The query by which Temporal's UI and command line show a run. Its answer is Temporal's
/// `WorkflowMetadata` as JSON: the queries, and the signals and updates that are taken now
/// (without a name where any is), and as `currentDetails` where the flow stands, as
/// Markdown.
pub const METADATA: &str = "__temporal_workflow_metadata";

/// Bytes of `currentDetails`; what is longer nobody reads.
const DETAILS: usize = 9_000;

/// Bytes that each list has in an answer to [`STATE`], which must stay inline.
const SHOWN: u64 = 512 * 1024;

/// Signals that wait outside of a run's driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// `name`, `id` and `time` of the oldest ones, as many as an answer shows.
    pub first: Vec<Value>,
    /// How many there are in all.
    pub count: usize,
}

impl Beside {
    /// Of the signals that wait, the oldest first, each as its `name`, `id` and `time`.
    #[must_use]
    pub fn of(signals: impl ExactSizeIterator<Item = Value>) -> Self {
        let count = signals.len();
        Self {
            first: first_of(signals),
            count,
        }
    }
}

/// The first of these, as many as an answer shows.
fn first_of(values: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let mut bytes: u64 = 0;
    let fits = values.into_iter().take_while(|value| {
        // With its comma. None of them nests too deep to be measured.
        let size = size_of(value).map_or(SHOWN + 1, |size| size + 1);
        bytes += size;
        bytes <= SHOWN
    });
    fits.collect()
}

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
        self.query_beside(name, arguments, &Beside::default())
    }

    /// The same of a run some of whose signals wait `outside` of its driver: they are shown
    /// behind those that wait in it.
    ///
    /// # Errors
    /// As [`Driver::query`].
    pub fn query_beside(
        &self,
        name: &str,
        arguments: &Value,
        outside: &Beside,
    ) -> Result<Value, QueryError> {
        if name == METADATA {
            return Ok(self.metadata(|_| None));
        }
        let mut state = self.state(outside);
        if name == STATE {
            return Ok(shortened(state, arguments));
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

    fn state(&self, outside: &Beside) -> Value {
        let context = self.run.as_ref().and_then(|run| run.context());
        let listening: Vec<Value> = self
            .listening()
            .into_iter()
            .map(|one| json!({ "task": one.task, "signals": one.signals, "updates": one.updates }))
            .collect();
        let mut signals = self.port.waiting();
        let count = signals.len() + outside.count;
        signals.extend_from_slice(&outside.first);
        json!({
            "tasks": self.port.running(),
            "context": context.map_or(Value::Null, |context| Value::clone(&context)),
            "listening": listening,
            "signals": signals,
            "signal_count": count,
        })
    }
}

/// A state as [`STATE`] answers it: a flow's own query may look at all that it lists.
fn shortened(mut state: Value, arguments: &Value) -> Value {
    for list in ["tasks", "listening", "signals"] {
        if let Value::Array(all) = state[list].take() {
            state[list] = first_of(all).into();
        }
    }
    if arguments["context"] == false {
        state["context"] = Value::Null;
    }
    state
}
