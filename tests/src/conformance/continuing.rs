//! Runs that continue as new when their history has grown long.

use std::collections::BTreeMap;
use std::time::Duration;

use heyday_durable::driver::STATE_QUERY;
use heyday_durable::engine::{
    EngineError, ExecutionStatus, IdConflictPolicy, ListRuns, RunDescription, RunRef,
    StartWorkflow, UpdateStatus,
};
use heyday_durable::failure::kind;
use heyday_durable::payload::Payload;
use heyday_durable::search::{GivenAttribute, SearchValue};
use heyday_durable::signal::Signal;
use serde_json::{Value, json};

use super::bench::{Bench, NAMESPACE, PATIENCE, run};

on_both!(
    a_long_run_goes_on_as_others_and_does_each_step_once,
    signals_that_come_just_then_are_all_taken,
    untaken_signals_go_on_and_each_counts_once_over_all_runs,
    an_update_is_answered_again_by_whichever_run_is_open,
    a_parent_waits_for_the_last_run_of_its_child,
    a_cancel_reaches_the_run_that_goes_on,
    what_names_an_ended_run_is_refused,
    runs_that_went_on_are_replayed,
    search_attributes_go_on_as_the_run_changed_them,
    large_values_go_on_by_reference,
    a_key_of_the_start_answers_the_first_run,
    a_start_with_a_signal_reaches_the_run_that_goes_on,
    a_timeout_of_the_flow_goes_on,
);

/// Enough for several runs of [`SHORT`] events.
const ITEMS: u64 = 12;

/// Signals or updates, which are fewer events each, enough for several runs.
const SENT: u64 = 24;

/// Events after which runs continue here.
const SHORT: u64 = 14;

fn items(more: Value) -> Value {
    let mut input = json!({ "items": (0..ITEMS).collect::<Vec<_>>() });
    input
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    input
}

/// A loop over `items` of these tasks, and what follows it.
fn rounds(tasks: &str, after: &str) -> String {
    format!("  - loop: {{for: {{each: item, in: '${{ .items }}'}}, do: [{tasks}]}}\n{after}")
}

fn signal(name: &str, id: &str, data: Value) -> Signal {
    Signal::new(name, id, Payload::json(&data))
}

/// Waits until the run that began as this one has gone on at least so often.
async fn until_gone_on(bench: &Bench, first: &RunRef, times: usize) -> Vec<RunRef> {
    let gone_on = async || bench.chain(first).await.len() > times;
    bench.until("the run goes on as another", gone_on).await;
    bench.chain(first).await
}

