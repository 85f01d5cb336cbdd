//! An emulator of Google Cloud Storage, for the tests: as the Go module proxy has it,
//! built once into the user's cache folder.

use std::path::PathBuf;

use crate::{go, process};

/// Its program, with its version.
const PROGRAM: &str = "github.com/fsouza/fake-gcs-server@v1.56.1";
/// Where it lies below the cache folder.
const FOLDER: &str = "fake-gcs-server-1.56.1";

/// The folder of the program, if it is built.
pub fn folder() -> Option<PathBuf> {
    process::cached(FOLDER)
}

/// Builds it where it is missing.
pub fn install() -> anyhow::Result<()> {
    go::build(FOLDER, &[PROGRAM.to_owned()])
}
