use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::Handle;

use super::numbers::Numbers;
use super::sqlite::SqliteVectors;
use super::{
    Distance, Entry, Filter, Found, Order, Property, PropertyType, Query, Specification, Store,
    Target, Value, VectorCode, VectorLimits, Want,
};

const DIMENSIONS: usize = 24;

fn store(path: &Path, memory_bytes: u64) -> SqliteVectors {
    let limits = VectorLimits {
        memory_bytes,
        ..VectorLimits::default()
    };
    SqliteVectors::new(path, false, limits, Handle::current()).expect("a store")
}

/// One with copies, and one without.
fn both(path: &Path) -> (SqliteVectors, SqliteVectors) {
    (store(path, 64 << 20), store(path, 0))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

async fn collection(store: &SqliteVectors, distance: Distance, tenants: bool) -> Target {
    let property = Property {
        name: "part".to_owned(),
        kind: PropertyType::Integer,
        filterable: true,
        searchable: false,
    };
    let specification = Specification {
        dimensions: DIMENSIONS as u32,
        distance,
        properties: vec![property],
        tenants,
    };
    let name = format!("{distance:?}-{tenants}").to_lowercase();
    let made = store.create(name.clone(), specification);
    made.await.expect("made");
    let found = store.find(name).await.expect("read");
    Target {
        collection: Arc::new(found.expect("it is there")),
        tenant: tenants.then(|| "one".to_owned()),
    }
}

/// Some way from a place, which is one of a few.
fn any_vector(numbers: &mut Numbers) -> Vec<f32> {
    let (place, spread) = (numbers.below(5), [0.05, 0.5, 3.0][numbers.below(3)]);
    let each = (0..DIMENSIONS).map(|number| {
        let middle = ((place * 7 + number * 3) % 11) as f32 - 3.0;
        middle + spread * (numbers.below(2_001) as f32 / 1_000.0 - 1.0)
    });
    each.collect()
}

fn any_entry(numbers: &mut Numbers, ids: usize) -> Entry {
    let without = numbers.below(15) == 0;
    Entry {
        id: format!("i{}", numbers.below(ids)),
        vector: (!without).then(|| any_vector(numbers)),
        values: vec![Some(Value::Integer(numbers.below(10) as i64))],
    }
}

fn any_entries(numbers: &mut Numbers, count: usize, ids: usize) -> Vec<Entry> {
    let mut entries: Vec<Entry> = (0..count).map(|_| any_entry(numbers, ids)).collect();
    entries.sort_by(|one, other| one.id.cmp(&other.id));
    entries.dedup_by(|one, other| one.id == other.id);
    entries
}

/// Of some nothing passes, of some a part, of some nearly all.
fn any_filter(numbers: &mut Numbers) -> Filter {
    let part = Value::Integer(numbers.below(11) as i64);
    match numbers.below(3) {
        0 => Filter::Equal(0, part),
        1 => Filter::Ordered(0, Order::GreaterOrEqual, part),
        _ => Filter::Not(Box::new(Filter::Equal(0, part))),
    }
}

fn any_query(numbers: &mut Numbers) -> Query {
    Query {
        limit: 1 + numbers.below(20) as u32,
        filter: (numbers.below(2) == 0).then(|| any_filter(numbers)),
        want: Want::default(),
    }
}

async fn nearest(
    store: &SqliteVectors,
    target: &Target,
    vector: &[f32],
    within: Option<f32>,
    query: &Query,
) -> Vec<Found> {
    let found = store.nearest(target, vector.to_vec(), within, query.clone());
    found.await.expect("found")
}

/// Searches both, and compares what they answer: items, their order and their distances.
async fn compare(
    both: (&SqliteVectors, &SqliteVectors),
    target: &Target,
    numbers: &mut Numbers,
    searches: usize,
) {
    for _ in 0..searches {
        let (vector, query) = (any_vector(numbers), any_query(numbers));
        let expected = nearest(both.1, target, &vector, None, &query).await;
        let found = nearest(both.0, target, &vector, None, &query).await;
        assert_eq!(found, expected, "{query:?}");
        if let Some(middle) = expected.get(expected.len() / 2) {
            let within = Some(middle.number);
            let expected = nearest(both.1, target, &vector, within, &query).await;
            let found = nearest(both.0, target, &vector, within, &query).await;
            assert_eq!(found, expected, "within {within:?}, {query:?}");
        }
    }
}

fn plain(limit: u32) -> Query {
    Query {
        limit,
        filter: None,
        want: Want::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_answers_what_comparing_all_answers() {
    for (seed, distance) in [Distance::Cosine, Distance::Dot, Distance::Euclidean]
        .into_iter()
        .enumerate()
    {
        let folder = folder();
        let (fast, slow) = both(&folder.path().join("v.db"));
        let numbers = &mut Numbers(seed as u64);
        let mut target = collection(&fast, distance, true).await;
        let mut given = 0;
        for step in 0..24 {
            let tenant = ["one", "two"][numbers.below(2)];
            target.tenant = Some(tenant.to_owned());
            // By either: also as another process writes.
            let writer = if numbers.below(2) == 0 { &fast } else { &slow };
            match numbers.below(12) {
                _ if step < 4 => {
                    let entries = any_entries(numbers, 150, 10_000);
                    writer.upsert(&target, entries).await.expect("written");
                }
                0..7 => {
                    let count = 1 + numbers.below(30);
                    let entries = any_entries(numbers, count, 400);
                    writer.upsert(&target, entries).await.expect("written");
                }
                7..9 => {
                    let ids = (0..20).map(|_| format!("i{}", numbers.below(400)));
                    let mut ids: Vec<String> = ids.collect();
                    ids.sort();
                    ids.dedup();
                    writer.delete(&target, ids).await.expect("deleted");
                }
                9..11 => {
                    let part = Value::Integer(numbers.below(10) as i64);
                    let deleted = writer.delete_where(&target, Filter::Equal(0, part));
                    deleted.await.expect("deleted");
                }
                _ => {
                    let dropped = writer.drop_tenant(&target.collection, tenant.to_owned());
                    dropped.await.expect("dropped");
                }
            }
            compare((&fast, &slow), &target, numbers, 2).await;
            // Those after this have the copy.
            fast.copies().settled().await;
            given = fast.copies().answered.load(Ordering::Relaxed);
        }
        assert!(
            given > 30,
            "{distance:?}: {given} searches were given a copy"
        );
        assert_eq!(slow.copies().answered.load(Ordering::Relaxed), 0);
        fast.close().await;
        slow.close().await;
    }
}

/// The nearest item.
async fn closest(store: &SqliteVectors, target: &Target, vector: &[f32]) -> String {
    let mut found = nearest(store, target, vector, None, &plain(1)).await;
    found.pop().expect("one").entry.id
}

fn item(id: &str, vector: &[f32]) -> Entry {
    Entry {
        id: id.to_owned(),
        vector: Some(vector.to_vec()),
        values: vec![None],
    }
}

/// A collection with some items and a copy of it.
async fn filled(store: &SqliteVectors, distance: Distance, numbers: &mut Numbers) -> Target {
    let target = collection(store, distance, false).await;
    let entries = any_entries(numbers, 300, 10_000);
    store.upsert(&target, entries).await.expect("written");
    closest(store, &target, &any_vector(numbers)).await;
    store.copies().settled().await;
    target
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_writes_is_found_and_what_was_rolled_back_is_not() {
    let folder = folder();
    let path = folder.path().join("v.db");
    let numbers = &mut Numbers(3);
    let (fast, slow) = both(&path);
    let target = filled(&fast, Distance::Euclidean, numbers).await;
    let place = any_vector(numbers);
    let before = closest(&fast, &target, &place).await;
    slow.upsert(&target, vec![item("new", &place)])
        .await
        .expect("written");
    assert_eq!(closest(&fast, &target, &place).await, "new");
    slow.delete(&target, vec!["new".to_owned()])
        .await
        .expect("deleted");
    assert_eq!(closest(&fast, &target, &place).await, before);

    // The file may not become larger: the last of the batch has no room.
    let bytes = std::fs::metadata(&path).expect("a file").len();
    let limits = VectorLimits {
        store_bytes: Some(bytes + (64 << 10)),
        ..VectorLimits::default()
    };
    let full = SqliteVectors::new(&path, false, limits, Handle::current()).expect("a store");
    closest(&full, &target, &place).await;
    full.copies().settled().await;
    let mut batch = vec![item("new", &place)];
    batch.extend((0..5_000).map(|number| item(&format!("n{number}"), &place)));
    let error = full.upsert(&target, batch).await.expect_err("no room");
    assert_eq!(error.code, VectorCode::Unavailable, "{error}");
    for store in [&full, &fast, &slow] {
        assert_eq!(closest(store, &target, &place).await, before);
    }
    compare((&full, &slow), &target, numbers, 5).await;
    for store in [&fast, &full] {
        let given = store.copies().answered.load(Ordering::Relaxed);
        assert!(given >= 2, "{given} searches were given a copy");
    }
    for store in [fast, slow, full] {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_finds_it_beside_others_that_write_and_search() {
    let folder = folder();
    let path = folder.path().join("v.db");
    let (fast, second) = (store(&path, 64 << 20), store(&path, 64 << 20));
    let target = filled(&fast, Distance::Euclidean, &mut Numbers(4)).await;
    let writers = (0..6).map(|writer| {
        let (fast, second, target) = (fast.clone(), second.clone(), target.clone());
        tokio::spawn(async move {
            let numbers = &mut Numbers(100 + writer);
            for turn in 0..12 {
                let store = if (writer + turn) % 2 == 0 {
                    &fast
                } else {
                    &second
                };
                let (id, place) = (format!("w{writer}"), any_vector(numbers));
                let written = store.upsert(&target, vec![item(&id, &place)]);
                written.await.expect("written");
                assert_eq!(closest(store, &target, &place).await, id);
                let deleted = store.delete(&target, vec![id.clone()]).await;
                assert_eq!(deleted, Ok(1));
                assert_ne!(closest(store, &target, &place).await, id);
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.expect("each found what it wrote");
    }
    assert!(fast.copies().answered.load(Ordering::Relaxed) > 20);
    fast.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_restored_is_searched_as_it_is() {
    let folder = folder();
    let path = folder.path().join("v.db");
    let (fast, slow) = both(&path);
    let numbers = &mut Numbers(5);
    let target = filled(&fast, Distance::Dot, numbers).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    let pool = pool.connect_with(options).await.expect("opened");
    let raw = async |sql: &str| {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&pool);
        done.await.expect("done");
    };
    let kept = folder.path().join("kept.db");
    raw(&format!("VACUUM INTO '{}'", kept.display())).await;
    let write = async |store: &SqliteVectors, numbers: &mut Numbers| {
        for _ in 0..3 {
            let entries = any_entries(numbers, 20, 300);
            store.upsert(&target, entries).await.expect("written");
        }
        compare((&fast, &slow), &target, numbers, 3).await;
    };
    write(&fast, numbers).await;
    // As many writes again, of other things, on what was restored.
    raw(&format!("ATTACH '{}' AS kept", kept.display())).await;
    let tables = ["c1_items", "c1_vectors", "versions", "changes"];
    let restore = tables.map(|table| {
        format!("DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM kept.{table};")
    });
    raw(&format!("BEGIN IMMEDIATE; {} COMMIT;", restore.concat())).await;
    pool.close().await;
    write(&slow, numbers).await;
    fast.copies().settled().await;
    compare((&fast, &slow), &target, numbers, 3).await;
    fast.close().await;
    slow.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_keep_to_their_limit() {
    let folder = folder();
    let path = folder.path().join("v.db");
    // One of 300 vectors, but not two.
    let limit = 20_000;
    let (fast, slow) = (store(&path, limit), store(&path, 0));
    let numbers = &mut Numbers(6);
    let first = filled(&fast, Distance::Cosine, numbers).await;
    let one = fast.copies().bytes();
    assert!((10_000..=limit).contains(&one), "{one}");
    let second = filled(&fast, Distance::Euclidean, numbers).await;
    assert_eq!(fast.copies().bytes(), one, "there is no room");
    compare((&fast, &slow), &second, numbers, 5).await;
    let given = fast.copies().answered.load(Ordering::Relaxed);
    compare((&fast, &slow), &first, numbers, 5).await;
    let now = fast.copies().answered.load(Ordering::Relaxed);
    assert!(now >= given + 5, "the first has its copy");
    // It becomes too large for one, too.
    let entries = any_entries(numbers, 400, 10_000);
    fast.upsert(&first, entries).await.expect("written");
    compare((&fast, &slow), &first, numbers, 5).await;
    fast.copies().settled().await;
    compare((&fast, &slow), &first, numbers, 5).await;
    assert_eq!(fast.copies().bytes(), 0, "it was freed");
    // What is dropped is freed, too.
    let small = collection(&fast, Distance::Dot, false).await;
    let entries = any_entries(numbers, 30, 10_000);
    fast.upsert(&small, entries).await.expect("written");
    closest(&fast, &small, &any_vector(numbers)).await;
    fast.copies().settled().await;
    assert!(fast.copies().bytes() > 0);
    let name = small.collection.name.clone();
    assert_eq!(fast.drop_collection(name).await, Ok(true));
    assert_eq!(fast.copies().bytes(), 0);
    fast.close().await;
    slow.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_searched_after_a_restart_and_one_of_an_older_heyday_too() {
    let folder = folder();
    let path = folder.path().join("v.db");
    let numbers = &mut Numbers(7);
    let first = store(&path, 64 << 20);
    let target = filled(&first, Distance::Cosine, numbers).await;
    let place = any_vector(numbers);
    let expected = closest(&first, &target, &place).await;
    first.close().await;
    let again = store(&path, 64 << 20);
    assert_eq!(closest(&again, &target, &place).await, expected);
    again.copies().settled().await;
    assert_eq!(closest(&again, &target, &place).await, expected);
    assert_eq!(again.copies().answered.load(Ordering::Relaxed), 1);
    again.close().await;

    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let pool = sqlx::SqlitePool::connect_with(options)
        .await
        .expect("opened");
    let older = "DROP TABLE versions; DROP TABLE changes; DROP TABLE totals; \
                 ALTER TABLE collections DROP COLUMN counted; PRAGMA user_version = 1;";
    sqlx::raw_sql(older).execute(&pool).await.expect("done");
    pool.close().await;
    let limits = VectorLimits::default();
    let reader = SqliteVectors::new(&path, true, limits, Handle::current()).expect("a store");
    for _ in 0..2 {
        assert_eq!(closest(&reader, &target, &place).await, expected);
        reader.copies().settled().await;
    }
    assert_eq!(reader.copies().answered.load(Ordering::Relaxed), 0);
    reader.close().await;
    let (fast, slow) = both(&path);
    closest(&fast, &target, &place).await;
    fast.copies().settled().await;
    compare((&fast, &slow), &target, numbers, 3).await;
    let written = slow.upsert(&target, vec![item("new", &place)]);
    written.await.expect("written");
    assert_eq!(closest(&fast, &target, &place).await, "new");
    assert!(fast.copies().answered.load(Ordering::Relaxed) >= 4);
    fast.close().await;
    slow.close().await;
}
