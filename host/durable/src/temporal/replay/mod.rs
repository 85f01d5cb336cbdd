//! Replay of Temporal's histories, away from their cluster.
//!
//! Core's replay worker turns a history into activations and says whether the answers fit
//! it, as it does for a run that is not in memory: kind, id and type of each command. Its
//! word says no event and compares no values, so what is answered is compared with the
//! history here as well: the commands in their order with the events that record them.
//!
//! Core hangs on a few histories that it cannot finish, and panics on some that are none;
//! so a history is looked through first, and each wait has a limit.

mod commands;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::commands::{
    comparable, event_of, with_timeouts_filled_in, with_value_as_recorded, without_taken_back,
};
use super::activation::{Drive, Resets, Source, done, go_on};
use super::convert::{from_duration, from_payload};
use super::events::{Names, pins_of, read};
use super::history::reset_as;
use super::json::{read_event, write_event};
use super::pins::{Pins, WAITING_HEADER};
use super::run::{Run, outside};
use super::sdk;
use crate::definition::PinnedDefinition;
use crate::driver::{DriverError, REVISION};
use crate::embedded::convert::is_command;
use crate::embedded::events::Event;
use crate::embedded::pool::Pool;
use crate::expressions::Expressions;
use crate::payload::{BlobRef, PayloadStore, resolve};
use crate::replay::{About, Difference, HistoryError, ReplayError, Strictness};
use crate::trouble::Trouble;

/// Core answers from memory; one that says nothing for so long will not.
const SILENCE: Duration = Duration::from_secs(20);

/// Where a run is replayed that says no namespace: Temporal's histories do not.
const NAMESPACE: &str = "default";

/// A history of a run on a Temporal cluster.
#[derive(Debug)]
pub struct Recording {
    history: sdk::History,
    workflow_id: String,
    workflow_type: String,
    run_id: Uuid,
    queue: String,
    pins: Pins,
    /// The run's timeout, where it has one.
    timeout: Option<Duration>,
}

impl Recording {
    /// Reads the events of a file.
    pub fn read(events: Vec<Value>) -> Result<Self, HistoryError> {
        let events = events.into_iter().enumerate().map(|(index, event)| {
            read_event(event).map_err(|why| {
                HistoryError::Damaged(format!("event {} cannot be read: {why}", index + 1))
            })
        });
        Self::of(events.collect::<Result<_, _>>()?)
    }

    /// Looks events through.
    pub fn of(events: Vec<sdk::HistoryEvent>) -> Result<Self, HistoryError> {
        let damaged = |why: &str| HistoryError::Damaged(why.to_owned());
        for (index, event) in events.iter().enumerate() {
            let number = index + 1;
            if usize::try_from(event.event_id) != Ok(number) {
                return Err(HistoryError::Damaged(format!(
                    "event {number} has the number {}: some are missing, or in another order",
                    event.event_id
                )));
            }
            if event.attributes.is_none() {
                return Err(HistoryError::Damaged(format!(
                    "event {number} has no attributes"
                )));
            }
        }
        let Some(sdk::Attributes::WorkflowExecutionStartedEventAttributes(start)) =
            events.first().and_then(|event| event.attributes.clone())
        else {
            return Err(damaged("it does not begin with WorkflowExecutionStarted"));
        };
        let workflow_type = start.workflow_type.unwrap_or_default().name;
        let run_id = start.original_execution_run_id.parse::<Uuid>();
        let run_id = run_id.map_err(|_| damaged("its first event names no run"))?;
        // Its first event is that of an earlier run, where it was reset.
        let run_id = events.iter().rev().find_map(reset_as).unwrap_or(run_id);
        let pins = events
            .iter()
            .filter_map(|event| event.attributes.as_ref())
            .find_map(pins_of);
        let Some(pins) = pins else {
            return Err(HistoryError::NotOfAFlow { workflow_type });
        };
        let history = sdk::History { events };
        // What core would panic at.
        sdk::HistoryInfo::new_from_history(&history, None)
            .map_err(|error| damaged(&error.to_string()))?;
        Ok(Self {
            workflow_id: start.workflow_id,
            workflow_type,
            run_id,
            queue: start.task_queue.unwrap_or_default().name,
            pins,
            timeout: from_duration(start.workflow_run_timeout),
            history,
        })
    }

