//! Plugins over the real server: uploads, versions, and what their activities answer.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::component;
use crate::support::handmade::Handmade;
use crate::support::probe;
use crate::support::server::{Client, Options, Server};
use crate::support::worker::eventually;

async fn active(client: &Client) -> Value {
    client.get("/plugins/probe").await.unwrap()["active"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_missing_grants_is_active_at_once() {
    let server = Server::start().await.unwrap();
    let response = server
        .client
        .upload(Handmade::default().build(), "")
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(location, "/api/v1/plugins/handmade/versions/1.0.0");
    let version: Value = response.json().await.unwrap();
    assert_eq!(version["state"], "ready");
    assert_eq!(version["active"], true);
    assert_eq!(version["missing_grants"], json!([]));
    let answer = server.client.succeed("handmade.answer", &Value::Null).await;
    assert_eq!(answer.unwrap(), 42);

    let description = crate::support::handmade::DESCRIPTION.replace("1.0.0", "2.0.0");
    let staged = Handmade {
        description: &description,
        output: "43",
        ..Handmade::default()
    };
    let version = server
        .client
        .push(staged.build(), "&activate=false")
        .await
        .unwrap();
    assert_eq!(
        (&version["version"], &version["active"]),
        (&json!("2.0.0"), &json!(false))
    );
    let plugin = server.client.get("/plugins/handmade").await.unwrap();
    assert_eq!(plugin["active"], "1.0.0");

    // Whoever was told that a version is active gets it, and whoever calls meanwhile gets one
    // of the two, whole.
    let switches = async {
        for (version, answer) in [("2.0.0", 43), ("1.0.0", 42)].repeat(4) {
            let body = json!({ "version": version });
            let active = server.client.post("/plugins/handmade/activate", &body);
            assert_eq!(active.await.unwrap()["active"], true);
            let answered = server.client.succeed("handmade.answer", &Value::Null);
            assert_eq!(answered.await.unwrap(), answer, "{version}");
        }
    };
    let calls = async {
        for _ in 0..16 {
            let answered = server.client.succeed("handmade.answer", &Value::Null);
            let answered = answered.await.unwrap();
            assert!(answered == 42 || answered == 43, "{answered}");
        }
    };
    tokio::join!(switches, calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_immutable_and_one_is_active() {
    let server = Server::start().await.unwrap();
    versions(&server.client).await;
}

/// Whatever server answers: nothing of the plugin was uploaded there before.
pub(crate) async fn versions(client: &Client) {
    let bytes = component("probe");

    // Grants are missing: listed, and staged.
    let response = client.upload(bytes.clone(), "").await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let first: Value = response.json().await.unwrap();
    assert_eq!(
        first["missing_grants"],
        json!(["blob", "graph", "kv", "sql", "vector"])
    );
    assert_eq!(first["active"], false);
    assert_eq!(active(client).await, Value::Null);
    let version = json!({ "version": probe::VERSION });
    let activate = |body: Value| {
        client
            .request(Method::POST, "/plugins/probe/activate")
            .json(&body)
            .send()
    };
    let refused = activate(version.clone()).await.unwrap();
    let problem = Client::refused(refused, StatusCode::CONFLICT).await;
    assert_eq!(problem["type"], "urn:heyday:problems:missing-grants");
    assert_eq!(
        problem["missing_grants"],
        json!(["blob", "graph", "kv", "sql", "vector"])
    );
    for capability in ["sql", "blob", "kv", "graph", "vector"] {
        client
            .grant("probe", capability, "default", None)
            .await
            .unwrap();
    }
    Client::ok(activate(version).await.unwrap()).await.unwrap();
    assert_eq!(active(client).await, probe::VERSION);

    // The same bytes are the same version; others are none of it.
    let again = client.upload(bytes, "").await.unwrap();
    assert_eq!(again.status(), StatusCode::OK);
    let again: Value = again.json().await.unwrap();
    assert_eq!(again["digest"], first["digest"]);
    assert_eq!(again["uploaded_at"], first["uploaded_at"]);
    let other = client.upload(probe::other_bytes(), "").await.unwrap();
    let problem = Client::refused(other, StatusCode::CONFLICT).await;
    assert!(
        problem["detail"].as_str().unwrap().contains("--dev"),
        "{problem}"
    );
    let dev = client
        .push(probe::other_bytes(), "&dev=true")
        .await
        .unwrap();
    let digest = dev["digest"]
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap();
    let mut short = digest[..8].to_owned();
    // Digits alone would be a number to semantic versions.
    if short.parse::<u32>().is_ok() {
        short.insert(0, 'x');
    }
    let name = format!("{}-dev.{short}", probe::VERSION);
    assert_eq!(
        (&dev["version"], &dev["active"]),
        (&json!(name), &json!(true))
    );

    // Each new version is active at once; a rollback goes back one by one.
    let second = client.push(probe::version("7.1.2"), "").await.unwrap();
    assert_eq!(
        (&second["version"], &second["active"]),
        (&json!("7.1.2"), &json!(true))
    );
    for (from, expected) in [("7.1.2", name.as_str()), (name.as_str(), probe::VERSION)] {
        let path = format!("/plugins/probe/rollback?from={from}");
        let back = client.post(&path, &Value::Null).await.unwrap();
        assert_eq!(back["version"], expected);
        assert_eq!(active(client).await, expected);
        // Asked for again, it has gone back already.
        let again = client.request(Method::POST, &path).send().await.unwrap();
        let problem = Client::refused(again, StatusCode::CONFLICT).await;
        assert!(problem["detail"].as_str().unwrap().contains(from));
    }
    let none = client
        .request(Method::POST, "/plugins/probe/rollback")
        .send()
        .await
        .unwrap();
    Client::refused(none, StatusCode::CONFLICT).await;

    // The active version stays; another one goes, and is gone.
    let remove = |version: &str| {
        client
            .request(
                Method::DELETE,
                &format!("/plugins/probe/versions/{version}"),
            )
            .send()
    };
    let problem =
        Client::refused(remove(probe::VERSION).await.unwrap(), StatusCode::CONFLICT).await;
    assert!(
        problem["detail"].as_str().unwrap().contains("is active"),
        "{problem}"
    );
    assert_eq!(
        remove("7.1.2").await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    Client::refused(remove("7.1.2").await.unwrap(), StatusCode::NOT_FOUND).await;
    Client::refused(remove("9.9.9").await.unwrap(), StatusCode::NOT_FOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_an_open_run_needs_stays() {
    let server = probe::server(Options::default()).await.unwrap();
    needed_version(&server.client).await;
}

/// Leaves another version active.
pub(crate) async fn needed_version(client: &Client) {
    let id = client.start_waiting().await.unwrap();
    client.push(probe::version("7.1.2"), "").await.unwrap();
    assert_eq!(active(client).await, "7.1.2");
    let path = format!("/plugins/probe/versions/{}", probe::VERSION);
    let refused = client.request(Method::DELETE, &path).send().await.unwrap();
    Client::refused(refused, StatusCode::CONFLICT).await;
    client.cancel(&id).await.unwrap();
    assert_eq!(client.result(&id).await.unwrap().status, "Canceled");
    // A cluster's list of open runs may be a little behind.
    eventually(async || {
        let removed = client.request(Method::DELETE, &path).send().await.unwrap();
        (removed.status() == StatusCode::NO_CONTENT).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_the_versions_it_started_with() {
    let server = Server::start().await.unwrap();
    kept_versions(&server.client).await;
}

/// A flow that calls a plugin, waits for a signal, and calls it again.
const KEPT: &str = r"
document: {dsl: 1.0.3, namespace: tests, name: kept, version: 1.0.0}
do:
  - first: {call: kept.answer, with: {}, export: {as: '{first: .}'}}
  - hear: {listen: {to: {one: {with: {type: go}}}}}
  - last: {call: kept.answer, with: {}}
  - both: {set: {first: '${ $context.first }', last: '${ . }'}}
";

/// Of a plugin that nobody uploaded before.
pub(crate) async fn kept_versions(client: &Client) {
    let kept = |version: &str, number: u32| {
        let description = crate::support::handmade::DESCRIPTION.replace("handmade", "kept");
        let plugin = Handmade {
            description: &description.replace("1.0.0", version),
            output: &number.to_string(),
            ..Handmade::default()
        };
        plugin.build()
    };
    // Answers when the run has called the plugin for the first time.
    let begin = async || {
        let id = client.start("tests.kept", &json!({})).await.unwrap();
        let path = format!("/workflows/{id}/history?wait=1s");
        eventually(async || {
            let history = client.get(&path).await.unwrap().to_string();
            history.contains("ActivityTaskCompleted").then_some(())
        })
        .await;
        id
    };
    client.push(kept("1.0.0", 1), "").await.unwrap();
    let pushed = client.push_flow(KEPT).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let first = begin().await;
    let pushed = client.push(kept("2.0.0", 2), "").await.unwrap();
    assert_eq!(pushed["active"], true, "{pushed}");
    let second = begin().await;
    let back = client.post("/plugins/kept/rollback", &Value::Null).await;
    assert_eq!(back.unwrap()["version"], "1.0.0");
    let third = begin().await;
    for (id, number) in [(first, 1), (second, 2), (third, 1)] {
        let signal = json!({ "name": "go", "id": "go", "data": {} });
        let path = format!("/workflows/{id}/signals");
        client.post(&path, &signal).await.unwrap();
        let outcome = client.result(&id).await.unwrap();
        let both = json!({ "first": number, "last": number });
        assert_eq!(outcome.body["result"], both, "{}", outcome.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_uploads_at_once_are_one_version() {
    let server = probe::shared();
    uploads_at_once(&server.client).await;
}

/// Of a plugin that nobody uploaded before.
pub(crate) async fn uploads_at_once(client: &Client) {
    let bytes = Handmade::default().build();
    let all = (0..24).map(|_| client.upload(bytes.clone(), ""));
    let mut statuses = Vec::new();
    let mut versions = Vec::new();
    for response in futures::future::try_join_all(all).await.unwrap() {
        statuses.push(response.status().as_u16());
        versions.push(response.json::<Value>().await.unwrap());
    }
    statuses.sort_unstable_by_key(|status| std::cmp::Reverse(*status));
    // One is told that it made the version, the others that it was there.
    assert_eq!((statuses[0], &statuses[1..]), (201, &[200; 23][..]));
    for version in &versions {
        assert_eq!(version, &versions[0]);
    }

    // Other bytes of one new version: one wins, the other is told.
    let description = crate::support::handmade::DESCRIPTION.replace("1.0.0", "1.0.1");
    let build = |output| {
        let description = description.as_str();
        Handmade {
            description,
            output,
            ..Handmade::default()
        }
        .build()
    };
    let (one, two) =
        tokio::try_join!(client.upload(build("1"), ""), client.upload(build("2"), "")).unwrap();
    let mut statuses = [one.status().as_u16(), two.status().as_u16()];
    let winner = if statuses[0] == 201 { 1 } else { 2 };
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    let answer = client
        .succeed("handmade.answer", &Value::Null)
        .await
        .unwrap();
    assert_eq!(answer, winner);
    let plugin = client.get("/plugins/handmade").await.unwrap();
    assert_eq!(plugin["versions"].as_array().unwrap().len(), 2, "{plugin}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_failures_are_typed() {
    let server = probe::shared();
    results_and_failures(&server.client).await;
}

/// Of runs of the probe.
pub(crate) async fn results_and_failures(client: &Client) {
    let value = json!({ "text": "Grüße\u{0}", "numbers": [1, -2.5, 9_007_199_254_740_993_i64], "none": null });
    assert_eq!(client.succeed("probe.echo", &value).await.unwrap(), value);
    let sum = client
        .succeed("probe.add", &json!({ "a": 20, "b": 22 }))
        .await
        .unwrap();
    assert_eq!(sum, json!({ "sum": 42 }));

    let failing = json!({ "kind": "file-encrypted", "retryable": false, "details": { "page": 3 } });
    let failure = client.fail("probe.fail", &failing).await.unwrap();
    assert_eq!(failure["kind"], "file-encrypted");
    assert_eq!(failure["message"], "failed on attempt 1");
    assert_eq!(failure["retryable"], false);
    assert_eq!(failure["details"], json!({ "page": 3 }));
    let failing = json!({ "kind": "busy", "retryable": true });
    let failure = client.fail("probe.fail", &failing).await.unwrap();
    assert_eq!(failure["kind"], "busy");
    assert_eq!(failure["message"], "failed on attempt 3");

    let id = client
        .start_activity("probe.whoami", &Value::Null)
        .await
        .unwrap();
    let body = client.result(&id).await.unwrap().body;
    let it = &body["result"];
    assert_eq!(it["namespace"], "default");
    assert_eq!(it["workflow_id"], id.as_str());
    assert_eq!(it["run_id"], body["run_id"]);
    assert_eq!(it["activity_type"], "probe.whoami");
    assert_eq!(it["queue"], "storage-queue");
    assert_eq!(it["attempt"], 1);
    let key = format!(
        "default/{}/{}",
        body["run_id"].as_str().unwrap(),
        it["activity_id"].as_str().unwrap()
    );
    assert_eq!(it["idempotency_key"], key.as_str());
    let remaining = it["remaining_ms"].as_u64().unwrap();
    assert!((1..=30_000).contains(&remaining), "{remaining}");

    // The guest compares the idempotency keys of both attempts.
    let resumed = client
        .succeed("probe.heartbeat_resume", &Value::Null)
        .await
        .unwrap();
    assert_eq!(
        (&resumed["from"], &resumed["attempt"]),
        (&json!(7), &json!(2))
    );
    // So does the attempt after one that fell silent, which may for an hour but for that.
    let silence = client.succeed("probe.heartbeat_silence", &Value::Null);
    assert_eq!(silence.await.unwrap(), 7);
}

/// The run's receipts, when there are so many.
pub(crate) async fn all_receipts(client: &Client, id: &str, count: usize) -> Vec<Value> {
    eventually(async || {
        let receipts = client.receipts(id).await.unwrap();
        (receipts.len() >= count).then_some(receipts)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_leaves_a_receipt_and_its_lines() {
    let server = probe::shared();
    receipts_and_lines(&server.client).await;
}

/// What one server wrote down, another one may find a little later.
pub(crate) async fn receipts_and_lines(client: &Client) {
    let id = client
        .start_activity("probe.talk", &Value::Null)
        .await
        .unwrap();
    client.result(&id).await.unwrap();
    let lines = eventually(async || {
        let lines = client.logs(&id).await.unwrap();
        (lines.len() >= 5).then_some(lines)
    });
    let lines = lines.await;
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["level"].as_str().unwrap(),
                line["message"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("trace", "finest"),
            ("debug", "finer"),
            ("info", "read 3 pages"),
            ("warn", "odd"),
            ("error", "bad"),
        ]
    );
    assert_eq!(lines[2]["fields"], json!({ "pages": 3, "name": "book" }));
    assert_eq!(lines[2]["activity_type"], "probe.talk");
    let receipts = all_receipts(client, &id, 1).await;
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0]["outcome"], "completed");
    let counters = &receipts[0]["counters"];
    assert_eq!(counters["host_calls"], 6);
    assert_eq!(counters["output_bytes"], 4);
    for name in ["cpu_us", "wall_us", "peak_memory_bytes", "log_bytes"] {
        assert!(counters[name].as_u64().unwrap() > 0, "{name} in {counters}");
    }
    assert!(counters.get("queue_us").is_some(), "{counters}");

    // Each attempt has its own.
    let failing = json!({ "kind": "busy", "retryable": true });
    let id = client.start_activity("probe.fail", &failing).await.unwrap();
    client.result(&id).await.unwrap();
    let receipts = all_receipts(client, &id, 3).await;
    let attempts: Vec<_> = receipts
        .iter()
        .map(|receipt| receipt["attempt"].as_u64().unwrap())
        .collect();
    assert_eq!(attempts, [1, 2, 3]);
}
