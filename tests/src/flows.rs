//! Each kind of task and each rule of data flow over the real server, with the real jq: what
//! the specification's kit does not come to. The same rules, with time and failures fed by
//! hand, are tests of the driver.

mod http;

use std::borrow::Cow;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::handmade::{DESCRIPTION, Handmade};
use crate::support::probe;
use crate::support::server::{Client, Server};

/// How a run is to end.
enum End {
    /// Completed, with this result.
    Result(Value),
    /// Failed, with these members in its error.
    Error(Value),
}

use End::{Error, Result};

/// A flow and how it is to end.
struct Case {
    name: &'static str,
    /// All but `document`.
    flow: Cow<'static, str>,
    input: Value,
    end: End,
}

const ERRORS: &str = "https://serverlessworkflow.io/spec/1.0.0/errors";

fn error(kind: &str, status: u16, instance: &str) -> End {
    Error(json!({ "type": format!("{ERRORS}/{kind}"), "status": status, "instance": instance }))
}

async fn upload(client: &Client, name: &str, flow: &str) {
    let text =
        format!("document: {{dsl: 1.0.3, namespace: tests, name: {name}, version: 1.0.0}}\n{flow}");
    let response = client.push_flow(&text).await.unwrap();
    if let Err(error) = Client::ok(response).await {
        panic!("{name}: {error}\n{text}");
    }
}

