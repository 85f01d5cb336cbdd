//! The file: versions, locks, full disks.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_engine_is_kept_out() {
    let bench = Bench::new().await;
    let refused = bench.try_open().await.unwrap_err();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_history_and_another_database_are_refused() {
    use sqlx::{Connection as _, Executor as _};
    let mut bench = Bench::new().await;
    bench.stop().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(bench.database());
    let mut connection = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    connection
        .execute("PRAGMA user_version = 999")
        .await
        .unwrap();
    connection.close().await.unwrap();
    let refused = bench.try_open().await.unwrap_err();
    assert!(
        matches!(refused, OpenError::Newer { found: 999, .. }),
        "{refused}"
    );

    bench.options.storage = Arc::new(FileStorage::new(bench.folder.path().join("other.db")));
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(bench.database())
        .create_if_missing(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    connection.execute("CREATE TABLE t (x)").await.unwrap();
    connection.close().await.unwrap();
    let refused = bench.try_open().await.unwrap_err();
    assert!(matches!(refused, OpenError::NotAHistory), "{refused}");
    bench.options.queues.insert("none".to_owned(), 0);
    let refused = bench.try_open().await.unwrap_err();
    assert!(matches!(refused, OpenError::Invalid(_)), "{refused}");
}

/// Holds SQLite's write lock, so that the writer's transactions fail.
async fn hold_write_lock(bench: &Bench) -> sqlx::SqliteConnection {
    use sqlx::{Connection as _, Executor as _};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(bench.database());
    let mut connection = sqlx::SqliteConnection::connect_with(&options)
        .await
        .unwrap();
    connection.execute("BEGIN IMMEDIATE").await.unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_fails_refuses_starts_and_keeps_outcomes() {
    use sqlx::Executor as _;
    let mut bench = Bench::with(|options| options.busy_timeout = Duration::ZERO).await;
    bench.define("hand", "  - a: {call: t.hand}\n");
    let run = bench.start("hand", json!({})).await;
    let attempt = bench.attempt().await;
    let mut other = hold_write_lock(&bench).await;
    let refused = bench
        .engine()
        .start(bench.request("hand", "refused", json!({})))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, EngineError::Unavailable { .. }),
        "{refused}"
    );
    attempt.end(Ok(json!("kept")));
    bench
        .until("the outcome waits for the storage", async || {
            bench.engine().core.writer.failure().is_some()
        })
        .await;
    let refused = bench.engine().cancel(&run, "no").await.unwrap_err();
    assert!(
        matches!(refused, EngineError::Unavailable { .. }),
        "{refused}"
    );
    let none = bench.engine().result(&run, Duration::ZERO).await.unwrap();
    assert_eq!(none, None);
    other.execute("ROLLBACK").await.unwrap();
    assert_eq!(bench.result(&run).await, json!("kept"));
    bench.start_as("hand", "refused", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_clear_error_and_passes() {
    use sqlx::Executor as _;
    let bench = Bench::with(|options| options.max_pages = Some(60)).await;
    bench.define("set", "  - a: {set: {x: 1}}\n");
    let text = "x".repeat(50_000);
    let mut stored = Vec::new();
    let refused = loop {
        let id = format!("id-{}", stored.len());
        let request = bench.request("set", &id, json!({"text": text}));
        match bench.engine().start(request).await {
            Ok(started) => stored.push((id, started.run_id)),
            Err(error) => break error,
        }
        assert!(stored.len() < 100);
    };
    assert!(
        refused.to_string().contains("the disk is full"),
        "{refused}"
    );
    for (id, run_id) in &stored {
        let info = bench.engine().describe(&run(id)).await.unwrap().info;
        assert_eq!(info.run_id, *run_id);
    }
    // Room comes back.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(bench.database());
    let mut other = {
        use sqlx::Connection as _;
        sqlx::SqliteConnection::connect_with(&options)
            .await
            .unwrap()
    };
    other
        .execute("DELETE FROM transitions WHERE last_event >= 0")
        .await
        .unwrap();
    bench.start_as("set", "after", json!({"text": text})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_runs_and_keys_are_removed() {
    let bench = Bench::with(|options| options.retention = Some(Duration::from_secs(7200))).await;
    bench.define("set", "  - a: {set: {x: 1}}\n");
    bench.define("waits", "  - a: {wait: P30D}\n");
    bench.start_as("set", "old", json!({})).await;
    bench.start_as("waits", "open", json!({})).await;
    bench.clock.advance(Duration::from_secs(3600));
    bench.start_as("set", "young", json!({})).await;
    let hour = Duration::from_secs(3600);
    for _ in 0..2 {
        bench.clock.advance(hour);
        // Whoever cleans up has set its next time.
        bench
            .until("the clock was seen", async || {
                let now = bench.clock.now();
                let next = bench.next_at();
                next.is_some_and(|next| next > now && next <= now + hour)
            })
            .await;
    }
    bench
        .until("the old one is gone", async || {
            bench.engine().describe(&run("old")).await.is_err()
        })
        .await;
    bench.engine().describe(&run("young")).await.unwrap();
    bench.engine().describe(&run("open")).await.unwrap();
}
