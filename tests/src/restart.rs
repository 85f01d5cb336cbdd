//! A server that is killed, or asked to stop, goes on where it was.

use std::sync::Arc;

use heyday::server::COMPILE_COMMAND;
use heyday_durable::payload::Digest;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::support::cli::Desk;
use crate::support::handmade::{DESCRIPTION, Handmade, long};
use crate::support::http_server;
use crate::support::postgres::children;
use crate::support::server::{Client, Options, Server};
use crate::support::worker::eventually;

const FLOW: &str = "
document: {dsl: 1.0.3, namespace: tests, name: restart, version: 1.0.0}
do:
  - before: {set: {seen: '${ .n + 1 }'}}
  - pause: {wait: PT3S}
  - after: {set: {seen: '${ .seen * 2 }'}}
";

#[tokio::test(flavor = "multi_thread")]
async fn an_open_run_survives_a_kill() {
    let server = Server::start().await.unwrap();
    let pushed = server.client.push_flow(FLOW).await.unwrap();
    assert!(
        pushed.status().is_success(),
        "{}",
        pushed.text().await.unwrap()
    );
    let id = server
        .client
        .start("tests.restart", &json!({"n": 20}))
        .await
        .unwrap();
    let first = server.pid();
    let server = server.kill_and_restart(Options::default()).await.unwrap();
    assert_ne!(server.pid(), first);
    let outcome = server.client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    assert_eq!(outcome.body["result"], json!({"seen": 42}));
}

/// Two calls to a server of the test's own, each of which ends when the test says so.
const GATED: &str = "
document: {dsl: 1.0.3, namespace: tests, name: gated, version: 1.0.0}
do:
  - first: {call: http, with: {method: get, endpoint: 'http://GATE/gate'}}
  - second: {call: http, with: {method: get, endpoint: 'http://GATE/gate'}}
";

/// A server whose attempts get that long to end, with a run whose first call runs.
async fn with_a_call(grace: &str) -> (Server, String, Arc<Semaphore>) {
    let options = Options {
        config: Some(format!("drain_grace = '{grace}'\n")),
        ..Options::default()
    };
    let server = Server::with(options).await.unwrap();
    let client = &server.client;
    let (gate, permits) = http_server::gate().await.unwrap();
    let flow = GATED.replace("GATE", &gate.to_string());
    let pushed = client.push_flow(&flow).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let rule = format!("GET:{gate}");
    let granted = client.grant("tests.gated", "http", &rule, None);
    granted.await.unwrap();
    let id = client.start("tests.gated", &Value::Null).await.unwrap();
    eventually(async || {
        let run = client.get(&format!("/workflows/{id}")).await.unwrap();
        (run["pending_activities"][0]["state"] == "Started").then_some(())
    })
    .await;
    (server, id, permits)
}

/// Presses Ctrl-C and waits until the server is stopping.
async fn stop(server: &Server) {
    server.interrupt();
    eventually(async || server.log().contains("Ctrl-C again").then_some(())).await;
}

