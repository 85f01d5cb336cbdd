//! Runs that continue as new.

use super::*;

use crate::payload::ENCODING;

impl Fed {
    /// What the run carries, where it continued as new.
    fn resume(&self) -> Option<Payload> {
        match self.commands.last() {
            Some(Command::ContinueAsNew { resume }) => Some(resume.clone()),
            _ => None,
        }
    }

    /// The run that goes on where this one ended, after its first activation.
    #[track_caller]
    fn next(&self, resolutions: impl IntoIterator<Item = Resolution>) -> Self {
        let resume = self.resume();
        assert!(resume.is_some(), "it did not continue: {:?}", self.said());
        let start = RunStart {
            run_id: Uuid::from_u128(self.start.run_id.as_u128() + 1),
            started_at: timestamp(self.now),
            resume,
            ..self.start.clone()
        };
        let mut next = Self {
            driver: driver(&start),
            start,
            now: self.now,
            suggested: true,
            commands: Vec::new(),
            log: Vec::new(),
        };
        next.feed(resolutions);
        next
    }
}

/// Plays a flow to its end: each activity answers `{"n": its number, "in": its input}` over
/// all runs, or what `answer` says; timers fire, children echo. Answers with the last run,
/// and how many there were.
fn play(
    start: RunStart,
    suggested: bool,
    answer: impl Fn(u64, &Value) -> Result<Value, Failure>,
) -> (Fed, usize) {
    let mut fed = Fed::start(start);
    fed.suggested = suggested;
    let mut runs = 1;
    let mut count = 0;
    let mut waiting = std::collections::VecDeque::new();
    loop {
        for command in &fed.commands {
            match command {
                Command::ScheduleActivity(activity) => {
                    count += 1;
                    waiting.push_back(Resolution::Activity {
                        activity_id: activity.activity_id.clone(),
                        outcome: answer(count, &activity.input.to_json().unwrap())
                            .map(|value| Payload::json(&value)),
                    });
                }
                Command::StartTimer { timer_id, .. } => waiting.push_back(Resolution::Timer {
                    timer_id: timer_id.clone(),
                }),
                Command::CancelTimer { timer_id: gone } => waiting
                    .retain(|it| !matches!(it, Resolution::Timer { timer_id } if timer_id == gone)),
                Command::StartChild(child) => {
                    let child_id = child.child_id.clone();
                    waiting.push_back(Resolution::ChildStarted {
                        child_id: child_id.clone(),
                        outcome: Ok(Uuid::from_u128(1)),
                    });
                    if !child.detached {
                        waiting.push_back(Resolution::Child {
                            child_id,
                            outcome: Ok(child.input.clone()),
                        });
                    }
                }
                _ => {}
            }
        }
        // A replay says the same.
        let mut again = driver(&fed.start);
        for (activation, commands) in &fed.log {
            assert_eq!(&again.activate(activation.clone()).unwrap(), commands);
        }
        if fed.resume().is_some() {
            // Timers that were left are the next run's own.
            waiting.clear();
            fed = fed.next([]);
            runs += 1;
            continue;
        }
        if fed.commands.last().is_some_and(Command::is_terminal) {
            return (fed, runs);
        }
        let Some(resolution) = waiting.pop_front() else {
            panic!("nothing happens any more: {:?}", fed.log.last());
        };
        fed.later(10, resolution);
    }
}

fn numbered(count: u64, input: &Value) -> Result<Value, Failure> {
    Ok(json!({ "n": count, "in": input }))
}

/// The result of a flow that runs at once, and of one that continues wherever it can; the
/// latter takes so many runs.
#[track_caller]
fn same_in(runs: usize, tasks: &str, input: &Value) -> Value {
    let start = || start_of(&document(tasks), input);
    let (once, one) = play(start(), false, numbered);
    let (often, many) = play(start(), true, numbered);
    assert_eq!((often.result(), one), (once.result(), 1), "{tasks}");
    assert_eq!(many, runs, "{tasks}");
    once.result()
}

