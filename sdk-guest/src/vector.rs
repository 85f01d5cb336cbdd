//! Collections of items that are found by their vectors, by the words in their texts, or by
//! both. A plugin cannot tell which store it has.
//!
//! ```
//! use heyday_sdk::prelude::*;
//! use heyday_sdk::vector::{Distance, Filter, Item, Property, Search, Specification};
//!
//! fn remember(chunks: &[(&str, &str, [f32; 3])]) -> Result<()> {
//!     let store = vector::Store::open("default")?;
//!     let specification = Specification::new(3, Distance::Cosine)
//!         .property(Property::text("body").searchable())
//!         .property(Property::text("language").filterable());
//!     store.create("chunks", &specification)?;
//!     let items = chunks.iter().map(|(id, body, vector)| {
//!         Item::new(*id).vector(*vector).set("body", *body).set("language", "en")
//!     });
//!     store.collection("chunks")?.upsert(items)?;
//!     Ok(())
//! }
//!
//! fn closest(vector: &[f32]) -> Result<Option<String>> {
//!     let chunks = vector::Store::open("default")?.collection("chunks")?;
//!     let search = Search::new(1).filter(Filter::eq("language", "en"));
//!     let hits = chunks.nearest(vector, &search)?;
//!     Ok(hits.into_iter().next().map(|hit| hit.item.id))
//! }
//!
//! let _test = heyday_sdk::test::Context::new().vector("default").enter();
//! remember(&[
//!     ("1", "bread rises in the oven", [1.0, 0.0, 0.0]),
//!     ("2", "the rotor is balanced", [0.0, 1.0, 0.2]),
//! ])
//! .unwrap();
//! assert_eq!(closest(&[0.1, 1.0, 0.0]).unwrap().as_deref(), Some("2"));
//! ```

mod filter;
mod item;
mod specification;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;

pub use filter::Filter;
pub(crate) use filter::{Comparison, Node};
pub use item::{Hit, Item, Value};
pub use specification::{Distance, Property, PropertyType, Specification};

use crate::error::CapabilityError;
use crate::host::vector as host;

/// Why a call failed; `wit/vector` explains the codes.
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// What is searched for, and what is answered of it. As it is new: whatever passes, with all
/// properties and without vectors.
///
/// ```
/// use heyday_sdk::vector::{Filter, Search};
///
/// let search = Search::new(10)
///     .filter(Filter::gt("year", 1990).and(!Filter::missing("author")))
///     .properties(["title"])
///     .with_vectors();
/// # let _ = search;
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Search {
    pub(crate) limit: u32,
    pub(crate) filter: Filter,
    pub(crate) properties: Option<Vec<String>>,
    pub(crate) vectors: bool,
}

impl Search {
    /// At most so many items: 1 to what the binding allows (1,000 unless the operator said
    /// otherwise).
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            filter: Filter::everything(),
            properties: None,
            vectors: false,
        }
    }

    /// Only items that pass it.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Only these properties are answered.
    pub fn properties<P: Into<String>>(mut self, properties: impl IntoIterator<Item = P>) -> Self {
        self.properties = Some(properties.into_iter().map(Into::into).collect());
        self
    }

    /// Vectors are answered too.
    pub fn with_vectors(mut self) -> Self {
        self.vectors = true;
        self
    }
}

/// A granted store.
///
/// ```
/// use heyday_sdk::prelude::*;
/// use heyday_sdk::vector::{Distance, Item, Specification};
///
/// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
/// let store = vector::Store::open("default")?;
/// let specification = Specification::new(2, Distance::Dot).tenants();
/// assert!(store.create("notes", &specification)?);
/// assert!(!store.create("notes", &specification)?); // It is there already.
/// store.tenant("notes", "acme")?.upsert([Item::new("1").vector([1.0, 0.0])])?;
/// assert_eq!(store.tenants("notes", 10, None)?, ["acme"]);
/// assert!(store.drop_tenant("notes", "acme")?);
/// assert_eq!(store.collections()?, ["notes"]);
/// assert!(store.drop_collection("notes")?);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Store {
    host: host::Store,
}

