//! The document's own sections, limits on its text, and schemas.

use std::time::Duration;

use serde_json::json;

use super::{parse, problems, refused, with_tasks};
use crate::flow::model::{Authentication, DurationValue, FlowSchedule, TaskKind};
use crate::flow::{Flow, MAX_BYTES};

const TASK: &str = "- x: {set: {a: 1}}\n";

#[test]
fn reads_a_whole_document() {
    let flow = parse(
        "document:
  dsl: 1.0.0
  namespace: my-team
  name: import
  version: 2.0.0-rc.1
  title: Import
  summary: Imports **things**.
  tags: {owner: me}
  metadata: {any: {thing: 1}}
evaluate: {language: jq, mode: strict}
input:
  schema: {format: json, document: {type: object, required: [id]}}
  from: .id
output:
  as: {result: '${ . }'}
timeout: slow
use:
  timeouts: {slow: {after: {minutes: 5}}}
  errors: {broken: {type: 'https://x.test/broken', status: 500}}
  retries: {thrice: {limit: {attempt: {count: 3}}}}
  authentications: {me: {bearer: {token: t}}}
do:
  - a:
      try:
        - b: {raise: {error: broken}, timeout: slow}
      catch: {retry: thrice}
  - c:
      call: http
      with: {method: get, endpoint: {uri: 'http://x.test', authentication: {use: me}}}
",
    )
    .unwrap();
    assert_eq!(flow.workflow_type(), "my-team.import");
    assert_eq!(flow.document.version.to_string(), "2.0.0-rc.1");
    assert_eq!(flow.document.title.as_deref(), Some("Import"));
    assert_eq!(flow.document.tags["owner"], json!("me"));
    assert_eq!(flow.document.metadata["any"], json!({"thing": 1}));
    assert_eq!(
        flow.timeout,
        Some(DurationValue::Literal(Duration::from_secs(300)))
    );
    assert!(
        flow.input
            .schema
            .as_ref()
            .unwrap()
            .validate(&json!({}))
            .is_err()
    );
    let TaskKind::Try(task) = &flow.tasks[0].kind else {
        panic!()
    };
    assert_eq!(task.catch.retry.as_ref().unwrap().max_retries, Some(3));
    assert_eq!(task.catch.variable, "error");
    assert!(task.tasks[0].timeout.is_some());
    let TaskKind::CallHttp(call) = &flow.tasks[1].kind else {
        panic!()
    };
    assert!(matches!(
        call.authentication,
        Some(Authentication::Bearer { .. })
    ));
    assert_eq!(flow.definition()["document"]["dsl"], json!("1.0.0"));
}

#[test]
fn reads_the_same_from_json() {
    let yaml = parse(&with_tasks(
        "- x: {set: {a: \"\\U0001F600\", b: [1, 2.5, null]}}\n",
    ))
    .unwrap();
    let text = serde_json::to_string_pretty(yaml.definition()).unwrap();
    let from_json = parse(&text.replace('😀', "\\ud83d\\ude00")).unwrap();
    assert_eq!(from_json.definition(), yaml.definition());
    // A YAML document may begin with a brace as well.
    let braces =
        "{document: {dsl: 1.0.3, namespace: a, name: b, version: 1.0.0}, do: [x: {wait: PT1S}]}";
    assert_eq!(parse(braces).unwrap().tasks.len(), 1);
    let found = problems("{\n\"document\": 5,\n\"do\": [\n}");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, 4);
    assert!(found[0].1.contains("not valid JSON"), "{found:?}");
}

#[test]
fn problems_of_pretty_json_name_their_lines() {
    let found = problems(
        r#"{
  "document": {
    "dsl": "1.0.3",
    "namespace": "test",
    "name": "sample",
    "version": "0.1.0"
  },
  "do": [
    {
      "first": {
        "set": {
          "a": 1
        },
        "then": "nowhere"
      }
    },
    {
      "second": {
        "sett": {
          "a": 1
        }
      }
    }
  ]
}"#,
    );
    let lines: Vec<u32> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [14, 18], "{found:#?}");
    assert!(found[0].1.contains("then names \"nowhere\""), "{found:#?}");
    assert!(
        found[1].1.contains("task \"second\" does nothing"),
        "{found:#?}"
    );
}

