//! What the environment and Temporal's own configuration file say of a cluster, as each
//! of its SDKs and its command line read them: `TEMPORAL_ADDRESS` and the like, over the
//! profile that `TEMPORAL_PROFILE` names in the file that `TEMPORAL_CONFIG_FILE` names
//! (`temporalio/temporal.toml` in the user's configuration folder where it names none).
//!
//! The SDK reads them; what it would pass over in silence is refused here. They are read once,
//! at the start, but for the API key of the file: it expires and is replaced there
//! ([`ProfileFile`]).

use std::collections::HashMap;
use std::path::Path;

use super::access::{Access, Source};
use super::options::OpenError;
use super::sdk;

/// The variables' prefix.
const PREFIX: &str = "TEMPORAL_";
/// The variable that names the configuration file.
const CONFIG_FILE: &str = "TEMPORAL_CONFIG_FILE";
/// The variable that names the profile in it.
const PROFILE: &str = "TEMPORAL_PROFILE";
/// The variable that has the API key.
const API_KEY: &str = "TEMPORAL_API_KEY";
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
        if let Some(file) = file_of(&variables) {
            std::fs::metadata(file).map_err(|error| {
                OpenError::Invalid(format!("{CONFIG_FILE} {}: {error}", file.display()))
            })?;
        }
        let profile = load(&variables)?;
        if profile.codec.is_some() {
            return Err(OpenError::Invalid(
                "there is no remote codec here; take the codec out of Temporal's configuration"
                    .to_owned(),
            ));
        }
        // A section without anything in it turns TLS on, as in the SDKs.
        let uses_tls = profile.tls.as_ref().map(|tls| tls.disabled != Some(true));
        let tls = profile.tls.unwrap_or_default();
        let api_key = profile.api_key.map(|key| {
            if variables.contains_key(API_KEY) {
                Source::Value(key.into_bytes())
            } else {
                Source::ApiKeyOf(ProfileFile::of(&variables))
            }
        });
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
                api_key,
                headers: profile.grpc_meta.into_iter().collect(),
            },
        })
    }
}

/// A profile of Temporal's configuration file: where it stands. What may change while a
/// process runs is read there again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileFile {
    /// Of the variables those that say where.
    variables: HashMap<String, String>,
}

impl ProfileFile {
    fn of(variables: &HashMap<String, String>) -> Self {
        let named = [CONFIG_FILE, PROFILE].into_iter().filter_map(|name| {
            let value = variables.get(name)?;
            Some((name.to_owned(), value.clone()))
        });
        Self {
            variables: named.collect(),
        }
    }

    /// The file, where it is not the one in the user's configuration folder.
    pub(super) fn path(&self) -> Option<&Path> {
        file_of(&self.variables)
    }

    /// The API key that stands there now.
    pub(super) fn api_key(&self) -> Result<Vec<u8>, OpenError> {
        let key = load(&self.variables)?.api_key;
        key.map(String::into_bytes)
            .ok_or_else(|| OpenError::Invalid(format!("{} has no API key now", name(self.path()))))
    }
}

fn file_of(variables: &HashMap<String, String>) -> Option<&Path> {
    variables.get(CONFIG_FILE).map(Path::new)
}

/// The profile as the SDK reads it.
fn load(variables: &HashMap<String, String>) -> Result<sdk::ClientConfigProfile, OpenError> {
    let options = sdk::LoadClientConfigProfileOptions::builder().build();
    sdk::load_client_config_profile(options, Some(variables))
        .map_err(|error| refusal(&error, file_of(variables)))
}

