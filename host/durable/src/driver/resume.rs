//! Continuing as new: what a run hands to the one that goes on in its place.
//!
//! A run whose history has grown long ends, where it can, and another run of the same
//! workflow id goes on where it was. It can where its one position says all that there
//! is to say: between two tasks, two rounds of a `for` or two events of a `listen`, in
//! tasks that hold nothing else ([`Surroundings::carried`]), while nothing is under way.
//! The task there stops with [`Stop::Continue`], which each task around completes with its
//! own position, up to the flow; [`Carried`] is that, with the rest of what the run holds.
//!
//! Values that are the same one in memory are carried once, so that the next run holds no
//! more than this one did. Each is JSON text of its own: a value may nest as deep as JSON
//! that is read may.
//!
//! [`Surroundings::carried`]: super::interpreter::Surroundings::carried

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::data::{Held, Meter};
use super::listen::Heard;
use super::stop::{Stop, data_limit};
use crate::failure::{Failure, kind};
use crate::payload::Payload;

/// Keys of signals that are carried: the newest.
const KEYS: usize = 10_000;

/// Bytes of all keys that are carried.
const KEY_BYTES: usize = 1 << 20;

/// Where a list of tasks stands: before the task at `at`, or in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Position<V> {
    pub(super) at: usize,
    /// Its raw input.
    pub(super) data: V,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<Box<Begun<V>>>,
}

/// Where a task stands that has begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Begun<V> {
    pub(super) started_at: Timestamp,
    /// Its transformed input.
    pub(super) input: V,
    pub(super) round: Round<V>,
}

/// The same, by what it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Round<V> {
    /// `do`.
    Do(Position<V>),
    /// `for`: before a round, or in it.
    For {
        /// What it goes through.
        items: V,
        /// Which of them.
        index: usize,
        /// Whether the round has begun.
        begun: bool,
        inside: Position<V>,
    },
    /// `try`, in its own tasks.
    Try {
        /// Retries so far.
        retries: u32,
        inside: Position<V>,
    },
    /// `listen`, between two events.
    Listen {
        /// What it has so far.
        items: Vec<V>,
        heard: Heard,
    },
}

impl<V> Position<V> {
    /// Before the first task.
    pub(super) const fn begin(data: V) -> Self {
        Self {
            at: 0,
            data,
            task: None,
        }
    }

    /// The same place, with other values.
    fn map<W, E>(self, each: &mut impl FnMut(V) -> Result<W, E>) -> Result<Position<W>, E> {
        let task = match self.task {
            None => None,
            Some(begun) => Some(Box::new(Begun {
                started_at: begun.started_at,
                input: each(begun.input)?,
                round: begun.round.map(each)?,
            })),
        };
        Ok(Position {
            at: self.at,
            data: each(self.data)?,
            task,
        })
    }
}

impl<V> Round<V> {
    fn map<W, E>(self, each: &mut impl FnMut(V) -> Result<W, E>) -> Result<Round<W>, E> {
        Ok(match self {
            Self::Do(position) => Round::Do(position.map(each)?),
            Self::For {
                items,
                index,
                begun,
                inside,
            } => Round::For {
                items: each(items)?,
                index,
                begun,
                inside: inside.map(each)?,
            },
            Self::Try { retries, inside } => Round::Try {
                retries,
                inside: inside.map(each)?,
            },
            Self::Listen { items, heard } => Round::Listen {
                items: items.into_iter().map(each).collect::<Result<_, _>>()?,
                heard,
            },
        })
    }
}

/// What is left when a run continues as new, as far as the tasks around have completed it.
#[derive(Debug)]
pub(super) enum Left {
    /// The place in a list.
    List(Position<Held>),
    /// The place in what a task does.
    Round(Round<Held>),
    /// The place in a task, and its raw input.
    Task(Held, Box<Begun<Held>>),
}

impl From<Left> for Stop {
    fn from(left: Left) -> Self {
        Self::Continue(Box::new(left))
    }
}

impl Stop {
    /// In the list that a task does: the task's place.
    pub(super) fn around(self, round: impl FnOnce(Position<Held>) -> Round<Held>) -> Self {
        match self {
            Self::Continue(left) => match *left {
                Left::List(position) => Left::Round(round(position)).into(),
                left => left.into(),
            },
            stop => stop,
        }
    }

    /// In what a task does: the task's place.
    pub(super) fn within(self, started_at: Timestamp, raw_input: Held, input: &Held) -> Self {
        match self {
            Self::Continue(left) => match *left {
                Left::Round(round) => {
                    let begun = Begun {
                        started_at,
                        input: input.clone(),
                        round,
                    };
                    Left::Task(raw_input, Box::new(begun)).into()
                }
                left => left.into(),
            },
            stop => stop,
        }
    }

    /// In a task of a list: the list's place.
    pub(super) fn at(self, at: usize) -> Self {
        match self {
            Self::Continue(left) => match *left {
                Left::Task(data, begun) => {
                    let task = Some(begun);
                    Left::List(Position { at, data, task }).into()
                }
                left => left.into(),
            },
            stop => stop,
        }
    }
}

/// A time that the whole flow may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deadline {
    pub(super) at: Timestamp,
    /// As the flow says it.
    #[serde(with = "crate::flow::duration::required")]
    pub(super) after: Duration,
}

/// A signal that no task has taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct CarriedSignal {
    number: u64,
    key: String,
    event: usize,
}

/// What a run hands on, as it is recorded: `$workflow.input` is the run's input, all other
/// values are named by their places in `values`, counted from 1; 0 is the input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Carried {
    /// The first run.
    run_id: Uuid,
    /// When it was started.
    started_at: Timestamp,
    random: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<Deadline>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    context: Option<usize>,
    position: Position<usize>,
    /// Signals that came to any run of the chain.
    arrived: u64,
    signals: Vec<CarriedSignal>,
    /// Keys of all signals that came, the newest last.
    keys: VecDeque<String>,
    /// Ids of the updates that have ended, the newest last.
    updates: VecDeque<String>,
    values: Vec<Box<RawValue>>,
}

