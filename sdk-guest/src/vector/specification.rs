//! What a collection is.

/// How far apart two vectors are; the smaller, the closer.
///
/// ```
/// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
/// use heyday_sdk::vector::{Distance, Item, Search, Specification, Store};
///
/// // The long one, or the one in the same direction?
/// let store = Store::open("default")?;
/// let mut closest = Vec::new();
/// for (name, distance) in [("dot", Distance::Dot), ("cosine", Distance::Cosine)] {
///     store.create(name, &Specification::new(2, distance))?;
///     let items = store.collection(name)?;
///     items.upsert([Item::new("long").vector([9.0, 9.0]), Item::new("same").vector([1.0, 0.0])])?;
///     closest.push(items.nearest(&[2.0, 0.0], &Search::new(1))?.remove(0).item.id);
/// }
/// assert_eq!(closest, ["long", "same"]);
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// 1 minus the cosine of their angle: 0 to 2.
    Cosine,
    /// Their inner product, negated.
    Dot,
    /// The length of their difference (L2).
    Euclidean,
}

/// What a property holds.
///
/// ```
/// use heyday_sdk::vector::{Property, PropertyType};
///
/// /// The property for a value of a document.
/// fn property(name: &str, value: &serde_json::Value) -> Property {
///     let kind = match value {
///         serde_json::Value::Bool(_) => PropertyType::Boolean,
///         serde_json::Value::Number(_) => PropertyType::Real,
///         serde_json::Value::Array(_) => PropertyType::TextList,
///         _ => PropertyType::Text,
///     };
///     Property::new(name, kind)
/// }
/// assert_eq!(property("size", &7.into()), Property::real("size"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyType {
    /// Text, of at most 1,024 bytes where it is filterable.
    Text,
    /// A whole number from -(2^53 - 1) to 2^53 - 1.
    Integer,
    /// A finite number.
    Real,
    /// True or false.
    Boolean,
    /// A time: milliseconds since the Unix epoch, in the years 0001 to 9999.
    Timestamp,
    /// At most 1,000 texts, such as tags.
    TextList,
}

/// A property that items of a collection may have.
///
/// ```
/// use heyday_sdk::vector::Property;
///
/// let title = Property::text("title").searchable();
/// let tags = Property::text_list("tags").filterable();
/// assert!(title.searchable && tags.filterable);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Property {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: PropertyType,
    /// Whether filters may ask for it.
    pub filterable: bool,
    /// Whether its words are searched.
    pub searchable: bool,
}

impl Property {
    /// A property that is only kept.
    ///
    /// ```
    /// use heyday_sdk::vector::{Property, PropertyType};
    ///
    /// let page = Property::new("page", PropertyType::Integer);
    /// assert!(!page.filterable && !page.searchable);
    /// ```
    pub fn new(name: impl Into<String>, kind: PropertyType) -> Self {
        Self {
            name: name.into(),
            kind,
            filterable: false,
            searchable: false,
        }
    }

