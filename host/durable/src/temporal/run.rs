//! One run between core and driver: jobs of an activation go in, commands come out.
//!
//! It does no I/O itself; [`activation`](super::activation) does what must happen in
//! between (resolving references, loading the flow). Driver and core agree on ids: the
//! driver's decimal ids, counted from 1 for each kind, are core's sequence numbers.
//! Whatever a job says is the same on replay, so the same commands come.

mod children;
mod commands;
mod continuing;
pub mod outside;
mod task_size;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use jiff::Timestamp;
use uuid::Uuid;

use self::outside::Outside;
use self::task_size::TaskSize;
use super::convert::{
    DETAILS, argument, duration, failure, fitting, from_json_payload, from_payload, json_payload,
    own_words, timestamp,
};
use super::outcome::{activity_outcome, child_outcome, child_started, unsent};
use super::pins::{
    MEMO, PIN_ACTIVITY, PinRequest, Pins, RESUME_HEADER, RUN_HEADER, RunHeader, Unnamed,
    WAITING_HEADER, signal_header,
};
use super::sdk;
use super::updates::Offered;
use crate::driver::{CONTINUES_WAITING, Driver, Resolution, RunLimits, RunStart, SIGNALS_APART};
use crate::engine::RunRef;
use crate::failure::{Failure, kind};
use crate::flow::Flow;
use crate::payload::Payload;
use crate::signal::Signal;
use crate::trouble::Trouble;

/// Bytes of a task that is a command's summary: as JSON it is no longer than
/// [`SUMMARY`](super::convert::SUMMARY).
const TASK: usize = 180;

/// Core's number of the local activity that pins a run.
const PINNING: u32 = 1;

/// Signals of one run after which it is to continue as new: nearly as many as a cluster lets
/// it have, unless its operator says otherwise.
const MANY_SIGNALS: u64 = 9_000;

/// How long one try to pin a run may take. Longer ones would delay a cancel.
const PIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Where a run stands.
#[derive(Debug)]
pub enum Stage {
    /// It has begun, and nothing was done.
    Begun,
    /// Its pins are asked for.
    Pinning,
    /// Its pins are known.
    Pinned(Box<Pins>),
    /// What its driver is made of is there.
    Ready(Box<RunStart>),
    /// Its driver runs.
    Running(Box<Driver>),
    /// It cannot go on and fails.
    Failing(Failure),
    /// Its last command was given. Queries may still come.
    Ended(Box<Driver>),
    /// It failed before it had a driver.
    Over,
}

/// A run in memory.
#[derive(Debug)]
pub struct Run {
    /// Heyday's name of the namespace.
    namespace: String,
    /// The cluster's name of it.
    cluster_namespace: String,
    workflow_id: String,
    workflow_type: String,
    run_id: Uuid,
    /// The run that children are named after: itself, but where it was reset the earlier one
    /// up to there, since the history has the names that were given then.
    names_children: Uuid,
    /// The runs that it was reset as and has not come to yet, the last one itself; `None`
    /// where nobody asked, which a reset must.
    pub resets: Option<VecDeque<Uuid>>,
    queue: String,
    started_at: Timestamp,
    header: RunHeader,
    /// The input, perhaps a reference.
    pub input: Payload,
    /// The driver's revision, once its pins are known.
    pub revision: u32,
    /// What the run before it carried, perhaps a reference.
    pub resume: Option<Payload>,
    /// The signals that wait since then, perhaps a reference.
    pub waiting: Option<Payload>,
    /// Signals for which its driver has no room.
    pub outside: Outside,
    /// Its limits, once its pins are known.
    pub limits: Option<RunLimits>,
    /// What the run that goes on where this one ends is pinned to.
    pub next_pins: Option<Pins>,
    /// The memo that it was started with.
    memo: HashMap<String, sdk::Payload>,
    /// The search attributes that it has now: those of its start, and what it changed.
    pub search_attributes: HashMap<String, sdk::Payload>,
    /// Where it stands.
    pub stage: Stage,
    /// What resolved and was not yet given to the driver.
    pub resolutions: Vec<Resolution>,
    /// Tasks that began and were not yet shown.
    pub entered: Vec<String>,
    /// Tasks of the activities that have not resolved.
    pub activities: BTreeMap<u32, String>,
    /// Workflow ids of the signals that were sent and have not resolved.
    sent: BTreeMap<u32, String>,
    /// Children that have started and not ended.
    children: BTreeSet<u32>,
    /// Workflow ids of the children that were asked for and have not ended.
    child_names: BTreeMap<u32, String>,
    /// Keys of the signals that came: each counts once.
    signals: BTreeSet<String>,
    /// How many the cluster has recorded for it.
    recorded_signals: u64,
    /// Names those of foreign senders.
    unnamed: Unnamed,
    /// What was said of updates that came.
    pub answers: Vec<sdk::WorkflowCommand>,
    /// Updates that came and of which nothing was said.
    pub offered: Vec<Offered>,
    /// Core's names of the updates that are under way, by id.
    pub updates: BTreeMap<String, String>,
    /// What is asked in this activation.
    pub queries: Vec<sdk::QueryWorkflow>,
    /// Whether the driver was given anything yet.
    pub started: bool,
    /// Whether its driver has continued as new.
    pub continued: bool,
    /// Whether it came without pins.
    pub was_pinned_here: bool,
    /// What its workflow task says.
    pub task_size: TaskSize,
}

