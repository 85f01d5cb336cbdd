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
    /// Databases and folders that can be granted. In the namespace `default` there are
    /// always `sql` and `blob` bindings named `default`, in the data folder unless they
    /// are said here.
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
        if self.max_calls() > MAX_CALLS {
            return wrong(
                "queues",
                "all queues together run at most 4,995 activities at once",
            );
        }
        self.limits.check()?;
        self.inference.check()?;
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

#[cfg(test)]
mod tests {
    use heyday_durable::temporal::{Access, Profile, Source};

    use super::*;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn the_defaults_are_those_of_the_design() {
        let config = parse("").expect("nothing is a configuration");
        assert_eq!(config, Config::default());
        config.check().expect("the defaults work");
        let queues = config.queues();
        assert_eq!(queues["ai-processing-queue"], 5);
        assert_eq!(queues["storage-queue"], 20);
        assert_eq!(queues["general-queue"], 50);
        assert_eq!(config.max_calls(), 80);
        let bindings = config.bindings();
        assert!(bindings.namespaces["default"].sql.contains_key("default"));
        assert!(bindings.namespaces["default"].blob.contains_key("default"));
    }

    #[test]
    fn shares_of_the_machine_are_the_engines_business() {
        let options = |text| parse(text).expect(text).temporal_options();
        assert_eq!(options("").resources, None);
        let wanted = Resources {
            memory: 0.8,
            cpu: 1.0,
        };
        let said = options("[limits]\nresources = { memory = 0.8 }");
        assert_eq!(said.resources, Some(wanted));
    }

