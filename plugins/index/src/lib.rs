//! The catalogue and the index of the knowledge example.
//!
//! `choose` says by which embedding passages are found, `changed` compares a folder of
//! documents with the catalogue, `index` adds a document's passages, `reject` records one that
//! cannot be read, `remove` forgets those that are gone, `reset` all; `failures` lists the
//! unreadable ones, `overview` counts, and `search` answers with passages and where they come
//! from. Documents are in SQL ([`catalogue`]), passages in a vector store ([`store`]).
//!
//! Start reading at [`fn@index`], and at [`fn@search`] for what is asked.

mod catalogue;
mod search;
mod snippet;
mod store;
mod types;

use heyday_sdk::prelude::*;
use passages::work;

use catalogue::Catalogue;
pub use types::*;

/// Passages that one call writes.
const BATCH: usize = 200;

/// Keys of the catalogue in one answer or question.
const MOST_KEYS: u32 = 1_000;

/// The embedding where nobody says another.
pub(crate) const STAND_IN: &str = "hashed-ngram-embedding";

fn catalogue() -> Result<Catalogue> {
    Catalogue::open(store::clear)
}

/// Says by which embedding passages are to be found.
#[activity(queue = "storage-queue", start_to_close = "1m")]
pub fn choose(input: Wanted) -> Result<Chosen> {
    let filled = catalogue()?.embedding()?;
    match (filled, input.embedding) {
        (Some(filled), Some(asked)) if filled.name != asked => {
            Err(catalogue::mismatch(&filled, &asked))
        }
        (Some(filled), _) => Ok(Chosen {
            embedding: filled.name,
            filled: true,
        }),
        (None, asked) => Ok(Chosen {
            embedding: asked.unwrap_or_else(|| STAND_IN.to_owned()),
            filled: false,
        }),
    }
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
    let known = catalogue()?.range(after, until, MOST_KEYS)?;
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

/// Makes a document's passages searchable, in place of those it had. The same again changes
/// nothing.
// As often as `entities.link`: a backend may be away for a minute.
#[activity(
    queue = "storage-queue",
    start_to_close = "1h",
    retry(maximum_interval = "10s", maximum_attempts = 12)
)]
pub fn index(input: Document) -> Result<Indexed> {
    let catalogue = catalogue()?;
    let objects = blob::Container::open("work")?;
    let mut vectors = passages::vectors::Reader::open(&objects, &input.vectors_key)?;
    catalogue.claim(&vectors.embedding)?;
    let collection = store::create(&vectors.embedding)?;
    let version = version(&input, &vectors.embedding.to_string());
    catalogue.begin(&input.key, &version)?;
    let mut all = passages::read(&objects, &input.passages_key)?;
    let mut passages = 0;
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        for passage in all.by_ref().take(BATCH) {
            batch.push(store::item(
                &input.key,
                &version,
                passage?,
                vectors.take()?,
            )?);
        }
        if batch.is_empty() {
            break;
        }
        passages += batch.len() as u64;
        collection.upsert(batch)?;
        context::progress(passages, 0, "indexing");
    }
    // What this document had before is still found, and this is not yet.
    let there = store::count(&collection, &version)?;
    if there < passages {
        let message = "another run takes the passages of the same document away";
        return Err(Error::retryable("conflict", message));
    }
    catalogue.complete(&input, &version, passages)?;
    store::sweep(&collection, &input.key, Some((&version, passages)))?;
    Ok(Indexed {
        key: input.key,
        title: input.title,
        format: input.format,
        passages,
    })
}

/// The same for the same document, unchanged, and the same embedding. FNV-1a, 128 bits: a
/// collision would need two versions of one document.
fn version(document: &Document, embedding: &str) -> String {
    let parts = [&document.key, &document.etag, embedding].map(str::as_bytes);
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in parts.join(&0) {
        hash ^= u128::from(byte);
        hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    format!("{hash:032x}")
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
    catalogue()?.reject(&input)?;
    if let Some(collection) = store::open()? {
        store::sweep(&collection, &input.key, None)?;
    }
    Ok(())
}

/// Forgets documents that are gone: passages, objects and, last, what the catalogue has, so
/// that an attempt that breaks off is gone on with.
#[activity(queue = "storage-queue", start_to_close = "30m")]
pub fn remove(input: Removed) -> Result<()> {
    if input.keys.len() > MOST_KEYS as usize {
        let message = format!("at most {MOST_KEYS} keys at once, not {}", input.keys.len());
        return Err(Error::new("invalid-input", message));
    }
    let catalogue = catalogue()?;
    if let Some(collection) = store::open()? {
        store::remove(&collection, &input.keys)?;
    }
    let objects = blob::Container::open("work")?;
    for key in &input.keys {
        work::delete(&objects, key)?;
    }
    catalogue.remove(&input.keys)
}

/// Forgets everything, so that the next synchronization processes all documents again.
#[activity(queue = "storage-queue", start_to_close = "30m")]
pub fn reset() -> Result<()> {
    let catalogue = catalogue()?;
    store::clear()?;
    catalogue.clear()
}

/// Lists the documents that cannot be read, by the kind of their failure.
#[activity(queue = "general-queue", start_to_close = "30s")]
pub fn failures(input: FailureQuery) -> Result<Failures> {
    let limit = range("limit", input.limit, 100, 1_000)?;
    let after = input.after.as_deref().unwrap_or("");
    catalogue()?.failures(input.kind.as_deref(), after, limit)
}

/// Counts what the index holds.
#[activity(queue = "general-queue", start_to_close = "30s")]
pub fn overview(_: Nothing) -> Result<Overview> {
    catalogue()?.overview()
}

/// Searches the passages of all documents.
#[activity(queue = "general-queue", start_to_close = "30s")]
pub fn search(input: Query) -> Result<Results> {
    let limit = range("limit", input.limit, 10, 100)?;
    let passages = search::search(&catalogue()?, store::open()?.as_ref(), &input, limit)?;
    Ok(Results { passages })
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
                if statement.contains("knowledge_settings") {
                    let version = vec![sql::Value::from(catalogue::VERSION)];
                    return Ok(sql::Rows::new(["value"], [version]).into());
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
            step: None,
            reason: String::new(),
        };
        assert!(of("file-encrypted").is_final() && of("trap").is_final());
        assert!(!of("worker-lost").is_final() && !of("unavailable").is_final());
        // All stores and models answer it when they are slow; a document, only to its extraction.
        assert!(!of("timeout").is_final() && of("extraction-timeout").is_final());
        let at = |step: &str, kind: &str| Rejected {
            step: Some(step.to_owned()),
            ..of(kind)
        };
        assert!(at("extract", "too-large").is_final() && at("extract", "trap").is_final());
        assert!(!at("extract", "unavailable").is_final());
        // A full graph is no fault of the document that came when it was.
        assert!(!at("link", "limit-exceeded").is_final() && !at("index", "trap").is_final());
    }
}
