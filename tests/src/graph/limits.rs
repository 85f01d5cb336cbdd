//! Limits on time, rows and connections, on each backend.

use std::time::{Duration, Instant};

use heyday_capabilities::ErrorCode as _;
use heyday_capabilities::Mode::{ReadOnly, ReadWrite};
use heyday_capabilities::graph::{EngineCommand, Graph, GraphCode, GraphError, GraphLimits};
use heyday_capabilities::graph::{embedded, engine, neo4j as server};
use tokio::runtime::Handle;

use super::*;
use crate::support::binary;
use crate::support::neo4j::{self, Shared};
use crate::support::server::PATIENCE;

/// A graph on each backend, with what must live as long.
struct Graphs {
    graphs: Vec<Graph>,
    _folder: tempfile::TempDir,
    _neo4j: Option<Shared>,
}

impl Graphs {
    async fn new(limits: GraphLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let command = EngineCommand {
            program: binary(),
            args: vec![engine::COMMAND.into()],
        };
        let runtime = Handle::current;
        let here = embedded::open(folder.path(), false, limits.clone(), command, runtime());
        let mut graphs = vec![here.unwrap()];
        let neo4j = neo4j::shared().await;
        if let Some(neo4j) = &neo4j {
            graphs.push(server::open(&neo4j.config(), false, limits, runtime()).unwrap());
        }
        for graph in &graphs {
            settle(graph, "MATCH (n) DETACH DELETE n").await;
        }
        Self {
            graphs,
            _folder: folder,
            _neo4j: neo4j,
        }
    }
}

async fn ask(graph: &Graph, statement: &str) -> Result<usize, GraphError> {
    let asked = graph.query(ReadWrite, statement.to_owned(), "{}".to_owned());
    asked.await.map(|set| set.rows.len())
}

/// Does what may be done twice until it was in time: a cold server is slow, and so is one on a
/// busy machine.
async fn in_time<T>(what: &str, done: impl AsyncFn() -> Result<T, GraphError>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match done().await {
            Ok(done) => return done,
            Err(error) => {
                assert!(error.code.retryable(), "{what}: {error}");
                assert!(Instant::now() < deadline, "{what}: {error}");
            }
        }
    }
}

