//! Expressions compiled together, so that jaq's own library is compiled once and not once
//! for each of them.
//!
//! Each expression is first parsed alone: that gives errors of its own and makes sure that
//! it is one whole term, so that it cannot reach out of the parentheses it is then put
//! into. Then all become definitions of one program, whose main term picks one of them by
//! `$__heyday_index`, in a tree of comparisons.

use jaq_core::load::{Arena, File, Lexer, Loader, Parser, lex, parse};
use jaq_core::{Compiler, Ctx, Vars, compile};
use jaq_json::{Val, read};

use crate::language::{self, Data};

/// The variable that picks the expression. Expressions cannot see it: see [`Program::compile`].
const INDEX: &str = "$__heyday_index";
/// What the names of the definitions begin with.
const PREFIX: &str = "__heyday_";
/// Most characters of a message: an error of jq may quote a value of any size.
const MESSAGE: usize = 1_000;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Which kind.
    pub code: Code,
    /// For a person.
    pub message: String,
}

/// The codes of the WIT package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// It does not compile.
    InvalidExpression,
    /// An argument is no JSON value.
    InvalidJson,
    /// It yielded nothing.
    NoResult,
    /// jq's own error while it ran.
    EvaluationFailed,
}

impl Code {
    /// The code as the WIT package spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidExpression => "invalid-expression",
            Self::InvalidJson => "invalid-json",
            Self::NoResult => "no-result",
            Self::EvaluationFailed => "evaluation-failed",
        }
    }
}

impl Error {
    fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        Self { code, message }
    }

    /// What `evaluate` answers before `prepare`.
    #[must_use]
    pub fn not_prepared() -> Self {
        Self::new(Code::InvalidExpression, "nothing is prepared")
    }
}

/// Compiled expressions.
pub struct Program {
    filter: jaq_core::Filter<Data>,
    expressions: usize,
    variables: usize,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("expressions", &self.expressions)
            .field("variables", &self.variables)
            .finish_non_exhaustive()
    }
}

impl Program {
    /// Compiles expressions that may use these variables (without `$`).
    ///
    /// # Errors
    /// [`Code::InvalidExpression`], the message led by the index of the first one that
    /// does not compile.
    pub fn compile(expressions: &[String], names: &[String]) -> Result<Self, Error> {
        let invalid = |index: usize, message: String| {
            Error::new(Code::InvalidExpression, format!("{index}: {message}"))
        };
        for (index, expression) in expressions.iter().enumerate() {
            check(expression).map_err(|message| invalid(index, message))?;
            // What begins so belongs to this module. Texts may not say it either: simple,
            // and no flow needs to.
            if expression.contains(PREFIX) {
                return Err(invalid(
                    index,
                    format!("names beginning with {PREFIX} are reserved"),
                ));
            }
        }

        let mut code = String::new();
        let mut starts = Vec::with_capacity(expressions.len());
        for (index, expression) in expressions.iter().enumerate() {
            code.push_str(&format!("def {PREFIX}{index}: (\n"));
            starts.push(code.len());
            code.push_str(expression);
            // The line ends a comment of the expression.
            code.push_str("\n);\n");
        }
        pick(&mut code, 0, expressions.len());

        let arena = Arena::default();
        let file = File {
            code: code.as_str(),
            path: (),
        };
        let modules = Loader::new(language::definitions())
            .load(&arena, file)
            .map_err(|_| Error::new(Code::InvalidExpression, "0: it is no jq expression"))?;
        let mut variables: Vec<String> = names.iter().map(|name| format!("${name}")).collect();
        variables.push(INDEX.to_owned());
        let filter = Compiler::default()
            .with_funs(language::natives())
            .with_global_vars(variables.iter().map(String::as_str))
            .compile(modules)
            .map_err(|errors| {
                let undefined = errors.iter().flat_map(|(_, errors)| errors);
                let first = undefined
                    .map(|(name, what)| (locate(&code, &starts, name), name, what))
                    .min_by_key(|(index, _, _)| *index);
                match first {
                    Some((index, name, what)) => invalid(index, describe_undefined(name, what)),
                    None => Error::new(Code::InvalidExpression, "0: it does not compile"),
                }
            })?;
        Ok(Self {
            filter,
            expressions: expressions.len(),
            variables: names.len(),
        })
    }

