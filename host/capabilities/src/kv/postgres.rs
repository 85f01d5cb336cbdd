//! Entries in a PostgreSQL database: tables of the binding's own schema.
//!
//! A write is one statement, or one transaction that holds its entry's row; the server's
//! clock says what has ended, so that hosts whose clocks differ agree. Versions come from
//! a sequence, taken while the row is held, so that an entry's only rise. An entry that
//! has ended is skipped by every read, and removed by later writes, some at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use postgres_types::Type;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use super::postgres_tables;
use super::{
    Condition, Entry, KvCode, KvError, KvLimits, ONCE_KEPT, Page, Store, add, after_prefix,
    check_condition, milliseconds, page,
};
use crate::diagnosis::Finding;
use crate::postgres::{
    Lease, Param, PgError, Pool, PoolOptions, PostgresConfig, PostgresConfigError, from_hex,
    text_array,
};
use crate::task::begin_here;

/// What a message has beside a value.
const MESSAGE_BYTES: u64 = 1 << 20;
/// Every so many writes remove some of what has ended, at most so much.
const SWEEP_EACH: u32 = 32;
const SWEPT: i64 = 200;
/// How often an increment begins again whose row was swept away under it.
const TRIES: u32 = 10;

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
                .get_or_try_init(|| postgres_tables::migrate(&mut lease));
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

/// Why an operation was not done.
pub(super) enum Failed {
    Refused(KvError),
    Postgres(PgError),
}

impl From<KvError> for Failed {
    fn from(error: KvError) -> Self {
        Self::Refused(error)
    }
}

impl From<PgError> for Failed {
    fn from(error: PgError) -> Self {
        Self::Postgres(error)
    }
}

pub(super) type Row = Vec<Option<Bytes>>;

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

/// Adds within the transaction that is open; none where the row was swept away.
async fn added(
    lease: &mut Lease,
    key: &str,
    delta: i64,
    ttl: Option<Duration>,
    once: Option<&str>,
) -> Result<Option<i64>, Failed> {
    let wire = lease.wire();
    let key = Param::text(key);
    // A row to hold, where there is none: one that has ended.
    let hold = "INSERT INTO heyday_kv_entries (key, value, version, expires_ms) \
                VALUES ($1, '', 0, 0) ON CONFLICT (key) DO NOTHING";
    wire.rows(hold, std::slice::from_ref(&key)).await?;
    let held = concat!(
        "SELECT value, version, expires_ms, ",
        live!(),
        " FROM heyday_kv_entries WHERE key = $1 FOR UPDATE"
    );
    let rows = wire.rows(held, std::slice::from_ref(&key)).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    if let Some(once) = once {
        let before = concat!(
            "SELECT sum FROM heyday_kv_additions \
             WHERE key = $1 AND once = $2 AND at_ms > ",
            now!(),
            " - $3::bigint"
        );
        let params = [key.clone(), Param::text(once), optional(Some(ONCE_KEPT))];
        if let Some(row) = wire.rows(before, &params).await?.first() {
            return Ok(Some(number(row, 0)?));
        }
    }
    let found = if text(row, 3)? == "t" {
        Some(entry(row)?)
    } else {
        None
    };
    let sum = add(found.as_ref().map(|entry| entry.value.as_slice()), delta)?;
    let value = bytes(sum.to_string().into_bytes());
    // An entry that is there keeps its end.
    let (put, params) = match found {
        Some(_) => (
            "UPDATE heyday_kv_entries SET value = $2, version = nextval('heyday_kv_versions') \
             WHERE key = $1",
            vec![key.clone(), value],
        ),
        None => (
            concat!(
                "UPDATE heyday_kv_entries SET value = $2, \
                 version = nextval('heyday_kv_versions'), expires_ms = ",
                now!(),
                " + $3::bigint WHERE key = $1"
            ),
            vec![key.clone(), value, optional(ttl)],
        ),
    };
    wire.rows(put, &params).await?;
    if let Some(once) = once {
        let note = concat!(
            "INSERT INTO heyday_kv_additions (key, once, sum, at_ms) \
             VALUES ($1, $2, $3::bigint, ",
            now!(),
            ") ON CONFLICT (key, once) DO UPDATE SET sum = excluded.sum, at_ms = excluded.at_ms"
        );
        let sum = Param::text(&sum.to_string());
        wire.rows(note, &[key, Param::text(once), sum]).await?;
    }
    Ok(Some(sum))
}

/// The version of the entry under a key, unless it has ended.
async fn version(lease: &mut Lease, key: &str) -> Result<Option<u64>, Failed> {
    let statement = concat!(
        "SELECT version FROM heyday_kv_entries WHERE key = $1 AND ",
        live!()
    );
    let rows = lease.wire().rows(statement, &[Param::text(key)]).await?;
    let version = rows.first().map(|row| number(row, 0)).transpose()?;
    Ok(version.map(i64::unsigned_abs))
}

