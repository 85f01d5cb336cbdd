//! The files of SQLite databases.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::diagnosis::{Finding, Findings, Trouble, within};

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

/// Looks whether a database can be used: `read` reads something, `write` begins to write
/// and writes nothing.
pub(crate) async fn diagnose<E: Display, R>(
    read_only: bool,
    mut read: impl FnMut() -> R,
    write: impl Future<Output = Result<(), E>>,
) -> Vec<Finding>
where
    R: Future<Output = Result<(), E>>,
{
    within(async {
        let mut findings = Findings::default();
        let asked = findings.latency(|| {
            let answer = read();
            async {
                answer.await.map_err(|error| {
                    Trouble::reach(
                        error,
                        "look whether the file is a database, and whether this user may read it \
                         and write its folder; the log has the cause",
                    )
                })
            }
        });
        if asked.await.is_err() {
            return findings.into_inner();
        }
        let version = libsqlite3_sys::SQLITE_VERSION;
        let version = version.to_str().unwrap_or("of an unknown version");
        findings.ok("version", format!("SQLite {version}"));
        if read_only {
            findings.ok("rights", "read-only, as configured");
        } else if let Err(error) = write.await {
            findings.fail(
                "rights",
                error.to_string(),
                "give this user the right to write the file, or make the binding `read_only`",
            );
        } else {
            findings.ok("rights", "read and write");
        }
        findings.into_inner()
    })
    .await
}
