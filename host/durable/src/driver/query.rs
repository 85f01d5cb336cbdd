//! Queries: what can be asked of a run without changing it.
//!
//! [`STATE`] is answered by every run: where its flow stands. A flow may declare queries
//! of its own under `document.metadata.heyday.queries`: each is a value whose expressions
//! are evaluated on that state, which has the query's `arguments` as well. An ended run
//! answers with what it held at its end.

use serde_json::{Value, json};

use super::Driver;
use super::scene::{Scene, Variables};
use super::stop::Stop;

/// The query that every run answers: an object of `tasks` (those that run, as JSON
/// pointers, the outer ones first), `context`, `listening` (as
/// [`Listening`](super::Listening)) and `signals` (those that nobody has taken: `name`,
/// `id`).
pub const STATE: &str = "__heyday_state";

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
        let mut state = self.state();
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
            })
    }

    /// The tasks that run, as JSON pointers, the outer ones first.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        self.port.running()
    }

    fn state(&self) -> Value {
        let context = self.run.as_ref().and_then(|run| run.context());
        let listening: Vec<Value> = self
            .listening()
            .into_iter()
            .map(|one| json!({ "task": one.task, "signals": one.signals, "updates": one.updates }))
            .collect();
        json!({
            "tasks": self.running(),
            "context": context.map_or(Value::Null, |context| Value::clone(&context)),
            "listening": listening,
            "signals": self.port.waiting(),
        })
    }
}