/// A signal that waits.
#[derive(Debug, Clone)]
pub(super) struct WaitingSignal {
    pub(super) number: u64,
    pub(super) key: String,
    pub(super) event: Held,
}

/// What a run hands on.
#[derive(Debug)]
pub(super) struct Resumed {
    /// The first run, and when it was started.
    pub(super) origin: (Uuid, Timestamp),
    pub(super) random: u64,
    pub(super) deadline: Option<Deadline>,
    pub(super) context: Option<Held>,
    pub(super) position: Position<Held>,
    pub(super) arrived: u64,
    pub(super) signals: Vec<WaitingSignal>,
    pub(super) keys: VecDeque<String>,
    pub(super) updates: VecDeque<String>,
}

impl Resumed {
    /// As it is recorded.
    pub(super) fn carry(self, input: &Held) -> Payload {
        let mut values = Values::default();
        // Held until the end: an address names a value only as long as it lives.
        let mut held = vec![input.clone()];
        values.places.insert(input.address(), 0);
        let mut place = |value: Held| -> Result<usize, std::convert::Infallible> {
            let place = values.place(&value);
            held.push(value);
            Ok(place)
        };
        let Ok(position) = self.position.map(&mut place);
        let mut named = |value: Held| {
            let Ok(place) = place(value);
            place
        };
        let context = self.context.map(&mut named);
        let signals = self.signals.into_iter().map(|signal| CarriedSignal {
            number: signal.number,
            key: signal.key,
            event: named(signal.event),
        });
        let carried = Carried {
            run_id: self.origin.0,
            started_at: self.origin.1,
            random: self.random,
            deadline: self.deadline,
            context,
            position,
            arrived: self.arrived,
            signals: signals.collect(),
            keys: newest(self.keys),
            updates: newest(self.updates),
            values: values.texts,
        };
        // Its members are texts, numbers and JSON that was read as such.
        let bytes = serde_json::to_vec(&carried).unwrap_or_default();
        Payload::json_bytes(Bytes::from(bytes))
    }
}

impl Carried {
    /// Reads what was recorded.
    ///
    /// # Errors
    /// When it is none of this driver's; a sentence for a person.
    pub(super) fn read(payload: &Payload) -> Result<Self, String> {
        let text = payload.json_text().map_err(|error| error.to_string())?;
        serde_json::from_slice(&text).map_err(|error| error.to_string())
    }

    /// Takes its values into the run.
    pub(super) fn restore(self, input: &Held, meter: &Arc<Meter>) -> Result<Resumed, Stop> {
        let mut held = vec![input.clone()];
        for text in &self.values {
            let value = serde_json::from_str(text.get()).map_err(|error| {
                Stop::from(misplaced(&format!("a carried value is no JSON: {error}")))
            })?;
            held.push(Held::new(value, meter).map_err(|limit| data_limit(limit, "/"))?);
        }
        let mut place = |place: usize| {
            let found = held.get(place).cloned();
            found.ok_or_else(|| Stop::from(misplaced("a carried value is missing")))
        };
        let signals = self.signals.into_iter().map(|signal| {
            Ok(WaitingSignal {
                number: signal.number,
                key: signal.key,
                event: place(signal.event)?,
            })
        });
        let signals = signals.collect::<Result<_, Stop>>()?;
        Ok(Resumed {
            origin: (self.run_id, self.started_at),
            random: self.random,
            deadline: self.deadline,
            context: self.context.map(&mut place).transpose()?,
            position: self.position.map(&mut place)?,
            arrived: self.arrived,
            signals,
            keys: self.keys,
            updates: self.updates,
        })
    }
}

/// Values by their places.
#[derive(Default)]
struct Values {
    places: HashMap<usize, usize>,
    texts: Vec<Box<RawValue>>,
}

impl Values {
    fn place(&mut self, value: &Held) -> usize {
        if let Some(place) = self.places.get(&value.address()) {
            return *place;
        }
        let text = RawValue::from_string(value.to_string());
        // A value's text is JSON.
        self.texts.extend(text);
        let place = self.texts.len();
        self.places.insert(value.address(), place);
        place
    }
}

/// Keys that count once, the newest last.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// All that are remembered.
    known: VecDeque<String>,
    /// Those of earlier runs.
    before: BTreeSet<String>,
}

impl Keys {
    pub(super) fn of(keys: VecDeque<String>) -> Self {
        Self {
            before: keys.iter().cloned().collect(),
            known: keys,
        }
    }

    /// Whether an earlier run had it.
    pub(super) fn is_of_before(&self, key: &str) -> bool {
        self.before.contains(key)
    }

    pub(super) fn add(&mut self, key: String) {
        if self.known.len() >= KEYS {
            self.known.pop_front();
        }
        self.known.push_back(key);
    }

    pub(super) fn all(&self) -> VecDeque<String> {
        self.known.clone()
    }
}

/// The newest keys that fit.
fn newest(mut keys: VecDeque<String>) -> VecDeque<String> {
    let mut bytes: usize = keys.iter().map(String::len).sum();
    while bytes > KEY_BYTES || keys.len() > KEYS {
        let Some(oldest) = keys.pop_front() else {
            break;
        };
        bytes -= oldest.len();
    }
    keys
}

/// The failure of a run that cannot go on where another one ended.
pub(super) fn misplaced(why: &str) -> Failure {
    Failure::permanent(
        kind::INTERNAL,
        format!("the run cannot go on where the one before it ended: {why}"),
    )
}
