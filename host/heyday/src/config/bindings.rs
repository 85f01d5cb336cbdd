//! The bindings that there are where nobody says any.

use heyday_capabilities::bindings::{
    BlobBinding, GraphBinding, KvBinding, SqlBinding, VectorBinding,
};
use heyday_capabilities::{BindingsConfig, NamespaceBindings};

use super::{Config, DEFAULT_NAMESPACE};

impl Config {
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
