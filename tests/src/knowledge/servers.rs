//! The example over this repository's own documentation, embedded and on PostgreSQL, Neo4j,
//! Weaviate and an S3 gateway at once: both answer the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use heyday_capabilities::blob::s3::S3Container;
use heyday_capabilities::blob::{BlobLimits, Condition, Container as _};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{embedded, start, synchronize, write};
use crate::support::s3::Gateway;
use crate::support::server::{Options, Server};
use crate::support::{neo4j, postgres, weaviate};

/// What is asked by words, by vectors and by both.
const QUESTIONS: [&str; 20] = [
    "what survives a crash",
    "grant a plugin a binding",
    "\"idempotency key\"",
    "retry policy of an activity",
    "cancel a run",
    "how many attempts",
    "neo4j constraint",
    "vectors per second",
    "signal with a deadline",
    "PostgreSQL role and schema",
    "presigned objects in a bucket",
    "limits of memory",
    "schedule every hour",
    "worker that was lost",
    "replay under another version",
    "secret in a log",
    "lighthouses",
    "rotor balance",
    "東京",
    "anchor holds the ship",
];

/// Items that count in recall.
const TOP: usize = 10;

/// How much two fused scores may differ that are the same: a place more or less in the ranks
/// of vectors, whose distances stores round differently.
const NEAR: f64 = 5e-4;

/// The bucket's two prefixes, and the server in front of all four.
struct Set {
    server: Server,
    documents: S3Container,
    work: S3Container,
    // Kept as long as the server needs them.
    _gateway: Gateway,
    _neo4j: neo4j::Shared,
}

impl Set {
    /// On the four servers; `None` where one is missing.
    async fn new() -> Option<Self> {
        // First the one that only one test has at a time: whoever waited for it and kept
        // another would let every test wait that makes something on that one.
        let neo4j = neo4j::shared().await?;
        let gateway = Gateway::start()?;
        let weaviate = weaviate::shared()?.toml();
        let role = {
            let postgres = postgres::shared()?;
            postgres.role(&postgres.database())
        };
        let binding = |capability: &str, name: &str, toml: &str| {
            format!("[bindings.namespaces.default.{capability}.{name}]\n{toml}")
        };
        let config = [
            binding("blob", "documents", &gateway.toml("documents/")),
            binding("blob", "work", &gateway.toml("work/")),
            binding("sql", "knowledge", &role.toml()),
            binding("vector", "knowledge", &weaviate),
            binding("graph", "knowledge", &neo4j.toml()),
        ];
        let options = Options {
            config: Some(config.concat()),
            ..Options::default()
        };
        let server = start(options).await;
        // The last one may have left something.
        let outcome = server.client.run("knowledge.reset", &Value::Null).await;
        assert_eq!(outcome.unwrap().status, "Completed");
        let open = |prefix: &str| {
            let config = gateway.config(prefix);
            let limits = BlobLimits::default();
            S3Container::new(&config, false, limits, Handle::current()).expect("a configuration")
        };
        Some(Self {
            server,
            documents: open("documents/"),
            work: open("work/"),
            _gateway: gateway,
            _neo4j: neo4j,
        })
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        let put = self
            .documents
            .put(key.to_owned(), Bytes::from(bytes), Condition::Always);
        put.await.unwrap();
    }
}

/// The repository's documentation and one document of each kind.
fn documents(folder: &Path) {
    write(folder);
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for entry in std::fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "md") {
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// The keys of a folder's files, with their paths.
fn files(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let key = path.strip_prefix(folder).unwrap();
                found.push((key.to_str().unwrap().to_owned(), path));
            }
        }
    }
    found.sort();
    found
}

/// A passage that was found, and its score.
type Found = Vec<((String, u64), f64)>;

async fn ask(server: &Server, text: &str, mode: &str) -> Found {
    let input = json!({ "text": text, "mode": mode, "limit": TOP });
    let found = super::flow(server, input).await;
    let place = |hit: &Value| {
        let key = hit["key"].as_str().unwrap().to_owned();
        let place = (key, hit["position"].as_u64().unwrap());
        (place, hit["score"].as_f64().unwrap())
    };
    found.iter().map(place).collect()
}

/// The same passages: those that one has and the other lacks were as good as the last one.
fn assert_alike(question: &str, one: &Found, other: &Found) {
    let places = |found: &Found| -> BTreeSet<(String, u64)> {
        found.iter().map(|(place, _)| place.clone()).collect()
    };
    for (found, against) in [(one, other), (other, one)] {
        let last = found.last().map_or(0.0, |(_, score)| *score);
        let there = places(against);
        for (place, score) in found {
            assert!(
                there.contains(place) || score - last < NEAR,
                "{question}: {place:?} with {score}, in {found:?} but not in {against:?}"
            );
        }
        assert!(
            found.windows(2).all(|pair| pair[0].1 >= pair[1].1),
            "{found:?}"
        );
    }
}

