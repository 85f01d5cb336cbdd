//! Rules of the DSL's reference that the other files do not come to: what each expression
//! sees, reusable components, and how scopes, durations and limits meet.

use super::*;
use crate::flow::error::{COMMUNICATION, EXPRESSION, TIMEOUT};

/// Which of the specification's arguments there are.
const SEEN: &str = "[$context != null, $input != null, $output != null, $task != null, $workflow != null, $runtime != null]";

#[test]
fn each_expression_sees_the_arguments_that_the_specification_gives_it() {
    let tasks = format!(
        r#"
  - one:
      if: "($context != null) and ($input == null) and ($output == null) and ($task != null) and ($workflow != null) and ($runtime != null)"
      input: {{from: "{{workflow_input: .workflow_input, task_input: {SEEN}}}"}}
      set: {{before: "${{ . }}", task: "${{ {SEEN} }}"}}
      output: {{as: "{{before: .before, task: .task, task_output: {SEEN}}}"}}
      export: {{as: "{{export: {SEEN}}}"}}
"#
    );
    let text = document(&tasks)
        + &format!(
            "input: {{from: '{{workflow_input: {SEEN}}}'}}\noutput: {{as: '{{last: ., context: $context, workflow_output: {SEEN}}}'}}\n"
        );
    let result = Fed::start(start_of(&text, &json!({"x": 1}))).result();
    let (yes, no) = (true, false);
    for (pointer, seen) in [
        ("/last/before/workflow_input", [no, no, no, no, yes, yes]),
        ("/last/before/task_input", [yes, no, no, yes, yes, yes]),
        ("/last/task", [yes, yes, no, yes, yes, yes]),
        ("/last/task_output", [yes, yes, no, yes, yes, yes]),
        ("/context/export", [yes, yes, yes, yes, yes, yes]),
        ("/workflow_output", [yes, no, no, no, yes, yes]),
    ] {
        assert_eq!(result.pointer(pointer), Some(&json!(seen)), "{pointer}");
    }
}

