//! `heyday:secrets`: secrets that an operator gave to plugins, by name.
//!
//! The way of a call: `host.rs` takes the guest's call and looks the binding up;
//! [`Secrets`] looks whether the binding gives out that name, and asks what stands behind
//! it: a file, a folder or the environment ([`crate::source`]), read anew each time, or
//! [`gcp`], whose answers are kept for a minute. So a rotated secret is seen without a
//! restart. Before the guest has a secret, `host.rs` notes it with
//! [`CallState::mask`](heyday_sandbox::CallState::mask), so that it is not told by accident.
//!
//! Within the host a value is a [`Secret`], which nothing prints and whose memory is
//! cleared.

pub mod gcp;
mod host;

use std::collections::BTreeMap;
use std::fmt;

use tokio::runtime::Handle;
use zeroize::Zeroizing;

pub(crate) use host::NAME;
pub use host::SecretsCapability;

use heyday_sandbox::mask::{MASKED_BYTES, is_too_short};

use crate::bindings::SecretsBinding;
use crate::diagnosis::{Finding, Findings, Trouble, within};
use crate::error::{CapabilityError, codes};
use crate::source::{ReadError, Reader, Source, SourceError, check_key};
use gcp::SecretManager;

/// A secret's value. It is not printed, and its memory is cleared when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A secret of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for whoever needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

codes! {
    /// The codes of `heyday:secrets`; see `wit/secrets`.
    SecretsCode {
        /// Not granted, or not given out.
        CapabilityDenied = "capability-denied",
        /// Granted but not configured.
        UnknownBinding = "unknown-binding",
        /// Given out, and not there.
        NotFound = "not-found",
        /// Over a limit.
        LimitExceeded = "limit-exceeded",
        /// The deadline came.
        Timeout = "timeout",
        /// The attempt was asked to stop.
        Cancelled = "cancelled",
        /// The secrets cannot be read.
        Unavailable = "unavailable",
        /// A fault of the host.
        Internal = "internal",
    }
    retryable: Timeout, Unavailable
}

/// An error of `heyday:secrets`.
pub type SecretsError = CapabilityError<SecretsCode>;

/// Why a binding of secrets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretsConfigError {
    /// Its source, or its names.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Secret Manager.
    #[error(transparent)]
    Gcp(#[from] gcp::GcpConfigError),
}

enum Backend {
    Source(Reader),
    Gcp(SecretManager),
}

/// The secrets of one binding.
pub struct Secrets {
    backend: Backend,
    names: BTreeMap<String, String>,
}

impl Secrets {
    /// Checks a binding; a file or folder must exist.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn new(binding: &SecretsBinding, runtime: Handle) -> Result<Self, SecretsConfigError> {
        const KNOWN: &str = "`file`, `folder`, `environment` and `gcp`";
        let (file, folder) = (binding.file.as_deref(), binding.folder.as_deref());
        let source = Source::of(file, folder, binding.environment)?;
        let said = |said| SourceError::Backend { said, known: KNOWN };
        let backend = match (source, &binding.gcp) {
            (Some(source), None) => {
                source.check_names(&binding.names)?;
                Backend::Source(Reader::new(source, runtime))
            }
            (None, Some(gcp)) => {
                for (name, entry) in &binding.names {
                    let why = check_key(name).and_then(|()| gcp::check_name(entry));
                    why.map_err(|why| SourceError::Name {
                        name: name.clone(),
                        why,
                    })?;
                }
                Backend::Gcp(SecretManager::new(gcp, runtime)?)
            }
            (None, None) => return Err(said("no backend").into()),
            (Some(_), Some(_)) => return Err(said("two backends").into()),
        };
        if binding.names.is_empty() {
            return Err(SourceError::NoNames.into());
        }
        Ok(Self {
            backend,
            names: binding.names.clone(),
        })
    }

    /// What stands behind it, for operators.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        match &self.backend {
            Backend::Source(reader) => reader.source().backend(),
            Backend::Gcp(_) => "gcp",
        }
    }

    /// Looks whether each secret that is given out is there. Tells names, never values.
    pub async fn diagnose(&self) -> Vec<Finding> {
        within(async {
            const ADVICE: &str = "put the secret where `names` says, and let this user or \
                 service account read it; the log has the cause";
            let mut findings = Findings::default();
            let mut readable = None;
            for name in self.names.keys() {
                match self.get(name).await {
                    Ok(secret) => {
                        findings.ok("rights", format!("{name} can be read"));
                        if is_too_short(secret.expose()) {
                            findings.warn(
                                "masking",
                                format!(
                                    "{name} has less than {MASKED_BYTES} bytes: where a plugin \
                                     tells it by accident, it stands in logs and answers"
                                ),
                                "make it longer",
                            );
                        }
                        readable = readable.or(Some(name));
                    }
                    Err(error) => findings.fail("rights", format!("{name}: {error}"), ADVICE),
                }
            }
            let Some(name) = readable else {
                return findings.into_inner();
            };
            let clock_ms = findings.latency(|| async {
                let looked = self.look(name).await;
                looked.map_err(|error| Trouble::reach(format!("{name}: {error}"), ADVICE))
            });
            if let Ok(Some(theirs)) = clock_ms.await {
                findings.clock(theirs);
            }
            findings.into_inner()
        })
        .await
    }

    /// Reads a secret as a call does that finds none kept; answers the server's clock, where
    /// there is one.
    async fn look(&self, name: &str) -> Result<Option<i64>, SecretsError> {
        match (&self.backend, self.names.get(name)) {
            (Backend::Gcp(manager), Some(entry)) => manager.look(entry).await,
            _ => self.get(name).await.map(|_| None),
        }
    }

    /// The secret of this name, as it is now.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    pub async fn get(&self, name: &str) -> Result<Secret, SecretsError> {
        let entry = self.names.get(name).ok_or_else(|| {
            SecretsError::new(
                SecretsCode::CapabilityDenied,
                "the binding gives out no secret of that name: ask the operator for it",
            )
        })?;
        let found = match &self.backend {
            Backend::Source(reader) => {
                let read = reader.read(entry).await.map_err(failed)?;
                read.map(Secret)
            }
            Backend::Gcp(manager) => manager.access(entry).await?,
        };
        found.ok_or_else(|| {
            SecretsError::new(
                SecretsCode::NotFound,
                format!("there is no secret where {name} should be: tell the operator"),
            )
        })
    }
}

