//! List filters as the cluster's store is to read them, so that they find what they find
//! on the embedded engine.
//!
//! Two conditions on search attributes mean something else to some stores, and are written
//! so that all of them agree:
//!
//! - Temporal's SQLite store compares times as texts and takes a run's for a later one than
//!   the same time in a filter. It does tell apart times that differ, so a very time is
//!   written as a range of one microsecond, the finest that any store keeps.
//! - To PostgreSQL and MySQL a comparison with a list or a text that a run lacks is neither
//!   true nor false, and so is its `NOT`; to SQLite it is false. So whether the run has the
//!   attribute at all stands beside the comparison.
//!
//! The rest goes to the cluster as it is.

use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;

use super::core::Core;
use super::search::types;
use crate::embedded::filter::{Token, tokens};
use crate::engine::EngineError;
use crate::search::{SearchType, SearchTypes, check_name};

/// The finest step of a time that any store keeps.
const STEP: Duration = Duration::from_micros(1);

/// A filter as the cluster is given it.
///
/// # Errors
/// [`EngineError::Invalid`] for a filter that cannot be read; as [`types`] says.
pub async fn meant(core: &Core, namespace: &str, filter: &str) -> Result<String, EngineError> {
    let tokens = tokens(filter).map_err(|error| EngineError::Invalid(error.to_string()))?;
    if !is_closed(&tokens) {
        let message = "the list filter has a parenthesis without its other one";
        return Err(EngineError::Invalid(message.to_owned()));
    }
    // Gathered before anything is awaited: iterators over borrowed tokens are not.
    let mut names: Vec<&String> = Vec::new();
    for (token, _) in &tokens {
        if let Token::Word(name) | Token::Name(name) = token
            && !is_keyword(name)
            && check_name(name).is_ok()
        {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(filter.to_owned());
    }
    let types = types(core, &core.namespace(namespace), names.into_iter()).await?;
    Ok(rewritten(filter, &tokens, &types))
}

/// Whether a word is one of the language and no attribute.
fn is_keyword(word: &str) -> bool {
    let keywords = "AND BETWEEN FALSE IN IS NOT NULL OR STARTS_WITH TRUE";
    keywords
        .split(' ')
        .any(|keyword| word.eq_ignore_ascii_case(keyword))
}

type Tokens = [(Token, Range<usize>)];

/// Whether each parenthesis has its other one. The filter is put into parentheses and
/// narrowed to our runs: one too many would end these, and find the runs of others.
fn is_closed(tokens: &Tokens) -> bool {
    let open = tokens
        .iter()
        .try_fold(0_usize, |open, (token, _)| match token {
            Token::Symbol("(") => Some(open + 1),
            Token::Symbol(")") => open.checked_sub(1),
            _ => Some(open),
        });
    open == Some(0)
}

/// The filter with its conditions on times, lists and texts written so that every store
/// reads them alike.
fn rewritten(filter: &str, tokens: &Tokens, types: &SearchTypes) -> String {
    let mut rewritten = String::new();
    let (mut at, mut copied) = (0, 0);
    while let Some((_, place)) = tokens.get(at) {
        match condition(filter, &tokens[at..], types) {
            Some((length, text)) => {
                rewritten.push_str(&filter[copied..place.start]);
                rewritten.push_str(&text);
                at += length;
                copied = tokens[at - 1].1.end;
            }
            None => at += 1,
        }
    }
    rewritten.push_str(&filter[copied..]);
    rewritten
}

/// The condition that begins there, if it is one to be written otherwise: of how many
/// tokens it is, and how it is written.
fn condition(filter: &str, tokens: &Tokens, types: &SearchTypes) -> Option<(usize, String)> {
    let (Token::Word(name) | Token::Name(name), place) = tokens.first()? else {
        return None;
    };
    let of = types.get(name)?;
    let mut tail = Tail {
        filter,
        tokens: &tokens[1..],
    };
    let field = &filter[place.clone()];
    let comparison = tail.comparison()?;
    let length = tokens.len() - tail.tokens.len();
    let text = match of {
        SearchType::Datetime => times(field, &comparison)?,
        SearchType::KeywordList | SearchType::Text => {
            let whole = &filter[place.start..tokens[length - 1].1.end];
            match comparison {
                Comparison::Symbol("=", _) | Comparison::In(false, _) => {
                    format!("({field} IS NOT NULL AND {whole})")
                }
                Comparison::Symbol("!=" | "<>", _) | Comparison::In(true, _) => {
                    format!("({field} IS NULL OR {whole})")
                }
                // No store has these of a list or a text.
                Comparison::Symbol(..) | Comparison::Between(..) => return None,
            }
        }
        _ => return None,
    };
    Some((length, text))
}

/// A value: as it stands in the filter, and what it says.
type Value<'f> = (&'f str, &'f str);

/// What follows a field. The first member of the others is whether a `NOT` stands there.
enum Comparison<'f> {
    Symbol(&'static str, Value<'f>),
    In(bool, Vec<Value<'f>>),
    Between(bool, [Value<'f>; 2]),
}

/// The tokens that are still to be read.
struct Tail<'f> {
    filter: &'f str,
    tokens: &'f Tokens,
}

impl<'f> Tail<'f> {
    fn take(&mut self) -> Option<&'f (Token, Range<usize>)> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn take_word(&mut self, keyword: &str) -> bool {
        let found = matches!(self.tokens.first(),
            Some((Token::Word(word), _)) if word.eq_ignore_ascii_case(keyword));
        if found {
            self.take();
        }
        found
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found =
            matches!(self.tokens.first(), Some((Token::Symbol(found), _)) if *found == symbol);
        if found {
            self.take();
        }
        found
    }

    fn value(&mut self) -> Option<Value<'f>> {
        match self.take()? {
            (Token::Text(text), place) => Some((&self.filter[place.clone()], text.as_str())),
            _ => None,
        }
    }

    /// Reads a comparison with texts; `None` where something else stands there.
    fn comparison(&mut self) -> Option<Comparison<'f>> {
        if let Some((Token::Symbol(symbol), _)) = self.tokens.first() {
            self.take();
            return Some(Comparison::Symbol(symbol, self.value()?));
        }
        let not = self.take_word("NOT");
        if self.take_word("IN") && self.take_symbol("(") {
            let mut values = vec![self.value()?];
            while self.take_symbol(",") {
                values.push(self.value()?);
            }
            let closed = self.take_symbol(")");
            return closed.then_some(Comparison::In(not, values));
        }
        if self.take_word("BETWEEN") {
            let from = self.value()?;
            let joined = self.take_word("AND");
            let to = self.value()?;
            return joined.then_some(Comparison::Between(not, [from, to]));
        }
        None
    }
}

