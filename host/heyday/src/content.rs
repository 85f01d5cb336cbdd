//! Bytes by digest: components, flows and values that go by reference.
//!
//! One server keeps them as files ([`ContentFiles`]). Servers that share their state keep
//! them there ([`crate::state::content`]), and the files are copies, which are made again
//! when they are needed and swept when they are old.

use std::collections::HashSet;
use std::io;
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
    shared: Option<(HostDb, Store)>,
}

impl From<ContentFiles> for Content {
    fn from(files: ContentFiles) -> Self {
        Self {
            files,
            shared: None,
        }
    }
}

fn failed(error: StateError) -> io::Error {
    io::Error::other(error.chain())
}

impl Content {
    /// Of that store: in these files, or in the state where servers share it.
    #[must_use]
    pub fn new(files: ContentFiles, state: &HostDb, store: Store) -> Self {
        let shared = state.is_shared().then(|| (state.clone(), store));
        Self { files, shared }
    }

    /// Stores bytes durably; the same bytes again change nothing.
    ///
    /// # Errors
    /// When they cannot be stored.
    pub async fn put_bytes(&self, bytes: Bytes) -> io::Result<Digest> {
        if let Some((state, store)) = &self.shared {
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
        let copy = self.files.read(digest).await;
        let Some((state, store)) = &self.shared else {
            return copy;
        };
        match copy {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, "a copy is made again");
                self.files.remove(digest).await?;
            }
        }
        let bytes = state.content(*store, digest).await.map_err(failed)?;
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

    /// The digests of what may be swept: of what is older, where that is known.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn old(&self, grace: Duration) -> io::Result<Vec<Digest>> {
        match &self.shared {
            None => self.files.list().await,
            Some((state, store)) => state.old_content(*store, grace).await.map_err(failed),
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
            Some((state, store)) => {
                let swept = state.sweep_content(*store, live, grace).await;
                swept.map_err(failed)
            }
        }
        .map_err(|error| PayloadStoreError::Unavailable(error.into()))
    }
}
