//! Arguments of the commands on schedules.

use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::cli::error::CliError;
use crate::cli::input;

/// What happens where a run is open at the next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Overlap {
    /// Nothing is started
    Skip,
    /// One start waits for the end of the open run
    BufferOne,
    /// All starts wait, each for the one before
    BufferAll,
    /// The open run is asked to cancel
    CancelOther,
    /// The open run ends by force
    TerminateOther,
    /// It is started beside the open ones
    AllowAll,
}

impl Overlap {
    /// As the API writes it.
    pub const fn api(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::BufferOne => "buffer_one",
            Self::BufferAll => "buffer_all",
            Self::CancelOther => "cancel_other",
            Self::TerminateOther => "terminate_other",
            Self::AllowAll => "allow_all",
        }
    }
}

fn schedule_id(text: &str) -> Result<String, String> {
    match text {
        "" => Err("an id has at least one character".to_owned()),
        "." | ".." => Err("an id that is `.` or `..` has no address".to_owned()),
        _ if text.len() > 200 => Err(format!(
            "an id has at most 200 bytes, this one {}",
            text.len()
        )),
        _ => Ok(text.to_owned()),
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|error| format!("{text:?} is no time such as 2026-11-27T07:00:00Z: {error}"))
}

/// `EVERY`, or `EVERY/OFFSET`.
fn interval(text: &str) -> Result<Value, String> {
    let (every, offset) = match text.split_once('/') {
        Some((every, offset)) => (every, input::duration(offset)?),
        None => (text, Duration::ZERO),
    };
    Ok(json!({ "every": api_duration(input::duration(every)?), "offset": api_duration(offset) }))
}

fn api_duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn calendar(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        format!("a calendar is JSON such as {{\"hour\":[{{\"start\":9,\"end\":17}}]}}: {error}")
    })?;
    if value.is_object() {
        Ok(value)
    } else {
        Err("a calendar is a JSON object".to_owned())
    }
}

/// Names a schedule.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The schedule's id
    #[arg(value_name = "ID", value_parser = schedule_id)]
    pub id: String,
}

/// What a schedule is.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// A cron string: 5 to 7 fields, or @daily and its like; may be given more than once
    #[arg(long, value_name = "CRON")]
    pub cron: Vec<String>,
    /// An interval (15m, 1h/5m: 5 minutes past each hour); may be given more than once
    #[arg(long, value_name = "EVERY[/OFFSET]", value_parser = interval)]
    pub every: Vec<Value>,
    /// A calendar as the API takes it, as JSON; may be given more than once
    #[arg(long, value_name = "JSON", value_parser = calendar)]
    pub calendar: Vec<Value>,
    /// Times that do not count: a calendar; may be given more than once
    #[arg(long, value_name = "JSON", value_parser = calendar)]
    pub exclude_calendar: Vec<Value>,
    /// The time zone of cron strings and calendars, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// No time is before this one (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub start_time: Option<Timestamp>,
    /// No time is after this one (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub end_time: Option<Timestamp>,
    /// Each time comes up to so much later
    #[arg(long, value_name = "TIME", value_parser = input::duration)]
    pub jitter: Option<Duration>,
    /// A version of the flow [default: the one that is active when a run starts]
    #[arg(long, value_name = "VERSION")]
    pub flow_version: Option<String>,
    /// What the runs' workflow ids begin with [default: the schedule's id]
    #[arg(long, value_name = "WORKFLOW-ID")]
    pub workflow_id: Option<String>,
    /// The queue of the runs' own tasks, which workers poll [default: general-queue]
    #[arg(long, value_name = "QUEUE")]
    pub task_queue: Option<String>,
    /// The input of each run: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON|@FILE|-")]
    pub input: Option<String>,
    /// What happens where a run is open at the next time [default: skip]
    #[arg(long, value_enum, value_name = "POLICY")]
    pub overlap: Option<Overlap>,
    /// A time that the server missed is made up for, if it is no longer ago [default: a year]
    #[arg(long, value_name = "TIME", value_parser = input::duration)]
    pub catchup_window: Option<Duration>,
    /// Whether a run that failed pauses the schedule
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub pause_on_failure: Option<bool>,
    /// Whether its times pass by
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub paused: Option<bool>,
    /// Why it is as it is
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// End after so many runs
    #[arg(long, value_name = "N")]
    pub remaining_actions: Option<u64>,
}

impl SetArgs {
    /// Writes what was said into a body; answers the input.
    ///
    /// # Errors
    /// When the input is no JSON.
    pub fn apply(self, body: &mut Value) -> Result<Option<Box<RawValue>>, CliError> {
        let mut set = |section: &str, member: &str, value: Option<Value>| {
            if let Some(value) = value {
                let section = &mut body[section];
                if !section.is_object() {
                    *section = Value::Object(Map::new());
                }
                section[member] = value;
            }
        };
        // When is said as a whole: a cron string takes the place of an interval.
        let timed = [
            self.cron.is_empty(),
            self.every.is_empty(),
            self.calendar.is_empty(),
        ];
        if timed.contains(&false) {
            set("spec", "cron", Some(json!(self.cron)));
            set("spec", "intervals", Some(json!(self.every)));
            set("spec", "calendars", Some(json!(self.calendar)));
        }
        let excluded = Some(json!(self.exclude_calendar));
        let excluded = excluded.filter(|_| !self.exclude_calendar.is_empty());
        set("spec", "exclude_calendars", excluded);
        set("spec", "time_zone", self.time_zone.map(Value::from));
        let time = |time: Timestamp| Value::from(time.to_string());
        set("spec", "start_time", self.start_time.map(time));
        set("spec", "end_time", self.end_time.map(time));
        let duration = |duration| Value::from(api_duration(duration));
        set("spec", "jitter", self.jitter.map(duration));
        set("action", "version", self.flow_version.map(Value::from));
        set("action", "workflow_id", self.workflow_id.map(Value::from));
        set("action", "task_queue", self.task_queue.map(Value::from));
        let overlap = self.overlap.map(|overlap| Value::from(overlap.api()));
        set("policies", "overlap", overlap);
        set(
            "policies",
            "catchup_window",
            self.catchup_window.map(duration),
        );
        set(
            "policies",
            "pause_on_failure",
            self.pause_on_failure.map(Value::from),
        );
        set("state", "paused", self.paused.map(Value::from));
        set("state", "note", self.note.map(Value::from));
        if let Some(count) = self.remaining_actions {
            set("state", "limited_actions", Some(json!(true)));
            set("state", "remaining_actions", Some(json!(count)));
        }
        self.input.as_deref().map(input::json).transpose()
    }
}

