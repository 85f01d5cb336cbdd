//! Keeps the secrets that an attempt has read out of what its guest tells.
//!
//! A capability that hands out a secret notes it with [`CallState::mask`]. From then on
//! whatever the guest says through the host (log lines and what it prints, progress,
//! heartbeats, its failure or trap) has [`MASK`] in its place, and an answer that contains
//! it is refused: the run's history would keep it. This is a help against accidents. A
//! guest that wants to tell a secret writes it in another way, so secrets are granted
//! only to plugins that are trusted with them.
//!
//! [`CallState::mask`]: crate::CallState::mask

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use zeroize::Zeroizing;

/// What stands in a secret's place.
pub const MASK: &str = "[secret]";

/// Shorter secrets, and shorter lines of secrets, are not masked: they would be found in
/// texts that have nothing to do with them. In bytes.
pub const MASKED_BYTES: usize = 8;

/// Whether a secret is a text that is too short to be masked.
#[must_use]
pub fn is_too_short(secret: &[u8]) -> bool {
    std::str::from_utf8(secret).is_ok_and(|text| text.trim().len() < MASKED_BYTES)
}

/// What one call must not tell.
#[derive(Default)]
pub(crate) struct Masks(Mutex<Vec<Zeroizing<String>>>);

impl Masks {
    fn lock(&self) -> MutexGuard<'_, Vec<Zeroizing<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Masks a secret from now on: the whole text, and each of its lines, because what is
    /// printed arrives line by line. Bytes that are no text cannot stand in one.
    pub(crate) fn add(&self, secret: &[u8]) {
        let Ok(text) = std::str::from_utf8(secret) else {
            return;
        };
        let mut masks = self.lock();
        for part in std::iter::once(text).chain(text.lines()) {
            let part = part.trim();
            if part.len() >= MASKED_BYTES && !masks.iter().any(|mask| mask.as_str() == part) {
                masks.push(Zeroizing::new(part.to_owned()));
            }
        }
        // A secret within another one must not take it apart.
        masks.sort_by_key(|mask| std::cmp::Reverse(mask.len()));
    }

    /// The text without secrets.
    pub(crate) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        hide(&self.lock(), text)
    }

    /// The JSON text without secrets. The texts in it are looked at as they are read, so
    /// that no way of writing them matters.
    pub(crate) fn json<'a>(&self, json: &'a str) -> Cow<'a, str> {
        let masks = self.lock();
        if masks.is_empty() {
            return Cow::Borrowed(json);
        }
        // What was checked before is read again; what is not JSON is a text.
        let Ok(mut value) = serde_json::from_str::<Value>(json) else {
            return hide(&masks, json);
        };
        if hide_in(&masks, &mut value) {
            Cow::Owned(value.to_string())
        } else {
            Cow::Borrowed(json)
        }
    }

    /// Whether the JSON text contains a secret.
    pub(crate) fn within(&self, json: &str) -> bool {
        matches!(self.json(json), Cow::Owned(_))
    }
}

fn hide<'a>(masks: &[Zeroizing<String>], text: &'a str) -> Cow<'a, str> {
    let mut hidden = Cow::Borrowed(text);
    for mask in masks {
        if hidden.contains(mask.as_str()) {
            hidden = Cow::Owned(hidden.replace(mask.as_str(), MASK));
        }
    }
    hidden
}

/// Hides secrets within a value; answers whether there were any.
fn hide_in(masks: &[Zeroizing<String>], value: &mut Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => false,
        Value::Number(number) => {
            let hidden = hide(masks, &number.to_string()).into_owned();
            let found = hidden.contains(MASK);
            if found {
                *value = Value::String(hidden);
            }
            found
        }
        Value::String(text) => {
            let Cow::Owned(hidden) = hide(masks, text) else {
                return false;
            };
            *text = hidden;
            true
        }
        Value::Array(values) => values
            .iter_mut()
            .fold(false, |found, value| hide_in(masks, value) | found),
        Value::Object(members) => {
            let mut found = false;
            *members = std::mem::take(members)
                .into_iter()
                .map(|(name, mut value)| {
                    found |= hide_in(masks, &mut value);
                    let name = match hide(masks, &name) {
                        Cow::Borrowed(_) => name,
                        Cow::Owned(hidden) => {
                            found = true;
                            hidden
                        }
                    };
                    (name, value)
                })
                .collect();
            found
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(secrets: &[&[u8]]) -> Masks {
        let masks = Masks::default();
        for secret in secrets {
            masks.add(secret);
        }
        masks
    }

    #[test]
    fn a_secret_is_hidden_wherever_it_stands_in_a_text() {
        let masks = masks(&[
            b"hunter2-hunter2",
            b"hunter2-",
            b"short",
            b"\xff\xfe\xfd\xfc\xff\xfe\xfd\xfc",
        ]);
        assert_eq!(masks.text("nothing"), "nothing");
        assert_eq!(
            masks.text("a hunter2-hunter2 b hunter2-x, short"),
            "a [secret] b [secret]x, short"
        );
    }

    #[test]
    fn what_is_too_short_is_what_is_not_hidden() {
        for (secret, short) in [
            (&b"1234567"[..], true),
            (b"12345678", false),
            (b"   1234567\n\n", true),
            ("süßes!".as_bytes(), false),
            (b"\xff", false),
        ] {
            assert_eq!(is_too_short(secret), short, "{secret:?}");
            let text = String::from_utf8_lossy(secret).into_owned();
            let told = masks(&[secret]).text(&text).into_owned();
            assert_eq!(told == text, short || text.contains('\u{fffd}'), "{text}");
        }
    }

    #[test]
    fn each_line_of_a_secret_is_hidden() {
        let masks = masks(&[b"-----BEGIN KEY-----\nMIIEvQIBADAN\r\nabc\n-----END KEY-----\n"]);
        assert_eq!(masks.text("MIIEvQIBADAN"), "[secret]");
        assert_eq!(masks.text("abc"), "abc");
        assert_eq!(
            masks.text("it is -----BEGIN KEY-----\nMIIEvQIBADAN\r\nabc\n-----END KEY-----\n"),
            "it is [secret]\n"
        );
    }

    #[test]
    fn a_secret_is_hidden_however_json_writes_it() {
        let masks = masks(&[b"p\"ss w\xc3\xb6rd", b"123456789"]);
        for json in [
            r#"{"a":["x p\"ss wörd y"]}"#,
            r#"{"a":["x \u0070\"ss w\u00f6rd y"]}"#,
        ] {
            assert_eq!(masks.json(json), r#"{"a":["x [secret] y"]}"#);
            assert!(masks.within(json));
        }
        assert_eq!(masks.json(r#"{"p\"ss wörd":1}"#), r#"{"[secret]":1}"#);
        assert_eq!(masks.json("[5123456789]"), r#"["5[secret]"]"#);
        let other = r#"{ "a" : 1.0e2, "b": [true, null, "12345678"] }"#;
        assert_eq!(masks.json(other), other, "as it was written");
        assert!(!masks.within(other));
        assert_eq!(super::Masks::default().json("no JSON"), "no JSON");
    }
}
