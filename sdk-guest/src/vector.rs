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

mod collection;
mod filter;
mod item;
mod search;
mod specification;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;

pub use collection::Collection;
pub use filter::Filter;
pub(crate) use filter::{Comparison, Node};
pub use item::{Hit, Item, Value};
pub use search::Search;
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
