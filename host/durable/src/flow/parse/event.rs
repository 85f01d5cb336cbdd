//! `listen`: which events a task waits for, and what it does with them. `emit`.

use serde_json::Value;

use super::{Fields, Reader, Step};
use crate::flow::model::{
    AttributeFilter, Consumption, Correlation, EachEvent, Emit, EventFilter, EventRead, Listen,
    Strategy, TaskKind, Until,
};
use crate::flow::source::{Member, Node, quote};
use crate::flow::template::Template;
use crate::signal::is_attribute_name;

/// Bytes that one compiled pattern may take.
const PATTERN_SIZE: usize = 256 * 1024;

/// The most filters that one `listen` may have.
const MAX_FILTERS: usize = 100;

/// What makes a text a pattern. A dot and a hyphen stand in ordinary types and mean
/// themselves there.
const PATTERN: [char; 13] = [
    '*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '^', '$', '\\',
];

impl<'d> Reader<'d> {
    pub(super) fn listen_task(&mut self, fields: Fields<'d>) -> Option<TaskKind> {
        let head = self.field(fields, "listen", |reader, node| {
            let fields = reader.object(node, "listen", &["to", "read"])?;
            let read = reader.field(fields, "read", |reader, node| {
                match reader.string(node, "read")? {
                    "data" => Some(EventRead::Data),
                    "envelope" => Some(EventRead::Envelope),
                    "raw" => Some(EventRead::Raw),
                    other => {
                        reader.problem(
                            node.line,
                            format!("read must be data, envelope or raw, not {}", quote(other)),
                        );
                        None
                    }
                }
            });
            let to = reader.required(fields, "to", "listen", |reader, node| {
                reader.consumption(node, "to", true)
            });
            let (to, until) = to?;
            Some((to, until, read.unwrap_or_default()))
        });
        let foreach = self.field(fields, "foreach", Self::each_event);
        let (to, until, read) = head?;
        if fields.get("foreach").is_some() && foreach.is_none() {
            return None;
        }
        Some(TaskKind::Listen(Box::new(Listen {
            to,
            until,
            read,
            foreach,
        })))
    }

    pub(super) fn emit(&mut self, node: &'d Node) -> Option<TaskKind> {
        let fields = self.object(node, "emit", &["event"])?;
        let event = self.required(fields, "event", "emit", |reader, node| {
            let fields = reader.object(node, "event", &["with"])?;
            reader.required(fields, "with", "event", |reader, node| {
                let members = reader.members(node, "with")?;
                let fields = Fields {
                    line: node.line,
                    members,
                };
                let source = reader.required(fields, "source", "with", |reader, node| {
                    reader.uri_reference(node, "source")
                });
                let of_type = reader.required(fields, "type", "with", |reader, node| {
                    reader.text(node, "type")
                });
                let (mut attributes, mut data) = (Vec::new(), None);
                let mut valid = of_type.is_some();
                for member in members.iter().filter(|member| member.key != "source") {
                    let template =
                        reader.within(Step::Key(&member.key), |reader| reader.emitted(member));
                    match template {
                        Some(template) if member.key == "data" => data = Some(template),
                        Some(template) => attributes.push((member.key.clone(), template)),
                        None => valid = false,
                    }
                }
                let source = source?;
                valid.then_some(Emit {
                    source,
                    attributes,
                    data,
                })
            })
        });
        event.map(|event| TaskKind::Emit(Box::new(event)))
    }

    /// A property of an event to emit.
    fn emitted(&mut self, member: &'d Member) -> Option<Template> {
        let node = &member.value;
        if member.key == "data" {
            return self.template(node);
        }
        self.attribute_name(member)?;
        if member.key == "specversion" {
            self.problem(member.line, "specversion is always 1.0; leave it out");
            return None;
        }
        let template = self.template(node)?;
        if matches!(&template, Template::Array(_) | Template::Object(_))
            || matches!(
                template.as_literal(),
                Some(Value::Array(_) | Value::Object(_))
            )
        {
            self.not_an_attribute(node);
            return None;
        }
        if member.key == "time"
            && let Some(Value::String(time)) = template.as_literal()
            && time.parse::<jiff::Timestamp>().is_err()
        {
            self.problem(
                node.line,
                format!(
                    "time must be a time such as 2026-01-31T12:00:00Z, not {}",
                    quote(time)
                ),
            );
            return None;
        }
        Some(template)
    }

    /// A strategy, with its `until` where it may have one.
    pub(super) fn consumption(
        &mut self,
        node: &'d Node,
        what: &'static str,
        may_end: bool,
    ) -> Option<(Consumption, Option<Until>)> {
        let known: &[&str] = if may_end {
            &["one", "any", "all", "until"]
        } else {
            &["one", "any", "all"]
        };
        let fields = self.object(node, what, known)?;
        let given: Vec<&'d Member> = fields
            .members
            .iter()
            .filter(|member| member.key != "until" && known.contains(&member.key.as_str()))
            .collect();
        let [member] = given[..] else {
            self.problem(
                node.line,
                format!("{what} has exactly one of one, any, all"),
            );
            return None;
        };
        let (strategy, filters) = self.within(Step::Key(&member.key), |reader| {
            let node = &member.value;
            Some(match member.key.as_str() {
                "one" => (Strategy::One, vec![reader.event_filter(node)?]),
                "any" => (Strategy::Any, reader.event_filters(node, "any")?),
                _ => (Strategy::All, reader.event_filters(node, "all")?),
            })
        })?;
        if filters.is_empty() && strategy == Strategy::All {
            self.problem(member.line, "all needs at least one event");
            return None;
        }
        let until = match fields.get("until") {
            None => None,
            Some(until) if strategy != Strategy::Any => {
                self.problem(
                    until.line,
                    format!("until belongs to any; {} ends by itself", strategy.as_str()),
                );
                return None;
            }
            Some(_) => Some(self.field(fields, "until", |reader, node| {
                if node.as_str().is_some() {
                    return reader.expression(node, "until").map(Until::Condition);
                }
                let (consumption, _) = reader.consumption(node, "until", false)?;
                Some(Until::Consumed(consumption))
            })?),
        };
        Some((Consumption { strategy, filters }, until))
    }

