use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::sqlite::SqliteVectors;
use super::{
    Collection, Distance, Entry, Filter, Property, PropertyType, Query, Specification, Store,
    Target, Value, VectorCode, VectorError, VectorLimits, Want,
};

fn store(path: &Path, limits: VectorLimits) -> SqliteVectors {
    SqliteVectors::new(path, false, limits, Handle::current()).expect("a store")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn specification(dimensions: u32) -> Specification {
    Specification {
        dimensions,
        distance: Distance::Cosine,
        properties: vec![Property {
            name: "text".to_owned(),
            kind: PropertyType::Text,
            filterable: true,
            searchable: true,
        }],
        tenants: false,
    }
}

async fn target(store: &SqliteVectors, dimensions: u32) -> Target {
    let made = store.create("c".to_owned(), specification(dimensions));
    made.await.expect("made");
    let found = store.find("c".to_owned()).await.expect("read");
    Target {
        collection: Arc::new(found.expect("it is there")),
        tenant: None,
    }
}

fn entry(id: impl Into<String>, vector: Vec<f32>, text: &str) -> Entry {
    Entry {
        id: id.into(),
        vector: Some(vector),
        values: vec![Some(Value::Text(text.to_owned()))],
    }
}

fn query(limit: u32) -> Query {
    Query {
        limit,
        filter: None,
        want: Want::default(),
    }
}

/// Vectors in all directions, the same each time.
fn vectors(count: usize, dimensions: usize) -> Vec<Vec<f32>> {
    let mut state = 7_u64;
    let mut number = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count)
        .map(|_| (0..dimensions).map(|_| number()).collect())
        .collect()
}