async fn a_long_run_goes_on_as_others_and_does_each_step_once(mut bench: Bench) {
    bench.with_short_histories(SHORT).await;
    bench.define(
        "long",
        &rounds(
            "{a: {call: t.echo, with: {x: '${ .x }'}, export: {as: {seen: '${ .x }'}}}}",
            "  - last: {call: t.hand, with: {x: '${ .x }'}}\n",
        ),
    );
    let attribute = GivenAttribute {
        search_type: None,
        value: json!("blue"),
    };
    let request = StartWorkflow {
        memo: BTreeMap::from([("who".to_owned(), Payload::json(&json!("Ada")))]),
        search_attributes: BTreeMap::from([("LongColour".to_owned(), attribute)]),
        ..bench.request("long", "long", items(json!({"x": 7})))
    };
    let started = bench.engine().start(request).await.unwrap();
    let first = RunRef {
        run_id: Some(started.run_id),
        ..run("long")
    };
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.input.to_json().unwrap(), json!({"x": 7}));
    assert_eq!(bench.begun("t.echo"), ITEMS);
    let chain = bench.chain(&first).await;
    assert!(chain.len() > 2, "{chain:?}");
    let last = chain.last().unwrap().clone();
    // The latest run is the last one, and it waits; so does whoever asks for the first.
    let open = bench.engine().describe(&run("long")).await.unwrap();
    assert_eq!(Some(open.info.run_id), last.run_id);
    assert_eq!(open.info.status, ExecutionStatus::Running);
    for run in [&first, &last, &run("long")] {
        let early = bench.engine().result(run, Duration::ZERO).await.unwrap();
        assert_eq!(early, None);
    }
    let state = bench.engine().query(&last, STATE_QUERY, Payload::null());
    let state = state.await.unwrap().to_json().unwrap();
    assert_eq!(state["context"], json!({"seen": 7}));
    attempt.end(Ok(json!("done")));
    for run in [&first, &chain[1], &run("long")] {
        let end = bench.end(run).await;
        assert_eq!(end.status, ExecutionStatus::Completed);
        assert_eq!(Some(end.run_id), last.run_id);
        assert_eq!(end.outcome.unwrap().to_json().unwrap(), json!("done"));
    }
    for (index, run) in chain.iter().enumerate() {
        let described = bench.engine().describe(run).await.unwrap();
        assert_eq!(described.memo["who"].to_json().unwrap(), json!("Ada"));
        assert_eq!(
            described.search_attributes["LongColour"],
            SearchValue::Keyword("blue".to_owned())
        );
        assert!(described.pinned.contains_key("t.echo"));
        assert_eq!(described.info.workflow_type, "test.long");
        let events = bench.events(run).await;
        let page = bench.engine().history(run, 0, 10_000, Duration::ZERO).await;
        assert!(page.unwrap().complete);
        let (beginning, end) = (events.first().unwrap(), events.last().unwrap());
        assert_eq!(beginning.event_type, "WorkflowExecutionStarted");
        assert_eq!(beginning.attributes["input"]["x"], 7);
        if index > 0 {
            assert_eq!(
                beginning.attributes["continued_execution_run_id"],
                json!(chain[index - 1].run_id)
            );
            assert_eq!(
                beginning.attributes["first_execution_run_id"],
                json!(first.run_id)
            );
        }
        if index + 1 < chain.len() {
            assert_eq!(described.info.status, ExecutionStatus::ContinuedAsNew);
            assert_eq!(end.event_type, "WorkflowExecutionContinuedAsNew");
            assert_eq!(
                end.attributes["new_execution_run_id"],
                json!(chain[index + 1].run_id)
            );
            // One step more than it was due, at most a few events each.
            assert!(events.len() as u64 <= SHORT + 12, "{}", events.len());
        }
    }
    let list = async |status: &str| {
        let request = ListRuns {
            namespace: NAMESPACE.to_owned(),
            query: Some(format!(
                "WorkflowId = 'long' AND ExecutionStatus = '{status}'"
            )),
            page_size: 100,
            page_token: None,
        };
        let page = bench.engine().list(&request).await.unwrap();
        let runs = page.runs.into_iter();
        let mut runs: Vec<_> = runs.map(|run| (run.started_at, run.run_id)).collect();
        runs.sort();
        runs.into_iter().map(|(_, id)| Some(id)).collect::<Vec<_>>()
    };
    let went_on: Vec<_> = chain.iter().map(|run| run.run_id).collect();
    let (went_on, ended) = went_on.split_at(chain.len() - 1);
    let listed =
        async || list("ContinuedAsNew").await == went_on && list("Completed").await == ended;
    bench.until("lists show the runs", listed).await;
}

async fn signals_that_come_just_then_are_all_taken(mut bench: Bench) {
    bench.with_short_histories(SHORT).await;
    bench.define(
        "hub",
        "  - hub: {listen: {to: {any: [{with: {type: add}}], until: {one: {with: {type: stop}}}}}}\n",
    );
    let first = bench.start("hub", json!({})).await;
    let latest = run(&first.workflow_id);
    let send = |name: &'static str, n: u64| {
        let (engine, latest) = (std::sync::Arc::clone(bench.engine()), latest.clone());
        let signal = signal(name, &format!("{name} {n}"), json!(n));
        async move { engine.signal(&latest, signal).await.unwrap() }
    };
    // A busy machine takes many of them at once and goes on less often.
    let mut sent = 0;
    while sent < 100 || (bench.chain(&first).await.len() <= 2 && sent < 1_000) {
        let sends = (sent..sent + 10).map(|n| send("add", n));
        futures::future::join_all(sends).await;
        sent += 10;
    }
    send("stop", 0).await;
    let result = bench.result(&first).await;
    let mut taken: Vec<u64> = serde_json::from_value(result).unwrap();
    taken.sort_unstable();
    assert_eq!(taken, (0..sent).collect::<Vec<_>>());
    assert!(bench.chain(&first).await.len() > 2);
}

