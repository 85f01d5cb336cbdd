//! TLS to servers whose certificates are verified.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_rustls::TlsConnector;

/// How a server is spoken to.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) connector: TlsConnector,
    pub(crate) name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Why a server cannot be spoken to by TLS.
#[derive(Debug)]
pub(crate) enum TlsError {
    /// The certificates cannot be used.
    Certificates(String),
    /// There are certificates, but TLS is off.
    Off,
}

impl Tls {
    /// As a binding says it: unless said otherwise, for every host but this machine, and
    /// where there are certificates.
    pub(crate) fn of(
        host: &str,
        wanted: Option<bool>,
        ca: Option<&Path>,
    ) -> Result<Option<Self>, TlsError> {
        let here = host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        if wanted.unwrap_or(ca.is_some() || !here) {
            return Self::new(host, ca)
                .map(Some)
                .map_err(TlsError::Certificates);
        }
        if ca.is_some() {
            return Err(TlsError::Off);
        }
        Ok(None)
    }

    /// For a host, with certificates of its own where there are some.
    fn new(host: &str, ca: Option<&Path>) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(client_config(ca)?)),
            name,
        })
    }
}

/// Whether the connection broke in a handshake, as it does when a server goes down; else what
/// came is not what is asked of the server, its certificate say, and stays so.
pub(crate) fn is_away(error: &std::io::Error) -> bool {
    let inner = error.get_ref();
    !inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Takes certificates that descend from those of a file (PEM), or from the operating
/// system's.
///
/// # Errors
/// Why the certificates cannot be used.
pub(crate) fn client_config(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match ca {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let found = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
            for certificate in found {
                let certificate = certificate.map_err(|error| error.to_string())?;
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
            if roots.is_empty() {
                return Err("there is no certificate in it".to_owned());
            }
            builder.with_root_certificates(roots)
        }
        None => builder
            .with_platform_verifier()
            .map_err(|error| error.to_string())?,
    };
    Ok(config.with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::is_away;

    #[test]
    fn a_handshake_that_breaks_is_no_fault_of_a_certificate() {
        assert!(is_away(&Error::from(ErrorKind::ConnectionReset)));
        assert!(is_away(&Error::new(
            ErrorKind::UnexpectedEof,
            "tls handshake eof"
        )));
        let fault = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(!is_away(&Error::new(ErrorKind::InvalidData, fault)));
    }
}
