//! A stand-in for the jq evaluator, which lives in a WebAssembly component: just enough
//! of jq to write flows with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Number, Value, json};

use crate::expressions::{ExpressionError, Expressions, Program};
use crate::payload::Digest;

/// Paths, literals, variables, `[...]`, `{...}`, `+ == != < >= | and or`, `length`,
/// `not`, `error`, and `unavailable`, `panic` for what an evaluator may do wrong.
#[derive(Debug, Default)]
pub(super) struct TinyJqForTests {
    /// How often an expression was evaluated.
    pub(super) evaluations: Arc<AtomicU64>,
}

struct TinyProgram {
    expressions: Vec<(String, Node)>,
    names: Vec<String>,
    evaluations: Arc<AtomicU64>,
}

#[derive(Debug, Clone)]
enum Node {
    Dot,
    Variable(usize),
    Literal(Value),
    Member(Box<Node>, Box<Node>),
    Array(Option<Box<Node>>),
    Comma(Box<Node>, Box<Node>),
    Object(Vec<(String, Node)>),
    Binary(&'static str, Box<Node>, Box<Node>),
    Call(String),
}

impl Expressions for TinyJqForTests {
    fn compile(
        &self,
        expressions: &[String],
        variables: &[String],
    ) -> Result<Arc<dyn Program>, ExpressionError> {
        let expressions = expressions
            .iter()
            .map(|text| {
                let mut parser = Parser {
                    rest: text,
                    names: variables,
                };
                let node = parser.pipe().and_then(|node| match parser.rest.trim() {
                    "" => Ok(node),
                    rest => Err(format!("unexpected {rest:?}")),
                });
                node.map(|node| (text.clone(), node))
                    .map_err(|message| ExpressionError::Invalid {
                        expression: text.clone(),
                        message,
                    })
            })
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(TinyProgram {
            expressions,
            names: variables.to_vec(),
            evaluations: Arc::clone(&self.evaluations),
        }))
    }

    fn digest(&self) -> Digest {
        Digest::of(b"tiny")
    }
}

impl Program for TinyProgram {
    fn evaluate(
        &self,
        index: usize,
        input: &Value,
        values: &[Value],
    ) -> Result<Value, ExpressionError> {
        assert_eq!(values.len(), self.names.len(), "one value per variable");
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        let (text, node) = &self.expressions[index];
        let answer = node
            .eval(input, values)
            .map_err(|message| match message.as_str() {
                "unavailable" => ExpressionError::Unavailable("no evaluator".to_owned()),
                _ => ExpressionError::Failed {
                    expression: text.clone(),
                    message,
                },
            })?;
        answer
            .into_iter()
            .next()
            .ok_or_else(|| ExpressionError::Failed {
                expression: text.clone(),
                message: "it yields nothing".to_owned(),
            })
    }
}

type Answer = Result<Vec<Value>, String>;

impl Node {
    fn one(&self, dot: &Value, values: &[Value]) -> Result<Value, String> {
        self.eval(dot, values)?
            .into_iter()
            .next()
            .ok_or_else(|| "empty".to_owned())
    }

    fn eval(&self, dot: &Value, values: &[Value]) -> Answer {
        Ok(vec![match self {
            Self::Dot => dot.clone(),
            Self::Variable(index) => values[*index].clone(),
            Self::Literal(value) => value.clone(),
            Self::Member(of, key) => {
                let of = of.one(dot, values)?;
                match (&of, key.one(dot, values)?) {
                    (Value::Null, _) => Value::Null,
                    (Value::Object(members), Value::String(key)) => {
                        members.get(&key).cloned().unwrap_or_default()
                    }
                    (Value::Array(items), Value::Number(index)) => index
                        .as_u64()
                        .and_then(|index| items.get(usize::try_from(index).ok()?).cloned())
                        .unwrap_or_default(),
                    (_, key) => return Err(format!("cannot index {of} with {key}")),
                }
            }
            Self::Array(None) => json!([]),
            Self::Array(Some(items)) => Value::Array(items.eval(dot, values)?),
            Self::Comma(a, b) => {
                let mut all = a.eval(dot, values)?;
                all.extend(b.eval(dot, values)?);
                return Ok(all);
            }
            Self::Object(members) => {
                let mut object = Map::new();
                for (key, member) in members {
                    object.insert(key.clone(), member.one(dot, values)?);
                }
                Value::Object(object)
            }
            Self::Binary("|", a, b) => return b.eval(&a.one(dot, values)?, values),
            Self::Binary(operator, a, b) => {
                binary(operator, a.one(dot, values)?, b.one(dot, values)?)?
            }
            Self::Call(name) => match name.as_str() {
                "length" => match dot {
                    Value::Array(items) => items.len().into(),
                    Value::Object(members) => members.len().into(),
                    Value::String(text) => text.chars().count().into(),
                    _ => 0.into(),
                },
                "not" => (!truthy(dot)).into(),
                "empty" => return Ok(Vec::new()),
                "panic" => panic!("an evaluator that panics"),
                "unavailable" => return Err("unavailable".to_owned()),
                _ => return Err(dot.to_string()),
            },
        }])
    }
}

fn truthy(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}

