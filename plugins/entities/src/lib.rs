//! Entities of documents and their relations, in a graph: names, dates and terms, which
//! stand together where one passage has both. No model is needed ([`extract`] says how they
//! are told).
//!
//! `link` reads a document's passages and writes what it mentions, `forget` takes documents
//! out, `reset` all; `of` lists what a document mentions, and `related` answers which
//! passages have to do with a question, by the entities in it and by those beside them.
//!
//! Start reading at [`link`], and at [`related`] for what is asked.

mod dates;
mod extract;
mod store;

use std::collections::BTreeMap;

use heyday_sdk::prelude::*;

pub use extract::{Entity, Kind, Relation};
pub use store::{Known, Neighbour};

/// Passages of a document that are read, at most: a book says in them what it is about.
const MOST_PASSAGES: usize = 2_000;

/// Keys in one call, at most.
const MOST_KEYS: usize = 1_000;

/// Entities of a question that are followed: those in the fewest documents.
const MOST_ASKED: u32 = 8;
/// Entities beside those that are followed too, and what they count.
const MOST_BESIDE: usize = 4;
const BESIDE: f64 = 0.25;
/// Documents of one entity that are looked at.
const MOST_DOCUMENTS: u32 = 50;

/// A document to read.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Document {
    /// Its key.
    pub key: String,
    /// Where its passages lie in the binding `work`, JSON Lines.
    pub passages_key: String,
}

/// What was written.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Linked {
    /// Entities that the document mentions.
    pub entities: u64,
    /// Pairs of them that stand together.
    pub relations: u64,
    /// Whether something else was there before.
    pub changed: bool,
}

/// Documents.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Keys {
    /// Their keys; at most 1,000.
    pub keys: Vec<String>,
}

/// A document.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Key {
    /// Its key.
    pub key: String,
}

/// What a document mentions.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Mentioned {
    /// In the order of their ids.
    pub entities: Vec<Entity>,
    /// In the order of the ids.
    pub relations: Vec<Relation>,
}

/// A question.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Question {
    /// Its text.
    pub text: String,
    /// Most passages in the answer: 1 to 200; 20 where absent.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// What has to do with a question.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Related {
    /// Entities in the question, those in the fewest documents first.
    pub entities: Vec<Known>,
    /// Entities that stand beside them.
    pub beside: Vec<Neighbour>,
    /// The passages that mention them, the best first.
    pub passages: Vec<Place>,
}

/// Where a passage is.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Place {
    /// Its document.
    pub key: String,
    /// Its position among the document's passages, from 0.
    pub position: u64,
    /// How much it has to do with the question.
    pub weight: f64,
}

/// Writes what a document mentions, in place of what it did. The same again changes nothing.
#[activity(
    queue = "storage-queue",
    start_to_close = "10m",
    retry(
        initial_interval = "200ms",
        maximum_interval = "10s",
        maximum_attempts = 12
    )
)]
pub fn link(input: Document) -> Result<Linked> {
    let work = blob::Container::open("work")?;
    let mut extractor = extract::Extractor::default();
    for passage in passages::read(&work, &input.passages_key)?.take(MOST_PASSAGES) {
        extractor.read(&passage?);
    }
    let found = extractor.finish();
    let changed = store::write(&store::open()?, &input.key, &found).map_err(full)?;
    Ok(Linked {
        entities: found.entities.len() as u64,
        relations: found.relations.len() as u64,
        changed,
    })
}

/// Takes documents out of the graph.
#[activity(
    queue = "storage-queue",
    start_to_close = "30m",
    retry(
        initial_interval = "200ms",
        maximum_interval = "10s",
        maximum_attempts = 12
    )
)]
pub fn forget(input: Keys) -> Result<()> {
    if input.keys.len() > MOST_KEYS {
        let message = format!("at most {MOST_KEYS} keys at once, not {}", input.keys.len());
        return Err(Error::new("invalid-input", message));
    }
    let graph = store::open()?;
    for key in &input.keys {
        store::forget(&graph, key).map_err(full)?;
    }
    Ok(())
}

/// Says what is to be done where a graph takes no more.
fn full(error: Error) -> Error {
    if error.kind() != "limit-exceeded" {
        return error;
    }
    error.context(
        "the graph does not take this document: raise the limits of its binding `knowledge` \
         (`memory_bytes` where it is full), or bind it to a Neo4j, and run the flow \
         knowledge.sync, which tries the document again",
    )
}

