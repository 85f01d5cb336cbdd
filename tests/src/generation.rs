//! Text of models over the real server: what plugins get, and what their receipts say.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::inference::{cancelled_in_the_middle, hurried, reference, server};

/// What a model should make of a prompt, as the reference computed it.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) model: PathBuf,
    prompt: Option<String>,
    pub(crate) messages: Value,
    pub(crate) ids: Vec<u32>,
    pub(crate) next: Vec<u32>,
    pub(crate) text: String,
}

impl Case {
    pub(crate) fn request(&self) -> Value {
        let mut request = json!({ "max_tokens": self.next.len(), "temperature": 0.0 });
        match &self.prompt {
            Some(prompt) => request["prompt"] = json!(prompt),
            None => request["messages"] = self.messages.clone(),
        }
        request
    }

    pub(crate) fn summary(&self) -> Value {
        json!({
            "finish_reason": "length",
            "prompt_tokens": self.ids.len(),
            "completion_tokens": self.next.len(),
        })
    }
}

/// What the reference made with that model.
pub(crate) fn cases(model: &str) -> Vec<Case> {
    let cases: Vec<Case> = reference("generation.json");
    let of = cases.into_iter().filter(|case| case.model.ends_with(model));
    let found: Vec<Case> = of.collect();
    assert!(!found.is_empty(), "{model}");
    found
}

/// What it made of a conversation.
pub(crate) fn conversation(model: &str) -> Case {
    let mut cases = cases(model).into_iter();
    cases.find(|case| case.prompt.is_none()).expect("a case")
}

/// Copies a model; its files of JSON as they are changed by their names.
pub(crate) fn copy(from: &Path, to: &Path, change: impl Fn(&str, &mut Value)) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if name.ends_with(".json") {
            let mut file: Value = serde_json::from_slice(&bytes).unwrap();
            change(&name, &mut file);
            bytes = serde_json::to_vec(&file).unwrap();
        }
        std::fs::write(to.join(name), bytes).unwrap();
    }
}

/// Copies a model, which then has a window of so many tokens. Below the one that it had, it
/// makes the same.
pub(crate) fn widened(from: &Path, to: &Path, window: u32) {
    copy(from, to, |name, file| {
        if name == "config.json" {
            file["max_position_embeddings"] = json!(window);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_get_the_texts_of_the_reference() {
    let (llama, qwen) = (cases("llama-gqa"), cases("qwen2-tied"));
    let server = server(&[
        ("llama", llama[0].model.as_path()),
        ("qwen", qwen[0].model.as_path()),
    ])
    .await;
    let client = &server.client;
    let id = client
        .start_activity(
            "thinker.generate",
            &json!({ "model": "llama", "request": llama[0].request() }),
        )
        .await
        .unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    let expected = json!({ "text": llama[0].text, "summary": llama[0].summary() });
    assert_eq!(outcome.body["result"], expected);
    let receipts = client.receipts(&id).await.unwrap();
    let counters = &receipts[0]["counters"];
    let (prompt, completion) = (llama[0].ids.len() as u64, llama[0].next.len() as u64);
    assert_eq!(counters["inference.prompt_tokens"], prompt, "{counters}");
    assert_eq!(
        counters["inference.completion_tokens"], completion,
        "{counters}"
    );
    assert_eq!(
        counters["inference.tokens"],
        prompt + completion,
        "{counters}"
    );
    assert!(
        counters["inference.compute_us"].as_u64() > Some(0),
        "{counters}"
    );
    assert!(counters["inference.queue_us"].is_u64(), "{counters}");
    assert_eq!(receipts[0]["queue"], "ai-processing-queue");

    // Many at once, of two models: everybody gets their own.
    let asked = [("llama", &llama), ("qwen", &qwen)]
        .into_iter()
        .flat_map(|(name, cases)| cases.iter().map(move |case| (name, case)))
        .map(|(name, case)| async move {
            let input = json!({ "model": name, "request": case.request() });
            let found = client.succeed("thinker.generate", &input).await.unwrap();
            let expected = json!({ "text": case.text, "summary": case.summary() });
            assert_eq!(found, expected);
        });
    futures::future::join_all(asked).await;

    // One that is stopped in the middle is counted as far as it came.
    let mut request = llama[0].request();
    request["max_tokens"] = json!(200);
    let input = json!({ "model": "llama", "request": request, "pieces": 1 });
    let id = client
        .start_activity("thinker.generate", &input)
        .await
        .unwrap();
    let outcome = client.result(&id).await.unwrap();
    let text = outcome.body["result"]["text"].as_str().unwrap();
    assert!(
        !text.is_empty() && llama[0].text.starts_with(text) || text.starts_with(&llama[0].text)
    );
    let receipts = client.receipts(&id).await.unwrap();
    let completion = receipts[0]["counters"]["inference.completion_tokens"].as_u64();
    assert!((1..=200).contains(&completion.unwrap()), "{receipts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_keeps_what_the_wit_promises_of_texts() {
    let llama = cases("llama-gqa");
    let small = llama[0].model.with_file_name("bert-cls");
    let server = server(&[
        ("talker", llama[0].model.as_path()),
        ("small", small.as_path()),
    ])
    .await;
    let client = &server.client;
    let input = json!({ "embeds": "small", "generates": "talker" });
    assert_eq!(client.succeed("thinker.talk", &input).await.unwrap(), 5);
    let held = client.succeed("thinker.hoard", &json!("talker")).await;
    assert_eq!(held.unwrap(), 64);
}

/// Texts that take many minutes.
fn many_texts(case: &Case) -> Value {
    let mut request = case.request();
    request["max_tokens"] = json!(200);
    json!({ "model": "llama", "request": request, "times": 1_000_000 })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_cancelled_generates_no_more() {
    let llama = cases("llama-gqa");
    let server = server(&[("llama", llama[0].model.as_path())]).await;
    let client = &server.client;
    cancelled_in_the_middle(client, "thinker.generate", &many_texts(&llama[0])).await;
    let input = json!({ "model": "llama", "request": llama[0].request() });
    let found = client.succeed("thinker.generate", &input).await.unwrap();
    assert_eq!(found["text"], llama[0].text);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_end_with_their_attempt_s_time() {
    let llama = cases("llama-gqa");
    let server = server(&[("llama", llama[0].model.as_path())]).await;
    let client = &server.client;
    // It is in memory before the time begins, which a busy machine may need for that alone.
    let input = json!({ "model": "llama", "request": llama[0].request() });
    client.succeed("thinker.generate", &input).await.unwrap();
    let receipt = hurried(client, "thinker.generate", &many_texts(&llama[0])).await;
    let made = receipt["counters"]["inference.completion_tokens"].as_u64();
    assert!(made > Some(0), "{receipt}");
    let found = client.succeed("thinker.generate", &input).await.unwrap();
    assert_eq!(found["text"], llama[0].text);
}
