//! Which starts are taken, and which run answers them.

use std::collections::BTreeMap;

use heyday_durable::engine::{
    EngineError, ExecutionStatus, IdConflictPolicy, IdReusePolicy, RunRef, StartWorkflow,
};
use heyday_durable::failure::kind;
use heyday_durable::payload::{BlobRef, Digest, Payload};
use serde_json::json;

use super::bench::{Bench, run};

on_both!(
    an_open_id_is_refused_answered_or_replaced,
    a_closed_id_is_reused_as_the_policy_says,
    of_many_starts_of_one_id_one_wins,
    an_idempotency_key_answers_the_same_run,
    bad_starts_are_refused_with_a_reason,
    an_input_that_is_no_json_fails_the_run,
    a_memo_belongs_to_the_run,
    a_run_and_its_children_are_on_the_queue_that_its_start_names,
    what_is_not_there_is_not_found,
);

async fn an_open_id_is_refused_answered_or_replaced(bench: Bench) {
    bench.define("waits", "  - a: {wait: PT1H}\n");
    let first = bench.start_as("waits", "taken", json!({})).await;
    let engine = bench.engine();
    let request = |conflict| StartWorkflow {
        id_conflict_policy: conflict,
        ..bench.request("waits", "taken", json!({}))
    };
    match engine.start(request(IdConflictPolicy::Fail)).await {
        Err(EngineError::AlreadyExists { run_id, reason, .. }) => {
            assert_eq!(Some(run_id), first.run_id);
            assert!(reason.contains("running"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let existing = engine.start(request(IdConflictPolicy::UseExisting)).await;
    let existing = existing.unwrap();
    assert_eq!(
        (Some(existing.run_id), existing.created),
        (first.run_id, false)
    );
    let replaced = engine
        .start(request(IdConflictPolicy::TerminateExisting))
        .await;
    let replaced = replaced.unwrap();
    assert!(replaced.created);
    assert_eq!(bench.end(&first).await.status, ExecutionStatus::Terminated);
    let latest = engine.describe(&run("taken")).await.unwrap();
    assert_eq!(latest.info.run_id, replaced.run_id);
    engine.terminate(&run("taken"), "done").await.unwrap();
}

async fn a_closed_id_is_reused_as_the_policy_says(bench: Bench) {
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
    // Nor did one end well that somebody ended.
    bench.define("waits", "  - a: {wait: PT1H}\n");
    for status in [ExecutionStatus::Canceled, ExecutionStatus::Terminated] {
        let id = format!("{status:?}");
        let first = bench.start_as("waits", &id, json!({})).await;
        bench.until_event(&first, "TimerStarted").await;
        let ended = if status == ExecutionStatus::Canceled {
            bench.engine().cancel(&first, "enough").await
        } else {
            bench.engine().terminate(&first, "enough").await
        };
        ended.unwrap();
        assert_eq!(bench.end(&first).await.status, status);
        let again = StartWorkflow {
            id_reuse_policy: IdReusePolicy::AllowDuplicateFailedOnly,
            ..bench.request("waits", &id, json!({}))
        };
        let again = bench.engine().start(again).await.unwrap();
        assert!(again.created, "{id}");
        bench.engine().terminate(&run(&id), "done").await.unwrap();
    }
}

async fn of_many_starts_of_one_id_one_wins(bench: Bench) {
    bench.define("waits", "  - a: {wait: PT1H}\n");
    let starts = (0..20).map(|_| {
        bench
            .engine()
            .start(bench.request("waits", "same", json!({})))
    });
    let results = futures::future::join_all(starts).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    bench
        .engine()
        .terminate(&run("same"), "done")
        .await
        .unwrap();
}

async fn an_idempotency_key_answers_the_same_run(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    bench.define("waits", "  - a: {wait: PT1H}\n");
    for name in ["set", "waits"] {
        let request = || StartWorkflow {
            idempotency_key: Some(format!("key of {name}")),
            ..bench.request(name, name, json!({}))
        };
        let first = bench.engine().start(request()).await.unwrap();
        assert!(first.created);
        let again = bench.engine().start(request()).await.unwrap();
        assert_eq!((again.run_id, again.created), (first.run_id, false));
    }
    bench.end(&run("set")).await;
    let after = StartWorkflow {
        idempotency_key: Some("key of set".to_owned()),
        ..bench.request("set", "set", json!({}))
    };
    assert!(!bench.engine().start(after).await.unwrap().created);
    bench
        .engine()
        .terminate(&run("waits"), "done")
        .await
        .unwrap();
}

async fn bad_starts_are_refused_with_a_reason(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let good = || bench.request("set", "id", json!({}));
    let large = |bytes: usize| Payload::json_bytes(vec![b' '; bytes].into());
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
                input: large(17 * 1024 * 1024),
                ..good()
            },
            "more than the",
        ),
        (
            StartWorkflow {
                memo: BTreeMap::from([("m".to_owned(), large(3 * 1024 * 1024))]),
                ..good()
            },
            "the memo",
        ),
        (
            StartWorkflow {
                input: Payload::blob_ref(&BlobRef {
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

async fn an_input_that_is_no_json_fails_the_run(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let request = StartWorkflow {
        input: Payload::json_bytes(b"{nope".to_vec().into()),
        ..bench.request("set", "id", json!({}))
    };
    bench.engine().start(request).await.unwrap();
    let failure = bench.failure(&run("id")).await;
    assert_eq!(failure.kind, kind::INVALID_INPUT);
}

async fn a_memo_belongs_to_the_run(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let memo = BTreeMap::from([("who".to_owned(), Payload::json(&json!("me")))]);
    let request = StartWorkflow {
        memo: memo.clone(),
        ..bench.request("set", "id", json!({}))
    };
    let first = bench.engine().start(request).await.unwrap();
    let description = bench.engine().describe(&run("id")).await.unwrap();
    assert_eq!(description.memo, memo);
    assert_eq!(description.info.run_id, first.run_id);
}

async fn what_is_not_there_is_not_found(bench: Bench) {
    let engine = bench.engine();
    let nowhere = run("nowhere");
    let wait = std::time::Duration::ZERO;
    let refusals = [
        engine.result(&nowhere, wait).await.map(|_| ()),
        engine.describe(&nowhere).await.map(|_| ()),
        engine.history(&nowhere, 0, 10, wait).await.map(|_| ()),
        engine.cancel(&nowhere, "no").await,
        engine.terminate(&nowhere, "no").await,
    ];
    for refusal in refusals {
        assert!(
            matches!(&refusal, Err(EngineError::NotFound { workflow_id, .. }) if workflow_id == "nowhere"),
            "{refusal:?}"
        );
    }
}

async fn a_run_and_its_children_are_on_the_queue_that_its_start_names(bench: Bench) {
    bench.define("child", "  - a: {set: {x: 1}}\n");
    bench.define(
        "parent",
        "  - a: {run: {workflow: {namespace: test, name: child, version: latest}}}\n",
    );
    let engine = bench.engine();
    let elsewhere = bench.start_as("parent", "elsewhere", json!({})).await;
    let request = StartWorkflow {
        task_queue: Some("narrow".to_owned()),
        ..bench.request("parent", "here", json!({}))
    };
    let here = engine.start(request).await.unwrap();
    let here = RunRef {
        run_id: Some(here.run_id),
        ..run("here")
    };
    for (parent, queue) in [(elsewhere, "general-queue"), (here, "narrow")] {
        bench.result(&parent).await;
        let child = format!("{}_1", parent.run_id.unwrap());
        for run in [&parent, &run(&child)] {
            let described = engine.describe(run).await.unwrap();
            assert_eq!(described.task_queue, queue, "{run:?}");
            let begun = &bench.events(run).await[0];
            assert_eq!(begun.attributes["task_queue"], queue, "{begun:?}");
        }
    }
}
