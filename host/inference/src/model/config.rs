//! What a model is: `config.json` and the files of sentence-transformers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::RawKind;
use super::files::ModelFiles;
use crate::error::ModelError;
use crate::templates::Templates;

const CONFIG: &str = "config.json";
const MODULES: &str = "modules.json";
const POOLING: &str = "1_Pooling/config.json";

/// Bounds on models, so that no file makes the host allocate without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a loaded model.
    pub model_bytes: u64,
    /// Who runs chat templates.
    pub templates: Templates,
}

/// For tests and benchmarks, which trust their models.
impl Default for Limits {
    fn default() -> Self {
        Self {
            model_bytes: 8 << 30,
            templates: Templates::InProcess,
        }
    }
}

/// What a model does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Makes an embedding of a text.
    Embed,
    /// Scores how well a document answers a query: a cross-encoder.
    Rerank,
    /// Continues texts.
    Generate,
}

/// How the tokens' vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
}

/// The families of encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// BERT: positions count from 0.
    Bert,
    /// RoBERTa and XLM-RoBERTa: positions count from the padding token's number plus one;
    /// another head.
    Roberta,
}

/// The activation between the two halves of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// By the error function.
    Gelu,
    /// By the hyperbolic tangent.
    GeluTanh,
    Relu,
}

/// Everything that the encoder needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub(crate) model_type: String,
    pub(crate) architecture: Architecture,
    pub(crate) task: Task,
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) positions: usize,
    pub(crate) types: usize,
    pub(crate) epsilon: f64,
    pub(crate) activation: Activation,
    /// The position of a text's first token.
    pub(crate) first_position: usize,
    pub(crate) window: usize,
    pub(crate) pooling: Pooling,
    pub(crate) normalize: bool,
    pub(crate) lowercase: bool,
    pub(crate) prompts: BTreeMap<String, String>,
}

/// One tensor that the weights must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorShape {
    /// Its name, without the prefix of its model.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    model_type: String,
    #[serde(default)]
    architectures: Vec<String>,
    vocab_size: u64,
    hidden_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    intermediate_size: u64,
    #[serde(default = "gelu")]
    hidden_act: String,
    max_position_embeddings: u64,
    #[serde(default = "two")]
    type_vocab_size: u64,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    #[serde(default)]
    pad_token_id: Option<u64>,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    id2label: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(default)]
    num_labels: Option<u64>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default)]
    quantization_config: Option<serde_json::Value>,
}

fn gelu() -> String {
    "gelu".to_owned()
}

const fn two() -> u64 {
    2
}

const fn epsilon() -> f64 {
    1e-12
}

#[derive(Deserialize)]
struct RawModule {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
struct RawSentence {
    #[serde(default)]
    max_seq_length: Option<u64>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Deserialize)]
struct RawPrompts {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
}

/// What the files of sentence-transformers say.
struct Sentence {
    pooling: Pooling,
    normalize: bool,
}

