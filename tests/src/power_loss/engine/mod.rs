//! The embedded engine on the disk whose power fails.
//!
//! Each round opens the engine, checks that all it ever acknowledged is still there,
//! and lets some clients start, signal, update, cancel, terminate and wait at once, until
//! the power fails at some write or sync ([`clients`]). The last round lets every run end. What
//! really ran is counted by a fake executor outside the disk ([`world`]).
//!
//! `HEYDAY_POWER_LOSS_DISKS=N` lets the test go through N disks instead of 2.

mod clients;
mod full;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use heyday_durable::clock::SystemClock;
use heyday_durable::embedded::{
    Claim, Durability, EmbeddedEngine, EmbeddedOptions, Host, OpenError, Storage,
};
use heyday_durable::engine::{Engine as _, EngineError, ExecutionStatus, HistoryEvent};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::disk::Power;
use super::mount;
use clients::{Clients, Known, Progress, Stop, confirms, reference, signal_id, update_id};
use world::{FakeExecutor, NoExpressions, World};

/// What must not last longer than this has gone wrong; it takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);
/// The name of the history on the disk.
const HISTORY: &str = "history.db";

/// The disk, as it is mounted since its power came back. Nobody keeps it from an engine: a
/// dead one may have it a little longer, and can no longer write.
#[derive(Debug)]
struct MountedDisk {
    vfs: String,
}

#[async_trait]
impl Storage for MountedDisk {
    async fn claim(&self) -> Result<Claim, OpenError> {
        Ok(Claim::new(()))
    }

    fn database(&self) -> &Path {
        Path::new(HISTORY)
    }

    fn vfs(&self) -> Option<&str> {
        Some(&self.vfs)
    }
}

/// Opens the engine on what the disk has.
async fn open(
    world: &Arc<World>,
    power: Power,
    durability: Durability,
) -> Result<EmbeddedEngine, String> {
    let queues = BTreeMap::from([("general-queue".to_owned(), 4)]);
    let mut options = EmbeddedOptions::new(HISTORY, queues);
    options.storage = Arc::new(MountedDisk {
        vfs: mount(&world.disk),
    });
    options.durability = durability;
    options.cached_drivers = 4;
    let executor = FakeExecutor {
        world: Arc::clone(world),
        power,
    };
    let host = Host {
        executor: Arc::new(executor),
        definitions: Arc::clone(world) as _,
        expressions: Arc::new(NoExpressions),
        payloads: Arc::clone(world) as _,
        clock: Arc::new(SystemClock),
    };
    EmbeddedEngine::open(options, host)
        .await
        .map_err(|error| format!("the engine does not open: {error}"))
}

/// What was put to the test.
#[derive(Debug, Default)]
struct Tally {
    losses_at_work: usize,
    losses_in_recovery: usize,
    attempts: u64,
    starts: usize,
    signals: usize,
    updates: usize,
    cancels: usize,
    terminations: usize,
    timers: usize,
    results: usize,
}

impl Tally {
    fn count(&mut self, world: &World, progress: &Progress) {
        let known = progress.known();
        let count = |of: fn(&Known) -> bool| known.values().filter(|known| of(known)).count();
        self.attempts += world.attempts();
        self.starts += known.len();
        self.signals += count(|known| known.signaled);
        self.updates += count(|known| known.updated);
        self.cancels += count(|known| known.cancelled);
        self.terminations += count(|known| known.terminated);
        self.results += count(|known| known.result.is_some());
        self.timers += count(|known| {
            let mut types = known.events.iter().map(|event| &event.event_type);
            types.any(|name| name == "TimerFired")
        });
    }
}

/// Rounds on one disk, until something acknowledged is lost.
async fn rounds(
    durability: Durability,
    seed: u64,
    count: u32,
    tally: &mut Tally,
) -> Result<(), String> {
    let world = World::new();
    let progress = Arc::new(Progress::default());
    let random = SmallRng::seed_from_u64(seed);
    let result = rounds_on(&world, &progress, durability, random, count, tally).await;
    tally.count(&world, &progress);
    result
}

