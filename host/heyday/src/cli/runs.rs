//! Runs: how one is named, waited for, and how its end is shown. Used by `workflow` and
//! by `activity run`.
//!
//! [`wait_for_end`] asks for the result by long-poll, slice by slice, so that a server
//! that restarts meanwhile is only a pause; on a terminal a second loop asks every
//! second what the run waits for and writes it beside the spinner.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::StatusCode;
use serde_json::Value;

use super::client::{Answer, Request};
use super::error::CliError;
use super::progress::Step;
use super::{Context, view};

/// One long-poll waits so long.
const SLICE: Duration = Duration::from_secs(20);
/// How often the spinner learns what a run waits for.
const GLANCE: Duration = Duration::from_secs(1);
/// So many signals that no task has taken are named.
const UNREAD: usize = 20;

/// Names a run for the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The workflow id.
    pub workflow_id: String,
    /// The execution; the latest where absent.
    pub run_id: Option<String>,
}

impl Run {
    /// The path of the run, or of what is below it.
    pub fn segments<'a>(&'a self, below: &[&'a str]) -> Vec<&'a str> {
        let mut segments = vec!["workflows", self.workflow_id.as_str()];
        if let Some(run_id) = &self.run_id {
            segments.extend(["runs", run_id.as_str()]);
        }
        segments.extend(below);
        segments
    }

    /// The run that an answer of the API tells of.
    pub fn of(answer: &Value) -> Option<Self> {
        Some(Self {
            workflow_id: Some(view::text(answer, "workflow_id")).filter(|id| !id.is_empty())?,
            run_id: Some(view::text(answer, "run_id")).filter(|id| !id.is_empty()),
        })
    }

    /// The command that goes on waiting for it, ready to be pasted.
    pub fn result_command(&self) -> String {
        self.command("result --wait")
    }

    /// A command of `heyday workflow` on it, ready to be pasted.
    pub fn command(&self, command: &str) -> String {
        let (name, options) = command
            .split_once(' ')
            .map_or((command, ""), |(name, rest)| (name, rest));
        let mut text = format!(
            "heyday workflow {name} {}",
            view::shell_word(&self.workflow_id)
        );
        if let Some(run_id) = &self.run_id {
            text.push_str(&format!(" --run-id {run_id}"));
        }
        if !options.is_empty() {
            text.push_str(&format!(" {options}"));
        }
        text
    }
}

/// Whether an answer tells of a run that has ended.
pub fn has_ended(answer: &Answer) -> Result<bool, CliError> {
    if matches!(answer.status, StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
        return Ok(false);
    }
    let status = view::text(&answer.json()?, "status");
    Ok(!status.is_empty() && status != "Running")
}

/// Waits for a run's end, at most so long.
///
/// # Errors
/// When the time is over first (exit code 124), at Ctrl-C (130), or as the client's.
pub async fn wait_for_end(
    context: &Context,
    run: &Run,
    limit: Option<Duration>,
) -> Result<Answer, CliError> {
    let step = Step::spinner(&context.output, &format!("Waiting for {}", run.workflow_id));
    let answer = tokio::select! {
        answer = poll(context, run, limit) => answer?,
        () = watch(context, run, &step) => None,
        signal = tokio::signal::ctrl_c() => {
            drop(step);
            signal.map_err(|error| anyhow::Error::new(error).context("signals cannot be received"))?;
            return Err(CliError::Interrupted {
                message: format!("the run {} goes on", run.workflow_id),
                help: format!("look at it with `{}`", run.result_command()),
            });
        }
    };
    step.clear();
    answer.ok_or_else(|| CliError::TimedOut {
        message: format!(
            "the run {} has not ended within {}; it goes on",
            run.workflow_id,
            view::duration(limit.unwrap_or_default())
        ),
        help: format!("look at it with `{}`", run.result_command()),
    })
}

async fn poll(
    context: &Context,
    run: &Run,
    limit: Option<Duration>,
) -> Result<Option<Answer>, CliError> {
    let begun = Instant::now();
    loop {
        let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
        let slice = left.unwrap_or(SLICE).min(SLICE);
        let answer = context
            .client
            .send(&Request::get(&run.segments(&["result"])).wait(slice))
            .await?;
        if has_ended(&answer)? {
            return Ok(Some(answer));
        }
        if left.is_some_and(|left| left <= slice) {
            return Ok(None);
        }
    }
}

/// Keeps the spinner's text up to date; never ends.
async fn watch(context: &Context, run: &Run, step: &Step) {
    if !step.is_drawn() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(GLANCE).await;
        // What cannot be asked now is asked again; the wait itself reports errors.
        if let Ok(answer) = context.client.send(&Request::get(&run.segments(&[]))).await
            && let Ok(description) = answer.json()
        {
            step.message(&format!(
                "Waiting for {}: {}",
                run.workflow_id,
                doing(&description)
            ));
        }
    }
}

