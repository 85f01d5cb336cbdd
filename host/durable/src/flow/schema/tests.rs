//! Schemas and values, kind and hostile.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::*;

fn refused(schema: &Value, pointer: &str, says: &str) {
    let error = compile(schema).expect_err("this schema was accepted");
    assert_eq!(error.pointer, pointer, "{error}");
    assert!(error.message.contains(says), "{error}");
}

#[test]
fn tells_where_a_value_does_not_fit() {
    let schema = compile(&json!({
        "type": "object",
        "properties": {"path": {"type": "string"}, "size": {"type": "integer", "minimum": 1}},
        "required": ["path"],
        "additionalProperties": false
    }))
    .unwrap();
    assert_eq!(schema.validate(&json!({"path": "a", "size": 2})), Ok(()));
    let violations = schema
        .validate(&json!({"path": 5, "size": 0, "other": 1}))
        .unwrap_err();
    assert_eq!(violations.len(), 3);
    let path = violations
        .iter()
        .find(|violation| violation.instance == "/path")
        .unwrap();
    assert_eq!(path.schema, "/properties/path/type");
    assert!(
        path.to_string().starts_with("/path: 5 is not of type"),
        "{path}"
    );
    assert!(schema.validate(&json!(null)).is_err());
}

#[test]
fn a_violation_does_not_repeat_a_huge_value() {
    let schema = compile(&json!({"items": {"type": "integer"}})).unwrap();
    let violations = schema.validate(&json!(["x".repeat(10_000)])).unwrap_err();
    assert!(violations[0].message.len() < 400);
    let many: Vec<Value> = (0..100).map(|n| json!(n.to_string())).collect();
    assert_eq!(schema.validate(&Value::Array(many)).unwrap_err().len(), 20);
    let huge: Vec<Value> = (0..300_000).map(|_| json!(null)).collect();
    assert_eq!(schema.validate(&Value::Array(huge)).unwrap_err().len(), 1);
}

#[test]
fn refuses_what_is_no_schema() {
    refused(&json!({"type": "strin"}), "/type", "strin");
    refused(
        &json!({"properties": {"a": {"minimum": "1"}}}),
        "/properties/a/minimum",
        "1",
    );
    refused(&json!(5), "", "5");
    refused(&json!({"$schema": "http://x.test/own"}), "", "x.test");
}

#[test]
fn refuses_references_out_of_the_schema() {
    for target in [
        "http://127.0.0.1:1/x",
        "file:///etc/passwd",
        "other",
        "/a",
        "urn:x",
        "../a#/b",
    ] {
        refused(
            &json!({"properties": {"a": {"$ref": target}}}),
            "/properties/a/$ref",
            "out of the schema",
        );
    }
    refused(&json!({"$ref": "#/$defs/none"}), "/$ref", "not there");
    refused(
        &json!({"$defs": {"a": {"$anchor": "x"}}, "$ref": "#x"}),
        "/$ref",
        "anchor",
    );
    refused(
        &json!({"$dynamicRef": "#x"}),
        "/$dynamicRef",
        "not supported",
    );
    refused(
        &json!({"items": {"$id": "http://x.test/y"}}),
        "/items/$id",
        "not supported",
    );
    refused(
        &json!({"$defs": {"a": {"items": {"$ref": "b"}}}, "$ref": "#/$defs/a"}),
        "/$defs/a/items/$ref",
        "out of",
    );
    // At the top it is only a name, and `id` may be a property's name.
    let named = json!({"$id": "http://x.test/y", "properties": {"id": {"type": "string"}}, "$defs": {"a": {}}, "$ref": "#/$defs/a"});
    assert!(
        compile(&named)
            .unwrap()
            .validate(&json!({"id": "a"}))
            .is_ok()
    );
    assert!(
        compile(&named)
            .unwrap()
            .validate(&json!({"id": 1}))
            .is_err()
    );
}

