//! Extracts the text of documents.
//!
//! One activity reads a document from the binding `documents`, finds out what it is
//! (by content first, by name second), extracts its text and writes that to the binding
//! `work`, so that texts of any size never travel through a workflow's data. Where its
//! headings are goes into a second object, one JSON object a line; form feeds in the text
//! are the breaks between pages. Each way in which a document cannot be read is a failure
//! of its own kind, none of them retryable: the same bytes would fail again.
//!
//! Start reading at [`fn@extract`]; each format is read in a module of its own.

mod detect;
mod docx;
mod html;
mod pdf;
mod text;

use heyday_sdk::prelude::*;
use passages::work;

pub use detect::Format;

/// A document over this many bytes is refused; the guest's memory must hold it several
/// times over, 768 MiB.
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// Text over this many bytes is refused: no document of prose has as much, a
/// decompression bomb does.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// A document to read.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Document {
    /// Its key in the binding `documents`.
    pub key: String,
}

/// What was found.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Extracted {
    /// The document's key.
    pub key: String,
    /// Changes whenever the document does.
    pub etag: String,
    /// The document's size in bytes.
    pub size: u64,
    /// What it is: `text`, `markdown`, `html`, `pdf` or `docx`.
    pub format: Format,
    /// Its title, or its file name where it has none.
    pub title: String,
    /// Its language (ISO 639-3), where the text is long enough to tell.
    pub language: Option<String>,
    /// Characters of text.
    pub characters: u64,
    /// Pages, where it has any.
    pub pages: Option<u64>,
    /// Where the text lies in the binding `work`.
    pub text_key: String,
    /// Where its headings are listed in the binding `work`, JSON Lines of [`Heading`];
    /// null where it has none.
    pub headings_key: Option<String>,
}

/// Text and structure of a document.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Its text, as [`text::clean`] leaves it: UTF-8, a form feed before each page but
    /// the first.
    pub text: String,
    /// The title that the document itself gives.
    pub title: Option<String>,
    /// Its headings, in order.
    pub headings: Vec<Heading>,
    /// Pages, where it has any.
    pub pages: Option<u64>,
}

/// A heading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Heading {
    /// The byte of the text at which its line begins.
    pub offset: usize,
    /// 1 for the topmost.
    pub level: u8,
    /// Its text.
    pub text: String,
}

/// Why a document has no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// It is encrypted.
    Encrypted,
    /// It is damaged, or not what it says.
    Damaged(String),
    /// It has no characters: a scan, or an empty file.
    NoText,
    /// It is of a format that is not read.
    Unsupported(String),
    /// It is too large, too deep, or grows too much.
    TooLarge(String),
}

impl From<Unreadable> for Error {
    fn from(reason: Unreadable) -> Self {
        let (kind, message) = match reason {
            Unreadable::Encrypted => (
                "file-encrypted",
                "the document is encrypted; store a copy without a password".to_owned(),
            ),
            Unreadable::Damaged(detail) => {
                ("file-damaged", format!("the document is damaged: {detail}"))
            }
            Unreadable::NoText => (
                "no-text",
                "the document has no text; if it was scanned, run it through OCR first".to_owned(),
            ),
            Unreadable::Unsupported(what) => (
                "unsupported-format",
                format!(
                    "{what} is not supported; supported are text, Markdown, HTML, PDF and DOCX"
                ),
            ),
            Unreadable::TooLarge(detail) => {
                ("too-large", format!("the document is too large: {detail}"))
            }
        };
        Error::new(kind, message)
    }
}

/// Extracts the text of one document and stores it.
// The queue of heavy computing: few run at once, for each may take much memory. What took
// too long once would do so again.
#[activity(
    queue = "ai-processing-queue",
    start_to_close = "15m",
    retry(
        maximum_interval = "10s",
        maximum_attempts = 6,
        non_retryable_kinds = ["timeout"]
    )
)]
pub fn extract(input: Document) -> Result<Extracted> {
    let documents = blob::Container::open("documents")?;
    let metadata = documents.head(&input.key)?;
    if metadata.size > MAX_DOCUMENT_BYTES {
        let detail = format!("{} bytes, more than {MAX_DOCUMENT_BYTES}", metadata.size);
        return Err(Unreadable::TooLarge(detail).into());
    }
    context::progress(0, 2, "reading");
    let bytes = documents.get(&input.key)?;
    let format = detect::format(&input.key, &bytes)?;
    context::progress(1, 2, "extracting");
    let content = content(format, bytes)?;

    let objects = blob::Container::open("work")?;
    let stem = work::stem(&input.key);
    let text_key = format!("{stem}{}", work::TEXT);
    objects.put(&text_key, content.text.as_bytes())?;
    let headings_key = if content.headings.is_empty() {
        None
    } else {
        let headings_key = format!("{stem}{}", work::HEADINGS);
        let mut lines = Vec::new();
        for heading in &content.headings {
            serde_json::to_writer(&mut lines, heading)?;
            lines.push(b'\n');
        }
        objects.put(&headings_key, lines)?;
        Some(headings_key)
    };
    let characters = content.text.chars().count() as u64;
    log::info!("extracted {characters} characters"; key = input.key, format = format);
    Ok(Extracted {
        title: content.title.unwrap_or_else(|| file_name(&input.key)),
        language: language(&content.text),
        characters,
        key: input.key,
        etag: metadata.etag,
        size: metadata.size,
        format,
        pages: content.pages,
        text_key,
        headings_key,
    })
}