#[test]
fn a_run_continues_between_its_tasks() {
    let tasks = r#"
  - a: {call: p.a, with: {x: "${ .x }"}, export: {as: "{seen: .n}"}}
  - b: {call: p.b, with: {a: "${ .n }", seen: "${ $context.seen }", input: "${ $workflow.input.x }"}}
  - c: {set: {b: "${ . }"}}
  - d: {if: "${ .b.n == 2 }", call: p.c, with: {in: "${ .b.in }"}, then: end}
  - e: {call: p.c}
"#;
    let result = same_in(3, tasks, &json!({"x": 7}));
    assert_eq!(
        result,
        json!({"n": 3, "in": {"in": {"a": 1, "seen": 1, "input": 7}}})
    );
}

#[test]
fn a_loop_by_then_goes_on_for_ever_in_short_runs() {
    let tasks = r#"
  - round: {call: p.a, with: {n: "${ .n }"}, output: {as: "{n: (.in.n + 1)}"}}
  - again: {switch: [{more: {when: "${ .n != 5 }", then: round}}, {default: {then: end}}]}
"#;
    assert_eq!(same_in(6, tasks, &json!({"n": 0})), json!({"n": 5}));
}

#[test]
fn loops_in_loops_in_a_try_go_on_where_they_were() {
    let tasks = r#"
  - outer:
      for: {each: row, in: "${ .rows }", at: y}
      while: "${ . != null }"
      do:
        - inner:
            try:
              - columns:
                  for: {each: cell, in: "${ $row }", at: x}
                  do:
                    - call: {call: p.a, with: {cell: "${ $cell }", at: ["${ $x }", "${ $y }"], before: "${ .n }"}}
                    - wait: {wait: PT1S}
              - after: {do: [{one: {call: p.b, with: {row: "${ $row }", before: "${ .n }"}}}, {two: {call: p.b, with: {before: "${ .n }"}}}]}
            catch: {}
"#;
    let result = same_in(10, tasks, &json!({"rows": [[1, 2], [3]]}));
    assert_eq!(result["n"], 7);
}

#[test]
fn an_error_after_it_is_caught_and_retries_are_counted_over_it() {
    let tasks = r#"
  - guarded:
      try:
        - a: {call: p.a}
        - b: {call: p.b, with: {n: "${ .n }"}}
      catch: {as: why, retry: {limit: {attempt: {count: 2}}}, do: [{said: {set: {title: "${ $why.title }"}}}]}
"#;
    let answer = |count: u64, input: &Value| match input.get("n") {
        // Each second activity fails.
        Some(_) => Err(Failure::permanent("broken", "it broke")),
        None => numbered(count, input),
    };
    let start = || start_of(&document(tasks), &json!({}));
    let (once, _) = play(start(), false, answer);
    let (often, runs) = play(start(), true, answer);
    assert_eq!(often.result(), once.result());
    // Three tries, of which each continued between its tasks.
    assert_eq!(runs, 4);
}

#[test]
fn nothing_continues_while_something_is_under_way() {
    for tasks in [
        // Branches of a fork, a task's own timeout, a clean-up: more than a position.
        r#"
  - f: {fork: {branches: [{a: {do: [{x: {call: p.a}}, {y: {call: p.b}}]}}, {b: {call: p.c}}]}}
"#,
        "\n  - t: {timeout: {after: PT9S}, do: [{x: {call: p.a}}, {y: {call: p.b}}]}\n",
        r#"
  - t: {try: [{x: {call: p.a, with: {fail: true}}}], catch: {do: [{y: {call: p.b}}, {z: {call: p.c}}]}}
"#,
        // A child that is to end with the run.
        r#"
  - c: {run: {workflow: {namespace: n, name: w, version: latest}, await: false}, metadata: {heyday: {parent_close: terminate}}}
  - a: {call: p.a}
  - b: {call: p.b}
"#,
    ] {
        let start = start_of(&document(tasks), &json!({}));
        let (_, runs) = play(start, true, |count, input| match input.get("fail") {
            Some(_) => Err(Failure::permanent("broken", "it broke")),
            None => numbered(count, input),
        });
        assert_eq!(runs, 1, "{tasks}");
    }
    // One that ends by itself is no hindrance.
    let tasks = r#"
  - c: {run: {workflow: {namespace: n, name: w, version: latest}, await: false}}
  - a: {call: p.a}
"#;
    same_in(2, tasks, &json!({}));
}

#[test]
fn a_run_under_an_earlier_revision_never_continues() {
    let mut start = start_of(
        &document("\n  - a: {call: p.a}\n  - b: {call: p.b}\n"),
        &json!({}),
    );
    start.revision = 1;
    assert_eq!(play(start, true, numbered).1, 1);
}

