//! The files of SQLite databases.

use std::path::{Path, PathBuf};

/// Why a database cannot be a binding.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its folder does not exist and cannot be made.
    #[error("the folder {} of the database cannot be made: {source}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is to be read only, and there is no file.
    #[error("there is no database at {}, and the binding is read-only", .0.display())]
    Missing(PathBuf),
    /// There is something else.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
}

/// Looks whether a database can be at this path, and makes its folder.
pub(crate) fn check_database(path: &Path, read_only: bool) -> Result<(), OpenError> {
    if path.exists() && !path.is_file() {
        return Err(OpenError::NotAFile(path.to_owned()));
    }
    if read_only && !path.exists() {
        return Err(OpenError::Missing(path.to_owned()));
    }
    if let Some(folder) = path.parent()
        && !folder.as_os_str().is_empty()
    {
        std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder {
            folder: folder.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// SQLite's version, for operators.
pub(crate) fn version() -> String {
    let version = libsqlite3_sys::SQLITE_VERSION.to_str();
    format!("SQLite {}", version.unwrap_or("of an unknown version"))
}

/// What to do where a database cannot be read.
pub(crate) const ADVICE: &str = "look whether the file is a database, and whether this user may \
                                 read it and write its folder; the log has the cause";
