//! Bad input over the real server: each is answered with a typed error, and the server
//! goes on.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::component;
use crate::support::handmade::{DESCRIPTION, Handmade};
use crate::support::probe;
use crate::support::server::{Client, Options, PATIENCE, Server};

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_no_plugin_are_refused() {
    let server = Server::start().await.unwrap();
    let module = wat::parse_str("(module (func (export \"run\")))").unwrap();
    let mut cut = component("probe");
    cut.truncate(cut.len() / 2);
    for (bytes, told) in [
        (
            b"PK\x03\x04 no component".to_vec(),
            "not a WebAssembly component",
        ),
        (Vec::new(), "not a WebAssembly component"),
        (cut, "not a WebAssembly component"),
        (module, "core WebAssembly module, not a component"),
        (
            component("expressions"),
            "does not export heyday:plugin/activities@0.1; it exports heyday:expressions/evaluator@0.1.0",
        ),
    ] {
        let problem = server
            .client
            .refused_upload(bytes, StatusCode::UNPROCESSABLE_ENTITY)
            .await;
        assert_eq!(problem["type"], "urn:heyday:problems:unusable");
        assert!(
            problem["detail"].as_str().unwrap().contains(told),
            "{problem}"
        );
    }
    let plugins = server.client.get("/plugins").await.unwrap();
    assert_eq!(plugins["plugins"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_imports_are_named() {
    let server = Server::start().await.unwrap();
    let imports = r#"(import "acme:secrets/store@1.0.0" (instance (export "get" (func))))
        (import "wasi:nn/graph@0.2.0" (instance (export "load" (func))))
        (import "heyday:telepathy/mind@0.1.0" (instance (export "read" (func))))"#;
    let handmade = Handmade {
        imports,
        ..Handmade::default()
    };
    let problem = server
        .client
        .refused_upload(handmade.build(), StatusCode::UNPROCESSABLE_ENTITY)
        .await;
    let text = problem.to_string();
    for name in [
        "acme:secrets/store@1.0.0",
        "wasi:nn/graph@0.2.0",
        "heyday:telepathy/mind@0.1.0",
    ] {
        assert!(text.contains(name), "{name} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptions_that_cannot_be_used_are_refused() {
    let server = Server::start().await.unwrap();
    let none = DESCRIPTION.replace("\"handmade\"", "\"Hand Made\"");
    let version = DESCRIPTION.replace("1.0.0", "one");
    for (handmade, told) in [
        (
            Handmade {
                description: "{\"name\":",
                ..Handmade::default()
            },
            "JSON",
        ),
        (
            Handmade {
                description: &none,
                ..Handmade::default()
            },
            "name",
        ),
        (
            Handmade {
                description: &version,
                ..Handmade::default()
            },
            "version",
        ),
        (
            Handmade {
                before_describe: "unreachable",
                ..Handmade::default()
            },
            "unreachable",
        ),
        (
            Handmade {
                before_describe: "(loop (br 0))",
                ..Handmade::default()
            },
            "describe",
        ),
    ] {
        let problem = server
            .client
            .refused_upload(handmade.build(), StatusCode::UNPROCESSABLE_ENTITY)
            .await;
        assert!(
            problem["detail"].as_str().unwrap().contains(told),
            "{told} in {problem}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_over_the_limit_are_refused() {
    let config = Some("[limits]\nupload_bytes = 100000\n".to_owned());
    let server = Server::with(Options {
        config,
        ..Options::default()
    })
    .await
    .unwrap();
    let problem = server
        .client
        .refused_upload(component("probe"), StatusCode::PAYLOAD_TOO_LARGE)
        .await;
    assert_eq!(problem["type"], "urn:heyday:problems:too-large");
    server
        .client
        .push(Handmade::default().build(), "")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_no_json_is_a_failure() {
    let server = Server::start().await.unwrap();
    let handmade = Handmade {
        output: "{\"cut\":",
        ..Handmade::default()
    };
    server.client.push(handmade.build(), "").await.unwrap();
    let failure = server
        .client
        .fail("handmade.answer", &Value::Null)
        .await
        .unwrap();
    assert_eq!(failure["kind"], "invalid-output", "{failure}");
    assert_eq!(failure["retryable"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_pass_a_limit_are_stopped() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    for (activity, input, limit) in [
        ("probe.allocate", Value::Null, "memory_bytes"),
        (
            "probe.produce",
            json!({ "count": 17 << 20 }),
            "output_bytes",
        ),
        (
            "probe.call_host",
            json!({ "count": 1_000_001 }),
            "host_calls",
        ),
    ] {
        let failure = client.fail(activity, &input).await.unwrap();
        assert_eq!(failure["kind"], "limit-exceeded", "{activity}: {failure}");
        assert_eq!(failure["details"]["limit"], limit, "{activity}");
        assert_eq!(failure["retryable"], false, "{activity}");
        client.works().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_shows_the_functions_it_came_through() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    let id = client
        .start_activity("probe.panic", &Value::Null)
        .await
        .unwrap();
    let body = client.result(&id).await.unwrap().body;
    let failure = &body["failure"]["cause"];
    assert_eq!(failure["kind"], "trap", "{body}");
    let stack = failure["stack"].as_str().unwrap();
    assert!(
        stack.contains("probe::hostile::innermost_function"),
        "{stack}"
    );
    // What the panic said belongs to the attempt.
    let lines = client.logs(&id).await.unwrap();
    assert!(
        lines[0]["message"].as_str().unwrap().contains("on purpose"),
        "{lines:?}"
    );
    assert_eq!(client.receipts(&id).await.unwrap()[0]["outcome"], "trap");

    let failure = client.fail("probe.recurse", &Value::Null).await.unwrap();
    assert_eq!(failure["kind"], "trap");
    assert!(
        failure["stack"]
            .as_str()
            .unwrap()
            .contains("probe::hostile::deeper"),
        "{failure}"
    );
    client.works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_flood_is_cut_and_says_so() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    let id = client
        .start_activity("probe.log_flood", &Value::Null)
        .await
        .unwrap();
    assert_eq!(client.result(&id).await.unwrap().status, "Completed");
    let lines = client.logs(&id).await.unwrap();
    // 1 MiB of lines of 10,000 bytes, and one that says what happened.
    assert_eq!(lines.len(), 105);
    let last = lines.last().unwrap();
    assert_eq!(last["level"], "warn");
    assert!(
        last["message"].as_str().unwrap().contains("dropped"),
        "{last}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn spinning_guests_starve_nobody() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    let cores = std::thread::available_parallelism().unwrap().get();
    let mut spinning = Vec::new();
    for _ in 0..2 * cores {
        spinning.push(
            client
                .start_activity("probe.spin_long", &Value::Null)
                .await
                .unwrap(),
        );
    }
    let first = client
        .start_activity("probe.spin", &Value::Null)
        .await
        .unwrap();
    for _ in 0..3 {
        let begun = Instant::now();
        let health = client
            .http
            .get(format!("{}/health", server.url))
            .send()
            .await
            .unwrap();
        assert_eq!(health.status(), StatusCode::OK);
        // Far over what it takes; a starved API takes as long as the guests spin.
        assert!(begun.elapsed() < Duration::from_secs(10));
        client.works().await;
    }
    // Its start_to_close of one second ends it, with all the others still spinning.
    let body = client.result(&first).await.unwrap().body;
    let failure = &body["failure"]["cause"];
    assert_eq!(failure["kind"], "timeout", "{body}");
    assert_eq!(failure["details"]["timeout"], "start_to_close");
    for id in &spinning {
        let run = client.get(&format!("/workflows/{id}")).await.unwrap();
        assert_eq!(run["status"], "Running", "{run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_lets_the_guest_clean_up() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    let id = client
        .start_activity("probe.wait_for_cancel", &Value::Null)
        .await
        .unwrap();
    client.wait_for_line(&id, "waiting").await.unwrap();
    client.cancel(&id).await.unwrap();
    assert_eq!(client.result(&id).await.unwrap().status, "Canceled");
    let lines = client.logs(&id).await.unwrap();
    assert_eq!(lines.last().unwrap()["message"], "cleaned up", "{lines:?}");
    assert_eq!(
        client.receipts(&id).await.unwrap()[0]["outcome"],
        "cancelled"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_interrupts_who_does_not_listen() {
    let config = Some("[limits.plugins.probe]\ncancel_grace_ms = 200\n".to_owned());
    let server = probe::server(Options {
        config,
        ..Options::default()
    })
    .await
    .unwrap();
    let client = &server.client;
    let id = client
        .start_activity("probe.spin_long", &Value::Null)
        .await
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while client.get(&format!("/workflows/{id}")).await.unwrap()["pending_activities"][0]["state"]
        != "Started"
    {
        assert!(Instant::now() < deadline, "it did not start");
    }
    client.cancel(&id).await.unwrap();
    // It may run for an hour and never looks, so only the grace can end it.
    assert_eq!(client.result(&id).await.unwrap().status, "Canceled");
    assert_eq!(
        client.receipts(&id).await.unwrap()[0]["outcome"],
        "cancelled"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_does_not_fit_never_reaches_the_guest() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    for input in [
        json!({ "a": 1 }),
        json!({ "a": 1, "b": "2" }),
        json!([]),
        Value::Null,
    ] {
        let id = client.start_activity("probe.add", &input).await.unwrap();
        let body = client.result(&id).await.unwrap().body;
        let failure = &body["failure"]["cause"];
        assert_eq!(failure["kind"], "invalid-input", "{body}");
        assert_eq!(failure["retryable"], false);
        assert!(
            !failure["details"]["violations"]
                .as_array()
                .unwrap()
                .is_empty(),
            "{body}"
        );
        // No guest, no memory.
        for receipt in client.receipts(&id).await.unwrap() {
            let memory = receipt["counters"]["peak_memory_bytes"]
                .as_u64()
                .unwrap_or(0);
            assert_eq!(memory, 0, "{receipt}");
        }
    }
    let response = client
        .request(Method::POST, "/activities/probe.echo")
        .body("{\"cut\":")
        .send()
        .await
        .unwrap();
    let problem = Client::refused(response, StatusCode::BAD_REQUEST).await;
    assert_eq!(problem["errors"][0]["line"], 1, "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_are_answered_by_name() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    for (activity, told) in [
        ("probe.nothing", "whoami"),
        ("nobody.echo", "upload it first"),
        ("echo", "PLUGIN.ACTIVITY"),
        ("probe.echo:9.9.9", "9.9.9"),
    ] {
        let response = client
            .request(Method::POST, &format!("/activities/{activity}"))
            .send()
            .await
            .unwrap();
        let problem = Client::refused(response, StatusCode::NOT_FOUND).await;
        assert!(
            problem["detail"].as_str().unwrap().contains(told),
            "{problem}"
        );
    }
    let body = json!({ "workflow_type": "no.such", "input": null });
    let response = client
        .request(Method::POST, "/workflows")
        .json(&body)
        .send()
        .await
        .unwrap();
    let problem = Client::refused(response, StatusCode::NOT_FOUND).await;
    assert!(
        problem["detail"].as_str().unwrap().contains("no.such"),
        "{problem}"
    );
    for path in [
        "/workflows/none",
        "/workflows/none/result",
        "/plugins/none",
        "/nowhere",
    ] {
        let response = client.request(Method::GET, path).send().await.unwrap();
        let problem = Client::refused(response, StatusCode::NOT_FOUND).await;
        let type_ = problem["type"].as_str().unwrap();
        assert_eq!(type_, "urn:heyday:problems:not-found");
        assert_eq!(problem["status"], 404);
        assert!(problem["request_id"].is_string(), "{problem}");
        assert!(
            problem["instance"].as_str().unwrap().ends_with(path),
            "{problem}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_nobody_serves_is_refused() {
    let server = probe::server(Options::default()).await.unwrap();
    let flow = "document: { dsl: '1.0.3', namespace: test, name: lost, version: '1.0.0' }\n\
        do:\n  - step:\n      call: probe.echo\n      with: {}\n      metadata: { heyday: { queue: no-such-queue } }\n";
    let response = server.client.push_flow(flow).await.unwrap();
    let status = response.status();
    if status.is_success() {
        let outcome = server.client.run("test.lost", &Value::Null).await.unwrap();
        assert_eq!(outcome.status, "Failed", "{}", outcome.body);
        assert!(
            outcome.body.to_string().contains("no-such-queue"),
            "{}",
            outcome.body
        );
    } else {
        let text = response.text().await.unwrap();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        assert!(text.contains("no-such-queue"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    let server = Server::start().await.unwrap();
    let plugins = format!("{}/api/v1/plugins", server.url);
    let http = &server.client.http;
    for request in [
        http.get(&plugins),
        http.get(&plugins).bearer_auth("wrong"),
        http.get(&plugins).header("authorization", "Basic eDp5"),
        http.get(format!("{}/metrics", server.url)),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let problem = Client::refused(response, StatusCode::UNAUTHORIZED).await;
        assert_eq!(problem["type"], "urn:heyday:problems:unauthorized");
    }
    // With the right token, but from a page of another origin, or by another name.
    let get = || server.client.request(Method::GET, "/plugins");
    for host in ["evil.example", "127.0.0.1.evil.example:80"] {
        let response = get().header("host", host).send().await.unwrap();
        Client::refused(response, StatusCode::MISDIRECTED_REQUEST).await;
    }
    for origin in [
        "http://evil.example",
        "null",
        "http://localhost.evil.example",
    ] {
        let response = get().header("origin", origin).send().await.unwrap();
        let problem = Client::refused(response, StatusCode::FORBIDDEN).await;
        assert_eq!(problem["type"], "urn:heyday:problems:foreign-origin");
    }
    let own = get().header("origin", &server.url).send().await.unwrap();
    assert_eq!(own.status(), StatusCode::OK);
}
