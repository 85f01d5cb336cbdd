//! Process deaths: whatever `heyday up` was doing when it was killed (-9), nothing that
//! it acknowledged is lost, and no finished step runs again.
//!
//! The server is started on the same data again and again. In each life some clients
//! start runs of three steps with short waits between ([`load`]), the second one a plugin's
//! and the others the built-in HTTP call, and send each two signals and an update, until
//! the process dies: at one of its fail points, or at any moment by a kill from outside.
//! The inputs of one client are stored apart from the histories.
//! What the runs did is counted by a server of the test that syncs each effect to a file
//! ([`effects`]); what must hold of a run's history is in [`history`].
//!
//! In about each second life the runs that are started have short histories, so that
//! they continue as new again and again. What was open goes on in the next life: an
//! acknowledged run must be there, a start whose answer was lost is sent again with its
//! Idempotency-Key, a signal or an update with its id. At the end all runs complete.
//! Each has taken its signals once and in their order, and its update has the answer
//! that was given. The effects are compared with the runs: per step, at most as many as
//! it had attempts, each in another life, the last one being the one whose answer is in
//! the run's result. So after a step's completion there is no effect of it any more.
//!
//! `HEYDAY_CHAOS_KILLS=N` kills N times instead of [`KILLS`] times
//! (`cargo xtask chaos --kills N`).

pub mod effects;
mod history;
mod load;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::support::component;
use crate::support::server::{Client, Options, PATIENCE, Server};
use effects::{Effect, Effects};
use load::{Ledger, Run, Work};

/// Kills, where the environment says nothing: four in each phase.
const KILLS: usize = 32;
/// Kills in checkpoints beyond those, at most.
const MORE: usize = 12;
/// A life in which runs complete, and none of them comes to the fail point so long, is ended
/// from outside.
const LIFE: Duration = Duration::from_secs(100);
/// Clients at once.
const CLIENTS: usize = 10;
/// Bytes of the inputs of one of them: too many for a history, which refers to them.
const APART: usize = 300_000;
/// The flow's type.
const FLOW: &str = "chaos.steps";
/// The flow's steps, each of which has one effect by HTTP.
const STEPS: [&str; 3] = ["first", "second", "third"];
/// The one that is an activity of a plugin.
const IN_THE_SANDBOX: &str = STEPS[1];
/// The signals that a run takes before its second and its third step. Their name is the
/// same, so that one that came twice, or not at all, would be taken for another.
const NOTES: [&str; 2] = ["one", "two"];

/// Where the process is killed.
struct Phase {
    /// The fail point; [`OUTSIDE`] is none.
    name: &'static str,
    /// It is reached at most so many times before the kill.
    count: u64,
    /// Bytes of the inputs: a checkpoint comes after some megabytes.
    padding: usize,
}

const fn phase(name: &'static str, count: u64, padding: usize) -> Phase {
    Phase {
        name,
        count,
        padding,
    }
}

/// Killed from outside.
const OUTSIDE: &str = "outside";

/// The phases, in turn; the last one is that of checkpoints.
const PHASES: [Phase; 8] = [
    phase(OUTSIDE, 0, 100),
    phase("before-append", 60, 100),
    phase("before-sync", 60, 100),
    phase("before-answer", 60, 100),
    phase("in-activity", 30, 100),
    phase("after-activity", 30, 100),
    phase("in-timer", 20, 100),
    phase("in-checkpoint", 1, 200_000),
];

/// The configuration by which runs that are started continue as new between their tasks.
fn short_histories() -> String {
    "[limits]\nhistory_events = 10\n".to_owned()
}

