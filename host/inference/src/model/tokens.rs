//! From texts to tokens, within a model's window.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{Encoding, Tokenizer as Inner};

use super::files::ModelFiles;
use crate::error::ModelError;

const TOKENIZER: &str = "tokenizer.json";

/// What is done with a text that is longer than the model's window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LongText {
    /// The request fails.
    #[default]
    Refuse,
    /// Its end is left out.
    Truncate,
    /// It is read piece by piece, and the pieces' embeddings are averaged by their lengths.
    Split,
}

/// One sequence as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The tokens' numbers.
    pub ids: Vec<u32>,
    /// Which of a pair's texts each belongs to; none where all belong to the first.
    pub types: Option<Vec<u32>>,
}

/// A text's sequences: one, or several where it was split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// In the text's order.
    pub pieces: Vec<Tokens>,
    /// Tokens that were left out.
    pub left_out: usize,
}

/// A text that does not fit, where it was to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{tokens} tokens are more than {window}")]
pub struct TooLong {
    /// Its tokens, with those that the model adds.
    pub tokens: usize,
    /// The most that the model reads.
    pub window: usize,
}

/// Why a text has no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It does not fit.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// There is nothing to be read of it, and the model puts nothing around a text.
    #[error("the text has no tokens")]
    Empty,
    /// The tokenizer failed: a fault in its file.
    #[error("the model's tokenizer failed: {0}")]
    Failed(String),
}

/// What a model says of its tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// The most tokens of one sequence.
    pub(crate) window: usize,
    /// Tokens that the model knows.
    pub(crate) vocabulary: usize,
    /// Kinds of texts in a pair.
    pub(crate) types: usize,
    /// Whether texts are read in small letters.
    pub(crate) lowercase: bool,
}

/// What is looked at before the library reads the file.
#[derive(Deserialize)]
struct RawTokenizer {
    #[serde(default)]
    normalizer: Value,
}

fn damaged(message: impl Into<String>) -> ModelError {
    ModelError::Damaged {
        file: TOKENIZER.to_owned(),
        message: message.into(),
    }
}

/// Whether every table of a normalizer is as long as it says: the library takes memory for so
/// much of it before it reads any.
fn tables_fit(normalizer: &Value) -> bool {
    match normalizer {
        Value::Array(all) => all.iter().all(tables_fit),
        Value::Object(members) => members.iter().all(|(name, value)| match value {
            Value::String(table) if name == "precompiled_charsmap" => {
                // As letters, it is longer than as bytes.
                says(table).is_none_or(|bytes| bytes as usize <= table.len())
            }
            value => tables_fit(value),
        }),
        _ => true,
    }
}

/// What a table says of its bytes: its first four, of the first six letters of base64. None where
/// those are none, which the library refuses.
fn says(table: &str) -> Option<u32> {
    let mut first = 0_u64;
    for &letter in table.as_bytes().get(..6)? {
        let digit = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        first = (first << 6) | u64::from(digit);
    }
    // Of 36 bits the last four belong to the fifth byte.
    u32::try_from(first >> 4).ok().map(u32::swap_bytes)
}

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    window: usize,
    vocabulary: u32,
    types: u32,
    lowercase: bool,
}

impl Tokenizer {
    /// Reads it and compares it with the configuration.
    ///
    /// # Errors
    /// When it is missing or damaged, or has more words than the model.
    pub(crate) fn read(files: &ModelFiles, sizes: &Sizes) -> Result<Self, ModelError> {
        let bytes = files.bytes(TOKENIZER, "it makes tokens of texts")?;
        let raw: RawTokenizer =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if !tables_fit(&raw.normalizer) {
            return Err(damaged("a table of its normalizer is cut off"));
        }
        // In some places the library panics where it should refuse.
        let read = AssertUnwindSafe(|| Self::of_bytes(&bytes, sizes));
        catch_unwind(read)
            .unwrap_or_else(|panic| Err(damaged(crate::panic_message(panic.as_ref()))))
    }

