//! `heyday up`: the whole server in this process, until it is asked to stop.
//!
//! The only command that is no client: it makes a [`Config`] of the file and the options,
//! starts [`Server`], says where everything is, and waits for Ctrl-C or SIGTERM. The
//! first one drains (running attempts get their grace, and whatever is cut off goes on at
//! the next start); a second one ends the process at once, which loses nothing either.

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use heyday::config::{Config, ConfigError, EngineKind, default_data_dir};
use heyday::server::{Server, ServerError};
use heyday::telemetry::{self, Telemetry, TelemetryOptions};
use heyday_sandbox::SandboxError;
use serde_json::json;

use super::error::{CliError, code};
use super::options::GlobalOptions;
use super::output::Output;
use super::progress::Step;
use super::table::fields;
use super::temporal::TemporalArgs;
use super::{client, input, view};

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
    /// A configuration file (TOML): queues, bindings, limits
    #[arg(
        long,
        value_name = "FILE",
        env = "HEYDAY_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
    /// Where compiled code is kept; servers of one user may share it [default: cache in the data folder]
    #[arg(long, value_name = "DIR", env = "HEYDAY_CACHE", hide_env_values = true)]
    pub cache: Option<PathBuf>,
    /// What makes runs durable [default: embedded]
    #[arg(long, value_name = "ENGINE", value_enum)]
    pub engine: Option<EngineKind>,
    /// The Temporal cluster.
    #[command(flatten)]
    pub temporal: TemporalArgs,
    /// How long running activities may go on after the first Ctrl-C [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = input::duration)]
    pub drain_grace: Option<Duration>,
    /// Where traces are sent by OTLP over HTTP, such as http://localhost:4318
    #[arg(
        long,
        value_name = "URL",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true
    )]
    pub otlp_endpoint: Option<String>,
    /// What is logged, as RUST_LOG [default: warn,heyday=info]
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", hide_env_values = true)]
    pub log: Option<String>,
    /// Log lines as JSON
    #[arg(long)]
    pub log_json: bool,
}

impl UpArgs {
    /// The configuration: the file, and over it what the command line says.
    fn config(&self, global: &GlobalOptions) -> Result<Config, CliError> {
        let mut config = match &self.config {
            Some(file) => Config::load(file).map_err(unusable)?,
            None => Config {
                data_dir: global.data_folder()?,
                ..Config::default()
            },
        };
        if let Some(data) = &global.data {
            config.data_dir.clone_from(data);
        }
        if let Some(cache) = &self.cache {
            config.cache_dir = Some(cache.clone());
        }
        // What is printed must be true from any folder.
        config.data_dir = std::path::absolute(&config.data_dir).map_err(|error| {
            CliError::usage(format!("--data {}: {error}", config.data_dir.display()))
        })?;
        if let Some(address) = self.listen {
            config.listen = address;
        }
        if let Some(port) = self.port {
            config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
        if let Some(engine) = self.engine {
            config.engine = engine;
        }
        self.temporal.apply(&mut config)?;
        if let Some(grace) = self.drain_grace {
            config.drain_grace = grace;
        }
        if let Some(endpoint) = self
            .otlp_endpoint
            .as_ref()
            .filter(|endpoint| !endpoint.is_empty())
        {
            config.otlp_endpoint = Some(endpoint.clone());
        }
        config.check().map_err(unusable)?;
        Ok(config)
    }
}

fn unusable(error: ConfigError) -> CliError {
    CliError::usage(error.to_string())
}

fn not_started(error: ServerError) -> CliError {
    match error {
        ServerError::Config(error) => unusable(error),
        error @ (ServerError::AddressTaken(_) | ServerError::InUse(_)) => CliError::Refused {
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

/// Ctrl-C and SIGTERM, as many as come.
struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn listen() -> std::io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        // Without a way to be asked to stop it goes on.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Runs the server until it is asked to stop. Wants a multi-threaded runtime.
pub async fn run(args: UpArgs, global: &GlobalOptions) -> Result<(), CliError> {
    let output = global.output();
    let config = args.config(global)?;
    let grace = config.drain_grace;
    let telemetry = telemetry::install(&TelemetryOptions {
        filter: args
            .log
            .clone()
            .filter(|text| !text.is_empty())
            .or_else(|| filter(global.verbose)),
        json: args.log_json,
        otlp_endpoint: config.otlp_endpoint.clone(),
    })
    .map_err(|error| CliError::usage(error.to_string()))?;
    // Before anything is opened, so that none is missed.
    let mut signals = Signals::listen()
        .map_err(|error| anyhow::Error::new(error).context("signals cannot be received"))?;
    let step = Step::spinner(
        &output,
        &format!("Starting in {}", config.data_dir.display()),
    );
    let started = tokio::select! {
        started = Box::pin(Server::start(config)) => started.map_err(not_started),
        () = signals.next() => Err(CliError::Interrupted {
            message: "the server had not started yet".to_owned(),
            help: "nothing is lost; start it again with `heyday up`".to_owned(),
        }),
    };
    step.clear();
    let server = started?;
    announce(&server, &output)?;
    signals.next().await;
    output.note(&format!(
        "Stopping. Running activities have {} to end; what is cut off goes on at the next start. \
         Ctrl-C again stops at once.",
        view::duration(grace)
    ));
    tokio::select! {
        () = server.drain() => {}
        () = signals.next() => {
            output.note("Stopped at once. Open runs go on at the next start.");
            // Nothing is torn down in order any more: that is what was asked for.
            std::process::exit(i32::from(code::INTERRUPTED));
        }
    }
    shut_down(telemetry).await;
    output.note("Stopped. Open runs go on at the next start.");
    Ok(())
}

fn filter(verbose: u8) -> Option<String> {
    match verbose {
        0 => None,
        1 => Some("info,heyday=debug".to_owned()),
        _ => Some("debug".to_owned()),
    }
}

async fn shut_down(telemetry: Telemetry) {
    // It blocks. What panics in it was to be sent, not to be relied on.
    let _ = tokio::task::spawn_blocking(move || telemetry.shutdown()).await;
}

/// Says where everything is and what to do next.
fn announce(server: &Server, output: &Output) -> Result<(), CliError> {
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
        ("  token", server.token_file().display().to_string()),
    ];
    // The token itself only where a person reads it: a log file is read by others.
    if std::io::stdout().is_terminal()
        && let Ok(token) = client::read_token(server.token_file())
    {
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
        next_commands(server)
    ))?;
    output.line("\nCtrl-C stops it; open runs go on at the next start.")
}

/// Commands to be pasted, after the settings that they need to find this server.
fn next_commands(server: &Server) -> String {
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
    use std::path::Path;

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
    fn a_relative_folder_is_named_in_full() {
        let read = config(&["--data", "here"]).expect("a configuration");
        assert!(read.data_dir.is_absolute() && read.data_dir.ends_with("here"));
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
