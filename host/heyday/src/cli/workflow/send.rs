//! `heyday workflow signal`, `update` and `query`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::args::{QueryArgs, SignalArgs, UpdateArgs};
use crate::cli::client::Request;
use crate::cli::error::CliError;
use crate::cli::runs::Run;
use crate::cli::{Context, input, output, view};

/// One long-poll waits so long.
const SLICE: Duration = Duration::from_secs(20);

/// A signal as the API takes it.
#[derive(Debug, Serialize)]
pub struct SignalBody {
    /// Its name.
    pub name: String,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// Further attributes of its event.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, Value>,
}

impl SignalArgs {
    /// The run, and what it is sent.
    fn read(self) -> Result<(Run, SignalBody), CliError> {
        let body = SignalBody {
            id: self.signal_id,
            data: self.input.as_deref().map(input::json).transpose()?,
            attributes: self.attribute.into_iter().collect(),
            name: self.name,
        };
        Ok((self.run.run(), body))
    }
}

/// Sends a signal.
pub async fn signal(args: SignalArgs, context: &Context) -> Result<(), CliError> {
    let (run, body) = args.read()?;
    // Without an id of its own, the key is the signal's id: sent twice, it comes once.
    let request = Request::post(&run.segments(&["signals"]))
        .json(&body)
        .idempotent(None);
    let answer = context.client.send(&request).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    context.output.line(&format!(
        "{} the run {} has the signal {}",
        context.output.style.good("✓"),
        output::one_line(&run.workflow_id),
        output::one_line(&body.name)
    ))
}

/// Offers an update, and waits for its end.
pub async fn update(args: UpdateArgs, context: &Context) -> Result<(), CliError> {
    let limit = args.wait;
    let (run, body) = args.event.read()?;
    let begun = Instant::now();
    let slice = |limit: Option<Duration>| {
        let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
        (left.unwrap_or(SLICE).min(SLICE), left)
    };
    let (wait, _) = slice(limit);
    let request = Request::post(&run.segments(&["updates"]))
        .json(&body)
        .idempotent(body.id.as_deref())
        .wait(wait);
    let mut answer = context.client.send(&request).await?;
    let mut told = answer.json()?;
    // The run that took it: another one may begin under the same id.
    let run = Run::of(&told).unwrap_or(run);
    let id = view::text(&told, "id");
    while view::text(&told, "stage") == "accepted" {
        let (wait, left) = slice(limit);
        if left.is_some_and(|left| left.is_zero()) {
            break;
        }
        let request = Request::get(&run.segments(&["updates", &id])).wait(wait);
        answer = context.client.send(&request).await?;
        told = answer.json()?;
    }
    let output = &context.output;
    if output.is_json() {
        output.raw_json(&answer.body)?;
    }
    match view::text(&told, "stage").as_str() {
        "completed" if output.is_json() => Ok(()),
        "completed" => output.line(&view::pretty(told.get("result").unwrap_or(&Value::Null))),
        "accepted" if limit.is_some_and(|limit| limit.is_zero()) => {
            output.note(&format!(
                "{} the run {} has the update {id}",
                output.err_style.good("✓"),
                output::one_line(&run.workflow_id),
            ));
            Ok(())
        }
        "accepted" => Err(CliError::TimedOut {
            message: format!(
                "the update {id} has not ended within {}; it goes on",
                view::duration(limit.unwrap_or_default())
            ),
            help: format!(
                "wait for it with `{} --id {}`",
                run.command(&format!("update {}", view::shell_word(&body.name))),
                view::shell_word(&id)
            ),
        }),
        _ => Err(CliError::RunFailed(format!(
            "the update {id} failed\n{}",
            told.get("failure").map(view::failure).unwrap_or_default()
        ))),
    }
}

/// The body of a query.
#[derive(Serialize)]
struct QueryBody {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Box<RawValue>>,
}

/// Asks a run.
pub async fn query(args: QueryArgs, context: &Context) -> Result<(), CliError> {
    let run = args.run.run();
    let body = QueryBody {
        name: args.name,
        arguments: args.arguments.as_deref().map(input::json).transpose()?,
    };
    // It changes nothing, so it may be sent again.
    let request = Request::post(&run.segments(&["queries"]))
        .json(&body)
        .idempotent(None);
    let answer = context.client.send(&request).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    let result = answer.json()?;
    let result = result.get("result").unwrap_or(&Value::Null);
    context.output.line(&view::pretty(result))
}
