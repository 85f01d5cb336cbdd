//! A long run of a real server: it goes on as others whatever happens to the process, and
//! people see how.

use std::os::unix::process::ExitStatusExt as _;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::support::cli::Desk;
use crate::support::server::{Client, Options, Server};

const FLOW: &str = "
document: {dsl: 1.0.3, namespace: tests, name: long, version: 1.0.0}
do:
  - loop:
      for: {each: n, in: '${ [range(.rounds)] }'}
      do:
        - pause: {wait: PT0.01S}
        - count: {set: {rounds: '${ .rounds }', sum: '${ (.sum // 0) + $n }', run: '${ $workflow.id }'}}
  - notes:
      listen: {to: {any: [{with: {type: note}}], until: {one: {with: {type: stop}}}}}
      output: {as: '${ $input + {notes: .} }'}
";

/// The same, which begins when it is told to.
fn told_to_go() -> String {
    let go =
        "do:\n  - go: {listen: {to: {one: {with: {type: go}}}}, output: {as: '${ $input }'}}\n";
    FLOW.replacen("do:\n", go, 1)
}

/// Where the process is killed, and at which of the first times there.
const DEATHS: [(&str, u64); 9] = [
    ("before-append", 9),
    ("in-timer", 5),
    ("before-sync", 14),
    ("before-answer", 11),
    ("before-sync", 25),
    ("before-answer", 19),
    ("before-append", 21),
    ("before-sync", 5),
    ("before-answer", 30),
];

fn short(environment: Vec<(String, String)>) -> Options {
    Options {
        config: Some("[limits]\nhistory_events = 10\n".to_owned()),
        environment,
        ..Options::default()
    }
}

