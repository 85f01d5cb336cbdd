//! What a run says of updates, without a cluster.

use std::collections::HashMap;

use serde_json::json;

use super::super::convert::json_payload;
use super::*;

fn run() -> Run {
    let start = sdk::InitializeWorkflow {
        workflow_type: "test.flow".to_owned(),
        workflow_id: "one".to_owned(),
        ..Default::default()
    };
    let run_id = "019b0000-0000-7000-8000-000000000001";
    Run::begin(("default", "cluster"), "general-queue", run_id, start).unwrap()
}

fn update(id: &str, run_validator: bool) -> sdk::DoUpdate {
    sdk::DoUpdate {
        id: id.to_owned(),
        protocol_instance_id: format!("instance-{id}"),
        name: "approve".to_owned(),
        input: vec![json_payload(&json!({"ok": true}))],
        run_validator,
        ..Default::default()
    }
}

/// Core's names of the updates that were answered, and how: `+` accepted, `-` not.
fn said(run: &mut Run) -> Vec<String> {
    let answers = run.take_answers().into_iter();
    let answers = answers.map(|command| match command.variant {
        Some(sdk::CommandVariant::UpdateResponse(sdk::UpdateResponse {
            protocol_instance_id,
            response: Some(sdk::update_response::Response::Accepted(())),
        })) => format!("+{protocol_instance_id}"),
        Some(sdk::CommandVariant::UpdateResponse(sdk::UpdateResponse {
            protocol_instance_id,
            response: Some(sdk::update_response::Response::Rejected(_)),
        })) => format!("-{protocol_instance_id}"),
        other => panic!("{other:?}"),
    });
    answers.collect()
}

#[test]
fn an_update_is_offered_and_settled_as_the_driver_says() {
    let mut run = run();
    for id in ["a", "b", "c"] {
        run.take(sdk::Job::DoUpdate(update(id, true))).unwrap();
    }
    let Some(Resolution::Offer(offered)) = run.resolutions.first() else {
        panic!("{:?}", run.resolutions);
    };
    assert_eq!(
        (offered.id.as_str(), offered.name.as_str()),
        ("a", "approve")
    );
    assert_eq!(said(&mut run), [""; 0]);
    let no = Failure::permanent(kind::UPDATE_REJECTED, "no");
    run.settle(vec![("a".to_owned(), Err(no)), ("b".to_owned(), Ok(()))]);
    // The driver ended before the last one.
    assert_eq!(
        said(&mut run),
        ["-instance-a", "+instance-b", "-instance-c"]
    );
    assert!(run.complete_update("a", Ok(Payload::null())).is_err());
    run.complete_update("b", Ok(Payload::null())).unwrap();
    assert!(run.complete_update("b", Ok(Payload::null())).is_err());
}

#[test]
fn a_replay_accepts_what_was_accepted() {
    let mut run = run();
    run.take(sdk::Job::DoUpdate(update("a", false))).unwrap();
    assert!(matches!(run.resolutions[..], [Resolution::Update(_)]));
    run.settle(Vec::new());
    assert_eq!(said(&mut run), ["+instance-a"]);
}

#[test]
fn what_is_no_update_is_rejected_before_a_flow_sees_it() {
    let two = sdk::DoUpdate {
        input: vec![json_payload(&1), json_payload(&2)],
        ..update("two", true)
    };
    let reserved = sdk::DoUpdate {
        name: "__reserved".to_owned(),
        ..update("reserved", true)
    };
    let binary = sdk::DoUpdate {
        input: vec![sdk::Payload {
            metadata: HashMap::from([("encoding".to_owned(), b"binary/plain".to_vec())]),
            ..Default::default()
        }],
        ..update("binary", true)
    };
    let large = sdk::DoUpdate {
        input: vec![json_payload(&"x".repeat(crate::payload::FOREIGN_LIMIT))],
        ..update("large", true)
    };
    let mut run = run();
    for update in [two, reserved, binary, large] {
        let expected = format!("-{}", update.protocol_instance_id);
        run.take(sdk::Job::DoUpdate(update)).unwrap();
        assert_eq!(said(&mut run), [expected]);
        assert!(run.resolutions.is_empty());
    }
}

/// One of which two have room in a workflow task.
fn large(id: &str, run_validator: bool) -> sdk::DoUpdate {
    sdk::DoUpdate {
        input: vec![json_payload(&"x".repeat(900 * 1024))],
        ..update(id, run_validator)
    }
}

#[test]
fn large_updates_that_come_together_are_rejected_but_for_those_that_were_accepted() {
    let mut run = run();
    for id in ["a", "b", "c"] {
        run.take(sdk::Job::DoUpdate(large(id, true))).unwrap();
    }
    assert_eq!(said(&mut run), ["-instance-c"]);
    assert_eq!(run.resolutions.len(), 2);
    let mut run = self::run();
    for id in ["a", "b", "c"] {
        run.take(sdk::Job::DoUpdate(large(id, false))).unwrap();
    }
    run.settle(Vec::new());
    assert_eq!(
        said(&mut run),
        ["+instance-a", "+instance-b", "+instance-c"]
    );
    // Another workflow task has room for another one.
    run.task_size.enter(9);
    run.take(sdk::Job::DoUpdate(large("d", true))).unwrap();
    assert_eq!(said(&mut run), [""; 0]);
}

#[test]
fn a_large_update_that_was_rejected_keeps_no_room_from_the_next() {
    let mut run = run();
    for id in ["a", "b", "c", "d"] {
        // The cluster has forgotten the task before, in which nothing else was said.
        run.task_size.enter(6);
        run.take(sdk::Job::DoUpdate(large(id, true))).unwrap();
        assert_eq!(said(&mut run), [""; 0], "{id} was not offered");
        let no = Failure::permanent(kind::UPDATE_REJECTED, "no");
        run.settle(vec![(id.to_owned(), Err(no))]);
        assert_eq!(said(&mut run), [format!("-instance-{id}")]);
    }
}

#[test]
fn a_run_that_takes_no_more_is_told_from_a_cluster_that_is_overloaded() {
    let at_once = [
        "limit on number of concurrent in-flight updates has been reached (10)",
        "limit on total payload size of in-flight updates has been reached (20971520 bytes)",
    ];
    for message in at_once {
        let status = sdk::Status::new(sdk::Code::ResourceExhausted, message);
        assert!(too_many_at_once(&status) && too_many(&status), "{message}");
    }
    let at_all =
        "The limit on the total number of distinct updates in this workflow has been reached";
    let at_all = sdk::Status::new(sdk::Code::FailedPrecondition, at_all);
    assert!(too_many(&at_all) && !too_many_at_once(&at_all));
    for (code, message) in [
        (
            sdk::Code::ResourceExhausted,
            "namespace rate limit exceeded",
        ),
        (sdk::Code::FailedPrecondition, "no poller has been seen"),
    ] {
        assert!(!too_many(&sdk::Status::new(code, message)), "{message}");
    }
}