#[test]
fn refuses_patterns_that_cost_too_much() {
    refused(&json!({"pattern": "(a"}), "/pattern", "(a");
    refused(&json!({"pattern": "(?=a)b"}), "/pattern", "(?=a)");
    assert!(compile(&json!({"pattern": "((a{1,1000}){1,1000}){1,1000}"})).is_err());
    let many: Map<String, Value> = (0..201).map(|n| (format!("^p{n}"), json!({}))).collect();
    refused(
        &json!({"items": {"patternProperties": many}}),
        "/items/patternProperties",
        "at most 200 patterns",
    );
    refused(
        &json!({"pattern": "a".repeat(20_000)}),
        "/pattern",
        "16384 bytes",
    );
    // None that is accepted backtracks: these take for ever elsewhere.
    let began = Instant::now();
    for pattern in [
        "^(a+)+$",
        "^(a|a)*$",
        "^(\\w{1,50}){1,50}$",
        "^(\\w{1,500}){1,500}$",
        "^(\\w+\\s?)*$",
        "(a*)*b(a*)*c",
        "^a{0,900}a{0,900}a{0,900}$",
        "\\p{L}{1,300}\\p{L}{1,300}!",
    ] {
        for schema in [
            json!({"pattern": pattern}),
            json!({"patternProperties": {pattern: false}}),
        ] {
            let Ok(schema) = compile(&schema) else {
                continue;
            };
            let text = format!("{}!", "a".repeat(20_000));
            let _ = schema.validate(&json!(text));
            let _ = schema.validate(&json!({text: 1}));
        }
    }
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn refuses_schemas_that_multiply() {
    let mut defs = Map::new();
    defs.insert("d0".to_owned(), json!({"type": "string"}));
    for n in 1..40 {
        let last = json!({"$ref": format!("#/$defs/d{}", n - 1)});
        defs.insert(format!("d{n}"), json!({"allOf": [last, last]}));
    }
    refused(
        &json!({"$defs": defs, "$ref": "#/$defs/d39"}),
        "",
        "more than 20000 ways",
    );
    // The same, one property deeper each time.
    let mut defs = Map::new();
    defs.insert("d0".to_owned(), json!({}));
    for n in 1..30 {
        let last = json!({"properties": {"a": {"$ref": format!("#/$defs/d{}", n - 1)}}});
        defs.insert(format!("d{n}"), json!({"anyOf": [last, last, last]}));
    }
    refused(
        &json!({"$defs": defs, "$ref": "#/$defs/d29"}),
        "",
        "more than 20000 ways",
    );
    let mut nested = json!({});
    for _ in 0..40 {
        nested = json!({"allOf": [nested], "unevaluatedProperties": false});
    }
    refused(&nested, "", "more than 20000 ways");
}

#[test]
fn refuses_schemas_that_are_deep() {
    let mut defs = Map::new();
    defs.insert("d0".to_owned(), json!({}));
    for n in 1..5_000 {
        defs.insert(
            format!("d{n}"),
            json!({"$ref": format!("#/$defs/d{}", n - 1)}),
        );
    }
    let error = compile(&json!({"$defs": defs, "$ref": "#/$defs/d4999"})).unwrap_err();
    assert!(error.message.contains("deeper than 128"), "{error}");
    let mut nested = json!({});
    for _ in 0..200 {
        nested = json!({"not": nested});
    }
    assert!(
        compile(&nested)
            .unwrap_err()
            .message
            .contains("deeper than 128")
    );
}

#[test]
fn a_schema_that_is_only_itself_does_not_recurse() {
    for schema in [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"not": {"$ref": "#"}}),
        json!({"anyOf": [{"$ref": "#"}], "unevaluatedProperties": {"$ref": "#"}}),
    ] {
        // What it answers does not matter; that it does.
        let _ = compile(&schema).map(|schema| schema.validate(&json!({"a": {"b": [1]}})));
    }
}

/// A value of that many levels, each holding the next under `a`.
fn nested(levels: usize) -> Value {
    (0..levels).fold(json!({}), |inner, _| json!({"a": inner}))
}

#[test]
fn recursive_schemas_neither_explode_nor_overflow() {
    let branch = json!({"properties": {"a": {"$ref": "#"}}, "required": ["z"]});
    let exploding = compile(&json!({"anyOf": [branch, branch, branch], "type": "object"})).unwrap();
    let began = Instant::now();
    let violations = exploding.validate(&nested(60)).unwrap_err();
    assert!(
        violations[0].message.contains("too large to say where"),
        "{violations:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );

    // A cycle of a hundred references per level of the value.
    let mut defs = Map::new();
    defs.insert(
        "d0".to_owned(),
        json!({"properties": {"a": {"$ref": "#/$defs/d100"}}, "type": "object"}),
    );
    for n in 1..=100 {
        defs.insert(
            format!("d{n}"),
            json!({"allOf": [{"$ref": format!("#/$defs/d{}", n - 1)}]}),
        );
    }
    let chain = json!({"$defs": defs, "$ref": "#/$defs/d100"});
    match compile(&chain) {
        Ok(schema) => assert!(schema.validate(&nested(120)).is_err()),
        Err(error) => assert!(error.message.contains("deeper than 128"), "{error}"),
    }
    let mut defs = Map::new();
    defs.insert(
        "d0".to_owned(),
        json!({"properties": {"a": {"$ref": "#/$defs/d50"}}, "type": "object"}),
    );
    for n in 1..=50 {
        defs.insert(
            format!("d{n}"),
            json!({"$ref": format!("#/$defs/d{}", n - 1)}),
        );
    }
    let chain = compile(&json!({"$defs": defs, "$ref": "#/$defs/d50"})).unwrap();
    assert_eq!(chain.validate(&nested(100)), Ok(()));
    assert!(
        chain.validate(&nested(200)).unwrap_err()[0]
            .message
            .contains("too large")
    );
}

#[test]
fn a_recursive_type_says_where_a_value_does_not_fit() {
    let tree = compile(&json!({
        "$defs": {"node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}
            },
            "required": ["name"]
        }},
        "$ref": "#/$defs/node"
    }))
    .unwrap();
    let value = json!({"name": "a", "children": [{"name": "b"}, {"name": 5}]});
    let violations = tree.validate(&value).unwrap_err();
    assert_eq!(violations[0].instance, "/children/1/name");
}

#[test]
fn a_value_too_large_for_its_schema_does_not_fit() {
    let alternatives: Vec<Value> = (0..10_000).map(|n| json!({"const": n})).collect();
    let schema = compile(&json!({"items": {"anyOf": alternatives}})).unwrap();
    assert_eq!(schema.validate(&json!([1, 2, 9_999])), Ok(()));
    let huge: Vec<Value> = (0..100_000).map(|_| json!(-1)).collect();
    let violations = schema.validate(&Value::Array(huge)).unwrap_err();
    assert!(
        violations[0].message.contains("100001 parts"),
        "{violations:?}"
    );
}
