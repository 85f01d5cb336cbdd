//! `heyday up`: the whole server in this process, until it is asked to stop; `heyday serve`:
//! the same without the work, which it leaves to workers.
//!
//! It makes a [`Config`] of the file and the options, starts [`Server`], says where
//! everything is, and waits until it is asked to stop ([`Process`]).

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use clap::Args;
use heyday::config::{Config, EngineKind, default_data_dir};
use heyday::server::{Server, ServerError};
use heyday::state::StateError;
use heyday_durable::temporal::Tasks;
use heyday_sandbox::SandboxError;
use serde_json::json;

use super::error::CliError;
use super::options::GlobalOptions;
use super::output::Output;
use super::process::{Process, ProcessArgs, told, unusable};
use super::progress::Step;
use super::state::StateArgs;
use super::table::fields;
use super::{client, view};

/// Where clients look for a server when they are not told.
const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// The address of the API; a loopback address [default: 127.0.0.1:8000]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "HEYDAY_LISTEN",
        hide_env_values = true
    )]
    pub listen: Option<SocketAddr>,
    /// The port of the API, on 127.0.0.1; 0 takes a free one
    #[arg(long, value_name = "PORT", conflicts_with = "listen")]
    pub port: Option<u16>,
    /// What makes runs durable [default: embedded]
    #[arg(long, value_name = "ENGINE", value_enum)]
    pub engine: Option<EngineKind>,
    /// Where its state is.
    #[command(flatten)]
    pub state: StateArgs,
    /// What every process of the server takes.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Take workflow tasks too; without it workers take them all
    #[arg(long)]
    pub workflows: bool,
    /// As `up` is told.
    #[command(flatten)]
    pub up: UpArgs,
}

