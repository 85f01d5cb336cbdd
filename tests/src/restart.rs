//! A server that is killed goes on where it was.

use serde_json::json;

use crate::support::server::{Options, Server};

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
