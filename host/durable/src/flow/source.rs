//! A document's text as a tree that knows its lines.
//!
//! YAML and JSON become the same [`Node`]s. Every limit on the text itself is kept
//! here, before anything is built from it: size, depth, no aliases, anchors or tags,
//! no duplicate keys, one document. Lines live in the tree and not in a map of
//! pointers, whose size a hostile document could square.

use serde_json::{Map, Value};

use super::{json, yaml};

/// The most bytes that a document may have.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The most levels of arrays and objects within each other.
pub const MAX_DEPTH: usize = 64;

/// The most problems that one answer lists.
pub const MAX_PROBLEMS: usize = 50;

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// The line, from 1.
    pub line: u32,
    /// Where, as JSON pointer; empty for the document itself or where the text cannot
    /// be read at all.
    pub pointer: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.message)
    }
}

/// A document that is no flow, with all that is wrong with it, by line; at most
/// [`MAX_PROBLEMS`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct FlowError {
    /// At least one.
    pub errors: Vec<Problem>,
}

/// Collects problems, up to the limit.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, line: u32, pointer: String, message: impl Into<String>) {
        if self.0.len() < MAX_PROBLEMS {
            self.0.push(Problem {
                line,
                pointer,
                message: message.into(),
            });
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.0.len() >= MAX_PROBLEMS
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, pointer: &str) -> bool {
        self.0.iter().any(|problem| problem.pointer == pointer)
    }

    pub(super) fn into_error(mut self) -> FlowError {
        self.0.sort_by_key(|problem| problem.line);
        FlowError { errors: self.0 }
    }
}

/// A value and the line where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) data: Data,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    /// Null, a boolean, a number or a string.
    Scalar(Value),
    Array(Vec<Node>),
    /// In document order, without duplicates.
    Object(Vec<Member>),
}

/// A member of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Member {
    pub(super) key: String,
    pub(super) line: u32,
    pub(super) value: Node,
}

impl Node {
    pub(super) const fn null(line: u32) -> Self {
        Self {
            line,
            data: Data::Scalar(Value::Null),
        }
    }

    pub(super) fn to_value(&self) -> Value {
        match &self.data {
            Data::Scalar(value) => value.clone(),
            Data::Array(items) => items.iter().map(Self::to_value).collect(),
            Data::Object(members) => Value::Object(
                members
                    .iter()
                    .map(|member| (member.key.clone(), member.value.to_value()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    pub(super) const fn as_str(&self) -> Option<&str> {
        match &self.data {
            Data::Scalar(Value::String(text)) => Some(text.as_str()),
            _ => None,
        }
    }

    /// What it is, for a message.
    pub(super) const fn describe(&self) -> &'static str {
        match &self.data {
            Data::Scalar(Value::Null) => "nothing",
            Data::Scalar(Value::Bool(_)) => "a boolean",
            Data::Scalar(Value::Number(_)) => "a number",
            Data::Scalar(_) => "a string",
            Data::Array(_) => "a list",
            Data::Object(_) => "an object",
        }
    }

    /// The node at that JSON pointer, or the nearest one above it.
    pub(super) fn nearest(&self, pointer: &str) -> &Self {
        let mut node = self;
        for segment in pointer.split('/').skip(1) {
            let key = segment.replace("~1", "/").replace("~0", "~");
            let next = match &node.data {
                Data::Array(items) => key.parse().ok().and_then(|at: usize| items.get(at)),
                Data::Object(members) => members
                    .iter()
                    .find(|member| member.key == key)
                    .map(|member| &member.value),
                Data::Scalar(_) => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        node
    }
}

/// Reports keys that an object has twice, and keeps the first of each.
pub(super) fn without_duplicates(members: Vec<Member>, problems: &mut Problems) -> Vec<Member> {
    let mut seen = std::collections::HashSet::with_capacity(members.len());
    let duplicates: Vec<bool> = members
        .iter()
        .map(|member| !seen.insert(member.key.as_str()))
        .collect();
    drop(seen);
    members
        .into_iter()
        .zip(duplicates)
        .filter_map(|(member, duplicate)| {
            if duplicate {
                problems.add(
                    member.line,
                    String::new(),
                    format!("the key {} stands twice in one object", quote(&member.key)),
                );
            }
            (!duplicate).then_some(member)
        })
        .collect()
}

/// A text from the document in a message: quoted, escaped and not longer than a line.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", &text[..end]),
    }
}

/// Reads a document.
pub(super) fn read(bytes: &[u8]) -> Result<Node, FlowError> {
    let mut problems = Problems::default();
    let node = read_into(bytes, &mut problems);
    match node {
        Some(node) if problems.is_empty() => Ok(node),
        _ => Err(problems.into_error()),
    }
}

/// `None` only where a problem was added.
fn read_into(bytes: &[u8], problems: &mut Problems) -> Option<Node> {
    if bytes.len() > MAX_BYTES {
        problems.add(
            1,
            String::new(),
            format!(
                "the document has {} bytes; the limit is {MAX_BYTES} (1 MiB)",
                bytes.len()
            ),
        );
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            problems.add(
                u32::try_from(line).unwrap_or(u32::MAX),
                String::new(),
                "the text is not UTF-8; save it as UTF-8",
            );
            return None;
        }
    };
    // A YAML document may begin with a brace too, so a text that is no JSON gets its
    // second chance; where YAML cannot read it either, JSON's message is the better.
    if text.trim_start().starts_with('{') {
        match json::read(text, problems) {
            Ok(node) => return Some(node),
            Err(error) => {
                let mut yaml_problems = Problems::default();
                if !error.syntax {
                    problems.add(error.line, String::new(), error.message);
                    return None;
                }
                let node = yaml::read(text, &mut yaml_problems);
                if !yaml_problems.is_empty() {
                    problems.add(error.line, String::new(), error.message);
                    return None;
                }
                return node;
            }
        }
    }
    yaml::read(text, problems)
}
