//! Signals: events that somebody sends to an open run.
//!
//! A signal is a CloudEvent: its name is the event's `type`, its payload the `data`, the
//! sender's request id the `id`. Temporal's signal carries the same: name, one argument,
//! request id, and what else the event has in a header. A flow waits for signals by its
//! `listen` tasks.

use serde_json::{Map, Value};

use crate::payload::{BINARY_NULL, FOREIGN_LIMIT, JSON_PLAIN, Payload};

/// Bytes of a signal's name, of its id and of an attribute.
const NAME_LIMIT: usize = 1_000;

/// Bytes of an attribute's name.
const ATTRIBUTE_LIMIT: usize = 64;

/// Attributes that an event may have beside those that its own members stand for.
const ATTRIBUTES_LIMIT: usize = 32;

/// What a signal's event has as its `source` where its sender names none.
pub const DEFAULT_SOURCE: &str = "urn:heyday:signal";

/// An event for a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// Its name: the event's `type`; 1 to 1,000 bytes, not beginning with `__`.
    pub name: String,
    /// The event's `id`: 1 to 1,000 bytes, the sender's request id. A run takes the same
    /// id of the same source once.
    pub id: String,
    /// Further context attributes: `source`, `subject`, `time`, extensions. Names are
    /// lower-case letters and digits, values texts, booleans and integers.
    pub attributes: Map<String, Value>,
    /// The event's `data`: `json/plain` or `binary/null`.
    pub data: Payload,
}

/// A signal that no run takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// It is malformed; a sentence for a person.
    #[error("{0}")]
    Invalid(String),
    /// It is too large.
    #[error("the signal has {size} bytes")]
    TooLarge {
        /// Its bytes.
        size: u64,
        /// The limit.
        limit: u64,
    },
}

