//! Names, dates and terms of a text, without a model, and always the same of the same text.
//!
//! A *name* is a run of up to four words with capitals that somewhere does not only begin a
//! sentence; a *date* is what [`dates`](crate::dates) knows; a *term* is a word or a pair of
//! words that says something and comes often. Two that stand in one passage are *together*.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use heyday_sdk::prelude::*;
use passages::Passage;
use passages::words::{Word, words};

use crate::dates;

/// Of each kind in one document, at most: the most frequent. An embedded graph is in memory,
/// and copied by each transaction that writes.
const MOST_NAMES: usize = 24;
const MOST_DATES: usize = 8;
const MOST_TERMS: usize = 12;
/// Pairs of one document, at most: those that are together in most passages.
const MOST_RELATIONS: usize = 48;
/// Passages that an entity names, at most: the first.
const MOST_PLACES: usize = 32;
/// Words of a name, at most.
pub const LONGEST_NAME: usize = 4;
/// How often a word or a pair comes at least that is a term.
const OFTEN: u64 = 3;
const OFTEN_PAIR: u64 = 2;
/// Letters of a word of a term, at least.
const SHORTEST: usize = 3;

/// What kind of entity it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A name: of a person, a place, a product.
    Name,
    /// A day, or a month.
    Date,
    /// A word or two that the document is about.
    Term,
}

impl Kind {
    /// The id of an entity.
    pub fn id(self, what: &str) -> String {
        let kind = match self {
            Self::Name => "name",
            Self::Date => "date",
            Self::Term => "term",
        };
        format!("{kind}:{what}")
    }
}

/// What a document mentions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entity {
    /// The same for all ways to write it: `name:ada lovelace`, `date:2026-11-24`.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// How the document writes it most often.
    pub text: String,
    /// How often it is mentioned.
    pub times: u64,
    /// Positions of the passages that mention it, in order; the first 32.
    pub passages: Vec<u64>,
}

/// Two entities that stand together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Relation {
    /// The one whose id comes first.
    pub one: String,
    /// The other.
    pub other: String,
    /// In how many passages they stand together.
    pub times: u64,
}

/// What was found in a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// In the order of their ids.
    pub entities: Vec<Entity>,
    /// In the order of the ids.
    pub relations: Vec<Relation>,
}

/// How often a thing is mentioned, where, and how it is written.
#[derive(Debug, Default)]
struct Mentions {
    times: u64,
    passages: BTreeSet<u64>,
    spellings: BTreeMap<String, u64>,
    /// Whether its capitals say something somewhere.
    sure: bool,
}

impl Mentions {
    fn spelling(&self) -> String {
        // Of equals the first in their order.
        let most = self
            .spellings
            .iter()
            .max_by(|one, other| one.1.cmp(other.1).then(other.0.cmp(one.0)));
        most.map(|(text, _)| text.clone()).unwrap_or_default()
    }
}

/// Finds entities in passages that come in their order.
#[derive(Debug, Default)]
pub struct Extractor {
    found: HashMap<(Kind, String), Mentions>,
}

impl Extractor {
    /// Reads a passage.
    pub fn read(&mut self, passage: &Passage) {
        let text = passage.text.as_str();
        let words = words(text);
        let mut at = 0;
        while at < words.len() {
            if let Some((date, length)) = dates::date(text, &words[at..]) {
                let spelling = &text[words[at].start..words[at + length - 1].end];
                self.add(Kind::Date, date, passage.position, spelling, true);
                at += length;
            } else {
                at += self.name(text, &words, at, passage.position).max(1);
            }
        }
        self.terms(text, &words, passage.position);
    }

    fn add(&mut self, kind: Kind, what: String, passage: u64, spelling: &str, sure: bool) {
        let mentions = self.found.entry((kind, what)).or_default();
        mentions.times += 1;
        mentions.passages.insert(passage);
        *mentions.spellings.entry(spelling.to_owned()).or_default() += 1;
        mentions.sure |= sure;
    }

