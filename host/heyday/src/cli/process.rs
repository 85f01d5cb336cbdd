//! What the commands have in common that run until they are asked to stop: their
//! configuration, their log, and how they stop.
//!
//! The first Ctrl-C or SIGTERM drains (running attempts get their grace); a second one
//! ends the process at once, which loses nothing that was acknowledged either.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use heyday::config::{Config, ConfigError, EngineKind};
use heyday::telemetry::{self, Telemetry, TelemetryOptions};

use super::error::{CliError, code};
use super::input;
use super::options::GlobalOptions;
use super::output::Output;
use super::temporal::TemporalArgs;

/// Arguments of every command that runs until it is asked to stop.
#[derive(Debug, Args)]
pub struct ProcessArgs {
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
    /// Where models run: auto, cpu or gpu:N [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
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

impl ProcessArgs {
    /// The configuration: the file, and over it what the command line says, the engine
    /// among it. It was not checked yet.
    pub fn config(
        &self,
        global: &GlobalOptions,
        engine: Option<EngineKind>,
    ) -> Result<Config, CliError> {
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
        if let Some(device) = &self.device {
            config.inference.device.clone_from(device);
        }
        // What is printed must be true from any folder.
        config.data_dir = std::path::absolute(&config.data_dir).map_err(|error| {
            CliError::usage(format!("--data {}: {error}", config.data_dir.display()))
        })?;
        if let Some(engine) = engine {
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
        Ok(config)
    }
}

/// A configuration that cannot be used.
pub fn unusable(error: ConfigError) -> CliError {
    CliError::usage(error.to_string())
}

/// What became of telling a person that a process is there: it works on where nobody reads that
/// (`heyday up | head -1`).
pub fn told(said: Result<(), CliError>) -> Result<(), CliError> {
    match said {
        Err(CliError::StdoutClosed) => Ok(()),
        said => said,
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

/// This process, while it runs until it is asked to stop.
pub struct Process {
    signals: Signals,
    telemetry: Telemetry,
}

impl Process {
    /// Sets up the log, and listens for signals: before anything is opened, so that none
    /// is missed.
    pub fn begin(
        args: &ProcessArgs,
        config: &Config,
        global: &GlobalOptions,
    ) -> Result<Self, CliError> {
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
        let signals = Signals::listen()
            .map_err(|error| anyhow::Error::new(error).context("signals cannot be received"))?;
        Ok(Self { signals, telemetry })
    }

    /// Waits until it is asked to stop.
    pub async fn asked_to_stop(&mut self) {
        self.signals.next().await;
    }

    /// Waits for a gentle end, or ends the process at once where it is asked again.
    pub async fn end(mut self, drained: impl Future<Output = ()>, output: &Output) {
        tokio::select! {
            () = drained => {}
            () = self.signals.next() => {
                output.note("Stopped at once. Open runs go on at the next start.");
                // Nothing is torn down in order any more: that is what was asked for.
                std::process::exit(i32::from(code::INTERRUPTED));
            }
        }
        let telemetry = self.telemetry;
        // It blocks. What panics in it was to be sent, not to be relied on.
        let _ = tokio::task::spawn_blocking(move || telemetry.shutdown()).await;
    }
}

fn filter(verbose: u8) -> Option<String> {
    match verbose {
        0 => None,
        1 => Some("info,heyday=debug".to_owned()),
        _ => Some("debug".to_owned()),
    }
}
