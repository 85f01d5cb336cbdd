//! The disk tested with SQLite alone: some connections commit at once until the power
//! fails, and then what they were told is compared with what is there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::{Disk, mount};

const CONNECTIONS: usize = 3;

#[derive(Clone, Copy)]
struct Mode {
    journal: SqliteJournalMode,
    synchronous: SqliteSynchronous,
}

/// A database on the disk, and what was acknowledged of it: the rows of each
/// transaction by its number.
struct Scene {
    disk: Disk,
    mode: Mode,
    random: SmallRng,
    acknowledged: Arc<Mutex<BTreeMap<i64, i64>>>,
    last: Arc<AtomicI64>,
}

impl Scene {
    fn new(mode: Mode, seed: u64) -> Self {
        Self {
            disk: Disk::default(),
            mode,
            random: SmallRng::seed_from_u64(seed),
            acknowledged: Arc::default(),
            last: Arc::default(),
        }
    }

    fn options(&self) -> SqliteConnectOptions {
        options(&self.disk, self.mode)
    }

    /// Commits until the power fails, which it does at some change.
    async fn until_loss(&mut self) {
        let power = self.disk.power();
        let changes = self.random.random_range(1..300);
        self.disk.fail_after(changes, self.random.next_u64());
        let options = self.options();
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            match open(&options).await {
                Ok(connection) => connections.push(connection),
                Err(error) => {
                    assert_ne!(self.disk.power(), power, "{error}");
                    return;
                }
            }
        }
        let writers = connections.into_iter().map(|mut connection| {
            let mut random = SmallRng::seed_from_u64(self.random.next_u64());
            let (last, acknowledged) = (Arc::clone(&self.last), Arc::clone(&self.acknowledged));
            tokio::spawn(async move {
                loop {
                    let number = last.fetch_add(1, Ordering::Relaxed);
                    let rows = random.random_range(1..4);
                    commit(&mut connection, number, rows).await?;
                    acknowledged.lock().unwrap().insert(number, rows);
                    if random.random_range(0..20) == 0 {
                        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
                            .execute(&mut connection)
                            .await?;
                    }
                }
            })
        });
        for ended in futures::future::join_all(writers).await {
            let ended: Result<(), sqlx::Error> = ended.unwrap();
            let error = ended.unwrap_err();
            assert_ne!(self.disk.power(), power, "{error}");
        }
    }

    /// What is wrong with the database, if anything is.
    async fn check(&self) -> Result<(), String> {
        let mut connection = open(&self.options()).await.map_err(|e| e.to_string())?;
        let state: String = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_one(&mut connection)
            .await
            .map_err(|e| e.to_string())?;
        if state != "ok" {
            return Err(state);
        }
        let rows: Vec<(i64, i64, Vec<u8>)> =
            sqlx::query_as("SELECT number, row, content FROM t ORDER BY number, row")
                .fetch_all(&mut connection)
                .await
                .map_err(|e| e.to_string())?;
        let mut there: BTreeMap<i64, i64> = BTreeMap::new();
        for (number, row, bytes) in rows {
            if bytes != content(number, row) {
                return Err(format!("row {row} of transaction {number} has changed"));
            }
            *there.entry(number).or_default() += 1;
        }
        for (number, rows) in &*self.acknowledged.lock().unwrap() {
            if there.get(number) != Some(rows) {
                return Err(format!("transaction {number} was acknowledged and is gone"));
            }
        }
        connection.close().await.map_err(|e| e.to_string())
    }

    /// How many transactions were acknowledged.
    fn commits(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }
}

fn options(disk: &Disk, mode: Mode) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename("test.db")
        .vfs(mount(disk))
        .create_if_missing(true)
        .journal_mode(mode.journal)
        .synchronous(mode.synchronous)
        .busy_timeout(Duration::from_secs(30))
        .pragma("wal_autocheckpoint", "20")
        .disable_statement_logging()
}

async fn open(options: &SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let mut connection = SqliteConnection::connect_with(options).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS t (number INTEGER, row INTEGER, content BLOB)")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

async fn commit(
    connection: &mut SqliteConnection,
    number: i64,
    rows: i64,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for row in 0..rows {
        sqlx::query("INSERT INTO t VALUES (?, ?, ?)")
            .bind(number)
            .bind(row)
            .bind(content(number, row))
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}

/// What a row holds: up to some pages, told by its key.
fn content(number: i64, row: i64) -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64((number * 100 + row).unsigned_abs());
    let mut bytes = vec![0; random.random_range(0..9_000)];
    random.fill_bytes(&mut bytes);
    bytes
}

/// Losses one after the other on one disk, until something is wrong.
async fn losses(mode: Mode, seed: u64, count: usize) -> Result<usize, String> {
    let mut scene = Scene::new(mode, seed);
    for _ in 0..count {
        scene.until_loss().await;
        scene.check().await?;
    }
    Ok(scene.commits())
}

async fn loses_something(mode: Mode) -> bool {
    for seed in 0..100 {
        if losses(mode, seed, 3).await.is_err() {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_with_full_syncs_keeps_what_it_acknowledged() {
    let mode = Mode {
        journal: SqliteJournalMode::Wal,
        synchronous: SqliteSynchronous::Full,
    };
    for seed in 0..6 {
        let commits = losses(mode, seed, 8)
            .await
            .unwrap_or_else(|what| panic!("{seed}: {what}"));
        assert!(commits > 20, "only {commits} commits were put to the test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_without_syncs_loses_what_it_acknowledged() {
    assert!(
        loses_something(Mode {
            journal: SqliteJournalMode::Wal,
            synchronous: SqliteSynchronous::Off,
        })
        .await
    );
}

/// SQLite syncs a WAL only at checkpoints with `NORMAL`: the database stays whole, but
/// the last commits may go. The difference to `FULL` is what this disk must show.
#[tokio::test(flavor = "multi_thread")]
async fn wal_with_normal_syncs_loses_the_last_commits() {
    assert!(
        loses_something(Mode {
            journal: SqliteJournalMode::Wal,
            synchronous: SqliteSynchronous::Normal,
        })
        .await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_journal_with_extra_syncs_keeps_what_it_acknowledged() {
    let mode = Mode {
        journal: SqliteJournalMode::Delete,
        synchronous: SqliteSynchronous::Extra,
    };
    let commits = losses(mode, 1, 15).await.unwrap();
    assert!(commits > 20, "only {commits} commits were put to the test");
}

/// A deleted journal comes back where the directory was not synced, and takes the last
/// commit with it; `EXTRA` is there to prevent this.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_journal_may_come_back() {
    assert!(
        loses_something(Mode {
            journal: SqliteJournalMode::Delete,
            synchronous: SqliteSynchronous::Full,
        })
        .await
    );
}
