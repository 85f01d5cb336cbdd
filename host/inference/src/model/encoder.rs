//! The encoder: from tokens to an embedding or a score, on burn's tensors.
//!
//! On the CPU sequences lie one after another and nothing is padded; attention, GELU and norms
//! are [`kernels`], products with weights [`packed`](super::packed), all of them on bare numbers,
//! which have their room once for all layers; a batch goes through them in parts that fit into a
//! core's cache, of which each core computes others, alone. On a GPU sequences are padded to the longest of the
//! batch, and everything stays on the device until the answer. Either way the tokens of
//! sequences go through each linear layer as one matrix, and query, key and value are one
//! product.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn_tensor::activation::{gelu, gelu_approximate, relu, tanh};
use burn_tensor::module::layer_norm;
use burn_tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;

use super::attention::{self, attend};
use super::config::{Activation, Architecture, Config, Pooling, Task};
use super::kernels::{self, Heads};
use super::loader::{Linear, Loader, bare, guarded};
use super::tokens::Tokens;
use super::weights::Weights;
use super::{Computed, checked};
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
/// Tokens of one text that a thread takes at least, where several share it: of fewer, reading all
/// weights takes longer than computing with them, so threads share the weights then.
const ALONE: usize = 24;
/// Tokens of a part whose buffers are kept for the next one.
const KEPT: usize = 4 * TOGETHER;

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

/// How many tokens of a part go together through what follows attention, where so many threads
/// share the part, and how many threads compute that step: one, where each has a step of its own.
fn steps(tokens: usize, threads: usize) -> (usize, usize) {
    // As many for each thread.
    let steps = tokens.div_ceil(TOGETHER).next_multiple_of(threads.max(1));
    let each = tokens.div_ceil(steps);
    if threads > 1 && each < ALONE {
        (tokens, threads)
    } else {
        (each, 1)
    }
}

/// Where the numbers of a part lie on the CPU, so that no layer asks for memory.
#[derive(Debug, Default)]
struct Buffers {
    values: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    attention: kernels::Scratch,
    /// One for each step that is computed at the same time.
    steps: Vec<Step>,
}

/// What a step has between attention and the next layer.
#[derive(Debug, Default)]
struct Step {
    read: Vec<f32>,
    wide: Vec<f32>,
}

/// The tables of embeddings.
#[derive(Debug)]
struct Tables<T> {
    words: T,
    positions: T,
    types: T,
}

#[derive(Debug)]
enum Embeddings {
    Cpu(Tables<Vec<f32>>),
    Gpu(Box<Tables<Tensor<2>>>),
}

/// One row of a table.
fn row(table: &[f32], number: usize, width: usize) -> &[f32] {
    &table[number * width..][..width]
}

#[derive(Debug)]
struct Norm {
    gamma: Tensor<1>,
    beta: Tensor<1>,
    /// The same numbers on the CPU.
    scale: Vec<f32>,
    shift: Vec<f32>,
    epsilon: f64,
}

impl Norm {
    fn apply<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let (gamma, beta) = (self.gamma.clone(), self.beta.clone());
        layer_norm(input, gamma, Some(beta), self.epsilon)
    }

    /// The same of a sum, on the CPU and in place.
    fn of_sum(&self, values: &mut [f32], others: &[f32], threads: usize) {
        // As all numbers of the model.
        #[allow(clippy::cast_possible_truncation)]
        let epsilon = self.epsilon as f32;
        kernels::add_norm(values, others, &self.scale, &self.shift, epsilon, threads);
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
    embeddings: Embeddings,
    norm: Norm,
    layers: Vec<Layer>,
    head: Option<Head>,
    config: Config,
    device: Device,
    /// Of parts that were computed.
    spare: Mutex<Vec<Buffers>>,
}

/// Reads the encoder's layers.
struct Reader<'a> {
    loader: Loader<'a>,
    epsilon: f64,
}