    /// What it says of itself.
    pub fn about(&self) -> About {
        let events = &self.history.events;
        let last = events.last().and_then(|event| event.attributes.as_ref());
        About {
            engine: "temporal",
            namespace: None,
            workflow_id: self.workflow_id.clone(),
            run_id: self.run_id,
            workflow_type: self.workflow_type.clone(),
            version: self.pins.version.clone(),
            digest: Some(self.pins.digest),
            revision: self.pins.revision,
            answer_revision: self.pins.answer_revision,
            events: events.len() as u64,
            ended: last.is_some_and(ends_run),
        }
    }

    /// As Temporal writes it.
    pub fn to_json(&self) -> Value {
        let events = self.history.events.iter();
        // Whatever came from a cluster can be written.
        let events: Vec<Value> = events
            .map(|event| write_event(event).unwrap_or_default())
            .collect();
        json!({ "events": events })
    }

    /// What the signals refer to that wait since an earlier run: one value has all of them,
    /// and its references stand inside of it.
    ///
    /// # Errors
    /// When that value is no longer stored, or the store cannot answer.
    pub async fn waiting(&self, store: &dyn PayloadStore) -> Result<Vec<BlobRef>, ReplayError> {
        let first = self.history.events.first();
        let Some(sdk::Attributes::WorkflowExecutionStartedEventAttributes(start)) =
            first.and_then(|first| first.attributes.as_ref())
        else {
            return Ok(Vec::new());
        };
        let header = start.header.as_ref();
        let Some(waiting) = header.and_then(|header| header.fields.get(WAITING_HEADER)) else {
            return Ok(Vec::new());
        };
        let waiting = resolve(store, from_payload(waiting.clone())).await;
        let waiting = waiting.map_err(Trouble::from)?;
        outside::stored(&waiting).map_err(|error| Trouble::from(error).into())
    }

    /// The runs that it was reset as.
    fn resets(&self) -> Vec<Uuid> {
        self.history.events.iter().filter_map(reset_as).collect()
    }

    /// The recorded commands, each with the number of its event.
    fn commands(&self) -> Vec<(u64, Event)> {
        let mut names = Names::default();
        let events = self.history.events.iter().cloned();
        events
            .filter_map(|event| {
                let shown = read(&mut names, event);
                let event = shown.event?;
                is_command(event.event_type())
                    .then(|| (shown.event_id, self.filled_in(comparable(event))))
            })
            .collect()
    }

    /// A command as the cluster would record it in this history.
    fn filled_in(&self, command: Event) -> Event {
        with_timeouts_filled_in(command, self.timeout)
    }

    /// Where its last completed workflow task stands.
    fn last_completed_task(&self) -> Option<usize> {
        self.history.events.iter().rposition(|event| {
            matches!(
                event.attributes,
                Some(sdk::Attributes::WorkflowTaskCompletedEventAttributes(_))
            )
        })
    }
}

fn ends_run(attributes: &sdk::Attributes) -> bool {
    use sdk::Attributes as A;
    matches!(
        attributes,
        A::WorkflowExecutionCompletedEventAttributes(_)
            | A::WorkflowExecutionFailedEventAttributes(_)
            | A::WorkflowExecutionCanceledEventAttributes(_)
            | A::WorkflowExecutionTerminatedEventAttributes(_)
            | A::WorkflowExecutionTimedOutEventAttributes(_)
            | A::WorkflowExecutionContinuedAsNewEventAttributes(_)
    )
}

/// The first difference between a history and what a definition commands.
pub async fn replay(
    recording: &Arc<Recording>,
    definition: &PinnedDefinition,
    strictness: Strictness,
    expressions: &Arc<dyn Expressions>,
    payloads: &Arc<dyn PayloadStore>,
    pool: &Arc<Pool>,
) -> Result<Option<Difference>, ReplayError> {
    if recording.pins.revision > REVISION {
        let newer = DriverError::UnknownRevision {
            recorded: recording.pins.revision,
        };
        return Err(ReplayError::Unusable(newer.to_string()));
    }
    // Nothing was commanded yet, and core would wait for more.
    if recording.last_completed_task().is_none() {
        return Ok(None);
    }
    let (expressions, payloads) = (Arc::clone(expressions), Arc::clone(payloads));
    let (recording, pool) = (Arc::clone(recording), Arc::clone(pool));
    let definition = definition.clone();
    let stop = CancellationToken::new();
    let given_up = stop.clone().drop_guard();
    // On a task of its own: core's worker is taken to its end also when nobody waits.
    let replaying = tokio::spawn(async move {
        let resets = recording.resets();
        let driving = Drive {
            resets: Resets::Given(&resets),
            definitions: Source::Given(&definition),
            expressions: &expressions,
            payloads: payloads.as_ref(),
            pool: &pool,
        };
        let replayed = Replay::new(&recording).run(driving, &stop).await?;
        replayed.verdict(&recording, strictness)
    });
    let verdict = replaying
        .await
        .map_err(|error| ReplayError::Unusable(format!("it cannot be replayed: {error}")))?;
    drop(given_up);
    verdict
}