/// A job that does not fit the run: a fault of core, or of this.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unexpected(pub String);

impl Run {
    /// A run at its beginning, on the queue on which its tasks come, in a namespace of
    /// Heyday's name and of the cluster's.
    pub fn begin(
        (namespace, cluster_namespace): (&str, &str),
        queue: &str,
        run_id: &str,
        start: sdk::InitializeWorkflow,
    ) -> Result<Self, Unexpected> {
        let run_id: Uuid = run_id
            .parse()
            .map_err(|_| Unexpected(format!("the run id {run_id:?} is no UUID")))?;
        let original = start.original_execution_run_id.parse::<Uuid>();
        let header = match start.headers.get(RUN_HEADER) {
            Some(header) => from_json_payload(header).map_err(|error| {
                Failure::permanent(
                    kind::INVALID_INPUT,
                    format!("the header {RUN_HEADER:?} cannot be read: {error}"),
                )
            }),
            None => Ok(RunHeader::default()),
        };
        let unnamed = Unnamed::of(&start.headers, &start.original_execution_run_id);
        let mut run = Self {
            namespace: namespace.to_owned(),
            cluster_namespace: cluster_namespace.to_owned(),
            workflow_id: start.workflow_id,
            workflow_type: start.workflow_type,
            run_id,
            names_children: original.unwrap_or(run_id),
            resets: None,
            queue: queue.to_owned(),
            started_at: timestamp(start.start_time),
            header: RunHeader::default(),
            input: Payload::null(),
            revision: 0,
            resume: start.headers.get(RESUME_HEADER).cloned().map(from_payload),
            waiting: start.headers.get(WAITING_HEADER).cloned().map(from_payload),
            outside: Outside::default(),
            limits: None,
            next_pins: None,
            memo: start.memo.unwrap_or_default().fields,
            search_attributes: start.search_attributes.unwrap_or_default().indexed_fields,
            stage: Stage::Begun,
            resolutions: Vec::new(),
            entered: Vec::new(),
            activities: BTreeMap::new(),
            sent: BTreeMap::new(),
            children: BTreeSet::new(),
            child_names: BTreeMap::new(),
            signals: BTreeSet::new(),
            recorded_signals: 0,
            unnamed,
            answers: Vec::new(),
            offered: Vec::new(),
            updates: BTreeMap::new(),
            queries: Vec::new(),
            started: false,
            continued: false,
            was_pinned_here: false,
            task_size: TaskSize::default(),
        };
        match header.and_then(|header| Ok((header, argument(start.arguments)?))) {
            Ok((header, input)) => {
                run.header = header;
                run.input = input;
                if let Some(signal) = run.header.signal.take() {
                    run.signaled(signal.into());
                }
                if let Some(pins) = run.header.pins.take() {
                    run.stage = Stage::Pinned(Box::new(pins));
                }
            }
            Err(failure) => run.stage = Stage::Failing(failure),
        }
        Ok(run)
    }

