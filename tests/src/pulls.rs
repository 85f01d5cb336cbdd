//! Models that are pulled: from a hub that breaks off, moves on and lies, and from a
//! container.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::{StreamExt as _, stream};
use heyday_capabilities::blob::s3::S3Container;
use heyday_capabilities::blob::{BlobLimits, Condition, Container as _};
use heyday_durable::payload::Digest;
use reqwest::Method;
use serde_json::{Value, json};

use crate::inference::model;
use crate::support::cli::Desk;
use crate::support::http_server::{cut, serve};
use crate::support::s3::Gateway;
use crate::support::server::{Client, Options, Server};
use crate::support::worker::eventually;

const WEIGHTS: &str = "model.safetensors";

/// Of bytes, in hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    Digest::of(bytes).hex()
}

/// A hub with one repository, `org/small`.
#[derive(Clone, Default)]
struct Hub {
    folder: PathBuf,
    state: Arc<Mutex<HubState>>,
}

#[derive(Default)]
struct HubState {
    /// After so many bytes the weights' connection is cut, each time.
    cuts: Vec<usize>,
    /// It is not cut there, but nothing more comes.
    silent: bool,
    /// The weights' digest is said to be another.
    lies: bool,
    /// The key that it wants.
    key: Option<&'static str>,
    /// Ranges that were asked for of the weights.
    ranges: Vec<String>,
    /// What its store was asked with.
    keys_of_store: Vec<Option<String>>,
}

