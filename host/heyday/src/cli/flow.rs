//! `heyday flow`: workflow definitions in the CNCF Serverless Workflow DSL.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use heyday_durable::flow::{Flow, FlowError};
use serde_json::{Value, json};

use super::client::Request;
use super::error::{CliError, Problem};
use super::options::GlobalOptions;
use super::output::Output;
use super::versions::{self, Kind, NameAndVersion};
use super::{Context, gate, input, view};

/// Commands on flows.
#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// Upload a flow (YAML or JSON); it is checked first, and active at once
    #[command(
        after_help = "Examples:\n  heyday flow push process.yaml\n  heyday flow push process.yaml --no-activate\n  \
        heyday flow push process.yaml --dev          edit and push again without a new version number\n  \
        heyday flow push process.yaml --refuse-diverging\n  \
        generate-flow | heyday flow push -"
    )]
    Push(PushArgs),
    /// Check a flow without storing it
    #[command(
        after_help = "Examples:\n  heyday flow validate process.yaml\n  heyday flow validate process.yaml --offline"
    )]
    Validate(ValidateArgs),
    /// List the flows
    #[command(after_help = "Examples:\n  heyday flow list\n  heyday flow list -o json")]
    List,
    /// Show a flow and its versions, or one version
    #[command(
        after_help = "Examples:\n  heyday flow show docs.process\n  heyday flow show docs.process 1.2.0"
    )]
    Show(ShowArgs),
    /// Make a version the active one: new runs use it
    #[command(
        after_help = "Examples:\n  heyday flow activate docs.process 1.2.0\n  \
        heyday flow activate docs.process 1.2.0 --refuse-diverging"
    )]
    Activate(ActivateArgs),
    /// Make the version before the active one active again
    #[command(after_help = "Example:\n  heyday flow rollback docs.process")]
    Rollback(RollbackArgs),
    /// Replay open runs against a version: which of them would have gone another way
    #[command(after_help = "Examples:\n  heyday flow replay docs.process 1.3.0\n  \
        heyday flow replay docs.process 1.3.0 -o json\n\n\
        Nothing changes: runs keep their version. The exit code is 8 where one diverges.")]
    Replay(NameAndVersion),
    /// Remove a version that no open run needs
    #[command(after_help = "Example:\n  heyday flow remove docs.process 1.1.0")]
    Remove(NameAndVersion),
}

/// Arguments of `flow push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// The flow's file; - is stdin
    pub file: PathBuf,
    /// Store it as VERSION-dev.DIGEST, so that the same version number may be pushed again
    #[arg(long)]
    pub dev: bool,
    /// Store it without making it the active version
    #[arg(long)]
    pub no_activate: bool,
    /// Store nothing if open runs of the active version diverge from it
    #[arg(long, conflicts_with = "no_activate")]
    pub refuse_diverging: bool,
}

/// Arguments of `flow activate`.
#[derive(Debug, Args)]
pub struct ActivateArgs {
    /// Which.
    #[command(flatten)]
    pub of: NameAndVersion,
    /// Change nothing if open runs of the active version diverge from it
    #[arg(long)]
    pub refuse_diverging: bool,
}

/// Arguments of `flow rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The flow's name, `<document.namespace>.<document.name>`
    pub name: String,
    /// Change nothing if open runs of the active version diverge from the one before
    #[arg(long)]
    pub refuse_diverging: bool,
}

/// Arguments of `flow validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The flow's file; - is stdin
    pub file: PathBuf,
    /// Without a server: neither its expressions nor what it calls are checked then
    #[arg(long)]
    pub offline: bool,
}

/// Arguments of `flow show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The flow's name, `<document.namespace>.<document.name>`
    pub name: String,
    /// A version; without one, the flow with all its versions
    pub version: Option<String>,
}

/// Runs a command on flows.
pub async fn run(command: FlowCommand, global: &GlobalOptions) -> Result<(), CliError> {
    let command = match command {
        FlowCommand::Validate(args) if args.offline => {
            return validate_here(&args.file, &global.output());
        }
        command => command,
    };
    let context = &global.context()?;
    match command {
        FlowCommand::Push(args) => push(args, context).await,
        FlowCommand::Validate(args) => validate(&args.file, context).await,
        FlowCommand::List => versions::list(context, Kind::Flow).await,
        FlowCommand::Show(args) => {
            versions::show(context, Kind::Flow, &args.name, args.version.as_deref()).await
        }
        FlowCommand::Activate(args) => {
            let gate = on_divergence(args.refuse_diverging);
            let of = &args.of;
            versions::activate(context, Kind::Flow, &of.name, &of.version, false, gate).await
        }
        FlowCommand::Rollback(args) => {
            let gate = on_divergence(args.refuse_diverging);
            versions::rollback(context, Kind::Flow, &args.name, gate).await
        }
        FlowCommand::Replay(of) => gate::replay(&of, context).await,
        FlowCommand::Remove(of) => {
            versions::remove(context, Kind::Flow, &of.name, &of.version).await
        }
    }
}