impl Config {
    /// Reads and checks it.
    ///
    /// # Errors
    /// What is missing, damaged, contradictory, too large or unsupported.
    pub fn read(files: &ModelFiles, limits: &Limits) -> Result<Self, ModelError> {
        const WHY: &str = "it says what the model is";
        // First: another architecture names its sizes otherwise, which is no damage.
        let kind: RawKind = files.json(CONFIG, WHY)?;
        let architecture = architecture(&kind.model_type)?;
        let raw: RawConfig = files.json(CONFIG, WHY)?;
        supported(&raw)?;
        let task = task(&raw)?;
        let hidden = size("hidden_size", raw.hidden_size, 16_384)?;
        let heads = size("num_attention_heads", raw.num_attention_heads, 1_024)?;
        if !hidden.is_multiple_of(heads) {
            return Err(ModelError::Mismatch(format!(
                "hidden_size {hidden} is not divisible by num_attention_heads {heads}"
            )));
        }
        let positions = size(
            "max_position_embeddings",
            raw.max_position_embeddings,
            131_072,
        )?;
        let first_position = match architecture {
            Architecture::Bert => 0,
            Architecture::Roberta => {
                let padding = raw.pad_token_id.unwrap_or(1);
                usize::try_from(padding)
                    .unwrap_or(usize::MAX)
                    .saturating_add(1)
            }
        };
        if first_position >= positions {
            return Err(ModelError::Mismatch(format!(
                "texts begin at position {first_position}, of {positions}"
            )));
        }
        if !(raw.layer_norm_eps > 0.0 && raw.layer_norm_eps < 1.0) {
            return Err(ModelError::Mismatch(format!(
                "layer_norm_eps is {}",
                raw.layer_norm_eps
            )));
        }
        let sentence = sentence(files, task, raw.hidden_size)?;
        let own: Option<RawSentence> = files.json_if_there("sentence_bert_config.json")?;
        let mut window = positions - first_position;
        if let Some(most) = own.as_ref().and_then(|own| own.max_seq_length) {
            window = window.min(usize::try_from(most).unwrap_or(usize::MAX));
        }
        // The tokens that a model adds to a pair, and one of each text.
        if window < 8 {
            return Err(ModelError::Mismatch(format!(
                "the model reads {window} tokens at once"
            )));
        }
        let prompts: Option<RawPrompts> =
            files.json_if_there("config_sentence_transformers.json")?;
        let config = Self {
            architecture,
            task,
            vocabulary: size("vocab_size", raw.vocab_size, 2_000_000)?,
            hidden,
            layers: size("num_hidden_layers", raw.num_hidden_layers, 256)?,
            heads,
            intermediate: size("intermediate_size", raw.intermediate_size, 131_072)?,
            positions,
            types: size("type_vocab_size", raw.type_vocab_size, 1_024)?,
            epsilon: raw.layer_norm_eps,
            activation: activation(&raw.hidden_act)?,
            first_position,
            window,
            pooling: sentence.pooling,
            normalize: sentence.normalize,
            lowercase: own.is_some_and(|own| own.do_lower_case),
            prompts: prompts.map(|raw| raw.prompts).unwrap_or_default(),
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

    /// The numbers in its weights.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        numbers(&self.tensors())
    }

    /// Bytes of its loaded weights.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.parameters().saturating_mul(4)
    }

    /// The tensors that the weights must have.
    #[must_use]
    pub fn tensors(&self) -> Vec<TensorShape> {
        let (hidden, between) = (self.hidden, self.intermediate);
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            tensors.push(TensorShape {
                name,
                shape: shape.to_vec(),
            });
        };
        for (name, rows) in [
            ("word", self.vocabulary),
            ("position", self.positions),
            ("token_type", self.types),
        ] {
            add(
                format!("embeddings.{name}_embeddings.weight"),
                &[rows, hidden],
            );
        }
        let mut pair = |name: String, weight: &[usize]| {
            add(format!("{name}.weight"), weight);
            add(format!("{name}.bias"), &weight[..1]);
        };
        pair("embeddings.LayerNorm".to_owned(), &[hidden]);
        for layer in 0..self.layers {
            let of = |name: &str| format!("encoder.layer.{layer}.{name}");
            for name in ["self.query", "self.key", "self.value", "output.dense"] {
                pair(of(&format!("attention.{name}")), &[hidden, hidden]);
            }
            pair(of("attention.output.LayerNorm"), &[hidden]);
            pair(of("intermediate.dense"), &[between, hidden]);
            pair(of("output.dense"), &[hidden, between]);
            pair(of("output.LayerNorm"), &[hidden]);
        }
        if self.task == Task::Rerank {
            match self.architecture {
                Architecture::Bert => {
                    pair("pooler.dense".to_owned(), &[hidden, hidden]);
                    pair("classifier".to_owned(), &[1, hidden]);
                }
                Architecture::Roberta => {
                    pair("classifier.dense".to_owned(), &[hidden, hidden]);
                    pair("classifier.out_proj".to_owned(), &[1, hidden]);
                }
            }
        }
        tensors
    }
}

/// A size that is not 0 and within a bound.
pub(crate) fn size(name: &str, value: u64, most: u64) -> Result<usize, ModelError> {
    if (1..=most).contains(&value) {
        // Not over `most`, which fits.
        return Ok(usize::try_from(value).unwrap_or(usize::MAX));
    }
    Err(ModelError::TooLarge(format!(
        "{name} in {CONFIG} is {value}; this version takes 1 to {most}"
    )))
}

/// Numbers of all tensors.
pub(crate) fn numbers(tensors: &[TensorShape]) -> u64 {
    tensors
        .iter()
        .map(|tensor| {
            let sizes = tensor.shape.iter().map(|&size| size as u64);
            sizes.fold(1_u64, u64::saturating_mul)
        })
        .fold(0, u64::saturating_add)
}

