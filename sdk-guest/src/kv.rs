//! Small values under keys, with versions and an end: counters, locks, marks of what was
//! done. A plugin cannot tell which store it has.
//!
//! ```
//! use heyday_sdk::prelude::*;
//! use std::time::Duration;
//!
//! fn greet_once_a_day(person: &str) -> Result<bool> {
//!     let store = kv::Store::open("default")?;
//!     let key = format!("greeted/{person}");
//!     let day = Duration::from_secs(24 * 60 * 60);
//!     match store.set(&key, "yes", kv::Set::new().if_absent().ttl(day)) {
//!         Ok(_) => Ok(true),
//!         Err(error) if error.is("precondition-failed") => Ok(false),
//!         Err(error) => Err(error.into()),
//!     }
//! }
//!
//! let _test = heyday_sdk::test::Context::new().kv::<&str, &str>("default", []).enter();
//! assert!(greet_once_a_day("Ada").unwrap());
//! assert!(!greet_once_a_day("Ada").unwrap());
//! ```

use std::time::Duration;

use crate::error::CapabilityError;
use crate::host::kv as host;

/// Why a call failed; `wit/kv` explains the codes.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().kv("default", [("visits", "many")]).enter();
/// use heyday_sdk::kv::{Error, Increment, Store};
///
/// fn advice(error: &Error) -> &'static str {
///     match error.code.as_str() {
///         "not-a-number" => "the key holds something else",
///         "limit-exceeded" => "delete some entries",
///         _ => "try again later",
///     }
/// }
/// let error = Store::open("default")?.increment("visits", 1, Increment::new()).unwrap_err();
/// assert_eq!(advice(&error), "the key holds something else");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// A value and what is known of it.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().kv("default", [("mark", "page 7")]).enter();
/// use heyday_sdk::kv::{Entry, Store};
///
/// let Some(Entry { value, expires_ms, .. }) = Store::open("default")?.get("mark")? else {
///     panic!("it is there");
/// };
/// assert_eq!((value.as_slice(), expires_ms), (&b"page 7"[..], None));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// Rises with every change in the store, and never comes again: not after a delete
    /// either.
    pub version: u64,
    /// When it ends: milliseconds since the Unix epoch. `None` if never.
    pub expires_ms: Option<u64>,
}

impl Entry {
    /// The value as text.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv("default", [("name", "Ada")]).enter();
    /// use heyday_sdk::kv::Store;
    ///
    /// let entry = Store::open("default")?.get("name")?;
    /// assert_eq!(entry.unwrap().text()?, "Ada");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where it is no UTF-8.
    pub fn text(&self) -> std::result::Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(&self.value)
    }
}

/// When a write may happen.
///
/// ```
/// use heyday_sdk::kv::Condition;
///
/// /// Nobody wrote since it was read, or found to be absent.
/// fn unchanged(version: Option<u64>) -> Condition {
///     version.map_or(Condition::IfAbsent, Condition::IfVersion)
/// }
/// assert_eq!(unchanged(Some(7)), Condition::IfVersion(7));
/// assert_ne!(unchanged(None), Condition::default());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// Only if there is no entry under the key.
    IfAbsent,
    /// Only if the entry has this version.
    IfVersion(u64),
}

/// How a value is written; as it is new, always and without an end.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().kv::<&str, &str>("default", []).enter();
/// use heyday_sdk::kv::{Set, Store};
/// use std::time::Duration;
///
/// let store = Store::open("default")?;
/// let lock = Set::new().if_absent().ttl(Duration::from_secs(60));
/// assert!(store.set("lock", "me", lock).is_ok());
/// assert!(store.set("lock", "you", lock).is_err());
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Set {
    ttl_ms: Option<u64>,
    condition: Condition,
}

