//! DOCX: Office Open XML (ECMA-376), read as a stream of its parts' events.

use std::collections::HashMap;
use std::io::{Cursor, Read};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use zip::ZipArchive;
use zip::result::ZipError;

use crate::{Content, Heading, Unreadable, text};

/// Bytes of all unpacked parts together. The text is far smaller; a bomb is not.
const MAX_UNPACKED_BYTES: u64 = 128 << 20;

/// Whether a ZIP archive is a Word document.
pub fn is_docx(bytes: &[u8]) -> bool {
    ZipArchive::new(Cursor::new(bytes)).is_ok_and(|archive| {
        archive
            .file_names()
            .any(|name| name.is_ok_and(|name| name.eq_ignore_ascii_case("word/document.xml")))
    })
}

/// Reads the body, then footnotes, endnotes, headers, footers and comments.
pub fn read(bytes: &[u8]) -> Result<Content, Unreadable> {
    read_limited(bytes, MAX_UNPACKED_BYTES)
}

fn read_limited(bytes: &[u8], limit: u64) -> Result<Content, Unreadable> {
    let mut archive = ZipArchive::new(Cursor::new(bytes))
        .map_err(|error| Unreadable::Damaged(error.to_string()))?;
    let mut parts: Vec<String> = archive
        .file_names()
        .filter_map(Result::ok)
        .filter(|name| is_text_part(name))
        .map(|name| name.into_owned())
        .collect();
    // The body first, the others after it in a fixed order.
    parts.sort_by_key(|name| (!name.ends_with("document.xml"), name.clone()));
    let mut left = limit;
    let levels = match part(&mut archive, "word/styles.xml", &mut left) {
        Ok(xml) => heading_styles(&xml),
        Err(Unreadable::Damaged(_)) => HashMap::new(),
        Err(other) => return Err(other),
    };
    let mut content = Content::default();
    for name in parts {
        let xml = part(&mut archive, &name, &mut left)?;
        Body::new(&levels, &mut content).read(&xml)?;
    }
    content.title = match part(&mut archive, "docProps/core.xml", &mut left) {
        Ok(xml) => core_title(&xml),
        Err(Unreadable::Damaged(_)) => None,
        Err(other) => return Err(other),
    };
    Ok(content)
}

fn is_text_part(name: &str) -> bool {
    let Some(file) = name.strip_prefix("word/") else {
        return false;
    };
    file == "document.xml"
        || (!file.contains('/')
            && file.ends_with(".xml")
            && ["footnotes", "endnotes", "comments", "header", "footer"]
                .iter()
                .any(|prefix| file.starts_with(prefix)))
}

fn part(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    name: &str,
    left: &mut u64,
) -> Result<String, Unreadable> {
    let damaged = |error: &dyn std::fmt::Display| Unreadable::Damaged(format!("{name}: {error}"));
    let file = archive.by_name(name).map_err(|error| match error {
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => Unreadable::Encrypted,
        other => damaged(&other),
    })?;
    let mut bytes = Vec::new();
    // The size that an archive declares is whatever its maker wrote; the limit counts
    // what really comes out.
    file.take(*left + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| damaged(&error))?;
    *left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
        Unreadable::TooLarge(format!(
            "its parts unpack to more than {MAX_UNPACKED_BYTES} bytes"
        ))
    })?;
    // Parts may be UTF-16.
    Ok(text::decode_owned(bytes))
}

