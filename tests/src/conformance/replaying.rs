//! Replay of histories, away from their runs. That every run which a test sees to its end
//! replays bit for bit, [`Bench::end`] checks; here is what differs, and of what runs that
//! have not ended.

use heyday_durable::engine::RunRef;
use heyday_durable::payload::Payload;
use heyday_durable::replay::{Difference, RecordedHistory, ReplayError};
use heyday_durable::signal::Signal;
use serde_json::{Value, json};

use super::bench::Bench;

on_both!(
    an_open_run_replays_wherever_it_stands,
    a_changed_definition_diverges_at_its_first_other_command,
    a_command_that_is_left_out_diverges_where_the_history_has_it,
    a_command_too_many_diverges_after_the_last_one,
    what_changes_values_only_diverges_where_they_are_compared,
    what_gives_no_command_makes_no_difference,
    a_file_says_the_same_as_the_engine,
    a_history_is_of_its_flow,
    what_no_plugin_has_is_compared_by_its_name,
    a_value_that_is_stored_elsewhere_is_missed_by_name,
    timeouts_and_retry_policies_are_values,
);

async fn difference(bench: &Bench, history: &RecordedHistory, name: &str) -> Difference {
    let report = bench.replay(history, name, false).await.unwrap();
    report.difference.expect("they should differ")
}

/// The type of an event.
async fn kind(bench: &Bench, run: &RunRef, event_id: u64) -> String {
    let events = bench.events(run).await;
    let event = &events[usize::try_from(event_id).unwrap() - 1];
    event.event_type.clone()
}

fn signal(name: &str, id: &str) -> Signal {
    Signal::new(name, id, Payload::json(&json!({})))
}

const STEPS: &str = "  - a: {call: t.echo, with: {n: '${ .n }'}}\n  - w: {wait: {milliseconds: 50}}\n  - h: {call: t.hand}\n";

async fn an_open_run_replays_wherever_it_stands(mut bench: Bench) {
    bench.define(
        "open",
        &format!(
            "{STEPS}  - l: {{listen: {{to: {{one: {{with: {{type: go}}}}}}}}}}\n  - c: {{run: {{workflow: {{namespace: test, name: child, version: '0.1.0'}}}}}}\n"
        ),
    );
    bench.define("child", "  - x: {set: {y: 1}}\n");
    let run = bench.start("open", json!({"n": 3})).await;
    bench.replays(&run).await;
    let attempt = bench.attempt().await;
    bench.replays(&run).await;
    // Of nobody, so it waits, and a workflow task is under way now and then.
    bench
        .engine()
        .signal(&run, signal("other", "1"))
        .await
        .unwrap();
    bench.replays(&run).await;
    attempt.end(Ok(json!(7)));
    bench.until_listening(&run).await;
    bench.replays(&run).await;
    let about = bench.recorded(&run).await.about();
    assert!(!about.ended);
    assert_eq!(about.workflow_id, run.workflow_id);
    assert_eq!(Some(about.run_id), run.run_id);
    bench
        .engine()
        .signal(&run, signal("go", "2"))
        .await
        .unwrap();
    bench.end(&run).await;
    assert!(bench.recorded(&run).await.about().ended);
}

async fn a_changed_definition_diverges_at_its_first_other_command(mut bench: Bench) {
    bench.define("changed", STEPS);
    let run = bench.start("changed", json!({"n": 3})).await;
    let attempt = bench.attempt().await;
    let history = bench.recorded(&run).await;
    bench.define("changed", &STEPS.replace("t.hand", "t.hand2"));
    let found = difference(&bench, &history, "changed").await;
    let (recorded, expected) = (found.recorded.unwrap(), found.expected.unwrap());
    assert_eq!(recorded.event_type, "ActivityTaskScheduled");
    assert_eq!(
        (recorded.id.as_str(), recorded.name.as_str()),
        ("2", "t.hand")
    );
    assert_eq!(
        (expected.id.as_str(), expected.name.as_str()),
        ("2", "t.hand2")
    );
    assert_eq!(expected.task, "/do/2/h");
    assert_eq!(
        kind(&bench, &run, found.event_id).await,
        "ActivityTaskScheduled"
    );

    // Another kind of command.
    bench.define(
        "changed",
        &STEPS.replace("{wait: {milliseconds: 50}}", "{call: t.echo}"),
    );
    let found = difference(&bench, &history, "changed").await;
    assert_eq!(found.recorded.unwrap().event_type, "TimerStarted");
    assert_eq!(found.expected.unwrap().event_type, "ActivityTaskScheduled");
    assert_eq!(kind(&bench, &run, found.event_id).await, "TimerStarted");

    // What nothing waits for any more.
    bench.define("changed", "  - s: {set: {done: true}}\n");
    let found = difference(&bench, &history, "changed").await;
    assert_eq!(
        found.expected.unwrap().event_type,
        "WorkflowExecutionCompleted"
    );
    attempt.end(Ok(Value::Null));
    bench.end(&run).await;
}

