//! Values between Bolt and kglite.

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use kglite::api::{NodeValue, PathValue, PropMap, RelValue, Value as Kg};

use crate::graph::bolt::Value;
use crate::graph::value::tag;

const NANOS: i64 = 1_000_000_000;

/// A parameter; the words say what the graph has no value for.
pub(super) fn from_bolt(value: Value) -> Result<Kg, &'static str> {
    Ok(match value {
        Value::Null => Kg::Null,
        Value::Boolean(value) => Kg::Boolean(value),
        Value::Integer(number) => Kg::Int64(number),
        Value::Float(number) => Kg::Float64(number),
        Value::String(text) => Kg::String(text),
        Value::Bytes(_) => return Err("an embedded graph holds no bytes"),
        Value::List(items) => Kg::List(items.into_iter().map(from_bolt).collect::<Result<_, _>>()?),
        Value::Map(members) => {
            let pairs = members
                .into_iter()
                .map(|(key, value)| Ok((key, from_bolt(value)?)));
            Kg::Map(PropMap::from_pairs(pairs.collect::<Result<_, &str>>()?))
        }
        Value::Struct(kind, fields) => structure(kind, &fields)?,
    })
}

fn structure(kind: u8, fields: &[Value]) -> Result<Kg, &'static str> {
    let beyond = "a time is beyond what an embedded graph holds";
    let numbers: Vec<i64> = fields.iter().filter_map(Value::as_i64).collect();
    let found = match (kind, numbers.as_slice()) {
        (tag::DATE, [days]) => i32::try_from(*days)
            .ok()
            .and_then(NaiveDate::from_epoch_days)
            .map(Kg::DateTime),
        (tag::LOCAL_TIME, [nanos]) => u64::try_from(*nanos).ok().map(Kg::LocalTime),
        (tag::TIME, [nanos, offset]) => {
            let (nanos, offset) = (u64::try_from(*nanos), i32::try_from(*offset));
            match (nanos, offset) {
                (Ok(nanos), Ok(offset_secs)) => Some(Kg::Time { nanos, offset_secs }),
                _ => None,
            }
        }
        (tag::LOCAL_DATETIME, [seconds, nanos]) => datetime(*seconds, *nanos).map(Kg::Timestamp),
        (tag::DATETIME, [seconds, nanos, offset]) => {
            let offset_secs = i32::try_from(*offset).map_err(|_| beyond)?;
            datetime(*seconds, *nanos).map(|utc| Kg::ZonedDateTime {
                utc,
                offset_secs,
                zone: None,
            })
        }
        (tag::DURATION, [months, days, seconds, nanos]) => {
            let narrow = |number: i64| i32::try_from(number).map_err(|_| beyond);
            Some(Kg::Duration {
                months: narrow(*months)?,
                days: narrow(*days)?,
                seconds: *seconds,
                nanos: narrow(*nanos)?,
            })
        }
        (tag::DATETIME_ZONE, _) => {
            return Err("an embedded graph knows no named zones: say the offset");
        }
        (tag::POINT_2D, [4326]) => match fields {
            [_, Value::Float(lon), Value::Float(lat)] => Some(Kg::Point {
                lat: *lat,
                lon: *lon,
            }),
            _ => None,
        },
        (tag::POINT_2D | tag::POINT_3D, _) => {
            return Err("an embedded graph holds points of longitude and latitude (4326) only");
        }
        _ => return Err("an embedded graph has no value for it"),
    };
    found.ok_or(beyond)
}

fn datetime(seconds: i64, nanos: i64) -> Option<NaiveDateTime> {
    let instant = DateTime::from_timestamp(seconds, u32::try_from(nanos).ok()?)?;
    Some(instant.naive_utc())
}

fn parts(time: NaiveDateTime) -> (i64, i64) {
    let utc = time.and_utc();
    (utc.timestamp(), utc.timestamp_subsec_nanos().into())
}

fn numbers<const N: usize>(tag: u8, numbers: [i64; N]) -> Value {
    Value::Struct(tag, numbers.into_iter().map(Value::Integer).collect())
}

