//! Running one attempt: its timeouts, its heartbeats, and its end.
//!
//! The attempt's start is committed before [`launch`]. The task here lets
//! [`supervise`] run it, and then gives the slot back and the outcome to the run.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::effects::Launch;
use super::events::digest;
use super::failpoint;
use super::lock;
use super::phases::Phase;
use super::pool::begin_after_job;
use super::run::{Ended, Message, RunCell, Running, Said};
use crate::activity::{
    ActivityTask, AttemptContext, AttemptOutcome, AttemptSink, LogLine, Progress, Receipt,
};
use crate::attempt::{Bounds, deadline, settle, supervise};
use crate::engine::LiveEvent;
use crate::failure::{Failure, kind};
use crate::payload::{INLINE_LIMIT, Payload, ResolveError};

/// Runs an attempt on the executor's runtime; its first step, perhaps, on this thread.
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
        deadline: deadline(
            launch.activity.scheduled.time(),
            launch.started_at,
            &launch.activity.timeouts(),
        )
        .0,
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
    begin_after_job(&runtime, async move {
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

async fn run(
    core: Arc<Core>,
    cell: Arc<RunCell>,
    launch: Launch,
    context: AttemptContext,
    said: Arc<Said>,
) {
    failpoint::reached("in-activity");
    let (outcome, timed_out) = match task_of(&core, &cell, &launch).await {
        Ok(task) => {
            let bounds = Bounds {
                scheduled_at: launch.activity.scheduled.time(),
                stop_grace: core.options.stop_grace,
            };
            let last_heartbeat = || *lock(&said.last_heartbeat);
            supervise(
                core.executor.as_ref(),
                core.clock.as_ref(),
                task,
                context.clone(),
                bounds,
                last_heartbeat,
            )
            .await
        }
        Err(failure) => (
            AttemptOutcome {
                result: Err(failure),
                receipt: Receipt::default(),
            },
            false,
        ),
    };
    // What it did is done, and nobody knows yet.
    failpoint::reached("after-activity");
    let payloads = Some(core.payloads.as_ref());
    let outcome = settle(payloads, core.clock.as_ref(), outcome, &context).await;
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
        let event = LiveEvent::Progress {
            activity_id: self.activity_id.clone(),
            attempt: self.attempt,
            progress,
        };
        self.core.live.tell(self.cell.run_id, event);
    }

    fn log(&self, _line: LogLine) {
        // The host keeps log lines; its executor sees them first.
    }
}
