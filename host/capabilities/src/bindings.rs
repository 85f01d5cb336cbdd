//! Which database or folder stands behind a binding's name, per namespace.
//!
//! Plugins see names; addresses and paths come only from here. A binding belongs to one
//! namespace, and no two bindings share a file or folder, so that what plugins of one
//! namespace store is out of reach for those of another.

mod config;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heyday_inference::Inference;
use tokio::runtime::Handle;

pub use config::{
    BindingError, BindingsConfig, BlobBinding, KvBinding, NamespaceBindings, SqlBinding,
};

use config::Backend;

use crate::blob::files::FileContainer;
use crate::blob::{BlobLimits, Container};
use crate::kv::postgres::PostgresStore;
use crate::kv::sqlite::SqliteStore;
use crate::kv::{KvLimits, Store};
use crate::sql::postgres::PostgresDatabase;
use crate::sql::sqlite::SqliteDatabase;
use crate::sql::{Database, SqlLimits};

type Key = (String, String);

/// The opened bindings of a process.
#[derive(Default)]
pub struct Bindings {
    sql: HashMap<Key, Arc<dyn Database>>,
    blob: HashMap<Key, Arc<dyn Container>>,
    kv: HashMap<Key, Arc<dyn Store>>,
    inference: Option<Inference>,
}

impl std::fmt::Debug for Bindings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bindings")
            .field("sql", &self.sql.keys())
            .field("blob", &self.blob.keys())
            .field("kv", &self.kv.keys())
            .finish()
    }
}

impl Bindings {
    /// Checks a configuration and opens its bindings. Databases are connected to at
    /// their first use, so that one that is away holds up nothing else. The work of
    /// bindings is done on `runtime`.
    ///
    /// # Errors
    /// The first that cannot be used, by name.
    pub fn open(config: &BindingsConfig, runtime: &Handle) -> Result<Self, BindingError> {
        check_names(config)?;
        check_overlap(config)?;
        let mut bindings = Self::default();
        let mut roles = Roles::default();
        for (namespace, of_namespace) in &config.namespaces {
            for (name, binding) in &of_namespace.sql {
                check_sql_limits(namespace, name, &binding.limits)?;
                let full = full_name(namespace, "sql", name);
                let database = roles.database(full, binding, runtime)?;
                bindings
                    .sql
                    .insert((namespace.clone(), name.clone()), database);
            }
            for (name, binding) in &of_namespace.blob {
                check_blob_limits(namespace, name, &binding.limits)?;
                let container = FileContainer::new(
                    &binding.path,
                    binding.read_only,
                    binding.limits.clone(),
                    runtime.clone(),
                )
                .map_err(|source| BindingError::Blob {
                    binding: full_name(namespace, "blob", name),
                    source,
                })?;
                bindings
                    .blob
                    .insert((namespace.clone(), name.clone()), Arc::new(container));
            }
            for (name, binding) in &of_namespace.kv {
                check_kv_limits(namespace, name, &binding.limits)?;
                let full = full_name(namespace, "kv", name);
                let store = roles.store(full, binding, runtime)?;
                bindings.kv.insert((namespace.clone(), name.clone()), store);
            }
        }
        Ok(bindings)
    }

