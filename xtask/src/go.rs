//! Go, with which servers of the tests and programs on Go's SDK are built: as it is in `PATH`, or
//! as Debian has it.

use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, bail};
use heyday_toolchain::cache_folder;

use crate::{process, temporal};

/// From this one on, `go` fetches by itself the version that a module asks for.
const LEAST: (u32, u32) = (1, 21);

/// Makes Go usable, if it can be had here; the error says what would help.
pub fn install() -> anyhow::Result<()> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one = INSTALLING.lock();
    if process::find("go").is_none() {
        process::apt_install(&["golang-go"])?;
    }
    let asked = Command::new("go")
        .args(["env", "GOVERSION"])
        .stdin(Stdio::null())
        .output()
        .context("go cannot be run")?;
    let version = String::from_utf8_lossy(&asked.stdout);
    let version = version.trim();
    if parse(version).is_none_or(|found| found < LEAST) {
        let (major, minor) = LEAST;
        bail!(
            "Go is {version:?}, too old to fetch newer ones: put Go {major}.{minor} or newer into \
             PATH"
        );
    }
    Ok(())
}

/// The first two numbers of `go1.26.3`.
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.strip_prefix("go")?.split('.');
    let mut number = || {
        let text = numbers.next()?;
        let end = text.find(|c: char| !c.is_ascii_digit());
        text[..end.unwrap_or(text.len())].parse().ok()
    };
    Some((number()?, number()?))
}

/// Builds programs of Go modules (`PATH@VERSION`) into a folder of the user's cache, where
/// it is not there; the error says what cannot be had here.
pub fn build(folder: &str, programs: &[String]) -> anyhow::Result<()> {
    let folder = cache_folder()?.join(folder);
    if folder.is_dir() {
        return Ok(());
    }
    install().with_context(|| format!("{} cannot be built", programs.join(", ")))?;
    temporal::install_once(&folder, |folder| {
        process::run(
            process::command("go")
                .args(["install", "-ldflags=-s -w"])
                .args(programs)
                .env("GOFLAGS", "-buildvcs=false")
                .env("GOBIN", folder),
        )
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (text, expected) in [
            ("go1.26.3", Some((1, 26))),
            ("go1.19", Some((1, 19))),
            ("go1.27rc1", Some((1, 27))),
            ("devel", None),
            ("", None),
        ] {
            assert_eq!(super::parse(text), expected, "{text}");
        }
    }
}
