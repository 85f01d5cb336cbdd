//! Texts with small models: together and alone, seeds, ends, cancels, bounds, failures.

use std::time::Duration;

use tempfile::TempDir;

#[cfg(feature = "gpu")]
use super::super::tests::on_a_gpu;
use super::super::tests::{OVER, Scene, caller, options, scene, store};
use super::super::{Inference, Options};
use super::unprompted;
use crate::error::InferenceError;
use crate::generation::{
    FinishReason, GenerateRequest, Generation, GenerationSummary, Message, Role,
};
use crate::model::LongText;
use crate::model::decoder::tests::{Case, reference};
use crate::model::tests::Copy;
use crate::templates::ChatError;

const LLAMA: &str = "llama-gqa";
const SHORT: &str = "The rotor is";
/// Tokens of that.
const SHORT_TOKENS: usize = 7;

fn start(names: &[&str], options: &Options) -> (Inference, TempDir) {
    let (store, folder) = store(names);
    (Inference::start(store, options).expect("starts"), folder)
}

fn request(prompt: &str, most: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: Some(prompt.to_owned()),
        max_tokens: Some(most),
        temperature: Some(0.0),
        ..GenerateRequest::default()
    }
}

/// The likeliest continuation that the reference has.
fn asked(case: &Case) -> GenerateRequest {
    GenerateRequest {
        messages: case.messages.clone(),
        prompt: case.prompt.clone(),
        max_tokens: Some(case.next.len() as u32),
        temperature: Some(0.0),
        ..GenerateRequest::default()
    }
}

fn case(name: &str) -> Case {
    let found = reference().into_iter().find(|case| case.name() == name);
    found.expect("a case")
}

