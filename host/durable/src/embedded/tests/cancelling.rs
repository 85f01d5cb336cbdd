//! Cancel and terminate.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_asks_the_attempt_and_ends_the_run_canceled() {
    let mut bench = Bench::new().await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    bench.engine().cancel(&run, "enough").await.unwrap();
    // Asking again changes nothing.
    bench.engine().cancel(&run, "again").await.unwrap();
    attempt.context.cancellation.cancelled().await;
    assert_eq!(attempt.context.reason.get(), Some(&CancelReason::Requested));
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
    assert!(kinds.contains(&"ActivityTaskCanceled".to_owned()));
    let refused = bench.engine().cancel(&run, "late").await.unwrap_err();
    assert!(matches!(refused, EngineError::Closed { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_attempt_and_a_backoff_end_at_once_by_a_cancel() {
    let mut bench = Bench::new().await;
    bench.define(
        "narrow",
        "  - a: {call: t.hand, metadata: {heyday: {queue: narrow}}}\n",
    );
    let holder = bench.start("narrow", json!({})).await;
    let held = bench.attempt().await;
    let queued = bench.start("narrow", json!({})).await;
    bench.engine().cancel(&queued, "enough").await.unwrap();
    assert_eq!(bench.end(&queued).await.status, ExecutionStatus::Canceled);
    held.end(Err(Failure::transient("x", "again")));
    bench.until_event(&holder, "ActivityTaskFailed").await;
    bench.engine().cancel(&holder, "enough").await.unwrap();
    assert_eq!(bench.end(&holder).await.status, ExecutionStatus::Canceled);
    assert_eq!(bench.begun("t.hand"), 1);
    let queues = bench.engine().queues();
    assert!(
        queues
            .iter()
            .all(|queue| queue.in_flight + queue.backlog == 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_attempt_that_was_lost_is_not_repeated() {
    let mut bench = Bench::new().await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    bench.attempt().await;
    bench.engine().cancel(&run, "enough").await.unwrap();
    bench.crash().await;
    assert_eq!(bench.end(&run).await.status, ExecutionStatus::Canceled);
    assert_eq!(bench.begun("t.hand"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn terminate_asks_nobody() {
    let mut bench = Bench::new().await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    bench.engine().terminate(&run, "now").await.unwrap();
    attempt.context.cancellation.cancelled().await;
    assert_eq!(attempt.context.reason.get(), Some(&CancelReason::RunClosed));
    let result = bench.end(&run).await;
    assert_eq!(result.status, ExecutionStatus::Terminated);
    assert_eq!(result.outcome.unwrap_err().message, "now");
    attempt.end(Ok(json!("nobody reads this")));
    bench
        .until("the slot is free", async || {
            bench
                .engine()
                .queues()
                .iter()
                .all(|queue| queue.in_flight == 0)
        })
        .await;
    bench.crash().await;
    assert_eq!(bench.end(&run).await.status, ExecutionStatus::Terminated);
    let refused = bench.engine().terminate(&run, "again").await.unwrap_err();
    assert!(matches!(refused, EngineError::Closed { .. }), "{refused}");
}
