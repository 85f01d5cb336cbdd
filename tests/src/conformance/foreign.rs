//! Foreign clients of the cluster: Temporal's own command line starts and asks for flows,
//! by their names and without our headers.

use std::time::Instant;

use base64::Engine as _;
use heyday_durable::activity::{ActivityTask, CancelReason, Progress};
use heyday_durable::driver::STATE_QUERY;
use heyday_durable::engine::{ExecutionStatus, ListRuns, PendingState, RunRef, StartWorkflow};
use heyday_durable::failure::{Failure, kind};
use heyday_durable::flow::error::CONFIGURATION;
use heyday_durable::payload::Payload;
use serde_json::{Value, json};

use super::bench::{Bench, plugin, run};
use crate::support::server::PATIENCE;
use crate::support::temporal;

/// Runs `temporal workflow`, or another of its commands, in the bench's namespace.
async fn tool(bench: &Bench, command: &str, arguments: &[&str]) -> std::process::Output {
    let (address, namespace) = bench.cluster().expect("it is on a cluster");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = tokio::process::Command::new(temporal::binary().expect("it is there"))
            .arg(command)
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
        let again = temporal::has_asked_nothing(&String::from_utf8_lossy(&output.stderr));
        if !again || Instant::now() > deadline {
            return output;
        }
    }
}

