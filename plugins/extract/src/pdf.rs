//! PDF.

use unpdf::{Error, Unpdf};

use crate::{Content, Unreadable, text};

/// Reads a document's text, page after page.
pub fn read(bytes: &[u8]) -> Result<Content, Unreadable> {
    // Lenient: a page that cannot be read does not take the others with it.
    let result = Unpdf::new()
        .lenient()
        .sequential()
        .parse_bytes(bytes)
        .map_err(unreadable)?;
    let title = result.document().metadata.title.clone();
    Ok(Content {
        text: text::clean(&result.plain_text()),
        title,
    })
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
mod tests {
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
                "trailer\n<< /Size {} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n",
                objects.len() + 1
            )
            .bytes(),
        );
        bytes
    }

    #[test]
    fn text_of_a_page() {
        let content = read(&one_line("Hello from a page")).unwrap();
        assert!(
            content.text.contains("Hello from a page"),
            "{:?}",
            content.text
        );
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
