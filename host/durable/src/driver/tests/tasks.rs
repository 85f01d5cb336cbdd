//! What the tasks do that reach nothing outside.

use super::*;

#[test]
fn set_replaces() {
    assert_eq!(
        result_of(
            "\n  - one: {set: {a: \"${ .x }\"}}\n",
            json!({"x": {"y": 1}, "z": 2})
        ),
        json!({"a": {"y": 1}})
    );
    assert_eq!(
        result_of("\n  - one: {set: \"${ .x }\"}\n", json!({"x": [1]})),
        json!([1])
    );
}

#[test]
fn do_runs_in_order() {
    let tasks = r#"
  - all:
      do:
        - red: {set: {colors: "${ .colors + [\"red\"] }"}}
        - green: {set: {colors: "${ .colors + [\"green\"] }"}}
"#;
    assert_eq!(
        result_of(tasks, json!(null)),
        json!({"colors": ["red", "green"]})
    );
}

#[test]
fn directives_lead_where_they_say() {
    let tasks = r#"
  - red: {set: {colors: "${ .colors + [\"red\"] }"}, then: green}
  - blue: {set: {colors: "${ .colors + [\"blue\"] }"}, then: end}
  - green: {set: {colors: "${ .colors + [\"green\"] }"}, then: blue}
  - never: {set: {z: 0}}
"#;
    assert_eq!(
        result_of(tasks, json!({})),
        json!({"colors": ["red", "green", "blue"]})
    );
}

#[test]
fn exit_ends_its_list_and_end_the_flow() {
    let tasks = |directive: &str| {
        format!(
            r#"
  - outer:
      do:
        - one: {{set: {{n: 1}}, then: {directive}}}
        - two: {{set: {{n: 2}}}}
      output: {{as: "{{outer: .n}}"}}
      export: {{as: "{{exported: true}}"}}
  - after: {{set: {{after: "${{ . }}", context: "${{ $context }}"}}}}
"#
        )
    };
    assert_eq!(
        result_of(&tasks("exit"), json!({})),
        json!({"after": {"outer": 1}, "context": {"exported": true}})
    );
    assert_eq!(
        result_of(&tasks("continue"), json!({})),
        json!({"after": {"outer": 2}, "context": {"exported": true}})
    );
    assert_eq!(result_of(&tasks("end"), json!({})), json!({"n": 1}));
}

#[test]
fn end_from_deep_within_still_transforms_the_workflow_output() {
    let text = document(
        r#"
  - loop:
      for: {in: "[1, 2]"}
      do:
        - try:
            try:
              - stop: {set: {at: "${ $item }"}, then: end}
            catch: {}
  - after: {set: {z: 0}}
"#,
    ) + "output: {as: '{final: .at}'}\n";
    assert_eq!(
        Fed::start(start_of(&text, &json!({}))).result(),
        json!({"final": 1})
    );
}

const SWITCH: &str = r#"
  - choose:
      switch:
        - red: {when: .color == "red", then: setRed}
        - blue: {when: .color == "blue", then: exit}
      then: setOther
  - setRed: {set: {chose: red}, then: end}
  - setOther: {set: {chose: "${ .color }"}}
"#;

#[test]
fn switch_goes_where_the_first_matching_case_says() {
    assert_eq!(
        result_of(SWITCH, json!({"color": "red"})),
        json!({"chose": "red"})
    );
    assert_eq!(
        result_of(SWITCH, json!({"color": "blue"})),
        json!({"color": "blue"})
    );
}

#[test]
fn switch_without_a_match_goes_on_as_the_task_says() {
    assert_eq!(
        result_of(SWITCH, json!({"color": "green"})),
        json!({"chose": "green"})
    );
}

#[test]
fn switch_takes_its_default_last_wherever_it_stands() {
    let tasks = r#"
  - choose:
      switch:
        - other: {then: end}
        - one: {when: .x == 1, then: hit}
  - miss: {set: {hit: false}, then: end}
  - hit: {set: {hit: true}}
"#;
    assert_eq!(result_of(tasks, json!({"x": 1})), json!({"hit": true}));
    assert_eq!(result_of(tasks, json!({"x": 2})), json!({"x": 2}));
}

#[test]
fn for_passes_each_output_on() {
    let tasks = r#"
  - loop:
      for: {each: color, in: .colors}
      do:
        - mark:
            set:
              processed: "${ {colors: (.processed.colors + [$color]), indexes: (.processed.indexes + [$index])} }"
"#;
    assert_eq!(
        result_of(tasks, json!({"colors": ["red", "green"]})),
        json!({"processed": {"colors": ["red", "green"], "indexes": [0, 1]}})
    );
    assert_eq!(
        result_of(tasks, json!({"colors": []})),
        json!({"colors": []})
    );
}

#[test]
fn for_stops_where_while_no_longer_holds() {
    let tasks = r#"
  - loop:
      for: {each: x, in: "[5, 6, 7]", at: i}
      while: "(.sum != 11) and ($input.sum == null) and ($i < 3)"
      do:
        - add: {set: {sum: "${ .sum + $x }"}}
"#;
    assert_eq!(result_of(tasks, json!({})), json!({"sum": 11}));
}

