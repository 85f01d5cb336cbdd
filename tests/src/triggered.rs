//! Flows that events start (`schedule.on`), on both engines, past kills and changes.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::cli::Desk;
use crate::support::server::{Client, Options, Server};
use crate::support::temporal;
use crate::support::worker::eventually;

/// Started by each upload of a PDF.
const UPLOADED: &str = "
document: {dsl: 1.0.3, namespace: tests, name: uploaded, version: 1.0.0}
schedule: {on: {one: {with: {type: uploaded, data: {kind: pdf}}}}}
do:
  - seen: {set: {event: '${ .[0].data.key }', id: '${ .[0].id }', of: '${ length }'}}
";

/// Started by an order and its payment.
const PAID: &str = "
document: {dsl: 1.0.3, namespace: tests, name: paid, version: 1.0.0}
schedule:
  on:
    all:
      - with: {type: ordered}
        correlate: {order: {from: '${ .data.order }'}}
      - with: {type: paid}
        correlate: {order: {from: '${ .data.order }'}}
do:
  - seen: {set: {order: '${ .[0].data.order }', sum: '${ map(.data.sum // 0) | add }'}}
";

/// The next version of the first one: other events start it.
const RENAMED: &str = "
document: {dsl: 1.0.3, namespace: tests, name: uploaded, version: 2.0.0}
schedule: {on: {any: [{with: {type: stored}}]}}
do:
  - seen: {set: {event: '${ .[0].data.key }', id: '${ .[0].id }', of: 'stored'}}
";

/// And one that nothing starts.
const QUIET: &str = "
document: {dsl: 1.0.3, namespace: tests, name: uploaded, version: 3.0.0}
do:
  - seen: {set: {a: 1}}
";

async fn push(client: &Client, flow: &str) {
    let pushed = client.push_flow(flow).await.unwrap();
    Client::ok(pushed).await.unwrap();
}

/// Sends an event; the flows that it came to.
async fn send(client: &Client, event: Value) -> Vec<String> {
    let answer = client.post("/events", &event).await.unwrap();
    serde_json::from_value(answer["flows"].clone()).unwrap()
}

fn uploaded(id: &str, kind: &str) -> Value {
    json!({"specversion": "1.0", "type": "uploaded", "source": "/inbox", "id": id,
           "data": {"key": format!("{id}.{kind}"), "kind": kind}})
}

/// The results of all runs of a flow, once there are so many that have ended.
async fn results(client: &Client, flow: &str, count: usize) -> Vec<Value> {
    let query = format!("/workflows?query=WorkflowType%20%3D%20%27{flow}%27");
    let runs = eventually(async || {
        let page = client.get(&query).await.unwrap();
        let runs = page["workflows"].as_array().unwrap();
        (runs.len() >= count).then(|| runs.clone())
    });
    let mut results = Vec::new();
    for run in runs.await {
        let id = run["workflow_id"].as_str().unwrap();
        results.push(client.result(id).await.unwrap().body["result"].clone());
    }
    results
}

/// Which events started runs of the first flow.
fn ids(results: &[Value]) -> BTreeSet<&str> {
    let ids: BTreeSet<_> = results
        .iter()
        .filter_map(|one| one["id"].as_str())
        .collect();
    assert_eq!(ids.len(), results.len(), "{results:?}");
    ids
}

/// Leaves the flows, which have had each of these events.
pub(crate) async fn started_by_events(client: &Client) {
    push(client, UPLOADED).await;
    push(client, PAID).await;

    // Each event that fits starts a run, once; the others start nothing.
    assert_eq!(send(client, uploaded("1", "pdf")).await, ["tests.uploaded"]);
    send(client, uploaded("1", "pdf")).await;
    send(client, uploaded("2", "txt")).await;
    assert_eq!(send(client, uploaded("3", "pdf")).await, ["tests.uploaded"]);
    let none = json!({"type": "unheard-of", "data": {}});
    assert_eq!(send(client, none).await, Vec::<String>::new());
    let seen = results(client, "tests.uploaded", 2).await;
    assert_eq!(ids(&seen), BTreeSet::from(["1", "3"]));
    assert!(seen.iter().all(|one| one["of"] == 1), "{seen:?}");
}

