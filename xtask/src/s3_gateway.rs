//! A gateway that speaks S3 in front of a folder, for the tests: as the Go module proxy
//! has it, built once into the user's cache folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use heyday_toolchain::cache_folder;

use crate::{process, temporal};

/// Its program, with its version.
const PROGRAM: &str = "github.com/versity/versitygw/cmd/versitygw@v1.8.0";
/// Where it lies below the cache folder.
const FOLDER: &str = "versitygw-1.8.0";

/// The folder of the program, if it is built.
pub fn folder() -> Option<PathBuf> {
    let folder = cache_folder().ok()?.join(FOLDER);
    folder.is_dir().then_some(folder)
}

/// Builds it where it is missing; the error says what cannot be had here.
pub fn install() -> anyhow::Result<()> {
    if folder().is_some() {
        return Ok(());
    }
    if process::find("go").is_none() {
        bail!("there is no go to build the S3 gateway with; `sudo apt-get install golang`");
    }
    temporal::install_once(&cache_folder()?.join(FOLDER), build)
}

fn build(folder: &Path) -> anyhow::Result<()> {
    let mut command = process::command("go");
    command
        .args(["install", "-ldflags=-s -w", PROGRAM])
        .env("GOFLAGS", "-buildvcs=false")
        .env("GOBIN", folder);
    process::run(&mut command).context("the S3 gateway cannot be built")
}
