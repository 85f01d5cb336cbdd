//! Objects in a bucket of a store that speaks S3 (Amazon S3, Supabase Storage, Cloudflare
//! R2, MinIO, a gateway in front of files), below a prefix that is the binding's own.
//!
//! Through object_store's client, except for what it keeps to itself (`s3_wire.rs`): a
//! listing by any text rather than by whole segments, and the end of a multipart upload
//! under a condition. Both are requests that it signs and we send.
//!
//! What a folder of files does not allow is not allowed here either, so that a plugin
//! meets the same rules everywhere: before a write we look whether a part of its key is
//! an object, and whether other keys continue it. Two writers at the same moment may both
//! see nothing; a bucket can hold both of their objects. A write is therefore some
//! requests: a listing, a HEAD for each part of the key, the PUT, and a HEAD for what was
//! written. A read is one.
//!
//! A bucket keeps the parts of an upload that nobody ended: of a process that was killed.
//! A lifecycle rule of the bucket (`AbortIncompleteMultipartUpload`) removes them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt as _};
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path as ObjectPath;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload,
    UpdateVersion,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::s3_config::{S3Config, S3ConfigError, connect};
use super::{
    BlobCode, BlobError, BlobLimits, Condition, Container, GET_BYTES, Metadata, ObjectReader,
    ObjectWriter, Page, READ_BYTES, check_key,
};
use crate::blob::diagnosis::diagnose;
use crate::diagnosis::Finding;
use crate::error::chain;
use crate::task::run_on;

/// Bytes of one part of an upload, unless the largest object needs larger ones.
const PART_BYTES: u64 = 8 << 20;
/// The most parts of an upload (Amazon's limit).
const PARTS: u64 = 10_000;
/// Parts of one upload that are on their way together.
const PARTS_IN_FLIGHT: usize = 2;
/// HEADs of one check that are on their way together.
const HEADS_IN_FLIGHT: usize = 8;
/// Bytes of the longest key of a bucket.
const KEY_BYTES: usize = 1_024;
/// How long an operation waits for others of its binding.
const PATIENCE: Duration = Duration::from_secs(30);

/// A prefix of a bucket.
#[derive(Clone)]
pub struct S3Container {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) store: AmazonS3,
    /// For requests that are signed by the store and sent by us.
    pub(super) http: reqwest::Client,
    /// Empty, or it ends in `/`.
    pub(super) prefix: String,
    read_only: bool,
    limits: BlobLimits,
    runtime: Handle,
    operations: Arc<Semaphore>,
}

impl S3Container {
    /// Checks the configuration; the store is reached at the first use. Its work is done
    /// on `runtime`, never on the one that guests run on.
    ///
    /// # Errors
    /// What of the configuration cannot be.
    pub fn new(
        config: &S3Config,
        read_only: bool,
        limits: BlobLimits,
        runtime: Handle,
    ) -> Result<Self, S3ConfigError> {
        let (store, http) = connect(config)?;
        Ok(Self {
            shared: Arc::new(Shared {
                store,
                http,
                prefix: config.normal_prefix(),
                read_only,
                limits,
                runtime,
                operations: Arc::new(Semaphore::new(config.connections.into())),
            }),
        })
    }

    async fn run<W, F, T>(&self, work: W) -> Result<T, BlobError>
    where
        W: FnOnce(Arc<Shared>) -> F,
        F: Future<Output = Result<T, BlobError>> + Send + 'static,
        T: Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let turn = Arc::clone(&shared.operations).acquire_owned();
        let turn = tokio::time::timeout(PATIENCE, turn).await.map_err(|_| {
            BlobError::new(
                BlobCode::Unavailable,
                "the store is busy with other calls of this binding",
            )
        })?;
        let runtime = shared.runtime.clone();
        let work = work(shared);
        run_on(&runtime, async move {
            let _turn = turn;
            work.await
        })
        .await
        .map_err(BlobError::internal)?
    }
}

