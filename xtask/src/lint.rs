//! `cargo xtask lint`: formatting, clippy with warnings denied, docs.

use crate::process::{self, Project, timed};

/// Runs all lints.
pub fn run(project: &Project) -> anyhow::Result<()> {
    let plugins = project.root.join("plugins");
    let plugins_target = project.target.join("plugins-native");
    timed("formatting", || {
        process::run(&mut project.cargo(["fmt", "--all", "--check"]))?;
        process::run(
            project
                .cargo(["fmt", "--all", "--check"])
                .current_dir(&plugins),
        )
    })?;
    timed("clippy", || {
        let arguments = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        process::run(&mut project.cargo(arguments))?;
        process::run(
            project
                .cargo(arguments)
                .current_dir(&plugins)
                .env("CARGO_TARGET_DIR", &plugins_target),
        )
    })?;
    timed("docs", || {
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
