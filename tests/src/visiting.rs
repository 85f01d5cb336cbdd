//! HTTP for plugins over the real server: what was granted is reached, and nothing else,
//! whatever the guest or the other side does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::component;
use crate::support::http_server::{echo, held, hostile};
use crate::support::server::{Client, Options, Server};

/// A server with the guest, which was granted these rules.
async fn server(config: &str, rules: &[String]) -> Server {
    let options = Options {
        config: Some(config.to_owned()),
        ..Options::default()
    };
    let server = Server::with(options).await.unwrap();
    let client = &server.client;
    for rule in rules {
        client.grant("visitor", "http", rule, None).await.unwrap();
    }
    let pushed = client.push(component("visitor"), "&allow_missing=true");
    pushed.await.unwrap();
    server
}

async fn ask(client: &Client, input: Value) -> Value {
    client.succeed("visitor.http_ask", &input).await.unwrap()
}

/// The kind that a request fails with, and the whole failure.
async fn refused(client: &Client, input: &Value) -> (String, Value) {
    let failure = client.fail("visitor.http_ask", input).await.unwrap();
    (failure["kind"].as_str().unwrap().to_owned(), failure)
}

#[tokio::test(flavor = "multi_thread")]
async fn http_does_what_the_sdk_promises() {
    let address = echo().await.unwrap();
    let server = server("", &[format!("*:{address}")]).await;
    let client = &server.client;
    let base = json!(format!("http://{address}"));
    let id = client.start_activity("visitor.http_contract", &base).await;
    let id = id.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.body["result"], 4, "{}", outcome.body);
    let receipts = client.receipts(&id).await.unwrap();
    let counters = &receipts[0]["counters"];
    assert!(counters["http.calls"].as_u64() > Some(15), "{counters}");
    assert!(
        counters["http.bytes_read"].as_u64() > Some(3_000_000),
        "{counters}"
    );
    assert!(
        counters["http.bytes_written"].as_u64() > Some(3_000_000),
        "{counters}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_asks_for_http_needs_a_grant_of_it() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    let pushed = client.push(component("visitor"), "").await.unwrap();
    assert_eq!(pushed["active"], false, "{pushed}");
    let missing = pushed["missing_grants"].as_array().unwrap();
    assert!(missing.contains(&json!("http")), "{pushed}");
    for (rule, mode) in [
        ("GET:*.com", None),
        ("nothing", None),
        ("GET:example.com", Some("ro")),
    ] {
        let granted = client.grant("visitor", "http", rule, mode).await;
        let told = granted.unwrap_err().to_string();
        assert!(told.contains("400"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_of_a_method_a_host_a_port_and_a_path() {
    let (address, came) = hostile().await.unwrap();
    let (other, others) = hostile().await.unwrap();
    let server = server(
        "",
        &[format!("GET:{address}/to"), "*:*.example.com".to_owned()],
    )
    .await;
    let client = &server.client;
    let to = format!("http://{address}/to?url=x");
    assert_eq!(ask(client, json!({ "url": to })).await["status"], 302);
    let port = address.port();
    for (method, url) in [
        ("POST", to.clone()),
        ("get", to.clone()),
        ("GET", format!("http://{address}/")),
        ("GET", format!("http://{address}/top")),
        ("GET", format!("http://{address}/to/../silent")),
        ("GET", format!("http://{address}/to/%2e%2e/silent")),
        ("GET", format!("http://{address}/to/..%2fsilent")),
        ("GET", format!("http://{address}/to/%252e%252e/silent")),
        ("GET", format!("http://{address}/to/..;/silent")),
        ("GET", "https://127.0.0.1/to".to_owned()),
        ("GET", format!("http://{other}/to")),
        ("GET", format!("http://localhost:{port}/to")),
        ("GET", format!("http://[::1]:{port}/to")),
        ("GET", format!("http://[::ffff:127.0.0.1]:{port}/to")),
        ("GET", format!("http://127.0.0.2:{port}/to")),
        ("GET", format!("http://0.0.0.0:{port}/to")),
        ("GET", "http://169.254.169.254/latest/meta-data".to_owned()),
        ("GET", "http://metadata.google.internal/".to_owned()),
        ("GET", format!("http://127.0.0.1.nip.io:{port}/to")),
        ("GET", "http://example.com.evil.net/".to_owned()),
    ] {
        let (kind, failure) = refused(client, &json!({ "url": url, "method": method })).await;
        assert_eq!(kind, "capability-denied", "{method} {url}: {failure}");
        assert_eq!(failure["retryable"], false);
    }
    for url in [
        format!("http://user@{address}/to"),
        format!("http://example.com@{address}/to"),
        format!("ftp://{address}/to"),
        format!("http:///{address}/to"),
    ] {
        let (kind, failure) = refused(client, &json!({ "url": url })).await;
        assert_eq!(kind, "invalid-request", "{url}: {failure}");
    }
    assert_eq!(came.load(Ordering::SeqCst), 1);
    assert_eq!(others.load(Ordering::SeqCst), 0);
    // Other spellings are the same address, and so the same grant.
    for host in ["2130706433", "0x7f000001", "127.1", "0177.0.0.1"] {
        let url = format!("http://{host}:{port}/to?url=x");
        assert_eq!(ask(client, json!({ "url": url })).await["status"], 302);
    }
}

/// A server whose guest may ask any host below two suffixes that resolve to this machine,
/// and that address's own `/to`.
async fn lured(address: SocketAddr) -> Server {
    let port = address.port();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mut rules = vec![
        format!("GET:{address}/to"),
        format!("GET:name.localhost:{port}"),
    ];
    rules.push(format!("GET:{}:{port}", hostname.trim().to_lowercase()));
    // Literals that are not public are reached only where they are the grant itself.
    rules.push(format!("GET:localhost.:{port}"));
    server("", &rules).await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_redirects_lead_to_no_private_address() {
    let (address, came) = hostile().await.unwrap();
    let (inner, reached) = hostile().await.unwrap();
    let server = lured(address).await;
    let client = &server.client;
    let port = address.port();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for host in [
        "name.localhost",
        "localhost.",
        &hostname.trim().to_lowercase(),
    ] {
        let url = format!("http://{host}:{port}/to?url=x");
        let (kind, failure) = refused(client, &json!({ "url": url })).await;
        // Where the name has no address here, it is the name that fails.
        let expected = ["capability-denied", "unavailable"];
        assert!(expected.contains(&kind.as_str()), "{host}: {failure}");
    }
    assert_eq!(came.load(Ordering::SeqCst), 0);
    for target in [
        format!("http://{inner}/to"),
        format!("http://localhost:{}/to", inner.port()),
        format!("http://name.localhost:{}/to", inner.port()),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        format!("http://{address}/silent"),
    ] {
        let url = format!("http://{address}/to?url={target}");
        let (kind, failure) = refused(client, &json!({ "url": url, "redirects": 1 })).await;
        assert_eq!(kind, "capability-denied", "{target}: {failure}");
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0, "a redirect was followed");
    // Where it leads to what was granted, it is followed, by the guest.
    let url = format!("http://{address}/to?url=http://{address}/to?url=x");
    let answer = ask(client, json!({ "url": url, "redirects": 1 })).await;
    assert_eq!(answer["status"], 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_silence_and_numbers_have_limits() {
    let (address, _) = hostile().await.unwrap();
    // What was given up there may come later still.
    let (other, came): (_, Arc<AtomicU64>) = hostile().await.unwrap();
    let config = "[limits.http]\nrequest_bytes = 100000\nresponse_bytes = 100000\n\
                  open_requests = 3\nsilence_ms = 3000\n";
    let rules = [format!("*:{address}"), format!("*:{other}")];
    let server = server(config, &rules).await;
    let client = &server.client;
    let at = |path: &str| format!("http://{address}{path}");
    for (input, expected) in [
        (json!({ "url": at("/endless") }), "limit-exceeded"),
        (json!({ "url": at("/huge") }), "limit-exceeded"),
        (json!({ "url": at("/drip") }), "timeout"),
        (json!({ "url": at("/silent") }), "timeout"),
        (json!({ "url": at("/headers") }), "unavailable"),
        (
            json!({ "url": at("/take"), "method": "POST", "send": 100_001 }),
            "limit-exceeded",
        ),
        (json!({ "url": at("/to"), "hold": 3 }), "limit-exceeded"),
    ] {
        let (kind, failure) = refused(client, &input).await;
        assert_eq!(kind, expected, "{input}: {failure}");
    }
    // A guest's own time may be shorter.
    let impatient = json!({ "url": at("/silent"), "timeout_ms": 1 });
    assert_eq!(refused(client, &impatient).await.0, "timeout");
    // More headers than a request may have end the guest.
    let headers: Vec<_> = (0..5_000).map(|it| (format!("x-{it}"), "y")).collect();
    let many = json!({ "url": at("/to"), "headers": headers });
    assert_eq!(refused(client, &many).await.0, "trap");
    let url = format!("http://{other}/to");
    let held = ask(client, json!({ "url": url, "hold": 2 })).await;
    assert_eq!(held["status"], 302);
    assert_eq!(came.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_never_answers_fills_its_own_places() {
    let (address, came) = held().await.unwrap();
    let other = echo().await.unwrap();
    let rules = [format!("GET:{address}"), format!("GET:{other}")];
    let config = "[limits.call]\ncancel_grace_ms = 100\n[limits.http]\nconcurrent_requests = 2\n";
    let server = server(config, &rules).await;
    let client = &server.client;
    let input = json!({ "url": format!("http://{address}/held") });
    // More than the queue has slots.
    let starting = (0..60).map(|_| client.start_activity("visitor.http_ask", &input));
    let started = futures::future::try_join_all(starting).await.unwrap();
    let mut results: FuturesUnordered<_> = started
        .iter()
        .map(|id| async move { client.result(id).await.unwrap() })
        .collect();
    // All but those that the site has, and those that wait for their places.
    for _ in 0..60 - 4 {
        let outcome = results.next().await.expect("further ones");
        let failure = &outcome.body["failure"]["cause"];
        assert_eq!(failure["kind"], "unavailable", "{failure}");
        assert_eq!(failure["retryable"], true, "{failure}");
    }
    let there = ask(client, json!({ "url": format!("http://{other}/text") })).await;
    assert_eq!(there["status"], 200);
    came.acquire_many(2).await.unwrap().forget();
    assert_eq!(came.available_permits(), 0, "more than two came");
    for id in &started {
        // Most have ended.
        let _ = client.cancel(id).await;
    }
    while results.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_that_wait_for_a_site_leave_a_slot_of_the_queue() {
    let (address, came) = held().await.unwrap();
    let other = echo().await.unwrap();
    let server = server("", &[format!("GET:{other}")]).await;
    let client = &server.client;
    let flow = format!(
        "document: {{dsl: '1.0.3', namespace: tests, name: waits, version: 1.0.0}}\n\
         do:\n\
         - ask:\n    \
             call: http\n    \
             with: {{method: get, endpoint: 'http://{address}/held'}}\n    \
             metadata:\n      \
               heyday:\n        \
                 queue: ai-processing-queue\n        \
                 retry: {{maximum_attempts: 1}}\n"
    );
    let pushed = client.push_flow(&flow).await.unwrap();
    assert!(pushed.status().is_success());
    let rule = format!("GET:{address}");
    let granted = client.grant("tests.waits", "http", &rule, None);
    granted.await.unwrap();
    // Twice as many as the queue has slots.
    let input = json!({});
    let starting = (0..10).map(|_| client.start("tests.waits", &input));
    let started = futures::future::try_join_all(starting).await.unwrap();
    let ask = "visitor.http_ask?queue=ai-processing-queue";
    let url = json!({ "url": format!("http://{other}/text") });
    assert_eq!(client.succeed(ask, &url).await.unwrap()["status"], 200);
    let mut waiting = 0;
    for id in &started {
        let run = client.get(&format!("/workflows/{id}")).await.unwrap();
        if run["status"] == "Running" {
            waiting += 1;
            continue;
        }
        let outcome = client.result(id).await.unwrap();
        let told = outcome.body.to_string();
        assert!(told.contains("too many requests"), "{told}");
    }
    assert!(waiting >= 4, "{waiting} of the five slots");
    came.acquire_many(4).await.unwrap().forget();
    assert_eq!(came.available_permits(), 0, "more than four came");
    for id in &started {
        // Some have ended.
        let _ = client.cancel(id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_with_its_grant_and_with_its_attempt() {
    let (address, came) = held().await.unwrap();
    let (stream, _) = hostile().await.unwrap();
    let rules = [format!("GET:{address}"), format!("GET:{stream}")];
    let config = "[limits.call]\ncancel_grace_ms = 2000\n";
    let server = server(config, &rules).await;
    let client = &server.client;
    let start = async |url: String| {
        let input = json!({ "url": url });
        let id = client.start_activity("visitor.http_ask", &input).await;
        id.unwrap()
    };
    let revoke = async |rule: &str| {
        let path = format!("/grants?subject=visitor&capability=http&binding={rule}");
        let revoked = client.request(Method::DELETE, &path).send().await.unwrap();
        assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
    };
    let kind = async |id: &str| {
        let outcome = client.result(id).await.unwrap();
        outcome.body["failure"]["cause"]["kind"].clone()
    };
    // While it waits for the head of the response.
    let id = start(format!("http://{address}/held")).await;
    came.acquire().await.unwrap().forget();
    client.cancel(&id).await.unwrap();
    assert_eq!(client.result(&id).await.unwrap().status, "Canceled");
    let id = start(format!("http://{address}/held")).await;
    came.acquire().await.unwrap().forget();
    revoke(&rules[0]).await;
    assert_eq!(kind(&id).await, "capability-denied");
    // While it reads the body.
    let id = start(format!("http://{stream}/drip")).await;
    client.wait_for_line(&id, "asking").await.unwrap();
    revoke(&rules[1]).await;
    assert_eq!(kind(&id).await, "capability-denied");
    let (denied, _) = refused(client, &json!({ "url": format!("http://{stream}/to") })).await;
    assert_eq!(denied, "capability-denied");
}
