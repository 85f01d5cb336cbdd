//! HTML: its text as a reader would see it, without scripts and markup.

use html2text::config;

use crate::{Content, Unreadable, text};

/// Elements nested deeper than this make the parser's work grow with the square of the
/// depth; real pages stay far below.
const MAX_DEPTH: usize = 1_000;

/// Reads a page.
pub fn read(bytes: &[u8]) -> Result<Content, Unreadable> {
    let html = decode(bytes);
    let depth = nesting(&html);
    if depth > MAX_DEPTH {
        let detail = format!("elements are nested {depth} deep, more than {MAX_DEPTH}");
        return Err(Unreadable::TooLarge(detail));
    }
    let title = element_text(&html, "title");
    let rendered = config::plain_no_decorate()
        .raw_mode(true)
        .allow_width_overflow()
        .link_footnotes(false)
        .empty_img_mode(config::ImageRenderMode::IgnoreEmpty)
        // Wide enough that no sentence is broken in its middle.
        .string_from_read(html.as_bytes(), 100_000)
        .map_err(|error| Unreadable::Damaged(error.to_string()))?;
    Ok(Content {
        text: text::clean(&rendered),
        title,
    })
}

/// A page may name its own encoding; otherwise as any text.
fn decode(bytes: &[u8]) -> String {
    if encoding_rs::Encoding::for_bom(bytes).is_none() && std::str::from_utf8(bytes).is_err() {
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(2048)]).to_ascii_lowercase();
        if let Some((_, rest)) = head.split_once("charset=") {
            let label: String = rest
                .trim_start_matches(['"', '\''])
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':'))
                .collect();
            if let Some(encoding) = encoding_rs::Encoding::for_label(label.as_bytes()) {
                return encoding.decode(bytes).0.into_owned();
            }
        }
    }
    text::decode(bytes)
}

/// How deep elements are nested, counting only those that a parser does not close by
/// itself.
fn nesting(html: &str) -> usize {
    const CLOSED_BY_THEMSELVES: &[&str] = &[
        "area", "base", "br", "col", "colgroup", "dd", "dt", "embed", "hr", "img", "input", "li",
        "link", "meta", "optgroup", "option", "p", "param", "rp", "rt", "source", "tbody", "td",
        "tfoot", "th", "thead", "tr", "track", "wbr",
    ];
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    for part in html.split('<').skip(1) {
        let closing = part.starts_with('/');
        let name: String = part
            .trim_start_matches('/')
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .take(20)
            .collect::<String>()
            .to_ascii_lowercase();
        if name.is_empty() || CLOSED_BY_THEMSELVES.contains(&name.as_str()) {
            continue;
        }
        let tag = part.split('>').next().unwrap_or(part);
        if closing {
            depth = depth.saturating_sub(1);
        } else if !tag.ends_with('/') {
            depth += 1;
            deepest = deepest.max(depth);
        }
    }
    deepest
}

/// The text of the first element of that name, without markup.
fn element_text(html: &str, name: &str) -> Option<String> {
    // ASCII lower-casing keeps every offset.
    let lower = html.to_ascii_lowercase();
    let open = lower.find(&format!("<{name}"))?;
    let start = open + lower[open..].find('>')? + 1;
    let end = start + lower[start..].find(&format!("</{name}"))?;
    let inner = html.get(start..end)?;
    config::plain_no_decorate()
        .raw_mode(true)
        .allow_width_overflow()
        .string_from_read(inner.as_bytes(), 10_000)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_becomes_its_text() {
        let page = "<!doctype html><html><head><title>A &amp; B</title><style>p{}</style>\
                    <script>var hidden = 1;</script></head><body><h1>Head</h1>\
                    <p>One <b>bold</b> word.</p><ul><li>first<li>second</ul></body></html>";
        let content = read(page.as_bytes()).unwrap();
        assert_eq!(content.title.as_deref().map(str::trim), Some("A & B"));
        for expected in ["Head", "One bold word.", "first", "second"] {
            assert!(
                content.text.contains(expected),
                "{expected} in {:?}",
                content.text
            );
        }
        assert!(!content.text.contains("hidden"));
    }

    #[test]
    fn a_declared_charset_is_used() {
        let mut page = b"<html><head><meta charset=\"iso-8859-2\"></head><body>".to_vec();
        page.extend([0xb3, 0xf3, 0x64, 0xbc]);
        assert!(read(&page).unwrap().text.contains("łódź"));
    }

    #[test]
    fn endless_nesting_is_refused() {
        let page = "<div>".repeat(100_000);
        assert!(matches!(
            read(page.as_bytes()),
            Err(Unreadable::TooLarge(_))
        ));
        let paragraphs = format!("<html>{}", "<p>text".repeat(5_000));
        assert!(read(paragraphs.as_bytes()).is_ok());
    }
}
