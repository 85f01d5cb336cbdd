//! Splits text into passages.
//!
//! The text is read from the binding `work` and the passages are written back to it, one
//! JSON object a line, so that a book costs a workflow no more data than a note does. The
//! text is read block by block ([`blocks`]), a block is cut at its headings, small sections
//! together, and what is still too long is cut into [`pieces`]: memory stays the same,
//! and time grows as the text does.
//!
//! Start reading at [`fn@split`].

mod blocks;
mod pieces;

use std::io::{BufRead, BufReader, Write};

use heyday_sdk::prelude::*;

use passages::{Passage, work};

use blocks::Blocks;
use pieces::pieces;

/// Characters of a passage where the caller names none: a few sentences, what a person
/// reads at a glance.
const DEFAULT_CHARACTERS: usize = 1_200;

/// A text to split.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Text {
    /// Where the text lies in the binding `work`: UTF-8; form feeds are page breaks.
    pub text_key: String,
    /// Where its headings are listed in the binding `work`: JSON Lines of `offset`,
    /// `level` and `text`, in order.
    #[serde(default)]
    pub headings_key: Option<String>,
    /// Pages; where null, passages have no page number.
    #[serde(default)]
    pub pages: Option<u64>,
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

/// A heading of the text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Heading {
    /// The byte at which its line begins.
    pub offset: usize,
    /// Its text.
    pub text: String,
}

/// Splits a text into passages at sections, paragraphs, sentences and words.
// As often as `index.index`: a backend may be away for a minute.
#[activity(
    queue = "general-queue",
    start_to_close = "10m",
    retry(maximum_interval = "10s", maximum_attempts = 12)
)]
pub fn split(input: Text) -> Result<Split> {
    let characters = input.characters.map_or(DEFAULT_CHARACTERS, |n| n as usize);
    if !(100..=10_000).contains(&characters) {
        let message = format!("a passage has 100 to 10,000 characters, not {characters}");
        return Err(Error::new("invalid-input", message));
    }
    let objects = blob::Container::open("work")?;
    let mut headings = Vec::new();
    if let Some(key) = &input.headings_key {
        for line in BufReader::new(objects.read(key)?).lines() {
            headings.push(serde_json::from_str(&line?)?);
        }
    }
    let reader = objects.read(&input.text_key)?;
    let size = reader.metadata().size;
    let splitter = Splitter {
        pages: input.pages.is_some(),
        characters,
        headings,
    };
    let passages_key = work::beside(&input.text_key, work::PASSAGES);
    let mut writer = objects.write(&passages_key)?;
    let passages = splitter.run(reader, |passage, offset| {
        serde_json::to_writer(&mut writer, passage)?;
        writer.write_all(b"\n")?;
        if passage.position % 500 == 499 {
            context::progress(offset as u64, size, "splitting");
        }
        Ok(())
    })?;
    writer.finish()?;
    Ok(Split {
        passages_key,
        passages,
    })
}

/// How to split a text.
#[derive(Debug, Default)]
pub struct Splitter {
    /// Whether form feeds are counted as page breaks.
    pub pages: bool,
    /// Most characters of a passage.
    pub characters: usize,
    /// The text's headings, in order.
    pub headings: Vec<Heading>,
}

impl Splitter {
    /// Gives each passage of a text, with the byte at which it begins, and answers how
    /// many there are.
    pub fn run(
        &self,
        reader: impl std::io::Read,
        mut each: impl FnMut(&Passage, usize) -> Result<()>,
    ) -> Result<u64> {
        let (mut position, mut page, mut counted) = (0, 1, 0);
        let mut heading = 0;
        let mut blocks = Blocks::new(reader, &self.headings);
        while let Some((start, block)) = blocks.next()? {
            let parts = self.sections(start, block).into_iter();
            let found = parts.flat_map(|(at, section)| {
                pieces(section, self.characters).map(move |(offset, piece)| (at + offset, piece))
            });
            for (at, piece) in found {
                if !piece.chars().any(char::is_alphanumeric) {
                    continue;
                }
                let offset = start + at;
                // The block is gone through once, whatever lies between its passages.
                page += breaks(&block[counted - start.min(counted)..at]);
                counted = offset;
                while self
                    .headings
                    .get(heading)
                    .is_some_and(|h| h.offset <= offset)
                {
                    heading += 1;
                }
                let passage = Passage {
                    position,
                    offset: offset as u64,
                    page: self.pages.then_some(page),
                    heading: heading
                        .checked_sub(1)
                        .map(|index| self.headings[index].text.clone()),
                    text: piece.replace('\u{c}', "\n"),
                };
                each(&passage, offset)?;
                position += 1;
            }
            page += breaks(&block[counted - start.min(counted)..]);
            counted = start + block.len();
        }
        Ok(position)
    }

    /// The parts of a block that no passage crosses: its pages, so that each passage is on
    /// the page that it names, and in them the sections, small ones together.
    fn sections<'a>(&self, start: usize, block: &'a str) -> Vec<(usize, &'a str)> {
        let (mut parts, mut page_begin) = (Vec::new(), 0);
        for page in block.split_inclusive(|c| self.pages && c == '\u{c}') {
            let first = self
                .headings
                .partition_point(|heading| heading.offset <= start + page_begin);
            let cuts = self.headings[first..]
                .iter()
                .map(|heading| heading.offset - start - page_begin)
                .take_while(|at| *at < page.len())
                .filter(|at| page.is_char_boundary(*at));
            let (mut begin, mut end) = (0, 0);
            for cut in cuts.chain([page.len()]) {
                if end > begin && page[begin..cut].chars().count() > self.characters {
                    parts.push((page_begin + begin, &page[begin..end]));
                    begin = end;
                }
                end = cut;
            }
            parts.push((page_begin + begin, &page[begin..end]));
            page_begin += page.len();
        }
        parts
    }
}

