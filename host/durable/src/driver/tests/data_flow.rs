//! The rules by which data goes through a flow.

use super::*;

#[test]
fn output_of_a_task_is_input_of_the_next() {
    let tasks = r#"
  - one: {set: {n: "${ .n + 1 }"}}
  - two: {set: {n: "${ .n + 1 }", from: "${ .n }"}}
"#;
    assert_eq!(
        result_of(tasks, json!({"n": 1})),
        json!({"n": 3, "from": 2})
    );
}

#[test]
fn workflow_input_and_output_are_transformed() {
    let text = document(
        "  - keep: {set: {seen: \"${ . }\", raw: \"${ $workflow.input.deep }\"}}\n",
    ) + "input: {from: .deep.value}\noutput: {as: '{answer: .seen, raw: .raw, context: $context, none: $input}'}\n";
    let fed = Fed::start(start_of(&text, &json!({"deep": {"value": 5}})));
    assert_eq!(
        fed.result(),
        json!({"answer": 5, "raw": {"value": 5}, "context": 5, "none": null})
    );
}

#[test]
fn task_input_output_and_export_are_transformed_in_order() {
    let tasks = r#"
  - one:
      if: .go
      input: {from: .inner}
      set: {x: "${ .x }", input: "${ $input }", raw: "${ $task.input.go }"}
      output: {as: "{a: .x, raw: $task.output.x, input: $input.x, none: $output}"}
      export: {as: "{kept: $output.a, dot: .a, before: $context.go}"}
  - two: {set: {last: "${ . }", context: "${ $context }"}}
"#;
    assert_eq!(
        result_of(tasks, json!({"go": true, "inner": {"x": 1}})),
        json!({
            "last": {"a": 1, "raw": 1, "input": 1, "none": null},
            "context": {"kept": 1, "dot": 1, "before": true},
        })
    );
}

#[test]
fn templates_of_transformations_may_be_objects() {
    let tasks = r#"
  - one:
      input: {from: {a: "${ .x }", b: fixed}}
      set: "${ . }"
      output: {as: {c: "${ .a }", list: [1, "${ .b }"]}}
"#;
    assert_eq!(
        result_of(tasks, json!({"x": 9})),
        json!({"c": 9, "list": [1, "fixed"]})
    );
}

#[test]
fn a_condition_sees_the_raw_input_and_skips_all() {
    let tasks = r#"
  - one:
      if: .x == 2
      input: {from: .nothing, schema: {document: {type: string}}}
      set: {a: 1}
      export: {as: "{changed: true}"}
      then: end
  - two: {set: {seen: "${ . }", context: "${ $context }"}}
"#;
    assert_eq!(
        result_of(tasks, json!({"x": 1})),
        json!({"seen": {"x": 1}, "context": {"x": 1}})
    );
}

#[test]
fn conditions_hold_as_in_jq() {
    for (value, holds) in [
        (json!(0), true),
        (json!(""), true),
        (json!(null), false),
        (json!(false), false),
    ] {
        let tasks = "\n  - one: {if: .x, set: {ran: true}}\n";
        let ran = result_of(tasks, json!({"x": value})).get("ran").is_some();
        assert_eq!(ran, holds, "{value}");
    }
}

#[test]
fn schemas_are_checked_where_the_specification_says() {
    let schema = "schema: {format: json, document: {type: object, required: [ok]}}";
    for (task, input, title, kind) in [
        (
            format!("input: {{{schema}, from: .ok}}"),
            json!({}),
            "Invalid input",
            "invalid-input",
        ),
        (
            format!("output: {{{schema}, as: .ok}}"),
            json!({"ok": 1}),
            "Invalid output",
            "invalid-output",
        ),
        (
            format!("export: {{{schema}, as: .ok}}"),
            json!({"ok": 1}),
            "Invalid context",
            "invalid-output",
        ),
        (
            format!("export: {{{schema}}}"),
            json!({}),
            "Invalid context",
            "invalid-output",
        ),
    ] {
        let fed = Fed::new(
            &format!("\n  - one: {{set: \"${{ . }}\", {task}}}\n"),
            input,
        );
        let fault = fed.fault();
        assert_eq!(fault["type"], crate::flow::error::VALIDATION, "{task}");
        assert_eq!(
            (
                &fault["status"],
                &fault["title"],
                &fault["instance"],
                &fault["failure"]["kind"]
            ),
            (
                &json!(400),
                &json!(title),
                &json!("/do/0/one"),
                &json!(kind)
            )
        );
        assert!(
            !fault["failure"]["details"]["violations"]
                .as_array()
                .unwrap()
                .is_empty()
        );
    }
    // Raw input is what the schema of `input` checks, the transformed output that of
    // `output`.
    let tasks = format!(
        "\n  - one: {{set: {{a: 1}}, input: {{{schema}, from: .ok}}, output: {{{schema}, as: '{{ok: .a}}'}}}}\n"
    );
    assert_eq!(result_of(&tasks, json!({"ok": 1})), json!({"ok": 1}));
}