#[test]
fn refuses_malformed_documents() {
    let head = "document:\n  dsl: '1.0.3'\n  namespace: test\n  name: sample\n  version: '0.1.0'\n";
    for (from, to, line, says) in [
        ("'1.0.3'", "'2.0.0'", 2, "version 2.0.0 of the DSL"),
        ("'1.0.3'", "1.0", 2, "write it in quotes"),
        ("'1.0.3'", "one", 2, "semantic version"),
        ("'0.1.0'", "'0.1'", 5, "semantic version"),
        ("namespace: test", "namespace: Test", 3, "lower-case"),
        ("name: sample", "name: sample-", 4, "hyphen"),
        ("name: sample", "name: 1a", 4, "begin with"),
        ("name: sample", "name: a.b", 4, "lower-case"),
        (
            "name: sample",
            "nam: sample\n  name: sample",
            4,
            "no property \"nam\"",
        ),
    ] {
        refused(
            &format!("{}do:\n{TASK}", head.replace(from, to)),
            line,
            says,
        );
    }
    refused(
        &format!(
            "{}do:\n{TASK}",
            head.replace("name: sample", &format!("name: {}", "a".repeat(64)))
        ),
        4,
        "63",
    );
    refused(head, 1, "needs \"do\"");
    refused(&format!("do:\n{TASK}"), 1, "needs \"document\"");
    refused(&format!("{head}do: {{}}\n"), 6, "do must be a list");
    refused(
        &format!("{head}tasks: []\ndo:\n{TASK}"),
        6,
        "no property \"tasks\"",
    );
    for (schedule, reason) in [
        ("{cron: x}", "no cron string"),
        ("{cron: 7}", "schedule.cron must be"),
        ("{every: PT0.5S}", "whole seconds"),
        ("{every: PT0S}", "longer than"),
        ("{after: soon}", "duration"),
        ("{after: PT1H, cron: '@daily'}", "schedule.after counts"),
        (
            "{on: {any: [], until: '${ true }'}}",
            "no property \"until\"",
        ),
        ("{on: {one: {with: {}}}}", "at least one"),
        ("{on: {}}", "exactly one of one, any, all"),
        ("{on: {any: []}, every: PT1H}", "cannot stand beside every"),
        ("{cron: '@daily', at: noon}", "no property \"at\""),
        ("{}", "schedule needs"),
    ] {
        refused(
            &format!("{head}schedule: {schedule}\ndo:\n{TASK}"),
            6,
            reason,
        );
    }
    refused(
        &format!("{head}evaluate: {{mode: loose}}\ndo:\n{TASK}"),
        6,
        "evaluate.mode \"loose\"",
    );
    refused(
        &format!("{head}evaluate: {{language: js}}\ndo:\n{TASK}"),
        6,
        "evaluate.language \"js\"",
    );
    refused(
        &format!("{head}  metadata: {{heyday: {{queue: a}}}}\ndo:\n{TASK}"),
        6,
        "no property \"queue\"",
    );
    for (queries, says) in [
        ("[a]", "queries must be an object"),
        ("{Up: 1}", "a query's name"),
        ("{__heyday_state: 1}", "a query's name"),
        ("{a: 'x ${ .y }'}", "must be the whole value"),
    ] {
        refused(
            &format!("{head}  metadata: {{heyday: {{queries: {queries}}}}}\ndo:\n{TASK}"),
            6,
            says,
        );
    }
    for (section, value) in [
        ("functions", "{f: {wait: PT1S}}"),
        ("extensions", "[]"),
        ("secrets", "[a]"),
        ("catalogs", "{default: {endpoint: {uri: 'http://x.test'}}}"),
    ] {
        refused(
            &format!("{head}use:\n  {section}: {value}\ndo:\n{TASK}"),
            7,
            &format!("use.{section} is not supported yet"),
        );
    }
    refused("[]", 1, "a flow must be an object");
    refused("--- ~\n", 1, "a flow must be an object");
    refused("text", 1, "a flow must be an object");
}

#[test]
fn a_broken_definition_is_told_once() {
    refused(
        &format!(
            "{}use:\n  retries:\n    r: {{delay: soon}}\n",
            with_tasks("- x: {try: [], catch: {retry: r}}\n- y: {try: [], catch: {retry: r}}\n")
        ),
        11,
        "ISO 8601",
    );
}

