//! Every kind of task, as the model has it.

use std::time::Duration;

use serde_json::json;

use super::flow;
use crate::activity::{ActivityTimeouts, RetryPolicy};
use crate::flow::model::*;
use crate::flow::template::{Template, Uri};

fn literal(value: serde_json::Value) -> Template {
    Template::Literal(value)
}

#[test]
fn common_properties() {
    let flow = flow(
        "- one:
    if: ${ .go }
    input:
      schema:
        document: {type: object}
      from: .user
    output:
      as: '${ .result }'
    export:
      as: {a: '${ .b }', c: .d}
    timeout: {after: PT5S}
    then: three
    metadata: {note: anything}
    set: {a: 1}
- two:
    set: ${ . }
- three:
    set: {b: 2}
    then: end
",
    );
    let [one, two, three] = flow.tasks.as_slice() else {
        panic!()
    };
    assert_eq!(
        (one.name.as_str(), one.reference.as_str(), one.line),
        ("one", "/do/0/one", 7)
    );
    assert_eq!(flow.expression(one.condition.unwrap()), ".go");
    assert!(one.input.schema.is_some());
    let Some(Template::Expression(from)) = one.input.template else {
        panic!()
    };
    assert_eq!(flow.expression(from), ".user");
    let Some(Template::Expression(output)) = one.output.template else {
        panic!()
    };
    assert_eq!(flow.expression(output), ".result");
    let Some(Template::Object(members)) = &one.export.template else {
        panic!()
    };
    assert!(matches!(members[0].1, Template::Expression(_)));
    assert_eq!(members[1].1, literal(json!(".d")));
    assert_eq!(
        one.timeout,
        Some(DurationValue::Literal(Duration::from_secs(5)))
    );
    assert_eq!(
        (one.then, two.then, three.then),
        (Then::Task(2), Then::Continue, Then::End)
    );
    assert!(matches!(&one.kind, TaskKind::Set(value) if *value == literal(json!({"a": 1}))));
    assert!(matches!(two.kind, TaskKind::Set(Template::Expression(_))));
    assert_eq!(flow.task_definition(two), &json!({"set": "${ . }"}));
    assert_eq!(flow.workflow_type(), "test.sample");
}

#[test]
fn a_reference_is_a_json_pointer_into_the_document() {
    let flow = flow(
        "- a/b~c:
    try:
      - inner:
          for: {in: .x}
          do:
            - deep:
                fork:
                  branches:
                    - left: {set: {x: 1}}
    catch:
      do:
        - clean: {set: {y: 1}}
",
    );
    let outer = &flow.tasks[0];
    assert_eq!(outer.reference, "/do/0/a~1b~0c");
    let TaskKind::Try(try_task) = &outer.kind else {
        panic!()
    };
    let TaskKind::For(for_task) = &try_task.tasks[0].kind else {
        panic!()
    };
    let TaskKind::Fork(fork) = &for_task.tasks[0].kind else {
        panic!()
    };
    assert_eq!(
        fork.branches[0].reference,
        "/do/0/a~1b~0c/try/0/inner/do/0/deep/fork/branches/0/left"
    );
    let clean = &try_task.catch.tasks.as_ref().unwrap()[0];
    assert_eq!(clean.reference, "/do/0/a~1b~0c/catch/do/0/clean");
    for task in [outer, &fork.branches[0], clean] {
        assert!(flow.task_definition(task).is_object(), "{}", task.reference);
    }
}

