//! Updates and queries: accepted or rejected, answered once, never lost.

use super::*;
use crate::driver::STATE_QUERY;
use crate::engine::UpdateStatus;
use crate::signal::Signal;

fn update(name: &str, id: &str, data: Value) -> Signal {
    Signal::new(name, id, Payload::json(&data))
}

impl Bench {
    async fn offer(&self, run: &RunRef, update: Signal) -> Result<UpdateStatus, EngineError> {
        let offered = self.engine().update(run, update, Duration::MAX);
        tokio::time::timeout(PATIENCE, offered).await.unwrap()
    }

    async fn state(&self, run: &RunRef) -> Value {
        let answer = self.engine().query(run, STATE_QUERY, Payload::null()).await;
        answer.unwrap().to_json().unwrap()
    }
}

fn result(status: UpdateStatus) -> Value {
    status.outcome.unwrap().unwrap().to_json().unwrap()
}

const REVIEW: &str = "  - l: {listen: {to: {one: {with: {type: approve, data: '${ .ok }'}}}}, metadata: {heyday: {update: {answer: {by: '${ .by }'}}}}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_answered_in_the_commit_that_takes_it() {
    let bench = Bench::new().await;
    bench.define("review", REVIEW);
    let run = bench.start("review", json!({})).await;
    let approve = || update("approve", "u", json!({"ok": true, "by": "Ada"}));
    let status = bench.offer(&run, approve()).await.unwrap();
    assert_eq!(Some(status.run_id), run.run_id);
    assert_eq!(result(status), json!({"by": "Ada"}));
    assert_eq!(bench.result(&run).await, json!([{"ok": true, "by": "Ada"}]));
    assert_eq!(bench.commits(&run).await, 2);
    let events = bench.events(&run).await;
    let kinds: Vec<_> = events[2..]
        .iter()
        .map(|event| event.event_type.as_str())
        .collect();
    assert_eq!(
        kinds,
        [
            "WorkflowExecutionUpdateAccepted",
            "WorkflowTaskCompleted",
            "WorkflowExecutionUpdateCompleted",
            "WorkflowExecutionCompleted"
        ]
    );
    // The same id again is the same update, also after the end.
    assert_eq!(
        result(bench.offer(&run, approve()).await.unwrap()),
        json!({"by": "Ada"})
    );
    let again = bench
        .engine()
        .update_result(&run, "u", Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(result(again), json!({"by": "Ada"}));
    let late = bench
        .offer(&run, update("approve", "v", json!({"ok": true})))
        .await;
    assert!(matches!(late, Err(EngineError::Closed { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_update_leaves_no_event() {
    let mut bench = Bench::with(|options| options.cached_drivers = 0).await;
    bench.define("review", REVIEW);
    let run = bench.start("review", json!({})).await;
    let before = bench.kinds(&run).await;
    for _ in 0..2 {
        for (name, data) in [
            ("approve", json!({"ok": false})),
            ("other", json!({"ok": true})),
        ] {
            match bench.offer(&run, update(name, "u", data)).await {
                Err(EngineError::UpdateRejected(failure)) => {
                    assert_eq!(failure.kind, kind::UPDATE_REJECTED);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(bench.kinds(&run).await, before);
        bench.crash().await;
    }
    // The id was not used up.
    let taken = bench
        .offer(&run, update("approve", "u", json!({"ok": true})))
        .await;
    assert_eq!(result(taken.unwrap()), json!({"by": null}));
    let unknown = bench
        .engine()
        .update_result(&run, "w", Duration::ZERO)
        .await;
    assert!(matches!(unknown, Err(EngineError::NoSuchUpdate { .. })));
}

const WORK: &str = "  - l: {listen: {to: {any: [{with: {type: job}}], until: {one: {with: {type: stop}}}}}, foreach: {do: [{a: {call: t.hand, with: {n: '${ . }'}}}], output: {as: .}}, metadata: {heyday: {update: {}}}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_update_under_way_survives_a_crash() {
    let mut bench = Bench::new().await;
    bench.define("work", WORK);
    let run = bench.start("work", json!({})).await;
    let job = || update("job", "u", json!(7));
    let accepted = bench
        .engine()
        .update(&run, job(), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(accepted.outcome, None);
    bench.attempt().await;
    bench.crash().await;
    bench.until_event(&run, "ActivityTaskFailed").await;
    bench.clock.advance(Duration::from_secs(1));
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.input.to_json().unwrap(), json!({"n": 7}));
    // Whoever asks again waits for the same update.
    let (again, told, ()) = tokio::join!(
        bench.offer(&run, job()),
        bench.engine().update_result(&run, "u", PATIENCE),
        async { attempt.end(Ok(json!("done"))) },
    );
    assert_eq!(result(again.unwrap()), json!("done"));
    assert_eq!(result(told.unwrap()), json!("done"));
    assert_eq!(bench.begun("t.hand"), 2);
    let stop = bench.offer(&run, update("stop", "s", json!(0))).await;
    assert_eq!(result(stop.unwrap()), json!(0));
    assert_eq!(bench.result(&run).await, json!(["done"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_sees_open_evicted_and_ended_runs() {
    let mut bench = Bench::with(|options| options.cached_drivers = 0).await;
    bench.define(
        "work",
        "  - c: {set: {a: '${ .n }'}, export: {as: {n: '${ .a }'}}}\n  - l: {listen: {to: {one: {with: {type: go}}}}}\n",
    );
    let run = bench.start("work", json!({"n": 5})).await;
    for _ in 0..2 {
        let state = bench.state(&run).await;
        assert_eq!(state["context"], json!({"n": 5}));
        assert_eq!(state["listening"][0]["signals"], json!(["go"]));
        assert_eq!(state["tasks"], json!(["/do/1/l"]));
        bench.crash().await;
    }
    let length = bench.events(&run).await.len();
    bench
        .engine()
        .signal(&run, Signal::new("other", "o", Payload::null()))
        .await
        .unwrap();
    assert_eq!(
        bench.state(&run).await["signals"],
        json!([{"name": "other", "id": "o", "time": "2027-01-15T08:00:00Z"}])
    );
    bench
        .engine()
        .signal(&run, Signal::new("go", "g", Payload::null()))
        .await
        .unwrap();
    bench.result(&run).await;
    let state = bench.state(&run).await;
    assert_eq!(
        (&state["tasks"], &state["context"]),
        (&json!([]), &json!({"n": 5}))
    );
    // Nothing was added by asking.
    assert_eq!(bench.events(&run).await.len(), length + 4);
    match bench
        .engine()
        .query(&run, "progress", Payload::null())
        .await
    {
        Err(EngineError::QueryFailed(message)) => {
            assert!(message.contains(STATE_QUERY), "{message}")
        }
        other => panic!("{other:?}"),
    }
    let terminated = bench.start("work", json!({"n": 6})).await;
    bench
        .engine()
        .terminate(&terminated, "enough")
        .await
        .unwrap();
    assert_eq!(bench.state(&terminated).await["context"], json!({"n": 6}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_has_limits_and_says_when_it_cannot_be_answered() {
    let bench = Bench::new().await;
    bench.define(
        "big",
        "  - a: {call: t.big, with: {n: '${ .n }'}, export: {as: .}}\n  - w: {wait: PT1H}\n",
    );
    bench.define("needs", "  - b: {set: {got: '${ .v }'}}\n");
    let run = bench.start("big", json!({"n": 3_000_000})).await;
    bench.until_event(&run, "TimerStarted").await;
    let answer = bench
        .engine()
        .query(&run, STATE_QUERY, Payload::null())
        .await;
    assert!(
        matches!(answer, Err(EngineError::TooLarge { .. })),
        "{answer:?}"
    );
    let arguments = Payload::json(&json!("x".repeat(3_000_000)));
    let answer = bench.engine().query(&run, STATE_QUERY, arguments).await;
    assert!(
        matches!(answer, Err(EngineError::TooLarge { .. })),
        "{answer:?}"
    );
    bench.away.store(true, Ordering::SeqCst);
    let stuck = bench.start("needs", json!({"v": 1})).await;
    let answer = bench
        .engine()
        .query(&stuck, STATE_QUERY, Payload::null())
        .await;
    assert!(
        matches!(answer, Err(EngineError::Unavailable { .. })),
        "{answer:?}"
    );
    let offered = bench.offer(&stuck, update("a", "u", json!(1))).await;
    assert!(
        matches!(offered, Err(EngineError::Unavailable { .. })),
        "{offered:?}"
    );
}