/// Runs a statement that may be run twice until it was in time; answers its rows' number.
async fn settle(graph: &Graph, statement: &str) -> usize {
    in_time(statement, async || ask(graph, statement).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_time_holds() {
    let limits = GraphLimits {
        statement_timeout_ms: 500,
        ..GraphLimits::default()
    };
    let all = Graphs::new(limits).await;
    for graph in &all.graphs {
        let dialect = graph.dialect();
        settle(graph, "UNWIND range(1, 200) AS i MERGE (:N {i: i})").await;
        settle(graph, "MERGE (:Lock {x: 0})").await;
        let pairs = "MATCH (a:N), (b:N) WHERE b.i = a.i + 1 OR b.i = a.i * 2 MERGE (a)-[:R]->(b)";
        settle(graph, pairs).await;
        for statement in [
            "MATCH (a:N), (b:N), (c:N), (d:N) WHERE a.i + b.i + c.i + d.i = 0 RETURN count(*)",
            "MATCH p = (a:N {i: 1})-[:R*1..60]-(b) RETURN count(p)",
            "UNWIND range(1, 3000) AS a UNWIND range(1, 3000) AS b UNWIND range(1, 3000) AS c \
             WITH a, b, c WHERE a * b * c = 0 RETURN count(*)",
            LONG,
        ] {
            let begun = Instant::now();
            let error = ask(graph, statement).await.expect_err(statement);
            let took = begun.elapsed();
            assert!(
                matches!(error.code, GraphCode::Timeout | GraphCode::LimitExceeded),
                "{dialect}: {statement}: {error}"
            );
            // Without the limit it would be hours.
            assert!(took < PATIENCE, "{dialect}: {statement}: {took:?}");
        }
        // Within a transaction it ends the transaction.
        let mut transaction = in_time("a transaction", async || {
            let mut transaction = graph.begin(ReadWrite).await?;
            let created = transaction.execute("CREATE (:T)".into(), "{}".into());
            created.await?;
            Ok::<_, GraphError>(transaction)
        })
        .await;
        let long = "MATCH (a:N), (b:N), (c:N), (d:N) WHERE a.i + b.i + c.i = 0 RETURN count(*)";
        let error = transaction
            .query(long.into(), "{}".into())
            .await
            .expect_err("long");
        assert_eq!(error.code, GraphCode::Timeout, "{dialect}: {error}");
        let error = transaction.commit().await.expect_err("it is over");
        assert_eq!(
            error.code,
            GraphCode::TransactionClosed,
            "{dialect}: {error}"
        );
        // A cursor tells it where it comes.
        let streamed = async {
            let mut cursor = graph.stream(long.into(), "{}".into()).await?;
            cursor.next(1).await
        };
        let error = streamed.await.expect_err("long");
        assert_eq!(error.code, GraphCode::Timeout, "{dialect}: {error}");
        // The graph is as good as before.
        assert_eq!(settle(graph, "MATCH (t:T) RETURN t").await, 0, "{dialect}");
        settle(graph, "MERGE (t:T) RETURN t").await;
        assert_eq!(settle(graph, "MATCH (t:T) RETURN t").await, 1, "{dialect}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_bytes_and_parameters_have_limits() {
    let limits = GraphLimits {
        result_rows: 10,
        result_bytes: 1_000,
        ..GraphLimits::default()
    };
    let all = Graphs::new(limits).await;
    for graph in &all.graphs {
        let dialect = graph.dialect();
        let limited = |outcome: Result<usize, GraphError>| {
            let code = outcome.map_err(|error| error.code);
            assert_eq!(code, Err(GraphCode::LimitExceeded), "{dialect}");
        };
        assert_eq!(
            ask(graph, "UNWIND range(1, 10) AS x RETURN x").await,
            Ok(10)
        );
        limited(ask(graph, "UNWIND range(1, 11) AS x RETURN x").await);
        limited(ask(graph, &format!("RETURN '{}' AS x", "x".repeat(1_000))).await);
        // A statement whose answer is too large did nothing.
        limited(ask(graph, "UNWIND range(1, 11) AS x CREATE (n:N) RETURN n").await);
        assert_eq!(ask(graph, "MATCH (n:N) RETURN n").await, Ok(0), "{dialect}");
        let params = format!("{{\"x\":\"{}\"}}", "x".repeat(1_000));
        let asked = graph.query(ReadOnly, "RETURN 1 AS x".into(), params).await;
        limited(asked.map(|set| set.rows.len()));
        // One row that no message may have ends the connection, and that is all.
        let huge = "UNWIND range(1, 200000) AS x RETURN collect('0123456789') AS x";
        limited(ask(graph, huge).await);
        assert_eq!(ask(graph, "RETURN 1 AS x").await, Ok(1), "{dialect}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_graph_fills_its_own_places_and_no_more_wait_than_there_are() {
    let limits = GraphLimits {
        connections: 1,
        ..GraphLimits::default()
    };
    let all = Graphs::new(limits).await;
    for graph in &all.graphs {
        let dialect = graph.dialect();
        let held = graph.begin(ReadWrite).await.unwrap();
        // Of two that come now one waits, and the other is sent away at once.
        let mut asked: Vec<_> = (0..2)
            .map(|_| {
                let graph = graph.clone();
                tokio::spawn(async move { ask(&graph, "RETURN 1 AS x").await })
            })
            .collect();
        let begun = Instant::now();
        while !asked.iter().any(tokio::task::JoinHandle::is_finished) {
            assert!(begun.elapsed() < Duration::from_secs(5), "{dialect}");
            tokio::task::yield_now().await;
        }
        let first = usize::from(asked[1].is_finished());
        let code = asked.remove(first).await.unwrap();
        let code = code.map_err(|error| error.code);
        assert_eq!(code, Err(GraphCode::Unavailable), "{dialect}");
        held.rollback().await.unwrap();
        let waited = asked.remove(0).await.unwrap();
        assert_eq!(waited, Ok(1), "{dialect}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_node_wait_and_lose_with_a_conflict() {
    let limits = GraphLimits {
        busy_timeout_ms: 300,
        ..GraphLimits::default()
    };
    let all = Graphs::new(limits).await;
    for graph in &all.graphs {
        let dialect = graph.dialect();
        ask(graph, "CREATE (:W {i: 1}), (:W {i: 2})").await.unwrap();
        let write = |i: u32| format!("MATCH (w:W {{i: {i}}}) SET w.x = 1 RETURN w");
        let mut first = graph.begin(ReadWrite).await.unwrap();
        first.query(write(1), "{}".into()).await.unwrap();
        // Readers are not held up.
        assert_eq!(ask(graph, "MATCH (w:W) RETURN w").await, Ok(2), "{dialect}");
        if dialect == "kglite" {
            let error = ask(graph, &write(2)).await.expect_err("one writes");
            assert_eq!(error.code, GraphCode::Conflict, "{dialect}: {error}");
            let mut second = graph.begin(ReadWrite).await.unwrap();
            let lost = second.query(write(2), "{}".into()).await;
            let error = lost.expect_err("one writes");
            assert_eq!(error.code, GraphCode::Conflict, "{dialect}: {error}");
        } else {
            // Each waits for what the other has.
            let mut second = graph.begin(ReadWrite).await.unwrap();
            second.query(write(2), "{}".into()).await.unwrap();
            let (one, two) = tokio::join!(
                first.query(write(2), "{}".into()),
                second.query(write(1), "{}".into())
            );
            let lost = match (one, two) {
                (Err(error), Ok(_)) | (Ok(_), Err(error)) => error,
                both => panic!("{both:?}"),
            };
            assert_eq!(lost.code, GraphCode::Conflict, "{dialect}: {lost}");
            drop(second);
        }
        drop(first);
        // Then there is room for the next.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = ask(graph, &write(1)).await {
            assert_eq!(error.code, GraphCode::Conflict, "{dialect}: {error}");
            assert!(Instant::now() < deadline, "{dialect}");
        }
    }
}