async fn a_command_that_is_left_out_diverges_where_the_history_has_it(bench: Bench) {
    let two = "  - f: {fork: {branches: [{a: {wait: PT1H}}, {b: {wait: PT2H}}]}}\n";
    bench.define("fork", two);
    let run = bench.start("fork", json!({})).await;
    bench.until_event(&run, "TimerStarted").await;
    bench
        .until("both wait", async || {
            let description = bench.engine().describe(&run).await.unwrap();
            description.pending_timers.len() == 2
        })
        .await;
    let history = bench.recorded(&run).await;
    bench.define("fork", "  - f: {fork: {branches: [{a: {wait: PT1H}}]}}\n");
    let found = difference(&bench, &history, "fork").await;
    let recorded = found.recorded.unwrap();
    assert_eq!(
        (recorded.event_type.as_str(), recorded.id.as_str()),
        ("TimerStarted", "2")
    );
    assert_eq!(found.expected, None);
    assert_eq!(kind(&bench, &run, found.event_id).await, "TimerStarted");
    bench.engine().terminate(&run, "enough").await.unwrap();
}

async fn a_command_too_many_diverges_after_the_last_one(bench: Bench) {
    bench.define("fork", "  - f: {fork: {branches: [{a: {wait: PT1H}}]}}\n");
    let run = bench.start("fork", json!({})).await;
    bench.until_event(&run, "TimerStarted").await;
    let history = bench.recorded(&run).await;
    let two = "  - f: {fork: {branches: [{a: {wait: PT1H}}, {b: {call: t.hand}}]}}\n";
    bench.define("fork", two);
    let found = difference(&bench, &history, "fork").await;
    assert_eq!(found.recorded, None);
    let expected = found.expected.unwrap();
    assert_eq!(
        (expected.name.as_str(), expected.task.as_str()),
        ("t.hand", "/do/0/f/fork/branches/1/b")
    );
    bench.engine().terminate(&run, "enough").await.unwrap();
}

async fn what_changes_values_only_diverges_where_they_are_compared(mut bench: Bench) {
    bench.define("values", STEPS);
    let run = bench.start("values", json!({"n": 3})).await;
    let attempt = bench.attempt().await;
    let history = bench.recorded(&run).await;
    for (from, to, member) in [
        ("n: '${ .n }'", "n: 4", "value"),
        ("milliseconds: 50", "milliseconds: 60", "duration"),
        (
            "call: t.hand",
            "call: t.hand, metadata: {heyday: {queue: narrow}}",
            "queue",
        ),
    ] {
        bench.define("values", &STEPS.replace(from, to));
        let loose = bench.replay(&history, "values", false).await.unwrap();
        assert_eq!(loose.difference, None, "{member}");
        let exact = bench.replay(&history, "values", true).await.unwrap();
        let found = exact.difference.expect(member);
        assert_eq!(found.members, [member], "{}", found.message);
        assert_eq!(
            found.recorded.unwrap().event_type,
            kind(&bench, &run, found.event_id).await
        );
    }
    attempt.end(Ok(Value::Null));
    bench.end(&run).await;
}

async fn what_gives_no_command_makes_no_difference(mut bench: Bench) {
    bench.define("quiet", STEPS);
    let run = bench.start("quiet", json!({"n": 3})).await;
    let attempt = bench.attempt().await;
    let history = bench.recorded(&run).await;
    // Every task stands elsewhere now.
    bench.define("quiet", &format!("  - s: {{set: '${{ . }}'}}\n{STEPS}"));
    for exact in [false, true] {
        let report = bench.replay(&history, "quiet", exact).await.unwrap();
        assert_eq!(report.difference, None);
    }
    attempt.end(Ok(Value::Null));
    bench.end(&run).await;
}

