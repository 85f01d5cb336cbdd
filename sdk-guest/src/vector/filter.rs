//! Filters.

use std::ops::Not;

use super::Value;

/// How a property is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A node of a filter; it stands after those that it is made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Compare(String, Comparison, Value),
    OneOf(String, Vec<Value>),
    Missing(String),
    AllOf(u32),
    AnyOf(u32),
    Negation,
}

/// Which items count, by their filterable properties. What is compared with a property that
/// an item has not is not equal, and neither less nor greater.
///
/// ```
/// # use heyday_sdk::vector::*;
/// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
/// # let store = Store::open("default")?;
/// # let specification = Specification::new(1, Distance::Dot)
/// #     .property(Property::integer("year").filterable())
/// #     .property(Property::text("language").filterable())
/// #     .property(Property::text_list("tags").filterable());
/// # store.create("books", &specification)?;
/// # let books = store.collection("books")?;
/// # let book = |id: &str, year| Item::new(id).set("year", year).set("language", "en");
/// # books.upsert([book("a", 2021), book("b", 2001), book("c", 2022).set("tags", ["ours"])])?;
/// use heyday_sdk::vector::Filter;
///
/// let recent = Filter::ge("year", 2020).and(Filter::one_of("language", ["en", "de"]));
/// let ours = Filter::any([Filter::eq("tags", "ours"), Filter::missing("year")]);
/// assert_eq!(books.count(&recent.clone().and(!ours))?, 1);
/// assert_eq!(books.count(&recent)?, 2);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Filter {
    pub(crate) nodes: Vec<Node>,
}

impl Filter {
    /// Every item passes.
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
    /// let since: Option<i64> = None;
    /// let filter = since.map_or_else(Filter::everything, |since| Filter::ge("year", since));
    /// assert_eq!(books.count(&filter)?, 3);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn everything() -> Self {
        Self::default()
    }

    fn leaf(node: Node) -> Self {
        Self { nodes: vec![node] }
    }

    fn compare(
        property: impl Into<String>,
        comparison: Comparison,
        value: impl Into<Value>,
    ) -> Self {
        Self::leaf(Node::Compare(property.into(), comparison, value.into()))
    }

    /// The property is equal to the value; of a text list: has it.
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
    /// assert_eq!(books.count(&Filter::eq("year", 2001))?, 1);
    /// let other_type = books.count(&Filter::eq("year", "2001")).unwrap_err();
    /// assert!(other_type.is("invalid-filter"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn eq(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::Equal, value)
    }

    /// It is not; also where the item has no such property.
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
    /// use heyday_sdk::vector::{Filter, Item};
    ///
    /// books.upsert([Item::new("undated")])?;
    /// assert_eq!(books.count(&Filter::ne("year", 2001))?, 3);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn ne(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::NotEqual, value)
    }

    /// The number or time is less.
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
    /// assert_eq!(books.count(&Filter::lt("year", 2001))?, 1); // 1988
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn lt(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::Less, value)
    }

    /// The number or time is less or equal.
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
    /// assert_eq!(books.count(&Filter::le("year", 2001))?, 2); // 1988 and 2001
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn le(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::LessOrEqual, value)
    }

    /// The number or time is greater.
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
    /// assert_eq!(books.count(&Filter::gt("year", 2001))?, 1); // 2020
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn gt(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::Greater, value)
    }

    /// The number or time is greater or equal.
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
    /// let nineties = Filter::ge("year", 1990).and(Filter::lt("year", 2000));
    /// assert_eq!(books.count(&nineties)?, 0);
    /// assert_eq!(books.count(&Filter::ge("year", 2001))?, 2); // 2001 and 2020
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn ge(property: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::compare(property, Comparison::GreaterOrEqual, value)
    }

    /// The property is equal to one of these, at most 1,000.
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
    /// assert_eq!(books.count(&Filter::one_of("year", [1988, 1989, 2020]))?, 2);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn one_of<V: Into<Value>>(
        property: impl Into<String>,
        values: impl IntoIterator<Item = V>,
    ) -> Self {
        let values = values.into_iter().map(Into::into).collect();
        Self::leaf(Node::OneOf(property.into(), values))
    }

    /// The item has no such property.
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
    /// use heyday_sdk::vector::{Filter, Item};
    ///
    /// books.upsert([Item::new("undated")])?;
    /// assert_eq!(books.count(&Filter::missing("year"))?, 1);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn missing(property: impl Into<String>) -> Self {
        Self::leaf(Node::Missing(property.into()))
    }

    fn joined(filters: impl IntoIterator<Item = Self>, end: impl FnOnce(u32) -> Node) -> Self {
        let mut nodes = Vec::new();
        let mut count = 0;
        for filter in filters {
            if filter.nodes.is_empty() {
                // Everything, as a tree that can stand within another.
                nodes.push(Node::AllOf(0));
            } else {
                nodes.extend(filter.nodes);
            }
            count += 1;
        }
        nodes.push(end(count));
        Self { nodes }
    }

    /// All of them hold; of none: always.
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
    /// /// What was asked for, as far as something was.
    /// fn between(from: Option<i64>, to: Option<i64>) -> Filter {
    ///     let from = from.map(|year| Filter::ge("year", year));
    ///     Filter::all(from.into_iter().chain(to.map(|year| Filter::le("year", year))))
    /// }
    /// assert_eq!(books.count(&between(Some(2000), Some(2010)))?, 1);
    /// assert_eq!(books.count(&between(None, None))?, 3);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn all(filters: impl IntoIterator<Item = Self>) -> Self {
        Self::joined(filters, Node::AllOf)
    }

    /// Any of them holds; of none: never.
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
    /// let decades = [1980, 2020].map(|begin| {
    ///     Filter::ge("year", begin).and(Filter::lt("year", begin + 10))
    /// });
    /// assert_eq!(books.count(&Filter::any(decades))?, 2);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn any(filters: impl IntoIterator<Item = Self>) -> Self {
        Self::joined(filters, Node::AnyOf)
    }

    /// Both hold.
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
    /// let between = Filter::gt("year", 1990).and(Filter::lt("year", 2010));
    /// assert_eq!(books.count(&between)?, 1); // 2001
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn and(self, other: Self) -> Self {
        Self::all([self, other])
    }

    /// One of both holds.
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
    /// let old_or_new = Filter::lt("year", 1990).or(Filter::gt("year", 2010));
    /// assert_eq!(books.count(&old_or_new)?, 2); // 1988 and 2020
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn or(self, other: Self) -> Self {
        Self::any([self, other])
    }
}

impl Not for Filter {
    type Output = Self;

    fn not(self) -> Self {
        Self::joined([self], |_| Node::Negation)
    }
}