    fn of_bytes(bytes: &[u8], sizes: &Sizes) -> Result<Self, ModelError> {
        let mut inner = Inner::from_bytes(bytes).map_err(|error| damaged(error.to_string()))?;
        // What it says of those is another program's choice.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| damaged(error.to_string()))?;
        let highest = inner.get_vocab(true).into_values().max();
        if highest.is_none_or(|highest| highest as usize >= sizes.vocabulary) {
            return Err(ModelError::Mismatch(format!(
                "the tokenizer's highest token is {}; the model knows {}",
                highest.map_or_else(|| "none".to_owned(), |highest| highest.to_string()),
                sizes.vocabulary
            )));
        }
        let tokenizer = Self {
            inner,
            window: sizes.window,
            vocabulary: u32::try_from(sizes.vocabulary).unwrap_or(u32::MAX),
            types: u32::try_from(sizes.types).unwrap_or(u32::MAX),
            lowercase: sizes.lowercase,
        };
        // A tokenizer that fails at all fails here, not in the first request.
        let sample = tokenizer
            .text("a", LongText::Truncate)
            .and_then(|_| tokenizer.pair("a", "b", LongText::Truncate));
        sample.map_err(|error| damaged(error.to_string()))?;
        Ok(tokenizer)
    }

    /// The most tokens of one sequence.
    #[must_use]
    pub const fn window(&self) -> usize {
        self.window
    }

    /// The sequences of a text.
    ///
    /// # Errors
    /// A text that does not fit, where `long` refuses it, and one without any tokens.
    pub fn text(&self, text: &str, long: LongText) -> Result<Window, TokenError> {
        let mut encoding = self.encode(text)?;
        let added = self.added(false);
        let room = self.window.saturating_sub(added).max(1);
        let length = encoding.len();
        if length <= room {
            let piece = self.finish(encoding, None)?;
            return Ok(Window {
                pieces: vec![piece],
                left_out: 0,
            });
        }
        if long == LongText::Refuse {
            return Err(TooLong {
                tokens: length + added,
                window: self.window,
            }
            .into());
        }
        encoding.truncate(room, 0, TruncationDirection::Right);
        let rest = encoding.take_overflowing();
        let mut pieces = vec![self.finish(encoding, None)?];
        if long == LongText::Truncate {
            return Ok(Window {
                pieces,
                left_out: length - room,
            });
        }
        for piece in rest {
            pieces.push(self.finish(piece, None)?);
        }
        Ok(Window {
            pieces,
            left_out: 0,
        })
    }

    /// The sequences of a query and a document. Where both do not fit, `long` says what is
    /// done: truncated, tokens are taken from the end of the longer one, one after the
    /// other; split, the document is read piece by piece behind the whole query, or behind as
    /// much of it as takes half of the window.
    ///
    /// # Errors
    /// A pair that does not fit, where `long` refuses it, and one without any tokens.
    pub fn pair(&self, query: &str, document: &str, long: LongText) -> Result<Window, TokenError> {
        let (mut query, mut document) = (self.encode(query)?, self.encode(document)?);
        let added = self.added(true);
        let room = self.window.saturating_sub(added).max(2);
        let length = query.len() + document.len();
        if length <= room {
            return Ok(Window {
                pieces: vec![self.finish(query, Some(document))?],
                left_out: 0,
            });
        }
        let (first, second) = match long {
            LongText::Refuse => {
                return Err(TooLong {
                    tokens: length + added,
                    window: self.window,
                }
                .into());
            }
            LongText::Truncate => longest_first(query.len(), document.len(), room),
            LongText::Split => {
                let first = query.len().min(room / 2);
                (first, room - first)
            }
        };
        let mut left_out = query.len() - first;
        query.truncate(first, 0, TruncationDirection::Right);
        query.take_overflowing();
        document.truncate(second, 0, TruncationDirection::Right);
        let rest = document.take_overflowing();
        let mut pieces = vec![self.finish(query.clone(), Some(document))?];
        for piece in rest {
            if long == LongText::Split {
                pieces.push(self.finish(query.clone(), Some(piece))?);
            } else {
                left_out += piece.len();
            }
        }
        Ok(Window { pieces, left_out })
    }