async fn whole(
    inference: &Inference,
    model: &str,
    request: GenerateRequest,
) -> Result<(String, GenerationSummary), InferenceError> {
    let mut generation = inference
        .generate(caller("default", "me"), model, request)
        .await?;
    let text = generation.text().await?;
    Ok((text, *generation.summary().expect("a summary")))
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_the_references_alone_and_among_others() {
    alone_and_among_others(options()).await;
}

/// Run by `cargo xtask test --gpu`.
#[cfg(feature = "gpu")]
#[tokio::test(flavor = "multi_thread")]
async fn texts_of_a_gpu_are_the_references_alone_and_among_others() {
    alone_and_among_others(on_a_gpu()).await;
}

async fn alone_and_among_others(mut options: Options) {
    // Prompts are read in parts, and not all join at once.
    options.generate.tokens = Some(40);
    options.generate.texts = Some(6);
    let names = [LLAMA, "qwen2-tied", "mistral-sliding"];
    let (inference, _folder) = start(&names, &options);
    let cases: Vec<Case> = reference()
        .into_iter()
        .filter(|case| names.contains(&case.name()))
        .collect();
    assert!(cases.len() >= 12, "{}", cases.len());
    check(&inference, &cases[0], "alone").await;
    let plugins = ["a", "b", "c"];
    let together = cases
        .iter()
        .enumerate()
        .map(|(number, case)| check(&inference, case, plugins[number % 3]));
    futures_all(together).await;
    inference.warm_up(LLAMA).await.expect("warm");
}

/// Asks for the likeliest text, and compares it.
async fn check(inference: &Inference, case: &Case, plugin: &str) {
    let me = caller("default", plugin);
    let asked = inference.generate(me, case.name(), asked(case));
    let mut generation = asked.await.expect("accepted");
    let text = generation.text().await.expect("a text");
    assert_eq!(text, case.text, "{}", case.name());
    let expected = GenerationSummary {
        finish_reason: FinishReason::Length,
        prompt_tokens: case.ids.len() as u64,
        completion_tokens: case.next.len() as u64,
    };
    assert_eq!(generation.summary(), Some(&expected));
    let usage = generation.usage();
    assert_eq!(
        (usage.prompt_tokens, usage.completion_tokens),
        (expected.prompt_tokens, expected.completion_tokens)
    );
    assert!(usage.computed > Duration::ZERO);
    let device = inference.running.shared.models.device();
    assert_eq!(usage.gpu, device.is_gpu());
}

/// Polls all until all are done.
async fn futures_all(all: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_gives_the_same_text_whatever_else_is_computed() {
    let (inference, _folder) = start(&[LLAMA], &options());
    let drawn = |seed: Option<u64>| GenerateRequest {
        temperature: Some(2.0),
        top_p: Some(0.99),
        seed,
        ..request(SHORT, 24)
    };
    let alone = whole(&inference, LLAMA, drawn(Some(7)))
        .await
        .expect("a text")
        .0;
    let others: Vec<_> = (0..5_u64)
        .map(|seed| {
            let inference = inference.clone();
            let request = drawn(Some(100 + seed));
            tokio::spawn(async move { whole(&inference, LLAMA, request).await })
        })
        .collect();
    let again = whole(&inference, LLAMA, drawn(Some(7)))
        .await
        .expect("a text")
        .0;
    assert_eq!(alone, again);
    for other in others {
        assert_ne!(other.await.expect("ends").expect("a text").0, alone);
    }
    let (one, two) = (
        whole(&inference, LLAMA, drawn(None))
            .await
            .expect("a text")
            .0,
        whole(&inference, LLAMA, drawn(None))
            .await
            .expect("a text")
            .0,
    );
    assert_ne!(one, two, "without a seed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_ends_where_it_is_told_to() {
    let case = case(LLAMA);
    // The first token that was not there before ends the text in a copy of the model.
    let at = (3..case.next.len())
        .find(|&at| !case.next[..at].contains(&case.next[at]))
        .expect("another token");
    let copy = Copy::of(LLAMA);
    copy.change("generation_config.json", |config| {
        config["eos_token_id"] = serde_json::json!([299, case.next[at]]);
    });
    let (store, _folder) = store(&[LLAMA]);
    store.import("ends", &copy.path("")).expect("imported");
    let inference = Inference::start(store, &options()).expect("starts");
    let (text, summary) = whole(&inference, "ends", asked(&case))
        .await
        .expect("a text");
    assert!(case.text.starts_with(&text) && text.len() < case.text.len());
    assert_eq!(summary.finish_reason, FinishReason::Stop);
    assert_eq!(summary.completion_tokens, at as u64 + 1);

    // Texts that end it lie across tokens; each that may begin is held back.
    for from in 1..case.text.len() - 4 {
        let stop = &case.text[from..from + 4];
        let request = GenerateRequest {
            stop: vec!["never".to_owned(), stop.to_owned()],
            ..asked(&case)
        };
        let (text, summary) = whole(&inference, LLAMA, request).await.expect("a text");
        let first = case.text.find(stop).expect("it is there");
        assert_eq!(text, case.text[..first], "{stop:?}");
        assert_eq!(summary.finish_reason, FinishReason::Stop);
    }
    // One that begins and does not come is given out.
    let last = case.text.chars().next_back().expect("a text");
    let request = GenerateRequest {
        stop: vec![format!("{last}never")],
        ..asked(&case)
    };
    let (text, summary) = whole(&inference, LLAMA, request).await.expect("a text");
    assert_eq!(
        (text, summary.finish_reason),
        (case.text, FinishReason::Length)
    );
    // The window ends it too.
    let long = SHORT.repeat(10);
    let (_, summary) = whole(&inference, LLAMA, request_of(&long))
        .await
        .expect("a text");
    assert_eq!(summary.prompt_tokens + summary.completion_tokens, 256);
    assert_eq!(summary.finish_reason, FinishReason::Length);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_special_token_among_the_stops_ends_a_text() {
    let case = case(LLAMA);
    assert_eq!(case.prompt.as_deref(), Some(SHORT));
    let copy = Copy::of(LLAMA);
    let description = copy.read().expect("a model");
    // One that the prompt does not have becomes special in a copy of the model.
    let words = case.next.iter().enumerate().skip(3).map(|(at, &id)| {
        let word = description.tokenizer.decode(&[id]);
        (at, id, word.expect("a text"))
    });
    let (at, id, word) = words
        .filter(|(at, id, word)| !case.next[..*at].contains(id) && !SHORT.contains(word.as_str()))
        .find(|(_, _, word)| word.chars().all(|letter| letter.is_ascii_graphic()))
        .expect("such a token");
    copy.change("tokenizer.json", |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().expect("a list");
        added.push(serde_json::json!({
            "id": id, "special": true, "content": word, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false,
        }));
    });
    let (store, _folder) = store(&[]);
    store.import("turns", &copy.path("")).expect("imported");
    let inference = Inference::start(store, &options()).expect("starts");
    let (text, _) = whole(&inference, "turns", asked(&case))
        .await
        .expect("a text");
    assert_eq!(text, case.text.replace(&word, ""), "it is no text");
    let request = GenerateRequest {
        stop: vec!["never".to_owned(), word.clone()],
        ..asked(&case)
    };
    let (text, summary) = whole(&inference, "turns", request).await.expect("a text");
    assert_eq!(Some(text.as_str()), case.text.split(&word).next());
    assert_eq!(summary.finish_reason, FinishReason::Stop);
    assert_eq!(summary.completion_tokens, at as u64 + 1);
}

fn request_of(prompt: &str) -> GenerateRequest {
    request(prompt, 100_000)
}

impl Scene {
    async fn text(&self, plugin: &str, prompt: &str) -> Result<Generation, InferenceError> {
        self.text_as("default", plugin, prompt).await
    }

    async fn text_as(
        &self,
        namespace: &str,
        plugin: &str,
        prompt: &str,
    ) -> Result<Generation, InferenceError> {
        let me = caller(namespace, plugin);
        self.inference
            .generate(me, LLAMA, request(prompt, 50))
            .await
    }

    /// The tokens of the step that begins now, and lets it through.
    fn step(&self) -> usize {
        let (_, tokens) = self.next_batch();
        self.open.send(Ok(())).expect("a gate");
        tokens
    }

    /// Whether one of the next steps has so many tokens: which one depends on who is faster.
    fn reaches(&self, tokens: usize) -> bool {
        (0..4).any(|_| self.step() == tokens)
    }

    fn waiting(&self) -> usize {
        self.inference.running.shared.queues().texts.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_join_and_leave_between_steps() {
    let mut options = options();
    options.generate.tokens = Some(16);
    let scene = scene(&[LLAMA], &options);
    let first = scene.text("a", SHORT).await.expect("accepted");
    assert_eq!(scene.next_batch().1, SHORT_TOKENS);
    // While that is computed, others come: a long prompt is read in parts, and holds nobody up.
    let long = scene.text("b", &SHORT.repeat(6)).await.expect("accepted");
    let mut short = scene.text("c", SHORT).await.expect("accepted");
    scene.open.send(Ok(())).expect("a gate");
    assert_eq!(
        scene.step(),
        16,
        "1, all of the short one and a part of the long one"
    );
    assert!(short.next().await.expect("goes on").is_some());
    assert_eq!(scene.step(), 16, "1 each, and more of the long one");
    drop(first);
    drop(long);
    // One that is under way has them still.
    scene.step();
    assert_eq!(scene.step(), 1, "one is left");
    assert_eq!(short.usage().prompt_tokens, SHORT_TOKENS as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_plugin_has_half_of_the_places() {
    let mut options = options();
    options.generate.texts = Some(2);
    let scene = scene(&[LLAMA], &options);
    let first = scene.text("a", SHORT).await.expect("accepted");
    assert_eq!(scene.next_batch().1, SHORT_TOKENS);
    let _second = scene.text("a", SHORT).await.expect("accepted");
    let _other = scene.text("b", SHORT).await.expect("accepted");
    scene.open.send(Ok(())).expect("a gate");
    assert_eq!(scene.step(), 1 + SHORT_TOKENS);
    assert_eq!(scene.waiting(), 1);
    drop(first);
    assert!(
        scene.reaches(1 + SHORT_TOKENS),
        "its second one has the place"
    );
    assert_eq!(scene.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_namespace_has_three_quarters_of_the_places() {
    let mut options = options();
    options.generate.texts = Some(4);
    let scene = scene(&[LLAMA], &options);
    let first = scene.text("a", SHORT).await.expect("accepted");
    assert_eq!(scene.next_batch().1, SHORT_TOKENS);
    let mut held = Vec::new();
    // None of them has half of the places.
    for plugin in ["b", "c", "d"] {
        held.push(scene.text(plugin, SHORT).await.expect("accepted"));
    }
    scene.open.send(Ok(())).expect("a gate");
    assert_eq!(scene.step(), 1 + 2 * SHORT_TOKENS);
    assert_eq!(scene.waiting(), 1, "the fourth place is for others");
    let other = scene.text_as("elsewhere", "a", SHORT).await;
    held.push(other.expect("accepted"));
    assert!(scene.reaches(3 + SHORT_TOKENS), "another namespace has it");
    assert_eq!(scene.waiting(), 1);
    drop(first);
    assert!(
        scene.reaches(3 + SHORT_TOKENS),
        "its place is the next one's"
    );
    assert_eq!(scene.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_counted_before_a_text_begins() {
    let mut options = options();
    // 2 layers, 2 heads of 16 keys and 16 values: 512 bytes each; 7 and 50 tokens make 64.
    options.generate.cache_bytes = 64 * 512;
    let scene = scene(&[LLAMA], &options);
    let first = scene.text("a", SHORT).await.expect("accepted");
    assert_eq!(scene.next_batch().1, SHORT_TOKENS);
    let second = scene.text("b", SHORT).await.expect("accepted");
    scene.open.send(Ok(())).expect("a gate");
    assert_eq!(scene.step(), 1);
    assert_eq!(scene.waiting(), 1);
    drop(first);
    assert!(scene.reaches(SHORT_TOKENS), "its memory is the other's now");
    drop(second);
    let me = caller("default", "a");
    let large = scene
        .inference
        .generate(me, LLAMA, request(SHORT, 58))
        .await;
    assert!(
        matches!(large, Err(InferenceError::OutOfMemory(ref told)) if told.contains("max_tokens")),
        "{large:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_busy_and_gives_places_back() {
    let mut options = options();
    options.queue.requests = 2;
    let scene = scene(&[LLAMA], &options);
    let mut held = scene.text("a", SHORT).await.expect("accepted");
    let busy = scene.text("a", SHORT).await;
    assert!(matches!(busy, Err(InferenceError::Busy)), "{busy:?}");
    let other = scene.text("b", SHORT).await.expect("accepted");
    let busy = scene.text("c", SHORT).await;
    assert!(matches!(busy, Err(InferenceError::Busy)), "{busy:?}");
    drop(other);
    let third = scene.text("c", SHORT).await.expect("accepted");
    drop(third);
    scene.step();
    assert!(held.next().await.expect("goes on").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_ends_all_texts_and_comes_back() {
    fails_and_comes_back(&options()).await;
}

/// Run by `cargo xtask test --gpu`.
#[cfg(feature = "gpu")]
#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_fails_ends_all_texts_and_comes_back() {
    fails_and_comes_back(&on_a_gpu()).await;
}

async fn fails_and_comes_back(options: &Options) {
    let scene = scene(&[LLAMA], options);
    for (told, expected) in [
        ("the device was lost", InferenceError::DeviceLost),
        (
            "out of memory",
            InferenceError::OutOfMemory("the device has too little for the batch".to_owned()),
        ),
    ] {
        let mut first = scene.text("a", SHORT).await.expect("accepted");
        scene.next_batch();
        let mut second = scene.text("b", SHORT).await.expect("accepted");
        scene.open.send(Ok(())).expect("a gate");
        // In the middle of the one, at the beginning of the other.
        assert_eq!(scene.next_batch().1, 1 + SHORT_TOKENS);
        let mut waits = scene.text("c", SHORT).await.expect("accepted");
        scene.open.send(Err(told.to_owned())).expect("a gate");
        for text in [&mut first, &mut second, &mut waits] {
            assert_eq!(text.text().await, Err(expected.clone()));
        }
        assert_eq!(scene.inference.in_memory().0, Vec::<String>::new());
        let me = caller("default", "a");
        let again = scene.inference.generate(me, LLAMA, request(SHORT, 1));
        let mut again = again.await.expect("accepted");
        scene.step();
        assert!(!again.text().await.expect("a text").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_whose_numbers_run_over_costs_no_other() {
    let scene = scene(&[LLAMA], &options());
    let mut over = scene.text("a", SHORT).await.expect("accepted");
    scene.step();
    scene.next_batch();
    let mut other = scene.text("b", SHORT).await.expect("accepted");
    scene.open.send(Ok(())).expect("a gate");
    assert_eq!(scene.next_batch().1, 1 + SHORT_TOKENS);
    scene.open.send(Err(OVER.to_owned())).expect("a gate");
    assert_eq!(over.text().await, Err(InferenceError::Internal));
    assert_eq!(scene.step(), 1, "the other goes on");
    assert!(other.next().await.expect("goes on").is_some());
    assert_eq!(scene.inference.in_memory().0, [LLAMA]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_never_begins_has_waited_all_its_time() {
    let mut options = options();
    options.generate.texts = Some(1);
    let scene = scene(&[LLAMA], &options);
    let _first = scene.text("a", SHORT).await.expect("accepted");
    scene.next_batch();
    let mut waits = scene.text("b", SHORT).await.expect("accepted");
    let so_far = waits.usage().queued;
    assert!(so_far > Duration::ZERO);
    let told = Err("the device was lost".to_owned());
    scene.open.send(told).expect("a gate");
    assert_eq!(waits.next().await, Err(InferenceError::DeviceLost));
    let usage = waits.usage();
    assert!(usage.queued > so_far);
    assert_eq!(usage.computed, Duration::ZERO);
    assert_eq!(waits.usage(), usage, "it waits no longer");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_said() {
    let names = [LLAMA, "mistral-sliding", "bert-cls"];
    let (store, _folder) = store(&names);
    let copy = Copy::of("qwen2-tied");
    copy.change("tokenizer_config.json", |config| {
        config["chat_template"] = serde_json::Value::Null;
    });
    store.import("silent", &copy.path("")).expect("imported");
    copy.change("tokenizer_config.json", |config| {
        config["chat_template"] = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor \
                                   %}{% endfor %}"
            .into();
    });
    store.import("hostile", &copy.path("")).expect("imported");
    let inference = Inference::start(store, &options()).expect("starts");
    let ask = async |model: &str, request: GenerateRequest| {
        let asked = inference.generate(caller("default", "me"), model, request);
        asked.await.map(|_| ()).expect_err("refused")
    };
    let chat = |roles: &[Role]| GenerateRequest {
        messages: roles
            .iter()
            .map(|&role| Message {
                role,
                content: "hi".to_owned(),
            })
            .collect(),
        ..GenerateRequest::default()
    };
    let unknown = ask("none", request(SHORT, 1)).await;
    assert_eq!(unknown, InferenceError::UnknownModel("none".to_owned()));
    let encoder = ask("bert-cls", request(SHORT, 1)).await;
    let what = "generate text";
    assert!(matches!(encoder, InferenceError::Unsupported { what: told, .. } if told == what));
    let invalid = [
        (LLAMA, GenerateRequest::default(), "either"),
        (LLAMA, request(SHORT, 0), "max_tokens"),
        ("silent", chat(&[Role::User]), "chat template"),
        ("silent", request("", 1), "no tokens"),
        ("hostile", chat(&[Role::User]), "too much"),
        (
            "mistral-sliding",
            chat(&[Role::User, Role::User]),
            "Roles alternate",
        ),
    ];
    for (model, request, told) in invalid {
        let error = ask(model, request).await;
        assert!(
            matches!(error, InferenceError::InvalidRequest(_)),
            "{error:?}"
        );
        assert!(error.to_string().contains(told), "{error}");
    }
    let long = ask(LLAMA, request(&SHORT.repeat(60), 1)).await;
    assert!(
        matches!(long, InferenceError::PromptTooLong { tokens, window: 256, .. } if tokens > 256),
        "{long:?}"
    );
    assert!(long.to_string().contains("no room"), "{long}");
    let large = ask(LLAMA, request(&"x".repeat((8 << 20) + 1), 1)).await;
    assert!(
        matches!(large, InferenceError::LimitExceeded(_)),
        "{large:?}"
    );
    let texts = vec!["x".to_owned()];
    let embed = inference.embed(caller("d", "p"), LLAMA, texts, LongText::Refuse);
    let refused = embed.await.expect_err("no encoder");
    assert!(matches!(
        refused,
        InferenceError::Unsupported { what: "embed", .. }
    ));
}

#[test]
fn a_template_that_no_process_runs_now_may_be_run_later() {
    let told = unprompted(LLAMA, ChatError::Unavailable("no fork".to_owned()));
    assert!(
        matches!(told, InferenceError::Unavailable { ref model, .. } if model == LLAMA),
        "{told:?}"
    );
    assert!(!told.to_string().contains("fork"), "{told}");
    let told = unprompted(LLAMA, ChatError::TooMuch);
    assert!(
        matches!(told, InferenceError::InvalidRequest(_)),
        "{told:?}"
    );
}