    /// A text that is only kept.
    ///
    /// ```
    /// use heyday_sdk::vector::Property;
    ///
    /// let body = Property::text("body").searchable();
    /// assert!(body.searchable && !body.filterable);
    /// ```
    pub fn text(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::Text)
    }

    /// A whole number that is only kept.
    ///
    /// ```
    /// use heyday_sdk::vector::{Property, PropertyType};
    ///
    /// assert_eq!(Property::integer("page").kind, PropertyType::Integer);
    /// ```
    pub fn integer(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::Integer)
    }

    /// A number that is only kept.
    ///
    /// ```
    /// use heyday_sdk::vector::{Property, PropertyType};
    ///
    /// assert_eq!(Property::real("price").kind, PropertyType::Real);
    /// ```
    pub fn real(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::Real)
    }

    /// True or false, only kept.
    ///
    /// ```
    /// use heyday_sdk::vector::{Property, PropertyType};
    ///
    /// assert_eq!(Property::boolean("published").kind, PropertyType::Boolean);
    /// ```
    pub fn boolean(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::Boolean)
    }

    /// A time that is only kept.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Filter, Item, Property, Specification, Store};
    /// use std::time::{Duration, SystemTime};
    ///
    /// let store = Store::open("default")?;
    /// let written = Property::timestamp("written").filterable();
    /// store.create("notes", &Specification::new(1, Distance::Dot).property(written))?;
    /// let (notes, now) = (store.collection("notes")?, SystemTime::now());
    /// notes.upsert([Item::new("1").set("written", now)])?;
    /// let hour_ago = now - Duration::from_secs(3_600);
    /// assert_eq!(notes.count(&Filter::gt("written", hour_ago))?, 1);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn timestamp(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::Timestamp)
    }

    /// Texts that are only kept.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Filter, Item, Property, Specification, Store};
    ///
    /// let store = Store::open("default")?;
    /// let tags = Property::text_list("tags").filterable();
    /// store.create("notes", &Specification::new(1, Distance::Dot).property(tags))?;
    /// let notes = store.collection("notes")?;
    /// notes.upsert([Item::new("1").set("tags", ["new", "large"]), Item::new("2")])?;
    /// assert_eq!(notes.count(&Filter::eq("tags", "large"))?, 1);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn text_list(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::TextList)
    }

    /// Filters may ask for it.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Filter, Property, Specification, Store};
    ///
    /// let store = Store::open("default")?;
    /// let specification = Specification::new(1, Distance::Dot)
    ///     .property(Property::integer("year").filterable())
    ///     .property(Property::integer("page"));
    /// store.create("books", &specification)?;
    /// let books = store.collection("books")?;
    /// assert!(books.count(&Filter::gt("year", 2000)).is_ok());
    /// assert!(books.count(&Filter::gt("page", 7)).unwrap_err().is("invalid-filter"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn filterable(mut self) -> Self {
        self.filterable = true;
        self
    }

    /// Its words are searched; of a text only.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Property, Search, Specification, Store};
    ///
    /// let store = Store::open("default")?;
    /// let specification = Specification::new(1, Distance::Dot)
    ///     .property(Property::text("title").searchable())
    ///     .property(Property::text("author"));
    /// store.create("books", &specification)?;
    /// let books = store.collection("books")?;
    /// assert!(books.keywords("rotor", &["title"], &Search::new(10)).is_ok());
    /// let error = books.keywords("ada", &["author"], &Search::new(10)).unwrap_err();
    /// assert!(error.is("invalid-search"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn searchable(mut self) -> Self {
        self.searchable = true;
        self
    }
}

/// What a collection is. It never changes.
///
/// ```
/// use heyday_sdk::vector::{Distance, Property, Specification};
///
/// let chunks = Specification::new(384, Distance::Cosine)
///     .property(Property::text("body").searchable())
///     .property(Property::text("document").filterable())
///     .property(Property::integer("page"))
///     .tenants();
/// assert_eq!(chunks.properties.len(), 3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Specification {
    /// How many numbers each vector has.
    pub dimensions: u32,
    /// How vectors are compared.
    pub distance: Distance,
    /// At most 64.
    pub properties: Vec<Property>,
    /// Whether every item belongs to a tenant.
    pub tenants: bool,
}

impl Specification {
    /// Vectors of so many numbers, without properties and tenants.
    ///
    /// ```
    /// use heyday_sdk::vector::{Distance, Specification};
    ///
    /// let plain = Specification::new(384, Distance::Cosine);
    /// assert!(plain.properties.is_empty() && !plain.tenants);
    /// ```
    pub fn new(dimensions: u32, distance: Distance) -> Self {
        Self {
            dimensions,
            distance,
            properties: Vec::new(),
            tenants: false,
        }
    }

    /// With this property too.
    ///
    /// ```
    /// use heyday_sdk::vector::{Distance, Property, Specification};
    ///
    /// let columns = ["title", "author"];
    /// let specification = columns.iter().fold(
    ///     Specification::new(384, Distance::Cosine),
    ///     |specification, name| specification.property(Property::text(*name).searchable()),
    /// );
    /// assert_eq!(specification.properties[1].name, "author");
    /// ```
    pub fn property(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// Every item belongs to a tenant: no call reaches the items of two.
    ///
    /// ```
    /// # let _test = heyday_sdk::test::Context::new().vector("default").enter();
    /// use heyday_sdk::vector::{Distance, Specification, Store};
    ///
    /// let store = Store::open("default")?;
    /// store.create("notes", &Specification::new(2, Distance::Dot).tenants())?;
    /// assert!(store.tenant("notes", "acme").is_ok());
    /// assert!(store.collection("notes").unwrap_err().is("invalid-specification"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    pub fn tenants(mut self) -> Self {
        self.tenants = true;
        self
    }
}
