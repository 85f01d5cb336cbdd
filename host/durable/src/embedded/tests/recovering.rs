//! Restarts at every point of a run.

use super::*;
use crate::engine::PendingState;

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_step_is_never_run_again() {
    let mut bench = Bench::new().await;
    bench.define(
        "steps",
        "  - a: {call: t.echo, with: {n: 1}}\n  - b: {call: t.hand}\n  - c: {call: t.echo}\n",
    );
    let run = bench.start("steps", json!({})).await;
    let lost = bench.attempt().await;
    bench.crash().await;
    drop(lost);
    let event = bench.until_event(&run, "ActivityTaskFailed").await;
    assert_eq!(event.attributes["failure"]["kind"], kind::WORKER_LOST);
    assert_eq!(event.attributes["receipt"], json!({"lost": 1}));
    bench.clock.advance(Duration::from_secs(1));
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.attempt, 2);
    assert_eq!(attempt.task.input.to_json().unwrap(), json!({"n": 1}));
    attempt.end(Ok(json!({"n": 2})));
    assert_eq!(bench.result(&run).await, json!({"n": 2}));
    assert_eq!(bench.begun("t.echo"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_attempt_without_retries_fails_the_activity() {
    let mut bench = Bench::new().await;
    bench.define(
        "once",
        "  - a: {call: t.hand, metadata: {heyday: {retry: {maximum_attempts: 1}}}}\n",
    );
    let run = bench.start("once", json!({})).await;
    bench.attempt().await;
    bench.crash().await;
    let failure = bench.failure(&run).await;
    assert!(format!("{failure:?}").contains("went away"), "{failure:?}");
    assert_eq!(bench.begun("t.hand"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_and_backoffs_are_set_again() {
    let mut bench = Bench::new().await;
    bench.define("waits", "  - a: {wait: PT1H}\n  - b: {set: {x: 2}}\n");
    bench.define("hand", "  - a: {call: t.hand}\n");
    let waiting = bench.start("waits", json!({})).await;
    let backing = bench.start("hand", json!({})).await;
    bench
        .attempt()
        .await
        .end(Err(Failure::transient("x", "again")));
    bench.until_event(&backing, "ActivityTaskFailed").await;
    bench.crash().await;
    let description = bench.engine().describe(&backing).await.unwrap();
    assert_eq!(
        description.pending_activities[0].state,
        PendingState::BackingOff
    );
    bench.clock.advance(Duration::from_secs(3600));
    assert_eq!(bench.result(&waiting).await, json!({"x": 2}));
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.attempt, 2);
    attempt.end(Ok(json!(1)));
    bench.result(&backing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_that_came_due_while_the_server_was_away_fires() {
    let mut bench = Bench::new().await;
    bench.define("waits", "  - a: {wait: PT1H}\n  - b: {set: {x: 2}}\n");
    let run = bench.start("waits", json!({})).await;
    bench.stop().await;
    bench.clock.advance(Duration::from_secs(7200));
    bench.open().await;
    assert_eq!(bench.result(&run).await, json!({"x": 2}));
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_waited_are_queued_in_their_order() {
    let mut bench = Bench::new().await;
    bench.define(
        "narrow",
        "  - a: {call: t.hand, with: {n: '${ .n }'}, metadata: {heyday: {queue: narrow, retry: {initial_interval: PT5S}}}}\n",
    );
    let mut runs = Vec::new();
    for n in 0..3 {
        bench.clock.advance(Duration::from_millis(1));
        runs.push(bench.start("narrow", json!({"n": n})).await);
    }
    bench.attempt().await;
    bench.crash().await;
    for (n, run) in runs.iter().enumerate().skip(1) {
        let attempt = bench.attempt().await;
        assert_eq!(attempt.task.input.to_json().unwrap(), json!({"n": n}));
        assert_eq!(attempt.task.attempt, 1);
        attempt.end(Ok(json!(n)));
        bench.result(run).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_details_survive_a_crash() {
    let mut bench = Bench::new().await;
    bench.define(
        "hand",
        "  - a: {call: t.hand, metadata: {heyday: {timeouts: {start_to_close: P30D}}}}\n",
    );
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    let details = Payload::json(&json!({"page": 9}));
    attempt.context.sink.heartbeat(Some(details.clone()));
    let run_id = run.run_id.unwrap();
    bench
        .until("the details are written", async || {
            bench.clock.advance(Duration::from_secs(1));
            let store = &bench.engine().core.store;
            store.heartbeat(run_id, "1", 1).await.unwrap().is_some()
        })
        .await;
    bench.crash().await;
    bench.until_event(&run, "ActivityTaskFailed").await;
    bench.clock.advance(Duration::from_secs(1));
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.last_heartbeat, Some(details));
    attempt.end(Ok(json!(1)));
    bench.result(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_run_leaves_memory_and_comes_back_by_replay() {
    let bench = Bench::with(|options| options.cached_drivers = 1).await;
    bench.define(
        "waits",
        "  - a: {call: t.echo, with: {n: '${ .n }'}}\n  - w: {wait: PT1H}\n  - b: {call: t.echo}\n",
    );
    let mut runs = Vec::new();
    for n in 0..5 {
        let run = bench.start("waits", json!({"n": n})).await;
        bench.until_event(&run, "TimerStarted").await;
        runs.push(run);
    }
    bench
        .until("but one are out of memory", async || {
            lock(&bench.engine().core.runs).len() <= 1
        })
        .await;
    let listed = bench.engine().describe(&runs[0]).await.unwrap();
    assert_eq!(listed.pending_timers.len(), 1);
    bench.clock.advance(Duration::from_secs(3600));
    for (n, run) in runs.iter().enumerate() {
        assert_eq!(bench.result(run).await, json!({"n": n}));
    }
    assert_eq!(bench.begun("t.echo"), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cache_every_step_is_replayed_and_agrees() {
    let bench = Bench::with(|options| options.cached_drivers = 0).await;
    bench.define(
        "long",
        "  - l: {for: {each: x, in: '${ .items }'}, do: [{a: {call: t.echo, with: {n: '${ .items }'}}}, {w: {wait: PT1S}}]}\n",
    );
    let run = bench.start("long", json!({"items": [1, 2, 3]})).await;
    for timers in 1..=3 {
        bench
            .until("the next timer runs", async || {
                let kinds = bench.kinds(&run).await;
                kinds.iter().filter(|kind| *kind == "TimerStarted").count() == timers
            })
            .await;
        bench.clock.advance(Duration::from_secs(1));
    }
    bench.result(&run).await;
    assert_eq!(bench.engine().describe(&run).await.unwrap().info.held, None);
    // Replay shows no task a second time.
    let events = bench.events(&run).await;
    let tasks = events
        .iter()
        .flat_map(|event| event.attributes["tasks"].as_array())
        .flatten();
    let loops = tasks.filter(|task| *task == "/do/0/l");
    assert_eq!(loops.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_resolved_is_kept_while_the_evaluator_is_away() {
    let mut bench = Bench::new().await;
    bench.define(
        "needs",
        "  - a: {call: t.hand}\n  - b: {set: {got: '${ .v }'}}\n",
    );
    let run = bench.start("needs", json!({})).await;
    let attempt = bench.attempt().await;
    bench.away.store(true, Ordering::SeqCst);
    attempt.end(Ok(json!({"v": 5})));
    bench.until_event(&run, "ActivityTaskCompleted").await;
    bench.crash().await;
    bench.away.store(false, Ordering::SeqCst);
    bench
        .until("it is tried again", async || {
            bench.clock.advance(Duration::from_millis(100));
            let result = bench.engine().result(&run, Duration::ZERO).await;
            result.unwrap().is_some()
        })
        .await;
    assert_eq!(bench.result(&run).await, json!({"got": 5}));
    assert_eq!(bench.begun("t.hand"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_durable_while_the_evaluator_is_away() {
    let bench = Bench::new().await;
    bench.define("needs", "  - b: {set: {got: '${ .v }'}}\n");
    bench.away.store(true, Ordering::SeqCst);
    let run = bench.start("needs", json!({"v": 1})).await;
    assert_eq!(bench.kinds(&run).await, ["WorkflowExecutionStarted"]);
    bench.away.store(false, Ordering::SeqCst);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.result(&run).await, json!({"got": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_survive_crashes_at_any_point() {
    let mut bench = Bench::with(|options| options.cached_drivers = 3).await;
    bench.define(
        "steps",
        "  - a: {call: t.echo, with: {n: '${ .n }'}}\n  - b: {call: t.echo}\n  - c: {call: t.echo}\n",
    );
    let mut runs = Vec::new();
    for round in 0..5 {
        for n in 0..20 {
            runs.push((n, bench.start("steps", json!({"n": n})).await));
        }
        // Wherever they are just now.
        bench.crash().await;
        assert_eq!(runs.len(), (round + 1) * 20);
    }
    for (n, run) in &runs {
        bench
            .until("it ends", async || {
                bench.clock.advance(Duration::from_millis(100));
                let result = bench.engine().result(run, Duration::ZERO).await;
                result.unwrap().is_some()
            })
            .await;
        assert_eq!(bench.result(run).await, json!({"n": n}));
        let kinds = bench.kinds(run).await;
        let completed = kinds.iter().filter(|kind| *kind == "ActivityTaskCompleted");
        assert_eq!(completed.count(), 3);
    }
}
