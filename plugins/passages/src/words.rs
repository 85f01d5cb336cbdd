//! What a word is: a run of letters and digits without case, accents and points; in scripts
//! that are written without spaces (Chinese, Japanese, Korean, Thai, ...) each character is
//! one, and a run of them is a phrase. English words are compared by their stems
//! ([`Word::term`]).

use std::sync::LazyLock;

use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization as _;

static ENGLISH: LazyLock<Stemmer> = LazyLock::new(|| Stemmer::create(Algorithm::English));

/// A word of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The byte of the text at which it begins.
    pub start: usize,
    /// The byte at which it ends.
    pub end: usize,
    /// In lower case, without accents.
    pub folded: String,
}

impl Word {
    /// What it is compared by.
    #[must_use]
    pub fn term(&self) -> String {
        if self.folded.len() > 2 && self.folded.bytes().all(|b| b.is_ascii_lowercase()) {
            ENGLISH.stem(&self.folded).into_owned()
        } else {
            self.folded.clone()
        }
    }

    /// Whether it says nothing by itself: `the`, `is`, `what`.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        STOP.binary_search(&self.folded.as_str()).is_ok()
    }
}

/// The words of a text.
#[must_use]
pub fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    // Whether the next letter belongs to the last word.
    let mut open = false;
    for (at, character) in text.char_indices() {
        let end = at + character.len_utf8();
        if is_mark(character) {
            // Of the letter before it, which is told without.
            if let (true, Some(word)) = (open, words.last_mut()) {
                word.end = end;
            }
            continue;
        }
        if !character.is_alphanumeric() {
            if let (true, true, Some(word)) = (open, is_sign(character), words.last_mut()) {
                word.end = end;
                word.folded.push(character);
            } else {
                open = false;
            }
            continue;
        }
        let alone = is_unspaced(character);
        if !open || alone {
            words.push(Word {
                start: at,
                end,
                folded: String::new(),
            });
        }
        open = !alone;
        if let Some(word) = words.last_mut() {
            word.end = end;
            fold(character, &mut word.folded);
        }
    }
    words
}

/// The terms of a text, in order.
#[must_use]
pub fn terms(text: &str) -> Vec<String> {
    words(text).iter().map(Word::term).collect()
}

fn fold(character: char, folded: &mut String) {
    if character.is_ascii() {
        folded.push(character.to_ascii_lowercase());
    } else if has_accents(character) {
        let plain = std::iter::once(character).nfd();
        let plain = plain.filter(|c| !is_mark(*c)).flat_map(char::to_lowercase);
        // The one letter that is written otherwise at the end of a word.
        folded.extend(plain.map(|c| if c == 'ς' { 'σ' } else { c }));
    } else {
        folded.extend(character.to_lowercase());
    }
}

/// Latin, Greek, Cyrillic and Arabic: their letters are typed with accents and without.
fn has_accents(character: char) -> bool {
    matches!(character,
        '\u{c0}'..='\u{24f}' | '\u{370}'..='\u{52f}' | '\u{620}'..='\u{64a}'
        | '\u{1e00}'..='\u{1fff}')
}

/// Accents; the points of Hebrew and the vowels of Arabic, which most texts leave out; and
/// the stroke that makes an Arabic word longer.
fn is_mark(character: char) -> bool {
    matches!(character,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{487}' | '\u{591}'..='\u{5bd}' | '\u{5bf}'
        | '\u{5c1}'..='\u{5c2}' | '\u{5c4}'..='\u{5c5}' | '\u{5c7}' | '\u{610}'..='\u{61a}'
        | '\u{640}' | '\u{64b}'..='\u{65f}' | '\u{670}' | '\u{6d6}'..='\u{6dc}'
        | '\u{6df}'..='\u{6e4}' | '\u{6e7}'..='\u{6e8}' | '\u{6ea}'..='\u{6ed}')
}

/// Signs of the scripts of India that join two letters of a word, or make one of another, and
/// are no letters to Unicode. They have the same two places in all of these scripts' blocks but
/// Sinhala's.
fn is_sign(character: char) -> bool {
    let place = u32::from(character) % 0x80;
    matches!(character, '\u{900}'..='\u{d7f}') && matches!(place, 0x3c | 0x4d)
        || character == '\u{dca}'
}

/// Thai, Lao, Myanmar, Khmer, kana, Han and Hangul (whose words carry their particles).
fn is_unspaced(character: char) -> bool {
    matches!(character,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1100}'..='\u{11ff}'
        | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}' | '\u{3130}'..='\u{318f}'
        | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// Phrases of a question, at most.
pub const MOST_PHRASES: usize = 32;

