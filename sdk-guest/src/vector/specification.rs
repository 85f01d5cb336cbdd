//! What a collection is.

/// How far apart two vectors are; the smaller, the closer.
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
/// # let _ = (title, tags);
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
    pub fn new(name: impl Into<String>, kind: PropertyType) -> Self {
        Self {
            name: name.into(),
            kind,
            filterable: false,
            searchable: false,
        }
    }

    /// A text that is only kept.
    pub fn text(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::Text)
    }

    /// A whole number that is only kept.
    pub fn integer(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::Integer)
    }

    /// A number that is only kept.
    pub fn real(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::Real)
    }

    /// True or false, only kept.
    pub fn boolean(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::Boolean)
    }

    /// A time that is only kept.
    pub fn timestamp(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::Timestamp)
    }

    /// Texts that are only kept.
    pub fn text_list(name: impl Into<String>) -> Self {
        Self::new(name, PropertyType::TextList)
    }

    /// Filters may ask for it.
    pub fn filterable(mut self) -> Self {
        self.filterable = true;
        self
    }

    /// Its words are searched; of a text only.
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
    pub fn new(dimensions: u32, distance: Distance) -> Self {
        Self {
            dimensions,
            distance,
            properties: Vec::new(),
            tenants: false,
        }
    }

    /// With this property too.
    pub fn property(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    /// Every item belongs to a tenant: no call reaches the items of two.
    pub fn tenants(mut self) -> Self {
        self.tenants = true;
        self
    }
}