/// The heading level of each style that has one. The ids of styles are in the language
/// of who wrote the document; the names of the built-in ones are English.
fn heading_styles(xml: &str) -> HashMap<String, u8> {
    let mut reader = Reader::from_str(xml);
    let mut levels = HashMap::new();
    let mut style: Option<String> = None;
    loop {
        match reader.read_event() {
            Ok(Event::Start(element) | Event::Empty(element)) => {
                match element.local_name().as_ref() {
                    "style" => style = attribute(&element, "styleId"),
                    "name" => {
                        let level = attribute(&element, "val").and_then(|name| heading_name(&name));
                        if let (Some(style), Some(level)) = (&style, level) {
                            levels.insert(style.clone(), level);
                        }
                    }
                    "outlineLvl" => {
                        if let (Some(style), Some(level)) = (&style, outline_level(&element)) {
                            levels.entry(style.clone()).or_insert(level);
                        }
                    }
                    _ => {}
                }
            }
            Ok(Event::Eof) | Err(_) => return levels,
            Ok(_) => {}
        }
    }
}

fn heading_name(name: &str) -> Option<u8> {
    let name = name.to_ascii_lowercase();
    if name == "title" {
        return Some(1);
    }
    let level = name.strip_prefix("heading ")?.trim().parse().ok()?;
    (1..=9).contains(&level).then_some(level)
}

/// `w:outlineLvl` counts from 0, and 9 is body text.
fn outline_level(element: &BytesStart<'_>) -> Option<u8> {
    let level: u8 = attribute(element, "val")?.parse().ok()?;
    (level < 9).then_some(level + 1)
}

/// The value of the attribute of that local name.
fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    element
        .attributes()
        .flatten()
        .find(|attribute| attribute.key.local_name().as_ref() == name)
        .map(|attribute| attribute.value.into_owned())
}

/// Reads one part and appends its text.
struct Body<'a> {
    levels: &'a HashMap<String, u8>,
    content: &'a mut Content,
    /// Depth inside elements whose text does not count: deleted or moved text, and the
    /// second copy that `mc:AlternateContent` holds for older readers.
    skipped: usize,
    /// Inside `w:t`.
    in_text: bool,
    /// Depth of table cells: their paragraphs stay on the row's line.
    cells: usize,
    /// The paragraph's text so far, where it is not cleaned yet.
    paragraph: String,
    heading: Option<u8>,
    /// The level of the list that the paragraph is an item of.
    item: Option<usize>,
}

impl<'a> Body<'a> {
    fn new(levels: &'a HashMap<String, u8>, content: &'a mut Content) -> Self {
        Self {
            levels,
            content,
            skipped: 0,
            in_text: false,
            cells: 0,
            paragraph: String::new(),
            heading: None,
            item: None,
        }
    }