/// What a person asked for, as phrases: each word, and quoted words as one. Nothing in it is
/// an operator. Words that say nothing by themselves are left out where others are there.
#[must_use]
pub fn phrases(text: &str) -> Vec<Vec<String>> {
    let (mut phrases, mut stops): (Vec<Vec<String>>, Vec<Vec<String>>) = Default::default();
    for (index, part) in text.split('"').enumerate() {
        let quoted = index % 2 == 1;
        let parts: Vec<&str> = if quoted {
            vec![part]
        } else {
            part.split_whitespace().collect()
        };
        for part in parts {
            let words = words(part);
            let phrase: Vec<String> = words.iter().map(Word::term).collect();
            let into = if !quoted && words.iter().all(Word::is_stop) {
                &mut stops
            } else {
                &mut phrases
            };
            if !phrase.is_empty() && into.len() < MOST_PHRASES && !into.contains(&phrase) {
                into.push(phrase);
            }
        }
    }
    if phrases.is_empty() { stops } else { phrases }
}

/// In the order of their bytes.
const STOP: &[&str] = &[
    "a", "about", "above", "after", "again", "against", "all", "also", "am", "an", "and", "any",
    "are", "as", "at", "be", "because", "been", "before", "being", "below", "between", "both",
    "but", "by", "can", "could", "did", "do", "does", "doing", "down", "during", "each", "few",
    "for", "from", "further", "had", "has", "have", "having", "he", "her", "here", "hers", "him",
    "his", "how", "i", "if", "in", "into", "is", "it", "its", "itself", "just", "let", "may", "me",
    "might", "more", "most", "must", "my", "no", "nor", "not", "now", "of", "off", "on", "once",
    "one", "only", "or", "other", "our", "ours", "out", "over", "own", "same", "she", "should",
    "so", "some", "such", "than", "that", "the", "their", "theirs", "them", "then", "there",
    "these", "they", "this", "those", "through", "to", "too", "under", "until", "up", "upon", "us",
    "very", "was", "we", "were", "what", "when", "where", "whether", "which", "while", "who",
    "whom", "whose", "why", "will", "with", "within", "without", "would", "you", "your", "yours",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_words_are_in_order() {
        assert!(STOP.is_sorted());
    }

    #[test]
    fn words_have_no_case_accents_and_ends() {
        assert_eq!(
            terms("Ships' HARBOURS, balanced"),
            ["ship", "harbour", "balanc"]
        );
        assert_eq!(
            terms("Café cafe\u{301} İstanbul"),
            ["cafe", "cafe", "istanbul"]
        );
        assert_eq!(terms("sqlite3 x86_64"), ["sqlite3", "x86", "64"]);
        let found = words("a Café");
        assert_eq!(&"a Café"[found[1].start..found[1].end], "Café");
        assert!(found[0].is_stop() && !found[1].is_stop());
    }

    #[test]
    fn words_of_other_scripts_have_no_accents_and_points() {
        for (typed, written) in [
            ("ΕΛΛΑΔΑ ΟΔΟΣ", "Ελλάδα οδός"),
            ("елка", "ЁЛКА"),
            // As a PDF of some systems has it: the letter and its accent apart.
            ("йод", "и\u{306}од"),
            // A book, with its vowels, and with a stroke.
            ("كتاب", "كِتَاب"),
            ("كتاب", "كـتاب"),
            // He asked: the letter with what it carries, and without.
            ("سال", "سأل"),
            ("שלום", "שָׁלוֹם"),
        ] {
            assert_eq!(terms(typed), terms(written), "{typed}");
            assert_eq!(terms(written).len(), typed.split(' ').count(), "{written}");
        }
        // Joined letters are one word, and so is what a sign changes.
        assert_eq!(terms("हिन्दी भाषा"), ["हिन्दी", "भाषा"]);
        assert_eq!(words("ज़मीन।").len(), 1);
    }

    #[test]
    fn unspaced_scripts_become_single_characters() {
        assert_eq!(terms("東京都に行く"), ["東", "京", "都", "に", "行", "く"]);
        assert_eq!(terms("in 東京, 3月"), ["in", "東", "京", "3", "月"]);
        assert_eq!(terms("서울에서"), ["서", "울", "에", "서"]);
        assert_eq!(terms("が"), ["が"]);
    }

    #[test]
    fn what_is_asked_for_has_no_operators() {
        let joined =
            |text| -> Vec<String> { phrases(text).iter().map(|words| words.join(" ")).collect() };
        assert_eq!(
            joined("durable \"worker lost\" NEAR(x) AND durable"),
            ["durabl", "worker lost", "near x"]
        );
        assert_eq!(joined(" * - \"\" "), [""; 0]);
        assert_eq!(joined("unclosed \"quote here"), ["unclos", "quot here"]);
        assert_eq!(joined("東京"), ["東 京"]);
        assert_eq!(joined("to be or not to be"), ["to", "be", "or", "not"]);
        assert_eq!(joined("what is a rotor"), ["rotor"]);
        let many: String = (0..100).map(|n| format!("w{n} ")).collect();
        assert_eq!(phrases(&many).len(), MOST_PHRASES);
    }
}
