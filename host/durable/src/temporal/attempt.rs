//! Activity tasks: attempts of any activity type, and the local activities by which a run
//! is pinned and asks for search attributes.
//!
//! The start of an attempt is durable on the cluster before it comes here. A guest's
//! heartbeats go to the cluster and no others, so that its heartbeat timeout means what
//! it says; an attempt without one is kept in touch by the host instead, since a cancel
//! may come as the answer to a heartbeat only.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};

use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::convert::{
    argument, failure, from_duration, from_json_payload, from_payload, json_payload, payload,
    timestamp, with_receipt,
};
use super::core::{Core, Running};
use super::pins::{ACTIVITY_HEADER, ActivityHeader, PIN_ACTIVITY, PinRequest, Pins};
use super::report::{complete, report};
use super::{attributes, client, sdk};
use crate::activity::{
    ActivityTask, ActivityTimeouts, AttemptContext, AttemptOutcome, AttemptReceipt, AttemptSink,
    CancelReason, LogLine, Progress, Receipt,
};
use crate::attempt::{Bounds, answered, deadline, settle, supervise};
use crate::definition::WorkflowReference;
use crate::embedded::{lock, retry::bounded, wait_until};
use crate::engine::{EngineError, LiveEvent, RunRef};
use crate::failure::{Failure, kind};
use crate::payload::{INLINE_LIMIT, JSON_PLAIN, Payload, ResolveError, resolve};

/// Polls a worker's activity tasks until it is shut down; says where core gives it up.
pub async fn serve(
    core: Arc<Core>,
    worker: Arc<sdk::Worker>,
    namespace: Arc<str>,
    given_up: CancellationToken,
) {
    let mut attempts = JoinSet::new();
    loop {
        let task = match worker.poll_activity_task().await {
            Ok(task) => task,
            Err(sdk::PollError::ShutDown) => break,
            Err(error) => {
                tracing::error!(%error, "activity tasks are no longer polled");
                given_up.cancel();
                // What it has taken it gives out, and it ends only where it is polled to its end.
                continue;
            }
        };
        match task.variant {
            Some(sdk::TaskVariant::Start(start)) => {
                let (core, worker) = (Arc::clone(&core), Arc::clone(&worker));
                let namespace = Arc::clone(&namespace);
                if start.is_local {
                    attempts.spawn(async move {
                        let done = AssertUnwindSafe(local(&core, &namespace, start));
                        // Without an end the run would wait for it.
                        let result = done.catch_unwind().await.unwrap_or_else(|_| {
                            let why = "the host failed in a run's step; its log has the cause";
                            local_failed(Failure::transient(kind::INTERNAL, why))
                        });
                        complete(&worker, task.task_token, result).await;
                    });
                } else {
                    // Known before anything can ask it to stop.
                    let runtime = core.host.executor.runtime();
                    let attempt = Attempt::new(core, worker, namespace, task.task_token, start);
                    match runtime {
                        Some(runtime) => attempts.spawn_on(attempt.run(), &runtime),
                        None => attempts.spawn(attempt.run()),
                    };
                }
            }
            Some(sdk::TaskVariant::Cancel(cancel)) => {
                let core = Arc::clone(&core);
                let namespace = Arc::clone(&namespace);
                attempts.spawn(async move {
                    let token = &task.task_token;
                    let why = match cancel.reason() {
                        sdk::ActivityCancelReason::NotFound => {
                            not_found(&core, &namespace, token).await
                        }
                        told => reason(told),
                    };
                    let running = lock(&core.running);
                    if let Some(running) = running.get(token) {
                        (running.stop)(why);
                    }
                });
            }
            None => {}
        }
        while attempts.try_join_next().is_some() {}
    }
    while attempts.join_next().await.is_some() {}
}

