//! Plain text and Markdown, in whatever encoding.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use crate::{Content, Unreadable};

/// Decodes bytes: a byte order mark, then UTF-8, then UTF-16 by its zeros, then a guess
/// among the legacy encodings.
pub fn decode(bytes: &[u8]) -> String {
    let encoding = if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        encoding
    } else if std::str::from_utf8(bytes).is_ok() {
        UTF_8
    } else if let Some(encoding) = utf16_without_mark(bytes) {
        encoding
    } else {
        let mut detector = chardetng::EncodingDetector::new(chardetng::Iso2022JpDetection::Allow);
        // More than this changes no guess and costs time.
        let sample = &bytes[..bytes.len().min(1 << 20)];
        detector.feed(sample, true);
        detector.guess(None, chardetng::Utf8Detection::Allow)
    };
    encoding.decode(bytes).0.into_owned()
}

/// UTF-16 without a mark: text in any script that uses spaces or line ends has zeros in
/// either the even or the odd places, hardly any in the others.
pub fn utf16_without_mark(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(4096) & !1];
    if sample.len() < 4 {
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
        Some(UTF_16LE)
    } else if even * 10 > half * 4 && odd * 50 < half {
        Some(UTF_16BE)
    } else {
        None
    }
}

/// Plain text.
pub fn plain(bytes: &[u8]) -> Result<Content, Unreadable> {
    Ok(Content {
        text: clean(&decode(bytes)),
        title: None,
    })
}

/// Markdown, kept as it is; its title is its front matter's or its first heading.
pub fn markdown(bytes: &[u8]) -> Result<Content, Unreadable> {
    let text = clean(&decode(bytes));
    let title = front_matter_title(&text).or_else(|| first_heading(&text));
    Ok(Content { text, title })
}

fn front_matter_title(text: &str) -> Option<String> {
    let body = text.strip_prefix("---\n")?;
    let end = body.find("\n---")?;
    body[..end].lines().find_map(|line| {
        let value = line.strip_prefix("title:")?.trim();
        Some(value.trim_matches(['"', '\'']).to_owned())
    })
}

fn first_heading(text: &str) -> Option<String> {
    let mut previous = "";
    for line in text.lines().take(200) {
        if let Some(heading) = line.strip_prefix("# ") {
            return Some(heading.trim().trim_end_matches('#').trim().to_owned());
        }
        if !previous.trim().is_empty() && line.len() >= 3 && line.bytes().all(|byte| byte == b'=') {
            return Some(previous.trim().to_owned());
        }
        previous = line;
    }
    None
}

/// Line ends as `\n`; no control characters but tab and line end, which no index wants.
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
            '\u{feff}' => {}
            '\n' | '\t' => cleaned.push(character),
            '\u{c}' => cleaned.push('\n'),
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
        let (japanese, _, _) =
            encoding_rs::SHIFT_JIS.encode("これは日本語の文章です。文字コードを判定します。");
        assert_eq!(
            decode(&japanese),
            "これは日本語の文章です。文字コードを判定します。"
        );
    }

    #[test]
    fn titles_of_markdown() {
        let title = |text: &str| markdown(text.as_bytes()).unwrap().title;
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
    fn line_ends_and_controls() {
        assert_eq!(clean("a\r\nb\rc\u{0}d\u{feff}"), "a\nb\nc d");
    }
}
