//! The search: by words, by vectors, and by both.
//!
//! The vector store answers candidates, those with the best BM25 and the nearest. Stores count
//! how common a word is in ways of their own, and know no phrases; so the candidates' words
//! are counted again here, alike for every store. With all phrases come first, then those with
//! some, each by BM25. Of both lists and of what was found otherwise each passage has a rank;
//! what counts in `hybrid` is the sum of their reciprocals, as in the WIT of `vector`.

use std::collections::HashMap;

use heyday_sdk::prelude::*;
use heyday_sdk::vector::{Collection, Search};
use passages::words::{Word, phrases, words};

use crate::STAND_IN;
use crate::catalogue::{Catalogue, mismatch};
use crate::snippet::snippet;
use crate::store::{self, Stored};
use crate::types::{Hit, Mode, Place, Query};

/// How much a model's vector counts where the caller says nothing, and how much one of the
/// stand-in, which knows little that words do not say.
const ALPHA: f64 = 0.5;
const ALPHA_STAND_IN: f64 = 0.2;
/// How much counts what was found otherwise.
const ALSO: f64 = 0.3;
/// Of the reciprocal of a rank, as the vector store has it.
const RANK: f64 = 60.0;
/// BM25, as the stores have it.
const K1: f64 = 1.2;
const B: f64 = 0.75;
/// Bytes of the words of one question to the store, at most.
const MOST_BYTES: usize = 4_096;
/// Passages that were found otherwise, at most; further ones do not count.
const MOST_ALSO: usize = 200;
/// Distances that differ by less are equal: stores round them differently.
const NEAR: f32 = 1e-5;

/// The passages that fit best.
pub fn search(
    catalogue: &Catalogue,
    collection: Option<&Collection>,
    query: &Query,
    limit: u32,
) -> Result<Vec<Hit>> {
    let mode = match (query.mode, &query.vector) {
        (Some(mode), _) => mode,
        (None, Some(_)) => Mode::Hybrid,
        (None, None) => Mode::Text,
    };
    let filled = catalogue.embedding()?;
    if let (Some(asked), Some(filled)) = (&query.embedding, &filled)
        && asked != filled
    {
        return Err(mismatch(filled, &asked.to_string()));
    }
    let alpha = query.alpha.unwrap_or_else(|| match filled {
        Some(filled) if filled.name != STAND_IN => ALPHA,
        _ => ALPHA_STAND_IN,
    });
    if !(0.0..=1.0).contains(&alpha) {
        let message = format!("alpha is 0 to 1, not {alpha}");
        return Err(Error::new("invalid-input", message));
    }
    let phrases = phrases(&query.text);
    if phrases.is_empty() && mode != Mode::Vector {
        let message = format!("there is no word to search for in {:?}", query.text);
        return Err(Error::new("invalid-input", message));
    }
    let vector = match (mode, &query.vector) {
        (Mode::Text, _) => None,
        (_, Some(vector)) => Some(vector.as_slice()),
        (_, None) => {
            let message = "to search by vectors, give the vector of the text, or run the flow \
                           knowledge.search, which makes it";
            return Err(Error::new("invalid-input", message));
        }
    };
    let Some(collection) = collection else {
        return Ok(Vec::new());
    };
    let mut pool = Pool {
        catalogue,
        collection,
        // Some of them belong to versions that are being written, or were.
        asked: Search::new((limit * 4 + 100).max(400)),
        passages: HashMap::new(),
    };
    let mut lists = Vec::new();
    if mode != Mode::Vector {
        lists.push((1.0 - alpha, pool.by_words(&phrases)?));
    }
    if let Some(vector) = vector {
        lists.push((alpha, pool.by_vector(vector)?));
    }
    if !query.also.is_empty() {
        lists.push((ALSO, pool.places(&query.also)?));
    }
    let mut scores: HashMap<Place, f64> = HashMap::new();
    if let [(_, ranked)] = lists.as_slice() {
        // One list alone has a score that says more than its ranks.
        scores.extend(ranked.iter().cloned());
    } else {
        for (weight, ranked) in lists.iter().filter(|(weight, _)| *weight > 0.0) {
            for (rank, (place, _)) in (1_u32..).zip(ranked) {
                let score = weight / (RANK + f64::from(rank));
                *scores.entry(place.clone()).or_default() += score;
            }
        }
    }
    let mut found: Vec<(Place, f64)> = scores.into_iter().collect();
    best_first(&mut found);
    found.truncate(limit as usize);
    let shown: Vec<String> = shown(&query.text);
    Ok(found
        .into_iter()
        .filter_map(|(place, score)| {
            let (stored, title) = pool.passages.remove(&place)?;
            Some(Hit {
                snippet: snippet(&stored.text, &shown),
                key: stored.key,
                title,
                heading: stored.heading,
                page: stored.page,
                position: stored.position,
                offset: stored.offset,
                text: stored.text,
                score,
            })
        })
        .collect())
}

