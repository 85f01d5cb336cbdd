//! Who takes which tasks: workers of activities alone, servers that take workflow tasks, and
//! workers of several namespaces, as processes of their own on one cluster.

use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::metrics::scrape;
use crate::support::handmade::Handmade;
use crate::support::server::Client;
use crate::support::worker::{Site, eventually};
use crate::support::{component, http_server, temporal};
use crate::workers::push_flow;

/// Pushes a plugin and a flow that calls it.
async fn push(client: &Client) {
    client.push(Handmade::default().build(), "").await.unwrap();
    let flow = "document: {dsl: 1.0.3, namespace: tests, name: divided, version: 1.0.0}
do:
  - asked: {call: handmade.answer, with: {}}
  - after: {set: {answer: '${ . }'}}
";
    let pushed = client.push_flow(flow).await.unwrap();
    Client::ok(pushed).await.unwrap();
}

/// Starts a run of one request, which has come to a gate; answers the run's id and the gate.
pub(crate) async fn start_gated(site: &Site) -> (String, Arc<Semaphore>) {
    let (address, gate) = http_server::gate().await.unwrap();
    let client = &site.server.client;
    let ask = format!(
        "  - ask: {{call: http, with: {{method: get, endpoint: 'http://{address}/gate'}}}}\n"
    );
    push_flow(site, "gated", &ask).await;
    let rule = format!("GET:{address}");
    client
        .grant("tests.gated", "http", &rule, None)
        .await
        .unwrap();
    let id = client.start("tests.gated", &json!({})).await.unwrap();
    eventually(async || {
        let shown = client.get(&format!("/workflows/{id}")).await.unwrap();
        (shown["pending_activities"][0]["state"] == "Started").then_some(())
    })
    .await;
    (id, gate)
}

/// Who did the tasks of that kind, as the run's history says: the processes.
fn doers(site: &Site, workflow_id: &str, kind: &str) -> Vec<u32> {
    let history = site.temporal(&["workflow", "show", "-w", workflow_id, "-o", "json"]);
    let history: Value = serde_json::from_str(&history).unwrap();
    let events = history["events"].as_array().unwrap();
    let of_kind = events.iter().filter(|event| event["eventType"] == kind);
    of_kind
        .map(|event| {
            let attributes = event.as_object().unwrap().iter();
            let identity = attributes
                .filter(|(name, _)| name.ends_with("EventAttributes"))
                .find_map(|(_, value)| value["identity"].as_str())
                .unwrap_or_else(|| panic!("{event}"));
            let (_, pid) = identity.rsplit_once('@').unwrap();
            pid.parse().unwrap()
        })
        .collect()
}