    fn event_filters(&mut self, node: &'d Node, what: &str) -> Option<Vec<EventFilter>> {
        let items = self.items(node, what)?;
        if items.len() > MAX_FILTERS {
            self.problem(
                node.line,
                format!(
                    "{what} has at most {MAX_FILTERS} events, not {}",
                    items.len()
                ),
            );
            return None;
        }
        let filters: Vec<_> = items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                self.within(Step::Index(index), |reader| reader.event_filter(item))
            })
            .collect();
        filters.into_iter().collect()
    }

    fn event_filter(&mut self, node: &'d Node) -> Option<EventFilter> {
        let fields = self.object(node, "an event filter", &["with", "correlate"])?;
        let with = self.required(fields, "with", "an event filter", |reader, node| {
            let members = reader.members(node, "with")?;
            if members.is_empty() {
                reader.problem(node.line, "with needs at least one property of the event");
                return None;
            }
            let mut filter = EventFilter {
                attributes: Vec::new(),
                data: None,
                correlate: Vec::new(),
            };
            let mut valid = true;
            for member in members {
                valid &= reader.within(Step::Key(&member.key), |reader| {
                    reader.property(member, &mut filter).is_some()
                });
            }
            valid.then_some(filter)
        });
        let correlate = self.field(fields, "correlate", |reader, node| {
            let members = reader.members(node, "correlate")?;
            let read: Vec<_> = members
                .iter()
                .map(|member| {
                    reader.within(Step::Key(&member.key), |reader| reader.correlation(member))
                })
                .collect();
            read.into_iter().collect::<Option<Vec<_>>>()
        });
        let mut filter = with?;
        if fields.get("correlate").is_some() {
            filter.correlate = correlate?;
        }
        Some(filter)
    }

    fn property(&mut self, member: &'d Member, filter: &mut EventFilter) -> Option<()> {
        let (name, node) = (&member.key, &member.value);
        if name == "data" {
            filter.data = Some(self.template(node)?);
            return Some(());
        }
        self.attribute_name(member)?;
        let attribute = match self.template(node)? {
            Template::Expression(expression) => AttributeFilter::Expression(expression),
            Template::Literal(Value::String(text)) if text.contains(PATTERN) => {
                let pattern = regex::RegexBuilder::new(&format!("^(?:{text})$"))
                    .size_limit(PATTERN_SIZE)
                    .build();
                match pattern {
                    Ok(pattern) => AttributeFilter::Matches { text, pattern },
                    Err(error) => {
                        let what = match error {
                            regex::Error::CompiledTooBig(_) => "is too large a pattern",
                            _ => "is no regular expression",
                        };
                        self.problem(
                            node.line,
                            format!(
                                "{} {what}; put \\ before a character that means itself",
                                quote(&text)
                            ),
                        );
                        return None;
                    }
                }
            }
            Template::Literal(value @ (Value::String(_) | Value::Bool(_) | Value::Number(_))) => {
                AttributeFilter::Equals(value)
            }
            _ => {
                self.not_an_attribute(node);
                return None;
            }
        };
        filter.attributes.push((name.clone(), attribute));
        Some(())
    }

    /// Notes a value that no attribute of an event has.
    fn not_an_attribute(&mut self, node: &Node) {
        self.problem(
            node.line,
            format!(
                "an event's attribute is a text, a number or a boolean, not {}",
                node.describe()
            ),
        );
    }

    /// Notes a name that no attribute of an event has.
    pub(super) fn attribute_name(&mut self, member: &'d Member) -> Option<()> {
        if is_attribute_name(&member.key) {
            return Some(());
        }
        self.problem(
            member.line,
            format!(
                "an event's attribute has a name of 1 to 64 lower-case letters and digits; {} is none",
                quote(&member.key)
            ),
        );
        None
    }

    fn correlation(&mut self, member: &'d Member) -> Option<Correlation> {
        let fields = self.object(&member.value, "a correlation", &["from", "expect"])?;
        let from = self.required(fields, "from", "a correlation", |reader, node| {
            reader.expression(node, "from")
        });
        let expect = self.field(fields, "expect", |reader, node| reader.text(node, "expect"));
        if fields.get("expect").is_some() && expect.is_none() {
            return None;
        }
        Some(Correlation {
            name: member.key.clone(),
            from: from?,
            expect,
        })
    }

    fn each_event(&mut self, node: &'d Node) -> Option<EachEvent> {
        let fields = self.object(node, "foreach", &["item", "at", "do", "output", "export"])?;
        let item = self.variable(fields, "item", "item");
        let at = self.variable(fields, "at", "index");
        if item == at {
            self.problem(node.line, "item and at must name different variables");
        }
        let tasks = self.field(fields, "do", |reader, node| {
            Some(reader.task_list(node, "do"))
        });
        let output = self.field(fields, "output", |reader, node| {
            reader.transform(node, "output", "as")
        });
        let export = self.field(fields, "export", |reader, node| {
            reader.transform(node, "export", "as")
        });
        Some(EachEvent {
            item: item?,
            at: at?,
            tasks: tasks.unwrap_or_default(),
            output: output.unwrap_or_default(),
            export: export.unwrap_or_default(),
        })
    }
}
