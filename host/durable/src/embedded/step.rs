//! One transition of a run: what is in its inbox becomes events, the driver answers
//! them with commands, those become events too, and all go to the writer together.
//!
//! What the events lead to outside (attempts, timers, children, answers) is gathered in
//! [`Effects`] and happens after the commit, see [`effects`](super::effects). Each event
//! is applied to the run's state as it is made.

mod attempts;

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use prost::Message as _;

use super::activation;
use super::convert::{is_command, references};
use super::core::Core;
use super::effects::Effects;
use super::events::{Event, EventType, Transition};
use super::failpoint;
use super::lock;
use super::phases::Phase;
use super::retry::{Verdict, after_failure};
use super::run::{Answer, Asked, Ended, Message, RunCell, Working};
use super::state::Stage;
use super::timers::Target;
use super::writer::{Append, Write, WriteError, WriteKind, Written};
use crate::engine::EngineError;
use crate::failure::{Failure, kind};

/// A transition in the making.
pub struct Step<'a> {
    /// The engine.
    pub core: &'a Arc<Core>,
    /// The run.
    pub cell: &'a Arc<RunCell>,
    /// Its state.
    pub working: &'a mut Working,
    /// The time of all its events.
    pub now: Timestamp,
    /// What is recorded.
    pub transition: Transition,
    /// What was asked meanwhile.
    pub queries: Vec<Asked>,
    /// What follows its commit.
    pub effects: Effects,
    /// Open until the transition is committed and its effects have happened.
    pub span: tracing::Span,
}

/// Takes a run's inbox and makes a transition of it. Blocking: on an activation thread,
/// which has the run (it is busy).
pub fn advance(core: &Arc<Core>, cell: &Arc<RunCell>) {
    let begun = Instant::now();
    let messages = lock(&cell.inbox).batch();
    let mut guard = lock(&cell.working);
    let mut step = Step::new(core, cell, &mut guard);
    let span = step.span.clone();
    span.in_scope(|| {
        for message in messages {
            step.receive(message);
        }
        step.activate();
        step.answer_queries();
    });
    if step.transition.events.is_empty() {
        let Step { effects, .. } = step;
        let evictable = guard.state.is_evictable() && guard.held.is_none();
        drop(guard);
        core.phases.spent(Phase::Activation, begun.elapsed());
        effects.happen(core, cell);
        core.release(cell, evictable);
        return;
    }
    let (append, effects) = step.finish();
    drop(guard);
    core.phases.spent(Phase::Activation, begun.elapsed());
    commit(core, cell, append, effects);
}

/// Commits a transition and lets its effects follow.
fn commit(core: &Arc<Core>, cell: &Arc<RunCell>, append: Append, effects: Effects) {
    if let Some(next) = &effects.next {
        // Whoever learns its id from the database must find it here.
        lock(&core.runs).insert(next.run_id, Arc::clone(next));
        core.pin(&next.beginning.pins());
    }
    // Somebody who waits for an answer is not left waiting for a disk that is full: the
    // transition stays queued, and asking again changes nothing.
    let core_then = Arc::clone(core);
    let cell_then = Arc::clone(cell);
    let queued = Instant::now();
    core.writer.submit_here(Write {
        kind: WriteKind::Append(append),
        done: Box::new(move |result| match result {
            Ok(_) => effects.follow_commit(&core_then, &cell_then, queued),
            Err(error) => abandoned(&core_then, &cell_then, effects, error),
        }),
    });
}

/// The writer gave the transition up: the process ends, or SQLite refuses the row
/// itself. What is in memory is ahead of the disk, so the run stays as it is (busy)
/// until the next start reads it from there.
fn abandoned(core: &Arc<Core>, cell: &Arc<RunCell>, effects: Effects, error: WriteError) {
    let stopped = matches!(error, WriteError::Stopped);
    let message = error.to_string();
    if let Some(next) = &effects.next {
        super::continuing::forget(core, next);
    }
    effects.refuse(error);
    if !stopped {
        tracing::error!(run_id = %cell.run_id, message, "a transition was refused; the run is held until the next start");
        core.writer.submit(Write {
            kind: WriteKind::Hold {
                run_id: cell.run_id,
                reason: Some(format!("its history cannot be written: {message}")),
            },
            done: Box::new(|_| ()),
        });
    }
}

