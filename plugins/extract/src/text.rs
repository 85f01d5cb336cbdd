//! Plain text and Markdown, in whatever encoding.

use encoding_rs::{Encoding, ISO_2022_JP, UTF_8, UTF_16BE, UTF_16LE};

use crate::{Content, Heading, Unreadable};

/// An encoding that a byte order mark tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    /// UTF-8 or UTF-16.
    Known(&'static Encoding),
    /// UTF-32, least significant byte first.
    Utf32Le,
    /// UTF-32, most significant byte first.
    Utf32Be,
}

/// The encoding that the byte order mark tells, if there is one.
pub fn marked(bytes: &[u8]) -> Option<Marked> {
    // Looked for first: UTF-32's mark begins with UTF-16's.
    if bytes.starts_with(&[0xff, 0xfe, 0, 0]) {
        return Some(Marked::Utf32Le);
    }
    if bytes.starts_with(&[0, 0, 0xfe, 0xff]) {
        return Some(Marked::Utf32Be);
    }
    Encoding::for_bom(bytes).map(|(encoding, _)| Marked::Known(encoding))
}

/// Decodes bytes: a byte order mark, then UTF-8, then UTF-16 by its zeros, then a guess
/// among the legacy encodings.
pub fn decode(bytes: &[u8]) -> String {
    let encoding = match marked(bytes) {
        Some(Marked::Known(encoding)) => encoding,
        Some(Marked::Utf32Le) => return utf32(bytes, u32::from_le_bytes),
        Some(Marked::Utf32Be) => return utf32(bytes, u32::from_be_bytes),
        None if escapes_to_japanese(bytes) => ISO_2022_JP,
        None => {
            if is_letters(bytes)
                && let Ok(text) = std::str::from_utf8(bytes)
            {
                return text.to_owned();
            }
            utf16_without_mark(bytes).unwrap_or_else(|| guess(bytes))
        }
    };
    encoding.decode(bytes).0.into_owned()
}

/// [`decode`] of bytes that are not needed any more: UTF-8 is not copied.
pub fn decode_owned(bytes: Vec<u8>) -> String {
    match marked(&bytes) {
        None if is_letters(&bytes) && !escapes_to_japanese(&bytes) => {
            String::from_utf8(bytes).unwrap_or_else(|error| decode(error.as_bytes()))
        }
        _ => decode(&bytes),
    }
}

/// Whether there are hardly any control characters: half of the bytes of Russian in UTF-16
/// are, and all of them are ASCII.
fn is_letters(bytes: &[u8]) -> bool {
    let sample = &bytes[..bytes.len().min(4096)];
    let control = sample
        .iter()
        .filter(|byte| matches!(byte, 1..=8 | 14..=26 | 28..=31))
        .count();
    control * 50 <= sample.len()
}

/// ISO-2022-JP is ASCII to whoever does not know its escapes.
fn escapes_to_japanese(bytes: &[u8]) -> bool {
    let sample = &bytes[..bytes.len().min(1 << 20)];
    sample.contains(&0x1b)
        && sample.is_ascii()
        && sample
            .windows(3)
            .any(|window| matches!(window, b"\x1b$B" | b"\x1b$@"))
}

fn utf32(bytes: &[u8], read: fn([u8; 4]) -> u32) -> String {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .skip(1)
        .map(|chunk| char::from_u32(read(*chunk)).unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

fn guess(bytes: &[u8]) -> &'static Encoding {
    // A UTF-8 text with a few bad bytes, or cut in the middle of a character, is still
    // one: legacy text hardly ever has whole UTF-8 sequences.
    let sample = &bytes[..bytes.len().min(1 << 20)];
    let (mut good, mut bad) = (0, 0);
    for chunk in sample.utf8_chunks() {
        good += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        bad += usize::from(!chunk.invalid().is_empty());
    }
    if good > bad * 10 {
        return UTF_8;
    }
    let mut detector = chardetng::EncodingDetector::new(chardetng::Iso2022JpDetection::Allow);
    // More than this changes no guess and costs time.
    detector.feed(sample, true);
    detector.guess(None, chardetng::Utf8Detection::Allow)
}

/// UTF-16 without a mark: text in a script of few letters has zeros in either the even or
/// the odd places, hardly any in the others; other text is nearly all letters when it
/// is read the right way round.
pub fn utf16_without_mark(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(4096) & !1];
    // Only spaces and line ends have a zero in text of many-lettered scripts, but one of
    // them there is; eight-bit text has none.
    if sample.len() < 4 || !sample.contains(&0) {
        return None;
    }
    let zeros = |offset: usize| {
        sample
            .iter()
            .skip(offset)
            .step_by(2)
            .filter(|byte| **byte == 0)
            .count()
    };
    let (even, odd, half) = (zeros(0), zeros(1), sample.len() / 2);
    if odd * 10 > half * 4 && even * 50 < half {
        return Some(UTF_16LE);
    }
    if even * 10 > half * 4 && odd * 50 < half {
        return Some(UTF_16BE);
    }
    [UTF_16LE, UTF_16BE]
        .into_iter()
        .map(|encoding| (spaces_of_letters(encoding, sample), encoding))
        .max_by_key(|(spaces, _)| *spaces)
        .filter(|(spaces, _)| *spaces > 0)
        .map(|(_, encoding)| encoding)
}

