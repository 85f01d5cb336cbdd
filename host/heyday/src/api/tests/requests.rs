//! Requests that are refused, and what the API says of itself.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::json;

use super::{Api, HOST, SETS, UPLOAD, api};

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_the_token_gets_in() {
    let api = api().await;
    let get = |path: &str| Request::builder().uri(path).header("host", HOST);
    for open in ["/health", "/openapi.json", "/docs"] {
        assert_eq!(
            api.send(get(open), Body::empty()).await.status,
            200,
            "{open}"
        );
    }
    for closed in ["/api/v1/queues", "/metrics", "/api/v1/workflows/a/events"] {
        let answer = api.send(get(closed), Body::empty()).await;
        answer.problem(401, "unauthorized");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        let wrong = get(closed).header("authorization", "Bearer wrong");
        api.send(wrong, Body::empty())
            .await
            .problem(401, "unauthorized");
    }
    let foreign = Request::builder()
        .uri("/health")
        .header("host", "evil.example");
    api.send(foreign, Body::empty())
        .await
        .problem(421, "unknown-host");
    let page = get("/health").header("origin", "http://evil.example");
    api.send(page, Body::empty())
        .await
        .problem(403, "foreign-origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_problem() {
    let api = api().await;
    api.get("/api/v1/nothing").await.problem(404, "not-found");
    api.post("/health", "")
        .await
        .problem(405, "method-not-allowed");
    for path in [
        "/api/v1/workflows/a",
        "/api/v1/workflows/a/result",
        "/api/v1/workflows/a/history",
        "/api/v1/workflows/a/events",
        "/api/v1/workflows/a/logs",
        "/api/v1/workflows/a/receipts",
        "/api/v1/plugins/a",
        "/api/v1/plugins/a/versions/1.0.0",
        "/api/v1/plugins/a/versions/1.0.0/component",
        "/api/v1/flows/a.b",
    ] {
        api.get(path).await.problem(404, "not-found");
    }
    let problem = api
        .post("/api/v1/activities/a.b", "{}")
        .await
        .problem(404, "not-found");
    assert!(problem["detail"].as_str().expect("text").contains("a.b"));
    let start = json!({ "workflow_type": "a.b" }).to_string();
    api.post("/api/v1/workflows", start)
        .await
        .problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused() {
    let api = api().await;
    let start = "/api/v1/workflows";
    for body in [
        "{",
        "[]",
        "{}",
        r#"{"workflow_type": 7}"#,
        r#"{"workflow_type": "a.b", "version": "one"}"#,
        r#"{"workflow_type": "a.b", "id_reuse_policy": "sometimes"}"#,
        r#"{"workflow_type": "a.b", "inptu": {}}"#,
    ] {
        api.post(start, body).await.problem(400, "invalid-request");
    }
    let deep = format!(
        r#"{{"workflow_type": "a.b", "input": {}}}"#,
        "[".repeat(5000)
    );
    let problem = api.post(start, deep).await.problem(400, "invalid-request");
    assert!(problem["detail"].as_str().expect("text").contains("deeper"));
    for path in [
        "/api/v1/workflows?page_size=0",
        "/api/v1/workflows?page_size=many",
        "/api/v1/workflows?pagesize=1",
        "/api/v1/workflows?query=Colour%20%3D%20%27red%27",
        "/api/v1/workflows?page_token=zzz",
        "/api/v1/workflows/a/result?wait=soon",
        "/api/v1/workflows/a/runs/7",
        "/api/v1/uploads/sha256:7",
        "/api/v1/audit?page_token=x",
        "/api/v1/audit?action=",
        "/api/v1/audit?action=*",
        "/api/v1/audit?action=grant%20put",
        "/api/v1/audit?action=grant.*.put",
        "/api/v1/audit?resource=",
        "/api/v1/audit?resource=a%00b",
        "/api/v1/audit?actions=grant.put",
    ] {
        api.get(path).await.problem(400, "invalid-request");
    }
    let namespaced =
        Api::request(Method::GET, "/api/v1/queues").header("heyday-namespace", "No Name");
    api.send(namespaced, Body::empty())
        .await
        .problem(400, "invalid-request");
    let long = api.keyed("/api/v1/flows", &"k".repeat(256), SETS).await;
    long.problem(400, "invalid-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_over_the_limit_are_refused() {
    let api = api().await;
    let large = || vec![0_u8; UPLOAD + 1];
    let problem = api
        .post("/api/v1/plugins", large())
        .await
        .problem(413, "too-large");
    let detail = problem["detail"].as_str().expect("text");
    assert!(
        detail.contains("the 1048576 bytes allowed here"),
        "{detail}"
    );
    assert!(detail.contains("limits.upload_bytes"), "{detail}");
    // The same where the request does not say how long it is.
    let chunks = futures::stream::iter(vec![
        Ok::<_, std::convert::Infallible>(vec![0_u8; 1 << 20]);
        2
    ]);
    let unsized_body = Body::from_stream(chunks);
    api.post("/api/v1/plugins", unsized_body)
        .await
        .problem(413, "too-large");
    api.keyed("/api/v1/plugins", "k", large())
        .await
        .problem(413, "too-large");
    api.post("/api/v1/flows", vec![b' '; 3 << 20])
        .await
        .problem(413, "too-large");
    let reason = json!({ "reason": "r".repeat(300 << 10) }).to_string();
    api.post("/api/v1/workflows/a/cancel", reason)
        .await
        .problem(413, "too-large");
    // Below it, larger than other bodies may be: the answer is about what it holds.
    let junk = api.keyed("/api/v1/plugins", "l", vec![1_u8; UPLOAD]).await;
    assert_eq!(junk.status, 422, "{}", junk.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_flow_names_its_line() {
    let api = api().await;
    let text = "document: {dsl: '1.0.0', namespace: t, name: x, version: '1.0.0'}\n\
                do:\n  - a:\n      set: {x: 1}\n      then: nowhere\n";
    let answer = api.post("/api/v1/flows", text).await;
    assert_eq!(answer.status, 422, "{}", answer.text);
    let errors = answer.json()["errors"].clone();
    assert_eq!(errors[0]["line"], 5, "{errors}");
    assert!(
        errors[0]["message"]
            .as_str()
            .expect("text")
            .contains("nowhere")
    );
    let dry = api.post("/api/v1/flows?dry_run=true", SETS).await;
    assert_eq!(dry.status, 200, "{}", dry.text);
    api.get("/api/v1/flows/t.sets")
        .await
        .problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_is_whole() {
    let api = api().await;
    let document = api.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        // It is there, those of one execution too: only no method of that name is.
        let parts = path.split('/');
        let parts = parts.map(|part| if part.starts_with('{') { "a" } else { part });
        let there = parts.collect::<Vec<_>>().join("/");
        let request = Api::request(Method::TRACE, &there);
        let answer = api.send(request, Body::empty()).await;
        assert_ne!(answer.status, 404, "{path} is documented and not there");
        for (method, operation) in item.as_object().expect("methods") {
            ids.push(operation["operationId"].as_str().expect("an id").to_owned());
            assert!(operation["summary"].is_string(), "{method} {path}");
            let parameters = operation["parameters"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')) {
                let name = part.trim_end_matches('}');
                let said = parameters
                    .iter()
                    .any(|it| it["in"] == "path" && it["name"] == name);
                assert!(said, "{method} {path} does not document {name}");
            }
            // Whoever waits or streams may find no place, and a model may be away.
            let waits = parameters
                .iter()
                .any(|it| it["in"] == "query" && it["name"] == "wait");
            let responses = &operation["responses"];
            let streams = responses["200"]["content"]["text/event-stream"].is_object();
            let computes = method == "post" && path.starts_with("/v1/");
            assert!(
                !(waits || streams || computes) || responses["503"].is_object(),
                "{method} {path} does not document 503"
            );
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "operation ids are not unique");
    let one_run = "/api/v1/workflows/{workflow_id}/runs/{run_id}/result";
    assert!(document["paths"][one_run]["get"].is_object());
    for (path, refusal) in [("models/{name}/load", "429"), ("model-pulls", "503")] {
        let responses = &document["paths"][format!("/api/v1/{path}")]["post"]["responses"];
        assert!(responses[refusal].is_object(), "{path}: {responses}");
    }
    let text = document.to_string();
    for schema in text.split("#/components/schemas/").skip(1) {
        let name = schema.split('"').next().expect("a name");
        assert!(
            document["components"]["schemas"][name].is_object(),
            "no schema {name}"
        );
    }
    let page = api.get("/docs").await;
    assert!(page.text.contains("/api/v1/workflows/{workflow_id}/result"));
    assert!(
        !page.text.contains("http://") && !page.text.contains("https://"),
        "{}",
        page.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_of_requests_and_queues() {
    let api = api().await;
    api.get("/api/v1/workflows/some-id").await;
    let made_up = Method::from_bytes(b"MADEUP").expect("a method");
    api.send(Api::request(made_up, "/nowhere"), Body::empty())
        .await;
    let text = api.get("/metrics").await.text;
    assert!(
        text.contains("http_route=\"/api/v1/workflows/{workflow_id}\""),
        "{text}"
    );
    assert!(!text.contains("some-id"), "an id became a series: {text}");
    assert!(!text.contains("MADEUP"), "a method became one: {text}");
    assert!(text.contains("http_request_method=\"_OTHER\""), "{text}");
    assert!(
        text.contains("heyday_queue_limit{queue=\"general-queue\"} 50"),
        "{text}"
    );
    let queues = api.get("/api/v1/queues").await.json();
    assert_eq!(queues["queues"][0]["name"], "general-queue", "{queues}");
}