/// Starts it again and waits for the run's end; answers how often each call was tried.
async fn tries(server: &mut Server, id: &str) -> Vec<u64> {
    server.start_again().await.unwrap();
    let outcome = server.client.result(id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    assert_eq!(outcome.body["result"], true);
    let mut receipts = server.client.receipts(id).await.unwrap();
    receipts.sort_by_key(|receipt| receipt["activity_id"].as_str().map(str::to_owned));
    let of = |receipts: &[Value]| {
        receipts
            .iter()
            .filter_map(|it| it["attempt"].as_u64())
            .max()
    };
    receipts
        .chunk_by(|one, next| one["activity_id"] == next["activity_id"])
        .filter_map(of)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_while_the_server_drains_is_not_done_again() {
    let (mut server, id, permits) = with_a_call("60s").await;
    stop(&server).await;
    permits.add_permits(1);
    let ended = server.wait_for_exit().await.unwrap();
    assert_eq!(ended.code(), Some(0), "{}", server.log());
    assert!(server.log().contains("Stopped. Open runs go on"));
    // Were the first call made again, the second one would wait for ever.
    permits.add_permits(1);
    assert_eq!(tries(&mut server, &id).await, [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_drain_cuts_off_is_tried_again_after_the_next_start() {
    let (mut server, id, permits) = with_a_call("10ms").await;
    stop(&server).await;
    let ended = server.wait_for_exit().await.unwrap();
    assert_eq!(ended.code(), Some(0), "{}", server.log());
    // More than two: the call that was cut off may still wait at the gate.
    permits.add_permits(5);
    assert_eq!(tries(&mut server, &id).await, [2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_stops_at_once() {
    let (mut server, id, permits) = with_a_call("10m").await;
    stop(&server).await;
    server.interrupt();
    let ended = server.wait_for_exit().await.unwrap();
    assert_eq!(ended.code(), Some(130), "{}", server.log());
    assert!(server.log().contains("Stopped at once"));
    permits.add_permits(5);
    assert_eq!(tries(&mut server, &id).await, [2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_an_interrupt_comes_upon_goes_on_at_the_next_start() {
    let mut server = Server::start().await.unwrap();
    // Of its own bytes: the tests share what is compiled.
    let description = DESCRIPTION.replace("By hand", &Uuid::now_v7().to_string());
    let handmade = Handmade {
        description: &description,
        functions: &long(5_000),
        ..Handmade::default()
    };
    let bytes = handmade.build();
    let path = format!("/uploads/{}?wait=60s", Digest::of(&bytes));
    let request = server.client.request(Method::POST, "/plugins?wait=60s");
    let sent = tokio::spawn(request.body(bytes).send());
    let compiles = |process: &u32| {
        let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|word| word == COMPILE_COMMAND.as_bytes())
    };
    eventually(async || children(server.pid()).iter().any(compiles).then_some(())).await;
    server.interrupt();
    // Who waits for it is told to ask later.
    let sent = sent.await.unwrap().unwrap();
    assert_eq!(sent.status(), StatusCode::ACCEPTED);
    let ended = server.wait_for_exit().await.unwrap();
    assert_eq!(ended.code(), Some(0), "{}", server.log());
    assert!(!server.log().contains("an upload failed"));
    server.start_again().await.unwrap();
    let version = eventually(async || {
        let request = server.client.request(Method::GET, &path);
        let answer = request.send().await.unwrap();
        match answer.status() {
            StatusCode::ACCEPTED => None,
            _ => Some(Client::ok(answer).await.unwrap()),
        }
    })
    .await;
    assert_eq!(version["state"], "ready", "{version}");
    assert_eq!(version["active"], true, "{version}");
}

/// Writes into the history of a run that it was started with another definition: what a bug
/// in a later release would look like.
async fn redefine(server: &Server, run: Uuid, from: Digest, to: Digest) {
    let url = format!("sqlite://{}", server.data().join("history.db").display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    let run = run.as_bytes().to_vec();
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT last_event, body FROM transitions WHERE run_id = ?")
            .bind(run.clone())
            .fetch_all(&mut database)
            .await
            .unwrap();
    let mut changed = 0;
    for (last_event, mut body) in rows {
        let at = body
            .windows(from.as_bytes().len())
            .position(|bytes| bytes == from.as_bytes());
        let Some(at) = at else {
            continue;
        };
        body[at..at + to.as_bytes().len()].copy_from_slice(to.as_bytes());
        sqlx::query("UPDATE transitions SET body = ? WHERE run_id = ? AND last_event = ?")
            .bind(body)
            .bind(run.clone())
            .bind(last_event)
            .execute(&mut database)
            .await
            .unwrap();
        changed += 1;
    }
    assert_eq!(changed, 1, "the run's start names its definition");
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_history_does_not_fit_is_shown_as_held() {
    let mut server = Server::start().await.unwrap();
    let client = server.client.clone();
    let push = async |version: &str, wait: &str| -> Digest {
        let flow = format!(
            "document: {{dsl: 1.0.3, namespace: tests, name: held, version: {version}}}
do:
  - pause: {{wait: {wait}}}
"
        );
        let pushed = client.push_flow(&flow).await.unwrap();
        let pushed = Client::ok(pushed).await.unwrap();
        pushed["digest"].as_str().unwrap().parse().unwrap()
    };
    let first = push("1.0.0", "PT1H").await;
    let id = client.start("tests.held", &Value::Null).await.unwrap();
    let path = format!("/workflows/{id}");
    let shown = eventually(async || {
        let shown = client.get(&path).await.unwrap();
        let waits = shown["pending_timers"]
            .as_array()
            .is_some_and(|timers| timers.len() == 1);
        waits.then_some(shown)
    })
    .await;
    assert!(shown.get("held").is_none(), "{shown}");
    let second = push("2.0.0", "PT2H").await;
    server.kill();
    let run = shown["run_id"].as_str().unwrap().parse().unwrap();
    redefine(&server, run, first, second).await;
    server.start_again().await.unwrap();

    // Its history is read again when something happens to it.
    let note = json!({ "name": "note", "data": 1 });
    client
        .post(&format!("{path}/signals"), &note)
        .await
        .unwrap();
    let shown = eventually(async || {
        let shown = client.get(&path).await.unwrap();
        shown["held"].is_string().then_some(shown)
    })
    .await;
    assert_eq!(shown["status"], "Running", "{shown}");
    let reason = shown["held"].as_str().unwrap();
    assert!(reason.contains("duration"), "{shown}");
    let listed = client.get("/workflows?page_size=10").await.unwrap();
    assert_eq!(listed["workflows"][0]["held"], reason, "{listed}");

    let desk = Desk::new(&server).unwrap();
    let line = format!("heyday workflow show {id}");
    let shown = desk.run("", &line).await.unwrap().ok();
    shown.says("held").says(reason);
    let listed = desk.run("", "heyday workflow list").await.unwrap().ok();
    listed.says("Running (held)");
}
