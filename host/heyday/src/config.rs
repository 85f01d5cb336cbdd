//! The server's configuration: a TOML file, over it what the command line says.
//!
//! Unknown members are refused, so that a typing error is not a silent default. Every
//! member has a default; [`Config::check`] says what cannot work before anything is
//! opened.

mod bindings;
mod inference;
mod limits;
mod public;
mod state;
mod temporal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use heyday_capabilities::BindingsConfig;
use heyday_durable::definition::{AI_QUEUE, GENERAL_QUEUE, STORAGE_QUEUE};
use heyday_durable::temporal::{Resources, TemporalOptions};
use heyday_sandbox::Limits;
use serde::{Deserialize, Serialize};

pub use self::inference::InferenceConfig;
pub use self::limits::{LimitsConfig, ResourcesConfig, ThrottleConfig};
pub use self::state::StateConfig;
pub use self::temporal::TemporalConfig;
use crate::names;

/// The namespace where none is said.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The sandbox has at most so many slots.
pub(crate) const MAX_CALLS: usize = 5_000;
/// The most that [`LimitsConfig::upload_bytes`] may be.
pub const MAX_UPLOAD_BYTES: usize = 1 << 30;

/// How `heyday up`, `serve` and `worker` are set up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where everything is kept. The user's data folder where absent.
    pub data_dir: PathBuf,
    /// The address of the API; a loopback address.
    pub listen: SocketAddr,
    /// Further hosts, as a request's `Host` names them: those of a load balancer before
    /// this server, which then may have TLS.
    pub hosts: Vec<String>,
    /// Where clients reach this server, `http[s]://HOST[:PORT][/PATH]`: what the addresses
    /// begin with that it gives out. `http://` and `listen` where absent.
    pub public_url: Option<String>,
    /// Where the server's own state is.
    pub state: StateConfig,
    /// Where compiled code is kept; `cache` in the data folder where absent. Servers of
    /// one user may share a folder. Whoever can write there can run code as the server,
    /// so it must be this user's, and writable by nobody else.
    pub cache_dir: Option<PathBuf>,
    /// How many activities each queue runs at once, 1 to 1,000. Over the defaults:
    /// `ai-processing-queue` 5, `storage-queue` 20, `general-queue` 50.
    pub queues: BTreeMap<String, usize>,
    /// The queue of the activities of that plugin that name none, in every namespace, over the
    /// one that follows from what the plugin imports.
    pub default_queues: BTreeMap<String, String>,
    /// Databases, folders and stores that can be granted. In the namespace `default` there
    /// are always `sql`, `blob`, `kv`, `graph` and `vector` bindings named `default`, in the
    /// data folder unless they are said here.
    pub bindings: BindingsConfig,
    /// What makes runs durable.
    pub engine: EngineKind,
    /// The Temporal cluster, where runs are on one.
    pub temporal: TemporalConfig,
    /// What calls may use.
    pub limits: LimitsConfig,
    /// How models are run.
    pub inference: InferenceConfig,
    /// Where traces are sent by OTLP over HTTP, such as `http://localhost:4318`;
    /// nowhere where absent.
    pub otlp_endpoint: Option<String>,
    /// How long running attempts may go on after the server was asked to stop.
    #[serde(with = "heyday_durable::flow::duration::required")]
    pub drain_grace: Duration,
}

/// What makes runs durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// SQLite, in this process.
    #[default]
    Embedded,
    /// A Temporal cluster.
    Temporal,
}

impl EngineKind {
    /// Its name, as in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Temporal => "temporal",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: default_data_dir().unwrap_or_else(|| PathBuf::from(".heyday")),
            listen: SocketAddr::from(([127, 0, 0, 1], 8000)),
            hosts: Vec::new(),
            public_url: None,
            state: StateConfig::default(),
            cache_dir: None,
            queues: BTreeMap::new(),
            default_queues: BTreeMap::new(),
            bindings: BindingsConfig::default(),
            engine: EngineKind::default(),
            temporal: TemporalConfig::default(),
            limits: LimitsConfig::default(),
            inference: InferenceConfig::default(),
            otlp_endpoint: None,
            drain_grace: Duration::from_secs(10),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("the configuration {path} is not valid: {message}")]
    Parse {
        /// The file.
        path: String,
        /// Where and what.
        message: String,
    },
    /// A value that cannot work.
    #[error("the setting {setting}: {message}")]
    Value {
        /// Its name, as in the file.
        setting: String,
        /// What is wrong and what to do.
        message: String,
    },
}

/// The refusal of a setting.
fn wrong(setting: &str, message: &str) -> Result<(), ConfigError> {
    Err(ConfigError::Value {
        setting: setting.to_owned(),
        message: message.to_owned(),
    })
}

/// The user's folder for programs' data, with `heyday` below: `XDG_DATA_HOME`, or
/// `.local/share` in the home folder; none where neither is known.
#[must_use]
pub fn default_data_dir() -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    data.and_then(absolute)
        .or_else(|| {
            std::env::home_dir()
                .and_then(absolute)
                .map(|home| home.join(".local/share"))
        })
        .map(|data| data.join("heyday"))
}

