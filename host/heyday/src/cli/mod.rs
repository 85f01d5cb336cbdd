//! The `heyday` command line: a client of the REST API, and of nothing else.
//!
//! [`Cli`] is what was typed. [`run`] makes a [`Context`] of the global options (where
//! the server is, whose token, which form of output) and hands it to the command's own
//! module; that module sends its requests through [`client::Client`] and shows the
//! answers through [`output::Output`]. Only `up`, `serve` and `worker` are different: they
//! run the server library in this process; and `plugin new`, `plugin upgrade` and `plugin build`, which
//! need no server.
//!
//! Start reading at [`plugin`] for a typical group of commands, at [`runs`] for how a
//! run is waited for.

pub mod activity;
pub mod audit;
pub mod build;
pub mod client;
pub mod doctor;
#[cfg(test)]
mod documented;
pub mod error;
pub mod event;
pub mod flow;
pub mod follow;
pub mod gate;
pub mod grant;
pub mod input;
pub mod migrate;
pub mod model;
pub mod options;
pub mod output;
pub mod plugin;
pub mod process;
pub mod progress;
pub mod runs;
pub mod sample;
pub mod schedule;
pub mod state;
pub mod status;
pub mod table;
pub mod template;
pub mod temporal;
pub mod token;
pub mod up;
pub mod versions;
pub mod view;
pub mod worker;
pub mod workflow;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use self::client::Client;
use self::error::CliError;
use self::options::GlobalOptions;
use self::output::Output;

/// What a command works with.
#[derive(Debug)]
pub struct Context {
    /// The server.
    pub client: Client,
    /// Where answers go.
    pub output: Output,
}

/// What a person types first.
const FIRST_STEPS_HELP: &str = "\
First steps, with `heyday up` in a terminal of its own:
  heyday up
  heyday plugin new hello
  heyday plugin push hello
  heyday activity run hello.greet --input '{\"name\":\"Ada\"}'";

/// Durable tasks as WebAssembly plugins
#[derive(Debug, Parser)]
#[command(
    name = "heyday",
    version,
    about,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = format!("{FIRST_STEPS_HELP}\n\n{}", error::EXIT_CODES_HELP)
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalOptions,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process, on this machine
    #[command(
        after_help = "Examples:\n  heyday up\n  heyday up --data ./data --port 8001\n  \
        heyday up --config heyday.toml\n\n\
        Keys of the configuration file (options go over it, docs/configuration.md describes them):\n  \
        data_dir, listen, hosts, public_url, cache_dir, engine, drain_grace, otlp_endpoint\n  \
        [queues] NAME = LIMIT, [default_queues] PLUGIN = QUEUE\n  \
        [limits], [limits.call], [limits.plugins.NAME], [limits.http], [limits.throttle.NAME], [limits.resources]\n  \
        [temporal], [state], [inference], [inference.hubs.NAME], [inference.remote.NAME]\n  \
        [bindings.namespaces.NAMESPACE.CAPABILITY.NAME] of sql, blob, kv, config, secrets, graph and vector\n\n\
        Everything is kept in the data folder. Stop it with Ctrl-C; open runs go on at the next start."
    )]
    Up(up::UpArgs),
    /// Run the API and the registry, and leave the work to workers
    #[command(
        after_help = "Examples:\n  heyday serve --engine temporal --temporal-address 127.0.0.1:7233\n  \
        heyday serve --engine temporal --workflows --config heyday.toml\n  \
        heyday serve --engine temporal --state postgres://heyday@db.example/heyday\n\n\
        Options and configuration are those of `heyday up`."
    )]
    Serve(up::ServeArgs),
    /// Run tasks of a Temporal cluster for a server, and keep nothing
    #[command(
        after_help = "Examples:\n  heyday worker --token-file worker-token\n  \
        heyday worker --queue storage-queue --queue gpu=2 --activities-only --token-file worker-token\n  \
        heyday worker --namespace team-a --server https://heyday.example --listen 0.0.0.0:8080\n\n\
        Of the configuration file it takes queues, temporal, limits, bindings, inference, data_dir, \
        cache_dir, drain_grace and otlp_endpoint."
    )]
    Worker(worker::WorkerArgs),
    /// Make, list and take back tokens for workers
    #[command(subcommand, visible_alias = "tokens")]
    Token(token::TokenCommand),
    /// Make, build, upload and manage plugins
    #[command(subcommand, visible_alias = "plugins")]
    Plugin(plugin::PluginCommand),
    /// Upload and manage flows (workflow definitions)
    #[command(subcommand, visible_alias = "flows")]
    Flow(flow::FlowCommand),
    /// Start, watch and end runs of workflows
    #[command(subcommand, visible_alias = "workflows")]
    Workflow(workflow::WorkflowCommand),
    /// Start flows by themselves, at times
    #[command(subcommand, visible_alias = "schedules")]
    Schedule(schedule::ScheduleCommand),
    /// Import, pull, list, load, verify and remove models
    #[command(subcommand, visible_alias = "models")]
    Model(model::ModelCommand),
    /// Run one activity durably, without a flow
    #[command(subcommand)]
    Activity(activity::ActivityCommand),
    /// Send events, which start flows
    #[command(subcommand, visible_alias = "events")]
    Event(event::EventCommand),
    /// Grant a plugin or a flow what it may reach
    Grant(grant::GrantArgs),
    /// Who changed what, and what was refused
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// What the queues are doing
    #[command(subcommand, visible_alias = "queues")]
    Queue(status::QueueCommand),
    /// What can be granted
    #[command(subcommand, visible_alias = "bindings")]
    Binding(status::BindingCommand),
    /// Bring the state of the servers to the schema of this version
    #[command(
        after_help = "Examples:\n  heyday migrate --state postgres://heyday@db.example/heyday\n  \
        heyday migrate --config heyday.toml --check\n\n\
        It may be run again, and by several at once: one does it, the others find it done. A server \
        on PostgreSQL starts only when it was run with its version or a newer one; `host.db` in a \
        data folder is brought up to date by its server too. The password belongs in HEYDAY_STATE \
        or in a file that the configuration names."
    )]
    Migrate(migrate::MigrateArgs),
    /// Look whether everything that the configuration names can be used, and say what to do
    #[command(
        after_help = "Examples:\n  heyday doctor --config heyday.toml\n  heyday doctor --config heyday.toml -o json\n\n\
        It asks the state, each binding, the models and, with `--engine temporal`, the cluster, from this machine; \
        no server needs to run. Where a container may be written, an object of a name of its own is written and \
        deleted. The exit code is 5 if something cannot be used."
    )]
    Doctor(doctor::DoctorArgs),
    /// Whether the server is up and well
    #[command(
        after_help = "Examples:\n  heyday health\n  heyday health --server http://127.0.0.1:9000 -o json"
    )]
    Health,
    /// Write a completion script for a shell to stdout
    #[command(after_help = "Examples:\n  \
        heyday completions bash > ~/.local/share/bash-completion/completions/heyday\n  \
        heyday completions zsh > ~/.zfunc/_heyday\n  \
        heyday completions fish > ~/.config/fish/completions/heyday.fish")]
    Completions(CompletionsArgs),
}

