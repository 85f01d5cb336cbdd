//! How the configuration names a Weaviate, and why it may be refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use url::{Host, Url};

use crate::credential::CredentialSource;

/// Weaviate's own port of gRPC.
const GRPC_PORT: u16 = 50_051;
const PREFIX_BYTES: usize = 32;

/// A Weaviate, and which of its collections are a binding's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeaviateConfig {
    /// `http://HOST[:PORT]` or `https://HOST[:PORT]`, of REST.
    pub url: String,
    /// The same of gRPC; where absent, the host of `url` and port 50051.
    #[serde(default)]
    pub grpc_url: Option<String>,
    /// A file with an API key; read again and again.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
    /// The environment variable that has it.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// What the names of the binding's collections begin with there; where absent, made of
    /// the namespace's and the binding's names. Bindings of several servers that name the
    /// same share their collections.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Certificates that the server's must descend from, PEM; the operating system's where
    /// absent.
    #[serde(default)]
    pub tls_server_ca_cert_path: Option<PathBuf>,
}

impl WeaviateConfig {
    /// Every path that it names.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let key = self.api_key_file.iter_mut();
        key.chain(self.tls_server_ca_cert_path.as_mut())
    }
}

/// Why a configuration of Weaviate cannot be used. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum WeaviateConfigError {
    /// Not the form of an address.
    #[error("its {0} is not http://HOST[:PORT] or https://HOST[:PORT]: {1}")]
    Url(&'static str, &'static str),
    /// Two keys.
    #[error("it has an api_key_file and an api_key_env: say one")]
    TwoKeys,
    /// No prefix.
    #[error("its prefix is not 1 to 32 of a-z and 0-9")]
    Prefix,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up, with its tls_server_ca_cert_path if it has one: {0}")]
    Certificates(String),
    /// Certificates without TLS.
    #[error("it has a tls_server_ca_cert_path, but no url is https")]
    NoTls,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl Address {
    fn new(member: &'static str, text: &str, port: u16) -> Result<Self, WeaviateConfigError> {
        let wrong = |why| WeaviateConfigError::Url(member, why);
        let url = Url::parse(text).map_err(|_| wrong("it is no address"))?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("it begins with http:// or https://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "a key does not belong there; say an api_key_file or an api_key_env",
            ));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it has no path"));
        }
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => return Err(wrong("it names no host")),
        };
        Ok(Self {
            host,
            port: url.port().unwrap_or(port),
            tls,
        })
    }

    /// As part of an address.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// As an address, with a path.
    pub(super) fn url(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.authority())
    }
}

/// A configuration that was checked.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) rest: Address,
    pub(super) grpc: Address,
    pub(super) key: Option<CredentialSource>,
    pub(super) prefix: String,
}

impl Server {
    /// `full` is the binding's name.
    pub(super) fn new(config: &WeaviateConfig, full: &str) -> Result<Self, WeaviateConfigError> {
        let rest = match Url::parse(&config.url) {
            Ok(url) if url.scheme() == "https" => 443,
            _ => 80,
        };
        let rest = Address::new("url", &config.url, rest)?;
        let grpc = match &config.grpc_url {
            Some(url) => Address::new("grpc_url", url, GRPC_PORT)?,
            None => Address {
                port: GRPC_PORT,
                ..rest.clone()
            },
        };
        if config.tls_server_ca_cert_path.is_some() && !rest.tls && !grpc.tls {
            return Err(WeaviateConfigError::NoTls);
        }
        let key = CredentialSource::of(config.api_key_file.as_ref(), config.api_key_env.as_ref())
            .map_err(|()| WeaviateConfigError::TwoKeys)?;
        let prefix = match &config.prefix {
            None => default_prefix(full),
            Some(prefix)
                if (1..=PREFIX_BYTES).contains(&prefix.len())
                    && prefix
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) =>
            {
                prefix.clone()
            }
            Some(_) => return Err(WeaviateConfigError::Prefix),
        };
        Ok(Self {
            rest,
            grpc,
            key,
            prefix,
        })
    }

    /// What no two bindings may share.
    pub(super) fn identity(&self) -> String {
        let server = self.rest.authority();
        format!("the prefix {} on {server}", self.prefix)
    }
}

/// 64 bits of the name's digest, so that two names are two prefixes.
fn default_prefix(full: &str) -> String {
    let digest = Sha256::digest(full.as_bytes());
    let hex = digest.iter().take(8).map(|byte| format!("{byte:02x}"));
    hex.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> WeaviateConfig {
        WeaviateConfig {
            url: url.to_owned(),
            ..WeaviateConfig::default()
        }
    }

    #[test]
    fn addresses_have_one_form() {
        let server = Server::new(&config("https://w.example.com"), "a/vector/b").expect("good");
        assert_eq!(server.rest.url("/v1"), "https://w.example.com:443/v1");
        assert_eq!(server.grpc.url(""), "https://w.example.com:50051");
        let server = Server::new(&config("http://[::1]:8080"), "a/vector/b").expect("good");
        assert_eq!(server.rest.url("/v1"), "http://[::1]:8080/v1");
        for url in [
            "w.example.com",
            "ftp://w.example.com",
            "http://key@w.example.com",
            "http://u:hunter2@w.example.com",
            "http://w.example.com/v1",
            "http://w.example.com?x=1",
        ] {
            let error = Server::new(&config(url), "a/vector/b").expect_err(url);
            assert!(!format!("{error:?} {error}").contains("hunter2"));
        }
    }

    #[test]
    fn each_binding_has_a_prefix_of_its_own() {
        let of = |full: &str| {
            let server = Server::new(&config("http://w.example.com"), full);
            server.expect("good").prefix
        };
        assert_ne!(of("a/vector/b"), of("a/vector/c"));
        assert_ne!(of("a/vector/b"), of("b/vector/b"));
        assert_eq!(of("default/vector/default"), of("default/vector/default"));
        for prefix in ["", "Upper", "a_b", "a-b", "x/../y", &"p".repeat(33)] {
            let config = WeaviateConfig {
                prefix: Some(prefix.to_owned()),
                ..config("http://w.example.com")
            };
            Server::new(&config, "a/vector/b").expect_err(prefix);
        }
    }
}
