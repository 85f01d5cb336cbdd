//! What a document is: by its content first, since names lie, and by its name where the
//! content is text of any kind.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Unreadable;

/// A format that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Plain text in any common encoding.
    Text,
    /// Markdown.
    Markdown,
    /// HTML or XHTML.
    Html,
    /// PDF.
    Pdf,
    /// Office Open XML, as Word writes it.
    Docx,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Markdown => "markdown",
            Self::Html => "html",
            Self::Pdf => "pdf",
            Self::Docx => "docx",
        })
    }
}

/// The format of a document.
pub fn format(name: &str, bytes: &[u8]) -> Result<Format, Unreadable> {
    if bytes.is_empty() {
        return Err(Unreadable::NoText);
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return if crate::docx::is_docx(bytes) {
            Ok(Format::Docx)
        } else {
            Err(Unreadable::Unsupported(
                "a ZIP archive or another Office format".to_owned(),
            ))
        };
    }
    let binary = looks_binary(bytes);
    if is_pdf(bytes, binary) {
        return Ok(Format::Pdf);
    }
    if bytes.starts_with(&[0xd0, 0xcf, 0x11, 0xe0]) {
        // The container of old Office files, and of encrypted new ones.
        let encrypted: Vec<u8> = "EncryptedPackage"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        return if bytes
            .windows(encrypted.len())
            .any(|window| window == encrypted)
        {
            Err(Unreadable::Encrypted)
        } else {
            Err(Unreadable::Unsupported(
                "an Office document of before 2007".to_owned(),
            ))
        };
    }
    if binary {
        let what = infer::get(bytes).map_or_else(
            || "binary content of an unknown kind".to_owned(),
            |kind| format!("{} content", kind.mime_type()),
        );
        return Err(Unreadable::Unsupported(what));
    }
    // Text from here on: a text may begin with any two letters, so only what nobody
    // begins a text with by chance counts.
    for (mark, what) in [
        ("{\\rtf", "Rich Text (RTF)"),
        ("%!PS", "PostScript"),
        ("-----BEGIN CERTIFICATE", "a certificate"),
    ] {
        if bytes.starts_with(mark.as_bytes()) {
            return Err(Unreadable::Unsupported(what.to_owned()));
        }
    }
    Ok(text_format(name, bytes))
}

/// Readers accept junk before the header (the specification's implementation notes
/// allow 1,024 bytes), and such files exist; so do texts that speak of PDF.
fn is_pdf(bytes: &[u8], binary: bool) -> bool {
    let head = &bytes[..bytes.len().min(1024)];
    let Some(at) = head.windows(5).position(|window| window == b"%PDF-") else {
        return false;
    };
    let tail = &bytes[bytes.len().saturating_sub(2048)..];
    at == 0 || binary || tail.windows(9).any(|window| window == b"startxref")
}

fn text_format(name: &str, bytes: &[u8]) -> Format {
    let head = crate::text::decode(&bytes[..bytes.len().min(1024) & !3]).to_ascii_lowercase();
    let extension = name
        .rsplit('/')
        .next()
        .and_then(|name| name.rsplit_once('.'))
        .map(|(_, extension)| extension.to_ascii_lowercase());
    let start = head.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if start.starts_with("<!doctype html") || start.starts_with("<html") {
        return Format::Html;
    }
    match extension.as_deref() {
        // Markdown and text may begin with elements of HTML, and remain what they are.
        Some("md" | "markdown" | "mkd" | "mdown") => Format::Markdown,
        Some("html" | "htm" | "xhtml" | "shtml") => Format::Html,
        _ if start.starts_with('<') && head.contains("<html") => Format::Html,
        _ => Format::Text,
    }
}

/// Text in any encoding has few control characters; UTF-16 has its zeros in order.
fn looks_binary(bytes: &[u8]) -> bool {
    if crate::text::marked(bytes).is_some() {
        return false;
    }
    let sample = &bytes[..bytes.len().min(8192)];
    if crate::text::utf16_without_mark(sample).is_some() {
        return false;
    }
    let control = sample
        .iter()
        .filter(|byte| matches!(byte, 0..=7 | 14..=26 | 28..=31 | 127))
        .count();
    sample.contains(&0) || control * 50 > sample.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_goes_over_the_name() {
        assert_eq!(format("a.txt", b"%PDF-1.4 ...").unwrap(), Format::Pdf);
        assert_eq!(format("a.pdf", b"just text").unwrap(), Format::Text);
        assert_eq!(
            format("a.txt", b"\n <!DOCTYPE HTML><p>x").unwrap(),
            Format::Html
        );
        assert_eq!(
            format("a.txt", b"<?xml version='1.0'?><!-- x --><html>").unwrap(),
            Format::Html
        );
        assert_eq!(format("notes.MD", b"# x").unwrap(), Format::Markdown);
        assert_eq!(format("x/y.d/name", b"plain").unwrap(), Format::Text);
    }

    #[test]
    fn a_text_stays_one_whatever_it_begins_with() {
        for text in [
            "BMW and other makers",
            "MZ stands for Mark Zbikowski",
            "ID3 tags explained",
            "II* is a mark of TIFF files",
            "GIF89a is a format of pictures",
            "A PDF begins with %PDF-1.7, as its specification says.",
            "An <html> element holds a page.",
        ] {
            assert_eq!(format("a.txt", text.as_bytes()), Ok(Format::Text), "{text}");
        }
        for text in [
            "<p align=\"center\">\n\n# Name\n",
            "<!-- a comment -->\n# Name\n",
            "<div>\n\n# Name\n\nuse `<html>`",
        ] {
            assert_eq!(
                format("README.md", text.as_bytes()),
                Ok(Format::Markdown),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_read_says_so() {
        for bytes in [
            &b"\x89PNG\r\n\x1a\n\0\0\0\0"[..],
            b"\x7fELF\x02\x01\x01\0\0",
            b"PK\x03\x04junk",
            b"\x00\x01\x02\x03\x04binary",
            b"{\\rtf1\\ansi text}",
        ] {
            assert!(
                matches!(format("a.txt", bytes), Err(Unreadable::Unsupported(_))),
                "{bytes:?}"
            );
        }
        assert_eq!(format("a.txt", b""), Err(Unreadable::NoText));
    }
}
