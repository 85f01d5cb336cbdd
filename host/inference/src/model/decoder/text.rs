//! From tokens to text as they come: whole characters, up to a text that ends it.

use crate::model::tokens::{TokenError, Tokenizer};

/// Stands for bytes that are no character, or not yet.
const BROKEN: char = char::REPLACEMENT_CHARACTER;
/// Tokens that may wait for a character to become whole.
const WAITING: usize = 64;
/// Tokens of a prompt that decide what its continuation's first one says.
const CONTEXT: usize = 8;

/// Makes text of tokens, one after another.
#[derive(Debug, Default)]
pub(crate) struct Detokenizer {
    /// The latest tokens whose text was given out, then those that wait.
    ids: Vec<u32>,
    given: usize,
    /// The text of those that were given out: what comes depends on what stands before it.
    before: String,
}

impl Detokenizer {
    /// Of what comes after these tokens, so that a text's first space is kept.
    pub(crate) fn after(prompt: &[u32], tokenizer: &Tokenizer) -> Result<Self, TokenError> {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        Ok(Self {
            given: ids.len(),
            before: tokenizer.decode(&ids)?,
            ids,
        })
    }

    /// A token comes; answers the text that is whole now.
    pub(crate) fn push(&mut self, id: u32, tokenizer: &Tokenizer) -> Result<String, TokenError> {
        self.ids.push(id);
        let text = self.waiting(tokenizer)?;
        let broken = text.ends_with(BROKEN) && self.ids.len() - self.given < WAITING;
        if text.is_empty() || broken {
            return Ok(String::new());
        }
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        self.before = tokenizer.decode(&self.ids)?;
        Ok(text)
    }

    /// What still waits, without a character that stayed in pieces.
    pub(crate) fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, TokenError> {
        let text = self.waiting(tokenizer)?;
        self.ids.truncate(self.given);
        Ok(text.trim_end_matches(BROKEN).to_owned())
    }

    fn waiting(&self, tokenizer: &Tokenizer) -> Result<String, TokenError> {
        let all = tokenizer.decode(&self.ids)?;
        match all.strip_prefix(&self.before) {
            Some(text) => Ok(text.to_owned()),
            // More tokens changed what the earlier ones said; those were given out.
            None => tokenizer.decode(&self.ids[self.given..]),
        }
    }
}

/// Finds the texts that end an answer, also where they come in pieces.
#[derive(Debug)]
pub(crate) struct Stops {
    texts: Vec<String>,
    /// Text that may be the beginning of one.
    held: String,
}

impl Stops {
    pub(crate) const fn new(texts: Vec<String>) -> Self {
        Self {
            texts,
            held: String::new(),
        }
    }

    /// Text comes; answers what can be given out, and whether one of the texts came.
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        let mut all = std::mem::take(&mut self.held);
        all.push_str(text);
        let first = self.texts.iter().filter_map(|stop| all.find(stop.as_str()));
        if let Some(first) = first.min() {
            all.truncate(first);
            return (all, true);
        }
        let begun = |at: usize| {
            let rest = &all[at..];
            self.texts.iter().any(|stop| stop.starts_with(rest))
        };
        let longest = self.texts.iter().map(String::len).max().unwrap_or(0);
        let from = all.len().saturating_sub(longest);
        let held = (from..all.len()).find(|&at| all.is_char_boundary(at) && begun(at));
        self.held = held.map(|at| all.split_off(at)).unwrap_or_default();
        (all, false)
    }

    /// What was held, at the end.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let texts = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut stops = Stops::new(texts);
        let mut out = Vec::new();
        for piece in pieces {
            let (text, ended) = stops.push(piece);
            out.push(text);
            if ended {
                return (out, true);
            }
        }
        out.push(stops.finish());
        (out, false)
    }

    #[test]
    fn a_stop_is_found_across_pieces_and_never_given_out() {
        let found = run(&["END"], &["a", "bE", "N", "Dc"]);
        assert_eq!(found.0, ["a", "b", "", ""]);
        assert!(found.1);
        let found = run(&["END"], &["xE", "Ny", "E"]);
        assert_eq!(
            found,
            (vec!["x".into(), "ENy".into(), "".into(), "E".into()], false)
        );
        // The first in the text counts, not the first in the list.
        let found = run(&["zz", "\n"], &["a\nbzz"]);
        assert_eq!(found, (vec!["a".into()], true));
        let found = run(&["éé"], &["aé", "é"]);
        assert_eq!(found, (vec!["a".into(), "".into()], true));
        let found = run(&["aab"], &["aa", "ab"]);
        assert_eq!(found, (vec!["".into(), "a".into()], true));
        assert_eq!(run(&[], &["a", "b"]).0, ["a", "b", ""]);
    }
}
