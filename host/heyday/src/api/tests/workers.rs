//! What workers ask, and their tokens.

use super::*;
use heyday_durable::payload::Digest;
use uuid::Uuid;

impl Api {
    /// Makes a token for workers of these namespaces; its id and its text.
    async fn worker_token(&self, namespaces: Value) -> (String, String) {
        let body = json!({ "kind": "worker", "namespaces": namespaces }).to_string();
        let answer = self.post("/api/v1/tokens", body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let made = answer.json();
        let text = |name: &str| made[name].as_str().expect("text").to_owned();
        (text("id"), text("token"))
    }

    async fn as_worker(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Self::request(method, &format!("/api/v1/worker/{path}"));
        let headers = request.headers_mut().expect("so far right");
        headers.insert(
            "authorization",
            format!("Bearer {token}").parse().expect("text"),
        );
        self.send(request, body).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_and_opens_its_namespaces() {
    let api = api().await;
    let (id, token) = api.worker_token(json!(["default"])).await;
    let listed = api.get("/api/v1/tokens").await;
    assert_eq!(listed.json()["tokens"][0]["id"], id);
    assert!(!listed.text.contains(&token), "{}", listed.text);
    let audit = api.get("/api/v1/audit").await;
    assert!(audit.text.contains("token.create"), "{}", audit.text);
    assert!(!audit.text.contains(&token), "{}", audit.text);
    let revision = api.as_worker(&token, Method::GET, "revision", "").await;
    assert_eq!(revision.status, 200, "{}", revision.text);
    let stream = "stream?namespaces=default,other";
    let answer = api.as_worker(&token, Method::GET, stream, "").await;
    answer.problem(403, "forbidden");
    let own = api.get("/api/v1/worker/revision").await;
    own.problem(403, "forbidden");
    let request = Request::builder()
        .uri("/api/v1/tokens")
        .header("host", HOST)
        .header("authorization", format!("Bearer {token}"));
    api.send(request, "").await.problem(403, "forbidden");
    let path = format!("/api/v1/tokens/{id}");
    let gone = api.send(Api::request(Method::DELETE, &path), "").await;
    assert_eq!(gone.status, 204, "{}", gone.text);
    let revision = api.as_worker(&token, Method::GET, "revision", "").await;
    revision.problem(401, "unauthorized");
    let again = api.send(Api::request(Method::DELETE, &path), "").await;
    again.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_without_an_idempotency_key() {
    let api = api().await;
    let body = json!({ "kind": "worker", "name": "pool" }).to_string();
    let keyed = api.keyed("/api/v1/tokens", "once", body.clone()).await;
    let problem = keyed.problem(400, "invalid-request");
    let detail = problem["detail"].as_str().expect("text");
    for told in ["Idempotency-Key", "GET /tokens", "take it back"] {
        assert!(detail.contains(told), "no {told:?} in {detail}");
    }
    let listed = api.get("/api/v1/tokens").await.json();
    assert_eq!(listed["tokens"], json!([]), "{listed}");
    let made = api.post("/api/v1/tokens", body).await;
    assert_eq!(made.status, 201, "{}", made.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_workers_are_listed_page_by_page() {
    let api = api().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(api.worker_token(json!(["default"])).await);
    }
    let workers: Vec<_> = (0..3).map(|_| Uuid::now_v7().to_string()).collect();
    for worker in &workers {
        let body = json!({
            "worker": worker, "namespaces": ["default"], "queues": {}, "device": "cpu",
            "models": [],
        });
        let token = &made[0].1;
        let body = body.to_string();
        let heard = api.as_worker(token, Method::POST, "announcements", body);
        assert_eq!(heard.await.status, 204);
    }
    let tokens: Vec<_> = made.into_iter().map(|(id, _)| id).collect();
    for (list, expected) in [("tokens", tokens), ("workers", workers)] {
        let mut read = Vec::new();
        let mut after = String::new();
        for expected in [2, 1] {
            let path = format!("/api/v1/{list}?page_size=2{after}");
            let page = api.get(&path).await.json();
            let rows = page[list].as_array().expect("rows");
            assert_eq!(rows.len(), expected, "{page}");
            let ids = rows.iter().filter_map(|row| row["id"].as_str());
            read.extend(ids.map(str::to_owned));
            after = match page["next_page_token"].as_str() {
                Some(token) => format!("&page_token={}", token.replace(' ', "%20")),
                None => String::new(),
            };
            assert_eq!(after.is_empty(), expected == 1, "{page}");
        }
        // Oldest first.
        assert_eq!(read, expected);
        let none = api.get(&format!("/api/v1/{list}?page_size=0")).await;
        none.problem(400, "invalid-request");
    }
}

impl Api {
    async fn grant_model(&self, name: &str) -> Answer {
        let body = json!({ "subject": "think", "capability": "inference", "binding": name });
        let request = Self::request(Method::PUT, "/api/v1/grants");
        self.send(request, body.to_string()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_workers_may_have_is_granted_and_one_that_nobody_can_have_is_not() {
    let alone = api().await;
    let refused = alone.grant_model("small").await;
    let problem = refused.problem(400, "invalid-request");
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|it| it.contains("heyday model import")),
        "{problem}"
    );

    let api = api_with(true).await;
    let early = api.grant_model("small").await;
    assert_eq!(early.status, 200, "{}", early.text);
    let early = early.json();
    let warning = early["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("heyday model list"), "{warning}");
    let listed = api.get("/api/v1/grants").await.json();
    assert_eq!(listed["grants"][0]["binding"], "small", "{listed}");
    let wrong = api.grant_model("No Name").await;
    wrong.problem(400, "invalid-request");

    let (_, token) = api.worker_token(json!([])).await;
    for (namespace, queues, models) in [
        (
            "default",
            json!({ "general-queue": 1, "gpu": 1 }),
            &["small", "NO NAME"][..],
        ),
        ("default", json!({ "large": 1 }), &["big"]),
        ("other", json!({ "far": 1 }), &["small", "hidden"]),
    ] {
        let models = models.iter().map(|name| {
            json!({
                "name": name, "task": "embed", "loaded": false,
            })
        });
        let body = json!({
            "worker": Uuid::now_v7(), "namespaces": [namespace], "queues": queues,
            "device": "cpu", "models": models.collect::<Vec<_>>(),
        });
        let body = body.to_string();
        let heard = api.as_worker(&token, Method::POST, "announcements", body);
        assert_eq!(heard.await.status, 204);
    }
    let served = api.grant_model("small").await.json();
    assert_eq!(served["warnings"], Value::Null, "{served}");
    assert_eq!(served["capability"], "inference", "{served}");
    for (model, queues) in [
        ("small", json!(["general-queue", "gpu"])),
        ("big", json!(["large"])),
        ("hidden", json!([])),
    ] {
        let path = format!("models/{model}");
        let told = api.as_worker(&token, Method::GET, &path, "").await;
        assert_eq!(told.json(), json!({ "queues": queues }), "{model}");
    }
    let listed = api.get("/api/v1/bindings").await.json();
    let models = listed["bindings"].as_array().expect("rows").iter();
    let models = models.filter(|it| it["backend"] == "workers");
    let names: Vec<_> = models.map(|it| it["name"].clone()).collect();
    assert_eq!(names, [json!("big"), json!("small")], "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused() {
    let api = api().await;
    for body in [
        json!({}),
        json!({ "kind": "user" }),
        json!({ "kind": "worker", "name": "" }),
        json!({ "kind": "worker", "name": "a\nb" }),
        json!({ "kind": "worker", "name": "x".repeat(101) }),
        json!({ "kind": "worker", "namespaces": ["Team"] }),
        json!({ "kind": "worker", "namespace": "a" }),
    ] {
        let answer = api.post("/api/v1/tokens", body.to_string()).await;
        answer.problem(400, "invalid-request");
    }
    let delete = Api::request(Method::DELETE, "/api/v1/tokens/1");
    api.send(delete, "").await.problem(400, "invalid-request");
    let (_, token) = api.worker_token(json!([])).await;
    let missing = Digest::of(b"missing").to_string();
    for (method, path, body, status, name) in [
        (Method::GET, "stream", "", 400, "invalid-request"),
        (
            Method::GET,
            "stream?namespaces=",
            "",
            400,
            "invalid-request",
        ),
        (
            Method::GET,
            "stream?namespaces=a&keep_alive_ms=1",
            "",
            400,
            "invalid-request",
        ),
        (Method::GET, "content/abc", "", 400, "invalid-request"),
        (
            Method::GET,
            &format!("content/{missing}"),
            "",
            404,
            "not-found",
        ),
        (
            Method::GET,
            &format!("plugins/{missing}"),
            "",
            404,
            "not-found",
        ),
        (
            Method::GET,
            &format!("payloads/{missing}"),
            "",
            404,
            "not-found",
        ),
        (
            Method::PUT,
            &format!("payloads/{missing}"),
            "other",
            422,
            "wrong-digest",
        ),
        (Method::POST, "pins", "{}", 400, "invalid-request"),
        (Method::POST, "records", "{}", 400, "invalid-request"),
    ] {
        let answer = api.as_worker(&token, method, path, body).await;
        answer.problem(status, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_values_are_had_by_their_digest() {
    let api = api().await;
    let (_, token) = api.worker_token(json!([])).await;
    api.flow(SETS).await;
    let flow = Digest::of(SETS.as_bytes());
    let path = format!("content/{flow}");
    let answer = api.as_worker(&token, Method::GET, &path, "").await;
    assert_eq!((answer.status.as_u16(), &answer.text[..]), (200, SETS));
    let path = format!("payloads/{}", Digest::of(b"value"));
    let put = api.as_worker(&token, Method::PUT, &path, "value").await;
    assert_eq!(put.status, 204, "{}", put.text);
    let answer = api.as_worker(&token, Method::GET, &path, "").await;
    assert_eq!((answer.status.as_u16(), &answer.text[..]), (200, "value"));
    let body = json!({ "workflow_type": "t.sets", "version": null }).to_string();
    let pins = api.as_worker(&token, Method::POST, "pins", body).await;
    assert_eq!(
        pins.json()["pinned"]["digest"],
        flow.to_string(),
        "{}",
        pins.text
    );
    let body = json!({ "workflow_type": "t.no", "version": null }).to_string();
    let pins = api.as_worker(&token, Method::POST, "pins", body).await;
    assert_eq!(pins.json()["failed"]["retryable"], false, "{}", pins.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_comes_twice_is_taken_once() {
    let api = api().await;
    let (_, token) = api.worker_token(json!(["default"])).await;
    api.flow(WAITS).await;
    api.start("w", "t.waits").await;
    let shown = api.get("/api/v1/workflows/w").await.json();
    let run = shown["run_id"].as_str().expect("an id").to_owned();
    let batch = |sequence: u64, namespace: &str| {
        json!({
            "worker": Uuid::nil(), "sequence": sequence, "records": [{
                "attempt": {
                    "namespace": namespace, "run_id": run, "activity_id": "1",
                    "activity_type": "greet.hello", "queue": "general-queue", "attempt": 1,
                },
                "said": { "log": {
                    "at": "2026-01-01T00:00:00Z", "level": "info", "message": "hello",
                }},
            }],
        })
        .to_string()
    };
    for _ in 0..2 {
        let sent = api.as_worker(&token, Method::POST, "records", batch(1, "default"));
        assert_eq!(sent.await.status, 204);
    }
    let foreign = api.as_worker(&token, Method::POST, "records", batch(2, "other"));
    foreign.await.problem(403, "forbidden");
    let logs = api.get("/api/v1/workflows/w/logs").await.json();
    assert_eq!(logs["logs"].as_array().map(Vec::len), Some(1), "{logs}");
    let sent = api.as_worker(&token, Method::POST, "records", batch(2, "default"));
    assert_eq!(sent.await.status, 204);
    let logs = api.get("/api/v1/workflows/w/logs").await.json();
    assert_eq!(logs["logs"].as_array().map(Vec::len), Some(2), "{logs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_written_before_it_is_taken() {
    let api = api().await;
    let (_, token) = api.worker_token(json!(["default"])).await;
    let run = Uuid::now_v7();
    let batch = |sequence: u64| {
        json!({
            "worker": Uuid::nil(), "sequence": sequence, "records": [{
                "attempt": {
                    "namespace": "default", "run_id": run, "activity_id": sequence.to_string(),
                    "activity_type": "greet.hello", "queue": "general-queue", "attempt": 1,
                },
                "said": { "ended": {
                    "started_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:01Z",
                    "outcome": "completed", "receipt": {}, "denied": [],
                }},
            }],
        })
        .to_string()
    };
    for sequence in 1..=3 {
        let sent = api.as_worker(&token, Method::POST, "records", batch(sequence));
        let sent = sent.await;
        assert_eq!(sent.status, 204, "{}", sent.text);
        // Not by the API, which has all written first that waits.
        let written = api.app.state.receipts("default", run, None, 9).await;
        let written = u64::try_from(written.expect("read").len());
        assert_eq!(written, Ok(sequence));
    }
    // The worker keeps what cannot be written.
    api.app.state.close().await;
    let sent = api.as_worker(&token, Method::POST, "records", batch(4));
    sent.await.problem(503, "storage-unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_attempts_of_workers_were_refused_is_in_the_audit() {
    let api = api().await;
    let (_, token) = api.worker_token(json!(["default"])).await;
    let (worker, run) = (Uuid::now_v7(), Uuid::now_v7());
    let batch = |sequence: u64, namespace: &str, denied: Value| {
        json!({
            "worker": worker, "sequence": sequence, "records": [{
                "attempt": {
                    "namespace": namespace, "run_id": run, "activity_id": "1",
                    "activity_type": "greet.hello", "queue": "general-queue", "attempt": 2,
                },
                "said": { "ended": {
                    "started_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:01Z",
                    "outcome": "capability-denied", "receipt": {}, "denied": denied,
                }},
            }],
        })
        .to_string()
    };
    let denied = json!([
        { "subject": "greet", "capability": "sql", "binding": "main", "reason": "no", "count": 3 },
        { "subject": "greeter", "capability": "http", "reason": "no", "count": 1 },
    ]);
    // Twice: its answer may have been lost.
    for _ in 0..2 {
        let batch = batch(1, "default", denied.clone());
        let sent = api.as_worker(&token, Method::POST, "records", batch).await;
        assert_eq!(sent.status, 204, "{}", sent.text);
    }
    let foreign = batch(2, "other", denied);
    let foreign = api.as_worker(&token, Method::POST, "records", foreign);
    foreign.await.problem(403, "forbidden");
    let found = async |query: &str| -> Vec<Value> {
        let audit = api.get(&format!("/api/v1/audit?{query}")).await.json();
        audit["audit"].as_array().expect("entries").clone()
    };
    let entries = found("action=capability.deny").await;
    assert_eq!(entries.len(), 2, "{entries:?}");
    let of = |entry: &Value, member: &str| entry["details"][member].clone();
    let entry = &entries[1];
    assert_eq!(entry["resource"], "greet");
    assert_eq!(entry["principal"], "plugin greet");
    assert_eq!(entry["at"], "2026-01-01T00:00:01Z");
    assert_eq!(of(entry, "binding"), "main");
    assert_eq!(of(entry, "count"), 3);
    assert_eq!(of(entry, "run_id"), run.to_string());
    assert_eq!(of(entry, "attempt"), 2);
    // By what was done and on what, each whole or by its beginning; page by page too.
    for (query, count) in [
        ("resource=greet", 1),
        ("resource=greet*", 2),
        ("action=capability.*&resource=greeter", 1),
        ("action=token.*", 1),
        ("action=token", 0),
        ("action=token.create&resource=greet*", 0),
        ("", 3),
    ] {
        assert_eq!(found(query).await.len(), count, "{query}");
    }
    let first = api
        .get("/api/v1/audit?action=capability.*&page_size=1")
        .await;
    let first = first.json();
    assert_eq!(first["audit"][0]["resource"], "greeter");
    let next = first["next_page_token"].as_str().expect("there is more");
    let next = found(&format!(
        "action=capability.*&page_size=1&page_token={next}"
    ))
    .await;
    assert_eq!(next[0]["resource"], "greet");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_goes_on_where_it_was_cut() {
    use axum::body::BodyDataStream;
    use futures::StreamExt as _;

    async fn next(stream: &mut BodyDataStream) -> String {
        loop {
            let chunk = tokio::time::timeout(std::time::Duration::from_secs(30), stream.next());
            let chunk = chunk.await.expect("in time").expect("open").expect("bytes");
            let text = String::from_utf8(chunk.to_vec()).expect("text");
            // What is no worker's business only raises the revision.
            if !text.contains("event: changes") || !text.contains("\"changes\":[]") {
                return text;
            }
        }
    }

    let api = api().await;
    let (id, token) = api.worker_token(json!([])).await;
    let open = async |after: Option<&str>| {
        let mut request = Request::builder()
            .uri("/api/v1/worker/stream?namespaces=default&keep_alive_ms=15000")
            .header("host", HOST)
            .header("authorization", format!("Bearer {token}"));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let request = request.body(Body::empty()).expect("a request");
        let answer = api
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("never fails");
        assert_eq!(answer.status(), 200);
        answer.into_body().into_data_stream()
    };
    let grant = async |path: &str| {
        let body = json!({ "subject": "t.asks", "capability": "http", "binding": path });
        let request = Api::request(Method::PUT, "/api/v1/grants");
        let answer = api.send(request, body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    let mut stream = open(None).await;
    assert!(next(&mut stream).await.contains("event: snapshot"));
    grant("GET:a.example").await;
    let told = next(&mut stream).await;
    assert!(
        told.contains("event: changes") && told.contains("a.example"),
        "{told}"
    );
    let at = told.lines().find_map(|line| line.strip_prefix("id: "));
    let at = at.expect("an id");
    drop(stream);
    grant("GET:b.example").await;
    let mut stream = open(Some(at)).await;
    let told = next(&mut stream).await;
    assert!(
        told.contains("event: changes") && told.contains("b.example"),
        "{told}"
    );
    let mut stream = open(Some("00000000000000000000000000000000.7")).await;
    let told = next(&mut stream).await;
    assert!(
        told.contains("event: snapshot") && told.contains("a.example"),
        "{told}"
    );
    let path = format!("/api/v1/tokens/{id}");
    api.send(Api::request(Method::DELETE, &path), "").await;
    let end = tokio::time::timeout(std::time::Duration::from_secs(30), stream.next());
    assert!(
        end.await.expect("in time").is_none(),
        "a revoked token's stream ends"
    );
}
