//! Models against the values of an independent implementation, and files that are no model.
//!
//! `cargo xtask test` runs `tests/inference/reference.py`, which writes the values and, but
//! for the one with real weights, the models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tempfile::TempDir;

use super::*;

/// One model's texts and what they should become.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) model: PathBuf,
    task: String,
    #[serde(default)]
    pub(crate) query: String,
    pub(crate) texts: Vec<String>,
    pub(crate) long: String,
    ids: Vec<Vec<Vec<u32>>>,
    pub(crate) values: Vec<Vec<f32>>,
}

/// Where the reference and the models that it made lie.
fn reference_file() -> PathBuf {
    std::env::var_os("HEYDAY_INFERENCE_REFERENCE")
        .expect("HEYDAY_INFERENCE_REFERENCE: run the tests by `cargo xtask test`")
        .into()
}

/// What the reference computed of one kind of models, by the name of its file.
pub(crate) fn reference_of<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(reference_file().with_file_name(name));
    serde_json::from_str(&text.expect("the reference")).expect("the reference")
}

/// What the reference computed of encoders.
pub(crate) fn reference() -> Vec<Case> {
    reference_of("reference.json")
}

/// A model that the reference made.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = reference_file().with_file_name(name);
    assert!(folder.is_dir(), "{}", folder.display());
    folder
}

fn long(name: &str) -> LongText {
    match name {
        "refuse" => LongText::Refuse,
        "truncate" => LongText::Truncate,
        _ => LongText::Split,
    }
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

/// Computes every case on a device and compares it with the reference.
fn compare(device: &Device, bound: f32) {
    let mut models: BTreeMap<PathBuf, Model> = BTreeMap::new();
    let mut kinds = 0;
    for case in reference() {
        let model = models.entry(case.model.clone()).or_insert_with(|| {
            let files = ModelFiles::find(&case.model).expect("a model");
            Model::load(&files, &Limits::default(), device).expect("loads")
        });
        kinds += 1;
        let windows: Vec<Window> = case
            .texts
            .iter()
            .map(|text| {
                if case.task == "rerank" {
                    model.tokenizer.pair(&case.query, text, LongText::Truncate)
                } else {
                    model.tokenizer.text(text, long(&case.long))
                }
                .expect("tokens")
            })
            .collect();
        for ((window, ids), text) in windows.iter().zip(&case.ids).zip(&case.texts) {
            let found: Vec<_> = window
                .pieces
                .iter()
                .map(|piece| piece.ids.clone())
                .collect();
            assert_eq!(&found, ids, "{}: {text:?}", case.model.display());
        }
        // All together, so that sequences of any lengths meet in one batch.
        let pieces: Vec<&Tokens> = windows.iter().flat_map(|window| &window.pieces).collect();
        let computed = model.compute(&pieces).expect("computes");
        let mut computed = computed.into_iter();
        for (window, expected) in windows.iter().zip(&case.values) {
            let vectors: Vec<Vec<f32>> = computed.by_ref().take(window.pieces.len()).collect();
            let lengths: Vec<usize> = window.pieces.iter().map(|piece| piece.ids.len()).collect();
            let found = average(vectors, &lengths, model.properties().normalized);
            let error = largest_difference(&found, expected);
            assert!(error <= bound, "{}: {error}", case.model.display());
        }
    }
    assert!(kinds > 10, "{kinds} cases");
}

#[test]
fn every_kind_of_model_computes_what_the_reference_does() {
    compare(&Device::cpu(), 1e-4);
}

/// The GPU of the tests: one in software, or what `HEYDAY_TEST_DEVICE` says.
#[cfg(feature = "gpu")]
pub(crate) fn gpu() -> crate::device::DeviceChoice {
    let choice = std::env::var("HEYDAY_TEST_DEVICE").unwrap_or_else(|_| "gpu:software".to_owned());
    choice.parse().expect("a device")
}

/// Run by `cargo xtask test --gpu`.
#[cfg(feature = "gpu")]
#[test]
fn a_gpu_computes_what_the_reference_does() {
    let device = Device::open(gpu()).expect("opens");
    assert!(device.is_gpu());
    compare(&device, 1e-3);
}

#[test]
fn a_text_alone_and_in_a_batch_is_the_same() {
    let files = ModelFiles::find(&folder("bert-odd")).expect("a model");
    let model = Model::load(&files, &Limits::default(), &Device::cpu()).expect("loads");
    let texts = [
        "a",
        "rotor balance",
        "the sentence is about a rotor, number 7",
    ];
    let tokens: Vec<Tokens> = texts
        .iter()
        .flat_map(|text| model.tokenizer.text(text, LongText::Refuse).unwrap().pieces)
        .collect();
    let together = model.compute(&tokens.iter().collect::<Vec<_>>()).unwrap();
    for (tokens, together) in tokens.iter().zip(&together) {
        let alone = model.compute(&[tokens]).unwrap();
        assert!(largest_difference(&alone[0], together) < 1e-6);
    }
    assert!(model.compute(&[]).unwrap().is_empty());
}

#[test]
fn any_number_of_threads_computes_the_same() {
    let files = ModelFiles::find(&folder("bert-cls")).expect("a model");
    let model = Model::load(&files, &Limits::default(), &Device::cpu()).expect("loads");
    // One that threads share in steps or in products, and parts of which each takes others.
    let batches: [&[u32]; 4] = [&[64], &[5], &[64; 3], &[64, 30, 1, 64, 17, 64, 64]];
    for lengths in batches {
        let text = |&length: &u32| Tokens {
            ids: (0..length).map(|at| at % 60 + 1).collect(),
            types: None,
        };
        let texts: Vec<Tokens> = lengths.iter().map(text).collect();
        let batch: Vec<&Tokens> = texts.iter().collect();
        let by = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let computed = pool.expect("threads").install(|| model.compute(&batch));
            computed.expect("computes")
        };
        let alone = by(1);
        for threads in [2, 3, 8] {
            let found = by(threads);
            assert_eq!(found.len(), lengths.len());
            for (found, expected) in found.iter().zip(&alone) {
                let error = largest_difference(found, expected);
                assert!(error < 1e-6, "{lengths:?} by {threads}: {error}");
            }
        }
    }
}

