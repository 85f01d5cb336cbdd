//! What guests say is checked here, once for all backends.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use super::host::bindings::heyday::vector::vector::{Field, Item, Search};
use super::{
    Distance, Entry, FILTERABLE_BYTES, LIST, MOST_COUNTED, PROPERTIES, Property, PropertyType,
    Query, SEARCHED_BYTES, Specification, Value, VectorCode, VectorError, VectorLimits, Want,
    filter,
};

/// 2^53 - 1, up to which every store keeps whole numbers.
pub(super) const LARGEST_INTEGER: i64 = (1 << 53) - 1;
/// The years 0001 to 9999, in milliseconds.
pub(super) const TIMES: RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;
const NAME_BYTES: usize = 63;
const TENANT_BYTES: usize = 64;
const ID_BYTES: usize = 512;
const LARGEST_NUMBER: f32 = 1e15;
/// Of a vector that has a direction; its square is still a number of 32 bits.
const SHORTEST: f32 = 1e-15;

fn refused<T>(code: VectorCode, message: impl Into<String>) -> Result<T, VectorError> {
    Err(VectorError::new(code, message))
}

fn is_name(name: &str, further: &[u8]) -> bool {
    name.len() <= NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || further.contains(&byte)
        })
}

/// Checks the name of a collection.
pub(super) fn name(name: &str) -> Result<(), VectorError> {
    if is_name(name, b"-") {
        return Ok(());
    }
    refused(
        VectorCode::InvalidName,
        "the name of a collection has 1 to 63 of a-z, 0-9 and -, and begins with a letter",
    )
}

/// Checks the name of a tenant.
pub(super) fn tenant(tenant: &str) -> Result<(), VectorError> {
    let valid = (1..=TENANT_BYTES).contains(&tenant.len())
        && tenant
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if valid {
        return Ok(());
    }
    refused(
        VectorCode::InvalidName,
        "a tenant has 1 to 64 of A-Z, a-z, 0-9, _ and -",
    )
}

/// Checks a specification.
pub(super) fn specification(
    specification: &Specification,
    limits: &VectorLimits,
) -> Result<(), VectorError> {
    let invalid = |message: String| refused(VectorCode::InvalidSpecification, message);
    if specification.dimensions == 0 {
        return invalid("a vector has at least one number".to_owned());
    }
    if specification.dimensions > limits.dimensions {
        return refused(
            VectorCode::LimitExceeded,
            format!(
                "vectors of {} numbers; the binding allows {}",
                specification.dimensions, limits.dimensions
            ),
        );
    }
    if specification.properties.len() > PROPERTIES {
        return invalid(format!("a collection has at most {PROPERTIES} properties"));
    }
    let mut names = HashSet::new();
    for property in &specification.properties {
        if !is_name(&property.name, b"_-") {
            return refused(
                VectorCode::InvalidName,
                "the name of a property has 1 to 63 of a-z, 0-9, _ and -, and begins with a \
                 letter",
            );
        }
        if !names.insert(property.name.as_str()) {
            return invalid(format!("the property {} stands twice", property.name));
        }
        if property.searchable && property.kind != PropertyType::Text {
            return invalid(format!(
                "the property {} is no text: only texts are searchable",
                property.name
            ));
        }
    }
    Ok(())
}

/// Checks ids: each one, that there is none twice, and how many there are.
pub(super) fn ids<'a>(
    ids: impl ExactSizeIterator<Item = &'a str>,
    limits: &VectorLimits,
) -> Result<(), VectorError> {
    if ids.len() > limits.batch_items as usize {
        return refused(
            VectorCode::LimitExceeded,
            format!(
                "{} items at once; the binding allows {}",
                ids.len(),
                limits.batch_items
            ),
        );
    }
    let mut seen = HashSet::with_capacity(ids.len());
    for id in ids {
        let broken = if id.is_empty() {
            "an id is not empty"
        } else if id.len() > ID_BYTES {
            "an id has at most 512 bytes"
        } else if id.chars().any(char::is_control) {
            "an id has no control characters"
        } else if !seen.insert(id) {
            "an id stands once in a call"
        } else {
            continue;
        };
        return refused(VectorCode::InvalidId, broken);
    }
    Ok(())
}

