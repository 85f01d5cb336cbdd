//! One attempt on its executor, whichever engine started it: it is stopped when its time
//! is over, and what it answered becomes what is recorded.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;

use crate::activity::{
    ActivityExecutor, ActivityTask, ActivityTimeouts, AttemptContext, AttemptOutcome, CancelReason,
    DEFAULT_START_TO_CLOSE, Receipt,
};
use crate::clock::{Clock, within};
use crate::failure::{Failure, kind};
use crate::payload::{BlobRef, FOREIGN_LIMIT, INLINE_LIMIT, Payload, PayloadStore};

/// How far the executor's clock may be ahead of the engine's: both watch the deadline.
const CLOCKS_APART: Duration = Duration::from_millis(10);

/// What else than its task bounds an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// When the activity was scheduled, the first attempt of it.
    pub scheduled_at: Timestamp,
    /// How long a stopped attempt may take to return before its future is dropped.
    pub stop_grace: Duration,
}

/// A time that much later, saturating.
pub(crate) fn later(from: Timestamp, by: Duration) -> Timestamp {
    let by = jiff::SignedDuration::try_from(by).unwrap_or(jiff::SignedDuration::MAX);
    from.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// When an attempt is stopped, and by which timeout.
pub(crate) fn deadline(
    scheduled_at: Timestamp,
    started_at: Timestamp,
    timeouts: &ActivityTimeouts,
) -> (Timestamp, &'static str) {
    let start_to_close = timeouts.start_to_close.unwrap_or(DEFAULT_START_TO_CLOSE);
    let attempt = later(started_at, start_to_close);
    match timeouts.schedule_to_close {
        Some(all) => {
            let all = later(scheduled_at, all);
            if all < attempt {
                (all, "schedule_to_close")
            } else {
                (attempt, "start_to_close")
            }
        }
        None => (attempt, "start_to_close"),
    }
}

/// Waits for the executor, and stops the attempt when its time is over. Answers also
/// whether it did. `last_heartbeat` is the time of the last one, or of the start.
pub(crate) async fn supervise(
    executor: &dyn ActivityExecutor,
    clock: &dyn Clock,
    task: ActivityTask,
    context: AttemptContext,
    bounds: Bounds,
    last_heartbeat: impl Fn() -> Timestamp,
) -> (AttemptOutcome, bool) {
    let (deadline, first) = deadline(bounds.scheduled_at, task.started_at, &task.timeouts);
    let heartbeat = task.timeouts.heartbeat;
    let execution = AssertUnwindSafe(executor.execute(task, context.clone())).catch_unwind();
    tokio::pin!(execution);
    let (which, ended) = loop {
        let silent = heartbeat.map(|timeout| later(last_heartbeat(), timeout));
        let now = clock.now();
        if now >= deadline {
            break (first, None);
        }
        if silent.is_some_and(|silent| now >= silent) {
            break ("heartbeat", None);
        }
        let next = silent.map_or(deadline, |silent| silent.min(deadline));
        tokio::select! {
            biased;
            outcome = &mut execution => {
                let outcome = answered(outcome);
                // It watches the deadline too, does not know whose that is, and sees it first
                // where a guest computes.
                if is_timeout(&outcome) && later(clock.now(), CLOCKS_APART) >= deadline {
                    break (first, Some(outcome));
                }
                return (outcome, false);
            }
            () = clock.sleep_until(next) => {}
            // A run that is gone needs no outcome, but the slot is not free before the
            // guest has stopped.
            () = gone(&context) => {
                let stopped = within(clock, bounds.stop_grace, &mut execution).await;
                let outcome = stopped.map_or_else(|| lost("the run has ended"), answered);
                return (outcome, false);
            }
        }
    };
    let _ = context.reason.set(CancelReason::TimedOut);
    context.cancellation.cancel();
    let ended = match ended {
        Some(outcome) => outcome,
        None => within(clock, bounds.stop_grace, execution)
            .await
            .map_or_else(|| lost("the executor did not return"), answered),
    };
    let mut receipt = ended.receipt;
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

fn is_timeout(outcome: &AttemptOutcome) -> bool {
    matches!(&outcome.result, Err(failure) if failure.kind == kind::TIMEOUT)
}

/// Returns when the run has ended; never otherwise.
async fn gone(context: &AttemptContext) {
    context.cancellation.cancelled().await;
    if context.reason.get() != Some(&CancelReason::RunClosed) {
        std::future::pending::<()>().await;
    }
}

/// What an attempt answered; a failure of the host's where it panicked.
pub(crate) fn answered(outcome: std::thread::Result<AttemptOutcome>) -> AttemptOutcome {
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

/// The outcome as it is recorded: large results by reference, an attempt that stopped so
/// that another follows as one to be retried. Without `payloads` the result goes to foreign
/// code, and stays inline.
pub(crate) async fn settle(
    payloads: Option<&dyn PayloadStore>,
    clock: &dyn Clock,
    mut outcome: AttemptOutcome,
    context: &AttemptContext,
) -> AttemptOutcome {
    outcome.result = match outcome.result {
        Ok(payload) if payload.data.len() > INLINE_LIMIT => match payloads {
            Some(payloads) => by_reference(payloads, clock, payload).await,
            None => inline(payload),
        },
        Err(failure) if failure.kind == kind::CANCELLED => {
            let reason = context.reason.get().copied();
            Err(match reason.and_then(CancelReason::interruption) {
                Some(interrupted) => interrupted.with_cause(failure),
                None => failure,
            })
        }
        other => other,
    };
    outcome
}

fn inline(payload: Payload) -> Result<Payload, Failure> {
    let size = payload.data.len();
    if size <= FOREIGN_LIMIT {
        return Ok(payload);
    }
    Err(Failure::permanent(
        kind::LIMIT_EXCEEDED,
        format!(
            "the result has {size} bytes, more than the {FOREIGN_LIMIT} that foreign code is given; write it to a blob and answer its key"
        ),
    )
    .with_details(serde_json::json!({ "limit": "result_bytes" })))
}

async fn by_reference(
    payloads: &dyn PayloadStore,
    clock: &dyn Clock,
    payload: Payload,
) -> Result<Payload, Failure> {
    let bytes = payload
        .json_text()
        .map_err(|error| Failure::permanent(kind::INVALID_OUTPUT, error.to_string()))?;
    let size = bytes.len() as u64;
    let mut wait = Duration::from_millis(100);
    for _ in 0..5 {
        match payloads.put(bytes.clone()).await {
            Ok(digest) => return Ok(Payload::blob_ref(&BlobRef { digest, size })),
            Err(error) => tracing::warn!(%error, "a result cannot be stored; trying again"),
        }
        clock.sleep(wait).await;
        wait *= 2;
    }
    Err(Failure::transient(
        kind::INTERNAL,
        "the result could not be stored",
    ))
}
