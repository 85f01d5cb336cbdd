//! Requests that name or hold what they should not.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::probe;
use crate::support::server::Client;

#[tokio::test(flavor = "multi_thread")]
async fn input_that_does_not_fit_never_reaches_the_guest() {
    let server = probe::shared();
    unfit_inputs(&server.client).await;
}

/// Of activities of the probe.
pub(crate) async fn unfit_inputs(client: &Client) {
    for input in [
        json!({ "a": 1 }),
        json!({ "a": 1, "b": "2" }),
        json!([]),
        Value::Null,
    ] {
        let id = client.start_activity("probe.add", &input).await.unwrap();
        let body = client.result(&id).await.unwrap().body;
        let failure = &body["failure"]["cause"];
        assert_eq!(failure["kind"], "invalid-input", "{body}");
        assert_eq!(failure["retryable"], false);
        assert!(
            !failure["details"]["violations"]
                .as_array()
                .unwrap()
                .is_empty(),
            "{body}"
        );
        // No guest, no memory.
        for receipt in client.receipts(&id).await.unwrap() {
            let memory = receipt["counters"]["peak_memory_bytes"]
                .as_u64()
                .unwrap_or(0);
            assert_eq!(memory, 0, "{receipt}");
        }
    }
    let response = client
        .request(Method::POST, "/activities/probe.echo")
        .body("{\"cut\":")
        .send()
        .await
        .unwrap();
    let problem = Client::refused(response, StatusCode::BAD_REQUEST).await;
    assert_eq!(problem["errors"][0]["line"], 1, "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_are_answered_by_name() {
    let server = probe::shared();
    unknown_names(&server.client).await;
}

/// Beside those of the probe, which is active.
pub(crate) async fn unknown_names(client: &Client) {
    for (activity, told) in [
        ("probe.nothing", "whoami"),
        ("nobody.echo", "upload it first"),
        ("echo", "PLUGIN.ACTIVITY"),
        ("probe.echo:9.9.9", "9.9.9"),
    ] {
        let response = client
            .request(Method::POST, &format!("/activities/{activity}"))
            .send()
            .await
            .unwrap();
        let problem = Client::refused(response, StatusCode::NOT_FOUND).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(told), "{problem}");
        // Said once.
        let name = activity.split(':').next().unwrap();
        assert!(detail.matches(name).count() <= 1, "{problem}");
    }
    let body = json!({ "workflow_type": "no.such", "input": null });
    let response = client
        .request(Method::POST, "/workflows")
        .json(&body)
        .send()
        .await
        .unwrap();
    let problem = Client::refused(response, StatusCode::NOT_FOUND).await;
    assert!(
        problem["detail"].as_str().unwrap().contains("no.such"),
        "{problem}"
    );
    for path in [
        "/workflows/none",
        "/workflows/none/result",
        "/plugins/none",
        "/nowhere",
    ] {
        let response = client.request(Method::GET, path).send().await.unwrap();
        let problem = Client::refused(response, StatusCode::NOT_FOUND).await;
        let type_ = problem["type"].as_str().unwrap();
        assert_eq!(type_, "urn:heyday:problems:not-found");
        assert_eq!(problem["status"], 404);
        assert!(problem["request_id"].is_string(), "{problem}");
        assert!(
            problem["instance"].as_str().unwrap().ends_with(path),
            "{problem}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_nobody_serves_is_refused() {
    let server = probe::shared();
    unserved_queue(&server.client).await;
}

/// Whatever queues there are besides those that always are.
pub(crate) async fn unserved_queue(client: &Client) {
    let flow = "document: { dsl: '1.0.3', namespace: test, name: lost, version: '1.0.0' }\n\
        do:\n  - step:\n      call: probe.echo\n      with: {}\n      metadata: { heyday: { queue: no-such-queue } }\n";
    let response = client.push_flow(flow).await.unwrap();
    let problem = Client::refused(response, StatusCode::UNPROCESSABLE_ENTITY).await;
    let error = &problem["errors"][0];
    assert_eq!(error["line"], 6, "{problem}");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("no-such-queue") && message.contains("general-queue"),
        "{problem}"
    );
    // The same of one activity as a run of its own.
    let request = client.request(Method::POST, "/activities/probe.echo?queue=no-such-queue");
    let response = request.send().await.unwrap();
    let alone = Client::refused(response, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(alone["type"], problem["type"]);
    assert_eq!(alone["kind"], "unknown-queue", "{alone}");
    assert_eq!(alone["detail"], error["message"], "{alone}");
    // And of a flow's own tasks.
    let flow = "document: { dsl: '1.0.3', namespace: test, name: found, version: '1.0.0' }\n\
        do:\n  - step: { set: { x: 1 } }\n";
    Client::ok(client.push_flow(flow).await.unwrap())
        .await
        .unwrap();
    let start = json!({ "workflow_type": "test.found", "task_queue": "no-such-queue" });
    let request = client.request(Method::POST, "/workflows").json(&start);
    let response = request.send().await.unwrap();
    let own = Client::refused(response, StatusCode::UNPROCESSABLE_ENTITY).await;
    for member in ["type", "kind", "detail"] {
        assert_eq!(own[member], alone[member], "{own}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_of_a_running_id_names_the_run() {
    let server = probe::shared();
    second_start(&server.client).await;
}

/// Leaves the run open.
pub(crate) async fn second_start(client: &Client) {
    let flow = "document: { dsl: '1.0.0', namespace: test, name: waits, version: '1.0.0' }\n\
        do:\n  - hour: { wait: PT1H }\n";
    Client::ok(client.push_flow(flow).await.unwrap())
        .await
        .unwrap();
    let start = json!({ "workflow_type": "test.waits", "workflow_id": "the-one" });
    let first = client.post("/workflows", &start).await.unwrap();
    let second = client.request(Method::POST, "/workflows").json(&start);
    let problem = Client::refused(second.send().await.unwrap(), StatusCode::CONFLICT).await;
    assert_eq!(problem["type"], "urn:heyday:problems:workflow-exists");
    assert_eq!(problem["run_id"], first["run_id"]);
    let run = client.get("/workflows/the-one").await.unwrap();
    assert_eq!(run["status"], "Running");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    let server = probe::shared();
    strangers(&server.client).await;
}

/// Whatever the client shows.
pub(crate) async fn strangers(client: &Client) {
    let plugins = format!("{}/api/v1/plugins", client.url());
    let http = &client.http;
    for request in [
        http.get(&plugins),
        http.get(&plugins).bearer_auth("wrong"),
        http.get(&plugins).header("authorization", "Basic eDp5"),
        http.get(format!("{}/metrics", client.url())),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let problem = Client::refused(response, StatusCode::UNAUTHORIZED).await;
        assert_eq!(problem["type"], "urn:heyday:problems:unauthorized");
    }
    // With the right token, but from a page of another origin, or by another name.
    let get = || client.request(Method::GET, "/plugins");
    for host in ["evil.example", "127.0.0.1.evil.example:80"] {
        let response = get().header("host", host).send().await.unwrap();
        Client::refused(response, StatusCode::MISDIRECTED_REQUEST).await;
    }
    for origin in [
        "http://evil.example",
        "null",
        "http://localhost.evil.example",
    ] {
        let response = get().header("origin", origin).send().await.unwrap();
        let problem = Client::refused(response, StatusCode::FORBIDDEN).await;
        assert_eq!(problem["type"], "urn:heyday:problems:foreign-origin");
    }
    let own = get().header("origin", client.url()).send().await.unwrap();
    assert_eq!(own.status(), StatusCode::OK);
}
