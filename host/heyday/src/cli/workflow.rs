//! `heyday workflow`: start runs, watch them, end them.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::client::Request;
use super::error::CliError;
use super::follow::{self, What};
use super::runs::{self, Run};
use super::table::{Table, fields};
use super::{Context, input, view};

/// Commands on runs.
#[derive(Debug, Subcommand)]
pub enum WorkflowCommand {
    /// Start a run of a flow
    #[command(
        after_help = "Examples:\n  heyday workflow start docs.process --input '{\"key\":\"a.pdf\"}' --wait\n  \
        heyday workflow start docs.process --input @input.json --id doc-7 --wait=5m\n  \
        ID=$(heyday workflow start docs.process -i @input.json)"
    )]
    Start(StartArgs),
    /// List runs, newest first
    #[command(after_help = "Examples:\n  heyday workflow list\n  \
        heyday workflow list --query \"WorkflowType = 'docs.process' AND ExecutionStatus = 'Failed'\"\n  \
        heyday workflow list --all -o json")]
    List(ListArgs),
    /// Show a run: where it stands and what it waits for
    #[command(
        after_help = "Examples:\n  heyday workflow show doc-7\n  heyday workflow show doc-7 --run-id 0198f0c4-..."
    )]
    Show(RunArgs),
    /// Show how a run ended
    #[command(
        after_help = "Examples:\n  heyday workflow result doc-7\n  heyday workflow result doc-7 --wait\n  \
        heyday workflow result doc-7 --wait=30s -o json"
    )]
    Result(ResultArgs),
    /// Show a run's history, event by event
    #[command(
        after_help = "Examples:\n  heyday workflow history doc-7\n  heyday workflow history doc-7 --after 100 -o json"
    )]
    History(HistoryArgs),
    /// Show a run's events on one line each; with --follow, live, with progress
    #[command(
        after_help = "Examples:\n  heyday workflow events doc-7\n  heyday workflow events doc-7 --follow"
    )]
    Events(FollowArgs),
    /// Show what the plugins logged in a run
    #[command(
        after_help = "Examples:\n  heyday workflow logs doc-7\n  heyday workflow logs doc-7 --follow"
    )]
    Logs(FollowArgs),
    /// Show what each attempt of a run used: time, memory, host calls
    #[command(
        after_help = "Examples:\n  heyday workflow receipts doc-7\n  heyday workflow receipts doc-7 -o json"
    )]
    Receipts(RunArgs),
    /// Ask a run to cancel; it may clean up first
    #[command(after_help = "Example:\n  heyday workflow cancel doc-7 --reason 'wrong file'")]
    Cancel(EndArgs),
    /// End a run at once, without asking it
    #[command(after_help = "Example:\n  heyday workflow terminate doc-7 --reason 'stuck'")]
    Terminate(EndArgs),
}

/// Arguments of `workflow start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// The flow's name, `<document.namespace>.<document.name>`
    #[arg(value_name = "FLOW")]
    pub workflow_type: String,
    /// The input: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON|@FILE|-")]
    pub input: Option<String>,
    /// The workflow id [default: a new one]
    #[arg(long, value_name = "ID", value_parser = workflow_id)]
    pub id: Option<String>,
    /// The flow's version [default: the active one]
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
    /// Wait for the result, at most so long (30s, 5m); without a time, to the end
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = input::duration)]
    pub wait: Option<Option<Duration>>,
    /// The same key again starts nothing twice, for 24 hours [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// When the id was used before
    #[arg(long, value_enum, value_name = "POLICY")]
    pub id_reuse_policy: Option<IdReusePolicy>,
    /// When a run of that id is open
    #[arg(long, value_enum, value_name = "POLICY")]
    pub id_conflict_policy: Option<IdConflictPolicy>,
    /// A value shown with the run; may be given more than once
    #[arg(long, value_name = "NAME=JSON", value_parser = memo)]
    pub memo: Vec<(String, Value)>,
}

/// What to do when a workflow id was used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IdReusePolicy {
    /// Start, if no run of that id is open
    AllowDuplicate,
    /// Start, if the last run of that id did not complete
    AllowDuplicateFailedOnly,
    /// Refuse
    RejectDuplicate,
}