impl Config {
    /// Reads a file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// When it cannot be read or is no configuration.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.display().to_string(),
            source,
        })?;
        let mut config: Self = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.display().to_string(),
            message: error.to_string(),
        })?;
        if let Some(folder) = path.parent() {
            let resolve = |path: &mut PathBuf| *path = folder.join(path.as_path());
            resolve(&mut config.data_dir);
            config.cache_dir.as_mut().map(resolve);
            config.inference.paths().for_each(resolve);
            config.temporal.paths().for_each(resolve);
            config.state.paths().for_each(resolve);
            for bindings in config.bindings.namespaces.values_mut() {
                bindings.paths().for_each(resolve);
            }
        }
        Ok(config)
    }

    /// Finds what cannot work.
    ///
    /// # Errors
    /// The first value that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !self.listen.ip().is_loopback() {
            return wrong(
                "listen",
                "there is no sign-in yet, so the API listens on loopback only; use 127.0.0.1",
            );
        }
        for host in &self.hosts {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
            if host.is_empty() || !host.bytes().all(allowed) {
                return wrong(
                    "hosts",
                    "each is a host as requests name it, such as heyday.example or \
                     heyday.example:8443",
                );
            }
        }
        self.check_public_url()?;
        self.state.check(self.engine)?;
        for (name, limit) in &self.queues {
            if !names::is_name(name) {
                return wrong(&format!("queues.{name}"), names::NAME_RULE);
            }
            if !(1..=1_000).contains(limit) {
                return wrong(
                    &format!("queues.{name}"),
                    "a queue runs 1 to 1,000 activities at once",
                );
            }
        }
        let known = self.queues();
        for (plugin, queue) in &self.default_queues {
            let setting = format!("default_queues.{plugin}");
            if !names::is_name(plugin) {
                return wrong(&setting, names::NAME_RULE);
            }
            if !known.contains_key(queue) {
                let known = known.keys().cloned().collect();
                return wrong(&setting, &names::no_queue(queue, &known));
            }
        }
        if self.max_calls() > MAX_CALLS {
            return wrong(
                "queues",
                "all queues together run at most 4,995 activities at once",
            );
        }
        self.limits.check()?;
        self.inference.check()?;
        self.temporal.check()?;
        if self.engine == EngineKind::Temporal
            && let Err(error) = self.temporal_options().check()
        {
            return wrong("temporal", &error.to_string());
        }
        if let Some(endpoint) = &self.otlp_endpoint {
            let http =
                url::Url::parse(endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
            if !http {
                return wrong(
                    "otlp_endpoint",
                    "it is an address such as http://localhost:4318",
                );
            }
        }
        Ok(())
    }

    /// Every queue with its limit.
    #[must_use]
    pub fn queues(&self) -> BTreeMap<String, usize> {
        let mut queues = BTreeMap::from([
            (AI_QUEUE.to_owned(), 5),
            (STORAGE_QUEUE.to_owned(), 20),
            (GENERAL_QUEUE.to_owned(), 50),
        ]);
        queues.extend(self.queues.clone());
        queues
    }

    /// How the Temporal engine is opened.
    #[must_use]
    pub fn temporal_options(&self) -> TemporalOptions {
        let mut options = TemporalOptions::new(self.temporal.address(), self.queues());
        options.access = self.temporal.access();
        if let Some(timeout) = self.temporal.request_timeout {
            options.patience = timeout;
        }
        options.limits.history_events = self.limits.history_events;
        let wanted = &self.limits.resources;
        if wanted.memory.is_some() || wanted.cpu.is_some() {
            options.resources = Some(Resources {
                memory: wanted.memory.unwrap_or(1.0),
                cpu: wanted.cpu.unwrap_or(1.0),
            });
        }
        options.namespaces = BTreeMap::from([(
            DEFAULT_NAMESPACE.to_owned(),
            self.temporal.namespace().to_owned(),
        )]);
        options
    }

    /// Slots of the sandbox: all queues together, and 5 for uploads being described.
    #[must_use]
    pub fn max_calls(&self) -> usize {
        let sum = self
            .queues()
            .values()
            .fold(0_usize, |sum, limit| sum.saturating_add(*limit));
        sum.saturating_add(5)
    }

    /// Limits of one call of that plugin.
    #[must_use]
    pub fn plugin_limits(&self, plugin: &str) -> &Limits {
        self.limits.plugins.get(plugin).unwrap_or(&self.limits.call)
    }

    /// Where compiled code is kept.
    #[must_use]
    pub fn cache_dir(&self) -> PathBuf {
        self.cache_dir
            .clone()
            .unwrap_or_else(|| self.data_dir.join("cache"))
    }

    /// Where imported models are kept.
    #[must_use]
    pub fn models_dir(&self) -> PathBuf {
        self.inference
            .models_dir
            .clone()
            .unwrap_or_else(|| self.data_dir.join("models"))
    }
}
