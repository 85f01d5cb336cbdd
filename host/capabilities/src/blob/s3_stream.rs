//! Reading and writing an object of a bucket piece by piece.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt as _};
use object_store::PutPayload;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path as ObjectPath;
use tokio::task::JoinSet;

use super::s3::{S3Container, Shared, checked_etag, translate};
use super::{BlobCode, BlobError, Condition, Metadata, ObjectReader, ObjectWriter, READ_BYTES};
use crate::error::chain;

/// Bytes of one part of an upload, unless the largest object needs larger ones.
const PART_BYTES: u64 = 8 << 20;
/// The most parts of an upload (Amazon's limit).
const PARTS: u64 = 10_000;
/// Parts of one upload that are on their way together.
const PARTS_IN_FLIGHT: usize = 2;

/// Reads the answer to one request: what replaces the object later is not in it. Where
/// the connection breaks, object_store goes on only with the same object.
pub(super) struct S3Reader {
    metadata: Metadata,
    /// None after a failure.
    chunks: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    rest: Bytes,
    container: S3Container,
}

impl S3Reader {
    pub(super) fn new(
        container: S3Container,
        metadata: Metadata,
        chunks: BoxStream<'static, object_store::Result<Bytes>>,
    ) -> Self {
        Self {
            metadata,
            chunks: Some(chunks),
            rest: Bytes::new(),
            container,
        }
    }
}

#[async_trait]
impl ObjectReader for S3Reader {
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
            let key = self.metadata.key.clone();
            let (chunk, chunks) = self
                .container
                .run(|_| async move {
                    let chunk = chunks.next().await.transpose();
                    let chunk = chunk.map_err(|error| translate(&key, &error))?;
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
pub(super) struct S3Writer {
    container: S3Container,
    key: String,
    condition: Condition,
    part_bytes: usize,
    rest: BytesMut,
    size: u64,
    /// Parts that were sent or are on their way.
    sent: usize,
    // Before the upload: a part that is on its way ends first.
    in_flight: JoinSet<Result<(usize, PartId), BlobError>>,
    parts: Vec<(usize, PartId)>,
    upload: Option<Upload>,
}

/// An upload that is given up when it is dropped before its end.
struct Upload {
    shared: Arc<Shared>,
    path: ObjectPath,
    id: String,
    ended: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (shared, path, id) = (
            Arc::clone(&self.shared),
            self.path.clone(),
            std::mem::take(&mut self.id),
        );
        self.shared.runtime.spawn(async move {
            if let Err(error) = shared.store.abort_multipart(&path, &id).await {
                tracing::warn!(cause = %chain(&error), "an upload that was given up stays in the bucket");
            }
        });
    }
}

impl S3Writer {
    pub(super) fn new(container: S3Container, key: String, condition: Condition) -> Self {
        let part_bytes = container.shared.limits.object_bytes.div_ceil(PARTS);
        Self {
            container,
            key,
            condition,
            part_bytes: usize::try_from(part_bytes.max(PART_BYTES)).unwrap_or(usize::MAX),
            rest: BytesMut::new(),
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
            let key = self.key.clone();
            let upload = self.container.run(|shared| async move {
                let path = shared.path(&key)?;
                let id = shared.store.create_multipart(&path).await;
                let id = id.map_err(|error| translate(&key, &error))?;
                Ok(Upload {
                    shared,
                    path,
                    id,
                    ended: false,
                })
            });
            self.upload = Some(upload.await?);
        }
        while self.in_flight.len() >= PARTS_IN_FLIGHT {
            self.sent_one().await?;
        }
        // There is one, from above.
        if let Some(upload) = &self.upload {
            let (shared, path) = (Arc::clone(&upload.shared), upload.path.clone());
            let (id, key, index) = (upload.id.clone(), self.key.clone(), self.sent);
            let bytes = self.rest.split().freeze();
            self.sent += 1;
            let part = async move {
                let payload = PutPayload::from_bytes(bytes);
                let part = shared.store.put_part(&path, &id, index, payload).await;
                let part = part.map_err(|error| translate(&key, &error))?;
                Ok((index, part))
            };
            self.in_flight
                .spawn_on(part, &self.container.shared.runtime);
        }
        Ok(())
    }

    async fn sent_one(&mut self) -> Result<(), BlobError> {
        if let Some(part) = self.in_flight.join_next().await {
            self.parts.push(part.map_err(BlobError::internal)??);
        }
        Ok(())
    }
}

#[async_trait]
impl ObjectWriter for S3Writer {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), BlobError> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        self.container.shared.limits.check_object(self.size)?;
        while !bytes.is_empty() {
            let room = self.part_bytes - self.rest.len();
            let taken = bytes.split_to(room.min(bytes.len()));
            self.rest.extend_from_slice(&taken);
            if self.rest.len() == self.part_bytes {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Metadata, BlobError> {
        if self.upload.is_none() {
            let Self {
                container,
                key,
                condition,
                rest,
                ..
            } = *self;
            let bytes = rest.freeze();
            return container
                .run(|shared| async move {
                    shared.check_place(&key).await?;
                    shared.put(&key, bytes, condition).await
                })
                .await;
        }
        if !self.rest.is_empty() {
            self.send().await?;
        }
        while !self.in_flight.is_empty() {
            self.sent_one().await?;
        }
        let Self {
            container,
            key,
            condition,
            size,
            mut parts,
            upload,
            ..
        } = *self;
        parts.sort_unstable_by_key(|(index, _)| *index);
        let parts: Vec<_> = parts.into_iter().map(|(_, part)| part.content_id).collect();
        container
            .run(|shared| async move {
                let mut upload = upload.ok_or_else(|| BlobError::internal("no upload"))?;
                shared.check_place(&key).await?;
                let condition = match condition {
                    Condition::IfMatch(etag) => Condition::IfMatch(checked_etag(etag)?),
                    other => other,
                };
                let etag = shared
                    .complete(&key, &upload.id, &parts, &condition)
                    .await?;
                upload.ended = true;
                shared.written(&key, Some(etag), size).await
            })
            .await
    }
}
