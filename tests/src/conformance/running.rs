//! Runs, activities and timers that go well.

use std::time::Duration;

use heyday_durable::activity::Progress;
use heyday_durable::engine::{ExecutionStatus, LiveEvent};
use heyday_durable::failure::Failure;
use heyday_durable::payload::Digest;
use serde_json::json;

use super::bench::{Bench, PATIENCE, plugin, run};

on_both!(
    a_run_passes_its_input_on_and_its_result_back,
    a_flow_without_activities_completes,
    a_failure_reaches_the_caller_whole_and_is_not_repeated,
    an_executor_that_panics_fails_the_attempt_only,
    a_timer_fires_and_is_described_until_then,
    branches_run_at_once,
    a_queue_runs_no_more_than_its_limit,
    a_task_names_the_run_and_its_key_is_the_same_on_every_attempt,
    progress_is_seen_while_it_happens,
    a_history_is_paged_and_waited_for,
    pins_are_counted_while_runs_are_open,
);

/// A result that goes by reference, and a step after it.
const LARGE: &str = "  - a: {call: t.big, with: {n: 300000}, metadata: {heyday: {retry: {initial_interval: PT0.05S}}}}\n  - b: {set: {x: 1}}\n";

async fn a_run_passes_its_input_on_and_its_result_back(bench: Bench) {
    bench.define(
        "two",
        "  - a: {call: t.echo, with: {got: '${ .n }'}}\n  - b: {call: t.echo}\n",
    );
    let run = bench.start("two", json!({"n": 3})).await;
    assert_eq!(bench.result(&run).await, json!({"got": 3}));
    assert_eq!(
        bench.kinds(&run).await,
        [
            "WorkflowExecutionStarted",
            "ActivityTaskScheduled",
            "ActivityTaskStarted",
            "ActivityTaskCompleted",
            "ActivityTaskScheduled",
            "ActivityTaskStarted",
            "ActivityTaskCompleted",
            "WorkflowExecutionCompleted"
        ]
    );
    let description = bench.engine().describe(&run).await.unwrap();
    assert_eq!(description.info.status, ExecutionStatus::Completed);
    assert_eq!(description.info.workflow_type, "test.two");
    assert_eq!(
        description.info.version.as_ref().unwrap().to_string(),
        "0.1.0"
    );
    assert!(description.info.closed_at.is_some());
    assert_eq!(description.pinned["t.echo"], Some(plugin()));
    assert!(description.pending_activities.is_empty());
    let events = bench.events(&run).await;
    let started = &events[0].attributes;
    assert_eq!(started["input"], json!({"n": 3}));
    assert_eq!(started["pinned"]["t.echo"]["digest"], json!(plugin()));
    let scheduled = events
        .iter()
        .find(|one| one.event_type == "ActivityTaskScheduled");
    let scheduled = &scheduled.unwrap().attributes;
    assert_eq!(scheduled["activity_id"], "1");
    assert_eq!(scheduled["activity_type"], "t.echo");
    assert_eq!(scheduled["task"], "/do/0/a");
    assert_eq!(scheduled["task_queue"], "general-queue");
    assert_eq!(scheduled["input"], json!({"got": 3}));
    assert_eq!(scheduled["digest"], json!(plugin()));
    let completed = events
        .iter()
        .find(|one| one.event_type == "ActivityTaskCompleted");
    let completed = &completed.unwrap().attributes;
    assert_eq!(completed["activity_id"], "1");
    assert_eq!(completed["attempt"], 1);
    assert_eq!(completed["receipt"], json!({"cpu_us": 5}));
}

async fn a_flow_without_activities_completes(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let run = bench.start("set", json!({})).await;
    assert_eq!(bench.result(&run).await, json!({"x": 1}));
    assert_eq!(
        bench.kinds(&run).await,
        ["WorkflowExecutionStarted", "WorkflowExecutionCompleted"]
    );
}

async fn a_failure_reaches_the_caller_whole_and_is_not_repeated(bench: Bench) {
    bench.define("bad", "  - a: {call: t.fail}\n");
    let run = bench.start("bad", json!({})).await;
    let result = bench.end(&run).await;
    assert_eq!(result.status, ExecutionStatus::Failed);
    let text = format!("{:?}", result.outcome);
    assert!(text.contains("as it was told"), "{text}");
    assert_eq!(bench.begun("t.fail"), 1);
    let failed = bench.until_event(&run, "ActivityTaskFailed").await;
    let failure = &failed.attributes["failure"];
    assert_eq!(failure["kind"], "broken");
    assert_eq!(failure["details"], json!({"page": 4}));
    assert_eq!(failure["cause"]["kind"], "disk");
    assert_eq!(failure["cause"]["retryable"], true);
    assert_eq!(failed.attributes["receipt"], json!({"cpu_us": 5}));
}

