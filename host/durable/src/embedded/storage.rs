//! Where a history is kept: a file of the operating system ([`FileStorage`]), or what a
//! simulation has in its place.
//!
//! Statements and queries are SQLite's on every storage. What can be replaced is below
//! them: who may have the history, and the files, by the seam that SQLite has for them,
//! the VFS.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::options::OpenError;

/// How long another's claim is waited for. A process that the last owner was just starting
/// has its lock, too, until it runs its own program.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps a history.
#[async_trait]
pub trait Storage: std::fmt::Debug + Send + Sync + 'static {
    /// Makes the history one engine's: SQLite's own locks would let a second one in, and
    /// both would execute every open run. The engine has the claim as long as any of its
    /// threads may write.
    ///
    /// # Errors
    /// [`OpenError::InUse`] where another has it, [`OpenError::Io`] where the storage
    /// cannot be reached.
    async fn claim(&self) -> Result<Claim, OpenError>;

    /// The database's file, by its name in the VFS. It is made where it does not exist.
    fn database(&self) -> &Path;

    /// The VFS that has the file, registered with SQLite before; SQLite's own for this
    /// platform where absent.
    fn vfs(&self) -> Option<&str> {
        None
    }
}

/// A history that is somebody's, until all copies of this are dropped.
#[derive(Clone)]
pub struct Claim {
    _held: Arc<dyn Any + Send + Sync>,
}

impl Claim {
    /// One that lets go of the history by dropping that.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self {
            _held: Arc::new(held),
        }
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").finish_non_exhaustive()
    }
}

/// A file, with `-wal`, `-shm` and `.lock` files beside it.
#[derive(Debug, Clone)]
pub struct FileStorage {
    database: PathBuf,
}

impl FileStorage {
    /// The history in that file. Its folder is made, too, where it does not exist.
    pub fn new(database: impl Into<PathBuf>) -> Self {
        Self {
            database: database.into(),
        }
    }

    fn lock_file(&self) -> std::io::Result<std::fs::File> {
        if let Some(folder) = self.database.parent()
            && !folder.as_os_str().is_empty()
        {
            std::fs::create_dir_all(folder)?;
        }
        let mut path = self.database.as_os_str().to_owned();
        path.push(".lock");
        std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
    }
}

#[async_trait]
impl Storage for FileStorage {
    async fn claim(&self) -> Result<Claim, OpenError> {
        let file = self.lock_file()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Claim::new(file)),
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(OpenError::InUse(self.database.clone()));
                }
                Err(std::fs::TryLockError::Error(error)) => return Err(OpenError::Io(error)),
            }
        }
    }

    fn database(&self) -> &Path {
        &self.database
    }
}
