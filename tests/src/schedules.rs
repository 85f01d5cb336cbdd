//! Schedules over the real server, by the command line, on both engines, and past a kill.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::cli::Desk;
use crate::support::server::{Client, Options, Server};
use crate::support::temporal;
use crate::support::worker::eventually;

const FLOW: &str = "
document: {dsl: 1.0.3, namespace: tests, name: tick, version: 1.0.0}
do:
  - only: {set: {input: '${ . }'}}
";

/// The same with a schedule of its own.
const TIMED: &str = "
document: {dsl: 1.0.3, namespace: tests, name: timed, version: 1.0.0}
schedule: {every: PT1S}
do:
  - only: {set: {x: 1}}
";

const UNTIMED: &str = "
document: {dsl: 1.0.3, namespace: tests, name: timed, version: 2.0.0}
do:
  - only: {set: {x: 1}}
";

async fn push(client: &Client, flow: &str) {
    let pushed = client.push_flow(flow).await.unwrap();
    Client::ok(pushed).await.unwrap();
}

/// Asks until the answer is so.
async fn until(client: &Client, id: &str, so: impl Fn(&Value) -> bool) -> Value {
    eventually(async || {
        let seen = client.get(&format!("/schedules/{id}")).await;
        seen.ok().filter(&so)
    })
    .await
}

fn actions(seen: &Value) -> u64 {
    seen["info"]["action_count"].as_u64().unwrap_or_default()
}

/// Makes a schedule by the command line; answers how often it has started something.
pub(crate) async fn made(client: &Client) -> u64 {
    push(client, FLOW).await;
    push(client, TIMED).await;
    let desk = Desk::of(client).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();

    let create = "heyday schedule create often --flow tests.tick --every 1s --overlap allow-all \
                  --input '{\"n\":1}'";
    run(create).await.ok().says("often is made");
    run(create).await.code(4).says("exists in namespace");
    run("heyday schedule create x --flow tests.none --every 1s")
        .await
        .code(3);
    run("heyday schedule create x --flow tests.tick --cron '61 * * * *'")
        .await
        .says("no cron string");
    let seen = until(client, "often", |seen| actions(seen) >= 2).await;
    let started = seen["info"]["recent_actions"][0]["workflow_id"].clone();
    let outcome = client.result(started.as_str().unwrap()).await;
    assert_eq!(outcome.unwrap().body["result"]["input"]["n"], 1);
    until(client, "flow:tests.timed", |seen| actions(seen) >= 1).await;
    actions(&until(client, "often", |_| true).await)
}

async fn tour(server: Server, options: Options) {
    server.wait_for_engine().await.unwrap();
    let before = made(&server.client).await;
    let server = server.kill_and_restart(options).await.unwrap();
    server.wait_for_engine().await.unwrap();
    changed(&server.client, before).await;
}

/// Changes that schedule in each way, and removes it.
pub(crate) async fn changed(client: &Client, before: u64) {
    let desk = Desk::of(client).unwrap();
    let run = async |line: &str| desk.run("", line).await.unwrap();
    // What was missed meanwhile is made up for, each time once.
    until(client, "often", |seen| actions(seen) > before + 1).await;
    run("heyday schedule pause often --note enough").await.ok();
    let shown = run("heyday schedule show often -o json").await.ok().json();
    assert_eq!(shown["state"]["note"], "enough");
    let recent = shown["info"]["recent_actions"].as_array().unwrap();
    let mut ids: Vec<_> = recent
        .iter()
        .map(|one| one["workflow_id"].as_str())
        .collect();
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count, "{shown:#}");
    run("heyday schedule show often")
        .await
        .ok()
        .says("paused (enough)")
        .says("tests.tick");

    run("heyday schedule update often --cron '0 3 * * * 2090' --time-zone Europe/Berlin")
        .await
        .ok();
    let shown = run("heyday schedule show often -o json").await.ok().json();
    assert_eq!(shown["spec"]["cron"][0], "0 3 * * * 2090");
    assert_eq!(shown["spec"]["intervals"], Value::Null);
    assert_eq!(shown["action"]["input"]["n"], 1);
    assert_eq!(
        shown["info"]["future_action_times"][0],
        "2090-01-01T02:00:00Z"
    );
    let before = actions(&shown);
    run("heyday schedule trigger often").await.ok();
    until(client, "often", |seen| actions(seen) == before + 1).await;
    run("heyday schedule backfill often --from 2090-02-01T00:00:00Z --to 2090-02-02T12:00:00Z")
        .await
        .ok();
    until(client, "often", |seen| actions(seen) == before + 3).await;
    run("heyday schedule unpause often").await.ok();
    // A cluster's list follows within a moment.
    eventually(async || {
        let listed = run("heyday schedule list").await.ok();
        listed.stdout.contains("often").then_some(())
    })
    .await;
    let first = run("heyday schedule list --limit 1").await.ok();
    assert_eq!(first.stdout.lines().count(), 2, "{first}");
    first.says("more with --all, or from here with --page-token ");
    run("heyday schedule list --limit 1 --all")
        .await
        .ok()
        .says("often")
        .says("flow:tests.timed");
    run("heyday schedule delete often").await.ok();
    run("heyday schedule show often").await.code(3);

    run("heyday schedule delete flow:tests.timed")
        .await
        .code(4)
        .says("stand in a flow");
    push(client, UNTIMED).await;
    run("heyday schedule show flow:tests.timed").await.code(3);
}

