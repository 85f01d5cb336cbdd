//! Values that are large.

use heyday_durable::driver::STATE_QUERY;
use heyday_durable::engine::{
    EngineError, ExecutionStatus, IdConflictPolicy, MEMO_LIMIT, RunRef, StartWorkflow,
};
use heyday_durable::failure::kind;
use heyday_durable::payload::{FOREIGN_LIMIT, Payload};
use heyday_durable::signal::Signal;
use serde_json::{Value, json};

use super::bench::{Bench, PATIENCE, run};
use super::children::child_of;

on_both!(
    large_values_go_by_reference_between_steps,
    large_values_go_by_reference_to_children,
    many_values_at_once_are_not_too_many,
    a_result_stays_inline_and_has_a_limit,
    a_signal_a_result_and_a_query_go_up_to_the_limit,
    an_update_and_its_answer_go_up_to_the_limit,
    a_memo_goes_up_to_the_limit,
);

/// A text that nearly fills what may go to and come from foreign code; a little is left
/// for what is said around it.
fn full() -> Value {
    json!("x".repeat(FOREIGN_LIMIT - 2_000))
}

fn event(name: &str, data: &Value) -> Signal {
    Signal::new(name, name, Payload::json(data))
}

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

async fn large_values_go_by_reference_to_children(bench: Bench) {
    bench.define(
        "child",
        "  - read: {call: t.length, with: {text: '${ .text }'}}\n  - made: {call: t.big, with: {n: 1000000}}\n",
    );
    bench.define(
        "parent",
        "  - c: {run: {workflow: {namespace: test, name: child, version: latest, input: {text: '${ .text }', more: 1}}}}\n  - measured: {call: t.length, with: {text: '${ . }'}}\n",
    );
    let parent = bench
        .start("parent", json!({"text": "y".repeat(600_000)}))
        .await;
    assert_eq!(bench.result(&parent).await, json!(1_000_000));
    let child = child_of(&bench, &parent).await;
    // The parent's input, which the child's first step has too; the child's; what the child
    // made; and the input of the parent's second step.
    assert_eq!(bench.payloads.len(), 4);
    let of = async |run: &RunRef, kind: &str, name: &str| {
        let events = bench.events(run).await;
        let event = events.into_iter().find(|event| event.event_type == kind);
        event.unwrap().attributes[name].clone()
    };
    for (run, kind) in [
        (&parent, "StartChildWorkflowExecutionInitiated"),
        (&child, "WorkflowExecutionStarted"),
    ] {
        let input = of(run, kind, "input").await;
        assert_eq!(input["encoding"], "heyday/blob-ref", "{kind}");
        assert!(input["size"].as_u64() > Some(600_000), "{input}");
    }
    // A run's own result anybody may ask for.
    let result = of(&child, "WorkflowExecutionCompleted", "result").await;
    assert_eq!(result["encoding"], "json/plain", "{result}");
    assert!(bench.result(&child).await == json!("x".repeat(1_000_000)));
}

async fn many_values_at_once_are_not_too_many(bench: Bench) {
    // Each of them is small, and together they have more than a cluster takes.
    let branches: Vec<String> = (0..25)
        .map(|n| format!("{{b{n}: {{call: t.length, with: {{text: '${{ .text }}'}}}}}}"))
        .collect();
    let branches = branches.join(", ");
    bench.define(
        "wide",
        &format!("  - all: {{fork: {{branches: [{branches}]}}}}\n"),
    );
    let run = bench
        .start("wide", json!({"text": "y".repeat(200_000)}))
        .await;
    assert_eq!(bench.result(&run).await, json!(vec![200_000; 25]));
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

async fn a_signal_a_result_and_a_query_go_up_to_the_limit(bench: Bench) {
    bench.define(
        "takes",
        "  - l: {listen: {to: {one: {with: {type: take}}}}, export: {as: .}}\n",
    );
    // Under a key it travels with the start.
    let keyed = StartWorkflow {
        idempotency_key: Some("key".to_owned()),
        id_conflict_policy: IdConflictPolicy::UseExisting,
        signal: Some(event("take", &full())),
        ..bench.request("takes", "keyed", json!({}))
    };
    bench.engine().start(keyed).await.unwrap();
    assert!(bench.result(&run("keyed")).await == json!([full()]));
    let run = bench.start("takes", json!({})).await;
    let above = event("take", &json!("x".repeat(FOREIGN_LIMIT)));
    let refused = bench.engine().signal(&run, above).await;
    assert!(
        matches!(refused, Err(EngineError::TooLarge { .. })),
        "{refused:?}"
    );
    let signal = event("take", &full());
    bench.engine().signal(&run, signal).await.unwrap();
    assert!(bench.result(&run).await == json!([full()]));
    let state = bench.engine().query(&run, STATE_QUERY, Payload::null());
    let state = state.await.unwrap().to_json().unwrap();
    assert!(state["context"] == json!([full()]));
    // Inline on both: anyone may read the history.
    assert_eq!(bench.payloads.len(), 0);
}

async fn an_update_and_its_answer_go_up_to_the_limit(bench: Bench) {
    bench.define(
        "makes",
        "  - l: {listen: {to: {any: [{with: {type: make}}], until: {one: {with: {type: stop}}}}}, foreach: {do: [{a: {call: t.big, with: {n: '${ .n }'}}}], output: {as: .}}, metadata: {heyday: {update: {}}}}\n",
    );
    let run = bench.start("makes", json!({})).await;
    let make = async |id: &str, data: Value| {
        let update = Signal {
            id: id.to_owned(),
            ..event("make", &data)
        };
        let status = bench.engine().update(&run, update, PATIENCE).await;
        let outcome = status.unwrap().outcome.unwrap();
        outcome.map(|answer| answer.to_json().unwrap())
    };
    let n = full().as_str().unwrap().len();
    assert!(make("out", json!({"n": n})).await.unwrap() == full());
    let above = make("above", json!({"n": 3_000_000})).await.unwrap_err();
    assert_eq!(above.kind, kind::LIMIT_EXCEEDED, "{above}");
    assert!(above.message.contains("write it to a blob"), "{above}");
    let answer = make("in", json!({"n": 3, "more": full()})).await.unwrap();
    assert_eq!(answer, "xxx");
}

async fn a_memo_goes_up_to_the_limit(bench: Bench) {
    bench.define("noted", "  - a: {set: {x: 1}}\n");
    let note = |length: usize| json!("m".repeat(length));
    let noted = |id: &str, length: usize| StartWorkflow {
        memo: [("note".to_owned(), Payload::json(&note(length)))].into(),
        ..bench.request("noted", id, json!({}))
    };
    // Its name and what is around it count too.
    let refused = bench.engine().start(noted("above", MEMO_LIMIT - 60)).await;
    assert!(
        matches!(refused, Err(EngineError::TooLarge { .. })),
        "{refused:?}"
    );
    let most = MEMO_LIMIT - 80;
    let signalled = StartWorkflow {
        signal: Some(event("take", &full())),
        ..noted("above", most)
    };
    let refused = bench.engine().start(signalled).await;
    assert!(
        matches!(refused, Err(EngineError::TooLarge { .. })),
        "{refused:?}"
    );
    bench.engine().start(noted("most", most)).await.unwrap();
    assert_eq!(bench.result(&run("most")).await, json!({"x": 1}));
    let described = bench.engine().describe(&run("most")).await.unwrap();
    assert!(described.memo["note"].to_json().unwrap() == note(most));
}
