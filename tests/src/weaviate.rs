//! The vector capability on the real Weaviate, without a guest in between: what bindings
//! cannot reach, how well it finds, and what happens when the server is away or slow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heyday_capabilities::ErrorCode as _;
use heyday_capabilities::vector::sqlite::SqliteVectors;
use heyday_capabilities::vector::weaviate::{WeaviateConfig, WeaviateVectors};
use heyday_capabilities::vector::{
    Distance, Entry, Filter, Found, Order, Property, PropertyType, Query, Specification, Store,
    Target, Value, VectorCode, VectorError, VectorLimits, Want,
};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::support::certificates::{Authority, Files};
use crate::support::front::Front;
use crate::support::server::PATIENCE;
use crate::support::weaviate::{self, Weaviate};

fn open(config: &WeaviateConfig, full: &str, limits: VectorLimits) -> WeaviateVectors {
    WeaviateVectors::new(config, full, false, limits, Handle::current()).expect("a configuration")
}

/// A binding of its own.
fn binding(config: &WeaviateConfig, limits: VectorLimits) -> WeaviateVectors {
    open(config, &uuid::Uuid::new_v4().to_string(), limits)
}

/// A store in a folder and a binding of its own, to be compared; none without a server.
fn both() -> Option<(TempDir, SqliteVectors, WeaviateVectors)> {
    let config = weaviate::shared()?.config();
    let folder = tempfile::tempdir().expect("a folder");
    let limits = VectorLimits::default;
    let path = folder.path().join("v.db");
    let here = SqliteVectors::new(&path, false, limits(), Handle::current()).expect("a store");
    Some((folder, here, binding(&config, limits())))
}

fn specification(dimensions: u32) -> Specification {
    let property = |name: &str, kind, searchable| Property {
        name: name.to_owned(),
        kind,
        filterable: true,
        searchable,
    };
    Specification {
        dimensions,
        distance: Distance::Cosine,
        properties: vec![
            property("text", PropertyType::Text, true),
            property("number", PropertyType::Integer, false),
            property("real", PropertyType::Real, false),
            property("flag", PropertyType::Boolean, false),
            property("list", PropertyType::TextList, false),
        ],
        tenants: false,
    }
}

async fn target(store: &dyn Store, name: &str, dimensions: u32) -> Target {
    let made = store.create(name.to_owned(), specification(dimensions));
    made.await.expect("made");
    let found = store.find(name.to_owned()).await.expect("read");
    Target {
        collection: Arc::new(found.expect("it is there")),
        tenant: None,
    }
}

fn entry(id: impl Into<String>, vector: Vec<f32>) -> Entry {
    Entry {
        id: id.into(),
        vector: Some(vector),
        values: vec![None; 5],
    }
}

fn query(limit: u32, filter: Option<Filter>) -> Query {
    Query {
        limit,
        filter,
        want: Want::default(),
    }
}

fn ids(found: Vec<Found>) -> Vec<String> {
    found.into_iter().map(|found| found.entry.id).collect()
}

#[track_caller]
fn code<T: std::fmt::Debug>(outcome: Result<T, VectorError>) -> VectorCode {
    outcome.expect_err("it must not be done").code
}

