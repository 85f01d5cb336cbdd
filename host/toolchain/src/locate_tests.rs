//! Which toolchain is taken on which machine. PATH is a folder of scripts that stand in for
//! cargo, rustc, rustup and Debian's programs.

use std::path::PathBuf;

use crate::process::{self, Machine};
use crate::{Error, Kind, Progress, TARGET, Toolchain};

const ADDING: &str = "adding the target wasm32-wasip2 with rustup";
const UNREACHABLE: &str = "echo 'error: no route to host' >&2; exit 7";

struct Bare {
    folder: tempfile::TempDir,
    machine: Machine,
}

impl Bare {
    /// With cargo, and a rustc whose sysroot lacks the target.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine {
            path: Some(folder.path().join("bin").into()),
            cache: Some(folder.path().join("cache")),
        };
        let bare = Self { folder, machine };
        std::fs::create_dir(bare.bin()).unwrap();
        std::fs::create_dir_all(bare.libraries()).unwrap();
        bare.program("cargo", "exit 1");
        let sysroot = bare.sysroot();
        let answer = format!(
            "test \"$*\" = '--print sysroot' && echo '{}'",
            sysroot.display()
        );
        bare.program("rustc", &answer);
        bare
    }

    fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    fn sysroot(&self) -> PathBuf {
        self.folder.path().join("sysroot")
    }

    /// Where the target's standard library would be.
    fn libraries(&self) -> PathBuf {
        self.sysroot().join("lib/rustlib").join(TARGET).join("lib")
    }

    /// Puts a script into PATH. A shell writes it: while a child that another test starts
    /// holds a file that this process had open for writing, the file cannot be run.
    fn program(&self, name: &str, script: &str) {
        let mut write = process::command("/bin/sh");
        write
            .args([
                "-c",
                "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$2\" && chmod +x \"$2\"",
            ])
            .args(["sh", script])
            .arg(self.bin().join(name));
        process::run(write, None, &mut |_| {}).unwrap();
    }

    /// What is found, and what was told on the way.
    fn locate(&self, kind: Kind) -> (Result<Toolchain, Error>, Vec<String>) {
        let mut told = Vec::new();
        let located = Toolchain::locate_on(&self.machine, kind, &mut |progress| {
            let (Progress::Step(text) | Progress::Line(text)) = progress;
            told.push(text.to_owned());
        });
        (located, told)
    }
}

#[test]
fn rustup_adds_the_target_once() {
    let bare = Bare::new();
    let library = bare.libraries().join("libstd-0123.rlib");
    let adds = format!(
        "test \"$*\" = 'target add {TARGET}' || exit 9\necho 'info: downloading' >&2\n: >'{}'",
        library.display()
    );
    bare.program("rustup", &adds);
    let (located, told) = bare.locate(Kind::Auto);
    let toolchain = located.unwrap();
    assert_eq!(told, [ADDING, "info: downloading"]);
    assert_eq!(toolchain.cargo, bare.bin().join("cargo"));
    assert!(toolchain.environment.is_empty(), "{toolchain:?}");
    let sysroot = bare.sysroot().display().to_string();
    assert!(toolchain.description().ends_with(&sysroot), "{toolchain:?}");

    bare.program("rustup", UNREACHABLE);
    for kind in [Kind::Auto, Kind::Rustup] {
        let (located, told) = bare.locate(kind);
        assert_eq!(located.unwrap(), toolchain);
        assert!(told.is_empty(), "{told:?}");
    }
}

#[test]
fn why_rustup_has_no_target_is_said() {
    let bare = Bare::new();
    let refused = |reason: &str| {
        let error = bare.locate(Kind::Rustup).0.unwrap_err();
        assert!(matches!(error, Error::NoRustup { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(reason), "no {reason:?} in {text}");
        assert!(text.contains("HEYDAY_WASM_TOOLCHAIN=debian"), "{text}");
    };
    refused("there is no rustup");
    bare.program("rustup", UNREACHABLE);
    refused("rustup target add wasm32-wasip2 ended with status 7:\nerror: no route to host");
    // What a folder's own `rust-toolchain.toml` may lead to.
    bare.program("rustup", ":");
    refused("rustup added wasm32-wasip2 to another toolchain");
    // rustup's own rustc, before any toolchain was installed.
    bare.program("rustc", "echo 'error: no default toolchain' >&2; exit 1");
    refused("rustc --print sysroot ended with status 1:\nerror: no default toolchain");
    std::fs::remove_file(bare.bin().join("cargo")).unwrap();
    refused("there is no cargo in PATH");
}

#[test]
fn where_rustup_fails_debians_packages_are_next() {
    let bare = Bare::new();
    bare.program("rustup", UNREACHABLE);
    let error = bare.locate(Kind::Auto).0.unwrap_err();
    let Error::NoToolchain { rustup, debian } = &error else {
        panic!("{error:?}");
    };
    assert!(rustup.contains("no route to host"), "{error}");
    assert!(debian.contains("there is no dpkg-query"), "{error}");

    // A Debian without the packages, which cannot be fetched either.
    bare.program("dpkg-query", "exit 1");
    bare.program("apt-get", "echo 'no mirror' >&2; exit 100");
    let (located, told) = bare.locate(Kind::Auto);
    let text = located.unwrap_err().to_string();
    assert!(text.contains("PATH: rustup target add"), "{text}");
    assert!(text.contains("no route to host\nby Debian's"), "{text}");
    // Root tries it.
    let install = "run `sudo apt-get install -y rustc-web";
    let failed = "apt-get update -qq ended with status 100:\nno mirror";
    assert!(text.contains(install) || text.contains(failed), "{text}");
    assert_eq!(told[..2], [ADDING, "error: no route to host"]);

    // Who asks for rustup's gets no other one.
    let (located, told) = bare.locate(Kind::Rustup);
    assert!(
        matches!(located, Err(Error::NoRustup { .. })),
        "{located:?}"
    );
    assert_eq!(told, [ADDING, "error: no route to host"]);
}
