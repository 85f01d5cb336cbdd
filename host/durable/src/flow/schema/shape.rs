//! What validating against a schema may cost, found without validating.
//!
//! *Parallel* bounds how often one place of a value is visited: alternatives and
//! references at one place add up, properties of different names do not. *Levels*
//! bounds how deep the validator recurses. References that lead back to themselves are
//! followed once; how often they repeat depends on the value.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::SchemaError;

/// The most visits of one place of a value.
const MAX_PARALLEL: u64 = 20_000;

/// The most levels of a schema, references followed.
const MAX_DEPTH: u64 = 128;

/// The most patterns, and bytes of them, in one schema.
const MAX_PATTERNS: usize = 200;
const MAX_PATTERN_BYTES: usize = 16 * 1024;

/// The most bytes that one pattern may take when it is compiled.
pub(super) const MAX_PATTERN_PROGRAM: usize = 512 * 1024;

/// The cost of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    parallel: u64,
    levels: u64,
    /// Places where a reference leads back to a schema that contains it.
    recursions: u64,
}

/// The size of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Values in it, with long strings counted by their length.
    pub(super) nodes: u64,
    /// Levels of arrays and objects.
    pub(super) depth: u64,
}

impl Extent {
    pub(super) fn of(value: &Value) -> Self {
        let mut extent = Self { nodes: 0, depth: 0 };
        let mut open = vec![(value, 0)];
        while let Some((value, depth)) = open.pop() {
            extent.nodes += 1;
            extent.depth = extent.depth.max(depth);
            match value {
                Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
                Value::Object(members) => {
                    open.extend(members.values().map(|member| (member, depth + 1)));
                }
                Value::String(text) => extent.nodes += text.len() as u64 / 256,
                _ => {}
            }
        }
        extent
    }
}

impl Shape {
    /// Measures a schema.
    pub(super) fn of(schema: &Value) -> Result<Self, SchemaError> {
        let mut patterns = Patterns::default();
        patterns.count(schema, &mut Vec::new())?;
        let mut walk = Walk {
            root: schema,
            known: HashMap::new(),
            recursions: 0,
            referred: 0,
            path: Vec::new(),
        };
        let cost = walk.schema(schema, 1)?;
        let parallel = if walk.recursions == 0 {
            cost.parallel
        } else {
            // Each schema that is referred to is visited once at each place.
            cost.parallel.saturating_add(walk.referred)
        };
        if parallel > MAX_PARALLEL {
            return Err(SchemaError {
                pointer: String::new(),
                message: format!(
                    "the schema may check one value in more than {MAX_PARALLEL} ways; use fewer alternatives and references within each other"
                ),
            });
        }
        Ok(Self {
            parallel,
            levels: cost.levels,
            recursions: walk.recursions,
        })
    }

    /// How many visits validation takes at most.
    pub(super) const fn visits(&self, extent: &Extent) -> u64 {
        self.parallel.saturating_mul(extent.nodes)
    }

    /// The same, where nothing is remembered on the way.
    pub(super) fn visits_explained(&self, extent: &Extent) -> u64 {
        let depth = u32::try_from(extent.depth).unwrap_or(u32::MAX);
        self.visits(extent)
            .saturating_mul(self.recursions.max(1).saturating_pow(depth))
    }

    /// How many levels of schema are on the stack at most.
    pub(super) const fn levels(&self, extent: &Extent) -> u64 {
        if self.recursions == 0 {
            self.levels
        } else {
            self.levels.saturating_mul(extent.depth + 1)
        }
    }
}

/// Counts what the regex engine would have to compile.
#[derive(Default)]
struct Patterns {
    number: usize,
    bytes: usize,
}