impl Store {
    /// Opens the binding of this name; `default` is the usual one.
    ///
    /// # Errors
    /// `capability-denied` without a grant, `unknown-binding`.
    pub fn open(binding: &str) -> Result<Self> {
        Ok(Self {
            host: host::Store::open(binding)?,
        })
    }

    /// Makes a collection; answers whether it was not there. One that is there with the same
    /// specification is left as it is.
    ///
    /// # Errors
    /// `already-exists` where there is another one, `invalid-specification`, and others, as
    /// `wit/vector` says.
    pub fn create(&self, name: &str, specification: &Specification) -> Result<bool> {
        self.host.create(name, specification)
    }

    /// The names of the collections, in order.
    ///
    /// # Errors
    /// As `wit/vector` says.
    pub fn collections(&self) -> Result<Vec<String>> {
        self.host.collections()
    }

    /// Deletes a collection with all its items; answers whether there was one.
    ///
    /// # Errors
    /// As `wit/vector` says.
    pub fn drop_collection(&self, name: &str) -> Result<bool> {
        self.host.drop_collection(name)
    }

    /// A collection that has no tenants.
    ///
    /// # Errors
    /// `not-found`, or `invalid-specification` where it has tenants.
    pub fn collection(&self, name: &str) -> Result<Collection> {
        self.open_collection(name, None)
    }

    /// What a collection has of one tenant, who is there from its first item on.
    ///
    /// # Errors
    /// `not-found`, or `invalid-specification` where it has no tenants.
    pub fn tenant(&self, name: &str, tenant: &str) -> Result<Collection> {
        self.open_collection(name, Some(tenant))
    }

    fn open_collection(&self, name: &str, tenant: Option<&str>) -> Result<Collection> {
        Ok(Collection {
            host: self.host.collection(name, tenant)?,
        })
    }

    /// The tenants of a collection, in order: at most `limit` (1 to 1,000), after the one
    /// that is named.
    ///
    /// # Errors
    /// `not-found`, `invalid-specification` where it has no tenants, and others.
    pub fn tenants(&self, name: &str, limit: u32, after: Option<&str>) -> Result<Vec<String>> {
        self.host.tenants(name, limit, after)
    }

    /// Deletes a tenant with all its items; answers whether there was one.
    ///
    /// # Errors
    /// `not-found`, `invalid-specification` where it has no tenants, and others.
    pub fn drop_tenant(&self, name: &str, tenant: &str) -> Result<bool> {
        self.host.drop_tenant(name, tenant)
    }
}

/// A collection, or what it has of one tenant.
///
/// ```
/// use heyday_sdk::prelude::*;
/// use heyday_sdk::vector::{Distance, Filter, Item, Property, Search, Specification};
///
/// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
/// let store = vector::Store::open("default")?;
/// let specification = Specification::new(2, Distance::Cosine)
///     .property(Property::text("title").searchable())
///     .property(Property::integer("year").filterable());
/// store.create("books", &specification)?;
/// let books = store.collection("books")?;
/// books.upsert([
///     Item::new("a").vector([1.0, 0.0]).set("title", "The rotor").set("year", 1988),
///     Item::new("b").vector([0.9, 0.1]).set("title", "On bread").set("year", 2001),
/// ])?;
/// let search = Search::new(10);
/// assert_eq!(books.nearest(&[1.0, 0.0], &search)?[0].item.id, "a");
/// assert_eq!(books.keywords("bread", &[], &search)?[0].item.id, "b");
/// let both = books.hybrid("bread", &["title"], &[1.0, 0.0], 0.2, &search)?;
/// assert_eq!(both[0].item.id, "b");
/// assert_eq!(books.count(&Filter::lt("year", 2000))?, 1);
/// assert_eq!(books.get(["b", "c"])?[1], None);
/// assert_eq!(books.delete_where(&Filter::ge("year", 2000))?, 1);
/// assert_eq!(books.delete(["a"])?, 1);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct Collection {
    host: host::Collection,
}

