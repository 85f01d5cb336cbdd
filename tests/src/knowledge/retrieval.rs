//! How well the search finds what people judged to be an answer: questions to this
//! repository's own documentation (`tests/retrieval/judgements.json`), found by words, by
//! vectors and by both, with the hashed stand-in and with the real all-MiniLM-L6-v2.
//!
//! The measure is nDCG@10: 1 where the best passages come first, in the order of their grades.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::{embedded, start, synchronize};
use crate::inference::{MINILM, import, model, small_model};
use crate::support::component;
use crate::support::server::{PATIENCE, Server};

/// Passages that count.
const TOP: usize = 10;

/// The documents may change before the judgements do: so many questions may have lost all
/// that answers them.
const LOST: usize = 6;

#[derive(Debug, Deserialize)]
struct Judgement {
    query: String,
    relevant: Vec<Relevant>,
}

#[derive(Debug, Deserialize)]
struct Relevant {
    /// The document.
    key: String,
    /// What the passage says, with single spaces.
    quote: String,
    /// 3 answers it, 2 helps, 1 has to do with it.
    grade: u32,
}

impl Judgement {
    /// How good a passage is.
    fn grade(&self, key: Option<&str>, text: &str) -> u32 {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let fits = |it: &&Relevant| {
            key.is_none_or(|key| key == it.key) && text.contains(it.quote.as_str())
        };
        let fitting = self.relevant.iter().filter(fits);
        fitting.map(|it| it.grade).max().unwrap_or(0)
    }
}

/// Discounted cumulative gain of grades in an order.
fn gain(grades: impl IntoIterator<Item = u32>) -> f64 {
    let gains = (2_u32..).zip(grades.into_iter().take(TOP));
    gains
        .map(|(rank, grade)| (f64::from(grade).exp2() - 1.0) / f64::from(rank).log2())
        .sum()
}

/// The texts of all passages.
fn passages(work: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(work.join("text")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with(".passages.jsonl") {
            for line in std::fs::read_to_string(path).unwrap().lines() {
                let passage: serde_json::Value = serde_json::from_str(line).unwrap();
                texts.push(passage["text"].as_str().unwrap().to_owned());
            }
        }
    }
    texts
}

/// nDCG@10 over all questions that something answers.
async fn measure(server: &Server, judged: &[(&Judgement, f64)], mode: &str) -> f64 {
    let mut sum = 0.0;
    for (judgement, ideal) in judged {
        let input = json!({ "text": judgement.query, "mode": mode, "limit": TOP });
        let found = super::flow(server, input).await;
        let grades = found.iter().map(|hit| {
            let text = hit["text"].as_str().unwrap();
            judgement.grade(hit["key"].as_str(), text)
        });
        sum += gain(grades) / ideal;
    }
    sum / f64::from(u32::try_from(judged.len()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_is_found() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("retrieval/judgements.json");
    let text = std::fs::read_to_string(path).unwrap();
    let judgements: Vec<Judgement> = serde_json::from_str(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let documents = folder.path().join("documents");
    std::fs::create_dir(&documents).unwrap();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for entry in std::fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, documents.join(path.file_name().unwrap())).unwrap();
        }
    }
    let server = start(embedded(folder.path())).await;
    let client = &server.client;
    import(client, "minilm", &model(MINILM, "split")).await;
    import(client, "judge", &small_model()).await;
    for (capability, binding) in [
        ("blob", "work"),
        ("inference", "minilm"),
        ("inference", "judge"),
    ] {
        let granted = client.grant("models", capability, binding, None).await;
        granted.unwrap();
    }
    client.push(component("models"), "").await.unwrap();

    synchronize(&server).await;
    let passages = passages(&folder.path().join("work"));
    let ideal = |judgement: &Judgement| {
        let mut grades: Vec<u32> = passages
            .iter()
            .map(|it| judgement.grade(None, it))
            .collect();
        grades.sort_unstable_by(|one, other| other.cmp(one));
        gain(grades)
    };
    let (judged, lost): (Vec<_>, Vec<_>) = judgements
        .iter()
        .map(|judgement| (judgement, ideal(judgement)))
        .partition(|(_, ideal)| *ideal > 0.0);
    let lost: Vec<&str> = lost.iter().map(|(it, _)| it.query.as_str()).collect();
    assert!(
        lost.len() <= LOST,
        "the documents changed; mend tests/retrieval/judgements.json for {lost:?}"
    );

    let words = measure(&server, &judged, "text").await;
    let hashed = measure(&server, &judged, "vector").await;
    let both = measure(&server, &judged, "hybrid").await;
    let reset = client.run("knowledge.reset", &json!(null)).await.unwrap();
    assert_eq!(reset.status, "Completed", "{}", reset.body);
    let input = json!({ "embedding": "minilm" });
    let sync = client.run("knowledge.sync", &input).await.unwrap();
    assert_eq!(sync.status, "Completed", "{}", sync.body);
    // A debug build computes, beside other tests.
    super::settle(&server, PATIENCE * 10).await;
    let overview = client.succeed("index.overview", &json!({})).await.unwrap();
    assert_eq!(overview["embedding"]["name"], "minilm", "{overview}");
    assert_eq!(overview["passages"], passages.len(), "{overview}");
    let minilm = measure(&server, &judged, "vector").await;
    let both_minilm = measure(&server, &judged, "hybrid").await;
    println!(
        "retrieval: nDCG@{TOP} of {} questions over {} passages: words {words:.3}, \
         hashed n-grams {hashed:.3}, both {both:.3}, MiniLM {minilm:.3}, both {both_minilm:.3}",
        judged.len(),
        passages.len()
    );
    // Well below what was measured (docs/benchmarks.md): documents change.
    for (name, found, least) in [
        ("words", words, 0.5),
        ("hashed n-grams", hashed, 0.3),
        ("words and hashed n-grams", both, 0.5),
        ("MiniLM", minilm, 0.4),
        ("words and MiniLM", both_minilm, 0.5),
    ] {
        assert!(found > least, "{name}: {found}");
    }
    assert!(both_minilm > words - 0.02, "{both_minilm} {words}");

    // A model's order, of more than are answered; its weights are random.
    let input = json!({ "text": "retry policy", "limit": 5, "rerank": "judge" });
    let found = super::flow(&server, input).await;
    let scores: Vec<f64> = found
        .iter()
        .map(|hit| hit["score"].as_f64().unwrap())
        .collect();
    assert_eq!(scores.len(), 5);
    assert!(scores.is_sorted_by(|one, other| one >= other), "{scores:?}");
}
