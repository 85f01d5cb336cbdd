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
        file(&one_page(stream.as_bytes()), "")
    }

    /// The objects of a document of one page; the fourth is what stands on it.
    fn one_page(stream: &[u8]) -> Vec<Vec<u8>> {
        let length = format!("<< /Length {} >>\nstream\n", stream.len());
        let content = [length.as_bytes(), stream, b"\nendstream"].concat();
        vec![
            b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_vec(),
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R \
             /Resources << /Font << /F1 5 0 R >> >> >>"
                .to_vec(),
            content,
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_vec(),
        ]
    }

    /// A file of these objects, the first of which is the catalog.
    pub fn file(objects: &[impl AsRef<[u8]>], trailer: &str) -> Vec<u8> {
        let mut bytes = b"%PDF-1.4\n".to_vec();
        let mut offsets = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            offsets.push(bytes.len());
            bytes.extend(format!("{} 0 obj\n", index + 1).bytes());
            bytes.extend_from_slice(object.as_ref());
            bytes.extend_from_slice(b"\nendobj\n");
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

    /// `BT /F1 24 Tf 72 720 Td (Printing forbidden) Tj ET`, encrypted by RC4 for object 4 of the
    /// document of the test, by the key of 40 bits that follows from the empty password.
    const ENCRYPTED: &[u8] = b"\x55\x67\x6d\xa0\xb0\xf4\xed\xcb\xda\xb6\x80\xd2\xe0\x93\xaf\x53\
          \xe8\x11\xf6\xcf\xa5\x0b\x63\x8b\x86\xe6\x5d\x76\x4b\xe0\x30\xd4\
          \x86\xbb\x43\x15\x29\x8d\xf8\xf9\xd5\xc4\x43\x3f\x13\x15\x99\xe4\
          \x98";

    #[test]
    fn what_opens_without_a_password_is_read() {
        let owner = format!("<{}>", "0b".repeat(32));
        let user = "<5b1ec6687b25e1eef55f89071216ad6497fa8a8374b049c13b59db65020b3608>";
        let handler =
            format!("<< /Filter /Standard /V 1 /R 2 /Length 40 /P -4 /O {owner} /U {user} >>");
        let mut objects = one_page(ENCRYPTED);
        objects.push(handler.into_bytes());
        let trailer = format!("/Encrypt 6 0 R /ID [{owner} {owner}]");
        let content = read(&file(&objects, &trailer)).unwrap();
        let text = &content.text;
        assert!(text.contains("Printing forbidden"), "{text:?}");
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
