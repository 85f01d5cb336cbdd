//! `kv`, in memory.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::CapabilityError;
use crate::kv::{Condition, Entry, Page};
use crate::test::state::{self, Values};

type Result<T> = std::result::Result<T, CapabilityError>;

/// The most bytes of a value, as of a binding that says nothing else.
const VALUE_BYTES: usize = 1 << 20;
const LONGEST_TTL_MS: u64 = 100 * 365 * 24 * 60 * 60 * 1_000;

fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > 512 || key.chars().any(char::is_control) {
        return Err(CapabilityError::new(
            "invalid-key",
            "a key is 1 to 512 bytes of UTF-8 without control characters",
        ));
    }
    Ok(())
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX)
}

fn end(ttl_ms: Option<u64>) -> Result<Option<u64>> {
    match ttl_ms {
        None => Ok(None),
        Some(ttl_ms @ 1..=LONGEST_TTL_MS) => Ok(Some(now_ms().saturating_add(ttl_ms))),
        Some(_) => Err(CapabilityError::new(
            "invalid-time-to-live",
            "a time to live is 1 ms to 100 years",
        )),
    }
}

fn check_condition(values: &Values, key: &str, condition: Condition) -> Result<()> {
    let version = values.entries.get(key).map(|entry| entry.version);
    let holds = match condition {
        Condition::Always => true,
        Condition::IfAbsent => version.is_none(),
        Condition::IfVersion(wanted) => version == Some(wanted),
    };
    if holds {
        return Ok(());
    }
    Err(CapabilityError::new(
        "precondition-failed",
        "the entry is not as the condition says",
    ))
}

#[derive(Debug)]
pub(crate) struct Store {
    binding: String,
}

impl Store {
    pub(crate) fn open(binding: &str) -> Result<Self> {
        let store = Self {
            binding: binding.to_owned(),
        };
        store.with(|_| Ok(()))?;
        Ok(store)
    }

    /// The values, without those that have ended.
    fn with<T>(&self, f: impl FnOnce(&mut Values) -> Result<T>) -> Result<T> {
        state::with(|state| match state.kv.get_mut(&self.binding) {
            Some(values) => {
                let now = now_ms();
                values
                    .entries
                    .retain(|_, entry| entry.expires_ms.is_none_or(|end| end > now));
                f(values)
            }
            None => Err(CapabilityError::new(
                "capability-denied",
                format!(
                    "no store {:?} is granted: in a native test, \
                     heyday_sdk::test::Context::kv grants one",
                    self.binding
                ),
            )),
        })
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Entry>> {
        check_key(key)?;
        self.with(|values| Ok(values.entries.get(key).cloned()))
    }

    pub(crate) fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Entry>>> {
        if keys.len() > 1_000 {
            return Err(CapabilityError::new(
                "limit-exceeded",
                "at most 1,000 keys are answered at once",
            ));
        }
        keys.iter().try_for_each(|key| check_key(key))?;
        self.with(|values| {
            let found = keys.iter().map(|key| values.entries.get(key).cloned());
            Ok(found.collect())
        })
    }

    pub(crate) fn set(
        &self,
        key: &str,
        value: &[u8],
        ttl_ms: Option<u64>,
        condition: Condition,
    ) -> Result<u64> {
        check_key(key)?;
        let end = end(ttl_ms)?;
        if value.len() > VALUE_BYTES {
            return Err(CapabilityError::new(
                "limit-exceeded",
                format!(
                    "the value has {} bytes, more than the {VALUE_BYTES} of a store",
                    value.len()
                ),
            ));
        }
        self.with(|values| {
            check_condition(values, key, condition)?;
            Ok(values.put(key, value.to_vec(), end))
        })
    }

    pub(crate) fn delete(&self, key: &str, condition: Condition) -> Result<bool> {
        check_key(key)?;
        self.with(|values| {
            check_condition(values, key, condition)?;
            Ok(values.entries.remove(key).is_some())
        })
    }

    pub(crate) fn increment(
        &self,
        key: &str,
        delta: i64,
        ttl_ms: Option<u64>,
        once: Option<&str>,
    ) -> Result<i64> {
        check_key(key)?;
        let new_end = end(ttl_ms)?;
        once.map_or(Ok(()), check_key)?;
        let name = once.map(|once| (key.to_owned(), once.to_owned()));
        self.with(|values| {
            if let Some(sum) = name.as_ref().and_then(|name| values.additions.get(name)) {
                return Ok(*sum);
            }
            let before = values.entries.get(key);
            let number: Option<i64> = match before {
                None => Some(0),
                Some(entry) => entry.text().ok().and_then(|text| text.parse().ok()),
            };
            let sum = number
                .and_then(|number| number.checked_add(delta))
                .ok_or_else(|| {
                    CapabilityError::new(
                        "not-a-number",
                        "the value is no whole number of 64 bits, or the sum does not fit",
                    )
                })?;
            let end = before.map_or(new_end, |entry| entry.expires_ms);
            values.put(key, sum.to_string().into_bytes(), end);
            if let Some(name) = name {
                values.additions.insert(name, sum);
            }
            Ok(sum)
        })
    }

    pub(crate) fn list(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page> {
        let limit = limit.clamp(1, 1_000) as usize;
        self.with(|values| {
            let mut keys: Vec<String> = values
                .entries
                .keys()
                .filter(|key| {
                    key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)
                })
                .take(limit + 1)
                .cloned()
                .collect();
            let more = keys.len() > limit;
            keys.truncate(limit);
            let next = more.then(|| keys.last().cloned()).flatten();
            Ok(Page { keys, next })
        })
    }
}