const WAITS: &str = "\n  - s: {set: {a: 1}}\n  - l: {listen: {to: {one: {with: {type: go}}}}}\n  - a: {call: p.a}\n";

#[test]
fn a_run_that_waits_for_a_signal_continues_when_others_come() {
    let mut fed = Fed::new(WAITS, json!({}));
    fed.suggested = true;
    // It does not take this one.
    fed.feed([signal("other", json!(1))]);
    assert_eq!(fed.said(), ["continue as new"]);
    // Not before its history has grown: that would have no end.
    let mut next = fed.next([signal("another", json!(1))]);
    assert_eq!(next.said(), [""; 0]);
    let state = next.driver.query(STATE_QUERY, &json!(null)).unwrap();
    assert_eq!(state["signals"][0]["id"], "other");
    assert_eq!(state["signals"][1]["id"], "another");
    next.feed([signal("third", json!(1))]);
    let mut last = next.next([]);
    last.feed([signal("go", json!(1))]);
    assert_eq!(last.next([]).said(), ["activity 1 p.a [1]"]);
}

#[test]
fn a_run_that_waits_deep_in_its_flow_goes_on_where_it_waited() {
    let tasks = r#"
  - loop: {for: {each: n, in: "${ .items }"}, do: [{t: {try: [{l: {listen: {to: {one: {with: {type: go}}}}}}], catch: {}}}]}
"#;
    let named = |name: &str, id: String| {
        let data = Payload::json(&json!(id));
        Resolution::Signal(Box::new(Signal::new(name, id, data)))
    };
    let mut fed = Fed::new(tasks, json!({"items": [1, 2]}));
    for round in 1..=2 {
        fed.suggested = true;
        fed.feed([named("other", format!("o{round}"))]);
        assert_eq!(fed.said(), ["continue as new"]);
        fed = fed.next([]);
        fed.feed([named("go", format!("g{round}"))]);
        if round == 1 {
            assert_eq!(fed.said(), ["continue as new"]);
            fed = fed.next([]);
        }
    }
    assert_eq!(fed.result(), json!(["g2"]));
}

#[test]
fn a_run_that_waits_continues_for_signals_that_are_kept_from_it() {
    let mut fed = Fed::new(WAITS, json!({}));
    fed.commands = fed.driver.move_on().unwrap();
    assert_eq!(fed.said(), ["continue as new"]);
    assert_eq!(fed.next([]).driver.listening().len(), 1);
    // Where it cannot it stays as it is.
    let mut busy = Fed::new("\n  - a: {call: p.a}\n  - b: {call: p.b}\n", json!({}));
    assert_eq!(busy.driver.move_on(), Ok(Vec::new()));
    busy.feed([done(1, json!(1))]);
    assert_eq!(busy.said(), ["activity 2 p.b 1"]);
}

#[test]
fn a_run_that_waits_stays_where_its_place_says_not_all_or_its_revision_is_earlier() {
    for tasks in [
        "\n  - l: {timeout: {after: PT9S}, listen: {to: {one: {with: {type: go}}}}}\n",
        "\n  - f: {fork: {branches: [{l: {listen: {to: {one: {with: {type: go}}}}}}]}}\n",
    ] {
        let mut fed = Fed::new(tasks, json!({}));
        fed.suggested = true;
        fed.feed([signal("other", json!(1))]);
        assert_eq!(fed.said(), [""; 0], "{tasks}");
    }
    let mut start = start_of(&document(WAITS), &json!({}));
    start.revision = 3;
    let mut fed = Fed::start(start);
    fed.suggested = true;
    fed.feed([signal("other", json!(1))]);
    assert_eq!(fed.said(), [""; 0]);
    assert_eq!(fed.driver.move_on(), Ok(Vec::new()));
    fed.feed([signal("go", json!(1))]);
    assert_eq!(fed.said(), ["continue as new"]);
}

