//! What tasks that deal with events are made of: `listen` and `emit`.

use serde_json::Value;

use super::{Task, Transform};
use crate::flow::template::{Expr, Template, Uri};

/// `emit`. All members are evaluated on the task's transformed input.
#[derive(Debug, Clone, PartialEq)]
pub struct Emit {
    /// The event's `source`; `{name}` in it is a member of the task's transformed input.
    pub source: Uri,
    /// Its other attributes, `type` among them. One that is null is left out.
    pub attributes: Vec<(String, Template)>,
    /// Its data.
    pub data: Option<Template>,
}

/// `listen`.
#[derive(Debug, Clone)]
pub struct Listen {
    /// `to`: which events it waits for.
    pub to: Consumption,
    /// `to.until`, of [`Strategy::Any`] only.
    pub until: Option<Until>,
    /// `read`: what of an event the task's output has.
    pub read: EventRead,
    /// `foreach`: what to do with each event.
    pub foreach: Option<EachEvent>,
}

impl Listen {
    /// The filters of `to` and of `until`, in this order.
    pub fn filters(&self) -> impl Iterator<Item = &EventFilter> {
        let until = match &self.until {
            Some(Until::Consumed(consumption)) => &consumption.filters[..],
            _ => &[],
        };
        self.to.filters.iter().chain(until)
    }
}

/// An event consumption strategy.
#[derive(Debug, Clone)]
pub struct Consumption {
    /// How many of the filters must have had an event.
    pub strategy: Strategy,
    /// The filters. Without one, [`Strategy::Any`] takes every event; the others have
    /// at least one.
    pub filters: Vec<EventFilter>,
}

/// How many filters must have had an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The one that there is.
    One,
    /// Any of them.
    Any,
    /// Each of them, by an event of its own.
    All,
}

impl Strategy {
    /// The DSL's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Any => "any",
            Self::All => "all",
        }
    }
}

/// When a `listen` to any event stops.
#[derive(Debug, Clone)]
pub enum Until {
    /// When it holds for the array of what was consumed; looked at after each event.
    Condition(Expr),
    /// When these events came, which are not among the output.
    Consumed(Consumption),
}

/// What of an event a task reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EventRead {
    /// Its data.
    #[default]
    Data,
    /// The whole event.
    Envelope,
    /// Its data as JSON text.
    Raw,
}

/// Which events a `listen` takes.
#[derive(Debug, Clone)]
pub struct EventFilter {
    /// What each of these attributes must be.
    pub attributes: Vec<(String, AttributeFilter)>,
    /// What the data must be.
    pub data: Option<Template>,
    /// What events that belong together have in common.
    pub correlate: Vec<Correlation>,
}

impl EventFilter {
    /// The type that it names, where it names one.
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        let (_, filter) = self.attributes.iter().find(|(name, _)| name == "type")?;
        match filter {
            AttributeFilter::Equals(value) => value.as_str(),
            AttributeFilter::Matches { text, .. } => Some(text),
            AttributeFilter::Expression(_) => None,
        }
    }

    /// Whether an event may be what it asks for, as far as can be told without an
    /// expression.
    #[must_use]
    pub fn may_fit(&self, event: &Value) -> bool {
        self.attributes.iter().all(|(name, filter)| {
            let value = event.get(name);
            value.is_some_and(|value| filter.fits(value).unwrap_or(true))
        })
    }
}

/// What an attribute of an event must be.
#[derive(Debug, Clone)]
pub enum AttributeFilter {
    /// This value.
    Equals(Value),
    /// This text, or one that the pattern matches as a whole.
    Matches {
        /// As written.
        text: String,
        /// Anchored at both ends.
        pattern: regex::Regex,
    },
    /// Evaluated on the attribute: `true`, or the value that the attribute must be.
    Expression(Expr),
}

impl AttributeFilter {
    /// Whether it fits; none where an expression says so.
    #[must_use]
    pub fn fits(&self, value: &Value) -> Option<bool> {
        match self {
            Self::Equals(wanted) => Some(value == wanted),
            Self::Matches { text, pattern } => Some(
                value
                    .as_str()
                    .is_some_and(|value| value == text || pattern.is_match(value)),
            ),
            Self::Expression(_) => None,
        }
    }
}

impl Consumption {
    /// Whether an event may be for one of the filters, as far as can be told without an
    /// expression.
    #[must_use]
    pub fn may_take(&self, event: &Value) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| filter.may_fit(event))
    }
}

/// One correlation of a filter.
#[derive(Debug, Clone, PartialEq)]
pub struct Correlation {
    /// Its name.
    pub name: String,
    /// Evaluated on the event: its value.
    pub from: Expr,
    /// The value that it must be. Absent: the first one that the task consumed.
    pub expect: Option<Template>,
}

/// `foreach` of a `listen`.
#[derive(Debug, Clone)]
pub struct EachEvent {
    /// The variable of the event, without `$`.
    pub item: String,
    /// The variable of its index (from 0), without `$`.
    pub at: String,
    /// What to do with each event; their input is the event.
    pub tasks: Vec<Task>,
    /// Makes, of what the tasks answered (of the event, where there are none), what the
    /// output has for the event. Without a template it is the event itself.
    pub output: Transform,
    /// Makes the context of it.
    pub export: Transform,
}
