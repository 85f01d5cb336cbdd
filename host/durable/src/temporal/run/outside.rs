//! Signals that wait outside the driver.
//!
//! A cluster records a signal before anybody of ours sees it, so no sender can be told that
//! too many wait. A run holds only so much all the same: signals for which there is no room
//! wait here, until tasks have taken what waits in the driver, and go on with the run that
//! continues as a new one, large ones by reference. They come in as they came, but for
//! those that a task listens for by name: they pass others that nobody listens for, which
//! would keep them waiting for ever.

use std::collections::VecDeque;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::super::pins::{Pins, SignalHeader};
use super::{Run, Unexpected};
use crate::driver::{Beside, Listening, Resolution, SIGNALS_APART};
use crate::payload::{BlobRef, Digest, Payload, Referred, referred};
use crate::signal::Signal;

/// Bytes that an event has beside what its signal says.
const EVENT: u64 = 200;

/// How many that wait a run at rest takes to the next one. With more it stays, so that the
/// cluster refuses the senders once it has had as many signals as it may have: else they
/// could send without end.
const TAKEN_ALONG: usize = 10_000;

/// Bytes of data that go on as they are. All that waits may be many signals.
const CARRIED_WHOLE: usize = 1024;

/// A run's signals that wait outside.
#[derive(Debug, Default)]
pub struct Outside {
    /// Bytes of signals for which the driver has room; all of them where it is `None`.
    room: Option<u64>,
    /// In the order in which they came.
    signals: VecDeque<Signal>,
}

/// A signal, as it goes on.
#[derive(Debug, Serialize, Deserialize)]
struct Carried {
    name: String,
    header: SignalHeader,
    /// Its data; null where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    /// Its data, where they are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stored: Option<BlobRef>,
}

impl Outside {
    /// Those of a run of these pins; `carried` is what the one before it handed on, resolved.
    pub fn new(pins: &Pins, carried: Option<&Payload>) -> Result<Self, Unexpected> {
        let carried = carried.map(read).transpose()?.unwrap_or_default();
        Ok(Self {
            // Half of what the run may hold, so that there is room for what it does with them.
            room: (pins.revision >= SIGNALS_APART).then_some(pins.limits.data_bytes / 2),
            signals: carried.into_iter().map(Carried::signal).collect(),
        })
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.signals.is_empty()
    }

    /// Those that wait, as queries show them.
    pub fn shown(&self) -> Beside {
        // Each had its time when it came.
        Beside::of(self.signals.iter().map(
            |one| json!({ "name": one.name, "id": one.id, "time": one.attributes.get("time") }),
        ))
    }

    /// Whether a run at rest may go on as another one with what waits.
    pub fn may_go_on(&self) -> bool {
        self.signals.len() <= TAKEN_ALONG
    }

    /// Keeps what there is no room for beside what waits in the driver; answers the rest.
    pub fn hold_back(
        &mut self,
        waiting: u64,
        now: Timestamp,
        resolutions: Vec<Resolution>,
    ) -> Vec<Resolution> {
        let Some(room) = self.room else {
            return resolutions;
        };
        let coming = resolutions.iter().map(|one| match one {
            Resolution::Signal(signal) => weight(signal),
            _ => 0,
        });
        if self.signals.is_empty() && waiting + coming.sum::<u64>() <= room {
            return resolutions;
        }
        let mut rest = Vec::with_capacity(resolutions.len());
        for resolution in resolutions {
            match resolution {
                // Another one is no event, and the driver lets it go.
                Resolution::Signal(signal) if signal.data.json_text().is_ok() => {
                    let mut signal = *signal;
                    let time = signal.attributes.entry("time");
                    time.or_insert_with(|| now.to_string().into());
                    self.signals.push_back(signal);
                }
                resolution => rest.push(resolution),
            }
        }
        rest
    }