#[test]
fn an_update_that_nobody_takes_does_not_make_a_waiting_run_continue() {
    let tasks = "\n  - l: {listen: {to: {one: {with: {type: go}}}}, metadata: {heyday: {update: {}}}}\n  - a: {call: p.a}\n";
    let mut fed = Fed::new(tasks, json!({}));
    fed.suggested = true;
    let offer = || Resolution::Offer(Box::new(Signal::new("x", "u", Payload::null())));
    fed.feed([offer()]);
    assert_eq!(fed.said(), [""; 0]);
    assert!(fed.driver.take_verdicts()[0].1.is_err());
    fed.feed([offer(), signal("other", json!(1))]);
    assert_eq!(fed.said(), ["continue as new"]);
    assert_eq!(fed.driver.take_verdicts().len(), 1);
}

#[test]
fn what_comes_after_in_the_same_activation_is_not_lost() {
    let mut fed = Fed::new(
        "\n  - a: {call: p.a}\n  - b: {call: p.b}\n  - c: {call: p.c}\n",
        json!({}),
    );
    fed.suggested = true;
    fed.feed([done(1, json!(1)), signal("late", json!(1))]);
    assert_eq!(fed.said(), ["activity 2 p.b 1"]);
    // Nor is a cancel, after which it does not continue either.
    let mut cancelled = Fed::new("\n  - a: {call: p.a}\n  - b: {call: p.b}\n", json!({}));
    cancelled.suggested = true;
    cancelled.feed([done(1, json!(1)), cancel()]);
    assert_eq!(cancelled.said(), ["activity 2 p.b 1", "cancel activity 2"]);
    let mut early = Fed::new(
        "\n  - t: {try: [{a: {call: p.a}}], catch: {errors: {with: {type: 'urn:heyday:errors:cancelled'}}, do: [{b: {call: p.b}}, {c: {call: p.c}}]}}\n",
        json!({}),
    );
    early.suggested = true;
    early.feed([cancel()]);
    early.feed([stopped(1)]);
    early.feed([done(2, json!(1))]);
    assert_eq!(early.said(), ["activity 3 p.c 1"]);
    early.feed([done(3, json!(1))]);
    assert_eq!(early.said(), ["cancelled enough"]);
}

#[test]
fn an_offered_update_that_nobody_takes_changes_nothing() {
    let tasks = "\n  - a: {call: p.a}\n  - b: {call: p.b}\n";
    let offer = Signal::new("x", "u", Payload::json(&json!(1)));
    let mut live = Fed::new(tasks, json!({}));
    live.suggested = true;
    live.feed([
        done(1, json!(1)),
        Resolution::Offer(Box::new(offer.clone())),
    ]);
    // On replay it does not come.
    let mut replayed = Fed::new(tasks, json!({}));
    replayed.suggested = true;
    replayed.feed([done(1, json!(1))]);
    assert_eq!(live.commands, replayed.commands);
    assert_eq!(live.said(), ["continue as new"]);
    assert_eq!(live.driver.take_verdicts(), []);
    // One that comes before is judged, and leaves no trace either.
    let mut live = Fed::new(tasks, json!({}));
    live.suggested = true;
    live.feed([Resolution::Offer(Box::new(offer)), done(1, json!(1))]);
    assert_eq!(live.commands, replayed.commands);
    assert_eq!(live.driver.take_verdicts().len(), 1);
}

const HUB: &str = r#"
  - hub:
      listen:
        to: {all: [{with: {type: a}, correlate: {room: {from: "${ .data.room }"}}}, {with: {type: b}, correlate: {room: {from: "${ .data.room }"}}}, {with: {type: c}}]}
        read: envelope
      foreach: {item: event, at: i, do: [{x: {call: p.a, with: {i: "${ $i }", type: "${ $event.type }"}}}], output: {as: "{n: .n}"}}
"#;

