//! An input to start from, made of an activity's JSON Schema: what it requires, with
//! values that a person will replace.

use serde_json::{Map, Value, json};

/// Schemas nested deeper than this are not followed; one that refers to itself ends here.
const DEEPEST: usize = 8;

/// A value that has the shape of a schema's own examples, or of what it requires. It need
/// not be valid: a pattern or a range is not looked at.
pub fn of_schema(schema: &Value) -> Value {
    sample(schema, schema, DEEPEST)
}

fn sample(schema: &Value, root: &Value, depth: usize) -> Value {
    let Some(depth) = depth.checked_sub(1) else {
        return Value::Null;
    };
    for member in ["const", "default"] {
        if let Some(value) = schema.get(member) {
            return value.clone();
        }
    }
    for member in ["examples", "enum"] {
        if let Some(value) = schema.get(member).and_then(|values| values.get(0)) {
            return value.clone();
        }
    }
    if let Some(pointer) = schema.get("$ref").and_then(Value::as_str) {
        let target = pointer
            .strip_prefix('#')
            .and_then(|pointer| root.pointer(pointer));
        return target.map_or(Value::Null, |target| sample(target, root, depth));
    }
    for member in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema.get(member).and_then(|choices| choices.get(0)) {
            return sample(first, root, depth);
        }
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        Some(kind) => kind.as_str(),
        None if schema.get("properties").is_some() => Some("object"),
        None => None,
    };
    match kind {
        Some("object") => Value::Object(object(schema, root, depth)),
        Some("array") => json!([]),
        Some("string") => json!("..."),
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("null") => Value::Null,
        _ => json!({}),
    }
}

fn object(schema: &Value, root: &Value, depth: usize) -> Map<String, Value> {
    let required = schema.get("required").and_then(Value::as_array);
    required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|name| {
            let property = schema.get("properties").and_then(|all| all.get(name));
            (
                name.to_owned(),
                sample(property.unwrap_or(&Value::Null), root, depth),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_is_there() {
        let schema = json!({
            "type": "object",
            "required": ["name", "count", "where", "mode", "tags"],
            "properties": {
                "name": { "type": "string" },
                "count": { "type": ["integer", "null"] },
                "where": { "$ref": "#/$defs/Place" },
                "mode": { "enum": ["fast", "slow"] },
                "tags": { "type": "array" },
                "note": { "type": "string" },
            },
            "$defs": { "Place": { "properties": { "key": { "default": "a.pdf" } }, "required": ["key"] } },
        });
        assert_eq!(
            of_schema(&schema),
            json!({ "name": "...", "count": 1, "where": { "key": "a.pdf" }, "mode": "fast", "tags": [] })
        );
    }

    #[test]
    fn any_schema_has_a_sample() {
        assert_eq!(of_schema(&Value::Null), json!({}));
        assert_eq!(of_schema(&json!(true)), json!({}));
        assert_eq!(
            of_schema(&json!({ "anyOf": [{ "type": "boolean" }] })),
            json!(true)
        );
        let endless = json!({ "type": "object", "required": ["next"], "properties": { "next": { "$ref": "#" } } });
        assert!(of_schema(&endless).is_object());
        assert_eq!(
            of_schema(&json!({ "$ref": "https://elsewhere" })),
            Value::Null
        );
    }
}
