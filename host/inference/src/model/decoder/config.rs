//! What a decoder is: its `config.json` and `generation_config.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::rope::{Rope, TRAINED};
use crate::error::ModelError;
use crate::model::config::{Limits, TensorShape, size};
use crate::model::files::ModelFiles;

const CONFIG: &str = "config.json";
/// Positions that a window may have: a million, as the largest models say.
const POSITIONS: u64 = 1 << 22;

/// Everything that the decoder needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    pub(crate) model_type: String,
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Heads of keys and values; each serves the same number of query heads.
    pub(crate) kv_heads: usize,
    /// Numbers of one head.
    pub(crate) head_size: usize,
    pub(crate) intermediate: usize,
    pub(crate) epsilon: f64,
    pub(crate) rope: Rope,
    /// For each layer how many of the latest tokens it attends to; all where absent.
    pub(crate) sliding: Vec<Option<usize>>,
    /// Whether query, key and value have a bias, and what follows attention.
    pub(crate) qkv_bias: bool,
    pub(crate) attended_bias: bool,
    pub(crate) mlp_bias: bool,
    /// The table of embeddings makes the logits too.
    pub(crate) tied: bool,
    pub(crate) window: usize,
    /// Tokens that end a text.
    pub(crate) ends: BTreeSet<u32>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    model_type: String,
    vocab_size: u64,
    hidden_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    #[serde(default)]
    num_key_value_heads: Option<u64>,
    #[serde(default)]
    head_dim: Option<u64>,
    intermediate_size: u64,
    #[serde(default = "silu")]
    hidden_act: String,
    max_position_embeddings: u64,
    #[serde(default = "epsilon")]
    rms_norm_eps: f64,
    /// Beside `rope_scaling`, or in it.
    #[serde(default)]
    original_max_position_embeddings: Option<u64>,
    #[serde(default)]
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_scaling: Option<BTreeMap<String, Value>>,
    /// Where newer files have both.
    #[serde(default)]
    rope_parameters: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    partial_rotary_factor: Option<f64>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    sliding_window: Option<u64>,
    #[serde(default)]
    use_sliding_window: Option<bool>,
    #[serde(default)]
    max_window_layers: Option<u64>,
    #[serde(default)]
    layer_types: Option<Vec<String>>,
    #[serde(default)]
    eos_token_id: Option<Ids>,
    #[serde(default)]
    quantization_config: Option<Value>,
}

/// One token or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

#[derive(Deserialize)]
struct RawGeneration {
    #[serde(default)]
    eos_token_id: Option<Ids>,
}

fn silu() -> String {
    "silu".to_owned()
}

const fn epsilon() -> f64 {
    1e-6
}

/// Whether that `model_type` is a decoder's.
pub(crate) fn is_decoder(model_type: &str) -> bool {
    matches!(model_type, "llama" | "mistral" | "qwen2")
}

