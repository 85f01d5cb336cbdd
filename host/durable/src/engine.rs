//! What the host can ask of an engine: one contract for `embedded` and `temporal`.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::activity::AttemptReceipt;
use crate::definition::PinnedDefinition;
use crate::driver::Listening;
use crate::failure::Failure;
use crate::payload::{
    BINARY_NULL, BLOB_REF, Digest, FOREIGN_LIMIT, JSON_PLAIN, Payload, PayloadStore, ResolveError,
    referred, resolve,
};
use crate::replay::RecordedHistory;
use crate::schedule::Schedules;
use crate::search::{GivenAttribute, SearchAttributes};
use crate::signal::Signal;

mod error;
mod stats;

pub use error::EngineError;
pub use stats::{BATCH_BOUNDS, PhaseStats, QueueStats, WorkflowTasks, WriterStats};

/// Bytes of a workflow id or an idempotency key.
const ID_LIMIT: usize = 1_000;

/// Bytes of a memo, the names and 64 bytes for each value counted. Temporal takes
/// [`FOREIGN_LIMIT`] of a run; a little of it is what the host itself notes there.
pub const MEMO_LIMIT: usize = FOREIGN_LIMIT - 8 * 1024;

/// Bytes of a memo that a value takes beside its name and its data: Temporal counts them.
const MEMO_VALUE: usize = 64;

/// Bytes of a start's memo and signal together: one request to Temporal has 4 MiB at most.
const START_LIMIT: u64 = 3 * 1024 * 1024;

/// Names a run: a workflow id, and a run id or its latest run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRef {
    /// The namespace.
    pub namespace: String,
    /// The caller's id.
    pub workflow_id: String,
    /// The execution; the latest where absent.
    pub run_id: Option<Uuid>,
}

/// What to do when the workflow id was used before; Temporal's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdReusePolicy {
    /// Start, if no run of that id is open.
    #[default]
    AllowDuplicate,
    /// Start, if the last run of that id did not complete.
    AllowDuplicateFailedOnly,
    /// Refuse.
    RejectDuplicate,
}

/// What to do when a run of the workflow id is open; Temporal's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdConflictPolicy {
    /// Refuse.
    #[default]
    Fail,
    /// Answer the open run.
    UseExisting,
    /// Terminate the open run and start.
    TerminateExisting,
}

/// A start of a run.
#[derive(Debug, Clone)]
pub struct StartWorkflow {
    /// The namespace.
    pub namespace: String,
    /// The caller's id: 1 to 1,000 bytes of UTF-8.
    pub workflow_id: String,
    /// What to execute.
    pub definition: PinnedDefinition,
    /// The queue of the run's own tasks, and of its children's;
    /// [`GENERAL_QUEUE`](crate::definition::GENERAL_QUEUE) where absent. It must be one that
    /// there is, which the caller has seen.
    pub task_queue: Option<String>,
    /// The input: `json/plain`, `binary/null` or a reference.
    pub input: Payload,
    /// As the caller said.
    pub id_reuse_policy: IdReusePolicy,
    /// As the caller said.
    pub id_conflict_policy: IdConflictPolicy,
    /// The same key again answers the same run for 24 hours, whatever else it says.
    pub idempotency_key: Option<String>,
    /// Values shown with the run, not searchable.
    pub memo: BTreeMap<String, Payload>,
    /// Values by which lists find the run.
    pub search_attributes: BTreeMap<String, GivenAttribute>,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// A signal for the run, in one step with its start: nothing of the flow happens
    /// before it is there. Where an open run is answered ([`IdConflictPolicy::UseExisting`]),
    /// that one gets the signal.
    pub signal: Option<Signal>,
}

impl StartWorkflow {
    /// Refuses what no engine takes.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let length = self.workflow_id.len();
        if length == 0 || length > ID_LIMIT {
            return Err(EngineError::Invalid(format!(
                "a workflow id has 1 to {ID_LIMIT} bytes, this one has {length}"
            )));
        }
        if let Some(key) = &self.idempotency_key
            && (key.is_empty() || key.len() > ID_LIMIT)
        {
            return Err(EngineError::Invalid(format!(
                "an idempotency key has 1 to {ID_LIMIT} bytes, this one has {}",
                key.len()
            )));
        }
        let memo: usize = self
            .memo
            .iter()
            .map(|(name, value)| name.len() + value.data.len() + MEMO_VALUE)
            .sum();
        if memo > MEMO_LIMIT {
            return Err(EngineError::TooLarge {
                what: "the memo",
                size: memo as u64,
                limit: MEMO_LIMIT as u64,
            });
        }
        if let Some(signal) = &self.signal {
            signal.check()?;
            let size = memo as u64 + signal.size();
            if size > START_LIMIT {
                return Err(EngineError::TooLarge {
                    what: "the memo and the signal together",
                    size,
                    limit: START_LIMIT,
                });
            }
        }
        Ok(())
    }
}

