//! Which database or folder stands behind a binding's name, per namespace.
//!
//! Plugins see names; addresses and paths come only from here. A binding belongs to one
//! namespace, and no two bindings share a file or folder, so that what plugins of one
//! namespace store is out of reach for those of another.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heyday_inference::Inference;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::blob::files::FileContainer;
use crate::blob::{BlobLimits, Container};
use crate::kv::sqlite::SqliteStore;
use crate::kv::{KvLimits, Store};
use crate::sql::sqlite::SqliteDatabase;
use crate::sql::{Database, SqlLimits};

/// All bindings of a process, as its configuration writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BindingsConfig {
    /// By namespace.
    pub namespaces: BTreeMap<String, NamespaceBindings>,
}

/// The bindings of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceBindings {
    /// Databases, by name.
    pub sql: BTreeMap<String, SqlBinding>,
    /// Containers, by name.
    pub blob: BTreeMap<String, BlobBinding>,
    /// Key-value stores, by name.
    pub kv: BTreeMap<String, KvBinding>,
}

/// A SQLite database file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlBinding {
    /// The file; it and its folder are made when they are missing.
    pub path: PathBuf,
    /// Whether nobody may write to it; then the file must exist.
    #[serde(default)]
    pub read_only: bool,
    /// Its limits.
    #[serde(default)]
    pub limits: SqlLimits,
}

/// A folder of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobBinding {
    /// The folder; it is made when it is missing.
    pub path: PathBuf,
    /// Whether nobody may write to it; then the folder must exist. For a folder of
    /// one's own documents.
    #[serde(default)]
    pub read_only: bool,
    /// Its limits.
    #[serde(default)]
    pub limits: BlobLimits,
}

/// A key-value store in a SQLite database file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvBinding {
    /// The file; it and its folder are made when they are missing.
    pub path: PathBuf,
    /// Whether nobody may write to it; then the file must exist.
    #[serde(default)]
    pub read_only: bool,
    /// Its limits.
    #[serde(default)]
    pub limits: KvLimits,
}

/// Why a configuration of bindings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// A name that no binding or namespace may have.
    #[error(
        "{what} `{name}` is not a name: names have 1 to 63 of a-z, 0-9 and -, and begin \
         with a letter"
    )]
    InvalidName {
        /// What it is the name of.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Two bindings of one file, or one within another's folder.
    #[error(
        "the bindings {first} and {second} overlap at {}: give each a path of its own",
        .path.display()
    )]
    Overlap {
        /// The first, `namespace/capability/name`.
        first: String,
        /// The second.
        second: String,
        /// Where.
        path: PathBuf,
    },
    /// A limit that makes no sense.
    #[error("the binding {binding} has {limit} = 0: it could never be used")]
    ZeroLimit {
        /// The binding.
        binding: String,
        /// The limit.
        limit: &'static str,
    },
    /// A database that cannot be opened.
    #[error("the binding {binding} cannot be opened")]
    Database {
        /// The binding.
        binding: String,
        /// Why.
        source: crate::sqlite_file::OpenError,
    },
    /// A folder that cannot be opened.
    #[error("the binding {binding} cannot be opened")]
    Blob {
        /// The binding.
        binding: String,
        /// Why.
        source: crate::blob::files::OpenError,
    },
}

type Key = (String, String);

/// The opened bindings of a process.
#[derive(Default)]
pub struct Bindings {
    sql: HashMap<Key, Arc<dyn Database>>,
    blob: HashMap<Key, Arc<dyn Container>>,
    kv: HashMap<Key, Arc<dyn Store>>,
    databases: Vec<SqliteDatabase>,
    stores: Vec<SqliteStore>,
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
        for (namespace, of_namespace) in &config.namespaces {
            for (name, binding) in &of_namespace.sql {
                check_sql_limits(namespace, name, &binding.limits)?;
                let database = SqliteDatabase::new(
                    &binding.path,
                    binding.read_only,
                    binding.limits.clone(),
                    runtime.clone(),
                )
                .map_err(|source| BindingError::Database {
                    binding: full_name(namespace, "sql", name),
                    source,
                })?;
                bindings.databases.push(database.clone());
                bindings
                    .sql
                    .insert((namespace.clone(), name.clone()), Arc::new(database));
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
                let store = SqliteStore::new(
                    &binding.path,
                    binding.read_only,
                    binding.limits.clone(),
                    runtime.clone(),
                )
                .map_err(|source| BindingError::Database {
                    binding: full_name(namespace, "kv", name),
                    source,
                })?;
                bindings.stores.push(store.clone());
                bindings
                    .kv
                    .insert((namespace.clone(), name.clone()), Arc::new(store));
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

    /// The bindings of a namespace: (capability, name), in order.
    #[must_use]
    pub fn names(&self, namespace: &str) -> Vec<(&'static str, String)> {
        let of = |capability, (owner, name): &Key| {
            (owner == namespace).then(|| (capability, name.clone()))
        };
        let mut names: Vec<_> = self
            .sql
            .keys()
            .filter_map(|key| of("sql", key))
            .chain(self.blob.keys().filter_map(|key| of("blob", key)))
            .chain(self.kv.keys().filter_map(|key| of("kv", key)))
            .collect();
        let models = self.inference.iter().flat_map(|it| it.store().list());
        names.extend(models.map(|model| (crate::inference::NAME, model.name.clone())));
        names.sort();
        names
    }

    /// Closes the databases, when no more calls come.
    pub async fn close(&self) {
        for database in &self.databases {
            database.close().await;
        }
        for store in &self.stores {
            store.close().await;
        }
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
            .map(|(name, binding)| ("sql", name, &binding.path, binding.read_only));
        let blob = bindings
            .blob
            .iter()
            .map(|(name, binding)| ("blob", name, &binding.path, binding.read_only));
        let kv = bindings
            .kv
            .iter()
            .map(|(name, binding)| ("kv", name, &binding.path, binding.read_only));
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
            bindings.names("default"),
            [
                ("blob", "default".to_owned()),
                ("sql", "default".to_owned())
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
    async fn readers_may_share_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        open(serde_json::json!({ "namespaces": {
            "a": { "blob": { "x": { "path": folder.path(), "read_only": true } } },
            "b": { "blob": { "y": { "path": folder.path(), "read_only": true } } } }}))
        .expect("opened");
    }
}
