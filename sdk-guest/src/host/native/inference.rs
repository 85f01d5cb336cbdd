//! Stand-ins for models: embeddings made of the words' hashes, scores and texts by a test's
//! closures.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Value, json};

use crate::error::CapabilityError;
use crate::inference::{Embeddings, LongText, ModelInfo, Request};
use crate::test::state::{self, StandIn};

type Result<T> = std::result::Result<T, CapabilityError>;

/// The most that a stand-in reads at once, with the two tokens that are added.
const WINDOW: usize = 256;
const TEXTS: usize = 2_048;
const BYTES: usize = 8 << 20;

fn properties_of(model: &StandIn) -> Value {
    match model {
        StandIn::Embeds(dimensions) => json!({
            "task": "embed", "architecture": "stand-in", "dimensions": dimensions,
            "pooling": "mean", "normalized": true, "window": WINDOW,
        }),
        StandIn::Scores(_) => json!({
            "task": "rerank", "architecture": "stand-in", "normalized": false, "window": WINDOW,
        }),
        StandIn::Generates(_) => json!({
            "task": "generate", "architecture": "stand-in", "normalized": false,
            "window": WINDOW, "chat": true,
        }),
    }
}

pub(crate) fn models() -> Result<Vec<ModelInfo>> {
    Ok(state::with(|state| {
        let models = state.models.iter().map(|(name, model)| ModelInfo {
            name: name.clone(),
            properties: properties_of(model),
        });
        models.collect()
    }))
}

#[derive(Debug)]
pub(crate) struct Model {
    name: String,
}

fn denied(name: &str) -> CapabilityError {
    CapabilityError::new(
        "capability-denied",
        format!("this plugin has no grant of inference={name}"),
    )
}

fn check(bytes: usize, texts: usize) -> Result<()> {
    if texts > TEXTS || bytes > BYTES {
        return Err(CapabilityError::new(
            "limit-exceeded",
            format!("{texts} texts of {bytes} bytes at once"),
        ));
    }
    Ok(())
}

