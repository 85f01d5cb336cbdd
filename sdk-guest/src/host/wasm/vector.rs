//! `heyday:vector`.

use crate::bindings::vector::heyday::vector::vector as wit;
use crate::error::CapabilityError;
use crate::vector::{
    Comparison, Distance, Filter, Hit, Item, Node, Property, PropertyType, Search, Specification,
    Value,
};

type Result<T> = std::result::Result<T, CapabilityError>;

fn error(error: wit::Error) -> CapabilityError {
    convert_error!(error)
}

fn specification_to_wit(specification: &Specification) -> wit::Specification {
    let properties = specification
        .properties
        .iter()
        .map(|property| wit::Property {
            name: property.name.clone(),
            kind: match property.kind {
                PropertyType::Text => wit::PropertyType::Text,
                PropertyType::Integer => wit::PropertyType::Integer,
                PropertyType::Real => wit::PropertyType::Real,
                PropertyType::Boolean => wit::PropertyType::Boolean,
                PropertyType::Timestamp => wit::PropertyType::Timestamp,
                PropertyType::TextList => wit::PropertyType::TextList,
            },
            filterable: property.filterable,
            searchable: property.searchable,
        });
    wit::Specification {
        dimensions: specification.dimensions,
        distance: match specification.distance {
            Distance::Cosine => wit::Distance::Cosine,
            Distance::Dot => wit::Distance::Dot,
            Distance::Euclidean => wit::Distance::Euclidean,
        },
        properties: properties.collect(),
        tenants: specification.tenants,
    }
}

fn specification_from_wit(specification: wit::Specification) -> Specification {
    let properties = specification.properties.into_iter();
    let properties = properties.map(|property| Property {
        name: property.name,
        kind: match property.kind {
            wit::PropertyType::Text => PropertyType::Text,
            wit::PropertyType::Integer => PropertyType::Integer,
            wit::PropertyType::Real => PropertyType::Real,
            wit::PropertyType::Boolean => PropertyType::Boolean,
            wit::PropertyType::Timestamp => PropertyType::Timestamp,
            wit::PropertyType::TextList => PropertyType::TextList,
        },
        filterable: property.filterable,
        searchable: property.searchable,
    });
    Specification {
        dimensions: specification.dimensions,
        distance: match specification.distance {
            wit::Distance::Cosine => Distance::Cosine,
            wit::Distance::Dot => Distance::Dot,
            wit::Distance::Euclidean => Distance::Euclidean,
        },
        properties: properties.collect(),
        tenants: specification.tenants,
    }
}

fn value_to_wit(value: Value) -> wit::Value {
    match value {
        Value::Text(value) => wit::Value::Text(value),
        Value::Integer(value) => wit::Value::Integer(value),
        Value::Real(value) => wit::Value::Real(value),
        Value::Boolean(value) => wit::Value::Boolean(value),
        Value::Timestamp(value) => wit::Value::Timestamp(value),
        Value::TextList(value) => wit::Value::TextList(value),
    }
}

fn value_from_wit(value: wit::Value) -> Value {
    match value {
        wit::Value::Text(value) => Value::Text(value),
        wit::Value::Integer(value) => Value::Integer(value),
        wit::Value::Real(value) => Value::Real(value),
        wit::Value::Boolean(value) => Value::Boolean(value),
        wit::Value::Timestamp(value) => Value::Timestamp(value),
        wit::Value::TextList(value) => Value::TextList(value),
    }
}

fn item_to_wit(item: Item) -> wit::Item {
    let properties = item.properties.into_iter();
    wit::Item {
        id: item.id,
        vector: item.vector,
        properties: properties
            .map(|(property, value)| wit::Field {
                property,
                value: value_to_wit(value),
            })
            .collect(),
    }
}

fn item_from_wit(item: wit::Item) -> Item {
    let properties = item.properties.into_iter();
    Item {
        id: item.id,
        vector: item.vector,
        properties: properties
            .map(|field| (field.property, value_from_wit(field.value)))
            .collect(),
    }
}

fn comparison_to_wit(comparison: Comparison) -> wit::Comparison {
    match comparison {
        Comparison::Equal => wit::Comparison::Equal,
        Comparison::NotEqual => wit::Comparison::NotEqual,
        Comparison::Less => wit::Comparison::Less,
        Comparison::LessOrEqual => wit::Comparison::LessOrEqual,
        Comparison::Greater => wit::Comparison::Greater,
        Comparison::GreaterOrEqual => wit::Comparison::GreaterOrEqual,
    }
}

