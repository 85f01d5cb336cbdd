//! The port: the only way by which the interpreter reaches the world.
//!
//! Its futures push a command when they begin and are resolved by
//! [`Port::resolve`]; nothing wakes them, the driver polls the whole tree after each
//! resolution. Ids count from 1 in the order of their commands.
//!
//! Cancelling works by level: a [`Scope`] knows every [`Flag`] that counts for it, and
//! each wait looks at them whenever it is polled. Activities and children that were
//! asked to stop are awaited; timers are forgotten at once.

mod room;
mod signals;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use jiff::Timestamp;
pub(super) use room::Room;
use room::Table;
use serde_json::Value;
pub(super) use signals::{Arrived, Verdict};
use uuid::Uuid;

use super::command::{Command, Listening, Resolution, ScheduleActivity, StartChild};
use super::data::{DataLimit, Meter};
use super::random::Random;
use super::resume::{Keys, WaitingSignal};
use crate::definition::ParentClosePolicy;
use crate::failure::Failure;
use crate::payload::Payload;
use crate::search::GivenChanges;

/// A scope was cancelled; the text says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cancelled(pub(super) String);

/// Something that can be cancelled once.
#[derive(Debug, Default)]
pub(super) struct Flag(OnceLock<String>);

impl Flag {
    /// Cancels; the first reason stays.
    pub(super) fn cancel(&self, reason: &str) {
        // A second cancel has nothing to add.
        let _ = self.0.set(reason.to_owned());
    }

    fn reason(&self) -> Option<&String> {
        self.0.get()
    }
}

/// All flags that count for a task, the run's own first.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope(Arc<[Arc<Flag>]>);

impl Scope {
    /// A scope that ends with this flag alone.
    pub(super) fn of(flag: Arc<Flag>) -> Self {
        Self(Arc::new([flag]))
    }

    /// A scope within this one, with a flag of its own.
    pub(super) fn child(&self) -> (Self, Arc<Flag>) {
        let flag = Arc::new(Flag::default());
        let flags = self.0.iter().cloned().chain([Arc::clone(&flag)]).collect();
        (Self(flags), flag)
    }

    /// Whether it was cancelled.
    pub(super) fn check(&self) -> Result<(), Cancelled> {
        match self.0.iter().find_map(|flag| flag.reason()) {
            None => Ok(()),
            Some(reason) => Err(Cancelled(reason.clone())),
        }
    }
}

/// Whether the run is to continue as new, if it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    /// It is not.
    No,
    /// Where it has just moved on.
    Moved,
    /// Also where it waits for a signal and has nothing to do.
    Waiting,
}

/// Why something that resolved could not be taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// Nothing waits for it: history and driver disagree.
    Unexpected(String),
    /// The run would hold too much.
    Full(DataLimit),
}

#[derive(Debug)]
struct Inner {
    now: Timestamp,
    commands: Vec<Command>,
    activities: Table<Result<Payload, Failure>>,
    timers: Table<()>,
    starts: Table<Result<Uuid, Failure>>,
    children: Table<Result<Payload, Failure>>,
    /// Children for whose end nobody waits, and of which it was not told.
    detached: BTreeSet<u64>,
    externals: Table<Result<(), Failure>>,
    attributes: Table<Result<(), Failure>>,
    /// Events that were made.
    events: u64,
    /// In the order in which they came.
    signals: VecDeque<Arrived>,
    arrived: u64,
    /// Ids of signals that were taken since somebody asked.
    consumed: Vec<String>,
    /// Tasks that listen, in the order in which they began.
    listening: BTreeMap<u64, Listening>,
    /// Tasks that run, in the order in which they began.
    running: BTreeMap<u64, String>,
    /// Counts what is shown in the two above.
    shown: u64,
    /// An update of which is asked whether somebody takes it.
    offered: Option<Arc<Value>>,
    verdict: Option<Verdict>,
    random: Random,
    steps: u64,
    entered: Vec<String>,
    asked: Asked,
    /// Whether a child runs, perhaps, that is to end with this run.
    bound: bool,
    /// Keys of signals that came.
    keys: Keys,
    /// Ids of updates that have ended.
    ended_updates: Keys,
}

