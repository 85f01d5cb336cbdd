//! PDF.

use unpdf::model::Block;
use unpdf::{Error, Unpdf};

use crate::{Content, Heading, Unreadable, text};

/// Reads a document's text, page after page. A form feed stands before each page but the
/// first, so that the page of any place in the text is known.
pub fn read(bytes: &[u8]) -> Result<Content, Unreadable> {
    // Lenient: a page that cannot be read does not take the others with it.
    let result = Unpdf::new()
        .lenient()
        .sequential()
        .parse_bytes(bytes)
        .map_err(unreadable)?;
    let document = result.document();
    let mut content = Content {
        title: document.metadata.title.as_deref().and_then(title),
        pages: Some(u64::from(document.page_count())),
        ..Content::default()
    };
    let mut number = 1;
    for page in &document.pages {
        // A page that could not be read is counted all the same.
        while number < page.number {
            content.text.push('\u{c}');
            number += 1;
        }
        content.pages = content.pages.max(Some(u64::from(number)));
        for block in &page.elements {
            let offset = content.text.len();
            let mut piece = String::new();
            block.append_plain_text(&mut piece);
            // Only page breaks are form feeds.
            let piece = text::clean(&piece).replace('\u{c}', "\n");
            let piece = piece.trim();
            if piece.is_empty() {
                continue;
            }
            if let Block::Paragraph(paragraph) = block
                && let Some(level) = paragraph.heading_level()
                && piece.chars().any(char::is_alphanumeric)
            {
                content.headings.push(Heading {
                    offset,
                    level,
                    text: piece.split_whitespace().collect::<Vec<_>>().join(" "),
                });
            }
            content.text.push_str(piece);
            content.text.push_str("\n\n");
        }
    }
    Ok(content)
}

/// The title of the metadata, unless a program wrote it that knew none.
fn title(text: &str) -> Option<String> {
    let text = text.trim().trim_start_matches("Microsoft Word - ").trim();
    let lower = text.to_lowercase();
    (!lower.is_empty() && !lower.starts_with("untitled") && !lower.ends_with(".ps"))
        .then(|| text.to_owned())
}

fn unreadable(error: Error) -> Unreadable {
    match error {
        Error::Encrypted | Error::InvalidPassword => Unreadable::Encrypted,
        Error::UnsupportedVersion(version) => {
            Unreadable::Unsupported(format!("PDF version {version}"))
        }
        other => Unreadable::Damaged(other.to_string()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest PDF with one line of text, its offsets computed.
    pub fn one_line(line: &str) -> Vec<u8> {
        let stream = format!("BT /F1 24 Tf 72 720 Td ({line}) Tj ET");
        let objects = [
            "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
            "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R \
             /Resources << /Font << /F1 5 0 R >> >> >>"
                .to_owned(),
            format!(
                "<< /Length {} >>\nstream\n{stream}\nendstream",
                stream.len()
            ),
            "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
        ];
        file(&objects, "")
    }

    /// A file of these objects, the first of which is the catalog.
    pub fn file(objects: &[String], trailer: &str) -> Vec<u8> {
        let mut bytes = b"%PDF-1.4\n".to_vec();
        let mut offsets = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            offsets.push(bytes.len());
            bytes.extend(format!("{} 0 obj\n{object}\nendobj\n", index + 1).bytes());
        }
        let table = bytes.len();
        bytes.extend(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).bytes());
        for offset in offsets {
            bytes.extend(format!("{offset:010} 00000 n \n").bytes());
        }
        bytes.extend(
            format!(
                "trailer\n<< /Size {} /Root 1 0 R {trailer} >>\nstartxref\n{table}\n%%EOF\n",
                objects.len() + 1
            )
            .bytes(),
        );
        bytes
    }

    #[test]
    fn titles_of_programs_are_none() {
        assert_eq!(title("Microsoft Word - Report"), Some("Report".to_owned()));
        assert_eq!(title(" Untitled 1 "), None);
        assert_eq!(title("out.ps"), None);
    }

    #[test]
    fn text_of_a_page() {
        let content = read(&one_line("Hello from a page")).unwrap();
        assert!(
            content.text.contains("Hello from a page"),
            "{:?}",
            content.text
        );
        assert_eq!(content.pages, Some(1));
    }

    #[test]
    fn damaged_files_fail() {
        assert!(matches!(
            read(b"%PDF-1.4\nnothing else"),
            Err(Unreadable::Damaged(_))
        ));
        let whole = one_line("Hello");
        // Cut anywhere, it may still have text but must never panic.
        for length in (0..whole.len()).step_by(7) {
            let _ = read(&whole[..length]);
        }
    }
}
