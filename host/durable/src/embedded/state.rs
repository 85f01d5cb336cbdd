//! What the engine holds in memory of open runs, all of it rebuilt from the history.

use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use tokio::sync::{broadcast, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::events::Event;
use crate::activity::{CancelReason, Progress};
use crate::driver::{Driver, Resolution, RunStart, ScheduleActivity};
use crate::engine::{EngineError, LiveEvent, RunInfo};
use crate::failure::Failure;
use crate::payload::{Digest, Payload};

/// Answers a request after its commit.
pub type Responder = oneshot::Sender<Result<(), EngineError>>;

/// What waits for a run's next activation.
pub struct Arrival {
    /// For the driver; its payload may be a reference.
    pub resolution: Resolution,
    /// For the history.
    pub event: Event,
    /// Who waits for its commit.
    pub responder: Option<Responder>,
}

/// How far a run's history is committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// Id of the last event.
    pub events: u64,
    /// Whether it is the run's last.
    pub closed: bool,
}

/// The token of a running attempt.
#[derive(Debug, Clone, Default)]
pub struct AttemptHandle {
    /// Cancelled when the attempt should stop.
    pub cancellation: CancellationToken,
    /// Why.
    pub reason: Arc<OnceLock<CancelReason>>,
}

impl AttemptHandle {
    /// Asks the attempt to stop; the first reason counts.
    pub fn stop(&self, reason: CancelReason) {
        let _ = self.reason.set(reason);
        self.cancellation.cancel();
    }
}

/// Where an activity stands.
#[derive(Debug)]
pub enum Stage {
    /// In its queue.
    Waiting,
    /// An attempt has a slot.
    Started(AttemptHandle),
    /// Waits for its next attempt.
    BackingOff(Timestamp),
}

/// An activity that has not ended.
#[derive(Debug)]
pub struct Activity {
    /// What was scheduled; its input may be a reference.
    pub command: Arc<ScheduleActivity>,
    /// When.
    pub scheduled_at: Timestamp,
    /// When this attempt was: the end of its backoff for a retry.
    pub attempt_scheduled_at: Timestamp,
    /// When this attempt started.
    pub started_at: Option<Timestamp>,
    /// The attempt that runs or comes next; 1 for the first.
    pub attempt: u32,
    /// Where it stands.
    pub stage: Stage,
    /// Whether it was asked to stop.
    pub cancel_requested: bool,
    /// Why the last attempt failed.
    pub last_failure: Option<Failure>,
    /// Details of the last heartbeat.
    pub heartbeat: Option<Payload>,
    /// How far the attempt is.
    pub progress: Option<Progress>,
}

/// A timer that has not fired.
#[derive(Debug)]
pub struct PendingTimer {
    /// When it fires.
    pub due: Timestamp,
    /// The task that waits.
    pub task: String,
}

/// A child that has not ended.
#[derive(Debug)]
pub struct Child {
    /// What was initiated.
    pub initiated: Event,
    /// Its run, once it is started.
    pub run_id: Option<Uuid>,
    /// Whether it was asked to cancel before it was started.
    pub cancel_requested: bool,
}

/// An open run.
pub struct Run {
    /// As in lists.
    pub info: RunInfo,
    /// How deep it is nested.
    pub depth: u32,
    /// Its id within its parent, if the parent waits for it.
    pub child_id: Option<String>,
    /// W3C trace context of its start.
    pub traceparent: Option<String>,
    /// Values shown with it.
    pub memo: BTreeMap<String, Payload>,
    /// What it is pinned to, by the name the flow uses.
    pub pinned: BTreeMap<String, Option<Digest>>,
    /// Id of the next event.
    pub next_event: u64,
    /// By id.
    pub activities: BTreeMap<String, Activity>,
    /// By id.
    pub timers: BTreeMap<String, PendingTimer>,
    /// By id.
    pub children: BTreeMap<String, Child>,
    /// What its next activation gets.
    pub inbox: Vec<Arrival>,
    /// The beginning of a run that was not activated yet.
    pub fresh: Option<Box<RunStart>>,
    /// Its driver; absent where it was evicted or is being activated.
    pub driver: Option<Driver>,
    /// Whether an activation is under way or not committed yet.
    pub busy: bool,
    /// Whether its last transition is on its way to the disk.
    pub closing: bool,
    /// Whether somebody asked it to cancel.
    pub cancel_requested: bool,
    /// What is committed; watched by long-polls.
    pub committed: watch::Sender<Committed>,
    /// Its live events; made when somebody listens.
    pub live: Option<broadcast::Sender<LiveEvent>>,
}

/// A queue and its slots.
#[derive(Debug, Default)]
pub struct Queue {
    /// Attempts at once.
    pub limit: usize,
    /// Attempts that have a slot.
    pub in_flight: usize,
    /// Activities that wait for one, first come first served.
    pub waiting: VecDeque<(Uuid, String)>,
}

/// What a timer is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// A flow's timer.
    Timer(Uuid, String),
    /// The end of a backoff before that attempt.
    Retry(Uuid, String, u32),
    /// An attempt waited too long for a slot.
    ScheduleToStart(Uuid, String, u32),
    /// An activity took too long, its retries included.
    ScheduleToClose(Uuid, String),
    /// A run whose activation could not be done.
    Activate(Uuid),
}

/// Everything.
#[derive(Default)]
pub struct State {
    /// Open runs.
    pub runs: HashMap<Uuid, Run>,
    /// The open run of a namespace's workflow id.
    pub open: HashMap<(String, String), Uuid>,
    /// By name.
    pub queues: BTreeMap<String, Queue>,
    /// How many open runs are pinned to a definition or plugin version.
    pub pins: HashMap<Digest, u64>,
    /// Earliest first.
    pub alarms: BinaryHeap<std::cmp::Reverse<(Timestamp, Alarm)>>,
    /// Runs whose drivers are kept, the longest unused first.
    pub kept: VecDeque<Uuid>,
    /// Nothing new is started.
    pub draining: bool,
}

impl State {
    /// Counts a run's pins up or down.
    pub fn pin(&mut self, digests: &[Digest], up: bool) {
        for digest in digests {
            let count = self.pins.entry(*digest).or_default();
            *count = if up { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.pins.remove(digest);
            }
        }
    }
}

impl Run {
    /// The definition and every plugin version that it needs.
    pub fn digests(&self) -> Vec<Digest> {
        let mut digests: Vec<Digest> = self.pinned.values().copied().flatten().collect();
        digests.push(self.info.digest);
        digests.sort_unstable();
        digests.dedup();
        digests
    }
}
