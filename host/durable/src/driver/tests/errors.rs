//! `raise`, `try`, retries and timeouts.

use super::*;
use crate::flow::error::{EXPRESSION, TIMEOUT};

#[test]
fn raise_fails_the_run_with_its_error() {
    let tasks = r#"
  - raiseError:
      raise: {error: {status: 400, type: https://serverlessworkflow.io/errors/types/compliance, title: Compliance Error}}
"#;
    let fed = Fed::new(tasks, json!({}));
    assert_eq!(
        fed.fault(),
        json!({
            "status": 400,
            "type": "https://serverlessworkflow.io/errors/types/compliance",
            "title": "Compliance Error",
            "instance": "/do/0/raiseError",
        })
    );
    assert_eq!(
        fed.failure().kind,
        "https://serverlessworkflow.io/errors/types/compliance"
    );
}

#[test]
fn members_of_a_raised_error_may_be_computed() {
    let tasks = r#"
  - oops: {raise: {error: {status: "${ .status }", type: https://example.com/odd, detail: "${ .why }"}}}
"#;
    let fault = Fed::new(tasks, json!({"status": 418, "why": "tea"})).fault();
    assert_eq!(
        (&fault["status"], &fault["detail"]),
        (&json!(418), &json!("tea"))
    );
    let fault = Fed::new(tasks, json!({"status": "x"})).fault();
    assert_eq!(
        (&fault["type"], &fault["title"]),
        (&json!(EXPRESSION), &json!("Invalid status"))
    );
}

/// A `try` around `p.a` with this `catch`.
fn tried(catch: &str) -> String {
    format!("\n  - guard:\n      try:\n        - call: {{call: p.a}}\n      catch: {{{catch}}}\n")
}

const HANDLER: &str = "do: [{handle: {set: {error: '${ $err }', input: '${ . }'}}}]";

#[test]
fn a_caught_error_is_the_variable_of_catch() {
    let mut fed = Fed::new(&tried(&format!("as: err, {HANDLER}")), json!({"x": 1}));
    fed.feed([failed(1, "broken")]);
    let result = fed.result();
    assert_eq!(result["input"], json!({"x": 1}));
    assert_eq!(result["error"]["instance"], "/do/0/guard/try/0/call");
    assert_eq!(result["error"]["status"], 500);
    assert_eq!(result["error"]["failure"]["kind"], "broken");
}

#[test]
fn filters_choose_what_is_caught() {
    let communication = "https://serverlessworkflow.io/dsl/errors/types/communication";
    for (filter, caught) in [
        (
            format!("errors: {{with: {{type: '{communication}'}}}}"),
            true,
        ),
        (
            format!("errors: {{with: {{type: '{communication}', status: 500}}}}"),
            true,
        ),
        (
            format!("errors: {{with: {{type: '{communication}', status: 503}}}}"),
            false,
        ),
        (
            "errors: {with: {type: 'https://example.com/other'}}".to_owned(),
            false,
        ),
        ("when: '$err.status == 500'".to_owned(), true),
        ("when: '$err.status == 404'".to_owned(), false),
        ("exceptWhen: '$err.status == 500'".to_owned(), false),
        ("exceptWhen: '.x == 2'".to_owned(), true),
    ] {
        let mut fed = Fed::new(
            &tried(&format!("as: err, {filter}, {HANDLER}")),
            json!({"x": 1}),
        );
        fed.feed([failed(1, "broken")]);
        assert_eq!(
            matches!(fed.commands[0], Command::Complete { .. }),
            caught,
            "{filter}"
        );
    }
}

#[test]
fn a_caught_error_without_tasks_leaves_the_input() {
    let mut fed = Fed::new(&tried("as: err"), json!({"x": 1}));
    fed.feed([failed(1, "broken")]);
    assert_eq!(fed.result(), json!({"x": 1}));
}

#[test]
fn an_error_in_catch_goes_on() {
    let catch =
        "do: [{again: {raise: {error: {type: 'https://example.com/second', status: 500}}}}]";
    let mut fed = Fed::new(&tried(catch), json!({}));
    fed.feed([failed(1, "broken")]);
    assert_eq!(fed.fault()["instance"], "/do/0/guard/catch/do/0/again");
}

#[test]
fn a_failed_expression_is_an_error_that_can_be_caught() {
    let tasks = r#"
  - guard:
      try:
        - bad: {set: {a: "${ .x.y.z }"}}
      catch:
        errors: {with: {type: https://serverlessworkflow.io/spec/1.0.0/errors/expression, status: 400}}
        do:
          - handle: {set: {instance: "${ $error.instance }"}}
"#;
    assert_eq!(
        result_of(tasks, json!({"x": 1})),
        json!({"instance": "/do/0/guard/try/0/bad"})
    );
}

/// Fails attempt after attempt; answers the waits between them in milliseconds.
fn waits(fed: &mut Fed, attempts: u32) -> Vec<u128> {
    let mut waits = Vec::new();
    for attempt in 1..=attempts {
        fed.feed([failed(attempt, "broken")]);
        if let Some(Command::StartTimer {
            duration, timer_id, ..
        }) = fed.commands.first()
        {
            waits.push(duration.as_millis());
            let (wait, id) = (
                i64::try_from(duration.as_millis()).unwrap(),
                timer_id.parse().unwrap(),
            );
            fed.later(wait, fired(id));
            assert_eq!(fed.activity().activity_id, (attempt + 1).to_string());
        }
    }
    waits
}

#[test]
fn retries_wait_as_their_policy_says() {
    for (backoff, expected) in [
        ("", [3_000, 3_000, 3_000]),
        ("backoff: {constant: {}},", [3_000, 3_000, 3_000]),
        ("backoff: {linear: {}},", [3_000, 6_000, 9_000]),
        ("backoff: {exponential: {}},", [3_000, 6_000, 12_000]),
    ] {
        let catch = format!("retry: {{delay: PT3S, {backoff} limit: {{attempt: {{count: 3}}}}}}");
        let mut fed = Fed::new(&tried(&catch), json!({}));
        assert_eq!(waits(&mut fed, 4), expected, "{backoff}");
        // What remains after the last retry goes on where nothing handles it.
        assert_eq!(fed.fault()["failure"]["kind"], "broken");
    }
}

#[test]
fn a_retry_that_succeeds_is_the_output_and_one_that_is_spent_is_handled() {
    let catch =
        format!("as: err, {HANDLER}, retry: {{delay: PT1S, limit: {{attempt: {{count: 1}}}}}}");
    let mut fed = Fed::new(&tried(&catch), json!({}));
    assert_eq!(waits(&mut fed, 1), [1_000]);
    fed.feed([done(2, json!("well"))]);
    assert_eq!(fed.result(), json!("well"));

    let mut fed = Fed::new(&tried(&catch), json!({}));
    assert_eq!(waits(&mut fed, 2), [1_000]);
    assert_eq!(fed.result()["error"]["failure"]["kind"], "broken");
}

#[test]
fn a_retry_without_delay_needs_no_timer() {
    let mut fed = Fed::new(&tried("retry: {limit: {attempt: {count: 1}}}"), json!({}));
    fed.feed([failed(1, "broken")]);
    assert_eq!(fed.said(), ["activity 2 p.a {}"]);
}

#[test]
fn jitter_comes_from_the_run_s_seed() {
    let catch =
        "retry: {delay: PT1S, jitter: {from: PT1S, to: PT3S}, limit: {attempt: {count: 3}}}";
    let text = document(&tried(catch));
    let run = |seed: u64| {
        let mut start = start_of(&text, &json!({}));
        start.seed = seed;
        waits(&mut Fed::start(start), 3)
    };
    let first = run(1);
    assert!(
        first.iter().all(|wait| (2_000..4_000).contains(wait)),
        "{first:?}"
    );
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
}

#[test]
fn the_duration_limit_ends_retries() {
    let catch = "retry: {delay: PT4S, limit: {duration: PT10S}}";
    let mut fed = Fed::new(&tried(catch), json!({}));
    assert_eq!(waits(&mut fed, 3), [4_000, 4_000]);
    assert_eq!(fed.fault()["failure"]["kind"], "broken");
}

#[test]
fn a_retry_s_own_conditions_count() {
    for (condition, retries) in [
        ("when: '$error.status == 500'", true),
        ("when: '$error.status == 503'", false),
        ("exceptWhen: '$error.status == 500'", false),
    ] {
        let catch =
            format!("retry: {{{condition}, delay: PT1S, limit: {{attempt: {{count: 5}}}}}}");
        let mut fed = Fed::new(&tried(&catch), json!({}));
        fed.feed([failed(1, "broken")]);
        assert_eq!(
            matches!(fed.commands[0], Command::StartTimer { .. }),
            retries,
            "{condition}"
        );
    }
}

#[test]
fn each_attempt_has_its_time() {
    let catch = "retry: {limit: {attempt: {count: 1, duration: PT2S}}}";
    let mut fed = Fed::new(&tried(catch), json!({}));
    assert_eq!(fed.said(), ["timer 1 2000ms", "activity 1 p.a {}"]);
    fed.later(2_000, fired(1));
    assert_eq!(fed.said(), ["cancel activity 1"]);
    fed.feed([stopped(1)]);
    assert_eq!(fed.said(), ["timer 2 2000ms", "activity 2 p.a {}"]);
    fed.feed([done(2, json!(1))]);
    assert_eq!(fed.said(), ["cancel timer 2", "complete 1"]);
}

#[test]
fn a_task_s_timeout_interrupts_it_and_can_be_caught() {
    let tasks = r#"
  - guard:
      try:
        - slow: {call: p.a, timeout: {after: {seconds: 2}}}
      catch:
        errors: {with: {type: https://serverlessworkflow.io/spec/1.0.0/errors/timeout, status: 408}}
        do:
          - handle: {set: {instance: "${ $error.instance }"}}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    assert_eq!(fed.said(), ["timer 1 2000ms", "activity 1 p.a {}"]);
    fed.later(2_000, fired(1));
    assert_eq!(fed.said(), ["cancel activity 1"]);
    // The scope waits for the activity, and its answer no longer counts.
    fed.feed([done(1, json!("late"))]);
    assert_eq!(fed.result(), json!({"instance": "/do/0/guard/try/0/slow"}));

    let mut fed = Fed::new(tasks, json!({}));
    fed.feed([done(1, json!("in time"))]);
    assert_eq!(fed.said(), ["cancel timer 1", r#"complete "in time""#]);
}

#[test]
fn the_workflow_s_timeout_fails_the_run() {
    let text = document("  - rest: {wait: PT60S}\n") + "timeout: {after: {seconds: 30}}\n";
    let mut fed = Fed::start(start_of(&text, &json!({})));
    assert_eq!(fed.said(), ["timer 1 30000ms", "timer 2 60000ms"]);
    fed.later(30_000, fired(1));
    assert_eq!(fed.said(), ["cancel timer 2", &format!("fail {TIMEOUT}")]);
    assert_eq!(fed.fault()["status"], 408);
}

#[test]
fn a_timeout_of_a_composite_cancels_all_that_is_in_it() {
    let tasks = r#"
  - all:
      timeout: {after: PT1S}
      fork:
        branches:
          - a: {call: p.a}
          - b: {run: {workflow: {namespace: n, name: w, version: latest}}}
          - c: {wait: PT5S}
          - d: {do: [{inner: {timeout: {after: PT3S}, call: p.b}}]}
"#;
    let mut fed = Fed::new(tasks, json!({}));
    assert_eq!(fed.commands.len(), 6);
    fed.later(1_000, fired(1));
    assert_eq!(
        fed.said(),
        [
            "cancel activity 1",
            "cancel child 1",
            "cancel timer 2",
            "cancel activity 2"
        ]
    );
    fed.feed([stopped(1), stopped(2)]);
    assert_eq!(fed.said(), ["cancel timer 3"]);
    fed.feed([
        child_started(1),
        child_done(1, Err(Failure::permanent("cancelled", "as asked"))),
    ]);
    assert_eq!(fed.fault()["instance"], "/do/0/all");
    assert_eq!(fed.failure().kind, TIMEOUT);
}
