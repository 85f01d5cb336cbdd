//! Reading Temporal's list filters:
//! `WorkflowType = 'x' AND (ExecutionStatus = 'Running' OR CloseTime > '2026-01-01T00:00:00Z')`.

use jiff::Timestamp;

use super::filter::{Field, Filter, Operator, Value};
use crate::engine::ExecutionStatus;

/// Bytes of a filter.
const LARGEST: usize = 16 * 1024;
/// Levels of parentheses.
const DEEPEST: usize = 32;
/// Comparisons and values, which become parameters of a statement.
const MOST: usize = 500;

/// A filter that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at character {position})")]
pub struct FilterError {
    /// The character where it happened, counted from 1.
    pub position: usize,
    /// What is wrong.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Symbol(&'static str),
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(word) => write!(f, "{word}"),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::Symbol(symbol) => write!(f, "{symbol}"),
            Self::End => write!(f, "the end"),
        }
    }
}

/// Reads a filter.
pub fn parse(text: &str) -> Result<Filter, FilterError> {
    if text.len() > LARGEST {
        return Err(FilterError {
            position: LARGEST,
            message: format!("a filter has at most {LARGEST} bytes"),
        });
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        count: 0,
    };
    let filter = parser.any(0)?;
    match parser.peek() {
        Token::End => Ok(filter),
        other => Err(parser.error(format!("expected AND, OR or the end, not {other}"))),
    }
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().map(|(_, c)| c).enumerate().peekable();
    while let Some((at, c)) = rest.next() {
        let position = at + 1;
        let follows = |rest: &mut std::iter::Peekable<_>, wanted: char| {
            let next: Option<&(usize, char)> = rest.peek();
            let found = next.is_some_and(|(_, c)| *c == wanted);
            if found {
                rest.next();
            }
            found
        };
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Symbol("("),
            ')' => Token::Symbol(")"),
            ',' => Token::Symbol(","),
            '=' => Token::Symbol("="),
            '!' if follows(&mut rest, '=') => Token::Symbol("!="),
            '<' if follows(&mut rest, '=') => Token::Symbol("<="),
            '<' if follows(&mut rest, '>') => Token::Symbol("!="),
            '<' => Token::Symbol("<"),
            '>' if follows(&mut rest, '=') => Token::Symbol(">="),
            '>' => Token::Symbol(">"),
            '\'' | '"' => {
                let mut value = String::new();
                loop {
                    match rest.next() {
                        // Twice the quote is the quote itself.
                        Some((_, next)) if next == c => {
                            if !follows(&mut rest, c) {
                                break;
                            }
                            value.push(c);
                        }
                        Some((_, next)) => value.push(next),
                        None => {
                            return Err(FilterError {
                                position,
                                message: "the text that begins here has no end".to_owned(),
                            });
                        }
                    }
                }
                Token::Text(value)
            }
            c if c.is_alphabetic() || c == '_' || c == '`' => {
                let mut word = String::new();
                if c != '`' {
                    word.push(c);
                }
                while let Some((_, c)) =
                    rest.next_if(|(_, c)| c.is_alphanumeric() || matches!(c, '_' | '`'))
                {
                    if c != '`' {
                        word.push(c);
                    }
                }
                Token::Word(word)
            }
            other => {
                return Err(FilterError {
                    position,
                    message: format!("unexpected {other:?}; texts and times stand in quotes"),
                });
            }
        };
        tokens.push((position, token));
    }
    tokens.push((text.chars().count() + 1, Token::End));
    Ok(tokens)
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    count: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        // The last token is the end, and `take` stays on it.
        &self.tokens[self.next].1
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
        token
    }

    fn error(&self, message: String) -> FilterError {
        FilterError {
            position: self.tokens[self.next].0,
            message,
        }
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(word) if word.eq_ignore_ascii_case(keyword));
        if found {
            self.take();
        }
        found
    }

    fn symbol(&mut self, symbol: &'static str) -> Result<(), FilterError> {
        if *self.peek() == Token::Symbol(symbol) {
            self.take();
            return Ok(());
        }
        Err(self.error(format!("expected {symbol:?}, not {}", self.peek())))
    }

    fn any(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if depth > DEEPEST {
            return Err(self.error(format!("a filter has at most {DEEPEST} levels")));
        }
        let mut any = vec![self.all(depth)?];
        while self.keyword("or") {
            any.push(self.all(depth)?);
        }
        Ok(match any.pop() {
            Some(only) if any.is_empty() => only,
            last => Filter::Or(any.into_iter().chain(last).collect()),
        })
    }

    fn all(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut all = vec![self.one(depth)?];
        while self.keyword("and") {
            all.push(self.one(depth)?);
        }
        Ok(match all.pop() {
            Some(only) if all.is_empty() => only,
            last => Filter::And(all.into_iter().chain(last).collect()),
        })
    }

    fn one(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if *self.peek() == Token::Symbol("(") {
            self.take();
            let inner = self.any(depth + 1)?;
            self.symbol(")")?;
            return Ok(inner);
        }
        self.counted()?;
        let field = self.field()?;
        if self.keyword("starts_with") {
            return match field {
                Field::WorkflowId | Field::WorkflowType => match self.take() {
                    Token::Text(prefix) => Ok(Filter::StartsWith(field, prefix)),
                    other => Err(self.error(format!("expected a text in quotes, not {other}"))),
                },
                _ => Err(self.error("STARTS_WITH is for WorkflowId and WorkflowType".to_owned())),
            };
        }
        if self.keyword("is") {
            let negated = self.keyword("not");
            if !self.keyword("null") {
                return Err(self.error(format!("expected NULL, not {}", self.peek())));
            }
            return Ok(Filter::IsNull(field, negated));
        }
        let negated = self.keyword("not");
        if self.keyword("in") {
            return self.list(field, negated);
        }
        if self.keyword("between") {
            let low = self.value(field)?;
            if !self.keyword("and") {
                return Err(self.error(format!("expected AND, not {}", self.peek())));
            }
            let high = self.value(field)?;
            return Ok(Filter::Between(field, low, high, negated));
        }
        if negated {
            return Err(self.error(format!("expected IN or BETWEEN, not {}", self.peek())));
        }
        let operator = match self.peek() {
            Token::Symbol("=") => Operator::Equal,
            Token::Symbol("!=") => Operator::NotEqual,
            Token::Symbol("<") => Operator::Less,
            Token::Symbol("<=") => Operator::LessOrEqual,
            Token::Symbol(">") => Operator::Greater,
            Token::Symbol(">=") => Operator::GreaterOrEqual,
            other => {
                return Err(self.error(format!(
                    "expected =, !=, <, <=, >, >=, IN, BETWEEN, STARTS_WITH or IS, not {other}"
                )));
            }
        };
        let ordered = !matches!(operator, Operator::Equal | Operator::NotEqual);
        if ordered && field == Field::ExecutionStatus {
            return Err(self.error("ExecutionStatus has no order; use =, != or IN".to_owned()));
        }
        self.take();
        let value = self.value(field)?;
        Ok(Filter::Compare(field, operator, value))
    }

    fn list(&mut self, field: Field, negated: bool) -> Result<Filter, FilterError> {
        self.symbol("(")?;
        let mut values = vec![self.value(field)?];
        while *self.peek() == Token::Symbol(",") {
            self.take();
            self.counted()?;
            values.push(self.value(field)?);
        }
        self.symbol(")")?;
        Ok(Filter::In(field, values, negated))
    }

    fn counted(&mut self) -> Result<(), FilterError> {
        self.count += 1;
        if self.count > MOST {
            return Err(self.error(format!(
                "a filter has at most {MOST} comparisons and values"
            )));
        }
        Ok(())
    }

    fn field(&mut self) -> Result<Field, FilterError> {
        let field = match self.peek() {
            Token::Word(word) => match word.as_str() {
                "WorkflowId" => Field::WorkflowId,
                "RunId" => Field::RunId,
                "WorkflowType" => Field::WorkflowType,
                "ExecutionStatus" => Field::ExecutionStatus,
                "StartTime" => Field::StartTime,
                "CloseTime" => Field::CloseTime,
                other => {
                    return Err(self.error(format!(
                        "unknown field {other:?}; there are WorkflowId, RunId, WorkflowType, \
                         ExecutionStatus, StartTime and CloseTime"
                    )));
                }
            },
            other => return Err(self.error(format!("expected a field, not {other}"))),
        };
        self.take();
        Ok(field)
    }

    fn value(&mut self, field: Field) -> Result<Value, FilterError> {
        let Token::Text(text) = self.peek() else {
            return Err(self.error(format!("expected a value in quotes, not {}", self.peek())));
        };
        let value = match field {
            Field::WorkflowId | Field::WorkflowType => Value::Text(text.clone()),
            Field::RunId => Value::Id(
                text.parse()
                    .map_err(|_| self.error(format!("{text:?} is no run id (a UUID)")))?,
            ),
            Field::ExecutionStatus => Value::Status(status(text).ok_or_else(|| {
                self.error(format!(
                    "unknown status {text:?}; there are Running, Completed, Failed, \
                         Canceled, Terminated and TimedOut"
                ))
            })?),
            Field::StartTime | Field::CloseTime => Value::Time(
                text.parse::<Timestamp>()
                    .map_err(|_| {
                        self.error(format!(
                            "{text:?} is no time; write it as 2026-01-31T12:00:00Z"
                        ))
                    })?
                    .as_microsecond(),
            ),
        };
        self.take();
        Ok(value)
    }
}

