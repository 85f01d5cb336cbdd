//! Conditions on search attributes.
//!
//! Their values are rows of `search_values`: one for each item of a list and each word of
//! a text, one of every other type. A run without the attribute has none. As with a column
//! that is NULL, no comparison matches it, and neither does the comparison's `NOT`; a list
//! or text that is not there has no item and no word, so that their `NOT` matches.

use super::{Field, FilterError, Param, Parser, Round, Token};
use crate::search::{SearchType, words};

/// The value of a run's attribute; NULL where it has none.
const VALUE: &str =
    "(SELECT v.value FROM search_values v WHERE v.run_id = runs.run_id AND v.name = ?)";

impl SearchType {
    const fn operators(self) -> &'static str {
        match self {
            Self::Keyword => {
                "=, !=, <, >, <=, >=, IN, NOT IN, BETWEEN, STARTS_WITH, IS NULL or IS NOT NULL"
            }
            Self::Int | Self::Double | Self::Datetime => {
                "=, !=, <, >, <=, >=, IN, NOT IN, BETWEEN, IS NULL or IS NOT NULL"
            }
            Self::KeywordList => "=, !=, IN, NOT IN, IS NULL or IS NOT NULL",
            Self::Text | Self::Bool => "=, !=, IS NULL or IS NOT NULL",
        }
    }

    const fn is_ordered(self) -> bool {
        matches!(
            self,
            Self::Keyword | Self::Int | Self::Double | Self::Datetime
        )
    }
}

