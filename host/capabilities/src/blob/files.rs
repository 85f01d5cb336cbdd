//! Objects as files of one folder, through object_store's local file system: a write
//! goes to a file beside its place, is synced, and takes its place by one rename.
//!
//! The key is the path below the folder, name by name, so the folder of an operator's
//! documents is a container as it stands. object_store follows symbolic links and has
//! no conditional overwrite; both are dealt with here: each part of a path is looked at
//! before it is used, a symbolic link is no object and no way to one, and conditions
//! are checked under a lock of the key. (Plugins cannot make links, and only this
//! process writes to the folder; whoever else could is the operator.)

mod stream;

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::runtime::Handle;

use self::stream::{FileReader, FileWriter, read_at};
use super::address::ContainerAddresses;
use super::listing::{self, Query, metadata};
use super::{
    BlobCode, BlobError, BlobLimits, Condition, Container, GET_BYTES, Metadata, ObjectReader,
    ObjectWriter, Page, Presigned, check_writable, not_found, too_large,
};
use crate::blob::diagnosis::diagnose;
use crate::diagnosis::Finding;
use crate::error::chain;
use crate::task::run_on;

/// Locks for conditions: two keys share one rarely.
const LOCKS: usize = 64;

/// A folder of objects.
#[derive(Clone)]
pub struct FileContainer {
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    store: LocalFileSystem,
    read_only: bool,
    limits: BlobLimits,
    addresses: Option<ContainerAddresses>,
    runtime: Handle,
    locks: Vec<tokio::sync::Mutex<()>>,
}

/// Why a folder cannot be a binding.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It does not exist and cannot be made, or not be read.
    #[error("the folder {} cannot be opened: {source}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is something else.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// object_store refuses it.
    #[error("the folder {} cannot be used: {source}", .folder.display())]
    Store {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: object_store::Error,
    },
}

impl FileContainer {
    /// Opens a folder, and makes it unless it is to be read only. Its work is done on
    /// `runtime`, never on the one that guests run on. Its objects have addresses where the
    /// server of this process answers for them.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn new(
        folder: &Path,
        read_only: bool,
        limits: BlobLimits,
        addresses: Option<ContainerAddresses>,
        runtime: Handle,
    ) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Folder {
            folder: folder.to_owned(),
            source,
        };
        if folder.exists() && !folder.is_dir() {
            return Err(OpenError::NotAFolder(folder.to_owned()));
        }
        if !read_only {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let root = folder.canonicalize().map_err(failed)?;
        std::fs::read_dir(&root).map_err(failed)?;
        let store = LocalFileSystem::new_with_prefix(&root)
            .map_err(|source| OpenError::Store {
                folder: folder.to_owned(),
                source,
            })?
            // An emptied folder would stand in the way of an object of its name.
            .with_automatic_cleanup(true)
            .with_fsync(true);
        Ok(Self {
            shared: Arc::new(Shared {
                root,
                store,
                read_only,
                limits,
                addresses,
                runtime,
                locks: (0..LOCKS).map(|_| tokio::sync::Mutex::new(())).collect(),
            }),
        })
    }

    /// Does something that blocks, on a thread for that.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let shared = Arc::clone(&self.shared);
        let done = self.shared.runtime.spawn_blocking(move || work(&shared));
        done.await.map_err(BlobError::internal)?
    }

    async fn run<F, T>(&self, future: F) -> Result<T, BlobError>
    where
        F: Future<Output = Result<T, BlobError>> + Send + 'static,
        T: Send + 'static,
    {
        run_on(&self.shared.runtime, future)
            .await
            .map_err(BlobError::internal)?
    }
}

/// What lies at a key's place.
enum Found {
    Object(Metadata),
    Nothing,
    /// Something that is no object and cannot become one.
    Other(&'static str),
}

impl Shared {
    fn lock(&self, key: &str) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        // In range, because of the remainder.
        &self.locks[(hasher.finish() % LOCKS as u64) as usize]
    }

    fn find_blocking(&self, key: &str) -> std::io::Result<Found> {
        let mut path = self.root.clone();
        let mut segments = key.split('/').peekable();
        while let Some(segment) = segments.next() {
            path.push(segment);
            let found = match std::fs::symlink_metadata(&path) {
                Ok(found) => found,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
                Err(error) => return Err(error),
            };
            let last = segments.peek().is_none();
            if found.is_symlink() {
                return Ok(Found::Other(
                    "the key leads through a symbolic link, which is no object",
                ));
            }
            if last && found.is_file() {
                return Ok(Found::Object(metadata(key.to_owned(), &found)));
            }
            if last && found.is_dir() {
                return Ok(Found::Other("other keys begin with this key and a `/`"));
            }
            if last || !found.is_dir() {
                return Ok(Found::Other("a part of the key is the key of an object"));
            }
        }
        Ok(Found::Nothing)
    }

