//! Running cargo and finding what it built.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Observer, Progress, TARGET, Toolchain, process};

/// What to build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildRequest {
    /// The folder of the Cargo.toml, of a package or a workspace.
    pub manifest_dir: PathBuf,
    /// Packages of the workspace; empty: all of it, or the package in that folder.
    pub packages: Vec<String>,
    /// Where cargo puts what it builds; `None`: where it would by itself.
    pub target_dir: Option<PathBuf>,
    /// Build optimized (profile `release`) and not for a quick debug cycle.
    pub release: bool,
    /// Ask no network.
    pub offline: bool,
    /// Fail where the lock file would have to be changed.
    pub locked: bool,
}

impl BuildRequest {
    /// An optimized build of the package or workspace in that folder.
    pub fn release(manifest_dir: impl Into<PathBuf>) -> Self {
        Self {
            manifest_dir: manifest_dir.into(),
            release: true,
            ..Self::default()
        }
    }
}

/// A component that was built, or was still up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The package's name.
    pub package: String,
    /// The component.
    pub path: PathBuf,
}

impl Toolchain {
    /// Builds components and answers them in the order of their packages' names.
    ///
    /// # Errors
    /// [`Error::Failed`] with what cargo and the compiler wrote, [`Error::NoArtifact`]
    /// where nothing is a component, [`Error::Io`] where the folder has no Cargo.toml.
    pub fn build(
        &self,
        request: &BuildRequest,
        observer: Observer<'_>,
    ) -> Result<Vec<Artifact>, Error> {
        let manifest = request.manifest_dir.join("Cargo.toml");
        std::fs::metadata(&manifest).map_err(Error::io(&manifest))?;
        observer(Progress::Step("building for wasm32-wasip2"));
        let output = process::run(self.build_command(request), None, observer)?;
        let mut artifacts = artifacts(&output);
        artifacts.sort_by(|a, b| a.package.cmp(&b.package));
        if artifacts.is_empty() {
            return Err(Error::NoArtifact {
                folder: request.manifest_dir.clone(),
            });
        }
        Ok(artifacts)
    }

    fn build_command(&self, request: &BuildRequest) -> std::process::Command {
        let mut command = process::command(&self.cargo);
        // In the folder, because cargo's and rustup's own settings depend on it.
        command
            .current_dir(&request.manifest_dir)
            .envs(self.environment.iter().cloned())
            .args(["build", "--target", TARGET])
            .arg("--message-format=json-render-diagnostics");
        if request.release {
            command.arg("--release");
        }
        for package in &request.packages {
            command.args(["--package", package]);
        }
        if let Some(folder) = &request.target_dir {
            command.arg("--target-dir").arg(absolute(folder));
        }
        if request.offline {
            command.arg("--offline");
        }
        if request.locked {
            command.arg("--locked");
        }
        command
    }
}

/// Relative to where we are, not to where cargo will run.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The components that cargo's messages name.
fn artifacts(messages: &[u8]) -> Vec<Artifact> {
    let mut artifacts = Vec::new();
    for line in messages.split(|byte| *byte == b'\n') {
        // Build scripts and macros may print lines of their own.
        let Ok(message) = serde_json::from_slice::<Value>(line) else {
            continue;
        };
        if message["reason"] != "compiler-artifact" {
            continue;
        }
        let is_cdylib = message["target"]["crate_types"]
            .as_array()
            .is_some_and(|types| types.iter().any(|name| name == "cdylib"));
        let component = message["filenames"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .find(|name| name.ends_with(".wasm"));
        if let (true, Some(path), Some(id)) = (is_cdylib, component, message["package_id"].as_str())
        {
            artifacts.push(Artifact {
                package: package_name(id).to_owned(),
                path: PathBuf::from(path),
            });
        }
    }
    artifacts
}

/// The name in a package id: `path+file:///a/b#name@1.0.0`, or `path+file:///a/b#1.0.0`
/// where the folder has the package's name.
fn package_name(id: &str) -> &str {
    let (url, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => url.rsplit('/').next().unwrap_or(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_found_in_cargos_messages() {
        let messages = concat!(
            "a line of a build script\n",
            r#"{"reason":"compiler-artifact","package_id":"registry+https://x#serde@1.0.0","target":{"crate_types":["lib"]},"filenames":["/t/libserde.rlib"]}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///p/extract#0.1.0","target":{"crate_types":["cdylib","rlib"]},"filenames":["/t/extract.wasm","/t/libextract.rlib"]}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///p/b#my-plugin@2.0.0","target":{"crate_types":["cdylib"]},"filenames":["/t/my_plugin.wasm"]}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n"
        );
        let found: Vec<(String, PathBuf)> = artifacts(messages.as_bytes())
            .into_iter()
            .map(|artifact| (artifact.package, artifact.path))
            .collect();
        assert_eq!(
            found,
            [
                ("extract".into(), "/t/extract.wasm".into()),
                ("my-plugin".into(), "/t/my_plugin.wasm".into())
            ]
        );
    }

    #[test]
    fn a_folder_without_a_manifest_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let toolchain = Toolchain {
            cargo: "cargo".into(),
            environment: Vec::new(),
            description: String::new(),
        };
        let error = toolchain
            .build(&BuildRequest::release(folder.path()), &mut |_| {})
            .unwrap_err();
        assert!(error.to_string().contains("Cargo.toml"), "{error}");
    }
}