fn breaks(text: &str) -> u64 {
    text.bytes().filter(|byte| *byte == 0xc).count() as u64
}

heyday_sdk::plugin!();

#[cfg(test)]
mod tests {
    use super::*;

    fn passages(text: &str, splitter: &Splitter) -> Vec<Passage> {
        let mut found = Vec::new();
        let count = splitter
            .run(text.as_bytes(), |passage, _| {
                found.push(passage.clone());
                Ok(())
            })
            .unwrap();
        assert_eq!(count, found.len() as u64);
        for (index, passage) in found.iter().enumerate() {
            assert_eq!(passage.position, index as u64);
            assert!(passage.text.chars().count() <= splitter.characters);
            let at = passage.offset as usize;
            let part = &text[at..at + passage.text.len()];
            assert_eq!(part.replace('\u{c}', "\n"), passage.text);
        }
        found
    }

    fn plain(characters: usize) -> Splitter {
        Splitter {
            characters,
            ..Splitter::default()
        }
    }

    fn words<'a>(texts: impl IntoIterator<Item = &'a str>) -> usize {
        texts
            .into_iter()
            .map(|text| text.split_whitespace().count())
            .sum()
    }

    #[test]
    fn passages_cover_the_text_in_order() {
        let sentence = "Every passage is part of the text, and none is longer than was asked. ";
        // Several blocks, with and without line ends, and characters of several bytes.
        for text in [
            sentence.repeat(100),
            sentence.repeat(5_000),
            format!("{sentence}\n\n").repeat(3_000),
            "Größe ist nicht alles, sagte er. ".repeat(9_000),
        ] {
            let found = passages(&text, &plain(300));
            assert!(found.len() > 10);
            assert_eq!(words(found.iter().map(|p| &*p.text)), words([&*text]));
        }
    }

    #[test]
    fn a_text_without_spaces_is_split_too() {
        let text = "語".repeat(200_000);
        let found = passages(&text, &plain(1_200));
        let all: usize = found.iter().map(|p| p.text.chars().count()).sum();
        assert_eq!(all, 200_000);
    }

    #[test]
    fn passages_know_their_page() {
        let page = "Words enough for a passage of their own on this page. ".repeat(3);
        let text = format!("{page}\u{c}{page}\u{c}\u{c}{page}");
        let mut splitter = plain(170);
        splitter.pages = true;
        let pages: Vec<_> = passages(&text, &splitter)
            .iter()
            .map(|passage| passage.page)
            .collect();
        assert_eq!(pages, [Some(1), Some(2), Some(4)]);
        assert!(
            passages(&text, &plain(170))
                .iter()
                .all(|p| p.page.is_none())
        );
        let short = passages("one\u{c}two", &splitter);
        assert_eq!(short[1].page, Some(2), "no passage is on two pages");
        // Pages are counted over the ends of blocks.
        let long = text.repeat(1_000);
        let last = passages(&long, &splitter).pop().unwrap();
        assert_eq!(last.page, Some(3_001));
    }

    #[test]
    fn passages_know_their_heading_and_do_not_cross_sections() {
        let filling = "Words that make this section longer than one passage may be. ".repeat(2);
        let text = format!("One\n\nfirst part {filling}\n\nTwo\n\nsecond part {filling}\n");
        let headings = ["One", "Two"]
            .map(|name| Heading {
                offset: text.find(name).unwrap(),
                text: name.to_owned(),
            })
            .to_vec();
        let splitter = Splitter {
            characters: 180,
            headings: headings.clone(),
            ..Splitter::default()
        };
        let found = passages(&text, &splitter);
        assert_eq!(found.len(), 2);
        assert!(found[0].text.starts_with("One") && found[1].text.starts_with("Two"));
        assert_eq!(found[0].heading.as_deref(), Some("One"));
        assert_eq!(found[1].heading.as_deref(), Some("Two"));
        let small = Splitter {
            characters: 1_000,
            headings,
            ..Splitter::default()
        };
        assert_eq!(passages(&text, &small).len(), 1, "small sections together");
    }

    #[test]
    fn nothing_but_punctuation_is_no_passage() {
        assert_eq!(passages("*** --- ***\n\n", &plain(200)), []);
        assert_eq!(passages("", &plain(200)), []);
    }

    #[test]
    fn the_activity_reads_and_writes_objects() {
        let test = heyday_sdk::test::Context::new()
            .blob(
                "work",
                [
                    ("t.txt", "Head\nSome words.\n"),
                    ("t.jsonl", "{\"offset\":0,\"level\":1,\"text\":\"Head\"}\n"),
                ],
            )
            .enter();
        let input = |characters| Text {
            text_key: "t.txt".to_owned(),
            headings_key: Some("t.jsonl".to_owned()),
            pages: None,
            characters,
        };
        let found = split(input(None)).unwrap();
        assert_eq!(found.passages, 1);
        let line = test.object("work", &found.passages_key).unwrap();
        let passage: Passage = serde_json::from_slice(&line).unwrap();
        assert_eq!(passage.heading.as_deref(), Some("Head"));
        assert_eq!(split(input(Some(5))).unwrap_err().kind(), "invalid-input");
    }
}
