//! Workers without state: a real `heyday serve`, real `heyday worker`s, a real cluster.

mod killed;
mod models;

use std::path::PathBuf;

use heyday_sandbox::Sandbox;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::plugins;
use crate::support::handmade::{DESCRIPTION, Handmade};
use crate::support::held::Held;
use crate::support::server::{Client, PATIENCE};
use crate::support::signals::signal;
use crate::support::worker::{Site, eventually};
use crate::support::{cache, component, http_server, postgres};
use crate::taken_back::{ENDLESS, ends, has_run};

/// Uploads a flow as `tests.NAME`.
pub(crate) async fn push_flow(site: &Site, name: &str, tasks: &str) {
    let text = format!(
        "document: {{dsl: 1.0.3, namespace: tests, name: {name}, version: 1.0.0}}\ndo:\n{tasks}"
    );
    let pushed = site.server.client.push_flow(&text).await.unwrap();
    let status = pushed.status();
    assert!(status.is_success(), "{}", pushed.text().await.unwrap());
}

/// Uploads the probe, without its grants.
pub(crate) async fn push_probe(site: &Site) {
    let pushed = site
        .server
        .client
        .push(component("probe"), "&allow_missing=true")
        .await;
    assert_eq!(pushed.unwrap()["active"], true);
}