async fn untaken_signals_go_on_and_each_counts_once_over_all_runs(mut bench: Bench) {
    bench.with_short_histories(SHORT).await;
    bench.define(
        "hub",
        &rounds("{l: {listen: {to: {one: {with: {type: go}}}}}}", ""),
    );
    let input = json!({ "items": (0..SENT).collect::<Vec<_>>() });
    let first = bench.start("hub", input).await;
    let latest = run(&first.workflow_id);
    let send = async |name: &str, id: String, n: u64| {
        let sent = signal(name, &id, json!(n));
        bench.engine().signal(&latest, sent).await.unwrap();
    };
    send("other", "unread".to_owned(), 0).await;
    for n in 0..SENT - 1 {
        send("go", format!("g{n}"), n).await;
        let taken = async || {
            let described = bench.engine().describe(&latest).await.unwrap();
            let waiting = described.pending_signals.iter();
            waiting.map(|signal| signal.id.as_str()).eq(["unread"])
        };
        bench.until("the signal is taken", taken).await;
    }
    let chain = bench.chain(&first).await;
    assert!(chain.len() > 2, "{chain:?}");
    // Known from an earlier run, from this one, and as one that waits.
    for n in 0..SENT - 1 {
        send("go", format!("g{n}"), 100 + n).await;
    }
    send("other", "unread".to_owned(), 100).await;
    let waits = |described: &RunDescription| !described.pending_signals.is_empty();
    let described = bench.described(&latest, waits).await;
    assert_eq!(described.info.status, ExecutionStatus::Running);
    let [unread] = &described.pending_signals[..] else {
        panic!("{:?}", described.pending_signals);
    };
    assert_eq!(
        (unread.name.as_str(), unread.id.as_str()),
        ("other", "unread")
    );
    let age = jiff::Timestamp::now().duration_since(unread.received_at);
    assert!(age.as_secs().abs() < 600, "{unread:?}");
    bench.restart().await;
    let last = signal("go", "last", json!("last"));
    bench.engine().signal(&latest, last).await.unwrap();
    assert_eq!(bench.result(&first).await, json!(["last"]));
}

fn answer(status: UpdateStatus) -> Value {
    status.outcome.unwrap().unwrap().to_json().unwrap()
}

async fn an_update_is_answered_again_by_whichever_run_is_open(mut bench: Bench) {
    bench.with_short_histories(SHORT).await;
    bench.define(
        "counter",
        "  - hub: {listen: {to: {any: [{with: {type: add}}], until: {one: {with: {type: stop}}}}}, metadata: {heyday: {update: {answer: {n: '${ . }'}}}}}\n",
    );
    let first = bench.start("counter", json!({})).await;
    let latest = run(&first.workflow_id);
    let offer = async |name: &str, id: &str, data: Value| {
        let update = signal(name, id, data);
        bench.engine().update(&latest, update, PATIENCE).await
    };
    let mut runs = Vec::new();
    for n in 0..SENT {
        let status = offer("add", &format!("u{n}"), json!(n)).await.unwrap();
        runs.push(status.run_id);
        assert_eq!(answer(status), json!({ "n": n }));
    }
    let chain = until_gone_on(&bench, &first, 2).await;
    assert_eq!(Some(runs[0]), first.run_id);
    assert!(
        chain
            .iter()
            .all(|run| run.run_id.is_some_and(|id| runs.contains(&id))
                || run == chain.last().unwrap())
    );
    // The same ids again, of the earliest run and of the latest.
    for n in [0, SENT - 1] {
        let id = format!("u{n}");
        let status = offer("add", &id, json!(100)).await.unwrap();
        assert_eq!(status.run_id, runs[usize::try_from(n).unwrap()]);
        assert_eq!(answer(status), json!({ "n": n }));
        let status = bench.engine().update_result(&latest, &id, Duration::ZERO);
        assert_eq!(answer(status.await.unwrap()), json!({ "n": n }));
    }
    let unknown = bench
        .engine()
        .update_result(&latest, "none", Duration::ZERO);
    let unknown = unknown.await.unwrap_err();
    assert!(
        matches!(unknown, EngineError::NoSuchUpdate { .. }),
        "{unknown}"
    );
    let status = offer("stop", "end", json!("end")).await.unwrap();
    assert_eq!(answer(status), json!({"n": "end"}));
    // It took each once.
    assert_eq!(
        bench.result(&first).await,
        json!((0..SENT).collect::<Vec<_>>())
    );
    let late = offer("add", "u1", json!(100)).await.unwrap();
    assert_eq!(answer(late), json!({"n": 1}));
}

