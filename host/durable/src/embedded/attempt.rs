//! Running one attempt: its timeouts, its heartbeats, and its end.
//!
//! The attempt's start is committed before [`launch`]. The task here waits for the
//! executor, watches the deadline and the heartbeat timeout, and then gives the slot
//! back and the outcome to the run.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::core::{Core, ResolveError};
use super::effects::Launch;
use super::events::{digest, later};
use super::failpoint;
use super::lock;
use super::phases::Phase;
use super::run::{Ended, Message, RunCell, Running, Said};
use crate::activity::{
    ActivityTask, AttemptContext, AttemptOutcome, AttemptSink, CancelReason, LogLine, Progress,
    Receipt,
};
use crate::engine::LiveEvent;
use crate::failure::{Failure, kind};
use crate::payload::{BlobRef, INLINE_LIMIT, Payload};

/// Runs an attempt on the executor's runtime.
pub fn launch(core: &Arc<Core>, cell: &Arc<RunCell>, launch: Launch) {
    let running = Running {
        attempt: launch.attempt,
        cancellation: CancellationToken::new(),
        reason: Arc::new(OnceLock::new()),
        said: Arc::new(Said {
            last_heartbeat: Mutex::new(launch.started_at),
            details: Mutex::new(None),
            progress: Mutex::new(None),
        }),
    };
    let context = AttemptContext {
        cancellation: running.cancellation.clone(),
        reason: Arc::clone(&running.reason),
        deadline: deadline(&launch).0,
        sink: Arc::new(Sink {
            core: Arc::clone(core),
            cell: Arc::clone(cell),
            activity_id: launch.activity_id.clone(),
            attempt: launch.attempt,
            said: Arc::clone(&running.said),
        }),
    };
    let said = Arc::clone(&running.said);
    lock(&cell.running).insert(launch.activity_id.clone(), running);
    let core = Arc::clone(core);
    let cell = Arc::clone(cell);
    let runtime = core.attempts.clone();
    let dispatched = Instant::now();
    runtime.spawn(async move {
        core.phases.spent(Phase::Dispatch, dispatched.elapsed());
        let dead = core.dead.clone();
        tokio::select! {
            biased;
            // As a crash: nothing of it is recorded.
            () = dead.cancelled() => {}
            () = run(core, cell, launch, context, said) => {}
        }
    });
}

/// When an attempt is stopped, and by which timeout.
fn deadline(launch: &Launch) -> (Timestamp, &'static str) {
    let timeouts = launch.activity.timeouts();
    let start_to_close = timeouts
        .start_to_close
        .unwrap_or(crate::activity::DEFAULT_START_TO_CLOSE);
    let attempt = later(launch.started_at, start_to_close);
    match timeouts.schedule_to_close {
        Some(all) => {
            let all = later(launch.activity.scheduled.time(), all);
            if all < attempt {
                (all, "schedule_to_close")
            } else {
                (attempt, "start_to_close")
            }
        }
        None => (attempt, "start_to_close"),
    }
}

async fn run(
    core: Arc<Core>,
    cell: Arc<RunCell>,
    launch: Launch,
    context: AttemptContext,
    said: Arc<Said>,
) {
    failpoint::reached("in-activity");
    let (outcome, timed_out) = match task_of(&core, &cell, &launch).await {
        Ok(task) => supervise(&core, &launch, task, context.clone(), &said).await,
        Err(failure) => (
            AttemptOutcome {
                result: Err(failure),
                receipt: Receipt::default(),
            },
            false,
        ),
    };
    let outcome = settle(&core, outcome, &context).await;
    lock(&cell.running).remove(&launch.activity_id);
    lock(&core.heartbeats).remove(&(cell.run_id, launch.activity_id.clone()));
    let heartbeat = lock(&said.details).take();
    let ended = Ended {
        activity_id: launch.activity_id,
        attempt: launch.attempt,
        outcome,
        heartbeat,
        timed_out,
    };
    core.post(cell.run_id, Message::Ended(Box::new(ended)));
    drop(launch.slot);
}

async fn task_of(
    core: &Arc<Core>,
    cell: &RunCell,
    launch: &Launch,
) -> Result<ActivityTask, Failure> {
    let scheduled = &launch.activity.scheduled;
    let input = match core.resolve(scheduled.payload()).await {
        Ok(input) => input,
        Err(ResolveError::Gone(message)) => {
            return Err(Failure::permanent(kind::INTERNAL, message));
        }
        Err(ResolveError::Unavailable(message)) => {
            return Err(Failure::transient(kind::INTERNAL, message));
        }
    };
    let last_heartbeat = match launch.activity.heartbeat.clone() {
        Some(details) => core.resolve(details).await.ok(),
        None => None,
    };
    let beginning = &cell.beginning;
    Ok(ActivityTask {
        namespace: beginning.namespace.clone(),
        workflow_id: beginning.event.workflow_id.clone(),
        workflow_type: beginning.event.name.clone(),
        run_id: cell.run_id,
        activity_id: launch.activity_id.clone(),
        activity_type: scheduled.name.clone(),
        plugin_digest: digest(&scheduled.digest),
        queue: scheduled.queue.clone(),
        attempt: launch.attempt,
        input,
        scheduled_at: launch.activity.attempt_scheduled,
        started_at: launch.started_at,
        timeouts: launch.activity.timeouts(),
        last_heartbeat,
        idempotency_key: format!(
            "{}/{}/{}",
            beginning.namespace, cell.run_id, launch.activity_id
        ),
        traceparent: launch
            .traceparent
            .clone()
            .or_else(|| beginning.stored().traceparent.clone()),
    })
}

