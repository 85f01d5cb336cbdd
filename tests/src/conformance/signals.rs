//! Signals, and events that flows emit.

use heyday_durable::engine::{EngineError, IdConflictPolicy, RunRef, StartWorkflow};
use heyday_durable::payload::Payload;
use heyday_durable::signal::Signal;
use serde_json::{Value, json};

use super::bench::{Bench, run};

on_both!(
    signals_are_taken_by_whoever_listens_in_whatever_order_they_come,
    the_same_id_again_changes_nothing,
    all_that_a_task_waits_for_may_come_in_any_order,
    a_signal_that_does_not_fit_waits_for_a_task_that_it_fits,
    a_run_may_be_started_with_a_signal,
    a_key_of_a_start_with_a_signal_answers_the_same_run,
    a_signal_to_nobody_is_refused,
    an_emitted_event_stands_in_the_history,
    an_event_reaches_the_runs_that_are_named,
);

const REVIEW: &str = "  - l: {listen: {to: {one: {with: {type: approve}}}}}\n  - m: {listen: {to: {one: {with: {type: publish}}}}, output: {as: {l: '${ . }'}}}\n";

fn signal(name: &str, id: &str, data: Value) -> Signal {
    Signal::new(name, id, Payload::json(&data))
}

async fn send(bench: &Bench, run: &RunRef, signal: Signal) {
    bench.engine().signal(run, signal).await.unwrap();
}

async fn signals_are_taken_by_whoever_listens_in_whatever_order_they_come(mut bench: Bench) {
    bench.define("review", REVIEW);
    let run = bench.start("review", json!({})).await;
    send(&bench, &run, signal("publish", "p", json!({"n": 2}))).await;
    bench.restart().await;
    send(&bench, &run, signal("approve", "a", json!({"n": 1}))).await;
    assert_eq!(bench.result(&run).await, json!({"l": [{"n": 2}]}));
    let events = bench.events(&run).await;
    let signaled = |event: &&heyday_durable::engine::HistoryEvent| {
        event.event_type == "WorkflowExecutionSignaled"
    };
    let shown: Vec<_> = events.iter().filter(signaled).collect();
    assert_eq!(shown.len(), 2);
    assert_eq!(
        shown[0].attributes,
        json!({"signal_name": "publish", "signal_id": "p", "input": {"n": 2}})
    );
}

async fn the_same_id_again_changes_nothing(bench: Bench) {
    bench.define("review", REVIEW);
    let run = bench.start("review", json!({})).await;
    for _ in 0..3 {
        send(&bench, &run, signal("publish", "same", json!(1))).await;
    }
    // As long as a source and an id may be.
    let source = json!({"source": "s".repeat(1_000)});
    for n in 0..2 {
        let longest = Signal {
            attributes: source.as_object().cloned().unwrap(),
            ..signal("publish", &"i".repeat(1_000), json!(n))
        };
        send(&bench, &run, longest).await;
    }
    send(&bench, &run, signal("approve", "a", json!(2))).await;
    assert_eq!(bench.result(&run).await, json!({"l": [1]}));
}

/// Waits until these are the signals that came and that nobody took.
async fn until_left(bench: &Bench, run: &RunRef, ids: &[&str]) {
    bench
        .until("what nobody took is left", async || {
            let described = bench.engine().describe(run).await.unwrap();
            let left = described.pending_signals.iter();
            left.map(|signal| signal.id.as_str())
                .eq(ids.iter().copied())
        })
        .await;
}

async fn all_that_a_task_waits_for_may_come_in_any_order(mut bench: Bench) {
    bench.define(
        "both",
        "  - l: {listen: {to: {all: [{with: {type: tested, data: '${ .ok }'}}, {with: {type: signed}}]}}}\n",
    );
    let run = bench.start("both", json!({})).await;
    send(&bench, &run, signal("signed", "s", json!({"by": "Ada"}))).await;
    send(
        &bench,
        &run,
        signal("tested", "failed", json!({"ok": false})),
    )
    .await;
    until_left(&bench, &run, &["failed"]).await;
    bench.restart().await;
    let passed = json!({"ok": true, "by": "Grace"});
    send(&bench, &run, signal("tested", "passed", passed.clone())).await;
    assert_eq!(bench.result(&run).await, json!([{"by": "Ada"}, passed]));
}

