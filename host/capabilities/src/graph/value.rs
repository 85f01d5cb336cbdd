//! Values between Bolt and the JSON that guests see; `wit/graph` has the table.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json};

use super::bolt::{DEPTH, Value};
use super::temporal;
use super::{GraphCode, GraphError};

/// Tags of Bolt's structures.
pub(super) mod tag {
    pub(in crate::graph) const NODE: u8 = b'N';
    pub(in crate::graph) const RELATIONSHIP: u8 = b'R';
    pub(in crate::graph) const UNBOUND: u8 = b'r';
    pub(in crate::graph) const PATH: u8 = b'P';
    pub(in crate::graph) const DATE: u8 = b'D';
    pub(in crate::graph) const TIME: u8 = b'T';
    pub(in crate::graph) const LOCAL_TIME: u8 = b't';
    pub(in crate::graph) const DATETIME: u8 = b'I';
    pub(in crate::graph) const DATETIME_ZONE: u8 = b'i';
    pub(in crate::graph) const LOCAL_DATETIME: u8 = b'd';
    pub(in crate::graph) const DURATION: u8 = b'E';
    pub(in crate::graph) const POINT_2D: u8 = b'X';
    pub(in crate::graph) const POINT_3D: u8 = b'Y';
}

/// A value that the encoding has no form for; the words are for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unknown(pub(super) String);

/// The parameters of a statement, from one JSON object.
pub(super) fn params(text: &str) -> Result<Value, GraphError> {
    let invalid = |message: String| GraphError::new(GraphCode::InvalidParameter, message);
    let parsed: Json = serde_json::from_str(text)
        .map_err(|error| invalid(format!("the parameters are no JSON: {error}")))?;
    let Json::Object(members) = parsed else {
        return Err(invalid("the parameters are one JSON object".to_owned()));
    };
    let members = members.into_iter().map(|(name, value)| {
        let value = from_json(value, 0)
            .map_err(|Unknown(what)| invalid(format!("the parameter {name}: {what}")))?;
        Ok((name, value))
    });
    Ok(Value::Map(members.collect::<Result<_, GraphError>>()?))
}

/// How deep a parameter nests: a message has two levels more, and its type another.
const PARAMETER_DEPTH: usize = DEPTH - 4;

fn from_json(json: Json, depth: usize) -> Result<Value, Unknown> {
    if depth > PARAMETER_DEPTH {
        return Err(Unknown(format!("it nests deeper than {PARAMETER_DEPTH}")));
    }
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Boolean(value),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None if number.is_f64() => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            None => return Err(Unknown("an integer has at most 64 bits, signed".to_owned())),
        },
        Json::String(text) => Value::String(text),
        Json::Array(items) => {
            let items = items.into_iter().map(|item| from_json(item, depth + 1));
            Value::List(items.collect::<Result<_, _>>()?)
        }
        Json::Object(members) => {
            let mut named = members.iter();
            match (named.next(), named.next()) {
                (Some((key, _)), None) if key.starts_with('$') => {}
                _ if members.keys().any(|key| key.starts_with('$')) => {
                    return Err(Unknown(
                        "a map with a key that begins with $ is written {\"$map\": {...}}"
                            .to_owned(),
                    ));
                }
                _ => return map(members, depth),
            }
            match members.into_iter().next() {
                Some((key, value)) => tagged(&key, value, depth)?,
                None => Value::Map(Vec::new()),
            }
        }
    })
}

fn map(members: Map<String, Json>, depth: usize) -> Result<Value, Unknown> {
    let members = members
        .into_iter()
        .map(|(key, value)| Ok((key, from_json(value, depth + 1)?)));
    Ok(Value::Map(members.collect::<Result<_, _>>()?))
}

fn tagged(key: &str, value: Json, depth: usize) -> Result<Value, Unknown> {
    match (key, value) {
        ("$map", Json::Object(members)) => map(members, depth),
        ("$point", Json::Object(members)) => point(&members),
        (_, Json::String(text)) => {
            let found = match key {
                "$float" => match text.as_str() {
                    "NaN" => Some(Value::Float(f64::NAN)),
                    "Infinity" => Some(Value::Float(f64::INFINITY)),
                    "-Infinity" => Some(Value::Float(f64::NEG_INFINITY)),
                    _ => None,
                },
                "$bytes" => STANDARD.decode(&text).ok().map(Value::Bytes),
                "$date" => temporal::read_date(&text),
                "$time" => temporal::read_time(&text),
                "$localtime" => temporal::read_local_time(&text),
                "$datetime" => temporal::read_datetime(&text),
                "$localdatetime" => temporal::read_local_datetime(&text),
                "$duration" => temporal::read_duration(&text),
                _ => return Err(Unknown(format!("{key} is no type of a parameter"))),
            };
            found.ok_or_else(|| Unknown(format!("{text:?} is not in the form of {key}")))
        }
        _ => Err(Unknown(format!("{key} is no type of a parameter"))),
    }
}