impl DecoderConfig {
    /// Reads and checks it.
    ///
    /// # Errors
    /// What is missing, damaged, contradictory, too large or unsupported.
    pub(crate) fn read(files: &ModelFiles, limits: &Limits) -> Result<Self, ModelError> {
        let raw: Raw = files.json(CONFIG, "it says what the model is")?;
        supported(&raw)?;
        let hidden = size("hidden_size", raw.hidden_size, 65_536)?;
        let heads = size("num_attention_heads", raw.num_attention_heads, 1_024)?;
        let kv = raw.num_key_value_heads.unwrap_or(raw.num_attention_heads);
        let kv_heads = size("num_key_value_heads", kv, 1_024)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(ModelError::Mismatch(format!(
                "num_attention_heads {heads} is not divisible by num_key_value_heads {kv_heads}"
            )));
        }
        let head_size = match raw.head_dim {
            Some(given) => size("head_dim", given, 1_024)?,
            None if hidden.is_multiple_of(heads) => {
                size("head_dim", (hidden / heads) as u64, 1_024)?
            }
            None => {
                return Err(ModelError::Mismatch(format!(
                    "hidden_size {hidden} is not divisible by num_attention_heads {heads}, and \
                     there is no head_dim"
                )));
            }
        };
        if !head_size.is_multiple_of(2) {
            return Err(ModelError::Mismatch(format!(
                "head_dim is {head_size}; positions turn pairs of numbers"
            )));
        }
        if !(raw.rms_norm_eps > 0.0 && raw.rms_norm_eps < 1.0) {
            return Err(ModelError::Mismatch(format!(
                "rms_norm_eps is {}",
                raw.rms_norm_eps
            )));
        }
        let window = size(
            "max_position_embeddings",
            raw.max_position_embeddings,
            POSITIONS,
        )?;
        let mut scaling = raw.rope_parameters.clone().or(raw.rope_scaling.clone());
        if let (Some(scaling), Some(trained)) = (&mut scaling, raw.original_max_position_embeddings)
        {
            let beside = || trained.into();
            scaling.entry(TRAINED.to_owned()).or_insert_with(beside);
        }
        let rope = Rope::read(scaling.as_ref(), raw.rope_theta, head_size, window)?;
        let window = rope.positions.unwrap_or(window);
        let layers = size("num_hidden_layers", raw.num_hidden_layers, 512)?;
        let config = Self {
            vocabulary: size("vocab_size", raw.vocab_size, 2_000_000)?,
            hidden,
            layers,
            heads,
            kv_heads,
            head_size,
            intermediate: size("intermediate_size", raw.intermediate_size, 524_288)?,
            epsilon: raw.rms_norm_eps,
            rope,
            sliding: sliding(&raw, layers)?,
            // Qwen2 has it without saying so, and none behind attention.
            qkv_bias: raw.attention_bias || raw.model_type == "qwen2",
            attended_bias: raw.attention_bias && raw.model_type != "qwen2",
            mlp_bias: raw.mlp_bias,
            tied: raw.tie_word_embeddings,
            window,
            ends: ends(files, raw.eos_token_id)?,
            model_type: raw.model_type,
        };
        let bytes = config.memory_bytes();
        if bytes > limits.model_bytes {
            return Err(ModelError::TooLarge(format!(
                "it takes {bytes} bytes in memory, more than the {} that one model may \
                 (`model_bytes`)",
                limits.model_bytes
            )));
        }
        Ok(config)
    }

    /// Bytes of its loaded weights.
    pub(crate) fn memory_bytes(&self) -> u64 {
        crate::model::config::numbers(&self.tensors()).saturating_mul(4)
    }

    /// Bytes of the keys and values of one token.
    pub(crate) const fn cache_bytes(&self) -> u64 {
        (2 * 4 * self.layers * self.kv_heads * self.head_size) as u64
    }

    /// The tensors that the weights must have.
    pub(crate) fn tensors(&self) -> Vec<TensorShape> {
        let (hidden, between) = (self.hidden, self.intermediate);
        let (queries, keys) = (self.heads * self.head_size, self.kv_heads * self.head_size);
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            tensors.push(TensorShape {
                name,
                shape: shape.to_vec(),
            });
        };
        add("embed_tokens.weight".to_owned(), &[self.vocabulary, hidden]);
        add("norm.weight".to_owned(), &[hidden]);
        if !self.tied {
            add("lm_head.weight".to_owned(), &[self.vocabulary, hidden]);
        }
        for layer in 0..self.layers {
            let of = |name: &str| format!("layers.{layer}.{name}");
            add(of("input_layernorm.weight"), &[hidden]);
            add(of("post_attention_layernorm.weight"), &[hidden]);
            for (name, output, input, bias) in [
                ("self_attn.q_proj", queries, hidden, self.qkv_bias),
                ("self_attn.k_proj", keys, hidden, self.qkv_bias),
                ("self_attn.v_proj", keys, hidden, self.qkv_bias),
                ("self_attn.o_proj", hidden, queries, self.attended_bias),
                ("mlp.gate_proj", between, hidden, self.mlp_bias),
                ("mlp.up_proj", between, hidden, self.mlp_bias),
                ("mlp.down_proj", hidden, between, self.mlp_bias),
            ] {
                add(of(&format!("{name}.weight")), &[output, input]);
                if bias {
                    add(of(&format!("{name}.bias")), &[output]);
                }
            }
        }
        tensors
    }
}

fn supported(raw: &Raw) -> Result<(), ModelError> {
    let unsupported = |message: String| Err(ModelError::Unsupported(message));
    if raw.quantization_config.is_some() {
        return unsupported("its weights are quantized; F32, F16 and BF16 are read".to_owned());
    }
    if raw.hidden_act != "silu" {
        return unsupported(format!(
            "its activation is `{}`; decoders with `silu` are run",
            raw.hidden_act
        ));
    }
    if raw
        .partial_rotary_factor
        .is_some_and(|factor| factor != 1.0)
    {
        return unsupported("positions turn only a part of each head".to_owned());
    }
    Ok(())
}

/// Which layers attend to the latest tokens only, and to how many.
fn sliding(raw: &Raw, layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    // Llama has none, and Qwen2 only where it is switched on.
    let on = match raw.model_type.as_str() {
        "mistral" => true,
        "qwen2" => raw.use_sliding_window.unwrap_or(false),
        _ => false,
    };
    let window = match raw.sliding_window.filter(|_| on) {
        Some(window) => Some(size("sliding_window", window, u64::from(u32::MAX))?),
        None => None,
    };
    if let Some(types) = &raw.layer_types {
        if types.len() != layers {
            return Err(ModelError::Mismatch(format!(
                "layer_types has {} layers, num_hidden_layers is {layers}",
                types.len()
            )));
        }
        let each = types.iter().map(|kind| match kind.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" if window.is_some() => Ok(window),
            other => Err(ModelError::Unsupported(format!(
                "a layer's attention is `{other}`; there are full_attention and, with a \
                 sliding_window, sliding_attention"
            ))),
        });
        return each.collect();
    }
    let first = if on && raw.model_type == "qwen2" {
        // What is taken where they are absent differs between the programs that run it.
        let missing = |member: &str| {
            ModelError::Mismatch(format!(
                "use_sliding_window is true, and there is no {member}"
            ))
        };
        if window.is_none() {
            return Err(missing("sliding_window"));
        }
        let first = raw.max_window_layers;
        let first = first.ok_or_else(|| missing("max_window_layers"))?;
        usize::try_from(first).unwrap_or(usize::MAX)
    } else {
        0
    };
    Ok((0..layers)
        .map(|layer| window.filter(|_| layer >= first))
        .collect())
}

/// The tokens that end a text, of both files that may say so.
fn ends(files: &ModelFiles, own: Option<Ids>) -> Result<BTreeSet<u32>, ModelError> {
    let generation: Option<RawGeneration> = files.json_if_there("generation_config.json")?;
    let more = generation.and_then(|raw| raw.eos_token_id);
    Ok([own, more]
        .into_iter()
        .flatten()
        .flat_map(Ids::into_vec)
        .collect())
}
