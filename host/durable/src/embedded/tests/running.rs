//! Runs from their start to their result.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn one_activity_takes_two_commits_and_three_take_four() {
    let bench = Bench::new().await;
    bench.define("one", "  - a: {call: t.echo, with: {x: '${ .x }'}}\n");
    let run = bench.start("one", json!({"x": 7})).await;
    assert_eq!(bench.result(&run).await, json!({"x": 7}));
    assert_eq!(bench.commits(&run).await, 2);
    assert_eq!(
        bench.kinds(&run).await,
        [
            "WorkflowExecutionStarted",
            "WorkflowTaskCompleted",
            "ActivityTaskScheduled",
            "ActivityTaskStarted",
            "ActivityTaskCompleted",
            "WorkflowExecutionCompleted"
        ]
    );
    bench.define(
        "three",
        "  - a: {call: t.echo}\n  - b: {call: t.echo}\n  - c: {call: t.echo}\n",
    );
    let run = bench.start("three", json!({"x": 1})).await;
    bench.result(&run).await;
    assert_eq!(bench.commits(&run).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_activities_takes_one_commit() {
    let bench = Bench::new().await;
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let run = bench.start("set", json!({})).await;
    assert_eq!(bench.result(&run).await, json!({"x": 1}));
    assert_eq!(bench.commits(&run).await, 1);
    let page = bench
        .engine()
        .history(&run, 0, 10, Duration::ZERO)
        .await
        .unwrap();
    assert!(page.complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_activity_fails_the_run_and_is_not_repeated() {
    let bench = Bench::new().await;
    bench.define("bad", "  - a: {call: t.fail}\n");
    let run = bench.start("bad", json!({})).await;
    let result = bench.end(&run).await;
    assert_eq!(result.status, ExecutionStatus::Failed);
    let text = format!("{:?}", result.outcome);
    assert!(text.contains("as it was told"), "{text}");
    assert_eq!(bench.begun("t.fail"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_fires_at_its_time_and_is_described() {
    let bench = Bench::new().await;
    bench.define("waits", "  - a: {wait: PT1H}\n  - b: {set: {x: 2}}\n");
    let run = bench.start("waits", json!({})).await;
    let description = bench.engine().describe(&run).await.unwrap();
    assert_eq!(description.pending_timers.len(), 1);
    assert_eq!(
        description.pending_timers[0].2,
        super::super::events::later(bench.clock.now(), Duration::from_secs(3600))
    );
    bench.clock.advance(Duration::from_secs(3599));
    let none = bench.engine().result(&run, Duration::ZERO).await.unwrap();
    assert_eq!(none, None);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.result(&run).await, json!({"x": 2}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_runs_no_more_than_its_limit_in_the_order_of_arrival() {
    let mut bench = Bench::new().await;
    bench.define(
        "narrow",
        "  - a: {call: t.hand, with: {n: '${ .n }'}, metadata: {heyday: {queue: narrow}}}\n",
    );
    let mut runs = Vec::new();
    for n in 0..4 {
        runs.push(bench.start("narrow", json!({"n": n})).await);
    }
    let stats = bench.engine().queues();
    let narrow = stats.iter().find(|queue| queue.name == "narrow").unwrap();
    assert_eq!((narrow.in_flight, narrow.backlog, narrow.limit), (1, 3, 1));
    for (n, run) in runs.iter().enumerate() {
        let attempt = bench.attempt().await;
        assert_eq!(attempt.task.input.to_json().unwrap(), json!({"n": n}));
        assert!(bench.attempts.try_recv().is_err());
        attempt.end(Ok(json!(n)));
        assert_eq!(bench.result(run).await, json!(n));
        // The first found its slot at once; the others got it with a commit of their own.
        assert_eq!(bench.commits(run).await, if n == 0 { 2 } else { 3 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_names_the_run_and_its_key_is_the_same_on_every_attempt() {
    let mut bench = Bench::new().await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let mut request = bench.request("hand", "named", json!({}));
    request.traceparent = Some("00-11-22-01".to_owned());
    let run_id = bench.engine().start(request).await.unwrap().run_id;
    let attempt = bench.attempt().await;
    let task = attempt.task.clone();
    assert_eq!(task.run_id, run_id);
    assert_eq!(task.workflow_id, "named");
    assert_eq!(task.workflow_type, "test.hand");
    assert_eq!(task.activity_type, "t.hand");
    assert_eq!(task.plugin_digest, Some(Digest::of(b"plugin t")));
    assert_eq!(task.traceparent.as_deref(), Some("00-11-22-01"));
    assert_eq!(task.idempotency_key, format!("default/{run_id}/1"));
    attempt.end(Err(Failure::transient("x", "again")));
    bench.until_event(&run("named"), "ActivityTaskFailed").await;
    bench.clock.advance(Duration::from_secs(1));
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.attempt, 2);
    assert_eq!(attempt.task.idempotency_key, task.idempotency_key);
    attempt.end(Ok(json!(1)));
    bench.result(&run("named")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_seen_while_it_happens() {
    let mut bench = Bench::new().await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    let mut live = bench.engine().live(run.run_id.unwrap());
    let attempt = bench.attempt().await;
    attempt.context.sink.progress(progress(3));
    let LiveEvent::Progress { progress: seen, .. } = live.recv().await.unwrap();
    assert_eq!(seen, progress(3));
    let description = bench.engine().describe(&run).await.unwrap();
    assert_eq!(
        description.pending_activities[0].progress,
        Some(progress(3))
    );
    attempt.end(Ok(json!(1)));
    bench.result(&run).await;
    assert!(live.recv().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_paged_and_waited_for() {
    let mut bench = Bench::new().await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    let page = bench
        .engine()
        .history(&run, 0, 2, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!((page.events.len(), page.complete), (2, false));
    let rest = bench
        .engine()
        .history(&run, 2, 10, Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(page.events[1].attributes["tasks"], json!(["/do/0/a"]));
    assert_eq!(rest.events[0].event_id, 3);
    assert_eq!(rest.events.len(), 2);
    let attempt = bench.attempt().await;
    let waiting = bench.engine().history(&run, 4, 10, Duration::MAX);
    let waiting = tokio::time::timeout(PATIENCE, waiting);
    let ending = async {
        tokio::task::yield_now().await;
        attempt.end(Ok(json!(1)));
    };
    let (page, ()) = tokio::join!(waiting, ending);
    let page = page.unwrap().unwrap();
    assert!(page.complete);
    assert_eq!(page.events[0].event_type, "ActivityTaskCompleted");
    assert_eq!(page.events[0].attributes["receipt"], json!({"cpu_us": 7}));
    let receipts = bench.engine().receipts(&run).await.unwrap();
    assert_eq!(receipts[0].receipt.counters["cpu_us"], 7);
    assert_eq!(receipts[0].activity_type, "t.hand");
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_are_counted_while_runs_are_open() {
    let mut bench = Bench::new().await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let plugin = Digest::of(b"plugin t");
    let count = async |bench: &Bench| bench.engine().open_runs_using(&plugin).await.unwrap();
    assert_eq!(count(&bench).await, 0);
    let run = bench.start("hand", json!({})).await;
    assert_eq!(count(&bench).await, 1);
    bench.crash().await;
    assert_eq!(count(&bench).await, 1);
    bench.engine().terminate(&run, "enough").await.unwrap();
    assert_eq!(count(&bench).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_queue_is_a_failure_that_names_the_queues() {
    let bench = Bench::new().await;
    bench.define(
        "lost",
        "  - a: {call: t.echo, metadata: {heyday: {queue: nowhere}}}\n",
    );
    let run = bench.start("lost", json!({})).await;
    let failure = format!("{:?}", bench.failure(&run).await);
    assert!(failure.contains("general-queue, narrow"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_refuses_starts_and_stops_attempts() {
    let mut bench = Bench::new().await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    let request = bench.request("hand", "late", json!({}));
    let stopping = bench.engine().drain(Duration::ZERO);
    let ending = async {
        attempt.context.cancellation.cancelled().await;
        assert_eq!(attempt.context.reason.get(), Some(&CancelReason::Shutdown));
        let refused = bench.engine().start(request).await.unwrap_err();
        assert!(matches!(refused, EngineError::ShuttingDown), "{refused}");
        attempt.end(Err(Failure::permanent(kind::CANCELLED, "stopped")));
    };
    // A clock that goes as the real one does.
    let passing = async {
        let tick = Duration::from_millis(10);
        loop {
            tokio::time::sleep(tick).await;
            bench.clock.advance(tick);
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(stopping, ending) } => {}
        () = passing => {}
    }
    drop(bench.engine.take());
    bench.open().await;
    // The attempt is over, and another one follows its policy.
    let events = bench.events(&run).await;
    let failed = events.last().unwrap();
    assert_eq!(failed.event_type, "ActivityTaskFailed");
    assert_eq!(failed.attributes["failure"]["kind"], kind::WORKER_LOST);
    bench.clock.advance(Duration::from_secs(1));
    bench.attempt().await.end(Ok(json!("done")));
    assert_eq!(bench.result(&run).await, json!("done"));
}
