//! The example of a human review, over the real server on both engines: approved, rejected, commented,
//! rolled back, expired, and going on after a kill.

use std::time::Instant;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::server::{Client, Options, PATIENCE, Server};
use crate::support::temporal;

const DECISION: &str = include_str!("../../examples/review/flows/decision.yaml");

/// A flow that is told of a decision.
const TOLD: &str = "
document: {dsl: 1.0.3, namespace: tests, name: told, version: 1.0.0}
do:
  - wait: {listen: {to: {one: {with: {type: review.decided}}}, read: envelope}, output: {as: '.[0]'}}
";

async fn server(options: Options) -> Server {
    let server = Server::with(options).await.unwrap();
    server.wait_for_engine().await.unwrap();
    for flow in [DECISION, TOLD] {
        let pushed = server.client.push_flow(flow).await.unwrap();
        Client::ok(pushed).await.unwrap();
    }
    server
}

async fn start(client: &Client, flow: &str, id: &str, input: Value) {
    let body = json!({ "workflow_type": flow, "workflow_id": id, "input": input });
    client.post("/workflows", &body).await.unwrap();
}

async fn signal(client: &Client, id: &str, name: &str, data: Value) {
    let body = json!({ "name": name, "data": data });
    client
        .post(&format!("/workflows/{id}/signals"), &body)
        .await
        .unwrap();
}

/// Sends until somebody takes it: on a cluster, a run waits a moment for the process that had
/// it before another one may go on with it.
async fn taken(client: &Client, path: &str, body: &Value) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = client.request(Method::POST, path).json(body);
        let response = request.send().await.unwrap();
        if response.status() != StatusCode::SERVICE_UNAVAILABLE {
            return Client::ok(response).await.unwrap();
        }
        assert!(Instant::now() < deadline, "{path} is taken by nobody");
    }
}

/// Asks until the answer is so.
async fn status(client: &Client, id: &str, so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    let path = format!("/workflows/{id}/queries");
    loop {
        let answer = taken(client, &path, &json!({ "name": "status" })).await;
        if so(&answer["result"]) {
            return answer["result"].clone();
        }
        assert!(Instant::now() < deadline, "{answer}");
        tokio::task::yield_now().await;
    }
}

/// What happened to a run; how often workers were asked is the engine's own.
async fn events(client: &Client, id: &str) -> Vec<Value> {
    let history = client.get(&format!("/workflows/{id}/history")).await;
    let history = history.unwrap();
    let kinds = history["events"].as_array().unwrap().iter();
    kinds
        .map(|event| event["event_type"].clone())
        .filter(|kind| !kind.as_str().unwrap().starts_with("WorkflowTask"))
        .collect()
}

async fn decided(options: impl Fn() -> Options) {
    let server = server(options()).await;
    let client = &server.client;
    start(
        client,
        "review.decision",
        "release-7",
        json!({"subject": "Release 7"}),
    )
    .await;
    signal(
        client,
        "release-7",
        "comment",
        json!({"by": "Grace", "text": "notes?"}),
    )
    .await;
    let shown = status(client, "release-7", |status| {
        status["comments"][0]["by"] == "Grace"
    })
    .await;
    assert_eq!(shown["decision"], json!(null));
    // A decision that lacks its reason is rejected, and leaves no trace.
    let before = events(client, "release-7").await;
    let unfit = json!({ "name": "reject", "id": "decision", "data": {"by": "Ada"} });
    let refused = client
        .request(Method::POST, "/workflows/release-7/updates")
        .json(&unfit)
        .send()
        .await
        .unwrap();
    let problem = Client::refused(refused, StatusCode::CONFLICT).await;
    assert_eq!(problem["type"], "urn:heyday:problems:update-rejected");
    assert_eq!(events(client, "release-7").await, before);
    let shown = client.get("/workflows/release-7").await.unwrap();
    assert_eq!(shown["pending_listens"][0]["updates"], true);

    let server = server.kill_and_restart(options()).await.unwrap();
    server.wait_for_engine().await.unwrap();
    let client = &server.client;
    let fit =
        json!({ "name": "reject", "id": "decision", "data": {"by": "Ada", "reason": "no notes"} });
    let answer = taken(client, "/workflows/release-7/updates?wait=30s", &fit).await;
    assert_eq!(answer["stage"], "completed");
    assert_eq!(
        (&answer["result"]["taken"], &answer["result"]["by"]),
        (&json!("reject"), &json!("Ada"))
    );
    let again = client
        .post("/workflows/release-7/updates", &fit)
        .await
        .unwrap();
    assert_eq!(again, answer);
    let outcome = client.result("release-7").await.unwrap();
    assert_eq!(
        outcome.body["result"],
        json!({
            "decision": "reject", "by": "Ada", "reason": "no notes",
            "comments": [{"by": "Grace", "text": "notes?"}],
        })
    );
    // The ended run still answers.
    let shown = status(client, "release-7", |_| true).await;
    assert_eq!(shown["decision"], "reject");
}