impl Patterns {
    fn count(&mut self, value: &Value, path: &mut Vec<String>) -> Result<(), SchemaError> {
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.count(item, path)?;
                    path.pop();
                }
            }
            Value::Object(members) => {
                for (key, member) in members {
                    path.push(key.clone());
                    match (key.as_str(), member) {
                        ("pattern", Value::String(pattern)) => self.add(pattern, path)?,
                        ("patternProperties", Value::Object(patterns)) => {
                            for pattern in patterns.keys() {
                                self.add(pattern, path)?;
                            }
                        }
                        _ => {}
                    }
                    self.count(member, path)?;
                    path.pop();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, pattern: &str, path: &[String]) -> Result<(), SchemaError> {
        self.number += 1;
        self.bytes += pattern.len();
        if self.number > MAX_PATTERNS || self.bytes > MAX_PATTERN_BYTES {
            return Err(SchemaError {
                pointer: pointer(path),
                message: format!(
                    "a schema has at most {MAX_PATTERNS} patterns of together {MAX_PATTERN_BYTES} bytes"
                ),
            });
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
struct Cost {
    parallel: u64,
    levels: u64,
}

/// What is known of a schema, by its address within the root.
enum Known {
    InProgress,
    Done(Cost),
}

struct Walk<'s> {
    root: &'s Value,
    known: HashMap<*const Value, Known>,
    recursions: u64,
    referred: u64,
    path: Vec<String>,
}

/// Keywords whose schema applies to the same place.
const SAME_PLACE: [&str; 4] = ["not", "if", "then", "else"];
const SAME_PLACE_LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const SAME_PLACE_MAPS: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords whose schema applies to places within, all of which may coincide.
const WITHIN: [&str; 7] = [
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "items",
];

impl<'s> Walk<'s> {
    fn schema(&mut self, schema: &'s Value, depth: u64) -> Result<Cost, SchemaError> {
        if depth > MAX_DEPTH {
            return Err(self.error(format!(
                "the schema nests deeper than {MAX_DEPTH} levels, references followed"
            )));
        }
        let Value::Object(members) = schema else {
            return Ok(Cost {
                parallel: 1,
                levels: 1,
            });
        };
        let address: *const Value = schema;
        match self.known.get(&address) {
            Some(Known::InProgress) => {
                self.recursions += 1;
                return Ok(Cost {
                    parallel: 1,
                    levels: 1,
                });
            }
            Some(Known::Done(cost)) => {
                let cost = *cost;
                // Known by a shorter way; the limit counts the longest.
                if depth + cost.levels > MAX_DEPTH + 1 {
                    return Err(self.error(format!(
                        "the schema nests deeper than {MAX_DEPTH} levels, references followed"
                    )));
                }
                return Ok(cost);
            }
            None => {}
        }
        self.known.insert(address, Known::InProgress);
        let cost = self.members(members, depth)?;
        self.known.insert(address, Known::Done(cost));
        Ok(cost)
    }

    fn members(
        &mut self,
        members: &'s Map<String, Value>,
        depth: u64,
    ) -> Result<Cost, SchemaError> {
        let (mut parallel, mut levels) = (1_u64, 0_u64);
        let mut disjoint = 0;
        for (key, value) in members {
            self.path.push(key.clone());
            let cost = match (key.as_str(), value) {
                ("$ref", Value::String(reference)) => self.reference(reference, depth)?,
                ("$dynamicRef" | "$recursiveRef", Value::String(_)) => {
                    return Err(self.error(format!("{key} is not supported; use $ref")));
                }
                ("$id" | "id", Value::String(_)) if self.path.len() > 1 => {
                    return Err(self.error(format!(
                        "{key} within a schema is not supported; refer to its parts by #/..."
                    )));
                }
                ("properties", Value::Object(map)) => {
                    let cost =
                        self.largest(map.iter().map(|(key, value)| (key.clone(), value)), depth)?;
                    disjoint = disjoint.max(cost.parallel);
                    Cost {
                        parallel: 0,
                        ..cost
                    }
                }
                ("prefixItems" | "items", Value::Array(items)) => {
                    let items = items.iter().enumerate();
                    let cost =
                        self.largest(items.map(|(index, item)| (index.to_string(), item)), depth)?;
                    disjoint = disjoint.max(cost.parallel);
                    Cost {
                        parallel: 0,
                        ..cost
                    }
                }
                (key, value) if SAME_PLACE.contains(&key) || WITHIN.contains(&key) => {
                    self.schema(value, depth + 1)?
                }
                (key, Value::Array(items)) if SAME_PLACE_LISTS.contains(&key) => {
                    let items = items.iter().enumerate();
                    self.sum(items.map(|(index, item)| (index.to_string(), item)), depth)?
                }
                (key, Value::Object(map))
                    if SAME_PLACE_MAPS.contains(&key) || key == "patternProperties" =>
                {
                    self.sum(map.iter().map(|(key, value)| (key.clone(), value)), depth)?
                }
                // A list is compared element by element.
                ("enum" | "required", Value::Array(items)) => Cost {
                    parallel: items.len() as u64 / 8,
                    levels: 0,
                },
                _ => Cost {
                    parallel: 0,
                    levels: 0,
                },
            };
            self.path.pop();
            parallel = parallel.saturating_add(cost.parallel);
            levels = levels.max(cost.levels);
        }
        parallel = parallel.saturating_add(disjoint);
        if members.contains_key("unevaluatedProperties") || members.contains_key("unevaluatedItems")
        {
            // What is evaluated is found by validating once more.
            parallel = parallel.saturating_mul(2);
        }
        Ok(Cost {
            parallel,
            levels: levels + 1,
        })
    }

    fn reference(&mut self, reference: &str, depth: u64) -> Result<Cost, SchemaError> {
        let target = match reference.strip_prefix('#') {
            Some(pointer) if pointer.is_empty() || pointer.starts_with('/') => {
                self.root.pointer(&unescape(pointer))
            }
            Some(_) => {
                return Err(self.error(format!(
                    "$ref to the anchor {:?} is not supported; refer to it by #/...",
                    short(reference)
                )));
            }
            None => {
                return Err(self.error(format!(
                    "$ref refers to {:?}, out of the schema; put what it means under $defs and refer to #/$defs/...",
                    short(reference)
                )));
            }
        };
        let Some(target) = target else {
            return Err(self.error(format!(
                "$ref refers to {:?}, which is not there",
                short(reference)
            )));
        };
        // Messages about the target say where it stands, not how it was reached.
        let path = std::mem::take(&mut self.path);
        self.path = reference
            .split('/')
            .skip(1)
            .map(|step| unescape(step).replace("~1", "/").replace("~0", "~"))
            .collect();
        let cost = self.schema(target, depth + 1)?;
        self.path = path;
        self.referred = self.referred.saturating_add(cost.parallel);
        Ok(cost)
    }

    fn sum(
        &mut self,
        schemas: impl Iterator<Item = (String, &'s Value)>,
        depth: u64,
    ) -> Result<Cost, SchemaError> {
        self.fold(schemas, depth, u64::saturating_add)
    }

    fn largest(
        &mut self,
        schemas: impl Iterator<Item = (String, &'s Value)>,
        depth: u64,
    ) -> Result<Cost, SchemaError> {
        self.fold(schemas, depth, u64::max)
    }

    fn fold(
        &mut self,
        schemas: impl Iterator<Item = (String, &'s Value)>,
        depth: u64,
        combine: fn(u64, u64) -> u64,
    ) -> Result<Cost, SchemaError> {
        let mut total = Cost {
            parallel: 0,
            levels: 0,
        };
        for (step, schema) in schemas {
            self.path.push(step);
            let cost = self.schema(schema, depth + 1)?;
            self.path.pop();
            total.parallel = combine(total.parallel, cost.parallel);
            total.levels = total.levels.max(cost.levels);
        }
        Ok(total)
    }

    fn error(&self, message: String) -> SchemaError {
        SchemaError {
            pointer: pointer(&self.path),
            message,
        }
    }
}

fn pointer(path: &[String]) -> String {
    path.iter()
        .map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1")))
        .collect()
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Undoes the percent-encoding of a URI's fragment.
fn unescape(fragment: &str) -> String {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shape(schema: &Value) -> Shape {
        Shape::of(schema).unwrap()
    }

    #[test]
    fn properties_of_different_names_do_not_add_up() {
        let properties: Map<String, Value> = (0..500)
            .map(|n| (format!("p{n}"), json!({"type": "string"})))
            .collect();
        let shape = shape(&json!({"type": "object", "properties": properties}));
        assert_eq!((shape.parallel, shape.levels, shape.recursions), (2, 2, 0));
    }

    #[test]
    fn alternatives_and_references_add_up() {
        let leaf = json!({"type": "string"});
        assert_eq!(shape(&json!({"anyOf": [leaf, leaf, leaf]})).parallel, 4);
        let shared = json!({"$defs": {"a": {"allOf": [leaf, leaf]}}, "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]});
        assert_eq!(shape(&shared).parallel, 1 + 2 * (1 + 3));
    }

    #[test]
    fn recursion_is_followed_once() {
        let tree = json!({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}});
        let shape = shape(&tree);
        assert_eq!(shape.recursions, 2);
        let value = json!({"left": {"left": {}}});
        assert_eq!(Extent::of(&value), Extent { nodes: 3, depth: 2 });
        assert_eq!(shape.levels(&Extent::of(&value)), shape.levels * 3);
    }

    #[test]
    fn references_are_read_as_uri_fragments() {
        let schema = json!({"$defs": {"a b/c": {"type": "string"}}, "$ref": "#/$defs/a%20b~1c"});
        assert_eq!(shape(&schema).parallel, 2);
    }
}