#[test]
fn call_activity() {
    let flow = flow(
        "- a:
    call: extract.text_of
    with: {path: '${ .path }', mode: fast}
    metadata:
      heyday:
        queue: storage-queue
        timeouts: {start_to_close: PT1M, heartbeat: 10s}
        retry: {maximum_attempts: 7, initial_interval: {milliseconds: 50}, non_retryable_kinds: [bad]}
- b:
    call: extract.text_of:1.2.0@default
- c:
    call: extract.text_of
",
    );
    let TaskKind::CallActivity(call) = &flow.tasks[0].kind else {
        panic!()
    };
    assert_eq!(
        (call.name.as_str(), call.activity_type.as_str()),
        ("extract.text_of", "extract.text_of")
    );
    assert!(matches!(call.with, Some(Template::Object(_))));
    let options = &flow.tasks[0].options;
    assert_eq!(options.queue.as_deref(), Some("storage-queue"));
    let base = ActivityTimeouts {
        start_to_close: Some(Duration::from_secs(9)),
        schedule_to_close: Some(Duration::from_secs(8)),
        ..ActivityTimeouts::default()
    };
    let timeouts = options.timeouts_over(&base);
    assert_eq!(timeouts.start_to_close, Some(Duration::from_secs(60)));
    assert_eq!(timeouts.schedule_to_close, Some(Duration::from_secs(8)));
    assert_eq!(timeouts.heartbeat, Some(Duration::from_secs(10)));
    let retry = options.retry.over(&RetryPolicy::default());
    assert_eq!(
        (retry.maximum_attempts, retry.backoff_coefficient),
        (7, 2.0)
    );
    assert_eq!(retry.initial_interval, Duration::from_millis(50));
    assert_eq!(retry.non_retryable_kinds, ["bad"]);
    let TaskKind::CallActivity(pinned) = &flow.tasks[1].kind else {
        panic!()
    };
    assert_eq!(pinned.activity_type, "extract.text_of");
    assert_eq!(pinned.version, Some(semver::Version::new(1, 2, 0)));
    assert_eq!(pinned.with, None);
    let names: Vec<_> = flow
        .activities()
        .iter()
        .map(|call| call.name.as_str())
        .collect();
    assert_eq!(names, ["extract.text_of", "extract.text_of:1.2.0@default"]);
    assert!(!flow.uses_http());
}

#[test]
fn call_http() {
    let flow = flow(
        "- a:
    call: http
    with:
      method: POST
      endpoint:
        uri: https://x.test/pet/{petId}?s={s}
        authentication: {basic: {username: '${ .u }', password: p}}
      headers: {accept: application/json, x: '${ .x }'}
      query: ${ .query }
      body: {a: ['${ .a }', 1]}
      output: response
      redirect: true
- b:
    call: http
    with: {method: get, endpoint: '${ .url }'}
- c:
    call: http
    with:
      method: get
      endpoint: {uri: 'http://x.test', authentication: {bearer: {token: '${ .t }'}}}
",
    );
    let TaskKind::CallHttp(call) = &flow.tasks[0].kind else {
        panic!()
    };
    assert_eq!(call.method, literal(json!("POST")));
    let Uri::Template(uri) = &call.endpoint else {
        panic!()
    };
    assert_eq!(
        uri.expand(&json!({"petId": 7, "s": "a&b"})).unwrap(),
        "https://x.test/pet/7?s=a%26b"
    );
    assert!(
        matches!(&call.authentication, Some(Authentication::Basic { password, .. }) if *password == literal(json!("p")))
    );
    assert!(matches!(call.query, Some(Template::Expression(_))));
    assert_eq!((call.output, call.redirect), (HttpOutput::Response, true));
    let TaskKind::CallHttp(call) = &flow.tasks[1].kind else {
        panic!()
    };
    assert!(matches!(call.endpoint, Uri::Expression(_)));
    assert_eq!((call.output, call.redirect), (HttpOutput::Content, false));
    let TaskKind::CallHttp(call) = &flow.tasks[2].kind else {
        panic!()
    };
    assert!(matches!(
        call.authentication,
        Some(Authentication::Bearer { .. })
    ));
    assert!(flow.uses_http());
}

#[test]
fn do_switch_for_fork() {
    let flow = flow(
        "- d:
    do:
      - one: {set: {a: 1}, then: exit}
- s:
    switch:
      - first: {when: .a == 1, then: f}
      - other: {then: exit}
- f:
    for: {each: pet, in: '${ .pets }', at: place}
    while: .more
    do:
      - inner: {set: {x: '${ $pet }'}}
- g:
    for: {in: .pets}
    do: []
- k:
    fork:
      compete: true
      branches:
        - l: {wait: PT1S, then: end}
        - m: {wait: {seconds: 1, milliseconds: 5}}
",
    );
    let TaskKind::Do(tasks) = &flow.tasks[0].kind else {
        panic!()
    };
    assert_eq!(tasks[0].then, Then::Exit);
    let TaskKind::Switch(cases) = &flow.tasks[1].kind else {
        panic!()
    };
    assert_eq!(
        (cases[0].then, cases[1].when, cases[1].then),
        (Then::Task(2), None, Then::Exit)
    );
    let TaskKind::For(task) = &flow.tasks[2].kind else {
        panic!()
    };
    assert_eq!((task.each.as_str(), task.at.as_str()), ("pet", "place"));
    assert_eq!(flow.expression(task.collection), ".pets");
    assert!(task.condition.is_some());
    let TaskKind::For(task) = &flow.tasks[3].kind else {
        panic!()
    };
    assert_eq!((task.each.as_str(), task.at.as_str()), ("item", "index"));
    assert_eq!(flow.expression(task.collection), ".pets");
    let TaskKind::Fork(fork) = &flow.tasks[4].kind else {
        panic!()
    };
    assert!(fork.compete && fork.branches.len() == 2);
    assert!(
        matches!(fork.branches[1].kind, TaskKind::Wait(DurationValue::Literal(d)) if d == Duration::from_millis(1005))
    );
    assert_eq!(
        flow.variables(),
        [
            "context",
            "input",
            "output",
            "task",
            "workflow",
            "runtime",
            "secrets",
            "authorization",
            "index",
            "item",
            "pet",
            "place"
        ]
    );
    assert_eq!(flow.expressions(), [".a == 1", ".pets", ".more", "$pet"]);
    assert_eq!(flow.expression_line("$pet"), Some(18));
}

