//! What is refused, as the host refuses it.

use std::collections::BTreeSet;

use super::{Result, refused};
use crate::vector::{
    Comparison, Distance, Filter, Item, Node, PropertyType, Search, Specification, Value,
};

const PROPERTIES: usize = 64;
const DIMENSIONS: u32 = 4_096;
const BATCH: usize = 1_000;
const FOUND: u32 = 1_000;
const FILTERABLE_BYTES: usize = 1_024;
const LIST: usize = 1_000;
const NODES: usize = 256;
const LEVELS: usize = 16;
const ITEM_BYTES: usize = 1 << 20;
const LARGEST_INTEGER: i64 = (1 << 53) - 1;
/// The years 0001 to 9999.
const TIMES: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

pub(super) fn check_name(name: &str, further: &str) -> Result<()> {
    let valid = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || further.contains(c));
    if valid {
        return Ok(());
    }
    refused("invalid-name", format!("{name:?} is no name"))
}

pub(super) fn check_tenant(tenant: &str) -> Result<()> {
    let valid = (1..=64).contains(&tenant.len())
        && tenant
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if valid {
        return Ok(());
    }
    refused("invalid-name", format!("{tenant:?} is no tenant"))
}

pub(super) fn check_specification(specification: &Specification) -> Result<()> {
    let invalid = |message: &str| refused("invalid-specification", message);
    if specification.dimensions == 0 {
        return invalid("a vector has numbers");
    }
    if specification.dimensions > DIMENSIONS {
        return refused("limit-exceeded", "a vector has at most 4,096 numbers here");
    }
    if specification.properties.len() > PROPERTIES {
        return invalid("a collection has at most 64 properties");
    }
    let mut names = BTreeSet::new();
    for property in &specification.properties {
        check_name(&property.name, "_-")?;
        if !names.insert(&property.name) {
            return invalid("a property stands twice");
        }
        if property.searchable && property.kind != PropertyType::Text {
            return invalid("only texts are searchable");
        }
    }
    Ok(())
}

pub(super) fn check_ids<'a>(ids: impl ExactSizeIterator<Item = &'a str>) -> Result<()> {
    if ids.len() > BATCH {
        return refused("limit-exceeded", "at most 1,000 items at once");
    }
    let mut seen = BTreeSet::new();
    for id in ids {
        if id.is_empty() || id.len() > 512 || id.chars().any(char::is_control) {
            return refused("invalid-id", format!("{id:?} is no id"));
        }
        if !seen.insert(id) {
            return refused("invalid-id", format!("the id {id:?} stands twice"));
        }
    }
    Ok(())
}

impl Specification {
    pub(super) fn check_vector(&self, vector: &[f32]) -> Result<()> {
        let invalid = if vector.len() != self.dimensions as usize {
            "the vector has another number of dimensions than the collection"
        } else if !vector.iter().all(|number| number.abs() <= 1e15) {
            "the numbers of a vector are between -1e15 and 1e15"
        } else if self.distance == Distance::Cosine
            && vector.iter().map(|it| it * it).sum::<f32>() < 1e-30
        {
            "so short a vector has no direction"
        } else {
            return Ok(());
        };
        refused("invalid-vector", invalid)
    }

    pub(super) fn property_index(&self, name: &str) -> Option<usize> {
        self.properties
            .iter()
            .position(|property| property.name == name)
    }

    /// Checks the value of a property.
    pub(super) fn check_value(&self, index: usize, value: &Value) -> Result<()> {
        let property = &self.properties[index];
        let long = |text: &String| property.filterable && text.len() > FILTERABLE_BYTES;
        let invalid = match (property.kind, value) {
            (PropertyType::Text, Value::Text(text)) if long(text) => "a filterable text too long",
            (PropertyType::TextList, Value::TextList(texts)) if texts.iter().any(long) => {
                "a filterable text too long"
            }
            (PropertyType::TextList, Value::TextList(texts)) if texts.len() > LIST => {
                "more than 1,000 texts"
            }
            (PropertyType::Integer, Value::Integer(number))
                if number.unsigned_abs() > LARGEST_INTEGER.unsigned_abs() =>
            {
                "an integer out of range"
            }
            (PropertyType::Real, Value::Real(number)) if !number.is_finite() => "no finite number",
            (PropertyType::Timestamp, Value::Timestamp(time)) if !TIMES.contains(time) => {
                "a time out of range"
            }
            (PropertyType::Text, Value::Text(_))
            | (PropertyType::Integer, Value::Integer(_))
            | (PropertyType::Real, Value::Real(_))
            | (PropertyType::Boolean, Value::Boolean(_))
            | (PropertyType::Timestamp, Value::Timestamp(_))
            | (PropertyType::TextList, Value::TextList(_)) => return Ok(()),
            _ => "a value of another type",
        };
        refused("invalid-property", format!("{}: {invalid}", property.name))
    }

