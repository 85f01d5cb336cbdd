//! Vectors of texts without a model: a stand-in, so that search by vectors works on a bare
//! machine. It knows spelling and no meaning: texts are alike that share words, pairs of
//! words and parts of words, so that it forgives endings and slips of the pen, and finds no
//! synonyms. With a model granted, use that (the plugin `models`).
//!
//! Each feature of a text (a term, two terms that follow each other, three characters of a
//! word) is hashed to one of [`DIMENSIONS`] numbers and a sign; the logarithm of how often
//! it occurs is added there, weighted by its kind; the whole is scaled to length 1.
//!
//! Start reading at [`vector`], which is what the activities call.

use std::collections::BTreeMap;

use heyday_sdk::prelude::*;
use passages::vectors::{Embedding, Writer};
use passages::words::{Word, words};
use passages::work;

/// Numbers of a vector.
pub const DIMENSIONS: usize = 384;

/// Raised with each change of what a text's vector is.
const REVISION: u32 = 2;

/// Weights of the kinds of features: a term, a pair of terms, a part of a word.
const TERM: f32 = 1.0;
const PAIR: f32 = 0.5;
const PART: f32 = 0.25;

/// Texts in one call of `embed`, at most.
const MOST_TEXTS: usize = 1_000;

/// Texts to embed.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Texts {
    /// At most 1,000.
    pub texts: Vec<String>,
}

/// Their vectors.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Vectors {
    /// By which embedding.
    pub embedding: Embedding,
    /// In the order of the texts; each of length 1.
    pub vectors: Vec<Vec<f32>>,
}

/// Passages to embed.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Document {
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

fn embedding() -> Embedding {
    Embedding {
        name: env!("CARGO_PKG_NAME").to_owned(),
        revision: REVISION.to_string(),
        dimensions: DIMENSIONS as u32,
    }
}

/// The vectors of texts.
#[activity(queue = "general-queue", start_to_close = "1m")]
pub fn embed(input: Texts) -> Result<Vectors> {
    if input.texts.len() > MOST_TEXTS {
        let message = format!("at most {MOST_TEXTS} texts, not {}", input.texts.len());
        return Err(Error::new("invalid-input", message));
    }
    Ok(Vectors {
        embedding: embedding(),
        vectors: input.texts.iter().map(|text| vector(text)).collect(),
    })
}

/// The vectors of a document's passages.
// As often as `index.index`: a backend may be away for a minute.
#[activity(
    queue = "general-queue",
    start_to_close = "10m",
    retry(maximum_interval = "10s", maximum_attempts = 12)
)]
pub fn passages(input: Document) -> Result<Embedded> {
    let work = blob::Container::open("work")?;
    let vectors_key = work::beside(&input.passages_key, work::VECTORS);
    let mut writer = Writer::begin(&work, &vectors_key, &embedding())?;
    let mut vectors = 0;
    for passage in ::passages::read(&work, &input.passages_key)? {
        writer.push(&vector(&passage?.with_heading()))?;
        vectors += 1;
        if vectors % 500 == 0 {
            context::progress(vectors, 0, "embedding");
        }
    }
    writer.finish()?;
    Ok(Embedded {
        vectors_key,
        vectors,
    })
}

/// The vector of a text, of length 1.
#[must_use]
pub fn vector(text: &str) -> Vec<f32> {
    let all = words(text);
    let telling: Vec<&Word> = all.iter().filter(|word| !word.is_stop()).collect();
    // Ordered, so that sums are the same on every machine.
    let mut features: BTreeMap<u64, (u32, f32)> = BTreeMap::new();
    let mut count = |hash: u64, weight: f32| {
        features.entry(hash).or_insert((0, weight)).0 += 1;
    };
    let terms: Vec<String> = telling.iter().map(|word| word.term()).collect();
    for term in &terms {
        count(hash(&[b"t", term.as_bytes()]), TERM);
    }
    for pair in terms.windows(2) {
        count(
            hash(&[b"p", pair[0].as_bytes(), b" ", pair[1].as_bytes()]),
            PAIR,
        );
    }
    for word in telling {
        let mut part = [' '; 3];
        for character in word.folded.chars().chain([' ']) {
            part = [part[1], part[2], character];
            if part[1] != ' ' {
                let text: String = part.iter().collect();
                count(hash(&[b"c", text.as_bytes()]), PART);
            }
        }
    }
    let mut vector = vec![0.0; DIMENSIONS];
    for (hash, (times, weight)) in features {
        let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
        let at = usize::try_from(hash % DIMENSIONS as u64).unwrap_or(0);
        #[allow(
            clippy::cast_precision_loss,
            reason = "nothing occurs 16 million times"
        )]
        let often = times as f32;
        vector[at] += sign * weight * (1.0 + often.ln());
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    } else {
        // A text without words is like others without, and like nothing else.
        vector[0] = 1.0;
    }
    vector
}

/// FNV-1a, 64 bits, its halves mixed: low bits alone would be alike for alike texts.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        hash ^= u64::from(*byte);
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

heyday_sdk::plugin!();

#[cfg(test)]
mod tests {
    use super::*;

    fn likeness(one: &str, other: &str) -> f32 {
        inference::cosine(&vector(one), &vector(other))
    }

    #[test]
    fn spelling_is_compared() {
        let text = "The rotors are balanced before the machine runs.";
        assert!(likeness(text, text) > 0.999);
        assert!(likeness("balancing a rotor", text) > likeness("baking bread", text) + 0.2);
        // A slip of the pen.
        assert!(likeness("rotor balnace", text) > likeness("oven temperature", text) + 0.1);
    }

    #[test]
    fn vectors_never_change() {
        // Another answer needs another `REVISION`.
        let term = hash(&[b"t", b"rotor"]);
        assert_eq!(term, 8_179_449_899_554_499_863);
        let found = vector("Rotor");
        let at = usize::try_from(term % DIMENSIONS as u64).unwrap();
        // A term and five parts of its word: " ro", "rot", "oto", "tor", "or ".
        let length = (TERM * TERM + 5.0 * PART * PART).sqrt();
        assert!((found[at] - TERM / length).abs() < 1e-5, "{}", found[at]);
        let squares: f32 = found.iter().map(|x| x * x).sum();
        assert!((squares - 1.0).abs() < 1e-5);
        assert!((vector("!")[0] - 1.0).abs() < 1e-9);
    }

    #[test]
    fn passages_are_embedded_where_they_lie() {
        let line = r#"{"position":0,"offset":0,"heading":"Rotors","text":"They turn."}"#;
        let test = heyday_sdk::test::Context::new()
            .blob(
                "work",
                [("text/1.passages.jsonl", format!("{line}\n{line}\n"))],
            )
            .enter();
        let input = Document {
            passages_key: "text/1.passages.jsonl".to_owned(),
        };
        let found = passages(input).unwrap();
        assert_eq!(
            (found.vectors, found.vectors_key.as_str()),
            (2, "text/1.vectors")
        );
        let work = blob::Container::open("work").unwrap();
        let mut reader = ::passages::vectors::Reader::open(&work, "text/1.vectors").unwrap();
        assert_eq!(reader.embedding, embedding());
        assert_eq!(reader.take().unwrap(), vector("Rotors\nThey turn."));
        drop(test);
        let texts = vec![String::new(); MOST_TEXTS + 1];
        assert_eq!(embed(Texts { texts }).unwrap_err().kind(), "invalid-input");
    }
}
