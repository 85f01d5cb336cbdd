//! `heyday:kv`: small values under keys.
//!
//! The way of a call: `host.rs` takes the guest's call, looks the store up, checks keys
//! and sizes once for all backends, and runs the operation of [`Store`] under the
//! attempt's deadline, cancellation and grants. [`sqlite`] keeps entries in a database
//! file of its own, [`postgres`] in tables of a schema of its own.

mod host;
pub mod postgres;
pub mod sqlite;
#[cfg(test)]
mod sqlite_tests;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use host::KvCapability;
pub use host::bindings::heyday::kv::kv::{Condition, Entry, Page};

use crate::diagnosis::Finding;
use crate::error::{CapabilityError, codes};

/// The most keys of one `get-many`.
pub const MANY_KEYS: usize = 1_000;
/// The most keys of one page.
pub const PAGE_KEYS: u32 = 1_000;
/// How long the name of an addition is remembered.
pub const ONCE_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

const KEY_BYTES: usize = 512;
const LONGEST_TTL_MS: u64 = 100 * 365 * 24 * 60 * 60 * 1_000;

codes! {
    /// The codes of `heyday:kv`; see `wit/kv`.
    KvCode {
        /// Not granted, or a write through a read-only grant.
        CapabilityDenied = "capability-denied",
        /// Granted but not configured.
        UnknownBinding = "unknown-binding",
        /// A key, or a name of an addition, that no store takes.
        InvalidKey = "invalid-key",
        /// A time to live out of range.
        InvalidTimeToLive = "invalid-time-to-live",
        /// The entry is not as the condition says.
        PreconditionFailed = "precondition-failed",
        /// The value is no whole number, or the sum does not fit.
        NotANumber = "not-a-number",
        /// Over a limit.
        LimitExceeded = "limit-exceeded",
        /// Other writers were faster.
        Conflict = "conflict",
        /// The deadline came.
        Timeout = "timeout",
        /// The attempt was asked to stop.
        Cancelled = "cancelled",
        /// The store cannot be reached, or has no room.
        Unavailable = "unavailable",
        /// A fault of the host.
        Internal = "internal",
    }
    retryable: Conflict, Timeout, Unavailable
}

/// An error of `heyday:kv`.
pub type KvError = CapabilityError<KvCode>;

/// Limits of a binding; each has a safe default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KvLimits {
    /// Bytes of one value.
    pub value_bytes: u64,
    /// Bytes of values that one attempt may read and write in all.
    pub attempt_bytes: u64,
    /// How long one statement may run, in milliseconds, on PostgreSQL; each finds its rows
    /// by their key.
    pub statement_timeout_ms: u64,
    /// How long a write waits for others, in milliseconds.
    pub busy_timeout_ms: u64,
    /// Connections to the database for all plugins together, on PostgreSQL.
    pub connections: u32,
    /// Bytes that the store may have; none means as the disk allows.
    pub store_bytes: Option<u64>,
}

impl Default for KvLimits {
    fn default() -> Self {
        Self {
            value_bytes: 1 << 20,
            attempt_bytes: 1 << 30,
            statement_timeout_ms: 30_000,
            busy_timeout_ms: 30_000,
            connections: 16,
            store_bytes: None,
        }
    }
}

/// One store. Keys, sizes and times that it is given were checked. Dropping the future of
/// an operation ends it, done whole or not at all.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What stands behind it, for operators; plugins are not told.
    fn backend(&self) -> &'static str;

    /// Whether it takes no writes at all.
    fn read_only(&self) -> bool;

    /// Its limits.
    fn limits(&self) -> &KvLimits;

    /// Looks whether it can be used; changes nothing that a plugin stored.
    async fn diagnose(&self) -> Vec<Finding>;

    /// Where it is on a server of PostgreSQL; none where no server has it, or does not tell.
    async fn location(&self) -> Option<crate::postgres::Place> {
        None
    }

    /// Closes it, when no more operations come.
    async fn close(&self);

    /// The entries under these keys, as of one moment, in the order of the keys.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Entry>>, KvError>;

    /// Writes a value and answers its version.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn set(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Option<Duration>,
        condition: Condition,
    ) -> Result<u64, KvError>;

    /// Deletes an entry; answers whether there was one.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn delete(&self, key: String, condition: Condition) -> Result<bool, KvError>;

    /// Adds to a whole number; the same `once` on the same key within [`ONCE_KEPT`] adds
    /// nothing and answers the sum of then.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn increment(
        &self,
        key: String,
        delta: i64,
        ttl: Option<Duration>,
        once: Option<String>,
    ) -> Result<i64, KvError>;

    /// A page of the keys that begin with `prefix`, in the order of their bytes, at most
    /// `limit`, after `after`.
    ///
    /// # Errors
    /// As the WIT's `error` says.
    async fn list(
        &self,
        prefix: String,
        limit: u32,
        after: Option<String>,
    ) -> Result<Page, KvError>;
}

