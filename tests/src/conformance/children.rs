//! Runs that start runs.

use heyday_durable::engine::{ExecutionStatus, RunRef};
use heyday_durable::failure::Failure;
use serde_json::json;

use super::bench::{Bench, NAMESPACE};

on_both!(
    a_parent_gets_its_childs_result,
    a_cancel_reaches_the_child,
    a_childs_failure_reaches_the_parent,
    the_end_of_a_parent_cancels_its_child_but_not_a_detached_one,
    a_detached_child_is_not_waited_for_whatever_its_parents_end_means_to_it,
    an_unknown_child_is_a_failure,
    a_flow_that_runs_itself_ends_at_the_depth_limit,
);

const PARENT: &str = "  - c: {run: {workflow: {namespace: test, name: child, version: latest, input: {n: '${ .n }'}}}}\n";

pub(super) async fn child_of(bench: &Bench, parent: &RunRef) -> RunRef {
    let event = bench
        .until_event(parent, "ChildWorkflowExecutionStarted")
        .await;
    let execution = &event.attributes["workflow_execution"];
    RunRef {
        namespace: NAMESPACE.to_owned(),
        workflow_id: execution["workflow_id"].as_str().unwrap().to_owned(),
        run_id: Some(execution["run_id"].as_str().unwrap().parse().unwrap()),
    }
}

async fn a_parent_gets_its_childs_result(bench: Bench) {
    bench.define("parent", PARENT);
    bench.define("child", "  - a: {call: t.echo, with: {got: '${ .n }'}}\n");
    let parent = bench.start("parent", json!({"n": 3})).await;
    assert_eq!(bench.result(&parent).await, json!({"got": 3}));
    let child = child_of(&bench, &parent).await;
    let description = bench.engine().describe(&child).await.unwrap();
    assert_eq!(
        description.info.parent,
        Some((parent.workflow_id.clone(), parent.run_id.unwrap()))
    );
    assert_eq!(description.info.workflow_type, "test.child");
    assert!(description.pinned.contains_key("t.echo"));
}

async fn a_cancel_reaches_the_child(mut bench: Bench) {
    bench.define("parent", PARENT);
    bench.define("child", "  - a: {call: t.hand}\n");
    let parent = bench.start("parent", json!({})).await;
    let attempt = bench.attempt().await;
    let child = child_of(&bench, &parent).await;
    let pending = bench
        .engine()
        .describe(&parent)
        .await
        .unwrap()
        .pending_children;
    assert_eq!(
        pending,
        [(child.workflow_id.clone(), child.run_id.unwrap())]
    );
    bench.engine().cancel(&parent, "enough").await.unwrap();
    attempt.obey().await;
    assert_eq!(bench.end(&child).await.status, ExecutionStatus::Canceled);
    assert_eq!(bench.end(&parent).await.status, ExecutionStatus::Canceled);
}

async fn a_childs_failure_reaches_the_parent(mut bench: Bench) {
    bench.define("parent", PARENT);
    bench.define("child", "  - a: {call: t.hand}\n");
    let parent = bench.start("parent", json!({})).await;
    bench
        .attempt()
        .await
        .end(Err(Failure::permanent("broken", "it broke")));
    let failure = format!("{:?}", bench.failure(&parent).await);
    assert!(failure.contains("it broke"), "{failure}");
}

async fn the_end_of_a_parent_cancels_its_child_but_not_a_detached_one(mut bench: Bench) {
    bench.define("parent", PARENT);
    bench.define(
        "launcher",
        "  - c: {run: {workflow: {namespace: test, name: child, version: latest}, await: false}}\n",
    );
    bench.define("child", "  - a: {call: t.hand}\n");
    let parent = bench.start("parent", json!({})).await;
    let attempt = bench.attempt().await;
    let child = child_of(&bench, &parent).await;
    bench.engine().terminate(&parent, "now").await.unwrap();
    attempt.obey().await;
    assert_eq!(bench.end(&child).await.status, ExecutionStatus::Canceled);

    let launcher = bench.start("launcher", json!({})).await;
    let child = child_of(&bench, &launcher).await;
    let end = bench.end(&launcher).await;
    assert_eq!(end.status, ExecutionStatus::Completed);
    bench.attempt().await.end(Ok(json!("went on")));
    assert_eq!(bench.result(&child).await, json!("went on"));
}

