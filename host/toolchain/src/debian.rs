//! A toolchain of Debian's packages, for machines where rustup cannot have the target.
//!
//! Debian has a recent compiler for browsers (`rustc-web`), its sources, a linker and a C
//! library for WASI, but no standard library for `wasm32-wasip2`. It is built once from
//! the sources, and put into a sysroot of its own in the user's cache folder:
//!
//! ```text
//! ~/.cache/heyday/wasm-toolchain-<rustc's version>/
//!     rustc                                 a script: /usr/bin/rustc with this sysroot
//!     lib/rustlib/<host>/lib                a link to the packages' own, for macros and
//!                                           build scripts
//!     lib/rustlib/<host>/bin/               the linkers
//!     lib/rustlib/wasm32-wasip2/lib/        the standard library, with crt1 and libc
//! ```
//!
//! It is made in a folder beside it and renamed into place when it is whole; a lock file
//! lets only one process make it. cargo is `/usr/bin/cargo` with `RUSTC` set to the script,
//! so rustup is not needed.

use std::path::{Path, PathBuf};

use crate::process::{self, Machine};
use crate::{Error, Observer, Progress, TARGET, Toolchain, rustup};

const PACKAGES: [&str; 5] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "lld-22",
    "wasi-libc",
];
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const WASI_LIBC: &str = "/usr/lib/wasm32-wasi";
/// What turns a core module into a component; it comes with every toolchain of rustup, and
/// is built from the registry where there is none.
const COMPONENT_LINKER: &str = "wasm-component-ld";
const COMPONENT_LINKER_VERSION: &str = "0.5.21";

/// Why Debian's packages cannot be used on this machine at all.
pub(crate) fn unavailable(machine: &Machine) -> Option<String> {
    for program in ["dpkg-query", "apt-get"] {
        if machine.find(program).is_none() {
            return Some(format!("this is no Debian (there is no {program})"));
        }
    }
    None
}

/// The toolchain, made if it is not there yet.
pub(crate) fn locate(machine: &Machine, observer: Observer<'_>) -> Result<Toolchain, Error> {
    if let Some(debian) = unavailable(machine) {
        return Err(Error::NoToolchain {
            rustup: "rustup was not asked".to_owned(),
            debian,
        });
    }
    let cache = machine.cache()?;
    std::fs::create_dir_all(&cache).map_err(Error::io(&cache))?;
    // Held until the end: whoever comes second finds the work done.
    let lock_path = cache.join("wasm-toolchain.lock");
    let lock = std::fs::File::create(&lock_path).map_err(Error::io(&lock_path))?;
    if lock.try_lock().is_err() {
        observer(Progress::Step(
            "waiting for another process that makes the toolchain",
        ));
        lock.lock().map_err(Error::io(&lock_path))?;
    }
    install_packages(machine, observer)?;
    let compiler = Compiler::ask()?;
    let folder = cache.join(format!("wasm-toolchain-{}", compiler.version));
    if !rustup::has_target(&folder) {
        make(machine, &folder, &cache, &compiler, observer)?;
    }
    Ok(Toolchain {
        cargo: PathBuf::from(CARGO),
        environment: vec![("RUSTC".into(), folder.join("rustc").into())],
        description: format!(
            "Debian's rustc {} with {}",
            compiler.version,
            folder.display()
        ),
    })
}

fn install_packages(machine: &Machine, observer: Observer<'_>) -> Result<(), Error> {
    let mut query = machine.command("dpkg-query");
    query
        .args(["--show", "--showformat=${db:Status-Status}\\n"])
        .args(PACKAGES);
    // It fails where one was never known.
    let installed = process::answer(query).is_ok_and(|statuses| {
        statuses.lines().count() == PACKAGES.len() && statuses.lines().all(|s| s == "installed")
    });
    if installed {
        return Ok(());
    }
    if !is_root() {
        return Err(Error::MissingPackages {
            command: format!("sudo apt-get install -y {}", PACKAGES.join(" ")),
        });
    }
    observer(Progress::Step(
        "installing Debian's packages for WebAssembly",
    ));
    for arguments in [
        &["update", "-qq"][..],
        &["install", "-yqq", "--no-install-recommends"],
    ] {
        let mut command = machine.command("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(arguments);
        if arguments[0] == "install" {
            command.args(PACKAGES);
        }
        process::run(command, None, observer)?;
    }
    Ok(())
}

#[cfg(unix)]
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of a process's folder is the user that it acts as.
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

/// What Debian's compiler says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Compiler {
    version: String,
    host: String,
}