/// The run's own history, and those of the runs that went on from it, by run id.
async fn chain(client: &Client, id: &str, first: &str) -> anyhow::Result<Vec<(String, Value)>> {
    let mut chain = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(run_id) = next {
        let path = format!("/workflows/{id}/runs/{run_id}");
        let shown = client.get(&path).await?;
        let history = client.get(&format!("{path}/history?limit=1000")).await?;
        next = shown["continued_as"].as_str().map(ToOwned::to_owned);
        ensure!(shown["first_run_id"] == first, "{shown}");
        ensure!(shown.get("failure").is_none(), "{shown}");
        ensure!(
            next.is_some() == (shown["status"] == "ContinuedAsNew"),
            "{shown}"
        );
        chain.push((run_id, history));
    }
    Ok(chain)
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_in_the_middle_lose_nothing_of_a_run_that_goes_on() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let server = Server::on(&data, short(Vec::new())).await?;
    Client::ok(server.client.push_flow(FLOW).await?).await?;
    let body =
        json!({ "workflow_type": "tests.long", "workflow_id": "long", "input": {"rounds": 200} });
    let started = server.client.post("/workflows", &body).await?;
    let first = started["run_id"].as_str().context("no run id")?.to_owned();
    drop(server);
    let mut acknowledged = Vec::new();
    let mut sent = 0;
    for (point, count) in DEATHS {
        let armed = ("HEYDAY_FAIL_POINT".to_owned(), format!("{point}:{count}"));
        let mut server = match Server::on(&data, short(vec![armed])).await {
            Ok(server) => server,
            // It died while it recovered.
            Err(error) if error.to_string().contains("signal: 9") => continue,
            Err(error) => return Err(error),
        };
        let client = server.client.clone();
        let notes = async {
            loop {
                sent += 1;
                let note = json!({ "name": "note", "id": format!("note {sent}"), "data": sent });
                match client.post("/workflows/long/signals", &note).await {
                    Ok(_) => acknowledged.push(sent),
                    // It is dead, or was just then: whether it has it nobody knows.
                    Err(_) => break,
                }
            }
            server.wait_for_exit().await
        };
        let status = notes.await?;
        ensure!(status.signal() == Some(9), "it ended with {status}");
    }
    let server = Server::on(&data, short(Vec::new())).await?;
    let stop = json!({ "name": "stop", "id": "stop" });
    server.client.post("/workflows/long/signals", &stop).await?;
    let outcome = server.client.result("long").await?;
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    let result = &outcome.body["result"];
    assert_eq!(result["sum"], (0..200).sum::<u64>());
    assert_eq!(result["run"], json!(first));
    let mut taken: Vec<u64> = serde_json::from_value(result["notes"].clone())?;
    let all = taken.len();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), all, "a signal was taken twice");
    for note in &acknowledged {
        assert!(taken.contains(note), "{note} was lost");
    }
    let chain = chain(&server.client, "long", &first).await?;
    assert!(chain.len() > 5, "{}", chain.len());
    assert_eq!(
        outcome.body["run_id"],
        json!(chain.last().context("none")?.0)
    );
    let events = chain
        .iter()
        .flat_map(|(_, history)| history["events"].as_array());
    let fired = events
        .flatten()
        .filter(|event| event["event_type"] == "TimerFired");
    assert_eq!(fired.count(), 200);
    let runs = server.client.get("/workflows?page_size=500").await?;
    let runs = runs["workflows"].as_array().context("no list")?;
    assert_eq!(runs.len(), chain.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_where_a_run_went_on() -> anyhow::Result<()> {
    let server = Server::with(short(Vec::new())).await?;
    Client::ok(server.client.push_flow(FLOW).await?).await?;
    let desk = Desk::new(&server)?;
    let body =
        json!({ "workflow_type": "tests.long", "workflow_id": "long", "input": {"rounds": 12} });
    let started = server.client.post("/workflows", &body).await?;
    let first = started["run_id"].as_str().context("no run id")?.to_owned();
    let stop = json!({ "name": "stop", "id": "stop" });
    server.client.post("/workflows/long/signals", &stop).await?;
    // Whoever names the workflow follows all of its runs.
    let result = desk
        .run("", "heyday workflow result long --wait")
        .await?
        .ok();
    assert!(result.stdout.contains("\"sum\": 66"), "{result}");
    let chain = chain(&server.client, "long", &first).await?;
    let (second, last) = (&chain[1].0, &chain.last().context("none")?.0);
    let line = format!("heyday workflow show long --run-id {first}");
    desk.run("", &line)
        .await?
        .ok()
        .says("ContinuedAsNew")
        .says("continued as")
        .says(second);
    let line = format!("heyday workflow show long --run-id {second}");
    desk.run("", &line)
        .await?
        .ok()
        .says("continued from")
        .says("first run")
        .says(&first);
    desk.run("", "heyday workflow show long")
        .await?
        .ok()
        .says("Completed")
        .says(last);
    desk.run("", "heyday workflow list")
        .await?
        .ok()
        .says("ContinuedAsNew")
        .says("Completed");
    let line = format!("heyday workflow history long --run-id {first}");
    let shown = desk.run("", &line).await?.ok();
    let shown = shown.says(&format!(
        "WorkflowExecutionContinuedAsNew  goes on as run {second}"
    ));
    assert!(
        !shown.stdout.contains("WorkflowExecutionCompleted"),
        "{shown}"
    );
    // The stream of a run ends with it, and says which one goes on.
    let path = format!("/workflows/long/runs/{first}/events");
    let response = server
        .client
        .request(reqwest::Method::GET, &path)
        .send()
        .await?;
    let stream = response.text().await?;
    let end = stream
        .lines()
        .rfind(|line| line.starts_with("data:"))
        .context("no end")?;
    let end: Value = serde_json::from_str(end.trim_start_matches("data:"))?;
    assert_eq!(
        end,
        json!({"type": "end", "status": "ContinuedAsNew", "continued_as": second})
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_a_workflow_goes_on_with_its_runs() -> anyhow::Result<()> {
    let server = Server::with(short(Vec::new())).await?;
    Client::ok(server.client.push_flow(&told_to_go()).await?).await?;
    let desk = Desk::new(&server)?;
    let body =
        json!({ "workflow_type": "tests.long", "workflow_id": "long", "input": {"rounds": 40} });
    server.client.post("/workflows", &body).await?;
    let mut watched = desk.watch("heyday workflow events long --follow")?;
    // Whoever comes later than the first run follows a later one.
    watched.line("WorkflowExecutionStarted").await?;
    let go = json!({ "name": "go", "id": "go" });
    server.client.post("/workflows/long/signals", &go).await?;
    watched.line("WorkflowExecutionContinuedAsNew").await?;
    watched.line("goes on after run").await?;
    let stop = json!({ "name": "stop", "id": "stop" });
    server.client.post("/workflows/long/signals", &stop).await?;
    watched.line("WorkflowExecutionCompleted").await?;
    let (_, code) = watched.end().await?;
    assert_eq!(code, Some(0));
    Ok(())
}
