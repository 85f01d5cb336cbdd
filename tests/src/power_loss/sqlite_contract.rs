//! What else SQLite needs of the disk: connections that exclude each other, readers
//! that keep their snapshot, syncs that are counted, and a disk that is full.

use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection};

use super::disk::Syncs;
use super::{Disk, mount};

async fn open(vfs: &str) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename("test.db")
        .vfs(vfs.to_owned())
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::ZERO);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    run(
        &mut connection,
        "CREATE TABLE IF NOT EXISTS t (n INTEGER, b BLOB)",
    )
    .await
    .unwrap();
    connection
}

async fn run(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(connection).await.map(|_| ())
}

async fn count(connection: &mut SqliteConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM t")
        .fetch_one(connection)
        .await
        .unwrap()
}

/// SQLite's code of an error.
fn code(result: Result<(), sqlx::Error>) -> Option<String> {
    Some(result.err()?.as_database_error()?.code()?.into_owned())
}

#[tokio::test]
async fn two_connections_do_not_write_at_once() {
    let vfs = mount(&Disk::default());
    let (mut first, mut second) = (open(&vfs).await, open(&vfs).await);
    run(&mut first, "BEGIN IMMEDIATE").await.unwrap();
    assert_eq!(
        code(run(&mut second, "BEGIN IMMEDIATE").await).as_deref(),
        Some("5")
    );
    run(&mut first, "COMMIT").await.unwrap();
    run(&mut second, "BEGIN IMMEDIATE").await.unwrap();
}

#[tokio::test]
async fn a_reader_keeps_its_snapshot_while_another_writes_and_checkpoints() {
    let vfs = mount(&Disk::default());
    let (mut reader, mut writer) = (open(&vfs).await, open(&vfs).await);
    run(&mut reader, "BEGIN").await.unwrap();
    assert_eq!(count(&mut reader).await, 0);
    run(&mut writer, "INSERT INTO t VALUES (1, NULL)")
        .await
        .unwrap();
    run(&mut writer, "PRAGMA wal_checkpoint(PASSIVE)")
        .await
        .unwrap();
    assert_eq!(count(&mut reader).await, 0);
    run(&mut reader, "COMMIT").await.unwrap();
    assert_eq!(count(&mut reader).await, 1);
}

#[tokio::test]
async fn a_commit_is_one_sync() {
    let disk = Disk::default();
    let mut connection = open(&mount(&disk)).await;
    run(&mut connection, "INSERT INTO t VALUES (1, NULL)")
        .await
        .unwrap();
    let before = disk.syncs();
    run(&mut connection, "INSERT INTO t VALUES (2, NULL)")
        .await
        .unwrap();
    run(&mut connection, "INSERT INTO t VALUES (3, NULL)")
        .await
        .unwrap();
    let expected = Syncs {
        files: before.files + 2,
        directory: before.directory,
    };
    assert_eq!(disk.syncs(), expected);
}

#[tokio::test]
async fn after_a_loss_the_old_connection_is_dead_and_a_new_one_is_not() {
    let disk = Disk::default();
    let vfs = mount(&disk);
    let mut old = open(&vfs).await;
    let mut losses = disk.losses();
    run(&mut old, "INSERT INTO t VALUES (1, NULL)")
        .await
        .unwrap();
    assert!(!losses.has_changed().unwrap());
    disk.power_loss(1);
    assert!(losses.has_changed().unwrap());
    assert_eq!(*losses.borrow_and_update(), 1);
    run(&mut old, "INSERT INTO t VALUES (2, NULL)")
        .await
        .unwrap_err();
    run(&mut old, "SELECT n FROM t").await.unwrap_err();
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename("test.db").vfs(vfs))
        .await
        .unwrap_err();
    let mut new = open(&mount(&disk)).await;
    assert_eq!(count(&mut new).await, 1);
}

#[tokio::test]
async fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let disk = Disk::default();
    let mut connection = open(&mount(&disk)).await;
    const INSERT: &str = "INSERT INTO t VALUES (1, randomblob(20000))";
    run(&mut connection, INSERT).await.unwrap();
    disk.full(100_000);
    let mut fitted = 1;
    let refused = loop {
        match run(&mut connection, INSERT).await {
            Ok(()) => fitted += 1,
            refused => break refused,
        }
    };
    assert_eq!(code(refused).as_deref(), Some("13"), "SQLITE_FULL");
    assert!((2..=6).contains(&fitted), "{fitted} fitted");
    assert_eq!(count(&mut connection).await, fitted);
    disk.lift_full();
    run(&mut connection, INSERT).await.unwrap();
    assert_eq!(count(&mut connection).await, fitted + 1);
}
