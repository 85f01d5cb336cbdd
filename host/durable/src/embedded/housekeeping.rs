//! What happens at a time: the task that waits for the next one, and the rows and
//! heartbeats that are written behind.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;

use super::core::Core;
use super::lock;
use super::run::Message;
use super::timers::Target;
use super::writer::{HeartbeatRow, Write, WriteKind, Written};

/// Between two removals of old rows.
const HOURLY: Duration = Duration::from_secs(60 * 60);

/// Until more old rows are removed, where there are more.
const SOON: Duration = Duration::from_secs(1);

/// Between two writes of heartbeats.
const HEARTBEATS: Duration = Duration::from_secs(1);

/// Lets targets happen at their times, until the engine is gone.
pub async fn keep_time(core: Arc<Core>) {
    core.timers.set(Target::Housekeeping, core.after(HOURLY));
    loop {
        let target = tokio::select! {
            biased;
            () = core.dead.cancelled() => return,
            target = core.timers.next() => target,
        };
        if core.is_draining() {
            // The history says it to the next start.
            continue;
        }
        happen(&core, target);
    }
}

fn happen(core: &Arc<Core>, target: Target) {
    match target {
        Target::Timer(run_id, timer_id) => core.post(run_id, Message::TimerFired { timer_id }),
        Target::Backoff(run_id, activity_id) => {
            core.post(run_id, Message::BackoffOver { activity_id });
        }
        Target::ScheduleToStart(run_id, activity_id) => core.post(
            run_id,
            Message::QueueTimeout {
                activity_id,
                timeout: "schedule_to_start",
            },
        ),
        Target::ScheduleToClose(run_id, activity_id) => core.post(
            run_id,
            Message::QueueTimeout {
                activity_id,
                timeout: "schedule_to_close",
            },
        ),
        Target::Retry(run_id) => core.post(run_id, Message::Activate),
        Target::StartChild(run_id, child_id) => {
            let core = Arc::clone(core);
            let runtime = core.runtime.clone();
            runtime.spawn(async move {
                super::children::start_again(&core, run_id, &child_id).await;
            });
        }
        Target::Schedule(schedule) => super::schedules::look(core, schedule),
        Target::Housekeeping => {
            let before = core.options.retention.and_then(|kept| {
                let kept = jiff::SignedDuration::try_from(kept).ok()?;
                core.clock.now().checked_sub(kept).ok()
            });
            core.timers.set(Target::Housekeeping, core.after(HOURLY));
            let then = Arc::downgrade(core);
            core.writer.submit(Write {
                kind: WriteKind::Purge {
                    now_us: core.clock.now().as_microsecond(),
                    closed_before_us: before.map(|before| before.as_microsecond()),
                },
                done: Box::new(move |written| {
                    if let (Some(core), Ok(Written::More)) = (then.upgrade(), written) {
                        // Others come between.
                        core.timers.set(Target::Housekeeping, core.after(SOON));
                    }
                }),
            });
        }
    }
}

/// Writes heartbeats behind, until the engine is gone.
pub async fn keep_heartbeats(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.dead.cancelled() => return,
            () = core.clock.sleep(HEARTBEATS) => write_heartbeats(&core),
        }
    }
}

/// Queues what heartbeats said since the last time.
pub fn write_heartbeats(core: &Core) {
    let said = std::mem::take(&mut *lock(&core.heartbeats));
    if said.is_empty() || core.writer.failure().is_some() {
        return;
    }
    let rows = said
        .into_iter()
        .map(|((run_id, activity_id), (attempt, details))| HeartbeatRow {
            run_id,
            activity_id,
            attempt,
            details: details.encode_to_vec(),
        });
    core.writer.submit(Write {
        kind: WriteKind::Heartbeats(rows.collect()),
        done: Box::new(|_| ()),
    });
}
