//! Large values.

use super::*;
use crate::payload::INLINE_LIMIT;

#[tokio::test(flavor = "multi_thread")]
async fn large_values_go_by_reference_between_steps() {
    let mut bench = Bench::with(|options| options.cached_drivers = 0).await;
    bench.define(
        "big",
        "  - a: {call: t.big}\n  - b: {call: t.hand, with: {text: '${ . }'}}\n",
    );
    let size = INLINE_LIMIT + 1;
    let run = bench.start("big", json!({"n": size})).await;
    let attempt = bench.attempt().await;
    let input = attempt.task.input.to_json().unwrap();
    assert_eq!(input["text"].as_str().unwrap().len(), size);
    attempt.end(Ok(json!("ok")));
    assert_eq!(bench.result(&run).await, json!("ok"));
    let events = bench.events(&run).await;
    let completed = events
        .iter()
        .find(|event| event.event_type == "ActivityTaskCompleted")
        .unwrap();
    assert_eq!(completed.attributes["result"]["size"], size + 2);
    let core = &bench.engine().core;
    let references = core.store.payload_references().await.unwrap();
    assert_eq!(references.len(), 2);
    // What histories name stays, the rest goes.
    bench.payloads.put(Bytes::from_static(b"1")).await.unwrap();
    let swept = bench.engine().sweep_payloads(Duration::ZERO).await.unwrap();
    assert_eq!(swept, 1);
    assert_eq!(lock(&bench.payloads.values).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_input_is_stored_and_resolved() {
    let bench = Bench::new().await;
    bench.define("len", "  - a: {call: t.echo, with: {x: '${ .x }'}}\n");
    let text = "y".repeat(INLINE_LIMIT);
    let run = bench.start("len", json!({"x": 1, "text": text})).await;
    assert_eq!(bench.result(&run).await, json!({"x": 1}));
    let events = bench.events(&run).await;
    assert!(events[0].attributes["input"]["digest"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_delays_and_fails_nothing() {
    let mut bench = Bench::new().await;
    bench.define(
        "big",
        "  - a: {call: t.hand}\n  - b: {call: t.echo, with: {a: '${ .x }', b: '${ .x }'}}\n",
    );
    let run = bench.start("big", json!({})).await;
    let attempt = bench.attempt().await;
    bench.payloads.away.store(true, Ordering::SeqCst);
    // Inline by itself, and twice of it is not.
    attempt.end(Ok(json!({"x": "z".repeat(INLINE_LIMIT - 100)})));
    bench.until_event(&run, "ActivityTaskCompleted").await;
    assert_eq!(bench.begun("t.echo"), 0);
    bench.payloads.away.store(false, Ordering::SeqCst);
    bench.clock.advance(Duration::from_secs(60));
    let result = bench.end(&run).await;
    assert_eq!(result.status, ExecutionStatus::Completed);
    let large = StartWorkflow {
        input: Payload::json(&json!("x".repeat(INLINE_LIMIT))),
        ..bench.request("big", "away", json!({}))
    };
    bench.payloads.away.store(true, Ordering::SeqCst);
    let refused = bench.engine().start(large).await.unwrap_err();
    assert!(
        matches!(refused, EngineError::Unavailable { .. }),
        "{refused}"
    );
}
