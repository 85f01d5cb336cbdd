//! From texts to tokens, within a model's window.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{Encoding, Token, Tokenizer as Inner};

use super::files::ModelFiles;
use crate::error::ModelError;

const TOKENIZER: &str = "tokenizer.json";
/// Bytes of a text that the library reads at once: it takes some hundred bytes for each token and
/// each word while it does, where what stays of a token is its number.
const PIECE: usize = 64 << 10;

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
    /// Tokens that were read and left out. Of a long text more were not read at all.
    pub left_out: usize,
}

/// A text that does not fit, where it was to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{tokens} tokens are more than {window}")]
pub struct TooLong {
    /// Its tokens, with those that the model adds; of a long text those up to where it was read.
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
    /// Whether it writes a space before each text, as before each word.
    prepends: bool,
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
        let mut tokenizer = Self {
            inner,
            window: sizes.window,
            vocabulary: u32::try_from(sizes.vocabulary).unwrap_or(u32::MAX),
            types: u32::try_from(sizes.types).unwrap_or(u32::MAX),
            lowercase: sizes.lowercase,
            prepends: false,
        };
        // A tokenizer that fails at all fails here, not in the first request.
        let sample = tokenizer
            .text("a", LongText::Truncate)
            .and_then(|_| tokenizer.pair("a", "b", LongText::Truncate))
            .and_then(|_| tokenizer.finds_prepended());
        tokenizer.prepends = sample.map_err(|error| damaged(error.to_string()))?;
        Ok(tokenizer)
    }

    /// Whether two words are those of two texts only where the second begins without its space.
    fn finds_prepended(&self) -> Result<bool, TokenError> {
        let both = self.encode("a b")?;
        let is_both = |second: &str| -> Result<bool, TokenError> {
            let parts = [self.encode("a")?, self.encode(second)?];
            Ok(parts.iter().flat_map(Encoding::get_ids).eq(both.get_ids()))
        };
        Ok(!is_both(" b")? && is_both("b")?)
    }

    /// The sequences of a text.
    ///
    /// # Errors
    /// A text that does not fit, where `long` refuses it, and one without any tokens.
    pub fn text(&self, text: &str, long: LongText) -> Result<Window, TokenError> {
        let added = self.added(false);
        let room = self.window.saturating_sub(added).max(1);
        let (ids, all) = self.ids(text, most(text, long, room))?;
        if ids.len() <= room {
            return Ok(Window {
                pieces: vec![self.finish(&ids, None)?],
                left_out: 0,
            });
        }
        match long {
            LongText::Split if all => {
                let pieces = ids.chunks(room).map(|piece| self.finish(piece, None));
                Ok(Window {
                    pieces: pieces.collect::<Result<_, _>>()?,
                    left_out: 0,
                })
            }
            LongText::Truncate => Ok(Window {
                pieces: vec![self.finish(&ids[..room], None)?],
                left_out: ids.len() - room,
            }),
            LongText::Refuse | LongText::Split => Err(self.too_long(ids.len() + added)),
        }
    }

    /// The sequences of a query and a document. Where both do not fit, `long` says what is
    /// done: truncated, tokens are taken from the end of the longer one, one after the
    /// other; split, the document is read piece by piece behind the whole query, or behind as
    /// much of it as takes half of the window.
    ///
    /// # Errors
    /// A pair that does not fit, where `long` refuses it, and one without any tokens.
    pub fn pair(&self, query: &str, document: &str, long: LongText) -> Result<Window, TokenError> {
        let added = self.added(true);
        let room = self.window.saturating_sub(added).max(2);
        // More of a query is never used.
        let (query, _) = self.ids(query, room)?;
        let (document, all) = self.ids(document, most(document, long, room))?;
        let length = query.len() + document.len();
        if length <= room {
            return Ok(Window {
                pieces: vec![self.finish(&query, Some(&document))?],
                left_out: 0,
            });
        }
        match long {
            LongText::Split if all => {
                let first = query.len().min(room / 2);
                let (query, left_out) = (&query[..first], query.len() - first);
                let mut pieces = Vec::new();
                for piece in document.chunks(room - first) {
                    pieces.push(self.finish(query, Some(piece))?);
                }
                if pieces.is_empty() {
                    pieces.push(self.finish(query, Some(&[]))?);
                }
                Ok(Window { pieces, left_out })
            }
            LongText::Truncate => {
                let (first, second) = longest_first(query.len(), document.len(), room);
                Ok(Window {
                    pieces: vec![self.finish(&query[..first], Some(&document[..second]))?],
                    left_out: length - room,
                })
            }
            LongText::Refuse | LongText::Split => Err(self.too_long(length + added)),
        }
    }

    /// The tokens of a prompt, with those that the model puts around a text, or without, where
    /// a chat template wrote them already. Of one that is longer than the window there are more
    /// than that, but not all.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn prompt(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenError> {
        let (mut ids, _) = self.ids(text, self.window)?;
        if special {
            ids = self.surround(&ids, None)?.get_ids().to_vec();
        }
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

    const fn too_long(&self, tokens: usize) -> TokenError {
        TokenError::TooLong(TooLong {
            tokens,
            window: self.window,
        })
    }

    /// A text's tokens, without those that the model adds, and whether these are all: it is read
    /// piece by piece, and no further when there are more than `most`.
    fn ids(&self, text: &str, most: usize) -> Result<(Vec<u32>, bool), TokenError> {
        let mut ids = Vec::new();
        let mut rest = text;
        loop {
            let (piece, after) = cut(rest, self.prepends);
            ids.extend_from_slice(self.encode(piece)?.get_ids());
            if after.is_empty() || ids.len() > most {
                return Ok((ids, after.is_empty()));
            }
            rest = after;
        }
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

    /// Tokens with those that the model adds.
    fn surround(&self, first: &[u32], second: Option<&[u32]>) -> Result<Encoding, TokenError> {
        // Nothing that is added depends on how the tokens are written, or on where they stood.
        let token = |&id: &u32| Token::new(id, String::new(), (0, 0));
        let encoding = |ids: &[u32]| Encoding::from_tokens(ids.iter().map(token).collect(), 0);
        self.inner
            .post_process(encoding(first), second.map(encoding), true)
            .map_err(|error| TokenError::Failed(error.to_string()))
    }

    fn finish(&self, first: &[u32], second: Option<&[u32]>) -> Result<Tokens, TokenError> {
        let encoding = self.surround(first, second)?;
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

/// After how many tokens no more of a text is read: what is done with it is decided, or it has
/// more than any text has for its bytes, but where a normalizer makes much of little.
fn most(text: &str, long: LongText, room: usize) -> usize {
    match long {
        LongText::Refuse | LongText::Truncate => room,
        LongText::Split => text.len().saturating_mul(2).max(room),
    }
}

/// The next piece of a text, and what is left of it. It ends with a word whose space begins the
/// next piece, or is left out where the tokenizer writes one there: so the pieces' tokens are
/// those of the whole. Else it ends with a line; else with any character.
fn cut(text: &str, prepends: bool) -> (&str, &str) {
    if text.len() <= PIECE {
        return (text, "");
    }
    let from = text.floor_char_boundary(PIECE / 2);
    let to = text.floor_char_boundary(PIECE);
    let last = &text[from..to];
    let mut spaces = last.rmatch_indices(' ').map(|(at, _)| from + at);
    // Tokens of several spaces are not to be cut.
    if let Some(at) = spaces.find(|&at| !text[..at].ends_with(char::is_whitespace)) {
        return (&text[..at], &text[at + usize::from(prepends)..]);
    }
    let mut lines = last.rmatch_indices('\n').map(|(at, _)| from + at + 1);
    let line = lines.find(|&at| !text[at..].starts_with(char::is_whitespace));
    text.split_at(line.unwrap_or(to))
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
    use serde_json::json;

    use super::{LongText, PIECE, TokenError, Tokenizer, cut, longest_first};
    use crate::model::tests::{Copy, folder};
    use crate::model::{Description, Limits, ModelFiles};

    fn tokenizer(name: &str) -> Tokenizer {
        let files = ModelFiles::find(&folder(name)).expect("a model");
        let description = Description::read(&files, &Limits::default());
        description.expect("a model").tokenizer
    }

    #[test]
    fn a_long_text_in_pieces_has_the_tokens_of_the_whole() {
        let sentence = "The rotor's housing, number 12345, Grüße:  東京 is\n turning; the\n\nEnd. ";
        let text = sentence.repeat(5 * PIECE / 2 / sentence.len());
        for name in [
            "bert-cls",
            "roberta-mean",
            "rerank-roberta",
            "llama-gqa",
            "llama-yarn",
            "qwen2-tied",
            "mistral-sliding",
        ] {
            let tokenizer = tokenizer(name);
            assert_eq!(tokenizer.prepends, name == "mistral-sliding", "{name}");
            let whole = tokenizer.encode(&text).expect("tokens");
            let (ids, all) = tokenizer.ids(&text, usize::MAX).expect("tokens");
            assert!(all && ids == whole.get_ids(), "{name}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_words_else_lines_else_characters() {
        let words = "ab  ".repeat(PIECE);
        let (piece, rest) = cut(&words, false);
        assert!(piece.ends_with('b') && rest.starts_with("  a"));
        assert_eq!(piece.len() + rest.len(), words.len());
        assert!((PIECE - 4..=PIECE).contains(&piece.len()));
        let (piece, rest) = cut(&words, true);
        assert!(piece.ends_with('b') && rest.starts_with(" a"));
        let lines = format!("{}\n", "水".repeat(999)).repeat(30);
        let (piece, rest) = cut(&lines, false);
        assert!(piece.ends_with("水\n") && rest.starts_with('水'));
        assert_eq!(piece.len() + rest.len(), lines.len());
        // Its bound lies within a character.
        let line = "水".repeat(30_000);
        let (piece, rest) = cut(&line, true);
        assert_eq!((piece.len(), rest.len()), (PIECE - 1, 90_001 - PIECE));
        let (ids, all) = tokenizer("bert-cls")
            .ids(&line, usize::MAX)
            .expect("tokens");
        assert_eq!((ids.len(), all), (30_000, true));
        let short = "水".repeat(PIECE / 3);
        assert_eq!(cut(&short, false), (short.as_str(), ""));
    }

    #[test]
    fn a_text_is_read_no_further_than_where_it_is_decided() {
        // Each is a token of its own: as many as a piece has bytes are of one piece.
        let text = ".".repeat(8 << 20);
        let encoder = tokenizer("bert-cls");
        let refused = encoder.text(&text, LongText::Refuse);
        let Err(TokenError::TooLong(told)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((told.tokens, told.window), (PIECE + 2, 64));
        let cut = encoder.text(&text, LongText::Truncate).expect("tokens");
        assert_eq!((cut.pieces.len(), cut.left_out), (1, PIECE - 62));
        assert_eq!(cut.pieces[0].ids.len(), 64);
        let cut = encoder.pair(&text, &text, LongText::Truncate);
        let cut = cut.expect("tokens");
        assert_eq!((cut.pieces.len(), cut.left_out), (1, 2 * PIECE - 61));
        let refused = encoder.pair(&text, &text, LongText::Refuse);
        assert!(
            matches!(refused, Err(TokenError::TooLong(told)) if told.tokens == 2 * PIECE + 3),
            "{refused:?}"
        );
        let cut = encoder.pair(&text, "a", LongText::Split).expect("tokens");
        assert_eq!((cut.pieces.len(), cut.left_out), (1, PIECE - 30));
        let prompt = tokenizer("llama-gqa").prompt(&text, false);
        assert_eq!(prompt.expect("tokens").len(), PIECE);
        // Split, it is read whole.
        let text = &text[..2 * PIECE + 5];
        let dot = encoder.encode(".").expect("a token").get_ids()[0];
        let alone = encoder.text(text, LongText::Split);
        let behind = encoder.pair("", text, LongText::Split);
        for split in [alone, behind] {
            let pieces = split.expect("tokens").pieces;
            let ids = pieces.iter().flat_map(|piece| &piece.ids);
            assert_eq!(ids.filter(|&&id| id == dot).count(), text.len());
        }
    }

    #[test]
    fn a_normalizer_that_makes_much_of_little_ends_a_long_text_only() {
        let copy = Copy::of("bert-cls");
        copy.change("tokenizer.json", |tokenizer| {
            tokenizer["normalizer"] =
                json!({ "type": "Replace", "pattern": { "String": "." }, "content": "...." });
        });
        let tokenizer = copy.read().expect("a model").tokenizer;
        let text = ".".repeat(3 * PIECE / 2);
        let refused = tokenizer.text(&text, LongText::Split);
        assert!(
            matches!(refused, Err(TokenError::TooLong(told)) if told.tokens == 4 * PIECE + 2),
            "{refused:?}"
        );
        let split = tokenizer.text(&text[..1_000], LongText::Split);
        assert_eq!(
            split.expect("tokens").pieces.len(),
            4_000_usize.div_ceil(62)
        );
    }

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
