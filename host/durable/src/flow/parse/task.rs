//! Tasks and the lists of them.

use super::{Fields, MAX_NAME, MAX_TASKS, Reader, Step};
use crate::flow::VARIABLES;
use crate::flow::model::{Case, For, Foreign, Fork, RunWorkflow, Task, TaskKind, Then, Transform};
use crate::flow::source::{Data, Member, Node, quote};

/// The properties that every task may have.
const COMMON: [&str; 7] = [
    "if", "input", "output", "export", "timeout", "then", "metadata",
];

/// The words that name a kind of task, with the further properties of that kind.
const KINDS: [(&str, &[&str]); 12] = [
    ("call", &["call", "with"]),
    ("for", &["for", "while", "do"]),
    ("fork", &["fork"]),
    ("try", &["try", "catch"]),
    ("set", &["set"]),
    ("switch", &["switch"]),
    ("raise", &["raise"]),
    ("wait", &["wait"]),
    ("run", &["run"]),
    ("emit", &["emit"]),
    ("listen", &["listen", "foreach"]),
    // Last, because `for` has a `do` too.
    ("do", &["do"]),
];

/// Where a `then` may lead.
#[derive(Clone, Copy)]
enum Scope<'s, 'd> {
    /// To the tasks of the list.
    List(&'s [(usize, &'d Member)]),
    /// A branch stands alone.
    Branches,
}

impl<'d> Reader<'d> {
    /// A list of tasks that run one after another.
    pub(super) fn task_list(&mut self, node: &'d Node, what: &str) -> Vec<Task> {
        let members = self.named(node, what, "a task");
        self.tasks(node, &members, Scope::List(&members))
    }

