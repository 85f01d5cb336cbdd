//! `heyday activity run`: one activity as a durable run of its own, so that a first
//! plugin needs no flow.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::client::Request;
use super::error::CliError;
use super::progress::Step;
use super::runs::{self, Run};
use super::{Context, input, view};

/// The server is asked to wait so long before it answers with the run instead.
const FIRST_WAIT: Duration = Duration::from_secs(20);

/// Commands on activities.
#[derive(Debug, Subcommand)]
pub enum ActivityCommand {
    /// Run one activity durably, and show its result
    #[command(
        after_help = "Examples:\n  heyday activity run greet.hello --input '{\"name\":\"Ada\"}'\n  \
        heyday activity run extract.extract --input @request.json --wait=2m\n  \
        heyday activity run index.rebuild --queue general-queue --start-to-close 1h --maximum-attempts 1\n  \
        heyday activity run index.rebuild --no-wait -o json\n\n\
        It goes on when this command is interrupted: `heyday workflow list` shows it."
    )]
    Run(RunArgs),
}

/// Arguments of `activity run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The activity, PLUGIN.ACTIVITY
    #[arg(value_name = "PLUGIN.ACTIVITY", value_parser = activity_type)]
    pub activity: String,
    /// The input: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON|@FILE|-")]
    pub input: Option<String>,
    /// The queue that it runs on [default: the activity's own]
    #[arg(long, value_name = "NAME", value_parser = queue)]
    pub queue: Option<String>,
    /// How long one attempt may take (90s, 1h) [default: the activity's own]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    pub start_to_close: Option<Duration>,
    /// How long all attempts may take together [default: the activity's own]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    pub schedule_to_close: Option<Duration>,
    /// How long an attempt may wait in the queue [default: the activity's own]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    pub schedule_to_start: Option<Duration>,
    /// How much time may pass between two heartbeats of the plugin [default: the activity's
    /// own]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    pub heartbeat: Option<Duration>,
    /// How many attempts there are, 0 for no limit [default: the activity's own]
    #[arg(long, value_name = "NUMBER")]
    pub maximum_attempts: Option<u32>,
    /// Wait at most so long (30s, 5m); without a time, to the end, as is the default
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = input::duration)]
    pub wait: Option<Option<Duration>>,
    /// Start it and do not wait
    #[arg(long, conflicts_with = "wait")]
    pub no_wait: bool,
    /// The same key again runs nothing twice, for 24 hours [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

fn activity_type(text: &str) -> Result<String, String> {
    match text.split_once('.') {
        Some((plugin, activity)) if !plugin.is_empty() && !activity.is_empty() => {
            Ok(text.to_owned())
        }
        _ => Err(
            "an activity is named PLUGIN.ACTIVITY, as `heyday plugin show PLUGIN` lists it"
                .to_owned(),
        ),
    }
}

fn queue(text: &str) -> Result<String, String> {
    view::name("a queue's name", text)
}

/// A timeout.
fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = input::duration(text)?;
    if timeout < Duration::from_millis(1) || timeout.subsec_nanos() % 1_000_000 != 0 {
        return Err("a timeout has whole milliseconds, at least 1ms".to_owned());
    }
    Ok(timeout)
}

/// Runs a command on activities.
pub async fn run(command: ActivityCommand, context: &Context) -> Result<(), CliError> {
    let ActivityCommand::Run(args) = command;
    let input = args.input.as_deref().map(input::json).transpose()?;
    let limit = args.wait.flatten();
    let wait = match limit {
        _ if args.no_wait => Duration::ZERO,
        Some(limit) => limit.min(FIRST_WAIT),
        None => FIRST_WAIT,
    };
    let begun = std::time::Instant::now();
    let timeout = |timeout: Option<Duration>| timeout.map(input::duration_parameter);
    // The body is the activity's input and nothing else.
    let request = Request::post(&["activities", &args.activity])
        .json(&input)
        .query_if("queue", args.queue)
        .query_if("start_to_close", timeout(args.start_to_close))
        .query_if("schedule_to_close", timeout(args.schedule_to_close))
        .query_if("schedule_to_start", timeout(args.schedule_to_start))
        .query_if("heartbeat", timeout(args.heartbeat))
        .query_if(
            "maximum_attempts",
            args.maximum_attempts.map(|it| it.to_string()),
        )
        .wait(wait)
        .idempotent(args.idempotency_key.as_deref());
    let step = Step::spinner(&context.output, &format!("Running {}", args.activity));
    let answer = tokio::select! {
        answer = context.client.send(&request) => answer?,
        signal = tokio::signal::ctrl_c() => {
            drop(step);
            signal.map_err(|error| anyhow::Error::new(error).context("signals cannot be received"))?;
            return Err(CliError::Interrupted {
                message: format!("{} goes on, if the server had begun it", args.activity),
                help: "look for it with `heyday workflow list`".to_owned(),
            });
        }
    };
    step.clear();
    let value = answer.json()?;
    let Some(run) = Run::of(&value) else {
        return Err(CliError::BadAnswer {
            server: context.client.server().to_owned(),
            cause: "it names no run".to_owned(),
        });
    };
    if runs::has_ended(&answer)? {
        return runs::show_end_of_activity(context, &run, &answer);
    }
    if args.no_wait {
        if context.output.is_json() {
            return context.output.raw_json(&answer.body);
        }
        context.output.name(&run.workflow_id)?;
        context.output.hint(&run.result_command());
        return Ok(());
    }
    let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
    let end = runs::wait_for_end(context, &run, left).await?;
    runs::show_end_of_activity(context, &run, &end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_take_time() {
        assert_eq!(timeout("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["0", "100us", "soon"] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn activities_have_two_parts() {
        assert!(activity_type("greet.hello").is_ok());
        for wrong in ["greet", ".hello", "greet.", ""] {
            assert!(
                activity_type(wrong)
                    .expect_err(wrong)
                    .contains("PLUGIN.ACTIVITY")
            );
        }
    }
}