/// A value of a result.
pub(super) fn to_bolt(value: &Kg) -> Value {
    match value {
        Kg::Null => Value::Null,
        Kg::Boolean(value) => Value::Boolean(*value),
        Kg::Int64(number) => Value::Integer(*number),
        Kg::UniqueId(number) | Kg::NodeRef(number) => Value::Integer((*number).into()),
        Kg::Float64(number) => Value::Float(*number),
        Kg::String(text) => Value::String(text.clone()),
        Kg::List(items) => Value::List(items.iter().map(to_bolt).collect()),
        Kg::Map(members) => map(members.iter()),
        Kg::DateTime(date) => numbers(tag::DATE, [date.to_epoch_days().into()]),
        Kg::Timestamp(time) => {
            let (seconds, nanos) = parts(*time);
            numbers(tag::LOCAL_DATETIME, [seconds, nanos])
        }
        Kg::LocalTime(nanos) => {
            numbers(tag::LOCAL_TIME, [i64::try_from(*nanos).unwrap_or(i64::MAX)])
        }
        Kg::Time { nanos, offset_secs } => {
            let nanos = i64::try_from(*nanos).unwrap_or(i64::MAX);
            numbers(tag::TIME, [nanos, (*offset_secs).into()])
        }
        Kg::ZonedDateTime {
            utc, offset_secs, ..
        } => {
            let (seconds, nanos) = parts(*utc);
            numbers(tag::DATETIME, [seconds, nanos, (*offset_secs).into()])
        }
        Kg::Duration {
            months,
            days,
            seconds,
            nanos,
        } => {
            debug_assert!(i64::from(*nanos) < NANOS);
            let fields = [(*months).into(), (*days).into(), *seconds, (*nanos).into()];
            numbers(tag::DURATION, fields)
        }
        Kg::Point { lat, lon } => Value::Struct(
            tag::POINT_2D,
            vec![Value::Integer(4326), Value::Float(*lon), Value::Float(*lat)],
        ),
        Kg::Node(found) => node(found),
        Kg::Relationship(found) => relationship(found),
        Kg::Path(found) => path(found),
    }
}

fn map<'a>(members: impl Iterator<Item = (&'a str, &'a Kg)>) -> Value {
    let members = members.map(|(key, value)| (key.to_owned(), to_bolt(value)));
    Value::Map(members.collect())
}

fn id(number: u32) -> (Value, Value) {
    (
        Value::Integer(number.into()),
        Value::String(number.to_string()),
    )
}

/// What a node has of its own: kglite gives each an id, a title and a type, told with its
/// properties, and a name and a label where others have one. What equals that is not told.
fn own(node: &NodeValue) -> impl Iterator<Item = (&str, &Kg)> {
    let label = node.labels.first().map_or("", String::as_str);
    let id = node.properties.get("id").map(plain).unwrap_or_default();
    let minted = matches!(node.properties.get("id"), Some(Kg::UniqueId(_)));
    let made = format!("{label}_{id}");
    let name = node.properties.get("name").map(plain);
    node.properties
        .iter()
        .filter(move |(key, value)| match *key {
            "id" => !minted,
            "type" => !matches!(value, Kg::String(text) if text == label),
            "name" | "label" => plain(value) != made,
            "title" => {
                let title = plain(value);
                !matches!(value, Kg::Null) && title != made && title != id && Some(title) != name
            }
            _ => true,
        })
}

/// A number or a text as kglite writes it into a title.
fn plain(value: &Kg) -> String {
    match value {
        Kg::UniqueId(number) => number.to_string(),
        Kg::Int64(number) => number.to_string(),
        Kg::String(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

fn node(node: &NodeValue) -> Value {
    let labels = node.labels.iter().cloned().map(Value::String).collect();
    let (number, text) = id(node.id);
    Value::Struct(
        tag::NODE,
        vec![number, Value::List(labels), map(own(node)), text],
    )
}

/// What a relationship has of its own.
fn own_of_relationship(relationship: &RelValue) -> Value {
    let kind = relationship.rel_type.as_str();
    map(relationship.properties.iter().filter(|(key, value)| {
        *key != "type" || !matches!(value, Kg::String(text) if text == kind)
    }))
}

fn relationship(relationship: &RelValue) -> Value {
    let (number, text) = id(relationship.id);
    let (start, start_text) = id(relationship.start_id);
    let (end, end_text) = id(relationship.end_id);
    Value::Struct(
        tag::RELATIONSHIP,
        vec![
            number,
            start,
            end,
            Value::String(relationship.rel_type.clone()),
            own_of_relationship(relationship),
            text,
            start_text,
            end_text,
        ],
    )
}

fn path(path: &PathValue) -> Value {
    let nodes = path.nodes.iter().map(node).collect();
    let relationships = path.rels.iter().map(|relationship| {
        let (number, text) = id(relationship.id);
        let kind = Value::String(relationship.rel_type.clone());
        let fields = vec![number, kind, own_of_relationship(relationship), text];
        Value::Struct(tag::UNBOUND, fields)
    });
    let relationships = relationships.collect();
    let steps = path.rels.iter().zip(&path.nodes).zip(1_i64..);
    let steps = steps.flat_map(|((relationship, from), number)| {
        let along = relationship.start_id == from.id;
        let signed = if along { number } else { -number };
        [Value::Integer(signed), Value::Integer(number)]
    });
    let steps = Value::List(steps.collect());
    Value::Struct(
        tag::PATH,
        vec![Value::List(nodes), Value::List(relationships), steps],
    )
}
