//! Limits of a run, and what an evaluator may do wrong.

use super::*;

fn limited(tasks: &str, input: Value, limits: RunLimits) -> Fed {
    let mut start = start_of(&document(tasks), &input);
    start.limits = limits;
    Fed::start(start)
}

#[track_caller]
fn assert_limit(fed: &Fed, limit: &str, task: &str) {
    let failure = fed.failure();
    assert_eq!(failure.kind, crate::failure::kind::LIMIT_EXCEEDED);
    assert_eq!(failure.details, Some(json!({"limit": limit, "task": task})));
    assert!(failure.message.contains(task), "{}", failure.message);
}

#[test]
fn a_flow_that_jumps_to_itself_for_ever_fails() {
    let fed = Fed::new("\n  - a: {set: {z: 0}, then: a}\n", json!({}));
    assert_limit(&fed, "tasks_per_activation", "/do/0/a");
}

#[test]
fn nothing_catches_a_limit() {
    let tasks = "\n  - t: {try: [{a: {set: {z: 0}, then: a}}], catch: {do: [{b: {set: {caught: true}}}]}}\n";
    assert_limit(
        &Fed::new(tasks, json!({})),
        "tasks_per_activation",
        "/do/0/t/try/0/a",
    );
}

#[test]
fn skipped_tasks_iterations_and_retries_count() {
    let limits = RunLimits {
        tasks_per_activation: 100,
        ..RunLimits::default()
    };
    let skip = "\n  - a: {if: '.never', set: {z: 0}}\n  - b: {switch: [{x: {then: a}}]}\n";
    assert_limit(
        &limited(skip, json!({}), limits),
        "tasks_per_activation",
        "/do/0/a",
    );
    let retry = "\n  - t: {try: [{a: {raise: {error: {type: 'https://e.test/x', status: 500}}}}], catch: {retry: {}}}\n";
    assert!(
        matches!(&limited(retry, json!({}), limits).failure(), f if f.kind == "limit-exceeded")
    );
    let items: Vec<_> = (0..60).collect();
    let loops = "\n  - l: {for: {in: .}, do: [{a: {set: {z: 0}}}]}\n";
    assert_eq!(
        limited(loops, json!(items), limits).failure().kind,
        "limit-exceeded"
    );
}

#[test]
fn the_count_begins_anew_with_each_activation() {
    let limits = RunLimits {
        tasks_per_activation: 10,
        ..RunLimits::default()
    };
    let mut fed = limited(
        "\n  - a: {set: {z: 0}}\n  - b: {wait: PT1S, then: a}\n",
        json!({}),
        limits,
    );
    for timer in 1..50 {
        assert_eq!(
            fed.later(1_000, fired(timer)).said(),
            [format!("timer {} 1000ms", timer + 1)]
        );
    }
}

#[test]
fn a_flow_that_doubles_its_data_fails() {
    let tasks = "\n  - double: {set: {a: '${ . }', b: '${ . }'}, then: double}\n";
    assert_limit(&Fed::new(tasks, json!("x")), "data_bytes", "/do/0/double");
}

#[test]
fn one_template_cannot_build_more_than_a_run_may_hold() {
    let members: Vec<_> = (0..200).map(|n| format!("m{n}: '${{ . }}'")).collect();
    let tasks = format!("\n  - big: {{set: {{{}}}}}\n", members.join(", "));
    let limits = RunLimits {
        data_bytes: 100_000,
        ..RunLimits::default()
    };
    assert_limit(
        &limited(&tasks, json!("x".repeat(10_000)), limits),
        "data_bytes",
        "/do/0/big",
    );
}

#[test]
fn forks_cannot_multiply_data_past_the_limit() {
    let branches: Vec<_> = (0..20)
        .map(|n| format!("{{b{n}: {{wait: PT0S}}}}"))
        .collect();
    let tasks = format!(
        "\n  - f: {{fork: {{branches: [{}]}}}}\n",
        branches.join(", ")
    );
    let limits = RunLimits {
        data_bytes: 100_000,
        ..RunLimits::default()
    };
    let mut fed = limited(&tasks, json!("x".repeat(10_000)), limits);
    fed.feed((1..=20).map(fired));
    assert_limit(&fed, "data_bytes", "/do/0/f");
}

#[test]
fn data_that_is_no_longer_held_does_not_count() {
    let limits = RunLimits {
        data_bytes: 50_000,
        ..RunLimits::default()
    };
    let mut fed = limited("\n  - a: {call: p.a, then: a}\n", json!({}), limits);
    for id in 1..30 {
        fed.feed([done(id, json!("x".repeat(10_000)))]);
        assert_eq!(fed.activity().activity_id, (id + 1).to_string());
    }
    fed.feed([done(30, json!("x".repeat(50_000)))]);
    assert_limit(&fed, "data_bytes", "/do/0/a");
}

#[test]
fn an_input_over_the_limit_fails_the_run() {
    let limits = RunLimits {
        data_bytes: 10,
        ..RunLimits::default()
    };
    assert_limit(
        &limited("\n  - a: {set: {z: 0}}\n", json!("x".repeat(20)), limits),
        "data_bytes",
        "/input",
    );
}

