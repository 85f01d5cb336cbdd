//! `config` and `secrets`, in memory.

use crate::error::CapabilityError;

type Result<T> = std::result::Result<T, CapabilityError>;

fn denied(what: &str, binding: &str) -> CapabilityError {
    CapabilityError::new(
        "capability-denied",
        format!(
            "no {what} {binding:?} are granted: in a native test, \
             heyday_sdk::test::Context::{what} grants them"
        ),
    )
}

pub(crate) mod config {
    use std::collections::BTreeMap;

    use super::{CapabilityError, Result, denied};
    use crate::config::{Page, Setting};
    use crate::test::state;

    #[derive(Debug)]
    pub(crate) struct Config {
        binding: String,
    }

    impl Config {
        pub(crate) fn open(binding: &str) -> Result<Self> {
            let config = Self {
                binding: binding.to_owned(),
            };
            config.with(|_| ())?;
            Ok(config)
        }

        fn with<T>(&self, f: impl FnOnce(&BTreeMap<String, String>) -> T) -> Result<T> {
            state::with(|state| match state.config.get(&self.binding) {
                Some(settings) => Ok(f(settings)),
                None => Err(denied("config", &self.binding)),
            })
        }

        pub(crate) fn get(&self, key: &str) -> Result<Option<String>> {
            if key.is_empty() || key.len() > 256 || key.chars().any(char::is_control) {
                return Err(CapabilityError::new(
                    "invalid-key",
                    "a key is 1 to 256 bytes of UTF-8 without control characters",
                ));
            }
            self.with(|settings| settings.get(key).cloned())
        }

        pub(crate) fn list(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page> {
            let limit = limit.clamp(1, 1_000) as usize;
            self.with(|settings| {
                let mut found: Vec<Setting> = settings
                    .iter()
                    .filter(|(key, _)| {
                        key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)
                    })
                    .take(limit + 1)
                    .map(|(key, value)| Setting {
                        key: key.clone(),
                        value: value.clone(),
                    })
                    .collect();
                let more = found.len() > limit;
                found.truncate(limit);
                let next = more.then(|| found.last().map(|setting| setting.key.clone()));
                Page {
                    next: next.flatten(),
                    settings: found,
                }
            })
        }
    }
}

pub(crate) mod secrets {
    use super::{CapabilityError, Result, denied};
    use crate::test::state;

    #[derive(Debug)]
    pub(crate) struct Secrets {
        binding: String,
    }

    impl Secrets {
        pub(crate) fn open(binding: &str) -> Result<Self> {
            if state::with(|state| state.secrets.contains_key(binding)) {
                return Ok(Self {
                    binding: binding.to_owned(),
                });
            }
            Err(denied("secrets", binding))
        }

        pub(crate) fn get(&self, name: &str) -> Result<Vec<u8>> {
            state::with(|state| {
                let secrets = state.secrets.get(&self.binding);
                let secrets = secrets.ok_or_else(|| denied("secrets", &self.binding))?;
                match secrets.get(name) {
                    Some(Some(value)) => Ok(value.clone()),
                    Some(None) => Err(CapabilityError::new(
                        "not-found",
                        format!("there is no secret where {name} should be"),
                    )),
                    None => Err(CapabilityError::new(
                        "capability-denied",
                        "the binding gives out no secret of that name",
                    )),
                }
            })
        }
    }
}
