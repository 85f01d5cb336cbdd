//! The encoder: from tokens to an embedding or a score, on burn's tensors.
//!
//! On the CPU sequences lie one after another and nothing is padded; attention, GELU and norms
//! are [`kernels`], products with weights [`packed`](super::packed); a batch goes through them
//! in parts that fit into a core's cache. On a GPU sequences are padded to the longest of the
//! batch, and everything stays on the device until the answer. Either way the tokens of
//! sequences go through each linear layer as one matrix, and query, key and value are one
//! product.

use burn_tensor::activation::{gelu, gelu_approximate, relu, softmax, tanh};
use burn_tensor::module::layer_norm;
use burn_tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;

use super::config::{Activation, Architecture, Config, Pooling, Task};
use super::kernels::{self, Heads};
use super::loader::{Linear, Loader, bare, guarded};
use super::tokens::Tokens;
use super::weights::Weights;
use crate::device::Device;
use crate::error::ModelError;

/// The table of words, and what stands before names of models that were saved with a head.
pub(super) const WORD: &str = "embeddings.word_embeddings.weight";
pub(super) const PREFIXES: [&str; 4] = ["", "bert.", "roberta.", "model."];

/// What is added to a score of padding, as the first BERT had it.
const MASKED: f32 = -10_000.0;

/// Tokens of sequences that go through all layers together on the CPU: what one step leaves
/// is still in a core's cache when the next one reads it. A longer sequence goes alone.
const TOGETHER: usize = 96;

/// A batch in parts of so many tokens.
fn together<'a, 'b>(batch: &'a [&'b Tokens]) -> Vec<&'a [&'b Tokens]> {
    let mut parts = Vec::new();
    let (mut from, mut tokens) = (0, 0);
    for (at, sequence) in batch.iter().enumerate() {
        let length = sequence.ids.len();
        if at > from && tokens + length > TOGETHER {
            parts.push(&batch[from..at]);
            (from, tokens) = (at, 0);
        }
        tokens += length;
    }
    parts.push(&batch[from..]);
    parts
}

#[derive(Debug)]
struct Norm {
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
}

impl Norm {
    fn apply<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let (gamma, beta) = (self.gamma.clone(), self.beta.clone());
        layer_norm(input, gamma, Some(beta), self.epsilon)
    }

    /// The same of a sum, on the CPU.
    fn of_sum(&self, one: Tensor<2>, other: Tensor<2>) -> Result<Tensor<2>, String> {
        let (shape, device) = (one.dims(), one.device());
        let (mut values, others) = (bare(one)?, bare(other)?);
        let (gamma, beta) = (bare(self.gamma.clone())?, bare(self.beta.clone())?);
        // As all numbers of the model.
        #[allow(clippy::cast_possible_truncation)]
        let epsilon = self.epsilon as f32;
        kernels::add_norm(&mut values, &others, &gamma, &beta, epsilon);
        Ok(Tensor::from_data(TensorData::new(values, shape), &device))
    }
}

#[derive(Debug)]
struct Layer {
    /// Query, key and value beside each other.
    qkv: Linear,
    attended: Linear,
    attended_norm: Norm,
    widen: Linear,
    narrow: Linear,
    norm: Norm,
}

/// What a cross-encoder has behind the encoder.
#[derive(Debug)]
struct Head {
    dense: Linear,
    out: Linear,
}

/// An encoder on its device.
#[derive(Debug)]
pub struct Encoder {
    words: Tensor<2>,
    positions: Tensor<2>,
    types: Tensor<2>,
    norm: Norm,
    layers: Vec<Layer>,
    head: Option<Head>,
    config: Config,
    device: Device,
}

/// Reads the encoder's layers.
struct Reader<'a> {
    loader: Loader<'a>,
    epsilon: f64,
}

