//! The bindings that guests and native code call.

use std::path::Path;
use std::sync::Arc;

use heyday_capabilities::{Bindings, BindingsConfig};
use serde_json::json;
use tokio::runtime::Handle;

use crate::support::postgres::{Postgres, Role};

/// The namespace of the bindings, and of the attempts.
pub const NAMESPACE: &str = "default";
/// The embedded backend of a capability.
pub const EMBEDDED: &str = "embedded";
/// The database on PostgreSQL.
pub const POSTGRES: &str = "postgres";

/// Bindings, by capability.
pub const BINDINGS: [(&str, &[&str]); 5] = [
    ("sql", &[EMBEDDED, POSTGRES]),
    ("kv", &[EMBEDDED]),
    ("blob", &[EMBEDDED]),
    ("vector", &[EMBEDDED]),
    ("graph", &[EMBEDDED]),
];

/// All of them, and the server behind one.
pub struct Stores {
    /// As guests find them.
    pub bindings: Arc<Bindings>,
    /// Who signs in to PostgreSQL, and its database and port, where there is a server.
    pub postgres: Option<(Role, String, u16)>,
    _server: Option<Postgres>,
}

impl Stores {
    /// In this folder, with a server where there is one to start.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut sql = json!({ EMBEDDED: { "path": folder.join("sql.db") } });
        let server = Postgres::start(&[]);
        let postgres = server.as_ref().map(|server| {
            let database = server.database();
            (server.role(&database), database, server.port)
        });
        if let Some((role, ..)) = &postgres {
            sql[POSTGRES] = json!({ "postgres": role.config() });
        }
        let config = json!({ "namespaces": { NAMESPACE: {
            "sql": sql,
            "kv": { EMBEDDED: { "path": folder.join("kv.db") } },
            "blob": { EMBEDDED: { "path": folder.join("blob") } },
            "vector": { EMBEDDED: { "path": folder.join("vector.db") } },
            "graph": { EMBEDDED: { "path": folder.join("graph") } },
        } } });
        let config: BindingsConfig = serde_json::from_value(config)?;
        Ok(Self {
            bindings: Arc::new(Bindings::open(&config, &Handle::current())?),
            postgres,
            _server: server,
        })
    }
}