/// What to do when a run of a workflow id is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IdConflictPolicy {
    /// Refuse
    Fail,
    /// Answer the open run
    UseExisting,
    /// Terminate the open run and start
    TerminateExisting,
}

impl IdReusePolicy {
    /// As the API writes it.
    const fn api(self) -> &'static str {
        match self {
            Self::AllowDuplicate => "allow_duplicate",
            Self::AllowDuplicateFailedOnly => "allow_duplicate_failed_only",
            Self::RejectDuplicate => "reject_duplicate",
        }
    }
}

impl IdConflictPolicy {
    /// As the API writes it.
    const fn api(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::UseExisting => "use_existing",
            Self::TerminateExisting => "terminate_existing",
        }
    }
}

fn workflow_id(text: &str) -> Result<String, String> {
    match text {
        "" => Err("an id has at least one character".to_owned()),
        "." | ".." => Err("an id that is `.` or `..` has no address".to_owned()),
        _ if text.len() > 1000 => Err(format!(
            "an id has at most 1,000 bytes, this one {}",
            text.len()
        )),
        _ => Ok(text.to_owned()),
    }
}

fn memo(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not NAME=JSON"))?;
    if name.is_empty() {
        return Err(format!("{text:?} has no name"));
    }
    // A word that is no JSON is meant as text.
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

/// Names a run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The workflow id
    #[arg(value_name = "ID", value_parser = workflow_id)]
    pub id: String,
    /// One run of that id [default: its latest]
    #[arg(long, value_name = "RUN-ID")]
    pub run_id: Option<uuid::Uuid>,
}

impl RunArgs {
    fn run(&self) -> Run {
        Run {
            workflow_id: self.id.clone(),
            run_id: self.run_id.map(|id| id.to_string()),
        }
    }
}

/// Arguments of `workflow list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// A filter, as Temporal's: WorkflowType = 'x' AND ExecutionStatus = 'Running'
    #[arg(long, short, value_name = "FILTER")]
    pub query: Option<String>,
    /// So many at once
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub limit: u16,
    /// Go on where a list ended
    #[arg(long, value_name = "TOKEN")]
    pub page_token: Option<String>,
    /// All of them; as JSON, one page a line
    #[arg(long, conflicts_with = "page_token")]
    pub all: bool,
}

/// Arguments of `workflow result`.
#[derive(Debug, Args)]
pub struct ResultArgs {
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Wait for the end, at most so long (30s, 5m); without a time, to the end
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = input::duration)]
    pub wait: Option<Option<Duration>>,
}

/// Arguments of `workflow history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Only events after this one
    #[arg(long, value_name = "EVENT-ID", default_value_t = 0)]
    pub after: u64,
    /// At most so many [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

/// Arguments of `workflow events` and `workflow logs`.
#[derive(Debug, Args)]
pub struct FollowArgs {
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Go on until the run ends
    #[arg(long, short)]
    pub follow: bool,
}