/// Uploads all flows with that grant, runs them beside each other, and compares how they
/// end.
async fn hold(client: &Client, cases: Vec<Case>, http: Option<&str>) {
    let mut runs = Vec::new();
    for case in cases {
        upload(client, case.name, &case.flow).await;
        if let Some(rule) = http {
            let flow = format!("tests.{}", case.name);
            client.grant(&flow, "http", rule, None).await.unwrap();
        }
        let id = client
            .start(&format!("tests.{}", case.name), &case.input)
            .await
            .unwrap();
        runs.push((case, id));
    }
    let mut wrong = Vec::new();
    for (case, id) in runs {
        let outcome = client.result(&id).await.unwrap();
        let holds = match &case.end {
            Result(result) => outcome.status == "Completed" && outcome.body["result"] == *result,
            Error(members) => {
                let details = &outcome.body["failure"]["details"];
                outcome.status == "Failed"
                    && members
                        .as_object()
                        .into_iter()
                        .flatten()
                        .all(|(name, value)| details[name] == *value)
            }
        };
        if !holds {
            let (Result(wanted) | Error(wanted)) = &case.end;
            wrong.push(format!(
                "{}: wanted {wanted}, got {}",
                case.name, outcome.body
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_and_data_flow_are_the_specification_s() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    client.push(Handmade::default().build(), "").await.unwrap();
    let newer = DESCRIPTION.replace("1.0.0", "2.0.0");
    let newer = Handmade {
        description: &newer,
        output: "43",
        ..Handmade::default()
    };
    client.push(newer.build(), "").await.unwrap();
    upload(
        client,
        "child",
        "input: {schema: {document: {type: object, required: [n]}}}\ndo:\n  - double: {set: {n: '${ .n * 2 }'}}\n",
    )
    .await;
    let cases = vec![
        Case {
            name: "set-and-text",
            flow: Cow::Borrowed(
                r#"
do:
  - one: {set: {text: '${ "\(.first) \(.last | ascii_upcase)" }', list: ["${ .first }", 1]}}
  - two: {set: '${ . + {count: (.list | length)} }'}
"#,
            ),
            input: json!({"first": "Ada", "last": "Lovelace"}),
            end: Result(json!({"text": "Ada LOVELACE", "list": ["Ada", 1], "count": 2})),
        },
        Case {
            name: "data-flow",
            flow: Cow::Borrowed(
                r#"
input: {schema: {document: {type: object, required: [order]}}, from: .order}
do:
  - pick:
      input: {schema: {document: {type: object, required: [items]}}, from: '.items | map(select(.price > 1))'}
      set: {names: '${ map(.name) }', total: '${ [.[].price] | add }'}
      output: {as: '{total, first: $input[0].name, raw: ($task.input.items | length)}', schema: {document: {required: [total]}}}
      export: {as: '$context + {seen: $output.first}', schema: {document: {required: [seen]}}}
  - skipped: {if: .total > 100, set: {never: true}, export: {as: '{}'}}
  - last: {set: '${ {total, seen: $context.seen, customer: $workflow.input.order.customer} }'}
output: {as: '. + {context: ($context | keys)}', schema: {document: {required: [context]}}}
"#,
            ),
            input: json!({"order": {"customer": "c", "items": [{"name": "a", "price": 1}, {"name": "b", "price": 2}, {"name": "c", "price": 3}]}}),
            end: Result(
                json!({"total": 5, "seen": "b", "customer": "c", "context": ["customer", "items", "seen"]}),
            ),
        },
        Case {
            name: "input-schema",
            flow: Cow::Borrowed(
                "input: {schema: {document: {type: object, required: [order]}}}\ndo: [{a: {set: {b: 1}}}]\n",
            ),
            input: json!({}),
            end: error("validation", 400, "/input"),
        },
        Case {
            name: "output-schema",
            flow: Cow::Borrowed(
                "do: [{a: {set: {b: 1}, output: {schema: {document: {required: [c]}}}}}]\n",
            ),
            input: json!(null),
            end: error("validation", 400, "/do/0/a"),
        },
        Case {
            name: "expression-fails",
            flow: Cow::Borrowed("do: [{a: {set: {b: '${ .x | tonumber }'}}}]\n"),
            input: json!({"x": "one"}),
            end: error("expression", 400, "/do/0/a"),
        },
        Case {
            name: "expression-is-empty",
            flow: Cow::Borrowed("do: [{a: {set: {b: '${ empty }'}}}]\n"),
            input: json!(null),
            end: error("expression", 400, "/do/0/a"),
        },
        Case {
            name: "for-while",
            flow: Cow::Borrowed(
                r#"
do:
  - loop:
      for: {each: x, in: '[range(1; 10)]', at: i}
      while: '($context.sum // 0) < 10'
      do:
        - add: {set: '${ {sum: ((.sum // 0) + $x), at: $i} }', export: {as: .}}
"#,
            ),
            input: json!({}),
            end: Result(json!({"sum": 10, "at": 3})),
        },
        Case {
            name: "switch-default",
            flow: Cow::Borrowed(
                r#"
do:
  - choose:
      switch:
        - other: {then: other}
        - big: {when: .n > 10, then: end}
  - never: {set: {wrong: true}}
  - other: {set: {small: '${ .n }'}}
"#,
            ),
            input: json!({"n": 3}),
            end: Result(json!({"small": 3})),
        },
        Case {
            name: "fork-and-race",
            flow: Cow::Borrowed(
                r#"
do:
  - all: {fork: {branches: [{a: {call: handmade.answer}}, {b: {set: {b: 1}, output: {as: .b}}}]}}
  - race: {fork: {compete: true, branches: [{slow: {wait: PT1H}}, {fast: {set: '${ . }'}}]}}
  - last: {set: {all: '${ . }'}}
"#,
            ),
            input: json!(null),
            end: Result(json!({"all": [43, 1]})),
        },
        Case {
            name: "versions",
            flow: Cow::Borrowed(
                "do:\n  - new: {call: handmade.answer, export: {as: '{new: .}'}}\n  - old: {call: 'handmade.answer:1.0.0@default'}\n  - both: {set: {old: '${ . }', new: '${ $context.new }'}}\n",
            ),
            input: json!(null),
            end: Result(json!({"old": 42, "new": 43})),
        },
        Case {
            name: "children",
            flow: Cow::Borrowed(
                r#"
do:
  - waited:
      input: {from: '{n: .start}'}
      run: {workflow: {namespace: tests, name: child, version: latest}}
  - detached: {run: {workflow: {namespace: tests, name: child, version: '1.0.0', input: {n: 100}}, await: false}}
  - again: {run: {workflow: {namespace: tests, name: child, version: '1.0.0'}}, output: {as: '{result: .n}'}}
"#,
            ),
            input: json!({"start": 3}),
            end: Result(json!({"result": 12})),
        },
        Case {
            name: "child-fails",
            flow: Cow::Borrowed(
                "do: [{run: {run: {workflow: {namespace: tests, name: child, version: latest, input: {}}}}}]\n",
            ),
            input: json!(null),
            end: error("validation", 400, "/do/0/run"),
        },
        Case {
            name: "child-is-unknown",
            flow: Cow::Borrowed(
                "do: [{run: {run: {workflow: {namespace: tests, name: nobody, version: latest}}}}]\n",
            ),
            input: json!(null),
            end: error("configuration", 400, "/do/0/run"),
        },
        Case {
            name: "raise-reusable",
            flow: Cow::Borrowed(
                r#"
use: {errors: {taken: {type: 'https://example.com/taken', status: 409, title: Taken, detail: '${ "\(.name) is taken" }'}}}
do: [{oops: {raise: {error: taken}}}]
"#,
            ),
            input: json!({"name": "Ada"}),
            end: Error(
                json!({"type": "https://example.com/taken", "status": 409, "title": "Taken", "detail": "Ada is taken", "instance": "/do/0/oops"}),
            ),
        },
        Case {
            name: "try-retry-catch",
            flow: Cow::Borrowed(
                r#"
use: {retries: {quick: {delay: {milliseconds: 5}, backoff: {exponential: {}}, jitter: {from: PT0S, to: PT0.005S}, limit: {attempt: {count: 2}}}}}
do:
  - guard:
      try:
        - once: {set: {tries: '${ (.tries // 0) + 1 }'}}
        - oops: {raise: {error: {type: 'https://example.com/odd', status: 418, title: Odd}}}
      catch:
        errors: {with: {status: 418}}
        as: problem
        exceptWhen: $problem.title == "Even"
        retry: quick
        do:
          - note: {set: '${ {caught: $problem.title, at: $problem.instance, input: .} }'}
"#,
            ),
            input: json!({"a": 1}),
            end: Result(
                json!({"caught": "Odd", "at": "/do/0/guard/try/1/oops", "input": {"a": 1}}),
            ),
        },
        Case {
            name: "not-caught",
            flow: Cow::Borrowed(
                r#"
do:
  - guard:
      try: [{oops: {raise: {error: {type: 'https://example.com/odd', status: 418, title: Odd}}}}]
      catch: {when: $error.status == 500, do: [{never: {set: {a: 1}}}]}
"#,
            ),
            input: json!(null),
            end: Error(json!({"status": 418, "instance": "/do/0/guard/try/0/oops"})),
        },
        Case {
            name: "task-timeout",
            flow: Cow::Borrowed(
                r#"
do:
  - guard:
      try: [{slow: {wait: PT1H, timeout: {after: {milliseconds: 20}}}}]
      catch: {errors: {with: {type: 'https://serverlessworkflow.io/spec/1.0.0/errors/timeout'}}, do: [{note: {set: '${ {status: $error.status} }'}}]}
"#,
            ),
            input: json!(null),
            end: Result(json!({"status": 408})),
        },
        Case {
            name: "workflow-timeout",
            flow: Cow::Borrowed(
                "use: {timeouts: {short: {after: {milliseconds: 20}}}}\ndo: [{slow: {wait: PT1H}}]\ntimeout: short\n",
            ),
            input: json!(null),
            end: error("timeout", 408, "/do"),
        },
        Case {
            name: "directives",
            flow: Cow::Borrowed(
                r#"
do:
  - outer:
      do:
        - first: {set: {n: 1}, then: third}
        - second: {set: {wrong: true}, then: end}
        - third: {set: {n: '${ .n + 1 }'}, then: exit}
        - fourth: {set: {wrong: true}}
      then: last
  - near: {set: {wrong: true}}
  - last: {set: {n: '${ .n * 10 }'}, then: end}
  - never: {set: {wrong: true}}
"#,
            ),
            input: json!(null),
            end: Result(json!({"n": 20})),
        },
        Case {
            name: "descriptors",
            flow: Cow::Borrowed(
                r#"
do:
  - one:
      set: '${ {task: $task.reference, name: $task.name, of: $workflow.definition.document.name, runtime: $runtime.name, starts: ([$task.startedAt, $workflow.startedAt] | map(.epoch.seconds | type)), call: ($task.definition | keys), none: [$output]} }'
"#,
            ),
            input: json!(null),
            end: Result(
                json!({"task": "/do/0/one", "name": "one", "of": "descriptors", "runtime": "heyday", "starts": ["number", "number"], "call": ["set"], "none": [null]}),
            ),
        },
    ];
    hold(client, cases, None).await;
    // The child that nobody waited for ran to its end by itself.
    let query = "/workflows?page_size=100&query=WorkflowType%20%3D%20%27tests.child%27%20AND%20ExecutionStatus%20%3D%20%27Completed%27";
    let deadline = std::time::Instant::now() + crate::support::server::PATIENCE;
    loop {
        let runs = client.get(query).await.unwrap();
        if runs["workflows"].as_array().unwrap().len() == 3 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{runs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_may_wait_for_the_end() {
    let server = probe::shared();
    waited_starts(&server.client).await;
}

/// Whatever server answers: the keys are used for the first time.
pub(crate) async fn waited_starts(client: &Client) {
    upload(client, "short", "do: [{answer: {set: {n: '${ .n + 1 }'}}}]").await;
    upload(client, "long", "do: [{pause: {wait: PT1H}}]").await;
    upload(
        client,
        "wrong",
        "do: [{stop: {raise: {error: {type: 'https://example.com/no', status: 418}}}}]",
    )
    .await;
    let start = async |path: &str, flow: &str, key: &str| {
        let response = client
            .request(Method::POST, path)
            .header("idempotency-key", key)
            .json(&json!({"workflow_type": format!("tests.{flow}"), "input": {"n": 1}}))
            .send()
            .await
            .unwrap();
        let location = response.headers().get("location").cloned();
        (response.status(), location, response)
    };

    let (status, location, response) = start("/workflows?wait=30s", "short", "one").await;
    let ended = Client::ok(response).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{ended}");
    assert_eq!(ended["status"], "Completed", "{ended}");
    assert_eq!(ended["result"], json!({"n": 2}));
    let run = format!(
        "/api/v1/workflows/{}/runs/{}",
        ended["workflow_id"].as_str().unwrap(),
        ended["run_id"].as_str().unwrap()
    );
    assert_eq!(location.unwrap(), run);
    let (_, _, again) = start("/workflows?wait=30s", "short", "one").await;
    assert_eq!(Client::ok(again).await.unwrap(), ended);
    // Without, what was started.
    let (status, _, again) = start("/workflows", "short", "one").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(Client::ok(again).await.unwrap()["created"], false);

    let (status, _, response) = start("/workflows?wait=30s", "wrong", "two").await;
    let failed = Client::ok(response).await.unwrap();
    assert_eq!(
        (status, &failed["status"]),
        (StatusCode::OK, &json!("Failed"))
    );

    let (status, location, response) = start("/workflows?wait=10ms", "long", "three").await;
    let running = Client::ok(response).await.unwrap();
    assert_eq!(status, StatusCode::ACCEPTED, "{running}");
    assert_eq!(running["status"], "Running", "{running}");
    assert!(location.is_some());

    let (_, _, response) = start("/workflows?wait=soon", "short", "four").await;
    let problem = Client::refused(response, StatusCode::BAD_REQUEST).await;
    assert!(
        problem["detail"].as_str().unwrap().contains("30s"),
        "{problem}"
    );
}
