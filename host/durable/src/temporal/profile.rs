//! What the environment and Temporal's own configuration file say of a cluster, as each
//! of its SDKs and its command line read them: `TEMPORAL_ADDRESS` and the like, over the
//! profile that `TEMPORAL_PROFILE` names in the file that `TEMPORAL_CONFIG_FILE` names
//! (`temporalio/temporal.toml` in the user's configuration folder where it names none).
//!
//! The SDK reads them; what it would pass over in silence is refused here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::access::{Access, Source};
use super::options::OpenError;
use super::sdk;

/// The variables' prefix.
const PREFIX: &str = "TEMPORAL_";
/// The variable that names the configuration file.
const CONFIG_FILE: &str = "TEMPORAL_CONFIG_FILE";
/// Variables that are `true` or `false`.
const BOOLEANS: [&str; 2] = ["TEMPORAL_TLS", "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION"];

/// What the environment and Temporal's configuration file say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// The frontend's address.
    pub address: Option<String>,
    /// Temporal's namespace.
    pub namespace: Option<String>,
    /// How it is reached.
    pub access: Access,
}

impl Profile {
    /// Reads them.
    ///
    /// # Errors
    /// [`OpenError::Invalid`] where they contradict themselves, name a file or a profile
    /// that there is not, or ask for what this engine has not (a remote codec).
    pub fn load() -> Result<Self, OpenError> {
        let mut variables = HashMap::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            let value = value
                .into_string()
                .map_err(|_| OpenError::Invalid(format!("{name} is not UTF-8")))?;
            variables.insert(name.to_owned(), value);
        }
        Self::of(variables)
    }

    fn of(mut variables: HashMap<String, String>) -> Result<Self, OpenError> {
        // An empty one says nothing, but for a header: there it takes the file's away.
        variables
            .retain(|name, value| !value.is_empty() || name.starts_with("TEMPORAL_GRPC_META_"));
        for name in BOOLEANS {
            let value = variables.get(name).map(|value| value.to_ascii_lowercase());
            if value.is_some_and(|value| !["true", "false", "1", "0"].contains(&value.as_str())) {
                return Err(OpenError::Invalid(format!(
                    "{name} is neither true nor false"
                )));
            }
        }
        let file = variables.get(CONFIG_FILE).map(PathBuf::from);
        if let Some(file) = &file {
            std::fs::metadata(file).map_err(|error| {
                OpenError::Invalid(format!("{CONFIG_FILE} {}: {error}", file.display()))
            })?;
        }
        let options = sdk::LoadClientConfigProfileOptions::builder().build();
        let profile = sdk::load_client_config_profile(options, Some(&variables))
            .map_err(|error| refusal(&error, file.as_deref()))?;
        if profile.codec.is_some() {
            return Err(OpenError::Invalid(
                "there is no remote codec here; take the codec out of Temporal's configuration"
                    .to_owned(),
            ));
        }
        // A section without anything in it turns TLS on, as in the SDKs.
        let uses_tls = profile.tls.as_ref().map(|tls| tls.disabled != Some(true));
        let tls = profile.tls.unwrap_or_default();
        Ok(Self {
            address: profile.address,
            namespace: profile.namespace,
            access: Access {
                tls: uses_tls,
                client_cert: tls.client_cert.map(source).transpose()?,
                client_key: tls.client_key.map(source).transpose()?,
                server_ca_cert: tls.server_ca_cert.map(source).transpose()?,
                server_name: tls.server_name,
                disable_host_verification: tls.disable_host_verification,
                api_key: profile.api_key.map(|key| Source::Value(key.into_bytes())),
                headers: profile.grpc_meta.into_iter().collect(),
            },
        })
    }
}

fn source(source: sdk::DataSource) -> Result<Source, OpenError> {
    match source {
        sdk::DataSource::Path(path) => Ok(Source::File(path.into())),
        sdk::DataSource::Data(data) => Ok(Source::Value(data)),
        _ => Err(OpenError::Invalid(
            "a certificate of Temporal's configuration is neither a path nor data".to_owned(),
        )),
    }
}

