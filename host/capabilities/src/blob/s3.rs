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
use bytes::Bytes;
use object_store::aws::AmazonS3;
use object_store::path::Path as ObjectPath;
use object_store::signer::Signer as _;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload,
    UpdateVersion,
};
use reqwest::Method;
use tokio::runtime::Handle;

use super::s3_config::{S3Config, S3ConfigError, connect};
use super::s3_stream::{S3Reader, S3Writer};
use super::{
    BlobCode, BlobError, BlobLimits, Condition, Container, GET_BYTES, Metadata, ObjectReader,
    ObjectWriter, Page, Presigned, StoreServer, check_key, check_writable, not_found, too_large,
};
use crate::blob::diagnosis::diagnose;
use crate::diagnosis::Finding;
use crate::error::chain;
use crate::places::Places;
use crate::task::run_on;

/// HEADs of one check that are on their way together.
const HEADS_IN_FLIGHT: usize = 8;
/// Bytes of the longest key of a bucket.
const KEY_BYTES: usize = 1_024;
/// How long an operation waits for others of its binding.
const PATIENCE: Duration = Duration::from_secs(30);

/// A prefix of a bucket.
#[derive(Clone)]
pub struct S3Container {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) store: AmazonS3,
    /// For requests that are signed by the store and sent by us.
    pub(super) http: reqwest::Client,
    /// Empty, or it ends in `/`.
    pub(super) prefix: String,
    read_only: bool,
    pub(super) limits: BlobLimits,
    pub(super) runtime: Handle,
    operations: Places,
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
                operations: Places::new(config.connections.into()),
            }),
        })
    }

    pub(super) async fn run<W, F, T>(&self, work: W) -> Result<T, BlobError>
    where
        W: FnOnce(Arc<Shared>) -> F,
        F: Future<Output = Result<T, BlobError>> + Send + 'static,
        T: Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let turn = shared.operations.take(PATIENCE).await.ok_or_else(|| {
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
    pub(super) async fn check_place(&self, key: &str) -> Result<(), BlobError> {
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

    pub(super) async fn put(
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
            return Err(too_large(bytes));
        }
        let read = result.bytes().await;
        read.map_err(|error| translate(key, &error))
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

    async fn server(&self) -> Option<StoreServer> {
        let told = self.run(|shared| async move { Ok(shared.told().await) });
        told.await.ok()?
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
        check_writable(self.shared.read_only)?;
        self.shared.limits.check_object(bytes.len() as u64)?;
        self.run(|shared| async move {
            shared.check_place(&key).await?;
            shared.put(&key, bytes, condition).await
        })
        .await
    }

    async fn delete(&self, key: String) -> Result<(), BlobError> {
        check_writable(self.shared.read_only)?;
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
        Ok(Box::new(S3Reader::new(self.clone(), metadata, chunks)))
    }

    async fn write(
        &self,
        key: String,
        condition: Condition,
    ) -> Result<Box<dyn ObjectWriter>, BlobError> {
        check_writable(self.shared.read_only)?;
        let condition = self
            .run(|shared| async move {
                shared.check(&key, &condition).await?;
                Ok((key, condition))
            })
            .await?;
        let (key, condition) = condition;
        Ok(Box::new(S3Writer::new(self.clone(), key, condition)))
    }

    async fn presign(
        &self,
        key: String,
        what: Presigned,
        lasts: Duration,
    ) -> Result<String, BlobError> {
        if what == Presigned::Put {
            check_writable(self.shared.read_only)?;
        }
        self.run(|shared| async move {
            let method = match what {
                Presigned::Get => Method::GET,
                Presigned::Put => {
                    shared.check_place(&key).await?;
                    Method::PUT
                }
            };
            let path = shared.path(&key)?;
            let signed = shared.store.signed_url(method, &path, lasts).await;
            let signed = signed.map_err(|error| translate(&key, &error))?;
            Ok(signed.into())
        })
        .await
    }
}

/// An etag as stores write them. Another text, `*` among them, would be more than one.
pub(super) fn checked_etag(etag: String) -> Result<String, BlobError> {
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

/// The store's fault, with its cause in the log.
pub(super) fn away(cause: impl std::fmt::Display) -> BlobError {
    tracing::warn!(%cause, "an object store does not do what it is asked");
    BlobError::new(
        BlobCode::Unavailable,
        "the store cannot be reached, or failed",
    )
}

pub(super) fn translate(key: &str, error: &object_store::Error) -> BlobError {
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
