//! How a bucket is configured, and the client that is made of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential, S3ConditionalPut};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{BackoffConfig, ClientOptions, CredentialProvider, RetryConfig};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::credential::CredentialSource;
use crate::error::chain;
use crate::tls::client_config;

/// How long the store may keep silent.
const SILENCE: Duration = Duration::from_secs(15);

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

const fn connections() -> u16 {
    16
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
        let endpoint = self.endpoint.as_deref().unwrap_or("s3://");
        format!("{}/{}", endpoint.trim_end_matches('/'), self.bucket)
    }

    /// Empty, or ends in one `/`.
    pub(crate) fn normal_prefix(&self) -> String {
        let prefix = self.prefix.trim_end_matches('/');
        if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        }
    }
}

/// Why a configuration of a bucket cannot be used. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum S3ConfigError {
    /// Not the form of an address.
    #[error("its endpoint is not http[s]://HOST[:PORT][/PATH]: {0}")]
    Endpoint(&'static str),
    /// Not the form of a bucket's name.
    #[error("its bucket `{0}` is not a name: 3 to 63 of a-z, 0-9, `.` and `-`")]
    Bucket(String),
    /// A prefix that no key could begin with.
    #[error("its prefix cannot begin a key: {0}")]
    Prefix(String),
    /// Two secrets, or one without its id, or an id without one.
    #[error(
        "it has an access_key_id and one of secret_access_key_file and secret_access_key_env, or \
         none of the three"
    )]
    Keys,
    /// No operation could ever be made.
    #[error("it has connections = 0: it could never be used")]
    NoConnections,
    /// The certificates cannot be used.
    #[error("its tls_server_ca_cert_path cannot be used: {0}")]
    Certificates(String),
    /// The client refuses it.
    #[error("it cannot be used: {0}")]
    Client(String),
}

/// The client of a bucket, and what sends its requests.
pub(super) fn connect(config: &S3Config) -> Result<(AmazonS3, reqwest::Client), S3ConfigError> {
    check(config)?;
    let (file, variable) = (
        config.secret_access_key_file.as_ref(),
        config.secret_access_key_env.as_ref(),
    );
    let secret = CredentialSource::of(file, variable).map_err(|()| S3ConfigError::Keys)?;
    let mut builder = match (&config.access_key_id, secret) {
        (Some(id), Some(secret)) => {
            let id = id.clone();
            AmazonS3Builder::new().with_credentials(Arc::new(Keys { id, secret }))
        }
        (None, None) => AmazonS3Builder::from_env(),
        _ => return Err(S3ConfigError::Keys),
    };
    let http = http(config)?;
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    let store = builder
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
            retry_timeout: SILENCE,
        })
        .with_http_connector(Connector(http.clone()))
        .build()
        .map_err(|error| S3ConfigError::Client(chain(&error)))?;
    Ok((store, http))
}

fn check(config: &S3Config) -> Result<(), S3ConfigError> {
    let bucket = &config.bucket;
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
    };
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) || bucket.contains("..") {
        return Err(S3ConfigError::Bucket(bucket.clone()));
    }
    let prefix = config.normal_prefix();
    if let Some(prefix) = prefix.strip_suffix('/') {
        super::check_key(prefix).map_err(|error| S3ConfigError::Prefix(error.message))?;
    }
    if config.connections == 0 {
        return Err(S3ConfigError::NoConnections);
    }
    let Some(endpoint) = &config.endpoint else {
        return Ok(());
    };
    let url = Url::parse(endpoint).map_err(|_| S3ConfigError::Endpoint("it is no address"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(S3ConfigError::Endpoint(
            "it begins with https:// and a host",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(S3ConfigError::Endpoint("keys do not belong there"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(S3ConfigError::Endpoint("it has no options"));
    }
    Ok(())
}

fn http(config: &S3Config) -> Result<reqwest::Client, S3ConfigError> {
    let ca = config.tls_server_ca_cert_path.as_deref();
    let tls = client_config(ca).map_err(S3ConfigError::Certificates)?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(SILENCE)
        .pool_idle_timeout(Duration::from_secs(30))
        .user_agent(concat!("heyday/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| S3ConfigError::Client(chain(&error)))
}

#[derive(Debug)]
struct Connector(reqwest::Client);

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
            let error = connect(&config(json)).expect_err(told);
            assert!(error.to_string().contains(told), "{error}");
            assert!(!format!("{error:?}").contains("topsecret"), "{error:?}");
        }
        connect(&config(
            serde_json::json!({ "bucket": "abc", "access_key_id": "a",
            "secret_access_key_env": "A", "endpoint": "http://localhost:9/x/" }),
        ))
        .expect("good");
    }
}
