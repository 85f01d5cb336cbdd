//! `heyday workflow`: start runs, watch them, end them.

mod args;
mod replay;
mod send;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

pub use self::args::{
    CountArgs, EndArgs, ExportArgs, FollowArgs, HistoryArgs, IdConflictPolicy, IdReusePolicy,
    ListArgs, QueryArgs, ReplayArgs, ResultArgs, RunArgs, SignalArgs, StartArgs, UpdateArgs,
};
use super::client::Request;
use super::error::CliError;
use super::follow::{self, What};
use super::runs::{self, Run};
use super::table::Table;
use super::{Context, input, view};

/// Commands on runs.
#[derive(Debug, Subcommand)]
pub enum WorkflowCommand {
    /// Start a run of a flow
    #[command(
        after_help = "Examples:\n  heyday workflow start docs.process --input '{\"key\":\"a.pdf\"}' --wait\n  \
        heyday workflow start docs.process --input @input.json --id doc-7 --wait=5m\n  \
        heyday workflow start docs.process --task-queue storage-queue\n  \
        ID=$(heyday workflow start docs.process -i @input.json)"
    )]
    Start(StartArgs),
    /// List runs, newest first
    #[command(after_help = "Examples:\n  heyday workflow list\n  \
        heyday workflow list --query \"WorkflowType = 'docs.process' AND ExecutionStatus = 'Failed'\"\n  \
        heyday workflow list --all -o json")]
    List(ListArgs),
    /// Count runs
    #[command(after_help = "Examples:\n  heyday workflow count\n  \
        heyday workflow count --query \"ExecutionStatus = 'Running'\"")]
    Count(CountArgs),
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
    /// Write a run's history as a file that `replay` reads
    #[command(
        after_help = "Examples:\n  heyday workflow export doc-7 > history.json\n  heyday workflow export doc-7 --to history.json"
    )]
    Export(ExportArgs),
    /// Check that a definition still does what a history says was done
    #[command(after_help = "Examples:\n  heyday workflow replay history.json\n  \
        heyday workflow replay history.json --flow process.yaml\n  \
        heyday workflow replay history.json --definition docs.process:1.3.0\n  \
        temporal workflow show -w doc-7 --output json | heyday workflow replay - -o json\n\n\
        The file is one that `export` wrote, or Temporal's JSON. Nothing runs. The exit code is 0 \
        where they agree and 8 where they differ.")]
    Replay(ReplayArgs),
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
    /// Send a signal to a run; a task that listens for it takes it
    #[command(
        after_help = "Examples:\n  heyday workflow signal doc-7 approve --input '{\"by\":\"Ada\"}'\n  \
        heyday workflow signal doc-7 reading --input @reading.json --attribute source=urn:sensor:4 --id r-81"
    )]
    Signal(SignalArgs),
    /// Offer a run an update: a task takes it and answers, or it is rejected
    #[command(
        after_help = "Examples:\n  heyday workflow update doc-7 approve --input '{\"by\":\"Ada\"}'\n  \
        heyday workflow update doc-7 add --input @item.json --id item-81 --wait=0s"
    )]
    Update(UpdateArgs),
    /// Ask a run where it stands, or what its flow answers; nothing changes
    #[command(
        after_help = "Examples:\n  heyday workflow query doc-7\n  heyday workflow query doc-7 progress --arguments '{\"unit\":\"pages\"}'"
    )]
    Query(QueryArgs),
    /// Ask a run to cancel; it may clean up first
    #[command(after_help = "Example:\n  heyday workflow cancel doc-7 --reason 'wrong file'")]
    Cancel(EndArgs),
    /// End a run at once, without asking it
    #[command(after_help = "Example:\n  heyday workflow terminate doc-7 --reason 'stuck'")]
    Terminate(EndArgs),
}

