//! Histories of runs, kept as test data (`tests/histories`) so that every release proves
//! that it reads those of earlier ones: `README.md` there says how they are made.
//!
//! [`scenarios`] are what runs did whose histories are kept. Each test of a server runs
//! all of them, on one engine, and replays what they recorded; with
//! `HEYDAY_RECORD_HISTORIES=1` it keeps that as the histories of this driver's revision.

mod commands;
pub(crate) mod replays;
mod scenarios;

use std::path::{Path, PathBuf};
use std::time::Instant;

use futures::StreamExt as _;
use heyday_durable::driver::REVISION;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use self::scenarios::{CHILD, HISTORY_EVENTS, SCENARIOS, Scenario, Start, Step};
use crate::support::probe;
use crate::support::server::{Client, Options, PATIENCE, Server};
use crate::support::{pause, repository, temporal};

/// The engines, as folders name them.
const ENGINES: [&str; 2] = ["embedded", "temporal"];

fn folder() -> PathBuf {
    repository().join("tests/histories")
}

fn of_revision(revision: u32) -> PathBuf {
    folder().join(format!("revision-{revision}"))
}

/// A flow of that name, whole.
fn document(name: &str, flow: &str) -> String {
    format!("document: {{dsl: 1.0.3, namespace: kept, name: {name}, version: 1.0.0}}{flow}")
}

async fn push(client: &Client, text: &str) {
    let pushed = client.push_flow(text).await.unwrap();
    if let Err(error) = Client::ok(pushed).await {
        panic!("{error}\n{text}");
    }
}

/// Looks until it is so.
async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !so().await {
        assert!(begun.elapsed() < PATIENCE, "this never came true: {what}");
        pause(begun).await;
    }
}

/// Types of a run's events.
async fn kinds(client: &Client, id: &str) -> Vec<String> {
    let path = format!("/workflows/{id}/history?limit=1000");
    let history = client.get(&path).await.unwrap();
    let events = history["events"].as_array().unwrap();
    let kind = |event: &Value| event["event_type"].as_str().unwrap().to_owned();
    events.iter().map(kind).collect()
}

/// Starts a scenario's run; answers its workflow id.
async fn begin(client: &Client, scenario: &Scenario) -> String {
    let workflow_type = format!("kept.{}", scenario.name);
    match scenario.start {
        Start::With(input) => {
            let body = json!({
                "workflow_type": workflow_type,
                "workflow_id": scenario.name,
                "input": serde_json::from_str::<Value>(input).unwrap(),
            });
            client.post("/workflows", &body).await.unwrap();
            scenario.name.to_owned()
        }
        Start::Scheduled => {
            let schedule = json!({
                "schedule_id": scenario.name,
                "spec": { "intervals": [{ "every": "7200h" }] },
                "action": { "workflow_type": workflow_type, "input": {} },
            });
            client.post("/schedules", &schedule).await.unwrap();
            let trigger = format!("/schedules/{}/trigger", scenario.name);
            client.post(&trigger, &json!({})).await.unwrap();
            let query = format!("/workflows?query=WorkflowType%20%3D%20%27{workflow_type}%27");
            let started = async || client.get(&query).await.unwrap()["workflows"][0].clone();
            until("the schedule starts a run", async || {
                !started().await.is_null()
            })
            .await;
            let id = started().await["workflow_id"].as_str().unwrap().to_owned();
            let delete = format!("/schedules/{}", scenario.name);
            let deleted = client.request(Method::DELETE, &delete).send().await;
            Client::ok(deleted.unwrap()).await.unwrap();
            id
        }
    }
}