impl Set {
    /// Always, without an end.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv("default", [("mark", "page 7")]).enter();
    /// use heyday_sdk::kv::{Set, Store};
    ///
    /// let store = Store::open("default")?;
    /// store.set("mark", "page 8", Set::new())?; // Whatever is there.
    /// assert_eq!(store.get("mark")?.unwrap().value, b"page 8");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The entry ends after this time: 1 ms to 100 years.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv::<&str, &str>("default", []).enter();
    /// use heyday_sdk::kv::{Set, Store};
    /// use std::time::Duration;
    ///
    /// let store = Store::open("default")?;
    /// store.set("session/ada", "open", Set::new().ttl(Duration::from_secs(3_600)))?;
    /// assert!(store.get("session/ada")?.unwrap().expires_ms.is_some());
    /// let none = store.set("session/bob", "open", Set::new().ttl(Duration::ZERO));
    /// assert!(none.unwrap_err().is("invalid-time-to-live"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl_ms = Some(milliseconds(ttl));
        self
    }

    /// Only if there is no entry under the key.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv::<&str, &str>("default", []).enter();
    /// use heyday_sdk::kv::{Set, Store};
    ///
    /// let store = Store::open("default")?;
    /// store.set("first", "Ada", Set::new().if_absent())?;
    /// let late = store.set("first", "Bob", Set::new().if_absent()).unwrap_err();
    /// assert!(late.is("precondition-failed"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn if_absent(mut self) -> Self {
        self.condition = Condition::IfAbsent;
        self
    }

    /// Only if the entry has this version.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv("default", [("names", "Ada")]).enter();
    /// use heyday_sdk::kv::{Set, Store};
    ///
    /// let store = Store::open("default")?;
    /// let read = store.get("names")?.unwrap();
    /// let unchanged = Set::new().if_version(read.version);
    /// store.set("names", format!("{}, Bob", read.text()?), unchanged)?;
    /// // Whoever read the same version must read again.
    /// assert!(store.set("names", "Ada, Eve", unchanged).unwrap_err().is("precondition-failed"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn if_version(mut self, version: u64) -> Self {
        self.condition = Condition::IfVersion(version);
        self
    }
}

/// How a number is changed; as it is new, each call counts and the number has no end.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().kv::<&str, &str>("default", []).enter();
/// use heyday_sdk::{context, kv::{Increment, Store}};
/// use std::time::Duration;
///
/// let key = context::idempotency_key();
/// let daily = Increment::new().ttl(Duration::from_secs(86_400)).once(&key);
/// let store = Store::open("default")?;
/// assert_eq!(store.increment("pages/2026-11-24", 12, daily)?, 12);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Increment<'a> {
    ttl_ms: Option<u64>,
    once: Option<&'a str>,
}

impl<'a> Increment<'a> {
    /// Each call counts; the number has no end.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv("default", [("visits", "40")]).enter();
    /// use heyday_sdk::kv::{Increment, Store};
    ///
    /// let store = Store::open("default")?;
    /// store.increment("visits", 1, Increment::new())?;
    /// assert_eq!(store.increment("visits", 1, Increment::new())?, 42);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// The number ends after this time, where it is new: 1 ms to 100 years.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv("default", [("old", "1")]).enter();
    /// use heyday_sdk::kv::{Increment, Store};
    /// use std::time::Duration;
    ///
    /// let store = Store::open("default")?;
    /// for key in ["new", "old"] {
    ///     store.increment(key, 1, Increment::new().ttl(Duration::from_secs(60)))?;
    /// }
    /// assert!(store.get("new")?.unwrap().expires_ms.is_some());
    /// assert!(store.get("old")?.unwrap().expires_ms.is_none()); // It had no end before.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl_ms = Some(milliseconds(ttl));
        self
    }

    /// The same name again on the same key, within 7 days, changes nothing and answers what
    /// it did then. With the [idempotency key](crate::context::idempotency_key) an activity
    /// counts once, however many attempts it takes.
    ///
    /// ```
    /// use heyday_sdk::prelude::*;
    ///
    /// let _test = heyday_sdk::test::Context::new().kv::<&str, &str>("default", []).enter();
    /// let store = kv::Store::open("default")?;
    /// let once = context::idempotency_key();
    /// for _attempt in 1..=3 {
    ///     let processed = kv::Increment::new().once(&once);
    ///     assert_eq!(store.increment("processed", 1, processed)?, 1);
    /// }
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn once(mut self, once: &'a str) -> Self {
        self.once = Some(once);
        self
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One page of a listing.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .kv("default", [("a", ""), ("b", ""), ("c", "")])
/// #     .enter();
/// use heyday_sdk::kv::{Page, Store};
///
/// let Page { keys, next } = Store::open("default")?.list("", 2, None)?;
/// assert_eq!(keys, ["a", "b"]);
/// assert!(next.is_some()); // There is a third.
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The keys, in ascending order of their bytes.
    pub keys: Vec<String>,
    /// Give this to [`Store::list`] for the next page; `None` at the end.
    pub next: Option<String>,
}

