//! Filters: from the guest's list of nodes to a checked tree.

use super::check::{LARGEST_INTEGER, TIMES};
use super::{
    Comparison, FilterNode, LIST, Property, PropertyType, Specification, Value, VectorCode,
    VectorError,
};

const NODES: usize = 256;
const LEVELS: usize = 16;

/// How an ordered property stands to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Less.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterOrEqual,
}

/// A filter: properties by their numbers, each filterable; values of their types (of a text
/// list's: a text). A property that an item has not is equal to nothing, and neither less
/// nor greater.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// The property is equal to the value; of a text list: has it.
    Equal(usize, Value),
    /// The number or time is less or greater.
    Ordered(usize, Order, Value),
    /// The property is equal to one of these.
    OneOf(usize, Vec<Value>),
    /// The item has no such property.
    Missing(usize),
    /// All hold.
    All(Vec<Filter>),
    /// Any holds.
    Any(Vec<Filter>),
    /// It does not hold.
    Not(Box<Filter>),
}

fn invalid(message: impl Into<String>) -> VectorError {
    VectorError::new(VectorCode::InvalidFilter, message)
}

fn limit(message: &'static str) -> VectorError {
    VectorError::new(VectorCode::LimitExceeded, message)
}

/// The tree of these nodes; none where there are none.
pub(super) fn parse(
    specification: &Specification,
    nodes: Vec<FilterNode>,
) -> Result<Option<Filter>, VectorError> {
    if nodes.len() > NODES {
        return Err(limit("a filter has at most 256 nodes"));
    }
    // Trees that nothing was made of yet, with their levels.
    let mut trees: Vec<(Filter, usize)> = Vec::new();
    for node in nodes {
        let tree = match node {
            FilterNode::Compare((name, comparison, value)) => {
                (compare(specification, &name, comparison, value)?, 1)
            }
            FilterNode::OneOf((name, values)) => (one_of(specification, &name, values)?, 1),
            FilterNode::Missing(name) => (Filter::Missing(filterable(specification, &name)?.0), 1),
            FilterNode::AllOf(count) => {
                let (parts, levels) = take(&mut trees, count as usize)?;
                (Filter::All(parts), levels)
            }
            FilterNode::AnyOf(count) => {
                let (parts, levels) = take(&mut trees, count as usize)?;
                (Filter::Any(parts), levels)
            }
            FilterNode::Negation => {
                let (mut parts, levels) = take(&mut trees, 1)?;
                // One was taken.
                let part = parts.pop().ok_or_else(|| invalid("it negates nothing"))?;
                (Filter::Not(Box::new(part)), levels)
            }
        };
        if tree.1 > LEVELS {
            return Err(limit("a filter has at most 16 levels"));
        }
        trees.push(tree);
    }
    let whole = trees.pop();
    if !trees.is_empty() {
        return Err(invalid(
            "the last node of a filter is not made of all that are before it",
        ));
    }
    Ok(whole.map(|(filter, _)| filter))
}

/// Takes the last trees, and says of what level their tree is.
fn take(
    trees: &mut Vec<(Filter, usize)>,
    count: usize,
) -> Result<(Vec<Filter>, usize), VectorError> {
    let start = trees.len().checked_sub(count).ok_or_else(|| {
        invalid(format!(
            "a node of a filter is made of {count} trees, but there are {} before it",
            trees.len()
        ))
    })?;
    let levels = trees[start..].iter().map(|(_, levels)| *levels).max();
    let parts = trees.drain(start..).map(|(filter, _)| filter).collect();
    Ok((parts, 1 + levels.unwrap_or(0)))
}

fn filterable<'a>(
    specification: &'a Specification,
    name: &str,
) -> Result<(usize, &'a Property), VectorError> {
    let mut properties = specification.properties.iter().enumerate();
    let found = properties.find(|(_, property)| property.name == name);
    match found {
        Some((number, property)) if property.filterable => Ok((number, property)),
        Some(_) => Err(invalid(format!("the property {name} is not filterable"))),
        None => Err(invalid(
            "a filter names a property that the collection has not",
        )),
    }
}