/// How many spaces, line ends and stops there are between what is nearly all letters; none
/// where it is not. Random bytes are letters by two thirds; the wrong order has few spaces.
fn spaces_of_letters(encoding: &'static Encoding, sample: &[u8]) -> usize {
    let (text, _, broken) = encoding.decode(sample);
    // A character cut at the sample's end is no fault of the text's.
    if broken && !text.ends_with(char::REPLACEMENT_CHARACTER) {
        return 0;
    }
    let (mut all, mut plain, mut spaces) = (0, 0, 0);
    for character in text.chars() {
        all += 1;
        plain += usize::from(
            character.is_alphanumeric()
                || character.is_whitespace()
                || character.is_ascii_punctuation()
                || matches!(character, '\u{2010}'..='\u{2027}' | '\u{3000}'..='\u{303f}'
                    | '\u{ff00}'..='\u{ffef}'),
        );
        spaces += usize::from(matches!(character, ' ' | '\n' | '、' | '。' | '，'));
    }
    if plain * 20 >= all * 19 { spaces } else { 0 }
}

/// Plain text.
pub fn plain(bytes: Vec<u8>) -> Result<Content, Unreadable> {
    Ok(Content {
        text: clean(&decode_owned(bytes)),
        ..Content::default()
    })
}

/// Markdown, kept as it is; its title is its front matter's or its first heading.
pub fn markdown(bytes: Vec<u8>) -> Result<Content, Unreadable> {
    let text = clean(&decode_owned(bytes));
    let front = front_matter(&text);
    let headings = markdown_headings(&text, front.map_or(0, |(_, end)| end));
    let title = front.and_then(|(front, _)| front_matter_title(front));
    let title = title.or_else(|| {
        headings
            .iter()
            .find(|h| h.level == 1)
            .map(|h| h.text.clone())
    });
    Ok(Content {
        text,
        title,
        headings,
        pages: None,
    })
}

/// What stands in a text's front matter, and where that ends. A rule that an empty line
/// follows begins none.
fn front_matter(text: &str) -> Option<(&str, usize)> {
    const OPENING: &str = "---\n";
    let body = text.strip_prefix(OPENING)?;
    let mut at = 0;
    for line in body.split_inclusive('\n') {
        match line.trim_end() {
            "---" | "..." => return Some((&body[..at], OPENING.len() + at + line.len())),
            "" if at == 0 => return None,
            _ => at += line.len(),
        }
    }
    None
}

fn front_matter_title(front: &str) -> Option<String> {
    front.lines().find_map(|line| {
        let value = line.strip_prefix("title:")?.trim();
        Some(value.trim_matches(['"', '\'']).to_owned())
    })
}

/// ATX and setext headings from `begin` on, outside of fenced code.
fn markdown_headings(text: &str, begin: usize) -> Vec<Heading> {
    let (mut offset, mut fence, mut found) = (begin, None, Vec::new());
    let mut previous = (begin, "");
    for line in text[begin..].split_inclusive('\n') {
        let trimmed = line.trim();
        let mark = ["```", "~~~"]
            .into_iter()
            .find(|mark| trimmed.starts_with(mark));
        let underline = |mark: char| {
            trimmed.len() >= 3 && trimmed.chars().all(|c| c == mark) && is_prose(previous.1)
        };
        let heading = |offset, level, text: &str| Heading {
            offset,
            level,
            text: text.to_owned(),
        };
        match (mark, fence) {
            (Some(mark), None) => fence = Some(mark),
            (Some(mark), Some(open)) if open == mark => fence = None,
            (_, Some(_)) => {}
            (None, None) => {
                if let Some((level, text)) = atx(trimmed) {
                    found.push(heading(offset, level, text));
                } else if underline('=') {
                    found.push(heading(previous.0, 1, previous.1));
                } else if underline('-') {
                    found.push(heading(previous.0, 2, previous.1));
                }
            }
        }
        previous = (offset, trimmed);
        offset += line.len();
    }
    found
}