/// A granted store.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().kv::<&str, &str>("default", []).enter();
/// use heyday_sdk::{Result, kv::{Set, Store}};
///
/// fn remember(store: &Store, question: &str, answer: &str) -> Result<String> {
///     if let Some(known) = store.get(question)? {
///         return Ok(known.text()?.to_owned());
///     }
///     store.set(question, answer, Set::new())?;
///     Ok(answer.to_owned())
/// }
/// let store = Store::open("default")?;
/// assert_eq!(remember(&store, "capital", "Oslo")?, "Oslo");
/// assert_eq!(remember(&store, "capital", "Bergen")?, "Oslo");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Store {
    host: host::Store,
}

impl Store {
    /// Opens the binding of this name; `default` is the usual one.
    ///
    /// ```
    /// use heyday_sdk::kv::Store;
    ///
    /// let _test = heyday_sdk::test::Context::new().kv::<&str, &str>("locks", []).enter();
    /// assert!(Store::open("locks").is_ok());
    /// assert!(Store::open("default").unwrap_err().is("capability-denied"));
    /// ```
    ///
    /// # Errors
    /// `capability-denied` without a grant, `unknown-binding`, `unavailable`.
    pub fn open(binding: &str) -> Result<Self> {
        Ok(Self {
            host: host::Store::open(binding)?,
        })
    }

