//! How much one workflow task may say.
//!
//! The cluster takes no message of 4 MiB, and asks again and again for what it did not take.
//! So values go by reference, where they may, when those of one task are many, and a run
//! that would say too much all the same fails. All of it is counted in bytes of what the
//! driver answers, the same on replay. Core sends what the activations of one workflow task
//! answer together; they have the same history.

use prost::Message as _;
use serde_json::json;

use super::super::convert::from_json_payload;
use super::super::sdk;
use super::{Run, Stage, command, fail};
use crate::driver::Command;
use crate::failure::{Failure, kind};
use crate::payload::{FOREIGN_LIMIT, INLINE_LIMIT, Payload, Referred, referred_above};

/// Bytes of values that one workflow task carries before all go by reference that may.
const INLINE: usize = 2 * 1024 * 1024;

/// Up to how many bytes a value stays inline even then: a reference is not much smaller.
const SMALL: usize = 256;

/// Bytes of the updates that are offered in one workflow task, of which one alone may have
/// as many: core sends those that are accepted back.
const OFFERED: usize = FOREIGN_LIMIT;

/// What the workflow task of a run says.
#[derive(Debug)]
pub struct TaskSize {
    /// How long the history was as the task began: which one it is.
    history: u32,
    /// Bytes that were said.
    said: usize,
    /// Bytes of updates that were offered.
    offered: usize,
    /// Above how many bytes a value goes by reference.
    inline: usize,
}

impl Default for TaskSize {
    fn default() -> Self {
        Self {
            history: 0,
            said: 0,
            offered: 0,
            inline: INLINE_LIMIT,
        }
    }
}

impl TaskSize {
    /// An activation comes, with the history of its workflow task.
    pub fn enter(&mut self, history: u32) {
        if self.history != history {
            *self = Self {
                history,
                ..Self::default()
            };
        }
    }

    /// Whether an update of so many bytes may be offered in this task as well.
    pub fn takes_update(&mut self, bytes: usize) -> bool {
        let offered = self.offered.saturating_add(bytes);
        let takes = offered <= OFFERED;
        if takes {
            self.offered = offered;
        }
        takes
    }

    /// An update of so many bytes was rejected, and nothing of it is sent back. Where all of
    /// a task were, the cluster forgets it, and the next one has the same history.
    pub fn rejects_update(&mut self, bytes: usize) {
        self.offered = self.offered.saturating_sub(bytes);
    }

    /// So many bytes are said beside commands.
    pub fn say(&mut self, bytes: usize) {
        self.said = self.said.saturating_add(bytes);
    }
}

impl Run {
    /// Looks at what the driver answered before any of it is made core's.
    pub fn look_ahead(&mut self, answered: &[Command]) {
        let values: usize = answered.iter().map(|command| self.inline(command)).sum();
        if self.task_size.said.saturating_add(values) > INLINE {
            self.task_size.inline = SMALL;
        }
    }

    /// The payload as it stays inside Heyday, in this workflow task.
    pub(super) fn referred(&self, payload: Payload, stored: &mut Vec<Referred>) -> Payload {
        referred_above(self.task_size.inline, payload, stored)
    }

    /// The input for the run that goes on: as it came, where there is room.
    pub(super) fn input_again(&self, stored: &mut Vec<Referred>) -> Payload {
        let input = self.input.clone();
        if self.task_size.inline == INLINE_LIMIT {
            return input;
        }
        self.referred(input, stored)
    }

    /// Bytes of the values that a command carries where it is made as usual.
    fn inline(&self, command: &Command) -> usize {
        let inside = |payload: &Payload| match payload.data.len() {
            size if size <= INLINE_LIMIT => size,
            _ => 0,
        };
        let of_failure =
            |failure: &Failure| serde_json::to_vec(failure).map_or(0, |text| text.len());
        match command {
            Command::ScheduleActivity(activity) if activity.foreign => activity.input.data.len(),
            Command::ScheduleActivity(activity) => inside(&activity.input),
            Command::StartChild(child) if child.foreign_queue.is_some() => child.input.data.len(),
            Command::StartChild(child) => inside(&child.input),
            Command::Emit { event, .. } => event.data.len(),
            Command::SignalExternal(external) => external.signal.data.data.len(),
            Command::CompleteUpdate { outcome, .. } => match outcome {
                Ok(result) => result.data.len(),
                Err(failure) => of_failure(failure),
            },
            Command::Complete { result } => result.data.len(),
            Command::Fail { failure } => of_failure(failure),
            Command::Cancel { reason } => reason.len(),
            Command::ContinueAsNew { resume } => {
                let memo = self.memo.values().map(|value| value.data.len());
                inside(resume) + self.input.data.len() + memo.sum::<usize>()
            }
            Command::CancelActivity { .. }
            | Command::StartTimer { .. }
            | Command::CancelTimer { .. }
            | Command::CancelChild { .. }
            | Command::SetSearchAttributes { .. } => 0,
        }
    }

    /// Bytes that the commands of one workflow task may have.
    fn command_bytes(&self) -> u64 {
        self.limits.map_or(u64::MAX, |limits| limits.command_bytes)
    }

    /// These commands; where with what was said before they have more bytes than the run's
    /// limit, the one by which it fails.
    pub fn within(&mut self, commands: Vec<sdk::WorkflowCommand>) -> Vec<sdk::WorkflowCommand> {
        let limit = self.command_bytes();
        let sizes = commands.iter().map(sdk::WorkflowCommand::encoded_len);
        let bytes: usize = sizes.sum();
        let said = self.task_size.said.saturating_add(bytes);
        if u64::try_from(said).unwrap_or(u64::MAX) <= limit {
            self.task_size.said = said;
            return commands;
        }
        let largest = commands
            .iter()
            .max_by_key(|command| command.encoded_len())
            .and_then(task_of)
            .unwrap_or_else(|| "/".to_owned());
        self.stage = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Running(driver) => Stage::Ended(driver),
            stage => stage,
        };
        self.continued = false;
        let message = format!(
            "at {largest} and the other tasks that go on at once, the run asks for {said} bytes of commands, more than the {limit} that a Temporal cluster takes together; write large values to a blob and pass their keys"
        );
        let why = Failure::permanent(kind::LIMIT_EXCEEDED, message)
            .with_details(json!({ "limit": "command_bytes", "task": largest }));
        vec![command(fail(why), "")]
    }
}

/// The task that gives a command, as it is shown.
fn task_of(command: &sdk::WorkflowCommand) -> Option<String> {
    let summary = command.user_metadata.as_ref()?.summary.as_ref()?;
    from_json_payload(summary).ok()
}