/// Why an attempt is to stop that the cluster did not find. A server that has just started does
/// not know all that it has at once, so it is asked whether it waits for the attempt; and then
/// again and again until the attempt has ended, since core passes on nothing more of it.
async fn not_found(core: &Core, namespace: &str, token: &[u8]) -> CancelReason {
    let ended = || !lock(&core.running).contains_key(token);
    while !ended() {
        if let Some(why) = asked_to_stop(core, namespace, token).await {
            return why;
        }
        let pause = core.options.keep_in_touch;
        wait_until(core.host.clock.as_ref(), pause, ended).await;
    }
    CancelReason::RunClosed
}

/// Why an attempt is to stop, as its run is described; `None` where the cluster waits for its
/// end. That it was reset is not described.
async fn asked_to_stop(core: &Core, namespace: &str, token: &[u8]) -> Option<CancelReason> {
    let (run, activity_id, attempt) = {
        let running = lock(&core.running);
        let running = running.get(token)?;
        let run = RunRef {
            namespace: namespace.to_owned(),
            workflow_id: running.workflow_id.clone(),
            run_id: Some(running.run_id),
        };
        (run, running.activity_id.clone(), running.attempt)
    };
    match client::describe(core, &run).await {
        Ok(described) => {
            // What was pending when a run was closed still is.
            let info = described.workflow_execution_info.unwrap_or_default();
            let is_open = info.status() == sdk::WorkflowExecutionStatus::Running;
            let pending = described.pending_activities.iter().find(|pending| {
                is_open
                    && pending.activity_id == activity_id
                    && u32::try_from(pending.attempt) == Ok(attempt)
            });
            match pending.map(sdk::PendingActivityInfo::state) {
                None => Some(CancelReason::RunClosed),
                Some(sdk::PendingActivityState::CancelRequested) => Some(CancelReason::Requested),
                Some(sdk::PendingActivityState::PauseRequested) => Some(CancelReason::Paused),
                Some(_) => None,
            }
        }
        Err(EngineError::NotFound { .. }) => Some(CancelReason::RunClosed),
        // Who cannot be asked now is asked again, or told at the end, and may refuse it then.
        Err(_) => None,
    }
}

/// Why an attempt is to stop.
const fn reason(reason: sdk::ActivityCancelReason) -> CancelReason {
    match reason {
        // The cluster has forgotten it: its run has ended, or its time was over.
        sdk::ActivityCancelReason::NotFound => CancelReason::RunClosed,
        sdk::ActivityCancelReason::TimedOut => CancelReason::TimedOut,
        sdk::ActivityCancelReason::WorkerShutdown => CancelReason::Shutdown,
        // Ended as canceled, these two would be refused: no run asked for it.
        sdk::ActivityCancelReason::Paused => CancelReason::Paused,
        sdk::ActivityCancelReason::Reset => CancelReason::Reset,
        sdk::ActivityCancelReason::Cancelled => CancelReason::Requested,
    }
}

/// Does what a run asks of its own engine.
async fn local(core: &Core, namespace: &str, start: sdk::Start) -> sdk::ActivityExecutionResult {
    let done = match start.activity_type.as_str() {
        attributes::FIT => attributes::fit(core, namespace, &start)
            .await
            .map(|fitted| json_payload(&fitted)),
        _ => pin(core, namespace, &start)
            .await
            .map(|pins| json_payload(&pins)),
    };
    match done {
        Ok(answer) => sdk::ActivityExecutionResult::ok(answer),
        Err(why) => local_failed(why),
    }
}

fn local_failed(why: Failure) -> sdk::ActivityExecutionResult {
    sdk::ActivityExecutionResult::fail(failure(why, None))
}

/// Pins a run for its first step.
async fn pin(core: &Core, namespace: &str, start: &sdk::Start) -> Result<Pins, Failure> {
    let request: PinRequest = match start.input.first() {
        Some(request) if start.activity_type == PIN_ACTIVITY => from_json_payload(request)
            .map_err(|error| Failure::permanent(kind::INVALID_INPUT, error))?,
        _ => {
            return Err(Failure::permanent(
                kind::UNKNOWN_ACTIVITY,
                format!("there is no local activity {:?}", start.activity_type),
            ));
        }
    };
    let reference = WorkflowReference {
        workflow_type: request.workflow_type,
        version: request.version,
    };
    let definition = core.host.definitions.pin(namespace, &reference).await?;
    let evaluator = core.host.expressions.digest();
    Ok(Pins::new(
        &definition,
        core.options.limits,
        evaluator,
        rand::random(),
    ))
}