fn status(text: &str) -> Option<ExecutionStatus> {
    Some(match text {
        "Running" => ExecutionStatus::Running,
        "Completed" => ExecutionStatus::Completed,
        "Failed" => ExecutionStatus::Failed,
        "Canceled" => ExecutionStatus::Canceled,
        "Terminated" => ExecutionStatus::Terminated,
        "TimedOut" => ExecutionStatus::TimedOut,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn and_binds_closer_than_or() {
        let filter =
            parse("WorkflowId = 'a' or WorkflowId='b' AND ExecutionStatus = 'Running'").unwrap();
        let Filter::Or(any) = filter else {
            panic!("{filter:?}")
        };
        assert_eq!(any.len(), 2);
        assert!(matches!(&any[1], Filter::And(all) if all.len() == 2));
    }

    #[test]
    fn a_quote_is_written_twice() {
        assert_eq!(
            parse("WorkflowId = 'it''s'").unwrap(),
            Filter::Compare(
                Field::WorkflowId,
                Operator::Equal,
                Value::Text("it's".to_owned())
            )
        );
    }

    #[test]
    fn errors_name_the_character() {
        for (text, position, part) in [
            ("WorkflowTyp = 'x'", 1, "unknown field"),
            ("WorkflowType = x", 16, "in quotes"),
            ("WorkflowType = 'x", 16, "no end"),
            ("WorkflowType = 'x' WorkflowId = 'y'", 20, "AND, OR"),
            ("(WorkflowType = 'x'", 20, "\")\""),
            ("ExecutionStatus = 'Runing'", 19, "unknown status"),
            ("ExecutionStatus < 'Running'", 17, "no order"),
            ("StartTime > 'yesterday'", 13, "no time"),
            ("StartTime STARTS_WITH '2026'", 23, "STARTS_WITH"),
            ("RunId = '1'", 9, "UUID"),
            ("WorkflowId = 'ü' AND ;", 22, "unexpected"),
            ("WorkflowId IN ()", 16, "in quotes"),
            ("CloseTime BETWEEN '2026-01-01T00:00:00Z' OR", 42, "AND"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.position, position, "{text}: {error}");
            assert!(error.message.contains(part), "{text}: {error}");
        }
        let deep = format!("{}WorkflowId='a'", "(".repeat(1_000));
        assert!(parse(&deep).unwrap_err().message.contains("levels"));
        let many = format!("WorkflowId IN ('a'{})", ", 'a'".repeat(600));
        assert!(parse(&many).unwrap_err().message.contains("at most"));
    }
}
