//! Objects in a bucket of a store that is reached by HTTP, below a prefix that is the
//! binding's own: what is the same whatever store it is. A [`Store`] does the requests.
//!
//! What a folder of files does not allow is not allowed here either, so that a plugin
//! meets the same rules everywhere: before a write we look whether a part of its key is
//! an object, and whether other keys continue it. Two writers at the same moment may both
//! see nothing; a bucket can hold both of their objects. A write is therefore some
//! requests: a listing, a HEAD for each part of the key, and what the store needs to write.
//! A read is one.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::bucket_http::Moves;
use super::bucket_stream::{BucketReader, BucketWriter, part_bytes};
use super::diagnosis::diagnose;
use super::{
    BlobCode, BlobError, BlobLimits, Condition, Container, GET_BYTES, Metadata, ObjectReader,
    ObjectWriter, Page, Presigned, StoreServer, check_key, check_writable, not_found, too_large,
};
use crate::diagnosis::Finding;
use crate::places::Places;
use crate::task::run_on;

/// HEADs of one check that are on their way together.
const HEADS_IN_FLIGHT: usize = 8;
/// Bytes of the longest key of a bucket.
const KEY_BYTES: usize = 1_024;
/// How long an operation waits for others of its binding; a part of an upload while none moves.
const PATIENCE: Duration = Duration::from_secs(30);

/// One object.
#[derive(Debug, Clone)]
pub struct Object {
    /// What plugins call it.
    pub(super) key: String,
    /// What the bucket does: the binding's prefix, and the key.
    pub(super) name: String,
}

/// The pieces of an object, as they come.
pub(super) type Chunks = BoxStream<'static, Result<Bytes, BlobError>>;

/// An object that is being read.
pub struct Got {
    /// The whole object's.
    pub(super) metadata: Metadata,
    /// How many bytes come.
    pub(super) bytes: u64,
    pub(super) chunks: Chunks,
}

/// A piece of an upload.
pub struct Piece {
    /// How many were before it.
    pub(super) index: usize,
    /// How many bytes were.
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// What a store says of an object that it wrote.
pub enum Written {
    /// All of it.
    Whole(Metadata),
    /// Its etag, perhaps.
    Etag(Option<String>),
}

/// What stores do differently. All keys and numbers are checked.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// What operators know it as.
    const NAME: &'static str;
    /// Whether the parts of an upload go one after another, and the last with its end.
    const PARTS_IN_ORDER: bool;
    /// An upload that has begun.
    type Upload: Send + Sync + 'static;
    /// What the store answered to a part.
    type Part: Send + 'static;

    /// What tells that bytes of uploads move.
    fn moves(&self) -> &Moves;

    /// What is known of an object, if there is one.
    async fn find(&self, object: &Object) -> Result<Option<Metadata>, BlobError>;

    /// Begins to read an object, all of it or some bytes that are not none.
    async fn get(&self, object: &Object, range: Option<Range<u64>>) -> Result<Got, BlobError>;

    /// Writes a whole object.
    async fn put(
        &self,
        object: &Object,
        bytes: Bytes,
        condition: &Condition,
    ) -> Result<Written, BlobError>;

    /// Deletes an object, or says that there is none.
    async fn delete(&self, object: &Object) -> Result<(), BlobError>;

    /// A page of the objects below `own` whose keys begin with `prefix`.
    async fn page(
        &self,
        own: &str,
        prefix: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<Page, BlobError>;

    /// Begins an upload that ends under a condition.
    async fn begin(
        &self,
        object: &Object,
        condition: &Condition,
    ) -> Result<Self::Upload, BlobError>;

    /// Sends a part.
    async fn part(
        &self,
        object: &Object,
        upload: &Self::Upload,
        piece: Piece,
    ) -> Result<Self::Part, BlobError>;

    /// Makes an object of an upload, with its last bytes where parts go in order (else
    /// there are none).
    async fn end(
        &self,
        object: &Object,
        upload: &Self::Upload,
        parts: Vec<Self::Part>,
        last: Piece,
        condition: &Condition,
    ) -> Result<Written, BlobError>;

    /// Gives an upload up; the error is for the log.
    async fn abort(&self, object: &Object, upload: &Self::Upload) -> Result<(), String>;

    /// A presigned address.
    async fn presign(
        &self,
        object: &Object,
        what: Presigned,
        lasts: Duration,
    ) -> Result<String, BlobError>;

    /// What the server says of itself when it answers, whatever it answers.
    async fn told(&self) -> Option<StoreServer>;

    /// Whether it refuses a write whose condition does not hold; what must be tried is with
    /// that object, which is nobody's and is gone afterwards.
    async fn keeps_conditions(&self, _object: &Object) -> Result<bool, BlobError> {
        Ok(true)
    }
}

/// A prefix of a bucket.
pub struct Bucket<S> {
    pub(super) shared: Arc<Shared<S>>,
}

impl<S> Clone for Bucket<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

pub(super) struct Shared<S> {
    pub(super) store: S,
    /// Empty, or it ends in `/`.
    prefix: String,
    read_only: bool,
    pub(super) limits: BlobLimits,
    pub(super) runtime: Handle,
    operations: Places,
    pub(super) patience: Duration,
    /// MiB that the parts of all uploads may have in memory: as many parts as there are places.
    room: Arc<Semaphore>,
    /// Whether the store refuses a write whose condition does not hold, once it was tried.
    keeps_conditions: OnceCell<bool>,
}

impl<S: Store> Bucket<S> {
    /// Its work is done on `runtime`, never on the one that guests run on.
    pub(super) fn of(
        store: S,
        prefix: String,
        connections: u16,
        read_only: bool,
        limits: BlobLimits,
        runtime: Handle,
    ) -> Self {
        let part = mebibytes(part_bytes(&limits)) as usize;
        let room = part.saturating_mul(connections.max(1).into());
        Self {
            shared: Arc::new(Shared {
                store,
                prefix,
                read_only,
                limits,
                runtime,
                operations: Places::new(connections.into()),
                patience: PATIENCE,
                room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
                keeps_conditions: OnceCell::new(),
            }),
        }
    }

