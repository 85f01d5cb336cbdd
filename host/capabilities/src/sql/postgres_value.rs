//! Values between guests and PostgreSQL.
//!
//! Parameters go in the text form of the type that their variant names; texts, arrays,
//! NULL and `other` leave the type to the server, which finds it from where they stand.
//! Results come in their types' text form, which every type has.

use bytes::Bytes;
use postgres_protocol::Oid;
use postgres_types::Type;

use super::{SqlCode, SqlError, Value, check, postgres_array};
use crate::postgres::{Param, from_hex};

/// What variant a type's values have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Integer,
    Real,
    Decimal,
    Text,
    Bytes,
    Uuid,
    Date,
    Time,
    Timestamp,
    Datetime,
    Json,
    /// The type of functions that answer nothing.
    Void,
    Other,
}

/// A type of results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TypeInfo {
    /// Its name in lower case; of an array its element's and `[]`.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) array: bool,
}

/// The kind of a type that every server has.
pub(super) fn kind(of: &Type) -> Kind {
    match *of {
        Type::BOOL => Kind::Boolean,
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Kind::Integer,
        Type::FLOAT4 | Type::FLOAT8 => Kind::Real,
        Type::NUMERIC => Kind::Decimal,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::CHAR | Type::UNKNOWN => {
            Kind::Text
        }
        Type::BYTEA => Kind::Bytes,
        Type::UUID => Kind::Uuid,
        Type::DATE => Kind::Date,
        Type::TIME => Kind::Time,
        Type::TIMESTAMPTZ => Kind::Timestamp,
        Type::TIMESTAMP => Kind::Datetime,
        Type::JSON | Type::JSONB => Kind::Json,
        Type::VOID => Kind::Void,
        _ => Kind::Other,
    }
}

/// A type that every server has; none where this one made it.
pub(super) fn known(oid: Oid) -> Option<TypeInfo> {
    let found = Type::from_oid(oid)?;
    Some(match found.kind() {
        postgres_types::Kind::Array(element) => TypeInfo {
            name: format!("{}[]", element.name()),
            kind: kind(element),
            array: true,
        },
        _ => TypeInfo {
            name: found.name().to_owned(),
            kind: kind(&found),
            array: false,
        },
    })
}

/// The type that a parameter is declared to have; 0 where the server is to find it.
fn declared(value: &Value) -> Oid {
    match value {
        Value::Boolean(_) => Type::BOOL.oid(),
        Value::Integer(_) => Type::INT8.oid(),
        Value::Real(_) => Type::FLOAT8.oid(),
        Value::Decimal(_) => Type::NUMERIC.oid(),
        Value::Bytes(_) => Type::BYTEA.oid(),
        Value::Uuid(_) => Type::UUID.oid(),
        Value::Date(_) => Type::DATE.oid(),
        Value::Time(_) => Type::TIME.oid(),
        Value::Timestamp(_) => Type::TIMESTAMPTZ.oid(),
        Value::Datetime(_) => Type::TIMESTAMP.oid(),
        Value::Json(_) => Type::JSON.oid(),
        Value::Null | Value::Text(_) | Value::Array(_) | Value::Other(_) => 0,
    }
}

/// The types of parameters that come in several lists: what all of a position agree on.
pub(super) fn declared_types(lists: &[Vec<Value>]) -> Vec<Oid> {
    let count = lists.first().map_or(0, Vec::len);
    (0..count)
        .map(|position| {
            let mut agreed = None;
            for value in lists.iter().filter_map(|list| list.get(position)) {
                let oid = declared(value);
                match agreed {
                    _ if matches!(value, Value::Null) => {}
                    None => agreed = Some(oid),
                    Some(before) if before == oid => {}
                    Some(_) => return 0,
                }
            }
            agreed.unwrap_or(0)
        })
        .collect()
}