/// Of equal scores in the order of the places, so that every store answers the same.
fn best_first(found: &mut [(Place, f64)]) {
    found.sort_by(|(one, of_one), (other, of_other)| {
        let place = |place: &Place| (place.key.clone(), place.position);
        of_other
            .total_cmp(of_one)
            .then_with(|| place(one).cmp(&place(other)))
    });
}

/// What a snippet shows of the words that were typed.
fn shown(text: &str) -> Vec<String> {
    let trimmed = text
        .split(|c: char| c.is_whitespace() || c == '"')
        .map(|part| part.trim_matches(|c: char| !c.is_alphanumeric()));
    let telling = |part: &&str| !words(part).iter().all(Word::is_stop);
    trimmed.filter(telling).map(str::to_owned).collect()
}

/// Candidates, and where they are from.
struct Pool<'a> {
    catalogue: &'a Catalogue,
    collection: &'a Collection,
    asked: Search,
    /// With their documents' titles.
    passages: HashMap<Place, (Stored, String)>,
}

impl Pool<'_> {
    /// Keeps those whose documents are there as a whole, and answers their places.
    fn keep(&mut self, found: Vec<Stored>) -> Result<Vec<Option<Place>>> {
        let mut keys: Vec<&str> = found.iter().map(|stored| stored.key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        let current = self.catalogue.current(&keys)?;
        let current: HashMap<String, _> = keys
            .into_iter()
            .map(str::to_owned)
            .zip(current)
            .filter_map(|(key, current)| Some((key, current?)))
            .collect();
        let kept = found.into_iter().map(|stored| {
            let current = current.get(&stored.key)?;
            if current.version != stored.version {
                return None;
            }
            let place = Place {
                key: stored.key.clone(),
                position: stored.position,
            };
            let title = current.title.clone();
            self.passages.insert(place.clone(), (stored, title));
            Some(place)
        });
        Ok(kept.collect())
    }

    /// Those that have any of the phrases, the best first.
    fn by_words(&mut self, phrases: &[Vec<String>]) -> Result<Vec<(Place, f64)>> {
        let mut asked = String::new();
        for term in phrases.iter().flatten() {
            if asked.len() + term.len() < MOST_BYTES {
                asked.push_str(term);
                asked.push(' ');
            }
        }
        let found = self.collection.keywords(&asked, &["words"], &self.asked)?;
        let found: Vec<Stored> = found
            .iter()
            .map(|hit| Stored::new(&hit.item))
            .collect::<Result<_>>()?;
        let places = self.keep(found)?;
        let words: Vec<(Place, Vec<String>)> = places
            .into_iter()
            .flatten()
            .map(|place| {
                let words = self.passages[&place].0.words.clone();
                (place, words)
            })
            .collect();
        Ok(rank(phrases, words))
    }

    /// The nearest, the nearest first.
    fn by_vector(&mut self, vector: &[f32]) -> Result<Vec<(Place, f64)>> {
        let hits = self.collection.nearest(vector, &self.asked)?;
        let distances: Vec<f32> = hits.iter().map(|hit| hit.distance.unwrap_or(2.0)).collect();
        let found: Vec<Stored> = hits
            .iter()
            .map(|hit| Stored::new(&hit.item))
            .collect::<Result<_>>()?;
        let places = self.keep(found)?.into_iter().zip(distances);
        let mut ranked: Vec<(Place, f64)> = places
            .filter_map(|(place, distance)| {
                let rounded = (distance / NEAR).round() * NEAR;
                Some((place?, 1.0 - f64::from(rounded)))
            })
            .collect();
        best_first(&mut ranked);
        Ok(ranked)
    }

    /// Those at given places, in that order.
    fn places(&mut self, places: &[Place]) -> Result<Vec<(Place, f64)>> {
        let places = &places[..places.len().min(MOST_ALSO)];
        let keys: Vec<&str> = places.iter().map(|place| place.key.as_str()).collect();
        let current = self.catalogue.current(&keys)?;
        let ids: Vec<String> = places
            .iter()
            .zip(current)
            .filter_map(|(place, current)| Some(store::id(&current?.version, place.position)))
            .collect();
        let mut seen = std::collections::HashSet::new();
        let ids = ids.into_iter().filter(|id| seen.insert(id.clone()));
        let found: Vec<Stored> = self
            .collection
            .get(ids)?
            .iter()
            .flatten()
            .map(Stored::new)
            .collect::<Result<_>>()?;
        let kept = self.keep(found)?.into_iter().flatten();
        Ok((1_u32..)
            .zip(kept)
            .map(|(rank, place)| (place, 1.0 / (RANK + f64::from(rank))))
            .collect())
    }
}

