//! From a tree with lines to a [`Flow`].
//!
//! [`Reader`] walks the tree once. Each method reads one construct of the DSL, notes
//! every problem with its line and goes on, and answers `None` where it could not read
//! it; a flow is made only where no problem was noted. Reusable components are read
//! first, so that a name becomes a copy of what it names.

mod attributes;
mod call;
mod document;
mod event;
mod fault;
mod foreign;
mod schedule;
mod task;
mod value;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::model::{
    Authentication, CallActivity, DurationValue, ErrorTemplate, Retry, RunWorkflow,
};
use super::source::{Data, Member, Node, Problems, quote};
use super::template::Template;
use super::{Flow, FlowError};

/// The most tasks that a flow may have.
pub const MAX_TASKS: usize = 10_000;

/// The most bytes that a name in a flow may have.
const MAX_NAME: usize = 128;

/// One step of a JSON pointer.
#[derive(Debug, Clone, Copy)]
enum Step<'d> {
    Key(&'d str),
    Index(usize),
}

/// Reusable components by name; `None` where one has a problem of its own, so that
/// its users need not be told again.
type Definitions<T> = BTreeMap<String, Option<T>>;

/// What `use` defines.
#[derive(Debug, Default)]
struct Reusable {
    errors: Definitions<ErrorTemplate>,
    retries: Definitions<Retry>,
    timeouts: Definitions<DurationValue>,
    authentications: Definitions<Authentication>,
    /// Refused as a whole; kept so that each call of one is not told again.
    functions: BTreeSet<String>,
}

/// An expression as it was first met.
struct Found {
    text: String,
    line: u32,
}

/// Reads one document.
struct Reader<'d> {
    problems: Problems,
    path: Vec<Step<'d>>,
    reusable: Reusable,
    expressions: Vec<Found>,
    by_text: HashMap<String, usize>,
    variables: BTreeSet<String>,
    activities: BTreeMap<String, CallActivity>,
    children: Vec<RunWorkflow>,
    queries: BTreeMap<String, Template>,
    uses_http: bool,
    tasks: usize,
}

/// Reads a document.
pub(super) fn flow(bytes: &[u8]) -> Result<Flow, FlowError> {
    let root = super::source::read(bytes)?;
    let mut reader = Reader {
        problems: Problems::default(),
        path: Vec::new(),
        reusable: Reusable::default(),
        expressions: Vec::new(),
        by_text: HashMap::new(),
        variables: BTreeSet::new(),
        activities: BTreeMap::new(),
        children: Vec::new(),
        queries: BTreeMap::new(),
        uses_http: false,
        tasks: 0,
    };
    reader.references(&root);
    match reader.document(&root) {
        Some(flow) if reader.problems.is_empty() => Ok(flow),
        _ => {
            if reader.problems.is_empty() {
                // A method that answers `None` has noted why; this keeps the promise
                // that an error has at least one problem.
                reader.problem(root.line, "the document is not a flow");
            }
            Err(reader.problems.into_error())
        }
    }
}

/// The members of an object whose keys were checked.
#[derive(Clone, Copy)]
struct Fields<'d> {
    line: u32,
    members: &'d [Member],
}

impl<'d> Fields<'d> {
    fn get(self, key: &str) -> Option<&'d Member> {
        self.members.iter().find(|member| member.key == key)
    }
}

