//! The passages, in the vector store: found by their vectors and by BM25.
//!
//! A passage's id is its document's version and its position. What is searched by words is
//! not its text but its terms (`words`), so that English words are found by their stems and
//! scripts without spaces by their characters in every store; the heading's stand before the
//! text's, twice, for they tell more.

use heyday_sdk::prelude::*;
use heyday_sdk::vector::{Collection, Distance, Filter, Item, Property, Specification};
use passages::Passage;
use passages::vectors::Embedding;
use passages::words::terms;

/// The collection's name.
const COLLECTION: &str = "passages";

/// Stands in `words` where no phrase goes on: between heading and text. It is no word.
pub const BREAK: &str = ".";

/// Forgets all passages.
pub fn clear() -> Result<()> {
    vector::Store::open("knowledge")?.drop_collection(COLLECTION)?;
    Ok(())
}

/// The collection, if anything was written.
pub fn open() -> Result<Option<Collection>> {
    match vector::Store::open("knowledge")?.collection(COLLECTION) {
        Ok(collection) => Ok(Some(collection)),
        Err(error) if error.is("not-found") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The collection for vectors of this embedding, made where it is missing.
pub fn create(embedding: &Embedding) -> Result<Collection> {
    let store = vector::Store::open("knowledge")?;
    let specification = Specification::new(embedding.dimensions, Distance::Cosine)
        .property(Property::text("document").filterable())
        .property(Property::text("version").filterable())
        .property(Property::integer("position").filterable())
        .property(Property::integer("offset"))
        .property(Property::integer("page"))
        .property(Property::text("heading"))
        .property(Property::text("text"))
        .property(Property::text("words").searchable());
    store.create(COLLECTION, &specification)?;
    Ok(store.collection(COLLECTION)?)
}

/// The id of a passage.
pub fn id(version: &str, position: u64) -> String {
    format!("{version}-{position}")
}

/// A passage as it is stored.
pub fn item(key: &str, version: &str, passage: Passage, vector: Vec<f32>) -> Result<Item> {
    let mut words = Vec::new();
    if let Some(heading) = &passage.heading {
        for _ in 0..2 {
            words.extend(terms(heading));
            words.push(BREAK.to_owned());
        }
    }
    words.extend(terms(&passage.text));
    let mut item = Item::new(id(version, passage.position))
        .vector(vector)
        .set("document", key)
        .set("version", version)
        .set("position", i64::try_from(passage.position)?)
        .set("offset", i64::try_from(passage.offset)?)
        .set("text", passage.text)
        .set("words", words.join(" "));
    if let Some(page) = passage.page {
        item = item.set("page", i64::try_from(page)?);
    }
    if let Some(heading) = passage.heading {
        item = item.set("heading", heading);
    }
    Ok(item)
}

/// A passage as it is found.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub key: String,
    pub version: String,
    pub position: u64,
    pub offset: u64,
    pub page: Option<u64>,
    pub heading: Option<String>,
    pub text: String,
    pub words: Vec<String>,
}

impl Stored {
    /// Reads an item of the collection.
    pub fn new(item: &Item) -> Result<Self> {
        let text = |name: &str| item.text(name).map(str::to_owned);
        let number = |name: &str| match item.value(name) {
            Some(vector::Value::Integer(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let read = || {
            Some(Self {
                key: text("document")?,
                version: text("version")?,
                position: number("position")?,
                offset: number("offset")?,
                page: number("page"),
                heading: text("heading"),
                text: text("text")?,
                words: text("words")?.split(' ').map(str::to_owned).collect(),
            })
        };
        read().ok_or_else(|| Error::new("internal", format!("the item {} is no passage", item.id)))
    }
}

/// Removes what is there of a document but the first passages of a version.
pub fn sweep(collection: &Collection, key: &str, kept: Option<(&str, u64)>) -> Result<()> {
    let mut filter = Filter::eq("document", key);
    if let Some((version, passages)) = kept {
        let end = Filter::ge("position", i64::try_from(passages)?);
        filter = filter.and(Filter::ne("version", version).or(end));
    }
    collection.delete_where(&filter)?;
    Ok(())
}

/// Removes what is there of documents.
pub fn remove(collection: &Collection, keys: &[String]) -> Result<()> {
    if !keys.is_empty() {
        collection.delete_where(&Filter::one_of("document", keys.iter().map(String::as_str)))?;
    }
    Ok(())
}

/// How many passages there are of a version.
pub fn count(collection: &Collection, version: &str) -> Result<u64> {
    Ok(collection.count(&Filter::eq("version", version))?)
}
