//! Texts that a model generates, at temperature 0: ours through the service, with all its
//! steps, against candle's Llama with its cache. The model has the sizes of SmolLM2-135M and
//! random weights, which are made here; both must find the same tokens.

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use heyday_inference::{Caller, GenerateRequest, Inference};
use serde_json::{Map, Value, json};

use super::peer::Peer;
use super::{MODEL, Options, service, store};
use crate::clustered::Numbers;
use crate::report::{Figure, Report, Sides, compared};

/// Texts at once.
const TEXTS: [usize; 3] = [1, 4, 8];
/// Tokens of a prompt, all of which are letters.
const PROMPT: usize = 16;
/// Tokens that must be the same before rounding may choose another.
const SAME: usize = 8;
/// Tokens of one byte each; they are never chosen.
const BYTES: usize = 256;

/// Sizes of the model.
struct Model {
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    intermediate: usize,
    vocabulary: usize,
}

const SMOLLM2_135M: Model = Model {
    hidden: 576,
    layers: 30,
    heads: 9,
    kv_heads: 3,
    intermediate: 1_536,
    vocabulary: 49_152,
};
const TINY: Model = Model {
    hidden: 64,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    intermediate: 128,
    vocabulary: 600,
};

/// Measures all of it.
pub async fn run(report: &mut Report, options: &Options, quick: bool) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let model = folder.path().join("model");
    let (sizes, tokens, turns) = if quick {
        (TINY, 12, 1)
    } else {
        (SMOLLM2_135M, 32, 5)
    };
    sizes.write(&model)?;
    let store = store(&folder.path().join("store"), &model)?;
    let inference = service(&store, |_| ())?;
    inference.warm_up(MODEL).await?;
    let mut peer = match &options.candle {
        Some(program) => compared("candle", Peer::candle(program, "decoder", &model).await),
        None => None,
    };
    for texts in TEXTS {
        let mut sides = Sides::default();
        let prompts: Vec<String> = (0..texts).map(prompt).collect();
        for turn in 0..=turns {
            let (ours, found) = generate(&inference, &prompts, tokens).await?;
            let mut theirs = f64::NAN;
            if let Some(peer) = &mut peer {
                let ids: Vec<&[u8]> = prompts.iter().map(|it| it.as_bytes()).collect();
                let answer = peer.ask(&json!({ "ids": ids, "tokens": tokens })).await?;
                let seconds = answer["seconds"].as_f64().context("seconds")?;
                theirs = (texts * tokens) as f64 / seconds;
                same(&found, &answer)?;
            }
            // The first turn warms up.
            if turn > 0 {
                sides.push(ours, theirs);
            }
        }
        let (value, theirs) = sides.medians();
        report.add(Figure {
            name: format!("inference.generate.{texts}_texts"),
            value,
            unit: "per s",
            peer: peer.as_ref().map(|peer| (peer.name, theirs)),
            goal: None,
        });
        if peer.is_some() {
            println!("    tokens; {} by turns", sides.spread());
        }
    }
    Ok(())
}

/// Each another one.
fn prompt(number: usize) -> String {
    let letters = (0..PROMPT).map(|at| char::from(b'a' + ((number * 7 + at * 5) % 26) as u8));
    letters.collect()
}

/// Tokens per second, and the tokens of the first text.
async fn generate(
    inference: &Inference,
    prompts: &[String],
    tokens: usize,
) -> anyhow::Result<(f64, Vec<u64>)> {
    let begun = Instant::now();
    let asked = prompts
        .iter()
        .enumerate()
        .map(|(number, prompt)| async move {
            let caller = Caller {
                namespace: "default".to_owned(),
                plugin: format!("plugin-{number}"),
            };
            let request = GenerateRequest {
                prompt: Some(prompt.clone()),
                max_tokens: Some(u32::try_from(tokens)?),
                temperature: Some(0.0),
                ..GenerateRequest::default()
            };
            let mut generation = inference.generate(caller, MODEL, request).await?;
            let text = generation.text().await?;
            anyhow::Ok((text, generation.usage().completion_tokens))
        });
    let made = futures::future::try_join_all(asked).await?;
    let took = begun.elapsed().as_secs_f64();
    let all: u64 = made.iter().map(|(_, tokens)| tokens).sum();
    ensure!(all == (prompts.len() * tokens) as u64, "{all} tokens");
    Ok((all as f64 / took, ids(&made[0].0)?))
}

