//! The API's own tests, through a load balancer before two servers that do all themselves:
//! each request goes to the other server than the one before. One pair for all of them.

use std::collections::BTreeSet;

use heyday::state::HostDb;
use heyday_capabilities::blob::Presigned;
use heyday_capabilities::blob::address::Addresses;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::Pair;
use crate::bad_input::{flows as bad_flows, requests, uploads};
use crate::events::{FLOW, Stream};
use crate::histories::replays::exported_and_replayed;
use crate::inference::{assert_close, import, model};
use crate::logs::assert_harmless;
use crate::metrics::scrape;
use crate::search::found_by_attributes;
use crate::support::http_server;
use crate::support::server::Client;
use crate::support::worker::eventually;
use crate::{activities, asked, flow_versions, flows, logs, openai, plugins, schedules, triggered};

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_one_whichever_server_answers() {
    let shared = |folder: &std::path::Path| {
        format!(
            "[inference]\ndevice = 'cpu'\nmodels_dir = '{}'\n\
             [bindings.namespaces.default.blob.shared]\npath = '{}'\n",
            folder.join("models").display(),
            folder.join("shared").display()
        )
    };
    let Some(pair) = Pair::of_all(shared).await else {
        return;
    };
    let client = &pair.client;
    // Uploads, versions, activations and grants; the probe is active then.
    plugins::versions(client).await;
    // What keeps out of the others' way, side by side.
    let events = async {
        triggered::started_by_events(client).await;
        triggered::no_events(client).await;
    };
    let timed = async {
        let before = schedules::made(client).await;
        schedules::changed(client, before).await;
        made_and_triggered(&pair).await;
    };
    tokio::join!(
        events,
        timed,
        activities::said_by_the_caller(client),
        logs::hostile_texts(client),
        logs::hostile_names(client),
        logs::followed_lines(client),
        openai::errors(client),
        bad_flows::refused_jq(client),
        bad_flows::refused_documents(client),
        bad_flows::passed_limits(client),
        uploads::no_plugins(client),
        uploads::foreign_imports(client),
        uploads::unusable_descriptions(client),
        requests::strangers(client),
        plugins::uploads_at_once(client),
        plugins::results_and_failures(client),
        plugins::receipts_and_lines(client),
        asked::asked_and_updated(client),
        flows::waited_starts(client),
        flow_versions::versions(client),
        found_by_attributes(client),
        exported_and_replayed(client),
        requests::unfit_inputs(client),
        requests::unknown_names(client),
        requests::unserved_queue(client),
        requests::second_start(client),
        followed_events(&pair),
        pages(&pair),
        addresses(&pair),
        models(&pair),
        announced(&pair),
    );
    plugins::needed_version(client).await;
    // Each worked, tells so as a scrape is to be, and let nobody write to its terminal.
    for (number, server) in pair.servers.iter().enumerate() {
        let families = scrape(pair.of(number)).await;
        for name in [
            "heyday_activity_attempt_duration_seconds",
            "http_server_request_duration_seconds",
        ] {
            let count = families[name].sum("_count");
            assert!(count > 0.0, "{name} of server {number}");
        }
        assert_harmless(&server.log());
    }
}

async fn push(client: &Client, flow: &str) {
    let pushed = client.push_flow(flow).await.unwrap();
    Client::ok(pushed).await.unwrap();
}

