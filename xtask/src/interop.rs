//! Temporal's official SDKs, for the tests of what foreign code can do with Heyday: the
//! Python one as PyPI has it, kept in the user's cache folder, and programs on the Go one.
//!
//! Their sources lie in `tests/interop`.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use heyday_toolchain::cache_folder;

use crate::process::{self, Project};
use crate::{go, temporal};

/// The folder to be put in `PYTHONPATH`, for the packages as they are pinned now.
fn python_folder(project: &Project) -> anyhow::Result<PathBuf> {
    let requirements = std::fs::read(requirements(project))?;
    let mut hasher = DefaultHasher::new();
    requirements.hash(&mut hasher);
    let name = format!("temporal-python-{:016x}", hasher.finish());
    Ok(cache_folder()?.join(name))
}

fn requirements(project: &Project) -> PathBuf {
    project.root.join("tests/interop/python/requirements.txt")
}

/// Python's packages, if they are installed.
fn python(project: &Project) -> Option<PathBuf> {
    python_folder(project).ok().filter(|path| path.is_dir())
}

/// The folder of the programs in Go, if they are built.
fn programs(project: &Project) -> Option<PathBuf> {
    Some(go_folder(project)).filter(|path| path.is_dir())
}

fn go_folder(project: &Project) -> PathBuf {
    project.target.join("interop-go")
}

/// Installs the Python SDK.
pub fn prepare(project: &Project) -> anyhow::Result<()> {
    let folder = python_folder(project)?;
    temporal::install_once(&folder, |made| {
        let mut command = temporal::pip_install(project, made);
        process::run(
            command
                .args(["--no-deps", "--requirement"])
                .arg(requirements(project)),
        )
        .context("Temporal's Python SDK, which tests need, cannot be fetched")
    })
}

/// Builds the programs on the Go SDK.
pub fn build_go(project: &Project) -> anyhow::Result<()> {
    go::install()?;
    let mut command = process::command("go");
    // With the separator go takes it for a folder.
    let folder = go_folder(project).join("");
    command
        .current_dir(project.root.join("tests/interop/go"))
        .args(["build", "-buildvcs=false", "-mod=readonly", "-o"])
        .arg(&folder)
        .arg("./...");
    process::run(&mut command).context("the tests' programs in Go cannot be built")
}

/// Names what there is to the tests.
pub fn name(project: &Project, command: &mut Command) {
    let found = [
        ("HEYDAY_INTEROP_PYTHON", python(project)),
        ("HEYDAY_INTEROP_GO", programs(project)),
    ];
    for (variable, path) in found {
        if let Some(path) = path {
            command.env(variable, path);
        }
    }
}