fn check(property: &Property, value: &Value) -> Result<(), VectorError> {
    let fits = match (property.kind, value) {
        (PropertyType::Text | PropertyType::TextList, Value::Text(_))
        | (PropertyType::Boolean, Value::Boolean(_)) => true,
        (PropertyType::Real, Value::Real(number)) => number.is_finite(),
        (PropertyType::Integer, Value::Integer(number)) => {
            (-LARGEST_INTEGER..=LARGEST_INTEGER).contains(number)
        }
        (PropertyType::Timestamp, Value::Timestamp(time)) => TIMES.contains(time),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(invalid(format!(
        "the property {} is compared with a value of another type, or out of range",
        property.name
    )))
}

fn compare(
    specification: &Specification,
    name: &str,
    comparison: Comparison,
    value: Value,
) -> Result<Filter, VectorError> {
    let (number, property) = filterable(specification, name)?;
    check(property, &value)?;
    let order = match comparison {
        Comparison::Equal => return Ok(Filter::Equal(number, value)),
        Comparison::NotEqual => return Ok(Filter::Not(Box::new(Filter::Equal(number, value)))),
        Comparison::Less => Order::Less,
        Comparison::LessOrEqual => Order::LessOrEqual,
        Comparison::Greater => Order::Greater,
        Comparison::GreaterOrEqual => Order::GreaterOrEqual,
    };
    let ordered = matches!(
        property.kind,
        PropertyType::Integer | PropertyType::Real | PropertyType::Timestamp
    );
    if !ordered {
        return Err(invalid(format!(
            "the property {name} is equal or not, but not less or greater"
        )));
    }
    Ok(Filter::Ordered(number, order, value))
}

fn one_of(
    specification: &Specification,
    name: &str,
    values: Vec<Value>,
) -> Result<Filter, VectorError> {
    let (number, property) = filterable(specification, name)?;
    if values.len() > LIST {
        return Err(limit("a property is one of at most 1,000 values"));
    }
    for value in &values {
        check(property, value)?;
    }
    Ok(Filter::OneOf(number, values))
}

#[cfg(test)]
mod tests {
    use super::super::Distance;
    use super::*;

    fn specification() -> Specification {
        let property = |name: &str, kind, filterable| Property {
            name: name.to_owned(),
            kind,
            filterable,
            searchable: false,
        };
        Specification {
            dimensions: 2,
            distance: Distance::Cosine,
            properties: vec![
                property("kept", PropertyType::Text, false),
                property("text", PropertyType::Text, true),
                property("number", PropertyType::Integer, true),
            ],
            tenants: false,
        }
    }

    fn parsed(nodes: Vec<FilterNode>) -> Result<Option<Filter>, VectorCode> {
        parse(&specification(), nodes).map_err(|error| error.code)
    }

    fn number(comparison: Comparison, value: i64) -> FilterNode {
        FilterNode::Compare(("number".to_owned(), comparison, Value::Integer(value)))
    }

    #[test]
    fn nodes_become_a_tree() {
        let nodes = vec![
            number(Comparison::Less, 3),
            FilterNode::Missing("text".to_owned()),
            FilterNode::Negation,
            FilterNode::AllOf(2),
            number(Comparison::NotEqual, 5),
            FilterNode::AnyOf(2),
        ];
        let expected = Filter::Any(vec![
            Filter::All(vec![
                Filter::Ordered(2, Order::Less, Value::Integer(3)),
                Filter::Not(Box::new(Filter::Missing(1))),
            ]),
            Filter::Not(Box::new(Filter::Equal(2, Value::Integer(5)))),
        ]);
        assert_eq!(parsed(nodes), Ok(Some(expected)));
        assert_eq!(parsed(Vec::new()), Ok(None));
        assert_eq!(
            parsed(vec![FilterNode::AllOf(0)]),
            Ok(Some(Filter::All(vec![])))
        );
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let text = |comparison, value| FilterNode::Compare(("text".to_owned(), comparison, value));
        let missing = |name: &str| FilterNode::Missing(name.to_owned());
        for nodes in [
            vec![FilterNode::Negation],
            vec![FilterNode::AllOf(1)],
            vec![missing("text"), FilterNode::AnyOf(u32::MAX)],
            vec![missing("text"), missing("text")],
            vec![missing("kept")],
            vec![missing("nothing")],
            vec![missing("p1\" OR 1=1 --")],
            vec![text(Comparison::Equal, Value::Integer(1))],
            vec![text(Comparison::Less, Value::Text("a".to_owned()))],
            vec![text(Comparison::Equal, Value::TextList(Vec::new()))],
            vec![number(Comparison::Equal, i64::MAX)],
        ] {
            let told = format!("{nodes:?}");
            assert_eq!(parsed(nodes), Err(VectorCode::InvalidFilter), "{told}");
        }
        let mut deep = vec![missing("text")];
        deep.extend(vec![FilterNode::Negation; 15]);
        assert!(parsed(deep.clone()).is_ok());
        deep.push(FilterNode::Negation);
        assert_eq!(parsed(deep), Err(VectorCode::LimitExceeded));
        let wide = vec![missing("text"); 257];
        assert_eq!(parsed(wide), Err(VectorCode::LimitExceeded));
        let values = vec![Value::Integer(1); 1_001];
        let long = FilterNode::OneOf(("number".to_owned(), values));
        assert_eq!(parsed(vec![long]), Err(VectorCode::LimitExceeded));
    }
}
