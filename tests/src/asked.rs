//! Queries and updates of runs on a Temporal cluster, over REST and by the command line.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::cli::Desk;
use crate::support::server::{Client, Options, Server};
use crate::support::temporal;

const FLOW: &str = "
document:
  dsl: 1.0.3
  namespace: tests
  name: asked
  version: 1.0.0
  metadata:
    heyday:
      queries:
        taken: '${ {taken: .context, of: .arguments} }'
do:
  - first:
      listen: {to: {one: {with: {type: add, data: '${ .n > 0 }'}}}}
      metadata: {heyday: {update: {answer: {added: '${ .n }'}}}}
      export: {as: '${ .[0].n }'}
  - second:
      listen: {to: {one: {with: {type: add}}}}
      metadata: {heyday: {update: {}}}
  - both: {set: {first: '${ $context }', second: '${ .[0].n }'}}
";

async fn server() -> Option<Server> {
    let (address, namespace) = temporal::namespace()?;
    let server = Server::with(Options::on_temporal(&address, &namespace)).await;
    let server = server.unwrap();
    server.wait_for_engine().await.unwrap();
    Some(server)
}

async fn push(client: &Client) {
    let pushed = client.push_flow(FLOW).await.unwrap();
    Client::ok(pushed).await.unwrap();
}

async fn refused(client: &Client, path: &str, body: Value, status: StatusCode) -> Value {
    let asked = client.request(Method::POST, path).json(&body);
    Client::refused(asked.send().await.unwrap(), status).await
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_on_the_cluster_are_asked_and_updated_over_rest() {
    let Some(server) = server().await else {
        return;
    };
    asked_and_updated(&server.client).await;
}

/// Whatever server answers, on a cluster.
pub(crate) async fn asked_and_updated(client: &Client) {
    push(client).await;
    let id = client.start("tests.asked", &json!({})).await.unwrap();
    let queries = format!("/workflows/{id}/queries");
    let updates = format!("/workflows/{id}/updates");
    let state = json!({ "name": "__heyday_state" });
    let state = client.post(&queries, &state).await.unwrap();
    assert_eq!(state["result"]["tasks"], json!(["/do/0/first"]), "{state}");
    let unknown = json!({ "name": "nothing" });
    let problem = refused(client, &queries, unknown, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(
        problem["detail"].as_str().unwrap().contains("taken"),
        "{problem}"
    );
    let unfit = json!({ "name": "add", "data": {"n": 0} });
    let problem = refused(client, &updates, unfit, StatusCode::CONFLICT).await;
    assert_eq!(problem["type"], "urn:heyday:problems:update-rejected");

    let fit = json!({ "name": "add", "id": "one", "data": {"n": 3} });
    let answer = client
        .post(&format!("{updates}?wait=30s"), &fit)
        .await
        .unwrap();
    assert_eq!(
        (&answer["stage"], &answer["result"]),
        (&json!("completed"), &json!({"added": 3})),
        "{answer}"
    );
    let again = client.post(&updates, &fit).await.unwrap();
    assert_eq!(again, answer);
    let found = client
        .get(&format!("{updates}/one?wait=30s"))
        .await
        .unwrap();
    assert_eq!(found, answer);
    let missing = client.request(Method::GET, &format!("{updates}/two"));
    Client::refused(missing.send().await.unwrap(), StatusCode::NOT_FOUND).await;
    let taken = json!({ "name": "taken", "arguments": {"a": 1} });
    let taken = client.post(&queries, &taken).await.unwrap();
    assert_eq!(taken["result"], json!({"taken": 3, "of": {"a": 1}}));

    let last = json!({ "name": "add", "data": {"n": 4} });
    client
        .post(&format!("{updates}?wait=30s"), &last)
        .await
        .unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.body["result"], json!({"first": 3, "second": 4}));
    // An ended run answers still, and takes nothing more.
    let taken = json!({ "name": "taken" });
    let taken = client.post(&queries, &taken).await.unwrap();
    assert_eq!(taken["result"]["taken"], 3);
    let late = json!({ "name": "add", "data": {"n": 5} });
    refused(client, &updates, late, StatusCode::CONFLICT).await;
    let nobody = json!({ "name": "taken" });
    refused(
        client,
        "/workflows/nobody/queries",
        nobody,
        StatusCode::NOT_FOUND,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_on_the_cluster_are_asked_and_updated_by_the_command_line() {
    let Some(server) = server().await else {
        return;
    };
    push(&server.client).await;
    let desk = Desk::new(&server).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    run("heyday workflow start tests.asked --id told")
        .await
        .ok();
    let state = run("heyday workflow query told --output json")
        .await
        .ok()
        .json();
    assert_eq!(state["result"]["tasks"], json!(["/do/0/first"]), "{state}");
    run("heyday workflow query told nothing")
        .await
        .code(2)
        .says("taken");
    run("heyday workflow update told add --input '{\"n\": 0}'")
        .await
        .code(4)
        .says("no such update");
    let line = "heyday workflow update told add --input '{\"n\": 3}' --output json";
    let answer = run(line).await.ok().json();
    assert_eq!(answer["result"], json!({"added": 3}), "{answer}");
    let line = "heyday workflow query told taken --arguments '{\"a\": 1}' --output json";
    let taken = run(line).await.ok().json();
    assert_eq!(taken["result"], json!({"taken": 3, "of": {"a": 1}}));
    run("heyday workflow update told add --input '{\"n\": 4}'")
        .await
        .ok();
    let outcome = server.client.result("told").await.unwrap();
    assert_eq!(outcome.body["result"], json!({"first": 3, "second": 4}));
}