/// One attempt.
struct Attempt {
    core: Arc<Core>,
    worker: Arc<sdk::Worker>,
    namespace: Arc<str>,
    token: Vec<u8>,
    start: sdk::Start,
    /// How far this machine's clock is ahead of the cluster's, the way of the task
    /// included. All times of the attempt are this machine's.
    ahead: jiff::SignedDuration,
    context: AttemptContext,
    said: Arc<Said>,
}

/// What an attempt said of itself.
struct Said {
    last_heartbeat: Mutex<Timestamp>,
    /// Details of the last heartbeat, the previous attempt's at first.
    details: Mutex<Vec<sdk::Payload>>,
}

impl Attempt {
    fn new(
        core: Arc<Core>,
        worker: Arc<sdk::Worker>,
        namespace: Arc<str>,
        token: Vec<u8>,
        start: sdk::Start,
    ) -> Self {
        let started_at = core.host.clock.now();
        let ahead = started_at.duration_since(timestamp(start.started_time));
        let run_id = run_id(&start);
        let said = Arc::new(Said {
            last_heartbeat: Mutex::new(started_at),
            details: Mutex::new(start.heartbeat_details.clone()),
        });
        let progress = Arc::new(Mutex::new(None));
        let cancellation = CancellationToken::new();
        let reason = Arc::new(OnceLock::new());
        let (why, asked) = (Arc::clone(&reason), cancellation.clone());
        let workflow = start.workflow_execution.as_ref();
        let running = Running {
            workflow_id: workflow
                .map(|it| it.workflow_id.clone())
                .unwrap_or_default(),
            run_id,
            activity_id: start.activity_id.clone(),
            attempt: start.attempt,
            stop: Arc::new(move |reason| {
                // The first reason counts.
                let _ = why.set(reason);
                asked.cancel();
            }),
            progress: Arc::clone(&progress),
        };
        lock(&core.running).insert(token.clone(), running);
        let queue = &worker.get_config().task_queue;
        if let Some(queue) = core.queue(&namespace, queue) {
            queue.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        let sink = Sink {
            core: Arc::clone(&core),
            worker: Arc::clone(&worker),
            token: token.clone(),
            run_id,
            activity_id: start.activity_id.clone(),
            attempt: start.attempt,
            said: Arc::clone(&said),
            progress,
        };
        let scheduled_at = shifted(timestamp(start.scheduled_time), ahead);
        let context = AttemptContext {
            cancellation,
            reason,
            deadline: deadline(scheduled_at, started_at, &timeouts(&start)).0,
            sink: Arc::new(sink),
        };
        Self {
            core,
            worker,
            namespace,
            token,
            start,
            ahead,
            context,
            said,
        }
    }

    async fn run(self) {
        // Whatever happens, the cluster is told of an end.
        let mut executed = false;
        let outcome = AssertUnwindSafe(self.outcome(&mut executed));
        let outcome = answered(outcome.catch_unwind().await);
        // Of all others the executor has a receipt, which says more.
        if !executed && let Err(failure) = &outcome.result {
            let receipt = self.receipt(failure);
            self.core.host.executor.ended_elsewhere(receipt);
        }
        let result = self.result(outcome);
        let heartbeat = lock(&self.said.details).clone();
        let token = self.token.clone();
        report(&self.core, &self.worker, token, result, heartbeat).await;
        // A drain waits until it is told.
        lock(&self.core.running).remove(&self.token);
        let queue = &self.worker.get_config().task_queue;
        if let Some(queue) = self.core.queue(&self.namespace, queue) {
            queue.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Says also whether the attempt came to the executor.
    async fn outcome(&self, executed: &mut bool) -> AttemptOutcome {
        let outcome = match self.task().await {
            Ok(task) => {
                *executed = true;
                self.supervised(task).await
            }
            Err(failure) => AttemptOutcome {
                result: Err(failure),
                receipt: Receipt::default(),
            },
        };
        // A foreign workflow could not read a reference.
        let foreign = !self.start.header_fields.contains_key(ACTIVITY_HEADER);
        let payloads = (!foreign).then_some(self.core.host.payloads.as_ref());
        let clock = self.core.host.clock.as_ref();
        settle(payloads, clock, outcome, &self.context).await
    }

    /// Runs the attempt under its timeouts. The cluster watches them too; whoever sees
    /// first that the time is over, the flow is told the same.
    async fn supervised(&self, task: ActivityTask) -> AttemptOutcome {
        let in_touch = async {
            if task.timeouts.heartbeat.is_some() {
                return std::future::pending::<Infallible>().await;
            }
            let (clock, pause) = (&self.core.host.clock, self.core.options.keep_in_touch);
            loop {
                clock.sleep(pause).await;
                self.worker
                    .record_activity_heartbeat(sdk::ActivityHeartbeat {
                        task_token: self.token.clone(),
                        details: lock(&self.said.details).clone(),
                    });
            }
        };
        let bounds = Bounds {
            scheduled_at: shifted(timestamp(self.start.scheduled_time), self.ahead),
            stop_grace: self.core.options.stop_grace,
        };
        let last_heartbeat = || *lock(&self.said.last_heartbeat);
        let supervised = supervise(
            self.core.host.executor.as_ref(),
            self.core.host.clock.as_ref(),
            task.clone(),
            self.context.clone(),
            bounds,
            last_heartbeat,
        );
        tokio::select! {
            (outcome, _) = supervised => outcome,
            never = in_touch => match never {},
        }
    }

    async fn task(&self) -> Result<ActivityTask, Failure> {
        let start = &self.start;
        let header = match start.header_fields.get(ACTIVITY_HEADER) {
            Some(header) => from_json_payload::<ActivityHeader>(header).map_err(|error| {
                Failure::permanent(
                    kind::INVALID_INPUT,
                    format!("the header {ACTIVITY_HEADER:?} cannot be read: {error}"),
                )
            })?,
            // A foreign workflow's: the active version then.
            None => ActivityHeader::default(),
        };
        let payloads = self.core.host.payloads.as_ref();
        let input = match resolve(payloads, argument(start.input.clone())?).await {
            Ok(input) => input,
            Err(ResolveError::Gone(message)) => {
                return Err(Failure::permanent(kind::INTERNAL, message));
            }
            Err(ResolveError::Unavailable(message)) => {
                return Err(Failure::transient(kind::INTERNAL, message));
            }
        };
        if let Err(error) = input.json_text() {
            return Err(Failure::permanent(kind::INVALID_INPUT, error.to_string()));
        }
        let last_heartbeat = match start.heartbeat_details.first() {
            Some(details) => resolve(payloads, from_payload(details.clone())).await.ok(),
            None => None,
        };
        let workflow = start.workflow_execution.clone().unwrap_or_default();
        let run_id = run_id(start);
        Ok(ActivityTask {
            namespace: self.namespace.to_string(),
            workflow_id: workflow.workflow_id,
            workflow_type: start.workflow_type.clone(),
            run_id,
            activity_id: start.activity_id.clone(),
            activity_type: start.activity_type.clone(),
            plugin_digest: header.digest,
            queue: self.worker.get_config().task_queue.clone(),
            attempt: start.attempt,
            input,
            scheduled_at: shifted(timestamp(start.current_attempt_scheduled_time), self.ahead),
            started_at: shifted(timestamp(start.started_time), self.ahead),
            timeouts: timeouts(start),
            last_heartbeat,
            idempotency_key: format!("{}/{run_id}/{}", self.namespace, start.activity_id),
            traceparent: header.traceparent,
        })
    }

    /// The receipt of an attempt that did not come to the executor.
    fn receipt(&self, failure: &Failure) -> AttemptReceipt {
        let start = &self.start;
        let header = start.header_fields.get(ACTIVITY_HEADER);
        let header = header.and_then(|it| from_json_payload::<ActivityHeader>(it).ok());
        let workflow = start.workflow_execution.clone().unwrap_or_default();
        AttemptReceipt {
            namespace: self.namespace.to_string(),
            workflow_id: workflow.workflow_id,
            run_id: run_id(start),
            activity_id: start.activity_id.clone(),
            activity_type: start.activity_type.clone(),
            plugin_digest: header.and_then(|header| header.digest),
            queue: self.worker.get_config().task_queue.clone(),
            attempt: start.attempt,
            started_at: shifted(timestamp(start.started_time), self.ahead),
            ended_at: self.core.host.clock.now(),
            outcome: failure.kind.clone(),
            receipt: Receipt::default(),
        }
    }

    /// What the cluster is told.
    fn result(&self, outcome: AttemptOutcome) -> sdk::ActivityExecutionResult {
        let receipt = &outcome.receipt;
        match outcome.result {
            Ok(result) => sdk::ActivityExecutionResult::ok(with_receipt(payload(result), receipt)),
            Err(why) => {
                let why = bounded(why);
                let asked = self.context.reason.get() == Some(&CancelReason::Requested);
                if asked && matches!(why.kind.as_str(), kind::CANCELLED | kind::WORKER_LOST) {
                    // Its own words travel as details; Temporal has no other place.
                    let said = json_payload(&Failure {
                        kind: kind::CANCELLED.to_owned(),
                        retryable: false,
                        ..why
                    });
                    let details = with_receipt(said, receipt);
                    return sdk::ActivityExecutionResult::cancel_from_details(Some(details));
                }
                sdk::ActivityExecutionResult::fail(failure(why, Some(receipt)))
            }
        }
    }
}

/// A time of the cluster's as this machine would have it.
fn shifted(at: Timestamp, ahead: jiff::SignedDuration) -> Timestamp {
    at.saturating_add(ahead).unwrap_or(at)
}

/// Temporal's run ids are UUIDs.
fn run_id(start: &sdk::Start) -> Uuid {
    let run = start.workflow_execution.as_ref();
    run.and_then(|run| run.run_id.parse().ok())
        .unwrap_or_default()
}

fn timeouts(start: &sdk::Start) -> ActivityTimeouts {
    ActivityTimeouts {
        schedule_to_close: from_duration(start.schedule_to_close_timeout),
        schedule_to_start: None,
        start_to_close: from_duration(start.start_to_close_timeout),
        heartbeat: from_duration(start.heartbeat_timeout),
    }
}

/// Takes what an attempt says.
struct Sink {
    core: Arc<Core>,
    worker: Arc<sdk::Worker>,
    token: Vec<u8>,
    run_id: Uuid,
    activity_id: String,
    attempt: u32,
    said: Arc<Said>,
    progress: Arc<Mutex<Option<Progress>>>,
}

impl AttemptSink for Sink {
    fn heartbeat(&self, details: Option<Payload>) {
        *lock(&self.said.last_heartbeat) = self.core.host.clock.now();
        let details = details
            .filter(|details| details.data.len() <= INLINE_LIMIT)
            .filter(|details| details.encoding() == JSON_PLAIN);
        let details = {
            let mut last = lock(&self.said.details);
            if let Some(details) = details {
                *last = vec![payload(details)];
            }
            last.clone()
        };
        self.worker
            .record_activity_heartbeat(sdk::ActivityHeartbeat {
                task_token: self.token.clone(),
                details,
            });
    }

    fn progress(&self, progress: Progress) {
        *lock(&self.progress) = Some(progress.clone());
        let event = LiveEvent::Progress {
            activity_id: self.activity_id.clone(),
            attempt: self.attempt,
            progress,
        };
        self.core.live.tell(self.run_id, event);
    }

    fn log(&self, _line: LogLine) {
        // The host keeps log lines; its executor sees them first.
    }
}
