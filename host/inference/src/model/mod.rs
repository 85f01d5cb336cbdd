//! A model: its files, what they say it is, and the loaded thing that computes.
//!
//! [`Description::read`] checks everything that can be known without reading weights;
//! [`Model::load`] reads them onto a device. What is loaded never changes and is shared.

mod attention;
pub mod config;
pub(crate) mod decoder;
mod encoder;
pub mod files;
mod kernels;
mod loader;
mod packed;
#[cfg(test)]
pub(crate) mod tests;
pub mod tokens;
pub mod weights;

use serde::{Deserialize, Serialize};

pub use self::config::{Architecture, Config, Limits, Pooling, Task};
pub use self::encoder::Encoder;
pub use self::files::ModelFiles;
pub use self::tokens::{LongText, Tokens, Window};

use self::config::TensorShape;
use self::decoder::Decoder;
use self::decoder::chat::Chat;
use self::decoder::config::DecoderConfig;
use self::tokens::{Sizes, Tokenizer};
use self::weights::Weights;
use crate::device::Device;
use crate::error::{ModelError, NotFinite};

/// What a caller may know of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// `embed`, `rerank` or `generate`.
    pub task: Task,
    /// `bert`, `llama`: as `model_type` in `config.json`.
    pub architecture: String,
    /// Numbers in an embedding; absent where the model makes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
    /// How a text's tokens become one embedding; absent where the model makes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Whether embeddings have the length 1.
    pub normalized: bool,
    /// The most tokens that it reads at once, with those that it adds itself; prompt and
    /// answer together where it generates.
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
    /// Whether it has a template for conversations; absent where it does not generate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<bool>,
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
    kind: Kind,
    /// Its tokenizer.
    pub(crate) tokenizer: Tokenizer,
    weights: Weights,
}

#[derive(Debug)]
enum Kind {
    Encoder(Config),
    Decoder(Box<DecoderConfig>, Chat),
}

#[derive(Deserialize)]
struct RawKind {
    #[serde(default)]
    model_type: String,
}

impl Kind {
    fn read(files: &ModelFiles, limits: &Limits) -> Result<Self, ModelError> {
        let raw: RawKind = files.json("config.json", "it says what the model is")?;
        if !decoder::config::is_decoder(&raw.model_type) {
            return Ok(Self::Encoder(Config::read(files, limits)?));
        }
        let config = DecoderConfig::read(files, limits)?;
        Ok(Self::Decoder(
            Box::new(config),
            Chat::read(files, &limits.templates)?,
        ))
    }

    fn tensors(&self) -> Vec<TensorShape> {
        match self {
            Self::Encoder(config) => config.tensors(),
            Self::Decoder(config, _) => config.tensors(),
        }
    }

    const fn sizes(&self) -> Sizes {
        match self {
            Self::Encoder(config) => Sizes {
                window: config.window,
                vocabulary: config.vocabulary,
                types: config.types,
                lowercase: config.lowercase,
            },
            Self::Decoder(config, _) => Sizes {
                window: config.window,
                vocabulary: config.vocabulary,
                types: 1,
                lowercase: false,
            },
        }
    }
}

