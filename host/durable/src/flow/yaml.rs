//! YAML into [`Node`]s: one document of YAML 1.2 with the core schema.
//!
//! Aliases would let a small document stand for a huge one, and tags would ask for
//! types that JSON does not have: both are refused.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Number, Value};

use super::source::{Data, MAX_DEPTH, Member, Node, Problems, quote, without_duplicates};

/// A collection that is not yet closed.
enum Open {
    Array {
        line: u32,
        items: Vec<Node>,
    },
    Object {
        line: u32,
        members: Vec<Member>,
        key: Option<(String, u32)>,
    },
}

struct Builder<'p> {
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    problems: &'p mut Problems,
}

/// Reads a document; `None` only where a problem was added.
pub(super) fn read(text: &str, problems: &mut Problems) -> Option<Node> {
    let mut builder = Builder {
        open: Vec::new(),
        root: None,
        documents: 0,
        problems,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                // The scanner reads ahead and meets its own limit before ours.
                let message = if error.info() == "recursion limit exceeded" {
                    too_deep()
                } else {
                    format!("not valid YAML: {}", error.info())
                };
                builder.problem(line(error.marker().line()), message);
                return None;
            }
        };
        if !builder.event(event, span) || builder.problems.is_full() {
            return None;
        }
    }
    if builder.root.is_none() && builder.problems.is_empty() {
        builder.problem(1, "the document is empty");
    }
    builder.root
}

fn too_deep() -> String {
    format!("the document nests deeper than {MAX_DEPTH} levels")
}

fn line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX).max(1)
}

impl Builder<'_> {
    fn problem(&mut self, line: u32, message: impl Into<String>) {
        self.problems.add(line, String::new(), message);
    }

    /// Whether to go on.
    fn event(&mut self, event: Event<'_>, span: Span) -> bool {
        let line = line(span.start.line());
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.problem(line, "a second document begins; upload one flow at a time");
                    return false;
                }
            }
            Event::Alias(_) => {
                self.problem(
                    line,
                    "YAML aliases (*name) are not supported; write the value out",
                );
                self.push(Node::null(line));
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.properties(line, anchor, tag.is_some());
                self.scalar(line, text.into_owned(), style);
            }
            Event::SequenceStart(anchor, tag) => {
                self.properties(line, anchor, tag.is_some());
                return self.open(Open::Array {
                    line,
                    items: Vec::new(),
                });
            }
            Event::MappingStart(anchor, tag) => {
                self.properties(line, anchor, tag.is_some());
                return self.open(Open::Object {
                    line,
                    members: Vec::new(),
                    key: None,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        true
    }

    fn properties(&mut self, line: u32, anchor: usize, tag: bool) {
        if anchor != 0 {
            self.problem(line, "YAML anchors (&name) are not supported; remove it");
        }
        if tag {
            self.problem(line, "YAML tags (!name) are not supported; remove it");
        }
    }

    fn open(&mut self, collection: Open) -> bool {
        let (Open::Array { line, .. } | Open::Object { line, .. }) = collection;
        if self.open.len() == MAX_DEPTH {
            self.problem(line, too_deep());
            return false;
        }
        if let Some(Open::Object { key: None, .. }) = self.open.last() {
            self.problem(line, "a key must be text, not a list or an object");
            return false;
        }
        self.open.push(collection);
        true
    }

    fn close(&mut self) {
        let node = match self.open.pop() {
            Some(Open::Array { line, items }) => Node {
                line,
                data: Data::Array(items),
            },
            Some(Open::Object { line, members, .. }) => Node {
                line,
                data: Data::Object(without_duplicates(members, self.problems)),
            },
            None => return,
        };
        self.push(node);
    }

    fn scalar(&mut self, line: u32, text: String, style: ScalarStyle) {
        if let Some(Open::Object {
            key: key @ None, ..
        }) = self.open.last_mut()
        {
            *key = Some((text, line));
            return;
        }
        let value = if style == ScalarStyle::Plain {
            resolve(text).unwrap_or_else(|text| {
                self.problem(
                    line,
                    format!(
                        "{} is no JSON number; write it in quotes if it is text",
                        quote(&text)
                    ),
                );
                Value::Null
            })
        } else {
            Value::String(text)
        };
        self.push(Node {
            line,
            data: Data::Scalar(value),
        });
    }

    fn push(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::Array { items, .. }) => items.push(node),
            Some(Open::Object { members, key, .. }) => match key.take() {
                Some((key, line)) => members.push(Member {
                    key,
                    line,
                    value: node,
                }),
                // An alias as a key, which is a problem already; its value follows.
                None => *key = Some((String::new(), node.line)),
            },
        }
    }
}

