//! Continuing as new, where only this engine can be looked into.

use super::*;
use crate::signal::Signal;

async fn chain(bench: &Bench, first: &RunRef) -> Vec<RunRef> {
    let mut chain = vec![first.clone()];
    loop {
        let described = bench.engine().describe(chain.last().unwrap()).await;
        let Some(next) = described.unwrap().continued_as else {
            return chain;
        };
        chain.push(RunRef {
            run_id: Some(next),
            ..first.clone()
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_moment_loses_nothing() {
    let mut bench = Bench::with(|options| options.limits.history_events = 10).await;
    bench.define(
        "long",
        "  - loop: {for: {each: item, in: '${ .items }'}, do: [{a: {call: t.hand, with: {n: 1}, metadata: {heyday: {retry: {maximum_attempts: 0}}}}}]}\n  - last: {set: {all: done}}\n",
    );
    let items: Vec<u64> = (0..40).collect();
    let first = bench.start("long", json!({ "items": items })).await;
    let mut sent = Vec::new();
    let mut crashes = 0;
    let mut ended = 0;
    while bench
        .engine()
        .result(&first, Duration::ZERO)
        .await
        .unwrap()
        .is_none()
    {
        let next = tokio::time::timeout(Duration::from_millis(20), bench.attempts.recv());
        let Ok(attempt) = next.await else {
            // One that was lost is tried again.
            bench.clock.advance(Duration::from_secs(100));
            continue;
        };
        attempt.unwrap().end(Ok(json!({})));
        ended += 1;
        if ended % 3 == 0 {
            let id = format!("note {ended}");
            let note = Signal::new("note", id.as_str(), Payload::null());
            // It may be over; then the signal is refused.
            if bench.engine().signal(&run("long-0"), note).await.is_ok() {
                sent.push(id);
            }
        }
        if ended % 4 == 0 {
            crashes += 1;
            bench.crash().await;
        }
    }
    assert!(crashes >= 10, "{crashes}");
    let end = bench.end(&first).await;
    assert_eq!(
        end.outcome.unwrap().to_json().unwrap(),
        json!({"all": "done"})
    );
    let chain = chain(&bench, &first).await;
    assert!(chain.len() > 3, "{}", chain.len());
    assert_eq!(Some(end.run_id), chain.last().unwrap().run_id);
    // Each of them fits its history, none is left over, and what was acknowledged is there.
    let all = crate::engine::ListRuns {
        namespace: "default".to_owned(),
        page_size: 1_000,
        ..Default::default()
    };
    let page = bench.engine().list(&all).await.unwrap();
    assert_eq!(page.runs.len(), chain.len());
    let mut completed = 0;
    for run in &chain {
        let state = bench
            .engine()
            .query(run, crate::driver::STATE_QUERY, Payload::null());
        state.await.unwrap();
        let events = bench.events(run).await;
        let of = |kind: &str| {
            events
                .iter()
                .filter(|event| event.event_type == kind)
                .count()
        };
        completed += of("ActivityTaskCompleted");
        assert!(events.len() < 40, "{}", events.len());
    }
    assert_eq!(completed, items.len());
    let last = chain.last().unwrap();
    let state = bench
        .engine()
        .query(last, crate::driver::STATE_QUERY, Payload::null());
    let state = state.await.unwrap().to_json().unwrap();
    let waiting = state["signals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|signal| &signal["id"]);
    let waiting: Vec<_> = waiting.cloned().collect();
    assert_eq!(json!(waiting), json!(sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bytes_are_a_long_history_too() {
    let bench = Bench::new().await;
    bench.define(
        "big",
        "  - loop: {for: {each: item, in: '${ .items }'}, do: [{a: {call: t.big, with: {n: 250000}}}]}\n  - last: {set: {all: done}}\n",
    );
    let run = bench.start("big", json!({ "items": vec![0; 40] })).await;
    assert_eq!(bench.result(&run).await, json!({"all": "done"}));
    assert_eq!(chain(&bench, &run).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_signals_or_updates_are_taken_by_the_next_run() {
    let mut bench = Bench::new().await;
    bench.define(
        "hub",
        "  - hub: {listen: {to: {any: [{with: {type: add}}], until: {one: {with: {type: stop}}}}}, output: {as: {all: ok}}, metadata: {heyday: {update: {}}}}\n",
    );
    let first = bench.start("hub", json!({})).await;
    let latest = run("hub-0");
    for n in 0..2_100 {
        let update = Signal::new("add", format!("u{n}"), Payload::null());
        bench
            .engine()
            .update(&latest, update, PATIENCE)
            .await
            .unwrap();
    }
    assert_eq!(chain(&bench, &first).await.len(), 2);
    bench.crash().await;
    // How many it takes is counted anew.
    let update = Signal::new("add", "u0", Payload::null());
    let known = bench.engine().update(&latest, update, PATIENCE).await;
    assert_eq!(known.unwrap().run_id, first.run_id.unwrap());
    let stop = Signal::new("stop", "stop", Payload::null());
    bench.engine().signal(&latest, stop).await.unwrap();
    assert_eq!(bench.result(&first).await, json!({"all": "ok"}));
}
