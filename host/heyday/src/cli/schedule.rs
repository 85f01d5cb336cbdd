//! `heyday schedule`: start flows by themselves, at times.

mod args;

use clap::Subcommand;
use serde_json::value::RawValue;
use serde_json::{Value, json};

pub use self::args::{
    BackfillArgs, CreateArgs, ListArgs, NameArgs, NoteArgs, TriggerArgs, UpdateArgs,
};
use super::client::{Answer, Request};
use super::error::CliError;
use super::table::{Table, fields};
use super::{Context, output, view};

/// Commands on schedules.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Make a schedule
    #[command(
        after_help = "Examples:\n  heyday schedule create nightly --flow docs.process --cron '0 3 * * mon-fri' --time-zone Europe/Berlin\n  \
        heyday schedule create sync --flow docs.sync --every 15m --jitter 30s --overlap buffer-one --input @input.json\n  \
        heyday schedule create files --flow docs.process --every 1h --task-queue storage-queue\n  \
        heyday schedule create once --flow docs.report --cron '0 9 1 1 * 2027' --remaining-actions 1"
    )]
    Create(CreateArgs),
    /// List schedules with their next times
    #[command(
        after_help = "Examples:\n  heyday schedule list\n  heyday schedule list --all -o json"
    )]
    List(ListArgs),
    /// Show a schedule: what it is, did and will do
    #[command(
        after_help = "Examples:\n  heyday schedule show nightly\n  heyday schedule show nightly -o json"
    )]
    Show(NameArgs),
    /// Change a schedule; what is not said stays
    #[command(
        after_help = "Examples:\n  heyday schedule update nightly --cron '0 4 * * *'\n  \
        heyday schedule update sync --overlap skip --pause-on-failure"
    )]
    Update(UpdateArgs),
    /// Delete a schedule; what it started goes on
    #[command(after_help = "Example:\n  heyday schedule delete nightly")]
    Delete(NameArgs),
    /// Let a schedule's times pass by
    #[command(after_help = "Example:\n  heyday schedule pause nightly --note 'holidays'")]
    Pause(NoteArgs),
    /// Let a schedule go on
    #[command(after_help = "Example:\n  heyday schedule unpause nightly")]
    Unpause(NoteArgs),
    /// Start a schedule's run now, also where it is paused
    #[command(
        after_help = "Examples:\n  heyday schedule trigger nightly\n  heyday schedule trigger nightly --overlap allow-all"
    )]
    Trigger(TriggerArgs),
    /// Take times that have passed as if they came now
    #[command(
        after_help = "Example:\n  heyday schedule backfill nightly --from 2026-11-01T00:00:00Z --to 2026-11-07T00:00:00Z --overlap buffer-all"
    )]
    Backfill(BackfillArgs),
}

/// Runs a command on schedules.
pub async fn run(command: ScheduleCommand, context: &Context) -> Result<(), CliError> {
    match command {
        ScheduleCommand::Create(args) => create(args, context).await,
        ScheduleCommand::List(args) => list(args, context).await,
        ScheduleCommand::Show(args) => show(&args.id, context).await,
        ScheduleCommand::Update(args) => update(args, context).await,
        ScheduleCommand::Delete(args) => {
            let request = Request::delete(&["schedules", &args.id]);
            done(context, &request, &args.id, "is deleted").await
        }
        ScheduleCommand::Pause(args) => {
            let request = Request::post(&["schedules", &args.id, "pause"])
                .json(&json!({ "note": args.note }));
            done(context, &request, &args.id, "is paused").await
        }
        ScheduleCommand::Unpause(args) => {
            let request = Request::post(&["schedules", &args.id, "unpause"])
                .json(&json!({ "note": args.note }));
            done(context, &request, &args.id, "goes on").await
        }
        ScheduleCommand::Trigger(args) => {
            let request = Request::post(&["schedules", &args.id, "trigger"])
                .json(&json!({ "overlap": args.overlap.map(args::Overlap::api) }))
                .idempotent(None);
            done(context, &request, &args.id, "is triggered").await
        }
        ScheduleCommand::Backfill(args) => {
            let body = json!({
                "start_time": args.from.to_string(),
                "end_time": args.to.to_string(),
                "overlap": args.overlap.map(args::Overlap::api),
            });
            let request = Request::post(&["schedules", &args.id, "backfill"])
                .json(&body)
                .idempotent(None);
            done(context, &request, &args.id, "is backfilled").await
        }
    }
}