impl<'a> Step<'a> {
    /// An empty transition of a run that this thread has.
    pub fn new(core: &'a Arc<Core>, cell: &'a Arc<RunCell>, working: &'a mut Working) -> Self {
        Self {
            core,
            cell,
            working,
            now: core.clock.now(),
            transition: Transition::default(),
            queries: Vec::new(),
            effects: Effects::default(),
            span: span(core, cell),
        }
    }

    /// Records an event.
    pub fn record(&mut self, event: Event) {
        self.working.state.apply(&event);
        self.transition.events.push(event);
    }

    /// An event of this transition.
    pub fn event(&self, kind: EventType, id: &str) -> Event {
        Event::new(kind, self.now, id)
    }

    /// What happened becomes events.
    fn receive(&mut self, message: Message) {
        if !self.working.state.is_open() {
            Effects::refuse_closed(self.cell, message);
            return;
        }
        match message {
            // `activate` sees by itself whether one is due.
            Message::Activate => {}
            Message::Granted {
                activity_id,
                attempt,
                slot,
            } => {
                let wanted = self.working.state.activities.get(&activity_id);
                if wanted.is_some_and(|activity| {
                    activity.attempt == attempt
                        && !matches!(activity.stage, Stage::Started(_))
                        && !activity.cancel_requested
                }) {
                    self.start_attempt(activity_id, attempt, slot);
                } else {
                    // Given to the next one after this step, when no lock is held.
                    self.effects.slots.push(slot);
                }
            }
            Message::Ended(ended) => self.ended(*ended),
            Message::BackoffOver { activity_id } => self.backoff_over(&activity_id),
            Message::QueueTimeout {
                activity_id,
                timeout,
            } => self.queue_timeout(&activity_id, timeout),
            Message::GiveUp {
                activity_id,
                failure,
            } => self.give_up(&activity_id, failure),
            Message::TimerFired { timer_id } => {
                if self.working.state.timers.contains_key(&timer_id) {
                    failpoint::reached("in-timer");
                    let event = self.event(EventType::TimerFired, &timer_id);
                    self.record(event);
                }
            }
            Message::ChildStarted { child_id, outcome } => self.child_started(&child_id, outcome),
            Message::ChildEnded {
                child_id,
                status,
                outcome,
            } => self.child_ended(&child_id, status, outcome),
            Message::Signal { signal, answer } => self.signaled(*signal, answer),
            Message::Update { update, answer } => self.update(*update, answer),
            Message::Query(asked) => self.queries.push(asked),
            Message::ExternalSignaled { signal_id, outcome } => {
                self.external_signaled(&signal_id, outcome);
            }
            Message::SearchAttributesSet { change_id, outcome } => {
                self.search_attributes_set(&change_id, outcome);
            }
            Message::Cancel { reason, answer } => self.cancel_requested(reason, answer),
            Message::Terminate { reason, answer } => {
                let event = Event {
                    reason,
                    ..self.event(EventType::WorkflowExecutionTerminated, "")
                };
                self.record(event);
                self.effects.answers.extend(answer);
            }
        }
    }

    fn cancel_requested(&mut self, reason: String, answer: Option<Answer>) {
        self.effects.answers.extend(answer);
        if !self.working.state.cancel_requested {
            let event = Event {
                reason,
                ..self.event(EventType::WorkflowExecutionCancelRequested, "")
            };
            self.record(event);
        }
    }

