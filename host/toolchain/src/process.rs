//! Programs, started in an environment that an outer cargo did not leave its marks in.
//!
//! `cargo run`, `cargo test` and `cargo clippy` set variables for their children that would
//! make an inner cargo build something else: for another target folder, with the host's
//! flags, with clippy in the compiler's place. All of these are taken away. What says where
//! crates come from (registries, sources, proxies, CARGO_HOME) stays.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::{Error, Observer, Progress, cache_folder};

/// Lines of a failed program that an error keeps.
const TAIL: usize = 200;

/// Variables that begin so stay although others that begin with `CARGO_` go.
const KEPT: [&str; 9] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
    "CARGO_CREDENTIAL_",
    "CARGO_TERM_",
    "CARGO_INSTALL_ROOT",
];

/// Whether an outer cargo may have left this variable.
pub(crate) fn is_left_over(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    if name.starts_with("CARGO_") {
        return !KEPT.iter().any(|kept| name.starts_with(kept));
    }
    name == "CARGO"
        || name.starts_with("__CARGO")
        || name.starts_with("RUSTC")
        || name.starts_with("RUSTDOC")
        || name == "RUSTFLAGS"
        || name.starts_with("CLIPPY_")
        || name == "MAKEFLAGS"
        || name == "MFLAGS"
        // The outer toolchain's libraries: another compiler would load them in place of
        // its own LLVM, and hang.
        || name == "LD_LIBRARY_PATH"
}

/// A command in the cleaned environment, with nothing on its standard input.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if is_left_over(&name) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The program and its arguments, for a person.
fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Runs a command to its end and answers its standard output; each line of its standard
/// error goes to the observer.
pub(crate) fn run(
    mut command: Command,
    limit: Option<Duration>,
    observer: Observer<'_>,
) -> Result<Vec<u8>, Error> {
    let program = describe(&command);
    let failed = |reason: String, output: String| Error::Failed {
        program: program.clone(),
        reason,
        output,
    };
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("could not be started: {error}"), String::new()))?;
    let (Some(mut stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed("has no output".to_owned(), String::new()));
    };
    // Both pipes are read at once, so that neither fills up and stops the program.
    let stdout = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).map(|_| bytes)
    });
    let (send, lines) = mpsc::channel();
    let stderr = std::thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut tail = VecDeque::new();
    loop {
        let line = match deadline {
            None => lines
                .recv()
                .map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(deadline) => {
                lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
        };
        match line {
            Ok(line) => {
                if !line.is_empty() {
                    observer(Progress::Line(&line));
                }
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // Its children may hold the pipes open, so the threads are not waited for.
                let _ = child.kill();
                let _ = child.wait();
                let seconds = limit.unwrap_or_default().as_secs();
                return Err(failed(
                    format!("did not end within {seconds} s"),
                    Vec::from(tail).join("\n"),
                ));
            }
        }
    }
    let status = child
        .wait()
        .map_err(|error| failed(format!("could not be waited for: {error}"), String::new()))?;
    // A thread that only reads does not panic.
    let _ = stderr.join();
    let output = match stdout.join() {
        Ok(Ok(output)) => output,
        _ => return Err(failed("has an unreadable output".to_owned(), String::new())),
    };
    if status.success() {
        Ok(output)
    } else {
        Err(failed(
            match status.code() {
                Some(code) => format!("ended with status {code}"),
                None => "was killed".to_owned(),
            },
            Vec::from(tail).join("\n").trim().to_owned(),
        ))
    }
}

/// The trimmed standard output of a command that succeeds quietly.
pub(crate) fn answer(command: Command) -> Result<String, Error> {
    let output = run(command, Some(Duration::from_secs(60)), &mut |_| {})?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}

/// Where programs are found by their names, and what is made is kept. It is as the
/// environment says but in tests: they cannot change that of a process with others in it.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    /// In place of PATH.
    pub(crate) path: Option<OsString>,
    /// In place of the user's cache folder.
    pub(crate) cache: Option<PathBuf>,
}

impl Machine {
    /// A program of this name in PATH.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        let path = self.path.clone().or_else(|| std::env::var_os("PATH"))?;
        let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
        std::env::split_paths(&path)
            .map(|folder| folder.join(&file))
            .find(|program| program.is_file())
    }

    /// A [`command`] that is a program in PATH.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = command(name);
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command
    }

    /// The folder that toolchains are kept in; it may not exist yet.
    pub(crate) fn cache(&self) -> Result<PathBuf, Error> {
        self.cache.clone().map_or_else(cache_folder, Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_outer_cargo_sets_is_known() {
        for name in [
            "CARGO",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_PKG_NAME",
            "CARGO_MANIFEST_DIR",
            "CARGO_MAKEFLAGS",
            "LD_LIBRARY_PATH",
            "RUSTC",
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "CLIPPY_ARGS",
            "CARGO_PROFILE_RELEASE_LTO",
            "__CARGO_TEST_CHANNEL_OVERRIDE_DO_NOT_USE_THIS",
        ] {
            assert!(is_left_over(name.as_ref()), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_PROXY",
            "CARGO_REGISTRIES_OWN_INDEX",
            "CARGO_SOURCE_OWN_REGISTRY",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
            "HTTPS_PROXY",
        ] {
            assert!(!is_left_over(name.as_ref()), "{name}");
        }
    }

    #[cfg(unix)]
    fn shell(script: &str) -> Command {
        let mut command = command("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[cfg(unix)]
    #[test]
    fn output_and_lines_are_apart_and_an_error_has_the_lines() {
        let mut lines = Vec::new();
        let output = run(
            shell("echo out; echo one >&2; echo two >&2"),
            None,
            &mut |progress| {
                if let Progress::Line(line) = progress {
                    lines.push(line.to_owned());
                }
            },
        );
        assert_eq!(output.unwrap(), b"out\n");
        assert_eq!(lines, ["one", "two"]);
        let error = run(shell("echo why >&2; exit 3"), None, &mut |_| {}).unwrap_err();
        let text = error.to_string();
        assert!(text.ends_with("ended with status 3:\nwhy"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_does_not_end_is_stopped() {
        let limit = Some(Duration::from_millis(50));
        let error = run(shell("exec sleep 600"), limit, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(command("no-such-program"), None, &mut |_| {}).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no-such-program could not be started")
        );
    }
}
