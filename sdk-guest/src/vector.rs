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
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
/// use heyday_sdk::vector::{Distance, Error, Specification, Store};
///
/// fn advice(error: &Error) -> &'static str {
///     match error.code.as_str() {
///         "already-exists" => "index into a collection of another name",
///         "not-found" => "make the collection first",
///         _ => "try again later",
///     }
/// }
/// let store = Store::open("default")?;
/// store.create("chunks", &Specification::new(384, Distance::Cosine))?;
/// let error = store.create("chunks", &Specification::new(768, Distance::Cosine)).unwrap_err();
/// assert_eq!(advice(&error), "index into a collection of another name");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
pub type Error = CapabilityError;

type Result<T> = std::result::Result<T, Error>;

/// What is searched for, and what is answered of it. As it is new: whatever passes, with all
/// properties and without vectors.
///
/// ```
/// # use heyday_sdk::vector::*;
/// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
/// # let store = Store::open("default")?;
/// # let specification = Specification::new(1, Distance::Dot)
/// #     .property(Property::text("author").filterable())
/// #     .property(Property::integer("year").filterable());
/// # store.create("books", &specification)?;
/// # let books = store.collection("books")?;
/// # books.upsert([Item::new("a").vector([1.0]).set("author", "Ada").set("year", 2001)])?;
/// use heyday_sdk::vector::{Filter, Item, Search};
///
/// let search = Search::new(10)
///     .filter(Filter::gt("year", 1990).and(!Filter::missing("author")))
///     .properties(["year"])
///     .with_vectors();
/// let found = books.nearest(&[1.0], &search)?.remove(0).item;
/// assert_eq!(found, Item::new("a").vector([1.0]).set("year", 2001));
/// # Ok::<(), heyday_sdk::Error>(())
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
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// use heyday_sdk::vector::Search;
    ///
    /// assert_eq!(books.nearest(&[1.0, 0.0], &Search::new(1))?.len(), 1);
    /// assert!(books.nearest(&[1.0, 0.0], &Search::new(0)).unwrap_err().is("limit-exceeded"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            filter: Filter::everything(),
            properties: None,
            vectors: false,
        }
    }

    /// Only items that pass it.
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// use heyday_sdk::vector::{Filter, Search};
    ///
    /// let none = Search::new(10).filter(Filter::any([]));
    /// assert!(books.nearest(&[1.0, 0.0], &none)?.is_empty());
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Only these properties are answered.
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// use heyday_sdk::vector::{Item, Search};
    ///
    /// let ids = Search::new(1).properties::<&str>([]);
    /// assert_eq!(books.nearest(&[1.0, 0.0], &ids)?[0].item, Item::new("a"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn properties<P: Into<String>>(mut self, properties: impl IntoIterator<Item = P>) -> Self {
        self.properties = Some(properties.into_iter().map(Into::into).collect());
        self
    }

    /// Vectors are answered too.
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// use heyday_sdk::vector::Search;
    ///
    /// let hits = books.keywords("bread", &[], &Search::new(1).with_vectors())?;
    /// assert_eq!(hits[0].item.vector.as_deref(), Some(&[0.0, 1.0][..]));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// use heyday_sdk::vector::Store;
    ///
    /// let _test = heyday_sdk::test::Context::new().vector("chunks").enter();
    /// assert!(Store::open("chunks").is_ok());
    /// assert!(Store::open("default").unwrap_err().is("capability-denied"));
    /// ```
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
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Property, Specification, Store};
    ///
    /// let store = Store::open("default")?;
    /// let chunks = Specification::new(384, Distance::Cosine).property(Property::text("body"));
    /// assert!(store.create("chunks", &chunks)?);
    /// assert!(!store.create("chunks", &chunks)?); // As on every run after the first.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `already-exists` where there is another one, `invalid-specification`, and others, as
    /// `wit/vector` says.
    pub fn create(&self, name: &str, specification: &Specification) -> Result<bool> {
        self.host.create(name, specification)
    }

    /// The names of the collections, in order.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Specification, Store};
    ///
    /// let store = Store::open("default")?;
    /// for name in ["pages", "chunks"] {
    ///     store.create(name, &Specification::new(2, Distance::Dot))?;
    /// }
    /// assert_eq!(store.collections()?, ["chunks", "pages"]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/vector` says.
    pub fn collections(&self) -> Result<Vec<String>> {
        self.host.collections()
    }

    /// Deletes a collection with all its items; answers whether there was one.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Specification, Store};
    ///
    /// let store = Store::open("default")?;
    /// store.create("chunks-1", &Specification::new(2, Distance::Dot))?;
    /// assert!(store.drop_collection("chunks-1")?);
    /// assert!(!store.drop_collection("chunks-1")?); // Nothing was there any more.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/vector` says.
    pub fn drop_collection(&self, name: &str) -> Result<bool> {
        self.host.drop_collection(name)
    }

    /// A collection that has no tenants.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Specification, Store};
    ///
    /// let store = Store::open("default")?;
    /// assert!(store.collection("chunks").unwrap_err().is("not-found"));
    /// store.create("chunks", &Specification::new(2, Distance::Dot))?;
    /// assert_eq!(store.collection("chunks")?.specification().dimensions, 2);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `not-found`, or `invalid-specification` where it has tenants.
    pub fn collection(&self, name: &str) -> Result<Collection> {
        self.open_collection(name, None)
    }

    /// What a collection has of one tenant, who is there from its first item on.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Item, Specification, Store};
    ///
    /// let store = Store::open("default")?;
    /// store.create("notes", &Specification::new(1, Distance::Dot).tenants())?;
    /// store.tenant("notes", "acme")?.upsert([Item::new("1").vector([1.0])])?;
    /// assert_eq!(store.tenant("notes", "other")?.get(["1"])?, [None]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Item, Specification, Store};
    ///
    /// let store = Store::open("default")?;
    /// store.create("notes", &Specification::new(1, Distance::Dot).tenants())?;
    /// for tenant in ["acme", "beta", "coop"] {
    ///     store.tenant("notes", tenant)?.upsert([Item::new("1")])?;
    /// }
    /// assert_eq!(store.tenants("notes", 2, None)?, ["acme", "beta"]);
    /// assert_eq!(store.tenants("notes", 2, Some("beta"))?, ["coop"]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `not-found`, `invalid-specification` where it has no tenants, and others.
    pub fn tenants(&self, name: &str, limit: u32, after: Option<&str>) -> Result<Vec<String>> {
        self.host.tenants(name, limit, after)
    }

    /// Deletes a tenant with all its items; answers whether there was one.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Item, Specification, Store};
    ///
    /// let store = Store::open("default")?;
    /// store.create("notes", &Specification::new(1, Distance::Dot).tenants())?;
    /// store.tenant("notes", "acme")?.upsert([Item::new("1")])?;
    /// assert!(store.drop_tenant("notes", "acme")?);
    /// assert!(store.tenants("notes", 10, None)?.is_empty());
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// // What may be searched for.
    /// let specification = books.specification();
    /// let mut searchable = specification.properties.iter().filter(|property| property.searchable);
    /// assert_eq!(searchable.next().unwrap().name, "title");
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn specification(&self) -> Specification {
        self.host.specification()
    }

    /// Writes items, each in the place of the one with its id. The same again changes
    /// nothing. Where it fails, some of them may have been written.
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// use heyday_sdk::vector::Item;
    ///
    /// books.upsert([Item::new("a").set("title", "The stator")])?;
    /// let found = books.get(["a"])?;
    /// assert_eq!(found[0].as_ref().unwrap().text("title"), Some("The stator"));
    /// let unknown = books.upsert([Item::new("c").set("author", "Ada")]).unwrap_err();
    /// assert!(unknown.is("invalid-property"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// let found = books.get(["b", "z"])?;
    /// assert_eq!(found[0].as_ref().unwrap().text("title"), Some("On bread"));
    /// assert_eq!(found[1], None);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// use heyday_sdk::vector::{Item, Search};
    ///
    /// let vectors = Search::new(1).properties::<&str>([]).with_vectors();
    /// let found = books.get_as(["a", "b"], &vectors)?;
    /// assert_eq!(found[1], Some(Item::new("b").vector([0.0, 1.0])));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// assert_eq!(books.delete(["a", "z"])?, 1);
    /// assert_eq!(books.get(["a"])?, [None]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/vector` says.
    pub fn delete<I: AsRef<str>>(&self, ids: impl IntoIterator<Item = I>) -> Result<u64> {
        self.host.delete(owned(ids))
    }

    /// Deletes the items that pass a filter; answers how many there were. Where it fails,
    /// some of them may have been deleted.
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let store = Store::open("default")?;
    /// # let year = Property::integer("year").filterable();
    /// # store.create("books", &Specification::new(1, Distance::Dot).property(year))?;
    /// # let books = store.collection("books")?;
    /// # let of = [("a", 1988), ("b", 2001), ("c", 2020)];
    /// # books.upsert(of.map(|(id, year)| Item::new(id).set("year", year)))?;
    /// // Books of 1988, 2001 and 2020.
    /// use heyday_sdk::vector::Filter;
    ///
    /// assert_eq!(books.delete_where(&Filter::lt("year", 2010))?, 2);
    /// assert!(books.delete_where(&Filter::everything()).unwrap_err().is("invalid-filter"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-filter`, also for [`Filter::everything`], and others.
    pub fn delete_where(&self, filter: &Filter) -> Result<u64> {
        self.host.delete_where(filter)
    }

    /// How many items pass a filter.
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let store = Store::open("default")?;
    /// # let year = Property::integer("year").filterable();
    /// # store.create("books", &Specification::new(1, Distance::Dot).property(year))?;
    /// # let books = store.collection("books")?;
    /// # let of = [("a", 1988), ("b", 2001), ("c", 2020)];
    /// # books.upsert(of.map(|(id, year)| Item::new(id).set("year", year)))?;
    /// // Books of 1988, 2001 and 2020.
    /// use heyday_sdk::vector::Filter;
    ///
    /// assert_eq!(books.count(&Filter::everything())?, 3);
    /// assert_eq!(books.count(&Filter::eq("year", 1988))?, 1);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As `wit/vector` says.
    pub fn count(&self, filter: &Filter) -> Result<u64> {
        self.host.count(filter)
    }

    /// The items whose vectors are closest, the closest first. A store may miss a few of
    /// many items.
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// use heyday_sdk::vector::Search;
    ///
    /// let hits = books.nearest(&[0.1, 0.9], &Search::new(2))?;
    /// let ids: Vec<&str> = hits.iter().map(|hit| hit.item.id.as_str()).collect();
    /// assert_eq!(ids, ["b", "a"]);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-vector`, `invalid-filter` and others, as `wit/vector` says.
    pub fn nearest(&self, vector: &[f32], search: &Search) -> Result<Vec<Hit>> {
        self.host.nearest(vector, None, search)
    }

    /// As [`nearest`](Self::nearest), only those that are at most so far.
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// use heyday_sdk::vector::Search;
    ///
    /// // Nothing rather than something far away.
    /// let search = Search::new(10);
    /// assert_eq!(books.nearest_within(&[0.0, 0.9], 0.5, &search)?.len(), 1);
    /// assert!(books.nearest_within(&[9.0, 9.0], 0.5, &search)?.is_empty());
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`nearest`](Self::nearest).
    pub fn nearest_within(&self, vector: &[f32], within: f32, search: &Search) -> Result<Vec<Hit>> {
        self.host.nearest(vector, Some(within), search)
    }

    /// The items that have any of the words of a text in these searchable properties, or in
    /// any if none is named; by BM25, the best first.
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// use heyday_sdk::vector::Search;
    ///
    /// let hits = books.keywords("bread or butter", &["title"], &Search::new(10))?;
    /// assert_eq!((hits.len(), hits[0].item.id.as_str()), (1, "b"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-search` where no property is searchable, and others, as `wit/vector` says.
    pub fn keywords(&self, text: &str, properties: &[&str], search: &Search) -> Result<Vec<Hit>> {
        self.host.keywords(text, &owned(properties), search)
    }

    /// Both, by the ranks that items have in each. With `alpha` 1 only vectors count, with 0
    /// only words.
    ///
    /// ```
    /// # use heyday_sdk::vector::*;
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// # let title = Property::text("title").searchable();
    /// # let specification = Specification::new(2, Distance::Euclidean).property(title);
    /// # Store::open("default")?.create("books", &specification)?;
    /// # let books = Store::open("default")?.collection("books")?;
    /// # let of = [("a", "The rotor", [1.0, 0.0]), ("b", "On bread", [0.0, 1.0])];
    /// # books.upsert(of.map(|(id, title, at)| Item::new(id).vector(at).set("title", title)))?;
    /// // `a`, "The rotor", is at [1, 0], and `b`, "On bread", at [0, 1].
    /// use heyday_sdk::vector::Search;
    ///
    /// let first = |alpha| {
    ///     let hits = books.hybrid("bread", &[], &[1.0, 0.0], alpha, &Search::new(1))?;
    ///     Ok::<_, heyday_sdk::vector::Error>(hits[0].item.id.clone())
    /// };
    /// assert_eq!(first(0.0)?, "b"); // By its words.
    /// assert_eq!(first(1.0)?, "a"); // By its vector.
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
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