/// Events of a run are followed at one server and then, from where a client was, at the
/// other.
async fn followed_events(pair: &Pair) {
    let (gate, permits) = http_server::gate().await.unwrap();
    push(pair.of(0), &FLOW.replace("GATE", &gate.to_string())).await;
    let rule = format!("GET:{gate}");
    let granted = pair.of(1).grant("tests.gated", "http", &rule, None);
    granted.await.unwrap();
    let id = pair.of(0).start("tests.gated", &Value::Null).await.unwrap();
    let path = format!("/workflows/{id}/events");
    let mut first = Stream::open(pair.of(0), &path, None).await;
    let mut begun = Vec::new();
    loop {
        let event = first.next().await.expect("an event");
        begun.push(event.id.expect("an id"));
        if event.data["event_type"] == "ActivityTaskScheduled" {
            break;
        }
    }
    drop(first);
    // What was told after the first event comes again, and then what is new.
    let mut again = Stream::open(pair.of(1), &path, Some(begun[0])).await;
    let mut told = vec![begun[0]];
    let mut end = None;
    while let Some(event) = again.next().await {
        match event.name.as_str() {
            "history" => {
                told.push(event.id.expect("an id"));
                if told == begun {
                    permits.add_permits(1);
                }
            }
            "end" => end = Some(event),
            _ => {}
        }
    }
    assert!(told.starts_with(&begun), "{told:?} after {begun:?}");
    assert!(told.len() > begun.len(), "{told:?}");
    assert!(told.is_sorted_by(|a, b| a < b), "{told:?}");
    let last = *told.last().expect("some");
    let end = end.expect("an end");
    assert_eq!(end.data["status"], "Completed", "{end:?}");
    assert_eq!(end.id, Some(last));
    // Whoever has heard all at one is told so by the other.
    let request = pair.of(0).request(Method::GET, &path);
    let ended = request.header("last-event-id", last).send().await.unwrap();
    assert_eq!(ended.status(), StatusCode::NO_CONTENT);
}

/// A list's pages are read on at the other server.
async fn pages(pair: &Pair) {
    let flow = "document: {dsl: 1.0.3, namespace: tests, name: paged, version: 1.0.0}\ndo:\n  \
                - done: {set: {n: 1}}\n";
    push(pair.of(0), flow).await;
    let mut started = BTreeSet::new();
    for number in 0..5 {
        let id = pair.of(number % 2).start("tests.paged", &json!({})).await;
        started.insert(id.unwrap());
    }
    for number in [0, 1] {
        eventually(async || {
            let path = "/workflow-count?query=WorkflowType='tests.paged'";
            let found = pair.of(number).get(path).await.unwrap();
            (found["count"] == 5).then_some(())
        })
        .await;
    }
    let mut found = BTreeSet::new();
    let mut token = String::new();
    for turn in 0.. {
        let query = "/workflows?page_size=2&query=WorkflowType='tests.paged'";
        let page = pair.of(turn % 2).get(&format!("{query}{token}")).await;
        let page = page.unwrap();
        for row in page["workflows"].as_array().unwrap() {
            let id = row["workflow_id"].as_str().unwrap().to_owned();
            assert!(found.insert(id), "twice: {row}");
        }
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => break,
        }
    }
    assert_eq!(found, started);
}

/// What one server made starts runs at the other's word.
async fn made_and_triggered(pair: &Pair) {
    let flow = "document: {dsl: 1.0.3, namespace: tests, name: seldom, version: 1.0.0}\ndo:\n  \
                - done: {set: {n: 1}}\n";
    push(pair.of(1), flow).await;
    let schedule = json!({
        "schedule_id": "both", "spec": { "cron": ["0 3 * * * 2090"] },
        "action": { "workflow_type": "tests.seldom" },
    });
    pair.of(0).post("/schedules", &schedule).await.unwrap();
    let again = pair.of(1).request(Method::POST, "/schedules");
    let again = again.json(&schedule).send().await.unwrap();
    Client::refused(again, StatusCode::CONFLICT).await;
    let trigger = pair.of(1).request(Method::POST, "/schedules/both/trigger");
    let triggered = trigger.send().await.unwrap();
    assert_eq!(triggered.status(), StatusCode::NO_CONTENT);
    let id = eventually(async || {
        let seen = pair.of(0).get("/schedules/both").await.unwrap();
        let action = &seen["info"]["recent_actions"][0];
        action["workflow_id"].as_str().map(str::to_owned)
    })
    .await;
    let outcome = pair.of(0).result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    let deleted = pair.of(1).request(Method::DELETE, "/schedules/both");
    let deleted = deleted.send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    let gone = pair.of(0).request(Method::GET, "/schedules/both");
    Client::refused(gone.send().await.unwrap(), StatusCode::NOT_FOUND).await;
}

