//! Secrets that an operator gave to the plugin: passwords, keys, tokens. They are read by
//! name and cannot be listed.
//!
//! ```
//! use heyday_sdk::prelude::*;
//!
//! fn authorization() -> Result<String> {
//!     let secrets = secrets::Secrets::open("default")?;
//!     let token = secrets.get("api-token")?;
//!     Ok(format!("Bearer {}", token.text()?))
//! }
//!
//! let secrets = [("api-token", "swordfish")];
//! let _test = heyday_sdk::test::Context::new().secrets("default", secrets).enter();
//! assert_eq!(authorization().unwrap(), "Bearer swordfish");
//! ```
//!
//! The host puts `[secret]` in the place of what an attempt has read, in its log lines,
//! progress, heartbeats and failures, and refuses an answer that contains it. That is a help
//! against accidents, and only for values of 8 bytes and more that stand there as they are.

use crate::error::CapabilityError;
use crate::host::secrets as host;

/// Why a call failed; `wit/secrets` explains the codes.
///
/// ```
/// use heyday_sdk::secrets::{Error, Secrets};
///
/// fn advice(error: &Error) -> &'static str {
///     match error.code.as_str() {
///         "not-found" => "store the secret",
///         "capability-denied" => "grant the secret",
///         _ => "try again later",
///     }
/// }
/// let test = heyday_sdk::test::Context::new().secrets("default", [("key", "x")]).enter();
/// let secrets = Secrets::open("default")?;
/// test.remove_secret("default", "key");
/// assert_eq!(advice(&secrets.get("key").unwrap_err()), "store the secret");
/// assert_eq!(advice(&secrets.get("other").unwrap_err()), "grant the secret");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// A secret's value. It is not printed: `{:?}` shows none of it.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .secrets("default", [("key", "swordfish")])
/// #     .enter();
/// use heyday_sdk::secrets::{Secret, Secrets};
///
/// let key: Secret = Secrets::open("default")?.get("key")?;
/// assert_eq!(format!("{key:?}"), "Secret(..)"); // None of it reaches a log by accident.
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The bytes.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .secrets("default", [("seed", [0xff_u8, 0x01])])
    /// #     .enter();
    /// use heyday_sdk::secrets::Secrets;
    ///
    /// let seed = Secrets::open("default")?.get("seed")?;
    /// assert_eq!(seed.bytes(), b"\xff\x01");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The value as text.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new()
    /// #     .secrets("default", [("token", &b"swordfish"[..]), ("seed", b"\xff")])
    /// #     .enter();
    /// use heyday_sdk::secrets::Secrets;
    ///
    /// let secrets = Secrets::open("default")?;
    /// assert_eq!(secrets.get("token")?.text()?, "swordfish");
    /// assert!(secrets.get("seed")?.text().unwrap_err().is("invalid-text"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-text` where it is no UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.0)
            .map_err(|_| CapabilityError::new("invalid-text", "the secret is no text in UTF-8"))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The secrets of a granted binding.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new()
/// #     .secrets("mail", [("user", "ada"), ("password", "swordfish")])
/// #     .enter();
/// use heyday_sdk::secrets::Secrets;
///
/// let mail = Secrets::open("mail")?;
/// let login = format!("{}:{}", mail.get("user")?.text()?, mail.get("password")?.text()?);
/// assert_eq!(login, "ada:swordfish");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Secrets {
    host: host::Secrets,
}

impl Secrets {
    /// Opens the binding of this name; `default` is the usual one.
    ///
    /// ```
    /// use heyday_sdk::secrets::Secrets;
    ///
    /// let _test = heyday_sdk::test::Context::new().secrets("mail", [("password", "x")]).enter();
    /// assert!(Secrets::open("mail").is_ok());
    /// assert!(Secrets::open("default").unwrap_err().is("capability-denied"));
    /// ```
    ///
    /// # Errors
    /// `capability-denied` without a grant, `unknown-binding`.
    pub fn open(binding: &str) -> Result<Self> {
        Ok(Self {
            host: host::Secrets::open(binding)?,
        })
    }

    /// The secret of this name, as it is now: it may be rotated while the plugin runs, so
    /// ask again rather than keep it.
    ///
    /// ```
    /// use heyday_sdk::prelude::*;
    ///
    /// let test = heyday_sdk::test::Context::new().secrets("default", [("key", "old")]).enter();
    /// let secrets = secrets::Secrets::open("default")?;
    /// assert_eq!(secrets.get("key")?.bytes(), b"old");
    /// test.set_secret("default", "key", "new");
    /// assert_eq!(secrets.get("key")?.bytes(), b"new");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `capability-denied` where the binding gives out no secret of that name, `not-found`,
    /// `unavailable` and others, as `wit/secrets` says.
    pub fn get(&self, name: &str) -> Result<Secret> {
        self.host.get(name).map(Secret)
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::test::Context;

    #[test]
    fn only_what_was_granted_and_given_out_is_read() {
        let _test = Context::new()
            .secrets("s", [("a", &b"\xffbytes"[..]), ("b", b"text")])
            .enter();
        let error = Secrets::open("other").expect_err("no grant");
        assert!(error.is("capability-denied"));
        let secrets = Secrets::open("s").unwrap();
        let error = secrets.get("c").unwrap_err();
        assert!(error.is("capability-denied"));
        assert!(!error.retryable);
        let found = secrets.get("a").unwrap();
        assert_eq!(found.bytes(), b"\xffbytes");
        assert!(found.text().unwrap_err().is("invalid-text"));
        assert_eq!(secrets.get("b").unwrap().text(), Ok("text"));
        assert_eq!(format!("{found:?}"), "Secret(..)");
    }
}
