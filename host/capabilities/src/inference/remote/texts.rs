//! The texts of one call, on their way through an endpoint that takes so many at once.
//!
//! Only the endpoint has the model's tokenizer, so that only it knows which text is too
//! long. A batch that it refuses for that is halved until the text is found; that one is
//! then treated as the caller asked: refused, cut, or split into pieces.

use std::collections::VecDeque;

use heyday_inference::LongText;

/// Bytes of a piece, by tokens of the window, where a text is split: less than most tokens
/// have, so that most pieces fit.
const PIECE: usize = 3;
/// The same where a text is cut: more than tokens have, so that nothing is lost that fits.
const CUT: usize = 8;

/// What was found of a text, or of a piece of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    /// Its embedding, or its one score.
    pub(super) values: Vec<f32>,
    /// Tokens that were read of it, as far as the endpoint told.
    pub(super) tokens: u32,
}

impl Found {
    /// Its share of an average.
    pub(super) fn weight(&self) -> usize {
        (self.tokens as usize).max(1)
    }
}

/// Tokens of all pieces of a text.
pub(super) fn tokens(pieces: &[Found]) -> u32 {
    pieces
        .iter()
        .fold(0, |sum, it| sum.saturating_add(it.tokens))
}

/// A text or a piece: which text, and from where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    text: usize,
    from: usize,
    to: usize,
}

/// The texts of a call.
pub(super) struct Batch<'a> {
    texts: &'a [String],
    most: usize,
    long: LongText,
    window: usize,
    waiting: VecDeque<Vec<Piece>>,
    found: Vec<Vec<Found>>,
}

impl<'a> Batch<'a> {
    /// At most `most` of them are asked for at once.
    pub(super) fn new(texts: &'a [String], most: usize, long: LongText, window: usize) -> Self {
        let all: Vec<Piece> = texts
            .iter()
            .enumerate()
            .map(|(text, it)| Piece {
                text,
                from: 0,
                to: it.len(),
            })
            .collect();
        Self {
            texts,
            most,
            long,
            window,
            waiting: all.chunks(most).map(<[Piece]>::to_vec).collect(),
            found: vec![Vec::new(); texts.len()],
        }
    }

    /// What to ask for next.
    pub(super) fn next(&mut self) -> Option<Vec<Piece>> {
        self.waiting.pop_front()
    }