/// Binds parameters, whose texts were checked, as those types.
pub(super) fn params(values: Vec<Value>, types: &[Oid]) -> Result<Vec<Param>, SqlError> {
    let typed = values.into_iter().zip(types).enumerate();
    typed
        .map(|(index, (value, oid))| {
            param(value, *oid).ok_or_else(|| {
                let position = index + 1;
                SqlError::new(
                    SqlCode::InvalidParameter,
                    format!("parameter {position} is no array of at most six dimensions"),
                )
                .with_details(serde_json::json!({ "position": position }))
            })
        })
        .collect()
}

fn param(value: Value, oid: Oid) -> Option<Param> {
    let mut binary = false;
    let text = match value {
        Value::Null => {
            return Some(Param {
                oid,
                binary,
                bytes: None,
            });
        }
        Value::Boolean(value) => if value { "true" } else { "false" }.to_owned(),
        Value::Integer(value) => value.to_string(),
        // PostgreSQL reads `inf` as Rust writes it.
        Value::Real(value) => value.to_string(),
        Value::Bytes(bytes) if oid == Type::BYTEA.oid() => {
            binary = true;
            return Some(Param {
                oid,
                binary,
                bytes: Some(bytes.into()),
            });
        }
        Value::Bytes(bytes) => hex(&bytes),
        Value::Timestamp(text) | Value::Datetime(text) => text.to_ascii_uppercase(),
        Value::Array(json) => postgres_array::to_text(&json)?,
        Value::Decimal(text)
        | Value::Text(text)
        | Value::Uuid(text)
        | Value::Date(text)
        | Value::Time(text)
        | Value::Json(text)
        | Value::Other((_, text)) => text,
    };
    Some(Param {
        oid,
        binary,
        bytes: Some(text.into()),
    })
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Reads a value; one that is not written as its type says by itself (a plugin may set
/// how dates are written) is `other`.
pub(super) fn value(bytes: Option<Bytes>, of: &TypeInfo) -> Value {
    let Some(bytes) = bytes else {
        return Value::Null;
    };
    if of.kind == Kind::Bytes
        && !of.array
        && let Some(decoded) = from_hex(&bytes)
    {
        return Value::Bytes(decoded);
    }
    let text = match String::from_utf8(bytes.into()) {
        Ok(text) => text,
        // A plugin may set another encoding; the bytes are all that is true of it.
        Err(error) => return Value::Bytes(error.into_bytes()),
    };
    read(&text, of).unwrap_or_else(|| match of.kind {
        Kind::Text if !of.array => Value::Text(text),
        _ => Value::Other((of.name.clone(), text)),
    })
}

fn read(text: &str, of: &TypeInfo) -> Option<Value> {
    if of.array {
        return postgres_array::to_json(text, of.kind).map(Value::Array);
    }
    let fits = |holds: bool| holds.then(|| text.to_owned());
    Some(match of.kind {
        Kind::Boolean => Value::Boolean(match text {
            "t" => true,
            "f" => false,
            _ => return None,
        }),
        Kind::Integer => Value::Integer(text.parse().ok()?),
        Kind::Real => Value::Real(text.parse().ok()?),
        Kind::Decimal => Value::Decimal(fits(check::is_decimal(text))?),
        Kind::Uuid => Value::Uuid(fits(check::is_uuid(text))?),
        Kind::Date => Value::Date(fits(check::is_date(text))?),
        Kind::Time => Value::Time(fits(check::is_time(text))?),
        Kind::Timestamp => Value::Timestamp(instant(text)?),
        Kind::Datetime => Value::Datetime(local(text)?),
        Kind::Json => Value::Json(text.to_owned()),
        Kind::Void => Value::Null,
        Kind::Text | Kind::Bytes | Kind::Other => return None,
    })
}

/// `2026-11-24 13:37:00.5+00` as RFC 3339 writes it.
pub(super) fn instant(text: &str) -> Option<String> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(' ')?;
    let (time, offset) = rest.split_at(rest.rfind(['+', '-'])?);
    let offset = match offset {
        "+00" => "Z".to_owned(),
        hours if hours.len() == 3 => format!("{hours}:00"),
        other => other.to_owned(),
    };
    let instant = format!("{date}T{time}{offset}");
    check::is_timestamp(&instant).then_some(instant)
}

/// `2026-11-24 13:37:00` as ISO 8601 writes it.
pub(super) fn local(text: &str) -> Option<String> {
    let (date, time) = text.split_once(' ')?;
    let local = format!("{date}T{time}");
    check::is_datetime(&local).then_some(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(oid: &Type, text: &str) -> Value {
        value(
            Some(text.to_owned().into()),
            &known(oid.oid()).expect("known"),
        )
    }

    #[test]
    fn text_forms_are_read() {
        let other = |name: &str, text: &str| Value::Other((name.into(), text.into()));
        for (of, text, read) in [
            (Type::BOOL, "t", Value::Boolean(true)),
            (Type::INT2, "-5", Value::Integer(-5)),
            (Type::FLOAT8, "1.5e+300", Value::Real(1.5e300)),
            (Type::FLOAT8, "-Infinity", Value::Real(f64::NEG_INFINITY)),
            (Type::NUMERIC, "-12.50", Value::Decimal("-12.50".into())),
            (Type::NUMERIC, "NaN", other("numeric", "NaN")),
            (Type::BYTEA, "\\x00ff", Value::Bytes(vec![0, 255])),
            (Type::BYTEA, "\\377", other("bytea", "\\377")),
            (Type::DATE, "2026-11-24", Value::Date("2026-11-24".into())),
            (Type::DATE, "24.11.2026", other("date", "24.11.2026")),
            (Type::DATE, "infinity", other("date", "infinity")),
            (
                Type::TIMESTAMPTZ,
                "2026-11-24 13:37:00.5+00",
                Value::Timestamp("2026-11-24T13:37:00.5Z".into()),
            ),
            (
                Type::TIMESTAMPTZ,
                "2026-11-24 13:37:00-05:30",
                Value::Timestamp("2026-11-24T13:37:00-05:30".into()),
            ),
            (
                Type::TIMESTAMP,
                "2026-11-24 13:37:00",
                Value::Datetime("2026-11-24T13:37:00".into()),
            ),
            (Type::JSONB, "{\"a\": 1}", Value::Json("{\"a\": 1}".into())),
            (Type::INTERVAL, "P1D", other("interval", "P1D")),
            (
                Type::INT4_ARRAY,
                "{1,NULL}",
                Value::Array("[1,null]".into()),
            ),
            (Type::TEXT, "", Value::Text(String::new())),
            (Type::VOID, "", Value::Null),
        ] {
            assert_eq!(read_as(&of, text), read, "{of} {text}");
        }
        let text = known(Type::TEXT.oid()).expect("known");
        assert_eq!(value(None, &text), Value::Null);
        let invalid = value(Some(Bytes::from_static(b"\xff")), &text);
        assert_eq!(invalid, Value::Bytes(vec![255]));
        assert_eq!(known(Type::INT4_ARRAY.oid()).expect("known").name, "int4[]");
        assert_eq!(known(1_000_000), None);
    }

    #[test]
    fn parameters_say_their_types() {
        let lists = vec![
            vec![
                Value::Integer(1),
                Value::Null,
                Value::Integer(1),
                Value::Null,
            ],
            vec![
                Value::Integer(2),
                Value::Bytes(vec![1]),
                Value::Text("x".into()),
                Value::Null,
            ],
        ];
        let types = declared_types(&lists);
        assert_eq!(types, [Type::INT8.oid(), Type::BYTEA.oid(), 0, 0]);
        let bound = params(lists[1].clone(), &types).expect("bound");
        assert!(bound[1].binary && bound[1].bytes.as_deref() == Some(&[1]));
        assert_eq!(bound[3].bytes, None);
        let hex = params(vec![Value::Bytes(vec![0, 255])], &[0]).expect("bound");
        assert_eq!(hex[0].bytes.as_deref(), Some(&b"\\x00ff"[..]));
        let real = params(vec![Value::Real(f64::INFINITY)], &[0]).expect("bound");
        assert_eq!(real[0].bytes.as_deref(), Some(&b"inf"[..]));
        let deep = format!("{}{}", "[".repeat(7), "]".repeat(7));
        params(vec![Value::Array(deep)], &[0]).expect_err("seven dimensions");
    }
}
