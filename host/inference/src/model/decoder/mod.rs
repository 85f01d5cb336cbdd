//! The decoder: from tokens to how likely each token is next, on burn's tensors.
//!
//! Llama's architecture, and what differs from it in Mistral (attention to the latest tokens
//! only) and Qwen2 (biases). The new tokens of all texts of a batch lie one after another,
//! however many each text has, and go through each linear layer as one matrix. Positions,
//! attention and what was read are bare numbers on the CPU ([`cache`]), and tensors on a GPU
//! ([`on_device`]), from which only the logits come back.

pub(crate) mod cache;
pub(crate) mod chat;
pub(crate) mod config;
mod on_device;
mod rope;
pub(crate) mod sample;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod text;

use burn_tensor::activation::silu;
use burn_tensor::{Tensor, TensorData};

use self::cache::{Cache, Sizes, Span};
use self::chat::Chat;
use self::config::DecoderConfig;
use self::on_device::{Step, Tables};
use super::kernels;
use super::loader::{Linear, Loader, Table, bare, guarded};
use super::weights::Weights;
use super::{Computed, checked};
use crate::device::Device;
use crate::error::ModelError;

/// The table of words, and what stands before names of models that were saved with a head.
pub(crate) const WORD: &str = "embed_tokens.weight";
pub(crate) const PREFIXES: [&str; 2] = ["model.", ""];

#[derive(Debug)]
struct Norm {
    gamma: Tensor<1>,
    epsilon: f64,
}

impl Norm {
    fn apply(&self, input: Tensor<2>) -> Tensor<2> {
        let square = (input.clone() * input.clone()).mean_dim(1);
        input / (square + self.epsilon).sqrt() * self.gamma.clone().unsqueeze_dim(0)
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    /// Query, key and value beside each other.
    qkv: Linear,
    attended: Linear,
    norm: Norm,
    /// Both halves of what widens.
    widen: Linear,
    narrow: Linear,
}

/// A decoder on its device.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) config: DecoderConfig,
    pub(crate) chat: Chat,
    words: Table,
    layers: Vec<Layer>,
    norm: Norm,
    /// A row for each token; none where it is the table of words.
    head: Option<Table>,
    device: Device,
    /// What was read of texts, and attention to it, are tensors on the device.
    in_tensors: bool,
}

/// What was read of one text.
#[derive(Debug)]
pub(crate) struct Memory {
    kept: Kept,
    /// Tokens that the text may have.
    most: usize,
}

#[derive(Debug)]
enum Kept {
    /// Bare numbers, for the CPU.
    Bare(Cache),
    /// Tensors, for a GPU.
    Tensors(Tables),
}

impl Memory {
    /// Tokens in it.
    pub(crate) const fn length(&self) -> usize {
        match &self.kept {
            Kept::Bare(cache) => cache.length(),
            Kept::Tensors(tables) => tables.length(),
        }
    }
}

/// The new tokens of one text.
#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    /// At least one.
    pub(crate) tokens: &'a [u32],
    /// What was read of it before; the new tokens are added.
    pub(crate) cache: &'a mut Memory,
    /// For how many of its last tokens the logits are wanted.
    pub(crate) wanted: usize,
}

impl Decoder {
    /// Reads the weights, which were checked, onto the device.
    pub(super) fn load(
        config: &DecoderConfig,
        chat: Chat,
        weights: &Weights,
        device: &Device,
    ) -> Result<Self, ModelError> {
        guarded(device, || Self::read(config, chat, weights, device))
    }