impl Description {
    /// Reads what the files say and compares them with each other: the sizes in the
    /// configuration with the names and shapes in the weights' headers, and with the
    /// tokenizer's vocabulary. Nothing larger than a bound is read or allocated.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(files: &ModelFiles, limits: &Limits) -> Result<Self, ModelError> {
        let mut kind = Kind::read(files, limits)?;
        let (word, prefixes) = match kind {
            Kind::Encoder(_) => (encoder::WORD, encoder::PREFIXES.as_slice()),
            Kind::Decoder(..) => (decoder::WORD, decoder::PREFIXES.as_slice()),
        };
        let weights = Weights::open(files, limits, word, prefixes)?;
        weights.check(&kind.tensors())?;
        let tokenizer = Tokenizer::read(files, &kind.sizes())?;
        if let Kind::Decoder(config, chat) = &mut kind {
            let end = chat.end.as_deref().and_then(|end| tokenizer.id(end));
            config.ends.extend(end);
        }
        Ok(Self {
            kind,
            tokenizer,
            weights,
        })
    }

    /// What it is.
    #[must_use]
    pub fn properties(&self) -> Properties {
        let parameters = config::numbers(&self.kind.tensors());
        match &self.kind {
            Kind::Encoder(config) => {
                let embeds = config.task == Task::Embed;
                Properties {
                    task: config.task,
                    architecture: config.model_type.clone(),
                    dimensions: embeds.then_some(config.hidden),
                    pooling: embeds.then_some(config.pooling),
                    normalized: embeds && config.normalize,
                    window: config.window,
                    parameters,
                    memory_bytes: config.memory_bytes(),
                    prompts: config.prompts.clone(),
                    chat: None,
                }
            }
            Kind::Decoder(config, chat) => Properties {
                task: Task::Generate,
                architecture: config.model_type.clone(),
                dimensions: None,
                pooling: None,
                normalized: false,
                window: config.window,
                parameters,
                memory_bytes: config.memory_bytes(),
                prompts: std::collections::BTreeMap::new(),
                chat: Some(chat.has_template()),
            },
        }
    }

    /// Reads every weight and finds those that are no numbers: what only a whole read can
    /// tell.
    ///
    /// # Errors
    /// When a weight is not finite, or the file ends early.
    pub fn verify_weights(&self) -> Result<(), ModelError> {
        for tensor in self.kind.tensors() {
            self.weights.read(&tensor.name)?;
        }
        Ok(())
    }
}

/// Numbers that were computed of one text. In a batch no text's numbers depend on another's.
pub(crate) type Computed = Result<Vec<f32>, NotFinite>;

/// One text's part of what was computed.
fn checked(values: &[f32]) -> Computed {
    if values.iter().all(|value| value.is_finite()) {
        Ok(values.to_vec())
    } else {
        Err(NotFinite)
    }
}

/// A model that is loaded on a device.
#[derive(Debug)]
pub struct Model {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    computes: Computes,
    properties: Properties,
}

#[derive(Debug)]
enum Computes {
    Encoder(Box<Encoder>),
    Decoder(Box<Decoder>),
}

impl Model {
    /// Reads the weights onto the device.
    ///
    /// # Errors
    /// As [`Description::read`]; a weight that is no number; no memory on the device.
    pub fn load(files: &ModelFiles, limits: &Limits, device: &Device) -> Result<Self, ModelError> {
        let description = Description::read(files, limits)?;
        let properties = description.properties();
        let weights = &description.weights;
        let computes = match description.kind {
            Kind::Encoder(config) => {
                Computes::Encoder(Box::new(Encoder::load(&config, weights, device)?))
            }
            Kind::Decoder(config, chat) => {
                Computes::Decoder(Box::new(Decoder::load(&config, chat, weights, device)?))
            }
        };
        Ok(Self {
            tokenizer: description.tokenizer,
            computes,
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
    /// What the device says where it fails; numbers that ran over.
    pub fn compute(&self, batch: &[&Tokens]) -> Result<Vec<Vec<f32>>, String> {
        let computed: Result<_, NotFinite> = self.compute_each(batch)?.into_iter().collect();
        computed.map_err(|error| error.to_string())
    }

    /// The same, where a sequence whose numbers ran over costs no other.
    ///
    /// # Errors
    /// What the device says where it fails.
    pub(crate) fn compute_each(&self, batch: &[&Tokens]) -> Result<Vec<Computed>, String> {
        match &self.computes {
            Computes::Encoder(encoder) => encoder.compute(batch),
            Computes::Decoder(_) => Err("it is a decoder".to_owned()),
        }
    }

    /// What generates; none where it is an encoder.
    pub(crate) fn decoder(&self) -> Option<&Decoder> {
        match &self.computes {
            Computes::Encoder(_) => None,
            Computes::Decoder(decoder) => Some(decoder),
        }
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