    /// Reads a name that begins at a word, if one does; answers its words.
    fn name(&mut self, text: &str, words: &[Word], at: usize, passage: u64) -> usize {
        let written = |word: &Word| &text[word.start..word.end];
        let mut end = at;
        while let Some(word) = words.get(end) {
            let follows = end == at || &text[words[end - 1].end..word.start] == " ";
            if !follows || !written(word).starts_with(char::is_uppercase) {
                break;
            }
            end += 1;
        }
        let run = &words[at..end];
        let mut name = run;
        while name.first().is_some_and(Word::is_stop) {
            name = &name[1..];
        }
        while name.last().is_some_and(Word::is_stop) {
            name = &name[..name.len() - 1];
        }
        let ([first, ..], [.., last]) = (name, name) else {
            return run.len();
        };
        let alone = name.len() == 1;
        let nobody = dates::is_calendar(&first.folded) || first.folded.chars().count() < 2;
        // Longer runs are headings.
        if run.len() > LONGEST_NAME || (alone && nobody) {
            return run.len();
        }
        // "In Oslo" tells more than "Oslo" at the begin of a sentence.
        let begins = first.start == words[at].start && begins_sentence(text, &words[..=at]);
        let inner = |word: &Word| written(word).chars().skip(1).any(char::is_uppercase);
        let sure = !begins || !alone || inner(first);
        let folded: Vec<&str> = name.iter().map(|word| word.folded.as_str()).collect();
        let spelling = &text[first.start..last.end];
        self.add(Kind::Name, folded.join(" "), passage, spelling, sure);
        run.len()
    }

    fn terms(&mut self, text: &str, words: &[Word], passage: u64) {
        let telling = |word: &Word| {
            !word.is_stop()
                && word.folded.len() >= SHORTEST
                && word.folded.bytes().all(|byte| byte.is_ascii_alphabetic())
        };
        for (index, word) in words.iter().enumerate() {
            if !telling(word) {
                continue;
            }
            self.add(Kind::Term, word.term(), passage, &word.folded, true);
            let Some(next) = words.get(index + 1) else {
                continue;
            };
            if telling(next) && &text[word.end..next.start] == " " {
                let pair = format!("{} {}", word.term(), next.term());
                let spelling = format!("{} {}", word.folded, next.folded);
                self.add(Kind::Term, pair, passage, &spelling, true);
            }
        }
    }

    /// What was found.
    pub fn finish(self) -> Found {
        let names: BTreeSet<String> = self
            .found
            .iter()
            .filter(|((kind, _), mentions)| *kind == Kind::Name && mentions.sure)
            .flat_map(|((_, what), _)| what.split(' ').map(str::to_owned))
            .collect();
        let mut kinds: BTreeMap<Kind, Vec<(String, Mentions)>> = BTreeMap::new();
        for ((kind, what), mentions) in self.found {
            let kept = match kind {
                Kind::Name => mentions.sure,
                Kind::Date => true,
                Kind::Term if what.contains(' ') => mentions.times >= OFTEN_PAIR,
                // A name is not its term too.
                Kind::Term => mentions.times >= OFTEN && !names.contains(&mentions.spelling()),
            };
            if kept {
                kinds.entry(kind).or_default().push((what, mentions));
            }
        }
        let mut kept: BTreeMap<String, (Kind, Mentions)> = BTreeMap::new();
        for (kind, mut found) in kinds {
            let most = match kind {
                Kind::Name => MOST_NAMES,
                Kind::Date => MOST_DATES,
                Kind::Term => MOST_TERMS,
            };
            // A pair tells more than a word.
            let worth = |(what, mentions): &(String, Mentions)| {
                mentions.times * if what.contains(' ') { 2 } else { 1 }
            };
            found.sort_by(|one, other| worth(other).cmp(&worth(one)).then(one.0.cmp(&other.0)));
            found.truncate(most);
            kept.extend(
                found
                    .into_iter()
                    .map(|(what, mentions)| (kind.id(&what), (kind, mentions))),
            );
        }
        Found {
            relations: relations(&kept),
            entities: kept
                .into_iter()
                .map(|(id, (kind, mentions))| Entity {
                    id,
                    kind,
                    text: mentions.spelling(),
                    times: mentions.times,
                    passages: mentions.passages.into_iter().take(MOST_PLACES).collect(),
                })
                .collect(),
        }
    }
}

/// The pairs that are together in most passages.
fn relations(entities: &BTreeMap<String, (Kind, Mentions)>) -> Vec<Relation> {
    let entities: Vec<_> = entities.iter().collect();
    let mut relations = Vec::new();
    for (index, (one, (_, of_one))) in entities.iter().enumerate() {
        for (other, (_, of_other)) in &entities[index + 1..] {
            let times = of_one.passages.intersection(&of_other.passages).count() as u64;
            if times > 0 {
                relations.push(Relation {
                    one: (*one).clone(),
                    other: (*other).clone(),
                    times,
                });
            }
        }
    }
    relations.sort_by(|one, other| other.times.cmp(&one.times).then_with(|| one.cmp(other)));
    relations.truncate(MOST_RELATIONS);
    relations.sort();
    relations
}

