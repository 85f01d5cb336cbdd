//! Foreign code on Temporal's official SDKs, against flows and activities on one cluster:
//! [`peer`] one behaviour after the other, [`page`] what the documentation shows.
//!
//! The programs lie in `tests/interop`; `cargo xtask test` installs the SDKs, builds what
//! is to be built, and names both in `HEYDAY_INTEROP_PYTHON` and `HEYDAY_INTEROP_GO`.

mod page;
mod peer;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::not_run;
use crate::support::repository;
use crate::support::server::{PATIENCE, end_with_parent};

/// A language in which there is an official SDK, and which tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Python,
    Go,
}

impl Language {
    /// Where its programs are, of which all have these names; `None` where there are none.
    fn program(self, name: &str) -> Option<Command> {
        let variable = match self {
            Self::Python => "HEYDAY_INTEROP_PYTHON",
            Self::Go => "HEYDAY_INTEROP_GO",
        };
        let Some(folder) = std::env::var_os(variable).map(PathBuf::from) else {
            let what = format!("Temporal's {self:?} SDK");
            not_run(&what, &format!("{variable} is set by `cargo xtask test`"));
            return None;
        };
        Some(match self {
            Self::Python => {
                let mut command = Command::new("python3");
                command
                    .arg(sources("python").join(format!("{name}.py")))
                    .env("PYTHONPATH", folder)
                    // The sources' folder is the repository's.
                    .env("PYTHONDONTWRITEBYTECODE", "1");
                command
            }
            Self::Go => Command::new(folder.join(name)),
        })
    }
}

/// The sources of a language's programs.
fn sources(language: &str) -> PathBuf {
    repository().join("tests/interop").join(language)
}

/// Lets a program of an SDK know the cluster, and nothing else that this user has set.
fn on_cluster(command: &mut Command, address: &str, namespace: &str) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TEMPORAL_") {
            command.env_remove(name);
        }
    }
    command
        .env("TEMPORAL_ADDRESS", address)
        .env("TEMPORAL_NAMESPACE", namespace)
        .stdin(Stdio::null());
}

/// Lets a client on a language's SDK ask something of a workflow (`ask`); answers what it
/// printed.
async fn ask(language: Language, address: &str, namespace: &str, arguments: &[&str]) -> Value {
    let mut command = language.program("ask").unwrap();
    on_cluster(&mut command, address, namespace);
    let mut command = tokio::process::Command::from(command);
    command.args(arguments).kill_on_drop(true);
    command.stderr(Stdio::inherit());
    let output = tokio::time::timeout(PATIENCE, command.output());
    let output = output.await.expect("the client ends").unwrap();
    // Not its status: Python's SDK may abort while its interpreter ends.
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A foreign worker in a process of its own. Killed when it is dropped.
struct Worker {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Worker {
    fn start(mut command: Command, address: &str, namespace: &str) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        on_cluster(&mut command, address, namespace);
        command
            .stdout(log.reopen().unwrap())
            .stderr(log.reopen().unwrap());
        end_with_parent(&mut command);
        let child = command.spawn().expect("a foreign worker starts");
        Self { child, log }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let text = std::fs::read_to_string(self.log.path());
            eprintln!(
                "--- the foreign worker printed:\n{}",
                text.unwrap_or_default()
            );
        }
    }
}