#[test]
fn schemas_of_the_workflow_are_checked() {
    let schema = "schema: {format: json, document: {type: string}}";
    let tasks = "  - one: {set: {a: 1}}\n";
    let fed = Fed::start(start_of(
        &(document(tasks) + &format!("input: {{{schema}}}\n")),
        &json!(1),
    ));
    assert_eq!(
        (&fed.fault()["instance"], fed.said().len()),
        (&json!("/input"), 1)
    );
    let fed = Fed::start(start_of(
        &(document(tasks) + &format!("output: {{{schema}}}\n")),
        &json!(1),
    ));
    assert_eq!(fed.fault()["instance"], "/output");
}

#[test]
fn a_huge_value_is_not_quoted_in_an_error() {
    let fed = Fed::new(
        "\n  - one: {set: {a: 1}, input: {schema: {document: {type: string}}}}\n",
        json!(["x".repeat(100_000)]),
    );
    assert!(
        fed.failure().message.len() < 1_000,
        "{}",
        fed.failure().message.len()
    );
}

#[test]
fn descriptors_are_those_of_the_specification() {
    let tasks = r#"
  - one:
      do:
        - inner: {set: {task: "${ $task }", workflow: "${ $workflow }", runtime: "${ $runtime }"}}
"#;
    let result = result_of(tasks, json!({"in": 1}));
    let at = json!({
        "iso8601": "2023-11-14T22:13:20Z",
        "epoch": {"seconds": 1_700_000_000, "milliseconds": 1_700_000_000_000_u64},
    });
    assert_eq!(result["task"]["name"], "inner");
    assert_eq!(result["task"]["reference"], "/do/0/one/do/0/inner");
    assert_eq!(result["task"]["input"], json!({"in": 1}));
    assert_eq!(
        result["task"]["definition"]["set"]["runtime"],
        "${ $runtime }"
    );
    assert_eq!(result["task"]["startedAt"], at);
    assert!(result["task"].get("output").is_none());
    assert_eq!(result["workflow"]["id"], Uuid::from_u128(7).to_string());
    assert_eq!(
        result["workflow"]["definition"]["document"]["name"],
        "sample"
    );
    assert_eq!(result["workflow"]["input"], json!({"in": 1}));
    assert_eq!(result["workflow"]["startedAt"], at);
    assert_eq!(
        result["runtime"],
        json!({
            "name": "heyday",
            "version": REVISION.to_string(),
            "metadata": {
                "namespace": "default",
                "workflowId": "sample-1",
                "runId": Uuid::from_u128(7),
            },
        })
    );
}

#[test]
fn values_without_expressions_are_never_evaluated() {
    let tasks = r#"
  - one: {set: {a: ".x", b: ["$input"], c: "text ${ .x }"}}
  - two: {call: p.a}
"#;
    let expressions = TinyJqForTests::default();
    let evaluations = Arc::clone(&expressions.evaluations);
    let expressions: Arc<dyn Expressions> = Arc::new(expressions);
    let start = start_of(
        &document(tasks.replace(", c: \"text ${ .x }\"", "").as_str()),
        &json!({}),
    );
    let mut driver = Driver::new(start, &expressions).unwrap();
    let commands = driver
        .activate(Activation {
            now: timestamp(0),
            resolutions: Vec::new(),
            continue_as_new_suggested: false,
        })
        .unwrap();
    assert_eq!(
        brief(&commands[0]),
        r#"activity 1 p.a {"a":".x","b":["$input"]}"#
    );
    assert_eq!(evaluations.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn an_inner_variable_hides_an_outer_one() {
    let tasks = r#"
  - outer:
      for: {each: x, in: .xs}
      do:
        - inner:
            for: {each: x, at: i, in: '["in"]'}
            do:
              - keep: {set: {xs: "${ .xs + [$x] }"}}
        - after: {set: {xs: "${ .xs + [$x, $index, $i] }"}}
"#;
    assert_eq!(
        result_of(tasks, json!({"xs": ["out"]})),
        json!({"xs": ["out", "in", "out", 0, null]})
    );
}
