//! Each backend's server is stopped while attempts use it, and started again: an attempt fails as
//! retryable and says why, others go on meanwhile, and what waited is done when it is back.
//! PostgreSQL under `sql` and Neo4j have tests of their own (`capabilities::`, `graph::away`).

use serde_json::{Value, json};

use crate::support::google_storage::GoogleStorage;
use crate::support::postgres::Postgres;
use crate::support::probe;
use crate::support::s3::Gateway;
use crate::support::server::{Client, Options};
use crate::support::weaviate::Weaviate;

/// How many attempts are under way while it is away.
const RUNS: usize = 10;

/// A server, and an activity that uses it.
struct Backend<'a> {
    capability: &'static str,
    binding: &'static str,
    /// Members of the binding's table.
    toml: String,
    activity: &'static str,
    input: Value,
    /// Kills the server (true), or launches it again.
    server: Box<dyn FnMut(bool) + 'a>,
}

/// Calls an activity until it can be done, for as long as a server may take to start.
fn patient(name: &str, activity: &str) -> String {
    format!(
        "document: {{dsl: '1.0.3', namespace: away, name: {name}, version: 1.0.0}}\n\
         do:\n\
         - ask:\n    \
             call: {activity}\n    \
             metadata:\n      \
               heyday:\n        \
                 retry: {{initial_interval: PT0.1S, maximum_interval: PT0.5S, maximum_attempts: 1000}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_that_is_away_holds_up_is_done_when_it_is_back() {
    let mut postgres = Postgres::start(&[]);
    let (mut gateway, mut google) = (Gateway::start(), GoogleStorage::start());
    let mut weaviate = Weaviate::start();
    // Those that there are here.
    let mut backends = Vec::new();
    if let Some(postgres) = &mut postgres {
        backends.push(Backend {
            capability: "kv",
            binding: "away",
            toml: postgres.role(&postgres.database()).toml(),
            activity: "probe.kv_count",
            input: json!({ "binding": "away", "once": true }),
            server: Box::new(move |kill| {
                if kill {
                    postgres.kill();
                } else {
                    postgres.launch();
                }
            }),
        });
    }
    if let Some(gateway) = &mut gateway {
        backends.push(Backend {
            capability: "blob",
            binding: "away",
            toml: gateway.toml("away"),
            activity: "probe.blob_put",
            input: json!({ "binding": "away" }),
            server: Box::new(move |kill| {
                if kill {
                    gateway.emulator.kill();
                } else {
                    gateway.emulator.launch();
                }
            }),
        });
    }
    if let Some(google) = &mut google {
        backends.push(Backend {
            capability: "blob",
            binding: "google",
            toml: google.toml("away"),
            activity: "probe.blob_put",
            input: json!({ "binding": "google" }),
            server: Box::new(move |kill| {
                if kill {
                    google.emulator.kill();
                } else {
                    google.emulator.launch();
                }
            }),
        });
    }
    if let Some(weaviate) = &mut weaviate {
        backends.push(Backend {
            capability: "vector",
            binding: "away",
            toml: weaviate.toml(),
            activity: "probe.vector_put",
            input: json!("away"),
            server: Box::new(move |kill| {
                if kill {
                    weaviate.kill();
                } else {
                    weaviate.launch();
                }
            }),
        });
    }
    let mut config = String::new();
    for Backend {
        capability,
        binding,
        toml,
        ..
    } in &backends
    {
        config += &format!("[bindings.namespaces.default.{capability}.{binding}]\n{toml}");
    }
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let server = probe::server(options).await.unwrap();
    for backend in backends {
        goes_and_returns(&server.client, backend).await;
    }
}

async fn goes_and_returns(client: &Client, backend: Backend<'_>) {
    let Backend {
        capability,
        binding,
        activity,
        input,
        mut server,
        ..
    } = backend;
    client
        .grant("probe", capability, binding, None)
        .await
        .unwrap();
    let name = format!("{capability}-{binding}");
    let pushed = client.push_flow(&patient(&name, activity)).await;
    Client::ok(pushed.unwrap()).await.unwrap();
    let flow = format!("away.{name}");
    client.succeed(activity, &input).await.unwrap();

    // Some of these are at the server when it is killed.
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(client.start(&flow, &input).await.unwrap());
    }
    tokio::task::block_in_place(|| server(true));
    let once = client.start(&flow, &input).await.unwrap();
    let failure = failed_attempt(client, &once).await;
    let told = format!("{name}: {failure}");
    assert_eq!(failure["kind"], "unavailable", "{told}");
    assert_eq!(failure["retryable"], true, "{told}");
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("reach"), "{told}");
    // Others are served by the same queue, and by other bindings of the capability.
    client.works().await;
    let here: Value = match &input {
        Value::String(_) => json!("default"),
        _ => json!({ "binding": "default" }),
    };
    client.succeed(activity, &here).await.unwrap();

    tokio::task::block_in_place(|| server(false));
    runs.push(once);
    let mut results = Vec::new();
    for id in runs {
        let outcome = client.result(&id).await.unwrap();
        assert_eq!(outcome.status, "Completed", "{name}: {}", outcome.body);
        results.push(outcome.body["result"].clone());
    }
    if activity == "probe.kv_count" {
        // Each added one, in however many attempts, and was told of its own.
        results.sort_unstable_by_key(Value::as_i64);
        let each: Vec<_> = (2_u64..).map(Value::from).take(results.len()).collect();
        assert_eq!(results, each, "{name}");
        let count = client.succeed("probe.kv_get", &json!(binding)).await;
        assert_eq!(count.unwrap(), (1 + each.len()).to_string(), "{name}");
    }
}

/// The failure of an attempt of a run that goes on.
async fn failed_attempt(client: &Client, id: &str) -> Value {
    let deadline = std::time::Instant::now() + crate::support::server::PATIENCE;
    loop {
        let run = client.get(&format!("/workflows/{id}")).await.unwrap();
        let failure = &run["pending_activities"][0]["last_failure"];
        if failure.is_object() {
            return failure.clone();
        }
        assert!(std::time::Instant::now() < deadline, "none failed: {run}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