/// Does with a run what its scenario says, and answers its history, as a file.
async fn play(client: &Client, scenario: &Scenario) -> Value {
    push(client, &document(scenario.name, scenario.flow)).await;
    let id = begin(client, scenario).await;
    let mut id = id.replace(':', "%3A");
    let mut run = format!("/workflows/{id}");
    for (number, step) in scenario.steps.iter().enumerate() {
        match step {
            Step::Until(kind, times) => {
                until(kind, async || {
                    let kinds = kinds(client, &id).await;
                    kinds.iter().filter(|one| *one == kind).count() >= *times
                })
                .await;
            }
            Step::Listening => {
                until("a task listens", async || {
                    let shown = client.get(&run).await.unwrap();
                    let listens = shown["pending_listens"].as_array();
                    listens.is_some_and(|listens| !listens.is_empty())
                })
                .await;
            }
            Step::Signal(name, data) => {
                let data: Value = serde_json::from_str(data).unwrap();
                let body = json!({ "name": name, "id": format!("s{number}"), "data": data });
                client.post(&format!("{run}/signals"), &body).await.unwrap();
            }
            Step::Flood(name) => {
                let latest = async || client.get(&run).await.unwrap()["run_id"].clone();
                let before = latest().await;
                let mut sent = 0;
                while latest().await == before {
                    let id = format!("s{number}-{sent}");
                    let body = json!({ "name": name, "id": id, "data": sent });
                    client.post(&format!("{run}/signals"), &body).await.unwrap();
                    sent += 1;
                }
            }
            Step::Update(name, data) => {
                let data: Value = serde_json::from_str(data).unwrap();
                let body = json!({ "name": name, "id": format!("u{number}"), "data": data });
                // The task may not listen just yet.
                until("an update is taken", async || {
                    let path = format!("{run}/updates?wait=20s");
                    let request = client.request(Method::POST, &path).json(&body);
                    let response = request.send().await.unwrap();
                    if response.status() == StatusCode::CONFLICT {
                        return false;
                    }
                    Client::ok(response).await.unwrap();
                    true
                })
                .await;
            }
            Step::Cancel => {
                let body = json!({ "reason": "enough" });
                client.post(&format!("{run}/cancel"), &body).await.unwrap();
            }
        }
    }
    if scenario.ends == "Running" {
        until("it is where it is to be left", async || {
            let kinds = kinds(client, &id).await;
            scenario
                .has
                .iter()
                .all(|kind| kinds.iter().any(|one| one == kind))
        })
        .await;
    } else {
        let outcome = client.result(&id).await.unwrap();
        let goes_on = scenario.ends == "ContinuedAsNew";
        let status = if goes_on { "Completed" } else { scenario.ends };
        assert_eq!(
            outcome.status, status,
            "{}: {}",
            scenario.name, outcome.body
        );
        if goes_on {
            let last = client.get(&run).await.unwrap();
            let before = last["continued_from"].as_str().unwrap();
            id = format!("{id}/runs/{before}");
            run = format!("/workflows/{id}");
            let shown = client.get(&run).await.unwrap();
            assert_eq!(shown["status"], scenario.ends);
            assert!(shown["continued_from"].is_string(), "{shown}");
        }
    }
    let kinds = kinds(client, &id).await;
    for kind in scenario.has {
        assert!(
            kinds.iter().any(|one| one == kind),
            "{} has no {kind}: {kinds:?}",
            scenario.name
        );
    }
    let history = client.get(&format!("{run}/export")).await.unwrap();
    if scenario.ends == "Running" {
        let body = json!({ "reason": "its history was taken" });
        client
            .post(&format!("{run}/terminate"), &body)
            .await
            .unwrap();
    }
    history
}

/// Replays a history against a flow's text.
async fn replay(client: &Client, history: &Value, flow: &str) -> Value {
    let body = json!({ "history": history, "flow": flow });
    client.post("/replays", &body).await.unwrap()
}

/// Plays all scenarios, replays their histories, and keeps them where that is asked for.
async fn today(server: &Server, engine: &str) {
    let client = &server.client;
    push(client, &document("child", CHILD)).await;
    let keep = std::env::var_os("HEYDAY_RECORD_HISTORIES").is_some();
    // Each mostly waits. Those that are kept are recorded with nobody beside them.
    let at_once = if keep { 1 } else { 4 };
    let scenarios = SCENARIOS.iter();
    let all = scenarios.map(|scenario| scenario_of_today(client, scenario, engine, keep));
    let mut all = futures::stream::iter(all).buffer_unordered(at_once);
    while all.next().await.is_some() {}
}

