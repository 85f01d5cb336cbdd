//! Retries, timeouts and heartbeats.

use std::time::Duration;

use heyday_durable::activity::CancelReason;
use heyday_durable::engine::{ExecutionStatus, PendingState};
use heyday_durable::failure::Failure;
use heyday_durable::payload::Payload;
use serde_json::json;

use super::bench::Bench;

on_both!(
    a_failed_attempt_is_repeated_as_the_policy_says,
    a_kind_that_is_not_retried_ends_the_activity,
    start_to_close_stops_the_attempt_and_is_retried,
    schedule_to_start_ends_the_wait_for_a_slot,
    schedule_to_close_stops_an_attempt_for_good,
    a_retry_that_would_come_too_late_is_none,
    silence_ends_an_attempt_and_heartbeats_reach_the_next,
);

fn policy(heyday: &str) -> String {
    format!("  - a: {{call: t.hand, metadata: {{heyday: {{{heyday}}}}}}}\n")
}

async fn a_failed_attempt_is_repeated_as_the_policy_says(mut bench: Bench) {
    bench.define(
        "again",
        &policy("retry: {initial_interval: PT0.3S, maximum_attempts: 3}"),
    );
    let run = bench.start("again", json!({})).await;
    let mut ended = std::time::Instant::now();
    for number in 1..=3_u32 {
        let attempt = bench.attempt().await;
        assert_eq!(attempt.task.attempt, number);
        if number > 1 {
            // With jitter of a fifth; each twice as long as the last.
            let shortest = Duration::from_millis(240 * u64::from(number - 1));
            assert!(ended.elapsed() >= shortest, "{:?}", ended.elapsed());
            let description = bench.engine().describe(&run).await.unwrap();
            let pending = &description.pending_activities[0];
            assert_eq!(pending.attempt, number);
            assert_eq!(pending.state, PendingState::Started);
            assert_eq!(pending.last_failure.as_ref().unwrap().kind, "flaky");
            // The last that the first one said, though it failed at once and the second one
            // says nothing: where to go on.
            let details = attempt.task.last_heartbeat.clone().unwrap();
            assert_eq!(details.to_json().unwrap(), json!({"page": 2}));
        } else {
            for page in 1..=2 {
                let details = Payload::json(&json!({ "page": page }));
                attempt.context.sink.heartbeat(Some(details));
            }
        }
        ended = std::time::Instant::now();
        attempt.end(Err(Failure::transient("flaky", format!("time {number}"))));
    }
    let failure = format!("{:?}", bench.failure(&run).await);
    assert!(failure.contains("time 3"), "{failure}");
    assert_eq!(bench.begun("t.hand"), 3);
}

async fn a_kind_that_is_not_retried_ends_the_activity(mut bench: Bench) {
    bench.define("kinds", &policy("retry: {non_retryable_kinds: [fatal]}"));
    let run = bench.start("kinds", json!({})).await;
    bench
        .attempt()
        .await
        .end(Err(Failure::transient("fatal", "no use")));
    assert_eq!(bench.end(&run).await.status, ExecutionStatus::Failed);
    assert_eq!(bench.begun("t.hand"), 1);
}

async fn start_to_close_stops_the_attempt_and_is_retried(mut bench: Bench) {
    bench.define(
        "slow",
        &policy(
            "timeouts: {start_to_close: PT1S}, retry: {initial_interval: PT0.05S, maximum_attempts: 2}",
        ),
    );
    let run = bench.start("slow", json!({})).await;
    for number in 1..=2 {
        let attempt = bench.attempt().await;
        assert_eq!(attempt.task.attempt, number);
        attempt.stopped().await;
        assert_eq!(attempt.context.reason.get(), Some(&CancelReason::TimedOut));
        assert_eq!(attempt.told(), None);
        attempt.end(Ok(json!("too late")));
    }
    let failure = format!("{:?}", bench.failure(&run).await);
    assert!(failure.contains("start_to_close"), "{failure}");
}

async fn schedule_to_start_ends_the_wait_for_a_slot(mut bench: Bench) {
    bench.define("holds", &policy("queue: narrow"));
    bench.define(
        "waits",
        &policy("queue: narrow, timeouts: {schedule_to_start: PT1S}"),
    );
    let holder = bench.start("holds", json!({})).await;
    let held = bench.attempt().await;
    let run = bench.start("waits", json!({})).await;
    let failure = format!("{:?}", bench.failure(&run).await);
    assert!(failure.contains("schedule_to_start"), "{failure}");
    held.end(Ok(json!(1)));
    bench.result(&holder).await;
    assert_eq!(bench.begun("t.hand"), 1);
}

async fn schedule_to_close_stops_an_attempt_for_good(mut bench: Bench) {
    // Long enough for the attempt to begin on a busy machine.
    bench.define("all", &policy("timeouts: {schedule_to_close: PT3S}"));
    let run = bench.start("all", json!({})).await;
    let attempt = bench.attempt().await;
    attempt.stopped().await;
    attempt.end(Ok(json!(1)));
    let failure = format!("{:?}", bench.failure(&run).await);
    assert!(failure.contains("schedule_to_close"), "{failure}");
    assert_eq!(bench.begun("t.hand"), 1);
}

async fn a_retry_that_would_come_too_late_is_none(mut bench: Bench) {
    bench.define(
        "all",
        &policy(
            "timeouts: {schedule_to_close: PT30S}, retry: {initial_interval: PT1H, maximum_interval: PT1H}",
        ),
    );
    let run = bench.start("all", json!({})).await;
    bench
        .attempt()
        .await
        .end(Err(Failure::transient("x", "the only one")));
    let failure = format!("{:?}", bench.failure(&run).await);
    assert!(failure.contains("the only one"), "{failure}");
}

async fn silence_ends_an_attempt_and_heartbeats_reach_the_next(mut bench: Bench) {
    bench.define(
        "beats",
        &policy("timeouts: {heartbeat: PT6S}, retry: {initial_interval: PT0.05S}"),
    );
    let run = bench.start("beats", json!({})).await;
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.last_heartbeat, None);
    // Longer than the timeout, most of which is left to a busy machine: on a cluster they are
    // held back for half a second only here.
    let begun = std::time::Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(300));
    while begun.elapsed() < Duration::from_secs(7) {
        ticks.tick().await;
        let details = Payload::json(&json!({"page": 4}));
        attempt.context.sink.heartbeat(Some(details));
        assert!(!attempt.context.cancellation.is_cancelled());
    }
    attempt.stopped().await;
    assert_eq!(attempt.context.reason.get(), Some(&CancelReason::TimedOut));
    attempt.end(Ok(json!("too late")));
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.attempt, 2);
    let details = attempt.task.last_heartbeat.clone().unwrap();
    assert_eq!(details.to_json().unwrap(), json!({"page": 4}));
    attempt.end(Ok(json!("done")));
    assert_eq!(bench.result(&run).await, json!("done"));
}
