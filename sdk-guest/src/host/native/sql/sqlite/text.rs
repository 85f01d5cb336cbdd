//! Whether a text is one of its type: what the host checks of parameters, and what it reads
//! as their variants.

use crate::error::CapabilityError;
use crate::sql::Value;

/// Checks the texts of parameters.
pub(super) fn check(params: &[Value]) -> Result<(), CapabilityError> {
    for (position, value) in (1..).zip(params) {
        let (fits, expected) = match value {
            Value::Real(number) => (!number.is_nan(), "a number (NaN is none)"),
            Value::Decimal(text) => (is_decimal(text), "a decimal number such as -12.50"),
            Value::Uuid(text) => (is_uuid(text), "a UUID in lower case, with hyphens"),
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
            | Value::Other(..) => continue,
        };
        if !fits {
            return Err(CapabilityError {
                details: Some(serde_json::json!({ "position": position })),
                ..CapabilityError::new(
                    "invalid-parameter",
                    format!("parameter {position} is not {expected}"),
                )
            });
        }
    }
    Ok(())
}

/// Whether a text is like a pattern, in which `0` is any digit and `x` one of base 16, in
/// lower case.
fn is_like(text: &str, pattern: &str) -> bool {
    let like = |(byte, pattern): (u8, u8)| match pattern {
        b'0' => byte.is_ascii_digit(),
        b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        other => byte == other,
    };
    text.len() == pattern.len() && text.bytes().zip(pattern.bytes()).all(like)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What stands before a point and after it.
fn fraction(text: &str) -> (&str, Option<&str>) {
    match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    }
}

pub(super) fn is_decimal(text: &str) -> bool {
    let (whole, fraction) = fraction(text.strip_prefix('-').unwrap_or(text));
    is_digits(whole) && fraction.is_none_or(is_digits)
}

pub(super) fn is_uuid(text: &str) -> bool {
    is_like(text, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
}

pub(super) fn is_date(text: &str) -> bool {
    if !is_like(text, "0000-00-00") {
        return false;
    }
    let leap = text[..4].parse().is_ok_and(|year: u32| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    });
    let last = match &text[5..7] {
        "01" | "03" | "05" | "07" | "08" | "10" | "12" => "31",
        "04" | "06" | "09" | "11" => "30",
        "02" if leap => "29",
        "02" => "28",
        _ => return false,
    };
    ("01"..=last).contains(&&text[8..])
}

/// Whether a text like `00:00` is hours and minutes.
fn is_clock(text: &str) -> bool {
    is_like(text, "00:00") && &text[..2] < "24" && &text[3..] < "60"
}

pub(super) fn is_time(text: &str) -> bool {
    let (clock, fraction) = fraction(text);
    is_like(clock, "00:00:00")
        && is_clock(&clock[..5])
        && &clock[6..] < "60"
        && fraction.is_none_or(|digits| digits.len() <= 9 && is_digits(digits))
}

/// A date, and what follows it.
fn dated(text: &str) -> Option<&str> {
    let rest = text.get(10..)?.strip_prefix(['T', 't', ' '])?;
    is_date(&text[..10]).then_some(rest)
}

pub(super) fn is_datetime(text: &str) -> bool {
    dated(text).is_some_and(is_time)
}

pub(super) fn is_timestamp(text: &str) -> bool {
    let Some(rest) = dated(text) else {
        return false;
    };
    if let Some(time) = rest.strip_suffix(['Z', 'z']) {
        return is_time(time);
    }
    let Some(sign) = rest.rfind(['+', '-']) else {
        return false;
    };
    is_time(&rest[..sign]) && is_clock(&rest[sign + 1..])
}

pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

pub(super) fn is_array(text: &str) -> bool {
    text.trim_start().starts_with('[') && is_json(text)
}
