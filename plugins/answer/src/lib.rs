//! Answers a question with sentences of passages that were found for it, word for word and
//! with where they stand: no model, and nothing that no document says.
//!
//! A sentence counts by the words of the question that it has, rare ones more; less where it is
//! long, for those have many words by chance; and a little by the place of its passage. The
//! *confidence* says how much of the question the answer has: 0 is nothing, 1 is all its words
//! in one sentence of a usual length. It is no probability.
//!
//! Start reading at [`extract`]; `sentences` says what a sentence is.

mod sentences;

use std::collections::{BTreeMap, BTreeSet};

use heyday_sdk::prelude::*;
use passages::answers::{Answer, Passage};
use passages::words::{phrases, terms};

use sentences::sentences;

/// Passages of one question, at most.
const MOST_PASSAGES: usize = 100;
/// Words of a sentence that reads well. One with so many more counts half.
const USUAL_WORDS: usize = 20;
const HALF: f64 = 40.0;
/// How much the place of a sentence's passage counts.
const PLACE: f64 = 0.15;
/// A further sentence that has nothing new of the question counts nearly what the best does;
/// one that has, at least so much of it.
const AS_GOOD: f64 = 0.9;
const GOOD_ENOUGH: f64 = 0.3;

/// A question and what was found for it.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Question {
    /// The question.
    pub text: String,
    /// Passages, the best first, as `index.search` answers them; at most 100.
    pub passages: Vec<Passage>,
    /// Most sentences of the answer: 1 to 10; 3 where absent.
    #[serde(default)]
    pub sentences: Option<u32>,
}

/// A sentence that may be part of the answer.
struct Candidate {
    /// The passage's place, from 0.
    passage: usize,
    offset: usize,
    quote: String,
    /// Terms of the question that it, or the heading above it, has.
    has: BTreeSet<String>,
    /// What it counts by its length, 0 to 1.
    shape: f64,
    score: f64,
}

/// Answers with sentences of the passages.
#[activity(queue = "general-queue", start_to_close = "1m")]
pub fn extract(input: Question) -> Result<Answer> {
    let most = input.sentences.unwrap_or(3);
    if !(1..=10).contains(&most) {
        let message = format!("sentences is 1 to 10, not {most}");
        return Err(Error::new("invalid-input", message));
    }
    if input.passages.len() > MOST_PASSAGES {
        let message = format!(
            "at most {MOST_PASSAGES} passages, not {}",
            input.passages.len()
        );
        return Err(Error::new("invalid-input", message));
    }
    let asked: BTreeSet<String> = phrases(&input.text).into_iter().flatten().collect();
    if asked.is_empty() {
        let message = format!("there is no word in {:?}", input.text);
        return Err(Error::new("invalid-input", message));
    }
    let mut candidates = candidates(&asked, &input.passages);
    let weights = weights(&asked, &candidates);
    let all: f64 = weights.values().sum();
    let covers = |has: &BTreeSet<String>| has.iter().map(|term| weights[term]).sum::<f64>() / all;
    for candidate in &mut candidates {
        let place = u32::try_from(candidate.passage).unwrap_or(u32::MAX);
        let place = PLACE / (1.0 + f64::from(place));
        candidate.score = candidate.shape * covers(&candidate.has) + place;
    }
    candidates.retain(|candidate| !candidate.has.is_empty());
    // Stable: of equals the first of the best passage.
    candidates.sort_by(|one, other| other.score.total_cmp(&one.score));
    let mut chosen: Vec<Candidate> = Vec::new();
    let mut covered = BTreeSet::new();
    for candidate in candidates {
        let Some(best) = chosen.first() else {
            covered.extend(candidate.has.iter().cloned());
            chosen.push(candidate);
            continue;
        };
        let more = candidate.has.iter().any(|term| !covered.contains(term));
        let said = chosen.iter().any(|known| known.quote == candidate.quote);
        let needed = if more { GOOD_ENOUGH } else { AS_GOOD };
        let enough = candidate.score >= needed * best.score;
        if chosen.len() < most as usize && !said && enough {
            covered.extend(candidate.has.iter().cloned());
            chosen.push(candidate);
        }
    }
    // What one sentence says is surer than what several do.
    let confidence = chosen
        .first()
        .map_or(0.0, |best| 0.7 * covers(&best.has) + 0.3 * covers(&covered));
    Ok(told(&input.passages, &chosen, confidence))
}

