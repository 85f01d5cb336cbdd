//! The API over the real engine, registry and sandbox, without a socket.

mod signals;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use heyday_capabilities::{Bindings, BindingsConfig};
use heyday_durable::clock::SystemClock;
use heyday_durable::embedded::{EmbeddedEngine, EmbeddedOptions, Host};
use heyday_durable::expressions::{ExpressionError, Expressions, Program};
use heyday_durable::payload::Digest;
use heyday_sandbox::{Compiler, Sandbox, SandboxOptions};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{App, Parts, router};
use crate::auth::Auth;
use crate::config::Config;
use crate::definitions::HostDefinitions;
use crate::executor::{Executor, ExecutorOptions};
use crate::files::ContentFiles;
use crate::metrics::{Metrics, Sources};
use crate::recorder::Recorder;
use crate::registry::{Registry, RegistryOptions};
use crate::state::HostDb;

const TOKEN: &str = "a-token-of-the-tests";
const HOST: &str = "127.0.0.1:8000";
/// Requests that may wait at once here.
const WAITING: usize = 3;
/// Bytes of the largest upload here.
const UPLOAD: usize = 1 << 20;

/// A flow that waits until it is ended.
const WAITS: &str = "document: {dsl: '1.0.0', namespace: t, name: waits, version: '1.0.0'}\n\
                     do: [{w: {wait: {hours: 1}}}]\n";
/// A flow that ends at once.
const SETS: &str = "document: {dsl: '1.0.0', namespace: t, name: sets, version: '1.0.0'}\n\
                    do: [{s: {set: {answer: 42}}}]\n";

/// Compiles no expression: the flows here have none.
struct NoExpressions;

impl Expressions for NoExpressions {
    fn compile(&self, all: &[String], _: &[String]) -> Result<Arc<dyn Program>, ExpressionError> {
        struct Empty;
        impl Program for Empty {
            fn evaluate(&self, _: usize, _: &Value, _: &[Value]) -> Result<Value, ExpressionError> {
                Err(ExpressionError::Unavailable("there is none".to_owned()))
            }
        }
        match all.first() {
            None => Ok(Arc::new(Empty)),
            Some(_) => Err(ExpressionError::Unavailable("there is none".to_owned())),
        }
    }

    fn digest(&self) -> Digest {
        Digest::of(b"none")
    }
}

struct Api {
    router: Router,
    app: App,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn api() -> Api {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let state = HostDb::open(&path("host.db")).await.expect("opened");
    let config = BindingsConfig::default();
    let handle = tokio::runtime::Handle::current();
    let bindings = Arc::new(Bindings::open(&config, &handle).expect("no bindings"));
    let options = SandboxOptions::new(path("cache"), Compiler::InProcessForTests);
    let sandbox =
        Sandbox::new(options, heyday_capabilities::capabilities(&bindings)).expect("set up");
    let expressions: Arc<dyn Expressions> = Arc::new(NoExpressions);
    let config = Arc::new(Config::default());
    let registry = Registry::open(RegistryOptions {
        database: state.clone(),
        files: ContentFiles::open(path("components")).expect("a folder"),
        sandbox: sandbox.clone(),
        expressions: Arc::clone(&expressions),
        bindings,
        queues: config.queues().into_keys().collect(),
    })
    .await
    .expect("opened");
    let recorder = Recorder::new(state.clone());
    let stop = CancellationToken::new();
    tokio::spawn(recorder.clone().run(stop.clone()));
    let metrics = Arc::new(Metrics::default());
    let definitions = Arc::new(HostDefinitions::new(registry.clone()));
    let payloads = Arc::new(ContentFiles::open(path("payloads")).expect("a folder"));
    let executor = Executor::new(ExecutorOptions {
        registry: registry.clone(),
        sandbox: sandbox.clone(),
        recorder: recorder.clone(),
        metrics: Arc::clone(&metrics),
        config,
    });
    let options = EmbeddedOptions::new(path("history.db"), BTreeMap::new());
    let host = Host {
        executor: Arc::new(executor),
        definitions: Arc::clone(&definitions) as _,
        expressions,
        payloads: Arc::clone(&payloads) as _,
        clock: Arc::new(SystemClock),
    };
    let engine = EmbeddedEngine::open(options, host).await.expect("opened");
    let engine = Arc::new(engine);
    metrics.ask(Sources {
        engine: Arc::downgrade(&engine),
        sandbox,
        recorder: recorder.clone(),
    });
    let app = App::new(Parts {
        engine,
        registry,
        definitions,
        recorder,
        state,
        payloads,
        auth: Auth::new(TOKEN, HOST.parse().expect("an address")),
        metrics,
        upload_bytes: UPLOAD,
        stopping: CancellationToken::new(),
        waiting: Arc::new(Semaphore::new(WAITING)),
        in_flight: Default::default(),
    });
    Api {
        router: router(app.clone()),
        app,
        stop,
        _folder: folder,
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("JSON")
    }

    /// The problem document, of that status and type.
    fn problem(&self, status: u16, name: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(
            problem["type"],
            format!("urn:heyday:problems:{name}"),
            "{problem}"
        );
        assert_eq!(problem["status"], status);
        assert_eq!(
            problem["request_id"],
            self.headers["x-request-id"].to_str().expect("text")
        );
        problem
    }
}

impl Api {
    async fn send(&self, request: axum::http::request::Builder, body: impl Into<Body>) -> Answer {
        let request = request.body(body.into()).expect("a request");
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("never fails");
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 64 << 20).await.expect("a body");
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).expect("text"),
        }
    }

    fn request(method: Method, path: &str) -> axum::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", HOST)
            .header("authorization", format!("Bearer {TOKEN}"))
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Self::request(Method::GET, path), Body::empty())
            .await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Self::request(Method::POST, path), body).await
    }

    async fn keyed(&self, path: &str, key: &str, body: impl Into<Body>) -> Answer {
        let request = Self::request(Method::POST, path).header("idempotency-key", key);
        self.send(request, body).await
    }

    async fn flow(&self, text: &'static str) {
        let answer = self.post("/api/v1/flows", text).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }

    async fn start(&self, id: &str, flow: &str) {
        let body = json!({ "workflow_type": flow, "workflow_id": id }).to_string();
        let answer = self.post("/api/v1/workflows", body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
}

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
    api.post("/api/v1/plugins", large())
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
    assert_eq!(api.post("/api/v1/flows", newer).await.status, 201);
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
    let events = waits("/api/v1/workflows/a/events");
    let logs = waits("/api/v1/workflows/a/logs?follow=true");
    api.app.stopping.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        let result = result.await.expect("answered");
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
async fn the_documentation_is_whole() {
    let api = api().await;
    let document = api.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
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
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "operation ids are not unique");
    let one_run = "/api/v1/workflows/{workflow_id}/runs/{run_id}/result";
    assert!(document["paths"][one_run]["get"].is_object());
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
