//! Collections as Weaviate's classes, and items as its objects.
//!
//! A class is named after the binding's prefix and the collection: none of them has the
//! separator in it, so that no two of a server are the same. Its description holds what a
//! guest said of the collection. Its properties are of our own naming: what filters ask for
//! (`p` and the property's number), what is searched for words (`w` and the number), the
//! item's id (`key`) and its values as they were written (`item`), from which they are
//! answered: as Weaviate keeps them itself, numbers lose digits and texts their ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

use super::super::{
    BM25_B, BM25_K1, Distance, Entry, PropertyType, Specification, Value, VectorError,
};
use super::filter::{EVERY, MARKS, property, quoted};
use super::proto::{BatchObject, ObjectProperties, TextArrayProperties};

/// The property with an item's id.
pub(super) const KEY: &str = "key";
/// The property with an item's values.
pub(super) const ITEM: &str = "item";

/// The settings of the index of neighbours.
const BUILD_CANDIDATES: u32 = 256;
const LINKS: u32 = 32;
const LEAST_CANDIDATES: u32 = 200;
const MOST_CANDIDATES: u32 = 1_000;
const CANDIDATES_PER_ITEM: u32 = 8;

/// What a class's description holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Description {
    /// The collection's name.
    pub(super) name: String,
    /// Of all collections of this name, which one it is.
    pub(super) made: String,
    pub(super) specification: Specification,
}

/// The class of a collection.
pub(super) fn class_name(prefix: &str, name: &str) -> String {
    format!("H{prefix}_{}", name.replace('-', "_"))
}

/// What the names of all classes of a prefix begin with.
pub(super) fn class_prefix(prefix: &str) -> String {
    format!("H{prefix}_")
}

/// The property whose words are searched.
pub(super) fn searched(number: usize) -> String {
    format!("w{number}")
}

/// What makes the class.
pub(super) fn class(class: &str, description: &Description) -> Result<Json, VectorError> {
    let specification = &description.specification;
    let kept = |name: &str| {
        json!({
            "name": name, "dataType": ["text"], "tokenization": "field",
            "indexFilterable": false, "indexSearchable": false,
        })
    };
    let mut properties = vec![kept(KEY), kept(ITEM)];
    properties.push(json!({
        "name": MARKS, "dataType": ["text[]"], "tokenization": "field",
        "indexFilterable": true, "indexSearchable": false,
    }));
    for (number, found) in specification.properties.iter().enumerate() {
        if found.filterable {
            let mut filterable = json!({
                "name": property(number), "indexFilterable": true, "indexSearchable": false,
            });
            let (kind, further) = match found.kind {
                PropertyType::Text => ("text", Some(("tokenization", json!("field")))),
                PropertyType::TextList => ("text[]", Some(("tokenization", json!("field")))),
                PropertyType::Integer | PropertyType::Timestamp => {
                    ("int", Some(("indexRangeFilters", json!(true))))
                }
                PropertyType::Real => ("number", Some(("indexRangeFilters", json!(true)))),
                PropertyType::Boolean => ("boolean", None),
            };
            filterable["dataType"] = json!([kind]);
            if let Some((name, value)) = further {
                filterable[name] = value;
            }
            properties.push(filterable);
        }
        if found.searchable {
            properties.push(json!({
                "name": searched(number), "dataType": ["text"], "tokenization": "word",
                "indexFilterable": false, "indexSearchable": true,
            }));
        }
    }
    let distance = match specification.distance {
        Distance::Cosine => "cosine",
        Distance::Dot => "dot",
        Distance::Euclidean => "l2-squared",
    };
    Ok(json!({
        "class": class,
        "description": serde_json::to_string(description).map_err(VectorError::internal)?,
        "vectorizer": "none",
        "vectorIndexType": "hnsw",
        "vectorIndexConfig": {
            "distance": distance,
            "efConstruction": BUILD_CANDIDATES,
            "maxConnections": LINKS,
            "ef": -1,
            "dynamicEfMin": LEAST_CANDIDATES,
            "dynamicEfMax": MOST_CANDIDATES,
            "dynamicEfFactor": CANDIDATES_PER_ITEM,
        },
        "invertedIndexConfig": {
            "bm25": { "b": BM25_B, "k1": BM25_K1 },
            "stopwords": { "preset": "none" },
        },
        "multiTenancyConfig": {
            "enabled": specification.tenants,
            "autoTenantCreation": specification.tenants,
            "autoTenantActivation": specification.tenants,
        },
        "properties": properties,
    }))
}