/// Whether a line may be the text of a heading that is underlined.
fn is_prose(line: &str) -> bool {
    !line.is_empty()
        && line.len() < 200
        && !line.starts_with(['#', '|', '-', '*', '>', '=', '`', ':'])
}

fn atx(line: &str) -> Option<(u8, &str)> {
    let rest = line.trim_start_matches('#');
    let level = line.len() - rest.len();
    let heading = rest.trim().trim_end_matches('#').trim();
    ((1..=6).contains(&level) && rest.starts_with([' ', '\t']) && !heading.is_empty())
        .then_some((level as u8, heading))
}

/// Text as it is searched and shown: line ends as `\n`; form feeds kept, for they are the
/// marks of pages; no other control characters; ligatures as their letters; no marks that
/// nobody sees, such as soft hyphens, which would hide a word from the search.
pub fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => {
                if characters.peek() != Some(&'\n') {
                    cleaned.push('\n');
                }
            }
            '\n' | '\t' | '\u{c}' => cleaned.push(character),
            '\u{2028}' | '\u{2029}' | '\u{b}' => cleaned.push('\n'),
            '\u{a0}' | '\u{202f}' => cleaned.push(' '),
            '\u{fb00}' => cleaned.push_str("ff"),
            '\u{fb01}' => cleaned.push_str("fi"),
            '\u{fb02}' => cleaned.push_str("fl"),
            '\u{fb03}' => cleaned.push_str("ffi"),
            '\u{fb04}' => cleaned.push_str("ffl"),
            '\u{fb05}' | '\u{fb06}' => cleaned.push_str("st"),
            // Soft hyphen, zero-width space, word joiner, byte order mark, directions;
            // the joiners U+200C and U+200D stay, for scripts need them. Then what
            // Unicode keeps out of any text, of which this plugin makes marks.
            '\u{ad}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}'
            | '\u{fdd0}'..='\u{fdef}' => {}
            other if other.is_control() => cleaned.push(' '),
            other => cleaned.push(other),
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_told_apart() {
        let text = "Größe und Übermaß: straße, naïve café. Ein zweiter Satz, damit es genug ist.";
        assert_eq!(decode(text.as_bytes()), text);
        let latin1: Vec<u8> = text.chars().map(|c| c as u8).collect();
        assert_eq!(decode(&latin1), text);
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(decode(&utf16), text);
        let mut marked = vec![0xfe, 0xff];
        marked.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
        assert_eq!(decode(&marked), text);
        let wide = |mark: &[u8], write: fn(u32) -> [u8; 4]| {
            let mut bytes = mark.to_vec();
            bytes.extend(text.chars().flat_map(|c| write(c as u32)));
            decode(&bytes)
        };
        assert_eq!(wide(&[0xff, 0xfe, 0, 0], u32::to_le_bytes), text);
        assert_eq!(wide(&[0, 0, 0xfe, 0xff], u32::to_be_bytes), text);
    }

    #[test]
    fn encodings_of_east_asia_and_russia() {
        let japanese = "これは日本語の文章です。文字コードを判定します。\n";
        for encoding in [encoding_rs::SHIFT_JIS, encoding_rs::EUC_JP, ISO_2022_JP] {
            assert_eq!(decode(&encoding.encode(japanese).0), japanese);
        }
        let wide = |write: fn(u16) -> [u8; 2]| -> Vec<u8> {
            japanese.encode_utf16().flat_map(write).collect()
        };
        assert_eq!(decode(&wide(u16::to_le_bytes)), japanese);
        assert_eq!(decode(&wide(u16::to_be_bytes)), japanese);
        let russian = "Это обычный русский текст, по которому видно его кодировку.";
        for encoding in [encoding_rs::KOI8_R, encoding_rs::WINDOWS_1251] {
            assert_eq!(decode(&encoding.encode(russian).0), russian);
        }
        let wide: Vec<u8> = format!("{russian} 10 20 30")
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        assert!(decode(&wide).starts_with(russian));
    }

    #[test]
    fn encodings_of_china_taiwan_and_korea() {
        // Each with the bytes of its first two characters.
        for (encoding, text, first) in [
            (
                encoding_rs::GBK,
                "这是一段中文文字，用来检验编码的识别。今天天气很好，我们在图书馆里读了一整天的书。\n晚上大家一起吃饭，谈到了新的计划和明年的工作。\n",
                [0xd5_u8, 0xe2, 0xca, 0xc7],
            ),
            (
                encoding_rs::BIG5,
                "這是一段中文文字，用來檢驗編碼的辨識。今天天氣很好，我們在圖書館裡讀了一整天的書。\n晚上大家一起吃飯，談到了新的計畫和明年的工作。\n",
                [0xb3, 0x6f, 0xac, 0x4f],
            ),
            (
                encoding_rs::EUC_KR,
                "이것은 한국어로 쓴 글입니다. 문자 코드를 알아내는지 봅니다. 오늘은 날씨가 좋아서 우리는 도서관에서 하루 종일 책을 읽었습니다.\n저녁에는 모두 함께 밥을 먹으며 내년 계획을 이야기했습니다.\n",
                [0xc0, 0xcc, 0xb0, 0xcd],
            ),
        ] {
            let (bytes, _, lacks) = encoding.encode(text);
            assert!(!lacks && bytes.starts_with(&first), "{}", encoding.name());
            assert_eq!(decode(&bytes), text, "{}", encoding.name());
            // As a document, too.
            assert_eq!(
                crate::detect::format("letter.txt", &bytes).unwrap(),
                crate::detect::Format::Text
            );
            assert_eq!(plain(bytes.into_owned()).unwrap().text, text);
        }
    }

    #[test]
    fn a_bad_byte_does_not_change_the_encoding() {
        let mut bytes = "žluťoučký kůň úpěl ďábelské ódy ".repeat(5).into_bytes();
        bytes.push(0xff);
        assert!(decode(&bytes).starts_with("žluťoučký kůň"));
    }

    #[test]
    fn titles_of_markdown() {
        let title = |text: &str| markdown(text.as_bytes().to_vec()).unwrap().title;
        assert_eq!(
            title("intro\n\n# The title #\n"),
            Some("The title".to_owned())
        );
        assert_eq!(
            title("Old style\n=========\n"),
            Some("Old style".to_owned())
        );
        assert_eq!(
            title("---\ntitle: \"From front matter\"\n---\n# x"),
            Some("From front matter".to_owned())
        );
        assert_eq!(title("no heading"), None);
    }

    #[test]
    fn headings_of_markdown_lie_outside_of_code() {
        let text = "# One\n\n```sh\n# not this\n~~~\n```\n\nTwo\n---\n\n| a |\n---\n\n### Three\n#hashtag\n";
        let content = markdown(text.as_bytes().to_vec()).unwrap();
        let found: Vec<_> = content
            .headings
            .iter()
            .map(|h| (h.level, h.text.as_str()))
            .collect();
        assert_eq!(found, [(1, "One"), (2, "Two"), (3, "Three")]);
        for heading in &content.headings {
            assert!(
                content.text[heading.offset..]
                    .trim_start_matches(['#', ' '])
                    .starts_with(&heading.text)
            );
        }
    }

    #[test]
    fn front_matter_is_no_heading() {
        let found = |text: &str| -> Vec<(u8, String)> {
            let content = markdown(text.as_bytes().to_vec()).unwrap();
            for heading in &content.headings {
                let rest = content.text[heading.offset..].trim_start_matches(['#', ' ']);
                assert!(rest.starts_with(&heading.text), "{heading:?}");
            }
            let headings = content.headings.into_iter();
            headings.map(|h| (h.level, h.text)).collect()
        };
        let one = [(1_u8, "One".to_owned())];
        for text in [
            "---\ntitle: T\ndate: 2026-01-01\n---\n# One\n",
            "---\ntitle: T\n# a comment\n...\n\nOne\n===\n",
            "---\n---\n# One",
        ] {
            assert_eq!(found(text), one, "{text:?}");
        }
        // A rule, and front matter that does not end, are none.
        assert_eq!(found("---\n\n# One\n\n---\n"), one);
        assert_eq!(found("---\n# One\n"), one);
    }

    #[test]
    fn text_is_cleaned() {
        assert_eq!(clean("a\r\nb\rc\u{0}d\u{feff}"), "a\nb\nc d");
        assert_eq!(
            clean("e\u{fb03}cient co\u{ad}operation"),
            "efficient cooperation"
        );
        assert_eq!(clean("one\u{c}two\u{a0}three"), "one\u{c}two three");
        assert_eq!(
            clean("\u{202b}שלום\u{202c} می\u{200c}خواهم"),
            "שלום می\u{200c}خواهم"
        );
    }
}