async fn done(context: &Context, request: &Request, id: &str, what: &str) -> Result<(), CliError> {
    let answer = context.client.send(request).await?;
    told(
        context,
        &answer,
        &format!("{} {what}", output::one_line(id)),
    )
}

fn told(context: &Context, answer: &Answer, message: &str) -> Result<(), CliError> {
    let output = &context.output;
    if !output.is_json() {
        return output.line(&format!("{} {message}", output.style.good("✓")));
    }
    if answer.body.is_empty() {
        Ok(())
    } else {
        output.raw_json(&answer.body)
    }
}

async fn create(args: CreateArgs, context: &Context) -> Result<(), CliError> {
    let mut body = json!({
        "schedule_id": args.id,
        "spec": {},
        "action": {"workflow_type": args.flow},
        "trigger_immediately": args.trigger,
    });
    let input = args.set.apply(&mut body)?;
    let request = Request::post(&["schedules"])
        .json(&with_input(&body, input.as_deref()))
        .idempotent(None);
    let answer = context.client.send(&request).await?;
    if context.output.is_json() {
        return context.output.raw_json(&answer.body);
    }
    let id = output::one_line(&args.id);
    context
        .output
        .line(&format!("{} {id} is made", context.output.style.good("✓")))?;
    let word = view::shell_word(&args.id);
    context
        .output
        .hint(&format!("heyday schedule show {word} shows its next times"));
    Ok(())
}

async fn update(args: UpdateArgs, context: &Context) -> Result<(), CliError> {
    let path = ["schedules", &args.id];
    let answer = context.client.send(&Request::get(&path)).await?;
    // As it was written: an input's digits stay.
    let known: Known =
        serde_json::from_slice(&answer.body).map_err(|error| CliError::BadAnswer {
            server: context.client.server().to_owned(),
            cause: error.to_string(),
        })?;
    let mut body = json!({
        "spec": known.spec,
        "action": {
            "workflow_type": args.flow.unwrap_or(known.action.workflow_type),
            "version": known.action.version,
            "workflow_id": known.action.workflow_id,
            "task_queue": known.action.task_queue,
        },
        "policies": known.policies,
        "state": known.state,
    });
    let input = args.set.apply(&mut body)?;
    let input = input.or(known.action.input);
    let request = Request::put(&path).json(&with_input(&body, input.as_deref()));
    done(context, &request, &args.id, "is changed").await
}

/// What is kept of a schedule where it is changed.
#[derive(serde::Deserialize)]
struct Known {
    spec: Value,
    action: KnownAction,
    policies: Value,
    state: Value,
}

#[derive(serde::Deserialize)]
struct KnownAction {
    workflow_type: String,
    version: Option<String>,
    workflow_id: Option<String>,
    task_queue: Option<String>,
    input: Option<Box<RawValue>>,
}

/// The body with the action's input as it was written.
#[derive(serde::Serialize)]
struct WithInput<'a> {
    #[serde(flatten)]
    body: serde_json::Map<String, Value>,
    action: Action<'a>,
}

#[derive(serde::Serialize)]
struct Action<'a> {
    #[serde(flatten)]
    action: Value,
    input: Option<&'a RawValue>,
}

fn with_input<'a>(body: &Value, input: Option<&'a RawValue>) -> WithInput<'a> {
    let mut body = body.as_object().cloned().unwrap_or_default();
    let action = body.remove("action").unwrap_or_default();
    WithInput {
        body,
        action: Action { action, input },
    }
}

