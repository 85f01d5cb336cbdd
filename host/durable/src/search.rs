//! Search attributes: typed values of a run by which lists find it, as Temporal has them.
//!
//! A name has one type in a namespace, that with which it was used first (on a cluster,
//! that with which it was registered). A start may name the type; where it does not, and
//! the name is new, it follows from the JSON value. So both engines [`fit`] what a start
//! gives to the types that they know, and tell the same errors.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::EngineError;
use crate::payload::Payload;

/// The payload metadata that names a value's type.
const TYPE: &str = "type";

/// Attributes of one run.
pub(crate) const MAX_ATTRIBUTES: usize = 100;

/// Bytes of one value as JSON, and of all of a run; Temporal's limits.
pub(crate) const MAX_VALUE: usize = 2 * 1024;
const MAX_VALUES: usize = 40 * 1024;

/// Characters of a keyword: the columns of Temporal's SQL stores have no more.
const MAX_KEYWORD: usize = 255;

/// Bytes of a name.
const MAX_NAME: usize = 64;

/// What Temporal knows of every run under these names.
const SYSTEM: [&str; 19] = [
    "BatcherNamespace",
    "BatcherUser",
    "BinaryChecksums",
    "BuildIds",
    "CloseTime",
    "ExecutionDuration",
    "ExecutionStatus",
    "ExecutionTime",
    "HistoryLength",
    "HistorySizeBytes",
    "ParentRunId",
    "ParentWorkflowId",
    "RootRunId",
    "RootWorkflowId",
    "RunId",
    "StartTime",
    "StateTransitionCount",
    "TaskQueue",
    "WorkflowId",
];

/// The type of a search attribute; Temporal's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SearchType {
    /// A text that is compared whole; at most 255 characters.
    Keyword,
    /// Several of them; a filter's value equals one.
    KeywordList,
    /// A text that is found by its words.
    Text,
    /// A whole number of 64 bits.
    Int,
    /// A number.
    Double,
    /// True or false.
    Bool,
    /// A time.
    Datetime,
}

impl SearchType {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Keyword,
        Self::KeywordList,
        Self::Text,
        Self::Int,
        Self::Double,
        Self::Bool,
        Self::Datetime,
    ];

    /// Temporal's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keyword => "Keyword",
            Self::KeywordList => "KeywordList",
            Self::Text => "Text",
            Self::Int => "Int",
            Self::Double => "Double",
            Self::Bool => "Bool",
            Self::Datetime => "Datetime",
        }
    }

    /// The type that a value has where nobody says which.
    fn inferred(value: &Value) -> Self {
        match value {
            Value::Bool(_) => Self::Bool,
            Value::Number(number) if number.is_i64() => Self::Int,
            Value::Number(_) => Self::Double,
            Value::Array(_) => Self::KeywordList,
            // What is none of them is refused when it is read.
            Value::String(_) | Value::Null | Value::Object(_) => Self::Keyword,
        }
    }

    /// What a value of it looks like.
    const fn expected(self) -> &'static str {
        match self {
            Self::Keyword => "a text of at most 255 characters",
            Self::KeywordList => "a list of texts of at most 255 characters",
            Self::Text => "a text",
            Self::Int => "a whole number of 64 bits",
            Self::Double => "a number",
            Self::Bool => "true or false",
            Self::Datetime => "a time such as \"2026-01-31T12:00:00Z\" (RFC 3339)",
        }
    }

    /// A JSON value as one of this type.
    pub(crate) fn read(self, value: &Value) -> Option<SearchValue> {
        let keyword = |value: &Value| {
            let text = value.as_str()?;
            (text.chars().count() <= MAX_KEYWORD).then(|| text.to_owned())
        };
        Some(match self {
            Self::Keyword => SearchValue::Keyword(keyword(value)?),
            Self::KeywordList => {
                let items = value.as_array()?.iter().map(keyword);
                SearchValue::KeywordList(items.collect::<Option<_>>()?)
            }
            Self::Text => SearchValue::Text(value.as_str()?.to_owned()),
            Self::Int => SearchValue::Int(value.as_i64()?),
            Self::Double => SearchValue::Double(value.as_f64()?),
            Self::Bool => SearchValue::Bool(value.as_bool()?),
            Self::Datetime => SearchValue::Datetime(value.as_str()?.parse().ok()?),
        })
    }
}

