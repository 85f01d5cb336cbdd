//! The search finds what people judged to be an answer: by words, by vectors and by both,
//! with the hashed stand-in and with the real all-MiniLM-L6-v2. Some of the documents and of
//! the questions, so that it is short; `cargo xtask bench retrieval` measures all.

use std::path::PathBuf;

use serde_json::json;

use super::{embedded, start, synchronize};
use crate::inference::{MINILM, import, model, small_model};
use crate::support::judged::{self, Judgement, TOP};
use crate::support::server::{PATIENCE, Server};
use crate::support::{component, examples, repository};

/// The documents that are searched.
const DOCUMENTS: [&str; 2] = ["signals.md", "schedules.md"];

fn tests() -> PathBuf {
    repository().join("tests")
}

#[test]
fn what_was_judged_stands_in_the_documentation() {
    for judgement in judged::all(&tests()) {
        let query = &judgement.query;
        assert!(
            judgement.relevant.iter().any(|it| it.grade == 3),
            "nothing answers {query:?}"
        );
        for relevant in &judgement.relevant {
            let path = examples().join("../docs").join(&relevant.key);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                judged::spaced(&text).contains(&relevant.quote),
                "{} no longer says {:?}: mend tests/retrieval/judgements.json for {query:?}",
                relevant.key,
                relevant.quote
            );
        }
    }
}

/// The mean nDCG@10.
async fn measure(server: &Server, questions: &[Judgement], passages: &[String], mode: &str) -> f64 {
    let mut sum = 0.0;
    for question in questions {
        let input = json!({ "text": question.query, "mode": mode, "limit": TOP });
        let found = super::flow(server, input).await;
        let ndcg = question.ndcg(&found, passages);
        sum += ndcg.unwrap_or_else(|| panic!("no passage answers {:?}", question.query));
    }
    sum / questions.len() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_is_found() {
    let questions: Vec<Judgement> = judged::all(&tests())
        .into_iter()
        .filter(|judgement| {
            let mut keys = judgement.relevant.iter().map(|it| it.key.as_str());
            keys.all(|key| DOCUMENTS.contains(&key))
        })
        .collect();
    assert!(questions.len() > 4, "{questions:?}");
    let folder = tempfile::tempdir().unwrap();
    let documents = folder.path().join("documents");
    std::fs::create_dir(&documents).unwrap();
    for name in DOCUMENTS {
        std::fs::copy(examples().join("../docs").join(name), documents.join(name)).unwrap();
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
    let passages = judged::passages(&folder.path().join("work"));
    let words = measure(&server, &questions, &passages, "text").await;
    let hashed = measure(&server, &questions, &passages, "vector").await;
    let both = measure(&server, &questions, &passages, "hybrid").await;
    let reset = client.run("knowledge.reset", &json!(null)).await.unwrap();
    assert_eq!(reset.status, "Completed", "{}", reset.body);
    let input = json!({ "embedding": "minilm" });
    let sync = client.run("knowledge.sync", &input).await.unwrap();
    assert_eq!(sync.status, "Completed", "{}", sync.body);
    super::settle(&server, PATIENCE * 2).await;
    let overview = client.succeed("index.overview", &json!({})).await.unwrap();
    assert_eq!(overview["embedding"]["name"], "minilm", "{overview}");
    assert_eq!(overview["passages"], passages.len(), "{overview}");
    let minilm = measure(&server, &questions, &passages, "vector").await;
    let both_minilm = measure(&server, &questions, &passages, "hybrid").await;
    // Well below what was found: documents change.
    for (name, found, least) in [
        ("words", words, 0.6),
        ("hashed n-grams", hashed, 0.5),
        ("words and hashed n-grams", both, 0.6),
        ("MiniLM", minilm, 0.6),
        ("words and MiniLM", both_minilm, 0.7),
    ] {
        println!("{name}: {found:.3}");
        assert!(found > least, "{name}: {found}");
    }

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