    async fn find(self: &Arc<Self>, key: &str) -> Result<Found, BlobError> {
        let shared = Arc::clone(self);
        let key = key.to_owned();
        tokio::task::spawn_blocking(move || shared.find_blocking(&key))
            .await
            .map_err(BlobError::internal)?
            .map_err(|error| translate_io(&error))
    }

    async fn existing(self: &Arc<Self>, key: &str) -> Result<Metadata, BlobError> {
        existing(key, self.find(key).await?)
    }

    fn existing_blocking(&self, key: &str) -> Result<Metadata, BlobError> {
        let found = self.find_blocking(key);
        existing(key, found.map_err(|error| translate_io(&error))?)
    }

    /// An object's file, and what is known of it: of this file, whatever takes its name.
    fn open_blocking(&self, key: &str) -> Result<(File, Metadata), BlobError> {
        self.existing_blocking(key)?;
        object_path(key)?;
        let opened = File::open(self.root.join(key)).and_then(|file| {
            let known = file.metadata()?;
            Ok((file, metadata(key.to_owned(), &known)))
        });
        opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound => not_found(key),
            _ => translate_io(&error),
        })
    }

    /// Whether a write may happen; the caller holds the key's lock.
    async fn check(self: &Arc<Self>, key: &str, condition: &Condition) -> Result<(), BlobError> {
        let found = match self.find(key).await? {
            Found::Object(metadata) => Some(metadata),
            Found::Nothing => None,
            Found::Other(why) => return Err(BlobError::new(BlobCode::InvalidKey, why)),
        };
        let failed = match (condition, found) {
            (Condition::IfAbsent, Some(_)) => "the object exists",
            (Condition::IfMatch(_), None) => "the object does not exist",
            (Condition::IfMatch(etag), Some(found)) if *etag != found.etag => {
                "the object has another etag"
            }
            _ => return Ok(()),
        };
        Err(BlobError::new(BlobCode::PreconditionFailed, failed))
    }
}

