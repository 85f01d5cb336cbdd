//! How a cluster is reached: TLS, and who asks.
//!
//! An [`Access`] says where certificates and keys are; [`Access::read`] reads and checks
//! them. That happens before anything is opened, so that what cannot work is named at the
//! start, and again and again later: a file that changed leads to another connection (see
//! [`worker`](super::worker)). Of what is secret no message has more than its file's name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;

use super::options::OpenError;
use super::profile::ProfileFile;
use super::sdk;

/// How a cluster is reached. The default: without TLS, as nobody in particular.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Whether by TLS. Where it is not said: if anything of TLS is, or an API key, or the
    /// address begins with `https`.
    pub tls: Option<bool>,
    /// This client's certificate with its chain, PEM; together with its key.
    pub client_cert: Option<Source>,
    /// The certificate's private key, PEM.
    pub client_key: Option<Source>,
    /// Certificates that the cluster's must descend from, PEM; those of the operating
    /// system where there are none.
    pub server_ca_cert: Option<Source>,
    /// The name that the cluster's certificate must have; the address's host where absent.
    pub server_name: Option<String>,
    /// Take any certificate of the cluster. Whoever is on the way can then read and
    /// change everything.
    pub disable_host_verification: bool,
    /// Sent with every request as `authorization: Bearer`.
    pub api_key: Option<Source>,
    /// Further gRPC metadata of every request, by names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// Where a certificate or a secret is.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file, which is read again when it changes.
    File(PathBuf),
    /// Here.
    Value(Vec<u8>),
    /// An API key, in a profile of Temporal's configuration file, which is read again when it
    /// changes.
    ApiKeyOf(ProfileFile),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value(..)"),
            Self::ApiKeyOf(file) => f.debug_tuple("ApiKeyOf").field(file).finish(),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("tls", &self.tls)
            .field("client_cert", &self.client_cert)
            .field("client_key", &self.client_key)
            .field("server_ca_cert", &self.server_ca_cert)
            .field("server_name", &self.server_name)
            .field("disable_host_verification", &self.disable_host_verification)
            .field("api_key", &self.api_key)
            // A header may be a secret too.
            .field("headers", &self.headers.keys())
            .finish()
    }
}

impl Source {
    /// Its bytes; `what` it is, for a message.
    pub(super) fn read(&self, what: &str) -> Result<Vec<u8>, OpenError> {
        match self {
            Self::File(path) => {
                std::fs::read(path).map_err(|error| wrong(what, Some(path), &error.to_string()))
            }
            Self::Value(bytes) => Ok(bytes.clone()),
            Self::ApiKeyOf(file) => file.api_key(),
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Value(_) => None,
            Self::ApiKeyOf(file) => file.path(),
        }
    }
}

fn wrong(what: &str, path: Option<&Path>, why: &str) -> OpenError {
    OpenError::Invalid(match path {
        Some(path) => format!("{what} {}: {why}", path.display()),
        None => format!("{what}: {why}"),
    })
}

const CLIENT_CERT: &str = "the TLS client certificate";
const CLIENT_KEY: &str = "the TLS client key";
const SERVER_CA_CERT: &str = "the TLS server CA certificate";
const API_KEY: &str = "the API key";

/// What was read, checked. Two that are equal make the same connection.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    tls: bool,
    client: Option<(Vec<u8>, Vec<u8>)>,
    server_ca_cert: Option<Vec<u8>>,
    api_key: Option<String>,
}

impl Access {
    /// Whether the cluster is reached by TLS.
    pub(super) fn uses_tls(&self, address: &str) -> bool {
        let said = address.starts_with("https://")
            || self.client_cert.is_some()
            || self.client_key.is_some()
            || self.server_ca_cert.is_some()
            || self.server_name.is_some()
            || self.disable_host_verification
            || self.api_key.is_some();
        self.tls.unwrap_or(said)
    }

    /// Reads and checks everything that a connection to this address is made of.
    pub(super) fn read(&self, address: &str) -> Result<Credentials, OpenError> {
        for (name, value) in &self.headers {
            let valid = sdk::AsciiMetadataKey::from_bytes(name.as_bytes()).is_ok()
                && !name.ends_with("-bin")
                && sdk::AsciiMetadataValue::try_from(value.as_str()).is_ok();
            if !valid {
                return Err(wrong(
                    &format!("the gRPC metadata {name:?}"),
                    None,
                    "its name or its value cannot be sent",
                ));
            }
        }
        let api_key = self.api_key.as_ref().map(read_api_key).transpose()?;
        if !self.uses_tls(address) {
            return Ok(Credentials {
                api_key,
                ..Credentials::default()
            });
        }
        let server_ca_cert = match &self.server_ca_cert {
            Some(source) => {
                let pem = source.read(SERVER_CA_CERT)?;
                certificates(source, SERVER_CA_CERT, &pem)?;
                Some(pem)
            }
            None => None,
        };
        if let Some(name) = &self.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            return Err(wrong("the TLS server name", None, "it is no host name"));
        }
        let client = match (&self.client_cert, &self.client_key) {
            (Some(cert), Some(key)) => Some(read_client(cert, key)?),
            (None, None) => None,
            (Some(_), None) => return Err(wrong(CLIENT_CERT, None, "it needs its key too")),
            (None, Some(_)) => return Err(wrong(CLIENT_KEY, None, "it needs its certificate too")),
        };
        Ok(Credentials {
            tls: true,
            client,
            server_ca_cert,
            api_key,
        })
    }

    /// What a connection with these credentials needs.
    pub(super) fn tls_options(&self, credentials: &Credentials) -> Option<sdk::TlsOptions> {
        credentials.tls.then(|| {
            let client = credentials.client.clone().map(|(cert, key)| {
                sdk::ClientTlsOptions::builder()
                    .client_cert(cert)
                    .client_private_key(key)
                    .build()
            });
            let options = sdk::TlsOptions::builder()
                .maybe_domain(self.server_name.clone())
                .maybe_client_tls_options(client);
            if self.disable_host_verification {
                let verifier: Arc<dyn sdk::ServerCertVerifier> = Arc::new(Unverified::new());
                options.server_cert_verifier(verifier).build()
            } else {
                options
                    .maybe_server_root_ca_cert(credentials.server_ca_cert.clone())
                    .build()
            }
        })
    }
}

