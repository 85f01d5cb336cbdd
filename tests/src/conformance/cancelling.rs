//! Cancel and terminate.

use heyday_durable::activity::CancelReason;
use heyday_durable::engine::{EngineError, ExecutionStatus};
use heyday_durable::failure::{Failure, kind};
use serde_json::json;

use super::bench::Bench;

on_both!(
    a_cancel_asks_the_attempt_and_ends_the_run_canceled,
    a_flow_may_clean_up_after_a_cancel,
    a_backoff_ends_at_once_by_a_cancel,
    terminate_asks_nobody,
    the_loser_of_a_race_is_asked_to_stop,
);

async fn a_cancel_asks_the_attempt_and_ends_the_run_canceled(mut bench: Bench) {
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    bench.engine().cancel(&run, "enough").await.unwrap();
    // Asking again changes nothing.
    bench.engine().cancel(&run, "again").await.unwrap();
    attempt.stopped().await;
    assert_eq!(attempt.context.reason.get(), Some(&CancelReason::Requested));
    assert_eq!(attempt.told(), Some("cancel-requested"));
    attempt.end(Err(Failure::permanent(kind::CANCELLED, "stopped")));
    let result = bench.end(&run).await;
    assert_eq!(result.status, ExecutionStatus::Canceled);
    let failure = result.outcome.unwrap_err();
    assert_eq!(
        (failure.kind.as_str(), failure.message.as_str()),
        ("cancelled", "enough")
    );
    let kinds = bench.kinds(&run).await;
    let asked = kinds
        .iter()
        .filter(|kind| *kind == "WorkflowExecutionCancelRequested");
    assert_eq!(asked.count(), 1);
    let cancelled = bench.until_event(&run, "ActivityTaskCanceled").await;
    assert_eq!(cancelled.attributes["failure"]["message"], "stopped");
    assert_eq!(cancelled.attributes["receipt"], json!({"cpu_us": 7}));
    let refused = bench.engine().cancel(&run, "late").await.unwrap_err();
    assert!(matches!(refused, EngineError::Closed { .. }), "{refused}");
}

async fn a_flow_may_clean_up_after_a_cancel(mut bench: Bench) {
    bench.define(
        "cleans",
        "  - t: {try: [{w: {wait: PT1H}}], catch: {errors: {with: {type: 'urn:heyday:errors:cancelled'}}, do: [{c: {call: t.hand}}]}}\n",
    );
    let run = bench.start("cleans", json!({})).await;
    bench.until_event(&run, "TimerStarted").await;
    bench.engine().cancel(&run, "enough").await.unwrap();
    let attempt = bench.attempt().await;
    assert!(!attempt.context.cancellation.is_cancelled());
    attempt.end(Ok(json!(1)));
    assert_eq!(bench.end(&run).await.status, ExecutionStatus::Canceled);
    let kinds = bench.kinds(&run).await;
    assert!(kinds.contains(&"TimerCanceled".to_owned()), "{kinds:?}");
}

async fn a_backoff_ends_at_once_by_a_cancel(mut bench: Bench) {
    bench.define(
        "backs-off",
        "  - a: {call: t.hand, metadata: {heyday: {retry: {initial_interval: PT1H, maximum_interval: PT1H}}}}\n",
    );
    let run = bench.start("backs-off", json!({})).await;
    bench.attempt().await.end(Err(Failure::transient("x", "1")));
    bench
        .until("it backs off", async || {
            let description = bench.engine().describe(&run).await.unwrap();
            description
                .pending_activities
                .first()
                .is_some_and(|one| one.state == heyday_durable::engine::PendingState::BackingOff)
        })
        .await;
    bench.engine().cancel(&run, "enough").await.unwrap();
    assert_eq!(bench.end(&run).await.status, ExecutionStatus::Canceled);
    assert_eq!(bench.begun("t.hand"), 1);
}

async fn terminate_asks_nobody(mut bench: Bench) {
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    bench.engine().terminate(&run, "now").await.unwrap();
    attempt.stopped().await;
    assert_eq!(attempt.context.reason.get(), Some(&CancelReason::RunClosed));
    assert_eq!(attempt.told(), None);
    let result = bench.end(&run).await;
    assert_eq!(result.status, ExecutionStatus::Terminated);
    let failure = result.outcome.unwrap_err();
    assert_eq!(
        (failure.kind.as_str(), failure.message.as_str()),
        ("terminated", "now")
    );
    attempt.end(Ok(json!("nobody reads this")));
    bench
        .until("the slot is free", async || {
            let queues = bench.engine().queues();
            queues.iter().all(|queue| queue.in_flight == 0)
        })
        .await;
    let refused = bench.engine().terminate(&run, "again").await.unwrap_err();
    assert!(matches!(refused, EngineError::Closed { .. }), "{refused}");
}

async fn the_loser_of_a_race_is_asked_to_stop(mut bench: Bench) {
    bench.define(
        "race",
        "  - r: {fork: {compete: true, branches: [{a: {call: t.hand}}, {b: {call: t.hand2}}]}}\n",
    );
    let run = bench.start("race", json!({})).await;
    let (one, two) = (bench.attempt().await, bench.attempt().await);
    let (winner, loser) = if one.task.activity_type == "t.hand" {
        (one, two)
    } else {
        (two, one)
    };
    winner.end(Ok(json!("won")));
    loser.stopped().await;
    assert_eq!(loser.told(), Some("cancel-requested"));
    loser.obey().await;
    assert_eq!(bench.result(&run).await, json!("won"));
}