/// Arguments of `workflow cancel` and `workflow terminate`.
#[derive(Debug, Args)]
pub struct EndArgs {
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Why, for its history
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

/// Runs a command on runs.
pub async fn run(command: WorkflowCommand, context: &Context) -> Result<(), CliError> {
    match command {
        WorkflowCommand::Start(args) => start(args, context).await,
        WorkflowCommand::List(args) => list(args, context).await,
        WorkflowCommand::Show(args) => show(&args.run(), context).await,
        WorkflowCommand::Result(args) => result(args, context).await,
        WorkflowCommand::History(args) => {
            history(
                &args.run.run(),
                args.after,
                args.limit,
                View::Whole,
                context,
            )
            .await
        }
        WorkflowCommand::Events(args) => events(args, context).await,
        WorkflowCommand::Logs(args) => logs(args, context).await,
        WorkflowCommand::Receipts(args) => receipts(&args.run(), context).await,
        WorkflowCommand::Cancel(args) => end(&args, "cancel", context).await,
        WorkflowCommand::Terminate(args) => end(&args, "terminate", context).await,
    }
}

async fn start(args: StartArgs, context: &Context) -> Result<(), CliError> {
    let input = args.input.as_deref().map(input::json).transpose()?;
    let mut body = json!({ "workflow_type": args.workflow_type });
    for (member, value) in [
        ("version", args.version.map(Value::String)),
        ("workflow_id", args.id.map(Value::String)),
        ("input", input),
        (
            "id_reuse_policy",
            args.id_reuse_policy.map(|policy| policy.api().into()),
        ),
        (
            "id_conflict_policy",
            args.id_conflict_policy.map(|policy| policy.api().into()),
        ),
        (
            "memo",
            Some(
                args.memo
                    .into_iter()
                    .collect::<serde_json::Map<_, _>>()
                    .into(),
            ),
        ),
    ] {
        if let Some(value) = value {
            body[member] = value;
        }
    }
    let request = Request::post(&["workflows"])
        .json(body)
        .idempotent(args.idempotency_key.as_deref());
    let answer = context.client.send(&request).await?;
    let started = answer.json()?;
    let run = Run::of(&started).ok_or_else(|| CliError::BadAnswer {
        server: context.client.server().to_owned(),
        cause: "it names no run".to_owned(),
    })?;
    let output = &context.output;
    let Some(limit) = args.wait else {
        if output.is_json() {
            return output.raw_json(&answer.body);
        }
        // The id alone on stdout, so that a script can keep it.
        output.note(&format!(
            "{} {} of {} (run {})",
            output.err_style.good("✓"),
            if started.get("created") == Some(&Value::Bool(false)) {
                "Found the run"
            } else {
                "Started a run"
            },
            args.workflow_type,
            run.run_id.as_deref().unwrap_or_default()
        ));
        output.line(&run.workflow_id)?;
        output.hint(&format!(
            "heyday workflow result {} --wait",
            view::shell_word(&run.workflow_id)
        ));
        return Ok(());
    };
    let end = runs::wait_for_end(context, &run, limit).await?;
    runs::show_end(context, &run, &end)
}

async fn list(args: ListArgs, context: &Context) -> Result<(), CliError> {
    let output = &context.output;
    let now = Timestamp::now();
    let mut table = Table::new(&[
        "WORKFLOW ID",
        "TYPE",
        "VERSION",
        "STATUS",
        "STARTED",
        "LASTED",
    ]);
    let mut token = args.page_token;
    loop {
        let request = Request::get(&["workflows"])
            .query("page_size", args.limit.to_string())
            .query_if("query", args.query.as_deref())
            .query_if("page_token", token.take());
        let answer = context.client.send(&request).await?;
        let page = answer.json()?;
        if output.is_json() {
            output.raw_json(&answer.body)?;
        }
        for run in view::rows_any(&page, &["workflows", "runs"]) {
            let held = if view::text(run, "held").is_empty() {
                ""
            } else {
                " (held)"
            };
            table.row([
                view::text(run, "workflow_id"),
                view::text(run, "workflow_type"),
                view::text(run, "version"),
                format!("{}{held}", view::text(run, "status")),
                view::ago(run, "started_at", now),
                view::lasted(run, "started_at", "closed_at", now),
            ]);
        }
        token = view::next_page(&page);
        if !args.all || token.is_none() {
            break;
        }
    }
    if output.is_json() {
        return Ok(());
    }
    if table.is_empty() {
        output.note("There are no such runs.");
    } else {
        output.line(&table.render(output.style))?;
    }
    if let Some(token) = token {
        output.hint(&format!(
            "more with --all, or from here with --page-token {}",
            view::shell_word(&token)
        ));
    }
    Ok(())
}

async fn show(run: &Run, context: &Context) -> Result<(), CliError> {
    let answer = context
        .client
        .send(&Request::get(&run.segments(&[])))
        .await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    context
        .output
        .line(&runs::describe(context, &answer.json()?))
}

async fn result(args: ResultArgs, context: &Context) -> Result<(), CliError> {
    let run = args.run.run();
    if let Some(limit) = args.wait {
        let end = runs::wait_for_end(context, &run, limit).await?;
        return runs::show_end(context, &run, &end);
    }
    let request = Request::get(&run.segments(&["result"])).wait(Duration::ZERO);
    let answer = context.client.send(&request).await?;
    if runs::has_ended(&answer)? {
        return runs::show_end(context, &run, &answer);
    }
    if context.output.is_json() && !answer.body.is_empty() {
        context.output.raw_json(&answer.body)?;
    }
    Err(CliError::TimedOut {
        message: format!("the run {} has not ended yet", run.workflow_id),
        help: format!("wait for it with `{}`", run.result_command()),
    })
}

/// How a history is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// With all attributes.
    Whole,
    /// One line an event.
    Lines,
}