/// A text after all that begin with the prefix, where there is one: it bounds the search.
fn after_prefix(prefix: &str) -> Option<String> {
    let last = prefix.chars().next_back()?;
    let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32)?;
    let rest = &prefix[..prefix.len() - last.len_utf8()];
    Some(format!("{rest}{next}"))
}

/// The page of these keys, of which one more than `limit` was asked for.
fn page(mut keys: Vec<String>, limit: u32) -> Page {
    let more = keys.len() > limit as usize;
    keys.truncate(limit as usize);
    let next = more.then(|| keys.last().cloned()).flatten();
    Page { keys, next }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Whether the condition holds for an entry of that version.
fn check_condition(condition: &Condition, version: Option<u64>) -> Result<(), KvError> {
    let message = match (condition, version) {
        (Condition::IfAbsent, Some(_)) => "there is an entry under the key",
        (Condition::IfVersion(_), None) => "there is no entry under the key",
        (Condition::IfVersion(wanted), Some(version)) if *wanted != version => {
            "the entry has another version"
        }
        _ => return Ok(()),
    };
    Err(KvError::new(KvCode::PreconditionFailed, message))
}

/// The sum of what an entry holds and a number, as the WIT's `increment` says.
fn add(value: Option<&[u8]>, delta: i64) -> Result<i64, KvError> {
    let number: i64 = match value {
        None => 0,
        Some(value) => std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| {
                KvError::new(
                    KvCode::NotANumber,
                    "the value is no whole number of 64 bits, written in decimal",
                )
            })?,
    };
    number
        .checked_add(delta)
        .ok_or_else(|| KvError::new(KvCode::NotANumber, "the sum does not fit into 64 bits"))
}

/// Checks a key, as the doc comment of `invalid-key` in `wit/kv` says.
fn check_key(key: &str) -> Result<(), KvError> {
    let broken = if key.is_empty() {
        "a key is not empty"
    } else if key.len() > KEY_BYTES {
        "a key has at most 512 bytes"
    } else if key.chars().any(char::is_control) {
        "a key has no control characters"
    } else {
        return Ok(());
    };
    Err(KvError::new(KvCode::InvalidKey, broken))
}

/// Checks a time to live.
fn check_ttl(ttl_ms: Option<u64>) -> Result<Option<Duration>, KvError> {
    match ttl_ms {
        None => Ok(None),
        Some(ttl_ms @ 1..=LONGEST_TTL_MS) => Ok(Some(Duration::from_millis(ttl_ms))),
        Some(_) => Err(KvError::new(
            KvCode::InvalidTimeToLive,
            "a time to live is 1 ms to 100 years",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_times_and_sums_have_bounds() {
        for key in ["", "a\nb", "a\u{0}", &"k".repeat(513)] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
        for key in ["a", "../a", "%2e", "Größe/日本語", &"k".repeat(512)] {
            assert!(check_key(key).is_ok(), "{key:?}");
        }
        assert!(check_ttl(Some(0)).is_err());
        assert!(check_ttl(Some(u64::MAX)).is_err());
        assert_eq!(check_ttl(Some(1)), Ok(Some(Duration::from_millis(1))));
        assert_eq!(add(None, -3), Ok(-3));
        assert_eq!(add(Some(b"40"), 2), Ok(42));
        for value in [&b"4.0"[..], b"", b" 4", b"\xff", b"9223372036854775808"] {
            assert!(add(Some(value), 1).is_err(), "{value:?}");
        }
        assert!(add(Some(b"9223372036854775807"), 1).is_err());
    }
}