/// Whether the last of these words is the first of a sentence, a line or an item.
fn begins_sentence(text: &str, words: &[Word]) -> bool {
    let [.., before, word] = words else {
        return true;
    };
    let between = &text[before.end..word.start];
    between.contains(['.', '!', '?', ':', '\n', '|', '*', '"', '(', '#'])
}

/// The ids of what a question may mention: each run of its words as a name, each word and
/// pair as a term, and its dates.
pub fn asked(text: &str) -> Vec<String> {
    let words = words(text);
    let mut ids = BTreeSet::new();
    for at in 0..words.len() {
        if let Some((date, _)) = dates::date(text, &words[at..]) {
            ids.insert(Kind::Date.id(&date));
        }
        for end in at + 1..=(at + LONGEST_NAME).min(words.len()) {
            let run = &words[at..end];
            if run[0].is_stop() || run[run.len() - 1].is_stop() {
                continue;
            }
            let folded: Vec<&str> = run.iter().map(|word| word.folded.as_str()).collect();
            ids.insert(Kind::Name.id(&folded.join(" ")));
            if run.len() <= 2 {
                let terms: Vec<String> = run.iter().map(Word::term).collect();
                ids.insert(Kind::Term.id(&terms.join(" ")));
            }
        }
    }
    ids.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(texts: &[&str]) -> Found {
        let mut extractor = Extractor::default();
        for (text, position) in texts.iter().zip(0..) {
            extractor.read(&Passage {
                position,
                offset: 0,
                page: None,
                heading: None,
                text: (*text).to_owned(),
            });
        }
        extractor.finish()
    }

    fn ids(found: &Found) -> Vec<&str> {
        found.entities.iter().map(|it| it.id.as_str()).collect()
    }

    #[test]
    fn names_are_told_from_first_words() {
        let found = found(&[
            "Yesterday the engine of Charles Babbage ran. Nobody saw Ada Lovelace.",
            "Then came PostgreSQL. In Oslo it rained. Oslo is wet. The Monday after was dry.",
        ]);
        assert_eq!(
            ids(&found),
            [
                "name:ada lovelace",
                "name:charles babbage",
                "name:oslo",
                "name:postgresql"
            ]
        );
        let oslo = &found.entities[2];
        assert_eq!((oslo.times, oslo.passages.as_slice()), (2, &[1][..]));
        assert_eq!(oslo.text, "Oslo");
    }

    #[test]
    fn terms_come_often_and_together_is_one_passage() {
        let found = found(&[
            "a rotor balance on 2026-11-24, and the rotor balances",
            "the rotor turns near Bergen",
        ]);
        assert_eq!(
            ids(&found),
            [
                "date:2026-11-24",
                "name:bergen",
                "term:rotor",
                "term:rotor balanc"
            ]
        );
        let relation = |one: &str, other: &str, times| Relation {
            one: one.to_owned(),
            other: other.to_owned(),
            times,
        };
        assert_eq!(
            found.relations,
            [
                relation("date:2026-11-24", "term:rotor", 1),
                relation("date:2026-11-24", "term:rotor balanc", 1),
                relation("name:bergen", "term:rotor", 1),
                relation("term:rotor", "term:rotor balanc", 1),
            ]
        );
        let term = found.entities.last().unwrap();
        assert_eq!((term.text.as_str(), term.times), ("rotor balance", 2));
    }

    #[test]
    fn a_question_may_mention_names_terms_and_dates() {
        let ids = asked("When did Ada Lovelace balance the rotors, on 24 November 2026?");
        for id in [
            "name:ada lovelace",
            "term:balanc",
            "term:rotor",
            "date:2026-11-24",
        ] {
            assert!(ids.iter().any(|found| found == id), "{id} in {ids:?}");
        }
        assert!(asked("?!").is_empty());
    }

    #[test]
    fn the_most_frequent_are_kept_always_alike() {
        let text: String = (0..100)
            .map(|n| format!("we met Zork{}{} there. ", n % 50, "x".repeat(n % 7)))
            .collect();
        let (one, other) = (found(&[&text]), found(&[&text]));
        assert_eq!(one, other);
        assert!(one.entities.len() <= MOST_NAMES + MOST_TERMS);
        assert!(one.relations.len() <= MOST_RELATIONS);
    }
}