/// Checks a vector.
pub(super) fn vector(specification: &Specification, vector: &[f32]) -> Result<(), VectorError> {
    let invalid = |message: String| refused(VectorCode::InvalidVector, message);
    if vector.len() != specification.dimensions as usize {
        return invalid(format!(
            "the vector has {} numbers, the collection's have {}",
            vector.len(),
            specification.dimensions
        ));
    }
    // Not `>`: NaN is neither.
    if !vector.iter().all(|number| number.abs() <= LARGEST_NUMBER) {
        return invalid("a number of the vector is not between -1e15 and 1e15".to_owned());
    }
    let square = vector.iter().map(|number| number * number).sum::<f32>();
    if specification.distance == Distance::Cosine && square < SHORTEST * SHORTEST {
        return invalid("the vector is too short to have a direction".to_owned());
    }
    Ok(())
}

fn number_of(specification: &Specification, name: &str) -> Option<usize> {
    let mut properties = specification.properties.iter();
    properties.position(|property| property.name == name)
}

fn value(property: &Property, value: &Value) -> Result<(), VectorError> {
    let long = |text: &String| property.filterable && text.len() > FILTERABLE_BYTES;
    let told = match (property.kind, value) {
        (PropertyType::Text, Value::Text(text)) if long(text) => {
            "is filterable and over 1,024 bytes"
        }
        (PropertyType::TextList, Value::TextList(texts)) if texts.len() > LIST => {
            "has more than 1,000 texts"
        }
        (PropertyType::TextList, Value::TextList(texts)) if texts.iter().any(long) => {
            "is filterable and has a text over 1,024 bytes"
        }
        (PropertyType::Integer, Value::Integer(number))
            if !(-LARGEST_INTEGER..=LARGEST_INTEGER).contains(number) =>
        {
            "is not between -(2^53 - 1) and 2^53 - 1"
        }
        (PropertyType::Real, Value::Real(number)) if !number.is_finite() => "is no finite number",
        (PropertyType::Timestamp, Value::Timestamp(time)) if !TIMES.contains(time) => {
            "is not in the years 0001 to 9999"
        }
        (PropertyType::Text, Value::Text(_))
        | (PropertyType::Integer, Value::Integer(_))
        | (PropertyType::Real, Value::Real(_))
        | (PropertyType::Boolean, Value::Boolean(_))
        | (PropertyType::Timestamp, Value::Timestamp(_))
        | (PropertyType::TextList, Value::TextList(_)) => return Ok(()),
        _ => "has a value of another type",
    };
    refused(
        VectorCode::InvalidProperty,
        format!("the property {} {told}", property.name),
    )
}

/// Checks an item that is to be written.
pub(super) fn item(
    specification: &Specification,
    item: Item,
    limits: &VectorLimits,
) -> Result<Entry, VectorError> {
    if let Some(numbers) = &item.vector {
        vector(specification, numbers)?;
    }
    let mut values: Vec<Option<Value>> = vec![None; specification.properties.len()];
    for Field {
        property: name,
        value: found,
    } in item.properties
    {
        let Some(number) = number_of(specification, &name) else {
            return refused(
                VectorCode::InvalidProperty,
                "an item has a property that the collection has not",
            );
        };
        value(&specification.properties[number], &found)?;
        if values[number].replace(found).is_some() {
            return refused(
                VectorCode::InvalidProperty,
                format!("an item has the property {name} twice"),
            );
        }
    }
    let entry = Entry {
        id: item.id,
        vector: item.vector,
        values,
    };
    let (bytes, limit) = (entry.bytes(), limits.item_bytes);
    if bytes > limit {
        return refused(
            VectorCode::LimitExceeded,
            format!("an item has {bytes} bytes, more than the {limit} that the binding allows"),
        );
    }
    Ok(entry)
}

