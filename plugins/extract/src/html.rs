//! HTML: its text as a reader would see it, without scripts and markup.

use html2text::config;
use html2text::render::TextDecorator;

use crate::{Content, Heading, Unreadable, text};

/// Elements nested deeper than this make the parser's work grow with the square of the
/// depth; pages that are, are read without a parser.
const MAX_DEPTH: usize = 1_000;

/// Larger pages are read without a parser: its tree takes twenty times a page's bytes.
const MAX_PARSED_BYTES: usize = 8 << 20;

/// Cells that span more columns or rows than this are not laid out: the parser makes room
/// for each.
const MAX_SPAN: u64 = 1_000;

/// Stands before a heading in the rendered text; [`text::clean`] leaves none in a page.
const HEADING_MARK: char = '\u{fdd0}';

/// Reads a page.
pub fn read(bytes: Vec<u8>) -> Result<Content, Unreadable> {
    let html = decode(bytes);
    let title = element_text(&html, "title");
    let parsed = html.len() <= MAX_PARSED_BYTES
        && nesting(&html) <= MAX_DEPTH
        && widest_span(&html) <= MAX_SPAN;
    let rendered = parsed
        .then(|| render(&without_marks(&html)))
        .flatten()
        .unwrap_or_else(|| strip(&without_marks(&html)));
    drop(html);
    let (text, headings) = headings(&rendered);
    Ok(Content {
        text,
        title,
        headings,
        pages: None,
    })
}

/// A page may name its own encoding; otherwise as any text.
fn decode(bytes: Vec<u8>) -> String {
    if text::marked(&bytes).is_none() && std::str::from_utf8(&bytes).is_err() {
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(2048)]).to_ascii_lowercase();
        if let Some((_, rest)) = head.split_once("charset=") {
            let label: String = rest
                .trim_start_matches(['"', '\''])
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':'))
                .collect();
            // A page that says UTF-8 and is not tells nothing.
            if let Some(encoding) = encoding_rs::Encoding::for_label(label.as_bytes())
                && encoding != encoding_rs::UTF_8
            {
                return encoding.decode(&bytes).0.into_owned();
            }
        }
    }
    text::decode_owned(bytes)
}

fn without_marks(html: &str) -> std::borrow::Cow<'_, str> {
    if html.contains(HEADING_MARK) {
        html.replace(HEADING_MARK, "").into()
    } else {
        html.into()
    }
}

fn render(html: &str) -> Option<String> {
    config::with_decorator(Plain)
        .raw_mode(true)
        .allow_width_overflow()
        .link_footnotes(false)
        .empty_img_mode(config::ImageRenderMode::IgnoreEmpty)
        // Wide enough that no sentence is broken in its middle.
        .string_from_read(html.as_bytes(), 100_000)
        .ok()
}

/// Shows what matters to a reader of passages: headings, and items of lists.
#[derive(Clone, Debug)]
struct Plain;

impl TextDecorator for Plain {
    type Annotation = ();

    fn decorate_link_start(&mut self, _url: &str) -> (String, ()) {
        (String::new(), ())
    }
    fn decorate_link_end(&mut self) -> String {
        String::new()
    }
    fn decorate_em_start(&self) -> (String, ()) {
        (String::new(), ())
    }
    fn decorate_em_end(&self) -> String {
        String::new()
    }
    fn decorate_strong_start(&self) -> (String, ()) {
        (String::new(), ())
    }
    fn decorate_strong_end(&self) -> String {
        String::new()
    }
    fn decorate_strikeout_start(&self) -> (String, ()) {
        (String::new(), ())
    }
    fn decorate_strikeout_end(&self) -> String {
        String::new()
    }
    fn decorate_code_start(&self) -> (String, ()) {
        (String::new(), ())
    }
    fn decorate_code_end(&self) -> String {
        String::new()
    }
    fn decorate_preformat_first(&self) {}
    fn decorate_preformat_cont(&self) {}
    fn decorate_image(&mut self, _src: &str, title: &str) -> (String, ()) {
        (title.to_owned(), ())
    }
    fn header_prefix(&self, level: usize) -> String {
        format!("{HEADING_MARK}{} ", level.min(6))
    }
    fn quote_prefix(&self) -> String {
        String::new()
    }
    fn unordered_item_prefix(&self) -> String {
        "- ".to_owned()
    }
    fn ordered_item_prefix(&self, i: i64) -> String {
        format!("{i}. ")
    }
    fn make_subblock_decorator(&self) -> Self {
        Self
    }
}

