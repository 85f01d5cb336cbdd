//! Signals over the API.

use super::*;

/// A flow that ends with the data of its signal.
const LISTENS: &str = "document: {dsl: '1.0.0', namespace: t, name: listens, version: '1.0.0'}\n\
                       do: [{l: {listen: {to: {one: {with: {type: go}}}}}}]\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_the_task_that_listens() {
    let api = api().await;
    api.flow(LISTENS).await;
    api.start("a/b", "t.listens").await;
    let run = "/api/v1/workflows/a%2Fb";
    let shown = api.get(run).await.json();
    assert_eq!(
        shown["pending_listens"],
        json!([{ "task": "/do/0/l", "signals": ["go"], "updates": false }])
    );
    let other = json!({ "name": "other", "data": { "x": 1 }, "attributes": { "source": "urn:x" } });
    let answer = api
        .keyed(&format!("{run}/signals"), "key-1", other.to_string())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        answer.json(),
        json!({ "workflow_id": "a/b", "id": "key-1" })
    );
    let shown = api.get(run).await.json();
    assert_eq!(shown["pending_signals"][0]["name"], "other");
    assert_eq!(shown["pending_signals"][0]["id"], "key-1");
    assert_eq!(shown["pending_signal_count"], 1);
    let go = json!({ "name": "go", "id": "mine", "data": 7 }).to_string();
    let answer = api.post(&format!("{run}/signals"), go.clone()).await;
    assert_eq!(answer.json()["id"], "mine");
    let end = api.get(&format!("{run}/result?wait=30s")).await.json();
    assert_eq!(end["result"], json!([7]));
    let answer = api.post(&format!("{run}/signals"), go).await;
    answer.problem(409, "workflow-closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_signals_are_refused() {
    let api = api().await;
    api.flow(LISTENS).await;
    api.start("a", "t.listens").await;
    let signals = "/api/v1/workflows/a/signals";
    let deep = format!(
        r#"{{"name": "a", "data": {}1{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    for body in [
        "{}",
        r#"{"name": ""}"#,
        r#"{"name": "__temporal_x"}"#,
        r#"{"name": "a", "id": ""}"#,
        r#"{"name": "a", "type": "b"}"#,
        r#"{"name": "a", "attributes": {"Source": "x"}}"#,
        r#"{"name": "a", "attributes": {"source": {}}}"#,
        r#"{"name": "a", "attributes": {"time": "now"}}"#,
        &deep,
    ] {
        let answer = api.post(signals, body.to_owned()).await;
        answer.problem(400, "invalid-request");
    }
    let large = json!({ "name": "a", "data": "x".repeat(2 << 20) }).to_string();
    let problem = api.post(signals, large).await.problem(413, "too-large");
    assert!(
        problem["detail"]
            .as_str()
            .expect("text")
            .contains("the signal")
    );
    let nobody = "/api/v1/workflows/nobody/signals";
    let go = r#"{"name": "go"}"#;
    api.post(nobody, go).await.problem(404, "not-found");
    let shown = api.get("/api/v1/workflows/a").await.json();
    assert_eq!(shown["pending_signals"], json!([]));
    assert_eq!(shown["pending_signal_count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_may_carry_a_signal() {
    let api = api().await;
    api.flow(LISTENS).await;
    let start = |signal: Value| {
        json!({ "workflow_type": "t.listens", "workflow_id": "s", "signal": signal }).to_string()
    };
    let first = api
        .post("/api/v1/workflows", start(json!({ "name": "other" })))
        .await;
    assert_eq!(first.status, 201, "{}", first.text);
    let again = api
        .post(
            "/api/v1/workflows",
            start(json!({ "name": "go", "data": 1 })),
        )
        .await;
    assert_eq!(again.status, 200, "{}", again.text);
    assert_eq!(again.json()["run_id"], first.json()["run_id"]);
    let end = api.get("/api/v1/workflows/s/result?wait=30s").await.json();
    assert_eq!(end["result"], json!([1]));
    let refused = json!({
        "workflow_type": "t.listens", "workflow_id": "s", "signal": { "name": "go" },
        "id_conflict_policy": "fail",
    });
    let problem = api
        .post("/api/v1/workflows", refused.to_string())
        .await
        .problem(400, "invalid-request");
    assert!(
        problem["detail"]
            .as_str()
            .expect("text")
            .contains("use_existing")
    );
    let unfit = start(json!({ "name": "" }));
    api.post("/api/v1/workflows", unfit)
        .await
        .problem(400, "invalid-request");
}

/// A flow that does what updates ask of it, until one says that it is enough.
const TAKES: &str = "document: {dsl: '1.0.0', namespace: t, name: takes, version: '1.0.0'}\n\
    do: [{l: {listen: {to: {any: [{with: {type: add}}], until: {one: {with: {type: enough}}}}},\
    foreach: {do: [{w: {wait: {milliseconds: 1}}}]}, metadata: {heyday: {update: {}}}}}]\n";

#[tokio::test(flavor = "multi_thread")]
async fn updates_are_taken_answered_and_rejected() {
    let api = api().await;
    api.flow(TAKES).await;
    api.start("a", "t.takes").await;
    let updates = "/api/v1/workflows/a/updates";
    let add = json!({ "name": "add", "data": 1 }).to_string();
    let answer = api
        .keyed(&format!("{updates}?wait=30s"), "u/1", add.clone())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    assert_eq!(
        (&body["id"], &body["stage"], &body["result"]),
        (&json!("u/1"), &json!("completed"), &json!(1))
    );
    let again = api.keyed(updates, "u/1", add).await.json();
    assert_eq!(again, body);
    let shown = api.get(&format!("{updates}/u%2F1")).await;
    assert_eq!(shown.json(), body);
    let one = format!(
        "/api/v1/workflows/a/runs/{}/updates/u%2F1",
        body["run_id"].as_str().expect("text")
    );
    assert_eq!(api.get(&one).await.json(), body);
    api.get(&format!("{updates}/other"))
        .await
        .problem(404, "not-found");
    let other = json!({ "name": "other" }).to_string();
    let problem = api
        .post(updates, other)
        .await
        .problem(409, "update-rejected");
    assert!(
        problem["detail"]
            .as_str()
            .expect("text")
            .contains("add, enough")
    );
    for body in ["{}", r#"{"name": ""}"#, r#"{"name": "add", "wait": 1}"#] {
        api.post(updates, body)
            .await
            .problem(400, "invalid-request");
    }
    let enough = json!({ "name": "enough", "id": "e" }).to_string();
    let answer = api
        .post(&format!("{updates}?wait=30s"), enough.clone())
        .await;
    assert_eq!(answer.json()["stage"], "completed");
    let end = api.get("/api/v1/workflows/a/result?wait=30s").await.json();
    assert_eq!(end["result"], json!([1]));
    assert_eq!(api.post(updates, enough).await.json()["stage"], "completed");
    let late = json!({ "name": "add" }).to_string();
    api.post(updates, late)
        .await
        .problem(409, "workflow-closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_answered_on_open_and_ended_runs() {
    let api = api().await;
    api.flow(LISTENS).await;
    api.start("a", "t.listens").await;
    let queries = "/api/v1/workflows/a/queries";
    let state = json!({ "name": "__heyday_state" }).to_string();
    let answer = api.post(queries, state.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["result"]["listening"][0]["task"], "/do/0/l");
    let go = json!({ "name": "go", "data": 7 }).to_string();
    api.post("/api/v1/workflows/a/signals", go).await;
    api.get("/api/v1/workflows/a/result?wait=30s").await;
    let answer = api.post(queries, state).await;
    assert_eq!(answer.json()["result"]["tasks"], json!([]));
    let unknown = json!({ "name": "progress" }).to_string();
    let problem = api
        .post(queries, unknown)
        .await
        .problem(422, "query-failed");
    assert!(
        problem["detail"]
            .as_str()
            .expect("text")
            .contains("__heyday_state")
    );
    api.post(queries, "{}")
        .await
        .problem(400, "invalid-request");
    let nobody = "/api/v1/workflows/nobody/queries";
    api.post(nobody, r#"{"name": "x"}"#)
        .await
        .problem(404, "not-found");
}