/// The JSON that it answers; null where it says nothing.
pub async fn workflow(bench: &Bench, arguments: &[&str]) -> Value {
    let output = tool(bench, "workflow", arguments).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    if text.trim().is_empty() {
        return Value::Null;
    }
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What it says when it is refused.
async fn refused(bench: &Bench, arguments: &[&str]) -> String {
    let output = tool(bench, "workflow", arguments).await;
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
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

/// Where that workflow's run stands, as lists say.
async fn listed(bench: &Bench, id: &str) -> Option<ExecutionStatus> {
    let request = ListRuns {
        namespace: "default".to_owned(),
        query: Some(format!("WorkflowId = '{id}'")),
        page_size: 10,
        page_token: None,
    };
    let page = bench.engine().list(&request).await.unwrap();
    page.runs.first().map(|run| run.status)
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
    assert_eq!(
        description.info.version.as_ref().unwrap().to_string(),
        "0.1.0"
    );
    let completed = async || listed(&bench, "one").await == Some(ExecutionStatus::Completed);
    bench.until("it is listed as one of ours", completed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runs_of_a_foreign_clients_cron_are_one_to_wait_for() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    bench.define("foreign", "  - a: {call: t.echo, with: {got: '${ .n }'}}\n");
    let mut arguments = vec!["start", "--type", "test.foreign", "--workflow-id", "cron"];
    arguments.extend(["--task-queue", "general-queue", "--cron", "@every 1s"]);
    let output = tool(&bench, "workflow", &arguments).await;
    // It says first that Temporal would rather have schedules.
    let text = String::from_utf8(output.stdout).unwrap();
    let json = text.find('{').unwrap_or_else(|| panic!("{text}"));
    let started: Value = serde_json::from_str(&text[json..]).unwrap();
    let first = RunRef {
        run_id: Some(started["runId"].as_str().unwrap().parse().unwrap()),
        ..run("cron")
    };
    let goes_on = async || {
        let described = bench.engine().describe(&first).await.unwrap();
        described.continued_as.is_some()
    };
    bench.until("the next run is there", goes_on).await;
    // One may end just then, and the next one begin.
    let ends = async || {
        let ended = bench.engine().terminate(&run("cron"), "enough").await;
        ended.is_ok()
    };
    bench.until("the last run ends", ends).await;
    let end = bench.engine().result(&first, PATIENCE).await.unwrap();
    let end = end.expect("it ends");
    assert_eq!(end.status, ExecutionStatus::Terminated);
    assert_ne!(Some(end.run_id), first.run_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_is_null_and_several_or_other_encodings_are_refused() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    bench.define("foreign", "  - a: {call: t.echo, with: {got: '${ . }'}}\n");
    start(&bench, "none", &[]).await;
    assert_eq!(bench.result(&run("none")).await, json!({"got": null}));
    start(&bench, "two", &["1", "2"]).await;
    let failure = bench.failure(&run("two")).await;
    assert_eq!(failure.kind, kind::INVALID_INPUT, "{failure:?}");
    // As a codec of theirs would send it.
    let mut arguments = vec!["start", "--type", "test.foreign", "--workflow-id", "other"];
    arguments.extend(["--task-queue", "general-queue", "--input", "sealed"]);
    arguments.extend(["--input-meta", "encoding=binary/encrypted"]);
    workflow(&bench, &arguments).await;
    let failure = bench.failure(&run("other")).await;
    assert_eq!(failure.kind, kind::INVALID_INPUT, "{failure:?}");
    assert!(failure.message.contains("binary/encrypted"), "{failure:?}");
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
    // It is shown and listed all the same, with what is known.
    let described = bench.engine().describe(&run("nobody")).await.unwrap();
    assert_eq!(described.info.workflow_type, "test.foreign");
    assert_eq!(
        (described.info.version, described.info.digest),
        (None, None)
    );
    let failed = async || listed(&bench, "nobody").await == Some(ExecutionStatus::Failed);
    bench.until("it is listed as one of ours", failed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_where_a_run_is_pinned_fails_its_workflow_task_only() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    bench.define("foreign", "  - a: {call: t.echo, with: {got: '${ .n }'}}\n");
    // As often as it is tried within one workflow task.
    bench.panic_in_pin(5);
    start(&bench, "panics", &[r#"{"n": 3}"#]).await;
    let run = run("panics");
    // Each is told at once. Core would take one for lost only after 10 seconds, and say that.
    let failed = bench.until_event(&run, "WorkflowTaskFailed").await;
    let failure = failed.attributes["failure"].to_string();
    assert!(failure.contains("the host failed"), "{failure}");
    assert_eq!(bench.result(&run).await, json!({"got": 3}));
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
    assert_eq!(failure["stackTrace"], "at t::fail");
}

/// The text of a payload.
fn text(payload: &Value) -> String {
    let data = payload["data"].as_str();
    let data = data.unwrap_or_else(|| panic!("no payload: {payload}"));
    let bytes = base64::engine::general_purpose::STANDARD.decode(data);
    serde_json::from_slice(&bytes.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn temporals_own_tools_show_what_a_run_is_and_does() {
    let Some(mut bench) = Bench::temporal().await else {
        return;
    };
    bench.define_about(
        "foreign",
        ", title: Import, summary: Imports **things**.",
        "  - fetch: {call: t.hand}\n  - pause: {wait: PT1H}\n",
    );
    let run = bench.start_as("foreign", "mine", json!({})).await;
    let attempt = bench.attempt().await;
    attempt.context.sink.progress(Progress {
        completed: 3,
        total: 10,
        message: "pages".to_owned(),
    });
    let metadata = async || {
        let mut answer = workflow(&bench, &["metadata", "--workflow-id", "mine"]).await;
        answer["queryResult"][0].take()
    };
    let shown = metadata().await;
    assert_eq!(shown["definition"]["type"], "test.foreign", "{shown}");
    assert_eq!(shown["currentDetails"], "- `/do/0/fetch`: 3 of 10 pages\n");
    attempt.end(Ok(json!(1)));
    bench.until_event(&run, "TimerStarted").await;
    assert_eq!(metadata().await["currentDetails"], "- `/do/1/pause`\n");

    let described = workflow(&bench, &["describe", "--workflow-id", "mine"]).await;
    let shown = &described["executionConfig"]["userMetadata"];
    assert_eq!(shown["summary"], "Import", "{described}");
    assert_eq!(shown["details"], "Imports **things**.");
    let history = workflow(&bench, &["show", "--workflow-id", "mine"]).await;
    let events = history["events"].as_array().unwrap();
    for (kind, summary) in [
        ("EVENT_TYPE_ACTIVITY_TASK_SCHEDULED", "/do/0/fetch"),
        ("EVENT_TYPE_TIMER_STARTED", "/do/1/pause"),
    ] {
        let event = events.iter().find(|event| event["eventType"] == kind);
        let event = event.unwrap_or_else(|| panic!("no {kind}"));
        assert_eq!(text(&event["userMetadata"]["summary"]), summary);
    }
    let ended = |event: &&Value| event["eventType"] == "EVENT_TYPE_ACTIVITY_TASK_COMPLETED";
    let ended = events.iter().find(ended).unwrap();
    let result = &ended["activityTaskCompletedEventAttributes"]["result"]["payloads"][0];
    assert!(result["metadata"]["heyday-receipt"].is_string(), "{result}");
    bench.engine().terminate(&run, "done").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_engine_refuses_foreign_workers() {
    let bench = Bench::embedded().await;
    for task in [
        "  - a: {call: Theirs, metadata: {heyday: {foreign: {queue: narrow}}}}\n",
        "  - a: {run: {workflow: {namespace: test, name: a, version: latest}}, metadata: {heyday: {foreign: {queue: narrow}}}}\n",
    ] {
        bench.define("asks", task);
        let run = bench.start("asks", json!({})).await;
        let failure = bench.failure(&run).await;
        assert_eq!(failure.kind, CONFIGURATION, "{failure:?}");
        assert!(failure.message.contains("engine temporal"), "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_signals_updates_and_asks_a_flow() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    bench.define_about(
        "foreign",
        ", metadata: {heyday: {queries: {got: {n: '${ .context.n }'}}}}",
        "  - s: {listen: {to: {one: {with: {type: begin}}}}, export: {as: {n: '${ .0.n }'}}}\n  - u: {listen: {to: {one: {with: {type: approve, data: '${ .ok }'}}}}, metadata: {heyday: {update: {answer: {by: '${ .by }'}}}}}\n",
    );
    start(&bench, "one", &[]).await;
    let to = |what: &'static str| vec![what, "--workflow-id", "one", "--name"];
    let mut signal = to("signal");
    signal.extend(["begin", "--input", r#"{"n": 3}"#]);
    workflow(&bench, &signal).await;
    let asked = workflow(&bench, &["query", "--workflow-id", "one", "--type", "got"]).await;
    assert_eq!(asked["queryResult"], json!([{"n": 3}]), "{asked}");

    let update = |input: &'static [&'static str]| {
        let mut arguments = vec!["update", "execute", "--workflow-id", "one"];
        arguments.extend(["--name", "approve", "--update-id", "u"]);
        for input in input {
            arguments.extend(["--input", input]);
        }
        arguments
    };
    let refused = refused(&bench, &update(&[r#"{"ok": false}"#])).await;
    assert!(refused.contains("takes no such update"), "{refused}");
    let refused = self::refused(&bench, &update(&["1", "2"])).await;
    assert!(refused.contains("2 arguments"), "{refused}");
    let taken = workflow(&bench, &update(&[r#"{"ok": true, "by": "Ada"}"#])).await;
    assert_eq!(taken["result"], json!({"by": "Ada"}), "{taken}");
    assert_eq!(
        bench.result(&run("one")).await,
        json!([{"ok": true, "by": "Ada"}])
    );
    let ours = bench
        .engine()
        .update_result(&run("one"), "u", std::time::Duration::ZERO)
        .await
        .unwrap();
    let answer = ours.outcome.unwrap().unwrap().to_json().unwrap();
    assert_eq!(answer, json!({"by": "Ada"}));
    let stack = self::refused(
        &bench,
        &["query", "--workflow-id", "one", "--type", "__stack_trace"],
    )
    .await;
    assert!(stack.contains("__heyday_state"), "{stack}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_is_heard_by_each_run_that_goes_on() {
    let Some(mut bench) = Bench::temporal().await else {
        return;
    };
    bench.with_short_histories(14).await;
    bench.define(
        "foreign",
        "  - loop: {for: {each: item, in: '${ .items }'}, do: [{l: {listen: {to: {one: {with: {type: go}}}}, export: {as: {n: '${ .0.n }'}}}}]}\n",
    );
    // Each run that goes on has the same numbers of events as the one before it.
    let items: Vec<u64> = (0..8).collect();
    let first = bench
        .start_as("foreign", "one", json!({ "items": items }))
        .await;
    for item in &items {
        let input = json!({ "n": item }).to_string();
        let go = ["signal", "--workflow-id", "one", "--name", "go", "--input"];
        let mut arguments = go.to_vec();
        arguments.push(&input);
        workflow(&bench, &arguments).await;
        let heard = async || {
            let asked = run("one");
            let asked = bench.engine().query(&asked, STATE_QUERY, Payload::null());
            let state = asked.await.map(|state| state.to_json().unwrap());
            state.is_ok_and(|state| state["context"]["n"] == *item)
        };
        bench.until("the signal is heard", heard).await;
    }
    assert_eq!(bench.result(&first).await, json!([{ "n": 7 }]));
    assert!(bench.chain(&first).await.len() > 1);
}

/// How fast activities came to a queue through the cluster's matching, over the last half
/// minute.
async fn matched(bench: &Bench, queue: &str) -> f64 {
    let output = tool(bench, "task-queue", &["describe", "--task-queue", queue]).await;
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let mut stats = answer["stats"].as_array().unwrap().iter();
    let of_activities = stats.find(|stats| stats["taskQueueType"] == "activity");
    of_activities.unwrap()["tasksAddRate"].as_f64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn activities_on_the_runs_own_queue_come_with_the_answer_to_its_task() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    bench.define("foreign", "  - a: {call: t.echo}\n  - b: {call: t.echo}\n");
    let run = bench.start("foreign", json!({})).await;
    bench.result(&run).await;
    assert_eq!(bench.begun("t.echo"), 2);
    let before = matched(&bench, "general-queue").await;
    assert!(before <= 0.0, "{before}");
    // The same ones of runs on another queue go the long way, and are counted there.
    let counted = async || {
        let id = uuid::Uuid::now_v7().to_string();
        let elsewhere = StartWorkflow {
            task_queue: Some("narrow".to_owned()),
            ..bench.request("foreign", &id, json!({}))
        };
        bench.engine().start(elsewhere).await.unwrap();
        bench.result(&self::run(&id)).await;
        matched(&bench, "general-queue").await > 0.0
    };
    bench.until("they are counted", counted).await;
}

/// Does that to an activity, with `temporal activity`.
async fn tamper(bench: &Bench, what: &str, task: &ActivityTask) {
    let (workflow, activity) = (&task.workflow_id, &task.activity_id);
    let arguments = [what, "--workflow-id", workflow, "--activity-id", activity];
    let output = tool(bench, "activity", &arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

const BY_HAND: &str =
    "  - a: {call: t.hand, metadata: {heyday: {retry: {initial_interval: PT0.1S}}}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_activity_stops_and_goes_on_when_it_is_unpaused() {
    let Some(mut bench) = Bench::temporal().await else {
        return;
    };
    bench.define("foreign", BY_HAND);
    let run = bench.start_as("foreign", "mine", json!({})).await;
    let attempt = bench.attempt().await;
    tamper(&bench, "pause", &attempt.task).await;
    attempt.stopped().await;
    assert_eq!(attempt.context.reason.get(), Some(&CancelReason::Paused));
    assert_eq!(attempt.told(), Some("paused"));
    let pending = async || {
        let described = bench.engine().describe(&run).await.unwrap();
        described.pending_activities[0].clone()
    };
    assert_eq!(pending().await.state, PendingState::PauseRequested);
    let task = attempt.task.clone();
    attempt.end(Err(Failure::permanent(kind::CANCELLED, "stopped")));
    let paused = async || pending().await.state == PendingState::Paused;
    bench.until("it is paused", paused).await;
    let failure = pending().await.last_failure.unwrap();
    assert_eq!(failure.kind, kind::ACTIVITY_PAUSED, "{failure:?}");
    assert_eq!(failure.cause.unwrap().message, "stopped");
    assert_eq!(bench.begun("t.hand"), 1);
    tamper(&bench, "unpause", &task).await;
    bench.attempt().await.end(Ok(json!(1)));
    assert_eq!(bench.result(&run).await, json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_activity_stops_and_begins_again() {
    let Some(mut bench) = Bench::temporal().await else {
        return;
    };
    bench.define("foreign", BY_HAND);
    let run = bench.start_as("foreign", "mine", json!({})).await;
    let attempt = bench.attempt().await;
    tamper(&bench, "reset", &attempt.task).await;
    attempt.stopped().await;
    assert_eq!(attempt.context.reason.get(), Some(&CancelReason::Reset));
    assert_eq!(attempt.told(), Some("reset"));
    attempt.end(Err(Failure::permanent(kind::CANCELLED, "stopped")));
    bench.attempt().await.end(Ok(json!(1)));
    assert_eq!(bench.result(&run).await, json!(1));
}