impl fmt::Display for SearchType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a search attribute's type is Keyword, KeywordList, Text, Int, Double, Bool or Datetime, not {0:?}"
)]
pub struct ParseSearchTypeError(String);

impl FromStr for SearchType {
    type Err = ParseSearchTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|one| one.as_str() == text);
        found.ok_or_else(|| ParseSearchTypeError(text.chars().take(100).collect()))
    }
}

/// A value of a search attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum SearchValue {
    /// See [`SearchType::Keyword`].
    Keyword(String),
    /// See [`SearchType::KeywordList`].
    KeywordList(Vec<String>),
    /// See [`SearchType::Text`].
    Text(String),
    /// See [`SearchType::Int`].
    Int(i64),
    /// See [`SearchType::Double`].
    Double(f64),
    /// See [`SearchType::Bool`].
    Bool(bool),
    /// See [`SearchType::Datetime`].
    Datetime(Timestamp),
}

impl SearchValue {
    /// Its type.
    #[must_use]
    pub const fn search_type(&self) -> SearchType {
        match self {
            Self::Keyword(_) => SearchType::Keyword,
            Self::KeywordList(_) => SearchType::KeywordList,
            Self::Text(_) => SearchType::Text,
            Self::Int(_) => SearchType::Int,
            Self::Double(_) => SearchType::Double,
            Self::Bool(_) => SearchType::Bool,
            Self::Datetime(_) => SearchType::Datetime,
        }
    }

    /// It as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Keyword(text) | Self::Text(text) => text.as_str().into(),
            Self::KeywordList(items) => items.clone().into(),
            Self::Int(number) => (*number).into(),
            Self::Double(number) => (*number).into(),
            Self::Bool(value) => (*value).into(),
            Self::Datetime(time) => time.to_string().into(),
        }
    }

    /// It as Temporal's payload: JSON whose metadata names the type.
    #[must_use]
    pub fn to_payload(&self) -> Payload {
        let mut payload = Payload::json(&self.to_json());
        let named = Bytes::from_static(self.search_type().as_str().as_bytes());
        payload.metadata.insert(TYPE.to_owned(), named);
        payload
    }

    /// A payload's value; `None` where it names no type or has none of it.
    #[must_use]
    pub fn from_payload(payload: &Payload) -> Option<Self> {
        let named = payload.metadata.get(TYPE)?;
        let search_type: SearchType = std::str::from_utf8(named).ok()?.parse().ok()?;
        let value: Value = serde_json::from_slice(&payload.data).ok()?;
        search_type.read(&value)
    }
}

/// The types that the names of a namespace have.
pub(crate) type SearchTypes = HashMap<String, SearchType>;

/// Search attributes by name.
pub type SearchAttributes = BTreeMap<String, SearchValue>;

/// A search attribute as a start, or a task, gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GivenAttribute {
    /// Its type. Absent: that which the name has, or, where it is new, what follows from
    /// the value.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub search_type: Option<SearchType>,
    /// Its value.
    pub value: Value,
}

/// Search attributes that a task sets, by name; `None` takes the run's away.
pub type GivenChanges = BTreeMap<String, Option<GivenAttribute>>;

/// Changes of a run's search attributes, by name; `None` takes one away.
pub type SearchChanges = BTreeMap<String, Option<SearchValue>>;

