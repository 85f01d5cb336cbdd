//! Values that may hold runtime expressions, and URI templates.
//!
//! A string is an expression where it is wholly `${ ... }`; everything else is
//! itself. A [`Template`] is the value with its expressions replaced by indexes into
//! [`Flow::expressions`](super::Flow::expressions), so that rendering parses nothing
//! and a value without `${}` never reaches the evaluator.

use serde_json::{Map, Value};

/// An expression of a flow: its place in
/// [`Flow::expressions`](super::Flow::expressions), as
/// [`Program::evaluate`](crate::expressions::Program::evaluate) takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expr(pub(crate) usize);

impl Expr {
    /// Its index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// A JSON value that may hold expressions.
#[derive(Debug, Clone, PartialEq)]
pub enum Template {
    /// A value without expressions.
    Literal(Value),
    /// The result of an expression.
    Expression(Expr),
    /// An array of which some element holds an expression.
    Array(Vec<Template>),
    /// An object of which some member holds an expression; keys are literal.
    Object(Vec<(String, Template)>),
}

impl Template {
    /// The value, with each expression evaluated in document order.
    ///
    /// # Errors
    /// The first one of `eval`.
    pub fn render<E>(&self, eval: &mut dyn FnMut(usize) -> Result<Value, E>) -> Result<Value, E> {
        Ok(match self {
            Self::Literal(value) => value.clone(),
            Self::Expression(expression) => eval(expression.index())?,
            Self::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| item.render(eval))
                    .collect::<Result<_, E>>()?,
            ),
            Self::Object(members) => {
                let mut object = Map::new();
                for (key, member) in members {
                    object.insert(key.clone(), member.render(eval)?);
                }
                Value::Object(object)
            }
        })
    }

    /// The value, where it holds no expression.
    #[must_use]
    pub const fn as_literal(&self) -> Option<&Value> {
        match self {
            Self::Literal(value) => Some(value),
            _ => None,
        }
    }
}

/// A URI: a template that is filled from the task's input, or an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Uri {
    /// Text with `{name}` in it, or plain text.
    Template(UriTemplate),
    /// An expression that answers the whole URI.
    Expression(Expr),
}

/// Text in which `{name}` stands for the member of that name of the task's input
/// (RFC 6570 simple string expansion, as far as the DSL takes it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UriTemplate {
    parts: Vec<UriPart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum UriPart {
    Text(String),
    Variable(String),
}

/// A value that cannot stand in a URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{{{name}}} in a URI takes a string, number, boolean or null from the task's input, not an {actual}"
)]
pub struct UriValueError {
    /// The variable.
    pub name: String,
    /// `array` or `object`.
    pub actual: &'static str,
}

impl UriTemplate {
    /// Reads a template. A name is verbatim: `{pet.id}` is the member `pet.id`.
    ///
    /// # Errors
    /// When braces do not match or a name is empty; a sentence for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            if rest.as_bytes()[open] == b'}' {
                return Err("a \"}\" without its \"{\"; write it as %7D".to_owned());
            }
            if open > 0 {
                parts.push(UriPart::Text(rest[..open].to_owned()));
            }
            let after = &rest[open + 1..];
            let close = after
                .find(['{', '}'])
                .filter(|&at| after.as_bytes()[at] == b'}')
                .ok_or("a \"{\" without its \"}\"; write it as %7B")?;
            let name = &after[..close];
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(
                    "between { and } stands the name of a member of the task's input".to_owned(),
                );
            }
            parts.push(UriPart::Variable(name.to_owned()));
            rest = &after[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(UriPart::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The text with each variable replaced by its value, percent-encoded; a member
    /// that is absent or null is the empty string.
    ///
    /// # Errors
    /// When a value is an array or an object.
    pub fn expand(&self, input: &Value) -> Result<String, UriValueError> {
        let mut uri = String::new();
        for part in &self.parts {
            match part {
                UriPart::Text(text) => uri.push_str(text),
                UriPart::Variable(name) => match input.get(name) {
                    None | Some(Value::Null) => {}
                    Some(Value::Bool(value)) => uri.push_str(if *value { "true" } else { "false" }),
                    Some(Value::Number(value)) => encode(&value.to_string(), &mut uri),
                    Some(Value::String(value)) => encode(value, &mut uri),
                    Some(Value::Array(_)) => return Err(UriValueError::new(name, "array")),
                    Some(Value::Object(_)) => return Err(UriValueError::new(name, "object")),
                },
            }
        }
        Ok(uri)
    }

    /// The names of its variables.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            UriPart::Variable(name) => Some(name.as_str()),
            UriPart::Text(_) => None,
        })
    }
}

impl UriValueError {
    fn new(name: &str, actual: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            actual,
        }
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters.
fn encode(text: &str, into: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            into.push('%');
            into.push(char::from(HEX[usize::from(byte >> 4)]));
            into.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn renders_expressions_in_document_order() {
        let template = Template::Object(vec![
            ("b".to_owned(), Template::Expression(Expr(3))),
            (
                "a".to_owned(),
                Template::Array(vec![
                    Template::Literal(json!(".x")),
                    Template::Expression(Expr(5)),
                ]),
            ),
        ]);
        let mut asked = Vec::new();
        let value = template
            .render::<()>(&mut |index| {
                asked.push(index);
                Ok(json!(index))
            })
            .unwrap();
        assert_eq!(value, json!({"b": 3, "a": [".x", 5]}));
        assert_eq!(asked, [3, 5]);
        assert_eq!(template.render(&mut |index| Err(index)), Err(3));
    }

    #[test]
    fn expands_uris() {
        let uri = UriTemplate::parse("https://x.test/{a.b}/{id}?q={q}&n={none}&t={t}").unwrap();
        let input = json!({"a.b": "ä/b c", "id": 1.5, "q": null, "t": true});
        assert_eq!(
            uri.expand(&input).unwrap(),
            "https://x.test/%C3%A4%2Fb%20c/1.5?q=&n=&t=true"
        );
        assert_eq!(
            uri.variables().collect::<Vec<_>>(),
            ["a.b", "id", "q", "none", "t"]
        );
        assert_eq!(
            uri.expand(&json!({"id": []})).unwrap_err(),
            UriValueError::new("id", "array")
        );
        // A task input that is no object has no members.
        assert_eq!(
            UriTemplate::parse("a:{x}")
                .unwrap()
                .expand(&json!(3))
                .unwrap(),
            "a:"
        );
    }

    #[test]
    fn refuses_malformed_uri_templates() {
        for text in [
            "http://x/{",
            "http://x/}",
            "http://x/{a{b}}",
            "http://x/{}",
            "http://x/{a b}",
        ] {
            assert!(UriTemplate::parse(text).is_err(), "{text}");
        }
    }
}