    /// Takes one job. What waits for the driver is gathered.
    pub fn take(&mut self, job: sdk::Job) -> Result<(), Trouble> {
        match job {
            sdk::Job::FireTimer(fired) => self.resolutions.push(Resolution::Timer {
                timer_id: fired.seq.to_string(),
            }),
            sdk::Job::ResolveActivity(resolved) => {
                let status = resolved.result.and_then(|result| result.status);
                let status = status.ok_or_else(|| {
                    Unexpected(format!("activity {} resolved to nothing", resolved.seq))
                })?;
                if resolved.is_local && resolved.seq > PINNING {
                    self.search_attributes_fitted(resolved.seq, status)?;
                } else if resolved.is_local {
                    self.pinned(status)?;
                } else {
                    self.activities.remove(&resolved.seq);
                    self.resolutions.push(Resolution::Activity {
                        activity_id: resolved.seq.to_string(),
                        outcome: activity_outcome(status)?,
                    });
                }
            }
            sdk::Job::ResolveChildWorkflowExecutionStart(started) => {
                let outcome = child_started(started.status)?;
                if outcome.is_ok() {
                    self.children.insert(started.seq);
                } else {
                    self.child_names.remove(&started.seq);
                }
                self.resolutions.push(Resolution::ChildStarted {
                    child_id: started.seq.to_string(),
                    outcome,
                });
            }
            sdk::Job::ResolveChildWorkflowExecution(ended) => {
                let status = ended.result.and_then(|result| result.status);
                self.children.remove(&ended.seq);
                self.child_names.remove(&ended.seq);
                self.resolutions.push(Resolution::Child {
                    child_id: ended.seq.to_string(),
                    outcome: child_outcome(status)?,
                });
            }
            sdk::Job::CancelWorkflow(cancel) => {
                self.resolutions.push(Resolution::CancelRequested {
                    reason: own_words(&cancel.reason).to_owned(),
                });
            }
            sdk::Job::QueryWorkflow(query) => self.queries.push(query),
            sdk::Job::DoUpdate(update) => self.offer(update),
            sdk::Job::SignalWorkflow(sent) => {
                self.recorded_signals += 1;
                let header = signal_header(&sent.headers)
                    .unwrap_or_else(|| self.unnamed.header(sent.originating_event_id));
                self.signaled(Signal {
                    name: sent.signal_name,
                    id: header.id,
                    attributes: header.attributes,
                    // Several arguments are no event's data, and nobody reads them.
                    data: argument(sent.input).unwrap_or_default(),
                });
            }
            sdk::Job::ResolveSignalExternalWorkflow(sent) => {
                let workflow_id = self.sent.remove(&sent.seq).unwrap_or_default();
                let cause = sent.cause();
                let outcome = match sent.failure {
                    None => Ok(()),
                    Some(_) => {
                        let limit =
                            cause == sdk::SignalExternalFailedCause::SignalCountLimitExceeded;
                        let limit = limit && self.revision >= SIGNALS_APART;
                        Err(unsent(&workflow_id, limit))
                    }
                };
                self.resolutions.push(Resolution::ExternalSignaled {
                    signal_id: sent.seq.to_string(),
                    outcome,
                });
            }
            // It was reset here: the children that the earlier run had after that are not its own.
            // Its random numbers are its own.
            sdk::Job::UpdateRandomSeed(_) => {
                let next = self.resets.as_mut().and_then(VecDeque::pop_front);
                self.names_children = next.unwrap_or(self.run_id);
            }
            // A child that could not be asked to cancel has ended, which is told as well.
            sdk::Job::NotifyHasPatch(_) | sdk::Job::ResolveRequestCancelExternalWorkflow(_) => {}
            job @ (sdk::Job::InitializeWorkflow(_)
            | sdk::Job::RemoveFromCache(_)
            | sdk::Job::ResolveNexusOperationStart(_)
            | sdk::Job::ResolveNexusOperation(_)) => {
                return Err(Unexpected(format!("the run was given {job:?}")).into());
            }
        }
        Ok(())
    }

    fn signaled(&mut self, signal: Signal) {
        if self.signals.insert(signal.key()) {
            self.resolutions.push(Resolution::Signal(Box::new(signal)));
        }
    }

    /// The local activity that pins the run has ended.
    fn pinned(&mut self, status: sdk::Resolved) -> Result<(), Trouble> {
        if !matches!(self.stage, Stage::Pinning) {
            return Err(Unexpected("the run was pinned twice".to_owned()).into());
        }
        self.stage = match activity_outcome(status)? {
            Ok(pins) => match serde_json::from_slice(&pins.data) {
                Ok(pins) => Stage::Pinned(Box::new(pins)),
                Err(error) => {
                    return Err(Unexpected(format!("the pins cannot be read: {error}")).into());
                }
            },
            // The registry is away: the workflow task fails and comes again later.
            Err(failure) if failure.retryable => {
                return Err(Trouble::Later(format!(
                    "the run cannot be pinned now: {failure}"
                )));
            }
            Err(failure) => Stage::Failing(failure),
        };
        Ok(())
    }

    /// Takes what was said of updates that came.
    pub fn take_answers(&mut self) -> Vec<sdk::WorkflowCommand> {
        std::mem::take(&mut self.answers)
    }

    /// Shows in the details of the first of these commands which tasks began before it.
    pub fn show_tasks(&mut self, commands: &mut [sdk::WorkflowCommand]) {
        let Some(first) = commands.first_mut() else {
            return;
        };
        let mut text = String::new();
        for task in self.entered.drain(..) {
            if text.len() + task.len() < DETAILS {
                text.push_str(&task);
                text.push('\n');
            }
        }
        if !text.is_empty() {
            let metadata = first.user_metadata.get_or_insert_default();
            metadata.details = Some(fitting(&text, DETAILS));
        }
    }