/// Starts a run of two steps; it is between them, for three seconds.
pub(crate) async fn start_two_steps(site: &Site) -> String {
    let client = &site.server.client;
    push_flow(
        site,
        "two-steps",
        "  - one: {call: handmade.answer, with: {}}\n  - pause: {wait: PT3S}\n  \
         - two: {call: handmade.answer, with: {}}\n",
    )
    .await;
    let id = client.start("tests.two-steps", &json!({})).await.unwrap();
    eventually(async || {
        let path = format!("/workflows/{id}/history?wait=1s");
        let history = client.get(&path).await.unwrap();
        history.to_string().contains("TimerStarted").then_some(())
    })
    .await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_uploaded_now_runs_on_workers_that_poll_already() {
    let Some(site) = Site::start().await else {
        return;
    };
    let _first = site.worker(&[]).await;
    // One that takes activities only as the machine has room, and holds the plugin back.
    let config = site.config(
        "[limits]\nresources = { memory = 0.95, cpu = 1.0 }\n\
         throttle.handmade = { concurrent = 1, per_second = 100.0 }\n",
    );
    let _second = site.worker(&["--config", &config]).await;
    let client = &site.server.client;
    let pushed = client.push(Handmade::default().build(), "").await.unwrap();
    assert_eq!(pushed["active"], true);
    push_flow(
        &site,
        "on-workers",
        "  - asked: {call: handmade.answer, with: {}}\n  - after: {set: {answer: '${ . * 2 }'}}\n",
    )
    .await;
    for _ in 0..5 {
        let outcome = client.run("tests.on-workers", &json!({})).await.unwrap();
        assert_eq!(outcome.status, "Completed", "{}", outcome.body);
        assert_eq!(outcome.body["result"], json!({ "answer": 84 }));
    }
    // One that comes without pins is pinned by the server.
    site.temporal(&[
        "workflow",
        "start",
        "--type",
        "tests.on-workers",
        "--task-queue",
        "general-queue",
        "--workflow-id",
        "foreign",
        "--input",
        "{}",
    ]);
    let outcome = client.result("foreign").await.unwrap();
    assert_eq!(
        outcome.body["result"],
        json!({ "answer": 84 }),
        "{}",
        outcome.body
    );
    let unknown = json!({ "workflow_type": "tests.nothing", "input": {} });
    let refused = client.request(Method::POST, "/workflows").json(&unknown);
    Client::refused(refused.send().await.unwrap(), StatusCode::NOT_FOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_poll_already_follow_the_active_version() {
    let Some(site) = Site::start().await else {
        return;
    };
    let _first = site.worker(&[]).await;
    let _second = site.worker(&[]).await;
    let client = &site.server.client;
    push_flow(
        &site,
        "asks",
        "  - ask: {call: handmade.answer, with: {}}\n",
    )
    .await;
    // Of runs of our own, which the server pins as they start, and of one that a worker
    // has pinned. Some of each worker.
    let answers = async |case: &str, number: u32| {
        for _ in 0..4 {
            let answer = client.succeed("handmade.answer", &Value::Null).await;
            assert_eq!(answer.unwrap(), number, "{case}");
        }
        site.temporal(&[
            "workflow",
            "start",
            "--type",
            "tests.asks",
            "--task-queue",
            "general-queue",
            "--workflow-id",
            case,
            "--input",
            "{}",
        ]);
        let outcome = client.result(case).await.unwrap();
        assert_eq!(outcome.body["result"], number, "{case}: {}", outcome.body);
    };
    client.push(Handmade::default().build(), "").await.unwrap();
    answers("uploaded", 42).await;
    let second = Handmade {
        description: &DESCRIPTION.replace("1.0.0", "2.0.0"),
        output: "43",
        ..Handmade::default()
    };
    let staged = client.push(second.build(), "&activate=false").await;
    assert_eq!(staged.unwrap()["active"], false);
    answers("staged", 42).await;
    let version = json!({ "version": "2.0.0" });
    let activated = client.post("/plugins/handmade/activate", &version).await;
    assert_eq!(activated.unwrap()["version"], "2.0.0");
    answers("activated", 43).await;
    let back = client.post("/plugins/handmade/rollback", &Value::Null);
    assert_eq!(back.await.unwrap()["version"], "1.0.0");
    answers("rolled-back", 42).await;
    plugins::kept_versions(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tasks_are_taken_without_a_lease_and_again_with_one() {
    let Some(site) = Site::start().await else {
        return;
    };
    let mut worker = site.worker(&["--grant-lease", "1s"]).await;
    push_flow(&site, "small", "  - only: {set: {x: 1}}\n").await;
    signal(site.server.pid(), libc::SIGSTOP);
    let problem = worker.until("/health/ready", StatusCode::SERVICE_UNAVAILABLE);
    let problem = problem.await.unwrap();
    assert!(
        problem["detail"].as_str().unwrap().contains("lease"),
        "{problem}"
    );
    // A server that is away is no reason for a restart.
    worker.until("/health/live", StatusCode::OK).await.unwrap();
    site.temporal(&[
        "workflow",
        "start",
        "--type",
        "tests.small",
        "--task-queue",
        "general-queue",
        "--workflow-id",
        "meanwhile",
        "--input",
        "{}",
    ]);
    let history = site.temporal(&["workflow", "show", "-w", "meanwhile", "-o", "json"]);
    assert!(history.contains("WORKFLOW_TASK_SCHEDULED"), "{history}");
    assert!(!history.contains("WORKFLOW_TASK_STARTED"), "{history}");
    signal(site.server.pid(), libc::SIGCONT);
    worker.until_ready().await.unwrap();
    let outcome = site.server.client.result("meanwhile").await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
}

/// A statement on a graph that counts for minutes, and takes little memory.
const COUNTS: &str = "WITH range(1, 3000) AS r RETURN reduce(s = 0, a IN r | s + reduce(t = 0, \
                      b IN r | t + reduce(u = 0, c IN r | u + 1))) AS n";

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_grants_is_felt_at_a_worker_within_a_second_also_by_calls_in_flight() {
    let folder = tempfile::tempdir().unwrap();
    let (silent, came) = http_server::held().await.unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "nobody-asks").unwrap();
    let role = postgres::shared().map(|server| server.role(&server.database()));
    let patient = "limits = { statement_timeout_ms = 600000 }\n";
    let mut servers = format!(
        "[bindings.namespaces.default.blob.held]\n\
         s3 = {{ bucket = 'bucket', endpoint = 'http://{silent}', access_key_id = 'key', \
         secret_access_key_file = '{}' }}\n",
        secret.display()
    );
    if let Some(role) = &role {
        let binding = role.toml();
        servers += &format!("[bindings.namespaces.default.sql.server]\n{binding}{patient}");
    }
    let bindings = |who: &str| {
        let path = folder.path().join(who);
        let path = path.display();
        format!(
            "{servers}[bindings.namespaces.default.sql.held]\npath = '{path}.db'\n{patient}\
             [bindings.namespaces.default.graph.held]\npath = '{path}-graph'\n{patient}"
        )
    };
    let Some(site) = Site::with(&[], &bindings("server")).await else {
        return;
    };
    let config = site.config(&bindings("worker"));
    let _worker = site.worker(&["--config", &config]).await;
    push_probe(&site).await;
    let client = &site.server.client;
    let mut granted = vec![("blob", "held"), ("graph", "held"), ("sql", "held")];
    if role.is_some() {
        granted.insert(0, ("sql", "server"));
    }
    for (capability, binding) in granted {
        let granted = client.grant("probe", capability, binding, None);
        granted.await.unwrap();
    }
    // Who knows the last of them knows all.
    let on = |binding: &str, statement: &str| json!({ "binding": binding, "statement": statement });
    let table = on("held", "CREATE TABLE IF NOT EXISTS t (n INTEGER)");
    eventually(async || {
        let outcome = client.activity("probe.sql_run", &table).await.unwrap();
        (outcome.status == "Completed").then_some(())
    })
    .await;
    let node = on("held", "CREATE (:Lock {x: 0})");
    client.succeed("probe.graph_run", &node).await.unwrap();

    // What computes in the worker, and in a process of its own.
    let start = async |activity: &str, input: Value| {
        let id = client.start_activity(activity, &input).await;
        id.unwrap()
    };
    let id = start("probe.sql_long", on("held", ENDLESS)).await;
    let file = folder.path().join("worker.db");
    eventually(async || has_run(&file).then_some(())).await;
    let kind = ends(client, ("probe", "sql", "held"), &id).await;
    assert_eq!(kind, "capability-denied");
    let id = start("probe.graph_long", on("held", COUNTS)).await;
    client.wait_for_line(&id, "asking").await.unwrap();
    let kind = ends(client, ("probe", "graph", "held"), &id).await;
    assert_eq!(kind, "capability-denied");
    // What a server does not answer: with TCP of the host's own, and over HTTP.
    if let Some(role) = &role {
        let running = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' \
             AND state = 'active' AND query LIKE 'SELECT pg_sleep%'",
            role.name
        );
        let count = || postgres::shared().map(|server| server.psql("postgres", &running));
        let id = start("probe.sql_long", on("server", "SELECT pg_sleep(600)")).await;
        eventually(async || (count().as_deref() == Some("1")).then_some(())).await;
        let kind = ends(client, ("probe", "sql", "server"), &id).await;
        assert_eq!(kind, "capability-denied");
        eventually(async || (count().as_deref() == Some("0")).then_some(())).await;
    }
    let id = start("probe.blob_get", json!({ "binding": "held" })).await;
    let asked = tokio::time::timeout(PATIENCE, came.acquire());
    asked.await.expect("the request came").unwrap().forget();
    let kind = ends(client, ("probe", "blob", "held"), &id).await;
    assert_eq!(kind, "capability-denied");

    let held = Held::push(client).await;
    held.feels(client, client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_attempts_say_and_use_comes_to_the_server() {
    let Some(site) = Site::start().await else {
        return;
    };
    push_probe(&site).await;
    let _worker = site.worker(&[]).await;
    let client = &site.server.client;
    let id = client.start_waiting().await.unwrap();
    // How far an attempt is, as its worker would send it.
    let shown = client.get(&format!("/workflows/{id}")).await.unwrap();
    let batch = json!({ "worker": shown["run_id"], "sequence": 1, "records": [{
        "attempt": {
            "namespace": "default", "run_id": shown["run_id"], "activity_id": "1",
            "activity_type": "probe.wait_for_cancel", "queue": "general-queue", "attempt": 1,
        },
        "said": { "progress": { "completed": 1, "total": 2, "message": "half way" } },
    }]});
    let sent = client
        .http
        .post(format!("{}/api/v1/worker/records", site.server.url))
        .bearer_auth(site.token(&[]).await)
        .json(&batch);
    assert_eq!(sent.send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let shown = client.get(&format!("/workflows/{id}")).await.unwrap();
    assert!(shown.to_string().contains("half way"), "{shown}");
    client.cancel(&id).await.unwrap();
    client.wait_for_line(&id, "cleaned up").await.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Canceled", "{}", outcome.body);

    let body = json!({ "progress": "half", "lines": ["one", "two"] });
    let id = client.start_activity("probe.say", &body).await.unwrap();
    assert_eq!(client.result(&id).await.unwrap().status, "Completed");
    let receipts = eventually(async || {
        let receipts = client.receipts(&id).await.unwrap();
        (!receipts.is_empty()).then_some(receipts)
    })
    .await;
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0]["outcome"], "completed");
    assert!(receipts[0]["counters"]["cpu_us"].as_u64().unwrap() > 0);
    let lines: Vec<Value> = client.logs(&id).await.unwrap();
    let lines: Vec<_> = lines.iter().map(|line| &line["message"]).collect();
    assert_eq!(lines, ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_attempts_at_a_worker_are_refused_is_in_the_audit() {
    let Some(site) = Site::start().await else {
        return;
    };
    push_probe(&site).await;
    push_flow(
        &site,
        "refused",
        "  - ask: {call: http, with: {method: get, endpoint: 'http://127.0.0.1:9/'}}\n",
    )
    .await;
    let _worker = site.worker(&[]).await;
    let client = &site.server.client;
    let input = json!({ "binding": "default", "statement": "SELECT 1" });
    let id = client
        .start_activity("probe.sql_run", &input)
        .await
        .unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{}", outcome.body);
    let outcome = client.run("tests.refused", &json!({})).await.unwrap();
    assert_eq!(outcome.status, "Failed", "{}", outcome.body);
    for (subject, capability, binding) in [
        ("probe", "sql", "default"),
        ("tests.refused", "http", "GET:127.0.0.1:9"),
    ] {
        let path = format!("/audit?action=capability.deny&resource={subject}");
        let entries = eventually(async || {
            let audit = client.get(&path).await.unwrap();
            let entries = audit["audit"].as_array().unwrap().clone();
            (!entries.is_empty()).then_some(entries)
        })
        .await;
        assert_eq!(entries.len(), 1, "{entries:?}");
        let details = &entries[0]["details"];
        assert_eq!(details["capability"], capability);
        assert_eq!(details["binding"], binding);
        assert_eq!(details["count"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_go_by_reference_through_the_server() {
    let Some(site) = Site::start().await else {
        return;
    };
    push_probe(&site).await;
    let _worker = site.worker(&[]).await;
    push_flow(
        &site,
        "large",
        "  - make: {call: probe.produce, with: {count: 400000}}\n  \
         - pass: {call: probe.echo, with: {text: '${ . }'}}\n  \
         - length: {set: {length: '${ .text | length }'}}\n",
    )
    .await;
    let outcome = site.server.client.run("tests.large", &json!({})).await;
    let outcome = outcome.unwrap();
    assert_eq!(
        outcome.body["result"],
        json!({ "length": 400_000 }),
        "{}",
        outcome.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_open_what_they_are_for() {
    let Some(site) = Site::start().await else {
        return;
    };
    let client = &site.server.client;
    let token = site.token(&["default"]).await;
    let with = |token: &str, path: &str, namespace: &str| {
        client
            .http
            .get(format!("{}/api/v1{path}", site.server.url))
            .bearer_auth(token)
            .header("heyday-namespace", namespace)
            .send()
    };
    let operator = std::fs::read_to_string(site.server.data().join("token")).unwrap();
    let operator = operator.trim();
    let answer = with(&token, "/worker/revision", "default").await.unwrap();
    Client::ok(answer).await.unwrap();
    for (token, path, namespace, status) in [
        (
            &token[..],
            "/worker/revision",
            "team-a",
            StatusCode::FORBIDDEN,
        ),
        (
            &token,
            "/worker/stream?namespaces=default,team-a",
            "default",
            StatusCode::FORBIDDEN,
        ),
        (&token, "/workflows", "default", StatusCode::FORBIDDEN),
        (&token, "/tokens", "default", StatusCode::FORBIDDEN),
        (
            operator,
            "/worker/revision",
            "default",
            StatusCode::FORBIDDEN,
        ),
        (
            "heyday-worker-guessed",
            "/worker/revision",
            "default",
            StatusCode::UNAUTHORIZED,
        ),
        (
            "heyday-worker-guessed",
            "/workflows",
            "default",
            StatusCode::UNAUTHORIZED,
        ),
    ] {
        let answer = with(token, path, namespace).await.unwrap();
        let problem = Client::refused(answer, status).await;
        assert!(!problem.to_string().contains(token), "{problem}");
    }
    // A worker says so and ends; it would never get in.
    for token in [operator, "heyday-worker-guessed"] {
        let mut worker = site.begin(token, &[]);
        assert_eq!(worker.exit_code().await, 4, "{}", worker.log());
        assert!(
            worker.log().contains("token create --worker"),
            "{}",
            worker.log()
        );
        assert!(!worker.log().contains(token), "{}", worker.log());
    }
    let mut worker = site.begin(&token, &["--namespace", "team-a"]);
    assert_eq!(worker.exit_code().await, 4, "{}", worker.log());

    // One that is taken back cuts its workers off.
    let mut worker = site.begin(&token, &["--grant-lease", "1s"]);
    worker.until_ready().await.unwrap();
    let listed = client.get("/tokens").await.unwrap();
    assert!(!listed.to_string().contains(&token), "{listed}");
    let id = listed["tokens"][0]["id"].as_str().unwrap();
    let revoked = client.request(Method::DELETE, &format!("/tokens/{id}"));
    assert_eq!(
        revoked.send().await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    let cut_off = worker.until("/health/ready", StatusCode::SERVICE_UNAVAILABLE);
    cut_off.await.unwrap();
    let again = client.request(Method::DELETE, &format!("/tokens/{id}"));
    Client::refused(again.send().await.unwrap(), StatusCode::NOT_FOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_how_it_is_and_what_it_does() {
    let Some(site) = Site::start().await else {
        return;
    };
    push_probe(&site).await;
    let mut worker = site.worker(&["--queue", "general-queue=3"]).await;
    worker
        .until("/health/startup", StatusCode::OK)
        .await
        .unwrap();
    let client = &site.server.client;
    let id = client.start_waiting().await.unwrap();
    for line in [
        "heyday_queue_limit{namespace=\"default\",queue=\"general-queue\"} 3.0",
        "heyday_queue_in_flight{namespace=\"default\",queue=\"general-queue\"} 1.0",
        "heyday_queue_wait_duration_seconds_count{namespace=\"default\",queue=\"general-queue\"} 1",
    ] {
        worker.until_metric(line).await.unwrap();
    }
    client.cancel(&id).await.unwrap();
    client.result(&id).await.unwrap();
    worker
        .until_metric(
            "heyday_activity_attempt_duration_seconds_count{namespace=\"default\",queue=\"general-queue\",\
             activity=\"probe.wait_for_cancel\",outcome=\"cancelled\"} 1",
        )
        .await
        .unwrap();
    worker.ask_to_stop();
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
}

/// The compiled code of a component, where the tests have it.
fn compiled(component: &[u8]) -> Option<PathBuf> {
    let name = format!("{}.cwasm", Sandbox::digest(component));
    let mut folders = std::fs::read_dir(cache()).unwrap();
    folders.find_map(|folder| {
        let path = folder.unwrap().path().join(&name);
        path.exists().then_some(path)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_what_waited_for_it_and_fetches_what_it_lacks() {
    let Some(site) = Site::start().await else {
        return;
    };
    // No other test has it.
    let description = DESCRIPTION.replace("By hand.", "Fetched by a worker.");
    let fetched = Handmade {
        description: &description,
        ..Handmade::default()
    };
    let fetched = fetched.build();
    let client = &site.server.client;
    let pushed = client.push(fetched.clone(), "").await.unwrap();
    assert_eq!(pushed["active"], true);
    // The server compiled it where the worker looks; elsewhere that does not find it.
    std::fs::remove_file(compiled(&fetched).unwrap()).unwrap();
    let id = client.start_activity("handmade.answer", &Value::Null).await;
    let _worker = site.worker(&[]).await;
    let outcome = client.result(&id.unwrap()).await.unwrap();
    assert_eq!(outcome.body["result"], 42, "{}", outcome.body);
    assert!(compiled(&fetched).is_some(), "the worker compiled it");
}