async fn history(
    run: &Run,
    after: u64,
    limit: Option<u64>,
    how: View,
    context: &Context,
) -> Result<(), CliError> {
    const PAGE: u64 = 500;
    let output = &context.output;
    let mut after = after;
    let mut left = limit.unwrap_or(u64::MAX);
    loop {
        let size = left.min(PAGE);
        let request = Request::get(&run.segments(&["history"]))
            .query("after", after.to_string())
            .query("limit", size.to_string());
        let answer = context.client.send(&request).await?;
        let page = answer.json()?;
        let events = view::rows(&page, "events");
        if output.is_json() {
            output.raw_json(&answer.body)?;
        } else {
            for event in events {
                output.line(&follow::event_line(context, event))?;
                let attributes = event.get("attributes").and_then(Value::as_object);
                for (name, value) in attributes
                    .into_iter()
                    .flatten()
                    .filter(|_| how == View::Whole)
                {
                    let text = view::pretty(value).replace('\n', "\n          ");
                    output.line(&format!(
                        "        {} {text}",
                        output.style.dim(&format!("{name}:"))
                    ))?;
                }
            }
        }
        let last = events
            .last()
            .and_then(|event| view::number(event, "event_id"));
        left = left.saturating_sub(events.len() as u64);
        match last {
            // A page that does not move on would be asked for ever.
            Some(last) if last > after && left > 0 && events.len() as u64 >= size => after = last,
            _ => return Ok(()),
        }
    }
}

async fn events(args: FollowArgs, context: &Context) -> Result<(), CliError> {
    let run = args.run.run();
    if !args.follow {
        return history(&run, 0, None, View::Lines, context).await;
    }
    follow::follow(context, &run, What::Events, |event| {
        show_data(context, &event.data, follow::event_line)
    })
    .await
}

async fn logs(args: FollowArgs, context: &Context) -> Result<(), CliError> {
    let run = args.run.run();
    if args.follow {
        return follow::follow(context, &run, What::Logs, |event| {
            show_data(context, &event.data, follow::log_line)
        })
        .await;
    }
    let output = &context.output;
    let mut token = None;
    loop {
        let request = Request::get(&run.segments(&["logs"])).query_if("page_token", token.take());
        let answer = context.client.send(&request).await?;
        let page = answer.json()?;
        if output.is_json() {
            output.raw_json(&answer.body)?;
        } else {
            for line in view::rows_any(&page, &["logs", "lines"]) {
                output.line(&follow::log_line(context, line))?;
            }
        }
        token = view::next_page(&page);
        if token.is_none() {
            return Ok(());
        }
    }
}

/// Shows one event's data: JSON as it came, or through `line`.
fn show_data(
    context: &Context,
    data: &str,
    line: fn(&Context, &Value) -> String,
) -> Result<(), CliError> {
    if context.output.is_json() {
        return context.output.raw_json(data.as_bytes());
    }
    match serde_json::from_str::<Value>(data) {
        Ok(value) if value.is_object() => context.output.line(&line(context, &value)),
        // A keep-alive or something newer than this client.
        _ => Ok(()),
    }
}

