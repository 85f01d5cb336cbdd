//! A backend that hangs fills its own places, never the queue: each server in turn, with more
//! attempts on it than the queue has slots; and one with as many places as it has by default,
//! on each queue.

use std::cell::RefCell;
use std::net::SocketAddr;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::emulator::Emulator;
use crate::support::google_storage::GoogleStorage;
use crate::support::neo4j;
use crate::support::postgres::{Postgres, Session};
use crate::support::probe;
use crate::support::s3::Gateway;
use crate::support::server::{Client, Options};
use crate::support::weaviate::Weaviate;

/// Places of each binding; as many again may wait for one.
const PLACES: usize = 2;
/// Slots of the general queue.
const SLOTS: usize = 12;
/// Attempts on a backend that hangs: more than the queue has slots.
const ATTEMPTS: usize = 18;

/// A backend, and what hangs there.
struct Slow<'a> {
    capability: &'static str,
    binding: &'static str,
    /// As a member of a binding's table.
    toml: String,
    activity: &'static str,
    input: Value,
    /// Stops it, or lets it go on; none where the call itself takes its time.
    freeze: Option<Box<dyn Fn(bool) + 'a>>,
}

/// An address that takes connections, and never says anything.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            taken.push(stream);
        }
    });
    address
}

fn on_binding(statement: &str) -> Value {
    json!({ "binding": "slow", "statement": statement })
}

/// As a member of a binding's table.
fn connections() -> String {
    format!("limits = {{ connections = {PLACES} }}\n")
}

/// What waits in a PostgreSQL server: a statement that takes its time, and entries that
/// another session has locked.
fn databases<'a>(postgres: &'a Postgres, locked: &'a RefCell<Option<Session>>) -> [Slow<'a>; 2] {
    let entries = postgres.database();
    let store = postgres.role(&entries);
    let toml = store.toml() + &connections();
    let lock = move |frozen: bool| {
        let lock = format!(
            "BEGIN; LOCK TABLE {}.heyday_kv_entries IN ACCESS EXCLUSIVE MODE;",
            store.name
        );
        *locked.borrow_mut() = frozen.then(|| postgres.session(&entries, &lock));
    };
    [
        Slow {
            capability: "sql",
            binding: "slow",
            toml: postgres.role(&postgres.database()).toml() + &connections(),
            activity: "probe.sql_run",
            input: on_binding("SELECT pg_sleep(600)"),
            freeze: None,
        },
        Slow {
            capability: "kv",
            binding: "slow",
            toml,
            activity: "probe.kv_get",
            input: json!("slow"),
            freeze: Some(Box::new(lock)),
        },
    ]
}