    fn read(
        config: &DecoderConfig,
        chat: Chat,
        weights: &Weights,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let loader = Loader { weights, device };
        let (hidden, between) = (config.hidden, config.intermediate);
        let (queries, keys) = (
            config.heads * config.head_size,
            config.kv_heads * config.head_size,
        );
        let norm = |name: &str| {
            Ok::<_, ModelError>(Norm {
                gamma: loader.vector(&format!("{name}.weight"))?,
                epsilon: config.epsilon,
            })
        };
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let of = |name: &str| format!("layers.{layer}.{name}");
            let qkv = [
                (of("self_attn.q_proj"), queries),
                (of("self_attn.k_proj"), keys),
                (of("self_attn.v_proj"), keys),
            ];
            let widen = [(of("mlp.gate_proj"), between), (of("mlp.up_proj"), between)];
            let linear = |name: &str, input: usize, bias: bool| {
                loader.linears(&[(of(name), hidden)], input, bias)
            };
            layers.push(Layer {
                attention_norm: norm(&of("input_layernorm"))?,
                qkv: loader.linears(&qkv, hidden, config.qkv_bias)?,
                attended: linear("self_attn.o_proj", queries, config.attended_bias)?,
                norm: norm(&of("post_attention_layernorm"))?,
                widen: loader.linears(&widen, hidden, config.mlp_bias)?,
                narrow: linear("mlp.down_proj", between, config.mlp_bias)?,
            });
        }
        let table = |name: &str| loader.multiplied(name, [config.vocabulary, hidden]);
        Ok(Self {
            words: table(WORD)?,
            head: (!config.tied)
                .then(|| table("lm_head.weight"))
                .transpose()?,
            norm: norm("norm")?,
            layers,
            chat,
            config: config.clone(),
            device: device.clone(),
            in_tensors: device.is_gpu(),
        })
    }

    /// Room for what is read of a text of so many tokens.
    pub(crate) fn cache(&self, tokens: usize) -> Memory {
        let config = &self.config;
        let (heads, size) = (config.kv_heads, config.head_size);
        let kept = if self.in_tensors {
            Kept::Tensors(Tables::new(config.layers, tokens))
        } else {
            Kept::Bare(Cache::new(config.layers, heads, size, tokens))
        };
        let most = tokens;
        Memory { kept, most }
    }

    /// Bytes of that.
    pub(crate) fn cache_bytes(&self, tokens: u64) -> u64 {
        let each = self.config.cache_bytes();
        if self.in_tensors {
            Tables::bytes(tokens, each)
        } else {
            Cache::bytes(tokens, each)
        }
    }

    /// Reads new tokens of several texts and answers the wanted logits, text by text. Tokens
    /// are below the vocabulary's size, and texts within the window.
    ///
    /// # Errors
    /// What the device says where it fails; what the caches hold then is undefined.
    pub(crate) fn read_on(&self, chunks: &mut [Chunk<'_>]) -> Result<Vec<Computed>, String> {
        let mut ids = Vec::new();
        let mut turns = Vec::new();
        let mut wanted = Vec::new();
        for chunk in &*chunks {
            for (number, &id) in chunk.tokens.iter().enumerate() {
                let position = chunk.cache.length() + number;
                let rope = &self.config.rope;
                rope.at(position, chunk.cache.most, &mut turns);
                if number + chunk.wanted >= chunk.tokens.len() {
                    wanted.push(small(ids.len()));
                }
                ids.push(id);
            }
        }
        let rows = ids.len();
        let mut attention = self.attention(chunks, turns);
        let mut x = self.words.select(&ids, &self.device);
        for (number, layer) in self.layers.iter().enumerate() {
            let qkv = layer.qkv.apply(layer.attention_norm.apply(x.clone()))?;
            let sizes = Sizes {
                heads: self.config.heads,
                kv_heads: self.config.kv_heads,
                size: self.config.head_size,
                sliding: self.config.sliding[number],
            };
            let attended = match &mut attention {
                Attention::Bare { turns, spans } => {
                    let attended = cache::attention(&bare(qkv)?, turns, number, spans, sizes);
                    self.dressed(attended, rows, sizes.heads * sizes.size)
                }
                Attention::Tensors(step) => step.attend(number, qkv, sizes)?,
            };
            x = x + layer.attended.apply(attended)?;
            let wide = layer.widen.apply(layer.norm.apply(x.clone()))?;
            x = x + layer.narrow.apply(self.gated(wide, rows)?)?;
        }
        attention.grew();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let x = self.norm.apply(x.select(0, self.indices(wanted)));
        let head = self.head.as_ref().unwrap_or(&self.words);
        let logits = head.products(x)?;
        let each = logits.chunks_exact(self.config.vocabulary);
        Ok(each.map(checked).collect())
    }

    /// How the new tokens' attention is computed; `turns` has their positions.
    fn attention<'a>(&self, chunks: &'a mut [Chunk<'_>], turns: Vec<f32>) -> Attention<'a> {
        let (mut spans, mut tables) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let tokens = chunk.tokens.len();
            // All are of this decoder, which makes one kind.
            match &mut chunk.cache.kept {
                Kept::Bare(cache) => spans.push(Span { cache, tokens }),
                Kept::Tensors(of) => tables.push((of, tokens)),
            }
        }
        if self.in_tensors {
            let device = &self.device.tensor;
            let step = Step::new(tables.into_iter(), turns, device);
            Attention::Tensors(Box::new(step))
        } else {
            Attention::Bare { turns, spans }
        }
    }

    /// One half of what is wide decides how much of the other goes on.
    fn gated(&self, wide: Tensor<2>, rows: usize) -> Result<Tensor<2>, String> {
        let between = self.config.intermediate;
        if self.in_tensors {
            let half = |at: usize| wide.clone().narrow(1, at * between, between);
            return Ok(silu(half(0)) * half(1));
        }
        let gated = kernels::swiglu(&bare(wide)?, between);
        Ok(self.dressed(gated, rows, between))
    }

    fn indices(&self, values: Vec<i32>) -> Tensor<1, burn_tensor::Int> {
        let length = values.len();
        Tensor::from_data(TensorData::new(values, [length]), &self.device.tensor)
    }

    fn dressed(&self, values: Vec<f32>, rows: usize, width: usize) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, [rows, width]), &self.device.tensor)
    }
}

/// Of one step.
enum Attention<'a> {
    Bare {
        /// Cosines and sines of each new token's position.
        turns: Vec<f32>,
        spans: Vec<Span<'a>>,
    },
    Tensors(Box<Step<'a>>),
}

impl Attention<'_> {
    /// All layers have the new tokens.
    fn grew(self) {
        match self {
            Self::Bare { spans, .. } => {
                for span in spans {
                    span.cache.grew(span.tokens);
                }
            }
            Self::Tensors(step) => step.grew(),
        }
    }
}

/// Tokens and rows were checked to be below bounds that fit.
fn small(number: usize) -> i32 {
    i32::try_from(number).unwrap_or_default()
}