/// Arguments of `schedule create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its id
    #[arg(value_name = "ID", value_parser = schedule_id)]
    pub id: String,
    /// The flow that it starts
    #[arg(long, value_name = "FLOW")]
    pub flow: String,
    /// What it is.
    #[command(flatten)]
    pub set: SetArgs,
    /// Start a run at once as well
    #[arg(long)]
    pub trigger: bool,
}

/// Arguments of `schedule update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The schedule's id
    #[arg(value_name = "ID", value_parser = schedule_id)]
    pub id: String,
    /// The flow that it starts
    #[arg(long, value_name = "FLOW")]
    pub flow: Option<String>,
    /// What it is.
    #[command(flatten)]
    pub set: SetArgs,
}

/// Arguments of `schedule list`.
#[derive(Debug, Args)]
pub struct ListArgs {
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

/// Arguments of `schedule pause` and `schedule unpause`.
#[derive(Debug, Args)]
pub struct NoteArgs {
    /// The schedule's id
    #[arg(value_name = "ID", value_parser = schedule_id)]
    pub id: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
}

/// Arguments of `schedule trigger`.
#[derive(Debug, Args)]
pub struct TriggerArgs {
    /// The schedule's id
    #[arg(value_name = "ID", value_parser = schedule_id)]
    pub id: String,
    /// In place of the schedule's own policy
    #[arg(long, value_enum, value_name = "POLICY")]
    pub overlap: Option<Overlap>,
}

/// Arguments of `schedule backfill`.
#[derive(Debug, Args)]
pub struct BackfillArgs {
    /// The schedule's id
    #[arg(value_name = "ID", value_parser = schedule_id)]
    pub id: String,
    /// The first time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub from: Timestamp,
    /// The last time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub to: Timestamp,
    /// In place of the schedule's own policy
    #[arg(long, value_enum, value_name = "POLICY")]
    pub overlap: Option<Overlap>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::schedule::ScheduleCommand;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn parse(words: &[&str]) -> Result<ScheduleCommand, clap::Error> {
        let words = ["heyday", "schedule"]
            .into_iter()
            .chain(words.iter().copied());
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Schedule(command) => command,
            other => panic!("{other:?}"),
        })
    }

    fn set(words: &[&str]) -> (Value, Option<String>) {
        let words: Vec<&str> = ["create", "s", "--flow", "a.b"]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        let ScheduleCommand::Create(args) = parse(&words).expect("parsed") else {
            panic!("another command");
        };
        let mut body = json!({});
        let input = args.set.apply(&mut body).expect("JSON");
        (body, input.map(|input| input.get().to_owned()))
    }

    #[test]
    fn what_is_said_becomes_the_body() {
        let (body, input) = set(&[
            "--cron",
            "@daily",
            "--every",
            "1h/5m",
            "--time-zone",
            "Europe/Berlin",
            "--jitter",
            "30s",
            "--task-queue",
            "narrow",
            "--overlap",
            "buffer-one",
            "--catchup-window",
            "1m",
            "--pause-on-failure",
            "--paused=false",
            "--note",
            "x",
            "--remaining-actions",
            "3",
            "--input",
            "1.50",
        ]);
        let expected = json!({
            "spec": {
                "cron": ["@daily"], "intervals": [{"every": "3600000ms", "offset": "300000ms"}],
                "calendars": [], "time_zone": "Europe/Berlin", "jitter": "30000ms",
            },
            "action": {"task_queue": "narrow"},
            "policies": {
                "overlap": "buffer_one", "catchup_window": "60000ms", "pause_on_failure": true,
            },
            "state": {
                "paused": false, "note": "x", "limited_actions": true, "remaining_actions": 3,
            },
        });
        assert_eq!(body, expected);
        assert_eq!(input.as_deref(), Some("1.50"));
        assert_eq!(set(&[]), (json!({}), None));
    }

    #[test]
    fn policies_are_named_as_the_engine_names_them() {
        for policy in Overlap::value_variants() {
            serde_json::from_value::<heyday_durable::schedule::OverlapPolicy>(policy.api().into())
                .expect("known to the engine");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_before_it_is_sent() {
        let long = "x".repeat(201);
        for words in [
            &["show", ""][..],
            &["show", ".."],
            &["show", &long],
            &["create", "s"],
            &["create", "s", "--flow", "a.b", "--every", "soon"],
            &["create", "s", "--flow", "a.b", "--every", "1h/soon"],
            &["create", "s", "--flow", "a.b", "--calendar", "[]"],
            &["create", "s", "--flow", "a.b", "--start-time", "noon"],
            &["create", "s", "--flow", "a.b", "--overlap", "maybe"],
            &["backfill", "s", "--from", "2026-11-01T00:00:00Z"],
            &["backfill", "s", "--from", "noon", "--to", "noon"],
            &["list", "--limit", "0"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