async fn a_signal_that_does_not_fit_waits_for_a_task_that_it_fits(bench: Bench) {
    bench.define(
        "two",
        "  - l: {listen: {to: {one: {with: {type: approve, data: '${ .ok }'}}}}}\n  - m: {listen: {to: {one: {with: {type: approve, data: {by: Ada}}}}}, output: {as: {m: '${ . }'}}}\n",
    );
    let run = bench.start("two", json!({})).await;
    let (ada, grace) = (
        json!({"ok": false, "by": "Ada"}),
        json!({"ok": true, "by": "Grace"}),
    );
    send(&bench, &run, signal("approve", "ada", ada.clone())).await;
    until_left(&bench, &run, &["ada"]).await;
    send(&bench, &run, signal("approve", "grace", grace)).await;
    assert_eq!(bench.result(&run).await, json!({"m": [ada]}));
}

async fn a_run_may_be_started_with_a_signal(bench: Bench) {
    bench.define("review", REVIEW);
    for (id, conflict) in [
        ("fail", IdConflictPolicy::Fail),
        ("use", IdConflictPolicy::UseExisting),
    ] {
        let start = || StartWorkflow {
            id_conflict_policy: conflict,
            signal: Some(signal("approve", "a", json!(1))),
            ..bench.request("review", id, json!({}))
        };
        assert!(bench.engine().start(start()).await.unwrap().created);
        match bench.engine().start(start()).await {
            Ok(again) => assert!(!again.created && conflict == IdConflictPolicy::UseExisting),
            Err(EngineError::AlreadyExists { .. }) => {
                assert_eq!(conflict, IdConflictPolicy::Fail);
            }
            Err(error) => panic!("{error}"),
        }
        send(&bench, &run(id), signal("publish", "p", json!(2))).await;
        assert_eq!(bench.result(&run(id)).await, json!({"l": [2]}));
    }
}

