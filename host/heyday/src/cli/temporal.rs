//! Options that say where the Temporal cluster is and how it is reached.
//!
//! They go over the configuration file; what neither says, Temporal's own configuration
//! does ([`Profile`]): its variables, and its file.

use std::path::PathBuf;

use clap::Args;
use heyday::config::{Config, EngineKind};
use heyday_durable::temporal::Profile;

use super::error::CliError;

/// Arguments of a command whose engine may be on Temporal.
#[derive(Debug, Args)]
#[command(next_help_heading = "Temporal")]
pub struct TemporalArgs {
    /// Where the Temporal cluster is [default: 127.0.0.1:7233]
    #[arg(long, value_name = "HOST:PORT")]
    pub temporal_address: Option<String>,
    /// Temporal's name of the namespace default [default: default]
    #[arg(long, value_name = "NAMESPACE")]
    pub temporal_namespace: Option<String>,
    /// A file with the API key; no option takes the key itself, which everybody on a machine would see
    #[arg(long, value_name = "FILE")]
    pub temporal_api_key_file: Option<PathBuf>,
    /// Whether by TLS [default: if any of the following is given, or an API key]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub temporal_tls: Option<bool>,
    /// This server's certificate with its chain (PEM)
    #[arg(long, value_name = "FILE")]
    pub temporal_tls_client_cert_path: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE")]
    pub temporal_tls_client_key_path: Option<PathBuf>,
    /// Certificates that the cluster's must descend from (PEM) [default: the operating system's]
    #[arg(long, value_name = "FILE")]
    pub temporal_tls_server_ca_cert_path: Option<PathBuf>,
    /// The name that the cluster's certificate must have [default: the address's host]
    #[arg(long, value_name = "NAME")]
    pub temporal_tls_server_name: Option<String>,
}

impl TemporalArgs {
    /// Puts over the configuration what was typed, and under it, where runs are on a
    /// Temporal cluster, what Temporal's own configuration says.
    pub fn apply(&self, config: &mut Config) -> Result<(), CliError> {
        fn over<T: Clone>(typed: &Option<T>, setting: &mut Option<T>) {
            if typed.is_some() {
                setting.clone_from(typed);
            }
        }
        let temporal = &mut config.temporal;
        over(&self.temporal_address, &mut temporal.address);
        over(&self.temporal_namespace, &mut temporal.namespace);
        over(&self.temporal_api_key_file, &mut temporal.api_key_file);
        over(&self.temporal_tls, &mut temporal.tls);
        over(
            &self.temporal_tls_client_cert_path,
            &mut temporal.tls_client_cert_path,
        );
        over(
            &self.temporal_tls_client_key_path,
            &mut temporal.tls_client_key_path,
        );
        over(
            &self.temporal_tls_server_ca_cert_path,
            &mut temporal.tls_server_ca_cert_path,
        );
        over(
            &self.temporal_tls_server_name,
            &mut temporal.tls_server_name,
        );
        if config.engine == EngineKind::Temporal {
            config.temporal.profile = Profile::load()
                .map_err(|error| CliError::usage(format!("Temporal's configuration: {error}")))?;
        }
        Ok(())
    }
}
