//! Extracts the text of documents.
//!
//! One activity reads a document from the binding `documents`, finds out what it is
//! (by content first, by name second), extracts its text and writes that to the binding
//! `work`, so that texts of any size never travel through a workflow's data. Each way in
//! which a document cannot be read is a failure of its own kind, none of them retryable:
//! the same bytes would fail again.

mod detect;
mod docx;
mod html;
mod pdf;
mod text;

use heyday_sdk::prelude::*;

pub use detect::Format;

/// A document over this many bytes is refused; the guest's memory must hold it several
/// times over.
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
    /// Where the text lies in the binding `work`.
    pub text_key: String,
}

/// Text and title of a document.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Plain text, or Markdown where the format knows headings.
    pub text: String,
    /// The title that the document itself gives.
    pub title: Option<String>,
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
#[activity(
    queue = "storage-queue",
    start_to_close = "5m",
    retry(maximum_attempts = 3)
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
    let content = content(format, &bytes)?;

    let text_key = text_key(&input.key);
    blob::Container::open("work")?.put(&text_key, content.text.as_bytes())?;
    log::info!(
        "extracted {} characters",
        content.text.chars().count();
        key = input.key,
        format = format
    );
    Ok(Extracted {
        title: content.title.unwrap_or_else(|| file_name(&input.key)),
        language: language(&content.text),
        characters: content.text.chars().count() as u64,
        key: input.key,
        etag: metadata.etag,
        size: metadata.size,
        format,
        text_key,
    })
}

/// Reads the text of a document of a known format.
pub fn content(format: Format, bytes: &[u8]) -> std::result::Result<Content, Unreadable> {
    let mut content = match format {
        Format::Text => text::plain(bytes)?,
        Format::Markdown => text::markdown(bytes)?,
        Format::Html => html::read(bytes)?,
        Format::Pdf => pdf::read(bytes)?,
        Format::Docx => docx::read(bytes)?,
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
    content.title = content
        .title
        .map(|title| title.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|title| !title.is_empty())
        .map(|title| title.chars().take(300).collect());
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

/// Where the text of a document lies: keys may be as long as a key may be, so the text's
/// is made of a digest of it.
fn text_key(key: &str) -> String {
    // FNV-1a, 128 bits: no adversary gains from a collision with a document of his own.
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in key.bytes() {
        hash ^= u128::from(byte);
        hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    format!("text/{hash:032x}.txt")
}

heyday_sdk::plugin!();