/// What the API is told to do where open runs diverge.
const fn on_divergence(refuse: bool) -> Option<&'static str> {
    Some(if refuse { "refuse" } else { "inform" })
}

/// The media type of a flow's text. YAML contains JSON, but a server that knows says
/// better what is wrong.
fn content_type(text: &[u8]) -> &'static str {
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'{') {
        "application/json"
    } else {
        "application/yaml"
    }
}

async fn push(args: PushArgs, context: &Context) -> Result<(), CliError> {
    let text = input::bytes(&args.file)?;
    let request = Request::post(&["flows"])
        .query("activate", (!args.no_activate).to_string())
        .query("dev", args.dev.to_string())
        .query_if("on_divergence", on_divergence(args.refuse_diverging))
        .bytes(content_type(&text), Bytes::from(text), None)
        .idempotent(None);
    let answer = context.client.send(&request).await?;
    let output = &context.output;
    if output.is_json() {
        return output.raw_json(&answer.body);
    }
    let flow = answer.json()?;
    let name = view::text(&flow, "name");
    let version = view::text(&flow, "version");
    let active = flow
        .get("active")
        .and_then(Value::as_bool)
        .unwrap_or(!args.no_activate);
    let state = if active {
        "is active"
    } else {
        "is stored, not active"
    };
    output.line(&format!(
        "{} flow {name} {version} {state}",
        output.style.good("✓")
    ))?;
    for warning in view::rows_of(&flow, "warnings") {
        output.warn(&view::pretty(warning));
    }
    gate::show(&flow, output);
    if active {
        output.hint(&format!(
            "heyday workflow start {} --input '{{}}' --wait",
            view::shell_word(&name)
        ));
    } else {
        output.hint(&format!(
            "heyday flow activate {} {version}",
            view::shell_word(&name)
        ));
    }
    Ok(())
}

async fn validate(file: &Path, context: &Context) -> Result<(), CliError> {
    let text = input::bytes(file)?;
    let request = Request::post(&["flows"])
        .query("dry_run", "true")
        .bytes(content_type(&text), Bytes::from(text), None)
        .idempotent(None);
    let answer = context.client.send(&request).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    let flow = answer.json()?;
    for warning in view::rows_of(&flow, "warnings") {
        context.output.warn(&view::pretty(warning));
    }
    valid(
        file,
        &view::text(&flow, "name"),
        &view::text(&flow, "version"),
        &context.output,
    )
}

/// Reads a flow as the server would.
fn validate_here(file: &Path, output: &Output) -> Result<(), CliError> {
    let text = input::bytes(file)?;
    let flow = Flow::parse(&text).map_err(|error| invalid(file, &error))?;
    let name = flow.workflow_type();
    let version = flow.document.version.to_string();
    if output.is_json() {
        let activities: Vec<&str> = flow
            .activities()
            .iter()
            .map(|call| call.name.as_str())
            .collect();
        return output.line(
            &json!({ "name": name, "version": version, "activities": activities }).to_string(),
        );
    }
    valid(file, &name, &version, output)
}

fn valid(file: &Path, name: &str, version: &str, output: &Output) -> Result<(), CliError> {
    output.line(&format!(
        "{} {} is a valid flow: {name} {version}",
        output.style.good("✓"),
        file.display()
    ))?;
    output.hint(&format!(
        "heyday flow push {}",
        view::shell_word(&file.display().to_string())
    ));
    Ok(())
}

/// The problem document that the server would answer.
fn invalid(file: &Path, error: &FlowError) -> CliError {
    let errors: Vec<Value> = error
        .errors
        .iter()
        .map(|problem| json!({ "line": problem.line, "pointer": problem.pointer, "message": problem.message }))
        .collect();
    CliError::Problem(Box::new(Problem {
        status: 422,
        document: json!({
            "type": "urn:heyday:problems:invalid-flow",
            "title": "The flow cannot run",
            "status": 422,
            "detail": file.display().to_string(),
            "errors": errors,
        }),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_yaml_are_told_apart() {
        assert_eq!(content_type(b"\n  {\"document\": {}}"), "application/json");
        assert_eq!(
            content_type(b"document:\n  dsl: '1.0.0'"),
            "application/yaml"
        );
        assert_eq!(content_type(b""), "application/yaml");
    }

    #[test]
    fn a_flow_is_checked_without_a_server() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("flow.yaml");
        let output = Output::new(crate::cli::output::Format::Json, true);
        std::fs::write(
            &file,
            "document:\n  dsl: '1.0.0'\ndo:\n  - a:\n      sing: true\n",
        )
        .expect("written");
        let error = validate_here(&file, &output).expect_err("no flow");
        assert_eq!(error.code(), 2);
        let text = error.render(crate::cli::output::Style::plain());
        assert!(text.contains("line "), "{text}");
        std::fs::write(
            &file,
            "document: {dsl: '1.0.0', namespace: a, name: b, version: '1.0.0'}\ndo:\n  - s: {set: {x: 1}}\n",
        )
        .expect("written");
        validate_here(&file, &output).expect("a flow");
    }
}