fn architecture(model_type: &str) -> Result<Architecture, ModelError> {
    match model_type {
        "bert" => Ok(Architecture::Bert),
        "roberta" | "xlm-roberta" | "camembert" => Ok(Architecture::Roberta),
        "" => Err(ModelError::Missing {
            file: "model_type in config.json".to_owned(),
            why: "it says which architecture the model has",
        }),
        other => Err(ModelError::Unsupported(format!(
            "its architecture is `{other}`; there are bert, roberta, xlm-roberta, camembert, llama, \
             mistral and qwen2"
        ))),
    }
}

fn supported(raw: &RawConfig) -> Result<(), ModelError> {
    let unsupported = |message: String| Err(ModelError::Unsupported(message));
    if raw.is_decoder {
        return unsupported("it is a decoder; encoders of the BERT family are run".to_owned());
    }
    if raw.quantization_config.is_some() {
        return unsupported("its weights are quantized; F32, F16 and BF16 are read".to_owned());
    }
    if let Some(kind) = &raw.position_embedding_type
        && kind != "absolute"
    {
        return unsupported(format!(
            "its positions are {kind}; `absolute` ones are read"
        ));
    }
    Ok(())
}

fn task(raw: &RawConfig) -> Result<Task, ModelError> {
    let classifies = raw
        .architectures
        .iter()
        .any(|name| name.ends_with("ForSequenceClassification"));
    if !classifies {
        return Ok(Task::Embed);
    }
    // Without either there are two labels.
    let named = raw.id2label.as_ref().map(|labels| labels.len() as u64);
    match named.or(raw.num_labels).unwrap_or(2) {
        1 => Ok(Task::Rerank),
        labels => Err(ModelError::Unsupported(format!(
            "it is a classifier of {labels} labels; a cross-encoder, which reranks, has 1"
        ))),
    }
}

fn activation(name: &str) -> Result<Activation, ModelError> {
    match name {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        other => Err(ModelError::Unsupported(format!(
            "its activation is `{other}`; there are gelu, gelu_new, gelu_pytorch_tanh and relu"
        ))),
    }
}

/// Without sentence-transformers' files a text's embedding is the mean of its tokens', as
/// sentence-transformers itself has it.
fn sentence(files: &ModelFiles, task: Task, hidden: u64) -> Result<Sentence, ModelError> {
    let mut sentence = Sentence {
        pooling: Pooling::Mean,
        normalize: false,
    };
    if task == Task::Rerank {
        return Ok(sentence);
    }
    let modules: Option<Vec<RawModule>> = files.json_if_there(MODULES)?;
    let mut pools = files.has(POOLING);
    for module in modules.iter().flatten() {
        match module.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" if module.path == "1_Pooling" => pools = true,
            "Normalize" => sentence.normalize = true,
            other => {
                return Err(ModelError::Unsupported(format!(
                    "its {MODULES} has the module {other} in `{}`; Transformer, Pooling in \
                     1_Pooling and Normalize are run",
                    module.path
                )));
            }
        }
    }
    if pools {
        sentence.pooling = pooling(files, hidden)?;
    }
    Ok(sentence)
}

fn pooling(files: &ModelFiles, hidden: u64) -> Result<Pooling, ModelError> {
    let raw: serde_json::Map<String, serde_json::Value> =
        files.json(POOLING, "modules.json names it")?;
    if let Some(dimension) = raw.get("word_embedding_dimension")
        && dimension.as_u64() != Some(hidden)
    {
        return Err(ModelError::Mismatch(format!(
            "word_embedding_dimension in {POOLING} is {dimension}, hidden_size in {CONFIG} is \
             {hidden}"
        )));
    }
    // Newer files name one mode, older ones have a member for each.
    let modes: Vec<&str> = match raw.get("pooling_mode").and_then(|mode| mode.as_str()) {
        Some(mode) => vec![mode],
        None => raw
            .iter()
            .filter(|(_, value)| **value == serde_json::Value::Bool(true))
            .filter_map(|(name, _)| name.strip_prefix("pooling_mode_"))
            .collect(),
    };
    match modes.as_slice() {
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        other => Err(ModelError::Unsupported(format!(
            "its pooling in {POOLING} is [{}]; mean or cls, one of them, is run",
            other.join(", ")
        ))),
    }
}