    pub(super) async fn run<W, F, T>(&self, work: W) -> Result<T, BlobError>
    where
        W: FnOnce(Arc<Shared<S>>) -> F,
        F: Future<Output = Result<T, BlobError>> + Send + 'static,
        T: Send + 'static,
    {
        let turn = self.shared.operations.take(self.shared.patience).await;
        self.run_in(turn.ok_or_else(busy)?, work).await
    }

    pub(super) async fn run_in<W, F, T>(
        &self,
        turn: OwnedSemaphorePermit,
        work: W,
    ) -> Result<T, BlobError>
    where
        W: FnOnce(Arc<Shared<S>>) -> F,
        F: Future<Output = Result<T, BlobError>> + Send + 'static,
        T: Send + 'static,
    {
        let work = work(Arc::clone(&self.shared));
        run_on(&self.shared.runtime, async move {
            let _turn = turn;
            work.await
        })
        .await
        .map_err(BlobError::internal)?
    }
}

impl<S: Store> Shared<S> {
    /// The place of a part of an upload, or of its end: it waits while those before it move.
    pub(super) async fn turn_of_part(&self) -> Result<OwnedSemaphorePermit, BlobError> {
        let turn = self.operations.take_another();
        let turn = self.store.moves().wait(self.patience, turn).await;
        turn.flatten().ok_or_else(busy)
    }

    /// Room in memory for a part, taken until it is dropped. Whoever has it waits for no more
    /// of it before its part is sent, and what sends needs none: so there is always one that
    /// goes on, unless its guest does not.
    pub(super) async fn room_for_part(
        &self,
        bytes: usize,
    ) -> Result<OwnedSemaphorePermit, BlobError> {
        let room = Arc::clone(&self.room).acquire_many_owned(mebibytes(bytes));
        match self.store.moves().wait(self.patience, room).await {
            Some(Ok(room)) => Ok(room),
            _ => Err(busy()),
        }
    }

    pub(super) fn object(&self, key: &str) -> Result<Object, BlobError> {
        let name = format!("{}{key}", self.prefix);
        if name.len() > KEY_BYTES {
            return Err(BlobError::new(
                BlobCode::InvalidKey,
                format!(
                    "a key has at most {} bytes in this container",
                    KEY_BYTES.saturating_sub(self.prefix.len())
                ),
            ));
        }
        Ok(Object {
            key: key.to_owned(),
            name,
        })
    }

    async fn find(&self, key: &str) -> Result<Option<Metadata>, BlobError> {
        self.store.find(&self.object(key)?).await
    }

    async fn existing(&self, key: &str) -> Result<Metadata, BlobError> {
        self.find(key).await?.ok_or_else(|| not_found(key))
    }

