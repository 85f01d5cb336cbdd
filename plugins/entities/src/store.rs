//! The graph, in openCypher that the embedded graph and Neo4j both run.
//!
//! ```text
//! (:Document {id, key, mark})-[:MENTIONS {text, times, passages}]->(:Entity {id, kind})
//! (:Entity)-[:RELATED {document, times}]->(:Entity)
//! ```
//! What belongs to a document is replaced in one transaction; an entity that no document
//! mentions any more goes with its last one.

use heyday_sdk::graph::{Connection, Transaction, Value};
use heyday_sdk::prelude::*;

use crate::extract::{Entity, Found, Kind, Relation};

/// Nodes that one statement deletes of all.
const CHUNK: u64 = 2_000;

/// Opens the graph.
pub fn open() -> Result<Connection> {
    Ok(Connection::open("knowledge")?)
}

/// Makes what keeps two writers from making one entity twice, before the first is there. The
/// embedded graph has one writer, and finds nodes by their `id` as it is.
fn prepare(graph: &Connection) -> Result<()> {
    if graph.dialect() != "neo4j" {
        return Ok(());
    }
    let some = graph.query("MATCH (d:Document) RETURN d.id AS id LIMIT 1", &[])?;
    if some.is_empty() {
        for label in ["Document", "Entity"] {
            constrain(graph, label)?;
        }
    }
    Ok(())
}

