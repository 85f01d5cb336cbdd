//! What goes into a driver and what comes out.
//!
//! Ids are given by the driver, deterministically, and are unique within the run:
//! `activity_id`, `timer_id`, `child_id`, `signal_id` and `change_id` are decimal numbers
//! counted from 1 in the order of their commands.

use std::time::Duration;

use jiff::Timestamp;

use crate::activity::{ActivityTimeouts, RetryPolicy};
use crate::definition::{ParentClosePolicy, PinnedActivity, WorkflowReference};
use crate::failure::Failure;
use crate::payload::Payload;
use crate::search::GivenChanges;
use crate::signal::Signal;

/// What happened since the last activation, in the order in which it happened.
#[derive(Debug, Clone)]
pub struct Activation {
    /// The time of this activation: the run's `now` until the next one. Recorded,
    /// and the same on replay.
    pub now: Timestamp,
    /// What resolved. Empty only in the first activation, which starts the run, and where an
    /// engine keeps from the driver all that came.
    pub resolutions: Vec<Resolution>,
    /// Whether the history has grown so long that the run should continue as new, if it
    /// can. Recorded, and the same on replay.
    pub continue_as_new_suggested: bool,
}

/// Something that the driver waits for has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolution {
    /// An activity ended, its retries included.
    Activity {
        /// Its id.
        activity_id: String,
        /// How it ended; a cancelled one is a failure of kind `cancelled`.
        outcome: Result<Payload, Failure>,
    },
    /// A timer fired. Not sent after its cancel.
    Timer {
        /// Its id.
        timer_id: String,
    },
    /// A child workflow was started, or could not be.
    ChildStarted {
        /// Its id within the parent.
        child_id: String,
        /// The child's run id, or why there is none.
        outcome: Result<uuid::Uuid, Failure>,
    },
    /// A child workflow ended. Only after a successful `ChildStarted`; for a detached
    /// child it may be left out.
    Child {
        /// Its id within the parent.
        child_id: String,
        /// How it ended; a cancelled one is a failure of kind `cancelled`.
        outcome: Result<Payload, Failure>,
    },
    /// Somebody asked the run to cancel. At most once per run.
    CancelRequested {
        /// Why, as they said.
        reason: String,
    },
    /// The run took an update ([`Driver::validate`](super::Driver::validate) said so just
    /// before, or an offer of it once).
    Update(Box<Signal>),
    /// Somebody offers an update, of which nobody was asked yet. The driver says whether
    /// the run takes it ([`Driver::take_verdicts`](super::Driver::take_verdicts)); one that
    /// it takes resolves as [`Update`](Self::Update), which is what replay is given.
    Offer(Box<Signal>),
    /// A signal reached another run, or could not.
    ExternalSignaled {
        /// Its id among the run's commands.
        signal_id: String,
        /// Why it could not.
        outcome: Result<(), Failure>,
    },
    /// The run's search attributes were set, or cannot be.
    SearchAttributesSet {
        /// Its id among the run's commands.
        change_id: String,
        /// Why they cannot.
        outcome: Result<(), Failure>,
    },
    /// Somebody sent a signal. It waits until a task listens for it; one whose data is no
    /// JSON is read by nobody.
    Signal(Box<Signal>),
}

impl Resolution {
    /// Its payload, if it has one; it may be a reference, which is to be resolved before
    /// the activation.
    pub fn payload_mut(&mut self) -> Option<&mut Payload> {
        match self {
            Self::Activity {
                outcome: Ok(payload),
                ..
            }
            | Self::Child {
                outcome: Ok(payload),
                ..
            } => Some(payload),
            _ => None,
        }
    }
}