/// Orders texts by the phrases that they have: those with all first, each by BM25, counted
/// among these texts.
fn rank(phrases: &[Vec<String>], texts: Vec<(Place, Vec<String>)>) -> Vec<(Place, f64)> {
    #[allow(
        clippy::cast_precision_loss,
        reason = "texts are a few hundred, of a few thousand words"
    )]
    let number = |count: usize| count as f64;
    let counts: Vec<Vec<usize>> = texts
        .iter()
        .map(|(_, words)| phrases.iter().map(|phrase| times(phrase, words)).collect())
        .collect();
    let all = number(texts.len());
    let words: usize = texts.iter().map(|(_, words)| words.len()).sum();
    let usual = number(words) / all.max(1.0);
    let rarity: Vec<f64> = (0..phrases.len())
        .map(|phrase| {
            let having = number(counts.iter().filter(|counts| counts[phrase] > 0).count());
            (1.0 + (all - having + 0.5) / (having + 0.5)).ln()
        })
        .collect();
    let most: f64 = rarity.iter().sum::<f64>() * (K1 + 1.0);
    let mut ranked = Vec::new();
    for ((place, words), counts) in texts.into_iter().zip(counts) {
        if counts.iter().all(|times| *times == 0) {
            continue;
        }
        let length = K1 * (1.0 - B + B * number(words.len()) / usual);
        let score: f64 = counts
            .iter()
            .zip(&rarity)
            .map(|(times, rarity)| {
                let times = number(*times);
                rarity * times * (K1 + 1.0) / (times + length)
            })
            .sum();
        // No sum of those that lack one reaches it.
        let whole = counts.iter().all(|times| *times > 0);
        ranked.push((place, if whole { score + most } else { score }));
    }
    best_first(&mut ranked);
    ranked
}

/// How often words follow each other in a text.
fn times(phrase: &[String], words: &[String]) -> usize {
    words
        .windows(phrase.len())
        .filter(|at| *at == phrase)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(query: &str, texts: &[&str]) -> Vec<u64> {
        let texts = texts.iter().zip(0..).map(|(text, position)| {
            let key = "k".to_owned();
            let words = text.split(' ').map(str::to_owned).collect();
            (Place { key, position }, words)
        });
        let found = rank(&phrases(query), texts.collect());
        found.into_iter().map(|(place, _)| place.position).collect()
    }

    #[test]
    fn all_words_come_before_some_and_rare_ones_before_common_ones() {
        let texts = [
            "bread bread bread bread",
            "rotor and bread and much that is said besides",
            "rotor",
            "oven",
            "bread",
        ];
        assert_eq!(ranked("rotor bread", &texts), [1, 2, 0, 4]);
        assert_eq!(ranked("oven", &texts), [3]);
        assert_eq!(ranked("absent", &texts), [0; 0]);
    }

    #[test]
    fn phrases_are_followed() {
        let texts = ["lost worker", "a worker lost . it", "worker . lost"];
        assert_eq!(ranked("\"worker lost\"", &texts), [1]);
        assert_eq!(ranked("worker-lost", &texts), [1]);
        assert_eq!(ranked("東京", &["東 京 都", "京 東"]), [0]);
    }

    #[test]
    fn equals_are_in_the_order_of_their_places() {
        assert_eq!(ranked("a", &["a x", "a y", "a z"]), [0, 1, 2]);
    }

    #[test]
    fn snippets_show_what_was_typed() {
        assert_eq!(shown("what is \"worker lost\"?"), ["worker", "lost"]);
    }
}
