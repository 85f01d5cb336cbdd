//! Flows that cannot run, and flows made to do harm: refused at their upload with the
//! line, or ended with an error that names the task.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::server::{Client, Server};

/// A flow with these tasks.
fn flow(name: &str, tasks: &str) -> String {
    format!(
        "document: {{ dsl: '1.0.0', namespace: test, name: {name}, version: '1.0.0' }}\ndo:\n{tasks}"
    )
}

/// The one error that a flow is refused with at its upload.
async fn refused(client: &Client, text: &str) -> Value {
    let response = client.push_flow(text).await.unwrap();
    let problem = Client::refused(response, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(problem["type"], "urn:heyday:problems:unusable", "{text}");
    problem["errors"][0].clone()
}

/// Runs a flow that must fail; answers its failure.
async fn fails(client: &Client, name: &str, tasks: &str, input: &Value) -> Value {
    let response = client.push_flow(&flow(name, tasks)).await.unwrap();
    Client::ok(response).await.unwrap();
    let outcome = client.run(&format!("test.{name}"), input).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{name}: {}", outcome.body);
    outcome.body["failure"].clone()
}

/// An expression is evaluated as ever.
async fn works(client: &Client, number: u64) {
    let name = format!("works-{number}");
    let tasks = "  - sum: { set: { sum: '${ .a + .b }' } }\n";
    let response = client.push_flow(&flow(&name, tasks)).await.unwrap();
    Client::ok(response).await.unwrap();
    let input = json!({ "a": number, "b": 1 });
    let outcome = client.run(&format!("test.{name}"), &input).await.unwrap();
    assert_eq!(
        outcome.body["result"]["sum"],
        number + 1,
        "{}",
        outcome.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_jq_could_do_to_the_process_does_not_exist() {
    let server = Server::start().await.unwrap();
    let pid = server.pid();
    refused_jq(&server.client).await;
    assert_eq!(server.pid(), pid);
}

/// Leaves one flow, which works.
pub(crate) async fn refused_jq(client: &Client) {
    for (number, (expression, told)) in [
        ("halt(1)", "halt"),
        ("halt", "halt"),
        ("\"bye\" | halt_error(1)", "halt_error"),
        ("env", "env"),
        ("env.HOME", "env"),
        ("$ENV.HOME", "ENV"),
        ("input", "input"),
        ("now", "now"),
        ("debug", "debug"),
        (". +", ""),
        ("{a: ", ""),
        ("no_such_filter", "no_such_filter"),
        (".a | $nothing", "nothing"),
    ]
    .into_iter()
    .enumerate()
    {
        let tasks = format!(
            "  - ok: {{ set: {{ x: 1 }} }}\n  - bad:\n      set:\n        x: '${{ {expression} }}'\n"
        );
        let error = refused(client, &flow(&format!("jq-{number}"), &tasks)).await;
        assert_eq!(error["line"], 6, "{expression}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(told), "{expression}: {error}");
        assert!(!message.contains("/root"), "{error}");
    }
    works(client, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_that_never_end_are_stopped_and_named() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    for (number, expression) in [
        "def f: 1 + f; f",
        "def f: [f]; f",
        "def f: f; f",
        "[repeat(1)]",
        "last(repeat(1))",
        "[range(1000000000000)] | length",
        "last(range(1000000000000))",
        "[limit(1000000000; repeat(\"aaaaaaaa\"))] | add",
        "reduce range(40) as $i (\"aaaaaaaaaaaaaaaa\"; . + .) | length",
        "until(false; .)",
        "[recurse(. + 1)] | length",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("hostile-{number}");
        let tasks = format!("  - hostile: {{ set: {{ x: '${{ {expression} }}' }} }}\n");
        let failure = fails(client, &name, &tasks, &json!(1)).await;
        let kind = failure["kind"].as_str().unwrap();
        assert!(
            kind.ends_with("/errors/expression"),
            "{expression}: {failure}"
        );
        assert_eq!(
            failure["details"]["instance"], "/do/0/hostile",
            "{expression}: {failure}"
        );
        assert_eq!(failure["retryable"], false, "{expression}: {failure}");
        let message = failure["message"].as_str().unwrap();
        assert!(
            [
                "computes for too long",
                "needs too much memory",
                "calls itself too deeply"
            ]
            .iter()
            .any(|limit| message.contains(limit)),
            "{expression}: {failure}"
        );
    }
    works(client, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_that_go_on_for_ever_pass_a_limit_that_names_the_task() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    passed_limits(client).await;
    let itself = "  - child:\n      run:\n        workflow: { namespace: test, name: itself, version: '1.0.0' }\n";
    let failure = fails(client, "itself", itself, &Value::Null).await;
    let text = failure.to_string();
    assert!(
        text.contains("limit-exceeded") && text.contains("/do/0/child"),
        "{text}"
    );
    works(client, 4).await;
}

/// Of one run; one that starts itself takes as many runs as may nest.
pub(crate) async fn passed_limits(client: &Client) {
    let jumps = "  - again: { set: { x: 1 }, then: again }\n";
    let failure = fails(client, "jumps", jumps, &Value::Null).await;
    assert_eq!(failure["kind"], "limit-exceeded", "{failure}");
    assert_eq!(
        failure["details"],
        json!({ "limit": "tasks_per_activation", "task": "/do/0/again" })
    );
    let doubles = "  - double: { set: { a: '${ . }', b: '${ . }' }, then: double }\n";
    let failure = fails(client, "doubles", doubles, &json!("x")).await;
    // The run's limit on data or, on the way there, the expression's on computing.
    let (kind, details) = (failure["kind"].as_str().unwrap(), &failure["details"]);
    assert!(
        kind == "limit-exceeded" && details["task"] == "/do/0/double"
            || kind.ends_with("/errors/expression") && details["instance"] == "/do/0/double",
        "{failure}"
    );
    // 20 KiB, then 32 times as much, of which 32 again are more than a run may hold. No
    // expression reads more than the 640 KiB in between, far below its own limits.
    let members: Vec<String> = (0..32).map(|n| format!("m{n}: '${{ . }}'")).collect();
    let grows = format!(
        "  - grow: {{ set: {{ {} }}, then: grow }}\n",
        members.join(", ")
    );
    let input = json!("x".repeat(20 << 10));
    let failure = fails(client, "grows", &grows, &input).await;
    assert_eq!(failure["kind"], "limit-exceeded", "{failure}");
    assert_eq!(
        failure["details"],
        json!({ "limit": "data_bytes", "task": "/do/0/grow" })
    );
    works(client, 3).await;
}

/// It may come later, so the upload only warns.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_flow_calls_and_is_not_there_fails_its_run() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    for (name, task, lacks, kind) in [
        (
            "calls-nobody",
            "call: nobody.answers",
            "activity nobody.answers",
            "unknown-activity",
        ),
        (
            "runs-nothing",
            "run: { workflow: { namespace: test, name: nothing, version: '1.0.0' } }",
            "flow test.nothing",
            "unknown-workflow",
        ),
    ] {
        let text = flow(name, &format!("  - step: {{ {task} }}\n"));
        let uploaded = client.push_flow(&text).await.unwrap();
        let uploaded = Client::ok(uploaded).await.unwrap();
        assert_eq!(uploaded["active"], true, "{uploaded}");
        let warnings = uploaded["warnings"].as_array().unwrap();
        let [Value::String(warning)] = &warnings[..] else {
            panic!("{uploaded}");
        };
        assert!(
            warning.starts_with(&format!("there is no {lacks} yet")),
            "{warning}"
        );
        let outcome = client.run(&format!("test.{name}"), &Value::Null).await;
        let outcome = outcome.unwrap();
        assert_eq!(outcome.status, "Failed", "{name}: {}", outcome.body);
        let failure = &outcome.body["failure"];
        let (details, cause) = (&failure["details"], &failure["cause"]);
        assert_eq!(
            details["type"], "https://serverlessworkflow.io/spec/1.0.0/errors/configuration",
            "{failure}"
        );
        assert_eq!(details["instance"], "/do/0/step", "{failure}");
        assert_eq!(cause["kind"], kind, "{failure}");
        assert_eq!(cause["retryable"], false, "{failure}");
        let (_, missing) = lacks.split_once(' ').unwrap();
        let message = cause["message"].as_str().unwrap();
        assert!(message.contains(missing), "{failure}");
    }
    works(client, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cannot_run_name_the_line() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    refused_documents(client).await;
    assert_eq!(client.get("/flows").await.unwrap()["flows"], json!([]));
}

/// Leaves none of them.
pub(crate) async fn refused_documents(client: &Client) {
    let lost = "  - a: { set: { x: 1 } }\n  - b:\n      set: { x: 2 }\n      then: nowhere\n";
    let error = refused(client, &flow("lost", lost)).await;
    assert_eq!(error["line"], 6, "{error}");
    assert!(
        error["message"].as_str().unwrap().contains("nowhere"),
        "{error}"
    );

    let mut bomb = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..20 {
        let last = format!("*a{}", level - 1);
        let items = vec![last; 9].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    let error = refused(client, &bomb).await;
    assert_eq!(error["line"], 1, "{error}");

    for reference in [
        "{ $ref: 'file:///etc/passwd' }",
        "{ $ref: 'http://127.0.0.1:1/schema.json' }",
        "{ $ref: 'other.json#/definitions/x' }",
    ] {
        let text = format!(
            "document: {{ dsl: '1.0.0', namespace: test, name: schema, version: '1.0.0' }}\n\
             input:\n  schema:\n    document: {reference}\ndo:\n  - a: {{ set: {{ x: 1 }} }}\n"
        );
        let error = refused(client, &text).await;
        assert_eq!(error["line"], 4, "{reference}: {error}");
    }
    let external = "document: { dsl: '1.0.0', namespace: test, name: schema, version: '1.0.0' }\n\
        input:\n  schema:\n    resource: { endpoint: 'http://127.0.0.1:1/schema.json' }\n\
        do:\n  - a: { set: { x: 1 } }\n";
    let error = refused(client, external).await;
    assert_eq!(error["line"], 4, "{error}");
}