    fn text(&self, piece: Piece) -> &'a str {
        &self.texts[piece.text][piece.from..piece.to]
    }

    pub(super) fn texts_of(&self, pieces: &[Piece]) -> Vec<&'a str> {
        pieces.iter().map(|&piece| self.text(piece)).collect()
    }

    /// The endpoint answered for these.
    pub(super) fn found(&mut self, pieces: Vec<Piece>, found: Vec<Found>) {
        for (piece, found) in pieces.into_iter().zip(found) {
            self.found[piece.text].push(found);
        }
    }

    /// The endpoint refuses these as too long. Fails with the text for which nothing can be
    /// done.
    pub(super) fn too_long(&mut self, mut pieces: Vec<Piece>) -> Result<(), usize> {
        if pieces.len() > 1 {
            let half = pieces.split_off(pieces.len() / 2);
            self.waiting.push_front(half);
            self.waiting.push_front(pieces);
            return Ok(());
        }
        let Some(piece) = pieces.pop() else {
            return Ok(());
        };
        let length = piece.to - piece.from;
        // A token has a byte at least, with room for those that the model adds.
        if self.long == LongText::Refuse || length < self.window / 2 {
            return Err(piece.text);
        }
        match self.long {
            LongText::Refuse => {}
            LongText::Truncate => {
                let wanted = (length / 2).min(self.window * CUT);
                let to = piece.from + self.text(piece).floor_char_boundary(wanted);
                self.waiting.push_front(vec![Piece { to, ..piece }]);
            }
            LongText::Split => {
                let wanted = if length > 2 * PIECE * self.window {
                    PIECE * self.window
                } else {
                    length / 2 + 1
                };
                let pieces = self.split(piece, wanted);
                for batch in pieces.chunks(self.most).rev() {
                    self.waiting.push_front(batch.to_vec());
                }
            }
        }
        Ok(())
    }

    /// Pieces of at most so many bytes, between words where that costs little.
    fn split(&self, piece: Piece, wanted: usize) -> Vec<Piece> {
        // The longest character has four bytes.
        let wanted = wanted.max(4);
        let mut pieces = Vec::new();
        let mut from = piece.from;
        while from < piece.to {
            let rest = &self.texts[piece.text][from..piece.to];
            let mut length = rest.floor_char_boundary(wanted);
            if length < rest.len()
                && let Some(space) = rest[..length].rfind(char::is_whitespace)
                && space > length / 2
            {
                length = space;
            }
            let to = from + length;
            pieces.push(Piece {
                text: piece.text,
                from,
                to,
            });
            from = to;
        }
        pieces
    }

    /// What was found of each text.
    pub(super) fn into_found(self) -> Vec<Vec<Found>> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks a service whose window has so many words.
    fn run(texts: &[String], long: LongText, words: usize) -> Result<Vec<Vec<Found>>, usize> {
        let mut batch = Batch::new(texts, 3, long, words);
        let mut asked = 0;
        while let Some(next) = batch.next() {
            asked += 1;
            assert!(asked < 1_000, "it has an end");
            let asked = batch.texts_of(&next);
            assert!(asked.len() <= 3);
            let count = |text: &&str| text.split_whitespace().count();
            if asked.iter().any(|text| count(text) > words) {
                batch.too_long(next)?;
                continue;
            }
            let found = asked.iter().map(|text| Found {
                values: vec![text.len() as f32],
                tokens: u32::try_from(count(text)).expect("few"),
            });
            batch.found(next, found.collect());
        }
        Ok(batch.into_found())
    }

    fn texts() -> Vec<String> {
        let long = "wörter ".repeat(500);
        let mut texts: Vec<String> = (0..7).map(|number| format!("text {number}")).collect();
        texts.insert(4, long);
        texts
    }

    #[test]
    fn all_texts_are_answered_in_their_order() {
        let mut texts = texts();
        texts.remove(4);
        let found = run(&texts, LongText::Refuse, 16).expect("none is long");
        assert_eq!(found.len(), 7);
        assert!(found.iter().all(|it| it.len() == 1 && it[0].tokens == 2));
        assert_eq!(run(&[], LongText::Refuse, 16), Ok(vec![]));
    }

    #[test]
    fn what_is_too_long_is_treated_as_was_asked() {
        let texts = texts();
        assert_eq!(run(&texts, LongText::Refuse, 16), Err(4));
        let cut = run(&texts, LongText::Truncate, 16).expect("cut");
        assert_eq!(cut[4].len(), 1);
        assert!((8..=16).contains(&cut[4][0].tokens), "{:?}", cut[4]);
        let split = run(&texts, LongText::Split, 16).expect("split");
        // A word may be cut in two, and nothing is lost.
        assert!((500..700).contains(&tokens(&split[4])), "{:?}", split[4]);
        let bytes: f32 = split[4].iter().map(|it| it.values[0]).sum();
        assert_eq!(bytes as usize, texts[4].len());
        for found in [cut, split] {
            assert!((0..8).all(|text| text == 4 || found[text][0].tokens == 2));
        }
    }

    #[test]
    fn a_service_that_takes_nothing_ends_it() {
        let texts = vec!["ä".repeat(100_000)];
        let mut batch = Batch::new(&texts, 3, LongText::Split, 16);
        let refused = std::iter::from_fn(|| batch.next().map(|next| batch.too_long(next)))
            .find_map(Result::err);
        assert_eq!(refused, Some(0));
    }
}
