//! What a transition leads to outside the history. It happens after the commit, on the
//! thread that made it and while nobody else can commit, so everything here is short and
//! never blocks.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use uuid::Uuid;

use super::convert::Beginning;
use super::core::Core;
use super::dispatch::{Slot, Waiting};
use super::events::Event;
use super::lock;
use super::phases::Phase;
use super::run::{Answer, Message, RunCell};
use super::state::{Activity, RunState, Stage};
use super::timers::Target;
use super::updates::Outcome;
use super::watching::Seen;
use super::writer::{Write, WriteError, WriteKind};
use crate::activity::{AttemptReceipt, CancelReason};
use crate::engine::{EngineError, ExecutionStatus, RunResult};
use crate::payload::Payload;

/// An attempt whose start is recorded.
pub struct Launch {
    /// The activity.
    pub activity: Activity,
    /// Its id.
    pub activity_id: String,
    /// The attempt.
    pub attempt: u32,
    /// Its slot.
    pub slot: Slot,
    /// When it was started.
    pub started_at: Timestamp,
    /// W3C trace context of the transition that started it, where that is recorded.
    pub traceparent: Option<String>,
}

/// Who asked a query.
type Reply = tokio::sync::oneshot::Sender<Result<Payload, EngineError>>;

/// What a transition leads to.
#[derive(Default)]
pub struct Effects {
    /// Whom to answer.
    pub answers: Vec<Answer>,
    /// Updates that have ended.
    pub updates: Vec<(String, Outcome)>,
    /// Answers to queries.
    pub replies: Vec<(Reply, Result<Payload, EngineError>)>,
    /// Attempts to run.
    pub launches: Vec<Launch>,
    /// Attempts that wait for a slot: queue, activity, attempt, since.
    pub queued: Vec<(String, String, u32, Timestamp)>,
    /// Attempts that wait no more.
    pub withdrawn: Vec<(String, String, u32)>,
    /// Slots that nobody needed.
    pub slots: Vec<Slot>,
    /// Times to set.
    pub times: Vec<(Target, Timestamp)>,
    /// Times to forget.
    pub cancelled: Vec<Target>,
    /// Receipts of which the executor does not know.
    pub receipts: Vec<AttemptReceipt>,
    /// Running attempts to stop.
    pub cancel_attempts: Vec<String>,
    /// Children to start.
    pub start_children: Vec<Event>,
    /// Signals to send to other runs.
    pub signal_runs: Vec<Event>,
    /// Search attributes to set.
    pub set_attributes: Vec<Event>,
    /// Children, and what each is told of this run's end.
    pub parent_ended: Vec<(Uuid, Message)>,
    /// Runs to ask to cancel.
    pub cancel_runs: Vec<Uuid>,
    /// Children whose result could not be taken over yet.
    pub children_again: Vec<String>,
    /// What this run is to be told next.
    pub follow: Vec<Message>,
    /// Why the run is held from now on.
    pub hold: Option<String>,
    /// How the run ended.
    pub closed: Option<Arc<RunResult>>,
    /// The run that goes on where it ended.
    pub next: Option<Arc<RunCell>>,
    /// Events of the run so far.
    pub length: u64,
    /// Whether the run may be removed from memory.
    pub evictable: bool,
    /// The transition's span; it ends when all of this has happened.
    pub span: Option<tracing::Span>,
}

impl Effects {
    /// Sets a time.
    pub fn set(&mut self, target: Target, at: Timestamp) {
        self.times.push((target, at));
    }

    /// What the end of a run leads to.
    pub fn close(&mut self, cell: &RunCell, state: &RunState, status: ExecutionStatus) {
        let run_id = cell.run_id;
        for (id, activity) in &state.activities {
            if !matches!(activity.stage, Stage::Started(_)) {
                self.withdrawn.push((
                    activity.scheduled.queue.clone(),
                    id.clone(),
                    activity.attempt,
                ));
            }
            self.cancelled.extend([
                Target::Backoff(run_id, id.clone()),
                Target::ScheduleToStart(run_id, id.clone()),
                Target::ScheduleToClose(run_id, id.clone()),
            ]);
        }
        for id in state.timers.keys() {
            self.cancelled.push(Target::Timer(run_id, id.clone()));
        }
        self.cancelled.push(Target::Retry(run_id));
        for (id, child) in &state.children {
            self.cancelled.push(Target::StartChild(run_id, id.clone()));
            let message = super::children::parent_ended(child.initiated.close_policy());
            self.parent_ended.extend(child.run_id.zip(message));
        }
        tracing::debug!(%run_id, ?status, "the run has ended");
        // What was to follow concerns a run that is over.
        self.times.clear();
        self.queued.clear();
        self.follow.clear();
        self.start_children.clear();
        self.children_again.clear();
        self.slots
            .extend(self.launches.drain(..).map(|launch| launch.slot));
    }

    /// Nothing was committed: those who wait are told why.
    pub fn refuse(self, error: WriteError) {
        let message = match error.into_engine() {
            EngineError::ShuttingDown => None,
            error => Some(error.to_string()),
        };
        for answer in self.answers {
            let _ = answer.send(Err(match &message {
                None => EngineError::ShuttingDown,
                Some(message) => EngineError::Internal(message.clone()),
            }));
        }
    }

