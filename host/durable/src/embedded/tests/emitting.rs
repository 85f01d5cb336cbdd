//! Events that flows emit, and runs that they reach.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stands_in_the_history() {
    let bench = Bench::new().await;
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
    assert_eq!(
        event.attributes,
        json!({"marker_name": "heyday.emit", "event": output, "task": "/do/0/e"})
    );
    assert_eq!(bench.commits(&run).await, 1);
}

const TELLS: &str = "  - e: {emit: {event: {with: {source: 'urn:x', type: made, data: '${ .n }'}}}, metadata: {heyday: {to: '${ .to }'}}}\n  - w: {wait: PT1H}\n";
const HEARS: &str = "  - l: {listen: {to: {one: {with: {type: made}}}, read: envelope}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_the_runs_that_are_named() {
    let bench = Bench::with(|options| options.cached_drivers = 0).await;
    bench.define("tells", TELLS);
    bench.define("hears", HEARS);
    let hearing = [
        bench.start_as("hears", "one", json!({})).await,
        bench.start_as("hears", "two", json!({})).await,
    ];
    let telling = bench
        .start("tells", json!({"n": 5, "to": ["one", "two"]}))
        .await;
    bench.until_event(&telling, "TimerStarted").await;
    for run in &hearing {
        let heard = bench.result(run).await;
        assert_eq!(
            (&heard[0]["data"], &heard[0]["source"]),
            (&json!(5), &json!("urn:x"))
        );
    }
    let kinds = bench.kinds(&telling).await;
    let signaled = kinds
        .iter()
        .filter(|kind| *kind == "ExternalWorkflowExecutionSignaled");
    assert_eq!(signaled.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_that_is_not_open_is_an_error_of_the_flow() {
    let bench = Bench::new().await;
    bench.define("tells", TELLS);
    bench.define("short", "  - a: {set: {x: 1}}\n");
    bench
        .end(&bench.start_as("short", "over", json!({})).await)
        .await;
    for to in ["nobody", "over"] {
        let run = bench.start("tells", json!({"n": 1, "to": to})).await;
        let failure = bench.failure(&run).await;
        assert!(format!("{failure:?}").contains("is open"), "{failure:?}");
        bench
            .until_event(&run, "SignalExternalWorkflowExecutionFailed")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_for_oneself_waits_until_one_listens() {
    let bench = Bench::new().await;
    bench.define(
        "self",
        "  - e: {emit: {event: {with: {source: s, type: made}}}, metadata: {heyday: {to: me}}}\n  - l: {listen: {to: {one: {with: {type: made}}}, read: envelope}, output: {as: '.[0]'}}\n",
    );
    let run = bench.start_as("self", "me", json!({})).await;
    assert_eq!(bench.result(&run).await["source"], "s");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_on_its_way_survives_a_crash_and_comes_once() {
    let mut bench = Bench::new().await;
    bench.define("tells", TELLS);
    bench.define("hears", "  - l: {listen: {to: {any: [], until: '.[1]'}}}\n");
    bench.start_as("hears", "one", json!({})).await;
    let mut telling = Vec::new();
    for n in 0..20 {
        telling.push(bench.start("tells", json!({"n": n, "to": "one"})).await);
        if n % 3 == 0 {
            // Wherever they are just now.
            bench.crash().await;
        }
        if n == 1 {
            // The one that listens ends with its second event; the next one hears the rest.
            bench.until_event(&telling[1], "TimerStarted").await;
            bench.result(&run("one")).await;
            bench.define("more", "  - l: {listen: {to: {any: [], until: '.[17]'}}}\n");
            bench.start_as("more", "one", json!({})).await;
        }
    }
    for run in &telling {
        bench.until_event(run, "TimerStarted").await;
    }
    let heard = bench.result(&run("one")).await;
    let mut heard: Vec<_> = heard
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap())
        .collect();
    heard.sort_unstable();
    assert_eq!(heard, (2..20).collect::<Vec<_>>());
}