/// The number of the item with an id: made of it, so that the same id is the same object.
pub(super) fn uuid(id: &str) -> Uuid {
    let digest: [u8; 32] = Sha256::digest(id.as_bytes()).into();
    let (halves, _) = digest.as_chunks::<16>();
    Builder::from_custom_bytes(halves[0]).into_uuid()
}

fn text(value: impl Into<String>) -> prost_types::Value {
    prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(value.into())),
    }
}

/// The object of an item.
pub(super) fn object(
    class: &str,
    tenant: &str,
    specification: &Specification,
    entry: Entry,
) -> BatchObject {
    use prost_types::value::Kind;
    let mut fields = BTreeMap::from([
        (KEY.to_owned(), text(entry.id.as_str())),
        (ITEM.to_owned(), text(values_to_text(&entry.values))),
    ]);
    let mut marks = vec![EVERY.to_owned()];
    let mut lists = Vec::new();
    let uuid = uuid(&entry.id).to_string();
    for (number, value) in entry.values.into_iter().enumerate() {
        let (Some(value), of) = (value, &specification.properties[number]) else {
            continue;
        };
        if of.searchable
            && let Value::Text(words) = &value
        {
            fields.insert(searched(number), text(words.as_str()));
        }
        if !of.filterable {
            continue;
        }
        marks.push(property(number));
        let kind = match value {
            Value::Text(text) => Kind::StringValue(quoted(&text)),
            // Not over 2^53, as was checked.
            Value::Integer(number) | Value::Timestamp(number) => Kind::NumberValue(number as f64),
            Value::Real(number) => Kind::NumberValue(number),
            Value::Boolean(value) => Kind::BoolValue(value),
            Value::TextList(texts) if texts.is_empty() => continue,
            Value::TextList(texts) => {
                lists.push(TextArrayProperties {
                    values: texts.iter().map(|text| quoted(text)).collect(),
                    prop_name: property(number),
                });
                continue;
            }
        };
        fields.insert(property(number), prost_types::Value { kind: Some(kind) });
    }
    lists.push(TextArrayProperties {
        values: marks,
        prop_name: MARKS.to_owned(),
    });
    let vector = entry.vector.unwrap_or_default();
    BatchObject {
        uuid,
        properties: Some(ObjectProperties {
            non_ref_properties: Some(prost_types::Struct { fields }),
            text_array_properties: lists,
        }),
        collection: class.to_owned(),
        tenant: tenant.to_owned(),
        vector_bytes: bytes(&vector),
    }
}