const PARENT: &str = "  - c: {run: {workflow: {namespace: test, name: child, version: latest, input: {items: '${ .items }'}}}}\n";

/// A parent whose child continues again and again, until its last step: the attempt.
async fn parent_of_a_long_child(bench: &mut Bench) -> (RunRef, RunRef, super::bench::Attempt) {
    bench.with_short_histories(SHORT).await;
    bench.define("parent", PARENT);
    bench.define(
        "child",
        &rounds(
            "{a: {call: t.echo, with: {items: '${ .items }'}}}",
            "  - last: {call: t.hand}\n",
        ),
    );
    let parent = bench.start("parent", items(json!({}))).await;
    let attempt = bench.attempt().await;
    let event = bench
        .until_event(&parent, "ChildWorkflowExecutionStarted")
        .await;
    let execution = &event.attributes["workflow_execution"];
    let child = RunRef {
        run_id: Some(execution["run_id"].as_str().unwrap().parse().unwrap()),
        ..run(execution["workflow_id"].as_str().unwrap())
    };
    let chain = bench.chain(&child).await;
    assert!(chain.len() > 2, "{chain:?}");
    for run in &chain {
        let described = bench.engine().describe(run).await.unwrap();
        assert_eq!(
            described.info.parent,
            Some((parent.workflow_id.clone(), parent.run_id.unwrap()))
        );
    }
    (parent, child, attempt)
}

async fn a_parent_waits_for_the_last_run_of_its_child(mut bench: Bench) {
    let (parent, child, attempt) = parent_of_a_long_child(&mut bench).await;
    let described = bench.engine().describe(&parent).await.unwrap();
    assert_eq!(described.pending_children.len(), 1);
    assert_eq!(described.pending_children[0].0, child.workflow_id);
    attempt.end(Ok(json!("from the last")));
    assert_eq!(bench.result(&parent).await, json!("from the last"));
}

async fn a_cancel_reaches_the_run_that_goes_on(mut bench: Bench) {
    let (parent, child, attempt) = parent_of_a_long_child(&mut bench).await;
    bench.engine().cancel(&parent, "enough").await.unwrap();
    attempt.obey().await;
    let end = bench.end(&child).await;
    assert_eq!(end.status, ExecutionStatus::Canceled);
    assert_eq!(bench.end(&parent).await.status, ExecutionStatus::Canceled);
    let last = RunRef {
        run_id: Some(end.run_id),
        ..child
    };
    let asked = bench
        .until_event(&last, "WorkflowExecutionCancelRequested")
        .await;
    assert_eq!(asked.attributes["cause"], "the parent asked for it");
    // And by the end of the parent.
    let (parent, child, attempt) = parent_of_a_long_child(&mut bench).await;
    bench.engine().terminate(&parent, "now").await.unwrap();
    attempt.obey().await;
    assert_eq!(bench.end(&child).await.status, ExecutionStatus::Canceled);
}