    /// The database of that name.
    #[must_use]
    pub fn database(&self, namespace: &str, name: &str) -> Option<Arc<dyn Database>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.sql.get(&key).cloned()
    }

    /// The container of that name.
    #[must_use]
    pub fn container(&self, namespace: &str, name: &str) -> Option<Arc<dyn Container>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.blob.get(&key).cloned()
    }

    /// The key-value store of that name.
    #[must_use]
    pub fn store(&self, namespace: &str, name: &str) -> Option<Arc<dyn Store>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.kv.get(&key).cloned()
    }

    /// Serves models too, the same in every namespace: each is a binding of `inference`.
    #[must_use]
    pub fn with_inference(mut self, inference: Inference) -> Self {
        self.inference = Some(inference);
        self
    }

    /// What serves models.
    #[must_use]
    pub const fn inference(&self) -> Option<&Inference> {
        self.inference.as_ref()
    }

    /// The bindings of a namespace in order: capability, name, and what stands behind it.
    #[must_use]
    pub fn list(&self, namespace: &str) -> Vec<(&'static str, String, &'static str)> {
        let of = |capability, (owner, name): &Key, backend| {
            (owner == namespace).then(|| (capability, name.clone(), backend))
        };
        let sql = self.sql.iter();
        let sql = sql.filter_map(|(key, it)| of("sql", key, it.dialect()));
        let blob = self.blob.iter();
        let blob = blob.filter_map(|(key, it)| of("blob", key, it.backend()));
        let kv = self.kv.iter();
        let kv = kv.filter_map(|(key, it)| of("kv", key, it.backend()));
        let mut all: Vec<_> = sql.chain(blob).chain(kv).collect();
        let models = self.inference.iter().flat_map(|it| it.store().list());
        all.extend(models.map(|model| (crate::inference::NAME, model.name.clone(), "models")));
        all.sort();
        all
    }

    /// Closes the databases, when no more calls come.
    pub async fn close(&self) {
        for database in self.sql.values() {
            database.close().await;
        }
        for store in self.kv.values() {
            store.close().await;
        }
    }
}

/// Who signs in where, of the bindings opened so far: binding, role and server, whether it
/// only reads.
#[derive(Default)]
struct Roles(Vec<(String, String, bool)>);

impl Roles {
    /// Opens a database. A role on a server belongs to one binding, because whoever signs
    /// in with it reaches all that it owns.
    fn database(
        &mut self,
        full: String,
        binding: &SqlBinding,
        runtime: &Handle,
    ) -> Result<Arc<dyn Database>, BindingError> {
        let (path, postgres) = (binding.path.as_ref(), binding.postgres.as_ref());
        match Backend::of(&full, path, postgres, "`path` and `postgres`")? {
            Backend::Here(path) => {
                let limits = binding.limits.clone();
                let opened = SqliteDatabase::new(path, binding.read_only, limits, runtime.clone());
                let database = opened.map_err(|source| BindingError::Database {
                    binding: full,
                    source,
                })?;
                Ok(Arc::new(database))
            }
            Backend::Server(server) => {
                if binding.limits.database_bytes.is_some() {
                    return Err(BindingError::ForeignLimit {
                        binding: full,
                        limit: "database_bytes",
                    });
                }
                let limits = binding.limits.clone();
                let opened =
                    PostgresDatabase::new(server, binding.read_only, limits, runtime.clone());
                let database = opened.map_err(|source| BindingError::Postgres {
                    binding: full.clone(),
                    source,
                })?;
                self.claim(full, database.identity(), binding.read_only)?;
                Ok(Arc::new(database))
            }
        }
    }

    /// As [`Self::database`], of a key-value store.
    fn store(
        &mut self,
        full: String,
        binding: &KvBinding,
        runtime: &Handle,
    ) -> Result<Arc<dyn Store>, BindingError> {
        let (path, postgres) = (binding.path.as_ref(), binding.postgres.as_ref());
        let limits = binding.limits.clone();
        match Backend::of(&full, path, postgres, "`path` and `postgres`")? {
            Backend::Here(path) => {
                let opened = SqliteStore::new(path, binding.read_only, limits, runtime.clone());
                let store = opened.map_err(|source| BindingError::Database {
                    binding: full,
                    source,
                })?;
                Ok(Arc::new(store))
            }
            Backend::Server(server) => {
                if limits.store_bytes.is_some() {
                    return Err(BindingError::ForeignLimit {
                        binding: full,
                        limit: "store_bytes",
                    });
                }
                let opened = PostgresStore::new(server, binding.read_only, limits, runtime.clone());
                let store = opened.map_err(|source| BindingError::Postgres {
                    binding: full.clone(),
                    source,
                })?;
                self.claim(full, store.identity(), binding.read_only)?;
                Ok(Arc::new(store))
            }
        }
    }

    fn claim(
        &mut self,
        second: String,
        identity: String,
        read_only: bool,
    ) -> Result<(), BindingError> {
        let same = self.0.iter().find(|(_, other, other_read_only)| {
            *other == identity && !(read_only && *other_read_only)
        });
        if let Some((first, ..)) = same {
            return Err(BindingError::SharedRole {
                first: first.clone(),
                second,
                identity,
            });
        }
        self.0.push((second, identity, read_only));
        Ok(())
    }
}

