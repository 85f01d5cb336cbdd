//! A binding of `vector`: a SQLite file, or a Weaviate.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::Backend;
use super::{Binding, BindingError, Declared, Opening};
use crate::vector::sqlite::SqliteVectors;
use crate::vector::weaviate::{WeaviateConfig, WeaviateVectors};
use crate::vector::{Store, VectorLimits};

/// Collections in a SQLite file or in a Weaviate; one of both is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorBinding {
    /// The SQLite file; it and its folder are made when they are missing.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The Weaviate.
    #[serde(default)]
    pub weaviate: Option<WeaviateConfig>,
    /// Whether nobody may write to it; then a file must exist.
    #[serde(default)]
    pub read_only: bool,
    /// Its limits.
    #[serde(default)]
    pub limits: VectorLimits,
}

impl Declared for VectorBinding {
    fn place(&self) -> Option<(&PathBuf, bool)> {
        Some((self.path.as_ref()?, self.read_only))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let weaviate = self.weaviate.iter_mut().flat_map(WeaviateConfig::paths);
        self.path.iter_mut().chain(weaviate).collect()
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
            ("concurrent_calls", u64::from(limits.concurrent_calls)),
            ("store_bytes", limits.store_bytes.unwrap_or(1)),
        ]
    }
}

impl Binding for VectorBinding {
    const CAPABILITY: &'static str = "vector";

    type Opened = dyn Store;

    fn open(&self, opening: Opening<'_>) -> Result<Arc<Self::Opened>, BindingError> {
        let Opening {
            full,
            claims,
            runtime,
            ..
        } = opening;
        let (limits, binding) = (self.limits.clone(), full.to_owned());
        let (path, server) = (self.path.as_ref(), self.weaviate.as_ref());
        match Backend::of(full, path, server, "`path` and `weaviate`")? {
            Backend::Here(path) => {
                let opened = SqliteVectors::new(path, self.read_only, limits, runtime.clone());
                let store = opened.map_err(|source| BindingError::Database { binding, source })?;
                Ok(Arc::new(store))
            }
            Backend::Server(_) if limits.store_bytes.is_some() => {
                let limit = "store_bytes";
                Err(BindingError::ForeignLimit { binding, limit })
            }
            Backend::Server(server) => {
                let runtime = runtime.clone();
                let opened = WeaviateVectors::new(server, full, self.read_only, limits, runtime);
                let store = opened.map_err(|source| BindingError::Weaviate { binding, source })?;
                claims.claim(full, store.identity(), self.read_only)?;
                Ok(Arc::new(store))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::runtime::Handle;

    use super::super::{Bindings, BindingsConfig};
    use super::*;

    fn open(bindings: Value) -> Result<Bindings, BindingError> {
        let json = json!({ "namespaces": { "default": { "vector": bindings } } });
        let config: BindingsConfig = serde_json::from_value(json).expect("a configuration");
        Bindings::open(&config, &Handle::current())
    }

    #[tokio::test]
    async fn a_prefix_is_one_bindings_own() {
        let server = |url: &str| json!({ "weaviate": { "url": url } });
        let with = |prefix: &str, read_only: bool| {
            json!({ "weaviate": { "url": "http://localhost:8080", "prefix": prefix },
                    "read_only": read_only })
        };
        let url = "http://localhost:8080";
        let opened = open(json!({ "a": server(url), "b": server(url) })).expect("opened");
        assert_eq!(opened.list("default").len(), 2);
        open(json!({ "a": with("x", true), "b": with("x", true) })).expect("both only read");
        let error =
            open(json!({ "a": with("x", false), "b": with("x", true) })).expect_err("one prefix");
        let told = error.to_string();
        assert!(
            told.contains("default/vector/a and default/vector/b")
                && told.contains("the prefix x on localhost:8080"),
            "{told}"
        );
        for other in ["http://127.0.0.1:8080", "http://LocalHost.:8080"] {
            let other = json!({ "weaviate": { "url": other, "prefix": "x" } });
            open(json!({ "a": with("x", false), "b": other })).expect_err("by another name");
        }
        for (binding, told) in [
            (json!({}), "no backend"),
            (
                json!({ "path": "v.db", "weaviate": { "url": url } }),
                "two backends",
            ),
            (
                json!({ "weaviate": { "url": url }, "limits": { "store_bytes": 1 } }),
                "store_bytes",
            ),
            (
                json!({ "weaviate": { "url": url }, "limits": { "dimensions": 0 } }),
                "dimensions",
            ),
            (server("http://key:hunter2@localhost"), "default/vector/x"),
            (server("localhost:8080"), "default/vector/x"),
        ] {
            let error = open(json!({ "x": binding })).expect_err(told);
            assert!(error.to_string().contains(told), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
