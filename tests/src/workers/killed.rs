//! Workers and servers that are killed: what workers had begun goes on, and what they had to say
//! is not lost.

use reqwest::StatusCode;
use serde_json::json;

use super::{push_flow, push_probe, start_two_steps};
use crate::support::handmade::Handmade;
use crate::support::worker::{Site, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_by_another_worker_when_its_own_is_killed() {
    let Some(site) = Site::start().await else {
        return;
    };
    let first = site.worker(&[]).await;
    let client = &site.server.client;
    client.push(Handmade::default().build(), "").await.unwrap();
    let id = start_two_steps(&site).await;
    first.kill();
    let _second = site.worker(&[]).await;
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    let history = site.temporal(&["workflow", "show", "-w", &id, "-o", "json"]);
    let done = history
        .matches("EVENT_TYPE_ACTIVITY_TASK_COMPLETED")
        .count();
    assert_eq!(done, 2, "each step once: {history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_had_not_sent_is_sent_by_the_next_one() {
    let Some(mut site) = Site::start().await else {
        return;
    };
    push_probe(&site).await;
    let worker = site.worker(&[]).await;
    let client = site.server.client.clone();
    let id = client.start_waiting().await.unwrap();
    // From here on the server takes nothing, nor later what is on its way to it now.
    site.server.kill();
    site.temporal(&["workflow", "cancel", "-w", &id]);
    let ended = async || {
        let described = site.temporal(&["workflow", "describe", "-w", &id, "-o", "json"]);
        described
            .contains("WORKFLOW_EXECUTION_STATUS_CANCELED")
            .then_some(())
    };
    eventually(ended).await;
    eventually(async || worker.has_spooled("cleaned up").then_some(())).await;
    worker.kill();
    site.server.start_again().await.unwrap();
    site.server.wait_for_engine().await.unwrap();
    assert!(client.receipts(&id).await.unwrap().is_empty());
    let _next = site.worker(&[]).await;
    let receipts = eventually(async || {
        let receipts = client.receipts(&id).await.unwrap();
        (!receipts.is_empty()).then_some(receipts)
    })
    .await;
    assert_eq!(receipts[0]["outcome"], "cancelled", "{receipts:?}");
    let lines = client.logs(&id).await.unwrap();
    let lines: Vec<_> = lines.iter().map(|line| &line["message"]).collect();
    assert_eq!(lines, ["waiting", "cleaned up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_had_taken_is_there_once() {
    let Some(mut site) = Site::start().await else {
        return;
    };
    let client = site.server.client.clone();
    push_flow(&site, "open", "  - only: {set: {x: 1}}\n").await;
    let id = client.start("tests.open", &json!({})).await.unwrap();
    let shown = client.get(&format!("/workflows/{id}")).await.unwrap();
    let attempt = json!({
        "namespace": "default", "run_id": shown["run_id"], "activity_id": "1",
        "activity_type": "probe.say", "queue": "general-queue", "attempt": 1,
    });
    // Not so old that it would be removed at the next start.
    let at = jiff::Timestamp::now().to_string();
    let batch = json!({ "worker": shown["run_id"], "sequence": 1, "records": [
        { "attempt": attempt, "said": { "log": { "at": at, "level": "info", "message": "one" } } },
        { "attempt": attempt, "said": { "ended": {
            "started_at": at, "ended_at": at, "outcome": "completed", "receipt": {},
        } } },
    ]});
    let sent = client
        .http
        .post(format!("{}/api/v1/worker/records", site.server.url))
        .bearer_auth(site.token(&[]).await)
        .json(&batch);
    // As a worker sends it, and again where it did not get the answer. Nobody reads before.
    for _ in 0..2 {
        let answer = sent.try_clone().unwrap().send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        site.server.kill();
        site.server.start_again().await.unwrap();
    }
    site.server.wait_for_engine().await.unwrap();
    let receipts = client.receipts(&id).await.unwrap();
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    let lines = client.logs(&id).await.unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
}

/// What counts once under the idempotency key; each answers how many of it there are.
const ONCE: [(&str, &str); 3] = [
    ("sql", "probe.sql_once"),
    ("kv", "probe.kv_count"),
    ("graph", "probe.graph_count"),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_worker_died_has_a_receipt_that_says_lost_and_its_effect_is_there_once() {
    let Some(site) = Site::start().await else {
        return;
    };
    let client = &site.server.client;
    for (capability, _) in ONCE {
        let granted = client.grant("probe", capability, "default", None);
        granted.await.unwrap();
    }
    push_probe(&site).await;
    // One place for both workers, as a server would be.
    let folder = tempfile::tempdir().unwrap();
    let places = ONCE.map(|(capability, _)| {
        let path = folder.path().join(capability);
        let path = path.display();
        format!("[bindings.namespaces.default.{capability}.default]\npath = '{path}'\n")
    });
    let config = site.config(&places.concat());
    let worker = site.worker(&["--config", &config]).await;
    let names = ["hangs-once", "hangs-twice"];
    for (name, attempts) in names.iter().zip(1..) {
        let policy = format!(
            "{{timeouts: {{start_to_close: PT10S}}, retry: {{maximum_attempts: {attempts}, initial_interval: PT0.1S}}}}"
        );
        let task = format!(
            "  - hangs: {{call: probe.wait_for_cancel, with: {{}}, input: {{from: 'null'}}, metadata: {{heyday: {policy}}}}}\n"
        );
        push_flow(&site, name, &task).await;
    }
    // These have as long as both attempts of the other in all.
    for (capability, activity) in ONCE {
        let policy = "{timeouts: {start_to_close: PT20S}, retry: {maximum_attempts: 5, initial_interval: PT0.1S}}";
        let task = format!(
            "  - once: {{call: {activity}, with: {{binding: default, once: true, hang: true}}, metadata: {{heyday: {policy}}}}}\n"
        );
        push_flow(&site, capability, &task).await;
    }
    let mut effects = Vec::new();
    for (capability, _) in ONCE {
        let flow = format!("tests.{capability}");
        effects.push(client.start(&flow, &json!({})).await.unwrap());
    }
    for id in &effects {
        if let Err(error) = client.wait_for_line(id, "committed").await {
            panic!("{error}: {}", client.result(id).await.unwrap().body);
        }
    }
    let mut runs = Vec::new();
    for name in names {
        let started = client.start(&format!("tests.{name}"), &json!({})).await;
        runs.push(started.unwrap());
    }
    for id in &runs {
        client.wait_for_line(id, "waiting").await.unwrap();
        assert!(client.receipts(id).await.unwrap().is_empty());
    }
    worker.kill();
    let _next = site.worker(&["--config", &config]).await;
    for (id, expected) in [
        (&runs[0], &[("worker-lost", 1)][..]),
        (&runs[1], &[("worker-lost", 1), ("timeout", 0)]),
    ] {
        let outcome = client.result(id).await.unwrap();
        assert_eq!(outcome.status, "Failed", "{}", outcome.body);
        // What the next worker says of its own attempt may still be on its way.
        let receipts = eventually(async || {
            let receipts = client.receipts(id).await.unwrap();
            let last = &receipts.last()?["outcome"];
            (receipts.len() == expected.len() && *last == expected[expected.len() - 1].0)
                .then_some(receipts)
        })
        .await;
        for (receipt, (number, (outcome, lost))) in receipts.iter().zip((1..).zip(expected)) {
            assert_eq!(receipt["attempt"], number, "{receipts:?}");
            assert_eq!(receipt["outcome"], *outcome, "{receipts:?}");
            let found = receipt["counters"]["lost"].as_u64().unwrap_or_default();
            assert_eq!(found, *lost, "{receipts:?}");
        }
    }
    for ((capability, activity), id) in ONCE.iter().zip(&effects) {
        let outcome = client.result(id).await.unwrap();
        let told = format!("{capability}: {}", outcome.body);
        assert_eq!(outcome.status, "Completed", "{told}");
        assert_eq!(outcome.body["result"], 1, "{told}");
        let receipts = client.receipts(id).await.unwrap();
        assert_eq!(receipts[0]["outcome"], "worker-lost", "{receipts:?}");
        // Another activity finds what one has left, not what two have.
        let another = json!({ "binding": "default", "once": true });
        let count = client.succeed(activity, &another).await.unwrap();
        assert_eq!(count, 2, "{capability}");
    }
}
