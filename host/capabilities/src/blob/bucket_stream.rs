//! Reading and writing an object of a bucket piece by piece.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::StreamExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::bucket::{Bucket, Chunks, Got, Object, Piece, Shared, Store};
use super::{
    BlobCode, BlobError, BlobLimits, Condition, Metadata, ObjectReader, ObjectWriter, READ_BYTES,
};

/// Bytes of one part of an upload, unless the largest object needs larger ones. A multiple
/// of [`PART_STEP`].
const PART_BYTES: u64 = 8 << 20;
/// What the bytes of each part but the last are a multiple of (Google's rule).
const PART_STEP: u64 = 256 << 10;
/// The most parts of an upload (Amazon's limit).
const PARTS: u64 = 10_000;
/// Parts of one upload that are on their way together, where they need no order.
const PARTS_IN_FLIGHT: usize = 2;

/// What a writer keeps without taking room from others: small objects never wait for it.
const FREE_BYTES: usize = 1 << 20;

/// Bytes of one part of an upload of a binding with these limits.
pub(super) fn part_bytes(limits: &BlobLimits) -> usize {
    let bytes = limits.object_bytes.div_ceil(PARTS).max(PART_BYTES);
    usize::try_from(bytes.next_multiple_of(PART_STEP)).unwrap_or(usize::MAX)
}

/// Reads the answer to one request: what replaces the object later is not in it. Where
/// the connection breaks, the store goes on only with the same object.
pub(super) struct BucketReader<S> {
    metadata: Metadata,
    /// None after a failure.
    chunks: Option<Chunks>,
    rest: Bytes,
    container: Bucket<S>,
}

impl<S: Store> BucketReader<S> {
    pub(super) fn new(container: Bucket<S>, got: Got) -> Self {
        Self {
            metadata: got.metadata,
            chunks: Some(got.chunks),
            rest: Bytes::new(),
            container,
        }
    }
}

#[async_trait]
impl<S: Store> ObjectReader for BucketReader<S> {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    async fn read(&mut self, max: u32) -> Result<Bytes, BlobError> {
        while self.rest.is_empty() {
            let mut chunks = self.chunks.take().ok_or_else(|| {
                BlobError::new(
                    BlobCode::Unavailable,
                    "an earlier read of this object failed",
                )
            })?;
            let (chunk, chunks) = self
                .container
                .run(|_| async move {
                    let chunk = chunks.next().await.transpose()?;
                    Ok((chunk, chunks))
                })
                .await?;
            self.chunks = Some(chunks);
            match chunk {
                Some(chunk) => self.rest = chunk,
                None => return Ok(Bytes::new()),
            }
        }
        let length = self.rest.len().min(max.min(READ_BYTES) as usize);
        Ok(self.rest.split_to(length))
    }
}

/// Collects bytes; what is small is one PUT at the end, what is not goes part by part.
pub(super) struct BucketWriter<S: Store> {
    container: Bucket<S>,
    object: Arc<Object>,
    condition: Condition,
    part_bytes: usize,
    rest: BytesMut,
    /// Room for the part that is collected, once it is more than a little.
    room: Option<OwnedSemaphorePermit>,
    size: u64,
    /// Parts that were sent or are on their way.
    sent: usize,
    // Before the upload: a part that is on its way ends first.
    in_flight: JoinSet<Result<(usize, S::Part), BlobError>>,
    parts: Vec<(usize, S::Part)>,
    upload: Option<Upload<S>>,
}

/// An upload that is given up when it is dropped before its end.
struct Upload<S: Store> {
    shared: Arc<Shared<S>>,
    object: Arc<Object>,
    begun: Arc<S::Upload>,
    ended: bool,
}

impl<S: Store> Drop for Upload<S> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (shared, object, begun) = (
            Arc::clone(&self.shared),
            Arc::clone(&self.object),
            Arc::clone(&self.begun),
        );
        self.shared.runtime.spawn(async move {
            if let Err(cause) = shared.store.abort(&object, &begun).await {
                tracing::warn!(cause, "an upload that was given up stays in the bucket");
            }
        });
    }
}

