//! Collections in a SQLite database file, in WAL mode, with connections for reading and one
//! for writing.
//!
//! Distances are computed by sqlite-vec: with a copy of the vectors in memory
//! (`sqlite_copies`) of what may be among the nearest, without one of all that passes the
//! filter. Both give the same answer, the exact one. Words are found by FTS5, and scored by
//! what the tenant alone has (`sqlite_bm25`, `sqlite_totals`). The layout is in
//! `sqlite_tables`, searches are in `sqlite_nearest` and `sqlite_search`. SQL is ours alone. A
//! statement is stopped where nobody waits for it any more and at the call's time limit, by
//! SQLite's progress handler. Each write is one transaction, which is synced before it is
//! answered.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Sqlite, SqliteConnection};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::sqlite_copies::{Copies, Due, make};
use super::sqlite_error::{Failed, translate};
use super::sqlite_filter::{Param, Statement};
use super::sqlite_search::Reading;
use super::sqlite_tables::{MIGRATIONS, Tables};
use super::sqlite_targets::{find, tables, tenant};
use super::sqlite_totals::count_older;
use super::sqlite_write::{delete_rows, drop_collection, drop_tenant, new_tenant, upsert};
use super::{
    Collection, Entry, Filter, Found, Query, Specification, Store, Target, VectorError,
    VectorLimits, Want, already_exists, read_only, sqlite_bm25, sqlite_vec, too_many_collections,
};
use crate::diagnosis::{Asked, Finding, of_store};
use crate::sqlite_file::{self, OpenError, check_database, end_transaction, migrate};
use crate::task::run_on;

/// Connections that read.
const READERS: u32 = 4;
const PAGE_BYTES: u32 = 8_192;
/// How long a copy of vectors in memory may take to be made.
const COPY_LIMIT: Duration = Duration::from_secs(3_600);
/// Steps of the virtual machine between two looks at the clock.
const PROGRESS_STEPS: i32 = 1_000;

/// A store in a database file.
#[derive(Debug, Clone)]
pub struct SqliteVectors {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reading: SqlitePool,
    writing: Option<SqlitePool>,
    /// Set once the tables are there. Not done by a pool, which would try again and again
    /// where that cannot be.
    migrated: OnceCell<()>,
    copies: Arc<Copies>,
    limits: VectorLimits,
    runtime: Handle,
}

/// Ends, when it is dropped and at a time, what is done for a call.
#[derive(Debug)]
pub(super) struct Stop {
    dropped: Arc<AtomicBool>,
    end: Instant,
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Release);
    }
}

impl Stop {
    fn after(limit: Duration) -> Self {
        Self {
            dropped: Arc::default(),
            end: Instant::now() + limit,
        }
    }

    /// Whether it is to end.
    pub(super) fn over(&self) -> impl Fn() -> bool + Send + 'static {
        let (dropped, end) = (Arc::clone(&self.dropped), self.end);
        move || dropped.load(Ordering::Acquire) || Instant::now() >= end
    }

    /// Lets the connection's statements end with this.
    async fn of(connection: &mut SqliteConnection, limit: Duration) -> Result<Self, sqlx::Error> {
        let stop = Self::after(limit);
        let over = stop.over();
        let mut locked = connection.lock_handle().await?;
        locked.set_progress_handler(PROGRESS_STEPS, move || !over());
        Ok(stop)
    }
}

