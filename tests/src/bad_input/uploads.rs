//! Uploads of components.

use heyday_durable::payload::Digest;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::cli::Desk;
use crate::support::component;
use crate::support::handmade::{DESCRIPTION, Handmade, long};
use crate::support::probe;
use crate::support::server::{Client, Options, Server};
use crate::support::worker::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_no_plugin_are_refused() {
    let server = Server::start().await.unwrap();
    no_plugins(&server.client).await;
    let plugins = server.client.get("/plugins").await.unwrap();
    assert_eq!(plugins["plugins"], json!([]));
}

/// Leaves none of them; so do the next two.
pub(crate) async fn no_plugins(client: &Client) {
    let module = wat::parse_str("(module (func (export \"run\")))").unwrap();
    let mut cut = component("probe");
    cut.truncate(cut.len() / 2);
    for (bytes, told) in [
        (
            b"PK\x03\x04 no component".to_vec(),
            "not a WebAssembly component",
        ),
        (Vec::new(), "not a WebAssembly component"),
        (cut, "not a WebAssembly component"),
        (module, "core WebAssembly module, not a component"),
        (
            component("expressions"),
            "does not export heyday:plugin/activities@0.1; it exports heyday:expressions/evaluator@0.1.0",
        ),
    ] {
        let problem = client
            .refused_upload(bytes, StatusCode::UNPROCESSABLE_ENTITY)
            .await;
        assert_eq!(problem["type"], "urn:heyday:problems:unusable");
        assert!(
            problem["detail"].as_str().unwrap().contains(told),
            "{problem}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_imports_are_named() {
    let server = probe::shared();
    foreign_imports(&server.client).await;
}

pub(crate) async fn foreign_imports(client: &Client) {
    let imports = r#"(import "acme:secrets/store@1.0.0" (instance (export "get" (func))))
        (import "wasi:nn/graph@0.2.0" (instance (export "load" (func))))
        (import "heyday:telepathy/mind@0.1.0" (instance (export "read" (func))))"#;
    let handmade = Handmade {
        imports,
        ..Handmade::default()
    };
    let problem = client
        .refused_upload(handmade.build(), StatusCode::UNPROCESSABLE_ENTITY)
        .await;
    let text = problem.to_string();
    for name in [
        "acme:secrets/store@1.0.0",
        "wasi:nn/graph@0.2.0",
        "heyday:telepathy/mind@0.1.0",
    ] {
        assert!(text.contains(name), "{name} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptions_that_cannot_be_used_are_refused() {
    let server = probe::shared();
    unusable_descriptions(&server.client).await;
}

pub(crate) async fn unusable_descriptions(client: &Client) {
    let none = DESCRIPTION.replace("\"handmade\"", "\"Hand Made\"");
    let version = DESCRIPTION.replace("1.0.0", "one");
    let file = DESCRIPTION.replace("\"input\":{}", r#""input":{"$ref":"file:///etc/passwd"}"#);
    let address = DESCRIPTION.replace(
        "\"output\":{}",
        r#""output":{"$ref":"http://127.0.0.1:1/x"}"#,
    );
    for (handmade, told) in [
        (
            Handmade {
                description: "{\"name\":",
                ..Handmade::default()
            },
            "JSON",
        ),
        (
            Handmade {
                description: &none,
                ..Handmade::default()
            },
            "name",
        ),
        (
            Handmade {
                description: &version,
                ..Handmade::default()
            },
            "version",
        ),
        (
            Handmade {
                description: &file,
                ..Handmade::default()
            },
            "/activities/0/input",
        ),
        (
            Handmade {
                description: &address,
                ..Handmade::default()
            },
            "/activities/0/output",
        ),
        (
            Handmade {
                before_describe: "unreachable",
                ..Handmade::default()
            },
            "unreachable",
        ),
        (
            Handmade {
                before_describe: "(loop (br 0))",
                ..Handmade::default()
            },
            "describe",
        ),
    ] {
        let problem = client
            .refused_upload(handmade.build(), StatusCode::UNPROCESSABLE_ENTITY)
            .await;
        assert!(
            problem["detail"].as_str().unwrap().contains(told),
            "{told} in {problem}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_over_the_limit_are_refused() {
    let config = Some("[limits]\nupload_bytes = 100000\n".to_owned());
    let server = Server::with(Options {
        config,
        ..Options::default()
    })
    .await
    .unwrap();
    let problem = server
        .client
        .refused_upload(component("probe"), StatusCode::PAYLOAD_TOO_LARGE)
        .await;
    assert_eq!(problem["type"], "urn:heyday:problems:too-large");
    let detail = problem["detail"].as_str().unwrap();
    let size = component("probe").len();
    for told in [
        "100000 bytes allowed",
        "limits.upload_bytes",
        &size.to_string(),
    ] {
        assert!(detail.contains(told), "{told} in {detail}");
    }
    // One that is far larger than what the system keeps on the way: the answer is read
    // although not all of it was sent.
    let problem = server
        .client
        .refused_upload(vec![0; 64 << 20], StatusCode::PAYLOAD_TOO_LARGE)
        .await;
    assert_eq!(problem["type"], "urn:heyday:problems:too-large");
    server
        .client
        .push(Handmade::default().build(), "")
        .await
        .unwrap();
}

/// One function so long that the compiler needs seconds.
fn endless() -> Vec<u8> {
    Handmade {
        functions: &long(60_000),
        ..Handmade::default()
    }
    .build()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_made_to_compile_for_ever_fails_alone() {
    let config = Some("[limits]\ncompile_cpu = '1s'\n".to_owned());
    let server = Server::with(Options {
        config,
        ..Options::default()
    })
    .await
    .unwrap();
    let client = &server.client;
    let upload = |query: &'static str, bytes: Vec<u8>| {
        client
            .request(Method::POST, &format!("/plugins?wait={query}"))
            .body(bytes)
            .send()
    };
    let taken = upload("0s", endless()).await.unwrap();
    assert_eq!(taken.status(), StatusCode::ACCEPTED);
    let location = taken.headers()["location"].to_str().unwrap().to_owned();
    let path = location.strip_prefix("/api/v1").unwrap();
    // While it is compiled the server answers, and another upload waits for its turn.
    let other = client.push(Handmade::default().build(), "");
    let health = client.http.get(format!("{}/health", server.url)).send();
    let (other, health) = tokio::join!(other, health);
    assert_eq!(other.unwrap()["state"], "ready");
    assert!(health.unwrap().status().is_success());
    let status = client.get(&format!("{path}?wait=60s")).await.unwrap();
    assert_eq!(status["state"], "failed", "{status}");
    assert_eq!(
        status["reason"],
        "compiling the component took more than 1 s of CPU time"
    );
    // Who waits for it is told the same, and it is no version.
    let problem = client
        .refused_upload(endless(), StatusCode::UNPROCESSABLE_ENTITY)
        .await;
    assert_eq!(problem["type"], "urn:heyday:problems:unusable");
    assert_eq!(problem["detail"], status["reason"]);
    let plugin = client.get("/plugins/handmade").await.unwrap();
    assert_eq!(plugin["versions"].as_array().unwrap().len(), 1, "{plugin}");
    let answer = client.succeed("handmade.answer", &Value::Null).await;
    assert_eq!(answer.unwrap(), 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_looked_at_on_the_command_line() {
    let config = Some("[limits]\ncompile_cpu = '1s'\n".to_owned());
    let options = Options {
        config,
        ..Options::default()
    };
    let server = Server::with(options).await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let bytes = endless();
    std::fs::write(desk.path().join("endless.wasm"), &bytes).unwrap();
    let digest = Digest::of(&bytes);
    let status = format!("heyday plugin status {digest}");

    // Who waits no longer is told where to look; the compilation goes on.
    let push = desk.watch("exec heyday plugin push endless.wasm 2>&1");
    let push = push.unwrap();
    eventually(async || {
        let request = server
            .client
            .request(Method::GET, &format!("/uploads/{digest}"));
        let answer = request.send().await.unwrap();
        (answer.status() == StatusCode::ACCEPTED).then_some(())
    })
    .await;
    push.interrupt();
    let (lines, code) = push.end().await.unwrap();
    assert_eq!(code, Some(130), "{lines:#?}");
    assert!(lines.concat().contains(&status), "{lines:#?}");
    let shown = desk.run("", &status).await.unwrap().ok();
    shown.says(&format!("{digest} is compiling"));
    let reason = "more than 1 s of CPU time";
    let wait = desk.run("", &format!("{status} --wait")).await.unwrap();
    wait.code(4).says(reason);
    let failed = desk.run("", &format!("{status} -o json")).await.unwrap();
    let failed = failed.code(4);
    let told: Value = serde_json::from_str(failed.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(told["state"], "failed", "{failed}");
    assert!(told["reason"].as_str().unwrap().contains(reason));

    let good = Handmade::default().build();
    server.client.push(good.clone(), "").await.unwrap();
    let status = format!("heyday plugin status {}", Digest::of(&good));
    let shown = desk.run("", &status).await.unwrap().ok();
    shown.says("plugin handmade 1.0.0 is active");
    let shown = desk.run("", &format!("{status} -o json")).await.unwrap();
    assert_eq!(shown.ok().json()["version"], "1.0.0");
    let none = format!("heyday plugin status {}", Digest::of(b"none"));
    desk.run("", &none).await.unwrap().code(3);
    let no_digest = desk.run("", "heyday plugin status handmade").await;
    no_digest.unwrap().code(2);
}
