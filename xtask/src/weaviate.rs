//! The real Weaviate, for the tests: as the Go module proxy has it, built once into the
//! user's cache folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use heyday_toolchain::cache_folder;

use crate::{process, temporal};

/// The server's program, and its version.
const PROGRAM: &str = "github.com/weaviate/weaviate/cmd/weaviate-server";
const VERSION: &str = "v1.35.2";
/// Where it lies below the cache folder.
const FOLDER: &str = "weaviate-1.35.2";

/// The folder of the server's program, if it is built.
pub fn server() -> Option<PathBuf> {
    let folder = cache_folder().ok()?.join(FOLDER);
    folder.is_dir().then_some(folder)
}

/// Builds what is missing; the error says what cannot be had here.
pub fn install() -> anyhow::Result<()> {
    if server().is_some() {
        return Ok(());
    }
    if process::find("go").is_none() {
        bail!("there is no go to build Weaviate with");
    }
    temporal::install_once(&cache_folder()?.join(FOLDER), build)
}

fn build(folder: &Path) -> anyhow::Result<()> {
    let mut command = process::command("go");
    command
        .args(["install", "-ldflags=-s -w"])
        .arg(format!("{PROGRAM}@{VERSION}"))
        .env("GOFLAGS", "-buildvcs=false")
        .env("GOBIN", folder);
    process::run(&mut command).context("Weaviate cannot be built")
}
