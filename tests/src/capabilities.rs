//! Capabilities over the real server: nothing without a grant, all that the WIT promises
//! with one. The guest asserts; here stand its grants and what it may not do.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::backends::{backends, with_backends};
use crate::support::component;
use crate::support::postgres::{Postgres, until};
use crate::support::probe;
use crate::support::server::{Client, Options, Server};

fn run(statement: &str) -> Value {
    on("default", statement)
}

fn on(binding: &str, statement: &str) -> Value {
    json!({ "binding": binding, "statement": statement })
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
        ("probe.graph_run", run("RETURN 1")),
        ("probe.vector_put", json!("default")),
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
        ("queue", "default", "rw", "blob, graph, kv, sql, vector"),
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

/// What a grant to read lets through and what it refuses, of each capability whose writes are
/// calls of their own: what reads, what it answers, and what writes.
fn read_only(
    capability: &str,
    binding: &str,
) -> (&'static str, Value, Value, Vec<(&'static str, Value)>) {
    let named = json!({ "binding": binding });
    match capability {
        "sql" => {
            let statements = [
                "INSERT INTO t VALUES (2)",
                "UPDATE t SET n = 2",
                "DELETE FROM t",
                "DROP TABLE t",
                "CREATE TABLE u (n INTEGER)",
            ];
            let writes = statements.map(|statement| ("probe.sql_run", on(binding, statement)));
            let reads = on(binding, "SELECT * FROM t");
            ("probe.sql_run", reads, json!(1), writes.into())
        }
        "blob" => {
            let address =
                json!({ "binding": binding, "key": "a", "put": true, "lasts_ms": 60_000 });
            let writes = vec![
                ("probe.blob_put", named.clone()),
                ("probe.blob_stream", named.clone()),
                ("probe.blob_presign", address),
            ];
            ("probe.blob_get", named, json!(1), writes)
        }
        "kv" => {
            let writes = vec![("probe.kv_count", named)];
            ("probe.kv_get", json!(binding), json!("1"), writes)
        }
        _ => {
            let writes = vec![("probe.vector_put", json!(binding))];
            ("probe.vector_count", json!(binding), json!(1), writes)
        }
    }
}

/// Of `graph` it is in the tests of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_grant_reads_and_writes_nothing_on_each_backend() {
    let (server, _held) = with_backends(&["sql", "blob", "kv", "vector"]).await;
    let client = &server.client;
    for capability in ["sql", "blob", "kv", "vector"] {
        for (binding, backend) in backends(client, capability).await {
            let told = format!("{capability} on {backend}");
            let first = match capability {
                "sql" => {
                    let table = on(&binding, "CREATE TABLE t (n INTEGER)");
                    client.succeed("probe.sql_run", &table).await.unwrap();
                    ("probe.sql_run", on(&binding, "INSERT INTO t VALUES (1)"))
                }
                "blob" => ("probe.blob_put", json!({ "binding": binding })),
                "kv" => ("probe.kv_count", json!({ "binding": binding })),
                _ => ("probe.vector_put", json!(binding)),
            };
            client.succeed(first.0, &first.1).await.unwrap();
            let granted = client.grant("probe", capability, &binding, Some("ro"));
            granted.await.unwrap();
            let (reads, input, answer, writes) = read_only(capability, &binding);
            assert_eq!(
                client.succeed(reads, &input).await.unwrap(),
                answer,
                "{told}"
            );
            for (activity, input) in writes {
                let denied = client.fail(activity, &input).await.unwrap();
                assert_eq!(
                    denied["kind"], "capability-denied",
                    "{told}: {activity} of {input}"
                );
            }
            assert_eq!(
                client.succeed(reads, &input).await.unwrap(),
                answer,
                "{told}"
            );
        }
    }
}

/// The guest finds so many parts of a contract kept, and its receipt has at least this
/// much in these counters. Answers all of them.
async fn keeps(
    client: &Client,
    activity: &str,
    input: &Value,
    parts: u64,
    counted: Counted<'_>,
) -> Value {
    let id = client.start_activity(activity, input).await.unwrap();
    let outcome = client.result(&id).await.unwrap();
    assert_eq!(outcome.body["result"], parts, "{input}: {}", outcome.body);
    let receipts = client.receipts(&id).await.unwrap();
    let counters = receipts[0]["counters"].as_object().unwrap();
    let Counted(names, least) = counted;
    for name in names {
        assert!(
            counters
                .get(*name)
                .is_some_and(|count| count.as_u64() >= Some(least)),
            "{name} in {counters:?}"
        );
    }
    receipts[0]["counters"].clone()
}

