//! The embedded graph, its process included: this test program starts itself once more.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::*;
use crate::Mode::{ReadOnly, ReadWrite};

/// The process, as `heyday` starts it; run by the tests, not as one.
#[test]
#[ignore = "it is what the tests start"]
fn engine_process() {
    std::process::exit(engine::main().into());
}

fn command() -> EngineCommand {
    EngineCommand {
        program: std::env::current_exe().expect("this program"),
        args: [
            "graph::tests::engine_process",
            "--exact",
            "--ignored",
            "--nocapture",
        ]
        .map(Into::into)
        .into(),
    }
}

struct Opened {
    graph: Graph,
    folder: tempfile::TempDir,
}

fn opened(limits: GraphLimits) -> Opened {
    let folder = tempfile::tempdir().expect("a folder");
    let graph = open(folder.path(), false, limits);
    Opened { graph, folder }
}

fn open(folder: &std::path::Path, read_only: bool, limits: GraphLimits) -> Graph {
    embedded::open(folder, read_only, limits, command(), Handle::current()).expect("a folder")
}

impl Opened {
    async fn ask(&self, statement: &str) -> Result<RowSet, GraphError> {
        self.graph
            .query(ReadWrite, statement.to_owned(), "{}".to_owned())
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explore() {
    let it = opened(GraphLimits::default());
    for statement in [
        "CREATE (a:Person:Admin {name: 'Ada', age: 36})-[r:KNOWS {since: 1840}]->(b:Person {name: 'Bob'}) RETURN a, r, b",
        "CREATE (a:Book {id: 7, title: 'T', type: 'paper'}) RETURN a, a.id, a.title, a.type",
        "CREATE (a:Book {id: 7}) RETURN a",
        "MATCH p = (a:Person)-[:KNOWS]->(b) RETURN p, nodes(p), relationships(p), length(p)",
        "MATCH (b:Person)<-[:KNOWS]-(a) RETURN b.name, a.name AS who, 1 AS z, 2 AS a",
        "MATCH (n:Person) RETURN n.missing, properties(n), keys(n), labels(n), n {.*}, n.title, n.id, n.type",
        "MATCH (n) RETURN count(n), collect(n.name), min(n.age), avg(n.age)",
        "RETURN date('2026-11-24') AS d, datetime('2026-11-24T13:37:00+01:00') AS dt, localdatetime('2026-11-24T13:37:00') AS l, time('13:37:00Z') AS t, localtime('13:37:00.5') AS lt, duration('P1M2DT3.5S') AS du, point({longitude: 1.5, latitude: 2.5}) AS p",
        "RETURN 1/0 AS x",
        "RETURN 1.0/0 AS x, 3 / 2 AS i, 7 % 3 AS m, 2 ^ 3 AS e, 1 + 2.0 AS f",
        "RETURN toInteger('x'), toString(1), toFloat('1.5'), size('abc'), split('a,b', ','), range(1, 3), [x IN [1,2,3] WHERE x > 1 | x * 2], reduce(a = 0, x IN [1,2] | a + x), CASE WHEN true THEN 1 ELSE 2 END, coalesce(null, 1)",
        "RETURN $missing AS x",
        "RETURN x",
        "MATCH (n RETURN n",
        "MATCH (n:Nothing) RETURN n",
        "MATCH (n:Person) WHERE n.name STARTS WITH 'A' AND n.age IN [36] SET n.age = 37, n:Seen REMOVE n:Admin RETURN n",
        "MERGE (n:Person {name: 'Ada'}) ON CREATE SET n.x = 1 ON MATCH SET n.y = 2 RETURN n",
        "MATCH (n:Person {name: 'Bob'}) DELETE n",
        "MATCH (n:Person {name: 'Bob'}) DETACH DELETE n",
        "CREATE CONSTRAINT c FOR (n:U) REQUIRE n.k IS UNIQUE",
        "CREATE (:U {k: 1})",
        "CREATE (:U {k: 1})",
        "CREATE INDEX i FOR (n:U) ON (n.z)",
        "CREATE FULLTEXT INDEX f FOR (n:Person) ON EACH [n.name]",
        "CALL db.index.fulltext.queryNodes('f', 'ada') YIELD node, score RETURN node.name, score",
        "CREATE VECTOR INDEX v FOR (n:Doc) ON (n.emb) OPTIONS {indexConfig: {`vector.dimensions`: 2, `vector.similarity_function`: 'cosine'}}",
        "CREATE (:Doc {emb: [1.0, 0.0]}), (:Doc {emb: [0.0, 1.0]})",
        "CALL db.index.vector.queryNodes('v', 1, [1.0, 0.1]) YIELD node, score RETURN node, score",
        "CALL db.labels() YIELD label RETURN label",
        "UNWIND [1, 2, null] AS x RETURN x ORDER BY x DESC SKIP 1 LIMIT 2",
        "MATCH (a:Person) OPTIONAL MATCH (a)-[:NONE]->(b) RETURN a.name, b",
        "RETURN 1 AS x UNION RETURN 2 AS x",
        "CALL { RETURN 1 AS x } RETURN x",
        "MATCH (a:Person) RETURN EXISTS { (a)-[:KNOWS]->() } AS e, COUNT { (a)--() } AS c",
        "MATCH p = shortestPath((a:Person)-[*..3]-(b:Person)) RETURN p",
        "CREATE (n {name: 'nolabel'}) RETURN n",
        "FOREACH (x IN [1, 2] | CREATE (:F {x: x}))",
        "MATCH (f:F) RETURN elementId(f), id(f), f",
        "CREATE (:T {updated_at: 1, created: date('2026-01-01'), l: [1,2], m: [date('2026-01-01')]}) ",
        "MATCH (t:T) RETURN t, t.updated_at, t.l",
        "CREATE (:T {m: {a: 1}})",
        "MATCH ()-[r]->() RETURN type(r), r, startNode(r), endNode(r)",
        "RETURN 'a' =~ 'a+' AS m, true XOR false AS b, null = null AS n, [1,2][0] AS i, {a: 1}.a AS k",
    ] {
        println!("{statement}\n   {:?}", it.ask(statement).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explore_hostile() {
    let limits = GraphLimits {
        statement_timeout_ms: 3_000,
        memory_bytes: Some(256 << 20),
        ..GraphLimits::default()
    };
    let it = opened(limits);
    it.ask("UNWIND range(1, 300) AS x CREATE (:N {x: x})")
        .await
        .unwrap();
    it.ask("MATCH (a:N), (b:N) WHERE b.x = a.x + 1 OR b.x = a.x * 2 CREATE (a)-[:R]->(b)")
        .await
        .unwrap();
    let mut doubling = "WITH 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' AS s ".to_owned();
    for _ in 0..40 {
        doubling.push_str("WITH s + s AS s ");
    }
    doubling.push_str("RETURN size(s)");
    let deep = format!("RETURN {}1{} AS x", "(".repeat(190), ")".repeat(190));
    let nots = format!("RETURN {} true AS x", "NOT ".repeat(20_000));
    let plus = format!("RETURN 1{} AS x", "+1".repeat(50_000));
    let list = format!("RETURN {}{} AS x", "[".repeat(199), "]".repeat(199));
    for statement in [
        "MATCH (a:N), (b:N), (c:N), (d:N) RETURN count(*)",
        "MATCH p = (a:N)-[*]-(b:N) RETURN count(p)",
        "UNWIND range(1, 1000000000) AS x RETURN count(x)",
        "UNWIND range(1, 100000000) AS x UNWIND range(1, 1000) AS y RETURN sum(x*y)",
        "RETURN range(1, 1000000000) AS x",
        "UNWIND range(1, 9000000) AS x RETURN collect(toString(x) + 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa')",
        "RETURN reduce(s = 'a', x IN range(1, 60) | s + s) AS s",
        "UNWIND range(1, 5000000) AS x CREATE (:Big {x: x, s: toString(x)})",
        &doubling,
        &deep,
        &nots,
        &plus,
        &list,
        "MATCH p = allShortestPaths((a:N {x: 1})-[*]-(b:N {x: 300})) RETURN count(p)",
        "RETURN 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!' =~ '(a*)*b' AS x",
        "RETURN 1 AS ok",
    ] {
        let begun = Instant::now();
        let answer = it.ask(statement).await;
        let short: String = statement.chars().take(70).collect();
        println!(
            "{:?} {short}\n   {:?}",
            begun.elapsed(),
            answer.map(|set| set.rows.len())
        );
    }
}
