//! Histories as files: written, and replayed against definitions.

use std::io::Write as _;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::args::{ExportArgs, ReplayArgs};
use crate::cli::client::Request;
use crate::cli::error::CliError;
use crate::cli::output::printable;
use crate::cli::{Context, input, view};

/// Writes a run's history.
pub(super) async fn export(args: ExportArgs, context: &Context) -> Result<(), CliError> {
    let run = args.run.run();
    let mut request = Request::get(&run.segments(&["export"]));
    if args.without_values {
        request = request.query("values", "false");
    }
    let answer = context.client.send(&request).await?;
    let Some(path) = args.to else {
        return context.output.raw_json(&answer.body);
    };
    let written = std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(&answer.body).and_then(|()| file.flush()));
    written.map_err(|error| {
        anyhow::Error::new(error).context(format!("{} cannot be written", path.display()))
    })?;
    let output = &context.output;
    output.note(&format!(
        "{} The history of {} is in {}",
        output.err_style.good("✓"),
        run.workflow_id,
        path.display()
    ));
    output.hint(&format!(
        "heyday workflow replay {}",
        view::shell_word(&path.display().to_string())
    ));
    Ok(())
}

#[derive(Serialize)]
struct ReplayBody<'a> {
    history: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    flow: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exact: Option<bool>,
}

/// Replays a history. The exit code says whether it agrees.
pub(super) async fn replay(args: ReplayArgs, context: &Context) -> Result<(), CliError> {
    let text = input::bytes(&args.file)?;
    let history: &RawValue = serde_json::from_slice(&text).map_err(|error| {
        CliError::usage_help(
            format!("{} is not JSON: {error}", args.file.display()),
            "give a file that `heyday workflow export` wrote, or Temporal's JSON export",
        )
    })?;
    let flow = args.flow.as_deref().map(input::bytes).transpose()?;
    let flow = flow
        .map(String::from_utf8)
        .transpose()
        .map_err(|_| CliError::usage("the flow is no text in UTF-8"))?;
    let (workflow_type, version) = match args.definition.as_deref() {
        None => (None, None),
        Some(definition) => match definition.split_once(':') {
            Some((name, version)) => (Some(name), Some(version)),
            None => (Some(definition), None),
        },
    };
    let body = ReplayBody {
        history,
        flow,
        workflow_type,
        version,
        exact: args.exact.then_some(true),
    };
    // Nothing changes by it, so it may be sent again.
    let request = Request::post(&["replays"]).json(&body).idempotent(None);
    let answer = context.client.send(&request).await?;
    let output = &context.output;
    if output.is_json() {
        output.raw_json(&answer.body)?;
    }
    let replayed = answer.json()?;
    let about = replayed.get("history").unwrap_or(&Value::Null);
    let definition = replayed.get("definition").unwrap_or(&Value::Null);
    let named = format!(
        "{} {}",
        view::text(definition, "workflow_type"),
        view::text(definition, "version")
    );
    if replayed.get("agrees") == Some(&Value::Bool(true)) {
        if output.is_json() {
            return Ok(());
        }
        return output.line(&format!(
            "{} the history of {} ({} events) agrees with {named}",
            output.style.good("✓"),
            printable(&view::text(about, "workflow_id")),
            view::text(about, "events"),
        ));
    }
    let difference = replayed.get("difference").unwrap_or(&Value::Null);
    Err(CliError::Diverges {
        message: format!(
            "the history of {} does not agree with {named}\n{}",
            view::text(about, "workflow_id"),
            view::text(difference, "message")
        ),
    })
}
