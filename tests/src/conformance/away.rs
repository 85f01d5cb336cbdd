//! A cluster that is away.

use std::time::{Duration, Instant};

use heyday_durable::engine::EngineError;
use serde_json::json;

use super::bench::Bench;
use crate::support::ports::free_port;
use crate::support::temporal::{DevServer, binary};

/// How long it is away at least. The SDK would go on trying by itself for less.
const AWAY: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_away_is_waited_for_and_loses_nothing() {
    if binary().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("temporal.db");
    let port = free_port();
    let mut bench = Bench::temporal_at(format!("127.0.0.1:{port}")).await;
    bench.define("hand", "  - one: {call: t.hand}\n  - two: {call: t.echo}\n");
    let refused = bench
        .engine()
        .start(bench.request("hand", "early", json!({})))
        .await;
    let Err(EngineError::Unavailable { message, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(message.contains(&port.to_string()), "{message}");

    let server = DevServer::start(port, &[], Some(&file));
    bench
        .until("the cluster answers", async || bench.is_reachable().await)
        .await;
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;

    drop(server);
    let left = Instant::now();
    let refused = bench
        .engine()
        .start(bench.request("hand", "late", json!({})))
        .await;
    assert!(
        matches!(refused, Err(EngineError::Unavailable { .. })),
        "{refused:?}"
    );
    // Ended while nobody can be told. Each request waits for its patience.
    attempt.end(Ok(json!("done")));
    while left.elapsed() < AWAY {
        let refused = bench.engine().describe(&run).await;
        assert!(
            matches!(refused, Err(EngineError::Unavailable { .. })),
            "{refused:?}"
        );
    }

    let _server = DevServer::start(port, &[], Some(&file));
    assert_eq!(bench.result_when_back(&run).await, json!("done"));
    assert_eq!(bench.begun("t.hand"), 1);
    bench.drain().await;
}
