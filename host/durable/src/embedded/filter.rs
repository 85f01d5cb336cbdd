//! Lists of runs: Temporal's list filter, compiled to SQL, and its pages.
//!
//! A filter is hostile text. It is read token by token; nothing of it reaches SQL but
//! fixed column names, fixed operators and bound parameters:
//!
//! ```text
//! filter     = and { OR and }              and = not { AND not }
//! not        = NOT not | "(" filter ")" | field condition
//! condition  = ( = | != | < | > | <= | >= ) value | [NOT] IN "(" value { "," value } ")"
//!            | [NOT] BETWEEN value AND value | [NOT] STARTS_WITH value | IS [NOT] NULL
//! ```
//!
//! A field is one that every run has, or a [search attribute](custom) of the namespace.
//! A run that is open has no `CloseTime`: as in SQL, no comparison with it matches such
//! a run, and neither does the comparison's `NOT`; `CloseTime IS NULL` does.

mod custom;
mod field;
mod page;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use page::{count, list};

use self::field::{FIELDS, Field, Round};
use crate::search::SearchTypes;

/// Bytes of a filter at most.
const MAX_LENGTH: usize = 10 * 1024;

/// Parentheses and `NOT`s within each other at most.
const MAX_NESTING: usize = 32;

/// A value of a filter, to be bound.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// For a column of text.
    Text(String),
    /// For a status or a time.
    Int(i64),
    /// For a number that is not whole.
    Real(f64),
    /// For a run id or a prefix.
    Blob(Vec<u8>),
}

/// A filter as an SQL condition over the table `runs`.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// The condition; a `?` for each parameter. It can stand beside `AND` as it is.
    pub sql: String,
    /// The parameters, in order.
    pub params: Vec<Param>,
    /// Whether it asks for certain workflow ids or types, and nothing beside them: then
    /// an index on these finds fewer runs than all of a namespace.
    pub selective: bool,
}

/// A filter that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the list filter cannot be read at character {position}: {message}")]
pub struct FilterError {
    /// Where, in characters counted from 1.
    pub position: usize,
    /// What was expected there.
    pub message: String,
}

