//! Documents made byte by byte, each a valid one of its kind.

use std::fmt::Write as _;

/// A PDF with one line of text on each page.
pub fn pdf(pages: &[&str]) -> Vec<u8> {
    pdf_with(pages, Vec::new(), "")
}

/// A PDF that says that it is encrypted, and that no password opens: what the password is
/// compared with is no hash.
pub fn encrypted_pdf(pages: &[&str]) -> Vec<u8> {
    let hash = format!("<{}>", "5a".repeat(32));
    let handler = format!("<< /Filter /Standard /V 1 /R 2 /Length 40 /P -4 /O {hash} /U {hash} >>");
    let number = 4 + pages.len() * 2;
    let trailer = format!("/Encrypt {number} 0 R /ID [{hash} {hash}]");
    pdf_with(pages, vec![handler], &trailer)
}

fn pdf_with(pages: &[&str], more: Vec<String>, trailer: &str) -> Vec<u8> {
    let first_page = 4;
    let kids: String = (0..pages.len())
        .map(|page| format!("{} 0 R ", first_page + page * 2))
        .collect();
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        format!("<< /Type /Pages /Kids [{kids}] /Count {} >>", pages.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    for (page, line) in pages.iter().enumerate() {
        let stream = format!("BT /F1 24 Tf 72 720 Td ({line}) Tj ET");
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {} 0 R \
             /Resources << /Font << /F1 3 0 R >> >> >>",
            first_page + page * 2 + 1
        ));
        objects.push(format!(
            "<< /Length {} >>\nstream\n{stream}\nendstream",
            stream.len()
        ));
    }
    objects.extend(more);
    let mut text = "%PDF-1.4\n".to_owned();
    let mut offsets = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        offsets.push(text.len());
        let _ = write!(text, "{} 0 obj\n{object}\nendobj\n", index + 1);
    }
    let table = text.len();
    let size = objects.len() + 1;
    let _ = write!(text, "xref\n0 {size}\n0000000000 65535 f \n");
    for offset in offsets {
        let _ = writeln!(text, "{offset:010} 00000 n ");
    }
    let _ = write!(
        text,
        "trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{table}\n%%EOF\n"
    );
    text.into_bytes()
}

/// A Word document: headings (level 1) and paragraphs.
pub fn docx(paragraphs: &[(bool, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (heading, text) in paragraphs {
        let style = if *heading {
            "<w:pPr><w:pStyle w:val=\"H1\"/></w:pPr>"
        } else {
            ""
        };
        let _ = write!(body, "<w:p>{style}<w:r><w:t>{text}</w:t></w:r></w:p>");
    }
    let space = "xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\"";
    zip(&[
        (
            "word/document.xml",
            format!("<w:document {space}><w:body>{body}</w:body></w:document>").as_bytes(),
        ),
        (
            "word/styles.xml",
            format!(
                "<w:styles {space}><w:style w:styleId=\"H1\"><w:name w:val=\"heading 1\"/>\
                 </w:style></w:styles>"
            )
            .as_bytes(),
        ),
    ])
}

/// A ZIP archive of files that are stored as they are.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let length = u32::try_from(bytes.len()).expect("small").to_le_bytes();
        let name_length = u16::try_from(name.len()).expect("small").to_le_bytes();
        let mut shared = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        shared.extend(crc32(bytes).to_le_bytes());
        shared.extend(length);
        shared.extend(length);
        shared.extend(name_length);
        shared.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&shared);
        directory.extend([0; 10]);
        let offset = u32::try_from(archive.len()).expect("small");
        directory.extend(offset.to_le_bytes());
        directory.extend(name.bytes());
        archive.extend(b"PK\x03\x04");
        archive.extend(shared);
        archive.extend(name.bytes());
        archive.extend(*bytes);
    }
    let start = u32::try_from(archive.len()).expect("small").to_le_bytes();
    let size = u32::try_from(directory.len()).expect("small").to_le_bytes();
    let count = u16::try_from(files.len()).expect("few").to_le_bytes();
    archive.extend(directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend(count);
    archive.extend(count);
    archive.extend(size);
    archive.extend(start);
    archive.extend([0, 0]);
    archive
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
