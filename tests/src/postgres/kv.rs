//! The key-value capability on PostgreSQL: many hosts at once, and a server that stops.

use heyday_capabilities::kv::postgres::PostgresStore;
use heyday_capabilities::kv::{Condition, KvCode, KvLimits, Store as _};

use super::*;
use crate::support::postgres::Postgres;

fn store(role: &Role) -> PostgresStore {
    let limits = KvLimits::default();
    PostgresStore::new(&role.config(), false, limits, Handle::current()).expect("a configuration")
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_begin_at_once_share_a_store() {
    let Some(server) = postgres::shared() else {
        return;
    };
    let database = server.database();
    let role = server.role(&database);
    drop(server);
    // Each has a pool of its own, as processes have.
    let writers = (0..8).map(|number| {
        let store = store(&role);
        tokio::spawn(async move {
            let key = || "n".to_owned();
            for _ in 0..20 {
                store.increment(key(), 1, None, None).await.expect("added");
            }
            let once = Some("once".to_owned());
            let named = store.increment("m".to_owned(), 1, None, once).await;
            let (lock, value) = ("lock".to_owned(), vec![number]);
            let won = store.set(lock, value, None, Condition::IfAbsent).await;
            (named.expect("added"), won)
        })
    });
    let mut won = 0;
    for writer in writers.collect::<Vec<_>>() {
        let (named, lock) = writer.await.unwrap();
        assert_eq!(named, 1);
        match lock {
            Ok(_) => won += 1,
            Err(error) => assert_eq!(error.code, KvCode::PreconditionFailed, "{error}"),
        }
    }
    assert_eq!(won, 1);
    let store = store(&role);
    let found = store
        .get(vec!["n".to_owned(), "m".to_owned()])
        .await
        .unwrap();
    let values: Vec<_> = found
        .iter()
        .map(|it| it.as_ref().unwrap().value.clone())
        .collect();
    assert_eq!(values, [b"160".to_vec(), b"1".to_vec()]);
    // A zero character is in no key, and no fault.
    let page = store.list("n\0".to_owned(), 10, None).await.unwrap();
    assert!(page.keys.is_empty());
    let page = store
        .list(String::new(), 10, Some("m\0".to_owned()))
        .await
        .unwrap();
    assert_eq!(page.keys, ["n"]);
    // A binding that only reads takes what is there.
    let limits = KvLimits::default();
    let reading = PostgresStore::new(&role.config(), true, limits, Handle::current()).unwrap();
    assert_eq!(
        reading.get(vec!["n".to_owned()]).await.unwrap(),
        [found[0].clone()]
    );
    let denied = reading.delete("n".to_owned(), Condition::Always).await;
    assert_eq!(denied.unwrap_err().code, KvCode::CapabilityDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_removed() {
    let Some(server) = postgres::shared() else {
        return;
    };
    let database = server.database();
    let role = server.role(&database);
    drop(server);
    let store = store(&role);
    let soon = Some(Duration::from_millis(1));
    for number in 0..100 {
        let key = format!("short/{number}");
        store
            .set(key, vec![1], soon, Condition::Always)
            .await
            .unwrap();
    }
    let rows = || {
        let server = postgres::shared().expect("it runs");
        let count = format!("SELECT count(*) FROM {}.heyday_kv_entries", role.name);
        server.psql(&database, &count).parse::<u32>().unwrap()
    };
    let deadline = std::time::Instant::now() + crate::support::server::PATIENCE;
    while rows() > 1 {
        assert!(std::time::Instant::now() < deadline, "{} rows", rows());
        store
            .set("kept".to_owned(), vec![1], None, Condition::Always)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_back_is_used_again() {
    let Some(mut server) = Postgres::start(&[]) else {
        return;
    };
    let database = server.database();
    let store = store(&server.role(&database));
    let set = || store.set("k".to_owned(), vec![1], None, Condition::Always);
    set().await.expect("written");
    server.kill();
    let error = set().await.expect_err("the server is gone");
    assert_eq!(error.code, KvCode::Unavailable, "{error}");
    assert!(error.message.contains("cannot be reached"), "{error}");
    server.launch();
    let deadline = std::time::Instant::now() + crate::support::server::PATIENCE;
    while let Err(error) = set().await {
        assert_eq!(error.code, KvCode::Unavailable, "{error}");
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let found = store.get(vec!["k".to_owned()]).await.unwrap();
    assert_eq!(found[0].as_ref().map(|it| it.value.clone()), Some(vec![1]));
}
