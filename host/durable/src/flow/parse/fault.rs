//! `try`, `catch`, `retry` and `raise`.

use super::{Fields, Reader, Step};
use crate::flow::model::{
    Backoff, Catch, DurationValue, ErrorFilter, ErrorTemplate, Retry, TaskKind, Try,
};
use crate::flow::source::Node;
use crate::flow::template::Template;

impl<'d> Reader<'d> {
    pub(super) fn try_task(&mut self, fields: Fields<'d>) -> Option<TaskKind> {
        let tasks = self.field(fields, "try", |reader, node| {
            Some(reader.task_list(node, "try"))
        });
        let catch = self.required(fields, "catch", "a try task", Self::catch);
        Some(TaskKind::Try(Box::new(Try {
            tasks: tasks?,
            catch: catch?,
        })))
    }

    fn catch(&mut self, node: &'d Node) -> Option<Catch> {
        let fields = self.object(
            node,
            "catch",
            &["errors", "as", "when", "exceptWhen", "retry", "do"],
        )?;
        let filter = self.field(fields, "errors", |reader, node| {
            let fields = reader.object(node, "errors", &["with"])?;
            reader.field(fields, "with", Self::error_filter)
        });
        let variable = self.variable(fields, "as", "error");
        let when = self.field(fields, "when", |reader, node| {
            reader.expression(node, "when")
        });
        let except_when = self.field(fields, "exceptWhen", |reader, node| {
            reader.expression(node, "exceptWhen")
        });
        let retry = self.field(fields, "retry", |reader, node| match node.as_str() {
            None => reader.retry_policy(node),
            Some(name) => {
                let known = reader.reusable.retries.get(name).cloned();
                if known.is_none() {
                    reader.unknown(node, "use.retries", name);
                }
                known.flatten()
            }
        });
        let tasks = self.field(fields, "do", |reader, node| {
            Some(reader.task_list(node, "do"))
        });
        Some(Catch {
            filter: filter.unwrap_or_default(),
            variable: variable?,
            when,
            except_when,
            retry,
            tasks,
        })
    }

    fn error_filter(&mut self, node: &'d Node) -> Option<ErrorFilter> {
        let fields = self.object(
            node,
            "errors.with",
            &["type", "status", "instance", "title", "details", "detail"],
        )?;
        if fields.members.is_empty() {
            self.problem(
                node.line,
                "errors.with needs at least one of type, status, instance, title, details",
            );
        }
        let status = self.field(fields, "status", |reader, node| {
            reader.integer(node, "status", 100..=599)
        });
        let mut text = |key| {
            self.field(fields, key, |reader, node| {
                let text = reader.string(node, key)?;
                if text.contains("${") {
                    reader.problem(
                        node.line,
                        "errors.with takes fixed values; use when for an expression",
                    );
                }
                Some(text.to_owned())
            })
        };
        Some(ErrorFilter {
            error_type: text("type"),
            status: status.and_then(|status| u16::try_from(status).ok()),
            instance: text("instance"),
            title: text("title"),
            // The schema says `details`, the errors themselves `detail`.
            detail: text("details").or(text("detail")),
        })
    }

    /// A retry policy.
    pub(super) fn retry_policy(&mut self, node: &'d Node) -> Option<Retry> {
        let fields = self.object(
            node,
            "a retry policy",
            &["when", "exceptWhen", "delay", "backoff", "limit", "jitter"],
        )?;
        let when = self.field(fields, "when", |reader, node| {
            reader.expression(node, "when")
        });
        let except_when = self.field(fields, "exceptWhen", |reader, node| {
            reader.expression(node, "exceptWhen")
        });
        let delay = self.field(fields, "delay", Self::duration);
        let backoff = self.field(fields, "backoff", Self::backoff);
        let mut retry = Retry {
            when,
            except_when,
            delay,
            backoff: backoff.unwrap_or_default(),
            ..Retry::default()
        };
        self.field(fields, "limit", |reader, node| {
            let fields = reader.object(node, "limit", &["attempt", "duration"])?;
            retry.duration = reader.field(fields, "duration", Self::duration);
            reader.field(fields, "attempt", |reader, node| {
                let fields = reader.object(node, "attempt", &["count", "duration"])?;
                retry.attempt_duration = reader.field(fields, "duration", Self::duration);
                retry.max_retries = reader.field(fields, "count", |reader, node| {
                    reader.integer(node, "count", 0..=u32::MAX)
                });
                Some(())
            })
        });
        retry.jitter = self.field(fields, "jitter", |reader, node| {
            let fields = reader.object(node, "jitter", &["from", "to"])?;
            let from = reader.required(fields, "from", "jitter", Self::duration);
            let to = reader.required(fields, "to", "jitter", Self::duration);
            if let (Some(DurationValue::Literal(from)), Some(DurationValue::Literal(to))) =
                (from, to)
                && from > to
            {
                reader.problem(node.line, "jitter.from must not be longer than jitter.to");
            }
            Some((from?, to?))
        });
        Some(retry)
    }

    fn backoff(&mut self, node: &'d Node) -> Option<Backoff> {
        let fields = self.object(node, "backoff", &["constant", "linear", "exponential"])?;
        let [member] = fields.members else {
            self.problem(
                node.line,
                "backoff has exactly one of constant, linear, exponential",
            );
            return None;
        };
        let backoff = match member.key.as_str() {
            "constant" => Backoff::Constant,
            "linear" => Backoff::Linear,
            "exponential" => Backoff::Exponential,
            _ => return None,
        };
        self.within(Step::Key(&member.key), |reader| {
            let members = reader.members(&member.value, &member.key)?;
            if let Some(extra) = members.first() {
                reader.problem(
                    extra.line,
                    format!(
                        "{} takes no properties; write {}: {{}}",
                        member.key, member.key
                    ),
                );
            }
            Some(())
        });
        Some(backoff)
    }

    pub(super) fn raise(&mut self, node: &'d Node) -> Option<TaskKind> {
        let fields = self.object(node, "raise", &["error"])?;
        let error = self.required(fields, "error", "raise", |reader, node| {
            match node.as_str() {
                None => reader.error(node),
                Some(name) => {
                    let known = reader.reusable.errors.get(name).cloned();
                    if known.is_none() {
                        reader.unknown(node, "use.errors", name);
                    }
                    known.flatten()
                }
            }
        });
        Some(TaskKind::Raise(Box::new(error?)))
    }

    /// An error to raise.
    pub(super) fn error(&mut self, node: &'d Node) -> Option<ErrorTemplate> {
        let fields = self.object(
            node,
            "error",
            &["type", "status", "title", "detail", "instance"],
        )?;
        let error_type = self.required(fields, "type", "error", |reader, node| {
            reader.uri(node, "type")
        });
        let status = self.required(fields, "status", "error", |reader, node| {
            if node.as_str().is_some() {
                let template = reader.template(node)?;
                if template.as_literal().is_none() {
                    return Some(template);
                }
            }
            let status = reader.integer(node, "status", 100..=599)?;
            Some(Template::Literal(status.into()))
        });
        let mut text = |key| self.field(fields, key, |reader, node| reader.text(node, key));
        let (title, detail, instance) = (text("title"), text("detail"), text("instance"));
        Some(ErrorTemplate {
            error_type: error_type?,
            status: status?,
            title,
            detail,
            instance,
        })
    }
}
