//! One activity as a run of its own, on the queue, with the timeouts and with as many
//! attempts as its caller says.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::plugins::all_receipts;
use crate::support::cli::Desk;
use crate::support::component;
use crate::support::handmade::Handmade;
use crate::support::probe;
use crate::support::server::{Client, Options, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_says_how_an_activity_runs() {
    let server = probe::shared();
    said_by_the_caller(&server.client).await;
    waited_for(&server.client).await;
}

/// Whoever waits has the end in the same answer, or is told that it goes on.
async fn waited_for(client: &Client) {
    let sum = json!({ "a": 1, "b": 2 });
    let ended = client.post("/activities/probe.add?wait=30s", &sum).await;
    let ended = ended.unwrap();
    assert_eq!(ended["status"], "Completed", "{ended}");
    assert_eq!(ended["result"]["sum"], 3, "{ended}");
    let request = client.request(Method::POST, "/activities/probe.wait_for_cancel?wait=10ms");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let open: Value = response.json().await.unwrap();
    assert_eq!(open["status"], "Running", "{open}");
}

/// Of activities of the probe.
pub(crate) async fn said_by_the_caller(client: &Client) {
    let own = client.succeed("probe.whoami", &Value::Null).await.unwrap();
    assert_eq!(own["queue"], "storage-queue", "{own}");
    let said = "probe.whoami:7.1.1?queue=general-queue&start_to_close=1h";
    let other = client.succeed(said, &Value::Null).await.unwrap();
    assert_eq!(other["queue"], "general-queue", "{other}");
    // Its own are 30 s.
    assert!(other["remaining_ms"].as_u64() > Some(60_000), "{other}");
    let id = other["workflow_id"].as_str().unwrap();
    let receipts = all_receipts(client, id, 1).await;
    assert_eq!(receipts[0]["queue"], "general-queue", "{receipts:?}");

    // Its own are three attempts.
    let failing = json!({ "kind": "k", "retryable": true });
    let failure = client.fail("probe.fail?maximum_attempts=2", &failing).await;
    assert_eq!(failure.unwrap()["message"], "failed on attempt 2");
    // Its own is an hour, and it never heartbeats.
    for (timeout, more) in [
        ("start_to_close", "&schedule_to_start=1h"),
        ("schedule_to_close", ""),
        ("heartbeat", ""),
    ] {
        let spin = format!("probe.spin_long?{timeout}=200ms{more}");
        let failure = client.fail(&spin, &Value::Null).await.unwrap();
        assert_eq!(failure["kind"], "timeout", "{failure}");
        assert_eq!(failure["details"]["timeout"], timeout, "{failure}");
    }

    for wrong in [
        "queue=No%20Name",
        "queue=",
        "start_to_close=soon",
        "heartbeat=0s",
        "schedule_to_close=-1s",
        "schedule_to_start=9999999h",
        "maximum_attempts=-1",
        "maximum_attempts=many",
        "attempts=1",
    ] {
        let path = format!("/activities/probe.echo?{wrong}");
        let request = client.request(Method::POST, &path).send();
        let problem = Client::refused(request.await.unwrap(), StatusCode::BAD_REQUEST).await;
        assert_eq!(
            problem["type"], "urn:heyday:problems:invalid-request",
            "{wrong}: {problem}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_says_where_a_plugins_activities_go() {
    let config = "[queues]\nslow = 2\n[default_queues]\nhandmade = 'slow'\nthinker = 'slow'\n";
    let server = Server::with(Options {
        config: Some(config.to_owned()),
        ..Options::default()
    });
    let server = server.await.unwrap();
    let client = &server.client;
    let pushed = client.push(Handmade::default().build(), "").await.unwrap();
    assert_eq!(pushed["activities"][0]["queue"], "slow", "{pushed}");
    // A call goes over it.
    for (activity, queue) in [
        ("handmade.answer", "slow"),
        ("handmade.answer?queue=general-queue", "general-queue"),
    ] {
        let id = client.start_activity(activity, &json!({})).await.unwrap();
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(outcome.status, "Completed", "{}", outcome.body);
        let receipts = client.receipts(&id).await.unwrap();
        assert_eq!(receipts[0]["queue"], queue, "{receipts:?}");
    }
    // So does what the plugin says itself, but not what its imports say.
    let pushed = client
        .push(component("thinker"), "&allow_missing=true")
        .await
        .unwrap();
    for activity in pushed["activities"].as_array().unwrap() {
        let named = activity["name"] == "list";
        let queue = if named { "general-queue" } else { "slow" };
        assert_eq!(activity["queue"], queue, "{activity}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_how_an_activity_runs() {
    let server = probe::server(Options::default()).await.unwrap();
    let desk = Desk::new(&server).unwrap();
    let run = async |line: &str| {
        let line = format!("heyday activity run {line}");
        desk.run("", &line).await.unwrap()
    };
    let other = run("probe.whoami --queue general-queue --start-to-close 1h -o json")
        .await
        .ok()
        .json();
    assert_eq!(other["result"]["queue"], "general-queue", "{other}");
    assert!(
        other["result"]["remaining_ms"].as_u64() > Some(60_000),
        "{other}"
    );
    let failed = run(r#"probe.fail --input '{"kind":"k","retryable":true}' --maximum-attempts 2"#);
    let failed = failed.await.code(1).says("k: failed on attempt 2");
    // Nobody who runs one activity has to know of flows.
    assert!(!failed.stderr.contains("/errors/"), "{failed}");
    let unfit = run(r#"probe.add --input '{"a":1}'"#).await.code(1);
    let unfit = unfit.says("invalid-input: the input does not fit");
    assert!(!unfit.stderr.contains("details:"), "{unfit}");
    run("probe.whoami --queue nowhere")
        .await
        .code(2)
        .says("there is no queue \"nowhere\"; there are ai-processing-queue");
    run("probe.whoami --queue No_Name")
        .await
        .code(2)
        .says("a queue's name has 1 to 63");
    run("probe.whoami --heartbeat 0s")
        .await
        .code(2)
        .says("at least 1ms");
}