impl UpArgs {
    /// The configuration: the file, and over it what the command line says.
    pub fn config(&self, global: &GlobalOptions) -> Result<Config, CliError> {
        let mut config = self.process.config(global, self.engine)?;
        if let Some(address) = self.listen {
            config.listen = address;
        }
        if let Some(port) = self.port {
            config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
        self.state.apply(&mut config)?;
        config.check().map_err(unusable)?;
        Ok(config)
    }
}

impl ServeArgs {
    /// The configuration, whose engine must be one that other processes can work for.
    fn config(&self, global: &GlobalOptions) -> Result<Config, CliError> {
        let config = self.up.config(global)?;
        if config.engine != EngineKind::Temporal {
            return Err(CliError::usage_help(
                "`heyday serve` leaves the work to workers, which needs a Temporal cluster",
                "add --engine temporal and --temporal-address HOST:PORT; `heyday up` runs \
                 everything in one process",
            ));
        }
        Ok(config)
    }
}

fn not_started(error: ServerError) -> CliError {
    match error {
        ServerError::Config(error) => unusable(error),
        error @ (ServerError::AddressTaken(_) | ServerError::InUse(_)) => CliError::Refused {
            message: error.to_string(),
            help: None,
        },
        ServerError::State(
            error
            @ (StateError::TooOld { .. } | StateError::TooNew { .. } | StateError::OtherToken),
        ) => CliError::Refused {
            message: error.to_string(),
            help: None,
        },
        ServerError::Sandbox(SandboxError::Cache(error)) => CliError::Refused {
            message: error.to_string(),
            help: Some("name another folder with --cache DIR".to_owned()),
        },
        // Its text has its causes already.
        error => CliError::Other(anyhow::anyhow!("the server does not start: {error}")),
    }
}

/// Runs everything in this process until it is asked to stop. Wants a multi-threaded
/// runtime.
pub async fn run(args: UpArgs, global: &GlobalOptions) -> Result<(), CliError> {
    let config = args.config(global)?;
    serve_until_stopped(&args, config, Tasks::All, global).await
}

/// Runs the API and the registry until it is asked to stop, and leaves activities to
/// workers. Wants a multi-threaded runtime.
pub async fn serve(args: ServeArgs, global: &GlobalOptions) -> Result<(), CliError> {
    let config = args.config(global)?;
    let tasks = if args.workflows {
        Tasks::Workflows
    } else {
        Tasks::None
    };
    serve_until_stopped(&args.up, config, tasks, global).await
}

async fn serve_until_stopped(
    args: &UpArgs,
    config: Config,
    tasks: Tasks,
    global: &GlobalOptions,
) -> Result<(), CliError> {
    let output = global.output();
    let grace = config.drain_grace;
    let mut process = Process::begin(&args.process, &config, global)?;
    let step = Step::spinner(
        &output,
        &format!("Starting in {}", config.data_dir.display()),
    );
    let started = tokio::select! {
        started = Box::pin(Server::start(config, tasks)) => started.map_err(not_started),
        () = process.asked_to_stop() => Err(CliError::Interrupted {
            message: "the server had not started yet".to_owned(),
            help: "nothing is lost; start it again".to_owned(),
        }),
    };
    step.clear();
    let server = started?;
    told(announce(&server, tasks, &output))?;
    process.asked_to_stop().await;
    output.note(&format!(
        "Stopping. Running activities have {} to end; what is cut off goes on at the next start. \
         Ctrl-C again stops at once.",
        view::duration(grace)
    ));
    process.end(server.drain(), &output).await;
    output.note("Stopped. Open runs go on at the next start.");
    Ok(())
}

/// Says where everything is and what to do next.
fn announce(server: &Server, tasks: Tasks, output: &Output) -> Result<(), CliError> {
    let url = format!("http://{}", server.address());
    if output.is_json() {
        return output.line(
            &json!({
                "url": url,
                "data": server.data(),
                "token_file": server.token_file(),
                "version": env!("CARGO_PKG_VERSION"),
            })
            .to_string(),
        );
    }
    let style = output.style;
    let mut pairs = vec![
        ("  API", format!("{url}  (its documentation: {url}/docs)")),
        ("  data", server.data().display().to_string()),
        (
            "  token",
            match server.token_file() {
                Some(file) => file.display().to_string(),
                None => "that of the other servers".to_owned(),
            },
        ),
    ];
    if let Some(token) = shown_token(server.token_file(), std::io::stdout().is_terminal()) {
        pairs.push(("", token));
    }
    output.line(&format!(
        "{} Heyday {} is up",
        style.good("✓"),
        env!("CARGO_PKG_VERSION")
    ))?;
    output.line(&fields(style, &pairs))?;
    output.line(&format!(
        "\nTry next, in another terminal:\n{}",
        next_commands(server, tasks)
    ))?;
    output.line("\nCtrl-C stops it; open runs go on at the next start.")
}

/// The token itself, only where a person reads it: a log file is read by others.
fn shown_token(file: Option<&Path>, terminal: bool) -> Option<String> {
    file.filter(|_| terminal)
        .and_then(|file| client::read_token(file).ok())
}

/// Commands to be pasted, after the settings that they need to find this server.
fn next_commands(server: &Server, tasks: Tasks) -> String {
    let default_data = default_data_dir().is_some_and(|data| data == server.data());
    let mut lines = Vec::new();
    if server.address() != DEFAULT_ADDRESS {
        lines.push(format!(
            "  export HEYDAY_SERVER=http://{}",
            server.address()
        ));
    }
    if !default_data {
        let data = view::shell_word(&server.data().display().to_string());
        lines.push(format!("  export HEYDAY_DATA={data}"));
    }
    if tasks != Tasks::All {
        lines.push("  heyday token create --worker > worker-token".to_owned());
        lines.push("  heyday worker --token-file worker-token".to_owned());
    }
    for command in [
        "heyday plugin new hello",
        "heyday plugin push hello",
        "heyday activity run hello.greet --input '{\"name\": \"Ada\"}'",
    ] {
        lines.push(format!("  {command}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;
    use std::path::PathBuf;
    use std::time::Duration;

    fn config(words: &[&str]) -> Result<Config, CliError> {
        let cli = Cli::try_parse_from(["heyday", "up"].iter().chain(words)).expect("parsed");
        match cli.command {
            Command::Up(args) => args.config(&cli.global),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_goes_over_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("heyday.toml");
        std::fs::write(
            &file,
            "data_dir = 'd'\nlisten = '127.0.0.1:7'\ndrain_grace = '3s'\n",
        )
        .expect("written");
        let file = file.to_str().expect("text");
        let read = config(&["--config", file]).expect("a configuration");
        assert_eq!(read.data_dir, folder.path().join("d"));
        assert_eq!(read.listen.port(), 7);
        assert_eq!(read.drain_grace, Duration::from_secs(3));
        let read = config(&[
            "--config",
            file,
            "--data",
            "/elsewhere",
            "--port",
            "9",
            "--drain-grace",
            "1m",
        ]);
        let read = read.expect("a configuration");
        assert_eq!(read.data_dir, Path::new("/elsewhere"));
        assert_eq!(read.listen, SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
        assert_eq!(read.drain_grace, Duration::from_secs(60));
    }

    #[test]
    fn options_of_temporal_go_over_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("heyday.toml");
        let text = "[temporal]\naddress = 'file:1'\nnamespace = 'file'\ntls = true\n";
        std::fs::write(&file, text).expect("written");
        let file = file.to_str().expect("text");
        let read = config(&[
            "--config",
            file,
            "--temporal-address",
            "typed:2",
            "--temporal-tls=false",
        ]);
        let temporal = read.expect("a configuration").temporal;
        assert_eq!(temporal.address.as_deref(), Some("typed:2"));
        assert_eq!(temporal.namespace.as_deref(), Some("file"));
        assert_eq!(temporal.tls, Some(false));
        let read = config(&["--data", "/x", "--temporal-tls"]);
        assert_eq!(read.expect("a configuration").temporal.tls, Some(true));
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_opened() {
        for words in [
            &["--data", "/x", "--listen", "0.0.0.0:8000"][..],
            &["--config", "/no/such/file"],
            &["--data", "/x", "--otlp-endpoint", "localhost:4318"],
            &[
                "--data",
                "/x",
                "--engine",
                "temporal",
                "--temporal-api-key-file",
                "/no/such/file",
            ],
        ] {
            assert_eq!(config(words).expect_err("refused").code(), 2, "{words:?}");
        }
        assert!(
            Cli::try_parse_from(["heyday", "up", "--port", "1", "--listen", "127.0.0.1:1"])
                .is_err()
        );
        assert!(Cli::try_parse_from(["heyday", "up", "--port", "65536"]).is_err());
    }

    #[test]
    fn serve_needs_a_cluster() {
        let serve = |words: &[&str]| {
            let words = ["heyday", "serve", "--data", "/x"].iter().chain(words);
            match Cli::try_parse_from(words).expect("parsed").command {
                Command::Serve(args) => args.config(&GlobalOptions::for_tests("/x")),
                other => panic!("{other:?}"),
            }
        };
        let error = serve(&[]).expect_err("refused");
        assert_eq!(error.code(), 2);
        assert!(error.to_string().contains("Temporal"), "{error}");
        let read = serve(&["--engine", "temporal"]).expect("a configuration");
        assert_eq!(read.engine, EngineKind::Temporal);
    }

    #[test]
    fn a_state_in_postgresql_needs_a_cluster_and_shows_no_password() {
        let error = config(&["--data", "/x", "--state", "postgres://r@localhost/d"]);
        let error = error.expect_err("embedded");
        assert_eq!(error.code(), 2);
        assert!(error.to_string().contains("--engine temporal"), "{error}");
        for url in [
            "postgres://r:hunter2@localhost/d",
            "mysql://r:hunter2@localhost/d",
        ] {
            let words = ["--data", "/x", "--engine", "temporal", "--state", url];
            let error = config(&words).expect_err("everybody would see it");
            assert_eq!(error.code(), 2);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_relative_folder_is_named_in_full() {
        let read = config(&["--data", "here"]).expect("a configuration");
        assert!(read.data_dir.is_absolute() && read.data_dir.ends_with("here"));
    }

    #[test]
    fn the_token_is_shown_to_a_person_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "t0ken\n").expect("written");
        let shown = shown_token(Some(&file), true);
        assert_eq!(shown.as_deref(), Some("t0ken"));
        assert_eq!(shown_token(Some(&file), false), None);
        // Several servers share one, which is in no file of theirs.
        assert_eq!(shown_token(None, true), None);
    }

    #[test]
    fn what_is_in_the_way_is_a_refusal() {
        let taken = not_started(ServerError::AddressTaken(DEFAULT_ADDRESS));
        assert_eq!(taken.code(), 4);
        assert!(taken.to_string().contains("--listen"), "{taken}");
        assert_eq!(
            not_started(ServerError::InUse(PathBuf::from("/x"))).code(),
            4
        );
    }
}