fn filter_to_wit(filter: &Filter) -> Vec<wit::FilterNode> {
    let nodes = filter.nodes.iter().cloned().map(|node| match node {
        Node::Compare(property, comparison, value) => {
            wit::FilterNode::Compare((property, comparison_to_wit(comparison), value_to_wit(value)))
        }
        Node::OneOf(property, values) => {
            let values = values.into_iter().map(value_to_wit).collect();
            wit::FilterNode::OneOf((property, values))
        }
        Node::Missing(property) => wit::FilterNode::Missing(property),
        Node::AllOf(count) => wit::FilterNode::AllOf(count),
        Node::AnyOf(count) => wit::FilterNode::AnyOf(count),
        Node::Negation => wit::FilterNode::Negation,
    });
    nodes.collect()
}

fn search_to_wit(search: &Search) -> wit::Search {
    wit::Search {
        limit: search.limit,
        filter: filter_to_wit(&search.filter),
        properties: search.properties.clone(),
        vectors: search.vectors,
    }
}

fn hits(hits: Vec<wit::Hit>) -> Vec<Hit> {
    let hits = hits.into_iter().map(|hit| Hit {
        item: item_from_wit(hit.item),
        distance: hit.distance,
        score: hit.score,
    });
    hits.collect()
}

#[derive(Debug)]
pub(crate) struct Store(wit::Store);

impl Store {
    pub(crate) fn open(binding: &str) -> Result<Self> {
        wit::Store::open(binding).map(Self).map_err(error)
    }

    pub(crate) fn create(&self, name: &str, specification: &Specification) -> Result<bool> {
        self.0
            .create_collection(name, &specification_to_wit(specification))
            .map_err(error)
    }

    pub(crate) fn collections(&self) -> Result<Vec<String>> {
        self.0.collections().map_err(error)
    }

    pub(crate) fn drop_collection(&self, name: &str) -> Result<bool> {
        self.0.drop_collection(name).map_err(error)
    }

    pub(crate) fn collection(&self, name: &str, tenant: Option<&str>) -> Result<Collection> {
        let collection = self.0.collection(name, tenant);
        collection.map(Collection).map_err(error)
    }

    pub(crate) fn tenants(
        &self,
        name: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<Vec<String>> {
        self.0.tenants(name, limit, after).map_err(error)
    }

    pub(crate) fn drop_tenant(&self, name: &str, tenant: &str) -> Result<bool> {
        self.0.drop_tenant(name, tenant).map_err(error)
    }
}

#[derive(Debug)]
pub(crate) struct Collection(wit::Collection);

impl Collection {
    pub(crate) fn specification(&self) -> Specification {
        specification_from_wit(self.0.specification())
    }

    pub(crate) fn upsert(&self, items: Vec<Item>) -> Result<()> {
        let items: Vec<_> = items.into_iter().map(item_to_wit).collect();
        self.0.upsert(&items).map_err(error)
    }

    pub(crate) fn get(
        &self,
        ids: Vec<String>,
        properties: Option<&[String]>,
        vectors: bool,
    ) -> Result<Vec<Option<Item>>> {
        let found = self.0.get(&ids, properties, vectors).map_err(error)?;
        Ok(found
            .into_iter()
            .map(|item| item.map(item_from_wit))
            .collect())
    }

    pub(crate) fn delete(&self, ids: Vec<String>) -> Result<u64> {
        self.0.delete(&ids).map_err(error)
    }

    pub(crate) fn delete_where(&self, filter: &Filter) -> Result<u64> {
        self.0.delete_where(&filter_to_wit(filter)).map_err(error)
    }

    pub(crate) fn count(&self, filter: &Filter) -> Result<u64> {
        self.0.count(&filter_to_wit(filter)).map_err(error)
    }

    pub(crate) fn nearest(
        &self,
        vector: &[f32],
        within: Option<f32>,
        search: &Search,
    ) -> Result<Vec<Hit>> {
        let found = self.0.nearest(vector, within, &search_to_wit(search));
        found.map(hits).map_err(error)
    }

    pub(crate) fn keywords(
        &self,
        text: &str,
        properties: &[String],
        search: &Search,
    ) -> Result<Vec<Hit>> {
        let found = self.0.keywords(text, properties, &search_to_wit(search));
        found.map(hits).map_err(error)
    }

    pub(crate) fn hybrid(
        &self,
        text: &str,
        properties: &[String],
        vector: &[f32],
        alpha: f32,
        search: &Search,
    ) -> Result<Vec<Hit>> {
        let search = search_to_wit(search);
        let found = self.0.hybrid(text, properties, vector, alpha, &search);
        found.map(hits).map_err(error)
    }
}
