//! Log lines of the running attempt, kept with it and shown by `heyday workflow logs`.
//!
//! The macros take what `format!` takes, then further values as `key = value` after a
//! semicolon; a value is anything that implements `Serialize`.
//!
//! ```
//! use heyday_sdk::log;
//!
//! let test = heyday_sdk::test::Context::new().enter();
//! log::info!("read {} pages", 3; file = "a.pdf", bytes = 12_000);
//! assert_eq!(test.logs()[0].message, "read 3 pages");
//! assert_eq!(test.logs()[0].fields["file"], "a.pdf");
//! ```

use serde_json::{Map, Value};

/// How important a line is.
///
/// ```
/// use heyday_sdk::log::{self, Level};
///
/// let test = heyday_sdk::test::Context::new().enter();
/// log::debug!("opened");
/// log::warn!("page 3 is empty");
/// let logs = test.logs();
/// let mut important = logs.iter().filter(|line| line.level >= Level::Warn);
/// assert_eq!(important.next().unwrap().message, "page 3 is empty");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Of use only to whoever debugs the plugin.
    Trace,
    /// Of use when something is looked for.
    Debug,
    /// What happened.
    Info,
    /// What may be wrong.
    Warn,
    /// What is wrong.
    Error,
}

/// Writes one line. The macros of this module are the usual way.
///
/// ```
/// use heyday_sdk::log::{self, Level};
///
/// /// A line whose level and values are known only when the plugin runs.
/// fn tell(failed: bool, page: u32) {
///     let level = if failed { Level::Error } else { Level::Info };
///     log::write(level, "read", [("page".to_owned(), page.into())].into_iter().collect());
/// }
/// let test = heyday_sdk::test::Context::new().enter();
/// tell(true, 7);
/// assert_eq!((test.logs()[0].level, &test.logs()[0].fields["page"]), (Level::Error, &7.into()));
/// ```
pub fn write(level: Level, message: &str, fields: Map<String, Value>) {
    let fields = (!fields.is_empty()).then(|| Value::Object(fields).to_string());
    crate::host::log(level, message, fields.as_deref());
}

/// Writes a line of a given [`Level`](crate::log::Level).
#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $format:literal $(, $argument:expr)* $(; $($key:ident = $value:expr),* $(,)?)?) => {{
        #[allow(unused_mut)]
        let mut fields = $crate::__private::Map::new();
        $($(
            if let ::core::result::Result::Ok(value) = $crate::__private::to_value(&$value) {
                fields.insert(::core::stringify!($key).into(), value);
            }
        )*)?
        $crate::log::write(
            $crate::log::Level::$level,
            &::std::format!($format $(, $argument)*),
            fields,
        );
    }};
}

/// Writes a line of level trace.
///
/// ```
/// use heyday_sdk::log;
///
/// let test = heyday_sdk::test::Context::new().enter();
/// log::trace!("byte {:#x} at {}", 255, 17);
/// assert_eq!(test.logs()[0].message, "byte 0xff at 17");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __trace { ($($line:tt)*) => { $crate::__log!(Trace, $($line)*) }; }
/// Writes a line of level debug.
///
/// ```
/// use heyday_sdk::log;
///
/// let test = heyday_sdk::test::Context::new().enter();
/// let left = 3;
/// log::debug!("{left} pages are left");
/// assert_eq!(test.logs()[0].message, "3 pages are left");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __debug { ($($line:tt)*) => { $crate::__log!(Debug, $($line)*) }; }
/// Writes a line of level info.
///
/// ```
/// use heyday_sdk::log;
///
/// let test = heyday_sdk::test::Context::new().enter();
/// log::info!("stored"; key = "a.pdf", tags = ["new", "large"]);
/// assert_eq!(test.logs()[0].fields["tags"][1], "large");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __info { ($($line:tt)*) => { $crate::__log!(Info, $($line)*) }; }
/// Writes a line of level warn.
///
/// ```
/// use heyday_sdk::log;
///
/// let test = heyday_sdk::test::Context::new().enter();
/// log::warn!("page {} has no text", 4; file = "a.pdf");
/// assert_eq!(test.logs()[0].level, log::Level::Warn);
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __warn { ($($line:tt)*) => { $crate::__log!(Warn, $($line)*) }; }
/// Writes a line of level error.
///
/// ```
/// use heyday_sdk::log;
///
/// let test = heyday_sdk::test::Context::new().enter();
/// if let Err(error) = "x".parse::<u8>() {
///     log::error!("no number: {error}");
/// }
/// assert_eq!(test.logs()[0].message, "no number: invalid digit found in string");
/// ```
#[doc(hidden)]
#[macro_export]
macro_rules! __error { ($($line:tt)*) => { $crate::__log!(Error, $($line)*) }; }

pub use crate::{
    __debug as debug, __error as error, __info as info, __trace as trace, __warn as warn,
};