/// A comparison with times; `None` where it may stand as it is, or has no time.
fn times(field: &str, comparison: &Comparison<'_>) -> Option<String> {
    let is = |value: &Value<'_>| {
        let (from, to) = (value.0, after(value.1)?);
        Some(format!("({field} >= {from} AND {field} < {to})"))
    };
    let is_not = |value: &Value<'_>| {
        let (from, to) = (value.0, after(value.1)?);
        Some(format!("({field} < {from} OR {field} >= {to})"))
    };
    let all = |conditions: Vec<String>, joint: &str| format!("({})", conditions.join(joint));
    Some(match comparison {
        Comparison::Symbol("=", value) => is(value)?,
        Comparison::Symbol("!=" | "<>", value) => is_not(value)?,
        Comparison::Symbol(">", value) => format!("{field} >= {}", after(value.1)?),
        Comparison::Symbol("<=", value) => format!("{field} < {}", after(value.1)?),
        Comparison::Symbol(..) => return None,
        Comparison::In(false, values) => all(values.iter().map(is).collect::<Option<_>>()?, " OR "),
        Comparison::In(true, values) => {
            all(values.iter().map(is_not).collect::<Option<_>>()?, " AND ")
        }
        Comparison::Between(not, [from, to]) => {
            let (from, to) = (from.0, after(to.1)?);
            if *not {
                format!("({field} < {from} OR {field} >= {to})")
            } else {
                format!("({field} >= {from} AND {field} < {to})")
            }
        }
    })
}

