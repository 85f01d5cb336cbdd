//! The command line as somebody has it who has the binary and nothing else of ours: a
//! folder outside the repository, the binary in PATH, an environment without cargo's marks.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::server::{Client, Server};

/// A build from nothing on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// A person's folder, with the binary installed beside it.
pub struct Desk {
    folder: tempfile::TempDir,
    url: String,
    token: String,
}

/// How a command ended.
pub struct Ran {
    line: String,
    /// The exit code; -1 for one ended by a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with {}\n--- stdout\n{}\n--- stderr\n{}",
            self.line, self.code, self.stdout, self.stderr
        )
    }
}

impl Ran {
    /// Panics unless it ended with that code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Panics unless it went well.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Panics unless either output has that text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "no {text:?} in {self}"
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl Desk {
    /// A new folder; commands reach that server.
    pub fn new(server: &Server) -> anyhow::Result<Self> {
        Self::of(&server.client)
    }

    /// A new folder; commands reach what the client does.
    pub fn of(client: &Client) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let installed = folder.path().join("bin");
        std::fs::create_dir_all(&installed)?;
        std::fs::create_dir_all(folder.path().join("home"))?;
        let binary = installed.join("heyday");
        // A link where both are on one file system: a debug binary is large.
        if std::fs::hard_link(super::binary(), &binary).is_err() {
            std::fs::copy(super::binary(), &binary)?;
        }
        Ok(Self {
            url: client.url().to_owned(),
            token: client.token().to_owned(),
            folder,
        })
    }

    /// The person's folder.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Runs a line in a folder below the person's, as their shell does.
    pub async fn run(&self, below: &str, line: &str) -> anyhow::Result<Ran> {
        self.run_with(below, line, &[("HEYDAY_TOKEN", self.token.as_str())])
            .await
    }

    /// The same without the token, and with that environment.
    pub async fn run_with(
        &self,
        below: &str,
        line: &str,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Ran> {
        let mut command = self.command(below, line)?;
        command.envs(environment.iter().copied());
        let output = tokio::time::timeout(PATIENCE, command.output())
            .await
            .with_context(|| format!("`{line}` does not end"))?
            .with_context(|| format!("`{line}`"))?;
        Ok(Ran {
            line: line.to_owned(),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// A line as a command that is not yet run: without the token, ended when dropped.
    fn command(&self, below: &str, line: &str) -> anyhow::Result<Command> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = vec![self.folder.path().join("bin")];
        folders.extend(std::env::split_paths(&path));
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(self.path().join(below))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_ours) {
                command.env_remove(name);
            }
        }
        command
            .env("PATH", std::env::join_paths(folders)?)
            .env("HEYDAY_SERVER", &self.url)
            // Where nothing is said of data, it is not this user's own.
            .env("XDG_DATA_HOME", self.folder.path().join("share"))
            // What a new plugin needs was fetched for the plugins of this repository.
            .env("CARGO_NET_OFFLINE", "true");
        Ok(command)
    }

    /// Starts a line whose output is read while it runs.
    pub fn watch(&self, line: &str) -> anyhow::Result<Watched> {
        let mut child = self
            .command("", line)?
            .env("HEYDAY_TOKEN", &self.token)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().context("an output")?;
        Ok(Watched {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }
}

/// A command that runs.
pub struct Watched {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watched {
    /// Reads on to a line with that text.
    pub async fn line(&mut self, text: &str) -> anyhow::Result<String> {
        let mut seen = Vec::new();
        let read = async {
            while let Some(line) = self.lines.next_line().await? {
                if line.contains(text) {
                    return Ok(line);
                }
                seen.push(line);
            }
            anyhow::bail!("it ended without {text:?}: {seen:#?}")
        };
        tokio::time::timeout(PATIENCE, read).await?
    }

    /// Presses Ctrl-C. The line began with `exec`, so that no shell is between.
    pub fn interrupt(&self) {
        super::signals::signal(self.child.id().expect("it runs"), libc::SIGINT);
    }

    /// Waits for its end; answers the lines until then and the exit code.
    pub async fn end(mut self) -> anyhow::Result<(Vec<String>, Option<i32>)> {
        let mut lines = Vec::new();
        let read = async {
            while let Some(line) = self.lines.next_line().await? {
                lines.push(line);
            }
            anyhow::Ok(self.child.wait().await?.code())
        };
        let code = tokio::time::timeout(PATIENCE, read).await??;
        Ok((lines, code))
    }
}

/// Whether a variable comes from the run of these tests and not from the machine.
fn is_ours(name: &str) -> bool {
    const KEPT: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
    ];
    if name.starts_with("CARGO") {
        return !KEPT.iter().any(|kept| name.starts_with(kept));
    }
    name.starts_with("RUSTC")
        || name.starts_with("RUSTDOC")
        || name == "RUSTFLAGS"
        || name == "LD_LIBRARY_PATH"
        || (name.starts_with("HEYDAY_") && name != "HEYDAY_WASM_TOOLCHAIN")
}

/// Copies a folder without what was built in it, as a clone has it.
pub fn clone(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == "target" {
            continue;
        }
        if path.is_dir() {
            clone(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
