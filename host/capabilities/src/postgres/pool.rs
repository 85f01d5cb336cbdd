//! Connections that are kept, lent to one user at a time, and cleaned in between.
//!
//! A connection that comes back is rolled back and told to discard everything: settings,
//! temporary tables, prepared statements, advisory locks, subscriptions. One that was
//! left in the middle of a statement has that statement cancelled on the server and is
//! closed. Until then its place stays taken, so that a slow server fills the places of
//! its binding and nothing else; and no more wait for a place than there are.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::connect::Session;
use super::error::PgError;
use super::isolation;
use super::wire::{Status, Wire};
use super::{PostgresConfig, PostgresConfigError, Server};
use crate::places::Places;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long is waited for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to be cleaned, or a statement to end once cancelled.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that was away is not asked again for so long.
const AWAY: Duration = Duration::from_millis(500);
/// A connection is used for so long: passwords and rights change.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// What the server may take longer than its own limit on statements.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a pool is made.
#[derive(Debug, Clone)]
pub(crate) struct PoolOptions {
    /// The most connections.
    pub(crate) connections: u32,
    pub(crate) read_only: bool,
    pub(crate) statement_timeout: Duration,
    pub(crate) lock_timeout: Duration,
    /// Bytes of the largest answer.
    pub(crate) message_bytes: u64,
    /// Whether guests' own statements run there.
    pub(crate) guests: bool,
}

/// Connections of one role to one database. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    server: Server,
    session: Session,
    options: PoolOptions,
    runtime: Handle,
    places: Places,
    /// Whether the log has what the role need not have.
    advised: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Wire>,
    /// Since when the server is away.
    away: Option<Instant>,
    closed: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("server", &self.server.identity())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic while it was held leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Names a server; it is connected to at its first use, on `runtime`.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub(crate) fn new(
        config: &PostgresConfig,
        options: PoolOptions,
        runtime: Handle,
    ) -> Result<Self, PostgresConfigError> {
        let session = Session {
            read_only: options.read_only,
            statement_timeout: options.statement_timeout,
            lock_timeout: options.lock_timeout,
            message_bytes: usize::try_from(options.message_bytes).unwrap_or(usize::MAX),
        };
        let places = Places::new(options.connections);
        Ok(Self {
            shared: Arc::new(Shared {
                server: Server::new(config)?,
                session,
                options,
                runtime,
                places,
                advised: AtomicBool::new(false),
                state: Mutex::default(),
            }),
        })
    }

    /// What no two bindings may share.
    pub(crate) fn identity(&self) -> String {
        self.shared.server.identity()
    }

    /// How many connections it opens at most.
    pub(crate) fn connections(&self) -> u32 {
        self.shared.options.connections
    }

    /// Whether guests' own statements run there: only then is the role asked for its rights.
    pub(super) fn guests(&self) -> bool {
        self.shared.options.guests
    }

    /// Whether nothing is written there.
    pub(super) fn read_only(&self) -> bool {
        self.shared.options.read_only
    }

    /// Where its work is done.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }

    /// Closes what is idle, and whatever comes back.
    pub(crate) async fn close(&self) {
        let idle = {
            let mut state = self.shared.state();
            state.closed = true;
            std::mem::take(&mut state.idle)
        };
        for wire in idle {
            say_goodbye(wire).await;
        }
    }

    /// A clean connection.
    ///
    /// # Errors
    /// When none becomes free, or the server cannot be used; the log has the cause.
    pub(crate) async fn acquire(&self) -> Result<Lease, PgError> {
        let place = self.shared.places.take(ACQUIRE_TIMEOUT).await;
        let place = place.ok_or(PgError::Full)?;
        loop {
            let idle = self.shared.state().idle.pop();
            let Some(mut wire) = idle else { break };
            if wire.since.elapsed() < LIFETIME && wire.is_quiet() {
                return Ok(self.lend(wire, place));
            }
        }
        match self.connect().await {
            Ok(wire) => Ok(self.lend(wire, place)),
            Err(error) => {
                error.log(&self.identity());
                Err(error)
            }
        }
    }

    fn lend(&self, wire: Wire, place: OwnedSemaphorePermit) -> Lease {
        let mut lease = Lease {
            wire: Some(wire),
            place: Some(place),
            shared: Arc::clone(&self.shared),
        };
        lease.begin();
        lease
    }

    async fn connect(&self) -> Result<Wire, PgError> {
        let shared = &self.shared;
        let away = shared.state().away;
        if away.is_some_and(|since| since.elapsed() < AWAY) {
            return Err(PgError::Away("as a moment ago".to_owned()));
        }
        let connecting = async {
            let mut wire = shared.server.connect(&shared.session).await?;
            if shared.options.guests {
                isolation::check(&mut wire, &shared.server.schema, &shared.advised).await?;
            }
            Ok(wire)
        };
        let outcome = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PgError::Away("it does not answer".to_owned())),
        };
        let is_away = matches!(outcome, Err(PgError::Away(_)));
        shared.state().away = is_away.then(Instant::now);
        outcome
    }
}

