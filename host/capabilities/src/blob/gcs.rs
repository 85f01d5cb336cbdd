//! Objects in a bucket of Google Cloud Storage; what is the same for all buckets is in
//! `bucket.rs`.
//!
//! By [Google's JSON API](https://cloud.google.com/storage/docs/json_api/v1), with requests
//! of our own (`gcs_wire.rs`): object_store's client for Google lists by whole segments
//! only, ends a large upload without a condition, and signs addresses of the public
//! endpoint only. The host signs in as it does to Secret Manager (`google/`).
//!
//! An object's etag is its generation, a number that the store gives to every write.
//! Conditions are generations too (`ifGenerationMatch`, where 0 is no object), and the
//! store decides them, for large objects when the last byte is there. The answer to a
//! write is the object's metadata, so a write needs no HEAD after it.
//!
//! Large objects are one resumable upload, part after part (`gcs_upload.rs`). Where an
//! answer is lost, the store is asked what it has. An upload that nobody ends is gone after
//! a week, and costs nothing until then.
//!
//! A read is one request. Where its connection breaks, it goes on with the same
//! generation, or fails. Times of objects are whole seconds, because the answer to a read
//! tells no more.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::runtime::Handle;

use super::bucket::{Bucket, Got, Object, Piece, Store, Written, precondition};
use super::bucket_config::BucketConfigError;
use super::bucket_http::Moves;
use super::gcs_config::{Connected, GcsConfig, connect};
use super::gcs_upload::Session;
use super::{BlobError, BlobLimits, Condition, Metadata, Page, Presigned, StoreServer};

/// A prefix of a bucket.
pub type GcsContainer = Bucket<Gcs>;

/// A bucket of Google Cloud Storage.
pub struct Gcs {
    // Shared with reads that outlive the call that began them.
    pub(super) client: std::sync::Arc<Client>,
}

/// What sends its requests.
pub(super) struct Client {
    pub(super) connected: Connected,
    pub(super) bucket: String,
}

impl GcsContainer {
    /// Checks the configuration; the store is reached at the first use. Its work is done
    /// on `runtime`, never on the one that guests run on.
    ///
    /// # Errors
    /// What of the configuration cannot be.
    pub fn new(
        config: &GcsConfig,
        read_only: bool,
        limits: BlobLimits,
        runtime: Handle,
    ) -> Result<Self, BucketConfigError> {
        let client = Client {
            connected: connect(config)?,
            bucket: config.bucket.clone(),
        };
        Ok(Self::of(
            Gcs {
                client: std::sync::Arc::new(client),
            },
            config.normal_prefix(),
            config.connections,
            read_only,
            limits,
            runtime,
        ))
    }
}

#[async_trait]
impl Store for Gcs {
    const NAME: &'static str = "gcs";
    const PARTS_IN_ORDER: bool = true;
    type Upload = Session;
    type Part = ();

    fn moves(&self) -> &Moves {
        self.client.connected.http.moves()
    }

    async fn find(&self, object: &Object) -> Result<Option<Metadata>, BlobError> {
        self.client.find(object).await
    }

    async fn get(&self, object: &Object, range: Option<Range<u64>>) -> Result<Got, BlobError> {
        self.client.get(object, range).await
    }

    async fn put(
        &self,
        object: &Object,
        bytes: Bytes,
        condition: &Condition,
    ) -> Result<Written, BlobError> {
        let generation = generation(condition)?;
        let put = self.client.put(object, bytes, generation).await?;
        Ok(Written::Whole(put))
    }

    async fn delete(&self, object: &Object) -> Result<(), BlobError> {
        self.client.delete(object).await
    }

    async fn page(
        &self,
        own: &str,
        prefix: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<Page, BlobError> {
        self.client.listed(own, prefix, limit, after).await
    }

    async fn begin(&self, object: &Object, condition: &Condition) -> Result<Session, BlobError> {
        self.client.begin(object, generation(condition)?).await
    }

    async fn part(
        &self,
        _object: &Object,
        upload: &Session,
        piece: Piece,
    ) -> Result<(), BlobError> {
        self.client.part(upload, piece).await
    }

    async fn end(
        &self,
        object: &Object,
        upload: &Session,
        _parts: Vec<()>,
        last: Piece,
        _condition: &Condition,
    ) -> Result<Written, BlobError> {
        // The condition was said at the begin; the store decides it now.
        let ended = self.client.end(object, upload, last).await?;
        Ok(Written::Whole(ended))
    }

    async fn abort(&self, _object: &Object, upload: &Session) -> Result<(), String> {
        self.client.abort(upload).await
    }

    async fn presign(
        &self,
        object: &Object,
        what: Presigned,
        lasts: Duration,
    ) -> Result<String, BlobError> {
        self.client.presign(object, what, lasts).await
    }

    async fn told(&self) -> Option<StoreServer> {
        self.client.told().await
    }
}

/// The generation that an object must have: 0 for none, nothing for any.
fn generation(condition: &Condition) -> Result<Option<u64>, BlobError> {
    match condition {
        Condition::Always => Ok(None),
        Condition::IfAbsent => Ok(Some(0)),
        Condition::IfMatch(etag) => {
            let digits = etag.bytes().all(|byte| byte.is_ascii_digit());
            let number = etag.parse().ok().filter(|number| {
                // 0 would mean another thing, and more is no number of Google's.
                (1..=i64::MAX as u64).contains(number)
            });
            match number {
                Some(number) if digits && !etag.starts_with('0') => Ok(Some(number)),
                // No object has it.
                _ => Err(precondition()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::BlobCode;

    #[test]
    fn one_etag_is_one_generation() {
        let of = |etag: &str| generation(&Condition::IfMatch(etag.to_owned()));
        assert_eq!(of("1795773600000000"), Ok(Some(1_795_773_600_000_000)));
        for etag in [
            "",
            "0",
            "00",
            "01",
            "+1",
            "-1",
            "1 ",
            "*",
            "\"1\"",
            "1&x=2",
            "9223372036854775808",
        ] {
            let error = of(etag).expect_err(etag);
            assert_eq!(error.code, BlobCode::PreconditionFailed);
        }
        assert_eq!(generation(&Condition::Always), Ok(None));
        assert_eq!(generation(&Condition::IfAbsent), Ok(Some(0)));
    }
}
