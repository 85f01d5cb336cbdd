//! A collection: its items, and how they are found.

use super::{Filter, Hit, Item, Result, Search, Specification};
use crate::host::vector as host;

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
    pub(super) host: host::Collection,
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
