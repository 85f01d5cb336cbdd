//! What fails or takes long, and what that costs others.

use super::*;
use crate::model::tests::Copy;

impl Scene {
    /// Lets one batch through, and answers what was asked.
    async fn answered(&self, asked: Asked) -> Embeddings {
        self.next_batch();
        self.open.send(Ok(())).expect("a gate");
        asked.await.expect("ends").expect("embeddings")
    }

    /// The next load waits for a message.
    fn hold_load(&self) -> mpsc::Sender<Result<(), String>> {
        let (open, gate) = mpsc::channel();
        *self.gate.load.lock().unwrap() = Some(gate);
        open
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_ends_what_waits_for_it_and_comes_back() {
    fails_and_comes_back(&options()).await;
}

/// Run by `cargo xtask test --gpu`.
#[cfg(feature = "gpu")]
#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_fails_ends_what_waits_for_it_and_comes_back() {
    fails_and_comes_back(&on_a_gpu()).await;
}

async fn fails_and_comes_back(options: &Options) {
    let scene = scene(&["bert-cls"], options);
    let gpu = options.device != DeviceChoice::Cpu;
    for (told, expected) in [
        ("the device was lost", InferenceError::DeviceLost),
        (
            "Out of memory while allocating",
            InferenceError::OutOfMemory("the device has too little for the batch".to_owned()),
        ),
    ] {
        let first = scene.ask("a", "bert-cls", &["1"]);
        scene.next_batch();
        let together = [
            scene.ask("a", "bert-cls", &["2"]),
            scene.ask("b", "bert-cls", &["3", "4"]),
        ];
        scene.queued(3).await;
        scene.open.send(Ok(())).unwrap();
        first.await.unwrap().unwrap();
        assert_eq!(scene.next_batch().1, 3, "one batch of both");
        let queued = scene.ask("c", "bert-cls", &["5"]);
        scene.queued(1).await;
        scene.open.send(Err(told.to_owned())).unwrap();
        for asked in together.into_iter().chain([queued]) {
            assert_eq!(asked.await.unwrap(), Err(expected.clone()));
        }
        assert_eq!(scene.inference.in_memory(), (Vec::new(), 0));
        let again = scene.ask("a", "bert-cls", &["1"]);
        let usage = scene.answered(again).await.usage;
        assert!(usage.computed > Duration::ZERO);
        assert_eq!(usage.gpu, gpu);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_under_embeddings_and_texts_is_opened_again_once() {
    let scene = scene(&["bert-cls", "llama-gqa"], &options());
    let models = &scene.inference.running.shared.models;
    let asked = scene.ask("a", "bert-cls", &["1"]);
    scene.next_batch();
    let request = GenerateRequest {
        prompt: Some("The rotor is".to_owned()),
        max_tokens: Some(1),
        ..GenerateRequest::default()
    };
    let me = || caller("default", "b");
    let text = scene.inference.generate(me(), "llama-gqa", request.clone());
    let mut text = text.await.expect("accepted");
    scene.next_batch();
    for _ in 0..2 {
        let told = Err("the device was lost".to_owned());
        scene.open.send(told).expect("a gate");
    }
    assert_eq!(asked.await.unwrap(), Err(InferenceError::DeviceLost));
    assert_eq!(text.text().await, Err(InferenceError::DeviceLost));
    assert_eq!(models.openings(), 1);
    // Both are loaded again.
    let again = scene.ask("a", "bert-cls", &["1"]);
    scene.answered(again).await;
    let text = scene.inference.generate(me(), "llama-gqa", request);
    let mut text = text.await.expect("accepted");
    scene.next_batch();
    scene.open.send(Ok(())).expect("a gate");
    text.text().await.expect("a text");
    assert_eq!(models.openings(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_under_a_load_is_opened_again() {
    load_fails(&options()).await;
}

/// Run by `cargo xtask test --gpu`.
#[cfg(feature = "gpu")]
#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_fails_under_a_load_is_opened_again() {
    load_fails(&on_a_gpu()).await;
}

async fn load_fails(options: &Options) {
    let scene = scene(&["bert-cls", "bert-odd"], options);
    let first = scene.ask("a", "bert-cls", &["1"]);
    scene.answered(first).await;
    let full = "the device has too little for the model".to_owned();
    let cases: [(&str, InferenceError, &[&str]); 2] = [
        // There is no room for one more; those that are there are well.
        (
            "out of memory",
            InferenceError::OutOfMemory(full),
            &["bert-cls"],
        ),
        ("the device was lost", InferenceError::DeviceLost, &[]),
    ];
    for (told, expected, left) in cases {
        let load = scene.hold_load();
        load.send(Err(told.to_owned())).unwrap();
        let refused = scene.ask("a", "bert-odd", &["1"]).await.unwrap();
        assert_eq!(refused, Err(expected));
        assert_eq!(scene.inference.in_memory().0, left);
        let again = scene.ask("a", "bert-odd", &["1"]);
        scene.answered(again).await;
        scene.inference.unload("bert-odd");
    }
    assert!(!scene.inference.is_device_lost());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_while_a_model_is_loaded_has_it_loaded_again() {
    let scene = scene(&["bert-cls", "bert-odd"], &options());
    let first = scene.ask("a", "bert-cls", &["1"]);
    scene.next_batch();
    let load = scene.hold_load();
    let loading = scene.ask("b", "bert-odd", &["1"]);
    scene.loading("bert-odd", 1).await;
    scene
        .open
        .send(Err("the device was lost".to_owned()))
        .unwrap();
    assert_eq!(first.await.unwrap(), Err(InferenceError::DeviceLost));
    // What it says now, it says of a device that is not used any more.
    load.send(Err("the device was lost".to_owned())).unwrap();
    scene.answered(loading).await;
    assert_eq!(scene.inference.in_memory().0, ["bert-odd"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_being_loaded_holds_up_no_other() {
    let scene = scene(&["bert-cls", "bert-odd"], &options());
    let first = scene.ask("a", "bert-cls", &["1"]);
    scene.answered(first).await;
    let load = scene.hold_load();
    // More of them than there are readers on any machine.
    let waiting: Vec<Asked> = (0..6).map(|_| scene.ask("a", "bert-odd", &["1"])).collect();
    scene.loading("bert-odd", 6).await;
    let other = scene.ask("b", "bert-cls", &["1"]);
    scene.answered(other).await;
    assert!(waiting.iter().all(|asked| !asked.is_finished()));
    // One of them goes, the others are answered.
    let mut waiting = waiting.into_iter();
    let gone = waiting.next().expect("six");
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    drop(load);
    for _ in 0..6 {
        scene.open.send(Ok(())).unwrap();
    }
    for asked in waiting {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_removed_while_it_is_loaded_does_not_stay_in_memory() {
    let scene = scene(&["bert-cls"], &options());
    // So that its files stay.
    let store = scene.inference.store();
    store.import("twin", &folder("bert-cls")).expect("imported");
    let load = scene.hold_load();
    let asked = scene.ask("a", "bert-cls", &["1"]);
    scene.loading("bert-cls", 1).await;
    store.remove("bert-cls").expect("removed");
    scene.inference.unload("bert-cls");
    drop(load);
    // Who asked before is answered.
    scene.answered(asked).await;
    assert_eq!(scene.inference.in_memory(), (Vec::new(), 0));
}

impl Scene {
    /// Waits until that model is being loaded, and so many wait for it.
    async fn loading(&self, model: &str, wanted: usize) {
        let shared = &self.inference.running.shared;
        let held = || self.gate.load.lock().unwrap().is_none();
        while shared.queues().loads.under_way(model) != wanted || !held() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_used_or_loaded_leaves_memory_for_no_other() {
    let (store, folder) = store(&["bert-cls", "bert-odd"]);
    let bytes = |name: &str| store.get(name).unwrap().properties.memory_bytes;
    let (first, second) = (bytes("bert-cls"), bytes("bert-odd"));
    // Room for one of them.
    let options = Options {
        memory_bytes: first.max(second),
        ..options()
    };
    let scene = scene_of(store, folder, &options);
    let is_full = |told: &InferenceError| {
        let in_use = |told: &String| told.contains("in use");
        matches!(told, InferenceError::OutOfMemory(told) if in_use(told))
    };
    let used = scene.ask("a", "bert-cls", &["1"]);
    scene.next_batch();
    let refused = scene.ask("b", "bert-odd", &["1"]).await.unwrap();
    assert!(refused.as_ref().is_err_and(is_full), "{refused:?}");
    let held = (vec!["bert-cls".to_owned()], first);
    assert_eq!(scene.inference.in_memory(), held);
    scene.open.send(Ok(())).unwrap();
    used.await.unwrap().unwrap();
    // Nobody uses it any more.
    let other = scene.ask("b", "bert-odd", &["1"]);
    scene.answered(other).await;
    assert_eq!(scene.inference.in_memory().0, ["bert-odd"]);

    // What is being loaded has its room before it is in memory.
    let load = scene.hold_load();
    let loading = scene.ask("a", "bert-cls", &["1"]);
    scene.loading("bert-cls", 1).await;
    assert_eq!(scene.inference.in_memory(), (Vec::new(), first));
    let models = &scene.inference.running.shared.models;
    let refused = models.load("bert-odd", scene.gate.as_ref());
    assert!(refused.as_ref().is_err_and(is_full), "{refused:?}");
    drop(load);
    scene.answered(loading).await;
    assert_eq!(scene.inference.in_memory(), held);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_model_leaves_memory_where_that_makes_too_little_room() {
    let (store, folder) = store(&["bert-cls", "bert-odd", "rerank-bert"]);
    let bytes = |name: &str| store.get(name).unwrap().properties.memory_bytes;
    let (used, idle) = (bytes("bert-cls"), bytes("bert-odd"));
    assert!(bytes("rerank-bert") > idle);
    let options = Options {
        memory_bytes: used + idle,
        ..options()
    };
    let scene = scene_of(store, folder, &options);
    let models = &scene.inference.running.shared.models;
    let first = scene.ask("a", "bert-odd", &["1"]);
    scene.answered(first).await;
    let computed = scene.ask("a", "bert-cls", &["1"]);
    scene.next_batch();
    let refused = models.load("rerank-bert", scene.gate.as_ref());
    assert!(
        matches!(refused, Err(InferenceError::OutOfMemory(_))),
        "{refused:?}"
    );
    assert_eq!(scene.inference.in_memory().1, used + idle);
    scene.open.send(Ok(())).unwrap();
    computed.await.unwrap().unwrap();
    let loaded = models.load("rerank-bert", scene.gate.as_ref());
    loaded.expect("both leave memory, or one that is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_removed_or_replaced_answers_nobody() {
    let (store, home) = store(&["bert-cls"]);
    let there = ModelStore::open(home.path(), Limits::default()).expect("opens");
    let replace = |by: &str| {
        there.remove("bert-cls").expect("removed");
        let model = there.import("bert-cls", &folder(by));
        model.expect("imported");
    };
    let inference = Inference::start(store, &options()).expect("starts");
    let embed = async || {
        let texts = vec!["a".to_owned()];
        let me = caller("default", "me");
        let found = inference.embed(me, "bert-cls", texts, LongText::Refuse);
        found.await.map(|found| found.values)
    };
    let one = embed().await.expect("a vector");
    // It is in memory.
    replace("bert-odd");
    inference.refresh().expect("the folder is read");
    assert_eq!(inference.in_memory(), (Vec::new(), 0));
    let other = embed().await.expect("a vector");
    assert_ne!(other, one);
    // It is not, and is looked for when it is to be loaded.
    inference.unload("bert-cls");
    replace("bert-cls");
    assert_eq!(embed().await, Ok(one));
    inference.unload("bert-cls");
    there.remove("bert-cls").expect("removed");
    let gone = InferenceError::UnknownModel("bert-cls".to_owned());
    assert_eq!(embed().await, Err(gone.clone()));
    // It is in memory, and goes.
    let model = there.import("bert-cls", &folder("bert-odd"));
    model.expect("imported");
    assert_eq!(embed().await, Ok(other));
    there.remove("bert-cls").expect("removed");
    inference.refresh().expect("the folder is read");
    assert_eq!(inference.in_memory(), (Vec::new(), 0));
    assert_eq!(embed().await, Err(gone));
}

/// A copy of a small model in which the numbers of every text with a `z` run over.
fn overflowing() -> Copy {
    let copy = Copy::of("bert-cls");
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
    let number = |value: &serde_json::Value| value.as_u64().expect("a number") as usize;
    let tokenizer = json(&std::fs::read(copy.path("tokenizer.json")).expect("read"));
    let token = number(&tokenizer["model"]["vocab"]["z"]);
    let path = copy.path("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("read");
    let body = 8 + u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes")) as usize;
    let header = json(&bytes[8..body]);
    let words = &header["embeddings.word_embeddings.weight"];
    let row = 4 * number(&words["shape"][1]);
    let from = body + number(&words["data_offsets"][0]) + token * row;
    for value in bytes[from..from + row].chunks_exact_mut(4) {
        value.copy_from_slice(&f32::MAX.to_le_bytes());
    }
    std::fs::write(&path, bytes).expect("written");
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_whose_numbers_run_over_costs_no_other() {
    let (store, folder) = store(&["bert-cls"]);
    let copy = overflowing();
    store.import("over", &copy.path("")).expect("imported");
    let scene = scene_of(store, folder, &options());
    let first = scene.ask("a", "over", &["a"]);
    scene.next_batch();
    let over = scene.ask("a", "over", &["z", "a"]);
    let beside = scene.ask("b", "over", &["b"]);
    let other = scene.ask("c", "bert-cls", &["z"]);
    scene.queued(4).await;
    for _ in 0..3 {
        scene.open.send(Ok(())).unwrap();
    }
    first.await.unwrap().unwrap();
    assert_eq!(over.await.unwrap(), Err(InferenceError::Internal));
    beside.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    let mut seen = [scene.next_batch(), scene.next_batch()];
    seen.sort();
    assert_eq!(seen, [("bert-cls".to_owned(), 1), ("over".to_owned(), 3)]);
    // The device was not opened again.
    let mut names = scene.inference.in_memory().0;
    names.sort();
    assert_eq!(names, ["bert-cls", "over"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_without_tokens_is_its_caller_s_fault() {
    let (store, _folder) = store(&[]);
    for name in ["bert-cls", "rerank-bert"] {
        // A tokenizer that puts nothing around a text.
        let copy = Copy::of(name);
        copy.change("tokenizer.json", |tokenizer| {
            tokenizer["post_processor"] = serde_json::Value::Null;
        });
        store.import(name, &copy.path("")).expect("imported");
    }
    let inference = Inference::start(store, &options()).expect("starts");
    let me = || caller("default", "me");
    let list = |texts: &[&str]| -> Vec<String> {
        let texts = texts.iter();
        texts.map(|&text| text.to_owned()).collect()
    };
    let of = |at: usize| InferenceError::InvalidRequest(format!("text {at} has no tokens"));
    for long in [LongText::Refuse, LongText::Truncate, LongText::Split] {
        for (texts, at) in [(&[""][..], 0), (&["a", " "][..], 1)] {
            let found = inference.embed(me(), "bert-cls", list(texts), long).await;
            assert_eq!(found, Err(of(at)), "{texts:?}");
        }
        let documents = list(&["a", ""]);
        let found = inference.rerank(me(), "rerank-bert", String::new(), documents, long);
        assert_eq!(found.await, Err(of(1)));
    }
    // Where one of both has some there is something to be read.
    let documents = list(&["a", ""]);
    let found = inference.rerank(
        me(),
        "rerank-bert",
        "a".to_owned(),
        documents,
        LongText::Refuse,
    );
    assert_eq!(found.await.expect("scores").values.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_dropped_has_told_what_it_used() {
    let mut options = options();
    options.batch.sequences = Some(1);
    let scene = scene(&["bert-cls"], &options);
    let ask = || {
        let (inference, meter) = (scene.inference.clone(), Meter::start());
        let of_request = meter.clone();
        let asked = tokio::spawn(async move {
            let texts = vec!["1".to_owned(), "2".to_owned()];
            let me = caller("default", "a");
            inference
                .embed_metered(me, "bert-cls", texts, LongText::Refuse, &of_request)
                .await
        });
        (asked, meter)
    };
    let since = Instant::now();
    let (first, used) = ask();
    scene.next_batch();
    scene.open.send(Ok(())).unwrap();
    // The second one of its texts is computed now.
    scene.next_batch();
    let (waits, waited) = ask();
    scene.queued(2).await;
    for asked in [first, waits] {
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
    }
    let usage = used.usage();
    assert!(usage.tokens > 0 && usage.computed > Duration::ZERO);
    assert!(usage.queued + usage.computed <= since.elapsed());
    assert_eq!(used.usage().queued, usage.queued, "it waits no longer");
    let usage = waited.usage();
    assert!(usage.queued > Duration::ZERO);
    assert_eq!((usage.tokens, usage.computed), (0, Duration::ZERO));
}