/// What a run is doing, in one line.
pub fn doing(description: &Value) -> String {
    let pending = view::rows_of(description, "pending_activities");
    let held = view::text(description, "held");
    if !held.is_empty() {
        return format!("held: {held}");
    }
    let mut parts: Vec<String> = pending.iter().take(3).map(activity).collect();
    if pending.len() > 3 {
        parts.push(format!("and {} more", pending.len() - 3));
    }
    for listen in view::rows_of(description, "pending_listens").iter().take(3) {
        parts.push(format!("a signal ({})", signals(listen)));
    }
    for (member, what) in [("pending_children", "child"), ("pending_timers", "timer")] {
        match view::rows_of(description, member).len() {
            0 => {}
            1 => parts.push(format!("1 {what}")),
            count if what == "child" => parts.push(format!("{count} children")),
            count => parts.push(format!("{count} {what}s")),
        }
    }
    if parts.is_empty() {
        let status = view::text(description, "status");
        return if status.is_empty() {
            "running".to_owned()
        } else {
            status.to_lowercase()
        };
    }
    parts.join(", ")
}

/// The names of the signals that a task listens for.
fn signals(listen: &Value) -> String {
    let names = view::rows_of(listen, "signals").iter();
    let names: Vec<&str> = names.filter_map(Value::as_str).collect();
    names.join(" or ")
}

fn activity(pending: &Value) -> String {
    let mut text = view::text(pending, "activity_type");
    let attempt = view::number(pending, "attempt").unwrap_or(1);
    match view::text(pending, "state").as_str() {
        "Scheduled" => text.push_str(" queued"),
        "BackingOff" => text.push_str(" retries soon"),
        "CancelRequested" => text.push_str(" stopping"),
        "Paused" => text.push_str(" paused"),
        "PauseRequested" => text.push_str(" pausing"),
        _ => {}
    }
    if attempt > 1 {
        text.push_str(&format!(" (attempt {attempt})"));
    }
    if let Some(progress) = pending
        .get("progress")
        .filter(|progress| progress.is_object())
    {
        let completed = view::number(progress, "completed").unwrap_or_default();
        match view::number(progress, "total").filter(|total| *total > 0) {
            Some(total) => text.push_str(&format!(" {completed}/{total}")),
            None if completed > 0 => text.push_str(&format!(" {completed}")),
            None => {}
        }
        let message = view::text(progress, "message");
        if !message.is_empty() {
            text.push_str(&format!(" {message}"));
        }
    }
    text
}

/// Shows how a run ended: its result on stdout, or its failure as the command's error.
///
/// # Errors
/// [`CliError::RunFailed`] where the run did not complete.
pub fn show_end(context: &Context, run: &Run, answer: &Answer) -> Result<(), CliError> {
    show(context, run, answer, |failure| failure)
}

/// The same of one activity: what it failed with is what its one step did.
///
/// # Errors
/// As [`show_end`].
pub fn show_end_of_activity(context: &Context, run: &Run, answer: &Answer) -> Result<(), CliError> {
    show(context, run, answer, own_failure)
}