/// A flow with a schedule of its own.
fn own(name: &str, schedule: &str) -> String {
    format!(
        "document: {{dsl: 1.0.3, namespace: tests, name: {name}, version: 1.0.0}}\n\
         schedule: {schedule}\ndo:\n  - only: {{set: {{x: 1}}}}\n"
    )
}

fn recent(seen: &Value) -> &[Value] {
    seen["info"]["recent_actions"].as_array().unwrap()
}

fn time(shown: &Value, member: &str) -> Timestamp {
    shown[member].as_str().unwrap().parse().unwrap()
}

/// Flows that start by themselves: at times, and a while after each run.
async fn by_themselves(server: Server, options: Options) {
    server.wait_for_engine().await.unwrap();
    let client = &server.client;
    let cron = "*/2 * * * * * *";
    push(client, &own("timely", &format!("{{cron: '{cron}'}}"))).await;
    push(client, &own("again", "{after: PT1S}")).await;
    let seen = until(client, "flow:tests.timely", |seen| actions(seen) >= 2).await;
    assert_eq!(seen["spec"]["cron"], json!([cron]));
    for action in recent(&seen) {
        assert_eq!(time(action, "schedule_time").as_second() % 2, 0, "{seen:#}");
        let run = action["workflow_id"].as_str().unwrap();
        let outcome = client.result(run).await.unwrap();
        assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    }
    let again = "flow:tests.again";
    let before = actions(&until(client, again, |seen| actions(seen) >= 2).await);
    let server = server.kill_and_restart(options).await.unwrap();
    server.wait_for_engine().await.unwrap();
    let client = &server.client;
    let seen = until(client, again, |seen| actions(seen) > before + 1).await;
    for pair in recent(&seen).windows(2) {
        let run = pair[0]["workflow_id"].as_str().unwrap();
        let run = client.get(&format!("/workflows/{run}")).await.unwrap();
        let waited = time(&pair[1], "actual_time").duration_since(time(&run, "closed_at"));
        assert!(waited >= SignedDuration::from_secs(1), "{waited}: {seen:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_start_by_themselves_past_a_kill() {
    let server = Server::start().await.unwrap();
    by_themselves(server, Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_on_a_cluster_start_by_themselves_past_a_kill() {
    let Some((address, namespace)) = temporal::namespace_with_schedules() else {
        return;
    };
    let options = || Options::on_temporal(&address, &namespace);
    let server = Server::with(options()).await.unwrap();
    by_themselves(server, options()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_by_the_command_line_and_past_a_kill() {
    let server = Server::start().await.unwrap();
    tour(server, Options::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_of_a_cluster_by_the_command_line_and_past_a_kill() {
    let Some((address, namespace)) = temporal::namespace_with_schedules() else {
        return;
    };
    let options = || Options::on_temporal(&address, &namespace);
    let server = Server::with(options()).await.unwrap();
    tour(server, options()).await;
}
