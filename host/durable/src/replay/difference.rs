//! Comparing a command with the recorded one.

use serde::Serialize;

use crate::embedded::events::Event;

/// What must be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// Everything that is recorded: what a run is rebuilt from.
    Bits,
    /// The commands and their values, not where in the flow they stand.
    Values,
    /// Which commands come in which order: their kind, id, and what they call, start or
    /// signal. Temporal compares as much.
    Commands,
}

/// A command, as a history records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordedCommand {
    /// The type of its event, such as `ActivityTaskScheduled`.
    pub event_type: String,
    /// Its id within the run; empty where it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The activity type, workflow type or signal that it names; empty where it names none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The task that gave it, as JSON pointer, where that is recorded.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub task: String,
}

impl RecordedCommand {
    pub(crate) fn of(event: &Event) -> Self {
        Self {
            event_type: format!("{:?}", event.event_type()),
            id: event.id.clone(),
            name: event.name.clone(),
            task: event.task.clone(),
        }
    }
}

impl std::fmt::Display for RecordedCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.event_type, self.id)?;
        if !self.name.is_empty() {
            write!(f, " of {:?}", self.name)?;
        }
        if !self.task.is_empty() {
            write!(f, " at {}", self.task)?;
        }
        Ok(())
    }
}

/// The first difference between a history and what a definition commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The event at which they differ. Where the history has no command, the last event
    /// before the one that the definition commands.
    pub event_id: u64,
    /// What the history has there; absent where it has nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<RecordedCommand>,
    /// What the definition commands there; absent where it commands nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<RecordedCommand>,
    /// What differs where both are the same command: `value`, `queue`, `duration`, ...
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<&'static str>,
    /// All of it in one line, for a person.
    pub message: String,
}

impl Difference {
    /// The difference between a recorded command and what is commanded, if there is one.
    pub(crate) fn between(
        event_id: u64,
        recorded: &Event,
        expected: &Event,
        strictness: Strictness,
    ) -> Option<Self> {
        let same = recorded.kind == expected.kind
            && recorded.id == expected.id
            && recorded.name == expected.name
            && recorded.workflow_id == expected.workflow_id;
        let members = if same {
            members(recorded, expected, strictness)
        } else {
            Vec::new()
        };
        let agree = match strictness {
            Strictness::Bits => recorded == expected,
            Strictness::Values => same && members.is_empty(),
            Strictness::Commands => same,
        };
        if agree {
            return None;
        }
        let (recorded, expected) = (RecordedCommand::of(recorded), RecordedCommand::of(expected));
        let what = if members.is_empty() {
            String::new()
        } else {
            format!(" (its {} differs)", members.join(" and its "))
        };
        Some(Self {
            event_id,
            message: format!(
                "replay differs at event {event_id}: the history has {recorded}, and the workflow now commands {expected}{what}"
            ),
            recorded: Some(recorded),
            expected: Some(expected),
            members,
        })
    }

    /// A command that the history does not have, after that event.
    pub(crate) fn unrecorded(event_id: u64, expected: &Event) -> Self {
        let expected = RecordedCommand::of(expected);
        Self {
            event_id,
            message: format!(
                "replay differs after event {event_id}: the workflow now commands {expected}, and the history has nothing there"
            ),
            recorded: None,
            expected: Some(expected),
            members: Vec::new(),
        }
    }

    /// A recorded command that is not commanded.
    pub(crate) fn uncommanded(event_id: u64, recorded: &Event) -> Self {
        let recorded = RecordedCommand::of(recorded);
        Self {
            event_id,
            message: format!(
                "replay differs at event {event_id}: the history has {recorded}, and the workflow now commands nothing there"
            ),
            recorded: Some(recorded),
            expected: None,
            members: Vec::new(),
        }
    }

    /// What resolves at that event and means nothing to the definition, or makes it fail.
    pub(crate) fn unexpected(event_id: u64, why: &str) -> Self {
        Self {
            event_id,
            recorded: None,
            expected: None,
            members: Vec::new(),
            message: format!("replay differs at event {event_id}: {why}"),
        }
    }
}

/// What differs between two commands of one kind and id.
fn members(recorded: &Event, expected: &Event, strictness: Strictness) -> Vec<&'static str> {
    let of_bits = strictness == Strictness::Bits;
    let compared = [
        ("value", recorded.payload != expected.payload),
        ("attributes", recorded.attributes != expected.attributes),
        ("queue", recorded.queue != expected.queue),
        (
            "version",
            recorded.version != expected.version || recorded.digest != expected.digest,
        ),
        (
            "timeouts",
            recorded.timeouts != expected.timeouts || recorded.retry != expected.retry,
        ),
        ("duration", recorded.duration_us != expected.duration_us),
        ("failure", recorded.failure != expected.failure),
        ("reason", recorded.reason != expected.reason),
        (
            "parent-close policy",
            recorded.detached != expected.detached
                || recorded.parent_close != expected.parent_close,
        ),
        ("task", of_bits && recorded.task != expected.task),
    ];
    let differing = compared.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(member, _)| member).collect()
}