/// An activity's own failure, below that of the flow that runs it.
fn own_failure(failure: &Value) -> &Value {
    let cause = failure.get("cause").filter(|cause| cause.is_object());
    cause.unwrap_or(failure)
}

fn show(
    context: &Context,
    run: &Run,
    answer: &Answer,
    shown: fn(&Value) -> &Value,
) -> Result<(), CliError> {
    let output = &context.output;
    let end = answer.json()?;
    let status = view::text(&end, "status");
    if output.is_json() {
        output.raw_json(&answer.body)?;
    }
    if status == "Completed" {
        if !output.is_json() {
            output.line(&view::pretty(end.get("result").unwrap_or(&Value::Null)))?;
        }
        return Ok(());
    }
    let failure = end.get("failure").map(shown);
    let failure = failure.map(view::failure).unwrap_or_default();
    let how = match status.as_str() {
        "Failed" => "failed".to_owned(),
        "Canceled" => "was cancelled".to_owned(),
        "Terminated" => "was terminated".to_owned(),
        "TimedOut" => "timed out".to_owned(),
        other => format!("ended as {other}"),
    };
    let message = format!("the run {} {how}", run.workflow_id);
    Err(CliError::RunFailed(if failure.is_empty() {
        message
    } else {
        format!("{message}\n{failure}")
    }))
}

/// A run's details for a person.
pub fn describe(context: &Context, description: &Value) -> String {
    let style = context.output.style;
    let now = Timestamp::now();
    let parent = description
        .get("parent")
        .filter(|parent| parent.is_object())
        .map(|parent| {
            format!(
                "{} (run {})",
                view::text(parent, "workflow_id"),
                view::text(parent, "run_id")
            )
        })
        .unwrap_or_default();
    let run_id = view::text(description, "run_id");
    let first_run = Some(view::text(description, "first_run_id"));
    let first_run = first_run.filter(|first| *first != run_id);
    let first_run = first_run.unwrap_or_default();
    let pinned = description
        .get("pinned")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, digest)| format!("{name} {}", digest.as_str().unwrap_or("built-in")))
        .collect::<Vec<_>>()
        .join("\n");
    let memo = description
        .get("memo")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect::<Vec<_>>()
        .join("\n");
    let attributes = description
        .get("search_attributes")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, given)| {
            let value = given.get("value").unwrap_or(&Value::Null);
            format!("{name} = {value} ({})", view::text(given, "type"))
        })
        .collect::<Vec<_>>()
        .join("\n");
    let activities = view::rows_of(description, "pending_activities")
        .iter()
        .map(|pending| {
            let mut line = activity(pending);
            if let Some(failure) = pending
                .get("last_failure")
                .filter(|failure| failure.is_object())
            {
                line.push_str(&format!(
                    "; last failure {}",
                    super::output::one_line(&view::failure(failure))
                ));
            }
            line
        })
        .collect::<Vec<_>>()
        .join("\n");
    let listens = view::rows_of(description, "pending_listens")
        .iter()
        .map(|listen| format!("{} at {}", signals(listen), view::text(listen, "task")))
        .collect::<Vec<_>>()
        .join("\n");
    let clean = |text: String| super::output::printable(&text).into_owned();
    super::table::fields(
        style,
        &[
            ("workflow id", clean(view::text(description, "workflow_id"))),
            ("run id", view::text(description, "run_id")),
            ("type", clean(view::text(description, "workflow_type"))),
            ("version", view::text(description, "version")),
            ("queue", clean(view::text(description, "task_queue"))),
            ("status", style.status(&view::text(description, "status"))),
            ("held", clean(view::text(description, "held"))),
            ("started", view::text(description, "started_at")),
            ("ended", view::text(description, "closed_at")),
            (
                "lasted",
                view::lasted(description, "started_at", "closed_at", now),
            ),
            ("events", view::text(description, "history_length")),
            ("continued from", view::text(description, "continued_from")),
            ("continued as", view::text(description, "continued_as")),
            ("first run", first_run),
            ("parent", clean(parent)),
            ("waits for", clean(activities)),
            (
                "timers",
                count(view::rows_of(description, "pending_timers").len()),
            ),
            ("listens for", clean(listens)),
            ("unread signals", clean(unread(description))),
            (
                "children",
                count(view::rows_of(description, "pending_children").len()),
            ),
            ("pinned to", clean(pinned)),
            ("memo", clean(memo)),
            ("search attributes", clean(attributes)),
            (
                "failure",
                description
                    .get("failure")
                    .map(view::failure)
                    .unwrap_or_default(),
            ),
        ],
    )
}

