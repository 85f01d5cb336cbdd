//! What a plugin says of itself: the JSON that its `describe` answers.
//!
//! A description is read once, at upload, with everything that is wrong with it; what
//! is kept is a [`Description`] whose schemas are compiled. Unknown members are ignored,
//! so that plugins may be newer than the host.

use std::collections::{BTreeMap, BTreeSet};

use heyday_durable::activity::{ActivityTimeouts, RetryPolicy};
use heyday_durable::definition::{AI_QUEUE, GENERAL_QUEUE, STORAGE_QUEUE};
use heyday_durable::flow::schema::{self, CompiledSchema};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::names;

/// The dialects that a plugin needs, by capability: one of each.
pub type Requires = BTreeMap<String, BTreeSet<String>>;

/// The most activities of a plugin.
const MAX_ACTIVITIES: usize = 1_000;

/// A plugin, as it describes itself.
#[derive(Debug)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its version, as it says.
    pub version: semver::Version,
    /// What it is, in Markdown.
    pub documentation: String,
    /// The dialects that it needs: a grant of another one is refused.
    pub requires: Requires,
    /// Its activities by name.
    pub activities: BTreeMap<String, ActivitySpec>,
}

/// One activity of a plugin.
#[derive(Debug)]
pub struct ActivitySpec {
    /// What it does, in Markdown.
    pub documentation: String,
    /// JSON Schema of its input, and compiled.
    pub input: Option<(Value, CompiledSchema)>,
    /// JSON Schema of its output, and compiled.
    pub output: Option<(Value, CompiledSchema)>,
    /// The queue where a flow names none.
    pub queue: String,
    /// Whether the plugin itself says so; otherwise what it may use does, or an operator.
    pub names_queue: bool,
    /// Its timeouts.
    pub timeouts: ActivityTimeouts,
    /// Its retry policy.
    pub retry: RetryPolicy,
}

/// One thing that is wrong with a description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescriptionProblem {
    /// Where, as JSON pointer.
    pub pointer: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl std::fmt::Display for DescriptionProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.message)
    }
}

#[derive(Deserialize)]
struct Raw {
    name: String,
    version: String,
    #[serde(default)]
    documentation: String,
    #[serde(default)]
    requires: Option<Value>,
    activities: Vec<RawActivity>,
}

#[derive(Deserialize)]
struct RawActivity {
    name: String,
    #[serde(default)]
    documentation: String,
    #[serde(default)]
    input: Option<Value>,
    #[serde(default)]
    output: Option<Value>,
    #[serde(default)]
    queue: Option<String>,
    #[serde(default)]
    timeouts: Option<Map<String, Value>>,
    #[serde(default)]
    retry: Option<Map<String, Value>>,
}

struct Reader<'a> {
    queues: &'a BTreeSet<String>,
    default_queue: &'a str,
    problems: Vec<DescriptionProblem>,
}