#[test]
fn values_cannot_nest_without_end() {
    // Without an expression, nothing else would stop the nesting.
    let tasks = "\n  - wrap: {fork: {branches: [{a: {wait: PT0S}}]}, then: wrap}\n";
    let mut fed = Fed::new(tasks, json!(1));
    let mut timer = 1;
    while !fed.commands.last().unwrap().is_terminal() {
        fed.feed([fired(timer)]);
        timer += 1;
        assert!(timer < 1_000, "it nests for ever");
    }
    assert_limit(&fed, "data_depth", "/do/0/wrap");
}

#[test]
fn deeply_nested_tasks_do_not_overflow_the_stack() {
    let mut tasks = "[{last: {set: {ok: true}}}]".to_owned();
    // A flow has at most 64 levels; each of these takes three.
    for _ in 0..18 {
        tasks = format!("[{{d: {{try: {tasks}, catch: {{}}}}}}]");
    }
    let text = format!(
        "document: {{dsl: '1.0.3', namespace: test, name: sample, version: '0.1.0'}}\ndo: {tasks}\n"
    );
    assert_eq!(
        Fed::start(start_of(&text, &json!({}))).result(),
        json!({"ok": true})
    );
}

#[test]
fn children_nest_only_so_deep() {
    let tasks = "  - run: {run: {workflow: {namespace: n, name: w, version: latest}}}\n";
    let mut start = start_of(&document(tasks), &json!({}));
    start.depth = 31;
    assert_eq!(Fed::start(start.clone()).said(), ["child 1 n.w {}"]);
    start.depth = 32;
    assert_limit(&Fed::start(start), "depth", "/do/0/run");
}

#[test]
fn a_result_over_the_inline_limit_fails_the_run() {
    let mut fed = Fed::new("\n  - a: {call: p.a}\n", json!({}));
    fed.feed([done(1, json!("x".repeat(FOREIGN_LIMIT - 2)))]);
    assert!(matches!(fed.commands[0], Command::Complete { .. }));
    let mut fed = Fed::new("\n  - a: {call: p.a}\n", json!({}));
    fed.feed([done(1, json!("x".repeat(FOREIGN_LIMIT - 1)))]);
    let failure = fed.failure();
    assert_eq!(
        failure.details,
        Some(json!({"limit": "result_bytes", "task": "/output"}))
    );
    assert!(failure.message.contains("blob"));
}

#[test]
fn foreign_code_is_given_no_more_than_the_inline_limit() {
    for task in [
        "  - x: {call: Measure, metadata: {heyday: {foreign: {queue: q}}}}\n",
        "  - x: {run: {workflow: {namespace: n, name: w}}, metadata: {heyday: {foreign: {queue: q}}}}\n",
    ] {
        let fits = Fed::new(task, json!("x".repeat(FOREIGN_LIMIT - 2)));
        match &fits.commands[0] {
            Command::ScheduleActivity(activity) => {
                assert!(activity.foreign && activity.queue == "q");
                assert_eq!(activity.activity.activity_type, "Measure");
                assert_eq!(activity.activity.digest, None);
            }
            Command::StartChild(child) => {
                assert_eq!(child.foreign_queue.as_deref(), Some("q"));
                assert_eq!(child.workflow.workflow_type, "n.w");
            }
            other => panic!("{other:?}"),
        }
        let large = Fed::new(task, json!("x".repeat(FOREIGN_LIMIT - 1)));
        assert_limit(&large, "input_bytes", "/do/0/x");
    }
}

#[test]
fn an_error_over_the_inline_limit_is_cut() {
    let tasks =
        "\n  - oops: {raise: {error: {type: 'https://e.test/x', status: 500, detail: '${ . }'}}}\n";
    let failure = Fed::new(tasks, json!("x".repeat(FOREIGN_LIMIT))).failure();
    assert_eq!(failure.kind, "https://e.test/x");
    assert!(serde_json::to_string(&failure).unwrap().len() < 3_000);
}

#[test]
fn an_input_that_is_no_json_fails_the_run() {
    let mut start = start_of(&document("  - a: {set: {z: 0}}\n"), &json!({}));
    start.input = Payload::json_bytes(bytes::Bytes::from_static(b"nope"));
    assert_eq!(Fed::start(start).failure().kind, "invalid-input");
}

#[test]
fn an_invalid_expression_fails_the_run_at_once() {
    let fed = Fed::new("\n  - a: {set: {a: '${ .x | }'}}\n", json!({}));
    assert_eq!(fed.failure().kind, EXPRESSION);
    assert_eq!(fed.commands.len(), 1);
}

#[test]
fn an_unavailable_evaluator_gives_the_activation_up() {
    let tasks = "\n  - t: {try: [{f: {fork: {branches: [{a: {call: p.a}}, {b: {set: '${ unavailable }'}}]}}}], catch: {}}\n";
    let start = start_of(&document(tasks), &json!({}));
    let mut driver = driver(&start);
    let activation = Activation {
        now: timestamp(0),
        resolutions: Vec::new(),
        continue_as_new_suggested: false,
    };
    assert!(matches!(
        driver.activate(activation.clone()),
        Err(DriverError::Unavailable(_))
    ));
    assert!(matches!(
        driver.activate(activation),
        Err(DriverError::Unexpected(_))
    ));
}