#[async_trait]
impl Container for FileContainer {
    fn backend(&self) -> &'static str {
        "files"
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
        self.blocking(move |shared| shared.existing_blocking(&key))
            .await
    }

    async fn get(&self, key: String, offset: u64, length: u64) -> Result<Bytes, BlobError> {
        self.blocking(move |shared| {
            let (mut file, found) = shared.open_blocking(&key)?;
            // All of an empty object is a fine thing to ask for.
            if offset == 0 && length == u64::MAX && found.size == 0 {
                return Ok(Bytes::new());
            }
            if offset >= found.size {
                return Err(BlobError::new(
                    BlobCode::InvalidRange,
                    format!("the object has {} bytes", found.size),
                ));
            }
            let end = offset.saturating_add(length).min(found.size);
            if end - offset > GET_BYTES {
                return Err(too_large(end - offset));
            }
            let read = read_at(&mut file, offset, end - offset);
            read.map_err(|error| translate_io(&error))
        })
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
        let shared = Arc::clone(&self.shared);
        self.run(async move {
            let path = object_path(&key)?;
            let _held = shared.lock(&key).lock().await;
            shared.check(&key, &condition).await?;
            let mode = match condition {
                Condition::IfAbsent => PutMode::Create,
                Condition::Always | Condition::IfMatch(_) => PutMode::Overwrite,
            };
            let options = PutOptions::from(mode);
            shared
                .store
                .put_opts(&path, PutPayload::from_bytes(bytes), options)
                .await
                .map_err(|error| translate(&key, &error))?;
            shared.existing(&key).await
        })
        .await
    }

    async fn delete(&self, key: String) -> Result<(), BlobError> {
        check_writable(self.shared.read_only)?;
        let shared = Arc::clone(&self.shared);
        self.run(async move {
            let path = object_path(&key)?;
            let _held = shared.lock(&key).lock().await;
            shared.existing(&key).await?;
            shared
                .store
                .delete(&path)
                .await
                .map_err(|error| translate(&key, &error))
        })
        .await
    }

    async fn list(
        &self,
        prefix: String,
        limit: u32,
        after: Option<String>,
    ) -> Result<Page, BlobError> {
        let shared = Arc::clone(&self.shared);
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let seen = Arc::clone(&stop.0);
        let page = self
            .shared
            .runtime
            .spawn_blocking(move || {
                let query = Query {
                    prefix: &prefix,
                    limit: usize::try_from(limit).unwrap_or(usize::MAX - 1),
                    after: after.as_deref(),
                    stop: &seen,
                };
                listing::list(&shared.root, shared.read_only, &query)
            })
            .await
            .map_err(BlobError::internal)?;
        page.map_err(|error| translate_io(&error))
    }

    async fn read(&self, key: String) -> Result<Box<dyn ObjectReader>, BlobError> {
        let (file, found) = self
            .blocking(move |shared| shared.open_blocking(&key))
            .await?;
        let runtime = self.shared.runtime.clone();
        Ok(Box::new(FileReader::new(file, found, runtime)))
    }

    async fn write(
        &self,
        key: String,
        condition: Condition,
    ) -> Result<Box<dyn ObjectWriter>, BlobError> {
        check_writable(self.shared.read_only)?;
        let shared = Arc::clone(&self.shared);
        let opened = self
            .run(async move {
                let path = object_path(&key)?;
                // Told at once rather than after all the bytes; checked again at the end.
                shared.check(&key, &condition).await?;
                let upload = shared
                    .store
                    .put_multipart(&path)
                    .await
                    .map_err(|error| translate(&key, &error))?;
                Ok((key, condition, upload))
            })
            .await?;
        let (key, condition, upload) = opened;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(FileWriter::new(shared, upload, key, condition)))
    }

    async fn presign(
        &self,
        key: String,
        what: Presigned,
        lasts: Duration,
    ) -> Result<String, BlobError> {
        let Some(addresses) = self.shared.addresses.clone() else {
            return Err(BlobError::new(
                BlobCode::Unsupported,
                "the folder is a worker's own, and only a server that runs the plugin itself \
                 (`heyday up`) answers for a folder: let the bytes go through the plugin, or bind \
                 a bucket",
            ));
        };
        if what == Presigned::Put {
            check_writable(self.shared.read_only)?;
            let shared = Arc::clone(&self.shared);
            let place = key.clone();
            self.run(async move { shared.check(&place, &Condition::Always).await })
                .await?;
        }
        Ok(addresses.sign(&key, what, lasts))
    }
}

/// Tells a blocking thread that nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn existing(key: &str, found: Found) -> Result<Metadata, BlobError> {
    match found {
        Found::Object(metadata) => Ok(metadata),
        Found::Nothing | Found::Other(_) => Err(not_found(key)),
    }
}

fn object_path(key: &str) -> Result<ObjectPath, BlobError> {
    ObjectPath::parse(key).map_err(|error| BlobError::new(BlobCode::InvalidKey, error.to_string()))
}

fn translate(key: &str, error: &object_store::Error) -> BlobError {
    match error {
        object_store::Error::NotFound { .. } => return not_found(key),
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            return BlobError::new(BlobCode::PreconditionFailed, "the object exists");
        }
        object_store::Error::InvalidPath { .. } => {
            return BlobError::new(BlobCode::InvalidKey, "the store takes no such key");
        }
        _ => {}
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return translate_io(io);
        }
        source = cause.source();
    }
    BlobError::internal(chain(error))
}

fn translate_io(error: &std::io::Error) -> BlobError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            BlobError::new(BlobCode::Unavailable, "the disk is full")
                .with_details(serde_json::json!({ "kind": "disk-full" }))
        }
        ErrorKind::InvalidFilename => BlobError::new(
            BlobCode::InvalidKey,
            "a segment of the key is too long for this store (255 bytes, less a few for \
             writes)",
        ),
        ErrorKind::NotADirectory | ErrorKind::IsADirectory => BlobError::new(
            BlobCode::InvalidKey,
            "the key of an object is not the begin of another's",
        ),
        // It lasts until somebody does something about it: another attempt is in vain.
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            tracing::warn!(cause = %error, "a container may not be read or written");
            BlobError::new(
                BlobCode::Internal,
                "the user that the server runs as may not read or write this; its operator must \
                 give that user the right to the file and to the folders that it lies in",
            )
        }
        _ => {
            tracing::warn!(cause = %error, "a container cannot be read or written");
            BlobError::new(BlobCode::Unavailable, "the store cannot be read or written")
        }
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