async fn an_executor_that_panics_fails_the_attempt_only(bench: Bench) {
    bench.define(
        "panics",
        "  - a: {call: t.panic, metadata: {heyday: {retry: {maximum_attempts: 1}}}}\n",
    );
    let run = bench.start("panics", json!({})).await;
    let failure = format!("{:?}", bench.failure(&run).await);
    assert!(failure.contains("the host failed"), "{failure}");
}

/// A large result is stored when the executor has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_after_the_executor_fails_the_attempt_only() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    bench.define("large", LARGE);
    bench.payloads.put_panics.arm(1);
    let run = bench.start("large", json!({})).await;
    assert_eq!(bench.result(&run).await, json!({"x": 1}));
    assert_eq!(bench.begun("t.big"), 2);
    // Its end was told: else the cluster would have noticed by a timeout.
    let started = bench.until_event(&run, "ActivityTaskStarted").await;
    assert_eq!(started.attributes["attempt"], 2);
    let failure = started.attributes["failure"].to_string();
    assert!(failure.contains("the host failed"), "{failure}");
}

/// A large result is read before the run goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_as_a_run_goes_on_fails_the_workflow_task_only() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    bench.define("large", LARGE);
    bench.payloads.get_panics.arm(1);
    let run = bench.start("large", json!({})).await;
    assert_eq!(bench.result(&run).await, json!({"x": 1}));
    assert_eq!(bench.begun("t.big"), 1);
    let failed = bench.until_event(&run, "WorkflowTaskFailed").await;
    let failure = failed.attributes["failure"].to_string();
    assert!(failure.contains("the host failed"), "{failure}");
}

async fn a_timer_fires_and_is_described_until_then(bench: Bench) {
    bench.define("waits", "  - a: {wait: PT1H}\n");
    bench.define(
        "short",
        "  - a: {wait: {milliseconds: 50}}\n  - b: {set: {x: 2}}\n",
    );
    let long = bench.start("waits", json!({})).await;
    bench.until_event(&long, "TimerStarted").await;
    let description = bench.engine().describe(&long).await.unwrap();
    let [(id, task, fires)] = &description.pending_timers[..] else {
        panic!("{description:?}");
    };
    assert_eq!((id.as_str(), task.as_str()), ("1", "/do/0/a"));
    let wait = fires.duration_since(description.info.started_at).as_secs();
    assert!((3_600..3_660).contains(&wait), "{wait}");
    // A cluster that is asked for a run's end waits, even if it is told not to, until patience ends.
    let asked = bench.engine().result(&long, Duration::ZERO);
    let asked = tokio::time::timeout(Duration::from_secs(10), asked).await;
    let none = asked.expect("nobody waits").unwrap();
    assert_eq!(none, None);
    let short = bench.start("short", json!({})).await;
    assert_eq!(bench.result(&short).await, json!({"x": 2}));
    assert!(bench.kinds(&short).await.contains(&"TimerFired".to_owned()));
    bench.engine().terminate(&long, "done").await.unwrap();
}

async fn branches_run_at_once(mut bench: Bench) {
    bench.define(
        "fork",
        "  - both: {fork: {branches: [{a: {call: t.hand}}, {b: {call: t.hand}}]}}\n",
    );
    let run = bench.start("fork", json!({})).await;
    let first = bench.attempt().await;
    let second = bench.attempt().await;
    assert_ne!(first.task.activity_id, second.task.activity_id);
    let (one, two) = if first.task.activity_id == "1" {
        (first, second)
    } else {
        (second, first)
    };
    two.end(Ok(json!("two")));
    bench.until_event(&run, "ActivityTaskCompleted").await;
    one.end(Ok(json!("one")));
    assert_eq!(bench.result(&run).await, json!(["one", "two"]));
}

async fn a_queue_runs_no_more_than_its_limit(mut bench: Bench) {
    bench.define(
        "narrow",
        "  - a: {call: t.hand, metadata: {heyday: {queue: narrow}}}\n",
    );
    let runs = [
        bench.start("narrow", json!({})).await,
        bench.start("narrow", json!({})).await,
        bench.start("narrow", json!({})).await,
    ];
    for done in 1..=3 {
        let attempt = bench.attempt().await;
        assert_eq!(attempt.task.queue, "narrow");
        let queues = bench.engine().queues();
        let narrow = queues.iter().find(|queue| queue.name == "narrow").unwrap();
        assert_eq!((narrow.in_flight, narrow.limit), (1, 1));
        assert_eq!(bench.begun("t.hand"), done);
        attempt.end(Ok(json!(1)));
    }
    for run in &runs {
        bench.result(run).await;
    }
}