/// What is taken away, of the names that there are at all, and what is set, which is still
/// to be [fitted](fit).
pub(crate) fn taken_away(
    changes: &GivenChanges,
    known: impl Fn(&str) -> bool,
) -> (SearchChanges, BTreeMap<String, GivenAttribute>) {
    let (mut gone, mut set) = (SearchChanges::new(), BTreeMap::new());
    for (name, given) in changes {
        match given {
            Some(given) => {
                set.insert(name.clone(), given.clone());
            }
            None if known(name) => {
                gone.insert(name.clone(), None);
            }
            // No run has it.
            None => {}
        }
    }
    (gone, set)
}

/// The types of those that are in none of the known ones.
pub(crate) fn new_types(fitted: &SearchAttributes, known: &SearchTypes) -> SearchTypes {
    fitted
        .iter()
        .filter(|(name, _)| !known.contains_key(*name))
        .map(|(name, value)| (name.clone(), value.search_type()))
        .collect()
}

/// All that changes, as stored and as Temporal takes it: null where one is taken away.
pub(crate) fn change_payloads(changes: &SearchChanges) -> BTreeMap<String, Payload> {
    let changes = changes.iter();
    changes
        .map(|(name, value)| {
            let value = value.as_ref();
            (
                name.clone(),
                value.map_or_else(Payload::null, SearchValue::to_payload),
            )
        })
        .collect()
}

/// What a start gives, as values of the types that `known` says of the names.
///
/// # Errors
/// [`EngineError::Invalid`] for a name that may not be used, a type that is not the
/// name's, a value that is not the type's, and what is over a limit.
pub(crate) fn fit(
    given: &BTreeMap<String, GivenAttribute>,
    known: impl Fn(&str) -> Option<SearchType>,
) -> Result<SearchAttributes, EngineError> {
    let invalid = |message: String| Err(EngineError::Invalid(message));
    if given.len() > MAX_ATTRIBUTES {
        return invalid(format!(
            "a run has at most {MAX_ATTRIBUTES} search attributes, not {}",
            given.len()
        ));
    }
    let mut all = 0;
    let mut fitted = SearchAttributes::new();
    for (name, one) in given {
        check_name(name)?;
        let search_type = match (known(name), one.search_type) {
            (Some(known), Some(asked)) if known != asked => {
                return invalid(format!(
                    "the search attribute {name:?} is {known} in this namespace, not {asked}"
                ));
            }
            (Some(known), _) => known,
            (None, Some(asked)) => asked,
            (None, None) => SearchType::inferred(&one.value),
        };
        let Some(value) = search_type.read(&one.value) else {
            return invalid(format!(
                "the search attribute {name:?} is {search_type}: {} is expected",
                search_type.expected()
            ));
        };
        let size = one.value.to_string().len();
        if size > MAX_VALUE {
            return invalid(format!(
                "the search attribute {name:?} has {size} bytes, more than the {MAX_VALUE} allowed"
            ));
        }
        all += name.len() + size;
        fitted.insert(name.clone(), value);
    }
    if all > MAX_VALUES {
        return invalid(format!(
            "the search attributes have {all} bytes, more than the {MAX_VALUES} allowed"
        ));
    }
    Ok(fitted)
}

/// Whether a run may have an attribute of that name; those of the server are none.
pub(crate) fn check_name(name: &str) -> Result<(), EngineError> {
    let valid = name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !valid {
        return Err(EngineError::Invalid(format!(
            "a search attribute's name has 1 to {MAX_NAME} letters, digits and _, and begins with a letter; {:?} does not",
            name.chars().take(100).collect::<String>()
        )));
    }
    let reserved = SYSTEM.contains(&name)
        || name == "WorkflowType"
        || ["Temporal", "Heyday"]
            .iter()
            .any(|own| name.starts_with(own));
    if reserved {
        return Err(EngineError::Invalid(format!(
            "the search attribute {name:?} is the server's own; use another name"
        )));
    }
    Ok(())
}