/// Takes the marks of headings out of a rendered text.
fn headings(rendered: &str) -> (String, Vec<Heading>) {
    let (mut text, mut found) = (String::with_capacity(rendered.len()), Vec::new());
    for line in rendered.split_inclusive('\n') {
        // A heading in a quote or a list has their prefix before it.
        let Some((before, rest)) = line.split_once(HEADING_MARK) else {
            text.push_str(&text::clean(line));
            continue;
        };
        let level = rest.bytes().next().unwrap_or(b'1').wrapping_sub(b'0');
        let rest = text::clean(rest.get(2..).unwrap_or_default());
        text.push_str(&text::clean(before));
        // A heading that is broken into lines has the mark on each of them.
        let offset = text.len();
        text.push_str(&rest);
        if rest.chars().any(char::is_alphanumeric) {
            found.push(Heading {
                offset,
                level: level.clamp(1, 6),
                text: rest.split_whitespace().collect::<Vec<_>>().join(" "),
            });
        }
    }
    (text, found)
}

/// The text between the tags, for pages that no parser should see: headings are marked,
/// blocks begin new lines, entities are decoded where they are common.
fn strip(html: &str) -> String {
    let mut text = String::with_capacity(html.len() / 2);
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        push_text(&rest[..at], &mut text);
        rest = &rest[at..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
            continue;
        }
        let after = &rest[1..];
        let closing = after.starts_with('/');
        let name: String = after
            .trim_start_matches('/')
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .take(20)
            .collect::<String>()
            .to_ascii_lowercase();
        if name.is_empty() && !after.starts_with(['/', '!', '?']) {
            text.push('<');
            rest = after;
            continue;
        }
        rest = after.find('>').map_or("", |end| &after[end + 1..]);
        match name.as_str() {
            "script" | "style" | "template" | "noscript" if !closing => {
                let end = find_closing(rest, &name);
                rest = &rest[end..];
            }
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => {
                text.push_str("\n\n");
                if !closing {
                    text.push(HEADING_MARK);
                    text.push_str(&name[1..]);
                    text.push(' ');
                }
            }
            "p" | "div" | "section" | "article" | "table" | "ul" | "ol" | "dl" | "pre"
            | "blockquote" => text.push_str("\n\n"),
            "br" | "tr" | "li" | "dt" | "dd" | "hr" | "title" | "option" => text.push('\n'),
            "td" | "th" => text.push('\t'),
            _ => {}
        }
    }
    push_text(rest, &mut text);
    text
}

/// Where the closing tag of that name begins; the end where there is none.
fn find_closing(html: &str, name: &str) -> usize {
    let mut from = 0;
    while let Some(at) = html[from..].find("</") {
        let place = from + at;
        let found = html.as_bytes().get(place + 2..place + 2 + name.len());
        if found.is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes())) {
            return place;
        }
        from = place + 2;
    }
    html.len()
}