fn full_name(namespace: &str, capability: &str, name: &str) -> String {
    format!("{namespace}/{capability}/{name}")
}

fn check_names(config: &BindingsConfig) -> Result<(), BindingError> {
    for (namespace, bindings) in &config.namespaces {
        check_name("the namespace", namespace)?;
        let names = bindings.sql.keys().chain(bindings.blob.keys());
        for name in names.chain(bindings.kv.keys()) {
            check_name("the binding", name)?;
        }
    }
    Ok(())
}

fn check_name(what: &'static str, name: &str) -> Result<(), BindingError> {
    let valid = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if valid {
        return Ok(());
    }
    Err(BindingError::InvalidName {
        what,
        name: name.to_owned(),
    })
}

/// Refuses two bindings of which one could reach the other's bytes. Two read-only ones
/// may share a path: neither can tell the other anything.
fn check_overlap(config: &BindingsConfig) -> Result<(), BindingError> {
    let mut seen: Vec<(String, PathBuf, bool)> = Vec::new();
    for (namespace, bindings) in &config.namespaces {
        let sql = bindings
            .sql
            .iter()
            .filter_map(|(name, it)| Some(("sql", name, it.path.as_ref()?, it.read_only)));
        let blob = bindings
            .blob
            .iter()
            .map(|(name, binding)| ("blob", name, &binding.path, binding.read_only));
        let kv = bindings
            .kv
            .iter()
            .filter_map(|(name, it)| Some(("kv", name, it.path.as_ref()?, it.read_only)));
        for (capability, name, path, read_only) in sql.chain(blob).chain(kv) {
            let path = resolve(path);
            let second = full_name(namespace, capability, name);
            let overlapping = seen.iter().find(|(_, other, other_read_only)| {
                !(read_only && *other_read_only)
                    && (path.starts_with(other) || other.starts_with(&path))
            });
            if let Some((first, ..)) = overlapping {
                return Err(BindingError::Overlap {
                    first: first.clone(),
                    second,
                    path,
                });
            }
            seen.push((second, path, read_only));
        }
    }
    Ok(())
}

/// The path without links, as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    if let Ok(resolved) = path.canonicalize() {
        return resolved;
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        _ => path,
    }
}

fn check_sql_limits(namespace: &str, name: &str, limits: &SqlLimits) -> Result<(), BindingError> {
    let zero = [
        ("result_rows", limits.result_rows),
        ("result_bytes", limits.result_bytes),
        ("attempt_bytes", limits.attempt_bytes),
        ("open_handles", u64::from(limits.open_handles)),
        ("statement_timeout_ms", limits.statement_timeout_ms),
        ("connections", u64::from(limits.connections)),
        ("memory_bytes", limits.memory_bytes),
        ("database_bytes", limits.database_bytes.unwrap_or(1)),
    ];
    check_zero(full_name(namespace, "sql", name), &zero)
}

fn check_blob_limits(namespace: &str, name: &str, limits: &BlobLimits) -> Result<(), BindingError> {
    let zero = [
        ("object_bytes", limits.object_bytes),
        ("attempt_bytes", limits.attempt_bytes),
        ("open_handles", u64::from(limits.open_handles)),
    ];
    check_zero(full_name(namespace, "blob", name), &zero)
}

fn check_kv_limits(namespace: &str, name: &str, limits: &KvLimits) -> Result<(), BindingError> {
    let zero = [
        ("value_bytes", limits.value_bytes),
        ("attempt_bytes", limits.attempt_bytes),
        ("busy_timeout_ms", limits.busy_timeout_ms),
        ("store_bytes", limits.store_bytes.unwrap_or(1)),
    ];
    check_zero(full_name(namespace, "kv", name), &zero)
}

