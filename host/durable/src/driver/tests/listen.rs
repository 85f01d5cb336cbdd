//! Listening for signals.

use super::*;
use crate::flow::error::CANCELLED;
use crate::payload::{BINARY_NULL, ENCODING};

/// A signal with these attributes beside name and data.
fn event(name: &str, data: Value, attributes: Value) -> Resolution {
    let signal = Signal {
        attributes: attributes.as_object().unwrap().clone(),
        ..Signal::new(name, format!("id of {name}"), Payload::json(&data))
    };
    Resolution::Signal(Box::new(signal))
}

/// One task that listens so, and one that shows what came of it.
fn listen(to: &str) -> String {
    format!("\n  - l: {{listen: {{to: {to}}}}}\n  - after: {{set: {{got: \"${{ . }}\"}}}}\n")
}

fn listening(fed: &Fed) -> Vec<(String, Vec<String>)> {
    let listening = fed.driver.listening().into_iter();
    listening.map(|one| (one.task, one.signals)).collect()
}

#[test]
fn one_waits_for_its_event_and_leaves_the_others() {
    let mut fed = Fed::new(
        "\n  - l: {listen: {to: {one: {with: {type: approve}}}}}\n  - m: {listen: {to: {one: {with: {type: other}}}}, output: {as: \"${ {m: ., l: $input} }\"}}\n",
        json!({}),
    );
    assert_eq!(fed.said(), [""; 0]);
    assert_eq!(
        listening(&fed),
        [("/do/0/l".to_owned(), vec!["approve".to_owned()])]
    );
    fed.feed([signal("other", json!(1))]);
    assert_eq!(fed.driver.take_consumed(), [""; 0]);
    fed.feed([signal("approve", json!({"by": "Ada"}))]);
    assert_eq!(fed.result(), json!({"m": [1], "l": [{"by": "Ada"}]}));
    assert_eq!(fed.driver.take_consumed(), ["approve", "other"]);
    assert_eq!(listening(&fed), []);
}

#[test]
fn signals_that_came_before_are_taken_in_their_order() {
    let tasks = "\n  - w: {call: p.a}\n  - l: {listen: {to: {any: [{with: {type: b}}, {with: {type: a}}]}}}\n  - m: {listen: {to: {any: []}}, output: {as: \"${ [$input, .] }\"}}\n";
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([signal("a", json!(1)), signal("b", json!(2))]);
    assert_eq!(listening(&fed), []);
    fed.feed([done(1, json!({}))]);
    assert_eq!(fed.result(), json!([[1], [2]]));
}

