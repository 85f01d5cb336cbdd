//! Runs whose process stops, or has no room for them in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use heyday_durable::activity::CancelReason;
use heyday_durable::engine::{EngineError, ExecutionStatus, RunRef};
use heyday_durable::failure::{Failure, kind};
use heyday_durable::payload::Payload;
use heyday_durable::signal::Signal;
use serde_json::json;

use super::bench::Bench;

on_both!(
    a_run_is_replayed_after_a_restart_and_keeps_its_version,
    a_drain_refuses_starts_and_stops_attempts,
    an_attempt_that_ends_in_the_grace_of_a_drain_counts,
    runs_that_find_no_room_in_memory_come_back_by_replay,
);

async fn a_run_is_replayed_after_a_restart_and_keeps_its_version(mut bench: Bench) {
    bench.define(
        "flow",
        "  - one: {call: t.echo, with: {n: '${ .n }'}}\n  - rest: {listen: {to: {one: {with: {type: go}}}}}\n  - two: {call: t.hand, with: {old: '${ .0.n }'}}\n",
    );
    let run = bench.start("flow", json!({"n": 3})).await;
    bench.until_listening(&run).await;
    bench.define("flow", "  - other: {call: t.fail}\n");
    let loaded = bench.loaded();
    bench.restart().await;
    let go = Signal::new("go", "go", Payload::json(&json!({"n": 3})));
    bench.engine().signal(&run, go).await.unwrap();
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.input.to_json().unwrap(), json!({"old": 3}));
    assert!(
        bench.loaded() > loaded,
        "its driver should have been made anew"
    );
    attempt.end(Ok(json!("done")));
    assert_eq!(bench.result(&run).await, json!("done"));
    // The first step was replayed, not repeated.
    assert_eq!(bench.begun("t.echo"), 1);
    let failed = bench.start("flow", json!({})).await;
    assert_eq!(bench.end(&failed).await.status, ExecutionStatus::Failed);
}

async fn a_drain_refuses_starts_and_stops_attempts(mut bench: Bench) {
    bench.define(
        "hand",
        "  - a: {call: t.hand, metadata: {heyday: {retry: {initial_interval: PT0.05S}}}}\n",
    );
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    let request = bench.request("hand", "late", json!({}));
    let engine = Arc::clone(bench.engine());
    let ending = async {
        attempt.stopped().await;
        assert_eq!(attempt.context.reason.get(), Some(&CancelReason::Shutdown));
        assert_eq!(attempt.told(), Some("worker-shutdown"));
        let refused = engine.start(request).await.unwrap_err();
        assert!(matches!(refused, EngineError::ShuttingDown), "{refused}");
        attempt.end(Err(Failure::permanent(kind::CANCELLED, "stopped")));
    };
    tokio::join!(engine.drain(Duration::ZERO), ending);
    drop(engine);
    bench.restart().await;
    // The attempt is over, and another one follows its policy.
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.attempt, 2);
    attempt.end(Ok(json!("done")));
    assert_eq!(bench.result(&run).await, json!("done"));
}

/// That the attempt by hand, which ended before the restart, counts, and is the only one.
async fn assert_ended_by_its_first_attempt(bench: &Bench, run: &RunRef) {
    assert_eq!(bench.result(run).await, json!("done"));
    assert_eq!((bench.begun("t.hand"), bench.begun("t.echo")), (1, 1));
    let completed = bench.until_event(run, "ActivityTaskCompleted").await;
    assert_eq!(completed.attributes["attempt"], 1);
    assert_eq!(completed.attributes["receipt"], json!({"cpu_us": 7}));
}

async fn an_attempt_that_ends_in_the_grace_of_a_drain_counts(mut bench: Bench) {
    bench.define("hand", "  - a: {call: t.hand}\n  - b: {call: t.echo}\n");
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    let cancellation = attempt.context.cancellation.clone();
    let engine = Arc::clone(bench.engine());
    let ending = async {
        bench
            .until("it drains", async || {
                let late = engine.start(bench.request("set", "late", json!({}))).await;
                matches!(late, Err(EngineError::ShuttingDown))
            })
            .await;
        attempt.end(Ok(json!("done")));
    };
    // Longer than a loaded machine takes to end an attempt.
    tokio::join!(engine.drain(Duration::from_secs(10)), ending);
    assert!(!cancellation.is_cancelled(), "it was to end by itself");
    drop(engine);
    bench.restart().await;
    assert_ended_by_its_first_attempt(&bench, &run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_an_end_that_is_being_told() {
    // Longer than the workers have to end where no attempt runs, and than one try has.
    const TOLD_AFTER: Duration = Duration::from_secs(20);
    let Some((mut bench, front)) = Bench::behind_front().await else {
        return;
    };
    bench.define("hand", "  - a: {call: t.hand}\n  - b: {call: t.echo}\n");
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    front.hold("RespondActivityTaskCompleted");
    attempt.end(Ok(json!("done")));
    let engine = Arc::clone(bench.engine());
    let begun = Instant::now();
    let draining = async {
        engine.drain(Duration::from_secs(60)).await;
        begun.elapsed()
    };
    let telling = async {
        tokio::time::sleep(TOLD_AFTER).await;
        front.pass("RespondActivityTaskCompleted");
    };
    let (drained, ()) = tokio::join!(draining, telling);
    assert!(drained >= TOLD_AFTER, "{drained:?}");
    drop(engine);
    bench.restart().await;
    assert_ended_by_its_first_attempt(&bench, &run).await;
    bench.drain().await;
}

async fn runs_that_find_no_room_in_memory_come_back_by_replay(mut bench: Bench) {
    const RUNS: u64 = 3;
    const ROUNDS: u64 = 3;
    bench.with_cached_drivers(1).await;
    let step = |n| {
        format!(
            "  - l{n}: {{listen: {{to: {{one: {{with: {{type: go}}}}}}}}}}\n  - a{n}: {{call: t.echo}}\n"
        )
    };
    bench.define("steps", &(0..ROUNDS).map(step).collect::<String>());
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(bench.start("steps", json!({})).await);
    }
    let mut loaded = 0;
    for round in 1..=ROUNDS {
        for (index, run) in runs.iter().enumerate() {
            let data = Payload::json(&json!({"run": index, "round": round}));
            let go = Signal::new("go", format!("go-{round}"), data);
            bench.engine().signal(run, go).await.unwrap();
            bench
                .until("its step is done", async || {
                    let kinds = bench.kinds(run).await;
                    let done = kinds.iter().filter(|kind| *kind == "ActivityTaskCompleted");
                    done.count() as u64 == round
                })
                .await;
        }
        if round == 1 {
            loaded = bench.loaded();
        }
    }
    for (index, run) in runs.iter().enumerate() {
        let last = json!([{"run": index, "round": ROUNDS}]);
        assert_eq!(bench.result(run).await, last);
    }
    // Since the first round each has made way for the others before its next step.
    let again = bench.loaded() - loaded;
    assert!(again >= RUNS * (ROUNDS - 1), "{again}");
    assert_eq!(bench.begun("t.echo"), RUNS * ROUNDS);
}
