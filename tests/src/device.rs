//! A device that fails: what attempts are told, how a worker tells it, and one that is not
//! there at all. What fails is a fail point, in the place of a driver.

use std::process::Stdio;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::generation::cases;
use crate::inference::{assert_close, import, model, server_with};
use crate::support::ports::free_port;
use crate::support::server::{Client, PATIENCE};
use crate::support::worker::Site;
use crate::support::{binary, cache, component};

/// A flow that asks until it is answered.
const PATIENT: &str = "document: {dsl: '1.0.3', namespace: models, name: patient, version: 1.0.0}
do:
- ask:
    call: thinker.embed
    metadata:
      heyday:
        retry: {initial_interval: PT0.2S, backoff_coefficient: 1, maximum_attempts: 0}
";

/// Runs it where the device fails like that in the middle of an attempt; answers how its
/// attempts ended.
async fn outcomes(environment: &[(&str, &str)]) -> Vec<Value> {
    let small = model("bert-cls", "refuse");
    let models = [("small", small.model.as_path())];
    let server = server_with("", environment, &models).await;
    let input = json!({ "model": "small", "texts": small.texts, "times": 2 });
    let (result, outcomes) = asked(&server.client, PATIENT, &input).await;
    assert_close(&result, &small.values);
    outcomes
}

/// What a patient flow is answered, and how its attempts ended.
async fn asked(client: &Client, flow: &str, input: &Value) -> (Value, Vec<Value>) {
    let pushed = client.push_flow(flow).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let id = client.start("models.patient", input).await.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    let receipts = client.receipts(&id).await.unwrap();
    let outcomes = receipts.iter().map(|it| it["outcome"].clone()).collect();
    (outcome.body["result"].clone(), outcomes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_lost_costs_an_attempt_and_not_the_run() {
    let lost = [("HEYDAY_DEVICE_FAIL_POINT", "2:the device was lost")];
    assert_eq!(outcomes(&lost).await, ["device-lost", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_lost_while_a_text_is_made_costs_an_attempt_and_not_the_run() {
    let llama = cases("llama-gqa").remove(0);
    let lost = [("HEYDAY_DEVICE_FAIL_POINT", "3:the device was lost")];
    let models = [("small", llama.model.as_path())];
    let server = server_with("", &lost, &models).await;
    let flow = PATIENT.replace("thinker.embed", "thinker.generate");
    let input = json!({ "model": "small", "request": llama.request() });
    let (result, outcomes) = asked(&server.client, &flow, &input).await;
    assert_eq!(result["text"], llama.text);
    assert_eq!(outcomes, ["device-lost", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_memory_costs_an_attempt_and_not_the_run() {
    let full = [("HEYDAY_DEVICE_FAIL_POINT", "2:out of memory")];
    assert_eq!(outcomes(&full).await, ["out-of-memory", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_lost_under_a_load_costs_an_attempt_and_not_the_run() {
    let lost = [("HEYDAY_LOAD_FAIL_POINT", "1:the device was lost")];
    assert_eq!(outcomes(&lost).await, ["device-lost", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_lost_under_a_load_and_comes_back_later_is_tried_again() {
    comes_back_later("HEYDAY_LOAD_FAIL_POINT", "1:the device was lost").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_back_later_is_tried_again() {
    comes_back_later("HEYDAY_DEVICE_FAIL_POINT", "2:the device was lost").await;
}

/// It is lost where that fail point is, and is away for a while.
async fn comes_back_later(fail_point: &str, lost: &str) {
    let away = [
        (fail_point, lost),
        // The second try is the first one's, some seconds later: on a busy machine no attempt
        // may have come between them.
        ("HEYDAY_REOPEN_FAIL_POINT", "2:the driver is being reset"),
    ];
    let outcomes = outcomes(&away).await;
    let (last, before) = outcomes.split_last().unwrap();
    assert_eq!(last, "completed", "{outcomes:?}");
    // The one that failed, and at least one that found no device.
    assert!(before.len() >= 2, "{outcomes:?}");
    assert!(before.iter().all(|it| it == "device-lost"), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_device_is_gone_asks_to_be_restarted() {
    let Some(site) = Site::start().await else {
        return;
    };
    let client = &site.server.client;
    let small = model("bert-cls", "refuse");
    import(client, "small", &small).await;
    let granted = client.grant("thinker", "inference", "small", None);
    granted.await.unwrap();
    let pushed = client.push(component("thinker"), "").await.unwrap();
    assert_eq!(pushed["active"], true, "{pushed}");
    let config = site.config(&format!(
        "[inference]\ndevice = 'cpu'\nmodels_dir = '{}'\n",
        site.server.data().join("models").display()
    ));
    let gone = [
        ("HEYDAY_DEVICE_FAIL_POINT", "2:the device was lost"),
        ("HEYDAY_REOPEN_FAIL_POINT", "1000:the GPU is gone"),
    ];
    let token = site.token(&[]).await;
    let mut worker = site.begin_with(&token, &["--config", &config], &gone);
    worker.until_ready().await.unwrap();
    worker.until("/health/live", StatusCode::OK).await.unwrap();

    // One text is one batch.
    let input = json!({ "model": "small", "texts": small.texts[..1] });
    let found = client.succeed("thinker.embed", &input).await.unwrap();
    assert_close(&found, &small.values[..1]);
    for told in ["failed while it computed", "cannot be opened again"] {
        let failure = client.fail("thinker.embed", &input).await.unwrap();
        assert_eq!(failure["kind"], "device-lost", "{failure}");
        assert_eq!(failure["retryable"], true, "{failure}");
        let message = failure["message"].as_str().unwrap();
        assert!(message.contains(told), "{failure}");
    }
    for path in ["/health/live", "/health/ready"] {
        let problem = worker.until(path, StatusCode::SERVICE_UNAVAILABLE);
        let problem = problem.await.unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("cannot be opened again"), "{problem}");
    }
    worker.kill();

    // As Kubernetes does.
    let _next = site.worker(&["--config", &config]).await;
    let found = client.succeed("thinker.embed", &input).await.unwrap();
    assert_close(&found, &small.values[..1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_not_there_is_refused_at_the_start() {
    for (device, told) in [
        ("gpu:99", ["GPU", "choose another with --device"]),
        ("cuda", ["`cuda`", "use `auto`, `cpu` or `gpu:N`"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = tokio::process::Command::new(binary());
        command
            .args(["up", "--device", device, "--listen"])
            .arg(format!("127.0.0.1:{}", free_port()))
            .arg("--data")
            .arg(folder.path())
            .env("HEYDAY_CACHE", cache())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output.expect("it ends").unwrap();
        assert!(!output.status.success(), "{device}: {output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        for told in told {
            assert!(error.contains(told), "{device}: {error}");
        }
    }
}
