//! The document's own sections: `document`, `use`, `input`, `output`, `timeout`, `do`,
//! `evaluate`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Definitions, Reader, Step};
use crate::flow::model::Document;
use crate::flow::source::{Data, Member, Node, quote};
use crate::flow::{Flow, VARIABLES};

impl<'d> Reader<'d> {
    pub(super) fn document(&mut self, root: &'d Node) -> Option<Flow> {
        let fields = self.object(
            root,
            "a flow",
            &[
                "document", "input", "use", "do", "timeout", "output", "schedule", "evaluate",
            ],
        )?;
        let schedule = self.field(fields, "schedule", Self::schedule);
        self.field(fields, "evaluate", Self::evaluate);
        self.field(fields, "use", Self::reusable);
        let document = self.required(fields, "document", "a flow", Self::head);
        let input = self.field(fields, "input", |reader, node| {
            reader.transform(node, "input", "from")
        });
        let output = self.field(fields, "output", |reader, node| {
            reader.transform(node, "output", "as")
        });
        let timeout = self.field(fields, "timeout", Self::timeout);
        let tasks = self.required(fields, "do", "a flow", |reader, node| {
            Some(reader.task_list(node, "do"))
        });
        let own = std::mem::take(&mut self.variables);
        Some(Flow {
            document: document?,
            input: input.unwrap_or_default(),
            output: output.unwrap_or_default(),
            timeout,
            tasks: tasks?,
            expression_lines: self.expressions.iter().map(|found| found.line).collect(),
            expressions: self.expressions.drain(..).map(|found| found.text).collect(),
            variables: VARIABLES
                .into_iter()
                .map(ToOwned::to_owned)
                .chain(own)
                .collect(),
            activities: std::mem::take(&mut self.activities).into_values().collect(),
            uses_http: self.uses_http,
            children: std::mem::take(&mut self.children),
            queries: std::mem::take(&mut self.queries),
            schedule,
            definition: root.to_value(),
        })
    }

    fn head(&mut self, node: &'d Node) -> Option<Document> {
        let fields = self.object(
            node,
            "document",
            &[
                "dsl",
                "namespace",
                "name",
                "version",
                "title",
                "summary",
                "tags",
                "metadata",
            ],
        )?;
        let dsl = self.required(fields, "dsl", "document", |reader, node| {
            let version = reader.version(node, "dsl")?;
            if (version.major, version.minor) != (1, 0) {
                reader.problem(
                    node.line,
                    format!(
                        "version {version} of the DSL is not supported; use 1.0.x, such as 1.0.3"
                    ),
                );
                return None;
            }
            Some(version)
        });
        let namespace = self.required(fields, "namespace", "document", |reader, node| {
            reader.flow_name(node, "namespace")
        });
        let name = self.required(fields, "name", "document", |reader, node| {
            reader.flow_name(node, "name")
        });
        let version = self.required(fields, "version", "document", |reader, node| {
            reader.version(node, "version")
        });
        let mut text = |key| {
            self.field(fields, key, |reader, node| {
                reader.string(node, key).map(ToOwned::to_owned)
            })
        };
        let (title, summary) = (text("title"), text("summary"));
        let mut map = |key| {
            self.field(fields, key, |reader, node| {
                reader.members(node, key)?;
                Some(node)
            })
        };
        let (tags, metadata) = (map("tags"), map("metadata"));
        if let Some(Data::Object(members)) = metadata.map(|node| &node.data)
            && let Some(heyday) = members.iter().find(|member| member.key == "heyday")
        {
            self.within(Step::Key("metadata"), |reader| {
                reader.within(Step::Key("heyday"), |reader| {
                    let fields =
                        reader.object(&heyday.value, "document.metadata.heyday", &["queries"])?;
                    reader.field(fields, "queries", Self::queries)
                })
            });
        }
        Some(Document {
            dsl: dsl?,
            namespace: namespace?,
            name: name?,
            version: version?,
            title,
            summary,
            tags: as_map(tags),
            metadata: as_map(metadata),
        })
    }

    /// The queries that the flow answers.
    fn queries(&mut self, node: &'d Node) -> Option<()> {
        for member in self.members(node, "queries")? {
            let name = &member.key;
            if !is_name(&name.replace('_', "-")) {
                self.problem(
                    member.line,
                    format!(
                        "a query's name has 1 to 63 lower-case letters, digits, hyphens and underscores and begins with a letter; {} does not",
                        quote(name)
                    ),
                );
                continue;
            }
            let answer = self.within(Step::Key(name), |reader| reader.template(&member.value));
            if let Some(answer) = answer {
                self.queries.insert(name.clone(), answer);
            }
        }
        Some(())
    }

