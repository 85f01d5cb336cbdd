//! Durable workflows over HTTP: the real server against Restate's and Temporal's.
//!
//! Latency: one client runs a workflow of three durable steps again and again, ours and
//! Restate's in turns. Throughput: a hundred clients run workflows of one durable step,
//! the servers in turns. What our server syncs is counted by strace, apart from both.
//! Where the time goes is the server's own count (`/metrics`), the receipts, and what is
//! left of the client's.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;

use crate::cluster::{Client, Cluster, Native, WORKFLOW};
use crate::http::Connection;
use crate::report::{Figure, Goal, Report, Sides, Times, compared, median, shown};
use crate::servers::{Heyday, Restate};
use crate::syncs::Counting;

/// A side's calls that begin its turn, while the other side's last ones are still being tidied up.
const UNCOUNTED: usize = 10;
/// Clients at once.
pub const CLIENTS: usize = 100;
/// Three steps that pass their input on, and three whose inputs are expressions.
const FLOWS: [&str; 2] = [
    "document: {dsl: 1.0.3, namespace: bench, name: three, version: 1.0.0}\n\
     do:\n  - a: {call: probe.echo}\n  - b: {call: probe.echo}\n  - c: {call: probe.echo}\n",
    "document: {dsl: 1.0.3, namespace: bench, name: three-jq, version: 1.0.0}\n\
     do:\n  - a: {call: probe.echo, with: {n: \"${ .n + 1 }\"}}\n  \
     - b: {call: probe.echo, with: {n: \"${ .n + 1 }\"}}\n  \
     - c: {call: probe.echo, with: {n: \"${ .n + 1 }\"}}\n",
];

/// Where the servers are.
#[derive(Args)]
pub struct Options {
    /// Our binary, built for release.
    #[arg(long)]
    heyday: PathBuf,
    /// The folder of this workspace, `peers`.
    #[arg(long)]
    peers: PathBuf,
    /// The folder where npm put Restate's packages; without it, it is not compared with.
    #[arg(long)]
    restate: Option<PathBuf>,
    /// The virtual environment with Temporal's packages; without it, it is not compared with.
    #[arg(long)]
    temporal: Option<PathBuf>,
    /// strace; without it, syncs are not counted.
    #[arg(long)]
    strace: Option<PathBuf>,
}

/// How much is measured.
struct Size {
    turns: usize,
    calls: usize,
    rounds: usize,
    seconds: f64,
    temporal_seconds: f64,
}

/// Measures all of it.
pub async fn run(
    report: &mut Report,
    probe: &[u8],
    options: &Options,
    quick: bool,
) -> anyhow::Result<()> {
    let size = if quick {
        Size {
            turns: 1,
            calls: 5,
            rounds: 1,
            seconds: 0.5,
            temporal_seconds: 1.0,
        }
    } else {
        Size {
            turns: 30,
            calls: 25,
            rounds: 3,
            seconds: 6.0,
            temporal_seconds: 10.0,
        }
    };
    println!("starting heyday");
    let heyday = Heyday::start(&options.heyday, probe, &FLOWS).await?;
    let restate = match &options.restate {
        Some(packages) => {
            println!("starting Restate");
            let service = options.peers.join("restate/service.mjs");
            compared("Restate", Restate::start(packages, &service).await)
        }
        None => None,
    };
    latency(report, &heyday, restate.as_ref(), &size).await?;
    let runs = size.turns * size.calls;
    parts(&heyday, runs).await?;
    syncs(report, &heyday, options.strace.as_deref(), runs).await?;
    // Started late: it is never quite idle.
    let temporal = match &options.temporal {
        Some(environment) => {
            println!("starting Temporal");
            let started = Temporal::start(environment, &options.peers).await;
            compared("Temporal", started)
        }
        None => None,
    };
    throughput(report, &heyday, restate.as_ref(), temporal, &size).await
}

/// Starts a run of a flow and waits for its end, as a client does.
async fn run_flow(connection: &mut Connection, start: &'static str) -> anyhow::Result<Value> {
    let ended = connection.post("/api/v1/workflows?wait=30s", start).await?;
    let ended: Value = serde_json::from_slice(&ended)?;
    if ended["status"] != "Completed" {
        bail!("a workflow ended otherwise: {ended}");
    }
    Ok(ended)
}