    /// The item with its properties in order, if it can be one.
    pub(super) fn item(&self, mut item: Item) -> Result<Item> {
        if let Some(vector) = &item.vector {
            self.check_vector(vector)?;
        }
        let mut values: Vec<Option<Value>> = vec![None; self.properties.len()];
        let mut bytes = item.id.len() + item.vector.as_ref().map_or(0, |it| 4 * it.len());
        for (name, value) in item.properties {
            let Some(index) = self.property_index(&name) else {
                return refused("invalid-property", format!("there is no property {name:?}"));
            };
            self.check_value(index, &value)?;
            bytes += match &value {
                Value::Text(text) => text.len(),
                Value::TextList(texts) => texts.iter().map(|text| text.len() + 8).sum(),
                _ => 8,
            };
            if values[index].replace(value).is_some() {
                return refused("invalid-property", format!("the property {name} twice"));
            }
        }
        if bytes > ITEM_BYTES {
            return refused("limit-exceeded", "an item has at most 1 MiB here");
        }
        let named = self.properties.iter().zip(values);
        item.properties = named
            .filter_map(|(property, value)| Some((property.name.clone(), value?)))
            .collect();
        Ok(item)
    }

    pub(super) fn check_answered(&self, properties: Option<&[String]>) -> Result<()> {
        for name in properties.unwrap_or_default() {
            if self.property_index(name).is_none() {
                return refused("invalid-property", format!("there is no property {name:?}"));
            }
        }
        Ok(())
    }

    pub(super) fn check_search(&self, search: &Search) -> Result<()> {
        if !(1..=FOUND).contains(&search.limit) {
            return refused("limit-exceeded", "1 to 1,000 items are answered");
        }
        self.check_answered(search.properties.as_deref())?;
        self.check_filter(&search.filter)
    }

    pub(super) fn filterable(&self, name: &str) -> Result<PropertyType> {
        let found = self.properties.iter().find(|it| it.name == name);
        match found {
            Some(property) if property.filterable => Ok(property.kind),
            _ => refused(
                "invalid-filter",
                format!("there is no filterable property {name:?}"),
            ),
        }
    }

    pub(super) fn comparable(&self, name: &str, value: &Value, ordered: bool) -> Result<()> {
        let matching = match (self.filterable(name)?, value) {
            (PropertyType::Text | PropertyType::TextList, Value::Text(_))
            | (PropertyType::Boolean, Value::Boolean(_)) => !ordered,
            (PropertyType::Real, Value::Real(number)) => number.is_finite(),
            (PropertyType::Integer, Value::Integer(number)) => {
                number.unsigned_abs() <= LARGEST_INTEGER.unsigned_abs()
            }
            (PropertyType::Timestamp, Value::Timestamp(time)) => TIMES.contains(time),
            _ => false,
        };
        if matching {
            return Ok(());
        }
        refused(
            "invalid-filter",
            format!("the property {name} cannot be compared so"),
        )
    }

    /// Checks a filter: its tree, and each comparison.
    pub(super) fn check_filter(&self, filter: &Filter) -> Result<()> {
        if filter.nodes.len() > NODES {
            return refused("limit-exceeded", "a filter has at most 256 nodes");
        }
        let mut levels: Vec<usize> = Vec::new();
        for node in &filter.nodes {
            let taken = match node {
                Node::Compare(name, comparison, value) => {
                    let ordered = !matches!(comparison, Comparison::Equal | Comparison::NotEqual);
                    self.comparable(name, value, ordered)?;
                    0
                }
                Node::OneOf(name, values) => {
                    self.filterable(name)?;
                    if values.len() > LIST {
                        return refused("limit-exceeded", "one of at most 1,000 values");
                    }
                    for value in values {
                        self.comparable(name, value, false)?;
                    }
                    0
                }
                Node::Missing(name) => {
                    self.filterable(name)?;
                    0
                }
                Node::AllOf(count) | Node::AnyOf(count) => *count as usize,
                Node::Negation => 1,
            };
            let Some(start) = levels.len().checked_sub(taken) else {
                return refused("invalid-filter", "a node has fewer trees before it");
            };
            let level = 1 + levels.drain(start..).max().unwrap_or(0);
            if level > LEVELS {
                return refused("limit-exceeded", "a filter has at most 16 levels");
            }
            levels.push(level);
        }
        if levels.len() > 1 {
            return refused("invalid-filter", "the last node is not the whole");
        }
        Ok(())
    }

    /// The searchable properties that are meant.
    pub(super) fn searched<'a>(&'a self, properties: &'a [String]) -> Result<Vec<&'a str>> {
        let searchable = self.properties.iter().filter(|it| it.searchable);
        let searchable: Vec<&str> = searchable.map(|it| it.name.as_str()).collect();
        if properties.is_empty() {
            if searchable.is_empty() {
                return refused("invalid-search", "no property is searchable");
            }
            return Ok(searchable);
        }
        let named = properties.iter().map(|name| {
            if searchable.contains(&name.as_str()) {
                return Ok(name.as_str());
            }
            refused(
                "invalid-search",
                format!("there is no searchable property {name:?}"),
            )
        });
        named.collect()
    }
}