fn definition(effects: &Effects) -> String {
    let mut text =
        "document: {dsl: '1.0.0', namespace: chaos, name: steps, version: '1.0.0'}\ndo:\n"
            .to_owned();
    for (index, name) in STEPS.iter().enumerate() {
        if index > 0 {
            text += &format!(
                "- pause{index}:
    wait: {{milliseconds: 30}}
- hear{index}:
    listen: {{to: {{one: {{with: {{type: note}}}}}}}}
    output: {{as: '${{ {{numbers: $input.numbers, notes: ($input.notes + .)}} }}'}}
"
            );
        }
        let url = format!("http://{}/", effects.address);
        let key = format!("'${{ $workflow.id + \"/{name}\" }}'");
        let body =
            format!("'${{ {{workflow: $workflow.id, step: \"{name}\", numbers: .numbers}} }}'");
        let call = if *name == IN_THE_SANDBOX {
            format!(
                "- {name}:
    call: visitor.http_post
    with: {{url: '{url}', key: {key}, body: {body}}}
"
            )
        } else {
            format!(
                "- {name}:
    call: http
    with:
      method: post
      endpoint: {url}
      headers: {{Idempotency-Key: {key}}}
      body: {body}
"
            )
        };
        text += &call;
        text += "    output: {as: '${ {numbers: .numbers, notes: ($input.notes // [])} }'}
    metadata:
      heyday:
        retry: {initial_interval: {milliseconds: 20}, backoff_coefficient: 1, maximum_attempts: 0}
";
    }
    text += "- confirm:
    listen: {to: {one: {with: {type: confirm}}}}
    output: {as: '${ $input + {confirmed: .[0]} }'}
    metadata: {heyday: {update: {answer: {confirmed: '${ . }'}}}}
";
    text
}

/// What was put to the test.
#[derive(Default)]
struct Tally {
    /// Kills, and those of them that came before the server answered, by phase.
    kills: BTreeMap<&'static str, (usize, usize)>,
    /// Those that left a checkpoint half done.
    amid_checkpoints: usize,
    recoveries: Vec<Duration>,
}

impl Tally {
    /// Kills in that phase.
    fn count(&self, phase: &str) -> usize {
        self.kills.get(phase).map_or(0, |(count, _)| *count)
    }