#[test]
fn try_raise_run() {
    let flow = flow(
        "- t:
    try:
      - r:
          raise:
            error: {type: 'https://x.test/{kind}', status: '${ .s }', title: '${ .t }', detail: d}
    catch:
      errors:
        with: {type: 'https://serverlessworkflow.io/dsl/errors/types/communication', status: 404, details: gone}
      as: err
      when: .x
      exceptWhen: ${ .y }
      retry:
        when: .w
        exceptWhen: .v
        delay: {seconds: 3}
        backoff: {exponential: {}}
        limit: {attempt: {count: 5, duration: PT1M}, duration: '${ .d }'}
        jitter: {from: PT1S, to: PT2S}
      do:
        - x: {set: {a: 1}}
- w:
    run:
      await: false
      workflow: {namespace: other, name: child, version: latest, input: {a: '${ .a }'}}
- v:
    run:
      workflow: {namespace: other, name: child, version: '1.2.3'}
",
    );
    let TaskKind::Try(task) = &flow.tasks[0].kind else {
        panic!()
    };
    let TaskKind::Raise(error) = &task.tasks[0].kind else {
        panic!()
    };
    assert!(matches!(&error.error_type, Uri::Template(uri) if uri.variables().eq(["kind"])));
    assert!(matches!(error.status, Template::Expression(_)));
    assert_eq!(error.detail, Some(literal(json!("d"))));
    let catch = &task.catch;
    assert_eq!(
        (catch.variable.as_str(), catch.filter.status),
        ("err", Some(404))
    );
    assert_eq!(catch.filter.detail.as_deref(), Some("gone"));
    let retry = catch.retry.as_ref().unwrap();
    assert_eq!(
        (retry.backoff, retry.max_retries),
        (Backoff::Exponential, Some(5))
    );
    assert!(matches!(retry.duration, Some(DurationValue::Expression(_))));
    assert_eq!(
        retry.jitter,
        Some((
            DurationValue::Literal(Duration::from_secs(1)),
            DurationValue::Literal(Duration::from_secs(2))
        ))
    );
    let TaskKind::RunWorkflow(run) = &flow.tasks[1].kind else {
        panic!()
    };
    assert_eq!(
        (run.workflow_type.as_str(), run.version.as_ref(), run.wait),
        ("other.child", None, false)
    );
    let TaskKind::RunWorkflow(run) = &flow.tasks[2].kind else {
        panic!()
    };
    assert_eq!(
        (run.version.as_ref(), run.wait),
        (Some(&semver::Version::new(1, 2, 3)), true)
    );
    assert_eq!(flow.children().len(), 2);
    assert!(flow.variables().contains(&"err".to_owned()));
}

#[test]
fn backoff_grows_and_saturates() {
    let delay = Duration::from_secs(3);
    let waits = |backoff: Backoff| [1, 2, 3, 4].map(|retry| backoff.delay(delay, retry).as_secs());
    assert_eq!(waits(Backoff::Constant), [3, 3, 3, 3]);
    assert_eq!(waits(Backoff::Linear), [3, 6, 9, 12]);
    assert_eq!(waits(Backoff::Exponential), [3, 6, 12, 24]);
    assert_eq!(
        Backoff::Exponential.delay(delay, u32::MAX),
        crate::flow::duration::MAX
    );
    assert_eq!(
        Backoff::Linear.delay(crate::flow::duration::MAX, 2),
        crate::flow::duration::MAX
    );
    assert_eq!(
        Backoff::Exponential.delay(Duration::ZERO, 1_000),
        Duration::ZERO
    );
}