    /// A message for a run that has ended.
    pub fn refuse_closed(cell: &RunCell, message: Message) {
        let (Message::Cancel { answer, .. }
        | Message::Terminate { answer, .. }
        | Message::Update { answer, .. }
        | Message::Signal { answer, .. }) = message
        else {
            return;
        };
        if let Some(answer) = answer {
            let _ = answer.send(Err(closed(&cell.beginning)));
        }
    }

    /// The transition was committed, `queued` long ago: lets all of it happen, and the
    /// run go on.
    pub fn follow_commit(self, core: &Arc<Core>, cell: &Arc<RunCell>, queued: Instant) {
        let committed = Instant::now();
        core.phases.spent(Phase::Write, committed - queued);
        let closed = self.closed.is_some();
        let evictable = self.evictable;
        self.happen(core, cell);
        if !closed {
            core.release(cell, evictable);
        }
        core.phases.spent(Phase::Effects, committed.elapsed());
    }

    /// Lets all of it happen.
    pub fn happen(self, core: &Arc<Core>, cell: &Arc<RunCell>) {
        let run_id = cell.run_id;
        if core.dead.is_cancelled() {
            return;
        }
        if self.closed.is_some() {
            self::end(core, cell, self.next.as_ref());
        } else if let Some(reason) = self.hold {
            core.writer.submit(Write {
                kind: WriteKind::Hold {
                    run_id,
                    reason: Some(reason),
                },
                done: Box::new(|_| ()),
            });
        }
        let seen = Seen {
            length: self.length,
            result: self.closed.clone(),
        };
        for receipt in self.receipts {
            core.executor.ended_elsewhere(receipt);
        }
        for target in &self.cancelled {
            core.timers.cancel(target);
        }
        for (target, at) in self.times {
            core.timers.set(target, at);
        }
        for (queue, activity_id, attempt) in self.withdrawn {
            let waiting = Waiting {
                run_id,
                activity_id,
                attempt,
            };
            core.queues.withdraw(&queue, &waiting);
        }
        let recorded = self.span.as_ref().filter(|span| !span.is_disabled());
        let traceparent = recorded
            .filter(|_| !self.launches.is_empty())
            .and_then(|span| (core.options.traces.traceparent)(span));
        for mut launch in self.launches {
            launch.traceparent.clone_from(&traceparent);
            super::attempt::launch(core, cell, launch);
        }
        // After these: they are what the run itself waits for.
        core.publish(run_id, seen);
        for activity_id in self.cancel_attempts {
            if let Some(running) = lock(&cell.running).get(&activity_id) {
                running.stop(CancelReason::Requested);
            }
        }
        for initiated in self.start_children {
            super::children::start(core, cell, initiated);
        }
        for initiated in self.signal_runs {
            super::signals::send(core, cell, initiated);
        }
        for initiated in self.set_attributes {
            super::attributes::set(core, cell, initiated);
        }
        for (child, message) in self.parent_ended {
            core.post_to_chain(child, message);
        }
        for child in self.cancel_runs {
            core.post_to_chain(
                child,
                Message::Cancel {
                    reason: "the parent asked for it".to_owned(),
                    answer: None,
                },
            );
        }
        for child_id in self.children_again {
            super::children::ask_again(core, cell, child_id);
        }
        for message in self.follow {
            // The run is in memory: it has an activity that waits.
            core.post(run_id, message);
        }
        for (queue, activity_id, attempt, since) in self.queued {
            let waiting = Waiting {
                run_id,
                activity_id,
                attempt,
            };
            core.queues.enqueue(&queue, waiting, since);
        }
        if let Some(result) = self.closed.filter(|_| self.next.is_none()) {
            super::children::tell_parent(core, &cell.beginning, &result);
        }
        drop(self.slots);
        for (update_id, outcome) in self.updates {
            core.updates.tell(run_id, update_id, outcome);
        }
        // Last, so that whoever is answered finds all of it done.
        for (reply, answer) in self.replies {
            let _ = reply.send(answer);
        }
        for answer in self.answers {
            // Somebody who no longer waits needs no answer.
            let _ = answer.send(Ok(()));
        }
    }
}

/// A run that has ended leaves memory.
fn end(core: &Arc<Core>, cell: &Arc<RunCell>, next: Option<&Arc<RunCell>>) {
    let left = {
        let mut inbox = lock(&cell.inbox);
        inbox.gone = true;
        std::mem::take(&mut inbox.messages)
    };
    core.remove(cell);
    core.unpin(&cell.beginning.pins());
    core.live.end(cell.run_id);
    match next {
        Some(next) => super::continuing::hand_over(core, next, left),
        None => {
            for message in left {
                Effects::refuse_closed(cell, message);
            }
        }
    }
    for running in lock(&cell.running).values() {
        running.stop(CancelReason::RunClosed);
    }
}

/// The error for what is asked of a run that has ended.
pub fn closed(beginning: &Beginning) -> EngineError {
    EngineError::Closed {
        workflow_id: beginning.event.workflow_id.clone(),
        run_id: beginning.run_id(),
    }
}