fn point(members: &Map<String, Json>) -> Result<Value, Unknown> {
    let malformed = || Unknown("a $point has srid, x, y and perhaps z".to_owned());
    let number = |name| members.get(name).and_then(Json::as_f64);
    let srid = members.get("srid").and_then(Json::as_i64);
    let (Some(srid), Some(x), Some(y)) = (srid, number("x"), number("y")) else {
        return Err(malformed());
    };
    let mut fields = vec![Value::Integer(srid), Value::Float(x), Value::Float(y)];
    match (number("z"), members.len()) {
        (None, 3) => Ok(Value::Struct(tag::POINT_2D, fields)),
        (Some(z), 4) => {
            fields.push(Value::Float(z));
            Ok(Value::Struct(tag::POINT_3D, fields))
        }
        _ => Err(malformed()),
    }
}

/// A row as one JSON array.
pub(super) fn row(values: &[Value]) -> Result<String, Unknown> {
    let mut text = String::new();
    list(values, &mut text)?;
    Ok(text)
}

fn string(text: &str, output: &mut String) {
    // A string can always be written.
    output.push_str(&serde_json::to_string(text).unwrap_or_default());
}

fn separated<'a, T: 'a>(
    items: impl IntoIterator<Item = &'a T>,
    output: &mut String,
    mut write: impl FnMut(&T, &mut String) -> Result<(), Unknown>,
) -> Result<(), Unknown> {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            output.push(',');
        }
        write(item, output)?;
    }
    Ok(())
}

fn list(values: &[Value], output: &mut String) -> Result<(), Unknown> {
    output.push('[');
    separated(values, output, to_json)?;
    output.push(']');
    Ok(())
}

fn object(members: &[(String, Value)], output: &mut String) -> Result<(), Unknown> {
    output.push('{');
    separated(members, output, |(key, value), output| {
        string(key, output);
        output.push(':');
        to_json(value, output)
    })?;
    output.push('}');
    Ok(())
}

fn labelled(
    name: &str,
    output: &mut String,
    write: impl FnOnce(&mut String) -> Result<(), Unknown>,
) -> Result<(), Unknown> {
    output.push_str("{\"$");
    output.push_str(name);
    output.push_str("\":");
    write(output)?;
    output.push('}');
    Ok(())
}

fn to_json(value: &Value, output: &mut String) -> Result<(), Unknown> {
    match value {
        Value::Null => output.push_str("null"),
        Value::Boolean(value) => output.push_str(if *value { "true" } else { "false" }),
        Value::Integer(number) => output.push_str(&number.to_string()),
        Value::Float(number) => return float(*number, output),
        Value::String(text) => string(text, output),
        Value::Bytes(bytes) => {
            return labelled("bytes", output, |output| {
                string(&STANDARD.encode(bytes), output);
                Ok(())
            });
        }
        Value::List(items) => return list(items, output),
        Value::Map(members) if members.iter().any(|(key, _)| key.starts_with('$')) => {
            return labelled("map", output, |output| object(members, output));
        }
        Value::Map(members) => return object(members, output),
        Value::Struct(tag, fields) => return structure(*tag, fields, output),
    }
    Ok(())
}

fn float(number: f64, output: &mut String) -> Result<(), Unknown> {
    let name = if number.is_nan() {
        "NaN"
    } else if number == f64::INFINITY {
        "Infinity"
    } else if number == f64::NEG_INFINITY {
        "-Infinity"
    } else {
        // It always has a fraction or an exponent.
        output.push_str(&serde_json::to_string(&number).unwrap_or_default());
        return Ok(());
    };
    labelled("float", output, |output| {
        string(name, output);
        Ok(())
    })
}

fn structure(kind: u8, fields: &[Value], output: &mut String) -> Result<(), Unknown> {
    let text = match (kind, fields) {
        (tag::NODE, _) => return labelled("node", output, |output| node(fields, output)),
        (tag::RELATIONSHIP, _) => {
            let found = Bound::of(fields).ok_or_else(unknown)?;
            return labelled("relationship", output, |output| found.write(output));
        }
        (
            tag::PATH,
            [
                Value::List(nodes),
                Value::List(relationships),
                Value::List(steps),
            ],
        ) => {
            return labelled("path", output, |output| {
                path(nodes, relationships, steps, output)
            });
        }
        (tag::POINT_2D | tag::POINT_3D, [Value::Integer(srid), numbers @ ..]) => {
            return labelled("point", output, |output| {
                output.push_str(&format!("{{\"srid\":{srid}"));
                for (name, number) in ["x", "y", "z"].iter().zip(numbers) {
                    output.push_str(&format!(",\"{name}\":"));
                    to_json(number, output)?;
                }
                output.push('}');
                Ok(())
            });
        }
        _ => temporal::write(kind, fields),
    };
    let (name, text) = text.ok_or_else(unknown)?;
    labelled(name, output, |output| {
        string(&text, output);
        Ok(())
    })
}

