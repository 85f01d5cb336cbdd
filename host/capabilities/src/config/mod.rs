//! `heyday:config`: settings that an operator gave to plugins.
//!
//! The way of a call: `host.rs` takes the guest's call, looks the binding up and checks
//! the key; [`Settings`] reads its source anew ([`crate::source`]), so that a change is
//! seen by the next call.

mod host;

use std::collections::BTreeMap;

use tokio::runtime::Handle;

pub use host::ConfigCapability;
pub(crate) use host::NAME;
pub use host::bindings::heyday::config::config::{Page, Setting};

use crate::bindings::ConfigBinding;
use crate::diagnosis::{Asked, Finding, of_store};
use crate::error::{CapabilityError, codes};
use crate::source::{ReadError, Reader, Source, SourceError};

/// The most settings of one page.
pub const PAGE_SETTINGS: u32 = 1_000;

codes! {
    /// The codes of `heyday:config`; see `wit/config`.
    ConfigCode {
        /// Not granted.
        CapabilityDenied = "capability-denied",
        /// Granted but not configured.
        UnknownBinding = "unknown-binding",
        /// A key that no binding has.
        InvalidKey = "invalid-key",
        /// Over a limit.
        LimitExceeded = "limit-exceeded",
        /// The deadline came.
        Timeout = "timeout",
        /// The attempt was asked to stop.
        Cancelled = "cancelled",
        /// The settings cannot be read.
        Unavailable = "unavailable",
        /// A fault of the host.
        Internal = "internal",
    }
    retryable: Timeout, Unavailable
}

/// An error of `heyday:config`.
pub type ConfigError = CapabilityError<ConfigCode>;

/// The settings of one binding.
pub struct Settings {
    reader: Reader,
    names: BTreeMap<String, String>,
}

impl Settings {
    /// Checks a binding; a file or folder must exist.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn new(binding: &ConfigBinding, runtime: Handle) -> Result<Self, SourceError> {
        let (file, folder) = (binding.file.as_deref(), binding.folder.as_deref());
        let source = Source::of(file, folder, binding.environment)?;
        let source = source.ok_or(SourceError::Backend {
            said: "no backend",
            known: "`file`, `folder` and `environment`",
        })?;
        if binding.environment && binding.names.is_empty() {
            return Err(SourceError::NoNames);
        }
        source.check_names(&binding.names)?;
        Ok(Self {
            reader: Reader::new(source, runtime),
            names: binding.names.clone(),
        })
    }

    /// What stands behind it, for operators.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.reader.source().backend()
    }

    /// Looks whether its settings can be read.
    pub async fn diagnose(&self) -> Vec<Finding> {
        let read = || async { self.list("", 1, None).await.map(drop) };
        let write = std::future::ready(Ok(()));
        let asked = Asked {
            version: None,
            read_only: true,
            advice: "look whether the file or folder is there, and whether this user may read it; \
                     the log has the cause",
        };
        of_store(asked, read, write).await
    }

    /// A setting, as it is now. The key was checked.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    pub async fn get(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let entry = match self.names.get(key) {
            Some(entry) => entry,
            None if self.names.is_empty() => key,
            None => return Ok(None),
        };
        let found = self.reader.read(entry).await.map_err(failed)?;
        // What is no text is no setting.
        Ok(found.and_then(|value| String::from_utf8(value.to_vec()).ok()))
    }

    /// A page of the settings as they are now, in the order of the bytes of their keys, at
    /// most `limit`, after `after`.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    pub async fn list(
        &self,
        prefix: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<Page, ConfigError> {
        let mut settings = Vec::new();
        let wanted = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let most = limit as usize + 1;
        if self.names.is_empty() {
            let all = self.reader.read_all().await.map_err(failed)?;
            let found = all.iter().filter(|(key, _)| wanted(key)).take(most);
            settings.extend(found.map(|(key, value)| Setting {
                key: key.clone(),
                value: value.to_string(),
            }));
        } else {
            for key in self.names.keys().filter(|key| wanted(key)) {
                if settings.len() == most {
                    break;
                }
                if let Some(value) = self.get(key).await? {
                    let key = key.clone();
                    settings.push(Setting { key, value });
                }
            }
        }
        let more = settings.len() == most;
        settings.truncate(limit as usize);
        let next = more.then(|| settings.last().map(|it| it.key.clone()));
        Ok(Page {
            next: next.flatten(),
            settings,
        })
    }
}

/// What a guest is told; the cause is the operator's.
fn failed(error: ReadError) -> ConfigError {
    match error {
        ReadError::Unreadable(cause) => {
            tracing::warn!(cause, "settings cannot be read");
            ConfigError::new(
                ConfigCode::Unavailable,
                "the settings cannot be read now; the host's log has the cause",
            )
        }
        ReadError::TooLarge(cause) => {
            tracing::warn!(cause, "settings are too large");
            ConfigError::new(
                ConfigCode::LimitExceeded,
                "a setting, or all of them, are larger than may be read",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(binding: serde_json::Value) -> Result<Settings, SourceError> {
        let binding = serde_json::from_value(binding).expect("a binding");
        Settings::new(&binding, Handle::current())
    }

    async fn keys(settings: &Settings, prefix: &str, limit: u32, after: Option<&str>) -> Page {
        settings.list(prefix, limit, after).await.expect("a page")
    }

    #[tokio::test]
    async fn pages_have_all_settings_in_order() {
        let at = tempfile::tempdir().expect("a folder");
        let path = at.path().join("s.json");
        std::fs::write(&path, r#"{"b":1,"a":{"z":"x","y":2},"c":3}"#).expect("written");
        let settings = settings(serde_json::json!({ "file": path })).expect("fine");
        let page = keys(&settings, "", 3, None).await;
        let pairs: Vec<_> = page
            .settings
            .iter()
            .map(|it| (&*it.key, &*it.value))
            .collect();
        assert_eq!(pairs, [("a.y", "2"), ("a.z", "x"), ("b", "1")]);
        let rest = keys(&settings, "", 3, page.next.as_deref()).await;
        assert_eq!((rest.settings.len(), rest.next), (1, None));
        let below = keys(&settings, "a.", 2, None).await;
        assert_eq!((below.settings.len(), below.next), (2, None));
    }

    #[tokio::test]
    async fn names_are_all_that_is_given_out() {
        let at = tempfile::tempdir().expect("a folder");
        std::fs::write(at.path().join("real"), "value").expect("written");
        std::fs::write(at.path().join("other"), "hidden").expect("written");
        let settings = settings(serde_json::json!({
            "folder": at.path(), "names": { "alias": "real", "absent": "nothing" },
        }))
        .expect("fine");
        assert_eq!(settings.get("alias").await, Ok(Some("value".to_owned())));
        for key in ["real", "other", "absent"] {
            assert_eq!(settings.get(key).await, Ok(None), "{key}");
        }
        let page = keys(&settings, "", 10, None).await;
        assert_eq!(page.settings.len(), 1);
        assert_eq!(page.settings[0].key, "alias");
    }

    #[tokio::test]
    async fn what_cannot_be_a_binding_is_told() {
        for (binding, told) in [
            (serde_json::json!({}), "no backend"),
            (serde_json::json!({ "environment": true }), "`names`"),
            (
                serde_json::json!({ "environment": true, "names": { "a": "A=B" } }),
                "`a` in its names",
            ),
        ] {
            let error = settings(binding).err().expect(told).to_string();
            assert!(error.contains(told), "{error}");
        }
        serde_json::from_value::<ConfigBinding>(serde_json::json!({ "env": true }))
            .expect_err("an unknown member");
    }
}