impl Parser<'_> {
    /// What follows the name of an attribute.
    pub(super) fn custom(&mut self, name: &str, of: SearchType) -> Result<String, FilterError> {
        let expected = |parser: &Self| Err(parser.expected(of.operators()));
        if self.take_word("IS")? {
            let not = if self.take_word("NOT")? { "" } else { "NOT " };
            if !self.take_word("NULL")? {
                return Err(self.expected("NULL or NOT NULL"));
            }
            self.params.push(Param::Text(name.to_owned()));
            return Ok(format!(
                "({not}EXISTS (SELECT 1 FROM search_values v WHERE v.run_id = runs.run_id AND v.name = ?))"
            ));
        }
        if let Token::Symbol(symbol) = self.token {
            let (operator, round) = match symbol {
                "=" => ("=", Round::Exact),
                "!=" | "<>" => ("<>", Round::Exact),
                "<" => ("<", Round::Up),
                ">=" => (">=", Round::Up),
                ">" => (">", Round::Down),
                "<=" => ("<=", Round::Down),
                _ => return expected(self),
            };
            if !of.is_ordered() && round != Round::Exact {
                return expected(self);
            }
            self.advance()?;
            let not = if operator == "<>" { "NOT " } else { "" };
            return match of {
                SearchType::KeywordList => self.any_of(name, not, |parser| {
                    parser.custom_value(of, round)?;
                    Ok(1)
                }),
                SearchType::Text => self.any_of(name, not, Self::words),
                _ => {
                    self.params.push(Param::Text(name.to_owned()));
                    self.custom_value(of, round)?;
                    Ok(self.narrowed(format!("({VALUE} {operator} ?)"), name, operator))
                }
            };
        }
        let not = if self.take_word("NOT")? { "NOT " } else { "" };
        if !matches!(of, SearchType::Text | SearchType::Bool) && self.take_word("IN")? {
            if of == SearchType::KeywordList {
                return self.any_of(name, not, |parser| parser.values(of));
            }
            self.params.push(Param::Text(name.to_owned()));
            let places = places(self.values(of)?);
            return Ok(format!("({VALUE} {not}IN ({places}))"));
        }
        if of.is_ordered() && self.take_word("BETWEEN")? {
            self.params.push(Param::Text(name.to_owned()));
            self.custom_value(of, Round::Up)?;
            if !self.take_word("AND")? {
                return Err(self.expected("AND and the second value of BETWEEN"));
            }
            self.custom_value(of, Round::Down)?;
            return Ok(format!("({VALUE} {not}BETWEEN ? AND ?)"));
        }
        if of == SearchType::Keyword && self.take_word("STARTS_WITH")? {
            let Token::Text(text) = &self.token else {
                return Err(self.expected("a text in quotes"));
            };
            let prefix = text.clone().into_bytes();
            self.advance()?;
            self.params.push(Param::Text(name.to_owned()));
            let length = i64::try_from(prefix.len()).unwrap_or(i64::MAX);
            self.params.push(Param::Int(length));
            self.params.push(Param::Blob(prefix));
            return Ok(format!("({not}substr(CAST({VALUE} AS BLOB), 1, ?) = ?)"));
        }
        expected(self)
    }

    /// That one of several rows is one of the values that `read` binds and counts.
    fn any_of(
        &mut self,
        name: &str,
        not: &str,
        read: impl FnOnce(&mut Self) -> Result<usize, FilterError>,
    ) -> Result<String, FilterError> {
        let places = places(read(self)?);
        self.params.push(Param::Text(name.to_owned()));
        Ok(format!(
            "({not}coalesce((SELECT max(v.value IN ({places})) FROM search_values v WHERE v.run_id = runs.run_id AND v.name = ?), 0))"
        ))
    }

    /// The same condition with another one beside it that an index answers. Only where
    /// nothing is around it: within a `NOT`, no row would not be NULL any more.
    fn narrowed(&mut self, condition: String, name: &str, operator: &str) -> String {
        let (0, "=", Some(value)) = (self.nesting, operator, self.params.last().cloned()) else {
            return condition;
        };
        self.params.push(Param::Text(name.to_owned()));
        self.params.push(value);
        self.selective = true;
        format!(
            "({condition} AND run_id IN (SELECT s.run_id FROM search_values s WHERE s.name = ? AND s.value = ?))"
        )
    }

    /// Values in parentheses; answers how many.
    fn values(&mut self, of: SearchType) -> Result<usize, FilterError> {
        self.need_symbol("(", "\"(\" and a list of values")?;
        self.custom_value(of, Round::Exact)?;
        let mut count = 1;
        while self.is_symbol(",") {
            self.advance()?;
            self.custom_value(of, Round::Exact)?;
            count += 1;
        }
        self.need_symbol(")", "\",\" or \")\"")?;
        Ok(count)
    }

    /// The words of a text; a text without any finds nothing.
    fn words(&mut self) -> Result<usize, FilterError> {
        let Token::Text(text) = &self.token else {
            return Err(self.expected("a text in quotes"));
        };
        let words = words(text);
        self.advance()?;
        let count = words.len();
        self.params.extend(words.into_iter().map(Param::Text));
        Ok(count)
    }

    /// Reads a value and binds it.
    fn custom_value(&mut self, of: SearchType, round: Round) -> Result<(), FilterError> {
        let param = match (of, &self.token) {
            (
                SearchType::Keyword | SearchType::KeywordList | SearchType::Text,
                Token::Text(text),
            ) => Some(Param::Text(text.clone())),
            (SearchType::Datetime, Token::Text(text)) => {
                let param = Field::StartTime.value(text, round);
                Some(param.map_err(|wanted| self.expected(&wanted))?)
            }
            (SearchType::Int, Token::Number(text)) => text.parse().ok().map(Param::Int),
            (SearchType::Double, Token::Number(text)) => text.parse().ok().map(Param::Real),
            (SearchType::Bool, Token::Word(word)) => match word.to_ascii_lowercase().as_str() {
                "true" => Some(Param::Int(1)),
                "false" => Some(Param::Int(0)),
                _ => None,
            },
            _ => None,
        };
        let Some(param) = param else {
            return Err(self.expected(match of {
                SearchType::Int => "a whole number, without quotes",
                SearchType::Double => "a number, without quotes",
                SearchType::Bool => "true or false, without quotes",
                SearchType::Datetime => "a time in quotes",
                SearchType::Keyword | SearchType::KeywordList | SearchType::Text => {
                    "a text in quotes"
                }
            }));
        };
        self.params.push(param);
        self.advance()
    }
}

fn places(count: usize) -> String {
    vec!["?"; count].join(", ")
}
