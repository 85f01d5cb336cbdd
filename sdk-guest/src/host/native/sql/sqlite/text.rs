//! Whether a text is one of its type: what the host checks of parameters, and what it reads
//! as their variants.

use crate::error::CapabilityError;
use crate::host::times::{
    fraction, is_date, is_datetime, is_digits, is_like, is_time, is_timestamp,
};
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

pub(super) fn is_decimal(text: &str) -> bool {
    let (whole, fraction) = fraction(text.strip_prefix('-').unwrap_or(text));
    is_digits(whole) && fraction.is_none_or(is_digits)
}

pub(super) fn is_uuid(text: &str) -> bool {
    is_like(text, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
}

pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

pub(super) fn is_array(text: &str) -> bool {
    text.trim_start().starts_with('[') && is_json(text)
}
