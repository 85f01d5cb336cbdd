//! Vector stores in memory: exact, and as strict as the host's.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::CapabilityError;
use crate::test::state;
use crate::vector::{
    Comparison, Distance, Filter, Hit, Item, Node, PropertyType, Search, Specification, Value,
};

type Result<T> = std::result::Result<T, CapabilityError>;

const PROPERTIES: usize = 64;
const DIMENSIONS: u32 = 4_096;
const COLLECTIONS: usize = 100;
const BATCH: usize = 1_000;
const FOUND: u32 = 1_000;
const FILTERABLE_BYTES: usize = 1_024;
const LIST: usize = 1_000;
const NODES: usize = 256;
const LEVELS: usize = 16;
const TEXT_BYTES: usize = 4_096;
const ITEM_BYTES: usize = 1 << 20;
const LARGEST_INTEGER: i64 = (1 << 53) - 1;
/// The years 0001 to 9999.
const TIMES: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// The collections of a binding.
#[derive(Debug, Default)]
pub(crate) struct Collections {
    by_name: BTreeMap<String, Kept>,
    made: u64,
}

#[derive(Debug)]
struct Kept {
    /// Another one of the same name has another number.
    number: u64,
    specification: Specification,
    /// By tenant, and by id.
    items: BTreeMap<Option<String>, BTreeMap<String, Item>>,
}

fn refused<T>(code: &str, message: impl Into<String>) -> Result<T> {
    Err(CapabilityError::new(code, message))
}