/// A client's input as it is recorded: stored apart where it is large. `limit` is the
/// number of bytes that a run may hold.
pub(crate) async fn admit_input(
    payloads: &dyn PayloadStore,
    input: Payload,
    limit: u64,
) -> Result<Payload, EngineError> {
    match input.encoding() {
        BINARY_NULL => return Ok(input),
        BLOB_REF => {
            // It must be readable before anything depends on it.
            return match resolve(payloads, input.clone()).await {
                Ok(_) => Ok(input),
                Err(ResolveError::Gone(message)) => Err(EngineError::Invalid(message)),
                Err(ResolveError::Unavailable(message)) => {
                    Err(EngineError::unavailable(message, None))
                }
            };
        }
        JSON_PLAIN => {}
        other => {
            return Err(EngineError::Invalid(format!(
                "the input's encoding {other:?} is not supported; use {JSON_PLAIN:?}"
            )));
        }
    }
    if input.data.len() as u64 > limit {
        return Err(EngineError::TooLarge {
            what: "the input",
            size: input.data.len() as u64,
            limit,
        });
    }
    let mut stored = Vec::new();
    let input = referred(input, &mut stored);
    for (_, bytes) in stored {
        if let Err(error) = payloads.put(bytes).await {
            return Err(EngineError::unavailable(
                "the input cannot be stored",
                Some(Box::new(error)),
            ));
        }
    }
    Ok(input)
}

/// What a start answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The run.
    pub run_id: Uuid,
    /// `false` where an earlier request with the same idempotency key, or an open
    /// run under `UseExisting`, is answered.
    pub created: bool,
}

/// Where a run stands; Temporal's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExecutionStatus {
    /// Open.
    Running,
    /// Ended with a result.
    Completed,
    /// Ended with a failure.
    Failed,
    /// Ended after a cancel.
    Canceled,
    /// Ended by force.
    Terminated,
    /// Ended by its own timeout.
    TimedOut,
    /// Ended because its history had grown long; another run of the same workflow id goes
    /// on where it was.
    ContinuedAsNew,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct RunResult {
    /// The run that ended.
    pub run_id: Uuid,
    /// Never `Running`, and never `ContinuedAsNew`: that of the last run of those that went
    /// on as each other.
    pub status: ExecutionStatus,
    /// The result of a completed run; the failure of any other.
    pub outcome: Result<Payload, Failure>,
}

/// A run, as lists show it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunInfo {
    /// The namespace.
    pub namespace: String,
    /// The caller's id.
    pub workflow_id: String,
    /// The execution.
    pub run_id: Uuid,
    /// The workflow type.
    pub workflow_type: String,
    /// The definition's version. Not known of a run that foreign code started on a cluster
    /// and that has not begun yet, or never could.
    pub version: Option<semver::Version>,
    /// The definition's digest; known where the version is.
    pub digest: Option<Digest>,
    /// Where it stands.
    pub status: ExecutionStatus,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub closed_at: Option<Timestamp>,
    /// Events in its history.
    pub history_length: u64,
    /// The parent's workflow id and run id.
    pub parent: Option<(String, Uuid)>,
    /// Why it is held, if replay found a difference: it goes on only with a fixed
    /// host or is terminated. On a Temporal cluster also why its workflow task fails
    /// again and again; it is tried again all the same.
    pub held: Option<String>,
}

