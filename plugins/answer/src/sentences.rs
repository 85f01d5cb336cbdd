//! The sentences of a text.

/// A sentence, or what stands for one: an item of a list, a row of a table, a heading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sentence<'a> {
    /// The byte at which it begins in the text.
    pub offset: usize,
    /// Its text, with the line ends that are in it.
    pub text: &'a str,
}

/// The sentences of a text, without the space around them.
pub fn sentences(text: &str) -> Vec<Sentence<'_>> {
    let mut sentences = Vec::new();
    let mut begin = 0;
    for (at, character) in text.char_indices() {
        let end = at + character.len_utf8();
        if ends(&text[..at], character, &text[end..]) {
            push(&mut sentences, text, begin, end);
            begin = end;
        }
    }
    push(&mut sentences, text, begin, text.len());
    sentences
}

fn push<'a>(sentences: &mut Vec<Sentence<'a>>, text: &'a str, begin: usize, end: usize) {
    let whole = &text[begin..end];
    let trimmed = whole.trim();
    if trimmed.chars().any(char::is_alphanumeric) {
        sentences.push(Sentence {
            offset: begin + (whole.len() - whole.trim_start().len()),
            text: trimmed,
        });
    }
}

/// Whether a sentence ends with this character.
fn ends(before: &str, character: char, after: &str) -> bool {
    match character {
        '。' | '！' | '？' => true,
        '.' | '!' | '?' => {
            // Not "e.g. this", "3.5" and "1. An item".
            let mut next = after.chars();
            let space = next.next().is_none_or(char::is_whitespace);
            let small = after.trim_start().starts_with(char::is_lowercase);
            let number = before
                .rsplit(char::is_whitespace)
                .next()
                .is_some_and(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_digit()));
            space && !small && !(character == '.' && number && begins_line(before))
        }
        '\n' => {
            let line = before.rsplit('\n').next().unwrap_or_default().trim_start();
            let next = after.trim_start_matches([' ', '\t']);
            // A blank line, a heading, a row, or the begin of an item.
            next.starts_with(['\n', '#', '|', '-', '*'])
                || line.starts_with(['#', '|'])
                || next.is_empty()
        }
        _ => false,
    }
}

/// Whether the last word of a text is the first of its line.
fn begins_line(text: &str) -> bool {
    let line = text.rsplit('\n').next().unwrap_or_default();
    line.trim_start().chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        let found = sentences(text);
        assert!(
            found
                .iter()
                .all(|it| text[it.offset..].starts_with(it.text))
        );
        found.into_iter().map(|it| it.text).collect()
    }

    #[test]
    fn sentences_items_and_rows_are_told_apart() {
        assert_eq!(
            split("One is here. Two, e.g. this of 3.5, too! Is it? Yes"),
            [
                "One is here.",
                "Two, e.g. this of 3.5, too!",
                "Is it?",
                "Yes"
            ]
        );
        assert_eq!(
            split(
                "## Head\nA line\nthat goes on.\n\n- an item\n- another\n\n| a | b |\n|---|---|\n| c | d |\n"
            ),
            [
                "## Head",
                "A line\nthat goes on.",
                "- an item",
                "- another",
                "| a | b |",
                "| c | d |"
            ]
        );
        assert_eq!(split("1. An item\n2. Another"), ["1. An item\n2. Another"]);
        assert_eq!(
            split("灯台は東京にあります。海も。"),
            ["灯台は東京にあります。", "海も。"]
        );
        assert_eq!(split(" \n ... \n"), [""; 0]);
    }
}