/// Runs a command on runs.
pub async fn run(command: WorkflowCommand, context: &Context) -> Result<(), CliError> {
    match command {
        WorkflowCommand::Start(args) => start(args, context).await,
        WorkflowCommand::List(args) => list(args, context).await,
        WorkflowCommand::Count(args) => count(args, context).await,
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
        WorkflowCommand::Export(args) => replay::export(args, context).await,
        WorkflowCommand::Replay(args) => replay::replay(args, context).await,
        WorkflowCommand::Events(args) => events(args, context).await,
        WorkflowCommand::Logs(args) => logs(args, context).await,
        WorkflowCommand::Receipts(args) => receipts(&args.run(), context).await,
        WorkflowCommand::Signal(args) => send::signal(args, context).await,
        WorkflowCommand::Update(args) => send::update(args, context).await,
        WorkflowCommand::Query(args) => send::query(args, context).await,
        WorkflowCommand::Cancel(args) => end(&args, "cancel", context).await,
        WorkflowCommand::Terminate(args) => end(&args, "terminate", context).await,
    }
}

/// The body of a start.
#[derive(Serialize)]
struct StartBody<'a> {
    workflow_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_reuse_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_conflict_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    memo: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    search_attributes: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<send::SignalBody>,
}

async fn start(args: StartArgs, context: &Context) -> Result<(), CliError> {
    let input = args.input.as_deref().map(input::json).transpose()?;
    let signal = args
        .signal
        .map(|name| {
            let data = args.signal_input.as_deref().map(input::json).transpose()?;
            Ok::<_, CliError>(send::SignalBody {
                name,
                id: None,
                data,
                attributes: BTreeMap::new(),
            })
        })
        .transpose()?;
    let body = StartBody {
        workflow_type: &args.workflow_type,
        version: args.version,
        workflow_id: args.id,
        task_queue: args.task_queue,
        input,
        id_reuse_policy: args.id_reuse_policy.map(IdReusePolicy::api),
        id_conflict_policy: args.id_conflict_policy.map(IdConflictPolicy::api),
        memo: args.memo.into_iter().collect(),
        search_attributes: args.search_attribute.into_iter().collect(),
        signal,
    };
    let request = Request::post(&["workflows"])
        .json(&body)
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
        output.name(&run.workflow_id)?;
        output.hint(&format!(
            "heyday workflow result {} --wait",
            view::shell_word(&run.workflow_id)
        ));
        return Ok(());
    };
    let end = runs::wait_for_end(context, &run, limit).await?;
    runs::show_end(context, &run, &end)
}

async fn count(args: CountArgs, context: &Context) -> Result<(), CliError> {
    let request = Request::get(&["workflow-count"]).query_if("query", args.query.as_deref());
    let answer = context.client.send(&request).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    context.output.line(&view::text(&answer.json()?, "count"))
}

async fn list(args: ListArgs, context: &Context) -> Result<(), CliError> {
    let now = Timestamp::now();
    let table = Table::new(&[
        "WORKFLOW ID",
        "TYPE",
        "VERSION",
        "STATUS",
        "STARTED",
        "LASTED",
    ]);
    let list = Request::get(&["workflows"])
        .query("page_size", args.limit.to_string())
        .query_if("query", args.query.as_deref());
    let nothing = "There are no such runs.".into();
    let rows = |page: &Value, table: &mut Table| {
        for run in view::rows_any(page, &["workflows", "runs"]) {
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
    };
    view::pages(
        context,
        &list,
        args.page_token,
        args.all,
        table,
        nothing,
        rows,
    )
    .await
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
    let output = &context.output;
    let list = Request::get(&run.segments(&["receipts"]));
    let Some(receipts) = view::all_rows(context, list, "receipts").await? else {
        return Ok(());
    };
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
    for row in &receipts {
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
        .json(&json!({ "reason": args.reason }))
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
    let id = super::output::one_line(&run.workflow_id);
    output.line(&format!("{} the run {id} {done}", output.style.good("✓")))?;
    if how == "cancel" {
        output.hint(&run.result_command());
    }
    Ok(())
}
