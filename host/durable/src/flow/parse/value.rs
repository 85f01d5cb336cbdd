//! Values, expressions, durations, schemas and transformations.

use std::sync::Arc;

use serde_json::Value;

use super::{Found, Reader, Step};
use crate::flow::model::{DurationValue, Transform};
use crate::flow::source::{Data, Node, quote};
use crate::flow::template::{Expr, Template, Uri, UriTemplate};
use crate::flow::{duration, schema};

/// The DSL's variables that Heyday does not have: null in their place would hide that.
const UNSUPPORTED: [(&str, &str); 2] = [
    ("secrets", "give a plugin its secrets by a binding"),
    ("authorization", "call a plugin that has the credentials"),
];

/// Whether a jq expression uses a variable. Text in quotes is skipped, but for what is
/// evaluated in it, and so are comments.
fn names_variable(expression: &str, name: &str) -> bool {
    // How many parentheses are open, per level of code; odd levels are text between them.
    let mut open = vec![0_u32];
    let mut in_text = false;
    let mut rest = expression;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' if in_text => {
                let escaped = rest.chars().next();
                rest = &rest[escaped.map_or(0, char::len_utf8)..];
                if escaped == Some('(') {
                    open.push(0);
                    in_text = false;
                }
            }
            '"' => in_text = !in_text,
            _ if in_text => {}
            '#' => rest = rest.split_once('\n').map_or("", |(_, rest)| rest),
            '(' => {
                if let Some(open) = open.last_mut() {
                    *open += 1;
                }
            }
            ')' if open.len() > 1 && open.last() == Some(&0) => {
                open.pop();
                in_text = true;
            }
            ')' => {
                if let Some(open) = open.last_mut() {
                    *open = open.saturating_sub(1);
                }
            }
            '$' => {
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                if &rest[..end] == name {
                    return true;
                }
                rest = &rest[end..];
            }
            _ => {}
        }
    }
    false
}

/// What stands between `${` and `}`, where that is the whole text.
pub(super) fn inside(text: &str) -> Option<&str> {
    text.trim()
        .strip_prefix("${")?
        .strip_suffix('}')
        .map(str::trim)
}

impl<'d> Reader<'d> {
    /// An expression of a property that is always one, with or without `${}`.
    pub(super) fn expression(&mut self, node: &'d Node, what: &str) -> Option<Expr> {
        let text = self.string(node, what)?;
        self.intern(node, inside(text).unwrap_or_else(|| text.trim()))
    }

    fn intern(&mut self, node: &'d Node, text: &str) -> Option<Expr> {
        if text.is_empty() {
            self.problem(
                node.line,
                "the expression is empty; `.` is the value itself",
            );
            return None;
        }
        if let Some(index) = self.by_text.get(text) {
            return Some(Expr(*index));
        }
        for (name, instead) in UNSUPPORTED {
            if names_variable(text, name) {
                self.problem(
                    node.line,
                    format!("the variable ${name} is not supported yet; {instead}"),
                );
                return None;
            }
        }
        let index = self.expressions.len();
        self.by_text.insert(text.to_owned(), index);
        self.expressions.push(Found {
            text: text.to_owned(),
            line: node.line,
        });
        Some(Expr(index))
    }