/// The words of a text, in lower case, each once.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.sort_unstable();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn given(search_type: Option<SearchType>, value: Value) -> BTreeMap<String, GivenAttribute> {
        [("A".to_owned(), GivenAttribute { search_type, value })].into()
    }

    fn one(
        known: Option<SearchType>,
        search_type: Option<SearchType>,
        value: Value,
    ) -> Result<SearchValue, String> {
        fit(&given(search_type, value), |_| known)
            .map(|fitted| fitted["A"].clone())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_new_name_has_the_type_of_its_value() {
        for (value, expected) in [
            (json!("x"), SearchValue::Keyword("x".to_owned())),
            (json!(["x"]), SearchValue::KeywordList(vec!["x".to_owned()])),
            (json!(7), SearchValue::Int(7)),
            (json!(7.5), SearchValue::Double(7.5)),
            (json!(u64::MAX), SearchValue::Double(u64::MAX as f64)),
            (json!(true), SearchValue::Bool(true)),
        ] {
            assert_eq!(one(None, None, value), Ok(expected));
        }
    }

    #[test]
    fn a_value_becomes_one_of_the_type_that_is_known_or_named() {
        let time: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let text = json!("2026-01-31T13:00:00+01:00");
        for (known, named) in [
            (Some(SearchType::Datetime), None),
            (None, Some(SearchType::Datetime)),
            (Some(SearchType::Datetime), Some(SearchType::Datetime)),
        ] {
            let fitted = one(known, named, text.clone());
            assert_eq!(fitted, Ok(SearchValue::Datetime(time)));
        }
        let double = one(Some(SearchType::Double), None, json!(7));
        assert_eq!(double, Ok(SearchValue::Double(7.0)));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = "x".repeat(256);
        for (known, named, value, says) in [
            (None, None, json!(null), "a text"),
            (None, None, json!({"a": 1}), "a text"),
            (None, None, json!([1]), "a list of texts"),
            (None, None, json!(long), "255 characters"),
            (Some(SearchType::Int), None, json!("7"), "a whole number"),
            (Some(SearchType::Int), None, json!(7.5), "a whole number"),
            (
                None,
                Some(SearchType::Datetime),
                json!("yesterday"),
                "RFC 3339",
            ),
            (
                Some(SearchType::Int),
                Some(SearchType::Keyword),
                json!("x"),
                "is Int in this namespace, not Keyword",
            ),
            (
                None,
                Some(SearchType::Text),
                json!("x".repeat(3_000)),
                "more than the 2048",
            ),
        ] {
            let refused = one(known, named, value.clone()).unwrap_err();
            assert!(refused.contains(says), "{value}: {refused}");
        }
        for name in [
            "",
            "1a",
            "a b",
            "WorkflowId",
            "TemporalThing",
            "HeydayDigests",
        ] {
            let given = given(None, json!(1)).into_values();
            let given = given.map(|one| (name.to_owned(), one)).collect();
            assert!(fit(&given, |_| None).is_err(), "{name:?}");
        }
        let one = given(None, json!("x")).remove("A").unwrap();
        let many = (0..101).map(|n| (format!("A{n}"), one.clone())).collect();
        assert!(fit(&many, |_| None).is_err());
    }

    #[test]
    fn a_payload_has_its_type() {
        for value in [
            SearchValue::KeywordList(vec!["a".to_owned(), "b".to_owned()]),
            SearchValue::Text("a b".to_owned()),
            SearchValue::Datetime("2026-01-31T12:00:00.25Z".parse().unwrap()),
            SearchValue::Double(1.5),
        ] {
            assert_eq!(SearchValue::from_payload(&value.to_payload()), Some(value));
        }
        assert_eq!(SearchValue::from_payload(&Payload::json(&json!(1))), None);
    }

    #[test]
    fn words_are_those_between_what_is_no_letter() {
        assert_eq!(
            words("The cat, the CAT-tail 7"),
            ["7", "cat", "tail", "the"]
        );
    }
}