/// What came of a replay.
#[derive(Default)]
struct Replayed {
    /// What was commanded, by the length of the history that was known by then.
    commands: BTreeMap<u32, Vec<Event>>,
    /// What core says, where the answers do not fit the history.
    nondeterminism: Option<String>,
    /// What the definition could not take, and the event by which it had come.
    unexpected: Option<(u32, String)>,
}

impl Replayed {
    fn verdict(
        self,
        recording: &Recording,
        strictness: Strictness,
    ) -> Result<Option<Difference>, ReplayError> {
        let commands = self.commands.into_values().flat_map(without_taken_back);
        let mut recorded = recording.commands().into_iter();
        let mut at = 0;
        for expected in commands {
            let expected = recording.filled_in(expected);
            let difference = match recorded.next() {
                Some((event_id, event)) => {
                    at = event_id;
                    let expected = with_value_as_recorded(expected, &event);
                    Difference::between(event_id, &event, &expected, strictness)
                }
                // What is not recorded yet, of a run whose task was not completed.
                None if recording.is_within_a_task() => None,
                None => {
                    let last = recording.history.events.len() as u64;
                    Some(Difference::unrecorded(last, &expected))
                }
            };
            if difference.is_some() {
                return Ok(difference);
            }
        }
        if let Some((length, why)) = self.unexpected {
            return Ok(Some(Difference::unexpected(u64::from(length), &why)));
        }
        if let Some(message) = self.nondeterminism {
            return Ok(Some(match recorded.next() {
                Some((event_id, event)) => Difference::uncommanded(event_id, &event),
                None => Difference::unexpected(at, &message),
            }));
        }
        let left = recorded.next();
        Ok(left.map(|(event_id, event)| Difference::uncommanded(event_id, &event)))
    }
}

impl Recording {
    /// Whether a workflow task is due or under way: core replays what came before it, too.
    fn is_within_a_task(&self) -> bool {
        let completed = self.last_completed_task().unwrap_or_default();
        self.history.events[completed..].iter().any(|event| {
            matches!(
                event.attributes,
                Some(
                    sdk::Attributes::WorkflowTaskScheduledEventAttributes(_)
                        | sdk::Attributes::WorkflowTaskStartedEventAttributes(_)
                )
            )
        })
    }
}

/// A replay under way.
struct Replay<'r> {
    recording: &'r Recording,
    run: Option<Run>,
    replayed: Replayed,
    error: Option<ReplayError>,
}

impl<'r> Replay<'r> {
    fn new(recording: &'r Recording) -> Self {
        Self {
            recording,
            run: None,
            replayed: Replayed::default(),
            error: None,
        }
    }

