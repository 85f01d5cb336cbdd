//! A workflow with one activity on a Temporal cluster: our Wasm activity against native
//! activities of Temporal's SDKs, all on one dev server in one run.
//!
//! Every side is a worker in a process of its own. Native workflows are started by the
//! harness's client. Ours are started in two ways: by Heyday's API, as its users do, and by
//! that same client under the flow's type, as other Temporal code does; the latter are
//! pinned to versions by their first step, which asks the server.
//!
//! Latency: one client, the sides in turns, call by call. Where the time goes is what the
//! histories say: when each task was scheduled, taken and answered; and, before and after
//! that, what the client saw. Throughput: a hundred clients, the sides in turns; what it
//! costs is the CPU time of the side's worker, of all of the side's processes (ours has the
//! API's server too, which does what the natives' client does in the harness, where it is not
//! counted), and of the cluster's server for it.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;

use crate::cluster::{Client, Cluster, Native, WORKFLOW, steps};
use crate::http::Connection;
use crate::report::{Figure, Goal, Report, Times, compared, median, shown};
use crate::servers::{Heyday, HeydayWorker};
use crate::usage;
use crate::workflow::{CLIENTS, clients, load, load_cluster};

/// The flow that other Temporal code starts.
const FLOW: &str = "document: {dsl: 1.0.3, namespace: bench, name: one, version: 1.0.0}\n\
                    do:\n  - a: {call: parrot.echo}\n";
/// Its type, and the queue of flows.
const OURS: (&str, &str) = ("bench.one", "general-queue");
/// The same by the API, which answers when the run has ended.
const PATH: &str = "/api/v1/activities/parrot.echo?wait=30s";
/// The SDKs, in the order in which the best one is looked for.
const SDKS: [&str; 3] = ["Rust", "Python", "Go"];

/// What is measured, and beside what.
#[derive(Args)]
pub struct Options {
    /// Our binary, built for release.
    #[arg(long)]
    pub heyday: PathBuf,
    /// The folder of this workspace, `peers`.
    #[arg(long)]
    pub peers: PathBuf,
    /// The virtual environment with Temporal's dev server and Python SDK.
    #[arg(long)]
    pub temporal: PathBuf,
    /// The worker on Temporal's Go SDK; without it, it is not compared with.
    #[arg(long)]
    pub go: Option<PathBuf>,
    /// The component `parrot`: one activity that answers its input.
    #[arg(long)]
    pub parrot: PathBuf,
}

impl Options {
    /// Starts the cluster.
    pub async fn cluster(&self) -> anyhow::Result<Cluster> {
        println!("starting Temporal");
        Cluster::start(&self.temporal.join("bin/temporal")).await
    }

    /// Reads the component `parrot`.
    pub fn component(&self) -> anyhow::Result<Vec<u8>> {
        std::fs::read(&self.parrot).with_context(|| format!("--parrot {}", self.parrot.display()))
    }

    /// Starts a worker on the Python SDK.
    pub async fn python(&self, cluster: &Cluster) -> anyhow::Result<Native> {
        let mut command = tokio::process::Command::new(self.temporal.join("bin/python"));
        command.arg(self.peers.join("temporal/peer.py"));
        cluster.worker("Python", command).await
    }
}

/// How much is measured.
struct Size {
    turns: usize,
    calls: usize,
    rounds: usize,
    seconds: f64,
}

/// What is measured in one run.
struct Sides {
    cluster: Cluster,
    heyday: Heyday,
    worker: HeydayWorker,
    natives: Vec<Native>,
}

/// Measures all of it.
pub async fn run(report: &mut Report, options: &Options, quick: bool) -> anyhow::Result<()> {
    let size = if quick {
        Size {
            turns: 1,
            calls: 3,
            rounds: 1,
            seconds: 1.0,
        }
    } else {
        Size {
            turns: 15,
            calls: 10,
            rounds: 3,
            seconds: 6.0,
        }
    };
    let sides = Sides::start(options).await?;
    latency(report, &sides, &size).await?;
    throughput(report, &sides, &size).await
}