/// Who polls the queue now: processes and what they poll it for.
fn pollers(site: &Site) -> Vec<(u32, String)> {
    let line = ["task-queue", "describe", "--task-queue", "general-queue"];
    let described = site.temporal(&[&line[..], &["-o", "json"]].concat());
    let described: Value = serde_json::from_str(&described).unwrap();
    let pollers = described["pollers"].as_array().cloned().unwrap_or_default();
    pollers
        .iter()
        .map(|poller| {
            let (_, pid) = poller["identity"]
                .as_str()
                .unwrap()
                .rsplit_once('@')
                .unwrap();
            let kind = poller["taskQueueType"].as_str().unwrap();
            (pid.parse().unwrap(), kind.to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_takes_workflow_tasks_and_its_workers_activities() {
    let Some(site) = Site::with(&["--workflows"], "").await else {
        return;
    };
    let worker = site.worker(&["--activities-only"]).await;
    let client = &site.server.client;
    push(client).await;
    for _ in 0..3 {
        let id = client.start("tests.divided", &json!({})).await.unwrap();
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(
            outcome.body["result"],
            json!({"answer": 42}),
            "{}",
            outcome.body
        );
        let flows = doers(&site, &id, "EVENT_TYPE_WORKFLOW_TASK_STARTED");
        assert!(!flows.is_empty());
        assert!(
            flows.iter().all(|pid| *pid == site.server.pid()),
            "{flows:?}"
        );
        let activities = doers(&site, &id, "EVENT_TYPE_ACTIVITY_TASK_STARTED");
        assert_eq!(activities, [worker.pid()]);
    }
}

/// The general queue, as the API shows it.
async fn general_queue(client: &Client) -> Value {
    let queues = client.get("/queues").await.unwrap();
    let mut queues = queues["queues"].as_array().unwrap().iter();
    let general = queues.find(|queue| queue["name"] == "general-queue");
    general.unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn workflow_tasks_that_nobody_takes_are_seen() {
    let Some(site) = Site::start().await else {
        return;
    };
    let _activities = site.worker(&["--activities-only"]).await;
    let client = &site.server.client;
    push(client).await;
    let id = client.start("tests.divided", &json!({})).await.unwrap();
    eventually(async || {
        let families = scrape(client).await;
        let of = |name: &str, task_type| {
            let labels = [("queue", "general-queue"), ("task_type", task_type)];
            families[name].value("", &labels)
        };
        assert_eq!(of("heyday_queue_depth", "activity"), 0.0);
        let waits = of("heyday_queue_depth", "workflow") >= 1.0
            && of("heyday_queue_age_seconds", "workflow") > 0.0;
        waits.then_some(())
    })
    .await;
    let general = general_queue(client).await;
    assert!(
        general["workflow_backlog"].as_u64().unwrap() >= 1,
        "{general}"
    );
    assert_eq!(general["backlog"], 0, "{general}");

    let _all = site.worker(&[]).await;
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn activities_that_nobody_takes_are_seen() {
    let Some(site) = Site::with(&["--workflows"], "").await else {
        return;
    };
    let client = &site.server.client;
    push(client).await;
    let id = client.start("tests.divided", &json!({})).await.unwrap();
    eventually(async || {
        let families = scrape(client).await;
        let of = |name: &str| {
            let labels = [("queue", "general-queue"), ("task_type", "activity")];
            families[name].value("", &labels)
        };
        let waits = of("heyday_queue_depth") >= 1.0 && of("heyday_queue_age_seconds") > 0.0;
        waits.then_some(())
    })
    .await;
    let general = general_queue(client).await;
    assert!(general["backlog"].as_u64().unwrap() >= 1, "{general}");

    let _worker = site.worker(&["--activities-only"]).await;
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_on_a_worker_is_among_the_current_details() {
    let Some(site) = Site::with(&["--workflows"], "").await else {
        return;
    };
    let _worker = site.worker(&["--activities-only"]).await;
    let client = &site.server.client;
    let pushed = client.push(component("probe"), "&allow_missing=true").await;
    assert_eq!(pushed.unwrap()["active"], true);
    let said = json!({ "progress": "half way", "lines": ["said"], "wait": true });
    let id = client.start_activity("probe.say", &said).await.unwrap();
    client.wait_for_line(&id, "said").await.unwrap();
    let details = eventually(async || {
        let shown = site.temporal(&["workflow", "metadata", "-w", &id, "-o", "json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let details = shown["queryResult"][0]["currentDetails"].as_str();
        let details = details.unwrap_or_else(|| panic!("{shown}"));
        details.contains("half way").then(|| details.to_owned())
    })
    .await;
    assert!(details.starts_with("- `/do/0/"), "{details}");
    assert!(details.ends_with("`: 1 of 2 half way\n"), "{details}");
    client.cancel(&id).await.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Canceled", "{}", outcome.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_the_kinds_of_tasks_and_the_queues_that_it_was_told() {
    let Some(site) = Site::start().await else {
        return;
    };
    let queues = ["--queue", "general-queue", "--queue", "ai-processing-queue"];
    let only = ["--activities-only"];
    let activities = site.worker(&[&queues[..], &only].concat()).await;
    let client = &site.server.client;
    push(client).await;
    push_flow(
        &site,
        "spread",
        "  - near: {call: handmade.answer, with: {}}\n  \
         - first: {call: handmade.answer, with: {}, metadata: {heyday: {queue: ai-processing-queue}}}\n  \
         - second: {call: handmade.answer, with: {}, metadata: {heyday: {queue: storage-queue}}}\n",
    )
    .await;
    let id = client.start("tests.spread", &json!({})).await.unwrap();
    let polled =
        eventually(async || Some(pollers(&site)).filter(|polled| !polled.is_empty())).await;
    assert!(
        polled
            .iter()
            .all(|(pid, kind)| *pid == activities.pid() && kind == "activity"),
        "{polled:?}"
    );
    assert!(doers(&site, &id, "EVENT_TYPE_WORKFLOW_TASK_STARTED").is_empty());
    let queues = ["--queue", "general-queue", "--queue", "storage-queue=3"];
    let both = site.worker(&queues).await;
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    let flows = doers(&site, &id, "EVENT_TYPE_WORKFLOW_TASK_STARTED");
    assert!(flows.iter().all(|pid| *pid == both.pid()), "{flows:?}");
    // The first one's queue is polled by both.
    let ran = doers(&site, &id, "EVENT_TYPE_ACTIVITY_TASK_STARTED");
    assert_eq!(ran.len(), 3, "{ran:?}");
    assert_eq!(ran[1..], [activities.pid(), both.pid()]);
    for (worker, queue, limit) in [
        (&activities, "general-queue", "50.0"),
        (&activities, "ai-processing-queue", "5.0"),
        (&both, "general-queue", "50.0"),
        (&both, "storage-queue", "3.0"),
    ] {
        let line = format!("heyday_queue_limit{{namespace=\"default\",queue=\"{queue}\"}} {limit}");
        worker.until_metric(&line).await.unwrap();
    }
}

/// How many activities of a queue the cluster is given each second, of late, to hand out to
/// whoever polls.
fn given(site: &Site, queue: &str) -> f64 {
    let line = ["task-queue", "describe", "--task-queue", queue];
    let further = ["--task-queue-type", "activity", "-o", "json"];
    let described = site.temporal(&[line, further].concat());
    let described: Value = serde_json::from_str(&described).unwrap();
    let rate = described["stats"][0]["tasksAddRate"].as_f64();
    rate.unwrap_or_else(|| panic!("{described}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activity_on_the_queue_of_its_run_is_begun_without_a_poll() {
    let Some(site) = Site::start().await else {
        return;
    };
    let _worker = site.worker(&[]).await;
    let client = &site.server.client;
    push(client).await;
    let elsewhere = "  - asked: {call: handmade.answer, with: {}, metadata: {heyday: {queue: storage-queue}}}\n";
    push_flow(&site, "elsewhere", elsewhere).await;
    for flow in ["tests.divided", "tests.elsewhere"].repeat(3) {
        let outcome = client.run(flow, &json!({})).await.unwrap();
        assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    }
    let other = || Some(given(&site, "storage-queue"));
    let first = eventually(async || other().filter(|rate| *rate > 0.0)).await;
    // The cluster keeps an answer for a while: when there is another one, that for the run's
    // own queue is new as well.
    eventually(async || other().filter(|rate| *rate != first)).await;
    assert_eq!(given(&site, "general-queue"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_asked_to_stop_ends_its_task_before() {
    let Some(site) = Site::with(&["--workflows"], "").await else {
        return;
    };
    let mut worker = site
        .worker(&["--activities-only", "--drain-grace", "60s"])
        .await;
    let client = &site.server.client;
    let (id, gate) = start_gated(&site).await;
    worker.ask_to_stop();
    let told = worker.until("/health/ready", StatusCode::SERVICE_UNAVAILABLE);
    let told = told.await.unwrap();
    assert!(
        told["detail"].as_str().unwrap().contains("stopping"),
        "{told}"
    );
    gate.add_permits(1);
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.body["result"], true, "{}", outcome.body);
    let activities = doers(&site, &id, "EVENT_TYPE_ACTIVITY_TASK_STARTED");
    assert_eq!(activities, [worker.pid()]);
    let receipts = client.receipts(&id).await.unwrap();
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    assert_eq!(receipts[0]["attempt"], 1, "{receipts:?}");
    assert_eq!(receipts[0]["outcome"], "completed", "{receipts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_of_a_worker_have_slots_and_bindings_of_their_own() {
    // Only `default` may be called otherwise on a cluster.
    let Some((_, other)) = temporal::namespace() else {
        return;
    };
    let bindings = |who: &str| {
        format!(
            "[bindings.namespaces.default.kv.default]\npath = '{who}-default.db'\n\
             [bindings.namespaces.{other}.kv.default]\npath = '{who}-other.db'\n"
        )
    };
    let Some(site) = Site::with(&[], &bindings("server")).await else {
        return;
    };
    let config = site.config(&bindings("worker"));
    let worker = site
        .worker(&[
            "--config",
            &config,
            "--queue",
            "general-queue=1",
            "--namespace",
            "default",
            "--namespace",
            &other,
        ])
        .await;
    let first = site.server.client.clone();
    let second = first.within(&other);
    for client in [&first, &second] {
        client.grant("probe", "kv", "default", None).await.unwrap();
        let pushed = client.push(component("probe"), "&allow_missing=true").await;
        assert_eq!(pushed.unwrap()["active"], true);
    }
    // Each counts in a store of its own.
    let count = json!({ "binding": "default" });
    for (client, expected) in [(&first, 1), (&first, 2), (&second, 1), (&first, 3)] {
        let counted = client.succeed("probe.kv_count", &count).await.unwrap();
        assert_eq!(counted, expected);
    }
    // The one slot of a namespace is taken; the other namespace has its own.
    let waiting = first.start_waiting().await.unwrap();
    worker
        .until_metric("heyday_queue_in_flight{namespace=\"default\",queue=\"general-queue\"} 1.0")
        .await
        .unwrap();
    let counted = second.succeed("probe.kv_count", &count).await.unwrap();
    assert_eq!(counted, 2);
    let behind = first
        .start_activity("probe.kv_count", &count)
        .await
        .unwrap();
    eventually(async || {
        let shown = first.get(&format!("/workflows/{behind}")).await.unwrap();
        let pending = &shown["pending_activities"][0]["state"];
        (pending == "Scheduled").then_some(())
    })
    .await;
    for line in [
        "heyday_queue_limit{namespace=\"default\",queue=\"general-queue\"} 1.0".to_owned(),
        format!("heyday_queue_limit{{namespace=\"{other}\",queue=\"general-queue\"}} 1.0"),
        format!("heyday_queue_in_flight{{namespace=\"{other}\",queue=\"general-queue\"}} 0.0"),
    ] {
        worker.until_metric(&line).await.unwrap();
    }
    first.cancel(&waiting).await.unwrap();
    let outcome = first.result(&behind).await.unwrap();
    assert_eq!(outcome.body["result"], 4, "{}", outcome.body);
    // Runs of one are not seen in the other.
    let listed = second.get("/workflows").await.unwrap();
    assert!(!listed.to_string().contains(&behind), "{listed}");
}
