//! Passwords and keys of backends: where the configuration says they are, read whenever
//! they are needed, so that they can change while the process runs.

use std::path::PathBuf;

/// Bytes of the largest one.
const BYTES: usize = 4 << 10;

/// Where a credential is. Never the credential itself.
#[derive(Debug, Clone)]
pub enum CredentialSource {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Environment(String),
}

impl CredentialSource {
    /// Of a configuration's file or environment variable.
    ///
    /// # Errors
    /// Both at once.
    #[allow(
        clippy::result_unit_err,
        reason = "there is one thing that can be wrong"
    )]
    pub fn of(file: Option<&PathBuf>, variable: Option<&String>) -> Result<Option<Self>, ()> {
        match (file, variable) {
            (Some(_), Some(_)) => Err(()),
            (Some(file), None) => Ok(Some(Self::File(file.clone()))),
            (None, Some(variable)) => Ok(Some(Self::Environment(variable.clone()))),
            (None, None) => Ok(None),
        }
    }

    /// The credential as it is now, without the end of its line.
    ///
    /// # Errors
    /// Why it cannot be had, in words for the log.
    pub async fn read(&self) -> Result<String, String> {
        let found = match self {
            Self::Environment(name) => {
                std::env::var(name).map_err(|_| format!("the variable {name} is not set"))?
            }
            Self::File(path) => tokio::fs::read_to_string(path)
                .await
                .map_err(|error| format!("the file {}: {error}", path.display()))?,
        };
        let credential = found.trim_end_matches(['\r', '\n']);
        if credential.is_empty() || credential.len() > BYTES {
            return Err("a password or key has 1 to 4,096 bytes".to_owned());
        }
        Ok(credential.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_read_as_it_is_now() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("password");
        let source = CredentialSource::of(Some(&path), None)
            .expect("one")
            .expect("said");
        let error = source.read().await.expect_err("no file");
        assert!(error.contains("password"), "{error}");
        for (text, read) in [
            ("one\n", Some("one")),
            ("two\r\n", Some("two")),
            ("\n", None),
        ] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(source.read().await.ok().as_deref(), read);
        }
        std::fs::write(&path, "x".repeat(BYTES + 1)).expect("written");
        source.read().await.expect_err("too long");
        assert!(CredentialSource::of(Some(&path), Some(&"NAME".to_owned())).is_err());
    }
}