/// The file, for a message.
fn name(file: Option<&Path>) -> String {
    file.map_or_else(
        || "Temporal's configuration file".to_owned(),
        |file| file.display().to_string(),
    )
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
    let file = name(file);
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
        let key = access.api_key.unwrap().read("the API key").unwrap();
        assert_eq!(key, b"key-of-file");
        assert_eq!(access.headers["some-team"], "red");
        assert_eq!(access.headers["shift"], "late");

        let profile = of([("TEMPORAL_CONFIG_FILE", file)]).unwrap();
        assert_eq!(profile.address.as_deref(), Some("other.example:7233"));
        assert_eq!(profile.access, Access::default());
    }

    #[test]
    fn each_variable_is_read() {
        let folder = tempfile::tempdir().unwrap();
        // Not the file of whoever runs this.
        let empty = folder.path().join("empty.toml");
        std::fs::write(&empty, "").unwrap();
        let file = ("TEMPORAL_CONFIG_FILE", empty.to_str().unwrap());
        let by_files = Access {
            tls: Some(true),
            client_cert: Some(Source::File("/certs/client.pem".into())),
            client_key: Some(Source::File("/certs/client.key".into())),
            server_ca_cert: Some(Source::File("/certs/ca.pem".into())),
            server_name: Some("name.example".to_owned()),
            disable_host_verification: true,
            api_key: Some(Source::Value(b"key".to_vec())),
            headers: [("some-team".to_owned(), "red".to_owned())].into(),
        };
        let read = of([
            file,
            ("TEMPORAL_ADDRESS", "t.example:7233"),
            ("TEMPORAL_NAMESPACE", "team"),
            ("TEMPORAL_API_KEY", "key"),
            ("TEMPORAL_TLS_CLIENT_CERT_PATH", "/certs/client.pem"),
            ("TEMPORAL_TLS_CLIENT_KEY_PATH", "/certs/client.key"),
            ("TEMPORAL_TLS_SERVER_CA_CERT_PATH", "/certs/ca.pem"),
            ("TEMPORAL_TLS_SERVER_NAME", "name.example"),
            ("TEMPORAL_TLS_DISABLE_HOST_VERIFICATION", "true"),
            ("TEMPORAL_GRPC_META_SOME_TEAM", "red"),
        ]);
        let read = read.unwrap();
        assert_eq!(read.address.as_deref(), Some("t.example:7233"));
        assert_eq!(read.namespace.as_deref(), Some("team"));
        assert_eq!(read.access, by_files);

        let read = of([
            file,
            ("TEMPORAL_TLS", "false"),
            ("TEMPORAL_TLS_CLIENT_CERT_DATA", "CERT"),
            ("TEMPORAL_TLS_CLIENT_KEY_DATA", "KEY"),
            ("TEMPORAL_TLS_SERVER_CA_CERT_DATA", "CA"),
        ]);
        let by_data = Access {
            tls: Some(false),
            client_cert: Some(Source::Value(b"CERT".to_vec())),
            client_key: Some(Source::Value(b"KEY".to_vec())),
            server_ca_cert: Some(Source::Value(b"CA".to_vec())),
            ..Access::default()
        };
        assert_eq!(read.unwrap().access, by_data);
        let refused = of([file, ("TEMPORAL_CODEC_AUTH", "hidden")]).unwrap_err();
        assert!(refused.contains("codec"), "{refused}");
        assert!(!refused.contains("hidden"), "{refused}");
    }

    #[test]
    fn a_key_in_the_file_is_what_the_file_has_now() {
        const ADDRESS: &str = "t.example:7233";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("temporal.toml");
        let write = |profile: &str, key: &str| {
            let text = format!("[profile.{profile}]\n{key}\n[profile.other]\napi_key = 'hidden'\n");
            std::fs::write(&file, text).unwrap();
        };
        let key = |access: &Access| {
            let credentials = access.read(ADDRESS).map_err(|error| error.to_string());
            credentials.map(|it| it.api_key().map(str::to_owned))
        };
        for profile in ["default", "cloud"] {
            write(profile, "api_key = 'first'");
            let named = [
                ("TEMPORAL_CONFIG_FILE", file.to_str().unwrap()),
                ("TEMPORAL_PROFILE", profile),
            ];
            let access = of(named).unwrap().access;
            assert_eq!(key(&access).unwrap().as_deref(), Some("first"));
            write(profile, "api_key = 'second'");
            assert_eq!(key(&access).unwrap().as_deref(), Some("second"));
            for (change, expected) in [("", "no API key now"), ("api_key = 'hidden", "line 2")] {
                write(profile, change);
                let message = key(&access).unwrap_err();
                assert!(message.contains(expected), "{message}");
                assert!(message.contains("temporal.toml"), "{message}");
                assert!(!message.contains("hidden"), "{message}");
            }
            std::fs::remove_file(&file).unwrap();
            key(&access).unwrap_err();
            // The environment's goes over it, and stays.
            write(profile, "api_key = 'first'");
            let [path, name] = named;
            let access = of([path, name, ("TEMPORAL_API_KEY", "own")])
                .unwrap()
                .access;
            write(profile, "api_key = 'second'");
            assert_eq!(key(&access).unwrap().as_deref(), Some("own"));
        }
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
