//! What the commands on runs take.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::cli::input;
use crate::cli::runs::Run;

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
    /// The queue of the run's own tasks, which workers poll [default: general-queue]
    #[arg(long, value_name = "QUEUE")]
    pub task_queue: Option<String>,
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
    #[arg(long, value_name = "NAME=JSON", value_parser = input::named_value)]
    pub memo: Vec<(String, Value)>,
    /// A value by which `workflow list --query` finds the run; may be given more than once
    #[arg(long, value_name = "NAME=JSON", value_parser = input::named_value)]
    pub search_attribute: Vec<(String, Value)>,
    /// A signal that the run has from its first moment on; an open run of the id gets it
    #[arg(long, value_name = "NAME")]
    pub signal: Option<String>,
    /// The signal's data: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-", requires = "signal")]
    pub signal_input: Option<String>,
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
    pub const fn api(self) -> &'static str {
        match self {
            Self::AllowDuplicate => "allow_duplicate",
            Self::AllowDuplicateFailedOnly => "allow_duplicate_failed_only",
            Self::RejectDuplicate => "reject_duplicate",
        }
    }
}

impl IdConflictPolicy {
    /// As the API writes it.
    pub const fn api(self) -> &'static str {
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
    /// As the API names it.
    pub fn run(&self) -> Run {
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

/// Arguments of `workflow count`.
#[derive(Debug, Args)]
pub struct CountArgs {
    /// A filter, as Temporal's: WorkflowType = 'x' AND ExecutionStatus = 'Running'
    #[arg(long, short, value_name = "FILTER")]
    pub query: Option<String>,
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

/// Arguments of `workflow export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Where to write it [default: stdout]
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Leave out the values over 256 KiB that it names: on a Temporal cluster the file is then
    /// what Temporal's own tools read, and it can be replayed only where the values are
    #[arg(long)]
    pub without_values: bool,
}

/// Arguments of `workflow replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The history's file; - is stdin
    pub file: PathBuf,
    /// A flow that is on no server [default: the version that the run is pinned to]
    #[arg(long, value_name = "FILE", conflicts_with = "definition")]
    pub flow: Option<PathBuf>,
    /// A flow on the server; without a version, the active one
    #[arg(long, value_name = "NAME[:VERSION]")]
    pub definition: Option<String>,
    /// Compare values too, such as inputs and timeouts; always done with the run's own version
    #[arg(long)]
    pub exact: bool,
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

/// Arguments of `workflow signal`, and of `workflow update`.
#[derive(Debug, Args)]
pub struct SignalArgs {
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Its name: the event's type
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Its data: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON|@FILE|-")]
    pub input: Option<String>,
    /// Its id: a run takes the same one once [default: a new one]
    #[arg(long = "id", value_name = "SIGNAL-ID")]
    pub signal_id: Option<String>,
    /// An attribute of the event (source, subject, time, ...); may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = input::named_value)]
    pub attribute: Vec<(String, Value)>,
}

/// Arguments of `workflow update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// What is sent.
    #[command(flatten)]
    pub event: SignalArgs,
    /// Wait for its end at most so long (30s, 5m); without this option, to the end
    #[arg(long, value_name = "TIME", value_parser = input::duration)]
    pub wait: Option<Duration>,
}

/// Arguments of `workflow query`.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// The query
    #[arg(value_name = "NAME", default_value = heyday_durable::driver::STATE_QUERY)]
    pub name: String,
    /// What the flow's expressions see as .arguments: JSON, @FILE, or - for stdin
    #[arg(long, short, value_name = "JSON|@FILE|-")]
    pub arguments: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::workflow::WorkflowCommand;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;
    use serde_json::json;

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
    fn signals_are_named_and_carry_attributes() {
        let words = [
            "signal",
            "doc-7",
            "approve",
            "--input",
            "{}",
            "--id",
            "s-1",
            "--attribute",
            "source=urn:x",
            "--attribute",
            "room=7",
        ];
        let WorkflowCommand::Signal(args) = parse(&words).expect("parsed") else {
            panic!("another command");
        };
        assert_eq!(
            (args.run.id.as_str(), args.name.as_str()),
            ("doc-7", "approve")
        );
        assert_eq!(args.signal_id.as_deref(), Some("s-1"));
        assert_eq!(
            args.attribute,
            [
                ("source".to_owned(), json!("urn:x")),
                ("room".to_owned(), json!(7))
            ]
        );
        let WorkflowCommand::Update(args) =
            parse(&["update", "doc-7", "add", "--wait=0s"]).expect("parsed")
        else {
            panic!("another command");
        };
        assert_eq!(
            (args.event.name.as_str(), args.wait),
            ("add", Some(Duration::ZERO))
        );
        let WorkflowCommand::Query(args) = parse(&["query", "doc-7"]).expect("parsed") else {
            panic!("another command");
        };
        assert_eq!(args.name, "__heyday_state");
        assert!(parse(&["signal", "doc-7"]).is_err());
        assert!(parse(&["start", "a.b", "--signal-input", "{}"]).is_err());
        let args = start_args(&["start", "a.b", "--signal", "go", "--signal-input", "7"]);
        assert_eq!(args.signal.as_deref(), Some("go"));
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