fn check_zero(binding: String, limits: &[(&'static str, u64)]) -> Result<(), BindingError> {
    match limits.iter().find(|(_, value)| *value == 0) {
        Some((limit, _)) => Err(BindingError::ZeroLimit { binding, limit }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: serde_json::Value) -> Result<BindingsConfig, serde_json::Error> {
        serde_json::from_value(json)
    }

    fn open(json: serde_json::Value) -> Result<Bindings, BindingError> {
        let config = parse(json).expect("a configuration");
        Bindings::open(&config, &Handle::current())
    }

    #[tokio::test]
    async fn a_name_means_something_else_in_each_namespace() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let bindings = open(serde_json::json!({ "namespaces": {
            "default": {
                "sql": { "default": { "path": path("a.db") } },
                "blob": { "default": { "path": path("a") } },
            },
            "other": { "sql": { "default": { "path": path("b.db") } } },
        }}))
        .expect("opened");
        assert!(bindings.database("default", "default").is_some());
        assert!(bindings.database("other", "default").is_some());
        assert!(bindings.database("default", "b").is_none());
        assert!(bindings.container("default", "default").is_some());
        assert!(bindings.container("other", "default").is_none());
        assert_eq!(
            bindings.list("default"),
            [
                ("blob", "default".to_owned(), "files"),
                ("sql", "default".to_owned(), "sqlite")
            ]
        );
        bindings.close().await;
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let error = open(serde_json::json!({ "namespaces": { "default": {
            "sql": { "Upper": { "path": path("a.db") } } } }}))
        .expect_err("a bad name");
        assert!(error.to_string().contains("`Upper`"), "{error}");
        let error = open(serde_json::json!({ "namespaces": {
            "a": { "sql": { "x": { "path": path("f/x.db") } } },
            "b": { "blob": { "y": { "path": path("f") } } } }}))
        .expect_err("one within the other");
        assert!(
            error.to_string().contains("a/sql/x and b/blob/y"),
            "{error}"
        );
        let error = open(
            serde_json::json!({ "namespaces": { "default": { "sql": { "x": {
            "path": path("z.db"), "limits": { "result_rows": 0 } } } } }}),
        )
        .expect_err("a useless limit");
        assert!(error.to_string().contains("result_rows"), "{error}");
        let error = open(
            serde_json::json!({ "namespaces": { "default": { "blob": { "x": {
            "path": path("missing"), "read_only": true } } } }}),
        )
        .expect_err("nothing there");
        assert!(error.to_string().contains("default/blob/x"), "{error}");
        parse(
            serde_json::json!({ "namespaces": { "default": { "sql": { "x": {
            "path": "a", "readonly": true } } } }}),
        )
        .expect_err("an unknown field");
    }

    #[tokio::test]
    async fn a_role_is_one_bindings_own() {
        let sql = |bindings: serde_json::Value| {
            open(serde_json::json!({ "namespaces": { "default": { "sql": bindings } } }))
        };
        let url = |url: &str| serde_json::json!({ "postgres": { "url": url } });
        sql(serde_json::json!({ "a": url("postgres://a@localhost/main"),
            "b": url("postgres://b@localhost/main") }))
        .expect("opened");
        let error = sql(serde_json::json!({ "a": url("postgres://r@localhost/a"),
            "b": url("postgres://r@localhost/b") }))
        .expect_err("one role");
        let told = error.to_string();
        assert!(told.contains("default/sql/a and default/sql/b"), "{told}");
        for (binding, told) in [
            (serde_json::json!({}), "no backend"),
            (
                serde_json::json!({ "path": "a.db", "postgres": { "url": "postgres://r@localhost/a" } }),
                "two backends",
            ),
            (
                serde_json::json!({ "postgres": { "url": "postgres://r@localhost/a" },
                    "limits": { "database_bytes": 1 } }),
                "database_bytes",
            ),
            (url("postgres://r:secret@localhost/a"), "default/sql/x"),
        ] {
            let error = sql(serde_json::json!({ "x": binding })).expect_err(told);
            assert!(error.to_string().contains(told), "{error}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn readers_may_share_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        open(serde_json::json!({ "namespaces": {
            "a": { "blob": { "x": { "path": folder.path(), "read_only": true } } },
            "b": { "blob": { "y": { "path": folder.path(), "read_only": true } } } }}))
        .expect("opened");
    }
}