/// Whether both answer the same to everything, and know the same of these documents.
async fn assert_equal(local: &Server, remote: &Server, keys: &[String]) {
    // First what says why a document is missing.
    let failures = async |server: &Server| {
        let listed = server.client.succeed("index.failures", &json!({})).await;
        listed.unwrap()
    };
    assert_eq!(failures(local).await, failures(remote).await);
    let (mut right, mut all) = (0, 0);
    for question in QUESTIONS {
        // Words are counted alike for every store.
        let (one, other) = (
            ask(local, question, "text").await,
            ask(remote, question, "text").await,
        );
        let places = |found: &Found| -> Vec<(String, u64)> {
            found.iter().map(|(place, _)| place.clone()).collect()
        };
        assert_eq!(places(&one), places(&other), "{question}");
        for ((_, one), (_, other)) in one.iter().zip(&other) {
            assert!((one - other).abs() < 1e-9, "{question}: {one} {other}");
        }
        // The embedded store compares with every vector.
        let exact = ask(local, question, "vector").await;
        let found = ask(remote, question, "vector").await;
        let found: BTreeSet<_> = places(&found).into_iter().collect();
        right += places(&exact)
            .iter()
            .filter(|place| found.contains(*place))
            .count();
        all += exact.len();
        let (one, other) = (
            ask(local, question, "hybrid").await,
            ask(remote, question, "hybrid").await,
        );
        assert_alike(question, &one, &other);
    }
    assert_eq!(all, QUESTIONS.len() * TOP);
    assert!(right * 100 >= all * 95, "{right} of {all}");
    for key in keys {
        let (one, other) = (
            super::mentioned(local, key).await,
            super::mentioned(remote, key).await,
        );
        assert_eq!(one, other, "{key}");
    }
    for question in ["PostgreSQL and Neo4j", "Ada Lovelace", "workflow runs"] {
        let input = json!({ "text": question, "limit": 50 });
        let one = local.client.succeed("entities.related", &input).await;
        let other = remote.client.succeed("entities.related", &input).await;
        assert_eq!(one.unwrap(), other.unwrap(), "{question}");
    }
    let overview = async |server: &Server| {
        let input = json!({});
        server.client.succeed("index.overview", &input).await
    };
    let (one, other) = (
        overview(local).await.unwrap(),
        overview(remote).await.unwrap(),
    );
    assert_eq!(one, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_servers_answer_as_none() {
    let Some(set) = Set::new().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("documents");
    documents(&local);
    let server = start(embedded(folder.path())).await;
    let all = files(&local);
    for (key, path) in &all {
        set.put(key, std::fs::read(path).unwrap()).await;
    }
    let seen = json!({"seen": all.len(), "started": all.len(), "removed": 0});
    assert_eq!(synchronize(&server).await, seen);
    assert_eq!(synchronize(&set.server).await, seen);
    let keys: Vec<String> = all.iter().map(|(key, _)| key.clone()).collect();
    assert_equal(&server, &set.server, &keys).await;
    let nothing = json!({"seen": all.len(), "started": 0, "removed": 0});
    assert_eq!(synchronize(&set.server).await, nothing);

    // One is changed, one comes, two go.
    let text = "# Errors\n\nAda Lovelace wrote in Bergen about rotors and their balance.\n";
    for name in ["errors.md", "new.md"] {
        std::fs::write(local.join(name), format!("{text}{name}\n")).unwrap();
        set.put(name, format!("{text}{name}\n").into_bytes()).await;
    }
    for name in ["flows.md", "deep/er/page.html"] {
        std::fs::remove_file(local.join(name)).unwrap();
        set.documents.delete(name.to_owned()).await.unwrap();
    }
    let seen = json!({"seen": all.len() - 1, "started": 2, "removed": 2});
    assert_eq!(synchronize(&server).await, seen);
    assert_eq!(synchronize(&set.server).await, seen);
    let mut keys = keys;
    keys.push("new.md".to_owned());
    assert_equal(&server, &set.server, &keys).await;
    for server in [&server, &set.server] {
        let found = super::mentioned(server, "flows.md").await;
        assert_eq!(found["entities"], json!([]), "{found}");
        let found = super::mentioned(server, "errors.md").await;
        assert!(found.to_string().contains("name:bergen"), "{found}");
        let found = ask(server, "schema.resource", "text").await;
        assert!(found.iter().all(|((key, _), _)| key != "flows.md"));
    }
    // Objects of the same names, which are made of the documents' keys.
    let page = set.work.list("text/".to_owned(), 1_000, None).await;
    let objects: BTreeSet<String> = page.unwrap().objects.into_iter().map(|o| o.key).collect();
    let files: BTreeSet<String> = files(&folder.path().join("work"))
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(objects, files);
}