impl<'d> Reader<'d> {
    /// Notes a problem at the current place.
    fn problem(&mut self, line: u32, message: impl Into<String>) {
        let pointer = self.pointer();
        self.problems.add(line, pointer, message);
    }

    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in &self.path {
            pointer.push('/');
            match step {
                Step::Index(index) => pointer.push_str(&index.to_string()),
                Step::Key(key) => {
                    // Names are checked, but a message may be about one that is not.
                    let key: String = key.chars().take(MAX_NAME).collect();
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                }
            }
        }
        pointer
    }

    fn within<T>(&mut self, step: Step<'d>, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let result = read(self);
        self.path.pop();
        result
    }

    /// An object of which only these keys may be used.
    fn object(&mut self, node: &'d Node, what: &str, known: &[&str]) -> Option<Fields<'d>> {
        let members = self.members(node, what)?;
        for member in members {
            if !known.contains(&member.key.as_str()) {
                self.problem(
                    member.line,
                    format!(
                        "{what} has no property {}; it may have {}",
                        quote(&member.key),
                        known.join(", ")
                    ),
                );
            }
        }
        Some(Fields {
            line: node.line,
            members,
        })
    }

    /// An object with any keys.
    fn members(&mut self, node: &'d Node, what: &str) -> Option<&'d [Member]> {
        match &node.data {
            Data::Object(members) => Some(members),
            _ => {
                self.problem(
                    node.line,
                    format!("{what} must be an object, not {}", node.describe()),
                );
                None
            }
        }
    }

    /// A list.
    fn items(&mut self, node: &'d Node, what: &str) -> Option<&'d [Node]> {
        match &node.data {
            Data::Array(items) => Some(items),
            _ => {
                self.problem(
                    node.line,
                    format!("{what} must be a list, not {}", node.describe()),
                );
                None
            }
        }
    }

    /// Reads a member, where it is there.
    fn field<T>(
        &mut self,
        fields: Fields<'d>,
        key: &'static str,
        read: impl FnOnce(&mut Self, &'d Node) -> Option<T>,
    ) -> Option<T> {
        let member = fields.get(key)?;
        self.within(Step::Key(&member.key), |reader| read(reader, &member.value))
    }

    /// Reads a member that must be there.
    fn required<T>(
        &mut self,
        fields: Fields<'d>,
        key: &'static str,
        what: &str,
        read: impl FnOnce(&mut Self, &'d Node) -> Option<T>,
    ) -> Option<T> {
        if fields.get(key).is_none() {
            self.problem(fields.line, format!("{what} needs {key:?}"));
        }
        self.field(fields, key, read)
    }

    fn string(&mut self, node: &'d Node, what: &str) -> Option<&'d str> {
        let text = node.as_str();
        if text.is_none() {
            let hint = match &node.data {
                Data::Scalar(value) if !value.is_null() => "; write it in quotes",
                _ => "",
            };
            self.problem(
                node.line,
                format!("{what} must be a string, not {}{hint}", node.describe()),
            );
        }
        text
    }

    fn boolean(&mut self, node: &'d Node, what: &str) -> Option<bool> {
        match &node.data {
            Data::Scalar(serde_json::Value::Bool(value)) => Some(*value),
            _ => {
                self.problem(
                    node.line,
                    format!("{what} must be true or false, not {}", node.describe()),
                );
                None
            }
        }
    }

    fn integer(
        &mut self,
        node: &'d Node,
        what: &str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = match &node.data {
            Data::Scalar(value) => value.as_u64().and_then(|value| u32::try_from(value).ok()),
            _ => None,
        };
        let valid = value.filter(|value| range.contains(value));
        if valid.is_none() {
            self.problem(
                node.line,
                format!(
                    "{what} must be an integer from {} to {}",
                    range.start(),
                    range.end()
                ),
            );
        }
        valid
    }

    /// A list of objects with one key each: the DSL's ordered maps, with the place of
    /// each in the list.
    fn named(&mut self, node: &'d Node, what: &str, one: &str) -> Vec<(usize, &'d Member)> {
        let Some(items) = self.items(node, what) else {
            return Vec::new();
        };
        let mut found = Vec::with_capacity(items.len());
        let mut names = BTreeMap::new();
        for (index, item) in items.iter().enumerate() {
            let member = match &item.data {
                Data::Object(members) if members.len() == 1 => &members[0],
                _ => {
                    self.within(Step::Index(index), |reader| {
                        reader.problem(
                            item.line,
                            format!("{one} is an object with one key, its name: `- name: {{...}}`"),
                        );
                    });
                    continue;
                }
            };
            if let Some(first) = names.insert(member.key.as_str(), member.line) {
                self.problem(
                    member.line,
                    format!(
                        "the name {} stands in this list already, on line {first}; names must differ",
                        quote(&member.key)
                    ),
                );
            }
            found.push((index, member));
        }
        found
    }
}
