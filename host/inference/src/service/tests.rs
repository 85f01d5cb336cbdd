//! The service with small models: batches, bounds, fairness, cancels, failures.
//!
//! Where a test must know what is computed when, the computer waits at a gate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::device::DeviceChoice;
use crate::error::{ModelError, NotFinite};
use crate::model::decoder::Chunk;
use crate::model::tests::{folder, reference};
use crate::model::{Computed, Limits, Model, ModelFiles};

mod failures;

/// What is told to the gate, so that the numbers of the first text run over.
pub(super) const OVER: &str = "they run over";

/// Computes when it is told to, and tells what.
struct Gate {
    /// One message lets one batch through; an error is what it fails with.
    open: Mutex<mpsc::Receiver<Result<(), String>>>,
    /// The model and the size of each batch, of texts in tokens, before the gate.
    seen: Mutex<mpsc::Sender<(String, usize)>>,
    /// One message lets the next load through, or is what it fails with.
    load: Mutex<Option<mpsc::Receiver<Result<(), String>>>>,
}

impl Compute for Gate {
    fn load(
        &self,
        files: &ModelFiles,
        limits: &Limits,
        device: &Device,
    ) -> Result<Model, ModelError> {
        let held = self.load.lock().unwrap().take();
        if let Some(held) = held {
            let told = held.recv().unwrap_or(Ok(()));
            told.map_err(ModelError::Device)?;
        }
        Model::load(files, limits, device)
    }

    fn compute(&self, model: &Loaded, batch: &[&Tokens]) -> Result<Vec<Computed>, String> {
        let seen = (model.name.clone(), batch.len());
        self.seen.lock().unwrap().send(seen).unwrap();
        // Without a gatekeeper everything passes.
        self.open.lock().unwrap().recv().unwrap_or(Ok(()))?;
        model.model.compute_each(batch)
    }

    fn read_on(&self, model: &Loaded, chunks: &mut [Chunk<'_>]) -> Result<Vec<Computed>, String> {
        let tokens = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        let seen = (model.name.clone(), tokens);
        self.seen.lock().unwrap().send(seen).unwrap();
        let told = self.open.lock().unwrap().recv().unwrap_or(Ok(()));
        if told.as_ref().is_err_and(|told| told == OVER) {
            let mut computed = generate::read_on(model, chunks)?;
            computed[0] = Err(NotFinite);
            return Ok(computed);
        }
        told?;
        generate::read_on(model, chunks)
    }
}

pub(super) struct Scene {
    /// Dropped first: what still computes passes then.
    pub(super) open: mpsc::Sender<Result<(), String>>,
    pub(super) inference: Inference,
    seen: mpsc::Receiver<(String, usize)>,
    gate: Arc<Gate>,
    _folder: TempDir,
}

pub(super) fn store(names: &[&str]) -> (Arc<ModelStore>, TempDir) {
    let home = tempfile::tempdir().expect("a folder");
    let store = ModelStore::open(home.path(), Limits::default()).expect("opens");
    for name in names {
        store.import(name, &folder(name)).expect("imported");
    }
    (Arc::new(store), home)
}

pub(super) fn options() -> Options {
    Options {
        device: DeviceChoice::Cpu,
        threads: Some(1),
        batch: BatchOptions {
            sequences: Some(4),
            tokens: Some(10_000),
            delay: Some(Duration::ZERO),
        },
        ..Options::default()
    }
}

/// The same on a GPU.
#[cfg(feature = "gpu")]
pub(super) fn on_a_gpu() -> Options {
    Options {
        device: crate::model::tests::gpu(),
        ..options()
    }
}

pub(super) fn scene(names: &[&str], options: &Options) -> Scene {
    let (store, folder) = store(names);
    scene_of(store, folder, options)
}

fn scene_of(store: Arc<ModelStore>, folder: TempDir, options: &Options) -> Scene {
    let models = Models::open(store, options.device, options.memory_bytes).expect("opens");
    let (open, gate) = mpsc::channel();
    let (sender, seen) = mpsc::channel();
    let gate = Arc::new(Gate {
        open: Mutex::new(gate),
        seen: Mutex::new(sender),
        load: Mutex::default(),
    });
    let compute: Arc<dyn Compute> = Arc::<Gate>::clone(&gate);
    let inference = Inference::start_with(models, options, compute).expect("starts");
    Scene {
        inference,
        open,
        seen,
        gate,
        _folder: folder,
    }
}

pub(super) fn caller(namespace: &str, plugin: &str) -> Caller {
    Caller {
        namespace: namespace.to_owned(),
        plugin: plugin.to_owned(),
    }
}

type Asked = tokio::task::JoinHandle<Result<Embeddings, InferenceError>>;

impl Scene {
    fn ask(&self, plugin: &str, model: &str, texts: &[&str]) -> Asked {
        self.ask_as(caller("default", plugin), model, texts)
    }