impl SqliteVectors {
    /// Names a store; its file is opened, and made, at its first use. It works on `runtime`,
    /// never on the one that guests run on.
    ///
    /// # Errors
    /// When the path cannot be a database's.
    pub fn new(
        path: &Path,
        read_only: bool,
        limits: VectorLimits,
        runtime: Handle,
    ) -> Result<Self, OpenError> {
        check_database(path, read_only)?;
        crate::sqlite_memory::count();
        let mut options = SqliteConnectOptions::new()
            .filename(path)
            .disable_statement_logging()
            .page_size(PAGE_BYTES)
            .busy_timeout(Duration::from_millis(limits.busy_timeout_ms))
            .pragma("temp_store", "memory")
            .pragma("trusted_schema", "off");
        if read_only {
            options = options.read_only(true);
        } else {
            options = options
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full);
        }
        if let Some(bytes) = limits.store_bytes {
            let pages = (bytes / u64::from(PAGE_BYTES)).max(1);
            options = options.pragma("max_page_count", pages.to_string());
        }
        let wait = Duration::from_millis(limits.busy_timeout_ms);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(wait.max(Duration::from_millis(1)))
                .after_connect(|connection, _| {
                    Box::pin(async move {
                        let mut locked = connection.lock_handle().await?;
                        sqlite_vec::install(&mut locked)?;
                        sqlite_bm25::install(&mut locked)
                    })
                })
                .after_release(|connection, _| Box::pin(end_transaction(connection)))
        };
        // A pool begins housekeeping when it is made.
        let _entered = runtime.enter();
        let writing = (!read_only).then(|| pool(1).connect_lazy_with(options.clone()));
        let reading = pool(READERS).connect_lazy_with(options.pragma("query_only", "on"));
        Ok(Self {
            shared: Arc::new(Shared {
                reading,
                writing,
                migrated: OnceCell::new(),
                copies: Arc::new(Copies::new(limits.memory_bytes)),
                limits,
                runtime,
            }),
        })
    }

    /// Makes the tables, at the first use.
    async fn migrated(&self) -> Result<(), VectorError> {
        if self.shared.migrated.initialized() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let migrated = run_on(&self.shared.runtime, async move {
            let migrate = async || match &shared.writing {
                Some(pool) => {
                    let mut connection = pool.acquire().await?;
                    migrate(&mut connection, MIGRATIONS).await?;
                    count_older(&mut connection).await
                }
                None => {
                    let steps = sqlx::query_scalar::<_, i64>("PRAGMA user_version");
                    if steps.fetch_one(&shared.reading).await? < MIGRATIONS.len() as i64 {
                        // An older Heyday's: it does not say what changes.
                        shared.copies.close();
                    }
                    Ok(())
                }
            };
            shared.migrated.get_or_try_init(migrate).await.copied()
        });
        let migrated = migrated.await.map_err(VectorError::internal)?;
        migrated.map_err(|error| translate(&error, &self.shared.limits))
    }

    /// The copies in memory.
    #[cfg(test)]
    pub(super) fn copies(&self) -> &Copies {
        &self.shared.copies
    }

    fn call_limit(&self) -> Duration {
        Duration::from_millis(self.shared.limits.call_timeout_ms)
    }

    /// Runs an operation in one transaction, on the host's runtime; nothing remains where it
    /// fails or nobody waits for it any more.
    async fn run<T, F>(
        &self,
        (pool, limit): (SqlitePool, Duration),
        begin: &'static str,
        operation: F,
    ) -> Result<T, VectorError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(
                &'a mut SqliteConnection,
            ) -> futures::future::BoxFuture<'a, Result<T, Failed>>
            + Send
            + 'static,
    {
        self.migrated().await?;
        let outcome = run_on(&self.shared.runtime, async move {
            let mut connection: PoolConnection<Sqlite> = pool.acquire().await?;
            let _stop = Stop::of(&mut connection, limit).await?;
            sqlx::query(begin).execute(&mut *connection).await?;
            let answer = operation(&mut connection).await?;
            sqlx::query("COMMIT").execute(&mut *connection).await?;
            Ok(answer)
        });
        match outcome.await.map_err(VectorError::internal)? {
            Ok(answer) => Ok(answer),
            Err(Failed::Refused(error)) => Err(error),
            Err(Failed::Database(error)) => Err(translate(&error, &self.shared.limits)),
        }
    }

    /// Reads, as of one moment.
    async fn read<T, F>(&self, operation: F) -> Result<T, VectorError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(
                &'a mut SqliteConnection,
            ) -> futures::future::BoxFuture<'a, Result<T, Failed>>
            + Send
            + 'static,
    {
        let pool = self.shared.reading.clone();
        self.run((pool, self.call_limit()), "BEGIN", operation)
            .await
    }

    /// Writes, all or nothing.
    async fn write<T, F>(&self, operation: F) -> Result<T, VectorError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(
                &'a mut SqliteConnection,
            ) -> futures::future::BoxFuture<'a, Result<T, Failed>>
            + Send
            + 'static,
    {
        let pool = self.shared.writing.clone().ok_or_else(read_only)?;
        self.run((pool, self.call_limit()), "BEGIN IMMEDIATE", operation)
            .await
    }

    /// Reads what a target has; nothing where the tenant is not there.
    async fn reading<T, F>(&self, target: &Target, operation: F) -> Result<T, VectorError>
    where
        T: Default + Send + 'static,
        F: for<'a> FnOnce(Reading<'a>) -> futures::future::BoxFuture<'a, Result<T, Failed>>
            + Send
            + 'static,
    {
        let (target, limits, limit) = (target.clone(), self.limits().clone(), self.call_limit());
        self.read(move |connection| {
            Box::pin(async move {
                match Reading::of(connection, &target, &limits, Stop::after(limit)).await? {
                    Some(reading) => operation(reading).await,
                    None => Ok(T::default()),
                }
            })
        })
        .await
    }

    /// Makes a copy for the searches that come, whoever waits for the one that asked for it.
    fn copy(&self, target: Target, due: Due) {
        let (store, limits, copies) = (self.clone(), self.limits().clone(), due.copies());
        let made = async move {
            let pool = store.shared.reading.clone();
            let made = store.run((pool, COPY_LIMIT), "BEGIN", move |connection| {
                Box::pin(async move {
                    let stop = Stop::after(COPY_LIMIT);
                    match Reading::of(connection, &target, &limits, stop).await? {
                        Some(reading) => make(reading, copies).await,
                        None => Ok(None),
                    }
                })
            });
            made.await.unwrap_or_else(|error| {
                tracing::debug!(%error, "vectors are searched without a copy");
                None
            })
        };
        self.shared.runtime.spawn(due.fill(made));
    }
}

