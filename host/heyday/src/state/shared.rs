//! What several servers on one database of PostgreSQL tell each other, and what each does
//! alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use uuid::Uuid;

use super::backend::{ACQUIRE_TIME, Backend, Tx, values};
use super::lease::within;
use super::replies::Unreleased;
use super::versions::{UploadRow, upload_row};
use super::{HostDb, StateError, micros, micros_of};

/// A server that was not seen for longer is gone: what it had is anybody's.
pub const ALIVE: Duration = Duration::from_secs(5);
/// How often a server says that it is there, and looks for what it was not told.
pub const LOOK: Duration = Duration::from_secs(1);
/// A server that has not seen the database for longer does not know what was granted.
pub const UNSURE: Duration = Duration::from_secs(10);

/// Holds while entries of the audit are written, so that ids appear in their order.
pub(super) const AUDIT_LOCK: i64 = 0x6865_7964_617a;
/// The same for log lines.
pub(super) const LINES_LOCK: i64 = 0x6865_7964_617b;

/// Told with each change of the registry.
const CHANGES: &str = "heyday_changes";
/// Told with each batch of receipts and log lines: who wrote it.
const RECORDS: &str = "heyday_records";
/// Progress of attempts, for those who follow a run at another server.
const PROGRESS: &str = "heyday_progress";
/// Bytes of a notification: PostgreSQL takes less than 8,000.
const LONGEST: usize = 7_900;

/// The database's time in microseconds since 1970: servers' clocks may differ.
macro_rules! now_us {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}

/// Whether the server that a column names is gone.
macro_rules! server_is_gone {
    ($owner:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM servers WHERE servers.id = ",
            $owner,
            " AND servers.seen_us > ",
            $crate::state::shared::now_us!(),
            // As `ALIVE`.
            " - 5000000)"
        )
    };
}
pub(super) use {now_us, server_is_gone};

/// What a server knows of itself among others.
#[derive(Debug)]
pub struct Shared {
    id: Uuid,
    /// When the database was seen last.
    sure: watch::Sender<Instant>,
    /// Whether it did not answer the last time.
    away: AtomicBool,
    /// Keys that are to be given back.
    pub(super) unreleased: Unreleased,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            id: Uuid::now_v7(),
            sure: watch::channel(Instant::now()).0,
            away: AtomicBool::new(false),
            unreleased: Unreleased::default(),
        }
    }
}

impl Shared {
    /// This server, until it ends.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        self.id
    }

    /// Whether what this server knows is true still.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        self.sure.borrow().elapsed() < UNSURE
    }

    /// Waits until this server does not know any more what was granted.
    pub async fn unsure(&self) {
        let mut sure = self.sure.subscribe();
        loop {
            let until = *sure.borrow_and_update() + UNSURE;
            if tokio::time::timeout_at(until.into(), sure.changed())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// The database answered, or it did not.
    pub fn saw(&self, answered: bool) {
        self.away.store(!answered, Ordering::Relaxed);
        if answered {
            self.sure.send_replace(Instant::now());
        }
    }

    /// Whether it did not answer the last time: it is not asked for the sake of reads then,
    /// until a look finds it again.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }
}

/// Tells other servers of a change, when it is committed.
pub(super) async fn tell_change(tx: &mut Tx) -> Result<(), StateError> {
    if matches!(tx, Tx::Postgres(_)) {
        tx.rows("SELECT pg_notify($1, '')::text", values![CHANGES])
            .await?;
    }
    Ok(())
}

/// Lets rows that are numbered by themselves appear in the order of their numbers: who
/// reads on from the last one misses none.
pub(super) async fn in_order(tx: &mut Tx, lock: i64) -> Result<(), StateError> {
    if matches!(tx, Tx::Postgres(_)) {
        tx.rows("SELECT pg_advisory_xact_lock($1)::text", values![lock])
            .await?;
    }
    Ok(())
}

/// What another server told.
#[derive(Debug)]
pub enum Heard {
    /// The registry changed.
    Change,
    /// There are new receipts or log lines, of that server.
    Records(String),
    /// How far an attempt is, as JSON.
    Progress(String),
    /// Something may have been missed.
    Missed,
}

/// Hears what other servers tell.
pub struct Ear(PgListener);

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ear").finish_non_exhaustive()
    }
}

impl Ear {
    /// The next thing that is told. A lost connection is made again.
    ///
    /// # Errors
    /// When it cannot be made now.
    pub async fn hear(&mut self) -> Result<Heard, StateError> {
        let Some(told) = self.0.try_recv().await? else {
            return Ok(Heard::Missed);
        };
        Ok(match told.channel() {
            CHANGES => Heard::Change,
            RECORDS => Heard::Records(told.payload().to_owned()),
            PROGRESS => Heard::Progress(told.payload().to_owned()),
            _ => Heard::Missed,
        })
    }
}

