//! Where the server's own state is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, EngineKind, wrong};
use crate::state::{StateLocation, StateUrl};

/// Where the server's own state is: `host.db` in the data folder where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateConfig {
    /// `postgres://ROLE@HOST[:PORT]/DATABASE`, which several servers may share.
    pub url: Option<StateUrl>,
    /// A file with the role's password.
    pub password_file: Option<PathBuf>,
}

impl StateConfig {
    /// The paths that it names.
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.password_file.iter_mut()
    }

    /// Finds what cannot work.
    pub(super) fn check(&self, engine: EngineKind) -> Result<(), ConfigError> {
        if self.url.is_some() && engine == EngineKind::Embedded {
            return wrong(
                "state",
                "a state in PostgreSQL is for several servers, and the engine `embedded` keeps its \
                 runs in this one's data folder: choose `--engine temporal`, or leave --state out",
            );
        }
        if self.url.is_none() && self.password_file.is_some() {
            return wrong("state.password_file", "there is no state.url that needs it");
        }
        let has = self.url.as_ref().is_some_and(StateUrl::has_password);
        if has && self.password_file.is_some() {
            return wrong(
                "state.password_file",
                "state.url has a password too: say one",
            );
        }
        Ok(())
    }

    /// Where the state is, with its password.
    ///
    /// # Errors
    /// When the password cannot be read.
    pub fn location(&self, data: &Path) -> Result<StateLocation, ConfigError> {
        let url = match (&self.url, &self.password_file) {
            (Some(url), Some(path)) => {
                let password =
                    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                        path: path.display().to_string(),
                        source,
                    })?;
                Some(url.with_password(password.trim_end_matches(['\r', '\n'])))
            }
            (url, _) => url.clone(),
        };
        Ok(StateLocation::of(url.as_ref(), data))
    }
}

impl Config {
    /// Where the state is, with its password.
    ///
    /// # Errors
    /// When the password cannot be read.
    pub fn state_location(&self) -> Result<StateLocation, ConfigError> {
        self.state.location(&self.data_dir)
    }
}
