//! Where things are, and running other programs.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use heyday_toolchain::cache_folder;

use crate::{
    gcs_emulator, inference, interop, neo4j, real_temporal, s3_gateway, temporal, weaviate,
};

/// The checkout and its build folder.
pub struct Project {
    /// The repository's root.
    pub root: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
}

impl Project {
    /// Finds them from cargo's environment.
    ///
    /// The folder that cargo names now comes before the one of the build: with a target folder
    /// of two checkouts, cargo may run the program that it built for the other.
    pub fn locate() -> anyhow::Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR");
        let manifest = manifest.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = manifest
            .parent()
            .context("xtask lies in the repository's root")?
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => std::path::absolute(folder)?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The built `heyday` that everything but benchmarks uses.
    pub fn binary(&self) -> PathBuf {
        self.program(Profile::Debug, "heyday")
    }

    /// A built program.
    pub fn program(&self, profile: Profile, name: &str) -> PathBuf {
        let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
        self.target.join(profile.folder()).join(file)
    }

    /// Where built components are put, `NAME.wasm` each.
    pub fn components(&self) -> PathBuf {
        self.target.join("guests")
    }

    /// Where the guests' own builds of components lie; shared, because much of what they
    /// compile is the same.
    pub fn guests_build(&self) -> PathBuf {
        self.target.join("guests-build")
    }

    /// Where what is made for the sandbox is built for this machine, for its tests and lints.
    pub fn native(&self) -> PathBuf {
        self.target.join("plugins-native")
    }

    /// The evaluator component that the binary embeds.
    pub fn expressions(&self) -> PathBuf {
        self.components().join("expressions.wasm")
    }

    /// Where the servers of tests and of `cargo xtask up` keep compiled code.
    pub fn cache(&self) -> PathBuf {
        self.target.join("compiled")
    }

    /// Cargo in this checkout, knowing the evaluator component.
    pub fn cargo<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO"));
        command
            .current_dir(&self.root)
            .args(arguments)
            .env("HEYDAY_EXPRESSIONS_WASM", self.expressions())
            .env("HEYDAY_COMPONENTS", self.components())
            .env("HEYDAY_GUESTS_BUILD", self.guests_build())
            .env("HEYDAY_NATIVE_BUILD", self.native())
            .env("HEYDAY_BIN", self.binary())
            .env("HEYDAY_CACHE", self.cache());
        if let Some(program) = temporal::program() {
            command.env("HEYDAY_TEMPORAL", program);
        }
        interop::name(self, &mut command);
        inference::name(self, &mut command);
        name_servers(&mut command);
        without_cargos(&mut command);
        command
    }
}

/// Names the servers that there are, for the tests that start them.
pub fn name_servers(command: &mut Command) {
    for (name, found) in [
        ("HEYDAY_TEMPORAL_SERVER", real_temporal::server()),
        ("HEYDAY_POSTGRES", real_temporal::postgres()),
        ("HEYDAY_S3_GATEWAY", s3_gateway::folder()),
        ("HEYDAY_GCS_EMULATOR", gcs_emulator::folder()),
        ("HEYDAY_NEO4J", neo4j::server()),
        ("HEYDAY_WEAVIATE", weaviate::server()),
    ] {
        if let Some(path) = found {
            command.env(name, path);
        }
    }
}

/// How something is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For tests and everyday use.
    Debug,
    /// For measuring.
    Release,
}

impl Profile {
    /// Cargo's arguments for it.
    pub const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &[],
            Self::Release => &["--release"],
        }
    }

    const fn folder(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// Any other program.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    without_cargos(&mut command);
    // The toolchain's own libraries, which `cargo run` puts first: not for others.
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// Takes away what the outer `cargo run` set for this program; it would make every crate
/// look changed to an inner one.
fn without_cargos(command: &mut Command) {
    for name in std::env::vars_os().map(|(name, _)| name) {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
}

/// Whether a missing part is a failure.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// Runs a command to its end and says what it was where it fails.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a command and answers what it wrote to standard output.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", shown(command), output.status);
    }
    String::from_utf8(output.stdout).context("the output is not UTF-8")
}

fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// A program in PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// A folder of the user's cache, if it is there.
pub fn cached(folder: &str) -> Option<PathBuf> {
    let folder = cache_folder().ok()?.join(folder);
    folder.is_dir().then_some(folder)
}

/// Packages of Debian's that are missing, where they may not be installed.
#[derive(Debug)]
pub struct Missing(pub Vec<&'static str>);

impl Missing {
    /// Which they are, without the command.
    pub fn named(&self) -> String {
        let are = if self.0.len() == 1 { "is" } else { "are" };
        format!("{} {are} missing", self.0.join(" and "))
    }

    /// One command that installs all of them.
    pub fn command(&self) -> String {
        format!("sudo apt-get install {}", self.0.join(" "))
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; `{}`", self.named(), self.command())
    }
}

impl std::error::Error for Missing {}

/// Installs packages of Debian's, as root on Debian; elsewhere the error is [`Missing`].
pub fn apt_install(packages: &[&'static str]) -> anyhow::Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || find("apt-get").is_none() {
        return Err(Missing(packages.to_vec()).into());
    }
    timed(&format!("installing {}", packages.join(", ")), || {
        let install = [&["install", "-yqq"][..], packages].concat();
        for arguments in [&["update", "-qq"][..], &install[..]] {
            let mut command = command("apt-get");
            command
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .stdout(Stdio::null());
            run(&mut command)?;
        }
        Ok(())
    })
}

/// Runs a part and prints how long it took.
pub fn timed<T>(name: &str, part: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    println!("--- {name}");
    let start = Instant::now();
    let result = part();
    let end = if result.is_ok() {
        "took"
    } else {
        "failed after"
    };
    println!("--- {name} {end} {}", seconds(start.elapsed()));
    result
}

/// A time as it is printed.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// What a part of CI's time is counted under; `.ci/run` prints each sum against its budget.
#[derive(Clone, Copy)]
pub enum Budget {
    /// Fetching and compiling what is then run.
    Builds,
    /// Formatting, clippy, docs.
    Lints,
    /// Running tests.
    Tests,
}

/// As [`timed`], and counted where `HEYDAY_TIMES` names a file: a line with the budget's
/// name and the seconds. Parts that run beside each other are counted once, around both.
pub fn counted<T>(
    budget: Budget,
    name: &str,
    part: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    let result = timed(name, part);
    if let Some(file) = std::env::var_os("HEYDAY_TIMES") {
        let budget = match budget {
            Budget::Builds => "builds",
            Budget::Lints => "lints",
            Budget::Tests => "tests",
        };
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&file)
            .and_then(|mut file| writeln!(file, "{budget} {:.1}", start.elapsed().as_secs_f64()))
            .with_context(|| format!("HEYDAY_TIMES: {}", Path::new(&file).display()))?;
    }
    result
}

/// Builds the binary as it is released: with all that `build_binary` leaves out for the sake
/// of time.
pub fn build_release(project: &Project) -> anyhow::Result<()> {
    let arguments = ["build", "--release", "--locked", "--package", "heyday"];
    run(project.cargo(arguments).args(["--features", "gpu"]))
}

/// Builds the `heyday` binary.
pub fn build_binary(project: &Project) -> anyhow::Result<()> {
    // The whole workspace, so that there is one set of features and one build of each
    // dependency, whichever command comes first.
    run(&mut project.cargo(["build", "--workspace", "--bins"]))
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_command_installs_all_that_is_missing() {
        assert_eq!(
            super::Missing(vec!["default-jre-headless", "maven"]).to_string(),
            "default-jre-headless and maven are missing; `sudo apt-get install \
             default-jre-headless maven`"
        );
        assert_eq!(
            super::Missing(vec!["strace"]).to_string(),
            "strace is missing; `sudo apt-get install strace`"
        );
    }
}
