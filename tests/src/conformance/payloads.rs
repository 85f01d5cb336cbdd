//! Values that are large.

use heyday_durable::engine::ExecutionStatus;
use serde_json::json;

use super::bench::Bench;

on_both!(
    large_values_go_by_reference_between_steps,
    a_result_stays_inline_and_has_a_limit,
);

async fn large_values_go_by_reference_between_steps(bench: Bench) {
    bench.define(
        "large",
        "  - made: {call: t.big, with: {n: 3000000}}\n  - measured: {call: t.length, with: {text: '${ . }'}}\n",
    );
    let run = bench
        .start("large", json!({"text": "y".repeat(600_000)}))
        .await;
    assert_eq!(bench.result(&run).await, json!(3_000_000));
    // The input, the result, and the input of the second step.
    assert_eq!(bench.payloads.len(), 3);
    let events = bench.events(&run).await;
    let started = &events[0].attributes["input"];
    assert_eq!(started["encoding"], "heyday/blob-ref");
    assert!(started["size"].as_u64().unwrap() > 600_000, "{started}");
}

async fn a_result_stays_inline_and_has_a_limit(bench: Bench) {
    bench.define("big", "  - a: {call: t.big, with: {n: '${ .n }'}}\n");
    let run = bench.start("big", json!({"n": 1_000_000})).await;
    let text = bench.result(&run).await;
    assert_eq!(text.as_str().unwrap().len(), 1_000_000);
    let run = bench.start("big", json!({"n": 3_000_000})).await;
    let end = bench.end(&run).await;
    assert_eq!(end.status, ExecutionStatus::Failed);
    let failure = format!("{:?}", end.outcome);
    assert!(failure.contains("write it to a blob"), "{failure}");
}
