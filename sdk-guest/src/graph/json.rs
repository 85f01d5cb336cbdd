//! Values as the host takes and answers them; `wit/graph` has the table.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::{Error, Node, Path, Point, Relationship, Result, Value};

/// Parameters as the host takes them.
pub(crate) fn encode(params: &[(&str, Value)]) -> String {
    let members = params
        .iter()
        .map(|(name, value)| ((*name).to_owned(), to_json(value)));
    Json::Object(members.collect()).to_string()
}

fn object(members: &BTreeMap<String, Value>) -> Json {
    let members = members.iter();
    Json::Object(
        members
            .map(|(key, value)| (key.clone(), to_json(value)))
            .collect(),
    )
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Boolean(value) => (*value).into(),
        Value::Integer(number) => (*number).into(),
        Value::Float(number) if number.is_finite() => (*number).into(),
        Value::Float(number) if number.is_nan() => json!({ "$float": "NaN" }),
        Value::Float(number) if *number > 0.0 => json!({ "$float": "Infinity" }),
        Value::Float(_) => json!({ "$float": "-Infinity" }),
        Value::String(text) => text.clone().into(),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(members) if members.keys().any(|key| key.starts_with('$')) => {
            json!({ "$map": object(members) })
        }
        Value::Map(members) => object(members),
        Value::Bytes(text) => json!({ "$bytes": text }),
        Value::Date(text) => json!({ "$date": text }),
        Value::Time(text) => json!({ "$time": text }),
        Value::LocalTime(text) => json!({ "$localtime": text }),
        Value::DateTime(text) => json!({ "$datetime": text }),
        Value::LocalDateTime(text) => json!({ "$localdatetime": text }),
        Value::Duration(text) => json!({ "$duration": text }),
        Value::Point(Point {
            srid,
            x,
            y,
            z: None,
        }) => {
            json!({ "$point": { "srid": srid, "x": x, "y": y } })
        }
        Value::Point(Point { srid, x, y, z }) => {
            json!({ "$point": { "srid": srid, "x": x, "y": y, "z": z } })
        }
        // The host says that they are no parameters.
        Value::Node(node) => json!({ "$node": node.id }),
        Value::Relationship(relationship) => json!({ "$relationship": relationship.id }),
        Value::Path(_) => json!({ "$path": [] }),
    }
}

/// A row as the host answers it.
pub(crate) fn decode(row: &str) -> Result<Vec<Value>> {
    let malformed = || Error::new("internal", "the host answered a row that cannot be read");
    match serde_json::from_str(row) {
        Ok(Json::Array(values)) => {
            let values = values.into_iter().map(from_json);
            values.collect::<Option<_>>().ok_or_else(malformed)
        }
        _ => Err(malformed()),
    }
}

fn from_json(json: Json) -> Option<Value> {
    Some(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Boolean(value),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Float(number.as_f64()?),
        },
        Json::String(text) => Value::String(text),
        Json::Array(items) => Value::List(items.into_iter().map(from_json).collect::<Option<_>>()?),
        Json::Object(members) => {
            if members.len() == 1 && members.keys().all(|key| key.starts_with('$')) {
                let (key, value) = members.into_iter().next()?;
                return tagged(&key, value);
            }
            Value::Map(map(members)?)
        }
    })
}

fn map(members: Map<String, Json>) -> Option<BTreeMap<String, Value>> {
    let members = members.into_iter();
    members
        .map(|(key, value)| Some((key, from_json(value)?)))
        .collect()
}

fn tagged(key: &str, value: Json) -> Option<Value> {
    Some(match (key, value) {
        ("$map", Json::Object(members)) => Value::Map(map(members)?),
        ("$node", value) => Value::Node(node(value)?),
        ("$relationship", value) => Value::Relationship(relationship(value)?),
        ("$path", mut value) => {
            let (nodes, relationships) = (value["nodes"].take(), value["relationships"].take());
            Value::Path(Path {
                nodes: list(nodes, node)?,
                relationships: list(relationships, relationship)?,
            })
        }
        ("$point", value) => Value::Point(Point {
            srid: value["srid"].as_i64()?,
            x: value["x"].as_f64()?,
            y: value["y"].as_f64()?,
            z: value["z"].as_f64(),
        }),
        (key, Json::String(text)) => match key {
            "$float" => Value::Float(match text.as_str() {
                "NaN" => f64::NAN,
                "Infinity" => f64::INFINITY,
                "-Infinity" => f64::NEG_INFINITY,
                _ => return None,
            }),
            "$bytes" => Value::Bytes(text),
            "$date" => Value::Date(text),
            "$time" => Value::Time(text),
            "$localtime" => Value::LocalTime(text),
            "$datetime" => Value::DateTime(text),
            "$localdatetime" => Value::LocalDateTime(text),
            "$duration" => Value::Duration(text),
            _ => return None,
        },
        _ => return None,
    })
}

