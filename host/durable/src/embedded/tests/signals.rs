//! Signals: durable when answered, taken once, there for whoever listens later.

use super::*;
use crate::signal::Signal;

fn signal(name: &str, id: &str, data: Value) -> Signal {
    Signal::new(name, id, Payload::json(&data))
}

const REVIEW: &str = "  - l: {listen: {to: {one: {with: {type: approve}}}}}\n  - m: {listen: {to: {one: {with: {type: publish}}}}, output: {as: {l: '${ . }'}}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_survives_a_crash_before_and_after_it_is_read() {
    let mut bench = Bench::new().await;
    bench.define("review", REVIEW);
    let run = bench.start("review", json!({})).await;
    bench.crash().await;
    // It comes too early, and out of order.
    let publish = signal("publish", "p", json!({"n": 2}));
    bench.engine().signal(&run, publish).await.unwrap();
    bench.crash().await;
    let description = bench.engine().describe(&run).await.unwrap();
    assert_eq!(description.pending_listens[0].task, "/do/0/l");
    assert_eq!(description.pending_listens[0].signals, ["approve"]);
    assert_eq!(description.pending_signals[0].name, "publish");
    let approve = signal("approve", "a", json!({"n": 1}));
    bench.engine().signal(&run, approve).await.unwrap();
    assert_eq!(bench.result(&run).await, json!({"l": [{"n": 2}]}));
    let description = bench.engine().describe(&run).await.unwrap();
    assert!(description.pending_listens.is_empty());
    assert!(description.pending_signals.is_empty());
    let events = bench.events(&run).await;
    let signaled = events
        .iter()
        .find(|event| event.event_type == "WorkflowExecutionSignaled");
    assert_eq!(
        signaled.unwrap().attributes,
        json!({"signal_name": "publish", "signal_id": "p", "input": {"n": 2}})
    );
    let consumed = events
        .iter()
        .filter_map(|event| event.attributes.get("consumed_signals"));
    assert_eq!(consumed.collect::<Vec<_>>(), [&json!(["a", "p"])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_again_changes_nothing() {
    let mut bench = Bench::new().await;
    bench.define("two", "  - l: {listen: {to: {any: [], until: '.[1]'}}}\n");
    let run = bench.start("two", json!({})).await;
    for _ in 0..2 {
        for _ in 0..3 {
            let again = signal("n", "same", json!(1));
            bench.engine().signal(&run, again).await.unwrap();
        }
        bench.crash().await;
    }
    let kinds = bench.kinds(&run).await;
    let came = kinds
        .iter()
        .filter(|kind| *kind == "WorkflowExecutionSignaled");
    assert_eq!(came.count(), 1);
    bench
        .engine()
        .signal(&run, signal("n", "other", json!(2)))
        .await
        .unwrap();
    assert_eq!(bench.result(&run).await, json!([1, 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_commit_takes_a_signal_and_what_it_leads_to() {
    let bench = Bench::new().await;
    bench.define("review", "  - l: {listen: {to: {any: []}}}\n");
    let run = bench.start("review", json!({})).await;
    bench
        .engine()
        .signal(&run, signal("go", "1", json!(1)))
        .await
        .unwrap();
    bench.result(&run).await;
    assert_eq!(bench.commits(&run).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_listens_leaves_memory_and_comes_back_by_replay() {
    let bench = Bench::with(|options| options.cached_drivers = 0).await;
    bench.define(
        "many",
        "  - l: {listen: {to: {any: [{with: {type: n}}], until: {one: {with: {type: end}}}}}, foreach: {do: [{a: {call: t.echo, with: {n: '${ . }'}}}], output: {as: '.n'}}}\n",
    );
    let run = bench.start("many", json!({})).await;
    bench
        .until("it is out of memory", async || {
            lock(&bench.engine().core.runs).is_empty()
        })
        .await;
    for n in 0..5 {
        let next = signal("n", &format!("id {n}"), json!(n));
        bench.engine().signal(&run, next).await.unwrap();
    }
    bench
        .engine()
        .signal(&run, signal("end", "e", json!(null)))
        .await
        .unwrap();
    assert_eq!(bench.result(&run).await, json!([0, 1, 2, 3, 4]));
    assert_eq!(bench.begun("t.echo"), 5);
    assert_eq!(bench.engine().describe(&run).await.unwrap().info.held, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_is_refused() {
    let bench = Bench::new().await;
    bench.define("review", REVIEW);
    bench.define("short", "  - a: {set: {x: 1}}\n");
    let ended = bench.start("short", json!({})).await;
    bench.end(&ended).await;
    let engine = bench.engine();
    assert!(matches!(
        engine.signal(&ended, signal("a", "1", json!(1))).await,
        Err(EngineError::Closed { .. })
    ));
    assert!(matches!(
        engine
            .signal(&run("nobody"), signal("a", "1", json!(1)))
            .await,
        Err(EngineError::NotFound { .. })
    ));
    let open = bench.start("review", json!({})).await;
    let large = signal("a", "1", json!("x".repeat(crate::payload::FOREIGN_LIMIT)));
    assert!(matches!(
        engine.signal(&open, large).await,
        Err(EngineError::TooLarge {
            what: "the signal",
            ..
        })
    ));
    assert!(matches!(
        engine.signal(&open, signal("", "1", json!(1))).await,
        Err(EngineError::Invalid(_))
    ));
    // As much as may wait: the run goes on with it, and takes no more.
    let part = "x".repeat(1024 * 1024);
    for n in 0..7 {
        let next = signal("a", &format!("id {n}"), json!(part));
        engine.signal(&open, next).await.unwrap();
    }
    match engine.signal(&open, signal("a", "last", json!(part))).await {
        Err(EngineError::LimitReached(message)) => {
            assert!(message.contains("wait for the run to listen"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    engine
        .signal(&open, signal("publish", "p", json!(1)))
        .await
        .unwrap();
    engine
        .signal(&open, signal("approve", "y", json!(1)))
        .await
        .unwrap();
    assert_eq!(bench.result(&open).await, json!({"l": [1]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_takes_as_many_signals_as_it_may() {
    let bench = Bench::new().await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    let sends = (0..1_000).map(|n| {
        bench
            .engine()
            .signal(&run, signal("a", &n.to_string(), json!(n)))
    });
    for sent in futures::future::join_all(sends).await {
        sent.unwrap();
    }
    match bench
        .engine()
        .signal(&run, signal("a", "more", json!(1)))
        .await
    {
        Err(EngineError::LimitReached(message)) => assert!(message.contains("1000 signals wait")),
        other => panic!("{other:?}"),
    }
    // One that is there already is not refused.
    bench
        .engine()
        .signal(&run, signal("a", "7", json!(7)))
        .await
        .unwrap();
    let description = bench.engine().describe(&run).await.unwrap();
    assert_eq!(description.pending_signals.len(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_signal_is_one_step() {
    let bench = Bench::new().await;
    bench.define("go", "  - l: {listen: {to: {one: {with: {type: go}}}}}\n");
    let request = StartWorkflow {
        signal: Some(signal("go", "s", json!(5))),
        ..bench.request("go", "with", json!({}))
    };
    let started = bench.engine().start(request).await.unwrap();
    assert!(started.created);
    assert_eq!(bench.result(&run("with")).await, json!([5]));
    let one = RunRef {
        run_id: Some(started.run_id),
        ..run("with")
    };
    assert_eq!(bench.commits(&one).await, 1);
    assert_eq!(
        bench.kinds(&one).await,
        [
            "WorkflowExecutionStarted",
            "WorkflowExecutionSignaled",
            "WorkflowTaskCompleted",
            "WorkflowExecutionCompleted"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_signal_signals_the_open_run() {
    let mut bench = Bench::new().await;
    bench.define("two", "  - l: {listen: {to: {any: [], until: '.[1]'}}}\n");
    let request = |bench: &Bench, id: &str, key: Option<&str>| StartWorkflow {
        signal: Some(signal("n", id, json!(id))),
        id_conflict_policy: IdConflictPolicy::UseExisting,
        idempotency_key: key.map(ToOwned::to_owned),
        ..bench.request("two", "shared", json!({}))
    };
    let first = bench
        .engine()
        .start(request(&bench, "1", None))
        .await
        .unwrap();
    // The same signal again is the same signal.
    let again = bench
        .engine()
        .start(request(&bench, "1", None))
        .await
        .unwrap();
    assert_eq!((again.run_id, again.created), (first.run_id, false));
    bench.crash().await;
    let second = bench
        .engine()
        .start(request(&bench, "2", Some("k")))
        .await
        .unwrap();
    assert_eq!((second.run_id, second.created), (first.run_id, false));
    assert_eq!(bench.result(&run("shared")).await, json!(["1", "2"]));
    // The run has ended; the key answers it, and its signal was taken.
    let late = bench
        .engine()
        .start(request(&bench, "2", Some("k")))
        .await
        .unwrap();
    assert_eq!((late.run_id, late.created), (first.run_id, false));
    // Another signal starts another run.
    let next = bench
        .engine()
        .start(request(&bench, "3", None))
        .await
        .unwrap();
    assert!(next.created);
    let unfit = StartWorkflow {
        signal: Some(signal("__x", "4", json!(1))),
        ..bench.request("two", "other", json!({}))
    };
    assert!(matches!(
        bench.engine().start(unfit).await,
        Err(EngineError::Invalid(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_kept_while_the_evaluator_is_away() {
    let mut bench = Bench::new().await;
    bench.define(
        "review",
        "  - l: {listen: {to: {one: {with: {data: '${ .ok }'}}}}}\n",
    );
    let run = bench.start("review", json!({})).await;
    bench.away.store(true, Ordering::SeqCst);
    bench
        .engine()
        .signal(&run, signal("a", "1", json!({"ok": true})))
        .await
        .unwrap();
    bench.crash().await;
    bench.away.store(false, Ordering::SeqCst);
    bench
        .until("it is tried again", async || {
            bench.clock.advance(Duration::from_millis(100));
            let result = bench.engine().result(&run, Duration::ZERO).await;
            result.unwrap().is_some()
        })
        .await;
    assert_eq!(bench.result(&run).await, json!([{"ok": true}]));
}