async fn receipts(run: &Run, context: &Context) -> Result<(), CliError> {
    let answer = context
        .client
        .send(&Request::get(&run.segments(&["receipts"])))
        .await?;
    let output = &context.output;
    if output.is_json() {
        return output.raw_json(&answer.body);
    }
    let value = answer.json()?;
    let mut table = Table::new(&[
        "ACTIVITY",
        "ID",
        ">ATTEMPT",
        ">QUEUED",
        ">WALL",
        ">CPU",
        ">MEMORY",
        ">HOST CALLS",
        ">OUTPUT",
    ]);
    for row in view::rows(&value, "receipts") {
        let counters = row
            .get("counters")
            .or_else(|| row.get("receipt"))
            .unwrap_or(row);
        let time = |name: &str| {
            view::number(counters, name)
                .map(|us| view::duration(Duration::from_micros(us)))
                .unwrap_or_default()
        };
        let size = |name: &str| {
            view::number(counters, name)
                .map(view::bytes)
                .unwrap_or_default()
        };
        let lost = view::number(counters, "lost").is_some_and(|lost| lost > 0);
        table.row([
            view::text(row, "activity_type"),
            view::text(row, "activity_id"),
            view::text(row, "attempt"),
            time("queue_us"),
            if lost {
                "lost".to_owned()
            } else {
                time("wall_us")
            },
            time("cpu_us"),
            size("peak_memory_bytes"),
            view::text(counters, "host_calls"),
            size("output_bytes"),
        ]);
    }
    if table.is_empty() {
        output.note("No attempt has ended yet.");
        return Ok(());
    }
    output.line(&table.render(output.style))
}

async fn end(args: &EndArgs, how: &'static str, context: &Context) -> Result<(), CliError> {
    let run = args.run.run();
    let request = Request::post(&run.segments(&[how]))
        .json(json!({ "reason": args.reason }))
        .idempotent(None);
    let answer = context.client.send(&request).await?;
    let output = &context.output;
    if output.is_json() {
        return if answer.body.is_empty() {
            Ok(())
        } else {
            output.raw_json(&answer.body)
        };
    }
    let done = if how == "cancel" {
        "was asked to cancel"
    } else {
        "is terminated"
    };
    output.line(&fields(
        output.style,
        &[(
            "run",
            format!("{} {done}", super::output::one_line(&run.workflow_id)),
        )],
    ))?;
    if how == "cancel" {
        output.hint(&run.result_command());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn parse(words: &[&str]) -> Result<WorkflowCommand, clap::Error> {
        let words = ["heyday", "workflow"]
            .into_iter()
            .chain(words.iter().copied());
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Workflow(command) => command,
            other => panic!("{other:?}"),
        })
    }

    fn start_args(words: &[&str]) -> StartArgs {
        match parse(words).expect("parsed") {
            WorkflowCommand::Start(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn waits_may_have_a_limit() {
        assert_eq!(start_args(&["start", "a.b"]).wait, None);
        assert_eq!(start_args(&["start", "--wait", "a.b"]).wait, Some(None));
        assert_eq!(
            start_args(&["start", "a.b", "--wait=90s"]).wait,
            Some(Some(Duration::from_secs(90)))
        );
        assert!(parse(&["start", "a.b", "--wait=soon"]).is_err());
    }

    #[test]
    fn starts_carry_what_was_said() {
        let args = start_args(&[
            "start",
            "a.b",
            "--id-reuse-policy",
            "reject-duplicate",
            "--id-conflict-policy",
            "use-existing",
            "--memo",
            "n=7",
            "--memo",
            "who=Ada",
        ]);
        assert_eq!(
            args.id_reuse_policy.map(IdReusePolicy::api),
            Some("reject_duplicate")
        );
        assert_eq!(
            args.id_conflict_policy.map(IdConflictPolicy::api),
            Some("use_existing")
        );
        assert_eq!(
            args.memo,
            [("n".to_owned(), json!(7)), ("who".to_owned(), json!("Ada"))]
        );
    }

    #[test]
    fn policies_are_named_as_the_engine_names_them() {
        use heyday_durable::engine;
        for policy in IdReusePolicy::value_variants() {
            serde_json::from_value::<engine::IdReusePolicy>(policy.api().into())
                .expect("known to the engine");
        }
        for policy in IdConflictPolicy::value_variants() {
            serde_json::from_value::<engine::IdConflictPolicy>(policy.api().into())
                .expect("known to the engine");
        }
    }

    #[test]
    fn ids_that_cannot_be_are_refused() {
        let long = "x".repeat(1001);
        for id in ["", ".", "..", &long] {
            assert!(parse(&["show", id]).is_err(), "{id:?}");
        }
        assert!(parse(&["show", "größe/7 %"]).is_ok());
        assert!(parse(&["show", "a", "--run-id", "7"]).is_err());
        assert!(parse(&["list", "--limit", "0"]).is_err());
        assert!(parse(&["list", "--limit", "1001"]).is_err());
    }
}