/// Tasks of one activation that are named; a loop may run thousands.
const NAMED_TASKS: usize = 256;

/// Commands out, resolutions in.
#[derive(Debug)]
pub(super) struct Port {
    inner: Mutex<Inner>,
    cancel: Arc<Flag>,
    meter: Arc<Meter>,
    room: Room,
}

impl Port {
    pub(super) fn new(now: Timestamp, seed: u64, meter: Arc<Meter>, room: Room) -> Self {
        Self {
            inner: Mutex::new(Inner {
                now,
                commands: Vec::new(),
                activities: Table::default(),
                timers: Table::default(),
                starts: Table::default(),
                children: Table::default(),
                detached: BTreeSet::new(),
                externals: Table::default(),
                attributes: Table::default(),
                events: 0,
                signals: VecDeque::new(),
                arrived: 0,
                consumed: Vec::new(),
                listening: BTreeMap::new(),
                running: BTreeMap::new(),
                shown: 0,
                offered: None,
                verdict: None,
                random: Random::new(seed),
                steps: 0,
                entered: Vec::new(),
                asked: Asked::No,
                bound: false,
                keys: Keys::default(),
                ended_updates: Keys::default(),
            }),
            cancel: Arc::default(),
            meter,
            room,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No invariant spans two statements under the lock; after a panic the driver
        // is not used again anyway.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an activation.
    pub(super) fn begin(&self, now: Timestamp) {
        let mut inner = self.lock();
        inner.now = now;
        inner.steps = 0;
    }

    /// Says whether the run is to continue as new, if it can.
    pub(super) fn ask_to_continue(&self, asked: Asked) {
        self.lock().asked = asked;
    }

    /// Whether the run is to continue as new from such a place, and nothing stands in the
    /// way: nothing is under way but the timer of the whole flow, where it has one.
    pub(super) fn continues(&self, from: Asked, has_deadline: bool) -> bool {
        let inner = self.lock();
        inner.asked >= from
            && !inner.bound
            && self.cancel.reason().is_none()
            && inner.timers.len() <= usize::from(has_deadline)
            && inner.activities.len() == 0
            && inner.starts.len() == 0
            && inner.children.len() == 0
            && inner.externals.len() == 0
            && inner.signals.iter().all(|one| one.update.is_none())
    }

    /// Takes the commands of this activation.
    pub(super) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut self.lock().commands)
    }

    /// The flag of the run itself.
    pub(super) fn run_flag(&self) -> Arc<Flag> {
        Arc::clone(&self.cancel)
    }

    /// Why somebody asked the run to cancel, if anybody did.
    pub(super) fn cancel_reason(&self) -> Option<String> {
        self.cancel.reason().cloned()
    }

