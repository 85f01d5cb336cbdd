//! Objects in a bucket of a store that speaks S3 (Amazon S3, Supabase Storage, Cloudflare
//! R2, MinIO, a gateway in front of files); what is the same for all buckets is in
//! `bucket.rs`.
//!
//! Through object_store's client, except for what it keeps to itself (`s3_wire.rs`): a
//! listing by any text rather than by whole segments, and the end of a multipart upload
//! under a condition. Both are requests that it signs and we send. What was written is
//! asked for with a HEAD: the answer to a PUT does not tell when it was.
//!
//! A bucket keeps the parts of an upload that nobody ended: of a process that was killed.
//! A lifecycle rule of the bucket (`AbortIncompleteMultipartUpload`) removes them.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::StreamExt as _;
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path as ObjectPath;
use object_store::signer::Signer as _;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload,
    UpdateVersion,
};
use reqwest::Method;
use tokio::runtime::Handle;

use super::bucket::{Bucket, Got, Object, Piece, Store, Written, far, precondition};
use super::bucket_config::{BucketConfigError, SILENCE};
use super::bucket_http::{Http, Moves};
use super::bucket_wire::{away, refused};
use super::s3_config::{S3Config, connect};
use super::{
    BlobCode, BlobError, BlobLimits, Condition, Metadata, Page, Presigned, StoreServer, not_found,
};
use crate::error::chain;

/// A prefix of a bucket.
pub type S3Container = Bucket<S3>;

/// A bucket of a store that speaks S3.
pub struct S3 {
    pub(super) client: AmazonS3,
    /// For requests that are signed by the client and sent by us.
    pub(super) http: Http,
    /// What they are signed for.
    pub(super) region: String,
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
    ) -> Result<Self, BucketConfigError> {
        Ok(Self::of(
            connect(config, SILENCE)?,
            config.normal_prefix(),
            config.connections,
            read_only,
            limits,
            runtime,
        ))
    }
}

pub(super) fn path(object: &Object) -> Result<ObjectPath, BlobError> {
    ObjectPath::parse(&object.name)
        .map_err(|error| BlobError::new(BlobCode::InvalidKey, error.to_string()))
}

#[async_trait]
impl Store for S3 {
    const NAME: &'static str = "s3";
    const PARTS_IN_ORDER: bool = false;
    /// Its id.
    type Upload = String;
    type Part = PartId;

    fn moves(&self) -> &Moves {
        self.http.moves()
    }

    async fn find(&self, object: &Object) -> Result<Option<Metadata>, BlobError> {
        match self.client.head(&path(object)?).await {
            Ok(found) => Ok(Some(metadata(&object.key, &found))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(translate(&object.key, &error)),
        }
    }

    async fn get(&self, object: &Object, range: Option<Range<u64>>) -> Result<Got, BlobError> {
        let begin = range.as_ref().map(|range| range.start);
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let got = match self.client.get_opts(&path(object)?, options).await {
            Ok(got) => got,
            Err(error) => {
                let missing = matches!(error, object_store::Error::NotFound { .. });
                // A range that cannot be is told in many ways.
                if !missing && let Some(begin) = begin {
                    let found = self.find(object).await?;
                    let found = found.ok_or_else(|| not_found(&object.key))?;
                    if found.size <= begin {
                        return Err(far());
                    }
                }
                return Err(translate(&object.key, &error));
            }
        };
        let key = object.key.clone();
        Ok(Got {
            metadata: metadata(&key, &got.meta),
            bytes: got.range.end - got.range.start,
            chunks: got
                .into_stream()
                .map(move |chunk| chunk.map_err(|error| translate(&key, &error)))
                .boxed(),
        })
    }

    async fn put(
        &self,
        object: &Object,
        bytes: Bytes,
        condition: &Condition,
    ) -> Result<Written, BlobError> {
        let mode = match condition {
            Condition::Always => PutMode::Overwrite,
            Condition::IfAbsent => PutMode::Create,
            Condition::IfMatch(etag) => PutMode::Update(UpdateVersion {
                e_tag: Some(checked_etag(etag.clone())?),
                version: None,
            }),
        };
        let (path, payload) = (path(object)?, PutPayload::from_bytes(bytes));
        let put = self.client.put_opts(&path, payload, mode.into()).await;
        let put = put.map_err(|error| translate(&object.key, &error))?;
        Ok(Written::Etag(put.e_tag))
    }

    async fn delete(&self, object: &Object) -> Result<(), BlobError> {
        // A store says nothing of an object that was not there.
        if self.find(object).await?.is_none() {
            return Err(not_found(&object.key));
        }
        let deleted = self.client.delete(&path(object)?).await;
        deleted.map_err(|error| translate(&object.key, &error))
    }

    async fn page(
        &self,
        own: &str,
        prefix: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<Page, BlobError> {
        self.listed(own, prefix, limit, after).await
    }

    async fn begin(&self, object: &Object, _condition: &Condition) -> Result<String, BlobError> {
        let begun = self.client.create_multipart(&path(object)?).await;
        begun.map_err(|error| translate(&object.key, &error))
    }

    async fn part(
        &self,
        object: &Object,
        upload: &String,
        piece: Piece,
    ) -> Result<PartId, BlobError> {
        let (path, payload) = (path(object)?, PutPayload::from_bytes(piece.bytes));
        let part = self.client.put_part(&path, upload, piece.index, payload);
        part.await.map_err(|error| translate(&object.key, &error))
    }

    async fn end(
        &self,
        object: &Object,
        upload: &String,
        parts: Vec<PartId>,
        _last: Piece,
        condition: &Condition,
    ) -> Result<Written, BlobError> {
        let condition = match condition {
            Condition::IfMatch(etag) => Condition::IfMatch(checked_etag(etag.clone())?),
            other => other.clone(),
        };
        let etag = self.complete(object, upload, &parts, &condition).await?;
        Ok(Written::Etag(etag))
    }

    async fn abort(&self, object: &Object, upload: &String) -> Result<(), String> {
        let path = path(object).map_err(|error| error.to_string())?;
        let aborted = self.client.abort_multipart(&path, upload).await;
        aborted.map_err(|error| chain(&error))
    }

    async fn presign(
        &self,
        object: &Object,
        what: Presigned,
        lasts: Duration,
    ) -> Result<String, BlobError> {
        let method = match what {
            Presigned::Get => Method::GET,
            Presigned::Put => Method::PUT,
        };
        let signed = self.client.signed_url(method, &path(object)?, lasts).await;
        let signed = signed.map_err(|error| translate(&object.key, &error))?;
        Ok(signed.into())
    }

    async fn told(&self) -> Option<StoreServer> {
        self.server().await
    }

    async fn keeps_conditions(&self, object: &Object) -> Result<bool, BlobError> {
        self.looks_at_conditions(object).await
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
