//! A run in memory: its inbox, its state, and its attempts.
//!
//! Whatever happens to a run is a [`Message`] in its inbox. One thread at a time takes
//! them all, turns them into one transition (see [`step`](super::step)) and hands that to
//! the writer; until it is committed the run is busy, and what arrives meanwhile is the
//! next transition's. So a run has at most one uncommitted transition, and what is in
//! memory differs from what is on disk by at most that.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::convert::Beginning;
use super::dispatch::Slot;
use super::state::RunState;
use crate::activity::{AttemptOutcome, CancelReason, Progress};
use crate::driver::Driver;
use crate::engine::{EngineError, ExecutionStatus};
use crate::failure::Failure;
use crate::payload::Payload;
use crate::search::SearchChanges;
use crate::signal::Signal;

/// Whom to answer after the commit.
pub type Answer = oneshot::Sender<Result<(), EngineError>>;

/// Something that happened to a run.
pub enum Message {
    /// An activation is due: the first one, or one that could not be run.
    Activate,
    /// A queue gave an attempt its slot.
    Granted {
        /// The activity.
        activity_id: String,
        /// The attempt.
        attempt: u32,
        /// The slot.
        slot: Slot,
    },
    /// An attempt ended.
    Ended(Box<Ended>),
    /// An activity's backoff is over.
    BackoffOver {
        /// The activity.
        activity_id: String,
    },
    /// An activity waited too long.
    QueueTimeout {
        /// The activity.
        activity_id: String,
        /// `schedule_to_start` or `schedule_to_close`.
        timeout: &'static str,
    },
    /// An activity without a running attempt was asked to stop, or cannot be run.
    GiveUp {
        /// The activity.
        activity_id: String,
        /// Why; `None` where it was asked to stop.
        failure: Option<Failure>,
    },
    /// A timer's time has come.
    TimerFired {
        /// The timer.
        timer_id: String,
    },
    /// A child was started, or could not be.
    ChildStarted {
        /// Its id within the run.
        child_id: String,
        /// Its run, or why there is none.
        outcome: Result<Uuid, Failure>,
    },
    /// A child ended.
    ChildEnded {
        /// Its id within the run.
        child_id: String,
        /// How.
        status: ExecutionStatus,
        /// Its result.
        outcome: Result<Payload, Failure>,
    },
    /// Somebody sends a signal.
    Signal {
        /// The signal, which was checked.
        signal: Box<Signal>,
        /// Who.
        answer: Option<Answer>,
    },
    /// Somebody offers an update. It begins a transition, see [`Inbox::batch`].
    Update {
        /// The update, which was checked.
        update: Box<Signal>,
        /// Who.
        answer: Option<Answer>,
    },
    /// Somebody asks a query.
    Query(Asked),
    /// A signal reached another run, or could not.
    ExternalSignaled {
        /// Its id within the run.
        signal_id: String,
        /// Why it could not.
        outcome: Result<(), Failure>,
    },
    /// Search attributes can be set, or cannot.
    SearchAttributesSet {
        /// The change's id within the run.
        change_id: String,
        /// What is set, or why it cannot be.
        outcome: Result<SearchChanges, Failure>,
    },
    /// Somebody asks for a cancel.
    Cancel {
        /// Why.
        reason: String,
        /// Who.
        answer: Option<Answer>,
    },
    /// Somebody ends the run by force.
    Terminate {
        /// Why.
        reason: String,
        /// Who.
        answer: Option<Answer>,
    },
}

/// A query.
pub struct Asked {
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub arguments: serde_json::Value,
    /// Who.
    pub answer: oneshot::Sender<Result<Payload, EngineError>>,
}

/// How an attempt ended.
pub struct Ended {
    /// The activity.
    pub activity_id: String,
    /// The attempt.
    pub attempt: u32,
    /// What it answered.
    pub outcome: AttemptOutcome,
    /// Details of its last heartbeat.
    pub heartbeat: Option<Payload>,
    /// Whether the engine stopped it because its time was over.
    pub timed_out: bool,
}

/// A run's inbox.
#[derive(Default)]
pub struct Inbox {
    /// What happened and was not yet taken.
    pub messages: VecDeque<Message>,
    /// Whether a thread has the run, or a commit is under way.
    pub busy: bool,
    /// Whether the run was removed from memory: look it up again.
    pub gone: bool,
}

impl Inbox {
    /// Takes what one transition is made of: all messages, but an update, which is
    /// validated against what is committed, is the first of its transition.
    pub fn batch(&mut self) -> VecDeque<Message> {
        let updates = self.messages.iter().skip(1);
        let end = updates
            .map(|message| matches!(message, Message::Update { .. }))
            .position(|is_update| is_update)
            .map_or(self.messages.len(), |at| at + 1);
        let later = self.messages.split_off(end);
        std::mem::replace(&mut self.messages, later)
    }
}

/// The part of a run that only the thread that has it touches.
#[derive(Default)]
pub struct Working {
    /// What it waits for.
    pub state: RunState,
    /// Its driver, if it is in memory.
    pub driver: Option<Driver>,
    /// Why it is held.
    pub held: Option<String>,
    /// Activations in a row that could not be run.
    pub unavailable: u32,
}

/// A running attempt.
pub struct Running {
    /// Its number.
    pub attempt: u32,
    /// Cancelled when it should stop.
    pub cancellation: CancellationToken,
    /// Why.
    pub reason: Arc<OnceLock<CancelReason>>,
    /// What it said.
    pub said: Arc<Said>,
}

impl Running {
    /// Asks it to stop; the first reason counts.
    pub fn stop(&self, reason: CancelReason) {
        let _ = self.reason.set(reason);
        self.cancellation.cancel();
    }
}

/// What an attempt said of itself.
pub struct Said {
    /// Its last heartbeat, or its start.
    pub last_heartbeat: Mutex<Timestamp>,
    /// Details of its last heartbeat.
    pub details: Mutex<Option<Payload>>,
    /// How far it is.
    pub progress: Mutex<Option<Progress>>,
}

/// An open run in memory.
pub struct RunCell {
    /// Its id.
    pub run_id: Uuid,
    /// Its first event.
    pub beginning: Beginning,
    /// What happened to it.
    pub inbox: Mutex<Inbox>,
    /// What only the thread that has it touches.
    pub working: Mutex<Working>,
    /// Its running attempts, by activity.
    pub running: Mutex<HashMap<String, Running>>,
    /// When its driver was last used, counted; see [`cache`](super::cache).
    pub used: AtomicU64,
}

impl RunCell {
    /// A run with this state. A busy one takes no message until it is released.
    pub fn new(beginning: Beginning, state: RunState, held: Option<String>, busy: bool) -> Self {
        Self {
            run_id: beginning.run_id(),
            beginning,
            inbox: Mutex::new(Inbox {
                busy,
                ..Inbox::default()
            }),
            working: Mutex::new(Working {
                state,
                held,
                ..Working::default()
            }),
            running: Mutex::default(),
            used: AtomicU64::new(0),
        }
    }

    /// Its tick in the cache.
    pub fn tick(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}