impl Reader<'_> {
    fn norm(&self, name: &str) -> Result<Norm, ModelError> {
        Ok(Norm {
            gamma: self.loader.vector(&format!("{name}.weight"))?,
            beta: self.loader.vector(&format!("{name}.bias"))?,
            epsilon: self.epsilon,
        })
    }

    fn linear(&self, name: &str, input: usize, output: usize) -> Result<Linear, ModelError> {
        self.loader
            .linears(&[(name.to_owned(), output)], input, true)
    }
}

impl Encoder {
    /// Reads the weights, which were checked, onto the device.
    pub(super) fn load(
        config: &Config,
        weights: &Weights,
        device: &Device,
    ) -> Result<Self, ModelError> {
        guarded(device, || Self::read(config, weights, device))
    }

    fn read(config: &Config, weights: &Weights, device: &Device) -> Result<Self, ModelError> {
        let reader = Reader {
            loader: Loader { weights, device },
            epsilon: config.epsilon,
        };
        let (hidden, between) = (config.hidden, config.intermediate);
        let table = |name: &str, rows: usize| {
            reader.loader.table(
                &format!("embeddings.{name}_embeddings.weight"),
                [rows, hidden],
            )
        };
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let of = |name: &str| format!("encoder.layer.{layer}.{name}");
            let qkv = ["query", "key", "value"]
                .map(|name| (of(&format!("attention.self.{name}")), hidden));
            layers.push(Layer {
                qkv: reader.loader.linears(&qkv, hidden, true)?,
                attended: reader.linear(&of("attention.output.dense"), hidden, hidden)?,
                attended_norm: reader.norm(&of("attention.output.LayerNorm"))?,
                widen: reader.linear(&of("intermediate.dense"), hidden, between)?,
                narrow: reader.linear(&of("output.dense"), between, hidden)?,
                norm: reader.norm(&of("output.LayerNorm"))?,
            });
        }
        let head = match (config.task, config.architecture) {
            (Task::Embed | Task::Generate, _) => None,
            (Task::Rerank, Architecture::Bert) => Some(("pooler.dense", "classifier")),
            (Task::Rerank, Architecture::Roberta) => {
                Some(("classifier.dense", "classifier.out_proj"))
            }
        };
        let head = head
            .map(|(dense, out)| {
                Ok::<_, ModelError>(Head {
                    dense: reader.linear(dense, hidden, hidden)?,
                    out: reader.linear(out, hidden, 1)?,
                })
            })
            .transpose()?;
        Ok(Self {
            words: table("word", config.vocabulary)?,
            positions: table("position", config.positions)?,
            types: table("token_type", config.types)?,
            norm: reader.norm("embeddings.LayerNorm")?,
            layers,
            head,
            config: config.clone(),
            device: device.clone(),
        })
    }

    /// For each sequence its embedding, or its one score. Sequences are not empty and within
    /// the window.
    ///
    /// # Errors
    /// What the device says where it fails.
    pub fn compute(&self, batch: &[&Tokens]) -> Result<Vec<Vec<f32>>, String> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let pooled = if self.device.is_gpu() {
            self.pooled_padded(batch)?
        } else {
            let parts: Result<Vec<Vec<f32>>, String> = together(batch)
                .into_par_iter()
                .map(|part| self.pooled_flat(part))
                .collect();
            let shape = [batch.len(), self.config.hidden];
            Tensor::from_data(TensorData::new(parts?.concat(), shape), &self.device.tensor)
        };
        let output = match &self.head {
            None if self.config.normalize => {
                let length = (pooled.clone() * pooled.clone()).sum_dim(1).sqrt();
                pooled / length.clamp_min(1e-12)
            }
            None => pooled,
            Some(head) => head.out.apply(tanh(head.dense.apply(pooled)?))?,
        };
        let width = output.dims()[1];
        let values = bare(output)?;
        if !values.iter().all(|value| value.is_finite()) {
            return Err("it computed what is no number".to_owned());
        }
        Ok(values.chunks_exact(width).map(<[f32]>::to_vec).collect())
    }

    const fn heads(&self) -> Heads {
        Heads {
            count: self.config.heads,
            size: self.config.hidden / self.config.heads,
        }
    }

    fn indices(&self, values: Vec<i32>) -> Tensor<1, Int> {
        let length = values.len();
        Tensor::from_data(TensorData::new(values, [length]), &self.device.tensor)
    }

    /// The sum of the three embeddings of each token, normalized.
    fn embedded(&self, ids: Vec<i32>, positions: Vec<i32>, types: Option<Vec<i32>>) -> Tensor<2> {
        let words = self.words.clone().select(0, self.indices(ids));
        let positions = self.positions.clone().select(0, self.indices(positions));
        let types = match types {
            Some(types) => self.types.clone().select(0, self.indices(types)),
            None => self.types.clone().narrow(0, 0, 1),
        };
        self.norm.apply(words + positions + types)
    }

    fn is_mean(&self) -> bool {
        self.head.is_none() && self.config.pooling == Pooling::Mean
    }

    /// Some rows of numbers as a matrix.
    fn rows(&self, values: Vec<f32>, width: usize) -> Tensor<2> {
        let shape = [values.len() / width, width];
        Tensor::from_data(TensorData::new(values, shape), &self.device.tensor)
    }

    /// What follows attention in a layer, for some of the tokens: no other's numbers count.
    fn after_attention(
        &self,
        layer: &Layer,
        attended: &[f32],
        values: &[f32],
    ) -> Result<Vec<f32>, String> {
        let hidden = self.config.hidden;
        let rows = |values: &[f32]| self.rows(values.to_vec(), hidden);
        let attended = layer.attended.apply(rows(attended))?;
        let x = layer.attended_norm.of_sum(attended, rows(values))?;
        let wide = layer.widen.apply(x.clone())?;
        let wide = match self.config.activation {
            Activation::Gelu => {
                let mut values = bare(wide)?;
                kernels::gelu(&mut values);
                self.rows(values, self.config.intermediate)
            }
            Activation::GeluTanh => gelu_approximate(wide),
            Activation::Relu => relu(wide),
        };
        bare(layer.norm.of_sum(layer.narrow.apply(wide)?, x)?)
    }

    fn pooled_flat(&self, batch: &[&Tokens]) -> Result<Vec<f32>, String> {
        let lengths: Vec<usize> = batch.iter().map(|tokens| tokens.ids.len()).collect();
        let total: usize = lengths.iter().sum();
        let hidden = self.config.hidden;
        let input = Input::gather(batch, &lengths, self.config.first_position);
        let mut values = bare(self.embedded(input.ids, input.positions, input.types))?;
        let each = total.div_ceil(rayon::current_num_threads()).min(TOGETHER) * hidden;
        for layer in &self.layers {
            let qkv = bare(layer.qkv.apply(self.rows(values.clone(), hidden))?)?;
            let attended = kernels::attention(&qkv, &lengths, self.heads());
            let parts: Result<Vec<Vec<f32>>, String> = attended
                .par_chunks(each)
                .zip(values.par_chunks(each))
                .map(|(attended, values)| self.after_attention(layer, attended, values))
                .collect();
            values = parts?.concat();
        }
        let mut pooled = Vec::with_capacity(batch.len() * hidden);
        let mut rest = values.as_slice();
        for &length in &lengths {
            let (rows, others) = rest.split_at(length * hidden);
            rest = others;
            if !self.is_mean() {
                pooled.extend_from_slice(&rows[..hidden]);
                continue;
            }
            let mut sums = vec![0.0_f32; hidden];
            for row in rows.chunks_exact(hidden) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += value;
                }
            }
            pooled.extend(sums.iter().map(|sum| sum / length as f32));
        }
        Ok(pooled)
    }

    fn pooled_padded(&self, batch: &[&Tokens]) -> Result<Tensor<2>, String> {
        let lengths: Vec<usize> = batch.iter().map(|tokens| tokens.ids.len()).collect();
        let rows = batch.len();
        let columns = lengths.iter().copied().max().unwrap_or(1);
        let hidden = self.config.hidden;
        let Heads { count, size } = self.heads();
        let widths = vec![columns; rows];
        let input = Input::gather(batch, &widths, self.config.first_position);
        let mut x = self.embedded(input.ids, input.positions, input.types);
        let read: Vec<f32> = lengths
            .iter()
            .flat_map(|&length| (0..columns).map(move |at| if at < length { 1.0 } else { 0.0 }))
            .collect();
        let read =
            Tensor::<2>::from_data(TensorData::new(read, [rows, columns]), &self.device.tensor);
        let padded = lengths.iter().any(|&length| length < columns);
        let mask = padded.then(|| ((read.clone() - 1.0) * -MASKED).reshape([rows, 1, 1, columns]));
        let scale = 1.0 / (size as f32).sqrt();
        for layer in &self.layers {
            let qkv = layer
                .qkv
                .apply(x.clone())?
                .reshape([rows, columns, 3, count, size])
                .permute([2, 0, 3, 1, 4]);
            let part = |at: usize| qkv.clone().narrow(0, at, 1).squeeze_dim::<4>(0);
            let mut scores = (part(0) * scale).matmul(part(1).swap_dims(2, 3));
            if let Some(mask) = &mask {
                scores = scores + mask.clone();
            }
            let attended = softmax(scores, 3)
                .matmul(part(2))
                .swap_dims(1, 2)
                .reshape([rows * columns, hidden]);
            x = layer
                .attended_norm
                .apply(layer.attended.apply(attended)? + x);
            let wide = layer.widen.apply(x.clone())?;
            let wide = match self.config.activation {
                Activation::Gelu => gelu(wide),
                Activation::GeluTanh => gelu_approximate(wide),
                Activation::Relu => relu(wide),
            };
            x = layer.norm.apply(layer.narrow.apply(wide)? + x);
        }
        let x = x.reshape([rows, columns, hidden]);
        if !self.is_mean() {
            return Ok(x.slice([0..rows, 0..1, 0..hidden]).squeeze_dim::<2>(1));
        }
        let summed = (x * read.clone().unsqueeze_dim::<3>(2))
            .sum_dim(1)
            .squeeze_dim::<2>(1);
        Ok(summed / read.sum_dim(1))
    }
}