impl Compiler {
    fn ask() -> Result<Self, Error> {
        let mut command = process::command(RUSTC);
        command.arg("-vV");
        let answer = process::answer(command)?;
        Self::parse(&answer).ok_or_else(|| Error::Failed {
            program: format!("{RUSTC} -vV"),
            reason: "did not tell its version and host".to_owned(),
            output: answer,
        })
    }

    fn parse(answer: &str) -> Option<Self> {
        let field = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            version: field("release: ")?.to_owned(),
            host: field("host: ")?.to_owned(),
        })
    }
}

fn make(
    machine: &Machine,
    folder: &Path,
    cache: &Path,
    compiler: &Compiler,
    observer: Observer<'_>,
) -> Result<(), Error> {
    let work = tempfile::Builder::new()
        .prefix("wasm-toolchain-")
        .tempdir_in(cache)
        .map_err(Error::io(cache))?;
    let sysroot = work.path().join("sysroot");
    let host = sysroot.join("lib/rustlib").join(&compiler.host);
    let target = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let contained = target.join("self-contained");
    for folder in [&host.join("bin"), &contained] {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }

    link(
        &Path::new("/usr/lib/rustlib")
            .join(&compiler.host)
            .join("lib"),
        &host.join("lib"),
    )?;
    let linker = newest_linker()?;
    for name in ["wasm-ld", "rust-lld"] {
        link(&linker, &host.join("bin").join(name))?;
    }
    component_linker(
        machine,
        &host.join("bin").join(COMPONENT_LINKER),
        &compiler.host,
        work.path(),
        observer,
    )?;

    observer(Progress::Step(
        "building the standard library for wasm32-wasip2 (about a minute, once)",
    ));
    let libraries = build_standard_library(work.path(), observer)?;
    for file in files(&libraries, "rlib")? {
        let name = file.file_name().unwrap_or_default();
        if !name.to_string_lossy().starts_with("libempty-") {
            copy(&file, &target.join(name))?;
        }
    }
    let libc = Path::new(WASI_LIBC);
    for file in files(libc, "o")?
        .into_iter()
        .chain([libc.join("libc.a"), libc.join("libm.a")])
    {
        copy(&file, &contained.join(file.file_name().unwrap_or_default()))?;
    }

    let script = sysroot.join("rustc");
    // The quotes hold: the folder's path is in single quotes, and a quote in it is closed,
    // escaped and opened again.
    let quoted = folder.display().to_string().replace('\'', r"'\''");
    let text = format!("#!/bin/sh\nexec {RUSTC} --sysroot '{quoted}' \"$@\"\n");
    std::fs::write(&script, text).map_err(Error::io(&script))?;
    make_executable(&script)?;

    // What an earlier, interrupted Heyday of another making left.
    let _ = std::fs::remove_dir_all(folder);
    std::fs::rename(&sysroot, folder).map_err(Error::io(folder))
}

