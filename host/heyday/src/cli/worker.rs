//! `heyday worker`: runs tasks of a Temporal cluster, until it is asked to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use heyday::config::{Config, DEFAULT_NAMESPACE, EngineKind};
use heyday::worker::{ServerError, Worker, WorkerError, WorkerOptions};
use heyday_sandbox::SandboxError;
use serde_json::json;

use super::error::CliError;
use super::options::{GlobalOptions, namespace};
use super::process::{Process, ProcessArgs, told, unusable};
use super::progress::Step;
use super::{input, view};

/// Arguments of `worker`.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// A queue that it takes tasks from, and how many activities of it run at once in each
    /// namespace; may be given again [default: every queue of the configuration]
    #[arg(long = "queue", value_name = "NAME[=LIMIT]", value_parser = queue)]
    pub queues: Vec<QueueText>,
    /// A namespace whose tasks it takes, with slots and bindings of its own; may be given
    /// again [default: default]
    // The global option of the same name, which elsewhere is given once.
    #[arg(long, value_name = "NAME", env = "HEYDAY_NAMESPACE", value_parser = namespace)]
    pub namespace: Vec<String>,
    /// Take activity tasks, and leave those of workflows to others
    #[arg(long)]
    pub activities_only: bool,
    /// Take no new tasks when the server was not heard for so long [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = input::duration)]
    pub grant_lease: Option<Duration>,
    /// The address of its health (/health/startup, live, ready) and its /metrics
    /// [default: none]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "HEYDAY_WORKER_LISTEN",
        hide_env_values = true
    )]
    pub listen: Option<SocketAddr>,
    /// What every process takes that runs until it is asked to stop.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// The lease where none is said.
const GRANT_LEASE: Duration = Duration::from_secs(30);

/// A queue as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueText {
    /// Its name.
    pub name: String,
    /// Its limit, where one is said.
    pub limit: Option<usize>,
}

fn queue(text: &str) -> Result<QueueText, String> {
    let (name, limit) = match text.split_once('=') {
        Some((name, limit)) => (name, Some(limit)),
        None => (text, None),
    };
    let limit = limit.map(str::parse::<usize>).transpose();
    match limit {
        Ok(limit)
            if view::is_name(name) && limit.is_none_or(|limit| (1..=1_000).contains(&limit)) =>
        {
            Ok(QueueText {
                name: name.to_owned(),
                limit,
            })
        }
        _ => Err(format!(
            "{text:?} is not NAME[=LIMIT] with a limit of 1 to 1,000, such as storage-queue=40"
        )),
    }
}

impl WorkerArgs {
    /// The queues that were named, or all, with their limits.
    fn queues(&self, config: &Config) -> Result<BTreeMap<String, usize>, CliError> {
        let known = config.queues();
        if self.queues.is_empty() {
            return Ok(known);
        }
        let mut named = BTreeMap::new();
        for queue in &self.queues {
            let limit = queue.limit.or_else(|| known.get(&queue.name).copied());
            let limit = limit.ok_or_else(|| {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                CliError::usage_help(
                    format!(
                        "there is no queue {:?} in the configuration, which has {}",
                        queue.name,
                        names.join(", ")
                    ),
                    format!(
                        "say how much of it runs at once: --queue {}=LIMIT",
                        queue.name
                    ),
                )
            })?;
            if named.insert(queue.name.clone(), limit).is_some() {
                return Err(CliError::usage_help(
                    format!("the queue {:?} is named twice", queue.name),
                    "name each queue once; a worker has one limit for it",
                ));
            }
        }
        Ok(named)
    }

    fn options(&self, global: &GlobalOptions) -> Result<WorkerOptions, CliError> {
        // There is no other engine for which a second process could work.
        let config = self.process.config(global, Some(EngineKind::Temporal))?;
        let token = global.given_token()?.ok_or_else(|| {
            CliError::usage_help(
                "a worker needs a token of its own",
                "make one with `heyday token create --worker`, and give it in --token-file FILE \
                 or HEYDAY_TOKEN",
            )
        })?;
        let mut namespaces = self.namespace.clone();
        namespaces.sort_unstable();
        namespaces.dedup();
        if namespaces.is_empty() {
            namespaces.push(DEFAULT_NAMESPACE.to_owned());
        }
        let options = WorkerOptions {
            queues: self.queues(&config)?,
            config,
            server: global.server.clone(),
            token,
            namespaces,
            activities_only: self.activities_only,
            grant_lease: self.grant_lease.unwrap_or(GRANT_LEASE),
            listen: self.listen,
        };
        options.check().map_err(unusable)?;
        Ok(options)
    }
}

fn not_started(error: WorkerError) -> CliError {
    match error {
        WorkerError::Config(error) => unusable(error),
        error @ WorkerError::Server(ServerError::Token { .. }) => CliError::Refused {
            message: error.to_string(),
            help: Some("make a token with `heyday token create --worker`".to_owned()),
        },
        error @ WorkerError::Listen(_) => CliError::Refused {
            message: error.to_string(),
            help: None,
        },
        WorkerError::Sandbox(SandboxError::Cache(error)) => CliError::Refused {
            message: error.to_string(),
            help: Some("name another folder with --cache DIR".to_owned()),
        },
        // Its text has its causes already.
        error => CliError::Other(anyhow::anyhow!("the worker does not start: {error}")),
    }
}