impl Sides {
    async fn start(options: &Options) -> anyhow::Result<Self> {
        let cluster = options.cluster().await?;
        println!("starting Heyday and its worker");
        let heyday = Heyday::serve(&options.heyday, cluster.address).await?;
        let mut worker = heyday
            .begin_worker(&options.heyday, cluster.address)
            .await?;
        worker.until_ready().await?;
        heyday.push(&options.component()?).await?;
        heyday.push_flows(&[FLOW]).await?;
        println!("starting the native workers");
        let mut rust = tokio::process::Command::new(std::env::current_exe()?);
        rust.arg("native");
        let mut started = vec![
            ("Rust", cluster.worker("Rust", rust).await),
            ("Python", options.python(&cluster).await),
        ];
        if let Some(go) = &options.go {
            let command = tokio::process::Command::new(go);
            started.push(("Go", cluster.worker("Go", command).await));
        }
        let natives = started
            .into_iter()
            .filter_map(|(sdk, worker)| compared(native(sdk), worker))
            .collect();
        Ok(Self {
            cluster,
            heyday,
            worker,
            natives,
        })
    }

    /// What is started on the cluster by its own client: ours, and the natives.
    fn started_by_type(&self) -> Vec<(&'static str, &str, &str)> {
        let natives = self.natives.iter();
        std::iter::once(("Heyday, by its type", OURS.0, OURS.1))
            .chain(natives.map(|native| (native.sdk, WORKFLOW, native.queue.as_str())))
            .collect()
    }
}

/// A run by the API; answers its workflow id.
async fn run_by_api(connection: &mut Connection) -> anyhow::Result<String> {
    let ended: Value = serde_json::from_slice(&connection.post(PATH, "7").await?)?;
    if ended["status"] != "Completed" || ended["result"] != 7 {
        bail!("a workflow ended otherwise: {ended}");
    }
    let id = ended["workflow_id"].as_str();
    Ok(id.context("an answer without workflow_id")?.to_owned())
}

/// A run as its client saw it.
struct Seen {
    workflow_id: String,
    begun: SystemTime,
    took: Duration,
}

/// What one side's runs took.
#[derive(Default)]
struct Side {
    name: &'static str,
    /// The median of each turn, in milliseconds.
    turns: Vec<f64>,
    all: Times,
    /// The runs of the last turn.
    last: Vec<Seen>,
}

async fn latency(report: &mut Report, sides: &Sides, size: &Size) -> anyhow::Result<()> {
    let mut api = sides.heyday.connect().await?;
    let mut client = sides.cluster.client().await?;
    let by_type = sides.started_by_type();
    let mut measured: Vec<Side> = std::iter::once("Heyday")
        .chain(by_type.iter().map(|(name, ..)| *name))
        .map(|name| Side {
            name,
            ..Side::default()
        })
        .collect();
    // The first turn warms up all of them.
    for turn in 0..=size.turns {
        let mut times = vec![Times::default(); measured.len()];
        for side in &mut measured {
            side.last.clear();
        }
        for call in 0..size.calls {
            // Which one comes first changes: it finds an idle server.
            for step in 0..measured.len() {
                let side = (call + step) % measured.len();
                let (at, begun) = (SystemTime::now(), Instant::now());
                let workflow_id = match side.checked_sub(1) {
                    None => run_by_api(&mut api).await?,
                    Some(index) => {
                        let (_, workflow_type, queue) = by_type[index];
                        client.run(workflow_type, queue).await?
                    }
                };
                let took = begun.elapsed();
                times[side].push(took);
                measured[side].last.push(Seen {
                    workflow_id,
                    begun: at,
                    took,
                });
            }
        }
        if turn > 0 {
            for (side, mut times) in measured.iter_mut().zip(times) {
                side.turns.push(times.percentile(50.0).as_secs_f64() * 1e3);
                side.all.extend(times);
            }
        }
    }
    let of = |name: &str| {
        let side = measured.iter().find(|side| side.name == name);
        side.map(|side| median(side.turns.clone()))
    };
    let natives = SDKS
        .iter()
        .filter_map(|sdk| Some((native(sdk), of(sdk)?)))
        .min_by(|(_, a), (_, b)| a.total_cmp(b));
    for (name, side) in [
        ("temporal.1_activity", "Heyday"),
        ("temporal.1_activity_by_type", "Heyday, by its type"),
    ] {
        report.add(Figure {
            name: name.to_owned(),
            value: of(side).unwrap_or_default(),
            unit: "ms",
            peer: natives,
            goal: Some(Goal::RatioAtMost(1.1)),
        });
    }
    for side in &mut measured {
        println!("    {}: {}", side.name, side.all.text());
    }
    parts(&mut client, &measured).await
}