async fn a_file_says_the_same_as_the_engine(mut bench: Bench) {
    bench.define("file", STEPS);
    let run = bench.start("file", json!({"n": 3})).await;
    let attempt = bench.attempt().await;
    let history = bench.recorded(&run).await;
    let text = history.to_json().to_string();
    let read = RecordedHistory::parse(text.as_bytes()).unwrap();
    assert_eq!(read.about(), history.about());
    assert_eq!(read.to_json(), history.to_json());
    let report = bench.replay(&read, "file", true).await.unwrap();
    assert_eq!(report.difference, None);
    assert_eq!(report.events, history.about().events);
    bench.define("file", &STEPS.replace("t.hand", "t.hand2"));
    assert_eq!(
        difference(&bench, &read, "file").await,
        difference(&bench, &history, "file").await
    );
    attempt.end(Ok(Value::Null));
    bench.end(&run).await;
}

async fn a_history_is_of_its_flow(bench: Bench) {
    bench.define("one", "  - w: {wait: PT1H}\n");
    bench.define("two", "  - w: {wait: PT1H}\n");
    let run = bench.start("one", json!({})).await;
    let history = bench.recorded(&run).await;
    let error = bench.replay(&history, "two", false).await.unwrap_err();
    assert!(
        matches!(&error, ReplayError::OtherWorkflow { recorded, given } if recorded == "test.one" && given == "test.two"),
        "{error}"
    );
    bench.engine().terminate(&run, "enough").await.unwrap();
}

async fn what_no_plugin_has_is_compared_by_its_name(bench: Bench) {
    // The run fails there, and goes on so whatever is uploaded later.
    let guarded = |call: &str| {
        format!(
            "  - t: {{try: [{{n: {{call: {call}}}}}], catch: {{errors: {{with: {{status: 400}}}}, do: [{{w: {{wait: PT1H}}}}]}}}}\n"
        )
    };
    bench.define("unknown", &guarded("t.nobody"));
    let run = bench.start("unknown", json!({})).await;
    bench.until_event(&run, "TimerStarted").await;
    bench.replays(&run).await;
    let history = bench.recorded(&run).await;
    bench.define("unknown", &guarded("t.somebody"));
    let found = difference(&bench, &history, "unknown").await;
    let expected = found.expected.unwrap();
    assert_eq!(
        (expected.event_type.as_str(), expected.name.as_str()),
        ("ActivityTaskScheduled", "t.somebody")
    );
    assert_eq!(found.recorded.unwrap().event_type, "TimerStarted");
    bench.engine().terminate(&run, "enough").await.unwrap();
}

async fn a_value_that_is_stored_elsewhere_is_missed_by_name(bench: Bench) {
    bench.define(
        "big",
        "  - b: {call: t.big, with: {n: 300000}}\n  - l: {call: t.length, with: {text: '${ . }'}}\n",
    );
    let run = bench.start("big", json!({})).await;
    assert_eq!(bench.result(&run).await, json!(300_000));
    let history = bench.recorded(&run).await;
    let here = bench.replay(&history, "big", true).await.unwrap();
    assert_eq!(here.difference, None);
    let error = bench.replay_elsewhere(&history, "big").await.unwrap_err();
    assert!(
        matches!(&error, ReplayError::Unusable(why) if why.contains("sha256:")),
        "{error}"
    );
    // The file brings it along.
    let whole = history.with_values(bench.payloads.as_ref()).await.unwrap();
    let text = whole.to_json().to_string();
    assert!(text.len() > 300_000, "{}", text.len());
    let read = RecordedHistory::parse(text.as_bytes()).unwrap();
    let elsewhere = bench.replay_elsewhere(&read, "big").await.unwrap();
    assert_eq!(elsewhere.difference, None);
    assert_eq!(read.to_json(), whole.to_json());
}

async fn timeouts_and_retry_policies_are_values(mut bench: Bench) {
    let flow =
        |timeouts: &str| format!("  - h: {{call: t.hand, metadata: {{heyday: {{{timeouts}}}}}}}\n");
    let said =
        "timeouts: {start_to_close: 20s, schedule_to_close: 1m}, retry: {maximum_attempts: 3}";
    bench.define("timed", &flow(said));
    let run = bench.start("timed", json!({})).await;
    let attempt = bench.attempt().await;
    let history = bench.recorded(&run).await;
    for (from, to) in [
        ("20s", "21s"),
        ("1m", "2m"),
        ("{start", "{heartbeat: 5s, start"),
        ("attempts: 3", "attempts: 4"),
    ] {
        let other = said.replace(from, to);
        bench.define("timed", &flow(&other));
        let commands = bench.replay(&history, "timed", false).await.unwrap();
        assert_eq!(commands.difference, None, "{other}");
        let values = bench.replay(&history, "timed", true).await.unwrap();
        let difference = values.difference.expect(&other);
        assert_eq!(difference.members, ["timeouts"], "{other}");
    }
    attempt.end(Ok(Value::Null));
    bench.end(&run).await;
}
