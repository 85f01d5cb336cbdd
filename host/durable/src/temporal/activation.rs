//! Workflow tasks: activations of runs, of any workflow type.
//!
//! One task polls; each activation is answered by a task of its own, since that may wait
//! for the payload store, an activation thread, or the server. A run has at most one
//! activation at a time. What could not be done fails the workflow task: Temporal shows
//! why, and gives it again later.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use futures::future::join_all;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::convert::{failure, maybe_timestamp};
use super::core::Core;
use super::history;
use super::queries;
use super::run::outside::Outside;
use super::run::{Run, Stage, Unexpected, command, fail};
use super::sdk;
use crate::activity::CancelReason;
use crate::definition::{Definitions, PinnedDefinition};
use crate::driver::{Activation, Command, Driver, DriverError, Resolution};
use crate::embedded::{lock, pool::Pool};
use crate::engine::RunRef;
use crate::expressions::Expressions;
use crate::failure::{Failure, kind};
use crate::payload::{Payload, PayloadStore, Referred, resolve};
use crate::replay::pinned_again;
use crate::trouble::Trouble;

/// Values that are on their way to the payload store at once.
const STORED_AT_ONCE: usize = 16;

/// Why a run did not go on where the host panicked. The panic's message may name what a
/// client must not see.
const PANICKED: &str = "the host failed while it went on with the run; its log has the cause";

/// The runs of one worker that are in memory, by run id. Core says which may stay.
type Runs = Arc<Mutex<HashMap<String, Run>>>;

impl From<Unexpected> for Trouble {
    fn from(error: Unexpected) -> Self {
        Self::Hold(error.to_string())
    }
}

/// Polls a worker's activations until it is shut down; says where core gives it up.
pub async fn serve(
    core: Arc<Core>,
    worker: Arc<sdk::Worker>,
    namespace: Arc<str>,
    given_up: CancellationToken,
) {
    let runs = Runs::default();
    let mut answers = JoinSet::new();
    loop {
        let activation = match worker.poll_workflow_activation().await {
            Ok(activation) => activation,
            Err(sdk::PollError::ShutDown) => break,
            Err(error) => {
                // The worker polls the server by itself and tries again by itself; what
                // comes here it cannot go on from.
                tracing::error!(%error, "workflow tasks are no longer polled");
                given_up.cancel();
                // It ends only where it is polled to its end.
                continue;
            }
        };
        let (core, worker) = (Arc::clone(&core), Arc::clone(&worker));
        let (runs, namespace) = (Arc::clone(&runs), Arc::clone(&namespace));
        answers.spawn(async move {
            let run_id = activation.run_id.clone();
            let answered = answer(&core, &runs, &namespace, &worker, activation);
            let answered = AssertUnwindSafe(answered).catch_unwind().await;
            // Without an answer core would give out nothing more of the run.
            let completion = answered.unwrap_or_else(|_| failed(run_id.clone(), PANICKED));
            let cancelled = cancelled(&completion);
            match worker.complete_workflow_activation(completion).await {
                Ok(()) => {
                    // What runs in this process need not wait for its next heartbeat.
                    for activity_id in cancelled {
                        core.stop_attempt(&run_id, &activity_id, CancelReason::Requested);
                    }
                }
                Err(error) => tracing::error!(%error, "an activation's answer was refused"),
            }
        });
        while answers.try_join_next().is_some() {}
    }
    while answers.join_next().await.is_some() {}
}

/// The activities that are asked to stop.
fn cancelled(completion: &sdk::WorkflowActivationCompletion) -> Vec<String> {
    let Some(sdk::ActivationStatus::Successful(done)) = &completion.status else {
        return Vec::new();
    };
    let commands = done.commands.iter();
    commands
        .filter_map(|command| match &command.variant {
            Some(sdk::CommandVariant::RequestCancelActivity(cancel)) => {
                Some(cancel.seq.to_string())
            }
            _ => None,
        })
        .collect()
}