impl Reader<'_> {
    fn norm(&self, name: &str) -> Result<Norm, ModelError> {
        let scale = self.loader.weights.read(&format!("{name}.weight"))?;
        let shift = self.loader.weights.read(&format!("{name}.bias"))?;
        Ok(Norm {
            gamma: self.loader.tensor(scale.clone(), [scale.len()]),
            beta: self.loader.tensor(shift.clone(), [shift.len()]),
            scale,
            shift,
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
        let named = |name: &str| format!("embeddings.{name}_embeddings.weight");
        let embeddings = if device.is_gpu() {
            let table = |name, rows| reader.loader.table(&named(name), [rows, hidden]);
            Embeddings::Gpu(Box::new(Tables {
                words: table("word", config.vocabulary)?,
                positions: table("position", config.positions)?,
                types: table("token_type", config.types)?,
            }))
        } else {
            let table = |name| weights.read(&named(name));
            Embeddings::Cpu(Tables {
                words: table("word")?,
                positions: table("position")?,
                types: table("token_type")?,
            })
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
            embeddings,
            norm: reader.norm("embeddings.LayerNorm")?,
            layers,
            head,
            config: config.clone(),
            device: device.clone(),
            spare: Mutex::default(),
        })
    }

    /// For each sequence its embedding, or its one score. Sequences are not empty and within
    /// the window.
    ///
    /// # Errors
    /// What the device says where it fails.
    pub(crate) fn compute(&self, batch: &[&Tokens]) -> Result<Vec<Computed>, String> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let pooled = if self.device.is_gpu() {
            self.pooled_padded(batch)?
        } else {
            self.rows(self.pooled_in_parts(batch)?, self.config.hidden)
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
        Ok(values.chunks_exact(width).map(checked).collect())
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
    fn embedded(&self, tables: &Tables<Tensor<2>>, input: Input) -> Tensor<2> {
        let words = tables.words.clone().select(0, self.indices(input.ids));
        let positions = self.indices(input.positions);
        let positions = tables.positions.clone().select(0, positions);
        let types = match input.types {
            Some(types) => tables.types.clone().select(0, self.indices(types)),
            None => tables.types.clone().narrow(0, 0, 1),
        };
        self.norm.apply(words + positions + types)
    }

    /// The same on the CPU; in `others` there is room for as many numbers.
    fn embedded_flat(
        &self,
        batch: &[&Tokens],
        values: &mut Vec<f32>,
        others: &mut Vec<f32>,
        threads: usize,
    ) -> Result<(), String> {
        let Embeddings::Cpu(tables) = &self.embeddings else {
            return Err("its tables are not on the CPU".to_owned());
        };
        let hidden = self.config.hidden;
        values.clear();
        others.clear();
        for tokens in batch {
            for (at, &id) in tokens.ids.iter().enumerate() {
                values.extend_from_slice(row(&tables.words, id as usize, hidden));
                let types = tokens.types.as_ref();
                let kind = types
                    .and_then(|types| types.get(at))
                    .map_or(0, |&kind| kind as usize);
                let kind = row(&tables.types, kind, hidden);
                let position = row(&tables.positions, self.config.first_position + at, hidden);
                others.extend(position.iter().zip(kind).map(|(one, other)| one + other));
            }
        }
        self.norm.of_sum(values, others, threads);
        Ok(())
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
    /// `values` are what the layer was given, and then what it gives.
    fn after_attention(
        &self,
        layer: &Layer,
        attended: &[f32],
        values: &mut [f32],
        step: &mut Step,
        threads: usize,
    ) -> Result<(), String> {
        let Step { read, wide } = step;
        let (hidden, between) = (self.config.hidden, self.config.intermediate);
        read.resize(values.len(), 0.0);
        layer.attended.apply_to(attended, read, threads)?;
        layer.attended_norm.of_sum(read, values, threads);
        wide.resize(values.len() / hidden * between, 0.0);
        layer.widen.apply_to(read, wide, threads)?;
        match self.config.activation {
            Activation::Gelu => kernels::gelu(wide, threads),
            Activation::GeluTanh => {
                *wide = bare(gelu_approximate(self.rows(std::mem::take(wide), between)))?;
            }
            Activation::Relu => *wide = bare(relu(self.rows(std::mem::take(wide), between)))?,
        }
        layer.narrow.apply_to(wide, values, threads)?;
        layer.norm.of_sum(values, read, threads);
        Ok(())
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Buffers>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is made of each sequence, on the CPU. Each thread computes parts by itself, as long as
    /// there is one for each; the last ones, or the only one, are shared.
    fn pooled_in_parts(&self, batch: &[&Tokens]) -> Result<Vec<f32>, String> {
        let parts = together(batch);
        let threads = rayon::current_num_threads();
        let compute = |parts: &[&[&Tokens]], threads: usize| -> Result<Vec<Vec<f32>>, String> {
            // A thread that is slower than others takes fewer.
            let parts = parts.par_iter().with_max_len(1);
            parts
                .map(|part| {
                    let mut buffers = self.spare().pop().unwrap_or_default();
                    let pooled = self.pooled_flat(part, &mut buffers, threads);
                    let tokens: usize = part.iter().map(|tokens| tokens.ids.len()).sum();
                    if tokens <= KEPT {
                        self.spare().push(buffers);
                    }
                    pooled
                })
                .collect()
        };
        let (alone, shared) = parts.split_at(parts.len() / threads * threads);
        let mut pooled = compute(alone, 1)?;
        if !shared.is_empty() {
            pooled.extend(compute(shared, threads.div_ceil(shared.len()))?);
        }
        Ok(pooled.concat())
    }

    fn pooled_flat(
        &self,
        batch: &[&Tokens],
        buffers: &mut Buffers,
        threads: usize,
    ) -> Result<Vec<f32>, String> {
        let Buffers {
            values,
            qkv,
            attended,
            attention,
            steps: rooms,
        } = buffers;
        let lengths: Vec<usize> = batch.iter().map(|tokens| tokens.ids.len()).collect();
        let total: usize = lengths.iter().sum();
        let hidden = self.config.hidden;
        self.embedded_flat(batch, values, attended, threads)?;
        qkv.resize(3 * total * hidden, 0.0);
        let (each, by) = steps(total, threads);
        let apart = threads > 1 && each < total;
        let needed = if apart { total.div_ceil(each) } else { 1 };
        rooms.resize_with(needed.max(rooms.len()), Step::default);
        let each = each * hidden;
        for layer in &self.layers {
            layer.qkv.apply_to(values, qkv, threads)?;
            kernels::attention(qkv, &lengths, self.heads(), attended, attention, threads);
            if apart {
                attended
                    .par_chunks(each)
                    .zip(values.par_chunks_mut(each))
                    .zip(rooms.par_iter_mut())
                    .try_for_each(|((attended, values), step)| {
                        self.after_attention(layer, attended, values, step, by)
                    })?;
            } else {
                let steps = attended.chunks(each).zip(values.chunks_mut(each));
                for (attended, values) in steps {
                    self.after_attention(layer, attended, values, &mut rooms[0], by)?;
                }
            }
        }
        let mut pooled = Vec::with_capacity(batch.len() * hidden);
        let mut rest: &[f32] = values;
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
        let Embeddings::Gpu(tables) = &self.embeddings else {
            return Err("its tables are not on the device".to_owned());
        };
        let lengths: Vec<usize> = batch.iter().map(|tokens| tokens.ids.len()).collect();
        let rows = batch.len();
        let columns = lengths.iter().copied().max().unwrap_or(1);
        let hidden = self.config.hidden;
        let Heads { count, size } = self.heads();
        let widths = vec![columns; rows];
        let input = Input::gather(batch, &widths, self.config.first_position);
        let mut x = self.embedded(tables, input);
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
            let queries = part(0) * scale;
            let attended = attend(queries, part(1), part(2), mask.as_ref(), attention::MOST)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_as_many_steps_each_or_share_one() {
        assert_eq!(steps(64, 2), (32, 1));
        assert_eq!(steps(256, 2), (64, 1));
        assert_eq!(steps(256, 1), (86, 1));
        assert_eq!(steps(16, 2), (16, 2));
        for tokens in 1..600 {
            for threads in 1..20 {
                let (each, by) = steps(tokens, threads);
                if by > 1 {
                    assert_eq!((each, by), (tokens, threads));
                    continue;
                }
                assert!((1..=TOGETHER).contains(&each), "{tokens} by {threads}");
                let last = tokens - (tokens.div_ceil(each) - 1) * each;
                let least = if threads > 1 { ALONE } else { 1 };
                assert!(each >= least && last <= each, "{tokens} by {threads}");
            }
        }
    }
}
