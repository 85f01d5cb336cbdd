//! The bindings that there are where nobody says any.

use heyday_capabilities::bindings::{
    BlobBinding, GraphBinding, KvBinding, Reserved, SqlBinding, VectorBinding,
};
use heyday_capabilities::{BindingsConfig, NamespaceBindings};

use super::{Config, DEFAULT_NAMESPACE};
use crate::state::StateUrl;

/// What servers and workers keep in their data folder, but for bindings; of a database also
/// what SQLite puts beside it. What comes to be kept there belongs here.
const OWN: [&str; 16] = [
    "address-key",
    "cache",
    "components",
    "history.db",
    "history.db-journal",
    "history.db-shm",
    "history.db-wal",
    "host.db",
    "host.db-journal",
    "host.db-shm",
    "host.db-wal",
    "lock",
    "models",
    "payloads",
    "spool",
    "token",
];

impl Config {
    /// What is the server's own, and no binding may reach.
    #[must_use]
    pub fn reserved(&self) -> Reserved {
        let mut config = self.clone();
        let said = config.inference.paths().chain(config.temporal.paths());
        let said = said.chain(config.state.paths()).map(std::mem::take);
        let mut paths: Vec<_> = said.collect();
        paths.extend([self.cache_dir(), self.models_dir()]);
        paths.extend(OWN.iter().map(|name| self.data_dir.join(name)));
        Reserved {
            paths,
            state: self.state.url.as_ref().and_then(StateUrl::reserved),
        }
    }

    /// All bindings, with those that there always are.
    #[must_use]
    pub fn bindings(&self) -> BindingsConfig {
        let mut config = self.bindings.clone();
        let folder = self.data_dir.join("bindings");
        let default: &mut NamespaceBindings = config
            .namespaces
            .entry(DEFAULT_NAMESPACE.to_owned())
            .or_default();
        default
            .sql
            .entry("default".to_owned())
            .or_insert_with(|| SqlBinding {
                path: Some(folder.join("sql").join("default.db")),
                postgres: None,
                read_only: false,
                limits: Default::default(),
            });
        default
            .blob
            .entry("default".to_owned())
            .or_insert_with(|| BlobBinding {
                path: Some(folder.join("blob").join("default")),
                s3: None,
                gcs: None,
                read_only: false,
                limits: Default::default(),
            });
        default
            .kv
            .entry("default".to_owned())
            .or_insert_with(|| KvBinding {
                path: Some(folder.join("kv").join("default.db")),
                postgres: None,
                read_only: false,
                limits: Default::default(),
            });
        default
            .graph
            .entry("default".to_owned())
            .or_insert_with(|| GraphBinding {
                path: Some(folder.join("graph").join("default")),
                ..GraphBinding::default()
            });
        default
            .vector
            .entry("default".to_owned())
            .or_insert_with(|| VectorBinding {
                path: Some(folder.join("vector").join("default.db")),
                ..VectorBinding::default()
            });
        config
    }
}

#[cfg(test)]
mod tests {
    use heyday_capabilities::Bindings;
    use tokio::runtime::Handle;

    use super::*;

    #[tokio::test]
    async fn the_servers_own_files_are_no_bindings_and_the_default_ones_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let written = folder.path().join("heyday.toml");
        let open = |text: &str| {
            std::fs::write(&written, format!("data_dir = 'data'\n{text}")).expect("written");
            let config = Config::load(&written).expect("a configuration");
            let (runtime, reserved) = (Handle::current(), config.reserved());
            let opened = Bindings::open_with(&config.bindings(), &runtime, None, &reserved);
            opened.map_err(|error| error.to_string())
        };
        let own = "[bindings.namespaces.default.sql.mine]\npath = 'data/mine.db'\n";
        open(own).expect("beside what the server keeps");
        let blob = |path: &str| {
            format!("[bindings.namespaces.default.blob.x]\npath = '{path}'\nread_only = true\n")
        };
        for (text, told) in [
            (blob("data"), "the server's own"),
            (blob("."), "the server's own"),
            (
                blob("data/components/ab"),
                "components, which is the server's own",
            ),
            (
                format!("cache_dir = 'code'\n{}", blob("code")),
                "code, which is the server's own",
            ),
            (
                format!("temporal.api_key_file = 'keys/key'\n{}", blob("keys")),
                "key, which is the server's own",
            ),
            (
                "state.url = 'postgres://heyday@localhost/state'\n\
                 [bindings.namespaces.default.kv.x]\n\
                 postgres = { url = 'postgres://x@127.0.0.1/state' }\n"
                    .to_owned(),
                "has the database of the server's own state",
            ),
        ] {
            let error = open(&text).expect_err(&text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
