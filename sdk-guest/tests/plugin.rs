//! A whole plugin as an author writes it, described and run as the host does.

use heyday_sdk::{Plugin as _, prelude::*};
use serde_json::{Value, json};

/// Whom to greet.
#[derive(Deserialize, JsonSchema)]
struct Greet {
    /// The person's name.
    name: String,
    #[serde(default)]
    times: u32,
}

#[derive(Serialize, JsonSchema)]
struct Greeting {
    text: String,
}

/// Greets a person.
///
/// As often as asked.
#[activity(
    queue = "general-queue",
    start_to_close = "30s",
    retry(maximum_attempts = 3)
)]
fn greet(input: Greet) -> Result<Greeting> {
    Ok(Greeting {
        text: format!("Hello {}", input.name).repeat(input.times.max(1) as usize),
    })
}

/// Neither reads nor answers anything.
#[activity]
fn ping() {}

#[activity(name = "parse-number")]
fn parse(text: String) -> Result<i64> {
    Ok(text.parse()?)
}

#[activity]
fn own_error(_: Value) -> Result<(), std::num::ParseIntError> {
    "x".parse::<u8>().map(|_| ())
}

heyday_sdk::plugin!(requires(sql = "postgresql", graph = ["kglite", "neo4j"]));

fn run(activity: &str, input: &Value) -> Result<Value> {
    Ok(serde_json::from_str(&HeydayPlugin::run(
        activity,
        &input.to_string(),
    )?)?)
}

#[test]
fn the_description_is_what_the_wit_package_says() {
    let text = HeydayPlugin::describe();
    assert_eq!(text, HeydayPlugin::describe(), "always the same");
    let description: Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!(description["name"], "heyday-sdk");
    assert_eq!(description["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(description["documentation"], env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(
        description["requires"],
        json!({"sql": ["postgresql"], "graph": ["kglite", "neo4j"]})
    );
    let activities = description["activities"].as_array().expect("a list");
    let names: Vec<&Value> = activities
        .iter()
        .map(|activity| &activity["name"])
        .collect();
    assert_eq!(names, ["greet", "own_error", "parse-number", "ping"]);

    let greet = &activities[0];
    assert_eq!(
        greet["documentation"],
        "Greets a person.\n\nAs often as asked."
    );
    assert_eq!(greet["queue"], "general-queue");
    assert_eq!(greet["timeouts"], json!({"start_to_close": "30s"}));
    assert_eq!(greet["retry"], json!({"maximum_attempts": 3}));
    let input = &greet["input"];
    assert_eq!(
        input["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    assert_eq!(input["required"], json!(["name"]));
    assert_eq!(
        input["properties"]["name"]["description"],
        "The person's name."
    );
    assert_eq!(greet["output"]["properties"]["text"]["type"], "string");

    let ping = &activities[3];
    assert_eq!(ping["input"]["type"], json!(["null", "object"]));
    assert_eq!(ping["output"]["type"], "null");
    assert_eq!((ping.get("queue"), ping.get("retry")), (None, None));
}

#[test]
fn activities_run_on_json() {
    assert_eq!(
        run("greet", &json!({"name": "Ada", "times": 2})).unwrap(),
        json!({"text": "Hello AdaHello Ada"})
    );
    assert_eq!(run("ping", &json!(null)).unwrap(), Value::Null);
    assert_eq!(run("ping", &json!({})).unwrap(), Value::Null);
    assert_eq!(run("parse-number", &json!("12")).unwrap(), 12);
}

#[test]
fn failures_are_typed() {
    for (activity, input, kind, retryable) in [
        ("greet", json!({"name": 7}), "invalid-input", false),
        ("ping", json!({"a": 1}), "invalid-input", false),
        ("pong", json!(null), "unknown-activity", false),
        ("parse-number", json!("x"), "error", true),
        ("own_error", json!(null), "error", true),
    ] {
        let error = run(activity, &input).expect_err(activity);
        assert_eq!(
            (error.kind(), error.is_retryable()),
            (kind, retryable),
            "{error}"
        );
    }
    let error = HeydayPlugin::run("greet", "{").expect_err("no JSON");
    assert_eq!(error.kind(), "invalid-input");
    let error = run("pong", &json!(null)).expect_err("unknown");
    assert!(
        error
            .message()
            .contains("greet, own_error, parse-number, ping")
    );
}
