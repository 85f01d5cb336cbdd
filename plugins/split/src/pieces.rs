//! Cuts a part of a text into pieces.
//!
//! Each piece is as long as it may be and ends at the best place of its last two thirds:
//! after a paragraph, else a line, a sentence, a clause, a word. The text is gone through
//! once, whatever it looks like; libraries that find all boundaries first take minutes for
//! a large text that has few of them.

/// Marks after which a piece may end, the best first.
const MARKS: &[&[&str]] = &[
    &["\n\n", "\u{c}"],
    &["\n"],
    &[". ", "! ", "? ", "。", "！", "？", "।", "؟ "],
    &["; ", ": ", ", ", "，", "、", "；"],
    &[" ", "\t"],
];

/// The pieces of a text of at most so many characters each, without the space around
/// them, and the byte at which each begins.
pub fn pieces(text: &str, characters: usize) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = &text[at..];
            let begin = at + rest.len() - rest.trim_start().len();
            let rest = rest.trim_start();
            if rest.is_empty() {
                return None;
            }
            let end = match rest.char_indices().nth(characters) {
                None => rest.len(),
                Some((limit, next)) => cut(&rest[..limit], next),
            };
            at = begin + end;
            let piece = rest[..end].trim_end();
            if !piece.is_empty() {
                return Some((begin, piece));
            }
        }
    })
}

/// Where to end a piece that is as long as it may be; `next` is the character after it.
fn cut(window: &str, next: char) -> usize {
    let third = window.len() / 3;
    for marks in MARKS {
        let best = marks
            .iter()
            .filter_map(|mark| window.rfind(mark).map(|at| at + mark.len()))
            .max();
        if let Some(best) = best
            && best > third
        {
            return best;
        }
    }
    // In the middle of a word, but not of what is written as one sign.
    let mut end = window.len();
    let mut following = next;
    for (at, character) in window.char_indices().rev().take(8) {
        if !joins(following) && character != '\u{200d}' {
            return end;
        }
        end = at;
        following = character;
    }
    window.len()
}

/// Whether a character belongs to the one before it.
fn joins(character: char) -> bool {
    matches!(character,
        '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{20d0}'..='\u{20ff}'
        | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{fe20}'..='\u{fe2f}'
        | '\u{1f3fb}'..='\u{1f3ff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str, characters: usize) -> Vec<&str> {
        pieces(text, characters)
            .map(|(at, piece)| {
                assert_eq!(&text[at..at + piece.len()], piece);
                assert!(piece.chars().count() <= characters);
                piece
            })
            .collect()
    }

    #[test]
    fn pieces_end_at_the_best_place() {
        assert_eq!(texts("  short  ", 20), ["short"]);
        assert_eq!(
            texts("One two. Three four\nfive.\n\nSix seven eight nine.", 30),
            ["One two. Three four\nfive.", "Six seven eight nine."]
        );
        assert_eq!(
            texts("First sentence. Second sentence here.", 24),
            ["First sentence.", "Second sentence here."]
        );
        assert_eq!(
            texts("これは長い。文章です。", 8),
            ["これは長い。", "文章です。"]
        );
        assert_eq!(
            texts(&"x".repeat(25), 10),
            ["x".repeat(10), "x".repeat(10), "x".repeat(5)]
        );
    }

    #[test]
    fn signs_of_several_characters_stay_whole() {
        assert_eq!(texts("aaaae\u{301}bbb", 5), ["aaaa", "e\u{301}bbb"]);
        assert_eq!(texts("aaa👩\u{200d}🔬b", 4), ["aaa", "👩\u{200d}🔬b"]);
    }
}
