//! Updates: accepted or rejected, answered once, never lost.

use std::time::{Duration, Instant};

use heyday_durable::engine::{EngineError, ExecutionStatus, RunRef, UpdateStatus};
use heyday_durable::failure::{Failure, kind};
use heyday_durable::payload::{FOREIGN_LIMIT, Payload};
use heyday_durable::signal::Signal;
use serde_json::{Value, json};

use super::bench::{Bench, PATIENCE, run};
use crate::support::cluster::{self, FEW_UPDATES};

on_both!(
    an_update_is_answered_once_and_again_by_its_id,
    a_rejected_update_leaves_no_event,
    an_update_under_way_survives_a_restart,
    of_updates_at_once_one_is_taken_by_a_task_that_takes_one,
    more_than_may_be_under_way_are_refused_at_once,
    an_update_comes_after_what_was_there_before_it,
    an_update_fails_as_its_tasks_do,
    an_update_whose_run_is_terminated_is_unfinished,
    malformed_updates_are_refused,
);

fn update(name: &str, id: &str, data: Value) -> Signal {
    Signal::new(name, id, Payload::json(&data))
}

async fn offer(bench: &Bench, run: &RunRef, update: Signal) -> Result<UpdateStatus, EngineError> {
    bench.engine().update(run, update, PATIENCE).await
}

/// Without waiting for its end.
async fn accepted(bench: &Bench, run: &RunRef, update: Signal) -> UpdateStatus {
    let status = bench.engine().update(run, update, Duration::ZERO).await;
    status.unwrap()
}

fn result(status: UpdateStatus) -> Value {
    status.outcome.unwrap().unwrap().to_json().unwrap()
}

const REVIEW: &str = "  - l: {listen: {to: {one: {with: {type: approve, data: '${ .ok }'}}}}, metadata: {heyday: {update: {answer: {by: '${ .by }'}}}}}\n";

const WORK: &str = "  - l: {listen: {to: {any: [{with: {type: job}}], until: {one: {with: {type: stop}}}}}, foreach: {do: [{a: {call: t.hand, with: {n: '${ . }'}, metadata: {heyday: {retry: {initial_interval: PT0.05S}}}}}], output: {as: .}}, metadata: {heyday: {update: {}}}}\n";

async fn an_update_is_answered_once_and_again_by_its_id(bench: Bench) {
    bench.define("review", REVIEW);
    let run = bench.start("review", json!({})).await;
    let approve = || update("approve", "u", json!({"ok": true, "by": "Ada"}));
    // What ends at once has ended when it is answered, also for who does not wait.
    let status = accepted(&bench, &run, approve()).await;
    assert_eq!(Some(status.run_id), run.run_id);
    assert_eq!(result(status), json!({"by": "Ada"}));
    assert_eq!(bench.result(&run).await, json!([{"ok": true, "by": "Ada"}]));
    assert_eq!(
        bench.kinds(&run).await[1..],
        [
            "WorkflowExecutionUpdateAccepted",
            "WorkflowExecutionUpdateCompleted",
            "WorkflowExecutionCompleted"
        ]
    );
    let event = bench
        .until_event(&run, "WorkflowExecutionUpdateAccepted")
        .await;
    assert_eq!(
        event.attributes,
        json!({"update_name": "approve", "update_id": "u", "input": {"ok": true, "by": "Ada"}})
    );
    let event = bench
        .until_event(&run, "WorkflowExecutionUpdateCompleted")
        .await;
    assert_eq!(event.attributes["update_id"], "u");
    assert_eq!(event.attributes["result"], json!({"by": "Ada"}));
    // The same id again is the same update, also after the end.
    let again = offer(&bench, &run, approve()).await.unwrap();
    assert_eq!(result(again), json!({"by": "Ada"}));
    let again = bench.engine().update_result(&run, "u", Duration::ZERO);
    assert_eq!(result(again.await.unwrap()), json!({"by": "Ada"}));
    let late = offer(&bench, &run, update("approve", "v", json!({"ok": true}))).await;
    assert!(matches!(late, Err(EngineError::Closed { .. })), "{late:?}");
}

