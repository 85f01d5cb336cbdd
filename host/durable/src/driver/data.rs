//! The data that a run holds, counted.
//!
//! Every value that a run keeps lies in a [`Held`], which knows the size of its JSON
//! text and gives it back to the [`Meter`] when the last copy goes. The size is counted
//! once, when the value arises, so that holding and passing on cost nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Number, Value};

/// The deepest nesting of a value: what `serde_json` reads back from text.
pub(super) const MAX_DEPTH: usize = 127;

/// A limit on data that was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataLimit {
    /// The run would hold this many bytes.
    Bytes {
        /// What it would hold.
        held: u64,
        /// What it may hold.
        limit: u64,
    },
    /// The value nests deeper than [`MAX_DEPTH`].
    Depth,
}

/// How many bytes of data a run holds.
#[derive(Debug)]
pub(super) struct Meter {
    used: AtomicU64,
    limit: u64,
}

impl Meter {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            limit,
        })
    }

    /// Whether so many more bytes fit.
    pub(super) fn fits(&self, more: u64) -> Result<(), DataLimit> {
        let held = self.used.load(Ordering::Relaxed).saturating_add(more);
        if held > self.limit {
            Err(DataLimit::Bytes {
                held,
                limit: self.limit,
            })
        } else {
            Ok(())
        }
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Counted {
    value: Value,
    size: u64,
    meter: Arc<Meter>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.meter.used.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// A value that the run holds; a copy of it is counted once.
#[derive(Debug, Clone)]
pub(super) struct Held(Arc<Counted>);

impl Held {
    /// Takes a value into the run.
    ///
    /// # Errors
    /// When the run would hold too much, or the value nests too deep.
    pub(super) fn new(value: Value, meter: &Arc<Meter>) -> Result<Self, DataLimit> {
        let size = size_of(&value)?;
        meter.fits(size)?;
        meter.used.fetch_add(size, Ordering::Relaxed);
        Ok(Self(Arc::new(Counted {
            value,
            size,
            meter: Arc::clone(meter),
        })))
    }

    /// The size of its JSON text in bytes.
    pub(super) fn size(&self) -> u64 {
        self.0.size
    }

    /// What its copies have in common, and no other value that lives.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl std::ops::Deref for Held {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0.value
    }
}

/// The size of a value's JSON text in bytes.
///
/// # Errors
/// When it nests too deep.
pub(super) fn size_of(value: &Value) -> Result<u64, DataLimit> {
    measure(value, 0)
}

fn measure(value: &Value, depth: usize) -> Result<u64, DataLimit> {
    let inside = |is_empty: bool| {
        if depth >= MAX_DEPTH && !is_empty || depth > MAX_DEPTH {
            Err(DataLimit::Depth)
        } else {
            Ok(depth + 1)
        }
    };
    Ok(match value {
        Value::Null => 4,
        Value::Bool(value) => 5 - u64::from(*value),
        Value::Number(number) => number_size(number),
        Value::String(text) => string_size(text),
        Value::Array(items) => {
            let depth = inside(items.is_empty())?;
            let mut size = 2 + (items.len() as u64).saturating_sub(1);
            for item in items {
                size += measure(item, depth)?;
            }
            size
        }
        Value::Object(members) => {
            let depth = inside(members.is_empty())?;
            let mut size = 2 + (members.len() as u64).saturating_sub(1);
            for (key, member) in members {
                size += string_size(key) + 1 + measure(member, depth)?;
            }
            size
        }
    })
}

fn number_size(number: &Number) -> u64 {
    let digits = |value: u64| value.checked_ilog10().map_or(1, |log| u64::from(log) + 1);
    if let Some(value) = number.as_u64() {
        digits(value)
    } else if let Some(value) = number.as_i64() {
        1 + digits(value.unsigned_abs())
    } else {
        number.to_string().len() as u64
    }
}

fn string_size(text: &str) -> u64 {
    let escapes: u64 = text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
            0x00..=0x1f => 5,
            _ => 0,
        })
        .sum();
    2 + text.len() as u64 + escapes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nested(depth: usize) -> Value {
        (0..depth).fold(json!(1), |value, _| json!([value]))
    }

    #[test]
    fn sizes_are_those_of_the_text() {
        for value in [
            json!(null),
            json!([
                true,
                false,
                0,
                9,
                10,
                -1,
                i64::MIN,
                u64::MAX,
                1.5,
                1e300,
                -0.0
            ]),
            json!({"a\"\\": ["\u{0}\u{1f}\n\r\t\u{8}\u{c}ä😀\u{7f}", {}, []], "b": {"c": null}}),
            json!([]),
            json!([[], {}]),
        ] {
            assert_eq!(
                size_of(&value),
                Ok(value.to_string().len() as u64),
                "{value}"
            );
        }
    }

    #[test]
    fn the_deepest_value_can_be_read_back() {
        let deepest = nested(MAX_DEPTH);
        assert!(size_of(&deepest).is_ok());
        assert!(serde_json::from_str::<Value>(&deepest.to_string()).is_ok());
        let deeper = nested(MAX_DEPTH + 1);
        assert_eq!(size_of(&deeper), Err(DataLimit::Depth));
        assert!(serde_json::from_str::<Value>(&deeper.to_string()).is_err());
    }

    #[test]
    fn a_copy_counts_once_and_a_drop_gives_back() {
        let meter = Meter::new(10);
        let first = Held::new(json!("1234"), &meter).unwrap();
        let copy = first.clone();
        assert_eq!((meter.used(), copy.size()), (6, 6));
        assert_eq!(
            Held::new(json!("123"), &meter).unwrap_err(),
            DataLimit::Bytes {
                held: 11,
                limit: 10
            }
        );
        drop(first);
        assert_eq!(meter.used(), 6);
        drop(copy);
        assert_eq!(meter.used(), 0);
    }
}