impl Hub {
    async fn start(folder: PathBuf) -> (Self, String) {
        let hub = Self {
            folder,
            state: Arc::default(),
        };
        let router = Router::new()
            .route("/org/small/resolve/{revision}/{*file}", get(resolve))
            .with_state(hub.clone());
        let store = Router::new()
            .route("/store/{*file}", get(stored))
            .with_state(hub.clone());
        // A server of its own, as the stores of hubs are.
        let store = serve(store).await.unwrap();
        let address = serve(router.layer(axum::Extension(store))).await.unwrap();
        (hub, format!("http://{address}"))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, HubState> {
        self.state.lock().unwrap()
    }
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().unwrap();
    Some(value.to_owned())
}

async fn resolve(
    State(hub): State<Hub>,
    axum::Extension(store): axum::Extension<std::net::SocketAddr>,
    Path((revision, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let key = hub.state().key.map(|key| format!("Bearer {key}"));
    if key.is_some() && bearer(&headers) != key {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Ok(bytes) = std::fs::read(hub.folder.join(&file)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if revision != "main" {
        return StatusCode::NOT_FOUND.into_response();
    }
    let lies = hub.state().lies;
    let digest = if lies { sha256(b"") } else { sha256(&bytes) };
    if file == WEIGHTS {
        let headers = [
            (header::LOCATION, format!("http://{store}/store/{file}")),
            (
                header::HeaderName::from_static("x-linked-etag"),
                format!("\"{digest}\""),
            ),
        ];
        return (StatusCode::FOUND, headers).into_response();
    }
    ([(header::ETAG, format!("\"{}\"", &digest[..40]))], bytes).into_response()
}

async fn stored(State(hub): State<Hub>, Path(file): Path<String>, headers: HeaderMap) -> Response {
    let mut state = hub.state();
    state.keys_of_store.push(bearer(&headers));
    let bytes = std::fs::read(hub.folder.join(&file)).unwrap();
    let all = bytes.len();
    let range = headers.get(header::RANGE).map(|it| it.to_str().unwrap());
    state.ranges.push(range.unwrap_or_default().to_owned());
    let from: usize = range.map_or(0, |range| {
        let from = range.strip_prefix("bytes=").unwrap().trim_end_matches('-');
        from.parse().unwrap()
    });
    let pieces = |bytes: &[u8]| {
        let pieces: Vec<_> = bytes.chunks(10_000).map(|it| Ok(it.to_vec())).collect();
        stream::iter(pieces)
    };
    let rest = &bytes[from..];
    let silent = state.silent;
    let body = match state.cuts.pop() {
        Some(length) if silent => {
            Body::from_stream(pieces(&rest[..length]).chain(stream::pending()))
        }
        Some(length) => Body::from_stream(pieces(&rest[..length]).chain(cut())),
        None => Body::from_stream(pieces(rest)),
    };
    let length = (header::CONTENT_LENGTH, (all - from).to_string());
    let tag = (header::ETAG, "\"of the store\"".to_owned());
    if range.is_none() {
        return ([length, tag], body).into_response();
    }
    let range = (
        header::CONTENT_RANGE,
        format!("bytes {from}-{}/{all}", all - 1),
    );
    (StatusCode::PARTIAL_CONTENT, [length, tag, range], body).into_response()
}

async fn server(url: &str, key: &std::path::Path, further: &str) -> Server {
    let config = format!(
        "[inference]\ndevice = 'cpu'\n[inference.hubs.main]\nurl = '{url}'\nkey_file = '{}'\n{further}",
        key.display()
    );
    Server::with(Options {
        config: Some(config),
        ..Options::default()
    })
    .await
    .unwrap()
}

/// Pulls, and answers how it ended.
async fn pull(client: &Client, body: &Value) -> Value {
    let begun = client.post("/model-pulls", body).await.unwrap();
    assert_eq!(begun["name"], body["name"], "{begun}");
    let path = format!("/model-pulls/{}?wait=60s", body["name"].as_str().unwrap());
    let ended = client.get(&path).await.unwrap();
    assert!(
        ended["state"] == "done" || ended["state"] == "failed",
        "{ended}"
    );
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_where_it_was_and_believes_nobody() {
    let small = model("bert-cls", "refuse");
    let (hub, url) = Hub::start(small.model.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "hub-key\n").unwrap();
    hub.state().key = Some("hub-key");
    let server = server(&url, &key, "").await;
    let client = &server.client;
    let wanted = json!({ "name": "small", "source": "hub:main/org/small" });

    // Two cuts in one pull.
    hub.state().cuts = vec![30_000, 20_000];
    let done = pull(client, &wanted).await;
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["model"]["properties"]["pooling"], "cls", "{done}");
    let bytes = std::fs::metadata(small.model.join(WEIGHTS)).unwrap().len();
    assert!(done["bytes"].as_u64().unwrap() > bytes, "{done}");
    assert_eq!(done["bytes"], done["total"], "{done}");
    let ranges = std::mem::take(&mut hub.state().ranges);
    assert_eq!(ranges, ["", "bytes=20000-", "bytes=50000-"]);
    // The store is another server: the key is not for it.
    assert!(hub.state().keys_of_store.iter().all(Option::is_none));
    let digest = done["model"]["digest"].clone();
    assert_eq!(client.get("/models/small").await.unwrap()["digest"], digest);
    // Nothing is left beside the store.
    let incoming = server.data().join("models/incoming");
    assert_eq!(std::fs::read_dir(&incoming).unwrap().count(), 0);

    // The same again changes nothing; another digest than is wanted does neither.
    assert_eq!(pull(client, &wanted).await["state"], "done");
    let mut pinned = json!({
        "name": "pinned", "source": "hub:main/org/small", "digest": "0".repeat(64),
    });
    let refused = pull(client, &pinned).await;
    assert_eq!(refused["state"], "failed", "{refused}");
    let told = refused["error"].as_str().unwrap();
    assert!(told.contains(digest.as_str().unwrap()), "{told}");
    pinned["digest"] = digest;
    assert_eq!(pull(client, &pinned).await["state"], "done");

    // What the hub says of a file is compared with the file.
    hub.state().lies = true;
    let lied = json!({ "name": "lied", "source": "hub:main/org/small" });
    let refused = pull(client, &lied).await;
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("its source says"),
        "{refused}"
    );
    hub.state().lies = false;

    // A server that is killed in the middle goes on at its next start.
    hub.state().cuts = vec![20_000];
    hub.state().silent = true;
    let halted = json!({ "name": "halted", "source": "hub:main/org/small" });
    client.post("/model-pulls", &halted).await.unwrap();
    let came = async || {
        let mut pulls = std::fs::read_dir(&incoming).unwrap();
        let weights = pulls.find_map(|pull| {
            let part = pull.unwrap().path().join(format!("{WEIGHTS}.part"));
            std::fs::metadata(part).ok()
        });
        weights.filter(|weights| weights.len() == 20_000)
    };
    eventually(came).await;
    hub.state().ranges.clear();
    let config = std::fs::read_to_string(server.data().join("test-config.toml")).unwrap();
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let server = server.kill_and_restart(options).await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let pulled = desk
        .run("", "heyday model pull halted hub:main/org/small")
        .await;
    pulled.unwrap().ok().says("embed, bert, 48 dimensions");
    let ranges = std::mem::take(&mut hub.state().ranges);
    assert_eq!(ranges, ["bytes=20000-"]);

    hub.state().key = Some("another");
    let refused = desk
        .run("", "heyday model pull other hub:main/org/small")
        .await;
    let refused = refused.unwrap().code(4).says("401");
    assert!(!refused.to_string().contains("hub-key"), "{refused}");
    assert!(!server.log().contains("hub-key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_configured_is_a_source() {
    let small = model("bert-cls", "refuse");
    let further = format!(
        "[bindings.namespaces.default.blob.shelf]\npath = '{}'\nread_only = true\n\
         [inference.remote.far]\nurl = 'http://127.0.0.1:1/v1'\nmodel = 'm'\ntask = 'generate'\n\
         window = 512\n",
        small.model.parent().unwrap().display()
    );
    let folder = tempfile::tempdir().unwrap();
    let server = server("http://127.0.0.1:1", &folder.path().join("key"), &further).await;
    let client = &server.client;
    let source = format!(
        "blob:shelf/{}",
        small.model.file_name().unwrap().to_str().unwrap()
    );
    let done = pull(client, &json!({ "name": "small", "source": source })).await;
    assert_eq!(done["state"], "done", "{done}");
    let none = pull(
        client,
        &json!({ "name": "none", "source": "blob:shelf/none" }),
    )
    .await;
    assert!(
        none["error"].as_str().unwrap().contains("config.json"),
        "{none}"
    );
    let listed = client.rows("/model-pulls?page_size=1", "pulls").await;
    let names: Vec<_> = listed
        .unwrap()
        .iter()
        .map(|it| it["name"].clone())
        .collect();
    assert_eq!(names, ["none", "small"]);
    for (name, source, status, told) in [
        ("x", "https://elsewhere.example/x", 400, "no source"),
        ("x", "hub:none/a/b", 400, "no hub none"),
        ("x", "blob:none/a", 400, "no binding none"),
        ("Not A Name", &*source, 400, "not a name"),
        ("far", &*source, 409, "runs elsewhere"),
    ] {
        let body = json!({ "name": name, "source": source });
        let sent = client
            .request(Method::POST, "/model-pulls")
            .json(&body)
            .send();
        let status = StatusCode::from_u16(status).unwrap();
        let problem = Client::refused(sent.await.unwrap(), status).await;
        assert!(
            problem["detail"].as_str().unwrap().contains(told),
            "{problem}"
        );
    }
    for (method, path) in [
        (Method::POST, "/models/far/verify"),
        (Method::DELETE, "/models/far"),
    ] {
        let sent = client.request(method, path).send();
        let problem = Client::refused(sent.await.unwrap(), StatusCode::NOT_FOUND).await;
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("runs elsewhere"),
            "{problem}"
        );
    }
    let sent = client.request(Method::GET, "/model-pulls/unknown").send();
    Client::refused(sent.await.unwrap(), StatusCode::NOT_FOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_a_source_too() {
    let Some(gateway) = Gateway::start() else {
        return;
    };
    let small = model("bert-cls", "refuse");
    let bucket = S3Container::new(
        &gateway.config("models"),
        false,
        BlobLimits::default(),
        tokio::runtime::Handle::current(),
    )
    .unwrap();
    let mut open = vec![small.model.clone()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let key = path.strip_prefix(&small.model).unwrap().to_str().unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let key = format!("org/small/{key}");
            let put = bucket.put(key, bytes.into(), Condition::Always);
            put.await.unwrap();
        }
    }
    let further = format!(
        "[bindings.namespaces.default.blob.shelf]\n{}",
        gateway.toml("models")
    );
    let folder = tempfile::tempdir().unwrap();
    let server = server("http://127.0.0.1:1", &folder.path().join("key"), &further).await;
    let asked = json!({ "name": "small", "source": "blob:shelf/org/small" });
    let done = pull(&server.client, &asked).await;
    assert_eq!(done["state"], "done", "{done}");
    let found = server.client.get("/models/small").await.unwrap();
    assert_eq!(found["properties"]["dimensions"], 48, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_loaded_and_unloaded_by_hand() {
    let small = model("bert-cls", "refuse");
    let options = Options {
        config: Some("[inference]\ndevice = 'cpu'\n".to_owned()),
        ..Options::default()
    };
    let server = Server::with(options).await.unwrap();
    crate::inference::import(&server.client, "small", &small).await;
    let desk = Desk::new(&server).unwrap();
    let loaded = async || server.client.get("/models/small").await.unwrap()["loaded"].clone();
    assert_eq!(loaded().await, false);
    desk.run("", "heyday model load small").await.unwrap().ok();
    assert_eq!(loaded().await, true);
    desk.run("", "heyday model unload small")
        .await
        .unwrap()
        .ok();
    assert_eq!(loaded().await, false);
    desk.run("", "heyday model load none")
        .await
        .unwrap()
        .code(3);
    desk.run("", "heyday model workers")
        .await
        .unwrap()
        .ok()
        .says("No worker");
}