/// Counters, and what each has at least.
struct Counted<'a>(&'a [&'static str], u64);

#[tokio::test(flavor = "multi_thread")]
async fn sql_does_what_its_wit_promises() {
    let (server, _held) = with_backends(&["sql"]).await;
    for (binding, dialect) in backends(&server.client, "sql").await {
        let input = json!({ "binding": binding, "dialect": dialect });
        let counted = Counted(&["sql.calls", "sql.rows"], 1);
        let counters = keeps(&server.client, "probe.sql_contract", &input, 8, counted).await;
        // It writes 10,000 numbers of 8 bytes, each with a text of as many or more, and reads
        // all the numbers.
        let bytes = |name: &str| counters[name].as_u64();
        assert!(bytes("sql.bytes_written") >= Some(160_000), "{counters}");
        assert!(bytes("sql.bytes_read") >= Some(80_000), "{counters}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_does_what_its_wit_promises() {
    let (server, _held) = with_backends(&["blob"]).await;
    for (binding, _) in backends(&server.client, "blob").await {
        let counted = Counted(&["blob.bytes_read", "blob.bytes_written"], 5_000_000);
        let binding = json!({ "binding": binding });
        keeps(&server.client, "probe.blob_contract", &binding, 7, counted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kv_does_what_its_wit_promises() {
    let (server, _held) = with_backends(&["kv"]).await;
    for (binding, _) in backends(&server.client, "kv").await {
        let counted = Counted(&["kv.calls", "kv.bytes_read", "kv.bytes_written"], 1);
        let binding = json!(binding);
        keeps(&server.client, "probe.kv_contract", &binding, 6, counted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vector_does_what_its_wit_promises() {
    let (server, _held) = with_backends(&["vector"]).await;
    for (binding, _) in backends(&server.client, "vector").await {
        let counted = Counted(
            &[
                "vector.calls",
                "vector.items_read",
                "vector.items_written",
                "vector.bytes_read",
                "vector.bytes_written",
            ],
            100,
        );
        let binding = json!(binding);
        keeps(
            &server.client,
            "probe.vector_contract",
            &binding,
            9,
            counted,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn graph_does_what_its_wit_promises() {
    let (server, _held) = with_backends(&["graph"]).await;
    for (binding, dialect) in backends(&server.client, "graph").await {
        let input = json!({ "binding": binding, "dialect": dialect });
        let counted = Counted(
            &[
                "graph.calls",
                "graph.rows",
                "graph.bytes_read",
                "graph.bytes_written",
            ],
            101,
        );
        keeps(&server.client, "probe.graph_contract", &input, 8, counted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_addition_under_the_idempotency_key_counts_once_in_many_attempts() {
    let (server, _held) = with_backends(&["kv"]).await;
    let client = &server.client;
    let bindings = backends(client, "kv").await;
    for (binding, _) in &bindings {
        let count = |once: bool| json!({ "binding": binding, "lost": 2, "once": once });
        let id = client
            .start_activity("probe.kv_count", &count(true))
            .await
            .unwrap();
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(outcome.body["result"], 1, "{binding}: {}", outcome.body);
        assert_eq!(client.receipts(&id).await.unwrap().len(), 3);
        // Another activity counts again, and without a name each attempt does.
        let again = client.succeed("probe.kv_count", &count(true)).await;
        assert_eq!(again.unwrap(), 2);
        let each = client.succeed("probe.kv_count", &count(false)).await;
        assert_eq!(each.unwrap(), 5);
    }
    // What was answered survives a kill.
    let config = std::fs::read_to_string(server.data().join("test-config.toml")).unwrap();
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let server = server.kill_and_restart(options).await.unwrap();
    for (binding, _) in &bindings {
        let found = server.client.succeed("probe.kv_get", &json!(binding)).await;
        assert_eq!(found.unwrap(), "5", "{binding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_under_the_idempotency_key_happens_once_in_many_attempts() {
    let (server, _held) = with_backends(&["sql"]).await;
    let bindings = backends(&server.client, "sql").await;
    for (binding, _) in &bindings {
        let client = &server.client;
        let once = |lost| json!({ "binding": binding, "lost": lost });
        let id = client
            .start_activity("probe.sql_once", &once(2))
            .await
            .unwrap();
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(outcome.body["result"], 1, "{}", outcome.body);
        assert_eq!(client.receipts(&id).await.unwrap().len(), 3);
        // Another activity has its own.
        assert_eq!(client.succeed("probe.sql_once", &once(0)).await.unwrap(), 2);
        let all = on(binding, "SELECT * FROM counted");
        assert_eq!(client.succeed("probe.sql_run", &all).await.unwrap(), 2);
    }
    // The process is killed between effect and answer.
    let mut killed = Vec::new();
    for (binding, _) in &bindings {
        let client = &server.client;
        let hang = json!({ "binding": binding, "lost": 0, "hang": true });
        let id = client
            .start_activity("probe.sql_once", &hang)
            .await
            .unwrap();
        client.wait_for_line(&id, "committed").await.unwrap();
        killed.push((binding, id));
    }
    let config = std::fs::read_to_string(server.data().join("test-config.toml")).unwrap();
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let server = server.kill_and_restart(options).await.unwrap();
    for (binding, id) in killed {
        let outcome = server.client.result(&id).await.unwrap();
        assert_eq!(outcome.body["result"], 3, "{binding}: {}", outcome.body);
        let all = on(binding, "SELECT * FROM counted");
        let all = server.client.succeed("probe.sql_run", &all).await;
        assert_eq!(all.unwrap(), 3, "{binding}");
    }
}

/// Writes under the idempotency key; each answers how many of them there are. Of `sql` and
/// `graph` they have tests of their own.
const ONCE: [(&str, &str); 3] = [
    ("kv", "probe.kv_count"),
    ("blob", "probe.blob_once"),
    ("vector", "probe.vector_once"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_write_under_the_idempotency_key_is_there_once_though_attempts_are_lost() {
    let (server, _held) = with_backends(&["kv", "blob", "vector"]).await;
    let mut all = Vec::new();
    for (capability, activity) in ONCE {
        for (binding, _) in backends(&server.client, capability).await {
            all.push((activity, binding));
        }
    }
    let mut killed = Vec::new();
    for (activity, binding) in &all {
        let client = &server.client;
        let lost = json!({ "binding": binding, "once": true, "lost": 2 });
        let id = client.start_activity(activity, &lost).await.unwrap();
        let outcome = client.result(&id).await.unwrap();
        let told = format!("{activity} on {binding}: {}", outcome.body);
        assert_eq!(outcome.body["result"], 1, "{told}");
        assert_eq!(client.receipts(&id).await.unwrap().len(), 3, "{told}");
        let hang = json!({ "binding": binding, "once": true, "hang": true });
        let id = client.start_activity(activity, &hang).await.unwrap();
        client.wait_for_line(&id, "committed").await.unwrap();
        killed.push(id);
    }
    let config = std::fs::read_to_string(server.data().join("test-config.toml")).unwrap();
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let server = server.kill_and_restart(options).await.unwrap();
    for ((activity, binding), id) in all.iter().zip(killed) {
        let outcome = server.client.result(&id).await.unwrap();
        let told = format!("{activity} on {binding}: {}", outcome.body);
        assert_eq!(outcome.body["result"], 2, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_ends_with_its_attempt() {
    let (server, _held) = with_backends(&["sql"]).await;
    let client = &server.client;
    for (binding, _) in backends(client, "sql").await {
        for (end, status) in [
            ("fail", "Failed"),
            ("panic", "Failed"),
            ("forget", "Completed"),
        ] {
            let input = json!({ "binding": binding, "end": end });
            let outcome = client.activity("probe.sql_abandon", &input).await.unwrap();
            assert_eq!(outcome.status, status, "{}", outcome.body);
            let select = on(&binding, "SELECT * FROM abandoned");
            let rows = client.succeed("probe.sql_run", &select).await.unwrap();
            assert_eq!(rows, 0, "after {end} on {binding}");
            // Nobody holds the database any more.
            let insert = on(&binding, "INSERT INTO abandoned SELECT 1 WHERE false");
            client.succeed("probe.sql_run", &insert).await.unwrap();
        }
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

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_waited_for_and_holds_up_nothing_else() {
    let Some(mut postgres) = Postgres::start(&[]) else {
        return;
    };
    let database = postgres.database();
    let role = postgres.role(&database);
    let options = Options {
        config: Some(format!(
            "[bindings.namespaces.default.sql.away]\n{}",
            role.toml()
        )),
        ..Options::default()
    };
    let server = probe::server(options).await.unwrap();
    let client = &server.client;
    client.grant("probe", "sql", "away", None).await.unwrap();
    let select = on("away", "SELECT 1");
    assert_eq!(client.succeed("probe.sql_run", &select).await.unwrap(), 1);
    postgres.kill();
    let failure = client.fail("probe.sql_run", &select).await.unwrap();
    assert_eq!(failure["kind"], "unavailable", "{failure}");
    assert_eq!(failure["retryable"], true, "{failure}");
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("cannot be reached"), "{message}");
    let mut patient = Vec::new();
    for _ in 0..20 {
        let started = client.start_activity("probe.sql_patient", &select).await;
        patient.push(started.unwrap());
    }
    // Others are served meanwhile, by the same queue.
    client.works().await;
    client
        .succeed("probe.sql_run", &run("SELECT 1"))
        .await
        .unwrap();
    postgres.launch();
    for id in patient {
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(outcome.body["result"], 1, "{}", outcome.body);
    }
    // Where it does not let the host in, nobody is told by what.
    std::fs::write(&role.password_file, "not-the-password").unwrap();
    postgres.kill();
    postgres.launch();
    let failure = client.fail("probe.sql_run", &select).await.unwrap();
    assert_eq!(failure["kind"], "unavailable", "{failure}");
    assert!(
        !failure.to_string().contains("not-the-password"),
        "{failure}"
    );
    let log = server.log();
    assert!(log.contains("PostgreSQL cannot be used"), "{log}");
    for secret in ["not-the-password", role.password.as_str()] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_on_the_server_with_its_attempt() {
    let Some(postgres) = Postgres::start(&[]) else {
        return;
    };
    let database = postgres.database();
    let options = Options {
        config: Some(format!(
            "[limits.call]\ncancel_grace_ms = 100\n\
             [bindings.namespaces.default.sql.slow]\n{}limits = {{ statement_timeout_ms = 600000 }}\n",
            postgres.role(&database).toml()
        )),
        ..Options::default()
    };
    let server = probe::server(options).await.unwrap();
    let client = &server.client;
    client.grant("probe", "sql", "slow", None).await.unwrap();
    let running = || {
        let count = "SELECT count(*) FROM pg_stat_activity \
                     WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'";
        postgres.psql("postgres", count)
    };
    let sleep = on("slow", "SELECT pg_sleep(600)");
    let start = async || {
        let id = client
            .start_activity("probe.sql_long", &sleep)
            .await
            .unwrap();
        tokio::task::block_in_place(|| until("it runs", || running() == "1"));
        id
    };
    let id = start().await;
    client.cancel(&id).await.unwrap();
    tokio::task::block_in_place(|| until("it was cancelled", || running() == "0"));
    assert_eq!(client.result(&id).await.unwrap().status, "Canceled");
    // And with its grant.
    let id = start().await;
    let path = "/grants?subject=probe&capability=sql&binding=slow";
    let revoked = client.request(Method::DELETE, path).send().await.unwrap();
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
    tokio::task::block_in_place(|| until("it was cancelled", || running() == "0"));
    let outcome = client.result(&id).await.unwrap();
    let kind = &outcome.body["failure"]["cause"]["kind"];
    assert_eq!(kind, "capability-denied", "{}", outcome.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_with_a_password_in_its_address_is_refused_without_telling_it() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        config: Some(
            "[bindings.namespaces.default.sql.main]\n\
             postgres = { url = 'postgres://r:hunter2@localhost/d' }\n"
                .to_owned(),
        ),
        ..Options::default()
    };
    let error = Server::on(folder.path(), options).await.err().unwrap();
    let told = format!("{error:#}");
    assert!(told.contains("password_file"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}
