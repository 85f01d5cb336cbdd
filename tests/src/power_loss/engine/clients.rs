//! Clients of the engine that remember all that it told them.
//!
//! A client notes an answer before it does anything else, so that whatever the engine
//! acknowledged is remembered. What it asked and was not told about may have happened
//! or not: a start is repeated with its idempotency key after the loss.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use heyday_durable::embedded::EmbeddedEngine;
use heyday_durable::engine::{
    Engine as _, EngineError, HistoryEvent, IdConflictPolicy, IdReusePolicy, RunRef, RunResult,
    StartWorkflow,
};
use heyday_durable::payload::Payload;
use heyday_durable::signal::Signal;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use uuid::Uuid;

use super::LIMIT;
use super::world::{PATIENT, STEPS, World};
use crate::power_loss::disk::Power;

/// Clients at once.
const CLIENTS: usize = 6;
/// Runs that each starts before it stops, should the power last so long.
const RUNS: usize = 6;

/// What was acknowledged of a run.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its id.
    pub run_id: Uuid,
    /// Whether it is [`PATIENT`].
    pub patient: bool,
    /// Whether a signal to it was.
    pub signaled: bool,
    /// Whether the answer of an update of it was.
    pub updated: bool,
    /// Whether its cancel was.
    pub cancelled: bool,
    /// Whether its termination was.
    pub terminated: bool,
    /// How it ended.
    pub result: Option<RunResult>,
    /// The beginning of its history, timers and all.
    pub events: Vec<HistoryEvent>,
}

/// What was asked and acknowledged, over all rounds.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    known: BTreeMap<String, Known>,
    /// Starts without an answer: whether they are patient, and when they were last asked
    /// for.
    asked: BTreeMap<String, (bool, Power)>,
    last: u64,
}

impl Progress {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that was acknowledged, by workflow id.
    pub fn known(&self) -> BTreeMap<String, Known> {
        self.noted().known.clone()
    }

    fn note(&self, workflow_id: &str, note: impl FnOnce(&mut Known)) {
        note(self.noted().known.get_mut(workflow_id).unwrap());
    }

    /// A start to ask for: one that had no answer before the last loss, or a new one.
    fn ask(&self, patient: bool, power: Power) -> (String, bool) {
        let mut noted = self.noted();
        let unanswered = noted.asked.iter_mut().find(|(_, (_, last))| *last != power);
        if let Some((workflow_id, (patient, last))) = unanswered {
            *last = power;
            return (workflow_id.clone(), *patient);
        }
        noted.last += 1;
        let workflow_id = format!("run-{}", noted.last);
        noted.asked.insert(workflow_id.clone(), (patient, power));
        (workflow_id, patient)
    }
}

/// Names a run.
pub fn reference(workflow_id: &str, run_id: Option<Uuid>) -> RunRef {
    RunRef {
        namespace: "default".to_owned(),
        workflow_id: workflow_id.to_owned(),
        run_id,
    }
}

/// The id of the signal that a run is sent.
pub fn signal_id(workflow_id: &str) -> String {
    format!("signal of {workflow_id}")
}

/// The id of the update that a run is sent.
pub fn update_id(workflow_id: &str) -> String {
    format!("update of {workflow_id}")
}

/// Whether an update was answered with what it brought, its run's workflow id.
pub fn confirms(answer: &Payload, workflow_id: &str) -> bool {
    answer.to_json().is_ok_and(|answer| answer == workflow_id)
}

/// Why a client stopped.
pub enum Stop {
    /// The engine could not answer; fine where the power has failed.
    Refused(String),
    /// It answered what it must not, power or not.
    Wrong(String),
}

impl Stop {
    /// What is wrong, given whether the power has failed.
    pub fn judge(self, power_failed: bool) -> Result<(), String> {
        match self {
            Self::Refused(_) if power_failed => Ok(()),
            Self::Refused(what) | Self::Wrong(what) => Err(what),
        }
    }
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        let what = format!("{error} ({error:?})");
        match error {
            EngineError::Unavailable { .. }
            | EngineError::ShuttingDown
            | EngineError::Internal(_) => Self::Refused(what),
            _ => Self::Wrong(what),
        }
    }
}