fn unknown() -> Unknown {
    Unknown("the result has a value that cannot be told, such as a year over 9999".to_owned())
}

fn node(fields: &[Value], output: &mut String) -> Result<(), Unknown> {
    let [
        _,
        Value::List(labels),
        Value::Map(properties),
        Value::String(id),
        ..,
    ] = fields
    else {
        return Err(unknown());
    };
    output.push_str("{\"id\":");
    string(id, output);
    output.push_str(",\"labels\":");
    list(labels, output)?;
    output.push_str(",\"properties\":");
    object(properties, output)?;
    output.push('}');
    Ok(())
}

/// A relationship with its ends.
struct Bound<'a> {
    id: &'a str,
    kind: &'a str,
    start: &'a str,
    end: &'a str,
    properties: &'a [(String, Value)],
}

impl<'a> Bound<'a> {
    fn of(fields: &'a [Value]) -> Option<Self> {
        let [
            _,
            _,
            _,
            Value::String(kind),
            Value::Map(properties),
            Value::String(id),
            Value::String(start),
            Value::String(end),
        ] = fields
        else {
            return None;
        };
        Some(Self {
            id,
            kind,
            start,
            end,
            properties,
        })
    }

    fn write(&self, output: &mut String) -> Result<(), Unknown> {
        for (name, text) in [
            ("{\"id\":", self.id),
            (",\"type\":", self.kind),
            (",\"start\":", self.start),
            (",\"end\":", self.end),
        ] {
            output.push_str(name);
            string(text, output);
        }
        output.push_str(",\"properties\":");
        object(self.properties, output)?;
        output.push('}');
        Ok(())
    }
}

/// A path names its distinct nodes and relationships, and the steps between them: of each
/// the relationship, counted from 1 and negative against its direction, and the next node.
fn path(
    nodes: &[Value],
    relationships: &[Value],
    steps: &[Value],
    output: &mut String,
) -> Result<(), Unknown> {
    let at = |index: i64| usize::try_from(index).ok().and_then(|it| nodes.get(it));
    let mut walked = vec![at(0).ok_or_else(unknown)?];
    let mut bound = Vec::new();
    for step in steps.chunks(2) {
        let [Value::Integer(number), Value::Integer(next)] = step else {
            return Err(unknown());
        };
        let from = walked.last().copied().ok_or_else(unknown)?;
        let to = at(*next).ok_or_else(unknown)?;
        let index = usize::try_from(number.unsigned_abs())
            .ok()
            .and_then(|it| it.checked_sub(1));
        let relationship = index.and_then(|it| relationships.get(it));
        let Some(Value::Struct(tag::UNBOUND, fields)) = relationship else {
            return Err(unknown());
        };
        let [
            _,
            Value::String(kind),
            Value::Map(properties),
            Value::String(id),
        ] = fields.as_slice()
        else {
            return Err(unknown());
        };
        let (start, end) = if *number > 0 { (from, to) } else { (to, from) };
        bound.push(Bound {
            id,
            kind,
            start: node_id(start)?,
            end: node_id(end)?,
            properties,
        });
        walked.push(to);
    }
    output.push_str("{\"nodes\":[");
    separated(&walked, output, |value, output| match value {
        Value::Struct(tag::NODE, fields) => node(fields, output),
        _ => Err(unknown()),
    })?;
    output.push_str("],\"relationships\":[");
    separated(&bound, output, Bound::write)?;
    output.push_str("]}");
    Ok(())
}

