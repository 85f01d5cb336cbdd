//! Queries of runs, open and ended.
//!
//! An open run is asked through its inbox, after what came before; it answers when that
//! is committed. An ended run is rebuilt from its history, on an activation thread.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::activation;
use super::continuing;
use super::convert::Beginning;
use super::core::Core;
use super::replay::replayed;
use super::run::{Asked, Message};
use super::step::Step;
use crate::driver::{Beside, Driver, QueryError};
use crate::engine::{EngineError, RunRef};
use crate::payload::{FOREIGN_LIMIT, Payload};
use crate::trouble::Trouble;

/// Asks a run.
pub async fn request(
    core: &Arc<Core>,
    run: &RunRef,
    name: &str,
    arguments: Payload,
) -> Result<Payload, EngineError> {
    let arguments = read_arguments(&arguments)?;
    let (answer, answered) = oneshot::channel();
    let asked = Asked {
        name: name.to_owned(),
        arguments: arguments.clone(),
        answer,
    };
    let (run_id, sent) = continuing::send(core, run, Message::Query(asked)).await?;
    if sent.is_ok()
        && let Ok(answer) = answered.await
    {
        return answer;
    }
    if core.is_draining() {
        return Err(EngineError::ShuttingDown);
    }
    let Some((beginning, state)) = core.fold(run_id).await? else {
        return Err(EngineError::Internal(format!(
            "run {run_id} has no first event"
        )));
    };
    if state.is_open() {
        // Its transition could not be committed.
        return Err(not_now());
    }
    let (answer, answered) = oneshot::channel();
    let job_core = Arc::clone(core);
    let name = name.to_owned();
    core.pool.push(Box::new(move || {
        let result = ask_ended(&job_core, run_id, &beginning, &name, &arguments);
        // Somebody who no longer waits needs no answer.
        let _ = answer.send(result);
    }));
    answered.await.map_err(|_| EngineError::ShuttingDown)?
}

fn ask_ended(
    core: &Arc<Core>,
    run_id: Uuid,
    beginning: &Beginning,
    name: &str,
    arguments: &Value,
) -> Result<Payload, EngineError> {
    let driver = replayed(core, run_id, beginning).map_err(Trouble::of_ended)?;
    answer(&driver, name, arguments, &Beside::default())
}

fn not_now() -> EngineError {
    EngineError::unavailable("the run cannot answer just now; ask again", None)
}

/// What a query is asked with; it must stay inline.
pub fn read_arguments(arguments: &Payload) -> Result<Value, EngineError> {
    if arguments.data.len() > FOREIGN_LIMIT {
        return Err(EngineError::TooLarge {
            what: "the query's arguments",
            size: arguments.data.len() as u64,
            limit: FOREIGN_LIMIT as u64,
        });
    }
    arguments
        .to_json()
        .map_err(|error| EngineError::Invalid(error.to_string()))
}

/// What a driver answers beside which signals wait `outside`; it must stay inline. Blocking.
pub fn answer(
    driver: &Driver,
    name: &str,
    arguments: &Value,
    outside: &Beside,
) -> Result<Payload, EngineError> {
    let answered = driver.query_beside(name, arguments, outside);
    let value = answered.map_err(|error| match error {
        QueryError::Unavailable(message) => EngineError::unavailable(message, None),
        error => EngineError::QueryFailed(error.to_string()),
    })?;
    let payload = Payload::json(&value);
    if payload.data.len() > FOREIGN_LIMIT {
        return Err(EngineError::TooLarge {
            what: "the query's answer",
            size: payload.data.len() as u64,
            limit: FOREIGN_LIMIT as u64,
        });
    }
    Ok(payload)
}

impl Step<'_> {
    /// Answers what was asked, when the transition is committed.
    pub fn answer_queries(&mut self) {
        for asked in std::mem::take(&mut self.queries) {
            let Asked {
                name,
                arguments,
                answer: to,
            } = asked;
            // Nothing waits outside here: who sends too many is refused.
            let none = Beside::default();
            let result = activation::with_driver(self, |driver| {
                Ok(answer(driver, &name, &arguments, &none))
            })
            .and_then(|answer| answer);
            self.effects.replies.push((to, result));
        }
    }
}