/// Reads the text of a document of a known format.
pub fn content(format: Format, bytes: Vec<u8>) -> std::result::Result<Content, Unreadable> {
    let mut content = match format {
        Format::Text => text::plain(bytes)?,
        Format::Markdown => text::markdown(bytes)?,
        Format::Html => html::read(bytes)?,
        Format::Pdf => pdf::read(&bytes)?,
        Format::Docx => docx::read(&bytes)?,
    };
    if content.text.len() > MAX_TEXT_BYTES {
        let detail = format!(
            "{} bytes of text, more than {MAX_TEXT_BYTES}",
            content.text.len()
        );
        return Err(Unreadable::TooLarge(detail));
    }
    if !content.text.chars().any(char::is_alphanumeric) {
        return Err(Unreadable::NoText);
    }
    // Plain text has pages too, as manuals and standards are printed.
    if content.pages.is_none() {
        let breaks = content.text.bytes().filter(|byte| *byte == 0xc).count();
        content.pages = (breaks > 0).then_some(breaks as u64 + 1);
    }
    let short = |text: &str, length| -> String {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        words.chars().take(length).collect()
    };
    content.title = content
        .title
        .map(|title| short(&title, 300))
        .filter(|title| !title.is_empty());
    for heading in &mut content.headings {
        heading.text = short(&heading.text, 200);
    }
    Ok(content)
}

fn language(text: &str) -> Option<String> {
    // The detector reads all it is given; a part tells as much.
    let sample: String = text.chars().take(20_000).collect();
    let found = whatlang::detect(&sample)?;
    found.is_reliable().then(|| found.lang().code().to_owned())
}

fn file_name(key: &str) -> String {
    key.rsplit('/').next().unwrap_or(key).to_owned()
}

heyday_sdk::plugin!();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_and_stored() {
        let test = heyday_sdk::test::Context::new()
            .blob("documents", [("a/notes.md", "# Title\n\nSome words.\n")])
            .blob("work", Vec::<(String, String)>::new())
            .enter();
        let key = "a/notes.md".to_owned();
        let found = extract(Document { key }).unwrap();
        assert_eq!((found.title.as_str(), found.pages), ("Title", None));
        let text = test.object("work", &found.text_key).unwrap();
        assert_eq!(text, b"# Title\n\nSome words.\n");
        let headings = test.object("work", &found.headings_key.unwrap()).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&headings).unwrap();
        assert_eq!(
            line,
            serde_json::json!({"offset": 0, "level": 1, "text": "Title"})
        );
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (name, bytes, kind) in [
            ("empty.txt", Vec::new(), "no-text"),
            ("spaces.txt", b" \n\t\n".to_vec(), "no-text"),
            (
                "picture.txt",
                b"\x89PNG\r\n\x1a\n\0\0\0\0".to_vec(),
                "unsupported-format",
            ),
            (
                "cut.pdf",
                b"%PDF-1.4\nnothing else".to_vec(),
                "file-damaged",
            ),
            ("locked.pdf", encrypted_pdf(), "file-encrypted"),
            // Word encrypts a document whole; an archiver its parts.
            (
                "locked.docx",
                old_office("EncryptedPackage"),
                "file-encrypted",
            ),
            (
                "parts.docx",
                encrypted_zip("word/document.xml"),
                "file-encrypted",
            ),
            ("old.doc", old_office("WordDocument"), "unsupported-format"),
            (
                "locked.zip",
                encrypted_zip("notes.txt"),
                "unsupported-format",
            ),
            (
                "huge.txt",
                vec![b'a'; MAX_DOCUMENT_BYTES as usize + 1],
                "too-large",
            ),
        ] {
            let _test = heyday_sdk::test::Context::new()
                .blob("documents", [(name, bytes)])
                .blob("work", Vec::<(String, String)>::new())
                .enter();
            let key = name.to_owned();
            let error = extract(Document { key }).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
        }
    }

    /// A PDF that no password opens: what its password is compared with is no hash.
    fn encrypted_pdf() -> Vec<u8> {
        let hash = "<".to_owned() + &"5a".repeat(32) + ">";
        let objects = [
            "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
            "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] >>".to_owned(),
            format!("<< /Filter /Standard /V 1 /R 2 /Length 40 /P -4 /O {hash} /U {hash} >>"),
        ];
        pdf::tests::file(&objects, &format!("/Encrypt 4 0 R /ID [{hash} {hash}]"))
    }

    /// The container of old Office files, with a stream of that name in its directory.
    fn old_office(stream: &str) -> Vec<u8> {
        let mut bytes = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec();
        bytes.resize(512, 0);
        bytes.extend(stream.encode_utf16().flat_map(u16::to_le_bytes));
        bytes.resize(1024, 0);
        bytes
    }

    /// A ZIP archive whose one file says that it is encrypted.
    fn encrypted_zip(name: &str) -> Vec<u8> {
        let mut bytes = docx::tests::archive(&[(name, &[0x5a; 40])]);
        // Its flags, where the file is and in the directory.
        for (mark, flags) in [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)] {
            let at = bytes.windows(4).position(|window| window == mark).unwrap();
            bytes[at + flags] |= 1;
        }
        bytes
    }

    #[test]
    fn form_feeds_of_a_text_are_pages() {
        let content = content(Format::Text, b"one\x0ctwo\x0cthree".to_vec()).unwrap();
        assert_eq!(content.pages, Some(3));
    }
}