/// The signals that no task has taken, one a line: the first ones, and how many more.
fn unread(description: &Value) -> String {
    let shown = view::rows_of(description, "pending_signals");
    let line = |signal: &Value| {
        format!(
            "{} {}",
            view::text(signal, "name"),
            view::text(signal, "id")
        )
    };
    let mut lines: Vec<String> = shown.iter().take(UNREAD).map(line).collect();
    let all = description["pending_signal_count"].as_u64();
    let all = all.unwrap_or(shown.len() as u64);
    let more = all.saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

fn count(count: usize) -> String {
    if count == 0 {
        String::new()
    } else {
        count.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn runs_have_paths_and_commands() {
        let latest = Run {
            workflow_id: "doc 1".to_owned(),
            run_id: None,
        };
        assert_eq!(
            latest.segments(&["result"]),
            ["workflows", "doc 1", "result"]
        );
        assert_eq!(
            latest.result_command(),
            "heyday workflow result 'doc 1' --wait"
        );
        let one = Run::of(&json!({ "workflow_id": "a", "run_id": "r" })).expect("a run");
        assert_eq!(one.segments(&[]), ["workflows", "a", "runs", "r"]);
        assert_eq!(
            one.command("logs --follow"),
            "heyday workflow logs a --run-id r --follow"
        );
        assert_eq!(Run::of(&json!({ "run_id": "r" })), None);
    }

    #[test]
    fn what_a_run_does_fits_one_line() {
        assert_eq!(doing(&json!({ "status": "Running" })), "running");
        let busy = json!({
            "pending_activities": [
                { "activity_type": "extract.extract", "state": "Started", "attempt": 2,
                  "progress": { "completed": 3, "total": 9, "message": "pages" } },
                { "activity_type": "index.add", "state": "Scheduled", "attempt": 1 },
            ],
            "pending_timers": [["1", "/do/0", "2026-01-01T00:00:00Z"]],
        });
        assert_eq!(
            doing(&busy),
            "extract.extract (attempt 2) 3/9 pages, index.add queued, 1 timer"
        );
        assert_eq!(doing(&json!({ "held": "differs" })), "held: differs");
        let listens = json!({
            "pending_listens": [{ "task": "/do/0/review", "signals": ["approve", "reject"] }],
        });
        assert_eq!(doing(&listens), "a signal (approve or reject)");
    }

    #[test]
    fn of_many_unread_signals_the_first_are_named_and_all_are_counted() {
        let signals = |count: usize| {
            let one = |n: usize| json!({ "name": "go", "id": n.to_string() });
            (0..count).map(one).collect::<Vec<_>>()
        };
        let few = json!({ "pending_signals": signals(2), "pending_signal_count": 2 });
        assert_eq!(unread(&few), "go 0\ngo 1");
        let many = json!({ "pending_signals": signals(30), "pending_signal_count": 20_000 });
        let text = unread(&many);
        assert_eq!(text.lines().count(), UNREAD + 1);
        assert!(text.ends_with("go 19\nand 19980 more"), "{text}");
        // A server of an earlier release shows all and does not count them.
        let uncounted = unread(&json!({ "pending_signals": signals(30) }));
        assert!(uncounted.ends_with("and 10 more"), "{uncounted}");
        assert_eq!(unread(&json!({})), "");
    }
}
