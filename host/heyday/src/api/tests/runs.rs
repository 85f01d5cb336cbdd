//! Runs: started, watched, listed, ended, repeated.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{Api, SETS, WAITING, WAITS, api};

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_found_and_counted_by_search_attributes() {
    let api = api().await;
    api.flow(SETS).await;
    let start = |id: &str, attributes: Value| {
        let body = json!({
            "workflow_type": "t.sets", "workflow_id": id, "search_attributes": attributes,
        });
        api.post("/api/v1/workflows", body.to_string())
    };
    let due = json!({ "type": "Datetime", "value": "2026-01-31T12:00:00Z" });
    let started = start("a", json!({ "CustomerId": "x", "Due": due })).await;
    assert_eq!(started.status, 201, "{}", started.text);
    let started = start("b", json!({ "CustomerId": "y" })).await;
    assert_eq!(started.status, 201, "{}", started.text);
    let shown = api.get("/api/v1/workflows/a").await.json();
    assert_eq!(
        shown["search_attributes"],
        json!({ "CustomerId": { "type": "Keyword", "value": "x" }, "Due": due })
    );
    let query = "?query=CustomerId%20%3D%20%27x%27";
    let found = api.get(&format!("/api/v1/workflows{query}")).await.json();
    assert_eq!(found["workflows"][0]["workflow_id"], "a");
    assert_eq!(found["workflows"].as_array().map(Vec::len), Some(1));
    let counted = api.get(&format!("/api/v1/workflow-count{query}")).await;
    assert_eq!(counted.json(), json!({ "count": 1 }));
    let counted = api.get("/api/v1/workflow-count").await;
    assert_eq!(counted.json(), json!({ "count": 2 }));

    for (attributes, says) in [
        (json!({ "CustomerId": 7 }), "is Keyword"),
        (
            json!({ "New": { "type": "Number", "value": 7 } }),
            "not \"Number\"",
        ),
        (json!({ "New": { "a": 1 } }), "is Keyword"),
        (json!({ "New": null }), "is Keyword"),
        (json!({ "RunId": "x" }), "the server's own"),
    ] {
        let refused = start("c", attributes).await;
        let problem = refused.problem(400, "invalid-request");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(says), "{detail}");
    }
    let refused = api
        .get("/api/v1/workflow-count?query=Nobody%20%3D%201")
        .await;
    refused.problem(400, "invalid-request");
    let refused = api.get("/api/v1/workflow-count?filter=x").await;
    refused.problem(400, "invalid-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_started_watched_and_ended() {
    let api = api().await;
    api.flow(WAITS).await;
    // An id of any characters is one segment of the path.
    let id = "doc/1 ü%";
    let path = "/api/v1/workflows/doc%2F1%20%C3%BC%25";
    let body = json!({ "workflow_type": "t.waits", "workflow_id": id, "memo": { "who": "Ada" } });
    let started = api.post("/api/v1/workflows", body.to_string()).await;
    assert_eq!(started.status, 201, "{}", started.text);
    let location = started.headers["location"]
        .to_str()
        .expect("text")
        .to_owned();
    let started = started.json();
    assert_eq!(started["workflow_id"], id);
    assert_eq!(started["created"], true);
    assert_eq!(api.get(&location).await.json()["run_id"], started["run_id"]);
    let shown = api.get(path).await.json();
    assert_eq!(shown["status"], "Running");
    assert_eq!(shown["memo"]["who"], "Ada");
    assert_eq!(shown["pending_timers"][0]["task"], "/do/0/w");
    let open = api.get(&format!("{path}/result?wait=1ms")).await;
    assert_eq!(open.status, 200);
    assert_eq!(open.json()["status"], "Running");
    let again = api.post("/api/v1/workflows", body.to_string()).await;
    let problem = again.problem(409, "workflow-exists");
    assert_eq!(problem["run_id"], started["run_id"]);
    let mut existing = body.clone();
    existing["id_conflict_policy"] = json!("use_existing");
    let found = api.post("/api/v1/workflows", existing.to_string()).await;
    assert_eq!(found.status, 200);
    assert_eq!(found.json()["created"], false);

    // Whoever follows it hears of its end.
    let router = api.router.clone();
    let events = Api::request(Method::GET, &format!("{path}/events"));
    let events = events.body(Body::empty()).expect("a request");
    let stream = tokio::spawn(async move {
        let response = router.oneshot(events).await.expect("never fails");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .expect("a body")
    });
    let cancelled = api
        .post(&format!("{path}/cancel"), r#"{"reason": "enough"}"#)
        .await;
    assert_eq!(cancelled.status, 204, "{}", cancelled.text);
    let end = api.get(&format!("{path}/result?wait=60s")).await.json();
    assert_eq!(end["status"], "Canceled", "{end}");
    let stream = String::from_utf8(stream.await.expect("streamed").to_vec()).expect("text");
    assert!(stream.contains("event: history"), "{stream}");
    let last = stream.trim_end().rsplit("\n\n").next().expect("an event");
    assert!(
        last.contains("event: end") && last.contains("Canceled"),
        "{stream}"
    );

    let audit = api.get("/api/v1/audit").await.json();
    let last = &audit["audit"][0];
    assert_eq!(
        (&last["action"], &last["details"]["reason"]),
        (&json!("workflow.cancel"), &json!("enough")),
        "{audit}"
    );

    // Once all was said, there is nothing to come back for.
    let events = api.get(&format!("{path}/history?limit=1000")).await.json();
    assert_eq!(events["complete"], true);
    let count = events["events"].as_array().expect("events").len();
    let resume = |id: usize| {
        Api::request(Method::GET, &format!("{path}/events")).header("last-event-id", id)
    };
    let rest = api.send(resume(count - 1), Body::empty()).await;
    assert!(rest.text.contains(&format!("id: {count}")), "{}", rest.text);
    assert!(
        !rest.text.contains(&format!("id: {}\n", count - 1)),
        "{}",
        rest.text
    );
    assert_eq!(api.send(resume(count), Body::empty()).await.status, 204);
    api.post(&format!("{path}/terminate"), "")
        .await
        .problem(409, "workflow-closed");
    assert_eq!(
        api.get(&format!("{path}/logs")).await.json()["logs"],
        json!([])
    );
    assert_eq!(
        api.get(&format!("{path}/receipts")).await.json()["receipts"],
        json!([])
    );
    let logs = api.get(&format!("{path}/logs?follow=true")).await;
    assert_eq!(logs.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_come_as_they_are() {
    let api = api().await;
    api.flow(SETS).await;
    api.start("a", "t.sets").await;
    let end = api.get("/api/v1/workflows/a/result?wait=60s").await.json();
    assert_eq!(end["status"], "Completed", "{end}");
    assert_eq!(end["result"], json!({ "answer": 42 }));
    assert!(end.get("failure").is_none());
    let shown = api.get("/api/v1/workflows/a").await.json();
    assert_eq!(shown["status"], "Completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_inputs_go_by_reference_and_arrive_whole() {
    let api = api().await;
    let echo = "document: {dsl: '1.0.0', namespace: t, name: echo, version: '1.0.0'}\n\
                do: [{w: {wait: {milliseconds: 1}}}]\n";
    api.flow(echo).await;
    let text = "x".repeat(heyday_durable::payload::INLINE_LIMIT + 1);
    let body = json!({ "workflow_type": "t.echo", "workflow_id": "a", "input": { "text": text } });
    let started = api.post("/api/v1/workflows", body.to_string()).await;
    assert_eq!(started.status, 201, "{}", started.text);
    let end = api.get("/api/v1/workflows/a/result?wait=60s").await.json();
    assert_eq!(end["status"], "Completed", "{}", end["failure"]);
    assert_eq!(end["result"]["text"], text);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_pages_and_filters() {
    let api = api().await;
    api.flow(WAITS).await;
    for id in ["a", "b", "c"] {
        api.start(id, "t.waits").await;
    }
    let mut seen = Vec::new();
    let mut path = "/api/v1/workflows?page_size=2".to_owned();
    loop {
        let page = api.get(&path).await.json();
        let rows = page["workflows"].as_array().expect("rows");
        seen.extend(
            rows.iter()
                .map(|row| row["workflow_id"].as_str().expect("an id").to_owned()),
        );
        let Some(token) = page["next_page_token"].as_str() else {
            break;
        };
        path = format!("/api/v1/workflows?page_size=2&page_token={token}");
    }
    assert_eq!(seen, ["c", "b", "a"]);
    let filtered = "/api/v1/workflows?query=WorkflowId%20%3D%20%27b%27";
    let page = api.get(filtered).await.json();
    assert_eq!(
        page["workflows"].as_array().map(Vec::len),
        Some(1),
        "{page}"
    );
    let other = Api::request(Method::GET, "/api/v1/workflows").header("heyday-namespace", "other");
    assert_eq!(
        api.send(other, Body::empty()).await.json()["workflows"],
        json!([])
    );
    let other =
        Api::request(Method::GET, "/api/v1/workflows/a").header("heyday-namespace", "other");
    api.send(other, Body::empty())
        .await
        .problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_answered_once() {
    let api = api().await;
    api.flow(WAITS).await;
    let start = json!({ "workflow_type": "t.waits" }).to_string();
    let first = api.keyed("/api/v1/workflows", "k", start.clone()).await;
    let second = api.keyed("/api/v1/workflows", "k", start).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (201, 200));
    for member in ["workflow_id", "run_id"] {
        assert_eq!(first.json()[member], second.json()[member], "{member}");
    }
    let named = json!({ "workflow_type": "t.waits", "workflow_id": "mine" }).to_string();
    let other = api.keyed("/api/v1/workflows", "k", named).await;
    other.problem(422, "idempotency-key-reused");

    let newer = WAITS
        .replace("1.0.0'}", "1.1.0'}")
        .replace("dsl: '1.1.0", "dsl: '1.0.0");
    let first = api.keyed("/api/v1/flows", "f", newer.clone()).await;
    assert_eq!(first.status, 201, "{}", first.text);
    let second = api.keyed("/api/v1/flows", "f", newer).await;
    assert_eq!(second.status, 201, "{}", second.text);
    assert_eq!(second.headers["location"], first.headers["location"]);
    let back = "/api/v1/flows/t.waits/rollback";
    let first = api.keyed(back, "r", "").await;
    assert_eq!(first.json()["version"], "1.0.0", "{}", first.text);
    let second = api.keyed(back, "r", "").await;
    assert_eq!((second.status, &second.text), (first.status, &first.text));
    assert_eq!(second.headers["idempotent-replayed"], "true");
    api.keyed(back, "r", "{}")
        .await
        .problem(422, "idempotency-key-reused");
    // Without the key it is another rollback, and there is nothing before.
    api.post(back, "").await.problem(409, "conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_ends_when_the_server_stops() {
    let api = api().await;
    api.flow(WAITS).await;
    api.start("a", "t.waits").await;
    let router = api.router.clone();
    let waits = |path: &str| {
        let request = Api::request(Method::GET, path)
            .body(Body::empty())
            .expect("a request");
        let router = router.clone();
        tokio::spawn(async move {
            let response = router.oneshot(request).await.expect("never fails");
            axum::body::to_bytes(response.into_body(), 1 << 20)
                .await
                .expect("a body")
        })
    };
    let result = waits("/api/v1/workflows/a/result?wait=60s");
    let history = waits("/api/v1/workflows/a/history?after=99&wait=60s");
    let events = waits("/api/v1/workflows/a/events");
    let logs = waits("/api/v1/workflows/a/logs?follow=true");
    api.app.stopping.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        let result = result.await.expect("answered");
        let history = history.await.expect("answered");
        let history: Value = serde_json::from_slice(&history).expect("JSON");
        assert_eq!(history["events"], json!([]));
        events.await.expect("ended");
        logs.await.expect("ended");
        result
    });
    let result: Value = serde_json::from_slice(&ended.await.expect("in time")).expect("JSON");
    assert_eq!(result["status"], "Running");
    api.get("/health").await.problem(503, "shutting-down");
    api.app.engine.drain(Duration::ZERO).await;
    let start = json!({ "workflow_type": "t.waits" }).to_string();
    let refused = api.post("/api/v1/workflows", start).await;
    refused.problem(503, "shutting-down");
    assert!(refused.headers.contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_leave_room_for_others() {
    let api = api().await;
    api.flow(WAITS).await;
    api.start("a", "t.waits").await;
    let mut streams = Vec::new();
    for _ in 0..WAITING {
        let request = Api::request(Method::GET, "/api/v1/workflows/a/events");
        let request = request.body(Body::empty()).expect("a request");
        let stream = api.router.clone().oneshot(request).await;
        let stream = stream.expect("never fails");
        assert_eq!(stream.status(), 200);
        streams.push(stream);
    }
    for waits in [
        "/api/v1/workflows/a/events",
        "/api/v1/workflows/a/logs?follow=true",
        "/api/v1/workflows/a/result?wait=30s",
        "/api/v1/workflows/a/history?after=9&wait=30s",
    ] {
        let refused = api.get(waits).await;
        refused.problem(503, "too-many-waiting");
        assert!(refused.headers.contains_key("retry-after"));
    }
    // What does not wait has its answer.
    assert_eq!(api.get("/api/v1/workflows/a/result").await.status, 200);
    drop(streams);
    // A stream ends some time after its client has gone.
    let ended = async {
        while api.app.waiting.available_permits() < WAITING {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .expect("the places are free again");
    let again = api.get("/api/v1/workflows/a/result?wait=1ms").await;
    assert_eq!(again.status, 200);
}
