//! Cancelling a run, at each kind of wait.

use super::*;
use crate::flow::error::CANCELLED;

#[test]
fn a_cancel_at_a_timer_forgets_it() {
    let mut fed = Fed::new(
        "\n  - rest: {wait: PT5S}\n  - after: {call: p.a}\n",
        json!({}),
    );
    fed.feed([cancel()]);
    assert_eq!(fed.said(), ["cancel timer 1", "cancelled enough"]);
}

#[test]
fn a_cancel_at_an_activity_waits_for_it_and_ignores_its_answer() {
    for answer in [
        stopped(1),
        done(1, json!("all the same")),
        failed(1, "broken"),
    ] {
        let mut fed = Fed::new("\n  - a: {call: p.a}\n  - after: {call: p.b}\n", json!({}));
        fed.feed([cancel()]);
        assert_eq!(fed.said(), ["cancel activity 1"]);
        fed.feed([answer]);
        assert_eq!(fed.said(), ["cancelled enough"]);
    }
}

#[test]
fn an_activity_that_has_resolved_is_not_asked_to_cancel() {
    let mut fed = Fed::new("\n  - a: {call: p.a}\n  - after: {call: p.b}\n", json!({}));
    fed.feed([cancel(), done(1, json!(1))]);
    assert_eq!(fed.said(), ["cancelled enough"]);
    let mut fed = Fed::new("\n  - a: {call: p.a}\n  - after: {call: p.b}\n", json!({}));
    fed.feed([done(1, json!(1)), cancel()]);
    assert_eq!(fed.said(), ["activity 2 p.b 1", "cancel activity 2"]);
}

