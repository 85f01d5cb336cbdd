//! Bindings of `sql` and `kv`: a SQLite file, or a PostgreSQL database.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::Backend;
use super::{Binding, BindingError, Declared, Opening};
use crate::kv::postgres::PostgresStore;
use crate::kv::sqlite::SqliteStore;
use crate::kv::{KvLimits, Store};
use crate::postgres::{PostgresConfig, PostgresConfigError};
use crate::sql::postgres::PostgresDatabase;
use crate::sql::sqlite::SqliteDatabase;
use crate::sql::{Database, SqlLimits};
use crate::sqlite_file::OpenError;

/// What is kept in a SQLite file or in a PostgreSQL database; one of both is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    bound(deserialize = "L: Default + Deserialize<'de>")
)]
pub struct DatabaseBinding<L> {
    /// The SQLite file; it and its folder are made when they are missing.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The PostgreSQL database.
    #[serde(default)]
    pub postgres: Option<PostgresConfig>,
    /// Whether nobody may write to it; then a file, or the tables, must exist.
    #[serde(default)]
    pub read_only: bool,
    /// Its limits.
    #[serde(default)]
    pub limits: L,
}

/// A database.
pub type SqlBinding = DatabaseBinding<SqlLimits>;

/// A key-value store.
pub type KvBinding = DatabaseBinding<KvLimits>;

impl<L> DatabaseBinding<L> {
    /// The one backend that it says; on PostgreSQL the limit on a file's bytes, if one is
    /// set, is none.
    fn backend(
        &self,
        full: &str,
        (limit, bytes): (&'static str, Option<u64>),
    ) -> Result<Backend<'_, PathBuf, PostgresConfig>, BindingError> {
        let (path, postgres) = (self.path.as_ref(), self.postgres.as_ref());
        let backend = Backend::of(full, path, postgres, "`path` and `postgres`")?;
        if matches!(backend, Backend::Server(_)) && bytes.is_some() {
            return Err(BindingError::ForeignLimit {
                binding: full.to_owned(),
                limit,
            });
        }
        Ok(backend)
    }

    fn place(&self) -> Option<(&PathBuf, bool)> {
        Some((self.path.as_ref()?, self.read_only))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let postgres = self.postgres.iter_mut().flat_map(PostgresConfig::paths);
        self.path.iter_mut().chain(postgres).collect()
    }
}

fn file(full: &str) -> impl FnOnce(OpenError) -> BindingError {
    let binding = full.to_owned();
    |source| BindingError::Database { binding, source }
}

fn server(full: &str) -> impl FnOnce(PostgresConfigError) -> BindingError {
    let binding = full.to_owned();
    |source| BindingError::Postgres { binding, source }
}

impl Declared for SqlBinding {
    fn place(&self) -> Option<(&PathBuf, bool)> {
        self.place()
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        self.paths()
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        let limits = &self.limits;
        vec![
            ("result_rows", limits.result_rows),
            ("result_bytes", limits.result_bytes),
            ("attempt_bytes", limits.attempt_bytes),
            ("open_handles", u64::from(limits.open_handles)),
            ("statement_timeout_ms", limits.statement_timeout_ms),
            ("connections", u64::from(limits.connections)),
            ("memory_bytes", limits.memory_bytes),
            ("database_bytes", limits.database_bytes.unwrap_or(1)),
        ]
    }
}

impl Binding for SqlBinding {
    const CAPABILITY: &'static str = "sql";
    type Opened = dyn Database;

    fn open(&self, opening: Opening<'_>) -> Result<Arc<Self::Opened>, BindingError> {
        let Opening {
            full,
            claims,
            runtime,
            ..
        } = opening;
        let (read_only, limits) = (self.read_only, self.limits.clone());
        match self.backend(full, ("database_bytes", limits.database_bytes))? {
            Backend::Here(path) => {
                let opened = SqliteDatabase::new(path, read_only, limits, runtime.clone());
                Ok(Arc::new(opened.map_err(file(full))?))
            }
            Backend::Server(config) => {
                let opened = PostgresDatabase::new(config, read_only, limits, runtime.clone());
                let database = opened.map_err(server(full))?;
                claims.check_state(full, config)?;
                claims.claim(full, database.identity(), read_only)?;
                Ok(Arc::new(database))
            }
        }
    }
}

impl Declared for KvBinding {
    fn place(&self) -> Option<(&PathBuf, bool)> {
        self.place()
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        self.paths()
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        let limits = &self.limits;
        vec![
            ("value_bytes", limits.value_bytes),
            ("attempt_bytes", limits.attempt_bytes),
            ("statement_timeout_ms", limits.statement_timeout_ms),
            ("busy_timeout_ms", limits.busy_timeout_ms),
            ("connections", u64::from(limits.connections)),
            ("store_bytes", limits.store_bytes.unwrap_or(1)),
        ]
    }
}

impl Binding for KvBinding {
    const CAPABILITY: &'static str = "kv";
    type Opened = dyn Store;

    fn open(&self, opening: Opening<'_>) -> Result<Arc<Self::Opened>, BindingError> {
        let Opening {
            full,
            claims,
            runtime,
            ..
        } = opening;
        let (read_only, limits) = (self.read_only, self.limits.clone());
        match self.backend(full, ("store_bytes", limits.store_bytes))? {
            Backend::Here(path) => {
                let opened = SqliteStore::new(path, read_only, limits, runtime.clone());
                Ok(Arc::new(opened.map_err(file(full))?))
            }
            Backend::Server(config) => {
                let opened = PostgresStore::new(config, read_only, limits, runtime.clone());
                let store = opened.map_err(server(full))?;
                claims.check_state(full, config)?;
                claims.claim(full, store.identity(), read_only)?;
                Ok(Arc::new(store))
            }
        }
    }
}
