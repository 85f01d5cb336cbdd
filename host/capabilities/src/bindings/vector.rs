//! A binding of `vector`: a SQLite file.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{Binding, BindingError, Claims, Declared};
use crate::vector::sqlite::SqliteVectors;
use crate::vector::{Store, VectorLimits};

/// Collections in a SQLite file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorBinding {
    /// The SQLite file; it and its folder are made when they are missing.
    pub path: PathBuf,
    /// Whether nobody may write to it; then a file must exist.
    #[serde(default)]
    pub read_only: bool,
    /// Its limits.
    #[serde(default)]
    pub limits: VectorLimits,
}

impl Declared for VectorBinding {
    fn place(&self) -> Option<(&PathBuf, bool)> {
        Some((&self.path, self.read_only))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.path]
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        let limits = &self.limits;
        vec![
            ("collections", u64::from(limits.collections)),
            ("dimensions", u64::from(limits.dimensions)),
            ("batch_items", u64::from(limits.batch_items)),
            ("result_items", u64::from(limits.result_items)),
            ("item_bytes", limits.item_bytes),
            ("call_bytes", limits.call_bytes),
            ("attempt_bytes", limits.attempt_bytes),
            ("call_timeout_ms", limits.call_timeout_ms),
            ("busy_timeout_ms", limits.busy_timeout_ms),
            ("store_bytes", limits.store_bytes.unwrap_or(1)),
        ]
    }
}

impl Binding for VectorBinding {
    const CAPABILITY: &'static str = "vector";

    type Opened = dyn Store;

    fn open(
        &self,
        full: &str,
        _claims: &mut Claims,
        runtime: &Handle,
    ) -> Result<Arc<Self::Opened>, BindingError> {
        let limits = self.limits.clone();
        let opened = SqliteVectors::new(&self.path, self.read_only, limits, runtime.clone());
        let store = opened.map_err(|source| BindingError::Database {
            binding: full.to_owned(),
            source,
        })?;
        Ok(Arc::new(store))
    }
}
