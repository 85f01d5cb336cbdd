//! Entries in a PostgreSQL database: tables of the binding's own schema.
//!
//! A write is one statement, or one transaction that holds its entry's row; the server's
//! clock says what has ended, so that hosts whose clocks differ agree. Versions come from
//! a sequence, taken while the row is held, so that an entry's only rise. An entry that
//! has ended is skipped by every read, and removed by later writes, some at a time.
//!
//! The operations of [`Store`] stand here; what an increment does within its transaction
//! in `addition.rs`, the refusal of a write in `condition.rs`, the removal of what has ended
//! in `ended.rs`, and what a failure means in `error.rs`.

/// The server's time, in milliseconds since the Unix epoch.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    };
}
/// Whether an entry has not ended.
macro_rules! live {
    () => {
        concat!("(expires_ms IS NULL OR expires_ms > ", now!(), ")")
    };
}

mod addition;
mod condition;
mod ended;
mod error;
mod rows;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use self::addition::added;
use self::condition::{unmet, version};
use self::ended::sweep;
use self::error::{Failed, translate};
use self::rows::{bytes, entry, null, number, optional, text};
use super::{
    Condition, Entry, KvCode, KvError, KvLimits, Page, Store, after_prefix, check_condition, page,
};
use crate::diagnosis::Finding;
use crate::postgres::{
    Lease, Param, Pool, PoolOptions, PostgresConfig, PostgresConfigError, text_array,
};
use crate::task::begin_here;

/// What a message has beside a value.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Every so many writes remove some of what has ended.
const SWEEP_EACH: u32 = 32;
/// How often an increment begins again whose row was swept away under it.
const TRIES: u32 = 10;

/// A store in a database.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pool: Pool,
    read_only: bool,
    limits: KvLimits,
    /// Set once the tables are there.
    migrated: OnceCell<()>,
    writes: AtomicU32,
}

