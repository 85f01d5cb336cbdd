//! `heyday:vector`: collections of items that are found by their vectors, by the words in
//! their texts, or by both.
//!
//! The way of a call: `host.rs` takes the guest's call and looks the collection up; `check`
//! and `filter` make of what the guest said what a [`Store`] takes, once for all backends:
//! names became numbers of properties, a filter a typed tree, and every value has its
//! property's type. The operation of [`Store`] runs under the attempt's deadline,
//! cancellation and grants. [`sqlite`] keeps everything in a database file of its own,
//! [`weaviate`] in classes of a Weaviate.
//!
//! A hybrid search is two searches and the fusion of their ranks, here and not in a backend
//! (`fusion`): a distance and a score of BM25 cannot be added up. Words are scored alike on all
//! backends, by what the collection, or the tenant, has.

mod check;
mod filter;
mod fusion;
mod host;
#[cfg(test)]
mod numbers;
mod quantized;
pub mod sqlite;
mod sqlite_bm25;
mod sqlite_changes;
mod sqlite_copies;
#[cfg(test)]
mod sqlite_copies_tests;
mod sqlite_error;
mod sqlite_filter;
mod sqlite_nearest;
mod sqlite_search;
mod sqlite_tables;
mod sqlite_targets;
#[cfg(test)]
mod sqlite_tests;
mod sqlite_totals;
mod sqlite_vec;
#[cfg(test)]
mod sqlite_words_tests;
mod sqlite_write;
pub mod weaviate;

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use filter::{Filter, Order};
pub use host::VectorCapability;
pub use host::bindings::heyday::vector::vector::{
    Comparison, Distance, FilterNode, Property, PropertyType, Specification, Value,
};

use crate::diagnosis::Finding;
use crate::error::{CapabilityError, codes};

/// The most properties of a collection.
pub const PROPERTIES: usize = 64;
/// Bytes of a text that is searched for.
pub const SEARCHED_BYTES: usize = 4_096;
/// The most words of a text times properties that are searched.
pub const MOST_COUNTED: usize = 4_096;
/// Bytes of a text that filters may ask for.
pub const FILTERABLE_BYTES: usize = 1_024;
/// The most texts of a list, and values of a `one-of`.
pub const LIST: usize = 1_000;
/// How soon BM25 has enough of a word that a text repeats.
const BM25_K1: f64 = 1.2;
/// How much BM25 minds the length of a text.
const BM25_B: f64 = 0.75;
/// The most tenants of one page.
pub const PAGE_TENANTS: u32 = 1_000;

codes! {
    /// The codes of `heyday:vector`; see `wit/vector`.
    VectorCode {
        /// Not granted, or a write through a read-only grant.
        CapabilityDenied = "capability-denied",
        /// Granted but not configured.
        UnknownBinding = "unknown-binding",
        /// No such collection.
        NotFound = "not-found",
        /// Another collection of that name.
        AlreadyExists = "already-exists",
        /// A name that nothing has.
        InvalidName = "invalid-name",
        /// A specification that no collection can have, or a tenant where it has none.
        InvalidSpecification = "invalid-specification",
        /// An id that no item has, or one twice.
        InvalidId = "invalid-id",
        /// Not a vector of the collection.
        InvalidVector = "invalid-vector",
        /// Not a property of the collection, or not its value.
        InvalidProperty = "invalid-property",
        /// No filter of the collection.
        InvalidFilter = "invalid-filter",
        /// Not to be searched so.
        InvalidSearch = "invalid-search",
        /// Over a limit.
        LimitExceeded = "limit-exceeded",
        /// Other writers were faster.
        Conflict = "conflict",
        /// The deadline came, or the binding's limit.
        Timeout = "timeout",
        /// The attempt was asked to stop.
        Cancelled = "cancelled",
        /// The store cannot be reached, or has no room.
        Unavailable = "unavailable",
        /// A fault of the host.
        Internal = "internal",
    }
    retryable: Conflict, Timeout, Unavailable
}

/// An error of `heyday:vector`.
pub type VectorError = CapabilityError<VectorCode>;

/// Limits of a binding; each has a safe default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VectorLimits {
    /// Collections.
    pub collections: u32,
    /// Numbers of a vector.
    pub dimensions: u32,
    /// Items that one call writes, reads by their ids, or deletes by them.
    pub batch_items: u32,
    /// Items that one search answers.
    pub result_items: u32,
    /// Bytes of one item.
    pub item_bytes: u64,
    /// Bytes that one call writes or answers.
    pub call_bytes: u64,
    /// Bytes that one attempt may read and write in all.
    pub attempt_bytes: u64,
    /// How long one call may take, in milliseconds.
    pub call_timeout_ms: u64,
    /// How long a call waits for its turn, in milliseconds.
    pub busy_timeout_ms: u64,
    /// Calls that are under way at once, on Weaviate.
    pub concurrent_calls: u32,
    /// Bytes that the store may have, on SQLite; none means as the disk allows.
    pub store_bytes: Option<u64>,
    /// Bytes of memory for copies of vectors, on SQLite; 0 means none.
    pub memory_bytes: u64,
}

impl Default for VectorLimits {
    fn default() -> Self {
        Self {
            collections: 100,
            dimensions: 4_096,
            batch_items: 1_000,
            result_items: 1_000,
            item_bytes: 1 << 20,
            call_bytes: 16 << 20,
            attempt_bytes: 4 << 30,
            call_timeout_ms: 60_000,
            busy_timeout_ms: 30_000,
            concurrent_calls: 16,
            store_bytes: None,
            memory_bytes: 256 << 20,
        }
    }
}

