//! Two servers on one state and one cluster, asked through a load balancer.

use std::time::{Duration, Instant};

use heyday::state::shared::LOOK;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Pair;
use crate::support::component;
use crate::support::handmade::Handmade;
use crate::support::held::Held;
use crate::support::server::{Client, PATIENCE};
use crate::support::worker::eventually;

/// What takes a while to describe itself, but also on a busy machine less than the ten seconds
/// that it has.
pub(super) const SPIN: &str = "(local $i i32) (loop $spin (local.set $i (i32.add (local.get $i) (i32.const 1))) \
    (br_if $spin (i32.lt_u (local.get $i) (i32.const 300000000))))";
/// How often a server may be done with an upload before it is killed, by a test that is late.
pub(super) const TOO_LATE: usize = 5;

/// A plugin of that name and version with one activity `answer`, and bytes of its own.
pub(super) fn plugin(name: &str, version: &str, before_describe: &str) -> Vec<u8> {
    let description = json!({
        "name": name, "version": version, "documentation": Uuid::new_v4().to_string(),
        "activities": [{ "name": "answer", "input": {}, "output": {} }],
    })
    .to_string();
    Handmade {
        description: &description,
        before_describe,
        ..Handmade::default()
    }
    .build()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_did_the_other_knows_at_once() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    // Each request goes to the other server than the one before.
    let client = &pair.client;
    let bytes = plugin("shared", "1.0.0", "");
    let pushed = client.push(bytes.clone(), "").await.unwrap();
    assert_eq!(pushed["active"], true);
    for number in [0, 1, 0, 1] {
        let shown = client.get("/plugins/shared").await.unwrap();
        assert_eq!(shown["active"], "1.0.0");
        let path = "/plugins/shared/versions/1.0.0/component";
        let request = pair.of(number).request(Method::GET, path);
        let read = request.send().await.unwrap().bytes().await.unwrap();
        assert_eq!(read, bytes, "server {number}");
    }
    // The same bytes are the same version everywhere.
    for number in [0, 1] {
        let again = pair.of(number).upload(bytes.clone(), "").await.unwrap();
        assert_eq!(again.status(), StatusCode::OK);
    }
    let flow = "document: {dsl: 1.0.3, namespace: tests, name: both, version: 1.0.0}\ndo:\n  \
                - asked: {call: shared.answer, with: {}}\n";
    let pushed = client.push_flow(flow).await.unwrap();
    assert_eq!(pushed.status(), StatusCode::CREATED);
    let _workers = (pair.worker(0).await, pair.worker(1).await);
    for _ in 0..4 {
        let id = client.start("tests.both", &json!({})).await.unwrap();
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(outcome.status, "Completed", "{}", outcome.body);
        // Whichever server its worker told.
        for number in [0, 1] {
            let receipts = eventually(async || {
                let path = format!("/workflows/{id}/receipts");
                let found = pair.of(number).get(&path).await.unwrap();
                let found = found["receipts"].as_array().unwrap().clone();
                (!found.is_empty()).then_some(found)
            });
            assert_eq!(receipts.await[0]["activity_type"], "shared.answer");
        }
    }
    // Grants, and the audit of all of it, page by page from one server and the other.
    for number in 0..6 {
        let rule = format!("GET:host{number}.example");
        client
            .grant("tests.both", "http", &rule, None)
            .await
            .unwrap();
        let listed = client.get("/grants?subject=tests.both").await.unwrap();
        assert_eq!(listed["grants"].as_array().unwrap().len(), number + 1);
    }
    let mut entries: Vec<Value> = Vec::new();
    let mut path = "/audit?page_size=3".to_owned();
    loop {
        let page = client.get(&path).await.unwrap();
        entries.extend(page["audit"].as_array().unwrap().iter().cloned());
        match page["next_page_token"].as_str() {
            Some(token) => path = format!("/audit?page_size=3&page_token={token}"),
            None => break,
        }
    }
    let ids: Vec<_> = entries
        .iter()
        .map(|entry| entry["id"].as_u64().unwrap())
        .collect();
    assert!(ids.is_sorted_by(|a, b| a > b), "{ids:?}");
    let count = |action: &str| entries.iter().filter(|it| it["action"] == action).count();
    assert_eq!(count("grant.put"), 6, "{entries:?}");
    assert_eq!(count("plugin.upload"), 1, "{entries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_grants_at_one_server_is_felt_by_calls_at_workers_of_the_other() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let _worker = pair.worker(1).await;
    let held = Held::push(pair.of(0)).await;
    held.feels(pair.of(0), pair.of(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_attempts_say_to_one_server_is_followed_at_the_other() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let pushed = pair.of(0).push(component("probe"), "&allow_missing=true");
    assert_eq!(pushed.await.unwrap()["active"], true);
    // Its lines go to the first server, and are followed at the second.
    let _worker = pair.worker(0).await;
    let follower = pair.of(1);
    let id = follower.start_waiting().await.unwrap();
    let shown = follower.get(&format!("/workflows/{id}")).await.unwrap();
    let batch = json!({ "worker": shown["run_id"], "sequence": 1, "records": [{
        "attempt": {
            "namespace": "default", "run_id": shown["run_id"], "activity_id": "1",
            "activity_type": "probe.wait_for_cancel", "queue": "general-queue", "attempt": 1,
        },
        "said": { "progress": { "completed": 1, "total": 2, "message": "half way" } },
    }]});
    let body = json!({ "kind": "worker" });
    let made = pair.of(1).post("/tokens", &body).await.unwrap();
    let sent = pair
        .of(0)
        .http
        .post(format!("{}/api/v1/worker/records", pair.servers[0].url))
        .bearer_auth(made["token"].as_str().unwrap())
        .json(&batch);
    assert_eq!(sent.send().await.unwrap().status(), StatusCode::NO_CONTENT);
    eventually(async || {
        let shown = follower.get(&format!("/workflows/{id}")).await.unwrap();
        shown.to_string().contains("half way").then_some(())
    })
    .await;
    follower.cancel(&id).await.unwrap();
    follower.wait_for_line(&id, "cleaned up").await.unwrap();
    assert_eq!(follower.result(&id).await.unwrap().status, "Canceled");
    let lines = [pair.of(0).logs(&id).await, follower.logs(&id).await];
    let [first, second] = lines.map(|lines| lines.unwrap());
    assert_eq!(first, second);
}

/// The next event of a stream of news: its revision and its data.
async fn next_event(stream: &mut reqwest::Response) -> (String, Value) {
    let mut text = String::new();
    loop {
        let chunk = tokio::time::timeout(PATIENCE, stream.chunk()).await;
        let chunk = chunk.expect("it is told").unwrap().expect("it goes on");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let value = |name: &str| {
                let line = event.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim().to_owned())
            };
            if let (Some(id), Some(data)) = (value("id:"), value("data:")) {
                let data: Value = serde_json::from_str(&data).unwrap();
                // What is no worker's business only raises the revision.
                if value("event:").as_deref() == Some("snapshot") || data["changes"] != json!([]) {
                    return (id, data);
                }
            }
            text = rest.to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_means_the_same_at_both() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    let body = json!({ "kind": "worker" });
    let made = pair.of(0).post("/tokens", &body).await.unwrap();
    let token = made["token"].as_str().unwrap().to_owned();
    let follow = async |number: usize, after: Option<&str>| {
        let url = &pair.servers[number].url;
        let request = pair
            .of(number)
            .http
            .get(format!("{url}/api/v1/worker/stream?namespaces=default"))
            .bearer_auth(&token);
        let request = match after {
            Some(after) => request.header("last-event-id", after),
            None => request,
        };
        request.send().await.unwrap()
    };
    let mut at_first = follow(0, None).await;
    let (seen, whole) = next_event(&mut at_first).await;
    assert_eq!(whole["changes"], json!([]));
    // What is granted at the second is told by the first long before it looks by itself;
    // a machine that is busy may be slow once.
    let mut quickest = Duration::MAX;
    for number in 0..5 {
        let binding = format!("GET:one{number}.example");
        let granted = pair.of(1).grant("tests.one", "http", &binding, None);
        granted.await.unwrap();
        let since = Instant::now();
        let (_, told) = next_event(&mut at_first).await;
        quickest = quickest.min(since.elapsed());
        assert!(told.to_string().contains(&binding), "{told}");
    }
    eprintln!("the other server told of a grant after {quickest:?}");
    assert!(quickest < LOOK / 2, "{quickest:?}");
    let granted = pair
        .of(1)
        .grant("tests.one", "http", "GET:one.example", None);
    granted.await.unwrap();
    let (after_one, one) = next_event(&mut at_first).await;
    assert!(one.to_string().contains("one.example"), "{one}");
    // Who was told that by the first goes on at the second, and misses nothing.
    let granted = pair
        .of(0)
        .grant("tests.two", "http", "GET:two.example", None);
    granted.await.unwrap();
    let mut at_second = follow(1, Some(&after_one)).await;
    let (_, two) = next_event(&mut at_second).await;
    assert!(two.to_string().contains("two.example"), "{two}");
    assert!(
        !two.to_string().contains("one.example"),
        "not told again: {two}"
    );
    let mut at_second = follow(1, Some(&seen)).await;
    let (_, all) = next_event(&mut at_second).await;
    assert_eq!(all["changes"].as_array().unwrap().len(), 7, "{all}");
    // A token that is taken back at one server ends streams at the other.
    let id = made["id"].as_str().unwrap();
    let revoked = pair.of(0).request(Method::DELETE, &format!("/tokens/{id}"));
    assert_eq!(
        revoked.send().await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    let ended = tokio::time::timeout(PATIENCE, async {
        while let Ok(Some(_)) = at_second.chunk().await {}
    });
    ended.await.expect("the stream ends");
    let refused = follow(1, None).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_do_at_once_has_one_order() {
    let Some(pair) = Pair::start().await else {
        return;
    };
    for version in ["1.0.0", "1.1.0"] {
        let bytes = plugin("raced", version, "");
        pair.client.push(bytes, "").await.unwrap();
    }
    for _ in 0..5 {
        let activate = async |number: usize, version: &str| {
            let body = json!({ "version": version });
            let client = pair.of(number);
            client.post("/plugins/raced/activate", &body).await.unwrap()
        };
        tokio::join!(activate(0, "1.0.0"), activate(1, "1.1.0"));
        let first = pair.of(0).get("/plugins/raced").await.unwrap();
        let second = pair.of(1).get("/plugins/raced").await.unwrap();
        assert_eq!(first, second);
    }
    // Another server's rollback goes to what was active before, there too.
    for version in ["1.0.0", "1.1.0"] {
        let body = json!({ "version": version });
        let active = pair.of(0).post("/plugins/raced/activate", &body);
        assert_eq!(active.await.unwrap()["active"], true);
    }
    let back = pair.of(1).post("/plugins/raced/rollback", &json!({})).await;
    assert_eq!(back.unwrap()["version"], "1.0.0");
    // The same version with other bytes, at both at once: one is it.
    let uploads = [0, 1].map(async |number: usize| {
        let bytes = plugin("one-of-two", "1.0.0", "");
        pair.of(number).upload(bytes, "").await.unwrap().status()
    });
    let mut statuses = futures::future::join_all(uploads).await;
    statuses.sort();
    assert_eq!(statuses, [StatusCode::CREATED, StatusCode::CONFLICT]);
    // The same request under one key, at both at once: it is done once.
    let body = json!({ "version": "1.1.0" });
    let active = pair.of(0).post("/plugins/raced/activate", &body);
    assert_eq!(active.await.unwrap()["active"], true);
    let key = Uuid::new_v4().to_string();
    let ask = async |number: usize| {
        let request = pair
            .of(number)
            .request(Method::POST, "/plugins/raced/rollback");
        let request = request.header("idempotency-key", &key).json(&json!({}));
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, answer.json::<Value>().await.unwrap())
    };
    let all = futures::future::join_all([0, 1, 0, 1].map(ask)).await;
    for (status, body) in &all {
        let in_progress = body["type"] == "urn:heyday:problems:request-in-progress";
        assert!(*status == StatusCode::OK || in_progress, "{status}: {body}");
    }
    let answers = eventually(async || {
        let answers = [ask(0).await, ask(1).await];
        let done = answers.iter().all(|(status, _)| *status == StatusCode::OK);
        done.then_some(answers)
    });
    let [first, second] = answers.await;
    assert_eq!(first.1["version"], "1.0.0");
    assert_eq!(first, second);
    let audit = pair.client.get("/audit").await.unwrap();
    let entries = audit["audit"].as_array().unwrap().iter();
    let rolled_back = entries.filter(|entry| entry["action"] == "plugin.rollback");
    assert_eq!(rolled_back.count(), 2, "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_when_its_server_is_killed() {
    let Some(mut pair) = Pair::start().await else {
        return;
    };
    let second = pair.of(1).clone();
    let mut times = 0;
    let name = loop {
        let name = format!("survivor-{times}");
        let bytes = plugin(&name, "1.0.0", SPIN);
        let sent = pair.of(0).request(Method::POST, "/plugins?wait=0s");
        let sent = sent.header("content-type", "application/wasm").body(bytes);
        let answer = sent.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        let pending: Value = answer.json().await.unwrap();
        let digest = pending["digest"].as_str().unwrap().to_owned();
        pair.kill(0);
        let path = format!("/uploads/{digest}?wait=20s");
        let state = eventually(async || {
            let shown = second.get(&path).await.unwrap();
            (shown["state"] != "compiling").then_some(shown)
        });
        let shown = state.await;
        assert_eq!(shown["state"], "ready", "{shown}");
        if pair.servers[1].log().contains("go on here") {
            break name;
        }
        // The first one was done with it.
        times += 1;
        assert!(times < TOO_LATE, "{}", pair.servers[1].log());
        pair.start_again(0).await;
    };
    let path = format!("/plugins/{name}");
    let shown = second.get(&path).await.unwrap();
    assert_eq!(shown["active"], "1.0.0");
    // The load balancer goes around the server that is gone.
    let through: Value = pair.client.get(&path).await.unwrap();
    assert_eq!(through, shown);
    assert!(!pair.servers[1].log().contains(&pair.state.password));
    let refused = pair
        .client
        .request(Method::GET, "/plugins/nothing")
        .send()
        .await;
    Client::refused(refused.unwrap(), StatusCode::NOT_FOUND).await;
}