const THREE: &str = r#"{"workflow_type":"bench.three","input":7}"#;
const THREE_JQ: &str = r#"{"workflow_type":"bench.three-jq","input":{"n":7}}"#;

async fn latency(
    report: &mut Report,
    heyday: &Heyday,
    restate: Option<&Restate>,
    size: &Size,
) -> anyhow::Result<()> {
    let mut ours = heyday.connect().await?;
    let mut theirs = match restate {
        Some(restate) => Some(Connection::open(restate.ingress, None).await?),
        None => None,
    };
    let (mut sides, mut jq) = (Sides::default(), Vec::new());
    let mut all = [const { Times(Vec::new()) }; 3];
    // The first turn warms up all of them.
    for turn in 0..=size.turns {
        let mut times = [const { Times(Vec::new()) }; 3];
        // Each side's calls follow each other, and its first ones are not counted: what a call
        // leaves to be done behind it would else be in the way of the other side's next one.
        let counted = (0..UNCOUNTED + size.calls).map(|call| call >= UNCOUNTED);
        for (start, times) in [THREE, THREE_JQ].into_iter().zip(&mut times) {
            for counted in counted.clone() {
                let begun = Instant::now();
                run_flow(&mut ours, start).await?;
                if counted {
                    times.push(begun.elapsed());
                }
            }
        }
        if let Some(theirs) = &mut theirs {
            for counted in counted {
                let begun = Instant::now();
                theirs.post("/bench/three", "7").await?;
                if counted {
                    times[2].push(begun.elapsed());
                }
            }
        }
        if turn > 0 {
            let ms = times
                .each_mut()
                .map(|times| times.percentile(50.0).as_secs_f64() * 1e3);
            sides.push(ms[0], ms[2]);
            jq.push(ms[1]);
            for (all, times) in all.iter_mut().zip(times) {
                all.extend(times);
            }
        }
    }
    let (value, peer) = sides.medians();
    let figure = |name: &str, value, goal| Figure {
        name: name.to_owned(),
        value,
        unit: "ms",
        peer: restate.map(|_| ("Restate", peer)),
        goal,
    };
    report.add(figure("workflow.3_steps", value, Some(Goal::AtMost(2.0))));
    report.add(figure(
        "workflow.3_steps_with_expressions",
        median(jq),
        None,
    ));
    let [mut plain, mut jq, mut theirs] = all;
    println!(
        "    ours {}; with expressions {}; Restate {}",
        plain.text(),
        jq.text(),
        theirs.text()
    );
    println!(
        "    one fsync of 4 KiB in the same folder: {}",
        fsync(heyday.folder())?.text()
    );
    Ok(())
}

