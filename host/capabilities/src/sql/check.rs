//! Whether a parameter's text fits its type: the same answer for every backend.

use serde::de::IgnoredAny;

use super::{SqlCode, SqlError, Value};

/// Checks each parameter's text.
///
/// # Errors
/// `invalid-parameter`, with the position of the first that does not fit.
pub fn check_parameters(params: &[Value]) -> Result<(), SqlError> {
    for (index, value) in params.iter().enumerate() {
        let (fits, expected) = match value {
            Value::Real(number) => (!number.is_nan(), "a number (NaN is none)"),
            Value::Decimal(text) => (is_decimal(text), "a decimal number such as -12.50"),
            Value::Uuid(text) => (
                is_uuid(text),
                "a UUID in its hyphenated form, in lower case",
            ),
            Value::Date(text) => (is_date(text), "a date such as 2026-11-24"),
            Value::Time(text) => (is_time(text), "a time of day such as 13:37:00.5"),
            Value::Timestamp(text) => (
                is_timestamp(text),
                "an RFC 3339 instant such as 2026-11-24T13:37:00Z",
            ),
            Value::Datetime(text) => (
                is_datetime(text),
                "a local date and time such as 2026-11-24T13:37:00",
            ),
            Value::Json(text) => (is_json(text), "one JSON value"),
            Value::Array(text) => (is_array(text), "a JSON array"),
            Value::Null
            | Value::Boolean(_)
            | Value::Integer(_)
            | Value::Text(_)
            | Value::Bytes(_)
            | Value::Other(_) => (true, ""),
        };
        if !fits {
            let position = index + 1;
            return Err(SqlError::new(
                SqlCode::InvalidParameter,
                format!("parameter {position} is not {expected}"),
            )
            .with_details(serde_json::json!({ "position": position })));
        }
    }
    Ok(())
}

pub(crate) fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (digits, None),
    };
    all_digits(whole) && fraction.is_none_or(all_digits)
}

pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

pub(crate) fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return false;
    }
    let (Some(year), Some(month), Some(day)) = (
        number(&bytes[0..4]),
        number(&bytes[5..7]),
        number(&bytes[8..10]),
    ) else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=days).contains(&day)
}

pub(crate) fn is_time(text: &str) -> bool {
    let (clock, fraction) = match text.split_once('.') {
        Some((clock, fraction)) => (clock.as_bytes(), Some(fraction)),
        None => (text.as_bytes(), None),
    };
    if clock.len() != 8 || clock[2] != b':' || clock[5] != b':' {
        return false;
    }
    let (Some(hour), Some(minute), Some(second)) = (
        number(&clock[0..2]),
        number(&clock[3..5]),
        number(&clock[6..8]),
    ) else {
        return false;
    };
    hour < 24
        && minute < 60
        && second < 60
        && fraction.is_none_or(|digits| digits.len() <= 9 && all_digits(digits))
}

pub(crate) fn is_datetime(text: &str) -> bool {
    split_date(text).is_some_and(|(date, time)| is_date(date) && is_time(time))
}

pub(crate) fn is_timestamp(text: &str) -> bool {
    let Some((date, rest)) = split_date(text) else {
        return false;
    };
    let time = if let Some(time) = rest.strip_suffix(['Z', 'z']) {
        time
    } else {
        let Some(at) = rest.rfind(['+', '-']) else {
            return false;
        };
        let (time, offset) = rest.split_at(at);
        let offset = offset.as_bytes();
        let valid = offset.len() == 6
            && offset[3] == b':'
            && number(&offset[1..3]).is_some_and(|hours| hours < 24)
            && number(&offset[4..6]).is_some_and(|minutes| minutes < 60);
        if !valid {
            return false;
        }
        time
    };
    is_date(date) && is_time(time)
}

pub(crate) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

pub(crate) fn is_array(text: &str) -> bool {
    text.trim_start().starts_with('[') && is_json(text)
}

fn split_date(text: &str) -> Option<(&str, &str)> {
    let separator = *text.as_bytes().get(10)?;
    if !matches!(separator, b'T' | b't' | b' ') {
        return None;
    }
    // Byte 10 is ASCII, so both of its sides are character boundaries.
    Some((&text[..10], &text[11..]))
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |sum, byte| {
        byte.is_ascii_digit()
            .then(|| sum * 10 + u32::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_held_to_their_types() {
        for text in ["0", "-12.50", "1234567890123456789012345678901234567890.1"] {
            assert!(is_decimal(text), "{text}");
        }
        for text in ["", "-", "1.", ".5", "1e5", "+1", "1 ", "NaN"] {
            assert!(!is_decimal(text), "{text}");
        }
        assert!(is_uuid("0189a2c4-0000-7000-8000-00000000abcd"));
        assert!(!is_uuid("0189A2C4-0000-7000-8000-00000000ABCD"));
        assert!(!is_uuid("0189a2c4000070008000-00000000abcd"));
        assert!(is_date("2024-02-29"));
        for text in [
            "2023-02-29",
            "2026-13-01",
            "2026-1-01",
            "2026-11-31",
            "24-11-2026",
        ] {
            assert!(!is_date(text), "{text}");
        }
        assert!(is_time("13:37:00") && is_time("00:00:59.123456789"));
        for text in ["24:00:00", "1:2:3", "13:37", "13:37:00.", "13:37:60"] {
            assert!(!is_time(text), "{text}");
        }
        assert!(is_timestamp("2026-11-24T13:37:00Z"));
        assert!(is_timestamp("2026-11-24T13:37:00.5-05:30"));
        assert!(!is_timestamp("2026-11-24T13:37:00"));
        assert!(!is_timestamp("2026-11-24T13:37:00+5"));
        assert!(!is_timestamp("2026-11-2é13:37:00Z"));
        assert!(is_datetime("2026-11-24T13:37:00"));
        assert!(!is_datetime("2026-11-24T13:37:00Z"));
        assert!(is_array("[1,2]") && !is_array("{}") && !is_array("[1"));
        assert!(is_json("null") && !is_json("{'a':1}") && !is_json(""));
    }

    #[test]
    fn the_position_of_a_bad_parameter_is_named() {
        let error = check_parameters(&[Value::Integer(1), Value::Json("{".into())])
            .expect_err("malformed JSON");
        assert_eq!(error.code, SqlCode::InvalidParameter);
        assert_eq!(error.details, Some(serde_json::json!({ "position": 2 })));
        let error = check_parameters(&[Value::Real(f64::NAN)]).expect_err("NaN");
        assert_eq!(error.code, SqlCode::InvalidParameter);
    }
}
