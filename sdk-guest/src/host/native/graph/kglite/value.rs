//! Values of results, as the JSON that the host would answer.

use ::kglite::api::{NodeValue, PathValue, RelValue, Value as Kg};
use serde_json::{Map, Value as Json, json};

use super::{Result, error, times};

/// How deep the values of a message nest on the host.
pub(super) const DEPTH: usize = 64;
/// Where in its message a row's value is.
const ROW_DEPTH: usize = 2;

/// A row as one JSON array.
pub(super) fn row(values: &[Kg]) -> Result<String> {
    let values = values.iter().map(|value| to_json(value, ROW_DEPTH));
    Ok(values.collect::<Result<Json>>()?.to_string())
}

fn to_json(value: &Kg, depth: usize) -> Result<Json> {
    if depth > DEPTH {
        return Err(error::too_large());
    }
    let (name, text) = match value {
        Kg::Null => return Ok(Json::Null),
        Kg::Boolean(value) => return Ok((*value).into()),
        Kg::Int64(number) => return Ok((*number).into()),
        Kg::UniqueId(number) | Kg::NodeRef(number) => return Ok((*number).into()),
        Kg::Float64(number) if number.is_finite() => return Ok((*number).into()),
        Kg::Float64(number) if number.is_nan() => ("float", "NaN".to_owned()),
        Kg::Float64(number) if *number > 0.0 => ("float", "Infinity".to_owned()),
        Kg::Float64(_) => ("float", "-Infinity".to_owned()),
        Kg::String(text) => return Ok(text.as_str().into()),
        Kg::List(items) => return items.iter().map(|item| to_json(item, depth + 1)).collect(),
        Kg::Map(members) => {
            let object = object(members.iter(), depth)?;
            return Ok(if members.keys().any(|key| key.starts_with('$')) {
                json!({ "$map": object })
            } else {
                object
            });
        }
        Kg::Point { lat, lon } => {
            return Ok(json!({ "$point": { "srid": 4326, "x": lon, "y": lat } }));
        }
        Kg::Node(found) => return Ok(json!({ "$node": node(found, depth + 1)? })),
        Kg::Relationship(found) => {
            return Ok(json!({ "$relationship": relationship(found, depth + 1)? }));
        }
        Kg::Path(found) => return Ok(json!({ "$path": path(found, depth + 2)? })),
        time => times::write(time).ok_or_else(|| {
            error::new(
                "invalid-statement",
                "the result has a value that cannot be told, such as a year over 9999",
            )
        })?,
    };
    let mut tagged = Map::new();
    tagged.insert(format!("${name}"), text.into());
    Ok(tagged.into())
}

fn object<'a>(members: impl Iterator<Item = (&'a str, &'a Kg)>, depth: usize) -> Result<Json> {
    members
        .map(|(key, value)| Ok((key.to_owned(), to_json(value, depth + 1)?)))
        .collect()
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

fn node(node: &NodeValue, depth: usize) -> Result<Json> {
    Ok(json!({
        "id": node.id.to_string(),
        "labels": node.labels,
        "properties": object(own(node), depth)?,
    }))
}

fn relationship(relationship: &RelValue, depth: usize) -> Result<Json> {
    let kind = relationship.rel_type.as_str();
    let own = relationship.properties.iter().filter(|(key, value)| {
        *key != "type" || !matches!(value, Kg::String(text) if text == kind)
    });
    Ok(json!({
        "id": relationship.id.to_string(),
        "type": kind,
        "start": relationship.start_id.to_string(),
        "end": relationship.end_id.to_string(),
        "properties": object(own, depth)?,
    }))
}

fn path(path: &PathValue, depth: usize) -> Result<Json> {
    let nodes = path.nodes.iter().map(|it| node(it, depth + 1));
    let relationships = path.rels.iter().map(|it| relationship(it, depth + 1));
    Ok(json!({
        "nodes": nodes.collect::<Result<Json>>()?,
        "relationships": relationships.collect::<Result<Json>>()?,
    }))
}
