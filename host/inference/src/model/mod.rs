//! A model: its files, what they say it is, and the loaded thing that computes.
//!
//! [`Description::read`] checks everything that can be known without reading weights;
//! [`Model::load`] reads them onto a device. What is loaded never changes and is shared.

pub mod config;
mod encoder;
pub mod files;
mod kernels;
#[cfg(test)]
pub(crate) mod tests;
pub mod tokens;
pub mod weights;

use serde::{Deserialize, Serialize};

pub use self::config::{Architecture, Config, Limits, Pooling, Task};
pub use self::encoder::Encoder;
pub use self::files::ModelFiles;
pub use self::tokens::{LongText, Tokens, Window};

use self::tokens::Tokenizer;
use self::weights::Weights;
use crate::device::Device;
use crate::error::ModelError;

/// What a caller may know of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// `embed`, `rerank` or `generate`.
    pub task: Task,
    /// `bert`, `roberta`: as `model_type` in `config.json`.
    pub architecture: String,
    /// Numbers in an embedding; absent where the model makes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
    /// How a text's tokens become one embedding; absent where the model makes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Whether embeddings have the length 1.
    pub normalized: bool,
    /// The most tokens that it reads at once, with those that it adds itself.
    pub window: usize,
    /// Its weights' numbers; absent, as the next, where they are elsewhere.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parameters: u64,
    /// Bytes that it takes in memory when it is loaded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory_bytes: u64,
    /// What its authors put before a text, by the text's purpose (`query`): the caller's
    /// matter.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub prompts: std::collections::BTreeMap<String, String>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A model whose files were checked but whose weights were not read.
#[derive(Debug)]
pub struct Description {
    config: Config,
    tokenizer: Tokenizer,
    weights: Weights,
}

impl Description {
    /// Reads what the files say and compares them with each other: the sizes in the
    /// configuration with the names and shapes in the weights' headers, and with the
    /// tokenizer's vocabulary. Nothing larger than a bound is read or allocated.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(files: &ModelFiles, limits: &Limits) -> Result<Self, ModelError> {
        let config = Config::read(files, limits)?;
        let weights = Weights::open(files, limits)?;
        weights.check(&config)?;
        let tokenizer = Tokenizer::read(files, &config)?;
        Ok(Self {
            config,
            tokenizer,
            weights,
        })
    }

    /// What it is.
    #[must_use]
    pub fn properties(&self) -> Properties {
        let config = &self.config;
        let embeds = config.task == Task::Embed;
        Properties {
            task: config.task,
            architecture: config.model_type.clone(),
            dimensions: embeds.then_some(config.hidden),
            pooling: embeds.then_some(config.pooling),
            normalized: embeds && config.normalize,
            window: config.window,
            parameters: config.parameters(),
            memory_bytes: config.memory_bytes(),
            prompts: config.prompts.clone(),
        }
    }

    /// Reads every weight and finds those that are no numbers: what only a whole read can
    /// tell.
    ///
    /// # Errors
    /// When a weight is not finite, or the file ends early.
    pub fn verify_weights(&self) -> Result<(), ModelError> {
        for name in self.config.tensors().iter().map(|tensor| &tensor.name) {
            self.weights.read(name)?;
        }
        Ok(())
    }
}

/// A model that is loaded on a device.
#[derive(Debug)]
pub struct Model {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    encoder: Encoder,
    properties: Properties,
}

impl Model {
    /// Reads the weights onto the device.
    ///
    /// # Errors
    /// As [`Description::read`]; a weight that is no number; no memory on the device.
    pub fn load(files: &ModelFiles, limits: &Limits, device: &Device) -> Result<Self, ModelError> {
        let description = Description::read(files, limits)?;
        let properties = description.properties();
        let encoder = Encoder::load(&description.config, &description.weights, device)?;
        Ok(Self {
            tokenizer: description.tokenizer,
            encoder,
            properties,
        })
    }

    /// What it is.
    #[must_use]
    pub const fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Computes a batch: for each sequence its embedding, or its one score.
    ///
    /// # Errors
    /// What the device says where it fails.
    pub fn compute(&self, batch: &[&Tokens]) -> Result<Vec<Vec<f32>>, String> {
        self.encoder.compute(batch)
    }
}

/// The embedding of a text that was split: the mean of its pieces', by their lengths.
#[must_use]
pub fn average(mut vectors: Vec<Vec<f32>>, lengths: &[usize], normalized: bool) -> Vec<f32> {
    if vectors.len() < 2 {
        return vectors.pop().unwrap_or_default();
    }
    let total: usize = lengths.iter().sum();
    let mut mean = vec![0.0_f32; vectors[0].len()];
    for (vector, &length) in vectors.iter().zip(lengths) {
        let share = length as f32 / total as f32;
        for (sum, value) in mean.iter_mut().zip(vector) {
            *sum += share * value;
        }
    }
    if normalized {
        let square: f32 = mean.iter().map(|value| value * value).sum();
        let length = square.sqrt().max(1e-12);
        for value in &mut mean {
            *value /= length;
        }
    }
    mean
}