/// Which properties are answered.
pub(super) fn want(
    specification: &Specification,
    properties: Option<Vec<String>>,
    vectors: bool,
) -> Result<Want, VectorError> {
    let properties = match properties {
        None => (0..specification.properties.len()).collect(),
        Some(names) => {
            let numbers: Option<Vec<usize>> = names
                .iter()
                .map(|name| number_of(specification, name))
                .collect();
            let Some(mut numbers) = numbers else {
                return refused(
                    VectorCode::InvalidProperty,
                    "a property is asked for that the collection has not",
                );
            };
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        }
    };
    Ok(Want {
        properties,
        vectors,
    })
}

/// Checks what a search is about.
pub(super) fn search(
    specification: &Specification,
    search: Search,
    limits: &VectorLimits,
) -> Result<Query, VectorError> {
    if search.limit == 0 || search.limit > limits.result_items {
        return refused(
            VectorCode::LimitExceeded,
            format!(
                "a search answers 1 to {} items, not {}",
                limits.result_items, search.limit
            ),
        );
    }
    Ok(Query {
        limit: search.limit,
        filter: filter::parse(specification, search.filter)?,
        want: want(specification, search.properties, search.vectors)?,
    })
}

/// The words of a text that is searched for: each once, in lower case.
pub(super) fn words(text: &str) -> Result<Vec<String>, VectorError> {
    if text.len() > SEARCHED_BYTES {
        return refused(
            VectorCode::LimitExceeded,
            format!("a text that is searched for has at most {SEARCHED_BYTES} bytes"),
        );
    }
    let mut seen = HashSet::new();
    let words = text.split(|c: char| !c.is_alphanumeric());
    Ok(words
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .filter(|word| seen.insert(word.clone()))
        .collect())
}

/// Checks how much is to be counted for a search: each word in each property.
pub(super) fn counted(words: &[String], properties: &[usize]) -> Result<(), VectorError> {
    if words.len() * properties.len() > MOST_COUNTED {
        return refused(
            VectorCode::LimitExceeded,
            format!(
                "a search counts at most {MOST_COUNTED} words in properties, not {} in {}",
                words.len(),
                properties.len()
            ),
        );
    }
    Ok(())
}

/// The numbers of the searchable properties that are meant.
pub(super) fn searched(
    specification: &Specification,
    names: &[String],
) -> Result<Vec<usize>, VectorError> {
    let invalid = |message: &str| refused(VectorCode::InvalidSearch, message);
    if names.is_empty() {
        let searchable = specification.properties.iter().enumerate();
        let searchable = searchable.filter(|(_, property)| property.searchable);
        let numbers: Vec<usize> = searchable.map(|(number, _)| number).collect();
        if numbers.is_empty() {
            return invalid("no property of the collection is searchable");
        }
        return Ok(numbers);
    }
    let mut numbers = Vec::new();
    for name in names {
        match number_of(specification, name) {
            Some(number) if specification.properties[number].searchable => numbers.push(number),
            _ => return invalid("a property is searched that the collection has not so"),
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_form() {
        for good in ["a", "chunks-2", &"n".repeat(63)] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            "2a",
            "a_b",
            "a.b",
            "é",
            "a\0",
            "a b",
            "../a",
            &"n".repeat(64),
        ] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for good in ["A", "0", "_-", &"t".repeat(64)] {
            assert!(tenant(good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "a.b", "é", "a\0", "a b", &"t".repeat(65)] {
            assert!(tenant(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_text_has_each_word_once() {
        assert_eq!(
            words("The ROTOR's rotor-blade, été 2026!").expect("short"),
            ["the", "rotor", "s", "blade", "été", "2026"]
        );
        assert!(words("?! …").expect("short").is_empty());
        assert!(words(&"a".repeat(4_097)).is_err());
        let many = vec!["a".to_owned(); 1_024];
        assert!(counted(&many, &[0; 4]).is_ok());
        assert!(counted(&many, &[0; 5]).is_err());
    }
}
