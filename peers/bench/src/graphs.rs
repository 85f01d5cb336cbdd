//! The embedded graph against Neo4j, on the same graph: how long it takes to load it, to
//! find a node by its key, its neighbours, and how many are two steps away. Both are asked
//! the same statements, over the same protocol.

use std::time::Instant;

use anyhow::ensure;
use heyday_capabilities::Mode;
use heyday_capabilities::graph::{EngineCommand, Graph, GraphLimits, embedded, neo4j};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::clustered::Numbers;
use crate::report::{Figure, Report, Sides, Times, shown};
use crate::support;
use crate::support::neo4j::{Neo4j, Size as Server};

const SEED: u64 = 0x6eaf;
const PEER: &str = "Neo4j";
/// Memory that the embedded graph may take.
const MEMORY_BYTES: u64 = 3 << 30;
/// As one would run it for a graph of some gigabytes.
const SERVER: Server = Server {
    java: &["-Xms2g", "-Xmx2g"],
    cache: "1g",
};
/// Relationships by nodes.
const DEGREE: usize = 10;
/// Nodes, or relationships, of one statement.
const BATCH: usize = 10_000;

const INDEX: &str = "CREATE INDEX person_key IF NOT EXISTS FOR (p:Person) ON (p.key)";
const NODES: &str =
    "UNWIND $rows AS row CREATE (:Person {key: row, text: 'person ' + toString(row)})";
const RELATIONSHIPS: &str = "UNWIND $rows AS row MATCH (a:Person {key: row[0]}) \
     MATCH (b:Person {key: row[1]}) CREATE (a)-[:KNOWS]->(b)";

/// What is asked: the figure's name, and a statement with one row.
const QUERIES: [(&str, &str); 3] = [
    (
        "graph.node",
        "MATCH (p:Person {key: $n}) RETURN p.text AS text",
    ),
    (
        "graph.neighbours",
        "MATCH (p:Person {key: $n})-[:KNOWS]->(q:Person) \
         RETURN count(q) AS count, min(q.key) AS first, max(q.key) AS last",
    ),
    (
        "graph.two_steps",
        "MATCH (p:Person {key: $n})-[:KNOWS]->(:Person)-[:KNOWS]->(q:Person) \
         RETURN count(DISTINCT q) AS count",
    ),
];

/// How much.
struct Size {
    nodes: usize,
    turns: usize,
    /// Queries of one turn.
    turn: usize,
}

/// Measures all of it.
pub async fn run(report: &mut Report, quick: bool) -> anyhow::Result<()> {
    let size = if quick {
        Size {
            nodes: 1_000,
            turns: 2,
            turn: 5,
        }
    } else {
        Size {
            nodes: 100_000,
            turns: 20,
            turn: 50,
        }
    };
    let numbers = &mut Numbers::new(SEED);
    let relationships: Vec<_> = (0..size.nodes * DEGREE)
        .map(|number| [number % size.nodes, numbers.below(size.nodes)])
        .collect();
    println!(
        "{} nodes, {} relationships",
        size.nodes,
        relationships.len()
    );
    let folder = tempfile::tempdir()?;
    let limits = GraphLimits {
        memory_bytes: Some(MEMORY_BYTES),
        statement_timeout_ms: 300_000,
        ..GraphLimits::default()
    };
    let (path, command) = (folder.path().join("graph"), EngineCommand::own()?);
    let embedded = embedded::open(&path, false, limits.clone(), command, Handle::current())?;
    let mut graphs = vec![embedded];
    let server = support::started(PEER, || Neo4j::start_of(SERVER, &[]));
    if let Some(server) = &server {
        let limits = GraphLimits {
            memory_bytes: None,
            ..limits
        };
        graphs.push(neo4j::open(
            &server.config(),
            false,
            limits,
            Handle::current(),
        )?);
    }

    let mut loads = Vec::new();
    for graph in &graphs {
        let begun = Instant::now();
        load(graph, size.nodes, &relationships).await?;
        loads.push(begun.elapsed().as_secs_f64());
    }
    add(report, "graph.load", "s", &loads);
    for (name, statement) in QUERIES {
        measure(report, &graphs, name, statement, &size).await?;
    }
    for graph in &graphs {
        graph.close().await;
    }
    Ok(())
}

/// One query on all of them, in turns; they must answer the same.
async fn measure(
    report: &mut Report,
    graphs: &[Graph],
    name: &str,
    statement: &str,
    size: &Size,
) -> anyhow::Result<()> {
    let numbers = &mut Numbers::new(SEED ^ 1);
    let mut times = [Times::default(), Times::default()];
    let mut turns = Sides::default();
    // The first turn warms what plans and compiles.
    for number in 0..=size.turns {
        let asked: Vec<_> = (0..size.turn).map(|_| numbers.below(size.nodes)).collect();
        let mut turn = [Times::default(), Times::default()];
        let mut answers = Vec::new();
        for (place, graph) in graphs.iter().enumerate() {
            let mut answered = Vec::new();
            for key in &asked {
                let params = json!({ "n": key }).to_string();
                let begun = Instant::now();
                let rows = graph
                    .query(Mode::ReadOnly, statement.to_owned(), params)
                    .await;
                turn[place].push(begun.elapsed());
                answered.push(rows?.rows);
            }
            answers.push(answered);
        }
        ensure!(
            answers.iter().all(|it| *it == answers[0]),
            "{name}: unequal answers"
        );
        ensure!(
            answers[0].iter().all(|it| it.len() == 1),
            "{name}: not one row"
        );
        if number == 0 {
            continue;
        }
        let us = turn
            .each_mut()
            .map(|it| it.percentile(50.0).as_secs_f64() * 1e6);
        turns.push(us[0], us[1]);
        for (all, turn) in times.iter_mut().zip(turn) {
            all.extend(turn);
        }
    }
    let (value, peer) = turns.medians();
    let [mut ours, mut theirs] = times;
    if graphs.len() == 1 {
        add(report, name, "us", &[value]);
        println!("    ours {}", ours.text());
    } else {
        add(report, name, "us", &[value, peer]);
        println!(
            "    ours {}; {PEER} {}; {}",
            ours.text(),
            theirs.text(),
            turns.spread()
        );
    }
    Ok(())
}

fn add(report: &mut Report, name: &str, unit: &'static str, sides: &[f64]) {
    report.add(Figure {
        name: name.to_owned(),
        value: sides[0],
        unit,
        peer: sides.get(1).map(|&value| (PEER, value)),
        goal: None,
    });
}

async fn load(graph: &Graph, nodes: usize, relationships: &[[usize; 2]]) -> anyhow::Result<()> {
    let run = |statement: &str, params: Value| {
        graph.execute(Mode::ReadWrite, statement.to_owned(), params.to_string())
    };
    let begun = Instant::now();
    run(INDEX, json!({})).await?;
    let keys: Vec<_> = (0..nodes).collect();
    let mut made = 0;
    for some in keys.chunks(BATCH) {
        made += run(NODES, json!({ "rows": some })).await?.nodes_created;
    }
    ensure!(made == nodes as u64, "{made} nodes were made");
    let all_nodes = begun.elapsed();
    let mut made = 0;
    for some in relationships.chunks(BATCH) {
        made += run(RELATIONSHIPS, json!({ "rows": some }))
            .await?
            .relationships_created;
    }
    ensure!(
        made == relationships.len() as u64,
        "{made} relationships were made"
    );
    println!(
        "    {}: nodes in {}, all in {}",
        graph.dialect(),
        shown(all_nodes),
        shown(begun.elapsed())
    );
    Ok(())
}
