//! The operator's models, for the knowledge example: `passages` and `embed` make vectors, as
//! the plugin `hashed-ngram-embedding` does without one, `rerank` orders what was found, and
//! `answer` answers a question from it.
//! A model is granted by its name (`heyday grant models inference=all-minilm-l6-v2`).
//!
//! The way of a call: an activity opens the model that its input names, gives it texts, a
//! document's in batches, and answers what it made of them; the vectors of a document go to
//! the binding `work`, beside its passages. What a generated answer may say is in `answer`.
//!
//! Start reading at [`fn@passages`].

mod answer;

use heyday_sdk::prelude::*;
use inference::{LongText, Model};
use passages::vectors::{Embedding, Writer};
use passages::work;

/// Texts in one call of a model: enough to fill its batches, few enough for its memory.
const BATCH: usize = 64;

/// Texts in one call of `embed`, at most.
const MOST_TEXTS: usize = 1_000;

/// Texts to embed.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Texts {
    /// The model's name.
    pub model: String,
    /// At most 1,000: questions, where the model tells them from passages.
    pub texts: Vec<String>,
}

/// Their vectors.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Vectors {
    /// By which embedding.
    pub embedding: Embedding,
    /// In the order of the texts.
    pub vectors: Vec<Vec<f32>>,
}

/// Passages to embed.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Document {
    /// The model's name.
    pub model: String,
    /// Where they lie in the binding `work`, JSON Lines.
    pub passages_key: String,
}

/// Where the vectors are.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Embedded {
    /// Their place in the binding `work`.
    pub vectors_key: String,
    /// How many there are.
    pub vectors: u64,
}

/// What was found, and for what.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Found {
    /// The model's name.
    pub model: String,
    /// What was searched for.
    pub text: String,
    /// What was found, as `index.search` answers it; at most 1,000.
    pub passages: Vec<serde_json::Value>,
}

/// The same, in the model's order.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Ranked {
    /// The best first, with the model's `score`.
    pub passages: Vec<serde_json::Value>,
}

/// A model that embeds.
struct Embedder {
    model: Model,
    embedding: Embedding,
    /// What its authors put before a question, and before a passage.
    prompts: [String; 2],
}

impl Embedder {
    fn open(name: &str) -> Result<Self> {
        let model = Model::open(name)?;
        let properties = model.properties()?;
        let dimensions = properties["dimensions"].as_u64().map(u32::try_from);
        let Some(Ok(dimensions)) = dimensions else {
            let message = format!("the model {name} makes no embeddings; name another one");
            return Err(Error::new("unsupported", message));
        };
        let prompt = |purposes: [&str; 2]| {
            let mut found = purposes
                .iter()
                .filter_map(|it| properties["prompts"][it].as_str());
            found.next().unwrap_or_default().to_owned()
        };
        let digest = properties["digest"].as_str().unwrap_or("unknown");
        Ok(Self {
            prompts: [
                prompt(["query", "question"]),
                prompt(["document", "passage"]),
            ],
            embedding: Embedding {
                name: name.to_owned(),
                revision: digest.to_owned(),
                dimensions,
            },
            model,
        })
    }

    fn embed(&self, prompt: &str, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let texts: Vec<String> = texts.iter().map(|text| format!("{prompt}{text}")).collect();
        let found = self.model.embed(&texts, LongText::Split)?;
        Ok(found.iter().map(<[f32]>::to_vec).collect())
    }
}

/// The vectors of questions.
#[activity(start_to_close = "5m")]
pub fn embed(input: Texts) -> Result<Vectors> {
    most("texts", input.texts.len())?;
    let embedder = Embedder::open(&input.model)?;
    Ok(Vectors {
        vectors: embedder.embed(&embedder.prompts[0], &input.texts)?,
        embedding: embedder.embedding,
    })
}