#[test]
fn keeps_limits_on_the_text() {
    let big = format!("{}# {}", with_tasks(TASK), "x".repeat(MAX_BYTES));
    refused(&big, 1, "the limit is 1048576");
    let mut bytes = with_tasks(TASK).into_bytes();
    bytes.extend(b"# \xff\n");
    let error = Flow::parse(&bytes).unwrap_err();
    assert_eq!(error.errors[0].line, 8);
    assert!(error.errors[0].message.contains("UTF-8"));
    let deep = format!("{{\"do\":{}{}}}", "[".repeat(64), "]".repeat(64));
    refused(&deep, 1, "64 levels");
    refused(
        &with_tasks(&format!(
            "- x: {{set: {{a: {}{}}}}}\n",
            "[".repeat(64),
            "]".repeat(64)
        )),
        7,
        "64 levels",
    );
    refused(
        &format!("document: {}\n", "{a: ".repeat(100_000)),
        1,
        "64 levels",
    );
    let bom = format!("\u{feff}{}", with_tasks(TASK));
    assert!(parse(&bom).is_ok());
}

#[test]
fn refuses_an_alias_bomb() {
    let mut bomb = with_tasks("- x:\n    set:\n      a0: &a0 [lol, lol]\n");
    for n in 1..30 {
        bomb.push_str(&format!("      a{n}: &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1));
    }
    let found = problems(&bomb);
    assert_eq!(found[0].0, 9);
    assert!(
        found
            .iter()
            .all(|(_, message)| message.contains("not supported"))
    );
}

#[test]
fn refuses_references_out_of_the_document() {
    for target in [
        "file:///etc/passwd",
        "http://127.0.0.1/x",
        "other.json",
        "other.json#/a",
        "/a",
        "",
    ] {
        refused(
            &with_tasks(&format!(
                "- x:\n    set: {{a: 1}}\n    input:\n      schema:\n        document:\n          properties:\n            a:\n              $ref: '{target}'\n"
            )),
            14,
            "out of the document",
        );
        refused(
            &with_tasks(&format!(
                "- x:\n    set: {{a: 1}}\n    metadata:\n      deep: [{{'$ref': '{target}'}}]\n"
            )),
            10,
            "out of the document",
        );
    }
    refused(
        &with_tasks(
            "- x:\n    set: {a: 1}\n    output:\n      schema:\n        resource: {endpoint: 'http://x.test'}\n",
        ),
        11,
        "schema.resource",
    );
    refused(
        &with_tasks(
            "- x:\n    set: {a: 1}\n    output:\n      schema: {format: avro, document: {}}\n",
        ),
        10,
        "\"avro\"",
    );
    refused(
        &with_tasks("- x:\n    set: {a: 1}\n    output:\n      schema: {}\n"),
        10,
        "needs \"document\"",
    );
}

#[test]
fn names_the_line_within_a_schema() {
    refused(
        &with_tasks(
            "- x:\n    set: {a: 1}\n    input:\n      schema:\n        document:\n          type: object\n          properties:\n            a:\n              type: strin\n",
        ),
        15,
        "strin",
    );
    refused(
        &with_tasks(
            "- x:\n    set: {a: 1}\n    input:\n      schema:\n        document:\n          pattern: '('\n",
        ),
        12,
        "(",
    );
    let inside = parse(&with_tasks(
        "- x:\n    set: {a: 1}\n    input:\n      schema:\n        document:\n          $defs: {a: {type: string}}\n          $ref: '#/$defs/a'\n",
    ))
    .unwrap();
    let schema = inside.tasks[0].input.schema.clone().unwrap();
    assert!(schema.validate(&json!("x")).is_ok());
    assert_eq!(schema.validate(&json!(1)).unwrap_err().len(), 1);
}

#[test]
fn a_schedule_has_times_or_follows_its_runs() {
    let head = "document: {dsl: '1.0.3', namespace: n, name: a, version: '1.0.0'}\n";
    let schedule = |text: &str| {
        let flow = parse(&format!("{head}schedule: {text}\ndo:\n{TASK}")).unwrap();
        flow.schedule().cloned()
    };
    let Some(FlowSchedule::Times(both)) =
        schedule("{every: {minutes: 5}, cron: 'TZ=UTC 0 3 * * *'}")
    else {
        panic!("it has times");
    };
    assert_eq!(both.cron, ["TZ=UTC 0 3 * * *"]);
    assert_eq!(both.time_zone.as_deref(), Some("UTC"));
    assert_eq!(both.intervals[0].every, Duration::from_secs(300));
    let Some(FlowSchedule::Times(every)) = schedule("{cron: '@every 1h'}") else {
        panic!("it has times");
    };
    assert_eq!(every.intervals[0].every, Duration::from_secs(3_600));
    assert_eq!(
        schedule("{after: PT30S}"),
        Some(FlowSchedule::After(Duration::from_secs(30)))
    );
    assert_eq!(
        parse(&format!("{head}do:\n{TASK}")).unwrap().schedule(),
        None
    );
}
