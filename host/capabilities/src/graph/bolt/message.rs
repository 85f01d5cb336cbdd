//! Bolt's messages that are used here.

use super::packstream::Value;

/// What a client sends before anything else, and the one version that is spoken: 5.4.
pub(crate) const PREAMBLE: [u8; 20] = [
    0x60, 0x60, 0xb0, 0x17, 0, 0, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];
/// How a server answers that it speaks it.
pub(crate) const VERSION: [u8; 4] = [0, 0, 4, 5];

pub(crate) const HELLO: u8 = 0x01;
pub(crate) const GOODBYE: u8 = 0x02;
pub(crate) const RESET: u8 = 0x0f;
pub(crate) const RUN: u8 = 0x10;
pub(crate) const BEGIN: u8 = 0x11;
pub(crate) const COMMIT: u8 = 0x12;
pub(crate) const ROLLBACK: u8 = 0x13;
pub(crate) const PULL: u8 = 0x3f;
pub(crate) const LOGON: u8 = 0x6a;

pub(crate) const SUCCESS: u8 = 0x70;
pub(crate) const RECORD: u8 = 0x71;
pub(crate) const IGNORED: u8 = 0x7e;
pub(crate) const FAILURE: u8 = 0x7f;

/// A map of these members.
pub(crate) fn map<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Map(members.map(|(key, value)| (key.to_owned(), value)).into())
}

/// A text.
pub(crate) fn text(text: impl Into<String>) -> Value {
    Value::String(text.into())
}
