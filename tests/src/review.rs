//! The example of a human review, over the real server: decided, commented, rolled back,
//! expired, and going on after a kill.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::server::{Client, Options, Server};

const DECISION: &str = include_str!("../../examples/review/flows/decision.yaml");

/// A flow that is told of a decision.
const TOLD: &str = "
document: {dsl: 1.0.3, namespace: tests, name: told, version: 1.0.0}
do:
  - wait: {listen: {to: {one: {with: {type: review.decided}}}, read: envelope}, output: {as: '.[0]'}}
";

async fn server() -> Server {
    let server = Server::start().await.unwrap();
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

/// Asks until the answer is so.
async fn status(client: &Client, id: &str, so: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + crate::support::server::PATIENCE;
    loop {
        let answer = client
            .post(
                &format!("/workflows/{id}/queries"),
                &json!({ "name": "status" }),
            )
            .await
            .unwrap();
        if so(&answer["result"]) {
            return answer["result"].clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "{answer}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_is_decided_by_a_person() {
    let server = server().await;
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
    let before = client.get("/workflows/release-7").await.unwrap()["history_length"].clone();
    let unfit = json!({ "name": "reject", "id": "decision", "data": {"by": "Ada"} });
    let refused = client
        .request(Method::POST, "/workflows/release-7/updates")
        .json(&unfit)
        .send()
        .await
        .unwrap();
    let problem = Client::refused(refused, StatusCode::CONFLICT).await;
    assert_eq!(problem["type"], "urn:heyday:problems:update-rejected");
    let shown = client.get("/workflows/release-7").await.unwrap();
    assert_eq!(shown["history_length"], before);
    assert_eq!(shown["pending_listens"][0]["updates"], true);

    let server = server.kill_and_restart(Options::default()).await.unwrap();
    let client = &server.client;
    let fit =
        json!({ "name": "reject", "id": "decision", "data": {"by": "Ada", "reason": "no notes"} });
    let answer = client
        .post("/workflows/release-7/updates?wait=30s", &fit)
        .await
        .unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_review_tells_who_waits_for_it_and_expires() {
    let server = server().await;
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
