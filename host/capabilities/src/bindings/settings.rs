//! Bindings of `config` and `secrets`: where an operator keeps settings and secrets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Binding, BindingError, Declared, Opening};
use crate::config::Settings;
use crate::secrets::Secrets;
use crate::secrets::gcp::GcpConfig;

/// Settings: in a file of TOML or JSON, in a folder with one file for each, or in variables
/// of the host's environment; one of them is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigBinding {
    /// The file, `*.toml` or `*.json`.
    pub file: Option<PathBuf>,
    /// The folder.
    pub folder: Option<PathBuf>,
    /// Whether in the environment; then `names` says all that is given out.
    pub environment: bool,
    /// What the plugins call a setting, and what it is called in the file, the folder or
    /// the environment. Where empty, all of a file or a folder by their own names.
    pub names: BTreeMap<String, String>,
}

/// Secrets: in a file of TOML or JSON, in a folder with one file for each, in variables of
/// the host's environment, or in Secret Manager of Google Cloud; one of them is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretsBinding {
    /// The file, `*.toml` or `*.json`.
    pub file: Option<PathBuf>,
    /// The folder.
    pub folder: Option<PathBuf>,
    /// Whether in the environment.
    pub environment: bool,
    /// Secret Manager.
    pub gcp: Option<GcpConfig>,
    /// All that is given out: what the plugins call a secret, and what it is called in the
    /// file, the folder, the environment or Secret Manager.
    pub names: BTreeMap<String, String>,
}

/// What of a source is given out: all of it, or the entries that are named. An entry of a file
/// is written as one of a folder is.
fn given_out(
    file: Option<&PathBuf>,
    folder: Option<&PathBuf>,
    names: &BTreeMap<String, String>,
) -> Vec<PathBuf> {
    let Some(place) = file.or(folder) else {
        return Vec::new();
    };
    if names.is_empty() {
        return vec![place.clone()];
    }
    names.values().map(|entry| place.join(entry)).collect()
}

impl Declared for ConfigBinding {
    // Nothing is written there; that nothing else may write there is what matters.
    fn place(&self) -> Option<(&PathBuf, bool)> {
        let path = self.file.as_ref().or(self.folder.as_ref())?;
        Some((path, true))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        self.file.iter_mut().chain(&mut self.folder).collect()
    }

    fn reached(&self) -> Vec<PathBuf> {
        given_out(self.file.as_ref(), self.folder.as_ref(), &self.names)
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

impl Binding for ConfigBinding {
    const CAPABILITY: &'static str = crate::config::NAME;
    type Opened = Settings;

    fn open(&self, opening: Opening<'_>) -> Result<Arc<Settings>, BindingError> {
        let Opening { full, runtime, .. } = opening;
        let opened = Settings::new(self, runtime.clone());
        let settings = opened.map_err(|source| BindingError::Config {
            binding: full.to_owned(),
            source,
        })?;
        Ok(Arc::new(settings))
    }
}

impl Declared for SecretsBinding {
    fn place(&self) -> Option<(&PathBuf, bool)> {
        let path = self.file.as_ref().or(self.folder.as_ref())?;
        Some((path, true))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let gcp = self.gcp.iter_mut().flat_map(GcpConfig::paths);
        let local = self.file.iter_mut().chain(&mut self.folder);
        local.chain(gcp).collect()
    }

    fn reached(&self) -> Vec<PathBuf> {
        given_out(self.file.as_ref(), self.folder.as_ref(), &self.names)
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        let timeout = self
            .gcp
            .as_ref()
            .map(|gcp| ("gcp.timeout_ms", gcp.timeout_ms));
        timeout.into_iter().collect()
    }
}

impl Binding for SecretsBinding {
    const CAPABILITY: &'static str = crate::secrets::NAME;
    type Opened = Secrets;

    fn open(&self, opening: Opening<'_>) -> Result<Arc<Secrets>, BindingError> {
        let Opening { full, runtime, .. } = opening;
        let opened = Secrets::new(self, runtime.clone());
        let secrets = opened.map_err(|source| BindingError::Secrets {
            binding: full.to_owned(),
            source,
        })?;
        Ok(Arc::new(secrets))
    }
}
