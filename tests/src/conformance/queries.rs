//! Queries: what can be asked of runs, open and ended.

use heyday_durable::driver::{METADATA_QUERY, STATE_QUERY};
use heyday_durable::engine::{EngineError, RunDescription, RunRef};
use heyday_durable::payload::Payload;
use heyday_durable::signal::Signal;
use serde_json::{Value, json};

use super::bench::{Bench, run};

on_both!(
    a_query_sees_open_runs_and_ended_ones,
    a_flow_answers_the_queries_that_it_declares,
    what_cannot_be_answered_is_an_error_that_says_why,
    a_query_has_limits,
    temporals_tools_are_told_where_a_run_stands,
    a_description_says_what_listens_and_what_waits,
);

/// Holds its input's `n` in the context, and waits for `go`.
const HOLDS: &str = "  - c: {set: {a: '${ .n }'}, export: {as: {n: '${ .a }'}}}\n  - l: {listen: {to: {one: {with: {type: go}}}}}\n";

async fn ask(bench: &Bench, run: &RunRef, name: &str) -> Result<Value, EngineError> {
    let answer = bench.engine().query(run, name, Payload::null()).await;
    answer.map(|answer| answer.to_json().unwrap())
}

async fn send(bench: &Bench, run: &RunRef, name: &str) {
    let signal = Signal::new(name, name, Payload::null());
    bench.engine().signal(run, signal).await.unwrap();
}

async fn a_query_sees_open_runs_and_ended_ones(mut bench: Bench) {
    bench.define("holds", HOLDS);
    let run = bench.start("holds", json!({"n": 5})).await;
    for _ in 0..2 {
        let state = ask(&bench, &run, STATE_QUERY).await.unwrap();
        assert_eq!(state["context"], json!({"n": 5}));
        assert_eq!(state["listening"][0]["signals"], json!(["go"]));
        assert_eq!(state["tasks"], json!(["/do/1/l"]));
        bench.restart().await;
    }
    send(&bench, &run, "other").await;
    let state = ask(&bench, &run, STATE_QUERY).await.unwrap();
    let [waiting] = &state["signals"].as_array().unwrap()[..] else {
        panic!("{state}");
    };
    assert_eq!(
        (&waiting["name"], &waiting["id"]),
        (&json!("other"), &json!("other"))
    );
    send(&bench, &run, "go").await;
    bench.result(&run).await;
    let events = bench.kinds(&run).await;
    for _ in 0..2 {
        let state = ask(&bench, &run, STATE_QUERY).await.unwrap();
        assert_eq!(state["tasks"], json!([]));
        assert_eq!(state["context"], json!({"n": 5}));
        bench.restart().await;
    }
    // Nothing was added by asking.
    assert_eq!(bench.kinds(&run).await, events);
    let terminated = bench.start("holds", json!({"n": 6})).await;
    let begun = async || ask(&bench, &terminated, STATE_QUERY).await.is_ok();
    bench.until("it has begun", begun).await;
    let engine = bench.engine();
    engine.terminate(&terminated, "enough").await.unwrap();
    let state = ask(&bench, &terminated, STATE_QUERY).await.unwrap();
    assert_eq!(state["context"], json!({"n": 6}));
}

async fn a_flow_answers_the_queries_that_it_declares(bench: Bench) {
    bench.define_about(
        "holds",
        ", metadata: {heyday: {queries: {progress: {at: '${ .context.n }', asked: '${ .arguments.by }'}}}}",
        HOLDS,
    );
    let run = bench.start("holds", json!({"n": 5})).await;
    let arguments = Payload::json(&json!({"by": "Ada"}));
    let answer = bench.engine().query(&run, "progress", arguments).await;
    assert_eq!(
        answer.unwrap().to_json().unwrap(),
        json!({"at": 5, "asked": "Ada"})
    );
}

