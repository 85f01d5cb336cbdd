//! Calls: activities, HTTP and child workflows.

use super::*;
use crate::flow::error::{CONFIGURATION, EXPRESSION, VALIDATION};

#[test]
fn an_activity_takes_the_transformed_input_or_with() {
    let tasks = r#"
  - plain: {input: {from: .x}, call: p.a}
  - given: {input: {from: .y}, call: p.b, with: {a: "${ .z }", b: 1}}
"#;
    let mut fed = Fed::new(tasks, json!({"x": [1]}));
    assert_eq!(fed.said(), ["activity 1 p.a [1]"]);
    fed.feed([done(1, json!({"y": {"z": 3}}))]);
    assert_eq!(fed.said(), [r#"activity 2 p.b {"a":3,"b":1}"#]);
    fed.feed([done(2, json!("end"))]);
    assert_eq!(fed.result(), json!("end"));
}

#[test]
fn an_activity_without_with_evaluates_nothing() {
    let expressions = TinyJqForTests::default();
    let evaluations = Arc::clone(&expressions.evaluations);
    let expressions: Arc<dyn Expressions> = Arc::new(expressions);
    let tasks = "\n  - a: {call: p.a}\n  - b: {if: .x, set: {z: 0}}\n";
    let mut driver =
        Driver::new(start_of(&document(tasks), &json!({"x": 1})), &expressions).unwrap();
    driver
        .activate(Activation {
            now: timestamp(0),
            resolutions: Vec::new(),
            continue_as_new_suggested: false,
        })
        .unwrap();
    assert_eq!(evaluations.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn metadata_goes_over_what_is_pinned() {
    let tasks = r#"
  - a:
      call: p.a
      metadata:
        heyday:
          queue: storage-queue
          timeouts: {start_to_close: PT7S}
          retry: {maximum_attempts: 2}
  - b: {call: p.a}
"#;
    let text = document(tasks);
    let mut fed = Fed::start(start_of(&text, &json!({})));
    let schedule = fed.activity();
    assert_eq!(
        (schedule.queue.as_str(), schedule.task.as_str()),
        ("storage-queue", "/do/0/a")
    );
    assert_eq!(
        schedule.timeouts.start_to_close,
        Some(Duration::from_secs(7))
    );
    assert_eq!(schedule.timeouts.heartbeat, Some(Duration::from_secs(30)));
    assert_eq!(
        schedule.retry,
        RetryPolicy {
            maximum_attempts: 2,
            ..RetryPolicy::default()
        }
    );
    fed.feed([done(1, json!({}))]);
    let schedule = fed.activity();
    assert_eq!(schedule.queue, "general-queue");
    assert_eq!(
        schedule.timeouts.start_to_close,
        Some(crate::activity::DEFAULT_START_TO_CLOSE)
    );
    assert_eq!(schedule.retry, RetryPolicy::default());
}

#[test]
fn an_unknown_activity_is_an_error() {
    let fault = Fed::new("\n  - a: {call: q.none}\n", json!({})).fault();
    assert_eq!(
        (
            &fault["type"],
            &fault["failure"]["kind"],
            &fault["instance"]
        ),
        (
            &json!(CONFIGURATION),
            &json!("unknown-activity"),
            &json!("/do/0/a")
        )
    );
}

#[test]
fn an_answer_that_is_no_json_is_an_error() {
    let mut fed = Fed::new("\n  - a: {call: p.a}\n", json!({}));
    fed.feed([Resolution::Activity {
        activity_id: "1".to_owned(),
        outcome: Ok(Payload::json_bytes(bytes::Bytes::from_static(b"{"))),
    }]);
    assert_eq!(fed.fault()["type"], VALIDATION);
}

#[test]
fn http_is_an_activity_with_everything_rendered() {
    let tasks = r#"
  - get:
      call: http
      with:
        method: post
        endpoint:
          uri: https://example.com/pets/{id}
          authentication: {basic: {username: "${ .user }", password: secret}}
        headers: {X-Count: "${ .n }", Accept: text/plain}
        query: {q: "${ .tags }"}
        body: {deep: {n: "${ .n }"}}
        output: response
        redirect: true
"#;
    let fed = Fed::new(
        tasks,
        json!({"id": "a b", "user": "u", "n": 3, "tags": ["x", "y"]}),
    );
    let schedule = fed.activity();
    assert_eq!(schedule.activity.activity_type, HTTP_ACTIVITY_TYPE);
    assert_eq!(
        schedule.input.to_json().unwrap(),
        json!({
            "method": "POST",
            "endpoint": "https://example.com/pets/a%20b",
            "headers": {"X-Count": "3", "Accept": "text/plain"},
            "query": {"q": ["x", "y"]},
            "body": {"deep": {"n": 3}},
            "output": "response",
            "redirect": true,
            "authentication": {"basic": {"username": "u", "password": "secret"}},
        })
    );
    let least = "\n  - get: {call: http, with: {method: get, endpoint: 'https://example.com'}}\n";
    assert_eq!(
        Fed::new(least, json!(null))
            .activity()
            .input
            .to_json()
            .unwrap(),
        json!({
            "method": "GET", "endpoint": "https://example.com", "headers": {}, "query": {},
            "output": "content", "redirect": false,
        })
    );
}

#[test]
fn a_request_of_wrong_types_is_an_error() {
    for with in [
        "method: get, endpoint: '${ .n }'",
        "method: '${ .n }', endpoint: 'https://example.com'",
        "method: get, endpoint: 'https://example.com', headers: '${ .n }'",
        "method: get, endpoint: 'https://example.com', headers: {a: '${ . }'}",
        "method: get, endpoint: 'https://example.com', query: '${ .n }'",
    ] {
        let tasks = format!("\n  - get: {{call: http, with: {{{with}}}}}\n");
        let fed = Fed::new(&tasks, json!({"n": 1}));
        assert_eq!(fed.fault()["type"], EXPRESSION, "{with}");
    }
}

const CHILD: &str = r#"
  - run: {run: {workflow: {namespace: other, name: work, version: '1.2.0', input: {x: "${ .a }"}}}}
  - after: {set: {got: "${ . }"}}
"#;

#[test]
fn a_child_is_started_and_awaited() {
    let mut fed = Fed::new(CHILD, json!({"a": 1}));
    let Some(Command::StartChild(start)) = fed.commands.first() else {
        panic!("{:?}", fed.commands)
    };
    assert_eq!(start.workflow.workflow_type, "other.work");
    assert_eq!(start.workflow.version, Some(semver::Version::new(1, 2, 0)));
    assert_eq!(start.workflow_id, format!("{}_1", Uuid::from_u128(7)));
    assert_eq!(
        (start.depth, start.detached, start.task.as_str()),
        (1, false, "/do/0/run")
    );
    assert_eq!(fed.said(), [r#"child 1 other.work {"x":1}"#]);
    fed.feed([child_started(1)]);
    assert_eq!(fed.said(), [""; 0]);
    fed.feed([child_done(1, Ok(json!(5)))]);
    assert_eq!(fed.result(), json!({"got": 5}));
}

#[test]
fn a_child_s_error_is_the_task_s() {
    let mut fed = Fed::new(CHILD, json!({"a": 1}));
    let error = Failure::permanent("https://example.com/errors/odd", "odd")
        .with_details(json!({"status": 418, "title": "Odd"}));
    fed.feed([child_started(1), child_done(1, Err(error))]);
    let fault = fed.fault();
    assert_eq!(
        (&fault["type"], &fault["status"], &fault["instance"]),
        (
            &json!("https://example.com/errors/odd"),
            &json!(418),
            &json!("/do/0/run")
        )
    );

    let mut fed = Fed::new(CHILD, json!({"a": 1}));
    fed.feed([Resolution::ChildStarted {
        child_id: "1".to_owned(),
        outcome: Err(Failure::permanent("unknown-workflow", "no such workflow")),
    }]);
    assert_eq!(fed.fault()["failure"]["kind"], "unknown-workflow");
}

#[test]
fn nobody_waits_for_a_detached_child() {
    let tasks = r#"
  - run: {run: {workflow: {namespace: other, name: work, version: latest}, await: false}}
  - next: {call: p.a}
"#;
    let mut fed = Fed::new(tasks, json!({"a": 1}));
    assert!(matches!(&fed.commands[0], Command::StartChild(start) if start.detached));
    fed.feed([child_started(1)]);
    assert_eq!(fed.said(), [r#"activity 1 p.a {"a":1}"#]);
    // Its end may be told, and changes nothing.
    fed.feed([child_done(1, Ok(json!("ignored")))]);
    fed.feed([done(1, json!("end"))]);
    assert_eq!(fed.result(), json!("end"));
}

#[test]
fn a_detached_child_may_end_while_a_later_one_is_awaited() {
    let tasks = r#"
  - apart: {run: {workflow: {namespace: other, name: work, version: latest}, await: false}}
  - one: {run: {workflow: {namespace: other, name: work, version: latest}}}
"#;
    let mut fed = Fed::new(tasks, json!({"a": 1}));
    fed.feed([child_started(1)]);
    fed.feed([child_started(2)]);
    fed.feed([child_done(1, Ok(json!("ignored")))]);
    fed.feed([child_done(2, Ok(json!("end")))]);
    assert_eq!(fed.result(), json!("end"));
}
