//! Durations as text: `1h30m`, `500ms`, or ISO 8601 `PT1H30M`.

use std::time::Duration;

/// Reads a duration.
///
/// # Errors
/// When the text is no duration, or a negative one.
pub fn parse(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration = text
        .parse()
        .map_err(|error| format!("{text:?} is not a duration such as \"1h30m\" or \"PT5M\": {error}"))?;
    Duration::try_from(signed).map_err(|_| format!("{text:?} is negative"))
}

/// Serde for a duration.
pub mod required {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes it as `PT1.5S`.
    ///
    /// # Errors
    /// As the serializer's.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        let signed = jiff::SignedDuration::try_from(*value).map_err(serde::ser::Error::custom)?;
        serializer.collect_str(&signed)
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Serde for a duration that may be absent.
pub mod optional {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes it as `PT1.5S`.
    ///
    /// # Errors
    /// As the serializer's.
    #[allow(clippy::ref_option, reason = "serde fixes the signature")]
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::required::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| super::parse(&text).map_err(serde::de::Error::custom))
            .transpose()
    }
}