    /// Lets core replay the history, to the worker's end.
    async fn run(
        mut self,
        driving: Drive<'_>,
        stop: &CancellationToken,
    ) -> Result<Replayed, ReplayError> {
        let worker = self.worker()?;
        let (mut quiet, mut ended) = (false, false);
        loop {
            let polled = tokio::select! {
                polled = worker.poll_workflow_activation() => polled,
                () = stop.cancelled(), if !quiet => {
                    quiet = true;
                    self.fail("nobody waits for the replay".to_owned());
                    worker.initiate_shutdown();
                    continue;
                }
                () = tokio::time::sleep(SILENCE) => {
                    if quiet {
                        tracing::warn!("a replay did not end, and is left");
                        break;
                    }
                    quiet = true;
                    self.error.get_or_insert(ReplayError::Unusable(
                        "it waits for something that the history does not have".to_owned(),
                    ));
                    worker.initiate_shutdown();
                    continue;
                }
            };
            let activation = match polled {
                Ok(activation) => activation,
                Err(sdk::PollError::ShutDown) => {
                    ended = true;
                    break;
                }
                Err(error) => {
                    self.fail(error.to_string());
                    worker.initiate_shutdown();
                    continue;
                }
            };
            let completion = self.answer(driving, activation).await;
            if let Err(error) = worker.complete_workflow_activation(completion).await {
                self.fail(error.to_string());
                worker.initiate_shutdown();
            }
        }
        if ended {
            worker.finalize_shutdown().await;
        }
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.replayed),
        }
    }

    fn fail(&mut self, why: String) {
        self.error.get_or_insert(ReplayError::Unavailable(why));
    }

    fn worker(&self) -> Result<sdk::Worker, ReplayError> {
        let unavailable = |error: String| ReplayError::Unavailable(error);
        let config = sdk::WorkerConfig::builder()
            .namespace(NAMESPACE)
            .task_queue(self.recording.queue.as_str())
            .task_types(sdk::WorkerTaskTypes::workflow_only())
            .versioning_strategy(sdk::WorkerVersioningStrategy::None {
                build_id: concat!("heyday-", env!("CARGO_PKG_VERSION")).to_owned(),
            })
            .build()
            .map_err(unavailable)?;
        let history = sdk::HistoryForReplay::new(
            self.recording.history.clone(),
            self.recording.workflow_id.as_str(),
        );
        let histories = stream::iter([history]);
        sdk::init_replay_worker(sdk::ReplayWorkerInput::new(config, histories))
            .map_err(|error| unavailable(format!("{error:#}")))
    }

    async fn answer(
        &mut self,
        driving: Drive<'_>,
        mut activation: sdk::WorkflowActivation,
    ) -> sdk::WorkflowActivationCompletion {
        // Core calls it by the name that its first event has.
        let own = self.recording.run_id.to_string();
        let run_id = std::mem::replace(&mut activation.run_id, own);
        for job in &activation.jobs {
            if let Some(sdk::Job::RemoveFromCache(why)) = &job.variant {
                self.evicted(why.reason(), &why.message);
                return sdk::WorkflowActivationCompletion::empty(run_id);
            }
        }
        let length = activation.history_length;
        let namespaces = (NAMESPACE, NAMESPACE);
        let known = self.run.take();
        let had_begun = known.as_ref().is_some_and(|run| run.started);
        match go_on(
            driving,
            known,
            namespaces,
            &self.recording.queue,
            activation,
        )
        .await
        {
            Ok((run, commands)) => {
                self.run = Some(run);
                let events = commands.iter().cloned().filter_map(event_of);
                self.replayed
                    .commands
                    .entry(length)
                    .or_default()
                    .extend(events);
                done(run_id, commands)
            }
            Err(trouble) => {
                let why = trouble.to_string();
                match trouble {
                    Trouble::Later(_) => self.fail(why.clone()),
                    Trouble::Hold(_) if had_begun => {
                        self.replayed
                            .unexpected
                            .get_or_insert((length, why.clone()));
                    }
                    Trouble::Hold(_) | Trouble::Gone(_) => {
                        self.error.get_or_insert(ReplayError::Unusable(why.clone()));
                    }
                }
                let failure =
                    crate::failure::Failure::permanent(crate::failure::kind::INTERNAL, why);
                sdk::WorkflowActivationCompletion::fail(
                    run_id,
                    super::convert::failure(failure, None),
                    Some(sdk::WorkflowTaskFailedCause::NonDeterministicError),
                )
            }
        }
    }

    /// Core lets the run go: at the end of its history, or because it does not fit.
    fn evicted(&mut self, reason: sdk::EvictionReason, message: &str) {
        use sdk::EvictionReason as R;
        match reason {
            R::LangRequested | R::LangFail | R::WorkflowExecutionEnding => {}
            R::Nondeterminism => {
                self.replayed
                    .nondeterminism
                    .get_or_insert_with(|| message.to_owned());
            }
            other => {
                let why = format!("core gave it up ({}): {message}", other.as_str_name());
                self.error.get_or_insert(ReplayError::Unusable(why));
            }
        }
    }
}

#[cfg(test)]
mod tests;