    fn read(mut self, xml: &str) -> Result<(), Unreadable> {
        let mut reader = Reader::from_str(xml);
        loop {
            match reader.read_event() {
                Ok(Event::Start(element)) => self.start(&element),
                Ok(Event::End(element)) => self.end(element.local_name().as_ref()),
                Ok(Event::Empty(element)) if self.skipped == 0 => self.empty(&element),
                Ok(Event::Text(part)) if self.in_text && self.skipped == 0 => {
                    self.paragraph.push_str(&part);
                }
                Ok(Event::GeneralRef(reference)) if self.in_text && self.skipped == 0 => {
                    match reference.resolve_char_ref() {
                        Ok(Some(character)) => self.paragraph.push(character),
                        _ => self.paragraph.push_str(entity(reference.as_ref())),
                    }
                }
                Ok(Event::CData(part)) if self.in_text && self.skipped == 0 => {
                    self.paragraph.push_str(&part);
                }
                Ok(Event::Eof) => {
                    // A part that ends early keeps what it had.
                    if !self.paragraph.is_empty() {
                        self.flush("\n");
                    }
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => return Err(Unreadable::Damaged(error.to_string())),
            }
        }
    }

    fn start(&mut self, element: &BytesStart<'_>) {
        let name = element.local_name();
        if self.skipped > 0 || is_skipped(name.as_ref()) {
            self.skipped += 1;
            return;
        }
        match name.as_ref() {
            "t" => self.in_text = true,
            "tc" => self.cells += 1,
            "p" => {
                self.heading = None;
                self.item = None;
            }
            // Not always empty elements.
            _ => self.property(element),
        }
    }

    fn empty(&mut self, element: &BytesStart<'_>) {
        match element.local_name().as_ref() {
            "tab" => self.paragraph.push('\t'),
            "br" | "cr" => self.paragraph.push('\n'),
            "p" => self.flush("\n"),
            "noBreakHyphen" => self.paragraph.push('-'),
            _ => self.property(element),
        }
    }

    /// What a paragraph is.
    fn property(&mut self, element: &BytesStart<'_>) {
        match element.local_name().as_ref() {
            "pStyle" => {
                if let Some(style) = attribute(element, "val") {
                    self.heading = self.levels.get(&style).copied();
                }
            }
            "outlineLvl" => self.heading = outline_level(element),
            "numPr" => self.item = self.item.or(Some(0)),
            "ilvl" => {
                self.item = attribute(element, "val").and_then(|level| level.parse().ok());
            }
            // The number of no list ends what a style began.
            "numId" if attribute(element, "val").as_deref() == Some("0") => self.item = None,
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        if self.skipped > 0 {
            self.skipped -= 1;
            return;
        }
        match name {
            "t" => self.in_text = false,
            "p" if self.cells > 0 => self.flush(" "),
            "p" => self.flush("\n"),
            "tc" => {
                self.cells = self.cells.saturating_sub(1);
                self.flush("");
                trim_spaces(&mut self.content.text);
                self.content.text.push('\t');
            }
            "tr" => {
                while self.content.text.ends_with(['\t', ' ']) {
                    self.content.text.pop();
                }
                self.content.text.push('\n');
            }
            _ => {}
        }
    }

    /// Ends a paragraph.
    fn flush(&mut self, end: &str) {
        let paragraph = text::clean(&self.paragraph);
        self.paragraph.clear();
        let shown = paragraph.chars().any(char::is_alphanumeric);
        if let Some(level) = self.heading.take()
            && shown
            && self.cells == 0
        {
            self.content.headings.push(Heading {
                offset: self.content.text.len(),
                level: level.min(6),
                text: paragraph.split_whitespace().collect::<Vec<_>>().join(" "),
            });
        } else if let Some(level) = self.item.take()
            && shown
        {
            self.content.text.push_str(&"  ".repeat(level.min(8)));
            self.content.text.push_str("- ");
        }
        self.content.text.push_str(&paragraph);
        self.content.text.push_str(end);
    }
}

fn trim_spaces(text: &mut String) {
    while text.ends_with(' ') {
        text.pop();
    }
}

fn is_skipped(name: &str) -> bool {
    matches!(
        name,
        "del" | "moveFrom" | "Fallback" | "delText" | "instrText"
    )
}

fn entity(name: &str) -> &'static str {
    match name {
        "amp" => "&",
        "lt" => "<",
        "gt" => ">",
        "quot" => "\"",
        "apos" => "'",
        _ => "",
    }
}

/// `dc:title` of the core properties.
fn core_title(xml: &str) -> Option<String> {
    let start = xml.find("<dc:title>")? + "<dc:title>".len();
    let end = start + xml[start..].find("</dc:title>")?;
    let mut title = xml[start..end].to_owned();
    for (from, to) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ] {
        title = title.replace(from, to);
    }
    Some(title)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    pub fn archive(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in parts {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn body(inner: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><w:document xmlns:w=\"w\" xmlns:mc=\"mc\"><w:body>{inner}</w:body></w:document>"
        )
    }

    #[test]
    fn paragraphs_notes_and_title() {
        let document = body(
            "<w:p><w:r><w:t>First &amp; </w:t></w:r><w:r><w:t xml:space=\"preserve\">best</w:t><w:tab/><w:t>&#x4e2d;</w:t></w:r></w:p>\
             <w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:r><w:t>kept</w:t></w:r></w:p>\
             <mc:AlternateContent><mc:Choice><w:p><w:t>once</w:t></w:p></mc:Choice><mc:Fallback><w:p><w:t>once</w:t></w:p></mc:Fallback></mc:AlternateContent>",
        );
        let notes = body("<w:p><w:t>a note</w:t></w:p>");
        let bytes = archive(&[
            ("word/footnotes.xml", notes.as_bytes()),
            ("word/document.xml", document.as_bytes()),
            ("docProps/core.xml", b"<x><dc:title>Q&amp;A</dc:title></x>"),
        ]);
        assert!(is_docx(&bytes));
        let content = read(&bytes).unwrap();
        assert_eq!(content.title.as_deref(), Some("Q&A"));
        assert_eq!(content.text, "First & best\t中\nkept\nonce\na note\n");
    }

    #[test]
    fn headings_lists_and_tables() {
        let document = body(
            "<w:p><w:pPr><w:pStyle w:val=\"berschrift1\"/></w:pPr><w:r><w:t>Kapitel</w:t></w:r></w:p>\
             <w:p><w:pPr><w:numPr><w:ilvl w:val=\"0\"/><w:numId w:val=\"3\"/></w:numPr></w:pPr><w:t>one</w:t></w:p>\
             <w:p><w:pPr><w:numPr><w:ilvl w:val=\"1\"/><w:numId w:val=\"3\"/></w:numPr></w:pPr><w:t>two</w:t></w:p>\
             <w:tbl><w:tr><w:tc><w:p><w:t>a</w:t></w:p><w:p><w:t>b</w:t></w:p></w:tc><w:tc><w:p><w:t>c</w:t></w:p></w:tc></w:tr></w:tbl>\
             <w:p><w:pPr><w:outlineLvl w:val=\"1\"/></w:pPr><w:t>Part</w:t></w:p><w:p><w:t>end</w:t></w:p>",
        );
        let styles = b"<w:styles xmlns:w=\"w\"><w:style w:styleId=\"berschrift1\">\
            <w:name w:val=\"heading 1\"/></w:style></w:styles>";
        let bytes = archive(&[
            ("word/document.xml", document.as_bytes()),
            ("word/styles.xml", styles),
        ]);
        let content = read(&bytes).unwrap();
        assert_eq!(content.text, "Kapitel\n- one\n  - two\na b\tc\nPart\nend\n");
        let found: Vec<_> = content
            .headings
            .iter()
            .map(|h| (h.level, &content.text[h.offset..h.offset + h.text.len()]))
            .collect();
        assert_eq!(found, [(1, "Kapitel"), (2, "Part")]);
    }

    #[test]
    fn bombs_are_too_large() {
        let spaces = vec![b' '; 600];
        let document = body("<w:p><w:t>small</w:t></w:p>");
        let bytes = archive(&[
            ("word/document.xml", document.as_bytes()),
            ("word/header1.xml", &spaces),
        ]);
        assert!(read_limited(&bytes, 1_000).is_ok());
        assert!(matches!(
            read_limited(&bytes, 700),
            Err(Unreadable::TooLarge(_))
        ));
    }

    #[test]
    fn utf16_parts() {
        let document = body("<w:p><w:t>wide enough to tell</w:t></w:p>");
        let mut wide = vec![0xff, 0xfe];
        wide.extend(document.encode_utf16().flat_map(u16::to_le_bytes));
        let bytes = archive(&[("word/document.xml", &wide)]);
        assert_eq!(read(&bytes).unwrap().text.trim(), "wide enough to tell");
    }

    #[test]
    fn damaged_archives_fail() {
        let bytes = archive(&[("word/document.xml", b"<w:p><w:t>never closed")]);
        // A part that ends early keeps what it had.
        assert!(
            read(&bytes).is_ok_and(|content| content.text.contains("never closed"))
                || read(&bytes).is_err()
        );
        assert!(matches!(
            read(b"PK\x03\x04nothing"),
            Err(Unreadable::Damaged(_))
        ));
        assert!(!is_docx(b"PK\x03\x04nothing"));
    }
}