/// Waits for the executor, and stops the attempt when its time is over. Answers also
/// whether it did.
async fn supervise(
    core: &Arc<Core>,
    launch: &Launch,
    task: ActivityTask,
    context: AttemptContext,
    said: &Said,
) -> (AttemptOutcome, bool) {
    let (deadline, first) = deadline(launch);
    let heartbeat = launch.activity.timeouts().heartbeat;
    let execution = AssertUnwindSafe(core.executor.execute(task, context.clone())).catch_unwind();
    tokio::pin!(execution);
    let which = loop {
        let silent = heartbeat.map(|timeout| later(*lock(&said.last_heartbeat), timeout));
        let now = core.clock.now();
        if now >= deadline {
            break first;
        }
        if silent.is_some_and(|silent| now >= silent) {
            break "heartbeat";
        }
        let next = silent.map_or(deadline, |silent| silent.min(deadline));
        tokio::select! {
            biased;
            outcome = &mut execution => return (answered(outcome), false),
            () = core.clock.sleep_until(next) => {}
            // A run that is gone needs no outcome, but the slot is not free before the
            // guest has stopped.
            () = gone(&context) => {
                let stopped = tokio::time::timeout(core.options.stop_grace, &mut execution).await;
                let outcome = stopped.map_or_else(|_| lost("the run has ended"), answered);
                return (outcome, false);
            }
        }
    };
    let _ = context.reason.set(CancelReason::TimedOut);
    context.cancellation.cancel();
    let stopped = tokio::time::timeout(core.options.stop_grace, execution).await;
    let mut receipt = match stopped {
        Ok(outcome) => answered(outcome).receipt,
        Err(_) => lost("the executor did not return").receipt,
    };
    receipt.add("timed_out", 1);
    let message = format!("the attempt's {which} timeout is over");
    let failure = if which == "schedule_to_close" {
        Failure::permanent(kind::TIMEOUT, message)
    } else {
        Failure::transient(kind::TIMEOUT, message)
    };
    let result = Err(failure.with_details(serde_json::json!({ "timeout": which })));
    (AttemptOutcome { result, receipt }, true)
}

/// Returns when the run has ended; never otherwise.
async fn gone(context: &AttemptContext) {
    context.cancellation.cancelled().await;
    if context.reason.get() != Some(&CancelReason::RunClosed) {
        std::future::pending::<()>().await;
    }
}

fn answered(outcome: std::thread::Result<AttemptOutcome>) -> AttemptOutcome {
    outcome.unwrap_or_else(|_| AttemptOutcome {
        // The panic's message is in the log; it may name what a client must not see.
        result: Err(Failure::transient(
            kind::INTERNAL,
            "the host failed while it ran the attempt; its log has the cause",
        )),
        receipt: Receipt::default(),
    })
}

fn lost(message: &str) -> AttemptOutcome {
    let mut receipt = Receipt::default();
    receipt.add("lost", 1);
    AttemptOutcome {
        result: Err(Failure::transient(kind::WORKER_LOST, message)),
        receipt,
    }
}

/// The outcome as it is recorded: large results by reference, a shutdown as a lost
/// worker.
async fn settle(
    core: &Arc<Core>,
    mut outcome: AttemptOutcome,
    context: &AttemptContext,
) -> AttemptOutcome {
    outcome.result = match outcome.result {
        Ok(payload) if payload.data.len() > INLINE_LIMIT => by_reference(core, payload).await,
        Err(failure)
            if failure.kind == kind::CANCELLED
                && context.reason.get() == Some(&CancelReason::Shutdown) =>
        {
            Err(
                Failure::transient(kind::WORKER_LOST, "the server was shut down")
                    .with_cause(failure),
            )
        }
        other => other,
    };
    outcome
}

async fn by_reference(core: &Arc<Core>, payload: Payload) -> Result<Payload, Failure> {
    let bytes = payload
        .json_text()
        .map_err(|error| Failure::permanent(kind::INVALID_OUTPUT, error.to_string()))?;
    let size = bytes.len() as u64;
    let mut wait = Duration::from_millis(100);
    for _ in 0..5 {
        match core.payloads.put(bytes.clone()).await {
            Ok(digest) => return Ok(Payload::blob_ref(&BlobRef { digest, size })),
            Err(error) => tracing::warn!(%error, "a result cannot be stored; trying again"),
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    Err(Failure::transient(
        kind::INTERNAL,
        "the result could not be stored",
    ))
}

/// Takes what an attempt says.
struct Sink {
    core: Arc<Core>,
    cell: Arc<RunCell>,
    activity_id: String,
    attempt: u32,
    said: Arc<Said>,
}

impl AttemptSink for Sink {
    fn heartbeat(&self, details: Option<Payload>) {
        *lock(&self.said.last_heartbeat) = self.core.clock.now();
        if let Some(details) = details.filter(|details| details.data.len() <= INLINE_LIMIT) {
            *lock(&self.said.details) = Some(details.clone());
            lock(&self.core.heartbeats).insert(
                (self.cell.run_id, self.activity_id.clone()),
                (self.attempt, details),
            );
        }
    }

    fn progress(&self, progress: Progress) {
        *lock(&self.said.progress) = Some(progress.clone());
        if let Some(live) = lock(&self.core.live).get(&self.cell.run_id) {
            // Nobody may be listening.
            let _ = live.send(LiveEvent::Progress {
                activity_id: self.activity_id.clone(),
                attempt: self.attempt,
                progress,
            });
        }
    }

    fn log(&self, _line: LogLine) {
        // The host keeps log lines; its executor sees them first.
    }
}