async fn a_key_of_a_start_with_a_signal_answers_the_same_run(bench: Bench) {
    bench.define("review", REVIEW);
    let request = |id: &str, key: Option<&str>| StartWorkflow {
        id_conflict_policy: IdConflictPolicy::UseExisting,
        idempotency_key: key.map(ToOwned::to_owned),
        signal: Some(signal("approve", "a", json!(1))),
        ..bench.request("review", id, json!({}))
    };
    // One that was started under the key, and one that was there before.
    for (id, created) in [("own", true), ("other", false)] {
        let there = if created {
            None
        } else {
            bench.start_as("review", id, json!({})).await.run_id
        };
        let key = format!("key of {id}");
        let first = bench.engine().start(request(id, Some(&key))).await.unwrap();
        assert_eq!(first.created, created, "{id}");
        assert_eq!(there.unwrap_or(first.run_id), first.run_id, "{id}");
        let again = bench.engine().start(request(id, Some(&key))).await.unwrap();
        assert_eq!((again.run_id, again.created), (first.run_id, false), "{id}");
        send(&bench, &run(id), signal("publish", "p", json!(2))).await;
        assert_eq!(bench.result(&run(id)).await, json!({"l": [2]}), "{id}");
        // Also when it has ended.
        let late = bench.engine().start(request(id, Some(&key))).await.unwrap();
        assert_eq!((late.run_id, late.created), (first.run_id, false), "{id}");
        let latest = bench.engine().describe(&run(id)).await.unwrap();
        assert_eq!(latest.info.run_id, first.run_id, "{id}");
        let next = bench.engine().start(request(id, None)).await.unwrap();
        assert!(next.created, "{id}");
        bench.engine().terminate(&run(id), "done").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_past_what_a_run_holds_wait_for_room_on_a_cluster() {
    let Some(bench) = Bench::temporal().await else {
        return;
    };
    bench.define(
        "parts",
        "  - g: {listen: {to: {one: {with: {type: go}}}}, output: {as: {items: '${ .0.items }'}}}\n  - loop: {for: {each: item, in: '${ .items }'}, do: [{p: {listen: {to: {one: {with: {type: part}}}}, output: {as: {n: '${ .0.n }'}}}}]}\n",
    );
    let first = bench.start("parts", json!({})).await;
    let latest = run(&first.workflow_id);
    let items: Vec<u64> = (0..10).collect();
    // Together more than a run may hold.
    for n in &items {
        let part = json!({ "n": n, "fill": "x".repeat(1_900_000) });
        send(&bench, &latest, signal("part", &format!("p{n}"), part)).await;
    }
    // All are shown, those outside as well; and though no task takes any, the run goes on
    // with them before the cluster would end it.
    let ids: Vec<String> = items.iter().map(|n| format!("p{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    until_left(&bench, &latest, &ids).await;
    assert!(bench.chain(&first).await.len() > 1);
    let go = signal("go", "g", json!({ "items": items }));
    send(&bench, &latest, go).await;
    assert_eq!(bench.result(&first).await, json!({ "n": 9 }));
}

async fn a_signal_to_nobody_is_refused(bench: Bench) {
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let sent = || signal("go", "1", json!(1));
    let refused = bench.engine().signal(&run("nowhere"), sent()).await;
    assert!(
        matches!(refused, Err(EngineError::NotFound { .. })),
        "{refused:?}"
    );
    let ended = bench.start("set", json!({})).await;
    bench.end(&ended).await;
    let refused = bench.engine().signal(&ended, sent()).await;
    assert!(
        matches!(refused, Err(EngineError::Closed { .. })),
        "{refused:?}"
    );
    let unnamed = signal("", "1", json!(1));
    let refused = bench.engine().signal(&ended, unnamed).await;
    assert!(
        matches!(refused, Err(EngineError::Invalid(_))),
        "{refused:?}"
    );
}

async fn an_emitted_event_stands_in_the_history(bench: Bench) {
    bench.define(
        "makes",
        "  - e: {emit: {event: {with: {source: 'urn:x', type: made, data: '${ .n }'}}}}\n",
    );
    let run = bench.start("makes", json!({"n": 5})).await;
    let output = bench.result(&run).await;
    assert_eq!(
        (&output["type"], &output["data"]),
        (&json!("made"), &json!(5))
    );
    let event = bench.until_event(&run, "MarkerRecorded").await;
    assert_eq!(event.attributes["marker_name"], "heyday.emit");
    assert_eq!(event.attributes["event"], output);
    assert_eq!(event.attributes["task"], "/do/0/e");
}

async fn an_event_reaches_the_runs_that_are_named(bench: Bench) {
    bench.define(
        "tells",
        "  - e: {emit: {event: {with: {source: 'urn:x', type: made, data: '${ .n }'}}}, metadata: {heyday: {to: '${ .to }'}}}\n",
    );
    bench.define(
        "hears",
        "  - l: {listen: {to: {one: {with: {type: made}}}, read: envelope}}\n",
    );
    let hearing = [
        bench.start_as("hears", "one", json!({})).await,
        bench.start_as("hears", "two", json!({})).await,
    ];
    let telling = bench
        .start("tells", json!({"n": 5, "to": ["one", "two"]}))
        .await;
    for run in &hearing {
        let heard = bench.result(run).await;
        assert_eq!(
            (&heard[0]["data"], &heard[0]["source"]),
            (&json!(5), &json!("urn:x"))
        );
    }
    bench.result(&telling).await;
    let nobody = bench
        .start("tells", json!({"n": 5, "to": ["nobody"]}))
        .await;
    let failure = format!("{:?}", bench.failure(&nobody).await);
    assert!(failure.contains("nobody"), "{failure}");
}