const fn native(sdk: &str) -> &'static str {
    match sdk.as_bytes() {
        b"Rust" => "Temporal's Rust SDK",
        b"Python" => "Temporal's Python SDK",
        _ => "Temporal's Go SDK",
    }
}

/// Where the time of a run goes: to its start by the client's clock, which is the cluster's,
/// then by the cluster's history of it, and to the client again.
async fn parts(client: &mut Client, measured: &[Side]) -> anyhow::Result<()> {
    const NAMES: [&str; 8] = [
        "the start reaches the cluster",
        "its first task waits",
        "its first task runs",
        "the activity waits",
        "the activity runs",
        "its last task waits",
        "its last task runs",
        "the end reaches the client",
    ];
    println!("where the time of a workflow with one activity goes (means in ms, by its history):");
    println!("    {:<24}{}", "", NAMES.join("; "));
    for side in measured {
        let mut sums = [0.0; NAMES.len()];
        for run in &side.last {
            let history = client.history(&run.workflow_id).await?;
            let at = steps(&history)
                .with_context(|| format!("{}'s history of {}", side.name, run.workflow_id))?;
            let mut before = run
                .begun
                .duration_since(SystemTime::UNIX_EPOCH)?
                .as_secs_f64();
            let ended = before + run.took.as_secs_f64();
            for (sum, at) in sums.iter_mut().zip(at.into_iter().chain([ended])) {
                *sum += (at - before) * 1e3 / side.last.len() as f64;
                before = at;
            }
        }
        let text: Vec<String> = sums.iter().map(|ms| format!("{ms:.1}")).collect();
        println!("    {:<24}{}", side.name, text.join("; "));
    }
    Ok(())
}

/// Runs a second, and what each costs: CPU milliseconds of the worker, of the API's server,
/// which only ours has, and of the cluster's.
#[derive(Default)]
struct Rate {
    per_second: Vec<f64>,
    worker_ms: Vec<f64>,
    server_ms: Vec<f64>,
    cluster_ms: Vec<f64>,
}

/// The processes of a side, and the cluster's: the worker, the API's server, the cluster.
type Processes = [Option<u32>; 3];

/// CPU times at the beginning of a turn.
struct Turn {
    begun: Instant,
    processes: Processes,
    used: [Duration; 3],
}

/// CPU times of processes; none of one that there is not.
fn used(processes: &Processes) -> anyhow::Result<[Duration; 3]> {
    let mut times = [Duration::ZERO; 3];
    for (time, process) in times.iter_mut().zip(processes) {
        if let Some(pid) = process {
            *time = usage::cpu(*pid)?;
        }
    }
    Ok(times)
}

impl Turn {
    fn begin(processes: Processes) -> anyhow::Result<Self> {
        Ok(Self {
            begun: Instant::now(),
            used: used(&processes)?,
            processes,
        })
    }
}

