//! Filters.

use std::ops::Not;

use super::Value;

/// How a property is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A node of a filter; it stands after those that it is made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Compare(String, Comparison, Value),
    OneOf(String, Vec<Value>),
    Missing(String),
    AllOf(u32),
    AnyOf(u32),
    Negation,
}

/// Which items count, by their filterable properties. What is compared with a property that
/// an item has not is not equal, and neither less nor greater.
///
/// ```
/// use heyday_sdk::vector::Filter;
///
/// let recent = Filter::ge("year", 2020).and(Filter::one_of("language", ["en", "de"]));
/// let ours = Filter::any([Filter::eq("tags", "ours"), Filter::missing("author")]);
/// let filter = recent.and(!ours);
/// # let _ = filter;
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Filter {
    pub(crate) nodes: Vec<Node>,
}

impl Filter {
    /// Every item passes.
    pub fn everything() -> Self {
        Self::default()
    }

    fn leaf(node: Node) -> Self {
        Self { nodes: vec![node] }
    }

    fn compare(
        property: impl Into<String>,
        comparison: Comparison,
        value: impl Into<Value>,
    ) -> Self {
        Self::leaf(Node::Compare(property.into(), comparison, value.into()))
    }

    /// The property is equal to the value; of a text list: has it.
    pub fn eq(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::Equal, value)
    }

    /// It is not; also where the item has no such property.
    pub fn ne(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::NotEqual, value)
    }

    /// The number or time is less.
    pub fn lt(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::Less, value)
    }

    /// The number or time is less or equal.
    pub fn le(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::LessOrEqual, value)
    }

    /// The number or time is greater.
    pub fn gt(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::Greater, value)
    }

    /// The number or time is greater or equal.
    pub fn ge(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::GreaterOrEqual, value)
    }

    /// The property is equal to one of these, at most 1,000.
    pub fn one_of<V: Into<Value>>(
        property: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let values = values.into_iter().map(Into::into).collect();
        Self::leaf(Node::OneOf(property.into(), values))
    }

    /// The item has no such property.
    pub fn missing(property: impl Into<String>) -> Self {
        Self::leaf(Node::Missing(property.into()))
    }

    fn joined(filters: impl IntoIterator<Item = Self>, end: impl FnOnce(u32) -> Node) -> Self {
        let mut nodes = Vec::new();
        let mut count = 0;
        for filter in filters {
            if filter.nodes.is_empty() {
                // Everything, as a tree that can stand within another.
                nodes.push(Node::AllOf(0));
            } else {
                nodes.extend(filter.nodes);
            }
            count += 1;
        }
        nodes.push(end(count));
        Self { nodes }
    }

    /// All of them hold; of none: always.
    pub fn all(filters: impl IntoIterator<Item = Self>) -> Self {
        Self::joined(filters, Node::AllOf)
    }

    /// Any of them holds; of none: never.
    pub fn any(filters: impl IntoIterator<Item = Self>) -> Self {
        Self::joined(filters, Node::AnyOf)
    }

    /// Both hold.
    pub fn and(self, other: Self) -> Self {
        Self::all([self, other])
    }

    /// One of both holds.
    pub fn or(self, other: Self) -> Self {
        Self::any([self, other])
    }
}

impl Not for Filter {
    type Output = Self;

    fn not(self) -> Self {
        Self::joined([self], |_| Node::Negation)
    }
}