/// What the driver wants to happen. Commands of one activation are recorded together.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Schedule an activity.
    ScheduleActivity(Box<ScheduleActivity>),
    /// Ask an activity to stop. It still resolves; until it does, the run does not end.
    /// Never for one that has resolved, in this activation or before.
    CancelActivity {
        /// Its id.
        activity_id: String,
    },
    /// Start a timer.
    StartTimer {
        /// Its id.
        timer_id: String,
        /// From the activation's `now`.
        duration: Duration,
        /// The task that waits, as JSON pointer; for display.
        task: String,
    },
    /// Forget a timer. It does not resolve, and its resolution is accepted only later in
    /// the activation that cancelled it (both had happened by then; the command is
    /// dropped).
    CancelTimer {
        /// Its id.
        timer_id: String,
    },
    /// Start a child workflow.
    StartChild(Box<StartChild>),
    /// Ask a child to cancel; perhaps before its start is known. It still resolves.
    CancelChild {
        /// Its id within the parent.
        child_id: String,
    },
    /// Record an event that the flow emitted to nobody in particular.
    Emit {
        /// The event.
        event: Payload,
        /// The task, as JSON pointer; for display.
        task: String,
    },
    /// Send a signal to the open run of a workflow id of the same namespace. It resolves.
    SignalExternal(Box<SignalExternal>),
    /// Set search attributes of the run. It resolves.
    SetSearchAttributes {
        /// Its id among the run's commands.
        change_id: String,
        /// What is set.
        changes: GivenChanges,
        /// The task, as JSON pointer; for display.
        task: String,
    },
    /// An update that the run took has ended.
    CompleteUpdate {
        /// Its id.
        update_id: String,
        /// Its result, inline.
        outcome: Result<Payload, Failure>,
    },
    /// The run is done. Nothing follows.
    Complete {
        /// Its result, inline.
        result: Payload,
    },
    /// The run failed. Nothing follows.
    Fail {
        /// Why.
        failure: Failure,
    },
    /// The run ends as cancelled. Nothing follows.
    Cancel {
        /// Why.
        reason: String,
    },
    /// The run ends, and another one of the same workflow id, input and pins goes on where
    /// it was. Nothing follows.
    ContinueAsNew {
        /// The next run's [`RunStart::resume`](super::RunStart::resume); by reference where
        /// it is large.
        resume: Payload,
    },
}

impl Command {
    /// Whether the run ends with it.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Complete { .. }
                | Self::Fail { .. }
                | Self::Cancel { .. }
                | Self::ContinueAsNew { .. }
        )
    }
}

/// A task that listens for signals; for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// The task, as JSON pointer.
    pub task: String,
    /// The names of the signals that it takes, sorted; `*` stands for any, where a filter
    /// names none.
    pub signals: Vec<String>,
    /// Whether it takes updates of these names as well.
    pub updates: bool,
}

/// An activity to schedule, with everything decided.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleActivity {
    /// Its id.
    pub activity_id: String,
    /// What to run.
    pub activity: PinnedActivity,
    /// The queue to run it on.
    pub queue: String,
    /// Whether that is a queue of foreign workers: its input stays inline, and has at most
    /// [`FOREIGN_LIMIT`](crate::payload::FOREIGN_LIMIT) bytes.
    pub foreign: bool,
    /// Its input.
    pub input: Payload,
    /// Its timeouts, `start_to_close` always given.
    pub timeouts: ActivityTimeouts,
    /// Its retry policy.
    pub retry: RetryPolicy,
    /// The task that calls it, as JSON pointer; for display.
    pub task: String,
}

/// A signal to send to another run.
#[derive(Debug, Clone, PartialEq)]
pub struct SignalExternal {
    /// Its id among the run's commands, counted as those of activities are.
    pub signal_id: String,
    /// The workflow whose open run gets it.
    pub workflow_id: String,
    /// The signal.
    pub signal: Signal,
    /// The task that sends it, as JSON pointer; for display.
    pub task: String,
}

/// A child workflow to start.
#[derive(Debug, Clone, PartialEq)]
pub struct StartChild {
    /// Its id within the parent.
    pub child_id: String,
    /// Its workflow id: the parent's run id, `_`, and `child_id`.
    pub workflow_id: String,
    /// Which definition.
    pub workflow: WorkflowReference,
    /// The queue of the foreign workers that run it; then its input stays inline, and has
    /// at most [`FOREIGN_LIMIT`](crate::payload::FOREIGN_LIMIT) bytes. `None`: it is a flow.
    pub foreign_queue: Option<String>,
    /// Its input.
    pub input: Payload,
    /// Whether the parent does not wait for its end.
    pub detached: bool,
    /// What happens to it when the parent ends before it.
    pub parent_close: ParentClosePolicy,
    /// How deep it is nested; the first child of a run that has no parent has 1.
    pub depth: u32,
    /// The task that starts it, as JSON pointer; for display.
    pub task: String,
}
