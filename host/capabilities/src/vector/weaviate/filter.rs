//! Filters as Weaviate takes them, and the values that they ask for.
//!
//! Weaviate's own comparisons differ in small things from what `wit/vector` promises: it
//! trims texts, takes empty ones and empty lists for missing, and has no filter for "always".
//! So a filterable text is kept in quotes, and each item has a list of marks: one of every
//! item, and one for each property that it has.

use super::super::{Filter, Order, PropertyType, Specification, Value};
use super::proto::{
    BooleanArray, FilterTarget, Filters, IntArray, NumberArray, Operator, TestValue, TextArray,
};

/// The property with the marks.
pub(super) const MARKS: &str = "marks";
/// The mark of every item.
pub(super) const EVERY: &str = "every";
/// Weaviate's own property with an item's number.
const UUID: &str = "_id";

/// The property that filters ask for.
pub(super) fn property(number: usize) -> String {
    format!("p{number}")
}

/// A filterable text as it is kept.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn leaf(property: impl Into<String>, operator: Operator, value: TestValue) -> Filters {
    Filters {
        operator: operator.into(),
        filters: Vec::new(),
        test_value: Some(value),
        target: Some(FilterTarget {
            property: Some(property.into()),
        }),
    }
}

fn joined(operator: Operator, mut filters: Vec<Filters>, of_none: fn() -> Filters) -> Filters {
    match filters.len() {
        0 => of_none(),
        1 => filters.remove(0),
        _ => Filters {
            operator: operator.into(),
            filters,
            test_value: None,
            target: None,
        },
    }
}

fn not(filter: Filters) -> Filters {
    Filters {
        operator: Operator::Not.into(),
        filters: vec![filter],
        test_value: None,
        target: None,
    }
}

fn mark(mark: impl Into<String>) -> Filters {
    leaf(MARKS, Operator::Equal, TestValue::Text(mark.into()))
}

fn always() -> Filters {
    mark(EVERY)
}

fn never() -> Filters {
    // No item has it.
    mark("none")
}

fn value(value: &Value) -> TestValue {
    match value {
        Value::Text(text) => TestValue::Text(quoted(text)),
        Value::Integer(number) | Value::Timestamp(number) => TestValue::Int(*number),
        Value::Real(number) => TestValue::Number(*number),
        Value::Boolean(value) => TestValue::Boolean(*value),
        // Filters have none.
        Value::TextList(texts) => TestValue::TextArray(TextArray {
            values: texts.iter().map(|text| quoted(text)).collect(),
        }),
    }
}

fn values(kind: PropertyType, values: &[Value]) -> TestValue {
    let all = values.iter();
    match kind {
        PropertyType::Text | PropertyType::TextList => {
            let texts = all.filter_map(|value| match value {
                Value::Text(text) => Some(quoted(text)),
                _ => None,
            });
            TestValue::TextArray(TextArray {
                values: texts.collect(),
            })
        }
        PropertyType::Integer | PropertyType::Timestamp => {
            let numbers = all.filter_map(|value| match value {
                Value::Integer(number) | Value::Timestamp(number) => Some(*number),
                _ => None,
            });
            TestValue::IntArray(IntArray {
                values: numbers.collect(),
            })
        }
        PropertyType::Real => {
            let numbers = all.filter_map(|value| match value {
                Value::Real(number) => Some(*number),
                _ => None,
            });
            TestValue::NumberArray(NumberArray {
                values: numbers.collect(),
            })
        }
        PropertyType::Boolean => {
            let values = all.filter_map(|value| match value {
                Value::Boolean(value) => Some(*value),
                _ => None,
            });
            TestValue::BooleanArray(BooleanArray {
                values: values.collect(),
            })
        }
    }
}

/// Items with these numbers.
pub(super) fn of_uuids(uuids: Vec<String>) -> Filters {
    let values = TestValue::TextArray(TextArray { values: uuids });
    leaf(UUID, Operator::ContainsAny, values)
}

/// A filter.
pub(super) fn filters(specification: &Specification, filter: &Filter) -> Filters {
    let all = |parts: &[Filter]| {
        let parts = parts.iter().map(|part| filters(specification, part));
        parts.collect::<Vec<_>>()
    };
    match filter {
        Filter::Equal(number, found) => leaf(property(*number), Operator::Equal, value(found)),
        Filter::Ordered(number, order, found) => {
            let operator = match order {
                Order::Less => Operator::LessThan,
                Order::LessOrEqual => Operator::LessThanEqual,
                Order::Greater => Operator::GreaterThan,
                Order::GreaterOrEqual => Operator::GreaterThanEqual,
            };
            leaf(property(*number), operator, value(found))
        }
        Filter::OneOf(_, found) if found.is_empty() => never(),
        Filter::OneOf(number, found) => {
            let kind = specification.properties[*number].kind;
            leaf(
                property(*number),
                Operator::ContainsAny,
                values(kind, found),
            )
        }
        Filter::Missing(number) => not(mark(property(*number))),
        Filter::All(parts) => joined(Operator::And, all(parts), always),
        Filter::Any(parts) => joined(Operator::Or, all(parts), never),
        Filter::Not(part) => not(filters(specification, part)),
    }
}
