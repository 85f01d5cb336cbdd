//! Capabilities over the real server: nothing without a grant, all that the WIT promises
//! with one. The guest asserts; here stand its grants and what it may not do.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::component;
use crate::support::probe;
use crate::support::server::{Client, Options, Server};

fn run(statement: &str) -> Value {
    json!({ "binding": "default", "statement": statement })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_reached_without_a_grant() {
    let server = Server::start().await.unwrap();
    let client = &server.client;
    client
        .push(component("probe"), "&allow_missing=true")
        .await
        .unwrap();
    let binding = json!({ "binding": "default" });
    for (activity, input) in [
        ("probe.sql_run", run("SELECT 1")),
        ("probe.blob_put", binding.clone()),
        ("probe.kv_count", binding.clone()),
    ] {
        let id = client.start_activity(activity, &input).await.unwrap();
        let body = client.result(&id).await.unwrap().body;
        let failure = &body["failure"]["cause"];
        assert_eq!(failure["kind"], "capability-denied", "{body}");
        assert_eq!(failure["retryable"], false);
        // Not retried, though another grant could come: an operator must act.
        assert_eq!(client.receipts(&id).await.unwrap().len(), 1);
    }

    // A grant works for the running version at once, and only for its capability.
    client.grant("probe", "sql", "default", None).await.unwrap();
    assert_eq!(
        client
            .succeed("probe.sql_run", &run("SELECT 1"))
            .await
            .unwrap(),
        1
    );
    let denied = client.fail("probe.blob_put", &binding).await.unwrap();
    assert_eq!(denied["kind"], "capability-denied");
    // Nor for another binding.
    let other = json!({ "binding": "other", "statement": "SELECT 1" });
    let denied = client.fail("probe.sql_run", &other).await.unwrap();
    assert_eq!(denied["kind"], "capability-denied");

    // Taken back, it works no longer.
    let path = "/grants?subject=probe&capability=sql&binding=default";
    let revoked = client.request(Method::DELETE, path).send().await.unwrap();
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
    let denied = client
        .fail("probe.sql_run", &run("SELECT 1"))
        .await
        .unwrap();
    assert_eq!(denied["kind"], "capability-denied");
    Client::refused(
        client.request(Method::DELETE, path).send().await.unwrap(),
        StatusCode::NOT_FOUND,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_name_what_there_is() {
    let server = Server::start().await.unwrap();
    let put = |capability: &str, binding: &str, mode: &str| {
        let body = json!({ "subject": "probe", "capability": capability, "binding": binding, "mode": mode });
        server
            .client
            .request(Method::PUT, "/grants")
            .json(&body)
            .send()
    };
    for (capability, binding, mode, told) in [
        ("graph", "default", "rw", "blob, kv, sql"),
        ("sql", "nope", "rw", "are: default"),
        ("sql", "default", "all", "`ro` or `rw`"),
    ] {
        let response = put(capability, binding, mode).await.unwrap();
        let problem = Client::refused(response, StatusCode::BAD_REQUEST).await;
        assert!(
            problem["detail"].as_str().unwrap().contains(told),
            "{problem}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_grant_reads() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    let binding = json!({ "binding": "default" });
    client.succeed("probe.blob_put", &binding).await.unwrap();
    client
        .succeed("probe.sql_run", &run("CREATE TABLE t (n INTEGER)"))
        .await
        .unwrap();
    client
        .succeed("probe.sql_run", &run("INSERT INTO t VALUES (1)"))
        .await
        .unwrap();
    client.succeed("probe.kv_count", &binding).await.unwrap();
    for capability in ["sql", "blob", "kv"] {
        client
            .grant("probe", capability, "default", Some("ro"))
            .await
            .unwrap();
    }
    assert_eq!(client.succeed("probe.blob_get", &binding).await.unwrap(), 1);
    assert_eq!(
        client
            .succeed("probe.sql_run", &run("SELECT * FROM t"))
            .await
            .unwrap(),
        1
    );
    let count = client.succeed("probe.kv_get", &json!("default")).await;
    assert_eq!(count.unwrap(), "1");
    for writes in ["probe.blob_put", "probe.kv_count"] {
        let denied = client.fail(writes, &binding).await.unwrap();
        assert_eq!(denied["kind"], "capability-denied", "{writes}");
    }
    for statement in [
        "INSERT INTO t VALUES (2)",
        "DELETE FROM t",
        "DROP TABLE t",
        "CREATE TABLE u (n)",
    ] {
        let denied = client.fail("probe.sql_run", &run(statement)).await.unwrap();
        assert_eq!(denied["kind"], "capability-denied", "{statement}");
    }
    assert_eq!(
        client
            .succeed("probe.sql_run", &run("SELECT * FROM t"))
            .await
            .unwrap(),
        1
    );
}

/// The guest finds so many parts of a contract kept, and its receipt has at least this
/// much in these counters.
async fn keeps(activity: &str, parts: u64, counters: &[&str], least: u64) {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    let id = client.start_activity(activity, &Value::Null).await.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.body["result"], parts, "{}", outcome.body);
    let receipts = client.receipts(&id).await.unwrap();
    let counted = receipts[0]["counters"].as_object().unwrap();
    for name in counters {
        assert!(
            counted
                .get(*name)
                .is_some_and(|count| count.as_u64() >= Some(least)),
            "{name} in {counted:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_does_what_its_wit_promises() {
    keeps("probe.sql_contract", 7, &["sql.calls", "sql.rows"], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_does_what_its_wit_promises() {
    let counters = ["blob.bytes_read", "blob.bytes_written"];
    keeps("probe.blob_contract", 5, &counters, 5_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kv_does_what_its_wit_promises() {
    let counters = ["kv.calls", "kv.bytes_read", "kv.bytes_written"];
    keeps("probe.kv_contract", 6, &counters, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_addition_under_the_idempotency_key_counts_once_in_many_attempts() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    let count = |once: bool| json!({ "binding": "default", "lost": 2, "once": once });
    let id = client
        .start_activity("probe.kv_count", &count(true))
        .await
        .unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.body["result"], 1, "{}", outcome.body);
    assert_eq!(client.receipts(&id).await.unwrap().len(), 3);
    // Another activity counts again, and without a name each attempt does.
    let again = client.succeed("probe.kv_count", &count(true)).await;
    assert_eq!(again.unwrap(), 2);
    let each = client.succeed("probe.kv_count", &count(false)).await;
    assert_eq!(each.unwrap(), 5);
    // What was answered survives a kill.
    let server = server.kill_and_restart(Options::default()).await.unwrap();
    let found = server
        .client
        .succeed("probe.kv_get", &json!("default"))
        .await;
    assert_eq!(found.unwrap(), "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_ends_with_its_attempt() {
    let server = probe::server(Options::default()).await.unwrap();
    let client = &server.client;
    for (end, status) in [
        ("fail", "Failed"),
        ("panic", "Failed"),
        ("forget", "Completed"),
    ] {
        let outcome = client
            .activity("probe.sql_abandon", &json!(end))
            .await
            .unwrap();
        assert_eq!(outcome.status, status, "{}", outcome.body);
        let rows = client
            .succeed("probe.sql_run", &run("SELECT * FROM abandoned"))
            .await
            .unwrap();
        assert_eq!(rows, 0, "after {end}");
        // Nobody holds the database any more.
        let insert = run("INSERT INTO abandoned SELECT 1 WHERE false");
        client.succeed("probe.sql_run", &insert).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_leave_the_database_are_denied() {
    let server = probe::server(Options::default()).await.unwrap();
    let outside = server.data().join("outside.db");
    for statement in [
        format!("ATTACH DATABASE '{}' AS x", outside.display()),
        format!("VACUUM INTO '{}'", outside.display()),
        "SELECT load_extension('x')".to_owned(),
        "PRAGMA journal_mode = DELETE".to_owned(),
        "PRAGMA writable_schema = 1".to_owned(),
    ] {
        let failure = server
            .client
            .fail("probe.sql_run", &run(&statement))
            .await
            .unwrap();
        assert_eq!(
            failure["kind"], "capability-denied",
            "{statement}: {failure}"
        );
    }
    assert!(!outside.exists());
}
