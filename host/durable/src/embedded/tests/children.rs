//! Runs that start runs.

use super::*;

const PARENT: &str = "  - c: {run: {workflow: {namespace: test, name: child, version: latest, input: {n: '${ .n }'}}}}\n";

async fn count(bench: &Bench) -> usize {
    let request = ListRuns {
        namespace: "default".to_owned(),
        query: None,
        page_size: 10,
        page_token: None,
    };
    bench.engine().list(&request).await.unwrap().runs.len()
}

async fn child_of(bench: &Bench, parent: &RunRef) -> RunRef {
    let event = bench
        .until_event(parent, "ChildWorkflowExecutionStarted")
        .await;
    RunRef {
        namespace: "default".to_owned(),
        workflow_id: event.attributes["workflow_execution"]["workflow_id"]
            .as_str()
            .unwrap()
            .to_owned(),
        run_id: Some(
            event.attributes["workflow_execution"]["run_id"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap(),
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_survives_a_crash_with_its_parent() {
    let mut bench = Bench::new().await;
    bench.define("parent", PARENT);
    bench.define("child", "  - a: {call: t.hand}\n");
    let parent = bench.start("parent", json!({"n": 3})).await;
    let _lost = bench.attempt().await;
    child_of(&bench, &parent).await;
    bench.crash().await;
    let child = child_of(&bench, &parent).await;
    bench.until_event(&child, "ActivityTaskFailed").await;
    bench.clock.advance(Duration::from_secs(1));
    bench.attempt().await.end(Ok(json!("done")));
    assert_eq!(bench.result(&parent).await, json!("done"));
    assert_eq!(count(&bench).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_the_child_and_a_failure_the_parent() {
    let mut bench = Bench::new().await;
    bench.define("parent", PARENT);
    bench.define("child", "  - a: {call: t.hand}\n");
    let parent = bench.start("parent", json!({})).await;
    let attempt = bench.attempt().await;
    let child = child_of(&bench, &parent).await;
    bench.engine().cancel(&parent, "enough").await.unwrap();
    attempt.context.cancellation.cancelled().await;
    attempt.end(Err(Failure::permanent(kind::CANCELLED, "stopped")));
    assert_eq!(bench.end(&child).await.status, ExecutionStatus::Canceled);
    assert_eq!(bench.end(&parent).await.status, ExecutionStatus::Canceled);

    let parent = bench.start("parent", json!({})).await;
    bench
        .attempt()
        .await
        .end(Err(Failure::permanent("broken", "it broke")));
    let failure = bench.failure(&parent).await;
    assert!(format!("{failure:?}").contains("it broke"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_runs_itself_ends_at_the_depth_limit() {
    let bench = Bench::with(|options| options.limits.depth = 3).await;
    bench.define(
        "self",
        "  - c: {run: {workflow: {namespace: test, name: self, version: latest}}}\n",
    );
    let run = bench.start("self", json!({})).await;
    assert_eq!(bench.end(&run).await.status, ExecutionStatus::Failed);
    assert_eq!(count(&bench).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_says_what_the_end_of_a_parent_does_to_its_child() {
    for (wait, policy, status) in [
        (true, "terminate", Some(ExecutionStatus::Terminated)),
        (true, "abandon", None),
        (false, "terminate", Some(ExecutionStatus::Terminated)),
        (false, "request_cancel", Some(ExecutionStatus::Canceled)),
    ] {
        let mut bench = Bench::new().await;
        bench.define(
            "parent",
            &format!("  - c: {{run: {{workflow: {{namespace: test, name: child, version: latest}}, await: {wait}}}, metadata: {{heyday: {{parent_close: {policy}}}}}}}\n  - w: {{wait: PT1H}}\n"),
        );
        bench.define("child", "  - w: {wait: PT2H}\n");
        let parent = bench.start("parent", json!({})).await;
        let child = child_of(&bench, &parent).await;
        bench.crash().await;
        bench.engine().terminate(&parent, "now").await.unwrap();
        if let Some(status) = status {
            assert_eq!(bench.end(&child).await.status, status, "{wait} {policy}");
        } else {
            bench.crash().await;
            bench.clock.advance(Duration::from_secs(7_200));
            assert_eq!(bench.end(&child).await.status, ExecutionStatus::Completed);
        }
        let event = bench
            .until_event(&parent, "StartChildWorkflowExecutionInitiated")
            .await;
        let shown = event.attributes["parent_close_policy"]
            .as_str()
            .unwrap()
            .to_lowercase();
        assert_eq!(shown, policy.replace('_', ""));
    }
}