/// The tokens that are read of the texts, which are one sequence; a word is a token.
fn tokens(texts: &[&str], added: usize, index: usize, long: LongText) -> Result<u32> {
    let words = texts.iter().map(|text| text.split_whitespace().count());
    let words: usize = words.sum();
    let room = WINDOW - added;
    let count = match long {
        _ if words <= room => words + added,
        LongText::Truncate => WINDOW,
        LongText::Split => words + words.div_ceil(room) * added,
        LongText::Refuse => {
            let told = json!({ "index": index, "tokens": words + added, "window": WINDOW });
            let mut error = CapabilityError::new(
                "input-too-long",
                format!("text {index} has {} tokens", words + added),
            );
            error.details = Some(told);
            return Err(error);
        }
    };
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A direction for each word, and their sum, so that texts with common words are alike.
fn embedding(text: &str, dimensions: usize, long: LongText) -> Vec<f32> {
    let read = match long {
        LongText::Truncate => WINDOW - 2,
        _ => usize::MAX,
    };
    // The first is every text's own, so that none is without direction.
    let mut sum = vec![0.1_f32; dimensions];
    for word in text.split_whitespace().take(read) {
        let word: String = word.chars().filter(|char| char.is_alphanumeric()).collect();
        for (number, sum) in sum.iter_mut().enumerate() {
            let mut hasher = DefaultHasher::new();
            (word.to_lowercase(), number).hash(&mut hasher);
            *sum += (hasher.finish() % 2_001) as f32 / 1_000.0 - 1.0;
        }
    }
    let length = sum.iter().map(|number| number * number).sum::<f32>().sqrt();
    sum.iter()
        .map(|number| number / length.max(1e-12))
        .collect()
}

impl Model {
    pub(crate) fn open(name: &str) -> Result<Self> {
        if state::with(|state| state.models.contains_key(name)) {
            return Ok(Self {
                name: name.to_owned(),
            });
        }
        Err(denied(name))
    }

    fn stand_in(&self) -> Result<StandIn> {
        state::with(|state| state.models.get(&self.name).cloned()).ok_or_else(|| denied(&self.name))
    }

    fn unsupported(&self, what: &str) -> CapabilityError {
        CapabilityError::new(
            "unsupported",
            format!("the model {} cannot {what}", self.name),
        )
    }

    pub(crate) fn properties(&self) -> Result<Value> {
        Ok(properties_of(&self.stand_in()?))
    }

    pub(crate) fn embed(&self, texts: &[String], long: LongText) -> Result<Embeddings> {
        let StandIn::Embeds(dimensions) = self.stand_in()? else {
            return Err(self.unsupported("embed"));
        };
        check(texts.iter().map(String::len).sum(), texts.len())?;
        let (mut values, mut read) = (Vec::new(), Vec::new());
        for (index, text) in texts.iter().enumerate() {
            read.push(tokens(&[text], 2, index, long)?);
            values.extend(embedding(text, dimensions, long));
        }
        Ok(Embeddings::new(dimensions, values, read))
    }

    pub(crate) fn rerank(
        &self,
        query: &str,
        documents: &[String],
        long: LongText,
    ) -> Result<Vec<f32>> {
        let StandIn::Scores(score) = self.stand_in()? else {
            return Err(self.unsupported("rerank"));
        };
        let bytes = documents
            .iter()
            .map(|document| document.len() + query.len());
        check(bytes.sum(), documents.len())?;
        for (index, document) in documents.iter().enumerate() {
            tokens(&[query, document], 3, index, long)?;
        }
        let scores = documents.iter().map(|document| score(query, document));
        Ok(scores.collect())
    }

    pub(crate) fn generate(&self, request: &str) -> Result<Generation> {
        let StandIn::Generates(answer) = self.stand_in()? else {
            return Err(self.unsupported("generate text"));
        };
        let invalid = |message: String| CapabilityError::new("invalid-request", message);
        let request: Request =
            serde_json::from_str(request).map_err(|error| invalid(error.to_string()))?;
        if let Some(what) = wrong(&request) {
            return Err(invalid(format!("{what} is absent or out of its range")));
        }
        let said = request.messages.iter().map(|message| &message.content);
        let said: Vec<&str> = said.chain(&request.prompt).map(String::as_str).collect();
        check(said.iter().map(|text| text.len()).sum(), said.len())?;
        // A prompt leaves room for an answer.
        let prompt_tokens = tokens(&said, 1, 0, LongText::Refuse)? - 1;
        let mut text = answer(&request);
        let ends = request.stop.iter().filter_map(|stop| text.find(stop));
        if let Some(end) = ends.min() {
            text.truncate(end);
        }
        let mut words: VecDeque<String> = VecDeque::new();
        for char in text.chars() {
            match words.back_mut() {
                // A word comes with the spaces before it, as tokens do.
                Some(word) if char != ' ' || word.ends_with(' ') => word.push(char),
                _ => words.push_back(char.to_string()),
            }
        }
        let most = request.max_tokens.unwrap_or(1_024) as usize;
        let short = words.len() > most;
        words.truncate(most);
        let summary = json!({
            "finish_reason": if short { "length" } else { "stop" },
            "prompt_tokens": prompt_tokens,
            "completion_tokens": words.len(),
        });
        Ok(Generation {
            pieces: RefCell::new(words),
            ended: Cell::new(false),
            summary,
        })
    }
}

/// Which member the host would refuse.
fn wrong(request: &Request) -> Option<&'static str> {
    let within = |number: Option<f32>, least: f32, most: f32| {
        number.is_none_or(|number| (least..=most).contains(&number))
    };
    let checks = [
        (
            "messages or prompt",
            request.messages.is_empty() != request.prompt.is_none(),
        ),
        ("messages", request.messages.len() <= 1_024),
        ("max_tokens", request.max_tokens != Some(0)),
        (
            "stop",
            request.stop.len() <= 16
                && request
                    .stop
                    .iter()
                    .all(|stop| (1..=256).contains(&stop.len())),
        ),
        ("temperature", within(request.temperature, 0.0, 2.0)),
        ("top_p", within(request.top_p, f32::MIN_POSITIVE, 1.0)),
        ("top_k", request.top_k != Some(0)),
        ("seed", request.seed.is_none_or(|seed| seed < 1 << 53)),
    ];
    let wrong = checks.iter().find(|(_, holds)| !holds);
    wrong.map(|(name, _)| *name)
}

#[derive(Debug)]
pub(crate) struct Generation {
    pieces: RefCell<VecDeque<String>>,
    /// Whether a call of `next` was answered that there is no more.
    ended: Cell<bool>,
    summary: Value,
}

impl Generation {
    pub(crate) fn next(&self) -> Result<Option<String>> {
        let piece = self.pieces.borrow_mut().pop_front();
        self.ended.set(piece.is_none());
        Ok(piece)
    }

    pub(crate) fn summary(&self) -> Result<Value> {
        if !self.ended.get() {
            return Err(CapabilityError::new(
                "invalid-request",
                "a generation has a summary when it has ended",
            ));
        }
        Ok(self.summary.clone())
    }
}
