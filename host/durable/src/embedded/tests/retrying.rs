//! Retries, timeouts and heartbeats.

use super::*;

fn policy(heyday: &str) -> String {
    format!("  - a: {{call: t.hand, metadata: {{heyday: {{{heyday}}}}}}}\n")
}

fn timeout_of(failure: &Failure) -> String {
    format!("{failure:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_repeated_after_its_backoff() {
    let mut bench = Bench::new().await;
    bench.define(
        "again",
        &policy("retry: {initial_interval: PT10S, maximum_attempts: 3}"),
    );
    let run = bench.start("again", json!({})).await;
    for attempt in 1..=2 {
        let begun = bench.attempt().await;
        assert_eq!(begun.task.attempt, attempt);
        begun.end(Err(Failure::transient("flaky", "again")));
        let pending = bench.backing_off(&run).await;
        assert_eq!(pending.attempt, attempt + 1);
        assert_eq!(pending.last_failure.as_ref().unwrap().kind, "flaky");
        let wait = pending
            .next_attempt_at
            .unwrap()
            .duration_since(bench.clock.now());
        let longest = 10.0 * f64::from(attempt);
        let seconds = wait.as_secs_f64();
        assert!((longest * 0.8..=longest).contains(&seconds), "{seconds}");
        bench.clock.advance(Duration::from_secs(20));
    }
    bench
        .attempt()
        .await
        .end(Err(Failure::transient("flaky", "for the last time")));
    let failure = bench.failure(&run).await;
    assert!(format!("{failure:?}").contains("for the last time"));
    let failed = bench.until_event(&run, "ActivityTaskFailed").await;
    assert_eq!(failed.attributes["retry_state"], "InProgress");
}

#[tokio::test(flavor = "multi_thread")]
async fn backoffs_differ_so_that_what_failed_together_comes_apart() {
    let mut bench = Bench::new().await;
    let retry = "retry: {initial_interval: PT10S, backoff_coefficient: 1, maximum_attempts: 0}";
    bench.define("apart", &policy(retry));
    let run = bench.start("apart", json!({})).await;
    let mut waits = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let failure = Failure::transient("flaky", "again");
        bench.attempt().await.end(Err(failure));
        let next = bench.backing_off(&run).await.next_attempt_at.unwrap();
        waits.insert(next.duration_since(bench.clock.now()));
        bench.clock.advance(Duration::from_secs(10));
    }
    assert!(waits.len() > 1, "each of 20 waits took {waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn start_to_close_stops_the_attempt_and_is_retried() {
    let mut bench = Bench::with(|options| options.stop_grace = Duration::from_secs(20)).await;
    bench.define(
        "slow",
        &policy("timeouts: {start_to_close: PT5S}, retry: {maximum_attempts: 2}"),
    );
    let run = bench.start("slow", json!({})).await;
    let attempt = bench.attempt().await;
    bench.clock.advance(Duration::from_secs(5));
    attempt.context.cancellation.cancelled().await;
    assert_eq!(attempt.context.reason.get(), Some(&CancelReason::TimedOut));
    attempt.end(Ok(json!("too late")));
    let event = bench.until_event(&run, "ActivityTaskTimedOut").await;
    assert_eq!(
        event.attributes["failure"]["details"],
        json!({"timeout": "start_to_close"})
    );
    // What the guest used counts, though its answer came too late.
    assert_eq!(event.attributes["receipt"]["cpu_us"], 7);
    bench.clock.advance(Duration::from_secs(1));
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.attempt, 2);
    bench.clock.advance(Duration::from_secs(5));
    attempt.context.cancellation.cancelled().await;
    attempt.end(Ok(json!("too late")));
    let failure = bench.failure(&run).await;
    assert!(
        timeout_of(&failure).contains("start_to_close"),
        "{failure:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_sees_the_end_of_the_time_first_is_told_whose_it_was() {
    let mut bench = Bench::new().await;
    bench.define("all", &policy("timeouts: {schedule_to_close: PT5S}"));
    let run = bench.start("all", json!({})).await;
    let attempt = bench.attempt().await;
    // Its clock is a little ahead.
    bench.clock.advance(Duration::from_millis(4_995));
    attempt.end(Err(Failure::transient(kind::TIMEOUT, "computed too long")));
    let event = bench.until_event(&run, "ActivityTaskTimedOut").await;
    assert_eq!(
        event.attributes["failure"]["details"],
        json!({"timeout": "schedule_to_close"})
    );
    let receipt = &event.attributes["receipt"];
    assert_eq!(receipt["cpu_us"], 7);
    assert_eq!(receipt["timed_out"], 1);
    bench.failure(&run).await;

    // One that says so of something else, before its time is over.
    let run = bench.start("all", json!({})).await;
    let own = Failure::permanent(kind::TIMEOUT, "the endpoint is slow");
    bench.attempt().await.end(Err(own));
    let event = bench.until_event(&run, "ActivityTaskFailed").await;
    assert_eq!(
        event.attributes["failure"]["message"],
        "the endpoint is slow"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_does_not_stop_is_abandoned() {
    let mut bench = Bench::with(|options| options.stop_grace = Duration::from_millis(1)).await;
    bench.define(
        "stubborn",
        &policy("timeouts: {start_to_close: PT5S}, retry: {maximum_attempts: 1}"),
    );
    let run = bench.start("stubborn", json!({})).await;
    let _never_ended = bench.attempt().await;
    bench.clock.advance(Duration::from_secs(5));
    bench
        .until("it is over", async || {
            bench.clock.advance(Duration::from_millis(1));
            let result = bench.engine().result(&run, Duration::ZERO).await;
            result.unwrap().is_some()
        })
        .await;
    assert_eq!(bench.end(&run).await.status, ExecutionStatus::Failed);
    bench
        .until("the slot is free", async || {
            bench
                .engine()
                .queues()
                .iter()
                .all(|queue| queue.in_flight == 0)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schedule_to_start_ends_the_wait_for_a_slot() {
    let mut bench = Bench::new().await;
    bench.define("holds", &policy("queue: narrow"));
    bench.define(
        "waits",
        &policy("queue: narrow, timeouts: {schedule_to_start: PT3S}"),
    );
    let holder = bench.start("holds", json!({})).await;
    let held = bench.attempt().await;
    let run = bench.start("waits", json!({})).await;
    bench.clock.advance(Duration::from_secs(3));
    let failure = bench.failure(&run).await;
    assert!(
        timeout_of(&failure).contains("schedule_to_start"),
        "{failure:?}"
    );
    held.end(Ok(json!(1)));
    bench.result(&holder).await;
    assert_eq!(bench.begun("t.hand"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn schedule_to_close_counts_retries_and_waits() {
    let mut bench = Bench::new().await;
    let heyday = "timeouts: {schedule_to_close: PT30S}, retry: {initial_interval: PT20S, maximum_interval: PT20S}";
    bench.define("all", &policy(heyday));
    // The second wait would end after the timeout, so there is no third attempt.
    let run = bench.start("all", json!({})).await;
    bench.attempt().await.end(Err(Failure::transient("x", "1")));
    bench.until_event(&run, "ActivityTaskFailed").await;
    bench.clock.advance(Duration::from_secs(20));
    bench.attempt().await.end(Err(Failure::transient("x", "2")));
    let failure = bench.failure(&run).await;
    assert_eq!(bench.begun("t.hand"), 2, "{failure:?}");

    // A running attempt is stopped by it too, and not repeated.
    let run = bench.start("all", json!({})).await;
    let attempt = bench.attempt().await;
    bench.clock.advance(Duration::from_secs(30));
    attempt.context.cancellation.cancelled().await;
    attempt.end(Ok(json!(1)));
    let failure = bench.failure(&run).await;
    assert!(
        timeout_of(&failure).contains("schedule_to_close"),
        "{failure:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_heartbeats_keep_an_attempt_alive_and_their_details_reach_the_next() {
    let mut bench = Bench::new().await;
    bench.define("beats", &policy("timeouts: {heartbeat: PT10S}"));
    let run = bench.start("beats", json!({})).await;
    let attempt = bench.attempt().await;
    for _ in 0..3 {
        bench.clock.advance(Duration::from_secs(9));
        attempt
            .context
            .sink
            .heartbeat(Some(Payload::json(&json!({"page": 4}))));
    }
    attempt.context.sink.progress(progress(1));
    assert!(!attempt.context.cancellation.is_cancelled());
    bench.clock.advance(Duration::from_secs(10));
    attempt.context.cancellation.cancelled().await;
    attempt.end(Ok(json!(1)));
    let event = bench.until_event(&run, "ActivityTaskTimedOut").await;
    assert_eq!(
        event.attributes["failure"]["details"],
        json!({"timeout": "heartbeat"})
    );
    bench.clock.advance(Duration::from_secs(1));
    let attempt = bench.attempt().await;
    let details = attempt.task.last_heartbeat.clone().unwrap();
    assert_eq!(details.to_json().unwrap(), json!({"page": 4}));
    attempt.end(Ok(json!("done")));
    assert_eq!(bench.result(&run).await, json!("done"));
}