#[async_trait]
impl Store for SqliteVectors {
    fn backend(&self) -> &'static str {
        "sqlite"
    }

    fn read_only(&self) -> bool {
        self.shared.writing.is_none()
    }

    fn limits(&self) -> &VectorLimits {
        &self.shared.limits
    }

    async fn diagnose(&self) -> Vec<Finding> {
        let read = || async { self.collections().await.map(drop) };
        let none = format!("heyday-doctor-{}", uuid::Uuid::now_v7());
        let write = async { self.drop_collection(none).await.map(drop) };
        let asked = Asked {
            version: Some(sqlite_file::version()),
            read_only: self.read_only(),
            advice: sqlite_file::ADVICE,
        };
        of_store(asked, read, write).await
    }

    /// Waits for what runs.
    async fn close(&self) {
        self.shared.copies.close();
        if let Some(writing) = &self.shared.writing {
            writing.close().await;
        }
        self.shared.reading.close().await;
    }

    async fn create(
        &self,
        name: String,
        specification: Specification,
    ) -> Result<bool, VectorError> {
        let limit = self.shared.limits.collections;
        self.write(move |connection| {
            Box::pin(async move {
                if let Some(found) = find(connection, &name).await? {
                    if found.specification == specification {
                        return Ok(false);
                    }
                    return Err(already_exists(&name).into());
                }
                let count: i64 = sqlx::query_scalar("SELECT count(*) FROM collections")
                    .fetch_one(&mut *connection)
                    .await?;
                if count >= i64::from(limit) {
                    return Err(too_many_collections(limit).into());
                }
                let kept = serde_json::to_string(&specification).map_err(VectorError::internal)?;
                let number: i64 = sqlx::query_scalar(
                    "INSERT INTO collections (name, specification, counted) VALUES (?1, ?2, 1) \
                     RETURNING number",
                )
                .bind(&name)
                .bind(kept)
                .fetch_one(&mut *connection)
                .await?;
                let made = Tables { number }.create(&specification);
                sqlx::raw_sql(sqlx::AssertSqlSafe(made))
                    .execute(&mut *connection)
                    .await?;
                Ok(true)
            })
        })
        .await
    }

    async fn collections(&self) -> Result<Vec<String>, VectorError> {
        self.read(|connection| {
            Box::pin(async move {
                let names = sqlx::query_scalar("SELECT name FROM collections ORDER BY name");
                Ok(names.fetch_all(connection).await?)
            })
        })
        .await
    }

    async fn find(&self, name: String) -> Result<Option<Collection>, VectorError> {
        self.read(move |connection| Box::pin(async move { find(connection, &name).await }))
            .await
    }

    async fn drop_collection(&self, name: String) -> Result<bool, VectorError> {
        let dropped = self.write(move |connection| {
            Box::pin(async move { drop_collection(connection, &name).await })
        });
        let dropped = dropped.await?;
        if let Some(key) = &dropped {
            self.shared.copies.forget(key, None);
        }
        Ok(dropped.is_some())
    }

    async fn tenants(
        &self,
        collection: &Collection,
        limit: u32,
        after: Option<String>,
    ) -> Result<Vec<String>, VectorError> {
        let collection = collection.clone();
        self.read(move |connection| {
            Box::pin(async move {
                let tables = tables(connection, &collection).await?;
                let names = sqlx::query_scalar(
                    "SELECT name FROM tenants WHERE collection = ?1 AND name > ?2 \
                     ORDER BY name LIMIT ?3",
                )
                .bind(tables.number)
                .bind(after.unwrap_or_default())
                .bind(limit);
                Ok(names.fetch_all(connection).await?)
            })
        })
        .await
    }

    async fn drop_tenant(
        &self,
        collection: &Collection,
        name: String,
    ) -> Result<bool, VectorError> {
        let (copies, key) = (Arc::clone(&self.shared.copies), collection.key.clone());
        let (collection, tenant_name) = (collection.clone(), name.clone());
        let dropped = self.write(move |connection| {
            Box::pin(async move {
                let tables = tables(connection, &collection).await?;
                drop_tenant(connection, tables, &collection.specification, &name).await
            })
        });
        let dropped = dropped.await?;
        copies.forget(&key, Some(&tenant_name));
        Ok(dropped)
    }

    async fn upsert(&self, target: &Target, entries: Vec<Entry>) -> Result<(), VectorError> {
        let target = target.clone();
        self.write(move |connection| {
            Box::pin(async move {
                let tables = tables(connection, &target.collection).await?;
                let tenant = match target.tenant.as_deref() {
                    None => 0,
                    Some(name) => match tenant(connection, tables, Some(name)).await? {
                        Some(tenant) => tenant,
                        None => new_tenant(connection, tables, name).await?,
                    },
                };
                let specification = &target.collection.specification;
                upsert(connection, tables, specification, tenant, entries).await
            })
        })
        .await
    }

    async fn get(
        &self,
        target: &Target,
        ids: Vec<String>,
        want: Want,
    ) -> Result<Vec<Option<Entry>>, VectorError> {
        let count = ids.len();
        let found: Vec<Option<Entry>> = self
            .reading(target, move |reading| Box::pin(reading.by_ids(ids, want)))
            .await?;
        // A tenant that is not there has none.
        Ok(if found.is_empty() {
            vec![None; count]
        } else {
            found
        })
    }

    async fn delete(&self, target: &Target, ids: Vec<String>) -> Result<u64, VectorError> {
        let ids = serde_json::Value::from(ids).to_string();
        let mut condition = Statement::default();
        condition
            .push("i.id IN (SELECT value FROM json_each(")
            .param(Param::Text(ids))
            .push("))");
        self.delete_rows(target, condition).await
    }

    async fn delete_where(&self, target: &Target, filter: Filter) -> Result<u64, VectorError> {
        let mut condition = Statement::default();
        condition.condition(&target.collection.specification, &filter);
        self.delete_rows(target, condition).await
    }

    async fn count(&self, target: &Target, filter: Option<Filter>) -> Result<u64, VectorError> {
        self.reading(target, move |mut reading| {
            Box::pin(async move { reading.count(filter).await })
        })
        .await
    }

    async fn nearest(
        &self,
        target: &Target,
        vector: Vec<f32>,
        within: Option<f32>,
        query: Query,
    ) -> Result<Vec<Found>, VectorError> {
        let (store, target) = (self.clone(), target.clone());
        self.read(move |connection| {
            Box::pin(async move {
                // Before the transaction reads, so that it sees what the copy has, or later.
                let turn = store.shared.copies.turn(&target).await;
                let stop = Stop::after(store.call_limit());
                let reading = Reading::of(connection, &target, store.limits(), stop).await?;
                let Some(mut reading) = reading else {
                    return Ok(Vec::new());
                };
                let copy = match turn {
                    Some(turn) => turn.vectors(&mut reading).await?,
                    None => (None, None),
                };
                if let (_, Some(due)) = copy {
                    store.copy(target.clone(), due);
                }
                reading.nearest(vector, within, query, copy.0).await
            })
        })
        .await
    }

    async fn keywords(
        &self,
        target: &Target,
        words: Vec<String>,
        properties: Vec<usize>,
        query: Query,
    ) -> Result<Vec<Found>, VectorError> {
        self.reading(target, move |reading| {
            Box::pin(reading.keywords(words, properties, query))
        })
        .await
    }
}

impl SqliteVectors {
    /// Deletes the items of a target that fulfil a condition on the row `i`.
    async fn delete_rows(&self, target: &Target, condition: Statement) -> Result<u64, VectorError> {
        let target = target.clone();
        self.write(move |connection| {
            Box::pin(async move {
                let tables = tables(connection, &target.collection).await?;
                let name = target.tenant.as_deref();
                let Some(tenant) = tenant(connection, tables, name).await? else {
                    return Ok(0);
                };
                let specification = &target.collection.specification;
                delete_rows(connection, tables, specification, tenant, condition).await
            })
        })
        .await
    }
}
