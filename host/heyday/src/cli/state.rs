//! The option that says where a server's state is, and what `heyday doctor` finds there.

use clap::Args;
use heyday::config::Config;
use heyday::state::{HostDb, Look, StateError, StateLocation, StateUrl, newest};
use heyday_capabilities::diagnosis::{Finding, Findings};
use heyday_capabilities::postgres::Place;

use super::error::CliError;
use super::process::unusable;

/// The oldest PostgreSQL that docs/state.md promises.
const OLDEST: [u32; 2] = [14, 0];

/// The variable that says it, which may have the password.
const VARIABLE: &str = "HEYDAY_STATE";

/// Where the state is.
#[derive(Debug, Clone, Args)]
pub struct StateArgs {
    /// Where the server's own state is, for several servers: postgres://ROLE@HOST/DATABASE [default: host.db in the data folder]
    // Not parsed by clap, whose message would show it.
    #[arg(long, value_name = "URL", env = VARIABLE, hide_env_values = true)]
    pub state: Option<String>,
}

impl StateArgs {
    /// Puts it over the configuration.
    pub fn apply(&self, config: &mut Config) -> Result<(), CliError> {
        let Some(text) = self.state.as_ref().filter(|text| !text.is_empty()) else {
            return Ok(());
        };
        let url: StateUrl = text
            .parse()
            .map_err(|error| CliError::usage(format!("--state: {error}")))?;
        if url.has_password() && std::env::var(VARIABLE).ok().as_ref() != Some(text) {
            return Err(CliError::usage_help(
                "--state has a password, which everybody on this machine would see",
                format!(
                    "put the whole address in {VARIABLE}, or the password in a file that \
                 `state.password_file` of the configuration names"
                ),
            ));
        }
        if url.has_password() {
            // It has all of it.
            config.state.password_file = None;
        }
        config.state.url = Some(url);
        Ok(())
    }
}

/// What an error of the state is on the command line.
pub fn failed(location: &StateLocation, error: &StateError) -> CliError {
    CliError::Unusable(words(location, error))
}

/// An error with its causes, and where the state is.
fn words(location: &StateLocation, error: &StateError) -> String {
    let mut text = format!("{location}: {error}");
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Whether the state can be used, and what to do; and where it is, if a server has it.
pub async fn diagnose(config: &Config) -> Result<(Vec<Finding>, Option<Place>), CliError> {
    let location = config.state_location().map_err(unusable)?;
    let mut findings = Findings::default();
    let mut place = None;
    match HostDb::look(&location).await {
        Ok(Some(look)) => {
            tell(&mut findings, &location, &look);
            place = look.place;
        }
        Ok(None) => findings.ok("reach", format!("{location} is made by the first server")),
        Err(error) => {
            let advice = match error {
                StateError::TooNew { .. } => {
                    "use the version of Heyday that wrote it, or a newer one"
                }
                _ => {
                    "start the database, or correct --state, its password, or the rights of its role"
                }
            };
            findings.fail("reach", words(&location, &error), advice);
        }
    }
    Ok((findings.into_inner(), place))
}

/// What was found of a state that answers.
fn tell(findings: &mut Findings, location: &StateLocation, found: &Look) {
    findings.ok(
        "reach",
        format!("{location} answered in {:.1?}", found.connected_in),
    );
    findings.took(found.answered_in.clone());
    match found.version.split_once(' ') {
        Some((product, version)) if matches!(location, StateLocation::Postgres(_)) => {
            if findings.version(product, version, OLDEST).is_err() {
                return;
            }
        }
        _ => findings.ok("version", found.version.as_str()),
    }
    if found.schema == newest() {
        findings.ok("schema", format!("{}, as this version needs", found.schema));
    } else {
        let text = format!("{}, and this version needs {}", found.schema, newest());
        match location {
            StateLocation::File(_) => {
                findings.ok("schema", format!("{text}: its server sees to it"))
            }
            StateLocation::Postgres(_) => {
                findings.fail("schema", text, "run `heyday migrate` with the same --state");
            }
        }
    }
    match &found.lacking {
        Some(lacking) => findings.fail(
            "rights",
            lacking.as_str(),
            "let the role own the database's schema, or grant it USAGE and CREATE there",
        ),
        // A file's rights show when it is opened.
        None if matches!(location, StateLocation::File(_)) => {}
        None => findings.ok("rights", "the role may make tables in its schema"),
    }
    if let Some(theirs) = found.clock_ms {
        findings.clock(theirs);
    }
}
