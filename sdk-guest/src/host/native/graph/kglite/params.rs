//! Parameters, from the JSON that the host would take.

use std::collections::HashMap;

use ::kglite::api::{PropMap, Value as Kg};
use serde_json::{Map, Value as Json};

use super::value::DEPTH;
use super::{Result, error, times};

/// How deep a parameter nests: the host's messages have two levels more, and its type another.
const PARAMETER_DEPTH: usize = DEPTH - 4;

const BEYOND: &str = "a time is beyond what an embedded graph holds";

/// What is wrong with a parameter.
type Read<T> = std::result::Result<T, String>;

/// The parameters of a statement, from one JSON object.
pub(super) fn read(text: &str) -> Result<HashMap<String, Kg>> {
    let invalid = |message: String| error::new("invalid-parameter", message);
    let members: Map<String, Json> = serde_json::from_str(text)
        .map_err(|error| invalid(format!("the parameters are no JSON: {error}")))?;
    let members = members.into_iter().map(|(name, value)| {
        let value =
            from_json(value, 0).map_err(|what| invalid(format!("the parameter {name}: {what}")))?;
        Ok((name, value))
    });
    members.collect()
}

fn from_json(json: Json, depth: usize) -> Read<Kg> {
    if depth > PARAMETER_DEPTH {
        return Err(format!("it nests deeper than {PARAMETER_DEPTH}"));
    }
    Ok(match json {
        Json::Null => Kg::Null,
        Json::Bool(value) => Kg::Boolean(value),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Kg::Int64(integer),
            None if number.is_f64() => Kg::Float64(number.as_f64().unwrap_or(f64::NAN)),
            None => return Err("an integer has at most 64 bits, signed".to_owned()),
        },
        Json::String(text) => Kg::String(text),
        Json::Array(items) => {
            let items = items.into_iter().map(|item| from_json(item, depth + 1));
            Kg::List(items.collect::<Read<_>>()?)
        }
        // The SDK writes a map with such a key as a `$map`.
        Json::Object(members) if members.keys().any(|key| key.starts_with('$')) => {
            let mut members = members.into_iter();
            match members.next() {
                Some((key, value)) => tagged(&key, value, depth)?,
                None => Kg::Null,
            }
        }
        Json::Object(members) => map(members, depth)?,
    })
}

fn map(members: Map<String, Json>, depth: usize) -> Read<Kg> {
    let members = members
        .into_iter()
        .map(|(key, value)| Ok((key, from_json(value, depth + 1)?)));
    Ok(Kg::Map(PropMap::from_pairs(members.collect::<Read<_>>()?)))
}

fn tagged(key: &str, value: Json, depth: usize) -> Read<Kg> {
    let text = match (key, value) {
        ("$map", Json::Object(members)) => return map(members, depth),
        ("$point", Json::Object(members)) => return point(&members),
        (_, Json::String(text)) => text,
        _ => return Err(format!("{key} is no type of a parameter")),
    };
    let found = match key {
        "$float" => match text.as_str() {
            "NaN" => Some(Kg::Float64(f64::NAN)),
            "Infinity" => Some(Kg::Float64(f64::INFINITY)),
            "-Infinity" => Some(Kg::Float64(f64::NEG_INFINITY)),
            _ => None,
        },
        "$bytes" if is_base64(&text) => {
            return Err("an embedded graph holds no bytes".to_owned());
        }
        "$bytes" => None,
        "$date" => times::read_date(&text).map(Kg::DateTime),
        "$time" => times::read_time(&text),
        "$localtime" => times::read_local_time(&text).map(Kg::LocalTime),
        "$datetime" if times::is_zoned(&text) => {
            return Err("an embedded graph knows no named zones: say the offset".to_owned());
        }
        "$datetime" => times::read_datetime(&text),
        "$localdatetime" => times::read_local_datetime(&text).map(Kg::Timestamp),
        "$duration" => times::read_duration(&text)
            .map(|parts| times::duration(parts).ok_or(BEYOND))
            .transpose()?,
        _ => return Err(format!("{key} is no type of a parameter")),
    };
    found.ok_or_else(|| format!("{text:?} is not in the form of {key}"))
}

fn point(members: &Map<String, Json>) -> Read<Kg> {
    let number = |name| members.get(name).and_then(Json::as_f64);
    match (members.get("srid").and_then(Json::as_i64), number("z")) {
        (Some(4326), None) => match (number("x"), number("y")) {
            (Some(lon), Some(lat)) => Ok(Kg::Point { lat, lon }),
            _ => Err("a $point has srid, x, y and perhaps z".to_owned()),
        },
        _ => Err("an embedded graph holds points of longitude and latitude (4326) only".to_owned()),
    }
}

/// Whether a text is what encodes bytes, with its padding and nothing over.
fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    // Of the last digit the bits that belong to no byte are zero.
    let last = digits.bytes().last();
    let ends = match text.len() - digits.len() {
        0 => true,
        1 => last.is_some_and(|last| b"AEIMQUYcgkosw048".contains(&last)),
        2 => last.is_some_and(|last| b"AQgw".contains(&last)),
        _ => false,
    };
    text.len().is_multiple_of(4) && ends && digits.bytes().all(digit)
}