    /// Lets one thing resolve.
    ///
    /// # Errors
    /// As [`Refused`] says.
    pub(super) fn resolve(&self, resolution: Resolution) -> Result<(), Refused> {
        let mut inner = self.lock();
        let (what, id, expected) = match resolution {
            Resolution::CancelRequested { reason } => {
                self.cancel.cancel(&reason);
                return Ok(());
            }
            Resolution::Signal(signal) => {
                let key = signal.key();
                if inner.keys.is_of_before(&key) {
                    inner.consumed.push(key);
                    return Ok(());
                }
                inner.keys.add(key.clone());
                match signal.event(inner.now) {
                    Ok(event) => self.arrive(&mut inner, key, event, None)?,
                    // It can be no event of a flow.
                    Err(_) => inner.consumed.push(key),
                }
                return Ok(());
            }
            // An offer was judged, and became an update, before.
            Resolution::Update(update) | Resolution::Offer(update) => {
                // One that cannot be read was rejected.
                if let Ok(event) = update.event(inner.now) {
                    self.arrive(&mut inner, update.key(), event, Some(update.id))?;
                }
                return Ok(());
            }
            Resolution::Activity {
                activity_id,
                outcome,
            } => {
                let waited = inner.activities.resolve(&activity_id, outcome);
                // It ended before its cancel could reach it.
                inner.commands.retain(|command| {
                    !matches!(command, Command::CancelActivity { activity_id: id } if *id == activity_id)
                });
                ("activity", activity_id, waited)
            }
            Resolution::Timer { timer_id } => {
                // One that was cancelled after it fired, in this same activation.
                let cancelled = |command: &Command| matches!(command, Command::CancelTimer { timer_id: id } if *id == timer_id);
                let late = inner.commands.iter().any(cancelled);
                inner.commands.retain(|command| !cancelled(command));
                let waited = inner.timers.resolve(&timer_id, ());
                ("timer", timer_id, waited || late)
            }
            Resolution::ExternalSignaled { signal_id, outcome } => {
                let waited = inner.externals.resolve(&signal_id, outcome);
                ("signal", signal_id, waited)
            }
            Resolution::SearchAttributesSet { change_id, outcome } => {
                let waited = inner.attributes.resolve(&change_id, outcome);
                ("change of search attributes", change_id, waited)
            }
            Resolution::ChildStarted { child_id, outcome } => {
                if outcome.is_err()
                    && let Ok(id) = child_id.parse::<u64>()
                {
                    // It never ends.
                    inner.children.forget(id);
                    inner.detached.remove(&id);
                }
                let waited = inner.starts.resolve(&child_id, outcome);
                ("start of child", child_id, waited)
            }
            Resolution::Child { child_id, outcome } => {
                let waited = inner.children.resolve(&child_id, outcome);
                inner.commands.retain(|command| {
                    !matches!(command, Command::CancelChild { child_id: id } if *id == child_id)
                });
                // Nobody waits for the end of a detached child.
                let detached = child_id
                    .parse()
                    .is_ok_and(|id: u64| inner.detached.remove(&id));
                ("child", child_id, waited || detached)
            }
        };
        if expected {
            Ok(())
        } else {
            Err(Refused::Unexpected(format!(
                "{what} {id:?} resolved, for which nothing waits"
            )))
        }
    }

    /// The time of this activation.
    pub(super) fn now(&self) -> Timestamp {
        self.lock().now
    }

    /// The run's next random number, in [0, 1).
    pub(super) fn random(&self) -> f64 {
        self.lock().random.fraction()
    }

    /// Counts one step of this activation; answers how many there were.
    pub(super) fn step(&self) -> u64 {
        let mut inner = self.lock();
        inner.steps += 1;
        inner.steps
    }

    /// Notes that a task begins.
    pub(super) fn entered(&self, reference: &str) {
        let mut inner = self.lock();
        if inner.entered.len() < NAMED_TASKS {
            inner.entered.push(reference.to_owned());
        }
    }