async fn a_rejected_update_leaves_no_event(mut bench: Bench) {
    bench.define("review", REVIEW);
    let run = bench.start("review", json!({})).await;
    let before = bench.kinds(&run).await;
    for _ in 0..2 {
        for (name, data) in [
            ("approve", json!({"ok": false})),
            ("other", json!({"ok": true})),
        ] {
            match offer(&bench, &run, update(name, "u", data)).await {
                Err(EngineError::UpdateRejected(failure)) => {
                    assert_eq!(failure.kind, kind::UPDATE_REJECTED);
                    assert!(failure.message.contains("approve"), "{failure}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(bench.kinds(&run).await, before);
        bench.restart().await;
    }
    // The id was not used up.
    let taken = offer(&bench, &run, update("approve", "u", json!({"ok": true}))).await;
    assert_eq!(result(taken.unwrap()), json!({"by": null}));
    let unknown = bench
        .engine()
        .update_result(&run, "w", Duration::ZERO)
        .await;
    assert!(
        matches!(unknown, Err(EngineError::NoSuchUpdate { .. })),
        "{unknown:?}"
    );
}

async fn an_update_under_way_survives_a_restart(mut bench: Bench) {
    bench.define("work", WORK);
    let run = bench.start("work", json!({})).await;
    let job = || update("job", "u", json!(7));
    assert_eq!(accepted(&bench, &run, job()).await.outcome, None);
    let attempt = bench.attempt().await;
    let engine = std::sync::Arc::clone(bench.engine());
    tokio::join!(engine.drain(Duration::ZERO), attempt.obey());
    drop(engine);
    bench.restart().await;
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.input.to_json().unwrap(), json!({"n": 7}));
    // Whoever asks again waits for the same update.
    let (again, told, ()) = tokio::join!(
        offer(&bench, &run, job()),
        bench.engine().update_result(&run, "u", PATIENCE),
        async { attempt.end(Ok(json!("done"))) },
    );
    assert_eq!(result(again.unwrap()), json!("done"));
    assert_eq!(result(told.unwrap()), json!("done"));
    let stop = offer(&bench, &run, update("stop", "s", json!(0))).await;
    assert_eq!(result(stop.unwrap()), json!(0));
    assert_eq!(bench.result(&run).await, json!(["done"]));
}

async fn of_updates_at_once_one_is_taken_by_a_task_that_takes_one(bench: Bench) {
    bench.define("review", REVIEW);
    for _ in 0..5 {
        let run = bench.start("review", json!({})).await;
        let offers = (0..8).map(|n| {
            let data = json!({"ok": true, "n": n});
            offer(&bench, &run, update("approve", &n.to_string(), data))
        });
        let mut taken = 0;
        for status in futures::future::join_all(offers).await {
            match status {
                Ok(status) => {
                    result(status);
                    taken += 1;
                }
                Err(EngineError::Closed { .. } | EngineError::UpdateRejected(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(taken, 1);
        bench.result(&run).await;
        let kinds = bench.kinds(&run).await;
        let accepted = kinds
            .iter()
            .filter(|kind| *kind == "WorkflowExecutionUpdateAccepted");
        assert_eq!(accepted.count(), 1);
    }
}

async fn more_than_may_be_under_way_are_refused_at_once(mut bench: Bench) {
    const UNDER_WAY: usize = 10;
    // One task more than that, each of which works on one at a time.
    let work = WORK.trim().strip_prefix("- l: ").unwrap();
    let branches: Vec<_> = (0..=UNDER_WAY)
        .map(|n| format!("{{b{n}: {work}}}"))
        .collect();
    let branches = branches.join(", ");
    bench.define(
        "wide",
        &format!("  - all: {{fork: {{branches: [{branches}]}}}}\n"),
    );
    let run = bench.start("wide", json!({})).await;
    let job = |n: usize| update("job", &n.to_string(), json!(n));
    let mut last = None;
    for n in 1..=UNDER_WAY {
        accepted(&bench, &run, job(n)).await;
        last = Some(bench.attempt().await);
    }
    let asked = Instant::now();
    let more = job(UNDER_WAY + 1);
    let refused = bench.engine().update(&run, more.clone(), Duration::ZERO);
    let refused = refused.await;
    assert!(
        matches!(refused, Err(EngineError::LimitReached(_))),
        "{refused:?}"
    );
    // Not after as many tries as an overloaded cluster gets.
    assert!(asked.elapsed() < Duration::from_secs(10));
    last.unwrap().end(Ok(json!("done")));
    let ended = UNDER_WAY.to_string();
    let ended = bench.engine().update_result(&run, &ended, PATIENCE).await;
    assert_eq!(result(ended.unwrap()), "done");
    accepted(&bench, &run, more).await;
    bench.attempt().await;
    bench.engine().terminate(&run, "done").await.unwrap();
}

async fn an_update_comes_after_what_was_there_before_it(mut bench: Bench) {
    bench.define(
        "opens",
        &format!("  - o: {{listen: {{to: {{one: {{with: {{type: open}}}}}}}}}}\n{REVIEW}"),
    );
    let run = bench.start("opens", json!({})).await;
    let approve = |id: &str| update("approve", id, json!({"ok": true}));
    let early = offer(&bench, &run, approve("early")).await;
    assert!(
        matches!(early, Err(EngineError::UpdateRejected(_))),
        "{early:?}"
    );
    let open = update("open", "o", json!(null));
    bench.engine().signal(&run, open).await.unwrap();
    let taken = offer(&bench, &run, approve("u")).await.unwrap();
    assert_eq!(result(taken), json!({"by": null}));
    bench.restart().await;
    assert_eq!(bench.result(&run).await, json!([{"ok": true}]));
}

async fn an_update_fails_as_its_tasks_do(mut bench: Bench) {
    bench.define("work", WORK);
    let run = bench.start("work", json!({})).await;
    accepted(&bench, &run, update("job", "u", json!(7))).await;
    let attempt = bench.attempt().await;
    attempt.end(Err(Failure::permanent("broken", "it broke")));
    let status = bench.engine().update_result(&run, "u", PATIENCE).await;
    let failure = status.unwrap().outcome.unwrap().unwrap_err();
    assert!(format!("{failure:?}").contains("it broke"), "{failure:?}");
    assert_eq!(bench.end(&run).await.status, ExecutionStatus::Failed);
    let event = bench
        .until_event(&run, "WorkflowExecutionUpdateCompleted")
        .await;
    assert!(event.attributes["failure"].is_object(), "{event:?}");
}

async fn an_update_whose_run_is_terminated_is_unfinished(mut bench: Bench) {
    bench.define("work", WORK);
    let run = bench.start("work", json!({})).await;
    let job = || update("job", "u", json!(7));
    accepted(&bench, &run, job()).await;
    let _attempt = bench.attempt().await;
    let (waiting, ended) = tokio::join!(
        bench.engine().update_result(&run, "u", PATIENCE),
        bench.engine().terminate(&run, "enough"),
    );
    ended.unwrap();
    let unfinished = |status: UpdateStatus| status.outcome.unwrap().unwrap_err().kind;
    assert_eq!(unfinished(waiting.unwrap()), kind::UPDATE_UNFINISHED);
    let again = offer(&bench, &run, job()).await.unwrap();
    assert_eq!(unfinished(again), kind::UPDATE_UNFINISHED);
}

async fn malformed_updates_are_refused(bench: Bench) {
    bench.define("review", REVIEW);
    let run_ = bench.start("review", json!({})).await;
    let large = offer(
        &bench,
        &run_,
        update("a", "u", json!("x".repeat(FOREIGN_LIMIT))),
    )
    .await;
    assert!(
        matches!(large, Err(EngineError::TooLarge { .. })),
        "{large:?}"
    );
    for name in ["", "__a"] {
        let unnamed = offer(&bench, &run_, update(name, "u", json!(1))).await;
        assert!(
            matches!(unnamed, Err(EngineError::Invalid(_))),
            "{unnamed:?}"
        );
    }
    let nobody = offer(&bench, &run("nobody"), update("a", "u", json!(1))).await;
    assert!(
        matches!(nobody, Err(EngineError::NotFound { .. })),
        "{nobody:?}"
    );
    let unknown = bench
        .engine()
        .update_result(&run("nobody"), "u", Duration::ZERO)
        .await;
    assert!(
        matches!(unknown, Err(EngineError::NotFound { .. })),
        "{unknown:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_worker_is_an_update_is_not_taken_and_may_be_sent_again() {
    let Some(mut bench) = Bench::temporal().await else {
        return;
    };
    bench.define("review", REVIEW);
    let run = bench.start("review", json!({})).await;
    bench.leave_to_others().await;
    let approve = || update("approve", "u", json!({"ok": true}));
    let refused = offer(&bench, &run, approve()).await;
    let Err(EngineError::Unavailable { message, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(message.contains("same id"), "{message}");
}

/// The embedded engine counts as `heyday_durable`'s own tests show: 2,000 of them take a while.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_run_takes_in_all_are_refused_at_once() {
    let Some((address, namespace, access)) = cluster::namespace_with_few_updates() else {
        return;
    };
    let bench = Bench::temporal_by(address, namespace, access).await;
    // Within a timeout it cannot go on as another run, which would take as many again.
    bench.define(
        "counter",
        "  - hub: {listen: {to: {any: [{with: {type: add}}], until: {one: {with: {type: stop}}}}}, timeout: {after: PT1H}, metadata: {heyday: {update: {answer: {n: '${ . }'}}}}}\n",
    );
    let run = bench.start("counter", json!({})).await;
    let add = |n: usize| offer(&bench, &run, update("add", &n.to_string(), json!(n)));
    for n in 0..FEW_UPDATES {
        assert_eq!(result(add(n).await.unwrap()), json!({ "n": n }));
    }
    let asked = Instant::now();
    let refused = add(FEW_UPDATES).await;
    let Err(EngineError::LimitReached(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("total number of distinct updates"), "{why}");
    // Not after as many tries as an overloaded cluster gets.
    assert!(asked.elapsed() < Duration::from_secs(10));
    // Those that it took are answered as before, and the run goes on.
    assert_eq!(result(add(0).await.unwrap()), json!({"n": 0}));
    let stop = update("stop", "s", json!(null));
    bench.engine().signal(&run, stop).await.unwrap();
    assert_eq!(bench.end(&run).await.status, ExecutionStatus::Completed);
}