impl<S: Store> BucketWriter<S> {
    pub(super) fn new(container: Bucket<S>, object: Object, condition: Condition) -> Self {
        let part_bytes = part_bytes(&container.shared.limits);
        Self {
            container,
            object: Arc::new(object),
            condition,
            part_bytes,
            rest: BytesMut::new(),
            room: None,
            size: 0,
            sent: 0,
            in_flight: JoinSet::new(),
            parts: Vec::new(),
            upload: None,
        }
    }

    /// Sends what was collected as a part.
    async fn send(&mut self) -> Result<(), BlobError> {
        if self.upload.is_none() {
            let (object, condition) = (Arc::clone(&self.object), self.condition.clone());
            let upload = self.container.run(|shared| async move {
                let begun = shared.store.begin(&object, &condition).await?;
                Ok(Upload {
                    shared,
                    object,
                    begun: Arc::new(begun),
                    ended: false,
                })
            });
            self.upload = Some(upload.await?);
        }
        let most = if S::PARTS_IN_ORDER {
            1
        } else {
            PARTS_IN_FLIGHT
        };
        while self.in_flight.len() >= most {
            self.sent_one().await?;
        }
        let (piece, room) = (self.collected(), self.room.take());
        // There is one, from above.
        if let Some(upload) = &self.upload {
            let (shared, object) = (Arc::clone(&upload.shared), Arc::clone(&upload.object));
            let begun = Arc::clone(&upload.begun);
            self.sent += 1;
            let part = async move {
                let _room = room;
                let _turn = shared.turn_of_part().await?;
                let index = piece.index;
                let part = shared.store.part(&object, &begun, piece).await?;
                Ok((index, part))
            };
            self.in_flight
                .spawn_on(part, &self.container.shared.runtime);
        }
        Ok(())
    }

    /// What was collected, to be sent.
    fn collected(&mut self) -> Piece {
        let bytes = self.rest.split().freeze();
        Piece {
            index: self.sent,
            offset: self.sent as u64 * self.part_bytes as u64,
            bytes,
        }
    }

    async fn sent_one(&mut self) -> Result<(), BlobError> {
        if let Some(part) = self.in_flight.join_next().await {
            self.parts.push(part.map_err(BlobError::internal)??);
        }
        Ok(())
    }
}

#[async_trait]
impl<S: Store> ObjectWriter for BucketWriter<S> {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), BlobError> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        self.container.shared.limits.check_object(self.size)?;
        while !bytes.is_empty() {
            let left = self.part_bytes - self.rest.len();
            let taken = bytes.split_to(left.min(bytes.len()));
            if self.room.is_none() && self.rest.len() + taken.len() > FREE_BYTES {
                let room = self.container.shared.room_for_part(self.part_bytes);
                self.room = Some(room.await?);
            }
            self.rest.extend_from_slice(&taken);
            if self.rest.len() == self.part_bytes {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Metadata, BlobError> {
        if self.upload.is_some() {
            if !S::PARTS_IN_ORDER && !self.rest.is_empty() {
                self.send().await?;
            }
            while !self.in_flight.is_empty() {
                self.sent_one().await?;
            }
        }
        let last = self.collected();
        let Self {
            container,
            object,
            condition,
            // Until the last bytes are sent.
            room: _room,
            size,
            mut parts,
            upload,
            ..
        } = *self;
        let Some(upload) = upload else {
            return container
                .run(|shared| async move { shared.put(&object.key, last.bytes, &condition).await })
                .await;
        };
        parts.sort_unstable_by_key(|(index, _)| *index);
        let parts: Vec<_> = parts.into_iter().map(|(_, part)| part).collect();
        let turn = container.shared.turn_of_part().await?;
        container
            .run_in(turn, |shared| async move {
                let mut upload = upload;
                shared.check_place(&object.key).await?;
                let (store, begun) = (&shared.store, &upload.begun);
                let ended = store.end(&object, begun, parts, last, &condition).await?;
                upload.ended = true;
                shared.written(&object.key, ended, size).await
            })
            .await
    }
}