/// What one sync costs here.
fn fsync(folder: &Path) -> anyhow::Result<Times> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut times = Times::default();
    for _ in 0..200 {
        file.write_all(&[0; 4096])?;
        let begun = Instant::now();
        file.sync_all()?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// Where the time of a workflow with three steps goes, by what the server counts.
async fn parts(heyday: &Heyday, runs: usize) -> anyhow::Result<()> {
    let mut connection = heyday.connect().await?;
    let before = metrics(&mut connection).await?;
    let mut ids = Vec::new();
    let mut client = Duration::ZERO;
    for _ in 0..runs {
        let begun = Instant::now();
        let ended = run_flow(&mut connection, THREE).await?;
        client += begun.elapsed();
        ids.push(ended["workflow_id"].as_str().unwrap_or_default().to_owned());
    }
    let after = metrics(&mut connection).await?;
    let count = runs as f64;
    let spent = |name: &str| {
        let at = |metrics: &BTreeMap<String, f64>| metrics.get(name).copied().unwrap_or_default();
        (at(&after) - at(&before)) / count
    };
    let phase = |phase: &str| {
        spent(&format!(
            "heyday_engine_phase_time_seconds_total{{phase=\"{phase}\"}}"
        ))
    };
    let mut sandbox = 0.0;
    for id in &ids {
        let path = format!("/api/v1/workflows/{id}/receipts");
        let receipts = connection.get_json(&path).await?;
        let receipts = receipts["receipts"].as_array().context("no receipts")?;
        let wall = |receipt: &Value| receipt["counters"]["wall_us"].as_f64();
        sandbox += receipts.iter().filter_map(wall).sum::<f64>() / 1e6 / count;
    }
    let attempts = spent("heyday_activity_attempt_duration_seconds_sum");
    let client = client.as_secs_f64() / count;
    let lines = [
        ("waiting for an activation thread", phase("wait")),
        ("activation: driver, events, encoding", phase("activation")),
        ("waiting for the writer", phase("write") - phase("commit")),
        ("commit: SQL, log, sync", phase("commit")),
        ("after the commit: answers, launches", phase("effects")),
        ("dispatch of attempts", phase("dispatch")),
        (
            "attempts without the sandbox: checks, receipts",
            attempts - sandbox,
        ),
        ("sandbox", sandbox),
    ];
    println!("where the time of a workflow with 3 steps goes (means of {runs}):");
    let line = |name: &str, seconds: f64| {
        let time = shown(Duration::from_secs_f64(seconds.max(0.0)));
        println!("    {name:<52} {time}");
    };
    for (name, seconds) in lines {
        line(name, seconds);
    }
    let known: f64 = lines.iter().map(|(_, seconds)| seconds).sum();
    line(
        "HTTP, JSON, waiting for the result, and the rest",
        client - known,
    );
    line("all, as the client sees it", client);
    Ok(())
}

/// The server's metrics; series that differ only in labels are also there as one.
async fn metrics(connection: &mut Connection) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = connection.get("/metrics").await?;
    let text = String::from_utf8_lossy(&text);
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let value: f64 = value.parse()?;
        if let Some((name, _)) = series.split_once('{') {
            *metrics.entry(name.to_owned()).or_default() += value;
        }
        metrics.insert(series.to_owned(), value);
    }
    Ok(metrics)
}

async fn syncs(
    report: &mut Report,
    heyday: &Heyday,
    strace: Option<&Path>,
    runs: usize,
) -> anyhow::Result<()> {
    let found = match strace {
        Some(strace) => count_syncs(heyday, strace, runs).await?,
        None => None,
    };
    let (value, by_thread) = match found {
        // The median: when the log begins anew, its head is synced once more.
        Some((waited, by_thread)) => (median(waited), by_thread),
        None => (f64::NAN, BTreeMap::new()),
    };
    report.add(Figure {
        name: "workflow.3_steps_syncs".to_owned(),
        value,
        unit: "syncs",
        peer: None,
        goal: Some(Goal::AtMost(4.0)),
    });
    for (thread, mean) in by_thread {
        println!("    not waited for, by {thread}: {mean:.3} syncs a run");
    }
    Ok(())
}

/// Syncs of a run: those of each turn that it waits for, and the means of the others by
/// thread. `None` where strace may not attach, as in some containers.
async fn count_syncs(
    heyday: &Heyday,
    strace: &Path,
    runs: usize,
) -> anyhow::Result<Option<(Vec<f64>, BTreeMap<String, f64>)>> {
    const TURNS: usize = 5;
    let mut connection = heyday.connect().await?;
    let runs = runs.div_ceil(TURNS);
    // Transitions are committed by the thread that made them, or by the writer's.
    let mut waited = vec![0.0; TURNS];
    let mut by_thread = BTreeMap::<String, f64>::new();
    for turn in &mut waited {
        let counting = Counting::start(strace, heyday.pid()?).await;
        let Some(counting) = counted(counting) else {
            return Ok(None);
        };
        for _ in 0..runs {
            run_flow(&mut connection, THREE).await?;
        }
        let Some(calls) = counted(counting.end().await) else {
            return Ok(None);
        };
        for (thread, calls) in calls {
            let calls = calls as f64 / runs as f64;
            if thread == "history-writer" || thread.starts_with("activation-") {
                *turn += calls;
            } else {
                *by_thread.entry(thread).or_default() += calls / TURNS as f64;
            }
        }
    }
    Ok(Some((waited, by_thread)))
}

/// What strace did, where it could; why it could not is printed.
fn counted<T>(done: anyhow::Result<T>) -> Option<T> {
    done.inspect_err(|error| println!("syncs are not counted: {error:#}"))
        .ok()
}

