//! A full disk over the API, whichever of the server's files has no room: what cannot be
//! stored is refused with a text that says so, the rest goes on, and with room again the
//! same request does what it should have done.
//!
//! The server runs with a small library before the C library (`write.c`), whose
//! `write` fails with `ENOSPC` for some files: that needs no file system of its own. What
//! the engine does between its commits is in [`crate::power_loss`].

use std::path::PathBuf;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::handmade::{DESCRIPTION, Handmade};
use crate::support::server::{Client, Options, Server};
use crate::support::worker::eventually;

/// The disk of one server.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// Builds the library.
    fn new() -> Self {
        let disk = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let source = disk.path("write.c");
        std::fs::write(&source, include_str!("full_disk/write.c")).unwrap();
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let built = std::process::Command::new(compiler)
            .args(["-shared", "-fPIC", "-o"])
            .args([disk.path("write.so"), source, PathBuf::from("-ldl")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{said}");
        disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A server on it.
    async fn server(&self) -> Server {
        let text = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let options = Options {
            environment: vec![
                ("LD_PRELOAD".to_owned(), text("write.so")),
                ("HEYDAY_TEST_FULL".to_owned(), text("full")),
            ],
            ..Options::default()
        };
        Server::with(options).await.unwrap()
    }

    /// From now on there is no room for files whose paths contain that.
    fn fill(&self, files: &str) {
        std::fs::write(self.path("full"), files).unwrap();
    }

    /// There is room again.
    fn free(&self) {
        std::fs::remove_file(self.path("full")).unwrap();
    }
}

/// The request was refused, and the text says why and what to do.
async fn refused(response: Response) {
    assert!(response.headers().contains_key("retry-after"));
    let problem = Client::refused(response, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(problem["type"], "urn:heyday:problems:storage-unavailable");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("full") && detail.contains("again"),
        "{problem}"
    );
}

fn flow(name: &str, tasks: &str) -> String {
    format!(
        "document: {{dsl: 1.0.3, namespace: tests, name: {name}, version: 1.0.0}}\ndo: [{tasks}]\n"
    )
}

async fn start(client: &Client, workflow_type: &str, input: &Value) -> Response {
    let body = json!({ "workflow_type": workflow_type, "input": input });
    let request = client.request(Method::POST, "/workflows").json(&body);
    request.send().await.unwrap()
}

/// What a write left behind that did not come to its end.
fn rests(server: &Server, folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(server.data().join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_file()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_wait_for_room() {
    let disk = Disk::new();
    let server = disk.server().await;
    let client = &server.client;
    let answer = async || {
        let answer = client.succeed("handmade.answer", &Value::Null).await;
        answer.unwrap()
    };
    client.push(Handmade::default().build(), "").await.unwrap();
    let description = DESCRIPTION.replace("1.0.0", "2.0.0");
    let second = Handmade {
        description: &description,
        output: "43",
        ..Handmade::default()
    };
    let set = flow("sets", "{all: {set: {done: true}}}");
    assert_eq!(answer().await, 42);

    disk.fill("/components/");
    refused(client.upload(second.build(), "").await.unwrap()).await;
    refused(client.push_flow(&set).await.unwrap()).await;
    assert_eq!(answer().await, 42);
    assert_eq!(rests(&server, "components"), Vec::<PathBuf>::new());

    disk.free();
    let pushed = client.push(second.build(), "").await.unwrap();
    assert_eq!(pushed["active"], true, "{pushed}");
    assert_eq!(answer().await, 43);
    let pushed = client.push_flow(&set).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let outcome = client.run("tests.sets", &json!(null)).await.unwrap();
    assert_eq!(outcome.body["result"]["done"], true, "{}", outcome.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_wait_for_room() {
    let disk = Disk::new();
    let server = disk.server().await;
    let client = &server.client;
    let length = flow("counts", "{all: {set: {length: '${ .text | length }'}}}");
    let pushed = client.push_flow(&length).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let large = json!({ "text": "x".repeat(300 << 10) });

    disk.fill("/payloads/");
    refused(start(client, "tests.counts", &large).await).await;
    let small = client.run("tests.counts", &json!({ "text": "abc" })).await;
    assert_eq!(small.unwrap().body["result"]["length"], 3);
    assert_eq!(rests(&server, "payloads"), Vec::<PathBuf>::new());

    disk.free();
    let outcome = client.run("tests.counts", &large).await.unwrap();
    assert_eq!(outcome.body["result"]["length"], 300 << 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_waits_for_room() {
    let disk = Disk::new();
    let server = disk.server().await;
    let client = &server.client;
    client.push(Handmade::default().build(), "").await.unwrap();
    let answer = async || {
        let answer = client.succeed("handmade.answer", &Value::Null).await;
        answer.unwrap()
    };
    assert_eq!(answer().await, 42);
    let body = json!({ "subject": "handmade", "capability": "kv", "binding": "default" });
    let grant = async || {
        let request = client.request(Method::PUT, "/grants").json(&body);
        request.send().await.unwrap()
    };
    let grants = async || client.get("/grants").await.unwrap().to_string();

    disk.fill("/host.db");
    refused(grant().await).await;
    assert!(!grants().await.contains("handmade"));
    assert_eq!(answer().await, 42);

    disk.free();
    Client::ok(grant().await).await.unwrap();
    assert!(grants().await.contains("handmade"));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_wait_for_room() {
    let disk = Disk::new();
    let server = disk.server().await;
    let client = &server.client;
    let waits = flow("waits", "{pause: {wait: PT2S}}, {all: {set: {done: true}}}");
    let pushed = client.push_flow(&waits).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let open = client.start("tests.waits", &Value::Null).await.unwrap();

    disk.fill("/history.db");
    refused(start(client, "tests.waits", &Value::Null).await).await;
    let shown = client.get(&format!("/workflows/{open}")).await.unwrap();
    assert_eq!(shown["status"], "Running", "{shown}");

    disk.free();
    let outcome = client.result(&open).await.unwrap();
    assert_eq!(outcome.body["result"]["done"], true, "{}", outcome.body);
    // What waited to be written may come first.
    let id = eventually(async || {
        let response = start(client, "tests.waits", &Value::Null).await;
        let started = Client::ok(response).await.ok()?;
        Some(started["workflow_id"].as_str()?.to_owned())
    })
    .await;
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.body["result"]["done"], true, "{}", outcome.body);
}
