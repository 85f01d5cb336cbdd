//! Decoders against an independent implementation, and files that are none.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::text::Detokenizer;
use super::*;
use crate::generation::Message;
use crate::model::tests::{Copy, folder, reference_of};
use crate::model::{Computes, Limits, Model, ModelFiles};

/// What a model should make of a prompt.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) model: PathBuf,
    /// None where it is a conversation.
    pub(crate) prompt: Option<String>,
    pub(crate) messages: Vec<Message>,
    pub(crate) ids: Vec<u32>,
    /// Of the prompt's last tokens.
    logits: Vec<Vec<f32>>,
    /// The likeliest tokens, one after another, and what they say.
    pub(crate) next: Vec<u32>,
    pub(crate) text: String,
}

impl Case {
    pub(crate) fn name(&self) -> &str {
        let name = self.model.file_name().and_then(|name| name.to_str());
        name.expect("a name")
    }
}

/// What the reference computed.
pub(crate) fn reference() -> Vec<Case> {
    reference_of("generation.json")
}

fn load(path: &std::path::Path, device: &Device) -> Model {
    let files = ModelFiles::find(path).expect("a model");
    Model::load(&files, &Limits::default(), device).expect("loads")
}

fn likeliest(logits: &[f32]) -> u32 {
    let most = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    u32::try_from(most.expect("logits").0).expect("small")
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() < 1e-3,
            "{what}: {found} {expected}"
        );
    }
}

fn compare(device: &Device, in_tensors: bool) {
    let mut cases: BTreeMap<PathBuf, Vec<Case>> = BTreeMap::new();
    for case in reference() {
        cases.entry(case.model.clone()).or_default().push(case);
    }
    assert!(cases.len() >= 5, "{} models", cases.len());
    for (path, cases) in &cases {
        let mut model = load(path, device);
        let Computes::Decoder(decoder) = &mut model.computes else {
            panic!("a decoder");
        };
        decoder.in_tensors = in_tensors;
        let decoder = model.decoder().expect("a decoder");
        let name = path.display().to_string();
        for case in cases {
            let ids = match &case.prompt {
                Some(prompt) => model.tokenizer.prompt(prompt, true),
                None => {
                    let prompt = decoder.chat.prompt(&case.messages).expect("a template");
                    model.tokenizer.prompt(&prompt.expect("a prompt"), false)
                }
            };
            assert_eq!(ids.expect("tokens"), case.ids, "{name}");
        }
        // All prompts together, each in parts of another size; then all texts together.
        let mut caches: Vec<Memory> = cases
            .iter()
            .map(|case| decoder.cache(case.ids.len() + case.next.len()))
            .collect();
        let mut found: Vec<Vec<Vec<f32>>> = cases.iter().map(|_| Vec::new()).collect();
        let sizes = [3, 64, 17, 200];
        while cases
            .iter()
            .zip(&caches)
            .any(|(case, cache)| cache.length() < case.ids.len())
        {
            let mut of = Vec::new();
            let mut chunks = Vec::new();
            for (number, (case, cache)) in cases.iter().zip(&mut caches).enumerate() {
                let (from, size) = (cache.length(), sizes[number % sizes.len()]);
                let to = (from + size).min(case.ids.len());
                if from < to {
                    let tokens = &case.ids[from..to];
                    let wanted = tokens.len();
                    of.extend(std::iter::repeat_n(number, wanted));
                    chunks.push(Chunk {
                        tokens,
                        cache,
                        wanted,
                    });
                }
            }
            let logits = decoder.read_on(&mut chunks).expect("computes");
            assert_eq!(logits.len(), of.len());
            for (number, logits) in of.into_iter().zip(logits) {
                found[number].push(logits.expect("numbers"));
            }
        }
        let mut latest = Vec::new();
        for (case, found) in cases.iter().zip(&found) {
            let last = &found[found.len() - case.logits.len()..];
            for (found, expected) in last.iter().zip(&case.logits) {
                assert_close(found, expected, &name);
            }
            latest.push(likeliest(&found[found.len() - 1]));
        }
        let mut texts = vec![String::new(); cases.len()];
        let mut detokenizers: Vec<Detokenizer> = cases
            .iter()
            .map(|case| Detokenizer::after(&case.ids, &model.tokenizer).expect("a text"))
            .collect();
        for step in 0..cases[0].next.len() {
            for (number, case) in cases.iter().enumerate() {
                assert_eq!(latest[number], case.next[step], "{name}, token {step}");
                let text = detokenizers[number].push(latest[number], &model.tokenizer);
                texts[number].push_str(&text.expect("a text"));
            }
            let mut chunks: Vec<Chunk<'_>> = latest
                .iter()
                .zip(&mut caches)
                .map(|(id, cache)| Chunk {
                    tokens: std::slice::from_ref(id),
                    cache,
                    wanted: 1,
                })
                .collect();
            let logits = decoder.read_on(&mut chunks).expect("computes");
            let logits = logits
                .iter()
                .map(|logits| logits.as_ref().expect("numbers"));
            latest = logits.map(|logits| likeliest(logits)).collect();
        }
        for ((case, mut text), mut rest) in cases.iter().zip(texts).zip(detokenizers) {
            text.push_str(&rest.finish(&model.tokenizer).expect("a text"));
            assert_eq!(text, case.text, "{name}");
        }
    }
}