impl Reader<'_> {
    fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        if self.problems.len() < 50 {
            self.problems.push(DescriptionProblem {
                pointer: pointer.into(),
                message: message.into(),
            });
        }
    }

    fn schema(&mut self, at: &str, schema: Option<Value>) -> Option<(Value, CompiledSchema)> {
        let schema = schema.filter(|schema| !schema.is_null())?;
        match schema::compile(&schema) {
            Ok(compiled) => Some((schema, compiled)),
            Err(error) => {
                self.add(format!("{at}{}", error.pointer), error.message);
                None
            }
        }
    }

    /// Members that this host knows; newer plugins may say more.
    fn known<T: serde::de::DeserializeOwned + Default>(
        &mut self,
        at: &str,
        members: Option<Map<String, Value>>,
        names: &[&str],
    ) -> T {
        let mut members = members.unwrap_or_default();
        members.retain(|name, value| names.contains(&name.as_str()) && !value.is_null());
        match serde_json::from_value(Value::Object(members)) {
            Ok(value) => value,
            Err(error) => {
                self.add(at, error.to_string());
                T::default()
            }
        }
    }

    fn requires(&mut self, raw: Option<Value>) -> Requires {
        let raw = raw.filter(|raw| !raw.is_null()).map(serde_json::from_value);
        let requires: Requires = match raw.transpose() {
            Ok(requires) => requires.unwrap_or_default(),
            Err(error) => {
                let message = format!(
                    "it is an object such as {{\"sql\": [\"postgresql\"]}}, the dialects of each \
                     capability: {error}"
                );
                self.add("/requires", message);
                return Requires::new();
            }
        };
        for (capability, needed) in &requires {
            let known = heyday_capabilities::dialects(capability);
            let message = if known.is_empty() {
                "only `sql` and `graph` have dialects".to_owned()
            } else if needed.is_empty() {
                format!("name at least one of {}", known.join(", "))
            } else if let Some(other) = needed.iter().find(|name| !known.contains(&&***name)) {
                format!(
                    "there is no dialect {other:?}; there are {}",
                    known.join(", ")
                )
            } else {
                continue;
            };
            // A name of the plugin's own making, as a part of a pointer.
            let name = capability.replace('~', "~0").replace('/', "~1");
            self.add(format!("/requires/{name}"), message);
        }
        requires
    }

    fn activity(&mut self, at: &str, raw: RawActivity) -> ActivitySpec {
        if let Err(error) = names::check_activity(&raw.name) {
            self.add(format!("{at}/name"), error.to_string());
        }
        let names_queue = raw.queue.is_some();
        let queue = raw.queue.unwrap_or_else(|| self.default_queue.to_owned());
        if !self.queues.contains(&queue) {
            self.add(format!("{at}/queue"), names::no_queue(&queue, self.queues));
        }
        let timeouts: ActivityTimeouts = self.known(
            &format!("{at}/timeouts"),
            raw.timeouts,
            &[
                "schedule_to_close",
                "schedule_to_start",
                "start_to_close",
                "heartbeat",
            ],
        );
        let zero = [
            timeouts.schedule_to_close,
            timeouts.schedule_to_start,
            timeouts.start_to_close,
            timeouts.heartbeat,
        ]
        .into_iter()
        .flatten()
        .any(|timeout| timeout.is_zero());
        if zero {
            self.add(
                format!("{at}/timeouts"),
                "a timeout of zero lets nothing run",
            );
        }
        let retry: RetryPolicy = self.known(
            &format!("{at}/retry"),
            raw.retry,
            &[
                "initial_interval",
                "backoff_coefficient",
                "maximum_interval",
                "maximum_attempts",
                "non_retryable_kinds",
            ],
        );
        if !(1.0..=1_000.0).contains(&retry.backoff_coefficient) {
            self.add(
                format!("{at}/retry/backoff_coefficient"),
                format!("{} is not 1 to 1,000", retry.backoff_coefficient),
            );
        }
        ActivitySpec {
            documentation: raw.documentation,
            input: self.schema(&format!("{at}/input"), raw.input),
            output: self.schema(&format!("{at}/output"), raw.output),
            queue,
            names_queue,
            timeouts,
            retry,
        }
    }
}

/// The queue of a plugin's activities that name none, by what the plugin may use: models are
/// scarce, databases and stores wait for others, the rest computes.
#[must_use]
pub fn default_queue(capabilities: &BTreeSet<String>) -> &'static str {
    let uses = |names: &[&str]| names.iter().any(|&name| capabilities.contains(name));
    if uses(&["inference"]) {
        AI_QUEUE
    } else if uses(&["sql", "graph", "vector", "blob", "kv"]) {
        STORAGE_QUEUE
    } else {
        GENERAL_QUEUE
    }
}

