//! `cargo xtask test`: builds everything and runs all tests.
//!
//! The guests are built while the host compiles. The binary embeds the evaluator, so the
//! host is built a second time where that component changed; cargo then rebuilds one
//! crate only.

use clap::Args;

use crate::guests;
use crate::process::{self, Project, timed};

/// Which tests to run.
#[derive(Args)]
pub struct Options {
    /// Run only tests whose names contain this text.
    filter: Option<String>,
}

fn run_all(project: &Project, filter: Option<&str>) -> anyhow::Result<()> {
    timed("tests of the host", || {
        let mut command = project.cargo(["test", "--workspace"]);
        if let Some(filter) = filter {
            command.arg(filter);
        }
        process::run(&mut command)
    })?;
    timed("tests of the plugins, native", || {
        let mut command = project.cargo(["test", "--workspace", "--locked"]);
        command
            .current_dir(project.root.join("plugins"))
            .env("CARGO_TARGET_DIR", project.target.join("plugins-native"));
        if let Some(filter) = filter {
            command.arg(filter);
        }
        process::run(&mut command)
    })
}

/// Builds everything and runs all tests.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    build(project)?;
    run_all(project, options.filter.as_deref())
}

/// Builds the guests, the tests and the binary that they start.
pub fn build(project: &Project) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let guests = scope.spawn(|| timed("building the guests", || guests::build(project)));
        let host = timed("building the host", || {
            process::run(&mut project.cargo(["test", "--workspace", "--no-run"]))?;
            process::build_binary(project)
        });
        let guests = guests
            .join()
            .map_err(|_| anyhow::anyhow!("building the guests panicked"))?;
        host.and(guests)
    })?;
    timed("building the host with its evaluator", || {
        process::build_binary(project)
    })
}
