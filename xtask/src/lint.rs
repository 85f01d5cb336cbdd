//! `cargo xtask lint`: formatting, clippy with warnings denied, docs.

use crate::process::{self, Budget, Project, counted};

/// Workspaces of guests, which are linted as what they are on this machine.
const GUESTS: [&str; 2] = ["plugins", "tests/guests"];

/// Runs all lints.
pub fn run(project: &Project) -> anyhow::Result<()> {
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
    })
}