impl HostDb {
    /// Listens to other servers; none where there are no others.
    ///
    /// # Errors
    /// When no connection can be made.
    pub async fn listen(&self) -> Result<Option<Ear>, StateError> {
        let Backend::Postgres(pool) = &self.backend else {
            return Ok(None);
        };
        // By a pool of its own: an ear on a connection that died unheard would take a place of
        // the others' until TCP notices.
        let alone = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIME)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with((*pool.connect_options()).clone());
        let listening = async {
            let mut listener = PgListener::connect_with(&alone).await?;
            listener.listen_all([CHANGES, RECORDS, PROGRESS]).await?;
            Ok::<_, StateError>(Some(Ear(listener)))
        };
        within(listening).await
    }

    /// Says that this server is there.
    ///
    /// # Errors
    /// As [`StateError`] says; so for all functions here. Only where there are several
    /// servers.
    pub async fn show(&self) -> Result<(), StateError> {
        let Some(shared) = self.shared() else {
            return Ok(());
        };
        self.execute(
            concat!(
                "WITH gone AS (DELETE FROM servers WHERE seen_us < ",
                now_us!(),
                " - 86400000000) INSERT INTO servers (id, seen_us) VALUES ($1, ",
                now_us!(),
                ") ON CONFLICT (id) DO UPDATE SET seen_us = excluded.seen_us"
            ),
            values![&shared.id()],
        )
        .await?;
        Ok(())
    }

    /// Says that this server stops: what it had is anybody's.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    pub async fn leave(&self) -> Result<(), StateError> {
        if let Some(shared) = self.shared() {
            self.execute("DELETE FROM servers WHERE id = $1", values![&shared.id()])
                .await?;
        }
        Ok(())
    }

    /// Takes uploads over whose server is gone; each is this server's from now on.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    pub async fn take_over(&self) -> Result<Vec<UploadRow>, StateError> {
        let Some(shared) = self.shared() else {
            return Ok(Vec::new());
        };
        let rows = self
            .rows(
                concat!(
                    "UPDATE uploads SET owner = $1 WHERE state = 'compiling' \
                 AND owner IS DISTINCT FROM $1 AND ",
                    server_is_gone!("uploads.owner"),
                    " RETURNING *"
                ),
                values![&shared.id()],
            )
            .await;
        rows?.iter().map(upload_row).collect()
    }

    /// Tells other servers how far an attempt is. What is too long is not told: progress
    /// is for those who look, and the next one comes.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    pub async fn tell_progress(&self, said: &str) -> Result<(), StateError> {
        if self.is_shared() && said.len() <= LONGEST {
            self.rows("SELECT pg_notify($1, $2)::text", values![PROGRESS, said])
                .await?;
        }
        Ok(())
    }

    /// Tells other servers that records were written.
    pub(super) async fn tell_records(&self, tx: &mut Tx) -> Result<(), StateError> {
        if let Some(shared) = self.shared() {
            tx.rows(
                "SELECT pg_notify($1, $2)::text",
                values![RECORDS, shared.id().to_string()],
            )
            .await?;
        }
        Ok(())
    }

    /// Whether this server is to do what one of them does, each time so long after the
    /// last time.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    pub async fn is_turn(&self, what: &str, every: Duration) -> Result<bool, StateError> {
        if !self.is_shared() {
            return Ok(true);
        }
        let now = micros(jiff::Timestamp::now());
        let every = micros_of(every);
        let taken = self
            .execute(
                "INSERT INTO markers (name, at_us) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET at_us = excluded.at_us WHERE markers.at_us <= $3",
                values![what, now, now - every],
            )
            .await;
        Ok(taken? > 0)
    }

    /// The digest of the operator's token that all servers take; `offered` becomes it
    /// where there is none.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    pub async fn operator_token(&self, offered: &[u8; 32]) -> Result<[u8; 32], StateError> {
        self.execute(
            "INSERT INTO operator (one, digest) VALUES (1, $1) ON CONFLICT (one) DO NOTHING",
            values![offered],
        )
        .await?;
        let row = self.row("SELECT digest FROM operator", &[]).await?;
        let row = row.ok_or_else(|| StateError::Damaged("there is no token".to_owned()))?;
        Ok(*super::digest(row.bytes("digest")?)?.as_bytes())
    }

    /// The digest of the operator's token, if there is one.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    pub async fn known_operator_token(&self) -> Result<Option<[u8; 32]>, StateError> {
        let row = self.row("SELECT digest FROM operator", &[]).await?;
        row.map(|row| Ok(*super::digest(row.bytes("digest")?)?.as_bytes()))
            .transpose()
    }

    /// The key that signs addresses of objects at all servers; `offered` becomes it where
    /// there is none.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    pub async fn address_key(&self, offered: &str) -> Result<String, StateError> {
        self.execute(
            "INSERT INTO address_key (one, secret) VALUES (1, $1) ON CONFLICT (one) DO NOTHING",
            values![offered],
        )
        .await?;
        let row = self.row("SELECT secret FROM address_key", &[]).await?;
        let row = row.ok_or_else(|| StateError::Damaged("there is no key".to_owned()))?;
        row.string("secret")
    }

    /// Makes another token the operator's, at all servers.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    pub async fn replace_operator_token(&self, digest: &[u8; 32]) -> Result<(), StateError> {
        let mut change = self.change().await?;
        change.touch(super::changes::Touched::Tokens);
        let tx = &mut change.reading.tx;
        tx.execute(
            "INSERT INTO operator (one, digest) VALUES (1, $1) \
             ON CONFLICT (one) DO UPDATE SET digest = excluded.digest",
            values![digest],
        )
        .await?;
        change.commit().await?;
        Ok(())
    }
}