impl Command {
    /// Whether it runs until it is asked to stop.
    #[must_use]
    pub const fn is_process(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Serve(_) | Self::Worker(_))
    }
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Runs a command; one that [runs until it is stopped](Command::is_process) wants a
/// multi-threaded runtime.
///
/// # Errors
/// Whatever the command could not do; see [`CliError`] for the exit code.
pub async fn run(cli: Cli) -> Result<(), CliError> {
    let global = cli.global;
    match cli.command {
        Command::Up(args) => up::run(args, &global).await,
        Command::Serve(args) => up::serve(args, &global).await,
        Command::Worker(args) => worker::run(args, &global).await,
        Command::Token(command) => token::run(command, &global.context()?).await,
        Command::Plugin(command) => plugin::run(command, &global).await,
        Command::Flow(command) => flow::run(command, &global).await,
        Command::Workflow(command) => workflow::run(command, &global.context()?).await,
        Command::Schedule(command) => schedule::run(command, &global.context()?).await,
        Command::Event(command) => event::run(command, &global.context()?).await,
        Command::Activity(command) => activity::run(command, &global.context()?).await,
        Command::Grant(args) => grant::run(args, &global.context()?).await,
        Command::Audit(command) => audit::run(command, &global.context()?).await,
        Command::Queue(command) => status::queues(command, &global.context()?).await,
        Command::Model(command) => model::run(command, &global.context()?).await,
        Command::Binding(status::BindingCommand::List) => {
            status::bindings(&global.context()?).await
        }
        Command::Binding(status::BindingCommand::Setup(args)) => {
            status::setup(&args, &global.output())
        }
        Command::Migrate(args) => migrate::run(args, &global).await,
        Command::Doctor(args) => doctor::run(args, &global).await,
        Command::Health => status::health(&global.context()?).await,
        Command::Completions(args) => completions(args.shell, &global.output()),
    }
}