/// A plain scalar by YAML's core schema; `Err` with the text of a number that JSON
/// cannot say.
fn resolve(text: String) -> Result<Value, String> {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    if let Some(number) = radix(&text) {
        return number.map_or(Err(text), |number| Ok(Value::Number(number.into())));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF")
        || matches!(text.as_str(), ".nan" | ".NaN" | ".NAN")
    {
        return Err(text);
    }
    if !is_decimal(unsigned) {
        return Ok(Value::String(text));
    }
    if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        if let Ok(number) = text.parse::<i64>() {
            return Ok(Value::Number(number.into()));
        }
        if let Ok(number) = text.parse::<u64>() {
            return Ok(Value::Number(number.into()));
        }
    }
    match text.parse().ok().and_then(Number::from_f64) {
        Some(number) => Ok(Value::Number(number)),
        None => Err(text),
    }
}

/// `0x` and `0o` integers; `Some(None)` where one is too large.
fn radix(text: &str) -> Option<Option<u64>> {
    let (digits, base) = text
        .strip_prefix("0x")
        .map(|digits| (digits, 16))
        .or_else(|| text.strip_prefix("0o").map(|digits| (digits, 8)))?;
    let valid = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
    valid.then(|| u64::from_str_radix(digits, base).ok())
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_decimal(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = text
        .split_once(['e', 'E'])
        .map_or((text, None), |(mantissa, exponent)| {
            (mantissa, Some(exponent))
        });
    if let Some(exponent) = exponent {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if exponent.is_empty() || !digits(exponent) {
            return false;
        }
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(text: &str) -> Vec<(u32, String)> {
        let mut problems = Problems::default();
        let node = read(text, &mut problems);
        if problems.is_empty() {
            panic!(
                "{text:?} was read as {:?}",
                node.map(|node| node.to_value())
            );
        }
        let errors = problems.into_error().errors;
        errors
            .into_iter()
            .map(|error| (error.line, error.message))
            .collect()
    }

    fn value(text: &str) -> Value {
        let mut problems = Problems::default();
        let node = read(text, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        node.unwrap().to_value()
    }

    #[test]
    fn resolves_plain_scalars_by_the_core_schema() {
        assert_eq!(
            value(
                "[~, null, NULL, true, False, 12, -3, +4, 0o17, 0xfF, 1.5, .5, 2., 1e3, -1E-2, 18446744073709551615]"
            ),
            json!([
                null,
                null,
                null,
                true,
                false,
                12,
                -3,
                4,
                15,
                255,
                1.5,
                0.5,
                2.0,
                1000.0,
                -0.01,
                18_446_744_073_709_551_615_u64
            ])
        );
        assert_eq!(
            value(
                "[yes, No, on, 1.0.3, 1_000, 0b1, 0x, 12e, ., 1:30, 2026-11-24, 'true', \"1\", nulL, tRue]"
            ),
            json!([
                "yes",
                "No",
                "on",
                "1.0.3",
                "1_000",
                "0b1",
                "0x",
                "12e",
                ".",
                "1:30",
                "2026-11-24",
                "true",
                "1",
                "nulL",
                "tRue"
            ])
        );
        assert_eq!(
            value("a: |\n  1\n  2\nb: >-\n  x\n  y\n1: 2"),
            json!({"a": "1\n2\n", "b": "x y", "1": 2})
        );
    }

    #[test]
    fn refuses_numbers_that_json_cannot_say() {
        for text in [".inf", "-.INF", ".nan", "1e999", "0xffffffffffffffffff"] {
            let found = problems(&format!("a: 1\nb: {text}"));
            assert_eq!(found[0].0, 2, "{text}");
            assert!(found[0].1.contains(text), "{found:?}");
        }
    }

    #[test]
    fn refuses_aliases_anchors_and_tags() {
        let found = problems("a: &x 1\nb: *x\nc: !!str 2\nd: !t {}\n*x : 3");
        assert_eq!(
            found.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5],
            "{found:?}"
        );
        assert!(found[1].1.contains("aliases"));
    }

    #[test]
    fn refuses_an_alias_bomb_at_once() {
        let mut bomb = "a0: &a0 [lol]\n".to_owned();
        for n in 1..40 {
            bomb.push_str(&format!(
                "a{n}: &a{n} [{}]\n",
                vec![format!("*a{}", n - 1); 9].join(", ")
            ));
        }
        assert!(problems(&bomb)[0].1.contains("anchors"));
    }

    #[test]
    fn refuses_duplicates_complex_keys_and_second_documents() {
        assert_eq!(problems("a: 1\nb: 2\na: 3")[0].0, 3);
        assert!(problems("? [a]\n: 1")[0].1.contains("key must be text"));
        assert!(problems("a: 1\n---\nb: 2")[0].1.contains("second document"));
        assert!(problems("")[0].1.contains("empty"));
        assert!(problems("# only a comment\n")[0].1.contains("empty"));
        assert!(problems("a: [1\nb: 2")[0].1.contains("not valid YAML"));
    }

    #[test]
    fn refuses_depth() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(value(&nested(MAX_DEPTH)).is_array());
        assert!(problems(&nested(MAX_DEPTH + 1))[0].1.contains("64 levels"));
        assert!(problems(&"[".repeat(100_000))[0].1.contains("64 levels"));
        assert!(problems(&"- ".repeat(100_000))[0].1.contains("64 levels"));
        assert!(problems(&"? ".repeat(1000)).len() == 1);
    }
}