#[test]
fn a_signal_may_be_there_before_the_flow_begins() {
    let start = start_of(&document(&listen("{one: {with: {type: go}}}")), &json!({}));
    let mut driver = driver(&start);
    let commands = driver
        .activate(Activation {
            now: timestamp(0),
            resolutions: vec![signal("go", json!(7))],
            continue_as_new_suggested: false,
        })
        .unwrap();
    assert_eq!(
        commands.iter().map(brief).collect::<Vec<_>>(),
        [r#"complete {"got":[7]}"#]
    );
}

#[test]
fn filters_look_at_attributes_and_data() {
    let room = json!({"source": "https://x.test/4", "room": 7, "open": true});
    for (with, fits) in [
        ("{type: reading}", true),
        ("{type: read}", false),
        ("{type: 'read.*'}", true),
        ("{type: 'read|ing'}", false),
        ("{type: readingX}", false),
        ("{source: 'https://x.test/[0-9]+'}", true),
        ("{source: 'https://x.test/[a-z]+'}", false),
        ("{room: 7}", true),
        ("{room: 8}", false),
        ("{room: '7'}", false),
        ("{open: true}", true),
        ("{absent: x}", false),
        ("{id: id of reading}", true),
        ("{specversion: '1.0'}", true),
        // An expression says whether, or what.
        ("{room: '${ . >= 7 }'}", true),
        ("{room: '${ . < 7 }'}", false),
        ("{room: '${ $context.room }'}", true),
        ("{type: '${ $context.room }'}", false),
        ("{type: '${ $context.nothing }'}", false),
        ("{data: '${ .degrees >= 38 }'}", true),
        ("{data: '${ .degrees >= 40 }'}", false),
        ("{data: '${ .degrees | error }'}", false),
        ("{data: {degrees: 39}}", true),
        ("{data: {degrees: 39.0, at: {x: 1}}}", true),
        ("{data: {degrees: 38}}", false),
        ("{data: {at: {y: 1}}}", false),
        ("{data: {degrees: '${ $context.degrees }'}}", true),
        ("{data: {degrees: '${ $context.room }'}}", false),
        ("{data: [39]}", false),
        (
            "{type: reading, data: '${ .degrees >= 38 }', room: 7}",
            true,
        ),
        (
            "{type: reading, data: '${ .degrees >= 38 }', room: 8}",
            false,
        ),
    ] {
        let tasks = format!(
            "\n  - c: {{set: {{a: 1}}, export: {{as: {{room: 7, degrees: 39}}}}}}{}",
            listen(&format!("{{one: {{with: {with}}}}}"))
        );
        let mut fed = Fed::new(&tasks, json!({}));
        let data = json!({"degrees": 39, "at": {"x": 1, "z": 2}});
        fed.feed([event("reading", data.clone(), room.clone())]);
        if fits {
            assert_eq!(fed.result(), json!({"got": [data]}), "{with}");
        } else {
            assert_eq!(fed.said(), [""; 0], "{with}");
        }
    }
}

#[test]
fn an_expression_that_fails_on_an_event_lets_it_pass_by() {
    let mut fed = Fed::new(
        &listen("{one: {with: {type: t, data: '${ .degrees >= 38 }'}}}"),
        json!({}),
    );
    fed.feed([signal("t", json!("no object"))]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([signal("t", json!({"degrees": 39}))]);
    assert_eq!(fed.result(), json!({"got": [{"degrees": 39}]}));
}

#[test]
fn an_evaluator_that_is_away_is_no_answer() {
    let mut fed = Fed::new(
        &listen("{one: {with: {data: '${ unavailable }'}}}"),
        json!({}),
    );
    assert!(matches!(
        fed.try_feed([signal("t", json!(1))]),
        Err(DriverError::Unavailable(_))
    ));
}

#[test]
fn an_event_is_read_as_the_task_says() {
    let tasks = |read: &str| format!("\n  - l: {{listen: {{to: {{any: []}}, read: {read}}}}}\n");
    let data = json!({"a": [1, null]});
    let read = |how: &str| {
        let mut fed = Fed::new(&tasks(how), json!({}));
        fed.now = 5;
        fed.feed([event("t", data.clone(), json!({"source": "urn:x"}))]);
        fed.result()
    };
    assert_eq!(read("data"), json!([data]));
    assert_eq!(read("raw"), json!([data.to_string()]));
    assert_eq!(
        read("envelope"),
        json!([{
            "specversion": "1.0", "id": "id of t", "source": "urn:x", "type": "t",
            "time": timestamp(5).to_string(), "data": data,
        }])
    );
}

#[test]
fn all_needs_an_event_for_each_filter() {
    let to = "{all: [{with: {type: a}}, {with: {type: b}}, {with: {type: a}}]}";
    let mut fed = Fed::new(&listen(to), json!({}));
    assert_eq!(listening(&fed)[0].1, ["a", "b"]);
    fed.feed([
        signal("b", json!(1)),
        signal("b", json!(2)),
        signal("a", json!(3)),
    ]);
    assert_eq!(fed.said(), [""; 0]);
    // The second b is nobody's.
    assert_eq!(fed.driver.take_consumed(), ["b", "a"]);
    fed.feed([signal("a", json!(4))]);
    assert_eq!(fed.result(), json!({"got": [1, 3, 4]}));
}

#[test]
fn any_goes_on_until_a_condition_holds() {
    let mut fed = Fed::new(&listen("{any: [], until: '(. | length) >= 3'}"), json!({}));
    assert_eq!(listening(&fed)[0].1, ["*"]);
    fed.feed([signal("a", json!(1)), signal("b", json!(2))]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([signal("c", json!(3)), signal("d", json!(4))]);
    assert_eq!(fed.result(), json!({"got": [1, 2, 3]}));
}

#[test]
fn any_goes_on_until_events_came_which_are_not_its_output() {
    let until_one = "{any: [{with: {type: a}}], until: {one: {with: {type: end}}}}";
    let mut fed = Fed::new(&listen(until_one), json!({}));
    assert_eq!(listening(&fed)[0].1, ["a", "end"]);
    fed.feed([
        signal("a", json!(1)),
        signal("x", json!(0)),
        signal("a", json!(2)),
    ]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([signal("end", json!(9))]);
    assert_eq!(fed.result(), json!({"got": [1, 2]}));

    let until_all = "{any: [], until: {all: [{with: {type: x}}, {with: {type: y}}]}}";
    let mut fed = Fed::new(&listen(until_all), json!({}));
    fed.feed([
        signal("y", json!(1)),
        signal("a", json!(2)),
        signal("x", json!(3)),
    ]);
    assert_eq!(fed.result(), json!({"got": [2]}));
}

#[test]
fn correlations_keep_events_together() {
    let filter = |name: &str, expect: &str| {
        format!("{{with: {{type: {name}}}, correlate: {{room: {{from: .room{expect}}}}}}}")
    };
    let reading =
        |name: &str, room: Value, data: i64| event(name, json!(data), json!({"room": room}));
    // The first one counts.
    let to = format!("{{all: [{}, {}]}}", filter("t", ""), filter("h", ""));
    let mut fed = Fed::new(&listen(&to), json!({}));
    fed.feed([
        signal("t", json!(0)),
        reading("t", json!(7), 1),
        reading("h", json!(8), 2),
    ]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([reading("h", json!(7), 3)]);
    assert_eq!(fed.result(), json!({"got": [1, 3]}));
    // One is expected.
    for (expect, fits) in [
        (", expect: '7'", true),
        (", expect: '8'", false),
        (", expect: '${ .room }'", true),
        (", expect: '${ .other }'", false),
    ] {
        let to = format!("{{one: {}}}", filter("t", expect));
        let mut fed = Fed::new(&listen(&to), json!({"room": 7, "other": "7"}));
        fed.feed([reading("t", json!(7), 1)]);
        assert_eq!(!fed.said().is_empty(), fits, "{expect}");
    }
}

#[test]
fn each_event_is_done_with_before_the_next() {
    let tasks = r#"
  - l:
      listen: {to: {any: [{with: {type: n}}], until: {one: {with: {type: end}}}}}
      foreach:
        item: event
        at: i
        do: [{a: {call: p.a, with: {n: "${ $event }", i: "${ $i }", in: "${ . }"}}}]
        output: {as: "{was: $event, answer: .}"}
        export: {as: "{last: .was}"}
  - after: {set: {got: "${ . }", context: "${ $context }"}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([
        signal("n", json!(1)),
        signal("n", json!(2)),
        signal("end", json!(0)),
    ]);
    assert_eq!(fed.said(), [r#"activity 1 p.a {"i":0,"in":1,"n":1}"#]);
    fed.feed([done(1, json!("one"))]);
    assert_eq!(fed.said(), [r#"activity 2 p.a {"i":1,"in":2,"n":2}"#]);
    fed.feed([done(2, json!("two"))]);
    assert_eq!(
        fed.result(),
        json!({
            "got": [{"was": 1, "answer": "one"}, {"was": 2, "answer": "two"}],
            "context": {"last": 2},
        })
    );
}

#[test]
fn without_an_output_of_its_own_each_event_is_itself() {
    let tasks = r#"
  - l: {listen: {to: {any: []}}, foreach: {do: [{a: {set: {x: "${ $item }"}}}]}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([signal("n", json!(1))]);
    assert_eq!(fed.result(), json!([1]));
    let ends = r#"
  - l: {listen: {to: {any: [], until: "false"}}, foreach: {do: [{a: {set: {x: "${ $item }"}, then: end}}]}}
  - never: {set: {z: 0}}
"#;
    let mut fed = Fed::new(ends, json!({}));
    fed.feed([signal("n", json!(1))]);
    assert_eq!(fed.result(), json!({"x": 1}));
}

#[test]
fn a_timeout_ends_the_wait_and_the_signal_is_for_the_next() {
    let tasks = r#"
  - guard:
      try:
        - l: {timeout: {after: PT5S}, listen: {to: {one: {with: {type: approve}}}}}
      catch: {errors: {with: {status: 408}}, do: [{late: {listen: {to: {any: []}}}}]}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    assert_eq!(fed.said(), ["timer 1 5000ms"]);
    fed.feed([signal("reject", json!(1))]);
    fed.later(5_000, fired(1));
    assert_eq!(fed.result(), json!([1]));

    let mut fed = Fed::new(tasks, json!({}));
    fed.later(10, signal("approve", json!(2)));
    assert_eq!(fed.said(), ["cancel timer 1", "complete [2]"]);
}

#[test]
fn a_cancel_ends_the_wait() {
    let tasks = format!(
        "\n  - guard: {{try: [{{l: {{listen: {{to: {{any: []}}}}}}}}], catch: {{errors: {{with: {{type: '{CANCELLED}'}}}}, do: [{{c: {{call: p.a}}}}]}}}}\n"
    );
    let mut fed = Fed::new(&tasks, json!({}));
    fed.feed([cancel()]);
    assert_eq!(fed.said(), ["activity 1 p.a {}"]);
    fed.feed([signal("late", json!(1)), done(1, json!(1))]);
    assert_eq!(fed.said(), ["cancelled enough"]);
}

#[test]
fn branches_share_what_comes() {
    let tasks = r#"
  - both:
      fork:
        branches:
          - a: {listen: {to: {any: [{with: {type: x}}]}}}
          - b: {listen: {to: {any: []}}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    assert_eq!(listening(&fed).len(), 2);
    fed.feed([signal("x", json!(1))]);
    fed.feed([signal("x", json!(2))]);
    assert_eq!(fed.result(), json!([[1], [2]]));

    let race = r#"
  - race:
      fork:
        compete: true
        branches:
          - a: {listen: {to: {one: {with: {type: approve}}}}}
          - b: {wait: PT5S}
"#;
    let mut fed = Fed::new(race, json!({}));
    fed.feed([signal("approve", json!(1))]);
    assert_eq!(fed.said(), ["cancel timer 1", "complete [1]"]);
}

#[test]
fn a_signal_counts_as_data_that_the_run_holds() {
    let mut start = start_of(
        &document(&listen("{one: {with: {type: never}}}")),
        &json!({}),
    );
    start.limits.data_bytes = 1_000;
    let mut fed = Fed::start(start);
    fed.feed([signal("a", json!("x".repeat(500)))]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([signal("b", json!("x".repeat(500)))]);
    let failure = fed.failure();
    assert_eq!(failure.kind, crate::failure::kind::LIMIT_EXCEEDED);
    assert_eq!(failure.details.unwrap()["task"], "/signals");
}

#[test]
fn a_signal_that_is_no_json_is_nobodys() {
    let mut fed = Fed::new(&listen("{any: []}"), json!({}));
    let mut payload = Payload::json_bytes(bytes::Bytes::from_static(b"{not json"));
    fed.feed([Resolution::Signal(Box::new(Signal::new(
        "a",
        "1",
        payload.clone(),
    )))]);
    payload.metadata.insert(
        ENCODING.to_owned(),
        bytes::Bytes::from_static(b"json/protobuf"),
    );
    fed.feed([Resolution::Signal(Box::new(Signal::new("a", "2", payload)))]);
    assert_eq!(fed.said(), [""; 0]);
    assert_eq!(fed.driver.take_consumed(), ["1", "2"]);
    let null = Payload::null();
    assert_eq!(null.encoding(), BINARY_NULL);
    fed.feed([Resolution::Signal(Box::new(Signal::new("a", "3", null)))]);
    assert_eq!(fed.result(), json!({"got": [null]}));
}

#[test]
fn too_many_signals_at_once_are_too_many_steps() {
    let mut start = start_of(&document(&listen("{any: [], until: 'false'}")), &json!({}));
    start.limits.tasks_per_activation = 50;
    let mut fed = Fed::start(start);
    fed.feed((0..40).map(|n| signal("a", json!(n))));
    assert_eq!(fed.said(), [""; 0]);
    fed.feed((0..60).map(|n| signal("a", json!(n))));
    assert_eq!(
        fed.failure().details.unwrap()["limit"],
        "tasks_per_activation"
    );
}
