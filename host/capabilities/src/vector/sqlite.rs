//! Collections in a SQLite database file, in WAL mode, with connections for reading and one
//! for writing.
//!
//! Distances are computed by sqlite-vec for every vector that passes the filter, so that
//! answers are exact and a search takes as long as there are vectors; words are found by
//! FTS5. The layout is in `sqlite_tables`, searches are in `sqlite_search`. SQL is ours
//! alone. A statement is stopped where nobody waits for it any more and at the call's time
//! limit, by SQLite's progress handler. Each write is one transaction, which is synced before
//! it is answered.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Row as _, Sqlite, SqliteConnection};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::sqlite_error::{Failed, translate};
use super::sqlite_filter::{Param, Statement};
use super::sqlite_search::Reading;
use super::sqlite_tables::{MIGRATIONS, Tables, rows_of};
use super::sqlite_write::{delete_rows, new_tenant, put};
use super::{
    Collection, Entry, Filter, Found, Query, Specification, Store, Target, VectorError,
    VectorLimits, Want, already_exists, not_found, read_only, sqlite_vec, too_many_collections,
};
use crate::diagnosis::{Asked, Finding, of_store};
use crate::sqlite_file::{self, OpenError, check_database, end_transaction, migrate};
use crate::task::run_on;

/// Connections that read.
const READERS: u32 = 4;
const PAGE_BYTES: u32 = 8_192;
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
    limits: VectorLimits,
    runtime: Handle,
}

/// Ends, when it is dropped, what its connection still does.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Stop {
    /// Lets the connection's statements end with this, and after so long.
    async fn of(connection: &mut SqliteConnection, limit: Duration) -> Result<Self, sqlx::Error> {
        let stop = Self(Arc::default());
        let (stopped, end) = (Arc::clone(&stop.0), Instant::now() + limit);
        let mut locked = connection.lock_handle().await?;
        locked.set_progress_handler(PROGRESS_STEPS, move || {
            !stopped.load(Ordering::Acquire) && Instant::now() < end
        });
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
                    Box::pin(
                        async move { sqlite_vec::install(&mut connection.lock_handle().await?) },
                    )
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
            let Some(pool) = &shared.writing else {
                return Ok(());
            };
            let migrate = async || migrate(&mut *pool.acquire().await?, MIGRATIONS).await;
            shared.migrated.get_or_try_init(migrate).await.copied()
        });
        let migrated = migrated.await.map_err(VectorError::internal)?;
        migrated.map_err(|error| translate(&error, &self.shared.limits))
    }

    /// Runs an operation in one transaction, on the host's runtime; nothing remains where it
    /// fails or nobody waits for it any more.
    async fn run<T, F>(
        &self,
        pool: SqlitePool,
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
        let limit = Duration::from_millis(self.shared.limits.call_timeout_ms);
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
        self.run(pool, "BEGIN", operation).await
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
        self.run(pool, "BEGIN IMMEDIATE", operation).await
    }

    /// Reads what a target has; nothing where the tenant is not there.
    async fn reading<T, F>(&self, target: &Target, operation: F) -> Result<T, VectorError>
    where
        T: Default + Send + 'static,
        F: for<'a> FnOnce(Reading<'a>) -> futures::future::BoxFuture<'a, Result<T, Failed>>
            + Send
            + 'static,
    {
        let (target, limit) = (target.clone(), self.shared.limits.call_bytes);
        self.read(move |connection| {
            Box::pin(async move {
                let tables = tables(connection, &target.collection).await?;
                let Some(tenant) = tenant(connection, tables, target.tenant.as_deref()).await?
                else {
                    return Ok(T::default());
                };
                let specification = &target.collection.specification;
                operation(Reading {
                    connection,
                    tables,
                    specification,
                    rows: rows_of(tenant),
                    tenant,
                    limit,
                })
                .await
            })
        })
        .await
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
                    "INSERT INTO collections (name, specification) VALUES (?1, ?2) \
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
        self.write(move |connection| {
            Box::pin(async move {
                let Some(found) = find(connection, &name).await? else {
                    return Ok(false);
                };
                let tables = number_of(&found)?;
                sqlx::raw_sql(sqlx::AssertSqlSafe(tables.drop(&found.specification)))
                    .execute(&mut *connection)
                    .await?;
                for statement in [
                    "DELETE FROM tenants WHERE collection = ?1",
                    "DELETE FROM collections WHERE number = ?1",
                ] {
                    sqlx::query(statement)
                        .bind(tables.number)
                        .execute(&mut *connection)
                        .await?;
                }
                Ok(true)
            })
        })
        .await
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
        let collection = collection.clone();
        self.write(move |connection| {
            Box::pin(async move {
                let tables = tables(connection, &collection).await?;
                let Some(number) = tenant(connection, tables, Some(&name)).await? else {
                    return Ok(false);
                };
                for statement in tables.delete_range(&collection.specification, &rows_of(number)) {
                    statement.query(true).execute(&mut *connection).await?;
                }
                sqlx::query("DELETE FROM tenants WHERE collection = ?1 AND name = ?2")
                    .bind(tables.number)
                    .bind(&name)
                    .execute(&mut *connection)
                    .await?;
                Ok(true)
            })
        })
        .await
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
                for entry in entries {
                    put(connection, tables, specification, tenant, entry).await?;
                }
                Ok(())
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
        self.reading(target, move |reading| Box::pin(reading.count(filter)))
            .await
    }

    async fn nearest(
        &self,
        target: &Target,
        vector: Vec<f32>,
        within: Option<f32>,
        query: Query,
    ) -> Result<Vec<Found>, VectorError> {
        self.reading(target, move |reading| {
            Box::pin(reading.nearest(vector, within, query))
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
                let deleted = delete_rows(connection, tables, specification, tenant, &condition);
                Ok(deleted.await?)
            })
        })
        .await
    }
}

fn number_of(collection: &Collection) -> Result<Tables, VectorError> {
    let number = collection.key.parse().map_err(VectorError::internal)?;
    Ok(Tables { number })
}

/// The tables of a collection, if it is still there.
async fn tables(
    connection: &mut SqliteConnection,
    collection: &Collection,
) -> Result<Tables, Failed> {
    let tables = number_of(collection)?;
    let found: Option<i64> = sqlx::query_scalar("SELECT number FROM collections WHERE number = ?1")
        .bind(tables.number)
        .fetch_optional(connection)
        .await?;
    if found.is_some() {
        return Ok(tables);
    }
    Err(not_found(&collection.name).into())
}

async fn find(connection: &mut SqliteConnection, name: &str) -> Result<Option<Collection>, Failed> {
    let row = sqlx::query("SELECT number, specification FROM collections WHERE name = ?1")
        .bind(name)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let (number, kept): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
    let specification = serde_json::from_str(&kept).map_err(VectorError::internal)?;
    Ok(Some(Collection {
        name: name.to_owned(),
        key: number.to_string(),
        specification,
    }))
}

/// The number of a tenant, if it is there; 0 where a collection has none.
async fn tenant(
    connection: &mut SqliteConnection,
    tables: Tables,
    name: Option<&str>,
) -> Result<Option<i64>, sqlx::Error> {
    let Some(name) = name else {
        return Ok(Some(0));
    };
    sqlx::query_scalar("SELECT number FROM tenants WHERE collection = ?1 AND name = ?2")
        .bind(tables.number)
        .bind(name)
        .fetch_optional(connection)
        .await
}