    /// Whether none of the kills in checkpoints left one half done, and they were some.
    fn misses_checkpoints(&self) -> bool {
        self.count("in-checkpoint") >= 4 && self.amid_checkpoints == 0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_death() {
    let kills = std::env::var("HEYDAY_CHAOS_KILLS").map_or(KILLS, |text| {
        text.parse().expect("HEYDAY_CHAOS_KILLS is a number")
    });
    let folder = tempfile::tempdir().unwrap();
    if let Err(error) = chaos(folder.path(), kills).await {
        let log = std::fs::read_to_string(folder.path().join("data/test.log")).unwrap_or_default();
        let from = log.len() - log.len().min(8_000);
        let tail = log.get(log.ceil_char_boundary(from)..).unwrap_or_default();
        // All causes in one line, for extracts of what a test printed.
        panic!("{error:#}\n--- heyday printed last:\n{tail}");
    }
}

async fn chaos(folder: &Path, kills: usize) -> anyhow::Result<()> {
    let data = folder.join("data");
    let effects = Effects::start(&folder.join("effects")).await?;
    let ledger = Mutex::new(Ledger::default());
    let mut tally = Tally::default();

    let server = Server::on(&data, Options::default()).await?;
    let visitor = component("visitor");
    server.client.push(visitor, "&allow_missing=true").await?;
    Client::ok(server.client.push_flow(&definition(&effects)).await?).await?;
    let binding = format!("*:{}", effects.address);
    for subject in [FLOW, "visitor"] {
        server.client.grant(subject, "http", &binding, None).await?;
    }
    drop(server);
    effects.next_life().await?;

    let mut kill = 0;
    // On a busy machine some more, where each came when the last page was written.
    while kill < kills || (kill < kills + MORE && tally.misses_checkpoints()) {
        let turn = if kill < kills { kill } else { PHASES.len() - 1 };
        let phase = &PHASES[turn % PHASES.len()];
        let (moment, early) = life(&data, phase, &ledger, &mut tally)
            .await
            .with_context(|| format!("kill {kill}, {}", phase.name))?;
        let (count, early_count) = tally.kills.entry(moment).or_default();
        *count += 1;
        *early_count += usize::from(early);
        if moment == "in-checkpoint" {
            tally.amid_checkpoints += usize::from(amid_checkpoint(&data)?);
        }
        effects.next_life().await?;
        kill += 1;
    }

    let server = Server::on(&data, Options::default()).await?;
    clients(&server.client, &ledger, Work::Finish).await?;
    let ledger = ledger.into_inner()?;
    load::all_finished(&server.client, &ledger).await?;
    let repeated = compare(&effects.read()?, &ledger.done)?;
    report(&tally, &ledger, repeated)
}

/// One life of the server, ended by a kill; answers in which phase it came, and whether
/// before the server was ready.
async fn life(
    data: &Path,
    phase: &Phase,
    ledger: &Mutex<Ledger>,
    tally: &mut Tally,
) -> anyhow::Result<(&'static str, bool)> {
    let outside = phase.name == OUTSIDE;
    let mut options = Options {
        config: rand::random::<bool>().then(short_histories),
        ..Options::default()
    };
    if !outside {
        let count = rand::random_range(1..=phase.count);
        let value = format!("{}:{count}", phase.name);
        options
            .environment
            .push(("HEYDAY_FAIL_POINT".to_owned(), value));
    }
    let begun = Instant::now();
    let mut server = match Server::on(data, options).await {
        Ok(server) => server,
        // It died while it recovered.
        Err(error) if !outside && error.to_string().contains("signal: 9") => {
            return Ok((phase.name, true));
        }
        Err(error) => return Err(error),
    };
    tally.recoveries.push(begun.elapsed());
    let client = server.client.clone();
    let work = clients(&client, ledger, Work::Load(phase.padding));
    if outside {
        let moment = Duration::from_millis(rand::random_range(0..1_500));
        let killed = async {
            // The random moment of the kill is what is tested here.
            tokio::time::sleep(moment).await;
            drop(server);
            anyhow::Ok(())
        };
        tokio::try_join!(work, killed)?;
        return Ok((OUTSIDE, false));
    }
    ledger.lock().unwrap().broke_off = None;
    let ((), reached) = tokio::try_join!(work, end(&mut server, ledger))?;
    Ok((if reached { phase.name } else { OUTSIDE }, false))
}

/// Waits until the server dies at its fail point; answers whether it did, and was not ended
/// from outside.
async fn end(server: &mut Server, ledger: &Mutex<Ledger>) -> anyhow::Result<bool> {
    let completed = || ledger.lock().unwrap().done.len();
    let (begun, mut runs, mut last) = (Instant::now(), completed(), Instant::now());
    loop {
        if let Some(status) = server.has_ended()? {
            ensure!(status.signal() == Some(9), "it ended with {status}");
            return Ok(true);
        }
        if completed() > runs {
            (runs, last) = (completed(), Instant::now());
            if begun.elapsed() > LIFE {
                server.kill();
                return Ok(false);
            }
        }
        if last.elapsed() > PATIENCE {
            let broke_off = ledger.lock().unwrap().broke_off.take();
            let open = load::open_runs(&server.client).await;
            bail!(
                "no run completes any more: a request to the living server broke off: \
                 {broke_off:?}; open: {open:?}"
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the process that died left a checkpoint half done. SQLite keeps in the index of
/// the log how many frames one set out to copy, and how many are known to be copied.
fn amid_checkpoint(data: &Path) -> anyhow::Result<bool> {
    let index = std::fs::read(data.join("history.db-shm"))?;
    let number = |at: usize| {
        let bytes = index.get(at..at + 4)?;
        bytes.try_into().ok().map(u32::from_ne_bytes)
    };
    // Of `WalCkptInfo`, which follows the two headers of 48 bytes.
    let (done, attempted) = (number(96), number(128));
    ensure!(done.is_some() && attempted.is_some(), "a short index");
    Ok(attempted > done)
}

/// All clients, until each has ended.
async fn clients(client: &Client, ledger: &Mutex<Ledger>, work: Work) -> anyhow::Result<()> {
    // They end by themselves when the server dies; only a server that hangs lasts on.
    let all = (0..CLIENTS).map(|number| {
        let work = match work {
            Work::Load(_) if number == 0 => Work::Load(APART),
            work => work,
        };
        load::client(client, ledger, work)
    });
    match tokio::time::timeout(PATIENCE * 2, futures::future::try_join_all(all)).await {
        Ok(result) => result.map(|_| ()),
        Err(_) => bail!(
            "the clients are still at work: {:?}",
            ledger.lock().unwrap()
        ),
    }
}

/// Compares the effects with the runs; answers how many were repetitions.
fn compare(effects: &[Effect], runs: &BTreeMap<String, Run>) -> anyhow::Result<usize> {
    let mut by_step: BTreeMap<(&str, &str), Vec<&Effect>> = BTreeMap::new();
    for effect in effects {
        let name = format!("{}/{}", effect.workflow, effect.step);
        ensure!(effect.key == name, "the key of {effect:?}");
        by_step
            .entry((&effect.workflow, &effect.step))
            .or_default()
            .push(effect);
    }
    let mut repeated = 0;
    for run in runs.values() {
        // What the DSL calls the workflow's id is that of one execution.
        let name = run.run_id.as_deref().context("a run without an id")?;
        for (index, step) in STEPS.iter().enumerate() {
            let effects = by_step
                .remove(&(name, *step))
                .with_context(|| format!("no effect of {step} of {run:?}"))?;
            let wrong = || format!("{step} of {run:?} had the effects {effects:?}");
            ensure!(effects.len() <= run.attempts[index] as usize, wrong());
            ensure!(
                effects.windows(2).all(|pair| pair[0].life < pair[1].life),
                wrong()
            );
            ensure!(
                effects.last().map(|last| last.number) == Some(run.numbers[index]),
                wrong()
            );
            repeated += effects.len() - 1;
        }
    }
    ensure!(by_step.is_empty(), "effects of no run: {by_step:?}");
    Ok(repeated)
}

fn report(tally: &Tally, ledger: &Ledger, repeated: usize) -> anyhow::Result<()> {
    for (name, (count, early)) in &tally.kills {
        eprintln!("{count:5} kills {name} ({early} of them while it recovered)");
    }
    let amid = tally.amid_checkpoints;
    eprintln!("{amid} of those in-checkpoint left a checkpoint half done");
    let kills: usize = tally.kills.values().map(|(count, _)| count).sum();
    for phase in &PHASES {
        ensure!(
            kills < 2 * PHASES.len() || tally.count(phase.name) > 0,
            "none of {kills} kills came {}",
            phase.name
        );
    }
    ensure!(
        !tally.misses_checkpoints(),
        "no kill fell into a checkpoint"
    );
    // The attempt that was killed then has had its effect, and there is another one.
    ensure!(
        repeated >= tally.count("after-activity"),
        "kills after an activity repeated no effect"
    );
    let attempts: u32 = ledger.done.values().flat_map(|run| run.attempts).sum();
    let steps = ledger.done.len() * STEPS.len();
    let continued = ledger.done.values().filter(|run| run.runs > 1).count();
    ensure!(continued > 0, "no run continued as new");
    ensure!(
        ledger.done.values().any(|run| run.padding == APART),
        "no run's input was stored apart"
    );
    let slowest = tally.recoveries.iter().max().copied().unwrap_or_default();
    eprintln!(
        "{} runs completed, {continued} of them continued as new, {} of them over a kill after their start was acknowledged; \
         the server was too busy {} times; \
         {} starts lost their answer, {} of these were found; {} signals and {} updates \
         lost theirs; {steps} steps took {attempts} attempts, {repeated} of them repeated an effect; \
         the slowest start of the server took {slowest:.1?}",
        ledger.done.len(),
        ledger.carried,
        ledger.busy,
        ledger.unanswered,
        ledger.found,
        ledger.signals_unanswered,
        ledger.updates_unanswered,
    );
    Ok(())
}
