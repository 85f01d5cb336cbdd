//! The catalogue and the full-text index of the knowledge example.
//!
//! `changed` compares a folder of documents with the catalogue, `index` adds a document's
//! passages, `reject` records one that cannot be read, and `search` answers with passages
//! and where they come from. All SQL is in [`catalogue`] (documents) and [`fulltext`]
//! (passages); the latter is to be replaced by a capability.

mod catalogue;
mod fulltext;

use std::io::{BufRead, BufReader};

use heyday_sdk::prelude::*;

/// Passages that one transaction adds; a book has thousands.
const BATCH: usize = 500;

/// Which part of the folder to compare.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Page {
    /// Where to go on: `next` of the last answer.
    #[serde(default)]
    pub after: Option<String>,
    /// Documents looked at in one call: 1 to 1,000; 200 where absent.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// Documents that are new or were changed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Changes {
    /// The documents to process.
    pub documents: Vec<Candidate>,
    /// Documents looked at.
    pub seen: u64,
    /// Give this as `after` for the next page; null at the end.
    pub next: Option<String>,
}

/// A document in the folder.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Candidate {
    /// Its key.
    pub key: String,
    /// Changes whenever it does.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

/// A document whose passages are to be searchable.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Document {
    /// Its key.
    pub key: String,
    /// Its etag.
    pub etag: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its format.
    pub format: String,
    /// Its title.
    pub title: String,
    /// Its language, ISO 639-3.
    #[serde(default)]
    pub language: Option<String>,
    /// Characters of text.
    pub characters: u64,
    /// Where its passages lie in the binding `work`, JSON Lines.
    pub passages_key: String,
}

/// What was indexed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Indexed {
    /// The document's key.
    pub key: String,
    /// Its title.
    pub title: String,
    /// Its format.
    pub format: String,
    /// Passages that are searchable now.
    pub passages: u64,
}

/// A document that cannot be read.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Rejected {
    /// Its key.
    pub key: String,
    /// Its etag, if it is known.
    #[serde(default)]
    pub etag: Option<String>,
    /// Why.
    pub reason: String,
}

/// A question to the index.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Query {
    /// Words; `"quoted words"` are a phrase.
    pub text: String,
    /// Most passages in the answer: 1 to 100; 10 where absent.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// What a search found, best first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Results {
    /// The passages.
    pub passages: Vec<Hit>,
}

/// A passage that fits a query.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Hit {
    /// The document it is in.
    pub key: String,
    /// The document's title.
    pub title: String,
    /// The heading above it, if there is one.
    pub heading: Option<String>,
    /// Its position in the document, from 0.
    pub position: u64,
    /// Its text.
    pub text: String,
    /// How well it fits; higher is better.
    pub score: f64,
}

/// A passage, as the split plugin writes it.
#[derive(Debug, Deserialize)]
pub struct Passage {
    /// Counted from 0.
    pub position: u64,
    /// The heading above it.
    #[serde(default)]
    pub heading: Option<String>,
    /// Its text.
    pub text: String,
}

/// Finds documents that are new or were changed since they were processed.
#[activity(queue = "storage-queue", start_to_close = "2m")]
pub fn changed(input: Page) -> Result<Changes> {
    let limit = range("limit", input.limit, 200, 1_000)?;
    let page = blob::Container::open("documents")?.list("", limit, input.after.as_deref())?;
    let connection = catalogue::open()?;
    let mut documents = Vec::new();
    let seen = page.objects.len() as u64;
    for object in page.objects {
        if catalogue::etag(&connection, &object.key)?.as_deref() != Some(&object.etag) {
            documents.push(Candidate {
                key: object.key,
                etag: object.etag,
                size: object.size,
            });
        }
    }
    Ok(Changes {
        documents,
        seen,
        next: page.next,
    })
}

/// Makes a document's passages searchable, in place of those it had.
#[activity(queue = "storage-queue", start_to_close = "5m")]
pub fn index(input: Document) -> Result<Indexed> {
    let connection = catalogue::open()?;
    let reader = blob::Container::open("work")?.read(&input.passages_key)?;
    let transaction = connection.begin()?;
    fulltext::remove(&transaction, &input.key)?;
    let mut batch: Vec<Passage> = Vec::new();
    let mut passages = 0;
    for line in BufReader::new(reader).lines() {
        batch.push(serde_json::from_str(&line?)?);
        if batch.len() == BATCH {
            passages += batch.len() as u64;
            fulltext::add(&transaction, &input.key, &batch)?;
            batch.clear();
            context::progress(passages, 0, "indexing");
        }
    }
    passages += batch.len() as u64;
    fulltext::add(&transaction, &input.key, &batch)?;
    catalogue::record(&transaction, &input, passages)?;
    transaction.commit()?;
    Ok(Indexed {
        key: input.key,
        title: input.title,
        format: input.format,
        passages,
    })
}

/// Records that a document cannot be read, so that it is not tried again unchanged.
#[activity(queue = "storage-queue", start_to_close = "1m")]
pub fn reject(input: Rejected) -> Result<()> {
    let connection = catalogue::open()?;
    let transaction = connection.begin()?;
    fulltext::remove(&transaction, &input.key)?;
    catalogue::reject(&transaction, &input)?;
    transaction.commit()?;
    Ok(())
}

/// Searches the passages of all documents.
#[activity(queue = "general-queue", start_to_close = "30s")]
pub fn search(input: Query) -> Result<Results> {
    let limit = range("limit", input.limit, 10, 100)?;
    let connection = catalogue::open()?;
    Ok(Results {
        passages: fulltext::search(&connection, &input.text, limit)?,
    })
}

fn range(name: &str, value: Option<u32>, default: u32, most: u32) -> Result<u32> {
    let value = value.unwrap_or(default);
    if (1..=most).contains(&value) {
        Ok(value)
    } else {
        Err(Error::new(
            "invalid-input",
            format!("{name} is 1 to {most}, not {value}"),
        ))
    }
}

heyday_sdk::plugin!();
