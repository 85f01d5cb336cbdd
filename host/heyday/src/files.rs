//! Content-addressed files: uploaded bytes, and payloads that are too large to stay
//! inline.
//!
//! A file is written under a temporary name, synced, renamed to its digest, and its
//! folder is synced, and the one above: once [`ContentFiles::put_bytes`] answers, the bytes
//! survive a crash, and a file that is there is whole. That it is there does not say that its
//! folders were synced: who finds one syncs them too.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use heyday_durable::payload::Digest;

/// A folder of files, each named by the sha-256 digest of its bytes.
#[derive(Debug, Clone)]
pub struct ContentFiles {
    root: Arc<PathBuf>,
}

impl ContentFiles {
    /// Opens a folder, and makes it where it is missing. What an earlier process left
    /// half-written is removed.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        std::fs::create_dir_all(&root)?;
        for entry in std::fs::read_dir(&root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self {
            root: Arc::new(root),
        })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join(&hex[..2]).join(hex)
    }

    /// Stores bytes durably; the same bytes again change nothing.
    ///
    /// # Errors
    /// When the disk is full or fails; then nothing is stored.
    pub async fn put_bytes(&self, bytes: Bytes) -> io::Result<Digest> {
        let files = self.clone();
        blocking(move || files.write(&bytes)).await
    }

    fn write(&self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        let path = self.path(&digest);
        let folder = path.parent().unwrap_or(&self.root);
        if let Ok(file) = std::fs::File::open(&path) {
            // It is needed again: a sweep goes by this time. Where it cannot be set, the
            // file is only swept sooner if nothing names it.
            let _ = file.set_modified(SystemTime::now());
            self.sync_above(folder)?;
            return Ok(digest);
        }
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempfile_in(&*self.root)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        self.sync_above(folder)?;
        Ok(digest)
    }

    /// Syncs a file's folder and the one above. Whoever made the folder or put the file there
    /// may be about to do so, or was killed before.
    fn sync_above(&self, folder: &Path) -> io::Result<()> {
        sync_folder(folder)?;
        sync_folder(&self.root)
    }

    /// The bytes of that digest; `NotFound` where there are none.
    ///
    /// # Errors
    /// When they cannot be read, or are no longer those that were written.
    pub async fn read(&self, digest: &Digest) -> io::Result<Bytes> {
        let (path, digest) = (self.path(digest), *digest);
        blocking(move || {
            let bytes = std::fs::read(path)?;
            if Digest::of(&bytes) != digest {
                return Err(io::Error::other(format!(
                    "the file of {digest} was damaged: its bytes have another digest"
                )));
            }
            Ok(Bytes::from(bytes))
        })
        .await
    }

    /// Removes the file of that digest, if there is one.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove(&self, digest: &Digest) -> io::Result<()> {
        let path = self.path(digest);
        blocking(move || match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    /// The digests of all files.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn list(&self) -> io::Result<Vec<Digest>> {
        let files = self.clone();
        blocking(move || {
            let mut digests = Vec::new();
            for folder in std::fs::read_dir(&*files.root)? {
                let folder = folder?;
                if folder.file_type()?.is_dir() {
                    for entry in std::fs::read_dir(folder.path())? {
                        let name = entry?.file_name();
                        digests
                            .extend(format!("sha256:{}", name.to_string_lossy()).parse::<Digest>());
                    }
                }
            }
            Ok(digests)
        })
        .await
    }

    /// Removes the files that are not among the live ones and are older than `grace`;
    /// answers how many.
    ///
    /// # Errors
    /// When the folder cannot be read, or a file not be removed.
    pub async fn sweep(&self, live: &HashSet<Digest>, grace: Duration) -> io::Result<u64> {
        let (files, live) = (self.clone(), live.clone());
        blocking(move || files.sweep_files(&live, grace)).await
    }

    fn sweep_files(&self, live: &HashSet<Digest>, grace: Duration) -> io::Result<u64> {
        let mut removed = 0;
        for folder in std::fs::read_dir(&*self.root)? {
            let folder = folder?;
            if !folder.file_type()?.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(folder.path())? {
                let entry = entry?;
                let name = entry.file_name();
                let Ok(digest) = format!("sha256:{}", name.to_string_lossy()).parse::<Digest>()
                else {
                    continue;
                };
                let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
                if !live.contains(&digest) && age > grace {
                    std::fs::remove_file(entry.path())?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

const TEMPORARY: &str = ".new-";

fn sync_folder(folder: &Path) -> io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use heyday_durable::payload::{PayloadStore as _, PayloadStoreError};

    use super::*;
    use crate::content::Content;

    #[tokio::test]
    async fn bytes_come_back_by_their_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = ContentFiles::open(folder.path()).expect("opened");
        let store = Content::from(files.clone());
        let digest = store.put(Bytes::from_static(b"abc")).await.expect("put");
        assert_eq!(digest, Digest::of(b"abc"));
        assert_eq!(
            store.put(Bytes::from_static(b"abc")).await.expect("again"),
            digest
        );
        assert_eq!(
            store.get(&digest).await.expect("got"),
            Bytes::from_static(b"abc")
        );
        let missing = store.get(&Digest::of(b"x")).await;
        assert!(matches!(missing, Err(PayloadStoreError::NotFound(_))));
    }

    #[tokio::test]
    async fn damage_is_noticed_and_rests_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = ContentFiles::open(folder.path()).expect("opened");
        let store = Content::from(files.clone());
        let digest = store.put(Bytes::from_static(b"abc")).await.expect("put");
        std::fs::write(files.path(&digest), b"abd").expect("damaged");
        assert!(matches!(
            store.get(&digest).await,
            Err(PayloadStoreError::Unavailable(_))
        ));
        let rest = folder.path().join(".new-rest");
        std::fs::write(&rest, b"half").expect("written");
        ContentFiles::open(folder.path()).expect("opened again");
        assert!(!rest.exists());
    }

    #[tokio::test]
    async fn a_sweep_keeps_what_is_live_or_young() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = ContentFiles::open(folder.path()).expect("opened");
        let store = Content::from(files.clone());
        let live = store.put(Bytes::from_static(b"live")).await.expect("put");
        let dead = store.put(Bytes::from_static(b"dead")).await.expect("put");
        let named = HashSet::from([live]);
        let hour = Duration::from_secs(3600);
        assert_eq!(store.sweep(&named, hour).await.expect("swept"), 0);
        for digest in [live, dead] {
            let file = std::fs::File::open(files.path(&digest)).expect("a file");
            file.set_modified(SystemTime::now() - 2 * hour)
                .expect("aged");
        }
        assert_eq!(store.sweep(&named, hour).await.expect("swept"), 1);
        assert!(store.get(&live).await.is_ok());
        assert!(store.get(&dead).await.is_err());
    }
}
