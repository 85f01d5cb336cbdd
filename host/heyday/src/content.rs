//! Bytes by digest: components, flows and values that go by reference.
//!
//! One server keeps them as files ([`ContentFiles`]). Servers that share their state keep
//! them there ([`crate::state::content`]), and the files are copies, which are made again
//! when they are needed and swept when they are old. One of those who need the same bytes
//! fetches them: many calls at once of a plugin that this server has not run yet would take
//! all connections to the state with as many copies of its component.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use heyday_durable::payload::{Digest, PayloadStore, PayloadStoreError};

use crate::files::ContentFiles;
use crate::state::content::Store;
use crate::state::{HostDb, StateError};

/// Copies are kept so long.
const COPY_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes by digest. Clones are handles of the same.
#[derive(Debug, Clone)]
pub struct Content {
    files: ContentFiles,
    shared: Option<Shared>,
}

/// Where servers share them.
#[derive(Debug, Clone)]
struct Shared {
    state: HostDb,
    store: Store,
    turns: Turns,
}

/// Of those who fetch the same.
#[derive(Debug, Clone, Default)]
struct Turns(Arc<Mutex<HashMap<Digest, Weak<Turn>>>>);

/// One fetches at a time.
#[derive(Debug, Default)]
struct Turn {
    alone: tokio::sync::Mutex<()>,
    /// How many could not.
    failures: AtomicU64,
}

impl Turn {
    /// Waits until nobody else fetches. Who waited for one that failed fails, too: while the state
    /// is away, each would else wait for it only after all those before.
    async fn take(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, StateError> {
        let before = self.failures.load(Ordering::Acquire);
        let alone = self.alone.lock().await;
        if self.failures.load(Ordering::Acquire) == before {
            Ok(alone)
        } else {
            Err(StateError::silent())
        }
    }

    /// The state failed under who fetched.
    fn failed(&self) {
        self.failures.fetch_add(1, Ordering::AcqRel);
    }
}

impl Turns {
    fn of(&self, digest: &Digest) -> Arc<Turn> {
        // A panic elsewhere leaves turns that are forgotten with those who had them.
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(*digest, Arc::downgrade(&turn));
        turn
    }
}

impl From<ContentFiles> for Content {
    fn from(files: ContentFiles) -> Self {
        Self {
            files,
            shared: None,
        }
    }
}

/// A failure of the state that is told as one of files: as [`io::Error::other`].
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.chain())]
pub(crate) struct StateFailed(pub StateError);

fn failed(error: StateError) -> io::Error {
    io::Error::other(StateFailed(error))
}

impl Content {
    /// Of that store: in these files, or in the state where servers share it.
    #[must_use]
    pub fn new(files: ContentFiles, state: &HostDb, store: Store) -> Self {
        let shared = state.is_shared().then(|| Shared {
            state: state.clone(),
            store,
            turns: Turns::default(),
        });
        Self { files, shared }
    }

    /// Stores bytes durably; the same bytes again change nothing.
    ///
    /// # Errors
    /// When they cannot be stored.
    pub async fn put_bytes(&self, bytes: Bytes) -> io::Result<Digest> {
        if let Some(Shared { state, store, .. }) = &self.shared {
            let put = state.put_content(*store, &Digest::of(&bytes), &bytes).await;
            put.map_err(failed)?;
        }
        self.files.put_bytes(bytes).await
    }

    /// The bytes of that digest; `NotFound` where there are none.
    ///
    /// # Errors
    /// When they cannot be read, or are no longer those that were written.
    pub async fn read(&self, digest: &Digest) -> io::Result<Bytes> {
        let Some(shared) = &self.shared else {
            return self.files.read(digest).await;
        };
        if let Some(copy) = self.copy(digest).await? {
            return Ok(copy);
        }
        let turn = shared.turns.of(digest);
        let _alone = turn.take().await.map_err(failed)?;
        if let Some(copy) = self.copy(digest).await? {
            return Ok(copy);
        }
        let Shared { state, store, .. } = shared;
        let bytes = state.content(*store, digest).await.map_err(|error| {
            turn.failed();
            failed(error)
        })?;
        let bytes = bytes.ok_or(io::ErrorKind::NotFound)?;
        if Digest::of(&bytes) != *digest {
            return Err(io::Error::other(format!(
                "the bytes of {digest} were damaged: they have another digest"
            )));
        }
        if let Err(error) = self.files.put_bytes(bytes.clone()).await {
            tracing::warn!(%error, "a copy cannot be kept");
        }
        Ok(bytes)
    }