/// A connection in use by one operation, cursor or transaction. Dropping it ends what it
/// does and gives it back.
pub(crate) struct Lease {
    /// None only when it is dropped.
    wire: Option<Wire>,
    place: Option<OwnedSemaphorePermit>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shared.fmt(f)
    }
}

impl Lease {
    /// The connection.
    pub(crate) fn wire(&mut self) -> &mut Wire {
        // Only `drop` takes it.
        self.wire.as_mut().expect("present until dropped")
    }

    /// Lets the limit on a statement's time begin. The server keeps to it by itself; a
    /// guest may have told it otherwise, or it may be frozen.
    pub(crate) fn begin(&mut self) {
        let limit = self.shared.options.statement_timeout + PATIENCE;
        self.wire().set_deadline(Some(Instant::now() + limit));
    }

    /// Ends what the server is still doing after an operation failed, so that it may be
    /// told something else.
    pub(crate) async fn settle(&mut self) {
        let shared = Arc::clone(&self.shared);
        let wire = self.wire();
        if wire.is_busy() && !wire.is_lost() {
            cancel(&shared.server, wire).await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(wire), Some(place)) = (self.wire.take(), self.place.take()) else {
            return;
        };
        if wire.is_lost() && !wire.is_busy() {
            return;
        }
        // Where only our own statements run, there may be nothing to clean.
        let clean = !self.shared.options.guests && wire.status() == Status::Idle;
        if clean && !wire.is_busy() {
            let mut state = self.shared.state();
            if !state.closed {
                state.idle.push(wire);
                drop(state);
                drop(place);
                return;
            }
        }
        let shared = Arc::clone(&self.shared);
        self.shared.runtime.spawn(async move {
            take_back(&shared, wire).await;
            drop(place);
        });
    }
}

async fn take_back(shared: &Shared, mut wire: Wire) {
    if wire.is_busy() {
        cancel(&shared.server, &mut wire).await;
        return;
    }
    wire.set_deadline(Some(Instant::now() + CLEAN_TIMEOUT));
    if wire.status() != Status::Idle {
        wire.simple("ROLLBACK");
    }
    if shared.options.guests {
        wire.simple("DISCARD ALL");
    }
    let cleaned = match wire.flush().await {
        Ok(()) => wire.until_ready().await,
        Err(error) => Err(error),
    };
    if let Err(error) = cleaned {
        tracing::debug!(?error, "a connection to PostgreSQL was not cleaned");
        return;
    }
    wire.set_deadline(None);
    let closed = {
        let mut state = shared.state();
        if !state.closed {
            state.idle.push(wire);
            return;
        }
        wire
    };
    say_goodbye(closed).await;
}

/// Cancels what the server does for a connection, and waits until it did.
async fn cancel(server: &Server, wire: &mut Wire) {
    let ending = async {
        server.cancel(wire.key).await?;
        if wire.is_lost() {
            return Ok(());
        }
        wire.set_deadline(None);
        wire.drain().await
    };
    match timeout(CLEAN_TIMEOUT, ending).await {
        Ok(Ok(())) => {}
        _ => wire.give_up(),
    }
}

async fn say_goodbye(mut wire: Wire) {
    wire.set_deadline(Some(Instant::now() + CLEAN_TIMEOUT));
    wire.terminate();
    // It is closed either way.
    let _ = wire.flush().await;
}
