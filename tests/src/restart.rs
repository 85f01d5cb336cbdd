//! A server that is killed, or asked to stop, goes on where it was.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::http_server;
use crate::support::server::{Client, Options, Server};
use crate::support::worker::eventually;

const FLOW: &str = "
document: {dsl: 1.0.3, namespace: tests, name: restart, version: 1.0.0}
do:
  - before: {set: {seen: '${ .n + 1 }'}}
  - pause: {wait: PT3S}
  - after: {set: {seen: '${ .seen * 2 }'}}
";

#[tokio::test(flavor = "multi_thread")]
async fn an_open_run_survives_a_kill() {
    let server = Server::start().await.unwrap();
    let pushed = server.client.push_flow(FLOW).await.unwrap();
    assert!(
        pushed.status().is_success(),
        "{}",
        pushed.text().await.unwrap()
    );
    let id = server
        .client
        .start("tests.restart", &json!({"n": 20}))
        .await
        .unwrap();
    let first = server.pid();
    let server = server.kill_and_restart(Options::default()).await.unwrap();
    assert_ne!(server.pid(), first);
    let outcome = server.client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    assert_eq!(outcome.body["result"], json!({"seen": 42}));
}

/// Two calls to a server of the test's own, each of which ends when the test says so.
const GATED: &str = "
document: {dsl: 1.0.3, namespace: tests, name: gated, version: 1.0.0}
do:
  - first: {call: http, with: {method: get, endpoint: 'http://GATE/gate'}}
  - second: {call: http, with: {method: get, endpoint: 'http://GATE/gate'}}
";

/// A server whose attempts get that long to end, with a run whose first call runs.
async fn with_a_call(grace: &str) -> (Server, String, Arc<Semaphore>) {
    let options = Options {
        config: Some(format!("drain_grace = '{grace}'\n")),
        ..Options::default()
    };
    let server = Server::with(options).await.unwrap();
    let client = &server.client;
    let (gate, permits) = http_server::gate().await.unwrap();
    let flow = GATED.replace("GATE", &gate.to_string());
    let pushed = client.push_flow(&flow).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let rule = format!("GET:{gate}");
    let granted = client.grant("tests.gated", "http", &rule, None);
    granted.await.unwrap();
    let id = client.start("tests.gated", &Value::Null).await.unwrap();
    eventually(async || {
        let run = client.get(&format!("/workflows/{id}")).await.unwrap();
        (run["pending_activities"][0]["state"] == "Started").then_some(())
    })
    .await;
    (server, id, permits)
}

/// Presses Ctrl-C and waits until the server is stopping.
async fn stop(server: &Server) {
    server.interrupt();
    eventually(async || server.log().contains("Ctrl-C again").then_some(())).await;
}

/// Starts it again and waits for the run's end; answers how often each call was tried.
async fn tries(server: &mut Server, id: &str) -> Vec<u64> {
    server.start_again().await.unwrap();
    let outcome = server.client.result(id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    assert_eq!(outcome.body["result"], true);
    let mut receipts = server.client.receipts(id).await.unwrap();
    receipts.sort_by_key(|receipt| receipt["activity_id"].as_str().map(str::to_owned));
    let of = |receipts: &[Value]| {
        receipts
            .iter()
            .filter_map(|it| it["attempt"].as_u64())
            .max()
    };
    receipts
        .chunk_by(|one, next| one["activity_id"] == next["activity_id"])
        .filter_map(of)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_while_the_server_drains_is_not_done_again() {
    let (mut server, id, permits) = with_a_call("60s").await;
    stop(&server).await;
    permits.add_permits(1);
    let ended = server.wait_for_exit().await.unwrap();
    assert_eq!(ended.code(), Some(0), "{}", server.log());
    assert!(server.log().contains("Stopped. Open runs go on"));
    // Were the first call made again, the second one would wait for ever.
    permits.add_permits(1);
    assert_eq!(tries(&mut server, &id).await, [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_drain_cuts_off_is_tried_again_after_the_next_start() {
    let (mut server, id, permits) = with_a_call("10ms").await;
    stop(&server).await;
    let ended = server.wait_for_exit().await.unwrap();
    assert_eq!(ended.code(), Some(0), "{}", server.log());
    // More than two: the call that was cut off may still wait at the gate.
    permits.add_permits(5);
    assert_eq!(tries(&mut server, &id).await, [2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_stops_at_once() {
    let (mut server, id, permits) = with_a_call("10m").await;
    stop(&server).await;
    server.interrupt();
    let ended = server.wait_for_exit().await.unwrap();
    assert_eq!(ended.code(), Some(130), "{}", server.log());
    assert!(server.log().contains("Stopped at once"));
    permits.add_permits(5);
    assert_eq!(tries(&mut server, &id).await, [2, 1]);
}
