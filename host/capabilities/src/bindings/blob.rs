//! A binding of `blob`: a folder of files.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{Binding, BindingError, Claims, Declared};
use crate::blob::files::FileContainer;
use crate::blob::{BlobLimits, Container};

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

impl Declared for BlobBinding {
    fn place(&self) -> Option<(&PathBuf, bool)> {
        Some((&self.path, self.read_only))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.path]
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("object_bytes", self.limits.object_bytes),
            ("attempt_bytes", self.limits.attempt_bytes),
            ("open_handles", u64::from(self.limits.open_handles)),
        ]
    }
}

impl Binding for BlobBinding {
    const CAPABILITY: &'static str = "blob";
    type Opened = dyn Container;

    fn open(
        &self,
        full: &str,
        _claims: &mut Claims,
        runtime: &Handle,
    ) -> Result<Arc<Self::Opened>, BindingError> {
        let limits = self.limits.clone();
        let container = FileContainer::new(&self.path, self.read_only, limits, runtime.clone())
            .map_err(|source| BindingError::Blob {
                binding: full.to_owned(),
                source,
            })?;
        Ok(Arc::new(container))
    }
}