/// Temporal's dev server and a worker on its Python SDK.
struct Temporal {
    worker: Native,
    client: Client,
    _cluster: Cluster,
}

impl Temporal {
    async fn start(environment: &Path, peers: &Path) -> anyhow::Result<Self> {
        let cluster = Cluster::start(&environment.join("bin/temporal")).await?;
        let mut python = tokio::process::Command::new(environment.join("bin/python"));
        python.arg(peers.join("temporal/peer.py"));
        Ok(Self {
            worker: cluster.worker("Python", python).await?,
            client: cluster.client().await?,
            _cluster: cluster,
        })
    }
}

/// Lets so many callers run workflows of that type on that queue for so long; answers how
/// many ended a second.
pub async fn load_cluster(
    client: &Client,
    (workflow_type, queue): (&str, &str),
    callers: usize,
    time: Duration,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let end = begun + time;
    let callers = (0..callers).map(|_| {
        let mut client = client.clone();
        async move {
            let mut runs = 0_u64;
            while Instant::now() < end {
                client.run(workflow_type, queue).await?;
                runs += 1;
            }
            anyhow::Ok(runs)
        }
    });
    let runs: u64 = futures::future::try_join_all(callers).await?.iter().sum();
    Ok(runs as f64 / begun.elapsed().as_secs_f64())
}

async fn throughput(
    report: &mut Report,
    heyday: &Heyday,
    restate: Option<&Restate>,
    temporal: Option<Temporal>,
    size: &Size,
) -> anyhow::Result<()> {
    let (mut ours, mut restates, mut temporals) = (Vec::new(), Vec::new(), Vec::new());
    let time = Duration::from_secs_f64(size.seconds);
    for _ in 0..size.rounds {
        let clients = clients(|| heyday.connect()).await?;
        let path = "/api/v1/activities/probe.echo?wait=30s";
        ours.push(load(clients, path, time).await?);
        if let Some(restate) = restate {
            let clients = self::clients(|| Connection::open(restate.ingress, None)).await?;
            restates.push(load(clients, "/bench/one", time).await?);
        }
        if let Some(temporal) = &temporal {
            let time = Duration::from_secs_f64(size.temporal_seconds);
            let run = (WORKFLOW, temporal.worker.queue.as_str());
            temporals.push(load_cluster(&temporal.client, run, CLIENTS, time).await?);
        }
    }
    println!("runs a second: ours {ours:.0?}; Restate {restates:.0?}; Temporal {temporals:.0?}");
    for (name, peer, of_peer, goal) in [
        ("restate", "Restate", restates, 2.0),
        ("temporal", "Temporal's dev server", temporals, 20.0),
    ] {
        report.add(Figure {
            name: format!("workflow.1_step_throughput_by_{name}"),
            value: median(ours.clone()),
            unit: "per s",
            peer: (!of_peer.is_empty()).then(|| (peer, median(of_peer))),
            goal: Some(Goal::RatioAtLeast(goal)),
        });
    }
    Ok(())
}

pub async fn clients<F>(connect: impl Fn() -> F) -> anyhow::Result<Vec<Connection>>
where
    F: Future<Output = anyhow::Result<Connection>>,
{
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect().await?);
    }
    Ok(clients)
}

/// Lets all clients run workflows for so long; answers how many ended a second.
pub async fn load(
    clients: Vec<Connection>,
    path: &'static str,
    time: Duration,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let end = begun + time;
    let clients = clients.into_iter().map(|mut connection| {
        tokio::spawn(async move {
            let mut runs = 0_u64;
            while Instant::now() < end {
                let body = connection.post(path, "7").await?;
                // Ours says how it ended; an open one says `Running`.
                if path.starts_with("/api") && !has(&body, b"\"Completed\"") {
                    bail!("a run has not ended: {}", String::from_utf8_lossy(&body));
                }
                runs += 1;
            }
            anyhow::Ok(runs)
        })
    });
    let mut runs = 0;
    for client in futures::future::join_all(clients).await {
        runs += client.context("a client failed")??;
    }
    Ok(runs as f64 / begun.elapsed().as_secs_f64())
}

fn has(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}