/// Clients of one engine.
#[derive(Clone)]
pub struct Clients {
    /// The engine.
    pub engine: Arc<EmbeddedEngine>,
    /// What is outside the disk.
    pub world: Arc<World>,
    /// What they remember.
    pub progress: Arc<Progress>,
    /// The power that is on.
    pub power: Power,
    /// Bytes of input of the runs that they start.
    pub input: usize,
}

impl Clients {
    /// Lets clients work until the power fails.
    pub async fn until_loss(&self, random: &mut SmallRng) -> Result<(), String> {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let client = self.clone();
            let mut random = SmallRng::seed_from_u64(random.random());
            clients.spawn(async move {
                for _ in 0..RUNS {
                    client.one(&mut random).await?;
                }
                Ok::<(), Stop>(())
            });
        }
        let mut losses = self.world.disk.losses();
        loop {
            let ended = tokio::select! {
                lost = losses.wait_for(|number| *number > self.power.number()) => {
                    lost.map_err(|error| error.to_string())?;
                    clients.shutdown().await;
                    return Ok(());
                }
                ended = clients.join_next() => ended,
            };
            match ended {
                None => self.world.disk.power_loss(random.random()),
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(stop))) => stop.judge(self.world.disk.power() != self.power)?,
                Some(Err(error)) => return Err(format!("a client panicked: {error}")),
            }
        }
    }

    /// One run, from its start to its end.
    async fn one(&self, random: &mut SmallRng) -> Result<(), Stop> {
        let patient = random.random_range(0..3) == 0;
        let (workflow_id, patient) = self.progress.ask(patient, self.power);
        let started = self
            .engine
            .start(self.request(&workflow_id, patient))
            .await?;
        {
            let mut noted = self.progress.noted();
            noted.asked.remove(&workflow_id);
            noted.known.insert(
                workflow_id.clone(),
                Known {
                    run_id: started.run_id,
                    patient,
                    signaled: false,
                    updated: false,
                    cancelled: false,
                    terminated: false,
                    result: None,
                    events: Vec::new(),
                },
            );
        }
        let run = reference(&workflow_id, Some(started.run_id));
        if random.random() {
            self.repeat(random).await?;
        }
        if patient {
            self.signal(&run).await?;
            if random.random() {
                // In the middle of the wait, where it takes an update as well.
                self.follow(&run, Some("TimerStarted")).await?;
                self.update(&run).await?;
            }
            self.interrupt(&run, random).await?;
        }
        if random.random() {
            self.follow(&run, None).await?;
        }
        let result =
            self.engine.result(&run, LIMIT).await?.ok_or_else(|| {
                Stop::Refused(format!("{workflow_id} has not ended after {LIMIT:?}"))
            })?;
        self.world.ended(started.run_id, self.power);
        self.progress
            .note(&workflow_id, |known| known.result = Some(result));
        Ok(())
    }

    /// A start of [`STEPS`] or [`PATIENT`].
    pub fn request(&self, workflow_id: &str, patient: bool) -> StartWorkflow {
        StartWorkflow {
            namespace: "default".to_owned(),
            workflow_id: workflow_id.to_owned(),
            definition: self.world.pinned(if patient { PATIENT } else { STEPS }),
            task_queue: None,
            input: Payload::json(&"x".repeat(self.input).into()),
            id_reuse_policy: IdReusePolicy::RejectDuplicate,
            id_conflict_policy: IdConflictPolicy::Fail,
            idempotency_key: Some(format!("key of {workflow_id}")),
            memo: BTreeMap::new(),
            search_attributes: BTreeMap::new(),
            traceparent: None,
            signal: None,
        }
    }

    /// Repeats a start that was acknowledged, perhaps long ago, and the update of its run:
    /// its key answers the same run, its id the same answer.
    async fn repeat(&self, random: &mut SmallRng) -> Result<(), Stop> {
        let chosen = {
            let noted = self.progress.noted();
            let chosen = random.random_range(0..noted.known.len());
            let chosen = noted.known.iter().nth(chosen);
            chosen.map(|(id, known)| (id.clone(), known.clone()))
        };
        let Some((workflow_id, known)) = chosen else {
            return Ok(());
        };
        let again = self
            .engine
            .start(self.request(&workflow_id, known.patient))
            .await?;
        if again.created || again.run_id != known.run_id {
            return Err(Stop::Wrong(format!("{workflow_id} was started twice")));
        }
        if known.updated {
            let run = reference(&workflow_id, Some(known.run_id));
            if !self.confirm(&run).await? {
                return Err(Stop::Wrong(format!(
                    "{workflow_id} has forgotten its update"
                )));
            }
        }
        Ok(())
    }

    /// Sends a signal, perhaps once more after the one that had no answer.
    async fn signal(&self, run: &RunRef) -> Result<(), Stop> {
        let signal = Signal::new("note", signal_id(&run.workflow_id), Payload::null());
        match self.engine.signal(run, signal).await {
            // A start that was repeated: the client of before had already interrupted it.
            Err(EngineError::Closed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => {
                self.progress
                    .note(&run.workflow_id, |known| known.signaled = true);
                Ok(())
            }
        }
    }

    /// Sends an update, which the run takes while it waits.
    async fn update(&self, run: &RunRef) -> Result<(), Stop> {
        if self.confirm(run).await? {
            self.progress
                .note(&run.workflow_id, |known| known.updated = true);
        }
        Ok(())
    }

    /// Sends a run its update, or asks for it again, and checks the answer. Answers whether
    /// there is one: not where the run ended before.
    async fn confirm(&self, run: &RunRef) -> Result<bool, Stop> {
        let workflow_id = &run.workflow_id;
        let data = Payload::json(&workflow_id.as_str().into());
        let update = Signal::new("confirm", update_id(workflow_id), data);
        match self.engine.update(run, update, LIMIT).await {
            // A start that was repeated: the client of before had already interrupted it.
            Err(EngineError::Closed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
            Ok(status) => match status.outcome {
                Some(Ok(answer)) if confirms(&answer, workflow_id) => Ok(true),
                None => Err(Stop::Refused(format!(
                    "{workflow_id} has not answered its update after {LIMIT:?}"
                ))),
                other => Err(Stop::Wrong(format!(
                    "{workflow_id} answered its update {other:?}"
                ))),
            },
        }
    }

    /// Cancels or terminates.
    async fn interrupt(&self, run: &RunRef, random: &mut SmallRng) -> Result<(), Stop> {
        let terminate = random.random_range(0..3) == 0;
        let asked = if terminate {
            self.engine.terminate(run, "the test").await
        } else {
            self.engine.cancel(run, "the test").await
        };
        match asked {
            // A start that was repeated: the client of before had already interrupted it.
            Err(EngineError::Closed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => {
                self.progress.note(&run.workflow_id, |known| {
                    known.terminated |= terminate;
                    known.cancelled |= !terminate;
                });
                Ok(())
            }
        }
    }

    /// Reads the history as it grows, to its end or to the first event of a type.
    async fn follow(&self, run: &RunRef, until: Option<&str>) -> Result<(), Stop> {
        loop {
            let mut after = 0;
            self.progress.note(&run.workflow_id, |known| {
                after = known.events.last().map_or(0, |event| event.event_id);
            });
            let page = self
                .engine
                .history(run, after, 5, Duration::from_secs(1))
                .await?;
            let found = page
                .events
                .iter()
                .any(|event| until == Some(event.event_type.as_str()));
            self.progress
                .note(&run.workflow_id, |known| known.events.extend(page.events));
            if found || page.complete {
                return Ok(());
            }
        }
    }
}
