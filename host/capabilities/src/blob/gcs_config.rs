//! How a bucket of Google Cloud Storage is configured.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::bucket_config::{self, BucketConfigError, SILENCE, connections};
use super::bucket_http::Http;
use crate::google::{self, Identity, METADATA, Tokens};

const ENDPOINT: &str = "https://storage.googleapis.com";
const IAM: &str = "https://iamcredentials.googleapis.com";

/// A bucket of Google Cloud Storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcsConfig {
    /// The bucket; it exists.
    pub bucket: String,
    /// What the keys of all its objects begin with; a `/` follows unless it ends in one.
    #[serde(default)]
    pub prefix: String,
    /// The store's address, `https://HOST[:PORT][/PATH]`, where it is not the public one.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The key of a service account, JSON; read at each sign-in and for each presigned
    /// address. Where absent, application default credentials.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// The metadata server's address, where it is not the usual one; then no credentials
    /// of files are looked for.
    #[serde(default)]
    pub metadata_endpoint: Option<String>,
    /// The address of IAM, which signs presigned addresses where there is no key, where it
    /// is not the public one.
    #[serde(default)]
    pub iam_endpoint: Option<String>,
    /// Certificates that the store's must descend from, PEM; the operating system's
    /// where absent.
    #[serde(default)]
    pub tls_server_ca_cert_path: Option<PathBuf>,
    /// Operations of this binding that are under way together; 16 where absent. As many
    /// again wait.
    #[serde(default = "connections")]
    pub connections: u16,
}

impl GcsConfig {
    /// Every path that it names.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let credentials = self.credentials_file.as_mut();
        credentials
            .into_iter()
            .chain(self.tls_server_ca_cert_path.as_mut())
    }

    /// Where its bucket is, for people, and what no two bindings may share a prefix of.
    /// A binding of the same bucket by its S3 API has the same.
    pub(crate) fn identity(&self) -> String {
        let endpoint = self.endpoint.as_deref().unwrap_or(ENDPOINT);
        bucket_config::identity(endpoint, &self.bucket)
    }

    /// Empty, or ends in one `/`.
    pub(crate) fn normal_prefix(&self) -> String {
        bucket_config::normal_prefix(&self.prefix)
    }
}

/// What the requests of a bucket are made with.
pub(super) struct Connected {
    pub(super) http: Http,
    pub(super) tokens: Tokens,
    pub(super) iam: Url,
    /// Without a `/` at its end.
    pub(super) endpoint: String,
}

/// Checks the configuration; asks nobody anything.
pub(super) fn connect(config: &GcsConfig) -> Result<Connected, BucketConfigError> {
    let bucket = &config.bucket;
    if !is_bucket(bucket) {
        return Err(BucketConfigError::Bucket(
            bucket.clone(),
            "3 to 63 of a-z, 0-9, `-`, `_` and `.`; up to 222 with dots",
        ));
    }
    bucket_config::check(
        &config.prefix,
        config.connections,
        config.endpoint.as_deref(),
    )?;
    let of = |member: &'static str, text: Option<&String>, usual: &str, plain| {
        let text = text.map_or(usual, String::as_str);
        google::address(text, plain).map_err(|why| BucketConfigError::GoogleAddress(member, why))
    };
    let endpoint = of("endpoint", config.endpoint.as_ref(), ENDPOINT, false)?;
    let metadata = of(
        "metadata_endpoint",
        config.metadata_endpoint.as_ref(),
        METADATA,
        true,
    )?;
    let iam = of("iam_endpoint", config.iam_endpoint.as_ref(), IAM, false)?;
    let identity = match &config.credentials_file {
        Some(path) => Identity::File(path.clone()),
        None if config.metadata_endpoint.is_some() => Identity::Machine(metadata),
        None => Identity::Default(metadata),
    };
    // Its own, with the operating system's certificates: a sign-in is not at the store.
    let sign_in =
        google::client(SILENCE.min(Duration::from_secs(10))).map_err(BucketConfigError::Client)?;
    Ok(Connected {
        http: Http::new(config.tls_server_ca_cert_path.as_deref(), SILENCE)?,
        tokens: Tokens::new(sign_in, identity),
        iam,
        endpoint: endpoint.as_str().trim_end_matches('/').to_owned(),
    })
}

/// [Google's rules](https://cloud.google.com/storage/docs/buckets#naming).
fn is_bucket(name: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
    };
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let most = if name.contains('.') { 222 } else { 63 };
    (3..=most).contains(&name.len())
        && bytes.iter().copied().all(plain)
        && ends(bytes.first())
        && ends(bytes.last())
        && name.split('.').all(|part| (1..=63).contains(&part.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(json: serde_json::Value) -> GcsConfig {
        serde_json::from_value(json).expect("a configuration")
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (json, told) in [
            (json!({ "bucket": "Upper" }), "`Upper`"),
            (json!({ "bucket": "a..b" }), "`a..b`"),
            (json!({ "bucket": "-ab" }), "`-ab`"),
            (json!({ "bucket": "abc", "prefix": "../x" }), "prefix"),
            (json!({ "bucket": "abc", "endpoint": "here" }), "no address"),
            (
                json!({ "bucket": "abc", "endpoint": "ftp://h" }),
                "https://",
            ),
            (
                json!({ "bucket": "abc", "endpoint": "http://a:topsecret@h" }),
                "do not belong",
            ),
            (
                json!({ "bucket": "abc", "endpoint": "http://store.example.com" }),
                "a token goes there",
            ),
            (
                json!({ "bucket": "abc", "iam_endpoint": "http://iam.example.com" }),
                "iam_endpoint",
            ),
            (
                json!({ "bucket": "abc", "metadata_endpoint": "nowhere" }),
                "metadata_endpoint",
            ),
            (json!({ "bucket": "abc", "connections": 0 }), "connections"),
            (
                json!({ "bucket": "abc", "tls_server_ca_cert_path": "/nowhere/ca.pem" }),
                "tls_server_ca_cert_path",
            ),
        ] {
            let error = connect(&config(json)).err().expect(told);
            assert!(error.to_string().contains(told), "{error}");
            assert!(!format!("{error:?}").contains("topsecret"), "{error:?}");
        }
        for bucket in ["abc", "a_b-c.example.com", &"a".repeat(63)] {
            let good = json!({ "bucket": bucket, "endpoint": "http://localhost:9/x/" });
            let connected = connect(&config(good)).expect(bucket);
            assert_eq!(connected.endpoint, "http://localhost:9/x");
        }
    }

    #[test]
    fn a_bucket_is_the_same_by_either_api() {
        let ours = config(json!({ "bucket": "abc" })).identity();
        let s3: super::super::s3_config::S3Config = serde_json::from_value(json!({
            "bucket": "abc", "endpoint": "https://storage.googleapis.com/",
        }))
        .expect("a configuration");
        assert_eq!(ours, s3.identity());
    }
}
