//! The catalogue and the full-text index of the knowledge example.
//!
//! `changed` compares a folder of documents with the catalogue, `index` adds a document's
//! passages, `reject` records one that cannot be read, `remove` forgets those that are
//! gone, `failures` lists the unreadable ones, `overview` counts, and `search` answers with passages and where
//! they come from. All SQL is in [`catalogue`] (documents) and [`fulltext`] (passages);
//! the latter is to be replaced by a capability.

mod catalogue;
mod fulltext;
mod snippet;

use std::io::{BufRead, BufReader};

use heyday_sdk::prelude::*;

/// Passages that one transaction adds: a fraction of a second's work, so that others get
/// their turn.
const BATCH: usize = 500;

/// Keys of the catalogue in one answer or question.
const MOST_KEYS: u32 = 1_000;

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
    /// The kind of the failure: `file-encrypted`, `no-text`, ...
    pub kind: String,
    /// Why, for a person.
    pub reason: String,
}

impl Rejected {
    /// Whether the document itself is at fault, so that it is not tried again until it
    /// is changed. Faults of the machine and of its set-up pass.
    fn is_final(&self) -> bool {
        !matches!(
            self.kind.as_str(),
            "capability-denied"
                | "unknown-binding"
                | "unknown-activity"
                | "unavailable"
                | "conflict"
                | "worker-lost"
                | "cancelled"
                | "internal"
        )
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
}

/// A question to the index.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Query {
    /// Words; `"quoted words"` are a phrase. Nothing in it is an operator.
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
    /// How well it fits; higher is better.
    pub score: f64,
}

/// A passage, as the split plugin writes it.
#[derive(Debug, Deserialize)]
pub struct Passage {
    /// Counted from 0.
    pub position: u64,
    /// The byte at which it begins in the extracted text.
    pub offset: u64,
    /// The page on which it begins.
    #[serde(default)]
    pub page: Option<u64>,
    /// The heading above it.
    #[serde(default)]
    pub heading: Option<String>,
    /// Its text.
    pub text: String,
}

/// Finds documents that are new, were changed since they were processed, or are gone.
#[activity(queue = "storage-queue", start_to_close = "2m")]
pub fn changed(input: Page) -> Result<Changes> {
    let limit = range("limit", input.limit, 200, 1_000)?;
    let after = input.after.as_deref();
    let mut page = blob::Container::open("documents")?.list("", limit, after)?;
    // Both lists are in the order of the keys' bytes, and of the same range of keys: where
    // the catalogue has more than one answer should hold, the page ends there.
    let until = page.next.as_deref();
    let known = catalogue::range(&catalogue::open()?, after, until, MOST_KEYS)?;
    if known.len() == MOST_KEYS as usize {
        page.next = known.last().map(|(key, _)| key.clone());
        page.objects
            .retain(|object| Some(&object.key) <= page.next.as_ref());
    }
    let seen = page.objects.len() as u64;
    let (mut documents, mut removed) = (Vec::new(), Vec::new());
    let mut known = known.into_iter().peekable();
    for object in page.objects {
        while let Some((key, _)) = known.next_if(|(key, _)| *key < object.key) {
            removed.push(key);
        }
        let etag = known
            .next_if(|(key, _)| *key == object.key)
            .and_then(|(_, etag)| etag);
        if etag.as_deref() != Some(&object.etag) {
            documents.push(Candidate {
                key: object.key,
                etag: object.etag,
                size: object.size,
            });
        }
    }
    removed.extend(known.map(|(key, _)| key));
    Ok(Changes {
        documents,
        removed,
        seen,
        next: page.next,
    })
}

/// Makes a document's passages searchable, in place of those it had.
#[activity(queue = "storage-queue", start_to_close = "10m")]
pub fn index(input: Document) -> Result<Indexed> {
    let connection = catalogue::open()?;
    catalogue::sweep(&connection, &input.key)?;
    let reader = blob::Container::open("work")?.read(&input.passages_key)?;
    let mut transaction = connection.begin()?;
    let id = catalogue::begin(&transaction, &input)?;
    let mut batch: Vec<Passage> = Vec::new();
    let mut passages = 0;
    for line in BufReader::new(reader).lines() {
        batch.push(serde_json::from_str(&line?)?);
        if batch.len() == BATCH {
            passages += batch.len() as u64;
            if passages >= fulltext::MAX_PASSAGES {
                let message = format!("more than {} passages", fulltext::MAX_PASSAGES);
                return Err(Error::new("too-large", message));
            }
            fulltext::add(&transaction, id, &batch)?;
            catalogue::advance(&transaction, id, passages)?;
            transaction.commit()?;
            batch.clear();
            context::progress(passages, 0, "indexing");
            transaction = connection.begin()?;
        }
    }
    passages += batch.len() as u64;
    fulltext::add(&transaction, id, &batch)?;
    catalogue::advance(&transaction, id, passages)?;
    catalogue::complete(&transaction, &input.key, id)?;
    transaction.commit()?;
    catalogue::sweep(&connection, &input.key)?;
    Ok(Indexed {
        key: input.key,
        title: input.title,
        format: input.format,
        passages,
    })
}

