//! `cargo xtask lint`: formatting, clippy with warnings denied, docs, the licences of what is
//! built, and what the dependencies are, by `cargo deny`.

use std::process::{Command, Stdio};

use clap::Args;

use crate::licences;
use crate::process::{self, Budget, Project, counted};

/// What is checked besides.
#[derive(Args)]
pub struct Options {
    /// Run clippy and the tests on the benchmarks' workspace too: it compiles all that they
    /// compare with, for which CI has no time.
    #[arg(long)]
    peers: bool,
}

/// Workspaces of guests, which are linted as what they are on this machine.
const GUESTS: [&str; 2] = ["plugins", "tests/guests"];

/// Runs all lints.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    counted(Budget::Lints, "formatting", || {
        let check = ["fmt", "--all", "--check"];
        process::run(&mut project.cargo(check))?;
        // Clippy on the benchmarks' own workspace would compile all that they compare with.
        for workspace in GUESTS.into_iter().chain(["peers"]) {
            process::run(
                project
                    .cargo(check)
                    .current_dir(project.root.join(workspace)),
            )?;
        }
        Ok(())
    })?;
    counted(Budget::Lints, "clippy", || {
        let arguments = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        process::run(&mut project.cargo(arguments))?;
        for workspace in GUESTS {
            process::run(
                project
                    .cargo(arguments)
                    .current_dir(project.root.join(workspace))
                    .env("CARGO_TARGET_DIR", project.native()),
            )?;
        }
        Ok(())
    })?;
    counted(Budget::Lints, "docs", || {
        process::run(
            project
                // Private items too: the module docs that lead a reader link to them.
                .cargo([
                    "doc",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                ])
                .env(
                    "RUSTDOCFLAGS",
                    "-D warnings -A rustdoc::private_intra_doc_links",
                ),
        )
    })?;
    counted(Budget::Lints, "licences", || licences::check(project))?;
    if options.peers {
        peers(project)?;
    }
    dependencies(project)
}

/// The benchmarks' workspace, built where `cargo xtask bench` builds it.
fn peers(project: &Project) -> anyhow::Result<()> {
    let run = |arguments: &[&str]| {
        let mut command = project.cargo(arguments);
        command
            .current_dir(project.root.join("peers"))
            .env("CARGO_TARGET_DIR", &project.target);
        process::run(&mut command)
    };
    counted(Budget::Lints, "clippy on the benchmarks", || {
        run(&[
            "clippy",
            "--locked",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])
    })?;
    counted(Budget::Tests, "tests of the benchmarks", || {
        run(&["test", "--locked", "-p", "heyday-bench"])
    })
}

/// Licences, sources and advisories of all dependencies, those with GPUs too, by deny.toml.
fn dependencies(project: &Project) -> anyhow::Result<()> {
    let is_there = quiet(&mut project.cargo(["deny", "--version"]));
    if !is_there {
        println!("--- not run: cargo deny, which is not installed (`cargo install cargo-deny`)");
        return Ok(());
    }
    counted(Budget::Lints, "dependencies", || {
        process::run(&mut project.cargo(["deny", "--all-features", "check"]))
    })
}

/// Whether a command ends well; what it says is not shown.
fn quiet(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Manifests with a copy of the root's lints, for they are in no workspace of its.
    const COPIES: [&str; 5] = [
        "plugins/Cargo.toml",
        "peers/Cargo.toml",
        "tests/guests/Cargo.toml",
        "sdk-guest/Cargo.toml",
        "sdk-guest/macros/Cargo.toml",
    ];

    /// What a copy lacks, and why.
    const LACKS: [(&str, &str, &str); 1] = [(
        "sdk-guest/Cargo.toml",
        "clippy: unwrap_used = \"warn\"",
        "its exception for tests is clippy.toml, which is not in the folder of a plugin",
    )];

    /// The lines of a manifest's lint tables, each with the table's tool.
    fn lints(manifest: &str) -> BTreeSet<String> {
        let mut tool = None;
        let mut lints = BTreeSet::new();
        for line in manifest.lines().map(str::trim) {
            if let Some(table) = line.strip_prefix('[') {
                let table = table.strip_prefix("workspace.").unwrap_or(table);
                tool = table
                    .strip_prefix("lints.")
                    .and_then(|table| table.strip_suffix(']'));
            } else if let Some(tool) = tool
                && !line.is_empty()
                && !line.starts_with('#')
            {
                lints.insert(format!("{tool}: {line}"));
            }
        }
        lints
    }

    #[test]
    fn lints_are_read_from_their_tables_only() {
        let found = lints(
            "[workspace]\nresolver = \"3\"\n\n[workspace.lints.rust]\n# Why.\na = \"deny\"\n\n\
             [lints.clippy]\nb = \"warn\"\n[lints]\nworkspace = true\n",
        );
        let found: Vec<String> = found.into_iter().collect();
        assert_eq!(found, ["clippy: b = \"warn\"", "rust: a = \"deny\""]);
    }

    #[test]
    fn every_copy_of_the_lints_is_that_of_the_root() {
        let root = super::Project::locate().expect("it is found").root;
        let of = |manifest: &str| {
            lints(&std::fs::read_to_string(root.join(manifest)).expect("a manifest"))
        };
        let all = of("Cargo.toml");
        assert!(all.len() > 5, "{all:?}");
        for manifest in COPIES {
            let excepted = LACKS.iter().filter(|(of, ..)| *of == manifest);
            let expected: BTreeSet<String> = excepted.map(|(_, lint, _)| (*lint).into()).collect();
            let copy = of(manifest);
            let lacks: BTreeSet<String> = all.difference(&copy).cloned().collect();
            assert_eq!(lacks, expected, "{manifest} lacks");
            let besides: Vec<_> = copy.difference(&all).collect();
            assert!(besides.is_empty(), "{manifest} has besides: {besides:?}");
        }
    }

    /// CI does not build the benchmarks, which take modules of the tests.
    #[test]
    fn what_the_benchmarks_take_of_the_tests_is_whole() {
        let root = super::Project::locate().expect("it is found").root;
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
        let taking = read("peers/bench/src/support.rs");
        let taken = taking.lines().filter_map(|line| {
            let path = line.strip_prefix("#[path = \"../../../tests/src/support/")?;
            path.strip_suffix("\"]")
        });
        let mut used = 0;
        for file in taken {
            for line in read(&format!("tests/src/support/{file}")).lines() {
                let Some(name) = line.strip_prefix("use super::") else {
                    continue;
                };
                let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
                let name = &name[..end.unwrap_or(name.len())];
                assert!(
                    taking.contains(&format!("pub mod {name}")),
                    "peers/bench/src/support.rs lacks `{name}`, which {file} uses"
                );
                used += 1;
            }
        }
        assert!(used > 5, "{used} found");
    }
}
