//! Splits text into passages.
//!
//! The text is read from the binding `work` and the passages are written back to it, one
//! JSON object a line, so that a book costs a workflow no more data than a note does.

use std::io::{BufRead, BufReader, Write};

use heyday_sdk::prelude::*;
use text_splitter::{ChunkConfig, MarkdownSplitter, TextSplitter};

/// Characters of a passage where the caller names none: a few sentences, what a person
/// reads at a glance.
const DEFAULT_CHARACTERS: usize = 1_200;

/// A text to split.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Text {
    /// Where the text lies in the binding `work`.
    pub text_key: String,
    /// `markdown` keeps sections together; anything else is plain text.
    #[serde(default)]
    pub format: String,
    /// Most characters of a passage: 100 to 10,000; 1,200 where absent.
    #[serde(default)]
    pub characters: Option<u32>,
}

/// Where the passages are.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Split {
    /// Their place in the binding `work`: JSON Lines of [`Passage`].
    pub passages_key: String,
    /// How many there are.
    pub passages: u64,
}

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// Counted from 0.
    pub position: u64,
    /// The byte at which it begins in the text.
    pub offset: u64,
    /// The heading above it, in Markdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heading: Option<String>,
    /// Its text.
    pub text: String,
}

/// Splits a text into passages at paragraphs, sentences and words.
#[activity(queue = "general-queue", start_to_close = "5m")]
pub fn split(input: Text) -> Result<Split> {
    let characters = input.characters.map_or(DEFAULT_CHARACTERS, |n| n as usize);
    if !(100..=10_000).contains(&characters) {
        let message = format!("a passage has 100 to 10,000 characters, not {characters}");
        return Err(Error::new("invalid-input", message));
    }
    let work = blob::Container::open("work")?;
    let mut text = String::new();
    for line in BufReader::new(work.read(&input.text_key)?).lines() {
        text.push_str(&line?);
        text.push('\n');
    }
    let passages_key = format!("{}.passages.jsonl", input.text_key.trim_end_matches(".txt"));
    let mut writer = work.write(&passages_key)?;
    let mut count = 0;
    for passage in passages(&text, input.format == "markdown", characters) {
        count += 1;
        let mut line = serde_json::to_vec(&passage)?;
        line.push(b'\n');
        writer.write_all(&line)?;
        if count % 500 == 0 {
            context::progress(passage.offset, text.len() as u64, "splitting");
        }
    }
    writer.finish()?;
    Ok(Split {
        passages_key,
        passages: count,
    })
}

/// The passages of a text of at most so many characters each.
pub fn passages(text: &str, markdown: bool, characters: usize) -> Vec<Passage> {
    let config = ChunkConfig::new(characters).with_trim(true);
    let pieces: Vec<(usize, &str)> = if markdown {
        MarkdownSplitter::new(config)
            .chunk_indices(text)
            .map(|c| (c.0, c.1))
            .collect()
    } else {
        TextSplitter::new(config)
            .chunk_indices(text)
            .map(|c| (c.0, c.1))
            .collect()
    };
    let headings = if markdown { headings(text) } else { Vec::new() };
    pieces
        .into_iter()
        .filter(|(_, piece)| piece.chars().any(char::is_alphanumeric))
        .enumerate()
        .map(|(position, (offset, piece))| Passage {
            position: position as u64,
            offset: offset as u64,
            heading: headings
                .iter()
                .take_while(|(at, _)| *at <= offset)
                .last()
                .map(|(_, heading)| heading.clone()),
            text: piece.to_owned(),
        })
        .collect()
}

/// Offsets and texts of ATX headings outside of fenced code.
fn headings(text: &str) -> Vec<(usize, String)> {
    let (mut offset, mut fenced, mut found) = (0, false, Vec::new());
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.starts_with("```") || trimmed.starts_with("~~~") {
            fenced = !fenced;
        } else if !fenced && trimmed.starts_with('#') {
            let heading = trimmed.trim_matches('#').trim();
            if trimmed.trim_start_matches('#').starts_with(' ') && !heading.is_empty() {
                found.push((offset, heading.to_owned()));
            }
        }
        offset += line.len();
    }
    found
}

heyday_sdk::plugin!();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_cover_the_text_in_order() {
        let sentence = "Every passage is part of the text, and none is longer than was asked. ";
        let text = sentence.repeat(100);
        let found = passages(&text, false, 300);
        assert!(found.len() > 10);
        for (index, passage) in found.iter().enumerate() {
            assert_eq!(passage.position, index as u64);
            assert!(passage.text.chars().count() <= 300);
            let at = passage.offset as usize;
            assert_eq!(&text[at..at + passage.text.len()], passage.text);
        }
        let words: usize = found
            .iter()
            .map(|p| p.text.split_whitespace().count())
            .sum();
        assert_eq!(words, text.split_whitespace().count());
    }

    #[test]
    fn markdown_passages_know_their_heading() {
        let filling = "Words that make this section longer than one passage may be. ".repeat(2);
        let text = format!(
            "# One\n\nfirst part {filling}\n\n```\n# not a heading\n```\n\n## Two\n\nsecond part {filling}\n"
        );
        let found = passages(&text, true, 150);
        let heading = |needle: &str| {
            let passage = found.iter().find(|p| p.text.contains(needle)).unwrap();
            passage.heading.clone()
        };
        assert_eq!(heading("second part").as_deref(), Some("Two"));
        assert_eq!(heading("first part").as_deref(), Some("One"));
    }

    #[test]
    fn nothing_but_punctuation_is_no_passage() {
        assert_eq!(passages("*** --- ***\n\n", false, 200), []);
    }
}
