//! A binding of `blob`: a folder of files, or a bucket.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::Backend;
use super::{Binding, BindingError, Declared, Opening};
use crate::blob::files::FileContainer;
use crate::blob::s3::S3Container;
use crate::blob::s3_config::S3Config;
use crate::blob::{BlobLimits, Container};

/// A folder of files, or a bucket; one of both is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobBinding {
    /// The folder; it is made when it is missing.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The bucket.
    #[serde(default)]
    pub s3: Option<S3Config>,
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
        Some((self.path.as_ref()?, self.read_only))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let s3 = self.s3.iter_mut().flat_map(S3Config::paths);
        self.path.iter_mut().chain(s3).collect()
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

    fn open(&self, opening: Opening<'_>) -> Result<Arc<Self::Opened>, BindingError> {
        let Opening {
            full,
            claims,
            runtime,
            addresses,
        } = opening;
        let (read_only, limits, runtime) = (self.read_only, self.limits.clone(), runtime.clone());
        let (path, s3) = (self.path.as_ref(), self.s3.as_ref());
        let binding = full.to_owned();
        match Backend::of(full, path, s3, "`path` and `s3`")? {
            Backend::Here(path) => {
                let opened = FileContainer::new(path, read_only, limits, addresses, runtime)
                    .map_err(|source| BindingError::Blob { binding, source })?;
                Ok(Arc::new(opened))
            }
            Backend::Server(config) => {
                let opened = S3Container::new(config, read_only, limits, runtime)
                    .map_err(|source| BindingError::S3 { binding, source })?;
                claims.claim_below(full, config.identity(), config.normal_prefix(), read_only)?;
                Ok(Arc::new(opened))
            }
        }
    }
}