/// Tasks with every kind of reusable component.
fn with_reusable(tasks: &str) -> String {
    document(tasks)
        + r#"use:
  errors:
    odd: {type: https://example.com/errors/odd, status: 418, title: Odd, detail: "${ .why }"}
  retries:
    twice: {delay: PT1S, backoff: {linear: {}}, limit: {attempt: {count: 2}}}
  timeouts:
    short: {after: {seconds: 5}}
    asked: {after: "${ .limit }"}
  authentications:
    me: {bearer: {token: "${ .token }"}}
    you: {basic: {username: you, password: "${ .token }"}}
"#
}

#[test]
fn reusable_components_are_those_that_are_named() {
    let raise = with_reusable("  - oops: {raise: {error: odd}}\n");
    let fault = Fed::start(start_of(&raise, &json!({"why": "tea"}))).fault();
    assert_eq!(
        fault,
        json!({
            "type": "https://example.com/errors/odd", "status": 418, "title": "Odd",
            "detail": "tea", "instance": "/do/0/oops",
        })
    );

    let retry = with_reusable("  - t: {try: [{a: {call: p.a}}], catch: {retry: twice}}\n");
    let mut fed = Fed::start(start_of(&retry, &json!({})));
    fed.feed([failed(1, "broken")]);
    assert_eq!(fed.said(), ["timer 1 1000ms"]);
    fed.later(1_000, fired(1)).feed([failed(2, "broken")]);
    assert_eq!(fed.said(), ["timer 2 2000ms"]);
    fed.later(2_000, fired(2)).feed([failed(3, "broken")]);
    assert_eq!(fed.failure().kind, COMMUNICATION);

    let timeout = with_reusable("  - a: {timeout: asked, call: p.a}\n") + "timeout: short\n";
    let fed = Fed::start(start_of(&timeout, &json!({"limit": "PT2S"})));
    assert_eq!(
        fed.said()[..2],
        ["timer 1 5000ms".to_owned(), "timer 2 2000ms".to_owned()]
    );

    for (name, expected) in [
        ("me", json!({"bearer": {"token": "secret"}})),
        (
            "you",
            json!({"basic": {"username": "you", "password": "secret"}}),
        ),
    ] {
        let http = with_reusable(&format!(
            "  - get: {{call: http, with: {{method: get, endpoint: {{uri: 'https://example.com', authentication: {{use: {name}}}}}}}}}\n"
        ));
        let fed = Fed::start(start_of(&http, &json!({"token": "secret"})));
        let request = fed.activity().input.to_json().unwrap();
        assert_eq!(request["authentication"], expected);
    }
}

#[test]
fn a_raised_error_is_what_its_members_say() {
    let tasks = r#"
  - oops:
      raise: {error: {type: "${ .type }", status: 409, title: "${ .title }", instance: /elsewhere}}
"#;
    let input = json!({"type": "https://example.com/taken", "title": "Taken"});
    assert_eq!(
        Fed::new(tasks, input).fault(),
        json!({"type": "https://example.com/taken", "status": 409, "title": "Taken", "instance": "/elsewhere"})
    );
    let fault = Fed::new(tasks, json!({"type": 5})).fault();
    assert_eq!(
        (&fault["type"], &fault["title"]),
        (&json!(EXPRESSION), &json!("Invalid URI"))
    );
    let template =
        "\n  - oops: {raise: {error: {type: 'https://example.com/{kind}', status: 400}}}\n";
    assert_eq!(
        Fed::new(template, json!({"kind": "a b"})).fault()["type"],
        "https://example.com/a%20b"
    );
}

#[test]
fn a_uri_takes_what_is_text() {
    let tasks =
        "\n  - get: {call: http, with: {method: get, endpoint: 'https://example.com/{x}'}}\n";
    for (value, path) in [
        (json!("a/b"), "a%2Fb"),
        (json!(7), "7"),
        (json!(true), "true"),
        (json!(null), ""),
    ] {
        let fed = Fed::new(tasks, json!({ "x": value }));
        let request = fed.activity().input.to_json().unwrap();
        assert_eq!(request["endpoint"], format!("https://example.com/{path}"));
    }
    for value in [json!([]), json!({})] {
        let fault = Fed::new(tasks, json!({ "x": value })).fault();
        assert_eq!(
            (&fault["type"], &fault["status"]),
            (&json!(EXPRESSION), &json!(400))
        );
    }
}

#[test]
fn exit_and_the_end_of_the_list_end_the_flow_alike() {
    for then in ["exit", "end", "last", "continue"] {
        let tasks = format!(
            "  - one: {{set: {{n: 1}}, output: {{as: '{{m: .n}}'}}, then: {then}}}\n  - two: {{if: $task == null, call: p.a}}\n  - last: {{if: $task == null, call: p.b}}\n"
        );
        let text = document(&tasks) + "output: {as: '{final: .m}'}\n";
        let fed = Fed::start(start_of(&text, &json!({})));
        assert_eq!(fed.result(), json!({"final": 1}), "{then}");
    }
}

#[test]
fn a_composite_goes_on_where_its_own_then_says() {
    let tasks = r#"
  - outer:
      do:
        - in: {set: {x: 1}, then: exit}
        - never: {call: p.a}
      then: far
  - near: {call: p.b}
  - far: {set: {far: "${ .x }"}}
"#;
    assert_eq!(result_of(tasks, json!({})), json!({"far": 1}));
}

#[test]
fn a_then_may_lead_back() {
    let tasks = r#"
  - count: {set: {n: "${ .n + 1 }"}}
  - again:
      switch:
        - more: {when: .n < 3, then: count}
        - enough: {then: exit}
  - never: {call: p.a}
"#;
    assert_eq!(result_of(tasks, json!({"n": 0})), json!({"n": 3}));
}

#[test]
fn a_switch_takes_part_in_the_data_flow() {
    let tasks = r#"
  - skipped:
      if: .never
      switch: [{always: {then: wrong}}]
  - choose:
      input: {from: .inner}
      switch:
        - by_context: {when: $context.way == "right" and .n == 1 and $input.n == 1, then: right}
      output: {as: "{n: .n, raw: $task.input.way}"}
      then: wrong
  - wrong: {raise: {error: {type: https://example.com/wrong, status: 500}}}
  - right: {set: {got: "${ . }"}}
"#;
    assert_eq!(
        result_of(tasks, json!({"way": "right", "inner": {"n": 1}})),
        json!({"got": {"n": 1, "raw": "right"}})
    );
}

#[test]
fn a_loop_has_its_variables_inside_only() {
    let tasks = r#"
  - loop:
      input: {from: .list}
      for: {each: x, in: ., at: i}
      do:
        - deep:
            do:
              - keep: {set: {last: "${ $x }", at: "${ $i }", rest: "${ $input }"}}
            output: {as: "{last: .last, at: .at}"}
      output: {as: "{last: .last, at: .at, x: $x, i: $i}"}
      export: {as: "{kept: .last}"}
  - after: {set: {it: "${ . }", context: "${ $context }", x: "${ $x }"}}
"#;
    assert_eq!(
        result_of(tasks, json!({"list": ["a", "b"]})),
        json!({
            "it": {"last": "b", "at": 1, "x": null, "i": null},
            "context": {"kept": "b"},
            "x": null,
        })
    );
}

#[test]
fn a_loop_whose_condition_fails_at_once_leaves_its_input() {
    let tasks = r#"
  - loop:
      input: {from: .inner}
      for: {in: "[1, 2]"}
      while: .go
      do: [{never: {call: p.a}}]
"#;
    assert_eq!(
        result_of(tasks, json!({"inner": {"n": 1}})),
        json!({"n": 1})
    );
}

#[test]
fn branches_begin_with_the_fork_s_input_and_have_a_data_flow_of_their_own() {
    let tasks = r#"
  - both:
      input: {from: .inner}
      fork:
        branches:
          - skipped: {if: .never, call: p.a}
          - mapped: {input: {from: .n}, set: {n: "${ . }"}, output: {as: .n}, export: {as: "{from: .}"}}
          - list: {do: [{one: {set: {n: "${ .n + 1 }"}}}, {two: {set: {n: "${ .n + 1 }"}}}]}
      output: {as: "{all: .}"}
  - after: {set: {all: "${ .all }", context: "${ $context }"}}
"#;
    assert_eq!(
        result_of(tasks, json!({"inner": {"n": 1}})),
        json!({"all": [{"n": 1}, 1, {"n": 3}], "context": {"from": 1}})
    );
}

#[test]
fn a_race_within_a_race_is_settled_from_the_inside() {
    let tasks = r#"
  - outer:
      fork:
        compete: true
        branches:
          - inner: {fork: {compete: true, branches: [{a: {call: p.a}}, {b: {call: p.b}}]}}
          - c: {call: p.c}
  - after: {set: {won: "${ . }"}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    assert_eq!(fed.commands.len(), 3);
    fed.feed([done(2, json!("b"))]);
    assert_eq!(fed.said(), ["cancel activity 1"]);
    fed.feed([stopped(1)]);
    assert_eq!(fed.said(), ["cancel activity 3"]);
    fed.feed([stopped(3)]);
    assert_eq!(fed.result(), json!({"won": "b"}));
}

#[test]
fn a_caught_error_is_gone_after_its_catch() {
    let tasks = r#"
  - guard:
      try: [{bad: {raise: {error: {type: https://example.com/bad, status: 500}}}}]
      catch:
        as: problem
        do: [{note: {set: {status: "${ $problem.status }"}}}]
      output: {as: "{status: .status, problem: $problem}"}
      then: after
  - never: {call: p.a}
  - after: {set: {it: "${ . }"}}
"#;
    assert_eq!(
        result_of(tasks, json!({})),
        json!({"it": {"status": 500, "problem": null}})
    );
}

#[test]
fn an_error_goes_out_to_the_first_try_that_takes_it() {
    let tasks = r#"
  - outer:
      try:
        - inner:
            try: [{bad: {raise: {error: {type: https://example.com/bad, status: 418, title: Bad}}}}]
            catch:
              errors: {with: {title: Good}}
              do: [{wrong: {call: p.a}}]
      catch:
        errors: {with: {status: 418, instance: /do/0/outer/try/0/inner/try/0/bad}}
        do: [{note: {set: {title: "${ $error.title }"}}}]
"#;
    assert_eq!(result_of(tasks, json!({})), json!({"title": "Bad"}));
}

#[test]
fn an_error_anywhere_in_a_task_is_that_task_s() {
    for part in [
        "if: '.x.y', set: {a: 1}",
        "input: {from: '.x.y'}, set: {a: 1}",
        "set: {a: '${ .x.y }'}",
        "set: {a: 1}, output: {as: '.a.y'}",
        "set: {a: 1}, export: {as: '.a.y'}",
        "for: {in: '.x.y'}, do: []",
        "for: {in: '[1]'}, while: '.x.y', do: []",
        "switch: [{a: {when: '.x.y', then: end}}]",
        "wait: '${ .x.y }'",
        "wait: PT1S, timeout: {after: '${ .x.y }'}",
        "call: p.a, with: {a: '${ .x.y }'}",
        "call: http, with: {method: get, endpoint: '${ .x.y }'}",
        "raise: {error: {type: 'https://example.com/x', status: '${ .x.y }'}}",
        "run: {workflow: {namespace: n, name: w, version: latest, input: '${ .x.y }'}}",
    ] {
        let tasks = format!(
            r#"
  - guard:
      try: [{{bad: {{{part}}}}}]
      catch: {{errors: {{with: {{type: "{EXPRESSION}", status: 400}}}}, do: [{{note: {{set: {{at: "${{ $error.instance }}"}}}}}}]}}
"#
        );
        assert_eq!(
            result_of(&tasks, json!({"x": 1})),
            json!({"at": "/do/0/guard/try/0/bad"}),
            "{part}"
        );
    }
}

/// A `try` around `p.a` with this retry policy.
fn retried(policy: &str) -> String {
    format!("\n  - t: {{try: [{{a: {{call: p.a}}}}], catch: {{as: err, retry: {{{policy}}}}}}}\n")
}

#[test]
fn a_retry_policy_may_be_computed() {
    let policy = "when: '$err.status == 500 and .go', delay: '${ .delay }', jitter: {from: '${ .from }', to: PT5S}, limit: {duration: '${ .limit }'}";
    let input = json!({"go": true, "delay": {"seconds": 2}, "from": "PT5S", "limit": "PT20S"});
    let mut fed = Fed::new(&retried(policy), input);
    fed.feed([failed(1, "broken")]);
    assert_eq!(fed.said(), ["timer 1 7000ms"]);
    fed.later(7_000, fired(1)).feed([failed(2, "broken")]);
    assert_eq!(fed.said(), ["timer 2 7000ms"]);
    // 14 s are over; a third wait would end after 20.
    fed.later(7_000, fired(2)).feed([failed(3, "broken")]);
    assert_eq!(fed.failure().kind, COMMUNICATION);

    let input = json!({"go": false, "delay": "PT1S", "from": "PT0S", "limit": "PT1M"});
    let mut fed = Fed::new(&retried(policy), input);
    fed.feed([failed(1, "broken")]);
    assert_eq!(fed.failure().kind, COMMUNICATION);

    let input = json!({"go": true, "delay": "soon", "from": "PT0S", "limit": "PT1M"});
    let mut fed = Fed::new(&retried(policy), input);
    fed.feed([failed(1, "broken")]);
    assert_eq!(fed.fault()["title"], "Invalid duration");
}

#[test]
fn a_policy_of_no_retries_has_none_and_jitter_alone_waits() {
    let mut fed = Fed::new(
        &retried("delay: PT1S, limit: {attempt: {count: 0}}"),
        json!({}),
    );
    fed.feed([failed(1, "broken")]);
    assert_eq!(fed.failure().kind, COMMUNICATION);
    let mut fed = Fed::new(&retried("jitter: {from: PT2S, to: PT2S}"), json!({}));
    fed.feed([failed(1, "broken")]);
    assert_eq!(fed.said(), ["timer 1 2000ms"]);
}

#[test]
fn each_time_a_try_is_come_to_its_retries_count_anew() {
    let tasks = r#"
  - loop:
      for: {in: "[1, 2]"}
      do:
        - t: {try: [{a: {call: p.a, with: {n: "${ $item }"}}}], catch: {retry: {limit: {attempt: {count: 1}}}}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    for (id, n) in [(1, 1), (2, 2)] {
        let first = 2 * id - 1;
        assert_eq!(fed.said(), [format!("activity {first} p.a {{\"n\":{n}}}")]);
        fed.feed([failed(first, "broken")]);
        assert_eq!(
            fed.said(),
            [format!("activity {} p.a {{\"n\":{n}}}", 2 * id)]
        );
        fed.feed([done(2 * id, json!(n))]);
    }
    assert_eq!(fed.result(), json!(2));
}

#[test]
fn a_timeout_ends_the_wait_between_retries() {
    let tasks = r#"
  - t:
      timeout: {after: PT5S}
      try: [{a: {call: p.a}}]
      catch: {retry: {delay: PT3S}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    assert_eq!(fed.said(), ["timer 1 5000ms", "activity 1 p.a {}"]);
    fed.feed([failed(1, "broken")])
        .later(3_000, fired(2))
        .feed([failed(2, "broken")]);
    assert_eq!(fed.said(), ["timer 3 3000ms"]);
    fed.later(2_000, fired(1));
    assert_eq!(fed.said(), ["cancel timer 3", &format!("fail {TIMEOUT}")]);
    assert_eq!(fed.fault()["instance"], "/do/0/t");
}

#[test]
fn the_inner_of_two_timeouts_may_be_caught_within_the_outer() {
    let tasks = r#"
  - outer:
      timeout: {after: PT9S}
      do:
        - guard:
            try: [{slow: {timeout: {after: PT1S}, wait: PT5S}}]
            catch:
              errors: {with: {type: https://serverlessworkflow.io/spec/1.0.0/errors/timeout}}
              do: [{rest: {wait: PT60S}}]
"#;
    let mut fed = Fed::new(tasks, json!({}));
    assert_eq!(
        fed.said(),
        ["timer 1 9000ms", "timer 2 1000ms", "timer 3 5000ms"]
    );
    fed.later(1_000, fired(2));
    assert_eq!(fed.said(), ["cancel timer 3", "timer 4 60000ms"]);
    fed.later(8_000, fired(1));
    assert_eq!(fed.said(), ["cancel timer 4", &format!("fail {TIMEOUT}")]);
    assert_eq!(fed.fault()["instance"], "/do/0/outer");
}

#[test]
fn the_workflow_s_timeout_may_be_computed_from_its_input() {
    let text = document("  - rest: {wait: PT60S}\n")
        + "input: {from: .config}\ntimeout: {after: '${ .limit }'}\n";
    let mut fed = Fed::start(start_of(&text, &json!({"config": {"limit": "PT2S"}})));
    assert_eq!(fed.said(), ["timer 1 2000ms", "timer 2 60000ms"]);
    fed.later(2_000, fired(1));
    // A fault like any other, as the DSL has it, and not the engine's own timeout.
    assert_eq!(fed.failure().kind, TIMEOUT);
}

#[test]
fn a_child_takes_the_transformed_input_and_its_output_is_transformed() {
    let run = |options: &str| {
        format!(
            r#"
  - run:
      input: {{from: .inner}}
      run: {{workflow: {{namespace: other, name: work, version: latest}}{options}}}
      output: {{as: "{{it: .}}"}}
"#
        )
    };
    let mut fed = Fed::new(&run(""), json!({"inner": [1]}));
    assert_eq!(fed.said(), ["child 1 other.work [1]"]);
    fed.feed([child_started(1), child_done(1, Ok(json!(5)))]);
    assert_eq!(fed.result(), json!({"it": 5}));

    let mut fed = Fed::new(&run(", await: false"), json!({"inner": [1]}));
    fed.feed([child_started(1)]);
    assert_eq!(fed.result(), json!({"it": [1]}));
}

#[test]
fn durations_are_what_they_add_up_to() {
    for (duration, millis) in [
        (
            "{days: 1, hours: 2, minutes: 3, seconds: 4, milliseconds: 5}",
            93_784_005,
        ),
        ("P1DT2H3M4.005S", 93_784_005),
        ("PT0S", 0),
    ] {
        let tasks = format!("\n  - rest: {{wait: {duration}, output: {{as: '{{waited: .x}}'}}}}\n");
        let mut fed = Fed::new(&tasks, json!({"x": 1}));
        assert_eq!(fed.said(), [format!("timer 1 {millis}ms")]);
        fed.later(millis, fired(1));
        assert_eq!(fed.result(), json!({"waited": 1}));
    }
}

#[test]
fn the_workflow_s_schemas_see_the_raw_input_and_the_transformed_output() {
    let schema =
        |member: &str| format!("schema: {{document: {{type: object, required: [{member}]}}}}");
    let text = document("  - one: {set: {n: '${ . }'}}\n")
        + &format!(
            "input: {{{}, from: .raw}}\noutput: {{{}, as: '{{done: .n}}'}}\n",
            schema("raw"),
            schema("done")
        );
    assert_eq!(
        Fed::start(start_of(&text, &json!({"raw": 1}))).result(),
        json!({"done": 1})
    );
}