/// A model that was imported at one server into a folder that both have answers at the other.
async fn models(pair: &Pair) {
    let small = model("bert-cls", "refuse");
    let imported = import(pair.of(0), "small", &small).await;
    // The other one lists it before it is asked for it.
    let listed = eventually(async || {
        let listed = pair.of(1).get("/models").await.unwrap();
        let models = listed["models"].as_array().unwrap().iter();
        models.clone().find(|it| it["name"] == "small").cloned()
    });
    assert_eq!(listed.await["digest"], imported["digest"]);
    for number in [1, 0] {
        let client = pair.of(number);
        let found = client.get("/models/small").await.unwrap();
        assert_eq!(found["digest"], imported["digest"], "{found}");
        let asked = json!({ "model": "small", "input": small.texts });
        let request = client.at(Method::POST, "/v1/embeddings").json(&asked);
        let answer = Client::ok(request.send().await.unwrap()).await.unwrap();
        let rows = answer["data"].as_array().unwrap();
        let vectors: Value = rows.iter().map(|row| row["embedding"].clone()).collect();
        assert_close(&vectors, &small.values);
    }
}

/// A worker that announces at one server is listed by the other, as one.
async fn announced(pair: &Pair) {
    let body = json!({ "kind": "worker" });
    let made = pair.client.post("/tokens", &body).await.unwrap();
    let token = made["token"].as_str().unwrap();
    let worker = "01890000-0000-7000-8000-00000000000a";
    let announce = async |number: usize| {
        let body = json!({
            "worker": worker, "namespaces": ["default"], "queues": { "general-queue": 4 },
            "device": format!("device-{number}"), "models": [],
        });
        let url = &pair.servers[number].url;
        let address = format!("{url}/api/v1/worker/announcements");
        let request = pair.client.http.post(address);
        let sent = request.bearer_auth(token).json(&body).send().await.unwrap();
        assert_eq!(sent.status(), StatusCode::NO_CONTENT);
    };
    for (told, asked) in [(0, 1), (1, 0), (1, 1)] {
        // It is listed for a while only; on a busy machine that may be over.
        let listed = eventually(async || {
            announce(told).await;
            let listed = pair.of(asked).get("/workers").await.unwrap();
            let workers = listed["workers"].as_array().unwrap();
            assert!(workers.len() <= 1, "{listed}");
            workers.first().cloned()
        })
        .await;
        assert_eq!(listed["id"], worker, "{listed}");
        assert_eq!(listed["device"], format!("device-{told}"), "{listed}");
        assert_eq!(listed["queues"], json!({ "general-queue": 4 }), "{listed}");
    }
    let other = pair.of(0).within("other").get("/workers").await.unwrap();
    assert_eq!(other["workers"], json!([]));
}

/// An address that one server gave out for a folder that both have is good at the other.
async fn addresses(pair: &Pair) {
    let granted = pair.of(0).grant("probe", "blob", "shared", None);
    granted.await.unwrap();
    let presign = async |put: bool| {
        let input = json!({ "binding": "shared", "key": "a", "put": put, "lasts_ms": 60_000 });
        let address = pair.client.succeed("probe.blob_presign", &input).await;
        address.unwrap().as_str().unwrap().to_owned()
    };
    let write = presign(true).await;
    let begin = format!("http://{}/presigned/", pair.balancer.address);
    assert!(write.starts_with(&begin), "{write}");
    let http = &pair.client.http;
    let at = |address: &str, number: usize| {
        address.replacen(
            &begin,
            &format!("{}/presigned/", pair.servers[number].url),
            1,
        )
    };
    let put = http.put(&write).body("shared").send().await.unwrap();
    assert_eq!(put.status(), StatusCode::OK);
    let read = presign(false).await;
    for address in [at(&read, 0), at(&read, 1), read.clone(), read] {
        let got = http.get(&address).send().await.unwrap();
        assert_eq!(got.status(), StatusCode::OK, "{address}");
        assert_eq!(got.text().await.unwrap(), "shared");
    }
    // The key is the state's, and made once.
    let state = HostDb::open(&pair.state.location()).await.unwrap();
    let key = state.address_key("another").await.unwrap();
    assert!(key.len() >= 43, "{key}");
    let signed = Addresses::new(&begin.replace("/presigned/", ""), key.as_bytes());
    let lasts = std::time::Duration::from_secs(60);
    let ours = signed
        .of("default", "shared")
        .sign("a", Presigned::Get, lasts);
    let got = http.get(&ours).send().await.unwrap();
    assert_eq!(got.status(), StatusCode::OK);
    state.close().await;
    for server in &pair.servers {
        assert!(!server.data().join("address-key").exists());
        assert!(!server.log().contains(&key));
    }
}
