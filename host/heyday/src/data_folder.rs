//! The folder in which a server or a worker keeps what is its own, one process at a time.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::server::ServerError;

/// The file whose lock says that a process has the data folder.
const LOCK_FILE: &str = "lock";

/// A data folder that no other process has meanwhile.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataLock {
    /// Makes the data folder, for its owner alone, and takes its lock.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process has it.
    pub fn take(data: &Path) -> Result<Self, ServerError> {
        open_data(data).map(|_file| Self { _file })
    }
}

fn open_data(data: &Path) -> Result<File, ServerError> {
    let failed = |source| ServerError::DataFolder {
        path: data.to_owned(),
        source,
    };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(data).map_err(failed)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(data.join(LOCK_FILE))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(ServerError::InUse(data.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_belongs_to_one_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let lock = open_data(&data).expect("free");
        let error = open_data(&data).expect_err("taken");
        assert!(matches!(error, ServerError::InUse(_)));
        assert!(error.to_string().contains("--data"), "{error}");
        drop(lock);
        open_data(&data).expect("free again");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("written");
        let error = open_data(&file.join("data")).expect_err("below a file");
        assert!(matches!(error, ServerError::DataFolder { .. }));
    }
}
