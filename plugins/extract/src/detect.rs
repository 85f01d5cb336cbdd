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
    // Readers accept junk before the header (the specification's implementation notes
    // allow 1,024 bytes), and such files exist.
    let head = &bytes[..bytes.len().min(1024)];
    if head.windows(5).any(|window| window == b"%PDF-") {
        return Ok(Format::Pdf);
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
    if let Some(kind) = infer::get(bytes) {
        match kind.mime_type() {
            "text/html" => return Ok(Format::Html),
            "text/xml" | "text/x-shellscript" => {}
            other => return Err(Unreadable::Unsupported(format!("{other} content"))),
        }
    }
    if looks_binary(bytes) {
        return Err(Unreadable::Unsupported(
            "binary content of an unknown kind".to_owned(),
        ));
    }
    let lower = String::from_utf8_lossy(head).to_ascii_lowercase();
    let start = lower.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if start.starts_with("<!doctype html") || start.starts_with("<html") || lower.contains("<html")
    {
        return Ok(Format::Html);
    }
    let extension = name
        .rsplit('/')
        .next()
        .and_then(|name| name.rsplit_once('.'))
        .map(|(_, e)| e.to_ascii_lowercase());
    Ok(match extension.as_deref() {
        Some("md" | "markdown" | "mkd") => Format::Markdown,
        Some("html" | "htm" | "xhtml") => Format::Html,
        _ => Format::Text,
    })
}

/// Text in any encoding has few control characters; UTF-16 has its zeros in order.
fn looks_binary(bytes: &[u8]) -> bool {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return false;
    }
    let sample = &bytes[..bytes.len().min(8192)];
    if crate::text::utf16_without_mark(sample).is_some() {
        return false;
    }
    let control = sample
        .iter()
        .filter(|byte| matches!(byte, 0..=8 | 14..=26 | 28..=31 | 127))
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
        assert_eq!(format("notes.MD", b"# x").unwrap(), Format::Markdown);
        assert_eq!(format("x/y.d/name", b"plain").unwrap(), Format::Text);
    }

    #[test]
    fn what_is_not_read_says_so() {
        for bytes in [
            &b"\x89PNG\r\n\x1a\n0000"[..],
            b"\x7fELF\x02\x01\x01",
            b"PK\x03\x04junk",
            b"\x00\x01\x02\x03\x04binary",
        ] {
            assert!(
                matches!(format("a.txt", bytes), Err(Unreadable::Unsupported(_))),
                "{bytes:?}"
            );
        }
        assert_eq!(format("a.txt", b""), Err(Unreadable::NoText));
    }
}