fn binary(operator: &str, a: Value, b: Value) -> Result<Value, String> {
    Ok(match (operator, a, b) {
        ("==", a, b) => (a == b).into(),
        ("!=", a, b) => (a != b).into(),
        ("and", a, b) => (truthy(&a) && truthy(&b)).into(),
        ("or", a, b) => (truthy(&a) || truthy(&b)).into(),
        ("<", Value::Number(a), Value::Number(b)) => (a.as_f64() < b.as_f64()).into(),
        (">=", Value::Number(a), Value::Number(b)) => (a.as_f64() >= b.as_f64()).into(),
        ("+", Value::Null, other) | ("+", other, Value::Null) => other,
        ("+", Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => (a + b).into(),
            _ => Number::from_f64(a.as_f64().unwrap() + b.as_f64().unwrap())
                .unwrap()
                .into(),
        },
        ("+", Value::String(a), Value::String(b)) => (a + &b).into(),
        ("+", Value::Array(mut a), Value::Array(b)) => {
            a.extend(b);
            a.into()
        }
        ("+", Value::Object(mut a), Value::Object(b)) => {
            a.extend(b);
            a.into()
        }
        (operator, a, b) => return Err(format!("{a} {operator} {b} has no answer")),
    })
}

struct Parser<'t> {
    rest: &'t str,
    names: &'t [String],
}

impl<'t> Parser<'t> {
    fn eat(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start();
        let Some(after) = rest.strip_prefix(token) else {
            return false;
        };
        let is_word = token.ends_with(char::is_alphabetic);
        if is_word && after.starts_with(|c: char| c.is_alphanumeric()) {
            return false;
        }
        self.rest = after;
        true
    }

    fn left(
        &mut self,
        operators: &[&'static str],
        next: fn(&mut Self) -> Result<Node, String>,
    ) -> Result<Node, String> {
        let mut node = next(self)?;
        while let Some(operator) = operators.iter().find(|operator| self.eat(operator)) {
            node = Node::Binary(operator, Box::new(node), Box::new(next(self)?));
        }
        Ok(node)
    }

    fn pipe(&mut self) -> Result<Node, String> {
        self.left(&["|"], Self::comma)
    }

    fn comma(&mut self) -> Result<Node, String> {
        let mut node = self.logic()?;
        while self.eat(",") {
            node = Node::Comma(Box::new(node), Box::new(self.logic()?));
        }
        Ok(node)
    }

    fn logic(&mut self) -> Result<Node, String> {
        self.left(&["and", "or"], Self::compare)
    }

    fn compare(&mut self) -> Result<Node, String> {
        self.left(&["==", "!=", "<", ">="], Self::sum)
    }

    fn sum(&mut self) -> Result<Node, String> {
        self.left(&["+"], Self::postfix)
    }

    fn postfix(&mut self) -> Result<Node, String> {
        let mut node = self.term()?;
        loop {
            if self.rest.starts_with('[') {
                self.eat("[");
                let key = self.pipe()?;
                self.expect("]")?;
                node = Node::Member(Box::new(node), Box::new(key));
            } else if self.rest.starts_with('.') {
                self.eat(".");
                node = self.member(node)?;
            } else {
                return Ok(node);
            }
        }
    }

    fn member(&mut self, of: Node) -> Result<Node, String> {
        let name = self.word();
        if name.is_empty() {
            return Err(format!("no name at {:?}", self.rest));
        }
        Ok(Node::Member(
            Box::new(of),
            Box::new(Node::Literal(name.into())),
        ))
    }

    fn term(&mut self) -> Result<Node, String> {
        self.rest = self.rest.trim_start();
        if self.eat("(") {
            let node = self.pipe()?;
            self.expect(")")?;
            return Ok(node);
        }
        if self.eat("[") {
            if self.eat("]") {
                return Ok(Node::Array(None));
            }
            let items = self.pipe()?;
            self.expect("]")?;
            return Ok(Node::Array(Some(Box::new(items))));
        }
        if self.eat("{") {
            return self.object();
        }
        if self.eat("$") {
            let name = self.word();
            let index = self.names.iter().position(|known| known == name);
            return index
                .map(Node::Variable)
                .ok_or_else(|| format!("${name} is not defined"));
        }
        if self.eat(".") {
            let starts_name = |c: char| c.is_alphabetic() || c == '_';
            return if self.rest.starts_with(starts_name) {
                self.member(Node::Dot)
            } else {
                Ok(Node::Dot)
            };
        }
        if self
            .rest
            .starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
        {
            // Numbers end where they end; a text may hold anything.
            let end = if self.rest.starts_with('"') {
                let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<Value>();
                let _ = values.next();
                values.byte_offset()
            } else {
                self.rest[1..]
                    .find(|c: char| !(c.is_ascii_digit() || c == '.'))
                    .map_or(self.rest.len(), |end| end + 1)
            };
            let (text, rest) = self.rest.split_at(end);
            let value = serde_json::from_str(text).map_err(|error| error.to_string())?;
            self.rest = rest;
            return Ok(Node::Literal(value));
        }
        match self.word() {
            "null" => Ok(Node::Literal(Value::Null)),
            "true" => Ok(Node::Literal(true.into())),
            "false" => Ok(Node::Literal(false.into())),
            name @ ("length" | "not" | "empty" | "error" | "panic" | "unavailable") => {
                Ok(Node::Call(name.to_owned()))
            }
            other => Err(format!("{other:?} is not defined")),
        }
    }

    fn object(&mut self) -> Result<Node, String> {
        let mut members = Vec::new();
        while !self.eat("}") {
            self.rest = self.rest.trim_start();
            let key = self.word().to_owned();
            self.expect(":")?;
            members.push((key, self.sum()?));
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(Node::Object(members))
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) {
            Ok(())
        } else {
            Err(format!("{token:?} is missing before {:?}", self.rest))
        }
    }

    fn word(&mut self) -> &'t str {
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }
}
