//! Queries of runs, open and ended.
//!
//! The cluster hands a query to a worker, after what came before it; the run's driver
//! answers, as it does on the embedded engine. Core rebuilds one that is not in memory, an
//! ended run's too. What goes wrong travels as a text that says which error it is, so that
//! whoever asks through our API is told the same on both engines.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::activation::on_thread;
use super::client::{answer, describe_status, execution, refusal_of, request as with_patience};
use super::convert::{argument, failure, first, payload, payloads};
use super::core::Core;
use super::run::{Run, Stage, command};
use super::sdk::{self, WorkflowService as _};
use crate::driver::{Beside, Driver, METADATA_QUERY, STATE_QUERY};
use crate::embedded::queries::{answer as answer_of, read_arguments};
use crate::engine::{EngineError, RunRef};
use crate::failure::Failure;
use crate::payload::{FOREIGN_LIMIT, Payload};
use crate::trouble::Trouble;

/// The kind of the failure of a query that has no answer.
const QUERY_FAILED: &str = "query-failed";

/// How long a description waits for what only the run itself knows.
const GLANCE: Duration = Duration::from_secs(1);

/// Asks a run.
pub async fn request(
    core: &Core,
    run: &RunRef,
    name: &str,
    arguments: Payload,
) -> Result<Payload, EngineError> {
    read_arguments(&arguments)?;
    let mut connection = core.connection()?;
    let message = sdk::QueryWorkflowRequest {
        namespace: core.namespace(&run.namespace),
        execution: Some(execution(run)),
        query: Some(sdk::WorkflowQuery {
            query_type: name.to_owned(),
            query_args: Some(payloads(arguments)),
            header: None,
        }),
        ..Default::default()
    };
    let call = connection.query_workflow(with_patience(core, message, Duration::ZERO));
    match answer(core, Duration::ZERO, call).await {
        Ok(answered) => Ok(first(answered.query_result)),
        Err(status) => Err(refused(core, run, &status)),
    }
}

/// Where an open run's flow stands, if it can be told at once.
pub async fn glance(core: &Core, run: &RunRef) -> Option<Value> {
    // A context may leave no room for anything else.
    let brief = Payload::json(&json!({ "context": false }));
    let asked = request(core, run, STATE_QUERY, brief);
    let answered = tokio::time::timeout(GLANCE, asked).await.ok()?;
    answered.ok()?.to_json().ok()
}

/// What a refused query means.
fn refused(core: &Core, run: &RunRef, status: &sdk::Status) -> EngineError {
    let said = || describe_status(status);
    match status.code() {
        sdk::Code::InvalidArgument => error_of(said()),
        // No worker is there, or none can go on with the run.
        sdk::Code::DeadlineExceeded | sdk::Code::FailedPrecondition | sdk::Code::Cancelled => {
            let message = format!(
                "no worker answers for workflow {:?} now ({}); ask again",
                run.workflow_id,
                said()
            );
            EngineError::unavailable(message, Some(Box::new(status.clone())))
        }
        _ => refusal_of(core, run, status),
    }
}

/// How the text begins of an error that a later try may not meet.
const NOT_NOW: &str = "not now: ";

/// How the text begins of an answer that is too large; its size follows.
const TOO_LARGE: &str = "the query's answer has ";

/// An error as it travels: core passes on nothing but a text.
fn text_of(error: EngineError) -> String {
    match error {
        EngineError::Unavailable { message, .. } => format!("{NOT_NOW}{message}"),
        error => error.to_string(),
    }
}

/// The error that travelled as a text.
fn error_of(text: String) -> EngineError {
    if let Some(message) = text.strip_prefix(NOT_NOW) {
        return EngineError::unavailable(message, None);
    }
    let size = text
        .strip_prefix(TOO_LARGE)
        .and_then(|rest| rest.split_once(' ')?.0.parse().ok());
    match size {
        Some(size) => EngineError::TooLarge {
            what: "the query's answer",
            size,
            limit: FOREIGN_LIMIT as u64,
        },
        None => EngineError::QueryFailed(text),
    }
}