impl Shared {
    pub(super) fn path(&self, key: &str) -> Result<ObjectPath, BlobError> {
        let full = format!("{}{key}", self.prefix);
        if full.len() > KEY_BYTES {
            return Err(BlobError::new(
                BlobCode::InvalidKey,
                format!(
                    "a key has at most {} bytes in this container",
                    KEY_BYTES.saturating_sub(self.prefix.len())
                ),
            ));
        }
        ObjectPath::parse(full)
            .map_err(|error| BlobError::new(BlobCode::InvalidKey, error.to_string()))
    }

    async fn find(&self, key: &str) -> Result<Option<Metadata>, BlobError> {
        match self.store.head(&self.path(key)?).await {
            Ok(found) => Ok(Some(metadata(key, &found))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(translate(key, &error)),
        }
    }

    async fn existing(&self, key: &str) -> Result<Metadata, BlobError> {
        self.find(key).await?.ok_or_else(|| not_found(key))
    }

    /// Refuses a key of which an object's key is a part, or that is a part of one.
    async fn check_place(&self, key: &str) -> Result<(), BlobError> {
        let refused = |why| BlobError::new(BlobCode::InvalidKey, why);
        let below = async {
            let page = self.page(&format!("{key}/"), 1, None).await?;
            if page.objects.is_empty() {
                return Ok(());
            }
            Err(refused("other keys begin with this key and a `/`"))
        };
        let above = async {
            let ends: Vec<_> = key.match_indices('/').map(|(end, _)| end).collect();
            for ends in ends.chunks(HEADS_IN_FLIGHT) {
                let heads = ends.iter().map(|end| self.find(&key[..*end]));
                let found = futures::future::try_join_all(heads).await?;
                if found.iter().any(Option::is_some) {
                    return Err(refused("a part of the key is the key of an object"));
                }
            }
            Ok(())
        };
        futures::future::try_join(below, above).await.map(|_| ())
    }

    /// Told at once rather than after all the bytes; the store decides at the end.
    async fn check(&self, key: &str, condition: &Condition) -> Result<(), BlobError> {
        self.check_place(key).await?;
        let failed = match condition {
            Condition::Always => return Ok(()),
            Condition::IfAbsent => self.find(key).await?.is_some(),
            Condition::IfMatch(etag) => {
                let found = self.find(key).await?;
                found.is_none_or(|found| found.etag != *etag)
            }
        };
        if failed { Err(precondition()) } else { Ok(()) }
    }

    /// What was written, as the store tells it now.
    pub(super) async fn written(
        &self,
        key: &str,
        etag: Option<String>,
        size: u64,
    ) -> Result<Metadata, BlobError> {
        let found = self.find(key).await?;
        match (found, etag) {
            (Some(found), Some(etag)) if found.etag == etag => Ok(found),
            (Some(found), None) => Ok(found),
            // Somebody was quicker: this is what was ours.
            (_, etag) => Ok(Metadata {
                key: key.to_owned(),
                size,
                last_modified_ms: now_ms(),
                etag: etag.unwrap_or_default(),
            }),
        }
    }

    async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<Metadata, BlobError> {
        let path = self.path(key)?;
        let mode = match condition {
            Condition::Always => PutMode::Overwrite,
            Condition::IfAbsent => PutMode::Create,
            Condition::IfMatch(etag) => PutMode::Update(UpdateVersion {
                e_tag: Some(checked_etag(etag)?),
                version: None,
            }),
        };
        let size = bytes.len() as u64;
        let payload = PutPayload::from_bytes(bytes);
        let put = self.store.put_opts(&path, payload, mode.into()).await;
        let put = put.map_err(|error| translate(key, &error))?;
        self.written(key, put.e_tag, size).await
    }

    async fn get(&self, key: &str, offset: u64, length: u64) -> Result<Bytes, BlobError> {
        let whole = offset == 0 && length == u64::MAX;
        let far = || {
            BlobError::new(
                BlobCode::InvalidRange,
                "the range begins at or past the end of the object",
            )
        };
        // What stores read as a number of 64 bits with a sign.
        let end = offset.saturating_add(length).min(i64::MAX as u64);
        if !whole && offset >= end {
            let found = self.existing(key).await?;
            return if offset < found.size {
                Ok(Bytes::new())
            } else {
                Err(far())
            };
        }
        let options = GetOptions {
            range: (!whole).then_some(GetRange::Bounded(offset..end)),
            ..GetOptions::default()
        };
        let result = match self.store.get_opts(&self.path(key)?, options).await {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Err(not_found(key)),
            // A range that cannot be is told in many ways.
            Err(_) if !whole && self.existing(key).await?.size <= offset => return Err(far()),
            Err(error) => return Err(translate(key, &error)),
        };
        let bytes = result.range.end - result.range.start;
        if bytes > GET_BYTES {
            return Err(BlobError::new(
                BlobCode::LimitExceeded,
                format!(
                    "one answer has at most {GET_BYTES} bytes, and these are {bytes}: use `read`"
                ),
            ));
        }
        let read = result.bytes().await;
        read.map_err(|error| translate(key, &error))
    }

    fn check_writable(&self) -> Result<(), BlobError> {
        if self.read_only {
            return Err(BlobError::new(
                BlobCode::CapabilityDenied,
                "the container is read-only",
            ));
        }
        Ok(())
    }

    fn check_size(&self, bytes: u64) -> Result<(), BlobError> {
        let limit = self.limits.object_bytes;
        if bytes > limit {
            return Err(BlobError::new(
                BlobCode::LimitExceeded,
                format!("an object has at most {limit} bytes in this container"),
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl Container for S3Container {
    fn backend(&self) -> &'static str {
        "s3"
    }

    fn read_only(&self) -> bool {
        self.shared.read_only
    }

    fn limits(&self) -> &BlobLimits {
        &self.shared.limits
    }

    async fn diagnose(&self) -> Vec<Finding> {
        diagnose(self).await
    }

    async fn head(&self, key: String) -> Result<Metadata, BlobError> {
        self.run(|shared| async move { shared.existing(&key).await })
            .await
    }

    async fn get(&self, key: String, offset: u64, length: u64) -> Result<Bytes, BlobError> {
        self.run(|shared| async move { shared.get(&key, offset, length).await })
            .await
    }

    async fn put(
        &self,
        key: String,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<Metadata, BlobError> {
        self.shared.check_writable()?;
        self.shared.check_size(bytes.len() as u64)?;
        self.run(|shared| async move {
            shared.check_place(&key).await?;
            shared.put(&key, bytes, condition).await
        })
        .await
    }

    async fn delete(&self, key: String) -> Result<(), BlobError> {
        self.shared.check_writable()?;
        self.run(|shared| async move {
            // A store says nothing of an object that was not there.
            shared.existing(&key).await?;
            let deleted = shared.store.delete(&shared.path(&key)?).await;
            deleted.map_err(|error| translate(&key, &error))
        })
        .await
    }

    async fn list(
        &self,
        prefix: String,
        limit: u32,
        after: Option<String>,
    ) -> Result<Page, BlobError> {
        self.run(|shared| async move { shared.page(&prefix, limit, after.as_deref()).await })
            .await
    }

    async fn read(&self, key: String) -> Result<Box<dyn ObjectReader>, BlobError> {
        let (metadata, chunks) = self
            .run(|shared| async move {
                let got = shared.store.get(&shared.path(&key)?).await;
                let got = got.map_err(|error| translate(&key, &error))?;
                Ok((metadata(&key, &got.meta), got.into_stream()))
            })
            .await?;
        Ok(Box::new(S3Reader {
            metadata,
            chunks: Some(chunks),
            rest: Bytes::new(),
            container: self.clone(),
        }))
    }

    async fn write(
        &self,
        key: String,
        condition: Condition,
    ) -> Result<Box<dyn ObjectWriter>, BlobError> {
        self.shared.check_writable()?;
        let condition = self
            .run(|shared| async move {
                shared.check(&key, &condition).await?;
                Ok((key, condition))
            })
            .await?;
        let (key, condition) = condition;
        let part_bytes = self.shared.limits.object_bytes.div_ceil(PARTS);
        Ok(Box::new(S3Writer {
            container: self.clone(),
            key,
            condition,
            part_bytes: usize::try_from(part_bytes.max(PART_BYTES)).unwrap_or(usize::MAX),
            rest: BytesMut::new(),
            size: 0,
            sent: 0,
            in_flight: JoinSet::new(),
            parts: Vec::new(),
            upload: None,
        }))
    }
}

/// Reads the answer to one request: what replaces the object later is not in it. Where
/// the connection breaks, object_store goes on only with the same object.
struct S3Reader {
    metadata: Metadata,
    /// None after a failure.
    chunks: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    rest: Bytes,
    container: S3Container,
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
struct S3Writer {
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
        self.container.shared.check_size(self.size)?;
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

/// An etag as stores write them. Another text, `*` among them, would be more than one.
fn checked_etag(etag: String) -> Result<String, BlobError> {
    let inner = etag
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let one = inner.is_some_and(|inner| {
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b',';
        !inner.is_empty() && inner.len() <= 256 && inner.bytes().all(plain)
    });
    if one { Ok(etag) } else { Err(precondition()) }
}

fn metadata(key: &str, found: &ObjectMeta) -> Metadata {
    Metadata {
        key: key.to_owned(),
        size: found.size,
        last_modified_ms: u64::try_from(found.last_modified.timestamp_millis()).unwrap_or(0),
        etag: found.e_tag.clone().unwrap_or_default(),
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Whether a key of the bucket is one that a plugin may see.
pub(super) fn is_key(key: &str) -> bool {
    check_key(key).is_ok()
}

pub(super) fn precondition() -> BlobError {
    BlobError::new(
        BlobCode::PreconditionFailed,
        "the object is not as the condition says",
    )
}

fn not_found(key: &str) -> BlobError {
    BlobError::new(
        BlobCode::NotFound,
        format!("there is no object under the key {key}"),
    )
}

/// The store's fault, with its cause in the log.
pub(super) fn away(cause: impl std::fmt::Display) -> BlobError {
    tracing::warn!(%cause, "an object store does not do what it is asked");
    BlobError::new(
        BlobCode::Unavailable,
        "the store cannot be reached, or failed",
    )
}

fn translate(key: &str, error: &object_store::Error) -> BlobError {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => not_found(key),
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => {
            precondition()
        }
        Error::InvalidPath { .. } => {
            BlobError::new(BlobCode::InvalidKey, "the store takes no such key")
        }
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => refused(chain(error)),
        _ => away(chain(error)),
    }
}

/// The store does not let the binding in.
pub(super) fn refused(cause: impl std::fmt::Display) -> BlobError {
    tracing::warn!(%cause, "an object store refuses a binding");
    BlobError::new(
        BlobCode::Unavailable,
        "the store refuses the binding's credentials; its operator must look",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_etag_is_one_etag() {
        for etag in ["\"9a0364b9e99bb480dd25e1f0284c8555\"", "\"abc-2\""] {
            assert!(checked_etag(etag.to_owned()).is_ok(), "{etag}");
        }
        for etag in [
            "*",
            "",
            "\"\"",
            "abc",
            "\"a\", \"b\"",
            "\"a\n\"",
            "W/\"a\"",
            "\"",
        ] {
            let error = checked_etag(etag.to_owned()).expect_err(etag);
            assert_eq!(error.code, BlobCode::PreconditionFailed);
        }
    }
}