async fn what_cannot_be_answered_is_an_error_that_says_why(bench: Bench) {
    bench.define("holds", HOLDS);
    let open = bench.start("holds", json!({"n": 5})).await;
    for name in ["progress", "__stack_trace"] {
        match ask(&bench, &open, name).await {
            Err(EngineError::QueryFailed(message)) => {
                assert!(message.contains(STATE_QUERY), "{message}");
                assert!(message.contains(name), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    let nobody = ask(&bench, &run("nobody"), STATE_QUERY).await;
    assert!(
        matches!(nobody, Err(EngineError::NotFound { .. })),
        "{nobody:?}"
    );
}

async fn a_query_has_limits(bench: Bench) {
    bench.define(
        "big",
        "  - a: {call: t.big, with: {n: '${ .n }'}, export: {as: .}}\n  - l: {listen: {to: {one: {with: {type: go}}}}}\n",
    );
    let run = bench.start("big", json!({"n": 3_000_000})).await;
    // A description says what listens all the same.
    bench.until_listening(&run).await;
    match ask(&bench, &run, STATE_QUERY).await {
        Err(EngineError::TooLarge { what, size, .. }) => {
            assert_eq!(what, "the query's answer");
            assert!(size > 3_000_000, "{size}");
        }
        other => panic!("{:?}", other.map(|_| "an answer")),
    }
    let arguments = Payload::json(&json!("x".repeat(3_000_000)));
    let refused = bench.engine().query(&run, STATE_QUERY, arguments).await;
    assert!(
        matches!(refused, Err(EngineError::TooLarge { .. })),
        "{refused:?}"
    );
    let text = Payload {
        data: "no JSON".into(),
        ..Payload::json(&json!(1))
    };
    let refused = bench.engine().query(&run, STATE_QUERY, text).await;
    assert!(
        matches!(refused, Err(EngineError::Invalid(_))),
        "{refused:?}"
    );
}

async fn temporals_tools_are_told_where_a_run_stands(bench: Bench) {
    bench.define("holds", HOLDS);
    let run = bench.start("holds", json!({"n": 5})).await;
    let told = ask(&bench, &run, METADATA_QUERY).await.unwrap();
    assert_eq!(told["definition"]["type"], "test.holds");
    assert_eq!(
        told["definition"]["signalDefinitions"],
        json!([{"name": "go"}])
    );
    assert_eq!(
        told["currentDetails"],
        "- `/do/1/l`: waits for signals: go\n"
    );
}

async fn a_description_says_what_listens_and_what_waits(bench: Bench) {
    bench.define(
        "takes",
        "  - l: {listen: {to: {any: [{with: {type: go}}, {with: {type: no}}]}}, metadata: {heyday: {update: {}}}}\n",
    );
    let run = bench.start("takes", json!({})).await;
    send(&bench, &run, "other").await;
    let waits = |described: &RunDescription| !described.pending_signals.is_empty();
    let described = bench.described(&run, waits).await;
    let [listening] = &described.pending_listens[..] else {
        panic!("{described:#?}");
    };
    assert_eq!(listening.task, "/do/0/l");
    assert_eq!(listening.signals, ["go", "no"]);
    assert!(listening.updates);
    let [signal] = &described.pending_signals[..] else {
        panic!("{described:#?}");
    };
    assert_eq!(
        (signal.name.as_str(), signal.id.as_str()),
        ("other", "other")
    );
    assert!(signal.received_at >= described.info.started_at);
    assert_eq!(described.pending_signal_count, 1);
    send(&bench, &run, "go").await;
    bench.result(&run).await;
    let described = bench.engine().describe(&run).await.unwrap();
    assert_eq!(described.pending_listens, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_worker_is_a_query_is_unavailable_and_a_description_says_less() {
    let Some(mut bench) = Bench::temporal().await else {
        return;
    };
    bench.define("holds", HOLDS);
    let run = bench.start("holds", json!({"n": 5})).await;
    ask(&bench, &run, STATE_QUERY).await.unwrap();
    bench.leave_to_others().await;
    let refused = ask(&bench, &run, STATE_QUERY).await;
    let Err(EngineError::Unavailable { message, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(message.contains("no worker"), "{message}");
    let described = bench.engine().describe(&run).await.unwrap();
    assert_eq!(described.pending_listens, []);
}