/// A collection that there is.
#[derive(Debug, Clone, PartialEq)]
pub struct Collection {
    /// Its name.
    pub name: String,
    /// Which one it is, of all that had or will have this name: the backend's matter.
    pub key: String,
    /// What it is.
    pub specification: Specification,
}

/// A collection, or what it has of one tenant.
#[derive(Debug, Clone)]
pub struct Target {
    /// The collection.
    pub collection: Arc<Collection>,
    /// The tenant, where it has tenants.
    pub tenant: Option<String>,
}

/// An item, checked; its values by the numbers of the properties.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// Its vector.
    pub vector: Option<Vec<f32>>,
    /// A value, or none, for each property of the specification.
    pub values: Vec<Option<Value>>,
}

impl Entry {
    /// About what it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let vector = self.vector.as_ref().map_or(0, |vector| 4 * vector.len());
        let values = self.values.iter().flatten().map(|value| match value {
            Value::Text(text) => text.len(),
            Value::TextList(texts) => texts.iter().map(|text| text.len() + 8).sum(),
            _ => 8,
        });
        (self.id.len() + vector + values.sum::<usize>()) as u64
    }
}

/// What is answered of an item; its id always is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Want {
    /// Numbers of properties, in order.
    pub properties: Vec<usize>,
    /// The vector.
    pub vectors: bool,
}

/// What a search is about, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// At most so many.
    pub limit: u32,
    /// Only what passes.
    pub filter: Option<Filter>,
    /// What is answered.
    pub want: Want,
}

/// An item that was found, with its distance or its score.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What was asked for of it.
    pub entry: Entry,
    /// Its distance or its score.
    pub number: f32,
}

/// One store. What it is given was checked. Dropping the future of an operation ends the
/// work.
///
/// # Errors
/// Of all operations: as the WIT's `error` says. One on a collection that was dropped
/// meanwhile is [`VectorCode::NotFound`].
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What stands behind it, for operators; plugins are not told.
    fn backend(&self) -> &'static str;

    /// Whether it takes no writes at all.
    fn read_only(&self) -> bool;

    /// Its limits.
    fn limits(&self) -> &VectorLimits;

    /// Looks whether it can be used; changes nothing that a plugin stored.
    async fn diagnose(&self) -> Vec<Finding>;

    /// Closes it, when no more operations come.
    async fn close(&self);

    /// Makes a collection; answers whether it was not there.
    async fn create(&self, name: String, specification: Specification)
    -> Result<bool, VectorError>;

    /// The names of the collections, in order.
    async fn collections(&self) -> Result<Vec<String>, VectorError>;

    /// The collection of that name.
    async fn find(&self, name: String) -> Result<Option<Collection>, VectorError>;

    /// Deletes a collection; answers whether there was one.
    async fn drop_collection(&self, name: String) -> Result<bool, VectorError>;

    /// Tenants, in the order of their bytes: at most `limit`, after one.
    async fn tenants(
        &self,
        collection: &Collection,
        limit: u32,
        after: Option<String>,
    ) -> Result<Vec<String>, VectorError>;

    /// Deletes a tenant; answers whether there was one.
    async fn drop_tenant(
        &self,
        collection: &Collection,
        tenant: String,
    ) -> Result<bool, VectorError>;

    /// Writes items, each in the place of the one with its id. No id stands twice.
    async fn upsert(&self, target: &Target, entries: Vec<Entry>) -> Result<(), VectorError>;

    /// The items with these ids, in their order.
    async fn get(
        &self,
        target: &Target,
        ids: Vec<String>,
        want: Want,
    ) -> Result<Vec<Option<Entry>>, VectorError>;

    /// Deletes the items with these ids; answers how many there were.
    async fn delete(&self, target: &Target, ids: Vec<String>) -> Result<u64, VectorError>;

    /// Deletes the items that pass; answers how many there were.
    async fn delete_where(&self, target: &Target, filter: Filter) -> Result<u64, VectorError>;

    /// How many items pass.
    async fn count(&self, target: &Target, filter: Option<Filter>) -> Result<u64, VectorError>;

    /// The closest items, and their distances; at most so far.
    async fn nearest(
        &self,
        target: &Target,
        vector: Vec<f32>,
        within: Option<f32>,
        query: Query,
    ) -> Result<Vec<Found>, VectorError>;

    /// The items that have any of the words, and their scores; there is at least one word.
    /// `properties` are the numbers of searchable ones, at least one.
    async fn keywords(
        &self,
        target: &Target,
        words: Vec<String>,
        properties: Vec<usize>,
        query: Query,
    ) -> Result<Vec<Found>, VectorError>;
}

/// The error of a collection that is not, or no longer, there.
fn not_found(name: &str) -> VectorError {
    VectorError::new(
        VectorCode::NotFound,
        format!("there is no collection {name}"),
    )
}

/// The error of an answer that is too large.
fn too_large(limit: u64) -> VectorError {
    VectorError::new(
        VectorCode::LimitExceeded,
        format!("the answer has more than the {limit} bytes that the binding allows: ask for less"),
    )
}

/// The error of another collection of that name.
fn already_exists(name: &str) -> VectorError {
    VectorError::new(
        VectorCode::AlreadyExists,
        format!("there is a collection {name} with another specification"),
    )
}

/// The error of a collection too many.
fn too_many_collections(limit: u32) -> VectorError {
    VectorError::new(
        VectorCode::LimitExceeded,
        format!("the store has the {limit} collections that the binding allows"),
    )
}

/// The error of a call that took too long.
fn too_slow(limit_ms: u64) -> VectorError {
    VectorError::new(
        VectorCode::Timeout,
        format!("the call took longer than the {limit_ms} ms that the binding allows"),
    )
}

/// The error of a write to a binding that takes none.
fn read_only() -> VectorError {
    VectorError::new(VectorCode::CapabilityDenied, "the binding is read-only")
}