fn list<T>(json: Json, each: fn(Json) -> Option<T>) -> Option<Vec<T>> {
    match json {
        Json::Array(items) => items.into_iter().map(each).collect(),
        _ => None,
    }
}

fn text(json: Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text),
        _ => None,
    }
}

fn properties(json: Json) -> Option<BTreeMap<String, Value>> {
    match json {
        Json::Object(members) => map(members),
        _ => None,
    }
}

fn node(mut json: Json) -> Option<Node> {
    let mut member = |name| json.get_mut(name).map(Json::take);
    Some(Node {
        id: text(member("id")?)?,
        labels: list(member("labels")?, text)?,
        properties: properties(member("properties")?)?,
    })
}

fn relationship(mut json: Json) -> Option<Relationship> {
    let mut member = |name| json.get_mut(name).map(Json::take);
    Some(Relationship {
        id: text(member("id")?)?,
        kind: text(member("type")?)?,
        start: text(member("start")?)?,
        end: text(member("end")?)?,
        properties: properties(member("properties")?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_as_the_interface_says_and_read_back() {
        let map = |key: &str| Value::Map([(key.to_owned(), Value::Integer(1))].into());
        let point = |z| Point {
            srid: 4326,
            x: 1.0,
            y: 2.5,
            z,
        };
        for (value, json) in [
            (Value::Null, "null"),
            (Value::Integer(i64::MIN), "-9223372036854775808"),
            (Value::Float(1.0), "1.0"),
            (Value::Float(0.1 + 0.2), "0.30000000000000004"),
            (Value::Float(f64::INFINITY), r#"{"$float":"Infinity"}"#),
            (map("a"), r#"{"a":1}"#),
            (map("$date"), r#"{"$map":{"$date":1}}"#),
            (vec![Value::Null, "x".into()].into(), r#"[null,"x"]"#),
            (
                Value::Date("2026-11-24".into()),
                r#"{"$date":"2026-11-24"}"#,
            ),
            (
                Value::Duration("P0M1DT0S".into()),
                r#"{"$duration":"P0M1DT0S"}"#,
            ),
            (
                point(None).into(),
                r#"{"$point":{"srid":4326,"x":1.0,"y":2.5}}"#,
            ),
            (
                point(Some(3.0)).into(),
                r#"{"$point":{"srid":4326,"x":1.0,"y":2.5,"z":3.0}}"#,
            ),
        ] {
            assert_eq!(encode(&[("p", value.clone())]), format!("{{\"p\":{json}}}"));
            assert_eq!(decode(&format!("[{json}]")).expect(json), [value]);
        }
        let nan = decode(r#"[{"$float":"NaN"}]"#).expect("NaN");
        assert!(matches!(nan[0], Value::Float(number) if number.is_nan()));
    }

    #[test]
    fn graphs_are_read() {
        let row = decode(
            r#"[{"$path":{"nodes":[{"id":"1","labels":["A"],"properties":{"x":{"$date":"2026-11-24"}}},
            {"id":"2","labels":[],"properties":{}}],"relationships":[{"id":"3","type":"R",
            "start":"2","end":"1","properties":{}}]}},{"$node":{"id":"1","labels":["A"],"properties":{"n":1}}}]"#,
        )
        .expect("a row");
        let Value::Path(path) = &row[0] else {
            panic!("{row:?}")
        };
        assert_eq!(path.nodes[0].get::<String>("x").unwrap(), "2026-11-24");
        assert_eq!(
            (path.relationships[0].start.as_str(), path.nodes.len()),
            ("2", 2)
        );
        assert_eq!(row[1].parse::<BTreeMap<String, i64>>().unwrap()["n"], 1);
        for malformed in ["", "{}", r#"[{"$node":1}]"#, r#"[{"$other":"x"}]"#] {
            assert_eq!(
                decode(malformed).unwrap_err().code,
                "internal",
                "{malformed}"
            );
        }
    }
}