/// Whether an attribute of an event may have that name.
#[must_use]
pub fn is_attribute_name(name: &str) -> bool {
    (1..=ATTRIBUTE_LIMIT).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl Signal {
    /// A signal without further attributes.
    #[must_use]
    pub fn new(name: impl Into<String>, id: impl Into<String>, data: Payload) -> Self {
        Self {
            name: name.into(),
            id: id.into(),
            attributes: Map::new(),
            data,
        }
    }

    /// Its bytes, as they count for limits.
    #[must_use]
    pub fn size(&self) -> u64 {
        let attributes: usize = self
            .attributes
            .iter()
            .map(|(name, value)| name.len() + value.as_str().map_or(20, str::len))
            .sum();
        (self.name.len() + self.id.len() + attributes + self.data.data.len()) as u64
    }

    /// Checks what its fields say of themselves. That the data is JSON is looked at where
    /// it is read.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SignalError> {
        let invalid = |message: String| Err(SignalError::Invalid(message));
        for (what, text) in [("name", &self.name), ("id", &self.id)] {
            if text.is_empty() || text.len() > NAME_LIMIT {
                return invalid(format!(
                    "a signal's {what} has 1 to {NAME_LIMIT} bytes, this one has {}",
                    text.len()
                ));
            }
        }
        if self.name.starts_with("__") {
            return invalid(
                "a signal's name that begins with __ is reserved; choose another".to_owned(),
            );
        }
        if self.attributes.len() > ATTRIBUTES_LIMIT {
            return invalid(format!(
                "a signal has at most {ATTRIBUTES_LIMIT} attributes"
            ));
        }
        for (name, value) in &self.attributes {
            let instead = match name.as_str() {
                "type" => Some("the signal's name"),
                "id" => Some("the signal's id"),
                "data" => Some("the signal's data"),
                "specversion" => Some("always 1.0"),
                _ => None,
            };
            if let Some(instead) = instead {
                return invalid(format!("the attribute {name:?} is {instead}; leave it out"));
            }
            if !is_attribute_name(name) {
                let name: String = name.chars().take(ATTRIBUTE_LIMIT).collect();
                return invalid(format!(
                    "an attribute's name has 1 to {ATTRIBUTE_LIMIT} lower-case letters and digits; {name:?} does not"
                ));
            }
            match value {
                Value::String(text) if text.len() <= NAME_LIMIT => {}
                Value::Bool(_) => {}
                Value::Number(number) if number.is_i64() || number.is_u64() => {}
                _ => {
                    return invalid(format!(
                        "the attribute {name:?} must be a text of at most {NAME_LIMIT} bytes, a boolean or an integer"
                    ));
                }
            }
            if name == "time"
                && value
                    .as_str()
                    .is_none_or(|text| text.parse::<jiff::Timestamp>().is_err())
            {
                return invalid(
                    "the attribute \"time\" must be a time such as 2026-01-31T12:00:00Z".to_owned(),
                );
            }
        }
        if !matches!(self.data.encoding(), JSON_PLAIN | BINARY_NULL) {
            return invalid(format!(
                "the encoding {:?} of the signal's data is not supported; use {JSON_PLAIN:?}",
                self.data.encoding()
            ));
        }
        let size = self.size();
        if size > FOREIGN_LIMIT as u64 {
            return Err(SignalError::TooLarge {
                size,
                limit: FOREIGN_LIMIT as u64,
            });
        }
        Ok(())
    }

    /// What tells it from others: a run takes each key once. Its id, after the source
    /// where it names one.
    #[must_use]
    pub fn key(&self) -> String {
        match self.attributes.get("source").and_then(Value::as_str) {
            None => self.id.clone(),
            Some(source) => format!("{source} {}", self.id),
        }
    }

    /// The signal that delivers an event, as a flow's `emit` makes it; `None` where the
    /// event has no `type` and `id` that are texts.
    #[must_use]
    pub fn of_event(event: &Value) -> Option<Self> {
        let mut members = event.as_object()?.clone();
        let name = members.remove("type")?.as_str()?.to_owned();
        let id = members.remove("id")?.as_str()?.to_owned();
        members.remove("specversion");
        let data = members.remove("data").unwrap_or_default();
        Some(Self {
            name,
            id,
            attributes: members,
            data: Payload::json(&data),
        })
    }

    /// The event as a flow sees it. `received` is its `time` where the sender gave none.
    ///
    /// # Errors
    /// When the data is no JSON.
    pub fn event(&self, received: jiff::Timestamp) -> Result<Value, crate::payload::PayloadError> {
        let mut event = Map::new();
        event.insert("specversion".to_owned(), "1.0".into());
        event.insert("id".to_owned(), self.id.as_str().into());
        event.insert("source".to_owned(), DEFAULT_SOURCE.into());
        event.insert("type".to_owned(), self.name.as_str().into());
        event.insert("time".to_owned(), received.to_string().into());
        event.extend(self.attributes.clone());
        event.insert("data".to_owned(), self.data.to_json()?);
        Ok(Value::Object(event))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn signal(attributes: Value) -> Signal {
        Signal {
            attributes: attributes.as_object().cloned().unwrap_or_default(),
            ..Signal::new("approve", "7", Payload::json(&json!({"by": "Ada"})))
        }
    }

    #[test]
    fn an_event_has_the_attributes_of_its_signal() {
        let at = jiff::Timestamp::UNIX_EPOCH;
        assert_eq!(
            signal(json!({})).event(at).expect("JSON"),
            json!({
                "specversion": "1.0", "id": "7", "source": DEFAULT_SOURCE, "type": "approve",
                "time": "1970-01-01T00:00:00Z", "data": {"by": "Ada"},
            })
        );
        let event = signal(json!({"source": "urn:x", "time": "2026-01-01T00:00:00Z", "room": 3}));
        let event = event.event(at).expect("JSON");
        assert_eq!(
            (&event["source"], &event["room"]),
            (&json!("urn:x"), &json!(3))
        );
        assert_eq!(event["time"], "2026-01-01T00:00:00Z");
        let again = Signal::of_event(&event).expect("an event");
        assert_eq!(again.event(at).expect("JSON"), event);
        assert_eq!(
            (again.key(), signal(json!({})).key()),
            ("urn:x 7".to_owned(), "7".to_owned())
        );
        assert_eq!(Signal::of_event(&json!({"type": "a", "data": 1})), None);
        assert_eq!(Signal::of_event(&json!({"type": "a", "id": 1})), None);
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        assert_eq!(
            signal(json!({"source": "urn:x", "n": 1, "b": true})).check(),
            Ok(())
        );
        let many: Map<String, Value> = (0..33).map(|n| (format!("a{n}"), n.into())).collect();
        for (attributes, says) in [
            (json!({"type": "x"}), "the signal's name"),
            (json!({"specversion": "1.0"}), "always 1.0"),
            (json!({"Room": "x"}), "lower-case"),
            (json!({"": "x"}), "lower-case"),
            (json!({"room": 1.5}), "an integer"),
            (json!({"room": null}), "an integer"),
            (json!({"room": "x".repeat(1_001)}), "1000 bytes"),
            (json!({"time": "yesterday"}), "2026-01-31"),
            (Value::Object(many), "at most 32"),
        ] {
            let error = signal(attributes).check().expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
        for (name, id) in [("", "1"), ("a", ""), ("__x", "1")] {
            let signal = Signal::new(name, id, Payload::null());
            assert!(matches!(signal.check(), Err(SignalError::Invalid(_))));
        }
        let long = "x".repeat(1_001);
        assert!(
            Signal::new(long.as_str(), "1", Payload::null())
                .check()
                .is_err()
        );
        assert!(Signal::new("a", long, Payload::null()).check().is_err());
        let large = Payload::json(&json!("x".repeat(FOREIGN_LIMIT)));
        assert!(matches!(
            Signal::new("a", "1", large).check(),
            Err(SignalError::TooLarge { .. })
        ));
        let reference = Payload::blob_ref(&crate::payload::BlobRef {
            digest: crate::payload::Digest::of(b"x"),
            size: 1,
        });
        assert!(Signal::new("a", "1", reference).check().is_err());
    }
}