impl PostgresStore {
    /// Names a store; it is connected to, and its tables are made, at its first use. It
    /// works on `runtime`, never on the one that guests run on.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(
        config: &PostgresConfig,
        read_only: bool,
        limits: KvLimits,
        runtime: Handle,
    ) -> Result<Self, PostgresConfigError> {
        let options = PoolOptions {
            connections: limits.connections,
            read_only,
            statement_timeout: Duration::from_millis(limits.statement_timeout_ms),
            lock_timeout: Duration::from_millis(limits.busy_timeout_ms),
            // Bytes are written as two digits each.
            message_bytes: limits.value_bytes.saturating_mul(2) + MESSAGE_BYTES,
            guests: false,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                pool: Pool::new(config, options, runtime)?,
                read_only,
                limits,
                migrated: OnceCell::new(),
                writes: AtomicU32::new(0),
            }),
        })
    }

    /// What no two bindings may share.
    #[must_use]
    pub fn identity(&self) -> String {
        self.shared.pool.identity()
    }

    /// A connection to a database that has the tables.
    async fn lease(&self) -> Result<Lease, Failed> {
        let mut lease = self.shared.pool.acquire().await?;
        if !self.shared.read_only {
            let migrated = self
                .shared
                .migrated
                .get_or_try_init(|| tables::migrate(&mut lease));
            migrated.await?;
            lease.begin();
        }
        Ok(lease)
    }

    /// Begins here, and goes on on the host's runtime; what nobody waits for any more is undone there.
    async fn on_host<T, F>(&self, operation: F) -> Result<T, KvError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failed>> + Send + 'static,
    {
        let outcome = begin_here(self.shared.pool.runtime(), operation).await;
        match outcome.map_err(KvError::internal)? {
            Ok(value) => Ok(value),
            Err(Failed::Refused(error)) => Err(error),
            Err(Failed::Postgres(error)) => {
                error.log(&self.identity());
                Err(translate(error))
            }
        }
    }

    /// As [`Self::on_host`], for a write.
    async fn write<T, F>(&self, operation: impl FnOnce(Self) -> F) -> Result<T, KvError>
    where
        T: Send + 'static,
        F: Future<Output = Result<(T, Lease), Failed>> + Send + 'static,
    {
        if self.shared.read_only {
            return Err(KvError::new(
                KvCode::CapabilityDenied,
                "the binding is read-only",
            ));
        }
        let this = self.clone();
        let operation = operation(self.clone());
        self.on_host(async move {
            let (answer, mut lease) = operation.await?;
            if this
                .shared
                .writes
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(SWEEP_EACH)
                && let Err(error) = sweep(&mut lease).await
            {
                tracing::debug!(?error, "ended entries were not removed");
            }
            Ok(answer)
        })
        .await
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn backend(&self) -> &'static str {
        "postgresql"
    }

    fn read_only(&self) -> bool {
        self.shared.read_only
    }

    fn limits(&self) -> &KvLimits {
        &self.shared.limits
    }

    async fn diagnose(&self) -> Vec<Finding> {
        crate::postgres::diagnose(&self.shared.pool).await
    }

    async fn location(&self) -> Option<crate::postgres::Place> {
        crate::postgres::location(&self.shared.pool).await
    }

    /// Closes its connections; those in use when they come back.
    async fn close(&self) {
        self.shared.pool.close().await;
    }

    async fn get(&self, keys: Vec<String>) -> Result<Vec<Option<Entry>>, KvError> {
        let this = self.clone();
        self.on_host(async move {
            let mut lease = this.lease().await?;
            let statement = concat!(
                "SELECT value, version, expires_ms, key FROM heyday_kv_entries \
                 WHERE key = ANY ($1::text[]) AND ",
                live!()
            );
            let rows = lease.wire().rows(statement, &[text_array(&keys)]).await?;
            let mut found = std::collections::HashMap::new();
            for row in rows {
                found.insert(text(&row, 3)?.to_owned(), entry(&row)?);
            }
            Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
        })
        .await
    }

    async fn set(
        &self,
        key: String,
        value: Vec<u8>,
        ttl: Option<Duration>,
        condition: Condition,
    ) -> Result<u64, KvError> {
        self.write(|this| async move {
            let mut lease = this.lease().await?;
            let mut params = vec![Param::text(&key), bytes(value), optional(ttl)];
            let statement = match condition {
                Condition::Always => concat!(
                    "INSERT INTO heyday_kv_entries AS e (key, value, version, expires_ms) \
                     VALUES ($1, $2, nextval('heyday_kv_versions'), ",
                    now!(),
                    " + $3::bigint) ON CONFLICT (key) DO UPDATE SET value = excluded.value, \
                     version = nextval('heyday_kv_versions'), expires_ms = excluded.expires_ms \
                     RETURNING version"
                ),
                Condition::IfAbsent => concat!(
                    "INSERT INTO heyday_kv_entries AS e (key, value, version, expires_ms) \
                     VALUES ($1, $2, nextval('heyday_kv_versions'), ",
                    now!(),
                    " + $3::bigint) ON CONFLICT (key) DO UPDATE SET value = excluded.value, \
                     version = nextval('heyday_kv_versions'), expires_ms = excluded.expires_ms \
                     WHERE e.expires_ms <= ",
                    now!(),
                    " RETURNING version"
                ),
                Condition::IfVersion(version) => {
                    params.push(Param::text(&version.to_string()));
                    concat!(
                        "UPDATE heyday_kv_entries SET value = $2, \
                         version = nextval('heyday_kv_versions'), expires_ms = ",
                        now!(),
                        " + $3::bigint WHERE key = $1 AND version = $4::numeric AND ",
                        live!(),
                        " RETURNING version"
                    )
                }
            };
            let rows = lease.wire().rows(statement, &params).await?;
            match rows.first() {
                Some(row) => Ok((number(row, 0)?.unsigned_abs(), lease)),
                None => Err(unmet(&mut lease, &key, condition).await?.into()),
            }
        })
        .await
    }

    async fn delete(&self, key: String, condition: Condition) -> Result<bool, KvError> {
        self.write(|this| async move {
            let mut lease = this.lease().await?;
            let key_param = Param::text(&key);
            let deleted = match condition {
                Condition::Always => {
                    let statement = concat!(
                        "DELETE FROM heyday_kv_entries WHERE key = $1 RETURNING ",
                        live!()
                    );
                    let rows = lease.wire().rows(statement, &[key_param]).await?;
                    rows.first().map(|row| text(row, 0)).transpose()? == Some("t")
                }
                Condition::IfAbsent => {
                    check_condition(&condition, version(&mut lease, &key).await?)?;
                    false
                }
                Condition::IfVersion(version) => {
                    let statement = concat!(
                        "DELETE FROM heyday_kv_entries WHERE key = $1 \
                         AND version = $2::numeric AND ",
                        live!(),
                        " RETURNING 1"
                    );
                    let params = [key_param, Param::text(&version.to_string())];
                    let rows = lease.wire().rows(statement, &params).await?;
                    if rows.is_empty() {
                        return Err(unmet(&mut lease, &key, condition).await?.into());
                    }
                    true
                }
            };
            Ok((deleted, lease))
        })
        .await
    }

    async fn increment(
        &self,
        key: String,
        delta: i64,
        ttl: Option<Duration>,
        once: Option<String>,
    ) -> Result<i64, KvError> {
        self.write(|this| async move {
            let mut lease = this.lease().await?;
            for _ in 0..TRIES {
                lease.begin();
                lease.wire().run("BEGIN").await?;
                let sum = added(&mut lease, &key, delta, ttl, once.as_deref()).await;
                match sum {
                    Ok(Some(sum)) => {
                        lease.wire().run("COMMIT").await?;
                        return Ok((sum, lease));
                    }
                    Ok(None) => lease.wire().run("ROLLBACK").await?,
                    // The connection is rolled back when it is given back.
                    Err(error) => return Err(error),
                }
            }
            Err(KvError::new(KvCode::Conflict, "other writers were faster all the time").into())
        })
        .await
    }

    async fn list(
        &self,
        prefix: String,
        limit: u32,
        after: Option<String>,
    ) -> Result<Page, KvError> {
        // No key has a zero character, and PostgreSQL knows no text that has one.
        if prefix.contains('\0') {
            return Ok(Page {
                keys: Vec::new(),
                next: None,
            });
        }
        let this = self.clone();
        self.on_host(async move {
            let mut lease = this.lease().await?;
            let from = after.as_deref().unwrap_or_default();
            let from = from.split('\0').next().unwrap_or_default();
            let statement = concat!(
                "SELECT key FROM heyday_kv_entries \
                 WHERE key >= $1 AND key > $2 AND starts_with(key, $1) AND ",
                live!(),
                " AND ($3::text IS NULL OR key < $3::text COLLATE \"C\") \
                 ORDER BY key LIMIT $4::bigint"
            );
            let end = after_prefix(&prefix);
            let end = end.as_deref().map_or_else(null, Param::text);
            let more = Param::text(&(u64::from(limit) + 1).to_string());
            let params = [Param::text(&prefix), Param::text(from), end, more];
            let rows = lease.wire().rows(statement, &params).await?;
            let mut keys = Vec::with_capacity(rows.len());
            for row in &rows {
                keys.push(text(row, 0)?.to_owned());
            }
            Ok(page(keys, limit))
        })
        .await
    }
}