/// Records that a document cannot be read, so that it is not tried again unchanged.
#[activity(queue = "storage-queue", start_to_close = "2m")]
pub fn reject(input: Rejected) -> Result<()> {
    if input.kind == "not-found" {
        // It was removed while it was to be processed.
        return remove(Removed {
            keys: vec![input.key],
        });
    }
    let connection = catalogue::open()?;
    let transaction = connection.begin()?;
    catalogue::reject(&transaction, &input)?;
    transaction.commit()?;
    catalogue::sweep(&connection, &input.key)
}

/// Forgets documents that are gone: their passages are not found any more.
#[activity(queue = "storage-queue", start_to_close = "10m")]
pub fn remove(input: Removed) -> Result<()> {
    if input.keys.len() > MOST_KEYS as usize {
        let message = format!("at most {MOST_KEYS} keys at once, not {}", input.keys.len());
        return Err(Error::new("invalid-input", message));
    }
    let connection = catalogue::open()?;
    let transaction = connection.begin()?;
    for key in &input.keys {
        catalogue::hide(&transaction, key)?;
    }
    transaction.commit()?;
    for key in &input.keys {
        catalogue::sweep(&connection, key)?;
    }
    Ok(())
}

/// Lists the documents that cannot be read, by the kind of their failure.
#[activity(queue = "general-queue", start_to_close = "30s")]
pub fn failures(input: FailureQuery) -> Result<Failures> {
    let limit = range("limit", input.limit, 100, 1_000)?;
    let after = input.after.as_deref().unwrap_or("");
    catalogue::failures(&catalogue::open()?, input.kind.as_deref(), after, limit)
}

/// Counts what the index holds.
#[activity(queue = "general-queue", start_to_close = "30s")]
pub fn overview(_: Nothing) -> Result<Overview> {
    catalogue::overview(&catalogue::open()?)
}

/// Searches the passages of all documents.
#[activity(queue = "general-queue", start_to_close = "30s")]
pub fn search(input: Query) -> Result<Results> {
    let limit = range("limit", input.limit, 10, 100)?;
    Ok(Results {
        passages: fulltext::search(&catalogue::open()?, &input.text, limit)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares a folder and a catalogue of these keys, and answers which documents are
    /// to be processed and which are gone. The catalogue's have no etag: all are to be
    /// processed.
    fn compare(folder: &[String], catalogue: &[String], limit: u32) -> (Vec<String>, Vec<String>) {
        let known = catalogue.to_vec();
        let test = heyday_sdk::test::Context::new()
            .blob("documents", folder.iter().map(|key| (key.clone(), "text")))
            .sql("knowledge", move |statement, params| {
                if statement.starts_with("PRAGMA") {
                    let version = vec![sql::Value::from(catalogue::VERSION)];
                    return Ok(sql::Rows::new(["user_version"], [version]).into());
                }
                let [after, until, limit] = params else {
                    panic!("{statement} with {params:?}")
                };
                let text = |value: &sql::Value| match value {
                    sql::Value::Text(text) => text.clone(),
                    other => panic!("{other:?}"),
                };
                let sql::Value::Integer(limit) = limit else {
                    panic!("{limit:?}")
                };
                let found = known
                    .iter()
                    .filter(|key| **key > text(after) && **key <= text(until))
                    .take(usize::try_from(*limit).unwrap())
                    .map(|key| vec![sql::Value::from(key), sql::Value::Null]);
                Ok(sql::Rows::new(["key", "etag"], found.collect::<Vec<_>>()).into())
            })
            .enter();
        let (mut new, mut removed, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let page = Page {
                after,
                limit: Some(limit),
            };
            let changes = changed(page).unwrap();
            assert!(changes.removed.len() <= MOST_KEYS as usize);
            new.extend(changes.documents.into_iter().map(|document| document.key));
            removed.extend(changes.removed);
            after = changes.next;
            if after.is_none() {
                drop(test);
                return (new, removed);
            }
        }
    }

    fn keys(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn folder_and_catalogue_are_compared_page_by_page() {
        let folder = keys(&["a", "b", "c/d", "e", "z"]);
        let catalogue = keys(&["0", "b", "c", "d", "zz"]);
        for limit in 1..=6 {
            assert_eq!(
                compare(&folder, &catalogue, limit),
                (folder.clone(), keys(&["0", "c", "d", "zz"])),
                "{limit}"
            );
        }
        assert_eq!(compare(&[], &[], 1), (vec![], vec![]));
    }

    #[test]
    fn an_emptied_folder_is_forgotten_in_several_pages() {
        let catalogue: Vec<String> = (0..2_500).map(|n| format!("{n:05}")).collect();
        let folder = vec!["01500".to_owned()];
        let (new, removed) = compare(&folder, &catalogue, 200);
        assert_eq!((new, removed.len()), (folder, 2_499));
    }

    #[test]
    fn bad_input_is_told() {
        let page = Page {
            after: None,
            limit: Some(0),
        };
        assert_eq!(changed(page).unwrap_err().kind(), "invalid-input");
        let keys = vec![String::new(); 1_001];
        assert_eq!(
            remove(Removed { keys }).unwrap_err().kind(),
            "invalid-input"
        );
    }

    #[test]
    fn only_faults_of_the_document_are_final() {
        let of = |kind: &str| Rejected {
            key: "k".to_owned(),
            etag: None,
            kind: kind.to_owned(),
            reason: String::new(),
        };
        assert!(of("file-encrypted").is_final() && of("trap").is_final());
        assert!(!of("worker-lost").is_final() && !of("unavailable").is_final());
    }
}
