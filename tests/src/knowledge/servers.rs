//! The example over this repository's own documentation and made-up texts, embedded and on
//! PostgreSQL, Neo4j, Weaviate and an S3 gateway at once: both answer the same.
//!
//! The search asks the store for the 400 nearest passages, and Weaviate's HNSW keeps 1,000
//! candidates for that. The documentation alone has some 220: all of them would be among
//! these, and nothing could be missed. So there are 3,000 more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use heyday_capabilities::blob::s3::S3Container;
use heyday_capabilities::blob::{BlobLimits, Condition, Container as _};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{embedded, start, synchronize, write};
use crate::support::s3::Gateway;
use crate::support::server::{Options, Server};
use crate::support::{neo4j, postgres, repository, weaviate};

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

/// What Weaviate keeps as candidates of one search, at most (`MOST_CANDIDATES` of its schema).
const CANDIDATES: u64 = 1_000;

/// Made-up documents, the passages of each, and questions of the same words. A word stands in
/// some twenty passages; fewer than the search asks for have a word of a question.
const DOCUMENTS: usize = 3;
const PAGES: usize = 1_000;
const WORDS: usize = 2_000;
const MADE_UP: usize = 10;

/// How much two fused scores may differ that are the same: a place more or less in the ranks
/// of vectors, whose distances stores round differently, or the last of these ranks or none.
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

/// Documents and questions of words that no language has, the same each time. Each page is a
/// passage; without names and dates they cost the graph little.
fn made_up() -> (Vec<String>, Vec<String>) {
    const CONSONANTS: &[u8] = b"bdfgklnprstvz";
    const VOWELS: &[u8] = b"aeiou";
    let mut random = SmallRng::seed_from_u64(17);
    let mut words: Vec<String> = Vec::with_capacity(WORDS);
    for _ in 0..WORDS {
        let letters = (0..3).flat_map(|_| {
            [CONSONANTS, VOWELS].map(|of| char::from(of[random.random_range(0..of.len())]))
        });
        words.push(letters.collect());
    }
    let mut line = |least: usize, most: usize| -> String {
        let count = random.random_range(least..=most);
        let chosen = (0..count).map(|_| words[random.random_range(0..WORDS)].as_str());
        chosen.collect::<Vec<_>>().join(" ")
    };
    let mut documents = Vec::with_capacity(DOCUMENTS);
    for _ in 0..DOCUMENTS {
        let pages: Vec<String> = (0..PAGES).map(|_| line(8, 20)).collect();
        documents.push(pages.join("\u{c}"));
    }
    let questions = (0..MADE_UP).map(|_| line(3, 5)).collect();
    (documents, questions)
}

/// The repository's documentation, one document of each kind, and made-up ones.
fn documents(folder: &Path) {
    write(folder);
    for (number, text) in made_up().0.iter().enumerate() {
        std::fs::write(folder.join(format!("made-up-{number}.txt")), text).unwrap();
    }
    let docs = repository().join("docs");
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

fn places(found: &Found) -> Vec<(String, u64)> {
    found.iter().map(|(place, _)| place.clone()).collect()
}

/// The same passages: those that one has and the other lacks were as good as the last one.
fn assert_alike(question: &str, one: &Found, other: &Found) {
    for (found, against) in [(one, other), (other, one)] {
        let last = found.last().map_or(0.0, |(_, score)| *score);
        let there: BTreeSet<_> = places(against).into_iter().collect();
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

/// Whether the servers' index finds nearly all of the nearest passages, of so many that it does
/// not look at each.
async fn assert_near(local: &Server, remote: &Server) {
    let input = json!({});
    let overview = local.client.succeed("index.overview", &input).await;
    let passages = overview.unwrap()["passages"].as_u64().unwrap();
    assert!(passages > 3 * CANDIDATES, "only {passages} passages");
    let (_, made_up) = made_up();
    let made_up = made_up.iter().map(String::as_str);
    let (mut right, mut all) = (0, 0);
    for question in QUESTIONS.into_iter().chain(made_up) {
        // The embedded store compares with every vector.
        let exact = places(&ask(local, question, "vector").await);
        let found = places(&ask(remote, question, "vector").await);
        let found: BTreeSet<_> = found.into_iter().collect();
        right += exact.iter().filter(|place| found.contains(*place)).count();
        all += exact.len();
    }
    assert_eq!(all, (QUESTIONS.len() + MADE_UP) * TOP);
    assert!(right * 100 >= all * 95, "{right} of {all}");
}

/// Whether both answer the same to everything, and know the same of these documents.
async fn assert_equal(local: &Server, remote: &Server, keys: &[String]) {
    // First what says why a document is missing.
    let failures = async |server: &Server| {
        let listed = server.client.succeed("index.failures", &json!({})).await;
        listed.unwrap()
    };
    assert_eq!(failures(local).await, failures(remote).await);
    assert_near(local, remote).await;
    for question in QUESTIONS {
        // Words are counted alike for every store.
        let (one, other) = (
            ask(local, question, "text").await,
            ask(remote, question, "text").await,
        );
        assert_eq!(places(&one), places(&other), "{question}");
        for ((_, one), (_, other)) in one.iter().zip(&other) {
            assert!((one - other).abs() < 1e-9, "{question}: {one} {other}");
        }
        let (one, other) = (
            ask(local, question, "hybrid").await,
            ask(remote, question, "hybrid").await,
        );
        assert_alike(question, &one, &other);
    }
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