/// What a guest is told; the cause is the operator's.
fn failed(error: ReadError) -> SecretsError {
    match error {
        ReadError::Unreadable(cause) => {
            tracing::warn!(cause, "secrets cannot be read");
            unavailable()
        }
        ReadError::TooLarge(cause) => {
            tracing::warn!(cause, "a secret is too large");
            SecretsError::new(
                SecretsCode::LimitExceeded,
                "the secret is larger than may be read",
            )
        }
    }
}

fn unavailable() -> SecretsError {
    SecretsError::new(
        SecretsCode::Unavailable,
        "the secrets cannot be read now; the host's log has the cause",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::Health;
    use crate::error::ErrorCode as _;

    fn secrets(binding: serde_json::Value) -> Result<Secrets, SecretsConfigError> {
        let binding = serde_json::from_value(binding).expect("a binding");
        Secrets::new(&binding, Handle::current())
    }

    #[tokio::test]
    async fn only_names_that_are_given_out_are_answered_and_rotate() {
        let at = tempfile::tempdir().expect("a folder");
        let path = at.path().join("smtp");
        std::fs::write(&path, "hunter2hunter2\n").expect("written");
        std::fs::write(at.path().join("other"), "hidden").expect("written");
        let secrets = secrets(serde_json::json!({
            "folder": at.path(), "names": { "password": "smtp", "absent": "nothing" },
        }))
        .expect("fine");
        let value = secrets.get("password").await.expect("a secret");
        assert_eq!(value.expose(), b"hunter2hunter2");
        assert_eq!(format!("{value:?}"), "Secret(..)");
        for (name, code) in [
            ("smtp", SecretsCode::CapabilityDenied),
            ("other", SecretsCode::CapabilityDenied),
            ("../other", SecretsCode::CapabilityDenied),
            ("absent", SecretsCode::NotFound),
        ] {
            let error = secrets.get(name).await.expect_err(name);
            assert_eq!(error.code, code, "{name}");
        }
        std::fs::write(&path, "rotated").expect("written");
        let value = secrets.get("password").await.expect("a secret");
        assert_eq!(value.expose(), b"rotated");
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("made");
        let error = secrets.get("password").await.expect_err("a folder");
        assert_eq!(error.code, SecretsCode::Unavailable);
        assert!(error.code.retryable());
        assert!(!error.message.contains("smtp"), "{error}");
    }

    #[tokio::test]
    async fn a_secret_that_is_too_short_to_be_masked_is_told_and_not_its_value() {
        let at = tempfile::tempdir().expect("a folder");
        std::fs::write(at.path().join("long"), "hunter2hunter2").expect("written");
        std::fs::write(at.path().join("short"), "1a2b3c4\n").expect("written");
        let names = serde_json::json!({ "long": "long", "pin": "short" });
        let binding = serde_json::json!({ "folder": at.path(), "names": names });
        let found = secrets(binding).expect("fine").diagnose().await;
        let mut told = found.iter().filter(|it| it.check == "masking");
        let (first, second) = (told.next().expect("one"), told.next());
        assert_eq!((first.status, second), (Health::Warning, None));
        assert!(first.found.starts_with("pin has"), "{first:?}");
        assert!(!format!("{found:?}").contains("1a2b3c4"), "{found:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_a_binding_is_told() {
        let at = tempfile::tempdir().expect("a folder");
        let gcp = serde_json::json!({ "project": "p" });
        for (binding, told) in [
            (serde_json::json!({ "names": { "a": "b" } }), "no backend"),
            (
                serde_json::json!({ "folder": at.path() }),
                "gives nothing out",
            ),
            (serde_json::json!({ "gcp": gcp }), "gives nothing out"),
            (
                serde_json::json!({ "gcp": gcp, "environment": true, "names": { "a": "b" } }),
                "two backends",
            ),
            (
                serde_json::json!({ "gcp": gcp, "names": { "a": "../b" } }),
                "`a` in its names",
            ),
            (
                serde_json::json!({ "gcp": { "project": "a/b" }, "names": { "a": "b" } }),
                "project",
            ),
        ] {
            let error = secrets(binding).err().expect(told).to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
