//! Items, and the values of their properties.

use std::time::{SystemTime, UNIX_EPOCH};

/// The value of a property, of the property's type.
///
/// ```
/// use heyday_sdk::vector::Value;
/// use std::time::{Duration, UNIX_EPOCH};
///
/// assert_eq!(Value::from(["new", "large"]), Value::TextList(vec!["new".into(), "large".into()]));
/// let time = UNIX_EPOCH + Duration::from_secs(7);
/// assert_eq!(Value::from(time), Value::Timestamp(7_000));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// A number.
    Real(f64),
    /// True or false.
    Boolean(bool),
    /// Milliseconds since the Unix epoch.
    Timestamp(i64),
    /// Texts.
    TextList(Vec<String>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<SystemTime> for Value {
    fn from(time: SystemTime) -> Self {
        let milliseconds =
            |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::Timestamp(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => milliseconds(since),
            Err(before) => -milliseconds(before.duration()),
        })
    }
}

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Self::TextList(texts)
    }
}

impl<const N: usize> From<[&str; N]> for Value {
    fn from(texts: [&str; N]) -> Self {
        Self::TextList(texts.map(str::to_owned).into())
    }
}

/// What a collection holds.
///
/// ```
/// use heyday_sdk::vector::{Item, Value};
///
/// let item = Item::new("report-7").vector([0.1, 0.9]).set("title", "Rotors").set("page", 3);
/// assert_eq!(item.text("title"), Some("Rotors"));
/// assert_eq!(item.value("page"), Some(&Value::Integer(3)));
/// assert_eq!(item.value("author"), None);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Item {
    /// Its name, in the collection or with its tenant.
    pub id: String,
    /// Its vector. Without one it is found by its words and by filters only.
    pub vector: Option<Vec<f32>>,
    /// Its properties; answered in the order of the specification.
    pub properties: Vec<(String, Value)>,
}

impl Item {
    /// An item without vector and properties.
    ///
    /// ```
    /// use heyday_sdk::vector::Item;
    ///
    /// let item = Item::new(format!("report.pdf/{}", 7));
    /// assert_eq!((item.id.as_str(), item.vector), ("report.pdf/7", None));
    /// ```
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            vector: None,
            properties: Vec::new(),
        }
    }

    /// With this vector.
    ///
    /// ```
    /// use heyday_sdk::vector::Item;
    ///
    /// let item = Item::new("7").vector([0.6, 0.8]);
    /// assert_eq!(item.vector, Some(vec![0.6, 0.8]));
    /// ```
    pub fn vector(mut self, vector: impl Into<Vec<f32>>) -> Self {
        self.vector = Some(vector.into());
        self
    }

    /// With this property.
    ///
    /// ```
    /// use heyday_sdk::vector::Item;
    ///
    /// let item = Item::new("7").set("title", "Rotors").set("tags", ["new"]).set("pages", 12);
    /// let names: Vec<&str> = item.properties.iter().map(|(name, _)| name.as_str()).collect();
    /// assert_eq!(names, ["title", "tags", "pages"]);
    /// ```
    pub fn set(mut self, property: impl Into<String>, value: impl Into<Value>) -> Self {
        self.properties.push((property.into(), value.into()));
        self
    }

    /// The value of a property.
    ///
    /// ```
    /// use heyday_sdk::vector::{Item, Value};
    ///
    /// let item = Item::new("7").set("pages", 12);
    /// let Some(Value::Integer(pages)) = item.value("pages") else {
    ///     panic!("it is a whole number");
    /// };
    /// assert_eq!(*pages, 12);
    /// ```
    #[must_use]
    pub fn value(&self, property: &str) -> Option<&Value> {
        let mut properties = self.properties.iter();
        properties
            .find(|(name, _)| name == property)
            .map(|(_, value)| value)
    }

    /// The value of a property that is a text.
    ///
    /// ```
    /// use heyday_sdk::vector::Item;
    ///
    /// let item = Item::new("7").set("title", "Rotors").set("pages", 12);
    /// assert_eq!(item.text("title"), Some("Rotors"));
    /// assert_eq!(item.text("pages"), None); // It is no text.
    /// ```
    #[must_use]
    pub fn text(&self, property: &str) -> Option<&str> {
        match self.value(property)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// An item that was found.
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
/// use heyday_sdk::vector::{Hit, Search};
///
/// fn line(hit: &Hit) -> String {
///     format!("{} is {} away", hit.item.text("title").unwrap_or("?"), hit.distance.unwrap_or(0.0))
/// }
/// let hits = books.nearest(&[1.0, 0.5], &Search::new(1))?;
/// assert_eq!(line(&hits[0]), "The rotor is 0.5 away");
/// # Ok::<(), heyday_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The item, with what was asked for of it.
    pub item: Item,
    /// How far its vector is, of [`nearest`](super::Collection::nearest).
    pub distance: Option<f32>,
    /// How well it fits, of [`keywords`](super::Collection::keywords) and
    /// [`hybrid`](super::Collection::hybrid): the higher, the better. Comparable within one
    /// answer only.
    pub score: Option<f32>,
}