async fn approved(options: Options) {
    let server = server(options).await;
    let client = &server.client;
    let input = json!({"subject": "Release 6"});
    start(client, "review.decision", "release-6", input).await;
    let approve = json!({ "name": "approve", "id": "yes", "data": {"by": "Ada"} });
    let answer = taken(client, "/workflows/release-6/updates?wait=30s", &approve).await;
    assert_eq!(answer["stage"], "completed", "{answer}");
    assert_eq!(
        (&answer["result"]["taken"], &answer["result"]["by"]),
        (&json!("approve"), &json!("Ada"))
    );
    let outcome = client.result("release-6").await.unwrap();
    let decided = json!({"decision": "approve", "by": "Ada", "comments": []});
    assert_eq!(outcome.body["result"], decided);
    // Who comes later is refused, and it stays as it was decided.
    let reject =
        json!({ "name": "reject", "id": "no", "data": {"by": "Grace", "reason": "too soon"} });
    let late = client
        .request(Method::POST, "/workflows/release-6/updates")
        .json(&reject)
        .send()
        .await
        .unwrap();
    Client::refused(late, StatusCode::CONFLICT).await;
    let shown = status(client, "release-6", |_| true).await;
    assert_eq!(shown["decision"], "approve");
    // By a signal too.
    let input = json!({"subject": "Release 5"});
    start(client, "review.decision", "release-5", input).await;
    signal(client, "release-5", "approve", json!({"by": "Ada"})).await;
    let outcome = client.result("release-5").await.unwrap();
    assert_eq!(outcome.body["result"], decided);
}

async fn told_and_expired(options: Options) {
    let server = server(options).await;
    let client = &server.client;
    for id in ["first", "second"] {
        start(client, "tests.told", id, json!({})).await;
    }
    let input = json!({"subject": "Release 8", "notify": ["first", "second"]});
    start(client, "review.decision", "release-8", input).await;
    signal(client, "release-8", "roll-back", json!({"by": "Ada"})).await;
    signal(
        client,
        "release-8",
        "roll-back",
        json!({"by": "Ada", "to": "7.2.0"}),
    )
    .await;
    let decided = json!({"decision": "roll-back", "by": "Ada", "to": "7.2.0", "comments": []});
    let outcome = client.result("release-8").await.unwrap();
    assert_eq!(outcome.body["result"], decided);
    for id in ["first", "second"] {
        let told = client.result(id).await.unwrap().body["result"].clone();
        assert_eq!(
            (&told["data"], &told["subject"]),
            (&decided, &json!("Release 8"))
        );
        assert_eq!(told["source"], "urn:heyday:review");
    }
    let input = json!({"subject": "Release 9", "deadline": "PT0.2S"});
    start(client, "review.decision", "release-9", input).await;
    let outcome = client.result("release-9").await.unwrap();
    assert_eq!(
        outcome.body["result"],
        json!({"decision": "expired", "comments": []})
    );
    let late = client
        .request(Method::POST, "/workflows/release-9/updates")
        .json(&json!({ "name": "approve", "data": {"by": "Ada"} }))
        .send()
        .await
        .unwrap();
    Client::refused(late, StatusCode::CONFLICT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_is_decided_by_a_person() {
    decided(Options::default).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_on_a_cluster_is_decided_by_a_person() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    decided(|| Options::on_temporal(&address, &namespace)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_is_approved() {
    approved(Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_on_a_cluster_is_approved() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    approved(Options::on_temporal(&address, &namespace)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_tells_who_waits_for_it_and_expires() {
    told_and_expired(Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_on_a_cluster_tells_who_waits_for_it_and_expires() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    told_and_expired(Options::on_temporal(&address, &namespace)).await;
}