async fn answer(
    core: &Arc<Core>,
    runs: &Runs,
    namespace: &str,
    worker: &sdk::Worker,
    activation: sdk::WorkflowActivation,
) -> sdk::WorkflowActivationCompletion {
    let run_id = activation.run_id.clone();
    let evicted = activation.jobs.iter().find_map(|job| match &job.variant {
        Some(sdk::Job::RemoveFromCache(why)) => Some(why.message.clone()),
        _ => None,
    });
    if let Some(message) = evicted {
        // It always comes alone, and must be answered as well.
        tracing::debug!(run_id, message, "a run leaves memory");
        lock(runs).remove(&run_id);
        return sdk::WorkflowActivationCompletion::empty(run_id);
    }
    let known = lock(runs).remove(&run_id);
    let config = worker.get_config();
    let namespaces = (namespace, config.namespace.as_str());
    match activate(core, known, namespaces, &config.task_queue, activation).await {
        Ok((run, commands)) => {
            // Before the answer: the next activation may come at once.
            lock(runs).insert(run_id.clone(), run);
            done(run_id, commands)
        }
        Err(trouble) => {
            tracing::warn!(run_id, error = %trouble, "a run could not go on; its workflow task fails");
            match trouble {
                Trouble::Later(message) => failed(run_id, message),
                Trouble::Hold(message) | Trouble::Gone(message) => {
                    let why = failure(Failure::permanent(kind::INTERNAL, message), None);
                    let cause = sdk::WorkflowTaskFailedCause::NonDeterministicError;
                    sdk::WorkflowActivationCompletion::fail(run_id, why, Some(cause))
                }
            }
        }
    }
}

/// That a workflow task failed, which may do the next time.
fn failed(run_id: String, message: impl Into<String>) -> sdk::WorkflowActivationCompletion {
    let why = failure(Failure::transient(kind::INTERNAL, message), None);
    let cause = sdk::WorkflowTaskFailedCause::WorkflowWorkerUnhandledFailure;
    sdk::WorkflowActivationCompletion::fail(run_id, why, Some(cause))
}

/// The answer to an activation that led to these commands.
pub fn done(
    run_id: String,
    commands: Vec<sdk::WorkflowCommand>,
) -> sdk::WorkflowActivationCompletion {
    let status = sdk::ActivationStatus::Successful(sdk::ActivationDone {
        commands,
        ..Default::default()
    });
    sdk::WorkflowActivationCompletion {
        run_id,
        status: Some(status),
        ..Default::default()
    }
}

/// What drives runs: a worker's, or a replay's.
#[derive(Clone, Copy)]
pub struct Drive<'c> {
    /// Where definitions come from.
    pub definitions: Source<'c>,
    /// Evaluates expressions.
    pub expressions: &'c Arc<dyn Expressions>,
    /// Keeps large values.
    pub payloads: &'c dyn PayloadStore,
    /// Runs activations.
    pub pool: &'c Pool,
    /// Who knows as which runs one was reset.
    pub resets: Resets<'c>,
}

/// Who knows as which runs one was reset. Core says only that it was.
#[derive(Clone, Copy)]
pub enum Resets<'c> {
    /// The cluster.
    Cluster(&'c Core),
    /// These are they.
    Given(&'c [Uuid]),
}

impl Resets<'_> {
    /// Those of that run, in their order.
    async fn of(self, run: &RunRef) -> Result<VecDeque<Uuid>, Trouble> {
        match self {
            Self::Given(resets) => Ok(resets.to_vec().into()),
            Self::Cluster(core) => match history::resets(core, run).await {
                Ok(resets) => Ok(resets.into()),
                Err(error) => Err(Trouble::Later(format!(
                    "where the run was reset cannot be read: {error}"
                ))),
            },
        }
    }
}

