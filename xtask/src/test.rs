//! `cargo xtask test`: builds everything and runs all tests.
//!
//! The guests are built while the host's dependencies compile. The binary embeds the
//! evaluator, so its build script waits for that one component; then it compiles once.
//! What the tests need of Temporal is fetched and built beside all of it. Where the real
//! server cannot be had, its tests say that they were not run, and so does the end; in CI
//! that is a failure.

use clap::Args;

use crate::guests;
use crate::process::{self, Budget, Project, counted, timed};
use crate::{interop, real_temporal, temporal};

/// Which tests to run.
#[derive(Args)]
pub struct Options {
    /// Run only tests whose names contain this text.
    filter: Option<String>,
}

fn run_all(project: &Project, filter: Option<&str>) -> anyhow::Result<()> {
    let plugins = || {
        let mut command = project.cargo(["test", "--workspace", "--locked", "--no-fail-fast"]);
        command
            .current_dir(project.root.join("plugins"))
            .env("CARGO_TARGET_DIR", project.native());
        command
    };
    counted(Budget::Tests, "tests of the host", || {
        let mut command = project.cargo(["test", "--workspace", "--no-fail-fast"]);
        if let Some(filter) = filter {
            command.arg(filter);
        }
        process::run(&mut command)
    })?;
    counted(Budget::Builds, "building the plugins, native", || {
        process::run(plugins().arg("--no-run"))
    })?;
    counted(Budget::Tests, "tests of the plugins, native", || {
        let mut command = plugins();
        if let Some(filter) = filter {
            command.arg(filter);
        }
        process::run(&mut command)
    })
}

/// Builds everything and runs all tests.
pub fn run(project: &Project, options: &Options) -> anyhow::Result<()> {
    let missing = std::thread::scope(|scope| {
        let servers = scope.spawn(|| {
            timed("Temporal's dev server and SDKs", || {
                temporal::install(project)?;
                interop::prepare(project)
            })?;
            // Not to be had everywhere, so that it is no failure everywhere.
            anyhow::Ok(timed("Temporal's real server", real_temporal::install).err())
        });
        let built = build(project);
        let servers = counted(Budget::Builds, "waiting for Temporal's parts", || {
            servers
                .join()
                .map_err(|_| anyhow::anyhow!("fetching Temporal's parts panicked"))?
        });
        built.and(servers)
    })?;
    let missing = match missing {
        Some(why) if process::in_ci() => return Err(why),
        missing => missing,
    };
    let ran = run_all(project, options.filter.as_deref());
    if let Some(why) = missing {
        println!("--- not run: the tests on Temporal's real server: {why:#}");
    }
    ran
}

/// Builds the guests, the tests and the binary that they start.
pub fn build(project: &Project) -> anyhow::Result<()> {
    counted(Budget::Builds, "building everything", || {
        let pending = guests::Pending::begin(project)?;
        std::thread::scope(|scope| {
            let guests = scope.spawn(|| {
                timed("building the guests", || {
                    guests::build_pending(project, pending)
                })
            });
            let host = timed("building the host", || {
                process::run(&mut project.cargo(["build", "--workspace", "--all-targets"]))
            });
            let guests = guests
                .join()
                .map_err(|_| anyhow::anyhow!("building the guests panicked"))?;
            guests.and(host)
        })
    })
}
