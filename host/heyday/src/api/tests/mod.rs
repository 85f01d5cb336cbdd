//! The API over the real engine, registry and sandbox, without a socket.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use heyday_capabilities::bindings::Reserved;
use heyday_capabilities::blob::address::Addresses;
use heyday_capabilities::{Bindings, BindingsConfig};
use heyday_durable::clock::SystemClock;
use heyday_durable::embedded::{EmbeddedEngine, EmbeddedOptions, Host};
use heyday_durable::engine::Engine;
use heyday_durable::expressions::{ExpressionError, Expressions, Program};
use heyday_durable::payload::Digest;
use heyday_sandbox::{Compiler, Sandbox, SandboxOptions};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{App, Parts, router};
use crate::auth::{Auth, digest};
use crate::config::Config;
use crate::content::Content;
use crate::definitions::HostDefinitions;
use crate::executor::{Executor, ExecutorOptions};
use crate::files::ContentFiles;
use crate::metrics::{Metrics, Sources};
use crate::pulls::Pulls;
use crate::recorder::Recorder;
use crate::registry::{Registry, RegistryOptions};
use crate::replays::Replays;
use crate::schedules::FlowSchedules;
use crate::state::{HostDb, StateLocation};
use crate::tokens::WorkerTokens;
use crate::workers::Workers;

mod lists;
mod presigned;
mod replays;
mod requests;
mod runs;
mod schedules;
mod signals;
mod workers;

const TOKEN: &str = "a-token-of-the-tests";
const HOST: &str = "127.0.0.1:8000";
/// Requests that may wait at once here.
const WAITING: usize = 3;
/// Bytes of the largest object here.
const OBJECT: usize = 3 << 20;
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
    api_with(false).await
}

/// The same; of a server whose attempts run on workers, where `on_workers`. Its engine takes
/// them here even so.
async fn api_with(on_workers: bool) -> Api {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let location = StateLocation::File(path("host.db"));
    let state = HostDb::open(&location).await.expect("opened");
    let blob = json!({
        "default": { "path": path("objects"), "limits": { "object_bytes": OBJECT } },
        "closed": { "path": path("closed"), "limits": { "presign_ms": 0 } },
    });
    let config = json!({ "namespaces": { "default": { "blob": blob } } });
    let config: BindingsConfig = serde_json::from_value(config).expect("bindings");
    let handle = tokio::runtime::Handle::current();
    let addresses = Addresses::new(&format!("http://{HOST}"), b"a-key-of-the-tests");
    let bindings = Bindings::open_with(&config, &handle, Some(addresses), &Reserved::default());
    let bindings = Arc::new(bindings.expect("folders"));
    let options = SandboxOptions::new(path("cache"), Compiler::InProcessForTests);
    let sandbox = Sandbox::new(
        options,
        crate::server::capabilities(&Config::default(), &bindings),
    )
    .expect("set up");
    let expressions: Arc<dyn Expressions> = Arc::new(NoExpressions);
    let config = Arc::new(Config::default());
    let registry = Registry::open(RegistryOptions {
        database: state.clone(),
        files: ContentFiles::open(path("components"))
            .expect("a folder")
            .into(),
        sandbox: sandbox.clone(),
        expressions: Arc::clone(&expressions),
        bindings,
        queues: config.queues().into_keys().collect(),
        default_queues: config.default_queues.clone(),
        foreign_workers: on_workers,
    })
    .await
    .expect("opened");
    let recorder = Recorder::new(state.clone());
    let stop = CancellationToken::new();
    tokio::spawn(recorder.clone().run(stop.clone()));
    let metrics = Arc::new(Metrics::default());
    let definitions = Arc::new(HostDefinitions::new(registry.clone()));
    let payloads = ContentFiles::open(path("payloads")).expect("a folder");
    let payloads = Arc::new(Content::from(payloads));
    let executor = Executor::new(ExecutorOptions {
        catalogue: Arc::new(registry.clone()),
        sandbox: sandbox.clone(),
        records: Arc::new(recorder.clone()),
        metrics: Arc::clone(&metrics),
        config,
    });
    let replays = Replays::new(
        registry.clone(),
        Arc::clone(&expressions),
        Arc::clone(&payloads) as _,
    )
    .expect("threads");
    let options = EmbeddedOptions::new(path("history.db"), BTreeMap::new());
    let host = Host {
        executor: Arc::new(executor),
        definitions: Arc::clone(&definitions) as _,
        expressions,
        payloads: Arc::clone(&payloads) as _,
        clock: Arc::new(SystemClock),
    };
    let engine = EmbeddedEngine::open(options, host).await.expect("opened");
    let embedded = Arc::new(engine);
    let engine: Arc<dyn Engine> = Arc::clone(&embedded) as _;
    metrics.ask(Sources {
        engine: Arc::downgrade(&engine),
        embedded: Some(Arc::downgrade(&embedded)),
        sandbox,
        records: Arc::new(recorder.clone()),
    });
    let flow_schedules = FlowSchedules::new(Arc::clone(&engine), registry.clone());
    let app = App::new(Parts {
        engine,
        flow_schedules,
        engine_name: "embedded",
        attempts_here: !on_workers,
        attempts_elsewhere: on_workers,
        record_days: 30,
        registry,
        replays,
        definitions,
        recorder,
        payloads,
        auth: Auth::new(digest(TOKEN), HOST.parse().expect("an address"), &[]),
        follower: None,
        tokens: WorkerTokens::open(state.clone()).await.expect("read"),
        workers: Workers::new(state.clone()),
        state,
        metrics,
        pulls: Pulls::new(folder.path(), stop.clone()),
        hubs: BTreeMap::new(),
        upload_bytes: UPLOAD,
        stopping: CancellationToken::new(),
        waiting: Arc::new(Semaphore::new(WAITING)),
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