/// Tries until it is done, for a moment or longer.
async fn until_done<T>(mut attempt: impl AsyncFnMut() -> Result<T, VectorError>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(answer) => return answer,
            Err(error) => {
                // Also too late, on a busy machine.
                assert!(error.code.retryable(), "{error}");
                assert!(Instant::now() < deadline, "{error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_on_one_server_reach_nothing_of_each_other() {
    let Some(config) = weaviate::shared().map(|server| server.config()) else {
        return;
    };
    // Each name is the other's with a part moved.
    let of = |prefix: &str| {
        let config = WeaviateConfig {
            prefix: Some(prefix.to_owned()),
            ..config.clone()
        };
        open(&config, "n/vector/b", VectorLimits::default())
    };
    let (one, other) = (of("iso"), of("iso1"));
    let (ours, theirs) = (target(&one, "a-b", 2).await, target(&other, "a-b", 2).await);
    let names: Vec<String> = ["a-b", "1-a-b", "b"].map(str::to_owned).to_vec();
    one.upsert(&ours, vec![entry("same", vec![1.0, 0.0])])
        .await
        .expect("written");
    assert_eq!(other.count(&theirs, None).await, Ok(0));
    assert_eq!(other.delete(&theirs, vec!["same".to_owned()]).await, Ok(0));
    for name in &names[1..] {
        assert_eq!(one.find(name.clone()).await, Ok(None), "{name}");
        assert_eq!(other.drop_collection(name.clone()).await, Ok(false));
    }
    assert_eq!(one.collections().await, Ok(vec!["a-b".to_owned()]));
    assert_eq!(other.drop_collection("a-b".to_owned()).await, Ok(true));
    assert_eq!(other.collections().await, Ok(Vec::new()));
    assert_eq!(one.count(&ours, None).await, Ok(1));
    // What is written just when its collection is dropped makes none again.
    let error = other.upsert(&theirs, vec![entry("late", vec![1.0, 0.0])]);
    assert_eq!(code(error.await), VectorCode::NotFound);
    assert_eq!(other.find("a-b".to_owned()).await, Ok(None));
    target(&other, "a-b", 3).await;
    let error = other.upsert(&theirs, vec![entry("late", vec![1.0, 0.0])]);
    assert_eq!(code(error.await), VectorCode::NotFound);
    for store in [&one, &other] {
        let dropped = store.drop_collection("a-b".to_owned()).await;
        assert_eq!(dropped, Ok(true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_used_again() {
    let Some(mut server) = Weaviate::start() else {
        return;
    };
    let limits = VectorLimits {
        // Who waits for a turn gives up long before those who have one, also on a busy machine:
        // else it would get theirs.
        call_timeout_ms: 6_000,
        busy_timeout_ms: 1_000,
        concurrent_calls: 2,
        ..VectorLimits::default()
    };
    let full = uuid::Uuid::new_v4().to_string();
    let store = open(&server.config(), &full, limits);
    // The same binding, which waits as long as a busy machine takes.
    let patient = open(&server.config(), &full, VectorLimits::default());
    let target = target(&patient, "c", 2).await;
    let write = || store.upsert(&target, vec![entry("a", vec![1.0, 0.0])]);
    until_done(async || write().await).await;
    server.kill();
    for _ in 0..3 {
        let outcomes: [Result<(), VectorError>; 3] = [
            write().await,
            store.count(&target, None).await.map(|_| ()),
            store.collections().await.map(|_| ()),
        ];
        for outcome in outcomes {
            let error = outcome.expect_err("the server is gone");
            assert_eq!(error.code, VectorCode::Unavailable, "{error}");
            assert!(error.message.contains("cannot be reached"), "{error}");
        }
    }
    server.launch();
    until_done(async || write().await).await;
    assert_eq!(
        until_done(async || store.count(&target, None).await).await,
        1
    );

    // One that answers nothing holds up its own calls only, and not for long.
    server.freeze();
    let began = Instant::now();
    let calls = (0..6).map(|_| store.count(&target, None));
    let outcomes = futures::future::join_all(calls).await;
    assert!(began.elapsed() < Duration::from_secs(60));
    let codes: Vec<VectorCode> = outcomes.into_iter().map(code).collect();
    let count = |code| codes.iter().filter(|it| **it == code).count();
    assert_eq!(count(VectorCode::Timeout), 2, "{codes:?}");
    // Two waited for a turn in vain, the others not at all.
    assert_eq!(count(VectorCode::Unavailable), 4, "{codes:?}");
    server.thaw();
    assert_eq!(
        until_done(async || store.count(&target, None).await).await,
        1
    );

    // The key may change while it runs.
    let count = || patient.count(&target, None);
    assert_eq!(until_done(async || count().await).await, 1);
    std::fs::write(&server.key_file, "not-the-key").unwrap();
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        match count().await {
            Ok(_) => assert!(Instant::now() < deadline, "the key is not read again"),
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(error.code, VectorCode::Unavailable, "{error}");
    assert!(!format!("{error:?}").contains("not-the-key"), "{error:?}");
    let error = patient.collections().await.expect_err("by REST neither");
    assert_eq!(error.code, VectorCode::Unavailable, "{error}");
    std::fs::write(&server.key_file, &server.key).unwrap();
    assert_eq!(until_done(async || count().await).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_right_is_refused_and_another_binding_goes_on() {
    let Some((config, reader, nobody)) = weaviate::shared().map(|server| {
        let others = (
            server.reader_key_file.clone(),
            server.nobody_key_file.clone(),
        );
        (server.config(), others.0, others.1)
    }) else {
        return;
    };
    let of = |key_file| {
        let config = WeaviateConfig {
            api_key_file: Some(key_file),
            ..config.clone()
        };
        open(&config, "n/vector/rights", VectorLimits::default())
    };
    let owner = open(&config, "n/vector/rights", VectorLimits::default());
    let target = target(&owner, "c", 2).await;
    let items = || vec![entry("a", vec![1.0, 0.0])];
    owner.upsert(&target, items()).await.expect("written");
    let (reader, nobody) = (of(reader), of(nobody));
    assert_eq!(reader.count(&target, None).await, Ok(1));
    let other = reader.create("other".to_owned(), specification(2));
    for refused in [
        reader.upsert(&target, items()).await,
        reader.delete(&target, vec!["a".to_owned()]).await.map(drop),
        reader.drop_collection("c".to_owned()).await.map(drop),
        other.await.map(drop),
        nobody.count(&target, None).await.map(drop),
    ] {
        let error = refused.expect_err("no right");
        assert_eq!(error.code, VectorCode::Unavailable, "{error}");
        assert!(
            error.message.contains("does not let the host in"),
            "{error}"
        );
    }
    // Weaviate shows nobody what he may not read.
    assert_eq!(nobody.collections().await, Ok(Vec::new()));
    assert_eq!(owner.count(&target, None).await, Ok(1));
    assert_eq!(owner.drop_collection("c".to_owned()).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_certificate_is_verified() {
    let Some(config) = weaviate::shared().map(|server| server.config()) else {
        return;
    };
    let (authority, other) = (Authority::new("weaviate"), Authority::new("other"));
    let (trusted, distrusted) = (Files::new(&authority), Files::new(&other));
    let certificate = authority.issue("server");
    let grpc = config.grpc_url.clone().expect("it is said");
    let grpc = Front::start(grpc.trim_start_matches("http://"), &certificate, None).await;
    let rest = config.url.trim_start_matches("http://");
    let rest = Front::of_bytes(rest, &certificate).await;
    let through = |files: &Files| WeaviateConfig {
        url: format!("https://{}", rest.address()),
        grpc_url: Some(format!("https://{}", grpc.address())),
        tls_server_ca_cert_path: Some(files.ca()),
        ..config.clone()
    };
    let store = open(&through(&trusted), "n/vector/tls", VectorLimits::default());
    let target = target(&store, "tls", 2).await;
    let written = store.upsert(&target, vec![entry("a", vec![1.0, 0.0])]);
    written.await.expect("written by TLS");
    assert_eq!(store.count(&target, None).await, Ok(1));
    let deceived = open(
        &through(&distrusted),
        "n/vector/tls",
        VectorLimits::default(),
    );
    let outcome = deceived.count(&target, None).await;
    assert_eq!(code(outcome), VectorCode::Unavailable);
    assert_eq!(code(deceived.collections().await), VectorCode::Unavailable);
    assert_eq!(store.drop_collection("tls".to_owned()).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_is_deleted_than_the_server_deletes_at_once() {
    let Some(config) = weaviate::shared().map(|server| server.config()) else {
        return;
    };
    let store = binding(&config, VectorLimits::default());
    let target = target(&store, "many", 1).await;
    for batch in 0..3 {
        let entries = (0..1_000).map(|number| Entry {
            vector: None,
            ..entry(format!("{batch}-{number}"), Vec::new())
        });
        store
            .upsert(&target, entries.collect())
            .await
            .expect("written");
    }
    let filter = Filter::Not(Box::new(Filter::Equal(1, Value::Integer(0))));
    assert_eq!(store.delete_where(&target, filter).await, Ok(3_000));
    assert_eq!(store.count(&target, None).await, Ok(0));
    assert_eq!(store.drop_collection("many".to_owned()).await, Ok(true));
}

/// A filter of any form, over few values, so that each passes some.
fn any_filter(random: &mut SmallRng, levels: u32) -> Filter {
    let text = |random: &mut SmallRng| {
        let texts = ["", "a", " a", "A", "a b", "\"a\"", "*"];
        Value::Text(texts[random.random_range(0..texts.len())].to_owned())
    };
    let integer = |random: &mut SmallRng| Value::Integer(random.random_range(-2..3));
    let order = |random: &mut SmallRng| {
        let orders = [
            Order::Less,
            Order::LessOrEqual,
            Order::Greater,
            Order::GreaterOrEqual,
        ];
        orders[random.random_range(0..4)]
    };
    let kinds = if levels == 0 { 8 } else { 11 };
    match random.random_range(0..kinds) {
        0 => Filter::Equal(0, text(random)),
        1 => Filter::Equal(1, integer(random)),
        2 => Filter::Ordered(1, order(random), integer(random)),
        3 => Filter::Ordered(
            2,
            order(random),
            Value::Real(random.random_range(-1.0..1.0)),
        ),
        4 => Filter::Equal(3, Value::Boolean(random.random())),
        5 => Filter::Equal(4, text(random)),
        6 => Filter::Missing(random.random_range(0..5)),
        7 => {
            let count = random.random_range(0..4);
            let number = [0, 1, 4][random.random_range(0..3)];
            let values = (0..count).map(|_| match number {
                1 => integer(random),
                _ => text(random),
            });
            Filter::OneOf(number, values.collect())
        }
        8 => Filter::Not(Box::new(any_filter(random, levels - 1))),
        kind => {
            let count = random.random_range(0..4);
            let parts = (0..count).map(|_| any_filter(random, levels - 1)).collect();
            if kind == 9 {
                Filter::All(parts)
            } else {
                Filter::Any(parts)
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_filter_passes_the_same_as_on_the_embedded_store() {
    let Some((_folder, here, there)) = both() else {
        return;
    };
    let targets = (
        target(&here, "same", 2).await,
        target(&there, "same", 2).await,
    );
    let random = &mut SmallRng::seed_from_u64(7);
    let mut entries = Vec::new();
    for number in 0..200 {
        // The values are those that filters ask for.
        let mut values = vec![None; 5];
        while random.random_bool(0.8) {
            match any_filter(random, 0) {
                Filter::Equal(4, Value::Text(text)) => {
                    let list = match values[4].take() {
                        Some(Value::TextList(mut list)) => {
                            list.push(text);
                            list
                        }
                        _ => vec![text],
                    };
                    values[4] = Some(Value::TextList(list));
                }
                Filter::OneOf(4, _) => values[4] = Some(Value::TextList(Vec::new())),
                Filter::Equal(of, value) | Filter::Ordered(of, _, value) => {
                    values[of] = Some(value);
                }
                _ => {}
            }
        }
        let angle = number as f32;
        entries.push(Entry {
            values,
            ..entry(format!("i{number}"), vec![angle.cos(), angle.sin()])
        });
    }
    here.upsert(&targets.0, entries.clone()).await.unwrap();
    there.upsert(&targets.1, entries.clone()).await.unwrap();
    let all = Want {
        properties: (0..5).collect(),
        vectors: true,
    };
    let names: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
    let kept = there.get(&targets.1, names, all).await.unwrap();
    assert!(kept.into_iter().flatten().eq(entries), "as it was written");
    let mut passed = 0;
    for _ in 0..300 {
        let filter = any_filter(random, 3);
        let asked = || query(1_000, Some(filter.clone()));
        let one = here.nearest(&targets.0, vec![1.0, 0.0], None, asked());
        let other = there.nearest(&targets.1, vec![1.0, 0.0], None, asked());
        let (one, other) = (one.await.unwrap(), other.await.unwrap());
        passed += one.len();
        let sorted = |found| {
            let mut ids = ids(found);
            ids.sort();
            ids
        };
        assert_eq!(sorted(one), sorted(other), "{filter:?}");
    }
    assert!(passed > 5_000, "{passed}: the filters pass next to nothing");
    there.drop_collection("same".to_owned()).await.unwrap();
}

/// Some words, of which a few are common; or none.
fn any_text(random: &mut SmallRng) -> Option<Value> {
    let count = random.random_range(0..25);
    let words = (0..count).map(|_| {
        let most = random.random_range(1..30);
        format!("Word{}", random.random_range(0..most))
    });
    let text = words.collect::<Vec<_>>().join(", ");
    random.random_bool(0.8).then_some(Value::Text(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_tenants_are_scored_as_on_the_embedded_store() {
    let Some((_folder, here, there)) = both() else {
        return;
    };
    let stores: [&dyn Store; 2] = [&here, &there];
    let searchable = |name: &str| Property {
        name: name.to_owned(),
        kind: PropertyType::Text,
        filterable: false,
        searchable: true,
    };
    let specification = Specification {
        dimensions: 1,
        distance: Distance::Dot,
        properties: vec![searchable("title"), searchable("body")],
        tenants: true,
    };
    let tenants = [("one", 60), ("two", 200), ("three", 5)];
    let random = &mut SmallRng::seed_from_u64(13);
    let mut collections = Vec::new();
    for store in stores {
        let made = store.create("words".to_owned(), specification.clone());
        made.await.unwrap();
        let found = store.find("words".to_owned()).await.unwrap();
        collections.push(Arc::new(found.expect("it is there")));
    }
    let target = |store: usize, tenant: &str| Target {
        collection: Arc::clone(&collections[store]),
        tenant: Some(tenant.to_owned()),
    };
    for (tenant, count) in tenants {
        let entries = (0..count).map(|number| Entry {
            id: format!("i{number}"),
            vector: None,
            values: vec![any_text(random), any_text(random)],
        });
        let entries: Vec<Entry> = entries.collect();
        for (number, store) in stores.into_iter().enumerate() {
            let target = target(number, tenant);
            store.upsert(&target, entries.clone()).await.unwrap();
        }
    }
    let mut compared = 0;
    for _ in 0..100 {
        let (tenant, _) = tenants[random.random_range(0..3)];
        let first = random.random_range(0..28);
        let words = (first..=first + random.random_range(0..4)).map(|it| format!("word{it}"));
        let words: Vec<String> = words.collect();
        let choices: [&[usize]; 3] = [&[0, 1], &[0], &[1]];
        let properties = choices[random.random_range(0..3)];
        let mut answers = Vec::new();
        for (number, store) in stores.into_iter().enumerate() {
            let target = target(number, tenant);
            let all = query(1_000, None);
            let found = store.keywords(&target, words.clone(), properties.to_vec(), all);
            let found = found.await.unwrap();
            assert!(
                found.is_sorted_by(|one, other| one.number >= other.number),
                "the best comes first"
            );
            let scores = found.into_iter().map(|it| (it.entry.id, it.number));
            answers.push(scores.collect::<BTreeMap<String, f32>>());
        }
        let [here, there] = &answers[..] else {
            unreachable!("two stores");
        };
        assert_eq!(here.len(), there.len(), "{tenant} {words:?} {properties:?}");
        for (id, score) in here {
            let other = there[id];
            assert!(
                (score - other).abs() < 1e-4,
                "{tenant} {words:?} {properties:?}: {id} {score}, there {other}"
            );
            compared += 1;
        }
    }
    assert!(compared > 1_000, "{compared}");
    there.drop_collection("words".to_owned()).await.unwrap();
}

/// Vectors around some centres, as embeddings are: the same each time.
fn clustered(count: usize, dimensions: usize, random: &mut SmallRng) -> Vec<Vec<f32>> {
    let centres: Vec<Vec<f32>> = (0..40)
        .map(|_| {
            (0..dimensions)
                .map(|_| random.random_range(-1.0..1.0))
                .collect()
        })
        .collect();
    (0..count)
        .map(|_| {
            let centre = &centres[random.random_range(0..centres.len())];
            let numbers = centre.iter();
            numbers
                .map(|number| number + random.random_range(-0.4..0.4))
                .collect()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_ten_nearest_it_finds_nearly_all() {
    let Some((_folder, exact, store)) = both() else {
        return;
    };
    let (of_exact, of_store) = (
        target(&exact, "recall", 64).await,
        target(&store, "recall", 64).await,
    );
    let mut random = SmallRng::seed_from_u64(11);
    let mut vectors = clustered(4_050, 64, &mut random);
    let asked = vectors.split_off(4_000);
    let entries = vectors.into_iter().enumerate();
    let entries: Vec<Entry> = entries
        .map(|(number, vector)| entry(number.to_string(), vector))
        .collect();
    for batch in entries.chunks(1_000) {
        exact.upsert(&of_exact, batch.to_vec()).await.unwrap();
        store.upsert(&of_store, batch.to_vec()).await.unwrap();
    }
    let (mut found, mut all) = (0, 0);
    for vector in asked {
        let right = exact.nearest(&of_exact, vector.clone(), None, query(10, None));
        let right = ids(right.await.unwrap());
        let told = store.nearest(&of_store, vector, None, query(10, None));
        let told = ids(told.await.unwrap());
        found += right.iter().filter(|id| told.contains(id)).count();
        all += right.len();
    }
    let recall = found as f64 / all as f64;
    assert!(recall >= 0.95, "recall@10 is {recall}");
    store.drop_collection("recall".to_owned()).await.unwrap();
}