/// Where definitions come from.
#[derive(Clone, Copy)]
pub enum Source<'c> {
    /// A run's own, by its digest.
    Known(&'c dyn Definitions),
    /// This one, whichever the run is pinned to.
    Given(&'c PinnedDefinition),
}

/// Lets a run answer its jobs.
async fn activate(
    core: &Arc<Core>,
    known: Option<Run>,
    namespaces: (&str, &str),
    queue: &str,
    activation: sdk::WorkflowActivation,
) -> Result<(Run, Vec<sdk::WorkflowCommand>), Trouble> {
    let drive = Drive {
        definitions: Source::Known(core.host.definitions.as_ref()),
        expressions: &core.host.expressions,
        payloads: core.host.payloads.as_ref(),
        pool: &core.pool,
        resets: Resets::Cluster(core),
    };
    let (mut run, mut commands) = go_on(drive, known, namespaces, queue, activation).await?;
    commands.extend(queries::answers(core, &mut run).await?);
    Ok((run, commands))
}

/// Lets a run answer its jobs, but for what is asked of it.
pub async fn go_on(
    driving: Drive<'_>,
    mut known: Option<Run>,
    namespaces: (&str, &str),
    queue: &str,
    activation: sdk::WorkflowActivation,
) -> Result<(Run, Vec<sdk::WorkflowCommand>), Trouble> {
    let now = maybe_timestamp(activation.timestamp);
    let length = (
        activation.continue_as_new_suggested,
        u64::from(activation.history_length),
    );
    if let Some(run) = &mut known {
        run.task_size.enter(activation.history_length);
    }
    for job in activation.jobs.into_iter().filter_map(|job| job.variant) {
        match (job, &mut known) {
            (sdk::Job::InitializeWorkflow(start), known) => {
                let mut begun = Run::begin(namespaces, queue, &activation.run_id, start)?;
                begun.task_size.enter(activation.history_length);
                *known = Some(begun);
            }
            (job, Some(run)) => {
                if matches!(job, sdk::Job::UpdateRandomSeed(_)) && run.resets.is_none() {
                    run.resets = Some(driving.resets.of(&run.reference()).await?);
                }
                run.take(job)?;
            }
            (job, None) => {
                return Err(Trouble::Hold(format!(
                    "a run that is not in memory was given {job:?}"
                )));
            }
        }
    }
    let mut run = known.ok_or_else(|| Trouble::Hold("an activation without a job".to_owned()))?;
    let mut commands = Vec::new();
    if matches!(run.stage, Stage::Begun) {
        commands.push(run.ask_for_pins());
    }
    if let Stage::Failing(why) = &run.stage {
        commands.push(command(fail(why.clone()), ""));
        run.stage = Stage::Over;
        run.settle(Vec::new());
    }
    if matches!(run.stage, Stage::Pinned(_)) {
        commands.extend(gather(driving, &mut run).await?);
    }
    if let Some(now) = now {
        // All stands in the history, as the workflow task began: the same on replay.
        let suggested = length.0 || run.is_long(length.1);
        commands.extend(drive(driving, &mut run, now, suggested).await?);
    }
    // Nothing may follow a terminal command.
    commands.splice(0..0, run.take_answers());
    Ok((run, commands))
}

/// Gathers what the driver of a run is made of whose pins are known. Answers what shows
/// them, where the run was not started with them.
async fn gather(driving: Drive<'_>, run: &mut Run) -> Result<Vec<sdk::WorkflowCommand>, Trouble> {
    let Stage::Pinned(pins) = std::mem::replace(&mut run.stage, Stage::Over) else {
        return Ok(Vec::new());
    };
    let input = resolve(driving.payloads, run.input.clone()).await?;
    let resume = match run.resume.clone() {
        Some(resume) => Some(resolve(driving.payloads, resume).await?),
        None => None,
    };
    let waiting = match run.waiting.take() {
        Some(waiting) => Some(resolve(driving.payloads, waiting).await?),
        None => None,
    };
    run.take_over(Outside::new(&pins, waiting.as_ref())?);
    run.revision = pins.revision;
    run.limits = Some(pins.limits);
    let start = match driving.definitions {
        Source::Known(definitions) => {
            let flow = definitions
                .load(run.namespace(), &pins.digest)
                .await
                .map_err(Trouble::unloadable)?;
            run.run_start(&pins, flow, input, resume)
        }
        Source::Given(definition) => {
            let mut start = run.run_start(&pins, Arc::clone(&definition.flow), input, resume);
            start.definition = pinned_again(pins.digest, pins.activities.clone(), definition);
            start
        }
    };
    run.next_pins = Some(pins.next(driving.expressions.digest()));
    run.stage = Stage::Ready(Box::new(start));
    Ok(if run.was_pinned_here {
        Run::show_pins(&pins).into()
    } else {
        Vec::new()
    })
}

/// Gives the driver what resolved, if it waits for something. A run that has none gets one
/// on the same thread: to change threads takes longer than to make it.
async fn drive(
    driving: Drive<'_>,
    run: &mut Run,
    now: jiff::Timestamp,
    continue_as_new_suggested: bool,
) -> Result<Vec<sdk::WorkflowCommand>, Trouble> {
    let due = match run.stage {
        Stage::Ready(_) => true,
        Stage::Running(_) => !run.started || !run.resolutions.is_empty(),
        _ => false,
    };
    if !due {
        return Ok(Vec::new());
    }
    let mut resolutions = std::mem::take(&mut run.resolutions);
    let payloads = driving.payloads;
    for payload in resolutions.iter_mut().filter_map(Resolution::payload_mut) {
        let reference: Payload = std::mem::take(payload);
        *payload = resolve(payloads, reference).await?;
    }
    // They are in the history, and so come again on replay.
    let is_signal = |one: &Resolution| matches!(one, Resolution::Signal(_));
    let signals_came = resolutions.iter().any(is_signal);
    let stage = std::mem::replace(&mut run.stage, Stage::Over);
    let expressions = Arc::clone(driving.expressions);
    run.started = true;
    let mut outside = std::mem::take(&mut run.outside);
    let activated = on_thread(driving.pool, move || {
        let mut driver = match stage {
            Stage::Running(driver) => driver,
            Stage::Ready(start) => Box::new(Driver::new(*start, &expressions)?),
            _ => return Err(DriverError::Unexpected("the run has no driver".to_owned())),
        };
        let resolutions = outside.hold_back(driver.waiting_bytes(), now, resolutions);
        let answered = driver.activate(Activation {
            now,
            resolutions,
            continue_as_new_suggested,
        })?;
        Ok((driver, answered, outside))
    });
    let (mut driver, mut answered, mut outside) = activated.await??;
    // Nearly always none waits there, and then nobody need know what tasks listen for.
    while !outside.is_empty() && !answered.last().is_some_and(Command::is_terminal) {
        let Some(mut signal) = outside.next(driver.waiting_bytes(), &driver.listening()) else {
            break;
        };
        signal.data = resolve(payloads, signal.data).await?;
        let activated = on_thread(driving.pool, move || {
            let more = driver.activate(Activation {
                now,
                resolutions: vec![Resolution::Signal(Box::new(signal))],
                continue_as_new_suggested,
            })?;
            Ok::<_, DriverError>((driver, more))
        });
        let (back, more) = activated.await??;
        driver = back;
        answered.extend(more);
    }
    let ends = answered.last().is_some_and(Command::is_terminal);
    if signals_came && !ends && continue_as_new_suggested && outside.may_go_on() {
        // Nothing resolves by what waits outside, nor does a run continue by what it begins
        // with; and if it is at rest, nothing may ever come again.
        let moved = on_thread(driving.pool, move || {
            let more = driver.move_on()?;
            Ok::<_, DriverError>((driver, more))
        });
        let (back, more) = moved.await??;
        driver = back;
        answered.extend(more);
    }
    run.outside = outside;
    run.entered.extend(driver.take_entered());
    // The history has the signals; which of them were taken it cannot say.
    driver.take_consumed();
    run.continued = matches!(answered.last(), Some(Command::ContinueAsNew { .. }));
    run.settle(driver.take_verdicts());
    run.stage = Stage::Running(driver);
    run.look_ahead(&answered);
    let mut stored: Vec<Referred> = Vec::new();
    let mut commands = answered
        .into_iter()
        .map(|command| run.command(command, &mut stored))
        .collect::<Result<Vec<_>, _>>()?;
    run.show_tasks(&mut commands);
    store(payloads, &stored).await?;
    Ok(run.within(commands))
}

/// Stores values, some at once: a run may carry thousands of signals over, and its workflow
/// task has ten seconds.
async fn store(payloads: &dyn PayloadStore, values: &[Referred]) -> Result<(), Trouble> {
    for some in values.chunks(STORED_AT_ONCE) {
        let puts: Vec<_> = some
            .iter()
            .map(|(_, bytes)| payloads.put(bytes.clone()))
            .collect();
        for ((digest, _), put) in some.iter().zip(join_all(puts).await) {
            if let Err(error) = put {
                return Err(Trouble::Later(format!(
                    "the payload {digest} cannot be stored: {error}"
                )));
            }
        }
    }
    Ok(())
}

/// Runs what blocks on a thread for activations.
pub async fn on_thread<T: Send + 'static>(
    pool: &Pool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Trouble> {
    let (answer, answered) = oneshot::channel();
    pool.push(Box::new(move || {
        // Whoever waits for it may have given up.
        let _ = answer.send(catch_unwind(AssertUnwindSafe(work)));
    }));
    match answered.await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err(Trouble::Later(PANICKED.to_owned())),
        // It was dropped.
        Err(_) => Err(Trouble::Later("the engine is stopping".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use async_trait::async_trait;
    use bytes::Bytes;
    use tokio::sync::Barrier;

    use super::*;
    use crate::payload::{Digest, PayloadStoreError};

    /// Stores nothing before so many values have come.
    struct Together(Barrier);

    #[async_trait]
    impl PayloadStore for Together {
        async fn put(&self, bytes: Bytes) -> Result<Digest, PayloadStoreError> {
            self.0.wait().await;
            Ok(Digest::of(&bytes))
        }

        async fn get(&self, digest: &Digest) -> Result<Bytes, PayloadStoreError> {
            Err(PayloadStoreError::NotFound(*digest))
        }

        async fn sweep(&self, _: &HashSet<Digest>, _: Duration) -> Result<u64, PayloadStoreError> {
            Ok(0)
        }
    }

    #[tokio::test]
    async fn a_panic_is_told_from_a_stop() {
        let pool = Pool::start(1, Arc::default()).unwrap();
        assert_eq!(on_thread(&pool, || 7).await.unwrap(), 7);
        let panicked = on_thread(&pool, || -> u32 { panic!("of a test") }).await;
        assert_eq!(panicked.unwrap_err().to_string(), PANICKED);
        pool.stop();
        let stopping = on_thread(&pool, || 7).await.unwrap_err();
        assert_eq!(stopping.to_string(), "the engine is stopping");
    }

    #[tokio::test]
    async fn many_values_are_stored_at_once() {
        let values: Vec<Referred> = (0..2 * STORED_AT_ONCE)
            .map(|number| Bytes::from(number.to_string()))
            .map(|bytes| (Digest::of(&bytes), bytes))
            .collect();
        let payloads = Together(Barrier::new(STORED_AT_ONCE));
        let stored = tokio::time::timeout(Duration::from_secs(60), store(&payloads, &values));
        stored.await.expect("one waits for the other").unwrap();
    }
}