impl Rate {
    fn push(&mut self, per_second: f64, turn: &Turn) -> anyhow::Result<()> {
        let runs = per_second * turn.begun.elapsed().as_secs_f64();
        self.per_second.push(per_second);
        let times = [
            &mut self.worker_ms,
            &mut self.server_ms,
            &mut self.cluster_ms,
        ];
        let now = used(&turn.processes)?;
        for (times, (now, before)) in times.into_iter().zip(now.into_iter().zip(turn.used)) {
            times.push((now - before).as_secs_f64() * 1e3 / runs);
        }
        Ok(())
    }

    fn per_second(&self) -> f64 {
        median(self.per_second.clone())
    }

    fn worker_ms(&self) -> f64 {
        median(self.worker_ms.clone())
    }

    fn server_ms(&self) -> f64 {
        median(self.server_ms.clone())
    }

    fn cluster_ms(&self) -> f64 {
        median(self.cluster_ms.clone())
    }

    /// Of all processes of the side.
    fn own_ms(&self) -> f64 {
        let both = self.worker_ms.iter().zip(&self.server_ms);
        median(both.map(|(worker, server)| worker + server).collect())
    }
}

async fn throughput(report: &mut Report, sides: &Sides, size: &Size) -> anyhow::Result<()> {
    let time = Duration::from_secs_f64(size.seconds);
    let client = sides.cluster.client().await?;
    let cluster = Some(sides.cluster.pid()?);
    let own = [
        Some(sides.worker.pid()?),
        Some(sides.heyday.pid()?),
        cluster,
    ];
    let (mut ours, mut by_type) = (Rate::default(), Rate::default());
    let mut natives: Vec<Rate> = sides.natives.iter().map(|_| Rate::default()).collect();
    for _ in 0..size.rounds {
        let clients = clients(|| sides.heyday.connect()).await?;
        let turn = Turn::begin(own)?;
        let rate = load(clients, PATH, time).await?;
        ours.push(rate, &turn)?;
        let turn = Turn::begin(own)?;
        let rate = load_cluster(&client, OURS, CLIENTS, time).await?;
        by_type.push(rate, &turn)?;
        for (native, measured) in sides.natives.iter().zip(&mut natives) {
            let turn = Turn::begin([Some(native.pid()?), None, cluster])?;
            let run = (WORKFLOW, native.queue.as_str());
            let rate = load_cluster(&client, run, CLIENTS, time).await?;
            measured.push(rate, &turn)?;
        }
    }
    println!(
        "    of the cluster's server a run: {} of ours, {} of ours by their type",
        cpu_time(ours.cluster_ms()),
        cpu_time(by_type.cluster_ms()),
    );
    for (native, measured) in sides.natives.iter().zip(&natives) {
        let cluster = cpu_time(measured.cluster_ms());
        println!("        {cluster} of {}'s", native.sdk);
    }
    for sdk in SDKS {
        let name = sdk.to_lowercase();
        // One that was not started shows as not compared.
        let mut measured = sides.natives.iter().zip(&natives);
        let measured = measured.find(|(native, _)| native.sdk == sdk);
        let mut add = |figure: &str, unit, of: fn(&Rate) -> f64, goal| {
            report.add(Figure {
                name: format!("temporal.{figure}_by_{name}"),
                value: of(&ours),
                unit,
                peer: measured.map(|(_, rate)| (native(sdk), of(rate))),
                goal,
            });
        };
        // More runs a core than Python's, whether or not the API's server is counted.
        let goal = (sdk == "Python").then_some(Goal::RatioAtMost(1.0));
        add("1_activity_throughput", "per s", Rate::per_second, None);
        add("worker_cpu", "ms", Rate::worker_ms, goal);
        add("cpu", "ms", Rate::own_ms, goal);
    }
    println!(
        "    of the API's server {} a run; started by their type {:.1} a second, and a run {} of the \
         worker and {} of the API's server, which it asks for the version",
        cpu_time(ours.server_ms()),
        by_type.per_second(),
        cpu_time(by_type.worker_ms()),
        cpu_time(by_type.server_ms()),
    );
    Ok(())
}

fn cpu_time(ms: f64) -> String {
    format!("{} of CPU time", shown(Duration::from_secs_f64(ms / 1e3)))
}
