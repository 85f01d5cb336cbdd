//! The real Temporal server, as an installation has it: on PostgreSQL, with mutual TLS
//! and several shards. The whole suite runs on it too, as `real` beside `temporal`.

use heyday_durable::engine::EngineError;
use heyday_durable::temporal::Source;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::bench::Bench;
use crate::support::cluster::{self, Cluster};
use crate::support::server::{Client, Options, Server};

#[tokio::test(flavor = "multi_thread")]
async fn runs_go_on_after_the_server_was_killed_and_as_certificates_are_replaced() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    let namespace = cluster.namespace();
    let mut bench = Bench::temporal_by(cluster.address(), namespace, cluster.access()).await;
    bench.define("hand", "  - one: {call: t.hand}\n  - two: {call: t.echo}\n");
    bench.define(
        "timer",
        "  - one: {call: t.echo}\n  - pause: {wait: {seconds: 2}}\n  - two: {call: t.hand2}\n",
    );
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    let timer = bench.start("timer", json!({})).await;
    bench.until_event(&timer, "TimerStarted").await;

    cluster.kill();
    let refused = bench
        .engine()
        .start(bench.request("hand", "late", json!({})))
        .await;
    assert!(
        matches!(refused, Err(EngineError::Unavailable { .. })),
        "{refused:?}"
    );
    attempt.end(Ok(json!("done")));
    cluster.launch();

    assert_eq!(bench.result_when_back(&run).await, json!("done"));
    bench.attempt().await.end(Ok(json!("woken")));
    assert_eq!(bench.result(&timer).await, json!("woken"));
    assert_eq!(bench.begun("t.hand"), 1);
    assert_eq!(bench.begun("t.hand2"), 1);

    // Then its certificates are replaced.
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    // The server has the old ones still, and what is connected stays so.
    cluster.renew();
    let other = bench.start("hand", json!({})).await;
    let other_attempt = bench.attempt().await;
    cluster.kill();
    // From here on nobody is let in by the old ones, whose authority nobody knows.
    cluster.launch();
    attempt.end(Ok(json!("done")));
    assert_eq!(bench.result_when_back(&run).await, json!("done"));
    other_attempt.end(Ok(json!("done too")));
    assert_eq!(bench.result(&other).await, json!("done too"));
    assert_eq!(bench.begun("t.hand"), 3);
    bench.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_is_refused_and_told_so() {
    let Some((address, namespace, access)) = cluster::namespace() else {
        return;
    };
    let path = |source: Option<Source>| match source {
        Some(Source::File(path)) => path.display().to_string(),
        other => panic!("no file: {other:?}"),
    };
    let config = format!(
        "engine = 'temporal'\n[temporal]\naddress = '{address}'\nnamespace = '{namespace}'\n\
         tls_server_ca_cert_path = '{}'\n",
        path(access.server_ca_cert),
    );
    let certificate = format!(
        "tls_client_cert_path = '{}'\ntls_client_key_path = '{}'\n",
        path(access.client_cert),
        path(access.client_key)
    );
    let options = |config: String| Options {
        config: Some(config),
        ..Options::default()
    };
    let server = Server::with(options(config.clone())).await.unwrap();
    let refusal = async || {
        let request = server.client.request(Method::GET, "/workflows");
        let response = request.send().await.unwrap();
        assert!(response.headers().contains_key("retry-after"));
        let problem = Client::refused(response, StatusCode::SERVICE_UNAVAILABLE).await;
        problem["detail"].as_str().unwrap().to_owned()
    };
    let deadline = std::time::Instant::now() + crate::support::server::PATIENCE;
    loop {
        let detail = refusal().await;
        if detail.contains("CertificateRequired") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{detail}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let server = server.kill_and_restart(options(config + &certificate));
    server.await.unwrap().wait_for_engine().await.unwrap();
}
