//! Request, transitions, attempts and host calls are one trace, at a real collector.

use anyhow::Context as _;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::collector::{Collector, attribute};
use crate::support::server::{Client, Options, Server};
use crate::support::{http_server, probe};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
/// A text that is in the input of an attempt and in its statements' parameters.
const SECRET: &str = "a-text-that-is-nobodys-business";

const FLOW: &str = "
document: {dsl: 1.0.3, namespace: tests, name: traced, version: 1.0.0}
do:
  - first: {call: probe.echo, with: {secret: '${ .secret }'}}
  - second: {call: probe.sql_contract, with: {}}
  - third: {call: probe.blob_contract, with: {binding: default}}
";

const WAITING_FLOW: &str = "
document: {dsl: 1.0.3, namespace: tests, name: traced-later, version: 1.0.0}
do:
  - pause: {wait: PT6S}
  - after: {call: probe.echo, with: {n: 1}}
";

/// Starts a flow within a trace of the caller's.
async fn start_traced(client: &Client, body: Value) -> anyhow::Result<String> {
    let response = client
        .request(Method::POST, "/workflows")
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .json(&body)
        .send()
        .await?;
    let started = Client::ok(response).await?;
    Ok(started["workflow_id"].as_str().context("no id")?.to_owned())
}

fn of_trace(spans: &[Span]) -> Vec<&Span> {
    let in_trace = |span: &&Span| hex(&span.trace_id) == TRACE;
    spans.iter().filter(in_trace).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn named<'a>(spans: &[&'a Span], name: &str) -> Vec<&'a Span> {
    let found = spans.iter().filter(|span| span.name == name);
    found.copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_and_all_that_follows_are_one_trace() {
    let collector = Collector::start().await.unwrap();
    let server = probe::server(Options {
        environment: collector.environment(),
        ..Options::default()
    })
    .await
    .unwrap();
    let client = &server.client;
    let pushed = client.push_flow(FLOW).await.unwrap();
    assert!(pushed.status().is_success());
    let body = json!({"workflow_type": "tests.traced", "input": {"secret": SECRET}});
    let id = start_traced(client, body).await.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    let all = collector
        .wait_for(|spans| {
            let spans = of_trace(spans);
            named(&spans, "transition tests.traced")
                .iter()
                .any(|span| attribute(span, "heyday.run_status").is_some())
                && named(&spans, "POST /api/v1/workflows").len() == 1
                && named(&spans, "attempt probe.blob_contract").len() == 1
        })
        .await
        .unwrap();
    let spans = of_trace(&all);

    let request = named(&spans, "POST /api/v1/workflows")[0];
    assert_eq!(hex(&request.parent_span_id), CALLER);
    assert_eq!(request.kind(), SpanKind::Server);
    let says = |span: &Span, key: &str| attribute(span, key).unwrap_or_default();
    assert_eq!(says(request, "http.request.method"), "POST");
    assert_eq!(says(request, "url.scheme"), "http");
    assert_eq!(says(request, "http.route"), "/api/v1/workflows");
    assert_eq!(says(request, "http.response.status_code"), "201");

    let mut transitions = named(&spans, "transition tests.traced");
    transitions.sort_by_key(|span| span.start_time_unix_nano);
    assert_eq!(transitions.len(), 4, "one activity more each, and the end");
    for transition in &transitions {
        assert_eq!(transition.parent_span_id, request.span_id);
        assert_eq!(says(transition, "heyday.workflow_id"), id);
    }
    assert_eq!(says(transitions[0], "heyday.transition.first_event"), "1");
    assert_eq!(says(transitions[3], "heyday.run_status"), "Completed");

    for (number, activity) in ["probe.echo", "probe.sql_contract", "probe.blob_contract"]
        .into_iter()
        .enumerate()
    {
        let attempts = named(&spans, &format!("attempt {activity}"));
        assert_eq!(attempts.len(), 1);
        let attempt = attempts[0];
        assert_eq!(attempt.parent_span_id, transitions[number].span_id);
        assert_eq!(attempt.kind(), SpanKind::Consumer);
        assert_eq!(says(attempt, "heyday.activity_type"), activity);
        assert_eq!(says(attempt, "messaging.system"), "heyday");
        assert_eq!(says(attempt, "messaging.operation.name"), "attempt");
        assert_eq!(says(attempt, "messaging.operation.type"), "process");
        assert_eq!(says(attempt, "messaging.destination.name"), "general-queue");
        let calls: Vec<&&Span> = spans
            .iter()
            .filter(|span| span.parent_span_id == attempt.span_id)
            .collect();
        let capability = match activity {
            "probe.sql_contract" => "sql",
            "probe.blob_contract" => "blob",
            _ => {
                assert!(calls.is_empty(), "{calls:?}");
                continue;
            }
        };
        assert!(calls.len() > 10, "{} of {activity}", calls.len());
        for call in &calls {
            assert_eq!(call.kind(), SpanKind::Client);
            assert_eq!(says(call, "heyday.capability"), capability);
            assert!(call.start_time_unix_nano >= attempt.start_time_unix_nano);
            assert!(call.end_time_unix_nano <= attempt.end_time_unix_nano);
        }
        // The contracts provoke errors too.
        assert!(
            calls
                .iter()
                .any(|call| attribute(call, "error.type").is_some())
        );
        if capability == "sql" {
            let query = calls
                .iter()
                .find(|call| call.name == "sql connection.query");
            let query = query.unwrap();
            assert_eq!(says(query, "db.system.name"), "sqlite");
            assert_eq!(says(query, "db.operation.name"), "query");
        }
    }

    // Neither inputs nor statements nor the token.
    let text = format!("{all:?}").to_lowercase();
    let token = std::fs::read_to_string(server.data().join("token")).unwrap();
    for never in [SECRET, "select", "insert", token.trim()] {
        assert!(
            !text.contains(&never.to_lowercase()),
            "{never} is in a span"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_http_is_a_host_call_without_its_secrets() {
    let collector = Collector::start().await.unwrap();
    let address = http_server::echo().await.unwrap();
    let server = Server::with(Options {
        environment: collector.environment(),
        ..Options::default()
    })
    .await
    .unwrap();
    let client = &server.client;
    let flow = format!(
        "
document: {{dsl: 1.0.3, namespace: tests, name: traced-http, version: 1.0.0}}
do:
  - well:
      call: http
      with: {{method: get, endpoint: 'http://{address}/echo/a', query: {{key: {SECRET}}}}}
  - wrong:
      try:
        - ask:
            call: http
            with: {{method: post, endpoint: 'http://{address}/status/404', body: {SECRET}}}
      catch: {{}}
"
    );
    let pushed = client.push_flow(&flow).await.unwrap();
    assert!(pushed.status().is_success());
    let binding = format!("*:{address}");
    let granted = client.grant("tests.traced-http", "http", &binding, None);
    granted.await.unwrap();
    let id = start_traced(client, json!({"workflow_type": "tests.traced-http"}))
        .await
        .unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    let all = collector
        .wait_for(|spans| named(&of_trace(spans), "attempt heyday.http").len() == 2)
        .await
        .unwrap();
    let spans = of_trace(&all);
    let says = |span: &Span, key: &str| attribute(span, key).unwrap_or_default();
    for (method, status, failed) in [("GET", "200", false), ("POST", "404", true)] {
        let calls = named(&spans, method);
        assert_eq!(calls.len(), 1, "{calls:?}");
        let call = calls[0];
        let attempts = named(&spans, "attempt heyday.http");
        assert!(
            attempts
                .iter()
                .any(|attempt| attempt.span_id == call.parent_span_id)
        );
        assert_eq!(call.kind(), SpanKind::Client);
        assert_eq!(says(call, "heyday.capability"), "http");
        assert_eq!(says(call, "http.request.method"), method);
        assert_eq!(says(call, "http.response.status_code"), status);
        assert_eq!(says(call, "server.address"), address.ip().to_string());
        assert_eq!(says(call, "server.port"), address.port().to_string());
        assert_eq!(attribute(call, "error.type").is_some(), failed);
    }
    assert!(!format!("{all:?}").contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_goes_on_after_a_restart_stays_in_its_trace() {
    let collector = Collector::start().await.unwrap();
    let options = || Options {
        environment: collector.environment(),
        ..Options::default()
    };
    let server = probe::server(options()).await.unwrap();
    let pushed = server.client.push_flow(WAITING_FLOW).await.unwrap();
    assert!(pushed.status().is_success());
    let body = json!({"workflow_type": "tests.traced-later", "input": {}});
    let id = start_traced(&server.client, body).await.unwrap();
    let spans = collector
        .wait_for(|spans| !named(&of_trace(spans), "POST /api/v1/workflows").is_empty())
        .await
        .unwrap();
    let request = named(&of_trace(&spans), "POST /api/v1/workflows")[0]
        .span_id
        .clone();
    let server = server.kill_and_restart(options()).await.unwrap();
    let outcome = server.client.result(&id).await.unwrap();
    assert_eq!(outcome.status, "Completed", "{}", outcome.body);
    let all = collector
        .wait_for(|spans| {
            let spans = of_trace(spans);
            named(&spans, "transition tests.traced-later")
                .iter()
                .any(|span| attribute(span, "heyday.run_status").is_some())
                && !named(&spans, "attempt probe.echo").is_empty()
        })
        .await
        .unwrap();
    let spans = of_trace(&all);
    let attempt = named(&spans, "attempt probe.echo")[0];
    let transition = spans
        .iter()
        .find(|span| span.span_id == attempt.parent_span_id)
        .unwrap();
    assert_eq!(transition.name, "transition tests.traced-later");
    assert_eq!(transition.parent_span_id, request);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_takes_nothing_is_said_once_and_nobody_waits_for_it() {
    let collector = Collector::start().await.unwrap();
    collector.close(true);
    let server = Server::with(Options {
        environment: collector.environment(),
        ..Options::default()
    })
    .await
    .unwrap();
    for batches in 1..=4 {
        // A span of this request is in the next batch, or the one after it.
        server.client.get("/queues").await.unwrap();
        collector.refused(batches).await.unwrap();
    }
    let said = || server.log().matches("traces cannot be sent").count();
    assert_eq!(said(), 1, "{}", server.log());
    collector.close(false);
    server.client.get("/queues").await.unwrap();
    collector
        .wait_for(|spans| spans.iter().any(|span| span.name == "GET /api/v1/queues"))
        .await
        .unwrap();
    assert_eq!(said(), 1, "{}", server.log());
}