fn completions(shell: Shell, output: &Output) -> Result<(), CliError> {
    // Into memory first: clap_complete panics when stdout is closed on it.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "heyday", &mut script);
    output.line(String::from_utf8_lossy(&script).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("heyday").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_begins_where_the_readme_does() {
        let command = Cli::command();
        let help = command.get_after_help().map(ToString::to_string);
        let help = help.expect("what stands below the commands");
        let readme = include_str!("../../../../README.md");
        let first: Vec<&str> = FIRST_STEPS_HELP.lines().skip(1).collect();
        assert_eq!(first.len(), 4);
        for line in first {
            assert!(help.contains(line), "{line} in {help}");
            assert!(readme.contains(line.trim()), "{line}");
            let words = line.trim().strip_prefix("heyday ").expect("a command");
            parse(words).expect(line);
        }
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        fn visit(command: &clap::Command, path: &str) {
            for sub in command
                .get_subcommands()
                .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
            {
                let path = format!("{path} {}", sub.get_name());
                assert!(sub.get_about().is_some(), "`{path}` has no description");
                if sub.has_subcommands() {
                    visit(sub, &path);
                } else {
                    let help = sub
                        .get_after_help()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    assert!(help.contains("Example"), "`{path}` has no example");
                    assert!(
                        help.contains(&path),
                        "the examples of `{path}` are of another command: {help}"
                    );
                }
                for argument in sub.get_arguments() {
                    assert!(
                        argument.get_help().is_some(),
                        "`{path}` {} has no help",
                        argument.get_id()
                    );
                }
            }
        }
        let mut command = Cli::command();
        command.build();
        visit(&command, "heyday");
    }

    #[test]
    fn global_options_may_come_last() {
        let cli = parse("plugin list --server localhost:9 -o json --namespace team-a -vv")
            .expect("parsed");
        assert_eq!(cli.global.server.as_str(), "http://localhost:9/");
        assert!(cli.global.output().is_json());
        assert_eq!(cli.global.namespace.as_deref(), Some("team-a"));
        assert_eq!(cli.global.verbose, 2);
    }

    #[test]
    fn the_documentation_lists_every_variable() {
        use clap::CommandFactory as _;
        fn look(command: &clap::Command, text: &str) -> usize {
            let of_arguments = command.get_arguments().filter_map(clap::Arg::get_env);
            let mut count = 0;
            for variable in of_arguments {
                let row = format!("| `{}` |", variable.to_string_lossy());
                assert!(text.contains(&row), "docs/configuration.md has no {row}");
                count += 1;
            }
            let below = command.get_subcommands();
            count + below.map(|command| look(command, text)).sum::<usize>()
        }
        let text = include_str!("../../../../docs/configuration.md");
        assert!(look(&Cli::command(), text) >= 7);
    }

    #[test]
    fn the_help_of_up_names_every_setting() {
        use serde_json::{Map, Value};
        /// Finds the keys at the top, and the tables at any depth; keys of tables are for the
        /// documentation.
        fn look(table: &Map<String, Value>, above: &str, words: &[&str]) {
            for (key, value) in table {
                let path = format!("{above}{key}");
                if let Some(below) = value.as_object() {
                    let (whole, part) = (format!("[{path}]"), format!("[{path}."));
                    let named = |word: &&str| word.starts_with(&whole) || word.starts_with(&part);
                    assert!(words.iter().any(named), "{whole} is not in {words:?}");
                    look(below, &format!("{path}."), words);
                } else if above.is_empty() {
                    assert!(words.contains(&key.as_str()), "{key} is not in {words:?}");
                }
            }
        }
        let mut cli = Cli::command();
        let up = cli.find_subcommand_mut("up").expect("a command");
        let help = up.render_long_help().to_string();
        let keys = help.split_once("Keys of the configuration file");
        let (_, keys) = keys.expect("what the file may have");
        let separator = |c: char| c.is_whitespace() || c == ',';
        let words: Vec<&str> = keys.split(separator).collect();
        // As JSON, which has settings that are absent unless they are set: as null.
        let config = serde_json::to_value(heyday::config::Config::default()).expect("JSON");
        look(config.as_object().expect("an object"), "", &words);
    }

    #[test]
    fn wrong_global_options_are_refused() {
        for line in [
            "plugin list --namespace Team",
            "plugin list --output yaml",
            "plugin list --server ftp://x",
            "plugin list --token a",
            "plugin",
            "sing",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn completions_are_written_for_each_shell() {
        for shell in [
            Shell::Bash,
            Shell::Zsh,
            Shell::Fish,
            Shell::Elvish,
            Shell::PowerShell,
        ] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "heyday", &mut script);
            assert!(
                String::from_utf8_lossy(&script).contains("workflow"),
                "{shell}"
            );
        }
    }
}