fn check_name(name: &str, further: &str) -> Result<()> {
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

fn check_tenant(tenant: &str) -> Result<()> {
    let valid = (1..=64).contains(&tenant.len())
        && tenant
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if valid {
        return Ok(());
    }
    refused("invalid-name", format!("{tenant:?} is no tenant"))
}

fn check_specification(specification: &Specification) -> Result<()> {
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

fn check_ids<'a>(ids: impl ExactSizeIterator<Item = &'a str>) -> Result<()> {
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
    fn check_vector(&self, vector: &[f32]) -> Result<()> {
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

    fn property_index(&self, name: &str) -> Option<usize> {
        self.properties
            .iter()
            .position(|property| property.name == name)
    }

    /// Checks the value of a property.
    fn check_value(&self, index: usize, value: &Value) -> Result<()> {
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
    fn item(&self, mut item: Item) -> Result<Item> {
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

    fn check_answered(&self, properties: Option<&[String]>) -> Result<()> {
        for name in properties.unwrap_or_default() {
            if self.property_index(name).is_none() {
                return refused("invalid-property", format!("there is no property {name:?}"));
            }
        }
        Ok(())
    }

    fn check_search(&self, search: &Search) -> Result<()> {
        if !(1..=FOUND).contains(&search.limit) {
            return refused("limit-exceeded", "1 to 1,000 items are answered");
        }
        self.check_answered(search.properties.as_deref())?;
        self.check_filter(&search.filter)
    }

    fn filterable(&self, name: &str) -> Result<PropertyType> {
        let found = self.properties.iter().find(|it| it.name == name);
        match found {
            Some(property) if property.filterable => Ok(property.kind),
            _ => refused(
                "invalid-filter",
                format!("there is no filterable property {name:?}"),
            ),
        }
    }

    fn comparable(&self, name: &str, value: &Value, ordered: bool) -> Result<()> {
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
    fn check_filter(&self, filter: &Filter) -> Result<()> {
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
    fn searched<'a>(&'a self, properties: &'a [String]) -> Result<Vec<&'a str>> {
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

fn order(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Text(one), Value::Text(other)) => Some(one.cmp(other)),
        (Value::Integer(one), Value::Integer(other))
        | (Value::Timestamp(one), Value::Timestamp(other)) => Some(one.cmp(other)),
        (Value::Real(one), Value::Real(other)) => one.partial_cmp(other),
        (Value::Boolean(one), Value::Boolean(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

fn is_equal(item: &Item, name: &str, value: &Value) -> bool {
    match (item.value(name), value) {
        (Some(Value::TextList(texts)), Value::Text(text)) => texts.contains(text),
        (Some(found), value) => order(found, value) == Some(Ordering::Equal),
        (None, _) => false,
    }
}

fn is_ordered(item: &Item, name: &str, comparison: Comparison, value: &Value) -> bool {
    let Some(order) = item.value(name).and_then(|found| order(found, value)) else {
        return false;
    };
    match comparison {
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
        Comparison::Equal | Comparison::NotEqual => false,
    }
}

/// Whether an item passes a filter that was checked.
fn passes(filter: &Filter, item: &Item) -> bool {
    let mut stack: Vec<bool> = Vec::new();
    for node in &filter.nodes {
        let holds = match node {
            Node::Compare(name, Comparison::Equal, value) => is_equal(item, name, value),
            Node::Compare(name, Comparison::NotEqual, value) => !is_equal(item, name, value),
            Node::Compare(name, comparison, value) => is_ordered(item, name, *comparison, value),
            Node::OneOf(name, values) => values.iter().any(|value| is_equal(item, name, value)),
            Node::Missing(name) => item.value(name).is_none(),
            Node::AllOf(count) => {
                let start = stack.len() - *count as usize;
                stack.drain(start..).fold(true, |all, holds| all & holds)
            }
            Node::AnyOf(count) => {
                let start = stack.len() - *count as usize;
                stack.drain(start..).fold(false, |any, holds| any | holds)
            }
            Node::Negation => !stack.pop().unwrap_or_default(),
        };
        stack.push(holds);
    }
    stack.pop().unwrap_or(true)
}

fn far(distance: Distance, one: &[f32], other: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    match distance {
        Distance::Cosine => 1.0 - dot(one, other) / (dot(one, one) * dot(other, other)).sqrt(),
        Distance::Dot => -dot(one, other),
        Distance::Euclidean => {
            let squares = one.iter().zip(other).map(|(a, b)| (a - b) * (a - b));
            squares.sum::<f32>().sqrt()
        }
    }
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    words
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// BM25 with the usual constants, over texts that were made one.
fn bm25(query: &[String], texts: &[(&Item, Vec<String>)]) -> Vec<f32> {
    let count = texts.len() as f32;
    let length = texts.iter().map(|(_, words)| words.len()).sum::<usize>() as f32 / count.max(1.0);
    let mut with_word: HashMap<&str, f32> = HashMap::new();
    for word in query {
        let having = texts.iter().filter(|(_, words)| words.contains(word));
        with_word.insert(word, having.count() as f32);
    }
    let scores = texts.iter().map(|(_, words)| {
        let of_word = |(word, having): (&&str, &f32)| {
            let times = words.iter().filter(|it| it == word).count() as f32;
            let rarity = ((count - having + 0.5) / (having + 0.5)).ln_1p();
            let long = words.len() as f32 / length.max(1.0);
            rarity * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * long))
        };
        with_word.iter().map(of_word).sum()
    });
    scores.collect()
}

fn answered(item: &Item, properties: Option<&[String]>, vectors: bool) -> Item {
    let mut item = item.clone();
    if let Some(properties) = properties {
        item.properties
            .retain(|(name, _)| properties.contains(name));
    }
    if !vectors {
        item.vector = None;
    }
    item
}

fn with<T>(binding: &str, f: impl FnOnce(&mut Collections) -> Result<T>) -> Result<T> {
    state::with(|state| match state.vectors.get_mut(binding) {
        Some(collections) => f(collections),
        None => refused(
            "capability-denied",
            format!(
                "no store {binding:?} is granted: in a native test, \
                 heyday_sdk::test::Context::vector grants one"
            ),
        ),
    })
}

impl Collections {
    fn find(&mut self, name: &str) -> Result<&mut Kept> {
        check_name(name, "-")?;
        match self.by_name.get_mut(name) {
            Some(kept) => Ok(kept),
            None => refused("not-found", format!("there is no collection {name}")),
        }
    }

    fn with_tenants(&mut self, name: &str) -> Result<&mut Kept> {
        let kept = self.find(name)?;
        if kept.specification.tenants {
            return Ok(kept);
        }
        refused(
            "invalid-specification",
            format!("the collection {name} has no tenants"),
        )
    }
}

#[derive(Debug)]
pub(crate) struct Store {
    binding: String,
}

impl Store {
    pub(crate) fn open(binding: &str) -> Result<Self> {
        with(binding, |_| Ok(()))?;
        Ok(Self {
            binding: binding.to_owned(),
        })
    }

    pub(crate) fn create(&self, name: &str, specification: &Specification) -> Result<bool> {
        check_name(name, "-")?;
        check_specification(specification)?;
        with(&self.binding, |collections| {
            if let Some(kept) = collections.by_name.get(name) {
                if kept.specification == *specification {
                    return Ok(false);
                }
                return refused(
                    "already-exists",
                    format!("there is another collection {name}"),
                );
            }
            if collections.by_name.len() >= COLLECTIONS {
                return refused("limit-exceeded", "a store has at most 100 collections here");
            }
            collections.made += 1;
            let kept = Kept {
                number: collections.made,
                specification: specification.clone(),
                items: BTreeMap::new(),
            };
            collections.by_name.insert(name.to_owned(), kept);
            Ok(true)
        })
    }

    pub(crate) fn collections(&self) -> Result<Vec<String>> {
        with(&self.binding, |collections| {
            Ok(collections.by_name.keys().cloned().collect())
        })
    }

    pub(crate) fn drop_collection(&self, name: &str) -> Result<bool> {
        check_name(name, "-")?;
        with(&self.binding, |collections| {
            Ok(collections.by_name.remove(name).is_some())
        })
    }

    pub(crate) fn collection(&self, name: &str, tenant: Option<&str>) -> Result<Collection> {
        tenant.map_or(Ok(()), check_tenant)?;
        with(&self.binding, |collections| {
            let kept = collections.find(name)?;
            if kept.specification.tenants != tenant.is_some() {
                return refused(
                    "invalid-specification",
                    "a tenant is named where the collection has tenants, and nowhere else",
                );
            }
            Ok(Collection {
                binding: self.binding.clone(),
                name: name.to_owned(),
                number: kept.number,
                specification: kept.specification.clone(),
                tenant: tenant.map(str::to_owned),
            })
        })
    }

    pub(crate) fn tenants(
        &self,
        name: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<Vec<String>> {
        with(&self.binding, |collections| {
            let kept = collections.with_tenants(name)?;
            let names = kept.items.keys().flatten();
            let names = names.filter(|name| after.is_none_or(|after| name.as_str() > after));
            Ok(names
                .take(limit.clamp(1, 1_000) as usize)
                .cloned()
                .collect())
        })
    }

    pub(crate) fn drop_tenant(&self, name: &str, tenant: &str) -> Result<bool> {
        check_tenant(tenant)?;
        with(&self.binding, |collections| {
            let kept = collections.with_tenants(name)?;
            Ok(kept.items.remove(&Some(tenant.to_owned())).is_some())
        })
    }
}

#[derive(Debug)]
pub(crate) struct Collection {
    binding: String,
    name: String,
    number: u64,
    specification: Specification,
    tenant: Option<String>,
}

impl Collection {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Item>) -> Result<T>) -> Result<T> {
        with(&self.binding, |collections| {
            let kept = collections.find(&self.name)?;
            if kept.number != self.number {
                return refused("not-found", "the collection was dropped");
            }
            match kept.items.get_mut(&self.tenant) {
                Some(items) => f(items),
                // A tenant is there from its first item on.
                None => {
                    let mut items = BTreeMap::new();
                    let answer = f(&mut items)?;
                    if !items.is_empty() {
                        kept.items.insert(self.tenant.clone(), items);
                    }
                    Ok(answer)
                }
            }
        })
    }

    pub(crate) fn specification(&self) -> Specification {
        self.specification.clone()
    }

    pub(crate) fn upsert(&self, items: Vec<Item>) -> Result<()> {
        check_ids(items.iter().map(|item| item.id.as_str()))?;
        let items: Result<Vec<Item>> = items
            .into_iter()
            .map(|item| self.specification.item(item))
            .collect();
        let items = items?;
        self.with(|kept| {
            kept.extend(items.into_iter().map(|item| (item.id.clone(), item)));
            Ok(())
        })
    }

    pub(crate) fn get(
        &self,
        ids: Vec<String>,
        properties: Option<&[String]>,
        vectors: bool,
    ) -> Result<Vec<Option<Item>>> {
        check_ids(ids.iter().map(String::as_str))?;
        self.specification.check_answered(properties)?;
        self.with(|kept| {
            let found = ids.iter().map(|id| kept.get(id));
            let found = found.map(|item| item.map(|item| answered(item, properties, vectors)));
            Ok(found.collect())
        })
    }

    pub(crate) fn delete(&self, ids: Vec<String>) -> Result<u64> {
        check_ids(ids.iter().map(String::as_str))?;
        self.with(|kept| {
            let deleted = ids.iter().filter(|id| kept.remove(*id).is_some());
            Ok(deleted.count() as u64)
        })
    }

    pub(crate) fn delete_where(&self, filter: &Filter) -> Result<u64> {
        if filter.nodes.is_empty() {
            return refused("invalid-filter", "what is deleted must be said");
        }
        self.specification.check_filter(filter)?;
        self.with(|kept| {
            let before = kept.len();
            kept.retain(|_, item| !passes(filter, item));
            Ok((before - kept.len()) as u64)
        })
    }

    pub(crate) fn count(&self, filter: &Filter) -> Result<u64> {
        self.specification.check_filter(filter)?;
        self.with(|kept| Ok(kept.values().filter(|item| passes(filter, item)).count() as u64))
    }

    /// Whatever has a vector, with its distance, the closest first.
    fn ranked_by_vector(&self, vector: &[f32], filter: &Filter) -> Result<Vec<(f32, String)>> {
        self.with(|kept| {
            let passing = kept.values().filter(|item| passes(filter, item));
            let distance = self.specification.distance;
            let mut found: Vec<(f32, String)> = passing
                .filter_map(|item| {
                    let distance = far(distance, item.vector.as_ref()?, vector);
                    Some((distance, item.id.clone()))
                })
                .collect();
            found.sort_by(|one, other| one.0.total_cmp(&other.0));
            Ok(found)
        })
    }

    /// Whatever has one of the words, with its score, the best first.
    fn ranked_by_words(
        &self,
        text: &str,
        properties: &[String],
        filter: &Filter,
    ) -> Result<Vec<(f32, String)>> {
        let properties = self.specification.searched(properties)?;
        if text.len() > TEXT_BYTES {
            return refused("limit-exceeded", "at most 4,096 bytes are searched for");
        }
        let query = words(text);
        self.with(|kept| {
            let texts: Vec<(&Item, Vec<String>)> = kept
                .values()
                .map(|item| {
                    let texts = properties.iter().filter_map(|name| item.text(name));
                    (item, texts.flat_map(words).collect())
                })
                .collect();
            let mut found: Vec<(f32, String)> = bm25(&query, &texts)
                .into_iter()
                .zip(&texts)
                .filter(|(score, (item, _))| *score > 0.0 && passes(filter, item))
                .map(|(score, (item, _))| (score, item.id.clone()))
                .collect();
            found.sort_by(|one, other| other.0.total_cmp(&one.0));
            Ok(found)
        })
    }

    fn hits(
        &self,
        found: Vec<(f32, String)>,
        search: &Search,
        hit: impl Fn(Item, f32) -> Hit,
    ) -> Result<Vec<Hit>> {
        let properties = search.properties.as_deref();
        self.with(|kept| {
            let best = found.into_iter().take(search.limit as usize);
            let best = best.filter_map(|(number, id)| {
                let item = answered(kept.get(&id)?, properties, search.vectors);
                Some(hit(item, number))
            });
            Ok(best.collect())
        })
    }

    pub(crate) fn nearest(
        &self,
        vector: &[f32],
        within: Option<f32>,
        search: &Search,
    ) -> Result<Vec<Hit>> {
        self.specification.check_search(search)?;
        self.specification.check_vector(vector)?;
        if within.is_some_and(f32::is_nan) {
            return refused("invalid-search", "a distance is a number");
        }
        let mut found = self.ranked_by_vector(vector, &search.filter)?;
        found.retain(|(distance, _)| within.is_none_or(|within| *distance <= within));
        self.hits(found, search, |item, distance| Hit {
            item,
            distance: Some(distance),
            score: None,
        })
    }

    pub(crate) fn keywords(
        &self,
        text: &str,
        properties: &[String],
        search: &Search,
    ) -> Result<Vec<Hit>> {
        self.specification.check_search(search)?;
        let found = self.ranked_by_words(text, properties, &search.filter)?;
        self.hits(found, search, scored)
    }

    pub(crate) fn hybrid(
        &self,
        text: &str,
        properties: &[String],
        vector: &[f32],
        alpha: f32,
        search: &Search,
    ) -> Result<Vec<Hit>> {
        self.specification.check_search(search)?;
        self.specification.check_vector(vector)?;
        if !(0.0..=1.0).contains(&alpha) {
            return refused("invalid-search", "alpha is 0 to 1");
        }
        let words = self.ranked_by_words(text, properties, &search.filter)?;
        let vectors = self.ranked_by_vector(vector, &search.filter)?;
        let mut scores: BTreeMap<String, f32> = BTreeMap::new();
        for (weight, ranked) in [(alpha, vectors), (1.0 - alpha, words)] {
            if weight == 0.0 {
                continue;
            }
            let best = ranked.into_iter().take(search.limit.max(100) as usize);
            for (index, (_, id)) in best.enumerate() {
                *scores.entry(id).or_default() += weight / (61.0 + index as f32);
            }
        }
        let mut found: Vec<(f32, String)> =
            scores.into_iter().map(|(id, score)| (score, id)).collect();
        found.sort_by(|one, other| other.0.total_cmp(&one.0));
        self.hits(found, search, scored)
    }
}

fn scored(item: Item, score: f32) -> Hit {
    Hit {
        item,
        distance: None,
        score: Some(score),
    }
}
