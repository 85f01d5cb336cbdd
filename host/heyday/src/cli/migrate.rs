//! `heyday migrate`: brings the state of the servers to the schema of this version.

use std::path::PathBuf;

use clap::Args;
use heyday::auth;
use heyday::config::{Config, EngineKind};
use heyday::data_folder::DataLock;
use heyday::secret_file;
use heyday::state::{HostDb, StateLocation, newest};
use serde_json::json;

use super::error::CliError;
use super::options::GlobalOptions;
use super::process::unusable;
use super::state::{StateArgs, failed};

/// Arguments of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Where the state is.
    #[command(flatten)]
    pub state: StateArgs,
    /// The configuration file of its servers (TOML)
    #[arg(
        long,
        value_name = "FILE",
        env = "HEYDAY_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
    /// Only look; the exit code is 5 where something is to be done
    #[arg(long)]
    pub check: bool,
    /// Make the token in this file the operator's, at all servers of a state in PostgreSQL
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    pub token_file: Option<PathBuf>,
}

/// Does it, or looks.
pub async fn run(args: MigrateArgs, global: &GlobalOptions) -> Result<(), CliError> {
    let output = global.output();
    let config = config(&args, global)?;
    let location = config.state_location().map_err(unusable)?;
    let failed = |error| failed(&location, &error);
    let newest = newest();
    if args.check {
        let found = HostDb::schema(&location).await.map_err(failed)?;
        if output.is_json() {
            let told = json!({ "state": location.to_string(), "schema": found, "newest": newest });
            output.raw_json(told.to_string().as_bytes())?;
        }
        if found < newest {
            return Err(CliError::Unusable(format!(
                "{location} has schema {found}, and this Heyday needs {newest}: run `heyday \
                 migrate`"
            )));
        }
        if !output.is_json() {
            output.line(&format!(
                "{location} has schema {found}, as this Heyday needs."
            ))?;
        }
        return Ok(());
    }
    // A running server has its file, and has brought it up to date.
    let _lock = match &location {
        StateLocation::File(_) => {
            Some(
                DataLock::take(&config.data_dir).map_err(|error| CliError::Refused {
                    message: error.to_string(),
                    help: None,
                })?,
            )
        }
        StateLocation::Postgres(_) => None,
    };
    let found = HostDb::migrate(&location).await.map_err(failed)?;
    if let Some(file) = &args.token_file {
        replace_token(&location, file).await?;
    }
    if output.is_json() {
        let told = json!({ "state": location.to_string(), "found": found, "schema": newest });
        return output.raw_json(told.to_string().as_bytes());
    }
    output.line(&if found == newest {
        format!("{location} has schema {newest} already.")
    } else {
        format!("{location} went from schema {found} to {newest}.")
    })
}

async fn replace_token(location: &StateLocation, file: &std::path::Path) -> Result<(), CliError> {
    if matches!(location, StateLocation::File(_)) {
        return Err(CliError::usage(
            "--token-file is for a state in PostgreSQL; a server with a data folder of its own \
             takes the token in the file `token` there",
        ));
    }
    let token = secret_file::read(file)
        .map_err(|error| CliError::usage(format!("{}: {error}", file.display())))?;
    let replaced = async {
        let state = HostDb::open(location).await?;
        let done = state.replace_operator_token(&auth::digest(&token)).await;
        state.close().await;
        done
    };
    replaced.await.map_err(|error| failed(location, &error))
}

fn config(args: &MigrateArgs, global: &GlobalOptions) -> Result<Config, CliError> {
    let mut config = match &args.config {
        Some(file) => Config::load(file).map_err(unusable)?,
        None => Config {
            data_dir: global.data_folder()?,
            ..Config::default()
        },
    };
    if let Some(data) = &global.data {
        config.data_dir.clone_from(data);
    }
    args.state.apply(&mut config)?;
    if config.state.url.is_some() {
        // Whatever engine its servers have is named where they start.
        config.engine = EngineKind::Temporal;
    }
    config.check().map_err(unusable)?;
    Ok(config)
}
