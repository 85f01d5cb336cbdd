//! What the activities are asked, and what they answer.

use heyday_sdk::prelude::*;
use passages::vectors::Embedding;

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

/// How a part of the folder differs from the catalogue.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Changes {
    /// The documents to process.
    pub documents: Vec<Candidate>,
    /// Keys of documents that are in the catalogue and no longer in the folder.
    pub removed: Vec<String>,
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
    /// Pages, where it has any.
    #[serde(default)]
    pub pages: Option<u64>,
    /// Where its passages lie in the binding `work`, JSON Lines.
    pub passages_key: String,
    /// Where their vectors lie in the binding `work`.
    pub vectors_key: String,
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

/// The task whose failures tell of the document.
const EXTRACT: &str = "extract";

/// A document that cannot be read, or whose processing failed.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Rejected {
    /// Its key.
    pub key: String,
    /// Its etag, if it is known.
    #[serde(default)]
    pub etag: Option<String>,
    /// The kind of the failure: `file-encrypted`, `no-text`, ...; of an extraction that took too
    /// long `extraction-timeout`, for any other `timeout` is that of a slow store or model.
    pub kind: String,
    /// The task of the flow that failed, `extract` or another one; where it is absent, the kind
    /// alone says whether the document is at fault.
    #[serde(default)]
    pub step: Option<String>,
    /// Why, for a person.
    pub reason: String,
}

impl Rejected {
    /// Whether the document itself is at fault, so that it is not tried again until it
    /// is changed. Faults of the machine and of its set-up pass. So does what fails after the
    /// extraction, whatever its kind: a store that is full is no fault of the document's.
    pub fn is_final(&self) -> bool {
        let own = self.step.as_deref().is_none_or(|step| step == EXTRACT);
        let passes = matches!(
            self.kind.as_str(),
            "capability-denied"
                | "unknown-binding"
                | "unknown-activity"
                | "unavailable"
                | "timeout"
                | "conflict"
                | "worker-lost"
                | "cancelled"
                | "internal"
        );
        own && !passes
    }
}

/// Documents that are gone.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Removed {
    /// Their keys; at most 1,000.
    pub keys: Vec<String>,
}

/// Which failures to list.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct FailureQuery {
    /// Only those of this kind.
    #[serde(default)]
    pub kind: Option<String>,
    /// Most documents of each kind: 1 to 1,000; 100 where absent.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Only keys after this one: the last of an answer, for the next page of a kind.
    #[serde(default)]
    pub after: Option<String>,
}

/// The documents that cannot be read.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Failures {
    /// How many there are in all.
    pub total: u64,
    /// By kind, the most frequent first.
    pub kinds: Vec<Group>,
}

/// Failures of one kind.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Group {
    /// The kind.
    pub kind: String,
    /// How many documents.
    pub total: u64,
    /// Some of them, by their keys.
    pub documents: Vec<Failure>,
}

/// A document that cannot be read.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Failure {
    /// Its key.
    pub key: String,
    /// Why.
    pub reason: String,
}

/// Nothing is asked.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Nothing {}

/// What the index holds.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Overview {
    /// Documents that can be searched.
    pub documents: u64,
    /// Their passages.
    pub passages: u64,
    /// Documents that cannot be read.
    pub unreadable: u64,
    /// The title of one that can, to search for.
    pub example: Option<String>,
    /// By which embedding the collection was filled; null while nothing was.
    pub embedding: Option<Embedding>,
}

/// Which embedding is to be used.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Wanted {
    /// `hashed-ngram-embedding`, or a model's name; where absent, the one by which the
    /// collection was filled, and `hashed-ngram-embedding` while nothing was.
    #[serde(default)]
    pub embedding: Option<String>,
}

/// Which embedding is used.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Chosen {
    /// Its name.
    pub embedding: String,
    /// Whether the collection was filled by it; else nothing was yet.
    pub filled: bool,
}

/// How passages are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// By their words.
    Text,
    /// By their vectors.
    Vector,
    /// By both.
    Hybrid,
}

/// A question to the index.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Query {
    /// Words; `"quoted words"` are a phrase. Nothing in it is an operator.
    pub text: String,
    /// How passages are found; where absent, `hybrid` with a vector, else `text`.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// The vector of the text, by the embedding by which the collection was filled.
    #[serde(default)]
    pub vector: Option<Vec<f32>>,
    /// What made the vector; refused where the collection was filled by another one.
    #[serde(default)]
    pub embedding: Option<Embedding>,
    /// How much the vector counts in `hybrid`, 0 to 1; where absent, 0.5 with a model and 0.2
    /// without.
    #[serde(default)]
    pub alpha: Option<f64>,
    /// Passages that were found otherwise, the best first: they count in the order too.
    #[serde(default)]
    pub also: Vec<Place>,
    /// Most passages in the answer: 1 to 100; 10 where absent.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// Where a passage is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
pub struct Place {
    /// Its document.
    pub key: String,
    /// Its position among the document's passages, from 0.
    pub position: u64,
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
    /// The page on which it begins, from 1, where the document has pages.
    pub page: Option<u64>,
    /// Its position among the document's passages, from 0.
    pub position: u64,
    /// The byte of the document's extracted text at which it begins.
    pub offset: u64,
    /// Its text.
    pub text: String,
    /// One line of it, around the words that were searched for.
    pub snippet: String,
    /// How well it fits; higher is better. Comparable within one answer only.
    pub score: f64,
}
