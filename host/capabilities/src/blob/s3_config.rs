//! How a bucket is configured, and the client that is made of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, S3ConditionalPut};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{BackoffConfig, ClientOptions, CredentialProvider, RetryConfig};
use serde::{Deserialize, Serialize};
use url::Url;

use super::bucket_config::{self, BucketConfigError, connections};
use super::bucket_http::Http;
use super::s3::S3;
use crate::credential::CredentialSource;
use crate::error::chain;

/// A bucket of a store that speaks S3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// The bucket; it exists.
    pub bucket: String,
    /// What the keys of all its objects begin with; a `/` follows unless it ends in one.
    #[serde(default)]
    pub prefix: String,
    /// The store's address, `https://HOST[:PORT][/PATH]`; Amazon's where absent.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The region; `us-east-1` where absent.
    #[serde(default)]
    pub region: Option<String>,
    /// The id of the key that requests are signed with. Where absent, what the process
    /// has: the variables `AWS_*`, a web identity, the container's or the machine's role.
    #[serde(default)]
    pub access_key_id: Option<String>,
    /// A file with the secret of that key; read at each request.
    #[serde(default)]
    pub secret_access_key_file: Option<PathBuf>,
    /// The environment variable that has it.
    #[serde(default)]
    pub secret_access_key_env: Option<String>,
    /// Whether the bucket's name is part of the host's rather than of the path.
    #[serde(default)]
    pub virtual_hosted_style: bool,
    /// Certificates that the server's must descend from, PEM; the operating system's
    /// where absent.
    #[serde(default)]
    pub tls_server_ca_cert_path: Option<PathBuf>,
    /// Operations of this binding that are under way together; 16 where absent. As many
    /// again wait.
    #[serde(default = "connections")]
    pub connections: u16,
}

impl S3Config {
    /// Every path that it names.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let secret = self.secret_access_key_file.as_mut();
        secret
            .into_iter()
            .chain(self.tls_server_ca_cert_path.as_mut())
    }

    /// Where its bucket is, for people, and what no two bindings may share a prefix of.
    pub(crate) fn identity(&self) -> String {
        let named = self.endpoint.as_deref().filter(|it| !is_amazons(it));
        let endpoint = named.unwrap_or("s3://");
        if self.virtual_hosted_style {
            let endpoint = endpoint.replacen(&format!("//{}.", self.bucket), "//", 1);
            return bucket_config::identity(&endpoint, &self.bucket);
        }
        bucket_config::identity(endpoint, &self.bucket)
    }

    /// Empty, or ends in one `/`.
    pub(crate) fn normal_prefix(&self) -> String {
        bucket_config::normal_prefix(&self.prefix)
    }
}

/// Whether an endpoint is one of Amazon S3, where no bucket has another's name.
fn is_amazons(endpoint: &str) -> bool {
    let url = Url::parse(endpoint).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let Some(host) = host.trim_end_matches('.').strip_suffix(".amazonaws.com") else {
        return false;
    };
    // Others have machines there, and stores of their own on these.
    let mut labels = host.split('.');
    labels.any(|label| label == "s3" || label.starts_with("s3-"))
}

/// The region where nothing says one, as object_store has it.
const REGION: &str = "us-east-1";

/// The client of a bucket, and what sends its requests. `silence`: how long the store may keep
/// silent.
pub(super) fn connect(config: &S3Config, silence: Duration) -> Result<S3, BucketConfigError> {
    check(config)?;
    let (file, variable) = (
        config.secret_access_key_file.as_ref(),
        config.secret_access_key_env.as_ref(),
    );
    let secret = CredentialSource::of(file, variable).map_err(|()| BucketConfigError::Keys)?;
    let mut builder = match (&config.access_key_id, secret) {
        (Some(id), Some(secret)) => {
            let id = id.clone();
            AmazonS3Builder::new().with_credentials(Arc::new(Keys { id, secret }))
        }
        (None, None) => AmazonS3Builder::from_env(),
        _ => return Err(BucketConfigError::Keys),
    };
    let http = Http::new(config.tls_server_ca_cert_path.as_deref(), silence)?;
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    let region = builder.get_config_value(&AmazonS3ConfigKey::Region);
    let client = builder
        .with_bucket_name(&config.bucket)
        .with_virtual_hosted_style_request(config.virtual_hosted_style)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_allow_http(true)
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: 3,
            retry_timeout: silence,
        })
        .with_http_connector(Connector(http.clone()))
        .build()
        .map_err(|error| BucketConfigError::Client(chain(&error)))?;
    Ok(S3 {
        client,
        http,
        region: region.unwrap_or_else(|| REGION.to_owned()),
    })
}

fn check(config: &S3Config) -> Result<(), BucketConfigError> {
    let bucket = &config.bucket;
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
    };
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) || bucket.contains("..") {
        return Err(BucketConfigError::Bucket(
            bucket.clone(),
            "3 to 63 of a-z, 0-9, `.` and `-`",
        ));
    }
    bucket_config::check(
        &config.prefix,
        config.connections,
        config.endpoint.as_deref(),
    )
}

#[derive(Debug)]
struct Connector(Http);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// A key whose secret is read whenever a request is signed.
#[derive(Debug)]
struct Keys {
    id: String,
    secret: CredentialSource,
}

#[async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let secret_key =
            self.secret
                .read()
                .await
                .map_err(|why| object_store::Error::Unauthenticated {
                    path: String::new(),
                    source: why.into(),
                })?;
        Ok(Arc::new(AwsCredential {
            key_id: self.id.clone(),
            secret_key,
            token: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::bucket_config::SILENCE;

    fn config(json: serde_json::Value) -> S3Config {
        serde_json::from_value(json).expect("a configuration")
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (json, told) in [
            (serde_json::json!({ "bucket": "Upper" }), "`Upper`"),
            (
                serde_json::json!({ "bucket": "abc", "prefix": "../x" }),
                "prefix",
            ),
            (
                serde_json::json!({ "bucket": "abc", "prefix": "a//b" }),
                "prefix",
            ),
            (
                serde_json::json!({ "bucket": "abc", "endpoint": "here" }),
                "no address",
            ),
            (
                serde_json::json!({ "bucket": "abc", "endpoint": "ftp://h" }),
                "https://",
            ),
            (
                serde_json::json!({ "bucket": "abc", "endpoint": "http://a:topsecret@h" }),
                "do not belong",
            ),
            (
                serde_json::json!({ "bucket": "abc", "access_key_id": "a" }),
                "access_key_id",
            ),
            (
                serde_json::json!({ "bucket": "abc", "secret_access_key_env": "A" }),
                "access_key_id",
            ),
            (
                serde_json::json!({ "bucket": "abc", "connections": 0 }),
                "connections",
            ),
        ] {
            let error = connect(&config(json), SILENCE).err().expect(told);
            assert!(error.to_string().contains(told), "{error}");
            assert!(!format!("{error:?}").contains("topsecret"), "{error:?}");
        }
        let good = config(serde_json::json!({ "bucket": "abc", "access_key_id": "a",
            "secret_access_key_env": "A", "endpoint": "http://localhost:9/x/" }));
        connect(&good, SILENCE).expect("good");
    }
}
