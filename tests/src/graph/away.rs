//! A Neo4j that stops, freezes, comes back, or does not let us in.

use std::time::{Duration, Instant};

use heyday_capabilities::ErrorCode as _;
use heyday_capabilities::Mode::ReadWrite;
use heyday_capabilities::graph::neo4j::{self, Neo4jConfig};
use heyday_capabilities::graph::{Graph, GraphCode, GraphError, GraphLimits};
use tokio::runtime::Handle;

use super::*;
use crate::support::certificates::{Authority, Files};
use crate::support::front::Front;
use crate::support::neo4j::{Neo4j, shared};
use crate::support::probe;
use crate::support::server::PATIENCE;

fn open(server: &Neo4j, limits: GraphLimits) -> Graph {
    open_config(&server.config(), limits)
}

fn open_config(config: &Neo4jConfig, limits: GraphLimits) -> Graph {
    neo4j::open(config, false, limits, Handle::current()).unwrap()
}

async fn ask(graph: &Graph, statement: &str) -> Result<usize, GraphError> {
    let asked = graph.query(ReadWrite, statement.to_owned(), "{}".to_owned());
    asked.await.map(|set| set.rows.len())
}

/// Asks until the server is there again: for a moment it is taken to be still away.
async fn ask_until_there(graph: &Graph, statement: &str) -> usize {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask(graph, statement).await {
            Ok(rows) => return rows,
            Err(error) => {
                assert!(error.code.retryable(), "{error}");
                assert!(Instant::now() < deadline, "{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neo4j_that_stops_is_waited_for_and_holds_up_nothing_else() {
    let Some(mut neo4j) = Neo4j::start(&[]) else {
        return;
    };
    let config = format!("[bindings.namespaces.default.graph.away]\n{}", neo4j.toml());
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let server = probe::server(options).await.unwrap();
    let client = &server.client;
    client.grant("probe", "graph", "away", None).await.unwrap();
    let create = on("away", "CREATE (:A) RETURN 1");
    assert_eq!(client.succeed("probe.graph_run", &create).await.unwrap(), 1);
    // In the middle of a transaction and of a statement.
    let graph = open(&neo4j, GraphLimits::default());
    ask(&graph, "CREATE (:Lock {x: 0})").await.unwrap();
    let mut transaction = graph.begin(ReadWrite).await.unwrap();
    let write = transaction.execute("CREATE (:B)".into(), "{}".into());
    write.await.unwrap();
    let waiting = tokio::spawn({
        let graph = graph.clone();
        async move { ask(&graph, LONG).await }
    });
    neo4j.kill();
    // It may have been asked before or after.
    if let Err(error) = waiting.await.unwrap() {
        assert_eq!(error.code, GraphCode::Unavailable, "{error}");
    }
    let error = transaction.commit().await.expect_err("the server is gone");
    assert_eq!(error.code, GraphCode::Unavailable, "{error}");
    let failure = client.fail("probe.graph_run", &create).await.unwrap();
    assert_eq!(failure["kind"], "unavailable", "{failure}");
    assert_eq!(failure["retryable"], true, "{failure}");
    let mut patient = Vec::new();
    // Not so many that the server could not start for their attempts.
    for _ in 0..5 {
        let started = client.start_activity("probe.graph_patient", &create).await;
        patient.push(started.unwrap());
    }
    // Others are served meanwhile, by the same queue.
    client.works().await;
    let here = on("default", "RETURN 1");
    client.succeed("probe.graph_run", &here).await.unwrap();
    neo4j.launch();
    for id in patient {
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(outcome.body["result"], 1, "{}", outcome.body);
    }
    let found = ask_until_there(&graph, "MATCH (a:A) RETURN a").await;
    assert_eq!(found, 6, "what was acknowledged is there");
    assert_eq!(ask(&graph, "MATCH (b:B) RETURN b").await, Ok(0));
    // Where it does not let the host in, nobody is told by what.
    std::fs::write(&neo4j.password_file, "not-the-password").unwrap();
    let error = ask(&open(&neo4j, GraphLimits::default()), "RETURN 1").await;
    let error = error.expect_err("a wrong password");
    assert_eq!(error.code, GraphCode::Unavailable, "{error}");
    assert!(error.message.contains("operator"), "{error}");
    assert!(
        !format!("{error:?}").contains("not-the-password"),
        "{error:?}"
    );
    let log = server.log();
    for secret in ["not-the-password", neo4j.password.as_str()] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_certificate_is_verified() {
    let Some(server) = shared().await else {
        return;
    };
    let (authority, other) = (Authority::new("neo4j"), Authority::new("other"));
    let (trusted, distrusted) = (Files::new(&authority), Files::new(&other));
    let behind = format!("127.0.0.1:{}", server.port);
    let front = Front::of_bytes(&behind, &authority.issue("server")).await;
    let through = |tls: bool, files: Option<&Files>| {
        let config = Neo4jConfig {
            url: format!("neo4j://neo4j@{}", front.address()),
            tls: Some(tls),
            tls_server_ca_cert_path: files.map(Files::ca),
            ..server.config()
        };
        open_config(&config, GraphLimits::default())
    };
    let graph = through(true, Some(&trusted));
    assert_eq!(ask(&graph, "UNWIND [1, 2] AS n RETURN n").await, Ok(2));
    for deceived in [
        through(true, Some(&distrusted)),
        through(true, None),
        through(false, None),
    ] {
        let error = ask(&deceived, "RETURN 1").await.expect_err("it is no one");
        assert_eq!(error.code, GraphCode::Unavailable, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neo4j_that_freezes_is_left() {
    let Some(neo4j) = shared().await else {
        return;
    };
    let limits = GraphLimits {
        statement_timeout_ms: 500,
        connections: 2,
        ..GraphLimits::default()
    };
    // On a busy machine its first answer may come too late. Then another pool is asked: this one is
    // to have one connection.
    let deadline = Instant::now() + PATIENCE;
    let graph = loop {
        let graph = open(&neo4j, limits.clone());
        match ask(&graph, "RETURN 1").await {
            Ok(rows) => {
                assert_eq!(rows, 1);
                break graph;
            }
            Err(error) => {
                assert!(error.code.retryable(), "{error}");
                assert!(Instant::now() < deadline, "{error}");
            }
        }
    };
    neo4j.freeze(true);
    // It would go on until it is let go on.
    let begun = Instant::now();
    let error = ask(&graph, "RETURN 1")
        .await
        .expect_err("it does not answer");
    assert_eq!(error.code, GraphCode::Timeout, "{error}");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    // No connection can be made either: the kernel takes it, and nobody answers.
    let error = ask(&graph, "RETURN 1")
        .await
        .expect_err("it does not answer");
    assert_eq!(error.code, GraphCode::Unavailable, "{error}");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    neo4j.freeze(false);
    assert_eq!(ask_until_there(&graph, "RETURN 1").await, 1);
}
