//! The command line: histories as files, replays, and the gate before an activation.

use serde_json::{Value, json};

use super::{document, push};
use crate::support::cli::Desk;
use crate::support::server::{Client, Options, Server};
use crate::support::temporal;

pub(super) const WAITS: &str = "
do:
  - w: {wait: PT1H}
";
/// The same commands.
const ALIKE: &str = "
do:
  - s: {set: {x: 1}}
  - w: {wait: PT2H}
";
pub(super) const OTHER: &str = "
do:
  - e: {emit: {event: {with: {source: 'urn:kept', type: said}}}}
  - w: {wait: PT1H}
";

pub(super) fn version(text: &str, version: &str) -> String {
    text.replace("version: 1.0.0", &format!("version: {version}"))
}

pub(super) async fn waiting(client: &Client, name: &str, id: &str) {
    let body = json!({ "workflow_type": format!("kept.{name}"), "workflow_id": id });
    client.post("/workflows", &body).await.unwrap();
    super::until("it waits", async || {
        super::kinds(client, id)
            .await
            .contains(&"TimerStarted".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_are_exported_and_replayed_from_the_command_line() {
    let server = Server::start().await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let flow = document("waits", WAITS);
    push(&server.client, &flow).await;
    waiting(&server.client, "waits", "w").await;
    std::fs::write(
        desk.path().join("other.yaml"),
        version(&document("waits", OTHER), "2.0.0"),
    )
    .unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();

    run("heyday workflow export w --to w.json")
        .await
        .ok()
        .says("w.json");
    let whole = run("heyday workflow export w").await.ok().json();
    assert_eq!(whole["format"], "heyday.history.v1");
    run("heyday workflow replay w.json")
        .await
        .ok()
        .says("agrees with kept.waits 1.0.0");
    run("heyday workflow export w | heyday workflow replay -")
        .await
        .ok()
        .says("agrees");
    run("heyday workflow replay w.json --definition kept.waits:1.0.0 --exact")
        .await
        .ok();
    let diverges = run("heyday workflow replay w.json --flow other.yaml")
        .await
        .code(8);
    let diverges = diverges
        .says("TimerStarted")
        .says("MarkerRecorded")
        .says("/do/0/e");
    diverges.says("replay differs at event");
    let as_json = run("heyday workflow replay w.json --flow other.yaml --output json")
        .await
        .code(8)
        .json();
    assert_eq!(as_json["agrees"], false);
    assert_eq!(
        as_json["difference"]["expected"]["event_type"],
        "MarkerRecorded"
    );

    // What is no history, or not there.
    std::fs::write(desk.path().join("half.json"), &whole.to_string()[..100]).unwrap();
    run("heyday workflow replay half.json")
        .await
        .code(2)
        .says("is not JSON");
    std::fs::write(desk.path().join("none.json"), "{\"a\": 1}").unwrap();
    run("heyday workflow replay none.json")
        .await
        .code(2)
        .says("no history");
    run("heyday workflow replay missing.json")
        .await
        .code(2)
        .says("missing.json");
    run("heyday workflow replay w.json --definition kept.nothing")
        .await
        .code(3);
    run("heyday workflow replay w.json --flow w.json")
        .await
        .code(2);
    run("heyday --namespace other workflow replay w.json")
        .await
        .code(2)
        .says("namespace");
    run("heyday workflow export nobody").await.code(3);
    for command in ["workflow replay", "workflow export", "flow replay"] {
        run(&format!("heyday {command} --help"))
            .await
            .ok()
            .says("Example");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_speaks_on_the_command_line() {
    let server = Server::start().await.unwrap();
    the_gate(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_speaks_of_runs_on_a_cluster() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let server = Server::with(Options::on_temporal(&address, &namespace))
        .await
        .unwrap();
    server.wait_for_engine().await.unwrap();
    the_gate(&server).await;

    // What Temporal's own command line writes is replayed as well.
    let desk = Desk::new(&server).unwrap();
    let temporal = temporal::binary().unwrap();
    let temporal = format!(
        "{} --address {address} --namespace {namespace}",
        temporal.display()
    );
    for how in ["", " --no-json-shorthand-payloads"] {
        let show = format!("{temporal} workflow show -w a --output json{how} > shown.json");
        desk.run("", &show).await.unwrap().ok();
        let shown = std::fs::read(desk.path().join("shown.json")).unwrap();
        let shown: Value = serde_json::from_slice(&shown).unwrap();
        assert!(shown["events"].is_array(), "{shown}");
        let replay = "heyday workflow replay shown.json --definition kept.gated:1.0.0 --exact";
        desk.run("", replay).await.unwrap().ok().says("agrees");
        let replay = "heyday workflow replay shown.json --definition kept.gated:2.0.0";
        let ran = desk.run("", replay).await.unwrap().code(8);
        ran.says("MarkerRecorded");
    }
}

async fn the_gate(server: &Server) {
    let desk = Desk::new(server).unwrap();
    let client = &server.client;
    push(client, &document("gated", WAITS)).await;
    for id in ["a", "b"] {
        waiting(client, "gated", id).await;
    }
    let write = |name: &str, flow: &str, number: &str| {
        let text = version(&document("gated", flow), number);
        std::fs::write(desk.path().join(name), text).unwrap();
    };
    write("alike.yaml", ALIKE, "1.1.0");
    write("other.yaml", OTHER, "2.0.0");
    let run = async |line: &str| desk.run("", line).await.unwrap();
    // Lists of a cluster follow within a moment.
    let listed = "/workflows?query=WorkflowType%20%3D%20%27kept.gated%27%20AND%20ExecutionStatus%20%3D%20%27Running%27";
    super::until("both are listed", async || {
        let page = client.get(listed).await.unwrap();
        page["workflows"]
            .as_array()
            .is_some_and(|runs| runs.len() == 2)
    })
    .await;

    let refused = run("heyday flow push other.yaml --refuse-diverging")
        .await
        .code(4);
    refused.says("2 diverge").says("replay differs at event");
    run("heyday flow show kept.gated 2.0.0").await.code(3);
    run("heyday flow push other.yaml --no-activate").await.ok();
    let replayed = run("heyday flow replay kept.gated 2.0.0").await.code(8);
    replayed.says("2 of 2 open runs diverge");
    let refused = run("heyday flow activate kept.gated 2.0.0 --refuse-diverging")
        .await
        .code(4);
    refused.says("nothing was changed");
    let active = client.get("/flows/kept.gated").await.unwrap();
    assert_eq!(active["active"], "1.0.0");

    let agreed = run("heyday flow push alike.yaml --refuse-diverging")
        .await
        .ok();
    assert!(!agreed.stderr.contains("diverge"), "{agreed}");
    run("heyday flow rollback kept.gated").await.ok();
    let told = run("heyday flow activate kept.gated 2.0.0").await.ok();
    let told = told.says("the open run a of 1.0.0 diverges from 2.0.0");
    told.says("the open run b of 1.0.0 diverges from 2.0.0")
        .says("Open runs keep 1.0.0");
    for id in ["a", "b"] {
        let shown = client.get(&format!("/workflows/{id}")).await.unwrap();
        assert_eq!(shown["version"], "1.0.0");
        assert_eq!(shown["status"], "Running");
    }
    let json = run("heyday flow replay kept.gated 2.0.0 --output json")
        .await
        .code(8)
        .json();
    assert_eq!(json["replays"].as_array().map(Vec::len), Some(2));
}
