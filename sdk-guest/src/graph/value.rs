//! Values of statements: conversions from and to Rust's types.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::{Error, Result};

/// A parameter or a column's value.
///
/// ```
/// use heyday_sdk::graph::Value;
/// let list = Value::from(vec![Value::from(1), Value::Date("2026-11-24".into()), "x".into()]);
/// assert_eq!(list.parse::<(i64, String, String)>().unwrap().1, "2026-11-24");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Cypher's null.
    Null,
    /// A boolean.
    Boolean(bool),
    /// An integer.
    Integer(i64),
    /// A float, also NaN and the infinities.
    Float(f64),
    /// A text.
    String(String),
    /// Bytes, in base64. An embedded graph has none.
    Bytes(String),
    /// A list.
    List(Vec<Value>),
    /// A map.
    Map(BTreeMap<String, Value>),
    /// `2026-11-24`.
    Date(String),
    /// `13:37:00.5+01:00`.
    Time(String),
    /// `13:37:00.5`.
    LocalTime(String),
    /// `2026-11-24T13:37:00Z`; with the name of a zone behind it in UTC,
    /// `2026-11-24T13:37:00Z[Europe/Oslo]`. An embedded graph knows no names of zones.
    DateTime(String),
    /// `2026-11-24T13:37:00`.
    LocalDateTime(String),
    /// `P1M2DT3.5S`.
    Duration(String),
    /// A point.
    Point(Point),
    /// A node; no parameter.
    Node(Node),
    /// A relationship; no parameter.
    Relationship(Relationship),
    /// A path; no parameter.
    Path(Path),
}

/// A point in a coordinate system.
///
/// ```
/// use heyday_sdk::graph::{Point, Value};
/// let oslo = Point { srid: 4326, x: 10.75, y: 59.91, z: None };
/// assert_eq!(Value::from(oslo).parse::<Vec<f64>>().unwrap(), [10.75, 59.91]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The system: 4326 is longitude and latitude, the only one of an embedded graph.
    pub srid: i64,
    /// The first coordinate; the longitude.
    pub x: f64,
    /// The second coordinate; the latitude.
    pub y: f64,
    /// The third one, where the system has three.
    pub z: Option<f64>,
}

/// A node.
///
/// ```
/// use heyday_sdk::graph::Node;
/// let ada = Node::new("4:1", ["Person"], [("name", "Ada".into())]);
/// assert_eq!(ada.get::<String>("name").unwrap(), "Ada");
/// assert_eq!(ada.get::<Option<i64>>("age").unwrap(), None);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its id, which holds for one transaction and is for comparing.
    pub id: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its properties.
    pub properties: BTreeMap<String, Value>,
}

impl Node {
    /// A node; for tests.
    ///
    /// ```
    /// use heyday_sdk::graph::Node;
    ///
    /// let report = Node::new("4:7", ["Report", "Draft"], [("pages", 12.into())]);
    /// assert_eq!((report.labels.len(), &report.properties["pages"]), (2, &12.into()));
    /// ```
    pub fn new<'a>(
        id: &str,
        labels: impl IntoIterator<Item = &'a str>,
        properties: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            labels: labels.into_iter().map(str::to_owned).collect(),
            properties: owned(properties),
        }
    }

    /// A property; null where there is none.
    ///
    /// ```
    /// use heyday_sdk::graph::Node;
    ///
    /// let ada = Node::new("4:1", ["Person"], [("name", "Ada".into())]);
    /// assert_eq!(ada.get::<String>("name")?, "Ada");
    /// assert_eq!(ada.get::<Option<String>>("title")?, None);
    /// assert!(ada.get::<i64>("name").unwrap_err().is("invalid-column"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-column` where it is no `T`.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.properties.get(name).unwrap_or(&Value::Null).parse()
    }
}

/// A relationship.
///
/// ```
/// use heyday_sdk::graph::Relationship;
/// let knows = Relationship::new("5:1", "KNOWS", ("4:1", "4:2"), [("since", 1840.into())]);
/// assert_eq!((knows.kind.as_str(), knows.get::<i64>("since").unwrap()), ("KNOWS", 1840));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Relationship {
    /// Its id, which holds for one transaction and is for comparing.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// The id of the node that it leaves.
    pub start: String,
    /// The id of the node that it enters.
    pub end: String,
    /// Its properties.
    pub properties: BTreeMap<String, Value>,
}

impl Relationship {
    /// A relationship between nodes of these ids; for tests.
    ///
    /// ```
    /// use heyday_sdk::graph::Relationship;
    ///
    /// let knows = Relationship::new("5:1", "KNOWS", ("4:1", "4:2"), []);
    /// assert_eq!((knows.start.as_str(), knows.end.as_str()), ("4:1", "4:2"));
    /// ```
    pub fn new<'a>(
        id: &str,
        kind: &str,
        (start, end): (&str, &str),
        properties: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            kind: kind.to_owned(),
            start: start.to_owned(),
            end: end.to_owned(),
            properties: owned(properties),
        }
    }

    /// A property; null where there is none.
    ///
    /// ```
    /// use heyday_sdk::graph::Relationship;
    ///
    /// let rated = Relationship::new("5:2", "RATED", ("4:1", "4:3"), [("stars", 4.into())]);
    /// assert_eq!(rated.get::<u8>("stars")?, 4);
    /// assert_eq!(rated.get::<Option<String>>("comment")?, None);
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-column` where it is no `T`.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.properties.get(name).unwrap_or(&Value::Null).parse()
    }
}

/// A path: nodes, and the relationships between each and the next.
///
/// ```
/// use heyday_sdk::graph::{Node, Path, Value};
/// let path = Path { nodes: vec![Node::new("1", ["A"], [])], relationships: Vec::new() };
/// assert!(matches!(Value::from(path), Value::Path(path) if path.nodes.len() == 1));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// The nodes, from its start to its end.
    pub nodes: Vec<Node>,
    /// The relationships, one fewer.
    pub relationships: Vec<Relationship>,
}