    /// The entry under this key; `None` where there is none or it has ended.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv("default", [("mark", "page 7")]).enter();
    /// use heyday_sdk::kv::Store;
    ///
    /// let store = Store::open("default")?;
    /// assert_eq!(store.get("mark")?.unwrap().text()?, "page 7");
    /// assert_eq!(store.get("absent")?, None);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/kv` says.
    pub fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.host.get(key)
    }

    /// The entries under these keys, at most 1,000, as of one moment and in the order of
    /// the keys.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .kv("default", [("a", "1"), ("c", "3")])
    /// #     .enter();
    /// use heyday_sdk::kv::Store;
    ///
    /// let found = Store::open("default")?.get_many(["a", "b", "c"])?;
    /// let there: Vec<bool> = found.iter().map(Option::is_some).collect();
    /// assert_eq!(there, [true, false, true]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/kv` says.
    pub fn get_many<K: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Entry>>> {
        let keys: Vec<String> = keys
            .into_iter()
            .map(|key| key.as_ref().to_owned())
            .collect();
        self.host.get_many(&keys)
    }

    /// Writes a value and answers its version.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv::<&str, &str>("default", []).enter();
    /// use heyday_sdk::kv::{Set, Store};
    ///
    /// let store = Store::open("default")?;
    /// let first = store.set("state", "began", Set::new())?;
    /// let second = store.set("state", "ended", Set::new().if_version(first))?;
    /// assert!(second > first);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `precondition-failed` where the condition does not hold, `limit-exceeded` and
    /// others, as `wit/kv` says.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>, how: Set) -> Result<u64> {
        self.host
            .set(key, value.as_ref(), how.ttl_ms, how.condition)
    }

    /// Deletes an entry; answers whether there was one.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv("default", [("lock", "mine")]).enter();
    /// use heyday_sdk::kv::Store;
    ///
    /// let store = Store::open("default")?;
    /// assert!(store.delete("lock")?);
    /// assert!(!store.delete("lock")?); // Nothing was there any more.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/kv` says.
    pub fn delete(&self, key: &str) -> Result<bool> {
        self.host.delete(key, Condition::Always)
    }

    /// Deletes an entry if it has this version.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv::<&str, &str>("default", []).enter();
    /// use heyday_sdk::kv::{Set, Store};
    ///
    /// let store = Store::open("default")?;
    /// let mine = store.set("lock", "mine", Set::new())?;
    /// store.set("lock", "yours", Set::new())?; // Mine had ended.
    /// assert!(store.delete_if("lock", mine).unwrap_err().is("precondition-failed"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `precondition-failed` where it has another, and others.
    pub fn delete_if(&self, key: &str, version: u64) -> Result<bool> {
        self.host.delete(key, Condition::IfVersion(version))
    }

    /// Adds to the whole number that the value is, written in decimal; no entry counts as
    /// 0. Answers the sum, which is then the value.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().kv("default", [("stock", "10")]).enter();
    /// use heyday_sdk::kv::{Increment, Store};
    ///
    /// let store = Store::open("default")?;
    /// assert_eq!(store.increment("stock", -3, Increment::new())?, 7);
    /// assert_eq!(store.get("stock")?.unwrap().text()?, "7");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `not-a-number` where the value is none or the sum does not fit, and others.
    pub fn increment(&self, key: &str, delta: i64, how: Increment<'_>) -> Result<i64> {
        self.host.increment(key, delta, how.ttl_ms, how.once)
    }

    /// One page of the keys that begin with `prefix`: at most `limit` (1 to 1,000), after
    /// the page token.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .kv("default", [("job/1", ""), ("job/2", ""), ("mark", "")])
    /// #     .enter();
    /// use heyday_sdk::kv::Store;
    ///
    /// let store = Store::open("default")?;
    /// let (mut jobs, mut after) = (0, None::<String>);
    /// loop {
    ///     let page = store.list("job/", 1, after.as_deref())?;
    ///     jobs += page.keys.len();
    ///     after = page.next;
    ///     if after.is_none() {
    ///         break;
    ///     }
    /// }
    /// assert_eq!(jobs, 2);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/kv` says.
    pub fn list(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page> {
        self.host.list(prefix, limit, after)
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::test::Context;

    #[test]
    fn a_binding_that_was_not_granted_is_denied() {
        let _test = Context::new().enter();
        let error = Store::open("default").expect_err("no grant");
        assert_eq!(
            (error.code.as_str(), error.retryable),
            ("capability-denied", false)
        );
    }

    #[test]
    fn versions_decide() {
        let _test = Context::new().kv("s", [("a", "one")]).enter();
        let store = Store::open("s").unwrap();
        let first = store.get("a").unwrap().unwrap();
        assert_eq!(first.text(), Ok("one"));
        let refused = store.set("a", "x", Set::new().if_absent()).unwrap_err();
        assert!(refused.is("precondition-failed"));
        let second = store
            .set("a", "two", Set::new().if_version(first.version))
            .unwrap();
        assert!(second > first.version);
        assert!(store.delete_if("a", first.version).is_err());
        assert!(store.delete_if("a", second).unwrap());
        assert!(!store.delete("a").unwrap());
        let third = store.set("a", "three", Set::new().if_absent()).unwrap();
        assert!(third > second);
        let many = store.get_many(["b", "a"]).unwrap();
        assert_eq!(many[0], None);
        assert_eq!(many[1].as_ref().unwrap().version, third);
    }

    #[test]
    fn numbers_are_counted_once() {
        let _test = Context::new().kv("s", [("n", "40"), ("t", "text")]).enter();
        let store = Store::open("s").unwrap();
        let once = Increment::new().once("attempt");
        assert_eq!(store.increment("n", 2, once).unwrap(), 42);
        assert_eq!(store.increment("n", 2, once).unwrap(), 42);
        assert_eq!(store.increment("n", -50, Increment::new()).unwrap(), -8);
        assert_eq!(store.get("n").unwrap().unwrap().value, b"-8");
        assert!(
            store
                .increment("t", 1, once)
                .unwrap_err()
                .is("not-a-number")
        );
    }

    #[test]
    fn what_has_ended_is_gone_and_keys_are_listed() {
        let _test = Context::new().kv::<&str, &str>("s", []).enter();
        let store = Store::open("s").unwrap();
        let short = Set::new().ttl(Duration::from_millis(1));
        store.set("p/ended", "x", short).unwrap();
        let end = store
            .get("p/ended")
            .unwrap()
            .and_then(|entry| entry.expires_ms);
        while end.is_some() && store.get("p/ended").unwrap().is_some() {}
        for key in ["p/b", "p/a", "q", "p/c"] {
            store.set(key, "x", Set::new()).unwrap();
        }
        let page = store.list("p/", 2, None).unwrap();
        assert_eq!(page.keys, ["p/a", "p/b"]);
        let rest = store.list("p/", 2, page.next.as_deref()).unwrap();
        assert_eq!((rest.keys, rest.next), (vec!["p/c".to_owned()], None));
        assert!(
            store
                .set("", "x", Set::new())
                .unwrap_err()
                .is("invalid-key")
        );
        let never = Set::new().ttl(Duration::ZERO);
        assert!(
            store
                .set("a", "x", never)
                .unwrap_err()
                .is("invalid-time-to-live")
        );
    }
}