impl Credentials {
    /// The API key.
    pub(super) fn api_key(&self) -> Option<&str> {
        self.api_key.as_deref()
    }
}

fn read_api_key(source: &Source) -> Result<String, OpenError> {
    let bytes = source.read(API_KEY)?;
    let key = String::from_utf8(bytes)
        .ok()
        .map(|text| text.trim().to_owned())
        .filter(|key| sdk::AsciiMetadataValue::try_from(key.as_str()).is_ok());
    match key {
        Some(key) if key.is_empty() => Err(wrong(API_KEY, source.path(), "it is empty")),
        Some(key) => Ok(key),
        None => Err(wrong(
            API_KEY,
            source.path(),
            "it has characters that cannot be sent",
        )),
    }
}

fn certificates(
    source: &Source,
    what: &str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(wrong(what, source.path(), "it has no certificate in PEM")),
    }
}

/// A certificate and its key. While they are replaced one after the other they do not
/// fit, which is an error like any other: the next time they do.
fn read_client(cert: &Source, key: &Source) -> Result<(Vec<u8>, Vec<u8>), OpenError> {
    let cert_pem = cert.read(CLIENT_CERT)?;
    let chain = certificates(cert, CLIENT_CERT, &cert_pem)?;
    let key_pem = key.read(CLIENT_KEY)?;
    let private = PrivateKeyDer::from_pem_slice(&key_pem)
        .map_err(|_| wrong(CLIENT_KEY, key.path(), "it has no private key in PEM"))?;
    CertifiedKey::from_der(chain, private, &ring::default_provider())
        .map_err(|error| wrong(CLIENT_CERT, cert.path(), &format!("with its key: {error}")))?;
    Ok((cert_pem, key_pem))
}

/// Takes any certificate of a server that has its key.
#[derive(Debug)]
struct Unverified(rustls::crypto::WebPkiSupportedAlgorithms);

impl Unverified {
    fn new() -> Self {
        Self(ring::default_provider().signature_verification_algorithms)
    }
}

impl sdk::ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<Source> {
        Some(Source::Value(text.as_bytes().to_vec()))
    }

    fn refused(access: &Access) -> String {
        match access.read("t.example:7233") {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{access:?} should have been refused"),
        }
    }

    #[test]
    fn tls_is_on_where_anything_of_it_is_said() {
        let plain = Access::default();
        assert!(!plain.uses_tls("t.example:7233"));
        assert!(plain.uses_tls("https://t.example:7233"));
        let key = Access {
            api_key: value("k"),
            ..Access::default()
        };
        assert!(key.uses_tls("t.example:7233"));
        let off = Access {
            tls: Some(false),
            ..key
        };
        assert!(!off.uses_tls("t.example:7233"));
        assert!(off.read("t.example:7233").unwrap().api_key().is_some());
    }

    #[test]
    fn what_cannot_work_is_named_and_no_secret_is() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.pem");
        let cases = [
            (
                Access {
                    client_cert: Some(Source::File(missing.clone())),
                    client_key: value("k"),
                    ..Access::default()
                },
                "missing.pem",
            ),
            (
                Access {
                    client_cert: value("c"),
                    ..Access::default()
                },
                "needs its key",
            ),
            (
                Access {
                    client_key: value("hidden"),
                    ..Access::default()
                },
                "needs its certificate",
            ),
            (
                Access {
                    server_ca_cert: value("hidden"),
                    ..Access::default()
                },
                "no certificate in PEM",
            ),
            (
                Access {
                    server_name: Some("not a name".to_owned()),
                    ..Access::default()
                },
                "no host name",
            ),
            (
                Access {
                    api_key: value(" \n"),
                    ..Access::default()
                },
                "is empty",
            ),
            (
                Access {
                    api_key: value("hidden\nhidden"),
                    ..Access::default()
                },
                "cannot be sent",
            ),
            (
                Access {
                    headers: [("team".to_owned(), "hidden\n".to_owned())].into(),
                    ..Access::default()
                },
                "\"team\"",
            ),
        ];
        for (access, expected) in cases {
            let message = refused(&access);
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains("hidden"), "{message}");
            assert!(!format!("{access:?}").contains("hidden"), "{access:?}");
        }
    }

    #[test]
    fn a_key_in_a_file_is_what_the_file_has_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let access = Access {
            api_key: Some(Source::File(path.clone())),
            ..Access::default()
        };
        assert!(refused(&access).contains("key"));
        std::fs::write(&path, "first\n").unwrap();
        let first = access.read("t.example:7233").unwrap();
        assert_eq!(first.api_key(), Some("first"));
        std::fs::write(&path, "second").unwrap();
        let second = access.read("t.example:7233").unwrap();
        assert_eq!(second.api_key(), Some("second"));
        assert!(first != second);
    }
}