    /// The tokens of a prompt, however many; with those that the model puts around a text, or
    /// without, where a chat template wrote them already.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn prompt(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenError> {
        let failed = |error: tokenizers::Error| TokenError::Failed(error.to_string());
        let encoding = self.inner.encode_fast(text, special).map_err(failed)?;
        let ids = encoding.get_ids().to_vec();
        self.known(&ids)?;
        Ok(ids)
    }

    /// The text of tokens, without those that stand for none.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenError> {
        let decoded = self.inner.decode(ids, true);
        decoded.map_err(|error| TokenError::Failed(error.to_string()))
    }

    /// The number of a token that is written so.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The same of one that stands for no text, as those that end a turn.
    #[must_use]
    pub fn special_id(&self, token: &str) -> Option<u32> {
        let is_special = self.inner.get_added_vocabulary().is_special_token(token);
        self.id(token).filter(|_| is_special)
    }

    fn known(&self, ids: &[u32]) -> Result<(), TokenError> {
        match ids.iter().find(|&&id| id >= self.vocabulary) {
            Some(id) => Err(TokenError::Failed(format!(
                "it made the token {id}; the model knows {}",
                self.vocabulary
            ))),
            None => Ok(()),
        }
    }

    fn added(&self, pair: bool) -> usize {
        use tokenizers::PostProcessor as _;
        self.inner
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(pair))
    }

    fn encode(&self, text: &str) -> Result<Encoding, TokenError> {
        let failed = |error: tokenizers::Error| TokenError::Failed(error.to_string());
        if self.lowercase {
            return self
                .inner
                .encode_fast(text.to_lowercase(), false)
                .map_err(failed);
        }
        self.inner.encode_fast(text, false).map_err(failed)
    }

    fn finish(&self, first: Encoding, second: Option<Encoding>) -> Result<Tokens, TokenError> {
        let encoding = self
            .inner
            .post_process(first, second, true)
            .map_err(|error| TokenError::Failed(error.to_string()))?;
        let ids = encoding.get_ids().to_vec();
        if ids.is_empty() {
            return Err(TokenError::Empty);
        }
        if ids.len() > self.window {
            return Err(TokenError::Failed(format!(
                "it made {} tokens of a text, where at most {} were to be made",
                ids.len(),
                self.window
            )));
        }
        self.known(&ids)?;
        let types = encoding.get_type_ids();
        let types = types
            .iter()
            .any(|&kind| kind != 0)
            .then(|| types.iter().map(|&kind| kind.min(self.types - 1)).collect());
        Ok(Tokens { ids, types })
    }
}

/// How much stays of two texts when the longer one always gives first.
fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    let half = room / 2;
    if first <= half {
        return (first, room - first);
    }
    if second <= room - half {
        return (room - second, second);
    }
    // The same number of each, and the first gets what cannot be shared.
    (room - half, half)
}

#[cfg(test)]
mod tests {
    use super::longest_first;

    #[test]
    fn the_longer_text_gives_first() {
        assert_eq!(longest_first(3, 100, 20), (3, 17));
        assert_eq!(longest_first(100, 3, 20), (17, 3));
        assert_eq!(longest_first(100, 100, 20), (10, 10));
        assert_eq!(longest_first(100, 100, 21), (11, 10));
        assert_eq!(longest_first(11, 100, 20), (10, 10));
        assert_eq!(longest_first(100, 11, 20), (10, 10));
        assert_eq!(longest_first(100, 10, 20), (10, 10));
    }
}