    fn ask_as(&self, caller: Caller, model: &str, texts: &[&str]) -> Asked {
        let inference = self.inference.clone();
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        let model = model.to_owned();
        tokio::spawn(async move {
            inference
                .embed(caller, &model, texts, LongText::Refuse)
                .await
        })
    }

    pub(super) fn next_batch(&self) -> (String, usize) {
        self.seen
            .recv_timeout(Duration::from_secs(60))
            .expect("a batch")
    }

    /// Waits until that many sequences are queued.
    async fn queued(&self, wanted: usize) {
        let shared = &self.inference.running.shared;
        while shared.queues().pieces.len() != wanted {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_the_references() {
    let (store, _folder) = store(&["bert-cls", "rerank-bert"]);
    let inference = Inference::start(store, &options()).expect("starts");
    for case in reference() {
        let model = case.model.file_name().unwrap().to_str().unwrap().to_owned();
        let me = caller("default", "me");
        let found = match (model.as_str(), case.long.as_str()) {
            ("bert-cls", long) => {
                let long = match long {
                    "refuse" => LongText::Refuse,
                    "truncate" => LongText::Truncate,
                    _ => LongText::Split,
                };
                let found = inference.embed(me, &model, case.texts, long).await.unwrap();
                assert_eq!((found.dimensions, found.usage.gpu), (48, false));
                let tokens: u64 = found.tokens.iter().map(|&tokens| u64::from(tokens)).sum();
                assert_eq!(found.usage.tokens, tokens);
                assert!(found.usage.computed > Duration::ZERO);
                found.values
            }
            ("rerank-bert", _) => {
                let long = LongText::Truncate;
                let found = inference.rerank(me, &model, case.query, case.texts, long);
                found.await.unwrap().values
            }
            _ => continue,
        };
        for (found, expected) in found.iter().zip(case.values.concat()) {
            assert!(
                (found - expected).abs() < 1e-4,
                "{model}: {found} {expected}"
            );
        }
    }
    let none = inference.embed(caller("d", "p"), "bert-cls", Vec::new(), LongText::Refuse);
    assert_eq!(none.await.unwrap().dimensions, 48);
    inference.warm_up("rerank-bert").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_share_batches_of_one_model_and_like_lengths() {
    let scene = scene(&["bert-cls", "bert-odd"], &options());
    let first = scene.ask("a", "bert-cls", &["one"]);
    assert_eq!(scene.next_batch(), ("bert-cls".to_owned(), 1));
    // While that is computed, others gather.
    let long = "rotor ".repeat(20);
    let asked = [
        scene.ask("a", "bert-cls", &["x", "y"]),
        scene.ask("b", "bert-cls", &["z", &long]),
        scene.ask("c", "bert-odd", &["x"]),
    ];
    scene.queued(5).await;
    for _ in 0..4 {
        scene.open.send(Ok(())).unwrap();
    }
    first.await.unwrap().unwrap();
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    let mut sizes = BTreeMap::new();
    for (model, size) in std::iter::repeat_with(|| scene.next_batch()).take(3) {
        sizes.entry(model).or_insert_with(Vec::new).push(size);
    }
    sizes.values_mut().for_each(|sizes| sizes.sort_unstable());
    assert_eq!(sizes["bert-cls"], [1, 3]);
    assert_eq!(sizes["bert-odd"], [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_busy_and_nobody_has_all_of_it() {
    let mut options = options();
    options.queue.requests = 4;
    options.queue.bytes = 20;
    let scene = scene(&["bert-cls"], &options);
    // What no empty queue would take is not for later.
    let large = scene.ask("greedy", "bert-cls", &["123456", "12345"]);
    let large = large.await.unwrap();
    assert!(
        matches!(large, Err(InferenceError::LimitExceeded(_))),
        "{large:?}"
    );
    let mut asked = vec![scene.ask("greedy", "bert-cls", &["1"])];
    scene.next_batch();
    asked.push(scene.ask("greedy", "bert-cls", &["2"]));
    scene.queued(1).await;
    let busy = scene.ask("greedy", "bert-cls", &["3"]).await.unwrap();
    assert_eq!(busy, Err(InferenceError::Busy));
    asked.push(scene.ask("other", "bert-cls", &["1"]));
    scene.queued(2).await;
    // What is left is for other namespaces.
    let busy = scene.ask("third", "bert-cls", &["1"]).await.unwrap();
    assert_eq!(busy, Err(InferenceError::Busy));
    let elsewhere = |plugin| scene.ask_as(caller("elsewhere", plugin), "bert-cls", &["1"]);
    asked.push(elsewhere("greedy"));
    scene.queued(3).await;
    let busy = elsewhere("other").await.unwrap();
    assert_eq!(busy, Err(InferenceError::Busy));
    drop(scene.open);
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_leaves_the_queue_and_its_batch() {
    let scene = scene(&["bert-cls"], &options());
    let first = scene.ask("a", "bert-cls", &["1"]);
    scene.next_batch();
    let cancelled = scene.ask("a", "bert-cls", &["2", "3"]);
    let kept = scene.ask("b", "bert-cls", &["4"]);
    scene.queued(3).await;
    cancelled.abort();
    assert!(cancelled.await.unwrap_err().is_cancelled());
    // Its place is free at once, though the computer is busy.
    assert_eq!(
        scene.inference.running.shared.queues().admitted.requests(),
        2
    );
    scene.open.send(Ok(())).unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(scene.next_batch().1, 1);
    scene.open.send(Ok(())).unwrap();
    kept.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn models_leave_memory_for_others_when_nobody_uses_them() {
    let (store, _folder) = store(&["bert-cls", "bert-odd", "rerank-bert"]);
    let bytes = |name: &str| store.get(name).unwrap().properties.memory_bytes;
    let mut options = options();
    options.memory_bytes = bytes("bert-cls") + bytes("bert-odd");
    let inference = Inference::start(Arc::clone(&store), &options).expect("starts");
    let embed = async |model: &str| {
        let texts = vec!["a".to_owned()];
        let asked = inference.embed(caller("d", "p"), model, texts, LongText::Refuse);
        asked.await
    };
    embed("bert-cls").await.unwrap();
    embed("bert-odd").await.unwrap();
    let (mut names, used) = inference.in_memory();
    names.sort();
    assert_eq!(names, ["bert-cls", "bert-odd"]);
    assert_eq!(used, options.memory_bytes);
    embed("bert-cls").await.unwrap();
    // It takes more than the older one leaves, so that both go.
    inference.warm_up("rerank-bert").await.unwrap();
    assert!(!inference.in_memory().0.contains(&"bert-odd".to_owned()));
    embed("bert-odd").await.unwrap();
    inference.unload("bert-odd");
    assert!(!inference.in_memory().0.contains(&"bert-odd".to_owned()));
    // A removed model is known no more.
    store.remove("bert-cls").unwrap();
    let gone = embed("bert-cls").await;
    assert_eq!(
        gone,
        Err(InferenceError::UnknownModel("bert-cls".to_owned()))
    );

    options.memory_bytes = bytes("bert-odd") - 1;
    let small = Inference::start(store, &options).expect("starts");
    let refused = small.warm_up("bert-odd").await;
    assert!(
        matches!(refused, Err(InferenceError::OutOfMemory(_))),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_that_was_used_least_recently_goes_first() {
    let (store, _folder) = store(&["bert-cls"]);
    let names = ["bert-cls", "second", "third"];
    for name in &names[1..] {
        store.import(name, &folder("bert-cls")).expect("imported");
    }
    let bytes = store.get("bert-cls").unwrap().properties.memory_bytes;
    let options = Options {
        memory_bytes: 2 * bytes,
        ..options()
    };
    let inference = Inference::start(store, &options).expect("starts");
    let after = async |model: &str| {
        let texts = vec!["a".to_owned()];
        let asked = inference.embed(caller("d", "p"), model, texts, LongText::Refuse);
        asked.await.unwrap();
        let mut names = inference.in_memory().0;
        names.sort();
        names
    };
    after("bert-cls").await;
    assert_eq!(after("second").await, ["bert-cls", "second"]);
    assert_eq!(after("bert-cls").await, ["bert-cls", "second"]);
    assert_eq!(after("third").await, ["bert-cls", "third"]);
    assert_eq!(after("third").await, ["bert-cls", "third"]);
    assert_eq!(after("second").await, ["second", "third"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weight_that_changed_on_the_disk_is_found_when_it_is_loaded() {
    let (store, home) = store(&["bert-cls"]);
    let blobs = std::fs::read_dir(home.path().join("blobs")).expect("a folder");
    let weights = blobs.map(|it| it.expect("a file").path());
    let weights = weights.max_by_key(|path| path.metadata().expect("a file").len());
    let weights = weights.expect("a file");
    let mut bytes = std::fs::read(&weights).expect("read");
    // The lowest bit of a number: it stays a number.
    let place = bytes.len() - 4;
    bytes[place] ^= 1;
    std::fs::remove_file(&weights).expect("removed");
    std::fs::write(&weights, bytes).expect("written");
    let inference = Inference::start(store, &options()).expect("starts");
    let error = inference.warm_up("bert-cls").await.expect_err("is damaged");
    let told = error.to_string();
    assert!(told.contains("not what was imported"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said() {
    let (store, _folder) = store(&["bert-cls", "rerank-bert"]);
    let mut options = options();
    options.queue.request_texts = 3;
    options.queue.request_bytes = 1_000;
    let inference = Inference::start(Arc::clone(&store), &options).expect("starts");
    let me = || caller("default", "me");
    let embed = async |model: &str, texts: &[&str]| {
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        inference.embed(me(), model, texts, LongText::Refuse).await
    };
    assert_eq!(
        embed("none", &["a"]).await,
        Err(InferenceError::UnknownModel("none".to_owned()))
    );
    assert!(matches!(
        embed("rerank-bert", &["a"]).await,
        Err(InferenceError::Unsupported { what: "embed", .. })
    ));
    let long = "a ".repeat(100);
    assert_eq!(
        embed("bert-cls", &["a", &long]).await,
        Err(InferenceError::InputTooLong {
            model: "bert-cls".to_owned(),
            index: 1,
            tokens: 102,
            window: 64,
        })
    );
    for texts in [&["a"; 4][..], &[&"a".repeat(1_001)]] {
        let refused = embed("bert-cls", texts).await;
        assert!(
            matches!(refused, Err(InferenceError::LimitExceeded(_))),
            "{refused:?}"
        );
    }
    let query = "q".repeat(400);
    let documents = vec!["d".to_owned(); 3];
    let refused = inference
        .rerank(me(), "rerank-bert", query, documents, LongText::Refuse)
        .await;
    assert!(
        matches!(refused, Err(InferenceError::LimitExceeded(_))),
        "{refused:?}"
    );
    let properties = &store.get("rerank-bert").unwrap().properties;
    assert_eq!(
        (properties.task, properties.dimensions),
        (Task::Rerank, None)
    );
    // A file that vanished since the import.
    let weights = store.files(&store.get("bert-cls").unwrap());
    let path = weights
        .iter()
        .find(|(name, _)| *name == "model.safetensors");
    inference.unload("bert-cls");
    std::fs::remove_file(path.unwrap().1).unwrap();
    let refused = embed("bert-cls", &["a"]).await;
    assert!(
        matches!(refused, Err(InferenceError::Unloadable { .. })),
        "{refused:?}"
    );
}
