//! Runs whose history does not fit the workflow any more.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_definition_holds_the_run_with_a_report() {
    let mut bench = Bench::new().await;
    bench.define("wf", "  - a: {call: t.echo}\n  - b: {call: t.hand}\n");
    let run = bench.start("wf", json!({})).await;
    bench.attempt().await;
    let original = lock(&bench.definitions.0)["test.wf"].clone();
    // The same digest with other contents, as a bug in a driver would look.
    let changed = Arc::new(flow(
        "wf",
        "  - a: {call: t.echo}\n  - b: {call: t.hand2}\n",
    ));
    lock(&bench.definitions.0).insert("test.wf".to_owned(), (original.0, changed));
    bench.crash().await;
    bench.until_event(&run, "ActivityTaskFailed").await;
    bench.clock.advance(Duration::from_secs(1));
    bench.attempt().await.end(Ok(json!(1)));
    bench
        .until("it is held", async || {
            let description = bench.engine().describe(&run).await.unwrap();
            description.info.held.is_some()
        })
        .await;
    let held = bench
        .engine()
        .describe(&run)
        .await
        .unwrap()
        .info
        .held
        .unwrap();
    assert!(
        held.contains("t.hand2") && held.contains("/do/1/b"),
        "{held}"
    );
    // What resolved is kept, nothing of it is continued.
    let kinds = bench.kinds(&run).await;
    assert_eq!(kinds.last().unwrap(), "ActivityTaskCompleted");

    // With a host that can replay it, it goes on.
    lock(&bench.definitions.0).insert("test.wf".to_owned(), original);
    bench.crash().await;
    assert_eq!(bench.result(&run).await, json!(1));
    assert_eq!(bench.engine().describe(&run).await.unwrap().info.held, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_run_can_be_terminated() {
    let mut bench = Bench::new().await;
    bench.define("wf", "  - w: {wait: PT1H}\n");
    let run = bench.start("wf", json!({})).await;
    let (digest, _) = lock(&bench.definitions.0)["test.wf"].clone();
    let changed = Arc::new(flow("wf", "  - w: {wait: PT2H}\n"));
    lock(&bench.definitions.0).insert("test.wf".to_owned(), (digest, changed));
    bench.crash().await;
    bench.clock.advance(Duration::from_secs(3600));
    bench
        .until("it is held", async || {
            let info = bench.engine().describe(&run).await.unwrap().info;
            info.held.is_some_and(|held| held.contains("its duration"))
        })
        .await;
    bench.engine().terminate(&run, "no use").await.unwrap();
    assert_eq!(bench.end(&run).await.status, ExecutionStatus::Terminated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_is_gone_holds_the_run() {
    let mut bench = Bench::new().await;
    bench.define("wf", "  - w: {wait: PT1H}\n");
    let run = bench.start("wf", json!({})).await;
    lock(&bench.definitions.0).clear();
    bench.crash().await;
    bench.clock.advance(Duration::from_secs(3600));
    bench
        .until("it is held", async || {
            let info = bench.engine().describe(&run).await.unwrap().info;
            info.held
                .is_some_and(|held| held.contains("no such digest"))
        })
        .await;
}