async fn a_task_names_the_run_and_its_key_is_the_same_on_every_attempt(mut bench: Bench) {
    bench.define(
        "hand",
        "  - a: {call: t.hand, metadata: {heyday: {retry: {initial_interval: PT0.05S}}}}\n",
    );
    let mut request = bench.request("hand", "named", json!({}));
    request.traceparent = Some("00-11-22-01".to_owned());
    let run_id = bench.engine().start(request).await.unwrap().run_id;
    let attempt = bench.attempt().await;
    let task = attempt.task.clone();
    assert_eq!(task.namespace, "default");
    assert_eq!(task.run_id, run_id);
    assert_eq!(task.workflow_id, "named");
    assert_eq!(task.workflow_type, "test.hand");
    assert_eq!(task.activity_type, "t.hand");
    assert_eq!((task.activity_id.as_str(), task.attempt), ("1", 1));
    assert_eq!(task.plugin_digest, Some(Digest::of(b"plugin t")));
    assert_eq!(task.traceparent.as_deref(), Some("00-11-22-01"));
    assert_eq!(task.idempotency_key, format!("default/{run_id}/1"));
    assert_eq!(task.timeouts.start_to_close, Some(Duration::from_secs(300)));
    assert!(task.scheduled_at <= task.started_at);
    attempt.end(Err(Failure::transient("x", "again")));
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.attempt, 2);
    assert_eq!(attempt.task.idempotency_key, task.idempotency_key);
    attempt.end(Ok(json!(1)));
    assert_eq!(bench.result(&run("named")).await, json!(1));
}

async fn progress_is_seen_while_it_happens(mut bench: Bench) {
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    let mut live = bench.engine().live(run.run_id.unwrap());
    let attempt = bench.attempt().await;
    let progress = Progress {
        completed: 3,
        total: 10,
        message: "pages".to_owned(),
    };
    attempt.context.sink.progress(progress.clone());
    let LiveEvent::Progress { progress: seen, .. } = live.recv().await.unwrap();
    assert_eq!(seen, progress);
    let description = bench.engine().describe(&run).await.unwrap();
    let [pending] = &description.pending_activities[..] else {
        panic!("{description:?}");
    };
    assert_eq!(pending.progress, Some(progress));
    assert_eq!(pending.activity_type, "t.hand");
    assert_eq!(pending.queue, "general-queue");
    assert_eq!(pending.task, "/do/0/a");
    assert!(pending.started_at.is_some());
    attempt.end(Ok(json!(1)));
    bench.result(&run).await;
}

async fn a_history_is_paged_and_waited_for(mut bench: Bench) {
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    let all = bench.events(&run).await;
    let page = bench
        .engine()
        .history(&run, 0, 2, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!((page.events.len(), page.complete), (2, false));
    assert_eq!(page.run_id, run.run_id.unwrap());
    let rest = bench
        .engine()
        .history(&run, 2, 100, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(rest.events[..], all[2..]);
    let length = all.len() as u64;
    let none = bench
        .engine()
        .history(&run, length, 10, Duration::ZERO)
        .await
        .unwrap();
    assert!(none.events.is_empty() && !none.complete);
    let waiting = bench.engine().history(&run, length, 100, PATIENCE);
    let ending = async {
        tokio::task::yield_now().await;
        attempt.end(Ok(json!(1)));
    };
    let (page, ()) = tokio::join!(waiting, ending);
    assert_eq!(page.unwrap().events[0].event_id, length + 1);
    bench.result(&run).await;
    let all = bench.events(&run).await;
    let length = all.len() as u64;
    let page = bench
        .engine()
        .history(&run, length - 1, 100, PATIENCE)
        .await
        .unwrap();
    assert_eq!(page.events[..], all[all.len() - 1..]);
    assert!(page.complete);
    let page = bench
        .engine()
        .history(&run, length, 100, PATIENCE)
        .await
        .unwrap();
    assert!(page.events.is_empty() && page.complete);
}

async fn pins_are_counted_while_runs_are_open(bench: Bench) {
    bench.define("waits", "  - a: {wait: PT1H}\n");
    let open = async || bench.engine().open_runs_using(&plugin()).await.unwrap();
    assert_eq!(open().await, 0);
    let run = bench.start("waits", json!({})).await;
    bench
        .until("the run is counted", async || open().await == 1)
        .await;
    let other = bench.engine().open_runs_using(&Digest::of(b"other")).await;
    assert_eq!(other.unwrap(), 0);
    bench.engine().terminate(&run, "enough").await.unwrap();
    bench
        .until("the run is counted no more", async || open().await == 0)
        .await;
}