    /// Takes the tasks that began.
    pub(super) fn take_entered(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().entered)
    }

    /// Issues a command that nothing waits for, the terminal ones above all.
    pub(super) fn command(&self, command: Command) {
        self.lock().commands.push(command);
    }

    /// Runs an activity to its end; the id in `schedule` is set here.
    pub(super) async fn activity(
        &self,
        scope: &Scope,
        mut schedule: ScheduleActivity,
    ) -> Result<Result<Payload, Failure>, Cancelled> {
        scope.check()?;
        self.room_for_activity(scope).await?;
        let id = {
            let mut inner = self.lock();
            let id = inner.activities.issue();
            schedule.activity_id = id.to_string();
            inner
                .commands
                .push(Command::ScheduleActivity(Box::new(schedule)));
            id
        };
        let mut asked = None;
        poll_fn(move |_| {
            let mut inner = self.lock();
            if let Some(outcome) = inner.activities.take(id) {
                return Poll::Ready(asked.take().map_or(Ok(outcome), Err));
            }
            if asked.is_none()
                && let Err(cancelled) = scope.check()
            {
                inner.commands.push(Command::CancelActivity {
                    activity_id: id.to_string(),
                });
                asked = Some(cancelled);
            }
            Poll::Pending
        })
        .await
    }

    /// Sets search attributes of the run. It does not take long, so a cancel waits too.
    pub(super) async fn set_search_attributes(
        &self,
        changes: GivenChanges,
        task: &str,
    ) -> Result<(), Failure> {
        let id = {
            let mut inner = self.lock();
            let id = inner.attributes.issue();
            inner.commands.push(Command::SetSearchAttributes {
                change_id: id.to_string(),
                changes,
                task: task.to_owned(),
            });
            id
        };
        poll_fn(|_| match self.lock().attributes.take(id) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        })
        .await
    }

    /// Waits that long.
    pub(super) async fn sleep(
        &self,
        scope: &Scope,
        duration: Duration,
        task: &str,
    ) -> Result<(), Cancelled> {
        scope.check()?;
        let timer = self.start_timer(duration, task);
        poll_fn(|_| {
            if self.timer_fired(timer) {
                return Poll::Ready(Ok(()));
            }
            match scope.check() {
                Ok(()) => Poll::Pending,
                Err(cancelled) => {
                    self.cancel_timer(timer);
                    Poll::Ready(Err(cancelled))
                }
            }
        })
        .await
    }

    /// Starts a timer that somebody polls.
    pub(super) fn start_timer(&self, duration: Duration, task: &str) -> u64 {
        let mut inner = self.lock();
        let id = inner.timers.issue();
        inner.commands.push(Command::StartTimer {
            timer_id: id.to_string(),
            duration,
            task: task.to_owned(),
        });
        id
    }

    /// Whether it fired; true once.
    pub(super) fn timer_fired(&self, id: u64) -> bool {
        self.lock().timers.take(id).is_some()
    }

    /// Forgets a timer that has not fired.
    pub(super) fn cancel_timer(&self, id: u64) {
        let mut inner = self.lock();
        if inner.timers.forget(id) {
            inner.commands.push(Command::CancelTimer {
                timer_id: id.to_string(),
            });
        }
    }

    /// Runs a child to its end, or only starts it where it is detached (`None` then).
    /// Ids and workflow id in `start` are set here.
    pub(super) async fn child(
        &self,
        scope: &Scope,
        parent: Uuid,
        mut start: StartChild,
    ) -> Result<Result<Option<Payload>, Failure>, Cancelled> {
        scope.check()?;
        self.room_for_child(scope).await?;
        let detached = start.detached;
        let id = {
            let mut inner = self.lock();
            let id = inner.starts.issue();
            if detached {
                inner.detached.insert(id);
            } else {
                inner.children.wait_for(id);
            }
            inner.bound |= detached && start.parent_close != ParentClosePolicy::Abandon;
            start.child_id = id.to_string();
            start.workflow_id = format!("{parent}_{id}");
            inner.commands.push(Command::StartChild(Box::new(start)));
            id
        };
        let mut asked = None;
        let mut started = false;
        poll_fn(move |_| {
            let mut inner = self.lock();
            match inner.starts.take(id) {
                Some(Ok(_)) if detached => {
                    return Poll::Ready(asked.take().map_or(Ok(Ok(None)), Err));
                }
                Some(Ok(_)) => started = true,
                Some(Err(failure)) => {
                    // There is nothing to cancel any more.
                    let text = id.to_string();
                    inner.commands.retain(|command| {
                        !matches!(command, Command::CancelChild { child_id } if *child_id == text)
                    });
                    return Poll::Ready(asked.take().map_or(Ok(Err(failure)), Err));
                }
                None => {}
            }
            if started && let Some(outcome) = inner.children.take(id) {
                return Poll::Ready(asked.take().map_or(Ok(outcome.map(Some)), Err));
            }
            if asked.is_none()
                && let Err(cancelled) = scope.check()
            {
                if !detached {
                    inner.commands.push(Command::CancelChild {
                        child_id: id.to_string(),
                    });
                }
                asked = Some(cancelled);
            }
            Poll::Pending
        })
        .await
    }
}