/// What waits for a store of objects that is stopped.
fn bucket<'a>(
    binding: &'static str,
    activity: &'static str,
    toml: &str,
    store: &'a Emulator,
) -> Slow<'a> {
    // Of a bucket they are no limit but a member of its table.
    let open = toml.trim_end().trim_end_matches('}');
    Slow {
        capability: "blob",
        binding,
        toml: format!("{open}, connections = {PLACES} }}\n"),
        activity,
        input: json!({ "binding": binding }),
        freeze: Some(Box::new(move |frozen| {
            store.signal(if frozen { libc::SIGSTOP } else { libc::SIGCONT });
        })),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_hangs_fills_its_own_places_and_not_the_queue() {
    let postgres = Postgres::start(&[]);
    let (gateway, google) = (Gateway::start(), GoogleStorage::start());
    let (neo4j, weaviate) = (neo4j::shared().await, Weaviate::start());
    let locked = RefCell::new(None);
    // Those that there are here.
    let mut table = Vec::new();
    if let Some(postgres) = &postgres {
        table.extend(databases(postgres, &locked));
    }
    if let Some(gateway) = &gateway {
        table.extend(["slow", "streamed"].map(|binding| {
            let reads = match binding {
                "slow" => "probe.blob_get",
                _ => "probe.blob_stream",
            };
            bucket(binding, reads, &gateway.toml(binding), &gateway.emulator)
        }));
    }
    if let Some(google) = &google {
        let toml = google.toml("slow");
        table.push(bucket("google", "probe.blob_get", &toml, &google.emulator));
    }
    if let Some(neo4j) = &neo4j {
        table.push(Slow {
            capability: "graph",
            binding: "slow",
            toml: neo4j.toml() + &connections(),
            activity: "probe.graph_run",
            input: on_binding("RETURN 1"),
            freeze: Some(Box::new(move |frozen| neo4j.freeze(frozen))),
        });
    }
    if let Some(weaviate) = &weaviate {
        table.push(Slow {
            capability: "vector",
            binding: "slow",
            toml: format!(
                "{}limits = {{ concurrent_calls = {PLACES} }}\n",
                weaviate.toml()
            ),
            activity: "probe.vector_count",
            input: json!("slow"),
            freeze: Some(Box::new(move |frozen| {
                if frozen {
                    weaviate.freeze();
                } else {
                    weaviate.thaw();
                }
            })),
        });
    }
    let mut config =
        format!("[queues]\ngeneral-queue = {SLOTS}\n[limits.call]\ncancel_grace_ms = 100\n");
    for slow in &table {
        let Slow {
            capability,
            binding,
            toml,
            ..
        } = slow;
        config += &format!("[bindings.namespaces.default.{capability}.{binding}]\n{toml}");
    }
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let server = probe::server(options).await.unwrap();
    for slow in &table {
        let client = &server.client;
        let granted = client.grant("probe", slow.capability, slow.binding, None);
        granted.await.unwrap();
    }
    if postgres.is_some() {
        // Its tables are made at its first use.
        let nothing = server.client.succeed("probe.kv_get", &json!("slow")).await;
        assert_eq!(nothing.unwrap(), Value::Null);
    }
    for slow in &table {
        hang(&server.client, slow).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_defaults_a_backend_that_hangs_leaves_a_slot_of_every_queue() {
    let address = silent().await;
    let config = format!(
        "[limits.call]\ncancel_grace_ms = 100\n\
         [bindings.namespaces.default.blob.slow.s3]\n\
         bucket = 'slow'\nendpoint = 'http://{address}'\n\
         access_key_id = 'a'\nsecret_access_key_env = 'TEST_KEY'\n"
    );
    let options = Options {
        config: Some(config),
        environment: vec![("TEST_KEY".to_owned(), "b".to_owned())],
        ..Options::default()
    };
    let server = probe::server(options).await.unwrap();
    let client = &server.client;
    client.grant("probe", "blob", "slow", None).await.unwrap();
    for (queue, slots) in [
        ("ai-processing-queue", 5),
        ("storage-queue", 20),
        ("general-queue", 50),
    ] {
        let (slow, input) = (
            format!("probe.blob_get?queue={queue}"),
            json!({ "binding": "slow" }),
        );
        let starting = (0..2 * slots).map(|_| client.start_activity(&slow, &input));
        let started = futures::future::try_join_all(starting).await.unwrap();
        let other = format!("probe.add?queue={queue}");
        let sum = client.succeed(&other, &json!({ "a": 1, "b": 2 })).await;
        assert_eq!(sum.unwrap()["sum"], 3, "{queue}");
        // It had its turn while those waited who had a place. On a busy machine the first of them
        // may have given up by then, as the store keeps silent; where all slots were theirs, nobody
        // would be told that it is busy.
        let (mut waiting, mut busy) = (0, 0);
        for id in &started {
            let run = client.get(&format!("/workflows/{id}")).await.unwrap();
            if run["status"] == "Running" {
                waiting += 1;
                continue;
            }
            let outcome = client.result(id).await.unwrap();
            let failure = &outcome.body["failure"]["cause"];
            assert_eq!(failure["kind"], "unavailable", "{queue}: {failure}");
            assert_eq!(failure["retryable"], true, "{queue}: {failure}");
            let message = failure["message"].as_str().unwrap_or_default();
            busy += usize::from(message.contains("busy"));
        }
        assert!(waiting > 0 && busy > 0, "{queue}: {waiting} {busy}");
        for id in &started {
            // Some have ended.
            let _ = client.cancel(id).await;
        }
        for id in &started {
            client.result(id).await.unwrap();
        }
    }
}

async fn hang(client: &Client, slow: &Slow<'_>) {
    let capability = slow.capability;
    if let Some(freeze) = &slow.freeze {
        freeze(true);
    }
    // All at once: those with a place give it up after a while.
    let starting = (0..ATTEMPTS).map(|_| client.start_activity(slow.activity, &slow.input));
    let started = futures::future::try_join_all(starting).await.unwrap();
    let mut results: FuturesUnordered<_> = started
        .iter()
        .map(|id| async move { (id, client.result(id).await.unwrap()) })
        .collect();
    // All but those with a place, and those that wait for one, are told at once.
    let mut without = 0;
    for _ in 0..ATTEMPTS - 2 * PLACES {
        let (_, outcome) = results.next().await.expect("further ones");
        let failure = &outcome.body["failure"]["cause"];
        assert_eq!(failure["kind"], "unavailable", "{capability}: {failure}");
        assert_eq!(failure["retryable"], true, "{capability}: {failure}");
        let message = failure["message"].as_str().unwrap_or_default();
        // A graph that was not connected to before the freeze is known to be away, later on; and
        // a bucket's silence is over for who has a place, where a busy machine lets the others
        // take as long.
        let full = ["free", "busy", "in use"];
        let full = full.iter().any(|word| message.contains(word));
        let away = ["graph", "blob"].contains(&capability) && message.contains("cannot be reached");
        assert!(full || away, "{capability}: {failure}");
        without += usize::from(full);
    }
    // If all slots were theirs, hardly anybody would be without a place.
    let most = capability == "graph" || without > ATTEMPTS / 2;
    assert!(most, "{capability}: {without} had no place");
    // The queue has slots for everybody else, also for other backends of the capability.
    client.works().await;
    let here = json!({ "binding": "default", "statement": "SELECT 1" });
    let here = client.succeed("probe.sql_run", &here).await;
    assert_eq!(here.unwrap(), 1, "{capability}");
    match &slow.freeze {
        Some(freeze) => freeze(false),
        None => {
            for id in &started {
                // Most have ended.
                let _ = client.cancel(id).await;
            }
        }
    }
    while results.next().await.is_some() {}
    client.works().await;
}