/// Makes ids of a label unique, where they are not.
///
/// # Errors
/// `conflict`, retryable, where another attempt makes the same at the same time. Neo4j ends
/// one of the two, and may leave the index behind that it had made for it: without its
/// constraint it would stand in the way of every further attempt. One that belongs to a
/// constraint is not dropped by itself. Whose index is dropped under it learns that a fault of
/// the server's, `internal`, has kept its constraint from being made.
pub fn constrain(graph: &Connection, label: &str) -> Result<()> {
    let name = format!("knowledge_{}", label.to_lowercase());
    let statement =
        format!("CREATE CONSTRAINT {name} IF NOT EXISTS FOR (n:{label}) REQUIRE n.id IS UNIQUE");
    match graph.execute(&statement, &[]) {
        Err(error) if error.is("invalid-statement") => {
            // Whatever comes of it, the next attempt looks again.
            let _ = graph.execute(&format!("DROP INDEX {name} IF EXISTS"), &[]);
            Err(Error::retryable("conflict", error.message))
        }
        Err(error) if error.is("internal") => Err(Error::retryable("conflict", error.message)),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

/// The id of a document's node: the embedded graph would take a number's digits for one.
fn node(key: &str) -> String {
    format!("document:{key}")
}

/// Puts what was found in a document into the place of what was there of it; answers
/// whether that was something else.
pub fn write(graph: &Connection, key: &str, found: &Found) -> Result<bool> {
    let mark = mark(found)?;
    let there = graph.query(
        "MATCH (d:Document {id: $id}) RETURN d.mark AS mark",
        &[("id", node(key).into())],
    )?;
    if let Some(row) = there.first()
        && row.get::<Option<String>>("mark")?.as_ref() == Some(&mark)
    {
        return Ok(false);
    }
    prepare(graph)?;
    let transaction = graph.begin()?;
    let before = take(&transaction, key)?;
    transaction.execute(
        "CREATE (:Document {id: $id, key: $key, mark: $mark})",
        &[
            ("id", node(key).into()),
            ("key", key.into()),
            ("mark", mark.into()),
        ],
    )?;
    // In the order of their ids, so that two writers wait for each other and never both.
    let entities = Value::of(&found.entities)?;
    transaction.execute(
        "UNWIND $entities AS entity MERGE (e:Entity {id: entity.id}) \
         ON CREATE SET e.kind = entity.kind",
        &[("entities", entities.clone())],
    )?;
    transaction.execute(
        "UNWIND $entities AS entity MATCH (d:Document {id: $id}), (e:Entity {id: entity.id}) \
         CREATE (d)-[:MENTIONS {text: entity.text, times: entity.times, \
         passages: entity.passages}]->(e)",
        &[("id", node(key).into()), ("entities", entities)],
    )?;
    transaction.execute(
        "UNWIND $relations AS relation MATCH (a:Entity {id: relation.one}), \
         (b:Entity {id: relation.other}) \
         CREATE (a)-[:RELATED {document: $key, times: relation.times}]->(b)",
        &[
            ("key", key.into()),
            ("relations", Value::of(&found.relations)?),
        ],
    )?;
    sweep(&transaction, before)?;
    transaction.commit()?;
    Ok(true)
}

/// Tells what was found apart from anything else that may be.
pub fn mark(found: &Found) -> Result<String> {
    let text = serde_json::to_string(&(&found.entities, &found.relations))?;
    // FNV-1a, 128 bits: a collision would need two versions of one document.
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in text.bytes() {
        hash ^= u128::from(byte);
        hash = hash.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    Ok(format!("{hash:032x}"))
}

/// Takes a document out; answers the ids of the entities that it mentioned.
///
/// It writes before it reads: on the embedded graph a transaction waits for the others at its
/// first write, and one that has read before cannot be committed after they wrote.
fn take(transaction: &Transaction, key: &str) -> Result<Vec<String>> {
    let id = [("id", node(key).into())];
    transaction.execute(
        "MATCH (:Document {id: $id})-[:MENTIONS]->(:Entity)-[r:RELATED {document: $key}]->() \
         DELETE r",
        &[("id", node(key).into()), ("key", key.into())],
    )?;
    let mentioned = transaction.query(
        "MATCH (:Document {id: $id})-[:MENTIONS]->(e:Entity) RETURN e.id AS id ORDER BY id",
        &id,
    )?;
    transaction.execute("MATCH (d:Document {id: $id}) DETACH DELETE d", &id)?;
    mentioned.iter().map(|row| Ok(row.get("id")?)).collect()
}

/// Removes those of these entities that nothing mentions.
fn sweep(transaction: &Transaction, ids: Vec<String>) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    transaction.execute(
        "UNWIND $ids AS gone MATCH (e:Entity {id: gone}) WHERE NOT (e)<-[:MENTIONS]-() \
         DETACH DELETE e",
        &[("ids", ids.into())],
    )?;
    Ok(())
}

/// Removes what belongs to a document.
pub fn forget(graph: &Connection, key: &str) -> Result<()> {
    let there = graph.query(
        "MATCH (d:Document {id: $id}) RETURN d.id AS id",
        &[("id", node(key).into())],
    )?;
    if there.is_empty() {
        return Ok(());
    }
    let transaction = graph.begin()?;
    let before = take(&transaction, key)?;
    sweep(&transaction, before)?;
    Ok(transaction.commit()?)
}

/// Removes everything.
pub fn clear(graph: &Connection) -> Result<()> {
    for label in ["Document", "Entity"] {
        let statement = format!("MATCH (n:{label}) WITH n LIMIT {CHUNK} DETACH DELETE n");
        while graph.execute(&statement, &[])?.nodes_deleted > 0 {}
    }
    Ok(())
}

/// What there is of a document, as it was found.
pub fn of(graph: &Connection, key: &str) -> Result<Found> {
    let entities = graph.query(
        "MATCH (:Document {id: $id})-[m:MENTIONS]->(e:Entity) \
         RETURN e.id AS id, e.kind AS kind, m.text AS text, m.times AS times, \
         m.passages AS passages ORDER BY id",
        &[("id", node(key).into())],
    )?;
    let relations = graph.query(
        "MATCH (:Document {id: $id})-[:MENTIONS]->(a:Entity)-[r:RELATED {document: $key}]->\
         (b:Entity) RETURN a.id AS one, b.id AS other, r.times AS times ORDER BY one, other",
        &[("id", node(key).into()), ("key", key.into())],
    )?;
    Ok(Found {
        entities: entities.parse::<Entity>()?,
        relations: relations.parse::<Relation>()?,
    })
}

/// An entity of the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Known {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// In how many documents it is mentioned.
    pub documents: u64,
}

/// Those of these ids that are mentioned, those in the fewest documents first.
pub fn known(graph: &Connection, ids: Vec<String>, limit: u32) -> Result<Vec<Known>> {
    let rows = graph.query(
        "UNWIND $ids AS asked MATCH (e:Entity {id: asked})<-[m:MENTIONS]-(:Document) \
         WITH e.id AS id, e.kind AS kind, count(m) AS documents \
         RETURN id, kind, documents ORDER BY documents, id LIMIT $limit",
        &[("ids", ids.into()), ("limit", i64::from(limit).into())],
    )?;
    Ok(rows.parse()?)
}

/// A document that mentions an entity.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Mention {
    /// The document.
    pub key: String,
    /// How often.
    pub times: u64,
    /// Where.
    pub passages: Vec<u64>,
}

/// The documents that mention an entity most.
pub fn mentions(graph: &Connection, id: &str, limit: u32) -> Result<Vec<Mention>> {
    let rows = graph.query(
        "MATCH (:Entity {id: $id})<-[m:MENTIONS]-(d:Document) \
         RETURN d.key AS key, m.times AS times, m.passages AS passages \
         ORDER BY times DESC, key LIMIT $limit",
        &[("id", id.into()), ("limit", i64::from(limit).into())],
    )?;
    Ok(rows.parse()?)
}

/// An entity that stands beside another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Neighbour {
    /// Its id.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// In how many passages.
    pub times: u64,
}

/// What most often stands beside an entity.
pub fn neighbours(graph: &Connection, id: &str, limit: u32) -> Result<Vec<Neighbour>> {
    let rows = graph.query(
        "MATCH (:Entity {id: $id})-[r:RELATED]-(e:Entity) \
         WITH e.id AS id, e.kind AS kind, sum(r.times) AS times \
         RETURN id, kind, times ORDER BY times DESC, id LIMIT $limit",
        &[("id", id.into()), ("limit", i64::from(limit).into())],
    )?;
    Ok(rows.parse()?)
}