/// Takes all documents and entities out of the graph.
#[activity(queue = "storage-queue", start_to_close = "30m")]
pub fn reset() -> Result<()> {
    store::clear(&store::open()?)
}

/// Lists what a document mentions.
#[activity(queue = "general-queue", start_to_close = "1m")]
pub fn of(input: Key) -> Result<Mentioned> {
    let found = store::of(&store::open()?, &input.key)?;
    Ok(Mentioned {
        entities: found.entities,
        relations: found.relations,
    })
}

/// Finds passages that have to do with a question.
#[activity(queue = "general-queue", start_to_close = "1m")]
pub fn related(input: Question) -> Result<Related> {
    let limit = input.limit.unwrap_or(20);
    if !(1..=200).contains(&limit) {
        let message = format!("limit is 1 to 200, not {limit}");
        return Err(Error::new("invalid-input", message));
    }
    let graph = store::open()?;
    let entities = store::known(&graph, extract::asked(&input.text), MOST_ASKED)?;
    let mut weights: BTreeMap<(String, u64), f64> = BTreeMap::new();
    let mut beside: BTreeMap<String, Neighbour> = BTreeMap::new();
    for entity in &entities {
        let weight = rarity(entity.documents);
        add(&graph, &mut weights, &entity.id, weight)?;
        for found in store::neighbours(&graph, &entity.id, 2 * MOST_ASKED)? {
            if entities.iter().all(|known| known.id != found.id) {
                beside
                    .entry(found.id.clone())
                    .and_modify(|known| known.times += found.times)
                    .or_insert(found);
            }
        }
    }
    let mut beside: Vec<Neighbour> = beside.into_values().collect();
    beside.sort_by(|one, other| other.times.cmp(&one.times).then(one.id.cmp(&other.id)));
    beside.truncate(MOST_BESIDE);
    for found in &beside {
        add(&graph, &mut weights, &found.id, BESIDE)?;
    }
    let mut passages: Vec<Place> = weights
        .into_iter()
        .map(|((key, position), weight)| Place {
            key,
            position,
            weight,
        })
        .collect();
    // Stable, so that equals stay in the order of their places.
    passages.sort_by(|one, other| other.weight.total_cmp(&one.weight));
    passages.truncate(limit as usize);
    Ok(Related {
        entities,
        beside,
        passages,
    })
}

/// What an entity counts that so many documents mention.
fn rarity(documents: u64) -> f64 {
    let documents = u32::try_from(documents).unwrap_or(u32::MAX).max(1);
    1.0 / (1.0 + f64::from(documents).ln())
}

fn add(
    graph: &graph::Connection,
    weights: &mut BTreeMap<(String, u64), f64>,
    id: &str,
    weight: f64,
) -> Result<()> {
    for mention in store::mentions(graph, id, MOST_DOCUMENTS)? {
        for position in mention.passages {
            *weights.entry((mention.key.clone(), position)).or_default() += weight;
        }
    }
    Ok(())
}

heyday_sdk::plugin!();

#[cfg(test)]
mod tests {
    use heyday_sdk::graph::{Changes, Rows, Value};
    use heyday_sdk::test::Context;

    use super::*;

    const PASSAGES: &str = "{\"position\":0,\"offset\":0,\"text\":\"We saw Ada in Oslo.\"}\n";

    fn link_with(mark: Option<String>) -> (Result<Linked>, Vec<String>) {
        let test = Context::new()
            .blob("work", [("p", PASSAGES)])
            .graph("knowledge", move |statement, _| {
                if statement.contains("d.mark") {
                    let rows = mark.iter().map(|mark| vec![Value::from(mark.as_str())]);
                    return Ok(Rows::new(["mark"], rows).into());
                }
                if statement.contains("RETURN") {
                    return Ok(Rows::new(["id"], [vec!["name:gone".into()]]).into());
                }
                Ok(Changes::default().into())
            })
            .enter();
        let linked = link(Document {
            key: "a.txt".to_owned(),
            passages_key: "p".to_owned(),
        });
        (linked, test.graph_statements("knowledge"))
    }

    #[test]
    fn a_document_is_replaced_in_one_transaction() {
        let (linked, statements) = link_with(Some("another".to_owned()));
        let linked = linked.unwrap();
        assert_eq!(
            (linked.entities, linked.relations, linked.changed),
            (2, 1, true)
        );
        let of = |part: &str| statements.iter().position(|it| it.contains(part));
        assert!(of("BEGIN") < of("DETACH DELETE d") && of("MERGE") < of("CREATE (a)-[:RELATED"));
        assert!(of("DETACH DELETE e") < of("COMMIT") && of("COMMIT").is_some());
        // Had it read before it waits for those that write, it would lose to each of them.
        assert_eq!(of("BEGIN").map(|at| at + 1), of("DELETE r"));
    }