    /// A semantic version.
    pub(super) fn version(&mut self, node: &'d Node, what: &str) -> Option<semver::Version> {
        const MAX_VERSION: usize = 128;
        let text = self.string(node, what)?;
        let version = semver::Version::parse(text)
            .ok()
            .filter(|_| text.len() <= MAX_VERSION);
        if version.is_none() {
            self.problem(
                node.line,
                format!(
                    "{what} must be a semantic version such as '1.0.0', not {}",
                    quote(text)
                ),
            );
        }
        version
    }

    /// The name or namespace of a flow.
    pub(super) fn flow_name(&mut self, node: &'d Node, what: &str) -> Option<String> {
        let text = self.string(node, what)?;
        // Heyday's pattern for names and the DSL's, which allows no hyphen at the end.
        if !is_name(text) || text.ends_with('-') {
            self.problem(
                node.line,
                format!(
                    "{what} must begin with a lower-case letter, hold only lower-case letters, digits and hyphens, not end with a hyphen, and have at most 63 characters; {} does not",
                    quote(text)
                ),
            );
            return None;
        }
        Some(text.to_owned())
    }

    fn evaluate(&mut self, node: &'d Node) -> Option<()> {
        let fields = self.object(node, "evaluate", &["language", "mode"])?;
        for (key, only) in [("language", "jq"), ("mode", "strict")] {
            self.field(fields, key, |reader, node| {
                let text = reader.string(node, key)?;
                if text != only {
                    reader.problem(
                        node.line,
                        format!(
                            "evaluate.{key} {} is not supported; use {only}",
                            quote(text)
                        ),
                    );
                }
                Some(())
            });
        }
        Some(())
    }

    fn reusable(&mut self, node: &'d Node) -> Option<()> {
        const KNOWN: [&str; 8] = [
            "authentications",
            "errors",
            "retries",
            "timeouts",
            "functions",
            "extensions",
            "secrets",
            "catalogs",
        ];
        let fields = self.object(node, "use", &KNOWN)?;
        for (key, instead) in [
            (
                "functions",
                "write the task where it is called, or make it a flow and run it",
            ),
            ("extensions", "write the tasks where they are needed"),
            ("secrets", "give a plugin its secrets by a binding"),
            (
                "catalogs",
                "upload plugins and call them as plugin.activity",
            ),
        ] {
            if let Some(member) = fields.get(key) {
                self.within(Step::Key(&member.key), |reader| {
                    reader.problem(
                        member.line,
                        format!("use.{key} is not supported yet; {instead}"),
                    );
                });
            }
        }
        if let Some(Data::Object(members)) =
            fields.get("functions").map(|member| &member.value.data)
        {
            let names = members.iter().map(|member| member.key.clone());
            self.reusable.functions = names.collect();
        }
        let authentications = self.definitions(fields.get("authentications"), |reader, node| {
            reader.authentication_policy(node)
        });
        let errors = self.definitions(fields.get("errors"), Self::error);
        let retries = self.definitions(fields.get("retries"), Self::retry_policy);
        let timeouts = self.definitions(fields.get("timeouts"), Self::timeout);
        self.reusable.authentications = authentications;
        self.reusable.errors = errors;
        self.reusable.retries = retries;
        self.reusable.timeouts = timeouts;
        Some(())
    }

    fn definitions<T>(
        &mut self,
        section: Option<&'d Member>,
        read: impl Fn(&mut Self, &'d Node) -> Option<T>,
    ) -> Definitions<T> {
        let Some(section) = section else {
            return BTreeMap::new();
        };
        self.within(Step::Key(&section.key), |reader| {
            let Some(members) = reader.members(&section.value, &section.key) else {
                return BTreeMap::new();
            };
            members
                .iter()
                .map(|member| {
                    let value =
                        reader.within(Step::Key(&member.key), |reader| read(reader, &member.value));
                    (member.key.clone(), value)
                })
                .collect()
        })
    }
}

/// `[a-z][a-z0-9-]{0,62}`: the names of flows, namespaces, plugins and queues.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn as_map(node: Option<&Node>) -> Map<String, Value> {
    match node.map(Node::to_value) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}
