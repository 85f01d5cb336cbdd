//! A restart in the middle of runs.

use std::time::Duration;

use heyday_durable::activity::CancelReason;
use heyday_durable::engine::{EngineError, ExecutionStatus};
use heyday_durable::failure::{Failure, kind};
use serde_json::json;

use super::bench::Bench;

on_both!(
    a_run_is_replayed_after_a_restart_and_keeps_its_version,
    a_drain_refuses_starts_and_stops_attempts,
);

async fn a_run_is_replayed_after_a_restart_and_keeps_its_version(mut bench: Bench) {
    bench.define(
        "flow",
        "  - one: {call: t.echo, with: {n: '${ .n }'}}\n  - rest: {wait: {seconds: 1}}\n  - two: {call: t.hand, with: {old: '${ .n }'}}\n",
    );
    let run = bench.start("flow", json!({"n": 3})).await;
    bench.until_event(&run, "TimerStarted").await;
    bench.define("flow", "  - other: {call: t.fail}\n");
    let loaded = bench.loaded();
    bench.restart().await;
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
    let engine = std::sync::Arc::clone(bench.engine());
    let ending = async {
        attempt.stopped().await;
        assert_eq!(attempt.context.reason.get(), Some(&CancelReason::Shutdown));
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
