//! Connections that are kept, lent to one user at a time, and reset in between.
//!
//! A connection that comes back in the middle of something is reset: the server ends the
//! statement and rolls the transaction back. One that cannot be reset in time is closed.
//! Until then its place stays taken, so that a slow server fills the places of its binding
//! and nothing else; and no more wait for a place than there are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use super::wire::{BoltError, Wire};
use crate::places::Places;

/// How long is waited for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take to be reset.
const RESET_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that was away is not asked again for so long.
const AWAY: Duration = Duration::from_millis(500);
/// A connection is used for so long: passwords and rights change.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Makes connections to one server.
#[async_trait]
pub(crate) trait Connector: Send + Sync + 'static {
    /// What the log calls it.
    fn identity(&self) -> String;

    /// How long a connection may take to be made.
    fn patience(&self) -> Duration;

    /// A connection that is signed in, to a server that may be used.
    async fn connect(&self) -> Result<Wire, BoltError>;

    /// What its server's configuration should have and lacks, as its lines; known once a
    /// connection was made.
    fn lacking(&self) -> Vec<String> {
        Vec::new()
    }

    /// Learns that the server does not end what it was told to end.
    async fn stuck(&self) {}

    /// What an error means that ends an operation; `alone` where no other connection is
    /// in use.
    async fn explain(&self, error: BoltError, _alone: bool) -> BoltError {
        error
    }

    /// Ends what it keeps beside its connections.
    async fn close(&self) {}
}

/// How a pool is made.
#[derive(Debug, Clone)]
pub(crate) struct PoolOptions {
    /// The most connections.
    pub(crate) connections: u32,
    /// How long the server may take for one answer.
    pub(crate) answer_timeout: Duration,
}

/// Connections to one server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Box<dyn Connector>,
    options: PoolOptions,
    runtime: Handle,
    places: Places,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Wire>,
    /// Since when the server is away.
    away: Option<Instant>,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a clean connection for the next; gives it back where none comes.
    fn keep(&self, mut wire: Wire) -> Option<Wire> {
        wire.set_deadline(None);
        let mut state = self.state();
        if state.closed {
            return Some(wire);
        }
        state.idle.push(wire);
        None
    }
}

impl Pool {
    /// The server is connected to at its first use, on `runtime`.
    pub(crate) fn new(
        connector: Box<dyn Connector>,
        options: PoolOptions,
        runtime: Handle,
    ) -> Self {
        let places = Places::new(options.connections);
        Self {
            shared: Arc::new(Shared {
                connector,
                options,
                runtime,
                places,
                state: Mutex::default(),
            }),
        }
    }

    /// Where its work is done.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }

    /// As its [`Connector::lacking`].
    pub(crate) fn lacking(&self) -> Vec<String> {
        self.shared.connector.lacking()
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
        self.shared.connector.close().await;
    }

    /// A clean connection.
    ///
    /// # Errors
    /// When none becomes free, or the server cannot be used; the log has the cause.
    pub(crate) async fn acquire(&self) -> Result<Lease, BoltError> {
        let place = self.shared.places.take(ACQUIRE_TIMEOUT).await;
        let place = place.ok_or(BoltError::Full)?;
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
                let server = self.shared.connector.identity();
                match &error {
                    BoltError::Away(cause) => {
                        tracing::warn!(server, cause, "a graph cannot be reached");
                    }
                    BoltError::Refused(cause) => {
                        tracing::error!(server, cause, "a graph cannot be used");
                    }
                    _ => tracing::warn!(server, ?error, "a graph was not connected to"),
                }
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

    async fn connect(&self) -> Result<Wire, BoltError> {
        let shared = &self.shared;
        let away = shared.state().away;
        if away.is_some_and(|since| since.elapsed() < AWAY) {
            return Err(BoltError::Away("as a moment ago".to_owned()));
        }
        let connector = &shared.connector;
        let outcome = match timeout(connector.patience(), connector.connect()).await {
            Ok(Err(BoltError::Timeout)) | Err(_) => {
                Err(BoltError::Away("it does not answer".to_owned()))
            }
            Ok(outcome) => outcome,
        };
        let is_away = matches!(outcome, Err(BoltError::Away(_)));
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

impl Lease {
    /// The connection.
    pub(crate) fn wire(&mut self) -> &mut Wire {
        // Only `drop` takes it.
        self.wire.as_mut().expect("present until dropped")
    }

    /// Lets the limit on an answer's time begin.
    pub(crate) fn begin(&mut self) {
        let limit = self.shared.options.answer_timeout;
        self.wire().set_deadline(Some(Instant::now() + limit));
    }

    /// What an error means; asked once of one that ends an operation.
    pub(crate) async fn explain(&self, error: BoltError) -> BoltError {
        if let BoltError::Server(failure) = &error
            && failure.is_of_an_end()
            && self.wire.as_ref().is_some_and(Wire::is_late)
        {
            return BoltError::Timeout;
        }
        let alone = self.shared.places.is_alone();
        self.shared.connector.explain(error, alone).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(wire), Some(place)) = (self.wire.take(), self.place.take()) else {
            return;
        };
        // Closing the socket ends what the server does for it.
        if wire.is_lost() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let left = if wire.is_clean() {
            shared.keep(wire)
        } else {
            Some(wire)
        };
        let Some(wire) = left else { return };
        self.shared.runtime.spawn(async move {
            take_back(&shared, wire).await;
            drop(place);
        });
    }
}

async fn take_back(shared: &Shared, mut wire: Wire) {
    if !wire.is_clean() {
        wire.set_deadline(Some(Instant::now() + RESET_TIMEOUT));
        if let Err(error) = wire.reset().await {
            tracing::debug!(?error, "a connection to a graph was not reset");
            if error == BoltError::Timeout {
                shared.connector.stuck().await;
            }
            return;
        }
    }
    if let Some(wire) = shared.keep(wire) {
        say_goodbye(wire).await;
    }
}

async fn say_goodbye(mut wire: Wire) {
    wire.set_deadline(Some(Instant::now() + RESET_TIMEOUT));
    wire.goodbye().await;
}