async fn a_detached_child_is_not_waited_for_whatever_its_parents_end_means_to_it(mut bench: Bench) {
    let starts = |wait: bool, policy: &str| {
        format!(
            "  - c: {{run: {{workflow: {{namespace: test, name: child, version: latest}}, await: {wait}}}, metadata: {{heyday: {{parent_close: {policy}}}}}}}\n"
        )
    };
    bench.define("child", "  - a: {call: t.hand}\n");
    let rest = "  - w: {call: t.hand2}\n";
    bench.define("bound", &format!("{}{rest}", starts(false, "terminate")));
    bench.define(
        "asks",
        &format!("{}{rest}", starts(false, "request_cancel")),
    );
    bench.define("leaves", &format!("{}{rest}", starts(false, "abandon")));
    bench.define("waits", &starts(true, "abandon"));
    for (flow, policy, waits) in [
        ("bound", "Terminate", false),
        ("asks", "RequestCancel", false),
        ("leaves", "Abandon", false),
        ("waits", "Abandon", true),
    ] {
        let parent = bench.start(flow, json!({})).await;
        let child = child_of(&bench, &parent).await;
        let attempts = if waits { 1 } else { 2 };
        let (mut of_child, mut of_parent) = (None, None);
        for _ in 0..attempts {
            let attempt = bench.attempt().await;
            if attempt.task.activity_type == "t.hand" {
                of_child = Some(attempt);
            } else {
                of_parent = Some(attempt);
            }
        }
        let of_child = of_child.unwrap();
        let shown = bench
            .until_event(&parent, "StartChildWorkflowExecutionInitiated")
            .await;
        assert_eq!(shown.attributes["parent_close_policy"], policy);
        let described = bench.engine().describe(&parent).await.unwrap();
        let pending = [(child.workflow_id.clone(), child.run_id.unwrap())];
        assert_eq!(
            described.pending_children,
            if waits { &pending[..] } else { &[] },
            "{flow}"
        );
        if flow == "leaves" {
            // Nor does a cancel of the parent reach it.
            bench.engine().cancel(&parent, "enough").await.unwrap();
            of_parent.unwrap().obey().await;
            assert_eq!(bench.end(&parent).await.status, ExecutionStatus::Canceled);
        } else {
            bench.engine().terminate(&parent, "enough").await.unwrap();
        }
        let expected = match policy {
            "Terminate" => ExecutionStatus::Terminated,
            "RequestCancel" => {
                of_child.obey().await;
                ExecutionStatus::Canceled
            }
            _ => {
                of_child.end(Ok(json!("went on")));
                assert_eq!(bench.result(&child).await, json!("went on"));
                let asked = "WorkflowExecutionCancelRequested".to_owned();
                assert!(!bench.kinds(&child).await.contains(&asked), "{flow}");
                continue;
            }
        };
        assert_eq!(bench.end(&child).await.status, expected, "{flow}");
    }
}

async fn an_unknown_child_is_a_failure(bench: Bench) {
    bench.define("parent", PARENT);
    let parent = bench.start("parent", json!({})).await;
    let failure = format!("{:?}", bench.failure(&parent).await);
    assert!(failure.contains("test.child"), "{failure}");
}

async fn a_flow_that_runs_itself_ends_at_the_depth_limit(bench: Bench) {
    bench.define(
        "self",
        "  - c: {run: {workflow: {namespace: test, name: self, version: latest}}}\n",
    );
    let run = bench.start("self", json!({})).await;
    let failure = format!("{:?}", bench.failure(&run).await);
    assert!(failure.contains("deeper than 3"), "{failure}");
}