    fn ended(&mut self, ended: Ended) {
        let Ended {
            activity_id,
            attempt,
            outcome,
            heartbeat,
            timed_out,
        } = ended;
        let Some(activity) = self.working.state.activities.get(&activity_id) else {
            return;
        };
        if activity.attempt != attempt || !matches!(activity.stage, Stage::Started(_)) {
            return;
        }
        let verdict = match &outcome.result {
            Ok(_) => Verdict::Over,
            Err(failure) => after_failure(activity, failure, self.now),
        };
        let mut event = Event {
            attempt,
            heartbeat,
            receipt: outcome.receipt.counters,
            ..self.event(EventType::ActivityTaskCompleted, &activity_id)
        };
        let type_of = |kind: EventType| kind as i32;
        match outcome.result {
            Ok(result) => event.payload = Some(result),
            Err(failure) => {
                let failure = super::retry::bounded(failure);
                event.kind = type_of(match (&verdict, timed_out) {
                    (Verdict::Canceled, _) => EventType::ActivityTaskCanceled,
                    (Verdict::Over, true) => EventType::ActivityTaskTimedOut,
                    (Verdict::Over, false) => EventType::ActivityTaskFailed,
                    (Verdict::Again(_), true) => EventType::ActivityTaskAttemptTimedOut,
                    (Verdict::Again(_), false) => EventType::ActivityTaskAttemptFailed,
                });
                event.failure = Some(
                    match verdict {
                        Verdict::Canceled => cancelled(Some(failure)),
                        _ => failure,
                    }
                    .into(),
                );
            }
        }
        if let Verdict::Again(due) = verdict {
            event.due_us = due.as_microsecond();
            self.effects.set(
                Target::Backoff(self.cell.run_id, activity_id.clone()),
                super::events::timestamp(event.due_us),
            );
        } else {
            self.forget_waits(&activity_id);
        }
        // One of the executor's own has more to say than this, and it knows it already.
        let by_engine = event.receipt.is_empty() || event.receipt.contains_key("lost");
        if by_engine
            && let Some(activity) = self.working.state.activities.get(&activity_id)
            && let Stage::Started(started_at) = activity.stage
        {
            self.effects.receipts.push(super::read::receipt_of(
                &self.cell.beginning,
                &activity.scheduled,
                started_at,
                &event,
            ));
        }
        self.record(event);
    }

    /// What commanded events lead to.
    pub fn follow_commands(&mut self, from: usize) {
        let events: Vec<Event> = self.transition.events[from..]
            .iter()
            .filter(|event| is_command(event.event_type()))
            .cloned()
            .collect();
        let run_id = self.cell.run_id;
        for event in events {
            match event.event_type() {
                EventType::ActivityTaskScheduled => self.queue_attempt(&event.id),
                EventType::ActivityTaskCancelRequested => {
                    let stage = self.working.state.activities.get(&event.id);
                    match stage.map(|activity| activity.stage) {
                        Some(Stage::Started(_)) => self.effects.cancel_attempts.push(event.id),
                        Some(_) => self.effects.follow.push(Message::GiveUp {
                            activity_id: event.id,
                            failure: None,
                        }),
                        None => {}
                    }
                }
                EventType::TimerStarted => self.effects.set(
                    Target::Timer(run_id, event.id),
                    super::events::timestamp(event.due_us),
                ),
                EventType::TimerCanceled => {
                    self.effects.cancelled.push(Target::Timer(run_id, event.id));
                }
                EventType::StartChildWorkflowExecutionInitiated => {
                    self.effects.start_children.push(event);
                }
                EventType::SignalExternalWorkflowExecutionInitiated => {
                    self.effects.signal_runs.push(event);
                }
                EventType::UpsertWorkflowSearchAttributesInitiated => {
                    self.effects.set_attributes.push(event);
                }
                EventType::RequestCancelExternalWorkflowExecutionInitiated => {
                    let child = self.working.state.children.get(&event.id);
                    self.effects
                        .cancel_runs
                        .extend(child.and_then(|child| child.run_id));
                }
                _ => {}
            }
        }
    }