#[test]
fn a_long_text_is_refused_where_it_is_to_be() {
    let files = ModelFiles::find(&folder("bert-cls")).expect("a model");
    let description = Description::read(&files, &Limits::default()).expect("a model");
    let text = "a ".repeat(63);
    let refused = description.tokenizer.text(&text, LongText::Refuse);
    let Err(tokens::TokenError::TooLong(told)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((told.tokens, told.window), (65, 64));
    let pair = |long| description.tokenizer.pair("a b", &text, long);
    assert!(pair(LongText::Refuse).is_err());
    let cut = pair(LongText::Truncate).unwrap();
    assert_eq!(
        (cut.pieces.len(), cut.pieces[0].ids.len(), cut.left_out),
        (1, 64, 4)
    );
    let split = pair(LongText::Split).unwrap();
    let lengths: Vec<_> = split.pieces.iter().map(|piece| piece.ids.len()).collect();
    assert_eq!((lengths, split.left_out), (vec![64, 9], 0));
    let cut = description
        .tokenizer
        .text(&text, LongText::Truncate)
        .unwrap();
    assert_eq!((cut.pieces.len(), cut.left_out), (1, 1));
    assert_eq!(cut.pieces[0].ids.len(), 64);
    let split = description.tokenizer.text(&text, LongText::Split).unwrap();
    let lengths: Vec<_> = split.pieces.iter().map(|piece| piece.ids.len()).collect();
    assert_eq!((lengths, split.left_out), (vec![64, 3], 0));
}

/// A copy of a small model, to be spoiled.
pub(crate) struct Copy(TempDir);

impl Copy {
    pub(crate) fn of(name: &str) -> Self {
        let to = tempfile::tempdir().expect("a folder");
        for (name, path) in ModelFiles::find(&folder(name)).expect("a model").iter() {
            let target = to.path().join(name);
            std::fs::create_dir_all(target.parent().expect("a folder")).expect("made");
            std::fs::copy(path, target).expect("copied");
        }
        Self(to)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.path(name);
        let text = std::fs::read(&path).expect("read");
        let mut value = serde_json::from_slice(&text).expect("JSON");
        change(&mut value);
        std::fs::write(&path, value.to_string()).expect("written");
    }

    pub(crate) fn read(&self) -> Result<Description, ModelError> {
        Description::read(&ModelFiles::find(self.0.path())?, &Limits::default())
    }

    #[track_caller]
    pub(crate) fn refused(&self, word: &str) -> ModelError {
        let error = self.read().expect_err("refused");
        assert!(error.to_string().contains(word), "{error}");
        error
    }
}

#[test]
fn a_config_that_does_not_match_its_weights_is_refused_by_name() {
    for (member, value, told) in [
        ("hidden_size", 96, "embeddings.word_embeddings.weight"),
        ("vocab_size", 100, "embeddings.word_embeddings.weight"),
        ("intermediate_size", 97, "intermediate.dense.weight"),
        ("num_hidden_layers", 3, "encoder.layer.2."),
        ("max_position_embeddings", 128, "position_embeddings"),
        ("num_attention_heads", 5, "divisible"),
    ] {
        let copy = Copy::of("bert-cls");
        copy.change("config.json", |config| config[member] = value.into());
        if member == "hidden_size" {
            copy.change("1_Pooling/config.json", |pooling| {
                pooling["word_embedding_dimension"] = value.into();
            });
        }
        let error = copy.refused(told);
        assert!(matches!(error, ModelError::Mismatch(_)), "{error}");
    }
    let copy = Copy::of("bert-cls");
    copy.change("tokenizer.json", |tokenizer| {
        tokenizer["model"]["vocab"]["extra"] = 80.into();
    });
    copy.refused("highest token is 80");
    let copy = Copy::of("bert-cls");
    copy.change("1_Pooling/config.json", |pooling| {
        pooling["word_embedding_dimension"] = 384.into();
    });
    copy.refused("word_embedding_dimension");
}

#[test]
fn what_this_version_cannot_run_is_refused_with_the_reason() {
    for (file, member, value, told) in [
        ("config.json", "model_type", "\"gpt_neox\"", "`gpt_neox`"),
        ("config.json", "hidden_act", "\"swish\"", "`swish`"),
        ("config.json", "is_decoder", "true", "decoder"),
        (
            "config.json",
            "position_embedding_type",
            "\"relative_key\"",
            "relative_key",
        ),
        ("config.json", "quantization_config", "{}", "quantized"),
        (
            "config.json",
            "architectures",
            "[\"XForSequenceClassification\"]",
            "2 labels",
        ),
        (
            "1_Pooling/config.json",
            "pooling_mode_max_tokens",
            "true",
            "cls_token, max_tokens",
        ),
        (
            "1_Pooling/config.json",
            "pooling_mode",
            "\"lasttoken\"",
            "lasttoken",
        ),
    ] {
        let copy = Copy::of("bert-cls");
        copy.change(file, |json| {
            json[member] = serde_json::from_str(value).unwrap()
        });
        let error = copy.refused(told);
        assert!(matches!(error, ModelError::Unsupported(_)), "{error}");
    }
    let copy = Copy::of("bert-cls");
    copy.change("modules.json", |modules| {
        modules[2]["type"] = "sentence_transformers.models.Dense".into();
    });
    copy.refused("Dense");
}

#[test]
fn another_architecture_is_refused_by_its_name_whatever_it_calls_its_sizes() {
    for config in [
        serde_json::json!({
            "model_type": "distilbert", "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 96,
            "activation": "gelu", "vocab_size": 80, "max_position_embeddings": 64,
        }),
        serde_json::json!({
            "model_type": "t5", "d_model": 48, "d_ff": 96, "num_layers": 2, "vocab_size": 80,
        }),
        serde_json::json!({
            "model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 80,
        }),
        serde_json::json!({ "model_type": "gemma3", "text_config": { "hidden_size": 48 } }),
    ] {
        let copy = Copy::of("bert-cls");
        let name = format!("`{}`", config["model_type"].as_str().expect("a name"));
        copy.change("config.json", |json| *json = config);
        let error = copy.refused(&name);
        assert!(matches!(error, ModelError::Unsupported(_)), "{error}");
        assert!(error.to_string().contains("camembert"), "{error}");
    }
    let copy = Copy::of("bert-cls");
    copy.change("config.json", |config| {
        config
            .as_object_mut()
            .expect("an object")
            .remove("model_type");
    });
    assert!(matches!(
        copy.refused("model_type"),
        ModelError::Missing { .. }
    ));
}

#[test]
fn sizes_are_bounded_before_anything_is_allocated() {
    for member in [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
    ] {
        for value in [0_u64, u64::MAX] {
            let copy = Copy::of("bert-cls");
            copy.change("config.json", |config| config[member] = value.into());
            copy.refused(member);
        }
    }
    // Each within its bound, all together not.
    let copy = Copy::of("bert-cls");
    copy.change("config.json", |config| {
        config["vocab_size"] = 2_000_000.into();
        config["hidden_size"] = 16_128.into();
    });
    copy.change("1_Pooling/config.json", |pooling| {
        pooling["word_embedding_dimension"] = 16_128.into();
    });
    assert!(matches!(
        copy.refused("bytes in memory"),
        ModelError::TooLarge(_)
    ));
    for (file, most) in [("modules.json", 16_u64 << 20), ("tokenizer.json", 64 << 20)] {
        let copy = Copy::of("bert-cls");
        let long = std::fs::File::create(copy.path(file)).expect("made");
        long.set_len(most + 1).expect("grown");
        let error = copy.refused(&format!("{file} has more than {most} bytes"));
        assert!(matches!(error, ModelError::TooLarge(_)), "{error}");
    }
}

#[test]
fn a_tokenizer_is_refused_also_where_its_library_panics() {
    let normalizer = |table: &str| {
        let table = serde_json::json!({ "type": "Precompiled", "precompiled_charsmap": table });
        ("normalizer", table)
    };
    let nested = normalizer("/////w==").1;
    let nested = serde_json::json!({ "type": "Sequence", "normalizers": [nested] });
    let nothing = serde_json::json!({ "type": "FixedLength", "length": 0 });
    for ((member, value), told) in [
        // No letters of base64, fewer bytes than say how many there are, and a table of none.
        (normalizer("?"), "Precompiled"),
        (normalizer("AAA="), "Precompiled"),
        (normalizer("AAAAAA=="), "out of bounds"),
        // Four bytes that say that four gigabytes follow.
        (normalizer("/////w=="), "is cut off"),
        (("normalizer", nested), "is cut off"),
        (("pre_tokenizer", nothing), "chunk size"),
    ] {
        let copy = Copy::of("bert-cls");
        copy.change("tokenizer.json", |tokenizer| tokenizer[member] = value);
        let error = copy.refused(told);
        assert!(matches!(error, ModelError::Damaged { .. }), "{error}");
    }
}

#[test]
fn a_damaged_file_is_refused() {
    let weights = "model.safetensors";
    let whole = std::fs::read(Copy::of("bert-cls").path(weights)).expect("read");
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().expect("8 bytes")) as usize;
    let spoil = |bytes: &[u8]| {
        let copy = Copy::of("bert-cls");
        std::fs::write(copy.path(weights), bytes).expect("written");
        copy
    };
    for length in [0, 7, 8, 100, header - 1, header, whole.len() - 1] {
        let error = spoil(&whole[..length]).read().expect_err("cut off");
        assert!(
            matches!(error, ModelError::Damaged { .. }),
            "{length}: {error}"
        );
    }
    let mut long = whole.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    spoil(&long).refused("its header would have");
    let mut broken = whole.clone();
    broken[8] = b'[';
    spoil(&broken).refused("no JSON");
    // Offsets that lie, under a shape that does not.
    let text = String::from_utf8(whole[8..header].to_vec()).expect("JSON");
    let mut offsets: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    offsets["embeddings.LayerNorm.bias"]["data_offsets"] = serde_json::json!([0, 8]);
    let changed = offsets.to_string();
    let mut bytes = (changed.len() as u64).to_le_bytes().to_vec();
    bytes.extend(changed.as_bytes());
    bytes.extend(&whole[header..]);
    spoil(&bytes).refused("which its shape");
    // Only the whole read tells.
    let mut nan = whole.clone();
    let last = nan.len() - 4;
    nan[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    let description = spoil(&nan).read().expect("the header is well");
    let error = description.verify_weights().expect_err("not a number");
    assert!(error.to_string().contains("no number"), "{error}");

    for file in ["config.json", "tokenizer.json", "modules.json"] {
        let copy = Copy::of("bert-cls");
        std::fs::write(copy.path(file), "{\"").expect("written");
        assert!(matches!(copy.refused(file), ModelError::Damaged { .. }));
    }
    for file in ["config.json", "tokenizer.json", weights] {
        let copy = Copy::of("bert-cls");
        std::fs::remove_file(copy.path(file)).expect("removed");
        assert!(matches!(copy.refused(file), ModelError::Missing { .. }));
    }
}

#[test]
fn a_folder_of_the_hubs_cache_is_a_model() {
    let hub = tempfile::tempdir().expect("a folder");
    let blobs = hub.path().join("blobs");
    std::fs::create_dir(&blobs).expect("made");
    let copy = |to: &Path| {
        for (name, path) in ModelFiles::find(&folder("bert-f16-parts"))
            .expect("a model")
            .iter()
        {
            let target = to.join(name);
            std::fs::create_dir_all(target.parent().expect("a folder")).expect("made");
            // A snapshot has links to what several of them may have.
            let blob = blobs.join(name.replace('/', "-"));
            std::fs::copy(path, &blob).expect("copied");
            #[cfg(unix)]
            std::os::unix::fs::symlink(&blob, target).expect("linked");
            #[cfg(not(unix))]
            std::fs::copy(&blob, target).expect("copied");
        }
    };
    let snapshots = hub.path().join("snapshots");
    copy(&snapshots.join("0123abc"));
    let read = || Description::read(&ModelFiles::find(hub.path())?, &Limits::default());
    read().expect("the only snapshot");
    copy(&snapshots.join("4567def"));
    assert!(read().expect_err("two").to_string().contains("several"));
    let refs = hub.path().join("refs");
    std::fs::create_dir(&refs).expect("made");
    std::fs::write(refs.join("main"), "4567def\n").expect("written");
    read().expect("the named snapshot");
    std::fs::write(refs.join("main"), "../../elsewhere").expect("written");
    read().expect_err("a way out");
}
