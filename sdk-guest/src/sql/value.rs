//! Values of statements: conversions from and to Rust's types.

/// A parameter or a column's value. What a dialect lacks is stored as the text given here,
/// so that it reads back the same.
///
/// ```
/// use heyday_sdk::sql::Value;
///
/// assert_eq!(Value::from("Ada"), Value::Text("Ada".into()));
/// assert_eq!(Value::from(None::<i64>), Value::Null);
/// let price = Value::Decimal("12.50".into()); // With all its digits.
/// assert_eq!(price.as_str(), Some("12.50"));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// Boolean. SQLite: the integers 0 and 1.
    Boolean(bool),
    /// A signed integer of up to 64 bits.
    Integer(i64),
    /// A double.
    Real(f64),
    /// A decimal number in its usual notation, `-12.50`.
    Decimal(String),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A UUID in its hyphenated lower-case form.
    Uuid(String),
    /// A calendar date, `2026-11-24`.
    Date(String),
    /// A time of day, `13:37:00.5`.
    Time(String),
    /// An instant, RFC 3339 with offset or `Z`.
    Timestamp(String),
    /// A local date and time without offset, `2026-11-24T13:37:00`.
    Datetime(String),
    /// One JSON value.
    Json(String),
    /// An array as a JSON array.
    Array(String),
    /// A value of another type, in the database's own text form: type name, text.
    Other(String, String),
}

impl Value {
    /// What it is, for messages.
    pub(crate) fn type_name(&self) -> &str {
        match self {
            Self::Null => "NULL",
            Self::Boolean(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Real(_) => "a double",
            Self::Decimal(_) => "a decimal number",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::Uuid(_) => "a UUID",
            Self::Date(_) => "a date",
            Self::Time(_) => "a time",
            Self::Timestamp(_) => "a timestamp",
            Self::Datetime(_) => "a date and time",
            Self::Json(_) => "JSON",
            Self::Array(_) => "an array",
            Self::Other(name, _) => name,
        }
    }

    /// The text of every kind that is text.
    ///
    /// ```
    /// use heyday_sdk::sql::Value;
    ///
    /// assert_eq!(Value::Date("2026-11-24".into()).as_str(), Some("2026-11-24"));
    /// assert_eq!(Value::Integer(7).as_str(), None);
    /// ```
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text)
            | Self::Decimal(text)
            | Self::Uuid(text)
            | Self::Date(text)
            | Self::Time(text)
            | Self::Timestamp(text)
            | Self::Datetime(text)
            | Self::Json(text)
            | Self::Array(text)
            | Self::Other(_, text) => Some(text),
            _ => None,
        }
    }
}

macro_rules! from {
    ($($type:ty => $value:ident $convert:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $convert
            }
        })*
    };
}

from! {
    bool => value Self::Boolean(value);
    i8 => value Self::Integer(value.into());
    i16 => value Self::Integer(value.into());
    i32 => value Self::Integer(value.into());
    i64 => value Self::Integer(value);
    u8 => value Self::Integer(value.into());
    u16 => value Self::Integer(value.into());
    u32 => value Self::Integer(value.into());
    // What an integer of the database cannot hold keeps all its digits.
    u64 => value i64::try_from(value).map_or_else(|_| Self::Decimal(value.to_string()), Self::Integer);
    usize => value Self::from(value as u64);
    f32 => value Self::Real(value.into());
    f64 => value Self::Real(value);
    &str => value Self::Text(value.to_owned());
    String => value Self::Text(value);
    &String => value Self::Text(value.clone());
    Vec<u8> => value Self::Bytes(value);
    &[u8] => value Self::Bytes(value.to_owned());
    &Vec<u8> => value Self::Bytes(value.clone());
    serde_json::Value => value Self::Json(value.to_string());
    &serde_json::Value => value Self::Json(value.to_string());
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Value> + Clone> From<&Option<T>> for Value {
    fn from(value: &Option<T>) -> Self {
        value.clone().into()
    }
}

/// A type that a column's value can be read as.
///
/// ```
/// use heyday_sdk::sql::{FromValue, Rows, Value};
///
/// struct Mail(String);
///
/// impl FromValue for Mail {
///     fn from_value(value: &Value) -> Option<Self> {
///         value.as_str().filter(|text| text.contains('@')).map(|text| Self(text.to_owned()))
///     }
/// }
/// let rows = Rows::new(["mail"], [vec!["ada@example.com".into()], vec!["nobody".into()]]);
/// let mails: Vec<bool> = rows.iter().map(|row| row.get::<Mail>("mail").is_ok()).collect();
/// assert_eq!(mails, [true, false]);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
pub trait FromValue: Sized {
    /// The value, or `None` where it is none of this type.
    ///
    /// ```
    /// use heyday_sdk::sql::{FromValue as _, Value};
    ///
    /// assert_eq!(u8::from_value(&Value::Integer(7)), Some(7));
    /// assert_eq!(u8::from_value(&Value::Integer(256)), None);
    /// ```
    fn from_value(value: &Value) -> Option<Self>;
}

impl FromValue for Value {
    fn from_value(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Boolean(value) => Some(*value),
            Value::Integer(0) => Some(false),
            Value::Integer(1) => Some(true),
            _ => None,
        }
    }
}

macro_rules! integers {
    ($($type:ty)*) => {
        $(impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::Integer(value) => (*value).try_into().ok(),
                    Value::Decimal(text) => text.parse().ok(),
                    _ => None,
                }
            }
        })*
    };
}

integers!(i8 i16 i32 i64 u8 u16 u32 u64 usize);

impl FromValue for f64 {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Real(value) => Some(*value),
            // A column without a declared type keeps 3.0 as 3.
            Value::Integer(value) => Some(*value as f64),
            Value::Decimal(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }
}

impl FromValue for serde_json::Value {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Json(text) | Value::Array(text) | Value::Text(text) => {
                serde_json::from_str(text).ok()
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back<T: Into<Value> + FromValue + Clone + PartialEq + std::fmt::Debug>(value: T) {
        assert_eq!(T::from_value(&value.clone().into()), Some(value));
    }

    #[test]
    fn what_goes_in_comes_back() {
        back(true);
        back(-3_i8);
        back(u32::MAX);
        back(i64::MIN);
        back(u64::MAX);
        back(1.5);
        back(String::from("text"));
        back(vec![0_u8, 255]);
        back(serde_json::json!({"a": [1]}));
        back(Some(7_i64));
        back(None::<i64>);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(u8::from_value(&Value::Integer(256)), None);
        assert_eq!(i64::from_value(&Value::Text("1".into())), None);
        assert_eq!(bool::from_value(&Value::Integer(2)), None);
        assert_eq!(String::from_value(&Value::Integer(1)), None);
        assert_eq!(i64::from_value(&Value::Null), None);
    }
}