async fn rounds_on(
    world: &Arc<World>,
    progress: &Arc<Progress>,
    durability: Durability,
    mut random: SmallRng,
    count: u32,
    tally: &mut Tally,
) -> Result<(), String> {
    for round in 0..count {
        let power = world.disk.power();
        // Some rounds write so much that the engine checkpoints, and in some the power
        // fails already while the engine recovers.
        let (input, changes) = if round % 8 == 2 {
            (130_000, random.random_range(1_000..4_000))
        } else {
            (10, random.random_range(1..500))
        };
        let seed = random.random();
        let in_recovery = random.random_range(0..3) == 0;
        if in_recovery {
            world.disk.fail_after(changes, seed);
        }
        let engine = match recovered(world, power, durability, progress).await {
            Ok(engine) => engine,
            Err(stop) => {
                stop.judge(world.disk.power() != power)?;
                tally.losses_in_recovery += 1;
                continue;
            }
        };
        if !in_recovery {
            world.disk.fail_after(changes, seed);
        }
        let clients = Clients {
            engine: Arc::new(engine),
            world: Arc::clone(world),
            progress: Arc::clone(progress),
            power,
            input,
        };
        clients.until_loss(&mut random).await?;
        tally.losses_at_work += 1;
    }
    let engine = match recovered(world, world.disk.power(), durability, progress).await {
        Ok(engine) => engine,
        Err(stop) => return stop.judge(false),
    };
    all_end(&engine, progress).await?;
    match world.wrong().first() {
        Some(wrong) => Err(wrong.clone()),
        None => Ok(()),
    }
}

/// The engine on what the disk has, with all that it ever acknowledged.
async fn recovered(
    world: &Arc<World>,
    power: Power,
    durability: Durability,
    progress: &Progress,
) -> Result<EmbeddedEngine, Stop> {
    let engine = open(world, power, durability)
        .await
        .map_err(Stop::Refused)?;
    check(&engine, world, progress).await?;
    Ok(engine)
}

/// All that was acknowledged is there.
async fn check(engine: &EmbeddedEngine, world: &World, progress: &Progress) -> Result<(), Stop> {
    for (workflow_id, known) in progress.known() {
        let run = reference(&workflow_id, Some(known.run_id));
        let history = engine.history(&run, 0, 1_000, Duration::ZERO).await?;
        if !history.events.starts_with(&known.events) {
            return Err(Stop::Wrong(format!(
                "{workflow_id} has forgotten events: {:#?} was told, {:#?} is there",
                known.events, history.events
            )));
        }
        let signals = history.events.iter().filter(|event| {
            event.event_type == "WorkflowExecutionSignaled"
                && event.attributes["signal_id"] == signal_id(&workflow_id).as_str()
        });
        match signals.count() {
            1 => {}
            0 if !known.signaled => {}
            count => {
                return Err(Stop::Wrong(format!(
                    "{workflow_id} has its signal {count} times"
                )));
            }
        }
        // Taken once, and answered as it was, whether the run is open or not.
        let updates = history.events.iter().filter(|event| {
            event.event_type == "WorkflowExecutionUpdateCompleted"
                && event.attributes["update_id"] == update_id(&workflow_id).as_str()
        });
        match updates.count() {
            1 => {}
            0 if !known.updated => {}
            count => {
                return Err(Stop::Wrong(format!(
                    "{workflow_id} has its update {count} times"
                )));
            }
        }
        if known.updated {
            let update_id = update_id(&workflow_id);
            let status = engine
                .update_result(&run, &update_id, Duration::ZERO)
                .await?;
            let answered = status.outcome.as_ref();
            if !answered
                .is_some_and(|told| told.as_ref().is_ok_and(|it| confirms(it, &workflow_id)))
            {
                return Err(Stop::Wrong(format!(
                    "{workflow_id} had answered its update, now {status:?}"
                )));
            }
        }
        if known.cancelled {
            let asked = history
                .events
                .iter()
                .any(|event| event.event_type == "WorkflowExecutionCancelRequested");
            if !asked {
                return Err(Stop::Wrong(format!(
                    "{workflow_id} has forgotten its cancel"
                )));
            }
        }
        if let Some(told) = &known.result {
            let result = engine.result(&run, Duration::ZERO).await?;
            if result.as_ref() != Some(told) {
                return Err(Stop::Wrong(format!(
                    "{workflow_id} had ended {told:?}, now {result:?}"
                )));
            }
        }
    }
    match world.wrong().first() {
        Some(wrong) => Err(Stop::Wrong(wrong.clone())),
        None => Ok(()),
    }
}