fn owned<'a>(properties: impl IntoIterator<Item = (&'a str, Value)>) -> BTreeMap<String, Value> {
    let properties = properties.into_iter();
    properties
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

impl Value {
    /// Of anything that serde writes: structures become maps.
    ///
    /// ```
    /// use heyday_sdk::{graph::Value, prelude::*};
    /// #[derive(Serialize)]
    /// struct Person { name: &'static str, born: u16 }
    /// let people = Value::of(&[Person { name: "Ada", born: 1815 }]).unwrap();
    /// let Value::List(people) = people else { panic!() };
    /// assert!(matches!(&people[0], Value::Map(ada) if ada["born"] == 1815.into()));
    /// ```
    ///
    /// # Errors
    /// `invalid-parameter` for what no graph can have: an integer over 64 bits, a map
    /// whose keys are no texts.
    pub fn of(value: &impl Serialize) -> Result<Self> {
        let json = serde_json::to_value(value)
            .map_err(|error| Error::new("invalid-parameter", error.to_string()))?;
        from_plain(json)
    }

    /// The value as any type that serde reads: a node or a relationship as its properties,
    /// a path as its nodes, a time as its text, a point as its coordinates.
    ///
    /// ```
    /// use heyday_sdk::graph::{Node, Value};
    /// use std::collections::BTreeMap;
    ///
    /// let ada = Value::from(Node::new("4:1", ["Person"], [("born", 1815.into())]));
    /// assert_eq!(ada.parse::<BTreeMap<String, u16>>()?["born"], 1815);
    /// assert_eq!(Value::Duration("P1M".into()).parse::<String>()?, "P1M");
    /// assert!(Value::from("text").parse::<i64>().unwrap_err().is("invalid-column"));
    /// # Ok::<(), heyday_sdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// `invalid-column` where it is no `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.plain())
            .map_err(|error| Error::new("invalid-column", error.to_string()))
    }

    fn plain(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Boolean(value) => (*value).into(),
            Self::Integer(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            Self::String(text)
            | Self::Bytes(text)
            | Self::Date(text)
            | Self::Time(text)
            | Self::LocalTime(text)
            | Self::DateTime(text)
            | Self::LocalDateTime(text)
            | Self::Duration(text) => text.clone().into(),
            Self::List(items) => items.iter().map(Self::plain).collect(),
            Self::Map(members) => plain(members),
            Self::Point(point) => match point.z {
                Some(z) => json!([point.x, point.y, z]),
                None => json!([point.x, point.y]),
            },
            Self::Node(node) => plain(&node.properties),
            Self::Relationship(relationship) => plain(&relationship.properties),
            Self::Path(path) => path
                .nodes
                .iter()
                .map(|node| plain(&node.properties))
                .collect(),
        }
    }
}

fn plain(members: &BTreeMap<String, Value>) -> Json {
    let members = members.iter();
    Json::Object(
        members
            .map(|(key, value)| (key.clone(), value.plain()))
            .collect(),
    )
}

fn from_plain(json: Json) -> Result<Value> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Boolean(value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Value::Integer(integer),
            (None, Some(float)) if number.is_f64() => Value::Float(float),
            _ => {
                let message = format!("{number} is over 64 bits");
                return Err(Error::new("invalid-parameter", message));
            }
        },
        Json::String(text) => Value::String(text),
        Json::Array(items) => {
            Value::List(items.into_iter().map(from_plain).collect::<Result<_>>()?)
        }
        Json::Object(members) => {
            let members = members.into_iter();
            let members = members.map(|(key, value)| Ok((key, from_plain(value)?)));
            Value::Map(members.collect::<Result<_>>()?)
        }
    })
}

macro_rules! from {
    ($($type:ty => $value:ident $convert:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $convert
            }
        })*
    };
}

from! {
    bool => value Self::Boolean(value);
    i32 => value Self::Integer(value.into());
    i64 => value Self::Integer(value);
    u8 => value Self::Integer(value.into());
    u16 => value Self::Integer(value.into());
    u32 => value Self::Integer(value.into());
    f32 => value Self::Float(value.into());
    f64 => value Self::Float(value);
    &str => value Self::String(value.to_owned());
    String => value Self::String(value);
    &String => value Self::String(value.clone());
    Point => value Self::Point(value);
    Node => value Self::Node(value);
    Relationship => value Self::Relationship(value);
    Path => value Self::Path(value);
    BTreeMap<String, Value> => value Self::Map(value);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}