/// The vectors of a document's passages.
// As often as `index.index`: a backend may be away for a minute.
#[activity(
    start_to_close = "1h",
    retry(maximum_interval = "10s", maximum_attempts = 12)
)]
pub fn passages(input: Document) -> Result<Embedded> {
    let embedder = Embedder::open(&input.model)?;
    let work = blob::Container::open("work")?;
    let vectors_key = work::beside(&input.passages_key, work::VECTORS);
    let mut writer = Writer::begin(&work, &vectors_key, &embedder.embedding)?;
    let mut vectors = 0;
    let mut batch: Vec<String> = Vec::with_capacity(BATCH);
    let mut passages = ::passages::read(&work, &input.passages_key)?;
    loop {
        for passage in passages.by_ref().take(BATCH) {
            batch.push(passage?.with_heading());
        }
        if batch.is_empty() {
            break;
        }
        for vector in embedder.embed(&embedder.prompts[1], &batch)? {
            writer.push(&vector)?;
        }
        vectors += batch.len() as u64;
        context::progress(vectors, 0, "embedding");
        batch.clear();
    }
    writer.finish()?;
    Ok(Embedded {
        vectors_key,
        vectors,
    })
}

/// Puts what was found into a model's order.
#[activity(start_to_close = "5m")]
pub fn rerank(input: Found) -> Result<Ranked> {
    most("passages", input.passages.len())?;
    let texts = input.passages.iter().map(|passage| {
        let text = passage["text"].as_str().unwrap_or_default();
        match passage["heading"].as_str() {
            Some(heading) => format!("{heading}\n{text}"),
            None => text.to_owned(),
        }
    });
    let texts: Vec<String> = texts.collect();
    let model = Model::open(&input.model)?;
    let scores = model.rerank(&input.text, &texts, LongText::Truncate)?;
    let mut ranked: Vec<(f32, serde_json::Value)> =
        scores.into_iter().zip(input.passages).collect();
    ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
    let passages = ranked.into_iter().map(|(score, mut passage)| {
        if let Some(members) = passage.as_object_mut() {
            members.insert("score".to_owned(), score.into());
        }
        passage
    });
    Ok(Ranked {
        passages: passages.collect(),
    })
}

fn most(what: &str, count: usize) -> Result<()> {
    if count <= MOST_TEXTS {
        return Ok(());
    }
    let message = format!("at most {MOST_TEXTS} {what}, not {count}");
    Err(Error::new("invalid-input", message))
}

heyday_sdk::plugin!();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_are_embedded_in_batches_by_the_model() {
        let lines: String = (0..BATCH + 3)
            .map(|n| format!("{{\"position\":{n},\"offset\":0,\"text\":\"text {n}\"}}\n"))
            .collect();
        let _test = heyday_sdk::test::Context::new()
            .embeddings("m", 16)
            .blob("work", [("t.passages.jsonl", lines)])
            .enter();
        let input = Document {
            model: "m".to_owned(),
            passages_key: "t.passages.jsonl".to_owned(),
        };
        let found = passages(input).unwrap();
        assert_eq!(found.vectors, BATCH as u64 + 3);
        let work = blob::Container::open("work").unwrap();
        let mut reader = ::passages::vectors::Reader::open(&work, &found.vectors_key).unwrap();
        assert_eq!(
            (reader.embedding.name.as_str(), reader.embedding.dimensions),
            ("m", 16)
        );
        let of = |texts: [&str; 1]| Texts {
            model: "m".to_owned(),
            texts: texts.map(str::to_owned).to_vec(),
        };
        let asked = embed(of(["text 0"])).unwrap();
        assert_eq!(asked.embedding, reader.embedding);
        assert_eq!(asked.vectors[0], reader.take().unwrap());
    }

    #[test]
    fn what_was_found_is_put_into_the_models_order() {
        let _test = heyday_sdk::test::Context::new()
            .scores(
                "r",
                |_, text| if text.contains("Rotors") { 2.0 } else { 1.0 },
            )
            .enter();
        let passages = vec![
            serde_json::json!({"text": "bread", "score": 9}),
            serde_json::json!({"text": "they turn", "heading": "Rotors"}),
        ];
        let found = rerank(Found {
            model: "r".to_owned(),
            text: "rotor".to_owned(),
            passages,
        });
        let found = found.unwrap().passages;
        assert_eq!(found[0]["text"], "they turn");
        assert_eq!(found[1]["score"], 1.0);
        let texts = vec![String::new(); MOST_TEXTS + 1];
        let model = "r".to_owned();
        let refused = embed(Texts { model, texts }).unwrap_err();
        assert_eq!(refused.kind(), "invalid-input");
        let (model, texts) = ("r".to_owned(), vec![]);
        assert_eq!(
            embed(Texts { model, texts }).unwrap_err().kind(),
            "unsupported"
        );
    }
}