/// A piece of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// A keyword or a field.
    Word(String),
    /// A number.
    Number(String),
    /// A field in backquotes.
    Name(String),
    /// Text in quotes.
    Text(String),
    /// An operator, a parenthesis or a comma.
    Symbol(&'static str),
    /// Nothing is left.
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |text: &str| text.chars().take(40).collect::<String>();
        match self {
            Self::Word(word) | Self::Number(word) => write!(f, "{:?}", short(word)),
            Self::Name(name) => write!(f, "the field {:?}", short(name)),
            Self::Text(text) => write!(f, "the text {:?}", short(text)),
            Self::Symbol(symbol) => write!(f, "{symbol:?}"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// Longest first, so that none is read as the beginning of another.
const SYMBOLS: &[&str] = &["!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ","];

struct Parser<'a> {
    text: &'a str,
    /// Where the text after `token` begins.
    next: usize,
    token: Token,
    /// Where `token` begins.
    at: usize,
    nesting: usize,
    params: Vec<Param>,
    selective: bool,
    types: &'a SearchTypes,
}

/// The pieces of a filter, without its end, and where in the text they stand.
///
/// # Errors
/// Where a piece is not of the language that this module describes.
pub(crate) fn tokens(text: &str) -> Result<Vec<(Token, Range<usize>)>, FilterError> {
    let types = SearchTypes::new();
    let mut parser = Parser::new(text, &types);
    let mut tokens = Vec::new();
    loop {
        parser.advance()?;
        if parser.token == Token::End {
            return Ok(tokens);
        }
        tokens.push((parser.token.clone(), parser.at..parser.next));
    }
}

impl Filter {
    /// Reads a filter of a namespace whose search attributes have these types.
    ///
    /// # Errors
    /// Where it is too long, too deep, or not of the language that this module describes.
    pub fn parse(text: &str, types: &SearchTypes) -> Result<Self, FilterError> {
        if text.len() > MAX_LENGTH {
            return Err(FilterError {
                position: 1,
                message: format!(
                    "it has {} bytes, more than the {MAX_LENGTH} allowed",
                    text.len()
                ),
            });
        }
        let mut parser = Parser::new(text, types);
        parser.advance()?;
        let sql = parser.any()?;
        match parser.token {
            Token::End => Ok(Self {
                sql,
                params: parser.params,
                selective: parser.selective,
            }),
            _ if parser.is_word("ORDER") => Err(parser.error(
                "ORDER BY is not supported: runs are listed newest first; leave it out".to_owned(),
            )),
            _ => Err(parser.expected("AND, OR or the end")),
        }
    }
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, types: &'a SearchTypes) -> Self {
        Self {
            text,
            next: 0,
            token: Token::End,
            at: 0,
            nesting: 0,
            params: Vec::new(),
            selective: false,
            types,
        }
    }
}

impl Parser<'_> {
    fn error_at(&self, offset: usize, message: String) -> FilterError {
        let before = self.text.get(..offset).unwrap_or(self.text);
        FilterError {
            position: before.chars().count() + 1,
            message,
        }
    }

    fn error(&self, message: String) -> FilterError {
        self.error_at(self.at, message)
    }

    fn expected(&self, what: &str) -> FilterError {
        self.error(format!("expected {what}, found {}", self.token))
    }

    fn is_word(&self, keyword: &str) -> bool {
        matches!(&self.token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.token, Token::Symbol(found) if found == symbol)
    }

    /// Steps over a keyword, if it stands there.
    fn take_word(&mut self, keyword: &str) -> Result<bool, FilterError> {
        let found = self.is_word(keyword);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    /// Steps over a symbol that must stand there.
    fn need_symbol(&mut self, symbol: &str, what: &str) -> Result<(), FilterError> {
        if !self.is_symbol(symbol) {
            return Err(self.expected(what));
        }
        self.advance()
    }

    /// Reads the next token.
    fn advance(&mut self) -> Result<(), FilterError> {
        let rest = self.text.get(self.next..).unwrap_or_default();
        let text = rest.trim_start();
        self.at = self.next + (rest.len() - text.len());
        let Some(first) = text.chars().next() else {
            self.token = Token::End;
            return Ok(());
        };
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| text.starts_with(**symbol)) {
            self.token = Token::Symbol(symbol);
            self.next = self.at + symbol.len();
        } else if matches!(first, '\'' | '"' | '`') {
            let (content, length) = self.quoted(text, first)?;
            self.token = if first == '`' {
                Token::Name(content)
            } else {
                Token::Text(content)
            };
            self.next = self.at + length;
        } else if let Some(length) = number(text) {
            self.token = Token::Number(text[..length].to_owned());
            self.next = self.at + length;
        } else if first.is_alphanumeric() || first == '_' {
            let end = text
                .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                .unwrap_or(text.len());
            self.token = Token::Word(text[..end].to_owned());
            self.next = self.at + end;
        } else {
            return Err(self.error(format!("a filter has no {first:?} outside of quotes")));
        }
        Ok(())
    }

    /// Text in quotes, and how many bytes it takes with them. Within, the quote is
    /// written twice or after a backslash.
    fn quoted(&self, text: &str, quote: char) -> Result<(String, usize), FilterError> {
        let mut content = String::new();
        let mut characters = text.char_indices().skip(1).peekable();
        while let Some((index, character)) = characters.next() {
            if character == quote {
                if characters.next_if(|(_, next)| *next == quote).is_some() {
                    content.push(quote);
                } else {
                    return Ok((content, index + quote.len_utf8()));
                }
            } else if character == '\\' && quote != '`' {
                match characters.next() {
                    Some((_, escaped @ ('\\' | '\'' | '"'))) => content.push(escaped),
                    Some((_, 'n')) => content.push('\n'),
                    Some((_, 'r')) => content.push('\r'),
                    Some((_, 't')) => content.push('\t'),
                    _ => {
                        return Err(self.error_at(
                            self.at + index,
                            "expected \\, ', \", n, r or t after a backslash (write \\\\ for one)"
                                .to_owned(),
                        ));
                    }
                }
            } else {
                content.push(character);
            }
        }
        Err(self.error(format!("this {quote} is never closed")))
    }

    /// Conditions between `OR`s.
    fn any(&mut self) -> Result<String, FilterError> {
        let mut terms = vec![self.all()?];
        while self.take_word("OR")? {
            terms.push(self.all()?);
        }
        if self.nesting == 0 && terms.len() > 1 {
            self.selective = false;
        }
        Ok(joined(&terms, " OR "))
    }

    /// Conditions between `AND`s.
    fn all(&mut self) -> Result<String, FilterError> {
        let mut terms = vec![self.one()?];
        while self.take_word("AND")? {
            terms.push(self.one()?);
        }
        Ok(joined(&terms, " AND "))
    }

    fn one(&mut self) -> Result<String, FilterError> {
        let negated = self.is_word("NOT");
        if !negated && !self.is_symbol("(") {
            return self.comparison();
        }
        if self.nesting == MAX_NESTING {
            return Err(self.error(format!(
                "parentheses and NOTs may stand at most {MAX_NESTING} deep within each other"
            )));
        }
        self.nesting += 1;
        self.advance()?;
        let sql = if negated {
            format!("(NOT {})", self.one()?)
        } else {
            let inner = self.any()?;
            self.need_symbol(")", "AND, OR or \")\"")?;
            inner
        };
        self.nesting -= 1;
        Ok(sql)
    }

    fn comparison(&mut self) -> Result<String, FilterError> {
        if let Token::Word(name) | Token::Name(name) = &self.token
            && Field::named(name).is_none()
            && let Some(of) = self.types.get(name).copied()
        {
            let name = name.clone();
            self.advance()?;
            return self.custom(&name, of);
        }
        let field = self.field()?;
        let column = field.column();
        if let Token::Symbol(symbol) = self.token {
            let (operator, round) = match symbol {
                "=" => ("=", Round::Exact),
                "!=" | "<>" => ("<>", Round::Exact),
                "<" => ("<", Round::Up),
                ">=" => (">=", Round::Up),
                ">" => (">", Round::Down),
                "<=" => ("<=", Round::Down),
                _ => return Err(self.expected(field.operators())),
            };
            if field == Field::ExecutionStatus && round != Round::Exact {
                return Err(self.expected(field.operators()));
            }
            self.advance()?;
            self.value(field, round)?;
            if operator == "=" {
                self.select(field);
            }
            return Ok(format!("({column} {operator} ?)"));
        }
        if field == Field::CloseTime && self.take_word("IS")? {
            let not = if self.take_word("NOT")? { "NOT " } else { "" };
            if !self.take_word("NULL")? {
                return Err(self.expected(if not.is_empty() {
                    "NULL or NOT NULL"
                } else {
                    "NULL"
                }));
            }
            return Ok(format!("({column} IS {not}NULL)"));
        }
        let not = if self.take_word("NOT")? { "NOT " } else { "" };
        if self.take_word("IN")? {
            self.need_symbol("(", "\"(\" and a list of values")?;
            self.value(field, Round::Exact)?;
            let mut places = "?".to_owned();
            while self.is_symbol(",") {
                self.advance()?;
                self.value(field, Round::Exact)?;
                places.push_str(", ?");
            }
            self.need_symbol(")", "\",\" or \")\"")?;
            if not.is_empty() {
                self.select(field);
            }
            return Ok(format!("({column} {not}IN ({places}))"));
        }
        if field != Field::ExecutionStatus && self.take_word("BETWEEN")? {
            self.value(field, Round::Up)?;
            if !self.take_word("AND")? {
                return Err(self.expected("AND and the second value of BETWEEN"));
            }
            self.value(field, Round::Down)?;
            return Ok(format!("({column} {not}BETWEEN ? AND ?)"));
        }
        if field.is_text() && self.take_word("STARTS_WITH")? {
            return self.prefix(field, not);
        }
        if self.is_word("LIKE") && field.is_text() {
            return Err(self.error("LIKE is not supported; use STARTS_WITH".to_owned()));
        }
        Err(self.expected(field.operators()))
    }

    /// Notes that only certain values of a field match, unless the condition is part of
    /// another one.
    fn select(&mut self, field: Field) {
        if self.nesting == 0 && matches!(field, Field::WorkflowId | Field::WorkflowType) {
            self.selective = true;
        }
    }

    fn field(&mut self) -> Result<Field, FilterError> {
        let (Token::Word(name) | Token::Name(name)) = &self.token else {
            return Err(self.expected("a field, NOT or \"(\""));
        };
        let field = Field::named(name).ok_or_else(|| {
            if self.is_word("ORDER") {
                self.expected("a condition; runs are listed newest first")
            } else {
                self.expected(&format!(
                    "a field: {FIELDS}, or a search attribute of a run"
                ))
            }
        })?;
        self.advance()?;
        Ok(field)
    }

    /// Reads a value and binds it.
    fn value(&mut self, field: Field, round: Round) -> Result<(), FilterError> {
        let Token::Text(text) = &self.token else {
            return Err(self.expected(&format!("a value for {field:?} in quotes")));
        };
        let param = field
            .value(text, round)
            .map_err(|wanted| self.expected(&wanted))?;
        self.params.push(param);
        self.advance()
    }

    /// Compares bytes: SQLite's functions on text end at a NUL, and `LIKE` has wildcards.
    fn prefix(&mut self, field: Field, not: &str) -> Result<String, FilterError> {
        let Token::Text(text) = &self.token else {
            return Err(self.expected(&format!("a value for {field:?} in quotes")));
        };
        let (expression, prefix) = if field == Field::RunId {
            let digits = run_id_prefix(text)
                .ok_or_else(|| self.expected("the beginning of a run id (a UUID)"))?;
            ("lower(hex(run_id))", digits)
        } else {
            (field.column(), text.clone())
        };
        let length = i64::try_from(prefix.len()).unwrap_or(i64::MAX);
        self.params.push(Param::Int(length));
        self.params.push(Param::Blob(prefix.into_bytes()));
        self.advance()?;
        Ok(format!(
            "({not}substr(CAST({expression} AS BLOB), 1, ?) = ?)"
        ))
    }
}

/// How long the number is that the text begins with, if it does: digits, perhaps with a
/// sign, a fraction and an exponent.
fn number(text: &str) -> Option<usize> {
    let end = text
        .char_indices()
        .find(|(index, c)| {
            let signed =
                matches!(c, '-' | '+') && (*index == 0 || text[..*index].ends_with(['e', 'E']));
            !(c.is_ascii_alphanumeric() || *c == '.' || signed)
        })
        .map_or(text.len(), |(index, _)| index);
    let word = &text[..end];
    let begins = word.trim_start_matches(['-', '+']);
    let valid = begins.starts_with(|c: char| c.is_ascii_digit()) && word.parse::<f64>().is_ok();
    valid.then_some(end)
}

/// The hexadecimal digits of the beginning of a UUID, in lower case and without hyphens.
fn run_id_prefix(text: &str) -> Option<String> {
    let valid = text.len() <= 36
        && text.bytes().enumerate().all(|(index, byte)| {
            if matches!(index, 8 | 13 | 18 | 23) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        });
    valid.then(|| text.replace('-', "").to_ascii_lowercase())
}

fn joined(terms: &[String], operator: &str) -> String {
    match terms {
        [one] => one.clone(),
        many => format!("({})", many.join(operator)),
    }
}
