//! The thread that computes batches of the encoders, and answers their requests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Instant;

use super::failpoint;
use super::loaded::Loaded;
use super::queue::{Item, Readiness};
use super::{Group, Piece, Shared};
use crate::device::Device;
use crate::error::{InferenceError, ModelError};
use crate::model::decoder::Chunk;
use crate::model::{Computed, Limits, Model, ModelFiles, Tokens};

/// What is done with a device; tests put another in its place.
pub(super) trait Compute: Send + Sync {
    /// Reads a model onto the device.
    fn load(
        &self,
        files: &ModelFiles,
        limits: &Limits,
        device: &Device,
    ) -> Result<Model, ModelError>;

    /// A vector for each sequence, or what the device says.
    fn compute(&self, model: &Loaded, batch: &[&Tokens]) -> Result<Vec<Computed>, String>;

    /// The wanted logits of texts that go on, or what the device says.
    fn read_on(&self, model: &Loaded, chunks: &mut [Chunk<'_>]) -> Result<Vec<Computed>, String>;
}

/// On the model's device. What the CPU computes is computed by threads of its own, which are
/// made when there is something.
pub(super) struct OnDevice {
    /// One for each core where absent.
    pub(super) threads: Option<usize>,
    pub(super) pool: OnceLock<Result<rayon::ThreadPool, String>>,
}

impl OnDevice {
    fn pool(&self) -> Result<&rayon::ThreadPool, String> {
        let make = || {
            let mut pool =
                rayon::ThreadPoolBuilder::new().thread_name(|number| format!("inference-{number}"));
            if let Some(threads) = self.threads {
                pool = pool.num_threads(threads);
            }
            pool.build().map_err(|error| error.to_string())
        };
        self.pool.get_or_init(make).as_ref().map_err(Clone::clone)
    }
}

impl Compute for OnDevice {
    fn load(
        &self,
        files: &ModelFiles,
        limits: &Limits,
        device: &Device,
    ) -> Result<Model, ModelError> {
        failpoint::loading().map_err(ModelError::Device)?;
        Model::load(files, limits, device)
    }

    fn compute(&self, model: &Loaded, batch: &[&Tokens]) -> Result<Vec<Computed>, String> {
        failpoint::reached()?;
        self.pool()?.install(|| model.model.compute_each(batch))
    }

    fn read_on(&self, model: &Loaded, chunks: &mut [Chunk<'_>]) -> Result<Vec<Computed>, String> {
        failpoint::reached()?;
        self.pool()?
            .install(|| super::generate::read_on(model, chunks))
    }
}

/// The thread.
pub(super) fn run(shared: &Shared, compute: &dyn Compute) {
    while let Some(batch) = next(shared) {
        let alive: Vec<Piece> = batch
            .into_iter()
            .map(|item| item.value)
            .filter(|piece| !piece.request.is_cancelled())
            .collect();
        if !alive.is_empty() {
            run_batch(shared, compute, alive);
        }
    }
}

/// Waits for a batch; none at the end.
fn next(shared: &Shared) -> Option<Vec<Item<Group, Piece>>> {
    let mut queues = shared.queues();
    loop {
        if queues.stopping {
            return None;
        }
        if std::mem::take(&mut queues.stale) {
            queues.pieces.retain(|piece| !piece.request.is_cancelled());
            queues
                .arrived
                .retain(|arrival| !arrival.asking.is_cancelled());
            queues.loads.retain(|asking| !asking.is_cancelled());
        }
        let now = Instant::now();
        let waited = match queues.pieces.readiness(now, &shared.batch) {
            Readiness::Now => return Some(queues.pieces.batch(&shared.batch)),
            Readiness::Empty => shared.ready.wait(queues),
            Readiness::At(then) => {
                let left = then.saturating_duration_since(now);
                match shared.ready.wait_timeout(queues, left) {
                    Ok((queues, _)) => Ok(queues),
                    Err(poisoned) => Ok(poisoned.into_inner().0),
                }
            }
        };
        queues = waited.unwrap_or_else(PoisonError::into_inner);
    }
}

fn run_batch(shared: &Shared, compute: &dyn Compute, batch: Vec<Piece>) {
    // All pieces are of one group, so of one model.
    let model = Arc::clone(&batch[0].model);
    let tokens: Vec<&Tokens> = batch.iter().map(|piece| &piece.tokens).collect();
    let begin = Instant::now();
    for piece in &batch {
        piece.request.started();
    }
    let computed = catch_unwind(AssertUnwindSafe(|| compute.compute(&model, &tokens)))
        .unwrap_or_else(|panic| Err(crate::panic_message(panic.as_ref())));
    let took = begin.elapsed();
    let gpu = shared.models.device().is_gpu();
    match computed {
        Ok(vectors) if vectors.len() == batch.len() => {
            let all: usize = tokens.iter().map(|tokens| tokens.ids.len()).sum();
            let name = model.name.clone();
            // Whoever is answered may ask for a model that takes this one's place.
            drop(model);
            let asked = batch.into_iter();
            let asked: Vec<_> = asked
                .map(|piece| (piece.request, piece.at, piece.tokens.ids.len()))
                .collect();
            for ((request, at, length), vector) in asked.into_iter().zip(vectors) {
                let share = took.mul_f64(length as f64 / all as f64);
                request.used(length, share, gpu);
                match vector {
                    Ok(vector) => request.computed(at, vector),
                    // The device is well, and so are the others of the batch.
                    Err(error) => {
                        tracing::error!(%error, model = name, "a text cannot be computed");
                        request.answer(Err(InferenceError::Internal));
                    }
                }
            }
        }
        Ok(vectors) => {
            tracing::error!(
                found = vectors.len(),
                wanted = batch.len(),
                "a batch has another size than its answer"
            );
            drop(model);
            fail(batch, &InferenceError::Internal);
        }
        Err(message) => {
            tracing::error!(message, model = model.name, "a batch failed");
            // What is queued would meet the same device; its callers may try again.
            let queued = shared.queues().pieces.drain();
            let error = failure(&message, "batch");
            // Before anybody is told: who tries again meets a device that was opened again.
            shared.models.recover(model.openings);
            drop(model);
            fail(batch.into_iter().chain(queued), &error);
        }
    }
}

/// What callers are told of a device that says this of a batch or a model.
pub(super) fn failure(message: &str, what: &str) -> InferenceError {
    if message.to_ascii_lowercase().contains("memory") {
        InferenceError::OutOfMemory(format!("the device has too little for the {what}"))
    } else {
        InferenceError::DeviceLost
    }
}

fn fail(pieces: impl IntoIterator<Item = Piece>, error: &InferenceError) {
    // Whoever is told may ask for a model that takes the place of theirs: all let it go before.
    let requests: Vec<_> = pieces.into_iter().map(|piece| piece.request).collect();
    for request in requests {
        request.answer(Err(error.clone()));
    }
}