/// Every run ends as it must.
async fn all_end(engine: &EmbeddedEngine, progress: &Progress) -> Result<(), String> {
    for (
        workflow_id,
        Known {
            run_id,
            cancelled,
            terminated,
            patient,
            ..
        },
    ) in progress.known()
    {
        let run = reference(&workflow_id, Some(run_id));
        if patient && !cancelled && !terminated {
            // Left waiting by a client that lost its power before it could ask.
            engine
                .terminate(&run, "the test ends")
                .await
                .or_else(|error| match error {
                    EngineError::Closed { .. } => Ok(()),
                    error => Err(format!("{workflow_id} cannot be terminated: {error}")),
                })?;
        }
        let result = engine
            .result(&run, LIMIT)
            .await
            .map_err(|error| format!("{workflow_id}: {error}"))?
            .ok_or_else(|| format!("{workflow_id} does not end"))?;
        let allowed: &[ExecutionStatus] = match (patient, cancelled, terminated) {
            (false, ..) => &[ExecutionStatus::Completed],
            (true, _, true) => &[ExecutionStatus::Terminated],
            (true, true, false) => &[ExecutionStatus::Canceled],
            // Nothing was acknowledged, but it may have been asked.
            (true, false, false) => &[ExecutionStatus::Canceled, ExecutionStatus::Terminated],
        };
        if !allowed.contains(&result.status) {
            return Err(format!("{workflow_id} ended {result:?}"));
        }
        let history = engine
            .history(&run, 0, 1_000, Duration::ZERO)
            .await
            .map_err(|error| format!("{workflow_id}: {error}"))?;
        if let Some(twice) = twice(&history.events) {
            return Err(format!("{workflow_id} has {twice} twice"));
        }
    }
    Ok(())
}

/// A step's end or a timer's that is recorded twice.
fn twice(events: &[HistoryEvent]) -> Option<String> {
    let mut seen = BTreeSet::new();
    let mut ends = events.iter().filter_map(|event| {
        let id = match event.event_type.as_str() {
            "ActivityTaskCompleted" => &event.attributes["activity_id"],
            "TimerFired" => &event.attributes["timer_id"],
            _ => return None,
        };
        Some(format!("{} {id}", event.event_type))
    });
    ends.find(|end| !seen.insert(end.clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_with_full_syncs() {
    let disks = std::env::var("HEYDAY_POWER_LOSS_DISKS");
    let disks = disks.map_or(2, |disks| disks.parse().expect("a number"));
    let mut tally = Tally::default();
    for seed in 0..disks {
        if let Err(what) = rounds(Durability::Full, seed, 8, &mut tally).await {
            panic!("disk {seed}: {what}");
        }
    }
    eprintln!("{tally:?}");
    let Tally {
        losses_at_work,
        losses_in_recovery: _,
        attempts,
        starts,
        signals,
        updates,
        cancels,
        terminations,
        timers,
        results,
    } = tally;
    assert!(losses_at_work > 0);
    assert!(attempts as usize >= starts);
    for (what, count) in [
        ("starts", starts),
        ("signals", signals),
        ("updates", updates),
        ("cancels", cancels),
        ("terminations", terminations),
        ("timers", timers),
        ("results", results),
    ] {
        assert!(count > 0, "no {what} were acknowledged before a loss");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn something_acknowledged_is_lost_without_syncs() {
    for seed in 0..40 {
        let mut tally = Tally::default();
        let result = rounds(Durability::Off, seed, 3, &mut tally).await;
        // Where nothing was acknowledged nothing of it can be lost.
        if let Err(what) = result
            && tally.starts > 0
        {
            eprintln!("disk {seed}, of {tally:?}: {what}");
            return;
        }
    }
    panic!("without syncs nothing was lost: the disk or this test sees nothing");
}
