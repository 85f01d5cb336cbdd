//! Guests that misbehave.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::handmade::{DESCRIPTION, Handmade};
use crate::support::probe;
use crate::support::server::{Client, Options, PATIENCE, Server};

/// Waits until an activity that is a run of its own has a guest.
async fn runs(client: &Client, id: &str) {
    let (path, deadline) = (format!("/workflows/{id}"), Instant::now() + PATIENCE);
    while client.get(&path).await.unwrap()["pending_activities"][0]["state"] != "Started" {
        assert!(Instant::now() < deadline, "{id} did not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
async fn a_guest_without_grants_sees_nothing_outside() {
    let options = Options {
        environment: vec![("HEYDAY_TEST_SECRET".to_owned(), "seen".to_owned())],
        ..Options::default()
    };
    let server = probe::server(options).await.unwrap();
    let seen = server.client.succeed("probe.look_outside", &Value::Null);
    assert_eq!(seen.await.unwrap(), Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_pass_a_limit_are_stopped() {
    let server = probe::shared();
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
async fn an_operator_limits_each_plugin_by_itself() {
    let limits = [
        ("memory_bytes", 16 << 20),
        ("output_bytes", 9_999),
        ("table_elements", 999),
    ];
    let name = |limit: &str| format!("few-{}", limit.replace('_', "-"));
    let tables = limits.map(|(limit, value)| {
        let name = name(limit);
        format!("[limits.plugins.{name}]\n{limit} = {value}\n")
    });
    let server = probe::server(Options {
        config: Some(
            tables.concat() + "[limits.plugins.probe]\nhost_calls = 999\nlog_bytes = 25000\n",
        ),
        ..Options::default()
    });
    let server = server.await.unwrap();
    let client = &server.client;
    // One component but for its name: 18.8 MiB of memory, 1,000 elements of a table, and an answer
    // of 10,000 bytes.
    let output = format!("{:?}", "x".repeat(9_998));
    let push = async |name: &str| {
        let description = DESCRIPTION.replace("\"handmade\"", &format!("{name:?}"));
        let handmade = Handmade {
            description: &description,
            output: &output,
            functions: "(memory 300) (table 1000 funcref)",
            ..Handmade::default()
        };
        client.push(handmade.build(), "").await.unwrap();
    };
    for (limit, value) in limits {
        let name = name(limit);
        push(&name).await;
        let failure = client.fail(&format!("{name}.answer"), &Value::Null).await;
        let failure = failure.unwrap();
        assert_eq!(failure["kind"], "limit-exceeded", "{limit}: {failure}");
        assert_eq!(failure["details"]["limit"], limit, "{failure}");
        assert_eq!(failure["retryable"], false, "{failure}");
        let message = failure["message"].as_str().unwrap();
        assert!(message.contains(&value.to_string()), "{failure}");
    }
    push("handmade").await;
    let answer = client.succeed("handmade.answer", &Value::Null).await;
    assert_eq!(answer.unwrap().as_str().map(str::len), Some(9_998));

    // What they do while they run.
    let calls = json!({ "count": 1_000 });
    let failure = client.fail("probe.call_host", &calls).await.unwrap();
    assert_eq!(failure["details"]["limit"], "host_calls", "{failure}");
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("999"), "{failure}");
    let flood = client.start_activity("probe.log_flood", &Value::Null);
    let flood = flood.await.unwrap();
    assert_eq!(client.result(&flood).await.unwrap().status, "Completed");
    // Two of 10,128 bytes, and the one that says what happened.
    assert_eq!(client.logs(&flood).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_more_time_than_the_operator_gives() {
    let options = Options {
        config: Some("[limits.plugins.probe]\ntime_ms = 2500\n".to_owned()),
        ..Options::default()
    };
    let server = probe::server(options).await.unwrap();
    let client = &server.client;
    // The plugin says an hour, and its caller two.
    for activity in ["probe.spin_long", "probe.spin_long?start_to_close=2h"] {
        let failure = client.fail(activity, &Value::Null).await.unwrap();
        assert_eq!(failure["kind"], "limit-exceeded", "{activity}: {failure}");
        assert_eq!(failure["details"]["limit"], "time_ms", "{activity}");
        assert_eq!(failure["retryable"], false, "{activity}");
    }
    // Less is still what they say, and the guest sees what it has.
    let short = client.fail("probe.spin_long?start_to_close=100ms", &Value::Null);
    let failure = short.await.unwrap();
    assert_eq!(failure["kind"], "timeout", "{failure}");
    let own = client.succeed("probe.whoami", &Value::Null).await.unwrap();
    assert!(own["remaining_ms"].as_u64() <= Some(2_500), "{own}");
    client.works().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_shows_the_functions_it_came_through() {
    let server = probe::shared();
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
    let server = probe::shared();
    let client = &server.client;
    let id = client
        .start_activity("probe.log_flood", &Value::Null)
        .await
        .unwrap();
    assert_eq!(client.result(&id).await.unwrap().status, "Completed");
    let lines = client.logs(&id).await.unwrap();
    // 1 MiB of lines of 10,000 bytes, each of which counts 128 more, and one that says what
    // happened.
    assert_eq!(lines.len(), 104);
    let last = lines.last().unwrap();
    assert_eq!(last["level"], "warn");
    assert!(
        last["message"].as_str().unwrap().contains("dropped"),
        "{last}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn spinning_guests_starve_nobody() {
    let cores = std::thread::available_parallelism().unwrap().get();
    // All of them have a slot, and so has their neighbour.
    let slots = 2 * cores + 10;
    let server = probe::server(Options {
        config: Some(format!("[queues]\ngeneral-queue = {slots}\n")),
        ..Options::default()
    });
    let server = server.await.unwrap();
    let client = &server.client;
    client.push(Handmade::default().build(), "").await.unwrap();
    let mut spinning = Vec::new();
    for _ in 0..2 * cores {
        spinning.push(
            client
                .start_activity("probe.spin_long", &Value::Null)
                .await
                .unwrap(),
        );
    }
    for id in &spinning {
        runs(client, id).await;
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
        // Another plugin's is a neighbour as well as one of their own.
        let answer = client.succeed("handmade.answer", &Value::Null).await;
        assert_eq!(answer.unwrap(), 42);
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
    let server = probe::shared();
    let client = &server.client;
    let id = client.start_waiting().await.unwrap();
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
    runs(client, &id).await;
    client.cancel(&id).await.unwrap();
    // It may run for an hour and never looks, so only the grace can end it.
    assert_eq!(client.result(&id).await.unwrap().status, "Canceled");
    assert_eq!(
        client.receipts(&id).await.unwrap()[0]["outcome"],
        "cancelled"
    );
}
