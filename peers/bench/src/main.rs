//! Measures Heyday beside its peers, in one run: `cargo xtask bench` builds it, fetches
//! the peers, and calls it once per benchmark.
//!
//! Noise hits both sides alike: their samples alternate in short blocks, a figure is the
//! median over the blocks, and what counts is the ratio. Each benchmark is a module:
//!
//! - [`sandbox`]: an activity call against bare wasmtime ([`bare`]), by part ([`parts`]),
//!   and the memory of a live instance ([`memory`]);
//! - [`interrupt`]: how late a guest that computes for ever is stopped;
//! - [`workflow`]: durable workflows over HTTP against Restate and Temporal ([`servers`]);
//! - [`temporal`]: one activity on one Temporal cluster, ours against activities on its
//!   SDKs ([`cluster`], [`native`]), and the CPU time of the workers ([`usage`]);
//! - [`host_calls`]: calls of capabilities by a guest against the same done natively;
//! - [`vectors`] and [`graphs`]: the embedded stores against Weaviate and Neo4j
//!   ([`support`]), on the same data ([`clustered`]);
//! - [`inference`]: models against onnxruntime and candle, and the service around them;
//! - [`retrieval`]: what the knowledge example's search finds, against what people judged;
//! - [`workers`]: how soon a worker has its first task done, and its memory with many
//!   plugins.
//!
//! Start reading at [`report`] for what comes out.

#![allow(clippy::print_stdout, reason = "a command line")]

mod bare;
mod cluster;
mod clustered;
mod graphs;
mod host_calls;
mod http;
mod inference;
mod interrupt;
mod memory;
mod native;
mod ours;
mod parts;
mod report;
mod retrieval;
mod sandbox;
mod servers;
mod support;
mod syncs;
mod temporal;
mod usage;
mod vectors;
mod workers;
mod workflow;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use heyday_capabilities::graph::engine;

use report::{Report, shown};

/// No benchmark takes longer, whatever hangs.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// Measures Heyday beside its peers.
#[derive(Parser)]
struct Arguments {
    /// Few samples: shows that it works, and measures nothing.
    #[arg(long, global = true)]
    quick: bool,
    /// Where the figures are written as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// The component that both sides call.
    #[arg(long, global = true, env = "HEYDAY_PROBE")]
    probe: Option<PathBuf>,
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// An activity call in a fresh sandbox against bare wasmtime.
    Sandbox,
    /// One side's memory per live instance; called by `sandbox`, in a process of its own.
    #[command(hide = true)]
    Memory {
        /// Which side.
        side: memory::Side,
    },
    /// How late a guest that computes for ever is stopped.
    Interrupt,
    /// Calls of capabilities by a guest against the same done natively.
    HostCalls,
    /// The embedded vector store against Weaviate.
    Vectors,
    /// The embedded graph against Neo4j.
    Graphs,
    /// Models against onnxruntime and candle, and the service around them.
    Inference(inference::Options),
    /// The memory of a model for several plugins; called by `inference`, in a process of its own.
    #[command(hide = true)]
    ModelsMemory {
        /// One for all, or one for each.
        models: inference::shared::Models,
        /// The folder of all-MiniLM-L6-v2.
        minilm: PathBuf,
    },
    /// What the knowledge example's search finds, against what people judged.
    Retrieval(retrieval::Options),
    /// Durable workflows over HTTP against Restate and Temporal.
    Workflow(workflow::Options),
    /// One activity on a Temporal cluster against activities on its SDKs.
    Temporal(temporal::Options),
    /// A worker's start, and its memory with many plugins.
    Workers(temporal::Options),
    /// A worker on Temporal's Rust SDK; called by `temporal`, in a process of its own.
    #[command(hide = true)]
    Native {
        /// The cluster's address.
        address: SocketAddr,
        /// The task queue.
        queue: String,
    },
}

fn main() -> anyhow::Result<()> {
    // Started once more for each embedded graph, as the server's own program is.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == engine::COMMAND)
    {
        std::process::exit(engine::main().into());
    }
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut report = Report::begin();
    let quick = arguments.quick;
    let probe = || {
        let probe = arguments.probe.as_deref();
        probe.context("--probe names the component `probe`")
    };
    let component = || {
        let probe = probe()?;
        std::fs::read(probe).with_context(|| format!("--probe {}", probe.display()))
    };
    let measuring = async {
        match &arguments.benchmark {
            Benchmark::Sandbox => sandbox::run(&mut report, &component()?, probe()?, quick).await,
            Benchmark::Memory { side } => memory::measure(*side, &component()?).await,
            Benchmark::Interrupt => interrupt::run(&mut report, &component()?, quick).await,
            Benchmark::HostCalls => {
                host_calls::run(&mut report, &component()?, probe()?, quick).await
            }
            Benchmark::Vectors => vectors::run(&mut report, quick).await,
            Benchmark::Graphs => graphs::run(&mut report, quick).await,
            Benchmark::Inference(options) => {
                inference::run(&mut report, probe()?, options, quick).await
            }
            Benchmark::ModelsMemory { models, minilm } => {
                inference::shared::measure(*models, minilm).await
            }
            Benchmark::Retrieval(options) => {
                retrieval::run(&mut report, probe()?, options, quick).await
            }
            Benchmark::Workflow(options) => {
                workflow::run(&mut report, &component()?, options, quick).await
            }
            Benchmark::Temporal(options) => temporal::run(&mut report, options, quick).await,
            Benchmark::Workers(options) => {
                workers::run(&mut report, &component()?, options, quick).await
            }
            Benchmark::Native { address, queue } => native::work(*address, queue).await,
        }
    };
    let measured = runtime.block_on(async { tokio::time::timeout(LIMIT, measuring).await });
    // Guests that still compute must not hold up the end.
    runtime.shutdown_background();
    if let Some(rest) = report.rest() {
        println!("    after the last figure: {}", shown(rest));
    }
    // What one that failed had measured counts, too.
    let written = match &arguments.json {
        Some(path) => std::fs::write(path, report.json().to_string())
            .with_context(|| format!("--json {}", path.display())),
        None => Ok(()),
    };
    measured.context("the benchmark did not end")??;
    written
}
