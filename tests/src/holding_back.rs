//! What holds a worker back: the limits of its queues, shares of the machine, and limits of
//! a plugin.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::handmade::Handmade;
use crate::support::worker::{Site, Worker, eventually};
use crate::workers::push_probe;

/// A series of the queue of all activities here.
fn series(name: &str) -> String {
    format!("heyday_queue_{name}{{namespace=\"default\",queue=\"general-queue\"}}")
}

/// A series of its activities that wait on the cluster.
fn waiting_series(name: &str) -> String {
    series(name).replace('}', ",task_type=\"activity\"}")
}

/// Of two activities the worker takes one, and the other waits on the cluster until that one
/// has ended.
async fn one_waits_for_the_other(site: &Site, worker: &Worker) {
    let client = &site.server.client;
    let first = client.start_waiting().await.unwrap();
    let second = client.start_activity("probe.echo", &json!(1)).await;
    let second = second.unwrap();
    // The cluster is asked now and then: by then it would long be taken.
    for (name, least) in [("depth", 1.0), ("age_seconds", f64::MIN_POSITIVE)] {
        let so = |value| value >= least;
        worker.until_value(&waiting_series(name), so).await.unwrap();
    }
    let in_flight = |value| value == 1.0;
    worker
        .until_value(&series("in_flight"), in_flight)
        .await
        .unwrap();
    let shown = client.get(&format!("/workflows/{second}")).await.unwrap();
    assert_eq!(
        shown["pending_activities"][0]["state"], "Scheduled",
        "{shown}"
    );
    client.cancel(&first).await.unwrap();
    let outcome = client.result(&second).await.unwrap();
    assert_eq!(outcome.body["result"], 1, "{}", outcome.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_queue_leaves_on_the_cluster_is_counted_and_timed() {
    let Some(site) = Site::start().await else {
        return;
    };
    push_probe(&site).await;
    let worker = site.worker(&["--queue", "general-queue=1"]).await;
    one_waits_for_the_other(&site, &worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_on_a_full_machine_takes_one_activity_at_a_time() {
    let Some(site) = Site::start().await else {
        return;
    };
    push_probe(&site).await;
    // Less than any machine has in use.
    let config = site.config("[limits]\nresources = { memory = 0.001, cpu = 0.001 }\n");
    let worker = site.worker(&["--config", &config]).await;
    let limit = |value| value == 50.0;
    worker.until_value(&series("limit"), limit).await.unwrap();
    one_waits_for_the_other(&site, &worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_attempts_of_a_plugin_run_at_once() {
    let Some(site) = Site::start().await else {
        return;
    };
    push_probe(&site).await;
    let client = &site.server.client;
    client.push(Handmade::default().build(), "").await.unwrap();
    let config = site.config("[limits.throttle.probe]\nconcurrent = 1\n");
    let worker = site.worker(&["--config", &config]).await;
    let first = client.start_waiting().await.unwrap();
    let second = client.start_activity("probe.echo", &json!(1)).await;
    let second = second.unwrap();
    let both = |value| value == 2.0;
    worker
        .until_value(&series("in_flight"), both)
        .await
        .unwrap();
    // Another plugin is not held back: the first time the second one comes to wait for its
    // turn, and after that it waits.
    let answer = async || client.succeed("handmade.answer", &json!({})).await;
    assert_eq!(answer().await.unwrap(), 42);
    let waiting = Instant::now();
    assert_eq!(answer().await.unwrap(), 42);
    let waited = waiting.elapsed().as_micros();
    let shown = client.get(&format!("/workflows/{second}")).await.unwrap();
    assert_eq!(shown["status"], "Running", "{shown}");
    client.cancel(&first).await.unwrap();
    let outcome = client.result(&second).await.unwrap();
    assert_eq!(outcome.body["result"], 1, "{}", outcome.body);
    let receipt = eventually(async || client.receipts(&second).await.unwrap().pop()).await;
    let queued = receipt["counters"]["queue_us"].as_u64().unwrap();
    assert!(u128::from(queued) >= waited, "{waited} us: {receipt}");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_attempts_of_a_plugin_begin_each_second() {
    let Some(site) = Site::start().await else {
        return;
    };
    let client = &site.server.client;
    client.push(Handmade::default().build(), "").await.unwrap();
    let config = site.config("[limits.throttle.handmade]\nper_second = 1.0\n");
    let _worker = site.worker(&["--config", &config]).await;
    let begun = Instant::now();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = client.start_activity("handmade.answer", &json!({})).await;
        ids.push(id.unwrap());
    }
    for id in ids {
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(outcome.body["result"], 42, "{}", outcome.body);
    }
    assert!(begun.elapsed() >= Duration::from_secs(2));
}