    /// Lets the driver answer what resolved.
    pub fn activate(&mut self) {
        if self.working.held.is_some() || !self.working.state.wants_activation() {
            return;
        }
        activation::run(self);
    }

    /// The transition, encoded, and what follows it.
    pub fn finish(mut self) -> (Append, Effects) {
        let mut named = Vec::new();
        for event in &self.transition.events {
            references(event, &mut named);
        }
        let body = self.transition.encode_to_vec();
        self.working.state.bytes += body.len() as u64;
        let state = &self.working.state;
        let closed = (!state.is_open()).then_some(state.status);
        if closed.is_some() {
            self.end_updates();
        }
        let next = self.next_run();
        let state = &self.working.state;
        if let Some(status) = closed {
            self.effects.close(self.cell, state, status);
            if let Some(last) = self.transition.events.last() {
                self.effects.closed = Some(Arc::new(super::read::result_of(
                    self.cell.run_id,
                    status,
                    last,
                )));
            }
            self.working.driver = None;
            self.core.cache.forget(self.cell);
        }
        let events = self.transition.events.len() as u64;
        self.span
            .record("heyday.transition.first_event", state.length + 1 - events);
        self.span
            .record("heyday.transition.last_event", state.length);
        if let Some(status) = closed {
            self.span
                .record("heyday.run_status", tracing::field::debug(status));
        }
        let search_changes = self.search_changes();
        self.effects.span = Some(self.span);
        self.effects.length = state.length;
        self.effects.evictable = state.is_evictable() && self.working.held.is_none();
        let next = next.map(|(cell, row)| {
            self.effects.next = Some(cell);
            Box::new(row)
        });
        let append = Append {
            run_id: self.cell.run_id,
            last_event: state.length,
            body,
            closed: closed.map(|status| (status, self.now.as_microsecond())),
            references: named,
            next,
            search_changes,
        };
        (append, self.effects)
    }
}

/// The span of a transition, in the trace of its run.
fn span(core: &Core, cell: &RunCell) -> tracing::Span {
    let beginning = &cell.beginning;
    let span = tracing::debug_span!(
        parent: None,
        "transition",
        otel.name = %format_args!("transition {}", beginning.event.name),
        heyday.namespace = %beginning.namespace,
        heyday.workflow_id = %beginning.event.workflow_id,
        heyday.workflow_type = %beginning.event.name,
        heyday.run_id = %cell.run_id,
        heyday.transition.first_event = tracing::field::Empty,
        heyday.transition.last_event = tracing::field::Empty,
        heyday.run_status = tracing::field::Empty,
    );
    if !span.is_disabled()
        && let Some(traceparent) = &beginning.stored().traceparent
    {
        (core.options.traces.join)(&span, traceparent);
    }
    span
}

/// The failure of an activity that stopped because it was asked to.
fn cancelled(cause: Option<Failure>) -> Failure {
    match cause {
        Some(failure) if failure.kind == kind::CANCELLED => Failure {
            retryable: false,
            ..failure
        },
        Some(failure) => {
            Failure::permanent(kind::CANCELLED, "the activity was cancelled").with_cause(failure)
        }
        None => Failure::permanent(
            kind::CANCELLED,
            "the activity was cancelled before it started",
        ),
    }
}

/// What this engine answers where a foreign worker is asked for: there is none.
pub fn foreign_refused(what: &str, event: &Event) -> Failure {
    Failure::permanent(
        kind::UNKNOWN_QUEUE,
        format!(
            "the {what} {:?} is for foreign workers on the queue {:?}, which only a Temporal cluster has; run this flow with the engine temporal",
            event.name, event.queue
        ),
    )
}

/// What a start needs of its write.
pub fn refused(result: Result<Written, WriteError>) -> Result<Written, EngineError> {
    result.map_err(WriteError::into_engine)
}