#[test]
fn a_panic_is_an_error_of_its_own() {
    let start = start_of(&document("  - a: {set: '${ panic }'}\n"), &json!({}));
    let activation = Activation {
        now: timestamp(0),
        resolutions: Vec::new(),
        continue_as_new_suggested: false,
    };
    assert_eq!(
        driver(&start).activate(activation),
        Err(DriverError::Panicked("an evaluator that panics".to_owned()))
    );
}

const FOUR: &str = "
  - all:
      fork:
        branches:
          - a: {call: p.a}
          - b: {call: p.a}
          - c: {call: p.a}
          - d: {call: p.a}
";

fn at_once(pending: u64) -> RunLimits {
    RunLimits {
        pending,
        ..RunLimits::default()
    }
}

#[test]
fn what_is_under_way_at_once_is_limited_and_the_rest_waits() {
    let call = |id: u32| format!("activity {id} p.a {{}}");
    let mut fed = limited(FOUR, json!({}), at_once(2));
    assert_eq!(fed.said(), [call(1), call(2)]);
    fed.feed([done(2, json!("b"))]);
    assert_eq!(fed.said(), [call(3)]);
    // It does not matter whether they come together.
    fed.feed([done(1, json!("a")), done(3, json!("c"))]);
    assert_eq!(fed.said(), [call(4)]);
    fed.feed([done(4, json!("d"))]);
    assert_eq!(fed.result(), json!(["a", "b", "c", "d"]));
    // A run of before there was a limit has none.
    let fed = limited(FOUR, json!({}), at_once(u64::MAX));
    assert_eq!(fed.said(), [1, 2, 3, 4].map(call));
}

#[test]
fn what_waits_for_room_is_cancelled_at_once() {
    let mut fed = limited(FOUR, json!({}), at_once(2));
    fed.feed([cancel()]);
    assert_eq!(fed.said(), ["cancel activity 1", "cancel activity 2"]);
    fed.feed([stopped(1), stopped(2)]);
    assert_eq!(fed.said(), ["cancelled enough"]);
}

#[test]
fn a_child_for_whose_end_nobody_waits_counts_where_it_is_told() {
    let tasks = "\n  - all: {for: {in: .}, do: [{c: {run: {workflow: {namespace: other, name: work, version: latest}, await: false}}}]}\n";
    let mut start = start_of(&document(tasks), &json!([1, 2, 3, 4]));
    start.limits = at_once(2);
    let mut fed = Fed::start(start.clone());
    let started = |fed: &Fed| {
        let commands = fed.commands.iter();
        commands
            .filter_map(|command| match command {
                Command::StartChild(start) => start.child_id.parse().ok(),
                _ => None,
            })
            .collect::<Vec<u32>>()
    };
    assert_eq!(started(&fed), [1]);
    fed.feed([child_started(1)]);
    assert_eq!(started(&fed), [2]);
    fed.feed([child_started(2)]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([child_done(1, Ok(json!(1)))]);
    assert_eq!(started(&fed), [3]);
    // One that could not be started is not open.
    let none = Failure::permanent(crate::failure::kind::UNKNOWN_WORKFLOW, "none");
    fed.feed([Resolution::ChildStarted {
        child_id: "3".to_owned(),
        outcome: Err(none),
    }]);
    assert_eq!(fed.fault()["failure"]["kind"], "unknown-workflow");

    start.detached_ends = false;
    let mut fed = Fed::start(start);
    for child in 1..=3 {
        fed.feed([child_started(child)]);
        assert_eq!(started(&fed), [child + 1]);
    }
}

#[test]
fn signals_to_other_runs_wait_for_room_together() {
    let emit = |name: &str| {
        format!(
            "{{{name}: {{emit: {{event: {{with: {{source: s, type: t}}}}}}, metadata: {{heyday: {{to: [one, two]}}}}}}}}"
        )
    };
    let tasks = format!(
        "\n  - all: {{fork: {{branches: [{}, {}]}}}}\n",
        emit("a"),
        emit("b")
    );
    let told = |id: u32| Resolution::ExternalSignaled {
        signal_id: id.to_string(),
        outcome: Ok(()),
    };
    let mut fed = limited(&tasks, json!({}), at_once(3));
    assert_eq!(fed.said(), ["signal 1 t to one", "signal 2 t to two"]);
    fed.feed([told(2)]);
    assert_eq!(fed.said(), ["signal 3 t to one", "signal 4 t to two"]);
    // More at once than there is room for go when nothing else is under way.
    let mut fed = limited(&tasks, json!({}), at_once(1));
    fed.feed([told(1)]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([told(2)]);
    assert_eq!(fed.said(), ["signal 3 t to one", "signal 4 t to two"]);
}