#[test]
fn every_decoder_computes_what_the_reference_does() {
    compare(&Device::cpu(), false);
}

/// As on a GPU, but on the CPU's tensors.
#[test]
fn attention_in_tensors_is_the_same() {
    compare(&Device::cpu(), true);
}

/// Run by `cargo xtask test --gpu`.
#[cfg(feature = "gpu")]
#[test]
fn a_gpu_generates_what_the_reference_does() {
    let device = Device::open(crate::model::tests::gpu()).expect("opens");
    assert!(device.is_gpu());
    compare(&device, true);
}

#[test]
fn no_half_character_is_ever_given_out() {
    for name in ["llama-gqa", "mistral-sliding", "qwen2-tied", "llama-yarn"] {
        let model = load(&folder(name), &Device::cpu());
        let tokenizer = &model.tokenizer;
        let text = "ü, 東京 and 🦀!";
        let prompt = tokenizer.prompt("x", false).expect("tokens");
        let all = tokenizer
            .prompt(&format!("x{text}"), false)
            .expect("tokens");
        assert_eq!(all[..prompt.len()], prompt);
        let rest = &all[prompt.len()..];
        assert!(rest.len() > text.chars().count(), "{name}: {rest:?}");
        let mut detokenizer = Detokenizer::after(&prompt, tokenizer).expect("a text");
        let mut found = String::new();
        for &id in rest {
            let piece = detokenizer.push(id, tokenizer).expect("a text");
            assert!(
                !piece.contains(char::REPLACEMENT_CHARACTER),
                "{name}: {piece:?}"
            );
            found.push_str(&piece);
        }
        assert_eq!(found, text, "{name}");
        assert_eq!(detokenizer.finish(tokenizer).expect("a text"), "");
        // It ends in the middle of one.
        let crab = tokenizer.prompt("x🦀", false).expect("tokens");
        let mut detokenizer =
            Detokenizer::after(&crab[..crab.len() - 4], tokenizer).expect("a text");
        for &id in &crab[crab.len() - 4..crab.len() - 1] {
            assert_eq!(detokenizer.push(id, tokenizer).expect("a text"), "");
        }
        assert_eq!(detokenizer.finish(tokenizer).expect("a text"), "");
    }
}

