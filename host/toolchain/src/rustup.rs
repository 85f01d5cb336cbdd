//! The cargo in PATH: usually rustup's, which can add the target; a distribution's own,
//! where its sysroot has the target.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{self, Machine};
use crate::{Observer, Progress, TARGET, Toolchain};

/// How long `rustup target add` may take. Where there is no network it may wait for ever.
const ADD_LIMIT: Duration = Duration::from_secs(180);

/// The toolchain in PATH, or why it cannot be used.
pub(crate) fn locate(machine: &Machine, observer: Observer<'_>) -> Result<Toolchain, String> {
    let Some(cargo) = machine.find("cargo") else {
        return Err("there is no cargo in PATH".to_owned());
    };
    let sysroot = sysroot(machine)?;
    if !has_target(&sysroot) {
        if machine.find("rustup").is_none() {
            return Err(format!(
                "{} has no {TARGET}, and there is no rustup",
                sysroot.display()
            ));
        }
        observer(Progress::Step(
            "adding the target wasm32-wasip2 with rustup",
        ));
        let mut command = machine.command("rustup");
        command.args(["target", "add", TARGET]);
        process::run(command, Some(ADD_LIMIT), observer).map_err(|error| error.to_string())?;
        if !has_target(&sysroot) {
            return Err(format!("rustup added {TARGET} to another toolchain"));
        }
    }
    Ok(Toolchain {
        cargo,
        environment: Vec::new(),
        description: format!("cargo in PATH, with {}", sysroot.display()),
    })
}

/// The sysroot of the rustc in PATH.
pub(crate) fn sysroot(machine: &Machine) -> Result<PathBuf, String> {
    let mut command = machine.command("rustc");
    command.args(["--print", "sysroot"]);
    process::answer(command)
        .map(PathBuf::from)
        .map_err(|error| error.to_string())
}

/// Whether a sysroot has the target's standard library.
pub(crate) fn has_target(sysroot: &Path) -> bool {
    let folder = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let Ok(entries) = folder.read_dir() else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("libstd-")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysroot_without_the_standard_library_has_no_target() {
        let sysroot = tempfile::tempdir().unwrap();
        assert!(!has_target(sysroot.path()));
        let folder = sysroot.path().join("lib/rustlib/wasm32-wasip2/lib");
        std::fs::create_dir_all(&folder).unwrap();
        assert!(!has_target(sysroot.path()));
        std::fs::write(folder.join("libstd-0123.rlib"), "").unwrap();
        assert!(has_target(sysroot.path()));
    }
}