    fn tasks(
        &mut self,
        node: &'d Node,
        members: &[(usize, &'d Member)],
        scope: Scope<'_, 'd>,
    ) -> Vec<Task> {
        self.tasks += members.len();
        if self.tasks > MAX_TASKS {
            if self.tasks - members.len() <= MAX_TASKS {
                self.problem(
                    node.line,
                    format!("the flow has more than {MAX_TASKS} tasks; make it several flows"),
                );
            }
            return Vec::new();
        }
        let mut tasks = Vec::with_capacity(members.len());
        for &(index, member) in members {
            let task = self.within(Step::Index(index), |reader| {
                reader.within(Step::Key(&member.key), |reader| reader.task(member, scope))
            });
            tasks.extend(task);
        }
        tasks
    }

    fn task(&mut self, member: &'d Member, scope: Scope<'_, 'd>) -> Option<Task> {
        let (name, node) = (&member.key, &member.value);
        if name.is_empty() || name.len() > MAX_NAME {
            self.problem(
                member.line,
                format!(
                    "a task's name has 1 to {MAX_NAME} bytes; {} has {}",
                    quote(name),
                    name.len()
                ),
            );
        }
        if matches!(name.as_str(), "continue" | "exit" | "end") {
            self.problem(
                member.line,
                format!("{name} is a flow directive and cannot be a task's name; choose another"),
            );
        }
        let members = self.members(node, &format!("task {}", quote(name)))?;
        let kind = self.kind(name, node, members)?;
        let known: Vec<&str> = kind.1.iter().chain(&COMMON).copied().collect();
        let fields = self.object(node, &format!("a {} task", kind.0), &known)?;

        let condition = self.field(fields, "if", |reader, node| reader.expression(node, "if"));
        let mut transform = |key: &'static str, property: &'static str| -> Transform {
            self.field(fields, key, |reader, node| {
                reader.transform(node, key, property)
            })
            .unwrap_or_default()
        };
        let input = transform("input", "from");
        let output = transform("output", "as");
        let export = transform("export", "as");
        let timeout = self.field(fields, "timeout", Self::timeout);
        let then = self.field(fields, "then", |reader, node| reader.then(node, scope));
        let options = self.field(fields, "metadata", |reader, node| {
            reader.task_metadata(node, kind.0)
        });
        let foreign = options
            .as_ref()
            .and_then(|options| options.foreign.as_ref());
        let parsed = self.task_kind(kind.0, fields, scope, foreign);
        Some(Task {
            name: name.clone(),
            reference: self.pointer(),
            line: member.line,
            condition,
            input,
            output,
            export,
            timeout,
            then: then.unwrap_or(Then::Continue),
            options: options.unwrap_or_default(),
            kind: parsed?,
        })
    }

    /// Which kind of task it is, by the one word of [`KINDS`] that it has.
    fn kind(
        &mut self,
        name: &str,
        node: &'d Node,
        members: &'d [Member],
    ) -> Option<(&'static str, &'static [&'static str])> {
        let has = |key: &str| members.iter().any(|member| member.key == key);
        let mut found = KINDS
            .into_iter()
            .filter(|(key, _)| has(key) && !(*key == "do" && has("for")));
        let Some(kind) = found.next() else {
            let words: Vec<&str> = KINDS.iter().map(|(key, _)| *key).collect();
            self.problem(
                node.line,
                format!(
                    "task {} does nothing; it needs one of {}",
                    quote(name),
                    words.join(", ")
                ),
            );
            return None;
        };
        if let Some((other, _)) = found.next() {
            self.problem(
                node.line,
                format!(
                    "task {} has both {} and {other}; a task does one thing",
                    quote(name),
                    kind.0
                ),
            );
            return None;
        }
        Some(kind)
    }

    fn task_kind(
        &mut self,
        kind: &'static str,
        fields: Fields<'d>,
        scope: Scope<'_, 'd>,
        foreign: Option<&Foreign>,
    ) -> Option<TaskKind> {
        match kind {
            "call" => match foreign {
                Some(_) => self.call_foreign(fields),
                None => self.call(fields),
            },
            "do" => self.field(fields, "do", |reader, node| {
                Some(TaskKind::Do(reader.task_list(node, "do")))
            }),
            "set" => self.field(fields, "set", |reader, node| {
                if matches!(&node.data, Data::Object(members) if members.is_empty()) {
                    reader.problem(node.line, "set needs at least one member");
                    return None;
                }
                reader.object_template(node, "set").map(TaskKind::Set)
            }),
            "switch" => self.field(fields, "switch", |reader, node| reader.switch(node, scope)),
            "for" => self.for_task(fields),
            "fork" => self.field(fields, "fork", Self::fork),
            "try" => self.try_task(fields),
            "raise" => self.field(fields, "raise", Self::raise),
            "wait" => self
                .field(fields, "wait", Self::duration)
                .map(TaskKind::Wait),
            "run" => self.field(fields, "run", |reader, node| reader.run(node, foreign)),
            "listen" => self.listen_task(fields),
            "emit" => self.field(fields, "emit", Self::emit),
            // `kind` answers no other word.
            _ => None,
        }
    }

    fn then(&mut self, node: &'d Node, scope: Scope<'_, 'd>) -> Option<Then> {
        let name = self.string(node, "then")?;
        match name {
            "continue" => return Some(Then::Continue),
            "exit" => return Some(Then::Exit),
            "end" => return Some(Then::End),
            _ => {}
        }
        match scope {
            Scope::List(members) => {
                if let Some(index) = members.iter().position(|(_, member)| member.key == name) {
                    return Some(Then::Task(index));
                }
                self.problem(
                    node.line,
                    format!(
                        "then names {}, but no task of the same list has that name; use one that has, or continue, exit or end",
                        quote(name)
                    ),
                );
            }
            Scope::Branches => self.problem(
                node.line,
                format!(
                    "then names {}, but a branch of a fork runs alone; put tasks that follow one another into a do",
                    quote(name)
                ),
            ),
        }
        None
    }

    fn switch(&mut self, node: &'d Node, scope: Scope<'_, 'd>) -> Option<TaskKind> {
        let members = self.named(node, "switch", "a case");
        if matches!(&node.data, Data::Array(items) if items.is_empty()) {
            self.problem(node.line, "switch needs at least one case");
        }
        let mut cases = Vec::with_capacity(members.len());
        let mut default = None;
        for (index, member) in members {
            let case = self.within(Step::Index(index), |reader| {
                reader.within(Step::Key(&member.key), |reader| {
                    reader.case(member, scope, &mut default)
                })
            });
            cases.extend(case);
        }
        Some(TaskKind::Switch(cases))
    }

    fn case(
        &mut self,
        member: &'d Member,
        scope: Scope<'_, 'd>,
        default: &mut Option<u32>,
    ) -> Option<Case> {
        let fields = self.object(&member.value, "a case", &["when", "then"])?;
        let when = self.field(fields, "when", |reader, node| {
            reader.expression(node, "when")
        });
        if fields.get("when").is_none()
            && let Some(first) = default.replace(member.line)
        {
            self.problem(
                member.line,
                format!("a switch has one case without when, and line {first} has it already"),
            );
        }
        let then = self.required(fields, "then", "a case", |reader, node| {
            reader.then(node, scope)
        });
        Some(Case {
            name: member.key.clone(),
            when,
            then: then?,
        })
    }

    fn for_task(&mut self, fields: Fields<'d>) -> Option<TaskKind> {
        let head = self.field(fields, "for", |reader, node| {
            let fields = reader.object(node, "for", &["each", "in", "at"])?;
            let each = reader.variable(fields, "each", "item");
            let at = reader.variable(fields, "at", "index");
            if each == at {
                reader.problem(node.line, "each and at must name different variables");
            }
            let collection = reader.required(fields, "in", "for", |reader, node| {
                reader.expression(node, "in")
            });
            Some((each?, collection?, at?))
        });
        let condition = self.field(fields, "while", |reader, node| {
            reader.expression(node, "while")
        });
        let tasks = self.required(fields, "do", "a for task", |reader, node| {
            Some(reader.task_list(node, "do"))
        });
        let (each, collection, at) = head?;
        Some(TaskKind::For(Box::new(For {
            each,
            collection,
            at,
            condition,
            tasks: tasks?,
        })))
    }

    /// The name of a variable that a task declares.
    pub(super) fn variable(
        &mut self,
        fields: Fields<'d>,
        key: &'static str,
        default: &str,
    ) -> Option<String> {
        if fields.get(key).is_none() {
            self.variables.insert(default.to_owned());
            return Some(default.to_owned());
        }
        self.field(fields, key, |reader, node| {
            let name = reader.string(node, key)?;
            let valid = name.len() <= MAX_NAME
                && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            // jq gives `$ENV` and names that begin with two underscores a meaning.
            if !valid || VARIABLES.contains(&name) || name == "ENV" || name.starts_with("__") {
                reader.problem(
                    node.line,
                    format!(
                        "{key} must name a variable: letters, digits and _, not beginning with a digit or __, and none of ENV, {}; {} does not",
                        VARIABLES.join(", "),
                        quote(name)
                    ),
                );
                return None;
            }
            reader.variables.insert(name.to_owned());
            Some(name.to_owned())
        })
    }

    fn fork(&mut self, node: &'d Node) -> Option<TaskKind> {
        let fields = self.object(node, "fork", &["branches", "compete"])?;
        let compete = self.field(fields, "compete", |reader, node| {
            reader.boolean(node, "compete")
        });
        let branches = self.required(fields, "branches", "fork", |reader, node| {
            let members = reader.named(node, "branches", "a branch");
            if matches!(&node.data, Data::Array(items) if items.is_empty()) {
                reader.problem(node.line, "fork needs at least one branch");
            }
            Some(reader.tasks(node, &members, Scope::Branches))
        });
        Some(TaskKind::Fork(Fork {
            branches: branches?,
            compete: compete.unwrap_or(false),
        }))
    }

    fn run(&mut self, node: &'d Node, foreign: Option<&Foreign>) -> Option<TaskKind> {
        const PROCESSES: [&str; 3] = ["container", "script", "shell"];
        let fields = self.object(
            node,
            "run",
            &[
                "workflow",
                "await",
                "return",
                "container",
                "script",
                "shell",
            ],
        )?;
        let mut refused = false;
        for key in PROCESSES {
            if let Some(member) = fields.get(key) {
                refused = true;
                self.problem(
                    member.line,
                    format!(
                        "run: {key} is not supported; make it an activity of a plugin and call it"
                    ),
                );
            }
        }
        if refused {
            return None;
        }
        if let Some(member) = fields.get("return") {
            self.problem(
                member.line,
                "return is for containers, scripts and shells; the output of a workflow is its result",
            );
        }
        let wait = self.field(fields, "await", |reader, node| {
            reader.boolean(node, "await")
        });
        self.required(fields, "workflow", "run", |reader, node| {
            let fields =
                reader.object(node, "workflow", &["namespace", "name", "version", "input"])?;
            let namespace = reader.required(fields, "namespace", "workflow", |reader, node| {
                reader.flow_name(node, "namespace")
            });
            let name = reader.required(fields, "name", "workflow", |reader, node| {
                reader.flow_name(node, "name")
            });
            let version = reader.field(fields, "version", |reader, node| {
                if node.as_str() == Some("latest") {
                    return Some(None);
                }
                if foreign.is_some() {
                    reader.problem(
                        node.line,
                        "a foreign worker runs the version that it has; write version: latest",
                    );
                }
                reader.version(node, "version").map(Some)
            });
            let input = reader.field(fields, "input", Self::template);
            let named = foreign.and_then(|foreign| foreign.workflow_type.clone());
            let own = format!("{}.{}", namespace?, name?);
            let run = RunWorkflow {
                workflow_type: named.unwrap_or(own),
                version: version.flatten(),
                input,
                wait: wait.unwrap_or(true),
            };
            if foreign.is_none() {
                reader.children.push(run.clone());
            }
            Some(TaskKind::RunWorkflow(Box::new(run)))
        })
    }
}
