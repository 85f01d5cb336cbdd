//! Durations as text: `1h30m`, `500ms`, or ISO 8601 `PT1H30M`.

use std::time::Duration;

use serde_json::Value;

/// The longest duration that a flow may ask for: 100 years of 365 days.
pub const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Reads a duration as the DSL writes it, as an expression answers it: an ISO 8601
/// text, or an object of `days`, `hours`, `minutes`, `seconds` and `milliseconds`.
///
/// # Errors
/// When it is neither, is negative or longer than [`MAX`]; a sentence for a person.
pub fn from_value(value: &Value) -> Result<Duration, String> {
    match value {
        Value::String(text) => iso8601(text),
        Value::Object(members) => from_object(members),
        _ => Err(
            "a duration is ISO 8601 text such as \"PT30S\" or an object such as {seconds: 30}"
                .to_owned(),
        ),
    }
}

fn from_object(members: &serde_json::Map<String, Value>) -> Result<Duration, String> {
    if members.is_empty() {
        return Err(
            "a duration needs at least one of days, hours, minutes, seconds, milliseconds"
                .to_owned(),
        );
    }
    let mut millis = 0_u64;
    for (name, value) in members {
        let unit = match name.as_str() {
            "days" => 86_400_000,
            "hours" => 3_600_000,
            "minutes" => 60_000,
            "seconds" => 1_000,
            "milliseconds" => 1,
            _ => {
                return Err(format!(
                    "{:?} is no member of a duration; use days, hours, minutes, seconds, milliseconds",
                    name.chars().take(64).collect::<String>()
                ));
            }
        };
        let count = value
            .as_u64()
            .ok_or_else(|| format!("{name} must be an integer of at least 0"))?;
        millis = count
            .checked_mul(unit)
            .and_then(|part| millis.checked_add(part))
            .ok_or_else(too_long)?;
    }
    limited(Duration::from_millis(millis))
}

fn limited(duration: Duration) -> Result<Duration, String> {
    if duration > MAX {
        Err(too_long())
    } else {
        Ok(duration)
    }
}

fn too_long() -> String {
    "a duration is at most 100 years (36500 days)".to_owned()
}

/// ISO 8601: weeks and days count 7 and 1 times 24 hours, the last part may have a
/// fraction; years and months have no fixed length and are refused.
fn iso8601(text: &str) -> Result<Duration, String> {
    let invalid = || {
        format!(
            "{:?} is not an ISO 8601 duration such as \"PT30S\" or \"P1DT12H\"",
            text.chars().take(64).collect::<String>()
        )
    };
    let mut rest = text.strip_prefix('P').ok_or_else(invalid)?;
    let mut units: &[(char, u64)] = &[('W', 604_800), ('D', 86_400)];
    let (mut total, mut in_time, mut parts) = (Duration::ZERO, false, 0);
    while !rest.is_empty() {
        if !in_time && let Some(time) = rest.strip_prefix('T') {
            (rest, in_time) = (time, true);
            units = &[('H', 3_600), ('M', 60), ('S', 1)];
            if rest.is_empty() {
                return Err(invalid());
            }
            continue;
        }
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let (number, designator) = (
            &rest[..end],
            rest[end..].chars().next().ok_or_else(invalid)?,
        );
        rest = &rest[end + designator.len_utf8()..];
        if !in_time && (designator == 'Y' || designator == 'M') {
            return Err(format!(
                "{text:?}: years and months have no fixed length; use days"
            ));
        }
        let place = units
            .iter()
            .position(|(unit, _)| *unit == designator)
            .ok_or_else(invalid)?;
        let seconds = units[place].1;
        units = &units[place + 1..];
        let (whole, fraction) = number
            .split_once('.')
            .map_or((number, None), |(w, f)| (w, Some(f)));
        if whole.is_empty()
            || fraction.is_some_and(|f| f.is_empty() || f.contains('.') || !rest.is_empty())
        {
            return Err(invalid());
        }
        let whole: u64 = whole.parse().map_err(|_| too_long())?;
        let mut part = Duration::from_secs(whole.checked_mul(seconds).ok_or_else(too_long)?);
        if let Some(fraction) = fraction {
            // Nine digits are nanoseconds of a unit; more are below what is kept.
            let digits: String = fraction
                .chars()
                .chain("000000000".chars())
                .take(9)
                .collect();
            let nanos: u64 = digits.parse().map_err(|_| invalid())?;
            part += Duration::from_nanos(nanos) * u32::try_from(seconds).map_err(|_| invalid())?;
        }
        total = limited(total.checked_add(part).ok_or_else(too_long)?)?;
        parts += 1;
    }
    if parts == 0 {
        Err(invalid())
    } else {
        Ok(total)
    }
}

/// Reads a duration.
///
/// # Errors
/// When the text is no duration, or a negative one.
pub fn parse(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration = text.parse().map_err(|error| {
        format!("{text:?} is not a duration such as \"1h30m\" or \"PT5M\": {error}")
    })?;
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
    pub fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::required::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| super::parse(&text).map_err(serde::de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_iso_8601() {
        for (text, millis) in [
            ("PT30S", 30_000),
            ("PT0S", 0),
            ("PT1.5S", 1_500),
            ("PT0.0015S", 1),
            ("P1DT2H3M4S", 93_784_000),
            ("P1W", 604_800_000),
            ("P1W2D", 777_600_000),
            ("P0.5D", 43_200_000),
            ("PT36H", 129_600_000),
        ] {
            let duration = from_value(&json!(text)).unwrap();
            assert_eq!(duration.as_millis(), millis, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for text in [
            "",
            "P",
            "PT",
            "P1",
            "1S",
            "PT1",
            "PTS",
            "P1S",
            "PT1D",
            "PT1S1M",
            "PT1M1M",
            "P1DT",
            "PT1.5M1S",
            "PT1.S",
            "PT.5S",
            "PT1.2.3S",
            "-PT1S",
            "PT-1S",
            "pt1s",
            "PT1S ",
            "5s",
            "PT1é",
            "P1Y",
            "P1M",
            "P36501D",
            "PT99999999999999999999S",
            "P18446744073709551615W",
        ] {
            assert!(from_value(&json!(text)).is_err(), "{text}");
        }
        for value in [
            json!(5),
            json!(null),
            json!([]),
            json!({}),
            json!({"seconds": 1.5}),
            json!({"second": 1}),
        ] {
            assert!(from_value(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn adds_up_objects() {
        let value = json!({"days": 1, "hours": 1, "minutes": 1, "seconds": 1, "milliseconds": 1});
        assert_eq!(from_value(&value), Ok(Duration::from_millis(90_061_001)));
        assert_eq!(from_value(&json!({"days": 36_500})), Ok(MAX));
        assert!(from_value(&json!({"days": 36_500, "milliseconds": 1})).is_err());
        assert!(from_value(&json!({"days": u64::MAX})).is_err());
    }

    #[test]
    fn reads_friendly_text_for_configuration() {
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse("PT5M"), Ok(Duration::from_secs(300)));
        assert!(parse("-1s").is_err());
        assert!(parse("soon").is_err());
    }
}