    /// Evaluates the expression of that index and answers its first result as JSON.
    ///
    /// # Errors
    /// As the codes say; [`Code::InvalidExpression`] for an index that was not prepared and
    /// for a number of values that is not that of the variables.
    pub fn evaluate(&self, index: usize, input: &str, values: &[String]) -> Result<String, Error> {
        if index >= self.expressions || values.len() != self.variables {
            return Err(Error::new(
                Code::InvalidExpression,
                format!(
                    "there are {} expressions and {} variables; asked for expression {index} \
                     with {} values",
                    self.expressions,
                    self.variables,
                    values.len()
                ),
            ));
        }
        let input = parse_json("the input", input)?;
        let mut variables = Vec::with_capacity(values.len() + 1);
        for (index, value) in values.iter().enumerate() {
            variables.push(parse_json(&format!("variable {index}"), value)?);
        }
        variables.push(Val::from(index));
        let context = Ctx::<Data>::new(&self.filter.lut, Vars::new(variables));
        match self.filter.id.run((context, input)).next() {
            None => Err(Error::new(Code::NoResult, "the expression yields nothing")),
            Some(Ok(value)) => crate::json::write(&value)
                .map_err(|message| Error::new(Code::EvaluationFailed, message)),
            Some(Err(exception)) => Err(Error::new(
                Code::EvaluationFailed,
                match exception.get_err() {
                    Ok(error) => error.to_string(),
                    // Only `halt` and jaq's own tail calls; the former does not exist.
                    Err(_) => "the expression left its program".to_owned(),
                },
            )),
        }
    }
}

fn parse_json(what: &str, text: &str) -> Result<Val, Error> {
    read::parse_single(text.as_bytes())
        .map_err(|error| Error::new(Code::InvalidJson, format!("{what} is no JSON: {error}")))
}

/// The term that picks among the expressions `from..to`.
fn pick(code: &mut String, from: usize, to: usize) {
    match to - from {
        0 => code.push_str("empty"),
        1 => code.push_str(&format!("{PREFIX}{from}")),
        count => {
            let middle = from + count / 2;
            code.push_str(&format!("if {INDEX} < {middle} then "));
            pick(code, from, middle);
            code.push_str(" else ");
            pick(code, middle, to);
            code.push_str(" end");
        }
    }
}

/// Whether the text is one jq term.
fn check(expression: &str) -> Result<(), String> {
    let tokens =
        Lexer::new(expression)
            .lex()
            .map_err(|errors| match errors.into_iter().next() {
                Some((expected, found)) => describe_expected(expected.as_str(), found, expression),
                None => "it is no jq expression".to_owned(),
            })?;
    Parser::new(&tokens)
        .parse(|parser| parser.term())
        .map(|_| ())
        .map_err(|errors| match errors.into_iter().next() {
            Some((expected, found)) => {
                let found = lex::Token::opt_as_str(found, expression);
                describe_parse(&expected, found, expression)
            }
            None => "it is no jq expression".to_owned(),
        })
}

fn describe_parse(expected: &parse::Expect<&str>, found: &str, expression: &str) -> String {
    describe_expected(expected.as_str(), found, expression)
}

fn describe_expected(expected: &str, found: &str, expression: &str) -> String {
    let at = found.as_ptr() as usize - expression.as_ptr() as usize;
    let column = expression.get(..at).map_or(0, |text| text.chars().count()) + 1;
    let found: String = found.chars().take(20).collect();
    if found.is_empty() {
        format!("expected {expected} at its end")
    } else {
        format!("expected {expected} at character {column}, found {found:?}")
    }
}

fn describe_undefined(name: &str, what: &compile::Undefined) -> String {
    let absent = if language::ABSENT.contains(&name) {
        " (left out: the same input must always have the same answer)"
    } else {
        ""
    };
    match what {
        compile::Undefined::Filter(arity) => {
            format!("there is no filter {name}/{arity}{absent}")
        }
        what => format!("there is no {} {name}", what.as_str()),
    }
}

/// Which expression a part of the code belongs to.
fn locate(code: &str, starts: &[usize], part: &str) -> usize {
    let at = (part.as_ptr() as usize).wrapping_sub(code.as_ptr() as usize);
    starts
        .partition_point(|start| *start <= at)
        .saturating_sub(1)
}