    /// The command that asks for the run's pins.
    pub fn ask_for_pins(&mut self) -> sdk::WorkflowCommand {
        self.stage = Stage::Pinning;
        self.was_pinned_here = true;
        let request = PinRequest {
            workflow_type: self.workflow_type.clone(),
            version: self.header.version.clone(),
        };
        let policy = sdk::RetryPolicy {
            initial_interval: duration(std::time::Duration::from_millis(100)),
            backoff_coefficient: 2.0,
            maximum_interval: duration(std::time::Duration::from_secs(1)),
            maximum_attempts: 5,
            ..Default::default()
        };
        command(
            sdk::CommandVariant::ScheduleLocalActivity(sdk::ScheduleLocalActivity {
                seq: PINNING,
                activity_id: "pin".to_owned(),
                activity_type: PIN_ACTIVITY.to_owned(),
                attempt: 1,
                arguments: vec![json_payload(&request)],
                start_to_close_timeout: duration(PIN_TIMEOUT),
                retry_policy: Some(policy),
                cancellation_type: sdk::ActivityCancellationType::WaitCancellationCompleted.into(),
                ..Default::default()
            }),
            "",
        )
    }

    /// The commands that record for lists what a run was pinned to in its first step; a
    /// run that came with its pins was started with them.
    pub fn show_pins(pins: &Pins) -> [sdk::WorkflowCommand; 2] {
        let attributes = sdk::UpsertWorkflowSearchAttributes {
            search_attributes: Some(pins.search_attributes()),
        };
        let memo = sdk::ModifyWorkflowProperties {
            upserted_memo: Some(sdk::Memo {
                fields: [(MEMO.to_owned(), pins.memo(None))].into(),
            }),
        };
        [
            command(
                sdk::CommandVariant::UpsertWorkflowSearchAttributes(attributes),
                "",
            ),
            command(sdk::CommandVariant::ModifyWorkflowProperties(memo), ""),
        ]
    }

    /// What its driver is made of, with this flow, this resolved input, and what the run
    /// before it carried, resolved as well.
    pub fn run_start(
        &self,
        pins: &Pins,
        flow: std::sync::Arc<Flow>,
        input: Payload,
        resume: Option<Payload>,
    ) -> RunStart {
        RunStart {
            namespace: self.namespace.clone(),
            workflow_id: self.workflow_id.clone(),
            run_id: self.run_id,
            started_at: self.started_at,
            definition: pins.definition(&self.workflow_type, flow),
            input,
            depth: self.header.depth,
            seed: pins.seed,
            limits: pins.limits,
            revision: pins.revision,
            answer_revision: pins.answer_revision,
            resume,
            detached_ends: true,
        }
    }

    /// Whether the run is to continue as new, which has a history of so many events.
    pub fn is_long(&self, events: u64) -> bool {
        let most = self.limits.map_or(u64::MAX, |limits| limits.history_events);
        let many = self.revision >= CONTINUES_WAITING && self.recorded_signals >= MANY_SIGNALS;
        events >= most || many
    }

    /// The run, as the API names it.
    pub fn reference(&self) -> RunRef {
        RunRef {
            namespace: self.namespace.clone(),
            workflow_id: self.workflow_id.clone(),
            run_id: Some(self.run_id),
        }
    }

    /// Its id.
    pub const fn run_id(&self) -> Uuid {
        self.run_id
    }

    /// Heyday's name of its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// The command by which a run fails.
pub fn fail(why: Failure) -> sdk::CommandVariant {
    sdk::CommandVariant::FailWorkflowExecution(sdk::FailWorkflowExecution {
        failure: Some(failure(why, None)),
    })
}

/// A command, with the task that gives it as its summary: Temporal's UI shows it.
pub fn command(variant: sdk::CommandVariant, task: &str) -> sdk::WorkflowCommand {
    // Its end says more than its beginning.
    let shown = &task[task.ceil_char_boundary(task.len().saturating_sub(TASK))..];
    let summary = (!shown.is_empty()).then(|| json_payload(&shown));
    sdk::WorkflowCommand {
        user_metadata: summary.map(|summary| sdk::UserMetadata {
            summary: Some(summary),
            details: None,
        }),
        variant: Some(variant),
        ..Default::default()
    }
}

/// A driver's id as core's number.
fn number(id: &str) -> Result<u32, Unexpected> {
    id.parse()
        .map_err(|_| Unexpected(format!("the id {id:?} is not a number that core takes")))
}

#[cfg(test)]
mod tests;
