//! Builds guests: finds or makes a Rust toolchain for `wasm32-wasip2` and runs cargo with it.
//!
//! [`Toolchain::locate`] answers a toolchain that can build components. It takes the cargo
//! in PATH where its sysroot has the target or rustup can add it (`rustup`), and otherwise
//! Debian's packages, for which the target's standard library is built once (`debian`).
//! [`Toolchain::build`] then runs cargo in a guest's folder and reads from its messages
//! where the components are ([`build`]). Every process is started by `process`, which takes
//! away what an outer cargo left in the environment.
//!
//! Nothing here prints: what goes on is told through a callback, what went wrong by
//! [`Error`], with the last lines that the failed program wrote.
//!
//! Start reading at [`Toolchain`].

pub mod build;
mod debian;
#[cfg(test)]
#[cfg(unix)]
mod locate_tests;
mod process;
mod rustup;

use std::ffi::OsString;
use std::path::PathBuf;

pub use build::{Artifact, BuildRequest};

use process::Machine;

/// The target that components are built for.
pub const TARGET: &str = "wasm32-wasip2";

/// The environment variable that [`Kind::from_environment`] reads.
pub const KIND_VARIABLE: &str = "HEYDAY_WASM_TOOLCHAIN";

/// Why there is no toolchain, or no component.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The setting has a value that it does not know.
    #[error("{KIND_VARIABLE} is {0:?}; it is one of auto, rustup, debian")]
    UnknownKind(String),
    /// rustup's target was asked for and cannot be had.
    #[error(
        "the Rust in PATH cannot build for {TARGET}: {reason}; install it with \
         `rustup target add {TARGET}`, or set {KIND_VARIABLE}=debian on Debian"
    )]
    NoRustup {
        /// What was tried and what came of it.
        reason: String,
    },
    /// Neither rustup nor Debian can build for the target here.
    #[error(
        "there is no way to build for {TARGET} here\nby the Rust in PATH: {rustup}\nby Debian's \
         packages: {debian}\none of them is enough: install Rust from https://rustup.rs and run \
         `rustup target add {TARGET}`, or see to the packages"
    )]
    NoToolchain {
        /// Why rustup's cannot.
        rustup: String,
        /// Why Debian's cannot.
        debian: String,
    },
    /// Debian's packages are missing and this user may not install them.
    #[error("Debian packages are missing; run `{command}` once, then try again")]
    MissingPackages {
        /// The one command that installs them.
        command: String,
    },
    /// A program could not be started, waited for, or failed.
    #[error("{program} {reason}{}", tail(output))]
    Failed {
        /// The program and its arguments, for a person.
        program: String,
        /// What happened, such as `ended with status 101`.
        reason: String,
        /// The last lines that it wrote; may be empty.
        output: String,
    },
    /// A file or folder could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The build went well but made no component.
    #[error(
        "no component was built in {folder}: a plugin's Cargo.toml has `[lib]` with \
         `crate-type = [\"cdylib\"]`", folder = folder.display()
    )]
    NoArtifact {
        /// The folder of the manifest.
        folder: PathBuf,
    },
}

fn tail(output: &str) -> String {
    if output.is_empty() {
        String::new()
    } else {
        format!(":\n{output}")
    }
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// The user's cache folder for Heyday: `$XDG_CACHE_HOME/heyday`, by default
/// `~/.cache/heyday`. It may not exist yet.
///
/// # Errors
/// When the environment names no folder.
pub fn cache_folder() -> Result<PathBuf, Error> {
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .map(|cache| cache.join("heyday"))
        .ok_or_else(|| Error::Io {
            path: PathBuf::from("~/.cache"),
            source: std::io::Error::other("neither HOME nor XDG_CACHE_HOME names a folder"),
        })
}

/// What is told while something takes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A step of the whole begins; a sentence without a period.
    Step(&'a str),
    /// A line that the running program wrote (cargo's `Compiling serde v1.0.0`).
    Line(&'a str),
}

/// Who is told.
pub type Observer<'a> = &'a mut dyn FnMut(Progress<'_>);

/// Which toolchain to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// The one in PATH where it has the target or rustup can add it, else Debian's.
    #[default]
    Auto,
    /// The one in PATH, whose target rustup adds.
    Rustup,
    /// Debian's packages.
    Debian,
}

impl Kind {
    /// What [`KIND_VARIABLE`] says; [`Kind::Auto`] where it is absent or empty.
    ///
    /// # Errors
    /// [`Error::UnknownKind`].
    pub fn from_environment() -> Result<Self, Error> {
        match std::env::var_os(KIND_VARIABLE) {
            None => Ok(Self::Auto),
            Some(value) => value.to_string_lossy().parse(),
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "" | "auto" => Ok(Self::Auto),
            "rustup" => Ok(Self::Rustup),
            "debian" => Ok(Self::Debian),
            other => Err(Error::UnknownKind(other.to_owned())),
        }
    }
}

/// A toolchain that builds components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    pub(crate) cargo: PathBuf,
    /// Set for every run of cargo, after the environment was cleaned.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) description: String,
}

impl Toolchain {
    /// Finds a toolchain, and makes it where it is not there: adds rustup's target,
    /// installs Debian's packages (as root only) and builds their standard library (about
    /// a minute, once per version, kept in the user's cache folder). Two processes may do
    /// this at once: the second waits for the first.
    ///
    /// # Errors
    /// As [`Error`] says; the message names what a person can do.
    pub fn locate(kind: Kind, observer: Observer<'_>) -> Result<Self, Error> {
        Self::locate_on(&Machine::default(), kind, observer)
    }

    fn locate_on(machine: &Machine, kind: Kind, observer: Observer<'_>) -> Result<Self, Error> {
        match kind {
            Kind::Rustup => {
                rustup::locate(machine, observer).map_err(|reason| Error::NoRustup { reason })
            }
            Kind::Debian => debian::locate(machine, observer),
            Kind::Auto => match rustup::locate(machine, observer) {
                Ok(toolchain) => Ok(toolchain),
                Err(rustup) => {
                    let debian = match debian::unavailable(machine) {
                        Some(reason) => Err(reason),
                        None => debian::locate(machine, observer).map_err(|it| it.to_string()),
                    };
                    // Who has rustup would rather mend that.
                    debian.map_err(|debian| Error::NoToolchain { rustup, debian })
                }
            },
        }
    }

    /// Which toolchain it is, for a person.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_read_and_refused_by_name() {
        assert_eq!("".parse::<Kind>().unwrap(), Kind::Auto);
        assert_eq!("auto".parse::<Kind>().unwrap(), Kind::Auto);
        assert_eq!("rustup".parse::<Kind>().unwrap(), Kind::Rustup);
        assert_eq!("debian".parse::<Kind>().unwrap(), Kind::Debian);
        let message = "Debian".parse::<Kind>().unwrap_err().to_string();
        assert!(message.contains("auto, rustup, debian"), "{message}");
    }

    #[test]
    fn a_failure_shows_what_the_program_wrote() {
        let error = Error::Failed {
            program: "cargo build".into(),
            reason: "ended with status 101".into(),
            output: "error: no".into(),
        };
        assert_eq!(
            error.to_string(),
            "cargo build ended with status 101:\nerror: no"
        );
    }
}