/// The refusal of a write whose condition did not hold when it was to be done.
async fn unmet(lease: &mut Lease, key: &str, condition: Condition) -> Result<KvError, Failed> {
    let found = version(lease, key).await?;
    Ok(match check_condition(&condition, found) {
        Err(error) => error,
        // It holds again by now; it did not then.
        Ok(()) => KvError::new(
            KvCode::PreconditionFailed,
            "the entry was another one at that moment",
        ),
    })
}

/// Removes some of what has ended, but nothing that someone holds.
async fn sweep(lease: &mut Lease) -> Result<(), PgError> {
    lease.begin();
    let entries = concat!(
        "DELETE FROM heyday_kv_entries WHERE key IN (SELECT key FROM heyday_kv_entries \
         WHERE expires_ms <= ",
        now!(),
        " LIMIT $1::bigint FOR UPDATE SKIP LOCKED)"
    );
    let most = Param::text(&SWEPT.to_string());
    lease
        .wire()
        .rows(entries, std::slice::from_ref(&most))
        .await?;
    let additions = concat!(
        "DELETE FROM heyday_kv_additions WHERE (key, once) IN \
         (SELECT key, once FROM heyday_kv_additions WHERE at_ms <= ",
        now!(),
        " - $2::bigint LIMIT $1::bigint FOR UPDATE SKIP LOCKED)"
    );
    let params = [most, optional(Some(ONCE_KEPT))];
    lease.wire().rows(additions, &params).await?;
    Ok(())
}

fn bytes(value: Vec<u8>) -> Param {
    Param {
        oid: Type::BYTEA.oid(),
        binary: true,
        bytes: Some(value.into()),
    }
}

fn null() -> Param {
    Param {
        oid: 0,
        binary: false,
        bytes: None,
    }
}

/// A time in milliseconds, or NULL.
fn optional(duration: Option<Duration>) -> Param {
    duration.map_or_else(null, |duration| {
        Param::text(&milliseconds(duration).to_string())
    })
}

pub(super) fn text(row: &Row, index: usize) -> Result<&str, PgError> {
    row.get(index)
        .and_then(Option::as_ref)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .ok_or_else(|| PgError::protocol("a value is missing"))
}

pub(super) fn number(row: &Row, index: usize) -> Result<i64, PgError> {
    let number = text(row, index)?.parse();
    number.map_err(|_| PgError::protocol("a number is none"))
}

/// An entry from its value, version and end.
fn entry(row: &Row) -> Result<Entry, PgError> {
    let value = row.first().and_then(Option::as_ref);
    let value = value.and_then(|digits| from_hex(digits));
    let expires = match row.get(2) {
        Some(Some(_)) => Some(number(row, 2)?.unsigned_abs()),
        _ => None,
    };
    Ok(Entry {
        value: value.ok_or_else(|| PgError::protocol("bytes are none"))?,
        version: number(row, 1)?.unsigned_abs(),
        expires_ms: expires,
    })
}

/// What a failure of PostgreSQL is in the words of `heyday:kv`.
fn translate(error: PgError) -> KvError {
    let unavailable = |message: &str| KvError::new(KvCode::Unavailable, message);
    match error {
        PgError::Away(_) => unavailable("the store cannot be reached; try again"),
        PgError::Refused(_) => unavailable(
            "the database does not let the host in, or its tables cannot be used: an operator \
             must act; the host's log has the cause",
        ),
        PgError::Full => unavailable("no connection to the store became free in time"),
        PgError::Timeout => unavailable("the store did not answer in time"),
        PgError::TooLarge => KvError::new(
            KvCode::LimitExceeded,
            "a value is larger than the binding allows",
        ),
        PgError::Copy => KvError::internal("an unexpected copy"),
        PgError::Protocol(cause) => KvError::internal(cause),
        PgError::Server(error) => match error.code.as_str() {
            "40001" | "40P01" | "55P03" => KvError::new(
                KvCode::Conflict,
                "others wrote all the time that the binding allows to wait",
            ),
            "57014" => unavailable("the store did not answer in time"),
            "53100" => unavailable("the store's disk is full")
                .with_details(serde_json::json!({ "kind": "disk-full" })),
            // A role without its rights or its schema, or a read-only binding that nobody wrote to.
            "42501" | "42P01" | "25006" | "3F000" => {
                tracing::error!(
                    code = error.code,
                    cause = error.message,
                    "a store has no tables"
                );
                unavailable("the store's tables cannot be used: an operator must act")
            }
            _ => KvError::internal(format!("PostgreSQL {}: {}", error.code, error.message)),
        },
    }
}