impl Collection {
    /// What it is.
    pub fn specification(&self) -> Specification {
        self.host.specification()
    }

    /// Writes items, each in the place of the one with its id. The same again changes
    /// nothing. Where it fails, some of them may have been written.
    ///
    /// # Errors
    /// `invalid-id`, `invalid-vector`, `invalid-property`, `limit-exceeded` and others, as
    /// `wit/vector` says.
    pub fn upsert(&self, items: impl IntoIterator<Item = Item>) -> Result<()> {
        self.host.upsert(items.into_iter().collect())
    }

    /// The items with these ids, with all properties and without vectors, in the order of the
    /// ids.
    ///
    /// # Errors
    /// As `wit/vector` says.
    pub fn get<I: AsRef<str>>(
        &self,
        ids: impl IntoIterator<Item = I>,
    ) -> Result<Vec<Option<Item>>> {
        self.host.get(owned(ids), None, false)
    }

    /// The items with these ids, with what a search would answer of them; its limit and its
    /// filter do not count.
    ///
    /// # Errors
    /// As `wit/vector` says.
    pub fn get_as<I: AsRef<str>>(
        &self,
        ids: impl IntoIterator<Item = I>,
        search: &Search,
    ) -> Result<Vec<Option<Item>>> {
        let properties = search.properties.as_deref();
        self.host.get(owned(ids), properties, search.vectors)
    }

    /// Deletes the items with these ids; answers how many there were.
    ///
    /// # Errors
    /// As `wit/vector` says.
    pub fn delete<I: AsRef<str>>(&self, ids: impl IntoIterator<Item = I>) -> Result<u64> {
        self.host.delete(owned(ids))
    }

    /// Deletes the items that pass a filter; answers how many there were. Where it fails,
    /// some of them may have been deleted.
    ///
    /// # Errors
    /// `invalid-filter`, also for [`Filter::everything`], and others.
    pub fn delete_where(&self, filter: &Filter) -> Result<u64> {
        self.host.delete_where(filter)
    }

    /// How many items pass a filter.
    ///
    /// # Errors
    /// As `wit/vector` says.
    pub fn count(&self, filter: &Filter) -> Result<u64> {
        self.host.count(filter)
    }

    /// The items whose vectors are closest, the closest first. A store may miss a few of
    /// many items.
    ///
    /// # Errors
    /// `invalid-vector`, `invalid-filter` and others, as `wit/vector` says.
    pub fn nearest(&self, vector: &[f32], search: &Search) -> Result<Vec<Hit>> {
        self.host.nearest(vector, None, search)
    }

    /// As [`nearest`](Self::nearest), only those that are at most so far.
    ///
    /// # Errors
    /// As [`nearest`](Self::nearest).
    pub fn nearest_within(&self, vector: &[f32], within: f32, search: &Search) -> Result<Vec<Hit>> {
        self.host.nearest(vector, Some(within), search)
    }

    /// The items that have any of the words of a text in these searchable properties, or in
    /// any if none is named; by BM25, the best first.
    ///
    /// # Errors
    /// `invalid-search` where no property is searchable, and others, as `wit/vector` says.
    pub fn keywords(&self, text: &str, properties: &[&str], search: &Search) -> Result<Vec<Hit>> {
        self.host.keywords(text, &owned(properties), search)
    }

    /// Both, by the ranks that items have in each. With `alpha` 1 only vectors count, with 0
    /// only words.
    ///
    /// # Errors
    /// As [`nearest`](Self::nearest) and [`keywords`](Self::keywords).
    pub fn hybrid(
        &self,
        text: &str,
        properties: &[&str],
        vector: &[f32],
        alpha: f32,
        search: &Search,
    ) -> Result<Vec<Hit>> {
        self.host
            .hybrid(text, &owned(properties), vector, alpha, search)
    }
}

fn owned<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Vec<String> {
    texts
        .into_iter()
        .map(|text| text.as_ref().to_owned())
        .collect()
}