/// Runs a worker until it is asked to stop. Wants a multi-threaded runtime.
pub async fn run(args: WorkerArgs, global: &GlobalOptions) -> Result<(), CliError> {
    let output = global.output();
    let options = args.options(global)?;
    let grace = options.config.drain_grace;
    let queues = options.queues.clone();
    let namespaces = options.namespaces.clone();
    let mut process = Process::begin(&args.process, &options.config, global)?;
    let step = Step::spinner(&output, &format!("Reaching {}", global.server));
    let started = tokio::select! {
        started = Box::pin(Worker::start(options)) => started.map_err(not_started),
        () = process.asked_to_stop() => Err(CliError::Interrupted {
            message: "the worker had not started yet".to_owned(),
            help: "nothing is lost; start it again".to_owned(),
        }),
    };
    step.clear();
    let worker = started?;
    let health = worker.address().map(|address| format!("http://{address}"));
    let said = if output.is_json() {
        output.line(
            &json!({
                "server": global.server.as_str(),
                "namespaces": namespaces,
                "queues": queues,
                "health": health,
                "version": env!("CARGO_PKG_VERSION"),
            })
            .to_string(),
        )
    } else {
        let names: Vec<String> = queues
            .iter()
            .map(|(name, limit)| format!("{name} ({limit})"))
            .collect();
        output.line(&format!(
            "{} A worker of {} takes tasks of {} in {}{}",
            output.style.good("✓"),
            global.server,
            names.join(", "),
            namespaces.join(", "),
            health.map_or_else(String::new, |url| format!(
                "; its health: {url}/health/ready"
            )),
        ))
    };
    told(said)?;
    process.asked_to_stop().await;
    output.note(&format!(
        "Stopping. Running activities have {} to end; what is cut off is tried again by other \
         workers. Ctrl-C again stops at once.",
        view::duration(grace)
    ));
    process.end(worker.drain(), &output).await;
    output.note("Stopped.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn options(words: &[&str]) -> Result<WorkerOptions, CliError> {
        let folder = tempfile::tempdir().expect("a folder");
        let token = folder.path().join("token");
        std::fs::write(&token, "heyday-worker-abc\n").expect("written");
        let token = token.to_str().expect("text");
        let all = ["heyday", "worker", "--data", "/x", "--token-file", token];
        let cli = Cli::try_parse_from(all.iter().chain(words)).expect("parsed");
        match cli.command {
            Command::Worker(args) => args.options(&cli.global),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_takes_what_it_is_told_of() {
        let all = options(&[]).expect("options");
        assert_eq!(all.queues.values().sum::<usize>(), 75);
        assert_eq!(all.namespaces, ["default"]);
        assert_eq!(all.token, "heyday-worker-abc");
        assert_eq!(all.grant_lease, Duration::from_secs(30));
        let some = options(&[
            "--queue",
            "storage-queue",
            "--queue",
            "gpu=2",
            "--namespace",
            "team-b",
            "--namespace",
            "team-a",
            "--activities-only",
            "--grant-lease",
            "5s",
        ]);
        let some = some.expect("options");
        let queues = BTreeMap::from([("storage-queue".to_owned(), 20), ("gpu".to_owned(), 2)]);
        assert_eq!(some.queues, queues);
        assert_eq!(some.namespaces, ["team-a", "team-b"]);
        assert!(some.activities_only);
        assert_eq!(some.grant_lease, Duration::from_secs(5));
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_opened() {
        for words in [
            &["--queue", "fast"][..],
            &["--queue", "gpu=2", "--queue", "gpu=3"],
            &["--grant-lease", "10ms"],
            &[
                "--queue", "a=1000", "--queue", "b=1000", "--queue", "c=1000", "--queue", "d=1000",
                "--queue", "e=1000", "--queue", "f=1",
            ],
            &["--config", "/no/such/file"],
        ] {
            assert_eq!(options(words).expect_err("refused").code(), 2, "{words:?}");
        }
        for line in [
            "worker --queue Fast",
            "worker --queue a=0",
            "worker --queue a=b",
            "worker --namespace A",
        ] {
            let words = std::iter::once("heyday").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn the_operators_token_is_not_taken_by_itself() {
        let data = tempfile::tempdir().expect("a folder");
        std::fs::write(data.path().join("token"), "secret\n").expect("written");
        let data = data.path().to_str().expect("text");
        let cli = Cli::try_parse_from(["heyday", "worker", "--data", data]).expect("parsed");
        let Command::Worker(args) = cli.command else {
            panic!("another command");
        };
        let error = args.options(&cli.global).expect_err("no token");
        assert!(error.to_string().contains("a token of its own"), "{error}");
    }
}
