//! Questions to this repository's own documentation, what people judged to answer them
//! (`tests/retrieval/judgements.json`), and how well an order of passages does by that:
//! nDCG@10, 1 where the best passages come first, in the order of their grades.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// Passages that count.
pub const TOP: usize = 10;

/// A question.
#[derive(Debug, Clone, Deserialize)]
pub struct Judgement {
    /// What is asked.
    pub query: String,
    /// What answers it, or has to do with it.
    pub relevant: Vec<Relevant>,
}

/// A passage that was judged.
#[derive(Debug, Clone, Deserialize)]
pub struct Relevant {
    /// The document.
    pub key: String,
    /// What the passage says, with single spaces.
    pub quote: String,
    /// 3 answers it, 2 helps, 1 has to do with it.
    pub grade: u32,
}

/// All of them. `tests` is the folder of the tests.
pub fn all(tests: &Path) -> Vec<Judgement> {
    let text = std::fs::read_to_string(tests.join("retrieval/judgements.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// With single spaces.
pub fn spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Judgement {
    /// How good a passage is.
    fn grade(&self, key: Option<&str>, text: &str) -> u32 {
        let text = spaced(text);
        let fits = |it: &&Relevant| {
            key.is_none_or(|key| key == it.key) && text.contains(it.quote.as_str())
        };
        let fitting = self.relevant.iter().filter(fits);
        fitting.map(|it| it.grade).max().unwrap_or(0)
    }

    /// nDCG@10 of the passages that a search found (`key`, `text`), where all there are have
    /// those texts; none where no passage answers it.
    pub fn ndcg(&self, found: &[Value], passages: &[String]) -> Option<f64> {
        let text = |hit: &Value| hit["text"].as_str().unwrap_or_default().to_owned();
        let grades = found
            .iter()
            .map(|hit| self.grade(hit["key"].as_str(), &text(hit)));
        let mut ideal: Vec<u32> = passages.iter().map(|it| self.grade(None, it)).collect();
        ideal.sort_unstable_by(|one, other| other.cmp(one));
        let ideal = gain(ideal);
        (ideal > 0.0).then(|| gain(grades) / ideal)
    }
}

/// Discounted cumulative gain of grades in an order.
fn gain(grades: impl IntoIterator<Item = u32>) -> f64 {
    let gains = (2_u32..).zip(grades.into_iter().take(TOP));
    gains
        .map(|(rank, grade)| (f64::from(grade).exp2() - 1.0) / f64::from(rank).log2())
        .sum()
}

/// The texts of all passages, of the example's binding `work`.
pub fn passages(work: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(work.join("text")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with(".passages.jsonl") {
            for line in std::fs::read_to_string(path).unwrap().lines() {
                let passage: Value = serde_json::from_str(line).unwrap();
                texts.push(passage["text"].as_str().unwrap().to_owned());
            }
        }
    }
    texts
}