async fn tour(server: Server, options: Options) {
    server.wait_for_engine().await.unwrap();
    let client = &server.client;
    started_by_events(client).await;

    // Half of a set survives a kill, and the other half completes it.
    let ordered = json!({"type": "ordered", "data": {"order": 7, "sum": 1}});
    assert_eq!(send(client, ordered).await, ["tests.paid"]);
    let server = server.kill_and_restart(options).await.unwrap();
    server.wait_for_engine().await.unwrap();
    let client = &server.client;
    for (order, sum) in [(8, 100), (7, 10)] {
        let paid = json!({"type": "paid", "data": {"order": order, "sum": sum}});
        assert_eq!(send(client, paid).await, ["tests.paid"]);
    }
    send(client, uploaded("3", "pdf")).await;
    send(client, uploaded("4", "pdf")).await;
    let seen = results(client, "tests.uploaded", 3).await;
    assert_eq!(ids(&seen), BTreeSet::from(["1", "3", "4"]));
    let seen = results(client, "tests.paid", 1).await;
    assert_eq!(seen, [json!({"order": 7, "sum": 11})]);

    // While it is paused events pass by, and those that come again afterwards do not.
    let desk = Desk::new(&server).unwrap();
    let schedule = "flow:tests.uploaded";
    desk.run(
        "",
        &format!("heyday schedule pause {schedule} --note later"),
    )
    .await
    .unwrap()
    .ok();
    let passed = send(client, uploaded("7", "pdf")).await;
    assert_eq!(passed, Vec::<String>::new());
    let ordered = json!({"type": "ordered", "data": {"order": 9, "sum": 1}});
    assert_eq!(
        send(client, ordered).await,
        ["tests.paid"],
        "the others go on"
    );
    desk.run("", &format!("heyday schedule show {schedule}"))
        .await
        .unwrap()
        .ok()
        .says("later");
    desk.run("", &format!("heyday schedule trigger {schedule}"))
        .await
        .unwrap()
        .ok();
    let seen = results(client, "tests.uploaded", 4).await;
    assert!(seen.iter().any(|one| one["of"] == 0), "{seen:?}");
    desk.run("", &format!("heyday schedule unpause {schedule}"))
        .await
        .unwrap()
        .ok();
    assert_eq!(send(client, uploaded("7", "pdf")).await, ["tests.uploaded"]);
    let seen = results(client, "tests.uploaded", 5).await;
    assert!(seen.iter().any(|one| one["id"] == "7"), "{seen:?}");

    // Another version waits for what it says; what waits for events can be ended by hand,
    // and the next event brings it back.
    push(client, RENAMED).await;
    assert_eq!(
        send(client, uploaded("5", "pdf")).await,
        Vec::<String>::new()
    );
    desk.run("", "heyday workflow terminate events:tests.uploaded")
        .await
        .unwrap()
        .ok();
    desk.run(
        "",
        "heyday event send stored --id 6 --attribute source=/inbox --input '{\"key\":\"6.pdf\"}'",
    )
    .await
    .unwrap()
    .ok()
    .says("came to tests.uploaded");
    let mut seen = results(client, "tests.uploaded", 6).await;
    seen.retain(|one| one["of"] != 0);
    assert_eq!(ids(&seen), BTreeSet::from(["1", "3", "4", "6", "7"]));

    // Without `schedule.on` nothing waits any more.
    push(client, QUIET).await;
    desk.run("", "heyday event send stored")
        .await
        .unwrap()
        .ok()
        .says("no flow waits for an event");
    let ended = client
        .get("/workflows/events%3Atests.uploaded")
        .await
        .unwrap();
    assert_eq!(ended["status"], "Terminated", "{ended:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_start_flows_on_the_embedded_engine() {
    let server = Server::start().await.unwrap();
    tour(server, Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_start_flows_on_temporal() {
    let Some((address, namespace)) = temporal::namespace_with_schedules() else {
        return;
    };
    let options = || Options::on_temporal(&address, &namespace);
    let server = Server::with(options()).await.unwrap();
    tour(server, options()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_and_ids_of_listeners_are_refused() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    no_events(client).await;
    let large = json!({"type": "a", "data": "x".repeat(3 << 20)});
    let sent = client.request(Method::POST, "/events").json(&large);
    Client::refused(sent.send().await.unwrap(), StatusCode::PAYLOAD_TOO_LARGE).await;
}

/// Nothing waits for events any more.
pub(crate) async fn no_events(client: &Client) {
    push(client, QUIET).await;
    for event in [
        json!({}),
        json!([]),
        json!({"type": 7}),
        json!({"type": "a", "specversion": "0.3"}),
        json!({"type": "a", "data_base64": "AA=="}),
    ] {
        let sent = client.request(Method::POST, "/events").json(&event);
        Client::refused(sent.send().await.unwrap(), StatusCode::BAD_REQUEST).await;
    }
    let start = json!({"workflow_type": "tests.uploaded", "workflow_id": "events:tests.uploaded"});
    let sent = client.request(Method::POST, "/workflows").json(&start);
    Client::refused(sent.send().await.unwrap(), StatusCode::BAD_REQUEST).await;
}