/// The sentences of the passages, with what they have of the question.
fn candidates(asked: &BTreeSet<String>, passages: &[Passage]) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (place, passage) in passages.iter().enumerate() {
        let of = |text: &str| -> BTreeSet<String> {
            let terms: BTreeSet<String> = terms(text).into_iter().collect();
            asked.intersection(&terms).cloned().collect()
        };
        let above = passage.heading.as_deref().map(&of).unwrap_or_default();
        for sentence in sentences(&passage.text) {
            let words = terms(sentence.text).len();
            let mut has = of(sentence.text);
            // A heading says of what its sentences speak; it is none itself.
            let heading =
                sentence.text.starts_with('#') || passage.heading.as_deref() == Some(sentence.text);
            if heading {
                continue;
            }
            if !has.is_empty() {
                has.extend(above.iter().cloned());
            }
            let long = u32::try_from(words.saturating_sub(USUAL_WORDS)).unwrap_or(u32::MAX);
            let short = if words < 4 { 0.5 } else { 1.0 };
            candidates.push(Candidate {
                passage: place,
                offset: sentence.offset,
                quote: sentence
                    .text
                    .split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" "),
                has,
                shape: short / (1.0 + f64::from(long) / HALF),
                score: 0.0,
            });
        }
    }
    candidates
}

/// What each term of the question counts: rare ones more.
fn weights(asked: &BTreeSet<String>, candidates: &[Candidate]) -> BTreeMap<String, f64> {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let all = number(candidates.len());
    let weight = |term: &String| {
        let having = candidates.iter().filter(|it| it.has.contains(term)).count();
        (1.0 + (all + 0.5) / (number(having) + 0.5)).ln()
    };
    asked.iter().map(|it| (it.clone(), weight(it))).collect()
}

/// The answer, in the order of the passages.
fn told(passages: &[Passage], chosen: &[Candidate], confidence: f64) -> Answer {
    let mut ordered: Vec<&Candidate> = chosen.iter().collect();
    ordered.sort_by_key(|candidate| (candidate.passage, candidate.offset));
    let mut answer = String::new();
    let mut citations = Vec::new();
    for (number, candidate) in (1..).zip(ordered) {
        let passage = &passages[candidate.passage];
        if number > 1 {
            answer.push(' ');
        }
        answer.push_str(&format!("{} [{number}]", candidate.quote));
        citations.push(passage.cite(candidate.offset, candidate.quote.clone()));
    }
    Answer {
        answer,
        citations,
        confidence: (confidence * 1_000.0).round() / 1_000.0,
    }
}

heyday_sdk::plugin!();

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str, passages: &[(&str, &str)]) -> Answer {
        let passages = passages
            .iter()
            .zip(0..)
            .map(|((key, text), position)| Passage {
                key: (*key).to_owned(),
                title: key.to_uppercase(),
                heading: None,
                page: Some(1),
                position,
                offset: 100,
                text: (*text).to_owned(),
            });
        extract(Question {
            text: text.to_owned(),
            passages: passages.collect(),
            sentences: None,
        })
        .unwrap()
    }

    const ROTORS: (&str, &str) = (
        "rotors",
        "Rotors turn. A rotor is balanced with small weights\nbefore it runs. Nothing else helps.",
    );
    const BREAD: (&str, &str) = (
        "bread",
        "Bread rises in the oven. It is balanced with salt.",
    );

    #[test]
    fn the_answer_is_what_a_document_says_and_where() {
        let found = ask("How is a rotor balanced?", &[BREAD, ROTORS]);
        let quote = "A rotor is balanced with small weights before it runs.";
        assert_eq!(found.answer, format!("{quote} [1]"));
        let citation = &found.citations[0];
        assert_eq!((citation.key.as_str(), citation.position), ("rotors", 1));
        assert_eq!(citation.offset, 100 + 13);
        assert!(ROTORS.1[13..].starts_with("A rotor"));
        assert!(found.confidence > 0.9, "{}", found.confidence);
    }

    #[test]
    fn what_is_not_said_is_not_sure() {
        let found = ask("How is a turbine balanced in Bergen?", &[BREAD, ROTORS]);
        assert!(found.confidence < 0.4, "{}", found.confidence);
        let found = ask("zebra", &[BREAD]);
        assert_eq!((found.answer.as_str(), found.confidence), ("", 0.0));
        assert_eq!(ask("zebra", &[]).citations, []);
    }

    #[test]
    fn several_sentences_answer_what_none_does_alone() {
        let found = ask("rotor weights and oven bread", &[ROTORS, BREAD]);
        assert_eq!(found.citations.len(), 2, "{}", found.answer);
        assert!(found.answer.ends_with("[2]"));
    }

    #[test]
    fn bad_input_is_told() {
        let question = |text: &str, sentences| Question {
            text: text.to_owned(),
            passages: Vec::new(),
            sentences,
        };
        for bad in [question("x", Some(0)), question("?", None)] {
            assert_eq!(extract(bad).unwrap_err().kind(), "invalid-input");
        }
    }
}