    #[test]
    fn a_state_for_several_servers_needs_a_cluster_and_one_password() {
        let check = |text: &str| parse(text).expect(text).check();
        let url = "state.url = 'postgres://r@localhost/d'\n";
        let error = check(url).expect_err("embedded").to_string();
        assert!(error.contains("--engine temporal"), "{error}");
        check(&format!("engine = 'temporal'\n{url}")).expect("it may be");
        for text in [
            "state.password_file = 'f'",
            "engine = 'temporal'\nstate.url = 'postgres://r:p@localhost/d'\n\
             state.password_file = 'f'",
            "hosts = ['http://heyday.example']",
            "hosts = ['']",
        ] {
            check(text).expect_err(text);
        }
        let error = parse("state.url = 'postgres://r:hunter2@/d'").expect_err("no host");
        assert!(!error.message().contains("hunter2"), "{error}");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        std::fs::write(&file, "hunter2\n").expect("written");
        let text = format!("{url}state.password_file = '{}'\n", file.display());
        let location = parse(&text).expect("a configuration").state_location();
        let shown = format!("{:?}", location.expect("read"));
        assert!(
            shown.contains("***") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    #[test]
    fn unknown_members_are_refused() {
        for text in [
            "lisen = '127.0.0.1:1'",
            "[limits]\nupload = 1",
            "[limits.call]\nmemory = 1",
        ] {
            parse(text).expect_err(text);
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("heyday.toml");
        for (text, key, line) in [
            ("data_dir = 'd'\nlisen = '127.0.0.1:1'\n", "lisen", 2),
            ("\n\n[limits]\nupload = 1\n", "upload", 4),
            ("[limits.plugins.a]\n# none\nmemory = 1\n", "memory", 3),
            ("[bindings.namespaces.a]\nmongo = 1\n", "mongo", 2),
            (
                "[bindings.namespaces.a.sql.b]\npath = 'p'\nlimits = { rows = 1 }\n",
                "rows",
                3,
            ),
        ] {
            std::fs::write(&path, text).expect("written");
            let error = Config::load(&path).expect_err(text).to_string();
            assert!(error.contains("heyday.toml"), "{error}");
            assert!(error.contains(&format!("line {line}, ")), "{error}");
            assert!(error.contains(&format!("unknown field `{key}`")), "{error}");
        }
        std::fs::write(&path, "drain_grace = 'soon'\n").expect("written");
        let error = Config::load(&path).expect_err("no time").to_string();
        assert!(error.contains("line 1, "), "{error}");
    }

    /// The keys of a table, as the refusal of one that it has not names them.
    fn keys(table: &str) -> Vec<String> {
        let servers = [".postgres", ".neo4j", ".weaviate"];
        let required = match table.strip_prefix("bindings") {
            Some(rest) if servers.iter().any(|it| rest.ends_with(it)) => "url = 'u'\n",
            Some(rest) if rest.ends_with(".gcp") => "project = 'p'\n",
            Some(rest) if rest.ends_with(".s3") || rest.ends_with(".gcs") => "bucket = 'b'\n",
            Some(rest) if rest.ends_with(".NAME") && rest.contains(".blob.") => "path = 'p'\n",
            _ => "",
        };
        let header = if table.is_empty() {
            String::new()
        } else {
            format!("[{table}]\n")
        };
        let text = format!("{header}{required}no-such-key = 1\n");
        let message = parse(&text).expect_err(table).message().to_owned();
        let expected = message.split_once("expected").expect("the keys").1;
        let keys = expected.split('`').skip(1).step_by(2).map(str::to_owned);
        keys.collect()
    }

    #[test]
    fn the_documentation_lists_every_key() {
        let text = include_str!("../../../docs/configuration.md");
        let binding = "bindings.namespaces.NAMESPACE";
        let sql = format!("{binding}.sql.NAME");
        let blob = format!("{binding}.blob.NAME");
        let (s3, gcs) = (format!("{blob}.s3"), format!("{blob}.gcs"));
        let kv = format!("{binding}.kv.NAME");
        let graph = format!("{binding}.graph.NAME");
        let vector = format!("{binding}.vector.NAME");
        let postgres = format!("{sql}.postgres");
        let settings = format!("{binding}.config.NAME");
        let secrets = format!("{binding}.secrets.NAME");
        let gcp = format!("{secrets}.gcp");
        let neo4j = format!("{graph}.neo4j");
        let weaviate = format!("{vector}.weaviate");
        let mut count = 0;
        for table in [
            "",
            "temporal",
            "state",
            "inference",
            "inference.hubs.NAME",
            "inference.remote.NAME",
            "limits",
            "limits.call",
            "limits.http",
            "limits.throttle.NAME",
            "limits.resources",
            "bindings",
            binding,
            &sql,
            &postgres,
            &blob,
            &s3,
            &gcs,
            &kv,
            &settings,
            &secrets,
            &gcp,
            &graph,
            &neo4j,
            &vector,
            &weaviate,
        ] {
            for key in keys(table) {
                let whole = format!("{table}.{key}");
                let row = format!("| `{}` |", whole.trim_start_matches('.'));
                assert!(text.contains(&row), "docs/configuration.md has no {row}");
                count += 1;
            }
        }
        for binding in [&sql, &blob, &kv, &graph, &vector] {
            let row = format!("| `{binding}.limits` |");
            let row = text.lines().find(|line| line.starts_with(&row));
            let row = row.expect("the row was found before");
            for key in keys(&format!("{binding}.limits")) {
                assert!(row.contains(&format!("`{key}`")), "{key} is not in {row}");
                count += 1;
            }
        }
        assert!(count > 40, "{count} keys were found");
    }

    #[test]
    fn what_cannot_work_is_named() {
        for (text, setting) in [
            ("listen = '0.0.0.0:8000'", "listen"),
            ("public_url = 'heyday.example'", "public_url"),
            ("public_url = 'ftp://heyday.example'", "public_url"),
            ("public_url = 'https://a:b@heyday.example'", "public_url"),
            ("public_url = 'https://heyday.example/?a=b'", "public_url"),
            ("queues = { Fast = 1 }", "queues.Fast"),
            ("queues = { fast = 0 }", "queues.fast"),
            (
                "[queues]\na = 1000\nb = 1000\nc = 1000\nd = 1000\ne = 1000",
                "queues",
            ),
            ("limits.upload_bytes = 0", "limits.upload_bytes"),
            (
                "limits.throttle.a = { concurrent = 0 }",
                "limits.throttle.a.concurrent",
            ),
            (
                "limits.throttle.a = { per_second = nan }",
                "limits.throttle.a.per_second",
            ),
            ("limits.throttle.A = {}", "limits.throttle.A"),
            ("limits.resources.memory = 80.0", "limits.resources.memory"),
            ("limits.resources.cpu = 0.0", "limits.resources.cpu"),
            ("limits.guest_threads = 0", "limits.guest_threads"),
            ("limits.http.open_requests = 0", "limits.http.open_requests"),
            ("limits.compile_cpu = '0s'", "limits.compile_cpu"),
            ("limits.connections = 15", "limits.connections"),
            ("limits.waiting = 0", "limits.waiting"),
            ("limits.waiting = 1024", "limits.waiting"),
            ("limits.cache_bytes = 0", "limits.cache_bytes"),
            ("otlp_endpoint = 'localhost:4318'", "otlp_endpoint"),
            (
                "engine = 'temporal'\n[temporal]\naddress = 'nowhere'",
                "temporal",
            ),
            (
                "engine = 'temporal'\n[temporal]\nnamespace = ''",
                "temporal",
            ),
            (
                "engine = 'temporal'\n[temporal]\napi_key_file = '/no/such/file'",
                "temporal",
            ),
            (
                "engine = 'temporal'\n[temporal]\ntls_client_cert_path = '/no/such/file'",
                "temporal",
            ),
        ] {
            let config = parse(text).expect(text);
            let error = config.check().expect_err(text).to_string();
            assert!(
                error.starts_with(&format!("the setting {setting}: ")),
                "{error}"
            );
        }
    }

    #[test]
    fn the_file_goes_over_temporals_own_configuration() {
        let text = "engine = 'temporal'\n[temporal]\nnamespace = 'ours'\ntls = false\ntls_client_key_path = '/ours.key'\n";
        let mut config = parse(text).expect("a configuration");
        config.temporal.profile = Profile {
            address: Some("theirs:7233".to_owned()),
            namespace: Some("theirs".to_owned()),
            access: Access {
                tls: Some(true),
                client_key: Some(Source::File("/theirs.key".into())),
                server_name: Some("theirs".to_owned()),
                ..Access::default()
            },
        };
        let options = config.temporal_options();
        assert_eq!(options.address, "theirs:7233");
        assert_eq!(options.namespaces["default"], "ours");
        assert_eq!(options.access.tls, Some(false));
        let key = Source::File("/ours.key".into());
        assert_eq!(options.access.client_key, Some(key));
        assert_eq!(options.access.server_name.as_deref(), Some("theirs"));
    }

    #[test]
    fn paths_in_a_file_are_relative_to_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("heyday.toml");
        let text = "data_dir = 'data'\n[temporal]\napi_key_file = 'key'\n[bindings.namespaces.team-a.sql.main]\npath = 'main.db'\n[bindings.namespaces.team-a.kv.main]\npath = 'kv.db'\n[bindings.namespaces.team-a.secrets.main.gcp]\nproject = 'p'\ncredentials_file = 'key'\n";
        std::fs::write(&path, text).expect("written");
        let config = Config::load(&path).expect("loads");
        assert_eq!(config.data_dir, folder.path().join("data"));
        let key = config.temporal.api_key_file.as_deref();
        assert_eq!(key, Some(&*folder.path().join("key")));
        let main = &config.bindings.namespaces["team-a"].sql["main"];
        assert_eq!(main.path, Some(folder.path().join("main.db")));
        let store = &config.bindings.namespaces["team-a"].kv["main"];
        assert_eq!(store.path, Some(folder.path().join("kv.db")));
        let secrets = &config.bindings.namespaces["team-a"].secrets["main"];
        let credentials = secrets
            .gcp
            .as_ref()
            .and_then(|gcp| gcp.credentials_file.as_deref());
        assert_eq!(credentials, Some(&*folder.path().join("key")));
        let missing = Config::load(&folder.path().join("nothing.toml"));
        assert!(matches!(missing, Err(ConfigError::Read { .. })));
    }
}
