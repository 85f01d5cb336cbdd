//! Settings that an operator gave to the plugin: texts under keys, read only. What must stay
//! secret is a matter of [`secrets`](crate::secrets).
//!
//! ```
//! use heyday_sdk::prelude::*;
//!
//! fn greeting() -> Result<String> {
//!     let config = config::Config::open("default")?;
//!     let times: usize = config.parse("greeting.times")?.unwrap_or(1);
//!     let text = config.get("greeting.text")?.unwrap_or_else(|| "Hello".into());
//!     Ok(vec![text; times].join(" "))
//! }
//!
//! let settings = [("greeting.times", "2")];
//! let _test = heyday_sdk::test::Context::new().config("default", settings).enter();
//! assert_eq!(greeting().unwrap(), "Hello Hello");
//! ```

use crate::error::CapabilityError;
use crate::host::config as host;

/// Why a call failed; `wit/config` explains the codes. One is this crate's own:
/// `invalid-value`, where [`Config::parse`] cannot read a value.
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key, such as `mail.from`.
    pub key: String,
    /// Its value: a text as it is, anything else as JSON.
    pub value: String,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The settings, in ascending order of the bytes of their keys.
    pub settings: Vec<Setting>,
    /// Give this to [`Config::list`] for the next page; `None` at the end.
    pub next: Option<String>,
}

/// The settings of a granted binding, as they are at each call: an operator may change them
/// while the plugin runs.
#[derive(Debug)]
pub struct Config {
    host: host::Config,
}

impl Config {
    /// Opens the binding of this name; `default` is the usual one.
    ///
    /// # Errors
    /// `capability-denied` without a grant, `unknown-binding`.
    pub fn open(binding: &str) -> Result<Self> {
        Ok(Self {
            host: host::Config::open(binding)?,
        })
    }

    /// The value under this key; `None` where it is not set.
    ///
    /// # Errors
    /// `invalid-key`, `unavailable` and others, as `wit/config` says.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        self.host.get(key)
    }

    /// The value under this key as a number, a `bool` or whatever else is read from text.
    ///
    /// ```
    /// use heyday_sdk::prelude::*;
    ///
    /// let settings = [("batch", "20"), ("dry-run", "maybe")];
    /// let _test = heyday_sdk::test::Context::new().config("default", settings).enter();
    /// let config = config::Config::open("default")?;
    /// assert_eq!(config.parse("batch")?, Some(20_u32));
    /// assert_eq!(config.parse::<u32>("none")?, None);
    /// assert!(config.parse::<bool>("dry-run").unwrap_err().is("invalid-value"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-value` where it cannot be read, and those of [`get`](Self::get).
    pub fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        key: &str,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key)? else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|error| {
            CapabilityError::new(
                "invalid-value",
                format!("the setting {key} cannot be read: {error}"),
            )
        })
    }

    /// One page of the settings whose keys begin with `prefix`: at most `limit` (1 to
    /// 1,000), after the page token.
    ///
    /// # Errors
    /// As `wit/config` says.
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
        let error = Config::open("default").expect_err("no grant");
        assert_eq!(
            (error.code.as_str(), error.retryable),
            ("capability-denied", false)
        );
    }

    #[test]
    fn settings_are_read_listed_and_changed() {
        let test = Context::new()
            .config("s", [("a.x", "1"), ("a.y", "2"), ("b", "3")])
            .enter();
        let config = Config::open("s").unwrap();
        assert_eq!(config.get("b").unwrap().as_deref(), Some("3"));
        assert_eq!(config.get("c").unwrap(), None);
        let page = config.list("a.", 1, None).unwrap();
        assert_eq!(page.settings[0].key, "a.x");
        let rest = config.list("a.", 1, page.next.as_deref()).unwrap();
        assert_eq!((rest.settings[0].value.as_str(), rest.next), ("2", None));
        assert!(config.get("").unwrap_err().is("invalid-key"));
        test.set_config("s", "b", "4");
        assert_eq!(config.parse("b").unwrap(), Some(4));
    }
}