    /// Any value; strings that are wholly `${...}` are expressions.
    pub(super) fn template(&mut self, node: &'d Node) -> Option<Template> {
        match &node.data {
            Data::Scalar(Value::String(text)) => {
                if let Some(expression) = inside(text) {
                    return Some(Template::Expression(self.intern(node, expression)?));
                }
                if text.contains("${") {
                    self.problem(
                        node.line,
                        "${...} must be the whole value; write ${ \"text \\(.name)\" } to put values into text",
                    );
                    return None;
                }
                Some(Template::Literal(Value::String(text.clone())))
            }
            Data::Scalar(value) => Some(Template::Literal(value.clone())),
            Data::Array(items) => {
                let templates: Vec<_> = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| {
                        self.within(Step::Index(index), |reader| reader.template(item))
                    })
                    .collect();
                let templates = templates.into_iter().collect::<Option<Vec<_>>>()?;
                if templates.iter().all(|item| item.as_literal().is_some()) {
                    return Some(Template::Literal(node.to_value()));
                }
                Some(Template::Array(templates))
            }
            Data::Object(members) => {
                let templates: Vec<_> = members
                    .iter()
                    .map(|member| {
                        let template = self.within(Step::Key(&member.key), |reader| {
                            reader.template(&member.value)
                        });
                        Some((member.key.clone(), template?))
                    })
                    .collect();
                let templates = templates.into_iter().collect::<Option<Vec<_>>>()?;
                if templates
                    .iter()
                    .all(|(_, member)| member.as_literal().is_some())
                {
                    return Some(Template::Literal(node.to_value()));
                }
                Some(Template::Object(templates))
            }
        }
    }

    /// A string or an expression that answers one.
    pub(super) fn text(&mut self, node: &'d Node, what: &str) -> Option<Template> {
        self.string(node, what)?;
        self.template(node)
    }

    /// An object or an expression that answers one.
    pub(super) fn object_template(&mut self, node: &'d Node, what: &str) -> Option<Template> {
        let expression = node.as_str().is_some_and(|text| inside(text).is_some());
        if !expression && !matches!(node.data, Data::Object(_)) {
            self.problem(
                node.line,
                format!(
                    "{what} must be an object or ${{...}}, not {}",
                    node.describe()
                ),
            );
            return None;
        }
        self.template(node)
    }

    /// `from` and `as`: an expression, or an object that may hold some.
    fn transformation(&mut self, node: &'d Node, what: &str) -> Option<Template> {
        match &node.data {
            Data::Object(_) => self.template(node),
            Data::Scalar(Value::String(_)) => self.expression(node, what).map(Template::Expression),
            _ => {
                self.problem(
                    node.line,
                    format!(
                        "{what} must be an expression or an object, not {}",
                        node.describe()
                    ),
                );
                None
            }
        }
    }

    /// A URI: an expression, or a template with a scheme.
    pub(super) fn uri(&mut self, node: &'d Node, what: &str) -> Option<Uri> {
        let text = self.string(node, what)?;
        if let Some(expression) = inside(text) {
            return self.intern(node, expression).map(Uri::Expression);
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        if !scheme.is_some_and(|scheme| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        }) {
            self.problem(
                node.line,
                format!(
                    "{what} must be an absolute URI (scheme://...) or ${{...}}, not {}",
                    quote(text)
                ),
            );
            return None;
        }
        self.uri_template(node, text, what)
    }

    /// A URI that may be relative: an expression, or a template.
    pub(super) fn uri_reference(&mut self, node: &'d Node, what: &str) -> Option<Uri> {
        let text = self.string(node, what)?;
        if let Some(expression) = inside(text) {
            return self.intern(node, expression).map(Uri::Expression);
        }
        if text.is_empty() {
            self.problem(node.line, format!("{what} is empty"));
            return None;
        }
        self.uri_template(node, text, what)
    }

    fn uri_template(&mut self, node: &Node, text: &str, what: &str) -> Option<Uri> {
        match UriTemplate::parse(text) {
            Ok(template) => Some(Uri::Template(template)),
            Err(message) => {
                self.problem(node.line, format!("{what}: {message}"));
                None
            }
        }
    }

    /// A duration: an object, ISO 8601 or an expression.
    pub(super) fn duration(&mut self, node: &'d Node) -> Option<DurationValue> {
        if let Some(expression) = node.as_str().and_then(inside) {
            return self.intern(node, expression).map(DurationValue::Expression);
        }
        match duration::from_value(&node.to_value()) {
            Ok(duration) => Some(DurationValue::Literal(duration)),
            Err(message) => {
                self.problem(node.line, message);
                None
            }
        }
    }

    /// `timeout`: inline, or the name of a reusable one.
    pub(super) fn timeout(&mut self, node: &'d Node) -> Option<DurationValue> {
        if let Some(name) = node.as_str() {
            let known = self.reusable.timeouts.get(name).copied();
            if known.is_none() {
                self.unknown(node, "use.timeouts", name);
            }
            return known.flatten();
        }
        let fields = self.object(node, "timeout", &["after"])?;
        self.required(fields, "after", "timeout", Self::duration)
    }

    /// Notes that a name is not among the reusable components.
    pub(super) fn unknown(&mut self, node: &'d Node, section: &str, name: &str) {
        self.problem(
            node.line,
            format!(
                "{section} defines no {}; define it there or write it inline",
                quote(name)
            ),
        );
    }

    /// `input`, `output` or `export`; `key` is `from` or `as`.
    pub(super) fn transform(
        &mut self,
        node: &'d Node,
        what: &'static str,
        key: &'static str,
    ) -> Option<Transform> {
        let fields = self.object(node, what, &["schema", key])?;
        let schema = self.field(fields, "schema", Self::schema);
        let template = self.field(fields, key, |reader, node| reader.transformation(node, key));
        Some(Transform { schema, template })
    }

    fn schema(&mut self, node: &'d Node) -> Option<Arc<schema::CompiledSchema>> {
        let fields = self.object(node, "schema", &["format", "document", "resource"])?;
        self.field(fields, "format", |reader, node| {
            let format = reader.string(node, "format")?;
            if format != "json" {
                reader.problem(
                    node.line,
                    format!(
                        "the schema format {} is not supported; use json",
                        quote(format)
                    ),
                );
            }
            Some(())
        });
        if let Some(resource) = fields.get("resource") {
            self.problem(
                resource.line,
                "external schemas (schema.resource) are not supported; put the schema under schema.document",
            );
            return None;
        }
        self.required(fields, "document", "schema", |reader, node| {
            if !matches!(node.data, Data::Object(_) | Data::Scalar(Value::Bool(_))) {
                reader.problem(
                    node.line,
                    format!("a JSON Schema must be an object, not {}", node.describe()),
                );
                return None;
            }
            match schema::compile(&node.to_value()) {
                Ok(schema) => Some(Arc::new(schema)),
                Err(error) => {
                    let line = node.nearest(&error.pointer).line;
                    let pointer = format!("{}{}", reader.pointer(), error.pointer);
                    // `references` has told of a reference that leaves the document.
                    if !reader.problems.has(&pointer) {
                        reader.problems.add(line, pointer, error.message);
                    }
                    None
                }
            }
        })
    }

    /// Refuses every `$ref` that leaves the document, wherever it stands.
    pub(super) fn references(&mut self, node: &'d Node) {
        match &node.data {
            Data::Scalar(_) => {}
            Data::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.within(Step::Index(index), |reader| reader.references(item));
                }
            }
            Data::Object(members) => {
                for member in members {
                    self.within(Step::Key(&member.key), |reader| {
                        if let ("$ref" | "$dynamicRef" | "$recursiveRef", Some(target)) =
                            (member.key.as_str(), member.value.as_str())
                            && !target.starts_with('#')
                        {
                            reader.problem(
                                member.value.line,
                                format!(
                                    "{} refers to {}, out of the document; put what it means under $defs and refer to #/$defs/...",
                                    member.key,
                                    quote(target)
                                ),
                            );
                        }
                        reader.references(&member.value);
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::names_variable;

    #[test]
    fn variables_are_found_where_they_are_used() {
        for (expression, found) in [
            ("$x", true),
            (".a + ($x.b | length)", true),
            (r#""text \($x) more""#, true),
            (r#""text \(.a | f("in \($x)"))""#, true),
            (r#""(" + $x"#, true),
            (r#""a" as $y | "b\"" | $x"#, true),
            ("# \"\n$x", true),
            ("$xy + .x + $y", false),
            (r#""it costs $x""#, false),
            (r#""a \(.b) $x" + "\\" + "$x""#, false),
            (". # $x", false),
            ("", false),
        ] {
            assert_eq!(names_variable(expression, "x"), found, "{expression}");
        }
    }
}