fn node_id(node: &Value) -> Result<&str, Unknown> {
    match node {
        Value::Struct(tag::NODE, fields) => fields.get(3).and_then(Value::as_str),
        _ => None,
    }
    .ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(json: &str) -> String {
        let read = params(&format!("{{\"p\":{json}}}")).expect(json);
        row(&[read.get("p").expect("the parameter").clone()]).expect(json)
    }

    #[test]
    fn parameters_read_back_as_they_were_written() {
        for json in [
            "null",
            "true",
            "-9223372036854775808",
            "9223372036854775807",
            "1.0",
            "1e+300",
            "0.1",
            "-0.0",
            "1.7976931348623157e+308",
            r#""Grüße \u0000\" 日本""#,
            r#"[1,[2,{"a":null}]]"#,
            r#"{"a":1,"b":{"c":[]}}"#,
            r#"{"$map":{"$date":1,"x":2}}"#,
            r#"{"$float":"NaN"}"#,
            r#"{"$float":"-Infinity"}"#,
            r#"{"$bytes":"AAH/"}"#,
            r#"{"$date":"2026-11-24"}"#,
            r#"{"$date":"0001-01-01"}"#,
            r#"{"$localtime":"13:37:00.5"}"#,
            r#"{"$time":"13:37:00.000000001+01:00"}"#,
            r#"{"$time":"00:00:00Z"}"#,
            r#"{"$localdatetime":"1969-12-31T23:59:59.25"}"#,
            r#"{"$datetime":"2026-11-24T13:37:00-05:30"}"#,
            r#"{"$datetime":"1969-12-31T23:59:59.25Z"}"#,
            r#"{"$datetime":"2026-07-01T12:00:00Z[Europe/Oslo]"}"#,
            r#"{"$duration":"P14M-3DT-0.5S"}"#,
            r#"{"$duration":"P0M0DT0S"}"#,
            r#"{"$point":{"srid":4326,"x":10.7,"y":59.9}}"#,
            r#"{"$point":{"srid":9157,"x":1.0,"y":2.0,"z":3.0}}"#,
        ] {
            assert_eq!(there_and_back(json), format!("[{json}]"));
        }
        // Other forms of the same.
        for (json, told) in [
            (
                r#"{"$duration":"P1Y2W1DT1H2M3.25S"}"#,
                r#"{"$duration":"P12M15DT3723.25S"}"#,
            ),
            (
                r#"{"$datetime":"2026-07-01T14:00:00+02:00[Europe/Oslo]"}"#,
                r#"{"$datetime":"2026-07-01T12:00:00Z[Europe/Oslo]"}"#,
            ),
        ] {
            assert_eq!(there_and_back(json), format!("[{told}]"));
        }
    }

    #[test]
    fn what_is_no_parameter_is_named() {
        let deep = format!("{{\"p\":{}{}}}", "[".repeat(70), "]".repeat(70));
        let deeper = format!("{{\"p\":{}{}}}", "[".repeat(9_000), "]".repeat(9_000));
        for text in ["", "[]", "1", "{\"a\":}", &deep, &deeper] {
            let error = params(text).expect_err(text);
            assert_eq!(error.code, GraphCode::InvalidParameter, "{text}");
        }
        for json in [
            "18446744073709551615",
            r#"{"$date":"2026-02-30"}"#,
            r#"{"$date":7}"#,
            r#"{"$datetime":"2026-11-24T13:37:00"}"#,
            r#"{"$datetime":"2026-11-24T13:37:00Z[Europe/../x]"}"#,
            r#"{"$time":"13:37:00"}"#,
            r#"{"$duration":"1 day"}"#,
            r#"{"$duration":"P"}"#,
            r#"{"$duration":"P99999999999999999999M"}"#,
            r#"{"$float":"1"}"#,
            r#"{"$bytes":"*"}"#,
            r#"{"$node":{}}"#,
            r#"{"$point":{"srid":1}}"#,
            r#"{"$date":"2026-11-24","x":1}"#,
        ] {
            let error = params(&format!("{{\"p\":{json}}}")).expect_err(json);
            assert_eq!(error.code, GraphCode::InvalidParameter, "{json}");
            assert!(error.message.contains("parameter p"), "{error}");
        }
    }

    #[test]
    fn a_path_has_its_relationships_between_their_nodes() {
        let text = |text: &str| Value::String(text.to_owned());
        let node = |id: &str| {
            let fields = vec![
                Value::Integer(0),
                Value::List(vec![text("A")]),
                Value::Map(Vec::new()),
                text(id),
            ];
            Value::Struct(tag::NODE, fields)
        };
        let knows = vec![
            Value::Integer(0),
            text("KNOWS"),
            Value::Map(Vec::new()),
            text("r"),
        ];
        let path = |steps: &[i64]| {
            let steps = steps.iter().copied().map(Value::Integer).collect();
            let fields = vec![
                Value::List(vec![node("a"), node("b")]),
                Value::List(vec![Value::Struct(tag::UNBOUND, knows.clone())]),
                Value::List(steps),
            ];
            row(&[Value::Struct(tag::PATH, fields)])
        };
        let told = path(&[-1, 1]).expect("a path");
        let json: Json = serde_json::from_str(&told).expect("JSON");
        let relationship = &json[0]["$path"]["relationships"][0];
        assert_eq!(relationship["start"], "b");
        assert_eq!(relationship["end"], "a");
        assert_eq!(json[0]["$path"]["nodes"][1]["id"], "b");
        for malformed in [&[1][..], &[0, 1], &[2, 1], &[1, 2], &[1, -1]] {
            assert!(path(malformed).is_err(), "{malformed:?}");
        }
    }
}
