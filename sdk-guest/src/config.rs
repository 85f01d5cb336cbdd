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
///
/// ```
/// use heyday_sdk::config::{Config, Error};
///
/// fn advice(error: &Error) -> &'static str {
///     match error.code.as_str() {
///         "capability-denied" => "grant config=default",
///         "invalid-value" => "correct the setting",
///         _ => "try again later",
///     }
/// }
/// assert_eq!(advice(&Config::open("default").unwrap_err()), "grant config=default");
/// ```
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// A setting.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .config("default", [("mail.from", "ada@example.com")])
/// #     .enter();
/// use heyday_sdk::config::{Config, Setting};
///
/// let mut page = Config::open("default")?.list("mail.", 10, None)?;
/// let Setting { key, value } = page.settings.remove(0);
/// assert_eq!((key.as_str(), value.as_str()), ("mail.from", "ada@example.com"));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key, such as `mail.from`.
    pub key: String,
    /// Its value: a text as it is, anything else as JSON.
    pub value: String,
}

/// One page of a listing.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .config("default", [("a", "1"), ("b", "2"), ("c", "3")])
/// #     .enter();
/// use heyday_sdk::config::{Config, Page};
///
/// let Page { settings, next } = Config::open("default")?.list("", 2, None)?;
/// assert_eq!(settings.len(), 2);
/// assert!(next.is_some()); // There is a third.
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The settings, in ascending order of the bytes of their keys.
    pub settings: Vec<Setting>,
    /// Give this to [`Config::list`] for the next page; `None` at the end.
    pub next: Option<String>,
}

/// The settings of a granted binding, as they are at each call: an operator may change them
/// while the plugin runs.
///
/// ```
/// use heyday_sdk::config::Config;
///
/// let test = heyday_sdk::test::Context::new().config("default", [("batch", "10")]).enter();
/// let config = Config::open("default")?;
/// assert_eq!(config.parse("batch")?, Some(10));
/// test.set_config("default", "batch", "20"); // As when an operator changes it.
/// assert_eq!(config.parse("batch")?, Some(20));
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Config {
    host: host::Config,
}

impl Config {
    /// Opens the binding of this name; `default` is the usual one.
    ///
    /// ```
    /// use heyday_sdk::config::Config;
    ///
    /// let _test = heyday_sdk::test::Context::new().config("mail", [("port", "25")]).enter();
    /// assert!(Config::open("mail").is_ok());
    /// assert!(Config::open("default").unwrap_err().is("capability-denied"));
    /// ```
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
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .config("default", [("greeting", "Hello")])
    /// #     .enter();
    /// use heyday_sdk::config::Config;
    ///
    /// let config = Config::open("default")?;
    /// assert_eq!(config.get("greeting")?.as_deref(), Some("Hello"));
    /// assert_eq!(config.get("farewell")?, None);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .config("default", [("feed.a", "x"), ("feed.b", "y"), ("mail", "z")])
    /// #     .enter();
    /// use heyday_sdk::config::Config;
    ///
    /// let config = Config::open("default")?;
    /// let mut page = config.list("feed.", 1, None)?;
    /// let mut feeds = page.settings;
    /// while let Some(next) = page.next {
    ///     page = config.list("feed.", 1, Some(&next))?;
    ///     feeds.append(&mut page.settings);
    /// }
    /// assert_eq!((feeds.len(), feeds[1].value.as_str()), (2, "y"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
