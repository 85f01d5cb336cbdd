//! Connections to a database of PostgreSQL that nobody waits for without end.
//!
//! The database gives a statement up after a while ([`super::location`]); but one that vanished with
//! its machine, or behind a firewall, says nothing at all, and TCP waits for a quarter of an
//! hour. So a statement has a time here as well, and what took longer closes its
//! connection. The same holds of giving one back: sqlx asks first whether it is whole, and its
//! place in the pool is taken until then.

use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::Executor as _;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Postgres, Result as Answer};
use tokio::runtime::Handle;

use super::StateError;

/// A statement is given up after that time: more than the database itself gives it.
const GIVEN_UP: Duration = Duration::from_secs(25);
/// How long a connection may take to be given back, or the pool to be closed.
pub(super) const GIVING_BACK: Duration = Duration::from_secs(5);

/// Waits for something that the database says, but not for ever.
pub(super) async fn within<T>(
    asking: impl Future<Output = Result<T, StateError>>,
) -> Result<T, StateError> {
    match tokio::time::timeout(GIVEN_UP, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(StateError::silent()),
    }
}

/// A connection of the pool; none after it was given up. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct Lease(Option<PoolConnection<Postgres>>);

impl Lease {
    /// Waits for one.
    pub(super) async fn of(pool: &PgPool) -> Result<Self, StateError> {
        Ok(Self(Some(pool.acquire().await?)))
    }

    /// Runs one statement.
    pub(super) async fn run<T>(
        &mut self,
        statement: impl for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Answer<T>> + Send,
    ) -> Result<T, StateError> {
        let Some(leased) = &mut self.0 else {
            return Err(StateError::silent());
        };
        let connection: &mut PgConnection = leased;
        match tokio::time::timeout(GIVEN_UP, statement(connection)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                self.close();
                Err(StateError::silent())
            }
        }
    }

    /// Closes it at once, without a word to the database, and frees its place.
    fn close(&mut self) {
        if let Some(leased) = self.0.take() {
            drop(leased.detach());
        }
    }

    /// Undoes what was begun on it, and gives it back then.
    fn roll_back(&mut self) {
        let mut lease = Self(self.0.take());
        let Ok(runtime) = Handle::try_current() else {
            lease.close();
            return;
        };
        runtime.spawn(async move {
            let undoing = lease.run(|connection| connection.execute("ROLLBACK"));
            let undone = tokio::time::timeout(GIVING_BACK, undoing).await;
            if !matches!(undone, Ok(Ok(_))) {
                lease.close();
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut leased) = self.0.take() else {
            return;
        };
        match Handle::try_current() {
            Ok(runtime) => {
                // As sqlx does where a connection is dropped, but not for ever: what is not given
                // back by then is closed.
                let giving_back = leased.return_to_pool();
                runtime.spawn(tokio::time::timeout(GIVING_BACK, giving_back));
            }
            Err(_) => drop(leased.detach()),
        }
    }
}

/// How far a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody knows: its beginning or its end was not answered.
    Unknown,
    Begun,
    Ended,
}

/// A transaction. Dropped before its commit, nothing of it was done.
#[derive(Debug)]
pub(crate) struct PgTx {
    lease: Lease,
    stage: Stage,
}

impl PgTx {
    /// Begins one, by that statement.
    pub(super) async fn begin(pool: &PgPool, statement: &'static str) -> Result<Self, StateError> {
        let mut begun = Self {
            lease: Lease::of(pool).await?,
            stage: Stage::Unknown,
        };
        let beginning = begun.lease.run(|connection| connection.execute(statement));
        beginning.await?;
        begun.stage = Stage::Begun;
        Ok(begun)
    }

    /// Where its statements run.
    pub(super) const fn lease(&mut self) -> &mut Lease {
        &mut self.lease
    }

    /// Keeps what was done.
    pub(super) async fn commit(mut self) -> Result<(), StateError> {
        self.stage = Stage::Unknown;
        let ending = self.lease.run(|connection| connection.execute("COMMIT"));
        ending.await?;
        self.stage = Stage::Ended;
        Ok(())
    }
}

impl Drop for PgTx {
    fn drop(&mut self) {
        match self.stage {
            // Another one must not find itself in the middle of it.
            Stage::Unknown => self.lease.close(),
            Stage::Begun => self.lease.roll_back(),
            Stage::Ended => {}
        }
    }
}
