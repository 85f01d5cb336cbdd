//! What the configurations of all buckets have in common.

use std::time::Duration;

use url::Url;

/// How long the store may keep silent.
pub(super) const SILENCE: Duration = Duration::from_secs(15);

/// Why a configuration of a bucket cannot be used. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum BucketConfigError {
    /// Not the form of an address.
    #[error("its endpoint is not http[s]://HOST[:PORT][/PATH]: {0}")]
    Endpoint(&'static str),
    /// Not the address of a server of Google's.
    #[error("its gcs.{0} is no address: {1}")]
    GoogleAddress(&'static str, &'static str),
    /// Not the form of a bucket's name.
    #[error("its bucket `{0}` is not a name: {1}")]
    Bucket(String, &'static str),
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

/// Operations that are under way together, where the configuration does not say.
pub(super) const fn connections() -> u16 {
    16
}

/// A prefix as keys have it: empty, or it ends in one `/`.
pub(super) fn normal_prefix(prefix: &str) -> String {
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() {
        String::new()
    } else {
        format!("{prefix}/")
    }
}

/// Where a bucket is: what no two bindings may share a prefix of. The endpoint in one form, of the
/// many that an address has.
pub(super) fn identity(endpoint: &str, bucket: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    let url = Url::parse(endpoint).ok();
    let plain = url.as_ref().and_then(|url| {
        let host = url.host_str()?.trim_end_matches('.');
        let port = url.port_or_known_default()?;
        let path = url.path().trim_end_matches('/');
        Some(format!("{}://{host}:{port}{path}", url.scheme()))
    });
    format!("{}/{bucket}", plain.as_deref().unwrap_or(endpoint))
}

/// Checks what all have.
pub(super) fn check(
    prefix: &str,
    connections: u16,
    endpoint: Option<&str>,
) -> Result<(), BucketConfigError> {
    let prefix = normal_prefix(prefix);
    if let Some(prefix) = prefix.strip_suffix('/') {
        super::check_key(prefix, false)
            .map_err(|error| BucketConfigError::Prefix(error.message))?;
    }
    if connections == 0 {
        return Err(BucketConfigError::NoConnections);
    }
    let Some(endpoint) = endpoint else {
        return Ok(());
    };
    let url = Url::parse(endpoint).map_err(|_| BucketConfigError::Endpoint("it is no address"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(BucketConfigError::Endpoint(
            "it begins with https:// and a host",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BucketConfigError::Endpoint("keys do not belong there"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(BucketConfigError::Endpoint("it has no options"));
    }
    Ok(())
}