    #[test]
    fn a_full_graph_says_what_is_to_be_done() {
        let failing = |code: &'static str| {
            let _test = Context::new()
                .blob("work", [("p", PASSAGES)])
                .graph("knowledge", move |statement, _| {
                    if statement.contains("RETURN") {
                        return Ok(Rows::new(["id"], []).into());
                    }
                    if statement.contains("MERGE") {
                        return Err(heyday_sdk::CapabilityError::new(code, "it ended"));
                    }
                    Ok(Changes::default().into())
                })
                .enter();
            let document = Document {
                key: "a.txt".to_owned(),
                passages_key: "p".to_owned(),
            };
            link(document).unwrap_err()
        };
        let error = failing("limit-exceeded");
        assert_eq!(error.kind(), "limit-exceeded");
        for part in ["`memory_bytes`", "knowledge.sync", "it ended"] {
            assert!(error.message().contains(part), "{error}");
        }
        let error = failing("internal");
        assert!(!error.message().contains("memory_bytes"), "{error}");
    }

    #[test]
    fn what_is_there_is_not_written_again() {
        let mut extractor = extract::Extractor::default();
        extractor.read(&serde_json::from_str(PASSAGES).unwrap());
        let found = extractor.finish();
        let (linked, statements) = link_with(Some(store::mark(&found).unwrap()));
        assert!(!linked.unwrap().changed);
        assert_eq!(statements.len(), 1);
    }

    #[test]
    fn who_is_second_to_make_a_constraint_tries_again() {
        let refused = |code: &'static str| {
            let test = Context::new()
                .graph("knowledge", move |statement, _| {
                    if statement.starts_with("DROP") {
                        return Ok(Changes::default().into());
                    }
                    Err(heyday_sdk::CapabilityError::new(
                        code,
                        "an index has that name",
                    ))
                })
                .enter();
            let error = store::constrain(&store::open().unwrap(), "Entity").unwrap_err();
            let dropped = test.graph_statements("knowledge").len() > 1;
            (error.kind().to_owned(), error.is_retryable(), dropped)
        };
        assert_eq!(
            refused("invalid-statement"),
            ("conflict".to_owned(), true, true)
        );
        // Another one has dropped the index of a constraint that was just being made.
        assert_eq!(refused("internal"), ("conflict".to_owned(), true, false));
        let denied = "capability-denied";
        assert_eq!(refused(denied), (denied.to_owned(), false, false));
    }

    #[test]
    fn bad_input_is_told() {
        let keys = vec![String::new(); MOST_KEYS + 1];
        assert_eq!(forget(Keys { keys }).unwrap_err().kind(), "invalid-input");
        let question = Question {
            text: "x".to_owned(),
            limit: Some(0),
        };
        assert_eq!(related(question).unwrap_err().kind(), "invalid-input");
    }

    #[test]
    fn passages_with_rare_entities_come_first() {
        let _test = Context::new()
            .graph("knowledge", |statement, params| {
                let row = |values: [Value; 3]| values.to_vec();
                if statement.starts_with("UNWIND") {
                    let rows = [
                        row(["name:ada".into(), "name".into(), 1.into()]),
                        row(["term:rotor".into(), "term".into(), 9.into()]),
                    ];
                    return Ok(Rows::new(["id", "kind", "documents"], rows).into());
                }
                if statement.contains("RELATED") {
                    let rows = [row(["name:bob".into(), "name".into(), 2.into()])];
                    return Ok(Rows::new(["id", "kind", "times"], rows).into());
                }
                let places: &[i64] = match &params["id"] {
                    Value::String(id) if id == "name:ada" => &[3],
                    Value::String(id) if id == "term:rotor" => &[1, 2],
                    _ => &[2],
                };
                let places = Value::List(places.iter().map(|n| Value::from(*n)).collect());
                let rows = [row(["a.txt".into(), 1.into(), places])];
                Ok(Rows::new(["key", "times", "passages"], rows).into())
            })
            .enter();
        let question = Question {
            text: "Ada's rotor".to_owned(),
            limit: None,
        };
        let found = related(question).unwrap();
        let positions: Vec<u64> = found.passages.iter().map(|place| place.position).collect();
        assert_eq!(positions, [3, 2, 1]);
        assert_eq!(found.beside[0].id, "name:bob");
    }
}
