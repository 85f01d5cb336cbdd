use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sqlx::{SqliteConnection, SqlitePool};
use tokio::runtime::Handle;

use super::numbers::Numbers;
use super::sqlite::SqliteVectors;
use super::sqlite_targets::{number_of, tenant};
use super::sqlite_totals::Totals;
use super::{
    Distance, Entry, Filter, Property, PropertyType, Query, Specification, Store, Target, Value,
    VectorLimits, Want,
};

fn store(path: &Path, read_only: bool) -> SqliteVectors {
    SqliteVectors::new(path, read_only, VectorLimits::default(), Handle::current())
        .expect("a store")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Two searchable properties around one that is not.
fn specification(tenants: bool) -> Specification {
    let property = |name: &str, kind, searchable: bool| Property {
        name: name.to_owned(),
        kind,
        filterable: !searchable,
        searchable,
    };
    Specification {
        dimensions: 1,
        distance: Distance::Dot,
        properties: vec![
            property("title", PropertyType::Text, true),
            property("part", PropertyType::Integer, false),
            property("body", PropertyType::Text, true),
        ],
        tenants,
    }
}

/// The collection of this name; a tenant of it, where one is named.
async fn target(store: &SqliteVectors, name: &str, tenant: Option<&str>) -> Target {
    let made = store.create(name.to_owned(), specification(tenant.is_some()));
    made.await.expect("made");
    let found = store.find(name.to_owned()).await.expect("read");
    Target {
        collection: Arc::new(found.expect("it is there")),
        tenant: tenant.map(str::to_owned),
    }
}

fn entry(id: impl Into<String>, title: Option<&str>, part: i64, body: Option<&str>) -> Entry {
    let text = |text: Option<&str>| text.map(|text| Value::Text(text.to_owned()));
    Entry {
        id: id.into(),
        vector: None,
        values: vec![text(title), Some(Value::Integer(part)), text(body)],
    }
}

/// What is found and how it is scored, the best first.
async fn scores(
    store: &SqliteVectors,
    target: &Target,
    words: &[&str],
    properties: &[usize],
) -> Vec<(String, f32)> {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let query = Query {
        limit: 1_000,
        filter: None,
        want: Want::default(),
    };
    let found = store.keywords(target, words, properties.to_vec(), query);
    let found = found.await.expect("found").into_iter();
    found.map(|it| (it.entry.id, it.number)).collect()
}

/// Some words, of which the first are common; or none.
fn any_text(numbers: &mut Numbers) -> Option<String> {
    let count = numbers.below(12);
    let words = (0..count).map(|_| {
        let below = 1 + numbers.below(12);
        format!("W{}", numbers.below(below))
    });
    let words: Vec<String> = words.collect();
    (numbers.below(5) > 0).then(|| words.join(", "))
}

fn any_entry(numbers: &mut Numbers, ids: usize) -> Entry {
    let (id, part) = (numbers.below(ids), numbers.below(5));
    let (title, body) = (any_text(numbers), any_text(numbers));
    entry(
        format!("i{id}"),
        title.as_deref(),
        part as i64,
        body.as_deref(),
    )
}

/// Each of another id.
fn any_entries(numbers: &mut Numbers, count: usize, ids: usize) -> Vec<Entry> {
    let entries = (0..count).map(|_| any_entry(numbers, ids));
    let by_id: BTreeMap<String, Entry> = entries.map(|entry| (entry.id.clone(), entry)).collect();
    by_id.into_values().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_score_tells_of_another_tenant() {
    let folder = folder();
    let store = store(&folder.path().join("v.db"), false);
    let (one, other) = (
        target(&store, "c", Some("one")).await,
        target(&store, "c", Some("other")).await,
    );
    let mut entries = vec![entry("rare", Some("an anchor of a ship"), 0, None)];
    for number in 0..4 {
        let id = format!("common-{number}");
        entries.push(entry(id, Some("the rudder of a ship"), 0, Some("anchored")));
    }
    store.upsert(&one, entries.clone()).await.expect("written");
    let asked = async || {
        let both = scores(&store, &one, &["anchor", "rudder"], &[0, 2]).await;
        let title = scores(&store, &one, &["ship", "the"], &[0]).await;
        (both, title)
    };
    let before = asked().await;
    assert_eq!(before.0.len(), 5);
    assert_eq!(before.0[0].0, "rare", "the rarer word counts more");
    // There what is rare here is common, and texts are longer.
    let long = "anchor ".repeat(300);
    let others = (0..50).map(|number| {
        let id = format!("i{number}");
        entry(id, Some("an anchor is no rudder"), 0, Some(&long))
    });
    store
        .upsert(&other, others.collect())
        .await
        .expect("written");
    assert_eq!(asked().await, before);
    // As a collection of its own.
    let alone = target(&store, "alone", None).await;
    store.upsert(&alone, entries).await.expect("written");
    let both = scores(&store, &alone, &["anchor", "rudder"], &[0, 2]).await;
    assert_eq!(both, before.0);
    let dropped = store.drop_tenant(&other.collection, "other".to_owned());
    assert_eq!(dropped.await, Ok(true));
    assert_eq!(asked().await, before);
    store.close().await;
}

/// The scores of all items, computed from their texts.
fn expected(entries: &[Entry], words: &[&str], properties: &[usize]) -> BTreeMap<String, f32> {
    let texts = |property: usize| -> Vec<Vec<String>> {
        let texts = entries.iter().map(|entry| match &entry.values[property] {
            Some(Value::Text(text)) => text.to_lowercase(),
            _ => String::new(),
        });
        texts
            .map(|text| {
                let words = text.split(", ").filter(|word| !word.is_empty());
                words.map(str::to_owned).collect()
            })
            .collect()
    };
    let of: Vec<Vec<Vec<String>>> = properties.iter().map(|it| texts(*it)).collect();
    let all = entries.len() as f64;
    let mut scores = vec![0.0; entries.len()];
    for word in words {
        let times = |text: &[String]| text.iter().filter(|it| it == word).count() as f64;
        let having: Vec<u64> = of
            .iter()
            .map(|texts| texts.iter().filter(|text| times(text) > 0.0).count() as u64)
            .filter(|count| *count > 0)
            .collect();
        if having.is_empty() {
            continue;
        }
        let having = (having.iter().sum::<u64>() / having.len() as u64) as f64;
        let rarity = (1.0 + (all - having + 0.5) / (having + 0.5)).ln();
        for texts in &of {
            let long: Vec<f64> = texts.iter().map(|text| text.len() as f64).collect();
            let with_words = long.iter().filter(|length| **length > 0.0).count();
            let mean = long.iter().sum::<f64>() / with_words as f64;
            for (number, text) in texts.iter().enumerate() {
                let times = times(text);
                let length = 1.2 * (0.25 + 0.75 * long[number] / mean);
                scores[number] += rarity * times / (times + length);
            }
        }
    }
    let scored = entries.iter().zip(scores);
    scored
        .filter(|(_, score)| *score > 0.0)
        .map(|(entry, score)| (entry.id.clone(), score as f32))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_are_those_of_the_formula() {
    let folder = folder();
    let store = store(&folder.path().join("v.db"), false);
    let numbers = &mut Numbers(3);
    let mut tenants = Vec::new();
    for tenant in ["a", "b", "c"] {
        let target = target(&store, "c", Some(tenant)).await;
        let entries = any_entries(numbers, 150, 10_000);
        store
            .upsert(&target, entries.clone())
            .await
            .expect("written");
        tenants.push((target, entries));
    }
    let mut compared = 0;
    for number in 0..60 {
        let (target, entries) = &tenants[number % 3];
        let words = ["w0", "w1", "w4", "w9", "w11", "zebra"];
        let first = numbers.below(5);
        let words = &words[first..=first + numbers.below(6 - first)];
        let choices: [&[usize]; 3] = [&[0, 2], &[0], &[2]];
        let properties = choices[numbers.below(3)];
        let found = scores(&store, target, words, properties).await;
        assert!(
            found.is_sorted_by(|one, other| one.1 >= other.1),
            "{found:?}"
        );
        let expected = expected(entries, words, properties);
        assert_eq!(found.len(), expected.len(), "{words:?} {properties:?}");
        for (id, score) in found {
            let right = expected[&id];
            assert!((score - right).abs() < 1e-5, "{id}: {score}, not {right}");
            compared += 1;
        }
    }
    assert!(compared > 1_000, "{compared}");
    store.close().await;
}

async fn open(path: &Path) -> SqlitePool {
    crate::sqlite_memory::count();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    SqlitePool::connect_with(options).await.expect("opened")
}

/// What is kept of a target, and what is there.
async fn totals(pool: &SqlitePool, target: &Target) -> (Option<Totals>, Totals) {
    let mut connection = pool.acquire().await.expect("a connection");
    let connection: &mut SqliteConnection = &mut connection;
    let specification = &target.collection.specification;
    let tables = number_of(&target.collection).expect("a number");
    let name = target.tenant.as_deref();
    let number = tenant(connection, tables, name).await.expect("read");
    let number = number.unwrap_or(-1);
    let kept = Totals::kept(connection, tables, specification, number).await;
    let counted = Totals::counted(connection, tables, specification, number).await;
    (kept.expect("read"), counted.expect("counted"))
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_are_exact_whatever_is_written() {
    let folder = folder();
    let path = folder.path().join("v.db");
    let store = store(&path, false);
    let mut targets = vec![target(&store, "plain", None).await];
    for tenant in ["a", "b"] {
        targets.push(target(&store, "c", Some(tenant)).await);
    }
    let pool = open(&path).await;
    let numbers = &mut Numbers(5);
    let mut deleted = 0;
    for _ in 0..120 {
        let target = &targets[numbers.below(3)];
        match (numbers.below(8), &target.tenant) {
            (0, Some(tenant)) => {
                let dropped = store.drop_tenant(&target.collection, tenant.clone());
                dropped.await.expect("done");
            }
            (0 | 1, _) => {
                let part = Value::Integer(numbers.below(5) as i64);
                let gone = store.delete_where(target, Filter::Equal(1, part)).await;
                deleted += gone.expect("deleted");
            }
            (2 | 3, _) => {
                let ids = (0..5).map(|_| format!("i{}", numbers.below(60)));
                let gone = store.delete(target, ids.collect()).await;
                deleted += gone.expect("deleted");
            }
            _ => {
                let count = 1 + numbers.below(20);
                let entries = any_entries(numbers, count, 60);
                store.upsert(target, entries).await.expect("written");
            }
        }
        for target in &targets {
            let (kept, counted) = totals(&pool, target).await;
            assert_eq!(kept, Some(counted));
        }
    }
    assert!(deleted > 50, "{deleted}");
    // Of what was dropped nothing is left.
    for name in ["plain", "c"] {
        assert_eq!(store.drop_collection(name.to_owned()).await, Ok(true));
    }
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM totals")
        .fetch_one(&pool)
        .await
        .expect("read");
    assert_eq!(left, 0);
    pool.close().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_an_older_heyday_is_counted() {
    let folder = folder();
    let path = folder.path().join("v.db");
    let first = store(&path, false);
    let numbers = &mut Numbers(9);
    let mut expected = Vec::new();
    for (name, tenant) in [("plain", None), ("c", Some("a")), ("c", Some("b"))] {
        let target = target(&first, name, tenant).await;
        let entries = any_entries(numbers, 40, 100);
        first.upsert(&target, entries).await.expect("written");
        let found = scores(&first, &target, &["w0", "w3"], &[0, 2]).await;
        assert!(found.len() > 10, "{found:?}");
        expected.push((target, found));
    }
    first.close().await;
    let pool = open(&path).await;
    let older = "DROP TABLE totals; ALTER TABLE collections DROP COLUMN counted; \
                 PRAGMA user_version = 2;";
    sqlx::raw_sql(older).execute(&pool).await.expect("done");

    // One that is only read stays as it is.
    let reader = store(&path, true);
    for (target, found) in &expected {
        let again = scores(&reader, target, &["w0", "w3"], &[0, 2]).await;
        assert_eq!(again, *found);
        assert_eq!(totals(&pool, target).await.0, None);
    }
    let writer = store(&path, false);
    for (target, found) in &expected {
        for store in [&writer, &reader] {
            let again = scores(store, target, &["w0", "w3"], &[0, 2]).await;
            assert_eq!(again, *found);
        }
        let (kept, counted) = totals(&pool, target).await;
        assert_eq!(kept, Some(counted));
        let more = any_entries(numbers, 10, 100);
        writer.upsert(target, more).await.expect("written");
        let (kept, counted) = totals(&pool, target).await;
        assert_eq!(kept, Some(counted));
    }
    pool.close().await;
    writer.close().await;
    reader.close().await;
}