#[test]
fn a_cancel_at_a_child_asks_it_before_and_after_its_start() {
    let tasks = "\n  - run: {run: {workflow: {namespace: n, name: w, version: latest}}}\n";
    let ended = || child_done(1, Err(Failure::permanent("cancelled", "as asked")));
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([child_started(1)]).feed([cancel()]);
    assert_eq!(fed.said(), ["cancel child 1"]);
    fed.feed([ended()]);
    assert_eq!(fed.said(), ["cancelled enough"]);

    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([cancel()]);
    assert_eq!(fed.said(), ["cancel child 1"]);
    fed.feed([child_started(1)]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([ended()]);
    assert_eq!(fed.said(), ["cancelled enough"]);

    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([cancel()]).feed([Resolution::ChildStarted {
        child_id: "1".to_owned(),
        outcome: Err(Failure::permanent("unknown-workflow", "none")),
    }]);
    assert_eq!(fed.said(), ["cancelled enough"]);
}

#[test]
fn a_cancel_at_a_detached_child_leaves_it_alone() {
    let tasks =
        "\n  - run: {run: {workflow: {namespace: n, name: w, version: latest}, await: false}}\n";
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([cancel()]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([child_started(1)]);
    assert_eq!(fed.said(), ["cancelled enough"]);
}

#[test]
fn a_cancel_between_retries_ends_them() {
    let tasks = "\n  - t: {try: [{a: {call: p.a}}], catch: {retry: {delay: PT9S}}}\n";
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([failed(1, "broken")]);
    assert_eq!(fed.said(), ["timer 1 9000ms"]);
    fed.feed([cancel()]);
    assert_eq!(fed.said(), ["cancel timer 1", "cancelled enough"]);
}

#[test]
fn a_cancel_in_a_fork_reaches_every_branch() {
    let tasks = r#"
  - both: {fork: {branches: [{a: {call: p.a}}, {b: {wait: PT5S}}, {c: {call: p.b}}]}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([cancel()]);
    assert_eq!(
        fed.said(),
        ["cancel activity 1", "cancel timer 1", "cancel activity 2"]
    );
    fed.feed([stopped(2), stopped(1)]);
    assert_eq!(fed.said(), ["cancelled enough"]);
}

#[test]
fn a_cancel_under_a_timeout_forgets_its_timer() {
    let mut fed = Fed::new("\n  - a: {timeout: {after: PT9S}, call: p.a}\n", json!({}));
    fed.feed([cancel()]);
    fed.feed([stopped(1)]);
    assert_eq!(fed.said(), ["cancel timer 1", "cancelled enough"]);
}

/// A `try` that cleans up after a cancel by `p.b` and a timer.
fn with_clean_up(catch: &str) -> String {
    format!(
        r#"
  - guard:
      try:
        - work: {{call: p.a}}
      catch: {{{catch}, do: [{{clean: {{call: p.b, with: {{why: "${{ $error.detail }}", status: "${{ $error.status }}"}}}}}}, {{settle: {{wait: PT1S}}}}]}}
  - after: {{call: p.c}}
"#
    )
}

#[test]
fn a_clean_up_that_names_the_cancel_runs_to_its_end_shielded() {
    let tasks = with_clean_up(&format!("errors: {{with: {{type: '{CANCELLED}'}}}}"));
    let mut fed = Fed::new(&tasks, json!({}));
    fed.feed([cancel()]).feed([stopped(1)]);
    assert_eq!(
        fed.said(),
        [r#"activity 2 p.b {"status":499,"why":"enough"}"#]
    );
    fed.feed([done(2, json!({}))]);
    assert_eq!(fed.said(), ["timer 1 1000ms"]);
    fed.later(1_000, fired(1));
    assert_eq!(fed.said(), ["cancelled enough"]);
}

#[test]
fn a_catch_that_does_not_name_the_cancel_lets_it_pass() {
    for catch in [
        "as: error",
        "errors: {with: {status: 499}}",
        "when: 'true'",
        "retry: {delay: PT1S}",
    ] {
        let mut fed = Fed::new(&with_clean_up(catch), json!({}));
        fed.feed([cancel()]).feed([stopped(1)]);
        assert_eq!(fed.said(), ["cancelled enough"], "{catch}");
    }
}

#[test]
fn a_clean_up_that_fails_fails_the_run() {
    let tasks = with_clean_up(&format!("errors: {{with: {{type: '{CANCELLED}'}}}}"));
    let mut fed = Fed::new(&tasks, json!({}));
    fed.feed([cancel()])
        .feed([stopped(1)])
        .feed([failed(2, "broken")]);
    assert_eq!(fed.fault()["failure"]["kind"], "broken");
}

#[test]
fn clean_ups_of_all_branches_run_to_their_end() {
    let guard = |name: &str| {
        format!(
            "{{{name}: {{try: [{{w: {{wait: PT9S}}}}], catch: {{errors: {{with: {{type: '{CANCELLED}'}}}}, do: [{{clean: {{call: p.a, with: {{who: {name}}}}}}}]}}}}}}"
        )
    };
    let tasks = format!(
        "\n  - both: {{fork: {{branches: [{}, {}, {{c: {{wait: PT9S}}}}]}}}}\n",
        guard("a"),
        guard("b")
    );
    let mut fed = Fed::new(&tasks, json!({}));
    fed.feed([cancel()]);
    assert_eq!(
        fed.said(),
        [
            "cancel timer 1",
            r#"activity 1 p.a {"who":"a"}"#,
            "cancel timer 2",
            r#"activity 2 p.a {"who":"b"}"#,
            "cancel timer 3"
        ]
    );
    fed.feed([done(1, json!(1))]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([done(2, json!(1))]);
    assert_eq!(fed.said(), ["cancelled enough"]);
}

#[test]
fn nested_clean_ups_run_from_the_inside_out() {
    let tasks = format!(
        r#"
  - outer:
      try:
        - inner:
            try: [{{w: {{wait: PT9S}}}}]
            catch: {{errors: {{with: {{type: '{CANCELLED}'}}}}, do: [{{one: {{call: p.a}}}}]}}
      catch: {{errors: {{with: {{type: '{CANCELLED}'}}}}, do: [{{two: {{call: p.b}}}}]}}
"#
    );
    let mut fed = Fed::new(&tasks, json!({}));
    fed.feed([cancel()]);
    assert_eq!(fed.said(), ["cancel timer 1", "activity 1 p.a {}"]);
    fed.feed([done(1, json!({}))]);
    assert_eq!(fed.said(), ["activity 2 p.b {}"]);
    fed.feed([done(2, json!({}))]);
    assert_eq!(fed.said(), ["cancelled enough"]);
}

#[test]
fn a_loser_cleans_up_and_the_flow_goes_on() {
    let tasks = format!(
        r#"
  - race:
      fork:
        compete: true
        branches:
          - slow: {{try: [{{w: {{wait: PT9S}}}}], catch: {{errors: {{with: {{type: '{CANCELLED}'}}}}, do: [{{clean: {{call: p.a}}}}]}}}}
          - fast: {{call: p.b}}
  - after: {{set: {{won: "${{ . }}"}}}}
"#
    );
    let mut fed = Fed::new(&tasks, json!({}));
    fed.feed([done(1, json!("fast"))]);
    assert_eq!(fed.said(), ["cancel timer 1", "activity 2 p.a {}"]);
    fed.feed([done(2, json!("cleaned"))]);
    assert_eq!(fed.result(), json!({"won": "fast"}));
}

#[test]
fn a_cancelled_activity_nobody_asked_to_stop_is_an_error_like_any_other() {
    let mut fed = Fed::new("\n  - a: {call: p.a}\n", json!({}));
    fed.feed([stopped(1)]);
    assert_eq!(fed.failure().kind, CANCELLED);

    let tasks = with_clean_up(&format!("errors: {{with: {{type: '{CANCELLED}'}}}}"));
    let mut fed = Fed::new(&tasks, json!({}));
    fed.feed([stopped(1)])
        .feed([done(2, json!({}))])
        .feed([fired(1)]);
    assert_eq!(fed.said(), ["activity 3 p.c {}"]);
}

#[test]
fn a_cancel_before_the_first_activation_is_taken() {
    let start = start_of(&document("  - a: {call: p.a}\n"), &json!({}));
    let mut driver = driver(&start);
    let commands = driver
        .activate(Activation {
            now: timestamp(0),
            resolutions: vec![cancel()],
            continue_as_new_suggested: false,
        })
        .unwrap();
    assert_eq!(
        commands.iter().map(brief).collect::<Vec<_>>(),
        ["activity 1 p.a {}", "cancel activity 1"]
    );
}