/// The numbers of a vector, the lowest byte of each first.
pub(super) fn bytes(vector: &[f32]) -> Vec<u8> {
    vector
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

/// The vector of these bytes; none of no bytes.
pub(super) fn vector(bytes: &[u8]) -> Option<Vec<f32>> {
    let (numbers, _) = bytes.as_chunks::<4>();
    let numbers = numbers.iter().map(|number| f32::from_le_bytes(*number));
    (!bytes.is_empty()).then(|| numbers.collect())
}

/// Values as one text: a JSON array with a place for each property. A real is a text, for
/// not every reader of JSON keeps all of its digits.
fn values_to_text(values: &[Option<Value>]) -> String {
    let values = values.iter().map(|value| match value {
        None => Json::Null,
        Some(Value::Text(text)) => json!(text),
        Some(Value::Integer(number) | Value::Timestamp(number)) => json!(number),
        Some(Value::Real(number)) => json!(number.to_string()),
        Some(Value::Boolean(value)) => json!(value),
        Some(Value::TextList(texts)) => json!(texts),
    });
    Json::Array(values.collect()).to_string()
}

/// The values of that text.
pub(super) fn values_from_text(
    specification: &Specification,
    text: &str,
) -> Result<Vec<Option<Value>>, VectorError> {
    let wrong = || VectorError::internal("an object of Weaviate is not as it was written");
    let kept: Vec<Json> = serde_json::from_str(text).map_err(VectorError::internal)?;
    if kept.len() != specification.properties.len() {
        return Err(wrong());
    }
    let values = kept.into_iter().zip(&specification.properties);
    let values = values.map(|(kept, property)| {
        let value = match (property.kind, kept) {
            (_, Json::Null) => return Ok(None),
            (PropertyType::Text, Json::String(text)) => Value::Text(text),
            (PropertyType::Integer, Json::Number(number)) => {
                Value::Integer(number.as_i64().ok_or_else(wrong)?)
            }
            (PropertyType::Timestamp, Json::Number(number)) => {
                Value::Timestamp(number.as_i64().ok_or_else(wrong)?)
            }
            (PropertyType::Real, Json::String(text)) => {
                Value::Real(text.parse().map_err(VectorError::internal)?)
            }
            (PropertyType::Boolean, Json::Bool(value)) => Value::Boolean(value),
            (PropertyType::TextList, list @ Json::Array(_)) => {
                Value::TextList(serde_json::from_value(list).map_err(VectorError::internal)?)
            }
            _ => return Err(wrong()),
        };
        Ok(Some(value))
    });
    values.collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::Property;
    use super::*;

    #[test]
    fn no_two_collections_have_one_class() {
        let names = [
            ("a", "b"),
            ("a", "b-c"),
            ("ab", "c"),
            ("a", "bc"),
            ("b", "a"),
        ];
        let mut classes: Vec<_> = names
            .iter()
            .map(|(of, name)| class_name(of, name))
            .collect();
        assert!(classes.iter().all(|class| !class.contains('-')));
        assert!(class_name("ab", "c").starts_with(&class_prefix("ab")));
        assert!(!class_name("ab", "c").starts_with(&class_prefix("a")));
        classes.sort();
        classes.dedup();
        assert_eq!(classes.len(), names.len());
    }

    #[test]
    fn values_come_back_as_they_were() {
        let property = |kind| Property {
            name: "x".to_owned(),
            kind,
            filterable: true,
            searchable: false,
        };
        let specification = Specification {
            dimensions: 1,
            distance: Distance::Dot,
            properties: [
                PropertyType::Text,
                PropertyType::Integer,
                PropertyType::Real,
                PropertyType::Real,
                PropertyType::Boolean,
                PropertyType::Timestamp,
                PropertyType::TextList,
                PropertyType::Text,
            ]
            .map(property)
            .to_vec(),
            tenants: false,
        };
        let values = vec![
            Some(Value::Text(" \" \u{0} é ".to_owned())),
            Some(Value::Integer((1 << 53) - 1)),
            Some(Value::Real(0.1 + 0.2)),
            Some(Value::Real(5e-324)),
            Some(Value::Boolean(false)),
            Some(Value::Timestamp(-1)),
            Some(Value::TextList(vec![String::new()])),
            None,
        ];
        let text = values_to_text(&values);
        assert_eq!(values_from_text(&specification, &text), Ok(values));
        assert!(values_from_text(&specification, "[]").is_err());
        assert!(values_from_text(&specification, "[1,1,1,1,1,1,1,1]").is_err());
    }

    #[test]
    fn an_id_is_always_the_same_object() {
        assert_eq!(uuid("a"), uuid("a"));
        assert_ne!(uuid("a"), uuid("b"));
        assert_eq!(
            uuid("a").to_string(),
            "ca978112-ca1b-8dca-bac2-31b39a23dc4d",
            "what was written is found by it"
        );
    }
}
