//! Models: how fast they are computed, what the service around them gains and costs.
//!
//! - [`embeddings`]: the encoder alone against onnxruntime and candle ([`peer`]), on the same
//!   weights, tokens and threads;
//! - [`shared`]: calls of many guests computed together against one at a time; a guest's call
//!   against a native one; one model for all plugins against one for each;
//! - [`decoding`]: a model that generates against candle, on random weights.

mod decoding;
mod embeddings;
mod peer;
pub mod shared;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use heyday_inference::model::Limits;
use heyday_inference::{DeviceChoice, Inference, ModelStore, Options as ServiceOptions};

use crate::report::Report;

/// Threads of each side.
const THREADS: usize = 2;
/// The name of the only model of a store.
const MODEL: &str = "model";

/// Of any size.
fn limits() -> Limits {
    Limits {
        model_bytes: u64::MAX,
        ..Limits::default()
    }
}

/// What is measured, and beside what.
#[derive(Args)]
pub struct Options {
    /// The folder of all-MiniLM-L6-v2.
    #[arg(long)]
    minilm: PathBuf,
    /// The folder of this workspace, `peers`.
    #[arg(long)]
    peers: PathBuf,
    /// The virtual environment with onnxruntime; without it, it is not compared with.
    #[arg(long)]
    onnxruntime: Option<PathBuf>,
    /// The program on candle; without it, it is not compared with.
    #[arg(long)]
    candle: Option<PathBuf>,
}

/// Measures all of it. `probe` lies among the guests.
pub async fn run(
    report: &mut Report,
    probe: &Path,
    options: &Options,
    quick: bool,
) -> anyhow::Result<()> {
    embeddings::run(report, options, quick).await?;
    let guest = std::fs::read(probe.with_file_name("thinker.wasm"))?;
    shared::run(report, &guest, &options.minilm, quick).await?;
    decoding::run(report, options, quick).await
}

/// A store in this folder with one model.
fn store(folder: &Path, model: &Path) -> anyhow::Result<Arc<ModelStore>> {
    let store = ModelStore::open(folder, limits())?;
    store.import(MODEL, model)?;
    Ok(Arc::new(store))
}

/// The service as it is by itself, on the CPU; the options may be others.
fn service(
    store: &Arc<ModelStore>,
    change: impl FnOnce(&mut ServiceOptions),
) -> anyhow::Result<Inference> {
    let mut options = ServiceOptions {
        device: DeviceChoice::Cpu,
        threads: Some(THREADS),
        ..ServiceOptions::default()
    };
    change(&mut options);
    Ok(Inference::start(Arc::clone(store), &options)?)
}
