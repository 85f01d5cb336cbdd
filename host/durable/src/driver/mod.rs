//! The workflow driver: sans-IO and deterministic.

pub mod command;

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

pub use command::{Activation, Command, Resolution, ScheduleActivity, StartChild};

use crate::definition::PinnedDefinition;
use crate::expressions::{ExpressionError, Expressions};
use crate::payload::Payload;

/// Raised by every change of which commands come in which order; recorded with each
/// run. Old behaviour stays behind its number while histories may need it.
pub const REVISION: u32 = 1;

/// Limits on what one run may do, recorded with it and counted, never timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunLimits {
    /// Tasks that one activation executes.
    pub tasks_per_activation: u64,
    /// Bytes of data (as JSON text) that a run holds.
    pub data_bytes: u64,
    /// How deep children nest.
    pub depth: u32,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            tasks_per_activation: 10_000,
            data_bytes: 16 * 1024 * 1024,
            depth: 32,
        }
    }
}

/// What a driver is made of; all of it is in the run's first event.
#[derive(Debug, Clone)]
pub struct RunStart {
    /// The namespace.
    pub namespace: String,
    /// The caller's id.
    pub workflow_id: String,
    /// This execution.
    pub run_id: Uuid,
    /// When it was started.
    pub started_at: Timestamp,
    /// The definition and all it is pinned to.
    pub definition: PinnedDefinition,
    /// The input, with references resolved.
    pub input: Payload,
    /// How deep it is nested; 0 for a run without a parent.
    pub depth: u32,
    /// Seed of the run's random numbers.
    pub seed: u64,
    /// The limits.
    pub limits: RunLimits,
    /// The driver's revision under which the run was started.
    pub revision: u32,
    /// The expressions' answer revision under which the run was started.
    pub answer_revision: u32,
}

/// One run's workflow logic.
pub struct Driver {}

impl Driver {
    /// A driver for a run, at its beginning. Compiles the flow's expressions.
    ///
    /// # Errors
    /// Only [`ExpressionError::Unavailable`], and only before anything happened.
    pub fn new(
        _start: RunStart,
        _expressions: &Arc<dyn Expressions>,
    ) -> Result<Self, ExpressionError> {
        Ok(Self {})
    }

    /// Goes on with what resolved and answers what to do next. After a terminal
    /// command it must not be called again. Blocking (it evaluates expressions).
    ///
    /// # Errors
    /// Only [`ExpressionError::Unavailable`]; the driver must then be dropped and
    /// rebuilt from the history.
    pub fn activate(&mut self, _activation: Activation) -> Result<Vec<Command>, ExpressionError> {
        Ok(Vec::new())
    }
}