/// The tokens of a batch, one sequence after another, each as wide as `widths` says.
struct Input {
    ids: Vec<i32>,
    positions: Vec<i32>,
    types: Option<Vec<i32>>,
}

impl Input {
    fn gather(batch: &[&Tokens], widths: &[usize], first_position: usize) -> Self {
        let total = widths.iter().sum();
        let mut input = Self {
            ids: Vec::with_capacity(total),
            positions: Vec::with_capacity(total),
            types: batch
                .iter()
                .any(|tokens| tokens.types.is_some())
                .then(|| Vec::with_capacity(total)),
        };
        // Tokens, positions and types were checked to be below the tables' sizes, which fit.
        let small = |number: usize| i32::try_from(number).unwrap_or_default();
        for (tokens, &width) in batch.iter().zip(widths) {
            let over = width - tokens.ids.len();
            let padding = std::iter::repeat_n(0, over);
            let ids = tokens.ids.iter().map(|&id| small(id as usize));
            input.ids.extend(ids.chain(padding.clone()));
            let positions = (0..tokens.ids.len()).map(|at| small(first_position + at));
            input.positions.extend(positions.chain(padding.clone()));
            if let Some(types) = &mut input.types {
                match &tokens.types {
                    Some(own) => types.extend(own.iter().map(|&kind| small(kind as usize))),
                    None => types.extend(std::iter::repeat_n(0, tokens.ids.len())),
                }
                types.extend(padding);
            }
        }
        input
    }
}
