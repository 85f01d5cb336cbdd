//! Which items pass a filter, and how well they fit.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::vector::{Comparison, Distance, Filter, Item, Node, Value};

pub(super) fn order(one: &Value, other: &Value) -> Option<Ordering> {
    match (one, other) {
        (Value::Text(one), Value::Text(other)) => Some(one.cmp(other)),
        (Value::Integer(one), Value::Integer(other))
        | (Value::Timestamp(one), Value::Timestamp(other)) => Some(one.cmp(other)),
        (Value::Real(one), Value::Real(other)) => one.partial_cmp(other),
        (Value::Boolean(one), Value::Boolean(other)) => Some(one.cmp(other)),
        _ => None,
    }
}

pub(super) fn is_equal(item: &Item, name: &str, value: &Value) -> bool {
    match (item.value(name), value) {
        (Some(Value::TextList(texts)), Value::Text(text)) => texts.contains(text),
        (Some(found), value) => order(found, value) == Some(Ordering::Equal),
        (None, _) => false,
    }
}

pub(super) fn is_ordered(item: &Item, name: &str, comparison: Comparison, value: &Value) -> bool {
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
pub(super) fn passes(filter: &Filter, item: &Item) -> bool {
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

pub(super) fn far(distance: Distance, one: &[f32], other: &[f32]) -> f32 {
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

pub(super) fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    words
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// BM25 as the host's stores compute it. `texts` are the words of each item, property by
/// property.
pub(super) fn bm25(query: &[String], texts: &[(&Item, Vec<Vec<String>>)]) -> Vec<f32> {
    let properties = texts.first().map_or(0, |(_, texts)| texts.len());
    let means: Vec<f32> = (0..properties)
        .map(|property| {
            let lengths = texts.iter().map(|(_, texts)| texts[property].len());
            let lengths: Vec<usize> = lengths.filter(|length| *length > 0).collect();
            lengths.iter().sum::<usize>() as f32 / lengths.len().max(1) as f32
        })
        .collect();
    let mut rarities: HashMap<&str, f32> = HashMap::new();
    for word in query {
        // In the mean of the properties that have it, rounded down.
        let having: Vec<usize> = (0..properties)
            .map(|property| {
                let with_word = texts.iter().filter(|(_, it)| it[property].contains(word));
                with_word.count()
            })
            .filter(|count| *count > 0)
            .collect();
        let having = (having.iter().sum::<usize>() / having.len().max(1)) as f32;
        let rarity = ((texts.len() as f32 - having + 0.5) / (having + 0.5)).ln_1p();
        rarities.insert(word, rarity);
    }
    let scores = texts.iter().map(|(_, texts)| {
        let of_word = |(word, rarity): (&&str, &f32)| {
            let of_text = |(text, mean): (&Vec<String>, &f32)| {
                let times = text.iter().filter(|it| it == word).count() as f32;
                let long = text.len() as f32 / mean.max(1.0);
                times / (times + 1.2 * (0.25 + 0.75 * long))
            };
            rarity * texts.iter().zip(&means).map(of_text).sum::<f32>()
        };
        rarities.iter().map(of_word).sum()
    });
    scores.collect()
}
