//! Where the Temporal cluster is, and how it is reached.

use std::path::PathBuf;
use std::time::Duration;

use heyday_durable::temporal::{Access, Profile, Source};
use serde::{Deserialize, Serialize};

use super::{ConfigError, DEFAULT_NAMESPACE, wrong};

/// Where the Temporal cluster is, and how it is reached. What is not said here is
/// Temporal's own configuration's to say ([`Profile`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TemporalConfig {
    /// `HOST:PORT` of its frontend; `127.0.0.1:7233` where nothing says it.
    pub address: Option<String>,
    /// Temporal's name of the namespace `default`; the same where nothing says it.
    pub namespace: Option<String>,
    /// A file with the API key, which is read again when it changes.
    pub api_key_file: Option<PathBuf>,
    /// Whether by TLS; where absent, if anything of TLS is set, or an API key.
    pub tls: Option<bool>,
    /// This server's certificate with its chain, PEM; read again when it changes, as the
    /// next two.
    pub tls_client_cert_path: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_client_key_path: Option<PathBuf>,
    /// Certificates that the cluster's must descend from, PEM; the operating system's
    /// where absent.
    pub tls_server_ca_cert_path: Option<PathBuf>,
    /// The name that the cluster's certificate must have; the address's host where absent.
    pub tls_server_name: Option<String>,
    /// Take any certificate of the cluster: for a test, never for use.
    pub tls_disable_host_verification: Option<bool>,
    /// How long a request waits for a cluster that does not answer, 1 s to 5 min; 5 s where
    /// absent.
    #[serde(with = "heyday_durable::flow::duration::optional")]
    pub request_timeout: Option<Duration>,
    /// What Temporal's own configuration says, where it was asked.
    #[serde(skip)]
    pub profile: Profile,
}

impl TemporalConfig {
    /// The frontend's address.
    #[must_use]
    pub fn address(&self) -> &str {
        let said = self.address.as_deref().or(self.profile.address.as_deref());
        said.unwrap_or("127.0.0.1:7233")
    }

    /// Temporal's name of the namespace `default`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let said = self.namespace.as_deref();
        said.or(self.profile.namespace.as_deref())
            .unwrap_or(DEFAULT_NAMESPACE)
    }

    /// How it is reached.
    pub(super) fn access(&self) -> Access {
        let mut access = self.profile.access.clone();
        let file = |path: &Option<PathBuf>, source: &mut Option<Source>| {
            if let Some(path) = path {
                *source = Some(Source::File(path.clone()));
            }
        };
        file(&self.api_key_file, &mut access.api_key);
        file(&self.tls_client_cert_path, &mut access.client_cert);
        file(&self.tls_client_key_path, &mut access.client_key);
        file(&self.tls_server_ca_cert_path, &mut access.server_ca_cert);
        access.tls = self.tls.or(access.tls);
        if self.tls_server_name.is_some() {
            access.server_name.clone_from(&self.tls_server_name);
        }
        if let Some(disable) = self.tls_disable_host_verification {
            access.disable_host_verification = disable;
        }
        access
    }

    /// Finds what cannot work.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let allowed = Duration::from_secs(1)..=Duration::from_secs(300);
        if self
            .request_timeout
            .is_some_and(|it| !allowed.contains(&it))
        {
            return wrong("temporal.request_timeout", "1s to 5m");
        }
        Ok(())
    }

    /// The files that it names.
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [
            &mut self.api_key_file,
            &mut self.tls_client_cert_path,
            &mut self.tls_client_key_path,
            &mut self.tls_server_ca_cert_path,
        ]
        .into_iter()
        .flatten()
    }
}
