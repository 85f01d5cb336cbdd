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
        json!([{ "task": "/do/0/l", "signals": ["go"] }])
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
