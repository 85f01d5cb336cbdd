//! A binding of `blob`: a folder of files, or a bucket.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::one_of;
use super::{Binding, BindingError, Declared, Opening};
use crate::blob::files::FileContainer;
use crate::blob::gcs::GcsContainer;
use crate::blob::gcs_config::GcsConfig;
use crate::blob::s3::S3Container;
use crate::blob::s3_config::S3Config;
use crate::blob::{BlobLimits, Container};

/// A folder of files, or a bucket; one of the three is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobBinding {
    /// The folder; it is made when it is missing.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The bucket of a store that speaks S3.
    #[serde(default)]
    pub s3: Option<S3Config>,
    /// The bucket of Google Cloud Storage.
    #[serde(default)]
    pub gcs: Option<GcsConfig>,
    /// Whether nobody may write to it; then the folder must exist. For a folder of
    /// one's own documents.
    #[serde(default)]
    pub read_only: bool,
    /// Its limits.
    #[serde(default)]
    pub limits: BlobLimits,
}

/// The one backend that a binding says.
enum Kind<'a> {
    Folder(&'a PathBuf),
    S3(&'a S3Config),
    Gcs(&'a GcsConfig),
}

impl Declared for BlobBinding {
    fn place(&self) -> Option<(&PathBuf, bool)> {
        Some((self.path.as_ref()?, self.read_only))
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let s3 = self.s3.iter_mut().flat_map(S3Config::paths);
        let gcs = self.gcs.iter_mut().flat_map(GcsConfig::paths);
        self.path.iter_mut().chain(s3).chain(gcs).collect()
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
        let kinds = [
            self.path.as_ref().map(Kind::Folder),
            self.s3.as_ref().map(Kind::S3),
            self.gcs.as_ref().map(Kind::Gcs),
        ];
        let binding = full.to_owned();
        match one_of(full, kinds, "`path`, `s3` and `gcs`")? {
            Kind::Folder(path) => {
                let opened = FileContainer::new(path, read_only, limits, addresses, runtime)
                    .map_err(|source| BindingError::Blob { binding, source })?;
                Ok(Arc::new(opened))
            }
            Kind::S3(config) => {
                let opened = S3Container::new(config, read_only, limits, runtime)
                    .map_err(|source| BindingError::Bucket { binding, source })?;
                claims.claim_below(full, config.identity(), config.normal_prefix(), read_only)?;
                Ok(Arc::new(opened))
            }
            Kind::Gcs(config) => {
                let opened = GcsContainer::new(config, read_only, limits, runtime)
                    .map_err(|source| BindingError::Bucket { binding, source })?;
                claims.claim_below(full, config.identity(), config.normal_prefix(), read_only)?;
                Ok(Arc::new(opened))
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
        let json = json!({ "namespaces": { "default": { "blob": bindings } } });
        let config: BindingsConfig = serde_json::from_value(json).expect("a configuration");
        Bindings::open(&config, &Handle::current())
    }

    #[tokio::test]
    async fn a_prefix_of_a_bucket_is_one_bindings_own() {
        let gcs = |prefix: &str| json!({ "gcs": { "bucket": "abc", "prefix": prefix } });
        let s3 = |prefix: &str| {
            json!({ "s3": { "bucket": "abc", "prefix": prefix, "access_key_id": "a",
                "secret_access_key_env": "A", "endpoint": "https://storage.googleapis.com" } })
        };
        let opened = open(json!({ "a": gcs("a"), "b": gcs("b"), "c": s3("c") })).expect("opened");
        assert_eq!(opened.list("default").len(), 3);
        for (a, b) in [
            (gcs("a"), gcs("a/")),
            (gcs("a/b"), gcs("a")),
            (gcs("a"), gcs("")),
            // The same bucket by its other API.
            (gcs("a"), s3("a")),
        ] {
            let error = open(json!({ "a": a, "b": b })).expect_err("one prefix");
            let told = error.to_string();
            assert!(told.contains("default/blob/a"), "{told}");
            assert!(told.contains("default/blob/b"), "{told}");
        }
        let at = |endpoint: Option<&str>, within: bool| {
            json!({ "s3": { "bucket": "abc", "endpoint": endpoint, "access_key_id": "a",
                "secret_access_key_env": "A", "virtual_hosted_style": within } })
        };
        let same = |one: Value, other: Value| open(json!({ "a": one, "b": other })).is_err();
        for (one, other) in [
            ("http://localhost", "http://127.0.0.1:80/"),
            ("https://S3.example.com", "https://s3.example.com.:443"),
        ] {
            assert!(same(at(Some(one), false), at(Some(other), false)), "{one}");
        }
        let of = |endpoint: &'static str| at(Some(endpoint), false);
        let amazons = "https://s3.eu-west-1.amazonaws.com";
        assert!(same(of(amazons), at(None, false)));
        let hosted = at(Some("https://abc.h.example"), true);
        assert!(same(of("https://h.example"), hosted.clone()));
        // These may be others.
        assert!(!same(of("https://abc.h.example"), hosted));
        assert!(!same(of("https://h.example:1"), of("https://h.example:2")));
        let machines = "http://ec2-1.compute.amazonaws.com";
        assert!(!same(of(machines), at(None, false)));
        for (binding, told) in [
            (json!({}), "no backend"),
            (
                json!({ "path": "a", "gcs": { "bucket": "abc" } }),
                "two backends",
            ),
            (
                json!({ "s3": { "bucket": "abc" }, "gcs": { "bucket": "abc" } }),
                "two backends",
            ),
            (gcs("../x"), "default/blob/x"),
            (
                json!({ "gcs": { "bucket": "abc", "endpoint": "http://a:hunter2@h" } }),
                "default/blob/x",
            ),
        ] {
            let error = open(json!({ "x": binding })).expect_err(told);
            assert!(error.to_string().contains(told), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let unknown = json!({ "gcs": { "bucket": "abc", "secret": "a" } });
        serde_json::from_value::<BlobBinding>(unknown).expect_err("an unknown field");
    }
}