fn refusal(error: &sdk::ConfigError, file: Option<&Path>) -> OpenError {
    let file = file.map_or_else(
        || "Temporal's configuration file".to_owned(),
        |file| file.display().to_string(),
    );
    OpenError::Invalid(match error {
        sdk::ConfigError::ProfileNotFound(name) => {
            format!("TEMPORAL_PROFILE: {file} has no profile {name:?}")
        }
        sdk::ConfigError::InvalidConfig(message) => message.clone(),
        // Its further lines show the place, and there may be a key.
        sdk::ConfigError::LoadError(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            format!("{file} cannot be read: {first}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<const N: usize>(variables: [(&str, &str); N]) -> Result<Profile, String> {
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Profile::of(variables.into()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_goes_over_the_profile_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("temporal.toml");
        let text = "
[profile.default]
address = 'other.example:7233'
[profile.cloud]
address = 'cloud.example:7233'
namespace = 'from-file'
api_key = 'key-of-file'
[profile.cloud.tls]
client_cert_path = '/certs/client.pem'
client_key_data = 'PEM'
server_name = 'name.example'
[profile.cloud.grpc_meta]
Some_Team = 'red'
";
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let profile = of([
            ("TEMPORAL_CONFIG_FILE", file),
            ("TEMPORAL_PROFILE", "cloud"),
            ("TEMPORAL_NAMESPACE", "from-environment"),
            ("TEMPORAL_ADDRESS", ""),
            ("TEMPORAL_TLS", "true"),
            ("TEMPORAL_GRPC_META_SHIFT", "late"),
        ])
        .unwrap();
        assert_eq!(profile.address.as_deref(), Some("cloud.example:7233"));
        assert_eq!(profile.namespace.as_deref(), Some("from-environment"));
        let access = profile.access;
        assert_eq!(access.tls, Some(true));
        let certificate = Source::File("/certs/client.pem".into());
        assert_eq!(access.client_cert, Some(certificate));
        assert_eq!(access.client_key, Some(Source::Value(b"PEM".to_vec())));
        assert_eq!(access.server_name.as_deref(), Some("name.example"));
        let key = Source::Value(b"key-of-file".to_vec());
        assert_eq!(access.api_key, Some(key));
        assert_eq!(access.headers["some-team"], "red");
        assert_eq!(access.headers["shift"], "late");

        let profile = of([("TEMPORAL_CONFIG_FILE", file)]).unwrap();
        assert_eq!(profile.address.as_deref(), Some("other.example:7233"));
        assert_eq!(profile.access, Access::default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("temporal.toml");
        std::fs::write(&file, "[profile.default]\napi_key = \"hidden\n").unwrap();
        let broken = file.to_str().unwrap();
        let empty = folder.path().join("empty.toml");
        std::fs::write(&empty, "").unwrap();
        let empty = empty.to_str().unwrap();
        let cases = [
            (of([("TEMPORAL_TLS", "yes")]), "TEMPORAL_TLS"),
            (of([("TEMPORAL_CONFIG_FILE", "/no/such")]), "/no/such"),
            (of([("TEMPORAL_CONFIG_FILE", broken)]), "line 2"),
            (
                of([("TEMPORAL_CONFIG_FILE", empty), ("TEMPORAL_PROFILE", "p")]),
                "no profile \"p\"",
            ),
            (
                of([
                    ("TEMPORAL_CONFIG_FILE", empty),
                    ("TEMPORAL_TLS_CLIENT_CERT_PATH", "c"),
                    ("TEMPORAL_TLS_CLIENT_CERT_DATA", "hidden"),
                ]),
                "TEMPORAL_TLS_CLIENT_CERT_PATH",
            ),
            (
                of([
                    ("TEMPORAL_CONFIG_FILE", empty),
                    ("TEMPORAL_CODEC_ENDPOINT", "http://codec"),
                ]),
                "codec",
            ),
        ];
        for (result, expected) in cases {
            let message = result.unwrap_err();
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains("hidden"), "{message}");
        }
    }
}