async fn what_names_an_ended_run_is_refused(mut bench: Bench) {
    bench.with_short_histories(SHORT).await;
    bench.define(
        "long",
        &rounds(
            "{a: {call: t.echo, with: {x: 1}}}",
            "  - last: {listen: {to: {one: {with: {type: go}}}}}\n",
        ),
    );
    let first = bench.start("long", items(json!({}))).await;
    bench.until_listening(&run(&first.workflow_id)).await;
    assert!(bench.chain(&first).await.len() > 1);
    let engine = bench.engine();
    let closed = |result: Result<(), EngineError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, EngineError::Closed { .. }), "{error}");
    };
    closed(engine.signal(&first, signal("go", "s", json!(1))).await);
    closed(engine.cancel(&first, "no").await);
    closed(engine.terminate(&first, "no").await);
    let update = engine.update(&first, signal("go", "u", json!(1)), PATIENCE);
    closed(update.await.map(|_| ()));
    // The workflow's latest run is another one.
    engine
        .terminate(&run(&first.workflow_id), "enough")
        .await
        .unwrap();
    let end = bench.end(&first).await;
    assert_eq!(end.status, ExecutionStatus::Terminated);
    assert_eq!(end.outcome.unwrap_err().kind, kind::TERMINATED);
}

async fn runs_that_went_on_are_replayed(mut bench: Bench) {
    bench.with_short_histories(SHORT).await;
    bench.define(
        "long",
        &rounds(
            "{t: {try: [{a: {call: t.echo, with: {x: '${ .x }'}}}], catch: {}}}",
            "  - rest: {listen: {to: {one: {with: {type: go}}}}}\n  - last: {call: t.hand, with: {x: '${ .0.x }'}}\n",
        ),
    );
    let first = bench.start("long", items(json!({"x": 3}))).await;
    let latest = run(&first.workflow_id);
    bench.until_listening(&latest).await;
    assert!(bench.chain(&first).await.len() > 1);
    let loaded = bench.loaded();
    bench.restart().await;
    let go = signal("go", "go", json!({"x": 4}));
    bench.engine().signal(&latest, go).await.unwrap();
    let attempt = bench.attempt().await;
    assert_eq!(attempt.task.input.to_json().unwrap(), json!({"x": 4}));
    assert!(
        bench.loaded() > loaded,
        "a driver should have been made anew"
    );
    // Nothing was done twice, whatever was replayed.
    assert_eq!(bench.begun("t.echo"), ITEMS);
    attempt.end(Ok(json!("done")));
    assert_eq!(bench.result(&first).await, json!("done"));
    // An ended run that is asked is rebuilt from its history: each of them fits.
    bench.restart().await;
    for run in bench.chain(&first).await {
        let state = bench.engine().query(&run, STATE_QUERY, Payload::null());
        let state = state.await.unwrap().to_json().unwrap();
        assert_eq!(state["context"]["x"], 3, "{state}");
    }
}

async fn search_attributes_go_on_as_the_run_changed_them(mut bench: Bench) {
    bench.with_short_histories(SHORT).await;
    let marks = "  - mark:\n      set: ${ . }\n      metadata: {heyday: {search_attributes: {GoneStage: late, GoneColour: null}}}\n";
    let rounds = rounds(
        "{a: {call: t.echo, with: {x: 1}}}",
        "  - last: {call: t.hand}\n",
    );
    bench.define("marked", &format!("{marks}{rounds}"));
    let given = |value: &str| GivenAttribute {
        search_type: None,
        value: json!(value),
    };
    let request = StartWorkflow {
        search_attributes: BTreeMap::from([
            ("GoneColour".to_owned(), given("blue")),
            ("GoneKept".to_owned(), given("kept")),
            ("GoneStage".to_owned(), given("early")),
        ]),
        ..bench.request("marked", "marked", items(json!({})))
    };
    let started = bench.engine().start(request).await.unwrap();
    let first = RunRef {
        run_id: Some(started.run_id),
        ..run("marked")
    };
    let attempt = bench.attempt().await;
    let chain = bench.chain(&first).await;
    assert!(chain.len() > 2, "{chain:?}");
    for run in &chain {
        let described = bench.engine().describe(run).await.unwrap();
        let attributes = described.search_attributes.iter();
        let attributes: Vec<_> = attributes
            .map(|(name, value)| (name.as_str(), value.to_json()))
            .collect();
        assert_eq!(
            attributes,
            [("GoneKept", json!("kept")), ("GoneStage", json!("late"))]
        );
    }
    attempt.end(Ok(json!("done")));
    assert_eq!(bench.result(&first).await, json!("done"));
}

