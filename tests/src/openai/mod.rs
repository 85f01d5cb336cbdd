//! `/v1`, by OpenAI's official Python client. Its programs lie in `tests/openai`;
//! `cargo xtask test` installs it and names it in `HEYDAY_OPENAI_PYTHON`. [`remote`] has
//! the other direction: models of endpoints that speak that protocol; [`decoder`] both, over
//! a model of the server's own.

mod decoder;
mod remote;
pub(crate) mod stand_in;

use std::process::Stdio;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::inference::{MINILM, assert_close, import, model};
use crate::support::repository;
use crate::support::server::{Client, Options, Server};
use crate::support::worker::Site;

async fn server() -> Server {
    let options = Options {
        config: Some("[inference]\ndevice = 'cpu'\n".to_owned()),
        ..Options::default()
    };
    Server::with(options).await.unwrap()
}

/// What a program of the client answers.
async fn client(server: &Server, program: &str, asked: &Value) -> Value {
    let packages = std::env::var_os("HEYDAY_OPENAI_PYTHON")
        .expect("HEYDAY_OPENAI_PYTHON is set by `cargo xtask test`");
    let token = std::fs::read_to_string(server.data().join("token")).unwrap();
    let mut command = tokio::process::Command::new("python3");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OPENAI_") {
            command.env_remove(name);
        }
    }
    let script = repository().join("tests/openai");
    let mut child = command
        .arg(script.join(format!("{program}.py")))
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("OPENAI_BASE_URL", format!("{}/v1", server.url))
        .env("OPENAI_API_KEY", token.trim())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(asked.to_string().as_bytes()).await.unwrap();
    drop(input);
    let ended = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{program}.py: {said}");
    serde_json::from_slice(&ended.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_works_for_nobody_answers_too() {
    let Some(site) = Site::with(&[], "[inference]\ndevice = 'cpu'\n").await else {
        return;
    };
    let minilm = model(MINILM, "refuse");
    let judge = model("rerank-bert", "truncate");
    import(&site.server.client, "minilm", &minilm).await;
    import(&site.server.client, "judge", &judge).await;
    let asked = json!({
        "model": "minilm", "judge": "judge", "texts": minilm.texts, "dimensions": 384,
    });
    let found = client(&site.server, "embeddings", &asked).await;
    assert_close(&found["vectors"], &minilm.values);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_gets_models_and_embeddings() {
    // Long texts are refused by this protocol.
    let minilm = model(MINILM, "refuse");
    let judge = model("rerank-bert", "truncate");
    let server = server().await;
    import(&server.client, "minilm", &minilm).await;
    import(&server.client, "judge", &judge).await;
    let asked = json!({
        "model": "minilm", "judge": "judge", "texts": minilm.texts, "dimensions": 384,
    });
    let found = client(&server, "embeddings", &asked).await;
    assert_close(&found["vectors"], &minilm.values);

    let metrics = server.client.at(Method::GET, "/metrics").send().await;
    let metrics = metrics.unwrap().text().await.unwrap();
    let name = "heyday_api_model_tokens_total{model=\"minilm\",direction=\"input\"} ";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(name));
    let counted: u64 = counted.expect(&metrics).parse().unwrap();
    // The same texts were asked for twice, and one of them once more.
    let tokens = found["tokens"].as_u64().unwrap();
    assert!(
        (2 * tokens..3 * tokens).contains(&counted),
        "{counted} {tokens}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_openais_form_and_the_document_knows_it() {
    let server = server().await;
    errors(&server.client).await;
    let huge = format!("{{\"model\":\"m\",\"input\":\"{}\"}}", "a".repeat(18 << 20));
    let (found, error) = ask(&server.client, Method::POST, "/v1/embeddings", huge).await;
    assert_eq!(found, StatusCode::PAYLOAD_TOO_LARGE, "{error}");
    assert_eq!(error["code"], "too_large");
}

/// The error that a request is answered with.
async fn ask(client: &Client, method: Method, path: &str, body: String) -> (StatusCode, Value) {
    let request = client.at(method, path).body(body);
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let kind = answer.headers()["content-type"].clone();
    assert_eq!(kind, "application/json");
    let body: Value = answer.json().await.unwrap();
    (status, body["error"].clone())
}

/// Whatever models there are.
pub(crate) async fn errors(client: &Client) {
    for (method, path, body, status, kind, code) in [
        (
            Method::POST,
            "/v1/embeddings",
            "{",
            400,
            "invalid_request_error",
            "invalid_request",
        ),
        (
            Method::POST,
            "/v1/embeddings",
            "[]",
            400,
            "invalid_request_error",
            "invalid_request",
        ),
        (
            Method::POST,
            "/v1/embeddings",
            "{}",
            400,
            "invalid_request_error",
            "invalid_request",
        ),
        (
            Method::GET,
            "/v1/embeddings",
            "",
            405,
            "invalid_request_error",
            "method_not_allowed",
        ),
        (
            Method::GET,
            "/v1/none",
            "",
            404,
            "invalid_request_error",
            "not_found",
        ),
    ] {
        let (found, error) = ask(client, method, path, body.to_owned()).await;
        assert_eq!(found.as_u16(), status, "{path} {body}: {error}");
        assert_eq!(error["type"], kind, "{path} {body}: {error}");
        assert_eq!(error["code"], code, "{path} {body}: {error}");
        assert!(error["message"].is_string(), "{error}");
    }
    let stranger = reqwest::Client::new().get(format!("{}/v1/models", client.url()));
    let answer = stranger.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["code"], "invalid_api_key");

    let document = client.at(Method::GET, "/openapi.json").send().await;
    let document: Value = document.unwrap().json().await.unwrap();
    let operation = &document["paths"]["/v1/embeddings"]["post"];
    assert_eq!(operation["operationId"], "post_v1_embeddings");
    let schema = &document["components"]["schemas"]["EmbeddingsRequest"];
    assert_eq!(schema["required"], json!(["model", "input"]), "{schema}");
}