#[test]
fn exit_in_a_for_ends_the_iteration() {
    let tasks = r#"
  - loop:
      for: {each: x, in: "[1, 2, 3]"}
      do:
        - odd: {if: $x == 2, set: "${ . }"}
        - skip:
            switch:
              - two: {when: $x == 2, then: exit}
        - add: {set: {seen: "${ .seen + [$x] }"}}
"#;
    assert_eq!(result_of(tasks, json!({})), json!({"seen": [1, 3]}));
}

#[test]
fn for_over_something_else_is_an_error() {
    for input in ["{}", "null", "1"] {
        let tasks =
            format!("\n  - loop: {{for: {{in: '{input}'}}, do: [{{a: {{set: {{z: 0}}}}}}]}}\n");
        let fault = Fed::new(&tasks, json!({})).fault();
        assert_eq!(
            (&fault["type"], &fault["instance"]),
            (&json!(crate::flow::error::EXPRESSION), &json!("/do/0/loop"))
        );
    }
}

#[test]
fn fork_answers_all_outputs_in_their_order() {
    let tasks = r#"
  - both:
      fork:
        branches:
          - slow: {call: p.a}
          - mid: {set: {b: "${ .x }"}}
          - fast: {call: p.b}
"#;
    let mut fed = Fed::new(tasks, json!({"x": 1}));
    assert_eq!(
        fed.said(),
        [r#"activity 1 p.a {"x":1}"#, r#"activity 2 p.b {"x":1}"#]
    );
    fed.feed([done(2, json!("fast"))]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([done(1, json!("slow"))]);
    assert_eq!(fed.result(), json!(["slow", {"b": 1}, "fast"]));
}

#[test]
fn a_competing_fork_answers_the_first_and_cancels_the_others() {
    let tasks = r#"
  - race:
      fork:
        compete: true
        branches:
          - a: {call: p.a}
          - b: {call: p.b}
          - c: {wait: PT5S}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([done(2, json!("won"))]);
    assert_eq!(fed.said(), ["cancel activity 1", "cancel timer 1"]);
    fed.feed([done(1, json!("too late"))]);
    assert_eq!(fed.result(), json!("won"));
}

#[test]
fn a_race_that_is_won_at_once_begins_no_later_branch() {
    let tasks = r#"
  - race:
      fork:
        compete: true
        branches:
          - a: {wait: PT1S}
          - b: {set: {won: b}}
          - c: {call: p.a}
"#;
    let fed = Fed::new(tasks, json!({}));
    assert_eq!(
        fed.said(),
        [
            "timer 1 1000ms",
            "cancel timer 1",
            r#"complete {"won":"b"}"#
        ]
    );
}

#[test]
fn a_failed_branch_cancels_the_others_and_fails_the_fork() {
    for compete in ["true", "false"] {
        let tasks = format!(
            r#"
  - both:
      fork:
        compete: {compete}
        branches:
          - a: {{call: p.a}}
          - b: {{call: p.b}}
"#
        );
        let mut fed = Fed::new(&tasks, json!({}));
        fed.feed([failed(2, "broken")]);
        assert_eq!(fed.said(), ["cancel activity 1"]);
        fed.feed([stopped(1)]);
        assert_eq!(fed.fault()["instance"], "/do/0/both/fork/branches/1/b");
        assert_eq!(fed.fault()["failure"]["kind"], "broken");
    }
}

#[test]
fn end_in_a_branch_ends_the_flow() {
    let tasks = r#"
  - both:
      fork:
        branches:
          - a: {call: p.a}
          - b: {set: {b: 1}, then: end}
  - after: {call: p.c}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    assert_eq!(fed.said(), ["activity 1 p.a {}", "cancel activity 1"]);
    fed.feed([stopped(1)]);
    assert_eq!(fed.result(), json!({"b": 1}));
}

#[test]
fn wait_is_a_timer_and_passes_its_input_on() {
    let mut fed = Fed::new(
        "\n  - rest: {wait: {minutes: 1, seconds: 30}}\n",
        json!({"x": 1}),
    );
    assert_eq!(fed.said(), ["timer 1 90000ms"]);
    assert!(matches!(&fed.commands[0], Command::StartTimer { task, .. } if task == "/do/0/rest"));
    fed.later(90_000, fired(1));
    assert_eq!(fed.result(), json!({"x": 1}));
}

#[test]
fn a_computed_wait_must_be_a_duration() {
    let tasks = "\n  - rest: {wait: \"${ .for }\"}\n";
    assert_eq!(
        Fed::new(tasks, json!({"for": "PT0.5S"})).said(),
        ["timer 1 500ms"]
    );
    assert_eq!(
        Fed::new(tasks, json!({"for": {"hours": 1}})).said(),
        ["timer 1 3600000ms"]
    );
    let fault = Fed::new(tasks, json!({"for": "soon"})).fault();
    assert_eq!(
        (&fault["type"], &fault["title"]),
        (
            &json!(crate::flow::error::EXPRESSION),
            &json!("Invalid duration")
        )
    );
}

#[test]
fn now_is_the_activation_s() {
    let tasks = r#"
  - rest: {wait: PT1S}
  - when: {set: {at: "${ $task.startedAt.epoch.milliseconds }"}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    fed.later(1_234, fired(1));
    assert_eq!(fed.result(), json!({"at": 1_700_000_001_234_u64}));
}