async fn large_values_go_on_by_reference(mut bench: Bench) {
    bench.with_short_histories(SHORT).await;
    bench.define(
        "large",
        &rounds(
            "{w: {wait: PT0.01S}}",
            "  - last: {call: t.length, with: {text: '${ .text }'}}\n",
        ),
    );
    let text = "x".repeat(300_000);
    // A cluster's timers take up to a second.
    let input = json!({ "items": vec![0; 8], "text": text });
    let first = bench.start("large", input).await;
    assert_eq!(bench.result(&first).await, json!(300_000));
    assert!(bench.chain(&first).await.len() > 1);
    // The data of the flow is its input all the time, which is stored once; and the last
    // task is called with another one.
    assert_eq!(bench.payloads.len(), 2);
    bench.define(
        "grown",
        &rounds(
            "{a: {call: t.big, with: {n: '${ .n }'}, output: {as: {text: '${ . }', n: 290000}}}}",
            "  - last: {call: t.length, with: {text: '${ .text }'}}\n",
        ),
    );
    let input = json!({ "items": vec![0; 6], "n": 290_000 });
    let first = bench.start("grown", input).await;
    assert_eq!(bench.result(&first).await, json!(290_000));
    assert!(bench.chain(&first).await.len() > 1);
}

async fn a_key_of_the_start_answers_the_first_run(mut bench: Bench) {
    bench.with_short_histories(SHORT).await;
    bench.define(
        "long",
        &rounds(
            "{a: {call: t.echo, with: {x: 1}}}",
            "  - last: {call: t.hand}\n",
        ),
    );
    let request = |key: &str| StartWorkflow {
        idempotency_key: Some(key.to_owned()),
        ..bench.request("long", "keyed", items(json!({})))
    };
    let (request, other) = (request("k"), request("other"));
    let started = bench.engine().start(request.clone()).await.unwrap();
    let attempt = bench.attempt().await;
    let first = RunRef {
        run_id: Some(started.run_id),
        ..run("keyed")
    };
    assert!(bench.chain(&first).await.len() > 1);
    let again = bench.engine().start(request).await.unwrap();
    assert_eq!((again.run_id, again.created), (started.run_id, false));
    let refused = bench.engine().start(other).await.unwrap_err();
    assert!(
        matches!(refused, EngineError::AlreadyExists { .. }),
        "{refused}"
    );
    attempt.end(Ok(json!("done")));
    assert_eq!(bench.result(&first).await, json!("done"));
}

async fn a_start_with_a_signal_reaches_the_run_that_goes_on(mut bench: Bench) {
    bench.with_short_histories(SHORT).await;
    bench.define(
        "hub",
        &rounds("{l: {listen: {to: {one: {with: {type: go}}}}}}", ""),
    );
    let mut first = None;
    for n in 0..ITEMS {
        let request = StartWorkflow {
            id_conflict_policy: IdConflictPolicy::UseExisting,
            signal: Some(signal("go", &format!("g{n}"), json!(n))),
            ..bench.request("hub", "hub", items(json!({})))
        };
        let started = bench.engine().start(request).await.unwrap();
        assert_eq!(started.created, n == 0);
        first.get_or_insert(started.run_id);
    }
    let first = RunRef {
        run_id: first,
        ..run("hub")
    };
    assert_eq!(bench.result(&first).await, json!([ITEMS - 1]));
}

async fn a_timeout_of_the_flow_goes_on(mut bench: Bench) {
    bench.with_short_histories(SHORT).await;
    let after = "  - last: {call: t.hand}\ntimeout: {after: PT10S}\n";
    bench.define("late", &rounds("{a: {call: t.echo, with: {x: 1}}}", after));
    let first = bench.start("late", json!({ "items": vec![0; 4] })).await;
    bench.attempt().await.obey().await;
    let failure = bench.failure(&first).await;
    assert!(format!("{failure:?}").contains("PT10S"), "{failure:?}");
    assert!(bench.chain(&first).await.len() > 1);
}
