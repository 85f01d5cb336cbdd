//! The real server with its runs on a Temporal cluster: the same API, the same plugins,
//! the same flows.

use std::time::Instant;

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::handmade::Handmade;
use crate::support::server::{Client, Options, PATIENCE, Server, free_port};
use crate::support::temporal;

const FLOW: &str = "
document: {dsl: 1.0.3, namespace: tests, name: on-temporal, version: 1.0.0}
do:
  - asked: {call: handmade.answer, with: {}}
  - pause: {wait: PT3S}
  - after: {set: {answer: '${ . * 2 }'}}
";

const SMALL: &str = "
document: {dsl: 1.0.3, namespace: tests, name: on-temporal, version: 1.0.0}
do:
  - only: {set: {x: 1}}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_and_a_flow_run_on_the_cluster_and_survive_a_kill() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let server = Server::with(Options::on_temporal(&address, &namespace))
        .await
        .unwrap();
    server.wait_for_engine().await.unwrap();
    // The worker polls already: what is uploaded now runs on it.
    let version = server.client.push(Handmade::default().build(), "").await;
    assert_eq!(version.unwrap()["active"], true);
    let pushed = server.client.push_flow(FLOW).await.unwrap();
    assert!(
        pushed.status().is_success(),
        "{}",
        pushed.text().await.unwrap()
    );
    let started = server.client.start("tests.on-temporal", &json!({})).await;
    let id = started.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let waits = async || {
        let history = server
            .client
            .get(&format!("/workflows/{id}/history?wait=1s"))
            .await;
        history.unwrap().to_string().contains("TimerStarted")
    };
    while !waits().await {
        assert!(Instant::now() < deadline, "the timer was not started");
    }
    let server = server
        .kill_and_restart(Options::on_temporal(&address, &namespace))
        .await
        .unwrap();
    server.wait_for_engine().await.unwrap();
    let outcome = server.client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    assert_eq!(outcome.body["result"], json!({"answer": 84}));
    let receipts = server.client.receipts(&id).await.unwrap();
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    assert_eq!(receipts[0]["outcome"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_away_is_a_503_with_retry_after() {
    let port = free_port().unwrap();
    let server = Server::with(Options::on_temporal(
        &format!("127.0.0.1:{port}"),
        "default",
    ))
    .await
    .unwrap();
    let pushed = server.client.push_flow(SMALL).await.unwrap();
    assert!(
        pushed.status().is_success(),
        "{}",
        pushed.text().await.unwrap()
    );
    let body = json!({ "workflow_type": "tests.on-temporal", "input": {} });
    let request = server
        .client
        .request(Method::POST, "/workflows")
        .json(&body);
    let response = request.send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let problem = Client::refused(response, StatusCode::SERVICE_UNAVAILABLE).await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(&port.to_string()), "{detail}");
}