    async fn page(&self, prefix: &str, limit: u32, after: Option<&str>) -> Result<Page, BlobError> {
        let mut page = self.store.page(&self.prefix, prefix, limit, after).await?;
        // A store takes more names than its binding does.
        page.objects
            .retain(|found| check_key(&found.key, self.read_only).is_ok());
        Ok(page)
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

    /// Refuses every condition where the store would write whether it holds or not: a
    /// plugin could not know what it wrote over. It is tried at the first in this process,
    /// and where that could not be told, at the next.
    async fn check_conditional(self: &Arc<Self>, condition: &Condition) -> Result<(), BlobError> {
        if matches!(condition, Condition::Always) {
            return Ok(());
        }
        let shared = Arc::clone(self);
        let trying = || async move {
            let object = shared.object(&format!("heyday-conditions-{}", Uuid::now_v7()))?;
            let runtime = shared.runtime.clone();
            // Whoever waits for it may go: it ends all the same, so that nothing stays.
            let tried = runtime.spawn(async move { shared.store.keeps_conditions(&object).await });
            tried.await.map_err(BlobError::internal)?
        };
        if *self.keeps_conditions.get_or_try_init(trying).await? {
            return Ok(());
        }
        Err(BlobError::new(
            BlobCode::Unsupported,
            "the store looks at no conditions on writes: it would write over what is there",
        ))
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
        written: Written,
        size: u64,
    ) -> Result<Metadata, BlobError> {
        let etag = match written {
            Written::Whole(metadata) => return Ok(metadata),
            Written::Etag(etag) => etag,
        };
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

    /// Writes a whole object where one may be.
    pub(super) async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: &Condition,
    ) -> Result<Metadata, BlobError> {
        self.check_place(key).await?;
        let size = bytes.len() as u64;
        let object = self.object(key)?;
        let written = self.store.put(&object, bytes, condition).await?;
        self.written(key, written, size).await
    }

    async fn get(&self, key: &str, offset: u64, length: u64) -> Result<Bytes, BlobError> {
        let whole = offset == 0 && length == u64::MAX;
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
        let range = (!whole).then_some(offset..end);
        let mut got = self.store.get(&self.object(key)?, range).await?;
        if got.bytes > GET_BYTES {
            return Err(too_large(got.bytes));
        }
        // In one piece, most are no longer than that.
        let mut bytes = BytesMut::new();
        while let Some(chunk) = got.chunks.next().await {
            let chunk = chunk?;
            if bytes.is_empty() && chunk.len() as u64 == got.bytes {
                return Ok(chunk);
            }
            if bytes.is_empty() {
                bytes.reserve(usize::try_from(got.bytes).unwrap_or(0));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

#[async_trait]
impl<S: Store> Container for Bucket<S> {
    fn backend(&self) -> &'static str {
        S::NAME
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
        let told = self.run(|shared| async move { Ok(shared.store.told().await) });
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
            shared.check_conditional(&condition).await?;
            shared.put(&key, bytes, &condition).await
        })
        .await
    }

    async fn delete(&self, key: String) -> Result<(), BlobError> {
        check_writable(self.shared.read_only)?;
        self.run(|shared| async move { shared.store.delete(&shared.object(&key)?).await })
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
        let got = self
            .run(|shared| async move { shared.store.get(&shared.object(&key)?, None).await })
            .await?;
        Ok(Box::new(BucketReader::new(self.clone(), got)))
    }

    async fn write(
        &self,
        key: String,
        condition: Condition,
    ) -> Result<Box<dyn ObjectWriter>, BlobError> {
        check_writable(self.shared.read_only)?;
        let condition = self
            .run(|shared| async move {
                shared.check_conditional(&condition).await?;
                shared.check(&key, &condition).await?;
                Ok((shared.object(&key)?, condition))
            })
            .await?;
        let (object, condition) = condition;
        Ok(Box::new(BucketWriter::new(self.clone(), object, condition)))
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
            if what == Presigned::Put {
                shared.check_place(&key).await?;
            }
            shared
                .store
                .presign(&shared.object(&key)?, what, lasts)
                .await
        })
        .await
    }
}

/// A page of what a store listed: names of the bucket, and what is known of each. Names
/// that are none of ours count for nothing. `more`: whether further ones follow.
pub(super) fn page_of(own: &str, listed: impl IntoIterator<Item = Metadata>, more: bool) -> Page {
    let listed = listed.into_iter();
    let mut objects = Vec::with_capacity(listed.size_hint().0);
    let mut last = None;
    for mut found in listed {
        let Some(key) = found.key.strip_prefix(own) else {
            continue;
        };
        found.key = key.to_owned();
        last = Some(found.key.clone());
        // What others put there and no plugin could name: markers of folders, say.
        if check_key(&found.key, true).is_ok() {
            objects.push(found);
        }
    }
    let next = more.then_some(last).flatten();
    Page { objects, next }
}

/// So many bytes, rounded up.
fn mebibytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX)
}

fn busy() -> BlobError {
    BlobError::new(
        BlobCode::Unavailable,
        "the store is busy with other calls of this binding",
    )
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn far() -> BlobError {
    BlobError::new(
        BlobCode::InvalidRange,
        "the range begins at or past the end of the object",
    )
}

pub(super) fn precondition() -> BlobError {
    BlobError::new(
        BlobCode::PreconditionFailed,
        "the object is not as the condition says",
    )
}