async fn list(args: ListArgs, context: &Context) -> Result<(), CliError> {
    let list = Request::get(&["schedules"]).query("page_size", args.limit.to_string());
    let table = Table::new(&["SCHEDULE", "STARTS", "WHEN", "STATE", "NEXT"]);
    let nothing = view::Nothing {
        note: "There are no schedules.",
        hint: Some("heyday schedule create ID --flow FLOW --cron '0 3 * * *'"),
    };
    let rows = |page: &Value, table: &mut Table| {
        for row in view::rows(page, "schedules") {
            table.row([
                view::text(row, "schedule_id"),
                view::text(row, "workflow_type"),
                when(&row["spec"]),
                state(row["paused"] == true).to_owned(),
                first_time(row).to_owned(),
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

/// The next time of a row.
fn first_time(row: &Value) -> &str {
    let times = view::rows(row, "future_action_times");
    times.first().and_then(Value::as_str).unwrap_or_default()
}

const fn state(paused: bool) -> &'static str {
    if paused { "paused" } else { "active" }
}

/// A spec on one line.
fn when(spec: &Value) -> String {
    let mut parts: Vec<String> = view::rows(spec, "cron")
        .iter()
        .filter_map(|cron| cron.as_str().map(str::to_owned))
        .collect();
    for interval in view::rows(spec, "intervals") {
        parts.push(format!("every {}", view::text(interval, "every")));
    }
    let calendars = view::rows(spec, "calendars").len();
    if calendars > 0 {
        parts.push(format!("{calendars} calendars"));
    }
    parts.join("; ")
}

async fn show(id: &str, context: &Context) -> Result<(), CliError> {
    let answer = context
        .client
        .send(&Request::get(&["schedules", id]))
        .await?;
    let output = &context.output;
    if output.is_json() {
        return output.raw_json(&answer.body);
    }
    let seen = answer.json()?;
    let (info, going) = (&seen["info"], &seen["state"]);
    let mut note = state(going["paused"] == true).to_owned();
    let why = view::text(going, "note");
    if !why.is_empty() {
        note = format!("{note} ({why})");
    }
    if going["limited_actions"] == true {
        let left = view::number(going, "remaining_actions").unwrap_or_default();
        note = format!("{note}, {left} actions left");
    }
    let count = |member: &str| view::number(info, member).unwrap_or_default();
    let times = view::rows(info, "future_action_times").iter();
    let times: Vec<&str> = times.filter_map(Value::as_str).take(5).collect();
    let zone = view::text(&seen["spec"], "time_zone");
    let pairs = [
        ("Schedule", view::text(&seen, "schedule_id")),
        ("Starts", view::text(&seen["action"], "workflow_type")),
        ("When", when(&seen["spec"])),
        (
            "Time zone",
            if zone.is_empty() {
                "UTC".to_owned()
            } else {
                zone
            },
        ),
        ("Overlap", view::text(&seen["policies"], "overlap")),
        ("State", note),
        ("Started", format!("{} runs", count("action_count"))),
        (
            "Left out",
            format!(
                "{} skipped, {} missed, {} dropped",
                count("overlap_skipped"),
                count("missed_catchup_window"),
                count("buffer_dropped")
            ),
        ),
        ("Waiting", format!("{} starts", count("buffer_size"))),
        ("Next", times.join("\n")),
    ];
    output.line(&fields(output.style, &pairs))?;
    let recent = view::rows(info, "recent_actions");
    if recent.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["TIME", "WORKFLOW ID", "RUN", "STATUS"]);
    for action in recent {
        table.row([
            view::text(action, "schedule_time"),
            view::text(action, "workflow_id"),
            view::text(action, "run_id"),
            view::text(action, "status"),
        ]);
    }
    output.line(&format!("\n{}", table.render(output.style)))
}
