//! Foreign clients of the cluster: Temporal's own command line starts and asks for flows,
//! by their names and without our headers.

use heyday_durable::engine::ExecutionStatus;
use heyday_durable::failure::kind;
use serde_json::{Value, json};

use super::bench::{Bench, plugin, run};
use crate::support::temporal;

/// Runs `temporal workflow` in the bench's namespace; answers its JSON.
async fn workflow(bench: &Bench, arguments: &[&str]) -> Value {
    let (address, namespace) = bench.cluster().expect("it is on a cluster");
    let output = tokio::process::Command::new(temporal::binary().expect("it is there"))
        .arg("workflow")
        .args(arguments)
        .args([
            "--address",
            &address,
            "--namespace",
            &namespace,
            "-o",
            "json",
        ])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

async fn start(bench: &Bench, id: &str, inputs: &[&str]) {
    let mut arguments = vec![
        "start",
        "--type",
        "test.foreign",
        "--task-queue",
        "general-queue",
        "--workflow-id",
        id,
    ];
    for input in inputs {
        arguments.extend(["--input", input]);
    }
    workflow(bench, &arguments).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_starts_a_flow_and_reads_its_result() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    bench.define("foreign", "  - a: {call: t.echo, with: {got: '${ .n }'}}\n");
    start(&bench, "one", &[r#"{"n": 3}"#]).await;
    let result = workflow(&bench, &["result", "--workflow-id", "one"]).await;
    assert_eq!(result["result"], json!({"got": 3}));
    assert_eq!(bench.result(&run("one")).await, json!({"got": 3}));
    let description = bench.engine().describe(&run("one")).await.unwrap();
    assert_eq!(description.pinned["t.echo"], Some(plugin()));
    assert_eq!(description.info.version.to_string(), "0.1.0");
    let counted = async || {
        let request = heyday_durable::engine::ListRuns {
            namespace: "default".to_owned(),
            query: Some("WorkflowId = 'one'".to_owned()),
            page_size: 10,
            page_token: None,
        };
        let page = bench.engine().list(&request).await.unwrap();
        page.runs
            .first()
            .is_some_and(|run| run.status == ExecutionStatus::Completed)
    };
    bench.until("it is listed as one of ours", counted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_is_null_and_several_are_refused() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    bench.define("foreign", "  - a: {call: t.echo, with: {got: '${ . }'}}\n");
    start(&bench, "none", &[]).await;
    assert_eq!(bench.result(&run("none")).await, json!({"got": null}));
    start(&bench, "two", &["1", "2"]).await;
    let failure = bench.failure(&run("two")).await;
    assert_eq!(failure.kind, kind::INVALID_INPUT, "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_flow_fails_by_name() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    start(&bench, "nobody", &[]).await;
    let failure = bench.failure(&run("nobody")).await;
    assert_eq!(failure.kind, kind::UNKNOWN_WORKFLOW, "{failure:?}");
    assert!(failure.message.contains("test.foreign"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn temporals_own_tools_read_our_runs() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    bench.define("foreign", "  - a: {call: t.fail}\n");
    let run = bench.start_as("foreign", "mine", json!({})).await;
    bench.end(&run).await;
    let shown = workflow(&bench, &["show", "--workflow-id", "mine"]).await;
    let events = shown["events"].as_array().unwrap();
    let failed = |event: &&Value| event["eventType"] == "EVENT_TYPE_ACTIVITY_TASK_FAILED";
    let failed = events.iter().find(failed).unwrap();
    let failure = &failed["activityTaskFailedEventAttributes"]["failure"];
    assert_eq!(failure["message"], "as it was told");
    assert_eq!(failure["applicationFailureInfo"]["type"], "broken");
    assert_eq!(failure["applicationFailureInfo"]["nonRetryable"], true);
    assert_eq!(failure["cause"]["applicationFailureInfo"]["type"], "disk");
    let described = workflow(&bench, &["metadata", "--workflow-id", "mine"]).await;
    let described = described.to_string();
    assert!(described.contains("test.foreign"), "{described}");
}