/// The tokens of a text, each of which is written as its number.
fn ids(text: &str) -> anyhow::Result<Vec<u64>> {
    let ids = text.split('<').skip(1).map(|id| id.trim_end_matches('>'));
    ids.map(|id| Ok(id.parse()?)).collect()
}

fn same(ours: &[u64], answer: &Value) -> anyhow::Result<()> {
    let theirs: Vec<Vec<u64>> = serde_json::from_value(answer["tokens"].clone())?;
    let theirs = theirs.first().context("tokens")?;
    let same = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    if same < SAME {
        bail!("candle finds other tokens: {theirs:?}, not {ours:?}");
    }
    Ok(())
}

impl Model {
    /// Writes it as the model hub would have it.
    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir(folder)?;
        let config = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
            "hidden_size": self.hidden, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.intermediate, "vocab_size": self.vocabulary,
            "max_position_embeddings": 2_048, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
            "tie_word_embeddings": true,
        });
        std::fs::write(folder.join("config.json"), config.to_string())?;
        std::fs::write(folder.join("tokenizer.json"), self.tokenizer().to_string())?;
        self.write_weights(&folder.join("model.safetensors"))
    }

    /// A token for each byte, and others that are written as their number.
    fn tokenizer(&self) -> Value {
        let mut vocabulary = Map::new();
        let mut more = BYTES as u32;
        for byte in 0..=u8::MAX {
            // Byte-level tokenizers write bytes that are no letters as others.
            let plain = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            let letter = if plain { u32::from(byte) } else { more };
            more += u32::from(!plain);
            let letter = char::from_u32(letter).unwrap_or(char::REPLACEMENT_CHARACTER);
            vocabulary.insert(letter.to_string(), json!(byte));
        }
        for id in BYTES..self.vocabulary {
            vocabulary.insert(format!("<{id}>"), json!(id));
        }
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
        });
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                "byte_fallback": false, "vocab": vocabulary, "merges": [],
            },
        })
    }

    /// Names and shapes, and how large numbers are: a row for each output.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let hidden = self.hidden;
        let keys = hidden / self.heads * self.kv_heads;
        let mut tensors = vec![
            (
                "model.embed_tokens.weight".to_owned(),
                vec![self.vocabulary, hidden],
            ),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        for layer in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm", vec![hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.k_proj", vec![keys, hidden]),
                ("self_attn.v_proj", vec![keys, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("mlp.gate_proj", vec![self.intermediate, hidden]),
                ("mlp.up_proj", vec![self.intermediate, hidden]),
                ("mlp.down_proj", vec![hidden, self.intermediate]),
            ] {
                tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        tensors
    }

    fn write_weights(&self, path: &Path) -> anyhow::Result<()> {
        let tensors = self.tensors();
        let mut header = Map::new();
        let mut begin = 0;
        for (name, shape) in &tensors {
            let end = begin + 4 * shape.iter().product::<usize>();
            let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, end] });
            header.insert(name.clone(), entry);
            begin = end;
        }
        let header = Value::from(header).to_string();
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let mut numbers = Numbers::new(0x5eed);
        for (name, shape) in &tensors {
            let (rows, width) = match **shape {
                [rows, width] => (rows, width),
                _ => (1, shape[0]),
            };
            for row in 0..rows {
                for _ in 0..width {
                    let number = numbers.normal();
                    let weight = match shape.len() {
                        1 => 1.0 + 0.1 * number,
                        _ if !name.contains("embed") => 1.5 * number / (width as f32).sqrt(),
                        _ if row < BYTES => 0.05 * number,
                        _ => number,
                    };
                    file.write_all(&weight.to_le_bytes())?;
                }
            }
        }
        file.flush()?;
        Ok(())
    }
}
