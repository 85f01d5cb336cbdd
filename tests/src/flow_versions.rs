//! Versions of flows over the real server: which one new runs take, and which one an open
//! run needs.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::cli::Desk;
use crate::support::probe;
use crate::support::server::{Client, Server};
use crate::support::worker::eventually;

fn flow(version: &str, tasks: &str) -> String {
    format!(
        "document: {{dsl: 1.0.3, namespace: tests, name: revised, version: {version}}}\ndo: [{tasks}]\n"
    )
}

/// A flow that answers that number.
fn answering(version: &str, number: u32) -> String {
    flow(version, &format!("{{answer: {{set: {{n: {number}}}}}}}"))
}

async fn push(client: &Client, text: String, query: &str) -> (StatusCode, Value) {
    let request = client.request(Method::POST, &format!("/flows?{query}"));
    let answer = request.body(text).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn change(client: &Client, what: &str, body: &Value) -> reqwest::Response {
    let path = format!("/flows/tests.revised/{what}");
    let request = client.request(Method::POST, &path).json(body);
    request.send().await.unwrap()
}

async fn remove(client: &Client, version: &str) -> reqwest::Response {
    let path = format!("/flows/tests.revised/versions/{version}");
    let request = client.request(Method::DELETE, &path);
    request.send().await.unwrap()
}

/// What a new run answers, after a look at which version is active.
async fn answer(client: &Client, active: &str) -> Value {
    let shown = client.get("/flows/tests.revised").await.unwrap();
    assert_eq!(shown["active"], active, "{shown}");
    let outcome = client.run("tests.revised", &json!({})).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    outcome.body["result"]["n"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_have_versions_of_which_one_is_active() {
    let server = probe::shared();
    versions(&server.client).await;
}

/// Whatever server answers: nothing of the flow was uploaded there before.
pub(crate) async fn versions(client: &Client) {
    // A check stores nothing.
    let (status, checked) = push(client, answering("1.0.0", 1), "dry_run=true").await;
    assert_eq!(status, StatusCode::OK, "{checked}");
    let none = client.request(Method::GET, "/flows/tests.revised");
    Client::refused(none.send().await.unwrap(), StatusCode::NOT_FOUND).await;

    // The same bytes are the same version; others are none of it.
    let (status, first) = push(client, answering("1.0.0", 1), "").await;
    assert_eq!(
        (status, &first["active"]),
        (StatusCode::CREATED, &json!(true))
    );
    let (status, again) = push(client, answering("1.0.0", 1), "").await;
    assert_eq!(status, StatusCode::OK, "{again}");
    assert_eq!(again["digest"], first["digest"]);
    assert_eq!(again["uploaded_at"], first["uploaded_at"]);
    let (status, problem) = push(client, answering("1.0.0", 2), "").await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("--dev"), "{problem}");
    assert_eq!(answer(client, "1.0.0").await, 1);

    // As a development version they are one of their own, and active.
    let number = |version: &Value| {
        let digest = version["digest"].as_str().unwrap();
        format!("1.0.0-dev.{}", &digest["sha256:".len()..][..8])
    };
    let (status, dev) = push(client, answering("1.0.0", 2), "dev=true").await;
    assert_eq!(
        (status, &dev["active"]),
        (StatusCode::CREATED, &json!(true))
    );
    assert_eq!(dev["version"], number(&dev));
    let (status, same) = push(client, answering("1.0.0", 2), "dev=true").await;
    assert_eq!(
        (status, &same["version"]),
        (StatusCode::OK, &dev["version"])
    );
    assert_eq!(answer(client, &number(&dev)).await, 2);
    let (status, edited) = push(client, answering("1.0.0", 3), "dev=true").await;
    assert_eq!(status, StatusCode::CREATED, "{edited}");
    assert_eq!(edited["version"], number(&edited));
    assert_ne!(edited["version"], dev["version"]);
    assert_eq!(answer(client, &number(&edited)).await, 3);

    // One that is only stored changes nothing until it is made active.
    let (status, staged) = push(client, answering("1.1.0", 4), "activate=false").await;
    assert_eq!(
        (status, &staged["active"]),
        (StatusCode::CREATED, &json!(false))
    );
    assert_eq!(answer(client, &number(&edited)).await, 3);
    let activated = change(client, "activate", &json!({ "version": "1.1.0" })).await;
    Client::ok(activated).await.unwrap();
    assert_eq!(answer(client, "1.1.0").await, 4);
    let path = "/flows/tests.revised/versions/1.1.0/document";
    let document = client.request(Method::GET, path).send().await.unwrap();
    assert_eq!(document.text().await.unwrap(), answering("1.1.0", 4));

    // A rollback goes back one by one.
    for (expected, number) in [(number(&edited), 3), (number(&dev), 2), ("1.0.0".into(), 1)] {
        let back = change(client, "rollback", &Value::Null).await;
        assert_eq!(Client::ok(back).await.unwrap()["version"], expected);
        assert_eq!(answer(client, &expected).await, number);
    }
    let none = change(client, "rollback", &Value::Null).await;
    Client::refused(none, StatusCode::CONFLICT).await;

    // The active version stays; another one goes, and is gone.
    let active = remove(client, "1.0.0").await;
    let problem = Client::refused(active, StatusCode::CONFLICT).await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("is active"), "{problem}");
    // A cluster lists its run as ended within a moment.
    eventually(async || {
        let removed = remove(client, "1.1.0").await;
        (removed.status() == StatusCode::NO_CONTENT).then_some(())
    })
    .await;
    Client::refused(remove(client, "1.1.0").await, StatusCode::NOT_FOUND).await;

    // One that an open run needs stays, and the run with it.
    let waits = flow("2.0.0", "{hour: {wait: PT1H}}");
    let (status, pushed) = push(client, waits, "").await;
    assert_eq!(status, StatusCode::CREATED, "{pushed}");
    let id = client.start("tests.revised", &json!({})).await.unwrap();
    // A cluster lists it within a moment.
    eventually(async || {
        let query = "WorkflowType='tests.revised' AND ExecutionStatus='Running'";
        let path = format!("/workflow-count?query={query}");
        let found = client.get(&path).await.unwrap();
        (found["count"] == 1).then_some(())
    })
    .await;
    let back = change(client, "rollback", &Value::Null).await;
    Client::ok(back).await.unwrap();
    assert_eq!(answer(client, "1.0.0").await, 1);
    Client::refused(remove(client, "2.0.0").await, StatusCode::CONFLICT).await;
    let run = client.get(&format!("/workflows/{id}")).await.unwrap();
    assert_eq!(
        (&run["version"], &run["status"]),
        (&json!("2.0.0"), &json!("Running"))
    );
    let end = format!("/workflows/{id}/terminate");
    client.post(&end, &json!({})).await.unwrap();
    // And forgets it within another one.
    eventually(async || {
        let removed = remove(client, "2.0.0").await;
        (removed.status() == StatusCode::NO_CONTENT).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_is_edited_and_pushed_again_under_its_number() {
    let server = Server::start().await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let write = |number: u32| {
        let file = desk.path().join("flow.yaml");
        std::fs::write(file, answering("1.0.0", number)).unwrap();
    };
    let run = async |line: &str| desk.run("", line).await.unwrap();
    write(1);
    run("heyday flow push flow.yaml").await.ok();
    write(2);
    let refused = run("heyday flow push flow.yaml").await.code(4);
    refused.says("--dev");
    let push = "heyday flow push flow.yaml --dev -o json";
    let pushed = run(push).await.ok().json();
    let version = pushed["version"].as_str().unwrap();
    assert!(version.starts_with("1.0.0-dev."), "{pushed}");
    assert_eq!(run(push).await.ok().json()["version"], version);
    let told = run("heyday flow push flow.yaml --dev").await.ok();
    told.says(&format!("tests.revised {version} is active"));
    assert_eq!(answer(&server.client, version).await, 2);
    write(3);
    let edited = run(push).await.ok().json();
    assert_ne!(edited["version"], version);
    assert_eq!(edited["active"], true);
}
