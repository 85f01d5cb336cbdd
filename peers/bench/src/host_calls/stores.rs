//! The bindings that guests and native code call.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heyday_capabilities::{Bindings, BindingsConfig};
use serde_json::json;
use tokio::runtime::Handle;

use crate::support;
use crate::support::postgres::{Postgres, Role};

/// The namespace of the bindings, and of the attempts.
pub const NAMESPACE: &str = "default";
/// The embedded backend of a capability.
pub const EMBEDDED: &str = "embedded";
/// The database on PostgreSQL.
pub const POSTGRES: &str = "postgres";

/// A file of settings or secrets.
pub const FILE: &str = "file";
/// One of its entries, of which a file of [`ENTRIES`] has about 1 KiB.
pub const ENTRY: &str = "entry-7";
const ENTRIES: usize = 28;

/// Bindings, by capability.
pub const BINDINGS: [(&str, &[&str]); 7] = [
    ("sql", &[EMBEDDED, POSTGRES]),
    ("kv", &[EMBEDDED]),
    ("blob", &[EMBEDDED]),
    ("vector", &[EMBEDDED]),
    ("graph", &[EMBEDDED]),
    ("config", &[FILE]),
    ("secrets", &[FILE]),
];

/// All of them, and what is behind some.
pub struct Stores {
    /// As guests find them.
    pub bindings: Arc<Bindings>,
    /// The file of the settings.
    pub settings: PathBuf,
    /// The file of the secrets.
    pub secrets: PathBuf,
    /// Who signs in to PostgreSQL, and its database and port, where there is a server.
    pub postgres: Option<(Role, String, u16)>,
    _server: Option<Postgres>,
}

impl Stores {
    /// In this folder, with a server where there is one to start.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut sql = json!({ EMBEDDED: { "path": folder.join("sql.db") } });
        let server = support::started("PostgreSQL", || Postgres::start(&[]));
        let postgres = server.as_ref().map(|server| {
            let database = server.database();
            (server.role(&database), database, server.port)
        });
        if let Some((role, ..)) = &postgres {
            sql[POSTGRES] = json!({ "postgres": role.config() });
        }
        let (settings, secrets) = (folder.join("settings.toml"), folder.join("secrets.toml"));
        for file in [&settings, &secrets] {
            std::fs::write(file, entries())?;
        }
        let config = json!({ "namespaces": { NAMESPACE: {
            "sql": sql,
            "kv": { EMBEDDED: { "path": folder.join("kv.db") } },
            "blob": { EMBEDDED: { "path": folder.join("blob") } },
            "vector": { EMBEDDED: { "path": folder.join("vector.db") } },
            "graph": { EMBEDDED: { "path": folder.join("graph") } },
            "config": { FILE: { "file": settings } },
            "secrets": { FILE: { "file": secrets, "names": { ENTRY: ENTRY } } },
        } } });
        let config: BindingsConfig = serde_json::from_value(config)?;
        Ok(Self {
            bindings: Arc::new(Bindings::open(&config, &Handle::current())?),
            settings,
            secrets,
            postgres,
            _server: server,
        })
    }
}

/// A file of settings, or of secrets.
fn entries() -> String {
    let mut text = String::new();
    for number in 0..ENTRIES {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "entry-{number} = \"the value of number {number}\"");
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_file_has_about_a_kibibyte_and_the_entry_that_is_read() {
        let text = super::entries();
        assert!((900..1_100).contains(&text.len()), "{}", text.len());
        assert!(text.contains(&format!("{} = ", super::ENTRY)), "{text}");
    }
}