async fn scenario_of_today(client: &Client, scenario: &Scenario, engine: &str, keep: bool) {
    let history = play(client, scenario).await;
    let flow = document(scenario.name, scenario.flow);
    let replayed = replay(client, &history, &flow).await;
    agrees(scenario.name, &replayed);
    assert_eq!(replayed["history"]["engine"], engine);
    assert_eq!(replayed["history"]["ended"], scenario.ends != "Running");
    assert_eq!(replayed["history"]["revision"], REVISION);
    if keep {
        let folder = of_revision(REVISION);
        write(
            &folder.join("flows"),
            &format!("{}.yaml", scenario.name),
            &flow,
        );
        let text = format!("{history}\n");
        write(
            &folder.join(engine),
            &format!("{}.json", scenario.name),
            &text,
        );
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
}

#[track_caller]
fn agrees(what: &str, replayed: &Value) {
    // The definition is the run's own, so every bit was compared.
    assert_eq!(replayed["exact"], true, "{what}: {replayed}");
    assert_eq!(replayed["agrees"], true, "{what}: {replayed}");
}

/// Whose configuration lets runs continue as new early.
fn short_histories(mut options: Options) -> Options {
    let config = options.config.get_or_insert_default();
    config.push_str(&format!("[limits]\nhistory_events = {HISTORY_EVENTS}\n"));
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn today_s_histories_of_the_embedded_engine_replay() {
    let options = short_histories(Options::default());
    let server = probe::server(options).await.unwrap();
    today(&server, "embedded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn today_s_histories_of_a_cluster_replay() {
    let Some((address, namespace)) = temporal::namespace_with_schedules() else {
        return;
    };
    let options = short_histories(Options::on_temporal(&address, &namespace));
    let server = probe::server(options).await.unwrap();
    server.wait_for_engine().await.unwrap();
    today(&server, "temporal").await;
}

/// The revisions of which histories are kept.
fn revisions() -> Vec<u32> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let mut revisions: Vec<u32> = entries
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_prefix("revision-")?.parse().ok()
        })
        .collect();
    revisions.sort_unstable();
    revisions
}

/// The names of the files of a folder, without their endings.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            path.file_stem().unwrap().to_str().unwrap().to_owned()
        })
        .collect();
    names.sort();
    names
}

fn kept(revision: u32, engine: &str, name: &str) -> (Value, String) {
    let folder = of_revision(revision);
    let history = std::fs::read(folder.join(engine).join(format!("{name}.json"))).unwrap();
    let flow = folder.join("flows").join(format!("{name}.yaml"));
    (
        serde_json::from_slice(&history).unwrap(),
        std::fs::read_to_string(flow).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_of_every_revision_replay() {
    let known: Vec<u32> = (1..=REVISION).collect();
    assert_eq!(
        revisions(),
        known,
        "a revision's histories are recorded with `cargo xtask histories`"
    );
    // On either engine: no cluster is asked.
    let server = Server::start().await.unwrap();
    for revision in known {
        let flows = names(&of_revision(revision).join("flows"));
        assert!(flows.len() >= 10, "revision {revision} has only {flows:?}");
        for engine in ENGINES {
            assert_eq!(names(&of_revision(revision).join(engine)), flows);
            for name in &flows {
                let (history, flow) = kept(revision, engine, name);
                let replayed = replay(&server.client, &history, &flow).await;
                agrees(
                    &format!("{name} of {engine}, revision {revision}"),
                    &replayed,
                );
                assert_eq!(replayed["history"]["revision"], revision);
                assert_eq!(replayed["history"]["engine"], engine);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_history_diverges_from_a_changed_flow_and_says_where() {
    let server = Server::start().await.unwrap();
    for engine in ENGINES {
        let (history, flow) = kept(1, engine, "activities");
        let changed = flow.replace("call: probe.whoami", "call: probe.talk");
        let replayed = replay(&server.client, &history, &changed).await;
        assert_eq!(replayed["agrees"], false, "{replayed}");
        let difference = &replayed["difference"];
        let task = "/do/1/both/fork/branches/1/right";
        for (side, name) in [("recorded", "probe.whoami"), ("expected", "probe.talk")] {
            let command = &difference[side];
            assert_eq!(
                command["event_type"], "ActivityTaskScheduled",
                "{difference}"
            );
            assert_eq!(command["id"], "3");
            assert_eq!(command["name"], name);
            assert_eq!(command["task"], task);
        }
        let event_id = difference["event_id"].as_u64().unwrap();
        let message = difference["message"].as_str().unwrap();
        assert!(
            message.contains(&format!("at event {event_id}:")),
            "{message}"
        );
        if engine == "temporal" {
            let event = &history["events"][usize::try_from(event_id).unwrap() - 1];
            let attributes = &event["activityTaskScheduledEventAttributes"];
            assert_eq!(attributes["activityType"]["name"], "probe.whoami");
        }
        // Its tasks may stand elsewhere; and what it answers may be something else.
        let moved = flow.replace("do:\n", "do:\n  - first: {set: '${ . }'}\n");
        let replayed = replay(&server.client, &history, &moved).await;
        assert_eq!(replayed["agrees"], true, "{replayed}");
        assert_eq!(replayed["exact"], false);
    }
}