async fn fill(store: &SqliteVectors, target: &Target, vectors: Vec<Vec<f32>>) {
    let entries = vectors.into_iter().enumerate();
    let entries: Vec<Entry> = entries
        .map(|(number, vector)| entry(format!("i{number}"), vector, "some text"))
        .collect();
    store.upsert(target, entries).await.expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_makes_a_collection_and_an_id_is_one_item() {
    let folder = folder();
    let store = Arc::new(store(&folder.path().join("v.db"), VectorLimits::default()));
    let makers = (0..8).map(|_| store.create("c".to_owned(), specification(2)));
    let made = futures::future::join_all(makers).await;
    let made: Vec<bool> = made.into_iter().map(|it| it.expect("made")).collect();
    assert_eq!(made.iter().filter(|made| **made).count(), 1, "{made:?}");
    let target = target(&store, 2).await;
    let writers = (0..20).map(|number| {
        let (store, target) = (Arc::clone(&store), target.clone());
        async move {
            let both = vec![
                entry("same", vec![1.0, number as f32], "one rotor"),
                entry(format!("own-{number}"), vec![0.0, 1.0], "bread"),
            ];
            store.upsert(&target, both).await
        }
    });
    for written in futures::future::join_all(writers).await {
        written.expect("written");
    }
    assert_eq!(store.count(&target, None).await, Ok(21));
    let found = store.keywords(&target, vec!["rotor".to_owned()], vec![0], query(100));
    assert_eq!(found.await.expect("found").len(), 1);
    let found = store.nearest(&target, vec![1.0, 0.0], None, query(100));
    assert_eq!(found.await.expect("found").len(), 21);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_ended_and_what_nobody_waits_for_too() {
    let folder = folder();
    let path = folder.path().join("v.db");
    let patient = store(&path, VectorLimits::default());
    let target = target(&patient, 2_048).await;
    fill(&patient, &target, vectors(2_000, 2_048)).await;
    let limits = VectorLimits {
        call_timeout_ms: 1,
        ..VectorLimits::default()
    };
    let hasty = SqliteVectors::new(&path, true, limits, Handle::current()).expect("a store");
    let search = hasty.nearest(&target, vec![0.1; 2_048], None, query(10));
    let error = search.await.expect_err("in a millisecond");
    assert_eq!(error.code, VectorCode::Timeout, "{error}");
    assert!(error.message.contains("1 ms"), "{error}");
    for pause in 0..40 {
        let search = patient.nearest(&target, vec![0.1; 2_048], None, query(10));
        let _ = tokio::time::timeout(Duration::from_micros(pause * 50), search).await;
        let write = patient.delete_where(&target, Filter::Missing(0));
        let _ = tokio::time::timeout(Duration::from_micros(pause * 50), write).await;
    }
    // Every connection serves again.
    let searches = (0..8).map(|_| patient.nearest(&target, vec![0.1; 2_048], None, query(10)));
    for found in futures::future::join_all(searches).await {
        assert_eq!(found.expect("found").len(), 10);
    }
    let more = vec![entry("more", vec![1.0; 2_048], "more")];
    patient.upsert(&target, more).await.expect("written");
    assert_eq!(patient.count(&target, None).await, Ok(2_001));
    hasty.close().await;
    patient.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_exact() {
    let folder = folder();
    let store = store(&folder.path().join("v.db"), VectorLimits::default());
    let target = target(&store, 32).await;
    let all = vectors(2_000, 32);
    fill(&store, &target, all.clone()).await;
    let far = |one: &[f32], other: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| {
            let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum::<f64>()
        };
        1.0 - dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
    };
    for asked in vectors(20, 32).iter().map(|it| it[..16].repeat(2)) {
        let mut expected: Vec<(f64, usize)> = all
            .iter()
            .enumerate()
            .map(|(number, vector)| (far(vector, &asked), number))
            .collect();
        expected.sort_by(|one, other| one.0.total_cmp(&other.0));
        let found = store.nearest(&target, asked, None, query(10)).await;
        for (found, (distance, number)) in found.expect("found").iter().zip(&expected) {
            assert!((f64::from(found.number) - distance).abs() < 1e-5);
            assert_eq!(found.entry.id, format!("i{number}"));
        }
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_survive_and_a_newer_store_is_refused() {
    let folder = folder();
    let path = folder.path().join("deep/v.db");
    let first = store(&path, VectorLimits::default());
    let before = target(&first, 2).await;
    fill(&first, &before, vec![vec![1.0, 0.0]]).await;
    first.close().await;
    let limits = VectorLimits::default();
    let reader = SqliteVectors::new(&path, true, limits, Handle::current()).expect("a store");
    assert!(reader.read_only());
    assert_eq!(reader.count(&before, None).await, Ok(1));
    let denied: Vec<Result<(), VectorError>> = vec![
        reader.drop_collection("c".to_owned()).await.map(|_| ()),
        reader.upsert(&before, vec![Entry::default()]).await,
        reader
            .delete(&before, vec!["i0".to_owned()])
            .await
            .map(|_| ()),
    ];
    for outcome in denied {
        let error = outcome.expect_err("read-only");
        assert_eq!(error.code, VectorCode::CapabilityDenied);
    }
    reader.close().await;
    // One of the same name is another one.
    let second = store(&path, VectorLimits::default());
    assert_eq!(second.drop_collection("c".to_owned()).await, Ok(true));
    let after = target(&second, 2).await;
    assert_ne!(before.collection.key, after.collection.key);
    let error = second.count(&before, None).await.expect_err("dropped");
    assert_eq!(error.code, VectorCode::NotFound);
    assert_eq!(second.count(&after, None).await, Ok(0));
    second.close().await;

    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let pool = sqlx::SqlitePool::connect_with(options)
        .await
        .expect("opened");
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'c1\\_%' ESCAPE '\\'";
    let left: i64 = sqlx::query_scalar(tables)
        .fetch_one(&pool)
        .await
        .expect("read");
    assert_eq!(left, 0, "a dropped collection leaves no table");
    sqlx::query("PRAGMA user_version = 99")
        .execute(&pool)
        .await
        .expect("written");
    pool.close().await;
    let newer = store(&path, VectorLimits::default());
    let error = newer.collections().await.expect_err("newer");
    assert_eq!(error.code, VectorCode::Unavailable);
    newer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_keeps_to_its_limits() {
    let folder = folder();
    let limits = VectorLimits {
        store_bytes: Some(1 << 20),
        collections: 1,
        call_bytes: 10_000,
        ..VectorLimits::default()
    };
    let store = store(&folder.path().join("v.db"), limits);
    let target = target(&store, 2).await;
    let second = store.create("d".to_owned(), specification(2)).await;
    assert_eq!(
        second.expect_err("one more").code,
        VectorCode::LimitExceeded
    );
    let mut written = 0;
    let error = loop {
        let text = "word ".repeat(1_000);
        let one = vec![entry(format!("i{written}"), vec![1.0, 0.0], &text)];
        match store.upsert(&target, one).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1_000, "it has no limit");
    };
    assert_eq!(error.code, VectorCode::Unavailable);
    assert_eq!(
        error.details.expect("details"),
        serde_json::json!({ "kind": "disk-full" })
    );
    assert!(written > 5, "{written}");
    let all = Query {
        want: Want {
            properties: vec![0],
            vectors: true,
        },
        ..query(100)
    };
    let error = store.nearest(&target, vec![1.0, 0.0], None, all).await;
    assert_eq!(
        error.expect_err("too large").code,
        VectorCode::LimitExceeded
    );
    let everything = Filter::All(Vec::new());
    assert_eq!(store.delete_where(&target, everything).await, Ok(written));
    let small = vec![entry("small", vec![1.0, 0.0], "text")];
    store
        .upsert(&target, small)
        .await
        .expect("there is room again");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_store_is_told() {
    let folder = folder();
    let path = folder.path().join("v.db");
    std::fs::write(&path, "this is no database, but a text that is long enough").expect("written");
    let store = store(&path, VectorLimits::default());
    let error = store.collections().await.expect_err("no store");
    assert_eq!(error.code, VectorCode::Unavailable);
    assert!(!error.message.contains("v.db"), "{error}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_collection_can_always_be_read() {
    let kept = "{\"dimensions\":2,\"distance\":\"Cosine\",\"properties\":[{\"name\":\"text\",\
                \"kind\":\"Text\",\"filterable\":true,\"searchable\":true}],\"tenants\":false}";
    assert_eq!(
        serde_json::to_string(&specification(2)).expect("JSON"),
        kept
    );
    let folder = folder();
    let store = store(&folder.path().join("v.db"), VectorLimits::default());
    let found: Collection = (*target(&store, 2).await.collection).clone();
    assert_eq!(found.specification, specification(2));
    store.close().await;
}
