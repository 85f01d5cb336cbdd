//! DOCX: Office Open XML (ECMA-376), read as a stream of its parts' events.

use std::io::{Cursor, Read};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use zip::ZipArchive;

use crate::{Content, Unreadable, text};

/// Bytes of one unpacked part. The text is far smaller; a bomb is not.
const MAX_PART_BYTES: u64 = 256 << 20;

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
    let mut text = String::new();
    for name in parts {
        let xml = part(&mut archive, &name)?;
        append_text(&xml, &mut text)?;
    }
    let title = match part(&mut archive, "docProps/core.xml") {
        Ok(xml) => core_title(&xml),
        Err(Unreadable::Damaged(_)) => None,
        Err(other) => return Err(other),
    };
    Ok(Content {
        text: text::clean(&text),
        title,
    })
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

fn part(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<String, Unreadable> {
    let damaged = |error: &dyn std::fmt::Display| Unreadable::Damaged(format!("{name}: {error}"));
    let file = archive.by_name(name).map_err(|error| damaged(&error))?;
    if file.encrypted() {
        return Err(Unreadable::Encrypted);
    }
    let mut bytes = Vec::new();
    // The size that an archive declares is whatever its maker wrote; the limit counts
    // what really comes out.
    file.take(MAX_PART_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| damaged(&error))?;
    if bytes.len() as u64 > MAX_PART_BYTES {
        return Err(Unreadable::TooLarge(format!(
            "{name} unpacks to more than {MAX_PART_BYTES} bytes"
        )));
    }
    // Parts may be UTF-16.
    Ok(text::decode(&bytes))
}

/// What the reader is inside of.
#[derive(Default)]
struct State {
    /// Depth inside elements whose text does not count: deleted or moved text, and the
    /// second copy that `mc:AlternateContent` holds for older readers.
    skipped: usize,
    /// Inside `w:t`.
    in_text: bool,
}

fn append_text(xml: &str, text: &mut String) -> Result<(), Unreadable> {
    let mut reader = Reader::from_str(xml);
    let mut state = State::default();
    loop {
        match reader.read_event() {
            Ok(Event::Start(element)) => start(&element, &mut state),
            Ok(Event::End(element)) => end(element.local_name().as_ref(), &mut state, text),
            Ok(Event::Empty(element)) if state.skipped == 0 => {
                match element.local_name().as_ref() {
                    "tab" => text.push('\t'),
                    "br" | "cr" | "p" => text.push('\n'),
                    "noBreakHyphen" => text.push('-'),
                    _ => {}
                }
            }
            Ok(Event::Text(part)) if state.in_text && state.skipped == 0 => {
                text.push_str(&part);
            }
            Ok(Event::GeneralRef(reference)) if state.in_text && state.skipped == 0 => {
                match reference.resolve_char_ref() {
                    Ok(Some(character)) => text.push(character),
                    _ => text.push_str(entity(reference.as_ref())),
                }
            }
            Ok(Event::CData(part)) if state.in_text && state.skipped == 0 => {
                text.push_str(&part);
            }
            Ok(Event::Eof) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(Unreadable::Damaged(error.to_string())),
        }
    }
}

fn is_skipped(name: &str) -> bool {
    matches!(
        name,
        "del" | "moveFrom" | "Fallback" | "delText" | "instrText"
    )
}

fn start(element: &BytesStart<'_>, state: &mut State) {
    let name = element.local_name();
    if state.skipped > 0 || is_skipped(name.as_ref()) {
        state.skipped += 1;
    } else if name.as_ref() == "t" {
        state.in_text = true;
    }
}

fn end(name: &str, state: &mut State, text: &mut String) {
    if state.skipped > 0 {
        state.skipped -= 1;
        return;
    }
    match name {
        "t" => state.in_text = false,
        "p" | "tr" => text.push('\n'),
        "tc" => text.push('\t'),
        _ => {}
    }
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
mod tests {
    use std::io::Write as _;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn archive(parts: &[(&str, &[u8])]) -> Vec<u8> {
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
