use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::sqlite::SqliteStore;
use super::{Condition, KvCode, KvLimits, Store};

fn store(path: &Path, limits: KvLimits) -> SqliteStore {
    SqliteStore::new(path, false, limits, Handle::current()).expect("a store")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_writers_of_a_version_wins() {
    let folder = folder();
    let store = Arc::new(store(&folder.path().join("kv.db"), KvLimits::default()));
    let set = |condition| store.set("lock".to_owned(), b"x".to_vec(), None, condition);
    let version = set(Condition::IfAbsent).await.expect("first");
    let writers = (0..20).map(|_| set(Condition::IfVersion(version)));
    let outcomes = futures::future::join_all(writers).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for outcome in lost {
        let error = outcome.expect_err("lost");
        assert_eq!(error.code, KvCode::PreconditionFailed);
    }
    let adders = (0..50).map(|_| store.increment("n".to_owned(), 1, None, None));
    let sums = futures::future::join_all(adders).await;
    let mut sums: Vec<i64> = sums.into_iter().map(|sum| sum.expect("a sum")).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=50).collect::<Vec<_>>());
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_nobody_waits_for_is_done_whole_or_not_at_all() {
    let folder = folder();
    let store = store(&folder.path().join("kv.db"), KvLimits::default());
    for _ in 0..50 {
        let adding = store.increment("n".to_owned(), 1, None, Some("same".to_owned()));
        // Dropped somewhere on its way.
        let _ = tokio::time::timeout(Duration::from_micros(300), adding).await;
    }
    let sum = store.increment("n".to_owned(), 1, None, Some("same".to_owned()));
    assert_eq!(sum.await, Ok(1));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_and_versions_survive_and_a_newer_store_is_refused() {
    let folder = folder();
    let path = folder.path().join("deep/kv.db");
    let first = store(&path, KvLimits::default());
    let set = first.set("a".to_owned(), b"1".to_vec(), None, Condition::Always);
    let version = set.await.expect("set");
    first.close().await;
    let second = store(&path, KvLimits::default());
    let found = second.get(vec!["a".to_owned()]).await.expect("read");
    assert_eq!(found[0].as_ref().map(|entry| entry.version), Some(version));
    let set = second.set("a".to_owned(), b"2".to_vec(), None, Condition::Always);
    assert!(set.await.expect("set") > version);
    second.close().await;
    let reader = SqliteStore::new(&path, true, KvLimits::default(), Handle::current());
    let reader = reader.expect("a store");
    assert!(reader.read_only());
    let page = reader.list(String::new(), 10, None).await.expect("read");
    assert_eq!(page.keys, ["a"]);
    let refused = reader.set("b".to_owned(), Vec::new(), None, Condition::Always);
    assert_eq!(
        refused.await.expect_err("read-only").code,
        KvCode::CapabilityDenied
    );
    reader.close().await;

    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let pool = sqlx::SqlitePool::connect_with(options)
        .await
        .expect("opened");
    sqlx::query("PRAGMA user_version = 99")
        .execute(&pool)
        .await
        .expect("written");
    pool.close().await;
    let newer = store(&path, KvLimits::default());
    let error = newer.get(vec!["a".to_owned()]).await.expect_err("newer");
    assert_eq!(error.code, KvCode::Unavailable);
    newer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_grows_no_further_than_it_may() {
    let folder = folder();
    let limits = KvLimits {
        store_bytes: Some(256 << 10),
        ..KvLimits::default()
    };
    let store = store(&folder.path().join("kv.db"), limits);
    let mut written = 0;
    let error = loop {
        let value = vec![7; 16 << 10];
        let key = format!("k{written}");
        match store.set(key, value, None, Condition::Always).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "it has no limit");
    };
    assert_eq!(error.code, KvCode::Unavailable);
    assert!(written > 5, "{written}");
    assert!(
        store
            .delete("k0".to_owned(), Condition::Always)
            .await
            .expect("deleted")
    );
    let set = store.set("k0".to_owned(), vec![7; 8 << 10], None, Condition::Always);
    set.await.expect("there is room again");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_removed_by_later_writes() {
    let folder = folder();
    let path = folder.path().join("kv.db");
    let store = store(&path, KvLimits::default());
    let soon = Some(Duration::from_millis(1));
    for n in 0..10 {
        let set = store.set(format!("k{n}"), b"x".to_vec(), soon, Condition::Always);
        set.await.expect("set");
    }
    let ended = async {
        loop {
            let page = store.list("k".to_owned(), 100, None).await.expect("read");
            if page.keys.is_empty() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .expect("they end");
    let set = store.set("other".to_owned(), b"x".to_vec(), None, Condition::Always);
    set.await.expect("set");
    store.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let pool = sqlx::SqlitePool::connect_with(options)
        .await
        .expect("opened");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM entries")
        .fetch_one(&pool)
        .await
        .expect("read");
    assert_eq!(left, 1);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_store_is_told() {
    let folder = folder();
    let path = folder.path().join("kv.db");
    std::fs::write(&path, "this is no database, but a text that is long enough").expect("written");
    let store = store(&path, KvLimits::default());
    let error = store.get(vec!["a".to_owned()]).await.expect_err("no store");
    assert_eq!(error.code, KvCode::Unavailable);
    assert!(!error.message.contains("kv.db"), "{error}");
    store.close().await;
}
