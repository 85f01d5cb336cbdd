//! What is searched for.

use super::Filter;

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
