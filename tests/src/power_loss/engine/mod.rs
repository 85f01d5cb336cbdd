//! The embedded engine on the disk whose power fails.
//!
//! Each round opens the engine, checks that all it ever acknowledged is still there,
//! and lets some clients start, cancel, terminate and wait at once, until the power
//! fails at some write or sync ([`clients`]). The last round lets every run end. What
//! really ran is counted by a fake executor outside the disk ([`world`]).

mod clients;
mod full;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use heyday_durable::clock::SystemClock;
use heyday_durable::embedded::{Durability, EmbeddedEngine, EmbeddedOptions, Host};
use heyday_durable::engine::{Engine as _, EngineError, ExecutionStatus, HistoryEvent};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::disk::Power;
use super::mount;
use clients::{Clients, Known, Progress, reference};
use world::{FakeExecutor, NoExpressions, World};

/// What must not last longer than this has gone wrong; it takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Opens the engine on what the disk has. The folder holds only the engine's lock file;
/// each has its own, since a dead engine may keep its lock a little longer.
async fn open(
    world: &Arc<World>,
    power: Power,
    durability: Durability,
) -> Result<(EmbeddedEngine, tempfile::TempDir), String> {
    let folder = tempfile::tempdir().unwrap();
    let queues = BTreeMap::from([("general-queue".to_owned(), 4)]);
    let mut options = EmbeddedOptions::new(folder.path().join("history.db"), queues);
    options.vfs = Some(mount(&world.disk));
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
    let engine = EmbeddedEngine::open(options, host)
        .await
        .map_err(|error| format!("the engine does not open: {error}"))?;
    Ok((engine, folder))
}

/// Rounds on one disk, until something acknowledged is lost; answers how many runs
/// were put to the test.
async fn rounds(durability: Durability, seed: u64, count: u32) -> Result<usize, String> {
    let world = World::new();
    let mut random = SmallRng::seed_from_u64(seed);
    let progress = Arc::new(Progress::default());
    for _ in 0..count {
        let power = world.disk.power();
        // Sometimes the power fails while the engine recovers.
        world
            .disk
            .fail_after(random.random_range(1..400), random.random());
        let (engine, folder) = match open(&world, power, durability).await {
            Ok(opened) => opened,
            Err(_) if world.disk.power() != power => continue,
            Err(error) => return Err(error),
        };
        let engine = Arc::new(engine);
        match check(&engine, &world, &progress).await {
            Err(_) if world.disk.power() != power => continue,
            checked => checked?,
        }
        let clients = Clients {
            engine: Arc::clone(&engine),
            world: Arc::clone(&world),
            progress: Arc::clone(&progress),
            power,
        };
        clients.until_loss(&mut random).await?;
        drop((clients, engine, folder));
    }
    let power = world.disk.power();
    let (engine, _folder) = open(&world, power, durability).await?;
    check(&engine, &world, &progress).await?;
    all_end(&engine, &progress).await?;
    match world.wrong().first() {
        Some(wrong) => Err(wrong.clone()),
        None => Ok(progress.known().len()),
    }
}

/// All that was acknowledged is there.
async fn check(engine: &EmbeddedEngine, world: &World, progress: &Progress) -> Result<(), String> {
    for (workflow_id, known) in progress.known() {
        let run = reference(&workflow_id, Some(known.run_id));
        let history = engine
            .history(&run, 0, 1_000, Duration::ZERO)
            .await
            .map_err(|error| format!("{workflow_id} was started: {error}"))?;
        if !history.events.starts_with(&known.events) {
            return Err(format!(
                "{workflow_id} has forgotten events: {:#?} was told, {:#?} is there",
                known.events, history.events
            ));
        }
        if known.cancelled {
            let asked = history
                .events
                .iter()
                .any(|event| event.event_type == "WorkflowExecutionCancelRequested");
            if !asked {
                return Err(format!("{workflow_id} has forgotten its cancel"));
            }
        }
        if let Some(told) = &known.result {
            let result = engine
                .result(&run, Duration::ZERO)
                .await
                .map_err(|error| format!("{workflow_id} had ended: {error}"))?;
            if result.as_ref() != Some(told) {
                return Err(format!("{workflow_id} had ended {told:?}, now {result:?}"));
            }
        }
    }
    match world.wrong().first() {
        Some(wrong) => Err(wrong.clone()),
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
            "ActivityTaskCompleted" => &event.attributes["activityId"],
            "TimerFired" => &event.attributes["timerId"],
            _ => return None,
        };
        Some(format!("{} {id}", event.event_type))
    });
    ends.find(|end| !seen.insert(end.clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_with_full_syncs() {
    for seed in 0..3 {
        let runs = rounds(Durability::Full, seed, 8)
            .await
            .unwrap_or_else(|what| panic!("{seed}: {what}"));
        assert!(runs > 10, "only {runs} runs were put to the test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn something_acknowledged_is_lost_without_syncs() {
    for seed in 0..40 {
        if rounds(Durability::Off, seed, 3).await.is_err() {
            return;
        }
    }
    panic!("without syncs nothing was lost: the disk or this test sees nothing");
}