    /// The bytes of a copy that is there; one that was damaged is removed.
    async fn copy(&self, digest: &Digest) -> io::Result<Option<Bytes>> {
        match self.files.read(digest).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                tracing::warn!(%error, "a copy is made again");
                self.files.remove(digest).await?;
                Ok(None)
            }
        }
    }

    /// The digests of what may be swept: of what is older, where that is known.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn old(&self, grace: Duration) -> io::Result<Vec<Digest>> {
        match &self.shared {
            None => self.files.list().await,
            Some(Shared { state, store, .. }) => {
                state.old_content(*store, grace).await.map_err(failed)
            }
        }
    }

    /// Removes copies that are old; they are made again where they are needed.
    pub async fn sweep_copies(&self) {
        if self.shared.is_some()
            && let Err(error) = self.files.sweep(&HashSet::new(), COPY_KEPT).await
        {
            tracing::warn!(%error, "old copies are not removed now");
        }
    }
}

#[async_trait]
impl PayloadStore for Content {
    async fn put(&self, bytes: Bytes) -> Result<Digest, PayloadStoreError> {
        self.put_bytes(bytes)
            .await
            .map_err(|error| PayloadStoreError::Unavailable(error.into()))
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, PayloadStoreError> {
        self.read(digest).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PayloadStoreError::NotFound(*digest),
            _ => PayloadStoreError::Unavailable(error.into()),
        })
    }

    async fn sweep(
        &self,
        live: &HashSet<Digest>,
        grace: Duration,
    ) -> Result<u64, PayloadStoreError> {
        match &self.shared {
            None => self.files.sweep(live, grace).await,
            Some(Shared { state, store, .. }) => {
                let swept = state.sweep_content(*store, live, grace).await;
                swept.map_err(failed)
            }
        }
        .map_err(|error| PayloadStoreError::Unavailable(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::registry::RegistryError;

    #[tokio::test]
    async fn those_who_need_the_same_wait_for_each_other_and_leave_nothing() {
        let turns = Turns::default();
        let (first, other) = (turns.of(&Digest::of(b"a")), turns.of(&Digest::of(b"b")));
        let second = turns.of(&Digest::of(b"a"));
        let fetches = first.take().await.expect("alone");
        assert!(second.take().now_or_never().is_none());
        assert!(matches!(other.take().now_or_never(), Some(Ok(_))));
        drop(fetches);
        assert!(matches!(second.take().now_or_never(), Some(Ok(_))));
        drop((first, second, other));
        let _third = turns.of(&Digest::of(b"c"));
        assert_eq!(turns.0.lock().expect("unharmed").len(), 1);
    }

    #[tokio::test]
    async fn who_waits_for_one_that_fails_does_not_wait_for_the_state_again() {
        let turn = Turn::default();
        let fetches = turn.take().await.expect("alone");
        let (mut second, mut third) = (Box::pin(turn.take()), Box::pin(turn.take()));
        for waits in [&mut second, &mut third] {
            assert!(waits.now_or_never().is_none());
        }
        turn.failed();
        drop(fetches);
        assert!(second.await.is_err());
        assert!(third.await.is_err());
        // It may be there again.
        assert!(turn.take().await.is_ok());
    }

    #[test]
    fn a_failure_of_the_state_is_told_as_one() {
        let busy = || StateError::Database(sqlx::Error::PoolTimedOut);
        let error = failed(busy());
        assert!(error.to_string().contains("pool timed out"), "{error}");
        let told = RegistryError::from(error).to_string();
        assert_eq!(told, RegistryError::from(busy()).to_string());
        let told = RegistryError::from(io::Error::other("x")).to_string();
        assert!(told.contains("disk"), "{told}");
    }
}