/// An activity that an open run waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingActivity {
    /// Its id.
    pub activity_id: String,
    /// `<plugin>.<activity>`.
    pub activity_type: String,
    /// Its queue.
    pub queue: String,
    /// The task that called it, as JSON pointer.
    pub task: String,
    /// `Scheduled` (in the queue), `Started`, `BackingOff` or `CancelRequested`.
    pub state: PendingState,
    /// The attempt that runs or comes next.
    pub attempt: u32,
    /// When it was scheduled.
    pub scheduled_at: Timestamp,
    /// When the running attempt started.
    pub started_at: Option<Timestamp>,
    /// When the next attempt comes, while backing off.
    pub next_attempt_at: Option<Timestamp>,
    /// Why the last attempt failed.
    pub last_failure: Option<Failure>,
    /// How far the running attempt is.
    pub progress: Option<crate::activity::Progress>,
}

/// Where a pending activity stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PendingState {
    /// Waits for a slot of its queue.
    Scheduled,
    /// An attempt runs.
    Started,
    /// Waits for its next attempt.
    BackingOff,
    /// An attempt runs and was asked to stop.
    CancelRequested,
    /// Paused on the cluster: no attempt begins until that ends.
    Paused,
    /// Paused on the cluster while an attempt runs, which is asked to stop.
    PauseRequested,
}

/// A run in detail.
#[derive(Debug, Clone, PartialEq)]
pub struct RunDescription {
    /// As in lists.
    pub info: RunInfo,
    /// The queue of the run's own tasks. The embedded engine, which does those at once, only
    /// remembers it.
    pub task_queue: String,
    /// The run that continued as this one.
    pub continued_from: Option<Uuid>,
    /// The run that goes on where this one ended: it continued as new, or a foreign starter's
    /// retry policy or cron made the cluster start the next one.
    pub continued_as: Option<Uuid>,
    /// The first of the runs that continued so; itself where none did.
    pub first_run_id: Uuid,
    /// Values given at the start.
    pub memo: BTreeMap<String, Payload>,
    /// Values by which lists find it.
    pub search_attributes: SearchAttributes,
    /// The plugin versions it is pinned to: name as called, and digest.
    pub pinned: BTreeMap<String, Option<Digest>>,
    /// What it waits for.
    pub pending_activities: Vec<PendingActivity>,
    /// Timers it waits for: id, task, and when each fires.
    pub pending_timers: Vec<(String, String, Timestamp)>,
    /// Children it waits for: workflow id and run id.
    pub pending_children: Vec<(String, Uuid)>,
    /// Tasks that listen for signals.
    pub pending_listens: Vec<Listening>,
    /// Signals that no task has taken yet, the oldest first, as many as are shown.
    pub pending_signals: Vec<PendingSignal>,
    /// How many there are in all.
    pub pending_signal_count: u64,
}

/// How an update stands that a run has accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateStatus {
    /// The run.
    pub run_id: Uuid,
    /// The update.
    pub update_id: String,
    /// How it ended; `None` while the run has not completed it.
    pub outcome: Option<Result<Payload, Failure>>,
}

/// A signal that no task of an open run has taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingSignal {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// When it came.
    pub received_at: Timestamp,
}

/// One history event, in the form that the API shows. Attribute names are Temporal's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryEvent {
    /// Counted from 1, without gaps.
    pub event_id: u64,
    /// When it was recorded.
    pub event_time: Timestamp,
    /// `WorkflowExecutionStarted`, `ActivityTaskScheduled`, ...
    pub event_type: String,
    /// Its attributes.
    pub attributes: serde_json::Value,
}

/// A page of a history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPage {
    /// The run it belongs to.
    pub run_id: Uuid,
    /// The events, ascending.
    pub events: Vec<HistoryEvent>,
    /// Whether the run has ended and this page has its last event.
    pub complete: bool,
}

/// What a list asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListRuns {
    /// The namespace.
    pub namespace: String,
    /// Temporal's list filter, `WorkflowType = 'x' AND ExecutionStatus = 'Running'`.
    pub query: Option<String>,
    /// At most so many runs (1 to 1,000).
    pub page_size: usize,
    /// From the last page.
    pub page_token: Option<String>,
}

/// A page of runs, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPage {
    /// The runs.
    pub runs: Vec<RunInfo>,
    /// Give this to the next [`ListRuns`]; none at the end.
    pub next_page_token: Option<String>,
}

/// A live event of a run that is not part of its history.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LiveEvent {
    /// How far an attempt is.
    Progress {
        /// The activity.
        activity_id: String,
        /// The attempt.
        attempt: u32,
        /// How far it is.
        progress: crate::activity::Progress,
    },
}

