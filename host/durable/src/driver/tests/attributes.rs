//! Search attributes that a flow sets.

use super::*;
use crate::failure::kind;
use crate::flow::error::VALIDATION;

const TASKS: &str = "
  - mark:
      set: {n: '${ .n }'}
      metadata:
        heyday:
          search_attributes:
            Stage: begun
            Amount: '${ .n }'
            Due: {type: Datetime, value: '2026-01-31T12:00:00Z'}
            Gone: null
            Missing: '${ .none }'
  - after: {set: {after: '${ .n }'}}
";

fn set(change_id: u32, outcome: Result<(), Failure>) -> Resolution {
    Resolution::SearchAttributesSet {
        change_id: change_id.to_string(),
        outcome,
    }
}

#[test]
fn they_are_set_before_the_flow_goes_on() {
    let mut fed = Fed::new(TASKS, json!({"n": 3}));
    let given = json!({
        "Stage": {"value": "begun"},
        "Amount": {"value": 3},
        "Due": {"type": "Datetime", "value": "2026-01-31T12:00:00Z"},
        "Gone": null,
        "Missing": null,
    });
    assert_eq!(fed.said(), [format!("set 1 {given}")]);
    fed.feed([set(1, Ok(()))]);
    assert_eq!(fed.result(), json!({"after": 3}));
}

#[test]
fn what_cannot_be_set_is_an_error_that_is_caught() {
    let refused = || Failure::permanent(kind::INVALID_INPUT, "Amount is Keyword here");
    let mut fed = Fed::new(TASKS, json!({"n": 3}));
    fed.feed([set(1, Err(refused()))]);
    let fault = fed.fault();
    assert_eq!(fault["type"], VALIDATION);
    assert_eq!(fault["instance"], "/do/0/mark");
    assert_eq!(fault["detail"], "Amount is Keyword here");
    let mut fed = Fed::new(
        "
  - guarded:
      try:
        - mark: {set: {x: 1}, metadata: {heyday: {search_attributes: {Amount: 1}}}}
      catch:
        errors: {with: {type: https://serverlessworkflow.io/spec/1.0.0/errors/validation}}
        do:
          - note: {set: {noted: true}}
",
        json!({}),
    );
    fed.feed([set(1, Err(refused()))]);
    assert_eq!(fed.result(), json!({"noted": true}));
}

#[test]
fn a_value_that_is_too_long_is_refused_before_it_is_recorded() {
    let tasks = "
  - mark: {set: {x: 1}, metadata: {heyday: {search_attributes: {Note: '${ .text }'}}}}
";
    let fed = Fed::new(tasks, json!({"text": "x".repeat(5_000)}));
    assert!(fed.failure().message.contains("more than the 2048 allowed"));
    assert_eq!(fed.commands.len(), 1);
}

#[test]
fn a_cancel_waits_for_them() {
    let mut fed = Fed::new(TASKS, json!({"n": 3}));
    fed.feed([cancel()]);
    assert!(fed.commands.is_empty());
    fed.feed([set(1, Ok(()))]);
    assert_eq!(fed.said(), ["cancelled enough"]);
}
