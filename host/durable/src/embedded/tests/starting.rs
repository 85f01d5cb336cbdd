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
async fn a_closed_id_is_reused_as_the_policy_says() {
    let bench = Bench::new().await;
    bench.define("good", "  - a: {set: {x: 1}}\n");
    bench.define("bad", "  - a: {call: t.fail}\n");
    for (name, reuse, taken) in [
        ("good", IdReusePolicy::AllowDuplicate, true),
        ("good", IdReusePolicy::AllowDuplicateFailedOnly, false),
        ("bad", IdReusePolicy::AllowDuplicateFailedOnly, true),
        ("good", IdReusePolicy::RejectDuplicate, false),
        ("bad", IdReusePolicy::RejectDuplicate, false),
    ] {
        let id = format!("{name}-{reuse:?}");
        bench.end(&bench.start_as(name, &id, json!({})).await).await;
        let again = bench
            .engine()
            .start(StartWorkflow {
                id_reuse_policy: reuse,
                ..bench.request(name, &id, json!({}))
            })
            .await;
        match again {
            Ok(started) => assert!(started.created && taken, "{id}"),
            Err(EngineError::AlreadyExists { .. }) => assert!(!taken, "{id}"),
            Err(error) => panic!("{id}: {error}"),
        }
    }
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
async fn bad_starts_are_refused_with_a_reason() {
    let bench = Bench::new().await;
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let good = || bench.request("set", "id", json!({}));
    let requests = [
        (
            StartWorkflow {
                workflow_id: String::new(),
                ..good()
            },
            "1 to 1000 bytes",
        ),
        (
            StartWorkflow {
                workflow_id: "x".repeat(1_001),
                ..good()
            },
            "1 to 1000 bytes",
        ),
        (
            StartWorkflow {
                idempotency_key: Some(String::new()),
                ..good()
            },
            "idempotency key",
        ),
        (
            StartWorkflow {
                input: Payload::default(),
                ..good()
            },
            "not supported",
        ),
        (
            StartWorkflow {
                input: Payload::json_bytes(Bytes::from(vec![b' '; 17 * 1024 * 1024])),
                ..good()
            },
            "more than the",
        ),
        (
            StartWorkflow {
                memo: BTreeMap::from([(
                    "m".to_owned(),
                    Payload::json_bytes(Bytes::from(vec![b' '; 3 * 1024 * 1024])),
                )]),
                ..good()
            },
            "the memo",
        ),
        (
            StartWorkflow {
                input: Payload::blob_ref(&crate::payload::BlobRef {
                    digest: Digest::of(b"nothing"),
                    size: 7,
                }),
                ..good()
            },
            "is stored",
        ),
    ];
    for (request, part) in requests {
        let error = bench.engine().start(request).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(matches!(
        bench.engine().describe(&run("id")).await,
        Err(EngineError::NotFound { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_no_json_fails_the_run() {
    let bench = Bench::new().await;
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let request = StartWorkflow {
        input: Payload::json_bytes(Bytes::from_static(b"{nope")),
        ..bench.request("set", "id", json!({}))
    };
    bench.engine().start(request).await.unwrap();
    let failure = bench.failure(&run("id")).await;
    assert_eq!(failure.kind, kind::INVALID_INPUT);
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