#[test]
fn what_a_decoder_is_stands_in_its_properties() {
    let read = |name: &str| Copy::of(name).read().expect("a model").properties();
    let llama = serde_json::to_value(read("llama-gqa")).expect("JSON");
    assert_eq!(llama["task"], "generate");
    assert_eq!(
        (&llama["architecture"], &llama["chat"]),
        (&json!("llama"), &json!(true))
    );
    assert_eq!(llama["window"], 256);
    assert!(llama.get("dimensions").is_none(), "{llama}");
    let copy = Copy::of("qwen2-tied");
    copy.change("tokenizer_config.json", |config| {
        config["chat_template"] = Value::Null
    });
    let properties = copy.read().expect("a model").properties();
    assert_eq!(properties.chat, Some(false));
    // A file of its own counts more.
    std::fs::write(copy.path("chat_template.jinja"), "{{ bos_token }}").expect("written");
    assert_eq!(copy.read().expect("a model").properties().chat, Some(true));
}

#[test]
fn a_config_that_does_not_match_or_cannot_be_run_is_refused_with_the_reason() {
    for (member, value, told) in [
        ("hidden_size", json!(96), "embed_tokens.weight"),
        ("vocab_size", json!(100), "embed_tokens.weight"),
        ("num_hidden_layers", json!(3), "layers.2."),
        ("num_key_value_heads", json!(1), "k_proj"),
        ("num_key_value_heads", json!(3), "divisible"),
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("head_dim", json!(8), "q_proj"),
        ("head_dim", json!(15), "pairs"),
        ("hidden_act", json!("gelu"), "`gelu`"),
        ("attention_bias", json!(true), "q_proj.bias"),
        ("quantization_config", json!({}), "quantized"),
        (
            "rope_scaling",
            json!({"rope_type": "other", "factor": 2}),
            "`other`",
        ),
        ("rope_scaling", json!({"rope_type": "linear"}), "factor"),
        ("rope_theta", json!(0), "rope_theta"),
        ("rms_norm_eps", json!(0), "rms_norm_eps"),
        ("partial_rotary_factor", json!(0.5), "part"),
        (
            "max_position_embeddings",
            json!(u64::MAX),
            "max_position_embeddings",
        ),
        ("vocab_size", json!(u64::MAX), "vocab_size"),
        ("num_hidden_layers", json!(u64::MAX), "num_hidden_layers"),
        ("layer_types", json!(["full_attention"]), "layer_types"),
        (
            "layer_types",
            json!(["full_attention", "linear_attention"]),
            "linear_attention",
        ),
        ("eos_token_id", json!("</s>"), "config.json"),
        ("num_hidden_layers", json!(-1), "config.json"),
    ] {
        let copy = Copy::of("llama-gqa");
        copy.change("config.json", |config| config[member] = value.clone());
        copy.refused(told);
    }
    let copy = Copy::of("llama-gqa");
    copy.change("tokenizer_config.json", |config| {
        config["chat_template"] = json!("{% for %}");
    });
    copy.refused("chat template in tokenizer_config.json");
    // A file of its own counts more, and is named.
    std::fs::write(copy.path("chat_template.jinja"), "{% if %}").expect("written");
    copy.refused("chat_template.jinja is damaged");
    let copy = Copy::of("llama-gqa");
    copy.change("generation_config.json", |config| {
        config["eos_token_id"] = json!({})
    });
    copy.refused("generation_config.json");
    let copy = Copy::of("llama-gqa");
    copy.change("tokenizer.json", |tokenizer| {
        tokenizer["model"]["vocab"]["extra"] = 5_000.into();
    });
    copy.refused("highest token");
}

#[test]
fn what_a_sliding_window_needs_is_not_guessed() {
    let without = |member: Option<&str>| {
        let copy = Copy::of("qwen2-tied");
        copy.change("config.json", |config| {
            config["use_sliding_window"] = json!(true);
            config["sliding_window"] = json!(16);
            config["max_window_layers"] = json!(1);
            if let Some(member) = member {
                config[member] = Value::Null;
            }
        });
        copy
    };
    without(None).read().expect("a model");
    for member in ["sliding_window", "max_window_layers"] {
        let error = without(Some(member)).refused(&format!("no {member}"));
        assert!(matches!(error, ModelError::Mismatch(_)), "{error}");
    }
}