#[test]
fn a_listen_goes_on_between_two_events() {
    let named = |name: &str, id: &str, room: u64| {
        let data = Payload::json(&json!({ "room": room }));
        Resolution::Signal(Box::new(Signal::new(name, id, data)))
    };
    let mut fed = Fed::new(HUB, json!({}));
    fed.suggested = true;
    // One that it looked at and passed by waits for others, and is carried as such.
    fed.feed([named("x", "0", 1), named("a", "1", 4)]);
    assert_eq!(fed.said(), [r#"activity 1 p.a {"i":0,"type":"a"}"#]);
    fed.feed([done(1, json!({"n": 1}))]);
    let mut next = fed.next([]);
    assert_eq!(next.said(), [""; 0]);
    assert_eq!(next.driver.listening().len(), 1);
    // Another room; what was heard of the first is known.
    next.feed([named("b", "2", 5)]);
    let mut next = next.next([]);
    assert_eq!(next.said(), [""; 0]);
    next.feed([named("b", "3", 4)]);
    assert_eq!(next.said(), [r#"activity 1 p.a {"i":1,"type":"b"}"#]);
    next.feed([done(1, json!({"n": 2}))]);
    let mut last = next.next([named("c", "4", 0)]);
    assert_eq!(last.said(), [r#"activity 1 p.a {"i":2,"type":"c"}"#]);
    let state = last.driver.query(STATE_QUERY, &json!(null)).unwrap();
    let waiting: Vec<_> = state["signals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["id"])
        .collect();
    assert_eq!(waiting, ["0", "2"]);
    last.feed([done(1, json!({"n": 3}))]);
    assert_eq!(last.result(), json!([{"n": 1}, {"n": 2}, {"n": 3}]));
}

#[test]
fn a_signal_counts_once_over_all_runs() {
    let tasks = "\n  - l: {listen: {to: {one: {with: {type: go}}}}}\n  - m: {listen: {to: {one: {with: {type: go}}}}}\n";
    let mut fed = Fed::new(tasks, json!({}));
    fed.suggested = true;
    fed.feed([signal("go", json!(1))]);
    let mut next = fed.next([]);
    next.driver.take_consumed();
    next.feed([signal("go", json!(2))]);
    assert_eq!(next.said(), ["continue as new"]);
    // Whoever counts those that wait is told that it is gone.
    assert_eq!(next.driver.take_consumed(), ["go"]);
    let mut last = next.next([]);
    let other = Signal::new("go", "another", Payload::json(&json!(3)));
    last.feed([Resolution::Signal(Box::new(other))]);
    assert_eq!(last.result(), json!([3]));
}

#[test]
fn an_update_is_answered_before_and_its_id_is_known_after() {
    let tasks = r#"
  - hub:
      listen: {to: {any: [{with: {type: add}}, {with: {type: stop}}], until: "${ .[1] == 0 }"}}
      metadata: {heyday: {update: {answer: "${ . }"}}}
"#;
    let update = |id: &str, value: u64| Signal::new("add", id, Payload::json(&json!(value)));
    let mut fed = Fed::new(tasks, json!({}));
    fed.suggested = true;
    fed.feed([Resolution::Offer(Box::new(update("u1", 5)))]);
    assert_eq!(fed.said(), ["complete update u1", "continue as new"]);
    let mut next = fed.next([]);
    let refused = next.driver.validate(&update("u1", 6)).unwrap().unwrap_err();
    assert_eq!(refused.details.unwrap()[ENDED_BEFORE], true);
    next.feed([Resolution::Offer(Box::new(update("u2", 0)))]);
    assert_eq!(next.result(), json!([5, 0]));
}

#[test]
fn a_timeout_of_the_whole_flow_goes_on_over_all_runs() {
    let text = "document: {dsl: '1.0.3', namespace: test, name: sample, version: '0.1.0'}\ntimeout: {after: PT10S}\ndo:\n  - a: {call: p.a}\n  - b: {call: p.b}\n  - c: {call: p.c}\n";
    let mut fed = Fed::start(start_of(text, &json!({})));
    assert_eq!(fed.said(), ["timer 1 10000ms", "activity 1 p.a {}"]);
    fed.suggested = true;
    fed.later(4_000, done(1, json!(1)));
    let mut next = fed.next([]);
    assert_eq!(next.said(), ["timer 1 6000ms", "activity 1 p.b 1"]);
    next.later(5_000, done(1, json!(2)));
    let mut last = next.next([]);
    assert_eq!(last.said(), ["timer 1 1000ms", "activity 1 p.c 2"]);
    last.later(1_000, fired(1));
    assert_eq!(last.said(), ["cancel activity 1"]);
    last.feed([stopped(1)]);
    // It is the flow's time that is over.
    assert!(
        last.failure().message.contains("PT10S"),
        "{:?}",
        last.failure()
    );
}

#[test]
fn the_run_is_the_same_to_its_flow() {
    let tasks = r#"
  - a: {call: p.a}
  - b: {set: {id: "${ $workflow.id }", at: "${ $workflow.startedAt.iso8601 }", run: "${ $runtime.metadata.runId }"}}
  - c: {call: p.b, with: {all: "${ . }"}}
"#;
    let start = start_of(&document(tasks), &json!({}));
    let (first, at) = (start.run_id, start.started_at.to_string());
    let (end, runs) = play(start, true, numbered);
    assert_eq!(runs, 2);
    assert_eq!(
        end.result()["in"]["all"],
        json!({"id": first, "at": at, "run": Uuid::from_u128(8)})
    );
}

#[test]
fn random_numbers_go_on() {
    let tasks = "\n  - a: {call: p.a}\n  - t: {try: [{b: {call: p.b, with: {fail: 1}}}], catch: {retry: {delay: PT1S, jitter: {from: PT0S, to: PT1S}, limit: {attempt: {count: 3}}}, do: [{c: {set: {x: 1}}}]}}\n";
    let answer = |count: u64, input: &Value| match input.get("fail") {
        Some(_) => Err(Failure::permanent("broken", "it broke")),
        None => numbered(count, input),
    };
    let delays = |suggested: bool| {
        let start = start_of(&document(tasks), &json!({}));
        let (fed, runs) = play(start, suggested, answer);
        let commands = fed.log.iter().flat_map(|(_, commands)| commands);
        let timers = commands.filter_map(|command| match command {
            Command::StartTimer { duration, .. } => Some(*duration),
            _ => None,
        });
        (timers.collect::<Vec<_>>(), runs)
    };
    let (once, often) = (delays(false), delays(true));
    assert_eq!((once.0.len(), once.1, often.1), (3, 1, 2));
    assert_eq!(once.0, often.0);
}

#[test]
fn the_next_run_holds_no_more_than_the_one_before() {
    // The same value as input, context, and each level's data; all but the limit of it.
    let text = "x".repeat(900);
    let tasks = "\n  - l: {do: [{m: {do: [{a: {call: p.a, with: {x: 1}, output: {as: \"${ $input }\"}}}, {b: {call: p.b, with: {x: 2}, output: {as: \"${ $input }\"}}}]}}]}\n";
    let mut start = start_of(&document(tasks), &json!(text));
    start.limits.data_bytes = 3_000;
    let (end, runs) = play(start, true, numbered);
    assert_eq!((end.result(), runs), (json!(text), 2));
}

#[test]
fn values_nest_as_deep_as_before() {
    let deepest = (0..super::super::data::MAX_DEPTH - 1).fold(json!(1), |value, _| json!([value]));
    let tasks = "\n  - a: {call: p.a, output: {as: \"${ $input }\"}, export: {as: \"${ [$input] }\"}}\n  - b: {call: p.b, output: {as: \"${ $context }\"}}\n";
    assert_eq!(same_in(2, tasks, &deepest), json!([deepest]));
}

#[test]
fn what_is_no_carried_state_is_said_at_the_start() {
    let start = start_of(&document("\n  - a: {call: p.a}\n"), &json!({}));
    let expressions: Arc<dyn Expressions> = Arc::new(TinyJqForTests::default());
    for resume in [
        Payload::json(&json!({"position": 7})),
        Payload::null(),
        Payload {
            metadata: [(ENCODING.to_owned(), "odd".into())].into(),
            ..Payload::null()
        },
    ] {
        let start = RunStart {
            resume: Some(resume),
            ..start.clone()
        };
        let error = Driver::new(start, &expressions).unwrap_err();
        assert!(matches!(error, DriverError::Unexpected(_)), "{error}");
    }
    // A place that the flow does not have, and a value that is not there, fail the run.
    let mut fed = Fed::new("\n  - a: {call: p.a}\n  - b: {call: p.b}\n", json!({}));
    fed.suggested = true;
    fed.feed([done(1, json!(1))]);
    let carried = fed.resume().unwrap().to_json().unwrap();
    let with = |pointer: &str, value: Value| {
        let mut changed = carried.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        let mut start = fed.start.clone();
        start.resume = Some(Payload::json(&changed));
        Fed::start(start)
    };
    assert_eq!(
        with("/position/data", json!(9)).failure().kind,
        kind::INTERNAL
    );
    let misplaced = json!({"started_at": "2026-01-01T00:00:00Z", "input": 0, "round": {"do": {"at": 0, "data": 0}}});
    let mut position = carried["position"].clone();
    position["task"] = misplaced;
    assert_eq!(with("/position", position).failure().kind, kind::INTERNAL);
}