/// Builds the standard library in a package of no content, and answers where it lies.
fn build_standard_library(work: &Path, observer: Observer<'_>) -> Result<PathBuf, Error> {
    let package = work.join("empty");
    let source = package.join("src");
    std::fs::create_dir_all(&source).map_err(Error::io(&source))?;
    let library = source.join("lib.rs");
    std::fs::write(&library, "").map_err(Error::io(&library))?;
    let manifest = package.join("Cargo.toml");
    std::fs::write(
        &manifest,
        "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
         [profile.release]\npanic = \"abort\"\nopt-level = \"s\"\ncodegen-units = 1\n\
         [workspace]\n",
    )
    .map_err(Error::io(&manifest))?;
    let mut command = process::command(CARGO);
    command
        .current_dir(&package)
        .env("RUSTC", RUSTC)
        // Building std is a feature of cargo that is not stable; this allows it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "RUSTFLAGS",
            format!("-Cembed-bitcode=yes -Lnative={WASI_LIBC}"),
        )
        .args([
            "build",
            "--release",
            "-Zbuild-std=std,panic_abort",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(work.join("target"));
    process::run(command, None, observer)?;
    Ok(work.join("target").join(TARGET).join("release/deps"))
}

/// `/usr/bin/wasm-ld-22` or a later one.
fn newest_linker() -> Result<PathBuf, Error> {
    let folder = Path::new("/usr/bin");
    let entries = folder.read_dir().map_err(Error::io(folder))?;
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let version: u32 = name.to_str()?.strip_prefix("wasm-ld-")?.parse().ok()?;
            Some((version, entry.path()))
        })
        .max()
        .map(|(_, path)| path)
        .ok_or_else(|| Error::Io {
            path: folder.join("wasm-ld-22"),
            source: std::io::ErrorKind::NotFound.into(),
        })
}

/// Puts the component linker in place: a toolchain's own, or one built from the registry.
fn component_linker(
    machine: &Machine,
    place: &Path,
    host: &str,
    work: &Path,
    observer: Observer<'_>,
) -> Result<(), Error> {
    let shipped = rustup::sysroot(machine)
        .ok()
        .into_iter()
        .chain(rustup_toolchains());
    let shipped = shipped
        .map(|sysroot| {
            sysroot
                .join("lib/rustlib")
                .join(host)
                .join("bin")
                .join(COMPONENT_LINKER)
        })
        .chain(machine.find(COMPONENT_LINKER))
        .find(|program| program.is_file());
    if let Some(program) = shipped {
        return copy(&program, place);
    }
    observer(Progress::Step("building wasm-component-ld"));
    let root = work.join("linker");
    let mut command = process::command(CARGO);
    command
        .env("RUSTC", RUSTC)
        .args([
            "install",
            COMPONENT_LINKER,
            "--version",
            COMPONENT_LINKER_VERSION,
            "--locked",
        ])
        .arg("--target-dir")
        .arg(work.join("linker-target"))
        .arg("--root")
        .arg(&root);
    process::run(command, None, observer)?;
    copy(&root.join("bin").join(COMPONENT_LINKER), place)
}

/// The toolchains that rustup has, whether or not it is in PATH.
fn rustup_toolchains() -> Vec<PathBuf> {
    let home = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")));
    let Some(entries) = home.and_then(|home| home.join("toolchains").read_dir().ok()) else {
        return Vec::new();
    };
    let mut toolchains: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    toolchains.sort();
    toolchains
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Error> {
    let entries = folder.read_dir().map_err(Error::io(folder))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect())
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::copy(from, to).map(|_| ()).map_err(Error::io(from))
}

#[cfg(unix)]
fn link(target: &Path, link: &Path) -> Result<(), Error> {
    std::os::unix::fs::symlink(target, link).map_err(Error::io(link))
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(Error::io(path))
}

// There is no Debian without these; the code only has to compile elsewhere.
#[cfg(not(unix))]
fn link(target: &Path, link: &Path) -> Result<(), Error> {
    copy(target, link)
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<(), Error> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_version_and_host_are_read() {
        let answer = "rustc 1.96.0 (abc 2026-05-25)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.0";
        assert_eq!(
            Compiler::parse(answer),
            Some(Compiler {
                version: "1.96.0".into(),
                host: "x86_64-unknown-linux-gnu".into()
            })
        );
        assert_eq!(Compiler::parse("rustc 1.96.0"), None);
    }
}
