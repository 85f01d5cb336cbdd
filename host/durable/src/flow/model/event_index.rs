//! Which of many consumptions an event may be for, by its type alone: what an event costs
//! should follow from those that it is for, not from all that there are.
//!
//! Types that are written out are looked up; patterns are one set that is matched at once;
//! what names no type, or names it by an expression, is always asked.

use std::collections::{BTreeSet, HashMap};

use regex::RegexSet;

use super::{AttributeFilter, Consumption, EventFilter};

/// Finds consumptions by the type of an event.
#[derive(Debug, Default)]
pub struct EventIndex {
    by_text: HashMap<String, Vec<usize>>,
    patterns: RegexSet,
    /// Whose each of the patterns is.
    of_pattern: Vec<usize>,
    always: Vec<usize>,
}

impl EventIndex {
    /// Of consumptions, which it calls by their number.
    #[must_use]
    pub fn new<'c>(consumptions: impl IntoIterator<Item = &'c Consumption>) -> Self {
        let mut index = Self::default();
        let mut patterns = Vec::new();
        for (number, consumption) in consumptions.into_iter().enumerate() {
            if consumption.filters.is_empty() {
                index.always.push(number);
            }
            for filter in &consumption.filters {
                match of_type(filter) {
                    Some(AttributeFilter::Equals(value)) => {
                        // No event has a type that is not a text.
                        if let Some(text) = value.as_str() {
                            index.insert(text, number);
                        }
                    }
                    Some(AttributeFilter::Matches { text, pattern }) => {
                        index.insert(text, number);
                        if regex::escape(text) != *text {
                            patterns.push(pattern.as_str());
                            index.of_pattern.push(number);
                        }
                    }
                    Some(AttributeFilter::Expression(_)) | None => index.always.push(number),
                }
            }
        }
        match RegexSet::new(patterns) {
            Ok(set) => index.patterns = set,
            // Together they are too large.
            Err(_) => index.always.append(&mut index.of_pattern),
        }
        index
    }

    fn insert(&mut self, text: &str, number: usize) {
        self.by_text
            .entry(text.to_owned())
            .or_default()
            .push(number);
    }

    /// The consumptions that may take an event of that type, ascending. No other one can.
    #[must_use]
    pub fn candidates(&self, event_type: &str) -> BTreeSet<usize> {
        let named = self.by_text.get(event_type).into_iter().flatten();
        let matched = self.patterns.matches(event_type);
        let matched = matched
            .into_iter()
            .filter_map(|at| self.of_pattern.get(at).copied());
        let always = self.always.iter();
        named.chain(always).copied().chain(matched).collect()
    }
}

/// What a filter says of an event's type.
fn of_type(filter: &EventFilter) -> Option<&AttributeFilter> {
    let (_, of_type) = filter.attributes.iter().find(|(name, _)| name == "type")?;
    Some(of_type)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::flow::model::Strategy;

    fn matches(text: &str) -> AttributeFilter {
        AttributeFilter::Matches {
            text: text.to_owned(),
            pattern: regex::Regex::new(&format!("^(?:{text})$")).expect("a pattern"),
        }
    }

    fn of(types: Vec<Option<AttributeFilter>>) -> Consumption {
        let filters = types.into_iter().map(|of_type| EventFilter {
            attributes: of_type
                .into_iter()
                .map(|it| ("type".to_owned(), it))
                .collect(),
            data: None,
            correlate: Vec::new(),
        });
        Consumption {
            strategy: Strategy::Any,
            filters: filters.collect(),
        }
    }

    #[test]
    fn it_finds_what_may_take_an_event_and_no_more() {
        let all = [
            of(vec![Some(matches("uploaded"))]),
            of(vec![Some(matches("com.example.*"))]),
            of(vec![
                Some(AttributeFilter::Equals(json!("stored"))),
                Some(matches("uploaded")),
            ]),
            of(vec![None]),
            of(vec![]),
            of(vec![Some(AttributeFilter::Equals(json!(7)))]),
        ];
        let index = EventIndex::new(&all);
        for (event_type, found) in [
            ("uploaded", vec![0, 2, 3, 4]),
            ("stored", vec![2, 3, 4]),
            ("com.example.a", vec![1, 3, 4]),
            ("com.example.*", vec![1, 3, 4]),
            ("comXexampleX", vec![1, 3, 4]),
            ("com", vec![3, 4]),
            ("", vec![3, 4]),
        ] {
            let candidates = index.candidates(event_type);
            assert_eq!(candidates, found.into_iter().collect(), "{event_type}");
            let event: Value = json!({ "type": event_type });
            for (number, one) in all.iter().enumerate() {
                let may = one.may_take(&event);
                assert_eq!(may, candidates.contains(&number), "{event_type} {number}");
            }
        }
    }
}