/// Makes runs durable, and keeps [schedules](Schedules) of them.
#[async_trait]
pub trait Engine: Schedules + Send + Sync + 'static {
    /// Starts a run; when this answers, it survives any crash.
    async fn start(&self, request: StartWorkflow) -> Result<Started, EngineError>;

    /// Waits up to `wait` for a run's end; `None` while it is open. Where another run goes on
    /// where it ended, that is the end of the last of them.
    async fn result(&self, run: &RunRef, wait: Duration) -> Result<Option<RunResult>, EngineError>;

    /// A run in detail.
    async fn describe(&self, run: &RunRef) -> Result<RunDescription, EngineError>;

    /// Runs that match a filter, newest first.
    async fn list(&self, request: &ListRuns) -> Result<RunPage, EngineError>;

    /// Whether [`list`](Self::list) is behind the histories, so that it may lack runs that were
    /// started a moment ago.
    fn lists_lag(&self) -> bool {
        false
    }

    /// How many runs of a namespace match a filter; all where there is none.
    async fn count(&self, namespace: &str, query: Option<&str>) -> Result<u64, EngineError>;

    /// Events after that id, at most `limit`; waits up to `wait` for the first one.
    async fn history(
        &self,
        run: &RunRef,
        after: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<HistoryPage, EngineError>;

    /// All that is recorded of a run, for [`replay`](crate::replay) and for export.
    async fn recorded(&self, run: &RunRef) -> Result<RecordedHistory, EngineError>;

    /// Sends a signal to an open run; when this answers, it survives any crash, and the
    /// run has it until a task listens for it. The same id again changes nothing.
    async fn signal(&self, run: &RunRef, signal: Signal) -> Result<(), EngineError>;

    /// Asks a run, open or ended, and changes nothing. Every run answers
    /// [`STATE_QUERY`](crate::driver::STATE_QUERY), and what its flow declares.
    async fn query(
        &self,
        run: &RunRef,
        name: &str,
        arguments: Payload,
    ) -> Result<Payload, EngineError>;

    /// Offers an open run an update, whose `id` is the update's. When this answers, a task
    /// of the run has taken it, which survives any crash; it waits up to `wait` for its
    /// end. The same id again answers the same update, also when the run has ended.
    async fn update(
        &self,
        run: &RunRef,
        update: Signal,
        wait: Duration,
    ) -> Result<UpdateStatus, EngineError>;

    /// How an update stands that a run accepted; waits up to `wait` for its end.
    async fn update_result(
        &self,
        run: &RunRef,
        update_id: &str,
        wait: Duration,
    ) -> Result<UpdateStatus, EngineError>;

    /// Asks a run to cancel; it may clean up first. Asking again changes nothing.
    async fn cancel(&self, run: &RunRef, reason: &str) -> Result<(), EngineError>;

    /// Ends a run at once; its activities are interrupted.
    async fn terminate(&self, run: &RunRef, reason: &str) -> Result<(), EngineError>;

    /// Receipts of attempts of a run that were lost with their worker, if the host has none
    /// of them: an engine that learns of a loss by a timeout cannot tell it from others. One
    /// that [tells the host](crate::activity::ActivityExecutor::ended_elsewhere) of each
    /// answers none.
    async fn lost_attempts(&self, run: &RunRef) -> Result<Vec<AttemptReceipt>, EngineError> {
        let _ = run;
        Ok(Vec::new())
    }

    /// Live events of a run, while it is open. Slow receivers miss some.
    fn live(&self, run_id: Uuid) -> tokio::sync::broadcast::Receiver<LiveEvent>;

    /// How many open runs are pinned to this definition or plugin version.
    async fn open_runs_using(&self, digest: &Digest) -> Result<u64, EngineError>;

    /// What the queues are doing.
    fn queues(&self) -> Vec<QueueStats>;

    /// Where its time goes; nothing where it does not count that.
    fn phases(&self) -> Vec<PhaseStats> {
        Vec::new()
    }

    /// Tells those who [follow](Self::live) a run what an attempt elsewhere said. An engine
    /// whose attempts are all in its own process has nobody to be told by.
    fn tell(&self, run_id: Uuid, event: LiveEvent) {
        let _ = (run_id, event);
    }

    /// Takes no new work, waits up to `grace` for running attempts, asks the rest to
    /// stop, and closes the storage.
    async fn drain(&self, grace: Duration);
}