fn push_text(part: &str, text: &mut String) {
    let mut rest = part;
    while let Some(at) = rest.find('&') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let decoded = rest
            .char_indices()
            .take(10)
            .find(|(_, c)| *c == ';')
            .and_then(|(end, _)| entity(&rest[..end]).map(|c| (c, end + 1)));
        match decoded {
            Some((character, length)) => {
                text.push(character);
                rest = &rest[length..];
            }
            None => text.push('&'),
        }
    }
    text.push_str(rest);
}

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => number.parse(),
        };
        return code.ok().and_then(char::from_u32);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "ndash" => '–',
        "mdash" => '—',
        "hellip" => '…',
        "copy" => '©',
        "auml" => 'ä',
        "ouml" => 'ö',
        "uuml" => 'ü',
        "Auml" => 'Ä',
        "Ouml" => 'Ö',
        "Uuml" => 'Ü',
        "szlig" => 'ß',
        "eacute" => 'é',
        "egrave" => 'è',
        "agrave" => 'à',
        "ccedil" => 'ç',
        _ => return None,
    })
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
        let name = part.trim_start_matches('/').as_bytes();
        let length = name
            .iter()
            .take(20)
            .take_while(|byte| byte.is_ascii_alphanumeric())
            .count();
        let name = &name[..length];
        if name.is_empty()
            || CLOSED_BY_THEMSELVES
                .iter()
                .any(|known| known.as_bytes().eq_ignore_ascii_case(name))
        {
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

/// The largest number that a `colspan` or `rowspan` says.
fn widest_span(html: &str) -> u64 {
    let digits = |rest: &str| {
        let rest = rest.trim_start_matches([' ', '"', '\'']);
        let end = rest.bytes().take_while(u8::is_ascii_digit).count();
        rest[..end]
            .parse()
            .unwrap_or(if end > 0 { u64::MAX } else { 0 })
    };
    ["span=", "SPAN=", "span =", "SPAN ="]
        .into_iter()
        .flat_map(|name| html.split(name).skip(1))
        .map(digits)
        .max()
        .unwrap_or(0)
}

/// The text of the first element of that name, without markup; looked for near the
/// beginning.
fn element_text(html: &str, name: &str) -> Option<String> {
    let mut end = html.len().min(256 << 10);
    while !html.is_char_boundary(end) {
        end -= 1;
    }
    // ASCII lower-casing keeps every offset.
    let lower = html[..end].to_ascii_lowercase();
    let open = lower.find(&format!("<{name}"))?;
    let start = open + lower[open..].find('>')? + 1;
    let end = start + lower[start..].find(&format!("</{name}"))?;
    let inner = html.get(start..end)?;
    let text = if inner.len() < 10_000 {
        render(&without_marks(inner))?
    } else {
        return None;
    };
    Some(text::clean(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "<!doctype html><html><head><title>A &amp; B</title><style>p{}</style>\
        <script>var hidden = 1 < 2;</script></head><body><h1>Head</h1>\
        <p>One <b>bold</b> word.</p><ul><li>first<li>second</ul>\
        <h2>The <i>second</i> head</h2><p>caf&eacute; &#x4e2d;</p></body></html>";

    fn read(page: &str) -> Content {
        super::read(page.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_page_becomes_its_text() {
        let content = read(PAGE);
        assert_eq!(content.title.as_deref().map(str::trim), Some("A & B"));
        for expected in ["Head", "One bold word.", "- first", "- second", "café 中"] {
            assert!(
                content.text.contains(expected),
                "{expected} in {:?}",
                content.text
            );
        }
        assert!(!content.text.contains("hidden"));
    }

    #[test]
    fn headings_have_their_place() {
        for content in [
            read(PAGE),
            read(&format!("{PAGE}{}", "<div>".repeat(MAX_DEPTH + 1))),
        ] {
            let found: Vec<_> = content
                .headings
                .iter()
                .map(|h| (h.level, h.text.as_str()))
                .collect();
            assert_eq!(found, [(1, "Head"), (2, "The second head")]);
            for heading in &content.headings {
                assert!(content.text[heading.offset..].starts_with(&heading.text));
            }
            assert!(!content.text.contains(HEADING_MARK));
        }
    }

    #[test]
    fn cells_that_span_the_world_take_no_room() {
        for span in ["colspan=1000000000", "rowspan=\"99999999999999999999\""] {
            let page = format!("<html><table><tr><td {span}>cell</td></tr></table>");
            assert_eq!(read(&page).text.trim(), "cell");
        }
    }

    #[test]
    fn a_declared_charset_is_used() {
        let mut page = b"<html><head><meta charset=\"iso-8859-2\"></head><body>".to_vec();
        page.extend([0xb3, 0xf3, 0x64, 0xbc]);
        assert!(super::read(page).unwrap().text.contains("łódź"));
    }

    #[test]
    fn endless_nesting_is_read_without_a_parser() {
        let page = format!(
            "{}deep &amp; dark 1 < 2 <!-- no --> text<script>if (a</b) x</script>",
            "<div>".repeat(100_000)
        );
        assert_eq!(read(&page).text.trim(), "deep & dark 1 < 2  text");
        let paragraphs = format!("<html>{}", "<p>text".repeat(5_000));
        assert_eq!(read(&paragraphs).text.matches("text").count(), 5_000);
    }
}
