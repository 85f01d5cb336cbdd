//! The real Weaviate, for the tests: as the Go module proxy has it, built once into the
//! user's cache folder.

use std::path::PathBuf;

use crate::{go, process};

/// The server's program, with its version.
const PROGRAM: &str = "github.com/weaviate/weaviate/cmd/weaviate-server@v1.35.2";
/// Where it lies below the cache folder.
const FOLDER: &str = "weaviate-1.35.2";

/// The folder of the server's program, if it is built.
pub fn server() -> Option<PathBuf> {
    process::cached(FOLDER)
}

/// Builds it where it is missing.
pub fn install() -> anyhow::Result<()> {
    go::build(FOLDER, &[PROGRAM.to_owned()])
}
