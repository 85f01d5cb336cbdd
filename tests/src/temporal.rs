//! The real server with its runs on a Temporal cluster: the same API, the same plugins,
//! the same flows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::certificates::{Authority, Files};
use crate::support::component;
use crate::support::front::Front;
use crate::support::handmade::Handmade;
use crate::support::http_server::serve;
use crate::support::ports::free_port;
use crate::support::server::{Client, Options, PATIENCE, Server};
use crate::support::temporal::{self, DevServer};
use crate::support::worker::eventually;

const FLOW: &str = "
document: {dsl: 1.0.3, namespace: tests, name: on-temporal, version: 1.0.0}
do:
  - asked: {call: handmade.answer, with: {}}
  - pause: {wait: PT3S}
  - after: {set: {answer: '${ . * 2 }'}}
";

const SMALL: &str = "
document: {dsl: 1.0.3, namespace: tests, name: on-temporal, version: 1.0.0}
do:
  - only: {set: {x: 1}}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_and_a_flow_run_on_the_cluster_and_survive_a_kill() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let server = Server::with(Options::on_temporal(&address, &namespace))
        .await
        .unwrap();
    server.wait_for_engine().await.unwrap();
    // The worker polls already: what is uploaded now runs on it.
    let version = server.client.push(Handmade::default().build(), "").await;
    assert_eq!(version.unwrap()["active"], true);
    let pushed = server.client.push_flow(FLOW).await.unwrap();
    assert!(
        pushed.status().is_success(),
        "{}",
        pushed.text().await.unwrap()
    );
    let started = server.client.start("tests.on-temporal", &json!({})).await;
    let id = started.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let waits = async || {
        let history = server
            .client
            .get(&format!("/workflows/{id}/history?wait=1s"))
            .await;
        history.unwrap().to_string().contains("TimerStarted")
    };
    while !waits().await {
        assert!(Instant::now() < deadline, "the timer was not started");
    }
    // Who reads receipts has them written; on a cluster a crash takes those that are not.
    assert_eq!(server.client.receipts(&id).await.unwrap().len(), 1);
    let server = server
        .kill_and_restart(Options::on_temporal(&address, &namespace))
        .await
        .unwrap();
    server.wait_for_engine().await.unwrap();
    let outcome = server.client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    assert_eq!(outcome.body["result"], json!({"answer": 84}));
    let receipts = server.client.receipts(&id).await.unwrap();
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    assert_eq!(receipts[0]["outcome"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_away_is_a_503_with_retry_after() {
    let port = free_port();
    let server = Server::with(Options::on_temporal(
        &format!("127.0.0.1:{port}"),
        "default",
    ))
    .await
    .unwrap();
    let pushed = server.client.push_flow(SMALL).await.unwrap();
    assert!(
        pushed.status().is_success(),
        "{}",
        pushed.text().await.unwrap()
    );
    let body = json!({ "workflow_type": "tests.on-temporal", "input": {} });
    let request = server
        .client
        .request(Method::POST, "/workflows")
        .json(&body);
    let response = request.send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let problem = Client::refused(response, StatusCode::SERVICE_UNAVAILABLE).await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(&port.to_string()), "{detail}");
    assert!(detail.contains("nothing was changed"), "{detail}");
}

/// A site that counts who came and answers once for each permit.
async fn counted_gate() -> (SocketAddr, Arc<AtomicU64>, Arc<Semaphore>) {
    let (came, gate) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let (inside, within) = (Arc::clone(&came), Arc::clone(&gate));
    let router = Router::new().fallback(async move || {
        inside.fetch_add(1, Ordering::SeqCst);
        // Never closed.
        within.acquire().await.expect("an open gate").forget();
        "open"
    });
    (serve(router).await.unwrap(), came, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_goes_on_while_the_cluster_is_away_and_completes_once() {
    if temporal::binary().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("temporal.db");
    let port = free_port();
    let cluster = DevServer::start(port, &[], Some(&file));
    let mut options = Options::on_cluster(&cluster.address(), "default", "15s");
    // The site is silent for as long as the cluster is away.
    options.config = options
        .config
        .map(|text| text + "[limits.http]\nsilence_ms = 600000\n");
    let server = Server::with(options).await.unwrap();
    server.wait_for_engine().await.unwrap();
    let client = &server.client;
    let (site, came, gate) = counted_gate().await;
    let rule = format!("GET:{site}");
    client.grant("visitor", "http", &rule, None).await.unwrap();
    let pushed = client.push(component("visitor"), "&allow_missing=true");
    assert_eq!(pushed.await.unwrap()["active"], true);
    Client::ok(client.push_flow(SMALL).await.unwrap())
        .await
        .unwrap();
    let input = json!({ "url": format!("http://{site}/") });
    // It is not tried again, whatever becomes of it.
    let asking = client.start_activity("visitor.http_ask?start_to_close=30m", &input);
    let id = asking.await.unwrap();
    eventually(async || (came.load(Ordering::SeqCst) == 1).then_some(())).await;

    drop(cluster);
    let body = json!({ "workflow_type": "tests.on-temporal", "input": {} });
    let start = || {
        let request = client.request(Method::POST, "/workflows");
        request
            .header("idempotency-key", "over-the-gap")
            .json(&body)
    };
    let describe = client.request(Method::GET, &format!("/workflows/{id}"));
    // Each is tried for those 15 seconds.
    let (started, described) = tokio::join!(start().send(), describe.send());
    for response in [started.unwrap(), described.unwrap()] {
        assert!(response.headers().contains_key("retry-after"));
        let problem = Client::refused(response, StatusCode::SERVICE_UNAVAILABLE).await;
        // There was a connection, so it may have been on its way.
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("is not known"), "{detail}");
        assert!(detail.contains("the same Idempotency-Key"), "{detail}");
    }

    let _cluster = DevServer::start(port, &[], Some(&file));
    gate.add_permits(1);
    let outcome = eventually(async || client.result(&id).await.ok()).await;
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    assert_eq!(outcome.body["result"]["status"], 200, "{}", outcome.body);
    assert_eq!(
        came.load(Ordering::SeqCst),
        1,
        "one attempt, and one effect"
    );
    // As the answer said.
    let started = eventually(async || {
        let response = start().send().await.unwrap();
        Client::ok(response).await.ok()
    });
    let started = started.await;
    let id = started["workflow_id"].as_str().unwrap();
    let outcome = eventually(async || client.result(id).await.ok()).await;
    assert_eq!(outcome.body["result"], json!({"x": 1}), "{}", outcome.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replay_gate_says_that_the_newest_runs_may_be_missing() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let server = Server::with(Options::on_temporal(&address, &namespace))
        .await
        .unwrap();
    server.wait_for_engine().await.unwrap();
    let client = &server.client;
    let flow = |version: &str, tasks: &str| {
        format!(
            "document: {{dsl: 1.0.3, namespace: tests, name: gated, version: {version}}}\ndo:\n{tasks}"
        )
    };
    let first = flow("1.0.0", "  - pause: {wait: PT1H}\n");
    let pushed = client.push_flow(&first).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let id = client.start("tests.gated", &json!({})).await.unwrap();
    eventually(async || {
        let path = format!("/workflows/{id}/history?wait=1s");
        let history = client.get(&path).await.unwrap().to_string();
        let listed = client.rows("/workflows", "workflows").await.unwrap();
        (history.contains("TimerStarted") && listed.len() == 1).then_some(())
    })
    .await;
    let second = flow("2.0.0", "  - only: {set: {x: 1}}\n");
    let request = client.request(Method::POST, "/flows?on_divergence=refuse");
    let refused = request
        .header("content-type", "application/yaml")
        .body(second)
        .send();
    let problem = Client::refused(refused.await.unwrap(), StatusCode::CONFLICT).await;
    let gate = &problem["replay"];
    assert_eq!(gate["newest_may_be_missing"], true, "{problem}");
    assert_eq!(gate["diverging"][0]["workflow_id"], id, "{problem}");
    client.cancel(&id).await.unwrap();
}

/// The environment of a server whose cluster is behind that front.
fn behind(front: &Front, namespace: &str, files: &Files) -> Vec<(String, String)> {
    let ca = files.ca().display().to_string();
    [
        ("TEMPORAL_ADDRESS", front.address().as_str()),
        ("TEMPORAL_NAMESPACE", namespace),
        ("TEMPORAL_API_KEY", "right-key"),
        ("TEMPORAL_TLS_SERVER_CA_CERT_PATH", &ca),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn temporals_own_configuration_says_where_the_cluster_is() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let authority = Authority::new("authority");
    let front = Front::start(&address, &authority.issue("front"), None).await;
    front.require_api_key("right-key");
    let server = Server::with(Options {
        config: Some("engine = 'temporal'\n".to_owned()),
        environment: behind(&front, &namespace, &Files::new(&authority)),
        ..Options::default()
    })
    .await
    .unwrap();
    server.wait_for_engine().await.unwrap();
    let pushed = server.client.push_flow(SMALL).await.unwrap();
    assert!(pushed.status().is_success());
    let outcome = server.client.run("tests.on-temporal", &json!({})).await;
    let outcome = outcome.unwrap();
    assert_eq!(outcome.body["result"], json!({"x": 1}), "{}", outcome.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_api_key_is_a_503_that_says_so() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let authority = Authority::new("authority");
    let front = Front::start(&address, &authority.issue("front"), None).await;
    front.require_api_key("another-key");
    let files = Files::new(&authority);
    let server = Server::with(Options {
        config: Some("engine = 'temporal'\n".to_owned()),
        environment: behind(&front, &namespace, &files),
        ..Options::default()
    })
    .await
    .unwrap();
    // Until its first try has failed, the answer has no reason yet.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = server.client.request(Method::GET, "/workflows");
        let response = request.send().await.unwrap();
        assert!(response.headers().contains_key("retry-after"));
        let problem = Client::refused(response, StatusCode::SERVICE_UNAVAILABLE).await;
        let detail = problem["detail"].as_str().unwrap().to_owned();
        assert!(!detail.contains("-key"), "{detail}");
        if detail.contains("refuses this server's credentials") {
            break;
        }
        assert!(Instant::now() < deadline, "{detail}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!server.log().contains("right-key"), "{}", server.log());
    // The key was right after all.
    front.require_api_key("right-key");
    server.wait_for_engine().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_is_taken_only_where_that_is_said() {
    let Some((address, namespace)) = temporal::namespace() else {
        return;
    };
    let front = Front::start(&address, &Authority::new("unknown").issue("front"), None).await;
    let options = |more: &str| Options {
        config: Some(format!(
            "engine = 'temporal'\n[temporal]\naddress = '{}'\nnamespace = '{namespace}'\n{more}",
            front.address()
        )),
        ..Options::default()
    };
    let server = Server::with(options("tls = true\n")).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = server.client.request(Method::GET, "/workflows");
        let response = request.send().await.unwrap();
        let problem = Client::refused(response, StatusCode::SERVICE_UNAVAILABLE).await;
        let detail = problem["detail"].as_str().unwrap();
        if detail.contains("certificate") {
            break;
        }
        assert!(Instant::now() < deadline, "{detail}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let server = server
        .kill_and_restart(options("tls_disable_host_verification = true\n"))
        .await
        .unwrap();
    server.wait_for_engine().await.unwrap();
    let pushed = server.client.push_flow(SMALL).await.unwrap();
    Client::ok(pushed).await.unwrap();
    let outcome = server.client.run("tests.on-temporal", &json!({})).await;
    let outcome = outcome.unwrap();
    assert_eq!(outcome.body["result"], json!({"x": 1}), "{}", outcome.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_reach_a_cluster_is_said_at_the_start() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 4] = [
        (
            "tls_client_cert_path = 'none.pem'\n",
            &[],
            "the TLS client certificate",
        ),
        ("api_key_file = 'none'\n", &[], "the API key"),
        ("", &[("TEMPORAL_TLS", "perhaps")], "TEMPORAL_TLS"),
        ("", &[("TEMPORAL_CONFIG_FILE", "/no/such")], "/no/such"),
    ];
    for (config, environment, expected) in cases {
        let environment = environment.iter();
        let ended = Server::with(Options {
            config: Some(format!("engine = 'temporal'\n[temporal]\n{config}")),
            environment: environment
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Options::default()
        })
        .await;
        let Err(error) = ended else {
            panic!("{config} {expected} should have been refused");
        };
        let text = error.to_string();
        assert!(text.contains("exit status: 2"), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