    /// The next one that comes in, beside what waits in the driver and as its tasks listen.
    /// Its data may be a reference.
    pub fn next(&mut self, waiting: u64, listening: &[Listening]) -> Option<Signal> {
        let room = self.room?;
        let first = self.signals.front()?;
        // Where nothing waits, one that is too large is the driver's to refuse.
        if waiting == 0 || waiting + weight(first) <= room {
            return self.signals.pop_front();
        }
        let listened_for = |signal: &Signal| {
            let mut names = listening.iter().flat_map(|task| &task.signals);
            names.any(|name| name == "*" || *name == signal.name)
        };
        let at = self.signals.iter().position(listened_for)?;
        if waiting + weight(&self.signals[at]) > room + room / 2 {
            return None;
        }
        self.signals.remove(at)
    }

    /// What goes on with the next run. `stored` gets what goes by reference.
    pub fn carry(&mut self, stored: &mut Vec<Referred>) -> Option<Payload> {
        if self.signals.is_empty() {
            return None;
        }
        let signals = std::mem::take(&mut self.signals).into_iter();
        let carried: Vec<Carried> = signals
            .filter_map(|signal| Carried::of(signal, stored))
            .collect();
        // Texts, numbers and JSON that was read as such.
        let bytes = serde_json::to_vec(&carried).unwrap_or_default();
        Some(referred(Payload::json_bytes(Bytes::from(bytes)), stored))
    }
}

fn read(carried: &Payload) -> Result<Vec<Carried>, Unexpected> {
    let text = carried.json_text();
    let text = text.map_err(|error| Unexpected(error.to_string()))?;
    serde_json::from_slice(&text)
        .map_err(|error| Unexpected(format!("the signals that wait cannot be read: {error}")))
}

/// What the signals refer to that one run handed on to the next as `carried`, resolved.
pub fn stored(carried: &Payload) -> Result<Vec<BlobRef>, Unexpected> {
    let carried = read(carried)?.into_iter();
    Ok(carried.filter_map(|signal| signal.stored).collect())
}

impl Carried {
    /// `None` where its data are no JSON, which no task could take.
    fn of(signal: Signal, stored: &mut Vec<Referred>) -> Option<Self> {
        let header = SignalHeader::of(&signal);
        let mut carried = Self {
            name: signal.name,
            header,
            data: None,
            stored: signal.data.as_blob_ref().ok()?,
        };
        if carried.stored.is_some() {
            return Some(carried);
        }
        let text = signal.data.json_text().ok()?;
        if text.len() > CARRIED_WHOLE {
            let digest = Digest::of(&text);
            let size = text.len() as u64;
            carried.stored = Some(BlobRef { digest, size });
            stored.push((digest, text));
        } else {
            let text = String::from_utf8(text.to_vec()).ok()?;
            carried.data = Some(RawValue::from_string(text).ok()?);
        }
        Some(carried)
    }

    fn signal(self) -> Signal {
        let data = match (self.stored, self.data) {
            (Some(reference), _) => Payload::blob_ref(&reference),
            (None, Some(text)) => {
                Payload::json_bytes(Bytes::from(String::from(Box::<str>::from(text))))
            }
            (None, None) => Payload::null(),
        };
        Signal {
            name: self.name,
            id: self.header.id,
            attributes: self.header.attributes,
            data,
        }
    }
}

/// Bytes that a signal's event has, about.
fn weight(signal: &Signal) -> u64 {
    let stored = signal.data.as_blob_ref().ok().flatten();
    signal.size() + stored.map_or(0, |reference| reference.size) + EVENT
}

impl Run {
    /// Takes over what waits since an earlier run. What came again to this one is known.
    pub fn take_over(&mut self, outside: Outside) {
        for signal in &outside.signals {
            let key = signal.key();
            if !self.signals.insert(key.clone()) {
                self.resolutions
                    .retain(|one| !matches!(one, Resolution::Signal(again) if again.key() == key));
            }
        }
        self.outside = outside;
    }
}

#[cfg(test)]
mod tests;
