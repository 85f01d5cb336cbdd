//! Which starts are taken, and which run answers them.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_open_id_is_refused_answered_or_replaced() {
    let mut bench = Bench::new().await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let first = bench.start_as("hand", "taken", json!({})).await;
    let _attempt = bench.attempt().await;
    let engine = bench.engine();
    let request = |conflict| StartWorkflow {
        id_conflict_policy: conflict,
        ..bench.request("hand", "taken", json!({}))
    };
    let refused = engine.start(request(IdConflictPolicy::Fail)).await;
    match refused {
        Err(EngineError::AlreadyExists { run_id, .. }) => {
            assert_eq!(Some(run_id), first.run_id);
        }
        other => panic!("{other:?}"),
    }
    let existing = engine
        .start(request(IdConflictPolicy::UseExisting))
        .await
        .unwrap();
    assert_eq!(
        (Some(existing.run_id), existing.created),
        (first.run_id, false)
    );
    let replaced = engine
        .start(request(IdConflictPolicy::TerminateExisting))
        .await
        .unwrap();
    assert!(replaced.created);
    assert_eq!(bench.end(&first).await.status, ExecutionStatus::Terminated);
    let latest = bench.engine().describe(&run("taken")).await.unwrap();
    assert_eq!(latest.info.run_id, replaced.run_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_starts_of_one_id_one_wins() {
    let bench = Bench::new().await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let starts = (0..20).map(|_| {
        let request = bench.request("hand", "same", json!({}));
        bench.engine().start(request)
    });
    let results = futures::future::join_all(starts).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let queues = bench.engine().queues();
    assert_eq!(queues.iter().map(|queue| queue.in_flight).sum::<usize>(), 1);
    assert_eq!(lock(&bench.engine().core.runs).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_answers_the_same_run_for_a_day() {
    let mut bench = Bench::new().await;
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let request = |id: &str| StartWorkflow {
        idempotency_key: Some("key".to_owned()),
        ..bench.request("set", id, json!({}))
    };
    let first = bench.engine().start(request("one")).await.unwrap();
    let again = bench.engine().start(request("two")).await.unwrap();
    assert_eq!((again.run_id, again.created), (first.run_id, false));
    let later = request("three");
    bench.crash().await;
    bench.clock.advance(Duration::from_secs(24 * 60 * 60 - 1));
    let again = bench.engine().start(later.clone()).await.unwrap();
    assert_eq!((again.run_id, again.created), (first.run_id, false));
    bench.clock.advance(Duration::from_secs(1));
    let after = bench.engine().start(later).await.unwrap();
    assert!(after.created);
}

#[tokio::test(flavor = "multi_thread")]
async fn memo_and_namespace_belong_to_the_run() {
    let bench = Bench::new().await;
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let memo = BTreeMap::from([("who".to_owned(), Payload::json(&json!("me")))]);
    let request = StartWorkflow {
        memo: memo.clone(),
        ..bench.request("set", "id", json!({}))
    };
    let first = bench.engine().start(request).await.unwrap();
    let elsewhere = StartWorkflow {
        namespace: "other".to_owned(),
        ..bench.request("set", "id", json!({}))
    };
    assert!(bench.engine().start(elsewhere).await.unwrap().created);
    let description = bench.engine().describe(&run("id")).await.unwrap();
    assert_eq!(description.memo, memo);
    assert_eq!(description.info.run_id, first.run_id);
    assert_eq!(description.pinned["t.echo"], Some(Digest::of(b"plugin t")));
    let wrong = RunRef {
        namespace: "other".to_owned(),
        run_id: Some(first.run_id),
        ..run("id")
    };
    let refused = bench.engine().terminate(&wrong, "no").await.unwrap_err();
    assert!(matches!(refused, EngineError::NotFound { .. }), "{refused}");
}