/// Lets a run answer what was asked.
pub async fn answers(core: &Core, run: &mut Run) -> Result<Vec<sdk::WorkflowCommand>, Trouble> {
    let asked = std::mem::take(&mut run.queries);
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let progress = progress(core, run);
    let outside = run.outside.shown();
    let (stage, answers) = match std::mem::replace(&mut run.stage, Stage::Over) {
        Stage::Running(driver) => {
            let (driver, answers) = ask(core, driver, asked, progress, outside).await?;
            (Stage::Running(driver), answers)
        }
        Stage::Ended(driver) => {
            let (driver, answers) = ask(core, driver, asked, progress, outside).await?;
            (Stage::Ended(driver), answers)
        }
        stage => {
            let why = if matches!(stage, Stage::Over | Stage::Failing(_)) {
                "the run failed before its flow began".to_owned()
            } else {
                format!("{NOT_NOW}the run has not begun yet; ask again")
            };
            let answers = asked.into_iter().map(|query| (query, Err(why.clone())));
            (stage, answers.collect())
        }
    };
    run.stage = stage;
    Ok(answers.into_iter().map(responded).collect())
}

type Answer = (sdk::QueryWorkflow, Result<Payload, String>);

/// Asks a driver, on a thread for that.
async fn ask(
    core: &Core,
    driver: Box<Driver>,
    asked: Vec<sdk::QueryWorkflow>,
    progress: BTreeMap<String, String>,
    outside: Beside,
) -> Result<(Box<Driver>, Vec<Answer>), Trouble> {
    on_thread(&core.pool, move || {
        let answer = |mut query: sdk::QueryWorkflow| {
            let given = argument(std::mem::take(&mut query.arguments));
            let answered = given.map_err(|failure| failure.message).and_then(|given| {
                if query.query_type == METADATA_QUERY {
                    let metadata = driver.metadata(|task| progress.get(task).cloned());
                    return Ok(Payload::json(&metadata));
                }
                let arguments = read_arguments(&given).map_err(text_of)?;
                answer_of(&driver, &query.query_type, &arguments, &outside).map_err(text_of)
            });
            (query, answered)
        };
        let answers = asked.into_iter().map(answer).collect();
        (driver, answers)
    })
    .await
}

/// How far the run's tasks are whose attempts run in this process or told it, by task.
fn progress(core: &Core, run: &Run) -> BTreeMap<String, String> {
    let progress = core.progress_of(run.run_id());
    let known = run.activities.iter().filter_map(|(seq, task)| {
        let progress = progress.get(&seq.to_string())?;
        let of = match progress.total {
            0 => String::new(),
            total => format!(" of {total}"),
        };
        let text = format!("{}{of} {}", progress.completed, progress.message);
        Some((task.clone(), text))
    });
    known.collect()
}

fn responded((query, answer): Answer) -> sdk::WorkflowCommand {
    let variant = match answer {
        Ok(answer) => sdk::query_result::Variant::Succeeded(sdk::QuerySuccess {
            response: Some(payload(answer)),
        }),
        Err(why) => {
            let why = Failure::permanent(QUERY_FAILED, why);
            sdk::query_result::Variant::Failed(failure(why, None))
        }
    };
    let result = sdk::QueryResult {
        query_id: query.query_id,
        variant: Some(variant),
    };
    command(sdk::CommandVariant::RespondToQuery(result), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_comes_back_as_it_went() {
        let size = FOREIGN_LIMIT as u64 + 1;
        let large = EngineError::TooLarge {
            what: "the query's answer",
            size,
            limit: FOREIGN_LIMIT as u64,
        };
        assert!(matches!(
            error_of(text_of(large)),
            EngineError::TooLarge { size: found, .. } if found == size
        ));
        let away = EngineError::unavailable("the evaluator is away", None);
        assert!(matches!(
            error_of(text_of(away)),
            EngineError::Unavailable { message, .. } if message == "the evaluator is away"
        ));
        for said in ["there is no query", "the query's answer has a fault"] {
            let failed = EngineError::QueryFailed(said.to_owned());
            assert!(matches!(
                error_of(text_of(failed)),
                EngineError::QueryFailed(message) if message == said
            ));
        }
    }
}