/// The first time after that one which a store can keep, in quotes.
fn after(time: &str) -> Option<String> {
    let time: Timestamp = time.parse().ok()?;
    let whole = Timestamp::from_microsecond(time.as_microsecond()).ok()?;
    let after = whole.checked_add(STEP).ok()?;
    Some(format!("'{after}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(filter: &str) -> String {
        let types = SearchTypes::from([
            ("Due".to_owned(), SearchType::Datetime),
            ("Tags".to_owned(), SearchType::KeywordList),
            ("Note".to_owned(), SearchType::Text),
            ("Stage".to_owned(), SearchType::Keyword),
        ]);
        rewritten(filter, &tokens(filter).unwrap(), &types)
    }

    #[test]
    fn a_very_time_is_a_range() {
        let (t, u) = (
            "'2026-01-31T13:00:00+01:00'",
            "'2026-01-31T12:00:00.000001Z'",
        );
        for (filter, expected) in [
            (format!("Due = {t}"), format!("(Due >= {t} AND Due < {u})")),
            (
                format!("NOT `Due` != {t}"),
                format!("NOT (`Due` < {t} OR `Due` >= {u})"),
            ),
            (format!("Due > {t}"), format!("Due >= {u}")),
            (format!("Due <= {t}"), format!("Due < {u}")),
            (format!("Due < {t}"), format!("Due < {t}")),
            (format!("Due >= {t}"), format!("Due >= {t}")),
            (
                format!("Due between {t} and {t} AND Stage = 'Due'"),
                format!("(Due >= {t} AND Due < {u}) AND Stage = 'Due'"),
            ),
            (
                format!("(Due NOT BETWEEN {t} AND {t})"),
                format!("((Due < {t} OR Due >= {u}))"),
            ),
            (
                format!("Due IN ({t}, {t})"),
                format!("((Due >= {t} AND Due < {u}) OR (Due >= {t} AND Due < {u}))"),
            ),
            (
                format!("Due NOT IN ({t})"),
                format!("((Due < {t} OR Due >= {u}))"),
            ),
        ] {
            assert_eq!(rewrite(&filter), expected);
        }
    }

    #[test]
    fn what_a_run_lacks_is_never_unknown() {
        for (filter, expected) in [
            ("Tags = 'a'", "(Tags IS NOT NULL AND Tags = 'a')"),
            ("NOT Note = 'a'", "NOT (Note IS NOT NULL AND Note = 'a')"),
            ("Tags <> 'a'", "(Tags IS NULL OR Tags <> 'a')"),
            (
                "Tags IN ('a', 'b') OR Note != 'it''s'",
                "(Tags IS NOT NULL AND Tags IN ('a', 'b')) OR (Note IS NULL OR Note != 'it''s')",
            ),
            ("Tags NOT IN ('a')", "(Tags IS NULL OR Tags NOT IN ('a'))"),
        ] {
            assert_eq!(rewrite(filter), expected);
        }
    }

    #[test]
    fn a_filter_stays_in_its_parentheses() {
        let is_closed = |filter: &str| is_closed(&tokens(filter).unwrap());
        for filter in [
            "",
            "Stage = ')'",
            "(Stage IN ('a', 'b') OR NOT (Stage = 'c'))",
        ] {
            assert!(is_closed(filter), "{filter}");
        }
        for filter in [
            "Stage = 'a') OR (Stage != 'a'",
            "(Stage = 'a'",
            "Stage = 'a')",
            "Stage IN ('a'",
        ] {
            assert!(!is_closed(filter), "{filter}");
        }
    }

    #[test]
    fn the_rest_is_as_it_was() {
        for filter in [
            "",
            "Tags IS NOT NULL AND Due IS NULL",
            "Stage != 'a' AND Stage NOT IN ('b')",
            "StartTime = '2026-01-31T12:00:00Z' AND HistoryLength > 5",
            "Due = 'yesterday'",
            "Due IN ('2026-01-31T12:00:00Z', 'yesterday'",
            "Due",
            "Due =",
            "Tags BETWEEN 'a'",
            "Tags > 'a'",
        ] {
            assert_eq!(rewrite(filter), filter);
        }
    }
}