impl Description {
    /// Reads the answer of `describe`. `queues` are those that there are; activities that
    /// name none go to `default_queue`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(
        text: &str,
        queues: &BTreeSet<String>,
        default_queue: &str,
    ) -> Result<Self, Vec<DescriptionProblem>> {
        let raw: Raw = serde_json::from_str(text).map_err(|error| {
            vec![DescriptionProblem {
                pointer: String::new(),
                message: format!(
                    "the answer of `describe` is not the JSON object that heyday:plugin asks \
                     for: {error}"
                ),
            }]
        })?;
        let mut reader = Reader {
            queues,
            default_queue,
            problems: Vec::new(),
        };
        if let Err(error) = names::check_name("the plugin", &raw.name) {
            reader.add("/name", error.to_string());
        }
        if raw.name == names::RESERVED {
            reader.add(
                "/name",
                "`heyday` is kept for built-in activities; use another name",
            );
        }
        let version = semver::Version::parse(&raw.version).unwrap_or_else(|error| {
            reader.add(
                "/version",
                format!(
                    "{:?} is no semantic version such as 1.2.0: {error}",
                    raw.version
                ),
            );
            semver::Version::new(0, 0, 0)
        });
        if raw.version.len() > 100 {
            reader.add("/version", "it is longer than 100 characters");
        }
        let requires = reader.requires(raw.requires);
        if raw.activities.is_empty() {
            reader.add("/activities", "the plugin has no activity");
        }
        if raw.activities.len() > MAX_ACTIVITIES {
            reader.add(
                "/activities",
                format!("there are more than {MAX_ACTIVITIES} activities"),
            );
        }
        let mut activities = BTreeMap::new();
        for (index, activity) in raw.activities.into_iter().take(MAX_ACTIVITIES).enumerate() {
            let at = format!("/activities/{index}");
            let name = activity.name.clone();
            let spec = reader.activity(&at, activity);
            if activities.insert(name.clone(), spec).is_some() {
                reader.add(
                    format!("{at}/name"),
                    format!("there are two activities {name:?}"),
                );
            }
        }
        if !reader.problems.is_empty() {
            return Err(reader.problems);
        }
        Ok(Self {
            name: raw.name,
            version,
            documentation: raw.documentation,
            requires,
            activities,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn queues() -> BTreeSet<String> {
        BTreeSet::from([GENERAL_QUEUE.to_owned(), "storage-queue".to_owned()])
    }

    fn problems(value: &Value) -> Vec<String> {
        Description::parse(&value.to_string(), &queues(), GENERAL_QUEUE)
            .expect_err("refused")
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_full_description_is_read() {
        let text = json!({
            "name": "greet", "version": "1.2.0", "documentation": "Greets.", "later": true,
            "activities": [{
                "name": "say_hello", "documentation": "Says hello.",
                "input": { "type": "object", "required": ["name"] },
                "output": { "type": "string" },
                "queue": "storage-queue",
                "timeouts": { "start_to_close": "30s", "later": "1s" },
                "retry": { "maximum_attempts": 2, "later": 1 },
            }, { "name": "plain" }],
        });
        let read = Description::parse(&text.to_string(), &queues(), "storage-queue");
        let read = read.expect("read");
        let hello = &read.activities["say_hello"];
        assert_eq!(hello.queue, "storage-queue");
        assert_eq!(
            hello.timeouts.start_to_close,
            Some(std::time::Duration::from_secs(30))
        );
        assert_eq!(hello.retry.maximum_attempts, 2);
        assert!(
            hello
                .input
                .as_ref()
                .expect("a schema")
                .1
                .validate(&json!({}))
                .is_err()
        );
        assert_eq!(read.activities["plain"].queue, "storage-queue");
        assert!(hello.names_queue && !read.activities["plain"].names_queue);
    }

    #[test]
    fn what_a_plugin_may_use_decides_where_its_activities_go() {
        for (capabilities, queue) in [
            (&[][..], "general-queue"),
            (&["http"], "general-queue"),
            (&["sql"], "storage-queue"),
            (&["graph"], "storage-queue"),
            (&["vector"], "storage-queue"),
            (&["blob"], "storage-queue"),
            (&["kv"], "storage-queue"),
            (&["kv", "http"], "storage-queue"),
            (&["inference"], "ai-processing-queue"),
            (&["inference", "sql"], "ai-processing-queue"),
        ] {
            let capabilities = capabilities.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(default_queue(&capabilities), queue, "{capabilities:?}");
        }
    }

    #[test]
    fn all_problems_are_told_with_their_place() {
        let found = problems(&json!({
            "name": "heyday", "version": "1",
            "activities": [
                { "name": "Bad", "queue": "nowhere", "input": { "type": "strin" } },
                { "name": "a", "timeouts": { "heartbeat": "soon" } },
                { "name": "a", "retry": { "backoff_coefficient": 0.5 } },
            ],
        }));
        for words in [
            "/name: `heyday` is kept",
            "/version:",
            "/activities/0/name: ",
            "/activities/0/queue: there is no queue \"nowhere\"; there are general-queue",
            "/activities/0/input",
            "/activities/1/timeouts",
            "/activities/2/name: there are two",
            "/activities/2/retry/backoff_coefficient",
        ] {
            assert!(
                found.iter().any(|problem| problem.starts_with(words)),
                "{words}: {found:?}"
            );
        }
    }

    #[test]
    fn the_dialects_that_a_plugin_needs_are_checked() {
        let with = |requires: Value| {
            json!({
                "name": "p", "version": "1.0.0", "requires": requires,
                "activities": [{ "name": "a" }],
            })
        };
        let read = |requires: Value| {
            let text = with(requires).to_string();
            Description::parse(&text, &queues(), GENERAL_QUEUE)
        };
        let needed = json!({ "sql": ["postgresql"], "graph": ["neo4j", "kglite"] });
        let found = read(needed).expect("read").requires;
        assert!(found["sql"].contains("postgresql") && found["sql"].len() == 1);
        assert_eq!(found["graph"].len(), 2);
        for nothing in [json!(null), json!({})] {
            assert!(read(nothing).expect("read").requires.is_empty());
        }
        for (requires, words) in [
            (
                json!({ "sql": ["mysql"] }),
                "/requires/sql: there is no dialect \"mysql\"",
            ),
            (
                json!({ "sql": [] }),
                "/requires/sql: name at least one of sqlite",
            ),
            (
                json!({ "graph": ["sqlite"] }),
                "/requires/graph: there is no dialect",
            ),
            (
                json!({ "vector": ["sqlite"] }),
                "/requires/vector: only `sql` and `graph`",
            ),
            (json!({ "a/b": ["x"] }), "/requires/a~1b: only `sql`"),
            (
                json!({ "sql": "sqlite" }),
                "/requires: it is an object such as",
            ),
            (json!("postgresql"), "/requires: it is an object such as"),
        ] {
            let found = problems(&with(requires));
            assert!(found[0].starts_with(words), "{words}: {found:?}");
        }
    }

    #[test]
    fn schemas_reach_nothing_outside() {
        for reference in ["file:///etc/passwd", "http://127.0.0.1/x", "other.json"] {
            let found = problems(&json!({
                "name": "p", "version": "1.0.0",
                "activities": [{ "name": "a", "input": { "$ref": reference } }],
            }));
            assert!(found[0].starts_with("/activities/0/input"), "{found:?}");
        }
    }

    #[test]
    fn what_is_no_description_is_refused() {
        for value in [json!(null), json!([]), json!({ "name": "p" })] {
            assert!(problems(&value)[0].contains("describe"));
        }
        let none = problems(&json!({ "name": "p", "version": "1.0.0", "activities": [] }));
        assert_eq!(none, ["/activities: the plugin has no activity"]);
    }
}
