//! A cluster that is away, or silent for a while.

use std::time::{Duration, Instant};

use heyday_durable::engine::EngineError;
use heyday_durable::failure::Failure;
use heyday_durable::temporal::Access;
use serde_json::json;

use super::bench::Bench;
use crate::support::ports::free_port;
use crate::support::relay::Relay;
use crate::support::temporal::{self, DevServer, binary};

/// How long it is away at least. The SDK would go on trying by itself for less.
const AWAY: Duration = Duration::from_secs(60);

/// How long it is silent: for longer than a connection would stay by the SDK's own keep-alive (a
/// ping after 30 seconds, and 15 for its answer), and not as long as a poll waits (70 seconds).
const SILENCE: Duration = Duration::from_secs(50);

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

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_silent_for_a_while_loses_no_task() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let relay = Relay::start(&address).await;
    let mut bench = Bench::temporal_by(relay.address(), namespace, Access::default()).await;
    bench.define(
        "hand",
        "  - a: {call: t.hand, metadata: {heyday: {queue: narrow, retry: {initial_interval: PT10S}}}}\n",
    );
    let run = bench.start("hand", json!({})).await;
    let again = Failure::transient("x", "again");
    bench.attempt().await.end(Err(again));
    // The queue has one place: as soon as that is free, the cluster is asked for the next
    // attempt, and before what is asked here.
    let free = async || {
        let queues = bench.engine().queues();
        let mut narrow = queues.iter().filter(|queue| queue.name == "narrow");
        narrow.all(|queue| queue.in_flight == 0)
    };
    bench.until("the attempt's end is told", free).await;
    bench
        .described(&run, |described| {
            let mut pending = described.pending_activities.iter();
            pending.any(|pending| pending.attempt == 2)
        })
        .await;
    let before = relay.open();
    assert!(!before.is_empty());

    // The next attempt is given out meanwhile. Other connections may be tried beside the one on
    // which that is said, which has to stay.
    relay.hold();
    tokio::time::sleep(SILENCE).await;
    let open = relay.open();
    assert!(open.is_superset(&before), "{open:?} of {before:?}");
    relay.release();
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.attempt, 2, "an attempt was lost");
    attempt.end(Ok(json!("done")));
    assert_eq!(bench.result(&run).await, json!("done"));
    assert_eq!(bench.begun("t.hand"), 2);
    bench.drain().await;
}
